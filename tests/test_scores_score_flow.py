"""ScoreFlow: bounds on Gaussians, where every KL is a formula or a one-line recursion."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import ExactDenoiser, Gaussian
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, linear
from diffusion_lab.scores import likelihood as lk
from diffusion_lab.scores import score_flow as sf
from diffusion_lab.scores.subvp import SubVP

F64 = torch.float64
LINEAR, T0 = Linear(), 1e-3
DATA, MODEL = Gaussian([0.0], [[0.25]]), Gaussian([0.0], [[0.4]])
TIMES = (T0, 1.0)


def kl_normal(var, model):
    return 0.5 * (math.log(model / var) + var / model - 1)


def scaled(share, data=DATA, schedule=LINEAR):
    """A model whose score is the true one times ``share``: the score of no diffusion."""

    def x0(x, alpha, sigma):
        return (x + sigma**2 * share * data.score(x, alpha, sigma)) / alpha

    return ExactDenoiser(schedule, x0, shape=(1,))


def model_variance(share: float, noise: float, n: int = 4000) -> float:
    """Variance at t = 0 of what SDE (noise 1) or ODE (0) draws with the score -share x/V_t.

    dV/du = -2 (f + (1 + c^2)/2 g^2 share/V_t) V + c^2 g^2 in u = 1 - t, by Heun from V = 1.
    """
    t = torch.linspace(0, 1, n + 1, dtype=F64).flip(0)
    f, g2 = LINEAR.drift_diffusion(t)
    alpha, sigma = LINEAR.alpha_sigma(t)
    rate = (-2 * f).tolist()
    pull = ((1 + noise**2) * g2 * share / (alpha**2 * 0.25 + sigma**2)).tolist()
    gain, v, h = (noise**2 * g2).tolist(), 1.0, 1 / n
    for i in range(n):
        slope = (rate[i] - pull[i]) * v + gain[i]
        ahead = v + h * slope
        v += h * (slope + (rate[i + 1] - pull[i + 1]) * ahead + gain[i + 1]) / 2
    return v


# ---- the weight and the law of t ----------------------------------------------------------------
def test_the_normaliser_of_the_law_of_t():
    assert sf.mass(LINEAR, T0) == pytest.approx(19.165, abs=5e-4)
    for schedule in (LINEAR, SubVP(), VE(), Cosine()):
        t = torch.linspace(0.05, 0.9, 20_001, dtype=F64)
        _, g2 = schedule.drift_diffusion(t)
        z = torch.trapezoid(g2 / schedule.sigma(t) ** 2, t)
        assert sf.mass(schedule, 0.05, 0.9) == pytest.approx(float(z), rel=1e-5)
        p = sf.density(schedule, t, 0.05, 0.9)
        assert float(torch.trapezoid(p, t)) == pytest.approx(1.0, abs=1e-5)


def test_drawing_by_importance_is_drawing_lambda_uniformly():
    """Through the specification's closed form F(t) = log(e^B - 1), and by ``draw_times``."""
    n = 100_000
    lams = (LINEAR.lam(1.0), LINEAR.lam(T0))
    big_b = [-2 * math.log(LINEAR.alpha(t)) for t in TIMES]
    ends = [math.log(math.expm1(b)) for b in big_b]
    u = torch.rand(n, generator=generator(0), dtype=F64)
    level = torch.log1p((ends[0] + u * (ends[1] - ends[0])).exp())  # B = log(1 + e^F)
    b0, b1 = LINEAR.b0, LINEAR.b1
    t = (-b0 + (b0**2 + 2 * (b1 - b0) * level).sqrt()) / (b1 - b0)
    lam = LINEAR.lam(t.clamp(max=1.0))
    bins = torch.histc(lam, 5, *lams) / n
    assert bins.tolist() == pytest.approx([0.2] * 5, abs=4 * math.sqrt(0.16 / n))
    # F is -2 lambda: the same map of the same u
    assert torch.allclose(lam, lams[1] - u * (lams[1] - lams[0]), atol=1e-6)
    ours = LINEAR.lam(draw_times(LINEAR, n, generator(1), law="lambda", lam_range=lams))
    assert (torch.histc(ours, 5, *lams) / n).tolist() == pytest.approx([0.2] * 5, abs=1e-4)
    assert ours.min() >= lams[0] - 1e-9
    assert ours.max() <= lams[1] + 1e-9


def test_draw_times_in_lambda_on_any_schedule():
    for schedule in (SubVP(), Cosine(), EDM(), linear(1000)):
        lam = schedule.lam(
            draw_times(schedule, 4000, generator(0), law="lambda", lam_range=(-3.0, 4.0))
        )
        assert lam.mean().item() == pytest.approx(0.5, abs=0.01)
        assert lam.std().item() == pytest.approx(7 / math.sqrt(12), rel=0.01)
    ve = VE(0.01, 50.0)  # finite at both ends: no range is needed
    lam = ve.lam(draw_times(ve, 1000, generator(0), law="lambda"))
    assert lam.max().item() == pytest.approx(-math.log(0.01), abs=0.02)


