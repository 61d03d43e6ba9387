"""Samplers against exact answers: variances, flows, orders of convergence, and each other.

For Gaussian data every step is a straight line in (x, z), so that its two coefficients are read off
by running the step itself, and the variance after the chain follows without sampling.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import F64, MIX, Same, gen, randn
from torch import nn

from diffusion_lab.denoisers import Clipped, Denoiser, NetDenoiser, Prediction
from diffusion_lab.exact import ExactDenoiser, FiniteData, Gaussian, GaussianMixture
from diffusion_lab.forward import posterior
from diffusion_lab.generate import SAMPLERS, generate
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim, ddpm, dpmpp_2m
from diffusion_lab.schedules import (
    EDM,
    VE,
    Cosine,
    Linear,
    Sigmoid,
    cosine,
    linear,
    zero_terminal_snr,
)
from diffusion_lab.walk import Ask, check_grid, gaussian, sample, walk

LINEAR = linear(1000)
ZERO_SNR = zero_terminal_snr(LINEAR)
NAMES = ["ddim", "ddim eta 1", "ddpm", "dpmpp"]


def steps():
    """A fresh step of every kind, by name."""
    return dict(zip(NAMES, (ddim(), ddim(1.0), ddpm(), dpmpp_2m()), strict=True))


def one(s2, schedule=LINEAR):
    return Gaussian([0.0], [[s2]]).denoiser(schedule)


def recorded(seed=3):
    """Noise that is the same for every sampler: the i-th draw depends on i alone."""
    return lambda i, like: randn(*like.shape, seed=1000 * seed + i).to(like)


def line(step, denoiser, t, s):
    """(k, S) of x_s = k x_t + S z, read off by running the step on (x, z) = (0,0), (1,0), (0,1)."""
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=F64)
    z = torch.tensor([[0.0], [0.0], [1.0]], dtype=F64)
    ask = Ask(denoiser, source=lambda i, like: z)
    out = step(ask, x, t, s)[:, 0].tolist()
    return out[1] - out[0], out[2] - out[0]


def variance_after(step, denoiser, times):
    variance = denoiser.schedule.prior_std() ** 2
    for t, s in itertools.pairwise(times):
        k, noise = line(step, denoiser, t, s)
        variance = k * k * variance + noise * noise
    return variance


class Best(Denoiser):
    """A Gaussian's exact denoiser that also gives the best variance weight of 2102.09672."""

    def __init__(self, s2, schedule, times):
        super().__init__(schedule)
        self.inner, self.s2 = one(s2, schedule), s2
        self.next = dict(itertools.pairwise(times))

    def forward(self, x_t, t):
        p, s = self.inner(x_t, t), self.next[t]
        if s > 0:
            _, c_0, bt, v = posterior(self.schedule, t, s)
            left = self.s2 * p.sigma**2 / (p.alpha**2 * self.s2 + p.sigma**2)
            weight = math.log((bt + c_0**2 * left) / bt) / math.log(v / bt)
            p.var_weight = torch.full_like(x_t, weight)
        return p


def strided(K):
    """K of the 1000 training steps, the first and the last among them (2102.09672), then 0."""
    return [round(i) / 1000 for i in torch.linspace(1000, 1, K, dtype=F64).tolist()] + [0.0]


# ---- the variance after the chain ---------------------------------------------------------------
@pytest.mark.parametrize(
    "count,small,large,best,tolerance",
    [
        (1000, 0.2461, 0.2508, 0.2499, 6e-5),
        (100, 0.219, 0.259, 0.2499, 6e-4),
        (10, 0.104, 0.359, 0.2499, 6e-4),
    ],
)
def test_variance_after_the_chain(count, small, large, best, tolerance):
    times = strided(count)
    assert len(times) == count + 1
    for variance, expected in (("small", small), ("large", large)):
        got = variance_after(ddpm(variance), one(0.25), times)
        assert got == pytest.approx(expected, abs=tolerance)
    got = variance_after(ddpm("learned"), Best(0.25, LINEAR, times), times)
    assert got == pytest.approx(best, abs=tolerance)


def test_the_two_fixed_variances_are_right_for_their_own_data():
    assert variance_after(ddpm("large"), one(1.0), strided(10)) == pytest.approx(1.0, abs=2e-4)
    assert variance_after(ddpm("small"), one(0.0), strided(10)) == pytest.approx(0.0, abs=1e-12)


