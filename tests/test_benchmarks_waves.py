"""The measure of the folding pattern: waves of known power, and an interval that holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "benchmarks" / "waves.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("waves", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_wave_is_seen_by_its_own_name_alone(script):
    along = 0.3 * (-1.0) ** torch.arange(28)
    waves = {
        "horizontal": along.expand(28, 28),
        "vertical": along[:, None].expand(28, 28),
        "diagonal": torch.outer(along, along) / 0.3,
    }
    for name, wave in waves.items():
        found = script.powers(wave.reshape(1, 1, 28, 28))
        expected = {one: 0.09 * 784 if one == name else 0.0 for one in waves}
        assert {k: v.item() for k, v in found.items()} == pytest.approx(expected, abs=1e-4)


def test_powers_are_those_of_the_fourier_transform(script):
    x = torch.rand(3, 2, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    power = torch.fft.fft2(x.double()).abs().square().mean(1) / 96
    found = script.powers(x)
    for name, place in {"horizontal": (0, 6), "vertical": (4, 0), "diagonal": (4, 6)}.items():
        assert torch.allclose(found[name], power[:, place[0], place[1]]), name


def test_the_interval_holds_the_truth_19_times_in_20(script):
    gen, held = torch.Generator().manual_seed(1), 0
    for _ in range(400):
        drawn = 1.5 * torch.randn(300, generator=gen).square()
        _, low, high = script.ratio(drawn, torch.randn(200, generator=gen).square())
        held += low <= 1.5 <= high
    assert 0.92 <= held / 400 <= 0.98  # three standard errors of 400 trials are 0.033
