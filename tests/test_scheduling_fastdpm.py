"""FastDPM: levels and steps determine each other, the two ways to choose them, the reverse step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion_lab.device import generator
from diffusion_lab.exact import GaussianMixture
from diffusion_lab.samplers import ddim
from diffusion_lab.schedules import Linear, linear
from diffusion_lab.scheduling.fastdpm import GammaLevels, fastdpm_grid, step_grid, var_grid
from diffusion_lab.walk import Ask, sample, walk

F64 = torch.float64
LEVELS, TABLE = GammaLevels(), linear(1000)
# the specification's toy: two narrow peaks
PEAKS = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=F64),
    torch.tensor([[-1.0], [0.6]], dtype=F64),
    torch.tensor([[[0.02]], [[0.03]]], dtype=F64),
)


def wasserstein(times, kappa, n=20_000):
    """W1 to the data of a walk from the quantiles of N(0, 1), on exact quantiles of the mixture."""
    q = (torch.arange(n, dtype=F64) + 0.5) / n
    x = torch.linspace(-4, 4, 400_001, dtype=F64)
    cdf = 0.3 * torch.special.ndtr((x + 1) / 0.02**0.5) + 0.7 * torch.special.ndtr(
        (x - 0.6) / 0.03**0.5
    )
    data = x[torch.searchsorted(cdf, q).clamp(max=400_000)]
    states = walk(
        ddim(kappa),
        PEAKS.denoiser(LEVELS),
        torch.special.ndtri(q)[:, None],
        times,
        noise=lambda i, like: torch.randn(like.shape, dtype=F64, generator=generator(5, i)),
    )
    return (sample(states).x[:, 0].sort().values - data).abs().mean().item()


# ---- levels of real steps -----------------------------------------------------------------------
def test_gamma_formula_is_the_product():
    steps = range(1, 1001)
    ours = [2 * math.log(LEVELS.alpha(i / 1000)) for i in steps]
    table = [math.log(TABLE.abar[i]) for i in steps]
    # lgamma near 5e5 has 1e-10 of rounding
    assert ours == pytest.approx(table, abs=1e-9)


def test_a_level_has_one_step():
    times = [1e-3, 0.02, 0.31234, 0.5, 0.999, 1.0]
    assert [LEVELS.t_of_lam(LEVELS.lam(t)) for t in times] == pytest.approx(times, abs=1e-7)
    lams = LEVELS.lam(torch.tensor(times, dtype=F64))
    assert LEVELS.t_of_lam(lams).tolist() == pytest.approx(times, abs=1e-7)
    assert LEVELS.alpha_sigma(0.0) == (1.0, 0.0)


def test_between_two_steps_the_levels_are_those_of_a_real_number_of_steps():
    """abar(i + 1/2)^2 is near abar(i) abar(i + 1): the table's straight line is not."""
    i = 0.0105
    middle = LEVELS.alpha(i) ** 4
    assert middle == pytest.approx(LEVELS.alpha(0.010) ** 2 * LEVELS.alpha(0.011) ** 2, rel=1e-5)


def test_a_network_on_the_table_is_asked_at_equal_lambda():
    on_table = PEAKS.denoiser(TABLE).on(LEVELS)
    x = torch.randn(5, 1, dtype=F64, generator=generator(0))
    for t in (0.1, 0.1234, 0.9):
        ours, exact = on_table(x, t).x0, PEAKS.denoiser(LEVELS)(x, t).x0
        assert torch.allclose(ours, exact, atol=1e-7)


# ---- choosing levels ----------------------------------------------------------------------------
@pytest.mark.parametrize("spacing", ["linear", "quadratic"])
@pytest.mark.parametrize("steps", [5, 10, 20, 50, 200])
def test_variances_end_at_the_same_level(spacing, steps):
    times = var_grid(LEVELS, steps, spacing)
    assert len(times) == steps + 1 and times[0] == 1.0 and times[-1] == 0.0
    assert times[-2] == pytest.approx(1e-3, abs=1e-6)  # eta_1 = beta_1
    abar = [LEVELS.alpha(t) ** 2 for t in times]
    etas = [1 - a / b for a, b in itertools.pairwise(abar)]  # eta_S first
    assert math.prod(1 - eta for eta in etas) == pytest.approx(4.036e-5, rel=1e-3)
    shape = etas if spacing == "linear" else [math.sqrt(eta) for eta in etas]
    gaps = [a - b for a, b in itertools.pairwise(shape)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps), rel=1e-4)


