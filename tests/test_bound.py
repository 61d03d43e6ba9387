"""The variational bound against entropies, integrals and the numbers of the specification.

The data are Gaussian of variance s2, so that every term has a closed form; an expectation of a
quadratic over (x_0, eps) is exact on the four points (+-s, +-1).
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, four_points

from diffusion_lab.bound import decoder_nll, kl, prior_term, vlb_term
from diffusion_lab.denoisers import Prediction, expand
from diffusion_lab.exact import Gaussian
from diffusion_lab.forward import posterior, reverse_variance
from diffusion_lab.schedules import VE, Linear, linear

LINEAR = linear(1000)
NATS = math.log(2)


def gaussian(s2):
    return Gaussian([0.0], [[s2]])


def best_weight(s2, t, s):
    """v* = log(S*^2 / bt) / log(V / bt), S*^2 = bt + c_0^2 Var(x_0 | x_t): (1,) tensors."""
    _, c_0, bt, v = posterior(LINEAR, t, s)
    alpha, sigma = LINEAR.alpha_sigma(t)
    left = s2 * sigma**2 / (alpha**2 * s2 + sigma**2)
    return ((bt + c_0**2 * left) / bt).log() / (v / bt).log()


def terms(s2, variance):
    """E of the terms t = 2..1000 of the bound of N(0, s2) in nats, with exact means: (999,)."""
    t = (torch.arange(2, 1001).double() / 1000).repeat_interleave(4)
    x0, eps = (c.repeat(999, 1) for c in four_points(s2))
    alpha, sigma = LINEAR.alpha_sigma(t)
    p = gaussian(s2).denoiser(LINEAR)(alpha[:, None] * x0 + sigma[:, None] * eps, t)
    if variance == "learned":
        p.var_weight = best_weight(s2, t, t - 0.001)[:, None]
    return vlb_term(p, x0, LINEAR, t, variance=variance).reshape(999, 4).mean(1) * NATS


def whole_bound(s2, variance):
    """The bound of N(0, s2) in nats."""
    total = prior_term(four_points(s2)[0], LINEAR).mean().item() * NATS
    total += terms(s2, variance).sum().item()
    # L_0 of continuous data: a Gaussian density of the decoder's variance, mean x0_hat
    alpha, sigma = LINEAR.alpha_sigma(0.001)
    left = gaussian(s2).posterior_cov(torch.zeros(1, 1, dtype=F64), alpha, sigma).item()
    borrowed = posterior(LINEAR, 0.002, 0.001).var
    var = {"small": borrowed, "large": LINEAR.betas()[0].item(), "learned": left}[variance]
    return total + 0.5 * (math.log(2 * math.pi * var) + left / var)


@pytest.mark.parametrize(
    "variance,expected", [("learned", 0.72579), ("large", 0.72688), ("small", 1.29572)]
)
def test_bound_of_a_gaussian(variance, expected):
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert entropy == pytest.approx(0.72579, abs=5e-6)
    bound = whole_bound(0.25, variance)
    assert bound == pytest.approx(expected, abs=6e-6)
    assert bound >= entropy - 1e-9
    if variance == "learned":
        assert bound - entropy < 1e-5, "with the best variance the bound is tight"


def test_beta_is_the_best_variance_for_unit_data():
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert whole_bound(1.0, "large") == pytest.approx(entropy, abs=1e-9)
    assert whole_bound(1.0, "learned") == pytest.approx(entropy, abs=1e-9)


def test_where_the_gap_of_the_small_variance_lies():
    """N(0, 1): KL gap of S^2 = bt is .465 nats, .206 of it at t = 2 and .428 at t <= 20."""
    gaps = terms(1.0, "small") - terms(1.0, "large")
    assert gaps.sum().item() == pytest.approx(0.465, abs=2e-3)
    assert gaps[0].item() == pytest.approx(0.206, abs=1e-3)
    assert gaps[:19].sum().item() == pytest.approx(0.428, abs=1e-3)


# ---- the learned variance -----------------------------------------------------------------------
V_TABLE = {2: 0.9995, 10: 0.9948, 100: 0.7656, 500: 0.2657, 1000: 0.2500}


def test_best_learned_variance_of_a_gaussian():
    for i, expected in V_TABLE.items():
        t, s = (torch.tensor([j / 1000], dtype=F64) for j in (i, i - 1))
        assert best_weight(0.25, t, s).item() == pytest.approx(expected, abs=6e-5)
        assert best_weight(1.0, t, s).item() == pytest.approx(1.0, abs=1e-9)
        assert best_weight(1e-12, t, s).item() == pytest.approx(0.0, abs=1e-4)
    t, s = torch.tensor([1.0], dtype=F64), torch.tensor([0.999], dtype=F64)
    assert best_weight(4.0, t, s).item() == pytest.approx(4.0, abs=0.01), "v may leave [0, 1]"


def test_training_finds_the_best_learned_variance():
    """The table of weights that minimises the bound itself, by Newton's method from autograd."""
    steps = torch.tensor(list(V_TABLE))
    t = (steps.double() / 1000).repeat_interleave(4)
    x0, eps = (c.repeat(len(steps), 1) for c in four_points(0.25))
    alpha, sigma = LINEAR.alpha_sigma(t)
    p = gaussian(0.25).denoiser(LINEAR)(alpha[:, None] * x0 + sigma[:, None] * eps, t)
    v = torch.full((len(steps),), 0.5, dtype=F64)
    for _ in range(8):
        v.requires_grad_(True)
        p.var_weight = v.repeat_interleave(4)[:, None]
        loss = vlb_term(p, x0, LINEAR, t).sum()
        (slope,) = torch.autograd.grad(loss, v, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), v)
        v = (v - (slope / curve).clamp(-0.5, 0.5)).detach()
    assert v.tolist() == pytest.approx(list(V_TABLE.values()), abs=6e-5)


