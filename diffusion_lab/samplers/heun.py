"""Euler and Heun with optional noise ("churn") (Karras et al. 2022, 2206.00364, Algorithms 1, 2).

In y = x/alpha and rho = sigma/alpha the probability-flow ODE is dy/drho = eps_hat, for every
schedule (EDM: alpha = 1, so y = x, rho = sigma). Going from t to s,

    Euler:  y_s = y_t + (rho_s - rho_t) eps_hat(x_t)                          (this is DDIM)
    Heun:   y_s = y_t + (rho_s - rho_t) (eps_hat(x_t) + eps_hat(x_s^Euler))/2,

the second of second order, at two calls a step; the step onto clean data stays Euler's. Churn
first raises the noise level from rho_t to rho_t (1 + gamma) with fresh noise, so that the errors
made so far are partly forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from torch import Tensor

from diffusion_lab.forward import transition
from diffusion_lab.walk import Ask, Step

__all__ = ["euler", "heun"]

MOST = math.sqrt(2) - 1


@dataclass(frozen=True)
class Churn:
    """How much noise a step puts back: gamma = min(share, sqrt 2 - 1) where low <= rho <= high.

    EDM's S_churn is ``share`` times the number of steps; ``noise`` is its S_noise, low and high its
    S_tmin and S_tmax.
    """

    share: float
    low: float
    high: float
    noise: float

    def __post_init__(self) -> None:
        share, low, high, noise = self.share, self.low, self.high, self.noise
        if not all(isinstance(c, Real) for c in (share, low, high, noise)) or not (
            share >= 0 and 0 <= low < high and noise >= 0
        ):
            raise ValueError(
                "need churn >= 0, 0 <= low < high (noise levels sigma/alpha) and noise >= 0; got "
                f"churn={share}, low={low}, high={high}, noise={noise}"
            )

    def __call__(self, ask: Ask, x: Tensor, t: float) -> tuple[Tensor, float]:
        """(x, t) with noise put back. Never above the first level that the denoiser knows."""
        alpha, sigma = ask.schedule.alpha_sigma(t)
        if not self.share or alpha == 0 or not self.low <= sigma / alpha <= self.high:
            return x, t
        lam = max(math.log(alpha / sigma) - math.log1p(min(self.share, MOST)), ask.lowest)
        up = ask.schedule.t_of_lam(lam)
        if up <= t:
            return x, t
        kept, variance = transition(ask.schedule, t, up)
        return ask.add_noise(kept * x, math.sqrt(variance) * self.noise, up), up


def euler(churn: float = 0.0, low: float = 0.0, high: float = math.inf, noise: float = 1.0) -> Step:
    """Euler's step in rho (DDIM), with churn: Algorithm 2 without its correction. One call."""
    stir = Churn(churn, low, high, noise)

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        return ask(*stir(ask, x, t)).mix(x0=alpha_s, eps=sigma_s)

    return step


def heun(churn: float = 0.0, low: float = 0.0, high: float = math.inf, noise: float = 1.0) -> Step:
    """Heun's step in rho: EDM's Algorithm 1, or 2 with churn. Two calls, one for the last step.

    Args:
        churn: gamma of a step, EDM's S_churn / steps; at most sqrt 2 - 1 counts.
        low, high: noise levels sigma/alpha between which it is put back (S_tmin, S_tmax).
        noise: its standard deviation is multiplied by this (S_noise).
    """
    stir = Churn(churn, low, high, noise)

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = ask(*stir(ask, x, t))
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        x_s = p.mix(x0=alpha_s, eps=sigma_s)  # y_t + (rho_s - rho_t) eps_hat, in x
        if sigma_s == 0 or p.alpha == 0:  # no level to ask at, or no y to step in
            return x_s
        q = ask(x_s, s)
        # x_s + alpha_s (rho_s - rho_t)/2 (eps_q - eps_p)
        c = alpha_s * (sigma_s / alpha_s - p.sigma / p.alpha) / 2
        return p.mix(x_t=alpha_s / p.alpha, eps=c) + c * q.eps

    return step
