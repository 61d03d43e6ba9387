"""Checks of lesson 08."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import exercise, judge, number


def _levels(g: Generator) -> list[tuple[Any, ...]]:
    draws = torch.rand(4, 3, generator=g, dtype=torch.float64, device="cpu").tolist()
    return [(0.1 + a, 1.2 + a + 5 * b, 0.01 + c) for a, b, c in draws]


@exercise(
    probes=_levels,
    slips={
        lambda snr_t, snr_s, error: 0.5 * (snr_s - snr_t) * error: (
            "that is in nats: bits are nats divided by log 2."
        ),
        lambda snr_t, snr_s, error: 0.5 * (snr_s - snr_t) * error * math.log(2): (
            "nats are divided by log 2, not multiplied: a bit is less than a nat."
        ),
        lambda snr_t, snr_s, error: (snr_s - snr_t) * error / math.log(2): "the 1/2 is missing.",
        lambda snr_t, snr_s, error: 0.5 * (snr_t - snr_s) * error / math.log(2): (
            "s is the cleaner level: its SNR is the larger one."
        ),
        lambda snr_t, snr_s, error: 0.5 * (snr_s - snr_t) * error**0.5 / math.log(2): (
            "error is already a mean square: no root."
        ),
        lambda snr_t, snr_s, error: 0.5 * (snr_s / snr_t) * error / math.log(2): (
            "it is the difference of the SNRs, not their ratio."
        ),
    },
    hint="L(t, s) = (SNR_s - SNR_t) D_t / 2 in nats.",
    right="one number per noise level, D_t, prices every jump.",
)
def price(snr_t: float, snr_s: float, error: float) -> float:
    return 0.5 * (snr_s - snr_t) * error / math.log(2)


def _tables(g: Generator) -> list[tuple[Any, ...]]:
    found = []
    for size in (3, 6):
        table = torch.rand(size, size, generator=g, dtype=torch.float64, device="cpu") + 0.1
        down = torch.ones(size, size, dtype=torch.bool).tril(-1)
        table = torch.where(down, table, torch.inf)
        best = torch.rand(size, generator=g, dtype=torch.float64, device="cpu")
        found.append((best, table))
    return found


def _finite(value: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Infinities as a large number, so that two of them are equal; a pair becomes one tensor."""
    if isinstance(value, tuple):
        value = torch.stack([part.double() for part in value])
    return torch.nan_to_num(value, posinf=1e3)


@exercise(
    probes=_tables,
    view=_finite,
    slips={
        lambda best, table: (best[None, :] + table).min(dim=0).values: (
            "the smallest is taken over t; it belongs over s, along each row."
        ),
        lambda best, table: (best[:, None] + table).min(dim=1).values: (
            "best[s] is added to row s; it belongs to column s, the place you come down to."
        ),
        lambda best, table: table.min(dim=1).values: "the price of the way from s on is missing.",
        lambda best, table: (best[None, :] + table).min(dim=1).indices.double(): (
            "these are the places s; the costs are asked for (`.values`)."
        ),
        lambda best, table: (best[None, :] + table).min(dim=1): (
            "`min(dim=1)` gives the values and their places: take `.values`."
        ),
        lambda best, table: torch.minimum(best, (best[None, :] + table).min(dim=1).values): (
            "C[k] counts exactly k moves: C[k - 1] is not a candidate."
        ),
    },
    hint="for each t the smallest of best[s] + table[t, s] over s.",
    right="K sweeps of this find the best of all grids of K moves.",
)
def sweep(best: Tensor, table: Tensor) -> Tensor:
    return (best[None, :] + table).min(dim=1).values


BUDGET = 24.0


@judge(
    hint="the clean end is expensive: long jumps at large t, short ones at small t.",
    right="the bound wants its steps at the clean end.",
)
def inner_times(given: Any) -> str | None:
    """Three inner times of a walk of four moves on the 1-D mixture, for less than the budget."""
    from diffusion_lab import schedules
    from diffusion_lab.data import toys
    from diffusion_lab.metrics.information import mmse

    times = [float(t) for t in given]
    if len(times) != 3:
        return f"three times are asked for, between 1 and 0.001; got {len(times)}."
    if not 1 > times[0] > times[1] > times[2] > 0.001:
        unit = " Give them in units of t: 0.25, not 250." if max(times) > 1 else ""
        return f"the times must fall between 1 and 0.001; got {times}.{unit}"
    linear = schedules.linear(1000)
    walk = torch.tensor([1.0, *times, 0.001], dtype=torch.float64)
    snr, error = linear.snr(walk), mmse(toys.two_class(), linear.lam(walk))
    cost = (0.5 * (snr[1:] - snr[:-1]) * error[:-1]).sum().item()
    if cost >= BUDGET:
        return f"that walk costs {cost:.1f} nats; below {BUDGET:g} is asked for."
    return None


