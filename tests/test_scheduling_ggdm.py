"""GGDM: DDIM at the start, right gradients, and samples that improve by another measure too."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab import grids, schedules
from diffusion_lab.data import toys
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian
from diffusion_lab.forward import posterior
from diffusion_lab.metrics.distances import sliced_w2
from diffusion_lab.nets import make as make_net
from diffusion_lab.samplers import ddim
from diffusion_lab.scheduling import ggdm
from diffusion_lab.scheduling.ggdm import GGDM
from diffusion_lab.walk import gaussian, sample, walk

SCHEDULES = [schedules.Linear(), schedules.linear(1000), schedules.EDM(20.0)]
RING = toys.ring()


def noise64(seed):
    gen = generator(seed)
    return lambda i, like: torch.randn(like.shape, generator=gen, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "table", "edm"])
@pytest.mark.parametrize(("eta", "steps"), [(0.0, 1), (0.0, 5), (0.6, 4), (1.0, 3)])
def test_it_starts_as_ddim(schedule, eta, steps):
    grid = grids.grid(schedule, steps, "lambda", lam_range=(-3.0, 4.0))
    denoiser = RING.denoiser(schedule)
    x = torch.randn(30, 2, generator=generator(0), dtype=torch.float64) * schedule.prior_std()
    wanted = sample(walk(ddim(eta), denoiser, x, grid, noise=noise64(1)), keep=True)
    ours = sample(GGDM(schedule, grid, eta).states(denoiser, x, noise64(1)), keep=True)
    assert ours.nfe == steps
    for a, b in zip(ours.path, wanted.path, strict=True):
        assert a.s == pytest.approx(b.s, abs=1e-10)
        assert torch.allclose(a.x, b.x, atol=1e-7 * schedule.prior_std())


def a_loss(sampler, seed=3):
    denoiser = RING.denoiser(sampler.schedule)
    x = torch.randn(40, 2, generator=generator(seed), dtype=torch.float64)
    *_, last = sampler.states(denoiser, x, noise64(seed + 1), grad=True)
    return ggdm.mmd2(last.x, RING.sample(40, generator(5)), ggdm.rbf(0.5, 1.0))


@pytest.fixture
def disturbed():
    """A sampler that stands nowhere special, in float64."""
    schedule = schedules.Linear()
    sampler = GGDM(schedule, grids.grid(schedule, 4, "lambda", lam_range=(-3.0, 3.0)), 0.4)
    gen = generator(9)
    with torch.no_grad():
        for p in sampler.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=gen, dtype=torch.float64))
    return sampler


def test_every_step_is_the_formula(disturbed):
    """x_s from all states so far, written out again with parameters that are nothing special."""
    denoiser = RING.denoiser(disturbed.schedule)
    with torch.no_grad():
        disturbed.history.copy_(torch.randn(4, 4, generator=generator(2), dtype=torch.float64) / 5)
    z = torch.randn(4, 7, 2, generator=generator(3), dtype=torch.float64)
    start = torch.randn(7, 2, generator=generator(4), dtype=torch.float64)
    states = list(disturbed.states(denoiser, start, lambda i, like: z[i]))
    path, times = [state.x for state in states], [state.s for state in states]
    for k in range(4):
        (p, q), eta, row = (
            c[k].tolist() for c in (disturbed.scales, disturbed.eta, disturbed.history)
        )
        at_s = disturbed.schedule.alpha_sigma(times[k + 1])
        answer = denoiser(path[k], times[k])
        std = eta * posterior(disturbed.schedule, *times[k : k + 2]).var ** 0.5
        x = p * at_s[0] * answer.x0
        x = x + q * (at_s[1] ** 2 - std**2) ** 0.5 * answer.eps + std * z[k]
        for j in range(k + 1):
            x = x + row[j] * path[j]
        assert torch.allclose(path[k + 1], x, atol=1e-9)


def test_gradients_are_those_of_finite_differences(disturbed):
    a_loss(disturbed).backward()
    h = 1e-5
    for name, place in (("gaps", 1), ("eta", 0), ("scales", (2, 1)), ("history", (3, 1))):
        p = getattr(disturbed, name)
        with torch.no_grad():
            values = []
            for move in (h, -2 * h):
                p[place] += move
                values.append(a_loss(disturbed).item())
            p[place] += h
        slope = (values[0] - values[1]) / (2 * h)
        assert p.grad[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-8), name


def test_recomputing_changes_no_gradient(disturbed, monkeypatch):
    a_loss(disturbed).backward()
    found = [p.grad.clone() for p in disturbed.parameters()]
    disturbed.zero_grad()
    monkeypatch.setattr(ggdm, "checkpoint", lambda f, *given, use_reentrant: f(*given))
    a_loss(disturbed).backward()
    for a, p in zip(found, disturbed.parameters(), strict=True):
        assert torch.equal(a, p.grad)


def test_gradients_at_the_start_are_finite():
    """eta = 0, the last step's sigma = 0, and equal points in the kernel: roots of 0."""
    schedule = schedules.Linear()
    sampler = GGDM(schedule, grids.grid(schedule, 3))
    denoiser = RING.denoiser(schedule)
    x = torch.randn(8, 2, generator=generator(0)).repeat(2, 1)
    *_, last = sampler.states(denoiser, x, gaussian(generator(1)), grad=True)
    ggdm.mmd2(last.x.repeat(2, 1), last.x, ggdm.rbf(0.1, 1.0)).backward()
    assert all(p.grad.isfinite().all() for p in sampler.parameters())


