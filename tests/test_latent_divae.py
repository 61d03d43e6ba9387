"""DiVAE: where everything is known, where the map enters, codes of a stand-in, the training."""

from __future__ import annotations

import pytest
import torch
from helpers import F64, gen, randn
from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.errors import CheckpointError
from diffusion_lab.grids import grid
from diffusion_lab.latent.divae import (
    PLACES,
    CodeUNet,
    DiVAE,
    consistency,
    embedded,
    joined,
    linear_gaussian,
    redrawn,
)
from diffusion_lab.metrics.frechet import Reference, frechet
from diffusion_lab.nets import UNet
from diffusion_lab.samplers import dpmpp_3m
from diffusion_lab.schedules import Cosine, Linear
from diffusion_lab.training import recipes, train
from diffusion_lab.walk import sample, walk

LAM = torch.tensor([0.3], dtype=F64)
TINY = recipes.get("fashion-divae").but(
    options={},
    net={
        "name": "diffusion_lab.latent.divae:CodeUNet",
        "code_channels": 2,
        "widths": (8, 8),
        "emb": 8,
    },
    steps=6,
    batch=8,
)


class Signs(nn.Module):
    """A stand-in for a VQ autoencoder of two levels: the signs of the means of patches."""

    def __init__(self):
        super().__init__()
        self.register_parameter("at", nn.Parameter(torch.zeros(1)))

    def quantise(self, x):
        z = [nn.functional.avg_pool2d(x, size) for size in (2, 4)]
        codes = [(one > 0).long()[:, 0] for one in z]
        return z, [one.sign() for one in z], codes, torch.zeros(len(x))


# ---- where everything is known ------------------------------------------------------------------
def case(d=6, k=2):
    root = randn(d, d)
    return root @ root.T / d + 0.1 * torch.eye(d, dtype=F64), randn(k, d, seed=1)


def test_drawn_pictures_have_twice_the_error_of_the_mean_and_the_law_of_the_data():
    """x ~ N(0, C), e = A x: covariance of draws C - K A C, so E|x - x^|^2 = 2 tr(C - K A C)."""
    cov, a = case()
    model, k = linear_gaussian(cov, a, Cosine())
    left = cov - k @ a @ cov
    d = len(cov)
    # points whose mean and covariance are those of N(0, I) exactly: the walk is linear in them
    x_T = d**0.5 * torch.cat([torch.eye(d, dtype=F64), -torch.eye(d, dtype=F64)])
    e = randn(len(a), seed=2).expand(2 * d, -1)
    drawn = sample(walk(dpmpp_3m(), model, x_T, grid(model.schedule, 400, "lambda"), codes=e)).x
    torch.testing.assert_close(drawn.mean(0), k @ e[0], rtol=0, atol=1e-3)
    spread = drawn - drawn.mean(0)
    torch.testing.assert_close(spread.T @ spread / (2 * d), left, rtol=0, atol=5e-3)
    # of the two errors: x - x^ = (x - K e) - (x^ - K e), independent, equal in law
    of_mean, of_draw = left.trace(), left.trace() + spread.square().sum() / (2 * d)
    assert (of_draw / of_mean).item() == pytest.approx(2, abs=0.01)
    zero = torch.zeros(d, dtype=F64)
    data = Reference(zero, cov, 1000)
    through_e = k @ a @ cov  # the covariance of K e
    draws = Reference(zero, (through_e + through_e.T) / 2 + spread.T @ spread / (2 * d), 1000)
    means = Reference(zero, (through_e + through_e.T) / 2, 1000)
    assert frechet(draws, data) < 1e-3 < 0.1 < frechet(means, data)


def test_the_gain_k_is_that_of_least_squares():
    cov, a = case()
    _, k = linear_gaussian(cov, a, Linear())
    # K e is the projection: the error x - K e has no correlation with e
    torch.testing.assert_close(
        cov @ a.T - k @ a @ cov @ a.T, torch.zeros(6, 2, dtype=F64), rtol=0, atol=1e-12
    )


