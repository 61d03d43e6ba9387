"""DDIM (Song, Meng & Ermon 2020, 2010.02502, eq 12), for any alpha and sigma.

    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - S^2) eps_hat + S z,
    S   = eta sqrt(bt),  bt the posterior variance of the survey's eq 3.

eta = 0 walks the probability-flow ODE without noise, eta = 1 is ancestral sampling.
"""

from __future__ import annotations

from torch import Tensor

from diffusion_lab.samplers.walk import Ask, Step
from diffusion_lab.schedules import posterior

__all__ = ["ddim"]


def ddim(eta: float = 0.0, clip: tuple[float, float] | None = None) -> Step:
    """The DDIM step with noise share ``eta`` in [0, 1]; ``clip`` clamps x0_hat, eps_hat follows."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0 no noise, 1 ancestral); got {eta}")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = ask(x, t)
        if clip is not None:
            p = p.clip(*clip)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        std = 0.0
        if eta:
            std = eta * posterior(p.alpha, p.sigma, alpha_s, sigma_s)[2] ** 0.5
        towards = max(sigma_s**2 - std**2, 0.0) ** 0.5  # rounding: S = sigma_s where alpha_t = 0
        # eps_hat = (x_t - alpha x0_hat) / sigma, so all of it is cx x_t + c0 x0_hat
        mean = p.mix(towards / p.sigma, alpha_s - towards * p.alpha / p.sigma)
        return mean.add_(ask.noise(x), alpha=std) if std else mean

    return step
