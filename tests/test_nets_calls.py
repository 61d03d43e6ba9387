"""Other people's networks and grids: one line each, and a wrong form of call is refused."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, Same, randn
from torch import nn

from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.exact import Gaussian
from diffusion_lab.generate import SAMPLERS, generate
from diffusion_lab.grids import grid
from diffusion_lab.nets import by_timestep, times_of, times_of_sigmas, timesteps
from diffusion_lab.samplers import ddim
from diffusion_lab.schedules import EDM, VE, Linear, cosine, linear, zero_terminal_snr
from diffusion_lab.walk import sample, walk

S = linear(1000)


class Theirs(nn.Module):
    """A usual network, net(x, timestep): it writes down what it is told."""

    def __init__(self):
        super().__init__()
        self.seen, self.w = [], nn.Parameter(torch.ones(1))

    def forward(self, x, timestep):
        assert timestep.shape == (len(x),)
        self.seen.append(timestep[0].item())
        return self.w * x


@pytest.mark.parametrize("schedule", [S, cosine(1000), linear(50), zero_terminal_snr(S)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_time_of_the_grid_is_its_timestep(schedule, dtype):
    net = Theirs().to(dtype)
    d = NetDenoiser(by_timestep(net, schedule), schedule, "v")
    x = torch.zeros(2, 1, 1, 1, dtype=dtype)
    for j in range(schedule.T):
        d(x, (j + 1) / schedule.T)
    assert net.seen == list(range(schedule.T))
    net.seen.clear()
    for j in range(0, schedule.T, 7):
        d(x, torch.full((2,), (j + 1) / schedule.T, dtype=F64))
    assert net.seen == list(range(0, schedule.T, 7))


def test_a_plain_network_in_one_line():
    net = Theirs()
    d = NetDenoiser(by_timestep(net, S), S, "eps", shape=(3, 8, 8))
    sample(walk(ddim(), d, randn(2, 3, 8, 8).float(), grid(S, 5)))
    assert net.seen == [999, 799, 599, 399, 199]


def test_first_step_one_and_fractional_steps():
    net = Theirs()
    NetDenoiser(by_timestep(net, S, first=1), S, "v")(torch.zeros(2, 2), 0.3)
    NetDenoiser(by_timestep(net, S, exact=False), S, "v")(torch.zeros(2, 2), 0.3004)
    NetDenoiser(by_timestep(net, Linear(), T=500), Linear(), "v")(torch.zeros(2, 2), 0.3)
    assert net.seen == [300, pytest.approx(299.4, abs=2e-3), 149]
    with pytest.raises(ValueError, match="give T="):
        by_timestep(net, Linear())


def test_a_level_cleaner_than_the_first_step_is_the_first_step():
    """lambda above that of t = 1/T, and pure noise: steps 0 and T - 1, or 1 and T."""
    for first in (0, 1):
        for exact in (True, False):
            net = Theirs()
            told = by_timestep(net, S, first=first, exact=exact)
            for lam in (12.0, S.lam(1 / 1000), -12.0):
                told(torch.zeros(2, 2), torch.tensor([lam]))
            assert net.seen == pytest.approx([first, first, 999 + first], abs=1e-3)


def test_asked_through_another_schedule_it_stays_on_its_steps():
    net = Theirs()
    d = NetDenoiser(by_timestep(net, S), S, "eps", shape=(3, 4, 4))
    assert d.lam_range == (S.lam(1.0), S.lam(1 / 1000))
    generate(d.on(EDM(80.0)), 2, sampler="heun", steps=10)
    assert min(net.seen) == 0 and max(net.seen) <= 999
    assert NetDenoiser(Same(), zero_terminal_snr(S), "v").lam_range[0] == -math.inf
    assert NetDenoiser(Same(), linear(1), "v").lam_range is None
    assert NetDenoiser(Same(), Linear(), "v").lam_range is None


def test_the_exact_network_by_timestep_samples_the_law():
    data = Gaussian([0.5, -0.3], [[0.3, 0.1], [0.1, 0.2]])
    exact = data.denoiser(S)

    class Oracle(nn.Module):
        def forward(self, x, timestep):
            return (exact(x, (timestep[0].item() + 1) / 1000).eps,)  # a tuple, as some give

    d = NetDenoiser(by_timestep(Oracle(), S), S, "eps", shape=(2,))
    ours, theirs = (generate(one, 50, steps=20, seed=3).x for one in (exact, d))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_network_of_diffusers_in_one_line():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=4,
    ).eval()
    d = NetDenoiser(
        by_timestep(net, S, label="class_labels"), S, "eps", shape=(1, 8, 8), num_classes=3
    )
    label = torch.tensor([0, 1, 2])
    x = randn(3, 1, 8, 8).float()
    with torch.no_grad():
        theirs = net(x, 499, class_labels=label).sample
        assert torch.allclose(d(x, 0.5, label=label).out, theirs, atol=1e-6)
    for name in SAMPLERS:
        if name != "emsde":
            drawn = generate(d, 3, sampler=name, steps=3, label=label, scale=2.0, clip=(-1, 1))
            assert torch.isfinite(drawn.x).all(), name


class Odd(nn.Module):
    def forward(self, x, sigma, tokens=None):
        return x


def test_a_wrong_form_of_call_is_refused_at_construction():
    for net in (Theirs(), Odd(), nn.Identity(), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=r"calls net\(x, lam\).*nets.by_timestep"):
            NetDenoiser(net, S, "eps")
    told = NetDenoiser(Odd(), S, "v", form="lam")
    assert told(torch.zeros(2, 2), 0.5, tokens=torch.zeros(2)).out.shape == (2, 2)
    with pytest.raises(ValueError, match="unknown condition of this network 'token'.*Did you mean"):
        told(torch.zeros(2, 2), 0.5, token=1)
    with pytest.raises(ValueError, match="unknown form of call 'timestep'"):
        NetDenoiser(Odd(), S, "v", form="timestep")


def test_compiled_and_parallel_networks_are_looked_into():
    for wrap in (lambda net: torch.compile(net, backend="eager"), nn.DataParallel):
        d = NetDenoiser(wrap(Same()), S, "v")
        assert d(torch.ones(2, 2), 0.5).out.tolist() == [[1.0, 1.0], [1.0, 1.0]]
        with pytest.raises(ValueError, match="calls net"):
            NetDenoiser(wrap(Theirs()), S, "v")
    d = NetDenoiser(Same(), S, "v", shape=(2,))
    with pytest.raises(ValueError, match=r"model.net.compile\(\)") as told:
        generate(torch.compile(d, backend="eager"), 2)
    assert len(str(told.value)) < 200
    d.net.compile(backend="eager")
    assert torch.isfinite(generate(d, 2, steps=2).x).all()


def test_an_input_that_is_not_to_be_scaled():
    """A VE score network wants x_t as it is; EDM's c_in would divide by sigma."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x, lam):
            seen.append(x)
            return x

    x = torch.full((1, 2), 3.0)
    NetDenoiser(Spy(), VE(), "score", scale_input=False)(x, 1.0)
    NetDenoiser(Spy(), VE(), "score")(x, 1.0)
    assert torch.equal(seen[0], x) and torch.allclose(seen[1], x / math.hypot(1, 50))


