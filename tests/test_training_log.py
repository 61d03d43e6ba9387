"""The log of a training: its lines are those of the reports, whenever it was killed and resumed."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from diffusion_lab import training
from diffusion_lab.training import recipes, tasks
from diffusion_lab.training import resume as states
from diffusion_lab.training.log import Log

TINY = recipes.Recipe(
    "tiny",
    "",
    data="digits",
    net={"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16},
    batch=8,
    steps=12,
    warmup=1,
)


def lines(folder) -> list[list[str]]:
    """The lines without core-seconds and time of day; every one is whole."""
    text = (folder / "tiny.log.csv").read_text()
    assert text.endswith("\n")
    return [line.split(",")[:-2] for line in text.splitlines()]


def train(folder, **more):
    return list(training.train(TINY, out=folder, report_every=2, **more))


def test_the_log_holds_every_report(tmp_path):
    reports = train(tmp_path)
    head, *rows = lines(tmp_path)
    assert head == ["step", "loss", "lr"]
    rates = [training.learning_rate(TINY, one.step - 1, 12) for one in reports]
    assert rows == [
        [str(one.step), f"{one.loss:.6g}", f"{lr:.6g}"]
        for one, lr in zip(reports, rates, strict=True)
    ]
    last = (tmp_path / "tiny.log.csv").read_text().splitlines()[-1].split(",")
    assert last[3] == f"{reports[-1].cpu_seconds:.1f}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", last[4])


def test_several_losses_have_a_column_each(tmp_path):
    log = Log(TINY, tmp_path, 0, 2)
    log.write(2, (1.0, 0.5), 1e-3, 3.0)
    assert lines(tmp_path) == [
        ["step", "loss", "loss0", "loss1", "lr"],
        ["2", "1.5", "1", "0.5", "0.001"],
    ]


def test_what_was_written_after_the_saved_state_is_dropped(tmp_path):
    """As after kill -9: the log is ahead of the state, and its last line is half a line."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(whole)
    train(part, save_every=4, stop_at=4)
    with open(part / "tiny.log.csv", "a") as file:
        file.write("6,0.5,0.001,1.0,2026-01-01T00:00:00+00:00\n8,0.")
    train(part, save_every=4, resume=True)
    assert lines(part) == lines(whole)


def pressing(step: int):
    """The loss of the task, and Ctrl-C within step number ``step``, heard when it is whole."""
    losses, calls = tasks.Diffusion.losses, itertools.count(1)

    def pressed(self, *given, **more):
        if next(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return losses(self, *given, **more)

    return pressed


@pytest.mark.parametrize("step", range(1, 13))
def test_ctrl_c_at_any_step_loses_no_line_and_doubles_none(step, tmp_path, monkeypatch):
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(whole)
    monkeypatch.setattr(tasks.Diffusion, "losses", pressing(step))
    with pytest.raises(KeyboardInterrupt):
        train(part)
    monkeypatch.undo()
    assert states.saved_step(TINY, part) == step
    if step < 12:
        train(part, resume=True)
    assert lines(part) == lines(whole)


def test_an_older_log_stays_until_the_first_report(tmp_path, monkeypatch):
    train(tmp_path)
    before = lines(tmp_path)
    monkeypatch.setattr(tasks.Diffusion, "losses", pressing(1))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert lines(tmp_path) == before
    train(tmp_path, stop_at=2)
    assert lines(tmp_path) == before[:2]


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_with_its_log(tmp_path):
    script = (
        "import sys; from diffusion_lab import training; from test_training_log import TINY\n"
        "options = dict(out=sys.argv[1], report_every=2, save_every=10)\n"
        "for one in training.train(TINY, steps=400, resume=len(sys.argv) > 2, **options):\n"
        "    print(one.step, flush=True)"
    )

    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])

    def start(*words):
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    whole, part = tmp_path / "whole", tmp_path / "part"
    assert start(whole).communicate()[0].split()[-1] == "400"
    for words in ((part,), (part, "resume")):
        with start(*words) as process:
            for _ in range(23):  # reports, of which a state keeps every fifth
                process.stdout.readline()
            process.kill()
    assert start(part, "resume").communicate()[0].split()[-1] == "400"
    assert lines(part) == lines(whole)


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, *given):
            told.append(given)

        def flush(self):
            told.append("flushed")

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer)
    )
    reports = train(tmp_path, tensorboard=True, stop_at=4)
    train(tmp_path, tensorboard=True, resume=True)
    folder = str(tmp_path / "tiny.tensorboard")
    assert [one for one in told if one[0] == folder] == [(folder, 1), (folder, 5)]
    assert ("loss", reports[1].loss, 4) in told and told[-1] == "flushed"
    assert [one[2] for one in told if one[0] == "lr"] == [2, 4, 6, 8, 10, 12]


def test_a_missing_tensorboard_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="TensorBoard is not installed here: pip install"):
        training.train(TINY, out=tmp_path, tensorboard=True)
    assert list(tmp_path.iterdir()) == []
    train(tmp_path, stop_at=2)  # the folder is free
