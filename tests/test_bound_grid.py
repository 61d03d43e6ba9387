"""The whole bound on any grid, and the draw of training times, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, four_points

from diffusion_lab.bound import TimesByLoss, bounds, vlb_term
from diffusion_lab.denoisers import Denoiser, Prediction
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian, GaussianMixture
from diffusion_lab.forward import best_variance, posterior, reverse_variance, variance_weight
from diffusion_lab.schedules import VE, Linear, Table, linear

LINEAR = linear(1000)
NATS = math.log(2)
UNEVEN = [1.0, 0.7, 0.3, 0.05, 0.004, 0.001, 0.0]
ALL = ("small", "large", "best")


def gaussian_bound(s2, times=None, schedule=LINEAR, variances=ALL):
    x0, eps = four_points(s2)
    denoiser = Gaussian([0.0], [[s2]]).denoiser(schedule)
    return bounds(denoiser, x0, times, noise=eps, variances=variances, levels=None, batch=64)


class Weighted(Denoiser):
    """An exact denoiser with one fixed learned weight, the same at all times."""

    def __init__(self, inner, weight):
        super().__init__(inner.schedule)
        self.inner, self.weight = inner, weight

    def forward(self, x_t, t):
        p = self.inner(x_t, t)
        p.var_weight = torch.full_like(x_t, self.weight)
        return p


# ---- the whole bound ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "variance,expected", [("best", 0.72579), ("large", 0.72688), ("small", 1.29572)]
)
def test_whole_bound_of_a_gaussian(variance, expected):
    assert gaussian_bound(0.25)[variance].total * NATS == pytest.approx(expected, abs=6e-6)


def test_each_step_count_is_bounded_by_the_entropy_and_best_wins():
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25)
    for times in (UNEVEN, [1.0, 0.0], [1.0, 0.5, 0.0]):
        found = {k: b.total for k, b in gaussian_bound(0.25, times).items()}
        assert found["best"] < min(found["small"], found["large"])
        assert found["best"] > entropy - 1e-12


def test_the_bound_of_a_chain_of_gaussians_by_hand():
    """Term by term from the survey's formulas, in plain numbers, on an uneven grid."""
    s2, found = 0.25, gaussian_bound(0.25, UNEVEN)
    abar = [LINEAR.alpha(t) ** 2 for t in UNEVEN]
    expected = {name: [] for name in ALL}
    for i in range(len(UNEVEN) - 1):
        beta = 1 - abar[i] / abar[i + 1]
        left = s2 * (1 - abar[i]) / (abar[i] * s2 + 1 - abar[i])  # Var(x_0 | x_t)
        bt = beta * (1 - abar[i + 1]) / (1 - abar[i])
        c_0 = math.sqrt(abar[i + 1]) * beta / (1 - abar[i])
        last = i == len(UNEVEN) - 2
        if last:  # the variance of the step before it on this grid, from UNEVEN[-3] to UNEVEN[-2]
            before = 1 - abar[i - 1] / abar[i]
            bt = before * (1 - abar[i]) / (1 - abar[i - 1])
        for name, var in {"small": bt, "large": beta, "best": bt + c_0**2 * left}.items():
            if last:
                var = left if name == "best" else var
                nats = 0.5 * (math.log(2 * math.pi * var) + left / var)
            else:
                nats = 0.5 * (math.log(var / bt) + (bt + c_0**2 * left) / var - 1)
            expected[name].append(nats / NATS)
    for name in ALL:
        assert found[name].terms.tolist() == pytest.approx(expected[name], rel=1e-8)
    prior = 0.5 * (abar[0] * s2 - abar[0] - math.log(1 - abar[0])) / NATS
    assert found["best"].prior.mean().item() == pytest.approx(prior, rel=1e-8)


def test_the_bound_on_a_sub_grid_is_that_of_the_shorter_chain():
    """Times of a long chain, or a chain of its own with the betas computed anew: one number."""
    toy = GaussianMixture([0.3, 0.7], [[-2.0], [1.0]], [[[0.3]], [[0.5]]])
    short = Table(abar=[LINEAR.alpha(t) ** 2 for t in reversed(UNEVEN[:-1])])
    x0 = toy.sample(50, generator(0))
    eps = torch.randn(50, 1, generator=generator(1), dtype=F64)
    for weight in (0.3, 1.7):
        options = {"noise": eps, "variances": ("small", "large", "learned", "best"), "levels": None}
        long = bounds(Weighted(toy.denoiser(LINEAR), weight), x0, UNEVEN, **options)
        own = bounds(Weighted(toy.denoiser(short), weight), x0, **options)
        for name in long:
            assert torch.allclose(long[name].table, own[name].table, rtol=1e-9), name
        assert torch.allclose(long["best"].prior, own["best"].prior)


