"""The one loop that every sampler shares: from noise to data along a time grid.

A paper contributes a *step*, a function

    step(ask, x, t, s) -> x_s

that moves x from time t to s < t. ``ask(x, t)`` is the denoiser with its condition: each call is
counted and kept in ``ask.history``; ``ask.noise(like)`` draws what a stochastic step needs.
``walk`` runs a step over a grid and yields its states, so progress bars, animations, counts and
corrections need no second copy of the loop.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser, Prediction
from diffusion_lab.schedules import Schedule

__all__ = ["Ask", "Noise", "Result", "State", "Step", "check_grid", "gaussian", "sample", "walk"]

REDRAW = 0.1  # seconds between two looks of a progress bar
Noise = Callable[[int, Tensor], Tensor]  # (number of the draw, like) -> noise of that shape


@dataclass(slots=True)
class State:
    """After i of n steps: x at time s, reached from t. ``pred`` is the denoiser's last answer."""

    x: Tensor
    t: float
    s: float
    i: int
    n: int | None
    pred: Prediction | None
    nfe: int


class Ask:
    """A denoiser bound to its condition and its source of noise, which counts its calls.

    ``history`` holds (t, Prediction), newest last, at most ``keep`` of them: what multistep methods
    look back on. ``nfe`` counts network evaluations, ``draws`` the calls of ``noise``.
    """

    __slots__ = ("condition", "denoiser", "draws", "history", "keep", "nfe", "schedule", "source")

    def __init__(
        self,
        denoiser: Denoiser,
        condition: dict[str, Any] | None = None,
        source: Noise | None = None,
        keep: int = 4,
    ) -> None:
        self.denoiser, self.condition, self.keep = denoiser, condition or {}, keep
        self.source, self.draws = source, 0
        self.schedule: Schedule = denoiser.schedule
        self.history: list[tuple[float, Prediction]] = []
        self.nfe = 0

    def __call__(self, x: Tensor, t: float) -> Prediction:
        condition, history = self.condition, self.history
        forward = self.denoiser.forward
        pred = forward(x, t, **condition) if condition else forward(x, t)
        self.nfe += self.denoiser.nfe
        history.append((t, pred))
        if len(history) > self.keep:
            del history[0]
        return pred

    def noise(self, like: Tensor) -> Tensor:
        """The next draw of noise; ValueError if the walk was given no source of it."""
        if self.source is None:
            raise ValueError("this sampler draws noise: pass noise=gaussian(generator(seed))")
        self.draws += 1
        return self.source(self.draws - 1, like)


Step = Callable[[Ask, Tensor, float, float], Tensor]


def gaussian(generator: torch.Generator) -> Noise:
    """Standard normal noise, drawn on the CPU in whole batches and moved to the sample's device."""

    def draw(i: int, like: Tensor) -> Tensor:
        z = torch.randn(like.shape, generator=generator)
        return z if like.is_cpu and like.dtype is z.dtype else z.to(like)

    return draw


def check_grid(times: Sequence[float]) -> list[float]:
    """The grid as floats. ValueError unless it falls strictly within [0, 1]."""
    times = [float(t) for t in times]
    if len(times) < 2:
        raise ValueError(f"a time grid needs at least two times, start and end; got {times}")
    if times[0] <= 1.0 and times[-1] >= 0.0 and all(map(operator.gt, times, times[1:])):
        return times
    for i, t in enumerate(times):
        if not (math.isfinite(t) and 0.0 <= t <= 1.0):
            raise ValueError(f"time number {i} of the grid is {t}; times must lie in [0, 1]")
        if i and not t < times[i - 1]:
            raise ValueError(
                f"a time grid must fall from noise to data; time number {i} is {t:g} after "
                f"{times[i - 1]:g}"
            )
    return times


