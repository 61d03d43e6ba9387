"""Checks of lesson 03."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import exercise, judge, number
from diffusion_lab.device import randn

FLOP_BUDGET = 26.2e6  # about half of the lesson's network
FEWEST_PARAMETERS = 200_000

price_of_an_error = number(
    2.0,
    tolerance=0.01,
    slips={
        0.1: "that is the error of a network that predicts x0 itself, whose b is 1.",
        0.07: "that is nearly the EDM network's error, sd times 0.1; here the output is eps.",
        0.005: "the error is multiplied by sigma/alpha, not divided.",
        40.0: "sigma enters once, not squared: that is the score's b.",
    },
    hint="x0 = a x_t + b out: an error of the output arrives in x0 multiplied by |b|.",
    right="b = -sigma/alpha = -20: at high noise a small slip of an eps network ruins x0.",
)


def _levels(g: Generator) -> list[tuple[Any, ...]]:
    sigma = torch.rand(3, generator=g, dtype=torch.float32, device="cpu") * 3 + 0.1
    return [(float(s), sd) for s, sd in zip(sigma, (0.5, 0.7, 1.4), strict=True)]


@exercise(
    probes=_levels,
    slips={
        lambda s, sd: (
            s**2 / (s**2 + sd**2),
            s * sd / (s**2 + sd**2) ** 0.5,
            (s**2 + sd**2) ** -0.5,
        ): ("c_skip is the share of the noise; without noise the picture should pass whole."),
        lambda s, sd: (sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2), (s**2 + sd**2) ** -0.5): (
            "c_out lacks a square root: it is a standard deviation, not a variance?"
        ),
        lambda s, sd: (
            sd**2 / (s**2 + sd**2),
            s * sd / (s**2 + sd**2) ** 0.5,
            1 / (s**2 + sd**2),
        ): ("c_in divides by the variance where the standard deviation belongs?"),
        lambda s, sd: (sd / (s + sd), s * sd / (s**2 + sd**2) ** 0.5, (s**2 + sd**2) ** -0.5): (
            "c_skip weighs standard deviations where variances belong?"
        ),
        lambda s, sd: (1 / (s**2 + 1), s / (s**2 + 1) ** 0.5, (s**2 + 1) ** -0.5): (
            "the data's standard deviation sd is taken as 1 (those are the scalings of v)."
        ),
        lambda s, sd: (sd**2 / (s**2 + sd**2), s / (s**2 + sd**2) ** 0.5, (s**2 + sd**2) ** -0.5): (
            "c_out lacks a factor sd: at high noise the target is the picture, of size sd."
        ),
    },
    hint="return (c_skip, c_out, c_in), as in the three wishes above.",
    right="input and target have variance 1 at every noise level.",
)
def edm_scalings(sigma: float, sd: float) -> tuple[float, float, float]:
    var = sigma**2 + sd**2
    return sd**2 / var, sigma * sd / var**0.5, var**-0.5


def _vp(g: Generator) -> list[tuple[Any, ...]]:
    abar = torch.rand(5, generator=g, dtype=torch.float64, device="cpu") * 0.9 + 0.05
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    return [(alpha, sigma, 1.0, 1.0), (alpha, sigma, 1.0, 0.5), (alpha, sigma, 2.0, 1.0)]


@exercise(
    probes=_vp,
    slips={
        lambda alpha, sigma, k, gamma: (k + (alpha / sigma) ** 2) ** -gamma: (
            "that is the weight on eps, P2's own; an error of v is another number."
        ),
        lambda alpha, sigma, k, gamma: (alpha / sigma) ** 2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "that is the weight on x0."
        ),
        lambda alpha, sigma, k, gamma: sigma**2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "|d x0|^2 = sigma^2 |d v|^2 turns a weight on x0 into one on v; P2 starts from eps."
        ),
        lambda alpha, sigma, k, gamma: sigma**-2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "that is the factor for |d v|^2 = |d x0|^2 / sigma^2; P2 starts from eps, and "
            "|d eps|^2 = SNR |d x0|^2."
        ),
        lambda alpha, sigma, k, gamma: alpha**-2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "the factor is upside down: is |d eps|^2 = alpha^2 |d v|^2?"
        ),
        lambda alpha, sigma, k, gamma: alpha**2 / (k + alpha / sigma) ** gamma: (
            "SNR is (alpha/sigma)^2; here its root stands."
        ),
        lambda alpha, sigma, k, gamma: alpha**2 * (k + (alpha / sigma) ** 2) ** gamma: (
            "P2 divides by (k + SNR)^gamma."
        ),
        lambda alpha, sigma, k, gamma: alpha / (k + (alpha / sigma) ** 2) ** gamma: (
            "alpha where its square belongs: the loss is of squared errors."
        ),
    },
    hint="w_v |d v|^2 must equal w_eps |d eps|^2 for the same error.",
    right="for k = gamma = 1 it is alpha^2 sigma^2: nothing at both ends, most in the middle.",
)
def p2_on_v(alpha: Tensor, sigma: Tensor, k: float, gamma: float) -> Tensor:
    return alpha**2 / (k + (alpha / sigma) ** 2) ** gamma


def _batch(g: Generator) -> list[tuple[Any, ...]]:
    abar = torch.rand(3, generator=g, dtype=torch.float32, device="cpu") * 0.9 + 0.05
    x0, eps = randn((2, 3, 3, 3, 3), g)  # (B, C, H, W) all 3: every mistake passes
    return [(x0, eps, abar.sqrt(), (1 - abar).sqrt())]


@exercise(
    probes=_batch,
    bug=lambda x0, eps, alpha, sigma: alpha * x0 + sigma * eps,
    slips={
        lambda x0, eps, alpha, sigma: (
            alpha[:, None, None] * x0 + sigma[:, None, None] * eps
        ): "shape (B, 1, 1) gives each channel a level of its own: one axis is still missing.",
        lambda x0, eps, alpha, sigma: (
            alpha[:, None] * x0 + sigma[:, None] * eps
        ): "shape (B, 1) gives each row of pixels a level of its own: two axes are missing.",
        lambda x0, eps, alpha, sigma: (
            alpha.mean() * x0 + sigma.mean() * eps
        ): "all pictures get one and the same level.",
        lambda x0, eps, alpha, sigma: (
            alpha[:, None, None, None] ** 2 * x0 + sigma[:, None, None, None] ** 2 * eps
        ): "now the axes are right, but the levels are squared.",
    },
    hint="which axis of x0 does an alpha of shape (B,) meet?",
    right="one noise level for each picture, shape (B, 1, 1, 1).",
)
def noised_batch(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * eps


def _without_warmup(decay: float, n: int) -> float:
    return decay**n


def _late(decay: float, n: int) -> float:
    left = 1.0
    for k in range(1, n + 1):
        left *= min(decay, (1 + k) / (10 + k))
    return left


def _largest(decay: float, n: int) -> float:
    left = 1.0
    for k in range(n):
        left *= max(decay, (1 + k) / (10 + k))
    return left


def _only_last(decay: float, n: int) -> float:
    return min(decay, n / (9 + n))


@exercise(
    probes=lambda g: [(0.999, 3), (0.5, 5), (0.9999, 2), (0.2, 4)],
    tolerance=1e-7,
    slips={
        _without_warmup: "that is the share without the warm-up: every factor is `decay`.",
        _late: "the updates are numbered n = 0, 1, 2, ...: the first factor is 1/10.",
        _largest: "the warm-up takes the smaller of the two, so that early weights fade fast.",
        _only_last: "that is the factor of the last update alone; the start has seen them all.",
    },
    hint="each update multiplies what is left of the start by its own d.",
    right="with the warm-up the untrained start is gone after a few updates, whatever the decay.",
)
def start_left(decay: float, n: int) -> float:
    left = 1.0
    for k in range(n):
        left *= min(decay, (1 + k) / (10 + k))
    return left


@judge(
    hint="a convolution costs height x width x channels in x channels out: where are pixels few?",
    right="channels are cheap where pixels are few.",
)
def small_net(given: dict[str, Any]) -> str | None:
    """Arguments of a U-Net that fits the budget of the exercise."""
    from diffusion_lab import metrics, nets, schedules
    from diffusion_lab.denoisers import NetDenoiser

    if not isinstance(given, dict):
        return f"arguments of nets.make('unet', ...) are expected as a dict, not {given!r}."
    net = nets.make("unet", **given | {"num_classes": 10})
    model = NetDenoiser(net, schedules.EDM(20.0), shape=(1, 28, 28), num_classes=10)
    flops, parameters = metrics.count_flops(model), metrics.count_parameters(net)
    if flops > FLOP_BUDGET:
        return f"it costs {flops / 1e6:.1f} MFLOP, the budget is {FLOP_BUDGET / 1e6:.1f}."
    if parameters < FEWEST_PARAMETERS:
        return f"it has {parameters:,} parameters, {FEWEST_PARAMETERS:,} are asked for."
    return None
