"""What a training minimises: the batch of a step, drawn from (seed, step) alone, and its loss."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from diffusion_lab.data import Dataset
from diffusion_lab.device import generator
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.training.recipes import Recipe

__all__ = ["TASKS", "Classification", "Diffusion", "indices"]


class Diffusion(nn.Module):
    """The loss of global batch number ``step``, drawn from (seed, step), on one process's slice."""

    def __init__(self, model: nn.Module, recipe: Recipe, data: Dataset) -> None:
        super().__init__()
        parameters = {k: v for k, v in recipe.weighting.items() if k != "name"}
        if recipe.weighting["name"] == "edm":
            parameters.setdefault("sd", model.sd)
        weighting = Weighting(recipe.weighting["name"], parameters)
        self.loss = DiffusionLoss(model, weighting, hybrid=recipe.hybrid, levels=data.levels)
        self.recipe, self.schedule, self.null = recipe, model.schedule, model.num_classes

    def draw(self, data: Dataset, step: int) -> tuple[Tensor | None, ...]:
        r = self.recipe
        gen = generator(r.seed, 1, step)
        pick = indices(len(data), r.batch, r.seed, step)
        x0 = data.x[pick]
        eps = torch.randn(x0.shape, generator=gen)
        t = draw_times(self.schedule, r.batch, gen, lam_range=r.lam_range, **r.times)
        if not r.conditional:
            return x0, t, eps, None
        dropped = torch.rand(r.batch, generator=gen) < r.null
        return x0, t, eps, torch.where(dropped, self.null, data.labels[pick])

    def forward(self, *batch: Tensor | None) -> Tensor:
        return self.loss(*batch).mean()


class Classification(nn.Module):
    """Cross-entropy of a classifier, with the pictures moved by up to one pixel.

    A fifth of the features is dropped; which ones is drawn here, from (seed, step) too.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, data: Dataset) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def draw(self, data: Dataset, step: int) -> tuple[Tensor | None, ...]:
        gen = generator(self.recipe.seed, 1, step)
        pick = indices(len(data), self.recipe.batch, self.recipe.seed, step)
        dx, dy = torch.randint(-1, 2, (2,), generator=gen).tolist()
        x = nn.functional.pad(data.x[pick], (1, 1, 1, 1), value=-1.0)
        x = x.roll((dy, dx), (2, 3))[:, :, 1:-1, 1:-1]
        size = (self.recipe.batch, self.model.head.in_features)
        kept = (torch.rand(size, generator=gen) >= 0.2).float() / 0.8
        return x, data.labels[pick], kept

    def forward(self, x: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        scores = self.model.head(self.model.features(x) * kept)
        return nn.functional.cross_entropy(scores, labels, label_smoothing=0.05)


TASKS = {"diffusion": Diffusion, "classifier": Classification}


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, 2, epoch))


def indices(n: int, batch: int, seed: int, step: int) -> Tensor:
    """Which pictures step number ``step`` sees: every epoch is a fresh permutation."""
    place = torch.arange(step * batch, (step + 1) * batch)
    pick = torch.empty(batch, dtype=torch.int64)
    for epoch in torch.unique(place // n).tolist():
        here = place // n == epoch
        pick[here] = _order(n, seed, epoch)[place[here] % n]
    return pick
