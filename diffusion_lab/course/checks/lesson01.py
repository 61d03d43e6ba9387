"""Checks of lesson 01, destroying data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffusion_lab.course import checks
from diffusion_lab.course.checks import exercise, judge
from diffusion_lab.course.checks.reading import complete
from diffusion_lab.data.toys import two_class
from diffusion_lab.device import randn
from diffusion_lab.metrics import information
from diffusion_lab.schedules import Schedule, Table, cosine, linear, make

SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "sigmoid": partial(make, "sigmoid"),
}


# ------------------------------------------------------------------------------------- one step
def _steps(g: Generator) -> list[tuple[Any, ...]]:
    return [(randn((4, 1, 3, 2), g), beta, randn((4, 1, 3, 2), g)) for beta in (0.1, 0.36)]


@exercise(
    probes=_steps,
    slips={
        lambda x, beta, noise: (1 - beta) * x + beta * noise: (
            "a variance is used where the standard deviation belongs: both roots are missing."
        ),
        lambda x, beta, noise: math.sqrt(1 - beta) * x + beta * noise: (
            "the noise is multiplied by its variance beta, not by its standard deviation."
        ),
        lambda x, beta, noise: (1 - beta) * x + math.sqrt(beta) * noise: (
            "the picture is shrunk by 1 - beta where its root belongs?"
        ),
        lambda x, beta, noise: x + math.sqrt(beta) * noise: (
            "the picture is not shrunk: without that the variance grows at every step."
        ),
        lambda x, beta, noise: math.sqrt(beta) * x + math.sqrt(1 - beta) * noise: (
            "beta and 1 - beta are swapped: a small beta must change the picture little."
        ),
        lambda x, beta, noise: math.sqrt(1 - beta**2) * x + beta * noise: (
            "beta is taken for a standard deviation; in equation 1 it is a variance."
        ),
        lambda x, beta, noise: math.sqrt(1 - beta) * x: (
            "the picture is shrunk, but no noise is added."
        ),
        lambda x, beta, noise: math.sqrt(1 - beta) * x - math.sqrt(beta) * noise: (
            "the noise is subtracted. That has the same distribution, but equation 1 is drawn with "
            "a plus, and the check compares numbers."
        ),
        lambda x, beta, noise: math.sqrt(1 - beta) * x + math.sqrt(beta): (
            "sqrt(beta) is added as it is: it must be multiplied by noise."
        ),
        lambda x, beta, noise: (math.sqrt(1 - beta) * x, math.sqrt(beta) * noise): (
            "these are the two parts of the answer: return their sum."
        ),
        lambda x, beta, noise: math.sqrt(1 - beta) * (x + math.sqrt(beta) * noise): (
            "the noise is shrunk with the picture; it is added after that."
        ),
        lambda x, beta, noise: (1 - math.sqrt(beta)) * x + math.sqrt(beta) * noise: (
            "the picture keeps root(1 - beta), which is not 1 - root(beta)."
        ),
        lambda x, beta, noise: math.sqrt(1 - beta) * (x + noise): (
            "noise gets the factor of the picture; its own is sqrt(beta)."
        ),
    },
    hint="a normal draw is its mean plus its standard deviation times noise, the noise that is "
    "given; beta is a float, so use math.sqrt.",
    right="this is a draw from q(x_t | x_{t-1}), the survey's equation 1.",
)
def one_step(x: Tensor, beta: float, noise: Tensor) -> Tensor:
    """sqrt(1 - beta) x + sqrt(beta) noise."""
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * noise


# ------------------------------------------------------------------------------------- the jump
def _jumps(g: Generator) -> list[tuple[Any, ...]]:
    betas = torch.linspace(0.02, 0.3, 8, dtype=torch.float64)
    x0, eps = (
        torch.randn(3, 1, 2, 2, generator=g, dtype=torch.float64, device="cpu") for _ in range(2)
    )
    return [(x0, betas, i, eps) for i in (1, 2, 5, 8)]


def _one_noise(x0: Tensor, betas: Tensor, i: int, eps: Tensor) -> Tensor:
    x = x0
    for beta in betas[:i]:
        x = (1 - beta).sqrt() * x + beta.sqrt() * eps
    return x


def _jump(x0: Tensor, abar: Tensor, eps: Tensor) -> Tensor:
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps


@exercise(
    probes=_jumps,
    bug=lambda x0, betas, i, eps: _jump(x0, (1 - betas[: i - 1]).prod(), eps),
    slips={
        lambda x0, betas, i, eps: _jump(x0, (1 - betas[: i + 1]).prod(), eps): (
            "this is one factor too many: x_1 has been through beta_1 alone."
        ),
        lambda x0, betas, i, eps: _jump(x0, 1 - betas[i - 1], eps): (
            "this is one step of noise, not i of them: the factors 1 - beta multiply up."
        ),
        lambda x0, betas, i, eps: _jump(x0, (1 - betas[: max(i - 1, 1)]).prod(), eps): (
            "step 1 is right now, but from step 2 on the last factor is still missing."
        ),
        lambda x0, betas, i, eps: _jump(x0, (1 - betas).prod(), eps): (
            "this always jumps to the last step: only beta_1..beta_i have happened by step i."
        ),
        lambda x0, betas, i, eps: _jump(x0, (1 - betas[1 : i + 1]).prod(), eps): (
            "the product starts at beta_2: betas[0] is beta_1."
        ),
        lambda x0, betas, i, eps: (
            (1 - betas[:i]).prod() * x0 + (1 - (1 - betas[:i]).prod()) * eps
        ): "the product is right now, but the roots have gone: abar where its root belongs.",
        lambda x0, betas, i, eps: _jump(x0, (1 - betas[1:i]).prod(), eps): (
            "the product runs from beta_2 to beta_i: betas[0] is beta_1."
        ),
        lambda x0, betas, i, eps: _one_noise(x0, betas, i, eps): (
            "one noise for all steps: then their standard deviations add up. Each step of a chain "
            "has fresh noise, so that their variances add."
        ),
        lambda x0, betas, i, eps: _jump(x0, 1 - betas[:i].sum(), eps): (
            "the betas are added up; it is the factors 1 - beta that multiply up."
        ),
        lambda x0, betas, i, eps: (1 - betas[:i]).prod().sqrt() * x0: (
            "the picture is right, but the noise has gone."
        ),
        lambda x0, betas, i, eps: (
            (1 - betas[:i]).prod().sqrt() * x0 + (1 - betas[:i]).prod().sqrt() * eps
        ): "the noise has the factor of the picture; its own is sqrt(1 - abar).",
    },
    hint="after step 1 the picture must carry noise of variance beta_1: what does the code give?",
    right="abar_i is the product of the first i factors, so step 1 adds noise already.",
)
def repaired_jump(x0: Tensor, betas: Tensor, i: int, eps: Tensor) -> Tensor:
    """x_i from x_0, i = 1..T, where betas[0] is beta_1."""
    return _jump(x0, (1 - betas[:i]).prod(), eps)


# ------------------------------------------------------------------------------------- lambda
def _pair(given: Any) -> Any:
    """(alpha, sigma): two of them stacked in one tensor will do; one that is missing is named."""
    if isinstance(given, Tensor) and given.ndim > 1 and len(given) == 2:
        return tuple(given)
    if isinstance(given, tuple | list) and len(given) == 2:
        missing = [n for n, v in zip(("alpha", "sigma"), given, strict=True) if v in (..., None)]
        if missing:
            raise checks.Untouched(f"{' and '.join(missing)} still to come: fill in the `...`.")
    return given


def _root(x: Tensor) -> Tensor:
    return torch.sigmoid(2 * x).sqrt()


@exercise(
    view=_pair,
    probes=lambda g: [
        (3 * torch.randn(6, generator=g, dtype=torch.float64, device="cpu"),),
        (torch.linspace(-8, 8, 9, dtype=torch.float64),),
    ],
    slips={
        lambda lam: (torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()): (
            "a factor 2 is missing: lambda is log(alpha/sigma), half of log SNR."
        ),
        lambda lam: (torch.sigmoid(2 * lam), torch.sigmoid(-2 * lam)): (
            "these are abar = alpha^2 and sigma^2: take the roots."
        ),
        lambda lam: (lam.exp(), torch.ones_like(lam)): (
            "the ratio is right, but alpha^2 + sigma^2 is not 1: divide both by its root."
        ),
        lambda lam: (torch.ones_like(lam), (-lam).exp()): (
            "this is the VE pair, alpha = 1: the ratio is right, but alpha^2 + sigma^2 is not 1."
        ),
        lambda lam: (torch.sigmoid(-2 * lam).sqrt(), torch.sigmoid(2 * lam).sqrt()): (
            "alpha and sigma are swapped, or the sign of lambda is: large lambda is little noise."
        ),
        lambda lam: (_root(lam), 1 - _root(lam)): (
            "sigma is not 1 - alpha: it is the squares of the two that add up to 1."
        ),
        lambda lam: (torch.sigmoid(lam), torch.sigmoid(-lam)): (
            "these two add up to 1, but it is their squares that must; and lambda is half of "
            "log SNR, so a factor 2 belongs inside."
        ),
        lambda lam: (_root(lam), torch.sigmoid(-2 * lam)): (
            "alpha is right; the second is sigma^2: take its root."
        ),
        lambda lam: (torch.sigmoid(2 * lam), _root(-lam)): (
            "sigma is right; the first is alpha^2: take its root."
        ),
        lambda lam: (_root(lam), _root(lam) * lam.exp()): (
            "alpha is right; but alpha / sigma = exp(lambda), so sigma is alpha divided by it."
        ),
        lambda lam: (lam.exp(), (-lam).exp()): (
            "exp(lambda) is alpha / sigma, the ratio of the two and neither of them."
        ),
        lambda lam: _root(lam): "alpha is right; return sigma too: return alpha, sigma.",
        lambda lam: _root(-lam): "sigma is right; return alpha too: return alpha, sigma.",
        lambda lam: torch.sigmoid(2 * lam): (
            "this is alpha^2: take the root, and return sigma too: return alpha, sigma."
        ),
    },
    hint="how does alpha^2 / (1 - alpha^2) depend on lam? Solve that for alpha^2; lam is a tensor, "
    "so use torch's functions.",
    right="abar is the logistic function of 2 lambda; a VP schedule is nothing but lambda_t.",
)
def from_lambda(lam: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of a variance-preserving process at lambda."""
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()


