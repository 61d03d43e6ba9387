"""Score matching: every loss against the explicit one, by integrals that are exact to 1e-6."""

from __future__ import annotations

import pytest
import torch
from helpers import F64, randn

from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian, GaussianMixture
from diffusion_lab.scores.divergence import divergence, probes, trace_variance
from diffusion_lab.scores.score_matching import (
    annealed,
    denoising,
    explicit,
    implicit,
    score_of,
    sliced,
)

SIGMA = 0.5
DATA = toys.two_class()
NOISED = GaussianMixture(DATA.weights, DATA.means, DATA.covs + SIGMA**2)


def line(n: int = 6001, far: float = 10.0):
    """Points (n, 1) and weights (n,) of a trapezoid rule: spectral accuracy on smooth densities."""
    x = torch.linspace(-far, far, n, dtype=F64)
    return x[:, None], x[1] - x[0]


def mean_under(mixture, loss):
    """E loss(x) by the trapezoid rule on a line."""
    x, h = line()
    return float((mixture.log_prob(x).exp() * loss(x)).sum() * h)


TESTS = {
    "linear": lambda x: -0.7 * x + 0.2,
    "bent": lambda x: torch.sin(x) - 0.3 * x,
    "true": NOISED.score,
}


# ---- the identities between the losses ----------------------------------------------------------
@pytest.mark.parametrize("name", TESTS)
def test_implicit_is_explicit_less_a_constant(name):
    s = TESTS[name]
    fisher = mean_under(NOISED, lambda x: NOISED.score(x)[:, 0] ** 2)
    esm = mean_under(NOISED, lambda x: explicit(s, x, NOISED.score(x)))
    if name == "true":  # the derivative of the exact score, by a central difference
        h = 1e-4

        def ism_of(x):
            slope = (s(x + h) - s(x - h))[:, 0] / (2 * h)
            return 0.5 * s(x)[:, 0] ** 2 + slope
    else:
        ism_of = lambda x: implicit(s, x, create_graph=False)  # noqa: E731
    ism = mean_under(NOISED, ism_of)
    assert ism - esm == pytest.approx(-0.5 * fisher, abs=1e-6)
    assert ism - esm == pytest.approx(-0.51004, abs=1e-5)


@pytest.mark.parametrize("name", TESTS)
def test_denoising_is_explicit_on_the_noised_density_plus_a_constant(name):
    s = TESTS[name]
    esm = mean_under(NOISED, lambda x: explicit(s, x, NOISED.score(x)))
    e, step = line(401, 7.0)
    normal = (-0.5 * e[:, 0] ** 2).exp() / (2 * torch.pi) ** 0.5
    x, h = line(601, 8.0)
    every = x.repeat_interleave(len(e), 0)
    eps = e.repeat(len(x), 1)
    loss = denoising(s, every, SIGMA, eps).reshape(len(x), len(e))
    dsm = float((DATA.log_prob(x).exp()[:, None] * normal * loss).sum() * h * step)
    fisher = mean_under(NOISED, lambda x: NOISED.score(x)[:, 0] ** 2)
    assert dsm - esm == pytest.approx(0.5 * (1 / SIGMA**2 - fisher), abs=1e-5)
    assert dsm - esm == pytest.approx(1.48996, abs=2e-5)


def test_sliced_is_implicit_on_average_over_directions():
    j = randn(4, 4)
    score = lambda x: torch.tanh(x @ j.T)  # noqa: E731
    x = randn(3, 4, seed=1)
    exact = implicit(score, x, create_graph=False)
    # all 16 sign vectors: the average over them is the expectation
    signs = torch.tensor([[1.0 if i >> k & 1 else -1.0 for k in range(4)] for i in range(16)])
    v = signs.double()[:, None].expand(16, 3, 4)
    for reduced in (True, False):
        found = sliced(score, x, v, reduced=reduced, create_graph=False)
        assert torch.allclose(found, exact, atol=1e-12)
    one = sliced(score, x, v[:1], create_graph=False)
    assert (one - exact).abs().max() > 0.1, "one direction alone is noisy"


