"""The exact denoisers against what does not share their formulas: autograd, quadrature, draws."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, gen, randn
from torch.autograd.functional import jacobian

from diffusion_lab.data.toys import load_toy
from diffusion_lab.exact import ExactDenoiser, FiniteData, Gaussian, GaussianMixture
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, linear, zero_terminal_snr

ONE_D = GaussianMixture([0.3, 0.7], [[-2.0], [1.0]], [[[0.3]], [[0.5]]])
TWO_D = GaussianMixture(
    [0.5, 0.3, 0.2],
    [[1.0, 1.0], [-1.5, 0.2], [0.3, -1.0]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.1]]],
)
LEVELS = [(0.999, math.sqrt(1 - 0.999**2)), (0.8, 0.6), (0.2, math.sqrt(0.96)), (1.0, 5.0)]


# ---- density ------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha,sigma", [(1.0, 0.0), *LEVELS])
def test_densities_integrate_to_one(alpha, sigma):
    width = 12 * math.sqrt(alpha**2 + sigma**2)
    x = torch.linspace(-width, width, 40_001, dtype=F64)
    p = ONE_D.log_prob(x[:, None], alpha, sigma).exp()
    assert torch.trapezoid(p, x).item() == pytest.approx(1.0, abs=1e-8)
    # and the noised density is the data's, scaled and convolved with the noise
    if sigma > 0.3:
        data = ONE_D.log_prob(x[:, None]).exp()
        for i in (15_000, 20_000, 24_321):
            kernel = torch.exp(-0.5 * ((x[i] - alpha * x) / sigma) ** 2) / sigma
            both = torch.trapezoid(data * kernel / math.sqrt(2 * math.pi), x)
            assert both.item() == pytest.approx(p[i].item(), rel=1e-8)


def test_density_is_that_of_torch():
    x = randn(50, 2)
    parts = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(TWO_D.weights),
        torch.distributions.MultivariateNormal(TWO_D.means, TWO_D.covs),
    )
    assert torch.allclose(TWO_D.log_prob(x), parts.log_prob(x), atol=1e-12)
    alpha, sigma = 0.8, 0.6
    noised = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(TWO_D.weights),
        torch.distributions.MultivariateNormal(
            alpha * TWO_D.means, alpha**2 * TWO_D.covs + sigma**2 * torch.eye(2)
        ),
    )
    assert torch.allclose(TWO_D.log_prob(x, alpha, sigma), noised.log_prob(x), atol=1e-12)


def test_every_picture_its_own_level():
    x = randn(4, 2)
    alpha, sigma = (torch.tensor(c, dtype=F64) for c in zip(*LEVELS, strict=True))
    for f in (TWO_D.log_prob, TWO_D.score, TWO_D.responsibilities, TWO_D.x0):
        together = f(x, alpha, sigma)
        for i, (a, s) in enumerate(LEVELS):
            assert torch.allclose(together[i : i + 1], f(x[i : i + 1], a, s), atol=1e-12)


# ---- score and denoiser -------------------------------------------------------------------------
@pytest.mark.parametrize("alpha,sigma", [(1.0, 0.0), *LEVELS])
@pytest.mark.parametrize("mixture", [ONE_D, TWO_D], ids=["1-D", "2-D"])
def test_score_is_the_slope_of_the_log_density(mixture, alpha, sigma):
    x = (2 * randn(40, mixture.dim)).requires_grad_(True)
    (slope,) = torch.autograd.grad(mixture.log_prob(x, alpha, sigma).sum(), x)
    error = (mixture.score(x.detach(), alpha, sigma) - slope).abs().max()
    assert error < 1e-10 * slope.abs().max().clamp(min=1)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), VE(), EDM(), linear(100)], ids=repr)
def test_tweedie(schedule):
    """E[x0 | x] = (x + sigma^2 score) / alpha, and the Prediction's score is the density's."""
    d = TWO_D.denoiser(schedule)
    for t in (0.3, 0.6, 0.9):
        alpha, sigma = schedule.alpha_sigma(t)
        x = alpha * TWO_D.sample(20, gen()) + sigma * randn(20, 2)
        score = TWO_D.score(x, alpha, sigma)
        p = d(x, t)
        assert torch.allclose(p.x0, (x + sigma**2 * score) / alpha, rtol=1e-9, atol=1e-9)
        assert torch.allclose(p.score, score, rtol=1e-8, atol=1e-8 * score.abs().max())


@pytest.mark.parametrize("alpha,sigma", LEVELS)
def test_denoiser_is_the_posterior_mean_by_quadrature(alpha, sigma):
    x0 = torch.linspace(-8, 7, 30_001, dtype=F64)
    prior = ONE_D.log_prob(x0[:, None])
    for x in (-2.5, -0.6, 0.1, 1.7):
        weight = (prior - 0.5 * ((x - alpha * x0) / sigma) ** 2).softmax(0)
        mean = (weight * x0).sum()
        var = (weight * (x0 - mean) ** 2).sum()
        point = torch.tensor([[x]], dtype=F64)
        assert ONE_D.x0(point, alpha, sigma).item() == pytest.approx(mean.item(), abs=1e-9)
        got = ONE_D.posterior_cov(point, alpha, sigma).item()
        assert got == pytest.approx(var.item(), abs=1e-9)


def test_denoiser_is_the_posterior_mean_by_monte_carlo():
    """Draws of x0 from the prior, weighted by q(x | x0); within 5 standard errors."""
    n, (alpha, sigma) = 200_000, LEVELS[1]
    x0 = TWO_D.sample(n, gen(3))
    for x in ([0.5, 0.3], [-1.0, 0.4]):
        x = torch.tensor(x, dtype=F64)
        w = (-0.5 * ((x - alpha * x0) / sigma).square().sum(1)).softmax(0)
        mean = (w[:, None] * x0).sum(0)
        gap = x0 - mean
        error = (w[:, None] ** 2 * gap**2).sum(0).sqrt()  # of a self-normalised average
        exact = TWO_D.x0(x[None], alpha, sigma)[0]
        assert error.max() < 0.01, "enough draws to mean something"
        assert ((mean - exact).abs() <= 5 * error).all()
        cov = torch.einsum("n,ni,nj->ij", w, gap, gap)
        assert torch.allclose(cov, TWO_D.posterior_cov(x[None], alpha, sigma)[0], atol=0.02)


@pytest.mark.parametrize("alpha,sigma", LEVELS)
def test_posterior_covariance_is_the_slope_of_the_denoiser(alpha, sigma):
    """Tweedie's second order: Cov[x0 | x] = (sigma^2 / alpha) d E[x0 | x] / dx."""
    x = randn(7, 2)
    cov = TWO_D.posterior_cov(x, alpha, sigma)
    for i in range(len(x)):
        slope = jacobian(lambda y: TWO_D.x0(y[None], alpha, sigma)[0], x[i])
        assert torch.allclose(cov[i], sigma**2 / alpha * slope, rtol=1e-8, atol=1e-10)