_HALVED = {
    "a": "alpha and sigma stay, but the picture they act on is half as strong: what is left of "
    "it stands out less from the same noise.",
    "b": "",
    "c": "the SNR falls by a factor 4, but lambda is half of log SNR.",
    "d": "a weaker picture stands out less from the same noise, so it cannot last longer.",
}
"""What is said to each choice."""


@judge(
    hint="where can the factor 1/2 be moved to?",
    right="halving the contrast is halving alpha: lambda falls by log 2, at every t.",
)
def halved(given: Any) -> str | None:
    """One of the letters a, b, c, d; b is right."""
    if isinstance(given, list | tuple | set) and len(given) == 1:
        (given,) = given
    if not isinstance(given, str):
        return (
            'the answer is one letter in quotes, such as "a". What was given is of type '
            f"{type(given).__name__}: without quotes, a and b are names of the notebook that stand "
            "for something else."
        )
    letter = given.strip(" .()*").lower()
    if letter not in _HALVED:
        return (
            f"{given!r} is not one of the options: write one of the letters a, b, c, d in quotes."
        )
    return _HALVED[letter] or None


# ------------------------------------------------------------------------------------- half-lives
@cache
def half_level() -> float:
    """The lambda at which half of the class information of ``two_class`` is left."""
    return _level_of(0.5 * float(information.class_bits(two_class(), 15.0)))


