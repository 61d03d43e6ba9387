"""Wrong answers to lesson 04, and words that each refusal must hold."""

import torch


def _traces(c1, c2):
    return c1.trace() + c2.trace()


def _root(c):
    e, u = torch.linalg.eigh(c)
    return (u * e.sqrt()) @ u.T


def _first_only(x, y):
    k = [((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    n = len(x)
    return (k[0].sum() - k[0].diagonal().sum()) / (n * (n - 1)) + k[1].mean() - 2 * k[2].mean()


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


def _least(x, train):
    return torch.cdist(x.flatten(1), train.flatten(1)).amin(1)


MOVES = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def _over_moves(x, train, moves=MOVES):
    return torch.stack([_least(x.roll(u, (2, 3)), train) for u in moves]).amin(0)


def _by_pixels(made, train, held_out):
    return _least(made, train) < _least(held_out, train).quantile(0.05)


def _some_moves(moves):
    def alarm(made, train, held_out):
        limit = _over_moves(held_out, train, moves).quantile(0.05)
        return _over_moves(made, train, moves) < limit

    return alarm


def _identical(made, train, held_out):
    return _least(made, train) < 0.1


def _other_rule(made, train, held_out):
    return _over_moves(made, train) < _over_moves(held_out, train).median()


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
                - 2 * torch.sqrt(c1.sqrt() @ c2 @ c1.sqrt()).trace()
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
        (
            lambda m1, c1, m2, c2: (
                (m1 - m2).square().sum() + _traces(c1, c2) - 2 * (_root(c1) @ _root(c2)).trace()
            ),
            "commute",
        ),
        (lambda m1, c1, m2, c2: m1 - m2, "shape"),
    ],
    "catches_copies": [
        (_by_pixels, "moved by one pixel"),
        (_some_moves([(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]), "all eight directions"),
        (_some_moves([move for move in MOVES if move != (0, 0)]), "one of the nine moves"),
        (lambda made, train, held_out: torch.ones(len(made)) > 0, "called copies"),
        (lambda made, train, held_out: torch.zeros(len(made)) > 0, "plain copies it finds only 0%"),
        (_identical, "little noise"),
        (_other_rule, "called copies"),
        (lambda made, train, held_out: 0.5, "got float"),
        (lambda made, train, held_out: made.flatten(1).mean(1), "of torch.float32"),
        (0.5, "a function is expected"),
    ],
    "fd_infinity": [
        (_against_n, "against n"),
        (lambda sizes, values: values[-1], "largest n"),
        (lambda sizes, values: values, "shape"),
    ],
    "unbiased_mmd2": [
        (_biased, "n(n-1)"),
        (_off_diagonal, "across the sets"),
        (_first_only, "only the first set"),
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
