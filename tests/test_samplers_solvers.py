"""Solvers against the exact solution of the probability-flow ODE: their order, and exact cases.

The reference is torchdiffeq's dopri8 on dx/dlambda = sigma^2 x - sigma eps (VP), a method that
shares no line with the solvers here.
"""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from helpers import F64, MIX, gen, randn
from torchdiffeq import odeint

from diffusion_lab.denoisers import Clipped, NetDenoiser, affine
from diffusion_lab.exact import ExactDenoiser, Gaussian, GaussianMixture
from diffusion_lab.generate import SAMPLERS, generate
from diffusion_lab.grids import grid
from diffusion_lab.guidance import guided
from diffusion_lab.samplers import (
    ddim,
    dpm_solver,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
    euler,
    heun,
    split_calls,
    unipc,
)
from diffusion_lab.samplers.exponential import phi, weights
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, linear, zero_terminal_snr
from diffusion_lab.walk import Ask, gaussian, sample, walk

VP = Linear()
LOW, HIGH = -5.02, 4.56  # lambda
LINE = GaussianMixture([0.3, 0.7], [[-2.0], [1.0]], [[[0.25]], [[0.25]]])


def noise(i, like):
    return randn(*like.shape, seed=100 + i).to(like)


X = randn(32, 2)


def in_lambda(n, schedule=VP):
    """n moves, uniform in lambda, that stop short of clean data."""
    return [schedule.t_of_lam(LOW + (HIGH - LOW) * i / n) for i in range(n + 1)]


def carried(step, n, denoiser=None, x=X):
    denoiser = denoiser or MIX.denoiser(VP)
    return sample(walk(step, denoiser, x, in_lambda(n, denoiser.schedule))).x


@pytest.fixture(scope="module")
def exact():
    denoiser = MIX.denoiser(VP)

    def slope(lam, x):
        p = denoiser(x, VP.t_of_lam(lam.item()))
        return p.sigma**2 * x - p.sigma * p.eps

    ends = torch.tensor([LOW, HIGH], dtype=F64)
    with torch.no_grad():
        return odeint(slope, X, ends, method="dopri8", rtol=1e-11, atol=1e-11)[-1]


