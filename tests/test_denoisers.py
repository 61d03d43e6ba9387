"""Predictions against exact numbers: every reading of every kind, preconditioning, other schedules.

x_0, eps and so every true output are known here, so each conversion has one right answer.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import F64, randn
from torch import nn

from diffusion_lab import nets
from diffusion_lab.denoisers import (
    KINDS,
    Clipped,
    NetDenoiser,
    OnSchedule,
    Prediction,
    Wrapped,
    affine,
)
from diffusion_lab.device import generator
from diffusion_lab.exact import GaussianMixture
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, Sigmoid, linear, zero_terminal_snr

SCHEDULES = [Linear(), Cosine(), Sigmoid(), VE(), EDM(), linear(1000)]
LEVELS = [(0.8, 0.6), (0.99, math.sqrt(1 - 0.99**2)), (1.0, 3.0), (0.3, 0.2), (0.05, 1.0)]


def truth(x0, eps, alpha, sigma, sd):
    """What a perfect network of each kind would have put out, by the definitions."""
    x_t = alpha * x0 + sigma * eps
    size2 = alpha * alpha * sd * sd + sigma * sigma
    c_skip, c_out = alpha * sd * sd / size2, sigma * sd / size2**0.5
    return x_t, {
        "x0": x0,
        "eps": eps,
        "v": alpha * eps - sigma * x0,
        "score": -eps / sigma,
        "edm": (x0 - c_skip * x_t) / c_out,
    }


def read(kind, x_t, alpha, sigma, out, sd):
    return Prediction(x_t, alpha, sigma, out, kind, ab=affine(kind, alpha, sigma, sd))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha,sigma", LEVELS)
@pytest.mark.parametrize("batched", [False, True])
def test_every_kind_reads_as_every_other(kind, alpha, sigma, batched):
    sd = 0.7
    x0, eps = randn(5, 2, 3), randn(5, 2, 3, seed=1)
    if batched:  # each picture its own level
        alpha = torch.linspace(0.9, 1.1, 5, dtype=F64).reshape(5, 1, 1) * alpha
        sigma = torch.linspace(1.2, 0.8, 5, dtype=F64).reshape(5, 1, 1) * sigma
    x_t, outs = truth(x0, eps, alpha, sigma, sd)
    p = read(kind, x_t, alpha, sigma, outs[kind], sd)
    for name in ("x0", "eps", "v", "score"):
        error = (getattr(p, name) - outs[name]).abs().max() / outs[name].abs().max()
        assert error < 1e-11, name
    parts = {"x_t": x_t, "x0": x0, "eps": eps, "score": -eps / sigma}
    for given in itertools.product((0.0, 1.0, -0.4), repeat=4):
        wanted = sum(c * part for c, part in zip(given, parts.values()))
        size = max(1.0, *(part.abs().max().item() for part in parts.values()))
        assert (p.mix(**dict(zip(parts, given))) - wanted).abs().max() < 1e-11 * size
    lam = (alpha / sigma).log() if batched else math.log(alpha / sigma)
    assert torch.as_tensor(p.lam).flatten().tolist() == pytest.approx(
        torch.as_tensor(lam).flatten().tolist()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_of_v_is_the_general_one(kind):
    """x0 = (alpha x - sigma v)/(alpha^2 + sigma^2), eps = (sigma x + alpha v)/(...)."""
    alpha, sigma = 0.9, 1.7
    x_t, outs = truth(randn(4, 3), randn(4, 3, seed=1), alpha, sigma, 0.5)
    p = read(kind, x_t, alpha, sigma, outs[kind], 0.5)
    size = alpha**2 + sigma**2
    assert torch.allclose(p.x0, (alpha * x_t - sigma * outs["v"]) / size, atol=1e-12)
    assert torch.allclose(p.eps, (sigma * x_t + alpha * outs["v"]) / size, atol=1e-12)


def test_errors_of_the_readings_at_one_x():
    """|d eps|^2 = SNR |d x0|^2; VP: |d v|^2 = |d x0|^2 / sigma^2 = |d eps|^2 / alpha^2."""
    alpha, sigma = 0.6, 0.8
    x_t, a, b = randn(6), randn(6, seed=1), randn(6, seed=2)
    p, q = (Prediction(x_t, alpha, sigma, x0, "x0") for x0 in (a, b))
    dx0, deps, dv = ((getattr(p, n) - getattr(q, n)) ** 2 for n in ("x0", "eps", "v"))
    assert torch.allclose(deps, (alpha / sigma) ** 2 * dx0, rtol=1e-11)
    assert torch.allclose(dv, dx0 / sigma**2, rtol=1e-11)
    assert torch.allclose(dv, deps / alpha**2, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_moves_eps_too(kind):
    alpha, sigma = 0.8, 0.6
    x0, eps = 2 * randn(50, 2), randn(50, 2, seed=1)
    x_t, outs = truth(x0, eps, alpha, sigma, 1.0)
    p = Prediction(x_t, alpha, sigma, outs[kind], kind, var_weight=x0)
    clipped = p.clip(-1.0, 1.0)
    assert (x0.abs() > 1).any()
    assert torch.allclose(clipped.x0, x0.clamp(-1, 1), atol=1e-12)
    # x_t is still explained: alpha x0 + sigma eps = x_t
    assert torch.allclose(alpha * clipped.x0 + sigma * clipped.eps, x_t, atol=1e-12)
    assert torch.allclose(clipped.v, alpha * clipped.eps - sigma * clipped.x0, atol=1e-12)
    assert torch.allclose(clipped.score, -clipped.eps / sigma, atol=1e-12)
    assert clipped.var_weight is p.var_weight
    assert torch.allclose(p.x0, x0, atol=1e-12), "the prediction itself is left as it was"


def test_at_pure_noise_v_and_x0_still_say_something():
    x_t, v = randn(3, 2), randn(3, 2, seed=1)
    p = Prediction(x_t, 0.0, 1.0, v, "v")
    assert torch.equal(p.x0, -v)
    assert torch.equal(p.eps, x_t)
    assert p.lam == -math.inf
    assert Prediction(x_t, 1.0, 0.0, v, "x0").lam == math.inf
    for alpha in (0.0, torch.zeros(3, 1, dtype=F64), torch.tensor([[0.5], [0.0], [0.3]])):
        for kind in ("eps", "score"):
            with pytest.raises(ValueError, match="says nothing about x_0 where alpha = 0"):
                Prediction(x_t, alpha, 1.0, v, kind)


def test_without_noise_there_is_no_eps():
    p = Prediction(randn(3, 2), 1.0, 0.0, randn(3, 2), "x0")
    for name in ("eps", "v", "score"):
        with pytest.raises(ValueError, match="no noise to read"):
            getattr(p, name)


# ---- EDM preconditioning ------------------------------------------------------------------------
@pytest.mark.parametrize("sigma", [0.01, 0.5, 2.0, 80.0])
@pytest.mark.parametrize("sd", [0.5, 1.0])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_edm_input_and_target_have_unit_variance(sigma, sd, alpha):
    """y ~ N(0, sd^2): both are a straight line in (y, eps), whose coefficients give the variance.

    alpha = 1 is the paper's case; with another alpha, sigma here is alpha times the paper's.
    """
    sigma = sigma * alpha
    a, b = affine("edm", alpha, sigma, sd)
    target = ((1 - a * alpha) / b, -a * sigma / b)  # (y - a x_t)/b with x_t = alpha y + sigma eps
    assert (target[0] * sd) ** 2 + target[1] ** 2 == pytest.approx(1.0, abs=1e-12)

    seen = []

    class Spy(nn.Module):
        def forward(self, x, lam):
            seen.append((x, lam))
            return torch.zeros_like(x)

    class Fixed(Linear):
        def logs(self, t):
            return math.log(alpha), math.log(sigma)

    NetDenoiser(Spy(), Fixed(), "edm", sd=sd)(torch.tensor([[alpha], [sigma]], dtype=F64), 0.5)
    (of_y, of_eps), lam = seen[0][0].flatten().tolist(), seen[0][1].item()
    assert (of_y * sd) ** 2 + of_eps**2 == pytest.approx(1.0, abs=1e-12)
    assert lam == pytest.approx(math.log(alpha / sigma))


@pytest.mark.parametrize("sigma", [0.01, 0.5, 2.0, 80.0])
def test_edm_coefficients_are_those_of_the_paper(sigma):
    sd = 0.5
    a, b = affine("edm", 1.0, sigma, sd)
    assert a == pytest.approx(sd**2 / (sigma**2 + sd**2), rel=1e-14)
    assert b == pytest.approx(sigma * sd / math.sqrt(sigma**2 + sd**2), rel=1e-14)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    assert weight * b**2 == pytest.approx(1.0, rel=1e-13)

    def scale(c):  # std of what is left for the network to explain, with skip weight c
        return math.hypot((1 - c) * sd, c * sigma)

    assert scale(a) == pytest.approx(b, rel=1e-12)
    assert scale(a) <= min(scale(a + h) for h in (-1e-3, 1e-3)), "c_skip makes c_out smallest"


def test_other_kinds_are_special_cases_of_edm():
    """eps: skip 1, out -sigma. x0: skip 0, out 1. v (VP): EDM with sd = 1 and the sign flipped."""
    alpha, sigma = 0.6, 0.8
    ratio = sigma / alpha  # EDM's sigma of x_t / alpha
    a, b = affine("eps", alpha, sigma)
    assert (a * alpha, b) == pytest.approx((1.0, -ratio))
    assert affine("x0", alpha, sigma) == (0.0, 1.0)
    a, b = affine("v", alpha, sigma)
    assert a * alpha == pytest.approx(1 / (1 + ratio**2))
    assert b == pytest.approx(-ratio / math.sqrt(1 + ratio**2))
    a_edm, b_edm = affine("edm", alpha, sigma, 1.0)
    assert (a, b) == pytest.approx((a_edm, -b_edm))


# ---- networks as denoisers ----------------------------------------------------------------------
class Line(nn.Module):
    """A network with a formula: out = gain x + told lambda (+ label)."""

    def __init__(self, gain=0.3, twice=False):
        super().__init__()
        self.gain, self.twice = gain, twice

    def forward(self, x, lam, label=None):
        out = self.gain * x + lam.reshape(-1, *(1,) * (x.ndim - 1))
        if label is not None:
            out = out + label.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        return torch.cat([out, torch.full_like(out, 0.5)], dim=1) if self.twice else out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_tensor_of_times_is_many_floats(kind, schedule):
    d = NetDenoiser(Line(), schedule, kind, sd=0.6)
    x = randn(3, 1, 2, 2)
    times = [0.2, 0.55, 0.9]
    together = d(x, torch.tensor(times, dtype=F64))
    for i, t in enumerate(times):
        one = d(x[i : i + 1], t)
        for name in ("out", "x0", "eps", "v", "score"):
            a, b = getattr(together, name)[i : i + 1], getattr(one, name)
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9), name
    # one time for all: a tensor of length 1
    assert torch.allclose(d(x, torch.tensor([0.55], dtype=F64)).x0, d(x, 0.55).x0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [EDM(), VE(sigma_max=100.0), Cosine()], ids=repr)
def test_a_network_on_another_schedule(kind, other):
    """Matched by lambda: the same picture in the other schedule's units gets the same x0."""
    own = Linear()
    d = NetDenoiser(Line(), own, kind, sd=0.6)
    x = randn(3, 1, 2, 2)
    moved = d.on(other)
    assert moved.schedule == other
    for t in (0.1, 0.5, 0.9):
        there = other.t_of_lam(own.lam(t))
        r = other.alpha(there) / own.alpha(t)
        for ask in (there, torch.full((3,), there, dtype=F64)):
            assert torch.allclose(moved(x * r, ask).x0, d(x, t).x0, rtol=1e-7, atol=1e-8)
    assert torch.equal(d.on(own)(x, 0.5).x0, d(x, 0.5).x0)


