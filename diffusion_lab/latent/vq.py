"""Autoencoders with codes: VQ on one level, MS-VQGAN on two (Frido, Fan et al. 2022, 2208.13753).

Two levels are encoded coarse to fine (eq 12): the coarse map is quantised first, and the fine level
sees its own features together with the *quantised* coarse map, doubled by a learned convolution, so
that it only has to say what is missing. The decoder gets all levels at the fine resolution.

    z_2 = conv(F_2(F_1(x)))          e_2 = nearest codes            4 x 4 of the emoji
    z_1 = conv(fuse[F_1(x), up e_2]) e_1 = nearest codes            8 x 8
    x~  = D[e_1, up e_2]

Diffusion in continuous latents runs on z, before the codes are looked up; ``decode_latents``
quantises. Losses: those of ``autoencoder``, with the two terms of ``quantiser`` for each level in
place of the KL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.data import Dataset
from diffusion_lab.errors import number, share, whole
from diffusion_lab.latent.autoencoder import (
    Block,
    augmented,
    check_widths,
    decoder,
    encoder,
    quality,
    reconstruction,
    side_by_side,
)
from diffusion_lab.latent.quantiser import Quantiser, perplexity
from diffusion_lab.nets.layers import check_inputs, check_sizes
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import adamw, check_options, network

__all__ = ["VQAutoencoder", "VQAutoencoding", "levels_quality"]


class VQAutoencoder(nn.Module):
    """Pictures (B, channels, H, W) to one or two maps of codes, fine first, and back.

    Args:
        channels: of a picture.
        latent: numbers of a code.
        widths: channels at half, a quarter, ... of the resolution; f = 2 ** len(widths) of the fine
            level, and 2 f of the coarse one.
        size: codes of each level.
        levels: 1 (VQ-VAE, with f alone) or 2.
        commitment: see ``Quantiser``.
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        widths: Sequence[int] = (32, 64),
        size: int = 128,
        levels: int = 2,
        commitment: float = 0.25,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latent=latent, size=size)
        check_widths(widths)
        if whole("levels", levels) > 2:
            raise ValueError(f"levels are 1 or 2; got {levels}")
        self.channels, self.latent, self.factor = channels, latent, 2 ** len(widths)
        width = widths[-1]
        self.encoder = encoder(channels, widths)
        self.quantisers = nn.ModuleList(Quantiser(size, latent, commitment) for _ in range(levels))
        self.coarse = self.up = self.fuse = None
        if levels == 2:
            self.coarse = nn.Sequential(
                nn.Conv2d(width, width, 3, stride=2, padding=1), Block(width), nn.SiLU(),
                nn.Conv2d(width, latent, 1),
            )  # fmt: skip
            self.up = nn.ConvTranspose2d(latent, width, 4, stride=2, padding=1)
            self.fuse = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), Block(width))
        self.fine = nn.Sequential(nn.SiLU(), nn.Conv2d(width, latent, 1))
        self.doubled = (
            nn.ConvTranspose2d(latent, latent, 4, stride=2, padding=1) if self.up else None
        )
        self.decoder = decoder(latent * levels, channels, widths)

    def quantise(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """z, e (straight through), codes of each level, fine first, and the codes' loss (B,)."""
        check_inputs(x, self.channels, 4)
        multiple = self.factor * len(self.quantisers)
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(
                f"height and width must be multiples of {multiple}; got {tuple(x.shape[2:])}"
            )
        h, found = self.encoder(x), []
        if self.coarse is not None:
            z = self.coarse(h)
            found.append((z, *self.quantisers[1](z)))
            h = self.fuse(torch.cat([h, self.up(found[0][1])], dim=1))
        z = self.fine(h)
        found.insert(0, (z, *self.quantisers[0](z)))
        z, e, codes, losses = map(list, zip(*found))
        return z, e, codes, sum(losses)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The codes of each level, int64 (B, H/f, W/f) and, with two, (B, H/2f, W/2f)."""
        return self.quantise(x)[2]

    def latents(self, x: Tensor) -> list[Tensor]:
        """z of each level, (B, latent, H/f, W/f) and (B, latent, H/2f, W/2f), not quantised."""
        return self.quantise(x)[0]

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """Pictures of the codes of each level, fine first."""
        self._check(codes)
        return self.picture([q.lookup(c) for q, c in zip(self.quantisers, codes)])

    def decode_latents(self, z: Sequence[Tensor]) -> Tensor:
        """Pictures of z of each level, fine first: the nearest codes are looked up first."""
        self._check(z)
        return self.decode([q.nearest(one) for q, one in zip(self.quantisers, z)])

    def picture(self, e: Sequence[Tensor]) -> Tensor:
        """The decoder alone, of vectors of each level as they are."""
        parts = [e[0]] if self.doubled is None else [e[0], self.doubled(e[1])]
        return self.decoder(torch.cat(parts, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """The picture as it comes back."""
        return self.picture(self.quantise(x)[1])

    def _check(self, maps: Sequence[Tensor]) -> None:
        if isinstance(maps, Tensor) or len(maps) != len(self.quantisers):
            raise ValueError(
                f"give one map for each of the {len(self.quantisers)} levels, fine first, in a list"
            )


class VQAutoencoding:
    """A VQ autoencoder; options: ``gradient``, ``codes`` (weights), ``revive`` (until which share),
    ``fill`` as for the KL autoencoder, ``drop``: the share of pictures that are made of the coarse
    level alone.

    The fine level could say nearly everything by itself, and the coarse one then says nothing: only
    where the fine one is left out must the layout be on the coarse one.

    Pictures are moved as for the KL autoencoder. Unused codes are put to use again in every step of
    the first part of the training alone, so that the averaged model has codes that stay.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("gradient", "codes", "revive", "drop", "fill"))
        if data.x.ndim != 4:
            raise ValueError(f"an autoencoder is trained on pictures; got x {tuple(data.x.shape)}")
        self.recipe, self.data = recipe, data
        self.options = {
            name: number(name, recipe.options.get(name, default))
            for name, default in (
                ("gradient", 0.5),
                ("codes", 1.0),
                ("revive", 0.5),
                ("drop", 0.25),
            )
        }
        share("drop", self.options["drop"])
        self.models = nn.ModuleDict({"model": network(recipe, data)})

    def optimisers(self) -> list[Optimizer]:
        return [adamw(self.recipe, self.models.parameters())]

    def draw(self, step: int) -> dict[str, Tensor]:
        x, gen = augmented(self.recipe, self.data, step)
        early = step < self.options["revive"] * self.recipe.steps
        two = len(self.models["model"].quantisers) == 2
        chance = torch.rand(len(x), 1, 1, 1, generator=gen, dtype=torch.float32, device="cpu")
        fine = chance >= (self.options["drop"] if two else 0.0)
        return {"x": x, "fine": fine, "revive": torch.tensor(early and step % 20 == 19)}

    def losses(
        self, average: nn.ModuleDict, x: Tensor, fine: Tensor, revive: Tensor
    ) -> Iterator[Tensor]:
        model = self.models["model"]
        if revive:  # of what the last step saw; before the gradient, in all processes alike
            for one in model.quantisers:
                one.revive()
        _, e, _, codes = model.quantise(x)
        e[0] = e[0] * fine
        loss = reconstruction(x, model.picture(e), self.options["gradient"]) / x[0].numel()
        yield (loss + self.options["codes"] * codes).mean()

    def preview(self, average: nn.ModuleDict) -> Tensor:
        """Ten pictures in a row, and below them as they come back, twice."""
        return side_by_side(average["model"], self.data)


