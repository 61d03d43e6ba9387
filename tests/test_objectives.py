"""Weights, losses and laws of t against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, Same, gen, randn
from torch import nn

from diffusion_lab.bound import vlb_term
from diffusion_lab.denoisers import KINDS, NetDenoiser, Wrapped, affine
from diffusion_lab.exact import Gaussian, GaussianMixture
from diffusion_lab.forward import noised
from diffusion_lab.objectives import WEIGHTS, DiffusionLoss, Weighting, draw_times
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, Sigmoid, linear, zero_terminal_snr

LINEAR = linear(1000)
AT = torch.tensor([1, 100, 250, 500, 1000], dtype=F64) / 1000
SCHEDULES = [Linear(), Cosine(), VE(), EDM(), LINEAR]


# ---- values -------------------------------------------------------------------------------------
def test_values_on_the_linear_schedule():
    assert LINEAR.snr(AT).tolist() == pytest.approx([9999, 8.71, 1.10, 0.0853, 4e-5], rel=1e-2)
    p2 = Weighting("p2").on("eps", LINEAR, AT)
    assert p2.tolist() == pytest.approx([1e-4, 0.103, 0.476, 0.921, 1.0], rel=5e-3)
    min_snr = Weighting("min-snr").on("eps", LINEAR, AT)
    assert min_snr.tolist() == pytest.approx([5e-4, 0.574, 1, 1, 1], rel=1e-3)


def test_p2_with_k_and_gamma_one_is_one_minus_abar():
    for s in (Linear(), Cosine(), Sigmoid(), LINEAR):
        t = torch.linspace(0.01, 0.99, 50, dtype=F64)
        weight = Weighting("p2", {"k": 1.0, "gamma": 1.0}).on("eps", s, t)
        assert torch.allclose(weight, 1 - s.alpha(t) ** 2, rtol=1e-10)
    gamma0 = Weighting("p2", {"gamma": 0.0}).on("eps", LINEAR, AT)
    assert torch.allclose(gamma0, torch.ones(5, dtype=F64), rtol=1e-10)
    half = Weighting("p2", {"gamma": 0.5}).on("eps", LINEAR, AT)
    assert torch.allclose(half, (1 + LINEAR.snr(AT)) ** -0.5, rtol=1e-10)


def test_min_snr_in_its_three_units():
    snr = LINEAR.snr(AT)
    w = Weighting("min-snr", {"g": 5.0})
    least = snr.clamp(max=5.0)
    assert torch.allclose(w.on("x0", LINEAR, AT), least, rtol=1e-10)
    assert torch.allclose(w.on("eps", LINEAR, AT), least / snr, rtol=1e-10)
    assert torch.allclose(w.on("v", LINEAR, AT), least / (snr + 1), rtol=1e-10)


def test_simple_is_one_on_eps():
    for s in SCHEDULES:
        t = torch.linspace(0.05, 0.95, 9, dtype=F64)
        ones = torch.ones(9, dtype=F64)
        assert torch.allclose(Weighting("simple").on("eps", s, t), ones, rtol=1e-10)
        assert torch.equal(Weighting("x0").on("x0", s, t), ones)


@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_edm_is_one_on_its_own_output(sd):
    t = torch.linspace(0.1, 0.9, 9, dtype=F64)
    for s in SCHEDULES:
        w = Weighting("edm", {"sd": sd})
        assert torch.allclose(w.on("edm", s, t, sd), torch.ones(9, dtype=F64), rtol=1e-10)
    sigma = EDM().sigma(t)
    paper = (sigma**2 + sd**2) / (sigma * sd) ** 2
    assert torch.allclose(Weighting("edm", {"sd": sd}).on("x0", EDM(), t), paper, rtol=1e-10)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_one_loss_in_all_units(name, schedule):
    """w_kind |d out|^2 is the same number whatever the network puts out."""
    t = torch.tensor([0.21, 0.5, 0.83], dtype=F64)
    alpha, sigma = schedule.alpha_sigma(t)
    dx0 = torch.tensor([0.1, -2.0, 0.7], dtype=F64)
    w = Weighting(name)
    loss = w.on("x0", schedule, t) * dx0**2
    for kind, d in {
        "eps": -alpha / sigma * dx0,
        "v": -(alpha**2 / sigma + sigma) * dx0,
        "score": alpha / sigma**2 * dx0,
        "edm": dx0 / affine("edm", alpha, sigma, 0.7)[1],
    }.items():
        assert torch.allclose(w.on(kind, schedule, t, 0.7) * d**2, loss, rtol=1e-10), kind
    snr = (alpha / sigma) ** 2
    assert torch.allclose(w.on("eps", schedule, t) * snr, w.on("x0", schedule, t), rtol=1e-10)


def test_vlb_weight_is_the_fall_of_lambda():
    t = torch.linspace(0.05, 0.95, 10, dtype=F64)
    h = 1e-6
    for s in (Linear(), Cosine(), VE(), EDM()):
        slope = (s.lam(t + h) - s.lam(t - h)) / (2 * h)
        got = Weighting("vlb").on("x0", s, t)
        assert torch.allclose(got, -s.snr(t) * slope, rtol=1e-6)
        assert torch.allclose(Weighting("vlb").on("eps", s, t), -slope, rtol=1e-6)


def test_vlb_weight_is_the_limit_of_the_bound():
    """T terms 0.5 (SNR_s - SNR_t) |d x0|^2 with the small variance become the integral."""
    s, T = Linear(), 20_000
    t = torch.tensor([0.3, 0.6, 0.9], dtype=F64)
    x0 = torch.tensor([[0.4], [-0.2], [1.0]], dtype=F64)
    eps = torch.tensor([[0.3], [1.0], [-0.5]], dtype=F64)
    x_t = noised(x0, eps, s, t)
    p = Gaussian([0.0], [[0.25]]).denoiser(s)(x_t, t)
    term = vlb_term(p, x0, s, t, t - 1 / T, variance="small") * math.log(2) * T
    error = (x0 - p.x0).square().mean(1)
    assert torch.allclose(term, Weighting("vlb").on("x0", s, t) * error, rtol=2e-3)


def test_simple_against_the_bound_is_the_factor_of_the_paper():
    """2 S^2 a_t (1 - abar_t)/beta_t^2 times the bound's term is the squared eps error."""
    i = 300
    beta = LINEAR.betas()[i - 1].item()
    t = torch.tensor([i / 1000], dtype=F64)
    alpha, sigma = LINEAR.alpha_sigma(i / 1000)
    x0, eps = randn(1, 3), randn(1, 3, seed=1)
    p = Gaussian(torch.zeros(3), 0.25 * torch.eye(3)).denoiser(LINEAR)(alpha * x0 + sigma * eps, t)
    q = p.with_x0(x0)  # a perfect answer: what is left is no function of the network
    terms = [vlb_term(r, x0, LINEAR, t, variance="large").item() * math.log(2) * 3 for r in (p, q)]
    factor = 2 * beta * (1 - beta) * sigma**2 / beta**2
    assert factor * (terms[0] - terms[1]) == pytest.approx((eps - p.eps).square().sum().item())


