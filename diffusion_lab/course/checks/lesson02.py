"""Checks of lesson 02."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import choice, exercise, judge

EXCESS = 0.09  # bits that ten well-chosen steps may cost above the entropy


def _steps(g: Generator) -> list[tuple[Any, ...]]:
    x0, x_t = torch.randn(2, 5, generator=g, dtype=torch.float64, device="cpu")
    low, high = torch.rand(2, 3, generator=g, dtype=torch.float64, device="cpu").tolist()
    return [(x0, x_t, 0.1 + 0.4 * a, 0.55 + 0.4 * b) for a, b in zip(low, high, strict=True)]


def _posterior(
    x0: Tensor, x_t: Tensor, abar_t: float, abar_s: float, slip: str = ""
) -> tuple[Tensor, float]:
    a = abar_t / abar_s
    beta = 1 - a
    c_0 = (abar_s if slip == "c_0" else math.sqrt(abar_s)) * beta / (1 - abar_t)
    c_t = (a if slip == "c_t" else math.sqrt(a)) * (1 - abar_s) / (1 - abar_t)
    if slip == "no roots":
        c_0, c_t = abar_s * beta / (1 - abar_t), a * (1 - abar_s) / (1 - abar_t)
    if slip == "abar in c_t":
        c_t = math.sqrt(abar_t) * (1 - abar_s) / (1 - abar_t)
    if slip == "swapped":
        x0, x_t = x_t, x0
    var = beta if slip == "beta" else beta * (1 - abar_s) / (1 - abar_t)
    if slip == "std":
        var = math.sqrt(var)
    if slip == "upside down":
        var = beta * (1 - abar_t) / (1 - abar_s)
    if slip == "deterministic":
        c_t, var = math.sqrt((1 - abar_s) / (1 - abar_t)), 0.0
        c_0 = math.sqrt(abar_s) - c_t * math.sqrt(abar_t)
    return c_0 * x0 + c_t * x_t, var


def _slip(name: str) -> Any:
    return lambda x0, x_t, abar_t, abar_s: _posterior(x0, x_t, abar_t, abar_s, name)


@exercise(
    probes=_steps,
    slips={
        _slip("beta"): "the variance is beta, that of the forward step; knowing x0 makes it less.",
        _slip("std"): "a standard deviation is returned where the variance belongs?",
        _slip("c_0"): "abar_s stands where its root belongs, in the weight of x0?",
        _slip("c_t"): "1 - beta stands where its root belongs, in the weight of x_t?",
        _slip(
            "no roots"
        ): "both roots are forgotten: the weight of x0 has root(abar_s), that of x_t "
        "root(1 - beta).",
        _slip("abar in c_t"): "abar_t stands where 1 - beta (of this step alone) belongs?",
        _slip("swapped"): "the two weights are swapped: which belongs to x0?",
        _slip("upside down"): "the ratio of the two noise levels is upside down: going back, the "
        "variance must be less than beta.",
        _slip(
            "deterministic"
        ): "x_s comes out with the right mean and variance, but its covariance "
        "with x_t is not that of the forward step: another way back, not the posterior.",
    },
    hint="with 1 - beta = abar_t/abar_s: two weights, each over 1 - abar_t.",
    right="this is the survey's equation 3, for any two times.",
)
def posterior(x0: Tensor, x_t: Tensor, abar_t: float, abar_s: float) -> tuple[Tensor, float]:
    return _posterior(x0, x_t, abar_t, abar_s)


def _weights(g: Generator) -> list[tuple[Any, ...]]:
    beta, abar, var = torch.rand(3, 4, generator=g, dtype=torch.float64, device="cpu") * 0.8 + 0.1
    return [(beta, abar, var)]


@exercise(
    probes=_weights,
    slips={
        lambda beta, abar, var: beta / (2 * var * (1 - beta) * (1 - abar)): (
            "beta where its square belongs: the error is squared, so is its factor."
        ),
        lambda beta, abar, var: beta**2 / (var * (1 - beta) * (1 - abar)): (
            "a factor 1/2 is missing: it comes with the KL of two Gaussians."
        ),
        lambda beta, abar, var: beta**2 / (2 * var * abar * (1 - abar)): (
            "abar_t stands where 1 - beta_t (the survey's alpha_t, one step) belongs?"
        ),
        lambda beta, abar, var: beta**2 / (2 * var**2 * (1 - beta) * (1 - abar)): (
            "var is already S^2: it enters once."
        ),
        lambda beta, abar, var: beta**2 / (2 * var * (1 - beta)): (
            "the noise level 1 - abar is missing: the mean holds eps times beta/sqrt(1 - abar)."
        ),
        lambda beta, abar, var: beta / ((1 - beta) * (1 - abar)).sqrt(): (
            "that is the factor of eps in the mean itself; square it and divide by 2 S^2."
        ),
        lambda beta, abar, var: beta / ((1 - beta) * (1 - abar)).sqrt() / (2 * var): (
            "2 S^2 is there, but the factor of eps in the mean is not squared."
        ),
        lambda beta, abar, var: beta**2 / (2 * var * (1 - abar)): (
            "1 - beta is missing: the mean as a whole is divided by its root."
        ),
    },
    hint="by how much does the mean move when eps moves by 1? Square it, divide by 2 S^2.",
    right="L_simple replaces this weight by 1 at every t.",
)
def eps_weight(beta: Tensor, abar: Tensor, var: Tensor) -> Tensor:
    return beta**2 / (2 * var * (1 - beta) * (1 - abar))


def _spreads(g: Generator) -> list[tuple[Any, ...]]:
    low, high = torch.rand(2, 3, generator=g, dtype=torch.float64, device="cpu")
    return [(0.3, 0.1 + 0.4 * low, 0.55 + 0.4 * high), (1.5, 0.1 + 0.4 * high, 0.55 + 0.4 * low)]


def _best_weight(error: Any, abar_t: Tensor, abar_s: Tensor, slip: str = "") -> Tensor:
    beta = 1 - abar_t / abar_s
    bt = beta * (1 - abar_s) / (1 - abar_t)
    c_0 = abar_s.sqrt() * beta / (1 - abar_t)
    best = bt + (c_0 if slip == "c_0" else c_0**2) * error
    if slip == "no bt":
        best = c_0**2 * error
    if slip in ("variance", "std"):
        return best if slip == "variance" else best.sqrt()
    if slip == "log":
        return best.log()
    if slip == "no log":
        return (best - bt) / (beta - bt)
    if slip == "other end":
        return (beta / best).log() / (beta / bt).log()
    return (best / bt).log() / (beta / bt).log()


@exercise(
    probes=_spreads,
    slips={
        lambda error, a, b: _best_weight(error, a, b, "no log"): (
            "the variances themselves are interpolated; the network interpolates their logs."
        ),
        lambda error, a, b: _best_weight(error, a, b, "variance"): (
            "that is the best variance S^2 itself; the v that gives it is asked for."
        ),
        lambda error, a, b: _best_weight(error, a, b, "std"): (
            "that is the root of the best S^2; the v that gives S^2 is asked for."
        ),
        lambda error, a, b: _best_weight(error, a, b, "log"): (
            "that is the log of S^2; where does it lie between log beta-tilde and log beta?"
        ),
        lambda error, a, b: _best_weight(error, a, b, "other end"): (
            "that is 1 - v: v = 1 should give beta, v = 0 beta-tilde."
        ),
        lambda error, a, b: _best_weight(error, a, b, "c_0"): (
            "an error of x0 moves the mean by c_0 times as much; its square by c_0^2."
        ),
        lambda error, a, b: _best_weight(error, a, b, "no bt"): (
            "the posterior's own variance beta-tilde is missing from S^2."
        ),
    },
    hint="S^2 = beta-tilde + c_0^2 error; then solve exp(v log beta + (1-v) log beta-tilde) = S^2.",
    right="v* is what the second half of the network has to learn.",
)
def best_weight(error: float, abar_t: Tensor, abar_s: Tensor) -> Tensor:
    return _best_weight(error, abar_t, abar_s)


which_variance = choice(
    "small",
    {
        "small": "near t = 0 the hidden value of such data is certain: what is the variance of "
        "q(x_s | x_t) then?",
        "large": "beta is best for data N(0, 1), where x0 stays uncertain at every t; here, with "
        "little noise, only one of the five values is possible.",
        "equal": "they differ by a factor of 2 at t = 2, and a KL notices.",
    },
    hint="with little noise x0 is known, and q(x_s | x_t) becomes q(x_s | x_t, x0).",
    right="where x0 is certain, the reverse step is the posterior itself.",
)


def _grids(g: Generator) -> list[tuple[Any, ...]]:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100, dtype=torch.float64), 0)
    picked = torch.randperm(90, generator=g, device="cpu")[:5].sort().values + 9
    return [(abar, picked), (abar, torch.tensor([0, 10, 99])), (abar**5, picked)]


def _per_step(abar: Tensor, steps: Tensor) -> Tensor:
    previous = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    return (1 - abar / previous)[steps]


def _kept(abar: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    kept = abar[steps]
    return kept, torch.cat([torch.ones_like(kept[:1]), kept[:-1]])


def _root(abar: Tensor, steps: Tensor) -> Tensor:
    kept, before = _kept(abar, steps)
    return 1 - (kept / before).sqrt()


def _first_lost(abar: Tensor, steps: Tensor) -> Tensor:
    kept = abar[steps]
    return 1 - kept[1:] / kept[:-1]


def _difference(abar: Tensor, steps: Tensor) -> Tensor:
    kept, before = _kept(abar, steps)
    return before - kept


def _from_data(abar: Tensor, steps: Tensor) -> Tensor:
    return 1 - abar[steps]


@exercise(
    probes=_grids,
    bug=_per_step,
    slips={
        _root: "beta is a variance: no root of abar's ratio here.",
        _first_lost: "one beta is missing: the first kept step comes from abar_0 = 1.",
        _difference: "a difference of abar; beta needs their ratio.",
        _from_data: "that is the noise since t = 0, not since the kept step before.",
    },
    hint="beta of a step from s to t is 1 - abar_t/abar_s, and s is now the kept step before t.",
    right="a longer step has its own, larger beta.",
)
def strided_betas(abar: Tensor, steps: Tensor) -> Tensor:
    kept, before = _kept(abar, steps)
    return 1 - kept / before


def points(n: int = 2000) -> tuple[Tensor, Tensor]:
    """n evenly laid (x0, eps) of the toy ``two_class``, (n, 1) each: steadier than random ones."""
    first = torch.arange(n) < 0.3 * n
    count = torch.where(first, 0.3 * n, 0.7 * n).double()
    place = torch.arange(n) - torch.where(first, 0.0, 0.3 * n)
    z = torch.special.ndtri((place.double() + 0.5) / count)
    x0 = torch.where(first, -2 + math.sqrt(0.3) * z, 1 + math.sqrt(0.5) * z)
    golden = (torch.arange(1, n + 1).double() * (math.sqrt(5) - 1) / 2) % 1
    return x0[:, None], torch.special.ndtri(golden)[:, None]


def _unfit(steps: Any) -> str | None:
    """What is wrong with a list of steps, or None."""
    if not isinstance(steps, list | tuple):
        return f"a list of steps such as [1000, 500, 10] is expected, not {steps!r:.60}."
    odd = [i for i in steps if not isinstance(i, int) or isinstance(i, bool)]
    if odd:
        return f"steps are whole numbers; {odd[0]!r:.60} is none."
    if not steps or min(steps) < 1 or max(steps) > 1000:
        return "the steps lie in 1..1000, and there is at least one."
    if len(set(steps)) != len(steps):
        return "each step is taken once: one number stands there twice."
    return None


def excess(steps: list[int]) -> float:
    """Bits of the bound above the entropy for the toy on these of 1000 steps, best variance.

    ValueError, in words, for anything but a list of different whole numbers in 1..1000.
    """
    reason = _unfit(steps)
    if reason:
        raise ValueError(reason)
    from diffusion_lab.bound import bounds
    from diffusion_lab.data import toys
    from diffusion_lab.schedules import linear

    toy = toys.two_class()
    x0, eps = points()
    times = [i / 1000 for i in sorted(steps, reverse=True)] + [0.0]
    found = bounds(
        toy.denoiser(linear(1000)),
        x0,
        times,
        noise=eps,
        variances=("best",),
        levels=None,
        batch=20_000,
    )
    return found["best"].total + toy.log_prob(x0).mean().item() / math.log(2)


@judge(
    hint="small steps where the answer changes most; large ones where nothing is left to decide.",
    right="you have chosen time steps by their bound; lesson 08 does it by dynamic programming.",
)
def ten_steps(steps: Any) -> str | None:
    if not isinstance(steps, list | tuple):
        return f"a list of ten steps is expected, not {steps!r:.60}."
    if reason := _unfit(steps):
        return reason
    if len(steps) != 10:
        return f"ten different whole numbers are asked for, and there are {len(steps)}."
    if max(steps) != 1000:
        return "the first step taken is 1000, where sampling starts."
    found = excess(list(steps))
    if found > EXCESS:
        return f"these steps cost {found:.3f} bits above the entropy, {EXCESS} are allowed."
    return None
