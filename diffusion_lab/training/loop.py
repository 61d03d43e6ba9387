"""One training loop for everything, on one process or on several.

The loop is a generator: it trains and now and then yields a ``Progress``, and the caller decides
what to print, plot or save. What is trained is a task's (``tasks.Task``). The batch, times and
noise of step k are drawn from (seed, k) alone, for the whole batch, and every process takes its
slice. So a training that was killed and resumed equals one that never stopped, bit for bit, and two
processes follow the loss curve of one (a classifier's only nearly: its batch norm sees the slice of
its process).

    torchrun --nproc-per-node 2 script.py        # the same script on two processes of one machine

Hugging Face Accelerate joins the processes. Precision and the parts of a batch are the recipe's
alone, whatever an Accelerator or the shell say.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints, pictures
from diffusion_lab.data import Dataset, load
from diffusion_lab.device import check_range, device, processes
from diffusion_lab.errors import CheckpointError, whole
from diffusion_lab.training import resume as states
from diffusion_lab.training import tasks
from diffusion_lab.training.header import about
from diffusion_lab.training.inputs import called, content, single_precision, take_weights
from diffusion_lab.training.log import Log
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.resume import Run

__all__ = ["EMA", "Progress", "build", "learning_rate", "train"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Progress:
    """Where a training stands. ``model`` holds the averaged (EMA) weights, in eval mode."""

    step: int
    steps: int
    loss: float  # mean since the last report, over the whole batch; the sum of several losses
    cpu_seconds: float  # of this process and of the runs it resumed, saving and previews left out
    model: nn.Module = field(repr=False)  # an nn.ModuleDict where the task has several
    losses: tuple[float, ...] = ()  # each of them, in the order of the task's optimisers

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
    """The untrained model of a recipe: a NetDenoiser, a classifier; several as an nn.ModuleDict."""
    return _alone(tasks.find(recipe.task)(recipe, data).models)


def _alone(models: nn.ModuleDict) -> nn.Module:
    return models if len(models) > 1 else next(iter(models.values()))


def learning_rate(recipe: Recipe, step: int, steps: int, base: float | None = None) -> float:
    """Linear warm-up, flat, then linear to 0 over the last ``1 - decay`` of the steps.

    ``base`` is the rate in between: the recipe's, where an optimiser has none of its own.
    """
    up = min(1.0, (step + 1) / max(recipe.warmup, 1))
    down = min(1.0, (steps - step) / max(steps * (1 - recipe.decay), 1))
    return (recipe.lr if base is None else base) * up * down


def train(
    recipe: Recipe,
    *,
    data: Dataset | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    init: str | Path | nn.Module | None = None,
    task: Callable[[Recipe, Dataset], tasks.Task] | None = None,
    report_every: int = 50,
    save_every: int = 1000,
    preview_every: int | None = None,
    best_every: int | None = None,
    stop_at: int | None = None,
    tensorboard: bool = False,
) -> Iterator[Progress]:
    """Train, yielding a Progress every ``report_every`` steps and at the end.

    With ``out`` (a folder) the state is saved there every ``save_every`` steps and on Ctrl-C, the
    loss of every report in ``out/NAME.log.csv`` (with ``tensorboard`` for that too), and the
    finished model as ``out/NAME.safetensors``; ``resume`` goes on from the saved state, to a
    later end than it was to have where ``steps`` is given and larger. ``init`` starts from the
    weights of a model or of a checkpoint, by name or path (what is resumed has its own). ``task``
    is a class of one's own, in place of the recipe's (see ``tasks.Task``). With ``preview_every``
    pictures of the averaged model go to ``out/NAME.preview_STEP.png``; with ``best_every`` its
    distance is measured that often, and the best so far is ``out/NAME.best.safetensors``.
    ``stop_at`` ends early without finishing (to be resumed).
    The call itself reads data and state and refuses what cannot be done; the iterator trains.
    Raises ValueError for impossible sizes, CheckpointError where there is no saved state, it is of
    another training or another process trains there, FloatingPointError where the loss or a weight
    is no longer finite.
    """
    if not (isinstance(recipe, Recipe) and isinstance(data, Dataset | None)):
        raise ValueError(
            "train takes a recipe, as recipes.get('digits'), and data as of data.load or nothing; "
            f"got {type(recipe).__name__} and {type(data).__name__}"
        )
    longer, steps = steps is not None, recipe.steps if steps is None else steps
    _check(out, resume, steps, report_every, save_every, preview_every, best_every)
    if resume:
        states.required(recipe, out)
    given = data
    data = load(recipe.data, "train", full=recipe.full) if data is None else data
    data.check()
    data = single_precision(data)
    ranks, rank, where = _processes()
    main = rank == 0
    if main and data.x.ndim == 4 and data.levels is not None:  # a thousand of them tell
        check_range(data.x[:: max(1, len(data) // 1000)], "the pictures to train on")
    if recipe.batch % (ranks * recipe.accumulate):
        raise ValueError(
            f"the batch of {recipe.batch} does not divide by {ranks} processes"
            + (f" x {recipe.accumulate} parts" if recipe.accumulate > 1 else "")
            + ": start as many as divide it, or change it with recipe.but(batch=...)"
        )

    from accelerate.utils import broadcast, wait_for_everyone

    if task is not None and not callable(task):
        raise ValueError(f"task is a class of one's own (training.Task); got {task!r}")
    job = (tasks.find(recipe.task) if task is None else task)(recipe, data)
    for name, every in (("preview", preview_every), ("distance", best_every)):
        if every is not None and getattr(job, name, None) is None:
            raise ValueError(
                "only a model that draws pictures has previews: leave preview_every out"
                if name == "preview"
                else f"no distance is known for this task and data ({data.name!r}), so there is no "
                "best model: leave best_every out"
            )
    if not isinstance(job.models, nn.ModuleDict) or not job.models:
        raise ValueError(f"models of a task is an nn.ModuleDict; got {type(job.models).__name__}")
    models = job.models.to(where).train()
    if out is not None:
        checkpoints.described(models)  # what cannot be saved in the end is refused now
    made: dict[str, Any] = {"data": data.hash, "threads": torch.get_num_threads()}
    if out is not None:
        made["content"] = content(data)
    if task is not None:
        made["task"] = called(task)
    if getattr(job, "stands_on", None):
        made["stands_on"] = job.stands_on
    if init is not None and not resume:
        made["init"] = take_weights(init, models)
    average = copy.deepcopy(models).eval().requires_grad_(False)
    optimisers = job.optimisers()
    bases = [[group["lr"] for group in one.param_groups] for one in optimisers]
    scaler = torch.amp.GradScaler(where.type, enabled=recipe.precision == "fp16")
    run, ema = Run(recipe, steps, models, average, optimisers, scaler, made), EMA(recipe.ema)

    lock = states.Lock(recipe, out) if main and out is not None else None
    start, seconds, counted = 0, 0.0, 0
    total = torch.zeros(len(optimisers), dtype=torch.float32, device=where)
    try:
        ours = out is not None and (resume or not states.state_file(recipe, out).exists())
        if resume:
            head = states.restore(run, out, longer=longer)
            start, seconds, counted = head["step"], head["cpu_seconds"], head.get("counted", 0)
            total += torch.tensor(head.get("total", 0.0), dtype=torch.float32, device=where)
            if head["steps"] != steps:
                stages = made.setdefault("stages", [[0, head["steps"]]])
                stages.append([start, steps])
        last = steps if stop_at is None else min(stop_at, steps)
        if start >= last:
            raise CheckpointError(
                f"nothing is left to do: the saved state in {out} is at step {start} of {steps}. "
                + ("Load the finished model" if start >= steps else "Raise stop_at")
                + f", or {states.AGAIN}"
            )
        log = None if lock is None else Log(recipe, out, start, len(optimisers), tensorboard)
    except BaseException:
        if lock is not None:
            lock.release()
        raise

    done = start

    def take(step: int) -> None:
        """One step of every optimiser, and of the average."""
        nonlocal counted, done
        cast = torch.autocast(
            where.type, DTYPES[recipe.precision], enabled=recipe.precision != "fp32"
        )
        parts = _parts(job.draw(step), recipe, ranks, rank, where)
        with _undivided(), torch.enable_grad(), torch.autocast(where.type, enabled=False):
            streams = [job.losses(average, **part) for part in parts]
            for i, (optimiser, base) in enumerate(zip(optimisers, bases, strict=True)):
                for group, lr in zip(optimiser.param_groups, base, strict=True):
                    group["lr"] = learning_rate(recipe, step, steps, lr)
                models.zero_grad(set_to_none=True)
                for stream in streams:
                    with cast:
                        loss = next(stream, None)
                    if loss is None:
                        raise ValueError(
                            f"losses of the task: {i} for {len(optimisers)} optimisers"
                        )
                    scaler.scale(loss / len(parts)).backward()
                    total[i] += loss.detach() / len(parts)
                _average([p.grad for p in models.parameters() if p.grad is not None], ranks)
                scaler.step(optimiser)
                scaler.update()
            with cast:
                if any(next(stream, None) is not None for stream in streams):
                    raise ValueError(
                        f"losses of the task: more than its {len(optimisers)} optimisers"
                    )
            models.zero_grad(set_to_none=True)
            if ranks > 1:
                broadcast(list(models.buffers()))  # of the first process
            ema.update(average, models, step)
            counted += 1
            done = step + 1

    def head_of(done: int) -> dict[str, Any]:
        head = {"step": done, "cpu_seconds": seconds}
        if done % report_every:  # the loss since the last report, which goes on after a resume
            head |= {"total": total.tolist(), "counted": counted}
        return head

    def note(means: Sequence[float]) -> None:
        if log is not None:
            with _undivided():  # a line and the memory of it
                log.write(done, means, optimisers[0].param_groups[0]["lr"], seconds)

    def loop() -> Iterator[Progress]:
        nonlocal seconds, total, counted, ours
        saved = start
        clock = time.process_time()
        try:
            for step in range(start, last):
                take(step)
                reports, saves, previews, measures = (
                    every is not None and (done % every == 0 or done == end)
                    for every, end in (
                        (report_every, last),
                        (None if out is None else save_every, last),
                        (preview_every, last),
                        (best_every, steps),
                    )
                )
                if not (reports or saves or previews or measures):
                    continue
                _average([total], ranks)
                means = tuple((total / counted).tolist())
                _check_finite(sum(means), models, average, recipe, done)
                seconds += time.process_time() - clock
                if reports:
                    note(means)
                if main and measures:
                    with _own_precision(where):
                        distance = job.distance(average)
                    _keep_best(run, out, distance, about(run, data, given, seconds), done)
                # the model before the state: a kill loses neither
                if main and done == steps and out is not None:
                    path = Path(out) / f"{recipe.name}.safetensors"
                    checkpoints.save(path, average, about(run, data, given, seconds))
                if main and saves:
                    states.keep(run, out, head_of(done))
                    ours, saved = True, done
                if main and previews:
                    path = Path(out) / f"{recipe.name}.preview_{done}.png"
                    with _own_precision(where):
                        drawn = job.preview(average)
                    pictures.save_grid(path, drawn, columns=10)
                if reports:
                    total, counted, ours = torch.zeros_like(total), 0, out is not None
                    yield Progress(done, steps, sum(means), seconds, _alone(average), means)
                clock = time.process_time()
            if ranks > 1:
                wait_for_everyone()
        except KeyboardInterrupt:  # an older state, of another run, is kept until this one reports
            if main and ours and done > saved:
                seconds += time.process_time() - clock
                if ranks == 1 and counted and done % report_every == 0:  # it was about to report
                    note((total / counted).tolist())
                states.keep(run, out, head_of(done))
            raise
        finally:
            if lock is not None:
                lock.release()

    return loop()


# ---- what the loop is made of -------------------------------------------------------------------
def _check(
    out: str | Path | None,
    resume: bool,
    steps: int,
    report_every: int,
    save_every: int,
    preview_every: int | None,
    best_every: int | None,
) -> None:
    for name, every in (
        ("steps", steps),
        ("report_every", report_every),
        ("save_every", save_every),
        ("preview_every", preview_every),
        ("best_every", best_every),
    ):
        if every is not None:
            whole(name, every)
    if out is not None and not str(out):
        raise ValueError("out names a folder; got ''")
    for wants, what in (
        (resume, "to resume takes the folder of the earlier run"),
        (preview_every is not None, "previews need a folder"),
        (best_every is not None, "the best model needs a folder"),
    ):
        if wants and out is None:
            raise ValueError(f"{what}: out=...")


def _processes() -> tuple[int, int, torch.device]:
    """How many processes train, which of them this is, and its device. ValueError for no device."""
    from accelerate import PartialState

    processes()
    where = device()
    try:
        torch.zeros(1, dtype=torch.float64, device=where).item()  # as times are: mps knows none
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # or without CUDA
        raise ValueError(
            f"it cannot be trained on the device {str(where)!r} (DIFFUSION_LAB_DEVICE): "
            f"{str(error).splitlines()[0]}"
        ) from error
    state = PartialState(cpu=where.type == "cpu")
    if state.num_processes == 1:
        return 1, 0, where
    return state.num_processes, state.process_index, state.device


def _parts(
    batch: dict[str, Tensor], recipe: Recipe, ranks: int, rank: int, where: torch.device
) -> list[dict[str, Tensor]]:
    """This process's slice of a batch, in ``recipe.accumulate`` parts."""
    size = recipe.batch // (ranks * recipe.accumulate)
    places = [(rank * recipe.accumulate + j) * size for j in range(recipe.accumulate)]
    return [
        {
            name: (value[at : at + size] if value.shape[:1] == (recipe.batch,) else value).to(where)
            for name, value in batch.items()
        }
        for at in places
    ]


