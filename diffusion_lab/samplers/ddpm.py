"""Ancestral sampling (Ho, Jain & Abbeel 2020, 2006.11239, Algorithm 2; any pair of times).

    x_s = c_t x_t + c_0 x0_hat + S z,     z ~ N(0, I), z = 0 at the last step,

the posterior q(x_s | x_t, x_0) of the survey's eq 3 with x_0 replaced by the denoiser's answer
(eqs 2 and 6), S^2 the posterior variance ("small"), V_ts ("large", DDPM's beta_t), or learned.
This file is one step of the algorithm, its loop over t is ``walk``: ``ask(x, t)`` asks the network,
and ``mix`` puts x_t and x0_hat together. t and s are times in [0, 1], not step numbers.
"""

from __future__ import annotations

from torch import Tensor

from diffusion_lab.errors import unknown
from diffusion_lab.forward import VARIANCES, posterior, reverse_variance
from diffusion_lab.walk import Ask, Step

__all__ = ["ddpm"]


def ddpm(variance: str = "small") -> Step:
    """The ancestral step, one network call each. Raises ValueError for an unknown variance."""
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = ask(x, t)
        q = posterior(ask.schedule, t, s)
        mean = p.mix(x_t=q.c_t, x0=q.c_0)
        if s == 0:  # clean data: nothing is added
            return mean
        return ask.add_noise(mean, reverse_variance(p, q.added, q.var, variance) ** 0.5, s)

    return step
