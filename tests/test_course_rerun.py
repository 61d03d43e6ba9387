"""Every code cell of a lesson can be run again after the lesson, and says the same.

A learner goes back and runs a cell again all the time. The second run goes from the last cell to
the first, so that no cell finds what an earlier one has just put right. Solutions are run, at the
level smoke; what a cell prints must be the same, but for what is measured
(tests/nbval_sanitize.cfg).
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
    again = copy.deepcopy(code)
    notebook.cells = code + again[::-1]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"run-{number}"
    building.execute(notebook, at="smoke")
    for first, later in zip(code, again, strict=True):
        said = unmeasured(root, printed(first))
        if not MEASURED.search(said):
            assert unmeasured(root, printed(later)) == said, f"cell {first.metadata.name}"
