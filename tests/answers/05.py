"""Wrong answers to lesson 05, and words that each refusal must hold."""

import math
from itertools import pairwise

import torch


def _walk(step):
    """A learner's loop around a step (x, eps, z, a, b, eta)."""

    def walked(eps_hat, x, times, abar, eta, fresh):
        for t, s in pairwise(times):
            x = step(x, eps_hat(x, t), fresh(), abar(t), abar(s), eta)
        return x

    return walked


def _root(a, b):
    return math.sqrt((1 - b) / (1 - a) * (1 - a / b))


@_walk
def _no_room(x, eps, z, a, b, eta):
    x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
    return math.sqrt(b) * x0 + math.sqrt(1 - b) * eps + eta * _root(a, b) * z


@_walk
def _swapped(x, eps, z, a, b, eta):
    std = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - b / a)  # of a negative number
    x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
    return math.sqrt(b) * x0 + math.sqrt(1 - b - std**2) * eps + std * z


@_walk
def _sigma_hat(x, eps, z, a, b, eta):
    std = eta * (1 - a / b) ** 0.5
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return b**0.5 * x0 + (1 - b - std**2) ** 0.5 * eps + std * z  # a complex factor of eps


@_walk
def _turned(x, eps, z, a, b, eta):
    std = eta * ((1 - b) / (1 - a) * (1 - b / a)) ** 0.5  # complex
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return b**0.5 * x0 + (1 - b - std**2) ** 0.5 * eps + std * z


@_walk
def _no_roots(x, eps, z, a, b, eta):
    std = eta * (1 - b) / (1 - a) * (1 - a / b)
    return b * (x - (1 - a) * eps) / a + (1 - b - std**2) * eps + std * z


@_walk
def _upside_down(x, eps, z, a, b, eta):
    std = eta * ((1 - a) / (1 - b) * (1 - a / b)) ** 0.5
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return b**0.5 * x0 + (1 - b - std**2) ** 0.5 * eps + std * z


@_walk
def _not_squared(x, eps, z, a, b, eta):
    std = eta * _root(a, b)
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return b**0.5 * x0 + (1 - b - std) ** 0.5 * eps + std * z


def _right(x, eps, z, a, b, eta):
    std = eta * _root(a, b)
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return b**0.5 * x0 + (1 - b - std**2) ** 0.5 * eps + std * z


@_walk
def _minus_noise(x, eps, z, a, b, eta):
    return _right(x, eps, -z, a, b, eta)


@_walk
def _eta_under_the_root(x, eps, z, a, b, eta):
    return _right(x, eps, z, a, b, eta**0.5)


def _one_noise(eps_hat, x, times, abar, eta, fresh):
    z = fresh()
    return _walk(_right)(eps_hat, x, times, abar, eta, lambda: z)


def _stops_early(eps_hat, x, times, abar, eta, fresh):
    for i in range(len(times) - 2):
        t, s = times[i], times[i + 1]
        x = _right(x, eps_hat(x, t), fresh(), abar(t), abar(s), eta)
    return x


def _asked_late(eps_hat, x, times, abar, eta, fresh):
    for t, s in pairwise(times):
        x = _right(x, eps_hat(x, s), fresh(), abar(t), abar(s), eta)
    return x


def _one_step(eps_hat, x, times, abar, eta, fresh):
    t, s = times[0], times[-1]
    return _right(x, eps_hat(x, t), fresh(), abar(t), abar(s), eta)


def _returns_early(eps_hat, x, times, abar, eta, fresh):
    t, s = times[:2]  # a return inside the loop
    return _right(x, eps_hat(x, t), fresh(), abar(t), abar(s), eta)


@_walk
def _room_at_t(x, eps, z, a, b, eta):
    std = eta * _root(a, b)
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return b**0.5 * x0 + (1 - a - std**2) ** 0.5 * eps + std * z


def _sum(i, d, c):
    return sum(math.log(d * (c - k)) for k in range(int(i)))  # whole steps only


def _right_level(i, d, c):
    return i * math.log(d) + math.lgamma(c + 1) - math.lgamma(c - i + 1)


def _per_pixel(a, b, share):
    w = ((a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))).acos()
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


def _per_channel(a, b, share):
    size = (a.square().sum((2, 3), keepdim=True) * b.square().sum((2, 3), keepdim=True)).sqrt()
    w = ((a * b).sum((2, 3), keepdim=True) / size).acos()
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


def _half(a, b, share):
    w = ((a * b).sum((1, 2, 3), keepdim=True) / (a.square().sum() * b.square().sum()).sqrt()).acos()
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


def _no_keepdim(a, b, share):
    dims = (1, 2, 3)
    w = ((a * b).sum(dims) / (a.square().sum(dims) * b.square().sum(dims)).sqrt()).acos()
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


WRONG = {
    "one_jump": [(0.0, "mean of the noise"), (1.0, "larger peak"), (3.0, "too large")],
    "ddim_loop": [
        (_no_room, "leave room"),
        (_swapped, "ValueError"),
        (_sigma_hat, "S^2 exceeds"),
        (_turned, "complex"),
        (_no_roots, "roots are missing"),
        (_upside_down, "exchanged in the first fraction"),
        (_not_squared, "S is squared under the root"),
        (_minus_noise, "equally right"),
        (_eta_under_the_root, "eta stands under the root"),
        (_one_noise, "inside the loop"),
        (_stops_early, "last jump is missing"),
        (_asked_late, "asked at s"),
        (_one_step, "largest error"),
        (_returns_early, "not inside"),
        (_room_at_t, "not at t"),
        (lambda eps_hat, x, times, abar, eta, fresh: x, "largest error"),
        (lambda eps_hat, x, times, abar, eta: x, "6 arguments"),
    ],
    "best_on_broad": [("0", "loses variance"), ("1", "single point"), ("ddim", "not one of")],
    "steps_for_a_hundredth": [(100, "four more"), (64, "second order"), (4000, "too large")],
    "slerp": [
        (_per_pixel, "each pixel"),
        (_per_channel, "each channel"),
        (_half, "still of the batch"),
        (_no_keepdim, "keepdim"),
        (lambda a, b, share: (1 - share) * a + share * b, "straight line"),
        (lambda a, b, share: torch.zeros(3), "shape"),
    ],
    "log_abar": [
        (lambda i, d, c: i * math.log(d) + math.lgamma(c) - math.lgamma(c - i), "n + 1"),
        (_sum, "whole step below"),
        (
            lambda i, d, c: i * math.log(d) + math.lgamma(c - i + 1) - math.lgamma(c + 1),
            "exchanged",
        ),
        (lambda i, d, c: _right_level(round(i), d, c), "rounded"),
        (lambda i, d, c: math.lgamma(c + 1) - math.lgamma(c - i + 1), "D^i"),
    ],
}