def test_the_last_jump_of_a_coarse_uniform_grid_loses_variance():
    """``grid(LINEAR, 10)`` ends with a jump from t = 0.1, to which no noise is added: what was
    left to draw there, Var(x0 | x_t) at t = 0.1, is missing even with the best variance."""
    times = grid(LINEAR, 10)
    alpha, sigma = LINEAR.alpha_sigma(times[-2])
    left = 0.25 * sigma**2 / (alpha**2 * 0.25 + sigma**2)
    got = variance_after(ddpm("learned"), Best(0.25, LINEAR, times), times)
    assert got == pytest.approx(0.25 - left, abs=2e-4)
    assert left == pytest.approx(0.0787, abs=1e-4)
    both_ends = grid(LINEAR, 10, "linspace")  # a last move from 1/T: nothing to speak of is lost
    got = variance_after(ddpm("learned"), Best(0.25, LINEAR, both_ends), both_ends)
    assert got == pytest.approx(0.25, abs=2e-4)


@pytest.mark.parametrize("schedule", [Linear(), EDM(20.0), VE(0.005, 50.0)], ids=repr)
@pytest.mark.parametrize("name", ["ddim", "ddim eta 1", "ddpm"])  # dpmpp looks back: no line in x
def test_many_steps_give_the_variance_of_the_data(schedule, name):
    times = grid(schedule, 400, "lambda")
    assert variance_after(steps()[name], one(0.25, schedule), times) == pytest.approx(
        0.25, rel=0.03
    )


def test_a_ddpm_step_is_the_posterior():
    x, times = randn(4, 2), (0.7, 0.3)
    p = MIX.denoiser(LINEAR)(x, 0.7)
    c_t, c_0, bt, v = posterior(LINEAR, 0.7, 0.3)
    for variance, s2 in (("small", bt), ("large", v)):
        states = list(walk(ddpm(variance), MIX.denoiser(LINEAR), x, times, noise=recorded()))
        expected = c_t * x + c_0 * p.x0 + math.sqrt(s2) * recorded()(0, x)
        assert torch.allclose(states[-1].x, expected, atol=1e-12)


def test_learned_variance_lies_between_small_and_large():
    x = randn(4, 2)

    class Said(Denoiser):
        def __init__(self, weight):
            super().__init__(LINEAR)
            self.weight = weight

        def forward(self, x_t, t):
            p = MIX.denoiser(LINEAR)(x_t, t)
            p.var_weight = torch.full_like(x_t, self.weight)
            return p

    def run(denoiser, variance):
        states = walk(ddpm(variance), denoiser, x, grid(LINEAR, 5), noise=recorded())
        return sample(states).x

    exact = MIX.denoiser(LINEAR)
    assert torch.allclose(run(Said(0.0), "learned"), run(exact, "small"), atol=1e-12)
    assert torch.allclose(run(Said(1.0), "learned"), run(exact, "large"), atol=1e-12)
    with pytest.raises(ValueError, match="needs a denoiser with learned_var"):
        run(exact, "learned")


# ---- one sampler becomes another ----------------------------------------------------------------
@pytest.mark.parametrize("schedule", [LINEAR, Linear(), Cosine(), EDM(), VE(), ZERO_SNR], ids=repr)
def test_ddim_with_eta_one_is_ddpm(schedule):
    d, x = MIX.denoiser(schedule), schedule.prior_std() * randn(6, 2)
    runs = [
        sample(walk(step, d, x, grid(schedule, 12), noise=recorded())).x
        for step in (ddim(1.0), ddpm("small"))
    ]
    assert torch.allclose(runs[0], runs[1], rtol=1e-9, atol=1e-9)


def test_ddim_is_equation_12():
    d, x, eta = MIX.denoiser(LINEAR), randn(6, 2), 0.6
    p = d(x, 0.8)
    abar_t, abar_s = LINEAR.alpha(0.8) ** 2, LINEAR.alpha(0.5) ** 2
    std = eta * math.sqrt((1 - abar_s) / (1 - abar_t)) * math.sqrt(1 - abar_t / abar_s)
    z = recorded()(0, x)
    expected = (
        math.sqrt(abar_s) * (x - math.sqrt(1 - abar_t) * p.eps) / math.sqrt(abar_t)
        + math.sqrt(1 - abar_s - std**2) * p.eps
        + std * z
    )
    got = sample(walk(ddim(eta), d, x, [0.8, 0.5], noise=recorded())).x
    assert torch.allclose(got, expected, atol=1e-12)


def test_ddim_with_eta_zero_draws_nothing():
    d, x = MIX.denoiser(LINEAR), randn(6, 2)
    runs = [sample(walk(ddim(), d, x, grid(LINEAR, 9))).x for _ in range(2)]  # without noise=
    assert torch.equal(*runs)


