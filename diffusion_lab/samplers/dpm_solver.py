"""DPM-Solver (Lu et al. 2022, 2206.00927) and DPM-Solver++ (Lu et al. 2022, 2211.01095).

The probability-flow ODE is linear in x but for the network. With lambda = log(alpha/sigma) as the
time and h = lambda_s - lambda_t > 0, its solution is exact but for one integral (eq 3.4; ++, 8):

    x_s = (alpha_s/alpha_t) x_t - alpha_s int_{lambda_t}^{lambda_s} e^{-l} eps_hat dl  (noise form)
    x_s = (sigma_s/sigma_t) x_t + sigma_s int_{lambda_t}^{lambda_s} e^l    x0_hat dl      (++)

and a solver of order k replaces the network by a Taylor polynomial with k terms, taken from calls
within the step (single-step: k calls a step) or from the steps before (multistep: one call).

    ++(2M), Algorithm 2, with r = (lambda_t - lambda_prev) / h:
    D   = (1 + 1/(2r)) x0_hat(x_t) - 1/(2r) x0_hat(x_prev)
    x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^{-h}) D.

Order 1 is DDIM in both forms: ``p.mix(x0=alpha_s, eps=sigma_s)``. It is taken where h is infinite
(onto clean data, away from pure noise), and where a multistep has no past yet. That first step
leaves one local error of its own order: harmless for 2M, but it would make 3M a solver of second
order. So 3M begins with a single step of order 3 (two more calls), unless the walk starts from pure
noise: x0_hat hardly moves there, and the error of h^2 is too small to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from diffusion_lab.denoisers import Prediction
from diffusion_lab.errors import share
from diffusion_lab.samplers.exponential import lam_step, line, phi, rule, weights
from diffusion_lab.walk import Ask, Step

__all__ = ["dpm_solver", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dpmpp_sde", "split_calls"]


# ---- multistep: one call a step -----------------------------------------------------------------
def dpmpp_2m(lower_order_final: bool = False) -> Step:
    """The DPM-Solver++(2M) step.

    ``lower_order_final`` takes the walk's last step of first order wherever it ends (diffusers'
    and the authors' default for few steps; onto clean data it is of first order in any case).
    """

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        before = _past(ask, 1)
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        h = lam_step(p, alpha_s, sigma_s)
        if not before or math.isinf(h) or (lower_order_final and ask.left == 1):
            return p.mix(x0=alpha_s, eps=sigma_s)
        w = line(p, *before, h)
        return rule(x, sigma_s / p.sigma, -alpha_s * math.expm1(-h), w, (p, *before))

    return step


def dpmpp_sde(eta: float = 1.0) -> Step:
    """The SDE-DPM-Solver++(2M) step; ``eta`` = 0 is 2M without noise, 1 the reverse SDE itself.

        x_s = (sigma_s/sigma_t) e^{-eta h} x_t + alpha_s (1 - e^{-(1+eta)h}) D
              + sigma_s sqrt(1 - e^{-2 eta h}) z

    with the D of 2M. Raises ValueError for an eta outside [0, 1].
    """
    eta = share("eta", eta, "0 no noise, 1 the reverse SDE")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        before = _past(ask, 1)
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        h = lam_step(p, alpha_s, sigma_s)
        w = line(p, *before, h) if before and not math.isinf(h) else (1.0,)
        of_x = sigma_s / p.sigma * math.exp(-eta * h if eta else 0.0)
        of_d = -alpha_s * math.expm1(-(1 + eta) * h)
        mean = rule(x, of_x, of_d, w, (p, *before)[: len(w)])
        std = sigma_s * math.sqrt(-math.expm1(-2 * eta * h)) if eta and s > 0 else 0.0
        return ask.add_noise(mean, std, s)

    return step


def dpmpp_3m(published: bool = False, lower_order_final: bool = False) -> Step:
    """The DPM-Solver++(3M) step: a parabola through the last three x0_hat.

    Exact for parabolas in lambda, so of third order from any start below pure noise (t = 1, or the
    denoiser's lowest lambda). From there the first step is DDIM, whose error makes it second order
    in the limit of many steps.

    Args:
        published: the rule that goes by this name in the authors' code, diffusers and k-diffusion:
            half of the second derivative, no single step to begin with. Of second order.
        lower_order_final: the last two steps of orders 2 and 1, as the authors' code for few steps.
    """
    begin = dpm_solver(3)

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        if ask.i == 0 and ask.schedule.lam(t) > ask.lowest + 1e-3 and not published:
            x_s = begin(ask, x, t, s)
            del ask.history[1:]  # calls within the step are no past
            return x_s
        past = _past(ask, min(2, ask.left - 1) if lower_order_final else 2)
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        h = lam_step(p, alpha_s, sigma_s)
        if not past or math.isinf(h):
            return p.mix(x0=alpha_s, eps=sigma_s)
        if len(past) == 1:
            w = line(p, *past, h)
            return rule(x, sigma_s / p.sigma, -alpha_s * math.expm1(-h), w, (p, *past))
        back = [p.lam - q.lam for q in past]
        w = weights((0.0, -back[0] / h, -back[1] / h), h)
        w = _half_second(w, back, h) if published else w
        return rule(x, sigma_s / p.sigma, alpha_s * h, w, (p, *past))

    return step


def _past(ask: Ask, most: float) -> list[Prediction]:
    """Up to ``most`` answers before, newest first; one at alpha = 0 has no place in lambda."""
    return [p for _, p in reversed(ask.history) if p.alpha > 0][: int(most)]


def _half_second(w: Sequence[float], back: Sequence[float], h: float) -> tuple[float, ...]:
    """The weights w of now and two steps back, less half of the second derivative's share."""
    r0, r1 = back[0] / h, (back[1] - back[0]) / h
    half = phi(3, -h) / (r0 + r1)
    return w[0] - half / r0, w[1] + half * (1 / r0 + 1 / r1), w[2] - half / r1


# ---- single-step: calls within the step ---------------------------------------------------------
def dpmpp_2s() -> Step:
    """The DPM-Solver++(2S) step (Algorithm 1, r = 1/2): one call here, one half way in lambda."""

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        h = lam_step(p, alpha_s, sigma_s)
        if math.isinf(h):
            return p.mix(x0=alpha_s, eps=sigma_s)
        middle = _ahead(ask, p, h / 2)
        return (sigma_s / p.sigma) * x - alpha_s * math.expm1(-h) * middle.x0

    return step


def dpm_solver(order: int | Mapping[float, int] = 2) -> Step:
    """The single-step DPM-Solver of order 1, 2 (r = 1/2) or 3 (r = 1/3, 2/3): noise form.

    ``order`` calls a step; an order for each time of the grid (but its end) is a mapping, as
    ``dict(zip(times, split_calls(nfe)))``. Raises ValueError for an order that does not exist.
    """
    for one in order.values() if isinstance(order, Mapping) else (order,):
        _check_order(one)

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        k = _order_at(order, t) if isinstance(order, Mapping) else order
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        h = lam_step(p, alpha_s, sigma_s)
        if k == 1 or math.isinf(h):
            return p.mix(x0=alpha_s, eps=sigma_s)
        if k == 2:  # the two terms in eps_hat(x_t) cancel where r = 1/2
            middle = _ahead(ask, p, h / 2)
            return (alpha_s / p.alpha) * x - sigma_s * math.expm1(h) * middle.eps
        one, g = _ahead(ask, p, h / 3), 2 * h / 3
        t2 = ask.schedule.t_of_lam(p.lam + g)
        alpha, sigma = ask.schedule.alpha_sigma(t2)
        two = ask(_towards(p, one, alpha, sigma, g, 2 * sigma * g * phi(2, g)), t2)  # r2/r1 = 2
        return _towards(p, two, alpha_s, sigma_s, h, 1.5 * sigma_s * h * phi(2, h))  # 1/r2 = 3/2

    return step


def split_calls(nfe: int, order: int = 3, clean: bool = True) -> list[int]:
    """Orders of single steps that add up to ``nfe`` calls: the paper's "DPM-Solver-fast" (D.5).

    As many steps of the highest order as fit, then lower ones for what is left: for order 3,
    (2, 1), (1) or (2) as the remainder of nfe / 3 is 0, 1 or 2. With ``clean`` the last call is
    kept for the step onto clean data, which is always of first order. A grid of ``len`` moves fits.

    Raises ValueError for an order that does not exist, and where nfe is too small for one step of
    that order (and the last).
    """
    _check_order(order)
    if not isinstance(nfe, int) or isinstance(nfe, bool) or nfe < order + clean:
        last = " and one for the step onto clean data" if clean else ""
        raise ValueError(f"order {order} needs {order} calls for a step{last}; got nfe={nfe!r}")
    left = nfe - clean
    if order == 3 and left % 3 == 0:
        orders = [3] * (left // 3 - 1) + [2, 1]
    else:
        orders = [order] * (left // order) + ([left % order] if left % order else [])
    return orders + [1] * clean


def _ahead(ask: Ask, p: Prediction, h: float) -> Prediction:
    """The denoiser's answer where a first-order step of length h in lambda leads from p."""
    t = ask.schedule.t_of_lam(p.lam + h)
    alpha, sigma = ask.schedule.alpha_sigma(t)
    return ask(p.mix(x0=alpha, eps=sigma), t)


def _towards(
    p: Prediction, q: Prediction, alpha: float, sigma: float, h: float, c: float
) -> Tensor:
    """(alpha/alpha_t) x_t - sigma (e^h - 1) eps_p - c (eps_q - eps_p)."""
    return p.mix(x_t=alpha / p.alpha, eps=c - sigma * math.expm1(h)) - c * q.eps


def _check_order(order: int) -> None:
    if not isinstance(order, int) or isinstance(order, bool) or order not in (1, 2, 3):
        raise ValueError(f"DPM-Solver exists of order 1, 2 and 3; got {order!r}")


def _order_at(orders: Mapping[float, int], t: float) -> int:
    if t not in orders:
        raise ValueError(
            f"no order is given for the step at t = {t:g}: give one for each time of the grid but "
            "the last, as dict(zip(times, split_calls(nfe)))"
        )
    return orders[t]
