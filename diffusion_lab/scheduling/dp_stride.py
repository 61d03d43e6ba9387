"""DP stride: the time grid that makes the bound smallest (Watson et al. 2021, 2106.03802).

The bound is a sum over the moves of a grid, and a move t -> s costs the same whatever the others:

    L(t, s) = E KL( q(x_s | x_t, x_0) || p(x_s | x_t) )
            = (SNR_s - SNR_t) D_t / 2         S^2 = bt, the posterior variance ("small")
            = log(1 + c_0^2 D_t / bt) / 2     S^2 = bt + c_0^2 D_t, the best one ("best")
    L(t, 0) = E[-log p(x_0 | x_t)]            the decoder, with its best variance D_t

per dimension, with D_t = E|x_0 - x0_hat(x_t, t)|^2 per dimension. So one pass of the network over
t fills the whole table, and the best K moves are a shortest path, found exactly for all K at once:

    C[k, t] = min over s < t of C[k - 1, s] + L(t, s),        C[0, 0] = 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.bound import BITS, decoder_nll
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import randn, rows_of
from diffusion_lab.errors import unknown, whole
from diffusion_lab.forward import posterior
from diffusion_lab.schedules import Schedule

__all__ = ["Errors", "Stride", "costs", "fill", "measure", "path_cost", "shortest"]

VARIANCES = ("small", "large", "best")


@dataclass(frozen=True, eq=False)
class Errors:
    """At rising times: D_t, E|eps_hat|^2 per dimension and the decoder's bits/dim, all (M,)."""

    times: list[float]
    error: Tensor
    size: Tensor
    decoder: Tensor


@torch.no_grad()
def measure(
    denoiser: Denoiser,
    x0: Tensor,
    times: Sequence[float],
    *,
    noise: torch.Generator,
    levels: int | None = 256,
    batch: int = 500,
    **condition: Tensor,
) -> Errors:
    """One network call for each datum of x0 (N, ...) and each time in (0, 1].

    The same eps serves all times: differences between times are then not blurred by the draw.
    ``levels``: number of values of x0 in [-1, 1]; None for continuous data.
    """
    times = sorted({float(t) for t in times})
    if not times or not 0 < times[0] <= times[-1] <= 1:
        raise ValueError(f"times must lie in (0, 1]; got {times[:1]} to {times[-1:]}")
    eps = randn(x0.shape, noise, x0, x0.dtype)
    rows = []
    for t in times:
        alpha, sigma = denoiser.schedule.alpha_sigma(t)
        found = []
        for i in range(0, len(x0), batch):
            part = slice(i, i + batch)
            told = rows_of(condition, part, len(x0))
            found.append(denoiser(alpha * x0[part] + sigma * eps[part], t, **told).x0)
        x0_hat = torch.cat(found)
        gap = (x0 - x0_hat).double()
        error = gap.square().mean().item()
        if not 0 < error < math.inf:
            raise ValueError(f"the mean squared error of x0 at t = {t:g} is {error}")
        # eps_hat = (x_t - alpha x0_hat)/sigma = eps + (alpha/sigma) (x0 - x0_hat)
        size = (eps + alpha / sigma * gap).square().mean().item()
        if levels is None:
            decoder = 0.5 * (math.log(2 * math.pi * error) + 1)
        else:
            std = torch.tensor(error).sqrt()
            decoder = decoder_nll(x0, x0_hat, std.to(x0), levels).double().mean().item()
        rows.append((error, size, BITS * decoder))
    return Errors(times, *torch.tensor(rows, dtype=torch.float64, device="cpu").T)


def fill(errors: Errors, schedule: Schedule, times: Sequence[float]) -> Errors:
    """The same at more times, between those measured: log D_t and the others linear in lambda.

    ValueError for times outside the measured ones.
    """
    times = sorted({float(t) for t in times})
    if times[0] < errors.times[0] - 1e-9 or times[-1] > errors.times[-1] + 1e-9:
        raise ValueError(
            f"measured from t = {errors.times[0]:g} to {errors.times[-1]:g}; asked for "
            f"{times[0]:g} to {times[-1]:g}"
        )
    if len(errors.times) < 2:
        raise ValueError("one measured time has nothing between it and another: measure more")
    known, asked = (
        torch.tensor([schedule.lam(t) for t in ts], dtype=torch.float64, device="cpu")
        for ts in (errors.times, times)
    )
    right = torch.searchsorted(-known, -asked).clamp(1, len(known) - 1)
    w = ((asked - known[right - 1]) / (known[right] - known[right - 1])).clamp(0, 1)

    def between(values: Tensor) -> Tensor:
        return values[right - 1] + w * (values[right] - values[right - 1])

    filled = between(errors.error.log()).exp(), between(errors.size), between(errors.decoder)
    return Errors(times, *filled)


