"""Likelihoods in bits per dimension, and the offset that makes densities comparable.

    bits/dim = NLL_nats / (D ln 2)                              for a probability of discrete data
    bits/dim = NLL_nats / (D ln 2) + log2((K - 1)/2)            for a density of data in [-1, 1]

K equally spaced values in [-1, 1] are 2/(K-1) apart, so a density p(x) gives a value about
p(x) (2/(K-1))^D of probability: the offset is 6.994 for K = 256 and 3 for the 17 levels of the
digits. With noise of one bin's width added (uniform dequantisation) the mean of the second line is
an upper bound of the first; uniform bytes give exactly 8. A bound by the sum of KLs, a likelihood
by the ODE and an exact one are different numbers: say which.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_lab.device import check_float, check_generator
from diffusion_lab.errors import whole
from diffusion_lab.exact import GaussianMixture
from diffusion_lab.metrics.estimates import Estimate

__all__ = ["bits_per_dim", "dequantise", "exact_nll", "nats", "offset", "slip"]

LN2 = math.log(2)


def offset(levels: int) -> float:
    """log2((levels - 1)/2): what a density of data in [-1, 1] owes per dimension."""
    levels = whole("levels of discrete data", levels, 2)
    return math.log2((levels - 1) / 2)


def bits_per_dim(nll: float | Tensor, dims: int, levels: int | None = None) -> float | Tensor:
    """Bits/dim of a negative log-likelihood in nats of a whole datum of ``dims`` numbers.

    ``levels=None``: nll is of discrete data. ``levels=K``: nll is of a density of data scaled to
    [-1, 1], and the offset is added.
    """
    dims = whole("dims", dims)
    return nll / (dims * LN2) + (0.0 if levels is None else offset(levels))


def nats(bits: float | Tensor, dims: int, levels: int | None = None) -> float | Tensor:
    """The inverse of ``bits_per_dim``: nats of a whole datum."""
    dims = whole("dims", dims)
    return (bits - (0.0 if levels is None else offset(levels))) * dims * LN2


def dequantise(x0: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """Data on ``levels`` values in [-1, 1], plus uniform noise of one bin's width, centred."""
    check_float(x0, "x0")
    levels = whole("levels of discrete data", levels, 2)
    generator = check_generator(generator)
    noise = torch.rand(x0.shape, generator=generator, dtype=torch.float64, device="cpu")
    noise = noise.to(x0) - 0.5
    return x0 + noise * (2 / (levels - 1))


def exact_nll(mixture: GaussianMixture, x: Tensor, levels: int | None = None) -> Estimate:
    """Bits/dim of data x (N, D) under an exact mixture: mean and standard error.

    Without ``levels`` it is the plain differential measure, which may be negative; on the mixture's
    own draws its mean is the differential entropy per dimension.
    """
    return Estimate.of(bits_per_dim(-mixture.log_prob(x), mixture.dim, levels))


def slip(found: float, nll: float, dims: int, levels: int, tolerance: float = 1e-3) -> str | None:
    """Which classic slip turns a density's ``nll`` (nats, data in [-1, 1]) into ``found`` bits/dim.

    None if ``found`` is right, or wrong in no way known here.
    """
    plain, right = bits_per_dim(nll, dims), bits_per_dim(nll, dims, levels)
    known = {
        "the data-scaling offset log2((K-1)/2) is missing": plain,
        "the offset was subtracted; it is to be added": plain - offset(levels),
        "the offset of data in [0, 1], log2(K-1), was added": plain + math.log2(levels - 1),
        "the offset log2(K/2) was added: K values have K-1 gaps": plain + math.log2(levels / 2),
        "the offset is in nats, the rest in bits": plain + offset(levels) * LN2,
        "nats were not turned into bits: divide by ln 2": nll / dims + offset(levels),
        "nats everywhere: divide by ln 2": right * LN2,
        "divided by log2(e) instead of multiplied": nll * LN2 / dims + offset(levels),
        "not divided by the number of dimensions": right * dims,
        "the sign is that of the log-likelihood": -plain + offset(levels),
    }
    if abs(found - right) <= tolerance:
        return None
    return next((why for why, value in known.items() if abs(found - value) <= tolerance), None)
