"""Likelihoods by the probability-flow ODE against densities that are known."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.data import toys
from diffusion_lab.denoisers import Denoiser, NetDenoiser, Prediction
from diffusion_lab.device import generator
from diffusion_lab.exact import ExactDenoiser, Gaussian
from diffusion_lab.metrics.likelihood import bits_per_dim, offset
from diffusion_lab.nets import make as make_net
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, linear
from diffusion_lab.scores import likelihood as lk
from diffusion_lab.scores.divergence import divergence
from diffusion_lab.scores.subvp import SubVP

F64 = torch.float64
TWO, LONG = toys.two_class(), toys.anisotropic()
SMOOTH = [Linear(), SubVP(), Cosine(), VE(0.01, 20.0), EDM(20.0)]
TIGHT = {"rtol": 1e-7, "atol": 1e-7}


def true_prior(mixture, schedule, t):
    alpha, sigma = schedule.alpha_sigma(t)
    return lambda x: mixture.log_prob(x, alpha, sigma)


def log_spaced(n: int, t0: float = 1e-3) -> list[float]:
    return [t0 ** (1 - i / n) for i in range(n)] + [1.0]


# ---- the log-density ----------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", SMOOTH, ids=repr)
def test_the_density_of_a_mixture_comes_out(schedule):
    """Exact trace, adaptive solver, the true p_1 as prior: the error is the solver's alone."""
    d = LONG.denoiser(schedule)
    t0, t1 = lk.ends(d)
    alpha, sigma = schedule.alpha_sigma(t0)
    x = alpha * LONG.sample(16, generator(0))
    flow = lk.log_likelihood(d, x, prior=true_prior(LONG, schedule, t1), **TIGHT)
    truth = LONG.log_prob(x, alpha, sigma)
    assert float((flow.log_prob - truth).abs().max()) < 1e-5
    assert flow.log_prob.dtype == F64
    # with the sampler's own prior the gap is what that prior misses at t1
    plain = lk.log_likelihood(d, x, **TIGHT).log_prob - truth
    missed = lk.normal_prior(schedule.prior_std(t1))(flow.x) - true_prior(LONG, schedule, t1)(
        flow.x
    )
    assert torch.allclose(plain, missed, atol=1e-5)


def test_a_hundred_rk4_steps_suffice():
    """The specification's setting: 100 log-spaced steps, error 1.4e-5 at most."""
    x = TWO.sample(100, generator(1))
    prior = true_prior(TWO, Linear(), 1.0)
    flow = lk.log_likelihood(TWO.denoiser(Linear()), x, log_spaced(100), method="rk4", prior=prior)
    truth = TWO.log_prob(x, *Linear().alpha_sigma(1e-3))
    assert float((flow.log_prob - truth).abs().max()) < 1.5e-5
    assert flow.nfe == 400


def test_a_wrong_prior_costs_what_its_ratio_says():
    """Data N(.8, .3) are not centred: alpha_1 m is left at t = 1, .0174 nats at x = -1."""
    off = Gaussian([0.8], [[0.3]])
    x = torch.tensor([[-1.0]], dtype=F64)
    flow = lk.log_likelihood(off.denoiser(Linear()), x, log_spaced(100), method="rk4")
    truth = off.log_prob(x, *Linear().alpha_sigma(1e-3))
    assert float(flow.log_prob - truth) == pytest.approx(0.0174, abs=2e-4)


