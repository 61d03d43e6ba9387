"""Checks of lesson 08."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import exercise, judge, number


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
        lambda best, table: (best[:, None] + table).min(dim=0).values: (
            "both are transposed: rows are t, where you are; columns are s, where you come down to."
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


def _path(
    table: Tensor,
    moves: int,
    *,
    free: bool = False,
    stay: bool = False,
    order: Callable[[list[Tensor]], Iterable[Tensor]] = reversed,
) -> list[int]:
    """The dynamic programme, with a knob for each slip; as it stands it is right."""
    best = torch.full((len(table),), 0.0 if free else math.inf, dtype=table.dtype)
    best[0] = 0
    pointers = []
    for _ in range(moves):
        found, where = (best[None, :] + table).min(dim=1)
        if stay:  # C[k - 1] as a candidate of C[k]
            found, where = (
                torch.minimum(found, best),
                torch.where(found < best, where, torch.arange(len(best))),
            )
        best = found
        pointers.append(where)
    path = [len(table) - 1]
    for where in order(pointers):
        path.append(int(where[path[-1]]))
    return path


def _greedy(table: Tensor, moves: int) -> list[int]:
    """The cheapest road from each place, as long as enough places are left."""
    path = [len(table) - 1]
    for left in range(moves - 1, 0, -1):
        path.append(left + int(table[path[-1], left : path[-1]].argmin()))
    return [*path, 0]


def _at_most(table: Tensor, moves: int) -> list[int]:
    """The cheapest path of that many moves or fewer."""
    paths = [_path(table, k) for k in range(1, moves + 1)]
    return min(paths, key=lambda path: sum(table[t, s].item() for t, s in pairwise(path)))


def reference_path(table: Tensor, moves: int) -> list[int]:
    """The cheapest path of exactly that many moves from the last place to 0."""
    return _path(table, moves)


def _roads(g: Generator) -> list[tuple[Any, ...]]:
    found = []
    # where long roads are dear the best path has many moves; where they are cheap, few
    for size, moves, power in ((6, 3, 1.5), (8, 4, 1.5), (8, 5, 0.5)):
        length = torch.arange(size, dtype=torch.float64)
        length = (length[:, None] - length).abs()
        table = length**power * (
            0.3 + torch.rand(size, size, generator=g, dtype=torch.float64, device="cpu")
        )
        down = torch.ones(size, size, dtype=torch.bool).tril(-1)
        found.append((torch.where(down, table, torch.inf), moves))
    return found


def _places(path: Any) -> Tensor:
    return torch.as_tensor([float(place) for place in path], dtype=torch.float64)


shortest_path = exercise(
    probes=_roads,
    view=_places,
    slips={
        partial(_path, free=True): (
            "with no move left only place 0 is reached: C[0, t] is infinite for t > 0."
        ),
        partial(_path, stay=True): (
            "C[k] counts exactly k moves: C[k - 1] is no candidate, and no move stays in its place."
        ),
        partial(_path, order=list): (
            "the pointers are in the wrong order: the first move belongs to the last sweep."
        ),
        lambda table, moves: _path(table, moves)[::-1]: (
            "the path is the right one, upside down: it goes from the last place to 0."
        ),
        lambda table, moves: _path(table, moves)[1:]: "the start, the last place, is missing.",
        lambda table, moves: _path(table, moves)[:-1]: "the end, place 0, is missing.",
        lambda table, moves: _path(table, moves - 1): "that path has one move too few.",
        lambda table, moves: _path(table, moves + 1): "that path has one move too many.",
        _at_most: "that is the cheapest path of at most so many moves; exactly so many it must be.",
        _greedy: "the cheapest road at each place does not make the cheapest whole path.",
    },
    hint="sweep K times and keep the places of the minima; then follow them, the last sweep first.",
    right="exact for every K, in K sweeps over the table: no search, no training.",
)(reference_path)


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

    try:
        times = [float(t) for t in given]
    except (TypeError, ValueError):
        return f"three times are asked for, as a list of numbers; got {given!r:.40}."
    if len(times) != 3:
        return f"three times are asked for, between 1 and 0.001; got {len(times)}."
    if 1 > times[2] > times[1] > times[0] > 0.001:
        return "the times must fall: give them from large to small, as a walk meets them."
    if any(abs(1000 * t - round(1000 * t)) > 1e-3 for t in times) and max(times) < 1:
        return f"give times on the thousandths, such as 0.123; got {times}."
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
            l2 + _c(at, st, a, s, l2) ** 2 * (at / st) ** 2 * (1 - size)
        ): ("alpha/sigma is upside down: what is unknown of x_0 is sigma/alpha times that of eps."),
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


def _askew(k: Tensor, pairs: int) -> Tensor:
    """The slip of leaving i = j out across the sets, where it is a pair like any."""
    return (k.sum() - k.diagonal().sum()) / pairs


_ACROSS = "across the sets x_i and y_i are two different points: take the plain mean of kxy."


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
        lambda kxx, kyy, kxy: (
            _within(kxx)
            + (kyy.sum() - kyy.diagonal().sum()) / (len(kxx) * (len(kxx) - 1))
            - 2 * kxy.mean()
        ): "kyy has its own number of pairs, m(m - 1).",
        lambda kxx, kyy, kxy: (
            _within(kxx) + _within(kyy) - 2 * _askew(kxy, kxy.numel() - len(kxy.diagonal()))
        ): _ACROSS,
        lambda kxx, kyy, kxy: _within(kxx) + _within(kyy) - 2 * _askew(kxy, kxy.numel()): _ACROSS,
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
