"""Every lesson is held here: its notebooks against its source, its form, its exercises both ways.

The first half runs over all sources in ``notebooks/source``; a lesson added there is tested
without a line here, but needs ``diffusion_lab/course/checks/lessonNN.py`` and
``tests/answers/NN.py``.
The second half proves the machinery on a tiny lesson: each fault is put in, and must be found.
"""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from diffusion_lab.course import building, cells, checks, lessons, survey, survey_plots
from teaching import page

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "notebooks"
LESSONS = sorted(path.stem for path in HOME.glob("source/[0-9][0-9]_*.py"))
OPENING = ("goals", "prerequisites", "time", "data")
VIEW = "application/vnd.jupyter.widget-view+json"
SECTIONS = (
    "what did it cost",
    "paper against here",
    "when it does not help",
    "recap",
    "further reading",
)
every_lesson = pytest.mark.parametrize("lesson", LESSONS)
every_notebook = pytest.mark.parametrize("kind", lessons.KINDS)


# ------------------------------------------------------------------------------------- reading
def stored(lesson: str, kind: str = "solution", home: Path = HOME):
    return nbformat.read(lessons.find(lesson, kind, home), as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def printed(cell) -> str:
    """What a cell printed and returned as text."""
    texts = [
        out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs
    ]
    return "".join(texts)


def images(cell) -> list:
    return [out for out in cell.outputs if "image/png" in out.get("data", {})]


def checks_of(lesson: str):
    return import_module(f"diffusion_lab.course.checks.lesson{lesson[:2]}")


def wrong_answers(lesson: str) -> dict[str, list]:
    return page.wrong_answers(lesson[:2])


# -------------------------------------------------------------------------------- what is asked
def form_faults(notebook) -> list[str]:
    """Where a notebook breaks the bars on cells, headings, sections and checked cells."""
    found = []
    code = [cell for cell in code_cells(notebook) if "colab" not in tags(cell)]
    sizes = [len([line for line in cell.source.split("\n") if line.strip()]) for cell in code]
    if statistics.median(sizes) > 8:
        found.append(f"the median code cell has {statistics.median(sizes)} lines, 8 at most")
    if sum(size > 20 for size in sizes) > 0.1 * len(sizes):
        found.append(f"{sum(size > 20 for size in sizes)} of {len(sizes)} cells exceed 20 lines")
    if max(sizes) > 40:
        found.append(f"a code cell has {max(sizes)} lines, 40 at most")
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        name = cell.metadata.name
        if cell.cell_type != "code":
            continue
        exercise = before and before.metadata.get("nbgrader", {}).get("solution")
        is_check = bool(cells.checks_in(cell.source))
        if not before or (before.cell_type != "markdown" and not (exercise and is_check)):
            found.append(f"no text stands before cell {name}")
        if re.search(r"import \*", cell.source):
            found.append(f"cell {name} imports *")
        installs = re.search(r"\b(pip|conda|apt(-get)?) +install", cell.source)
        if installs and "colab" not in tags(cell):
            found.append(f"cell {name} installs something")
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        drawn = cell.cell_type == "code" and images(cell)
        if drawn and (after is None or after.cell_type != "markdown"):
            found.append(f"no text follows the figure of cell {cell.metadata.name}")
    return found + heading_faults(notebook)


def heading_faults(notebook) -> list[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^(#{1,6}) +(.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    found, levels = [], [len(marks) for marks, _ in headings]
    if levels.count(1) != 1 or levels[0] != 1:
        found.append("the first heading, and no other, is of the first order")
    for (_, words), above, level in zip(headings[1:], levels, levels[1:], strict=False):
        if level > above + 1:
            found.append(f"the heading {words!r} skips an order")
    titles = [words.lower() for _, words in headings]
    bold = [words.lower() for words in re.findall(r"\*\*(.+?)\*\*", text)]
    for section in OPENING:
        if not any(section in words for words in titles + bold):
            found.append(f"the opening does not say: {section}")
    for section in SECTIONS:
        if not any(section in words for words in titles):
            found.append(f"there is no section {section!r}")
    return found


def output_faults(notebook) -> list[str]:
    """Errors, warnings, widget state, missing alt text, local paths and times in the outputs."""
    found = ["widget state is stored"] if "widgets" in notebook.metadata else []
    for cell in code_cells(notebook):
        name = cell.metadata.name
        if "execution" in cell.metadata:
            found.append(f"{name}: the time of running is stored")
        for out in cell.outputs:
            if out.output_type == "error":
                found.append(f"{name}: raised {out.ename}: {out.evalue}")
            if out.get("name") == "stderr":
                found.append(f"{name}: a warning is stored: {out.text[:80]!r}")
            if any("widget" in kind for kind in out.get("data", {})):
                found.append(f"{name}: a widget is stored")
            table = out.get("data", {}).get("text/html", "").startswith("<table")
            lines = (out.get("text", "") + table * out.get("data", {}).get("text/plain", "")).split(
                "\n"
            )
            found += [f"{name}: {len(line)} letters in a line" for line in lines if len(line) > 100]
            found += [f"{name}: a dict is shown" for line in lines if re.search(r"\{['\d]", line)]
        for out in images(cell):
            if not out.metadata.get("image/png", {}).get("alt", "").strip():
                found.append(f"{name}: a figure has no alt text")
            below = cell.outputs[cell.outputs.index(out) + 1 :][:1]
            said = below[0].get("data", {}).get("text/html", "") if below else ""
            alt = html.escape(out.metadata.get("image/png", {}).get("alt", ""))
            if not (said.startswith("<p><em>") and f"</summary>{alt}</details>" in said):
                found.append(f"{name}: a figure has no caption and description below it")
        local = re.search(r"/(home|root|tmp|Users|work)/\w|0x[0-9a-f]{9,}", printed(cell))
        if local:
            found.append(f"{name}: prints a local path or address: {local[0]}")
    return found


def checked(notebook) -> dict[str, str]:
    """What the cells print that nbval compares, by cell name."""
    return {c.metadata.name: printed(c) for c in code_cells(notebook) if cells.CHECKED in tags(c)}


def verdicts(notebook) -> dict[str, str]:
    """What each check cell says, by cell name."""
    return {c.metadata.name: printed(c) for c in code_cells(notebook) if cells.checks_in(c.source)}


# ------------------------------------------------------------------------------------- all lessons
@every_lesson
def test_notebooks_are_what_their_source_says(lesson):
    assert building.drift(lesson, HOME) == [], "run: diffusion-lab lesson build"


@every_lesson
@every_notebook
def test_form(lesson, kind):
    assert form_faults(stored(lesson, kind)) == []


@every_lesson
@every_notebook
def test_outputs(lesson, kind):
    assert output_faults(stored(lesson, kind)) == []


@every_lesson
@every_notebook
def test_size(lesson, kind):
    assert lessons.find(lesson, kind, HOME).stat().st_size < 1.5e6


@every_lesson
def test_time_is_measured_and_short_enough(lesson):
    assert "not measured" not in stored(lesson).cells[0].source
    assert lessons.measured(HOME)[lesson]["seconds"] <= 180


@every_lesson
def test_enough_is_compared_and_asked(lesson):
    notebook = stored(lesson)
    exact = set(checked(notebook)) - set(verdicts(notebook))
    assert len(exact) >= 3, "mark at least three exact cells with the tag nbval-check-output"
    assert all(checked(notebook)[name].strip() for name in exact), "a checked cell prints nothing"
    called = {task for c in code_cells(notebook) for task, _ in cells.checks_in(c.source)}
    assert called == set(checks.tasks(checks_of(lesson))), "checks called, checks that exist"
    assert 4 <= len(called) <= 6


@every_lesson
def test_something_to_touch(lesson):
    source = building.source_text(lesson, HOME)
    assert re.search(r"\b(\w*explore\w*|player)\(", source)


@every_lesson
def test_solutions_are_right_and_stubs_not_attempted(lesson):
    for name, said in verdicts(stored(lesson, "solution")).items():
        assert all(line.startswith("right: ") for line in said.splitlines()), (name, said)
    for name, said in verdicts(stored(lesson, "learner")).items():
        assert said.startswith("not attempted yet: "), (name, said)


@every_lesson
def test_wrong_answers_are_refused_with_a_reason(lesson):
    tasks, wrong = checks.tasks(checks_of(lesson)), wrong_answers(lesson)
    assert set(tasks) == set(wrong), "each check needs recorded wrong answers"
    for name, cases in wrong.items():
        assert cases, f"{name} has no wrong answer"
        for answer, words in cases:
            found = tasks[name].result(answer)
            assert found.status == "not yet", (name, words, str(found))
            assert words.lower() in found.message.lower(), (name, words, found.message)


@every_lesson
def test_slips_can_be_told_apart(lesson):
    for name, task in checks.tasks(checks_of(lesson)).items():
        for seed in (0, 1):
            assert task.audit(seed) == [], name


@pytest.mark.slow
@every_lesson
def test_solution_runs_at_smoke_and_says_the_same(lesson):
    """Stored at ``live``, run here at ``smoke``: the cells that are compared agree."""
    notebook = building.convert(lesson, "solution", HOME)
    building.execute(notebook, at="smoke")
    assert checked(notebook) == checked(stored(lesson))
    for cell in notebook.cells:  # networks of a few steps draw no pictures, and that is told
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if "far outside [-1, 1]" not in str(out)]
    assert output_faults(notebook) == []


def test_lesson_00_shows_the_course_and_the_map_as_they_are_now():
    """What its stored pages print of other lessons changes with those: a lesson was added, say."""
    again = "what lesson 00 prints has changed; build it again: diffusion-lab lesson build 00"
    there = {name[:2] for name in lessons.ready()}
    state = {True: "ready", False: "planned"}
    course = [f"{one.number} {state[one.number in there]} {one.title}" for one in survey.lessons()]
    system = survey.describe(survey.find("ADM")).split()
    for kind in lessons.KINDS:
        cell = {c.metadata.name: c for c in code_cells(stored("00_start_here", kind))}
        shown = [" ".join(line.split()) for line in printed(cell["course"]).splitlines()]
        assert shown[1:] == course, again
        assert printed(cell["one-system"]).split() == system, again
        [figure] = images(cell["map"])  # its description counts the systems of each state
        assert figure.metadata["image/png"]["alt"] == survey_plots.alt_text(), again


# -------------------------------------------------------------------------------- a tiny lesson
TINY = """\
# %% [markdown] name="title"
# # 99 Tiny
#
# **Goals.** One. **Prerequisites.** None. **Data.** None. **Time.** {{time}}.

# %% [markdown]
# The parts.

# %% name="parts"
import sys
import time
import types

from diffusion_lab.course import lessons, plots
from diffusion_lab.course.checks import choice, number
from diffusion_lab.course.widgets import explore, slider

check = types.SimpleNamespace(half=number(0.5), bug=number(4), which=choice("a", {"a": "b!"}))

# %% [markdown]
# An exact number.

# %% name="exact" tags=["nbval-check-output"]
print(f"{1 / 3:.2f}")

# %% [markdown]
# A number that depends on the level.

# %% name="level"
print(lessons.level(), lessons.pick(smoke=1, live=2))
print(f"\\r 50%|#####     | 1/2 [00:01<00:01, 1.00it/s]", file=sys.stderr)

# %% [markdown]
# A line to move.

# %% name="line"
def draw(t):
    return plots.lines([0, 1], {"line": [0, t]}, xlabel="time t", ylabel="height")

explore(draw, t=slider("time t", 0.5, 0, 1, 0.1), alt="a line", caption="It rises.")

# %% [markdown]
# It rose. Now a half, a sum, and a choice.

# %% name="my-half"
def half(x):
    ### BEGIN SOLUTION
    y = x / 2
    ### END SOLUTION
    return y

### BEGIN SOLUTION
my_half = 0.5
### END SOLUTION

# %% name="check-half" points=3
check.half(my_half)

# %% [markdown]
# Where is the bug?
#
# <!-- BEGIN SOLUTION -->
# It is a four.
# <!-- END SOLUTION -->

# %% name="my-sum"
### BEGIN SOLUTION
my_sum = 2 + 2
### END SOLUTION
### BEGIN STUB
# my_sum = ...
# broken = 2 - 2
### END STUB

# %% name="check-sum"
check.bug(my_sum)

# %% [markdown]
# ## What did it cost
# ## Paper against here
# ## When it does not help
# ## Recap
# ## Further reading
"""


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "99_tiny.py").write_text(TINY)
    return tmp_path


@pytest.fixture(scope="module")
def built_once(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("built")
    (place / "source").mkdir()
    (place / "source" / "99_tiny.py").write_text(TINY)
    building.build(99, home=place)
    return place


@pytest.fixture
def built(built_once, tmp_path) -> Path:
    """The tiny lesson, built: a copy that a test may spoil."""
    return Path(shutil.copytree(built_once, tmp_path / "lessons"))


def named(notebook, name: str):
    return next(cell for cell in notebook.cells if cell.metadata.name == name)


def spoil(home: Path, change, kind: str = "learner"):
    notebook = stored("99_tiny", kind, home)
    change(notebook)
    nbformat.write(notebook, lessons.find(99, kind, home))
    return notebook


def nbval(home: Path, level: str = "smoke") -> subprocess.CompletedProcess:
    options = ["-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    options += ["--nbval-cell-timeout=600"]
    command = [sys.executable, "-m", "pytest", *options, "99_tiny.ipynb"]
    environment = os.environ | {lessons.LEVEL_VARIABLE: level}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home)


def test_learner_gets_stubs(home):
    notebook = building.convert(99, "learner", home)
    half = named(notebook, "my-half").source
    assert half == (
        "def half(x):\n    y = ...  # your turn\n    return y\n\nmy_half = ...  # your turn"
    )
    assert named(notebook, "my-sum").source == "my_sum = ...\nbroken = 2 - 2"
    everything = "\n".join(cell.source for cell in notebook.cells)
    assert "SOLUTION" not in everything and "STUB" not in everything and "HIDDEN" not in everything
    assert "Where is the bug?\n\n*Your answer here.*" in everything


def test_teacher_gets_solutions_and_hidden_tests(home):
    notebook = building.convert(99, "solution", home)
    assert "    y = x / 2\n    ### END SOLUTION\n    return y" in named(notebook, "my-half").source
    assert "STUB" not in named(notebook, "my-sum").source
    assert named(notebook, "check-half").source.split("\n") == [
        "check.half(my_half)",
        "### BEGIN HIDDEN TESTS",
        "check.half.hidden(my_half)",
        "### END HIDDEN TESTS",
    ]


@every_notebook
def test_nbgrader_metadata(home, kind):
    notebook = building.convert(99, kind, home)
    nbformat.validate(notebook)
    solution = named(notebook, "my-half").metadata.nbgrader
    grade = named(notebook, "check-half").metadata.nbgrader
    shared = {"schema_version": 3, "task": False, "cell_type": "code"}
    assert solution == shared | {
        "grade_id": "my-half",
        "solution": True,
        "grade": False,
        "locked": False,
    }
    assert grade == shared | {
        "grade_id": "check-half",
        "solution": False,
        "grade": True,
        "locked": True,
        "points": 3,
    }
    assert cells.CHECKED in named(notebook, "check-half").metadata.tags


def test_stub_of_a_whole_function_and_of_a_return(home):
    stub = cells.for_learner
    whole = "### BEGIN SOLUTION\ndef f(x):\n    return x\n### END SOLUTION\nf(1)"
    assert stub(whole) == "f = ...  # your turn\nf(1)"
    inner = "def f(x):\n    ### BEGIN SOLUTION\n    y = 2 * x\n    return y\n    ### END SOLUTION"
    assert stub(inner) == "def f(x):\n    ...  # your turn"
    two = "### BEGIN SOLUTION\na, b = 1, 2\n### END SOLUTION"
    assert stub(two) == "a = ...  # your turn\nb = ...  # your turn"


def test_colab_cell_is_the_first_code_cell_and_does_nothing_here(built, capsys):
    from diffusion_lab.about import REPOSITORY

    notebook = stored("99_tiny", "learner", built)
    first = code_cells(notebook)[0]
    assert first.metadata.tags == ["colab"] and not first.outputs
    assert REPOSITORY in first.source and "find_spec" in first.source
    assert notebook.cells.index(first) == 2


def test_built_lesson_has_no_fault(built):
    assert building.drift(99, built) == [] and not building.stale(99, built)
    for kind in lessons.KINDS:
        notebook = stored("99_tiny", kind, built)
        nbformat.validate(notebook)
        assert form_faults(notebook) == [] and output_faults(notebook) == []
        assert named(notebook, "level").outputs[0].text == "live 2\n"  # and no progress bar
        (figure,) = images(named(notebook, "line"))
        assert figure.metadata["image/png"]["alt"] == "a line"
        assert base64.b64decode(figure.data["image/png"]).startswith(b"\x89PNG")
        assert printed(named(notebook, "line")).endswith("It rises.")
        assert [c.execution_count for c in code_cells(notebook)] == list(range(1, 10))
    assert re.search(
        r"\*\*Time.\*\* about \d+ s of computing on \d+ CPU cores", notebook.cells[0].source
    )
    assert set(verdicts(stored("99_tiny", "solution", built)).values()) == {"right: well done."}
    said = verdicts(stored("99_tiny", "learner", built)).values()
    assert all(line.startswith("not attempted yet") for line in said)


@pytest.mark.skipif(os.name != "posix", reason="signals of posix")
def test_ctrl_c_stops_a_build_and_writes_nothing(home):
    """The whole terminal hears it, so the kernel does too."""
    source = home / "source" / "99_tiny.py"
    text = source.read_text()
    here = 'import pathlib, time\npathlib.Path(r"{}").touch()\ntime.sleep(60)'
    source.write_text(text + f'\n# %% name="wait"\n{here.format(home / "begun")}\n')
    code = (
        "from pathlib import Path; from diffusion_lab import cli; from diffusion_lab.course import "
        f"building, lessons; building.update = lambda *_, **__: building.build(99, home=Path("
        f"{str(home)!r})); raise SystemExit(cli.main(['lesson', 'build', '99']))"
    )
    building_it = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for _ in range(600):
        if (home / "begun").exists():
            break
        time.sleep(0.1)
    os.killpg(building_it.pid, signal.SIGINT)
    said = building_it.communicate(timeout=60)[1]
    assert building_it.returncode == 130
    assert said.splitlines()[-1] == "stopped" and "Traceback" not in said
    assert sorted(path.name for path in home.iterdir()) == ["begun", "source"]


def test_build_is_deterministic(built):
    before = [lessons.find(99, kind, built).read_bytes() for kind in lessons.KINDS]
    building.build(99, home=built)
    assert [lessons.find(99, kind, built).read_bytes() for kind in lessons.KINDS] == before


def test_levels_agree_where_cells_are_compared(built):
    notebook = building.execute(building.convert(99, "solution", built), at="smoke")
    assert checked(notebook) == checked(stored("99_tiny", "solution", built))
    assert named(notebook, "level").outputs[0].text == "smoke 1\n"


def test_nbval_passes_at_both_levels(built):
    for level in ("smoke", "live"):
        run = nbval(built, level)
        assert run.returncode == 0, run.stdout


def test_nbval_finds_a_moved_output(built):
    spoil(built, lambda nb: named(nb, "exact").outputs[0].update(text="0.34\n"))
    run = nbval(built)
    assert run.returncode == 1 and "0.34" in run.stdout and "1 failed" in run.stdout


def test_nbval_finds_a_check_that_says_something_else(built):
    spoil(built, lambda nb: named(nb, "my-half").update(source="my_half = 0.4"))
    run = nbval(built)
    assert run.returncode == 1 and "too small" in run.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda nb: nb.cells.pop(), "13 cells"),
        (lambda nb: named(nb, "exact").update(source="print(1)"), "(exact): source differs"),
        (lambda nb: named(nb, "exact").update(id="another"), "(exact): id differs"),
        (lambda nb: named(nb, "exact").metadata.pop("tags"), "(exact): metadata differs"),
        (lambda nb: named(nb, "exact").update(execution_count=None), "(exact) was not run"),
        (lambda nb: nb.metadata.diffusion_lab.update(source_sha256="0"), "another source"),
    ],
)
def test_drift_is_found(built, change, words):
    total = len(stored("99_tiny", "learner", built).cells)
    spoil(built, change)
    assert any(words.replace("13", str(total - 1)) in line for line in building.drift(99, built))


