"""What a row of the map claims, held against what there is: symbols, lesson sections and tests."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.course.survey import ROOT, STATES, Row

__all__ = ["verify"]


def verify(row: Row, root: Path | None = None) -> list[str]:
    """What is wrong with a row's claims; empty when the row has earned its state.

    Args:
        row: the row to check.
        root: the repository, where ``notebooks/source`` and ``tests`` lie; found by itself.
    """
    root = ROOT if root is None else root
    named = {"symbols": row.symbols, "section": row.section, "tests": row.tests}
    if row.state not in STATES:
        return [f"state {row.state!r} is none of {', '.join(STATES)}"]
    if row.state == "planned":
        return [f"a planned row names no {what}" for what, value in named.items() if value]
    problems = []
    if row.state == "working":
        problems += [
            f"a working row names its {what}" for what, value in named.items() if not value
        ]
    elif not row.symbols:
        problems.append("a partial row names at least one of its symbols")
    if not (root / row.file).is_file():
        problems.append(f"there is no file {row.file}")
    checks = [_symbol_problem(symbol) for symbol in row.symbols]
    checks += [_section_problem(row, root)] if row.section else []
    checks += [_test_problem(test, root) for test in row.tests]
    return problems + [problem for problem in checks if problem]


def _symbol_problem(symbol: str) -> str | None:
    module, colon, name = symbol.partition(":")
    if not (module and colon and name):
        return f"symbol {symbol!r} is not of the form 'module:name'"
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        return f"symbol {symbol!r}: cannot import {module} ({error})"
    for part in name.split("."):
        if not hasattr(found, part):
            return f"symbol {symbol!r}: {module} has no {name}"
        found = getattr(found, part)
    return None


def _headings(source: str) -> list[str]:
    """The headings of the markdown cells of a lesson in percent format."""
    found, markdown = [], False
    for line in source.splitlines():
        if line.startswith("# %%"):
            markdown = "[markdown]" in line
        elif markdown:
            hit = re.match(r"(?:# ?)?(#{1,6})\s+(.+?)\s*#*$", line)
            if hit:
                found.append(hit[2])
    return found


def _section_problem(row: Row, root: Path) -> str | None:
    elsewhere = re.fullmatch(r"(\d\d)/(.+)", row.section)
    number, heading = elsewhere.groups() if elsewhere else (row.lesson, row.section)
    sources = sorted((root / "notebooks" / "source").glob(f"{number}_*.py"))
    if not sources:
        return f"section {heading!r}: lesson {number} has no source file"
    if heading not in _headings(sources[0].read_text(encoding="utf-8")):
        return f"section {heading!r}: no such heading in {sources[0].name}"
    return None


def _skipped(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    marks = (one.func if isinstance(one, ast.Call) else one for one in node.decorator_list)
    return any(isinstance(one, ast.Attribute) and one.attr in {"skip", "xfail"} for one in marks)


def _test_problem(test: str, root: Path) -> str | None:
    file, *names = test.split("[")[0].split("::")
    path = root / file
    if not names:
        return f"test {test!r} is not of the form 'tests/test_x.py::test_name'"
    if not path.is_file():
        return f"test {test!r}: there is no file {file}"
    body: Sequence[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for name in names:
        hit = next((one for one in body if isinstance(one, kinds) and one.name == name), None)
        if hit is None:
            return f"test {test!r}: {file} has no {name}"
        if _skipped(hit):
            return f"test {test!r}: {name} is skipped or expected to fail"
        body = hit.body
    if not names[-1].startswith("test"):
        return f"test {test!r}: {names[-1]} would not be collected (no 'test' in front)"
    return None
