"""The cells of a lesson: what learner, teacher and nbgrader see of them, and what is stored.

``lessons`` finds, runs and writes the notebooks; this file turns the text of a source into the
cells of a notebook, and removes from one that has run what must not be stored.
"""

from __future__ import annotations

import ast
import hashlib
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.course.linking import contents, leads, linked

__all__ = [
    "CHECKED",
    "as_notebook",
    "checks_in",
    "colab_cell",
    "digest",
    "for_learner",
    "for_teacher",
    "nbgrader",
    "tidy",
]

STUB = "...  # your turn"
CHECKED = "nbval-check-output"
COLAB_TEXT = (
    "*On Google Colab the next cell installs the course. Anywhere else it finds the course "
    "installed and does nothing.*"
)
SCORE = "from diffusion_lab.course.checks import score\n\nscore(check)"

_REGION = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION[^\n]*\n(?P<body>.*?)^[ \t]*### END SOLUTION[^\n]*"
    r"(?:\n[ \t]*### BEGIN STUB[^\n]*\n(?P<stub>.*?)^[ \t]*### END STUB[^\n]*)?",
    re.MULTILINE | re.DOTALL,
)
_WRITTEN = re.compile(
    r"^<!-- BEGIN SOLUTION -->[ \t]*\n.*?^<!-- END SOLUTION -->[ \t]*$", re.MULTILINE | re.DOTALL
)
_CHECK = re.compile(r"^check\.(?P<task>\w+)\((?P<given>.*)\)[ \t]*;?[ \t]*$", re.MULTILINE)
_CHECKS = re.compile(r"^from diffusion_lab\.course\.checks import \w+ as check$", re.MULTILINE)
_BAR = re.compile(r"\d+%\||\bit/s\b|\bs/it\b|\?it|it \[\d\d:\d\d")
_WIDGET = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")


def checks_in(body: str) -> list[tuple[str, str]]:
    """The checks that a cell calls, as (name, what is given): lines ``check.NAME(GIVEN)``."""
    return _CHECK.findall(body)


def nbgrader(cell_type: str, body: str, label: str, points: int) -> dict[str, Any]:
    """What nbgrader reads of a cell: a solution, a check, or a written answer (both in one)."""
    solution = "BEGIN SOLUTION" in body
    grade = cell_type == "markdown" if solution else cell_type == "code" and bool(checks_in(body))
    if not solution and not grade:
        return {}
    found = {"schema_version": 3, "grade_id": label, "task": False, "cell_type": cell_type}
    found |= {"grade": grade, "solution": solution, "locked": not solution}
    return found | ({"points": points} if grade else {})


def for_learner(body: str) -> str:
    """A cell with each solution region replaced by its stub."""
    marks = re.findall(r"(BEGIN|END) (SOLUTION|STUB)", body)
    for begin, end in zip(marks[::2], [*marks[1::2], ("", "")]):
        if begin[0] != "BEGIN" or end != ("END", begin[1]):
            raise ValueError(f"the mark {' '.join(begin)} has no partner")
    body = _WRITTEN.sub("*Your answer here.*", body)
    body = _REGION.sub(lambda m: _stub(m, body[m.end() :]), body)
    left = re.search(r".*(BEGIN|END) (SOLUTION|STUB).*", body)
    if left:
        raise ValueError(f"a mark needs a line of its own, as it has not in {left[0].strip()!r}")
    return body


def for_teacher(body: str) -> str:
    """A cell as the solution notebook shows it: no stub lines, checks with their hidden test."""
    for_learner(body)  # finds marks without a partner
    if "BEGIN SOLUTION" in body:
        return _REGION.sub(lambda m: _without_stub(m[0]), body)
    calls = checks_in(body)
    if not calls:
        return body
    hidden = [f"check.{task}.hidden({given})" for task, given in calls]
    return "\n".join([body, "### BEGIN HIDDEN TESTS", *hidden, "### END HIDDEN TESTS"])


def _without_stub(region: str) -> str:
    return region.split("### BEGIN STUB")[0].rstrip()


def _stub(region: re.Match[str], after: str) -> str:
    """What the learner finds instead of a region.

    The commented lines of its STUB block, uncommented; else ``name = ...`` for each name that the
    region sets and the notebook needs later; else ``...``.
    """
    indent = region["indent"]
    if region["stub"] is not None:
        lines = region["stub"].rstrip().split("\n")
        return "\n".join(re.sub(r"^([ \t]*)# ?", r"\1", line) for line in lines)
    given: list[str] = []
    for node in ast.parse(textwrap.dedent(region["body"])).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            given += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            given.append(node.name)
    needed = [n for n in dict.fromkeys(given) if not indent or re.search(rf"\b{n}\b", after)]
    lines = [f"{indent}{n} = {STUB}" for n in needed] or [f"{indent}{STUB}"]
    return "\n".join(lines)