def test_the_likelihood_weight_is_half_of_g_squared_on_the_score():
    t = torch.linspace(0.01, 0.99, 50, dtype=F64)
    for schedule in (LINEAR, SubVP(), VE(), EDM()):
        _, g2 = schedule.drift_diffusion(t)
        assert torch.allclose(Weighting("vlb").on("score", schedule, t), 0.5 * g2, rtol=1e-10)


def test_importance_keeps_the_mean_and_takes_the_variance_away():
    """The exact means and spreads on N(0, .25), d = 1: 3.865, and 9.0 against more than 30."""
    lams = (LINEAR.lam(1.0), LINEAR.lam(T0))
    z = sf.mass(LINEAR, T0)
    lam = torch.linspace(*lams, 20_001, dtype=F64)
    unknown = 0.25 * torch.exp(2 * lam) / (0.25 * torch.exp(2 * lam) + 1)  # E|eps - eps_hat|^2
    mean = float(torch.trapezoid(unknown, lam))
    closed = [0.5 * math.log1p(0.25 * math.exp(2 * end)) for end in lams]
    assert mean == pytest.approx(closed[1] - closed[0], rel=1e-6)
    assert mean == pytest.approx(3.865, abs=5e-4)
    # eps - eps_hat is Gaussian, so the square of its square has three times the mean squared
    second = 3 * (0.5 * z) ** 2 * float(torch.trapezoid(unknown**2, lam)) / (lams[1] - lams[0])
    std = math.sqrt(second - mean**2)
    assert std == pytest.approx(9.0, abs=0.05)

    n = 200_000
    x0 = DATA.sample(n, generator(0))
    eps = torch.randn(n, 1, generator=generator(1), dtype=F64)
    d = DATA.denoiser(LINEAR)
    t = draw_times(LINEAR, n, generator(2), law="lambda", lam_range=lams)
    drawn = sf.losses(d, x0, t, eps, importance=z)
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * std / math.sqrt(n))
    assert float(drawn.std()) == pytest.approx(std, rel=0.02)
    uniform = T0 + (1 - T0) * torch.rand(n, generator=generator(3), dtype=F64)
    plain = (1 - T0) * sf.losses(d, x0, uniform, eps)
    assert float(plain.mean()) == pytest.approx(mean, abs=4 * float(plain.std()) / math.sqrt(n))
    assert float(plain.std()) > 3 * std


def test_the_losses_are_the_packages_training_loss():
    x0, eps = DATA.sample(50, generator(0)), torch.randn(50, 1, generator=generator(1), dtype=F64)
    t = draw_times(LINEAR, 50, generator(2), lam_range=(-4.0, 4.0))
    d = MODEL.denoiser(LINEAR)
    assert torch.allclose(DiffusionLoss(d, Weighting("vlb"))(x0, t, eps), sf.losses(d, x0, t, eps))
    simple = DiffusionLoss(d, Weighting("simple"))(x0, t, eps)
    assert torch.allclose(4.0 * simple, sf.losses(d, x0, t, eps, importance=8.0), rtol=1e-6)


# ---- the bound on KL ----------------------------------------------------------------------------
def test_an_exact_score_has_no_gap():
    gap, prior = sf.kl_bound(DATA.denoiser(LINEAR), DATA, 1000, generator(0), TIMES)
    assert gap == 0.0
    assert prior == pytest.approx(0.0, abs=1e-5)


def test_the_bound_is_tight_for_the_score_of_a_diffusion():
    """Model N(0, .4) on data N(0, .25): bound .04750, and the KL itself .0475."""
    gap, _ = sf.kl_bound(MODEL.denoiser(LINEAR), DATA, 400_000, generator(0), (1e-4, 1.0))
    assert gap == pytest.approx(0.04750, abs=4e-4)
    assert kl_normal(0.25, 0.4) == pytest.approx(0.04750, abs=1e-5)


def test_the_bound_covers_the_sde_and_not_the_ode():
    """A score 0.8 times too short: bound .2287, KL of the SDE .0553, of the ODE .6944."""
    gap, prior = sf.kl_bound(scaled(0.8), DATA, 400_000, generator(0), TIMES)
    assert gap + prior == pytest.approx(0.2287, abs=2e-3)
    sde, ode = (kl_normal(0.25, model_variance(0.8, noise)) for noise in (1.0, 0.0))
    assert sde == pytest.approx(0.0553, abs=1e-4)
    assert ode == pytest.approx(0.6944, abs=1e-3)
    assert sde < gap + prior < ode
    # the ODE's likelihood by the solver says the same as the recursion
    x = DATA.sample(4000, generator(1))
    alpha, sigma = LINEAR.alpha_sigma(T0)
    x = alpha * x + sigma * torch.randn(x.shape, generator=generator(2), dtype=F64)
    found = lk.log_likelihood(scaled(0.8), x, rtol=1e-6, atol=1e-6).log_prob
    kl = (DATA.log_prob(x, alpha, sigma) - found).mean()
    assert float(kl) == pytest.approx(0.6944, abs=0.06)