# ---- their grids --------------------------------------------------------------------------------
def test_timesteps_and_sigmas_become_times():
    assert timesteps(S, 5) == [800, 600, 400, 200, 0]
    assert timesteps(S, 5, offset=1) == [801, 601, 401, 201, 1]
    assert timesteps(S, 5, "trailing") == [999, 799, 599, 399, 199]
    assert times_of([999, 499, 0], S) == [1.0, 0.5, 0.001, 0.0]
    assert times_of([999, 0], S, clean=False) == [1.0, 0.001]
    assert times_of_sigmas([80.0, 80 * 0.5**7, 0.0], EDM()) == pytest.approx([1.0, 0.5, 0.0])
    sigmas = [S.sigma(t) / S.alpha(t) for t in (1.0, 0.3, 0.001)]
    assert times_of_sigmas(sigmas, S) == pytest.approx([1.0, 0.3, 0.001])


def test_the_timesteps_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for spacing in ("leading", "trailing"):
        theirs = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=0)
        for steps in (1, 7, 50, 999, 1000):
            theirs.set_timesteps(steps)
            assert timesteps(S, steps, spacing) == theirs.timesteps.tolist(), (spacing, steps)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: times_of([1000], S), "lie in 0..999; got"),
        (lambda: times_of([3], Linear()), "timesteps of Linear"),
        (lambda: times_of_sigmas([500.0], S), "has no time with sigma/alpha = 500"),
        (lambda: timesteps(S, 1001), "1001 timesteps asked of"),
        (lambda: timesteps(S, 5, "linspaced"), "unknown spacing of timesteps"),
    ],
)
def test_grids_that_do_not_fit(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()
