"""Slides of the lessons, from the lessons' own sources: ``make slides``.

A slide is a raw cell of ``notebooks/source/NN_topic.py``, which no notebook holds. It stands where
its matter stands, is markdown, and may name cells whose stored pictures, or else printed lines, it
shows. What stands in an ``aside`` is for the speaker::

    # %% [raw] name="slide-boot" shows="first-strip"
    # ## A picture disappears
    #
    # Texture goes first, then the edge.
    #
    # <aside class="notes">Ask at which time they stop seeing the boot.</aside>

Nothing is run. A deck is one HTML file, written by nbconvert, with reveal.js (the copy that the
package sphinx-revealjs brings) put in and formulas as MathML, so that showing it needs no network.
"""

from __future__ import annotations

import argparse
import html
import re
from importlib.resources import files
from pathlib import Path

import jupytext
import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import SlidesExporter
from nbformat.v4 import new_markdown_cell, new_notebook

from diffusion_lab.course import building, lessons
from diffusion_lab.errors import unknown
from diffusion_lab.files import write_atomically

HERE = Path(__file__).resolve().parent


def deck(name: str) -> str | None:
    """The slides of a lesson (its full name) as one HTML page, or None where it has none.

    Raises:
        ValueError: a slide shows a cell that the lesson's notebook has not.
    """
    text = building.source_text(name, lessons.folder())
    source = jupytext.reads(text, fmt={"extension": ".py", "format_name": "percent"})
    stored = nbformat.read(lessons.find(name), as_version=4)
    known = {cell.metadata.name: cell for cell in stored.cells if cell.cell_type == "code"}
    cells = []
    for cell in source.cells:
        if cell.cell_type == "raw":
            marks = {"slideshow": {"slide_type": "slide"}}
            cells.append(new_markdown_cell(cell.source, metadata=marks))
            for shown in cell.metadata.get("shows", "").split():
                if shown not in known:
                    raise unknown(f"cell of lesson {name}", shown, known)
                cells.append(known[shown])
    if not cells:
        return None
    reveal = files("sphinx_revealjs") / "_static" / "revealjs"
    exporter = SlidesExporter(
        template_name="slides",
        extra_template_basedirs=[str(HERE / "templates")],
        extra_template_paths=[str(reveal / "dist"), str(reveal / "plugin" / "notes")],
        exclude_anchor_links=True,
    )
    exporter.register_filter("mathml", mathml)
    return exporter.from_notebook_node(new_notebook(cells=cells))[0]


def mathml(page: str) -> str:
    """HTML with the formulas between dollars, or two dollars, as MathML."""

    def formula(found: re.Match[str]) -> str:
        display = "inline" if found[1] is None else "block"
        return convert(html.unescape(found[1] or found[2]).strip(), display=display)

    return re.sub(r"\$\$(.+?)\$\$|\$(.+?)\$", formula, page, flags=re.DOTALL)


def main(arguments: list[str] | None = None) -> None:
    """Write the slides of every lesson that has some, and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m teaching.slides", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "slides", metavar="FOLDER")
    out = parser.parse_args(arguments).out
    for name in lessons.names():
        page = deck(name)
        if page is not None:
            write_atomically(out / f"{name}.html", page.encode())
            print(out / f"{name}.html")


if __name__ == "__main__":
    main()
