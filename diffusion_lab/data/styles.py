"""Styles as exact functions of the pixels: the same pictures drawn in another way.

Each takes pictures (N, 3, H, W) in [-1, 1] and gives pictures of that shape and range; nothing is
drawn at random. What is true of every output can be measured, so a style is recognised by code:

==========  =============================================================================
grey        the three channels are one
sepia       every pixel lies on the line from dark brown to cream
inverted    x becomes -x: a white ground is black
posterised  four values a channel: -1, -1/3, 1/3, 1
outline     dark lines on white, grey; what is flat is white
pixelated   4 x 4 blocks of one colour
==========  =============================================================================

Brightness is that of ITU-R BT.601: 0.299 red + 0.587 green + 0.114 blue.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lab.device import check_float
from diffusion_lab.errors import unknown

__all__ = ["BLOCK", "SEPIA", "STYLES", "styled"]

BLOCK = 4
SEPIA = ((-0.7, -0.84, -0.96), (1.0, 0.9, 0.64))  # black and white become these
LEVELS = 4


def styled(x: Tensor, name: str) -> Tensor:
    """The pictures in the style of that name, one of ``STYLES``.

    Args:
        x: (N, 3, H, W) in [-1, 1]; what lies outside is clipped. H and W divide by 4 for
            "pixelated".

    ValueError for an unknown style, for what are no colour pictures, and sizes that do not divide.
    """
    if name not in STYLES:
        raise unknown("style", name, STYLES)
    check_float(x, "x")
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"x must be colour pictures (N, 3, H, W); got {tuple(x.shape)}")
    return STYLES[name](x.clamp(-1, 1))


def _brightness(x: Tensor) -> Tensor:
    """(N, 1, H, W) in [-1, 1]."""
    return torch.einsum("nchw,c->nhw", x, x.new_tensor([0.299, 0.587, 0.114])).unsqueeze(1)


def _grey(x: Tensor) -> Tensor:
    return _brightness(x).expand_as(x).clone()


def _sepia(x: Tensor) -> Tensor:
    dark, light = x.new_tensor(SEPIA).reshape(2, 1, 3, 1, 1)
    return torch.lerp(dark, light, (_brightness(x) + 1) / 2)


def _inverted(x: Tensor) -> Tensor:
    return -x


def _posterised(x: Tensor) -> Tensor:
    step = ((x + 1) / 2 * LEVELS).floor().clamp(max=LEVELS - 1)
    return 2 * step / (LEVELS - 1) - 1


def _outline(x: Tensor) -> Tensor:
    """1 - 2 e, e the largest difference of a channel within the pixel's 2 x 2, up to 1."""
    padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
    spread = F.max_pool2d(padded, 2, 1) + F.max_pool2d(-padded, 2, 1)
    return (1 - 2 * spread.amax(1, keepdim=True).clamp(max=1)).expand_as(x).clone()


def _pixelated(x: Tensor) -> Tensor:
    if x.shape[2] % BLOCK or x.shape[3] % BLOCK:
        raise ValueError(f"pixelated wants H and W that {BLOCK} divides; got {tuple(x.shape)}")
    blocks = F.avg_pool2d(x, BLOCK)
    return blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)


STYLES: dict[str, Callable[[Tensor], Tensor]] = {
    "grey": _grey,
    "sepia": _sepia,
    "inverted": _inverted,
    "posterised": _posterised,
    "outline": _outline,
    "pixelated": _pixelated,
}
