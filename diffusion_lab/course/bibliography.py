"""The bibliography: every paper of the map, and every work that the lessons cite beyond it.

The map's papers come from ``survey.json``, the others from ``works.json`` beside it; nothing
else is written by hand. ``bibtex`` gives it to other programs, ``page`` is the page
``notebooks/bibliography.md``, which ``diffusion-lab lesson build`` writes again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from diffusion_lab.course import survey
from diffusion_lab.course.lessons import folder, names
from diffusion_lab.course.survey import Paper

__all__ = ["PAGE", "bibtex", "keys", "page", "works", "write"]

PAGE = "bibliography.md"
_HEAD = (
    "# Bibliography\n\nWhat the survey names and what the lessons cite beyond it, by the first "
    "author's name; the year is that of the first public version. As BibTeX: `diffusion-lab survey "
    "--bibtex`. This page is made by `diffusion-lab lesson build`, not by hand.\n"
)


def works() -> list[Paper]:
    """All papers, each once, by first author's name and year."""
    beyond = json.loads(Path(__file__).with_name("works.json").read_text(encoding="utf-8"))
    named = [paper for row in survey.rows() for paper in (row.paper, *row.also)]
    found = dict.fromkeys([survey.paper(), *named, *(Paper(**one) for one in beyond)])
    return sorted(found, key=lambda paper: (_plain(_first(paper)), paper.year, paper.title))


def _first(paper: Paper) -> str:
    """The first author's family name, as it is written: initials and 'et al.' left out."""
    return re.sub(r"^(?:\w\. )+| et al\.$", "", paper.authors.split(",")[0])


def _plain(words: str) -> str:
    """Lower-case ASCII letters and digits of the words, accents taken off."""
    return re.sub("[^a-z0-9]", "", unicodedata.normalize("NFKD", words).lower())


def keys() -> dict[Paper, str]:
    """The BibTeX key of each paper: name, year and first long word of the title, each once."""
    found: dict[Paper, str] = {}
    seen: Counter[str] = Counter()
    for paper in works():
        words = [word for word in re.split(r"[\s:-]+", paper.title) if len(word) > 3]
        key = f"{_plain(_first(paper))}{paper.year}{_plain(words[0])}"
        seen[key] += 1
        found[paper] = key + ("" if seen[key] == 1 else "abcdefgh"[seen[key] - 1])
    return found


def bibtex(papers: Collection[Paper] | None = None) -> str:
    """These papers, or all, as BibTeX entries; what is not known of one is left out."""
    chosen = keys().items()
    return "\n".join(_entry(key, one) for one, key in chosen if papers is None or one in papers)


def _entry(key: str, paper: Paper) -> str:
    authors = re.sub(r" et al\.$", ", others", paper.authors).replace(", ", " and ")
    fields = {"author": authors, "title": f"{{{paper.title}}}", "year": str(paper.year)}
    if paper.arxiv:
        fields |= {"eprint": paper.arxiv, "archiveprefix": "arXiv", "url": str(paper.url)}
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{key},", *lines, "}", ""])


def page(home: Path | None = None) -> str:
    """The page, as Markdown: each paper with its link, its systems and the lessons that cite it."""
    home = home or folder()
    sources = {name: home / "source" / f"{name}.py" for name in names(home)}
    texts = {name: _prose(file.read_text(encoding="utf-8")) for name, file in sources.items()}
    rows = survey.rows()
    lines = []
    for paper in works():
        systems = [row.name for row in rows if paper in (row.paper, *row.also)]
        cited = [name for name, text in texts.items() if (paper.arxiv or paper.title) in text]
        parts = [f"{paper.authors} ({paper.year}). *{paper.title}*."]
        parts += [f"[arXiv {paper.arxiv}]({paper.url})."] if paper.arxiv else []
        parts += [f"On the map: {', '.join(systems)}."] if systems else []
        links = ", ".join(f"[{name[:2]}]({name}.ipynb)" for name in cited)
        lines.append("- " + " ".join([*parts, *([f"Lessons: {links}."] if links else [])]))
    return "\n".join([_HEAD, *lines, ""])


def _prose(source: str) -> str:
    """A lesson's source with the line breaks of its paragraphs taken out."""
    return re.sub(r"\n#? *", " ", source)


def write(home: Path | None = None) -> None:
    """Write the page beside the lessons, where it differs from what stands there."""
    from diffusion_lab.files import write_atomically

    file = (home or folder()) / PAGE
    text = page(home).encode()
    if not file.is_file() or file.read_bytes() != text:
        write_atomically(file, text)
