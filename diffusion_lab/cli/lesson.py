"""The command ``lesson``: lessons are listed, opened in JupyterLab, built, and assigned."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from diffusion_lab.cli.base import PROGRAM, Subparsers, add, add_json, shows_help

__all__ = ["lesson_command"]


def _notebook(number: str) -> Path:
    """Where the learner's notebook of a lesson lies."""
    from diffusion_lab.course import lessons, survey

    wanted = survey.lesson(number)
    try:
        path = lessons.find(wanted.number)
    except ValueError:
        path = None
    if path is None or not path.is_file():
        raise ValueError(
            f"lesson {wanted.number} ({wanted.title}) is not there yet; "
            f"'{PROGRAM} lesson list' shows the ones that are"
        )
    return path


def _ready() -> set[str]:
    """The numbers of the lessons whose notebook is there."""
    from diffusion_lab.course import lessons

    try:
        return {name[:2] for name in lessons.ready()}
    except FileNotFoundError:
        return set()


def _lesson_list(given: argparse.Namespace) -> int:
    from diffusion_lab.course import survey

    ready = _ready()
    lessons = [
        {
            "number": one.number,
            "title": one.title,
            "question": one.question,
            "ready": one.number in ready,
        }
        for one in survey.lessons()
    ]
    if given.json:
        print(json.dumps(lessons, indent=2))
        return 0
    width = max(len(str(one["title"])) for one in lessons)
    for one in lessons:
        mark = "ready  " if one["ready"] else "planned"
        print(f"{one['number']}  {mark}  {one['title']:<{width}}  {one['question']}")
    return 0


def _working_copy(number: str) -> Path:
    """The notebook to work in: the repository's own, or a copy here of an installed one.

    A copy that is already here is kept: it may hold a learner's work.
    """
    found = _notebook(number)
    if found.parent.name != "_notebooks":
        return found
    copy = Path.cwd() / found.name
    if copy.exists():
        print(f"{copy.name} is already here and is kept as it is", file=sys.stderr)
        return copy
    part = copy.with_name(f"{copy.name}.part")
    try:
        shutil.copyfile(found, part)
        os.replace(part, copy)
    finally:
        part.unlink(missing_ok=True)
    return copy


def _jupyter(notebook: Path, *, browser: bool = True) -> list[str]:
    """The command that opens a notebook in JupyterLab without asking the network for anything.

    Its file browser shows the repository, or the folder of a copy, and not ``notebooks`` alone.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise ValueError(
            "JupyterLab is not installed in this environment: "
            f"{Path(sys.executable).name} -m pip install jupyterlab"
        )
    top = notebook.parent.parent if notebook.parent.name == "notebooks" else notebook.parent
    options = [
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
        f"--ServerApp.root_dir={top}",
        f"--LabApp.default_url=/lab/tree/{quote(notebook.relative_to(top).as_posix())}",
    ]
    return [sys.executable, "-m", "jupyterlab", *options, *["--no-browser"] * (not browser)]


def _lesson_open(given: argparse.Namespace) -> int:
    if given.print_path:
        print(_notebook(given.number))
        return 0
    path = _working_copy(given.number)
    if given.no_open:
        print(path)
        return 0
    command = _jupyter(path, browser=not given.no_browser)
    environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}
    return subprocess.run(command, env=environment, check=False).returncode


def _lesson_build(given: argparse.Namespace) -> int:
    from diffusion_lab.course import building

    return building.update(given.numbers, at=given.level, check=given.check, measure=given.measure)


def _lesson_assign(given: argparse.Namespace) -> int:
    if importlib.util.find_spec("nbgrader") is None:
        raise ValueError(
            "nbgrader is not installed in this environment; in the repository: "
            f'{Path(sys.executable).name} -m pip install -c constraints.txt -e ".[teach]"'
        )
    from diffusion_lab.course import teaching

    print(teaching.assign(given.number, Path(given.course).expanduser(), given.seed))
    return 0


def lesson_command(commands: Subparsers) -> None:
    """Add ``lesson`` and its actions."""
    parser = commands.add_parser(
        "lesson",
        help="List, open, build or assign the lessons.",
        description="List, open, build or assign the lessons.",
    )
    parser.set_defaults(run=shows_help(parser), parser=parser)
    actions = parser.add_subparsers(metavar="ACTION")
    listing = add(actions, "list", _lesson_list, "List the lessons and the question of each.")
    add_json(listing)
    opening = add(
        actions,
        "open",
        _lesson_open,
        "Open a lesson in JupyterLab. An installed lesson is copied into the current folder "
        "first; a copy that is already there is kept.",
    )
    opening.add_argument("number", nargs="?", default="00", help="00 to 24; 00 if not given")
    alone = opening.add_mutually_exclusive_group()
    alone.add_argument(
        "--no-open", action="store_true", help="make the copy and print its path; start nothing"
    )
    alone.add_argument(
        "--print-path", action="store_true", help="print where the lesson lies; copy nothing"
    )
    alone.add_argument(
        "--no-browser", action="store_true", help="start JupyterLab and print its address only"
    )
    building = add(
        actions,
        "build",
        _lesson_build,
        "Build and run the notebooks from their sources (in the repository).",
    )
    building.add_argument("numbers", nargs="*", metavar="NN", help="lessons; all if none is given")
    building.add_argument(
        "--check", action="store_true", help="only say where a notebook differs; status 1 if any"
    )
    building.add_argument("--level", default="live", choices=["smoke", "live", "full"])
    building.add_argument("--measure", action="store_true", help="measure the running time again")
    assigning = add(
        actions,
        "assign",
        _lesson_assign,
        "For teachers: release a lesson in the folder of an nbgrader course (see TEACHING.md).",
    )
    assigning.add_argument("number", metavar="NN", help="the lesson")
    assigning.add_argument("--course", required=True, metavar="FOLDER", help="made if missing")
    assigning.add_argument(
        "--seed", type=int, default=1, help="of the numbers that hidden tests try (1 or more)"
    )
