"""BDDM and NEDM: exact KLs, exact schedules, trained networks against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from diffusion_lab import bound, grids, schedules
from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian
from diffusion_lab.metrics.distances import w1
from diffusion_lab.samplers import ddim, ddpm
from diffusion_lab.scheduling import bddm, nedm
from diffusion_lab.walk import gaussian, sample, walk

LINEAR = schedules.Linear()
BEST = [
    (0.2, 0.36179, 0.23191),
    (0.5, 0.45631, 0.31767),
    (0.8, 0.62280, 0.5),
    (0.95, 0.79636, 0.72121),
]


class Says(nn.Module):
    """A schedule network that always says the same."""

    def __init__(self, phi):
        super().__init__()
        self.phi = phi

    def forward(self, x):
        return x.new_full((len(x),), self.phi)


# ---- BDDM ---------------------------------------------------------------------------------------
def test_the_step_kl_is_the_kl_of_two_gaussians():
    """KL(p(x_{n-1} | x_n) || q(x_{n-1} | x_0)), written out."""
    gen = generator(0)
    x0, eps, eps_hat = torch.randn(3, 6, 4, generator=gen, dtype=torch.float64)
    abar = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    beta = (1 - abar) * torch.linspace(0.9, 0.05, 6, dtype=torch.float64)
    a, b, d2 = (c[:, None] for c in (abar, beta, 1 - abar))
    x = a.sqrt() * x0 + d2.sqrt() * eps
    mean_p = (x - b / d2.sqrt() * eps_hat) / (1 - b).sqrt()
    before = a / (1 - b)
    var_p = ((1 - before) / d2 * b).expand_as(x)
    wanted = bound.kl(mean_p, var_p, before.sqrt() * x0, (1 - before).expand_as(x)).mean(1)
    assert torch.allclose(bddm.step_kl(eps, eps_hat, 1 - abar, beta), wanted, atol=1e-12)
    less = wanted - 0.25 * ((1 - abar) / beta).log()
    assert torch.allclose(bddm.step_kl(eps, eps_hat, 1 - abar, beta, True), less, atol=1e-12)


def test_the_two_forms_in_one_dimension():
    """beta = D2/2: 0.45313 nats with 1/2 before the logarithm, 0.27985 with 1/4."""
    d2 = torch.tensor([0.4], dtype=torch.float64)
    # the draw with that KL: (eps - eps_hat/2)^2 = 0.45313 + 1/4 - log(2)/2
    eps = torch.tensor([[0.5 + (0.45313 + 0.25 - 0.5 * math.log(2)) ** 0.5]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert bddm.step_kl(eps, one, d2, d2 / 2).item() == pytest.approx(0.45313, abs=1e-9)
    assert bddm.step_kl(eps, one, d2, d2 / 2, True).item() == pytest.approx(0.27985, abs=1.1e-5)


@pytest.mark.parametrize(("r", "half", "quarter"), BEST)
def test_the_best_beta_for_gaussian_data(r, half, quarter):
    # two numbers with E eps^2 = 1, E eps eps_hat = E eps_hat^2 = r: what an exact denoiser gives
    eps = torch.tensor([[math.sqrt(2), 0.0]], dtype=torch.float64)
    eps_hat = math.sqrt(2) * torch.tensor([[r, math.sqrt(r - r * r)]], dtype=torch.float64)
    b = torch.linspace(0.01, 0.99, 98_001, dtype=torch.float64)
    one = torch.ones_like(b)
    for wanted, form in ((half, False), (quarter, True)):
        loss = bddm.step_kl(eps.expand(len(b), 2), eps_hat.expand(len(b), 2), one, b, form)
        found = b[loss.argmin()].item()
        assert found == pytest.approx(wanted, abs=2e-5)
        assert (1 - r) * (1 + (1 - found) ** -2) == pytest.approx(
            1 / ((2 if form else 1) * found), rel=1e-3
        )


@pytest.mark.parametrize(("r", "half", "quarter"), BEST[1:3])
def test_the_trained_network_finds_it(r, half, quarter):
    """Data N(0, I), so r = D2; one time; phi within 2 %."""
    dim = 32
    data = Gaussian(torch.zeros(dim), torch.eye(dim))
    t = LINEAR.t_of_lam(0.5 * math.log((1 - r) / r))
    real = data.sample(4000, generator(0)).float()
    for form, wanted in ((False, half), (True, quarter)):
        torch.manual_seed(0)
        net = bddm.ScheduleNet(dim, 16)
        for _ in bddm.train(
            net,
            data.denoiser(LINEAR),
            real,
            generator(1),
            tau=1 - t,
            times=(t, t),
            steps=300,
            lr=0.01,
            quarter=form,
            batch=128,
        ):
            pass
        x = torch.randn(4000, dim, generator=generator(2))  # x_t is N(0, I) too
        assert net(x).mean().item() == pytest.approx(wanted, rel=0.02)


def test_levels_and_times():
    for schedule in (LINEAR, schedules.linear(1000), schedules.Cosine()):
        for abar in (0.001, 0.3, 0.9):
            t = bddm.time_of(schedule, abar)
            assert schedule.alpha(t) ** 2 == pytest.approx(abar, abs=1e-9)
        assert bddm.time_of(schedule, 1.0) == 0 and bddm.time_of(schedule, 0) == 1


def test_the_schedule_on_the_way():
    """phi = 1/2: every beta is half of the smaller of 1 - abar and the beta before it."""
    toy = toys.ring()
    x = torch.randn(8, 2, generator=generator(0))
    net, denoiser = Says(0.5), toy.denoiser(LINEAR)
    grid = bddm.find(net, denoiser, x, ddim(), abar=0.02, beta=0.7)
    abar, beta = 0.02, 0.7
    for s in grid[1:-1]:
        abar /= 1 - beta
        assert LINEAR.alpha(s) ** 2 == pytest.approx(abar, rel=1e-9)
        beta = 0.5 * min(1 - abar, beta)
    assert grid[0] == pytest.approx(bddm.time_of(LINEAR, 0.02))
    smallest = 1 - LINEAR.alpha(1e-3) ** 2
    assert grid[-1] == 0 and beta < smallest <= 2 * beta
    assert len(bddm.find(net, denoiser, x, ddim(), 0.02, 0.7, most=3)) == 4
    # beta_N that removes all the noise at once: one move
    assert bddm.find(net, denoiser, x, ddim(), 0.5, 0.5)[-1] == 0
    assert len(bddm.find(net, denoiser, x, ddim(), 0.5, 0.5)) == 2


def test_the_walk_decides_afresh_each_time():
    """One grid function serves two walks: nothing is left from the first."""
    denoiser, x = toys.ring().denoiser(LINEAR), torch.randn(4, 2, generator=generator(0))
    grid = bddm.noise_scheduling(Says(0.5), LINEAR, 0.6)
    first, second = (
        [s.s for s in walk(ddpm(), denoiser, x, grid, noise=gaussian(generator(1)), start=0.8)]
        for _ in range(2)
    )
    assert first == second and first[-1] == 0


def test_search_keeps_the_best_of_each_length():
    denoiser, x = toys.ring().denoiser(LINEAR), torch.randn(4, 2, generator=generator(0))
    seen = []

    def score(grid):
        seen.append((len(grid) - 1, grid[1]))
        return grid[1]

    best = bddm.search(
        Says(0.4),
        denoiser,
        x,
        ddim(),
        score,
        generator(1),
        abars=[0.01, 0.05, 0.2],
        betas=[0.3, 0.6, 0.9],
        most=9,
        smallest=0.3,
    )
    assert len(best) > 1 and max(best) <= 9
    for n, (value, grid) in best.items():
        assert len(grid) == n + 1 and grid[-1] == 0
        assert value == min(v for m, v in seen if m == n)
        assert sample(walk(ddim(), denoiser, x, grid)).nfe == n


def test_bad_input_to_bddm():
    data = Gaussian([0.0], [[1.0]])
    net = bddm.ScheduleNet(1)
    with pytest.raises(ValueError, match="variance-preserving"):
        bddm.time_of(schedules.EDM(), 0.5)
    with pytest.raises(ValueError, match="abar must lie"):
        bddm.time_of(LINEAR, 1.5)
    with pytest.raises(ValueError, match="beta must lie"):
        bddm.noise_scheduling(net, LINEAR, 1.0)
    with pytest.raises(ValueError, match="times \\+ tau"):
        next(
            bddm.train(
                net, data.denoiser(LINEAR), torch.zeros(4, 1), generator(0), times=(0.5, 0.95)
            )
        )


# ---- NEDM ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", nedm.FAMILIES)
@pytest.mark.parametrize("n", [2, 3, 6, 10, 20])
@pytest.mark.parametrize("abar", [1e-4, 0.02, 0.5, 0.95])
def test_the_product_is_the_level(family, n, abar):
    found = nedm.betas(abar, n, 1e-6, family)
    assert math.prod(1 - b for b in found) == pytest.approx(abar, abs=1e-10)
    assert found[0] == pytest.approx(1e-6) and all(0 < b < 1 for b in found)
    if family == "linear":
        steps = [b - a for a, b in itertools.pairwise(found)]
        assert max(steps) == pytest.approx(min(steps), abs=1e-12)
    else:
        for a, b, c in zip(found, found[1:], found[2:], strict=False):
            assert c == pytest.approx(a + b, rel=1e-12)


def test_the_edges_of_the_families():
    assert nedm.betas(0.3, 1) == [0.7]
    # less noise than n steps of b0 leave: clamped
    assert nedm.betas(0.99999, 5, 1e-3) == [1e-3] * 5
    nedm.betas(1e-4, 20, 1e-4, "fibonacci")
    with pytest.raises(ValueError, match="fewer steps"):
        nedm.betas(0.02, 100, 1e-4, "fibonacci")
    nedm.betas(0.02, 100, 1e-4)
    # the first-order solution of the linear family leaves (0, 1), ours does not
    n, abar, b0 = 6, 0.02, 1e-4
    first = b0 + (n - 1) * -2 * (math.log(abar) + n * b0) / (n * (n - 1))
    assert first > 1 > max(nedm.betas(abar, n, b0))


def test_the_grid_of_betas():
    found = nedm.betas(0.01, 7)
    grid = nedm.fixed(LINEAR, found)
    assert grid[-1] == 0 and len(grid) == 8
    for i, t in enumerate(grid[:-1]):
        wanted = math.prod(1 - b for b in found[: 7 - i])
        assert LINEAR.alpha(t) ** 2 == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("family", nedm.FAMILIES)
def test_a_true_level_changes_nothing(family):
    """Re-fitting a schedule of the family to the level it is at gives its own rest."""
    denoiser, x = toys.ring().denoiser(LINEAR), torch.randn(6, 2, generator=generator(0))
    grid = nedm.fixed(LINEAR, nedm.betas(1e-3, 6, 1e-3, family))
    plain = sample(walk(ddpm(), denoiser, x, grid, noise=gaussian(generator(1))))
    at = iter(grid)
    ours = sample(
        nedm.adjusted(
            ddpm(),
            denoiser,
            x,
            lambda x: LINEAR.alpha(next(at)) ** 2,
            grid,
            b0=1e-3,
            family=family,
            noise=gaussian(generator(1)),
        )
    )
    assert ours.nfe == plain.nfe == 6
    assert torch.allclose(ours.x, plain.x, atol=1e-5)


def test_where_says_which_steps():
    denoiser, x = toys.ring().denoiser(LINEAR), torch.randn(6, 2, generator=generator(0))
    grid, asked = grids.grid(LINEAR, 5), []

    def level(x):
        asked.append(len(x))
        return 0.5

    list(nedm.adjusted(ddim(), denoiser, x, level, grid, where=lambda i: i in (1, 3)))
    assert len(asked) == 2
    states = nedm.adjusted(ddim(), denoiser, x, level, grid, where=lambda i: i == 1)
    times = [s.s for s in states]
    assert times[1] == grid[1] and times[-1] == 0
    # step 1 believes to be at abar = 0.5, wherever the grid says it is
    states = list(nedm.adjusted(ddim(), denoiser, x, level, grid, where=lambda i: i == 1))
    assert LINEAR.alpha(states[2].t) ** 2 == pytest.approx(0.5)


def test_an_estimate_stays_where_the_denoiser_may_be_asked():
    denoiser, x = toys.ring().denoiser(LINEAR), torch.randn(6, 2, generator=generator(0))
    denoiser.lam_range = (-3.0, 4.0)
    grid = [bddm.time_of(LINEAR, 1 / (1 + math.exp(6))), 0.5, 0.2, 0.0]
    for said, lam in ((1e-9, -3.0), (0.999999, 4.0)):
        states = list(nedm.adjusted(ddim(), denoiser, x, lambda x, a=said: a, grid, b0=1e-6))
        assert LINEAR.lam(states[1].t) == pytest.approx(lam, abs=1e-6)
        assert states[-1].s == 0


PRODUCT = toys.product()


@pytest.fixture(scope="module")
def level_net():
    torch.manual_seed(0)
    net = nedm.LevelNet(PRODUCT.dim)
    real = PRODUCT.sample(10_000, generator(0)).float()
    losses = list(nedm.train(net, real, LINEAR, generator(1), steps=600))
    assert sum(losses[-50:]) < 0.4 * sum(losses[:50])
    return net


def test_the_level_network_reads_the_level(level_net):
    """New data, a batch of 256: log(1 - abar) within 0.15 where it can be read."""
    x0 = PRODUCT.sample(256, generator(2)).float()
    for t in (0.15, 0.3, 0.5, 0.7):
        alpha, sigma = LINEAR.alpha_sigma(t)
        x = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator(3))
        assert math.log(1 - level_net.level(x)) == pytest.approx(2 * math.log(sigma), abs=0.15)


@pytest.mark.parametrize("step", [ddpm("large"), ddim()], ids=["ddpm", "ddim"])
def test_it_makes_up_for_a_bad_schedule(level_net, step):
    """64 numbers, exact denoiser, 10 steps: robustness is what is gained."""
    denoiser, n, steps = PRODUCT.denoiser(LINEAR), 500, 10
    x = torch.randn(n, PRODUCT.dim, generator=generator(0))
    real = PRODUCT.sample(n, generator(1)).flatten()
    abar = LINEAR.alpha(1.0) ** 2
    even, good = [1 - abar ** (1 / steps)] * steps, nedm.betas(abar, steps)
    found = {}
    for name, betas in {"bad": even, "good": good}.items():
        grid = nedm.fixed(LINEAR, betas)
        plain = sample(walk(step, denoiser, x, grid, noise=gaussian(generator(2)))).x
        ours = sample(
            nedm.adjusted(step, denoiser, x, level_net.level, grid, noise=gaussian(generator(2)))
        ).x
        found[name] = [w1(y.flatten(), real) for y in (plain, ours)]
    # before every step the rest is built anew, so what was given no longer matters ...
    assert found["bad"][1] == pytest.approx(found["good"][1])
    bad, good = (after / before for before, after in found.values())
    assert bad < 0.6 and good > 2 * bad  # ... and a bad schedule gains what a good one does not


def test_bad_input_to_nedm():
    with pytest.raises(ValueError, match="unknown family of schedules 'fibonaci'"):
        nedm.betas(0.5, 3, family="fibonaci")
    with pytest.raises(ValueError, match="abar must lie in|b0 must lie in"):
        nedm.betas(1.0, 3)
    with pytest.raises(ValueError, match="whole number"):
        nedm.betas(0.5, 0)
    with pytest.raises(ValueError, match="variance-preserving"):
        next(nedm.train(nedm.LevelNet(2), torch.zeros(4, 2), schedules.EDM(), generator(0)))


def test_a_move_that_gets_nowhere_is_the_last():
    """From abar = 0 on a schedule with alpha_1 = 0 the level found is where the walk stands."""
    data = Gaussian([0.0, 0.0], torch.eye(2))
    net = bddm.ScheduleNet(2, 4)
    x = torch.zeros(3, 2)
    found = bddm.find(net, data.denoiser(schedules.cosine()), x, ddim(), 0.0, 0.3, most=6)
    assert found == [1.0, 0.0]
