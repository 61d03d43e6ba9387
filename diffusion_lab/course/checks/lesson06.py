"""Checks of lesson 06."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import exercise, number
from diffusion_lab.device import randn

Score = Callable[[Tensor], Tensor]


def _noisy(g: Generator) -> list[tuple[Any, ...]]:
    x, eps = randn((2, 5, 3), g)
    w = randn((3, 3), g)
    return [
        (lambda y: torch.tanh(y @ w), x, 0.4, eps),
        (lambda y: -y / 2, x, 1.7, eps),
    ]


def _loss(error: Tensor) -> Tensor:
    return 0.5 * error.square().sum(1)


@exercise(
    probes=_noisy,
    slips={
        lambda score, x, sigma, eps: _loss(score(x + sigma * eps) - eps / sigma): (
            "the score points back to the data: its target is minus eps/sigma."
        ),
        lambda score, x, sigma, eps: _loss(score(x + sigma * eps) + eps): (
            "the target is eps divided by sigma: the score of little noise is long."
        ),
        lambda score, x, sigma, eps: _loss(score(x + sigma * eps) + eps / sigma**2): (
            "sigma enters once: -(x_t - x)/sigma^2 is -eps/sigma."
        ),
        lambda score, x, sigma, eps: _loss(score(x) + eps / sigma): (
            "the score is asked at the clean x; it should be asked where the noise has moved it."
        ),
        lambda score, x, sigma, eps: 2 * _loss(score(x + sigma * eps) + eps / sigma): (
            "the factor 1/2 is missing."
        ),
        lambda score, x, sigma, eps: 0.5 * (score(x + sigma * eps) + eps / sigma).norm(dim=1): (
            "the length is squared: |.|^2 is the sum of the squares, without a root."
        ),
        lambda score, x, sigma, eps: _loss(score(x + sigma**2 * eps) + eps / sigma): (
            "a variance where the standard deviation belongs: x moves by sigma eps."
        ),
    },
    hint="the network is asked at the noisy point, and its target is the score of the "
    "noise that was added.",
    right="no derivative of the network is needed, so it costs as much in any dimension.",
)
def denoising_loss(score: Score, x: Tensor, sigma: float, eps: Tensor) -> Tensor:
    return _loss(score(x + sigma * eps) + eps / sigma)


backward_passes = number(
    64,
    tolerance=1e-9,
    slips={
        1: "that is the sliced loss, with one random direction.",
        0: "that is the denoising loss, which needs no derivative of the score at all.",
        4096: "one backward pass gives a whole row of the 64 x 64 Jacobian, not one entry of it.",
        8: "8 x 8 pixels are 64 dimensions.",
        65: "the divergence alone is asked for, without the pass that trains the network.",
        128: "one a dimension, not two: only the diagonal of the Jacobian is summed.",
    },
    hint="the divergence sums d s_i / d x_i over all dimensions i.",
    right="one for each dimension; a photograph has hundreds of thousands.",
)


def _states(g: Generator) -> list[tuple[Any, ...]]:
    x, score = randn((2, 4, 2), g)
    return [(x, score, -0.7, 1.4), (x, score, 0.0, 3.0)]


@exercise(
    probes=_states,
    bug=lambda x, score, f, g2: f * x - g2 * score,
    slips={
        lambda x, score, f, g2: f * x + 0.5 * g2 * score: (
            "the sign of the score: forward in time the ODE flows away from the data."
        ),
        lambda x, score, f, g2: f * x - 0.5 * g2**0.5 * score: "g enters squared, and g2 is g^2.",
        lambda x, score, f, g2: f * x - 0.5 * g2**2 * score: "g2 is g^2 already.",
        lambda x, score, f, g2: 0.5 * (f * x - g2 * score): (
            "only the score's term is halved; the drift stays whole."
        ),
    },
    hint="noise of strength g smooths by g^2/2: which drift along the score does the same?",
    right="half the push of the SDE: the other half is what the noise undoes.",
)
def ode_velocity(x: Tensor, score: Tensor, f: float, g2: float) -> Tensor:
    return f * x - 0.5 * g2 * score


Draw = Callable[[Tensor], Tensor]
Loop = Callable[..., Tensor]


def _lengths(y: Tensor) -> Tensor:
    return y.norm(dim=1).mean()


def _pc(
    score: Callable[[Tensor, float], Tensor],
    x: Tensor,
    sigmas: list[float],
    r: float,
    draw: Draw,
    *,
    kappa: Callable[[float, float], float] = lambda t, s: s / t,
    size: Callable[[float, Tensor, Tensor], Any] = lambda r, z, s: (
        2 * (r * _lengths(z) / _lengths(s)) ** 2
    ),
    at: Callable[[float, float], float] = lambda t, s: s,
    spread: Callable[[Any], Any] = lambda a: (2 * a) ** 0.5,
    last: bool = True,
    times: int = 1,
    again: bool = True,
) -> Tensor:
    """The loop, with a knob for each slip; as it stands it is right."""
    for t, s in pairwise(sigmas):
        v = t * t - s * s
        slope = score(x, t)
        x = x + v * slope + kappa(t, s) * v**0.5 * draw(x)
        for _ in range(times):
            slope = score(x, at(t, s)) if again else slope
            z = draw(x)
            a = size(r, z, slope)
            x = x + a * slope + spread(a) * z
    return x + sigmas[-1] ** 2 * score(x, sigmas[-1]) if last else x


def reference_pc(
    score: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: list[float], r: float, draw: Draw
) -> Tensor:
    """Ancestral predictor and one Langevin corrector at each level, VE; x is (B, d)."""
    return _pc(score, x, sigmas, r, draw)


def _levels_down(g: Generator) -> list[tuple[Any, ...]]:
    def draw_from(noises: Iterator[Tensor]) -> Draw:
        return lambda x: next(noises)

    found = []
    for sigmas, r in (([5.0, 3.0, 1.0], 0.2), ([2.0, 1.0, 0.5, 0.2], 0.4)):
        x, *noises = randn((12, 6, 2), g)  # more than the loop needs: asking twice is no crash
        found.append((_bent, sigmas[0] * x, sigmas, r, draw_from(iter(noises))))
    return found


def _bent(x: Tensor, sigma: float) -> Tensor:
    return (torch.tanh(x) - x) / (1 + sigma**2)


def _slip(**knobs: Any) -> Loop:
    return partial(_pc, **knobs)


pc_loop = exercise(
    probes=_levels_down,
    slips={
        _slip(kappa=lambda t, s: 1.0): (
            "the predictor's noise is that of reverse diffusion: the ancestral step has "
            "sigma_s/sigma_t times as much."
        ),
        _slip(kappa=lambda t, s: (s / t) ** 2): (
            "the root of V sigma_s^2/sigma_t^2 is sigma_s/sigma_t times the root of V."
        ),
        _slip(kappa=lambda t, s: t / s): "sigma_t/sigma_s is upside down: less noise, not more.",
        _slip(kappa=lambda t, s: 0.0): "the predictor's noise is missing.",
        _slip(again=False): (
            "the corrector uses the predictor's score: ask anew, at the point just reached."
        ),
        _slip(at=lambda t, s: t): (
            "the corrector is asked at the old level: after the predictor x is at sigma_s."
        ),
        _slip(size=lambda r, z, s: (r * _lengths(z) / _lengths(s)) ** 2): (
            "the factor 2 of the step length a is missing."
        ),
        _slip(size=lambda r, z, s: 2 * r * _lengths(z) / _lengths(s)): (
            "r and the ratio of the lengths are squared in a."
        ),
        _slip(size=lambda r, z, s: 2 * (r * _lengths(s) / _lengths(z)) ** 2): (
            "the ratio is upside down: a long score needs a short step."
        ),
        _slip(size=lambda r, z, s: 2 * (r * z.norm() / s.norm()) ** 2): (
            "bars are means of the lengths of the rows: norm(dim=1).mean(), not one norm of all."
        ),
        _slip(size=lambda r, z, s: 2 * (r * z.norm(dim=1) / s.norm(dim=1))[:, None] ** 2): (
            "a is one number for the batch: take means of the lengths, not each row's own."
        ),
        _slip(spread=lambda a: a**0.5): "the corrector's noise is the root of 2a, not of a.",
        _slip(spread=lambda a: 2 * a): "the corrector's noise is the root of 2a.",
        _slip(times=0): "the corrector is missing: that is the predictor alone.",
        _slip(last=False): "at the end the best guess is asked for: x + sigma^2 score, once more.",
    },
    hint="for each pair of levels predict with V = sigma_t^2 - sigma_s^2, then correct at sigma_s.",
    right="that is the sampler of the score SDE paper, in ten lines.",
)(reference_pc)


@exercise(
    probes=lambda g: [(0.25, 1.0, 1), (0.04, 9.0, 3), (2.0, 1.0, 64)],
    slips={
        lambda v0, v1, d: -0.5 * d * math.log(v1 / v0): (
            "the sign: where the flow spreads points out (div h > 0) the integral is positive."
        ),
        lambda v0, v1, d: d * math.log(v1 / v0): (
            "lengths grow by the root of the ratio of variances: a factor 1/2 is missing."
        ),
        lambda v0, v1, d: 0.5 * math.log(v1 / v0): "all d coordinates are stretched, not one.",
        lambda v0, v1, d: 0.5 * d * (v1 - v0): "div h is V'/(2V), whose integral is a log.",
        lambda v0, v1, d: 0.5 * d * v1 / v0: "the log is missing.",
        lambda v0, v1, d: 0.5 * d * math.log2(v1 / v0): "nats are asked for: the natural log.",
    },
    hint="h = x V'/(2V) for Gaussian data, so div h = d V'/(2V): integrate over t.",
    right="the log of how much the flow stretched space: log-determinants, one instant at a time.",
)
def log_stretch(v0: float, v1: float, d: int) -> float:
    return 0.5 * d * math.log(v1 / v0)
