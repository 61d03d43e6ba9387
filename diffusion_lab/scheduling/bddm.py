"""BDDM: a small second network proposes the next beta (Lam et al. 2022, 2203.13508).

With D2 = 1 - abar_n and beta_n = phi min(D2, cap), phi in (0, 1) read from x_n, the network phi is
trained, the denoiser frozen, on the exact KL of one step

    KL( p(x_{n-1} | x_n) || q(x_{n-1} | x_0) ) = D2/(2 (D2 - beta)) |eps - (beta/D2) eps_hat|^2
        + (d/2) (beta/D2 - 1) + (d/2) log(D2/beta),      cap = 1 - abar_{t+tau}/abar_t.

(The authors' code has d/4 before the logarithm: ``quarter=True``.) Then a schedule is found on the
way down, from a start (abar_N, beta_N):

    abar_{n-1} = abar_n / (1 - beta_n),      beta_{n-1} = min(1 - abar_{n-1}, beta_n) phi(x_{n-1}),

until beta or the noise left falls below the smallest of training. It is then a fixed grid for any
sampler. For Gaussian data of variance s^2, with r = E|eps_hat|^2/d = D2/(abar s^2 + D2), the best
b = beta/D2 solves (1 - r)(1 + 1/(1 - b)^2) = 1/b (a quarter: 1/(2b)): the better the denoiser, the
longer the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from diffusion_lab.denoisers import Denoiser, expand
from diffusion_lab.device import randn
from diffusion_lab.errors import share, whole
from diffusion_lab.forward import noised
from diffusion_lab.nets.layers import scalar
from diffusion_lab.schedules import Schedule
from diffusion_lab.walk import Noise, State, Step, walk

__all__ = [
    "ScheduleNet",
    "descend",
    "find",
    "noise_scheduling",
    "search",
    "step_kl",
    "time_of",
    "train",
]

CAP = 0.999  # phi stays below: the KL is infinite at beta = D2


class ScheduleNet(nn.Module):
    """phi(x): x (B, ...) of ``dim`` numbers -> (B,) in (0, 0.999), by a small MLP."""

    def __init__(self, dim: int, width: int = 64) -> None:
        super().__init__()
        self.net = scalar(dim, width)

    def forward(self, x: Tensor) -> Tensor:
        return CAP * self.net(x)[:, 0].sigmoid()


def step_kl(
    eps: Tensor, eps_hat: Tensor, d2: Tensor, beta: Tensor, quarter: bool = False
) -> Tensor:
    """The KL of one step in nats per dimension, (B,); d2 and beta are (B,), 0 < beta < d2."""
    share = beta / d2
    missed = (eps - expand(share, eps) * eps_hat).square().flatten(1).mean(1)
    log = (0.25 if quarter else 0.5) * share.log()
    return missed / (2 * (1 - share)) + 0.5 * (share - 1) - log


def time_of(schedule: Schedule, abar: float) -> float:
    """The (fractional) time of a noise level abar in [0, 1]; ValueError unless VP."""
    if not schedule.vp:
        raise ValueError(f"abar is a level of variance-preserving processes; got {schedule!r}")
    abar = share("abar", abar)
    if abar in (0, 1):
        return 1.0 - abar
    return schedule.t_of_lam(0.5 * math.log(abar / (1 - abar)))


def train(
    net: nn.Module,
    denoiser: Denoiser,
    real: Tensor,
    generator: torch.Generator,
    *,
    tau: float = 0.1,
    times: tuple[float, float] | None = None,
    steps: int = 500,
    batch: int = 64,
    lr: float = 3e-3,
    quarter: bool = False,
) -> Iterator[float]:
    """Train ``net`` in place on data (N, ...), yielding the KL (nats/dim) of each iteration.

    Args:
        tau: how far up the next level lies that caps beta, as a share of the time axis.
        times: t is uniform in them; by default [tau, 1 - tau].
    """
    low, high = (tau, 1 - tau) if times is None else times
    if not (0 < tau < 1 and 0 < low <= high <= 1 - tau):
        raise ValueError(f"need 0 < times and times + tau <= 1; got {(low, high)} and tau = {tau}")
    schedule = denoiser.schedule
    time_of(schedule, 1.0)  # VP, or an error

    def loss(x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t)
        with torch.no_grad():
            eps_hat = denoiser(x_t, t).eps
        d2 = (sigma**2).to(x_t.dtype)
        cap = (1 - (schedule.alpha(t + tau) / alpha) ** 2).to(x_t.dtype)
        beta = torch.minimum(d2, cap) * net(x_t)
        return step_kl(eps, eps_hat, d2, beta, quarter).mean()

    for kl in descend(net, loss, real, schedule, generator, (low, high), steps, batch, lr):
        if not math.isfinite(kl):
            raise FloatingPointError(f"the KL is {kl}: lower the learning rate ({lr:g})")
        yield kl


def descend(
    net: nn.Module,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    real: Tensor,
    schedule: Schedule,
    generator: torch.Generator,
    times: tuple[float, float],
    steps: int,
    batch: int,
    lr: float,
) -> Iterator[float]:
    """Adam on ``loss(x_t, t, eps)`` for the small second networks of BDDM and NEDM.

    t is uniform in ``times``; the rate falls linearly to 0 over the second half. Yields the losses.
    """
    low, high = times
    adam = torch.optim.Adam(net.parameters(), lr=lr)
    for i in range(steps):
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - i / steps))
        x0 = real[torch.randint(len(real), (batch,), generator=generator, device="cpu")]
        eps = randn(x0.shape, generator, x0)
        u = torch.rand(batch, generator=generator, dtype=torch.float64, device="cpu")
        t = low + (high - low) * u
        value = loss(noised(x0, eps, schedule, t), t, eps)
        adam.zero_grad()
        value.backward()
        adam.step()
        yield value.item()


def noise_scheduling(
    net: nn.Module, schedule: Schedule, beta: float, *, most: int = 1000, smallest: float = 1e-4
) -> Callable[[State], float | None]:
    """The grid that is decided on the way, for ``walk(..., grid, start=time_of(abar_N))``.

    The first move removes ``beta``; later ones what ``net`` says, as a mean over the batch. When
    the next beta, or the noise it would leave, falls below ``smallest``, or after ``most`` - 1
    moves, the last one goes to 0.
    """
    beta = share("beta", beta, inside=True)
    whole("the number of steps", most)
    before = beta

    def grid(state: State) -> float | None:
        nonlocal before
        if state.s == 0:
            return None
        abar = schedule.alpha(state.s) ** 2
        if state.i == 0:
            before = beta
        else:
            with torch.no_grad():
                before = min(1 - abar, before) * net(state.x).mean().item()
        rest = abar / (1 - before)
        if before < smallest or rest > 1 - smallest or state.i == most - 1:
            return 0.0
        s = time_of(schedule, rest)
        return s if s < state.s else 0.0

    return grid


def find(
    net: nn.Module,
    denoiser: Denoiser,
    x: Tensor,
    step: Step,
    abar: float,
    beta: float,
    *,
    noise: Noise | None = None,
    most: int = 1000,
    smallest: float | None = None,
) -> list[float]:
    """The grid found by one walk from x (standard normal), starting at (abar_N, beta_N).

    ``smallest``: noise variance not worth a step of its own; by default that of t = 1/T (or 0.001).
    """
    if smallest is None:
        smallest = 1 - denoiser.schedule.alpha(1 / (denoiser.schedule.T or 1000)) ** 2
    grid = noise_scheduling(net, denoiser.schedule, beta, most=most, smallest=smallest)
    start = time_of(denoiser.schedule, abar)
    with torch.no_grad():
        states = walk(step, denoiser, x, grid, noise=noise, start=start)
        return [state.s for state in states]


def search(
    net: nn.Module,
    denoiser: Denoiser,
    x: Tensor,
    step: Step,
    score: Callable[[Sequence[float]], float],
    generator: torch.Generator,
    *,
    abars: Sequence[float],
    betas: Sequence[float],
    noise: Noise | None = None,
    most: int = 20,
    smallest: float | None = None,
    jitter: float = 0.05,
) -> dict[int, tuple[float, list[float]]]:
    """{number of moves: (score, grid)}: the best grid of each length over all start pairs.

    ``score`` judges a grid, lower is better. Every pair is tried as it is and moved at random by up
    to ``jitter``; pairs that give no grid of at most ``most`` moves are skipped.
    """
    best: dict[int, tuple[float, list[float]]] = {}
    for abar in abars:
        for beta in betas:
            for spread in (0.0, jitter):
                moved = torch.rand(2, generator=generator, dtype=torch.float32, device="cpu")
                u, v = (1 + spread * (2 * moved - 1)).tolist()
                if not (0 < abar * u < 1 and 0 < beta * v < 1):
                    continue
                pair, limits = (abar * u, beta * v), {"most": most + 1, "smallest": smallest}
                grid = find(net, denoiser, x, step, *pair, noise=noise, **limits)
                n = len(grid) - 1
                if n > most:
                    continue
                found = score(grid)
                if n not in best or found < best[n][0]:
                    best[n] = (found, grid)
    return best