# ---- the loss -----------------------------------------------------------------------------------
class Constant(nn.Module):
    """A network whose output is a parameter: its gradient is that of the loss on the output."""

    def __init__(self, out):
        super().__init__()
        self.out = nn.Parameter(out)

    def forward(self, x, lam, label=None):
        return self.out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_loss_is_the_weighted_error_of_x0(kind, name):
    x0, eps, out = randn(4, 2, 3), randn(4, 2, 3, seed=1), randn(4, 2, 3, seed=2)
    t = torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=F64)
    for s in (Linear(), EDM()):
        d = NetDenoiser(Constant(out), s, kind, sd=0.6)
        loss = DiffusionLoss(d, Weighting(name))(x0, t, eps)
        error = (x0 - d(noised(x0, eps, s, t), t).x0).square().flatten(1).mean(1)
        assert loss.shape == (4,)
        assert torch.allclose(loss, Weighting(name).on("x0", s, t) * error, rtol=1e-8)


def test_simple_loss_is_the_error_of_eps():
    x0, eps, out = randn(4, 2), randn(4, 2, seed=1), randn(4, 2, seed=2)
    t = torch.tensor([0.001, 0.4, 0.6, 1.0], dtype=F64)
    d = NetDenoiser(Constant(out), LINEAR, "eps")
    loss = DiffusionLoss(d, Weighting("simple"))(x0, t, eps)
    assert torch.allclose(loss, (out - eps).square().mean(1), rtol=1e-10)


