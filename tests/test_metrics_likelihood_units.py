"""Nats, bits, dimensions and the offset of scaled data, on cases with known answers."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.bound import decoder_nll
from diffusion_lab.data.toys import grid
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian
from diffusion_lab.metrics.likelihood import (
    bits_per_dim,
    dequantise,
    exact_nll,
    nats,
    offset,
    slip,
)


def test_offsets():
    assert offset(256) == pytest.approx(math.log2(127.5), rel=1e-12)
    assert round(offset(256), 3) == 6.994 and offset(17) == 3.0 and offset(3) == 0
    with pytest.raises(ValueError, match="levels of discrete data must be a whole number >= 2"):
        offset(1)


def test_uniform_bytes_are_eight_bits():
    """Their dequantised density is (127.5/256)^D everywhere: exactly 8, in D = 1 and D = 784."""
    for dims in (1, 784):
        nll = -dims * math.log(127.5 / 256)
        assert bits_per_dim(nll, dims, 256) == pytest.approx(8, abs=1e-12)
        assert bits_per_dim(dims * math.log(256), dims) == pytest.approx(8, abs=1e-12)  # discrete
    assert bits_per_dim(-64 * math.log(8 / 17), 64, 17) == pytest.approx(math.log2(17))


def test_there_and_back():
    nll = torch.tensor([0.0, 100.0, -30.0])
    for levels in (None, 17, 256):
        assert torch.allclose(nats(bits_per_dim(nll, 64, levels), 64, levels), nll, atol=1e-4)
    with pytest.raises(ValueError, match="dims must be a whole number >= 1; got 0"):
        bits_per_dim(1.0, 0)


def test_own_draws_cost_the_entropy():
    cov = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    law = Gaussian([1.0, -1.0], cov)
    entropy = 0.5 * math.log2((2 * math.pi * math.e) ** 2 * float(torch.det(cov))) / 2
    found = exact_nll(law, law.sample(4000, generator(0)))
    assert abs(found.value - entropy) < 3 * found.error < 0.1
    toy = grid()
    shifted = exact_nll(toy, toy.sample(500, generator(1)), levels=256)
    plain = exact_nll(toy, toy.sample(500, generator(1)))
    assert shifted.value - plain.value == pytest.approx(offset(256))


def test_the_density_of_dequantised_data_bounds_the_probability():
    """A Gaussian model of 9 levels: discrete bits by its bins, and the bound by noise above it."""
    levels = 9
    x0 = torch.randint(levels, (20_000, 1), generator=generator(2)).double() / 4 - 1
    std = 0.4
    model = Gaussian([0.1], [[std**2]])
    mean = torch.full_like(x0, 0.1)
    exact = bits_per_dim(decoder_nll(x0, mean, torch.tensor(std).double(), levels), 1)
    inner = (x0.abs() < 1).flatten()  # the outer bins reach to infinity, their noise does not
    noised = dequantise(x0, levels, generator(3))
    bound = bits_per_dim(-model.log_prob(noised), 1, levels)
    gap = (bound - exact.flatten())[inner]
    assert 0 < float(gap.mean()) < 0.1
    width = float((noised - x0).max() - (noised - x0).min())
    assert width == pytest.approx(2 / 8, rel=1e-3) and abs(float((noised - x0).mean())) < 0.003


def test_every_slip_has_its_name():
    nll, dims, levels = 500.0, 784, 256
    right = bits_per_dim(nll, dims, levels)
    assert slip(right, nll, dims, levels) is None and slip(0.123, nll, dims, levels) is None
    ln2 = math.log(2)
    cases = {
        "is missing": nll / dims / ln2,
        "subtracted": nll / dims / ln2 - offset(levels),
        r"data in [0, 1]": nll / dims / ln2 + math.log2(255),
        "K values have K-1 gaps": nll / dims / ln2 + 7,
        "offset is in nats": nll / dims / ln2 + math.log(127.5),
        "not turned into bits": nll / dims + offset(levels),
        "nats everywhere": nll / dims + math.log(127.5),
        "log2(e)": nll * ln2 / dims + offset(levels),
        "not divided": right * dims,
        "sign": -nll / dims / ln2 + offset(levels),
    }
    for words, value in cases.items():
        assert words in (slip(value, nll, dims, levels) or ""), words
    plain = bits_per_dim(nll, dims)
    assert "is missing" in slip(plain, nll, dims, levels, tolerance=0.0)  # exact is near enough
    assert slip(right, nll, dims, levels, tolerance=0.0) is None
