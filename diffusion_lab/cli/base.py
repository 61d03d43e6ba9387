"""What all commands share: how a command is added, how it refuses, and checks of what was given."""

from __future__ import annotations

import argparse
import os
import re
import sys
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
    "make_folder",
    "say_error",
    "shows_help",
    "writable",
]

PROGRAM = "diffusion-lab"
Subparsers = Any  # argparse has no public name for what add_subparsers returns
Run = Callable[[argparse.Namespace], int]


def say_error(message: object) -> None:
    """One line on stderr that begins with the program's name."""
    print(f"{PROGRAM}: error: {message}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """A parser whose errors look like those of the commands."""

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


def add(commands: Subparsers, name: str, run: Run, summary: str, **more: Any) -> Parser:
    """Add a command that calls ``run(arguments) -> exit status``; returns its parser."""
    parser = commands.add_parser(name, help=summary, description=summary, **more)
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
