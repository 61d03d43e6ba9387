"""What a training minimises. A task owns its models, its optimisers, its batches and its losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab import nets, schedules
from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import Denoiser, NetDenoiser, Prediction, Wrapped
from diffusion_lab.device import generator, randn
from diffusion_lab.errors import named, unknown
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.training.recipes import TASKS, Recipe

__all__ = [
    "Classification",
    "Diffusion",
    "Task",
    "adamw",
    "find",
    "fold",
    "indices",
    "network",
    "seeded",
]


class Task(Protocol):
    """One way to train: a class in the file of its system, named in ``Recipe(task=...)``.

    ``models``: what is trained, averaged, saved and loaded, each with a ``spec()`` of which
    ``nets.make(**spec)`` builds it again (``nets.make`` and ``NetDenoiser`` see to that). What is
    only used (a teacher, a decoder) is another attribute, put on ``device()`` by the task itself;
    the loop moves ``models`` alone.

    ``__init__(recipe, data)`` builds everything, the weights from ``recipe.seed`` (``seeded``);
    ``recipe.options`` holds what this task alone knows. ValueError for what it cannot train on.

    ``optimisers()``: one, or two for a generator and a discriminator, made once when the models are
    on their device. Each group keeps its own base learning rate; ``learning_rate`` says by which
    factor of it each step is taken.

    ``draw(step)``: the whole batch of that step by name, on the CPU, drawn from (seed, step) alone.
    Each tensor whose first dimension is ``recipe.batch`` is cut into equal slices, one for each
    process, each of them into ``recipe.accumulate`` parts; every other tensor goes whole to all.

    ``losses(average, **batch)`` yields one scalar for each optimiser, in their order, each the mean
    over the batch it was given. ``average`` is the averaged copy of ``models`` as the last step
    left it, in eval mode and without gradients; ``models`` are in training mode. After each yield
    the loop clears all gradients, goes backward, averages over parts and processes, and takes that
    optimiser's step, before it asks for the next loss: the second loss sees the first one's update.
    With several parts each has its iterator, and all are asked for their first loss before any for
    its second. What follows the last yield runs after the last step.

    What it uses beside its data may be named in ``stands_on``, plain values for the header of the
    checkpoint; a training is resumed only where they are the same.

    Two methods are optional, or None: ``preview(average)`` gives pictures (N, C, H, W) in [-1, 1]
    for ``preview_every``, and ``distance(average)`` a float, smaller where the model is better, for
    ``best_every``. Both must draw from seeds of their own.
    """

    models: nn.ModuleDict

    def __init__(self, recipe: Recipe, data: Dataset) -> None: ...

    def optimisers(self) -> list[Optimizer]: ...

    def draw(self, step: int) -> dict[str, Tensor]: ...

    def losses(self, average: nn.ModuleDict, **batch: Tensor) -> Iterator[Tensor]: ...


def find(name: str) -> Callable[[Recipe, Dataset], Task]:
    """The class of a recipe's task; ValueError for a name that is none."""
    return named("task", TASKS.get(name, name))


# ---- what tasks share ---------------------------------------------------------------------------
@contextmanager
def seeded(*seed: int) -> Iterator[None]:
    """Within it torch's own draws, of first weights, come from the seed; outside nothing moves."""
    own = torch.default_generator  # of the CPU; torch.manual_seed would reseed every GPU too
    before = own.get_state()
    own.manual_seed(generator(*seed, 0).initial_seed())
    try:
        yield
    finally:
        own.set_state(before)


def network(recipe: Recipe, data: Dataset, **more: Any) -> nn.Module:
    """The recipe's network at the size of the data, its first weights drawn from the seed.

    Channels of pictures, or the dimension of points, are the data's; ``more`` are further
    arguments.
    """
    spec = {k: v for k, v in recipe.net.items() if k != "name"} | more
    takes = inspect.signature(nets.find(recipe.net["name"])).parameters
    spec |= {size: data.x.shape[1] for size in ("channels", "dim") if size in takes}
    with seeded(recipe.seed):
        return nets.make(recipe.net["name"], **spec)


