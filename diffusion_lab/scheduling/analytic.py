"""Analytic-DPM: the best reverse variance from one number per time (Bao et al. 2022, 2201.06503).

For a step t -> s whose forward posterior has variance l2 (bt for DDPM, 0 for DDIM),

    c       = alpha_s - sqrt(sigma_s^2 - l2) alpha_t / sigma_t          how much of x_0 is used
    S*^2    = l2 + c^2 E Var(x_0 | x_t) = l2 + c^2 (sigma_t/alpha_t)^2 (1 - Gamma_t),
    Gamma_t = sigma_t^2 E|score|^2 / d = E|eps_hat|^2 / d,

which is bt + c_0^2 D_t of the bound when the denoiser is exact. Gamma_t lies in [0, 1], and data in
[lo, hi] cannot vary by more than ((hi - lo)/2)^2: S*^2 is clipped to both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffusion_lab import forward
from diffusion_lab.errors import share
from diffusion_lab.forward import posterior
from diffusion_lab.schedules import Schedule
from diffusion_lab.scheduling.dp_stride import Errors
from diffusion_lab.walk import Ask, Step

__all__ = ["GREY", "analytic", "analytic_errors", "best_variance", "sizes"]

GREY = 2 / 255  # a grey level of 8-bit pictures in [-1, 1]


def best_variance(
    schedule: Schedule,
    t: float,
    s: float,
    size: float,
    *,
    eta: float = 1.0,
    bounds: tuple[float, float] | None = None,
) -> float:
    """S*^2 of the step t -> s from ``size`` = E|eps_hat|^2 / d at t, clipped.

    ``eta`` = 1 for DDPM, 0 for DDIM, as in ``ddim``; ``bounds`` = (lo, hi) of the data.
    """
    eta = share("eta", eta, "0 DDIM, 1 DDPM")
    if not 0 <= s < t <= 1:
        raise ValueError(f"a step goes down, 0 <= s < t <= 1; got t = {t}, s = {s}")
    if not size >= 0:
        raise ValueError(f"E|eps_hat|^2 / d cannot be {size}")
    alpha_t, sigma_t = schedule.alpha_sigma(t)
    _check_data_left(alpha_t, t)
    spread = (sigma_t / alpha_t) ** 2 * min(max(1 - size, 0.0), 1.0)
    if bounds is not None:
        spread = min(spread, ((bounds[1] - bounds[0]) / 2) ** 2)
    return forward.best_variance(schedule, t, s, spread, eta)


def analytic(
    sizes: Mapping[float, float],
    eta: float = 1.0,
    *,
    bounds: tuple[float, float] | None = (-1.0, 1.0),
    grey: float | None = None,
) -> Step:
    """The DDPM (``eta`` = 1) or DDIM (0) step with the analytic variance.

    Args:
        sizes: E|eps_hat|^2 / d at each time of the grid, measured with the same denoiser (clipped
            too, where it is).
        bounds: of the data; None for data without.
        grey: at the step that lands on the smallest of the ``sizes``' times, what it adds is on
            average no more than that many grey levels (the paper uses 1 or 2; None for no limit).
    """
    known = {round(t, 9): float(g) for t, g in sizes.items()}
    if not known:
        raise ValueError("sizes is empty: give E|eps_hat|^2 / d at every time of the grid")
    eta = share("eta", eta, "0 DDIM, 1 DDPM")
    last = min(known)

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        if round(t, 9) not in known:
            raise ValueError(
                f"no size was measured at t = {t:g}: measure at every time of the grid"
            )
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        l2 = eta**2 * posterior(ask.schedule, t, s).var
        mean = p.mix(x0=alpha_s, eps=forward.kept_noise(sigma_s, l2))
        if s == 0:
            return mean
        var = best_variance(ask.schedule, t, s, known[round(t, 9)], eta=eta, bounds=bounds)
        if grey is not None and round(s, 9) == last:  # E|S z| = S sqrt(2/pi)
            var = min(var, (grey * GREY) ** 2 * math.pi / 2)
        return ask.add_noise(mean, var**0.5, s)

    return step


def _check_data_left(alpha: float, t: float) -> None:
    if alpha == 0:
        raise ValueError(
            f"no data are left at t = {t:g} (alpha = 0), so eps_hat says nothing about how they "
            "vary: begin a little later, as grid(..., lam_range=(-5, 9)) does"
        )


def analytic_errors(errors: Errors, schedule: Schedule) -> Errors:
    """The errors with D_t = (sigma_t/alpha_t)^2 (1 - Gamma_t): what DP stride takes in this method.

    Equal to the measured D_t for an exact denoiser, but near pure noise 1 - Gamma_t is a difference
    of near-equal numbers: there D_t is kept from falling with t, as it cannot. The decoder's cost
    is that of the errors.
    """
    alpha, sigma = schedule.alpha_sigma(
        torch.tensor(errors.times, dtype=torch.float64, device="cpu")
    )
    _check_data_left(float(alpha.min()), errors.times[-1])
    left = (1 - errors.size).clamp(1e-6, 1.0)
    return replace(errors, error=((sigma / alpha) ** 2 * left).cummax(0).values)


def sizes(errors: Errors, times: Sequence[float] | None = None) -> dict[float, float]:
    """{t: E|eps_hat|^2 / d} of measured errors, as ``analytic`` takes it (of some times only)."""
    known = dict(zip((round(t, 9) for t in errors.times), errors.size.tolist(), strict=True))
    if times is None:
        return known
    missing = [t for t in times if t > 0 and round(t, 9) not in known]
    if missing:
        raise ValueError(f"nothing was measured at {missing[:3]}: fill the errors at these times")
    return {t: known[round(t, 9)] for t in times if t > 0}
