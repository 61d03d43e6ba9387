"""Lessons: one text source each, built into a learner's and a solution notebook.

People edit ``notebooks/source/NN_topic.py`` and nothing else. It is a percent-format script
(jupytext): ``# %% [markdown]`` and ``# %% name="..."`` start cells, and what a learner writes
stands between ``### BEGIN SOLUTION`` and ``### END SOLUTION`` (nbgrader's own marks)::

    # %% name="my-marginal"
    def my_marginal(x0, alpha, sigma, eps):
        ### BEGIN SOLUTION
        return alpha * x0 + sigma * eps
        ### END SOLUTION

    # %% name="check-marginal"
    check.marginal(my_marginal)

``build`` turns the region into ``...  # your turn`` for the learner (or into the commented lines
of a ``### BEGIN STUB`` / ``### END STUB`` block that follows it, for "find the bug"), puts the one
Colab cell after the opening text, replaces ``{{time}}`` by the measured time, runs both notebooks
and writes ``notebooks/NN_topic.ipynb`` and ``notebooks/solutions/NN_topic.ipynb``. The same source
gives the same files: cell ids come from lesson and cell name, and no time, widget state or
progress bar is stored. ``drift`` says where a stored notebook differs from its source.

Command: ``diffusion-lab lesson build [LESSON ...] [--check] [--level smoke]``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.course import bibliography
from diffusion_lab.course.cells import as_notebook, digest, tidy
from diffusion_lab.course.lessons import (
    KINDS,
    LEVEL_VARIABLE,
    LEVELS,
    PACKAGE,
    find,
    folder,
    measured,
    names,
    resolve,
    write_costs,
)
from diffusion_lab.course.linking import reader_time
from diffusion_lab.errors import unknown

__all__ = ["build", "convert", "drift", "execute", "imported", "source_text", "stale", "update"]

_IMPORT = re.compile(
    r"^[ \t]*(?:from|import) (diffusion_lab[\w.]*)(?: import (\([^)]*\)|[^\n#]*))?", re.MULTILINE
)


# ------------------------------------------------------------------------------------- converting
def convert(lesson: str | int, kind: str = "learner", home: Path | None = None) -> Any:
    """The notebook that a lesson's source describes, not yet run.

    Args:
        lesson: number or name.
        kind: ``learner`` (solutions replaced by stubs) or ``solution``.
        home: the folder that holds ``source/``; the course's own where none is given.

    Raises:
        ValueError: a solution region without an end, two cells of one name.
    """
    home = home or folder()
    name = resolve(lesson, home)
    text = source_text(name, home)
    time = f"{measured_time(name, home)}; {reader_time(text)}"
    return as_notebook(name, text, kind, time, names(home), home)


def source_text(name: str, home: Path) -> str:
    """The source of a lesson, line ends made ``\\n``."""
    path = home / "source" / f"{name}.py"
    if not path.is_file():
        raise FileNotFoundError(f"lesson {name} has no source: {path} does not exist")
    return path.read_text(encoding="utf-8").replace("\r\n", "\n")


def measured_time(name: str, home: Path) -> str:
    """The lesson's measured running time in words, from ``measured.json`` beside the lessons."""
    entry = measured(home).get(name)
    if entry is None:
        return "not measured yet"
    seconds = max(1, round(entry["seconds"]))
    words = f"about {seconds} s" if seconds < 100 else f"about {seconds / 60:.1f} minutes"
    return f"{words} of computing on {entry['cores']} CPU cores (measured)"


def imported(name: str, home: Path) -> str:
    """A hash of the package's files that a lesson imports, and of the list of its data.

    Stored with a built lesson, so that ``build`` without names makes again what has changed.
    """
    waiting, seen = [source_text(name, home)], {}
    while waiting:
        for word, names_ in _IMPORT.findall(waiting.pop()):
            for part in [word, *(f"{word}.{n}" for n in re.findall(r"\w+", names_))]:
                stem = PACKAGE.parent.joinpath(*part.split("."))
                for path in (stem.with_suffix(".py"), stem / "__init__.py"):
                    if path.is_file() and path not in seen:
                        seen[path] = path.read_text(encoding="utf-8")
                        waiting.append(seen[path])
    listed = [p / "index.json" for p in (PACKAGE / "_data", PACKAGE.parent / "data")]
    texts = [seen[path] for path in sorted(seen)]
    return digest("\0".join(texts + [p.read_text() for p in listed if p.is_file()]))


