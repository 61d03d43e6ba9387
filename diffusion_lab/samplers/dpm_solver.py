"""DPM-Solver++(2M) (Lu et al. 2022, 2211.01095, Algorithm 2): second order, one call a step.

With h = lambda_s - lambda_t and r = (lambda_t - lambda_prev) / h,

    D   = (1 + 1/(2r)) x0_hat(x_t) - 1/(2r) x0_hat(x_prev)
    x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^{-h}) D.

The first step, and a last step onto clean data (h infinite), are of first order: D = x0_hat.
"""

from __future__ import annotations

import math

from torch import Tensor

from diffusion_lab.samplers.walk import Ask, Step

__all__ = ["dpmpp_2m"]


def dpmpp_2m(clip: tuple[float, float] | None = None) -> Step:
    """The DPM-Solver++(2M) step; ``clip`` clamps x0_hat (its dynamic threshold's simple form)."""

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        before = ask.history[-1][1] if ask.history else None
        p = ask(x, t)
        if clip is not None:
            p = p.clip(*clip)
            ask.history[-1] = (t, p)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        if sigma_s == 0:
            return p.mix(0.0, alpha_s)
        lam_t, lam_s = p.lam, math.log(alpha_s / sigma_s)
        h = lam_s - lam_t
        c0 = -alpha_s * math.expm1(-h)
        if before is None or math.isinf(lam_t) or math.isinf(before.lam):
            return p.mix(sigma_s / p.sigma, c0)
        share = h / (2 * (lam_t - before.lam))  # 1 / (2r)
        # D is never formed: its two halves are added straight from the network's outputs
        x_s = p.mix(sigma_s / p.sigma, c0 * (1 + share))
        return before.add_to(x_s, -c0 * share)

    return step
