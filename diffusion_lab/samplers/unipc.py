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
from functools import lru_cache

from torch import Tensor

from diffusion_lab.denoisers import Prediction, scaled
from diffusion_lab.samplers.exponential import weights
from diffusion_lab.walk import Ask, Step

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
        # the steps before, newest first; one at alpha = 0 has no place in lambda
        past = [p for _, p in ask.history[: -order - 1 : -1] if p.alpha > 0]
        p = ask(x, t)
        if clip is not None:
            p = p.clip(*clip)
        p = p.alone()  # x0_hat goes into the correction and into up to four steps
        ask.history[-1] = (t, p)  # what was said; its state is corrected below
        levels = tuple([(q.alpha, q.sigma) for q in (p, *past)])
        back, ahead = _coefficients(levels, ask.schedule.alpha_sigma(s), order)
        if past:
            p.x_t = _rule(past[0].x_t, back, (*past, p))
        return _rule(p.x_t, ahead, (p, *past))

    return step


def _rule(x: Tensor, coefficients: tuple[float, ...], nodes: tuple[Prediction, ...]) -> Tensor:
    """c_x x + sum_j c_j x0_hat_j, with as many nodes as there are c_j."""
    y = scaled(x, coefficients[0])
    for c, q in zip(coefficients[1:], nodes):
        y.add_(q.out, alpha=c * q.b)
    return y


@lru_cache(maxsize=4096)
def _coefficients(
    levels: tuple[tuple[float, float], ...], end: tuple[float, float], order: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(c_x, c_1, ...) of the corrector, from levels[1] to levels[0], and of the predictor.

    ``levels`` are (alpha, sigma) here and at the steps before, newest first; ``end`` is where the
    step leads. The corrector's nodes are the steps before and, last, this one.
    """
    lams = [math.log(alpha / sigma) if alpha > 0 else -math.inf for alpha, sigma in levels]
    back: tuple[float, ...] = ()
    if len(levels) > 1:
        (alpha, sigma), start = levels[0], levels[1]
        h = lams[0] - lams[1]
        if len(levels) == 2:
            w, scale = (0.5, 0.5), -math.expm1(-h)
        else:
            w, scale = weights((*((lam - lams[1]) / h for lam in lams[1:]), 1.0), h), h
        back = (sigma / start[1], *(alpha * scale * one for one in w))
    (alpha_s, sigma_s), here = end, levels[0]
    if sigma_s == 0 or here[0] == 0 or order == 1 or len(levels) == 1:
        c0 = alpha_s - sigma_s * here[0] / here[1]
        if sigma_s > 0 and here[0] > 0:
            c0 = -alpha_s * math.expm1(lams[0] - math.log(alpha_s / sigma_s))
        return back, (sigma_s / here[1], c0)
    h = math.log(alpha_s / sigma_s) - lams[0]
    lams = lams[:order]
    if len(lams) == 2:  # B_2's short cut, which is 2M
        share = h / (2 * (lams[0] - lams[1]))
        w, scale = (1 + share, -share), -math.expm1(-h)
    else:
        w, scale = weights(tuple([(lam - lams[0]) / h for lam in lams]), h), h
    return back, (sigma_s / here[1], *(alpha_s * scale * one for one in w))