def _level_of(bits: float) -> float:
    return information.level(partial(information.class_bits, two_class()), bits)


def _times(lam: float) -> dict[str, float]:
    return {name: made().t_of_lam(lam) for name, made in SCHEDULES.items()}


def _near(given: Mapping[str, float], wanted: Mapping[str, float], tolerance: float) -> bool:
    return all(abs(given[name] - wanted[name]) <= tolerance for name in wanted)


@judge(
    hint="find the lambda at which class_bits has fallen to half of what it is without noise; "
    "then ask each schedule for its t_of_lam.",
    right="one lambda, three times: the schedules differ only in when they get there.",
)
def half_times(given: Any) -> str | None:
    if not isinstance(given, Mapping):
        return f"a dictionary from schedule to time is expected, not a {type(given).__name__}."
    unknown = [str(name) for name in given if name not in SCHEDULES]
    if unknown:
        return f"{', '.join(unknown)}: the schedules are called {', '.join(SCHEDULES)}."
    open_ = [name for name in SCHEDULES if given.get(name) in (..., None)]
    if len(open_) == len(SCHEDULES):
        raise checks.Untouched("replace the `...` above with the three times.")
    if open_:
        what = "times are" if len(open_) > 1 else "time is"
        return f"{what} still missing for {' and '.join(open_)}."
    found = {}
    for name in SCHEDULES:
        try:
            found[name] = float(given[name])
        except (TypeError, ValueError, RuntimeError):
            kind = type(given[name]).__name__
            return f"the time of the {name} schedule should be a number, but it is a {kind}."
    if _near(found, _times(half_level()), 0.002):
        return None
    if any(not 0 <= t <= 1 for t in found.values()):
        return "a time lies outside [0, 1]: is it a step number, to be divided by T, or a lambda?"
    entropy = -sum(w * math.log2(w) for w in two_class().weights.tolist())
    if _near(found, _times(_level_of(0.5 * entropy)), 0.002):
        return (
            "this is half of the entropy of the class. The two bumps overlap, so that x_0 itself "
            "does not tell all of it: halve what is known without noise."
        )
    if _near(found, _times(_level_of(0.5)), 0.002):
        return (
            "this is where half a bit is left. Without noise less than one bit is known, since the "
            "classes are not equally frequent and overlap: halve class_bits(toy, 15.0)."
        )
    if _near(found, _times(half_level()), 0.0055):
        return "nearly: these look rounded. Give the times as t_of_lam returns them."
    if _near(found, _times(0.0), 0.002):
        return "this is where the SNR is 1, which need not be where half of the class is forgotten."
    if max(found.values()) - min(found.values()) < 0.002:
        return "the lambda is the same under all schedules, but the times are not."
    wanted = _times(half_level())
    name = max(wanted, key=lambda name: abs(found[name] - wanted[name]))
    side = "late" if found[name] > wanted[name] else "early"
    return f"t = {found[name]:.3f} is too {side} for the {name} schedule."