def test_the_reduced_form_varies_less():
    """With s orthogonal to nothing in particular, dropping v from the square takes noise away."""
    j, x = -torch.eye(6, dtype=F64), randn(1, 6).expand(4000, 6)
    v = probes(x, generator(2), law="gaussian")
    spread = [
        sliced(lambda y: y @ j, x, v, reduced=r, create_graph=False).var() for r in (True, False)
    ]
    norm2 = (x[0] ** 2).sum()
    # v^T J v = -|v|^2: variance 2d; with the square: + (v.s)^2/2, computed for Gaussian v
    assert float(spread[0]) == pytest.approx(12.0, rel=0.15)
    assert float(spread[1]) == pytest.approx(float(12 + 0.5 * norm2**2 - 2 * norm2), rel=0.15)


@pytest.mark.parametrize("variance", [0.25, 1.7])
def test_the_best_linear_score_of_gaussian_data_is_one_over_the_variance(variance):
    """s = -a x: every objective, averaged exactly, is smallest at a = 1/Var."""
    data = Gaussian([0.0], [[variance]])
    e, step = line(401, 7.0)
    normal = (-0.5 * e[:, 0] ** 2).exp() / (2 * torch.pi) ** 0.5

    def best(objective, around):
        """A parabola through three values of a has its vertex at the minimum exactly."""
        a = [0.5 * around, around, 2 * around]
        y = [objective(lambda x, k=k: -k * x) for k in a]
        fit = torch.linalg.solve(
            torch.tensor([[k * k, k, 1.0] for k in a], dtype=F64), torch.tensor(y, dtype=F64)
        )
        return float(-fit[1] / (2 * fit[0]))

    def averaged(loss):
        return lambda s: mean_under(data, lambda x: loss(s, x))

    signs = torch.ones(1, 6001, 1, dtype=F64)
    for loss in (
        lambda s, x: explicit(s, x, data.score(x)),
        lambda s, x: implicit(s, x, create_graph=False),
        lambda s, x: sliced(s, x, signs, create_graph=False),
        lambda s, x: sliced(s, x, -signs, reduced=False, create_graph=False),
    ):
        assert best(averaged(loss), 1 / variance) == pytest.approx(1 / variance, rel=1e-6)

    def dsm(s):
        x, h = line(601, 8.0)
        loss = denoising(s, x.repeat_interleave(len(e), 0), SIGMA, e.repeat(len(x), 1))
        weight = data.log_prob(x).exp()[:, None] * normal
        return float((weight * loss.reshape(len(x), len(e))).sum() * h * step)

    # denoising finds the score of the noised data
    noised = variance + SIGMA**2
    assert best(dsm, 1 / noised) == pytest.approx(1 / noised, rel=1e-5)
    # and the implicit loss does so when it is trained
    a = torch.tensor(0.1, dtype=F64, requires_grad=True)
    x = data.sample(512, generator(0))
    x = x / x.std(correction=0) * variance**0.5
    for _ in range(300):
        (slope,) = torch.autograd.grad(implicit(lambda y, k=a: -k * y, x).mean(), a)
        with torch.no_grad():
            a -= 0.5 / variance * slope
    second = float(x.square().mean())
    assert a.item() == pytest.approx(1 / second, rel=1e-4)


def test_annealed_with_an_eps_network_is_the_simple_loss():
    x, eps = randn(5, 3), randn(5, 3, seed=1)
    sigma = torch.tensor([0.01, 0.1, 1.0, 3.0, 20.0], dtype=F64)
    guess = lambda y: torch.tanh(y)  # noqa: E731  any eps_hat
    loss = annealed(lambda y, s: -guess(y) / s[:, None], x, sigma, eps)
    simple = 0.5 * (guess(x + sigma[:, None] * eps) - eps).square().sum(1)
    assert torch.allclose(loss, simple, rtol=1e-9)


# ---- energies -----------------------------------------------------------------------------------
def test_an_energy_has_the_score_of_its_density_whatever_its_normaliser():
    mixture = toys.anisotropic()
    x = mixture.sample(20, generator(0))
    for shift in (0.0, 7.0):  # e^{-f}/Z: a constant in f changes Z alone
        score = score_of(lambda y, c=shift: c - mixture.log_prob(y))
        assert torch.allclose(score(x), mixture.score(x), atol=1e-9)


