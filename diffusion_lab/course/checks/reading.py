"""The text of a learner's function: whether it is filled in, and whether it was changed."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from typing import Any

__all__ = ["complete", "edited"]


def complete(answer: Any) -> bool:
    """Whether a function can be read and has no `...` left to be filled in."""
    text = _written(answer)
    return text is not None and not any(
        isinstance(node, ast.Constant) and node.value is ... for node in ast.walk(text)
    )


def edited(answer: Any, module: str) -> bool:
    """Whether both texts can be read, the learner's and the one that was found, and differ."""
    text = _written(answer)
    found = None if text is None else _found(module, text.name)
    return found is not None and ast.dump(found) != ast.dump(text)


def _definition(text: str, name: str) -> ast.FunctionDef | None:
    """The function of that name in a piece of code; None where there is none, or no Python."""
    try:
        nodes = ast.walk(ast.parse(textwrap.dedent(text)))
    except SyntaxError:
        return None
    return next((n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == name), None)


def _written(answer: Any) -> ast.FunctionDef | None:
    """The text of a learner's function, parsed; None where it cannot be read (a lambda)."""
    try:
        return _definition(inspect.getsource(answer), answer.__name__)
    except (OSError, TypeError, AttributeError):
        return None


def _found(module: str, name: str) -> ast.FunctionDef | None:
    """A function as the learner finds it: in the lesson's source, else in its packaged notebook."""
    from diffusion_lab.course import building, cells, lessons

    number = re.search(r"lesson(\d\d)$", module)
    if number is None:
        return None
    try:
        home = lessons.folder()
        lesson = lessons.resolve(number[1], home)
        if (home / "source" / f"{lesson}.py").is_file():  # the notebook there may hold an answer
            parts = re.split(r"(?m)^# %%.*\n", building.source_text(lesson, home))
        else:
            notebook = json.loads(lessons.find(lesson, home=home).read_text(encoding="utf-8"))
            parts = ["".join(cell["source"]) for cell in notebook["cells"]]
        parts = [part for part in parts if f"def {name}(" in part]
        return next(filter(None, (_definition(cells.for_learner(p), name) for p in parts)), None)
    except (OSError, ValueError):
        return None
