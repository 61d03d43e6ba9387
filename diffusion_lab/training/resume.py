"""The saved state of a training: weights, average, moments of the optimisers and where it stands.

One safetensors file, written whole or not at all, so that a kill at any moment leaves the old state
or the new one. No random state is kept: every step draws from (seed, step) alone. Its tensors are

    w.KEY, ema.KEY         weights and their average; of several models w.NAME.KEY, ema.NAME.KEY
    adam.I.MOMENT          of parameter number I; of several optimisers adam0.I.MOMENT, adam1...

and its header holds the recipe, steps, step, cpu_seconds, threads, the hash of the data, that of
their numbers as they were given, and what else the run is made of.
"""

from __future__ import annotations

import json
import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints
from diffusion_lab.errors import CheckpointError
from diffusion_lab.files import write_atomically
from diffusion_lab.training.recipes import ADDED, Recipe

__all__ = [
    "AGAIN",
    "Lock",
    "Run",
    "Taken",
    "averaged_run",
    "keep",
    "required",
    "restore",
    "saved_step",
    "state_file",
]

AGAIN = "start again from nothing (on the command line --fresh, in Python resume=False)"

KEPT = ("init", "stages", "best")  # what a header says of a run that a resumed one takes over


@dataclass
class Run:
    """All that a training changes as it goes, and what its header says of it."""

    recipe: Recipe
    steps: int
    models: nn.ModuleDict
    average: nn.ModuleDict
    optimisers: list[Any]
    scaler: torch.amp.GradScaler
    made: dict[str, Any] = field(default_factory=dict)
    """data, content, threads, init, task, stages, best"""


def state_file(recipe: Recipe, out: str | Path) -> Path:
    """Where a training in the folder ``out`` saves its state."""
    return Path(out) / f"{recipe.name}.state.safetensors"


def required(recipe: Recipe, out: str | Path) -> Path:
    """The file of a saved state; CheckpointError where there is none."""
    file = state_file(recipe, out)
    if not file.is_file():
        raise CheckpointError(f"there is no saved state {file} to resume from: {AGAIN}")
    return file


def saved_step(recipe: Recipe, out: str | Path) -> int:
    """The step at which the saved state stands; 0 where there is none."""
    file = state_file(recipe, out)
    return _step(checkpoints.info(file), file) if file.is_file() else 0


def _step(head: dict[str, Any], file: Path) -> int:
    step, steps = head.get("step"), head.get("steps")
    if type(step) is not int or not step >= 0 or not isinstance(steps, int | float) or step > steps:
        raise CheckpointError(
            f"{file} is no state: it stands at step {step!r} of {steps!r}: {AGAIN}"
        )
    return step


def _flat(models: nn.ModuleDict) -> dict[str, Tensor]:
    """The tensors of models; the name of one that is alone is left out."""
    return (models if len(models) > 1 else next(iter(models.values()))).state_dict()


def _load(models: nn.ModuleDict, tensors: dict[str, Tensor], head: str) -> None:
    given = {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}
    (models if len(models) > 1 else next(iter(models.values()))).load_state_dict(given)


def _heads(optimisers: list[Any]) -> list[str]:
    n = len(optimisers)
    return ["adam."] if n == 1 else [f"adam{i}." for i in range(n)]


def _moments(optimisers: list[Any]) -> dict[str, Tensor]:
    return {
        f"{head}{i}.{name}": torch.as_tensor(value)
        for head, optimiser in zip(_heads(optimisers), optimisers, strict=True)
        for i, moments in optimiser.state_dict()["state"].items()
        for name, value in moments.items()
    }


def keep(run: Run, out: str | Path, head: dict[str, Any]) -> None:
    """Save the state; ``head`` holds step, cpu_seconds and the loss since the report."""
    tensors = {f"w.{k}": v for k, v in _flat(run.models).items()}
    tensors |= {f"ema.{k}": v for k, v in _flat(run.average).items()}
    tensors |= _moments(run.optimisers)
    about = {"recipe": run.recipe.as_dict(), "steps": run.steps, **run.made, **head}
    if run.scaler.is_enabled():
        about["scaler"] = run.scaler.state_dict()
    checkpoints.save_tensors(state_file(run.recipe, out), tensors, about)


def averaged_run(
    recipe: Recipe, models: nn.ModuleDict, tensors: dict[str, Tensor], head: dict[str, Any]
) -> Run:
    """A run whose average is that of a saved state, to look at or to ship; it does not go on."""
    _load(models, tensors, "ema.")
    made = {k: head[k] for k in (*KEPT, "threads", "data", "task", "stands_on") if k in head}
    return Run(recipe, head["steps"], models, models, [], torch.amp.GradScaler(enabled=False), made)


def restore(run: Run, out: str | Path, *, longer: bool = False) -> dict[str, Any]:
    """Fill a run from the saved state; returns its header. ``longer`` lets it end at a later step.

    Raises CheckpointError where there is none, it is damaged, or it is of another training.
    """
    file = required(run.recipe, out)
    tensors, header = checkpoints.load_tensors(file)
    _same(run, file, header, longer)
    _step(header, file)
    for name in ("cpu_seconds", "counted", "total"):
        values = header.get(name, None if name == "cpu_seconds" else 0)
        for value in values if isinstance(values, list) else [values]:
            least = -math.inf if name == "total" else 0  # a loss may be below 0
            if not isinstance(value, int | float) or not least <= value < math.inf:
                raise CheckpointError(f"{file} is no state: its {name} is {value!r}: {AGAIN}")
    wrong = _misfit(run, tensors, header)
    if wrong:
        raise CheckpointError(f"{file} does not fit this network: {wrong}")
    _load(run.models, tensors, "w.")
    _load(run.average, tensors, "ema.")
    for head, optimiser in zip(_heads(run.optimisers), run.optimisers, strict=True):
        state = optimiser.state_dict() | {"state": {}}
        for key, value in tensors.items():
            if key.startswith(head):
                i, name = key[len(head) :].split(".", 1)
                state["state"].setdefault(int(i), {})[name] = value
        optimiser.load_state_dict(state)
    if run.scaler.is_enabled():
        if not isinstance(header.get("scaler"), dict):
            raise CheckpointError(f"{file} is no state: it has no scale of its losses: {AGAIN}")
        run.scaler.load_state_dict(header["scaler"])
    run.made |= {k: header[k] for k in KEPT if k in header}
    return header


