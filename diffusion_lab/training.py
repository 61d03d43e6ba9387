"""One training loop for everything, on Hugging Face Accelerate.

The loop is a generator: it trains and now and then yields a ``Progress``, and the caller decides
what to print, plot or save. The batch, times and noise of step k are drawn from (seed, k) alone,
for the whole batch, and every process takes its slice. So a training that was killed and resumed
equals one that never stopped, bit for bit, and two processes follow the loss curve of one.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints, nets, schedules
from diffusion_lab.data import Dataset, load
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator
from diffusion_lab.errors import CheckpointError
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.recipes import Recipe

__all__ = ["EMA", "Progress", "build", "fit", "learning_rate", "train"]


@dataclass
class Progress:
    """Where a training stands. ``model`` holds the averaged (EMA) weights, in eval mode."""

    step: int
    steps: int
    loss: float  # mean since the last report, over the whole batch
    cpu_seconds: float  # of this process and of the runs it resumed, saving and previews left out
    model: nn.Module = field(repr=False)

    @property
    def share(self) -> float:
        return self.step / self.steps


class EMA:
    """w_ema <- d w_ema + (1 - d) w with d = min(decay, (1 + n)/(10 + n)); buffers are copied."""

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average must lie in [0, 1); got {decay}")
        self.decay = decay

    @torch.no_grad()
    def update(self, average: nn.Module, model: nn.Module, n: int) -> None:
        d = min(self.decay, (1 + n) / (10 + n))
        ours, theirs = list(average.parameters()), list(model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - d)
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.copy_(b)


def build(recipe: Recipe, data: Dataset) -> nn.Module:
    """The untrained model of a recipe: a NetDenoiser, or a classifier."""
    spec = {k: v for k, v in recipe.net.items() if k != "name"}
    if recipe.task == "classifier":
        spec |= {"channels": data.x.shape[1], "num_classes": len(data.classes)}
    elif recipe.net["name"] == "unet":
        spec |= {"channels": data.x.shape[1]}
    if recipe.task == "diffusion" and recipe.conditional:
        spec |= {"num_classes": len(data.classes)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(recipe.seed, 0).initial_seed())
        net = nets.make(recipe.net["name"], **spec)
    net.spec = {"name": recipe.net["name"], **spec}
    if recipe.task == "classifier":
        return net
    schedule = schedules.make(**recipe.schedule)
    return NetDenoiser(
        net,
        schedule,
        recipe.kind,
        sd=round(data.std, 4) if recipe.sd is None else recipe.sd,
        shape=tuple(data.x.shape[1:]),
        num_classes=len(data.classes) if recipe.conditional else None,
        lam_range=recipe.lam_range or _grid_range(schedule),
        learned_var=recipe.hybrid,
    )


def _grid_range(schedule: schedules.Schedule) -> tuple[float, float] | None:
    """The lambdas of a T-step schedule: what a network trained on its grid has seen."""
    if schedule.T is None or schedule.alpha(1.0) == 0:
        return None
    return round(schedule.lam(1.0), 4), round(schedule.lam(1 / schedule.T), 4)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, flat, then linear to 0 over the last ``1 - decay`` of the steps."""
    up = min(1.0, (step + 1) / max(recipe.warmup, 1))
    down = min(1.0, (steps - step) / max(steps * (1 - recipe.decay), 1))
    return recipe.lr * up * down


class _Diffusion(nn.Module):
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
        pick = _indices(len(data), r.batch, r.seed, step)
        x0 = data.x[pick]
        eps = torch.randn(x0.shape, generator=gen)
        t = draw_times(self.schedule, r.batch, gen, lam_range=r.lam_range, **r.times)
        if not r.conditional:
            return x0, t, eps, None
        dropped = torch.rand(r.batch, generator=gen) < r.null
        return x0, t, eps, torch.where(dropped, self.null, data.labels[pick])

    def forward(self, *batch: Tensor | None) -> Tensor:
        return self.loss(*batch).mean()


class _Classification(nn.Module):
    """Cross-entropy of a classifier, with the pictures moved by up to one pixel."""

    def __init__(self, model: nn.Module, recipe: Recipe, data: Dataset) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe

    def draw(self, data: Dataset, step: int) -> tuple[Tensor | None, ...]:
        gen = generator(self.recipe.seed, 1, step)
        pick = _indices(len(data), self.recipe.batch, self.recipe.seed, step)
        dx, dy = torch.randint(-1, 2, (2,), generator=gen).tolist()
        x = nn.functional.pad(data.x[pick], (1, 1, 1, 1), value=-1.0)
        return x.roll((dy, dx), (2, 3))[:, :, 1:-1, 1:-1], data.labels[pick]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model(x), labels, label_smoothing=0.05)


_TASKS = {"diffusion": _Diffusion, "classifier": _Classification}


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, 2, epoch))


