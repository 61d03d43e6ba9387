"""Latent diffusion (Rombach et al. 2021, 2112.10752): a denoiser of an autoencoder's latents.

    z_0 = s E(x),   s = 1/std of all numbers of the first batch,   x = D(z_0 / s)

The loss is that of any denoiser, on z_t = alpha_t z_0 + sigma_t eps (eq 8). The data are encoded
once: mu and the standard deviation of every latent number are kept, and z is drawn anew in every
step, as from the autoencoder itself. What a picture is called is drawn anew too (``captions``), and
left out as often as ``recipe.null["tokens"]`` says.

A model remembers the autoencoder of its latents, and s: ``decode`` refuses any other
(:mod:`diffusion_lab.latent.first_stage`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_lab.data import Dataset
from diffusion_lab.data.captions import NULL, PAD, caption, full_caption, tokeniser
from diffusion_lab.data.emoji import Record, records
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import generator, randn
from diffusion_lab.latent.first_stage import belonging, first_stage, standing_on
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import Diffusion, check_options, indices

__all__ = ["LatentDiffusion", "decode", "no_text", "records_of", "scale_of"]


class LatentDiffusion(Diffusion):
    """A denoiser of latents, or with ``autoencoder`` None of the pictures themselves.

    Options: ``autoencoder``, the name of a shipped one or the path of its file; ``captions``, to
    train with the condition ``tokens``. Anything with ``moments(x)`` and ``decode(z)`` will do.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("autoencoder", "captions"))
        name = recipe.options.get("autoencoder")
        self.texts = records_of(recipe, data) if recipe.options.get("captions") else None
        told = recipe.conditional
        if self.texts and not (told is True or (told and "tokens" in told)):
            raise ValueError("captions are the condition tokens: conditional=['tokens']")
        self.seed, self.autoencoder, self.scale, latents = recipe.seed, None, 1.0, data
        if name is not None:
            self.autoencoder = first_stage(name, "moments", "decode")
            self.mean, self.spread = _moments(self.autoencoder, data.x)
            self.scale = scale_of(self._z(0, indices(len(data), recipe.batch, recipe.seed, 0)))
            self.stands_on = standing_on(name, self.autoencoder, scale=self.scale)
            latents = replace(
                data, x=self.scale * self.mean, name=f"{data.name}-latents", levels=None, std=1.0
            )
        if self.texts is not None:
            full, _ = tokeniser().encode_all(map(full_caption, self.texts))
            latents = replace(
                latents,
                condition=latents.condition | {"tokens": full},
                null=latents.null | {"tokens": no_text(full.shape[1])},
            )
        super().__init__(recipe, latents)

    def _z(self, step: int, pick: Tensor) -> Tensor:
        """E(x) of some pictures, with the noise of the step."""
        noise = randn(self.mean[pick].shape, generator(self.seed, 4, step))
        return self.mean[pick] + self.spread[pick] * noise

    def draw(self, step: int) -> dict[str, Tensor]:
        batch = super().draw(step)
        pick = indices(len(self.data), self.recipe.batch, self.recipe.seed, step)
        if self.autoencoder is not None:
            batch["x0"] = self.scale * self._z(step, pick)
        if self.texts is not None:
            gen = generator(self.recipe.seed, 5, step)
            said, _ = tokeniser().encode_all(caption(self.texts[i], gen) for i in pick.tolist())
            dropped = (batch["tokens"] == self.data.null["tokens"]).all(1)
            batch["tokens"] = torch.where(dropped[:, None], batch["tokens"], said)
        return batch

    def _drawn(self, model: Denoiser, n: int) -> Tensor:
        z = super()._drawn(model, n)
        return z if self.autoencoder is None else self.autoencoder.decode(z / self.scale)

    @property
    def distance(self) -> None:
        """None: frozen features are of pictures, and pictures need their texts."""
        return None


# ---- the autoencoder of a model -----------------------------------------------------------------
def scale_of(z: Tensor) -> float:
    """s = 1/std of all numbers of z, six digits of it; ValueError where they are all equal."""
    std = z.double().std(correction=0).item()
    if not 0 < std < float("inf"):
        raise ValueError(f"latents of standard deviation {std} have no scale")
    return float(f"{1 / std:.6g}")


@torch.no_grad()
def decode(model: nn.Module, z: Tensor, autoencoder: str | Path | nn.Module) -> Tensor:
    """Pictures D(z / s) of latents z that ``model``, a loaded checkpoint, has drawn.

    CheckpointError for an autoencoder that the model was not trained on, and for a model whose
    header names none.
    """
    autoencoder, made = belonging(model, autoencoder, "scale")
    where = next(autoencoder.parameters())
    return autoencoder.decode(z.to(where) / made["scale"])


def no_text(length: int) -> Tensor:
    """The tokens of no text at all, int64 (length,): NULL, then PAD."""
    return torch.tensor([NULL] + [PAD] * (length - 1), device="cpu")


@torch.no_grad()
def _moments(autoencoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of z of every picture, on the CPU."""
    where = next(autoencoder.parameters()).device
    parts = [autoencoder.moments(part.to(where)) for part in x.split(256)]
    mean, logvar = (torch.cat(many).cpu().contiguous() for many in zip(*parts))
    return mean, (0.5 * logvar).exp()


def records_of(recipe: Recipe, data: Dataset) -> tuple[Record, ...]:
    """What the pictures are called; ValueError where nothing says it."""
    if data.name != "emoji":
        raise ValueError(f"only the emoji have captions; got the data {data.name!r}")
    found = records(data.split)
    if len(found) != len(data):
        raise ValueError(f"{len(data)} pictures, and words of {len(found)}: give the whole split")
    rows = recipe.net.get("vocabulary")
    if rows is not None and rows != len(tokeniser()):
        raise ValueError(f"the tokeniser has {len(tokeniser())} tokens, the network {rows}")
    return found
