"""The adaptive SDE solver against exact laws, its own limits, and its accounts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import F64, randn

from diffusion_lab.data.toys import product
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator
from diffusion_lab.exact import ExactDenoiser, Gaussian
from diffusion_lab.generate import generate
from diffusion_lab.samplers import emsde
from diffusion_lab.samplers.emsde import AdaptiveState
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, linear
from diffusion_lab.walk import gaussian, sample, walk

VP = Linear()
ENDS = [1.0, 1e-3, 0.0]


def drawn(seed=0):
    return gaussian(torch.Generator().manual_seed(seed))


def silent(i, like):
    return torch.zeros_like(like)


def recorded(i, like):
    return randn(*like.shape, seed=1000 + i)


def data(s2=0.25, dim=1, mean=0.5):
    return Gaussian([mean] * dim, (s2 * torch.eye(dim, dtype=F64)).tolist())


# ---- what a step is -----------------------------------------------------------------------------
def test_one_fixed_step_is_the_papers():
    """x' and x'' written out once more, with the drift from the exact score."""
    toy, h, t = data(), 0.05, 0.7
    x, z = randn(5, 1), randn(5, 1, seed=1000)

    def drift(x, t):
        f, g2 = (c.item() for c in VP.drift_diffusion(torch.tensor(t)))
        return f * x - g2 * toy.score(x, *VP.alpha_sigma(t)), math.sqrt(g2)

    d, g = drift(x, t)
    euler = x - h * d + math.sqrt(h) * g * z
    d, g = drift(euler, t - h)
    other = x - h * d + math.sqrt(h) * g * z
    states = walk(emsde(fixed=h), toy.denoiser(VP), x, [t, t - h], noise=recorded)
    assert torch.allclose(list(states)[-1].x, (euler + other) / 2, atol=1e-12)


def test_without_noise_a_fixed_step_is_of_second_order():
    """z = 0 leaves the ODE dx = D dt, for Gaussian data dx/dt = (f + g^2/V) x about the mean 0."""
    toy = data(mean=0.0)
    start, end = 0.8, 0.1

    def rate(t):
        f, g2 = VP.drift_diffusion(t)
        alpha, sigma = VP.alpha_sigma(t)
        return f + g2 / (0.25 * alpha**2 + sigma**2)

    t = torch.linspace(start, end, 20001, dtype=F64)
    factor = torch.trapezoid(rate(t), t).exp()
    errors = []
    for n in (50, 100, 200):
        step = emsde(fixed=(start - end) / n)
        x = sample(walk(step, toy.denoiser(VP), randn(4, 1), [start, end], noise=silent)).x
        errors.append((x - factor * randn(4, 1)).abs().max().item())
    for few, many in itertools.pairwise(errors):
        assert math.log2(few / many) == pytest.approx(2, abs=0.2)


def test_a_tight_tolerance_takes_the_steps_of_a_fixed_one():
    """Whatever the tolerance, an accepted step is the fixed step of that length and that noise."""
    toy, x = data(dim=3), randn(1, 3)
    states = list(walk(emsde(rel=0.05), toy.denoiser(VP), x, [1.0, 0.5], noise=recorded))
    assert sum(s.rejected.item() for s in states[-1:]) < len(states) - 1
    for i, (a, b) in enumerate(itertools.pairwise(states)):
        h, t = b.tried.item(), a.times.item()
        one = walk(
            emsde(fixed=h),
            toy.denoiser(VP),
            a.x,
            [t, max(t - h, 0.5)],
            noise=lambda _, like, i=i: recorded(i, like),
        )
        accepted = b.rejected.item() == a.rejected.item()
        assert accepted == (b.error.item() <= 1)
        assert torch.allclose(b.x, list(one)[-1].x if accepted else a.x, atol=1e-9)


# ---- the law ------------------------------------------------------------------------------------
def test_the_law_in_many_dimensions():
    """64 coordinates, each N(.5, .25): mean and variance of 300 x 64 numbers to 4 standard errors
    and the solver's own error (stated by rel)."""
    toy = data(dim=64)
    x = sample(walk(emsde(rel=0.02), toy.denoiser(VP), randn(300, 64), ENDS, noise=drawn())).x
    n = x.numel()
    assert x.mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / n) + 0.005)
    assert x.var() == pytest.approx(0.25, rel=4 * math.sqrt(2 / n) + 0.02)


def test_error_against_tolerance():
    """A tighter tolerance costs more calls and leaves a smaller error, on one and the same path."""
    toy, x = data(dim=16), randn(20, 16)

    def end(rel, abs):
        step = emsde(rel=rel, abs=abs, path=512)
        return list(walk(step, toy.denoiser(VP), x, [0.9, 0.1], noise=recorded))[-1]

    truth = list(
        walk(emsde(fixed=0.8 / 512, path=512), toy.denoiser(VP), x, [0.9, 0.1], noise=recorded)
    )[-1]
    ends = [end(rel, rel / 5) for rel in (0.2, 0.05, 0.0125)]
    errors = [(e.x - truth.x).square().mean().sqrt().item() for e in ends]
    assert ends[0].nfe < ends[1].nfe < ends[2].nfe
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2]


