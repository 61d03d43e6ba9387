"""The command ``lesson``: lessons are listed, opened, checked, exported, built and assigned."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from diffusion_lab.cli.base import (
    PROGRAM,
    Subparsers,
    add,
    add_json,
    laid_out,
    make_folder,
    names,
    shows_help,
    writable,
)

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


def _ready() -> dict[str, float | None]:
    """The numbers of the lessons whose notebook is there, with the minutes each runs."""
    from diffusion_lab.course import lessons

    try:
        minutes = lessons.minutes()
        return {name[:2]: minutes.get(name) for name in lessons.ready()}
    except FileNotFoundError:
        return {}


def _lesson_list(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab lesson list
    diffusion-lab lesson list --json
    """
    from diffusion_lab.course import survey

    ready, told = _ready(), ("number", "title", "question")
    lessons = [
        {name: getattr(one, name) for name in told}
        | {"ready": one.number in ready, "minutes": ready.get(one.number)}
        for one in survey.lessons()
    ]
    if given.json:
        print(json.dumps(lessons, indent=2))
        return 0
    rows = []
    for number, title, question, is_ready, minutes in map(dict.values, lessons):
        state, time = "ready" if is_ready else "planned", f"{minutes} min" if minutes else ""
        rows.append((number, state, time, title, question))
    print(laid_out(rows, right=(2,)))
    return 0


def _folder(home: Path) -> Path:
    """``my``: in the repository, or in the current folder where the course is installed."""
    return (Path.cwd() if home.name == "_notebooks" else home.parent) / "my"


def _working_copy(number: str, reset: bool = False) -> Path:
    """The copy of a lesson to work in, made where it is missing; so are those of the others, which
    its links lead to.

    A copy that was changed is never replaced: ``reset`` puts it beside the new one. One that is as
    it was made follows the lesson.
    """
    from diffusion_lab.files import sha256, write_atomically

    found = _notebook(number)
    mine = _folder(found.parent)
    record = mine / ".made.json"  # sha256 of each copy as it was made
    made: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        made = json.loads(record.read_text())
    for original in sorted(found.parent.glob("[0-9][0-9]_*.ipynb")):
        copy, name = mine / original.name, original.stem
        if copy.exists():
            changed = made.get(copy.name) != sha256(copy)
            if reset and original == found:
                names = (f"{name}.old{i}.ipynb" for i in itertools.count(1))
                kept = copy.rename(next(p for p in map(copy.with_name, names) if not p.exists()))
                print(f"what was {copy.name} is now {kept.name}", file=sys.stderr)
            elif changed or _source(copy) == _source(original):
                if original == found and _source(copy) not in (None, _source(original)):
                    print(
                        f"lesson {name[:2]} has a newer version than your copy, which is kept. "
                        f"For the new one: {PROGRAM} lesson open {name[:2]} --reset (yours stays "
                        "beside it)",
                        file=sys.stderr,
                    )
                continue
        write_atomically(copy, original.read_bytes())
        made[copy.name] = sha256(copy)
        write_atomically(record, json.dumps(made, indent=1).encode())
    for page in found.parent.glob("*.md"):  # notation and such, where the lessons' links look
        write_atomically(mine / page.name, page.read_bytes())
    return mine / found.name


def _source(notebook: Path) -> str | None:
    """Which source a notebook was built from; None where it does not say."""
    try:
        about = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["diffusion_lab"]
        return about["source_sha256"]
    except (ValueError, KeyError, TypeError):
        return None


def _jupyter(notebook: Path) -> list[str]:
    """The command that opens a working copy in JupyterLab without asking the network for anything.

    Its file browser shows the repository, or the folder that ``my`` is in.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise ValueError(
            "JupyterLab is not installed in this environment: "
            f"{Path(sys.executable).name} -m pip install jupyterlab"
        )
    top = notebook.parent.parent
    options = [
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
        f"--ServerApp.root_dir={top}",
        f"--LabApp.default_url=/lab/tree/{quote(notebook.relative_to(top).as_posix())}",
    ]
    return [sys.executable, "-m", "jupyterlab", *options]


def _lesson_open(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab lesson open 05
    diffusion-lab lesson open 05 --reset
    diffusion-lab lesson open 05 --no-browser -- --port 9999 --allow-root
    """
    if given.print_path:
        print(_notebook(given.number))
        return 0
    path = _working_copy(given.number, given.reset)
    if given.no_open:
        print(path)
        return 0
    command = [*_jupyter(path), *["--no-browser"] * given.no_browser, *given.jupyter]
    environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}
    with contextlib.ExitStack() as after:  # Ctrl-C is JupyterLab's to answer
        after.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, lambda *_: None))
        status = subprocess.run(command, env=environment, check=False).returncode
    if status and getattr(os, "geteuid", lambda: 1)() == 0 and "--allow-root" not in command:
        print(f"As root: {PROGRAM} lesson open {given.number} -- --allow-root", file=sys.stderr)
    return status