@torch.no_grad()
def _average(tensors: list[Tensor], ranks: int) -> None:
    """Each becomes its mean over the processes, in one exchange."""
    if ranks == 1 or not tensors:
        return
    from accelerate.utils import reduce

    flat = reduce(torch.cat([one.reshape(-1) for one in tensors]), "mean")
    for one, mean in zip(tensors, flat.split([one.numel() for one in tensors]), strict=True):
        one.copy_(mean.view_as(one))


@contextmanager
def _own_precision(where: torch.device) -> Iterator[None]:
    """Within it the caller's autocast is off, on the device and on the CPU, where some measure."""
    with torch.autocast(where.type, enabled=False), torch.autocast("cpu", enabled=False):
        yield


@contextmanager
def _undivided() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, so that what is saved then is a whole step."""
    if threading.current_thread() is not threading.main_thread():  # signals come to the main one
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _check_finite(
    mean: float, models: nn.Module, average: nn.Module, recipe: Recipe, done: int
) -> None:
    weights = (*models.parameters(), *average.parameters())
    if math.isfinite(mean) and all(bool(torch.isfinite(p).all()) for p in weights):
        return
    what = "weights are not finite" if math.isfinite(mean) else f"loss is {mean}"
    raise FloatingPointError(
        f"the {what} near step {done}: lower the learning rate (now {recipe.lr:g}); the last "
        "saved state is untouched"
    )


def _keep_best(run: Run, out: str | Path, distance: float, head: dict[str, Any], done: int) -> None:
    """Save the averaged model where none before was at a smaller distance."""
    if distance < run.made.get("best", {}).get("distance", math.inf):
        run.made["best"] = {"step": done, "distance": distance}
        path = Path(out) / f"{run.recipe.name}.best.safetensors"
        checkpoints.save(path, run.average, head | {"step": done, "best": run.made["best"]})
