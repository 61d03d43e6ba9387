"""How FD depends on the number of pictures: exact values for Gaussians, extrapolation, errors."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab import data
from diffusion_lab.device import generator
from diffusion_lab.metrics import fd
from diffusion_lab.metrics.estimates import Estimate, compare, verdict
from diffusion_lab.metrics.frechet import (
    Reference,
    estimate,
    extrapolate,
    fd_curve,
    fd_estimate,
    fd_infinity,
    fd_paired,
    frechet,
    gaussian_bias,
    paired,
)


def gaussian(d: int, seed: int, mean: float = 0.0) -> Reference:
    """A Gaussian with a random mean and covariance."""
    g = generator(seed)
    a = torch.randn(d, d, generator=g, dtype=torch.float64)
    shift = mean * torch.randn(d, generator=g, dtype=torch.float64)
    return Reference(shift, a @ a.T / d + 0.3 * torch.eye(d).double(), 10**9)


def draw(law: Reference, n: int, g: torch.Generator) -> torch.Tensor:
    z = torch.randn(n, len(law.mean), generator=g, dtype=torch.float64)
    return law.mean + z @ torch.linalg.cholesky(law.cov).T


def standard(d: int) -> Reference:
    return Reference(torch.zeros(d).double(), torch.eye(d).double(), 10**9)


@pytest.mark.parametrize("d", [1, 2, 64])
@pytest.mark.parametrize("n", [250, 4000])
def test_bias_of_a_standard_normal_is_the_known_formula(d, n):
    bias = gaussian_bias(standard(d), standard(d), n)
    assert bias == pytest.approx(d / n + d * (d + 1) / 4 / (n - 1), rel=1e-9)
    assert gaussian_bias(standard(d), standard(d), n, n) == pytest.approx(2 * bias)


def test_bias_in_one_dimension_is_exact_up_to_one_over_n_squared():
    """E FD = (m_1 - m_2)^2 + S_1/N + S_1 + S_2 - 2 sqrt(S_1 S_2) c4(N), with c4 exact."""
    v1, v2 = 2.0, 0.5
    a = Reference(torch.tensor([0.7]).double(), torch.tensor([[v1]]).double(), 10**9)
    b = Reference(torch.tensor([0.0]).double(), torch.tensor([[v2]]).double(), 10**9)
    for n in (50, 500):
        c4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
        exact = v1 / n + 2 * math.sqrt(v1 * v2) * (1 - c4)
        assert abs(gaussian_bias(a, b, n) - exact) < 0.1 / n**2


def slope(a: Reference, b: Reference) -> torch.Tensor:
    """dFD/dS_1 = I - the transport map from N(a) to N(b)."""
    e, u = torch.linalg.eigh(b.cov)
    root = (u * e.sqrt()) @ u.T
    e, u = torch.linalg.eigh(root @ a.cov @ root)
    return torch.eye(len(e)).double() - root @ (u / e.sqrt()) @ u.T @ root


def test_bias_of_two_different_gaussians_is_seen_in_draws():
    """The part of FD that is linear in mean and covariance has mean 0 and is taken off first."""
    a, b, n = gaussian(8, 1, 0.3), gaussian(8, 2), 400
    g, h, truth = generator(3), slope(a, b), frechet(a, b)
    values = []
    for _ in range(150):
        found = Reference.of(draw(a, n, g))
        linear = 2 * (a.mean - b.mean) @ (found.mean - a.mean) + (h * (found.cov - a.cov)).sum()
        values.append(frechet(found, b) - truth - float(linear))
    mean = Estimate.of(values)
    assert abs(mean.value - gaussian_bias(a, b, n)) < 3 * mean.error + 0.02 * mean.value
    assert mean.error < 0.03 * mean.value  # the test can tell


def test_bias_at_64_features_is_the_size_that_matters():
    """At 250 pictures 4.6 too high, more than real models differ by."""
    g = generator(4)
    values = torch.stack(
        [fd_curve(draw(standard(64), 1000, g), standard(64), [250, 1000], g) for _ in range(8)]
    ).mean(0)
    assert values.tolist() == pytest.approx([4.59, 1.12], abs=0.05)


def test_curve_is_frechet_and_falls_with_n():
    a, b, g = gaussian(8, 1, 0.3), gaussian(8, 2), generator(5)
    feats = draw(a, 1200, g)
    curve = fd_curve(feats, b, [100, 400, 1200], generator(6))
    assert curve[2].item() == pytest.approx(frechet(Reference.of(feats), b), rel=1e-9)
    assert curve[0] > curve[1] > curve[2]


def test_fd_infinity_removes_the_bias_and_knows_its_error():
    """Over 30 sets of 300 draws: right on average, and off by as much as it says."""
    d, n = 16, 300
    a = gaussian(d, 7)
    b = Reference(a.mean + 0.05, 1.1 * a.cov, 10**9)  # near enough for the bias to dominate
    truth = frechet(a, b)
    found, plain = [], []
    for seed in range(30):
        feats = draw(a, n, generator(9, seed))
        found.append(extrapolate(feats, b, generator=generator(seed), draws=20))
        plain.append(frechet(Reference.of(feats), b))
    ends = Estimate.of([f.value for f in found])
    bias = Estimate.of(plain).value - truth
    assert bias > 10 * ends.error  # what it starts from
    assert abs(ends.value - truth) < 3 * ends.error + 0.05 * bias
    actual = torch.tensor([f.value for f in found]).std().item()
    claimed = sum(f.error for f in found) / len(found)
    assert 0.7 < claimed / actual < 1.6
    assert claimed == pytest.approx(torch.tensor(plain).std().item(), rel=0.5)


@pytest.mark.parametrize(("d", "n"), [(32, 300), (64, 400)])
def test_fd_infinity_of_many_equal_dimensions_is_not_bent_by_small_sizes(d, n):
    """N(m, I), |m|^2 = 1.6; down to n = N/6 the end would be 0.2 and 1.0 too low.

    What is left: the curve is d (1.25 c + q c^2), c = d/n, with q = 2 - 16/(3 pi) - 1/4 at c = 1
    (Marchenko & Pastur), so the line through 1/N and 2/N ends 2 q d^3/N^2 too low (0.04 and 0.17).
    """
    g = generator(21)
    law = Reference(torch.zeros(d).double(), torch.eye(d).double(), 10**9)
    shift = torch.full((d,), math.sqrt(1.6 / d)).double()
    ends = Estimate.of(
        [extrapolate(draw(law, n, g) + shift, law, generator=g, draws=2).value for _ in range(24)]
    )
    bend = (2 - 16 / (3 * math.pi) - 0.25) * d**3 / n**2
    assert -3 * ends.error - 2.1 * bend < ends.value - 1.6 < 3 * ends.error


def test_error_against_the_delta_method():
    """Var FD = (4 g'S_1 g + 2 tr (H S_1 H S_1)) / N, g = m_1 - m_2, H = I - the transport map."""
    d, n = 6, 2000
    a, b = gaussian(d, 10, 0.5), gaussian(d, 11)
    g, hs = a.mean - b.mean, slope(a, b) @ a.cov
    exact = math.sqrt(float(4 * g @ a.cov @ g + 2 * (hs @ hs).trace()) / n)
    feats = draw(a, n, generator(12))
    found = estimate(feats, b, generator(13), draws=150)
    assert found.value == pytest.approx(frechet(Reference.of(feats), b))
    assert found.error == pytest.approx(exact, rel=0.25) and found.n == n


def test_error_where_both_laws_agree():
    """FD is then all quadratic; redrawing with replacement would claim 1.7 times too much."""
    law = standard(8)
    found = [estimate(draw(law, 400, generator(14, s)), law, generator(s)) for s in range(40)]
    actual = torch.tensor([f.value for f in found]).std().item()
    assert 0.75 < sum(f.error for f in found) / 40 / actual < 1.45


def test_real_pictures_extrapolate_to_less_than_they_score():
    x = data.load("fashion", "test").x[:600]
    end, plain = fd_infinity(x, sizes=[150, 300, 600], draws=4), fd_estimate(x, draws=4)
    assert plain.value == fd(x) and plain.n == end.n == 600
    assert end.value < 0.5 * plain.value  # nearly all of it was the number of pictures
    assert fd_infinity(x, sizes=[150, 300, 600], draws=4) == end  # seeded


def test_errors_that_say_what_to_do():
    feats = torch.randn(100, 8)
    for sizes, message in [([8, 100], "more than the 8"), ([50, 101], "at most"), ([50], "two")]:
        with pytest.raises(ValueError, match=message):
            extrapolate(feats, standard(8), sizes)
    with pytest.raises(ValueError, match=r"\(N, 8\)"):
        estimate(torch.randn(100, 7), standard(8), generator(0))
    with pytest.raises(ValueError, match="four pictures"):
        estimate(torch.randn(3, 8), standard(8), generator(0))


def test_estimates_and_which_is_better():
    a, b = Estimate.of([1.0, 2.0, 3.0]), Estimate(1.9, 0.1, 50)
    assert (a.value, a.error, a.n) == (2.0, pytest.approx(1 / math.sqrt(3)), 3)
    gap = a - b
    assert gap.error == pytest.approx(math.hypot(a.error, 0.1)) and gap.n == 3
    assert Estimate(1.6449, 1.0, 9).sure == pytest.approx(0.95, abs=1e-4)
    assert Estimate(0.0, 0.0, 9).sure == 0.5
    assert compare(a, b, ("A", "B")) == "A and B cannot be told apart (difference 0.1 ± 0.59)"
    assert compare(Estimate(3, 0.3, 9), Estimate(1, 0.4, 9), ("A", "B")).startswith("B is lower")
    assert compare(Estimate(3, 0.3, 9), Estimate(1, 0, 9)).endswith("by 2 ± 0.3, over 99.9% sure")
    assert str(Estimate(1.2345, 0.1, 5000)) == "1.234 ± 0.1 (N = 5,000)"
    assert (Estimate(4.0, 0.2, 9) / 2).interval == pytest.approx((2 - 0.1959964, 2 + 0.1959964))
    with pytest.raises(ValueError, match="two values"):
        Estimate.of([1.0])


def test_numbers_are_no_estimates():
    with pytest.raises(ValueError, match="takes two Estimates, .* got float"):
        compare(1.2, 1.3)
    with pytest.raises(ValueError, match="got int"):
        compare(Estimate(1.0, 0.1, 3), 2)


def test_an_error_from_few_values_is_read_by_students_law():
    """P(T <= t) is (1 + t/sqrt(2 + t^2))/2 from three values, 1/2 + atan(t)/pi from two."""
    three, two = Estimate.of([1.0, 2.0, 3.0]), Estimate.of([1.0, 3.0])
    t = 2 * math.sqrt(3)
    assert three.sure == pytest.approx(0.5 * (1 + t / math.sqrt(2 + t * t)), abs=1e-6)
    assert two.sure == pytest.approx(0.5 + math.atan(2) / math.pi, abs=1e-6)
    assert three.interval[1] == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert two.interval[1] == pytest.approx(2 + 12.7062, abs=1e-3)
    gap = three - Estimate.of([7.0, 8.0, 9.0])  # Welch: equal errors add their freedom
    assert gap.freedom == pytest.approx(4)
    assert (three - Estimate(1.0, 0.0, 9)).freedom == pytest.approx(2)
    assert (Estimate(1.0, 0.0, 9) - Estimate(1.0, 0.0, 9)).freedom == math.inf
    # 2.5 errors apart: told apart where the error is known well, not where three seeds gave it
    for freedom, told in ((math.inf, True), (2, False)):
        text = compare(Estimate(0.0, 1.0, 9, freedom), Estimate(2.5, 0.0, 9))
        assert ("is lower than" in text) is told
    assert "cannot be told apart" in compare(Estimate(0.0, math.nan, 9), Estimate(2.5, 0.0, 9))


def test_intervals_of_three_values_hold_the_truth_as_often_as_they_say():
    """95% of 4,000 (to four standard errors of that share); 1.96 errors would hold 81%."""
    draws = torch.randn(4000, 3, generator=generator(0), dtype=torch.float64)
    width = Estimate.of([-1.0, 0.0, 1.0]).interval[1] * math.sqrt(3)  # in errors of three values
    mean, error = draws.mean(1), draws.std(1) / math.sqrt(3)
    assert ((mean.abs() < width * error).double().mean() - 0.95).abs() < 4 * (
        0.05 * 0.95 / 4000
    ) ** 0.5


# ---- pairs
@pytest.mark.parametrize("apart", [0.3, 0.0])
def test_the_error_of_a_paired_difference_is_its_scatter(apart):
    """400 times 300 pairs that share their noise: what is stated is what is seen.

    The error of 50 half-splits scatters itself by about a tenth, the measured deviation of 400
    draws by 1/sqrt(800) = 0.035.
    """
    g, d, n = generator(31), 6, 300
    law = gaussian(d, 32)
    found = []
    for _ in range(400):
        z = torch.randn(n, d, generator=g, dtype=torch.float64)
        own = [0.1 * torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2)]
        a, b = (1 + apart) * z + own[0] + apart, z + own[1]
        found.append((paired(a, b, law, g), estimate(a, law, g) - estimate(b, law, g)))
    values = torch.tensor([pair.value for pair, _ in found])
    stated = torch.tensor([pair.error for pair, _ in found])
    assert stated.mean().item() == pytest.approx(values.std().item(), rel=0.15)
    truth = values.mean().item()
    inside = sum(low <= truth <= high for low, high in (pair.interval for pair, _ in found))
    assert 0.90 < inside / 400 < 0.99
    independent = torch.tensor([loose.error for _, loose in found]).mean().item()
    assert independent > 1.3 * values.std().item()
    assert all(pair.value == pytest.approx(loose.value) for pair, loose in found)


def test_pairs_of_pictures_are_compared_in_their_features_row_by_row():
    x = data.load("digits").x[:200]
    noisy = x + 0.3 * torch.randn(x.shape, generator=generator(33))
    gap = fd_paired(noisy, x, "digits", generator(0))
    assert gap.value == pytest.approx(fd(noisy, "digits") - fd(x, "digits"), abs=1e-9)
    assert gap.n == 200 and gap.error > 0
    assert fd_paired(x, x, "digits") == Estimate(0.0, 0.0, 200)
    assert verdict(gap, ("noisy", "plain")).startswith("plain is lower than noisy by ")
    with pytest.raises(ValueError, match="as many pictures on both sides.*got 200 and 199"):
        fd_paired(x, x[1:], "digits")
    with pytest.raises(ValueError, match="verdict takes the difference.*got float"):
        verdict(0.3)
