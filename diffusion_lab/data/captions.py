"""Captions of the emoji, and how words become numbers for two kinds of text encoder.

Words are small letters and digits without accents; "grey" is read as "gray". A caption is drawn
anew each time a picture is shown in training: the colour, then words of the name, the subcategory
and the keywords, each kept with the probability that ``KEEP`` gives.

:class:`Tokeniser` is for cross-attention, one token a word and ``LENGTH`` tokens a text:

=====================  ================================================================
number                 meaning
=====================  ================================================================
0                      PAD, no word stands here (the mask is False)
1                      NULL, alone: no text at all
2..5                   the words v1 to v4, free for what a user teaches a model
6..261                 one of 256 buckets for unknown words, crc32(word) mod 256
262..                  the words that at least three training emoji have, in order
=====================  ================================================================

``hash`` of Python changes with each process; crc32 does not. For a bag of words and parts of words
see :mod:`diffusion_lab.data.trigrams`.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Generator, Tensor

from diffusion_lab.data.emoji import Record, records
from diffusion_lab.device import check_generator
from diffusion_lab.errors import DataError, near, share
from diffusion_lab.files import sha256

__all__ = [
    "KEEP",
    "LENGTH",
    "NULL",
    "PAD",
    "Tokeniser",
    "caption",
    "full_caption",
    "several",
    "tokeniser",
    "words",
]

KEEP: Mapping[str, float] = {"colour": 0.5, "name": 0.8, "subcategory": 0.5, "keywords": 0.5}
LENGTH = 8
PAD, NULL, FREE, BUCKETS, OFTEN = 0, 1, 4, 256, 3
FIRST_BUCKET = 2 + FREE
FIRST_WORD = FIRST_BUCKET + BUCKETS
VOCABULARY = "87f4a88e30841f6c102fd65e85785e6a8c11193d5cbc43c3f44f9f86feb85d17"
"""sha256 of the vocabulary's words, one a line: trained networks know their tokens by it."""


def words(text: str) -> list[str]:
    """The words of a text, "Côte d’Ivoire: 2 Flags" -> ["cote", "divoire", "2", "flags"]."""
    if not isinstance(text, str):
        raise ValueError(f"a text is a str; got {type(text).__name__}")
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    found = re.findall(r"[a-z0-9]+", plain.replace("'", ""))
    return ["gray" if word == "grey" else word for word in found]


def _parts(record: Record) -> dict[str, list[str]]:
    """The words of an emoji by where they come from, none twice, in the order of a caption."""
    own = [key for key in record.keywords if key.isalnum() or re.search(r"\w\w", key)]  # no ":D"
    texts = {
        "name": record.name,  # first: a word of the name is a word of the name alone
        "colour": record.colour,
        "subcategory": record.subcategory,
        "keywords": " ".join(own),
    }
    parts, seen = {}, set()
    for part, text in texts.items():
        parts[part] = [word for word in dict.fromkeys(words(text)) if word not in seen]
        seen.update(parts[part])
    return {part: parts[part] for part in KEEP}


def full_caption(record: Record) -> str:
    """All words of an emoji: "yellow grinning face smiling smile happy joy grin smiley"."""
    return " ".join(word for part in _parts(record).values() for word in part)


def caption(record: Record, generator: Generator, keep: Mapping[str, float] = KEEP) -> str:
    """A random part of the words of an emoji, in the order of ``full_caption``.

    Args:
        record: of :func:`diffusion_lab.data.emoji.records`.
        generator: what is drawn from it depends on the record alone, not on what was kept.
        keep: for "colour", "name", "subcategory" and "keywords" how probable it is that a word is
            kept, in [0, 1]; what is left out is never kept. One word of the name always is.

    ValueError for another key, and for what is no probability.
    """
    if not set(keep) <= set(KEEP):
        raise ValueError(f"keep has the keys {', '.join(KEEP)}; got {', '.join(map(str, keep))}")
    chances = {part: share(f"keep[{part!r}]", keep.get(part, 0.0)) for part in KEEP}
    generator = check_generator(generator)
    parts = _parts(record)
    count = sum(map(len, parts.values()))
    draws = torch.rand(count + 1, generator=generator, device="cpu", dtype=torch.float64).tolist()
    always = int(draws.pop() * len(parts["name"]))  # if the whole name is dropped
    kept = {part: [w for w in own if draws.pop(0) < chances[part]] for part, own in parts.items()}
    kept["name"] = kept["name"] or parts["name"][always : always + 1]
    return " ".join(word for own in kept.values() for word in own)


