"""The map: every system that the survey names, where it lives here, and how far it is built.

The survey is "Efficient Diffusion Models for Vision: A Survey" (Ulhaq, Akhtar, Pogrebna, 2022,
arXiv 2210.09292). Its Table I lists efficient designs, Table II efficient processes, Table III
compares models. ``survey.json`` beside this file holds one row for each system, and a few rows of
kind ``reference``: what the survey names too but is no system of its own (measures, figures, a
comparison of costs, a second name). The state of a row changes there and nowhere else:

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
from textwrap import fill, shorten
from typing import Any

from diffusion_lab.errors import did_you_mean, unknown

__all__ = [
    "CHOICES",
    "CLASSES",
    "KINDS",
    "ROOT",
    "STATES",
    "Family",
    "Lesson",
    "Paper",
    "Row",
    "classes_table",
    "counts",
    "describe",
    "families",
    "family",
    "find",
    "lesson",
    "lessons",
    "paper",
    "rows",
    "table",
    "timeline",
    "to_json",
]

ROOT = Path(__file__).resolve().parents[2]
"""The repository, where there is one: what ``file``, ``tests`` and lessons are relative to."""

STATES = ("planned", "partial", "working")
"""How far a system is built, in order."""

CHOICES = ("data", "process", "denoiser", "objective", "sampler", "steering")
"""The six choices of which every system changes mainly one; '' marks a family that changes none."""

KINDS = ("system", "reference")
"""What a row is: a system, or a reference to something that is none."""

CLASSES = {
    "I": (
        "guided",
        "not guided",
        "discrete",
        "continuous",
        "score network",
        "SDE",
        "pyramidal",
        "non-pyramidal",
        "pixel",
        "latent",
    ),
    "II": ("training", "noise distribution", "mixing", "scheduling", "retrieval"),
}
"""The survey's own classes: of efficient designs (its Table I) and of processes (Table II)."""

_MONTHS = {"NTIRE 2022 Image Inpainting Challenge: Report": 6}
"""The month of a paper without an arXiv number: the workshops of CVPR 2022 were in June."""


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

    @property
    def month(self) -> int:
        """The month of its first public version, 1 to 12, as the arXiv number has it."""
        return int(self.arxiv[2:4]) if self.arxiv else _MONTHS[self.title]

    def __str__(self) -> str:
        end = f", arXiv {self.arxiv}" if self.arxiv else ""
        return f"{self.title}. {self.authors}, {self.year}{end}"


