"""The command line: ``diffusion-lab COMMAND``, and ``diffusion-lab COMMAND --help`` for each.

A command is one function that adds its parser and says what runs; ``COMMANDS`` lists them. What a
command needs is imported when it runs. Errors that a user can do something about go to stderr as
``diffusion-lab: error: ...`` with exit status 2; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from diffusion_lab.cli_base import (
    PROGRAM,
    Parser,
    Subparsers,
    add,
    add_json,
    say_error,
    shows_help,
)
from diffusion_lab.cli_bench import bench_command
from diffusion_lab.cli_sample import sample_command
from diffusion_lab.cli_train import train_command
from diffusion_lab.errors import CheckpointError, DataError

__all__ = ["COMMANDS", "EXPECTED", "main"]

EXPECTED = (ValueError, DataError, CheckpointError, FloatingPointError, OSError)
"""Errors whose message tells the user what to do."""


# survey -----------------------------------------------------------------------------------------


def _survey(given: argparse.Namespace) -> int:
    from diffusion_lab import survey

    if given.system is not None:
        filters = [f"--{name}" for name in ("family", "state", "lesson") if getattr(given, name)]
        if filters:
            raise ValueError(f"give either a system or {filters[0]}, not both")
        rows = [survey.find(given.system)]
    else:
        rows = survey.rows(family=given.family, state=given.state, lesson=given.lesson)
    if given.check:
        problems = {row.name: survey.verify(row) for row in rows}
        problems = {name: found for name, found in problems.items() if found}
        if given.json:
            print(json.dumps(problems, indent=2))
        else:
            lines = [f"{name}: {one}" for name, found in problems.items() for one in found]
            print("\n".join(lines) or f"{len(rows)} rows checked: each has earned its state")
        return 1 if problems else 0
    if given.json:
        print(survey.to_json(rows))
    elif given.system is not None:
        print(survey.describe(rows[0]))
    else:
        print(survey.table(rows))
    return 0


def _survey_command(commands: Subparsers) -> None:
    parser = add(
        commands,
        "survey",
        _survey,
        "Print the map: every system of the survey, its paper, family, lesson and state.",
        epilog="Families: core, samplers, scheduling, sde, noise, discrete, latent, pyramid, "
        "guidance, restoration, mixing, distillation, retrieval, video, metrics, map.",
    )
    parser.add_argument(
        "system", nargs="?", help="a number or name: print all that the map knows about it"
    )
    parser.add_argument("--family", help="only this family, such as samplers")
    parser.add_argument("--state", help="only this state: planned, partial or working")
    parser.add_argument("--lesson", help="only the systems of this lesson, such as 05")
    parser.add_argument(
        "--check",
        action="store_true",
        help="hold each row to its state; status 1 if one has not earned it (in the repository)",
    )
    add_json(parser)


# lesson -----------------------------------------------------------------------------------------


def _notebook(number: str) -> Path:
    """Where the learner's notebook of a lesson lies."""
    from diffusion_lab import lessons, survey

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
    from diffusion_lab import lessons

    try:
        return {name[:2] for name in lessons.ready()}
    except FileNotFoundError:
        return set()


def _lesson_list(given: argparse.Namespace) -> int:
    from diffusion_lab import survey

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
    from diffusion_lab import lessons

    arguments = ["build", *given.numbers]
    arguments += ["--check"] * given.check + ["--measure"] * given.measure
    return lessons.main([*arguments, "--level", given.level])


def _lesson_command(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "lesson",
        help="List, open or build the lessons.",
        description="List, open or build the lessons.",
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


COMMANDS: tuple[Callable[[Subparsers], None], ...] = (
    _survey_command,
    train_command,
    sample_command,
    bench_command,
    _lesson_command,
)
"""The commands, in the order of the help. A new one is a function like those above."""


def _parser() -> Parser:
    from diffusion_lab.about import VERSION

    parser = Parser(
        prog=PROGRAM,
        description="Efficient diffusion models for vision: the course's map, lessons and models.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    parser.set_defaults(run=shows_help(parser), parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for command in COMMANDS:
        command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 1 found something, 2 an error)."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows '?'
    # Idle threads of torch sleep: spinning, they slow everything down where a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given, extra = _parser().parse_known_args(arguments)
    if extra:  # said with the usage of the command, not of the program
        given.parser.refuse(extra)
    try:
        status = given.run(given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EXPECTED as error:
        say_error(error)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
