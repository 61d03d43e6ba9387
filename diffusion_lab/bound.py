"""The variational bound, term by term, in bits per dimension (the survey's eqs 3 to 6).

-log p(x_0) <= E_q[ L_T + sum_{t >= 2} L_{t-1} + L_0 ],   x_t ~ q(x_t | x_0)
L_T     = KL( q(x_T | x_0) || N(0, I) ),  N(0, sigma_T^2 I) where the process is not VP
L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ),   both Gaussian
L_0     = -log p(x_0 | x_1),  the Gaussian p integrated over the bin of each pixel value.

``bounds`` computes all terms on any grid of times, ``TimesByLoss`` draws training times so that the
bound can be trained on one term a picture (Nichol & Dhariwal 2021, 2102.09672).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser, Prediction, expand
from diffusion_lab.device import check_generator, randn, rows_of
from diffusion_lab.errors import unknown
from diffusion_lab.forward import VARIANCES, best_variance, posterior, reverse_variance
from diffusion_lab.schedules import Schedule

__all__ = ["Bound", "TimesByLoss", "bounds", "decoder_nll", "kl", "prior_term", "vlb_term"]

BITS = 1 / math.log(2)


def kl(mean_p: Tensor, var_p: Tensor, mean_q: Tensor, var_q: Tensor) -> Tensor:
    """KL( N(mean_p, var_p) || N(mean_q, var_q) ) in nats, element by element."""
    return 0.5 * ((var_q / var_p).log() + (var_p + (mean_p - mean_q) ** 2) / var_q - 1)


def decoder_nll(x0: Tensor, mean: Tensor, std: Tensor, levels: int) -> Tensor:
    """-log of N(mean, std^2) integrated over the bin of each value of x0, in nats, elementwise.

    x0 has ``levels`` equally spaced values in [-1, 1]; bins are 2/(levels-1) wide, and the outer
    ones reach to infinity. The bins' probabilities sum to 1, but none is taken as less than 1e-12
    (27.6 nats), as in the papers' code: where that is met, the sum of all terms is no bound.
    """
    if levels < 2:
        raise ValueError(f"data have at least 2 levels; got {levels}")
    if std.device.type == "cpu" and not bool((std >= 0).all()):
        raise ValueError(f"the decoder's std must be >= 0; the smallest is {std.min():g}")
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
    above: Tensor | None = None,
    variance: str | Tensor = "learned",
    levels: int | None = 256,
) -> Tensor:
    """One term of the bound in bits/dim, (B,): the KL at (t, s), or the decoder where s = 0.

    t and s are (B,) times; by default s = t - 1/T on the schedule's own grid. The decoder's own
    posterior variance is 0; it borrows that of the step before it in the walk, from ``above`` to t
    (by default from t + 1/T where s is left out too; with s given, (B,) times, read where s = 0).
    Where above = t there is no such step, and V_ts stands in.

    Args:
        variance: one of ``VARIANCES``, or S^2 itself, (B,).
        levels: values of x0 in [-1, 1]; None takes x0 as continuous, L_0 = -log of the density.
    """
    if s is None:
        if schedule.T is None:
            raise ValueError("give s, or use a schedule on T steps")
        s, above = t - 1 / schedule.T, (t + 1 / schedule.T).clamp(max=1.0)
    s = torch.where(s < 1e-9, 0.0, s)
    first = s == 0
    if above is None:
        if first.any():
            raise ValueError(
                "the decoder step (s = 0) borrows the variance of the step before it: give "
                "above=..., the time that the walk came from, or use bounds()"
            )
        above = t
    c_t, c_0, bt, v_ts = posterior(schedule, t, s)
    bt_above = posterior(schedule, above, t).var
    bt_safe = torch.where(first, torch.where(above > t, bt_above, v_ts), bt)
    c_t, c_0, v_ts, bt_safe = (expand(c, x0) for c in (c_t, c_0, v_ts, bt_safe))
    if isinstance(variance, str):
        var = reverse_variance(pred, v_ts, bt_safe, variance)
    else:
        var = expand(variance, x0)
    mean = c_t * pred.x_t + c_0 * pred.x0
    if levels is None:
        decoder = 0.5 * ((2 * math.pi * var).log() + (x0 - mean) ** 2 / var)
    else:
        decoder = decoder_nll(x0, mean, var.sqrt(), levels)
    nats = torch.where(
        expand(first, x0) > 0, decoder, kl(c_t * pred.x_t + c_0 * x0, bt_safe, mean, var)
    )
    return BITS * nats.flatten(1).mean(1)


def prior_term(x0: Tensor, schedule: Schedule, t: float = 1.0) -> Tensor:
    """L_T in bits/dim, (B,): what is left of x_0 at the time t where sampling starts."""
    alpha, sigma = schedule.alpha_sigma(t)
    var = torch.full_like(x0, sigma**2)
    prior = torch.full_like(x0, schedule.prior_std(t) ** 2)
    nats = kl(alpha * x0, var, torch.zeros_like(x0), prior)
    return BITS * nats.flatten(1).mean(1)


# ---- the whole bound ----------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Bound:
    """The bound of N data on a grid of K steps, in bits/dim.

    times   t_1 > ... > t_K > 0, where the denoiser was asked
    table   (K, N) float64, every term of every datum; the last row is the decoder's
    prior   (N,) float64, L_T
    error   (K,) float64, mean of |x_0 - x0_hat|^2 per dimension at each time
    """

    times: list[float]
    table: Tensor
    prior: Tensor
    error: Tensor

    @property
    def terms(self) -> Tensor:
        """(K,) the mean of each term over the data."""
        return self.table.mean(1)

    @property
    def each(self) -> Tensor:
        """(N,) the whole bound of each datum."""
        return self.prior + self.table.sum(0)

    @property
    def total(self) -> float:
        """The bound: mean over the data of L_T, all KLs and the decoder."""
        return self.each.mean().item()

    @property
    def parts(self) -> dict[str, float]:
        """L_T, the sum of the KLs, and the decoder; they add up to ``total``."""
        terms = self.terms
        steps, decoder = terms[:-1].sum().item(), terms[-1].item()
        return {"prior": self.prior.mean().item(), "steps": steps, "decoder": decoder}


@torch.no_grad()
def bounds(
    denoiser: Denoiser,
    x0: Tensor,
    times: Sequence[float] | None = None,
    *,
    noise: torch.Generator | Tensor,
    variances: Sequence[str] = VARIANCES[:2],
    levels: int | None = 256,
    batch: int = 512,
    **condition: Any,
) -> dict[str, Bound]:
    """The whole bound on a grid, for several reverse variances from the same network calls.

    Args:
        denoiser: asked once for every datum at every time of the grid.
        x0: (N, ...) data.
        times: a falling grid that ends at 0, as ``grid`` gives it; by default the schedule's own
            T steps. On a sub-grid every coefficient, and what a learned weight stands between,
            is that of the sub-grid's steps.
        noise: a CPU generator (fresh noise at every time), or eps itself like x0 (the same at
            every time).
        variances: names among ``VARIANCES``, and "best": ``best_variance`` with the error on
            these very data (one number a time, so hardly flattered by it).
        levels: number of values of x0 in [-1, 1]; None for continuous data.
        batch: data in one call of the denoiser.
        **condition: for the denoiser; tensors (N, ...) go with their data, such as label.
    """
    schedule = denoiser.schedule
    if times is None:
        if schedule.T is None:
            raise ValueError("give times, or use a schedule on T steps")
        times = [i / schedule.T for i in range(schedule.T, -1, -1)]
    times = [float(t) for t in times]
    if len(times) < 2 or times[-1] != 0 or not all(a > b for a, b in itertools.pairwise(times)):
        raise ValueError(f"times must fall and end at 0, as in [1.0, 0.5, 0.0]; got {times[:5]}")
    for name in variances:
        if name not in (*VARIANCES, "best"):
            raise unknown("variance", name, (*VARIANCES, "best"))
    if levels is not None and bool((x0.abs() > 1 + 1e-3).any()):
        raise ValueError(
            f"pictures of {levels} levels lie in [-1, 1]; got values from {x0.min():g} to "
            f"{x0.max():g} (levels=None for continuous data)"
        )
    if not isinstance(noise, Tensor):
        check_generator(noise)
    n, asked = len(x0), times[:-1]
    tables: dict[str, list[Tensor]] = {name: [] for name in variances}
    errors = []
    group = max(1, batch // n)
    for start in range(0, len(asked), group):
        now = range(start, min(start + group, len(asked)))
        t, s, above = (
            torch.tensor([times[max(i + k, 0)] for i in now], dtype=torch.float64, device="cpu")
            .repeat_interleave(n)
            .to(x0.device)
            for k in (0, 1, -1)
        )
        every = x0.repeat(len(now), *(1,) * (x0.ndim - 1))
        eps = _noise(noise, x0, len(now))
        alpha, sigma = (expand(c, every) for c in schedule.alpha_sigma(t))
        x_t = alpha * every + sigma * eps
        again = torch.arange(n, device=x0.device).repeat(len(now))
        pred = _asked(denoiser, x_t, t, batch, rows_of(condition, again, n))
        every = every.to(pred.x0.dtype)
        error = (every - pred.x0).double().square().reshape(len(now), -1).mean(1)
        errors.append(error)
        for name, table in tables.items():
            chosen: str | Tensor = name
            if name == "best":
                chosen = best_variance(schedule, t, s, error.repeat_interleave(n))
            term = vlb_term(
                pred, every, schedule, t, s, above=above, variance=chosen, levels=levels
            )
            table.append(term.double().reshape(len(now), n))
    prior, error = prior_term(x0.to(every.dtype), schedule, times[0]).double(), torch.cat(errors)
    return {k: Bound(asked, torch.cat(rows), prior, error) for k, rows in tables.items()}


def _noise(noise: torch.Generator | Tensor, x0: Tensor, copies: int) -> Tensor:
    if isinstance(noise, Tensor):
        if noise.shape != x0.shape:
            raise ValueError(f"noise must be like x0, {tuple(x0.shape)}; got {tuple(noise.shape)}")
        return noise.repeat(copies, *(1,) * (x0.ndim - 1))
    return randn((copies * len(x0), *x0.shape[1:]), noise, x0, x0.dtype)


def _asked(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, batch: int, condition: dict[str, Any]
) -> Prediction:
    """The denoiser's x_0 (and variance) at all of x_t, ``batch`` at a time, in float32 at least."""
    found = []
    for i in range(0, len(x_t), batch):
        part = slice(i, i + batch)
        p = denoiser(x_t[part], t[part], **rows_of(condition, part, len(x_t)))
        found.append((p.x0, p.var_weight))
    x0, weight = zip(*found, strict=True)
    wide = torch.promote_types(x_t.dtype, torch.float32)  # KLs of half precision would be noise
    x_t = x_t.to(wide)
    together = None if weight[0] is None else torch.cat(weight).to(wide)
    return Prediction(
        x_t, *denoiser.levels(t, x_t), torch.cat(x0).to(wide), "x0", var_weight=together
    )