@dataclass(frozen=True)
class Family:
    """A group of systems that share a room of the package and mainly change the same choice."""

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
    it, and ``sure`` says how certain the reading is. ``survey_class`` is how the survey files it,
    ``classes`` which of its ``CLASSES`` these are. ``note`` records a slip of the survey.
    ``symbols`` are ``module:name``, ``tests`` are ``tests/test_x.py::test_name``, ``section``
    is a heading of the lesson (``NN/heading`` for a heading of another lesson, ``NN``).
    """

    number: int
    label: str
    name: str
    kind: str
    cites: str
    paper: Paper
    also: tuple[Paper, ...]
    sure: str
    survey_class: str
    classes: tuple[str, ...]
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
    lists = {key: tuple(raw[key]) for key in ("classes", "table", "symbols", "tests")}
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


def paper() -> Paper:
    """The survey itself."""
    return Paper(**_data()["survey"])


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


_family, _lesson = family, lesson  # for ``rows``, whose arguments have these names


def rows(
    family: str | None = None,
    state: str | None = None,
    lesson: str | int | None = None,
    kind: str | None = None,
) -> list[Row]:
    """The rows of the map, all of them or those of a family, a state, a lesson or a kind.

    Raises:
        ValueError: a family, state, lesson or kind that does not exist, with the nearest name.
    """
    if family is not None:
        _family(family)
    if state is not None and state not in STATES:
        raise unknown("state", state, STATES)
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    number = None if lesson is None else _lesson(lesson).number
    return [
        row
        for row in _rows()
        if (family is None or row.family == family)
        and (state is None or row.state == state)
        and (number is None or row.lesson == number)
        and (kind is None or row.kind == kind)
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


def _date(row: Row) -> tuple[int, int, str]:
    return row.paper.year, row.paper.month, row.paper.arxiv or ""


def timeline() -> list[tuple[str, list[Row]]]:
    """The systems by the date of their paper (the survey's Fig. 1), the oldest first.

    A period is a year, or half a year where the year has more than five systems.
    """
    systems = sorted(rows(kind="system"), key=_date)
    years: dict[int, list[Row]] = {}
    for row in systems:
        years.setdefault(row.paper.year, []).append(row)
    periods: list[tuple[str, list[Row]]] = []
    for year, found in years.items():
        first = [row for row in found if row.paper.month <= 6]
        halves = [(f"{year}, Jan to Jun", first), (f"{year}, Jul to Dec", found[len(first) :])]
        periods += halves if len(found) > 5 else [(str(year), found)]
    return [(period, found) for period, found in periods if found]


# What people read -------------------------------------------------------------------------------


def table(rows: Iterable[Row], width: int | None = None) -> str:
    """The rows as a plain-text table, with a last line that counts the states.

    In ``width`` columns (76 or more) the authors are cut short or left out.
    """
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
    if width is not None:
        room = max(5, widths[2] + width - sum(widths) - 2 * (len(widths) - 1))
        lines = [(*line[:2], _by(line[2], room), *line[3:]) for line in lines]
        widths[2] = min(widths[2], room)
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, tuple("-" * width for width in widths), *lines)
    ]
    return "\n".join([*text, "", counts(rows)])


def _by(text: str, room: int) -> str:
    """Authors and year in as many letters; the year alone where there is no room for a name."""
    if len(text) <= room:
        return text
    return text[-4:] if room < 15 else shorten(text[:-5], room - 5, placeholder="…") + text[-5:]


def counts(rows: Iterable[Row]) -> str:
    """How many systems there are, how many in each state; references are counted apart."""
    rows = list(rows)
    systems = [row for row in rows if row.kind == "system"]
    words = [f"{sum(row.state == state for row in systems)} {state}" for state in STATES]
    apart = len(rows) - len(systems)
    more = f", and {apart} reference{'s' * (apart > 1)}" if apart else ""
    return f"{len(systems)} system{'s' * (len(systems) != 1)}: {', '.join(words)}{more}"


def classes_table(width: int = 92) -> str:
    """The systems in the survey's own classes, as plain text: a line for each class."""
    systems = rows(kind="system")
    groups = {
        f"Table {table}, efficient {what}": {
            one: [row for row in systems if one in row.classes] for one in CLASSES[table]
        }
        for table, what in (("I", "designs"), ("II", "processes"))
    }
    groups["Beside them"] = {
        "compared in Table III": [row for row in systems if "III" in row.table],
        "in the text alone": [row for row in systems if row.table == ("text",)],
    }
    lines = []
    for title, group in groups.items():
        lines.append(f"{title} ({len({row.number for found in group.values() for row in found})})")
        for one, found in group.items():
            names = f"  {one:21}  {', '.join(row.name for row in found)}"
            lines.append(fill(names, width, subsequent_indent=" " * 25, break_on_hyphens=False))
    return "\n".join(lines)


def describe(row: Row, width: int | None = None) -> str:
    """Everything the map knows about one system, as plain text, in as many columns."""
    kin = family(row.family)
    where = {"I": "Table I", "II": "Table II", "III": "Table III"}
    place = " and ".join(where.get(one, f"its {one}") for one in row.table)
    changes = (
        f"mainly changes the {kin.choice}" if kin.choice else "changes none of the six choices"
    )
    reading = "" if row.sure in ("certain", "sure") else f"that this is the paper: {row.sure}"
    course = lesson(row.lesson)
    facts = [
        ("survey", f"{row.label} {row.cites}".strip() + f" ({place}): {row.survey_class}"),
        ("paper", str(row.paper)),
        ("sure", reading),
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
    if width is not None:  # names of tests are long: they may stand on a line of their own
        options = {"subsequent_indent": " " * 8, "break_on_hyphens": False}
        lines = [fill(line.replace("::", " "), width, **options) for line in lines]
    what = "" if row.kind == "system" else "; a reference, no system of its own"
    return "\n".join([f"{row.name} (row {row.number} of the map{what})", *lines])


def to_json(rows: Iterable[Row]) -> str:
    """The rows as a JSON list, with the fields of ``survey.json``."""
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=True)
