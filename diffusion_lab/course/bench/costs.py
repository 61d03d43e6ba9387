"""The running cost table: what every built lesson measured, in one file.

A lesson ends with ``lessons.cost_row``, which leaves its rows in the notebook;
``lessons.cost_rows`` finds those of all built lessons, and ``lessons.write_costs`` puts them into
``benchmarks/costs.json``: at each build of a lesson, and here for ``diffusion-lab bench costs``, so
that the file never says more than the notebooks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_lab.course import lessons
from diffusion_lab.course.bench.results import Row
from diffusion_lab.errors import DataError

__all__ = ["FILE", "read", "run"]

FILE, COMMAND = lessons.COSTS, lessons.COLLECT
FIRST = ("lesson", "system", "core-s / 1000")


def read(out: Path) -> list[dict[str, Any]]:
    """The rows in ``out``/costs.json; DataError where it is missing or is no such file."""
    path = out / FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a cost table ({error}); make it: {COMMAND}") from error
    return rows


def run(*, quick: bool = False, out: Path | None = None) -> Iterator[Row]:
    """Core-seconds for 1,000 pictures of every system that a lesson has measured.

    Nothing is run again: the rows are those of the built notebooks. With ``out`` the table is
    written there too. Rows of a lesson that counts no seconds are left out.
    """
    rows = lessons.cost_rows() if out is None else lessons.write_costs(Path(out))
    for row in rows:
        if row.get("core-s / 1000"):
            details = {key: value for key, value in row.items() if key not in FIRST}
            yield Row(
                "costs",
                f"{row['lesson']}: {row['system']}",
                float(row["core-s / 1000"]),
                "core-s",
                COMMAND,
                details=details,
                quick=quick,
            )
