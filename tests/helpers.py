"""What several files of tests share: numbers from a seed, and cases whose answers are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusion_lab import cli
from diffusion_lab.device import generator
from diffusion_lab.exact import GaussianMixture
from diffusion_lab.schedules import (
    EDM,
    VE,
    Cosine,
    Linear,
    Sigmoid,
    cosine,
    linear,
    zero_terminal_snr,
)
from diffusion_lab.scores.subvp import SubVP

F64 = torch.float64
VP_SCHEDULES = [Linear(), Cosine(), Sigmoid(), linear(1000), cosine(1000), linear(50), cosine(20)]
SCHEDULES = [*VP_SCHEDULES, VE(), EDM(), SubVP(), zero_terminal_snr(linear(1000))]
MIX = GaussianMixture(
    [0.5, 0.3, 0.2],
    [[1.0, 1.0], [-1.5, 0.2], [0.3, -1.0]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.15, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]],
)
"""Three Gaussians in the plane, none of them round and two of them tilted."""


def gen(seed: int = 0) -> torch.Generator:
    """A generator with that seed; 0 where it does not matter."""
    return generator(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Standard normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


class Same(nn.Module):
    """A network of the form that a NetDenoiser calls, which answers with its input."""

    def forward(self, x: Tensor, lam: Tensor, label: Tensor | None = None) -> Tensor:
        return x


def four_points(s2: float) -> tuple[Tensor, Tensor]:
    """x_0 and eps, (4, 1) each: second moments s2 and 1, no correlation.

    An expectation of a quadratic over them is the one over Gaussians, exactly.
    """
    x0 = math.sqrt(s2) * torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64)[:, None]
    return x0, torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=F64)[:, None]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    try:
        status = cli.main([str(one) for one in arguments])
    except SystemExit as stop:  # argparse
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err
