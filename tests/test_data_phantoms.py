"""Phantoms: what was drawn is measured again."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import gen

from diffusion_lab import data
from diffusion_lab.data import phantoms
from diffusion_lab.data.phantoms import PARAMETERS, covariates, dataset, draw, measure, render
from diffusion_lab.files import sha256

DRAWN = draw(96, gen(0))
X = render(DRAWN)
FOUND = measure(X)
PLAIN = {"skull": 0.9, "ventricle": 50.0, "rotation": 0.0, "contrast": 0.3}


def phantom(**change: float) -> torch.Tensor:
    return torch.tensor([list((PLAIN | change).values())], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "most"), [("ventricle", 1.0), ("skull", 0.02), ("rotation", 3.0), ("contrast", 1e-6)]
)
def test_what_was_drawn_is_measured(name, most):
    """The ventricles' area within one pixel; the rest within what 32 x 32 shows."""
    wanted = DRAWN[:, list(PARAMETERS).index(name)]
    assert (FOUND[name] - wanted).abs().max() < most
    assert torch.corrcoef(torch.stack([FOUND[name], wanted]))[0, 1] > 0.99


def test_the_picture_is_the_painted_ellipses():
    """Areas by formula: the sum of the densities of a phantom without bright spots' overlap."""
    one = render(phantom()).double()
    density = (one + 1) / 2
    half = 16.0
    skull = math.pi * 0.69 * 0.92 * (0.9 * half) ** 2
    brain = math.pi * 0.59 * 0.82 * (0.9 * half) ** 2
    bright = [(a * b, value) for a, b, *_, value in phantoms.BRIGHT]
    spots = sum(math.pi * ab * (0.9 * half) ** 2 * (value - 0.5) for ab, value in bright)
    mass = skull - brain + 0.5 * brain + spots - 0.3 * 50.0
    assert density.sum().item() == pytest.approx(mass, abs=1.5)
    assert one.min() == -1 and one.max() == 1


def test_turning_by_ninety_degrees_turns_the_picture():
    upright, turned = render(phantom()), render(phantom(rotation=90.0))
    torch.testing.assert_close(turned, upright.rot90(1, (2, 3)), atol=0.06, rtol=0)
    assert measure(render(phantom(rotation=15.0)))["rotation"].item() == pytest.approx(15, abs=2)
    assert measure(render(phantom(rotation=-15.0)))["rotation"].item() == pytest.approx(-15, abs=2)


def test_no_ventricles_have_no_area_and_a_known_one_is_found():
    assert measure(render(phantom(ventricle=0.0)))["ventricle"] == 0
    assert measure(render(phantom(contrast=0.0)))["ventricle"] == 0
    for area in (16.0, 84.0):
        found = measure(render(phantom(ventricle=area, skull=1.0)))["ventricle"].item()
        assert found == pytest.approx(area, abs=2)


def test_a_picture_without_a_head_says_so():
    found = measure(torch.full((2, 1, 32, 32), -1.0))
    assert found["skull"].tolist() == found["ventricle"].tolist() == [0, 0]
    assert found["contrast"].isnan().all() and found["rotation"].isnan().all()


def test_a_little_noise_moves_the_measures_little():
    noisy = measure(X + 0.02 * torch.randn(X.shape, generator=gen(1)))
    assert (noisy["ventricle"] - FOUND["ventricle"]).abs().max() < 8
    for name in ("skull", "ventricle", "rotation", "contrast"):
        assert torch.corrcoef(torch.stack([noisy[name], FOUND[name]]))[0, 1] > 0.97


def test_each_picture_is_measured_alone():
    again = measure(X[5:7])
    assert all(torch.equal(again[name], FOUND[name][5:7]) for name in PARAMETERS)
    assert torch.equal(render(DRAWN[5:7]), X[5:7])
    # shuffled covariates know nothing of the pictures
    shuffled = DRAWN[torch.randperm(96, generator=gen(2)), 1]
    assert torch.corrcoef(torch.stack([FOUND["ventricle"], shuffled]))[0, 1].abs() < 0.35


def test_the_data_set():
    made, again = dataset(40, gen(7)), dataset(40, gen(7))
    assert made.hash == again.hash != dataset(40, gen(8)).hash
    assert (made.name, made.split, made.levels, made.labels) == ("phantoms", "train", 256, None)
    given = made.condition["covariates"]
    assert given.shape == (40, 4) and given.dtype == torch.float32
    assert given.min() >= 0 and given.max() <= 1 and list(made.condition) == ["covariates"]
    torch.testing.assert_close(given, covariates(draw(40, gen(7))))
    assert made.null["covariates"].tolist() == [-1.0] * 4  # no phantom has it
    pixels = data.to_uint8(made.x)
    assert sha256(pixels.tobytes()) == made.hash
    wanted = 32 + 40 * given[:, 1].double()
    assert (measure(made.x)["ventricle"] - wanted).abs().max() < 1  # 256 levels are enough
    made.check()


def test_covariates_are_shares_of_the_ranges():
    low, high = (torch.tensor([one], dtype=torch.float64) for one in zip(*PARAMETERS.values()))
    assert covariates(low).tolist() == [[0.0] * 4] and covariates(high).tolist() == [[1.0] * 4]
    torch.testing.assert_close(covariates((low + high) / 2), torch.full((1, 4), 0.5))
    torch.testing.assert_close(covariates(phantom(ventricle=12.0))[0, 1], torch.tensor(-0.5))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: draw(0, gen()), "number of phantoms must be a whole number >= 1"),
        (lambda: dataset(5, 3), "torch.Generator; got int"),
        (
            lambda: render(phantom(ventricle=200.0)),
            "ventricle of a phantom lies in 0 to 84; got 200",
        ),
        (lambda: render(phantom(skull=math.nan)), "skull of a phantom lies in"),
        (lambda: render(torch.zeros(4)), r"must be \(n, 4\): skull, ventricle"),
        (lambda: render([[1.0] * 4]), "must be a tensor of floats"),
        (lambda: covariates(torch.zeros(0, 4)), r"must be \(n, 4\)"),
        (lambda: measure(torch.zeros(2, 3, 32, 32)), r"x must be \(n, 1, 32, 32\)"),
        (lambda: measure(torch.zeros(2, 1, 28, 28)), r"x must be \(n, 1, 32, 32\)"),
    ],
)
def test_wrong_arguments(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_embedded_phantoms_are_drawn_once_for_all():
    """``load`` draws the same ones always, and none of the test part is in the training part."""
    train, test = data.load("phantoms"), data.load("phantoms", "test")
    assert (len(train), len(test)) == (2048, 512) and train.labels is None
    assert train.hash == "28579b2f6772f51b72215a6d1f77d5772d721f42778181111c5bb74f7be5d840"
    assert torch.cdist(test.x.flatten(1), train.x.flatten(1)).min() > 0
    low, high = train.condition["covariates"].aminmax(dim=0)
    assert bool((low < 0.01).all() and (high > 0.99).all())
    assert data.load("phantoms") is train
    with pytest.raises(ValueError, match="unknown split of phantoms 'rare'"):
        data.load("phantoms", "rare")
