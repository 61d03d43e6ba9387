"""Wrong answers to lesson 03, and words that each refusal must hold."""

import torch

WRONG = {
    "price_of_an_error": [(0.1, "predicts x0"), (0.005, "not divided"), (3.0, "too large")],
    "edm_scalings": [
        (
            lambda s, sd: (
                s**2 / (s**2 + sd**2),
                s * sd / (s**2 + sd**2) ** 0.5,
                (s**2 + sd**2) ** -0.5,
            ),
            "share of the noise",
        ),
        (
            lambda s, sd: (1 / (s**2 + 1), s / (s**2 + 1) ** 0.5, (s**2 + 1) ** -0.5),
            "taken as 1",
        ),
        (lambda s, sd: sd**2 / (s**2 + sd**2), "shape"),
    ],
    "p2_on_v": [
        (lambda a, s, k, g: (k + (a / s) ** 2) ** -g, "weight on eps"),
        (lambda a, s, k, g: a**2 / (k + a / s) ** g, "its root"),
        (lambda a, s, k, g: s**-2 / (k + (a / s) ** 2) ** g, "|d x0|^2 / sigma^2"),
        (lambda a, s, k, g: 2 * a**2 / (k + (a / s) ** 2) ** g, "2 times"),
    ],
    "noised_batch": [
        (lambda x0, eps, a, s: a[:, None, None] * x0 + s[:, None, None] * eps, "each channel"),
        (lambda x0, eps, a, s: a.mean() * x0 + s.mean() * eps, "one and the same"),
        (lambda x0, eps, a, s: torch.zeros(3), "shape"),
    ],
    "start_left": [
        (lambda d, n: d**n, "without the warm-up"),
        (lambda d, n: 0.0, "largest error"),
    ],
    "small_net": [
        ({"widths": (32, 64)}, "budget"),
        ({"widths": (16, 32)}, "asked for"),
        ((16, 48), "as a dict"),
        ({"width": (16, 48)}, "did you mean 'widths'"),
    ],
}