@pytest.mark.parametrize("schedule", [LINEAR, Linear(), EDM(), VE()], ids=repr)
def test_first_step_of_dpmpp_is_ddim(schedule):
    d, x = MIX.denoiser(schedule), schedule.prior_std() * randn(6, 2)
    for t, s in ((1.0, 0.6), (0.5, 0.4)):
        first = sample(walk(dpmpp_2m(), d, x, [t, s])).x
        assert torch.allclose(first, sample(walk(ddim(), d, x, [t, s])).x, rtol=1e-9, atol=1e-9)


def test_second_step_of_dpmpp_is_the_papers():
    d, x, times = MIX.denoiser(Linear()), randn(6, 2), [0.9, 0.6, 0.2]
    states = list(walk(dpmpp_2m(), d, x, times))
    middle = states[1].x
    lam = [Linear().lam(t) for t in times]
    h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
    both = (1 + 1 / (2 * r)) * d(middle, 0.6).x0 - 1 / (2 * r) * d(x, 0.9).x0
    expected = (
        Linear().sigma(0.2) / Linear().sigma(0.6) * middle
        - Linear().alpha(0.2) * (math.exp(-h) - 1) * both
    )
    assert torch.allclose(states[2].x, expected, atol=1e-12)


# ---- orders of convergence ----------------------------------------------------------------------
LOW, HIGH = -3.0, 3.0  # lambda at which the walks below begin and end


def lambda_grid(schedule, steps, low=LOW, high=HIGH):
    return [schedule.t_of_lam(low + (high - low) * i / steps) for i in range(steps + 1)]


def slopes(step, denoiser, x, exact, counts):
    """Minus the slope of log error against log steps, between neighbours in ``counts``."""
    errors = []
    for n in counts:
        end = sample(walk(step, denoiser, x, lambda_grid(denoiser.schedule, n))).x
        errors.append((end - exact).abs().max().item())
    pairs = zip(itertools.pairwise(errors), itertools.pairwise(counts), strict=True)
    return [math.log(a / b) / math.log(n / m) for (a, b), (m, n) in pairs]


def runge_kutta(mixture, schedule, x, steps=300):
    """The probability-flow ODE by another road: y = x/alpha, dy/dq = (y - x0)/q, q = sigma/alpha.

    Fourth order in log q, so none of the package's samplers or coefficients take part.
    """
    y, q = x / schedule.alpha(schedule.t_of_lam(LOW)), math.exp(-LOW)
    h = (LOW - HIGH) / steps  # step in log q

    def rate(y, q):
        return y - mixture.x0(y, 1.0, q)

    for _ in range(steps):
        k1 = rate(y, q)
        k2 = rate(y + h / 2 * k1, q * math.exp(h / 2))
        k3 = rate(y + h / 2 * k2, q * math.exp(h / 2))
        k4 = rate(y + h * k3, q * math.exp(h))
        y, q = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), q * math.exp(h)
    return y * schedule.alpha(schedule.t_of_lam(HIGH))


@pytest.mark.parametrize("schedule", [Linear(), EDM()], ids=repr)
@pytest.mark.parametrize("name,order", [("ddim", 1), ("dpmpp", 2)])
def test_order_of_convergence_on_a_gaussian(schedule, name, order):
    g = Gaussian([0.4, -0.2], MIX.covs[0])
    ends = [schedule.alpha_sigma(schedule.t_of_lam(lam)) for lam in (LOW, HIGH)]
    x = ends[0][1] * randn(8, 2)
    exact = g.flow(x, *ends[0], *ends[1])
    got = slopes(steps()[name], g.denoiser(schedule), x, exact, (32, 64, 128))
    assert got == pytest.approx([order, order], abs=0.2)


@pytest.mark.parametrize("name,order", [("ddim", 1), ("dpmpp", 2)])
def test_order_of_convergence_on_a_mixture(name, order):
    schedule = Linear()
    x = schedule.sigma(schedule.t_of_lam(LOW)) * randn(8, 2)
    exact = runge_kutta(MIX, schedule, x)
    coarse = runge_kutta(MIX, schedule, x, steps=150)
    assert (exact - coarse).abs().max() < 1e-6, "the reference is fine enough"
    got = slopes(steps()[name], MIX.denoiser(schedule), x, exact, (64, 128, 256))
    assert got == pytest.approx([order, order], abs=0.2)


