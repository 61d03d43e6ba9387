"""The forward process: how data are noised, and what that says about the way back.

For s < t, with x_t = alpha_t x_0 + sigma_t eps at both times,

    q(x_t | x_0)      = N(alpha_t x_0, sigma_t^2 I)              one jump, the survey's eq 1
    q(x_t | x_s)      = N((alpha_t/alpha_s) x_s, V_ts I)         one step of the chain
    q(x_s | x_t, x_0) = N(c_t x_t + c_0 x_0, bt I)               the posterior, eq 3

and with gone = 1 - SNR_t/SNR_s, the share of the signal-to-noise ratio that the step takes,

    V_ts = sigma_t^2 gone,                bt  = sigma_s^2 gone,
    c_t  = (alpha_t/alpha_s) (sigma_s/sigma_t)^2,      c_0 = alpha_s gone.

In DDPM's letters (Ho, Jain & Abbeel 2020, eqs 2, 4 and 7) alpha_t is sqrt(alpha-bar_t), and for
neighbours on the T-step grid V_ts is beta_t and bt its beta-tilde.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lab.denoisers import Number, Prediction, expand
from diffusion_lab.device import check_alike, check_each, check_float, randn
from diffusion_lab.errors import unknown
from diffusion_lab.schedules import Schedule, Time, lib_of

__all__ = ["VARIANCES", "Posterior", "best_variance", "chain", "move", "noised", "posterior"]
__all__ += ["kept_noise", "reverse_variance", "transition", "variance_weight"]

VARIANCES = ("small", "large", "learned")


# ---- towards noise ------------------------------------------------------------------------------
def noised(x0: Tensor, eps: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
    """x_t = alpha_t x_0 + sigma_t eps, the survey's eq 1 in one jump; t is (B,)."""
    check_float(x0, "x0")
    check_float(eps, "eps")
    check_alike(x0=x0, eps=eps)
    check_each(t, x0)
    alpha, sigma = schedule.alpha_sigma(t)
    return expand(alpha, x0) * x0 + expand(sigma, x0) * eps


def transition(schedule: Schedule, s: float, t: float) -> tuple[float, float]:
    """(alpha_t/alpha_s, V_ts): what q(x_t | x_s) keeps of x_s, and the variance it adds.

    On ``linear(T)`` with s = (i-1)/T and t = i/T this is (sqrt(1 - beta_i), beta_i). Raises
    ValueError unless 0 <= s < t <= 1.
    """
    if not 0 <= s < t <= 1:
        raise ValueError(f"noise is added from s up to a later t, 0 <= s < t <= 1; got {s=}, {t=}")
    return schedule.alpha(t) / schedule.alpha(s), posterior(schedule, t, s).added


def move(x: Tensor, schedule: Schedule, s: float, t: float, noise: Tensor) -> Tensor:
    """A draw from q(x_t | x_s = x): x and ``noise`` ~ N(0, I) have one shape (B, ...)."""
    check_alike(x=x, noise=noise)
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


# ---- and back -----------------------------------------------------------------------------------
class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(c_t x_t + c_0 x_0, var I), and ``added`` = V_ts of q(x_t | x_s)."""

    c_t: Number
    c_0: Number
    var: Number
    added: Number


def posterior(schedule: Schedule, t: Time, s: Time) -> Posterior:
    """The posterior of the step t -> s < t (the survey's eq 3), floats or tensors as t and s are.

    No small difference of large numbers: gone = -expm1(2 (lambda_t - lambda_s)).
    """
    (log_alpha_t, log_sigma_t), (log_alpha_s, log_sigma_s) = schedule.logs(t), schedule.logs(s)
    lib = lib_of(log_alpha_t)
    gone = -lib.expm1(2 * ((log_alpha_t - log_sigma_t) - (log_alpha_s - log_sigma_s)))
    return Posterior(
        lib.exp(log_alpha_t - log_alpha_s + 2 * (log_sigma_s - log_sigma_t)),
        lib.exp(log_alpha_s) * gone,
        lib.exp(2 * log_sigma_s) * gone,
        lib.exp(2 * log_sigma_t) * gone,
    )


def kept_noise(sigma_s: Number, var: Number) -> Number:
    """sqrt(sigma_s^2 - var), what a step keeps of eps_hat; 0 where rounding leaves less."""
    return lib_of(sigma_s).clamp(sigma_s**2 - var, 0.0, math.inf) ** 0.5


def reverse_variance(pred: Prediction, v_ts: Number, bt: Number, choice: str) -> Number:
    """S^2 of p(x_s | x_t): ``small`` = the posterior's bt, ``large`` = V_ts (DDPM's beta_t), or
    ``learned`` = exp(w log V_ts + (1 - w) log bt) with the network's w (2102.09672).
    """
    if choice not in VARIANCES:
        raise unknown("variance", choice, VARIANCES)
    if choice != "learned":
        return bt if choice == "small" else v_ts
    if pred.var_weight is None:
        raise ValueError("variance='learned' needs a denoiser with learned_var; use small or large")
    log_v, log_b = (torch.as_tensor(c, dtype=pred.var_weight.dtype).log() for c in (v_ts, bt))
    return (log_b + pred.var_weight * (log_v - log_b)).exp()


def variance_weight(var: Number, v_ts: Number, bt: Number) -> Number:
    """The weight v of a variance: exp(v log V_ts + (1 - v) log bt) = var. May leave [0, 1]."""
    return lib_of(var).log(var / bt) / lib_of(var).log(v_ts / bt)


def best_variance(schedule: Schedule, t: Time, s: Time, error: Number, eta: float = 1.0) -> Number:
    """S^2 = l2 + c^2 error, which makes the term (t, s) smallest among all fixed numbers.

    l2 = eta^2 bt and c, how much of x_0 the step with noise share eta uses: c = c_0 for eta = 1.
    For a decoder by bins, whose width spreads the Gaussian already, it is only nearly the best.
    ``error`` is E|x_0 - x0_hat|^2 per dimension at t; for exact means the mean of Var(x_0 | x_t).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    l2 = eta**2 * posterior(schedule, t, s).var
    return l2 + (alpha_s - kept_noise(sigma_s, l2) * alpha_t / sigma_t) ** 2 * error
