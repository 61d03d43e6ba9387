"""The prior of z: statistics that go with it, draws of a known law, attributes."""

from __future__ import annotations

import pytest
import torch
from helpers import F64, gen, randn
from torch import nn

from diffusion_lab import checkpoints, nets
from diffusion_lab.data import Dataset
from diffusion_lab.errors import CheckpointError
from diffusion_lab.exact import Gaussian
from diffusion_lab.forward import noised
from diffusion_lab.latent.diffae import SemanticEncoder
from diffusion_lab.latent.prior import (
    LatentMLP,
    Prior,
    Standardiser,
    direction,
    draw,
    edit,
    encoded,
)
from diffusion_lab.schedules import Linear
from diffusion_lab.training import recipes, train

RECIPE = recipes.get("fashion-diffae-z").but(
    options={},
    net={"name": "diffusion_lab.latent.prior:LatentMLP", "width": 8, "depth": 2},
    steps=6,
    batch=8,
)
COV = torch.tensor([[4.0, 1.2, 0.0], [1.2, 1.0, -0.3], [0.0, -0.3, 0.25]], dtype=F64)
MEAN = torch.tensor([10.0, -3.0, 0.5], dtype=F64)


def points(n=64):
    z = (MEAN + randn(n, 3) @ torch.linalg.cholesky(COV).T).float()
    return Dataset(z, None, (), "z", "train", "0", None, z.std().item())


# ---- the statistics -----------------------------------------------------------------------------
def test_standardising_and_back_is_the_identity():
    z = MEAN + 3 * randn(50, 3)
    scale = Standardiser(3).double().fit(z)
    standard = scale(z)
    assert standard.mean(0).abs().max() < 1e-12
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(3, dtype=F64))
    torch.testing.assert_close(scale.back(standard), z, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="same for all data"):
        scale.fit(torch.ones(5, 3, dtype=F64))
    for call in (scale, scale.back, scale.fit):
        with pytest.raises(ValueError, match=r"must have shape \(B, 3\)"):
            call(z[:, :2])


def test_draws_of_the_exact_prior_have_the_law_of_z():
    """Standardised Gaussian z, the exact denoiser: mean and covariance of z come back."""
    std = COV.diagonal().sqrt()
    model = Gaussian(torch.zeros(3), COV / (std[:, None] * std)).denoiser(Linear())
    model.shape = (3,)
    scale = Standardiser(3).double()
    scale.mean.copy_(MEAN), scale.std.copy_(std)
    n = 20_000
    z = draw({"model": model, "standardiser": scale}, n, sampler="dpmpp", steps=60, batch=n)
    assert ((z - MEAN).mean(0) / std).abs().max() < 4 / n**0.5
    error = (torch.cov(z.T) - COV) / (std[:, None] * std)
    assert error.abs().max() < 4 * (2 / n) ** 0.5 + 0.005  # of the steps


# ---- the network and its training ---------------------------------------------------------------
def test_the_mlp_sees_its_input_again_in_every_layer():
    torch.manual_seed(0)
    net = LatentMLP(3, width=8, depth=2).double()
    nn.init.normal_(net.last.weight)
    x, lam = randn(4, 3), randn(4, seed=1)
    level = net.level(lam, None, 4)
    silu = nn.functional.silu
    h = silu(net.norms[0]((1 + net.told[0](level)) * net.hidden[0](x)))
    h = torch.cat([h, x], dim=1)
    h = silu(net.norms[1]((1 + net.told[1](level)) * net.hidden[1](h)))
    expected = net.last(torch.cat([h, x], dim=1))
    torch.testing.assert_close(net(x, lam), expected, rtol=0, atol=1e-12)


