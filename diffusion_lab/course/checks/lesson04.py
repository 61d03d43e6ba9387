"""Checks of lesson 04."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import EMPTY, NO_RETURN, Untouched, choice, exercise, judge
from diffusion_lab.course.checks.reading import complete
from diffusion_lab.device import randn


# ---- the Fréchet distance
def _root(c: Tensor) -> Tensor:
    e, u = torch.linalg.eigh(c)
    return (u * e.clamp(min=0).sqrt()) @ u.T


def _cross(c1: Tensor, c2: Tensor) -> Tensor:
    root = _root(c1)
    return torch.linalg.eigvalsh(root @ c2 @ root).clamp(min=0).sqrt().sum()


def _traces(c1: Tensor, c2: Tensor) -> Tensor:
    return c1.trace() + c2.trace()


def _gaussians(g: Generator) -> list[tuple[Any, ...]]:
    probes = []
    for d in (2, 4):
        r1, r2 = torch.randn(2, d, d, generator=g, dtype=torch.float64, device="cpu")
        m1, m2 = torch.randn(2, d, generator=g, dtype=torch.float64, device="cpu")
        probes.append((m1, r1 @ r1.T, m2, r2 @ r2.T))
    return probes


_BY_NUMBER = "the root was taken number by number; it is the root of a matrix."


@exercise(
    probes=_gaussians,
    slips={
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum()
            + _traces(c1, c2)
            - 2 * (c1.diagonal() * c2.diagonal()).sqrt().sum()
        ): _BY_NUMBER,
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum()
            + _traces(c1, c2)
            - 2 * (c1.sqrt() @ c2 @ c1.sqrt()).sqrt().trace()
        ): _BY_NUMBER,
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum()
            + _traces(c1, c2)
            - 2 * torch.linalg.eigvalsh(c1 @ c2).clamp(min=0).sqrt().sum()
        ): "eigh and eigvalsh want a symmetric matrix, and C1 C2 is not: use root @ c2 @ root.",
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum() + _traces(c1, c2) - _cross(c1, c2)
        ): "the factor 2 before the root is missing: is a set at distance 0 from itself?",
        lambda m1, c1, m2, c2: (
            (m1 - m2).norm() + _traces(c1, c2) - 2 * _cross(c1, c2)
        ): "the distance of the means enters squared.",
        lambda m1, c1, m2, c2: (
            _traces(c1, c2) - 2 * _cross(c1, c2)
        ): "the means are missing: a shifted set would be at distance 0.",
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum() + _traces(c1, c2) - 2 * _cross(c1, c2)
        ).sqrt(): "one root too many at the end: FD is the squared distance.",
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum() + _traces(c1, c2) - 2 * (c1 @ c2).trace().sqrt()
        ): "the root of the trace is not the trace of the root.",
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum() + _traces(c1, c2) - 2 * (c1 @ c2).trace()
        ): "the matrix root is missing.",
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().sum() + _traces(c1, c2) - 2 * (_root(c1) @ _root(c2)).trace()
        ): "tr(root(C1) root(C2)) is right only where C1 and C2 commute; covariances do not.",
        lambda m1, c1, m2, c2: (
            (m1 - m2).square().mean() + _traces(c1, c2) - 2 * _cross(c1, c2)
        ): "the squares of the means' difference are added up, not averaged.",
    },
    hint="tr of the root = sum of the roots of the eigenvalues of root(C1) C2 root(C1).",
    right="0 for equal Gaussians, and |m1 - m2|^2 where only the means differ.",
)
def frechet_of_gaussians(m1: Tensor, c1: Tensor, m2: Tensor, c2: Tensor) -> Tensor:
    return (m1 - m2).square().sum() + _traces(c1, c2) - 2 * _cross(c1, c2)


# ---- the end of the line
def _line(g: Generator) -> list[tuple[Any, ...]]:
    sizes = torch.tensor([100.0, 150.0, 250.0, 600.0], dtype=torch.float64)
    noise = 0.02 * torch.randn(2, 4, generator=g, dtype=torch.float64, device="cpu")
    return [(sizes, 1.6 + 120 / sizes + noise[0]), (2 * sizes, 0.3 + 90 / sizes + noise[1])]


def _fit(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    dx = x - x.mean()
    slope = (dx * values).sum() / (dx**2).sum()
    return values.mean() - slope * x.mean(), slope


@exercise(
    probes=_line,
    slips={
        lambda sizes, values: _fit(sizes, values)[0]: (
            "the line is through FD against 1/n; yours is against n, whose end at 0 is no pictures."
        ),
        lambda sizes, values: _fit(1 / sizes, values)[1]: (
            "that is the slope; the value at 1/n = 0 is asked for."
        ),
        lambda sizes, values: values[sizes.argmax()]: (
            "that is the value at the largest n, still too high by its own bias."
        ),
        lambda sizes, values: (
            (values[-1] * sizes[-1] - values[0] * sizes[0]) / (sizes[-1] - sizes[0])
        ): "that is the line through two of the points; least squares uses them all.",
        lambda sizes, values: values.mean(): "that is the plain mean, with all the bias in it.",
        lambda sizes, values: values.mean() + _fit(1 / sizes, values)[1] * (1 / sizes).mean(): (
            "the sign of the step back to 0 is wrong: the end lies below the values."
        ),
        lambda sizes, values: values.mean() - _fit(1 / sizes, values)[1] / sizes.mean(): (
            "1/mean(n) stands where mean(1/n) belongs."
        ),
    },
    hint="Fit a line in x = 1/sizes; where does it stand when N is infinite?",
    right="infinitely many pictures, without drawing them.",
)
def fd_infinity(sizes: Tensor, values: Tensor) -> Tensor:
    return _fit(1 / sizes, values)[0]


# ---- KID
def _points(g: Generator) -> list[tuple[Any, ...]]:
    x, y = torch.randn(2, 6, 3, generator=g, dtype=torch.float64, device="cpu")
    return [(x, y), (x, y[:4] + 0.5)]


def _kernels(x: Tensor, y: Tensor) -> list[Tensor]:
    return [((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]


def _without_diagonals(x: Tensor, y: Tensor, count: str) -> Tensor:
    """The slip of leaving i = j out across the sets too, where it is a pair like any."""
    cross = _kernels(x, y)[2]
    pairs = {
        "n(n-1)": len(cross) * (len(cross) - 1),
        "rest": cross.numel() - len(cross.diagonal()),
        "all": cross.numel(),
    }[count]
    across = (cross.sum() - cross.diagonal().sum()) / pairs
    return _mmd2(x, y, across=0.0) - 2 * across


_ACROSS = (
    "i = j was left out across the sets too; there x_i and y_i are two different pictures: "
    "take the plain mean of k(x, y)."
)


def _mmd2(x: Tensor, y: Tensor, pairs: str = "n(n-1)", across: float = 2.0) -> Tensor:
    *own, kxy = _kernels(x, y)
    count = {"n(n-1)": lambda n: n * (n - 1), "n^2": lambda n: n * n}[pairs]
    within = [(k.sum() - k.diagonal().sum()) / count(len(k)) for k in own]
    return sum(within) - across * kxy.mean()


def _one_repaired(x: Tensor, y: Tensor, which: int) -> Tensor:
    """The diagonal left out in one of the two sets only."""
    *own, kxy = _kernels(x, y)
    right = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in own]
    return right[which] + own[1 - which].mean() - 2 * kxy.mean()


@exercise(
    probes=_points,
    bug=lambda x, y: (lambda k: k[0].mean() + k[1].mean() - 2 * k[2].mean())(_kernels(x, y)),
    slips={
        lambda x, y: _mmd2(x, y, pairs="n^2"): (
            "the pairs i = j are gone, but n(n-1) pairs are left to divide by, not n^2."
        ),
        lambda x, y: _without_diagonals(x, y, "n(n-1)"): _ACROSS,
        lambda x, y: _without_diagonals(x, y, "rest"): _ACROSS,
        lambda x, y: _without_diagonals(x, y, "all"): _ACROSS,
        lambda x, y: _one_repaired(
            x, y, 0
        ): "only the first set is repaired: y has a diagonal too.",
        lambda x, y: _one_repaired(
            x, y, 1
        ): "only the second set is repaired: x has a diagonal too.",
        lambda x, y: _mmd2(x, y, across=1.0): "the pairs across count twice: - 2 mean k(x, y).",
        lambda x, y: _mmd2(x, y).clamp(min=0): (
            "do not cut at 0: an unbiased estimate of something near 0 must fall below at times."
        ),
    },
    hint="leave the diagonal out of the sum and of the count, within each set only.",
    right="right on average for any number of pictures, and below 0 at times.",
)
def unbiased_mmd2(x: Tensor, y: Tensor) -> Tensor:
    return _mmd2(x, y)


# ---- who sees what
who_notices = choice(
    {"a", "d", "e"},
    {
        "a": "the ten pictures' mean and covariance are not those of thousands: FD notices.",
        "b": "the score is happy with one sure picture of each class.",
        "c": "each of the ten is a real picture and lies among real ones: precision is perfect.",
        "d": "almost no real picture lies near one of ten points: recall drops to nothing.",
        "e": "they are training pictures: nothing can be nearer.",
    },
    hint="which of them look at what is missing, or at what was there before?",
    right="and no single one of the five would have been enough in all seven cases.",
)


# ---- copies
def _moved(x: Tensor, g: Generator) -> Tensor:
    """Each picture moved by one pixel, straight or askew."""
    moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    chosen = torch.randint(len(moves), (len(x),), generator=g, device="cpu").tolist()
    return torch.stack([one.roll(moves[k], (1, 2)) for one, k in zip(x, chosen, strict=True)])


@judge(
    hint="undo what the copier may have done, then compare; how near is too near, held_out says.",
    right="it finds the copies in any of the three disguises, and leaves the honest alone.",
)
def catches_copies(alarm: Any, seed: int) -> str | None:
    """Copies plain, with noise and moved, and new pictures, all from the embedded sets."""
    from diffusion_lab import data

    if not callable(alarm):
        return f"a function is expected here, but a {type(alarm).__name__} was given."
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(2000, generator=g, device="cpu")
    train, real = (
        data.load("fashion").x[7000 + 500 * (seed % 2) :][:600],
        data.load("fashion", "test").x,
    )
    held_out, new, source = real[order[:200]], real[order[200:260]], train[order[order < 600][:60]]
    noise = 0.05 * randn(source.shape, g)
    sets = {
        "new pictures": new,
        "plain copies": source,
        "copies with a little noise": source + noise,
        "copies moved by one pixel": _moved(source, g),
    }
    share = {}
    for name, made in sets.items():
        found = alarm(made.clone(), train.clone(), held_out.clone())
        if found is None or found is ...:
            if complete(alarm):
                return NO_RETURN
            raise Untouched(EMPTY)
        if (
            not isinstance(found, Tensor)
            or found.shape != (len(made),)
            or found.dtype != torch.bool
        ):
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            kind = f" of {found.dtype}" if isinstance(found, Tensor) else ""
            return f"{len(made)} booleans are expected, one for each of `made`; got {what}{kind}."
        share[name] = found.double().mean().item()
    for name, least in (("plain copies", 0.95), ("copies with a little noise", 0.9)):
        if share[name] < min(least, share["copies moved by one pixel"] - 0.3):
            return (
                f"of {name} it finds only {share[name]:.0%}: not moving is one of the nine moves."
            )
        if share[name] < least:
            return f"of {name} it finds only {share[name]:.0%}: they lie nearer than new ones."
    if share["copies moved by one pixel"] < 0.9:
        found = share["copies moved by one pixel"]
        return (
            f"it finds {found:.0%} of copies moved by one pixel: move `made` back before "
            "comparing, in all eight directions."
        )
    if share["new pictures"] > 0.17:
        return (
            f"{share['new pictures']:.0%} of new pictures are called copies, which is unjust: "
            "measure held_out in just the same way, and let at most one in twenty of it ring?"
        )
    return None


# ---- FLOPs
@exercise(
    probes=lambda g: [(49, 64), (196, 32), (10, 3)],
    slips={
        lambda n, c: 4 * n * c**2 + 2 * n**2 * c: (
            "a multiply-add counts as two; these are multiply-adds (MACs)."
        ),
        lambda n, c: 8 * n * c**2 + 2 * n**2 * c: (
            "there are two products over pairs of pixels: Q K^T, and the weights times V."
        ),
        lambda n, c: (
            8 * n * c**2
        ): "that is the convolutions alone; the pairs of pixels are missing.",
        lambda n, c: 4 * n**2 * c: "that is the pairs alone; the two convolutions are missing.",
        lambda n, c: 6 * n * c**2 + 4 * n**2 * c: "the last convolution, c to c, is missing.",
        lambda n, c: 4 * n * c**2 + 4 * n**2 * c: (
            "queries, keys and values are three maps: the first convolution is c to 3c."
        ),
        lambda n, c: 8 * n**2 * c + 4 * n * c**2: "n and c have changed places.",
    },
    hint="four matrix products; write down the three sizes of each.",
    right="linear in pixels for the convolutions, quadratic for the pairs.",
)
def attention_flops(n: int, c: int) -> int:
    return 8 * n * c**2 + 4 * n**2 * c