def _lesson_check(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab lesson check 05
    diffusion-lab lesson check 05 --file my/05_jumping.old1.ipynb
    """
    if importlib.util.find_spec("nbclient") is None:
        raise ValueError("a notebook is run by nbclient, which is not here: pip install nbclient")
    from diffusion_lab.course.checks import OPEN, RIGHT, WRONG
    from diffusion_lab.course.score import score

    lesson = _notebook(given.number)
    mine = Path(given.file or _folder(lesson.parent) / lesson.name)
    if not mine.is_file():
        raise ValueError(f"{mine} is not there: '{PROGRAM} lesson open {lesson.name[:2]}' makes it")
    print(f"running {mine} at the level smoke", file=sys.stderr)
    found = score(mine, lesson)
    if given.json:
        rows = [{"task": k, "status": s, "message": m} for k, (s, m) in found.items()]
        print(json.dumps(rows, indent=2))
    else:
        print(laid_out([(s, task, m if s == WRONG else "") for task, (s, m) in found.items()]))
        n = {one: sum(s == one for s, _ in found.values()) for one in (RIGHT, WRONG, OPEN)}
        print(f"{n[RIGHT]} of {len(found)} right, {n[WRONG]} not yet, {n[OPEN]} not attempted")
    return int(any(status != RIGHT for status, _ in found.values()))


def _lesson_build(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab lesson build
    diffusion-lab lesson build 05 --check
    """
    from diffusion_lab.course import building

    return building.update(given.numbers, at=given.level, check=given.check, measure=given.measure)


def _lesson_export(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab lesson export 05
    diffusion-lab lesson export 05 --out page.html
    """
    if importlib.util.find_spec("nbconvert") is None:
        raise ValueError("a notebook is exported by nbconvert, which is not here: pip install it")
    from diffusion_lab.course.exporting import export

    found = _notebook(given.number)
    out = writable(given.out or f"{found.stem}.html", ".html", "--out")
    make_folder(out)
    export(found.stem, out)
    print(f"wrote {out}")
    return 0


def _lesson_assign(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab lesson assign 05 --course autumn --seed 7
    """
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
    words = "List, open, check, export, build or assign the lessons."
    told = "Each ACTION --help ends with examples."
    parser = commands.add_parser("lesson", help=words, description=words, epilog=told)
    parser.set_defaults(run=shows_help(parser), parser=parser)
    actions = parser.add_subparsers(metavar="ACTION")
    summary = "List the lessons: the question of each, and minutes on two CPU cores."
    add_json(add(actions, "list", _lesson_list, summary))
    opening = add(
        actions,
        "open",
        _lesson_open,
        "Open your copy of a lesson in JupyterLab. Copies lie in the folder my (at the top of the "
        "repository, else in the current folder), are made where they are missing, and kept.",
    )
    _number(opening)
    opening.add_argument("--reset", action="store_true", help="a new copy; the old one is kept too")
    alone = opening.add_mutually_exclusive_group()
    for option, words in (
        ("--no-open", "make the copy and print its path; start nothing"),
        ("--print-path", "print where the lesson lies; copy nothing"),
        ("--no-browser", "start JupyterLab and print its address only"),
    ):
        alone.add_argument(option, action="store_true", help=words)
    checking = add(
        actions,
        "check",
        _lesson_check,
        "Run your copy of a lesson and say which of its exercises are right (status 1 unless all "
        "are). The file itself is not changed.",
    )
    _number(checking)
    checking.add_argument("--file", metavar="IPYNB", help="this notebook, and not the copy in my")
    add_json(checking)
    exporting = add(
        actions,
        "export",
        _lesson_export,
        "Write a lesson with its outputs as one HTML page, in which every figure has its alt text.",
    )
    _number(exporting)
    exporting.add_argument("--out", metavar="HTML", help="the file; NN_topic.html if not given")
    building = add(
        actions,
        "build",
        _lesson_build,
        "Build and run the notebooks from their sources (in the repository).",
    )
    building.add_argument("numbers", nargs="*", metavar="NN", help="lessons; all if none is given")
    words = "only say where a notebook differs; status 1 if any"
    building.add_argument("--check", action="store_true", help=words)
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


def _number(parser: argparse.ArgumentParser) -> None:
    words = {"nargs": "?", "default": "00", "help": "00 to 24; 00 if not given"}
    parser.add_argument("number", **words).completer = names("diffusion_lab.cli.lesson:_ready")