def test_learned_variance_is_the_second_half():
    d = NetDenoiser(Line(twice=True), Linear(), "eps", learned_var=True)
    x = randn(2, 1, 2, 2)
    p = d(x, 0.5)
    assert p.out.shape == x.shape
    assert torch.equal(p.var_weight, torch.full_like(x, 0.75))  # (u + 1) / 2
    assert p.clip().var_weight is p.var_weight
    assert torch.equal(d.on(Cosine())(x, 0.5).var_weight, p.var_weight)


def test_a_clipped_x0_beside_the_eps_of_the_network():
    """``keep_eps``: x_0 is clamped, eps stays, v and score and every mix follow the two."""
    own, x = Linear(), 2 * randn(6, 2)
    d = NetDenoiser(Line(), own, "v")
    for t in (0.5, torch.linspace(0.2, 0.8, 6, dtype=F64)):
        plain, kept = d(x, t), Clipped(d, -0.5, 0.5, keep_eps=True)(x, t)
        x0, eps = plain.x0.clamp(-0.5, 0.5), plain.eps
        assert (plain.x0.abs() > 0.5).any()
        assert torch.allclose(kept.x0, x0, atol=1e-12) and torch.allclose(kept.eps, eps, atol=1e-12)
        assert torch.allclose(kept.v, kept.alpha * eps - kept.sigma * x0, atol=1e-12)
        assert torch.allclose(kept.score, -eps / kept.sigma, atol=1e-12)
        mixed = kept.mix(x_t=0.3, x0=-0.7, eps=1.9, score=0.4)
        wanted = 0.3 * x - 0.7 * x0 + 1.9 * eps - 0.4 * eps / kept.sigma
        assert torch.allclose(mixed, wanted, atol=1e-12)
        assert not torch.allclose(Clipped(d, -0.5, 0.5)(x, t).eps, eps, atol=1e-3)
    there = EDM().t_of_lam(own.lam(0.5))
    moved = Clipped(d, -0.5, 0.5, keep_eps=True).on(EDM())(x / own.alpha(0.5), there)
    still = Clipped(d, -0.5, 0.5, keep_eps=True)(x, 0.5)
    assert torch.allclose(moved.x0, still.x0, atol=1e-9)
    assert torch.allclose(moved.eps, still.eps, atol=1e-9)