def test_a_perfect_network_has_no_loss():
    x0, eps = randn(4, 2), randn(4, 2, seed=1)
    t = torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=F64)
    alpha, sigma = (c[:, None] for c in Cosine().alpha_sigma(t))
    d = NetDenoiser(Constant(alpha * eps - sigma * x0), Cosine(), "v")
    loss = DiffusionLoss(d, Weighting("simple"))(x0, t, eps)
    assert loss.max() < 1e-25


def test_gradients_at_each_time_are_proportional_to_the_weight():
    """With one free answer for each t the weight cannot move the optimum, only the speed."""
    x0, eps, out = randn(5, 2), randn(5, 2, seed=1), randn(5, 2, seed=2)
    norms = {}
    for name in ("simple", "p2", "min-snr"):
        d = NetDenoiser(Constant(out.clone()), LINEAR, "eps")
        DiffusionLoss(d, Weighting(name))(x0, AT, eps).sum().backward()
        norms[name] = d.net.out.grad.norm(dim=1)
    for name in ("p2", "min-snr"):
        weight = Weighting(name).on("eps", LINEAR, AT)
        assert torch.allclose(norms[name] / norms["simple"], weight, rtol=1e-10)


@pytest.mark.parametrize("name", ["simple", "p2", "min-snr", "x0"])
def test_best_affine_answer_does_not_depend_on_the_weight(name):
    """eps_hat = k x_t for each t on N(0, .25): least squares gives k = sigma / (.25 a^2 + s^2)."""
    s2, t = 0.25, AT
    alpha, sigma = LINEAR.alpha_sigma(t)
    x0 = math.sqrt(s2) * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64).repeat(5)[:, None]
    eps = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64).repeat(5)[:, None]

    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(torch.zeros(5, dtype=F64))

        def forward(self, x, lam):
            return self.k.repeat_interleave(4)[:, None] * x

    d = NetDenoiser(Slope(), LINEAR, "eps")
    loss = DiffusionLoss(d, Weighting(name))(x0, t.repeat_interleave(4), eps).sum()
    (slope,) = torch.autograd.grad(loss, d.net.k, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), d.net.k)
    k = (d.net.k - slope / curve).detach()  # the loss is a parabola in k
    assert torch.allclose(k, sigma / (alpha**2 * s2 + sigma**2), rtol=1e-8)


def test_the_exact_denoiser_beats_its_neighbours():
    """The loss of the optimal answer is Var(x0 | x_t), and any shift costs its square."""
    mix = GaussianMixture([0.3, 0.7], [[-2.0], [1.0]], [[[0.3]], [[0.5]]])
    s, n = Linear(), 20_000
    x0, eps = mix.sample(n, gen()), randn(n, 1, seed=1)
    t = torch.full((n,), 0.4, dtype=F64)
    loss = DiffusionLoss(mix.denoiser(s), Weighting("x0"))(x0, t, eps)
    left = mix.posterior_cov(noised(x0, eps, s, t), *s.alpha_sigma(0.4)).flatten()
    error = (loss - left).std() / math.sqrt(n)
    assert (loss - left).mean().abs() <= 5 * error


