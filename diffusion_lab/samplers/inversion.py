"""DDIM walked upward (Song, Meng & Ermon 2020, 2010.02502, section 5.4): from data to noise.

``encode`` finds the noise that a picture comes from, and ``slerp`` mixes two such noises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser
from diffusion_lab.samplers.ddim import ddim
from diffusion_lab.walk import Ask, State, check_grid, walk

__all__ = ["encode", "slerp"]


def encode(
    denoiser: Denoiser, x0: Tensor, grid: Sequence[float], **condition: Any
) -> Iterator[State]:
    """Walk a falling grid backwards, from data to noise (their section 5.4); yields States.

    x_s = alpha_s x0_hat(x_t) + sigma_s eps_hat(x_t) with s > t. At t = 0, eps_hat = -sigma score is
    0, so the first move is x_s = alpha_s x_0 and asks nothing. Walking ``ddim()`` down the same
    grid decodes, with an error that falls as 1/steps. ValueError for a grid that does not fall.
    """
    move = ddim()

    def up(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        alpha, sigma = ask.schedule.alpha_sigma(t)
        return x * (ask.schedule.alpha(s) / alpha) if sigma == 0 else move(ask, x, t, s)

    up.up = True
    return walk(up, denoiser, x0, check_grid(grid)[::-1], **condition)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of two noises (B, ...), sample by sample: a at 0, b at 1.

    [sin((1 - share) w) a + sin(share w) b] / sin w, with w the angle between them: it keeps the
    length that noise has, where a straight line would pass through shorter vectors.
    """
    if a.shape != b.shape:
        raise ValueError(f"both noises must have one shape; got {tuple(a.shape)}, {tuple(b.shape)}")
    one, two = a.flatten(1), b.flatten(1)
    cosine = (one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1))
    w = cosine.clamp(-1, 1).acos().reshape(-1, *(1,) * (a.ndim - 1))
    mixed = (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)
    return torch.where(torch.sin(w) < 1e-6, (1 - share) * a + share * b, mixed)