def test_no_label_means_the_null_class():
    net = nets.MLP(dim=4, width=16, num_classes=10).double()
    torch.nn.init.normal_(net.last.weight, generator=generator(0))
    d = NetDenoiser(net, Linear(), "x0", num_classes=10)
    x = randn(4, 4)
    null = torch.full((4,), 10)
    assert torch.allclose(d(x, 0.5).x0, d(x, 0.5, label=null).x0)
    assert torch.allclose(d(x[:2], 0.5).x0, d(x[:2], 0.5, label=null[:2]).x0)
    assert not torch.equal(d(x, 0.5).x0, d(x, 0.5, label=torch.zeros_like(null)).x0)


def test_zero_terminal_snr_with_a_network():
    """Where no data is left the network is told a finite lambda, in loops and in training alike."""
    s = zero_terminal_snr(linear(1000))
    x = randn(2, 1, 2, 2)
    for kind in ("v", "x0", "edm"):
        d = NetDenoiser(Line(), s, kind)
        at_end, batched = d(x, 1.0), d(x, torch.ones(2, dtype=F64))
        assert torch.isfinite(at_end.x0).all()
        assert torch.allclose(at_end.x0, batched.x0)
        assert torch.allclose(at_end.out, 0.3 * x - 10.0)
        ranged = NetDenoiser(Line(), s, kind, lam_range=(-6.0, 5.0))
        for t in (1.0, torch.ones(2, dtype=F64)):
            assert torch.allclose(ranged(x, t).out, 0.3 * x - 6.0)
    with pytest.raises(ValueError, match="says nothing about x_0 where alpha = 0"):
        NetDenoiser(Line(), s, "eps")(x, 1.0)
    with pytest.raises(ValueError, match="says nothing about x_0 where alpha = 0"):
        NetDenoiser(Line(), s, "eps")(x, torch.ones(2))


