"""The one loop that every sampler shares: from noise to data along a time grid.

A paper contributes a *step*, a function

    step(ask, x, t, s) -> x_s

that moves x from time t to s < t. ``ask(x, t)`` is the denoiser with its condition: each call is
counted and kept in ``ask.history``; ``ask.add_noise`` adds what a stochastic step draws. ``walk``
runs a step over a grid and yields its states, so progress bars, animations, counts and corrections
need no second copy of the loop. ``relay`` joins walks: a cascade, a pyramid.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser, Number, Prediction
from diffusion_lab.device import check_generator, randn
from diffusion_lab.errors import check_takes
from diffusion_lab.schedules import Schedule

__all__ = ["Ask", "Noise", "Result", "State", "Step", "check_grid", "gaussian", "relay", "sample"]
__all__ += ["walk"]

KEPT = 4  # answers that multistep methods may look back on
# (number of the draw, like) -> noise of that shape; one with an argument ``s`` is told the time
# that the step leads to (noise whose law depends on the level)
Noise = Callable[..., Tensor]


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

    ``history`` holds (t, Prediction), newest last, at most ``KEPT`` of them: what multistep methods
    look back on. ``nfe`` counts network evaluations, ``draws`` the calls of ``noise``; ``i`` is the
    number of steps done, ``n`` of all (None where the grid is decided on the way).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        condition: dict[str, Any] | None = None,
        source: Noise | None = None,
    ) -> None:
        if source is not None and not callable(source):
            raise ValueError(f"noise is drawn by gaussian(generator(seed)); got {source!r:.60}")
        self.denoiser, self.condition, self.source = denoiser, condition or {}, source
        self._told = source is not None and "s" in inspect.signature(source).parameters
        self.schedule: Schedule = denoiser.schedule
        self.history: list[tuple[float, Prediction]] = []
        self.draws, self.nfe, self.i = 0, 0, 0
        self.n: int | None = None

    @property
    def left(self) -> float:
        """Steps still to come, this one included; infinite where nobody knows."""
        return math.inf if self.n is None else self.n - self.i

    @property
    def lowest(self) -> float:
        """The lowest lambda at which the denoiser may be asked: that of pure noise."""
        known = self.denoiser.lam_range
        return max(self.schedule.lam(1.0), -math.inf if known is None else known[0])

    def __call__(self, x: Tensor, t: float, **more: Any) -> Prediction:
        """The denoiser's answer; ``more`` is what this call alone is conditioned on."""
        pred = self.denoiser(x, t, **self.condition, **more)
        if not isinstance(pred, Prediction):
            raise ValueError(
                "a denoiser answers with a Prediction(x_t, alpha, sigma, out, kind); got "
                f"{type(pred).__name__} (a bare network becomes one in a NetDenoiser)"
            )
        self.nfe += self.denoiser.nfe
        self.history.append((t, pred))
        del self.history[:-KEPT]
        return pred

    def noise(self, like: Tensor, s: float | None = None) -> Tensor:
        """The next draw of noise, of a step to s; ValueError if the walk has no source of it."""
        if self.source is None:
            raise ValueError("this sampler draws noise: pass noise=gaussian(generator(seed))")
        self.draws += 1
        told = {"s": s} if self._told else {}
        return self.source(self.draws - 1, like, **told)

    def add_noise(self, mean: Tensor, std: Number, s: float) -> Tensor:
        """mean + std z, in place; nothing is drawn where std is the number 0."""
        if isinstance(std, Tensor):
            return mean.add_(std * self.noise(mean, s))
        return mean.add_(self.noise(mean, s), alpha=std) if std else mean


Step = Callable[[Ask, Tensor, float, float], Tensor]


def gaussian(generator: torch.Generator) -> Noise:
    """Standard normal noise, drawn on the CPU in whole batches and moved to the sample's device."""
    check_generator(generator)
    return lambda i, like, s=None: randn(like.shape, generator, like)


