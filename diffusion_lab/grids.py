"""Time grids: where a sampler asks, from noise to data.

A grid is a list of falling times that ends at 0. It costs one network call a move (for a solver of
one call a step), so where its times lie decides what a given number of calls is worth: lesson 07
compares these spacings, lesson 08 learns better ones.
"""

from __future__ import annotations

import math
import operator

from diffusion_lab.errors import check_lam_range, number, unknown, whole
from diffusion_lab.schedules import Schedule

__all__ = ["SPACINGS", "grid"]


IN_T = ("uniform", "linspace", "quadratic")
SPACINGS = (*IN_T, "lambda", "karras")


def grid(
    schedule: Schedule,
    steps: int,
    spacing: str = "uniform",
    *,
    lam_range: tuple[float, float] | None = None,
    rho: float = 7.0,
) -> list[float]:
    """Times t_0 > t_1 > ... > t_n = 0 for n = ``steps`` moves, one network call each.

    spacing: ``uniform`` in t (t_i = 1 - i/n), ``linspace`` (uniform from 1 to the last time, 1/T on
    T steps: ancestral sampling wants this short last move, in which it adds no noise),
    ``quadratic`` in t, uniform in ``lambda``, or ``karras`` (uniform in (sigma/alpha)^(1/rho),
    2206.00364). ``lam_range`` = (lowest, highest) lambda at which the denoiser may be asked; every
    time but the last lies in it. A T-step schedule has no more than T moves, and the first three
    spacings are rounded to its grid i/T.
    Where uniform or quadratic times would fall below the time of the highest lambda (EDM:
    sigma = 0.002), they are laid between the two ends, as ``linspace`` does.
    """
    whole("the number of steps", steps)
    if not isinstance(schedule, Schedule):
        raise ValueError(f"a grid is laid on a schedule, such as linear(1000); got {schedule!r}")
    rho = number("rho", rho, above=True)
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    if schedule.T is not None and steps > schedule.T:
        raise ValueError(f"{steps} steps asked of a schedule with only {schedule.T}")
    first, last, low, high = _ends(schedule, lam_range)
    if spacing in IN_T:
        power = 2 if spacing == "quadratic" else 1
        times = [first * (1 - i / steps) ** power for i in range(steps)]
        if steps > 1 and (times[-1] < last or (spacing == "linspace" and last > 0)):
            times = [last + (first - last) * (1 - i / (steps - 1)) ** power for i in range(steps)]
        if schedule.T is not None:
            times = _on_grid(times, schedule.T, first)
        times = [max(t, last) for t in times]
    else:
        # VE ends at its own sigma_min, which the last move reaches: no time of its own for it
        gaps = steps if last == 0.0 else max(steps - 1, 1)
        share = [i / gaps for i in range(steps)]
        if spacing == "lambda":
            lams = [low + w * (high - low) for w in share]
        else:
            big, small = math.exp(-low / rho), math.exp(-high / rho)
            lams = [-rho * math.log(big + w * (small - big)) for w in share]
        times = [first, *(schedule.t_of_lam(lam) for lam in lams[1:])]
    times.append(0.0)
    if not all(map(operator.gt, times, times[1:])):
        raise ValueError(
            f"{steps} {spacing} steps do not fit between lambda {low:.3g} and {high:.3g}: "
            "ask for fewer steps"
        )
    return times


def _on_grid(times: list[float], T: int, first: float) -> list[float]:
    """Falling times rounded to i/T, all distinct and at least 1/T: low ones make room upwards."""
    whole, floor = [round(t * T) for t in times], 1
    if whole[-1] < 1 or not all(map(operator.gt, whole, whole[1:])):
        for i in reversed(range(len(whole))):
            whole[i] = max(whole[i], floor)
            floor = whole[i] + 1
    if whole[0] > round(first * T):
        raise ValueError(f"{len(times)} steps do not fit on the {round(first * T)} grid times left")
    return [i / T for i in whole]


def _ends(schedule: Schedule, lam_range: tuple[float, float] | None) -> tuple[float, ...]:
    """(first, last, low, high): the times and lambdas between which a grid is laid.

    These are the schedule's own ends, cut where lambda is infinite, and then ``lam_range``. With
    zero terminal SNR the first time stays 1 (there is no other place to start from pure noise).
    """
    check_lam_range(lam_range)
    edge = 1 / schedule.T if schedule.T is not None else 1e-3
    first, low = 1.0, schedule.lam(1.0)
    last = edge if schedule.vp else 0.0
    high = schedule.lam(last)
    if high == math.inf:
        high = -math.log(0.002)  # EDM's sigma_min
        last = schedule.t_of_lam(high)
    if lam_range is not None and lam_range[0] > low:
        low, first = lam_range[0], _time_near(schedule, lam_range[0])
    if lam_range is not None and lam_range[1] < high:
        high, last = lam_range[1], _time_near(schedule, lam_range[1])
    if low == -math.inf:
        low = schedule.lam(1 - edge)
    return first, last, low, high


def _time_near(schedule: Schedule, lam: float) -> float:
    """The time of lam, on the grid i/T where that moves lambda by less than 1e-3."""
    t = schedule.t_of_lam(lam)
    if schedule.T is not None:
        whole = max(round(t * schedule.T), 1) / schedule.T
        if abs(schedule.lam(whole) - lam) < 1e-3:
            return whole
    return t
