"""The classic slips of diffusion code, put into the package one by one: does a test notice each?

    python -m tests.mutation              all of them, two at a time; writes tests/mutants.md
    python -m tests.mutation -k frechet   those whose file, slip or test holds this word
    python -m tests.mutation --list       names them and runs nothing

``mutants.toml`` lists them. The package on the disk is never touched: a mutant lives in a process
of its own, forked from one that has imported torch but not the package, whose import of the one
changed file is given the changed text. Only the named test runs there.

killed     the test fails, as it must
survived   it passes: the test does not hold what it seems to hold
broken     the change does not run (it is no Python, the test is not found, a name is misspelt),
           which proves nothing

Exit status 0 if all are killed, 1 if not. All named tests are run on the package as it is first.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("mutants.toml")
REPORT = Path(__file__).with_name("mutants.md")
SECONDS = 180.0  # after which a mutant is taken to hang
CARELESS = {"NameError", "SyntaxError", "ImportError", "AttributeError", "TypeError"}
ENVIRONMENT = {  # of tests/conftest.py; here too, because torch is imported before it
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
HEAVY = (
    "numpy",
    "torch",
    "pytest",
    "safetensors.torch",
    "torch.nn.attention",
    "torch.utils.flop_counter",
    "sklearn.datasets",
    "scipy.linalg",
    "accelerate",
    "PIL.Image",
)


@dataclass(frozen=True)
class Mutant:
    """In ``file``, ``right`` (found exactly once) becomes ``wrong``; ``test`` must fail on it."""

    slip: str
    file: str
    right: str
    wrong: str
    test: str

    def changed(self, root: Path = ROOT) -> str:
        """The file with the slip in it. ValueError where the text is not there exactly once."""
        text = (root / self.file).read_text(encoding="utf-8")
        found = text.count(self.right)
        if found != 1:
            raise ValueError(
                f"{self.slip!r}: {self.file} holds {self.right!r} {found} times, not once: "
                f"bring its entry in {LIST.name} up to date"
            )
        return text.replace(self.right, self.wrong)

    def missing_test(self, root: Path = ROOT) -> str | None:
        """What is wrong with the named test, or None: ``FILE::FUNCTION`` or ``...[PARAMETERS]``."""
        file, _, name = self.test.partition("::")
        path = root / "tests" / file
        if not path.is_file():
            return f"there is no tests/{file}"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        name = name.partition("[")[0]
        return None if name in names else f"tests/{file} has no function {name!r}"


def read(path: Path = LIST) -> list[Mutant]:
    """The listed mutants, in order. ValueError for an entry with other fields, or listed twice."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    fields = set(Mutant.__dataclass_fields__)
    for entry in entries:
        if set(entry) != fields:
            raise ValueError(f"{entry.get('slip', entry)!r} must have exactly {sorted(fields)}")
    mutants = [Mutant(**entry) for entry in entries]
    slips = [m.slip for m in mutants]
    twice = sorted({slip for slip in slips if slips.count(slip) > 1})
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}")
    return mutants


# ---- in the forked process ----------------------------------------------------------------------
class _Loader(SourceFileLoader):
    """Loads one module from the text it is given, and leaves no bytecode behind."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        return self.text


class _Overlay(importlib.abc.MetaPathFinder):
    """Finds the changed module before the import system finds the one on the disk."""

    def __init__(self, file: Path, text: str) -> None:
        parts = file.relative_to(ROOT).with_suffix("").parts
        self.package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.package else parts)
        self.file, self.text = file, text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        loader = _Loader(fullname, str(self.file), self.text)
        inside = [str(self.file.parent)] if self.package else None
        return importlib.util.spec_from_file_location(
            fullname, self.file, loader=loader, submodule_search_locations=inside
        )


class _Watch:
    """A pytest plugin that keeps the first error: the names of its classes and its first line."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.line = ""

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.excinfo is not None and not self.kinds:
            self.kinds = [kind.__name__ for kind in call.excinfo.type.__mro__]
            lines = str(call.excinfo.value).strip().splitlines()
            self.line = lines[0] if lines else ""


def _run_here(tests: Sequence[str], mutant: Mutant | None) -> dict[str, Any]:
    """Run tests in this process, with the mutant's file in place of the package's."""
    import pytest

    sys.dont_write_bytecode = True
    os.chdir(ROOT)
    if mutant is not None:
        sys.meta_path.insert(0, _Overlay(ROOT / mutant.file, mutant.changed()))
    watch = _Watch()
    nodes = [str(ROOT / "tests" / test) for test in tests]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--rootdir", str(ROOT)]
    status = int(pytest.main([*options, *nodes], plugins=[watch]))
    return {"status": status, "kinds": watch.kinds, "line": watch.line}