def test_an_edited_source_drifts(built):
    source = built / "source" / "99_tiny.py"
    source.write_text(TINY.replace("1 / 3", "1 / 4"))
    found = "\n".join(building.drift(99, built))
    assert "learner 99_tiny: built from another source" in found
    assert "solution 99_tiny: cell 6 (exact): source differs" in found
    assert building.stale(99, built)


def test_line_ends_are_no_drift(built):
    (built / "source" / "99_tiny.py").write_bytes(TINY.replace("\n", "\r\n").encode())
    assert building.drift(99, built) == []


def test_a_missing_notebook_drifts(built):
    lessons.find(99, "solution", built).unlink()
    assert building.drift(99, built) == ["solution: 99_tiny.ipynb is not built"]


def test_what_is_imported_counts(built, monkeypatch):
    monkeypatch.setattr(building, "imported", lambda name, home: "another")
    assert building.drift(99, built) == [] and building.stale(99, built)


def test_imported_follows_imports(home, monkeypatch, tmp_path):
    package = tmp_path / "place" / "diffusion_lab"
    package.mkdir(parents=True)
    (package / "course").mkdir()
    (package / "course" / "plots.py").write_text("from diffusion_lab.files import write\n")
    (package / "files.py").write_text("write = 1\n")
    (package / "other.py").write_text("other = 1\n")
    monkeypatch.setattr(building, "PACKAGE", package)
    first = building.imported("99_tiny", home)
    (package / "other.py").write_text("other = 2\n")
    assert building.imported("99_tiny", home) == first
    (package / "files.py").write_text("write = 2\n")
    assert building.imported("99_tiny", home) != first


