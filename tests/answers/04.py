"""Wrong answers to lesson 04, and words that each refusal must hold."""

import torch


def _traces(c1, c2):
    return c1.trace() + c2.trace()


def _biased(x, y):
    k = [((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    within = sum((m.sum() - m.diagonal().sum()) / len(m) ** 2 for m in k[:2])
    return within - 2 * k[2].mean()


def _off_diagonal(x, y):
    k = [((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    xx, yy, xy = ((m.sum() - m.diagonal().sum()) / (len(m) * (len(m) - 1)) for m in k)
    return xx + yy - 2 * xy


def _against_n(sizes, values):
    dx = sizes - sizes.mean()
    return values.mean() - (dx * values).sum() / (dx**2).sum() * sizes.mean()


WRONG = {
    "frechet_of_gaussians": [
        (
            lambda m1, c1, m2, c2: (
                (m1 - m2).square().sum()
                + _traces(c1, c2)
                - 2 * (c1.diagonal() * c2.diagonal()).sqrt().sum()
            ),
            "number by number",
        ),
        (
            lambda m1, c1, m2, c2: (
                (m1 - m2).square().sum()
                + _traces(c1, c2)
                - 2 * torch.linalg.eigvalsh(c1 @ c2).clamp(min=0).sqrt().sum()
            ),
            "symmetric",
        ),
        (
            lambda m1, c1, m2, c2: (
                (m1 - m2).square().sum() + _traces(c1, c2) - 2 * (c1 @ c2).trace()
            ),
            "matrix root",
        ),
        (lambda m1, c1, m2, c2: m1 - m2, "shape"),
    ],
    "pictures_needed": [(640, "mean alone"), (21_440, "1/(2N)"), (5_000, "too small")],
    "fd_infinity": [
        (_against_n, "against n"),
        (lambda sizes, values: values[-1], "largest n"),
        (lambda sizes, values: values, "shape"),
    ],
    "unbiased_mmd2": [
        (_biased, "n(n-1)"),
        (_off_diagonal, "across the sets"),
        (lambda x, y: torch.tensor(0.0), "largest error"),
    ],
    "who_notices": [
        ({"a", "b", "d", "e"}, "happy"),
        ({"a", "d"}, "training pictures"),
        ("f", "not one of"),
    ],
    "attention_flops": [
        (lambda n, c: 4 * n * c**2 + 2 * n**2 * c, "MACs"),
        (lambda n, c: 8 * n * c**2, "convolutions alone"),
        (lambda n, c: 4 * n**2 * c, "pairs alone"),
    ],
}
