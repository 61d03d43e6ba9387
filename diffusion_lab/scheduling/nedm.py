"""NEDM: estimate the noise that is really there, and re-fit the rest of the schedule to it.

San-Roman, Nachmani & Wolf 2021 (2104.02600). A small network P reads x_t and says the level,

    loss = (log(1 - abar) - log(1 - abar_hat))^2,

and before a step with n steps left the betas (beta_0 the last, nearest to the data) are rebuilt so
that prod_{i<n} (1 - beta_i) = abar_hat, with beta_0 = b0 fixed and one free number u:

    linear     beta_i = b0 + i u
    fibonacci  beta_1 = u,  beta_{i+2} = beta_{i+1} + beta_i     =>  beta_i = F_{i-1} b0 + F_i u

solved by bisection: the first-order solution u = -2 (log abar + n b0)/(n (n - 1)) of the linear
family may give beta > 1. The step then goes from abar_hat to abar_hat / (1 - beta_{n-1}).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.denoisers import Denoiser
from diffusion_lab.errors import share, unknown, whole
from diffusion_lab.nets.layers import scalar
from diffusion_lab.schedules import Schedule
from diffusion_lab.scheduling.bddm import descend, time_of
from diffusion_lab.walk import Noise, State, Step, walk

__all__ = ["FAMILIES", "LevelNet", "adjusted", "betas", "fixed", "level_loss", "train"]

FAMILIES = ("linear", "fibonacci")


class LevelNet(nn.Module):
    """P(x): x (B, ...) of ``dim`` numbers -> log(1 - abar), (B,), below 0, by a small MLP."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.net = scalar(dim, width)

    def forward(self, x: Tensor) -> Tensor:
        return -nn.functional.softplus(self.net(x)[:, 0])

    @torch.no_grad()
    def level(self, x: Tensor) -> float:
        """abar of a whole batch at one level: 1 - exp of the mean answer."""
        return -math.expm1(self(x).double().mean().item())


def level_loss(net: nn.Module, x_t: Tensor, sigma: Tensor) -> Tensor:
    """Mean of (log(1 - abar) - P(x_t))^2; sigma (B,) with sigma^2 = 1 - abar."""
    return (2 * sigma.log().to(x_t.dtype) - net(x_t)).square().mean()


def train(
    net: nn.Module,
    real: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
    *,
    steps: int = 1500,
    batch: int = 128,
    lr: float = 3e-3,
    lowest: float = 0.02,
) -> Iterator[float]:
    """Train ``net`` in place on data (N, ...), t uniform in [``lowest``, 1]; yields the losses.

    The logarithm runs off to -infinity at t = 0, where no network could tell levels apart.
    """
    time_of(schedule, 1.0)  # VP, or an error
    lowest = share("the lowest time", lowest, inside=True)

    def loss(x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return level_loss(net, x_t, schedule.sigma(t))

    yield from descend(net, loss, real, schedule, generator, (lowest, 1.0), steps, batch, lr)


def betas(abar: float, n: int, b0: float = 1e-4, family: str = "linear") -> list[float]:
    """beta_0..beta_{n-1} of the family with prod(1 - beta) = abar, to rounding.

    A level above (1 - b0)^n is clamped to it (all betas b0; with fibonacci, as near as u = 0
    allows). For n = 1 the one beta is 1 - abar. ValueError where some beta would reach 1.
    """
    whole("the number of steps", n)
    if family not in FAMILIES:
        raise unknown("family of schedules", family, FAMILIES)
    abar, b0 = share("abar", abar, inside=True), share("b0", b0, inside=True)
    if n == 1:
        return [1 - abar]
    if family == "linear":
        base, slope = [1.0] * n, [float(i) for i in range(n)]
    else:
        f = [1.0, 0.0, 1.0]  # F_{-1}, F_0, F_1
        while len(f) <= n:
            f.append(f[-1] + f[-2])
        base, slope = f[:n], f[1 : n + 1]

    def at(u: float) -> list[float]:
        return [b * b0 + c * u for b, c in zip(base, slope, strict=True)]

    high = min((1 - b * b0) / c for b, c in zip(base, slope, strict=True) if c > 0)
    if high <= 0:
        raise ValueError(
            f"a {family} schedule of {n} steps from b0 = {b0:g} exceeds beta = 1 whatever the "
            "level: take fewer steps or a smaller b0"
        )
    low, target = 0.0, math.log(abar)
    if sum(math.log1p(-b) for b in at(low)) <= target:
        return at(low)
    for _ in range(200):
        u = 0.5 * (low + high)
        if u in (low, high):
            break
        found = at(u)
        total = sum(math.log1p(-b) for b in found) if max(found) < 1 else -math.inf
        low, high = (u, high) if total > target else (low, u)
    return at(low)


def fixed(schedule: Schedule, found: list[float]) -> list[float]:
    """The grid of a list of betas, beta_0 first: falling times from prod(1 - beta) to 0."""
    times, abar = [0.0], 1.0
    for beta in found:
        abar *= 1 - beta
        times.append(time_of(schedule, abar))
    return times[::-1]


def adjusted(
    step: Step,
    denoiser: Denoiser,
    x: Tensor,
    level: Callable[[Tensor], float],
    grid: list[float],
    *,
    b0: float = 1e-4,
    family: str = "linear",
    noise: Noise | None = None,
    where: Callable[[int], bool] = lambda i: True,
    **condition: Any,
) -> Iterator[State]:
    """Walk down ``grid`` re-fitting what is left of it before each step i with ``where(i)``.

    Args:
        step: a one-step method (ddpm, ddim).
        level: x (B, ...) -> abar of the batch: ``LevelNet.level``, or an exact estimate.
        grid: the schedule to begin with; only its times up to the next estimate are used.

    Yields States like ``walk``; ``t`` is the time the step believed to be at.
    """
    schedule, times, nfe = denoiser.schedule, list(grid), 0
    floor, ceiling = (max(schedule.alpha(t) ** 2, 1e-6) for t in (1.0, 1 / (schedule.T or 1000)))
    if denoiser.lam_range is not None:  # where it may be asked
        low, high = (1 / (1 + math.exp(-2 * lam)) for lam in denoiser.lam_range)
        floor, ceiling = max(floor, low), min(ceiling, high)
    yield State(x, times[0], times[0], 0, len(grid) - 1, None, 0)
    for i in range(len(grid) - 1):
        if where(i):
            found = min(max(level(x), floor), ceiling)
            times[i:] = fixed(schedule, betas(found, len(grid) - 1 - i, b0, family))
        *_, last = walk(step, denoiser, x, times[i : i + 2], noise=noise, **condition)
        x, nfe = last.x, nfe + last.nfe
        yield State(x, times[i], times[i + 1], i + 1, len(grid) - 1, last.pred, nfe)
