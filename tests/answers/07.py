"""Wrong answers to lesson 07, and words that each refusal must hold."""

import math

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
    "next_size": [
        (lambda h, e, left: 0.9 * h * e**-0.9, "past the end"),
        (lambda h, e, left: min(left, 0.9 * h * e**0.9), "exponent"),
        (lambda h, e, left: min(left, h * e**-0.9), "safety factor"),
        (lambda h, e, left: min(left, 0.9 * h / e), "not -1"),
    ],
    "posterior_price": [(1.0, "spread"), (4.0, "variances"), (3.0, "too large")],
}
