"""The part of TEACHING.md that follows from the lessons; ``python -m teaching.page`` writes it.

Goals come from each lesson's source, minutes from ``notebooks/measured.json``, and the errors to
expect from its checks: the slips that a check can name, or, where it knows none by themselves, what
it says to the wrong answers that the tests record.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from diffusion_lab.course import building, cells, checks, lessons, linking

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "TEACHING.md"
BEGIN, END = "<!-- lessons: begin -->", "<!-- lessons: end -->"
MOST = 3  # errors that are named for an exercise


def goals(text: str) -> list[str]:
    """What the source of a lesson promises in its opening, one line each."""
    prose = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    listed = re.search(r"\*\*Goals\.\*\*.*\n\n?((?:- .*\n(?:  .*\n)*)+)", prose)
    if listed is None:
        raise ValueError("the opening has no list below **Goals.**")
    lines = re.sub(r"\n  +", " ", listed[1]).strip().split("\n")
    return [line.rstrip(",;.") for line in lines]


def exercises(text: str) -> dict[str, str]:
    """The heading above each check of a source, by the check's name."""
    found, heading = {}, ""
    for line in text.split("\n"):
        title = re.match(r"# #+ (Exercise .*)", line)
        heading = title[1] if title else heading
        found |= {task: heading for task, _ in cells.checks_in(line)}
    return found


def wrong_answers(number: str) -> dict[str, list]:
    """The recorded wrong answers of a lesson, by check: pairs of an answer and words said to it."""
    path = ROOT / "tests" / "answers" / f"{number}.py"
    spec = importlib.util.spec_from_file_location(f"answers_{number}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


def errors(number: str) -> dict[str, list[str]]:
    """The sentence for each error that is on record, by check."""
    found, recorded = {}, wrong_answers(number)
    for name, task in checks.tasks(f"lesson{number}").items():
        said = list(dict.fromkeys(task.slips.values()))
        if not said:
            results = [task.result(answer) for answer, _ in recorded[name]]
            texts = [result.message.removesuffix(f" Hint: {result.hint}") for result in results]
            said = list(dict.fromkeys(texts))
        found[name] = said
    return found


def part(name: str) -> str:
    """What the page says of one lesson."""
    text, home = building.source_text(name, lessons.folder()), lessons.folder()
    asked, wrong = exercises(text), errors(name[:2])
    more = re.findall(r"^# %%.* points=(\d+)", text, re.MULTILINE)
    points = len(asked) + sum(int(number) - 1 for number in more)
    own = linking.reader_time(text).replace("of yours", "of a learner's time")
    lines = [f"### {linking.title(name)}", "", f"{len(asked)} checks, {points} points;"]
    lines[-1] += f" {building.measured_time(name, home)}; {own}."
    lines += ["", "Goals:", "", *goals(text), "", "Errors to expect:", ""]
    for task, heading in asked.items():
        more = len(wrong[task]) - MOST
        lines += [f"- {heading}" + (f" ({more} more on record)" if more > 0 else "")]
        lines += [f"  - {sentence}" for sentence in wrong[task][:MOST]]
    return "\n".join(lines)


def fresh(text: str) -> str:
    """The page with its generated part written anew."""
    parts = "\n\n".join(part(name) for name in lessons.ready())
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{parts}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(fresh(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
