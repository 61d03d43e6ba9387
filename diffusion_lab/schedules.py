"""Noise schedules: how fast a picture is destroyed.

Every Gaussian process of the course is written as

    x_t = alpha_t x_0 + sigma_t eps,      eps ~ N(0, I),      t in [0, 1],

with t = 0 the data. A schedule is nothing but the pair (alpha_t, sigma_t); what a sampler
needs of it is mostly the half log signal-to-noise ratio

    lambda_t = log(alpha_t / sigma_t) = 0.5 log SNR_t,

which falls as t grows. Discrete DDPM with T steps lives on the grid t_i = i / T, i = 1..T,
with abar_0 = 1, so alpha = sqrt(abar_i) and sigma = sqrt(1 - abar_i) there.

All functions take t as a float (samplers: plain Python arithmetic, no tensors in the loop) or as a
tensor (training: one t for every picture) and compute in float64.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

from diffusion_lab.device import check_time, randn
from diffusion_lab.errors import check_arguments, named, number, share, unknown, whole

__all__ = ["EDM", "VE", "Cosine", "Linear", "Schedule", "Sigmoid", "Table"]
__all__ += ["cosine", "linear", "make", "zero_terminal_snr"]

Time = TypeVar("Time", float, Tensor)  # a float in loops, a (B,) tensor in training
INF = math.inf


# ---- arithmetic that works on floats and on tensors ---------------------------------------------
class _Floats:
    """torch's words for plain numbers, with its log(0) = -inf and e^710 = inf."""

    expm1, log1p, sin, asin, asinh = math.expm1, math.log1p, math.sin, math.asin, math.asinh
    exp = staticmethod(lambda x: math.exp(x) if x < 709 else INF)
    log = staticmethod(lambda x: math.log(x) if x > 0 else -INF)
    clamp = staticmethod(lambda x, low, high: min(max(x, low), high))
    where = staticmethod(lambda condition, yes, no: yes if condition else no)


def lib_of(t: Any) -> Any:
    # is it a float? first, here and in all hot places: "is it a Tensor?" takes four times as long
    return _Floats if isinstance(t, float) or not isinstance(t, Tensor) else torch


def log_sigma_vp(log_alpha: Time) -> Time:
    """log sqrt(1 - alpha^2) from log alpha, exact near alpha = 1."""
    if isinstance(log_alpha, float):
        return 0.5 * math.log(-math.expm1(2 * log_alpha)) if log_alpha < 0 else -INF
    return 0.5 * torch.log(-torch.expm1(2 * log_alpha))


def _log_alpha_vp(lam: Time) -> Time:
    """log alpha from lambda when alpha^2 + sigma^2 = 1: alpha^2 = 1 / (1 + e^{-2 lambda})."""
    return -0.5 * lib_of(lam).log1p(lib_of(lam).exp(-2 * lam))