# ---- a denoiser on another schedule -------------------------------------------------------------
MIX = GaussianMixture(
    [0.5, 0.3, 0.2],
    [[1.0, 1.0], [-1.5, 0.2], [0.3, -1.0]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.1]]],
)


@pytest.mark.parametrize("a,b", list(itertools.permutations(SCHEDULES, 2)), ids=repr)
def test_on_schedule_equals_the_formula_there(a, b):
    moved, exact = MIX.denoiser(a).on(b), MIX.denoiser(b)
    assert isinstance(moved, OnSchedule)
    x = randn(6, 2)
    for t in (0.05, 0.4, 0.8):
        lam = b.lam(t)
        if not a.lam(1.0) <= lam <= a.lam(max(0.0, 1 / (a.T or 1e9))):
            continue  # a does not reach this noise level
        p, q = moved(b.alpha(t) * x, t), exact(b.alpha(t) * x, t)
        for name in ("x0", "eps", "v", "score"):
            scale = getattr(q, name).abs().max()
            assert (getattr(p, name) - getattr(q, name)).abs().max() < 1e-8 * scale, name
        many = moved(b.alpha(t) * x, torch.full((6,), t, dtype=F64))
        assert torch.allclose(many.x0, q.x0, atol=1e-8)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "score"])
def test_all_readings_follow_x0_on_another_schedule(kind):
    """v and score are not the same numbers there: eps is, and x_0."""

    class Half(nn.Module):
        def forward(self, x, lam):
            return 0.5 * x + 0.1

    there = NetDenoiser(Half(), Linear(), kind).on(VE())
    p = there(randn(6, 2), 0.4)
    q = Prediction(p.x_t, p.alpha, p.sigma, p.x0, "x0")
    for name in ("eps", "v", "score"):
        assert torch.allclose(getattr(p, name), getattr(q, name), rtol=1e-10, atol=1e-12), name