def test_full_covariance_gaussian_is_the_formula_of_the_specification():
    """eps = sigma (alpha^2 C + sigma^2 I)^{-1} (x - alpha m)."""
    m, c = torch.tensor([0.4, -0.2], dtype=F64), TWO_D.covs[0]
    g, x = Gaussian(m, c), randn(9, 2)
    for t in (0.1, 0.5, 0.95):
        alpha, sigma = Linear().alpha_sigma(t)
        inverse = torch.linalg.inv(alpha**2 * c + sigma**2 * torch.eye(2))
        expected = sigma * (x - alpha * m) @ inverse.T
        assert torch.allclose(g.denoiser(Linear())(x, t).eps, expected, atol=1e-10)


def test_the_ends_of_the_process():
    x = randn(5, 2)
    s = zero_terminal_snr(linear(100))
    assert torch.allclose(TWO_D.denoiser(s)(x, 0.0).x0, x, atol=1e-12)
    mean = (TWO_D.weights[:, None] * TWO_D.means).sum(0)
    assert torch.allclose(TWO_D.denoiser(s)(x, 1.0).x0, mean.expand(5, 2), atol=1e-12)


def test_labels_pick_a_component():
    x, (alpha, sigma) = randn(6, 2), LEVELS[1]
    d = TWO_D.denoiser(Linear())
    t = Linear().t_of_lam(math.log(alpha / sigma))
    label = torch.tensor([0, 1, 2, 3, 0, 1])  # 3 means no class
    answer = d(x, t, label=label).x0
    for i, k in enumerate(label.tolist()):
        own = TWO_D if k == 3 else Gaussian(TWO_D.means[k], TWO_D.covs[k])
        assert torch.allclose(answer[i], own.x0(x[i : i + 1], alpha, sigma)[0], atol=1e-12)
    assert torch.allclose(d(x, t).x0, d(x, t, label=torch.full((6,), 3)).x0)
    # Bayes: the answer without a class is the average of those with, by responsibility
    r = TWO_D.responsibilities(x, alpha, sigma)
    parts = torch.stack([d(x, t, label=torch.full((6,), k)).x0 for k in range(3)], 1)
    assert torch.allclose((r[..., None] * parts).sum(1), d(x, t).x0, atol=1e-12)
    assert torch.allclose(r.sum(1), torch.ones(6, dtype=F64))


