"""Vectors to the nearest of K codes, with the straight-through gradient (van den Oord et al. 2017).

    e = codes[argmin_k |z - codes_k|^2],   out = sg[e] + z - sg[z],
    L = |sg[z] - e|^2 + 0.25 |z - sg[e]|^2       (1711.00937, eq 3)

so the answer is e, its gradient with respect to z is the identity, and only the codes that are used
have one. Codes are learnt by that gradient and not as running means of what they were given: it is
the loss of the paper, and the averaged model averages them as all other weights. A code that
nothing has been near for long is of no use and has no gradient either: ``revive`` puts it where a
vector of the last batch lies.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion_lab.device import check_batch
from diffusion_lab.errors import number, whole

__all__ = ["Quantised", "Quantiser", "perplexity"]

DECAY = 0.99  # of the running share of each code


class Quantised(NamedTuple):
    """out (B, dim, H, W), codes int64 (B, H, W), loss (B,): the mean over one map, both terms."""

    out: Tensor
    codes: Tensor
    loss: Tensor


class Quantiser(nn.Module):
    """``size`` codes of ``dim`` numbers; ``commitment`` is the weight of the second term of L."""

    def __init__(self, size: int = 128, dim: int = 4, commitment: float = 0.25) -> None:
        super().__init__()
        size, dim = whole("size", size), whole("dim", dim)
        self.commitment = number("commitment", commitment)
        self.codes = nn.Parameter(torch.empty(size, dim).normal_(std=0.5))
        self.register_buffer("share", torch.full((size,), 1 / size))
        self.register_buffer("last", self.codes.detach().clone())

    def nearest(self, z: Tensor) -> Tensor:
        """The numbers of the nearest codes, int64 (B, H, W), of z (B, dim, H, W)."""
        check_batch(z, "z", (self.codes.shape[1], *z.shape[2:]))
        flat = z.movedim(1, -1)
        distance = self.codes.square().sum(1) - 2 * flat @ self.codes.T  # but for |z|^2
        return distance.argmin(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors (B, dim, H, W) of codes int64 (B, H, W); ValueError for numbers of none."""
        if codes.dtype != torch.int64 or codes.ndim != 3:
            raise ValueError(f"codes are int64 (B, H, W); got {codes.dtype} {tuple(codes.shape)}")
        low, high = (value.item() for value in codes.aminmax())
        if low < 0 or high >= len(self.codes):
            raise ValueError(f"codes lie in 0..{len(self.codes) - 1}; got {low}..{high}")
        return self.codes[codes].movedim(-1, 1)

    def forward(self, z: Tensor) -> Quantised:
        """z as codes. In training mode the share of each code is followed, for ``revive``."""
        codes = self.nearest(z)
        e = self.codes[codes].movedim(-1, 1)
        learn, commit = (
            wrong.square().flatten(1).mean(1) for wrong in (z.detach() - e, z - e.detach())
        )
        if self.training:
            self._follow(z.detach(), codes)
        straight = e.detach() + (z - z.detach())  # in this order it is e to the last digit
        return Quantised(straight, codes, learn + self.commitment * commit)

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor) -> None:
        counts = torch.bincount(codes.flatten(), minlength=len(self.codes)).to(self.share)
        self.share.lerp_(counts / codes.numel(), 1 - DECAY)
        flat = z.movedim(1, -1).reshape(-1, z.shape[1])
        place = torch.arange(len(self.codes), device=z.device) * len(flat) // len(self.codes)
        self.last.copy_(flat[place])

    @torch.no_grad()
    def revive(self, least: float = 0.05) -> int:
        """Move codes with less than ``least`` of an equal share onto vectors of the last batch.

        Returns how many. What it hangs on are buffers alone, so all processes do the same.
        """
        dead = self.share < number("least", least) / len(self.share)
        self.codes[dead] = self.last[dead]
        self.share[dead] = 1 / len(self.share)
        return int(dead.sum())


def perplexity(codes: Tensor, size: int) -> float:
    """exp of the entropy of how often each code occurs: ``size`` where all are equally frequent."""
    share = torch.bincount(codes.flatten(), minlength=whole("size", size)).double() / codes.numel()
    return torch.special.entr(share).sum().exp().item()