def test_a_cell_that_raises_stops_the_build_and_writes_nothing(home):
    from nbclient.exceptions import CellExecutionError

    source = home / "source" / "99_tiny.py"
    source.write_text(TINY.replace("{1 / 3:.2f}", "{1 / 0:.2f}"))
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        building.build(99, home=home)
    assert [path.name for path in home.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda nb: named(nb, "exact").update(source="x = 1\n" * 41), "41 lines"),
        (lambda nb: named(nb, "exact").update(source="x = 1\n" * 21), "exceed 20"),
        (lambda nb: named(nb, "exact").update(source="from math import *"), "imports *"),
        (lambda nb: named(nb, "exact").update(source="!pip install torch"), "installs"),
        (lambda nb: nb.cells.remove(nb.cells[5]), "no text stands before cell exact"),
        (
            lambda nb: nb.cells.remove(named(nb, "markdown-11")),
            "no text follows the figure of cell line",
        ),
        (lambda nb: nb.cells[3].update(source="# Second"), "of the first order"),
        (lambda nb: nb.cells[3].update(source="### Third"), "'Third' skips an order"),
        (lambda nb: nb.cells[-1].update(source="## Recap"), "'paper against here'"),
        (lambda nb: nb.cells[0].update(source="# 99 Tiny"), "does not say: goals"),
    ],
)
def test_faults_of_form_are_found(built, change, words):
    notebook = stored("99_tiny", "learner", built)
    change(notebook)
    assert any(words in fault for fault in form_faults(notebook)), form_faults(notebook)