def colab_cell() -> str:
    """The code of the one cell that may install something, from the address in ``about``."""
    from diffusion_lab.about import REQUIREMENT

    return (
        "import importlib.util\n\n"
        'if importlib.util.find_spec("diffusion_lab") is None:\n'
        f'    %pip install -q "{REQUIREMENT}"'
    )


def as_notebook(
    name: str, text: str, kind: str, time: str, lessons: Sequence[str], home: Path
) -> Any:
    """The notebook of a lesson, not yet run; see ``building.convert``.

    The Colab cell, the lines that lead to other lessons, and the score are put in here.

    Args:
        name: the lesson, as ``01_topic``.
        text: its source, in jupytext's percent format.
        kind: ``learner`` or ``solution``.
        time: the words that stand for ``{{time}}``.
        lessons: the names of all lessons, in course order.
        home: their folder.
    """
    import jupytext
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    read = jupytext.reads(text, fmt={"extension": ".py", "format_name": "percent"})
    cells = [cell for cell in read.cells if cell.cell_type != "raw"]  # those are slides
    opening = 1 if cells and cells[0].cell_type == "markdown" else 0
    way = leads(name, lessons, home, "../" if kind == "solution" else "")
    cells[opening:opening] = [
        new_markdown_cell(f"{way}\n\n{COLAB_TEXT}".strip(), metadata={"name": "colab-text"}),
        new_code_cell(colab_cell(), metadata={"name": "colab", "tags": ["colab"]}),
    ]
    if _CHECKS.search(text):
        cells += [
            new_markdown_cell("## Your score", metadata={"name": "score-text"}),
            new_code_cell(SCORE, metadata={"name": "score"}),
        ]
    if way:
        cells.append(new_markdown_cell(way, metadata={"name": "way-on"}))
    done, seen = [], set()
    for index, cell in enumerate(cells):
        label = cell.metadata.get("name") or f"{cell.cell_type}-{index}"
        if label in seen:
            raise ValueError(f"{name}: two cells are named {label!r}; give each its own name")
        seen.add(label)
        body = cell.source.replace("{{time}}", time)
        if cell.cell_type == "markdown":
            body = linked(body.replace("{{contents}}", contents(lessons)), name, lessons)
        tags = set(cell.metadata.get("tags", []))
        grading = nbgrader(cell.cell_type, body, label, int(cell.metadata.get("points", 1)))
        metadata: dict[str, Any] = {"name": label} | ({"nbgrader": grading} if grading else {})
        if grading.get("locked"):
            tags.add(CHECKED)  # what a check says is compared whenever the lesson is tested
        if tags:
            metadata["tags"] = sorted(tags)
        if "hide-input" in tags:  # folded in JupyterLab and, by the tag, on the site
            metadata["jupyter"] = {"source_hidden": True}
        try:
            body = for_learner(body) if kind == "learner" else for_teacher(body)
        except (ValueError, SyntaxError) as error:
            raise ValueError(f"{name}, cell {label!r}: {error}") from error
        make = new_code_cell if cell.cell_type == "code" else new_markdown_cell
        done.append(make(body, id=digest(f"{name}:{label}")[:12], metadata=metadata))
    return new_notebook(cells=done, metadata=_about(name, text, kind))


def _about(name: str, text: str, kind: str) -> dict[str, Any]:
    """The notebook's metadata, as JupyterLab writes them, and what it was built from.

    What says which Python ran it is added when it has run.
    """
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return {
        "kernelspec": kernel,
        "diffusion_lab": {
            "lesson": name,
            "kind": kind,
            "source": f"notebooks/source/{name}.py",
            "source_sha256": digest(text),
        },
    }


def digest(text: str) -> str:
    """The sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def tidy(notebook: Any) -> Any:
    """Make a run notebook fit to store: no times, no widget state, progress bars dropped.

    Outputs and execution counts stay. Works in place and returns the notebook.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for key in ("execution", "scrolled", "collapsed", "ExecuteTime"):
            cell.metadata.pop(key, None)
        kept: list[Any] = []
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _settle(output.text, bars=output.name == "stdout")
                last = kept[-1] if kept else None
                if last and last.output_type == "stream" and last.name == output.name:
                    last.text += output.text
                elif output.text.strip():
                    kept.append(output)
                continue
            if output.output_type in ("display_data", "execute_result"):
                widget = [kind for kind in _WIDGET if output.data.pop(kind, None) is not None]
                if widget and not set(output.data) - {"text/plain"}:
                    continue
            kept.append(output)
        cell.outputs = kept
    return notebook


def _settle(text: str, *, bars: bool) -> str:
    """Text as a terminal would leave it; progress-bar lines only where ``bars`` is true."""
    lines = [line.split("\r")[-1] or line.rstrip("\r").split("\r")[-1] for line in text.split("\n")]
    return "\n".join(line for line in lines if bars or not _BAR.search(line))