def _indices(n: int, batch: int, seed: int, step: int) -> Tensor:
    """Which pictures step number ``step`` sees: every epoch is a fresh permutation."""
    place = torch.arange(step * batch, (step + 1) * batch)
    pick = torch.empty(batch, dtype=torch.int64)
    for epoch in torch.unique(place // n).tolist():
        here = place // n == epoch
        pick[here] = _order(n, seed, epoch)[place[here] % n]
    return pick


def train(
    recipe: Recipe,
    *,
    data: Dataset | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    report_every: int = 50,
    save_every: int = 1000,
    stop_at: int | None = None,
) -> Iterator[Progress]:
    """Train, yielding a Progress every ``report_every`` steps and at the end.

    With ``out`` (a folder) the state is saved there every ``save_every`` steps, and the finished
    model as ``out/NAME.safetensors``; ``resume`` goes on from the saved state. ``stop_at`` ends
    early without finishing (to be resumed).
    Raises ValueError for impossible sizes, CheckpointError where the saved state is of another
    training, FloatingPointError where the loss is no longer finite.
    """
    from accelerate import Accelerator

    data = load(recipe.data, "train", full=recipe.full) if data is None else data
    steps = recipe.steps if steps is None else steps
    if steps < 1 or report_every < 1 or save_every < 1:
        raise ValueError("steps, report_every and save_every must be >= 1")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    ranks, rank = accelerator.num_processes, accelerator.process_index
    if recipe.batch % ranks:
        raise ValueError(f"the batch of {recipe.batch} does not divide by {ranks} processes")
    part = slice(rank * recipe.batch // ranks, (rank + 1) * recipe.batch // ranks)

    model = build(recipe, data)
    average = build(recipe, data).eval().requires_grad_(False).to(accelerator.device)
    task = _TASKS[recipe.task](model, recipe, data).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    wrapped, optimiser = accelerator.prepare(task, optimiser)
    ema = EMA(recipe.ema)

    start, seconds = 0, 0.0
    state_file = Path(out) / f"{recipe.name}.state.safetensors" if out is not None else None
    if resume:
        if state_file is None:
            raise ValueError("resume=True needs the folder of the earlier run: out=...")
        start, seconds = _restore(state_file, recipe, steps, model, average, optimiser)
    last = steps if stop_at is None else min(stop_at, steps)
    total, counted, clock = torch.zeros((), device=accelerator.device), 0, time.process_time()
    for step in range(start, last):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step, steps)
        batch = [b if b is None else b[part].to(accelerator.device) for b in task.draw(data, step)]
        loss = wrapped(*batch)
        accelerator.backward(loss)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update(average, model, step)
        total += loss.detach()
        counted += 1
        done = step + 1
        if done % report_every == 0 or done == last:
            mean = accelerator.reduce(total / counted, "mean").item()
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"the loss is {mean} near step {done}: lower the learning rate "
                    f"(now {recipe.lr:g}); the last saved state is untouched"
                )
            total.zero_()
            counted = 0
            seconds += time.process_time() - clock
            if state_file is not None and accelerator.is_main_process and (
                done % save_every == 0 or done == last
            ):  # fmt: skip
                _keep(state_file, recipe, steps, done, seconds, model, average, optimiser)
            if done == steps and out is not None and accelerator.is_main_process:
                path = Path(out) / f"{recipe.name}.safetensors"
                checkpoints.save(path, average, about(recipe, data, steps, seconds, average))
            yield Progress(done, steps, mean, seconds, average)
            clock = time.process_time()
    accelerator.wait_for_everyone()


def about(
    recipe: Recipe, data: Dataset, steps: int, seconds: float, model: nn.Module
) -> dict[str, Any]:
    """The header of a finished checkpoint."""
    net = model.net if isinstance(model, NetDenoiser) else model
    return {
        "name": recipe.name,
        "net": net.spec,
        "recipe": recipe.as_dict() | {"steps": steps},
        "command": f"diffusion-lab train {recipe.name} --steps {steps}",
        "data": {"name": data.name, "split": data.split, "n": len(data), "hash": data.hash},
        "cpu_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "parameters": sum(p.numel() for p in net.parameters()),
        "metrics": {},
    }


# ---- the saved state: weights, average, both moments of Adam, step, as safetensors ---------------
def _keep(
    file: Path, recipe: Recipe, steps: int, step: int, seconds: float,
    model: nn.Module, average: nn.Module, optimiser: Any,
) -> None:  # fmt: skip
    tensors = {f"w.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in average.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    header = {"recipe": recipe.as_dict(), "steps": steps, "step": step, "cpu_seconds": seconds}
    checkpoints.save_tensors(file, tensors, header)


def _restore(
    file: Path, recipe: Recipe, steps: int, model: nn.Module, average: nn.Module, optimiser: Any
) -> tuple[int, float]:
    tensors, header = checkpoints.load_tensors(file)
    ours = json.loads(json.dumps(recipe.as_dict()))
    if header.get("recipe") != ours or header.get("steps") != steps:
        theirs = header.get("recipe", {}) | {"total steps": header.get("steps")}
        differ = [k for k, v in (ours | {"total steps": steps}).items() if theirs.get(k) != v]
        raise CheckpointError(
            f"{file} is the state of another training ({', '.join(differ)} differ): "
            "use the same recipe and steps, or another folder"
        )
    try:
        model.load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("w.")})
        average.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")})
        state = optimiser.state_dict()
        state["state"] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".", 2)
                state["state"].setdefault(int(i), {})[name] = value
        optimiser.load_state_dict(state)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{file} does not fit this network: {error}") from error
    return int(header["step"]), float(header["cpu_seconds"])


def fit(recipe: Recipe, *, bar: bool = True, **options: Any) -> nn.Module:
    """Train to the end with a progress bar that shows the time left; returns the EMA model."""
    from tqdm.auto import tqdm

    model: nn.Module | None = None
    with tqdm(total=None, desc=recipe.name, unit="step", disable=not bar) as progress:
        for p in train(recipe, **options):
            progress.total, model = p.steps, p.model
            progress.set_postfix(loss=f"{p.loss:.4f}", refresh=False)
            progress.update(p.step - progress.n)
    if model is None:
        raise CheckpointError("this training is already finished: load its checkpoint instead")
    return model
