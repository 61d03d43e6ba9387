"""A folder of one's own pictures: sizes, grey, classes, what is damaged, and a training on it."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import checkpoints, cli, data, training
from diffusion_lab.errors import DataError
from diffusion_lab.training import recipes

RNG = np.random.default_rng(0)


def picture(file, size=(8, 12), mode="L", value=None):
    """Write a picture of (height, width); returns its pixels (H, W) or (H, W, 3)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, 3)
    pixels = RNG.integers(0, 256, shape, np.uint8) if value is None else np.full(shape, value)
    pixels = pixels.astype(np.uint8)
    Image.fromarray(pixels).save(file)
    return pixels


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "photos"


def test_grey_pictures_of_one_size_come_as_they_are(folder, capsys):
    pixels = [picture(folder / name) for name in ("b.png", "a.png", "c.bmp")]
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_text("no picture")
    found = data.from_folder(folder)
    assert found.x.shape == (3, 1, 8, 12) and found.x.dtype == torch.float32
    ours = np.stack([pixels[1], pixels[0], pixels[2]])  # by name
    assert np.array_equal(data.to_uint8(found.x)[..., 0], ours)
    assert torch.equal(found.x[:, 0], torch.from_numpy(ours).float() / 127.5 - 1)
    assert found.labels is None and found.classes == () and found.condition == {}
    assert found.std == pytest.approx(found.x.double().std(correction=0).item(), rel=1e-5)
    assert (found.name, found.levels, len(found.hash)) == ("photos", 256, 64)
    said = capsys.readouterr()
    assert said.out == "" and said.err == (f"3 pictures from {folder}: grey, 8 x 12; no classes\n")


def test_one_picture_in_colour_makes_all_of_them_so_unless_told(folder, capsys):
    grey, colour = picture(folder / "a.png"), picture(folder / "b.png", mode="RGB")
    found = data.from_folder(folder)
    assert np.array_equal(data.to_uint8(found.x), np.stack([grey[..., None].repeat(3, 2), colour]))
    assert "colour, 8 x 12" in capsys.readouterr().err
    found = data.from_folder(folder, grey=True)
    assert found.x.shape == (2, 1, 8, 12)
    weights = np.array([0.299, 0.587, 0.114])  # of Rec. 601, as PIL has them
    assert np.abs(data.to_uint8(found.x)[1, ..., 0] - colour @ weights).max() <= 1
    assert data.from_folder(folder, grey=False).x.shape == (2, 3, 8, 12)


def test_subfolders_are_classes_if_all_pictures_lie_in_them(folder, capsys):
    for name in ("cat/1.png", "cat/old/2.png", "ant/1.png", "bee/1.png"):
        picture(folder / name)
    found = data.from_folder(folder)
    assert found.classes == ("ant", "bee", "cat") and found.labels.tolist() == [0, 1, 2, 2]
    assert "3 classes (ant, bee, cat)" in capsys.readouterr().err
    assert found.null["label"] == 3 and torch.equal(found.condition["label"], found.labels)
    moved = data.from_folder(folder)
    assert moved.hash == found.hash
    (folder / "cat").rename(folder / "dog")
    assert data.from_folder(folder).hash != found.hash  # classes belong to what the data are
    picture(folder / "loose.png")
    assert data.from_folder(folder).labels is None


def test_pictures_are_padded_to_what_the_network_takes(folder, capsys):
    pixels = picture(folder / "a.png", (6, 9))
    found = data.from_folder(folder, multiple=4)
    assert found.x.shape == (1, 1, 8, 12)
    assert np.array_equal(data.to_uint8(found.x)[0, 1:7, 1:10, 0], pixels)
    assert np.array_equal(data.to_uint8(found.x)[0, 0, 1:10, 0], pixels[0])  # the edge, repeated
    assert "6 x 9, padded to 8 x 12" in capsys.readouterr().err


def test_pictures_of_other_sizes_are_scaled_and_cut(folder, capsys):
    picture(folder / "a.png", (100, 200), value=200)
    picture(folder / "b.png", (60, 30), value=200)
    with pytest.raises(ValueError, match="from 60 x 30 to 100 x 200: say which size"):
        data.from_folder(folder)
    for options in ({"size": 16}, {"size": (16, 16)}, {"multiple": 4, "otherwise": 16}):
        found = data.from_folder(folder, **options)
        assert found.x.shape == (2, 1, 16, 16) and (data.to_uint8(found.x) == 200).all()
        assert "scaled and cut to 16 x 16" in capsys.readouterr().err
    for size, why in ((0, "a height must be"), ((4,), "one number, or"), ("4", "a height|one num")):
        with pytest.raises(ValueError, match=why):
            data.from_folder(folder, size)
    with pytest.raises(ValueError, match="multiples of 4"):
        data.from_folder(folder, 10, multiple=4)
    wide = np.zeros((10, 30), np.uint8)  # the middle third is kept
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(folder / "a.png")
    (folder / "b.png").unlink()
    assert (data.to_uint8(data.from_folder(folder, 10).x) == 255).all()


