"""Precision, recall, density, coverage on points where each is counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffusion_lab import data
from diffusion_lab.device import generator
from diffusion_lab.metrics import precision_recall
from diffusion_lab.metrics.estimates import Estimate
from diffusion_lab.metrics.precision_recall import neighbours


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def test_points_on_a_line():
    """Real 0, 1, 2, 10 with k = 1: balls [-1, 1], [0, 2], [1, 3], [2, 18]."""
    real, made = torch.tensor([[0.0], [1], [2], [10]]), torch.tensor([[1.5], [3], [4], [-5]])
    found = neighbours(real, made, k=1)
    assert found.precision == 3 / 4  # all but -5; 3 lies on two edges
    assert found.density == (2 + 2 + 1 + 0) / 4
    assert found.coverage == 3 / 4  # no generated point in [-1, 1]
    # generated balls: [0, 3], [2, 4], [3, 5], [-11.5, 1.5]
    assert found.recall == 3 / 4  # 10 is out of reach
    assert (found.k, found.n_real, found.n_made) == (1, 4, 4)


def test_the_balls_are_those_of_the_real_pictures():
    """Real 0, 1, 10, 11, 12 with k = 1: all balls of radius 1; two generated points near 0."""
    real, made = torch.tensor([[0.0], [1], [10], [11], [12]]), torch.tensor([[0.25], [0.5]])
    found = neighbours(real, made, k=1)
    assert (found.precision, found.coverage, found.density) == (1, 2 / 5, 4 / 2)
    assert (found.recall, found.n_real, found.n_made) == (1 / 5, 5, 2)  # balls [0, .5], [.25, .75]


def test_a_set_with_itself_and_a_set_far_away():
    x = randn(500, 8)
    same, far = neighbours(x, x), neighbours(x, x + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    half = torch.cat([x[:250], x[:250] + 100])
    assert neighbours(x, half).precision == 0.5


def test_dropping_a_mode_costs_recall_and_adding_one_costs_precision():
    a, b = randn(400, 2), randn(400, 2, seed=1) + 50
    both, one = torch.cat([a, b]), randn(400, 2, seed=2)
    dropped, added = neighbours(both, one), neighbours(one, both)
    assert dropped.precision > 0.9 and dropped.recall < 0.55
    assert added.precision < 0.55 and added.recall > 0.9


def test_radii_by_sorting_all_distances():
    real, made, k = randn(1500, 16), 1.2 * randn(1300, 16, seed=1), 3

    def reached(x, y):
        within = np.linalg.norm(x[:, None] - x[None], axis=2)
        distance = np.sort(within, axis=1)[:, k]  # the first is the point itself
        gaps = np.linalg.norm(x[:, None] - y[None], axis=2)
        return gaps <= distance[:, None]

    x, y = real.double().numpy(), made.double().numpy()
    found, balls = neighbours(real, made, k), reached(x, y)
    assert found.precision == pytest.approx(balls.any(0).mean(), abs=1e-12)
    assert found.recall == pytest.approx(reached(y, x).any(0).mean(), abs=1e-12)
    assert found.density == pytest.approx(balls.sum() / (k * len(y)), abs=1e-12)
    assert found.coverage == pytest.approx(balls.any(1).mean(), abs=1e-12)


def expected_coverage(n: int, m: int, k: int = 3) -> float:
    """Mean coverage where both sets follow one law: not all k nearest others are real ones."""
    return 1 - math.comb(n - 1, k) / math.comb(n - 1 + m, k)


def test_the_same_law_has_known_density_and_coverage():
    n, m, k = 150, 100, 3
    found = [neighbours(randn(n, 5, seed=2 * s), randn(m, 5, seed=2 * s + 1), k) for s in range(80)]
    density, coverage = (
        Estimate.of([getattr(f, what) for f in found]) for what in ("density", "coverage")
    )
    assert abs(density.value - 1) < 3 * density.error < 0.06
    assert abs(coverage.value - expected_coverage(n, m, k)) < 3 * coverage.error < 0.04


def test_repeated_points_have_balls_of_no_size():
    x = torch.zeros(10, 2)
    assert neighbours(x, x).precision == 1
    assert neighbours(x, x + 0.1).precision == 0


def test_of_pictures():
    x = data.load("fashion", "train").x[:400]
    real = precision_recall(x)
    blurred = precision_recall(torch.nn.functional.avg_pool2d(x, 3, 1, 1))
    assert real.precision > 0.5 < real.recall and real.n_real == real.n_made == 400
    assert abs(real.coverage - expected_coverage(400, 400)) < 0.06
    assert blurred.density < 0.8 * real.density


def test_errors():
    x = randn(5, 2)
    with pytest.raises(ValueError, match="k = 5"):
        neighbours(x, x, k=5)
    with pytest.raises(ValueError, match="k must be a whole number >= 1; got 0"):
        neighbours(x, x, k=0)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        neighbours(x, x[:, :1])
