"""The map: every system that the survey names, where it lives here, and how far it is built.

The survey is "Efficient Diffusion Models for Vision: A Survey" (Ulhaq, Akhtar, Pogrebna, 2022,
arXiv 2210.09292). Its Table I lists efficient designs, Table II efficient processes, Table III
compares models. ``survey.json`` beside this file holds one row for each system; the state of a
row changes there and nowhere else:

- ``planned``: its place is known; it names no symbols, no section and no tests yet,
- ``partial``: some of it works; whatever the row names must exist,
- ``working``: the symbols can be imported, a lesson has the section, and the tests are there.

``survey_check.verify`` holds a row to its state, and a test runs it over the whole map, so that
``working`` is earned and not declared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffusion_lab.errors import did_you_mean, unknown

__all__ = [
    "CHOICES",
    "ROOT",
    "STATES",
    "Family",
    "Lesson",
    "Paper",
    "Row",
    "describe",
    "families",
    "family",
    "find",
    "lesson",
    "lessons",
    "rows",
    "table",
    "timeline",
    "to_json",
]

ROOT = Path(__file__).resolve().parent.parent
"""The repository, where there is one: what ``file``, ``tests`` and lessons are relative to."""

STATES = ("planned", "partial", "working")
"""How far a system is built, in order."""

CHOICES = ("data", "process", "denoiser", "objective", "sampler", "steering")
"""The six choices of which every system changes one; '' marks a family that changes none."""


@dataclass(frozen=True)
class Paper:
    """A paper. ``year`` is that of its first public version, ``arxiv`` its number or None."""

    title: str
    authors: str
    year: int
    arxiv: str | None

    @property
    def url(self) -> str | None:
        """The page of the paper on arXiv, or None."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None

    def __str__(self) -> str:
        end = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.title}. {self.authors}, {self.year}{end}"


@dataclass(frozen=True)
class Family:
    """A group of systems that share a room of the package and change the same choice."""

    key: str
    title: str
    choice: str
    description: str


@dataclass(frozen=True)
class Lesson:
    """A lesson of the course; ``file`` is its notebook, relative to the repository."""

    number: str
    title: str
    question: str
    file: str

    @property
    def source(self) -> str:
        """The text source the notebook is built from, relative to the repository."""
        return f"notebooks/source/{Path(self.file).stem}.py"


@dataclass(frozen=True)
class Row:
    """One system on the map.

    ``label`` and ``cites`` are the survey's wording and citation number, ``name`` is short
    enough for a figure. ``also`` holds other papers that the label may mean, or that complete
    it, and ``sure`` says how certain the reading is. ``note`` records a slip of the survey.
    ``symbols`` are ``module:name``, ``tests`` are ``tests/test_x.py::test_name``, ``section``
    is a heading of the lesson (``NN/heading`` for a heading of another lesson, ``NN``).
    """

    number: int
    label: str
    name: str
    cites: str
    paper: Paper
    also: tuple[Paper, ...]
    sure: str
    survey_class: str
    table: tuple[str, ...]
    family: str
    file: str
    symbols: tuple[str, ...]
    lesson: str
    section: str
    tests: tuple[str, ...]
    state: str
    note: str
    cost: str


@cache
def _data() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("survey.json").read_text(encoding="utf-8"))


def _row(raw: dict[str, Any]) -> Row:
    lists = {key: tuple(raw[key]) for key in ("table", "symbols", "tests")}
    papers = {"paper": Paper(**raw["paper"]), "also": tuple(Paper(**p) for p in raw["also"])}
    return Row(**{**raw, **lists, **papers})


@cache
def _rows() -> tuple[Row, ...]:
    return tuple(_row(raw) for raw in _data()["rows"])


@cache
def _families() -> tuple[Family, ...]:
    return tuple(Family(**raw) for raw in _data()["families"])


@cache
def _lessons() -> tuple[Lesson, ...]:
    return tuple(Lesson(**raw) for raw in _data()["lessons"])


def families() -> list[Family]:
    """The families in the order of the course's rooms."""
    return list(_families())


def family(key: str) -> Family:
    """The family of that key; ValueError with the nearest key when there is none."""
    for one in _families():
        if one.key == key:
            return one
    raise unknown("family", key, [one.key for one in _families()])


def lessons() -> list[Lesson]:
    """The 25 lessons, 00 to 24."""
    return list(_lessons())