def test_the_slip_of_sliced_betas_is_another_number():
    """Betas of every hundredth step, taken over instead of computed anew, destroy next to nothing:
    the prior term of such a chain is far from that of the right one."""
    x0, eps = four_points(0.25)
    kept = LINEAR.betas()[99::100]
    sliced = Table(kept)
    right = Table(abar=[LINEAR.alpha((i + 1) / 10) ** 2 for i in range(10)])
    prior = [
        bounds(Gaussian([0.0], [[0.25]]).denoiser(s), x0, noise=eps, levels=None)["large"].prior
        for s in (sliced, right)
    ]
    assert prior[0].mean() > 100 * prior[1].mean()


def test_learned_variance_of_the_best_weight_is_the_best_variance():
    """v* of each sub-grid step, interpolated between that step's own beta and bt."""
    x0, _ = four_points(0.25)
    for t, s in ((1.0, 0.7), (0.3, 0.05), (0.004, 0.001)):
        alpha, sigma = LINEAR.alpha_sigma(t)
        left = 0.25 * sigma**2 / (alpha**2 * 0.25 + sigma**2)
        _, _, bt, v_ts = posterior(LINEAR, t, s)
        wanted = best_variance(LINEAR, t, s, left)
        v = variance_weight(wanted, v_ts, bt)
        p = Prediction(x0, alpha, sigma, x0, "x0", var_weight=torch.full_like(x0, v))
        got = reverse_variance(p, v_ts, bt, "learned")
        assert torch.allclose(got, torch.full_like(got, wanted), rtol=1e-12)
    tensor = variance_weight(torch.tensor(0.04), torch.tensor(0.08), torch.tensor(0.02))
    assert tensor.item() == pytest.approx(0.5, abs=1e-6)


def test_the_best_variance_is_a_minimum():
    x0, eps = four_points(0.25)
    t, s = (torch.full((4,), v, dtype=F64) for v in (0.3, 0.2))
    alpha, sigma = LINEAR.alpha_sigma(0.3)
    p = Gaussian([0.0], [[0.25]]).denoiser(LINEAR)(alpha * x0 + sigma * eps, t)
    best = best_variance(LINEAR, t, s, (x0 - p.x0).square().mean())
    value = {
        k: vlb_term(p, x0, LINEAR, t, s, variance=k * best).mean().item() for k in (0.97, 1, 1.03)
    }
    assert value[1] < min(value[0.97], value[1.03])


def test_discrete_data_bound_reaches_its_entropy():
    """Five values with unequal shares, the exact denoiser: the gap closes as T grows."""
    values = torch.linspace(-1, 1, 5, dtype=F64)[:, None]
    share = torch.tensor([0.1, 0.3, 0.05, 0.35, 0.2], dtype=F64)
    toy = GaussianMixture(share, values, torch.zeros(5, 1, 1))
    x0 = values.repeat_interleave((share * 2000).round().long(), 0)  # exactly these shares
    entropy = -(share * share.log2()).sum().item()
    gaps = []
    for T in (20, 200, 1000):
        found = bounds(
            toy.denoiser(linear(T)),
            x0,
            noise=generator(0),
            variances=("best",),
            levels=5,
            batch=50_000,
        )["best"]
        assert sum(found.parts.values()) == pytest.approx(found.total, rel=1e-12)
        gaps.append(found.total - entropy)
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.02


def test_batches_do_not_matter_and_labels_arrive():
    toy = GaussianMixture([0.3, 0.7], [[-2.0], [1.0]], [[[0.3]], [[0.5]]])
    x0, label = toy.sample_labelled(20, generator(0))
    eps = torch.randn(20, 1, generator=generator(1), dtype=F64)
    options = {"noise": eps, "levels": None, "label": label, "variances": ("best",)}
    found = [
        bounds(toy.denoiser(LINEAR), x0, UNEVEN, batch=n, **options)["best"] for n in (7, 20, 512)
    ]
    assert torch.allclose(found[0].table, found[1].table, rtol=1e-10)
    assert torch.allclose(found[0].table, found[2].table, rtol=1e-10)
    assert found[0].times == UNEVEN[:-1]
    free = bounds(toy.denoiser(LINEAR), x0, UNEVEN, **options | {"label": torch.full((20,), 2)})
    assert free["best"].total > found[0].total + 0.1, "knowing the component saves bits"