def walk(
    step: Step,
    denoiser: Denoiser,
    x: Tensor,
    grid: Sequence[float] | Callable[[State], float | None],
    *,
    noise: Noise | None = None,
    project: Callable[[Tensor, float], Tensor] | None = None,
    grad: bool = False,
    start: float = 1.0,
    **condition: Any,
) -> Iterator[State]:
    """Run ``step`` over ``grid`` from x at the first time; yields a State before and after a step.

    Args:
        grid: falling times in [0, 1]; or, for samplers that decide on the way, a function of the
            State that gives the next time (up or down) or None to stop; ``start`` is the first.
        noise: where stochastic steps get their noise, see ``gaussian``.
        project: correction ``(x, s) -> x`` after each step (inpainting, ILVR, ...).
        grad: keep the graph, for methods that differentiate through the walk.
        condition: passed on to the denoiser (``label=...``).

    A ``step`` with a method ``states(ask, x, grid)`` owns its loop (the adaptive ``emsde``): it is
    handed the grid for its ends.

    Never write to a yielded tensor. Raises ValueError for a bad grid or a bad x; that the result is
    finite is checked by ``sample``, once, at the end.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a float tensor; got {type(x).__name__}")
    if not x.is_floating_point() or len(x) == 0:
        raise ValueError(
            f"x must be a float tensor with at least one sample; got {x.dtype} {tuple(x.shape)}"
        )
    ask = Ask(denoiser, condition, noise)
    if not callable(grid):
        grid = check_grid(grid)
        inside = getattr(step, "inside", None)  # of solvers that also ask within a step
        more = inside(denoiser.schedule, grid) if inside is not None else []
        denoiser.prepare([*grid[:-1], *more], x)
    own = getattr(step, "states", None)
    if own is not None:
        if callable(grid) or project is not None or grad:
            raise ValueError(
                "this sampler chooses its own times: give it a grid, of which the ends count, and "
                "neither project nor grad"
            )
        return own(ask, x, grid)
    return _walk(step, ask, x, grid, project, grad, start)


def _walk(
    step: Step,
    ask: Ask,
    x: Tensor,
    grid: list[float] | Callable[[State], float | None],
    project: Callable[[Tensor, float], Tensor] | None,
    grad: bool,
    t: float,
) -> Iterator[State]:
    free = callable(grid)
    n = None if free else len(grid) - 1
    t = t if free else grid[0]
    state = State(x, t, t, 0, n, None, 0)
    yield state
    i = 0
    while True:
        s = grid(state) if free else (grid[i + 1] if i < n else None)
        if s is None:
            return
        if torch.is_grad_enabled() is grad:  # as under sample: nothing to switch
            x = step(ask, x, t, s)
            x = x if project is None else project(x, s)
        else:  # inside the loop, not around the yield: the switch would leak into the caller
            with torch.set_grad_enabled(grad):
                x = step(ask, x, t, s)
                x = x if project is None else project(x, s)
        i += 1
        pred = ask.history[-1][1] if ask.history else None
        state = State(x, t, s, i, n, pred, ask.nfe)
        t = s
        yield state


@dataclass(frozen=True, slots=True)
class Result:
    """What a walk ended with. ``path`` holds all states if they were asked for."""

    x: Tensor
    nfe: int
    seconds: float
    path: list[State]


def sample(states: Iterator[State], *, bar: bool = False, keep: bool = False) -> Result:
    """Run a walk to its end, with a progress bar or keeping its path.

    Gradients are off for the whole of it, so that ``walk`` need not switch them at every step (one
    with ``grad=True`` switches them on for its steps). Raises FloatingPointError if the result is
    not finite.
    """
    begin = time.perf_counter()
    path: list[State] = []
    last: State | None = None
    if bar:
        from tqdm.auto import tqdm

        progress = tqdm(total=None, unit="step", desc="sampling")
        shown = begin
    with torch.no_grad():
        for last in states:
            if keep:
                path.append(last)
            if bar and time.perf_counter() - shown > REDRAW:
                shown = time.perf_counter()
                _show(progress, last)
    if last is None:
        raise ValueError("the walk yielded no state")
    if bar:
        _show(progress, last)
        progress.close()
    if not _finite(last.x):
        raise FloatingPointError(
            f"the sample is not finite after {last.i} steps: the denoiser returned NaN or "
            "infinity, or the steps are too long for this sampler"
        )
    return Result(last.x, last.nfe, time.perf_counter() - begin, path)


def _show(progress: Any, state: State) -> None:
    progress.total = state.n
    progress.update(state.i - progress.n)


def _finite(x: Tensor) -> bool:
    """Whether all of x is finite. The sum tells, in one operation, unless it overflows itself."""
    return math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())