def test_asked_from_pure_noise_on_another_schedule():
    """alpha = 0 on the asking side: the point is rescaled by its noise, not by its data."""
    s = zero_terminal_snr(linear(1000))
    x = randn(4, 2)
    here = MIX.denoiser(s)(x, 1.0).x0
    assert torch.allclose(here, (MIX.weights[:, None] * MIX.means).sum(0).expand(4, 2))
    for own in (Cosine(), linear(1000), EDM(1e6)):
        d = MIX.denoiser(own).on(s)
        for t in (1.0, torch.ones(4, dtype=F64)):
            assert torch.isfinite(d(x, t).x0).all()
            # as close as the last level of the other schedule is to pure noise
            slack = 5 * own.alpha(1.0) / own.sigma(1.0) + 1e-12
            assert (d(x, t).x0 - here).abs().max() <= slack


# ---- bad input ----------------------------------------------------------------------------------
def test_bad_calls_of_a_network():
    d = NetDenoiser(Line(), Linear(), "v", shape=(1, 2, 2), lam_range=(-3.0, 4.0))
    x = randn(3, 1, 2, 2)
    with pytest.raises(ValueError, match=r"x_t must have shape \(B, 1, 2, 2\); got \(3, 1, 3, 2\)"):
        d(randn(3, 1, 3, 2), 0.5)
    for t in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            d(x, t)
    with pytest.raises(ValueError, match="one time for each picture"):
        d(x, torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="one time for each picture"):
        d(x, torch.full((3, 1), 0.5))
    with pytest.raises(ValueError, match="trained without classes"):
        NetDenoiser(nets.MLP(4, 8).double(), Linear())(
            randn(3, 4), 0.5, label=torch.zeros(3, dtype=torch.int64)
        )
    with pytest.raises(ValueError, match="unknown condition of this network 'lable'.*'label'"):
        d(x, 0.5, lable=torch.zeros(3, dtype=torch.int64))
    for t in (1.0, torch.tensor([0.5, 0.5, 1.0]), 0.0, torch.tensor([0.0, 0.5, 0.5])):
        with pytest.raises(ValueError, match=r"trained for lambda in \[-3, 4\] and was asked at"):
            d(x, t)
    with pytest.raises(ValueError, match="Did you mean 'score'"):
        NetDenoiser(Line(), Linear(), "scores")
    with pytest.raises(ValueError, match="Did you mean 'eps'"):
        affine("ep", 0.5, 0.5)
    with pytest.raises(ValueError, match="standard deviation of the data must be > 0"):
        NetDenoiser(Line(), Linear(), "edm", sd=0.0)