def test_reverse_variances():
    p = Prediction(torch.zeros(3, dtype=F64), 0.8, 0.6, torch.zeros(3, dtype=F64), "x0")
    assert reverse_variance(p, 0.02, 0.01, "small") == 0.01
    assert reverse_variance(p, 0.02, 0.01, "large") == 0.02
    p.var_weight = torch.tensor([0.0, 1.0, 0.5], dtype=F64)
    got = reverse_variance(p, 0.02, 0.01, "learned")
    assert got.tolist() == pytest.approx([0.01, 0.02, math.sqrt(2e-4)], rel=1e-12)
    with pytest.raises(ValueError, match="Did you mean 'learned'"):
        reverse_variance(p, 0.02, 0.01, "learnt")
    p.var_weight = None
    with pytest.raises(ValueError, match="needs a denoiser with learned_var"):
        reverse_variance(p, 0.02, 0.01, "learned")


# ---- pieces -------------------------------------------------------------------------------------
def test_kl_against_torch():
    g = torch.Generator().manual_seed(0)
    m, n = (torch.randn(20, generator=g, dtype=F64) for _ in range(2))
    v, w = (torch.rand(20, generator=g, dtype=F64) + 0.1 for _ in range(2))
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(m, v.sqrt()), torch.distributions.Normal(n, w.sqrt())
    )
    assert torch.allclose(kl(m, v, n, w), theirs, atol=1e-12)
    assert torch.equal(kl(m, v, m, v), torch.zeros_like(m))
    assert (kl(m, v, n, w) > 0).all()


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mean,std", [(0.0, 0.5), (0.93, 0.02), (-1.4, 0.1), (0.3, 3.0)])
def test_decoder_bins_sum_to_one(levels, mean, std):
    values = torch.linspace(-1, 1, levels, dtype=F64)
    nll = decoder_nll(values, torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64), levels)
    assert (-nll).exp().sum().item() == pytest.approx(1.0, abs=1e-9)


