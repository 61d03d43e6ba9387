"""The commands `train` and `sample`: what they write and print, and how they refuse."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run
from PIL import Image

from diffusion_lab import checkpoints, cli, data, pictures, training
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.generate import SAMPLERS, generate
from diffusion_lab.grids import SPACINGS
from diffusion_lab.training import recipes, tasks
from diffusion_lab.training import resume as states


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


TINY = {"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Recipes of seconds in an empty folder: with classes, without, of a classifier."""
    common = {"data": "digits", "net": TINY, "batch": 8, "steps": 6, "warmup": 1}
    best = {"sampler": "dpmpp", "steps": 3, "scale": 2.0, "spacing": "karras"}
    small = [
        recipes.Recipe("tiny", "with classes", sampler=best, **common),
        recipes.Recipe(
            "tiny-plain", "without", conditional=False, sampler={**best, "scale": 1.5}, **common
        ),
        recipes.get("digits-features").but(name="tiny-features", steps=2, batch=8),
    ]
    for one in small:
        monkeypatch.setitem(recipes.RECIPES, one.name, one)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A checkpoint trained on classes of digits until the classes make a difference."""
    folder = tmp_path_factory.mktemp("model")
    best = {"sampler": "dpmpp", "steps": 3, "scale": 2.0, "spacing": "karras"}
    recipe = recipes.Recipe(
        "tiny",
        "",
        data="digits",
        net=TINY,
        batch=8,
        steps=40,
        warmup=1,
        lr=1e-2,
        ema=0.5,
        sampler=best,
    )
    list(training.train(recipe, out=folder))
    return folder / "tiny.safetensors"


# ---- help and errors ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "command", ["survey", "train", "plot", "sample", "bench", "lesson", "doctor"]
)
def test_help(command, capsys):
    status, out, err = run(capsys, command, "--help")
    assert status == 0
    assert err == ""
    assert out.startswith(f"usage: diffusion-lab {command}")


def test_help_names_what_there_is(capsys):
    out = " ".join(run(capsys, "sample", "--help")[1].split())
    (named,) = re.findall(r"such as (\w+); a wrong name lists all", out)
    assert named in SAMPLERS
    listed = run(capsys, "sample", "--sampler", "?")[2].split("Known: ")[1].strip(".\n")
    assert set(listed.split(", ")) == set(SAMPLERS)
    assert ", ".join(SPACINGS) in out


REFUSED = [
    ("sample --model fashon", "Did you mean 'fashion'"),
    ("sample --model nothing.safetensors", "nothing.safetensors"),
    ("sample --model fashion-1min", "diffusion-lab train fashion-1min"),
    ("sample --sampler dimm", "Did you mean 'ddim'"),
    ("sample --spacing karas", "Did you mean 'karras'"),
    ("sample --n 0", "--n must be a whole number >= 1; got 0"),
    ("sample --n -3", "got -3"),
    ("sample --n 2.5", "invalid int value"),
    ("sample --steps 0", "--steps must be a whole number >= 1; got 0"),
    ("sample --sampler ddim --steps -1", "got -1"),
    ("sample --steps 1000000000", "--steps is at most 100,000; got 1,000,000,000"),
    ("sample --set eta=0.5", "eta belongs to ddim, dpmpp-sde; dpmpp does not have it"),
    ("sample --set eta", "--set takes NAME=VALUE, such as eta=0.5; got 'eta'"),
    ("sample --set =1", "got '=1'"),
    ("sample --sampler ddim --set eat=0.5", "Did you mean 'eta'?"),
    ("sample --sampler ddim --set eta=[]", "eta must lie in [0, 1]"),
    ("sample --sampler ddim --eta 1", "unrecognized arguments: --eta 1"),
    ("sample --sampler ddim --set variance=small", "variance belongs to ddpm"),
    ("sample --sampler ddim --set eta=2", "eta must lie in [0, 1]"),
    ("sample --sampler ddpm --set variance=smal", "Did you mean 'small'"),
    ("sample --sampler dpm", "Did you mean 'ddpm'"),
    ("sample --sampler dpm-solver --set order=4", "order 1, 2 and 3; got 4"),
    ("sample --sampler ddim --set order=2", "order belongs to dpm-solver, unipc"),
    ("sample --sampler emsde --set rel=0.0", "tolerances must be > 0; got rel=0.0"),
    ("sample --label 12", "unknown label '12'. A label is a number from 0 to 9, or its name: 0 t-"),
    ("sample --label -1", "unknown label '-1'. A label is a number from 0 to 9"),
    ("sample --model digits --label 10", "unknown label '10'. A label is a number from 0 to 9\n"),
    ("sample --label boot", "Did you mean 'ankle boot' or 'coat'?"),
    ("sample --label sneeker", "Did you mean 'sneaker'"),
    ("sample --label 3 --labels all", "not allowed with"),
    ("sample --labels none --scale 2", "leave --scale out"),
    ("sample --out grid.jpg", "--out must end in .png; got 'grid.jpg'"),
    ("sample --save samples.npy", "--save must end in .npz"),
    ("sample --out taken/grid.png", "taken is a file"),
    ("sample --out folder.png", "is a folder"),
    ("sample --out null.png", "null.png is a device, a pipe or a socket, not a file"),
    ("sample --save old.npz", "old.npz is read-only: choose another name"),
    ("sample --model folder.png", "--model: folder.png is a folder"),
    ("sample --n 5001", "a PNG holds at most 5,000 pictures; got 5,001: --save FILE.npz"),
    ("sample --n 1000001 --save a.npz", "--n is at most 1,000,000; got 1,000,001"),
    ("sample --device cpuu", "--device names no device: 'cpuu'"),
    ("sample --device meta", "not supported"),
    ("sample --device mps", "--device is 'mps', which torch has not got here"),
    ("sample --gif walk.png", "--gif must end in .gif"),
    ("sample --n 101 --gif walk.gif", "a GIF holds at most 100 pictures; got 101"),
    ("plot gone.log.csv", "gone.log.csv not found"),
    ("plot taken", "taken is no log of a training, or holds no step yet"),
    ("plot old.npz --out loss.jpg", "--out must end in .png"),
    ("train", "which recipe?"),
    ("train fashon", "Did you mean 'fashion'"),
    ("train digits --steps 0", "--steps must be a whole number >= 1"),
    ("train digits --threads 0", "--threads must be a whole number >= 1"),
    ("train digits --preview-every 0", "--preview-every must be a whole number >= 1"),
    ("train digits --data-full", "digits has one size only"),
    ("train digits --out taken", "taken is a file"),
    ("train digits --out=", "--out names a folder; got ''"),
    ("train digits --threads 1000000", "--threads must be at most"),
    ("train digits --set lr", "--set takes FIELD=VALUE"),
    ("train digits --set lrr=1", "Did you mean 'lr'"),
    ("train digits --set lr=fast", "lr of a recipe must be > 0"),
    ("train digits --set conditional=no", "True, False or a list"),
    ("train digits --set net=unet", "net of a recipe needs 'name'"),
    ("train digits --set task=os:system", "nothing outside diffusion_lab is looked up"),
    ("train digits --set name=../evil", "names its files"),
    ("train digits --resume --from digits", "--from starts a training"),
    ("train digits --keep-best 0", "--keep-best must be a whole number >= 1"),
    ("train digits-features --keep-best 2", "no distance is known"),
    ("train digits --data gone", "gone is no folder of pictures"),
    ("train digits --resume", "no saved state"),
    ("train digits --resume --fresh", "not allowed with"),
    ("bench qualitty", "Did you mean 'quality'"),
    ("bench overhead --budgets 108", "--budgets belongs to the"),
    ("bench quality --budgets 0 --out here", "budgets are CPU seconds > 0"),
    ("bench quality --budgets nan --out here", "budgets are CPU seconds > 0"),
]


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=[words for words, _ in REFUSED])
def test_bad_input_is_refused_before_anything_runs(words, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("")
    Path("folder.png").mkdir()
    Path("null.png").symlink_to(os.devnull)
    Path("old.npz").touch(mode=0o400)
    before = sorted(tmp_path.iterdir())
    for name in (
        "diffusion_lab.generate.generate",
        "diffusion_lab.training.tasks.Diffusion.losses",
    ):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("it was started"))
    status, out, err = run(capsys, *words.split())
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("diffusion-lab: error: ")
    assert why in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


CRAFTED = [
    "text",
    {"sampler": ["dpmpp"]},
    {"sampler": {"sampler": ["dpmpp"]}},
    {"sampler": {"lam_range": 3}},
    {"sampler": {"n": 3}},
    {"sampler": {"seed": 3}},
    {"sampler": {"steps": 10**9}},
    {"sampler": {"scale": "2"}},
    {"sampler": {"sampler": "ddim", "eta": "much"}},
    {"sampler": {"speed": 3}},
]


@pytest.mark.parametrize("recipe", CRAFTED, ids=str)
def test_a_recipe_that_somebody_made_up_is_refused_in_words(recipe, model, tmp_path, capsys):
    tensors, about = checkpoints.load_tensors(model)
    checkpoints.save_tensors(tmp_path / "m.safetensors", tensors, about | {"recipe": recipe})
    words = ["sample", "--model", tmp_path / "m.safetensors", "--n", 1, "--out", tmp_path / "x.png"]
    status, _, err = run(capsys, *words)
    assert status == 2 and err.startswith("diffusion-lab: error: ")
    assert "the recipe" in err or "eta must lie in [0, 1]" in err


def test_a_classifier_cannot_draw(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "sample", "--model", "fashion-features")
    assert status == 2
    assert "not a denoiser" in err
    assert "fashion" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(model, tmp_path, capsys):
    tmp_path.chmod(0o500)
    status, _, err = run(capsys, "sample", "--model", model, "--out", tmp_path / "x.png")
    assert status == 2
    assert "not yours to write to" in err


def test_a_full_disk_leaves_nothing(model, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusion_lab.files.os.write", full)
    status, _, err = run(capsys, "sample", "--model", model, "--n", 2, "--save", tmp_path / "x.npz")
    assert status == 2
    assert "No space left" in err
    assert "free some space" in err
    assert not list(tmp_path.iterdir())


SHELL = [sys.executable, "-m", "diffusion_lab.cli", "sample", "--n", "1", "--steps", "1", "--out"]


@pytest.mark.skipif(os.name != "posix", reason="a shell of posix")
def test_a_closed_stdout_and_stderr_do_not_matter(tmp_path):
    command = 'exec "$@" >&- 2>&-'
    done = subprocess.run(["sh", "-c", command, "sh", *SHELL, tmp_path / "x.png"], check=False)
    assert done.returncode == 0
    assert Image.open(tmp_path / "x.png").size == (56, 24 + 56)  # a word above the picture


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("buffered", [["-u", "PYTHONUNBUFFERED"], ["PYTHONUNBUFFERED=1"]])
def test_an_answer_that_finds_no_room_is_told(buffered, tmp_path):
    with open("/dev/full", "w") as full:
        command = ["env", *buffered, *SHELL, tmp_path / "x.png"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "the answer could not be written to stdout (No space left on device)" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and (tmp_path / "x.png").is_file()


def test_a_folder_that_cannot_be_looked_into(tmp_path, monkeypatch):
    """As for one who is not root and may not read x: stat of what is in it fails."""
    look = os.stat

    def barred(path, **more):
        if str(path).endswith("x/y.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **more)

    (tmp_path / "x").mkdir()
    monkeypatch.setattr(os, "stat", barred)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"--out: .*x is not yours to write to; choose anoth"):
        cli.base.writable(str(tmp_path / "x" / "y.png"), ".png", "--out")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.base.writable("~/r.png", ".png", "--out") == tmp_path / "r.png"


# ---- sample -------------------------------------------------------------------------------------
def test_sample_writes_what_generate_draws(model, tmp_path, capsys):
    png, npz = tmp_path / "grid.png", tmp_path / "deep" / "samples.npz"
    status, out, err = run(
        capsys, "sample", "--model", model, "--n", 12, "--seed", 5, "--out", png, "--save", npz
    )
    assert (status, err) == (0, f"made the folder {npz.parent}\n")
    assert "NFE 6 a picture" in out  # 3 steps, guided
    assert str(png) in out
    assert str(npz) in out
    arrays = np.load(npz, allow_pickle=False)
    assert sorted(arrays) == ["labels", "samples"]
    label = torch.arange(12) % 10
    loaded = checkpoints.load(model)
    drawn = generate(
        loaded, 12, sampler="dpmpp", steps=3, scale=2.0, spacing="karras", label=label, seed=5
    )
    assert arrays["samples"].dtype == np.uint8
    assert arrays["samples"].shape == (12, 8, 8, 1)
    assert np.array_equal(arrays["samples"], data.to_uint8(drawn.x))
    assert arrays["labels"].dtype == np.int64
    assert arrays["labels"].tolist() == label.tolist()
    sheet = np.asarray(Image.open(io.BytesIO(png.read_bytes())))
    # a class a column, each pixel 6 x 6, below a line of words
    assert sheet.shape == (24 + 2 * 48 + 1, 10 * 48 + 9, 3)
    assert np.array_equal(sheet[24:], pictures.picture(drawn.x, columns=10, zoom=6))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_same_seed_same_bytes(model, tmp_path, capsys):
    made = []
    for i, seed in enumerate((1, 1, 2)):
        file = tmp_path / f"{i}.npz"
        run(capsys, "sample", "--model", model, "--n", 3, "--seed", seed, "--save", file)
        made.append(digest(file))
    assert made[0] == made[1]
    assert made[0] != made[2]


@pytest.mark.parametrize(
    ("words", "nfe", "said"),
    [
        ("--steps 2", 4, {"sampler": "dpmpp", "steps": 2, "scale": 2.0, "spacing": "karras"}),
        ("--sampler ddim --set eta=0.5", 6, {"sampler": "ddim", "steps": 3, "eta": 0.5}),
        ("--sampler ddpm --set variance=large", 6, {"sampler": "ddpm", "variance": "large"}),
        ("--scale 1", 3, {"scale": 1.0}),
        ("--labels none", 3, {"sampler": "dpmpp"}),
        ("--label 7", 6, {"sampler": "dpmpp"}),
        ("--spacing lambda --device cpu", 6, {"spacing": "lambda"}),
    ],
)
def test_options_reach_the_sampler(words, nfe, said, model, tmp_path, capsys):
    file = tmp_path / "x.npz"
    status, out, err = run(
        capsys, "sample", "--model", model, "--n", 2, "--save", file, "--json", *words.split()
    )
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["nfe"] == nfe
    assert said.items() <= told.items()
    assert told["out"] is None
    assert told["seconds"] >= 0
    assert ("scale" in told) == ("none" not in words)
    arrays = np.load(file)
    if "none" in words:
        assert list(arrays) == ["samples"]
    else:
        assert arrays["labels"].tolist() == ([7, 7] if "--label 7" in words else [0, 1])


def test_steps_of_another_sampler_are_questioned(model, tmp_path, capsys):
    drawn = ("sample", "--model", model, "--n", 1, "--save", tmp_path / "x.npz")
    said = [run(capsys, *drawn, *words.split())[1] for words in ("--sampler ddim", "", "--steps 2")]
    assert ["3 steps are what the recipe says for dpmpp; ddim may" in one for one in said] == [
        True,
        False,
        False,
    ]


def test_emsde_is_steered_by_rel_and_not_by_steps(model, tmp_path, capsys):
    file = tmp_path / "x.npz"
    drawn = ("sample", "--model", model, "--n", 1, "--sampler", "emsde", "--save", file)
    said, made, calls = {}, {}, {}
    for words in ("", "--steps 2", "--set rel=0.5", "--set rel=0.5 --steps 2"):
        said[words] = run(capsys, *drawn, *words.split())[1]
        made[words] = file.read_bytes()
        calls[words] = int(said[words].split("NFE ")[1].split()[0])
    assert not any("may want more" in out for out in said.values())
    assert {words: "--steps has no effect" in out for words, out in said.items()} == {
        "": True,
        "--steps 2": True,
        "--set rel=0.5": False,
        "--set rel=0.5 --steps 2": True,
    }
    assert "rel=... (here 0.05)" in said[""]
    assert "rel=... (here 0.5)" in said["--set rel=0.5 --steps 2"]
    assert made[""] == made["--steps 2"]
    assert calls["--set rel=0.5"] < calls[""]


def test_different_options_draw_different_pictures(model, tmp_path, capsys):
    ways = [
        "",
        "--steps 2",
        "--scale 1",
        "--label 7",
        "--labels none",
        "--sampler ddim",
        "--sampler ddim --set eta=1",
        "--spacing lambda",
    ]
    made = set()
    for way in ways:
        file = tmp_path / "x.npz"
        run(capsys, "sample", "--model", model, "--n", 2, "--save", file, *way.split())
        made.add(np.load(file)["samples"].tobytes())
    assert len(made) == len(ways)


def test_sample_with_the_shipped_model_and_a_class_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "sample", "--n", 1, "--label", "sneaker", "--save", "a.npz")
    assert (status, err) == (0, "")
    assert out.startswith("1 picture of fashion, seed 0: sampler dpmpp")
    arrays = np.load("a.npz")
    assert arrays["labels"].tolist() == [7]
    assert arrays["samples"].shape == (1, 28, 28, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert run(capsys, "sample", "--n", 1, "--steps", 1)[0] == 0
    assert Path("samples.png").is_file()  # neither --out nor --save


def test_sample_says_which_folder_it_made(tiny, capsys):
    assert run(capsys, "train", "tiny", "--out", ".")[0] == 0
    command = ["sample", "--model", "tiny.safetensors", "--n", 1, "--out", Path("a", "b", "x.png")]
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, f"made the folder {Path('a', 'b')}\n")
    assert Path("a", "b", "x.png").is_file() and "made" not in out
    assert run(capsys, *command)[2] == ""  # it is there now


def test_the_picture_says_how_it_is_drawn_again(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--sampler", "ddim", "--steps", 3, "--set", "eta=0.5", "--n", 12, "--seed", 4)
    assert run(capsys, "sample", "--model", model, *words, "--out", "a.png")[0] == 0
    inside = Image.open("a.png").info
    assert inside["Software"].startswith("diffusion-lab ")
    program, *command = shlex.split(inside["Command"])
    assert program == "diffusion-lab" and {"--scale", "--spacing", "eta=0.5"} <= {*command}
    before = digest(Path("a.png"))
    Path("a.png").unlink()
    assert run(capsys, *command)[0] == 0 and digest(Path("a.png")) == before
    for words in (("--label", "7"), ("--labels", "none")):
        run(capsys, "sample", "--model", model, "--n", 2, *words, "--out", "b.png")
        assert " ".join(words) in Image.open("b.png").info["Command"]


def test_class_names_stand_above_their_columns(model, tmp_path, capsys):
    png = tmp_path / "x.png"
    said = []
    for words in (["--n", 10], ["--n", 10, "--label", 7], ["--n", 10, "--labels", "none"]):
        run(capsys, "sample", "--model", model, *words, "--out", png)
        said.append(np.asarray(Image.open(png)))
    dark = said[0][:24].min(axis=(0, 2)) < 128  # ink, by columns of pixels
    assert [bool(dark[i * 49 : i * 49 + 48].any()) for i in range(10)] == [True] * 10
    assert not dark[::49].any()  # none between two columns
    ink = np.flatnonzero(said[1][:24].min(axis=(0, 2)) < 128)
    assert abs(ink.mean() - said[1].shape[1] / 2) < 3  # one name stands in the middle
    assert said[2].shape[0] == said[1].shape[0] - 24  # no class, no name


def test_a_name_that_is_too_long_is_cut_short():
    sheet = np.zeros((4, 80, 3), np.uint8)
    made = pictures.headed(sheet, ["bag", "a very long name of a class"])
    ink = made[:-4].min(axis=(0, 2)) < 128
    assert ink[:40].any() and ink[40:].any() and not ink[[0, 38, 39, 40, 79]].any()
    assert np.array_equal(made[-4:], sheet) and made.shape[1:] == (80, 3)


def test_the_gif_shows_the_walk(model, tmp_path, capsys):
    gif, npz = tmp_path / "walk.gif", tmp_path / "x.npz"
    drawn = ("sample", "--model", model, "--n", 12, "--steps", 4, "--seed", 3)
    status, out, _ = run(capsys, *drawn, "--gif", gif, "--save", npz, "--json")
    assert status == 0 and json.loads(out)["gif"] == str(gif) and json.loads(out)["out"] is None
    moving = Image.open(gif)
    assert moving.n_frames == 5 and moving.info["loop"] == 0  # the noise and four steps
    assert "--gif" in moving.info["comment"].decode()
    frames = []
    for i in range(5):
        moving.seek(i)
        frames.append(np.asarray(moving.convert("RGB")))
    x = torch.from_numpy(np.load(npz)["samples"].transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
    assert np.array_equal(frames[-1][24:], pictures.picture(x, columns=10, zoom=6))
    noise = (frames[0][24:72, :48, 0][::6, ::6] / 127.5 - 1).std()
    assert 0.6 < noise < 0.9  # of standard noise cut to [-1, 1]: 0.72, whatever the schedule
    assert sorted(file.name for file in tmp_path.iterdir()) == ["walk.gif", "x.npz"]


def test_a_long_walk_becomes_sixty_frames():
    class At:
        x, s = torch.ones(1, 1, 2, 2), 0.5

    class Louder:
        def alpha_sigma(self, t):
            return 3.0 * torch.ones_like(t), 4.0 * torch.ones_like(t)

    found = pictures.frames([At] * 200, Louder())
    assert len(found) == 60 and float(found[0][0, 0, 0, 0]) == pytest.approx(0.2)
    assert len(pictures.frames([At] * 7, Louder())) == 7


# ---- train --------------------------------------------------------------------------------------
def test_list(capsys):
    status, out, _ = run(capsys, "train", "--list")
    assert status == 0
    head, *lines = out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(recipes.RECIPES)
    wide = max(map(len, recipes.RECIPES))  # each head begins where its column does
    assert [head.index(word) for word in ("steps", "parameters")] == [wide + 3, wide + 10]
    listed = {one["name"]: one for one in json.loads(run(capsys, "train", "--list", "--json")[1])}
    assert list(listed) == list(recipes.RECIPES)
    for line in lines:
        name, *numbers = line.split()[:4]
        told, about = listed[name], None
        if name in checkpoints.shipped():
            about = checkpoints.info(name)
        seconds = f"{about['cpu_seconds']:,.0f}" if about else "-"
        size = told["parameters"]  # none where it stands on an autoencoder that is not here yet
        assert numbers == [f"{told['steps']:,}", "-" if size is None else f"{size:,}", seconds]
        assert told["cpu_seconds"] == (about["cpu_seconds"] if about else None)
    # the one trained longer answers at full resolution, which takes some parameters more
    assert listed["fashion-1min"]["parameters"] < listed["fashion"]["parameters"]


def test_list_quotes_no_cost_of_other_steps(tiny, capsys, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "digits", recipes.get("digits").but(steps=7))
    listed = {one["name"]: one for one in json.loads(run(capsys, "train", "--list", "--json")[1])}
    assert listed["digits"]["cpu_seconds"] is None
    net = training.build(recipes.get("tiny"), data.load("digits"))
    assert listed["tiny"]["parameters"] == sum(p.numel() for p in net.parameters())


def test_train_then_sample(tiny, capsys):
    status, out, err = run(capsys, "train", "tiny", "--out", "made", "--preview-every", 3)
    assert status == 0
    assert out.splitlines()[0] == "made/tiny.safetensors"
    assert "6 steps" in out
    assert "core-seconds" in out
    assert "made/tiny.state.safetensors was for --resume" in out
    assert "tiny: 100%" in err  # the bar
    assert sorted(path.name for path in Path("made").iterdir()) == [
        "tiny.log.csv",
        "tiny.preview_3.png",
        "tiny.preview_6.png",
        "tiny.safetensors",
        "tiny.state.safetensors",
    ]
    model = checkpoints.load("made/tiny.safetensors")
    assert isinstance(model, NetDenoiser)
    assert model.about["command"] == "diffusion-lab train tiny --steps 6"
    command = out.splitlines()[-1].split("diffusion-lab ")[1]
    assert run(capsys, *command.split(), "--n", 2)[0] == 0
    assert Path("samples.png").is_file()


def test_train_json_and_seed(tiny, capsys):
    told = []
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        status, text, _ = run(
            capsys, "train", "tiny", "--steps", 2, "--seed", seed, "--out", out, "--json"
        )
        assert status == 0
        told.append(json.loads(text))
    assert told[0]["recipe"] == "tiny"
    assert (told[0]["steps"], told[0]["seed"], told[2]["seed"]) == (2, 0, 1)
    assert told[0]["cpu_seconds"] >= 0
    weights = [checkpoints.load_tensors(one["path"])[0] for one in told]
    same = [all(torch.equal(weights[0][k], other[k]) for k in weights[0]) for other in weights[1:]]
    assert same == [True, False]
    command = checkpoints.info(told[2]["path"])["command"]
    assert command == "diffusion-lab train tiny --steps 2 --seed 1"


def test_the_loss_is_plotted(tiny, capsys):
    for seed in (0, 1):
        assert run(capsys, "train", "tiny", "--steps", 60, "--seed", seed, "--out", seed)[0] == 0
    status, out, err = run(capsys, "plot", "0/tiny.log.csv")
    assert (status, out, err) == (0, "loss.png\n", "")
    both = ("plot", "0/tiny.log.csv", "1/tiny.log.csv", "--out", "new/b.png", "--scale", "log")
    assert run(capsys, *both)[:2] == (0, f"{Path('new', 'b.png')}\n")
    assert digest(Path("loss.png")) != digest(Path("new/b.png"))
    assert Image.open("new/b.png").size[0] > 500
    Path("0/tiny.log.csv").write_text("step,loss,lr,cpu_seconds,time\n")
    assert "holds no step yet" in run(capsys, "plot", "0/tiny.log.csv")[2]


def test_what_is_plotted_is_the_log(tiny, capsys, monkeypatch):
    from diffusion_lab.course import plots

    Path("x.log.csv").write_text(
        "step,loss,lr,cpu_seconds,time\n50,0.5,1e-3,1.0,now\n100,0.25,1e-3,2.0,now\n"
    )
    seen = []
    monkeypatch.setattr(plots, "png", lambda fig: seen.append(fig) or b"")
    assert run(capsys, "plot", "x.log.csv")[0] == 0
    (line,) = seen[0].axes[0].lines
    assert line.get_xydata().tolist() == [[50, 0.5], [100, 0.25]]


def test_tensorboard_is_asked_for_and_asked_for_again(tiny, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(training, "fit", lambda *a, **k: given.append(k) or _stop())
    monkeypatch.setattr(states, "saved_step", lambda *_: 4)
    status, _, err = run(capsys, "train", "tiny", "--out", "x", "--tensorboard")
    assert status == 130 and given[0]["tensorboard"] is True
    assert err.strip().endswith("train tiny --out x --tensorboard --resume")


def _stop():
    raise KeyboardInterrupt


def test_resume_goes_on_and_equals_the_uninterrupted(tiny, capsys):
    whole = Path("whole")
    assert run(capsys, "train", "tiny", "--out", whole)[0] == 0
    list(training.train(recipes.get("tiny"), out="part", save_every=2, stop_at=4))
    status, out, err = run(capsys, "train", "tiny", "--out", "part")
    assert (status, out) == (2, "")
    assert "stopped after step 4 of 6" in err
    assert "--resume" in err
    assert run(capsys, "train", "tiny", "--out", "part", "--resume")[0] == 0
    name = "tiny.safetensors"
    ours, theirs = (checkpoints.load_tensors(folder / name)[0] for folder in (whole, Path("part")))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    status, _, err = run(capsys, "train", "tiny", "--out", "part", "--resume")
    assert status == 2
    assert "nothing is left to do" in err
    assert "--fresh" in err
    assert "it/s" not in err and "step/s" not in err  # no bar before the error


def test_a_finished_model_is_not_overwritten_unasked(tiny, capsys):
    file = Path("made/tiny.safetensors")
    assert run(capsys, "train", "tiny", "--out", "made")[0] == 0
    before = digest(file)
    status, out, err = run(capsys, "train", "tiny", "--out", "made", "--seed", 5)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1  # no bar
    assert "a finished model, tiny.safetensors, and tiny.state.safetensors" in err
    assert "--fresh" in err
    states.state_file(recipes.get("tiny"), "made").unlink()
    status, _, err = run(capsys, "train", "tiny", "--out", "made", "--seed", 5)
    assert status == 2 and "a finished model, tiny.safetensors: train over it" in err
    assert digest(file) == before
    assert run(capsys, "train", "tiny", "--out", "made", "--seed", 5, "--fresh")[0] == 0
    assert digest(file) != before
    assert run(capsys, "train", "tiny-plain", "--out", "made")[0] == 0  # another name, same folder


def test_a_stopped_training_of_other_steps_says_which(tiny, capsys):
    list(training.train(recipes.get("tiny").but(steps=8), out="part", save_every=2, stop_at=4))
    status, _, err = run(capsys, "train", "tiny", "--out", "part")
    assert status == 2 and "after step 4 of 8: go on with --resume --steps 8," in err
    status, _, err = run(capsys, "train", "tiny", "--out", "part", "--resume")
    assert status == 2 and "(steps 8 there, 6 asked)" in err
    assert run(capsys, "train", "tiny", "--out", "part", "--resume", "--steps", 8)[0] == 0


def test_fresh_begins_again(tiny, capsys):
    list(training.train(recipes.get("tiny"), out="part", save_every=2, stop_at=4))
    assert run(capsys, "train", "tiny", "--out", "part", "--fresh")[0] == 0
    assert states.saved_step(recipes.get("tiny"), "part") == 6
    states.state_file(recipes.get("tiny"), "part").write_bytes(b"damaged")
    assert run(capsys, "train", "tiny", "--out", "part", "--fresh")[0] == 0


@pytest.mark.parametrize(("stop", "kept"), [(1, True), (3, False)])
def test_fresh_keeps_the_old_state_until_it_is_under_way(stop, kept, tiny, capsys, monkeypatch):
    """Stopped before its first report the old state stays; after it the new one is saved."""
    list(training.train(recipes.get("tiny"), out="part", save_every=2, stop_at=4))
    draw, calls = tasks.Diffusion.draw, []

    def stopping(self, *given):
        calls.append(given)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return draw(self, *given)

    fit = training.fit
    monkeypatch.setattr(tasks.Diffusion, "draw", stopping)
    monkeypatch.setattr(training, "fit", lambda *a, **k: fit(*a, **k, report_every=2))
    status, _, err = run(capsys, "train", "tiny", "--out", "part", "--fresh")
    assert status == 130
    assert ("stopped before a step was saved" if kept else "saved up to step 3 of 6") in err
    assert states.saved_step(recipes.get("tiny"), "part") == (4 if kept else 3)


def test_another_seed_does_not_resume(tiny, capsys):
    list(training.train(recipes.get("tiny"), out="part", save_every=2, stop_at=4))
    status, _, err = run(capsys, "train", "tiny", "--out", "part", "--resume", "--seed", 3)
    assert status == 2
    assert "another training (seed 0 there, 3 asked)" in err


def test_interrupt_says_how_to_go_on(tiny, capsys, monkeypatch):
    fit = training.fit

    def stopped(recipe, **options):
        fit(recipe, **options, save_every=2, stop_at=4)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stopped)
    status, out, err = run(capsys, "train", "tiny", "--out", "x", "--seed", 2, "--threads", 1)
    assert (status, out) == (130, "")
    line = err.splitlines()[-1]
    assert "saved up to step 4 of 6" in line
    command = line.split("Go on with: diffusion-lab ")[1]
    monkeypatch.setattr(training, "fit", fit)
    assert run(capsys, *command.split())[0] == 0
    assert Path("x/tiny.safetensors").is_file()


def test_a_classifier_trains_without_previews(tiny, capsys):
    status, out, _ = run(capsys, "train", "tiny-features", "--out", "c")
    assert status == 0
    assert "diffusion-lab sample" not in out
    status, _, err = run(capsys, "train", "tiny-features", "--out", "d", "--preview-every", 1)
    assert status == 2
    assert "previews" in err


def test_no_classes_no_labels(tiny, capsys):
    assert run(capsys, "train", "tiny-plain", "--out", "p")[0] == 0
    model = "p/tiny-plain.safetensors"
    for words in ("--label 3", "--labels all", "--scale 2"):
        status, _, err = run(capsys, "sample", "--model", model, *words.split())
        assert status == 2
        assert "trained without classes" in err
    assert run(capsys, "sample", "--model", model, "--n", 2, "--save", "x.npz")[0] == 0
    assert list(np.load("x.npz")) == ["samples"]


def test_only_rank_0_talks(tiny, capsys, monkeypatch):
    """The printing of another rank, without starting one: fit and torchrun have their own tests."""
    monkeypatch.setattr(training, "fit", lambda recipe, **_: None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(capsys, "train", "tiny", "--out", "x") == (0, "", "")


# ---- a recipe changed, a model tuned, a training made longer -------------------------------------
def test_set_reaches_the_recipe_and_the_header(tiny, capsys):
    words = ("--set", "lr=1e-3", "--set", "name=mine", "--set", "conditional=false", "--seed", 3)
    assert run(capsys, "train", "tiny", "--out", "x", *words)[0] == 0
    about = checkpoints.info("x/mine.safetensors")
    assert about["recipe"]["lr"] == 1e-3 and about["recipe"]["conditional"] is False
    # tiny-plain is as near as tiny, but for its sampler
    command = about["command"].removeprefix("diffusion-lab ")
    assert run(capsys, *shlex.split(command), "--out", "y")[0] == 0
    ours, theirs = (checkpoints.load_tensors(f"{d}/mine.safetensors") for d in "xy")
    assert all(torch.equal(ours[0][k], theirs[0][k]) for k in ours[0])
    assert ours[1]["recipe"] == theirs[1]["recipe"] and ours[1]["command"] == theirs[1]["command"]


def test_a_finished_training_is_made_longer(tiny, capsys):
    assert run(capsys, "train", "tiny", "--out", "x")[0] == 0
    assert "longer with --resume --steps MORE" in run(capsys, "train", "tiny", "--out", "x")[2]
    status, out, err = run(capsys, "train", "tiny", "--out", "x", "--resume", "--steps", 9)
    assert status == 0 and "9 steps" in out, err
    about = checkpoints.info("x/tiny.safetensors")
    first, second = about["command"].split(" && ")
    assert (first, second) == (
        "diffusion-lab train tiny --steps 6",
        "diffusion-lab train tiny --steps 9 --resume",
    )
    for one in (first, second):
        assert run(capsys, *one.split()[1:], "--out", "y")[0] == 0
    ours, theirs = (checkpoints.load_tensors(f"{d}/tiny.safetensors")[0] for d in "xy")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_model_is_tuned_from_another(tiny, capsys):
    assert run(capsys, "train", "tiny", "--out", "x")[0] == 0
    words = ("--from", "x/tiny.safetensors", "--steps", 1, "--set", "lr=1e-30")
    assert run(capsys, "train", "tiny", "--out", "y", *words)[0] == 0
    ours, theirs = (checkpoints.load_tensors(f"{d}/tiny.safetensors") for d in "xy")
    assert all(torch.equal(ours[0][k], theirs[0][k]) for k in ours[0])
    assert theirs[1]["command"] == (
        "diffusion-lab train tiny --steps 1 --from x/tiny.safetensors --set lr=1e-30"
    )


def test_weights_that_cannot_be_tuned_are_refused(tiny, capsys):
    for name, why in (("fashon", "Did you mean 'fashion'"), ("fashion", "do not fit the recipe's")):
        status, _, err = run(capsys, "train", "tiny", "--out", "x", "--from", name)
        assert status == 2 and why in err
    assert not Path("x").exists()


def test_the_best_model_is_kept(tiny, capsys, monkeypatch):
    frechet = importlib.import_module("diffusion_lab.metrics.frechet")  # a function has its name
    found = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(frechet, "fd", lambda *_: next(found))
    status, out, err = run(capsys, "train", "tiny", "--out", "x", "--keep-best", 2)
    assert status == 0, err
    assert f"{Path('x/tiny.best.safetensors')} is the best, at step 4: 1.0000" in out
    best = checkpoints.load("x/tiny.best.safetensors")
    assert best.about["best"] == {"step": 4, "distance": 1.0} and best.about["step"] == 4
    assert run(capsys, "train", "tiny", "--out", "y")[0] == 0  # measuring changed no weight
    ours, theirs = (checkpoints.load_tensors(f"{d}/tiny.safetensors")[0] for d in "xy")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_home_folder_is_meant_by_its_sign(tiny, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny / "home"))
    monkeypatch.setenv("USERPROFILE", str(tiny / "home"))
    assert run(capsys, "train", "tiny", "--out", "~/r")[0] == 0
    assert (tiny / "home" / "r" / "tiny.safetensors").is_file() and not (tiny / "~").exists()


def test_a_folder_in_the_way_is_found_before_the_training(tiny, capsys):
    for name in ("tiny.safetensors", "tiny.state.safetensors"):
        Path("x", name).mkdir(parents=True)
        status, _, err = run(capsys, "train", "tiny", "--out", "x", "--fresh")
        assert status == 2 and f"{Path('x', name)} is a folder: move it" in err
        Path("x", name).rmdir()


def test_a_second_training_in_the_folder_is_refused(tiny, capsys):
    script = (
        "import sys, time; from diffusion_lab.training import recipes, resume\n"
        "lock = resume.Lock(recipes.get('digits').but(name='tiny'), 'x')\n"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        status, _, err = run(capsys, "train", "tiny", "--out", "x")
        assert status == 2 and f"tiny is being trained in x by process {holder.pid}: wait" in err
    finally:
        holder.kill()
        holder.communicate()
    assert run(capsys, "train", "tiny", "--out", "x")[0] == 0


def test_a_resumed_training_takes_the_threads_of_its_state(tiny, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        list(training.train(recipes.get("tiny"), out="x", save_every=2, stop_at=4))
        torch.set_num_threads(1)
        assert run(capsys, "train", "tiny", "--out", "x", "--resume")[0] == 0
        assert checkpoints.info("x/tiny.safetensors")["threads"] == 2
    finally:
        torch.set_num_threads(before)


def test_commands_are_quoted_for_the_shell_of_their_paths(monkeypatch):
    from diffusion_lab.cli import train
    from diffusion_lab.training import header

    done = {"recipe": "digits", "steps": 10, "parameters": 5, "loss": 0.1, "processes": 1}
    done |= {
        "path": "runs\\digits.safetensors",
        "cpu_seconds": 1.0,
        "seconds": 1.0,
        "state": "s",
        "log": "l",
    }
    assert train._told(done).splitlines()[-1].endswith("--model runs\\digits.safetensors")
    given = {"recipe": "digits", "steps": None, "seed": None, "threads": None}
    given |= {"preview_every": None, "data_full": False}
    command = train._command(argparse.Namespace(**given, out="C:\\My runs"))
    assert command == 'diffusion-lab train digits --out "C:\\My runs" --resume'
    command = train._command(argparse.Namespace(**given, out="my runs"))
    assert command == "diffusion-lab train digits --out 'my runs' --resume"
    monkeypatch.setattr(header.os, "name", "nt")
    assert header.quoted(["a", "my runs"]) == 'a "my runs"'


# ---- as processes -------------------------------------------------------------------------------
@pytest.mark.slow
def test_two_ranks_make_one_model(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [
        *torchrun,
        "--nproc-per-node",
        "2",
        "-m",
        "diffusion_lab.cli",
        "train",
        "digits",
        "--steps",
        "2",
        "--out",
        "x",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # one document: the other rank is silent
    assert told["processes"] == 2
    assert (tmp_path / told["path"]).is_file()


@pytest.mark.slow
def test_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "diffusion_lab.cli", "train", "digits", "--out", "x"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        bufsize=0,
        # a shell's background job ignores Ctrl-C, and so would all that it starts
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    seen = ""
    while "loss=" not in seen:  # the first report: imports are over, the loop is under way
        seen += process.stderr.read(1) or pytest.fail(f"it ended: {seen}")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert out == ""
    assert re.search(
        r"stopped; saved up to step [\d,]+ of 6,000. Go on with: diffusion-lab train", err
    )
    assert "Traceback" not in err
    step = states.saved_step(recipes.get("digits"), tmp_path / "x")
    assert 0 < step < 1000 and f"step {step:,} of" in err


# ---- words --------------------------------------------------------------------------------------
def test_a_model_that_is_told_words_draws_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["sample", "--model", "emoji-ldm", "--steps", "2", "--n", "3"]
    assert cli.main([*words, "--text", "red heart", "--save", "x.npz"]) == 0, (
        capsys.readouterr().err
    )
    with np.load("x.npz") as saved:
        assert saved["samples"].shape == (3, 32, 32, 3) and saved.files == ["samples"]
        first = saved["samples"]
    assert cli.main([*words, "--text", "dog", "--save", "x.npz"]) == 0
    with np.load("x.npz") as saved:
        assert (saved["samples"] != first).any()
    for more, why in (
        ([], "draws what words say: give it some, --text"),
        (["--text", "dog", "--gif", "x.gif"], "is told words: leave --gif out"),
        (["--text", "dog", "--label", "3"], "not allowed with"),
        (["--model", "digits", "--text", "dog"], "digits was trained without words"),
        (["--model", "phantoms-ldm"], "draws latents of numbers that it is told"),
    ):
        with contextlib.suppress(SystemExit):
            assert cli.main([*words, *more]) == 2
        assert why in capsys.readouterr().err


def test_a_model_of_codes_is_told_words_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = recipes.get("emoji-ar").net | {"width": 16, "layers": 1, "heads": 2}
    recipe = recipes.get("emoji-vqdiffusion").but(steps=1, batch=2, net=net)
    for _ in training.train(recipe, out=tmp_path):
        pass
    words = ["sample", "--model", "emoji-vqdiffusion.safetensors", "--text", "dog", "--n", "2"]
    assert cli.main([*words, "--steps", "3", "--scale", "2", "--json"]) == 0, (
        capsys.readouterr().err
    )
    done = json.loads(capsys.readouterr().out)
    assert done["nfe"] == 6 and done["steps"] == 3 and Path(done["out"]).is_file()
    assert cli.main([*words, "--sampler", "ddim"]) == 2
    assert "draws codes: leave --sampler out" in capsys.readouterr().err
