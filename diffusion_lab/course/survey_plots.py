"""Pictures of the map: families as boxes, systems as labels, and the timeline of the papers.

matplotlib and ipywidgets are imported only when something is drawn. Show a figure with
``plots.show(map_figure(), alt=alt_text(), caption=...)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from diffusion_lab.course import survey

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from diffusion_lab.course.widgets import Explorer

__all__ = [
    "alt_text",
    "classes_figure",
    "classes_text",
    "explore_map",
    "family_html",
    "map_figure",
    "timeline_figure",
]

_COLUMNS = (
    ("data", "What is the datum?"),
    ("process", "How is it destroyed?"),
    ("objective", "What is learned?"),
    ("sampler", "How do we walk back?"),
    ("steering", "What bends the walk?"),
)
"""The columns of the map: the choice and what it asks. Two more groups share the third column."""

_COLOURS = {
    "data": "#0072B2",
    "process": "#B84C00",
    "objective": "#5D5D5D",
    "sampler": "#00785A",
    "steering": "#9A4F84",
    "beside": "#AAAAAA",
}
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STATES = {
    "planned": {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "#777777"},
    "partial": {
        "marker": "o",
        "markerfacecolor": "#E69F00",
        "markerfacecoloralt": "white",
        "fillstyle": "left",
        "markeredgecolor": "#8A5F00",
    },
    "working": {"marker": "s", "markerfacecolor": "#0072B2", "markeredgecolor": "#004B76"},
}
_MEANING = {
    "planned": "planned: its lesson is not written yet",
    "partial": "partial: some of it works",
    "working": "working: code, lesson and tests",
}
_ALL = "all families"
_LINE, _GAP, _HEAD = 1.0, 0.75, 1.55  # heights, in lines of text


def _wanted(highlight: str | int | Iterable[int] | None) -> set[int]:
    """The numbers of the rows to highlight: a family, a lesson ("03"), or row numbers."""
    if highlight is None:
        return {row.number for row in survey.rows()}
    if isinstance(highlight, str):
        if highlight.isdecimal():
            return {row.number for row in survey.rows(lesson=highlight)}
        return {row.number for row in survey.rows(family=highlight)}
    numbers = [highlight] if isinstance(highlight, int) else list(highlight)
    return {survey.find(number).number for number in numbers}


def _of(choice: str) -> list[survey.Family]:
    return [one for one in survey.families() if one.choice == choice]


def _head(axes: Axes, x: float, y: float, name: str, question: str, colour: str) -> float:
    """Write the head of a group with its first line at ``y``; returns where its boxes start."""
    axes.text(x + 0.02, y, name, size=11.5, weight="bold", color=colour, va="center")
    axes.text(x + 0.02, y - 1.1, question, size=8.2, color="#444444", va="center")
    return y - 1.85


def _box(axes: Axes, one: survey.Family, x: float, y: float, colour: str, lit: set[int]) -> float:
    """Draw a family with its upper edge at ``y``; returns the lower edge."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import FancyBboxPatch

    rows = survey.rows(family=one.key)
    height = _HEAD + _LINE * len(rows) + 0.2
    alpha = 1.0 if any(row.number in lit for row in rows) else 0.28
    shape = "round,pad=0,rounding_size=0.04"
    axes.add_patch(
        FancyBboxPatch(
            (x, y - height),
            0.94,
            height,
            boxstyle=shape,
            mutation_aspect=12,
            facecolor=colour + "14",
            edgecolor=to_rgba(colour, alpha),
            linewidth=1.1,
        )
    )
    axes.text(
        x + 0.04, y - 0.85, one.title, color=colour, weight="bold", size=9, va="center", alpha=alpha
    )
    for index, row in enumerate(rows):
        level = y - _HEAD - _LINE * (index + 0.4)
        strong = 1.0 if row.number in lit else 0.28
        axes.plot([x + 0.07], [level], markersize=5.5, alpha=strong, **_STATES[row.state])
        style = "normal" if row.kind == "system" else "italic"
        axes.text(
            x + 0.12,
            level,
            row.name,
            size=8.2,
            va="center",
            color="#222222",
            alpha=strong,
            style=style,
        )
        axes.text(
            x + 0.91,
            level,
            row.lesson,
            size=8,
            va="center",
            ha="right",
            color="#555555",
            alpha=strong,
        )
    return y - height


