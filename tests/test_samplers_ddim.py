"""DDIM walked upward, and the mixing of its noises. The step itself: test_samplers, test_peers."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from helpers import randn

from diffusion_lab.device import generator
from diffusion_lab.exact import ExactDenoiser, FiniteData, Gaussian, GaussianMixture
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim, ddpm, euler
from diffusion_lab.samplers.inversion import encode, slerp
from diffusion_lab.schedules import EDM, Cosine, Linear, Schedule, linear
from diffusion_lab.walk import sample, walk

F64 = torch.float64
LINEAR = linear(1000)
MIX = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=F64),
    torch.tensor([[-2.0], [1.0]], dtype=F64),
    torch.tensor([[[0.3]], [[0.5]]], dtype=F64),
)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_noise_share_keeps_the_marginals(eta):
    """Of x_t given x_0, along jumps of any length: the steps are linear in (eps, z), so exact."""
    point = FiniteData(torch.tensor([[1.5]], dtype=F64)).denoiser(LINEAR)
    times = [0.9, 0.899, 0.4, 0.15, 0.001]
    # columns: nothing, the noise at the start, and each of the four draws on its way
    x = LINEAR.alpha(times[0]) * 1.5 + LINEAR.sigma(times[0]) * torch.eye(6, dtype=F64)[1][:, None]

    def draw(i, like):
        return torch.eye(6, dtype=F64)[2 + i][:, None]

    for state in list(walk(ddim(eta), point, x, times, noise=draw))[1:]:
        alpha, sigma = LINEAR.alpha_sigma(state.s)
        assert state.x[0].item() == pytest.approx(alpha * 1.5, abs=1e-12)
        parts = state.x[1:] - state.x[0]
        assert parts.square().sum().sqrt().item() == pytest.approx(sigma, abs=1e-12)


def test_sigma_hat_has_the_mean_of_eta_one_and_the_noise_of_the_jump():
    """The paper's third setting is ``ddpm("large")``: variance 1 - abar_t / abar_s."""
    x, t, s = torch.tensor([[0.3], [-1.2]], dtype=F64), 0.5, 0.2
    d = MIX.denoiser(LINEAR)

    def jumped(step):  # with z = 0 and with z = 1
        draws = [lambda i, like, z=z: torch.full_like(like, z) for z in (0.0, 1.0)]
        return [sample(walk(step, d, x, [t, s], noise=draw)).x for draw in draws]

    calm, one = jumped(ddpm("large")), jumped(ddim(1.0))
    assert torch.allclose(calm[0], one[0], atol=1e-12)
    ratio = (LINEAR.alpha(t) / LINEAR.alpha(s)) ** 2
    noise = torch.full_like(x, math.sqrt(1 - ratio))
    assert torch.allclose(calm[1] - calm[0], noise, atol=1e-12)


def test_encode_and_decode_is_first_order():
    """The specification's rms on this mixture: 1/steps; 5% is the error of 4,000 draws."""
    x0, denoiser = MIX.sample(4000, generator(1)).to(F64), MIX.denoiser(LINEAR)
    for steps, expected in ((10, 0.409), (20, 0.205), (50, 0.082), (100, 0.041), (1000, 0.0041)):
        times = grid(LINEAR, steps, "linspace")
        up = sample(encode(denoiser, x0, times))
        assert up.nfe == steps - 1  # the move away from clean data asks nothing
        back = sample(walk(ddim(), denoiser, up.x, times)).x
        assert (back - x0).square().mean().sqrt().item() == pytest.approx(expected, rel=0.05)


def test_what_is_encoded_is_noise():
    x0 = MIX.sample(20_000, generator(2)).to(F64)
    z = sample(encode(MIX.denoiser(LINEAR), x0, grid(LINEAR, 1000))).x
    assert z.mean().item() == pytest.approx(0, abs=4 / 20_000**0.5)
    # first order at T = 1000 leaves a bias of 1e-2 beside the sampling error of sqrt(2/n)
    assert z.var().item() == pytest.approx(1, abs=4 * (2 / 20_000) ** 0.5 + 0.01)