def fold(recipe: Recipe) -> int:
    """What height and width must be a multiple of for the recipe's network."""
    spec = {k: v for k, v in recipe.net.items() if k != "name"}
    with torch.device("meta"):
        return getattr(nets.make(recipe.net["name"], **spec), "fold", 1)


def adamw(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """AdamW as the recipe has it."""
    return torch.optim.AdamW(
        parameters, recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, 2, epoch), device="cpu")


def indices(n: int, batch: int, seed: int, step: int) -> Tensor:
    """Which pictures step number ``step`` sees: every epoch is a fresh permutation."""
    place = torch.arange(step * batch, (step + 1) * batch, device="cpu")
    pick = torch.empty(batch, dtype=torch.int64, device="cpu")
    for epoch in torch.unique(place // n).tolist():
        here = place // n == epoch
        pick[here] = _order(n, seed, epoch)[place[here] % n]
    return pick


def _uniform(gen: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=gen, dtype=torch.float32, device="cpu")


# ---- the two tasks of the core ------------------------------------------------------------------
class Diffusion:
    """A denoiser, by the weighted squared error of its prediction."""

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        self.recipe, self.data = recipe, data
        self.conditions = _conditions(recipe, data)
        self.null = recipe.null if isinstance(recipe.null, dict) else {"label": recipe.null}
        for name in self.null.keys() - {"label"} - set(self.conditions):
            raise unknown("condition in null", name, self.conditions)
        classes = len(data.classes) if "label" in self.conditions else None
        schedule = schedules.make(**recipe.schedule)
        model = NetDenoiser(
            network(recipe, data, **({} if classes is None else {"num_classes": classes})),
            schedule,
            recipe.kind,
            sd=round(data.std, 4) if recipe.sd is None else recipe.sd,
            shape=tuple(data.x.shape[1:]),
            num_classes=classes,
            lam_range=recipe.lam_range,
            learned_var=recipe.hybrid,
        )
        self.models = nn.ModuleDict({"model": model})
        weighting = {k: v for k, v in recipe.weighting.items() if k != "name"}
        if recipe.weighting["name"] == "edm":
            weighting.setdefault("sd", model.sd)
        weighting = Weighting(recipe.weighting["name"], weighting)
        self.loss = DiffusionLoss(model, weighting, hybrid=recipe.hybrid, levels=data.levels or 256)
        if recipe.sampler:  # what is wrong in it shall not be found when the training is over
            self._drawn(_Silent(model), 1)
        if data.x.ndim != 4:
            self.preview = None

    def optimisers(self) -> list[Optimizer]:
        return [adamw(self.recipe, self.models.parameters())]

    def draw(self, step: int) -> dict[str, Tensor]:
        r = self.recipe
        gen = generator(r.seed, 1, step)
        pick = indices(len(self.data), r.batch, r.seed, step)
        x0 = self.data.x[pick]
        eps = randn(x0.shape, gen)
        t = draw_times(
            self.models["model"].schedule, r.batch, gen, lam_range=r.lam_range, **r.times
        )
        batch = {"x0": x0, "t": t, "eps": eps}
        for name in self.conditions:
            value = self.data.condition[name][pick]
            dropped = _uniform(gen, r.batch) < self.null.get(name, 0.0)
            dropped = dropped.reshape(-1, *(1,) * (value.ndim - 1))
            batch[name] = torch.where(dropped, self.data.null[name], value)
        return batch

    def losses(self, average: nn.ModuleDict, **batch: Tensor) -> Iterator[Tensor]:
        yield self.loss(**batch).mean()

    def preview(self, average: nn.ModuleDict) -> Tensor:
        """40 pictures that the averaged model draws, in rows of ten, from the same noise always."""
        return self._drawn(average["model"], 40)

    @property
    def distance(self) -> Callable[[nn.ModuleDict], float] | None:
        """The Fréchet distance of 500 pictures by the recipe's sampler (compare within one run)."""
        from diffusion_lab.metrics.frechet import NETS, SHAPES, fd

        name = self.data.name  # frozen features are of the course's own data
        if name not in NETS or tuple(self.data.x.shape[1:]) != SHAPES[name] or self.data.source:
            return None
        return lambda average: fd(self._drawn(average["model"], 500).cpu(), name)

    def _drawn(self, model: Denoiser, n: int) -> Tensor:
        from diffusion_lab.generate import generate

        pick = torch.arange(n, device="cpu")
        given = {name: self.data.condition[name][pick % len(self.data)] for name in self.conditions}
        options = dict(self.recipe.sampler)
        if given.pop("label", None) is None:
            label = None
            null = {name: self.data.null[name] for name in given if self.null.get(name)}
            if null:
                options["null"] = null
            else:
                options.pop("scale", None)  # there is nothing to be guided from
        else:  # one class after another
            label = pick % len(self.data.classes)
        options |= {"condition": given} if given else {}
        return generate(model, n, label=label, seed=self.recipe.seed, **options).x


class _Silent(Wrapped):
    """Says x_0 = 0 at once: a walk through it shows whether a sampler's settings can be."""

    def forward(self, x_t: Tensor, t: Any, **condition: Any) -> Prediction:
        zero = torch.zeros_like(x_t)
        weight = zero if self.inner.learned_var else None
        return Prediction(x_t, *self.levels(t, x_t), zero, "x0", var_weight=weight)


def _conditions(recipe: Recipe, data: Dataset) -> tuple[str, ...]:
    """What the network is told: of the data's conditions those that the recipe names, or all."""
    if recipe.conditional is True and not data.condition:
        raise ValueError(
            "the recipe is conditional and the data have no labels: recipe.but(conditional=False) "
            "(on the command line --set conditional=false)"
        )
    if isinstance(recipe.conditional, bool):
        return tuple(data.condition) if recipe.conditional else ()
    for name in recipe.conditional:
        if name not in data.condition:
            raise unknown("condition", name, data.condition)
    return tuple(recipe.conditional)


class Classification:
    """Cross-entropy of a classifier, with the pictures moved by up to one pixel.

    A fifth of the features is dropped; which ones is drawn here, from (seed, step) too.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        if data.labels is None or data.x.ndim != 4:
            raise ValueError(
                "a classifier is trained on pictures with labels; these data have none"
            )
        self.recipe, self.data = recipe, data
        self.models = nn.ModuleDict({"model": network(recipe, data, num_classes=len(data.classes))})

    def optimisers(self) -> list[Optimizer]:
        return [adamw(self.recipe, self.models.parameters())]

    def draw(self, step: int) -> dict[str, Tensor]:
        gen = generator(self.recipe.seed, 1, step)
        pick = indices(len(self.data), self.recipe.batch, self.recipe.seed, step)
        dx, dy = torch.randint(-1, 2, (2,), generator=gen, device="cpu").tolist()
        x = nn.functional.pad(self.data.x[pick], (1, 1, 1, 1), value=-1.0)
        x = x.roll((dy, dx), (2, 3))[:, :, 1:-1, 1:-1]
        features = self.models["model"].head.in_features
        kept = (_uniform(gen, self.recipe.batch, features) >= 0.2).to(x.dtype) / 0.8
        return {"x": x, "labels": self.data.labels[pick], "kept": kept}

    def losses(
        self, average: nn.ModuleDict, x: Tensor, labels: Tensor, kept: Tensor
    ) -> Iterator[Tensor]:
        model = self.models["model"]
        scores = model.head(model.features(x) * kept)
        yield nn.functional.cross_entropy(scores, labels, label_smoothing=0.05)
