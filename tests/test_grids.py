"""Time grids: their shapes on every schedule, the ranges they keep, what they refuse."""

from __future__ import annotations

import itertools
import math

import pytest
from helpers import SCHEDULES

from diffusion_lab.grids import SPACINGS, grid
from diffusion_lab.schedules import (
    EDM,
    VE,
    Cosine,
    Linear,
    Sigmoid,
    cosine,
    linear,
    zero_terminal_snr,
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 18])
def test_grids_fall_from_one_to_zero(schedule, spacing, steps):
    times = grid(schedule, steps, spacing)
    assert len(times) == steps + 1
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert all(a > b for a, b in itertools.pairwise(times))


def test_a_table_is_walked_on_its_own_times():
    s = linear(1000)
    assert grid(s, 1000) == [i / 1000 for i in range(1000, -1, -1)]
    assert grid(s, 4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    for spacing, steps in (("uniform", 37), ("quadratic", 50), ("quadratic", 999)):
        places = [t * 1000 for t in grid(s, steps, spacing)]
        assert all(abs(p - round(p)) < 1e-9 for p in places)


def test_lambda_and_karras_spacing():
    for s in (Linear(), linear(1000), Sigmoid(), EDM()):
        lams = [s.lam(t) for t in grid(s, 11, "lambda")[:-1]]
        gaps = [b - a for a, b in itertools.pairwise(lams)]
        assert gaps == pytest.approx([gaps[0]] * 10, rel=1e-6)
        root = [math.exp(-s.lam(t) / 7) for t in grid(s, 11, "karras")[:-1]]
        gaps = [b - a for a, b in itertools.pairwise(root)]
        assert gaps == pytest.approx([gaps[0]] * 10, rel=1e-6)


def test_edm_grid_is_that_of_the_paper():
    n, rho, low, high = 18, 7, 0.002, 80.0
    sigmas = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    s = EDM()
    for spacing in ("karras", "uniform"):  # EDM's t is made so that the two are one
        assert [s.sigma(t) for t in grid(s, n, spacing)] == pytest.approx([*sigmas, 0.0], rel=1e-9)


def test_ve_grid_ends_at_its_smallest_sigma():
    s = VE()
    sigmas = [s.sigma(t) for t in grid(s, 10, "lambda")]
    ratios = [b / a for a, b in itertools.pairwise(sigmas)]
    assert ratios == pytest.approx([(0.01 / 50) ** 0.1] * 10)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_grids_stay_within_the_trained_range(spacing):
    low, high = -3.0, 4.0
    for s in (Linear(), Cosine(), linear(1000), cosine(1000), VE(), EDM()):
        times = grid(s, 6, spacing, lam_range=(low, high))
        lams = [s.lam(t) for t in times[:-1]]
        assert all(low - 1e-9 <= lam <= high + 1e-9 for lam in lams) or s.T is not None
        # on a table the ends are rounded to its times only where that moves lambda by < 1e-3
        assert all(low - 0.02 <= lam <= high + 1e-3 for lam in lams)
        assert times[-1] == 0.0


def test_a_range_rounded_for_a_checkpoint_is_the_whole_grid():
    s = linear(1000)
    ends = (round(s.lam(1.0), 4), round(s.lam(0.001), 4))
    for steps in (1000, 50, 7):
        assert grid(s, steps, lam_range=ends) == grid(s, steps)


def test_zero_snr_grids_start_at_pure_noise():
    s = zero_terminal_snr(linear(1000))
    for spacing in SPACINGS:
        times = grid(s, 12, spacing)
        assert s.alpha(times[0]) == 0.0
        assert all(math.isfinite(s.lam(t)) for t in times[1:-1])


def test_quadratic_spacing_is_quadratic():
    """Roots of the times are evenly spaced; between two ends where it would fall below the last."""
    assert grid(Linear(), 4, "quadratic") == pytest.approx([1, 9 / 16, 4 / 16, 1 / 16, 0])
    times = grid(Linear(), 5, "quadratic", lam_range=(-3.0, 1.0))
    first, last = Linear().t_of_lam(-3.0), Linear().t_of_lam(1.0)
    wanted = [last + (first - last) * (1 - i / 4) ** 2 for i in range(5)]
    assert times == pytest.approx([*wanted, 0.0])


def test_linspace_visits_both_ends():
    s = linear(1000)
    assert grid(s, 10, "linspace") == [i / 1000 for i in range(1000, 0, -111)] + [0.0]
    assert grid(s, 1, "linspace") == [1.0, 0.0]
    assert grid(s, 1000, "linspace") == grid(s, 1000)
    times = grid(Linear(), 5, "linspace")
    gaps = [a - b for a, b in itertools.pairwise(times[:-1])]
    assert gaps == pytest.approx([(1 - 1e-3) / 4] * 4)


def test_karras_spacing_with_another_rho():
    """Uniform in (sigma/alpha)^(1/rho), between the same two ends."""
    for rho in (1.0, 3.0):
        sigmas = [EDM().sigma(t) for t in grid(EDM(), 9, "karras", rho=rho)[:-1]]
        assert sigmas[0] == pytest.approx(80.0) and sigmas[-1] == pytest.approx(0.002)
        gaps = [b - a for a, b in itertools.pairwise(s ** (1 / rho) for s in sigmas)]
        assert gaps == pytest.approx([gaps[0]] * 8, rel=1e-6)


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "10"])
def test_bad_numbers_of_steps(steps):
    with pytest.raises(ValueError, match="number of steps must be a whole number >= 1"):
        grid(Linear(), steps)


def test_more_steps_than_there_are():
    for spacing in SPACINGS:  # of 100,000 Karras steps one would wait for hours
        with pytest.raises(ValueError, match="51 steps asked of a schedule with only 50"):
            grid(linear(50), 51, spacing)
    with pytest.raises(ValueError, match="600 steps do not fit on the 259 grid times"):
        grid(linear(1000), 600, lam_range=(0.0, 9.0))
    with pytest.raises(ValueError, match="do not fit"):
        grid(Linear(), 5, "lambda", lam_range=(8.0, 9.0))


def test_unknown_spacings_suggest_the_near_match():
    with pytest.raises(ValueError, match="Did you mean 'karras'"):
        grid(Linear(), 5, "karas")


def test_what_is_no_schedule_and_no_rho():
    with pytest.raises(ValueError, match="laid on a schedule"):
        grid("linear", 5)
    with pytest.raises(ValueError, match="rho must be a finite number > 0"):
        grid(EDM(), 5, "karras", rho=0)


def test_a_range_upside_down():
    with pytest.raises(ValueError, match="lowest, highest"):
        grid(Linear(), 5, lam_range=(4.0, -3.0))