def test_hutchinson_is_right_on_average_and_exact_for_round_gaussians():
    round_one = Gaussian([0.2, -0.1], torch.eye(2) * 0.3)
    x = round_one.sample(5, generator(0))
    d = round_one.denoiser(Linear())
    exact = lk.log_likelihood(d, x)
    signs = lk.log_likelihood(d, x, trace="rademacher", generator=generator(1))
    # the Jacobian is a multiple of I, on which a vector of signs makes no error
    assert torch.allclose(signs.log_prob, exact.log_prob, atol=1e-4)
    # and on a tilted Gaussian the mean over many directions is the exact trace
    tilted = Gaussian([0.0, 0.0], [[0.5, 0.4], [0.4, 0.5]])
    d, n = tilted.denoiser(Linear()), 4000
    x = torch.tensor([[0.3, -0.2]], dtype=F64)
    exact = lk.log_likelihood(d, x).change
    many = lk.log_likelihood(d, x.expand(n, 2), trace="rademacher", generator=generator(2)).change
    spread = many.std() / math.sqrt(n)
    assert float(spread) > 1e-3, "there is something to average over"
    assert float(many.mean() - exact) == pytest.approx(0, abs=4 * float(spread))


def test_the_directions_are_held_fixed_along_the_way():
    """Every call of the solver sees the same v: the same call gives the same number."""
    seen = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, v):
            seen.append(v.clone())
            return v

    d = ExactDenoiser(Linear(), lambda x, a, s: Spy.apply(x) * 0.5, shape=(3,))
    x = torch.zeros(2, 3, dtype=F64)
    lk.log_likelihood(d, x, trace="gaussian", generator=generator(0))
    assert len(seen) > 10
    # what reaches the denoiser is v times a number of t alone: its direction never changes
    unit = [v / v.norm() for v in seen]
    assert all(torch.allclose(u.abs(), unit[0].abs(), atol=1e-6) for u in unit)


def test_several_directions_are_averaged():
    """Eigenvalue e of the data adds (1/2) log(V_1/V_0) v_e^2: variance 2 sum m^2, divided by K."""
    tilted, n = Gaussian([0.0, 0.0], [[0.5, 0.4], [0.4, 0.5]]), 6000
    (alpha0, sigma0), (alpha1, sigma1) = Linear().alpha_sigma(1e-3), Linear().alpha_sigma(1.0)
    e = tilted.eigenvalues[0]
    m = 0.5 * ((alpha1**2 * e + sigma1**2) / (alpha0**2 * e + sigma0**2)).log()
    exact = float(2 * m.square().sum())
    x = torch.tensor([[0.3, -0.2]], dtype=F64).expand(n, 2)
    for k in (1, 4):
        flow = lk.log_likelihood(
            tilted.denoiser(Linear()),
            x,
            trace="gaussian",
            generator=generator(k),
            directions=k,
            rtol=1e-4,
            atol=1e-4,
        )
        # v^2 has kurtosis 15, the mean of k of them 3 + 12/k
        spread = math.sqrt((2 + 12 / k) / n)
        assert float(flow.change.var()) == pytest.approx(exact / k, rel=4 * spread)
        assert float(flow.change.mean()) == pytest.approx(
            float(m.sum()), abs=4 * math.sqrt(exact / k / n)
        )


# ---- the ODE itself -----------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", SMOOTH, ids=repr)
def test_the_ode_carries_gaussian_data_as_its_closed_form_says(schedule):
    data = Gaussian([0.5, -1.0], [[0.5, 0.3], [0.3, 0.4]])
    d = data.denoiser(schedule)
    t0, t1 = lk.ends(d)
    x = data.sample(8, generator(0))
    flow = lk.encode(d, x, **TIGHT)
    exact = data.flow(x, *schedule.alpha_sigma(t0), *schedule.alpha_sigma(t1))
    assert torch.allclose(flow.x, exact, atol=2e-5 * schedule.sigma(t1))


@pytest.mark.parametrize("schedule", SMOOTH, ids=repr)
def test_encoding_and_decoding_are_inverse(schedule):
    d = LONG.denoiser(schedule)
    x = LONG.sample(12, generator(0))
    noise = lk.encode(d, x, **TIGHT)
    back = lk.decode(d, noise.x, **TIGHT)
    assert float((back.x - x).abs().max()) < 1e-4
    assert noise.change is None
    assert not torch.allclose(noise.x, x, atol=0.1)


