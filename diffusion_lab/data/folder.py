"""A folder of one's own pictures as a data set: one size, grey or colour, subfolders as classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_lab.data import Dataset
from diffusion_lab.device import first_process
from diffusion_lab.errors import DataError, whole
from diffusion_lab.files import sha256

__all__ = ["SUFFIXES", "from_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
LARGEST = 64  # pictures up to this many pixels a side keep their size


def from_folder(
    path: str | os.PathLike[str],
    size: int | Sequence[int] | None = None,
    grey: bool | None = None,
    *,
    multiple: int = 1,
    otherwise: int | Sequence[int] | None = None,
) -> Dataset:
    """The pictures in a folder, x float32 (N, 1 or 3, H, W) in [-1, 1], in order of their names.

    Args:
        path: every picture in it and below counts (png, jpg, ...). If all lie in subfolders, those
            are the classes; else the data have no labels.
        size: H = W, or (H, W): each picture is scaled and cut to it. By default pictures of one
            size up to 64 x 64 keep theirs, padded at the edges to a multiple of ``multiple``, and
            any others become ``otherwise``.
        grey: True or False; by default grey if every picture is.

    What was done is said in one line on stderr, and a file that cannot be read is skipped with a
    line. DataError where there is no picture; ValueError where the size is left open.
    """
    root, multiple = Path(path).expanduser(), whole("multiple", multiple)
    if not root.is_dir():
        raise DataError(f"{root} is no folder of pictures")
    files = sorted(
        (file for file in root.rglob("*") if _is_picture(file.relative_to(root))),
        key=lambda file: file.relative_to(root).as_posix(),
    )
    seen = {}  # (size, is it grey) of each that can be read; photographs of a day fill a memory
    for file in files:
        picture = _open(file)
        if picture is not None:
            seen[file] = picture.shape[:2], bool((picture == picture[..., :1]).all())
    if not seen:
        raise DataError(
            f"there is no picture in {root} that can be read (a name ends in {', '.join(SUFFIXES)})"
            + (f": {len(files)} files are damaged, {files[0].name} the first" if files else "")
        )
    grey = all(is_grey for _, is_grey in seen.values()) if grey is None else grey
    target, how = _target({shape for shape, _ in seen.values()}, size, multiple, otherwise)
    pixels = np.stack([_fit(_open(file), target, how, grey) for file in seen])

    folders = [file.relative_to(root).parts[0] for file in seen]
    labelled = all(len(file.relative_to(root).parts) > 1 for file in seen)
    classes = tuple(sorted(set(folders))) if labelled else ()
    labels = torch.tensor([classes.index(f) for f in folders]) if labelled else None
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)
    told = labels.numpy().tobytes() if labelled else b""
    digest = sha256(f"{pixels.shape}{classes}".encode() + pixels.tobytes() + told)
    _say(
        f"{len(pixels):,} pictures from {root}: {'grey' if grey else 'colour'}, {how} "
        + (f"{len(classes)} classes ({', '.join(classes[:12])})" if labelled else "no classes")
    )
    return Dataset(
        x, labels, classes, root.resolve().name, "train", digest, 256, x.std(correction=0).item()
    )


def _is_picture(place: Path) -> bool:
    hidden = any(part.startswith((".", "__")) for part in place.parts)
    return place.suffix.lower() in SUFFIXES and not hidden


def _open(file: Path) -> np.ndarray | None:
    """A picture as uint8 (H, W, 3); None, and a line, where it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bits
                deep = np.asarray(picture, dtype=np.float64) / 257
                return np.clip(deep.round(), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
            if "A" in picture.getbands() or "transparency" in picture.info:  # seen on white
                clear = picture.convert("RGBA")
                picture = Image.new("RGBA", clear.size, "white")
                picture.alpha_composite(clear)
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _say(f"{file} is skipped: it cannot be read ({error})")
        return None


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size, size) if not isinstance(size, Sequence) else tuple(size)
    if len(sides) != 2:
        raise ValueError(f"size is one number, or (height, width); got {size!r}")
    return whole("a height", sides[0]), whole("a width", sides[1])


def _target(
    sizes: set[tuple[int, int]], size: Any, multiple: int, otherwise: Any
) -> tuple[tuple[int, int], str]:
    """(H, W) of the data and how a picture becomes it, as the line says it."""
    (h, w), *more = sorted(sizes)
    if size is None and not more and max(h, w) <= LARGEST:
        padded = (-(-h // multiple) * multiple, -(-w // multiple) * multiple)
        if padded == (h, w):
            return padded, f"{h} x {w};"
        return padded, f"{h} x {w}, padded to {padded[0]} x {padded[1]};"
    if size is None and otherwise is None:
        largest = sorted(sizes)[-1]
        raise ValueError(
            f"the pictures go from {h} x {w} to {largest[0]} x {largest[1]}: say which size the "
            "data shall have, size=28 or size=(height, width)"
        )
    target = _pair(otherwise if size is None else size)
    if any(side % multiple for side in target):
        raise ValueError(
            f"this network takes heights and widths that are multiples of {multiple}; got {target}"
        )
    return target, f"scaled and cut to {target[0]} x {target[1]};"


def _fit(picture: np.ndarray, target: tuple[int, int], how: str, grey: bool) -> np.ndarray:
    """uint8 (H, W, 3) to (*target, 1 or 3)."""
    from PIL import Image, ImageOps

    if how.startswith("scaled") and picture.shape[:2] != target:
        image = ImageOps.fit(Image.fromarray(picture), target[::-1], Image.Resampling.LANCZOS)
        picture = np.asarray(image)
    down, right = target[0] - picture.shape[0], target[1] - picture.shape[1]
    around = ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0))
    picture = np.pad(picture, around, mode="edge")
    if not grey:
        return picture
    if (picture == picture[..., :1]).all():  # grey already: no rounding
        return picture[..., :1]
    return np.asarray(Image.fromarray(picture).convert("L"))[..., None]


def _say(line: str) -> None:
    if first_process():
        print(line, file=sys.stderr)