@dataclass(frozen=True)
class Tokeniser:
    """Texts to token numbers by a fixed list of words, ``vocabulary``; see the module."""

    vocabulary: tuple[str, ...] = field(repr=False)
    numbers: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        free = {f"v{i + 1}": 2 + i for i in range(FREE)}
        wrong = [w for w in self.vocabulary if words(w) != [w] or w in free]
        if wrong or len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"a vocabulary has words as words() gives, each once; got {wrong[:3]}")
        known = {word: FIRST_WORD + i for i, word in enumerate(self.vocabulary)}
        object.__setattr__(self, "numbers", free | known)

    def __len__(self) -> int:
        """How many token numbers there are: the rows of an embedding."""
        return FIRST_WORD + len(self.vocabulary)

    @property
    def hash(self) -> str:
        """sha256 of the words, one a line."""
        return sha256("\n".join(self.vocabulary).encode())

    def encode(self, text: str, strict: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens int64 (LENGTH,) and the mask, bool (LENGTH,): True where a token stands.

        Args:
            text: a text without words is NULL. Words after the eighth are not read.
            strict: ValueError for unknown words, with the near ones, and for too many.
        """
        given = words(text)
        if strict:
            self._check(given)
        found = [self.numbers.get(word, _bucket(word)) for word in given[:LENGTH]] or [NULL]
        tokens = torch.tensor(found + [PAD] * (LENGTH - len(found)), device="cpu")
        return tokens, tokens != PAD

    def encode_all(self, texts: Iterable[str], strict: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens int64 (N, LENGTH) and masks, bool (N, LENGTH), of N texts, at least one."""
        pairs = [self.encode(text, strict) for text in several(texts)]
        tokens, masks = zip(*pairs)
        return torch.stack(tokens), torch.stack(masks)

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """The words of tokens (L,); "#7" for bucket 7, nothing for PAD and NULL."""
        own = {number: word for word, number in self.numbers.items()}
        own |= {FIRST_BUCKET + i: f"#{i}" for i in range(BUCKETS)} | {PAD: "", NULL: ""}
        numbers = [int(number) for number in tokens]
        wrong = [number for number in numbers if number not in own]
        if wrong:
            raise ValueError(f"tokens lie in 0..{len(self) - 1}; got {wrong[0]}")
        return " ".join(own[number] for number in numbers if own[number])

    def _check(self, given: list[str]) -> None:
        said = []
        for word in dict.fromkeys(given):
            if word not in self.numbers:
                others = near(word, self.vocabulary)
                said.append(f"{word!r}" + (f" (near: {', '.join(others)})" if others else ""))
        if said:
            raise ValueError(f"words that the vocabulary lacks: {'; '.join(said)}")
        if len(given) > LENGTH:
            raise ValueError(f"{len(given)} words, and {LENGTH} are read: {' '.join(given)}")


@lru_cache(maxsize=1)
def tokeniser() -> Tokeniser:
    """The tokeniser of the course: words that at least three emoji of the training split have.

    DataError where the emoji are others than when ``VOCABULARY`` was recorded.
    """
    counts = Counter(word for one in records("train") for word in full_caption(one).split())
    made = Tokeniser(tuple(sorted(word for word, count in counts.items() if count >= OFTEN)))
    if made.hash != VOCABULARY:
        raise DataError(
            f"the vocabulary made of data/emoji.json is another than recorded, {made.hash[:12]}... "
            f"and not {VOCABULARY[:12]}...: networks trained on the old words would misread it"
        )
    return made


def several(texts: Iterable[str]) -> list[str]:
    """Texts as a list; ValueError for one text alone, and for none."""
    if isinstance(texts, str):
        raise ValueError(f"give several texts, as [{texts!r}]; got one")
    listed = list(texts)
    if not listed:
        raise ValueError("give at least one text")
    return listed


def _bucket(word: str) -> int:
    return FIRST_BUCKET + zlib.crc32(word.encode()) % BUCKETS
