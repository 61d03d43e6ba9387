"""The forward process as a chain: how a state at time s becomes one at a later time t.

For s < t, with x_t = alpha_t x_0 + sigma_t eps at both times,

    q(x_t | x_s) = N((alpha_t/alpha_s) x_s, V_ts I),
    V_ts = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2,

which for neighbours on the T-step grid is DDPM's N(sqrt(1 - beta_t) x_{t-1}, beta_t I), the
survey's eq 1. The jump from x_0 is ``objectives.noised``; this is the walk that it shortens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_lab.denoisers import check_float
from diffusion_lab.device import randn
from diffusion_lab.schedules import Schedule

__all__ = ["chain", "move", "transition", "vp"]


def transition(schedule: Schedule, s: float, t: float) -> tuple[float, float]:
    """(alpha_t/alpha_s, V_ts): what q(x_t | x_s) keeps of x_s, and the variance it adds.

    On ``linear(T)`` with s = (i-1)/T and t = i/T this is (sqrt(1 - beta_i), beta_i). Raises
    ValueError unless 0 <= s < t <= 1.
    """
    if not 0 <= s < t <= 1:
        raise ValueError(f"noise is added from s up to a later t, 0 <= s < t <= 1; got {s=}, {t=}")
    (alpha_s, _), (alpha_t, sigma_t) = schedule.alpha_sigma(s), schedule.alpha_sigma(t)
    # V = sigma_t^2 (1 - SNR_t/SNR_s): no small difference of large numbers
    return alpha_t / alpha_s, -sigma_t * sigma_t * math.expm1(
        2 * (schedule.lam(t) - schedule.lam(s))
    )


def move(x: Tensor, schedule: Schedule, s: float, t: float, noise: Tensor) -> Tensor:
    """A draw from q(x_t | x_s = x): x and ``noise`` ~ N(0, I) have one shape (B, ...)."""
    if x.shape != noise.shape:
        raise ValueError(f"x {tuple(x.shape)} and noise {tuple(noise.shape)} must have one shape")
    check_float(x, "x")
    kept, variance = transition(schedule, s, t)
    return kept * x + math.sqrt(variance) * noise


def chain(
    x: Tensor, schedule: Schedule, times: Sequence[float], generator: torch.Generator
) -> Iterator[Tensor]:
    """The states at ``times`` (rising), one step of noise after another.

    ``x`` (B, ...) is the state at times[0] and comes first; fresh noise is drawn for each step.
    """
    yield x
    for s, t in itertools.pairwise(times):
        x = move(x, schedule, s, t, randn(tuple(x.shape), generator, x))
        yield x


def vp(lam: float | Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with log(alpha/sigma) = lam and alpha^2 + sigma^2 = 1, float64."""
    lam = torch.as_tensor(lam, dtype=torch.float64)
    if lam.isnan().any():
        raise ValueError("lambda must be a number (or infinite); got nan")
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()
