"""What each emoji shows, in words: the companion of ``load("emoji")``.

``records(split)`` has one :class:`Record` for each picture of ``load("emoji", split)``, in the same
order. The pictures are Noto Emoji at 32 x 32 on white, the words those of two packages; source,
licences and the exact recipe are on the card ``data/emoji.md``.

=======  ===============================================================================
split    for
=======  ===============================================================================
train    what models are trained on
test     held out: three in twenty
rare     a tenth, held out too: entities that a model may look up but has never learnt
flags    all flags, never trained on: a database to swap in
=======  ===============================================================================

Whether an emoji is in train, test or rare hangs on the sha256 of its group's name alone. A group
are emoji that one must not see on both sides: variants of one person's sex or direction, and
pictures that nearly agree (the 24 clock faces).

The first eight of ``CATEGORIES`` are the classes of train, test and rare; flags have all nine, and
label 8. A network with eight classes takes label 8 as 'no class', so flags mean nothing to it.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import numpy as np

from diffusion_lab.data import CLASSES, SPLITS, store
from diffusion_lab.errors import DataError, unknown

__all__ = ["CATEGORIES", "Record", "classes", "made_up", "pixels", "records"]

CATEGORIES = (*CLASSES["emoji"], "flags")
SYLLABLES = ("bdfgklmnprstvz", "aeiou", "lmnr", "bdgkptvz", "aeiou", "klmnrst", "aeiou", "kmnrx")


@dataclass(frozen=True)
class Record:
    """One emoji.

    character    the emoji itself, as text
    name         its Unicode name in small letters, "grinning face"
    short_name   the package's word for it, which no two share, "grinning"
    keywords     words that people may search it by; the first is its common name
    category     one of ``CATEGORIES``
    subcategory  one of 98, as "face-smiling" or "food-fruit"
    colour       what :func:`diffusion_lab.data.colours.colour_word` says of the stored picture
    group        the short name of the group that is in one split as a whole
    """

    character: str
    name: str
    short_name: str
    keywords: tuple[str, ...]
    category: str
    subcategory: str
    colour: str
    group: str


def records(split: str = "train") -> tuple[Record, ...]:
    """The words of every picture of a split, in the order of the pictures.

    ValueError for an unknown split; DataError for a file that is missing or damaged.
    """
    file = store.path("emoji.json")
    _check_split(split)
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))[split]
        return tuple(Record(**{**one, "keywords": tuple(one["keywords"])}) for one in listed)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} does not hold the words of the emoji: {error!r}") from error


def pixels(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Stored pixels uint8 (N, 32, 32, 3) and labels uint8 (N,), the position in ``CATEGORIES``.

    For ``load("emoji")``, which makes tensors of them; the same errors as ``records``.
    """
    file = store.path("emoji.npz")
    _check_split(split)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    except (KeyError, ValueError) as error:
        raise DataError(f"{file} does not hold the pictures of the emoji: {error}") from error
    right = images.shape[1:] == (32, 32, 3) and images.dtype == labels.dtype == np.uint8
    if not right or labels.shape != images.shape[:1] or labels.max() >= len(classes(split)):
        raise DataError(
            f"{file} does not hold the pictures of the emoji: pixels {images.dtype} "
            f"{images.shape}, labels {labels.dtype} {labels.shape}"
        )
    return images, labels


def classes(split: str) -> tuple[str, ...]:
    """The eight categories of train, test and rare; all nine for flags."""
    return CATEGORIES if split == "flags" else CLASSES["emoji"]


def made_up(short_name: str) -> str:
    """A word without meaning for an emoji, always the same, such as "dimbotux".

    For entities that are to be found by a name that no model can have learnt.
    """
    rest = zlib.crc32(short_name.encode())
    letters = []
    for choice in SYLLABLES:
        rest, one = divmod(rest, len(choice))
        letters.append(choice[one])
    return "".join(letters)


def _check_split(split: str) -> None:
    if split not in SPLITS["emoji"]:
        raise unknown("split of emoji", split, SPLITS["emoji"])
