"""What the course claims about speed, measured again: ``diffusion-lab bench``.

A benchmark is a generator of rows; ``run`` writes each row down as it comes, so that a long one can
be stopped and goes on where it was. Ratios are taken between runs that alternate, in CPU time of
the process: another program on the machine disturbs both sides alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.course.bench import (
    costs,
    overhead,
    peers,
    quality,
    samplers,
    scaling,
    shipped,
    startup,
)
from diffusion_lab.course.bench.results import Results, Row
from diffusion_lab.errors import unknown

__all__ = ["BENCHMARKS", "QUICK", "Results", "Row", "folder", "run"]

BENCHMARKS: dict[str, Callable[..., Iterator[Row]]] = {
    "overhead": overhead.run,
    "import": startup.run_import,
    "first-picture": startup.run_first_picture,
    "shipped": shipped.run,
    "scaling": scaling.run,
    "costs": costs.run,
    "quality": quality.run,
    "peers": peers.run,
    "samplers": samplers.run,
}
QUICK = ("overhead", "import", "first-picture", "shipped", "scaling", "costs")
"""Those that take minutes. ``LONG`` ones write down each row and go on where they were stopped."""
LONG = ("quality", "peers", "samplers")


def folder() -> Path:
    """Where the report is kept: the repository's ``benchmarks``, or one in the current folder."""
    here = Path(__file__).resolve().parents[3] / "benchmarks"
    return here if here.is_dir() else Path("benchmarks")


def run(
    names: Sequence[str] = QUICK,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    fresh: bool = False,
    tell: Callable[[Row], object] = lambda row: None,
    **options: Any,
) -> list[Row]:
    """Run benchmarks and return their rows; ``out`` is the folder of results.json and report.md.

    Args:
        names: of ``BENCHMARKS``; ``all`` is every one.
        quick: the smallest run that still does everything, to see that it works.
        fresh: measure again what the long ones have measured before on this machine.
        tell: called with each row as it comes.
        options: for the long ones alone: budgets (samplers: calls), seeds, n.

    Raises ValueError for an unknown name. Without ``out`` nothing is written.
    """
    names = list(BENCHMARKS) if "all" in names else list(dict.fromkeys(names))
    for name in names:
        if name not in BENCHMARKS:
            raise unknown("benchmark", name, [*BENCHMARKS, "all"])
    results = Results(out)
    rows = []
    for name in names:
        own: dict[str, Any] = {"quick": quick}
        if name in LONG:
            own |= options | {"done": () if fresh else results.done(name, quick)}
        else:
            results.forget(name)
            own |= {"out": results.folder} if name == "costs" else {}
        for row in BENCHMARKS[name](**own):
            results.add(row)
            rows.append(row)
            tell(row)
    return rows
