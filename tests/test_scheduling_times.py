"""DiffusionTimes: closed KLs, an optimum inside, and no gap with the exact auxiliary start."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion_lab import schedules
from diffusion_lab.bound import bounds, prior_term
from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian
from diffusion_lab.samplers import ddim
from diffusion_lab.scheduling import diffusion_times as dt
from diffusion_lab.walk import sample, walk

LINEAR = schedules.Linear()
TEN = [i / 10 for i in range(1, 11)]


def one_d():
    """KL(p_T || N(0, 1)) for N(2, .25) at T = .1 .. 1."""
    mean, cov, normal = torch.tensor([2.0]), torch.tensor([[0.25]]), Gaussian([0.0], [[1.0]])
    kls = [dt.gaussian_kl(dt.moments_at(LINEAR, t, mean, cov), normal) for t in TEN]
    return torch.tensor(kls, dtype=torch.float64)


def test_the_kl_that_a_shorter_noise_leaves():
    found = dict(zip(TEN, one_d().tolist(), strict=True))
    for t, wanted in {0.1: 2.014, 0.2: 1.410, 0.4: 0.397, 0.6: 0.0525, 0.8: 0.0032}.items():
        assert found[t] == pytest.approx(wanted, abs=6e-4)
    assert found[1.0] == pytest.approx(0.00009, abs=6e-6)


@pytest.mark.parametrize(
    ("rms", "time", "least", "whole"),
    [(0.05, 0.8, 0.0256, 0.0270), (0.1, 0.8, 0.0929, 0.1078), (0.2, 0.7, 0.343, 0.4309)],
)
def test_the_best_time_lies_inside(rms, time, least, whole):
    errors = torch.full((11,), rms**2, dtype=torch.float64)
    gaps = dt.gap(LINEAR, [1e-4, *TEN], errors)[1:]
    assert (gaps.diff() > 0).all()
    few = [0, 1, 3, 5, 6, 7, 9]  # the times at which these sums are known
    found, total = dt.best_time([TEN[i] for i in few], gaps[few], one_d()[few])
    assert found == time
    assert total == pytest.approx(least, rel=0.02)
    assert (gaps[-1] + one_d()[-1]).item() == pytest.approx(whole, rel=0.02)


def test_the_gap_is_the_integral_of_the_scores_distance():
    """1/2 int g^2 |score - score*|^2 dt, by a fine sum in t."""
    times = torch.linspace(0.05, 0.9, 4001, dtype=torch.float64)
    errors = 0.01 + 0.3 * times**2
    _, g2 = LINEAR.drift_diffusion(times)
    inside = 0.5 * g2 * errors / LINEAR.sigma(times) ** 2
    wanted = torch.cumulative_trapezoid(inside, times)[-1].item()
    assert dt.gap(LINEAR, times, errors)[-1].item() == pytest.approx(wanted, rel=1e-5)


def test_kl_of_two_gaussians():
    a = Gaussian([1.0, 0.0], [[0.5, 0.1], [0.1, 0.3]])
    b = Gaussian([0.0, 0.5], [[1.0, -0.2], [-0.2, 0.7]])
    x = a.sample(200_000, generator(0))
    gap = a.log_prob(x) - b.log_prob(x)
    error = gap.std().item() / len(x) ** 0.5
    assert dt.gaussian_kl(a, b) == pytest.approx(gap.mean().item(), abs=4 * error)
    assert dt.gaussian_kl(a, a) == pytest.approx(0, abs=1e-12)


def test_the_exact_start_leaves_no_gap_at_any_time():
    """Gaussian data: cross-entropy + KLs + decoder = the data's entropy, wherever it starts."""
    var, n = 0.25, 4000
    data = Gaussian(torch.tensor([2.0, -1.0]), var * torch.eye(2))
    x0 = data.sample(n, generator(0))
    entropy = 0.5 * math.log2(2 * math.pi * math.e * var)
    normal = Gaussian(torch.zeros(2), torch.eye(2))
    for T in (0.1, 0.3, 0.7):
        times = [T * (1 - i / 150) ** 2 for i in range(150)] + [0.0]
        options = {"noise": generator(1), "variances": ["best"], "levels": None}
        inner = bounds(data.denoiser(LINEAR), x0, times, **options)["best"].table.sum(0)
        nu = dt.moments_at(LINEAR, T, data.means[0], data.covs[0])
        with_nu, without = (dt.cross_entropy(x0, LINEAR, T, m, generator(2)) for m in (nu, normal))
        total = with_nu + inner
        error = total.std().item() / n**0.5
        assert total.mean().item() == pytest.approx(entropy, abs=4 * error + 0.01)
        kl = dt.gaussian_kl(nu, normal) / (2 * math.log(2))
        error = (without - with_nu).std().item() / n**0.5
        assert (without - with_nu).mean().item() == pytest.approx(kl, abs=4 * error)