def test_single_precision_in_single_precision_out():
    x = randn(6, 2)
    exact = TWO_D.denoiser(Linear())(x, 0.4).x0
    single = TWO_D.denoiser(Linear())(x.float(), 0.4).x0
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), exact, atol=1e-5)


def test_samples_have_the_moments():
    n = 40_000
    x, k = TWO_D.sample_labelled(n, gen(1))
    share = torch.bincount(k, minlength=3) / n
    assert ((share - TWO_D.weights).abs() <= 5 * (TWO_D.weights / n).sqrt()).all()
    for i in range(3):
        part = x[k == i]
        cov = TWO_D.covs[i]
        error = (cov.diagonal() / len(part)).sqrt()
        assert ((part.mean(0) - TWO_D.means[i]).abs() <= 5 * error).all()
        assert torch.allclose(part.T.cov(), cov, atol=5 * cov.max().item() / len(part) ** 0.5 * 2)
    assert torch.equal(TWO_D.sample(n, gen(1)), x)


# ---- the flow of a Gaussian ---------------------------------------------------------------------
def test_gaussian_flow_solves_the_ode():
    """d x/dt = f x - g^2/2 score, checked by a central difference along the closed form."""
    g = Gaussian([0.4, -0.2], TWO_D.covs[0])
    x = randn(5, 2)
    for s in (Linear(), VE(), EDM()):
        for t in (0.3, 0.7):
            alpha, sigma = s.alpha_sigma(t)
            h = 1e-5
            up, down = (g.flow(x, alpha, sigma, *s.alpha_sigma(t + d)) for d in (h, -h))
            f, g2 = s.drift_diffusion(torch.tensor([t], dtype=F64))
            rhs = f * x - 0.5 * g2 * g.score(x, alpha, sigma)
            assert torch.allclose((up - down) / (2 * h), rhs, rtol=1e-6, atol=1e-7)


def test_gaussian_flow_keeps_the_marginals_and_composes():
    g = Gaussian([0.4, -0.2], TWO_D.covs[0])
    (a1, s1), (a2, s2), (a3, s3) = (Linear().alpha_sigma(t) for t in (0.9, 0.5, 0.1))
    x = randn(5, 2)
    once = g.flow(x, a1, s1, a3, s3)
    twice = g.flow(g.flow(x, a1, s1, a2, s2), a2, s2, a3, s3)
    assert torch.allclose(once, twice, atol=1e-12)
    # it is affine with matrix M: M C_1 M^T = C_3, and the mean goes to the mean
    zero, eye = torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)
    shift = g.flow(zero, a1, s1, a3, s3)
    m = (g.flow(eye, a1, s1, a3, s3) - shift).T
    c1, c3 = (a**2 * g.covs[0] + s**2 * eye for a, s in ((a1, s1), (a3, s3)))
    assert torch.allclose(m @ c1 @ m.T, c3, atol=1e-12)
    mean = g.means
    assert torch.allclose(g.flow(a1 * mean, a1, s1, a3, s3), a3 * mean, atol=1e-12)


