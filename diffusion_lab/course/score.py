"""The score of a notebook: it is run, and what its checks say of the answers is collected."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusion_lab.course.cells import checks_in
from diffusion_lab.course.checks import OPEN, RIGHT, WRONG

__all__ = ["score"]

_SAID = re.compile(rf"^\W*({RIGHT}|{WRONG}|{OPEN}):[ ]?(.*)", re.MULTILINE)


def score(notebook: Path, lesson: Path) -> dict[str, tuple[str, str]]:
    """Each task of a ``lesson`` with (status, message) of its check in ``notebook``.

    The notebook is run whole at the level smoke, and not changed; a cell that raises, or takes more
    than two minutes, does not stop it. Status is ``right``, ``not yet`` or ``not attempted yet``;
    a task whose check is no longer there is the last. ValueError for a file that is no notebook.
    """
    from diffusion_lab.course.building import execute

    tasks = [task for cell in _code_cells(lesson)[1] for task, _ in checks_in(cell.source)]
    found = dict.fromkeys(tasks, (OPEN, "its check is not in this notebook any more."))
    mine, cells = _code_cells(notebook)
    execute(mine, at="smoke", patient=False)
    for cell in cells:
        texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
        said = _SAID.findall("\n".join(texts))
        wrong = [f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
        for i, (task, _) in enumerate(checks_in(cell.source)):
            missing = (WRONG, (wrong or ["its check said nothing."])[0])
            found[task] = said[i] if i < len(said) else missing
    return found


def _code_cells(path: Path) -> tuple[Any, list[Any]]:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]