def check_grid(times: Sequence[float], *, up: bool = False) -> list[float]:
    """The grid as floats. ValueError unless it falls strictly within [0, 1].

    With ``up`` it may also rise, as long as no time stands twice in a row.
    """
    if isinstance(times, str) or not isinstance(times, Sequence | Tensor):
        raise ValueError(f"a grid is a list of times, as grid(schedule, 20); got {times!r:.60}")
    times = [float(t) for t in times]
    if len(times) < 2:
        raise ValueError(f"a time grid needs at least two times, start and end; got {times}")
    for i, t in enumerate(times):
        if not (math.isfinite(t) and 0.0 <= t <= 1.0):
            raise ValueError(f"time number {i} of the grid is {t}; times must lie in [0, 1]")
        if i and (t == times[i - 1] if up else not t < times[i - 1]):
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
        x: (B, ...): floats, or whatever else the step and the denoiser know (tokens).
        grid: falling times in [0, 1] (a step with ``up = True`` takes rising ones too); or, for
            samplers that decide on the way, a function of the State that gives the next time (up
            or down) or None to stop; ``start`` is the first.
        noise: where stochastic steps get their noise, see ``gaussian`` and ``Noise``.
        project: correction ``(x, s) -> x`` after each step (inpainting, ILVR, ...).
        grad: keep the graph, for methods that differentiate through the walk.
        condition: passed on to the denoiser (``label=...``).

    A ``step`` with a method ``states(ask, x, grid)`` owns its loop (the adaptive ``emsde``): it is
    handed the grid for its ends.

    Never write to a yielded tensor. Raises ValueError for a bad grid or a bad x; that the result is
    finite is checked by ``sample``, once, at the end.
    """
    if not hasattr(step, "states"):
        check_takes("walk runs a step, as ddim():", step, "ask", "x", "t", "s")
    if not isinstance(denoiser, Denoiser):
        raise ValueError(f"walk takes a denoiser; got {type(denoiser).__name__}")
    if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0:
        given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a tensor with at least one sample; got {given}")
    ask, first = Ask(denoiser, condition, noise), start
    if not callable(grid):
        grid = check_grid(grid, up=getattr(step, "up", False))
        ask.n, first = len(grid) - 1, grid[0]
    own = getattr(step, "states", None)
    if own is not None:
        if callable(grid) or project is not None or grad:
            raise ValueError(
                "this sampler chooses its own times: give it a grid, of which the ends count, and "
                "neither project nor grad"
            )
        return own(ask, x, grid)

    def after(state: State) -> float | None:
        """The time that follows."""
        if ask.n is None:
            return grid(state)
        return grid[state.i + 1] if state.i < ask.n else None

    def states() -> Iterator[State]:
        state = State(x, first, first, 0, ask.n, None, 0)
        yield state
        while (s := after(state)) is not None:
            ask.i = state.i
            # inside the loop, not around the yield: the switch would leak into the caller
            with nullcontext() if torch.is_grad_enabled() == grad else torch.set_grad_enabled(grad):
                moved = step(ask, state.x, state.s, s)
                moved = moved if project is None else project(moved, s)
            pred = ask.history[-1][1] if ask.history else None
            state = State(moved, state.s, s, state.i + 1, ask.n, pred, ask.nfe)
            yield state

    return states()


def relay(first: Iterator[State], *then: Callable[[State], Iterator[State]]) -> Iterator[State]:
    """Walks one after another, as one: each of ``then`` makes the next from the last State.

    ``relay(walk(...), lambda end: walk(step, net, upsampled(end.x), grid, low=end.x))``. Steps and
    network evaluations are counted through; a walk after the first yields its first State too.
    """
    state, i, nfe = None, 0, 0
    for make in (lambda _: first, *then):
        for part in make(state):
            n = None if part.n is None else i + part.n
            state = dataclasses.replace(part, i=i + part.i, n=n, nfe=nfe + part.nfe)
            yield state
        if state is not None:
            i, nfe = state.i, state.nfe


@dataclass(frozen=True, slots=True)
class Result:
    """What a walk ended with. ``path`` holds all states if they were asked for."""

    x: Tensor
    nfe: int
    seconds: float
    path: list[State]


def sample(states: Iterator[State], *, bar: bool = False, keep: bool = False) -> Result:
    """Run a walk (or a relay) to its end, with a progress bar or keeping its path.

    Gradients are off but for the steps of a walk with ``grad=True``. Raises FloatingPointError if
    the result is not finite.
    """
    begin = time.perf_counter()
    path, last = [], None
    with torch.no_grad():
        for last in _shown(states) if bar else states:
            if keep:
                path.append(last)
    if last is None:
        raise ValueError("the walk yielded no state")
    if last.x.is_floating_point() and not bool(torch.isfinite(last.x).all()):
        raise FloatingPointError(
            f"the sample is not finite after {last.i} steps: the denoiser returned NaN or "
            "infinity, or the steps are too long for this sampler"
        )
    return Result(last.x, last.nfe, time.perf_counter() - begin, path)


def _shown(states: Iterator[State]) -> Iterator[State]:
    """The same states, with a progress bar that is redrawn now and then."""
    from tqdm.auto import tqdm

    with tqdm(total=None, unit="step", desc="sampling", mininterval=0.1) as progress:
        for state in states:
            progress.total = state.n
            progress.update(state.i - progress.n)
            yield state