# ---- finite data --------------------------------------------------------------------------------
def test_finite_data_is_a_mixture_without_width():
    points = randn(12, 3)
    data = FiniteData(points)
    bare = GaussianMixture(torch.ones(12), points, torch.zeros(12, 3, 3))
    x = randn(7, 3, seed=5)
    for alpha, sigma in LEVELS:
        assert torch.allclose(data.x0(x, alpha, sigma), bare.x0(x, alpha, sigma), atol=1e-10)
        # and the limit of mixtures whose width goes to 0, at the rate of the variance
        gaps = []
        for width in (1e-4, 1e-6):
            covs = width * torch.eye(3, dtype=F64).expand(12, 3, 3)
            thin = GaussianMixture(torch.ones(12), points, covs)
            gaps.append((thin.x0(x, alpha, sigma) - data.x0(x, alpha, sigma)).abs().max().item())
        assert gaps[1] < 0.05 * gaps[0] + 1e-12


def test_finite_data_by_hand():
    data = FiniteData(torch.tensor([[-1.0], [1.0]], dtype=F64))
    x = torch.tensor([[0.3], [-2.0]], dtype=F64)
    alpha, sigma = 0.6, 0.8
    # two points at +-1: E = tanh(alpha x / sigma^2)
    assert torch.allclose(data.x0(x, alpha, sigma), torch.tanh(alpha * x / sigma**2), atol=1e-14)


def test_finite_data_of_pictures_with_labels():
    pictures, labels = randn(10, 1, 3, 3), torch.arange(10) % 2
    d = FiniteData(pictures, labels).denoiser(Linear())
    assert d.num_classes == 2
    assert d.shape == (1, 3, 3)
    x = randn(4, 1, 3, 3, seed=2)
    answer = d(x, 0.6, label=torch.tensor([0, 1, 2, 1])).x0
    for i, of_class in enumerate([labels == 0, labels == 1, labels >= 0, labels == 1]):
        own = FiniteData(pictures[of_class]).denoiser(Linear())
        assert torch.allclose(answer[i], own(x[i : i + 1], 0.6).x0[0], atol=1e-12)
    # near the data it returns the nearest picture; far away the mean
    near = Linear().alpha(0.01) * pictures
    assert torch.allclose(d(near, 0.01).x0, pictures, atol=1e-6)
    far = d(x, 1.0).x0
    assert torch.allclose(far, pictures.mean(0).expand_as(far), atol=0.05)


def test_toys_are_mixtures_with_a_denoiser():
    toy = load_toy("ring")
    d = toy.denoiser(Linear())
    x = toy.sample(5, gen())
    assert torch.allclose(d(x, 0.0).x0.double(), x.double(), atol=1e-6)


# ---- conditions ---------------------------------------------------------------------------------
def test_any_exact_law_takes_any_condition():
    """Tokens here: the mean of the data moves by what the tokens add up to."""

    def formula(x_t, alpha, sigma, *, tokens=None, low=None):
        shift = 0.0 if tokens is None else tokens.sum(1, keepdim=True).to(x_t.dtype)
        return TWO_D.x0(x_t - alpha * shift, alpha, sigma) + shift

    d, x, tokens = ExactDenoiser(Linear(), formula), randn(4, 2), torch.arange(12).reshape(4, 3)
    alpha, sigma = Linear().alpha_sigma(0.4)
    shift = tokens.sum(1, keepdim=True).double()
    assert torch.equal(d(x, 0.4).x0, d(x, 0.4, tokens=None, low=None, other=None).x0)
    assert torch.equal(d(x, 0.4).x0, TWO_D.x0(x, alpha, sigma))
    expected = TWO_D.x0(x - alpha * shift, alpha, sigma) + shift
    assert torch.equal(d(x, 0.4, tokens=tokens).x0, expected)
    assert ExactDenoiser(Linear(), lambda x, *_, **c: x + c["z"])(x, 0.4, z=1.0).x0.equal(x + 1)
    for name in ("token", "alpha"):
        with pytest.raises(ValueError, match=rf"'{name}'.* Known: low, tokens\.$"):
            d(x, 0.4, **{name: tokens})
    with pytest.raises(ValueError, match=r"exact denoiser 'label'\. Known: none\."):
        ExactDenoiser(Linear(), lambda x, *rest: x)(x, 0.4, label=torch.zeros(4).long())


