"""FastDPM (Kong & Ping 2021, 2106.00132): a T-step network walked on any S noise levels.

Two ideas. The linear schedule's noise level has a formula for *real* steps i, because its factors
1 - beta_i = D (c - i + 1) fall linearly: with D = (beta_T - beta_1)/(T - 1), c = (1 - beta_1)/D,

    log abar(i) = i log D + log Gamma(c + 1) - log Gamma(c - i + 1),

so level and step determine each other (``GammaLevels``). And S levels can be chosen in two ways:

    STEP: choose S of the training steps, and take their levels;
    VAR:  choose S variances eta_i with prod (1 - eta_i) = abar(T), and ask at the real steps that
          have the levels g_i = prod_{j <= i} (1 - eta_j).

The reverse step, with kappa between DDIM (0) and DDPM (1), is ``ddim(eta=kappa)``: written out,

    x_s = sqrt(g_s/g_t) x_t + (sqrt(1-g_s-S^2) - sqrt(1-g_t) sqrt(g_s/g_t)) eps_hat + S z,
    S   = kappa sqrt((1-g_s)/(1-g_t) (1 - g_t/g_s)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.errors import unknown, whole
from diffusion_lab.schedules import Schedule, Time, log_sigma_vp

__all__ = ["GammaLevels", "fastdpm_grid", "step_grid", "var_grid"]

SPACINGS = ("linear", "quadratic")


class GammaLevels(Schedule):
    """The linear schedule of T steps at real steps T t: equal to its table at every t = i/T."""

    def __init__(self, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> None:
        whole("the number of steps", T)
        if not (0 < beta_1 < beta_T < 1 and T > 1):
            raise ValueError(f"need 0 < beta_1 < beta_T < 1 and T > 1; got {beta_1}, {beta_T}, {T}")
        self.steps, self.beta_1, self.beta_T = T, beta_1, beta_T

    def _at(self, t: Time) -> tuple[float, float, Time]:
        """D, c and the real step i = T t of the formula."""
        d = (self.beta_T - self.beta_1) / (self.steps - 1)
        return d, (1 - self.beta_1) / d, t * self.steps

    def _log_alpha(self, t: Time) -> Time:
        (d, c, i), many = self._at(t), isinstance(t, Tensor)
        lgamma = torch.lgamma if many else math.lgamma
        log_abar = i * math.log(d) + math.lgamma(c + 1) - lgamma(c - i + 1)
        return 0.5 * (log_abar.clamp(max=0.0) if many else min(log_abar, 0.0))

    def _lost(self, t: Time) -> Time:
        d, c, i = self._at(torch.as_tensor(t, dtype=torch.float64))
        slope = self.steps * (math.log(d) + torch.digamma(c - i + 1))  # of log abar
        lost = -slope * torch.exp(2 * self._log_alpha(torch.as_tensor(t, dtype=torch.float64)))
        return lost if isinstance(t, Tensor) else lost.item()

    def spec(self) -> dict[str, Any]:
        given = {"T": self.steps, "beta_1": self.beta_1, "beta_T": self.beta_T}
        return {"name": super().spec()["name"], **given}

    def _t_of_lam(self, lam: Time) -> Time:
        if isinstance(lam, Tensor):
            return (
                torch.tensor([self._t_of_lam(one) for one in lam.flatten().tolist()])
                .to(lam)
                .reshape(lam.shape)
            )
        return _root(lambda t: self.lam(t) - lam, 0.0, 1.0)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """The zero of a falling function by bisection, to the last bit."""
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return 0.5 * (low + high)


def step_grid(schedule: Schedule, steps: int, spacing: str = "quadratic") -> list[float]:
    """STEP: S of the T training steps: ``linear`` floor(i (T-1)/(S-1)), or ``quadratic``
    linspace(0, sqrt(0.8 T), S)^2, which starts at t = 0.8 (their section 4.1, counted from 0).
    """
    T = _check(schedule, steps, spacing)
    if spacing == "linear":
        places = [i * (T - 1) // (steps - 1) for i in range(steps)]
    else:
        places = [int((i / (steps - 1)) ** 2 * 0.8 * T) for i in range(steps)]
    for i in range(1, steps):  # quadratic: the first few fall on the same step
        places[i] = max(places[i], places[i - 1] + 1)
    return [(place + 1) / T for place in reversed(places)] + [0.0]


def var_grid(schedule: Schedule, steps: int, spacing: str = "linear") -> list[float]:
    """VAR: the times of S levels, eta_i = beta_1 + i x or beta_1 (1 + i x)^2 for i = 0..S-1.

    The free number x is found by bisection over all eta < 1, so that prod (1 - eta_i) = abar(T).
    (The authors' code searches a shorter interval, and finds no quadratic ones for S <= 20.)
    """
    _check(schedule, steps, spacing)
    target = 2 * math.log(schedule.alpha(1.0))
    beta_1 = 1 - schedule.alpha(1 / _T(schedule)) ** 2
    etas = _linear if spacing == "linear" else _quadratic
    most = (1 - beta_1) if spacing == "linear" else (beta_1**-0.5 - 1)
    x = _root(lambda x: _log_left(etas(beta_1, x, steps)) - target, 0.0, most / (steps - 1))
    log_abar, times = 0.0, [0.0]
    for eta in etas(beta_1, x, steps):
        log_abar += math.log1p(-eta)
        lam = 0.5 * log_abar - log_sigma_vp(0.5 * log_abar)
        times.append(schedule.t_of_lam(lam))
    times[-1] = 1.0
    return times[::-1]


def fastdpm_grid(
    schedule: Schedule, steps: int, how: str = "step", spacing: str = "quadratic"
) -> list[float]:
    """The times of ``step`` or ``var`` for S = ``steps``; walk them with ``ddim(eta=kappa)``.

    ``schedule`` is a table of T steps or ``GammaLevels``, on which the network is asked
    (``denoiser.on(GammaLevels(T))`` for one that was trained on ``linear(T)``).
    """
    if how not in ("step", "var"):
        raise unknown("way to choose noise levels", how, ("step", "var"))
    return {"step": step_grid, "var": var_grid}[how](schedule, steps, spacing)


def _linear(beta_1: float, x: float, steps: int) -> list[float]:
    return [beta_1 + i * x for i in range(steps)]


def _quadratic(beta_1: float, x: float, steps: int) -> list[float]:
    return [beta_1 * (1 + i * x) ** 2 for i in range(steps)]


def _log_left(etas: list[float]) -> float:
    return -math.inf if etas[-1] >= 1 else sum(math.log1p(-eta) for eta in etas)


def _T(schedule: Schedule) -> int:
    T = getattr(schedule, "steps", schedule.T)
    if T is None:
        raise ValueError(f"FastDPM walks a schedule of T steps; got {schedule!r}")
    return T


def _check(schedule: Schedule, steps: int, spacing: str) -> int:
    whole("the number of steps", steps)
    T = _T(schedule)
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    if not 2 <= steps <= T:
        raise ValueError(f"FastDPM needs 2 to T = {T} steps; got {steps}")
    return T
