"""What all commands share: how a command is added, how it refuses, and checks of what was given."""

from __future__ import annotations

import argparse
import inspect
import os
import pkgutil
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from diffusion_lab.errors import did_you_mean
from diffusion_lab.files import check_replaceable

__all__ = [
    "PROGRAM",
    "Parser",
    "Run",
    "Subparsers",
    "add",
    "add_json",
    "laid_out",
    "linked",
    "make_folder",
    "names",
    "say_error",
    "shows_help",
    "width",
    "writable",
]

PROGRAM = "diffusion-lab"
Subparsers = Any  # argparse has no public name for what add_subparsers returns
Run = Callable[[argparse.Namespace], int]


def say_error(message: object) -> None:
    """One line on stderr that begins with the program's name."""
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)


class _Help(argparse.HelpFormatter):
    """What is to be typed stands as it is, a command a line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        typed = (PROGRAM, "eval ")
        return "\n\n".join(
            textwrap.indent(p, "  ") if p.startswith(typed) else fill(p, width, indent)
            for p in text.split("\n\n")
        )


def names(place: str) -> Callable[..., list[str]]:
    """What a shell completes: the names in ``module:NAME``, a collection or a function giving one.

    It is imported when somebody asks for it.
    """

    def complete(**_: object) -> list[str]:
        found = pkgutil.resolve_name(place)
        return [getattr(one, "name", one) for one in (found() if callable(found) else found)]

    return complete


def width() -> int | None:
    """Columns of the terminal, or of the variable COLUMNS; None where a file or pipe is written."""
    shown = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return shutil.get_terminal_size().columns if shown else None


def laid_out(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in columns, those of ``right`` to the right; the last one wraps to the width."""
    spans = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    left = sum(spans) + 2 * len(spans)
    lines = []
    for *cells, last in rows:
        padded = [
            c.rjust(n) if i in right else c.ljust(n) for i, (c, n) in enumerate(zip(cells, spans))
        ]
        room = max(20, (width() or 10**6) - left)
        text = textwrap.wrap(last, room, break_on_hyphens=False) or [""]
        lines += ["  ".join([*padded, text[0]]).rstrip(), *(" " * left + more for more in text[1:])]
    return "\n".join(lines)


def linked(text: str) -> str:
    """On a terminal, arXiv numbers that can be clicked (OSC 8)."""
    link = "\033]8;;https://arxiv.org/abs/\\g<0>\033\\\\\\g<0>\033]8;;\033\\\\"
    return re.sub(r"\b\d{4}\.\d{5}\b", link, text) if sys.stdout.isatty() else text


class Parser(argparse.ArgumentParser):
    """A parser whose errors look like those of the commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help} | options)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        hint = did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""
        say_error(message + (f".{hint}" if hint else ""))
        raise SystemExit(2)

    def refuse(self, extra: Sequence[str]) -> NoReturn:
        """The error for words that the command has no place for."""
        hint = did_you_mean(extra[0], self._option_string_actions)
        self.error(f"unrecognized arguments: {' '.join(extra)}" + (f".{hint}" if hint else ""))


def add(commands: Subparsers, name: str, run: Run, summary: str, epilog: str = "") -> Parser:
    """Add a command that calls ``run(arguments) -> exit status``; returns its parser.

    The help ends with ``epilog`` and with the docstring of ``run``, which shows examples.
    """
    words = "\n\n".join(filter(None, (epilog, inspect.getdoc(run))))
    parser = commands.add_parser(name, help=summary, description=summary, epilog=words)
    parser.set_defaults(run=run, parser=parser)
    return parser


def shows_help(parser: Parser) -> Run:
    """What a program or command runs that was given no command of its own: its help, status 0."""

    def run(given: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    return run


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that every command has whose answer a script may want to read."""
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def writable(path: str | None, suffix: str, option: str) -> Path | None:
    """The file that ``option`` names, if it can be written; looked at before anything is computed.

    ``~`` is the home folder. Raises ValueError for another suffix and OSError for a folder or a
    device in the way, a read-only file or a folder without permission. None stays None.
    """
    if path is None:
        return None
    file = Path(os.path.expanduser(path))
    if file.suffix.lower() != suffix:
        raise ValueError(f"{option} must end in {suffix}; got {path!r}")
    if os.path.isdir(file):  # Path.is_dir raises where a folder above cannot be read
        raise IsADirectoryError(f"{option}: {file} is a folder; name a file in it")
    folder = file.absolute().parent
    while not os.path.exists(folder):
        folder = folder.parent
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"{option}: {folder} is a file, where a folder is needed")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{option}: {folder} is not yours to write to; choose another folder")
    check_replaceable(file)
    return file


def make_folder(file: Path) -> None:
    """Make the folder that a file is to lie in, and say on stderr that it was not there."""
    folder = file.parent
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"made the folder {folder}", file=sys.stderr)