@pytest.mark.parametrize(
    "label,complaint",
    [
        (torch.tensor([0, 1]), "label must be int64 of shape"),
        (torch.tensor([0.0, 1.0, 2.0]), "label must be int64"),
        (torch.tensor([[0], [1], [2]]), "label must be int64 of shape"),
        (torch.tensor([0, 1, 4]), "labels must lie in 0..2, or be 3 for 'no class'"),
        (torch.tensor([0, -1, 2]), "labels must lie in 0..2"),
    ],
)
def test_bad_labels(label, complaint):
    net = NetDenoiser(nets.MLP(4, 8, num_classes=3).double(), Linear(), "v", num_classes=3)
    for d, x in ((net, randn(3, 4)), (net.on(EDM()), randn(3, 4))):
        with pytest.raises(ValueError, match=complaint):
            d(x, 0.5, label=label)
    with pytest.raises(ValueError, match=complaint):
        MIX.denoiser(Linear())(randn(3, 2), 0.5, label=label)


def test_the_lambda_that_is_refused_is_the_one_outside():
    """Clean data in a batch of times: infinity is named, not the other end of the batch."""
    d = NetDenoiser(Line(), Linear(), "v", lam_range=(-3.0, 4.0))
    t = torch.tensor([Linear().t_of_lam(-3.0), 0.0], dtype=F64)
    with pytest.raises(ValueError, match="was asked at inf "):
        d(randn(2, 1, 2, 2), t)
    with pytest.raises(ValueError, match="was asked at -5.02 "):
        d(randn(2, 1, 2, 2), torch.tensor([1.0, 0.3], dtype=F64))


@pytest.mark.parametrize("keep", [False, True])
def test_a_clipped_answer_that_keeps_its_eps(keep):
    """x0 clamped; eps, v and score read from what eps then is, in properties and in mix alike."""
    x_t, x0 = randn(5, 3), 3 * randn(5, 3, seed=1)
    alpha, sigma = 0.8, 0.6
    p = Prediction(x_t, alpha, sigma, x0, "x0")
    q = p.clip(-0.5, 0.5, keep_eps=keep)
    clean = x0.clamp(-0.5, 0.5)
    eps = (x_t - alpha * (x0 if keep else clean)) / sigma
    for name, wanted in (
        ("x0", clean),
        ("eps", eps),
        ("score", -eps / sigma),
        ("v", alpha * eps - sigma * clean),
    ):
        assert torch.allclose(getattr(q, name), wanted, atol=1e-12), name
    mixed = q.mix(x_t=0.3, x0=0.2, eps=-0.7, score=0.1)
    wanted = 0.3 * x_t + 0.2 * clean - 0.7 * eps - 0.1 * eps / sigma
    assert torch.allclose(mixed, wanted, atol=1e-12)


def test_a_wrapper_takes_over_what_the_inner_one_knows():
    inner = NetDenoiser(
        Line(), Linear(), "v", shape=(1, 2, 2), num_classes=3, lam_range=(-3.0, 4.0)
    )
    for outer in (
        Clipped(inner),
        inner.on(EDM()),
        Wrapped(inner, calls=2),
        Clipped(inner.on(VE())),
    ):
        assert outer.shape == (1, 2, 2) and outer.num_classes == 3
        assert outer.lam_range == (-3.0, 4.0)
    assert Wrapped(Wrapped(inner, calls=2), calls=3).nfe == 6
