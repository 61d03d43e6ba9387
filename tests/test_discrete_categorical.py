"""Diffusion of categories: closed forms against matrices, both forms of a step back, the truth."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import F64, gen

from diffusion_lab.denoisers import Denoiser, Prediction
from diffusion_lab.discrete import categorical
from diffusion_lab.discrete.categorical import (
    Categorical,
    ExactCodes,
    Matrices,
    Process,
    absorbing,
    ancestral,
    bound,
    draw,
    generate,
    mask_and_replace,
    reverse,
    term,
    times,
    uniform,
    uniforms,
)
from diffusion_lab.guidance import guided
from diffusion_lab.schedules import Linear
from diffusion_lab.walk import gaussian, sample, walk

LAW = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=F64)
KERNELS = [
    uniform(4, 10),
    uniform(4, 10, "cosine"),
    absorbing(4, 10),
    mask_and_replace(4, 10),
    mask_and_replace(4, 10, "release"),
]
HEARTBEAT = torch.eye(5, dtype=torch.int64).repeat(1, 4)  # a 1 at every fifth of 20 places


def one_step(process, i):
    """Q_i as the papers write it, from the tables alone."""
    K, n = process.K, process.n
    alpha = process.abar[i] / process.abar[i - 1]
    alive = process.alive[i] / process.alive[i - 1]
    Q = torch.zeros(n, n, dtype=F64)
    Q[:K, :K] = (alive - alpha) / K + alpha * torch.eye(K, dtype=F64)
    if n > K:
        Q[:K, K], Q[K, K] = 1 - alive, 1
    return Q


def as_matrices(process):
    steps = [one_step(process, i) for i in range(1, process.T + 1)]
    return Matrices(torch.stack(steps), process.K)


def states(process):
    """Every state of one token, (n, 1)."""
    return torch.arange(process.n)[:, None]


def truth(process, t, law=LAW):
    """p(x_0 | x_t) of one token with that law by Bayes, (n, K)."""
    joint = law[:, None] * process.matrix(t)[: process.K]
    return (joint / joint.sum(0)).T


def pushed_down(process, back, grid, law=LAW):
    """The law at the end of a chain whose steps back are p(x_s | x_t) = back(x, t, s)."""
    p = law @ process.matrix(1.0)[: process.K]
    for t, s in itertools.pairwise(grid):
        live = p > 0
        p = p[live] @ back(states(process)[live], t, s)[:, 0]
    return p


# ---- the kernels --------------------------------------------------------------------------------
@pytest.mark.parametrize("process", KERNELS, ids=str)
def test_the_closed_form_is_the_product_of_the_matrices(process):
    by_hand = as_matrices(process)
    for i, j in itertools.combinations(range(process.T + 1), 2):
        t, s = j / process.T, i / process.T
        close = process.matrix(t, s) - by_hand.matrix(t, s)
        assert close.abs().max() < 3e-15
        assert (process.matrix(t, s).sum(1) - 1).abs().max() < 1e-15
        both = process.matrix(s) @ process.matrix(t, s)  # the semigroup
        assert (both - process.matrix(t)).abs().max() < 4e-16


def test_the_kernels_are_those_of_the_papers():
    assert absorbing(3, 8).matrix(0.25)[0].tolist() == [0.75, 0, 0, 0.25]
    beta = 1 / (10 - 4 + 1)  # Sohl-Dickstein's 1/(T - t + 1): a bit flips with beta/2
    assert uniform(2, 10).matrix(0.4, 0.3)[0, 1].item() == pytest.approx(beta / 2, rel=1e-12)
    assert torch.equal(uniform(2, 10).prior(), torch.tensor([0.5, 0.5], dtype=F64))
    t = torch.arange(101, dtype=F64) / 100
    wanted = (((t + 0.008) / 1.008) * math.pi / 2).cos() / math.cos(0.008 / 1.008 * math.pi / 2)
    cosine = uniform(2, 100, "cosine")
    assert (cosine.abar[:-1] - wanted[:-1]).abs().max() < 1e-12
    assert cosine.abar[-1] == pytest.approx((cosine.abar[-2] * 0.001**0.5).item())
    paper, release = mask_and_replace(128, 100), mask_and_replace(128, 100, "release")
    assert paper.prior()[-1].item() == pytest.approx(0.9)
    assert paper.prior()[:-1].sum().item() == pytest.approx(0.1)
    for i in (1, 50, 100):
        a, b, g = release.between(i / 100)
        assert 128 * b.item() == pytest.approx(1e-6, rel=1e-6)  # a mask kernel in all but name
    assert (a.item(), g.item()) == pytest.approx((9e-6, 0.99999))


def test_one_limit_is_multinomial_and_the_other_absorbing_diffusion():
    """With the gbar of VQ-Diffusion 0 or its bbar 0: steps back and terms alike to 1e-12."""
    abar = uniform(4, 10).abar
    no_mask = Process(4, abar, torch.ones(11, dtype=F64))
    no_code = Process(4, abar, abar)
    x_t, x0 = torch.arange(4)[None], torch.tensor([[1, 1, 2, 0]])
    logp = torch.randn(1, 4, 4, generator=gen(), dtype=F64).log_softmax(-1)
    for t, s in ((0.9, 0.8), (0.5, 0.1), (0.1, 0.0)):
        ours, theirs = (reverse(p, x_t, logp, t, s) for p in (no_mask, uniform(4, 10)))
        assert (ours[..., :4] - theirs).abs().max() < 1e-12 and ours[..., 4].max() == 0
        ours, theirs = (term(p, x_t, x0, logp, t, s) for p in (no_mask, uniform(4, 10)))
        assert (ours - theirs).abs().max() < 1e-12
        masked = torch.full((1, 4), 4)
        ours = term(no_code, masked, x0, logp, t, s)
        shown = (t - s) / t  # D3PM's 1/i of one step: the bound is cross-entropy of what is masked
        wanted = -shown * logp.gather(2, x0[..., None]).sum()
        assert ours.item() == pytest.approx(wanted.item(), rel=1e-12)


# ---- the posterior and the trap -----------------------------------------------------------------
@pytest.mark.parametrize("process", KERNELS, ids=str)
def test_the_posterior_is_bayes(process):
    """q(x_s | x_t, x_0), enumerated over all x_s; both forms have it, and so do the matrices."""
    for (t, s), x0 in itertools.product(((0.7, 0.6), (0.7, 0.2), (0.3, 0.0)), range(4)):
        Qs, Qts = process.matrix(s), process.matrix(t, s)
        x_t = [j for j in range(process.n) if process.matrix(t)[x0, j] > 0]
        hot = torch.nn.functional.one_hot(torch.full((len(x_t), 1), x0), 4).double().log()
        for form, p in itertools.product(categorical.FORMS, (process, as_matrices(process))):
            found = reverse(p, torch.tensor(x_t)[:, None], hot, t, s, form)[:, 0]
            for row, j in zip(found, x_t):
                joint = torch.stack([Qs[x0, i] * Qts[i, j] for i in range(process.n)])
                assert (row - joint / joint.sum()).abs().max() < 1e-10


def test_the_two_forms_want_different_answers():
    """K = 4, T = 10, the uniform kernel, one token: what each form makes of each answer.

    The truth in the product form is wrong by up to a third and ends far from the data; the law of
    the data there, or the truth in the marginal form, is exact.
    """
    process, x = uniform(4, 10), torch.arange(4)[:, None]
    pairs = list(itertools.pairwise(times(process)))

    def q(t, s):  # of x_s given x_t alone, by Bayes
        joint = (LAW @ process.matrix(s))[:, None] * process.matrix(t, s)
        return (joint / joint.sum(0)).T

    def found(form, exact):
        error, end = 0.0, LAW @ process.matrix(1.0)
        for t, s in pairs:
            logp = (truth(process, t) if exact else LAW.expand(4, -1)).log()
            back = reverse(process, x, logp[:, None], t, s, form)[:, 0]
            error, end = max(error, (back - q(t, s)).abs().max().item()), end @ back
        return error, end

    for form, exact in (("marginal", True), ("product", False)):
        error, end = found(form, exact)
        assert error < 2e-15 and (end - LAW).abs().max() < 1e-15
    by_hand = 0.0  # the mistake in plain matrices: p~ Qbar_s where p~/q(x_t | x_0) Qbar_s belongs
    for t, s in pairs:
        wrong = process.matrix(t, s).T * (truth(process, t) @ process.matrix(s))
        wrong /= wrong.sum(1, keepdim=True)
        by_hand = max(by_hand, (wrong - q(t, s)).abs().max().item())
    error, end = found("product", True)
    assert error == pytest.approx(by_hand, rel=1e-12) and error > 0.3
    wanted = torch.tensor([0.388, 0.290, 0.203, 0.120], dtype=F64)
    assert (end - wanted).abs().max() < 6e-4
    assert found("marginal", False)[0] > 0.1


def test_the_forms_agree_on_a_masked_token():
    logp = torch.randn(3, 2, 4, generator=gen(), dtype=F64).log_softmax(-1)
    for process in (absorbing(4, 10), mask_and_replace(4, 10)):
        x_t = torch.full((3, 2), 4)
        ours, theirs = (reverse(process, x_t, logp, 0.6, 0.5, form) for form in categorical.FORMS)
        assert (ours - theirs).abs().max() < 1e-15
    assert ours[..., :4].sum(-1).min() > 0
    shown = reverse(absorbing(4, 10), x_t, logp, 0.6, 0.5)
    assert (shown[..., :4] - logp.exp() / 6).abs().max() < 1e-15, "revealed with 1/i at step i"


def test_what_other_tokens_say_is_the_best_answer_of_the_product_form():
    """Two tokens, so that they say something: the bound of the product form is smaller with it."""
    pairs = torch.tensor([[0, 0], [1, 1], [2, 1]])
    x0 = pairs[torch.arange(900) % 3]
    found = {}
    for others in (False, True):
        denoiser = ExactCodes(uniform(3, 6), pairs, others=others)
        for form in categorical.FORMS:
            found[form, others] = bound(denoiser, x0, gen(), form=form).sum(0).mean().item()
    assert found["marginal", False] == pytest.approx(found["product", True], abs=0.25)
    assert found["product", False] > found["product", True] + 0.1
    assert found["marginal", True] > found["marginal", False] + 0.1


@pytest.mark.parametrize("process", [KERNELS[3], KERNELS[4], KERNELS[0]], ids=str)
def test_skips_are_exact_for_one_token(process):
    """10, 5 and 2 steps and one alone: the sampler returns the law of the data."""
    one = ExactCodes(process, torch.arange(4)[:, None], LAW)

    def back(x, t, s):
        return reverse(process, x, one(x, t).out, t, s)

    for steps in (10, 5, 2, 1):
        end = pushed_down(process, back, times(process, steps))
        assert (end[:4] - LAW).abs().max() < 1e-9


# ---- heartbeat ----------------------------------------------------------------------------------
def test_the_bounds_of_heartbeat():
    """Exact denoiser, bits per sequence. Below log2 5 nothing can be."""
    x0 = HEARTBEAT[torch.arange(400) % 5]
    for make, T, bits in (
        (absorbing, 1, 14.439), (absorbing, 5, 3.96), (absorbing, 20, 2.68), (uniform, 20, 2.57),
    ):  # fmt: skip
        found = bound(ExactCodes(make(2, T), HEARTBEAT), x0, gen(T)).sum(0)
        error = found.std().item() / len(x0) ** 0.5
        assert found.mean().item() == pytest.approx(bits, abs=0.02 + 3 * error)
        assert found.mean() > math.log2(5) - 3 * error
    assert 20 * -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8)) == pytest.approx(14.439, abs=5e-4)


@pytest.mark.slow
def test_the_bounds_of_heartbeat_in_many_steps():
    x0 = HEARTBEAT[torch.arange(400) % 5]
    cosine = lambda K, T: uniform(K, T, "cosine")  # noqa: E731
    for make, T, bits in (
        (absorbing, 100, 2.39), (uniform, 100, 2.34), (cosine, 20, 2.62), (cosine, 100, 2.36),
    ):  # fmt: skip
        found = bound(ExactCodes(make(2, T), HEARTBEAT), x0, gen(T)).sum(0)
        error = found.std().item() / len(x0) ** 0.5
        assert found.mean().item() == pytest.approx(bits, abs=0.02 + 3 * error)


def test_the_share_of_whole_heartbeats():
    """Unmasking in parallel makes errors that an absorbing chain never undoes."""
    for make, T, share in (
        (absorbing, 5, 0.47), (absorbing, 20, 0.84), (uniform, 5, 0.84), (uniform, 20, 0.998),
    ):  # fmt: skip
        found = generate(ExactCodes(make(2, T), HEARTBEAT), 600, seed=T)
        whole = (found.x[:, None] == HEARTBEAT).all(-1).any(-1).double().mean().item()
        assert whole == pytest.approx(share, abs=0.005 + 3 * (share * (1 - share) / 600) ** 0.5)
        assert found.nfe == T and found.x.max() == 1


def test_the_bound_of_three_bits_falls_to_the_entropy():
    """Absorbing, exact conditionals, every x_t enumerated: the gap is of order 1/T."""
    p = torch.rand(8, generator=gen(3), dtype=F64)
    p /= p.sum()
    all_x0 = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    entropy = -(p * p.log2()).sum().item()
    known = ExactCodes(absorbing(2, 1), all_x0, p)
    hide = all_x0.bool()[:, None].expand(8, 8, 3).reshape(64, 3)  # every mask for every x_0
    x0, count = all_x0.repeat(8, 1), hide.sum(1)
    x_t = x0.masked_fill(hide, 2)
    logp = known(x_t, 0.5).out  # masks say no more at any other time
    gaps = []
    for T in (1, 2, 4, 8, 32):
        process, total = absorbing(2, T), 0.0
        for t in torch.arange(1, T + 1, dtype=F64).tolist():
            t, s = t / T, (t - 1) / T
            chance = t**count * (1.0 - t) ** (3 - count) * p.repeat(8)
            live = chance > 0
            kl = term(process, x_t[live], x0[live], logp[live], t, s)
            total += (chance[live] * kl).sum().item()
        gaps.append(total / math.log(2) - entropy)
    ones = torch.stack([p @ all_x0.double(), 1 - p @ all_x0.double()])
    assert gaps[0] + entropy == pytest.approx(-(ones * ones.log2()).sum().item(), rel=1e-12)
    assert all(big > small > 0 for big, small in itertools.pairwise(gaps))
    assert gaps[4] == pytest.approx(gaps[3] / 4, rel=0.1)


# ---- guidance on log-probabilities --------------------------------------------------------------
def test_guidance_is_the_power_of_the_two_laws():
    """Two classes, K codes, one masked token: p(x|y)^s p(x)^(1-s)/Z; 1 and 0 are the two laws."""
    weights = torch.tensor([0.3, 0.1, 0.1, 0.05, 0.15, 0.3], dtype=F64)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    d = ExactCodes(
        absorbing(3, 4), torch.tensor([0, 1, 2, 0, 1, 2])[:, None], weights, labels=labels
    )
    x_t, label = torch.full((2, 1), 3), torch.tensor([0, 1])
    both = weights.view(2, 3)
    given, free = both / both.sum(1, keepdim=True), both.sum(0)
    for scale in (0.0, 1.0, 3.0):
        found = guided(d, scale)(x_t, 1.0, label=label).out.exp()[:, 0]
        wanted = given**scale * free ** (1 - scale)
        assert (found - wanted / wanted.sum(1, keepdim=True)).abs().max() < 1e-14
    assert guided(d, 3.0).nfe == 2
    end = generate(guided(d, 3.0), 4000, label=torch.zeros(4000, dtype=torch.int64), seed=1).x
    wanted = (given**3 * free**-2)[0]  # of one masked token the whole chain draws that law
    shares = torch.bincount(end[:, 0], minlength=3).double() / 4000
    assert (shares - wanted / wanted.sum()).abs().max() < 3 * 0.5 / 4000**0.5


# ---- walks, draws and what is refused -----------------------------------------------------------
def test_draws_are_the_inverse_of_the_sum():
    p = torch.tensor([[0.2, 0.0, 0.5, 0.3, 0.0]])
    u = torch.tensor([0.0, 0.19, 0.2, 0.69, 0.71, 1 - 2.0**-53], dtype=F64)[:, None]
    assert draw(p.expand(6, 1, 5), u)[:, 0].tolist() == [0, 0, 2, 2, 3, 3]


def test_a_time_for_each_datum_is_the_same():
    process = mask_and_replace(4, 10)
    x_t = torch.tensor([[0, 4], [1, 2], [4, 4]])
    logp = torch.randn(3, 2, 4, generator=gen(), dtype=F64).log_softmax(-1)
    t, s = torch.tensor([0.9, 0.5, 0.1], dtype=F64), torch.tensor([0.8, 0.4, 0.0], dtype=F64)
    together = reverse(process, x_t, logp, t, s)
    by_hand = reverse(as_matrices(process), x_t, logp, t, s)
    for i in range(3):
        alone = reverse(process, x_t[i : i + 1], logp[i : i + 1], t[i].item(), s[i].item())
        assert (together[i] - alone[0]).abs().max() < 1e-15
    assert (together - by_hand).abs().max() < 1e-13
    single = reverse(process, x_t, logp.float(), t, s)
    assert single.dtype == torch.float32 and (single - together).abs().max() < 1e-6


class Says(Denoiser):
    def forward(self, x_t, t):
        return Prediction(x_t, 1.0, 0.0, x_t, "x0")


def test_what_is_no_walk_over_codes_is_refused():
    process = absorbing(2, 5)
    d, x = ExactCodes(process, HEARTBEAT), torch.full((2, 20), 2)
    with pytest.raises(ValueError, match="uniforms"):
        sample(walk(ancestral(), d, x, times(process), noise=gaussian(gen())))
    with pytest.raises(ValueError, match="walks over codes"):
        sample(walk(ancestral(), Says(Linear()), x, [1.0, 0.0], noise=uniforms(gen())))
    with pytest.raises(ValueError, match="no x_0 of this denoiser leads to"):
        sample(walk(ancestral(), d, x * 0, times(process), noise=uniforms(gen())))
    with pytest.raises(ValueError, match="6 steps asked of a process that has 5"):
        times(process, 6)
    with pytest.raises(ValueError, match="no eps"):
        _ = Categorical(x, torch.zeros(2, 20, 2)).eps
    assert times(mask_and_replace(3, 10), 4) == [1.0, 0.8, 0.5, 0.2, 0.0]


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: ancestral("mean"), "unknown form of a step back 'mean'"),
        (lambda: categorical.make("absorb", K=3), "Did you mean 'absorbing'"),
        (lambda: categorical.make("absorbing", K=3, steps=4), "unknown argument"),
        (lambda: uniform(3, 5, "cosin"), "Did you mean 'cosine'"),
        (lambda: mask_and_replace(3, 5, "papers"), "Did you mean 'paper'"),
        (lambda: absorbing(1), "K must be a whole number >= 2"),
        (lambda: Process(3, [0.9, 0.5]), "falls from 1 at t = 0"),
        (lambda: Process(3, [1, 0.5], [1, 0.4]), "abar falls at least as fast as alive"),
        (lambda: Process(3, [1, 0.5]).spec(), "has no name"),
        (lambda: Matrices(torch.ones(2, 3, 3)), "sums to 1"),
        (lambda: Matrices(torch.eye(3)[None]).matrix(0.5), "times of this process are i/1"),
        (lambda: ExactCodes(absorbing(2), HEARTBEAT * 2), r"must lie in 0\.\.1"),
        (lambda: ExactCodes(absorbing(2), HEARTBEAT.float()), "int64"),
        (lambda: ExactCodes(absorbing(2), HEARTBEAT, [1.0]), "weights are 5 numbers"),
        (lambda: bound(ExactCodes(absorbing(2), HEARTBEAT), HEARTBEAT + 1, gen()), "x0 must lie"),
    ],
)
def test_what_no_process_can_be_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()
