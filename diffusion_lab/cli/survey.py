"""The command ``survey``: the map of all systems, and whether each has earned its state."""

from __future__ import annotations

import argparse
import json

from diffusion_lab.cli.base import Subparsers, add, add_json, linked, names, width

__all__ = ["survey_command"]


def _survey(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab survey
    diffusion-lab survey DDIM
    diffusion-lab survey --family samplers --state working
    diffusion-lab survey --lesson 05 --json
    """
    from diffusion_lab.course import bibliography, survey, survey_check

    if given.system is not None:
        filters = [f"--{name}" for name in ("family", "state", "lesson") if getattr(given, name)]
        if filters:
            raise ValueError(f"give either a system or {filters[0]}, not both")
        rows = [survey.find(given.system)]
    else:
        rows = survey.rows(family=given.family, state=given.state, lesson=given.lesson)
    if given.check:
        problems = {row.name: survey_check.verify(row) for row in rows}
        problems = {name: found for name, found in problems.items() if found}
        if given.json:
            print(json.dumps(problems, indent=2))
        else:
            lines = [f"{name}: {one}" for name, found in problems.items() for one in found]
            print("\n".join(lines) or f"{len(rows)} rows checked: each has earned its state")
        return 1 if problems else 0
    if given.bibtex:
        some = len(rows) < len(survey.rows())
        papers = [paper for row in rows for paper in (row.paper, *row.also)]
        print(bibliography.bibtex(papers if some else None), end="")
    elif given.json:
        print(survey.to_json(rows))
    elif given.system is not None:
        print(linked(survey.describe(rows[0], width())))
    else:
        print(linked(survey.table(rows, width())))
    return 0


def survey_command(commands: Subparsers) -> None:
    """Add ``survey``."""
    parser = add(
        commands,
        "survey",
        _survey,
        "Print the map: every system of the survey, its paper, family, lesson and state.",
        epilog="Families: core, samplers, scheduling, sde, noise, discrete, latent, pyramid, "
        "guidance, restoration, mixing, distillation, retrieval, video, metrics, comparators, map.",
    )
    words = "a number or name: print all that the map knows about it"
    system = parser.add_argument("system", nargs="?", help=words)
    system.completer = names("diffusion_lab.course.survey:rows")
    parser.add_argument("--family", help="only this family, such as samplers")
    parser.add_argument("--state", help="only this state: planned, partial or working")
    parser.add_argument("--lesson", help="only the systems of this lesson, such as 05")
    words = "hold each row to its state; status 1 if one has not earned it (in the repository)"
    parser.add_argument("--check", action="store_true", help=words)
    parser.add_argument(
        "--bibtex",
        action="store_true",
        help="print the papers as BibTeX; without a choice, with what the lessons cite besides",
    )
    add_json(parser)