# ---- any sampler, any denoiser of the same data, any schedule -----------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_does_not_matter_at_equal_lambda(name):
    """Walks on the same lambdas land on the same x/alpha, whatever alpha and sigma are."""
    y = randn(6, 2)
    ends = {}
    for schedule in (Linear(), Cosine(), Sigmoid(), EDM(), VE(0.01, 100.0)):
        times = lambda_grid(schedule, 15)
        x = schedule.sigma(times[0]) * y
        for own in (schedule, EDM(), Linear()):  # its own denoiser, or one made for another
            d = MIX.denoiser(own).on(schedule)
            end = sample(walk(steps()[name], d, x, times, noise=recorded())).x
            ends[schedule, own] = end / schedule.alpha(times[-1])
    first = next(iter(ends.values()))
    for key, end in ends.items():
        assert torch.allclose(end, first, rtol=1e-8, atol=1e-8), key


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "score", "edm"])
@pytest.mark.parametrize("name", NAMES)
def test_the_kind_of_prediction_does_not_matter(name, kind):
    class Oracle(nn.Module):
        """The mixture's answer in the units of ``kind``; the schedule is VP, so input = x_t."""

        def forward(self, x, lam):
            t = Linear().t_of_lam(lam.item())
            p = MIX.denoiser(Linear())(x, t)
            if kind != "edm":
                return getattr(p, kind)
            return (p.x0 - p.alpha * x) / p.sigma  # sd = 1: a = alpha, b = sigma

    x, times = randn(5, 2), grid(Linear(), 8)
    exact = sample(walk(steps()[name], MIX.denoiser(Linear()), x, times, noise=recorded())).x
    d = NetDenoiser(Oracle(), Linear(), kind)
    got = sample(walk(steps()[name], d, x, times, noise=recorded())).x
    assert torch.allclose(got, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["x0", "v", "edm"])
@pytest.mark.parametrize("name", NAMES)
def test_zero_terminal_snr_starts_from_pure_noise(name, kind):
    class Oracle(nn.Module):
        def forward(self, x, lam):
            t = ZERO_SNR.t_of_lam(lam.item() if lam.item() > -10 else -math.inf)
            p = MIX.denoiser(ZERO_SNR)(x, t)
            return {"x0": lambda: p.x0, "v": lambda: p.v}.get(
                kind, lambda: (p.x0 - p.alpha * x) / p.sigma
            )()

    x, times = randn(5, 2), grid(ZERO_SNR, 8)
    d = NetDenoiser(Oracle(), ZERO_SNR, kind)
    states = list(walk(steps()[name], d, x, times, noise=recorded()))
    exact = list(walk(steps()[name], MIX.denoiser(ZERO_SNR), x, times, noise=recorded()))
    for ours, theirs in zip(states, exact, strict=True):
        assert torch.allclose(ours.x, theirs.x, rtol=1e-8, atol=1e-8)
    if name in ("ddim", "dpmpp"):  # from pure noise: x_s = alpha_s E[x0] + sigma_s x
        alpha, sigma = ZERO_SNR.alpha_sigma(times[1])
        mean = (MIX.weights[:, None] * MIX.means).sum(0)
        assert torch.allclose(states[1].x, alpha * mean + sigma * x, atol=1e-10)
    with pytest.raises(ValueError, match="says nothing about x_0 where alpha = 0"):
        sample(walk(steps()[name], NetDenoiser(Oracle(), ZERO_SNR, "eps"), x, times))


def test_a_finite_data_set_is_drawn_again():
    """The ideal denoiser of a data set memorises: deterministic walks end on its pictures."""
    pictures = randn(6, 1, 3, 3)
    d = FiniteData(pictures).denoiser(LINEAR)
    for name in ("ddim", "dpmpp"):
        end = sample(walk(steps()[name], d, randn(10, 1, 3, 3, seed=9), grid(LINEAR, 40))).x
        nearest = torch.cdist(end.flatten(1), pictures.flatten(1)).min(1).values
        assert nearest.max() < 1e-2


def test_every_sampler_returns_the_prediction_at_the_last_step():
    """sigma_s = 0: what is left is x0_hat itself, and no noise is added."""
    x, d = randn(4, 2), MIX.denoiser(LINEAR)
    for name, step in (steps() | {"large": ddpm("large")}).items():
        times = [0.4, 0.1, 0.0]
        draws = []

        def noise(i, like, draws=draws):
            draws.append(i)
            return torch.ones_like(like)

        states = list(walk(step, d, x, times, noise=noise))
        assert torch.allclose(states[-1].x, d(states[1].x, 0.1).x0, atol=1e-12), name
        assert draws in ([], [0]), "one draw at most: none at the last step"


# ---- clipping -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SAMPLERS)
def test_clipping_is_a_clipped_denoiser(name):
    """Any sampler clips: the wrapper is a denoiser whose x0 is clamped, and eps follows."""
    if name == "emsde":
        pytest.skip("walks with times of its own")
    plain = SAMPLERS[name]()
    formula = ExactDenoiser(LINEAR, lambda *a: MIX.x0(*a).clamp(-0.5, 0.5))
    x, times = randn(6, 2), grid(LINEAR, 7)
    clipped = Clipped(MIX.denoiser(LINEAR), -0.5, 0.5)
    inside = sample(walk(plain, clipped, x, times, noise=recorded())).x
    outside = sample(walk(plain, formula, x, times, noise=recorded())).x
    assert torch.allclose(inside, outside, atol=1e-12)
    without = sample(walk(plain, MIX.denoiser(LINEAR), x, times, noise=recorded())).x
    assert not torch.allclose(inside, without, atol=1e-3)


