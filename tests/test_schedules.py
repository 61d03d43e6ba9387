"""Schedules against closed forms: the numbers of the papers, inverses, slopes."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from helpers import F64, SCHEDULES, VP_SCHEDULES

from diffusion_lab.exact import Gaussian
from diffusion_lab.forward import posterior
from diffusion_lab.generate import generate
from diffusion_lab.schedules import (
    EDM,
    VE,
    Cosine,
    Linear,
    Sigmoid,
    Table,
    _log_alpha_vp,
    cosine,
    linear,
    make,
    zero_terminal_snr,
)
from diffusion_lab.scheduling.fastdpm import GammaLevels
from diffusion_lab.scores.subvp import SubVP


def every(schedules):
    return pytest.mark.parametrize("schedule", schedules, ids=repr)


# ---- the numbers of the papers ------------------------------------------------------------------
def test_linear_1000_keeps_a_little_of_the_data_at_the_end():
    s = linear(1000)
    assert s.T == 1000
    assert s.alpha(1.0) ** 2 == pytest.approx(4.036e-5, rel=2e-4)
    assert s.alpha(1.0) == pytest.approx(0.00635, abs=5e-6)
    assert s.alpha(0.001) ** 2 == pytest.approx(0.9999, abs=1e-12)
    beta = s.betas()
    assert torch.allclose(beta, torch.linspace(1e-4, 0.02, 1000, dtype=F64), rtol=1e-10)
    # abar is the running product of 1 - beta, multiplied out here once more
    product = 1.0
    for i, b in enumerate(torch.linspace(1e-4, 0.02, 1000, dtype=F64).tolist(), start=1):
        product *= 1 - b
        assert s.alpha(i / 1000) ** 2 == pytest.approx(product, rel=1e-12)


def test_no_noise_at_time_zero():
    for s in VP_SCHEDULES:
        assert s.alpha_sigma(0.0) == (1.0, 0.0)
        alpha, sigma = s.alpha_sigma(torch.zeros(3))
        assert alpha.tolist() == [1.0] * 3
        assert sigma.tolist() == [0.0] * 3


def test_other_numbers_of_steps_scale_the_betas():
    beta = linear(250).betas()
    assert beta[0].item() == pytest.approx(4e-4, rel=1e-9)
    assert beta[-1].item() == pytest.approx(0.08, rel=1e-9)
    # nearly the same end, so nearly the same continuous process
    assert linear(4000).lam(1.0) == pytest.approx(Linear().lam(1.0), abs=0.02)
    assert linear(4000).lam(0.5) == pytest.approx(Linear().lam(0.5), abs=0.01)


def test_cosine_1000():
    s = cosine(1000)
    beta = s.betas()
    assert beta[0].item() == pytest.approx(4.13e-5, rel=2e-3)
    assert s.alpha(1.0) ** 2 == pytest.approx(2.4e-9, rel=0.02)
    assert (beta >= 0.999 - 1e-12).sum() == 1, "only the last step is clipped"
    # away from the clipped end it is the continuous schedule
    for i in (1, 250, 500, 999):
        assert s.alpha(i / 1000) == pytest.approx(Cosine().alpha(i / 1000), rel=1e-10)


def test_cosine_is_the_formula_of_the_paper():
    for t in (0.0, 0.1, 0.5, 0.9, 1.0):
        h = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t, 0.0)]
        assert Cosine().alpha(t) ** 2 == pytest.approx(h[0] / h[1], abs=1e-15)
    assert Cosine().alpha(1.0) == 0.0


def test_sigmoid_values():
    s = Sigmoid()
    values = [s.alpha(u) ** 2 for u in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert values == pytest.approx([1.0, 0.8509, 0.5, 0.1491, 1e-9], abs=5e-5)
    assert values[-1] == pytest.approx(1e-9, rel=1e-6)


def test_ve_and_edm():
    ve = VE(0.01, 50.0)
    assert [ve.sigma(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.01, math.sqrt(0.5), 50.0])
    edm = EDM()
    assert edm.sigma(0.0) == 0.0
    assert edm.sigma(1.0) == pytest.approx(80.0)
    assert edm.sigma(0.5) == pytest.approx(80 * 0.5**7)
    for s in (ve, edm):
        assert s.alpha(0.3) == 1.0
        assert s.prior_std() == pytest.approx(s.sigma(1.0))
        assert s.prior_std(0.5) == pytest.approx(s.sigma(0.5))
    assert Linear().prior_std(0.7) == 1.0


def test_sub_vp_has_the_drift_of_vp_and_less_noise():
    """sigma = 1 - e^{-B} is a standard deviation; g^2 = beta (1 - e^{-2B})."""
    s, vp = SubVP(), Linear()
    t = torch.tensor([1e-3, 0.1, 0.3, 0.7, 1.0], dtype=F64)
    big_b = 0.1 * t + 0.5 * 19.9 * t**2
    alpha, sigma = s.alpha_sigma(t)
    assert torch.allclose(alpha, (-big_b / 2).exp(), rtol=1e-13)
    assert torch.allclose(sigma, 1 - (-big_b).exp(), rtol=1e-10)
    assert torch.allclose(sigma, vp.sigma(t) ** 2, rtol=1e-13)
    f, g2 = s.drift_diffusion(t)
    assert torch.allclose(f, vp.drift_diffusion(t)[0], rtol=1e-12)
    beta = 0.1 + 19.9 * t
    assert torch.allclose(g2, beta * (1 - (-2 * big_b).exp()), rtol=1e-10)
    assert s.drift_diffusion(0.0)[1] == pytest.approx(0.0, abs=1e-12)
    assert s.prior_std() == 1.0
    assert s.alpha_sigma(0.0) == (1.0, 0.0)
    assert s.t_of_lam(-1e4) == 1.0


def test_the_variance_equation_of_sub_vp_ends_where_its_formula_says():
    """dV/dt = 2 f V + g^2 from V(0) = 0 by Heun reaches sigma^2 = .36441 at t = .3."""
    s, n = SubVP(), 2000
    times = torch.linspace(0, 0.3, n + 1, dtype=F64)
    f, g2 = s.drift_diffusion(times)
    v, h = 0.0, 0.3 / n
    for i in range(n):
        slope = 2 * f[i] * v + g2[i]
        ahead = v + h * slope
        v = v + h * (slope + 2 * f[i + 1] * ahead + g2[i + 1]) / 2
    assert float(v) == pytest.approx(s.sigma(0.3) ** 2, abs=1e-6)
    assert s.sigma(0.3) ** 2 == pytest.approx(0.36441, abs=5e-6)


def test_zero_terminal_snr():
    s = zero_terminal_snr(linear(1000))
    assert s.alpha(0.001) ** 2 == pytest.approx(0.9999, abs=1e-12)
    assert s.alpha_sigma(1.0) == (0.0, 1.0)
    assert s.lam(1.0) == -math.inf
    assert s.snr(1.0) == 0.0
    assert s.betas()[-1].item() == 1.0
    before = [linear(1000).alpha(i / 1000) for i in (1, 400, 1000)]
    expected = (before[1] - before[2]) * before[0] / (before[0] - before[2])
    assert s.alpha(0.4) == pytest.approx(expected, rel=1e-12)


@every(SCHEDULES)
def test_shape_of_every_schedule(schedule):
    t = torch.linspace(0, 1, 501, dtype=F64)
    alpha, sigma = schedule.alpha_sigma(t)
    lam = schedule.lam(t)
    assert (torch.diff(lam) < 0).all(), "lambda falls"
    assert (torch.diff(sigma) > 0).all() or schedule.vp
    if schedule.vp:
        assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t), atol=1e-14)
    inside = slice(1, -1)
    assert torch.allclose(lam[inside], (alpha / sigma).log()[inside], atol=1e-9)
    if schedule.T is not None:
        beta = schedule.betas()
        assert ((beta > 0) & (beta <= 1)).all()


@every(SCHEDULES)
def test_floats_and_tensors_agree(schedule):
    times = [0.0, 1e-3, 0.0137, 0.3, 0.5, 0.77, 0.999, 1.0]
    t = torch.tensor(times, dtype=F64)
    for name in ("alpha", "sigma", "lam", "snr"):
        floats = torch.tensor([getattr(schedule, name)(u) for u in times], dtype=F64)
        tensors = getattr(schedule, name)(t)
        assert tensors.dtype == F64
        assert torch.allclose(tensors, floats, rtol=1e-10, atol=1e-13), name


@every(SCHEDULES)
def test_lambda_and_its_inverse(schedule):
    start = 1 / schedule.T if schedule.T else 1e-3
    times = [start, 0.01, 0.1, 0.25, 0.5, 0.8, 0.97, 1.0]
    times = [t for t in times if t >= start]
    back = [schedule.t_of_lam(schedule.lam(t)) for t in times]
    # Sigmoid is flat to 1e-9 at its clipped end: t = 1 there cannot be told from 1 - 4e-9
    assert back == pytest.approx(times, abs=1e-8 if isinstance(schedule, Sigmoid) else 2e-11)
    t = torch.tensor(times, dtype=F64)
    assert torch.allclose(schedule.t_of_lam(schedule.lam(t)), t, rtol=0, atol=1e-8)
    lams = torch.linspace(-3.5, 4.0, 40, dtype=F64)
    lams = lams[lams < schedule.lam(start)]
    again = schedule.lam(schedule.t_of_lam(lams))
    assert torch.allclose(again, lams, rtol=0, atol=1e-9)
    one_by_one = [schedule.t_of_lam(lam) for lam in lams.tolist()]
    assert torch.allclose(schedule.t_of_lam(lams), torch.tensor(one_by_one, dtype=F64), atol=1e-11)


@every(SCHEDULES)
def test_infinite_lambda_has_a_time(schedule):
    assert schedule.t_of_lam(math.inf) == 0.0
    assert schedule.t_of_lam(-math.inf) == 1.0
    ends = schedule.t_of_lam(torch.tensor([math.inf, -math.inf]))
    assert ends.tolist() == [0.0, 1.0]


def test_lambda_far_out_keeps_its_digits():
    """softplus turns into a straight line too early by default: 2e-9 in log alpha."""
    for lam in (-30.0, -12.0, -10.5, 12.0):
        # alpha^2 = 1 / (1 + e^{-2 lambda}), written so that no large number is added to 1
        exact = min(lam, 0.0) - 0.5 * math.log1p(math.exp(-2 * abs(lam)))
        assert _log_alpha_vp(torch.tensor(lam, dtype=F64)).item() == pytest.approx(exact, rel=1e-14)
        assert _log_alpha_vp(lam) == pytest.approx(exact, rel=1e-14)


def test_the_linear_inverse_is_the_formula_of_the_specification():
    s = Linear()
    for lam in (-4.0, -1.0, 0.0, 2.0, 5.0):
        q = 2 * (s.b1 - s.b0) * math.log(1 + math.exp(-2 * lam))
        t = q / ((math.sqrt(s.b0**2 + q) + s.b0) * (s.b1 - s.b0))
        assert s.t_of_lam(lam) == pytest.approx(t, rel=1e-13)
    assert s.lam(s.t_of_lam(1.5)) == pytest.approx(1.5, abs=1e-13)


def test_between_grid_points_abar_is_a_straight_line():
    s = linear(10)
    mid = s.alpha(0.35) ** 2
    assert mid == pytest.approx(0.5 * (s.alpha(0.3) ** 2 + s.alpha(0.4) ** 2), rel=1e-12)
    assert s.alpha(torch.tensor([0.35])).item() ** 2 == pytest.approx(mid, rel=1e-6)


def test_grid_times_in_single_precision_are_grid_times():
    s = linear(1000)
    i = torch.arange(1, 1001)
    exact = s.alpha(i.double() / 1000)
    assert torch.equal(s.alpha(i.float() / 1000), exact)


# ---- drift and diffusion ------------------------------------------------------------------------
def test_linear_drift_is_beta_of_t():
    s = Linear()
    t = torch.tensor([0.0, 0.01, 0.3, 0.8, 1.0], dtype=F64)
    beta = s.b0 + t * (s.b1 - s.b0)
    f, g2 = s.drift_diffusion(t)
    assert torch.allclose(f, -0.5 * beta, rtol=1e-12)
    assert torch.allclose(g2, beta, rtol=1e-12)


def test_ve_and_edm_diffusion():
    s = VE()
    t = torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    f, g2 = s.drift_diffusion(t)
    assert torch.equal(f, torch.zeros_like(t))
    g = s.sigma(t) * math.sqrt(2 * math.log(s.sigma_max / s.sigma_min))
    assert torch.allclose(g2, g**2, rtol=1e-12)
    t = torch.tensor([0.2, 0.7, 1.0], dtype=F64)
    _, g2 = EDM().drift_diffusion(t)  # d sigma^2 / dt
    assert torch.allclose(g2, 2 * 7 * 80.0**2 * t**13, rtol=1e-12)


def test_cosine_and_sigmoid_drift():
    t = torch.tensor([0.0, 0.1, 0.5, 0.95], dtype=F64)
    f, g2 = Cosine().drift_diffusion(t)
    angle = math.pi / 2 * (t + 0.008) / 1.008
    assert torch.allclose(f, -math.pi / 2 / 1.008 * angle.tan(), rtol=1e-11)
    assert torch.allclose(g2, -2 * f, rtol=1e-12)
    f, g2 = Sigmoid().drift_diffusion(t)
    p = torch.sigmoid(6 * t - 3)
    span = 1 / (1 + math.exp(-3)) - 1 / (1 + math.exp(3))
    dabar = -6 * p * (1 - p) / span
    assert torch.allclose(f, 0.5 * dabar / Sigmoid().alpha(t) ** 2, rtol=1e-10)
    assert torch.allclose(g2, -2 * f, rtol=1e-10)


@every([Linear(), Cosine(), Sigmoid(), VE(), EDM(), SubVP()])
def test_diffusion_agrees_with_its_other_formula(schedule):
    """g^2 = d sigma^2/dt - 2 f sigma^2, by finite differences."""
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    f, g2 = schedule.drift_diffusion(t)
    h = 1e-5
    slope = (schedule.sigma(t + h) ** 2 - schedule.sigma(t - h) ** 2) / (2 * h)
    assert torch.allclose(g2, slope - 2 * f * schedule.sigma(t) ** 2, rtol=1e-6)


@pytest.mark.parametrize("schedule", [EDM(), VE()], ids=repr)
def test_the_diffusion_at_clean_data_is_its_limit(schedule):
    _, at_zero = schedule.drift_diffusion(torch.tensor([0.0, 1e-4]))
    exact = (
        [0.0, 0.0]
        if isinstance(schedule, EDM)
        else [2e-4 * math.log(5000) * 5000 ** (2 * t) for t in (0.0, 1e-4)]
    )
    assert at_zero.tolist() == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_a_table_has_slopes_on_its_own_grid():
    table, smooth = linear(1000), Linear()
    t = torch.arange(1, 1000, dtype=F64) / 1000
    f, g2 = table.drift_diffusion(t)
    # the slope of the interval that begins at t: -0.5 T beta_{i+1} / (1) to first order
    assert torch.allclose(f, -0.5 * 1000 * table.betas()[1:], rtol=1e-9)
    assert torch.allclose(g2, -2 * f)
    assert torch.allclose(f, smooth.drift_diffusion(t)[0], rtol=0.02, atol=0.02)


def test_drift_takes_a_float_too():
    f, g2 = Linear().drift_diffusion(0.3)
    assert (f, g2) == pytest.approx((-0.5 * 6.07, 6.07))


# ---- two times at once --------------------------------------------------------------------------
@every([Linear(), Cosine(), Sigmoid(), linear(1000), VE(), EDM(), SubVP()])
def test_posterior_identities(schedule):
    times = [0.9999, 0.9, 0.61, 0.5, 0.3, 0.1, 0.02]
    for t, s in itertools.combinations(times, 2):
        (at, st), (a_s, ss) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        c_t, c_0, var, v_ts = posterior(schedule, t, s)
        # drawing x_t given x_0 and then x_s given both is drawing x_s given x_0
        assert c_0 + c_t * at == pytest.approx(a_s, rel=1e-12)
        assert c_t**2 * st**2 + var == pytest.approx(ss**2, rel=1e-12)
        # and x_t from x_s lands on q(x_t | x_0)
        assert (at / a_s) ** 2 * ss**2 + v_ts == pytest.approx(st**2, rel=1e-12)
        # precisions add up: Bayes' rule for the two ways to know x_s
        assert 1 / var == pytest.approx(1 / ss**2 + (at / a_s) ** 2 / v_ts, rel=1e-9)
        assert c_t / var == pytest.approx((at / a_s) / v_ts, rel=1e-9)
        assert c_0 / var == pytest.approx(a_s / ss**2, rel=1e-9)


def test_posterior_on_neighbours_is_that_of_ddpm():
    s, beta = linear(1000), linear(1000).betas()
    abar = torch.cat([torch.ones(1, dtype=F64), torch.cumprod(1 - beta, 0)])
    for i in (1, 2, 10, 500, 1000):
        b, now, before = beta[i - 1].item(), abar[i].item(), abar[i - 1].item()
        c_t, c_0, var, v_ts = posterior(s, i / 1000, (i - 1) / 1000)
        assert v_ts == pytest.approx(b, rel=1e-9)
        assert var == pytest.approx(b * (1 - before) / (1 - now), rel=1e-9, abs=1e-18)
        assert c_0 == pytest.approx(math.sqrt(before) * b / (1 - now), rel=1e-9)
        assert c_t == pytest.approx(math.sqrt(1 - b) * (1 - before) / (1 - now), rel=1e-9)
        # the survey's eq 6: the same mean through eps, for some x_t and x_0
        x_t, x_0 = 0.7, -0.4
        eps = (x_t - math.sqrt(now) * x_0) / math.sqrt(1 - now)
        mean = (x_t - b / math.sqrt(1 - now) * eps) / math.sqrt(1 - b)
        assert c_t * x_t + c_0 * x_0 == pytest.approx(mean, rel=1e-9)


def test_posterior_on_tensors_and_from_pure_noise():
    s = zero_terminal_snr(linear(10))
    c_t, c_0, var, v_ts = posterior(s, 1.0, 0.5)
    assert (c_t, c_0, v_ts) == (0.0, s.alpha(0.5), 1.0)
    assert var == pytest.approx(s.sigma(0.5) ** 2)
    t, u = torch.tensor([0.9, 0.4]), torch.tensor([0.3, 0.0])
    many = posterior(s, t, u)
    for i in range(2):
        one = posterior(s, t[i].item(), u[i].item())
        assert [m[i].item() for m in many] == pytest.approx(one, rel=1e-9, abs=1e-15)


# ---- made by name, compared, printed ------------------------------------------------------------
@every(SCHEDULES)
def test_a_schedule_is_made_again_from_its_spec(schedule):
    again = make(**schedule.spec())
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again.alpha_sigma(0.37) == schedule.alpha_sigma(0.37)


def test_made_by_name():
    assert make("linear", T=1000) == linear(1000)
    assert make("cosine", T=30) == cosine(30)
    assert make("linear") == Linear()
    assert make("table", betas=[0.1, 0.2]) == Table([0.1, 0.2])
    assert Linear() != Linear(b1=10.0)
    assert Linear() != Cosine()
    assert "T=1000" in repr(linear(1000))


# ---- bad input ----------------------------------------------------------------------------------
@every(SCHEDULES)
@pytest.mark.parametrize("t", [-0.01, 1.01, math.nan, math.inf])
def test_times_outside_are_refused(schedule, t):
    for ask in (t, torch.tensor([0.5, t])):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            schedule.alpha_sigma(ask)
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            schedule.lam(ask)


def test_not_a_number_has_no_time():
    with pytest.raises(ValueError, match="lambda is not a number"):
        Linear().t_of_lam(math.nan)


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "10"])
def test_bad_numbers_of_steps(steps):
    for make_it in (lambda: linear(steps), lambda: cosine(steps)):
        with pytest.raises(ValueError, match="number of steps must be a whole number >= 1"):
            make_it()


def test_unknown_names_suggest_the_near_match():
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        make("cosin")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Linear(b0=0.0),
        lambda: Linear(b1=math.inf),
        lambda: Linear("a", 1),
        lambda: Sigmoid(end=math.inf),
        lambda: VE(sigma_max=math.inf),
        lambda: EDM(math.nan),
        lambda: Table("abc"),
        lambda: make("linear", betta=1),
        lambda: cosine(10, max_beta=2.0),
        lambda: Linear(b0=2.0, b1=1.0),
        lambda: SubVP(b0=2.0, b1=1.0),
        lambda: Cosine(0.0),
        lambda: Sigmoid(3.0, -3.0),
        lambda: Sigmoid(tau=0.0),
        lambda: VE(1.0, 0.5),
        lambda: EDM(sigma_max=-1.0),
        lambda: Table(),
        lambda: Table([0.1], abar=[0.9]),
        lambda: Table([]),
        lambda: Table([0.1, 0.0]),
        lambda: Table([0.1, 1.2]),
        lambda: Table([0.1, math.nan]),
        lambda: Table(abar=[0.9, 0.95]),
        lambda: Table(abar=[1.0, 0.5]),
        lambda: Table(abar=[[0.9, 0.5]]),
        lambda: zero_terminal_snr(Linear()),
    ],
)
def test_bad_parameters(bad):
    with pytest.raises(ValueError):
        bad()


# ---- one step, other exponents, other rooms -----------------------------------------------------
def test_a_single_step_destroys_the_data():
    for schedule in (linear(1), cosine(1)):
        assert schedule.alpha(1.0) < 0.04 and schedule.T == 1
        data = Gaussian([3.0, -2.0], [[0.25, 0.0], [0.0, 0.25]])
        x = generate(data.denoiser(schedule), 4000, sampler="ddim", steps=1).x
        assert torch.allclose(x.mean(0), torch.tensor([3.0, -2.0]), atol=0.05)
    with pytest.raises(ValueError, match="two steps or more"):
        zero_terminal_snr(linear(1))


@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0])
def test_edm_with_another_exponent(rho):
    """sigma_t = sigma_max t^rho, its inverse and g^2 = d sigma^2/dt."""
    s = EDM(80.0, rho=rho)
    assert s.sigma(0.5) == pytest.approx(80 * 0.5**rho)
    assert s.t_of_lam(s.lam(0.3)) == pytest.approx(0.3)
    assert s.drift_diffusion(0.25) == (0.0, pytest.approx(2 * rho * 6400 * 0.25 ** (2 * rho - 1)))
    with pytest.raises(ValueError, match="rho must be a finite number > 0"):
        EDM(80.0, rho=0.0)


@every([Linear(), Cosine(), Sigmoid(), VE(), EDM(), EDM(5.0, 1.5), SubVP(), GammaLevels(1000)])
def test_closed_rates_are_the_slopes(schedule):
    """d alpha^2/dt, d sigma^2/dt, f, g^2 and d SNR/dt against central differences."""
    h = 1e-5
    for t in (0.05, 0.31, 0.77, 0.98):
        up, down = schedule.alpha_sigma(t + h), schedule.alpha_sigma(t - h)
        a2, s2 = ((u**2 - d**2) / (2 * h) for u, d in zip(up, down))
        alpha, sigma = schedule.alpha_sigma(t)
        f, g2 = schedule.drift_diffusion(t)
        assert f == pytest.approx(0.5 * a2 / alpha**2, rel=1e-4, abs=1e-9)
        assert g2 == pytest.approx(s2 - 2 * f * sigma**2, rel=1e-4)
        snr = (schedule.snr(t + h) - schedule.snr(t - h)) / (2 * h)
        assert schedule.snr_slope(t) == pytest.approx(snr, rel=1e-4)
        many = torch.tensor([t, t], dtype=F64)
        assert schedule.drift_diffusion(many)[1].tolist() == pytest.approx([g2, g2])


def test_a_schedule_of_another_room_is_made_by_its_spec():
    for schedule in (GammaLevels(1000), GammaLevels(50, 1e-3, 0.3), SubVP(0.2, 10.0)):
        again = make(**json.loads(json.dumps(schedule.spec())))
        assert again == schedule and type(again) is type(schedule)
        assert again.lam(0.3) == schedule.lam(0.3)
    assert make("subvp", b1=10.0) == SubVP(0.1, 10.0)
    with pytest.raises(ValueError, match="nothing outside diffusion_lab"):
        make("os:system")


def test_numpy_times_are_told():
    with pytest.raises(ValueError, match="number or a tensor of times; got ndarray"):
        Linear().alpha(np.linspace(0, 1, 3))
    assert Linear().alpha(np.float32(0.5)) == pytest.approx(Linear().alpha(0.5))


OTHER = [Linear(0.3, 8.0), Cosine(0.05), Sigmoid(-2.0, 4.0, 0.7), VE(0.05, 9.0), EDM(5.0, 1.5)]


@every([*OTHER, SubVP(0.3, 8.0)])
def test_other_parameters_have_their_own_inverse_and_rates(schedule):
    """Each default changed: lambda and back, and the closed slopes against differences."""
    h = 1e-5
    for t in (0.05, 0.31, 0.77, 0.98):
        assert schedule.t_of_lam(schedule.lam(t)) == pytest.approx(t, abs=1e-8)
        up, down = schedule.alpha_sigma(t + h), schedule.alpha_sigma(t - h)
        a2, s2 = ((u**2 - d**2) / (2 * h) for u, d in zip(up, down))
        f, g2 = schedule.drift_diffusion(t)
        assert f == pytest.approx(0.5 * a2 / schedule.alpha(t) ** 2, rel=1e-4, abs=1e-9)
        assert g2 == pytest.approx(s2 - 2 * f * schedule.sigma(t) ** 2, rel=1e-4)


def test_other_parameters_are_in_the_formula():
    """abar at t = 0.5 of each, written out from its paper."""
    assert Linear(0.3, 8.0).alpha(0.5) ** 2 == pytest.approx(math.exp(-0.5 * 0.3 - 0.125 * 7.7))
    for s, schedule in ((0.05, Cosine(0.05)), (0.05, cosine(1000, s=0.05))):
        h = [math.cos((u + s) / (1 + s) * math.pi / 2) ** 2 for u in (0.5, 0.0)]
        assert schedule.alpha(0.5) ** 2 == pytest.approx(h[0] / h[1], rel=1e-9)
    low, here, high = (1 / (1 + math.exp(-z / 0.7)) for z in (-2.0, 1.0, 4.0))
    assert Sigmoid(-2.0, 4.0, 0.7).alpha(0.5) ** 2 == pytest.approx((high - here) / (high - low))
    assert VE(0.05, 9.0).sigma(0.5) == pytest.approx(math.sqrt(0.05 * 9.0))
    assert cosine(1000, max_beta=0.5).betas().max().item() == pytest.approx(0.5)