def test_rejection_with_fresh_noise_biases_few_dimensions_and_a_kept_path_does_not():
    """1-D, coarse tolerance: rejections favour small noise. With the path kept the variance is
    right; without, it is off by several standard errors."""
    toy, n = data(s2=1.0, mean=0.0), 6000
    x = randn(n, 1)
    error = math.sqrt(2 / n)
    off = {}
    for path in (None, 512):
        step = emsde(rel=0.01, abs=0.02, path=path, most=5000)
        last = list(walk(step, toy.denoiser(VP), x, [0.5, 0.01], noise=drawn(3)))[-1]
        assert last.rejected.double().mean() > 5
        off[path] = abs(last.x.var().item() - 1.0) / error
    assert off[None] > 5
    assert off[512] < 4


def test_dimension_makes_rejections_rare():
    """The error estimate averages over dimensions: the mean of many is steadier than one."""
    rejected = {}
    for dim in (2, 128):
        toy = product(dim)
        run = walk(emsde(rel=0.05), toy.denoiser(VP), randn(60, dim), ENDS, noise=drawn())
        last = list(run)[-1]
        rejected[dim] = last.rejected.double().mean().item()
    assert rejected[128] < rejected[2] / 2


# ---- the accounts -------------------------------------------------------------------------------
def test_every_trial_is_two_calls_of_its_sample():
    toy = product(8)
    inner = toy.denoiser(VP)
    asked = torch.zeros((), dtype=torch.int64)

    def formula(x, alpha, sigma):
        asked.add_(len(x))
        return inner.formula(x, alpha, sigma)

    states = list(walk(emsde(), ExactDenoiser(VP, formula), randn(20, 8), ENDS, noise=drawn()))
    last = states[-1]
    assert isinstance(last, AdaptiveState)
    assert asked.item() == last.calls.sum().item(), "samples that have arrived are not asked again"
    assert last.calls.min() < last.calls.max(), "each has its own steps"
    tried = torch.stack([s.tried > 0 for s in states]).sum(0)
    assert torch.equal(last.calls, 2 * tried + 1)
    accepted = sum((b.times < a.times).long() for a, b in itertools.pairwise(states[:-1]))
    assert torch.equal(last.rejected, tried - accepted)
    assert last.nfe == math.ceil(last.calls.double().mean().item())
    assert (last.times == 0).all()
    assert (states[-2].times == 1e-3).all(), "never asked below the grid's last time"


def test_one_sample_does_not_hang_on_the_others():
    """Per-sample steps: the same sample and noise, in a batch or another, the same end."""
    toy = data(dim=4)
    x = randn(6, 4)

    def of(rows):
        def noise(i, like):
            return randn(6, 4, seed=i)[rows]

        return list(walk(emsde(), toy.denoiser(VP), x[rows], ENDS, noise=noise))[-1]

    whole, part = of(torch.arange(6)), of(torch.tensor([4, 1]))
    assert torch.allclose(whole.x[[4, 1]], part.x, atol=1e-12)
    assert torch.equal(whole.calls[[4, 1]], part.calls)


def test_labels_follow_the_samples_still_under_way():
    toy = product(1)
    mixture = toy.one if hasattr(toy, "one") else None
    from diffusion_lab.data.toys import two_class

    mixture = mixture or two_class()
    label = torch.tensor([0, 1] * 30)
    run = walk(emsde(), mixture.denoiser(VP), randn(60, 1), ENDS, noise=drawn(), label=label)
    x = sample(run).x[:, 0]
    assert x[label == 0].mean() == pytest.approx(-2, abs=4 * math.sqrt(0.3 / 30) + 0.05)
    assert x[label == 1].mean() == pytest.approx(1, abs=4 * math.sqrt(0.5 / 30) + 0.05)


def test_a_number_as_a_condition_is_told_to_all():
    """A tensor without dimensions has no rows to follow the samples still under way."""
    told = ExactDenoiser(VP, lambda x, alpha, sigma, *, to: torch.zeros_like(x) + to, shape=(2,))
    drawn = generate(told, 4, sampler="emsde", condition={"to": torch.tensor(0.25)})
    assert torch.equal(drawn.x, torch.full((4, 2), 0.25))


@pytest.mark.parametrize("schedule", [linear(1000), VE(0.01, 20.0), EDM(20.0)], ids=repr)
def test_other_schedules(schedule):
    toy = data(dim=32)
    x = schedule.prior_std() * randn(60, 32)
    last = schedule.t_of_lam(math.log(100))
    times = [1.0, 0.0] if isinstance(schedule, VE) else [1.0, last, 0.0]
    x = sample(walk(emsde(rel=0.02), toy.denoiser(schedule), x, times, noise=drawn())).x
    n = x.numel()
    assert x.mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / n) + 0.01)
    assert x.var() == pytest.approx(0.25, rel=4 * math.sqrt(2 / n) + 0.04)


