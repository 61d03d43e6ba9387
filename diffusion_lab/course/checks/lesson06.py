"""Checks of lesson 06."""

from __future__ import annotations

import math
from collections.abc import Callable
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
        lambda score, x, sigma, eps: _loss(score(x + sigma**2 * eps) + eps / sigma): (
            "a variance where the standard deviation belongs: x moves by sigma eps."
        ),
    },
    hint="1/2 |s(x + sigma eps) + eps/sigma|^2, summed over the coordinates of each point.",
    right="no derivative of the network is needed, so it costs as much in any dimension.",
)
def denoising_loss(score: Score, x: Tensor, sigma: float, eps: Tensor) -> Tensor:
    return _loss(score(x + sigma * eps) + eps / sigma)


backward_passes = number(
    64,
    tolerance=0.4,
    slips={
        1: "that is the sliced loss, with one random direction.",
        0: "that is the denoising loss, which needs no derivative of the score at all.",
        4096: "one backward pass gives a whole row of the 64 x 64 Jacobian, not one entry of it.",
        8: "8 x 8 pixels are 64 dimensions.",
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
        lambda x, score, f, g2: 0.5 * (f * x - g2 * score): (
            "only the score's term is halved; the drift stays whole."
        ),
    },
    hint="the factor before g^2 times the score is (1 + c^2)/2: what is it for c = 0?",
    right="half the push of the SDE: the other half is what the noise undoes.",
)
def ode_velocity(x: Tensor, score: Tensor, f: float, g2: float) -> Tensor:
    return f * x - 0.5 * g2 * score


def _moves(g: Generator) -> list[tuple[Any, ...]]:
    x, score, z = randn((3, 4, 2), g)
    return [(x, score, -0.7, 1.4, 0.1, z), (x, score, 0.0, 3.0, 0.02, z)]


@exercise(
    probes=_moves,
    slips={
        lambda x, score, f, g2, h, z: x + (f * x - g2 * score) * h + (g2 * h) ** 0.5 * z: (
            "time runs backwards: from t to t - h the drift is subtracted."
        ),
        lambda x, score, f, g2, h, z: x - (f * x - 0.5 * g2 * score) * h + (g2 * h) ** 0.5 * z: (
            "the factor 1/2 belongs to the ODE; with noise the score's push is whole."
        ),
        lambda x, score, f, g2, h, z: x - (f * x - g2 * score) * h + g2**0.5 * h * z: (
            "noise grows with the root of time: g sqrt(h) z."
        ),
        lambda x, score, f, g2, h, z: x - (f * x - g2 * score) * h + g2 * h**0.5 * z: (
            "g2 is g^2: the noise is g sqrt(h) z."
        ),
        lambda x, score, f, g2, h, z: x - (f * x - g2 * score) * h + g2 * h * z: (
            "g^2 h is the variance of the noise: z is multiplied by its root, g sqrt(h)."
        ),
        lambda x, score, f, g2, h, z: x - (f * x - g2 * score) * h: "the noise is missing.",
        lambda x, score, f, g2, h, z: x - (f * x - g2 * score) * h - (g2 * h) ** 0.5 * z: (
            "with - z the law of the step is equally right; the check compares with + z."
        ),
        lambda x, score, f, g2, h, z: x - (f * x + g2 * score) * h + (g2 * h) ** 0.5 * z: (
            "the sign of the score: backwards in time x is pushed along it, towards the data."
        ),
    },
    hint="dx = [f x - g^2 score] dt + g dw, with dt = -h.",
    right="that is Euler-Maruyama, the simplest sampler of the reverse SDE.",
)
def reverse_step(x: Tensor, score: Tensor, f: float, g2: float, h: float, z: Tensor) -> Tensor:
    return x - (f * x - g2 * score) * h + (g2 * h) ** 0.5 * z


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
    },
    hint="h = x V'/(2V) for Gaussian data, so div h = d V'/(2V): integrate over t.",
    right="the log of how much the flow stretched space: log-determinants, one instant at a time.",
)
def log_stretch(v0: float, v1: float, d: int) -> float:
    return 0.5 * d * math.log(v1 / v0)