# ---- the walk -----------------------------------------------------------------------------------
def test_states_of_a_walk():
    times, x = grid(LINEAR, 4), randn(3, 2)
    states = list(walk(ddim(), MIX.denoiser(LINEAR), x, times))
    assert [(q.t, q.s) for q in states] == [
        (1.0, 1.0),
        (1.0, 0.75),
        (0.75, 0.5),
        (0.5, 0.25),
        (0.25, 0.0),
    ]
    assert [(q.i, q.n, q.nfe) for q in states] == [(i, 4, i) for i in range(5)]
    assert states[0].x is x
    assert states[0].pred is None
    for before, after in itertools.pairwise(states):
        assert after.pred.x_t is before.x
        assert torch.allclose(after.pred.x0, MIX.denoiser(LINEAR)(before.x, after.t).x0)


def test_yielded_states_stay_as_they_were():
    x = randn(3, 2)
    for name, step in steps().items():
        kept = []
        for state in walk(step, MIX.denoiser(LINEAR), x, grid(LINEAR, 6), noise=recorded()):
            kept.append((state.x, state.x.clone()))
        assert all(torch.equal(a, b) for a, b in kept), name
        assert len({a.data_ptr() for a, _ in kept}) == len(kept)


def test_a_bar_ends_at_the_last_step(capsys):
    sample(walk(ddim(), MIX.denoiser(LINEAR), randn(3, 2), grid(LINEAR, 5)), bar=True)
    assert "5/5" in capsys.readouterr().err


def test_result_of_a_walk():
    x = randn(3, 2)
    result = sample(walk(ddim(), MIX.denoiser(LINEAR), x, grid(LINEAR, 5)), keep=True, bar=True)
    assert result.nfe == 5
    assert len(result.path) == 6
    assert result.path[-1].x is result.x
    assert result.seconds > 0
    assert sample(walk(ddim(), MIX.denoiser(LINEAR), x, [0.5, 0.0])).path == []


@pytest.mark.parametrize("name", NAMES)
def test_one_call_a_step(name):
    d = MIX.denoiser(LINEAR)
    calls = []
    inner = d.formula
    d.formula = lambda x, *rest: (calls.append(len(x)), inner(x, *rest))[1]
    result = sample(walk(steps()[name], d, randn(3, 2), grid(LINEAR, 7), noise=recorded()))
    assert result.nfe == len(calls) == 7
    d.nfe = 2
    assert sample(walk(steps()[name], d, randn(3, 2), grid(LINEAR, 7), noise=recorded())).nfe == 14


def test_history_is_short_and_newest_last():
    seen = []

    def step(ask, x, t, s):
        p = ask(x, t)
        seen.append([u for u, _ in ask.history])
        assert ask.history[-1][1] is p
        return p.mix(x0=1.0)

    sample(walk(step, MIX.denoiser(LINEAR), randn(2, 2), grid(LINEAR, 6)))
    assert seen[0] == [1.0]
    assert seen[-1] == [t / 1000 for t in (667, 500, 333, 167)]


def test_a_walk_can_be_differentiated():
    """d x_end / d x_start of DDIM on a Gaussian is the product of the steps' coefficients."""
    d, times = one(0.25), grid(LINEAR, 6)
    x = randn(3, 1).requires_grad_(True)
    end = sample(walk(ddim(), d, x, times, grad=True)).x
    (slope,) = torch.autograd.grad(end.sum(), x)
    product = math.prod(line(ddim(), d, t, s)[0] for t, s in itertools.pairwise(times))
    assert torch.allclose(slope, torch.full_like(slope, product), rtol=1e-10)
    for name, step in steps().items():  # the others against a central difference
        y = randn(1, 2, seed=4)

        def run(y, step=step, grad=False):
            states = walk(
                step, MIX.denoiser(LINEAR), y, grid(LINEAR, 5), noise=recorded(), grad=grad
            )
            return sample(states).x

        leaf = y.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(run(leaf, grad=True)[0, 0], leaf)
        h = torch.tensor([[1e-6, 0.0]], dtype=F64)
        numeric = (run(y + h) - run(y - h))[0, 0] / 2e-6
        assert slope[0, 0].item() == pytest.approx(numeric.item(), rel=1e-6), name