# ---- which term to train on ---------------------------------------------------------------------
class TimesByLoss:
    """Draws steps i of 1..T with p_i ~ sqrt(E[L_i^2]), which makes L_i / p_i vary least.

    E is taken over the last ``keep`` losses seen at i; until every step has as many, the draw is
    uniform; a share ``uniform`` of it always is (2102.09672, section 3.3). Weighted by 1/(T p_i),
    the mean of the losses has the same expectation as with uniform steps.
    """

    def __init__(self, T: int, *, keep: int = 10, uniform: float = 0.001) -> None:
        if T < 1 or keep < 1:
            raise ValueError(f"T and keep must be >= 1; got {T} and {keep}")
        if not 0 < uniform <= 1:
            raise ValueError(f"the uniform share must lie in (0, 1]; got {uniform}")
        self.T, self.keep, self.uniform = T, keep, uniform
        self.seen = [deque[float](maxlen=keep) for _ in range(T)]

    @property
    def ready(self) -> bool:
        """Whether every step has been seen ``keep`` times."""
        return all(len(losses) == self.keep for losses in self.seen)

    def probabilities(self) -> Tensor:
        """(T,) float64, p_1..p_T."""
        flat = torch.full((self.T,), 1 / self.T, dtype=torch.float64, device="cpu")
        if not self.ready:
            return flat
        size = torch.tensor([list(x) for x in self.seen], dtype=torch.float64, device="cpu")
        size = size.square().mean(1).sqrt()
        if size.sum() == 0:
            return flat
        return (1 - self.uniform) * size / size.sum() + self.uniform * flat

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n times i/T and the weights 1/(T p_i) of their losses, (n,) float64 each."""
        p = self.probabilities()
        i = torch.multinomial(p, n, replacement=True, generator=generator)
        return (i + 1).double() / self.T, 1 / (self.T * p[i])

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses (n,), not yet weighted, found at the times t (n,)."""
        if t.shape != losses.shape or t.ndim != 1:
            raise ValueError(
                f"t and losses must both be (n,); got {tuple(t.shape)} and {tuple(losses.shape)}"
            )
        steps = (t * self.T).round().long().tolist()
        for i, loss in zip(steps, losses.detach().tolist(), strict=True):
            self.seen[i - 1].append(loss)
