"""DDIM (Song, Meng & Ermon 2020, 2010.02502, eq 12), for any alpha and sigma.

    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - S^2) eps_hat + S z,
    S   = eta sqrt(bt),  bt the posterior variance of the survey's eq 3.

eta = 0 walks the probability-flow ODE without noise, eta = 1 is ancestral sampling (the paper's
sigma-hat, more noise still, is ``ddpm("large")``). Without noise the same rule walks upward too:
see ``inversion``.
"""

from __future__ import annotations

from torch import Tensor

from diffusion_lab.errors import share
from diffusion_lab.forward import kept_noise, posterior
from diffusion_lab.walk import Ask, Step

__all__ = ["ddim"]


def ddim(eta: float = 0.0) -> Step:
    """The DDIM step with noise share ``eta`` in [0, 1]."""
    eta = share("eta", eta, "0 no noise, 1 ancestral")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        if eta == 0:
            return p.mix(x0=alpha_s, eps=sigma_s)
        var = eta**2 * posterior(ask.schedule, t, s).var
        mean = p.mix(x0=alpha_s, eps=kept_noise(sigma_s, var))
        return mean if s == 0 else ask.add_noise(mean, var**0.5, s)

    return step