def test_a_linear_kernel_sees_means_only():
    x, y = (torch.randn(60, 5, generator=generator(i), dtype=torch.float64) for i in (0, 1))
    # |m_x - m_y|^2 / D without the pairs of a point with itself
    linear = ggdm.mmd2(x, y, lambda a, b: a @ b.T / 5).item()
    spread = sum(a.var(0).sum() / len(a) for a in (x, y))
    wanted = ((x.mean(0) - y.mean(0)).square().sum() - spread) / 5
    assert linear == pytest.approx(wanted.item(), abs=1e-9)


def test_the_network_stays_frozen():
    """Neither its weights nor their gradients are touched, though gradients go through it."""
    net = make_net("mlp", width=16, depth=2)
    torch.nn.init.normal_(net.last.weight, std=0.2, generator=generator(1))
    before = [p.detach().clone() for p in net.parameters()]
    denoiser = NetDenoiser(net, schedules.Linear(), "eps")
    sampler = GGDM(denoiser.schedule, grids.grid(denoiser.schedule, 3))
    start = sampler.gaps.detach().clone()
    list(ggdm.fit(sampler, denoiser, RING.sample(50, generator(0)).float(), generator(2), steps=2))
    assert not torch.equal(sampler.gaps, start)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_without_bias():
    """Two draws of one law: 0 on average (the standard error of 200 repetitions decides)."""
    gen = generator(0)
    values = [
        ggdm.mmd2(*torch.randn(2, 20, 2, generator=gen), ggdm.rbf(0.3, 1.0)).item()
        for _ in range(200)
    ]
    values = torch.tensor(values)
    assert abs(values.mean()) < 4 * values.std() / 200**0.5


def test_three_steps_become_good():
    """Times help, coefficients much more; judged with fresh noise and by another measure too."""
    schedule = schedules.Linear()
    grid = grids.grid(schedule, 3)
    denoiser = RING.denoiser(schedule)
    real = RING.sample(20_000, generator(0)).float()
    test = RING.sample(4000, generator(1)).float()
    x = torch.randn(4000, 2, generator=generator(2))
    found = {}
    for name, learn in {"none": None, "times": ("times", "eta"), "all": ggdm.LEARNABLE}.items():
        sampler = GGDM(schedule, grid, learn=learn or ())
        if learn:
            losses = list(
                ggdm.fit(
                    sampler,
                    denoiser,
                    real,
                    generator(3),
                    steps=80,
                    batch=128,
                    lr=0.05,
                    kernel=ggdm.rbf(0.1, 0.3, 1.0),
                )
            )
            assert len(losses) == 80
        drawn = sample(sampler.states(denoiser, x, gaussian(generator(4)))).x
        square = ggdm.mmd2(drawn, test, ggdm.rbf(0.1, 0.3, 1.0)).item()
        found[name] = square, sliced_w2(drawn, test, generator(5))

    assert found["times"][0] < 0.8 * found["none"][0]
    assert found["all"][0] < 0.3 * found["none"][0]
    assert found["all"][1] < 0.7 * found["none"][1]


def test_one_step_reaches_the_variance_of_a_gaussian():
    """x_0 = p x0_hat + H x is any multiple of x: DDIM's one step has far too little variance."""
    schedule, s2 = schedules.Linear(), 0.25
    data = Gaussian([0.0], [[s2]])
    denoiser, start = data.denoiser(schedule), torch.randn(20_000, 1, generator=generator(1))
    sampler = GGDM(schedule, [1.0, 0.0])
    assert sample(sampler.states(denoiser, start)).x.var().item() < 1e-3
    for _ in ggdm.fit(
        sampler,
        denoiser,
        data.sample(20_000, generator(0)).float(),
        generator(2),
        steps=150,
        kernel=ggdm.rbf(0.3, 1.0),
        lr=0.02,
    ):
        pass
    var = sample(sampler.states(denoiser, start, gaussian(generator(3)))).x.var().item()
    assert var == pytest.approx(s2, rel=0.1)


