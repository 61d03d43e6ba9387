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
import functools
import hashlib
import inspect
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints, pictures
from diffusion_lab.data import Dataset, default_root, load
from diffusion_lab.device import check_range, device, first_process, processes
from diffusion_lab.errors import CheckpointError, whole
from diffusion_lab.files import sha256
from diffusion_lab.training import resume as states
from diffusion_lab.training import tasks
from diffusion_lab.training.header import about
from diffusion_lab.training.log import Log
from diffusion_lab.training.recipes import ADDED, Recipe, get
from diffusion_lab.training.resume import Run

__all__ = ["EMA", "Progress", "build", "fit", "learning_rate", "load_or_train", "train"]

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
    data = _single(data)
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
        made["content"] = _content(data)
    if task is not None:
        made["task"] = _called(task)
    if init is not None and not resume:
        made["init"] = _take(init, models)
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


def _single(data: Dataset) -> Dataset:
    """The data with every float in float32, as networks and noise are."""

    def single(value: Tensor) -> Tensor:
        return value.float() if value.is_floating_point() else value

    parts = (data.x, *data.condition.values(), *data.null.values())
    if all(single(part) is part for part in parts):
        return data
    condition, null = (
        {k: single(v) for k, v in many.items()} for many in (data.condition, data.null)
    )
    return replace(data, x=single(data.x), condition=condition, null=null)


def _content(data: Dataset) -> str:
    """sha256 of what is trained on, whatever ``data.hash`` says of it."""
    parts = {"x": data.x} | {f"condition {k}": v for k, v in data.condition.items()}
    parts |= {f"null {k}": v for k, v in data.null.items()}
    digest = hashlib.sha256(str(len(data.classes)).encode())
    for name, value in parts.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _called(task: Callable[..., Any]) -> str:
    """What a state says of a task: its class, and what functools.partial gives to it."""
    if isinstance(task, functools.partial):
        words = [*map(_plain, task.args), *(f"{k}={_plain(v)}" for k, v in task.keywords.items())]
        return f"{_called(task.func)}({', '.join(words)})"
    task = task if hasattr(task, "__qualname__") else type(task)
    return f"{task.__module__}:{task.__qualname__}"


def _plain(value: Any) -> str:
    """A value in words that are the same in every process."""
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


@torch.no_grad()
def _take(init: str | Path | nn.Module, models: nn.ModuleDict) -> str:
    """Fill models with the weights of a checkpoint or a model; returns what the header says of it.

    CheckpointError where they do not fit.
    """
    note = "a model given in Python"
    if not isinstance(init, nn.Module):
        path = checkpoints.find(init)
        init, note = checkpoints.load(init, device="cpu"), f"{init} (sha256 {sha256(path)[:12]})"
    theirs = init if isinstance(init, nn.ModuleDict) else nn.ModuleDict({"model": init})
    if len(theirs) == len(models) == 1:
        theirs = nn.ModuleDict(dict(zip(models, theirs.values(), strict=True)))
    if set(theirs) != set(models):
        raise CheckpointError(f"{note} holds models {list(theirs)}, the recipe has {list(models)}")
    for name, model in models.items():
        given, ours = checkpoints.weights(theirs[name]), checkpoints.weights(model)
        differ = [
            f"{key} is {_size(given, key)} there and {_size(ours, key)} here"
            for key in sorted(given.keys() | ours.keys())
            if _size(given, key) != _size(ours, key)
        ]
        kinds = [getattr(one, "kind", None) for one in (theirs[name], model)]
        if kinds[0] != kinds[1]:
            differ.append(f"it predicts {kinds[0]} there and {kinds[1]} here")
        if differ:
            raise CheckpointError(
                f"the weights of {note} do not fit the recipe's model ({'; '.join(differ[:3])}): "
                "take the recipe that made it and data of the same channels and classes, or "
                "change the recipe's net"
            )
        for key, value in ours.items():
            value.copy_(given[key])  # of a state: no gradient follows
    return note


def _size(tensors: dict[str, Tensor], key: str) -> str:
    return str(tuple(tensors[key].shape)) if key in tensors else "missing"


def _keep_best(run: Run, out: str | Path, distance: float, head: dict[str, Any], done: int) -> None:
    """Save the averaged model where none before was at a smaller distance."""
    if distance < run.made.get("best", {}).get("distance", math.inf):
        run.made["best"] = {"step": done, "distance": distance}
        path = Path(out) / f"{run.recipe.name}.best.safetensors"
        checkpoints.save(path, run.average, head | {"step": done, "best": run.made["best"]})


# ---- in one call --------------------------------------------------------------------------------
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

    training = train(recipe, **options)  # refuses before a bar is drawn
    steps, start = options.get("steps") or recipe.steps, 0
    if options.get("resume"):
        start = states.saved_step(recipe, options["out"])
    quiet = not bar or not first_process()
    with tqdm(total=steps, initial=start, desc=recipe.name, unit="step", disable=quiet) as progress:
        try:
            for p in training:
                progress.set_postfix(loss=f"{p.loss:.4f}", refresh=False)
                progress.update(p.step - progress.n)
                if watch is not None:
                    watch(p)
                model = p.model
        except KeyboardInterrupt as stop:  # in here the loop has not heard of it, and saves then
            if inspect.getgeneratorstate(training) == inspect.GEN_SUSPENDED:
                training.throw(stop)
            raise
        finally:
            training.close()
    return model


def load_or_train(
    name: str, *, fresh: bool = False, steps: int | None = None, folder: str | Path | None = None
) -> Any:
    """The shipped model ``name``, or the same recipe trained here; prints which, and at what cost.

    ``fresh`` trains even where a checkpoint is shipped (lessons do so at the level ``full``), with
    a progress bar, into ``folder`` (by default ``trained`` beside the whole data sets). A training
    that was killed goes on where it stopped, or begins again where its state cannot be used; a
    finished one of the same recipe is loaded.
    """
    recipe = get(name)
    recipe = recipe if steps is None else recipe.but(steps=steps)
    if name in checkpoints.shipped() and not fresh:
        path, branch = checkpoints.find(name), "loaded the shipped checkpoint"
    else:
        folder = default_root() / "trained" if folder is None else Path(folder)
        path, branch = folder / f"{name}.safetensors", "loaded what was trained here before"
        if _made_by(path) != json.loads(json.dumps(recipe.as_dict())):
            state = states.state_file(recipe, folder)
            try:
                try:
                    fit(recipe, out=folder, resume=state.is_file())
                except states.Taken:
                    raise
                except CheckpointError:
                    if not state.is_file():
                        raise
                    print(
                        f"{name}: the saved state {state} is damaged, at its end or of another "
                        "training, so it begins again"
                    )
                    fit(recipe, out=folder)
            except OSError as error:
                raise type(error)(
                    error.errno, f"{error.strerror} (the variable DIFFUSION_LAB_DATA moves it)"
                ) from error
            state.unlink(missing_ok=True)
            branch = "trained here, just now"
    model = checkpoints.load(path)
    about = model.about
    print(
        f"{name}: {branch}, sha256 {sha256(path)[:12]}\n"
        f"trained for {about['recipe']['steps']:,} steps in {about['cpu_seconds']:,.0f} "
        f"core-seconds ({about['machine']})\nby: {about['command']}"
    )
    return model


def _made_by(path: Path) -> dict[str, Any] | None:
    """The recipe in the header of a checkpoint; None for a file that is none, or damaged."""
    try:
        return ADDED | checkpoints.info(path)["recipe"]
    except (CheckpointError, KeyError, TypeError):
        return None
