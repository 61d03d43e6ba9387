"""Makes the embedded data again, and prints its statistics.

python -m diffusion_lab.data.build fashion --root DIR     data/fashion.npz from the four idx files
python -m diffusion_lab.data.build emoji --packages DIR   data/emoji.* from two npm packages
python -m diffusion_lab.data.build stats [--root DIR]     the numbers of the data cards
python -m diffusion_lab.data.build check                  compares every file with data/index.json
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diffusion_lab.data import FULL_FASHION, SPLITS, idx, load, store
from diffusion_lab.errors import DataError
from diffusion_lab.files import sha256, write_atomically

__all__ = ["build_fashion", "main", "npz_bytes"]

TRAIN, TEST = 10_000, 2_000


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """A compressed npz that is the same, byte for byte, whenever it is made (fixed dates).

    Another build of zlib may compress otherwise; the arrays inside are the same all the same.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue(), compresslevel=9)
    return buffer.getvalue()


def build_fashion(root: Path) -> dict[str, np.ndarray]:
    """The first 10,000 training and the first 2,000 test pictures, from the idx files in root."""
    arrays = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        pixels, labels = idx.read_fashion(root, split)
        if sha256(pixels.data.cast("B")) != FULL_FASHION[split]:
            raise DataError(f"the {split} pictures in {root} are not those of Fashion-MNIST")
        arrays[f"{split}_images"] = pixels[:count]
        arrays[f"{split}_labels"] = labels[:count]
    return arrays


def _fashion(root: Path) -> None:
    arrays = build_fashion(root)
    file = store.folder() / "fashion.npz"
    write_atomically(file, npz_bytes(arrays))
    entry = store.register(
        file,
        licence="MIT, Copyright (c) 2017 Zalando SE (licenses/fashion-mnist.txt)",
        source="Fashion-MNIST, Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747, "
        "https://github.com/zalandoresearch/fashion-mnist",
        recipe="python -m diffusion_lab.data.build fashion --root DIR",
        arrays={name: sha256(array.tobytes()) for name, array in arrays.items()},
    )
    print(f"wrote {file} ({entry['bytes']} bytes, sha256 {entry['sha256']})")


def _emoji(packages: Path) -> None:
    from diffusion_lab.data.emoji_recipe import build_emoji

    arrays, words = build_emoji(packages)
    made = {"emoji.npz": npz_bytes(arrays), "emoji.json": words.encode()}
    for name, content in made.items():
        file = store.folder() / name
        write_atomically(file, content)
        entry = store.register(
            file,
            licence="Apache-2.0, Google Inc., for the pictures; MIT, Copyright (c) 2013 Cal "
            "Henderson and (c) 2014 Mu-An Chiou, for the words (licenses/emoji.txt)",
            source="Noto Emoji v2.048 in the npm package emoji-datasource-google 16.0.0, keywords "
            "of the npm package emojilib 4.0.3",
            recipe="python -m diffusion_lab.data.build emoji --packages DIR",
            **(
                {"arrays": {key: sha256(array.tobytes()) for key, array in arrays.items()}}
                if name == "emoji.npz"
                else {}
            ),
        )
        print(f"wrote {file} ({entry['bytes']} bytes, sha256 {entry['sha256']})")


def _stats(root: Path | None) -> None:
    """The embedded sets, or with a root the whole of Fashion-MNIST there."""
    names = SPLITS if root is None else ("fashion",)
    for name, split in [(one, split) for one in names for split in SPLITS[one]]:
        data = load(name, split, full=root is not None, root=root)
        mean, std = data.x.mean(dtype=torch.float64).item(), data.std
        print(f"{name} {split}: {len(data)} x {tuple(data.x.shape[1:])}, {data.levels} levels")
        print(f"  pixels in [0, 1]: mean {(mean + 1) / 2:.4f} std {std / 2:.4f}")
        print(f"  pixels in [-1, 1]: mean {mean:.4f} std {std:.4f}")
        if data.labels is not None:
            counts = data.labels.bincount(minlength=len(data.classes)).tolist()
            print(f"  pictures a class: {' '.join(map(str, counts))}")
        print(f"  sha256 of the pixels: {data.hash}")


def _check() -> None:
    for name, entry in store.index().items():
        store.path(name)
        print(f"ok {name} ({entry['bytes']} bytes)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_lab.data.build", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=("fashion", "emoji", "stats", "check"))
    parser.add_argument("--root", type=Path, help="folder of the four idx files (.gz or not)")
    parser.add_argument("--packages", type=Path, help="folder of what npm pack wrote (.tgz)")
    options = parser.parse_args(argv)
    if options.what == "fashion" and options.root is None:
        parser.error("fashion needs --root DIR, the folder of the four idx files")
    if options.what == "emoji" and options.packages is None:
        parser.error("emoji needs --packages DIR, the folder of the two .tgz that npm pack wrote")
    try:
        if options.what == "fashion":
            _fashion(options.root)
        elif options.what == "emoji":
            _emoji(options.packages)
        elif options.what == "stats":
            _stats(options.root)
        else:
            _check()
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