def test_a_prior_is_saved_with_its_statistics_and_resumes_bit_for_bit(tmp_path):
    def weights(folder, **options):
        *_, last = train(RECIPE, data=points(), out=folder, report_every=3, **options)
        return last.model.state_dict()

    whole = weights(tmp_path / "whole")
    weights(tmp_path / "parts", stop_at=2)
    again = weights(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    name = RECIPE.name
    models = checkpoints.load(tmp_path / "whole" / f"{name}.safetensors", device="cpu")
    scale, z = models["standardiser"], points().x
    torch.testing.assert_close(scale.mean, z.mean(0))
    torch.testing.assert_close(scale.std, z.std(0, correction=0))
    drawn = draw(models, 200, steps=10)  # of a network that knows nothing yet: around the mean
    assert ((drawn - scale.mean) / scale.std).mean(0).abs().max() < 0.5


def test_the_data_of_the_prior_are_standardised():
    job = Prior(RECIPE, points())
    assert job.data.x.mean(0).abs().max() < 1e-5
    assert job.models["model"].sd == 1.0 and job.models["model"].shape == (3,)


def test_the_loss_may_be_that_of_the_paper():
    job = Prior(RECIPE.but(options={"l1": True}), points())
    batch, model = job.draw(0), job.models["model"]
    (loss,) = job.losses(job.models, **batch)
    x_t = noised(batch["x0"], batch["eps"], model.schedule, batch["t"])
    expected = (model(x_t, batch["t"]).eps - batch["eps"]).abs().mean()
    torch.testing.assert_close(loss, expected)
    (other,) = Prior(RECIPE, points()).losses(job.models, **batch)
    assert abs(other.item() - loss.item()) > 1e-3


def test_pictures_are_encoded_by_the_autoencoder_that_is_named(tmp_path):
    encoder = nets.make(
        "diffusion_lab.latent.diffae:SemanticEncoder", channels=1, dim=3, widths=[4]
    )
    rest = nets.make("mlp", dim=2, width=4)
    file = tmp_path / "ae.safetensors"
    checkpoints.save(file, {"encoder": encoder, "model": rest})
    x = randn(20, 1, 8, 8).float()
    pictures = Dataset(x, None, (), "some", "train", "0", None, 1.0)
    job = Prior(RECIPE.but(options={"autoencoder": str(file)}), pictures)
    z = encoded(encoder.eval(), x, batch=7)
    torch.testing.assert_close(job.models["standardiser"].back(job.data.x), z, rtol=0, atol=1e-5)
    assert isinstance(encoder, SemanticEncoder)
    with pytest.raises(ValueError, match="pictures are encoded with options="):
        Prior(RECIPE, pictures)
    with pytest.raises(ValueError, match="unknown option of the task .*'auto'"):
        Prior(RECIPE.but(options={"auto": 1}), pictures)


# ---- attributes ---------------------------------------------------------------------------------
def test_the_direction_is_that_of_logistic_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    z = randn(300, 4)
    yes = z @ torch.tensor([2.0, -1.0, 0.0, 0.5], dtype=F64) + randn(300, seed=1) > 0.3
    peer = linear_model.LogisticRegression(C=1 / 0.7, tol=1e-10, max_iter=1000)
    w = torch.from_numpy(peer.fit(z.numpy(), yes.numpy()).coef_[0])
    torch.testing.assert_close(direction(z, yes, ridge=0.7), w / w.norm(), rtol=0, atol=1e-6)
    for wrong in (yes | True, yes & False, yes.long(), yes[:5]):
        with pytest.raises(ValueError, match="yes must be bool"):
            direction(z, wrong)


def test_an_edit_moves_standardised_z_by_its_length_along_the_direction():
    z = MEAN + randn(50, 3) * torch.tensor([5.0, 1.0, 0.1], dtype=F64)
    scale, towards = Standardiser(3).double().fit(z), randn(3, seed=2)
    moved = scale(edit(scale, z, towards, 1.5)) - scale(z)
    expected = 1.5 * towards / towards.norm()
    torch.testing.assert_close(moved, expected.expand(50, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(edit(scale, z, towards, 0.0), z, rtol=0, atol=1e-12)
    assert gen(0)


def test_a_training_that_needs_another_first_says_which():
    recipe = RECIPE.but(options={"autoencoder": "fashion-diffaa"})
    pictures = Dataset(randn(4, 1, 8, 8).float(), None, (), "some", "train", "0", None, 1.0)
    with pytest.raises(
        CheckpointError, match="the model 'fashion-diffaa' must be there first: train it"
    ):
        Prior(recipe, pictures)
