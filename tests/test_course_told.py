"""Pictures from texts: three kinds of model through one door, and how well they obey."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import gen

from diffusion_lab import checkpoints
from diffusion_lab.course import told
from diffusion_lab.errors import CheckpointError
from diffusion_lab.training import recipes, train

SMALL = {"name": "text_unet", "vocabulary": 1185, "patch": 2, "widths": (8, 16), "emb": 16}
CODES = recipes.get("emoji-ar").net | {"width": 16, "layers": 1, "heads": 2}
TINY = {
    "emoji-ldm": {"net": SMALL},
    "emoji-text": {"net": SMALL | {"patch": 4}},
    "emoji-vqdiffusion": {"net": CODES},
    "emoji-ar": {"net": CODES},
}
TEXTS = ["red heart", "dog", "car"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    out = tmp_path_factory.mktemp("told")
    for name, changes in TINY.items():
        recipe = recipes.get(name).but(steps=2, batch=4, **changes)
        for _ in train(recipe, out=out, report_every=2):
            pass
    return {one: checkpoints.load(out / f"{one}.safetensors", device="cpu") for one in TINY}


def settings(name, scale=2.0):
    return {"scale": scale} if name == "emoji-ar" else {"steps": 3, "scale": scale}


@pytest.mark.parametrize("name", TINY)
def test_every_kind_of_model_draws_pictures_of_texts(name, models):
    model = models[name]
    drawn = told.draw(model, TEXTS, **settings(name))
    again = told.draw(model, TEXTS, **settings(name))
    assert drawn.x.shape == (3, 3, 32, 32) and torch.equal(drawn.x, again.x)
    calls = 80 if name == "emoji-ar" else 3
    assert drawn.nfe == 2 * calls  # with and without the text
    assert told.draw(model, TEXTS, **settings(name, 1.0)).nfe == calls
    assert not torch.equal(told.draw(model, TEXTS, seed=1, **settings(name)).x, drawn.x)
    with pytest.raises(ValueError, match="list of at least one"):
        told.draw(model, "red heart", **settings(name))


def test_codes_can_be_cut_and_revealed(models):
    model = copy.deepcopy(models["emoji-vqdiffusion"])
    with torch.no_grad():  # one that is sure of something
        for weight in model.net.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=gen(weight.numel()))
    one = told.draw(model, TEXTS, steps=4, purity=1.0)
    two = told.draw(model, TEXTS, steps=4, purity=None)
    three = told.draw(model, TEXTS, steps=4, top=0.5)
    assert not torch.equal(one.x, two.x) and not torch.equal(two.x, three.x)


def test_batches_have_noise_of_their_own(models):
    """Two texts that are the same, in two batches: two pictures."""
    for name in ("emoji-vqdiffusion", "emoji-ldm"):
        x = told.draw(models[name], ["dog", "dog"], batch=1, **settings(name)).x
        assert not torch.equal(x[0], x[1]), name


def test_a_decoder_of_other_latents_is_refused(models):
    vq = checkpoints.load("emoji-vq", device="cpu")
    with torch.no_grad():
        next(vq.parameters()).mul_(2)
    with pytest.raises(CheckpointError, match="is another"):
        told.draw(models["emoji-ar"], TEXTS, scale=1.0, autoencoder=vq)


def test_obedience_of_a_model_that_copies_and_of_one_that_does_not(models, monkeypatch):
    """Who shows the emoji themselves is judged as they are, and who mixes them up by chance."""
    from diffusion_lab import data
    from diffusion_lab.walk import Result

    real = torch.cat([data.load("emoji", one).x for one in ("train", "test", "rare")])
    model = models["emoji-ldm"]
    monkeypatch.setattr(told, "draw", lambda *_, **__: Result(real, 5, 0.1, []))
    found = told.obedience(model)
    assert found["fd"] < 1e-9 and found["nfe"] == 5 and found["pictures"] == len(real) == 1596
    for part, n in (("train", 1207), ("held_out", 389)):
        row = found[part]
        assert row["n"] == n and 0.4 < row["judged"] == row["real_judged"]
        assert row["chosen"] == row["real_chosen"] > 8 / 20
        assert row["copied"] > 0.95 if part == "train" else row["copied"] < 0.1
        share = row["judged"]
        assert row["judged_error"] == pytest.approx((share * (1 - share) / n) ** 0.5)
    mixed = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]
    monkeypatch.setattr(told, "draw", lambda *_, **__: Result(mixed, 5, 0.1, []))
    row = told.obedience(model)["held_out"]
    assert row["chosen"] == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 389) ** 0.5)
    assert row["judged"] < 0.3 < row["real_judged"]


def test_what_a_cache_saves_is_counted(models):
    """One code after another: with the cache each call works on one place."""
    from diffusion_lab import metrics
    from diffusion_lab.discrete import categorical
    from diffusion_lab.discrete.autoregressive import in_order

    model, spent = models["emoji-ar"], {}
    for cache in (True, False):
        with metrics.Meter(model, pictures=2) as meter:
            categorical.generate(model, 2, step=in_order(cache=cache))
        spent[cache] = meter.cost
    assert spent[True].nfe == spent[False].nfe == 80
    places = sum(range(1, 81)) / 80
    assert places / 4 < spent[False].flops / spent[True].flops < places + 1
