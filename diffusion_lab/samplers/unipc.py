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
from collections.abc import Sequence

from torch import Tensor

from diffusion_lab.denoisers import Prediction
from diffusion_lab.samplers.exponential import lam_step, line, rule, weights
from diffusion_lab.walk import Ask, Step

__all__ = ["unipc"]


def unipc(order: int = 2, lower_order_final: bool = False) -> Step:
    """The UniPC-p step, p = ``order`` in 1, 2, 3, one call a step.

    Of order p + 1 for p = 1 and 2. For p = 3 the first steps, of lower order for want of a past,
    leave order 3 (from pure noise their error is too small to be seen, and it looks like 4).

    The states that are yielded are the predicted ones; each is corrected at the start of the next
    step, and the last is not. So a ``project`` of ``walk`` acts on what the network is asked, not
    on the corrected state. ``lower_order_final`` lowers the order towards the end of the walk, as
    the authors' code and diffusers do. Raises ValueError for an order that does not exist.
    """
    if not isinstance(order, int) or isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"UniPC is built of order 1, 2 and 3; got {order!r}")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        left = ask.left if lower_order_final else math.inf
        now, before = int(min(order, left)), int(min(order, left + 1))
        # the steps before, newest first; one at alpha = 0 has no place in lambda
        past = [p for _, p in reversed(ask.history) if p.alpha > 0]
        p = ask(x, t)
        if past:
            x = _corrected(p, past[:before])
        # what was said stays, its state is the corrected one
        told = {"var_weight": p.var_weight, "eps": p.kept_eps}
        p = Prediction(x, p.alpha, p.sigma, p.x0, "x0", **told)
        ask.history[-1] = (t, p)
        return _predicted(ask, p, past[: now - 1], s)

    return step


def _corrected(p: Prediction, past: Sequence[Prediction]) -> Tensor:
    """The step that led to p made again from past[0], with p's x0_hat as the node at its end."""
    start = past[0]
    h = p.lam - start.lam
    if len(past) == 1:
        w, scale = (0.5, 0.5), -math.expm1(-h)
    else:
        w, scale = weights((*((q.lam - start.lam) / h for q in past), 1.0), h), h
    return rule(start.x_t, p.sigma / start.sigma, p.alpha * scale, w, (*past, p))


def _predicted(ask: Ask, p: Prediction, past: Sequence[Prediction], s: float) -> Tensor:
    """x_s from p and the answers before it."""
    alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
    h = lam_step(p, alpha_s, sigma_s)
    if not past or math.isinf(h):
        return p.mix(x0=alpha_s, eps=sigma_s)
    if len(past) == 1:  # B_2's short cut, which is 2M
        w, scale = line(p, past[0], h), -math.expm1(-h)
    else:
        w, scale = weights((0.0, *((q.lam - p.lam) / h for q in past)), h), h
    return rule(p.x_t, sigma_s / p.sigma, alpha_s * scale, w, (p, *past))