def test_decoder_bins_are_integrals_of_the_density():
    levels, mean, std = 17, 0.21, 0.3
    edges = torch.linspace(-1 - 1 / 16, 1 + 1 / 16, 18, dtype=F64)
    edges[0], edges[-1] = -20, 20
    normal = torch.distributions.Normal(torch.tensor(mean, dtype=F64), std)
    mass = normal.cdf(edges[1:]) - normal.cdf(edges[:-1])
    values = torch.linspace(-1, 1, levels, dtype=F64)
    nll = decoder_nll(values, torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64), levels)
    assert torch.allclose((-nll).exp(), mass, atol=1e-12)


def test_far_bins_keep_their_digits_on_both_sides():
    zero, one = torch.zeros(1, dtype=F64), torch.full((1,), 0.1, dtype=F64)
    for levels in (5, 9):
        x = torch.tensor([0.5], dtype=F64)
        above, below = decoder_nll(x, zero, one, levels), decoder_nll(-x, zero, one, levels)
        assert torch.allclose(above, below, rtol=1e-12)
        assert 0 < above.item() < 27


def test_bits_of_narrow_bins_are_the_density_with_its_offset():
    """bits/dim of the discrete data = bits of the density + log2((K - 1)/2), the bin's width."""
    offset = math.log2(255 / 2)
    assert offset == pytest.approx(6.994, abs=1e-3)
    assert math.log2((17 - 1) / 2) == 3
    x, std = torch.tensor([12 * 2 / 255 - 1], dtype=F64), torch.tensor([0.3], dtype=F64)
    density = torch.distributions.Normal(0.0, 0.3).log_prob(x).item() / -NATS
    bits = decoder_nll(x, torch.zeros(1, dtype=F64), std, 256).item() / NATS
    assert bits == pytest.approx(density + offset, abs=1e-3)


def test_prior_term():
    """L_T = 0.5 [abar |x0|^2 - d abar - d log(1 - abar)], here per dimension and in bits."""
    x0 = torch.tensor([[0.5, -1.0, 0.0]], dtype=F64)
    abar = LINEAR.alpha(1.0) ** 2
    nats = 0.5 * (abar * (x0**2).sum() - 3 * abar - 3 * math.log1p(-abar))
    assert prior_term(x0, LINEAR).item() == pytest.approx(nats.item() / 3 / NATS, rel=1e-9)
    ve = prior_term(x0, VE(sigma_max=50.0)).item()  # N(x0, 50^2) against N(0, 50^2)
    assert ve == pytest.approx(0.5 * (x0**2).mean().item() / 2500 / NATS, rel=1e-9)


# ---- one term -----------------------------------------------------------------------------------
@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_term_is_the_formula_of_the_paper(variance):
    """0.5 sum[log(S^2/bt) + (bt + c_0^2 |x0 - x0_hat|^2)/S^2 - 1], and its eps form."""
    g = torch.Generator().manual_seed(0)
    x0, eps, wrong = (torch.randn(3, 2, 2, generator=g, dtype=F64) for _ in range(3))
    for i in (2, 7, 400, 1000):
        t = torch.full((3,), i / 1000, dtype=F64)
        alpha, sigma = LINEAR.alpha_sigma(i / 1000)
        p = Prediction(alpha * x0 + sigma * eps, alpha, sigma, wrong, "eps")
        _, c_0, bt, beta = posterior(LINEAR, i / 1000, (i - 1) / 1000)
        s2 = bt if variance == "small" else beta
        nats = 0.5 * (math.log(s2 / bt) + (bt + c_0**2 * (x0 - p.x0) ** 2) / s2 - 1)
        got = vlb_term(p, x0, LINEAR, t, variance=variance)
        assert torch.allclose(got, nats.flatten(1).mean(1) / NATS, rtol=1e-9)
        # mean part: beta^2 / (2 S^2 a_t (1 - abar_t)) |eps - eps_hat|^2
        by_eps = beta**2 / (2 * s2 * (1 - beta) * sigma**2) * (eps - wrong) ** 2
        by_x0 = c_0**2 * (x0 - p.x0) ** 2 / (2 * s2)
        assert torch.allclose(by_eps, by_x0, rtol=1e-8)


