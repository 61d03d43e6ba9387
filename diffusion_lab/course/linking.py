"""One course, not nine files: links between lessons, to arXiv, and the line that leads on.

Sources say "lesson 06" and "2010.02502" in plain words; a built notebook has links there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["contents", "leads", "linked", "reader_time"]

# What stays as it is: code, formulas, links, addresses, headings, tags.
_KEPT = re.compile(
    r"(```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|https?://\S+"
    r"|^#+ .*?$|<[^>]*>)",
    re.DOTALL | re.MULTILINE,
)
_LESSON = re.compile(r"\b([Ll]esson )(\d\d)\b")
_LESSONS = re.compile(r"\b([Ll]essons )(\d\d(?:(?:, | and | or | to )\d\d)+)\b")
_ARXIV = re.compile(r"(?<![\w./-])(\d\d(?:0[1-9]|1[0-2])\.\d{4,5})(?![\w/]|\.\d)")
PAGES = ("notation", "glossary", "bibliography")
READING, WORKING = 130, 10  # words a minute of such a text; minutes for an exercise


def linked(text: str, name: str, lessons: Sequence[str]) -> str:
    """Markdown with links at "lesson 06" and at arXiv numbers; ``name`` is the lesson it is in."""
    known = {one[:2]: f"{one}.ipynb" for one in lessons if one != name}

    def one(words: str, number: str) -> str:
        return f"[{words}]({known[number]})" if number in known else words

    def links(plain: str) -> str:
        plain = _LESSONS.sub(
            lambda m: m[1] + re.sub(r"\d\d", lambda n: one(n[0], n[0]), m[2]), plain
        )
        plain = _LESSON.sub(lambda m: one(m[0], m[2]), plain)
        return _ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", plain)

    parts = _KEPT.split(text)
    return "".join(part if i % 2 else links(part) for i, part in enumerate(parts))


def title(name: str) -> str:
    """``05_jumping`` as "05 Jumping", with the words of the survey's list of lessons."""
    from diffusion_lab.course import survey

    try:
        return f"{name[:2]} {survey.lesson(name[:2]).title}"
    except ValueError:  # a lesson of somebody's own
        return name.replace("_", " ")


def leads(name: str, lessons: Sequence[str], home: Path, up: str = "") -> str:
    """The line that leads to the lessons before and after, the contents, and the pages of words.

    ``up`` is the way from the notebook to the folder that has the pages ("../" from solutions).
    """
    at = lessons.index(name)
    found = [f"[← {title(one)}]({one}.ipynb)" for one in lessons[max(at - 1, 0) : at]]
    if at > 0:
        found.append(f"[contents]({lessons[0]}.ipynb)")
    found += [f"[{page}]({up}{page}.md)" for page in PAGES if (home / f"{page}.md").is_file()]
    found += [f"[{title(one)} →]({one}.ipynb)" for one in lessons[at + 1 : at + 2]]
    return " · ".join(found)


def contents(lessons: Sequence[str]) -> str:
    """A list of all lessons with their questions, each a link: what ``{{contents}}`` stands for."""
    from diffusion_lab.course import survey

    asked = {one.number: one.question for one in survey.lessons()}
    return "\n".join(f"- [{title(one)}]({one}.ipynb): {asked.get(one[:2], '')}" for one in lessons)


def reader_time(text: str) -> str:
    """How long a person needs for a source, in words: an estimate from its words and exercises."""
    text = re.sub(
        r"^# %% \[raw\].*?(?=^# %%|\Z)", "", text, flags=re.DOTALL | re.MULTILINE
    )  # slides
    prose = " ".join(re.findall(r"^# (.*)$", text, re.MULTILINE))
    tasks = len(re.findall(r"^check\.\w+\(", text, re.MULTILINE))
    own = round((len(prose.split()) / READING + WORKING * tasks) / 10) * 10
    return f"about {own} minutes of yours (an estimate: reading, and {tasks} exercises)"
