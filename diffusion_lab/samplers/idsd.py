"""Denoising by sampling from the posterior (Kawar, Vaksman & Elad 2021, 2101.09552).

Given y = x0 + sigma_0 n, the denoiser's answer E[x0 | y] has the smallest error and is blurred; a
draw from p(x0 | y) looks real. The label IDSD in the survey's Table II is not defined; this reading
("Stochastic Image Denoising by Sampling from the Posterior Distribution") fits its initials.

``langevin``, their algorithm. Levels sigma_0 > sigma_1 > ... > sigma_L; at level i the state
x~ = x0 + sigma_i z is taken to be a part of y's own noise, y = x~ + N(0, sigma_0^2 - sigma_i^2), so

    score = (D(x~, sigma_i) - x~)/sigma_i^2 + (y - x~)/(sigma_0^2 - sigma_i^2)
    x~   <- x~ + a_i score + sqrt(2 a_i) z.

``from_noisy``, the same law far cheaper: y *is* the state of the diffusion at sigma_0, and the
reverse SDE from there samples p(x0 | y) with no further term. Any stochastic sampler will do.

``Given`` and ``residual`` carry the idea on: the denoiser that knows y follows from the one that
does not, and what a one-call predictor P(y) leaves over, x0 - P(y), can be drawn by itself (the
other reading of the label: Whang et al. 2021, 2112.02475, deblurring by stochastic refinement).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser, Prediction, Wrapped, expand
from diffusion_lab.errors import number, unknown, whole
from diffusion_lab.grids import grid
from diffusion_lab.schedules import Schedule, Time
from diffusion_lab.walk import Ask, Noise, State

__all__ = ["Given", "from_noisy", "langevin", "levels", "mmse", "residual"]

RATES = ("paper", "balanced")


def mmse(denoiser: Denoiser, y: Tensor, sigma0: float, **condition: Any) -> Tensor:
    """E[x0 | y]: the one call that has the smallest mean squared error."""
    x, t = _state(denoiser, y, sigma0)
    with torch.no_grad():
        return denoiser(x, t, **condition).x0


def from_noisy(
    denoiser: Denoiser, y: Tensor, sigma0: float, steps: int, spacing: str = "lambda"
) -> tuple[Tensor, list[float]]:
    """(x, times): the state that y is, and a grid from its noise level to clean data.

    ``walk(ddpm(), denoiser, *from_noisy(denoiser, y, 0.5, 20), noise=...)`` draws from p(x0 | y).
    """
    x, t = _state(denoiser, y, sigma0)
    lam, high = -math.log(sigma0), math.inf
    if denoiser.lam_range is not None:
        high = denoiser.lam_range[1]
    times = grid(denoiser.schedule, steps, spacing, lam_range=(lam, high))
    return x, [t, *times[1:]]


def levels(sigma0: float, last: float, count: int) -> list[float]:
    """sigma_1 > ... > sigma_L = ``last``: geometric from sigma_0, which is not one of them."""
    if not 0 < last < sigma0:
        raise ValueError(f"the last level must lie between 0 and sigma0={sigma0:g}; got {last}")
    count = whole("the number of levels", count)
    return [sigma0 * (last / sigma0) ** (i / count) for i in range(1, count + 1)]


def langevin(
    denoiser: Denoiser,
    y: Tensor,
    sigma0: float,
    sigmas: Sequence[float],
    updates: int,
    *,
    noise: Noise,
    rate: float = 0.5,
    step: str = "paper",
    **condition: Any,
) -> Iterator[State]:
    """Annealed Langevin dynamics for p(x0 | y); yields a State after each level and at the end.

    Args:
        y: (B, ...) with noise of standard deviation sigma0, in the units of the data.
        sigmas: falling levels below sigma0, see ``levels``.
        updates: at each level, one call each; then one call for D(x~, sigma_L).
        rate: a_i = rate sigma_i^2 with ``step="paper"`` (rate stands for its e/sigma_L^2, a factor
            of 2 apart in some conventions); with "balanced",
            a_i = rate / (1/sigma_i^2 + 1/(sigma_0^2 - sigma_i^2)), which fits both terms at once.

    ValueError where a_i is so large that the second term would diverge (a_i >= 2 (sigma_0^2 -
    sigma_i^2)), and for levels that do not fall or that the schedule does not have.
    """
    if step not in RATES:
        raise unknown("step rule", step, RATES)
    number("rate", rate, above=True)
    updates = whole("updates", updates)
    plan = []
    for before, sigma in zip([sigma0, *sigmas], sigmas):
        if not 0 < sigma < before:
            raise ValueError(f"levels must fall from sigma0 and stay > 0; got {sigma} < {before}")
        _time(denoiser.schedule, sigma)
        left = sigma0**2 - sigma**2
        a = rate * (sigma**2 if step == "paper" else sigma**2 * left / sigma0**2)
        if a >= 2 * left:
            raise ValueError(
                f"at sigma = {sigma:.4g} the step {a:.3g} is not below 2 (sigma0^2 - sigma^2) = "
                f"{2 * left:.3g}, and the updates would diverge: take a smaller rate, a lower "
                'first level, or step="balanced"'
            )
        plan.append((sigma, left, a))
    return _langevin(Ask(denoiser, condition, noise), y, sigma0, plan, updates)


def _langevin(
    ask: Ask, y: Tensor, sigma0: float, plan: list[tuple[float, float, float]], updates: int
) -> Iterator[State]:
    x, t, n = y, ask.schedule.t_of_lam(-math.log(sigma0)), len(plan) + 1
    yield State(x, t, t, 0, n, None, 0)
    for i, (sigma, left, a) in enumerate(plan):
        before, t = t, ask.schedule.t_of_lam(-math.log(sigma))
        alpha = ask.schedule.alpha(t)
        for _ in range(updates):
            with torch.no_grad():
                p = ask(x * alpha, t)
                # x + a (x0_hat - x)/sigma^2 + a (y - x)/left + sqrt(2a) z
                x = p.mix(x_t=(1 - a / sigma**2 - a / left) / alpha, x0=a / sigma**2)
                x = ask.add_noise(x.add_(y, alpha=a / left), math.sqrt(2 * a), t)
        yield State(x, before, t, i + 1, n, p, ask.nfe)
    with torch.no_grad():
        p = ask(x * ask.schedule.alpha(t), t)
        yield State(p.x0, t, 0.0, n, n, p, ask.nfe)


class Given(Wrapped):
    """E[x0 | x_t, y] from a denoiser that knows x_t alone, where y = x0 + sigma_0 n.

    Both are x0 with Gaussian noise, so their mean weighted by precision says all that both say:

        1/sigma_c^2 = alpha_t^2/sigma_t^2 + 1/sigma_0^2,
        x_c = sigma_c^2 (alpha_t x_t/sigma_t^2 + y/sigma_0^2),     E[x0 | x_t, y] = D(x_c, sigma_c).

    With ``minus``, what is noised is x0 - minus (see ``residual``). Floats t only.
    """

    def __init__(
        self, inner: Denoiser, y: Tensor, sigma0: float, minus: Tensor | None = None
    ) -> None:
        super().__init__(inner)
        _state(inner, y, sigma0)
        self.y, self.sigma0, self.minus = y, sigma0, minus
        if inner.lam_range is not None:  # at any lambda below: y is there in any case
            self.lam_range = (-math.inf, inner.lam_range[1])

    def forward(self, x_t: Tensor, t: Time, **condition: Any) -> Prediction:
        if isinstance(t, Tensor):
            raise ValueError("this denoiser is asked at one time for all samples: t as a float")
        alpha, sigma = self.schedule.alpha_sigma(t)
        seen = (alpha / sigma) ** 2
        total = seen + 1 / self.sigma0**2
        lam = 0.5 * math.log(total)
        if self.lam_range is not None:
            lam = min(lam, self.lam_range[1])
        t_c = self.schedule.t_of_lam(lam)
        whole = x_t if self.minus is None else x_t + alpha * self.minus
        x_c = (whole * (alpha / sigma**2) + self.y / self.sigma0**2) / total
        x0 = self.inner(x_c * self.schedule.alpha(t_c), t_c, **condition).x0
        return Prediction(x_t, alpha, sigma, x0 if self.minus is None else x0 - self.minus, "x0")


def residual(denoiser: Denoiser, y: Tensor, sigma0: float) -> tuple[Given, Tensor]:
    """(denoiser of r = x0 - P(y), P(y)) with the predictor P = ``mmse``: x0 = P(y) + r.

    r is small where y says much, so that few steps draw it. The mean of many draws is P(y).
    """
    best = mmse(denoiser, y, sigma0)
    return Given(denoiser, y, sigma0, best), best


def _state(denoiser: Denoiser, y: Tensor, sigma0: float) -> tuple[Tensor, float]:
    """(alpha_t y, t): y as the diffusion's own state, where sigma_t/alpha_t = sigma_0."""
    if not sigma0 > 0:
        raise ValueError(f"the noise of y must have a standard deviation > 0; got {sigma0}")
    t = _time(denoiser.schedule, sigma0)
    return y * expand(denoiser.schedule.alpha(t), y), t


def _time(schedule: Schedule, sigma0: float) -> float:
    """The time at which sigma_t/alpha_t = sigma_0; ValueError where there is none."""
    t = schedule.t_of_lam(-math.log(sigma0))
    alpha, sigma = schedule.alpha_sigma(t)
    if not math.isclose(sigma, sigma0 * alpha, rel_tol=1e-3):
        raise ValueError(
            f"noise of standard deviation {sigma0:g} is outside of this schedule, whose ratio "
            f"sigma/alpha ends at {sigma / alpha:.4g}"
        )
    return t
