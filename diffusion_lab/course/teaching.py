"""A lesson as an assignment: the two places where nbgrader needs to know how lessons are made.

``assign`` lays a lesson out in the folder of an nbgrader course, with the seed that its hidden
tests use, and releases it. Everything after that (collecting, grading, feedback, marks) is
nbgrader's own, with the settings of ``configure``, which the course's ``nbgrader_config.py`` calls.

nbgrader's ``ClearSolutions`` puts one and the same text, ``raise NotImplementedError()``, in the
place of every solution. A lesson's learner finds something else in each: a function with a bug in
it, ``name = ...``. The ``ClearSolutions`` here takes that from the learner's notebook, so that what
is released is the lesson, and the solution notebook need not show it.

Command: ``diffusion-lab lesson assign LESSON --course FOLDER [--seed SEED]``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbgrader import preprocessors, utils
from nbgrader.converters import GenerateAssignment

from diffusion_lab.course import lessons
from diffusion_lab.files import write_atomically

__all__ = ["ClearSolutions", "assign", "configure"]

CONFIG = "from diffusion_lab.course import teaching\n\nteaching.configure(get_config())\n"


class ClearSolutions(preprocessors.ClearSolutions):
    """nbgrader's, except that a lesson's own solutions become what its learner's notebook holds.

    Cells that a teacher has added, and notebooks that are no lessons, are cleared as nbgrader does.
    """

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """The notebook, changed in place, and ``resources`` as they were."""
        name = nb.metadata.get("diffusion_lab", {}).get("lesson")
        cells = nbformat.read(lessons.find(name), as_version=4).cells if name else []
        given = {c.metadata.name: c.source for c in cells if utils.is_solution(c)}
        nb, resources = super().preprocess(nb, resources)
        for cell in nb.cells:
            cell.source = given.get(cell.metadata.get("name"), cell.source)
        return nb, resources


def configure(config: Any) -> None:
    """Put into nbgrader's ``config`` what releasing and grading lessons needs.

    It also sets the environment of the nbgrader that reads it: this environment's ``bin`` comes
    first on PATH (nbgrader calls ``alembic`` by name) and so do its kernels, and lessons run at
    the level smoke unless DIFFUSION_LAB_LEVEL says otherwise.
    """
    (standard,) = GenerateAssignment.preprocessors.default_args
    config.GenerateAssignment.preprocessors = [
        ClearSolutions if one is preprocessors.ClearSolutions else one for one in standard
    ]
    config.Execute.timeout = 600  # seconds a cell may take; nbgrader's own 30 are few
    own = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([own, os.environ.get("PATH", "")])
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.setdefault(lessons.LEVEL_VARIABLE, "smoke")


def assign(lesson: str | int, course: Path, seed: int = 1) -> Path:
    """Lay out a lesson in an nbgrader course, release it, and return the released notebook's path.

    Args:
        lesson: number or name; the assignment is called by the full name, ``01_topic``.
        course: the course's folder. It, and its ``nbgrader_config.py``, are made if missing; a
            lesson that is there is replaced.
        seed: of the numbers that the hidden tests try, 1 or more: 0 is that of the checks that a
            learner sees.

    Raises:
        ValueError: the seed is less than 1, the lesson is not there, or the folder has an
            ``nbgrader_config.py`` that does not call ``configure``.
        OSError: nbgrader failed; what it says is printed.
    """
    if seed < 1:
        raise ValueError(f"the seed of hidden tests is 1 or more (0 is the learner's); got {seed}")
    name, config = lessons.resolve(lesson), course / "nbgrader_config.py"
    notebook = nbformat.read(lessons.find(name, "solution"), as_version=4)
    for cell in notebook.cells:
        calls = r"^(check\.\w+\.hidden\(.*)\)$"
        cell.source = re.sub(calls, rf"\1, seed={seed})", cell.source, flags=re.MULTILINE)
    if not config.exists():
        write_atomically(config, CONFIG.encode())
    elif "teaching.configure(" not in config.read_text(encoding="utf-8"):
        raise ValueError(f"{config} is not of this course: add these lines to it\n{CONFIG}")
    source = course / "source" / name / f"{name}.ipynb"
    write_atomically(source, nbformat.writes(notebook).encode())
    command = [sys.executable, "-m", "nbgrader", "generate_assignment", name, "--force"]
    if subprocess.run(command, cwd=course, check=False).returncode:
        raise OSError(f"nbgrader did not release {source}: see what it says above")
    return course / "release" / name / f"{name}.ipynb"