def test_the_gap_grows_with_the_square_of_the_error():
    gaps = [sf.kl_bound(scaled(k), DATA, 50_000, generator(0), TIMES)[0] for k in (0.9, 0.8, 0.6)]
    assert gaps[1] / gaps[0] == pytest.approx(4.0, rel=1e-6)
    assert gaps[2] / gaps[0] == pytest.approx(16.0, rel=1e-6)


# ---- the bound on data --------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", [LINEAR, SubVP(), VE(0.01, 30.0), EDM(30.0)], ids=repr)
def test_the_bound_on_data_is_the_likelihood_for_an_exact_score(schedule):
    """E over data: entropy, plus what prior and decoder cost (small), within standard errors."""
    data = Gaussian([0.1, -0.2], [[0.4, 0.1], [0.1, 0.3]])
    x = data.sample(4000, generator(0))
    found = sf.data_bound(data.denoiser(schedule), x, generator(1), draws=16)
    gap = found.total + data.log_prob(x)
    error = float(gap.std()) / math.sqrt(len(x))
    assert error < 0.03
    assert float(gap.mean()) == pytest.approx(0.0, abs=4 * error + 0.01)


def test_the_bound_of_a_wrong_model_is_its_own_likelihood():
    """Model N(0, .4): the bound averages to -log of that density, not of the data's."""
    x = DATA.sample(10_000, generator(3))
    found = sf.data_bound(MODEL.denoiser(LINEAR), x, generator(4), draws=16, times=TIMES)
    gap = found.total + MODEL.log_prob(x)
    error = float(gap.std()) / math.sqrt(len(x))
    assert float(gap.mean()) == pytest.approx(0.0, abs=4 * error + 2e-3)
    # scaled by .8 it is the KL bound .2287 above the entropy
    found = sf.data_bound(scaled(0.8), x, generator(4), draws=16, times=TIMES)
    gap = found.total + DATA.log_prob(x)
    error = float(gap.std()) / math.sqrt(len(x))
    assert float(gap.mean()) == pytest.approx(0.2287, abs=4 * error + 5e-3)


def test_the_offset_of_t0_is_the_decoder():
    """With a large t0 the decoder carries the bound; leaving it out would be far off."""
    x = DATA.sample(20_000, generator(5))
    found = sf.data_bound(DATA.denoiser(LINEAR), x, generator(6), draws=8, times=(0.1, 1.0))
    gap = found.total + DATA.log_prob(x)
    error = float(gap.std()) / math.sqrt(len(x))
    # the decoder's variance is (sigma/alpha)^2, larger than the posterior's: a true bound
    alpha, sigma = LINEAR.alpha_sigma(0.1)
    noise = sigma**2 / alpha**2
    post = 0.25 * noise / (0.25 + noise)
    slack = 0.5 * (math.log(noise / post) + post / noise - 1)
    assert float(gap.mean()) == pytest.approx(slack, abs=4 * error)
    assert slack > 0.01
    assert abs(float(found.decoder.mean())) > 3 * slack


def test_data_bound_on_pictures_of_a_mixture_by_label():
    two = toys.two_class()
    x, label = two.sample_labelled(3000, generator(0))
    own = sf.data_bound(two.denoiser(LINEAR), x, generator(1), draws=8, label=label).total
    anyone = sf.data_bound(two.denoiser(LINEAR), x, generator(1), draws=8).total
    saved = float((anyone - own).mean())
    # knowing the component saves its entropy, as the two hardly overlap
    assert saved == pytest.approx(-(0.3 * math.log(0.3) + 0.7 * math.log(0.7)), abs=0.08)


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sf.mass(LINEAR, 0.0), "no finite integral"),
        (lambda: sf.mass(Cosine(), 0.1, 1.0), "no finite integral"),
        (lambda: sf.mass(LINEAR, 0.5, 0.5), "t0 < t1"),
        (
            lambda: sf.data_bound(DATA.denoiser(LINEAR), torch.tensor([[math.nan]]), generator(0)),
            "NaN or infinity",
        ),
        (
            lambda: sf.data_bound(DATA.denoiser(LINEAR), torch.zeros(1, 1), generator(0), draws=0),
            "draws must be >= 1",
        ),
        (lambda: draw_times(LINEAR, 4, generator(0), law="lambda"), "needs a finite range"),
        (lambda: draw_times(LINEAR, 4, generator(0), law="lamda"), "Did you mean 'lambda'"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
