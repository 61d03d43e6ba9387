"""UniPC (Zhao et al. 2023, 2302.04867): predictor and corrector that share their network calls.

Both are rules in x0_hat and lambda, with h = lambda_s - lambda_t (see ``exponential``),

    x_s = (sigma_s/sigma_t) x_t + alpha_s h sum_j w_j x0_hat(tau_j).

The predictor of order p knows x0_hat here and at the p - 1 points before. It leads to x_s, where
the network is asked anyway, for the next step: with that answer as one more node (tau = 1), the
step from x_t is made again, of order p + 1 and at no further call. The answer is not asked again
at the corrected point.

The weights follow from exactness for polynomials, but for the shortest rules, where the paper has a
free function B(h): with B = 1 - e^{-h} (its B_2) the predictor of order 2 is DPM-Solver++(2M), and
the corrector after a first-order step is the mean of both ends.
"""

from __future__ import annotations

import math

from torch import Tensor

from diffusion_lab.denoisers import Prediction
from diffusion_lab.samplers.dpm_solver import first_order
from diffusion_lab.samplers.exponential import weights
from diffusion_lab.samplers.walk import Ask, Step

__all__ = ["unipc"]


def unipc(order: int = 2, clip: tuple[float, float] | None = None) -> Step:
    """The UniPC-p step, p = ``order`` in 1, 2, 3: of order p + 1, one call a step.

    The states that are yielded are the predicted ones; each is corrected at the start of the next
    step, and the last is not. So a ``project`` of ``walk`` acts on what the network is asked, not
    on the corrected state. Raises ValueError for an order that does not exist.
    """
    if not isinstance(order, int) or isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"UniPC is built of order 1, 2 and 3; got {order!r}")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        past = _finite(ask.history[-order:])
        p = ask(x, t)
        if clip is not None:
            p = p.clip(*clip)
        # x0_hat goes into the correction and into up to four steps: worth computing once
        p = Prediction(x, p.alpha, p.sigma, p.x0, "x0", var=p.var)
        if past:
            p.x_t = _corrected(past, p)
        ask.history[-1] = (t, p)  # what was said, now with the corrected state
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        nodes = [p, *past[: order - 1]]
        if sigma_s == 0 or math.isinf(p.lam) or len(nodes) == 1:
            return first_order(p, alpha_s, sigma_s)
        h = math.log(alpha_s / sigma_s) - p.lam
        if len(nodes) == 2:  # B_2's short cut, which is 2M
            share = h / (2 * (p.lam - nodes[1].lam))
            return _rule(nodes, (1 + share, -share), -math.expm1(-h), alpha_s, sigma_s)
        taus = tuple((q.lam - p.lam) / h for q in nodes)
        return _rule(nodes, weights(taus, h), h, alpha_s, sigma_s)

    return step


def _finite(history: list[tuple[float, Prediction]]) -> list[Prediction]:
    """The predictions of the steps before, newest first, those at alpha = 0 left out."""
    return [p for _, p in reversed(history) if not math.isinf(p.lam)]


def _corrected(past: list[Prediction], p: Prediction) -> Tensor:
    """The step from past[0] to p's level made again, now that x0_hat is known there."""
    start = past[0]
    h = p.lam - start.lam
    if len(past) == 1:
        return _rule([start, p], (0.5, 0.5), -math.expm1(-h), p.alpha, p.sigma)
    taus = (*((q.lam - start.lam) / h for q in past), 1.0)
    return _rule([*past, p], weights(taus, h), h, p.alpha, p.sigma)


def _rule(
    nodes: list[Prediction], w: tuple[float, ...], scale: float, alpha: float, sigma: float
) -> Tensor:
    """(sigma/sigma_t) x_t + alpha scale sum_j w_j x0_hat_j, started from nodes[0]."""
    y = nodes[0].mix(sigma / nodes[0].sigma, alpha * scale * w[0])
    for weight, q in zip(w[1:], nodes[1:]):
        q.add_to(y, alpha * scale * weight)
    return y
