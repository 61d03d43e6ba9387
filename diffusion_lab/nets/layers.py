"""The pieces that several networks share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusion_lab.device import check_label
from diffusion_lab.errors import whole

__all__ = ["LevelEmbedding", "check_inputs", "check_sizes", "scalar", "zero"]


def check_sizes(**sizes: int | None) -> None:
    """ValueError for a size that is no whole number >= 1; None stands for a default."""
    for name, size in sizes.items():
        if size is not None:
            whole(name, size)


def check_inputs(x: Tensor, channels: int, ndim: int) -> None:
    """ValueError unless x is (B, channels) or, with ndim 4, (B, channels, H, W)."""
    if x.ndim != ndim or x.shape[1] != channels:
        shape = f"(B, {channels}, H, W)" if ndim == 4 else f"(B, {channels})"
        raise ValueError(f"this network takes x of shape {shape}; got {tuple(x.shape)}")


def zero(module: nn.Module) -> nn.Module:
    """The module with all its parameters set to 0: a residual branch that starts as nothing."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


class LevelEmbedding(nn.Module):
    """What the network is told of the noise level and the class, as one vector of ``width``.

    lambda becomes sines and cosines of geometrically spaced frequencies (what a 'time embedding'
    is), the class a learned vector, both enter one small MLP. Input lam (n,) or (1,), label (n,)
    or None ('no class'); output (B, width), or (1, width) without a label.
    """

    def __init__(self, width: int, num_classes: int | None = None, frequencies: int = 16) -> None:
        super().__init__()
        # lambda runs over about [-4, 5]: periods from 64 (the whole range) down to about 1
        omega = 2 * math.pi * torch.logspace(-6, 0, frequencies, base=2.0)
        self.register_buffer("omega", omega, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.classes = None
        if num_classes is not None:
            self.classes = nn.Embedding(num_classes + 1, width)  # the last row is 'no class'
            nn.init.normal_(self.classes.weight, std=0.5)

    def forward(self, lam: Tensor, label: Tensor | None, n: int) -> Tensor:
        angle = lam[:, None] * self.omega.to(lam.dtype)  # in float32 at least, whatever x is
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)
        h = self.mlp[0](waves.to(self.mlp[0].weight.dtype))
        if self.classes is not None:
            last = self.classes.num_embeddings - 1
            null = self.classes.weight[last:]
            h = h + (null if label is None else self.classes(check_label(label, n, last)))
        elif label is not None:
            raise ValueError("this network was trained without classes: call it without a label")
        return nn.functional.silu(self.mlp[2](self.mlp[1](h)))


def scalar(dim: int, width: int) -> nn.Sequential:
    """x (B, ...) of ``dim`` numbers -> (B, 1): the small second networks of BDDM and NEDM."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(dim, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, 1),
    )
