"""The solver race: quality against network calls, all on one network, one noise and one measure.

Every sampler draws the same number of pictures from the same first noise with a given number of
calls a picture (Heun and the single-step solvers spend the odd one that is left over on nothing;
the adaptive solver is given tolerances instead), and is scored by FD in units of A. Solvers of the
probability-flow ODE share one limit, that of ever more steps: it is measured once, and so is the
stochastic samplers'. The report tells with how many calls each comes within 5% of its limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import checkpoints, metrics
from diffusion_lab.bench.conditions import check_pictures, one_thread
from diffusion_lab.bench.results import Results, Row
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.grids import grid
from diffusion_lab.samplers import generate, split_calls

__all__ = ["CALLS", "RACE", "Racer", "run", "settings", "stored"]

CALLS = (5, 10, 20, 50)
PICTURES = 500
LIMITS = {"ODE": ("DPM-Solver++(3M)", 100), "SDE": ("DDPM", 200)}
"""Who measures the limit of each kind, and with how many calls."""


@dataclass(frozen=True)
class Racer:
    """A sampler in the race: its name in ``SAMPLERS``, its options, and what it solves."""

    sampler: str
    options: dict[str, Any]
    kind: str = "ODE"


RACE = {
    "DDPM": Racer("ddpm", {}, "SDE"),
    "DDIM": Racer("ddim", {}),
    "DPM-Solver-2": Racer("dpm-solver", {"order": 2}),
    "DPM-Solver-3": Racer("dpm-solver", {"order": 3}),
    "DPM-Solver++(2M)": Racer("dpmpp", {}),
    "DPM-Solver++(3M)": Racer("dpmpp-3m", {}),
    "UniPC-2": Racer("unipc", {}),
    "Heun": Racer("heun", {}),
    "EMSDE": Racer("emsde", {}, "SDE"),
}
MODELS = {
    "fashion-vp1000": tuple(RACE),
    "fashion": ("DDIM", "DPM-Solver++(2M)", "UniPC-2", "Heun"),
}
CONVERGED = ("DPM-Solver-2", "DPM-Solver-3", "DPM-Solver++(3M)")
"""Those of which 20 calls say almost all: their 50 calls are drawn last."""
TOLERANCES = ((1.0, 0.2), (0.25, 0.05), (0.1, 0.02))  # EMSDE's rel and abs


def settings(name: str, denoiser: Denoiser, calls: int) -> dict[str, Any]:
    """What ``generate`` needs so that a racer spends ``calls`` calls (Heun: an even number less 1).

    ValueError where so few calls make no step.
    """
    racer = RACE[name]
    spacing = "uniform" if denoiser.schedule.vp else "karras"  # the same for all
    given = {"sampler": racer.sampler, "spacing": spacing, **racer.options}
    if racer.sampler == "emsde":
        raise ValueError("EMSDE chooses its own number of calls: give it tolerances")
    if racer.sampler == "heun":
        return given | {"steps": (calls + 1) // 2}
    if racer.sampler != "dpm-solver":
        return given | {"steps": calls}
    orders = split_calls(calls, racer.options["order"])
    times = grid(denoiser.schedule, len(orders), spacing, lam_range=denoiser.lam_range)
    return given | {"steps": len(orders), "order": dict(zip(times, orders, strict=False))}


def run(
    *,
    quick: bool = False,
    budgets: Sequence[float] = CALLS,
    seeds: Sequence[int] = (0,),
    n: int | None = None,
    done: Sequence[str] = (),
) -> Iterator[Row]:
    """FD in units of A of every sampler at every number of calls; cases in ``done`` are skipped.

    Few calls come first, so that a run that is stopped has told the most. ``budgets`` are calls.
    """
    if not budgets or min(budgets) < 5 or any(b != int(b) for b in budgets):
        raise ValueError(f"budgets are whole numbers of calls >= 5; got {list(budgets)}")
    check_pictures(n)
    n = n or (40 if quick else PICTURES)
    with one_thread():
        for seed in seeds:
            for model, names in MODELS.items():
                yield from _one_model(model, names, [int(b) for b in budgets], seed, n, done, quick)
                if quick:
                    return


def _one_model(
    model: str, names: Sequence[str], budgets: list[int], seed: int, n: int,
    done: Sequence[str], quick: bool,
) -> Iterator[Row]:  # fmt: skip
    denoiser = checkpoints.load_denoiser(model)
    about = "" if n == PICTURES and seed == 0 else f", {n} pictures, seed {seed}"
    anchor = None
    plan = _plan(names, denoiser, budgets[:1] if quick else sorted(budgets), quick)
    for text, calls, given, limit in plan:
        case = f"{model}: {text}{about}"
        if case in done:
            continue
        anchor = anchor or metrics.noise_anchor(n)
        label = torch.arange(n) % denoiser.num_classes if denoiser.num_classes else None
        drawn, cost = metrics.measure(
            denoiser,
            lambda given=given, label=label: generate(denoiser, n, label=label, seed=seed, **given),
            pictures=n,
        )
        fd = metrics.fd(drawn.x)
        name = text.split(",")[1].strip() if limit else text.split(",")[0]
        details = {
            "model": model, "sampler": name, "kind": RACE[name].kind, "asked": calls,
            "limit": limit, "NFE": drawn.nfe, "FD": round(fd, 4), "A": round(anchor, 4),
            "pictures": n, "seed": seed, "grid": given["spacing"],
            "core-s for 1,000 pictures": round(cost.cpu_seconds_per_1000, 2),
        }  # fmt: skip
        if name == "EMSDE":  # it was asked for a tolerance, not for calls
            own = {"rel": given["rel"], "abs": given["abs"], "grid": "adaptive", "asked": 0}
            details |= own
        yield Row(
            "samplers", case, round(fd / anchor, 4), "A", "diffusion-lab bench samplers",
            details=details, quick=quick,
        )  # fmt: skip


Planned = tuple[str, int, dict[str, Any], bool]  # what it is called, calls, settings, a limit?


def _plan(
    names: Sequence[str], denoiser: Denoiser, budgets: list[int], quick: bool
) -> list[Planned]:
    """What to draw: few calls of all samplers first, the dearest last."""
    plan: list[Planned] = [
        (f"{name}, {calls} calls", calls, settings(name, denoiser, calls), False)
        for calls in budgets
        for name in names
        if name != "EMSDE"
    ]
    if "EMSDE" in names:
        for rel, absolute in TOLERANCES[:1] if quick else TOLERANCES:
            given = {"sampler": "emsde", "spacing": "uniform"}
            given |= {"rel": rel, "abs": absolute}
            calls = round(50 * (0.25 / rel) ** 0.6)  # about, to find its place in the line
            plan.append((f"EMSDE, tolerance {rel:g}", calls, given, False))
    for kind, (name, calls) in () if quick else LIMITS.items():
        if name in names or kind == "ODE":
            about = f"limit of the {kind}, {name}, {calls} calls"
            plan.append((about, calls, settings(name, denoiser, calls), True))

    def when(one: Planned) -> int:
        """The limit before the long runs that are compared with it, the least needed last."""
        text, calls, _, is_limit = one
        if is_limit:
            return 21 if calls <= 100 else calls
        return 1000 if calls >= 50 and text.split(",")[0] in CONVERGED else calls

    return sorted(plan, key=when)


def stored(model: str = "fashion-vp1000") -> list[Row]:
    """The rows of the race that the repository or the installed package carries, for one model."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_benchmarks", package.parent / "benchmarks"):
        rows = [
            row
            for row in Results(folder).rows
            if row.benchmark == "samplers" and not row.quick and row.details["model"] == model
        ]
        if rows:
            return rows
    return []
