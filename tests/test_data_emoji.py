"""The emoji: that they are the ones on the card, that no two parts share a picture, and colours."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import data
from diffusion_lab.data import build, emoji, emoji_recipe, store
from diffusion_lab.data.colours import COLOURS, colour_word
from diffusion_lab.data.styles import BLOCK, SEPIA, STYLES, styled
from diffusion_lab.errors import DataError
from diffusion_lab.files import sha256

SPLITS = data.SPLITS["emoji"]
SETS = {split: data.load("emoji", split) for split in SPLITS}
WORDS = {split: emoji.records(split) for split in SPLITS}
ALL = [record for split in SPLITS for record in WORDS[split]]
HASHES = {
    "train": "e28e82580e7a3d03625d25f20dd602bca3d15e16ca66459504ecbde77fdf9692",
    "test": "7ee8ff369f50b4921a18cb1fbd1de60860e89369bc45b5378cb21bfa214a50ec",
    "rare": "56b2c3974d6295aa9333a53322064a4655cb6ffa77185272b98950e2d6199733",
    "flags": "ba821f35ebbe1477bd04ed85787db3529c28594346463ad22e9fb3e07ad6ceab",
}


def pixels(split: str) -> np.ndarray:
    return data.to_uint8(SETS[split].x)


# ---- what is in the data ------------------------------------------------------------------------
@pytest.mark.parametrize("split", SPLITS)
def test_pictures_are_the_recorded_ones(split):
    part = SETS[split]
    assert (part.name, part.split, part.levels, part.hash) == ("emoji", split, 256, HASHES[split])
    assert part.x.shape[1:] == (3, 32, 32) and part.x.is_contiguous()
    assert sha256(pixels(split).tobytes()) == part.hash  # there and back, channels last
    assert part.std == pytest.approx(part.x.double().std(correction=0).item(), rel=1e-7)
    assert (part.x.min(), part.x.max()) == (-1, 1)


def test_counts_by_category():
    assert {split: len(part) for split, part in SETS.items()} == {
        "train": 1207,
        "test": 215,
        "rare": 174,
        "flags": 261,
    }
    counts = Counter(record.category for record in ALL)
    assert counts == {
        "smileys & emotion": 169,
        "people & body": 346,
        "animals & nature": 159,
        "food & drink": 131,
        "travel & places": 218,
        "activities": 85,
        "objects": 264,
        "symbols": 224,
        "flags": 261,
    }
    assert len({record.subcategory for record in ALL}) == 98


def test_labels_are_the_categories_of_the_words():
    assert (*data.CLASSES["emoji"], "flags") == emoji.CATEGORIES
    for split in SPLITS:
        named = [SETS[split].classes[label] for label in SETS[split].labels]
        assert named == [record.category for record in WORDS[split]]
        assert len(SETS[split].classes) == (9 if split == "flags" else 8)
    assert set(SETS["flags"].labels.tolist()) == {8}


def test_known_pictures_have_their_words():
    """Red apple, black heart, the flag of Japan: their middles have that colour."""
    for short_name, colour, low, high in [
        ("apple", "red", (150, 0, 0), (255, 90, 90)),
        ("black_heart", "black", (0, 0, 0), (90, 90, 90)),
        ("jp", "red", (180, 0, 0), (255, 60, 80)),
    ]:
        split, i = next(
            (s, i) for s in SPLITS for i, r in enumerate(WORDS[s]) if r.short_name == short_name
        )
        middle = pixels(split)[i, 18, 16]
        assert (middle >= low).all() and (middle <= high).all(), short_name
        assert WORDS[split][i].colour == colour
    apple = next(record for record in ALL if record.short_name == "apple")
    assert apple.character == "🍎" and apple.subcategory == "food-fruit"
    assert "fruit" in apple.keywords and apple.name == "red apple"
    assert "flag-sark" not in {record.short_name for record in ALL}


def test_no_picture_and_no_name_stands_twice():
    every = np.concatenate([pixels(split) for split in SPLITS])
    assert len({picture.tobytes() for picture in every}) == len(every) == 1857
    for name in ("short_name", "character"):
        assert len({getattr(record, name) for record in ALL}) == 1857
    made = [emoji.made_up(record.short_name) for record in ALL]
    assert len(set(made)) == 1857 and made[0] == emoji.made_up(ALL[0].short_name)
    assert emoji.made_up("t-rex") == "dimbotux"  # the same in every process


def test_no_part_has_a_picture_that_is_nearly_one_of_another():
    """Every pair of pictures from two parts differs by 19 levels (flags: are of another kind)."""
    flat = {split: pixels(split).reshape(len(SETS[split]), -1).astype(float) for split in SPLITS}
    for one, other in [("train", "test"), ("train", "rare"), ("test", "rare")]:
        a, b = flat[one], flat[other]
        apart = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        assert np.sqrt(apart.min() / a.shape[1]) >= 19
    near = flat["train"]
    apart = (near**2).sum(1)[:, None] + (near**2).sum(1) - 2 * near @ near.T
    np.fill_diagonal(apart, np.inf)
    assert np.sqrt(apart.min() / near.shape[1]) < 8  # within a part there are such pairs


def test_groups_are_in_one_part_and_parts_follow_from_their_names():
    homes = {}
    for split in SPLITS:
        for record in WORDS[split]:
            homes.setdefault(record.group, set()).add(split)
            assert emoji_recipe.split_of(record.category, record.group) == split
    assert {len(home) for home in homes.values()} == {1}
    sizes = Counter(record.group for record in ALL)
    assert sizes["clock1"] == 24 and sizes.most_common(1)[0][0] == "clock1"
    by_name = {record.short_name: record.group for record in ALL}
    assert len({by_name[name] for name in ("cook", "male-cook", "female-cook")}) == 1


def test_the_parts_are_the_same_in_whatever_order_the_files_come():
    entries = [
        {"unified": "1F9D1-200D-1F373", "short_name": "cook"},
        {"unified": "2640-FE0F", "short_name": "female_sign"},  # nothing but what is loose
        {"unified": "1F469-200D-1F373", "short_name": "a-cook"},
        {"unified": "2642-FE0F", "short_name": "male_sign"},
    ]
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[1], images[2], images[3] = 100, 200, 119  # 19 apart is not near
    assert emoji_recipe.groups(entries, images) == {
        0: "a-cook",
        1: "female_sign",
        2: "a-cook",
        3: "male_sign",
    }
    images[3] = 118
    forth = emoji_recipe.groups(entries, images)
    back = emoji_recipe.groups(entries[::-1], images[::-1])
    assert forth == {3 - i: name for i, name in back.items()} and forth[3] == "female_sign"


# ---- colours ------------------------------------------------------------------------------------
FLAT = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (255, 221, 50),
    "green": (60, 160, 60),
    "blue": (30, 90, 220),
    "purple": (150, 50, 190),
    "pink": (255, 170, 190),
    "brown": (110, 70, 50),
    "black": (20, 20, 20),
    "gray": (128, 128, 128),
    "white": (225, 225, 225),
}


def flat(*colours: tuple[int, int, int]) -> torch.Tensor:
    """Pictures of one colour each, (N, 3, 8, 8)."""
    return (torch.tensor(colours) / 127.5 - 1).reshape(-1, 3, 1, 1).expand(-1, 3, 8, 8).clone()


def test_flat_colours_have_their_words():
    assert tuple(FLAT) == COLOURS
    assert colour_word(flat(*FLAT.values())) == list(FLAT)
    on_white = torch.ones(11, 3, 8, 8)
    on_white[:, :, 2:4, 2:4] = flat(*FLAT.values())[:, :, :2, :2]
    assert colour_word(on_white) == list(FLAT)


def test_edges_of_the_colour_word():
    assert colour_word(flat((255, 255, 255), (0, 0, 0), (240, 240, 240))) == [
        *("white", "black", "white")
    ]
    assert colour_word(flat((255, 0, 1), (255, 0, 0), (255, 0, 80))) == ["red", "red", "pink"]
    half = flat(FLAT["red"])
    half[..., :4] = flat(FLAT["green"])[..., :4]
    assert colour_word(half) == ["red"]  # 190 of chroma against 100
    half[..., 3:] = flat(FLAT["blue"])[..., 3:]
    half[..., :3] = flat(FLAT["yellow"])[..., :3]
    assert colour_word(half) == ["blue"]  # 5 columns of 190 against 3 of 205
    same = torch.cat([flat((255, 0, 0))[..., :4], flat((0, 0, 255))[..., :4]], 3)
    assert colour_word(same) == colour_word(same.flip(3)) == ["red"]  # a tie: the first of COLOURS
    grey = flat(FLAT["gray"])
    grey[..., 0] = flat(FLAT["red"])[..., 0]
    assert colour_word(grey) == ["gray"]  # an eighth of the pixels has a hue
    grey[..., :2] = flat(FLAT["red"])[..., :2]
    assert colour_word(grey) == ["red"]  # a quarter
    assert colour_word(3 * flat(FLAT["red"])) == ["red"]  # clipped, as samples are


def test_every_hue_has_a_word_and_the_wheel_closes():
    import colorsys

    wheel = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / 360, 1, 1)) for i in range(360)]
    said = colour_word(flat(*wheel))
    changes = [(said[i - 1], said[i], i) for i in range(360) if said[i - 1] != said[i]]
    assert [one for one, _, _ in changes] == [
        *("red", "orange", "yellow", "green", "blue", "purple", "pink")
    ]
    ends = (17, 40, 68, 165, 250, 305, 345)
    assert all(abs(i - end) <= 1 for (_, _, i), end in zip(changes, ends))


@pytest.mark.parametrize("split", SPLITS)
def test_stored_colours_are_the_measured_ones(split):
    assert colour_word(SETS[split].x) == [record.colour for record in WORDS[split]]


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), np.zeros((1, 3, 8, 8)), "red"],
    ids=["one", "grey", "numpy", "text"],
)
def test_the_colour_word_refuses(bad):
    with pytest.raises(ValueError, match=r"colour pictures \(N, 3, H, W\)"):
        colour_word(bad)


# ---- styles -------------------------------------------------------------------------------------
X = SETS["test"].x


@pytest.mark.parametrize("name", STYLES)
def test_a_style_keeps_shape_range_and_input_and_draws_nothing(name):
    before, state = X.clone(), torch.get_rng_state()
    made = styled(X, name)
    assert made.shape == X.shape and made.dtype == X.dtype
    assert made.abs().max() <= 1 and torch.equal(made, styled(X, name))
    assert torch.equal(styled(X[3:5], name), made[3:5])  # picture by picture
    assert torch.equal(X, before) and torch.equal(state, torch.get_rng_state())
    assert (made - X).square().mean() > 1e-3


def test_what_is_true_of_each_style():
    grey = styled(X, "grey")
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    assert styled(flat((255, 0, 0)), "grey")[0, 0, 0, 0] == pytest.approx(2 * 0.299 - 1)
    torch.testing.assert_close(styled(grey, "grey"), grey)
    dark, light = torch.tensor(SEPIA)
    share = (styled(X, "sepia") - dark.reshape(3, 1, 1)) / (light - dark).reshape(3, 1, 1)
    torch.testing.assert_close(share, ((grey + 1) / 2).expand_as(share), atol=1e-5, rtol=0)
    assert torch.equal(styled(styled(X, "inverted"), "inverted"), X)
    poster = styled(X, "posterised")
    assert (poster.unique() - torch.tensor([-1, -1 / 3, 1 / 3, 1])).abs().max() < 1e-6
    assert torch.equal(styled(poster, "posterised"), poster)
    blocks = styled(X, "pixelated")
    corner = blocks[..., ::BLOCK, ::BLOCK].repeat_interleave(BLOCK, 2)
    assert torch.equal(blocks, corner.repeat_interleave(BLOCK, 3))
    torch.testing.assert_close(blocks.mean((2, 3)), X.mean((2, 3)))
    assert (styled(flat(*FLAT.values()), "outline") == 1).all()
    step = torch.ones(1, 3, 8, 8)
    step[..., 4:] = -1
    assert styled(step, "outline")[0, 1, 3].tolist() == [1, 1, 1, -1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: styled(X, "gray"), "unknown style 'gray'.*Did you mean 'grey'"),
        (lambda: styled(X[0], "grey"), r"colour pictures \(N, 3, H, W\); got \(3, 32, 32\)"),
        (lambda: styled(X.byte(), "grey"), "tensor of floats"),
        (lambda: styled(X[..., :30], "pixelated"), "H and W that 4 divides"),
        (lambda: data.load("emoji", "flag"), "unknown split of emoji 'flag'.*'flags'"),
        (lambda: data.load("fashion", "rare"), "unknown split of fashion"),
        (lambda: emoji.records("all"), "unknown split of emoji 'all'"),
        (lambda: data.load("emoji", full=True), "emoji has one size only"),
    ],
)
def test_wrong_questions(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# ---- the files ----------------------------------------------------------------------------------
def test_records_are_the_lines_of_the_file_and_its_size_is_small():
    text = store.path("emoji.json").read_text(encoding="utf-8")
    assert sum(line.startswith('{"character"') for line in text.splitlines()) == 1857
    assert set(json.loads(text)["train"][0]) == {field.name for field in fields(emoji.Record)}
    total = sum(store.index()[name]["bytes"] for name in ("emoji.npz", "emoji.json"))
    assert total <= 2.5e6


def test_the_listed_array_hashes_are_those_in_the_file():
    listed = store.index()["emoji.npz"]["arrays"]
    with np.load(store.path("emoji.npz")) as arrays:
        assert {name: sha256(arrays[name].tobytes()) for name in arrays.files} == listed


@pytest.mark.parametrize("text", ["{", "{}", '{"test": [{"name": "x"}]}', '{"test": 3}'])
def test_another_file_of_words_is_refused(text, tmp_path, monkeypatch):
    (tmp_path / "emoji.json").write_text(text)
    monkeypatch.setattr(store, "path", lambda name: tmp_path / name)
    with pytest.raises(DataError, match="does not hold the words"):
        emoji.records("test")


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"test_images": np.zeros((2, 32, 32), np.uint8), "test_labels": np.zeros(2, np.uint8)},
        {"test_images": np.zeros((2, 32, 32, 3), np.uint8), "test_labels": np.full(2, 8, np.uint8)},
        {"test_images": np.zeros((2, 32, 32, 3), np.uint8), "test_labels": np.zeros(3, np.uint8)},
        {"test_images": np.zeros((2, 32, 32, 3)), "test_labels": np.zeros(2, np.uint8)},
    ],
    ids=["none", "grey", "labels of flags", "three labels", "floats"],
)
def test_another_file_of_pictures_is_refused(arrays, tmp_path, monkeypatch):
    np.savez(tmp_path / "emoji.npz", **arrays)
    monkeypatch.setattr(store, "path", lambda name: tmp_path / name)
    with pytest.raises(DataError, match="does not hold the pictures"):
        data.load("emoji", "test")


# ---- the recipe ---------------------------------------------------------------------------------
def test_a_picture_is_put_on_white_and_halved():
    from io import BytesIO

    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 0], rgba[:, :32, 3] = 200, 255  # red 200 on the left, nothing on the right
    rgba[0, 0, 3], rgba[0, 62:, 3] = 0, 128
    file = BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    small = emoji_recipe._small(file.getvalue())
    assert small[5, 5].tolist() == [200, 0, 0] and small[5, 20].tolist() == [255, 255, 255]
    assert small[0, 0].tolist() == [214, 64, 64]  # one of four is white: 213.75, 63.75
    half = np.array([200, 0, 0]) * 128 / 255 + 255 * 127 / 255
    assert small[0, 31].tolist() == np.floor((half + 255) / 2 + 0.5).tolist()
    Image.fromarray(rgba[:32]).save(file := BytesIO(), "PNG")
    with pytest.raises(DataError, match="64 x 64 are expected"):
        emoji_recipe._small(file.getvalue())


def test_the_recipe_says_what_is_missing_and_refuses_others(tmp_path, capsys):
    assert build.main(["emoji", "--packages", str(tmp_path)]) == 1
    assert "run 'npm pack emoji-datasource-google@16.0.0'" in capsys.readouterr().err
    (tmp_path / next(iter(emoji_recipe.PACKAGES))).write_bytes(b"another")
    assert build.main(["emoji", "--packages", str(tmp_path)]) == 1
    assert "another package than expected" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build.main(["emoji"])
    assert "--packages DIR" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    "DIFFUSION_LAB_PACKAGES" not in os.environ,
    reason="DIFFUSION_LAB_PACKAGES names no folder with the two packages",
)
def test_the_recipe_rebuilds_the_files():
    arrays, words = emoji_recipe.build_emoji(Path(os.environ["DIFFUSION_LAB_PACKAGES"]))
    assert words.encode() == store.path("emoji.json").read_bytes()
    with np.load(store.path("emoji.npz")) as stored:
        assert sorted(arrays) == sorted(stored.files)
        assert all(np.array_equal(arrays[name], stored[name]) for name in arrays)
    assert build.npz_bytes(arrays) == store.path("emoji.npz").read_bytes()