def test_a_walk_through_a_network_reaches_its_weights():
    net = nn.Linear(2, 2).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, x, lam):
            return self.inner(x)

    d = NetDenoiser(Net(), Linear(), "v")
    for name, step in steps().items():
        net.zero_grad()
        states = walk(step, d, randn(3, 2), grid(Linear(), 4), noise=recorded(), grad=True)
        sample(states).x.square().sum().backward()
        assert net.weight.grad.abs().sum() > 0, name
        assert not sample(
            walk(step, d, randn(3, 2), grid(Linear(), 4), noise=recorded())
        ).x.requires_grad


def test_the_walk_leaves_the_callers_gradient_mode_alone():
    d, x = MIX.denoiser(LINEAR), randn(2, 2)
    for grad in (False, True):
        for state in walk(ddim(), d, x, grid(LINEAR, 3), grad=grad):
            assert torch.is_grad_enabled(), f"after step {state.i}"
        with torch.no_grad():
            for state in walk(ddim(), d, x, grid(LINEAR, 3), grad=grad):
                assert not torch.is_grad_enabled(), f"after step {state.i}"
    # a walk that is left in the middle, and one that fails, leave it alone too
    next(walk(ddim(), d, x, grid(LINEAR, 3)))
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError):
        sample(walk(ddim(1.0), d, x, grid(LINEAR, 3)))
    assert torch.is_grad_enabled()
    # two walks in step with each other
    for a, b in zip(
        walk(ddim(), d, x, grid(LINEAR, 3), grad=True),
        walk(ddim(), d, x, grid(LINEAR, 3)),
        strict=True,
    ):
        assert torch.equal(a.x, b.x)
        assert torch.is_grad_enabled()


def test_project_corrects_after_every_step():
    seen = []

    def project(x, s):
        seen.append(s)
        fixed = x.clone()
        fixed[:, 0] = 0.25
        return fixed

    states = list(walk(ddim(), MIX.denoiser(LINEAR), randn(3, 2), grid(LINEAR, 4), project=project))
    assert seen == [0.75, 0.5, 0.25, 0.0]
    assert all((q.x[:, 0] == 0.25).all() for q in states[1:])
    # the next step starts from what was corrected
    assert states[2].pred.x_t is states[1].x


def test_a_grid_that_is_decided_on_the_way():
    plan = [0.5, 0.75, 0.25, 0.0]  # goes up once
    asked = []

    def choose(state):
        asked.append((state.s, state.i, state.n))
        return plan[state.i] if state.i < len(plan) else None

    def jump(ask, x, t, s):  # any step will do: up or down to the mean of q(x_s | x0_hat)
        p = ask(x, t)
        return p.mix(x0=ask.schedule.alpha(s))

    d = MIX.denoiser(LINEAR)
    states = list(walk(jump, d, randn(2, 2), choose, start=0.9))
    assert [q.s for q in states] == [0.9, *plan]
    assert [q.t for q in states] == [0.9, 0.9, *plan[:-1]]
    assert asked == [
        (0.9, 0, None),
        (0.5, 1, None),
        (0.75, 2, None),
        (0.25, 3, None),
        (0.0, 4, None),
    ]
    fixed = grid(LINEAR, 5)
    x = randn(2, 2)
    same = walk(ddim(), d, x, lambda q: fixed[q.i + 1] if q.i < 5 else None)
    assert torch.equal(sample(same).x, sample(walk(ddim(), d, x, fixed)).x)
    for bad in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            sample(walk(ddim(), d, x, lambda q, bad=bad: bad))


def test_noise_is_drawn_in_whole_batches_from_one_generator():
    draw = gaussian(gen(5))
    a = [draw(i, torch.zeros(4, 2)) for i in range(2)]
    again = gen(5)
    b = [torch.randn(4, 2, generator=again) for _ in range(2)]
    assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert draw(2, torch.zeros(1, dtype=F64)).dtype == F64


# ---- generate -----------------------------------------------------------------------------------
CALLS = {"heun": 2, "dpmpp-2s": 2, "dpm-solver": 2, "predictor-corrector": 2}
# rough in two dimensions or in 40 steps; measured in test_emsde and test_sde_samplers
ELSEWHERE = ("annealed-langevin", "emsde", "euler-maruyama")


