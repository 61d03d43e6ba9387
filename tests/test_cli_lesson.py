"""The commands `lesson open` and `lesson check`: working copies are never lost, and scored."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import run
from nbformat.v4 import new_code_cell, new_notebook

from diffusion_lab.cli import lesson as cli_lesson
from diffusion_lab.course import lessons

HOME = Path(__file__).resolve().parent.parent / "notebooks"


def write(path: Path, *cells: str, source: str = "one") -> None:
    """A notebook that says which source it was built from."""
    about = {"lesson": path.stem, "source_sha256": source}
    notebook = new_notebook(cells=[new_code_cell(one) for one in cells])
    notebook.metadata["diffusion_lab"] = about
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture(params=["_notebooks", "notebooks"], ids=["installed", "repository"])
def home(request, tmp_path, monkeypatch) -> Path:
    """The folder of two lessons, installed or in a repository; the current folder is ``work``."""
    folder = tmp_path / "top" / request.param
    write(folder / "00_start_here.ipynb", "a = 1")
    write(folder / "01_destroying_data.ipynb", "b = 1")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(lessons, "folder", lambda: folder)
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.fixture
def mine(home, tmp_path) -> Path:
    """Where the working copies lie: one rule for both."""
    return tmp_path / ("work" if home.name == "_notebooks" else "top") / "my"


# ---- working copies -----------------------------------------------------------------------------
def test_a_copy_is_made_and_kept(home, mine, capsys):
    copy = mine / "01_destroying_data.ipynb"
    assert run(capsys, "lesson", "open", "1", "--no-open") == (0, f"{copy}\n", "")
    original = home / copy.name
    assert copy.read_bytes() == original.read_bytes()
    assert {path.name for path in mine.glob("*.ipynb")} == {path.name for path in home.iterdir()}
    copy.write_text("my work")
    assert run(capsys, "lesson", "open", "01", "--no-open") == (0, f"{copy}\n", "")
    assert copy.read_text() == "my work"


def test_a_newer_lesson_is_told_and_the_work_is_kept(home, mine, capsys):
    assert run(capsys, "lesson", "open", "--no-open")[0] == 0
    copy = mine / "00_start_here.ipynb"
    write(copy, "a = 2  # mine")
    write(home / copy.name, "a = 3", source="two")
    before = copy.read_bytes()
    status, out, err = run(capsys, "lesson", "open", "--no-open")
    assert (status, out) == (0, f"{copy}\n") and copy.read_bytes() == before
    assert "lesson 00 has a newer version than your copy, which is kept" in err
    assert "lesson open 00 --reset" in err
    assert "newer" not in run(capsys, "lesson", "open", "1", "--no-open")[2]
    for old in ("old1", "old2"):
        status, _, err = run(capsys, "lesson", "open", "--no-open", "--reset")
        assert status == 0 and f"is now 00_start_here.{old}.ipynb" in err
        assert copy.read_bytes() == (home / copy.name).read_bytes()
    assert (mine / "00_start_here.old1.ipynb").read_bytes() == before
    assert run(capsys, "lesson", "open", "--no-open")[2] == ""


def test_a_copy_in_which_nothing_was_changed_follows_the_lesson(home, mine, capsys):
    run(capsys, "lesson", "open", "--no-open")
    write(home / "01_destroying_data.ipynb", "b = 2", source="two")
    assert run(capsys, "lesson", "open", "--no-open")[2] == ""  # of another lesson, too
    assert "b = 2" in (mine / "01_destroying_data.ipynb").read_text()
    (mine / ".made.json").write_text("damaged")  # then nobody knows, and nothing is replaced
    write(home / "01_destroying_data.ipynb", "b = 3", source="three")
    assert "newer version" in run(capsys, "lesson", "open", "01", "--no-open")[2]
    assert "b = 2" in (mine / "01_destroying_data.ipynb").read_text()


def test_a_full_disk_leaves_no_half_of_a_copy(home, mine, capsys, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusion_lab.files.os.write", full)
    status, _, err = run(capsys, "lesson", "open", "--no-open")
    assert status == 2 and "No space left" in err
    assert list(mine.iterdir()) == []


def test_print_path_copies_nothing(home, mine, capsys):
    status, out, _ = run(capsys, "lesson", "open", "--print-path")
    assert status == 0 and out == f"{home / '00_start_here.ipynb'}\n"
    assert not mine.exists()


def test_git_ignores_the_copies():
    asked = ["git", "check-ignore", "my/00_start_here.ipynb", "my/.made.json"]
    done = subprocess.run(asked, cwd=HOME.parent, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a clone")
    assert done.stdout.split() == asked[2:]


def test_links_of_the_lessons_hold_in_a_copy(tmp_path, monkeypatch, capsys):
    """Each file that a lesson's text links to or shows is also there from ``my``."""
    top = tmp_path / "top"
    top.mkdir()
    for path in HOME.parent.iterdir():
        if path.name not in (".git", ".venv", "my", "runs"):
            (top / path.name).symlink_to(path)
    monkeypatch.setattr(lessons, "folder", lambda: top / "notebooks")
    copy = Path(run(capsys, "lesson", "open", "--no-open")[1].strip())
    assert copy.parent == top / "my"
    link = re.compile(r"\]\(([^)\s]+)\)|<(?:img|a)[^>]+(?:src|href)=\"([^\"]+)\"")
    missing = []
    for notebook in sorted(copy.parent.glob("*.ipynb")):
        for cell in json.loads(notebook.read_text())["cells"]:
            if cell["cell_type"] != "markdown":
                continue
            for found in link.findall("".join(cell["source"])):
                target = "".join(found).split("#")[0]
                if target and not re.match(r"\w+:", target):
                    missing += [] if (copy.parent / target).exists() else [(notebook.name, target)]
    assert not missing