# ------------------------------------------------------------------------------------- running
def execute(notebook: Any, *, at: str = "live", patient: bool = True) -> Any:
    """Run a notebook in this environment's own kernel at a level, and tidy what it left.

    It runs in an empty temporary folder: a lesson must not depend on where it is. Raises
    ``nbclient.exceptions.CellExecutionError`` when a cell raises,
    ``nbclient.exceptions.CellTimeoutError`` when one takes more than 15 minutes, and
    KeyboardInterrupt on Ctrl-C, which nbclient would tell as the death of the kernel. Not
    ``patient``, it goes on after a cell that raises, and after one that takes two minutes.
    """
    from nbclient import NotebookClient

    if at not in LEVELS:
        raise unknown("level", at, LEVELS)
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    settings = {LEVEL_VARIABLE: at, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": path}
    if at == "smoke":  # pictures are few on purpose: metrics.fd need not say so
        settings["PYTHONWARNINGS"] = "ignore:FD of:UserWarning"
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    stopped: list[bool] = []

    def listen(**_: Any) -> None:
        task = asyncio.current_task()

        def stop() -> None:
            stopped.append(True)
            client.shutdown_kernel = "immediate"  # a graceful end prints a traceback of its own
            task.cancel()

        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, another thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop)

    with tempfile.TemporaryDirectory() as empty:
        client = NotebookClient(
            notebook,
            timeout=900 if patient else 120,
            allow_errors=not patient,
            interrupt_on_timeout=not patient,
            kernel_name="python3",
            record_timing=False,
            on_notebook_start=listen,
            resources={"metadata": {"path": empty}},
        )
        try:
            client.execute(env=os.environ | settings)
        except BaseException:
            if stopped:
                raise KeyboardInterrupt from None
            raise
    return tidy(notebook)


# ------------------------------------------------------------------------------------- building
def build(
    lesson: str | int, *, at: str = "live", home: Path | None = None, measure: bool = False
) -> list[Path]:
    """Convert, run and write both notebooks of a lesson; nothing is written if a cell raises.

    ``measure`` writes the learner's running time to ``measured.json`` again (done by itself the
    first time): by the clock, or the CPU time where that is less, since a machine that is busy
    with other things says nothing about the lesson. Returns the two paths.
    """
    import nbformat

    from diffusion_lab.files import write_atomically

    home = home or folder()
    name = resolve(lesson, home)
    made = {}
    for kind in KINDS:
        notebook = convert(name, kind, home)
        clock, used = time.perf_counter(), _used()
        made[kind] = execute(notebook, at=at)
        clock, used = time.perf_counter() - clock, _used() - used
        seconds = min(clock, used) if used > 1 else clock
        known = measured(home)
        made[kind].metadata.diffusion_lab["imports_sha256"] = imported(name, home)
        if kind == "learner" and at == "live" and (measure or name not in known):
            known[name] = {"seconds": round(seconds, 1), "cores": os.cpu_count(), "level": at}
            text = json.dumps(dict(sorted(known.items())), indent=1) + "\n"
            write_atomically(home / "measured.json", text.encode())
    paths = []
    for kind, notebook in made.items():
        for fresh, cell in zip(convert(name, kind, home).cells, notebook.cells, strict=True):
            cell.source = fresh.source  # the time may just have been measured
        path = find(name, kind, home)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())
        paths.append(path)
    table = home.parent / "benchmarks"
    if at != "smoke" and table.is_dir():
        write_costs(table, home)  # the running table: what all built lessons say
    return paths


def _used() -> float:
    """CPU seconds of all kernels that have ended (0 where the system does not count them)."""
    spent = os.times()
    return spent.children_user + spent.children_system


def drift(lesson: str | int, home: Path | None = None) -> list[str]:
    """Where the stored notebooks of a lesson differ from its source; empty when they agree."""
    import nbformat

    home = home or folder()
    name = resolve(lesson, home)
    found = []
    for kind in KINDS:
        path = find(name, kind, home)
        if not path.is_file():
            found.append(f"{kind}: {path.name} is not built")
            continue
        stored, fresh = nbformat.read(path, as_version=4), convert(name, kind, home)
        where = f"{kind} {name}"
        stored.metadata.get("diffusion_lab", {}).pop("imports_sha256", None)
        stored.metadata.pop("language_info", None)  # which Python ran it
        if stored.metadata != fresh.metadata:
            found.append(f"{where}: built from another source (its hash or metadata differs)")
        if len(stored.cells) != len(fresh.cells):
            found.append(f"{where}: {len(stored.cells)} cells, the source has {len(fresh.cells)}")
        for index, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=False)):
            for key in ("id", "cell_type", "source", "metadata"):
                if old[key] != new[key]:
                    found.append(f"{where}: cell {index} ({new.metadata.name}): {key} differs")
            if old.cell_type == "code" and old.execution_count is None:
                found.append(f"{where}: cell {index} ({new.metadata.name}) was not run")
    return found


def stale(lesson: str | int, home: Path | None = None) -> bool:
    """Whether a lesson's source, or what it imports, has changed since it was built."""
    home = home or folder()
    name = resolve(lesson, home)
    if drift(name, home):
        return True
    built = json.loads(find(name, home=home).read_text(encoding="utf-8"))["metadata"]
    return built["diffusion_lab"].get("imports_sha256") != imported(name, home)


def update(
    words: Sequence[str] = (), *, at: str = "live", check: bool = False, measure: bool = False
) -> int:
    """Build lessons, those that have changed where none is named, and print what was done.

    ``check`` only says where a stored notebook differs. Returns 1 if one does, else 0.
    """
    status = 0
    for name in [resolve(word) for word in words] or names():
        if check:
            found = drift(name)
            status |= bool(found)
            print("\n".join(found) or f"{name}: agrees with its source")
        elif not (words or stale(name)):
            print(f"{name}: nothing has changed")
        else:
            start = time.perf_counter()
            build(name, at=at, measure=measure)
            print(f"{name}: both notebooks built in {time.perf_counter() - start:.0f} s")
    if not check:
        bibliography.write()
    return status
