"""Checks of lesson 07."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import Task, Untouched, exercise, number
from diffusion_lab.schedules import Linear


def _levels(g: Generator) -> list[tuple[Any, ...]]:
    vp = Linear()
    x, x0 = (torch.randn(4, 2, generator=g, dtype=torch.float64, device="cpu") for _ in range(2))
    pairs = ((0.9, 0.6), (0.5, 0.35), (0.2, 0.05))
    return [(x, x0, *vp.alpha_sigma(t), *vp.alpha_sigma(s)) for t, s in pairs]


def _h(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> float:
    return math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)


@exercise(
    probes=_levels,
    slips={
        lambda x, x0, at, st, a, s: s / st * x + a * (1 - math.exp(_h(at, st, a, s))) * x0: (
            "the sign of h: the weight of x0 is 1 - e^{-h}, which lies between 0 and 1."
        ),
        lambda x, x0, at, st, a, s: s / st * x + a * math.expm1(_h(at, st, a, s)) * x0: (
            "e^h - 1 is the weight of the noise form; with x0 it is 1 - e^{-h}."
        ),
        lambda x, x0, at, st, a, s: a / at * x + a * (1 - math.exp(-_h(at, st, a, s))) * x0: (
            "alpha_s/alpha_t belongs to the noise form; with x0 the state shrinks by "
            "sigma_s/sigma_t."
        ),
        lambda x, x0, at, st, a, s: s / st * x + (1 - math.exp(-_h(at, st, a, s))) * x0: (
            "alpha_s is missing before the weight of x0."
        ),
        lambda x, x0, at, st, a, s: st / s * x + a * (1 - math.exp(-_h(at, st, a, s))) * x0: (
            "sigma_t/sigma_s is upside down: noise must shrink on the way to the data."
        ),
        lambda x, x0, at, st, a, s: s / st * x + a * math.expm1(-_h(at, st, a, s)) * x0: (
            "the minus before expm1(-h) is missing: expm1(-h) is e^{-h} - 1, below zero."
        ),
        lambda x, x0, at, st, a, s: s / st * x + s * (1 - math.exp(-_h(at, st, a, s))) * x0: (
            "sigma_s stands where alpha_s belongs: sigma_s e^{lambda_s} is alpha_s."
        ),
        lambda x, x0, at, st, a, s: a * x0: "that jumps all the way to x0 and forgets the noise.",
        lambda x, x0, at, st, a, s: s / st * x + a * _h(at, st, a, s) * x0: (
            "1 - e^{-h} is not h: the integral of e^l must be done exactly."
        ),
    },
    hint="x keeps the ratio of the two sigmas; the integral of e^l over the step, times "
    "sigma_s, is what x0 gets.",
    right="exact for a constant x0_hat, whatever the length of the step, and equal to DDIM.",
)
def exact_step(
    x: Tensor, x0: Tensor, alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float
) -> Tensor:
    h = _h(alpha_t, sigma_t, alpha_s, sigma_s)
    return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * x0


order_three = number(
    0.001,
    tolerance=1e-4,  # "about": a tenth
    slips={
        0.004: "half the error is what a first-order solver gains.",
        0.002: "a quarter is what a second-order solver gains.",
        0.0005: "a sixteenth would be order 4.",
        0.064: "the error falls, it does not grow.",
    },
    hint="order p: twice the steps divide the error by 2^p.",
    right="2^3 = 8: at order 3 a doubling of the work buys almost a whole digit.",
)


def _pairs(g: Generator) -> list[tuple[Any, ...]]:
    now, before = (
        torch.randn(3, 2, generator=g, dtype=torch.float64, device="cpu") for _ in range(2)
    )
    lams = ((-3.0, -2.0, -1.5), (0.1, 0.4, 1.3), (1.0, 1.5, 1.8))
    return [(now, before, *three) for three in lams]


@exercise(
    probes=_pairs,
    slips={
        lambda n, b, l0, l1, l2: n + (l1 - l0) / (2 * (l2 - l1)) * (n - b): (
            "the ratio is upside down: a long step ahead needs more of the slope, not less."
        ),
        lambda n, b, l0, l1, l2: n + (l2 - l1) / (l1 - l0) * (n - b): (
            "a factor 1/2 is missing: the line is wanted at the middle of the step, not at its end."
        ),
        lambda n, b, l0, l1, l2: n - (l2 - l1) / (2 * (l1 - l0)) * (n - b): (
            "the sign: this goes back towards the past instead of on from it."
        ),
        lambda n, b, l0, l1, l2: 1.5 * n - 0.5 * b: (
            "that is right for equal steps only: use the three lambdas."
        ),
        lambda n, b, l0, l1, l2: b + (l2 - l1) / (2 * (l1 - l0)) * (n - b): (
            "the middle lies ahead of *now*: start there, not from *before*."
        ),
        lambda n, b, l0, l1, l2: n: "that is order 1: the past is not used.",
        lambda n, b, l0, l1, l2: (n + b) / 2: "that is the mean of the past, behind us, not ahead.",
    },
    hint="the slope is the change of the answers over the lambda between them; go half of "
    "the coming step.",
    right="the line through two answers, read at the middle of the coming step.",
)
def line_ahead(
    now: Tensor, before: Tensor, lam_before: float, lam_now: float, lam_next: float
) -> Tensor:
    return now + (lam_next - lam_now) / (2 * (lam_now - lam_before)) * (now - before)


Denoise = Callable[[Tensor, float], Tensor]
Level = Callable[[float], tuple[float, float]]


def _walk(
    denoise: Denoise,
    x: Tensor,
    times: list[float],
    level: Level,
    *,
    share: Callable[[float, float], float] = lambda h, h0: h / (2 * h0),
    keep: str = "answer",
    clean: bool = True,
    at: int = 0,
    weight: Callable[[float], float] = lambda h: -math.expm1(-h),
) -> Tensor:
    """The walk, with a knob for each slip; as it stands it is right."""
    past: tuple[Tensor, float] | None = None
    for pair in pairwise(times):
        now = denoise(x, pair[at] if pair[1] > 0 else pair[0])
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(pair[0]), level(pair[1])
        if sigma_s == 0:
            return alpha_s * now if clean else x
        lam, h = math.log(alpha_t / sigma_t), _h(alpha_t, sigma_t, alpha_s, sigma_s)
        d = now if past is None else now + share(h, lam - past[1]) * (now - past[0])
        x = sigma_s / sigma_t * x + alpha_s * weight(h) * d
        if keep != "first" or past is None:
            past = (d if keep == "d" else now), lam
    return x


def reference_walk(denoise: Denoise, x: Tensor, times: list[float], level: Level) -> Tensor:
    """DPM-Solver++(2M) down the times; x (B, ...)."""
    return _walk(denoise, x, times, level)


def _walks(g: Generator) -> list[tuple[Any, ...]]:
    x = torch.randn(3, 2, generator=g, dtype=torch.float64, device="cpu")

    def network() -> Denoise:
        asked: list[float] = []

        def answer(x: Tensor, t: float) -> Tensor:
            asked.append(t)
            if len(asked) > 3:  # the grids have three moves
                raise ValueError("the network was asked more than once a move: keep its answer")
            return torch.tanh(2 * x) * (1 - t) + 0.1 * t

        return answer

    def level(t: float) -> tuple[float, float]:
        alpha, sigma = Linear().alpha_sigma(t)
        return 1.5 * alpha, 1.5 * sigma  # so that alpha is not 1 on clean data

    grids = ((0.9, 0.6, 0.4, 0.15), (0.8, 0.5, 0.2, 0.0))
    return [(network(), x, list(times), level) for times in grids]


def _walk_slip(**knobs: Any) -> Callable[..., Tensor]:
    return partial(_walk, **knobs)


def _pointing_back(task: Task) -> Task:
    """The check of a walk, which names a wrong function of an earlier exercise that is called."""
    earlier = {"my_step": (1, exact_step), "line_ahead": (3, line_ahead)}

    def to_blame(answer: Any, seed: int) -> str | None:
        names = getattr(getattr(answer, "__code__", None), "co_names", ())
        for name in (name for name in earlier if name in names):
            number_of, check = earlier[name]
            found = check.result(getattr(answer, "__globals__", {}).get(name), seed)
            if not found.ok:
                how = "not right" if found.status == "not yet" else "not filled in"
                return f"it calls `{name}`, which is {how} yet: finish exercise {number_of} first."
        return None

    def judged(answer: Any, seed: int) -> str | None:
        try:
            reason = task.judged(answer, seed)
        except Untouched:
            reason = to_blame(answer, seed)
            if reason is None:
                raise
            return reason
        return reason and (to_blame(answer, seed) or reason)

    return Task(judged, right=task.right, hint=task.hint, slips=task.slips, audit=task.audit)


whole_walk = exercise(
    probes=_walks,
    slips={
        _walk_slip(share=lambda h, h0: 0.0): (
            "that is DDIM, order 1: from the second step on D lies on the line through two answers."
        ),
        _walk_slip(keep="d"): "what is remembered is D; it should be the network's own answer.",
        _walk_slip(keep="first"): (
            "the first answer stays `before` for the whole walk: remember the new one at each step."
        ),
        _walk_slip(share=lambda h, h0: h / h0): (
            "D is read at the end of the step; the middle is half as far."
        ),
        _walk_slip(share=lambda h, h0: h0 / (2 * h)): "the ratio of the two steps is upside down.",
        _walk_slip(share=lambda h, h0: -h / (2 * h0)): "the line is followed backwards.",
        _walk_slip(share=lambda h, h0: 0.5): (
            "that is right for equal steps in lambda only: use the three lambdas."
        ),
        _walk_slip(clean=False): (
            "onto clean data (sigma_s = 0) the result is alpha_s times the answer."
        ),
        _walk_slip(
            at=1
        ): "the network is asked at the end of the step; x is still at its beginning.",
        _walk_slip(weight=lambda h: math.expm1(h)): (
            "the weight of D is 1 - e^{-h}, between 0 and 1; e^h - 1 belongs to the noise form."
        ),
        _walk_slip(weight=lambda h: h): "1 - e^{-h} is not h, unless the step is short.",
    },
    hint="exercise 1's step with D of exercise 3; D is the answer itself in the first step.",
    right="one call a step and order 2: the whole of a solver that is in daily use.",
)(reference_walk)
whole_walk = _pointing_back(whole_walk)


def _heun_probes(g: Generator) -> list[tuple[Any, ...]]:
    x = torch.randn(3, 2, generator=g, dtype=torch.float64, device="cpu")

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return x / (1 + sigma**2) + torch.tanh(x) * sigma / (1 + sigma)

    return [(x * s, s, r, denoise) for s, r in ((8.0, 5.0), (1.0, 0.6), (0.3, 0.1))]


def _heun_bug(x: Tensor, sigma: float, sigma_next: float, denoise: Denoise) -> Tensor:
    slope = (x - denoise(x, sigma)) / sigma
    ahead = x + (sigma_next - sigma) * slope
    second = (ahead - denoise(ahead, sigma)) / sigma
    return x + (sigma_next - sigma) * (slope + second) / 2


@exercise(
    probes=_heun_probes,
    bug=_heun_bug,
    slips={
        lambda x, s, r, d: x + (r - s) * (x - d(x, s)) / s: (
            "that is Euler's step: the second slope is not used."
        ),
        lambda x, s, r, d: (
            x + (r - s) * ((y := x + (r - s) * (x - d(x, s)) / s) - d(y, r)) / r
        ): "the second slope alone is no better than the first: take the mean of both.",
        lambda x, s, r, d: (
            x + (r - s) * ((x - d(x, s)) / s + (x - d(x + (r - s) * (x - d(x, s)) / s, r)) / r) / 2
        ): "the second slope starts from the point ahead, not from x.",
        lambda x, s, r, d: (
            x
            + (r - s)
            * ((x - d(x, s)) / s + ((y := x + (r - s) * (x - d(x, s)) / s) - d(y, r)) / s)
            / 2
        ): "the denoiser is asked at sigma_next, but its answer is still divided by sigma.",
        lambda x, s, r, d: (
            x
            + (r - s)
            * ((x - d(x, s)) / s + ((y := x + (r - s) * (x - d(x, s)) / s) - d(y, s)) / r)
            / 2
        ): "the slope is divided by sigma_next, but the denoiser is still asked at sigma.",
    },
    hint="at which noise level does the point lie whose slope is taken second?",
    right="both slopes are taken where they belong, and the order is 2.",
)
def heun_step(x: Tensor, sigma: float, sigma_next: float, denoise: Denoise) -> Tensor:
    slope = (x - denoise(x, sigma)) / sigma
    ahead = x + (sigma_next - sigma) * slope
    second = (ahead - denoise(ahead, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + second) / 2


posterior_price = number(
    2.0,
    tolerance=0.01,
    slips={
        1.0: "a sample is not the mean: it has the posterior's spread on top of the mean's error.",
        4.0: "errors add as variances here, not as standard deviations.",
        1.41: "that is the ratio of the root mean squared errors.",
        1.5: "both brackets have the whole variance of the posterior, not half of it.",
        0.5: "the one-call answer is the best there is in squared error.",
    },
    hint="truth and sample are two independent draws from p(x0 | y), around the same mean.",
    right="Var + Var: a picture that looks real costs exactly twice the squared error.",
)