def _same(run: Run, file: Path, header: dict[str, Any], longer: bool) -> None:
    """CheckpointError unless the state is of this recipe, these data and this number of steps."""
    ours = json.loads(json.dumps(run.recipe.as_dict())) | {"steps": run.steps}
    found = header.get("recipe")
    theirs = ADDED | (found if isinstance(found, dict) else {}) | {"steps": header.get("steps")}
    for name, what in (("data", "the data"), ("content", "the numbers of the data")):
        if name in header:  # states of before have none
            theirs[what], ours[what] = header[name], run.made.get(name)
    for made, of in ((theirs, header), (ours, run.made)):
        made["the task"] = of.get("task", "of the recipe")
        made["what it stands on"] = of.get("stands_on")
    if longer and isinstance(theirs["steps"], int) and theirs["steps"] < run.steps:
        theirs["steps"] = run.steps
    differ = [
        f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} asked"
        for name in sorted(ours | theirs)
        if ours.get(name) != theirs.get(name)
    ]
    if differ:
        raise CheckpointError(
            f"{file} is the state of another training ({'; '.join(differ)}): ask for the same, "
            f"choose another folder, or {AGAIN}"
        )


def _misfit(run: Run, tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """Why the tensors of a state are not this run's; "" if they are.

    Compared before they are loaded: a fused optimiser writes past the end of a moment that is too
    short. A step of no length shows which moments there are.
    """
    for optimiser in run.optimisers:
        for group in optimiser.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.requires_grad else None
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    moments = _moments(run.optimisers)
    expected = {f"w.{k}": v for k, v in _flat(run.models).items()}
    expected |= {f"ema.{k}": v for k, v in _flat(run.average).items()}
    missing = [k for k in expected if k not in tensors]
    for head in _heads(run.optimisers):
        given = {k.split(".")[1] for k in tensors if k.startswith(head)}
        ours = [k for k in moments if k.startswith(head) and k.split(".")[1] in given]
        missing += [k for k in ours if k not in tensors]
        some = any(k.startswith(head) for k in moments)  # plain SGD has none
        missing += [f"{head}0"] if some and not given and header.get("step") else []
    expected |= moments
    for key, value in tensors.items():
        if key not in expected:
            return f"it has no {key}"
        a, b = (f"{str(v.dtype)[6:]} {tuple(v.shape)}" for v in (value, expected[key]))
        if a != b:
            return f"{key} is {a} there and {b} here"
        if value.is_floating_point() and not bool(value.isfinite().all()):
            return f"{key} holds nan or inf"
    return f"{missing[0]} is missing" if missing else ""


class Taken(CheckpointError):
    """Another training of the recipe is at work in the folder."""


class Lock:
    """One training of a recipe in a folder at a time; a killed one holds it no longer.

    A file that the system locks for this process, made before anything is trained: a folder that
    cannot be written to is found at once. Where a file system knows no locks there is none. The
    system locks for the whole process, so what this one holds is kept here too.
    """

    _held: ClassVar[WeakValueDictionary[tuple[int, str], Lock]] = WeakValueDictionary()

    def __init__(self, recipe: Recipe, out: str | Path) -> None:
        self.path = Path(out) / f".{recipe.name}.lock"
        self.key = os.getpid(), os.path.realpath(self.path)
        if Lock._held.setdefault(self.key, self) is not self:
            raise Taken(
                f"{recipe.name} is being trained in {out} by this process: run the iterator of "
                "train to its end, close() it, or choose another folder"
            )
        try:
            self._take(recipe, out)
        except BaseException:
            Lock._held.pop(self.key, None)
            raise

    def _take(self, recipe: Recipe, out: str | Path) -> None:
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = open(self.path, "a+")  # noqa: SIM115
            except OSError:
                write_atomically(self.path, b"")  # says which folder and what to do
                raise
            try:
                _lock(self.file)
            except (PermissionError, BlockingIOError) as error:
                self.file.seek(0)
                number = self.file.read().strip() or "?"
                self.file.close()
                raise Taken(
                    f"{recipe.name} is being trained in {out} by process {number}: wait for it, "
                    "stop it, or choose another folder"
                ) from error
            with suppress(OSError):
                if os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path)):
                    break
            self.file.close()  # its holder removed it between the two
        self.file.truncate(0)
        self.file.write(str(os.getpid()))
        self.file.flush()
        left = re.compile(
            rf"\.{re.escape(recipe.name)}\.(((state|best)\.)?safetensors|log\.csv)"
            r"\.[0-9a-f]{8}\.tmp"
        )
        for part in self.path.parent.iterdir():  # what a kill left of a file
            if left.fullmatch(part.name):
                part.unlink(missing_ok=True)

    def release(self) -> None:
        if self.file.closed:
            return
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.file.close()
        if os.name == "nt":  # it removes no open file; elsewhere the next may be another's already
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        Lock._held.pop(self.key, None)


def _lock(file: Any) -> None:
    """PermissionError or BlockingIOError where another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (PermissionError, BlockingIOError):
        raise
    except OSError:
        return
