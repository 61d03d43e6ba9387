"""Latent DDIM: a small diffusion on the z of a diffusion autoencoder (2111.15640, section 3.3).

Its training has set z free of any prior, so one is learned afterwards: z is standardised, each
dimension by mean and standard deviation over the training pictures (which are saved with the
model), and a small MLP learns to denoise it. In each hidden layer (appendix A),

    h <- SiLU(LN((1 + c) W [h, x])),      c read from the noise level, x the network's own input.

New pictures: z from here, x_T from N(0, I), then :func:`diffusion_lab.latent.diffae.decode`. Along
the normal w of a linear classifier of standardised z, pictures change by what it tells apart:

    z' = z + s w/|w|       (z standardised).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab import nets
from diffusion_lab.data import Dataset
from diffusion_lab.device import check_batch
from diffusion_lab.errors import number
from diffusion_lab.forward import noised
from diffusion_lab.generate import generate
from diffusion_lab.latent.first_stage import first_stage
from diffusion_lab.nets.layers import LevelEmbedding, check_inputs, check_sizes, zero
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import Diffusion, check_options

__all__ = ["LatentMLP", "Prior", "Standardiser", "direction", "draw", "edit", "encoded"]


class LatentMLP(nn.Module):
    """x (B, dim), lam (B,) or (1,) -> (B, dim): an MLP that sees its input again in every layer."""

    def __init__(self, dim: int = 16, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width, depth=depth)
        self.level = LevelEmbedding(width)
        sizes = [dim] + [width + dim] * (depth - 1)
        self.hidden = nn.ModuleList([nn.Linear(size, width) for size in sizes])
        self.told = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])
        self.last = zero(nn.Linear(width + dim, dim))

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        check_inputs(x, self.hidden[0].in_features, 2)
        level, seen = self.level(lam, None, len(x)), x
        for layer, told, norm in zip(self.hidden, self.told, self.norms, strict=True):
            h = F.silu(norm((1 + told(level)) * layer(seen)))
            seen = torch.cat([h, x], dim=1)
        return self.last(seen)


class Standardiser(nn.Module):
    """z (B, dim) with mean 0 and standard deviation 1 in each dimension, and back."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        check_sizes(dim=dim)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, z: Tensor) -> Standardiser:
        """Take the statistics of z (N, dim). ValueError where a dimension never changes."""
        check_batch(z, "z", tuple(self.mean.shape))
        mean, std = z.double().mean(0), z.double().std(0, correction=0)
        if not bool((std > 0).all()):
            raise ValueError("a dimension of z is the same for all data: there is nothing to learn")
        self.mean.copy_(mean), self.std.copy_(std)
        return self

    def forward(self, z: Tensor) -> Tensor:
        check_batch(z, "z", tuple(self.mean.shape))
        return (z - self.mean) / self.std

    def back(self, standard: Tensor) -> Tensor:
        check_batch(standard, "standardised z", tuple(self.mean.shape))
        return standard * self.std + self.mean


@torch.no_grad()
def encoded(encoder: nn.Module, x: Tensor, batch: int = 500) -> Tensor:
    """z (N, dim) of pictures (N, C, H, W), on the CPU."""
    where = next(encoder.parameters()).device
    return torch.cat([encoder(part.to(where)).cpu() for part in x.split(batch)])


class Prior(Diffusion):
    """Diffusion of standardised z; saved as "model" and "standardiser".

    Data are z (N, dim), or pictures that ``options["autoencoder"]`` (a shipped name or a path)
    encodes. With ``options["l1"]`` the loss is the paper's |eps - eps_hat|, else the recipe's.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("autoencoder", "l1"))
        name = recipe.options.get("autoencoder")
        z = data.x
        if name is not None and z.ndim == 4:
            z = encoded(first_stage(name)["encoder"], z)
        if z.ndim != 2:
            raise ValueError(
                f"a prior is learned of z (N, dim); got x {tuple(z.shape)} (pictures are encoded "
                'with options={"autoencoder": NAME})'
            )
        fitted = nets.make("diffusion_lab.latent.prior:Standardiser", dim=z.shape[1]).fit(z)
        z = fitted(z)
        data = replace(data, x=z, levels=None, std=z.std(correction=0).item())
        super().__init__(recipe, data)
        self.models["standardiser"] = fitted

    def losses(self, average: nn.ModuleDict, **batch: Tensor) -> Iterator[Tensor]:
        if not self.recipe.options.get("l1"):
            yield self.loss(**batch).mean()
            return
        x_t = noised(batch["x0"], batch["eps"], self.models["model"].schedule, batch["t"])
        told = {k: v for k, v in batch.items() if k not in ("x0", "eps", "t")}
        pred = self.models["model"](x_t, batch["t"], **told)
        yield (pred.eps - batch["eps"]).abs().mean()


def draw(models: nn.ModuleDict, n: int, **options: Any) -> Tensor:
    """n new z (n, dim), as the decoder wants them; ``options`` are those of ``generate``."""
    return models["standardiser"].back(generate(models["model"], n, **options).x)


# ---- attributes ---------------------------------------------------------------------------------
def direction(z: Tensor, yes: Tensor, ridge: float = 1.0, steps: int = 25) -> Tensor:
    """w/|w| (dim,) of the logistic regression of ``yes`` (N,) bool on standardised z (N, dim).

    It minimises sum log(1 + exp(-+ (w z + b))) + ridge/2 |w|^2 by Newton's method. ValueError
    where all are yes, or all no.
    """
    check_batch(z, "z", None)
    if yes.shape != (len(z),) or yes.dtype != torch.bool or bool(yes.all()) or not bool(yes.any()):
        raise ValueError(f"yes must be bool ({len(z)},), with both answers in it; got {yes.dtype}")
    ridge = number("ridge", ridge, above=True)
    z1 = torch.cat([z, torch.ones_like(z[:, :1])], 1).double()
    held = ridge * torch.eye(z1.shape[1], dtype=z1.dtype, device=z.device)
    held[-1, -1] = 0.0
    w = torch.zeros(z1.shape[1], dtype=z1.dtype, device=z.device)
    for _ in range(steps):
        p = (z1 @ w).sigmoid()
        slope = z1.T @ (p - yes.double()) + held @ w
        w = w - torch.linalg.solve(z1.T @ ((p * (1 - p))[:, None] * z1) + held, slope)
    return (w[:-1] / w[:-1].norm()).to(z.dtype)


def edit(standardiser: Standardiser, z: Tensor, towards: Tensor, s: float) -> Tensor:
    """z (B, dim) moved by s standard deviations along ``towards`` (dim,), and scaled back."""
    return standardiser.back(standardiser(z) + s * towards / towards.norm())
