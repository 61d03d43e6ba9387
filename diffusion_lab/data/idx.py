"""The idx files of (Fashion-)MNIST: a big-endian header, then bytes.

Header: two zero bytes, the type (8 = uint8), the number of dimensions, then each size as int32.
Source: the format description on the MNIST page (LeCun, Cortes, Burges).
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from diffusion_lab.errors import DataError

__all__ = ["FASHION", "present", "read_fashion", "read_idx"]

FASHION = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_PREFIX = {"train": "train", "test": "t10k"}


def _find(root: Path, name: str) -> Path | None:
    """``name`` or ``name.gz`` under ``root/FashionMNIST/raw`` or ``root`` itself."""
    places = (root / "FashionMNIST" / "raw", root)
    files = (place / (name + ending) for place in places for ending in ("", ".gz"))
    return next((file for file in files if file.is_file()), None)


def present(root: Path) -> bool:
    """Are all four files there (plain or gzipped)?"""
    return all(_find(root, name) for name in FASHION)


def read_idx(file: Path) -> np.ndarray:
    """The uint8 array in an idx file, gzipped or not. DataError if it is cut short or not idx."""
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(f"cannot read {file} ({error}). Delete it and fetch it again.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{file} is not an idx file of uint8. Delete it and fetch it again.")
    start = 4 + 4 * data[3]
    sizes = (data[i : i + 4] for i in range(4, start, 4))
    shape = tuple(int.from_bytes(size, "big") for size in sizes)
    if len(data) != start + math.prod(shape):
        raise DataError(
            f"{file} is cut short or too long: {len(data)} bytes for the shape {shape}. "
            "Delete it and fetch it again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def read_fashion(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 28, 28) and labels uint8 (N,) of one whole split, in the file's order."""
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        name = f"{_PREFIX[split]}-{kind}-ubyte"
        file = _find(root, name)
        if file is None:
            raise DataError(
                f"{name} (or {name}.gz) is not in {root} or {root / 'FashionMNIST' / 'raw'}."
            )
        arrays.append(read_idx(file))
    pixels, labels = arrays
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise DataError(f"pixels {pixels.shape} and labels {labels.shape} in {root} do not match.")
    return pixels, labels