def costs(schedule: Schedule, errors: Errors, variance: str = "best") -> Tensor:
    """The table of L(t, s) in bits/dim, (M + 1, M + 1): row from, column to, index 0 is t = 0.

    ``variance`` of the reverse steps: small (bt), large (V_ts) or best; the decoder's is always its
    best one, D_t. Moves that do not go down cost infinity.
    """
    if variance not in VARIANCES:
        raise unknown("variance", variance, VARIANCES)
    t = torch.tensor(errors.times, dtype=torch.float64, device="cpu")
    _, c_0, bt, v_ts = posterior(schedule, t[:, None], t)
    missed = c_0**2 * errors.error[:, None]
    var = {"small": bt, "large": v_ts, "best": bt + missed}[variance]
    nats = 0.5 * ((var / bt).log() + (bt + missed) / var - 1)
    size = len(errors.times)
    down = torch.ones(size, size, dtype=torch.bool, device="cpu").tril(-1)
    table = torch.full((size + 1, size + 1), math.inf, dtype=torch.float64, device="cpu")
    table[1:, 1:] = torch.where(down, BITS * nats, math.inf)
    table[1:, 0] = errors.decoder
    return table


@dataclass(frozen=True, eq=False)
class Stride:
    """The best grids of all lengths. ``times`` rise from 0; ``cost`` (K + 1,), [k] of k moves."""

    times: list[float]
    cost: Tensor
    before: Tensor  # (K + 1, M + 1), where the best path to a time with k moves left goes next

    def grid(self, steps: int) -> list[float]:
        """The best grid of that many moves, from the last time to 0, as ``walk`` takes it."""
        whole("the number of steps", steps)
        if steps >= len(self.cost) or not math.isfinite(self.cost[steps]):
            raise ValueError(f"no grid of {steps} moves: the table holds 1 to {self.most}")
        place, grid = len(self.times) - 1, []
        for k in range(steps, 0, -1):
            grid.append(self.times[place])
            place = int(self.before[k, place])
        return [*grid, self.times[place]]

    @property
    def most(self) -> int:
        """The largest number of moves there is a grid for."""
        return int(self.cost.isfinite().nonzero().max())


def shortest(table: Tensor, times: Sequence[float], most: int) -> Stride:
    """All shortest paths from the last time to 0 with 1..``most`` moves; O(most M^2).

    ``table`` as from ``costs`` for the rising ``times`` (M,), without the 0.
    """
    whole("the number of steps", most)
    places = [0.0, *map(float, times)]
    if table.shape != (len(places), len(places)):
        raise ValueError(
            f"{len(times)} times need a table of {len(places)} x {len(places)}; "
            f"got {tuple(table.shape)}"
        )
    if table.isnan().any():
        raise ValueError("the table of costs holds NaN: measure the errors again")
    if not all(a < b for a, b in itertools.pairwise(places)):
        raise ValueError(f"the table's times must rise from above 0; got {places[1:4]} ...")
    best = torch.full((len(places),), math.inf, dtype=torch.float64)
    best[0] = 0.0
    cost, before = [math.inf], [torch.zeros(len(places), dtype=torch.long, device="cpu")]
    for _ in range(min(most, len(times))):
        best, where = (best + table).min(1)
        cost.append(best[-1].item())
        before.append(where)
    return Stride(
        places, torch.tensor(cost, dtype=torch.float64, device="cpu"), torch.stack(before)
    )


def path_cost(table: Tensor, times: Sequence[float], grid: Sequence[float]) -> float:
    """What a falling grid that ends at 0 costs by the table; its times must be in the table."""
    places = {round(t, 9): i for i, t in enumerate([0.0, *times])}
    missing = [t for t in grid if round(t, 9) not in places]
    if missing or grid[-1] != 0:
        raise ValueError(f"a grid over the table's times that ends at 0 is needed; not {missing}")
    path = [places[round(t, 9)] for t in grid]
    return sum(table[i, j].item() for i, j in itertools.pairwise(path))