def add(name: str, output) -> object:
    return lambda nb: named(nb, name).outputs.append(nbformat.from_dict(output))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add("exact", {"output_type": "error", "ename": "E", "evalue": "no"}), "raised E: no"),
        (add("exact", {"output_type": "stream", "name": "stderr", "text": "old"}), "warning"),
        (add("exact", {"output_type": "stream", "name": "stdout", "text": "/home/me/x"}), "local"),
        (
            add("exact", {"output_type": "stream", "name": "stdout", "text": "at 0x7f00aa00bb"}),
            "0x",
        ),
        (
            add("exact", {"output_type": "stream", "name": "stdout", "text": "x" * 101}),
            "101 letters",
        ),
        (
            add("exact", {"output_type": "stream", "name": "stdout", "text": "{'a': 1}"}),
            "a dict is",
        ),
        (lambda nb: images(named(nb, "line"))[0].update(metadata={}), "no alt text"),
        (lambda nb: named(nb, "line").outputs.pop(), "no caption"),
        (lambda nb: nb.metadata.update(widgets={}), "widget state"),
        (lambda nb: named(nb, "exact").metadata.update(execution={}), "time of running"),
        (
            lambda nb: images(named(nb, "line"))[0].data.update({VIEW: {}}),
            "a widget is stored",
        ),
    ],
)
def test_faults_of_outputs_are_found(built, change, words):
    notebook = stored("99_tiny", "learner", built)
    change(notebook)
    assert any(words in fault for fault in output_faults(notebook)), output_faults(notebook)