@pytest.mark.parametrize("schedule", [LINEAR, EDM()], ids=repr)
def test_encoding_a_gaussian_is_its_flow(schedule):
    """For N(0, s^2) the ODE scales x: x_t = x_0 sqrt(alpha^2 s^2 + sigma^2) / s."""
    denoiser = Gaussian(torch.zeros(1, dtype=F64), 0.25 * torch.eye(1, dtype=F64)).denoiser(
        schedule
    )
    x0 = torch.tensor([[0.7], [-0.2]], dtype=F64)
    z = sample(encode(denoiser, x0, grid(schedule, 1000, "linspace"))).x
    alpha, sigma = schedule.alpha_sigma(1.0)
    exact = x0 * math.sqrt(alpha**2 * 0.25 + sigma**2) / 0.5
    assert torch.allclose(z, exact, rtol=0.02)


def test_a_single_picture_is_decoded_from_any_noise_in_any_number_of_steps():
    point = torch.rand(1, 1, 3, 3, dtype=F64, generator=generator(3))
    denoiser = FiniteData(point).denoiser(LINEAR)
    z = torch.randn(4, 1, 3, 3, dtype=F64, generator=generator(4))
    for steps in (1, 3, 50):
        x = sample(walk(ddim(), denoiser, z, grid(LINEAR, steps))).x
        assert torch.allclose(x, point.expand(4, -1, -1, -1), atol=1e-12)


def test_slerp_keeps_the_length_and_the_ends():
    a, b = torch.randn(2, 50, 1, 8, 8, dtype=F64, generator=generator(5))
    assert torch.allclose(slerp(a, b, 0.0), a) and torch.allclose(slerp(a, b, 1.0), b)
    a, b = (v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for v in (a, b))
    angle = (a * b).flatten(1).sum(1).acos()
    for share in (0.25, 0.5, 0.9):
        mixed = slerp(a, b, share)
        assert torch.allclose(mixed.flatten(1).norm(dim=1), torch.ones(50, dtype=F64))
        # at a share of the angle, and each sample on its own
        assert torch.allclose((a * mixed).flatten(1).sum(1).acos(), share * angle)
        assert torch.allclose(slerp(a[7:8], b[7:8], share), mixed[7:8])
    assert torch.allclose(slerp(a, a, 0.3), a)  # no angle: nothing divided by zero


def test_refused():
    x = torch.zeros(2, 1, dtype=F64)
    with pytest.raises(ValueError, match="must fall"):
        sample(encode(MIX.denoiser(LINEAR), x, [0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="one shape"):
        slerp(x, x[:1], 0.5)


# ---- levels of their own for each coordinate ----------------------------------------------------
class Apart(Schedule):
    """Two coordinates, each on a schedule of its own: levels are (1, 2) tensors."""

    def __init__(self, one, two):
        self._each = one, two

    def _logs(self, t):
        logs = zip(*(schedule.logs(t) for schedule in self._each))
        return tuple(torch.tensor([pair], dtype=torch.float64) for pair in logs)


@pytest.mark.parametrize("make", [ddim, partial(ddim, 0.6), ddpm, partial(ddpm, "large"), euler])
def test_steps_carry_levels_of_every_coordinate(make):
    """A product law walked with two schedules at once is each coordinate walked with its own."""
    schedules = Linear(), Cosine()
    laws = [Gaussian([m], [[v]]) for m, v in ((0.7, 0.3), (-0.4, 0.1))]
    m, v = torch.tensor([[0.7, -0.4]]).double(), torch.tensor([[0.3, 0.1]]).double()

    def mean(x, alpha, sigma):
        return m + alpha * v / (alpha**2 * v + sigma**2) * (x - alpha * m)

    both = ExactDenoiser(Apart(*schedules), mean)
    x, z = randn(6, 2), randn(9, 6, 2, seed=4)
    times = [1.0 - 0.05, 0.7, 0.4, 0.1, 0.0]
    together = sample(walk(make(), both, x, times, noise=lambda i, like: z[i])).x
    for k, (schedule, law) in enumerate(zip(schedules, laws)):
        one = walk(
            make(),
            law.denoiser(schedule),
            x[:, k : k + 1],
            times,
            noise=lambda i, like, k=k: z[i][:, k : k + 1],
        )
        assert torch.allclose(together[:, k : k + 1], sample(one).x, atol=1e-12)
