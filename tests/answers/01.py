"""Recorded wrong answers of lesson 01: each must be refused, for the reason that is given."""

from __future__ import annotations

import math

import numpy as np
import torch

from diffusion_lab.course.checks import lesson01
from diffusion_lab.schedules import cosine, linear, make


def times(lam):
    return {
        "linear": linear().t_of_lam(lam),
        "cosine": cosine().t_of_lam(lam),
        "sigmoid": make("sigmoid").t_of_lam(lam),
    }


def abar_of(lam):
    return torch.sigmoid(2 * lam)


def line(T, high=4.8, low=-5.0):
    return lesson01.half_level() + torch.linspace(high, low, T, dtype=torch.float64)


def one_noise(x0, betas, i, eps):
    for beta in betas[:i]:
        x0 = (1 - beta).sqrt() * x0 + beta.sqrt() * eps
    return x0


def first_mended(x0, betas, i, eps):
    abar = (1 - betas[: max(i - 1, 1)]).prod()
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps


def through_marks(T, high=5.0, low=-5.0):
    points = np.array([high, *lesson01.marks(), low])
    return torch.from_numpy(np.interp(np.arange(1, T + 1) / T, np.linspace(0, 1, 5), points))


def ratios(abar):
    return 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])


WRONG = {
    "one_step": [
        (lambda x, beta, noise: (1 - beta) * x + beta * noise, "both roots are missing"),
        (lambda x, beta, noise: math.sqrt(1 - beta) * x + beta * noise, "its variance beta"),
        (lambda x, beta, noise: x + math.sqrt(beta) * noise, "not shrunk"),
        (lambda x, beta, noise: math.sqrt(beta) * x + math.sqrt(1 - beta) * noise, "swapped"),
        (lambda x, beta, noise: math.sqrt(1 - beta) * x, "no noise is added"),
        (lambda x, beta, noise: math.sqrt(1 - beta**2) * x + beta * noise, "it is a variance"),
        (lambda x, beta, noise: math.sqrt(1 - beta) * x - math.sqrt(beta) * noise, "with a plus"),
        (lambda x, beta, noise: math.sqrt(1 - beta) * x + math.sqrt(beta), "multiplied by noise"),
        (lambda x, beta, noise: (math.sqrt(1 - beta) * x, math.sqrt(beta) * noise), "their sum"),
        (
            lambda x, beta, noise: (
                math.sqrt(1 - beta) * x + math.sqrt(beta) * torch.ones_like(x) / 3
            ),
            "the noise that is given",
        ),
        (lambda x, beta, noise: math.sqrt(1 - beta) * (x + math.sqrt(beta) * noise), "after that"),
        (
            lambda x, beta, noise: (1 - math.sqrt(beta)) * x + math.sqrt(beta) * noise,
            "which is not",
        ),
        (lambda x, beta, noise: x[..., :1], "shape"),
        (lambda x, beta, noise: torch.sqrt(1 - beta) * x, "use math.sqrt"),
    ],
    "repaired_jump": [
        (
            lambda x0, betas, i, eps: (1 - betas[i - 1]).sqrt() * x0 + betas[i - 1].sqrt() * eps,
            "one step of noise",
        ),
        (
            lambda x0, betas, i, eps: (
                (1 - betas[: i + 1]).prod().sqrt() * x0
                + (1 - (1 - betas[: i + 1]).prod()).sqrt() * eps
            ),
            "one factor too many",
        ),
        (
            lambda x0, betas, i, eps: (
                (1 - betas[:i]).prod() * x0 + (1 - (1 - betas[:i]).prod()) * eps
            ),
            "where its root belongs",
        ),
        (one_noise, "one noise for all"),
        (first_mended, "from step 2 on"),
        (
            lambda x0, betas, i, eps: (
                (1 - betas[1:i]).prod().sqrt() * x0 + (1 - (1 - betas[1:i]).prod()).sqrt() * eps
            ),
            "from beta_2",
        ),
        (lambda x0, betas, i, eps: torch.cumprod(1 - betas, 0)[i].sqrt() * x0, "raised"),
        (
            lambda x0, betas, i, eps: (
                (1 - betas[:i].sum()).sqrt() * x0 + betas[:i].sum().sqrt() * eps
            ),
            "added up",
        ),
        (lambda x0, betas, i, eps: (1 - betas[:i]).prod().sqrt() * x0, "noise has gone"),
    ],
    "from_lambda": [
        (lambda lam: (torch.sigmoid(lam).sqrt(), torch.sigmoid(-lam).sqrt()), "factor 2"),
        (lambda lam: (torch.sigmoid(2 * lam), torch.sigmoid(-2 * lam)), "take the roots"),
        (lambda lam: (lam.exp(), torch.ones_like(lam)), "is not 1"),
        (lambda lam: torch.sigmoid(2 * lam).sqrt(), "return alpha, sigma"),
        (lambda lam: torch.sigmoid(-2 * lam).sqrt(), "return alpha too"),
        (lambda lam: (abar_of(lam).sqrt(), 1 - abar_of(lam).sqrt()), "not 1 - alpha"),
        (lambda lam: (torch.sigmoid(lam), torch.sigmoid(-lam)), "their squares that must"),
        (lambda lam: (abar_of(lam).sqrt(), abar_of(-lam)), "the second is sigma^2"),
        (lambda lam: (abar_of(lam), abar_of(-lam).sqrt()), "the first is alpha^2"),
        (lambda lam: (abar_of(lam).sqrt(), abar_of(lam).sqrt() * lam.exp()), "divided by it"),
        (lambda lam: (torch.exp(lam), torch.exp(-lam)), "neither of them"),
        (lambda lam: (math.exp(lam), 1.0), "use torch's functions"),
    ],
    "halved": [
        ("a", "stands out less"),
        ("c", "half of log SNR"),
        ("d", "cannot last longer"),
        ("e", "not one of the options"),
        (0.02, "in quotes"),
        (math.sqrt, "in quotes"),
        (["a"], "stands out less"),
        ("c)", "half of log SNR"),
    ],
    "half_times": [
        (dict.fromkeys(("linear", "cosine", "sigmoid"), 0.4), "the times are not"),
        (times(0.0), "where the SNR is 1"),
        (times(lesson01._level_of(0.5 * 0.88129)), "entropy"),
        ({"linear": 400, "cosine": 600, "sigmoid": 600}, "outside [0, 1]"),
        ({"linear": 0.4, "cosine": 0.6}, "missing for sigmoid."),
        ({"linear": 0.4, "cosine": ..., "sigmoid": ...}, "missing for cosine and sigmoid."),
        ({"linear": None, "cosine": 0.6, "sigmoid": 0.6}, "missing for linear."),
        ({"Linear": 0.4, "cosine": 0.6, "sigmoid": 0.6}, "the schedules are called"),
        ({**times(0.1), "cosine": torch.zeros(3)}, "cosine schedule should be a number"),
        ({**times(0.1), "linear": "late"}, "linear schedule should be a number"),
        (times(lesson01._level_of(0.5)), "half a bit"),
        ({k: round(v, 2) for k, v in times(lesson01.half_level()).items()}, "look rounded"),
        (times(1.0), "too early"),
        (0.5, "dictionary"),
    ],
    "my_betas": [
        (lambda T: abar_of(line(T)), "did you return abar"),
        (lambda T: 1 - torch.cumprod(1 - lesson01.our_betas(T), 0), "1 - abar_t/abar_{t-1}"),
        (lambda T: ratios(abar_of(line(T))), "not 0.25"),
        (lambda T: cosine(T=T).betas(), "too late"),
        (lambda T: torch.linspace(1e-4, 0.02, T), "too much is left at the end"),
        (lambda T: linear(T).betas(), "too early"),
        (lambda T: ratios(abar_of(line(T, 5, 5))), "must lie in (0, 1]"),
        (lambda T: ratios(abar_of(line(T + 1))), "abar_0 = 1 is no step"),
        (lambda T: ratios(abar_of(line(T, 0.5))), "gentle"),
        (torch.full((200,), 0.1), "function of T"),
        (lambda T: lesson01.our_betas(200), "must follow T"),
        (lambda T: ratios(torch.sigmoid(through_marks(T))), "not of lambda"),
        (lambda T: ratios(torch.sigmoid(through_marks(T, 12.0, -12.0))), "not of lambda"),
        (lambda T: ratios(abar_of(through_marks(T)).sqrt()), "alpha stands"),
        (lambda T: linear(T), "but a Table did"),
        (lambda T: 1 / 0, "with T = 200 it raised ZeroDivisionError"),
    ],
}