def lesson(number: str | int) -> Lesson:
    """The lesson of that number, given as ``"05"``, ``"5"`` or ``5``.

    Raises:
        ValueError: there is no such lesson.
    """
    text = str(number).strip()
    wanted = text.zfill(2) if text.isdecimal() else text
    for one in _lessons():
        if one.number == wanted:
            return one
    known = [one.number for one in _lessons()]
    raise ValueError(f"unknown lesson {number!r}. Lessons go from {known[0]} to {known[-1]}.")


def rows(
    family: str | None = None, state: str | None = None, lesson: str | int | None = None
) -> list[Row]:
    """The rows of the map, all of them or those of a family, a state or a lesson.

    Raises:
        ValueError: a family, state or lesson that does not exist, with the nearest name.
    """
    if family is not None:
        globals()["family"](family)
    if state is not None and state not in STATES:
        raise unknown("state", state, STATES)
    number = None if lesson is None else globals()["lesson"](lesson).number
    return [
        row
        for row in _rows()
        if (family is None or row.family == family)
        and (state is None or row.state == state)
        and (number is None or row.lesson == number)
    ]


def find(system: str | int) -> Row:
    """The row of that number or name (of the survey's label as well), whatever the case.

    Raises:
        ValueError: no row has that number or name, or a name stands for several rows.
    """
    text = str(system).strip().lower()
    if text.isdecimal():
        hits = [row for row in _rows() if row.number == int(text)]
        if not hits:
            raise ValueError(f"no system has the number {system}; they go from 1 to {len(_rows())}")
        return hits[0]
    hits = [row for row in _rows() if row.name.lower() == text]
    hits = hits or [row for row in _rows() if row.label.lower() == text]
    if not hits:
        hint = did_you_mean(system, [row.name for row in _rows()])
        raise ValueError(
            f"unknown system {system!r}.{hint} All of them: 'diffusion-lab survey', or "
            "survey.table(survey.rows()) in Python."
        )
    if len(hits) > 1:
        names = ", ".join(f"{row.number} ({row.name})" for row in hits)
        raise ValueError(f"{system!r} stands for several rows: {names}. Give the number.")
    return hits[0]


def timeline() -> list[tuple[int, list[Row]]]:
    """The systems by the year of their paper (the survey's Fig. 1), oldest year first."""
    years = sorted({row.paper.year for row in _rows()})
    return [(year, [row for row in _rows() if row.paper.year == year]) for year in years]


# What people read -------------------------------------------------------------------------------


def table(rows: Iterable[Row]) -> str:
    """The rows as a plain-text table, with a last line that counts the states."""
    rows = list(rows)
    head = ("no", "system", "paper", "arXiv", "family", "lesson", "state")
    lines = [
        (
            str(row.number),
            row.name,
            f"{row.paper.authors} {row.paper.year}",
            row.paper.arxiv or "-",
            row.family,
            row.lesson,
            row.state,
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, tuple("-" * width for width in widths), *lines)
    ]
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    system = "system" if len(rows) == 1 else "systems"
    ending = ", ".join(f"{number} {state}" for state, number in counts.items())
    return "\n".join([*text, "", f"{len(rows)} {system}: {ending}"])


def describe(row: Row) -> str:
    """Everything the map knows about one system, as plain text."""
    kin = family(row.family)
    where = {"I": "Table I", "II": "Table II", "III": "Table III"}
    place = " and ".join(where.get(one, f"its {one}") for one in row.table)
    changes = f"changes the {kin.choice}" if kin.choice else "changes none of the six choices"
    course = lesson(row.lesson)
    facts = [
        ("survey", f"{row.label} {row.cites}".strip() + f" ({place}): {row.survey_class}"),
        ("paper", f"{row.paper} ({row.sure})"),
        *(("also", str(paper)) for paper in row.also),
        ("family", f"{kin.title}; {changes}"),
        ("lesson", f"{course.number} {course.title}" + (f", {row.section}" if row.section else "")),
        ("cost", row.cost),
        ("note", row.note),
        ("state", row.state),
        ("file", row.file if (ROOT / row.file).is_file() else f"{row.file} (planned)"),
        ("opens", ", ".join(row.symbols)),
        ("tests", ", ".join(row.tests)),
    ]
    lines = [f"{key:<7} {value}" for key, value in facts if value]
    return "\n".join([f"{row.number} {row.name}", *lines])


def to_json(rows: Iterable[Row]) -> str:
    """The rows as a JSON list, with the fields of ``survey.json``."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=True)
