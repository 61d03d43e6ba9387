"""Adaptive steps for the reverse SDE (Jolicoeur-Martineau et al. 2021, 2105.14080, Algorithm 1).

With the reverse drift D(x, t) = f x - g^2 score and one draw z for both, a trial step from t to
t - h is Euler-Maruyama's, then improved Euler's from the same two score calls:

    x'  = x - h D(x, t) + sqrt(h) g(t) z
    x~  = x - h D(x', t-h) + sqrt(h) g(t-h) z,        x'' = (x' + x~)/2.

Their difference is an estimate of the error, measured against what may go unseen:

    delta = max(abs, rel max(|x'|, |x'_prev|)),       E = rms((x' - x'')/delta).

E <= 1 accepts x'' (the better of the two), else the trial is thrown away; in either case the
sample's next step is h <- min(what is left, 0.9 h E^-0.9). Every sample has its own t and h; a
rejected trial costs two calls as well.

A rejection followed by fresh noise favours small noise, which biases the law where few dimensions
decide E. ``path`` draws the Brownian path first and lets trials only read it, which does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.denoisers import expand
from diffusion_lab.device import rows_of
from diffusion_lab.errors import whole
from diffusion_lab.walk import Ask, State

__all__ = ["AdaptiveState", "Emsde", "emsde"]

ROUNDING = 1e-12  # in t: a step that leaves no more than this ends at the end itself
SMALLEST_ERROR = 1e-6  # of E: a step may then grow by a factor of 2e5, not by infinity


@dataclass(slots=True)
class AdaptiveState(State):
    """A State after one round of trials. ``t`` and ``s`` are those of the slowest sample; ``nfe``
    is the mean number of calls for a sample, rounded up.

    ``times``, ``calls``, ``rejected`` (B,): where each sample is, what it has cost so far, rejected
    trials included, and how many those were; ``tried`` (B,): the step of this round, 0 for those
    that had arrived; ``error`` (B,): its E.
    """

    times: Tensor
    calls: Tensor
    rejected: Tensor
    tried: Tensor
    error: Tensor


@dataclass(frozen=True, slots=True)
class Emsde:
    """The adaptive solver as a step that owns its loop: ``walk`` calls ``states``."""

    rel: float
    abs: float
    first: float
    fixed: float | None
    path: int | None
    most: int

    def states(self, ask: Ask, x: Tensor, times: Sequence[float]) -> Iterator[State]:
        """From times[0] to the end of the grid; onto clean data by one last call."""
        with torch.no_grad():
            yield from _states(self, ask, x, times)


def emsde(
    rel: float = 0.05,
    abs: float = 0.0078,
    first: float = 0.01,
    *,
    fixed: float | None = None,
    path: int | None = None,
    most: int = 2000,
) -> Emsde:
    """The adaptive SDE solver; give it to ``walk`` with a grid of which only the ends count.

    Args:
        rel: relative tolerance; the paper uses 0.01, 0.02, 0.05 and 0.1.
        abs: absolute tolerance, one 8-bit level of data in [-1, 1] by default.
        first: the first trial step, as a share of the time from 1 to 0.
        fixed: take steps of this size and accept all of them (stochastic Heun, for comparison).
        path: draw a Brownian path at this many points first and step on these points only, so that
            a rejection does not change the noise. Needs ``path`` + 1 times the memory of x.
        most: rounds of trials after which it gives up.

    A grid that ends at t = 0 is walked to its last time but one, or to 0 where a denoiser can be
    asked there (VE), and ends with one call's x0_hat (Tweedie's formula). ValueError for tolerances
    <= 0, a schedule whose drift is infinite at the start, and impossible sizes. RuntimeError if
    ``most`` rounds do not reach the end, FloatingPointError if the error estimate is not finite.
    """
    if not (rel > 0 and abs > 0):
        raise ValueError(f"tolerances must be > 0; got rel={rel}, abs={abs}")
    for name, value in (("first", first), ("fixed", fixed)):
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"{name} is a step in t and must lie in (0, 1]; got {value}")
    for name, value in (("path", path), ("most", most)):
        if value is not None:
            whole(name, value)
    return Emsde(rel, abs, first, fixed, path, most)


def _states(how: Emsde, ask: Ask, x: Tensor, times: Sequence[float]) -> Iterator[State]:
    start, end = times[0], times[-1]
    clean = end == 0
    if clean and not _may_ask(ask, end):
        end = times[-2]
        if end == start:
            raise ValueError(
                f"a grid down to clean data needs a time between, at which the denoiser can still "
                f"be asked; got {list(times)}: two steps or more"
            )
    n, mine = len(x), torch.float64
    t = torch.full((n,), start, dtype=mine, device=x.device)
    drift = _Drift(ask, n)
    f, g2 = ask.schedule.drift_diffusion(t[:1])
    if not bool(torch.isfinite(f).all() and torch.isfinite(g2).all()):
        raise ValueError(
            f"the drift of {ask.schedule!r} is infinite at t = {start:g}: start the grid lower, "
            "as lam_range=(-5, 9) does"
        )
    h = torch.full((n,), how.fixed or how.first, dtype=mine, device=x.device)
    h = torch.minimum(h, t - end)
    noise = _Fresh(ask) if how.path is None else _Path(ask, x, start, end, how.path)
    calls = torch.zeros(n, dtype=torch.int64, device=x.device)
    rejected = calls.clone()
    nothing = torch.zeros(n, dtype=mine, device=x.device)
    before = x  # x'_prev
    yield AdaptiveState(x, start, start, 0, None, None, 0, t, calls, rejected, nothing, nothing)
    slowest, i = start, 0
    while slowest > end:
        if i >= how.most:
            raise RuntimeError(
                f"after {i} rounds of trials {int((t > end).sum())} of {n} samples are still under "
                f"way, the slowest at t = {slowest:.4g} with a step of {h[t > end].min():.2g}: the "
                f"tolerances rel={how.rel:g}, abs={how.abs:g} cannot be reached so; allow a larger "
                f"error, or more rounds (most={how.most})"
            )
        on = torch.nonzero(t > end)[:, 0]
        rows = slice(None) if len(on) == n else on
        xo, to, h_on = x[rows], t[rows], h[rows]
        h_on, z = noise(xo, to, h_on, rows)
        low = torch.where(h_on >= to - end - ROUNDING, end, to - h_on)
        step, root = expand(h_on, xo), expand(h_on.sqrt(), xo)
        drift_t, g_t = drift(xo, to, rows)
        z = root * z
        euler = (xo - step * drift_t).addcmul_(expand(g_t, xo), z)
        drift_s, g_s = drift(euler, low, rows)
        other = (xo - step * drift_s).addcmul_(expand(g_s, xo), z)
        better = (euler + other).mul_(0.5)
        seen = torch.maximum(euler.abs(), before[rows].abs()).mul_(how.rel).clamp_(min=how.abs)
        error = ((euler - better) / seen).flatten(1).double().square().mean(1).sqrt()
        if not bool(torch.isfinite(error).all()):
            raise FloatingPointError(
                f"the error estimate is not finite in round {i + 1} (t = {slowest:.4g}): the "
                "denoiser returned NaN or infinity, or the first step is too long"
            )
        accept = error <= 1
        if how.fixed is not None:
            accept = torch.ones_like(accept)
        elif how.path is not None:
            accept = accept | noise.shortest(h_on)
        keep = expand(accept, xo).bool()
        x, before, t = x.clone(), before.clone(), t.clone()
        x[rows] = torch.where(keep, better, xo)
        before[rows] = torch.where(keep, euler, before[rows])
        t[rows] = torch.where(accept, low, to)
        calls, rejected = calls.clone(), rejected.clone()
        calls[rows] += 2 * ask.denoiser.nfe
        rejected[rows] += ~accept
        size = h_on if how.fixed else 0.9 * h_on * error.clamp(min=SMALLEST_ERROR) ** -0.9
        h = h.clone()
        h[rows] = torch.minimum(
            how.fixed * torch.ones_like(size) if how.fixed else size, t[rows] - end
        )
        tried, errors = nothing.clone(), nothing.clone()
        tried[rows], errors[rows] = h_on, error
        i += 1
        was, slowest = slowest, t.max().item()
        pred, nfe = ask.history[-1][1], math.ceil(calls.double().mean().item())
        yield AdaptiveState(x, was, slowest, i, None, pred, nfe, t, calls, rejected, tried, errors)
    if clean:
        alpha = ask.schedule.alpha(times[-1])
        x = ask(x, end).mix(x0=alpha)
        calls = calls + ask.denoiser.nfe
        nfe, t = math.ceil(calls.double().mean().item()), torch.full_like(t, times[-1])
        yield AdaptiveState(
            x,
            end,
            times[-1],
            i + 1,
            None,
            ask.history[-1][1],
            nfe,
            t,
            calls,
            rejected,
            nothing,
            nothing,
        )


def _may_ask(ask: Ask, t: float) -> bool:
    """Whether there is noise to read at t, of a level that the denoiser knows."""
    known = ask.denoiser.lam_range
    most = math.inf if known is None else known[1] + 1e-3
    return ask.schedule.sigma(t) > 0 and ask.schedule.lam(t) <= most


class _Drift:
    """(D(x, t), g(t)) for the samples still under way, each at its own time; a label follows."""

    def __init__(self, ask: Ask, n: int) -> None:
        self.ask, self.whole, self.n = ask, ask.condition, n

    def __call__(self, x: Tensor, t: Tensor, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        self.ask.condition = rows_of(self.whole, rows, self.n)
        try:
            p = self.ask(x, t)
        finally:
            self.ask.condition = self.whole
        f, g2 = self.ask.schedule.drift_diffusion(t)
        return p.mix(x_t=expand(f, x), score=expand(-g2, x)), g2.sqrt()


class _Fresh:
    """New noise for every trial, drawn for the whole batch, whoever is still under way."""

    def __init__(self, ask: Ask) -> None:
        self.ask, self.like = ask, None

    def __call__(
        self, x: Tensor, t: Tensor, h: Tensor, rows: slice | Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.like is None:
            self.like = torch.empty_like(x)  # the first round has all samples
        return h, self.ask.noise(self.like, 0.0)[rows]


class _Path:
    """A Brownian path W at ``count`` + 1 times from start to end, drawn beforehand.

    Steps are rounded down to its points (to one interval at least), and z is the path's own
    increment over sqrt(h): the same part of the path gives the same noise in every trial.
    """

    def __init__(self, ask: Ask, x: Tensor, start: float, end: float, count: int) -> None:
        self.start, self.gap = start, (start - end) / count
        shape = (count + 1, *x.shape)
        pieces = torch.stack([ask.noise(x, end) for _ in range(count)]) * math.sqrt(self.gap)
        self.w = torch.zeros(shape, dtype=x.dtype, device=x.device)
        torch.cumsum(pieces, 0, out=self.w[1:])
        self.all = torch.arange(len(x), device=x.device)
        self.count = count

    def shortest(self, h: Tensor) -> Tensor:
        """Whether a step is one interval long: no shorter one can be tried."""
        return h < 1.5 * self.gap

    def __call__(
        self, x: Tensor, t: Tensor, h: Tensor, rows: slice | Tensor
    ) -> tuple[Tensor, Tensor]:
        here = ((self.start - t) / self.gap).round().long()
        many = torch.minimum((h / self.gap + 1e-6).long().clamp(min=1), self.count - here)
        h, which = many.double() * self.gap, self.all[rows]
        return h, (self.w[here + many, which] - self.w[here, which]) / expand(h.sqrt(), x)
