"""Information left: closed forms, the I-MMSE relation, and limits."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.data.toys import grid, two_class
from diffusion_lab.device import generator
from diffusion_lab.exact import FiniteData, Gaussian, GaussianMixture
from diffusion_lab.metrics import information
from diffusion_lab.metrics.information import vp
from diffusion_lab.schedules import cosine, linear, make

LAM = torch.linspace(-6, 4, 41, dtype=torch.float64)


@pytest.mark.parametrize("v", [0.01, 0.25, 1.0, 9.0])
def test_gaussian_closed_forms(v):
    data, snr = Gaussian([0.7], [[v]]), torch.exp(2 * LAM)
    assert torch.allclose(information.data_bits(data, LAM), 0.5 * torch.log2(1 + v * snr))
    assert torch.allclose(information.mmse(data, LAM), v / (1 + v * snr))
    assert information.class_bits(data, LAM).abs().max() < 1e-12


def test_information_falls_as_fast_as_the_best_noise_prediction_errs():
    """dI/dlambda = SNR mmse in nats (a factor 2 or a log 2 would show)."""
    toy, h = two_class(), 1e-4
    slope = (information.data_bits(toy, LAM + h) - information.data_bits(toy, LAM - h)) / (2 * h)
    speed = torch.exp(2 * LAM) * information.mmse(toy, LAM)
    assert torch.allclose(slope * math.log(2), speed, atol=1e-6)


def test_two_points_are_the_binary_input_channel():
    """Two points at -1 and 1, no width: accuracy is Phi(sqrt(SNR)), class and data bits agree."""
    data = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], torch.zeros(2, 1, 1))
    lam = LAM[LAM < 1.5]
    accuracy = 0.5 * torch.erfc(-torch.exp(lam) / math.sqrt(2))
    assert torch.allclose(information.bayes_accuracy(data, lam), accuracy, atol=1e-5)
    both = information.class_bits(data, lam), information.data_bits(data, lam)
    assert torch.allclose(*both, atol=1e-8)


def test_limits_of_the_class():
    toy = two_class()
    bits = information.class_bits(toy, torch.tensor([-15.0, 15.0]))
    entropy = -(0.3 * math.log2(0.3) + 0.7 * math.log2(0.7))
    assert bits[0] < 1e-6 and 0.8 < bits[1] < entropy
    assert information.bayes_accuracy(toy, -15.0) == pytest.approx(0.7)


def test_level_inverts():
    toy = two_class()
    lam = information.level(lambda x: information.class_bits(toy, x), 0.4)
    assert float(information.class_bits(toy, lam)) == pytest.approx(0.4, abs=1e-8)
    with pytest.raises(ValueError, match="not among them"):
        information.level(lambda x: information.class_bits(toy, x), 5.0)


def test_a_schedule_moves_no_information():
    """The integral of the speed over t is the same for all schedules between the same ends."""
    toy, ends = two_class(), (-2.0, 2.0)
    wanted = float(information.data_bits(toy, ends[1]) - information.data_bits(toy, ends[0]))
    for schedule in (linear(), cosine(), make("sigmoid")):
        t = torch.linspace(schedule.t_of_lam(ends[1]), schedule.t_of_lam(ends[0]), 401).double()
        lam = schedule.lam(t)
        speed = torch.exp(2 * lam) * information.mmse(toy, lam)
        assert float(-torch.trapezoid(speed, lam)) / math.log(2) == pytest.approx(wanted, abs=1e-4)


@pytest.fixture
def pictures():
    g = generator(3)
    labels = torch.arange(40) % 4
    centres = torch.randn(4, 1, 4, 4, generator=g)
    return FiniteData(centres[labels] + 0.3 * torch.randn(40, 1, 4, 4, generator=g), labels)


def test_finite_limits(pictures):
    nothing = information.finite(pictures, -9.0, 200, generator(0))
    everything = information.finite(pictures, 6.0, 200, generator(0))
    assert nothing.picture_bits < 1e-4 and nothing.class_bits < 1e-4
    assert everything.picture_bits == pytest.approx(math.log2(40))
    assert everything.class_bits == pytest.approx(2) and everything.accuracy == pytest.approx(1)
    spread = pictures.flat - pictures.flat.mean(0)
    assert nothing.mmse == pytest.approx(float(spread.square().mean()), rel=1e-3)
    assert everything.mmse == pytest.approx(0, abs=1e-9)


def test_finite_agrees_with_the_integrals():
    data = GaussianMixture([0.5, 0.25, 0.25], [[-1.0], [0.5], [2.0]], torch.zeros(3, 1, 1))
    finite = FiniteData(torch.tensor([[-1.0], [-1.0], [0.5], [2.0]]), torch.tensor([0, 0, 1, 2]))
    for lam in (-1.0, 0.0, 1.0):
        left = information.finite(finite, lam, 40_000, generator(1))
        assert left.class_bits == pytest.approx(float(information.class_bits(data, lam)), abs=0.02)
        assert left.picture_bits == pytest.approx(left.class_bits, abs=0.02)
        assert left.accuracy == pytest.approx(
            float(information.bayes_accuracy(data, lam)), abs=0.01
        )
        assert left.mmse == pytest.approx(float(information.mmse(data, lam)), abs=0.02)


def test_repeating_pixels_is_a_shift_of_lambda(pictures):
    """Each pixel four times: the posterior at lambda is that of one at lambda + log 2."""
    alpha, sigma = (float(c) for c in vp(-0.5))
    wide = FiniteData(pictures.x.repeat_interleave(2, 2).repeat_interleave(2, 3), pictures.labels)
    g = generator(5)
    x_t = alpha * wide.x + sigma * torch.randn(wide.x.shape, generator=g)
    averaged = torch.nn.functional.avg_pool2d(x_t, 2)  # a sufficient statistic: noise std halves
    big = information.class_posterior(wide, x_t, alpha, sigma)
    small = information.class_posterior(pictures, averaged, alpha, sigma / 2)
    assert torch.allclose(big, small, atol=1e-4)


def test_refusals(pictures):
    with pytest.raises(ValueError, match="D = 1"):
        information.class_bits(grid(), 0.0)
    with pytest.raises(ValueError, match="labels"):
        information.finite(FiniteData(pictures.x), 0.0, 4, generator(0))
    with pytest.raises(ValueError, match="labels"):
        information.class_posterior(FiniteData(pictures.x), pictures.x, 0.8, 0.6)
