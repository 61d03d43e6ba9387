"""Build the site from the stored notebooks, without a network.

python site/build.py [OUT]        (build/site if not given)

The pages are gathered beside OUT in ``pages``, where they lie as in the repository, so that their
links to one another hold; Sphinx reads them there, and takes every warning for an error.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent
PACKAGE = ROOT / "diffusion_lab"
PAGES = ("[A-Z]*.md", "assets/*", "notebooks/*.ipynb", "notebooks/*.md")
ROOFS = ("course", "cli")  # the lessons' tools and the command line: they are no library


def modules() -> dict[str, list[str]]:
    """The public modules by room; those at the top of the package are the core."""
    found: dict[str, list[str]] = {"core": []}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        room = "core" if file.parent == PACKAGE else parts[1]
        if room not in ROOFS and not parts[-1].startswith("_"):
            found.setdefault(room, []).append(".".join(parts))
    return found


def write_api(folder: Path) -> None:
    """Write a page of the reference for each room, with a section for each of its modules."""
    folder.mkdir(parents=True)
    rooms = modules()
    for room, names in rooms.items():
        title = "The core" if room == "core" else room
        lines = [title, "=" * len(title)]
        for name in names:
            part = name.split(".", 1 if room == "core" else 2)[-1]
            own = name in ("diffusion_lab", f"diffusion_lab.{room}")  # needs no heading of its own
            lines += ["", *([] if own else [part, "-" * len(part), ""]), f".. automodule:: {name}"]
        (folder / f"{room}.rst").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tree = ["```{toctree}", ":maxdepth: 2", "", *rooms, "```"]
    text = ["# The package", "", "The docstrings of `diffusion_lab`, room by room.", "", *tree, ""]
    (folder / "index.md").write_text("\n".join(text), encoding="utf-8")


def gather(pages: Path) -> None:
    """Lay out the pages in an empty folder, with their times."""
    shutil.rmtree(pages, ignore_errors=True)
    files = {file: file.relative_to(ROOT) for pattern in PAGES for file in ROOT.glob(pattern)}
    for file, place in {**files, SITE / "index.md": Path("index.md")}.items():
        (pages / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, pages / place)
    write_api(pages / "api")


def build(out: Path) -> int:
    """Build the site in ``out``; returns 0 only if Sphinx had nothing to say against it."""
    pages, known = out.with_name("pages"), out.with_name("doctrees")
    gather(pages)
    strict = ["-W", "--keep-going", "-q"]
    return build_main([*strict, "-c", str(SITE), "-d", str(known), str(pages), str(out)])


if __name__ == "__main__":
    raise SystemExit(build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "site"))
