"""DP stride and analytic variances against brute force, the bound itself and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion_lab import grids, schedules
from diffusion_lab.bound import bounds
from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian
from diffusion_lab.forward import posterior
from diffusion_lab.metrics.information import mmse
from diffusion_lab.samplers import ddim, ddpm
from diffusion_lab.scheduling import analytic as an
from diffusion_lab.scheduling import dp_stride as dp
from diffusion_lab.walk import gaussian, sample, walk

LINEAR = schedules.linear(1000)
TIMES = [i / 1000 for i in range(1, 1001)]
TOY = toys.two_class()


def toy_errors(times):
    """Exact D_t of the 1-D mixture, by quadrature; a free decoder."""
    error = mmse(TOY, LINEAR.lam(torch.tensor(times, dtype=torch.float64)))
    free = torch.zeros(len(times), dtype=torch.float64)
    return dp.Errors(list(times), error, free, free)


def to_first_time(table):
    """Paths must end at the first time above 0, at no cost for the decoder; in nats."""
    table = table * math.log(2)
    table[1:, 0] = math.inf
    table[1, 0] = 0.0
    return table


@pytest.fixture(scope="module")
def full():
    """(table of the 1-D mixture in nats, the best grids)."""
    table = to_first_time(dp.costs(LINEAR, toy_errors(TIMES), "small"))
    return table, dp.shortest(table, TIMES, 40)


# ---- dynamic programming ------------------------------------------------------------------------
@pytest.mark.parametrize("variance", ["small", "large", "best"])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_the_best_grid_is_the_best_of_all(variance, steps):
    times = [i / 1000 for i in (1, 2, 5, 10, 22, 46, 100, 215, 464, 1000)]
    errors = toy_errors(times)
    errors.decoder.copy_(torch.linspace(-3, 1, 10))
    table = dp.costs(LINEAR, errors, variance)
    found = dp.shortest(table, times, 4)
    every = {
        (1.0, *reversed(inner), 0.0) for inner in itertools.combinations(times[:-1], steps - 1)
    }
    best = min(every, key=lambda grid: dp.path_cost(table, times, grid))
    assert found.grid(steps) == list(best)
    assert found.cost[steps] == pytest.approx(dp.path_cost(table, times, best), abs=1e-12)


def test_the_totals_of_the_1d_mixture(full):
    table, stride = full
    assert dp.path_cost(table, TIMES, [*reversed(TIMES), 0.0]) == pytest.approx(5.235, abs=2e-3)
    # the values of the search that this course began with, D_t there from draws (1.5 %); its best
    # one of 32 moves was sought on a coarse grid, which gave 6.13
    for steps, even, square, lam, best in (
        (8, 717.8, 29.2, 17.5, 9.47),
        (32, 66.7, 6.75, 6.36, 5.723),
    ):
        uniform = grids.grid(LINEAR, steps + 1, "linspace")
        by_lam = grids.grid(LINEAR, steps + 1, "lambda")
        by_lam = [max(round(t * 1000), 1) / 1000 for t in by_lam[:-1]] + [0.0]
        assert dp.path_cost(table, TIMES, uniform) == pytest.approx(even, rel=0.015)
        assert dp.path_cost(table, TIMES, by_lam) == pytest.approx(lam, rel=0.015)
        squares = sorted({1 + round(999 * (i / steps) ** 2) for i in range(steps + 1)})
        path = [*(i / 1000 for i in reversed(squares)), 0.0]
        assert dp.path_cost(table, TIMES, path) == pytest.approx(square, rel=0.015)
        assert stride.cost[steps + 1].item() == pytest.approx(best, rel=0.015)
        assert stride.cost[steps + 1] < dp.path_cost(table, TIMES, by_lam)


def test_more_moves_never_cost_more(full):
    costs = full[1].cost[2:]
    assert (costs.diff() <= 1e-12).all()
    table = to_first_time(dp.costs(LINEAR, toy_errors(TIMES[::20]), "best"))
    assert (dp.shortest(table, TIMES[::20], 50).cost[2:].diff() <= 1e-12).all()


def test_all_moves_are_the_whole_grid():
    times = [0.1, 0.25, 0.6, 0.9, 1.0]
    table = to_first_time(dp.costs(LINEAR, toy_errors(times), "small"))
    stride = dp.shortest(table, times, 9)
    assert stride.most == 5
    assert stride.grid(5) == [1.0, 0.9, 0.6, 0.25, 0.1, 0.0]


@pytest.mark.parametrize("levels", [None, 17])
def test_the_table_adds_up_to_the_bound(levels):
    """Every entry is a term of the bound, so a path's cost is the bound without its prior."""
    gen = generator(1)
    x0 = (8 * torch.rand(400, 3, generator=gen, dtype=torch.float64)).round() / 8 - 0.5
    denoiser = Gaussian(torch.zeros(3), 0.1 * torch.eye(3)).denoiser(LINEAR)
    grid = [1.0, 0.63, 0.4, 0.2, 0.05, 0.0]
    errors = dp.measure(denoiser, x0, grid[:-1], noise=generator(2), levels=levels, batch=150)
    eps = torch.randn(x0.shape, generator=generator(2), dtype=torch.float64)
    found = bounds(
        denoiser, x0, grid, noise=eps, variances=["small", "large", "best"], levels=levels
    )
    for variance, bound in found.items():
        table = dp.costs(LINEAR, errors, variance)
        inner = dp.path_cost(table, errors.times, grid) - errors.decoder[0].item()
        assert inner == pytest.approx(bound.parts["steps"], abs=1e-9)
    assert errors.decoder[0] == pytest.approx(found["best"].parts["decoder"], abs=1e-9)
    assert torch.allclose(errors.error.flip(0), found["best"].error)