def test_generate_carries_it_to_the_last_time_that_can_be_asked():
    """Whatever ``steps`` says: down to 1/T on T steps, and its mean number of calls is the NFE."""
    toy = data(dim=16).denoiser(linear(1000))
    one, two = (generate(toy, 12, sampler="emsde", steps=s, seed=3, keep=True) for s in (2, 50))
    assert torch.equal(one.x, two.x)
    assert (one.path[-2].times == 1e-3).all()
    assert one.nfe == math.ceil(one.path[-1].calls.double().mean().item()) > 20
    assert abs(generate(toy, 12, sampler="emsde", seed=3, batch=5).nfe - one.nfe) < 0.3 * one.nfe


@pytest.mark.parametrize("high", [None, 3.0])
def test_the_last_call_is_tweedies_formula(high):
    """VE: at its own smallest sigma, or at the last level that the denoiser knows."""
    schedule = VE(0.01, 20.0)
    denoiser = data(dim=4).denoiser(schedule)
    last = 0.0
    if high is not None:
        denoiser.lam_range, last = (-math.log(20.0), high), schedule.t_of_lam(high)
    times = [1.0, 0.0] if high is None else [1.0, last, 0.0]
    states = list(walk(emsde(), denoiser, 20 * randn(3, 4), times, noise=drawn()))
    assert (states[-2].times == last).all() and states[-1].s == 0
    assert torch.equal(states[-1].x, denoiser(states[-2].x, last).x0)
    assert torch.equal(states[-1].calls, states[-2].calls + 1)


# ---- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options,words",
    [
        ({"rel": 0.0}, "tolerances must be > 0; got rel=0.0"),
        ({"abs": -1.0}, "abs=-1.0"),
        ({"rel": math.nan}, "rel=nan"),
        ({"first": 0.0}, r"first is a step in t and must lie in \(0, 1\]; got 0.0"),
        ({"fixed": 2.0}, "fixed is a step"),
        ({"path": 0}, "path must be a whole number >= 1; got 0"),
        ({"most": 1.5}, "most must be a whole number >= 1; got 1.5"),
    ],
)
def test_refused(options, words):
    with pytest.raises(ValueError, match=words):
        emsde(**options)


def test_it_says_so_and_stops_where_the_tolerance_cannot_be_reached():
    step = emsde(rel=1e-9, abs=1e-9, most=25)
    run = walk(step, data().denoiser(VP), randn(3, 1), ENDS, noise=drawn())
    words = r"after 25 rounds of trials 3 of 3 samples are still under way.*cannot be reached"
    with pytest.raises(RuntimeError, match=words):
        sample(run)


def test_nan_is_named_where_it_comes_up():
    denoiser = ExactDenoiser(VP, lambda x, *_: x * math.nan)
    with pytest.raises(FloatingPointError, match=r"not finite in round 1 \(t = 1\)"):
        sample(walk(emsde(), denoiser, randn(3, 1), ENDS, noise=drawn()))


def test_a_start_without_a_finite_drift_is_refused():
    with pytest.raises(ValueError, match="infinite at t = 1: start the grid lower"):
        sample(walk(emsde(), data().denoiser(Cosine()), randn(3, 1), ENDS, noise=drawn()))


def test_a_grid_without_a_time_to_stop_at_is_refused():
    with pytest.raises(ValueError, match="needs a time between.*two steps or more"):
        sample(walk(emsde(), data().denoiser(VP), randn(3, 1), [1.0, 0.0], noise=drawn()))


def test_what_does_not_fit_an_adaptive_walk_is_refused():
    toy = data().denoiser(VP)
    for how in ({"project": lambda x, s: x}, {"grad": True}):
        with pytest.raises(ValueError, match="chooses its own times"):
            walk(emsde(), toy, randn(3, 1), ENDS, noise=drawn(), **how)
    with pytest.raises(ValueError, match="chooses its own times"):
        walk(emsde(), toy, randn(3, 1), lambda state: None, noise=drawn())
    with pytest.raises(ValueError, match="draws noise"):
        sample(walk(emsde(), toy, randn(3, 1), ENDS))


def test_a_network_that_knows_the_last_level_is_asked_there():
    """VE ends at sigma_min > 0: a range of lambda that ends there holds t = 0."""
    ve = VE()

    class Zero(torch.nn.Module):
        def forward(self, x, lam):
            return torch.zeros_like(x)

    net = NetDenoiser(Zero(), ve, "edm", lam_range=(ve.lam(1.0), ve.lam(0.0)))
    x = 50 * torch.randn(4, 2, generator=generator(0))
    states = walk(emsde(fixed=0.25), net, x, [1.0, 0.5, 0.0], noise=gaussian(generator(1)))
    *_, before, last = states
    assert before.s == 0.0 and last.nfe == 9