# ------------------------------------------------------------------------------------- your own
SHARES = (0.75, 0.5, 0.25)  # of the class bits, left at the times 0.25, 0.5, 0.75


def marks(shares: Iterable[float] = SHARES) -> list[float]:
    """The lambdas at which these shares of the toy's class bits are left."""
    whole = float(information.class_bits(two_class(), 15.0))
    return [_level_of(float(left) * whole) for left in shares]


def our_betas(T: int) -> Tensor:
    """What the lesson draws until the exercise is right."""
    left = np.linspace(0.98, 0.02, 25)
    levels = marks(left)
    points = [levels[0] + 5, *levels, levels[-1] - 5]
    lam = np.interp(np.arange(1, T + 1) / T, [0, *(1 - left), 1], points)
    abar = torch.sigmoid(2 * torch.from_numpy(lam))
    return 1 - abar / _before(abar)


@judge(
    hint="lambda first, at each of the T steps: it passes the three marks at their times. Then "
    "abar, then beta.",
    right="a clock that runs evenly on the toy: a schedule is lambda over time, whatever its name.",
)
def my_betas(given: Any, seed: int) -> str | None:
    if not callable(given):
        return f"a function of T is expected, but a {type(given).__name__} was given."
    for steps in (200, 60 + 10 * seed):
        try:
            value = given(steps)
        except Exception as error:
            if "ellipsis" in str(error).lower():
                raise checks.Untouched("a `...` is still left in your function.") from None
            return f"called with T = {steps} it raised {type(error).__name__}: {error}."
        if value is None and complete(given):
            return checks.NO_RETURN
        if value is ... or value is None:
            raise checks.Untouched(checks.EMPTY)
        try:
            betas = torch.as_tensor(value, dtype=torch.float64).detach()
        except (TypeError, ValueError, RuntimeError):
            return f"a tensor of betas should come back, but a {type(value).__name__} did."
        reason = _faults(betas, steps)
        if reason:
            return reason
    return None