def test_filling_in_between():
    few, many = TIMES[::13] + [1.0], TIMES[:-5:7]
    some = toy_errors(few)
    filled = dp.fill(some, LINEAR, many)
    assert filled.times == many
    assert torch.allclose(filled.error, toy_errors(many).error, rtol=2e-2)
    same = dp.fill(some, LINEAR, few)
    assert torch.allclose(same.error, some.error, rtol=1e-9)
    with pytest.raises(ValueError, match="measured from"):
        dp.fill(some, LINEAR, [0.0005])
    with pytest.raises(ValueError, match="measure more"):
        dp.fill(toy_errors([0.5]), LINEAR, [0.5])
    # lambdas nearer to each other than single precision can tell
    near = [0.5, 0.5 + 4e-9, 0.5 + 8e-9]
    close = dp.Errors(near, *torch.tensor([[1.0, 2.0, 4.0]] * 3, dtype=torch.float64))
    assert torch.equal(dp.fill(close, schedules.Linear(), near).size, close.size)


def test_a_grid_walks(full):
    grid = full[1].grid(9)
    x = sample(walk(ddim(), TOY.denoiser(LINEAR), torch.randn(50, 1), grid)).x
    assert len(grid) == 10 and grid[0] == 1 and grid[-1] == 0
    assert x.isfinite().all()


def test_what_is_wrong_is_said(full):
    table, stride = full
    with pytest.raises(ValueError, match="unknown variance 'best_'"):
        dp.costs(LINEAR, toy_errors([0.5, 1.0]), "best_")
    with pytest.raises(ValueError, match="1 to 40"):
        stride.grid(41)
    with pytest.raises(ValueError, match="5 times need a table of 6 x 6"):
        dp.shortest(table, TIMES[:5], 3)
    with pytest.raises(ValueError, match=r"not \[0.0123\]"):
        dp.path_cost(table, TIMES, [1.0, 0.0123, 0.0])
    with pytest.raises(ValueError, match="in \\(0, 1\\]"):
        dp.measure(TOY.denoiser(LINEAR), torch.zeros(2, 1), [0.0, 0.5], noise=generator(0))
    with pytest.raises(ValueError, match="squared error"):
        nothing = Gaussian([0.0], [[0.0]]).denoiser(LINEAR)
        dp.measure(nothing, torch.zeros(2, 1), [0.5], noise=generator(0))


