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

Order 1 is DDIM in both forms. A step onto clean data, or away from pure noise (h infinite), is of
first order, as are a multistep's first steps, for want of a past.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from diffusion_lab.denoisers import Prediction, scaled
from diffusion_lab.samplers.exponential import phi, weights
from diffusion_lab.schedules import Schedule
from diffusion_lab.walk import Ask, Step

__all__ = ["dpm_solver", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dpmpp_sde", "split_calls"]

Clip = tuple[float, float] | None


def dpmpp_2m(clip: Clip = None) -> Step:
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
        lam_t = p.lam
        h = math.log(alpha_s / sigma_s) - lam_t
        c0 = -alpha_s * math.expm1(-h)
        if before is None or p.alpha == 0 or before.alpha == 0:
            return p.mix(sigma_s / p.sigma, c0)
        share = h / (2 * (lam_t - before.lam))  # 1 / (2r)
        # D is never formed: its two halves are added straight from the network's outputs
        x_s = p.mix(sigma_s / p.sigma, c0 * (1 + share))
        return before.add_to(x_s, -c0 * share)

    return step


def dpmpp_3m(clip: Clip = None, published: bool = False) -> Step:
    """The DPM-Solver++(3M) step: a parabola through the last three x0_hat, one call a step.

    The rule is exact for parabolas in lambda, which makes it of third order. The rule that goes by
    this name in diffusers and k-diffusion takes half of the second derivative, and is of second
    order: ``published`` takes that one. ``tests/test_samplers_solvers.py`` measures both.
    """

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        past = [p for _, p in ask.history[:-3:-1] if p.alpha > 0]  # newest first
        p = _asked(ask, x, t, clip).alone()  # x0_hat goes into three steps
        ask.history[-1] = (t, p)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        if sigma_s == 0 or p.alpha == 0 or not past:
            return first_order(p, alpha_s, sigma_s)
        lam = p.lam
        h, back = math.log(alpha_s / sigma_s) - lam, [lam - q.lam for q in past]
        if len(past) == 1:  # as 2M
            share = h / (2 * back[0])
            w, c = (1 + share, -share), -alpha_s * math.expm1(-h)
        else:
            w, c = weights((0.0, -back[0] / h, -back[1] / h), h), alpha_s * h
            w = _half_second(w, back, h) if published else w
        x_s = p.mix(sigma_s / p.sigma, c * w[0])
        for weight, q in zip(w[1:], past):
            q.add_to(x_s, c * weight)
        return x_s

    return step


def _half_second(w: Sequence[float], back: Sequence[float], h: float) -> tuple[float, ...]:
    """The weights w of now and two steps back, less half of the second derivative's share."""
    r0, r1 = back[0] / h, (back[1] - back[0]) / h
    half = phi(3, -h) / (r0 + r1)
    return w[0] - half / r0, w[1] + half * (1 / r0 + 1 / r1), w[2] - half / r1


def dpmpp_2s(clip: Clip = None) -> Step:
    """The DPM-Solver++(2S) step (Algorithm 1, r = 1/2): one call here, one half way in lambda."""
    inside = _Inside(lambda t: (0.5,))

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = _asked(ask, x, t, clip)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        if sigma_s == 0 or math.isinf(p.lam):
            return first_order(p, alpha_s, sigma_s)
        h = math.log(alpha_s / sigma_s) - p.lam
        middle = _ahead(ask, p, inside(ask.schedule, t, s, 0.5), h / 2, clip)
        return middle.add_to(scaled(p.x_t, sigma_s / p.sigma), -alpha_s * math.expm1(-h))

    step.inside = inside.times
    return step


def dpmpp_sde(eta: float = 1.0, clip: Clip = None) -> Step:
    """The SDE-DPM-Solver++(2M) step; ``eta`` = 0 is 2M without noise, 1 the reverse SDE itself.

        x_s = (sigma_s/sigma_t) e^{-eta h} x_t + alpha_s (1 - e^{-(1+eta)h}) D
              + sigma_s sqrt(1 - e^{-2 eta h}) z

    with the D of 2M. Raises ValueError for an eta outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0 no noise, 1 the reverse SDE); got {eta}")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        before = ask.history[-1][1] if ask.history else None
        p = _asked(ask, x, t, clip)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        if sigma_s == 0:
            return p.mix(0.0, alpha_s)
        lam_t = p.lam
        h = math.log(alpha_s / sigma_s) - lam_t
        c0 = -alpha_s * math.expm1(-(1 + eta) * h)
        cx = sigma_s / p.sigma * (math.exp(-eta * h) if eta else 1.0)
        if before is None or p.alpha == 0 or before.alpha == 0:
            x_s = p.mix(cx, c0)
        else:
            share = h / (2 * (lam_t - before.lam))
            x_s = before.add_to(p.mix(cx, c0 * (1 + share)), -c0 * share)
        if not eta:
            return x_s
        return x_s.add_(ask.noise(x), alpha=sigma_s * math.sqrt(-math.expm1(-2 * eta * h)))

    return step


def dpm_solver(order: int | Mapping[float, int] = 2) -> Step:
    """The single-step DPM-Solver of order 1, 2 (r = 1/2) or 3 (r = 1/3, 2/3): noise form.

    ``order`` calls a step; an order for each time of the grid (but its end) is a mapping, as
    ``dict(zip(times, split_calls(nfe)))``. Raises ValueError for an order that does not exist.
    """
    orders = order.values() if isinstance(order, Mapping) else (order,)
    for one in orders:
        _check_order(one)

    def shares(t: float) -> tuple[float, ...]:
        k = order if isinstance(order, int) else order.get(t, 1)
        return ((), (0.5,), (1 / 3, 2 / 3))[k - 1]

    inside = _Inside(shares)

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        k = order if isinstance(order, int) else _order_at(order, t)
        p = ask(x, t)
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        if k == 1 or sigma_s == 0 or math.isinf(p.lam):
            return first_order(p, alpha_s, sigma_s)
        h = math.log(alpha_s / sigma_s) - p.lam
        if k == 2:  # the two terms in eps_hat(x_t) cancel where r = 1/2
            middle = _ahead(ask, p, inside(ask.schedule, t, s, 0.5), h / 2)
            return _add_eps(scaled(p.x_t, alpha_s / p.alpha), middle, -sigma_s * math.expm1(h))
        one = _ahead(ask, p, inside(ask.schedule, t, s, 1 / 3), h / 3)
        g, t2 = 2 * h / 3, inside(ask.schedule, t, s, 2 / 3)
        alpha, sigma = ask.schedule.alpha_sigma(t2)
        u2 = _towards(p, one, alpha, sigma, g, 2 * sigma * g * phi(2, g))  # r2/r1 = 2
        two = ask(u2, t2)
        return _towards(p, two, alpha_s, sigma_s, h, 1.5 * sigma_s * h * phi(2, h))  # 1/r2 = 3/2

    step.inside = inside.times
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


def first_order(p: Prediction, alpha_s: float, sigma_s: float) -> Tensor:
    """DDIM: exact for a constant x0_hat, from any level to any, clean data included."""
    if sigma_s == 0 or math.isinf(p.lam):
        return p.mix(sigma_s / p.sigma, alpha_s - sigma_s * p.alpha / p.sigma)
    h = math.log(alpha_s / sigma_s) - p.lam
    return p.mix(sigma_s / p.sigma, -alpha_s * math.expm1(-h))


# ---- parts of a single step ---------------------------------------------------------------------
def _asked(ask: Ask, x: Tensor, t: float, clip: Clip) -> Prediction:
    p = ask(x, t)
    if clip is not None:
        p = p.clip(*clip)
        ask.history[-1] = (t, p)
    return p


class _Inside:
    """The times within a step, at shares of its way in lambda; remembered for one schedule.

    ``walk`` calls ``times`` before its loop, so that the denoiser can prepare for these as well.
    """

    def __init__(self, shares: Callable[[float], tuple[float, ...]]) -> None:
        self.shares, self.schedule, self.known = shares, None, {}

    def __call__(self, schedule: Schedule, t: float, s: float, share: float) -> float:
        if schedule is not self.schedule or len(self.known) > 4096:
            self.schedule, self.known = schedule, {}
        key = (t, s, share)
        if key not in self.known:
            lam = schedule.lam(t)
            self.known[key] = schedule.t_of_lam(lam + share * (schedule.lam(s) - lam))
        return self.known[key]

    def times(self, schedule: Schedule, grid: Sequence[float]) -> list[float]:
        """All of them on a grid; steps onto clean data and away from alpha = 0 have none."""
        return [
            self(schedule, t, s, share)
            for t, s in itertools.pairwise(grid)
            if schedule.alpha(t) > 0 and schedule.sigma(s) > 0
            for share in self.shares(t)
        ]


def _ahead(ask: Ask, p: Prediction, t: float, h: float, clip: Clip = None) -> Prediction:
    """The denoiser's answer at t, where a first-order step of length h from p leads."""
    alpha, sigma = ask.schedule.alpha_sigma(t)
    return _asked(ask, p.mix(sigma / p.sigma, -alpha * math.expm1(-h)), t, clip)


def _towards(
    p: Prediction, q: Prediction, alpha: float, sigma: float, h: float, c: float
) -> Tensor:
    """(alpha/alpha_t) x_t - sigma (e^h - 1) eps_p - c (eps_q - eps_p)."""
    ce = c - sigma * math.expm1(h)  # of eps_p = (x_t - alpha_t x0)/sigma_t
    y = p.mix(alpha / p.alpha + ce / p.sigma, -ce * p.alpha / p.sigma)
    return _add_eps(y, q, -c)


def _add_eps(y: Tensor, p: Prediction, c: float) -> Tensor:
    """y <- y + c eps_hat, in place and straight from the network's output."""
    if p.kind == "eps":
        return y.add_(p.out, alpha=c)
    c0 = -c * p.alpha / p.sigma
    y.add_(p.x_t, alpha=c / p.sigma + c0 * p.a)
    return y.add_(p.out, alpha=c0 * p.b)


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