def test_source_faults_are_named(home):
    source = home / "source" / "99_tiny.py"
    source.write_text(TINY.replace("    ### END SOLUTION\n", "", 1))
    with pytest.raises(ValueError, match="cell 'my-half': the mark BEGIN SOLUTION has no"):
        building.convert(99, "learner", home)
    source.write_text(TINY.replace("# <!-- END", "# one line <!-- END"))
    for kind in lessons.KINDS:
        with pytest.raises(ValueError, match="a line of its own"):
            building.convert(99, kind, home)
    source.write_text(TINY.replace('name="exact"', 'name="line"'))
    with pytest.raises(ValueError, match="two cells are named 'line'"):
        building.convert(99, "learner", home)


# -------------------------------------------------------------------------------- levels, names
def test_levels(monkeypatch):
    monkeypatch.delenv(lessons.LEVEL_VARIABLE, raising=False)
    assert lessons.level() == "live" and lessons.pick(smoke=1, live=2, full=3) == 2
    monkeypatch.setenv(lessons.LEVEL_VARIABLE, "smoke")
    assert lessons.pick(smoke=1, live=2) == 1
    monkeypatch.setenv(lessons.LEVEL_VARIABLE, "full")
    assert lessons.pick(smoke=1, live=2) == 2 and lessons.pick(smoke=1, live=2, full=3) == 3
    monkeypatch.setenv(lessons.LEVEL_VARIABLE, "smok")
    with pytest.raises(ValueError, match="Did you mean 'smoke'"):
        lessons.level()