def _steps(g: Generator) -> list[tuple[Any, ...]]:
    found = []
    for a, b, c, share in torch.rand(4, 4, generator=g, dtype=torch.float64, device="cpu").tolist():
        alpha_t, alpha_s = 0.2 + 0.3 * a, 0.6 + 0.3 * b
        sigma_t, sigma_s = (1 - alpha_t**2) ** 0.5, (1 - alpha_s**2) ** 0.5
        found.append((alpha_t, sigma_t, alpha_s, sigma_s, 0.9 * share * sigma_s**2, c))
    return found


def _c(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float, l2: float) -> float:
    return alpha_s - (sigma_s**2 - l2) ** 0.5 * alpha_t / sigma_t


@exercise(
    probes=_steps,
    bug=lambda at, st, a, s, l2, size: l2 + _c(at, st, a, s, l2) * (st / at) ** 2 * (1 - size),
    slips={
        lambda at, st, a, s, l2, size: l2 + _c(at, st, a, s, l2) ** 2 * (st / at) * (1 - size): (
            "sigma/alpha stands where its square belongs."
        ),
        lambda at, st, a, s, l2, size: l2 + _c(at, st, a, s, l2) ** 2 * (st / at) ** 2 * size: (
            "size is what is known of the noise; 1 - size is what is left of x_0."
        ),
        lambda at, st, a, s, l2, size: _c(at, st, a, s, l2) ** 2 * (st / at) ** 2 * (1 - size): (
            "the forward posterior's own variance l2 is missing."
        ),
        lambda at, st, a, s, l2, size: (
            l2**0.5 + _c(at, st, a, s, l2) ** 2 * (st / at) ** 2 * (1 - size)
        ): "l2 is a variance already: no root.",
        lambda at, st, a, s, l2, size: (
            l2 + (_c(at, st, a, s, l2) * (st / at) ** 2 * (1 - size)) ** 2
        ): "only c and sigma/alpha are squared, not 1 - size.",
    },
    hint="the step uses c x_0: how does a variance grow when its variable is multiplied by c?",
    right="one number per level gives the best variance of every step.",
)
def best_variance(
    alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float, l2: float, size: float
) -> float:
    c = _c(alpha_t, sigma_t, alpha_s, sigma_s, l2)
    return l2 + c**2 * (sigma_t / alpha_t) ** 2 * (1 - size)


def _kernels(g: Generator) -> list[tuple[Any, ...]]:
    found = []
    for n, m in ((3, 5), (6, 4)):
        x, y = (torch.randn(k, 2, generator=g, dtype=torch.float64, device="cpu") for k in (n, m))
        found.append(tuple((a @ b.T / 2 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))))
    return found


def _within(k: Tensor) -> Tensor:
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


@exercise(
    probes=_kernels,
    slips={
        lambda kxx, kyy, kxy: kxx.mean() + kyy.mean() - 2 * kxy.mean(): (
            "the pairs of a point with itself are still in: that is the biased estimate."
        ),
        lambda kxx, kyy, kxy: _within(kxx) + _within(kyy) - kxy.mean(): (
            "the mixed pairs count twice."
        ),
        lambda kxx, kyy, kxy: _within(kxx) + _within(kyy) + 2 * kxy.mean(): (
            "the mixed pairs are subtracted."
        ),
        lambda kxx, kyy, kxy: (
            (kxx.sum() - kxx.diagonal().sum()) / len(kxx) ** 2
            + (kyy.sum() - kyy.diagonal().sum()) / len(kyy) ** 2
            - 2 * kxy.mean()
        ): "without the diagonal there are n(n - 1) pairs, not n^2.",
        lambda kxx, kyy, kxy: _within(kxx) - 2 * kxy.mean(): (
            "the pairs of real points are missing: 0 would not mean equal."
        ),
    },
    hint="leave out i = j in kxx and kyy, and divide by the number of pairs that are left.",
    right="0 on average for equal laws, at any number of samples.",
)
def mmd2(kxx: Tensor, kyy: Tensor, kxy: Tensor) -> Tensor:
    return _within(kxx) + _within(kyy) - 2 * kxy.mean()


def _root(r: float, of: float = 1.0) -> float:
    """The b in (0, 1) at which (1 - r)(1 + 1/(1 - b)^2) = 1/(of b), by bisection."""
    low, high = 1e-6, 1 - 1e-6
    for _ in range(80):
        b = 0.5 * (low + high)
        low, high = (b, high) if (1 - r) * (1 + (1 - b) ** -2) < 1 / (of * b) else (low, b)
    return low


share = number(
    _root(0.9),
    tolerance=0.006,
    slips={
        _root(0.9, 2.0): "that is the root with 1/4 before the logarithm, the authors' code.",
        _root(0.1): "that is the step of a denoiser with r = 0.1: r and 1 - r are exchanged.",
        0.9: "that is r itself; b solves the equation.",
    },
    hint="the left side grows with b, the right side falls: they meet once.",
    right="a denoiser that knows nine tenths of the noise may remove 0.72 of it at once.",
)