def test_the_standard_start_is_the_bounds_prior_term():
    x0 = torch.randn(3000, 4, generator=generator(0))
    normal = Gaussian(torch.zeros(4), torch.eye(4))
    ours = dt.cross_entropy(x0, LINEAR, 0.3, normal, generator(1))
    exact = prior_term(x0, LINEAR, 0.3)
    error = (ours - exact).std().item() / 3000**0.5
    assert ours.mean().item() == pytest.approx(exact.mean().item(), abs=4 * error)


def test_one_gaussian_is_the_moments():
    x0 = toys.ring().sample(2000, generator(0)).reshape(2000, 1, 2)
    nu = dt.fit_start(x0, LINEAR, 0.4, generator=generator(1))
    alpha, sigma = LINEAR.alpha_sigma(0.4)
    flat = x0.flatten(1)
    assert torch.allclose(nu.means[0], alpha * flat.mean(0))
    assert torch.allclose(nu.covs[0], alpha**2 * torch.cov(flat.T) + sigma**2 * torch.eye(2))


def test_a_mixture_finds_a_mixture():
    """x_t of the two-class toy is a mixture of two: EM finds its parts, and it beats one."""
    toy, t = toys.two_class(), 0.2
    x0 = toy.sample(4000, generator(0))
    nu = dt.fit_start(x0, LINEAR, t, 2, generator=generator(1))
    alpha, sigma = LINEAR.alpha_sigma(t)
    order = nu.means[:, 0].argsort()
    assert torch.allclose(nu.means[order], alpha * toy.means, atol=0.1)
    assert torch.allclose(nu.weights[order], toy.weights, atol=0.05)
    assert (nu.covs > sigma**2 - 1e-9).all()
    one = dt.fit_start(x0, LINEAR, t, generator=generator(1))
    new = toy.sample(4000, generator(2))
    two_bits, one_bits = (
        dt.cross_entropy(new, LINEAR, t, m, generator(3)).mean() for m in (nu, one)
    )
    assert two_bits < one_bits


def test_a_short_walk_from_the_start():
    """p_T of N(m, S) as the start: DDIM lands on the data's moments, from N(0, I) it does not."""
    data, T = Gaussian([2.0], [[0.25]]), 0.3
    nu = dt.moments_at(LINEAR, T, data.means[0], data.covs[0])
    grid = dt.grid_from(LINEAR, T, 40)
    x = dt.start(nu, 20_000, (1,), generator(0))
    out = sample(walk(ddim(), data.denoiser(LINEAR), x, grid)).x
    assert out.mean().item() == pytest.approx(2.0, abs=0.02)
    assert out.std().item() == pytest.approx(0.5, rel=0.05)
    wrong = sample(walk(ddim(), data.denoiser(LINEAR), torch.randn(2000, 1), grid)).x
    assert wrong.mean().item() < 1.5


def test_grids_from_a_time():
    assert dt.grid_from(LINEAR, 0.4, 4) == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    low = LINEAR.t_of_lam(4.0)
    short = dt.grid_from(LINEAR, 0.1, 400, lam_range=(-3.0, 4.0))
    assert short[-2] == pytest.approx(low) and all(a > b for a, b in itertools.pairwise(short))


def test_bad_input():
    with pytest.raises(ValueError, match="diffusion time"):
        dt.grid_from(LINEAR, 1.5, 3)
    with pytest.raises(ValueError, match="cannot be asked above"):
        dt.grid_from(LINEAR, 1.0, 3, lam_range=(-3.0, 4.0))
    with pytest.raises(ValueError, match="too few"):
        dt.fit_start(torch.zeros(5, 2), LINEAR, 0.5, 3, generator=generator(0))
    with pytest.raises(ValueError, match="rise"):
        dt.gap(LINEAR, [0.5, 0.2], torch.zeros(2))
    with pytest.raises(ValueError, match="error >= 0"):
        dt.gap(LINEAR, [0.2, 0.5], torch.tensor([-1.0, 0.0]))
    with pytest.raises(ValueError, match="do not compare"):
        dt.gaussian_kl(Gaussian([0.0], [[1.0]]), Gaussian(torch.zeros(2), torch.eye(2)))


def test_a_grid_that_does_not_fit_begins_where_it_was_asked_to():
    """400 steps reach below the highest lambda: they are laid between both ends."""
    times = dt.grid_from(LINEAR, 0.1, 400, lam_range=(-3.0, 4.0))
    assert times[0] == pytest.approx(0.1) and LINEAR.lam(times[-2]) == pytest.approx(4.0)
    gaps = [a - b for a, b in itertools.pairwise(times[:-1])]
    assert gaps == pytest.approx([gaps[0]] * 399)