@pytest.mark.parametrize("name", sorted({*SAMPLERS} - {*ELSEWHERE}))
@pytest.mark.parametrize(
    "schedule", [Linear(), LINEAR, cosine(100), EDM(), VE(), ZERO_SNR], ids=repr
)
def test_generate_draws_the_data(name, schedule):
    """Within the sampler's own error, the moments of the mixture come out."""
    n = 3000
    spacing = "karras" if isinstance(schedule, VE) else None
    result = generate(MIX.denoiser(schedule), n, sampler=name, steps=40, spacing=spacing, seed=1)
    assert result.x.shape == (n, 2)
    calls = CALLS.get(name, 1)  # a step; one for the last, and for a first one without data
    assert 39 * calls <= result.nfe <= 40 * calls
    x = result.x.double()
    mean = (MIX.weights[:, None] * MIX.means).sum(0)
    gap = MIX.means - mean
    cov = torch.einsum("k,kij->ij", MIX.weights, MIX.covs + gap[:, :, None] * gap[:, None])
    assert torch.allclose(x.mean(0), mean, atol=0.12)
    rough = name in ("ddpm", "predictor-corrector")
    assert torch.allclose(x.T.cov(), cov, atol=0.4 if rough else 0.15)


@pytest.mark.parametrize("name", ["emsde", "euler-maruyama"])
def test_an_infinite_drift_is_refused(name):
    with pytest.raises(ValueError, match="infinite at t = 1"):
        generate(MIX.denoiser(ZERO_SNR), 3, sampler=name, steps=40)


def test_generate_is_a_walk():
    d = MIX.denoiser(Linear())
    x = d.schedule.prior(7, (2,), gen(4))
    by_hand = sample(walk(dpmpp_2m(), d, x, grid(Linear(), 6)))
    result = generate(d, 7, steps=6, seed=4, keep=True)
    assert torch.equal(result.x, by_hand.x)
    assert len(result.path) == 7
    assert torch.equal(generate(d, 7, steps=6, seed=4).x, result.x)
    assert not torch.equal(generate(d, 7, steps=6, seed=5).x, result.x)


def test_batches_do_not_change_a_deterministic_walk():
    d = MIX.denoiser(Linear())
    whole = generate(d, 10, sampler="ddim", steps=6)
    parts = generate(d, 10, sampler="ddim", steps=6, batch=4)
    assert torch.allclose(whole.x, parts.x, atol=1e-6)
    assert whole.nfe == parts.nfe == 6


def test_batches_keep_their_own_labels():
    d = MIX.denoiser(Linear())
    label = torch.tensor([0] * 30 + [1] * 30 + [2] * 30)
    x = generate(d, 90, steps=30, label=label, batch=30).x.double()
    for k in range(3):
        assert torch.allclose(x[label == k].mean(0), MIX.means[k], atol=0.3)


def test_generate_with_classes():
    d = MIX.denoiser(Linear())
    label = torch.tensor([0, 1, 2]).repeat(40)
    x = generate(d, 120, steps=30, label=label).x.double()
    for k in range(3):
        assert torch.allclose(x[label == k].mean(0), MIX.means[k], atol=0.3)
    assert generate(d, 120, steps=5, label=label, scale=2.0).nfe == 10
    assert generate(d, 120, steps=5, label=label, scale=1.0).nfe == 5
    options = generate(d, 4, sampler="ddim", steps=5, eta=0.5, clip=(-0.1, 0.1))
    assert options.x.abs().max() <= 0.1 + 1e-6