# ---- the law of a x + noise ---------------------------------------------------------------------
def test_a_moved_mixture_by_a_number_is_the_noised_one():
    x = randn(30, 2)
    moved = TWO_D.moved(0.8, 0.36 * torch.eye(2))
    assert torch.allclose(moved.log_prob(x), TWO_D.log_prob(x, 0.8, 0.6), atol=1e-12)
    assert torch.allclose(moved.score(x), TWO_D.score(x, 0.8, 0.6), atol=1e-12)


def test_a_moved_mixture_is_the_change_of_variables():
    """Without noise p(y) = p(x) / |det a|: a matrix, and one factor a coordinate."""
    x, still = randn(30, 2), torch.zeros(2, 2)
    a = torch.tensor([[2.0, 0.5], [-1.0, 0.7]], dtype=F64)
    moved = TWO_D.moved(a, still).log_prob(x @ a.T)
    assert torch.allclose(moved, TWO_D.log_prob(x) - math.log(1.9), atol=1e-10)
    factors = torch.tensor([3.0, -0.5], dtype=F64)
    moved = TWO_D.moved(factors, still).log_prob(x * factors)
    assert torch.allclose(moved, TWO_D.log_prob(x) - math.log(1.5), atol=1e-10)


def test_a_moved_mixture_may_have_another_dimension():
    """A velocity beside x (as in CLD), noise that joins both; then seen from x alone."""
    cov = torch.tensor([[0.3, 0.1], [0.1, 0.5]], dtype=F64)
    both = ONE_D.moved([[0.9], [-0.4]], cov)
    assert both.dim == 2 and torch.equal(both.weights, ONE_D.weights)
    assert torch.allclose(both.means[0], torch.tensor([-1.8, 0.8], dtype=F64))
    expected = torch.tensor([[0.81 * 0.3 + 0.3, -0.36 * 0.3 + 0.1], [0.0, 0.16 * 0.3 + 0.5]])
    assert torch.allclose(both.covs[0].triu(), expected.double(), atol=1e-12)
    back = both.moved([[1.0, 0.0]], [[0.0]])
    x = randn(9, 1)
    assert torch.allclose(back.log_prob(x), ONE_D.log_prob(x, 0.9, math.sqrt(0.3)), atol=1e-12)
    # a projection after noise in all coordinates is the projection with its own noise
    c = torch.tensor([[1.0, -2.0]], dtype=F64)
    one = TWO_D.moved(0.5, cov).moved(c, [[0.2]])
    two = TWO_D.moved(0.5 * c, c @ cov @ c.T + 0.2)
    assert torch.allclose(one.covs, two.covs) and torch.allclose(one.means, two.means)


def test_numbers_are_kept_on_the_cpu_whatever_the_default():
    kept = TWO_D.sample(5, gen(3))
    torch.set_default_device("meta")
    try:
        moved = GaussianMixture([1.0], [[0.0, 1.0]], [EYE]).sample(2, gen())
        assert moved.device.type == "cpu" and torch.equal(TWO_D.sample(5, gen(3)), kept)
    finally:
        torch.set_default_device(None)


# ---- bad input ----------------------------------------------------------------------------------
FLAT = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], [[[1.0, 1.0], [1.0, 1.0]]] * 2)
NONE = torch.zeros((), dtype=F64)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: FLAT.log_prob(randn(3, 2)),
        lambda: FLAT.score(randn(3, 2)),
        lambda: FLAT.responsibilities(randn(3, 2), 0.5, NONE),
        lambda: FLAT.x0(randn(3, 2), torch.ones(3, 1), torch.tensor([[0.1], [0.0], [0.2]])),
        lambda: FLAT.posterior_cov(randn(3, 2), 1.0, 0.0),
        lambda: FLAT.denoiser(Linear())(randn(3, 2), 0.0),
        lambda: Gaussian([0.0, 0.0], [[0.0, 0.0], [0.0, 1.0]]).flow(randn(3, 2), 1, 0, 0.8, 0.6),
    ],
)
def test_a_singular_covariance_has_no_density(ask):
    with pytest.raises(ValueError, match="a singular covariance has no density at sigma = 0"):
        ask()


