"""DiVAE: a diffusion model as the decoder of codes (Shi, Wu et al. 2022, 2206.00386).

A VQ encoder, which is trained before and stays as it is, makes of a picture a small map
e (B, d, h, w) of code vectors. Its own decoder answers with the mean of all pictures that have
these codes, and a mean is blurred; here one of them is drawn, by a denoiser that is told e:

    L = |eps - eps_hat(x_t, t, e)|^2.

Where e enters is not known of the paper but as "a simple modification of the UNet". Two ways:

    input      e, repeated to the size of the picture, as further channels beside x_t
    features   e through a 1x1 convolution, added where the U-Net has e's own resolution

What enters has weight 0 at first, so that an untrained network is the unconditional one. For
Gaussian data and e = A x everything is known (:func:`linear_gaussian`): drawn pictures have exactly
twice the squared error of the mean, and the law of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import Denoiser, Number
from diffusion_lab.device import check_batch
from diffusion_lab.errors import check_arguments, unknown
from diffusion_lab.exact import ExactDenoiser, Gaussian
from diffusion_lab.generate import generate
from diffusion_lab.latent.first_stage import belonging, first_stage, standing_on
from diffusion_lab.nets.layers import check_inputs, check_sizes, zero
from diffusion_lab.nets.unet import Fine, UNet
from diffusion_lab.schedules import Schedule
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import Diffusion, check_options
from diffusion_lab.walk import Result

__all__ = [
    "PLACES",
    "CodeUNet",
    "DiVAE",
    "consistency",
    "embedded",
    "joined",
    "linear_gaussian",
    "redrawn",
]

PLACES = ("input", "features")


class CodeUNet(UNet):
    """A U-Net that is told a map: x (B, C, H, W), lam (B,) or (1,), codes (B, code_channels, h, w).

    codes None is the map of zeros, the unconditional answer. h and w divide H and W (input), or are
    those of one of the U-Net's levels (features). ``unet``: arguments of :class:`UNet`.
    """

    def __init__(
        self, channels: int = 1, code_channels: int = 4, place: str = "input", **unet: Any
    ) -> None:
        check_sizes(channels=channels, code_channels=code_channels)
        check_arguments("the U-Net", UNet, unet)
        if place not in PLACES:
            raise unknown("place where codes enter", place, PLACES)
        more = code_channels if place == "input" else 0
        unet.setdefault("out_channels", channels)
        super().__init__(channels + more, **unet)
        self.pixels, self.code_channels, self.place = channels, code_channels, place
        if place == "input":  # a convolution of both is the sum of one of each
            fields = [(self.first, channels * self.patch**2)]
            if isinstance(self.last, Fine):
                fields.append((self.last.mix, self.last.mix.in_channels - code_channels))
            for conv, own in fields:
                nn.init.zeros_(conv.weight[:, own:].detach())
        else:
            widths = unet.get("widths", (32, 64))
            self.told = nn.ModuleList(zero(nn.Conv2d(code_channels, w, 1)) for w in widths)

    def forward(self, x: Tensor, lam: Tensor, codes: Tensor | None = None) -> Tensor:
        check_inputs(x, self.pixels, 4)
        if codes is None:
            smallest = [size // self.fold for size in x.shape[2:]]
            codes = x.new_zeros(len(x), self.code_channels, *smallest)
        check_batch(codes, "codes", (self.code_channels, *codes.shape[2:]))
        if len(codes) != len(x):
            raise ValueError(f"codes must have one map for each of {len(x)} pictures; {len(codes)}")
        if self.place == "features":
            return self._with_features(x, lam, codes)
        if any(big % small for big, small in zip(x.shape[2:], codes.shape[2:])):
            raise ValueError(f"codes {tuple(codes.shape[2:])} do not divide {tuple(x.shape[2:])}")
        return super().forward(torch.cat([x, F.interpolate(codes, x.shape[2:])], 1), lam)

    def _with_features(self, x: Tensor, lam: Tensor, codes: Tensor) -> Tensor:
        """The walk of :class:`UNet`, with the map added before each level of its resolution."""
        emb = self.level(lam, None, len(x))
        h, kept, met = self.first(F.pixel_unshuffle(x, self.patch)), [], False
        for i, told in enumerate(self.told):
            h = self.down[2 * i - 1](h) if i else h
            if h.shape[2:] == codes.shape[2:]:
                h, met = h + told(codes), True
            kept.append(h := self.down[2 * i](h, emb))
        if not met:
            sizes = ", ".join(str(tuple(one.shape[2:])) for one in kept)
            raise ValueError(f"no level has the size {tuple(codes.shape[2:])} of codes: {sizes}")
        for i, told in enumerate(reversed(self.told)):
            h = self.up[2 * i - 1](h) if i else h
            if h.shape[2:] == codes.shape[2:]:
                h = h + told(codes)
            h = self.up[2 * i](torch.cat([h, kept.pop()], dim=1), emb)
        h = F.silu(self.norm(h))
        if isinstance(self.last, Fine):
            return self.last(h, x, emb)
        return F.pixel_shuffle(self.last(h), self.patch)


# ---- codes --------------------------------------------------------------------------------------
def joined(maps: Sequence[Tensor]) -> Tensor:
    """The vectors of several levels as one map of the finest resolution, (B, sum of d, h, w)."""
    size = max((one.shape[2:] for one in maps), key=tuple)
    return torch.cat([F.interpolate(one, size) for one in maps], dim=1)


@torch.no_grad()
def embedded(autoencoder: nn.Module, x: Tensor, batch: int = 500) -> Tensor:
    """e (N, d, h, w) of pictures (N, C, H, W) by a VQ autoencoder, all levels joined, on the CPU.

    Its ``quantise(x)`` answers with z, e, codes (each a list, one for each level) and a loss.
    """
    where = next(autoencoder.parameters()).device
    return torch.cat([joined(autoencoder.quantise(p.to(where))[1]).cpu() for p in x.split(batch)])


@torch.no_grad()
def consistency(autoencoder: nn.Module, x: Tensor, drawn: Tensor) -> float:
    """Share of codes that pictures ``x`` and what was drawn from their codes have in common."""
    pairs = zip(autoencoder.quantise(x)[2], autoencoder.quantise(drawn)[2])
    same = torch.cat([(a == b).flatten() for a, b in pairs])
    return same.double().mean().item()


def redrawn(
    model: Denoiser, autoencoder: str | Path | nn.Module, x: Tensor, **settings: Any
) -> Result:
    """Pictures x (N, C, H, W) encoded, and one drawn for the codes of each, (N, C, H, W).

    ``settings``: of ``generate``. CheckpointError for an autoencoder that is not the model's own.
    """
    autoencoder, _ = belonging(model, autoencoder)
    return generate(model, len(x), condition={"codes": embedded(autoencoder, x)}, **settings)


class DiVAE(Diffusion):
    """A denoiser told of e; ``options["autoencoder"]`` is a shipped name or a path.

    Data that have the condition "codes" already are taken as they are. ``recipe.net`` is a
    :class:`CodeUNet` whose code_channels fit.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("autoencoder",))
        if "codes" not in data.condition:
            if recipe.options.get("autoencoder") is None:
                raise ValueError(
                    'there are no codes: name a VQ autoencoder, options={"autoencoder": NAME}, or '
                    'give data with the condition "codes"'
                )
            first = first_stage(recipe.options["autoencoder"], "quantise")
            self.stands_on = standing_on(recipe.options["autoencoder"], first)
            e = embedded(first, data.x)
            data = replace(data, condition=data.condition | {"codes": e})
        given, wanted = data.condition["codes"].shape[1], recipe.net.get("code_channels", 4)
        if given != wanted:
            raise ValueError(f"codes have {given} channels, and code_channels of net is {wanted}")
        super().__init__(recipe.but(conditional=("codes",)), data)


# ---- where all is known -------------------------------------------------------------------------
def linear_gaussian(cov: Tensor, a: Tensor, schedule: Schedule) -> tuple[ExactDenoiser, Tensor]:
    """The exact denoiser of x ~ N(0, C) told codes e = A x, and K: the mean decoder is K e.

    C (D, D), A (k, D) of full rank, float64; codes (B, k). x given e is N(K e, C - K A C) with
    K = C A^T (A C A^T)^{-1}.
    """
    k = torch.linalg.solve(a @ cov @ a.T, a @ cov).T
    left = cov - k @ a @ cov
    rest = Gaussian(torch.zeros_like(cov[0]), (left + left.T) / 2)

    def x0(x_t: Tensor, alpha: Number, sigma: Number, *, codes: Tensor) -> Tensor:
        mean = codes @ k.T
        return mean + rest.x0(x_t - alpha * mean, alpha, sigma)

    return ExactDenoiser(schedule, x0, shape=(len(cov),)), k
