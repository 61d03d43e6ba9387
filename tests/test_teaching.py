"""Assignments, from handing out to marks; the teacher's page; slides."""

from __future__ import annotations

import copy
import csv
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader import preprocessors
from traitlets.config import Config

from diffusion_lab import cli
from diffusion_lab.course import building, checks, lessons, teaching
from diffusion_lab.course.checks import lesson01
from teaching import page, slides

ROOT = Path(__file__).resolve().parent.parent
LESSONS = lessons.ready()
PAGE = page.PAGE.read_text(encoding="utf-8")
TYPED = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.strip().split("\n")
]
SEED = 2718


def read(name: str, kind: str = "learner"):
    return nbformat.read(lessons.find(name, kind), as_version=4)


def solutions(notebook) -> list:
    return [c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("solution")]


# ------------------------------------------------------------------------------------- releasing
@pytest.mark.parametrize("name", LESSONS)
def test_a_release_holds_what_the_learner_finds(name):
    released, _ = teaching.ClearSolutions().preprocess(read(name, "solution"), {})
    given = {cell.metadata.name: cell.source for cell in solutions(read(name))}
    assert {cell.metadata.name: cell.source for cell in solutions(released)} == given
    plain, _ = preprocessors.ClearSolutions().preprocess(read(name, "solution"), {})
    stub = "raise NotImplementedError()"
    assert all(stub in cell.source for cell in solutions(plain) if cell.cell_type == "code")
    assert not any(stub in cell.source for cell in released.cells)


def own_cell(name: str = "mine"):
    marks = {"schema_version": 3, "grade_id": name, "task": False, "cell_type": "code"}
    marks |= {"grade": False, "solution": True, "locked": False}
    source = "### BEGIN SOLUTION\nanswer = 42\n### END SOLUTION"
    return new_code_cell(source, metadata={"name": name, "nbgrader": marks})


def test_what_a_teacher_adds_is_cleared_as_nbgrader_does():
    with_own = read("01_destroying_data", "solution")
    with_own.cells.append(own_cell())
    for notebook in (with_own, new_notebook(cells=[own_cell("ex1")])):
        released, _ = teaching.ClearSolutions().preprocess(notebook, {})
        assert released.cells[-1].source == "# YOUR CODE HERE\nraise NotImplementedError()"


def test_settings_of_a_course(monkeypatch):
    for name in ("PATH", lessons.LEVEL_VARIABLE, "JUPYTER_PREFER_ENV_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    config = Config()
    teaching.configure(config)
    chain = config.GenerateAssignment.preprocessors
    assert chain.count(teaching.ClearSolutions) == 1
    assert preprocessors.ClearSolutions not in chain and len(chain) > 5
    assert os.environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert os.environ[lessons.LEVEL_VARIABLE] == "smoke"


def test_a_course_of_other_settings_and_a_learners_seed_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 or more"):
        teaching.assign("01", tmp_path, seed=0)
    (tmp_path / "nbgrader_config.py").write_text("c = get_config()\n")
    with pytest.raises(ValueError, match=r"teaching\.configure"):
        teaching.assign("01", tmp_path)
    assert not (tmp_path / "source").exists()


def test_without_nbgrader_the_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nbgrader" else find(name)
    )
    assert cli.main(["lesson", "assign", "01", "--course", str(tmp_path)]) == 2
    assert '".[teach]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- checks
def test_a_check_raises_only_while_nbgrader_validates(monkeypatch):
    def good(x, beta, noise):
        return (1 - beta) ** 0.5 * x + beta**0.5 * noise

    def wrong(x, beta, noise):
        return x

    monkeypatch.delenv("NBGRADER_VALIDATING", raising=False)
    assert not lesson01.one_step(wrong).ok
    monkeypatch.setenv("NBGRADER_VALIDATING", "1")
    assert lesson01.one_step(good).ok
    with pytest.raises(AssertionError, match="not yet"):
        lesson01.one_step(wrong)


def test_a_hidden_test_notices_answers_that_are_learnt_by_heart():
    seen = lesson01._steps(checks._generator(0))

    def by_heart(x, beta, noise):
        known = any(torch.equal(x, shown) for shown, _, _ in seen)
        return (1 - beta) ** 0.5 * x + beta**0.5 * noise if known else torch.zeros_like(x)

    assert lesson01.one_step.result(by_heart).ok
    with pytest.raises(AssertionError, match="not yet"):
        lesson01.one_step.hidden(by_heart, seed=SEED)