def _faults(betas: Tensor, steps: int) -> str | None:
    if betas.shape != (steps,):
        more = " abar_0 = 1 is no step." if betas.shape == (steps + 1,) else ""
        if betas.shape == (200,):
            more = " It must follow T."
        return f"{steps} betas are expected, but the shape is {tuple(betas.shape)}.{more}"
    if not bool(torch.isfinite(betas).all()):
        return "some betas are not finite."
    if bool((torch.diff(betas) < 0).all()) and float(betas[0]) > 0.9:
        return "these numbers fall from almost 1 to almost 0: did you return abar, not beta?"
    if not bool(((betas > 0) & (betas <= 1)).all()):
        return (
            f"every beta must lie in (0, 1]; yours go from {float(betas.min()):.3g} to "
            f"{float(betas.max()):.3g}. Does abar fall at every step?"
        )
    schedule = Table(betas)
    if schedule.abar[1] < 0.95:
        return f"the first step must be gentle, abar_1 >= 0.95; yours is {schedule.abar[1]:.3f}."
    if schedule.abar[-1] > 1e-4:
        end = f"abar_T is {schedule.abar[-1]:.2g}, not below 1e-4."
        return _misread(schedule) or f"too much is left at the end: {end}"
    if reason := _off_the_marks(schedule):
        falls = bool((torch.diff(betas) > 0).all())
        if falls and not _off_the_marks(Table(1 - (1 - betas) / _before(1 - betas))):
            return "is it 1 - abar_t, where 1 - abar_t/abar_{t-1} belongs?"
        return _misread(schedule) or reason
    return None


def _misread(schedule: Schedule) -> str | None:
    """Whether the clock is even once abar is made from lambda without the slip."""
    abar = torch.tensor(schedule.abar[1:], dtype=torch.float64)
    if not bool((abar > 1e-100).all()):
        return None
    logistic = abar**2 / (abar**2 + (1 - abar) ** 2)
    if not _off_the_marks(Table(1 - logistic / _before(logistic))):
        return "abar is the logistic function of 2 lambda, not of lambda."
    if not _off_the_marks(Table(1 - abar**2 / _before(abar**2))):
        return "alpha stands where abar = alpha^2 belongs."
    return None


def _before(abar: Tensor) -> Tensor:
    return torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])


def _off_the_marks(schedule: Schedule) -> str | None:
    """Which of the three marks is passed at another time, and on which side."""
    for left, lam in zip(SHARES, marks(), strict=True):
        t = schedule.t_of_lam(lam)
        if abs(t - (1 - left)) > 0.03:
            word = (
                "too early: noise comes too fast"
                if t < 1 - left
                else "too late: noise comes too slowly"
            )
            return (
                f"{left:.0%} of the class bits are left at t = {t:.2f}, not {1 - left:g}; {word}."
            )
    return None
