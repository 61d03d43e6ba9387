"""A lesson as one HTML file, in which every figure keeps its alt text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_lab.course.lessons import find
from diffusion_lab.files import write_atomically

__all__ = ["export", "exporter"]


def exporter() -> Any:
    """nbconvert's HTML exporter with the course's template (``template/diffusion_lab``).

    Its own templates write "No description has been provided" over the alt text of an output.
    """
    from nbconvert import HTMLExporter

    folder = Path(__file__).parent / "template"
    return HTMLExporter(template_name="diffusion_lab", extra_template_basedirs=[str(folder)])


def export(lesson: str | int, out: Path, kind: str = "learner") -> None:
    """Write a stored lesson as HTML to ``out``, whole or not at all; nothing is run."""
    page, _ = exporter().from_filename(str(find(lesson, kind)))
    write_atomically(out, page.encode())
