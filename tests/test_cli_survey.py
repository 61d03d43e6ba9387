"""The commands `survey` and `lesson`: what they print, and how they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab import cli
from diffusion_lab.cli import lesson as cli_lesson
from diffusion_lab.course import building, lessons, survey, survey_check


def _run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command."""
    try:
        status = cli.main(list(arguments))
    except SystemExit as stop:  # argparse
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """A packaged lesson 00, and an empty folder to work in; returns the folder."""
    package = tmp_path / "site" / "_notebooks"
    package.mkdir(parents=True)
    (package / "00_start_here.ipynb").write_text('{"cells": []}')
    (package / "source").mkdir()
    (package / "source" / "02_learning_to_go_back.py").write_text("")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(lessons, "folder", lambda: package)
    monkeypatch.chdir(work)
    return work


def test_survey_prints_every_system(capsys):
    status, out, err = _run(capsys, "survey")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:72]] == [str(n) for n in range(1, 71)]


def test_survey_json_is_the_map(capsys):
    status, out, _ = _run(capsys, "survey", "--json")
    assert status == 0
    assert [row["number"] for row in json.loads(out)] == list(range(1, 71))
    status, out, _ = _run(capsys, "survey", "--family", "sde", "--lesson", "6", "--json")
    assert [row["name"] for row in json.loads(out)] == ["ScoreFlow", "score SDE"]
    assert out.isascii()


def test_survey_of_one_system_tells_all(capsys):
    status, out, _ = _run(capsys, "survey", "bddm")
    assert status == 0 and "2203.13508" in out and "1/4" in out
    assert json.loads(_run(capsys, "survey", "13", "--json")[1])[0]["name"] == "BDDM"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["survey", "--family", "nois"], "Did you mean 'noise'"),
        (["survey", "--state", "workin"], "Did you mean 'working'"),
        (["survey", "--lesson", "25"], "from 00 to 24"),
        (["survey", "DDMI"], "Did you mean 'DDIM'? All of them: 'diffusion-lab survey'"),
        (["survey", "71"], "no system has the number 71; they go from 1 to 70"),
        (["survey", "P2", "--family", "core"], "not both"),
        (["survay"], "Did you mean 'survey'"),
        (["survey", "--nothing"], "usage: diffusion-lab survey"),
        (["survey", "--familly", "sde"], "arguments: --familly. Did you mean '--family'?"),
        (["survey", "DDPM", "DDIM"], "unrecognized arguments: DDIM"),
        (["lesson", "open", "77"], "from 00 to 24"),
        (["lesson", "open", "24"], "not there yet"),
        (["lesson", "open", "--no-open", "--print-path"], "not allowed with"),
    ],
)
def test_errors_are_one_line_and_status_2(arguments, words, installed, capsys):
    status, out, err = _run(capsys, *arguments)
    assert status == 2 and out == ""
    assert err.splitlines()[-1].startswith("diffusion-lab: error: ")
    assert words in err and "Traceback" not in err


def test_every_command_has_help(capsys):
    for words in (
        ["survey"],
        ["lesson"],
        ["lesson", "list"],
        ["lesson", "open"],
        ["lesson", "build"],
        [],
    ):
        status, out, _ = _run(capsys, *words, "--help")
        assert status == 0 and out.startswith("usage: diffusion-lab")


@pytest.mark.parametrize("words", [[], ["lesson"]])
def test_a_command_without_its_command_shows_the_help(words, capsys):
    """Which commands there are, as --help says it, and no error."""
    help_text = _run(capsys, *words, "--help")[1]
    assert _run(capsys, *words) == (0, help_text, "")
    assert ("open" if words else "survey") in help_text


def test_a_wrong_option_alone_is_still_an_error(capsys):
    for words in (["--jsn"], ["lesson", "--jsn"]):
        status, out, err = _run(capsys, *words)
        assert (status, out) == (2, "") and "unrecognized arguments: --jsn" in err


def test_survey_help_names_all_families():
    help_text = " ".join(
        cli._parser()._subparsers._group_actions[0].choices["survey"].epilog.split()
    )
    assert help_text == f"Families: {', '.join(one.key for one in survey.families())}."


def test_survey_check_passes_and_reports(capsys, monkeypatch):
    assert _run(capsys, "survey", "--check")[0] == 0
    monkeypatch.setattr(survey_check, "verify", lambda row: ["wrong"] if row.number == 1 else [])
    assert _run(capsys, "survey", "--check")[:2] == (1, "DDPM: wrong\n")
    status, out, _ = _run(capsys, "survey", "--check", "--json")
    assert status == 1 and json.loads(out) == {"DDPM": ["wrong"]}


@pytest.mark.parametrize("error", [ValueError("a"), OSError(28, "No space left on device")])
def test_expected_errors_of_a_command_show_no_traceback(error, capsys, monkeypatch):
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(survey, "rows", fail)
    status, _, err = _run(capsys, "survey")
    assert status == 2 and err == f"diffusion-lab: error: {error}\n"