def map_figure(highlight: str | int | Iterable[int] | None = None) -> Figure:
    """The map: a column for each choice, a box for each family, a line for each system.

    The small number at the right of a line is the lesson; the marker is the state. A name in
    italics is a reference, no system of its own.

    Args:
        highlight: what stays bright, everything else fades: the key of a family (``"noise"``),
            a lesson (``"03"``), or the numbers of rows; None highlights all.

    Raises:
        ValueError: an unknown family, lesson or row.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    lit = _wanted(highlight)
    figure = Figure(figsize=(11, 6.1), layout="constrained")
    axes = figure.subplots()
    lowest = 0.0
    for x, (choice, question) in enumerate(_COLUMNS):
        y = _head(axes, x, 2.05, choice, question, _COLOURS[choice])
        for one in _of(choice):
            y = _box(axes, one, x, y, _COLOURS[choice], lit) - _GAP
        if choice == "objective":
            y = _head(axes, x, y - 0.9, "denoiser", "What predicts it? Shared by all.", "#5D5D5D")
            y = _head(
                axes, x, y - 0.9, "beside the six", "What is compared, at what cost?", "#5D5D5D"
            )
            for one in _of(""):
                y = _box(axes, one, x, y, "#5D5D5D", lit) - _GAP
        lowest = min(lowest, y)
    axes.set_xlim(-0.02, len(_COLUMNS))
    axes.set_ylim(lowest + _GAP - 0.3, 2.9)
    axes.set_axis_off()
    keys = [
        Line2D([], [], linestyle="none", markersize=7, label=_MEANING[state], **style)
        for state, style in _STATES.items()
    ]
    axes.legend(
        handles=keys,
        loc="lower left",
        ncols=1,
        frameon=False,
        fontsize=9,
        title="the mark says how far it is, the number is its lesson",
        title_fontsize=9,
        alignment="left",
    )
    return figure


def timeline_figure() -> Figure:
    """The systems below the period of their paper, in the order of their months (Fig. 1)."""
    from matplotlib.figure import Figure

    sparse = [one for one in survey.timeline() if len(one[1]) <= 5]  # they share a column
    columns = [sparse, *([one] for one in survey.timeline() if len(one[1]) > 5)]
    colour = {one.key: _COLOURS[one.choice or "beside"] for one in survey.families()}
    figure = Figure(figsize=(11, 5.0), layout="constrained")
    axes = figure.subplots()
    lowest = 0.0
    for x, periods in enumerate(columns):
        y = 0.0
        for period, rows in periods:
            count = f"{len(rows)} system" + "s" * (len(rows) > 1)
            axes.plot([x, x + 0.94], [y - 0.7] * 2, "-", marker="", color="#444444", linewidth=1.8)
            axes.text(x, y, period, va="center", weight="bold", size=9)
            axes.text(x + 0.94, y, count, va="center", ha="right", size=8, color="#444444")
            for level, row in enumerate(rows):
                place = y - 1.6 - level
                axes.text(
                    x, place, _MONTHS[row.paper.month], size=7.5, va="center", color="#666666"
                )
                axes.plot([x + 0.16], [place], "o", markersize=5, color=colour[row.family])
                axes.text(x + 0.2, place, row.name, size=8.2, va="center", color="#222222")
            y -= len(rows) + 2.3
        lowest = min(lowest, y)
    for name, shade in _COLOURS.items():
        label = "none: a GAN, to compare with" if name == "beside" else name
        axes.plot([], [], "o", color=shade, label=label)
    axes.legend(
        loc="lower left",
        frameon=False,
        fontsize=8.5,
        title="what it mainly changes",
        title_fontsize=8.5,
        alignment="left",
    )
    axes.set_xlim(-0.05, len(columns))
    axes.set_ylim(lowest + 1, 0.8)
    axes.set_axis_off()
    return figure


def _crossed() -> list[tuple[str, str, dict[str, list[survey.Row]]]]:
    """For each class of the survey: its table, its name, and its systems by the choice changed."""
    choice = {one.key: one.choice for one in survey.families()}
    crossed = []
    for table, classes in survey.CLASSES.items():
        for one in classes:
            cells: dict[str, list[survey.Row]] = {name: [] for name, _ in _COLUMNS}
            for row in survey.rows(kind="system"):
                if one in row.classes:
                    cells[choice[row.family]].append(row)
            crossed.append((table, one, cells))
    return crossed


def classes_figure() -> Figure:
    """The survey's classes (Tables I and II) as rows, our choices as columns, systems in the cells.

    The survey's own grouping beside ours: a class that agreed with a choice would fill one cell of
    its row.
    """
    from textwrap import wrap

    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots()
    for x, (name, _) in enumerate(_COLUMNS, start=1):
        axes.text(x + 0.02, 0.9, name, weight="bold", size=10.5, color=_COLOURS[name], va="center")
    y, before = 0.0, ""
    for table, one, cells in _crossed():
        if table != before:
            what = {"I": "Table I: designs", "II": "Table II: processes"}[table]
            axes.text(0, y - 0.6, what, weight="bold", size=9, va="center")
            y, before = y - 1.3, table
        axes.plot([0, 6], [y, y], "-", marker="", color="#BBBBBB", linewidth=0.8)
        written = {
            name: wrap(
                ", ".join(row.name.replace(" ", "\u00a0") for row in rows),
                30,
                break_on_hyphens=False,
            )
            for name, rows in cells.items()
        }
        axes.text(0.1, y - 0.65, one, size=8.6, va="center")
        for x, name in enumerate(written, start=1):
            for line, words in enumerate(written[name]):
                axes.text(
                    x + 0.02, y - 0.65 - line, words, size=8.2, va="center", color=_COLOURS[name]
                )
        y -= max(map(len, written.values())) + 0.3
    axes.set_xlim(-0.02, 6)
    axes.set_ylim(y - 0.2, 1.5)
    axes.set_axis_off()
    return figure


def classes_text() -> str:
    """What ``classes_figure`` shows, in words: how many systems of each class change what."""
    lines = []
    for _, one, cells in _crossed():
        found = ", ".join(f"{len(rows)} {name}" for name, rows in cells.items() if rows)
        lines.append(f"{one}: {found}")
    return f"The survey's classes and what their systems mainly change. {'; '.join(lines)}."


def alt_text(family: str | None = None) -> str:
    """A description of the map, or of one family on it, for those who do not see it."""
    rows = survey.rows(family=family)
    if family is not None:
        names = ", ".join(f"{row.name} (lesson {row.lesson})" for row in rows)
        title = survey.family(family).title
        return f"The map with {title} bright: {names}. {survey.counts(rows)}."
    boxes = [f"{one.title} ({len(survey.rows(family=one.key))})" for one in survey.families()]
    return (
        f"Map of the survey in {len(boxes)} families, in columns by the choice that they mainly "
        f"change: {', '.join(boxes)}. {survey.counts(rows)}."
    )


def family_html(key: str) -> str:
    """A family as HTML: what it changes, and its systems with paper, lesson, state and cost."""
    kin = survey.family(key)
    changes = f"It mainly changes the <b>{escape(kin.choice)}</b>." if kin.choice else ""
    lines = []
    for row in survey.rows(family=key):
        course = survey.lesson(row.lesson)
        paper = escape(f"{row.paper.title}. {row.paper.authors}, {row.paper.year}")
        if row.paper.url:
            paper = f'<a href="{row.paper.url}" target="_blank" rel="noopener">{paper}</a>'
        note = f"<br><small>Survey: {escape(row.note)}</small>" if row.note else ""
        cells = (
            f"<b>{escape(row.name)}</b>",
            paper + note,
            escape(f"{course.number} {course.title}"),
            escape(row.state),
            escape(row.cost),
        )
        cell = '<td style="text-align:left;vertical-align:top;padding:3px 8px">'
        lines.append("<tr>" + "".join(f"{cell}{value}</td>" for value in cells) + "</tr>")
    heads = "".join(
        f'<th scope="col" style="text-align:left;padding:3px 8px">{name}</th>'
        for name in ("system", "paper", "lesson", "state", "cost")
    )
    return (
        f"<p><b>{escape(kin.title)}.</b> {escape(kin.description)} {changes}</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def explore_map(family: str | None = None) -> Explorer:
    """The map with a list of families: the chosen one stays bright and is listed below it.

    Let it be a cell's last line. A live notebook shows the list and the drawing; a stored one
    shows the drawing as a figure with its alt text. ``explore_map().set(family="Other noises")``
    chooses as a hand would.

    Args:
        family: the key of the family to start with, None for the whole map.

    Raises:
        ValueError: an unknown family.
    """
    import ipywidgets

    from diffusion_lab.course.widgets import choice, explore

    keys = {_ALL: None} | {one.title: one.key for one in survey.families()}
    start = _ALL if family is None else survey.family(family).title
    seen = explore(
        lambda family: map_figure(keys[family]),
        family=choice("family", list(keys), start),
        alt=lambda family: alt_text(keys[family]),
        caption="The systems of the survey. The number beside each is its lesson; a name in "
        "italics is no system of its own.",
    )
    text = ipywidgets.HTML()

    def chosen(_: Any = None) -> None:
        key = keys[seen.values["family"]]
        text.value = family_html(key) if key else "<p>Choose a family to see its systems.</p>"

    chosen()
    seen.controls["family"].observe(chosen, names="value")
    seen.box.children = (*seen.box.children, text)
    return seen
