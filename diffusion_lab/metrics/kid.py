"""Kernel distance: the squared maximum mean discrepancy of features, without bias.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(a, b) = (a.b / D + 1)^3                          (KID; Binkowski et al. 2018, 1801.01401)

Leaving out i = j makes the mean over repetitions the true value for any number of pictures, so a
small set may well come out below 0, and values at different N compare. For x ~ N(a, A) and
y ~ N(b, B), with m = a.b / D,

    E k(x, y) = (m + 1)^3 + 3 (m + 1) (a'Ba + b'Ab + tr AB)/D^2 + 6 a'BAb/D^3.

In the lab's own frozen features this is a KID of another scale than that of papers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from diffusion_lab import data
from diffusion_lab.device import check_generator
from diffusion_lab.errors import whole
from diffusion_lab.metrics.distances import check_pair
from diffusion_lab.metrics.estimates import Estimate, halves, of_halves
from diffusion_lab.metrics.frechet import Reference, _net, features

__all__ = ["cubic", "estimate", "gaussian_mmd2", "kid", "kid_subsets", "mmd2"]


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """KID's kernel (a.b/D + 1)^3 of all pairs of rows: (N, D) and (M, D) to (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def mmd2(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor] = cubic) -> Tensor:
    """MMD^2 of features x (N, D) and y (M, D), all pairs, unbiased: may be below 0.

    A number in float64 that knows its gradient. ValueError for other shapes, or for nan and inf.
    """
    check_pair(x, y, "features")
    x, y = x.double(), y.double()

    def within(a: Tensor) -> Tensor:
        total = 0.0
        for start in range(0, len(a), 1000):
            pairs = kernel(a[start : start + 1000], a)
            total = total + pairs.sum() - pairs.diagonal(start).sum()
        return total / (len(a) * (len(a) - 1))

    across = sum(kernel(part, y).sum() for part in x.split(1000)) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


def estimate(x: Tensor, y: Tensor, generator: torch.Generator, draws: int = 50) -> Estimate:
    """MMD^2 of features x (N, D) to y (M, D), with the standard error of having drawn these N.

    From random halves of x, ``draws`` times (``metrics.estimates.of_halves``). Its Var l - Var q is
    here the variance of the U-statistic itself, so blocks are not needed, whose mean scatters more:
    by the root of their number where both laws agree. y is taken as it is. ValueError unless each
    half has two pictures and there are two draws.
    """
    value, n, half = mmd2(x, y).item(), len(x), len(x) // 2
    x, y, places = x.double(), y.double(), halves(n, generator, draws)
    sides = torch.zeros(draws, 2, n, dtype=torch.float64, device="cpu").scatter_(2, places, 1.0)
    sides = sides.transpose(0, 1).reshape(2 * draws, n).to(x.device)
    pairs = torch.zeros_like(sides)  # sum over j in the side, j != i, of k(x_i, x_j)
    across = torch.zeros(n, dtype=torch.float64, device=x.device)
    for start in range(0, n, 1000):
        part = slice(start, min(start + 1000, n))
        k = cubic(x[part], x)
        k.diagonal(start).zero_()
        pairs[:, part] = sides @ k.T
        across[part] = cubic(x[part], y).mean(1)
    within = (sides * pairs).sum(1) / (half * (half - 1))
    a, b = (within - 2 * sides @ across / half).reshape(2, draws)
    return Estimate(value, of_halves(a, b), n)


def kid_subsets(
    x: Tensor, y: Tensor, generator: torch.Generator, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """(mean, standard deviation) over random subsets, as papers quote it.

    Subsets share pictures, so the standard deviation is the spread at ``size`` pictures and no
    error of the mean. It is taken with 1/subsets, as in torchmetrics.
    """
    subsets, size = whole("subsets", subsets), whole("the size of a subset", size, 2)
    if size > min(len(x), len(y)):
        raise ValueError(
            f"cannot draw {subsets} subsets of {size} from {len(x)} and {len(y)} pictures"
        )
    generator = check_generator(generator)

    def some(a: Tensor) -> Tensor:
        return a[torch.randperm(len(a), generator=generator, device="cpu")[:size]]

    values = torch.stack([mmd2(some(x), some(y)) for _ in range(subsets)])
    return values.mean().item(), values.std(correction=0).item()


def gaussian_mmd2(a: Reference, b: Reference) -> float:
    """The exact MMD^2 of N(a.mean, a.cov) and N(b.mean, b.cov): the truth to test against."""
    return _mean_kernel(a, a) + _mean_kernel(b, b) - 2 * _mean_kernel(a, b)


def _mean_kernel(a: Reference, b: Reference) -> float:
    """E k(x, y) for independent x ~ N(a), y ~ N(b)."""
    d = len(a.mean)
    m = a.mean @ b.mean / d
    spread = a.mean @ b.cov @ a.mean + b.mean @ a.cov @ b.mean + (a.cov * b.cov).sum()
    skew = 6 * a.mean @ b.cov @ a.cov @ b.mean
    return float((m + 1) ** 3 + 3 * (m + 1) * spread / d**2 + skew / d**3)


def kid(
    x: Tensor, name: str = "fashion", generator: torch.Generator | None = None, draws: int = 50
) -> Estimate:
    """KID in the lab's frozen features of pictures (N, C, H, W) against the embedded test pictures.

    Those are 2,000 of Fashion-MNIST or 297 digits, taken as they are: the same for all models. All
    pairs are used, and the standard error is that of having drawn these N (``estimate``; seed 0
    where no generator is given).
    """
    generator = check_generator(generator, seed=0)
    return estimate(features(x, name), _real(name, _net(name)), generator, draws)


@lru_cache(maxsize=2)
def _real(name: str, net: nn.Module) -> Tensor:
    """Features of the embedded test pictures, by ``net``: kept as long as that is the net."""
    return features(data.load(name, "test").x, name)