def test_labels_reach_the_network():
    seen = []

    class Spy(nn.Module):
        def forward(self, x, lam, label=None):
            seen.append(label)
            return x

    d = NetDenoiser(Spy(), Linear(), "v", num_classes=3)
    loss = DiffusionLoss(d, Weighting())
    label = torch.tensor([0, 2])
    loss(randn(2, 3), torch.tensor([0.2, 0.4], dtype=F64), randn(2, 3), label=label)
    loss(randn(2, 3), torch.tensor([0.2, 0.4], dtype=F64), randn(2, 3))
    assert seen[0] is label
    assert seen[1] is None


def test_noised_is_the_jump():
    x0, eps = randn(3, 2, 3, 3), randn(3, 2, 3, 3, seed=1)  # as many pictures as columns
    t = torch.tensor([0.001, 0.5, 1.0], dtype=F64)
    x_t = noised(x0, eps, LINEAR, t)
    for i, u in enumerate(t.tolist()):
        expected = LINEAR.alpha(u) * x0[i] + LINEAR.sigma(u) * eps[i]
        assert torch.allclose(x_t[i], expected, atol=1e-14)
    assert noised(x0.float(), eps.float(), LINEAR, t).dtype == torch.float32


# ---- the hybrid loss ----------------------------------------------------------------------------
def hybrid():
    net = Constant(randn(3, 2, 2, 2, seed=4))  # one channel of eps, one of the variance
    d = NetDenoiser(net, LINEAR, "eps", learned_var=True)
    x0 = torch.randint(0, 17, (3, 1, 2, 2), generator=gen()).double() / 8 - 1
    t = torch.tensor([0.001, 0.3, 1.0], dtype=F64)
    return net, d, x0, t, randn(3, 1, 2, 2, seed=5)


def test_the_bound_in_the_hybrid_loss_does_not_move_the_mean():
    net, d, x0, t, eps = hybrid()
    with_bound = DiffusionLoss(d, Weighting(), hybrid=True, levels=17)(x0, t, eps)
    without = DiffusionLoss(d, Weighting(), levels=17)(x0, t, eps)
    (grad,) = torch.autograd.grad((with_bound - without).sum(), net.out)
    assert grad[:, 0].abs().max() == 0.0, "no gradient reaches the predicted noise"
    assert grad[:, 1].abs().min() > 0.0, "and all of it the variance"


def test_the_hybrid_loss_is_the_sum():
    _, d, x0, t, eps = hybrid()
    both = DiffusionLoss(d, Weighting(), hybrid=True, levels=17)(x0, t, eps)
    simple = DiffusionLoss(d, Weighting())(x0, t, eps)
    bits = vlb_term(d(noised(x0, eps, LINEAR, t), t), x0, LINEAR, t, levels=17)
    assert torch.allclose(both, simple + 1000 / 1000 * bits, rtol=1e-10)
    short = linear(200)  # one of fewer terms counts for less
    d = NetDenoiser(d.net, short, "eps", learned_var=True)
    t = torch.tensor([0.005, 0.3, 1.0], dtype=F64)
    both = DiffusionLoss(d, Weighting(), hybrid=True, levels=17)(x0, t, eps)
    simple = DiffusionLoss(d, Weighting())(x0, t, eps)
    bits = vlb_term(d(noised(x0, eps, short, t), t), x0, short, t, levels=17)
    assert torch.allclose(both, simple + 200 / 1000 * bits, rtol=1e-10)