def test_times_may_differ_within_a_batch():
    g = torch.Generator().manual_seed(0)
    levels = 17
    x0 = torch.randint(0, levels, (4, 1, 3, 3), generator=g) / 8.0 - 1
    eps, out, u = (torch.randn(4, 1, 3, 3, generator=g, dtype=F64) for _ in range(3))
    t = torch.tensor([0.001, 0.002, 0.4, 1.0], dtype=F64)
    x0 = x0.double()

    def ask(i=slice(None)):
        alpha, sigma = (expand(c, x0) for c in LINEAR.alpha_sigma(t[i]))
        x_t = alpha * x0[i] + sigma * eps[i]
        p = Prediction(x_t, alpha, sigma, out[i], "eps", var_weight=torch.sigmoid(u[i]))
        return vlb_term(p, x0[i], LINEAR, t[i], levels=levels)

    together = ask()
    alone = torch.cat([ask(slice(i, i + 1)) for i in range(4)])
    assert together.shape == (4,)
    assert torch.isfinite(together).all()
    assert torch.allclose(together, alone, rtol=1e-12)


def test_the_first_term_is_the_decoder():
    """At t = 1/T: x0 in its bin under N(x0_hat, S^2), S^2 between beta_1 and bt_2."""
    x0 = torch.tensor([[-1.0, 0.5, 1.0]], dtype=F64)
    t = torch.tensor([0.001], dtype=F64)
    hat = torch.tensor([[-0.98, 0.51, 0.97]], dtype=F64)
    alpha, sigma = LINEAR.alpha_sigma(0.001)
    p = Prediction(alpha * x0 + 0.1 * sigma, alpha, sigma, hat, "x0")
    beta = LINEAR.betas()[0].item()
    borrowed = posterior(LINEAR, 0.002, 0.001).var
    for variance, s2 in (("large", beta), ("small", borrowed)):
        expected = decoder_nll(x0, hat, torch.tensor(s2, dtype=F64).sqrt(), 17).mean() / NATS
        got = vlb_term(p, x0, LINEAR, t, variance=variance, levels=17)
        assert got.item() == pytest.approx(expected.item(), rel=1e-9)


def test_strided_terms_use_the_strided_posterior():
    x0, eps = four_points(0.25)
    t, s = torch.full((4,), 0.5, dtype=F64), torch.full((4,), 0.4, dtype=F64)
    alpha, sigma = LINEAR.alpha_sigma(0.5)
    p = gaussian(0.25).denoiser(LINEAR)(alpha * x0 + sigma * eps, t)
    p.var_weight = best_weight(0.25, t, s)[:, None]
    # with the best variance only the log is left: 0.5 log(S*^2 / bt)
    _, c_0, bt, _ = posterior(LINEAR, 0.5, 0.4)
    left = 0.25 * sigma**2 / (alpha**2 * 0.25 + sigma**2)
    nats = 0.5 * math.log((bt + c_0**2 * left) / bt)
    got = vlb_term(p, x0, LINEAR, t, s).mean().item() * NATS
    assert got == pytest.approx(nats, rel=1e-9)


def test_a_term_needs_steps():
    p = Prediction(torch.zeros(1, 1), 0.8, 0.6, torch.zeros(1, 1), "eps")
    with pytest.raises(ValueError, match="give s, or use a schedule on T steps"):
        vlb_term(p, torch.zeros(1, 1), Linear(), torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        vlb_term(p, torch.zeros(1, 1), LINEAR, torch.tensor([1.5]))
    with pytest.raises(ValueError, match="needs a denoiser with learned_var"):
        vlb_term(p, torch.zeros(1, 1), LINEAR, torch.tensor([0.5]))


def test_a_negative_spread_is_refused():
    x0 = torch.zeros(2, 2, dtype=F64)
    with pytest.raises(ValueError, match="std must be >= 0; the smallest is -1"):
        decoder_nll(x0, x0, torch.full_like(x0, -1.0), 256)
