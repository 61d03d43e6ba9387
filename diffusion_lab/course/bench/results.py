"""Rows of benchmarks: kept in results.json, told in report.md, both without dates."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusion_lab.errors import DataError
from diffusion_lab.files import write_atomically

__all__ = ["Results", "Row", "machine", "recorded", "report", "within"]


@lru_cache(maxsize=1)
def machine() -> str:
    """The processor, its cores, the system and the versions that matter, in one line."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    kind = torch.backends.cpu.get_cpu_capability()
    return (
        f"{name} ({kind}), {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


@dataclass
class Row:
    """One measurement. ``goal`` is an upper bound, or a lower one with ``at_least``."""

    benchmark: str
    case: str
    value: float
    unit: str
    command: str
    goal: float | None = None
    at_least: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    machine: str = field(default_factory=machine)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        return _met(self.value, self.goal, self.at_least)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with ``met``."""
        return asdict(self) | {"met": self.met}

    def __str__(self) -> str:
        goal = ""
        if self.goal is not None:
            bound = f"{'>=' if self.at_least else '<='} {self.goal:g}"
            goal = f"  (goal {bound}: {'met' if self.met else 'missed'})"
        return f"{self.benchmark}: {self.case}: {self.value:.4g} {self.unit}{goal}"


def _met(value: float, goal: float | None, at_least: bool) -> bool | None:
    if goal is None:
        return None
    return value >= goal if at_least else value <= goal


class Results:
    """The rows in a folder; without a folder they are kept in memory only."""

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.rows: list[Row] = self._kept()
        self._dropped: set[str] = set()

    def _kept(self) -> list[Row]:
        """The rows in the folder: another benchmark may have written some since we began."""
        file = None if self.folder is None else self.folder / "results.json"
        if file is None or not file.is_file():
            return []
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))["rows"]
            return [Row(**{k: v for k, v in row.items() if k != "met"}) for row in kept]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file} is not a file of benchmark results ({error}): move it away, or "
                "choose another --out"
            ) from error

    def done(self, benchmark: str, quick: bool) -> tuple[str, ...]:
        """The cases of a benchmark that were measured on this machine."""
        return tuple(
            row.case
            for row in self.rows
            if (row.benchmark, row.quick, row.machine) == (benchmark, quick, machine())
        )

    def forget(self, benchmark: str) -> None:
        """Drop a benchmark's rows: it is about to be measured again."""
        self.rows = [row for row in self.rows if row.benchmark != benchmark]
        self._dropped.add(benchmark)

    def add(self, row: Row) -> None:
        """Take a row in place of one of the same case, and write both files."""
        if self.folder is not None:  # what is measured here is ours, the rest is what is there now
            ours = self._dropped | {row.benchmark}
            mine = [old for old in self.rows if old.benchmark in ours]
            self.rows = [old for old in self._kept() if old.benchmark not in ours] + mine
        same = (row.benchmark, row.case)
        self.rows = [old for old in self.rows if (old.benchmark, old.case) != same] + [row]
        if self.folder is not None:
            rows = [one.as_dict() for one in self.rows]
            text = json.dumps({"rows": rows}, indent=1, sort_keys=True) + "\n"
            write_atomically(self.folder / "results.json", text.encode())
            write_atomically(self.folder / "report.md", report(self.rows).encode())


def recorded(benchmark: str) -> list[Row]:
    """The full rows of a benchmark that the repository or the installed package carries."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "_benchmarks", package.parent / "benchmarks"):
        rows = [row for row in Results(folder).rows if row.benchmark == benchmark and not row.quick]
        if rows:
            return rows
    return []


# ---- the report ---------------------------------------------------------------------------------
TITLES = {
    "overhead": (
        "Sampler overhead",
        "The CPU time of a whole sampling run over that of its network calls alone (and of one "
        "`randn` a draw where noise is drawn), with a network so small (an MLP 2-128-128-128-2 at "
        "batch 256 on one thread) that the loop around it shows. Runs of both kinds alternate; the "
        "median of the ratios. Rows of other libraries are from the same run.",
    ),
    "import": ("Import", "CPU seconds of importing, above `import torch`, in fresh processes."),
    "first-picture": (
        "First picture",
        "Wall-clock seconds from the start of a process, or of a notebook kernel, to 64 pictures "
        "of the shipped model.",
    ),
    "shipped": (
        "Shipped models",
        "Fréchet distance (FD) in the frozen features to the full test set, in units of A, the "
        "FD_inf of real pictures with noise of standard deviation 0.1; one thread.",
    ),
    "scaling": (
        "Scaling",
        "Two processes of one thread against one process of two threads, the same training at "
        "batch 64, in pictures a second of wall-clock time; then how far the CPU time of a forward "
        "pass of the U-Net lies from what its FLOPs predict from the first of its kind, on one "
        "thread.",
    ),
    "costs": (
        "What the lessons measured",
        "CPU time of drawing 1,000 pictures, and what else each lesson's row of the running cost "
        "table says, as its notebook was built; the same rows are in `costs.json`. Distances "
        "compare only at the same number of pictures N.",
    ),
    "samplers": (
        "The solver race",
        "Quality against network calls (NFE): every sampler with the same network, the same first "
        "noise and the same measure, FD in units of A. Times are uniform in t (`fashion`: Karras "
        "et al.'s) but where the name says otherwise; limits have many steps, uniform in lambda, "
        "down to the last time of training. *Within 5%* is the smallest number of calls measured "
        "from which on it stays below 1.05 times its limit, that of the ODE or the SDE of this "
        "network. Heun takes an odd number of calls. EMSDE chooses its own, given beside its FD.",
    ),
    "quality": (
        "Time to quality",
        "Fashion-MNIST from nothing: trained for a budget of CPU seconds on one thread (108, 216 "
        "and 540 are 54, 108 and 270 seconds of two cores), then the FD of pictures from the "
        "averaged weights in units of A.",
    ),
    "peers": (
        "Beside other libraries",
        "Unconditional Fashion-MNIST, every contestant trained for the same CPU seconds on one "
        "thread with the network and settings of its own published example, and two crossed rows: "
        "our recipe with another network, another recipe with our network. The same number of "
        "pictures, the same features.",
    ),
}
SEEDED = ("quality", "peers")  # with a table of means over seeds first


def report(rows: Iterable[Row]) -> str:
    """The rows as Markdown: a section a benchmark, with the command that measures it again."""
    rows = list(rows)
    lines = ["# Benchmarks", "", "Made by `diffusion-lab bench`; do not edit.", ""]
    machines = list(dict.fromkeys(row.machine for row in rows))
    lines += [f"Machine {i}: {name}." for i, name in enumerate(machines, 1)]
    if any(row.quick for row in rows):
        lines += ["", "**Quick runs are marked: they show that it works, not how fast it is.**"]
    for name, (title, text) in TITLES.items():
        own = [row for row in rows if row.benchmark == name]
        if not own:
            continue
        lines += ["", f"## {title}", "", text, ""]
        if name in SEEDED:
            lines += [*_over_seeds(own), ""]
        if name == "samplers":
            lines += [*_race(own), ""]
        lines += ["| case | measured | goal | | details | command |", "|---|---|---|---|---|---|"]
        lines += [_line(row, machines) for row in own]
    return "\n".join(lines) + "\n"


def _line(row: Row, machines: list[str]) -> str:
    details = "; ".join(f"{key} {value}" for key, value in row.details.items())
    case = row.case + (" (quick)" if row.quick else "")
    command = row.command + (" --quick" if row.quick else "")
    if len(machines) > 1:
        details += f"; machine {machines.index(row.machine) + 1}"
    goal = "" if row.goal is None else f"{'>=' if row.at_least else '<='} {row.goal:g}"
    met = {True: "met", False: "missed", None: ""}[row.met]
    return f"| {case} | {row.value:.4g} {row.unit} | {goal} | {met} | {details} | `{command}` |"


def _over_seeds(rows: list[Row]) -> list[str]:
    """Means over the seeds of a training."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.case.rsplit(", seed", 1)[0], []).append(row)
    lines = ["| training | seeds | mean | least to most | goal | |", "|---|---|---|---|---|---|"]
    for case, own in groups.items():
        values = [row.value for row in own]
        mean, goal = statistics.fmean(values), own[0].goal
        met = {True: "met", False: "missed", None: ""}[_met(mean, goal, False)]
        spread = f"{min(values):.3g} to {max(values):.3g} A"
        bound = "" if goal is None else f"<= {goal:g} A"
        lines.append(f"| {case} | {len(own)} | {mean:.3g} A | {spread} | {bound} | {met} |")
    return lines


def within(rows: list[Row], kind: str, share: float = 0.05) -> float | None:
    """The fewest calls from which on the rows of one sampler stay within ``share`` of the limit.

    ``rows`` are those of the sampler and the limits. None where none does or there is no limit.
    """
    limits = [row.value for row in rows if row.details["limit"] and row.details["kind"] == kind]
    own = sorted((r.details["NFE"], r.value) for r in rows if not r.details["limit"])
    if not limits:
        return None
    best = None
    for nfe, value in reversed(own):
        if value > (1 + share) * limits[0]:
            break
        best = nfe
    return best


def _race(rows: list[Row]) -> list[str]:
    """Of each model a table of samplers by calls."""
    lines = []
    for model in dict.fromkeys(row.details["model"] for row in rows):
        own = [row for row in rows if row.details["model"] == model and row.details["seed"] == 0]
        asked = sorted({row.details["asked"] for row in own if not row.details["limit"]} - {0})
        head = [model, *(f"{n} calls" for n in asked), "at most 5% above"]
        lines += ["| " + " | ".join(head) + " |"]
        lines += ["|---" * (len(asked) + 2) + "|"]
        limits = [row for row in own if row.details["limit"]]
        for name in dict.fromkeys(r.details["sampler"] for r in own if not r.details["limit"]):
            mine = [r for r in own if r.details["sampler"] == name and not r.details["limit"]]
            at = {row.details["asked"]: f"{row.value:.3g}" for row in mine}
            cells = [at.get(n, "") for n in asked]
            if 0 in at:  # it chose its calls: each beside the nearest column
                for row in mine:
                    near = min(range(len(asked)), key=lambda i: abs(asked[i] - row.details["NFE"]))
                    cells[near] += f"{row.value:.3g} ({row.details['NFE']}) "
            kind = mine[0].details["kind"]
            none = "no" if any(row.details["kind"] == kind for row in limits) else ""
            found = within([*mine, *limits], kind) or none
            lines += [f"| {name} | " + " | ".join(cells) + f" | {found} |"]
        lines += [
            f"\nLimit of the {row.details['kind']} ({row.details['sampler']}, "
            f"{row.details['NFE']} calls): {row.value:.3g} A."
            for row in limits
        ]
        lines += [""]
    return lines[:-1]
