"""Every code cell of a lesson can be run twice in a row, and once more after the lesson.

A learner does that all the time. Solutions are run, at the level smoke; what a cell prints must be
the same each time, but for what is measured (tests/nbval_sanitize.cfg).
"""

from __future__ import annotations

import configparser
import copy
import re
from pathlib import Path

import pytest

from diffusion_lab.course import building, lessons

pytestmark = pytest.mark.slow
MEASURED = re.compile(
    r"core-|TIME|seconds|\d times"
)  # what is measured is another number each time


def unmeasured(root: Path, text: str) -> str:
    """The text with clock times and seconds replaced, as nbval compares it."""
    rules = configparser.ConfigParser()
    rules.read(root / "tests" / "nbval_sanitize.cfg")
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return text


def printed(cell) -> str:
    """What a cell says in words, in all its outputs."""
    said = []
    for out in cell.outputs:
        said.append(out.get("text", "") if out.get("name") == "stdout" else "")
        said.append(out.get("data", {}).get("text/plain", ""))
    return "\n".join(said).strip()


@pytest.mark.parametrize("name", lessons.names())
def test_cells_run_again_and_say_the_same(root, name):
    notebook = building.convert(name, "solution")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    again, after = copy.deepcopy(code), copy.deepcopy(code)
    notebook.cells = [cell for pair in zip(code, again, strict=True) for cell in pair] + after
    for number, cell in enumerate(notebook.cells):
        cell.id = f"run-{number}"
    building.execute(notebook, at="smoke")
    for first, *later in zip(code, again, after, strict=True):
        said = unmeasured(root, printed(first))
        if not MEASURED.search(said):
            for cell in later:
                assert unmeasured(root, printed(cell)) == said, f"cell {first.metadata.name}"
