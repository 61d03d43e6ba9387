"""How a lesson shows things: figures with their words, tables, sentences; in a notebook or printed.

Whatever is shown has a twin in plain text: terminals, screen readers and tests read that. A figure
is two outputs, since no front end but a few shows the alt text of a picture: the PNG, which carries
it, and below it the caption with the description folded up. Outside a notebook the words are
printed, and nothing else.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import struct
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DENSE", "DPI", "Live", "both", "display", "mime", "png", "show", "show_table", "width"]
__all__ += ["words"]

DPI = 96
DENSE = 2  # pixels of a stored figure for one of the page: sharp on high-density screens too
WIDE = 100  # letters in a line of plain text


# ------------------------------------------------------------------------------------- any output
def display(bundle: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any) -> Any:
    """Show a bundle where there is a notebook; with ``display_id=True`` returns its handle."""
    if not in_notebook():
        return None
    from IPython.display import display as show_in_cell

    return show_in_cell(bundle, metadata=metadata or {}, raw=True, **options)


def in_notebook() -> bool:
    """Whether there is a front end that shows more than text."""
    try:
        from IPython import get_ipython
    except ImportError:  # a plain script
        return False
    return get_ipython() is not None


def both(markup: str, text: str, more: Mapping[str, Any] | None = None) -> None:
    """Show HTML with its plain-text twin; the twin is printed where there is no notebook.

    ``more`` are further forms of the same output, by MIME type.
    """
    if in_notebook():
        display({"text/html": markup, "text/plain": text, **(more or {})})
    else:
        print(text)


# ------------------------------------------------------------------------------------- figures
def png(fig: Figure) -> bytes:
    """The figure as PNG bytes of 256 colours at most, the same for the same figure."""
    from PIL import Image

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DENSE * DPI, metadata={"Software": None})
    drawn = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def width(data: bytes) -> int:
    """The width in pixels that stands in the head of a PNG."""
    return struct.unpack(">I", data[16:20])[0]


def show(fig: Figure, *, alt: str, caption: str) -> None:
    """Display a figure with its alt text, its caption and description below, and close it.

    ``alt`` says what the figure looks like, for those who cannot see it; ``caption`` says what to
    take from it. Both must hold words: an empty one is a ``ValueError``.
    """
    import matplotlib.pyplot as plt

    bundle, metadata = mime(png(fig), alt=alt, caption=caption)
    plt.close(fig)
    display(bundle, metadata)
    words(alt, caption)


def words(alt: str, caption: str) -> None:
    """What stands below a figure: its caption, and its description to unfold.

    The caption's twin in plain text has lines of at most 100 letters.
    """
    fold = f"<details><summary>Description of the figure</summary>{html.escape(alt)}</details>"
    both(f"<p><em>{html.escape(caption)}</em></p>\n{fold}", _lines(caption))


def _lines(text: str) -> str:
    """Plain text in lines of at most ``WIDE`` letters, broken between words."""
    parts = [
        textwrap.fill(line, WIDE, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    ]
    return "\n".join(parts)


def mime(
    data: bytes, *, alt: str, caption: str, dense: int = DENSE
) -> tuple[dict[str, str], dict[str, Any]]:
    """The display bundle and metadata of a PNG that carries its alt text and its width on the page.

    ``dense`` is how many of its pixels make one of the page. ValueError where words are missing.
    """
    for name, said in (("alt", alt), ("caption", caption)):
        if not isinstance(said, str) or not said.strip():
            raise ValueError(f"{name} must say something about the figure, {said!r} was given")
    text = base64.b64encode(data).decode("ascii")
    about = {"alt": alt, "width": width(data) // dense}
    return {"image/png": text, "text/plain": f"[figure: {alt}]"}, {"image/png": about}


class Live:
    """One figure that is drawn again and again while something runs::

        view = Live(alt="...", caption="...")
        for ...:
            view.draw(fig)  # replaces what stood there
        view.close()  # its words below

    What is stored is the last figure, with its alt text.
    """

    def __init__(self, *, alt: str, caption: str) -> None:
        self.alt, self.caption = alt, caption
        self.handle: Any = None
        mime(bytes(24), alt=alt, caption=caption)  # missing words are found before the work

    def draw(self, fig: Figure) -> None:
        """Show ``fig`` in the place of the one before, and close it."""
        import matplotlib.pyplot as plt

        bundle, metadata = mime(png(fig), alt=self.alt, caption=self.caption)
        plt.close(fig)
        if self.handle is None:
            self.handle = display(bundle, metadata, display_id=True)
        else:
            self.handle.update(bundle, metadata=metadata, raw=True)

    def close(self) -> None:
        """Nothing more will be drawn: show the words below."""
        words(self.alt, self.caption)


# ------------------------------------------------------------------------------------- tables
def show_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str = "",
    digits: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Show rows of one table: HTML, and plain text of at most 100 letters a line.

    Args:
        rows: each a mapping from column to value, all with the same columns.
        title: what the table shows; stands above it.
        digits: how the numbers of a column are written, as ``{"FD": ".2f"}``; other floats have up
            to six digits. None is an empty cell.
        more: further forms of the same output, by MIME type.

    Raises ValueError for no rows, for rows whose columns differ, and for a column in ``digits``
    that is not there.
    """
    from tabulate import tabulate

    if not rows or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(f"rows of one table need the same columns: {[list(r) for r in rows]}")
    names, digits = [str(name) for name in rows[0]], digits or {}
    if not set(digits) <= set(rows[0]):
        raise ValueError(f"digits are given for {sorted(digits)}, the columns are {names}")
    cells = [[_written(value, digits.get(name)) for name, value in row.items()] for row in rows]
    numbers = [all(isinstance(row[name], int | float | None) for row in rows) for name in rows[0]]
    form: dict[str, Any] = {"colalign": ["right" if one else "left" for one in numbers]}
    form["disable_numparse"] = True
    head = f"<caption>{html.escape(title)}</caption>" if title else ""
    markup = tabulate(cells, names, tablefmt="html", **form).replace(
        "<table>", f"<table>\n{head}" if head else "<table>", 1
    )
    left = ' style="text-align: left;">'  # said too: notebooks' own style is to the right
    markup = markup.replace("<th>", "<th" + left).replace("<td>", "<td" + left)
    markup = markup.replace("<th ", '<th scope="col" ')
    parts = ["\n".join(part) for part in _narrow(names, cells, numbers)]
    both(markup, "\n\n".join(([title] if title else []) + parts), more)


def _written(value: Any, digits: str | None) -> str:
    if value is None:
        return ""
    if digits is not None and not isinstance(value, str):
        return format(value, digits)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _narrow(names: list[str], cells: list[list[str]], right: list[bool]) -> list[list[str]]:
    """A table's lines in plain text; too wide a one in parts, each with the first column."""
    most = [60, *[max(20, WIDE - 2 - min(60, max(len(row[0]) for row in cells)))] * len(names)]
    split = [[textwrap.wrap(c, n) or [""] for c, n in zip(row, most)] for row in cells]
    cells = [list(part) for row in split for part in itertools.zip_longest(*row, fillvalue="")]
    sizes = [max(map(len, column)) for column in zip(names, *cells)]
    parts: list[list[int]] = [[0]]
    for i in range(1, len(names)):
        if sum(sizes[j] + 2 for j in (*parts[-1], i)) > WIDE + 2 and len(parts[-1]) > 1:
            parts.append([0])
        parts[-1].append(i)

    def line(row: list[str], part: list[int]) -> str:
        put = (row[j].rjust(sizes[j]) if right[j] else row[j].ljust(sizes[j]) for j in part)
        return "  ".join(put).rstrip()

    return [[line(row, part) for row in (names, *cells)] for part in parts]
