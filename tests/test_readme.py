"""What the README and CONTRIBUTING say can be typed works, and what they name exists."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diffusion_lab import about
from diffusion_lab.course import survey

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BLOCKS = [
    block.strip().splitlines() for block in re.findall(r"```\w*\n(.*?)```", README, re.DOTALL)
]
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README + CONTRIBUTING, flags=re.DOTALL))
LINES = [line for block in BLOCKS for line in block]


def starting(word: str) -> list[str]:
    return [line for line in LINES if line.startswith(word + " ")]


def test_every_line_of_a_block_is_of_a_kind_that_is_tested():
    kinds = ("git clone ", "make ", "diffusion-lab ", "pip install ", "%pip install ", "conda ")
    set_up = ("python3 -m venv .venv", ". .venv/bin/activate")
    unknown = [
        line
        for line in LINES
        if not line.startswith(kinds) and line not in set_up and not re.match(r"[\w/]+/  ", line)
    ]
    assert not unknown, f"add a test for: {unknown}"


def test_the_first_screen_is_two_commands_where_the_course_has_been_fetched():
    folder = about.REPOSITORY.rsplit("/", 1)[1]
    fetch = f"git clone {about.REPOSITORY} && cd {folder}"
    assert BLOCKS[0] == [fetch, "make lab", "make test"]
    assert starting("git") == [fetch]
    assert README.index("make lab") < 200


MAKE = [found[1] for word in [*LINES, *CODE] if (found := re.match(r"make ([a-z-]+)", word))]


@pytest.mark.parametrize("target", sorted({*MAKE, "clean", "distclean", "coverage", "bench"}))
def test_make_targets_exist(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_lab_asks_no_network_and_opens_lesson_00():
    # Within `make test` a second make would tell which folder it enters and leaves.
    call = ["make", "--no-print-directory", "-n", "lab"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    # what that command tells JupyterLab is held in test_cli_survey.py
    assert done.stdout.splitlines()[-1].endswith("/diffusion-lab lesson open 00 -- ")


def test_ci_runs_make_test_and_nothing_else():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test </dev/null"]


@pytest.mark.parametrize("line", starting("pip install"))
def test_pip_lines(line):
    words = shlex.split(line)
    for flag, word in itertools.pairwise(words):
        if flag == "-c":
            assert (ROOT / word).is_file()
        if flag == "-e":
            extras = re.fullmatch(r"\.\[(.+)\]", word).group(1).split(",")
            assert set(extras) <= set(EXTRAS)


def test_the_hosted_line_has_the_one_address():
    (line,) = starting("%pip")
    assert line == f'%pip install -q "{about.REQUIREMENT}"'
    addresses = re.findall(r"github\.com/[\w-]+/[\w-]+", README + CONTRIBUTING)
    assert {"https://" + address for address in addresses} == {about.REPOSITORY}


def test_the_lessons_have_the_one_address():
    from diffusion_lab.course import cells

    assert about.REQUIREMENT in cells.colab_cell()
    for notebook in sorted((ROOT / "notebooks").glob("**/*.ipynb")):
        if ".ipynb_checkpoints" not in notebook.parts:
            text = notebook.read_text()
            assert set(re.findall(r"git\+(http[^\\\"' ]+)", text)) == {about.REPOSITORY}, (
                notebook.name
            )


def test_conda_lines():
    create, activate = starting("conda")
    assert create == "conda env create -f environment.yml"
    assert f"name: {activate.split()[-1]}\n" in (ROOT / "environment.yml").read_text()


# `a/b`, `a/` and `name.ext` in running text; the first word of "tests/   mirrors...".
IN_TEXT = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+/|[\w-]+\.\w{2,4}")
IN_LAYOUT = re.compile(r"([\w/]+/)  ")
NAMED = [word for word in CODE if IN_TEXT.fullmatch(word)]
NAMED += [found[1] for line in LINES if (found := IN_LAYOUT.match(line))]
MADE = {
    "samples.png",
    "my",
    "build/site",
    "05_jumping.old1.ipynb",
}  # by the commands that are shown
PATHS = sorted({word.rstrip("/") for word in NAMED} - MADE)


@pytest.mark.parametrize("path", [p for p in PATHS if not p.startswith(".venv") and "NN_" not in p])
def test_paths_that_are_named_exist(path):
    places = [ROOT, ROOT / "notebooks", ROOT / "diffusion_lab"]
    found = [place / path for place in places if (place / path).exists()]
    assert found, f"{path} is named and is not there"
    assert found[0].is_file() or any(found[0].iterdir()), f"{path} is empty"


def test_licences_are_there():
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    text = (ROOT / "LICENSE-text").read_text()
    assert "Attribution 4.0 International" in text
    assert "creativecommons.org/licenses/by/4.0/legalcode" in text


def small(line: str) -> list[str]:
    """The command with the work made tiny: as few steps and pictures as it takes."""
    for option, value in {"--steps": 2, "--n": 2}.items():
        line = re.sub(rf"{option} \d+", f"{option} {value}", line)
    line += " --print-path" if "lesson open" in line else ""
    return [str(Path(sys.executable).parent / "diffusion-lab"), *shlex.split(line)[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("line", sorted(set(starting("diffusion-lab"))))
def test_command_lines_run(line, tmp_path):
    done = subprocess.run(
        small(line), cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    for name in re.findall(r"--(?:out|save) (\S+)", line):
        assert (tmp_path / name).stat().st_size > 0


def test_every_lesson_is_in_the_table():
    from diffusion_lab.course import lessons

    table = README.split("<!-- lessons: begin -->")[1].split("<!-- lessons: end -->")[0]
    listed = re.findall(r"^\| \[?(\d\d)", table, re.MULTILINE)
    assert listed == [name[:2] for name in lessons.names() if lessons.find(name).is_file()]
    assert f"{len(listed)} of its {len(survey.lessons())} lessons are ready" in README


def test_the_table_asks_the_questions_of_the_map():
    """Title, question and file of a lesson have one home, survey.json; lesson 00 prints them."""
    rows = re.findall(r"^\| \[(\d\d) (.+?)\]\((.+?)\) \| (.+?) \|", README, re.MULTILINE)
    known = {(one.number, one.title, one.file, one.question) for one in survey.lessons()}
    assert rows and set(rows) <= known


def test_the_minutes_are_measured_ones():
    """To a third, or 0.2 minutes: a lesson may be measured again without a change here."""
    rows = re.findall(r"\(notebooks/(\w+)\.ipynb\) \|.*\| ([\d.]+) \|", README)
    measured = json.loads((ROOT / "notebooks" / "measured.json").read_text())
    assert rows
    for name, minutes in rows:
        seconds = measured[name]["seconds"]
        assert abs(60 * float(minutes) - seconds) <= max(12, seconds / 3), (name, minutes, seconds)