# ---- the schedules ------------------------------------------------------------------------------
class Schedule:
    """The pair (alpha_t, sigma_t). A subclass gives ``_t_of_lam``, and what it is made of:
    ``_log_alpha`` and ``_lost`` where it is VP, ``_logs`` and ``_rates`` where it is not.
    """

    T: int | None = None  # number of training steps, for schedules that live on a grid
    vp: bool = True  # alpha^2 + sigma^2 = 1

    def _logs(self, t: Time) -> tuple[Time, Time]:
        """(log alpha, log sigma) at t."""
        log_alpha = self._log_alpha(t)
        return log_alpha, log_sigma_vp(log_alpha)

    def _rates(self, t: Time) -> tuple[Time, Time]:
        """(d alpha^2/dt, d sigma^2/dt): finite also where alpha or sigma is 0."""
        lost = self._lost(t)
        return -lost, lost

    def logs(self, t: Time) -> tuple[Time, Time]:
        """(log alpha_t, log sigma_t), -inf for 0. ValueError where t is outside [0, 1]."""
        return self._logs(check_time(t))

    def alpha_sigma(self, t: Time) -> tuple[Time, Time]:
        """(alpha_t, sigma_t). Raises ValueError where t is outside [0, 1]."""
        log_alpha, log_sigma = self.logs(t)
        exp = lib_of(log_alpha).exp
        return exp(log_alpha), exp(log_sigma)

    def alpha(self, t: Time) -> Time:
        """alpha_t, the share of the data that is left."""
        return self.alpha_sigma(t)[0]

    def sigma(self, t: Time) -> Time:
        """sigma_t, the standard deviation of the noise."""
        return self.alpha_sigma(t)[1]

    def lam(self, t: Time) -> Time:
        """lambda_t = log(alpha_t / sigma_t); +inf where there is no noise, -inf where no data."""
        log_alpha, log_sigma = self.logs(t)
        return log_alpha - log_sigma

    def snr(self, t: Time) -> Time:
        """alpha_t^2 / sigma_t^2 = e^{2 lambda}."""
        lam = self.lam(t)
        return lib_of(lam).exp(2 * lam)

    def t_of_lam(self, lam: Time) -> Time:
        """The time at which lambda_t = lam, clipped to [0, 1]."""
        lib = lib_of(lam)
        if lib is _Floats and math.isnan(lam):
            raise ValueError("lambda is not a number: it has no time")
        lam = float(lam) if lib is _Floats else lam.double()
        t = lib.clamp(self._t_of_lam(lib.clamp(lam, -350.0, 350.0)), 0.0, 1.0)  # e^700 is finite
        return lib.where(lam == INF, 0.0, lib.where(lam == -INF, 1.0, t))

    def snr_slope(self, t: Time) -> Time:
        """d SNR / dt, finite also where no data are left (alpha = 0)."""
        alpha, sigma = self.alpha_sigma(t)
        d_alpha2, d_sigma2 = self._rates(check_time(t))
        return (d_alpha2 * sigma**2 - alpha**2 * d_sigma2) / sigma**4

    def drift_diffusion(self, t: Time) -> tuple[Time, Time]:
        """(f, g^2) of dx = f x dt + g dw with these marginals (Song et al. 2020, 2011.13456).

        f = d log alpha / dt and g^2 = d sigma^2/dt - 2 f sigma^2; for VP that is g^2 = -2 f. On a
        table, the slopes of the interval that begins at t. -inf and inf where alpha = 0.
        """
        alpha, sigma = self.alpha_sigma(t)
        d_alpha2, d_sigma2 = self._rates(check_time(t))
        f = 0.5 * d_alpha2 / lib_of(alpha).clamp(alpha, 1e-150, INF) ** 2
        f = lib_of(alpha).where(alpha == 0, -INF, f)
        return f, -2 * f if self.vp else d_sigma2 - 2 * f * sigma**2

    def prior_std(self, t: float = 1.0) -> float:
        """Standard deviation from which sampling starts: 1 for VP, sigma_t otherwise."""
        return 1.0 if self.vp else self.sigma(t)

    def prior(self, n: int, shape: Sequence[int], gen: Generator, t: float = 1.0) -> Tensor:
        """n draws (n, *shape) of the noise that sampling starts from at t; float32 on the CPU."""
        n = whole("the number of samples", n)
        return randn((n, *shape), gen) * self.prior_std(t)

    def spec(self) -> dict[str, Any]:
        """What ``make`` needs to build this schedule again (stored in checkpoints)."""
        given = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        kind = type(self)
        far = f"{kind.__module__}:{kind.__qualname__}"  # one that lives in another room
        return {"name": kind.__name__.lower() if kind in _MAKERS.values() else far, **given}

    def __repr__(self) -> str:
        given = {k: v for k, v in self.spec().items() if k not in ("name", "abar")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(repr(self))


class Linear(Schedule):
    """Continuous VP with beta(t) = b0 + t (b1 - b0): log alpha = -B(t)/2, B its integral."""

    def __init__(self, b0: float = 0.1, b1: float = 20.0) -> None:
        self.b0, self.b1 = number("b0", b0), number("b1", b1)
        if not 0 < b0 < b1:
            raise ValueError(f"beta(t) must grow from b0 > 0 to b1 > b0; got b0={b0}, b1={b1}")

    def _log_alpha(self, t: Time) -> Time:
        return -0.25 * t * t * (self.b1 - self.b0) - 0.5 * t * self.b0

    def _lost(self, t: Time) -> Time:
        return (self.b0 + t * (self.b1 - self.b0)) * lib_of(t).exp(2 * self._log_alpha(t))

    def _t_of_log_alpha(self, log_alpha: Time) -> Time:
        q = -4 * (self.b1 - self.b0) * log_alpha
        return q / (((self.b0**2 + q) ** 0.5 + self.b0) * (self.b1 - self.b0))

    def _t_of_lam(self, lam: Time) -> Time:
        return self._t_of_log_alpha(_log_alpha_vp(lam))


class Cosine(Schedule):
    """alpha_t = cos(pi/2 (t+s)/(1+s)) / cos(pi/2 s/(1+s)); alpha_1 = 0 exactly (2102.09672)."""

    def __init__(self, s: float = 0.008) -> None:
        self.s = share("the cosine offset s", s, inside=True)

    def _norm(self) -> float:
        return math.cos(0.5 * math.pi * self.s / (1 + self.s))

    def _log_alpha(self, t: Time) -> Time:
        # cos(pi/2 (t+s)/(1+s)) = sin(pi/2 (1-t)/(1+s)), which is exactly 0 at t = 1
        lib = lib_of(t)
        log_alpha = lib.log(lib.sin(0.5 * math.pi * (1 - t) / (1 + self.s)) / self._norm())
        return lib.clamp(log_alpha, -INF, 0.0)  # rounding at t = 0

    def _lost(self, t: Time) -> Time:
        half = math.pi / (1 + self.s)  # alpha^2 = sin^2(half (1 - t)/2) / norm^2
        return 0.5 * half * lib_of(t).sin(half * (1 - t)) / self._norm() ** 2

    def _t_of_lam(self, lam: Time) -> Time:
        lib = lib_of(lam)
        alpha = lib.exp(_log_alpha_vp(lam))
        return 1 - (1 + self.s) * (2 / math.pi) * lib.asin(alpha * self._norm())


class Sigmoid(Schedule):
    """abar(t) = (S(e/tau) - S((t(e-s)+s)/tau)) / (S(e/tau) - S(s/tau)), S logistic (2301.10972)."""

    floor = 1e-9  # abar at t = 1, so that lambda stays finite

    def __init__(self, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> None:
        self.start, self.end = number("start", start, -INF), number("end", end, -INF)
        self.tau = number("tau", tau, above=True)
        if not start < end:
            raise ValueError(f"need start < end; got {start}, {end}")

    def _logistic(self, t: Time) -> Time:
        z = (t * (self.end - self.start) + self.start) / self.tau
        return 1 / (1 + lib_of(t).exp(-z))

    def _log_alpha(self, t: Time) -> Time:
        low, high, lib = self._logistic(0.0), self._logistic(1.0), lib_of(t)
        noise = (self._logistic(t) - low) / (high - low)  # sigma^2, exactly 0 at t = 0
        return 0.5 * lib.log1p(-lib.clamp(noise, 0.0, 1.0 - self.floor))

    def _lost(self, t: Time) -> Time:
        low, high, now = self._logistic(0.0), self._logistic(1.0), self._logistic(t)
        return now * (1 - now) * (self.end - self.start) / self.tau / (high - low)

    def _t_of_lam(self, lam: Time) -> Time:
        low, high, lib = self._logistic(0.0), self._logistic(1.0), lib_of(lam)
        noise = lib.exp(2 * (_log_alpha_vp(lam) - lam))  # sigma^2 = alpha^2 e^{-2 lambda}
        p = low + noise * (high - low)
        return (lib.log(p / (1 - p)) * self.tau - self.start) / (self.end - self.start)


class VE(Schedule):
    """Variance exploding: alpha = 1, sigma_t = smin (smax/smin)^t (2011.13456)."""

    vp = False

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        self.sigma_min = number("sigma_min", sigma_min)
        self.sigma_max = number("sigma_max", sigma_max)
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max; got {sigma_min}, {sigma_max}")

    def _logs(self, t: Time) -> tuple[Time, Time]:
        return 0.0 * t, math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min)

    def _rates(self, t: Time) -> tuple[Time, Time]:
        grown = 2 * math.log(self.sigma_max / self.sigma_min)
        return 0.0 * t, grown * lib_of(t).exp(2 * self._logs(t)[1])

    def _t_of_lam(self, lam: Time) -> Time:
        return (-lam - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


class EDM(Schedule):
    """alpha = 1, sigma_t = sigma_max t^rho: Karras et al.'s grid is uniform in this t (2206.00364).

    Unlike VE it reaches sigma = 0, so the last step of a sampler lands on clean data.
    """

    vp = False

    def __init__(self, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        self.sigma_max = number("sigma_max", sigma_max, above=True)
        self.rho = number("rho", rho, above=True)

    def _logs(self, t: Time) -> tuple[Time, Time]:
        return 0.0 * t, math.log(self.sigma_max) + self.rho * lib_of(t).log(t)

    def _rates(self, t: Time) -> tuple[Time, Time]:
        return 0.0 * t, 2 * self.rho * self.sigma_max**2 * t ** (2 * self.rho - 1)

    def _t_of_lam(self, lam: Time) -> Time:
        return lib_of(lam).exp((-lam - math.log(self.sigma_max)) / self.rho)


class Table(Schedule):
    """Any list of betas: abar_i = prod_{j<=i} (1 - beta_j) at t_i = i/T, abar_0 = 1.

    Between grid points abar is interpolated linearly, so that any t in [0, 1] has a meaning.
    """

    def __init__(self, betas: Sequence[float] | Tensor | None = None, *, abar: Any = None) -> None:
        if (betas is None) == (abar is None):
            raise ValueError("give either betas or abar, not both")
        if abar is None:
            try:
                beta = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
            except (TypeError, ValueError) as error:
                raise ValueError(f"betas must be a list of numbers; got {betas!r:.60}") from error
            if beta.ndim != 1 or not ((beta > 0) & (beta <= 1)).all():
                raise ValueError("betas must be a list of numbers in (0, 1]")
            abar = torch.cumprod(1 - beta, 0)
        table = torch.as_tensor(abar, dtype=torch.float64, device="cpu")
        if table.ndim != 1 or len(table) == 0:
            raise ValueError(f"abar must be a list of T numbers; got shape {tuple(table.shape)}")
        steps = torch.diff(table, prepend=table.new_ones(1))
        if not ((table >= 0).all() and (steps < 0).all()):
            raise ValueError("abar must fall strictly from below 1 and stay >= 0")
        self.abar = [1.0, *table.tolist()]
        self.T = len(table)
        self._rising = self.abar[::-1]

    def spec(self) -> dict[str, Any]:
        return {"name": "table", "abar": self.abar[1:]}

    def __repr__(self) -> str:
        return f"Table(T={self.T}, abar_1={self.abar[1]:.6g}, abar_T={self.abar[-1]:.6g})"

    def betas(self) -> Tensor:
        """beta_1..beta_T, shape (T,), float64."""
        abar = torch.tensor(self.abar, dtype=torch.float64, device="cpu")
        return 1 - abar[1:] / abar[:-1]

    def _place(self, t: Time) -> tuple[Any, Time, Any]:
        """(i, w, abar's table): t lies w of the way from i/T to (i + 1)/T.

        A grid time such as 0.3 * 1000 may come out as 299.99...: it is snapped, w keeps its slope.
        """
        place = t * self.T
        if isinstance(t, float):
            place = near if abs(place - (near := round(place))) < 1e-4 else place
            i = min(int(place), self.T - 1)
            return i, place - i, self.abar
        near = place.detach().round()
        exact = torch.where((place - near).abs() < 1e-4, near, place).detach()
        i = exact.long().clamp(max=self.T - 1)
        table = torch.tensor(self.abar, dtype=torch.float64, device=t.device)
        return i, exact - i + (place - place.detach()), table

    def _log_alpha(self, t: Time) -> Time:
        i, w, abar = self._place(t)
        return 0.5 * lib_of(t).log((1 - w) * abar[i] + w * abar[i + 1])

    def _lost(self, t: Time) -> Time:
        i, _, abar = self._place(t)
        return self.T * (abar[i] - abar[i + 1])

    def _t_of_lam(self, lam: Time) -> Time:
        # j: the first entry, going up from abar_T, that is >= the abar asked for
        target, rising = lib_of(lam).exp(2 * _log_alpha_vp(lam)), self._rising
        if isinstance(lam, Tensor):
            rising = torch.tensor(rising, dtype=torch.float64, device=lam.device)
            j = torch.searchsorted(rising, target.contiguous()).clamp(1, self.T)
        else:
            j = min(max(bisect.bisect_left(rising, target), 1), self.T)
        lower, upper = rising[j - 1], rising[j]
        return (self.T - j + (upper - target) / (upper - lower)) / self.T


# ---- ways to make one ---------------------------------------------------------------------------
def linear(T: int | None = None) -> Schedule:
    """The DDPM schedule: T betas from 1e-4 to 0.02 (scaled by 1000/T), or its continuous form."""
    if T is None:
        return Linear()
    whole("the number of steps", T)
    scale = 1000 / T
    betas = torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64, device="cpu")
    betas[-1] = 0.02 * scale  # of one step too: all noise at once
    return Table(betas.clamp(max=0.999))


def cosine(T: int | None = None, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """Nichol & Dhariwal's schedule: T betas clipped at ``max_beta``, or its continuous form."""
    if T is None:
        return Cosine(s)
    whole("the number of steps", T)
    if not 0 < max_beta <= 1:
        raise ValueError(f"max_beta must lie in (0, 1]; got {max_beta}")
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64, device="cpu")
    h = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return Table((1 - h[1:] / h[:-1]).clamp(max=max_beta))


def zero_terminal_snr(schedule: Schedule) -> Table:
    """Shift and scale sqrt(abar) so that abar_T = 0 and abar_1 stays (Lin et al., 2305.08891)."""
    if not isinstance(schedule, Table):
        raise ValueError(f"zero_terminal_snr needs a schedule on T steps; got {schedule!r}")
    if schedule.T == 1:
        raise ValueError("one step cannot both keep abar_1 and end at 0: take two steps or more")
    root = torch.tensor(schedule.abar[1:], dtype=torch.float64, device="cpu").sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return Table(abar=root**2)


_MAKERS = {
    "linear": Linear,
    "cosine": Cosine,
    "sigmoid": Sigmoid,
    "ve": VE,
    "edm": EDM,
    "subvp": "diffusion_lab.scores.subvp:SubVP",
    "table": Table,
}


def make(name: str, **parameters: Any) -> Schedule:
    """Build a schedule by name: linear, cosine, sigmoid, ve, edm, subvp or table.

    ``T=1000`` with linear or cosine gives the table of that many steps. A schedule that lives in
    another room has a name like "diffusion_lab.scheduling.fastdpm:GammaLevels".
    """
    if name not in _MAKERS and ":" not in name:
        raise unknown("schedule", name, _MAKERS)
    maker = _MAKERS.get(name, name)
    maker = named("schedule", maker) if isinstance(maker, str) else maker
    if "T" in parameters and name in ("linear", "cosine"):
        maker = {"linear": linear, "cosine": cosine}[name]
    check_arguments(f"the schedule {name!r}", maker, parameters)
    return maker(**parameters)