# ---- JupyterLab ---------------------------------------------------------------------------------
@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands that would have started JupyterLab; it ends as if it had refused."""
    pytest.importorskip("jupyterlab")
    commands: list[list[str]] = []

    def start(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1 if "--refuse" in command else 0)

    monkeypatch.setattr(cli_lesson.subprocess, "run", start)
    return commands


def test_jupyterlab_is_started_without_the_network(home, mine, capsys, started):
    assert run(capsys, "lesson", "open")[0] == 0
    assert run(capsys, "lesson", "open", "--no-browser")[0] == 0
    command, quiet = started
    assert quiet == [*command, "--no-browser"]
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={mine.parent}" in command  # the whole repository is shown
    assert "--LabApp.default_url=/lab/tree/my/00_start_here.ipynb" in command
    from jupyterlab.labapp import LabApp

    options = [word.split("=")[0] for word in command[3:] if "root_dir" not in word]
    traits = {option.removeprefix("--LabApp.") for option in options}
    assert {"news_url", "check_for_updates_class"} <= traits <= set(LabApp.class_trait_names())


@pytest.mark.parametrize("number", [[], ["1"]])
def test_what_stands_after_two_dashes_goes_to_jupyterlab(number, home, capsys, started):
    words = ["--port", "9999", "--allow-root"]
    assert run(capsys, "lesson", "open", *number, "--no-browser", "--", *words)[0] == 0
    assert started[0][-4:] == ["--no-browser", *words]
    status, _, err = run(capsys, "lesson", "open", "--port", "9999")
    assert status == 2 and "unrecognized arguments: --port" in err
    assert run(capsys, "lesson", "open", "--")[0] == 0  # as make lab has it


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no root here")
def test_root_is_told_how(home, capsys, started, monkeypatch):
    for user, told in ((0, True), (1000, False)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        status, _, err = run(capsys, "lesson", "open", "1", "--", "--refuse")
        assert status == 1 and ("lesson open 1 -- --allow-root" in err) == told


def test_without_jupyterlab_it_says_what_to_install(home, capsys, monkeypatch):
    monkeypatch.setattr(cli_lesson.importlib.util, "find_spec", lambda name: None)
    status, _, err = run(capsys, "lesson", "open")
    assert status == 2 and "pip install jupyterlab" in err
    status, _, err = run(capsys, "lesson", "check")
    assert status == 2 and "pip install nbclient" in err


# ---- the score ----------------------------------------------------------------------------------
TASKS = ("one", "two", "three", "four", "five")
CELLS = (
    "from types import SimpleNamespace\n"
    "from diffusion_lab.course.checks import number\n"
    f"check = SimpleNamespace(**{{n: number(i, hint='count.') for i, n in enumerate({TASKS}, 1)}})",
    "check.one(given)",
    "check.two(2)\ncheck.three(...)",
    "check.four(5)",
    "check.five(5)",
)


def test_the_score_of_a_copy(home, mine, capsys):
    lesson = "01_destroying_data.ipynb"
    write(home / lesson, *CELLS)
    status, _, err = run(capsys, "lesson", "check", "1")
    assert status == 2 and "'diffusion-lab lesson open 01' makes it" in err
    assert run(capsys, "lesson", "open", "1", "--no-open")[0] == 0
    write(mine / lesson, "raise ValueError('before')", *CELLS[:-1])  # `given` and a check are lost
    before = (mine / lesson).read_bytes()
    status, out, _ = run(capsys, "lesson", "check", "1", "--json")
    assert status == 1 and (mine / lesson).read_bytes() == before
    found = {row["task"]: (row["status"], row["message"]) for row in json.loads(out)}
    assert list(found) == list(TASKS)
    assert found["one"] == ("not yet", "NameError: name 'given' is not defined")
    assert found["two"] == ("right", "well done.")
    assert found["three"][0] == found["five"][0] == "not attempted yet"
    assert found["four"] == ("not yet", "5 is too large.")
    assert "not in this notebook" in found["five"][1]


def test_the_score_is_printed_and_decides_the_status(home, mine, tmp_path, capsys):
    write(home / "01_destroying_data.ipynb", *CELLS)
    mixed, right = tmp_path / "mixed.ipynb", tmp_path / "right.ipynb"
    write(mixed, "given = 1", *CELLS)
    status, out, _ = run(capsys, "lesson", "check", "1", "--file", mixed)
    *rows, score = out.splitlines()
    assert status == 1 and score == "3 of 5 right, 1 not yet, 1 not attempted"
    assert "not yet            four   5 is too large." in rows
    write(right, "given = 1", *CELLS[:2], "check.two(2)\ncheck.three(3)\ncheck.four(4)", CELLS[4])
    status, out, _ = run(capsys, "lesson", "check", "1", "--file", right)
    assert status == 0 and out.splitlines()[-1] == "5 of 5 right, 0 not yet, 0 not attempted"
    (tmp_path / "text.ipynb").write_text("no notebook")
    status, _, err = run(capsys, "lesson", "check", "1", "--file", tmp_path / "text.ipynb")
    assert status == 2 and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "right"), [("learner", 0), ("solution", 6)])
def test_a_real_lesson_is_scored(kind, right, capsys):
    path = lessons.find("01", kind)
    status, out, _ = run(capsys, "lesson", "check", "01", "--file", path)
    assert status == (right == 0)
    assert out.splitlines()[-1] == f"{right} of 6 right, 0 not yet, {6 - right} not attempted"


# ---- export -------------------------------------------------------------------------------------
def test_a_lesson_is_exported_whole_or_not_at_all(home, capsys):
    status, out, _ = run(capsys, "lesson", "export", "01", "--out", "new/page.html")
    assert status == 0 and out == f"wrote {Path('new/page.html')}\n"
    assert "b = 1" in re.sub(r"<[^>]*>", "", Path("new/page.html").read_text(encoding="utf-8"))
    status, _, err = run(capsys, "lesson", "export", "01", "--out", "page.pdf")
    assert status == 2 and "--out must end in .html" in err
    assert [path.name for path in Path.cwd().iterdir()] == ["new"]