def test_outside_is_the_mean_square_of_what_exceeds_the_range():
    x = torch.tensor([[0.5, -1.0, 1.5], [-3.0, 1.0, 0.0]])
    assert ggdm.outside(x).item() == pytest.approx((0.5**2 + 2**2) / 6)


def fitted(data, rounds, **given):
    """What one step of N(0, s2) data becomes: the sampler after each round."""
    schedule = schedules.Linear()
    sampler = GGDM(schedule, [1.0, 0.0])
    real = data.sample(5000, generator(0)).float()
    for _ in ggdm.fit(
        sampler,
        data.denoiser(schedule),
        real,
        generator(2),
        steps=rounds,
        kernel=ggdm.rbf(0.5, 2.0),
        **given,
    ):
        yield sampler


def test_a_weight_on_the_overshoot_keeps_samples_in_the_range():
    """Data of standard deviation 2 lie outside [-1, 1]: MMD alone goes there, its price holds."""
    data, start = Gaussian([0.0], [[4.0]]), torch.randn(2000, 1, generator=generator(1))
    over = {}
    for weight in (0.0, 10.0):
        *_, sampler = fitted(data, 60, lr=0.05, overshoot=weight)
        drawn = sample(
            sampler.states(data.denoiser(sampler.schedule), start, gaussian(generator(3)))
        )
        over[weight] = ggdm.outside(drawn.x).item()
    assert over[0.0] > 0.5 and over[10.0] < 0.1 * over[0.0]


def test_a_rate_that_cools_halves_the_last_of_four_steps():
    """The factor of round i of n is min(1, 2 (1 - i/n)): 1, 1, 1, 1/2."""
    data, ends = Gaussian([0.0], [[0.25]]), {}
    for cool in (False, True):
        walked = [s.history.item() for s in fitted(data, 4, lr=0.02, cool=cool)]
        ends[cool] = walked[2], walked[3] - walked[2]
    assert ends[True][0] == ends[False][0] and ends[False][1] != 0
    assert ends[True][1] == pytest.approx(ends[False][1] / 2, rel=1e-9)


def test_bad_input():
    schedule = schedules.Linear()
    with pytest.raises(ValueError, match="end at 0"):
        GGDM(schedule, [1.0, 0.5])
    with pytest.raises(ValueError, match="eta"):
        GGDM(schedule, [1.0, 0.0], 2.0)
    with pytest.raises(ValueError, match="unknown part to learn 'time'"):
        GGDM(schedule, [1.0, 0.0], learn=["time"])
    with pytest.raises(ValueError, match="start lower"):
        GGDM(schedules.Cosine(), [1.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="draws noise"):
        next(GGDM(schedule, [1.0, 0.0], 0.5).states(RING.denoiser(schedule), torch.zeros(2, 2)))
    with pytest.raises(ValueError, match="nothing to learn"):
        frozen = GGDM(schedule, [1.0, 0.5, 0.0], learn=())
        next(ggdm.fit(frozen, RING.denoiser(schedule), torch.zeros(9, 2), generator(0)))
    with pytest.raises(ValueError, match="weight of the overshoot"):
        next(fitted(Gaussian([0.0], [[1.0]]), 1, overshoot=-1.0))
    with pytest.raises(ValueError, match="at least two"):
        ggdm.mmd2(torch.zeros(1, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="widths > 0"):
        ggdm.rbf(0.0)


@pytest.mark.parametrize("steps", [2, 5])
def test_it_counts_the_numbers_that_move_the_samples(steps):
    """By gradients: a number without one does nothing."""
    sampler = GGDM(SCHEDULES[0], grids.grid(SCHEDULES[0], steps), eta=0.5)
    with torch.no_grad():
        sampler.history.add_(0.1)
    x = torch.randn(4, 2, generator=generator(0), dtype=torch.float64)
    *_, last = sampler.states(RING.denoiser(SCHEDULES[0]), x, noise64(1), grad=True)
    slopes = torch.autograd.grad(last.x.square().sum(), list(sampler.parameters()))
    assert sampler.learned() == sum(int((slope != 0).sum()) for slope in slopes)
    assert GGDM(SCHEDULES[0], grids.grid(SCHEDULES[0], 5)).learned() == 33
    assert GGDM(SCHEDULES[0], grids.grid(SCHEDULES[0], 10)).learned() == 93
