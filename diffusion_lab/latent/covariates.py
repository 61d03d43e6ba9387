"""Covariates: a picture told by a few numbers (Pinaya et al. 2022, 2209.07162, "LDM + DDIM").

Age, sex and two volumes of a brain, scaled to [0, 1], enter their latent diffusion in two ways at
once (hybrid conditioning): repeated over the map and set beside z_t as further channels, and by
cross-attention. Here the second way is a small MLP whose answer is added to the embedding of the
noise level: among k tokens that are always there, attention has nothing to choose. The network is
one for pictures and for latents alike: it takes whatever has channels.

What was asked for can be measured in phantoms (:mod:`diffusion_lab.data.phantoms`), so obedience is
one number: the correlation of a parameter as requested and as drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.data import phantoms
from diffusion_lab.device import check_batch
from diffusion_lab.errors import check_arguments, unknown
from diffusion_lab.nets.layers import check_inputs, check_sizes, zero
from diffusion_lab.nets.unet import UNet
from diffusion_lab.training.recipes import Recipe

__all__ = ["PHANTOMS", "WAYS", "CovariateUNet", "agreement"]

WAYS = ("channels", "embedding")


class _Level(nn.Module):
    """The embedding of the noise level, and what covariates (B, k) add to it, (B, width)."""

    def __init__(self, level: nn.Module, number: int) -> None:
        super().__init__()
        width = level.mlp[2].out_features
        self.level = level
        self.told = nn.Sequential(
            nn.Linear(number, width), nn.SiLU(), zero(nn.Linear(width, width))
        )

    def forward(self, lam: Tensor, covariates: Tensor, n: int) -> Tensor:
        return self.level(lam, None, n) + self.told(covariates)


class CovariateUNet(UNet):
    """A U-Net that is told k numbers: x (B, C, H, W), lam (B,) or (1,), covariates (B, k).

    Args:
        channels: of the picture or latent.
        covariates: k.
        ways: how they enter, some of ``WAYS``; both is the paper's hybrid.
        null: each of the numbers that stand for 'not said', which covariates None are.
        unet: arguments of :class:`UNet`, which has no classes here.
    """

    def __init__(
        self,
        channels: int = 1,
        covariates: int = 4,
        ways: Sequence[str] = WAYS,
        null: float = phantoms.NO_COVARIATES,
        **unet: Any,
    ) -> None:
        check_sizes(channels=channels, covariates=covariates)
        check_arguments("the U-Net", UNet, unet)
        for way in ways:
            if way not in WAYS:
                raise unknown("way of conditioning", way, WAYS)
        if not ways or isinstance(ways, str) or unet.get("num_classes") is not None:
            raise ValueError(f"ways are some of {', '.join(WAYS)}, in a list; there are no classes")
        unet.setdefault("out_channels", channels)
        super().__init__(channels + covariates * ("channels" in ways), **unet)
        self.pixels, self.covariates, self.ways, self.null = channels, covariates, ways, null
        if "embedding" in ways:
            self.level = _Level(self.level, covariates)

    def forward(self, x: Tensor, lam: Tensor, covariates: Tensor | None = None) -> Tensor:
        check_inputs(x, self.pixels, 4)
        if covariates is None:
            covariates = x.new_full((len(x), self.covariates), self.null)
        check_batch(covariates, "covariates", (self.covariates,))
        if len(covariates) != len(x):
            raise ValueError(f"covariates must have {len(x)} rows; got {len(covariates)}")
        if "channels" in self.ways:
            spread = covariates[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, spread.to(x.dtype)], dim=1)
        # in the place of the label: ``level`` takes it there
        return super().forward(x, lam, covariates if "embedding" in self.ways else None)


def agreement(parameters: Tensor, x: Tensor) -> dict[str, float]:
    """Pearson's r of each of ``phantoms.PARAMETERS`` as requested (n, 4) and as measured in x.

    Pictures without a head are left out; nan where fewer than three are left, or nothing varies.
    """
    check_batch(parameters, "the parameters", (len(phantoms.PARAMETERS),))
    found = phantoms.measure(x)
    if len(parameters) != len(x):
        raise ValueError(f"{len(parameters)} rows of parameters for {len(x)} pictures")
    answer = {}
    for wanted, (name, got) in zip(parameters.cpu().double().T, found.items()):
        there = got.isfinite() & (found["skull"] > 0)
        enough = int(there.sum()) > 2
        both = torch.stack([wanted[there], got[there]])
        answer[name] = torch.corrcoef(both)[0, 1].item() if enough else float("nan")
    return answer


PHANTOMS = Recipe(
    "phantoms",
    "phantoms told their four parameters, for train(PHANTOMS, data=phantoms.dataset(...))",
    data="phantoms",
    net={"name": "diffusion_lab.latent.covariates:CovariateUNet", "widths": (16, 32), "emb": 64},
    schedule={"name": "linear", "T": 1000},
    lam_range=None,
    conditional=("covariates",),
    steps=2_000,
    sampler={"sampler": "ddim", "steps": 50},
)
