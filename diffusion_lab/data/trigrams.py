"""A text as a bag of numbers: each word, and each three letters of ^word$.

An unknown word then still shares numbers with its relatives (fastText's idea: Bojanowski, Grave,
Joulin, Mikolov 2016, arXiv 1607.04606). The numbers are crc32 mod 4096, which is the same in every
process; for an encoder that takes the mean of their embeddings, ``torch.nn.EmbeddingBag``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from diffusion_lab.data.captions import several, words

__all__ = ["NUMBERS", "bags", "trigrams"]

NUMBERS = 4096
"""How many numbers there are: the rows of an embedding."""


def trigrams(text: str) -> Tensor:
    """Numbers int64 (M,) in 0..4095: each word, then its trigrams; none for no words."""
    found = []
    for word in words(text):
        whole = f"^{word}$"
        parts = (whole[i : i + 3] for i in range(len(whole) - 2))
        # marked, since a word and the same three letters within another are two things
        found += [f"word {word}", *(f"part {part}" for part in parts)]
    numbers = [zlib.crc32(piece.encode()) % NUMBERS for piece in found]
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def bags(texts: Iterable[str]) -> tuple[Tensor, Tensor]:
    """``trigrams`` of N texts one after the other, int64 (M,), and where each begins, (N,).

    As ``torch.nn.EmbeddingBag`` takes them; a text without words is an empty bag. ValueError for
    one text that is not in a list, and for none.
    """
    each = [trigrams(text) for text in several(texts)]
    lengths = torch.tensor([0, *map(len, each[:-1])], device="cpu")
    return torch.cat(each), lengths.cumsum(0)