def test_velocity_is_the_formula():
    x = torch.randn(5, 1, generator=generator(0), dtype=F64)
    for schedule in (Linear(), SubVP(), VE()):
        f, g2 = (float(c) for c in schedule.drift_diffusion(0.4))
        expected = f * x - 0.5 * g2 * TWO.score(x, *schedule.alpha_sigma(0.4))
        assert torch.allclose(lk.velocity(TWO.denoiser(schedule), x, 0.4), expected, atol=1e-10)


def test_an_adaptive_solver_needs_fewer_calls_at_a_looser_tolerance():
    d, x = LONG.denoiser(Linear()), LONG.sample(20, generator(0))
    exact = LONG.log_prob(x, *Linear().alpha_sigma(1e-3))
    prior, error, calls = true_prior(LONG, Linear(), 1.0), [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        flow = lk.log_likelihood(d, x, prior=prior, rtol=tolerance, atol=tolerance)
        error.append(float((flow.log_prob - exact).abs().max()))
        calls.append(flow.nfe)
    assert error[0] > error[1] > error[2]
    assert calls[0] < calls[1] < calls[2]


def test_ends_are_where_the_denoiser_may_be_asked():
    assert lk.ends(TWO.denoiser(Linear())) == (1e-3, 1.0)
    assert lk.ends(TWO.denoiser(VE())) == (0.0, 1.0)
    t0, t1 = lk.ends(TWO.denoiser(SubVP()))
    assert SubVP().lam(t0) == pytest.approx(-math.log(0.002))
    assert t1 == 1.0
    t0, t1 = lk.ends(TWO.denoiser(Cosine()))
    assert Cosine().lam(t1) == pytest.approx(-5.0)
    net = NetDenoiser(make_net("mlp"), EDM(20.0), sd=0.7, lam_range=(-2.9957, 4.6052))
    t0, t1 = lk.ends(net)
    assert EDM(20.0).sigma(t0) == pytest.approx(0.01, rel=1e-4)
    assert EDM(20.0).sigma(t1) == pytest.approx(20.0, rel=1e-4)


# ---- networks -----------------------------------------------------------------------------------
def test_a_network_in_single_precision():
    """A random network's flow: the change is the log-determinant of the map, by brute force."""
    torch.manual_seed(0)
    net = make_net("mlp", width=16, depth=2)
    torch.nn.init.normal_(net.last.weight, std=0.2)
    d = NetDenoiser(net, EDM(20.0), sd=0.7, lam_range=(-2.9957, 4.6052)).eval()
    x = torch.randn(1, 2, generator=generator(0))
    flow = lk.log_likelihood(d, x, **TIGHT)
    d = d.double()
    y = x.double()
    h = 1e-4
    moved = torch.cat(
        [y + h * e for e in torch.eye(2, dtype=F64)] + [y - h * e for e in torch.eye(2, dtype=F64)]
    )
    ends = lk.encode(d, moved, rtol=1e-9, atol=1e-9).x
    jacobian = ((ends[:2] - ends[2:]) / (2 * h)).T
    assert float(flow.change) == pytest.approx(float(jacobian.det().abs().log()), abs=1e-3)


def test_pictures_and_labels():
    """(B, 1, 2, 2) pictures through a class-conditional denoiser, against the flat mixture."""
    mixture = toys._mixture(
        [0.5, 0.5], torch.tensor([[0.5] * 4, [-0.5] * 4]), torch.eye(4).expand(2, 4, 4) * 0.2
    )

    class Pictures(Denoiser):
        num_classes = 2

        def forward(self, x_t, t, *, label=None):
            alpha, sigma = self.levels(t, x_t)
            out = mixture.x0(x_t.flatten(1), alpha, sigma, label).reshape(x_t.shape)
            return Prediction(x_t, alpha, sigma, out, "x0")

    x, label = mixture.sample_labelled(6, generator(0))
    x = x.reshape(6, 1, 2, 2)
    flow = lk.log_likelihood(Pictures(Linear()), x, label=label, **TIGHT)
    alpha, sigma = Linear().alpha_sigma(1e-3)
    for k in (0, 1):
        own = Gaussian(mixture.means[k], mixture.covs[k])
        truth = own.log_prob(x[label == k].flatten(1), alpha, sigma)
        assert torch.allclose(flow.log_prob[label == k], truth, atol=0.03)


def test_bits_of_discrete_data():
    """Uniform noise of one bin's width, the density's nats, and the offset log2((K-1)/2)."""
    data = Gaussian([0.0] * 3, torch.eye(3) * 0.3)
    d = data.denoiser(Linear())
    levels = 17
    x = (data.sample(400, generator(0)).clamp(-1, 1) * 8).round() / 8
    bits, nfe = lk.nll_bits(d, x, levels, generator(5))
    from diffusion_lab.metrics.likelihood import dequantise

    noisy = dequantise(x, levels, generator(5))
    exact = bits_per_dim(-data.log_prob(noisy, *Linear().alpha_sigma(1e-3)), 3) + offset(levels)
    assert torch.allclose(bits, exact, atol=2e-3)
    assert nfe > 20


# ---- bad input ----------------------------------------------------------------------------------
D, X = TWO.denoiser(Linear()), torch.zeros(2, 1, dtype=F64)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lk.encode(D, X, rtol=0.0), "tolerances must be positive"),
        (lambda: lk.encode(D, X, atol=-1e-3), "tolerances must be positive"),
        (lambda: lk.encode(D, X, rtol=math.nan), "tolerances must be positive"),
        (lambda: lk.encode(D, X, method="dopri"), "Did you mean 'dopri[58]'"),
        (lambda: lk.encode(TWO.denoiser(linear(100)), X), r"smooth schedule.*denoiser.on"),
        (lambda: lk.encode(D, X * math.nan), "NaN or infinity"),
        (lambda: lk.encode(D, X.long()), "float batch"),
        (lambda: lk.encode(D, X, [0.5]), "times must rise"),
        (lambda: lk.encode(D, X, [0.5, 0.7, 0.6]), "times must rise"),
        (lambda: lk.encode(D, X, [0.0, 1.0]), "cannot begin or end at t = 0"),
        (lambda: lk.encode(TWO.denoiser(Cosine()), X, [0.1, 1.0]), "cannot begin or end at t = 1"),
        (lambda: lk.encode(D, X, max_steps=0), "max_steps"),
        (lambda: lk.log_likelihood(D, X, [0.9, 0.1]), "rise from data to noise"),
        (lambda: lk.log_likelihood(D, X, trace="hutchinson"), "unknown trace"),
        (lambda: lk.log_likelihood(D, X, trace="gaussian"), "give generator="),
        (lambda: lk.solve(D, X, [0.1, 1.0], trace="exact", v=X[None]), "directions v belong"),
        (lambda: lk.solve(D, X, [0.1, 1.0], trace="gaussian"), "directions v belong"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_denoiser_that_returns_nan_is_named():
    bad = ExactDenoiser(Linear(), lambda x, a, s: x * math.nan, shape=(1,))
    for call in (lk.encode, lk.log_likelihood):
        with pytest.raises(FloatingPointError, match="right-hand side is not finite at t = 0.001"):
            call(bad, X)


def test_too_few_steps_are_named():
    with pytest.raises(RuntimeError, match="could not reach rtol = 1e-09.* within 3 steps"):
        lk.encode(D, X, rtol=1e-9, atol=1e-9, max_steps=3)


def test_the_batch_does_not_leak_gradients():
    x = torch.zeros(2, 1, dtype=F64, requires_grad=True)
    flow = lk.log_likelihood(D, x, rtol=1e-3, atol=1e-3)
    assert not flow.log_prob.requires_grad
    assert not divergence(lambda y: y**2, x)[1].requires_grad
