"""How ``data/emoji.npz`` and ``data/emoji.json`` are made of two packages of the npm registry.

1. 64 x 64 pictures on white, then the mean of 2 x 2 pixels, in whole numbers.
2. Left out: skin tones alone, what another emoji replaces, one wrong picture, twins.
3. Groups: variants by sex or direction, and pictures that differ by less than ``NEAR``.
4. Splits: flags by their category, the others by the sha256 of their group's name.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_lab.data import SPLITS
from diffusion_lab.data.colours import colour_word
from diffusion_lab.data.emoji import CATEGORIES
from diffusion_lab.errors import DataError
from diffusion_lab.files import sha256

__all__ = ["NEAR", "PACKAGES", "TWINS", "build_emoji", "groups", "split_of"]

PACKAGES = {  # as npm pack writes them
    "emoji-datasource-google-16.0.0.tgz": (
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
    ),
    "emojilib-4.0.3.tgz": "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
}
WRONG = {"flag-sark"}  # its picture is the flag of Saudi Arabia
TWINS = {  # pixel by pixel the picture of the other, which is kept
    "flag-cp": "fr",
    "flag-mf": "fr",
    "flag-ea": "es",
    "flag-um": "us",
    "flag-hm": "flag-au",
    "flag-dg": "flag-io",
    "flag-bv": "flag-no",
    "flag-sj": "flag-no",
    "man-boy": "family_adult_child",
    "man-boy-boy": "family_adult_child_child",
    "man-man-boy": "family_adult_adult_child",
    "man-man-boy-boy": "family_adult_adult_child_child",
}
NEAR = 19  # root mean square of the difference over pixels and channels, of 255 levels
RARE, TEST = 0.10, 0.25  # of the hashes, rare are those below the first, test up to the second
SAME = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2"}  # by age alone
LOOSE = {"200D", "FE0F", "2640", "2642", "27A1"}  # joiner, variation, woman, man, facing right


def build_emoji(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of ``emoji.npz`` and the text of ``emoji.json``, from the packages in a folder.

    DataError where a package is missing or another, or holds what is not expected.
    """
    entries, pictures, keywords = _read(folder)
    kept = [entry for entry in entries if _is_kept(entry)]
    kept.sort(key=lambda entry: (entry["sort_order"], entry["short_name"]))
    images = np.stack([_small(pictures[entry["image"]]) for entry in kept])
    _check_twins(entries, pictures, images)
    rows = [_words(entry, keywords) for entry in kept]
    things = [i for i, row in enumerate(rows) if row["category"] != "flags"]
    named = groups([kept[i] for i in things], images[things])
    colours = colour_word(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    for i, (row, colour) in enumerate(zip(rows, colours)):
        row |= {"colour": colour, "group": named.get(i, row["short_name"])}
    arrays, words = {}, {}
    splits = np.array([split_of(row["category"], row["group"]) for row in rows])
    for split in SPLITS["emoji"]:
        chosen = np.flatnonzero(splits == split)
        words[split] = [rows[i] for i in chosen]
        labels = [CATEGORIES.index(row["category"]) for row in words[split]]
        arrays[f"{split}_images"] = images[chosen]
        arrays[f"{split}_labels"] = np.array(labels, np.uint8)
    return arrays, _text(words)


def split_of(category: str, group: str) -> str:
    """The split of an emoji: a function of its category and the name of its group alone."""
    if category == "flags":
        return "flags"
    share = int(sha256(group.encode())[:8], 16) / 2**32
    return "rare" if share < RARE else "test" if share < TEST else "train"


def groups(entries: list[dict[str, Any]], images: np.ndarray) -> dict[int, str]:
    """Row -> name of its group, the first of its short names: of one stem, or nearly one picture.

    ``images`` uint8 (N, H, W, C). Whole numbers below 2^53, so the distances are exact.
    """
    from scipy.sparse.csgraph import connected_components

    flat = images.reshape(len(images), -1).astype(np.float64)
    squares = (flat**2).sum(1)
    apart = squares[:, None] + squares - 2 * flat @ flat.T
    _, stems = np.unique([_stem(entry["unified"]) for entry in entries], return_inverse=True)
    linked = (apart < NEAR**2 * flat.shape[1]) | (stems[:, None] == stems)
    _, group = connected_components(linked, directed=False)
    names = np.array([entry["short_name"] for entry in entries], object)
    return {i: str(names[group == one].min()) for i, one in enumerate(group)}


def _stem(unified: str) -> str:
    """The code points of an emoji without what only tells sex, direction or form."""
    codes = [SAME.get(code, code) for code in unified.split("-") if code not in LOOSE]
    return "-".join(codes) or unified


def _is_kept(entry: dict[str, Any]) -> bool:
    out = entry["category"] == "Component" or "obsoleted_by" in entry
    return not out and entry["short_name"] not in WRONG | TWINS.keys()


def _small(content: bytes) -> np.ndarray:
    """A PNG of 64 x 64, on white, as uint8 (32, 32, 3): the rounded mean of 2 x 2 pixels."""
    from PIL import Image

    rgba = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).astype(np.int64)
    if rgba.shape != (64, 64, 4):
        raise DataError(f"a picture of {rgba.shape[:2]} pixels, and 64 x 64 are expected")
    alpha = rgba[..., 3:]
    white = rgba[..., :3] * alpha + 255 * (255 - alpha)  # times 255
    four = white.reshape(32, 2, 32, 2, 3).sum((1, 3))  # times 4 * 255
    return ((2 * four + 1020) // 2040).astype(np.uint8)


def _check_twins(entries: list[dict[str, Any]], pictures: dict[str, bytes], kept: Any) -> None:
    small = {e["short_name"]: _small(pictures[e["image"]]).tobytes() for e in entries}
    wrong = [f"{one} and {other}" for one, other in TWINS.items() if small[one] != small[other]]
    if wrong or len({image.tobytes() for image in kept}) != len(kept):
        raise DataError(f"other pictures are twins than those listed: {wrong or 'more of them'}")


def _words(entry: dict[str, Any], keywords: dict[str, list[str]]) -> dict[str, Any]:
    character = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
    found = [" ".join(word.replace("_", " ").split()) for word in keywords[character]]
    return {
        "character": character,
        "name": entry["name"].lower(),
        "short_name": entry["short_name"],
        "keywords": found,
        "category": entry["category"].lower(),
        "subcategory": entry["subcategory"],
    }


def _text(words: dict[str, list[dict[str, Any]]]) -> str:
    """JSON with one emoji a line."""
    parts = []
    for split, rows in words.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        parts.append(f"{json.dumps(split)}: [\n{lines}\n]")
    return "{" + ",\n".join(parts) + "}\n"


def _read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, bytes], dict[str, list[str]]]:
    """What the first package lists, its pictures of 64 x 64 by file name, the other's keywords."""
    for name, expected in PACKAGES.items():
        if not (folder / name).is_file():
            package = "@".join(name.removesuffix(".tgz").rsplit("-", 1))
            raise DataError(f"{name} is not in {folder}: run 'npm pack {package}' there first.")
        if sha256(folder / name) != expected:
            raise DataError(f"{folder / name} is another package than expected: fetch it again.")
    images, words = PACKAGES
    inside = _members(folder / images, "package/emoji.json", "package/img/google/64/")
    entries = json.loads(inside.pop("package/emoji.json"))
    keywords = _members(folder / words, "package/dist/emoji-en-US.json")
    pictures = {name.rsplit("/", 1)[1]: content for name, content in inside.items()}
    return entries, pictures, json.loads(keywords["package/dist/emoji-en-US.json"])


def _members(file: Path, *starts: str) -> dict[str, bytes]:
    """The files in a tar whose names begin so."""
    with tarfile.open(file, "r|gz") as archive:
        chosen = (m for m in archive if m.isfile() and m.name.startswith(starts))
        return {member.name: archive.extractfile(member).read() for member in chosen}
