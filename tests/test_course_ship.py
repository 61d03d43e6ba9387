"""Shipping: a tiny training goes through the script and comes out of ``checkpoints.load``."""

from __future__ import annotations

import json

import pytest
import torch

from diffusion_lab import checkpoints, data, metrics, training
from diffusion_lab.course import ship
from diffusion_lab.data import store
from diffusion_lab.metrics.frechet import forget
from diffusion_lab.training import recipes

NET = {"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """An empty data folder, with tiny recipes under the names of the digits' real ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    monkeypatch.setattr(store, "_PACKAGED", folder)
    tiny = {
        "digits": recipes.get("digits").but(
            net=NET, steps=6, batch=16, sampler=recipes.get("fashion").sampler
        ),
        "digits-features": recipes.get("digits-features").but(
            net={"name": "classifier", "width": 4, "pools": 1}, steps=6, batch=16
        ),
    }
    monkeypatch.setattr(recipes, "RECIPES", recipes.RECIPES | tiny)
    forget()
    yield tmp_path
    forget()


def train(name, out, **options):
    for _ in training.train(recipes.get(name), out=out, report_every=2, save_every=2, **options):
        pass


def test_a_finished_training_is_measured_registered_and_loaded(house, capsys):
    train("digits-features", house)
    file = house / "digits-features.safetensors"
    assert ship.main(["digits-features", "--from", str(file), "--metrics"]) == 0
    assert ship.main(["--reference", "digits"]) == 0
    train("digits", house)
    arguments = ["digits", "--from", str(house / "digits.safetensors"), "--metrics", "--n", "20"]
    assert ship.main(arguments) == 0, capsys.readouterr().err

    card = (store.folder() / "checkpoints" / "digits.md").read_text()
    assert (
        "from **N = 20** drawn pictures" in card and "| steps | 6 of 16 pictures, seed 0 |" in card
    )
    model = checkpoints.load("digits")
    before = checkpoints.load(house / "digits.safetensors")
    for (key, ours), theirs in zip(model.state_dict().items(), before.state_dict().values()):
        assert torch.equal(ours, theirs), key
    found = model.about["metrics"]
    steps = recipes.get("fashion").sampler["steps"]
    assert (
        found["pictures"] == 20
        and found["guided"]["nfe"] == 2 * steps
        and found["unguided"]["nfe"] == steps
    )
    assert found["guided"]["fd_in_A"] == pytest.approx(
        found["guided"]["fd"] / found["anchor_A"], rel=1e-2
    )
    assert "interim" not in model.about
    alone = recipes.get("digits").but(sampler={"steps": 2, "scale": 1.0})
    assert ship.picture_quality(model, alone, 20).keys() == {"pictures", "anchor_A", "unguided"}
    entry = store.index()["checkpoints/digits.safetensors"]
    assert entry["recipe"].startswith("diffusion-lab train digits --steps 6 --out runs; python -m")
    assert entry["licence"].startswith("MIT")

    test = data.load("digits", "test")
    judge = checkpoints.load("digits-features")
    right = (judge(test.x).argmax(1) == test.labels).double().mean().item()
    assert judge.about["metrics"]["test_accuracy"] == round(right, 4)
    assert metrics.fd(test.x, "digits") < 1e-9  # the reference is of these very pictures


def test_a_saved_state_ships_the_averaged_weights_as_interim(house):
    train("digits", house, stop_at=4)
    state = house / "digits.state.safetensors"
    ship.ship("digits", state, measure=False)
    model = checkpoints.load("digits")
    assert model.about["interim"] is True and model.about["step"] == 4
    assert store.index()["checkpoints/digits.safetensors"]["interim"] == 4
    tensors, _ = checkpoints.load_tensors(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, tensors[f"ema.{key}"]), key


def test_a_model_of_another_recipe_is_refused(house, capsys):
    train("digits", house)
    file = str(house / "digits.safetensors")
    assert ship.main(["digits-features", "--from", file]) == 2
    assert "holds a model of 'digits', not of 'digits-features'" in capsys.readouterr().err
    assert json.loads((store.folder() / "index.json").read_text()) == {}


def test_the_bound_of_a_network_that_says_nothing(house):
    """An untrained network predicts eps = 0, whose error is E eps^2 = 1."""
    recipe = recipes.get("fashion-vp1000").but(
        data="digits", net=NET | {"out_channels": 2}, kind="eps", sd=1.0
    )
    model = training.build(recipe, data.load("digits"))
    found = ship.bound_terms(model.eval(), recipe, each=1)
    assert found["simple_loss"] == pytest.approx(1, abs=5 * (2 / 64000) ** 0.5)
    assert found["bits_per_dim"]["total"] > found["bits_per_dim"]["steps"] > 1


def test_two_codes_and_their_prior_are_measured(house, tmp_path):
    """A pair of models ships as one, and its prior draws through it."""
    net = {"name": "diffusion_lab.latent.diffae:Decoder", "z_dim": 3, "widths": (8, 16), "emb": 16}
    pair = recipes.get("fashion-diffae").but(
        data="digits", net=net | {"patch": 1}, options={"widths": (4, 8)}, steps=3, batch=8
    )
    for _ in training.train(pair.but(name="pair"), out=tmp_path):
        pass
    models = checkpoints.load(tmp_path / "pair.safetensors", device="cpu")
    short = pair.but(sampler={"sampler": "ddim", "steps": 3})
    train("digits-features", house)
    ship.ship("digits-features", house / "digits-features.safetensors", measure=False)
    ship.ship_reference("digits")
    with pytest.warns(UserWarning, match="singular"):
        found = ship.two_codes_quality(models, short, n=20)
    assert found["pictures"] == 20 and 0 < found["rmse_own"] < found["rmse_other"]
    file = str(tmp_path / "pair.safetensors")
    recipe = recipes.get("fashion-diffae-z").but(
        name="z", data="digits", options={"autoencoder": file}, steps=3, batch=8
    )
    for _ in training.train(recipe, out=tmp_path):
        pass
    drawn = checkpoints.load(tmp_path / "z.safetensors", device="cpu")
    with pytest.warns(UserWarning, match="singular"):
        found = ship.prior_quality(drawn, recipe, n=20)
    assert found["pictures"] == 20 and found["fd"] > 0 and found["steps"] == 20


def test_a_decoder_that_draws_is_measured_beside_the_mean(house, tmp_path):
    first = recipes.get("fashion-vq").but(name="vq", data="digits", options={}, steps=3, batch=8)
    first = first.but(net=first.net | {"widths": (8,), "size": 16})
    net = {"name": "diffusion_lab.latent.divae:CodeUNet", "code_channels": 4, "patch": 1}
    recipe = recipes.get("fashion-divae").but(
        name="decoder",
        data="digits",
        net=net | {"widths": (8, 16), "emb": 16},
        options={"autoencoder": str(tmp_path / "vq.safetensors")},
        steps=3,
        batch=8,
        sampler={"steps": 3},
    )
    for one in (first, recipe):
        for _ in training.train(one, out=tmp_path):
            pass
    train("digits-features", house)
    ship.ship("digits-features", house / "digits-features.safetensors", measure=False)
    ship.ship_reference("digits")
    model = checkpoints.load(tmp_path / "decoder.safetensors", device="cpu")
    with pytest.warns(UserWarning, match="singular"):
        found = ship.decoder_quality(model, recipe, n=20)
    assert found["pictures"] == 20 and found["nfe"] == 3
    for way in ("mean", "drawn"):
        assert found[way]["mse"] > 0 and found[way]["fd"] > 0
        assert 0 <= found[way]["consistency"] <= 1
    x = data.load("digits", "test").x[:20]
    back = checkpoints.load(tmp_path / "vq.safetensors", device="cpu")(x).clamp(-1, 1)
    assert found["mean"]["mse"] == pytest.approx((back - x).square().mean().item())