@torch.no_grad()
def levels_quality(model: VQAutoencoder, data: Dataset) -> dict[str, Any]:
    """``quality``, the perplexity of each level (fine first), and what each contributes.

    ``without``: the mean squared error where the codes of that level are of another picture (the
    next one of the data), beside ``mse`` with both. ``coarse``: that of the coarse level alone.
    """
    where = next(model.parameters()).device
    found = [model.encode(part.to(where)) for part in data.x.split(256)]
    codes = [torch.cat(level) for level in zip(*found)]
    size = len(model.quantisers[0].codes)
    without = []
    for level in range(len(codes)):
        mixed = [c.roll(1, 0) if i == level else c for i, c in enumerate(codes)]
        back = torch.cat([model.decode(part) for part in zip(*(c.split(256) for c in mixed))])
        without.append((data.x.to(where) - back.clamp(-1, 1)).square().mean().item())
    found = {"perplexity": [perplexity(c, size) for c in codes], "without": without}
    if len(codes) == 2:
        e = [q.lookup(c) for q, c in zip(model.quantisers, codes)]
        alone = model.picture([torch.zeros_like(e[0]), e[1]]).clamp(-1, 1)
        found["coarse"] = (data.x.to(where) - alone).square().mean().item()
    return quality(model, data) | found