# ---- analytic variances -------------------------------------------------------------------------
@pytest.mark.parametrize(("eta", "expected"), [(1.0, 0.0734), (0.0, 0.0223)])
def test_the_variance_is_that_of_what_is_not_known(eta, expected):
    """l2 + c^2 E Var(x_0 | x_t), the variance by quadrature and the size from draws."""
    n, t, s = 200_000, 0.1, 0.05
    x0 = TOY.sample(n, generator(0))
    errors = dp.measure(
        TOY.denoiser(LINEAR), x0, [t], noise=generator(1), levels=None, batch=50_000
    )
    found = an.best_variance(LINEAR, t, s, errors.size.item(), eta=eta)
    at_t, at_s = LINEAR.alpha_sigma(t), LINEAR.alpha_sigma(s)
    l2 = eta**2 * posterior(LINEAR, t, s).var
    c = at_s[0] - math.sqrt(at_s[1] ** 2 - l2) * at_t[0] / at_t[1]
    exact = l2 + c**2 * float(mmse(TOY, LINEAR.lam(t)))
    # the size is a mean of n squares with a spread below 2: standard error 2/sqrt(n)
    slack = 4 * c**2 * (at_t[1] / at_t[0]) ** 2 * 2 / math.sqrt(n)
    assert found == pytest.approx(exact, abs=slack)
    assert found == pytest.approx(expected, abs=slack + 2e-4)  # found before this course, by draws


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_chain_of_a_gaussian_keeps_its_variance(eta):
    """x_t of N(0, s2) has variance alpha^2 s2 + sigma^2 at every time of a 10-step chain."""
    s2, v = 0.25, None
    times = grids.grid(LINEAR, 10)
    for t, s in itertools.pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = LINEAR.alpha_sigma(t), LINEAR.alpha_sigma(s)
        total = alpha**2 * s2 + sigma**2
        v = total if v is None else v
        k = alpha * s2 / total  # x0_hat = k x_t
        size = ((1 - alpha * k) / sigma) ** 2 * total
        l2 = eta**2 * posterior(LINEAR, t, s).var
        towards = math.sqrt(max(sigma_s**2 - l2, 0.0))
        mean = towards / sigma + (alpha_s - towards * alpha / sigma) * k
        v = mean**2 * v + an.best_variance(LINEAR, t, s, size, eta=eta)
        assert v == pytest.approx(alpha_s**2 * s2 + sigma_s**2, abs=1e-9)
    assert v == pytest.approx(s2, abs=1e-9)


