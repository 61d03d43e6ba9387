"""The forward chain: its one step is the survey's eq 1, and its end is the jump."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion_lab.data.toys import two_class
from diffusion_lab.device import generator
from diffusion_lab.forward import chain, move, transition
from diffusion_lab.metrics.information import vp
from diffusion_lab.schedules import cosine, linear, make, zero_terminal_snr

SCHEDULES = [
    linear(),
    linear(50),
    cosine(),
    cosine(50),
    make("sigmoid"),
    make("ve"),
    make("edm"),
    zero_terminal_snr(linear(50)),
]
names = [repr(s) for s in SCHEDULES]


def test_neighbours_on_the_grid_are_the_survey_s_eq_1():
    schedule = linear(1000)
    for i, beta in zip(range(1, 1001), schedule.betas().tolist(), strict=True):
        kept, variance = transition(schedule, (i - 1) / 1000, i / 1000)
        assert kept == pytest.approx(math.sqrt(1 - beta), abs=1e-12)
        assert variance == pytest.approx(beta, abs=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=names)
def test_steps_compose_to_the_jump(schedule):
    """alpha multiplies up, variances add: from the state at 0 to that at 1 in 7 uneven steps."""
    times = [0.0, 0.02, 0.1, 0.3, 0.5, 0.74, 0.98, 1.0]
    alpha, variance = schedule.alpha(0.0), schedule.sigma(0.0) ** 2
    for s, t in itertools.pairwise(times):
        kept, added = transition(schedule, s, t)
        alpha, variance = kept * alpha, kept**2 * variance + added
        assert alpha == pytest.approx(schedule.alpha(t), abs=1e-10)
        assert variance == pytest.approx(schedule.sigma(t) ** 2, rel=1e-10)


@pytest.mark.parametrize(
    ("slip", "variance"),
    [
        (lambda x, b, z: (1 - b) * x + b * z, 0.01),  # roots forgotten: the noise dies out
        (lambda x, b, z: x + math.sqrt(b) * z, 10.5),  # shrinking forgotten: it grows
    ],
)
def test_slips_of_the_step_leave_the_variance_of_the_jump(slip, variance):
    g = generator(0)
    x = math.sqrt(0.5) * torch.randn(4000, generator=g, dtype=torch.float64)
    schedule, right = linear(1000), x
    wrong = x
    for i, beta in enumerate(schedule.betas().tolist(), 1):
        z = torch.randn(4000, generator=g, dtype=torch.float64)
        right, wrong = move(right, schedule, (i - 1) / 1000, i / 1000, z), slip(wrong, beta, z)
    assert float(right.var()) == pytest.approx(1, abs=0.1)
    assert float(wrong.var()) == pytest.approx(variance, rel=0.1)


def test_the_chain_has_the_exact_marginals_of_a_mixture():
    toy, schedule, g, n = two_class(), linear(50), generator(1), 40_000
    times = [i / 50 for i in range(51)]
    for t, x in zip(times, chain(toy.sample(n, g), schedule, times, g), strict=True):
        alpha, sigma = schedule.alpha_sigma(t)
        mean = float(toy.weights @ toy.means[:, 0])
        second = float(toy.weights @ (toy.covs[:, 0, 0] + toy.means[:, 0] ** 2))
        exact = alpha**2 * (second - mean**2) + sigma**2
        assert abs(float(x.mean()) - alpha * mean) < 5 * math.sqrt(exact / n)
        assert abs(float(x.var()) - exact) < 5 * exact * math.sqrt(2 / n)


def test_vp_is_the_inverse_of_lambda():
    lam = torch.linspace(-12, 12, 25, dtype=torch.float64)
    alpha, sigma = vp(lam)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(lam), atol=1e-15)
    assert torch.allclose((alpha / sigma).log(), lam, atol=1e-12)


def test_refusals():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="0 <= s < t <= 1"):
        transition(linear(), 0.5, 0.5)
    with pytest.raises(ValueError, match="one shape"):
        move(x, linear(), 0.0, 0.5, torch.zeros(2, 1))
