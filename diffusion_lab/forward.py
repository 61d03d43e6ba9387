"""The forward process as a chain: how a state at time s becomes one at a later time t.

For s < t, with x_t = alpha_t x_0 + sigma_t eps at both times,

    q(x_t | x_s) = N((alpha_t/alpha_s) x_s, V_ts I),
    V_ts = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2,

which for neighbours on the T-step grid is DDPM's N(sqrt(1 - beta_t) x_{t-1}, beta_t I), the
survey's eq 1. The jump from x_0 is ``noised``; this is the walk that it shortens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffusion_lab.denoisers import Prediction, expand
from diffusion_lab.device import check_float, randn
from diffusion_lab.errors import unknown
from diffusion_lab.schedules import Schedule, Time

__all__ = [
    "VARIANCES",
    "best_variance",
    "chain",
    "move",
    "noised",
    "posterior",
    "reverse_variance",
    "transition",
    "variance_weight",
    "vp",
]

VARIANCES = ("small", "large", "learned")


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


def noised(x0: Tensor, eps: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
    """x_t = alpha_t x_0 + sigma_t eps, the survey's eq 1 in one jump; t is (B,)."""
    check_float(x0, "x0")
    check_float(eps, "eps")
    if x0.shape != eps.shape:
        raise ValueError(f"x0 {tuple(x0.shape)} and eps {tuple(eps.shape)} must have one shape")
    if not isinstance(t, Tensor):
        raise ValueError(f"t must be a tensor, one time for each datum; got {t!r}")
    if t.shape != (len(x0),):
        raise ValueError(f"t must have shape ({len(x0)},); got {tuple(t.shape)}")
    alpha, sigma = schedule.alpha_sigma(t)
    return expand(alpha, x0) * x0 + expand(sigma, x0) * eps


def posterior(
    alpha_t: Time, sigma_t: Time, alpha_s: Time, sigma_s: Time
) -> tuple[Time, Time, Time, Time]:
    """q(x_s | x_t, x_0) = N(c_t x_t + c_0 x_0, var I) for s < t; returns (c_t, c_0, var, V_ts).

    With V_ts = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2, the variance of q(x_t | x_s) (DDPM's
    beta_t when s = t - 1/T):  c_t = (alpha_t/alpha_s) sigma_s^2 / sigma_t^2,
    c_0 = alpha_s V_ts / sigma_t^2,  var = V_ts sigma_s^2 / sigma_t^2  (the survey's eq 3).
    """
    ratio = alpha_t / alpha_s
    kept = ratio * ratio * sigma_s * sigma_s
    v_ts = sigma_t * sigma_t - kept
    var_t = sigma_t * sigma_t
    return (
        ratio * sigma_s * sigma_s / var_t,
        alpha_s * v_ts / var_t,
        v_ts * (sigma_s * sigma_s) / var_t,
        v_ts,
    )


def reverse_variance(
    pred: Prediction, v_ts: float | Tensor, bt: float | Tensor, choice: str
) -> float | Tensor:
    """S^2 of p(x_s | x_t): ``small`` = the posterior's bt, ``large`` = V_ts (DDPM's beta_t), or
    ``learned`` = exp(w log V_ts + (1 - w) log bt) with the network's w (2102.09672).
    """
    if choice == "small":
        return bt
    if choice == "large":
        return v_ts
    if choice != "learned":
        raise unknown("variance", choice, VARIANCES)
    if pred.var is None:
        raise ValueError("variance='learned' needs a denoiser with learned_var; use small or large")
    log_v, log_b = (torch.as_tensor(c, dtype=pred.var.dtype).log() for c in (v_ts, bt))
    return (log_b + pred.var * (log_v - log_b)).exp()


def variance_weight(
    var: float | Tensor, v_ts: float | Tensor, bt: float | Tensor
) -> float | Tensor:
    """The weight v of a variance: exp(v log V_ts + (1 - v) log bt) = var. May leave [0, 1]."""
    log = torch.log if isinstance(var, Tensor) else math.log
    return log(var / bt) / log(v_ts / bt)


def best_variance(
    schedule: Schedule, t: float | Tensor, s: float | Tensor, error: float | Tensor
) -> float | Tensor:
    """S^2 = bt + c_0^2 error, which makes the term (t, s) smallest among all fixed numbers.

    For a decoder by bins, whose width spreads the Gaussian already, it is only nearly the best.
    ``error`` is E|x_0 - x0_hat|^2 per dimension at t; for exact means the mean of Var(x_0 | x_t).
    """
    _, c_0, bt, _ = posterior(*schedule.alpha_sigma(t), *schedule.alpha_sigma(s))
    return bt + c_0 * c_0 * error
