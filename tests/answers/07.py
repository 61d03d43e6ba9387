"""Wrong answers to lesson 07, and words that each refusal must hold."""

import math
from itertools import pairwise


def walk(order=2, remember="answer", equal=False, end="clean"):
    """A learner's ++(2M) with one of the slips."""

    def run(denoise, x, times, level):
        past = None
        for t, s in pairwise(times):
            now, (at, st), (a, sg) = denoise(x, t), level(t), level(s)
            if sg == 0:
                return a * now if end == "clean" else x
            lam, d = math.log(at / st), now
            h = math.log(a / sg) - lam
            if past and order == 2:
                share = 0.5 if equal else h / 2 / (lam - past[1])
                d = (1 + share) * now - share * past[0]
            x = sg / st * x + a * (1 - math.exp(-h)) * d
            past = (d if remember == "d" else now), lam
        return x

    return run


WRONG = {
    "exact_step": [
        (
            lambda x, x0, at, st, a, s: s / st * x + a * (1 - a * st / (at * s)) * x0,
            "sign of h",
        ),
        (lambda x, x0, at, st, a, s: s / st * x + (1 - s * at / (a * st)) * x0, "alpha_s is"),
        (
            lambda x, x0, at, st, a, s: s / st * x + a * (s * at / (a * st) - 1) * x0,
            "minus before expm1",
        ),
        (lambda x, x0, at, st, a, s: s / st * x + s * (1 - s * at / (a * st)) * x0, "sigma_s sta"),
        (lambda x, x0, at, st, a, s: a * x0, "forgets the noise"),
        (lambda x, x0, at, st, a, s: s / st * x + a * (a * st / (at * s) - 1) * x0, "noise form"),
        (lambda x, x0, at, st, a, s: x[0], "shape"),
    ],
    "order_three": [(0.004, "first-order"), (0.002, "second-order"), (0.5, "too large")],
    "line_ahead": [
        (lambda n, b, l0, l1, l2: 1.5 * n - 0.5 * b, "equal steps only"),
        (lambda n, b, l0, l1, l2: n + (l1 - l0) / (l2 - l1) / 2 * (n - b), "upside down"),
        (lambda n, b, l0, l1, l2: n, "order 1"),
    ],
    "heun_step": [
        (lambda x, s, r, d: x + (r - s) * (x - d(x, s)) / s, "Euler"),
        (
            lambda x, s, r, d: x + (r - s) * ((y := x + (r - s) * (x - d(x, s)) / s) - d(y, r)) / r,
            "mean of both",
        ),
        (lambda x, s, r, d: x * math.nan, "finite"),
    ],
    "whole_walk": [
        (walk(order=1), "order 1"),
        (walk(remember="d"), "network's own answer"),
        (walk(equal=True), "equal steps"),
        (walk(end="x"), "onto clean data"),
        (lambda denoise, x, times, level: denoise(x, times[0]), "largest error"),
    ],
    "posterior_price": [(1.0, "spread"), (4.0, "variances"), (3.0, "too large")],
}
