"""Wrong answers to lesson 08, and words that each refusal must hold."""

import math

import torch

WRONG = {
    "price": [
        (lambda snr_t, snr_s, error: 0.5 * (snr_s - snr_t) * error, "nats"),
        (lambda snr_t, snr_s, error: 0.5 * (snr_t - snr_s) * error / math.log(2), "cleaner"),
        (lambda snr_t, snr_s, error: (snr_s - snr_t) * error / math.log(2), "1/2"),
    ],
    "sweep": [
        (lambda best, table: (best[None, :] + table).min(dim=0).values, "over t"),
        (lambda best, table: best + table.min(dim=1).values, "column s"),
        (lambda best, table: (best[None, :] + table).min(dim=1), ".values"),
        (lambda best, table: torch.zeros(2), "shape"),
    ],
    "inner_times": [
        ([0.75, 0.5, 0.25], "nats"),
        ([0.5, 0.1], "three times"),
        ([0.1, 0.2, 0.3], "must fall"),
        ([250, 100, 20], "units of t"),
    ],
    "best_variance": [
        (
            lambda at, st, a, s, l2, size: (
                (a - (s**2 - l2) ** 0.5 * at / st) ** 2 * (st / at) ** 2 * (1 - size)
            ),
            "missing",
        ),
        (
            lambda at, st, a, s, l2, size: (
                l2 + (a - (s**2 - l2) ** 0.5 * at / st) ** 2 * (st / at) ** 2 * size
            ),
            "1 - size",
        ),
    ],
    "mmd2": [
        (lambda kxx, kyy, kxy: kxx.mean() + kyy.mean() - 2 * kxy.mean(), "biased"),
        (lambda kxx, kyy, kxy: kxx.mean() + kyy.mean(), "error"),
    ],
    "share": [(0.9, "r itself"), (0.99, "too large"), (0.2, "too small")],
}
