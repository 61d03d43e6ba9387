"""What trainings on codes share: codes of the data, pictures of codes, and what is told of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.data import Dataset
from diffusion_lab.data.captions import caption, tokeniser
from diffusion_lab.device import generator
from diffusion_lab.errors import CheckpointError, unknown
from diffusion_lab.latent.first_stage import belonging, first_stage, standing_on
from diffusion_lab.latent.ldm import no_text, records_of
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import indices, network

__all__ = ["Codes", "decode"]


class Codes:
    """The codes of a data set, int64 (N, D), with K values, and batches of them.

    ``options``: ``autoencoder``, the shipped name or the path of one whose ``encode(x)`` gives a
    list of maps of codes, fine first (they stand coarse first in a sequence, each a part of its
    own); ``captions``, to be told texts drawn anew in every step. Without an autoencoder pictures
    with levels are codes as they are, and so are points (N, D) that are whole numbers.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        self.recipe, self.data, self.autoencoder = recipe, data, None
        self.stands_on: dict[str, Any] | None = None
        name = recipe.options.get("autoencoder")
        if name is not None:
            self.autoencoder = first_stage(name, "encode", "decode")
            self._encode(name)
        elif data.x.ndim == 4 and data.levels is not None:
            x = (data.x + 1) * (data.levels - 1) / 2
            self.x, self.K, self.sizes = (
                x.round().long().flatten(1),
                data.levels,
                [data.x.shape[1:]],
            )
        elif data.x.ndim == 2 and bool((data.x == data.x.round()).all()) and data.x.min() >= 0:
            self.x = data.x.long()
            self.K, self.sizes = max(2, int(self.x.max()) + 1), [self.x.shape[1:]]
        else:
            raise ValueError(
                "codes are made of pictures with levels, of whole numbers (N, D), or by "
                f"options={{'autoencoder': ...}}; got x {tuple(data.x.shape)}"
            )
        self.parts = [math.prod(size) for size in self.sizes]
        self.told = list(data.condition)
        if isinstance(recipe.conditional, tuple):
            for one in recipe.conditional:
                if one not in [*data.condition, "tokens"]:
                    raise unknown("condition", one, data.condition)
            self.told = [one for one in recipe.conditional if one != "tokens"]
        elif not recipe.conditional:
            self.told = []
        self.texts = records_of(recipe, data) if recipe.options.get("captions") else None

    @property
    def num_classes(self) -> int | None:
        """How many classes the network is told of, if it is."""
        return len(self.data.classes) if "label" in self.told else None

    @torch.no_grad()
    def _encode(self, name: Any) -> None:
        where = next(self.autoencoder.parameters()).device
        maps = zip(*(self.autoencoder.encode(part.to(where)) for part in self.data.x.split(256)))
        maps = [torch.cat(level).cpu() for level in maps][::-1]
        if any(one.dtype != torch.int64 for one in maps):
            raise CheckpointError(f"{name} gives no codes: take one with code books")
        self.x = torch.cat([one.flatten(1) for one in maps], dim=1)
        self.K = len(self.autoencoder.quantisers[0].codes)
        self.sizes = [one.shape[1:] for one in maps]
        sizes = [list(size) for size in self.sizes]
        self.stands_on = standing_on(name, self.autoencoder, sizes=sizes)

    def batch(self, step: int) -> dict[str, Tensor]:
        """x0 and what the network is told, of the step: each condition dropped at its own rate."""
        r, null = self.recipe, self.recipe.null
        rates = null if isinstance(null, dict) else dict.fromkeys([*self.told, "tokens"], null)
        gen, pick = generator(r.seed, 1, step), indices(len(self.x), r.batch, r.seed, step)
        given = {
            name: (self.data.condition[name][pick], self.data.null[name]) for name in self.told
        }
        if self.texts is not None:
            said, _ = tokeniser().encode_all(caption(self.texts[i], gen) for i in pick.tolist())
            given["tokens"] = said, no_text(said.shape[1])
        batch = {"x0": self.x[pick]}
        for name, (value, empty) in given.items():
            u = torch.rand(r.batch, generator=gen, dtype=torch.float32, device="cpu")
            dropped = (u < rates.get(name, 0.0)).reshape(-1, *(1,) * (value.ndim - 1))
            batch[name] = torch.where(dropped, empty, value)
        return batch

    def net(self, **more: Any) -> nn.Module:
        """The recipe's network at the size of the codes; ``more`` are further arguments."""
        told = {} if self.num_classes is None else {"num_classes": self.num_classes}
        size = {"codes": self.K, "length": sum(self.parts), "parts": self.parts}
        return network(self.recipe, self.data, **size, **told, **more)

    def given(self, n: int) -> dict[str, Tensor]:
        """What n pictures of a preview are told: what the first batch is, in turns."""
        batch = self.batch(0)
        return {k: v[torch.arange(n) % len(v)] for k, v in batch.items() if k != "x0"}

    def pictures(self, x: Tensor) -> Tensor | None:
        """Pictures (N, C, H, W) of codes (N, D); None where the data are none."""
        if self.data.x.ndim != 4:
            return None
        if self.autoencoder is None:
            return x.reshape(-1, *self.sizes[0]).float() * 2 / (self.K - 1) - 1
        return _decoded(self.autoencoder, x, self.sizes)


def decode(model: nn.Module, x: Tensor, autoencoder: str | Path | nn.Module) -> Tensor:
    """Pictures of codes x (N, D) that ``model``, a loaded checkpoint, has drawn.

    CheckpointError for an autoencoder that the model was not trained on, and for a model whose
    header names none.
    """
    autoencoder, made = belonging(model, autoencoder, "sizes")
    return _decoded(autoencoder, x, made["sizes"])


@torch.no_grad()
def _decoded(autoencoder: nn.Module, x: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
    """Codes (N, D), coarse first, through a decoder that takes its maps fine first."""
    where = next(autoencoder.parameters()).device
    parts = x.to(where).split([math.prod(size) for size in sizes], dim=1)
    maps = [part.reshape(-1, *size) for part, size in zip(parts, sizes)]
    return autoencoder.decode(maps[::-1])
