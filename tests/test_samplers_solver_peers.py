"""The solvers of lesson 07 step by step against diffusers and k-diffusion, on equal inputs.

Conventions, beside those that ``test_peers.py`` names:

- diffusers' single-step scheduler asks the network at every time of its grid and groups the answers
  by ``order_list``; a step of order k here is k of its times. Its third order with "midpoint" takes
  its inner point by "midpoint" too; DPM-Solver-3 as published takes that one by "heun".
- Its UniPC lowers the order towards the end (``lower_order_final``), which needs to know how many
  steps are left; here only the last step, onto clean data, is of first order.
- Its HeunDiscrete lives in x/alpha.
- Their ++(3M), k-diffusion's too, has half of the second derivative's term
  (``test_samplers_solvers.py`` measures what that does to its order); taken off ours, the steps
  are equal. k-diffusion's second step is the two-node rule with phi_2 where diffusers and we take
  2M's.
- k-diffusion works in sigma with alpha = 1: our EDM schedule.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

pytest.importorskip("diffusers", reason="the peers extra is not installed")

import diffusers
from helpers import F64, randn
from test_peers import LINEAR, Net, Plain, X, compare, with_our_table, z

from diffusion_lab.course.bench.overhead import k_diffusion_sampling
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.grids import grid
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
from diffusion_lab.samplers.exponential import phi
from diffusion_lab.schedules import EDM
from diffusion_lab.walk import sample, walk

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SINGLE = 5e-7  # diffusers steps in single precision


def sigmas_of(times, schedule=LINEAR):
    pairs = [schedule.alpha_sigma(t) for t in times]
    return torch.tensor([sigma / alpha for alpha, sigma in pairs], dtype=F64)


def prepared(cls, times, **options):
    """Their scheduler on our noise levels: those of ``times``, in double precision."""
    scheduler = cls(**options)
    with_our_table(scheduler, LINEAR)
    scheduler.set_timesteps(len(times) - 1)
    scheduler.sigmas = sigmas_of(times)
    return scheduler


def steps_of(scheduler, times, net=None, **more):
    """Their loop, our network asked at our times; all states."""
    net, x, states = net or Net(), X, [X]
    for j, t in zip(scheduler.timesteps, times[:-1], strict=True):
        x = scheduler.step(net.raw(x, t)[0], j, x, return_dict=False, **more)[0]
        states.append(x)
    return states


def half_second(ask, x_s, t, s):
    """x_s of our ++(3M) less half of its second-derivative term: what the peers ship."""
    (_, older), (_, old), (_, p) = ask.history[-3:]
    alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
    h = math.log(alpha_s / sigma_s) - p.lam
    r0, r1 = (p.lam - old.lam) / h, (old.lam - older.lam) / h
    second = ((p.x0 - old.x0) / r0 - (old.x0 - older.x0) / r1) / (r0 + r1)
    return x_s - alpha_s * h * phi(3, -h) * second


def published_3m(second_step_by_phi=False):
    inner = dpmpp_3m()

    def step(ask, x, t, s):
        x_s = inner(ask, x, t, s) if ask.i else ddim()(ask, x, t, s)  # theirs begins with DDIM
        alpha_s, sigma_s = ask.schedule.alpha_sigma(s)
        if sigma_s == 0 or len(ask.history) == 1:
            return x_s
        if len(ask.history) > 2:
            return half_second(ask, x_s, t, s)
        if second_step_by_phi:
            (_, old), (_, p) = ask.history
            h = math.log(alpha_s / sigma_s) - p.lam
            slope = (p.x0 - old.x0) * h / (p.lam - old.lam)
            x_s = x_s + alpha_s * h * (phi(2, -h) - 0.5 * phi(1, -h)) * slope
        return x_s

    return step


# ---- diffusers ----------------------------------------------------------------------------------
MULTI = {
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "timestep_spacing": "trailing",
    "lower_order_final": False,
}
SPACING = pytest.mark.parametrize("spacing", ["uniform", "lambda", "karras"])


@SPACING
@pytest.mark.parametrize(
    "order,step",
    [(1, ddim), (2, dpmpp_2m), (3, published_3m), (3, partial(dpmpp_3m, published=True))],
)
def test_multistep(order, step, spacing):
    times = grid(LINEAR, 12, spacing)
    theirs = prepared(diffusers.DPMSolverMultistepScheduler, times, solver_order=order, **MULTI)
    compare(walk(step(), Net(), X, times), steps_of(theirs, times), SINGLE)


@SPACING
@pytest.mark.parametrize("order", [1, 2])
def test_multistep_sde(order, spacing, monkeypatch):
    count = iter(range(1000))

    def draw(shape, **_):
        return z(next(count), torch.empty(tuple(shape)))

    name = "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor"
    monkeypatch.setattr(name, draw)
    times = grid(LINEAR, 12, spacing)
    options = MULTI | {"algorithm_type": "sde-dpmsolver++", "solver_order": order}
    theirs = prepared(diffusers.DPMSolverMultistepScheduler, times, **options)

    def of_first_order(ask, x, t, s):  # ours without its past
        ask.history.clear()
        return dpmpp_sde()(ask, x, t, s)

    step = dpmpp_sde() if order == 2 else of_first_order
    compare(walk(step, Net(), X, times, noise=z), steps_of(theirs, times), SINGLE)


@pytest.mark.parametrize(
    "kind,order,step",
    [
        ("dpmsolver", 2, dpm_solver(2)),
        ("dpmsolver", 3, dpm_solver(3)),
        ("dpmsolver++", 2, dpmpp_2s()),
    ],
    ids=["2", "3", "++2S"],
)
def test_singlestep(kind, order, step):
    """Five steps of order k are 5 k of their times, uniform in lambda, and a last one onto data."""
    fine = grid(LINEAR, 5 * order + 1, "lambda")
    coarse = [*fine[:-1:order], 0.0]
    theirs = prepared(
        diffusers.DPMSolverSinglestepScheduler,
        fine,
        solver_order=order,
        algorithm_type="dpmsolver++",
        lower_order_final=True,
    )
    theirs.register_to_config(algorithm_type=kind)
    theirs.order_list = [*(list(range(1, order + 1)) * 5), 1]
    net, x, states = Net(), X, [X]
    for i, (j, t) in enumerate(zip(theirs.timesteps, fine[:-1], strict=True)):
        if i == 5 * order:  # the noise form has no last step; its x0 is the first-order limit
            states.append(net(x, t).x0)
            break
        inner = kind == "dpmsolver" and order == 3 and i % 3 == 1
        theirs.register_to_config(solver_type="heun" if inner else "midpoint")
        x = theirs.step(net.raw(x, t)[0], j, x, return_dict=False)[0]
        if i % order == order - 1:
            states.append(x)
    compare(walk(step, Net(), X, coarse), states, SINGLE)


@SPACING
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order, spacing):
    times = grid(LINEAR, 12, spacing)
    theirs = prepared(
        diffusers.UniPCMultistepScheduler,
        times,
        solver_order=order,
        solver_type="bh2",
        lower_order_final=order < 3,
        timestep_spacing="trailing",
    )
    ours = list(walk(unipc(order), Net(), X, times))
    if order < 3:
        compare(ours, steps_of(theirs, times), SINGLE)
        return
    net, x, states = Net(), X, [X]
    for i, (j, t) in enumerate(zip(theirs.timesteps, times[:-1], strict=True)):
        if i == len(times) - 2:
            theirs.register_to_config(lower_order_final=True)  # the step onto data alone
        x = theirs.step(net.raw(x, t)[0], j, x, return_dict=False)[0]
        states.append(x)
    compare(ours, states, SINGLE)


def test_unipc_with_an_order_lowered_early_is_something_else():
    """Their default for order 3: the last step but one is of order 2."""
    times = grid(LINEAR, 12)
    theirs = prepared(
        diffusers.UniPCMultistepScheduler, times, solver_order=3, timestep_spacing="trailing"
    )
    with pytest.raises(AssertionError, match="step 11"):
        compare(walk(unipc(3), Net(), X, times), steps_of(theirs, times), SINGLE)


@SPACING
@pytest.mark.parametrize("clean", [False, True], ids=["to 1/T", "to data"])
@pytest.mark.parametrize(
    "cls,order,make",
    [
        (diffusers.DPMSolverMultistepScheduler, 2, dpmpp_2m),
        (diffusers.DPMSolverMultistepScheduler, 3, partial(dpmpp_3m, published=True)),
        (diffusers.UniPCMultistepScheduler, 2, partial(unipc, 2)),
        (diffusers.UniPCMultistepScheduler, 3, partial(unipc, 3)),
    ],
    ids=["++2M", "++3M", "UniPC-2", "UniPC-3"],
)
def test_an_order_lowered_towards_the_end(cls, order, make, clean, spacing):
    """Their default for few steps, wherever the walk ends; without it the end is another one."""
    times = grid(LINEAR, 12, spacing)[: None if clean else -1]
    options = {"solver_order": order, "lower_order_final": True, "timestep_spacing": "trailing"}
    theirs = steps_of(prepared(cls, times, **options), times)
    compare(walk(make(lower_order_final=True), Net(), X, times), theirs, SINGLE)
    if not clean or order == 3:
        plain = sample(walk(make(), Net(), X, times)).x
        assert (plain - theirs[-1]).abs().max() > 100 * SINGLE


@SPACING
def test_heun_discrete(spacing):
    times = grid(LINEAR, 10, spacing)
    scheduler = diffusers.HeunDiscreteScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    sigmas = sigmas_of(times)
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    asked = [times[0], *(t for t in times[1:-1] for _ in range(2))]
    net, y = Net(), X / LINEAR.alpha(times[0])
    states = [X]
    for i, (j, t) in enumerate(zip(scheduler.timesteps, asked, strict=True)):
        scaled = scheduler.scale_model_input(y, j)  # y / sqrt(1 + sigma^2) = alpha y
        assert torch.allclose(scaled, LINEAR.alpha(t) * y, rtol=1e-6)
        y = scheduler.step(net.raw(LINEAR.alpha(t) * y, t)[0], j, y, return_dict=False)[0]
        if i % 2 == 1 or i == len(asked) - 1:  # a whole step is done
            states.append(LINEAR.alpha(times[len(states)]) * y)
    compare(walk(heun(), Net(), X, times), states, 1e-9)


# ---- k-diffusion --------------------------------------------------------------------------------
SCHEDULE = EDM(200.0)
DENOISER = NetDenoiser(Plain(), SCHEDULE, "edm", sd=0.5)
TIMES = grid(SCHEDULE, 12, "karras", lam_range=(-math.log(80.0), -math.log(0.002)))
START = 80 * X


@pytest.fixture(scope="module")
def sampling():
    try:
        return k_diffusion_sampling()
    except ImportError as error:
        pytest.skip(f"k-diffusion's sampling module cannot be loaded: {error}")


def model(x, sigma):
    """What k-diffusion calls a model: x0_hat(x, sigma)."""
    return DENOISER(x, SCHEDULE.t_of_lam(-math.log(sigma[0].item()))).x0


def their_states(sampler, **options):
    """All states of one of its samplers; the callback sees x before each step (after churn)."""
    seen = []
    end = sampler(
        model,
        START,
        sigmas_of(TIMES, SCHEDULE),
        disable=True,
        callback=lambda d: seen.append(d["x"]),
        **options,
    )
    return [*seen, end]


def silent(*_):
    return torch.zeros(())


@pytest.mark.parametrize(
    "name,step,options",
    [
        ("sample_euler", euler(), {}),
        ("sample_heun", heun(), {}),
        ("sample_dpmpp_2m", dpmpp_2m(), {}),
        ("sample_dpmpp_2s_ancestral", dpmpp_2s(), {"eta": 0.0, "noise_sampler": silent}),
        ("sample_dpmpp_2m_sde", dpmpp_2m(), {"eta": 0.0, "noise_sampler": silent}),
        ("sample_dpmpp_3m_sde", published_3m(True), {"eta": 0.0, "noise_sampler": silent}),
    ],
)
def test_k_diffusion(sampling, name, step, options):
    theirs = their_states(getattr(sampling, name), **options)
    compare(walk(step, DENOISER, START, TIMES), theirs, 1e-9)


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_k_diffusion_sde(sampling, eta):
    count = iter(range(1000))
    draw = their_states(
        sampling.sample_dpmpp_2m_sde, eta=eta, noise_sampler=lambda *_: z(next(count), X)
    )
    compare(walk(dpmpp_sde(eta), DENOISER, START, TIMES, noise=z), draw, 1e-9)


@pytest.mark.parametrize("name,step", [("sample_euler", euler), ("sample_heun", heun)])
def test_k_diffusion_churn(sampling, monkeypatch, name, step):
    """Their S_churn is our share of a step times the number of steps; noise is put back from 0.05
    to 50, and drawn by them in every step, used or not."""
    churn, low, high, s_noise = 4.0, 0.05, 50.0, 1.007
    sigmas = sigmas_of(TIMES, SCHEDULE)
    used = [i for i, s in enumerate(sigmas[:-1].tolist()) if low <= s <= high]
    assert 0 < len(used) < len(sigmas) - 2
    count = iter(range(1000))
    monkeypatch.setattr(sampling.torch, "randn_like", lambda x: z(next(count), x))
    end = getattr(sampling, name)(
        model, START, sigmas, disable=True, s_churn=churn, s_tmin=low, s_tmax=high, s_noise=s_noise
    )
    monkeypatch.undo()
    steps = len(TIMES) - 1
    ours = list(
        walk(
            step(churn / steps, low, high, s_noise),
            DENOISER,
            START,
            TIMES,
            noise=lambda i, like: z(used[i], like),
        )
    )
    compare(ours[-1:], [end], 1e-9)


@pytest.mark.parametrize("nfe", [6, 7, 8, 12])
def test_k_diffusion_fast(sampling, nfe, monkeypatch):
    """DPM-Solver-fast: the same split of the calls, and single steps of order 1, 2, 3."""
    orders = split_calls(nfe, 3, clean=False)
    low, high = math.log(0.01), math.log(80.0)
    lams = [-high + (high - low) * i / len(orders) for i in range(len(orders) + 1)]
    times = [SCHEDULE.t_of_lam(lam) for lam in lams]
    seen = []
    solver = sampling.DPMSolver(model, info_callback=lambda d: seen.append(d["x"]))
    ends = (torch.tensor(lams[i], dtype=F64) for i in (0, -1))
    plain = torch.linspace  # theirs would lay the times in single precision
    monkeypatch.setattr(sampling.torch, "linspace", lambda *a, **k: plain(*a, **k | {"dtype": F64}))
    with torch.no_grad():
        end = solver.dpm_solver_fast(START, *ends, nfe)
    monkeypatch.undo()
    step = dpm_solver(dict(zip(times, orders, strict=False)))
    ours = list(walk(step, DENOISER, START, times))
    assert ours[-1].nfe == nfe
    compare(ours, [*seen, end], 1e-9)


def test_a_wrong_sign_of_r_would_be_seen(sampling):
    """The tolerance sees what it should: 2M with its past added instead of subtracted."""

    def wrong(ask, x, t, s):
        before = ask.history[-1][1] if ask.history else None
        x_s = dpmpp_2m()(ask, x, t, s)
        sigma_s = SCHEDULE.sigma(s)
        if before is None or sigma_s == 0:
            return x_s
        p = ask.history[-1][1]
        h = -math.log(sigma_s) - p.lam
        share = h / (2 * (p.lam - before.lam))
        return x_s + 2 * math.expm1(-h) * share * (p.x0 - before.x0)

    theirs = their_states(sampling.sample_dpmpp_2m)
    with pytest.raises(AssertionError, match="step 2"):
        compare(walk(wrong, DENOISER, START, TIMES), theirs, 1e-5)


def test_the_noise_helper_is_what_the_walk_draws():
    assert torch.equal(z(3, X), randn(*X.shape, seed=103))
