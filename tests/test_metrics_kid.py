"""Kernel distance against the sum over pairs, torchmetrics and exact Gaussians; toy distances."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import randn

from diffusion_lab import data
from diffusion_lab.device import generator
from diffusion_lab.metrics import kid
from diffusion_lab.metrics.distances import energy_distance, sliced_w2, w1
from diffusion_lab.metrics.estimates import Estimate
from diffusion_lab.metrics.frechet import Reference
from diffusion_lab.metrics.kid import estimate, gaussian_mmd2, kid_subsets, mmd2


def test_mmd_is_the_sum_over_pairs():
    x, y = randn(7, 3), randn(5, 3, seed=1) + 0.5

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within = [
        sum(k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j)
        / (len(a) * (len(a) - 1))
        for a in (x, y)
    ]
    across = sum(k(a, b) for a in x for b in y) / 35
    assert mmd2(x, y) == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def test_mmd_agrees_with_torchmetrics():
    peer = pytest.importorskip("torchmetrics.image.kid")
    x, y = randn(300, 16), 1.1 * randn(300, 16, seed=1) + 0.2
    assert mmd2(x, y) == pytest.approx(float(peer.poly_mmd(x, y)), rel=1e-9)


def test_all_of_kid_agrees_with_torchmetrics_in_the_limit_of_one_subset():
    peer = pytest.importorskip("torchmetrics.image.kid")
    x, y = randn(60, 8), randn(60, 8, seed=1) + 0.3
    judge = peer.KernelInceptionDistance(feature=torch.nn.Identity(), subsets=2, subset_size=60)
    judge.update(x, real=True), judge.update(y, real=False)
    mean, std = judge.compute()  # every subset is the whole set
    found = kid_subsets(y, x, generator(0), subsets=2, size=60)
    assert found[0] == pytest.approx(float(mean), rel=1e-5) and found[1] < 1e-9 > float(std)


def gaussian(mean: torch.Tensor, cov: torch.Tensor) -> Reference:
    return Reference(mean.double(), cov.double(), 10**9)


def test_exact_value_for_unit_gaussians():
    """The formula for N(a, I), N(b, I) written out: E k = (m+1)^3 + 3(m+1)(...)/d^2 + 6 a.b/d^3."""
    d = 5
    a, b = randn(d), randn(d, seed=1)

    def mean_kernel(a, b):
        m = float(a @ b) / d
        size = d + float(a @ a) + float(b @ b)
        return (m + 1) ** 3 + 3 * (m + 1) * size / d**2 + 6 * float(a @ b) / d**3

    exact = mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
    eye = torch.eye(d)
    assert gaussian_mmd2(gaussian(a, eye), gaussian(b, eye)) == pytest.approx(exact, rel=1e-12)


def test_unbiased_for_any_gaussians_at_any_n():
    """300 repetitions at N = 20: the mean is the exact value for full covariances."""
    d = 4
    roots = randn(d, d), randn(d, d, seed=1)
    means = 0.5 * randn(d, seed=2), 0.5 * randn(d, seed=3)
    exact = gaussian_mmd2(*(gaussian(m, r @ r.T) for m, r in zip(means, roots, strict=True)))
    values = []
    for seed in range(300):
        z = randn(2, 20, d, seed=100 + seed)
        values.append(mmd2(*(m + z[i] @ r.T for i, (m, r) in enumerate(zip(means, roots)))))
    found = Estimate.of(values)
    assert abs(found.value - exact) < 3 * found.error
    assert found.error < 0.2 * exact


def test_same_law_scatters_about_zero_and_both_signs_occur():
    values = [mmd2(randn(50, 8, seed=2 * s), randn(50, 8, seed=2 * s + 1)) for s in range(60)]
    found = Estimate.of(values)
    assert abs(found.value) < 3 * found.error
    assert min(values) < 0 < max(values)


def test_sets_that_are_too_small_or_do_not_fit():
    x, y = randn(30, 8), randn(40, 8, seed=1)
    with pytest.raises(ValueError, match="cannot draw"):
        kid_subsets(x, y, generator(0), size=200)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        mmd2(x, y[:, :3])


@pytest.mark.parametrize("shift", [0.0, 0.3], ids=["same law", "shifted"])
def test_the_error_is_the_scatter_over_sets(shift):
    """200 sets of 60 against one fixed set: claimed and actual standard deviation agree.

    The actual one is known to 5%; halves are of a functional that is linear plus quadratic, while
    blocks of 10 claim 2.4 times too much where the laws agree.
    """
    y = randn(600, 8)
    sets = randn(200, 60, 8, seed=1) + shift
    actual = torch.tensor([mmd2(x, y) for x in sets]).std().item()
    found = [estimate(x, y, generator(3), draws=40) for x in sets[:40]]
    assert found[7].value == mmd2(sets[7], y) and found[7].n == 60
    claimed = (sum(one.error**2 for one in found) / len(found)) ** 0.5
    assert claimed == pytest.approx(actual, rel=0.25)
    with pytest.raises(ValueError, match="two draws"):
        estimate(sets[0], y, generator(0), draws=1)
    assert estimate(sets[0][:4], y, generator(0), draws=2).n == 4  # the fewest
    with pytest.raises(ValueError, match="at least four pictures and two draws; got 3 and 2"):
        estimate(sets[0][:3], y, generator(0), draws=2)


def test_the_error_does_not_depend_on_how_the_pairs_are_summed():
    x, y = randn(1300, 3), randn(50, 3, seed=1)
    one = estimate(x, y, generator(0), draws=5)
    order = [torch.randperm(1300, generator=g) for g in [generator(0)] for _ in range(5)]
    halves = [(mmd2(x[p[:650]], y), mmd2(x[p[650:]], y)) for p in order]
    a, b = torch.tensor(halves).double().T
    linear, quadratic = ((a - b) / 2).var(), ((a + b) / 2).var()
    assert one.error == pytest.approx(max(linear - quadratic, quadratic).item() ** 0.5, rel=1e-3)


def test_kid_of_pictures():
    real = data.load("fashion", "train").x[:500]
    found, noisy = kid(real), kid(real + 0.3 * randn(*real.shape).float())
    assert abs(found.value) < 4 * found.error and found.n == 500
    assert noisy.value > 10 * found.error and (noisy - found).sure > 0.999


# ---- toys -------------------------------------------------------------------------------------
def test_w1_on_a_line():
    """For as many points it is the mean gap of sorted ones: 50 x 31 and 31 x 50 are as many."""
    assert w1(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 5.0])) == pytest.approx(3.5)
    x, y = randn(50), randn(31, seed=1) + 1
    a, b = x.double().repeat(31).sort().values, y.double().repeat(50).sort().values
    assert w1(x, y) == pytest.approx(float((a - b).abs().mean()), rel=1e-12)
    assert w1(x, x.flip(0)) == 0
    with pytest.raises(ValueError, match="rows of numbers"):
        w1(x, torch.ones(2, 2))


def test_energy_distance_without_the_bias_of_the_library():
    """scipy's root, squared, counts a point with itself: twice the integral of (F - G)^2."""
    stats = pytest.importorskip("scipy.stats")
    x, y = randn(40), randn(30, seed=1) + 1
    inner = [2 * 0.5 * (a[:, None] - a).abs().sum() / (len(a) ** 2 * (len(a) - 1)) for a in (x, y)]
    plain = energy_distance(x[:, None], y[:, None]) + float(sum(inner))
    assert plain == pytest.approx(stats.energy_distance(x, y) ** 2, rel=1e-9)
    # two points against two: 2 E|x - y| - |x_1 - x_2| - |y_1 - y_2|
    a, b = torch.tensor([[0.0, 0], [0, 2]]), torch.tensor([[3.0, 0], [3, 2]])
    assert energy_distance(a, b) == pytest.approx(3 + math.sqrt(13) - 4)
    values = [
        energy_distance(randn(60, 2, seed=2 * s), randn(60, 2, seed=2 * s + 1)) for s in range(60)
    ]
    same = Estimate.of(values)
    assert abs(same.value) < 3 * same.error


def test_sliced_w2_of_shifted_points():
    """A shift by v has sliced W2 |v|/sqrt(D); in two dimensions directions average to that."""
    x, v = randn(500, 2), torch.tensor([3.0, 4.0])
    assert sliced_w2(x, x + v, generator(1), 4000) == pytest.approx(5 / math.sqrt(2), rel=0.03)
    assert sliced_w2(x, x.flip(0), generator(1)) == 0
    one = sliced_w2(x[:, :1], x[:, 1:] + 2, generator(0), 3)  # on a line no direction matters
    gap = (x[:, 0].sort().values - (x[:, 1] + 2).sort().values).square().mean().sqrt()
    assert one == pytest.approx(float(gap))
    with pytest.raises(ValueError, match="equally many"):
        sliced_w2(x, x[:7], generator(0))
    with pytest.raises(ValueError, match="at least two"):
        energy_distance(x, x[:1])
