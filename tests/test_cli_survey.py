"""The commands `survey`, `lesson list` and `doctor`: what they print, and how they refuse."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_lab import cli
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
    epilog = cli._parser()._subparsers._group_actions[0].choices["survey"].epilog
    told = " ".join(epilog.split("\n\n")[0].split())
    assert told == f"Families: {', '.join(one.key for one in survey.families())}."


def parsers(parser):
    """A parser and those of its commands."""
    yield parser
    for action in (parser._subparsers and parser._subparsers._group_actions) or ():
        for one in action.choices.values():
            yield from parsers(one)


def test_every_command_shows_examples_that_can_be_typed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for parser in parsers(cli._parser()):
        lines = parser.format_help().splitlines()
        shown = [line for line in lines if line.startswith("  diffusion-lab ")]
        assert max(map(len, lines)) <= 80
        assert bool(shown) == (parser.prog not in ("diffusion-lab", "diffusion-lab lesson"))
        for line in shown:
            _, *words = shlex.split(line)
            assert line.split()[: len(parser.prog.split())] == parser.prog.split()
            words = words[: words.index("--")] if "--" in words else words
            assert cli._parser().parse_known_args(words)[1] == []


@pytest.mark.parametrize("width", [80, 100, 200])
def test_survey_fits_its_columns(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    out = _run(capsys, "survey")[1]
    assert max(map(len, out.splitlines())) <= width
    rows = out.splitlines()[2:72]
    assert [row.split()[0] for row in rows] == [str(n) for n in range(1, 71)]
    assert ("J. Song, Meng, Ermon 2020" in out) == (width >= 100) and "2010.02502" in out
    assert ("…" in out) == (width == 100)
    for name in ("DDIM", "13"):
        out = _run(capsys, "survey", name)[1]
        assert max(map(len, out.splitlines())) <= width
    assert "\033" not in out


def test_survey_written_to_a_file_is_not_cut(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    out = _run(capsys, "survey")[1]
    assert "De Bortoli, Thornton, Heng, Doucet 2021" in out and "…" not in out
    assert "tests/test_peers.py::test_ddim," in _run(capsys, "survey", "DDIM")[1]


def test_arxiv_numbers_are_links_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    plain = _run(capsys, "survey", "DDIM")[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    link = "\033]8;;https://arxiv.org/abs/2010.02502\033\\2010.02502\033]8;;\033\\"
    shown = _run(capsys, "survey", "DDIM")[1]
    assert shown.count(link) == 1 and shown.replace(link, "2010.02502") == plain


def test_tables_wrap_their_last_column(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["train", "--list"], ["lesson", "list"], ["doctor"]):
        out = _run(capsys, *words)[1].split("\n\n")[0]
        assert max(map(len, out.splitlines())) <= 80 or words == ["doctor"], out


def completed(line: str, folder: Path) -> list[str]:
    """What argcomplete offers for a line, as a shell asks for it: in a process of its own, since
    it closes the file descriptors that it was given.
    """
    found = folder / "offered"
    words = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line}
    words |= {"COMP_POINT": str(len(line)), "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    words["_ARGCOMPLETE_STDOUT_FILENAME"] = str(found)
    subprocess.run([sys.executable, "-m", "diffusion_lab.cli"], env=os.environ | words, check=False)
    return found.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("diffusion-lab sur", {"survey"}),
        ("diffusion-lab survey DD", {"DDIM", "DDPM", "DDRM", "DDGAN"}),
        ("diffusion-lab lesson check 0", {f"0{i}" for i in range(9)}),
        ("diffusion-lab sample --sampler dd", {"ddim", "ddpm"}),
        ("diffusion-lab sample --model fashion-v", {"fashion-vp1000"}),
        ("diffusion-lab train digits-", {"digits-features"}),
    ],
)
def test_a_shell_completes(line, offered, tmp_path):
    found = {word.strip() for word in completed(line, tmp_path)}
    assert offered <= found
    assert all(word.startswith(line.split()[-1]) for word in found)


def test_main_completes_when_a_shell_asks(monkeypatch):
    import argcomplete

    asked = []
    monkeypatch.setattr(argcomplete, "autocomplete", lambda parser: asked.append(parser.prog))
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    cli.main(["survey", "DDIM"])
    assert asked == ["diffusion-lab"]


def test_doctor_tells_and_notices(capsys, monkeypatch):
    import torch

    from diffusion_lab import about
    from diffusion_lab.data import store

    monkeypatch.setenv("DIFFUSION_LAB_OFFLINE", "1")
    monkeypatch.setenv("DIFFUSION_LAB_LEVEL", "smoke")
    status, out, _ = _run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert status == 0 and found["torch"] == torch.__version__.split("+")[0]
    assert found["diffusion_lab"].startswith(f"{about.VERSION} in ")
    assert found["threads"].startswith(f"{torch.get_num_threads()} of ")
    assert found["level"].startswith("smoke of ") and found["network"] == "refused"
    assert str(store.folder()) in found["data"]
    monkeypatch.setenv("DIFFUSION_LAB_LEVEL", "smok")
    monkeypatch.delenv("DIFFUSION_LAB_OFFLINE")
    status, out, _ = _run(capsys, "doctor")
    assert status == 1 and "wrong: " in out and "Did you mean 'smoke'" in " ".join(out.split())
    assert out.splitlines()[-1].split() == ["network", "allowed"]


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