def test_errors_of_the_bound():
    x0, eps = four_points(0.25)
    exact = Gaussian([0.0], [[0.25]]).denoiser(LINEAR)
    for times in ([1.0], [1.0, 0.5], [0.5, 1.0, 0.0], [1.0, 1.0, 0.0]):
        with pytest.raises(ValueError, match="times must fall and end at 0"):
            bounds(exact, x0, times, noise=eps)
    with pytest.raises(ValueError, match="Did you mean 'best'"):
        bounds(exact, x0, noise=eps, variances=("bets",))
    with pytest.raises(ValueError, match="noise must be like x0"):
        bounds(exact, x0, noise=eps[:2])
    with pytest.raises(ValueError, match="give times"):
        bounds(Gaussian([0.0], [[0.25]]).denoiser(Linear()), x0, noise=eps)
    with pytest.raises(ValueError, match="needs a denoiser with learned_var"):
        bounds(exact, x0, UNEVEN, noise=eps, variances=("learned",))
    t = torch.full((4,), 0.2, dtype=F64)
    with pytest.raises(ValueError, match="give above"):
        vlb_term(exact(x0, t), x0, LINEAR, t, torch.zeros(4, dtype=F64), variance="small")


def test_the_prior_is_taken_where_the_grid_starts():
    x0, eps = four_points(0.25)
    ve = VE(0.01, 50.0)
    found = bounds(
        Gaussian([0.0], [[0.25]]).denoiser(ve), x0, [0.5, 0.2, 0.0], noise=eps, levels=None
    )["large"]
    wanted = 0.5 * 0.25 / ve.sigma(0.5) ** 2 / NATS
    assert found.prior.mean().item() == pytest.approx(wanted, rel=1e-9)


# ---- which term to train on ---------------------------------------------------------------------
def test_times_by_loss_learns_the_second_moments():
    times = TimesByLoss(4, keep=3, uniform=0.1)
    flat = torch.full((4,), 0.25, dtype=F64)
    steps = torch.arange(1, 5).double() / 4
    losses = torch.tensor([8.0, 1.0, 2.0, 0.0])
    for scale in (100.0, 1.0, 2.0, 3.0):  # the first falls out of the last three
        assert torch.equal(times.probabilities(), flat) or times.ready
        times.update(steps, scale * losses)
    assert times.ready
    moment = math.sqrt((1 + 4 + 9) / 3)
    size = moment * losses.double()
    assert torch.allclose(times.probabilities(), 0.9 * size / size.sum() + 0.1 * flat)


def test_importance_draws_leave_the_mean_and_lower_the_variance():
    T, g = 50, generator(3)
    losses = 10 / (1 + torch.arange(T, dtype=F64)) ** 1.5
    times = TimesByLoss(T, keep=2)
    for _ in range(2):
        times.update(torch.arange(1, T + 1).double() / T, losses)
    p = times.probabilities()
    weighted = losses / (T * p)
    assert (p * weighted).sum().item() == pytest.approx(losses.mean().item(), rel=1e-12)
    spread = (p * weighted**2).sum() - losses.mean() ** 2
    assert spread < 1e-2 * losses.var(correction=0)
    t, w = times.draw(200_000, g)
    i = (t * T).round().long() - 1
    assert torch.allclose(w, 1 / (T * p[i]))
    share = torch.bincount(i, minlength=T) / 200_000
    assert ((share - p).abs() < 5 * (p / 200_000).sqrt() + 1e-5).all()
    assert (w * losses[i]).mean().item() == pytest.approx(losses.mean().item(), rel=1e-2)


def test_zero_losses_and_wrong_shapes():
    times = TimesByLoss(2, keep=1)
    times.update(torch.tensor([0.5, 1.0]), torch.zeros(2))
    assert times.probabilities().tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="must both be"):
        times.update(torch.tensor([0.5]), torch.zeros(2))
    assert TimesByLoss(1, keep=1).draw(3, generator(0))[0].tolist() == [1.0, 1.0, 1.0]
    for wrong in ({"T": 0}, {"T": 5, "keep": 0}):
        with pytest.raises(ValueError, match=">= 1"):
            TimesByLoss(**wrong)
    with pytest.raises(ValueError, match="uniform share"):
        TimesByLoss(5, uniform=0.0)
