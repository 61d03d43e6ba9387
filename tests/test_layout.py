"""The house: which way imports point, how random numbers are drawn, how long it is."""

from __future__ import annotations

import ast
import importlib.util
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffusion_lab"
TREES = {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}
FAMILIES = {
    *("samplers", "scheduling", "scores", "noise", "discrete", "bridges", "latent", "pyramid"),
    *("guidance", "restoration", "video", "distillation", "mixing", "retrieval", "words"),
}
ROOFS = {"course", "cli"}  # import all, and nothing below imports them


def named(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {named(file) for file in TREES}


def at_import(tree: ast.AST):
    """The nodes that run when a module is imported: no functions, nothing for type checkers."""
    for node in ast.iter_child_nodes(tree):
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from at_import(node)


def imports(nodes) -> set[str]:
    """The modules of the package that import statements name."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (full & MODULES) or {node.module}
    return names & MODULES


def test_arrows_point_one_way():
    """An import inside a function is an arrow too."""
    wrong = []
    for file, tree in TREES.items():
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imports(ast.walk(tree)):
            to = f"{name}.".split(".")[1]
            core = room not in FAMILIES | ROOFS
            allowed = {"samplers", "guidance"} if room == "generate" else set()
            if (to in ROOFS and room not in ROOFS) or (core and to in FAMILIES - allowed):
                wrong.append(f"{named(file)} imports {name}")
    assert not wrong


def test_no_module_is_imported_in_a_circle():
    """When Python imports: what a function imports when it runs is an arrow, but no circle."""
    graph = {}
    for file, tree in TREES.items():
        # for those outside of it, a package comes before its modules
        own, needed = named(file), imports(at_import(tree))
        parents = {".".join(n.split(".")[:i]) for n in needed for i in range(2, n.count(".") + 1)}
        graph[own] = {n for n in needed | parents if n != own and not own.startswith(f"{n}.")}
    TopologicalSorter(graph).prepare()  # graphlib.CycleError names the circle


# ---- random numbers -----------------------------------------------------------------------------
@pytest.mark.parametrize("file", TREES, ids=named)
def test_draws_do_not_follow_the_default_device_and_dtype(file):
    """Numbers come from a generator on the CPU, whatever torch.set_default_* of the user say."""
    wrong = []
    for node in ast.walk(TREES[file]):
        call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if call in ("torch.randn", "torch.rand", "torch.randint", "torch.randperm"):
            given = {word.arg for word in node.keywords}
            wanted = {"generator", "device"}
            wanted |= {"dtype"} if call in ("torch.randn", "torch.rand") else set()
            if not wanted <= given:
                wrong.append(f"line {node.lineno}: {call} without {', '.join(wanted - given)}")
    assert not wrong


# ---- how long it is -----------------------------------------------------------------------------
def test_lines_are_counted_without_words():
    spec = importlib.util.spec_from_file_location("size", ROOT / "benchmarks" / "size.py")
    size = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(size)
    text = (
        '"""Two\nlines."""\n\nx = [  # one\n    1,\n\n]\n# none\nx\n"""Of x."""\ns = """a\n\nb"""\n'
    )
    assert size.lines(text) == 3 + 1 + 3
    one = size.lines((PACKAGE / "files.py").read_text())
    assert size.count("files") == size.count("files.py") == one
    found = size.table()
    assert found["all"] == sum(size.lines(file.read_text()) for file in TREES)
    assert found[size.GOAL] == sum(found[f"  {name}"] for name in size.DDIM)
    assert found["all"] == found["the core: all top modules"] + sum(
        value for name, value in found.items() if name.endswith("/")
    )


def test_what_ddim_stands_on_stays_readable():
    """From linear(1000) to a picture: at most 850 code lines in the files that hold them."""
    spec = importlib.util.spec_from_file_location("size", ROOT / "benchmarks" / "size.py")
    size = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(size)
    assert sum(size.count(name) for name in size.DDIM) <= 850
