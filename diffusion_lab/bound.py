"""The variational bound, term by term, in bits per dimension (the survey's eqs 3 to 6).

-log p(x_0) <= E_q[ L_T + sum_{t >= 2} L_{t-1} + L_0 ],   x_t ~ q(x_t | x_0)
L_T     = KL( q(x_T | x_0) || N(0, I) ),  N(0, sigma_T^2 I) where the process is not VP
L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ),   both Gaussian
L_0     = -log p(x_0 | x_1),  the Gaussian p integrated over the bin of each pixel value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_lab.denoisers import Prediction, expand
from diffusion_lab.errors import unknown
from diffusion_lab.schedules import Schedule, posterior

__all__ = ["VARIANCES", "decoder_nll", "kl", "prior_term", "reverse_variance", "vlb_term"]

VARIANCES = ("small", "large", "learned")
BITS = 1 / math.log(2)


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


def kl(mean_p: Tensor, var_p: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
    """KL( N(mean_p, var_p) || N(mean_q, var_q) ) in nats, element by element."""
    return 0.5 * ((var_q / var_p).log() + (var_p + (mean_p - mean_q) ** 2) / var_q - 1)


def decoder_nll(x0: Tensor, mean: Tensor, std: Tensor, levels: int) -> Tensor:
    """-log of N(mean, std^2) integrated over the bin of each value of x0, in nats, elementwise.

    x0 has ``levels`` equally spaced values in [-1, 1]; bins are 2/(levels-1) wide, and the outer
    ones reach to infinity. The bins' probabilities sum to 1.
    """
    half = 1 / (levels - 1)
    upper = torch.where(x0 > 1 - half, torch.inf, (x0 + half - mean) / std)
    lower = torch.where(x0 < -1 + half, -torch.inf, (x0 - half - mean) / std)
    # the smaller tail keeps its digits: mirror a bin that lies above the mean
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    mass = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    return -mass.clamp(min=1e-12).log()


def vlb_term(
    pred: Prediction,
    x0: Tensor,
    schedule: Schedule,
    t: Tensor,
    s: Tensor | None = None,
    *,
    variance: str = "learned",
    levels: int = 256,
) -> Tensor:
    """One term of the bound in bits/dim, (B,): the KL at (t, s), or the decoder where s = 0.

    t and s are (B,) times; by default s = t - 1/T on the schedule's own grid. The variance of the
    decoder step borrows the posterior variance of the step before it, since its own is 0.
    """
    if s is None:
        if schedule.T is None:
            raise ValueError("give s, or use a schedule on T steps")
        s = t - 1 / schedule.T
    s = torch.where(s < 1e-9, 0.0, s)
    first = s == 0
    levels_t, levels_s = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    c_t, c_0, bt, v_ts = posterior(*levels_t, *levels_s)
    above = torch.where(first, (2 * t).clamp(max=1.0), t)
    _, _, bt_above, _ = posterior(
        *schedule.alpha_sigma(above), *schedule.alpha_sigma(torch.where(first, t, s))
    )
    bt_safe = torch.where(first, bt_above, bt)
    c_t, c_0, v_ts, bt_safe = (expand(c, x0) for c in (c_t, c_0, v_ts, bt_safe))
    var = reverse_variance(pred, v_ts, bt_safe, variance)
    mean = c_t * pred.x_t + c_0 * pred.x0
    nats = torch.where(
        expand(first, x0) > 0,
        decoder_nll(x0, mean, var.sqrt(), levels),
        kl(c_t * pred.x_t + c_0 * x0, bt_safe, mean, var),
    )
    return BITS * nats.flatten(1).mean(1)


def prior_term(x0: Tensor, schedule: Schedule) -> Tensor:
    """L_T in bits/dim, (B,): what is left of x_0 at t = 1."""
    alpha, sigma = schedule.alpha_sigma(1.0)
    var = torch.full_like(x0, sigma**2)
    prior = torch.full_like(x0, schedule.prior_std() ** 2)
    nats = kl(alpha * x0, var, torch.zeros_like(x0), prior)
    return BITS * nats.flatten(1).mean(1)