def test_lessons_are_found_by_number_or_name(home):
    for word in (99, "99", "99_tiny", "99_tiny.py"):
        assert lessons.find(word, home=home) == home / "99_tiny.ipynb"
    assert lessons.find(99, "solution", home) == home / "solutions" / "99_tiny.ipynb"
    with pytest.raises(ValueError, match="Did you mean '99_tiny'"):
        lessons.find("99_tinny", home=home)
    with pytest.raises(ValueError, match="unknown kind"):
        lessons.find(99, "teacher", home)


def test_update_tells_what_it_does(built, monkeypatch, capsys):
    for module in (lessons, building):
        monkeypatch.setattr(module, "folder", lambda: built)
    assert building.update(check=True) == 0
    assert "agrees with its source" in capsys.readouterr().out
    assert building.update() == 0 and "nothing has changed" in capsys.readouterr().out
    (built / "source" / "99_tiny.py").write_text(TINY.replace("1 / 3", "1 / 4"))
    assert building.update(["99"], check=True) == 1
    assert "another source" in capsys.readouterr().out


def test_tidy_settles_text():
    stream = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell(
        outputs=[
            stream("stream", name="stdout", text="a\r"),
            stream("stream", name="stdout", text="b\n"),
            stream("stream", name="stderr", text=" 0%|  | 0/2 [00:00<?, ?it/s]\nreal warning\n"),
            stream("display_data", data={VIEW: {}, "text/plain": "VBox()"}),
            stream("display_data", data={VIEW: {}, "image/png": "x"}),
        ],
        metadata={"execution": {"iopub": "now"}},
    )
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    cells.tidy(notebook)
    texts = [o.get("text") for o in cell.outputs]
    assert texts == ["ab\n", "real warning\n", None]
    assert dict(cell.outputs[2].data) == {"image/png": "x"}
    assert "execution" not in cell.metadata and "widgets" not in notebook.metadata