def _fork(tests: Sequence[str], mutant: Mutant | None, out: Path) -> int:
    """Start a process that runs tests and leaves its findings in ``out``; returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        return number
    try:
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        out.write_text(json.dumps(_run_here(tests, mutant)), encoding="utf-8")
    except BaseException as error:
        out.write_text(json.dumps({"status": -1, "kinds": [], "line": repr(error)}))
    finally:
        os._exit(0)


# ---- in the process that forks ------------------------------------------------------------------
@dataclass(frozen=True)
class Finding:
    """What became of a mutant: killed, survived or broken; and the error that showed it."""

    mutant: Mutant
    state: str
    how: str
    seconds: float


def judge(found: dict[str, Any]) -> tuple[str, str]:
    """(state, how) from what a process left: pytest's exit status and the first error."""
    status, kinds = found["status"], found["kinds"]
    how = kinds[0] if kinds else found["line"]
    if status == 0:
        return "survived", "no test failed"
    if status == 1 and not CARELESS & set(kinds):
        return "killed", how
    why = {2: "the tests cannot be imported", 4: "no such test", 5: "no such test"}
    return "broken", why.get(status, f"{how}: {found['line']}")


def run(mutants: Sequence[Mutant], workers: int = 2) -> Iterator[Finding]:
    """Each mutant in a process of its own, ``workers`` at a time; findings as they come."""
    waiting = list(enumerate(mutants))
    running: dict[int, tuple[Mutant, Path, float]] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        while waiting or running:
            while waiting and len(running) < workers:
                i, mutant = waiting.pop(0)
                out = Path(folder) / f"{i}.json"
                number = _fork([mutant.test], mutant, out)
                running[number] = (mutant, out, time.monotonic())
            time.sleep(0.02)
            for number, (mutant, out, begin) in list(running.items()):
                ended = os.waitpid(number, os.WNOHANG)[0] == number
                taken = time.monotonic() - begin
                if not ended and taken > SECONDS:
                    os.kill(number, signal.SIGKILL)
                    os.waitpid(number, 0)
                    yield Finding(mutant, "broken", f"no end after {SECONDS:g} s", taken)
                elif ended and out.is_file():
                    state, how = judge(json.loads(out.read_text(encoding="utf-8")))
                    yield Finding(mutant, state, how, taken)
                elif ended:
                    yield Finding(mutant, "broken", "its process died", taken)
                else:
                    continue
                del running[number]


def passes(mutants: Sequence[Mutant]) -> str | None:
    """Run the named tests on the package as it is: None if all pass, else what pytest said."""
    tests = sorted({m.test for m in mutants})
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        out = Path(folder) / "all.json"
        os.waitpid(_fork(tests, None, out), 0)
        if json.loads(out.read_text(encoding="utf-8"))["status"] == 0:
            return None
        return out.with_suffix(".log").read_text(encoding="utf-8", errors="replace")


def report(findings: Sequence[Finding]) -> str:
    """A table in Markdown, in the order of the list and without times: the same on every run."""
    killed = sum(f.state == "killed" for f in findings)
    lines = [
        "# Mutants",
        "",
        "The classic slips of diffusion code, each put into the package alone, and the test that",
        "notices it. Listed in `mutants.toml`; written by `make mutants`.",
        "",
        f"{killed} of {len(findings)} killed.",
        "",
        "| file | slip | test | result |",
        "|---|---|---|---|",
    ]
    for f in findings:
        cells = (
            f"`{f.mutant.file.removeprefix('diffusion_lab/')}`",
            f.mutant.slip,
            f"`{f.mutant.test}`",
            f"{f.state} ({f.how})",
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the list, or a part of it; see the top of this file."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m tests.mutation", None, __doc__, formatter_class=plain
    )
    parser.add_argument("-k", default="", metavar="WORD", help="only those that hold this word")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--list", action="store_true", help="name them and stop")
    given = parser.parse_args(arguments)
    word = given.k.lower()
    mutants = [m for m in read() if word in f"{m.file} {m.slip} {m.test}".lower()]
    if not mutants:
        parser.error(f"no mutant holds {given.k!r}")
    if given.list:
        print("\n".join(f"{m.file}: {m.slip}" for m in mutants))
        return 0
    stale = [why for m in mutants for why in (m.missing_test(),) if why]
    for m in mutants:
        try:
            m.changed()
        except (ValueError, OSError) as error:
            stale.append(str(error))
    if stale:
        parser.error("\n  ".join(["the list does not fit the package:", *stale]))
    if not hasattr(os, "fork"):
        parser.error("this system cannot fork a process: run it on Linux, macOS or WSL")
    os.environ.update(ENVIRONMENT)
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    begin = time.monotonic()
    wrong = passes(mutants)
    if wrong is not None:
        print(wrong)
        print("a named test fails on the package as it is: nothing can be said of mutants")
        return 1
    print(f"all named tests pass on the package as it is ({time.monotonic() - begin:.0f} s)")
    found: dict[Mutant, Finding] = {}
    for f in run(mutants, max(given.workers, 1)):
        found[f.mutant] = f
        line = f"{f.state:8}  {len(found):3}/{len(mutants)}  {f.seconds:5.1f} s  {f.mutant.slip}"
        line += "" if f.state == "killed" else f"  [{f.how}; {f.mutant.test}]"
        print(line, flush=True)
    findings = [found[m] for m in mutants]
    bad = [f for f in findings if f.state != "killed"]
    print(
        f"{len(findings) - len(bad)} of {len(findings)} killed in {time.monotonic() - begin:.0f} s"
    )
    if not word:
        REPORT.write_text(report(findings), encoding="utf-8")
        print(f"report: {REPORT.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