def test_what_cannot_be_read_is_named_and_skipped(folder, capsys):
    picture(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    whole = (folder / "a.png").read_bytes()
    (folder / "c.png").write_bytes(whole[: len(whole) // 2])
    assert len(data.from_folder(folder)) == 1
    said = capsys.readouterr().err
    for name in ("b.png", "c.png"):
        assert said.count(f"{folder / name} is skipped: it cannot be read") == 1
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"no picture in .*: 2 files are damaged, b.png the first"):
        data.from_folder(folder)
    with pytest.raises(DataError, match="is no folder of pictures"):
        data.from_folder(folder / "gone")


def test_unusual_pictures_are_read_as_they_are_seen(folder):
    folder.mkdir()
    deep = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040).astype(np.uint16)
    Image.fromarray(deep).save(folder / "a.png")  # 16 bits
    assert np.array_equal(data.to_uint8(data.from_folder(folder).x)[0, ..., 0], np.rint(deep / 257))
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(folder / "a.png")  # nothing but a hidden colour: white
    assert (data.to_uint8(data.from_folder(folder).x) == 255).all()
    turned = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    turned.save(folder / "a.png", exif=exif)
    assert data.from_folder(folder).x.shape == (1, 1, 8, 6)


# ---- and a training on it -----------------------------------------------------------------------
@pytest.fixture
def tiny(monkeypatch, tmp_path, folder):
    net = {"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}
    recipe = recipes.get("digits").but(name="tiny", net=net, batch=8, steps=4, warmup=1)
    monkeypatch.setitem(recipes.RECIPES, "tiny", recipe)
    monkeypatch.chdir(tmp_path)
    return recipe


def run(capsys, *words):
    try:
        status = cli.main([str(one) for one in words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_model_is_trained_on_a_folder_and_its_command_makes_it_again(tiny, capsys):
    from pathlib import Path

    for i in range(5):
        picture(Path(f"photos/{'ab'[i % 2]}/{i}.jpg"), (70 + i, 90), "RGB")
    status, _, err = run(capsys, "train", "tiny", "--data", "photos", "--out", "x")
    assert status == 0, err
    assert "5 pictures from photos: colour, scaled and cut to 8 x 8; 2 classes (a, b)" in err
    model = checkpoints.load("x/tiny.safetensors", device="cpu")
    assert model.shape == (3, 8, 8) and model.num_classes == 2
    about = model.about
    assert about["data"]["name"] == "photos" and about["data"]["classes"] == ["a", "b"]
    assert about["command"] == "diffusion-lab train tiny --steps 4 --data photos"
    assert run(capsys, *shlex.split(about["command"])[1:], "--out", "y")[0] == 0
    assert Path("x/tiny.safetensors").read_bytes() != b""
    ours, theirs = (checkpoints.load_tensors(f"{d}/tiny.safetensors")[0] for d in "xy")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    status, _, err = run(capsys, "sample", "--model", "x/tiny.safetensors", "--n", 2)
    assert status == 0, err
    picture(Path("photos/a/9.jpg"), (70, 90), "RGB")
    status, _, err = run(
        capsys, "train", "tiny", "--data", "photos", "--out", "x", "--resume", "--steps", 6
    )
    assert status == 2 and "the data '" in err


def test_without_classes_the_network_is_told_none(tiny, capsys, folder):
    for i in range(3):
        picture(folder / f"{i}.png", (10, 8))
    status, _, err = run(
        capsys, "train", "tiny", "--data", folder, "--out", "x", "--preview-every", 4
    )
    assert status == 0, err
    assert "10 x 8; no classes" in err and "(conditional=false)" in err
    model = checkpoints.load("x/tiny.safetensors", device="cpu")
    assert model.shape == (1, 10, 8) and model.num_classes is None
    assert "--set conditional=false" in model.about["command"]
    for words, why in (
        ("--size 9", "multiples of 2"),
        ("--data-full", "--data-full is of the course's own data"),
        ("--keep-best 2", "no distance is known"),
        ("--size 8 --from digits", "do not fit the recipe's model"),
    ):
        status, _, err = run(
            capsys, "train", "tiny", "--data", folder, "--out", "z", *words.split()
        )
        assert status == 2 and why in err, (words, err)
    status, _, err = run(capsys, "train", "tiny", "--data", folder / "no", "--out", "z")
    assert status == 2 and "is no folder of pictures" in err
    status, _, err = run(capsys, "train", "tiny", "--size", "8", "--out", "z")
    assert status == 2 and "--size belongs to --data" in err


def test_from_python_the_command_says_what_it_leaves_out(tiny, tmp_path, folder):
    picture(folder / "a.png", (8, 8))
    training.fit(
        tiny.but(conditional=False), data=data.from_folder(folder), out=tmp_path / "x", bar=False
    )
    about = json.loads(json.dumps(checkpoints.info(tmp_path / "x" / "tiny.safetensors")))
    assert about["command"] == "no command makes it again: the data ('photos') were given in Python"