def test_a_singular_covariance_is_fine_under_noise():
    """Across the line the data do not vary: E[x0 | x] lies on it, whatever the noise."""
    x0 = FLAT.x0(randn(8, 2), 0.9, 1e-3)
    line = x0[:, 0] - x0[:, 1]  # 0 or 1, by component
    assert torch.minimum(line.abs(), (line - 1).abs()).max() < 1e-9


EYE = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "bad,complaint",
    [
        (lambda: GaussianMixture([1.0], [0.0, 0.0], [EYE]), "need weights"),
        (lambda: GaussianMixture([1.0, 1.0], [[0.0, 0.0]], [EYE]), "need weights"),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], EYE), "need weights"),
        (lambda: GaussianMixture([0.0], [[0.0, 0.0]], [EYE]), "weights of a mixture must be"),
        (lambda: GaussianMixture([math.nan], [[0.0, 0.0]], [EYE]), "weights of a mixture must be"),
        (
            lambda: GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]),
            "must be symmetric",
        ),
        (
            lambda: GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]),
            "positive semi-definite",
        ),
        (lambda: TWO_D.sample(0, gen()), "whole number >= 1"),
        (lambda: TWO_D.log_prob(randn(3, 3)), r"x must have shape \(B, 2\)"),
        (lambda: TWO_D.log_prob(randn(2)), r"x must have shape \(B, 2\)"),
        (lambda: TWO_D.denoiser(Linear())(randn(3, 5), 0.5), r"x_t must have shape \(B, 2\)"),
        (lambda: TWO_D.denoiser(Linear())(randn(3, 2), 1.5), r"t must lie in \[0, 1\]"),
        (lambda: FiniteData(torch.zeros(0, 2)), "at least one picture"),
        (
            lambda: FiniteData(randn(3, 2)).denoiser(Linear())(
                randn(2, 2), 0.5, label=torch.zeros(2, dtype=torch.int64)
            ),
            "without a label",
        ),
        (
            lambda: TWO_D.x0(randn(2, 2), 0.5, 0.5, label=torch.tensor([0, 4])),
            r"labels must lie in 0\.\.2, or be 3 for 'no class'; got values in 0\.\.4",
        ),
        (
            lambda: TWO_D.x0(randn(2, 2), 0.5, 0.5, label=torch.tensor([0, -1])),
            r"got values in -1\.\.0",
        ),
        (
            lambda: TWO_D.denoiser(Linear())(randn(2, 2), 0.5, label=torch.zeros(2)),
            r"label must be int64 of shape \(2,\)",
        ),
        (
            lambda: FiniteData(randn(3, 2), torch.tensor([0, 1, 1])).x0(
                randn(2, 2), 0.5, 0.5, torch.tensor([0, 3])
            ),
            r"labels must lie in 0\.\.1, or be 2",
        ),
        (lambda: TWO_D.moved([1.0, 2.0, 3.0], EYE), r"or \(D', 2\), and cov .*; got \(3,\)"),
        (lambda: TWO_D.moved([[1.0, 2.0, 3.0]], [[1.0]]), r"got \(1, 3\) and \(1, 1\)"),
        (lambda: TWO_D.moved([[1.0, 2.0]], EYE), r"got \(1, 2\) and \(2, 2\)"),
        (lambda: TWO_D.moved(1.0, [[1.0, 2.0], [2.0, 1.0]]), "positive semi-definite"),
        (
            lambda: FiniteData(randn(3, 2)).x0(
                randn(2, 2), 0.5, 0.5, torch.zeros(2, dtype=torch.int64)
            ),
            "without labels",
        ),
    ],
)
def test_bad_input(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        bad()