# ---- laws of t ----------------------------------------------------------------------------------
def test_uniform_times_are_stratified_and_uniform():
    t = draw_times(Linear(), 64, gen())
    assert t.dtype == F64
    assert torch.equal((t.sort().values * 64).long(), torch.arange(64))
    first = torch.stack([draw_times(Linear(), 8, gen(i))[0] for i in range(2000)])
    assert abs(first.mean().item() - 0.5) < 5 * math.sqrt(1 / 12 / 2000)
    assert abs(first.var().item() - 1 / 12) < 0.01
    assert torch.equal(draw_times(Linear(), 64, gen()), t)


def test_grid_times_are_grid_times():
    t = draw_times(linear(10), 4000, gen(), law="grid")
    count = torch.bincount((t * 10).round().long(), minlength=11)
    assert count[0] == 0, "t = 0 is never trained"
    assert (count[1:] > 400 - 5 * 20).all()
    assert (count[1:] < 400 + 5 * 20).all()


def test_lognormal_times_have_the_moments():
    n = 20_000
    for s in (EDM(), Linear()):
        lam = s.lam(draw_times(s, n, gen(), law="lognormal", mean=-1.2, std=1.2))
        assert abs(-lam.mean().item() + 1.2) < 5 * 1.2 / math.sqrt(n) + 1e-3
        assert lam.std().item() == pytest.approx(1.2, rel=0.03)
    default = draw_times(EDM(), 10, gen(), law="lognormal")
    assert torch.equal(default, draw_times(EDM(), 10, gen(), law="lognormal", mean=-1.2, std=1.2))


def test_lognormal_times_on_a_chain_are_its_steps_with_the_mass_between_their_midpoints():
    n, s = 20_000, linear(100)
    place = draw_times(s, n, gen(), law="lognormal", mean=-0.6, std=1.2) * 100
    step = place.round()
    assert (place - step).abs().max() < 1e-9
    assert step.min() == 1, "what lies below the first half step goes to step 1"
    for i in (1, 5, 20, 50, 80):
        z = (-s.lam((i + 0.5) / 100) + 0.6) / 1.2  # ln(sigma/alpha), standardised
        p = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        found = (step <= i).double().mean().item()
        assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-4