# ------------------------------------------------------------------------------------- round trip
def typed(line: str, folder: Path, name: str) -> str:
    """Run a line of TEACHING.md for a lesson, where nothing of this environment is on PATH."""
    words = shlex.split(line.replace("01_destroying_data", name).replace(" 01 ", f" {name} "))
    module = {"nbgrader": "nbgrader", "diffusion-lab": "diffusion_lab.cli"}[words[0]]
    environment = {k: v for k, v in os.environ.items() if k != lessons.LEVEL_VARIABLE}
    environment |= {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    if words[1] == "validate":  # it reads no course's settings: a student has none
        environment |= {lessons.LEVEL_VARIABLE: "smoke"}
    command = [sys.executable, "-m", module, *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_destroying_data", "05_jumping"])
def test_three_submissions_are_graded_by_command(name, tmp_path):
    """Right, half done, untouched: 100%, in between, 0, with the commands of TEACHING.md."""
    (assign,) = [line for line in TYPED if " assign " in line]
    assert f"--seed {SEED}" in assign and "--course course" in assign
    typed(assign, tmp_path, name)
    course = tmp_path / "course"
    released = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    asked = [c for c in released.cells if c.metadata.get("nbgrader", {}).get("grade")]
    points = [cell.metadata.nbgrader.points for cell in asked]
    assert not any("hidden" in cell.source.lower() for cell in asked)

    answers = {cell.metadata.name: cell.source for cell in solutions(read(name, "solution"))}
    for student, done in (("right", len(answers)), ("half", len(answers) // 2), ("untouched", 0)):
        notebook = copy.deepcopy(released)
        for cell in solutions(notebook):
            assert cell.source != answers[cell.metadata.name], "nothing is given away"
        for cell in solutions(notebook)[:done]:
            cell.source = answers[cell.metadata.name]
        path = course / "submitted" / student / name / f"{name}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)

    first = name == "01_destroying_data"  # what nbgrader alone does is tried once
    for line in TYPED:
        if line.startswith("nbgrader ") and (first or "feedback" not in line):
            typed(line, course, name)
    rows = {row["student_id"]: row for row in csv.DictReader((course / "grades.csv").open())}
    got = {student: float(row["score"]) for student, row in rows.items()}
    assert got == {"right": sum(points), "half": sum(points[: len(answers) // 2]), "untouched": 0}
    assert 0 < got["half"] < got["right"] == float(rows["half"]["max_score"])
    graded = (course / "autograded" / "right" / name / f"{name}.ipynb").read_text()
    assert graded.count(f", seed={SEED})") == len(asked)
    if first:
        assert (course / "feedback" / "half" / name / f"{name}.html").is_file()
        line = re.search(r"`(nbgrader validate [^`]*)`", PAGE)[1]
        said = typed(line, course / "submitted" / "untouched" / name, name)
        assert f"VALIDATION FAILED ON {len(asked)} CELL(S)" in said


# ------------------------------------------------------------------------------------- the page
@pytest.mark.slow
def test_the_page_says_what_the_lessons_say():
    assert page.fresh(PAGE) == PAGE, "run: python -m teaching.page"
    for name in LESSONS:
        assert len(page.goals(building.source_text(name, lessons.folder()))) >= 4
        assert all(page.errors(name[:2]).values()), name


def test_every_line_of_the_page_is_of_a_kind_that_is_tested():
    assert {line.split()[0] for line in TYPED} == {"pip", "diffusion-lab", "nbgrader", "make"}
    (extra,) = [line for line in TYPED if line.startswith("pip")]
    assert '".[teach]"' in extra
    assert (ROOT / "constraints.txt").is_file()
    targets = (ROOT / "Makefile").read_text()
    for line in TYPED:
        if line.startswith("make "):
            assert f"\n{line.split()[1]}: setup\n" in targets


# ------------------------------------------------------------------------------------- slides
DECKS = {name: deck for name in LESSONS if (deck := slides.deck(name)) is not None}


def test_two_lessons_have_slides_and_no_notebook_holds_them():
    assert len(DECKS) >= 2
    for name in DECKS:
        for kind in lessons.KINDS:
            for cell in building.convert(name, kind).cells:
                assert cell.cell_type != "raw" and not cell.metadata.name.startswith("slide-")


@pytest.mark.parametrize("name", DECKS)
def test_slides_need_no_network_and_figures_are_described(name):
    shown = re.sub(r"<(style|script).*?</\1>", "", DECKS[name], flags=re.DOTALL)
    assert not re.findall(r"<(?:link|script|iframe)\b|\b(?:src|href)=\"(?!data:|#)", shown)
    style = re.findall(r"<style.*?</style>", DECKS[name], re.DOTALL)
    assert len(style) >= 2 and not re.search(r"@import|url\((?!data:)", "".join(style))
    assert not re.search(r"<script[^>]+src=", DECKS[name])
    pictures = re.findall(r"<img[^>]*>", shown)
    assert len(pictures) >= 5
    assert all(re.search(r'alt="[^"]{20,}"', picture) for picture in pictures)
    assert "<math" in shown and "$" not in re.sub(r"<[^>]*>", "", shown)
    source = building.source_text(name, lessons.folder())
    assert shown.count("<h1>") == 1
    assert shown.count("<h1>") + shown.count("<h2>") == len(re.findall(r"# %% \[raw\]", source))


def test_a_slide_that_shows_no_cell_is_refused(monkeypatch):
    text = '# %% [raw] name="slide-a" shows="bott"\n# # A\n'
    monkeypatch.setattr(building, "source_text", lambda name, home: text)
    with pytest.raises(ValueError, match="bott"):
        slides.deck("01_destroying_data")


def test_slides_are_written_where_they_are_wanted(tmp_path, capsys):
    slides.main(["--out", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == set(DECKS)
    assert len(capsys.readouterr().out.split()) == len(DECKS)
