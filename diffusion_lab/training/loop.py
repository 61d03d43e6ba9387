"""One training loop for everything, on Hugging Face Accelerate.

The loop is a generator: it trains and now and then yields a ``Progress``, and the caller decides
what to print, plot or save. The batch, times and noise of step k are drawn from (seed, k) alone,
for the whole batch, and every process takes its slice. So a training that was killed and resumed
equals one that never stopped, bit for bit, and two processes follow the loss curve of one
(a classifier's only nearly: its batch norm sees the slice of its process).

    torchrun --nproc-per-node 2 script.py        # the same script on two processes of one machine
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_lab import checkpoints, nets, schedules
from diffusion_lab.data import Dataset, default_root, load
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import device, first_process, generator
from diffusion_lab.errors import CheckpointError, whole
from diffusion_lab.files import sha256
from diffusion_lab.training import resume as states
from diffusion_lab.training.recipes import RECIPES, Recipe, get
from diffusion_lab.training.tasks import TASKS

__all__ = ["EMA", "Progress", "build", "fit", "learning_rate", "load_or_train", "train"]


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
    else:  # the size of the data: channels of pictures, dimensions of points
        spec |= {"dim" if recipe.net["name"] == "mlp" else "channels": data.x.shape[1]}
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


def train(
    recipe: Recipe,
    *,
    data: Dataset | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    report_every: int = 50,
    save_every: int = 1000,
    preview_every: int | None = None,
    stop_at: int | None = None,
) -> Iterator[Progress]:
    """Train, yielding a Progress every ``report_every`` steps and at the end.

    With ``out`` (a folder) the state is saved there every ``save_every`` steps, and the finished
    model as ``out/NAME.safetensors``; ``resume`` goes on from the saved state. With
    ``preview_every`` pictures of the averaged model go to ``out/NAME.preview_STEP.png``.
    ``stop_at`` ends early without finishing (to be resumed).
    The call itself reads data and state and refuses what cannot be done; the iterator trains.
    Raises ValueError for impossible sizes, CheckpointError where there is no saved state or it is
    of another training, FloatingPointError where the loss or a weight is no longer finite.
    """
    from accelerate import Accelerator

    if not (isinstance(recipe, Recipe) and isinstance(data, Dataset | None)):
        raise ValueError(
            "train takes a recipe, as recipes.get('digits'), and data as of data.load or nothing; "
            f"got {type(recipe).__name__} and {type(data).__name__}"
        )
    data = load(recipe.data, "train", full=recipe.full) if data is None else data
    steps = recipe.steps if steps is None else steps
    _check(recipe, data, out, steps, report_every, save_every, preview_every, resume)
    accelerator = Accelerator(cpu=device().type == "cpu")
    ranks, rank, main = (
        accelerator.num_processes,
        accelerator.process_index,
        accelerator.is_main_process,
    )
    if recipe.batch % ranks:
        raise ValueError(
            f"the batch of {recipe.batch} does not divide by {ranks} processes: start as many as "
            f"divide it, or change it with recipe.but(batch=...)"
        )
    part = slice(rank * recipe.batch // ranks, (rank + 1) * recipe.batch // ranks)

    model = build(recipe, data)
    average = build(recipe, data).eval().requires_grad_(False).to(accelerator.device)
    task = TASKS[recipe.task](model, recipe, data).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )
    wrapped, optimiser = accelerator.prepare(task, optimiser)
    ema = EMA(recipe.ema)

    start, seconds, total, counted = 0, 0.0, torch.zeros((), device=accelerator.device), 0
    if resume:
        head = states.restore(recipe, out, steps, model, average, optimiser)
        start, seconds, counted = head["step"], head["cpu_seconds"], head.get("counted", 0)
        total += head.get("total", 0.0)
    last = steps if stop_at is None else min(stop_at, steps)
    if start >= last:
        raise CheckpointError(
            f"nothing is left to do: the saved state in {out} is at step {start} of {steps}. "
            + ("Load the finished model" if start >= steps else "Raise stop_at")
            + f", or {states.AGAIN}"
        )

    def loop() -> Iterator[Progress]:
        nonlocal seconds, total, counted
        clock = time.process_time()
        for step in range(start, last):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step, steps)
            batch = [
                b if b is None else b[part].to(accelerator.device) for b in task.draw(data, step)
            ]
            loss = wrapped(*batch)
            accelerator.backward(loss)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            ema.update(average, model, step)
            total += loss.detach()
            counted += 1
            done = step + 1
            reports, saves, previews = (
                every is not None and (done % every == 0 or done == last)
                for every in (report_every, None if out is None else save_every, preview_every)
            )
            if not (reports or saves or previews):
                continue
            total = accelerator.reduce(total, "mean")
            mean = (total / counted).item()
            _check_finite(mean, model, recipe, done)
            seconds += time.process_time() - clock
            if main and done == steps and out is not None:  # before the state: a kill loses neither
                path = Path(out) / f"{recipe.name}.safetensors"
                checkpoints.save(path, average, about(recipe, data, steps, seconds, average))
            if main and saves:
                head = {"steps": steps, "step": done, "cpu_seconds": seconds}
                if (
                    done % report_every
                ):  # the loss since the last report, which goes on after a resume
                    head |= {"total": total.item(), "counted": counted}
                states.keep(recipe, out, head, model, average, optimiser)
            if main and previews:
                _preview(recipe, average, Path(out) / f"{recipe.name}.preview_{done}.png")
            if reports:
                total, counted = torch.zeros_like(total), 0
                yield Progress(done, steps, mean, seconds, average)
            clock = time.process_time()
        accelerator.wait_for_everyone()

    return loop()


def _check(
    recipe: Recipe,
    data: Dataset,
    out: str | Path | None,
    steps: int,
    report_every: int,
    save_every: int,
    preview_every: int | None,
    resume: bool,
) -> None:
    for name, every in (
        ("steps", steps),
        ("report_every", report_every),
        ("save_every", save_every),
        ("preview_every", preview_every),
    ):
        if every is not None:
            whole(name, every)
    if out is None and (resume or preview_every is not None):
        what = (
            "to resume takes the folder of the earlier run" if resume else "previews need a folder"
        )
        raise ValueError(f"{what}: out=...")
    if preview_every is not None and (recipe.task != "diffusion" or data.x.ndim != 4):
        raise ValueError("only a model that draws pictures has previews: leave preview_every out")


def _check_finite(mean: float, model: nn.Module, recipe: Recipe, done: int) -> None:
    if math.isfinite(mean) and all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        return
    what = "weights are not finite" if math.isfinite(mean) else f"loss is {mean}"
    raise FloatingPointError(
        f"the {what} near step {done}: lower the learning rate (now {recipe.lr:g}); the last "
        "saved state is untouched"
    )


def _preview(recipe: Recipe, average: nn.Module, path: Path) -> None:
    """40 pictures that the averaged model draws now, in rows of ten, from the same noise always."""
    from diffusion_lab.course import plots
    from diffusion_lab.generate import generate

    label = None if average.num_classes is None else torch.arange(40) % average.num_classes
    drawn = generate(average, 40, label=label, seed=recipe.seed, **recipe.sampler)
    plots.save_grid(path, drawn.x, columns=10)


def about(
    recipe: Recipe, data: Dataset, steps: int, seconds: float, model: nn.Module
) -> dict[str, Any]:
    """The header of a finished checkpoint."""
    net = model.net if isinstance(model, NetDenoiser) else model
    command = f"diffusion-lab train {recipe.name} --steps {steps}"
    known = RECIPES.get(recipe.name, recipe)
    command += f" --seed {recipe.seed}" if recipe.seed != known.seed else ""
    command += " --data-full" if recipe.full and not known.full else ""
    return {
        "name": recipe.name,
        "net": net.spec,
        "recipe": recipe.as_dict() | {"steps": steps},
        "command": command,
        "data": {"name": data.name, "split": data.split, "n": len(data), "hash": data.hash},
        "cpu_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "parameters": sum(p.numel() for p in net.parameters()),
        "metrics": {},
    }


def fit(
    recipe: Recipe,
    *,
    bar: bool = True,
    watch: Callable[[Progress], object] | None = None,
    **options: Any,
) -> nn.Module:
    """Train to the end with a progress bar that shows the time left; returns the EMA model.

    ``watch`` is called with every Progress; the other options are those of ``train``. On several
    processes only the first shows a bar.
    """
    from tqdm.auto import tqdm

    steps, start = options.get("steps") or recipe.steps, 0
    if options.get("resume") and options.get("out") is not None:
        start = states.saved_step(recipe, options["out"])
    quiet = not bar or not first_process()
    training = train(recipe, **options)  # refuses before a bar is drawn
    with tqdm(total=steps, initial=start, desc=recipe.name, unit="step", disable=quiet) as progress:
        for p in training:
            progress.set_postfix(loss=f"{p.loss:.4f}", refresh=False)
            progress.update(p.step - progress.n)
            if watch is not None:
                watch(p)
            model = p.model
    return model


def load_or_train(
    name: str, *, fresh: bool = False, steps: int | None = None, folder: str | Path | None = None
) -> Any:
    """The shipped model ``name``, or the same recipe trained here; prints which, and at what cost.

    ``fresh`` trains even where a checkpoint is shipped (lessons do so at the level ``full``), with
    a progress bar, into ``folder`` (by default ``trained`` beside the whole data sets). A training
    that was killed goes on where it stopped, and a finished one of the same recipe is loaded.
    """
    recipe = get(name)
    if name in checkpoints.shipped() and not fresh:
        path, branch = checkpoints.find(name), "loaded the shipped checkpoint"
    else:
        recipe = recipe if steps is None else recipe.but(steps=steps)
        folder = default_root() / "trained" if folder is None else Path(folder)
        path, branch = folder / f"{name}.safetensors", "loaded what was trained here before"
        wanted = json.loads(json.dumps(recipe.as_dict()))
        if not path.is_file() or checkpoints.load_tensors(path)[1]["recipe"] != wanted:
            state = states.state_file(recipe, folder)
            fit(recipe, out=folder, resume=state.is_file())
            state.unlink()
            branch = "trained here, just now"
    model = checkpoints.load(path)
    about = model.about
    print(
        f"{name}: {branch}, sha256 {sha256(path)[:12]}\n"
        f"trained for {about['recipe']['steps']:,} steps in {about['cpu_seconds']:,.0f} "
        f"core-seconds ({about['machine']}) by: {about['command']}"
    )
    return model