def test_times_stay_within_the_range():
    for s in (Linear(), EDM()):
        for law in ("uniform", "lognormal"):
            lam = s.lam(draw_times(s, 3000, gen(), law=law, lam_range=(-1.0, 2.0)))
            assert lam.min() >= -1.0 - 1e-9
            assert lam.max() <= 2.0 + 1e-9
    low, high = LINEAR.lam(0.7), LINEAR.lam(0.2001)  # ends at a step, and between two
    t = draw_times(LINEAR, 3000, gen(), law="lognormal", lam_range=(low, high), mean=-0.5, std=2)
    assert (t.min().item(), t.max().item()) == (0.201, 0.7)
    assert (t * 1000 - (t * 1000).round()).abs().max() < 1e-9


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "bad,complaint",
    [
        (lambda: Weighting("min_snr"), "Did you mean 'min-snr'"),
        (lambda: Weighting("p2", {"gama": 1.0}), "Did you mean 'gamma'"),
        (lambda: Weighting("simple", {"k": 1.0}), "unknown parameter of the weighting"),
        (lambda: Weighting().on("epsilon", LINEAR, AT), "Did you mean 'eps'"),
        (lambda: Weighting().on("eps", LINEAR, torch.tensor([1.2])), r"t must lie in \[0, 1\]"),
        (lambda: draw_times(LINEAR, 4, gen(), law="unifrm"), "Did you mean 'uniform'"),
        (lambda: draw_times(Linear(), 4, gen(), law="grid"), "needs a schedule on T steps"),
        (lambda: draw_times(Linear(), 4, gen(), law="lognormal", men=0.0), "Did you mean 'mean'"),
        (lambda: draw_times(Linear(), 4, gen(), mean=0.0), "unknown parameter of the law"),
        (lambda: draw_times(Linear(), 0, gen()), "number of times must be"),
        (lambda: noised(randn(2, 3), randn(2, 4), LINEAR, AT[:2]), "must have one shape"),
        (lambda: noised(randn(2, 3), randn(2, 3), LINEAR, AT), r"t must have shape \(2,\)"),
        (
            lambda: noised(randn(2, 3), randn(2, 3), LINEAR, torch.tensor([0.5, math.nan])),
            r"t must lie in \[0, 1\]",
        ),
    ],
)
def test_bad_input(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        bad()


def test_losses_that_cannot_be():
    plain = NetDenoiser(Same(), LINEAR, "eps")
    with pytest.raises(ValueError, match="build the denoiser learned_var=True"):
        DiffusionLoss(plain, Weighting(), hybrid=True)
    smooth = NetDenoiser(Same(), Linear(), "eps", learned_var=True)
    with pytest.raises(ValueError, match="needs a schedule on T steps"):
        DiffusionLoss(smooth, Weighting(), hybrid=True)
    at_end = NetDenoiser(Constant(randn(1, 2)), zero_terminal_snr(LINEAR), "eps")
    with pytest.raises(ValueError, match="use a denoiser that predicts v, x0 or edm"):
        DiffusionLoss(at_end, Weighting())(randn(1, 2), torch.ones(1), randn(1, 2))


def test_the_weight_of_the_bound_ends_finite_at_zero_terminal_snr():
    """-d SNR/dt / 2 is constant along a table's last interval, also where alpha = 0."""
    schedule = zero_terminal_snr(LINEAR)
    t = torch.tensor([0.9991, 0.9999, 1.0], dtype=F64)
    found = Weighting("vlb").on("v", schedule, t)
    assert torch.allclose(found, torch.full_like(found, 2.1066e-6), rtol=1e-4)
    assert Weighting("vlb").on("v", Cosine(), t[2:]).isfinite().all()


def test_a_range_of_one_lambda_is_refused():
    for low, high in ((1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="lam_range must be"):
            draw_times(Linear(), 4, gen(0), lam_range=(low, high))
    assert len(draw_times(Linear(), 4, gen(0), lam_range=(1.0, 1.0 + 1e-9))) == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_move_the_level(dtype):
    """lambda is taken in double before anything is rounded: ends of the range are inside it."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x, lam):
            seen.append(lam)
            return 0.5 * x

    d = NetDenoiser(Spy(), LINEAR, "v")
    x0, eps = (randn(3, 2, 2, seed=k).to(dtype) for k in (0, 1))
    t = torch.tensor([1.0, 0.5, 0.001], dtype=F64)
    half = DiffusionLoss(d, Weighting())(x0, t, eps)
    full = DiffusionLoss(d, Weighting())(x0.float(), t, eps.float())
    assert torch.allclose(half.float(), full, rtol=0.2)  # 8 bits of x_t at t = 0.001
    assert seen[0].dtype is torch.float32
    assert torch.allclose(seen[0].double(), LINEAR.lam(t), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_wrapped_denoiser_is_weighed_as_what_it_wraps(kind, name):
    """The weight belongs to x_0: a wrapper, or another schedule, changes no loss."""

    class Half(nn.Module):
        def forward(self, x, lam):
            return 0.5 * x

    net = NetDenoiser(Half(), Linear(), kind, sd=0.5)
    x0, eps, t = randn(3, 2), randn(3, 2, seed=1), torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    bare = DiffusionLoss(net, Weighting(name))(x0, t, eps)
    assert torch.allclose(DiffusionLoss(Wrapper(net), Weighting(name))(x0, t, eps), bare)
    if name == "vlb":  # whose weight has dt in it
        return
    there = EDM().t_of_lam(Linear().lam(t))
    moved = DiffusionLoss(net.on(EDM()), Weighting(name))(x0, there, eps)
    assert torch.allclose(moved, bare, rtol=1e-6)


class Wrapper(Wrapped):
    def forward(self, x_t, t):
        return self.inner(x_t, t)
