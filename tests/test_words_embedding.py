"""The joint embedding: unit vectors, lambda told and refused, texts as bags, gradients to x_t."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from helpers import gen
from torch.nn import functional

from diffusion_lab import checkpoints, data, nets
from diffusion_lab.data.trigrams import NUMBERS, trigrams
from diffusion_lab.words import JointEmbedding
from diffusion_lab.words.embedding import CLEAN, TextEncoder, padded

NAME = "diffusion_lab.words.embedding:JointEmbedding"
TEXTS = ["red heart", "", "a cat with wry smile", "cat"]


@lru_cache
def made(low: float = CLEAN) -> JointEmbedding:
    torch.manual_seed(0)
    return nets.make(NAME, width=16, widths=[8, 16], lam_range=[low, CLEAN]).eval()


def noise(n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=gen(seed), dtype=torch.float32)


@torch.no_grad()
def test_both_sides_are_unit_vectors():
    model = made(-3.0)
    for lam in (-3.0, 0.0, torch.tensor([-3.0, -1.0, 2.0, 5.0])):
        length = model.pictures(noise(), lam).norm(dim=1)
        torch.testing.assert_close(length, torch.ones(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.texts(TEXTS).norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_picture_has_its_vector_whatever_stands_beside_it():
    model, x = made(-3.0), noise()
    together = model.pictures(x, 0.5)
    alone = torch.cat([model.pictures(one[None], torch.tensor([0.5])) for one in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    said = torch.cat([model.texts([text]) for text in TEXTS])
    torch.testing.assert_close(model.texts(TEXTS), said, rtol=0, atol=1e-6)
    twice = model.texts(["cat", "red heart", "CAT!"])
    assert torch.equal(twice[0], twice[2])


@torch.no_grad()
def test_texts_are_means_of_their_trigrams():
    text = TextEncoder(8, 4)
    table = text.bag.weight
    bags = padded(["cat", "red cat", ""])
    assert bags.shape == (3, 8) and (bags == NUMBERS).sum(1).tolist() == [4, 0, 8]
    expected = torch.stack([table[trigrams("cat")].mean(0), table[trigrams("red cat")].mean(0)])
    torch.testing.assert_close(text(bags)[:2], text.mlp(expected))
    torch.testing.assert_close(text(bags)[2], text.mlp(torch.zeros(8)))
    assert padded(["", ""]).shape == (2, 1)


@torch.no_grad()
def test_film_scales_and_shifts_the_normalised_channels():
    """The encoder written out, layer by layer."""
    image = made(-3.0).image
    lam, h = torch.tensor([-1.0, 0.0, 1.0, 5.0]), noise()
    level = image.level(lam, None, 4)
    for conv, norm, film in zip(image.convs, image.norms, image.films, strict=True):
        h = functional.conv2d(h, conv.weight, conv.bias, 2, 1)
        h = functional.group_norm(h, norm.num_groups, norm.weight, norm.bias, norm.eps)
        a, b = (level @ film.weight.T + film.bias).split(h.shape[1], 1)
        h = functional.silu(h + a[:, :, None, None] * h + b[:, :, None, None])
    torch.testing.assert_close(image(noise(), lam), image.last(h.mean((2, 3))))


@torch.no_grad()
def test_lambda_is_told_and_above_five_it_is_five():
    model, x = made(-3.0), noise() / 4
    one = model.pictures(x, 5.0)
    assert torch.equal(one, model.pictures(x, 9.0)) and torch.equal(one, model.pictures(x))
    assert torch.equal(one, model.pictures(x, math.inf))
    assert (one - model.pictures(x, 0.0)).abs().max() > 1e-3
    assert torch.equal(made().pictures(x, 7.0), made().pictures(x))


@pytest.mark.parametrize(
    ("low", "lam", "says"),
    [
        (CLEAN, 0.0, "at least 5, got 0: .*clean pictures alone.*emoji-embedding-a-noisy"),
        (-3.0, -3.5, "at least -3, got -3.5: noisier pictures"),
        (-3.0, math.nan, "at least -3, got nan"),
        (-3.0, torch.tensor([0.0, 1.0, -4.0, 2.0]), "got -4"),
        (-3.0, torch.zeros(3), r"one for each of 4 pictures; got \(3,\)"),
        (-3.0, torch.zeros(4, 1), r"a number or \(B,\)"),
    ],
)
def test_lambda_that_it_does_not_know(low, lam, says):
    with pytest.raises(ValueError, match=says):
        made(low).pictures(noise(), lam)


def test_wrong_pictures_and_texts():
    model = made()
    for x, says in (
        (torch.zeros(1, 1, 32, 32), r"x of shape \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 2, 32), "at least 4"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "tensor of floats"),
        (torch.full((2, 3, 32, 32), 200.0), "pixels 0..255 become data"),
        (torch.full((2, 3, 32, 32), math.nan), "nan or inf"),
    ):
        with pytest.raises(ValueError, match=says):
            model.pictures(x)
    with pytest.raises(ValueError, match=r"several texts, as \['cat'\]"):
        model.texts("cat")
    with pytest.raises(ValueError, match="at least one text"):
        model.texts([])
    with pytest.raises(ValueError, match="a text is a str; got int"):
        model.texts([3])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"width": 0}, "width must be a whole number >= 1"),
        ({"widths": (8, 0)}, r"widths\[1\]"),
        ({"lam_range": (5.0, -3.0)}, "lowest, highest"),
        ({"lam_range": (-3.0, 4.0)}, "ends at 5"),
    ],
)
def test_wrong_sizes(arguments, says):
    with pytest.raises(ValueError, match=says):
        JointEmbedding(**arguments)


def test_gradients_reach_the_noisy_picture_one_by_one():
    model, x = made(-3.0), noise().double()
    model = nets.make(**model.spec()).double()
    goal = model.texts(["red heart"])[0].detach()
    x.requires_grad_(True)
    (model.pictures(x, -1.0) @ goal).sum().backward()
    whole = x.grad
    alone = x.detach()[:1].requires_grad_(True)
    value = (model.pictures(alone, -1.0) @ goal).sum()
    value.backward()
    torch.testing.assert_close(whole[:1], alone.grad)
    step = torch.randn(alone.shape, generator=gen(2), dtype=torch.float64)
    with torch.no_grad():
        ends = [(model.pictures(alone + s * step, -1.0) @ goal).item() for s in (1e-5, -1e-5)]
    slope = (alone.grad * step).sum().item()
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_the_temperature_starts_as_in_clip_and_stays_below_100():
    model = nets.make(NAME, width=8, widths=[8])
    assert model.temperature.item() == pytest.approx(1 / 0.07)
    with torch.no_grad():
        model.tau.fill_(7.0)
    assert model.temperature.item() == 100


def test_it_is_saved_and_loaded(tmp_path):
    before = made(-3.0)
    checkpoints.save(tmp_path / "m.safetensors", before)
    after = checkpoints.load(tmp_path / "m.safetensors", device="cpu")
    assert after.lam_range == (-3.0, 5.0)
    torch.testing.assert_close(before.texts(TEXTS), after.texts(TEXTS), rtol=0, atol=1e-6)
    torch.testing.assert_close(before.pictures(noise()), after.pictures(noise()), rtol=0, atol=1e-5)


# ---- the shipped ones ---------------------------------------------------------------------------
SHIPPED = [name for name in checkpoints.shipped() if name.startswith("emoji-embedding-")]


def test_four_embeddings_are_shipped_and_none_draws_pictures():
    assert [f"emoji-embedding-{one}" for one in ("a", "a-noisy", "b", "b-noisy")] == SHIPPED
    from diffusion_lab.errors import CheckpointError

    with pytest.raises(
        CheckpointError, match="can: digits, emoji-ldm, emoji-text, fashion"
    ) as error:
        checkpoints.load_denoiser("emoji-embedding-a")
    assert "embedding" not in str(error.value).split("can:")[1]


@pytest.mark.parametrize("name", SHIPPED)
def test_words_it_never_saw_lie_near_their_relatives(name):
    model = checkpoints.load(name, device="cpu")
    near, far = (model.texts(["smileyness"]) @ model.texts(["smiley", "ambulance"]).T)[0]
    assert near > far


@torch.no_grad()
@pytest.mark.parametrize("name", SHIPPED)
def test_colours_of_hearts(name):
    """Eight of the training emoji differ in a colour word and its colour alone."""
    model, emoji = checkpoints.load(name, device="cpu"), data.load("emoji")
    records = data.emoji.records("train")
    hearts = [i for i, r in enumerate(records) if r.name.endswith(" heart") and r.colour in r.name]
    assert len(hearts) >= 4
    found = model.texts([records[i].name for i in hearts]) @ model.pictures(emoji.x[hearts]).T
    assert (found.argmax(1) == torch.arange(len(hearts))).double().mean() >= 0.75