def test_draws_of_data_with_their_own_codes_have_twice_the_error_by_counting():
    cov, a = case()
    model, k = linear_gaussian(cov, a, Linear())
    x = randn(4000, 6, seed=3) @ torch.linalg.cholesky(cov).T
    x_T, e = randn(4000, 6, seed=4), x @ a.T
    drawn = sample(walk(dpmpp_3m(), model, x_T, grid(model.schedule, 60, "lambda"), codes=e)).x
    ratio = (drawn - x).square().sum() / (x - e @ k.T).square().sum()
    assert ratio.item() == pytest.approx(2, abs=0.15)
    torch.testing.assert_close(drawn @ a.T, e, rtol=0, atol=0.05)  # all draws have the codes


# ---- where the map enters -----------------------------------------------------------------------
def network(place, fine=None):
    torch.manual_seed(0)
    net = CodeUNet(1, 3, place, widths=(8, 16), emb=8, fine=fine).double()
    for p in net.parameters():  # what starts at zero would hide the rest, but for the map's own
        if not p.any() and all(
            p is not q for q in getattr(net, "told", nn.Identity()).parameters()
        ):
            nn.init.normal_(p, std=0.1)
    return net


@pytest.mark.parametrize("fine", [None, 4])
@pytest.mark.parametrize("place", PLACES)
def test_at_first_the_map_changes_nothing(place, fine):
    net = network(place, fine)
    plain = UNet(1, widths=(8, 16), emb=8, fine=fine).double()
    ours = {k: v for k, v in net.state_dict().items() if k.split(".")[0] != "told"}
    for key, value in plain.state_dict().items():  # the columns of x_t alone
        ours[key] = ours[key][:, : value.shape[1]] if value.ndim == 4 else ours[key]
    plain.load_state_dict(ours)
    x, codes = randn(2, 1, 8, 8), randn(2, 3, 2, 2, seed=1)
    expected = plain(x, LAM)
    assert expected.abs().max() > 1e-3
    for given in (codes, None):
        torch.testing.assert_close(net(x, LAM, given), expected, rtol=0, atol=1e-12)
    net(x, LAM, codes).square().sum().backward()
    entry = net.told[1] if place == "features" else net.first
    columns = entry.weight.grad if place == "features" else entry.weight.grad[:, 4:]
    assert columns.abs().max() > 1e-6  # and it learns


def test_the_map_is_repeated_to_the_size_of_the_picture():
    net = network("input")
    nn.init.normal_(net.first.weight)
    x, codes = randn(1, 1, 8, 8), randn(1, 3, 4, 4, seed=1)
    big = codes.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(net(x, LAM, codes), net(x, LAM, big), rtol=0, atol=0)


@pytest.mark.parametrize("size", [4, 2])
def test_the_map_meets_the_level_of_its_size(size):
    """8 x 8 folded is 4 x 4, and 2 x 2 a level below."""
    net = network("features")
    for one in net.told:
        nn.init.normal_(one.weight)
    x, codes = randn(2, 1, 8, 8), randn(2, 3, size, size, seed=1)
    net(x, LAM, codes).sum().backward()
    met = [one.weight.grad is not None and bool(one.weight.grad.any()) for one in net.told]
    assert met == [size == 4, size == 2]
    assert (net(x, LAM, codes) - net(x, LAM)).abs().max() > 1e-3


def test_maps_that_do_not_fit_are_refused():
    x = randn(2, 1, 8, 8)
    for place, codes, says in (
        ("features", randn(2, 3, 3, 3), r"no level has the size \(3, 3\) of codes: \(4, 4\), \(2"),
        ("input", randn(2, 3, 3, 3), r"codes \(3, 3\) do not divide \(8, 8\)"),
        ("input", randn(2, 2, 4, 4), r"codes must have shape \(B, 3, 4, 4\)"),
        ("features", randn(1, 3, 4, 4), "one map for each of 2 pictures"),
    ):
        with pytest.raises(ValueError, match=says):
            NetDenoiser(network(place), Linear())(x, 0.5, codes=codes)
    with pytest.raises(ValueError, match="unknown place where codes enter 'inputs'"):
        CodeUNet(place="inputs")
    with pytest.raises(ValueError, match="unknown argument of the U-Net 'width'"):
        CodeUNet(width=3)