ORDERS = {  # step, calls a step, order
    "ddim": (ddim, 1, 1),
    "dpm-solver-1": (lambda: dpm_solver(1), 1, 1),
    "dpm-solver-2": (lambda: dpm_solver(2), 2, 2),
    "dpm-solver-3": (lambda: dpm_solver(3), 3, 3),
    "dpmpp-2s": (dpmpp_2s, 2, 2),
    "dpmpp-2m": (dpmpp_2m, 1, 2),
    "dpmpp-3m": (dpmpp_3m, 1, 3),
    "dpmpp-sde eta 0": (lambda: dpmpp_sde(0.0), 1, 2),
    "unipc-1": (lambda: unipc(1), 1, 2),
    "unipc-2": (lambda: unipc(2), 1, 3),
    "unipc-3": (lambda: unipc(3), 1, 4),
    "euler": (euler, 1, 1),
    "heun": (heun, 2, 2),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name, exact):
    """Twice the calls divide the error by 2^order; slope within 0.2 of it."""
    make, calls, order = ORDERS[name]
    few, many = ((carried(make(), n // calls) - exact).norm(dim=1).mean() for n in (192, 384))
    assert math.log2(few / many) == pytest.approx(order, abs=0.2)


SPEC = {  # mean error at 12, 24, 48 calls of three-component mixtures (another one; see below)
    "ddim": (0.238, 0.121, 0.0609),
    "dpm-solver-2": (0.281, 0.0546, 0.0122),
    "dpm-solver-3": (0.123, 0.0170, 6.4e-4),
    "dpmpp-2s": (0.138, 0.0438, 0.0123),
    "dpmpp-2m": (0.0629, 0.0157, 0.0038),
    "unipc-2": (0.0437, 0.0054, 6.8e-4),
}


@pytest.mark.parametrize("name", SPEC)
def test_error_at_equal_calls(name, exact):
    """As measured once on a mixture like this one, to within a third: constants, not only slopes.

    (Also with this many calls the slip "steps counted as calls" would show: a factor of 4 to 27.)
    """
    make, calls, _ = ORDERS[name]
    for nfe, known in zip((12, 24, 48), SPEC[name], strict=True):
        error = (carried(make(), nfe // calls) - exact).norm(dim=1).mean()
        assert error == pytest.approx(known, rel=1 / 3), nfe


def test_multistep_wins_where_calls_are_few(exact):
    """At 6 calls order 2 in single steps loses to DDIM; multistep and UniPC do not."""
    error = {
        name: (carried(make(), 6 // calls) - exact).norm(dim=1).mean().item()
        for name, (make, calls, _) in ORDERS.items()
    }
    assert error["dpm-solver-2"] > 2 * error["ddim"]
    assert error["dpmpp-2m"] < error["ddim"] / 2
    assert error["unipc-2"] < error["ddim"] / 2


def test_half_of_the_second_derivative_is_of_second_order(exact):
    """What others ship as ++(3M): ours less half of its last term. Its order is 2, not 3."""
    inner = dpmpp_3m()  # whose first step this one takes as if it came from pure noise

    def published(ask, x, t, s):
        past = [p for _, p in ask.history[-2:]]
        if ask.i == 0:
            return ddim()(ask, x, t, s)
        x_s = inner(ask, x, t, s)
        if len(past) < 2:
            return x_s
        (older, old), p = past, ask.history[-1][1]
        h = VP.lam(s) - p.lam
        r0, r1 = (p.lam - old.lam) / h, (old.lam - older.lam) / h
        second = ((p.x0 - old.x0) / r0 - (old.x0 - older.x0) / r1) / (r0 + r1)
        return x_s - VP.alpha(s) * h * phi(3, -h) * second

    assert (carried(published, 12) - carried(dpmpp_3m(published=True), 12)).abs().max() < 1e-12
    few, many = ((carried(published, n) - exact).norm(dim=1).mean() for n in (192, 384))
    assert math.log2(few / many) == pytest.approx(2, abs=0.2)
    assert many > 20 * (carried(dpmpp_3m(), 384) - exact).norm(dim=1).mean()


def test_heun_on_the_edm_schedule():
    """Order 2 in sigma from 80 to 0, and Euler ahead of it at equal calls below about 20."""
    denoiser = LINE.denoiser(EDM())
    x = 80 * randn(200, 1, seed=3)

    def end(step, n):
        return sample(walk(step, denoiser, x, grid(EDM(), n, "karras"))).x

    truth = end(heun(), 600)
    rms = {n: (end(heun(), n) - truth).square().mean().sqrt().item() for n in (9, 18, 36, 72, 144)}
    plain = {n: (end(euler(), n) - truth).square().mean().sqrt().item() for n in (17, 35, 71, 143)}
    for few, many in itertools.pairwise((36, 72, 144)):
        assert math.log2(rms[few] / rms[many]) == pytest.approx(2, abs=0.2)
    assert plain[17] < rms[9], "Euler wins at 17 calls"
    assert plain[35] > rms[18], "and loses at 35"
    assert plain[143] / plain[71] == pytest.approx(0.5, abs=0.05)


# ---- exact cases --------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", [VP, EDM(20.0), VE(), Cosine()], ids=repr)
def test_order_1_is_ddim(schedule):
    denoiser = MIX.denoiser(schedule)
    times = grid(schedule, 12, "uniform" if schedule.vp else "karras")
    x = X * schedule.prior_std()
    reference = sample(walk(ddim(), denoiser, x, times)).x
    for step in (dpm_solver(1), euler()):
        assert torch.allclose(sample(walk(step, denoiser, x, times)).x, reference, atol=1e-12)


def test_sde_without_noise_is_2m():
    denoiser = MIX.denoiser(VP)
    one, two = (list(walk(step, denoiser, X, grid(VP, 9))) for step in (dpmpp_sde(0.0), dpmpp_2m()))
    assert all(torch.allclose(a.x, b.x, atol=1e-13) for a, b in zip(one, two, strict=True))


def test_uni_predictor_is_2m():
    """Their B_2 makes UniP-2 equal to ++(2M): from the same past, the same step."""
    denoiser, times = MIX.denoiser(VP), grid(VP, 8)
    ask = Ask(denoiser)
    x = unipc(2)(ask, X, times[0], times[1])
    x = unipc(2)(ask, x, times[1], times[2])
    here, base = ask.history[-1][1], ask.history[-2][1]
    other = Ask(ExactDenoiser(VP, lambda *_: here.x0))  # the same answer, at the corrected state
    other.history = [(times[0], base)]
    assert torch.allclose(dpmpp_2m()(other, here.x_t, times[1], times[2]), x, atol=1e-13)


X0FORM = {
    "dpmpp-2s": dpmpp_2s,
    "dpmpp-2m": dpmpp_2m,
    "dpmpp-3m": dpmpp_3m,
    "unipc-2": unipc,
    "unipc-3": lambda: unipc(3),
}


@pytest.mark.parametrize("name", X0FORM)
def test_a_constant_x0_is_carried_exactly(name):
    """x_s = alpha_s c + sigma_s (x - alpha_t c)/sigma_t for any steps, whatever their lengths."""
    c = torch.tensor([0.7, -1.2], dtype=F64)
    denoiser = ExactDenoiser(VP, lambda x, *_: c.expand_as(x))
    times = [0.9, 0.83, 0.5, 0.44, 0.2, 0.05]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = VP.alpha_sigma(times[0]), VP.alpha_sigma(times[-1])
    expected = alpha_s * c + sigma_s * (X - alpha_t * c) / sigma_t
    assert torch.allclose(sample(walk(X0FORM[name](), denoiser, X, times)).x, expected, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_constant_eps_is_carried_exactly(order):
    """The noise form: x_s = alpha_s (x_t - sigma_t e)/alpha_t + sigma_s e."""
    e = torch.tensor([0.4, -0.9], dtype=F64)

    def formula(x, alpha, sigma):
        return (x - sigma * e) / alpha

    times = [0.9, 0.5, 0.44, 0.05]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = VP.alpha_sigma(times[0]), VP.alpha_sigma(times[-1])
    expected = alpha_s * (X - sigma_t * e) / alpha_t + sigma_s * e
    out = sample(walk(dpm_solver(order), ExactDenoiser(VP, formula), X, times)).x
    assert torch.allclose(out, expected, atol=1e-11)


@pytest.mark.parametrize("degree,name", [(1, "dpmpp-3m"), (2, "dpmpp-3m"), (3, "unipc-3")])
def test_polynomials_in_lambda_are_integrated_exactly(degree, name):
    """x0_hat = lambda^degree for all x: three nodes are exact to degree 2, four to degree 3."""

    def formula(x, alpha, sigma):
        return torch.full_like(x, math.log(alpha / sigma) ** degree)

    denoiser = ExactDenoiser(VP, formula)
    times = in_lambda(40)
    states = list(walk(X0FORM[name](), denoiser, X[:1], times))
    here = states[30]  # the start of the walk has no past
    t, s = here.s, states[31].s
    x = here.x
    if name == "unipc-3":  # corrected states are compared: those in which the history is kept
        ask = Ask(denoiser)
        x = X[:1]
        for t, s in itertools.pairwise(times[:32]):
            x = unipc(3)(ask, x, t, s)
        t, s = ask.history[-2][0], ask.history[-1][0]
        x, out = ask.history[-2][1].x_t, ask.history[-1][1].x_t
    else:
        out = states[31].x
    low, high = VP.lam(t), VP.lam(s)
    lam = torch.linspace(low, high, 2001, dtype=F64)
    integral = torch.trapezoid(lam.exp() * lam**degree, lam)
    expected = VP.sigma(s) / VP.sigma(t) * x + VP.sigma(s) * integral
    assert torch.allclose(out, expected, atol=1e-6)


def test_phi_and_weights():
    assert phi(0, -0.3) == pytest.approx(math.exp(-0.3), rel=1e-15)
    for k in (1, 2, 3, 4):  # series and recursion agree where they meet, and phi_k(0) = 1/k!
        assert phi(k, 0.0) == pytest.approx(1 / math.factorial(k), rel=1e-15)
        assert phi(k, 0.999999) == pytest.approx(phi(k, 1.0), rel=3e-6)
        assert phi(k, -0.999999) == pytest.approx(phi(k, -1.0), rel=3e-6)
    h, nodes = 0.7, (0.0, -0.8, -2.1)
    tau = torch.linspace(0, 1, 20001, dtype=F64)
    for k in range(3):
        moment = torch.trapezoid((-h * (1 - tau)).exp() * tau**k, tau)
        ours = sum(w * node**k for w, node in zip(weights(nodes, h), nodes, strict=True))
        assert ours == pytest.approx(moment.item(), rel=1e-8)


# ---- first steps, last steps, other schedules ---------------------------------------------------
ODE = {
    "ddim": ddim,
    "dpm-solver-2": dpm_solver,
    "dpm-solver-3": lambda: dpm_solver(3),
    "heun": heun,
    "euler": euler,
    **X0FORM,
}


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize(
    "schedule",
    [linear(1000), zero_terminal_snr(linear(1000)), Cosine(), EDM(20.0)],
    ids=["linear", "zero snr", "cosine", "edm"],
)
def test_every_schedule_from_its_start_to_clean_data(name, schedule):
    """alpha = 0 at the start and sigma = 0 at the end are steps as well; the end is the flow's."""
    data = Gaussian([0.3, -0.2], [[0.5, 0.2], [0.2, 0.3]])
    denoiser = data.denoiser(schedule)
    x = X * schedule.prior_std()
    times = grid(schedule, 100, "uniform" if schedule.vp else "karras")
    out = sample(walk(ODE[name](), denoiser, x, times)).x
    exact = data.flow(x, *schedule.alpha_sigma(1.0), 1.0, 0.0)
    assert (out - exact).abs().max() < (0.2 if name in ("ddim", "euler") else 0.05)


@pytest.mark.parametrize("kind", ["eps", "v", "x0", "edm"])
@pytest.mark.parametrize("name", ODE)
def test_what_the_network_predicts_does_not_matter(kind, name):
    """The same denoiser told as eps, v, x0 or EDM's F gives the same states."""
    exact = MIX.denoiser(VP)

    class Told(torch.nn.Module):
        def forward(self, x, lam):
            t = VP.t_of_lam(lam.item())
            p = exact(x * shrink(t), t)
            if kind == "edm":
                reading = affine("edm", *VP.alpha_sigma(t))
                return (p.x0 - reading[0] * x) / reading[1]
            return getattr(p, kind)

    def shrink(t):
        return 1.0

    told = NetDenoiser(Told(), VP, kind)
    times = grid(VP, 10)
    ours, other = (sample(walk(ODE[name](), d, X, times)).x for d in (exact, told))
    assert torch.allclose(ours, other, atol=1e-8)


def test_calls_are_counted():
    n = 10
    denoiser, times = MIX.denoiser(linear(1000)), grid(linear(1000), 10)
    expected = {
        "dpm-solver-2": 2 * (n - 1) + 1,
        "dpm-solver-3": 3 * (n - 1) + 1,
        "heun": 2 * (n - 1) + 1,
        "dpmpp-2s": 2 * (n - 1) + 1,
    }
    for name, make in ODE.items():
        assert sample(walk(make(), denoiser, X, times)).nfe == expected.get(name, n), name


@pytest.mark.parametrize("nfe", range(4, 31))
@pytest.mark.parametrize("order", [1, 2, 3])
def test_split_calls(nfe, order):
    """They add up, the last is the step onto clean data, and no order exceeds what was asked."""
    orders = split_calls(nfe, order)
    assert sum(orders) == nfe
    assert orders[-1] == 1
    assert max(orders) == (2 if (nfe, order) == (4, 3) else order), "3 calls are a 2 and a 1"
    assert min(orders) >= 1


def test_split_calls_is_the_papers_rule():
    assert split_calls(9, 3, clean=False) == [3, 3, 2, 1]
    assert split_calls(10, 3, clean=False) == [3, 3, 3, 1]
    assert split_calls(11, 3, clean=False) == [3, 3, 3, 2]
    assert split_calls(3, 3, clean=False) == [2, 1]
    assert split_calls(7, 2, clean=False) == [2, 2, 2, 1]


@pytest.mark.parametrize("nfe", [5, 10, 20])
def test_a_budget_is_spent_to_the_last_call(nfe):
    schedule = linear(1000)
    orders = split_calls(nfe, 3)
    times = grid(schedule, len(orders), "lambda")
    step = dpm_solver(dict(zip(times, orders, strict=False)))
    assert sample(walk(step, MIX.denoiser(schedule), X, times)).nfe == nfe


def test_guidance_counts_twice_and_clipping_holds():
    denoiser = MIX.denoiser(linear(1000))
    label = torch.zeros(len(X), dtype=torch.int64)
    times = grid(linear(1000), 6)
    for name, make in ODE.items():
        plain = sample(walk(make(), denoiser, X, times)).nfe
        twice = sample(walk(make(), guided(denoiser, 2.0), X, times, label=label))
        assert twice.nfe == 2 * plain, name
    for make in (dpmpp_2s, dpmpp_2m, dpmpp_3m, unipc):
        states = list(walk(make(), Clipped(denoiser, -0.5, 0.5), X, times))
        assert states[-1].x.abs().max() <= 0.5 + 1e-12
        assert all(s.pred.x0.abs().max() <= 0.5 for s in states[1:])


def test_yielded_states_are_never_written_to():
    denoiser = MIX.denoiser(linear(1000))
    for name in SAMPLERS:
        states, copies = [], []
        times = grid(linear(1000), 6)
        for state in walk(SAMPLERS[name](), denoiser, X, times, noise=noise):
            states.append(state)
            copies.append(state.x.clone())
        assert all(torch.equal(s.x, c) for s, c in zip(states, copies, strict=True)), name


# ---- stochastic ---------------------------------------------------------------------------------
@pytest.mark.parametrize("steps,tolerance", [(40, 0.04), (160, 0.0025)])
def test_sde_solver_keeps_the_variance(steps, tolerance):
    """For N(0, s^2) a step is a straight line in (x, x_prev, z): the covariance of (x, x_prev) is
    carried along exactly, and ends at s^2, with an error of second order."""
    s2, schedule = 0.25, VP
    denoiser = Gaussian([0.0], [[s2]]).denoiser(schedule)
    times = [schedule.t_of_lam(LOW + (7 - LOW) * i / steps) for i in range(steps + 1)] + [0.0]
    cov = torch.eye(2, dtype=F64)  # of (x_t, x_prev); the first step looks back on nothing
    before = None
    for t, s in itertools.pairwise(times):
        x = torch.tensor([[0.0], [1.0], [0.0], [0.0]], dtype=F64)
        past = torch.tensor([[0.0], [0.0], [1.0], [0.0]], dtype=F64)
        z = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=F64)
        ask = Ask(denoiser, source=lambda i, like, z=z: z)
        if before is not None:
            ask.history = [(before, denoiser(past, before))]
        out = dpmpp_sde()(ask, x, t, s)[:, 0]
        kx, kp, kz = (out[1:] - out[0]).tolist()
        turn = torch.tensor([[kx, kp], [1.0, 0.0]], dtype=F64)
        cov = turn @ cov @ turn.T
        cov[0, 0] += kz**2
        before = t
    assert cov[0, 0].item() == pytest.approx(s2, rel=tolerance)


def test_churn_keeps_the_law():
    """On Gaussian data with exact answers: churn with many steps, the variance of the data."""
    schedule = EDM(20.0)
    data = Gaussian([0.5], [[0.25]])
    x = 20 * randn(20000, 1, seed=2)
    times = grid(schedule, 60, "karras")
    out = sample(
        walk(
            heun(churn=0.2),
            data.denoiser(schedule),
            x,
            times,
            noise=gaussian(torch.Generator().manual_seed(0)),
        )
    ).x
    assert out.mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(20000))
    assert out.var() == pytest.approx(0.25, rel=4 * math.sqrt(2 / 20000) + 0.01)


def test_churn_acts_between_its_bounds_only_and_never_above_the_start():
    schedule = EDM(20.0)
    denoiser = MIX.denoiser(schedule)
    times = grid(schedule, 10, "karras")
    draws = []

    def count(i, like):
        draws.append(i)
        return noise(i, like)

    x = 20 * X
    quiet = sample(walk(heun(churn=0.3, low=30.0, high=40.0), denoiser, x, times, noise=count)).x
    assert not draws
    assert torch.equal(quiet, sample(walk(heun(), denoiser, x, times)).x)
    sample(walk(heun(churn=0.3, low=0.5, high=5.0), denoiser, x, times, noise=count))
    inside = sum(0.5 <= schedule.sigma(t) <= 5.0 for t in times[:-1])
    assert len(draws) == inside > 2
    asked = []

    class Watched(type(denoiser)):
        def forward(self, x_t, t, **condition):
            asked.append(t)
            return super().forward(x_t, t, **condition)

    watched = Watched(schedule, denoiser.formula)
    sample(walk(heun(churn=0.3), watched, x, times, noise=noise))
    assert max(asked) == 1.0


# ---- errors -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: dpm_solver(4), "order 1, 2 and 3; got 4"),
        (lambda: dpm_solver(0), "got 0"),
        (lambda: dpm_solver(2.5), "got 2.5"),
        (lambda: dpm_solver({0.5: 7}), "got 7"),
        (lambda: unipc(4), "order 1, 2 and 3; got 4"),
        (lambda: unipc(True), "got True"),
        (lambda: dpmpp_sde(1.5), "eta must lie in"),
        (lambda: heun(churn=-1), "churn=-1"),
        (lambda: heun(churn=0.1, low=3, high=2), "low=3, high=2"),
        (lambda: split_calls(3, 3), "order 3 needs 3 calls for a step and one for the step onto"),
        (lambda: split_calls(2, 3, clean=False), "needs 3 calls for a step; got nfe=2"),
        (lambda: split_calls(5, 4), "got 4"),
        (lambda: split_calls(5.0), "got nfe=5.0"),
    ],
)
def test_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_order_for_a_time_that_is_not_there():
    step = dpm_solver({1.0: 2})
    with pytest.raises(ValueError, match="no order is given for the step at t = 0.5"):
        sample(walk(step, MIX.denoiser(VP), X, [1.0, 0.5, 0.0]))


@pytest.mark.parametrize("name", ODE)
def test_nan_from_a_denoiser_is_said(name):
    denoiser = ExactDenoiser(VP, lambda x, *_: x * math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(walk(ODE[name](), denoiser, X, grid(VP, 5)))


def test_first_order_is_stable_for_tiny_steps():
    """A step of 1e-12 in lambda moves x by as much, to three digits."""
    x = torch.tensor([[0.3]], dtype=F64)
    p = ExactDenoiser(VP, lambda x, *_: torch.full_like(x, 2.0))(x, 0.5)
    lam = p.lam + 1e-12
    t = VP.t_of_lam(lam)
    alpha, sigma = VP.alpha_sigma(t)
    moved = (p.mix(x0=alpha, eps=sigma) - sigma / p.sigma * x).item()
    assert moved == pytest.approx(2.0 * alpha * (VP.lam(t) - p.lam), rel=1e-3, abs=1e-15)


@pytest.mark.parametrize("name", SAMPLERS)
def test_generate_knows_all_names(name):
    denoiser = MIX.denoiser(linear(1000))
    one, two = (generate(denoiser, 6, sampler=name, steps=5, seed=1) for _ in range(2))
    assert torch.equal(one.x, two.x)
    assert one.x.shape == (6, 2)
    assert one.nfe >= 5


# ---- orders from any start ----------------------------------------------------------------------
STARTS = [
    (VP, 0.5, 0.03),
    (Cosine(), 0.95, 0.03),
    (Cosine(), 0.6, 0.03),
    (EDM(80.0), (2 / 80) ** (1 / 7), 0.4),
]


@pytest.mark.parametrize("schedule,first,last", STARTS, ids=str)
@pytest.mark.parametrize(
    "make,order",
    [
        (dpmpp_2m, 2),
        (dpmpp_3m, 3),
        (partial(dpmpp_3m, True), 2),
        (partial(unipc, 2), 3),
        (partial(unipc, 3), 3),
    ],
    ids=["2M", "3M", "3M published", "UniPC-2", "UniPC-3"],
)
def test_the_order_from_a_start_in_the_middle(schedule, first, last, make, order):
    """On a Gaussian, whose flow is exact: errors at 320 and 640 steps, uniform in lambda."""
    a = randn(6, 6, seed=1)
    data = Gaussian(randn(6, seed=2), a @ a.T * 0.2 + 0.05 * torch.eye(6, dtype=F64))
    alpha, sigma = schedule.alpha_sigma(first)
    x = alpha * data.sample(64, gen(3)) + sigma * randn(64, 6, seed=4)
    exact = data.flow(x, alpha, sigma, *schedule.alpha_sigma(last))
    low, high = schedule.lam(first), schedule.lam(last)
    errors = []
    for n in (320, 640):
        inside = (schedule.t_of_lam(low + (high - low) * i / n) for i in range(1, n))
        walked = sample(walk(make(), data.denoiser(schedule), x, [first, *inside, last]))
        assert walked.nfe == n + (2 if make is dpmpp_3m else 0)
        errors.append((walked.x - exact).abs().max())
    found = math.log2(errors[0] / errors[1])
    near_noise = schedule == Cosine() and first == 0.95  # UniPC-3's first steps hardly show there
    assert order - 0.15 < found < order + (1.15 if near_noise else 0.15)


def test_the_single_step_that_3m_begins_with_is_one_point_of_its_past():
    """Below pure noise: step 1 is DPM-Solver-3's, step 2 looks back on the start alone (2M)."""
    d, times = MIX.denoiser(VP), [0.6, 0.5, 0.42, 0.3]
    states = list(walk(dpmpp_3m(), d, X, times))
    assert [s.nfe for s in states] == [0, 3, 4, 5]
    assert torch.equal(states[1].x, sample(walk(dpm_solver(3), d, X, times[:2])).x)
    ask = Ask(d)
    ask(X, times[0])
    assert torch.allclose(dpmpp_2m()(ask, states[1].x, *times[1:3]), states[2].x, atol=1e-13)


def test_from_pure_noise_3m_asks_once_a_step():
    """At t = 1, or at the lowest lambda that the denoiser knows, there is no single step first."""
    d = MIX.denoiser(EDM(20.0))
    for lam_range, calls in (((-2.9957, 4.0), 10), (None, 10), ((-2.0, 4.0), 10)):
        d.lam_range = lam_range
        times = grid(d.schedule, 10, "karras", lam_range=lam_range)
        assert sample(walk(dpmpp_3m(), d, X, times)).nfe == calls
    d.lam_range = (-2.9957, 4.0)
    assert sample(walk(dpmpp_3m(), d, X, times)).nfe == 12, "a start above the lowest lambda"


@pytest.mark.parametrize("make", [euler, heun])
def test_churn_is_capped_at_root_two_less_one(make):
    denoiser, times = MIX.denoiser(EDM(80.0)), grid(EDM(80.0), 8, "karras")

    def run(churn):
        return sample(walk(make(churn), denoiser, 40 * X, times[2:], noise=noise)).x

    assert torch.equal(run(2**0.5 - 1), run(0.9))
    assert not torch.equal(run(2**0.5 - 1), run(0.4))


@pytest.mark.parametrize("clean", [False, True], ids=["to noise", "to data"])
@pytest.mark.parametrize(
    "make,order",
    [(dpmpp_2m, 2), (partial(dpmpp_3m, True), 3), (partial(unipc, 2), 2), (partial(unipc, 3), 3)],
    ids=["2M", "3M", "UniPC-2", "UniPC-3"],
)
def test_orders_are_lowered_in_the_last_steps_only(make, order, clean):
    """The plain walk until order - 1 steps are left; the last step is of first order."""
    d, times = MIX.denoiser(VP), in_lambda(8) + [0.0] * clean
    plain = list(walk(make(), d, X, times))
    lowered = list(walk(make(lower_order_final=True), d, X, times))
    same = len(times) - order  # the number of the last state that is the same
    assert all(torch.equal(lowered[k].x, plain[k].x) for k in range(same + 1))
    # from there UniPC corrects the step before, which was not lowered, by its own order
    assert torch.equal(lowered[same + 1].pred.x_t, plain[same + 1].pred.x_t)
    if order == 3:
        assert not torch.allclose(lowered[same + 1].x, plain[same + 1].x, atol=1e-6)
    alpha, sigma = VP.alpha_sigma(times[-1])
    last = lowered[-1]
    assert torch.allclose(last.x, last.pred.mix(x0=alpha, eps=sigma), atol=1e-12)
    if order == 2 and not clean:
        assert not torch.allclose(last.x, plain[-1].x, atol=1e-6)
    if order == 3 and make.func is dpmpp_3m:  # the step before is 2M's
        ask = Ask(d)
        for k in (same - 1, same):
            x = dpmpp_2m()(ask, lowered[k].x, times[k], times[k + 1])
        assert torch.allclose(x, lowered[same + 1].x, atol=1e-12)
