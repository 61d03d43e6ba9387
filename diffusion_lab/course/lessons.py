"""Lessons: where they are, at which level they run, and the running table that they add to.

``building`` makes them from their sources.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from diffusion_lab.errors import unknown

__all__ = [
    "LEVELS",
    "cost_row",
    "cost_rows",
    "find",
    "folder",
    "level",
    "minutes",
    "names",
    "pick",
    "ready",
    "resolve",
    "write_costs",
]

LEVELS = ("smoke", "live", "full")
LEVEL_VARIABLE = "DIFFUSION_LAB_LEVEL"
KINDS = ("learner", "solution")
PACKAGE = Path(__file__).resolve().parents[1]
T = TypeVar("T")


# ------------------------------------------------------------------------------------- levels
def level() -> str:
    """The level lessons run at: ``smoke`` (tests), ``live`` (the default) or ``full``.

    It is read from the environment variable ``DIFFUSION_LAB_LEVEL``; another word there is a
    ``ValueError``.
    """
    given = os.environ.get(LEVEL_VARIABLE, "") or "live"
    if given not in LEVELS:
        raise unknown(f"level in {LEVEL_VARIABLE}", given, LEVELS)
    return given


def pick(*, smoke: T, live: T, full: T | None = None) -> T:
    """The value for the present level; ``full`` is the one of ``live`` where none is given."""
    return {"smoke": smoke, "live": live, "full": live if full is None else full}[level()]


# ------------------------------------------------------------------------------------- costs
COST = "application/vnd.diffusion-lab.cost+json"
COSTS = "costs.json"
COLLECT = "diffusion-lab bench costs"


def cost_row(lesson: str | int, *rows: dict[str, Any]) -> None:
    """Show rows of the course's running table, and leave them in the cell's output as data.

    A row is ``{"system": "...", **cost.row(), ...}`` with ``metrics.Cost.row``, then what was
    measured ("FD / A", "N"). All rows of one call have the same columns, else ``ValueError``. At
    the level smoke they are shown only: what it measures belongs in no table.
    """
    from diffusion_lab.course.showing import show_table

    rows = tuple({"lesson": f"{int(lesson):02d}"} | row for row in rows)
    # 836.0 becomes 836 as in JavaScript, so that JupyterLab saves what is stored
    plain = [{k: int(v) if _whole(v) else v for k, v in row.items()} for row in rows]
    show_table(rows, more={} if level() == "smoke" else {COST: plain})


def _whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def cost_rows(home: Path | None = None) -> list[dict[str, Any]]:
    """The running table so far: the rows that the built lessons hold, in course order."""
    home = home or folder()
    found = []
    for name in names(home):
        path = find(name, "solution", home)
        notebook = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": []}
        for cell in notebook["cells"]:
            for output in cell.get("outputs", ()):
                found += output.get("data", {}).get(COST, [])
    return found


def write_costs(out: Path, home: Path | None = None) -> list[dict[str, Any]]:
    """Collect the rows of the built lessons in ``home``, write ``out``/costs.json, return them."""
    from diffusion_lab.files import write_atomically

    rows = cost_rows(home)
    text = json.dumps({"made by": COLLECT, "rows": rows}, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out / COSTS, text.encode())
    return rows


# ------------------------------------------------------------------------------------- finding
def folder() -> Path:
    """The folder of the lessons: packaged ones first, then ``notebooks/`` of the repository."""
    for place in (PACKAGE / "_notebooks", PACKAGE.parent / "notebooks"):
        if place.is_dir():
            return place
    raise FileNotFoundError(
        "the lessons are neither in the installed package nor beside it; "
        "clone the repository or install the package again"
    )


def names(home: Path | None = None) -> list[str]:
    """The lessons in course order, as ``NN_topic``: those with a source, or with a notebook."""
    home = home or folder()
    found = [*home.glob("source/[0-9][0-9]_*.py"), *home.glob("[0-9][0-9]_*.ipynb")]
    return sorted({path.stem for path in found})


def ready() -> list[str]:
    """The lessons that can be opened now: those of ``names`` whose notebook is built."""
    return sorted(path.stem for path in folder().glob("[0-9][0-9]_*.ipynb"))


def minutes() -> dict[str, float]:
    """How long a lesson runs on two cores, by its full name, where it was measured."""
    return {name: round(one["seconds"] / 60, 1) for name, one in measured(folder()).items()}


def measured(home: Path) -> dict[str, Any]:
    """What ``measured.json`` beside the lessons says of each: ``seconds`` and ``cores``."""
    path = home / "measured.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def resolve(lesson: str | int, home: Path | None = None) -> str:
    """``1``, ``"01"`` or ``"01_topic"`` to the lesson's full name ``"01_topic"``."""
    known = names(home)
    word = Path(str(lesson)).stem
    for name in known:
        if word == name or (word.isdigit() and name.startswith(f"{int(word):02d}_")):
            return name
    raise unknown("lesson", lesson, known)


def find(lesson: str | int, kind: str = "learner", home: Path | None = None) -> Path:
    """The path of a lesson's notebook (``kind`` is ``learner`` or ``solution``)."""
    if kind not in KINDS:
        raise unknown("kind of notebook", kind, KINDS)
    home = home or folder()
    return home / ("solutions" if kind == "solution" else "") / f"{resolve(lesson, home)}.ipynb"