def test_a_bug_shows_its_traceback(monkeypatch):
    monkeypatch.setattr(survey, "rows", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["survey"])


def test_lesson_list(installed, capsys):
    status, out, _ = _run(capsys, "lesson", "list")
    assert status == 0 and len(out.splitlines()) == 25
    assert "\n02  planned" in out, "a source without a notebook is not ready"
    assert out.startswith("00  ready ") and "\n01  planned" in out
    listed = json.loads(_run(capsys, "lesson", "list", "--json")[1])
    assert [one["number"] for one in listed] == [one.number for one in survey.lessons()]
    assert [one["number"] for one in listed if one["ready"]] == ["00"]


def test_lesson_open_copies_an_installed_lesson_and_keeps_a_copy(installed, capsys):
    copy = installed / "00_start_here.ipynb"
    assert _run(capsys, "lesson", "open", "0", "--no-open")[:2] == (0, f"{copy}\n")
    assert copy.read_text() == '{"cells": []}'
    copy.write_text("my work")
    status, out, err = _run(capsys, "lesson", "open", "00", "--no-open")
    assert (status, out) == (0, f"{copy}\n") and "kept as it is" in err
    assert copy.read_text() == "my work"
    assert [path.name for path in installed.iterdir()] == [copy.name]


def test_lesson_open_leaves_nothing_behind_on_a_full_disk(installed, capsys, monkeypatch):
    def full(_: object, target: Path) -> None:
        Path(target).write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli_lesson.shutil, "copyfile", full)
    status, _, err = _run(capsys, "lesson", "open", "--no-open")
    assert status == 2 and "No space left" in err
    assert list(installed.iterdir()) == []


def test_lesson_open_in_the_repository_opens_the_lesson_itself(installed, capsys, monkeypatch):
    home = installed / "notebooks"
    home.mkdir()
    (home / "00_start_here.ipynb").write_text("{}")
    monkeypatch.setattr(lessons, "folder", lambda: home)
    assert _run(capsys, "lesson", "open", "--no-open")[1] == f"{home / '00_start_here.ipynb'}\n"
    assert [path.name for path in installed.iterdir()] == ["notebooks"]


def test_lesson_print_path_copies_nothing(installed, capsys):
    status, out, _ = _run(capsys, "lesson", "open", "--print-path")
    assert status == 0 and out.strip().endswith("_notebooks/00_start_here.ipynb")
    assert list(installed.iterdir()) == []


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that would have started JupyterLab."""
    pytest.importorskip("jupyterlab")
    commands: list[list[str]] = []

    def start(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(cli_lesson.subprocess, "run", start)
    return commands


def test_lesson_open_starts_jupyterlab_without_the_network(installed, capsys, started):
    assert _run(capsys, "lesson", "open")[0] == 0
    assert _run(capsys, "lesson", "open", "--no-browser")[0] == 0
    command, quiet = started
    assert quiet == [*command, "--no-browser"]
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={installed}" in command
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in command
    from jupyterlab.labapp import LabApp

    options = [word.split("=")[0] for word in command[3:] if "root_dir" not in word]
    traits = {option.removeprefix("--LabApp.") for option in options}
    assert {"news_url", "check_for_updates_class"} <= traits <= set(LabApp.class_trait_names())


def test_lesson_open_shows_the_whole_repository(installed, capsys, started, monkeypatch):
    home = installed / "notebooks"
    home.mkdir()
    (home / "00_start_here.ipynb").write_text("{}")
    monkeypatch.setattr(lessons, "folder", lambda: home)
    assert _run(capsys, "lesson", "open", "0")[0] == 0
    assert f"--ServerApp.root_dir={installed}" in started[0]
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in started[0]


def test_lesson_open_without_jupyterlab_says_what_to_install(installed, capsys, monkeypatch):
    monkeypatch.setattr(cli_lesson.importlib.util, "find_spec", lambda name: None)
    status, _, err = _run(capsys, "lesson", "open")
    assert status == 2 and "pip install jupyterlab" in err


def test_lesson_build_hands_its_arguments_on(capsys, monkeypatch):
    given = []
    monkeypatch.setattr(building, "update", lambda *some, **how: given.append((some, how)) or 1)
    assert _run(capsys, "lesson", "build", "00", "3", "--check")[0] == 1
    assert given == [((["00", "3"],), {"at": "live", "check": True, "measure": False})]


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_idle_threads_sleep_unless_the_user_says_otherwise(given, capsys, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert _run(capsys, "survey", "DDIM")[0] == 0
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")


def test_torch_is_not_loaded_before_the_variables_are_set():
    """The OpenMP library reads them once, when torch loads it."""
    code = "import sys, diffusion_lab.cli as cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_program_runs_as_a_process_and_stops_with_its_reader(tmp_path):
    command = [sys.executable, "-m", "diffusion_lab.cli", "survey"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0 and "66 systems" in run.stdout
    wrong = subprocess.run([*command, "--family", "x"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as early:
        early.stdout.close()
        assert early.stderr.read() == b""
    assert early.returncode == 0
