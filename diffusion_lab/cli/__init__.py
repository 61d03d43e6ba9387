"""The command line: ``diffusion-lab COMMAND``, and ``diffusion-lab COMMAND --help`` for each.

A command is one function that adds its parser and says what runs; ``COMMANDS`` lists them. What a
command needs is imported when it runs. Errors that a user can do something about go to stderr as
``diffusion-lab: error: ...`` with exit status 2; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from diffusion_lab.cli.base import PROGRAM, Parser, Subparsers, say_error, shows_help
from diffusion_lab.cli.bench import bench_command
from diffusion_lab.cli.doctor import doctor_command
from diffusion_lab.cli.lesson import lesson_command
from diffusion_lab.cli.plot import plot_command
from diffusion_lab.cli.sample import sample_command
from diffusion_lab.cli.survey import survey_command
from diffusion_lab.cli.train import train_command
from diffusion_lab.errors import CheckpointError, DataError

__all__ = ["COMMANDS", "EXPECTED", "main"]

EXPECTED = (ValueError, DataError, CheckpointError, FloatingPointError, OSError)
"""Errors whose message tells the user what to do."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

COMMANDS: tuple[Callable[[Subparsers], None], ...] = (
    survey_command,
    train_command,
    plot_command,
    sample_command,
    bench_command,
    lesson_command,
    doctor_command,
)
"""The commands, in the order of the help. A new one gets a file like theirs, ``cli/NAME.py``."""


def _parser() -> Parser:
    from diffusion_lab.about import VERSION

    parser = Parser(
        prog=PROGRAM,
        description="Efficient diffusion models for vision: the course's map, lessons and models.",
        epilog="Each COMMAND --help ends with examples. Completion in bash and zsh:\n\n"
        f'eval "$(register-python-argcomplete {PROGRAM})"',
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    parser.set_defaults(run=shows_help(parser), parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for command in COMMANDS:
        command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 1 found something, 2 an error)."""
    sys.stdout = sys.stdout or _nowhere()  # None where the shell closed it, as in >&-
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows '?'
    # Idle threads of torch sleep: spinning, they slow everything down where a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = sys.argv[1:] if arguments is None else list(arguments)
    rest = words.index("--") if words[:2] == ["lesson", "open"] and "--" in words else len(words)
    try:
        parser = _parser()
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(parser)
        given, extra = parser.parse_known_args(words[:rest])
        given.jupyter = words[rest + 1 :]
    except SystemExit:  # of --help and --version too, which print
        full = _no_room()
        if full is None:
            raise
        say_error(full)
        return 2
    if extra:  # said with the usage of the command, not of the program
        given.parser.refuse(extra)
    try:
        status = given.run(given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_stdout()
        return 0
    except EXPECTED as error:
        say_error(_no_room(error) or error)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _nowhere() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _drop_stdout() -> None:
    """What is still waiting to be printed goes nowhere, so that the end of Python does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _no_room(error: BaseException | None = None) -> str | None:
    """The error if stdout takes no more: what was printed in vain is then still waiting.

    Where nothing waits (python -u), an ``error`` of a full disk that names no file may be that of
    printing or of any other file: an empty line tells.
    """
    full, ambiguous = None, isinstance(error, OSError) and error.errno in NO_ROOM
    try:
        if ambiguous and error.filename is None:
            sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as waiting:
        full = waiting
    if full is None:
        return None
    _drop_stdout()
    return f"the answer could not be written to stdout ({full.strerror}): send it elsewhere"