def test_an_energy_can_be_trained_by_implicit_score_matching():
    """f = a x^2 / 2 has the score -a x: the loss a^2 x^2/2 - a needs a third derivative."""
    a = torch.tensor(0.4, dtype=F64, requires_grad=True)
    x = randn(50, 1)
    loss = implicit(score_of(lambda y: 0.5 * a * y.square().sum(1)), x).mean()
    (slope,) = torch.autograd.grad(loss, a)
    second = x.square().mean()
    assert loss.item() == pytest.approx(float(0.5 * 0.16 * second - 0.4), rel=1e-12)
    assert slope.item() == pytest.approx(float(0.4 * second - 1), rel=1e-12)


# ---- traces -------------------------------------------------------------------------------------
def test_the_exact_divergence_is_the_trace_of_the_jacobian():
    j = randn(5, 5)
    field = lambda x: torch.tanh(x @ j.T) + x**2  # noqa: E731
    x = randn(4, 5, seed=3)
    value, div = divergence(field, x)
    each = [torch.autograd.functional.jacobian(lambda y: field(y[None])[0], row) for row in x]
    assert torch.allclose(div, torch.stack([m.trace() for m in each]), atol=1e-12)
    assert torch.equal(value, field(x))
    pictures = divergence(lambda y: y**3, x.reshape(4, 1, 5, 1))[1]
    assert torch.allclose(pictures, (3 * x**2).sum(1))


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_random_directions_have_the_mean_and_variance_of_the_formula(law):
    j = randn(5, 5, seed=7)
    n = 40_000
    x = torch.zeros(1, 5, dtype=F64).expand(n, 5)
    _, found = divergence(lambda y: y @ j.T, x, probes(x, generator(1), law=law))
    variance = trace_variance(j, law)
    sym = 0.5 * (j + j.T)
    expected = 2 * (sym**2).sum() - (2 * (sym.diagonal() ** 2).sum() if law != "gaussian" else 0)
    assert variance == pytest.approx(float(expected), rel=1e-12)
    assert float(found.mean() - j.trace()) == pytest.approx(0, abs=4 * (variance / n) ** 0.5)
    # the spread of a sample variance is about sqrt(kurtosis/n), below 6/sqrt(n)
    assert float(found.var()) == pytest.approx(variance, rel=6 / n**0.5 * 2)
    _, four = divergence(
        lambda y: y @ j.T, x[:9000], probes(x[:9000], generator(2), law=law, directions=4)
    )
    assert float(four.var()) == pytest.approx(variance / 4, rel=0.15)


def test_signs_are_exact_on_a_diagonal():
    d = randn(6).abs()
    x = randn(3, 6)
    v = probes(x, generator(0))
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    assert torch.allclose(divergence(lambda y: d * y, x, v)[1], d.sum().expand(3))
    assert trace_variance(torch.diag(d)) == pytest.approx(0.0, abs=1e-12)
    assert trace_variance(torch.diag(d), "gaussian") == pytest.approx(2 * float((d**2).sum()))


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: explicit(lambda x: x, randn(3, 2), randn(3, 1)), "true score must be like x"),
        (lambda: denoising(lambda x: x, randn(3, 2), 0.0, randn(3, 2)), "sigma > 0"),
        (lambda: denoising(lambda x: x, randn(3, 2), 0.1, randn(2, 2)), "eps must be like x"),
        (lambda: implicit(lambda x: x.detach(), randn(3, 2)), "computed under no_grad"),
        (lambda: implicit(lambda x: x[:, :1], randn(3, 2)), r"has shape \(3, 1\)"),
        (lambda: sliced(lambda x: x, randn(3, 2), randn(3, 2)), r"v must be \(K, 3, 2\)"),
        (lambda: probes(randn(3), generator(0), law="gausian"), "Did you mean 'gaussian'"),
        (lambda: probes(randn(3), generator(0), directions=0), "whole number >= 1"),
        (lambda: trace_variance(randn(2, 2), "sign"), "unknown law"),
        (lambda: score_of(lambda x: x)(randn(3, 2)), "one number a datum"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