def test_the_step_samples_that_chain():
    n, times = 40_000, [1.0, 0.5, 0.25, 0.1]
    denoiser = Gaussian([0.0], [[0.25]]).denoiser(LINEAR)
    errors = dp.measure(
        denoiser,
        0.5 * torch.randn(n, 1, generator=generator(5)),
        times[:-1],
        noise=generator(6),
        levels=None,
    )
    x = torch.randn(n, 1, generator=generator(7))
    for eta in (0.0, 1.0):
        step = an.analytic(an.sizes(errors), eta, bounds=None)
        out = sample(walk(step, denoiser, x, times, noise=gaussian(generator(8)))).x
        alpha, sigma = LINEAR.alpha_sigma(0.1)
        wanted = alpha**2 * 0.25 + sigma**2
        assert out.var().item() == pytest.approx(wanted, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize(("eta", "known"), [(1.0, ddpm("small")), (0.0, ddim()), (0.7, ddim(0.7))])
def test_a_denoiser_that_knows_everything_needs_no_more_noise(eta, known):
    """G = 1 means that x_0 is known: DDPM with the small variance, and DDIM, come back."""
    times = [1.0, 0.7, 0.3, 0.1, 0.0]
    x, denoiser = torch.randn(20, 1, generator=generator(0)), TOY.denoiser(LINEAR)
    step = an.analytic(dict.fromkeys(times[:-1], 1.0), eta)
    ours, theirs = (
        sample(walk(s, denoiser, x, times, noise=gaussian(generator(1)))).x for s in (step, known)
    )
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_bounds_of_the_variance_always_hold():
    gen = torch.Generator().manual_seed(0)
    for _ in range(200):
        u = torch.rand(4, generator=gen).tolist()
        t, s = 0.02 + 0.98 * max(u[:2]), 0.02 + 0.9 * min(u[:2])
        if s >= t:
            continue
        size, eta = 2 * u[2], u[3]
        (alpha, sigma), at_s = LINEAR.alpha_sigma(t), LINEAR.alpha_sigma(s)
        l2 = eta**2 * posterior(LINEAR, t, s).var
        c = at_s[0] - math.sqrt(max(at_s[1] ** 2 - l2, 0)) * alpha / sigma
        found = an.best_variance(LINEAR, t, s, size, eta=eta)
        assert l2 <= found <= l2 + c**2 * (sigma / alpha) ** 2 + 1e-12
        assert an.best_variance(LINEAR, t, s, size, eta=eta, bounds=(-1, 1)) <= l2 + c**2 + 1e-12


def test_the_last_noise_is_no_more_than_grey_levels():
    times, denoiser = [1.0, 0.3, 0.0], TOY.denoiser(LINEAR)
    x, sizes = torch.randn(4000, 1, generator=generator(0)), {1.0: 0.3, 0.3: 0.5}
    plain, few = (
        next(
            itertools.islice(
                walk(an.analytic(sizes, grey=g), denoiser, x, times, noise=gaussian(generator(1))),
                1,
                None,
            )
        ).x
        for g in (1e-9, 2.0)
    )
    # |mean of |S z|| over 4000 draws: 2 grey levels, standard error 0.6 S / sqrt(4000)
    assert (few - plain).abs().mean().item() == pytest.approx(2 * an.GREY, rel=0.06)


def test_best_strides_with_analytic_variances():
    n, times = 100_000, TIMES[49::50]
    errors = dp.measure(
        TOY.denoiser(LINEAR),
        TOY.sample(n, generator(0)),
        times,
        noise=generator(1),
        levels=None,
        batch=50_000,
    )
    ours = an.analytic_errors(errors, LINEAR)
    exact = mmse(TOY, LINEAR.lam(torch.tensor(times, dtype=torch.float64)))
    low = torch.tensor(times) < 0.5  # above, 1 - G is a difference of near-equal numbers
    assert torch.allclose(ours.error[low], exact[low], rtol=0.1)
    grid = dp.shortest(dp.costs(LINEAR, ours, "best"), times, 6).grid(5)
    wanted = dp.shortest(dp.costs(LINEAR, errors, "best"), times, 6).grid(5)
    assert max(abs(a - b) for a, b in zip(grid, wanted, strict=True)) <= 0.051


def test_bad_input_to_analytic():
    with pytest.raises(ValueError, match="eta"):
        an.analytic({0.5: 0.5}, 1.5)
    with pytest.raises(ValueError, match="empty"):
        an.analytic({})
    with pytest.raises(ValueError, match="goes down"):
        an.best_variance(LINEAR, 0.3, 0.3, 0.5)
    with pytest.raises(ValueError, match="cannot be"):
        an.best_variance(LINEAR, 0.3, 0.1, math.nan)
    with pytest.raises(ValueError, match="no data are left at t = 1"):
        an.best_variance(schedules.Cosine(), 1.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="no data are left at t = 1"):
        an.analytic_errors(toy_errors([0.5, 1.0]), schedules.Cosine())
    step = an.analytic({0.5: 0.5})
    with pytest.raises(ValueError, match="measured at t = 1"):
        sample(walk(step, TOY.denoiser(LINEAR), torch.randn(2, 1), [1.0, 0.5]))
    with pytest.raises(ValueError, match="fill the errors"):
        an.sizes(toy_errors([0.5]), [0.5, 0.2, 0.0])


def test_tables_and_times_that_cannot_be_are_refused():
    table = torch.full((3, 3), math.inf, dtype=torch.float64).tril(-1)
    broken = table.clone()
    broken[2, 1] = math.nan
    with pytest.raises(ValueError, match="holds NaN"):
        dp.shortest(broken, [0.5, 1.0], 2)
    with pytest.raises(ValueError, match="must rise"):
        dp.shortest(torch.zeros(3, 3, dtype=torch.float64), [1.0, 0.5], 2)
