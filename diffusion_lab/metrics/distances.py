"""Distances between two sets of points, for toys of few dimensions where no features are needed.

    W1          integral |F - G| on a line: the mean gap of sorted points
    sliced W2   sqrt( mean over unit directions u of W2(u.x, u.y)^2 )      (Rabin et al. 2011)
    energy      2 E|x - y| - E|x - x'| - E|y - y'|                        (Szekely & Rizzo 2004)

Two finite sets of the same law are not at distance 0: quote the floor, the distance of two sets of
real points of the same sizes, beside each number. The energy distance here is unbiased (pairs of a
point with itself are left out), so its floor is 0 on average and a value may be below 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.device import check_finite, check_generator
from diffusion_lab.errors import number, whole

__all__ = ["check_pair", "energy_distance", "modes", "sliced_w2", "w1"]


def w1(x: Tensor, y: Tensor) -> float:
    """Wasserstein-1 distance of two sets of numbers (N,) and (M,), exact."""
    if x.ndim != 1 or y.ndim != 1 or not len(x) or not len(y):
        raise ValueError(
            f"need two non-empty rows of numbers; got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    for a in (x, y):
        check_finite(a, "the numbers")
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(*(a.detach().double().cpu().numpy() for a in (x, y))))


def sliced_w2(x: Tensor, y: Tensor, generator: torch.Generator, directions: int = 100) -> float:
    """Sliced Wasserstein-2 distance of points x (N, D) and y (N, D), over random directions."""
    check_pair(x, y)
    if len(x) != len(y):
        raise ValueError(
            f"sliced W2 pairs sorted points and needs equally many: {len(x)} and {len(y)} given"
        )
    directions = whole("the number of directions", directions)
    shape, generator = (x.shape[1], directions), check_generator(generator)
    u = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    u = (u / u.norm(dim=0)).to(x.device)
    gaps = (x.double() @ u).sort(0).values - (y.double() @ u).sort(0).values
    return float(gaps.square().mean().sqrt())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Energy distance of points x (N, D) and y (M, D), without bias (not its root)."""
    check_pair(x, y)
    x, y = x.double(), y.double()

    def mean(a: Tensor, b: Tensor, pairs: int) -> Tensor:
        return sum(torch.cdist(part, b).sum() for part in a.split(2000)) / pairs

    n, m = len(x), len(y)
    value = 2 * mean(x, y, n * m) - mean(x, x, n * (n - 1)) - mean(y, y, m * (m - 1))
    return float(value)


def modes(x: Tensor, centres: Tensor, radius: float) -> tuple[Tensor, int]:
    """How many points x (N, D) belong to each centre (K, D), (K,); and how many to none.

    A point belongs to its nearest centre if that is no farther than ``radius``.
    """
    if x.ndim != 2 or centres.ndim != 2 or x.shape[1] != centres.shape[1]:
        raise ValueError(
            f"need points (N, D) and centres (K, D); got {tuple(x.shape)} and "
            f"{tuple(centres.shape)}"
        )
    number("the radius", radius, above=True)
    check_finite(x, "the points")
    gap, own = torch.cdist(x.double(), centres.double()).min(1)
    near = gap <= radius
    return torch.bincount(own[near], minlength=len(centres)), int((~near).sum())


def check_pair(x: Tensor, y: Tensor, what: str = "points") -> None:
    """ValueError unless x is (N, D) and y (M, D), finite and at least two rows each."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"need {what} (N, D) and (M, D), at least two each; "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    for one in (x, y):
        check_finite(one, f"the {what}")