def test_with_all_variances_it_is_the_trained_chain():
    assert var_grid(LEVELS, 1000, "linear") == pytest.approx(
        [i / 1000 for i in range(1000, -1, -1)], abs=2e-6
    )
    assert step_grid(TABLE, 1000, "linear") == [i / 1000 for i in range(1000, -1, -1)]


def test_steps_are_the_papers():
    assert step_grid(TABLE, 4, "linear") == [1.0, 0.667, 0.334, 0.001, 0.0]
    assert step_grid(TABLE, 5, "quadratic") == [0.801, 0.451, 0.201, 0.051, 0.001, 0.0]
    for steps in (50, 1000):  # the paper's formula repeats steps there
        times = step_grid(TABLE, steps, "quadratic")
        assert times[0] <= 1.0 and all(a > b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("how", ["step", "var"])
@pytest.mark.parametrize("spacing", ["linear", "quadratic"])
@pytest.mark.parametrize("steps", [5, 10, 50])
def test_a_network_of_the_trained_levels_may_be_asked_there(how, spacing, steps):
    """It refuses lambdas beyond what it was trained on by more than 1e-3."""
    low, high = TABLE.lam(1.0), TABLE.lam(1e-3)
    lams = [LEVELS.lam(t) for t in fastdpm_grid(LEVELS, steps, how, spacing)[:-1]]
    assert low - 1e-3 <= lams[0] and lams[-1] <= high + 1e-3


# ---- the reverse step ---------------------------------------------------------------------------
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_the_papers_step_is_ddim_with_eta_kappa(kappa):
    t, s = 0.437, 0.2118
    x = torch.randn(6, 1, dtype=F64, generator=generator(1))
    z = torch.randn(6, 1, dtype=F64, generator=generator(2))
    denoiser = PEAKS.denoiser(LEVELS)
    ours = ddim(kappa)(Ask(denoiser, source=lambda i, like: z), x, t, s)
    g_t, g_s = LEVELS.alpha(t) ** 2, LEVELS.alpha(s) ** 2
    eps = denoiser(x, t).eps
    std = kappa * math.sqrt((1 - g_s) / (1 - g_t) * (1 - g_t / g_s))
    ratio = math.sqrt(g_s / g_t)
    theirs = ratio * x + (math.sqrt(1 - g_s - std**2) - math.sqrt(1 - g_t) * ratio) * eps + std * z
    assert torch.allclose(ours, theirs, atol=1e-12)


# W1 of the specification at kappa = 0 (it leaves the weights of its toy open: here 0.3, 0.7, which
# reproduce its first row to 0.001, and the others within the 0.002 that its sampling leaves)
@pytest.mark.parametrize(
    ("steps", "how", "spacing", "expected"),
    [
        (10, "step", "linear", 0.094),
        (10, "step", "quadratic", 0.055),
        (10, "var", "linear", 0.081),
        (50, "step", "linear", 0.0194),
        (50, "step", "quadratic", 0.0109),
        (50, "var", "linear", 0.0200),
        (50, "var", "quadratic", 0.0106),
    ],
)
def test_distance_to_the_data(steps, how, spacing, expected):
    times = fastdpm_grid(LEVELS, steps, how, spacing)
    assert wasserstein(times, 0.0) == pytest.approx(expected, abs=0.002)


def test_noise_costs_quality_at_few_steps():
    """With all the noise, the specification's W1 to the spread of the draws."""
    for how, spacing, known in (
        ("step", "linear", 0.123),
        ("step", "quadratic", 0.092),
        ("var", "linear", 0.107),
    ):
        times = fastdpm_grid(LEVELS, 10, how, spacing)
        calm, half, full = (wasserstein(times, kappa) for kappa in (0.0, 0.5, 1.0))
        assert calm < half < full
        assert full == pytest.approx(known, abs=0.005)


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (lambda: fastdpm_grid(TABLE, 10, "vars"), "Did you mean 'var'"),
        (lambda: fastdpm_grid(TABLE, 10, "var", "cubic"), "unknown spacing"),
        (lambda: step_grid(TABLE, 1), "2 to T = 1000 steps"),
        (lambda: var_grid(TABLE, 1001), "2 to T = 1000 steps"),
        (lambda: var_grid(Linear(), 10), "schedule of T steps"),
        (lambda: GammaLevels(1), "need 0 < beta_1"),
        (lambda: GammaLevels(1000, 0.02, 1e-4), "need 0 < beta_1"),
    ],
)
def test_refused(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        bad()
