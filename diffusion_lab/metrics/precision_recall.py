"""Precision and recall: are pictures like real ones, and are real ones all reached?

A set X stands for the region of points that lie no farther from some x_i than r_k(x_i), the
distance from x_i to its k-th nearest neighbour within X:

    precision = share of generated points in the region of the real ones
    recall    = share of real points in the region of the generated ones
                                                            (Kynkaanniemi et al. 2019, 1904.06991)
    density   = mean over generated points of the number of real balls they lie in, / k
    coverage  = share of real balls that hold a generated point    (Naeem et al. 2020, 2002.09797)

If both sets follow one law, density is 1 on average, and coverage 1 - C(N-1, k)/C(N-1+M, k) for
N real and M generated points, whatever the law. Precision and recall have no such value and move
with N: quote real pictures against real ones of the same numbers beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab import data
from diffusion_lab.device import check_finite
from diffusion_lab.errors import whole
from diffusion_lab.metrics.frechet import features

__all__ = ["Neighbours", "neighbours", "precision_recall"]

CHUNK = 1000
SLACK = 1e-12  # of the squared size of the points: rounding must not decide a tie


@dataclass(frozen=True)
class Neighbours:
    """The four measures, each for k neighbours, of n_real and n_made points."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    n_real: int
    n_made: int


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 in float64, (N, M)."""
    return ((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T).clamp(min=0)


def _radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, (N,)."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=k).fit(x.cpu()).kneighbors()  # of the others
    return torch.from_numpy(distances[:, -1]).to(x).square()


def neighbours(real: Tensor, made: Tensor, k: int = 3) -> Neighbours:
    """All four measures of features: real (N, D) and generated (M, D), float64 inside."""
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
        raise ValueError(
            f"need points (N, D) and (M, D); got {tuple(real.shape)} and {tuple(made.shape)}"
        )
    k = whole("k", k)
    for points in (real, made):
        check_finite(points, "the points")
    if not k < min(len(real), len(made)):
        raise ValueError(
            f"k = {k} needs more than k points on both sides; got {len(real)} and {len(made)}"
        )
    real, made = real.double(), made.double()
    slack = SLACK * float(max((real * real).sum(1).max(), (made * made).sum(1).max()))
    r_real, r_made = (_radii(x, k) + slack for x in (real, made))
    in_real, in_made, balls = 0, 0, 0
    covered = torch.zeros(len(real), dtype=torch.bool, device="cpu")
    for start in range(0, len(made), CHUNK):
        d = _squared(real, made[start : start + CHUNK])
        inside = d <= r_real[:, None]
        in_real += int(inside.any(0).sum())
        balls += int(inside.sum())
        covered |= inside.any(1).cpu()
    for start in range(0, len(real), CHUNK):
        in_made += int(
            (_squared(made, real[start : start + CHUNK]) <= r_made[:, None]).any(0).sum()
        )
    n, m = len(real), len(made)
    return Neighbours(in_real / m, in_made / n, balls / (k * m), float(covered.sum()) / n, k, n, m)


def precision_recall(x: Tensor, name: str = "fashion", k: int = 3) -> Neighbours:
    """The measures of pictures (N, C, H, W) and embedded test pictures, in the frozen features.

    As many real as generated pictures are used (at most 2,000 of Fashion-MNIST, 297 digits).
    """
    made = features(x, name)
    real = data.load(name, "test").x[: len(made)]
    return neighbours(features(real, name), made[: len(real)], k)
