"""The main colour of a picture as one of eleven words, measured: no person and no network judges.

Every pixel that is not near white counts. One whose chroma C = max - min over its channels (0..255)
is at least 58, or in dark colours 32 and 30% of max, has a hue and votes for that hue's word with C
as the weight, so that vivid areas count more than pale ones. A picture has the word of the heaviest
hue; where fewer than a quarter of its pixels have a hue it is black, gray or white, by the median
of max over the others. Whole numbers alone are computed with, so a picture has the same word on
every machine.

The words are the basic colour terms of Berlin and Kay (1969). Where one ends and the next begins
is this course's choice, made by eye on the emoji.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from diffusion_lab.data import to_uint8

__all__ = ["COLOURS", "colour_word"]

HUED = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
COLOURS = (*HUED, "black", "gray", "white")
GROUND = 240  # near white: all channels from it on
CHROMA = 58  # a pixel has a hue from this chroma on,
DIM, SHARE = 32, 30  # or from this one if it is that % of max as well
ENDS = (17, 40, 68, 165, 250, 305, 345)  # where the next hue begins, in degrees; red is around 0
PALE = 110  # red whose weakest channel is above it is pink
BROWN, DARK = (8, 45), 190  # hues, in degrees, that are brown where no channel reaches the second
BLACK, WHITE = 90, 215  # the median of max where black ends, and where white begins


def colour_word(x: Tensor) -> list[str]:
    """The main colour of each picture, one of ``COLOURS``.

    Args:
        x: (N, 3, H, W) in [-1, 1], data or samples: what lies outside is clipped.

    A picture with nothing on its white ground is white; of two hues of one weight the first in
    ``COLOURS`` is named. ValueError for what are no colour pictures, and for nan.
    """
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != 3:
        given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"colour_word wants colour pictures (N, 3, H, W) in [-1, 1]; got {given}")
    pixels = to_uint8(x).reshape(len(x), -1, 3).astype(np.int32)
    high, low = pixels.max(2), pixels.min(2)
    chroma, counts = high - low, low < GROUND
    dim = (chroma >= DIM) & (100 * chroma >= SHARE * high)
    hued = counts & ((chroma >= CHROMA) | dim)
    words = []
    for i in range(len(pixels)):
        if 4 * hued[i].sum() < counts[i].sum() or not counts[i].any():
            words.append(_without_hue(high[i][counts[i] & ~hued[i]]))
            continue
        word = _hues(pixels[i][hued[i]], high[i][hued[i]], chroma[i][hued[i]])
        words.append(HUED[np.bincount(word, chroma[i][hued[i]], len(HUED)).argmax()])
    return words


def _without_hue(high: np.ndarray) -> str:
    """The word for pixels whose strongest channels are ``high`` (P,); white for none."""
    middle = np.median(high) if len(high) else 255
    return "black" if middle < BLACK else "gray" if middle < WHITE else "white"


def _hues(pixels: np.ndarray, high: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """The position in ``HUED`` for each of the pixels (P, 3), which have a hue."""
    red, green, blue = pixels.T
    degrees = np.select(
        [high == red, high == green],
        [60 * (green - blue) // chroma % 360, 120 + 60 * (blue - red) // chroma],
        240 + 60 * (red - green) // chroma,
    )
    found = np.searchsorted(ENDS, degrees, "right") % len(ENDS)  # past the last end is red again
    found[(found == HUED.index("red")) & (high - chroma > PALE)] = HUED.index("pink")
    brown = (degrees >= BROWN[0]) & (degrees < BROWN[1]) & (high < DARK)
    found[brown] = HUED.index("brown")
    return found