def test_where_sampling_starts():
    z = torch.randn((3, 2), generator=gen(0))
    assert torch.allclose(EDM().prior(3, (2,), gen(0)), 80 * z)
    assert torch.allclose(EDM().prior(3, (2,), gen(0), 0.5), 80 * 0.5**7 * z)
    assert torch.equal(LINEAR.prior(3, (2,), gen(0)), z)


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "times,complaint",
    [
        ([], "at least two times"),
        ([1.0], "at least two times"),
        ([0.5, 0.5], "must fall from noise to data"),
        ([0.2, 0.7], "must fall from noise to data"),
        ([1.0, 0.5, 0.6, 0.0], "time number 2 is 0.6 after 0.5"),
        ([1.2, 0.5], r"time number 0 of the grid is 1.2; times must lie in \[0, 1\]"),
        ([1.0, -0.1], r"times must lie in \[0, 1\]"),
        ([1.0, math.nan, 0.0], r"time number 1 of the grid is nan"),
    ],
)
def test_bad_grids(times, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_grid(times)
    with pytest.raises(ValueError, match=complaint):
        walk(ddim(), MIX.denoiser(LINEAR), randn(2, 2), times)  # at once, not at the first step


@pytest.mark.parametrize(
    "bad,complaint",
    [
        (lambda: ddim(1.5), "eta must lie in"),
        (lambda: ddim(-0.1), "eta must lie in"),
        (lambda: ddim(math.nan), "eta must lie in"),
        (lambda: ddpm("smal"), "Did you mean 'small'"),
        (lambda: generate(MIX.denoiser(LINEAR), 4, sampler="dpm"), "Did you mean"),
        (lambda: generate(MIX.denoiser(LINEAR), 0), "number of samples must be a whole number"),
        (lambda: generate(MIX.denoiser(LINEAR), 2.0), "number of samples must be a whole number"),
        (lambda: generate(MIX.denoiser(LINEAR), 4, steps=0), "number of steps must be"),
        (lambda: generate(MIX.denoiser(LINEAR), 4, steps=1001), "1001 steps asked of a schedule"),
        (lambda: generate(MIX.denoiser(LINEAR), 4, spacing="log"), "unknown spacing"),
        (
            lambda: generate(MIX.denoiser(LINEAR), 4, label=torch.zeros(3, dtype=torch.int64)),
            r"of shape \(4,\)",
        ),
        (
            lambda: generate(MIX.denoiser(LINEAR), 2, label=torch.tensor([0, 7])),
            "labels must lie in 0..2",
        ),
        (lambda: generate(NetDenoiser(Same(), LINEAR), 4), "does not know the shape"),
        (lambda: walk(ddim(), MIX.denoiser(LINEAR), torch.zeros(0, 2), [1.0, 0.0]), "at least one"),
        (
            lambda: sample(
                walk(ddim(), MIX.denoiser(LINEAR), torch.zeros(2, 2, dtype=torch.int64), [1, 0])
            ),
            "x_t must be a tensor of floats",
        ),
        (
            lambda: sample(walk(ddim(), MIX.denoiser(LINEAR), randn(2, 3), [1.0, 0.0])),
            r"x_t must have shape \(B, 2\)",
        ),
        (
            lambda: sample(walk(ddpm(), MIX.denoiser(LINEAR), randn(2, 2), [1.0, 0.5])),
            "this sampler draws noise",
        ),
    ],
)
def test_bad_input(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        bad()


def test_a_sample_that_is_not_finite_is_an_error():
    broken = ExactDenoiser(LINEAR, lambda x, *rest: x * math.nan, shape=(2,))
    with pytest.raises(FloatingPointError, match="not finite after 3 steps"):
        sample(walk(ddim(), broken, randn(2, 2), grid(LINEAR, 3)))


def test_a_sample_whose_sum_overflows_is_finite():
    huge = ExactDenoiser(LINEAR, lambda x, *rest: torch.full_like(x, 3e38), shape=(2,))
    result = sample(walk(ddim(), huge, randn(2, 2).float(), [0.5, 0.0]))
    assert torch.isfinite(result.x).all() and torch.isinf(result.x.sum())


def test_a_range_of_lambda_is_kept():
    class Told(nn.Module):
        def forward(self, x, lam):
            assert -2.0 - 1e-3 <= lam.item() <= 3.0 + 1e-3
            return x

    d = NetDenoiser(Told(), Linear(), "v", shape=(2,), lam_range=(-2.0, 3.0))
    assert generate(d, 3, steps=5).nfe == 5
    with pytest.raises(ValueError, match=r"trained for lambda in \[-2, 3\] and was asked at -5.02"):
        sample(walk(ddim(), d, randn(3, 2), grid(Linear(), 5)))


def test_a_prediction_of_another_precision_is_not_reused():
    """What a walk prepares for single precision must not answer a later call in double."""

    class Told(nn.Module):
        def forward(self, x, lam):
            assert lam.dtype == x.dtype
            return 0.1 * x + lam

    d = NetDenoiser(Told(), Linear(), "v")
    times = grid(Linear(), 4)
    sample(walk(ddim(), d, randn(2, 2).float(), times))
    x = randn(2, 2)
    fresh = NetDenoiser(Told(), Linear(), "v")
    assert torch.equal(d(x, times[1]).x0, fresh(x, times[1]).x0)
    assert isinstance(d(x, 0.5), Prediction)


def test_generate_says_no_rather_than_ignoring():
    d = Gaussian([0.0], [[1.0]]).denoiser(linear())
    with pytest.raises(ValueError, match="needs labels"):
        generate(d, 4, steps=2, scale=2.0)
    with pytest.raises(ValueError, match="one batch"):
        generate(d, 4, steps=2, batch=2, keep=True)
    ring = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.1]], [[0.1]]]).denoiser(linear())
    for wrong in ("boot", 1, [0, 1, 0, 1]):
        with pytest.raises(ValueError, match="int64 tensor of 4 classes"):
            generate(ring, 4, steps=2, label=wrong)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        generate(ring, 4, steps=2, label=torch.zeros(4), scale=2.0)
    with pytest.raises(ValueError, match="got values in 1..42"):
        generate(ring, 4, steps=2, label=torch.tensor([1, 1, 1, 42]), scale=2.0)