# ---- codes --------------------------------------------------------------------------------------
def test_maps_of_several_levels_are_joined_at_the_finest():
    fine, coarse = randn(2, 1, 4, 4), randn(2, 2, 2, 2, seed=1)
    both = joined([fine, coarse])
    assert torch.equal(both[:, :1], fine)
    assert torch.equal(both[:, 1:], coarse.repeat_interleave(2, 2).repeat_interleave(2, 3))
    x = randn(5, 1, 8, 8).float()
    expected = joined(Signs().quantise(x)[1])
    assert torch.equal(embedded(Signs(), x, batch=2), expected) and expected.shape == (5, 2, 4, 4)


def test_consistency_counts_the_codes_that_stay():
    x = randn(3, 1, 8, 8)
    assert consistency(Signs(), x, x) == 1.0
    assert consistency(Signs(), x, -x) == 0.0
    other = x.clone()
    other[:, :, :4] *= -1  # the upper half of each level
    assert consistency(Signs(), x, other) == 0.5


# ---- the training -------------------------------------------------------------------------------
def pictures(n=24):
    x = randn(n, 1, 8, 8).float().clamp(-1, 1)
    return Dataset(x, None, (), "some", "train", "0", None, 0.6)


def test_a_training_told_of_codes_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "load", lambda name: Signs())
    recipe = TINY.but(options={"autoencoder": "signs"})

    def weights(folder, **options):
        *_, last = train(recipe, data=pictures(), out=folder, report_every=3, **options)
        return last.model.state_dict()

    whole = weights(tmp_path / "whole")
    weights(tmp_path / "parts", stop_at=2)
    again = weights(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    job = DiVAE(recipe, pictures())
    batch = job.draw(3)
    torch.testing.assert_close(batch["codes"], embedded(Signs(), batch["x0"]))
    assert job.preview(nn.ModuleDict({"model": job.models["model"]})).shape == (40, 1, 8, 8)


def test_pictures_are_drawn_from_the_codes_of_the_own_autoencoder_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "load", lambda name: Signs())
    recipe = TINY.but(options={"autoencoder": "signs"})
    for _ in train(recipe, data=pictures(), out=tmp_path, report_every=6):
        pass
    monkeypatch.undo()
    model = checkpoints.load(tmp_path / "fashion-divae.safetensors", device="cpu")
    with torch.no_grad():  # awake: what is told changes the answer
        for weight in model.net.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=gen(weight.numel()))
    x = pictures().x[:5]
    drawn = redrawn(model, Signs(), x, steps=3, seed=1)
    assert drawn.x.shape == x.shape and drawn.nfe == 3
    assert torch.equal(redrawn(model, Signs(), x, steps=3, seed=1).x, drawn.x)
    assert not torch.equal(redrawn(model, Signs(), -x, steps=3, seed=1).x, drawn.x)
    other = Signs()
    other.at.data += 1
    with pytest.raises(CheckpointError, match="trained on the autoencoder signs .* is another"):
        redrawn(model, other, x, steps=3)


def test_what_a_training_cannot_be_told():
    with pytest.raises(ValueError, match="there are no codes: name a VQ autoencoder"):
        DiVAE(TINY, pictures())
    x = pictures().x
    three = Dataset(x, None, (), "s", "train", "0", None, 0.6, {"codes": torch.zeros(24, 3, 4, 4)})
    with pytest.raises(ValueError, match="codes have 3 channels, and code_channels of net is 2"):
        DiVAE(TINY, three)
