"""How much code there is: lines without blanks, comments and docstrings.

python benchmarks/size.py [FILE or ROOM ...] [--json]        (of diffusion_lab; a table if none)
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "diffusion_lab"
DDIM = ("schedules", "forward", "denoisers", "walk", "grids", "samplers/ddim")
GOAL = "what DDIM stands on (goal 850)"
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lines(text: str) -> int:
    """Code lines of a Python text; a string that stands alone (a docstring) is no code."""
    words = [
        range(node.lineno, node.end_lineno + 1)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    held = {
        number
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in SILENT
        for number in range(token.start[0], token.end[0] + 1)
    }
    return len(held.difference(*words))


def count(place: str) -> int:
    """Code lines of a file (``walk``, ``walk.py``) or of all files of a room, of the package."""
    path = PACKAGE / place
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return sum(lines(file.read_text(encoding="utf-8")) for file in files)


def table() -> dict[str, int]:
    """What DDIM stands on and its files, the top modules together, and each room."""
    rows = {GOAL: sum(map(count, DDIM))} | {f"  {name}": count(name) for name in DDIM}
    rooms = sorted({path.parent.name for path in PACKAGE.glob("[a-z]*/*.py")})
    rows["the core: all top modules"] = sum(count(path.name) for path in PACKAGE.glob("*.py"))
    rows |= {f"{room}/": count(room) for room in rooms}
    return rows | {"all": count("")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="*", help="such as walk.py or samplers, in diffusion_lab")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    given = parser.parse_args()
    found = {place: count(place) for place in given.places} or table()
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{value:7,}  {name}" for name, value in found.items()))


if __name__ == "__main__":
    main()
