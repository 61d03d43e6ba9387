"""Sampling from the posterior p(x0 | y): against its closed form for Gaussian data."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion_lab.data.toys import product
from diffusion_lab.exact import Gaussian, GaussianMixture
from diffusion_lab.samplers import ddim, ddpm
from diffusion_lab.samplers.idsd import Given, from_noisy, langevin, levels, mmse, residual
from diffusion_lab.schedules import EDM, VE, Linear
from diffusion_lab.walk import Ask, gaussian, sample, walk

F64 = torch.float64
PRIOR = Gaussian([1.0], [[0.5]])
SIGMA0, Y = 0.8, -0.5
MEAN, VAR = 0.3421, 0.2807  # of p(x0 | y): (1/.5 + Y/.64)/(1/.5 + 1/.64) and 1/(1/.5 + 1/.64)
SCHEDULES = pytest.mark.parametrize("schedule", [VE(), EDM(20.0), Linear()], ids=repr)


def drawn(seed=0):
    return gaussian(torch.Generator().manual_seed(seed))


def noisy(n):
    return torch.full((n, 1), Y, dtype=F64)


@SCHEDULES
def test_the_one_call_answer_is_the_posterior_mean(schedule):
    assert mmse(PRIOR.denoiser(schedule), noisy(2), SIGMA0) == pytest.approx(
        torch.full((2, 1), MEAN), abs=5e-5
    )


def after(denoiser, x, times):
    """(mean, variance) at the end of an ancestral walk: each step is a x + b + S z."""
    mean, var = x[0].item(), 0.0
    for t, s in itertools.pairwise(times):
        points = torch.tensor([[0.0], [1.0], [0.0]], dtype=F64)
        z = torch.tensor([[0.0], [0.0], [1.0]], dtype=F64)
        out = ddpm()(Ask(denoiser, source=lambda i, like, z=z: z), points, t, s)[:, 0].tolist()
        k, noise = out[1] - out[0], out[2] - out[0]
        mean, var = out[0] + k * mean, k * k * var + noise * noise
    return mean, var


@SCHEDULES
def test_the_reverse_chain_from_y_has_the_posterior_as_its_limit(schedule):
    denoiser = PRIOR.denoiser(schedule)
    mean, var = after(denoiser, *from_noisy(denoiser, noisy(1), SIGMA0, 3000))
    assert mean == pytest.approx(MEAN, abs=0.001)
    assert var == pytest.approx(VAR, abs=0.001)


@pytest.mark.parametrize("steps,known", [(50, 0.2417), (20, 0.2016)])
def test_few_steps_with_the_small_variance_fall_short(steps, known):
    """As measured on geometric levels; the mean is right from the start."""
    denoiser = PRIOR.denoiser(Linear())
    mean, var = after(denoiser, *from_noisy(denoiser, noisy(1), SIGMA0, steps))
    assert mean == pytest.approx(MEAN, abs=0.003)
    assert var == pytest.approx(known, rel=0.03)


@pytest.mark.parametrize(
    "count,updates,rate,step,mean,var",
    [
        (20, 100, 0.5, "paper", MEAN, VAR),
        (20, 50, 0.3, "paper", 0.327, 0.281),
        (20, 50, 0.1, "paper", 0.310, 0.284),  # freezes before it has arrived
    ],
)
def test_langevin(count, updates, rate, step, mean, var):
    n = 3000
    sigmas = levels(SIGMA0, 0.01, count)
    run = langevin(
        PRIOR.denoiser(VE()), noisy(n), SIGMA0, sigmas, updates, rate=rate, step=step, noise=drawn()
    )
    out = sample(run)
    assert out.nfe == count * updates + 1
    assert out.x.mean() == pytest.approx(mean, abs=4 * math.sqrt(VAR / n))
    assert out.x.var() == pytest.approx(var, rel=4 * math.sqrt(2 / n) + 0.03)


def test_balanced_steps_do_not_freeze_as_early():
    n, off = 3000, {}
    for step in ("paper", "balanced"):
        run = langevin(
            PRIOR.denoiser(VE()),
            noisy(n),
            SIGMA0,
            levels(SIGMA0, 0.05, 10),
            20,
            rate=0.4,
            step=step,
            noise=drawn(),
        )
        off[step] = abs(sample(run).x.mean().item() - MEAN)
    assert off["balanced"] < 0.1
    assert off["paper"] < 0.1


def test_langevin_is_one_update_written_out():
    """One level, one update: x + a score + sqrt(2a) z, then D."""
    denoiser, sigma, rate = PRIOR.denoiser(VE()), 0.6, 0.4
    y, z = torch.tensor([[0.2], [1.5]], dtype=F64), torch.tensor([[0.7], [-0.3]], dtype=F64)
    a = rate * sigma**2
    best = PRIOR.x0(y, 1.0, sigma)
    score = (best - y) / sigma**2  # the second term is 0: x~ starts at y
    x = y + a * score + math.sqrt(2 * a) * z
    expected = PRIOR.x0(x, 1.0, sigma)
    run = langevin(denoiser, y, SIGMA0, [sigma], 1, rate=rate, noise=lambda i, like: z)
    assert torch.allclose(sample(run).x, expected, atol=1e-9)


def test_a_posterior_sample_has_twice_the_smallest_error():
    """E|x0 - sample|^2 = 2 E|x0 - E[x0|y]|^2 for exact posterior sampling (in many dimensions)."""
    toy, sigma0 = product(64), 0.8
    x0 = toy.sample(200, torch.Generator().manual_seed(0))
    y = x0 + sigma0 * torch.randn(200, 64, generator=torch.Generator().manual_seed(1), dtype=F64)
    denoiser = toy.denoiser(VE())
    best = (mmse(denoiser, y, sigma0) - x0).square().mean().item()
    draw = sample(walk(ddpm(), denoiser, *from_noisy(denoiser, y, sigma0, 300), noise=drawn())).x
    assert (draw - x0).square().mean().item() / best == pytest.approx(2, abs=0.08)


# ---- the denoiser that knows y ------------------------------------------------------------------
MIX = GaussianMixture([0.4, 0.6], [[-1.0], [1.5]], [[[0.3]], [[0.2]]])


@SCHEDULES
def test_given_is_bayes_rule(schedule):
    """E[x0 | x_t, y] by numerical integration over x0."""
    y = torch.tensor([[0.3], [-1.2]], dtype=F64)
    x_t = torch.tensor([[0.5], [0.1]], dtype=F64)
    t = schedule.t_of_lam(0.2)
    alpha, sigma = schedule.alpha_sigma(t)
    x0 = torch.linspace(-6, 6, 20001, dtype=F64)[:, None]
    prior = MIX.log_prob(x0)
    answer = Given(MIX.denoiser(schedule), y, 0.7)(x_t, t).x0
    for i in range(2):
        logs = prior - (x_t[i] - alpha * x0[:, 0]) ** 2 / (2 * sigma**2)
        logs = logs - (y[i] - x0[:, 0]) ** 2 / (2 * 0.7**2)
        weight = logs.softmax(0)
        assert answer[i].item() == pytest.approx((weight * x0[:, 0]).sum().item(), abs=1e-6)


def test_residual_has_the_posterior_about_the_predictor():
    """From pure noise, conditional on y, and around P(y): the same law as from y itself."""
    schedule, n = Linear(), 4000
    denoiser, centre = residual(PRIOR.denoiser(schedule), noisy(n), SIGMA0)
    start = torch.randn(n, 1, generator=torch.Generator().manual_seed(5), dtype=F64)
    times = [schedule.t_of_lam(-5 + 13 * i / 150) for i in range(150)] + [0.0]
    x = centre + sample(walk(ddpm(), denoiser, start, times, noise=drawn())).x
    assert x.mean() == pytest.approx(MEAN, abs=4 * math.sqrt(VAR / n))
    assert x.var() == pytest.approx(VAR, rel=4 * math.sqrt(2 / n) + 0.08)
    one = sample(walk(ddim(), denoiser, 0 * start, times)).x
    assert one.abs().max() < 1e-3, "the residual of the mean is 0"


# ---- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call,words",
    [
        (lambda d: mmse(d, noisy(1), 0.0), "standard deviation > 0; got 0.0"),
        (lambda d: mmse(d, noisy(1), 100.0), "outside of this schedule"),
        (lambda d: levels(0.8, 0.9, 5), "between 0 and sigma0=0.8; got 0.9"),
        (lambda d: levels(0.8, 0.1, 0), "whole number >= 1; got 0"),
        (
            lambda d: langevin(d, noisy(1), 0.8, levels(0.8, 0.1, 5), 3, noise=drawn(), step="pap"),
            "Did you mean 'paper'",
        ),
        (
            lambda d: langevin(d, noisy(1), 0.8, [0.5, 0.6], 3, noise=drawn()),
            "must fall from sigma0",
        ),
        (
            lambda d: langevin(d, noisy(1), 0.8, [0.5], 0, noise=drawn()),
            "updates must be a whole number >= 1; got 0",
        ),
        (lambda d: langevin(d, noisy(1), 90.0, [60.0], 1, noise=drawn()), "60 is outside.*at 50"),
        (lambda d: langevin(d, noisy(1), 0.8, [0.001], 1, noise=drawn()), "ends at 0.01"),
        (
            lambda d: langevin(d, noisy(1), 0.8, [0.99 * 0.8, 0.1], 20, noise=drawn(), rate=0.1),
            "would diverge",
        ),
    ],
)
def test_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(PRIOR.denoiser(VE()))


def test_given_takes_one_time_for_all():
    given = Given(PRIOR.denoiser(VE()), noisy(2), SIGMA0)
    with pytest.raises(ValueError, match="one time for all samples"):
        given(noisy(2), torch.tensor([0.2, 0.3]))
