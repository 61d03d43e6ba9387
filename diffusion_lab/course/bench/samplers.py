"""The solver race: quality against network calls, all on one network, one noise and one measure.

Every sampler draws the same number of pictures from the same first noise with a given number of
calls a picture (Heun and the single-step solvers spend the odd one that is left over on nothing;
the adaptive solver is given tolerances instead), and is scored by FD in units of A. Times are
uniform in t, as on the grids i/T of training, but where a racer's name says otherwise.

Solvers of the probability-flow ODE share one limit, that of ever more steps, and so do those of the
reverse SDE. Each limit is measured once, with many steps uniform in lambda down to the last time
that the network knows (uniform times with n calls never ask below t = 1/n). The report tells with
how many calls each sampler comes within 5% of its own limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from diffusion_lab import checkpoints, metrics
from diffusion_lab.course.bench.conditions import check_pictures, one_thread
from diffusion_lab.course.bench.results import Row, recorded
from diffusion_lab.data import store
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.generate import generate
from diffusion_lab.grids import grid
from diffusion_lab.samplers import split_calls

__all__ = ["CALLS", "RACE", "TOLERANCES", "Racer", "run", "settings", "stored"]

CALLS = (5, 10, 20, 50)
SLOW = (*CALLS, 100, 200)
"""Calls of the samplers that add noise, which need more of them."""
PICTURES = 500
CHURN = 5.0
"""EDM's S_churn: a step of n raises its noise level by the share 5/n, at most sqrt 2 - 1."""
TOLERANCES = ((1.0, 0.2), (0.25, 0.05), (0.1, 0.0078), (0.05, 0.0078), (0.02, 0.0078))
"""EMSDE's rel and abs: two loose pairs, for few calls, and three of the paper's."""


@dataclass(frozen=True)
class Racer:
    """A sampler in the race: its name in ``SAMPLERS``, its options, and what it solves.

    ``spacing`` of its times if not the one of all; ``calls`` that it races with; ``last`` are
    those of them that say least, drawn when all others are.
    """

    sampler: str
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "ODE"
    spacing: str | None = None
    calls: tuple[int, ...] = CALLS
    last: tuple[int, ...] = ()


RACE = {
    "DDPM (eta = 1)": Racer("ddpm", kind="SDE", calls=SLOW),
    "SDE-DPM-Solver++(2M)": Racer("dpmpp-sde", kind="SDE", calls=SLOW, last=(200,)),
    "DDIM": Racer("ddim"),
    "DPM-Solver-2": Racer("dpm-solver", {"order": 2}, last=(50,)),
    "DPM-Solver-3": Racer("dpm-solver", {"order": 3}, last=(50,)),
    "DPM-Solver++(2M)": Racer("dpmpp"),
    "DPM-Solver++(3M)": Racer("dpmpp-3m", last=(50,)),
    "++(3M) as published": Racer("dpmpp-3m", {"published": True}, last=(50,)),
    "UniPC-2": Racer("unipc"),
    "UniPC-3": Racer("unipc", {"order": 3}, last=(50,)),
    "Heun": Racer("heun"),
    "Heun with churn": Racer("heun", kind="churn", calls=(20, 50)),
    "EMSDE": Racer("emsde", kind="SDE"),
    "UniPC-2, quadratic": Racer("unipc", spacing="quadratic", calls=(5, 10)),
    "UniPC-2, lambda": Racer("unipc", spacing="lambda", calls=(5, 10)),
}
MODELS = {"fashion-vp1000": tuple(RACE), "fashion": ("DDIM", "DPM-Solver++(2M)", "UniPC-2", "Heun")}
LIMITS = {"ODE": ("UniPC-3", 100), "SDE": ("SDE-DPM-Solver++(2M)", 200)}
"""Who measures the limit of each kind, and with how many calls."""


def settings(name: str, denoiser: Denoiser, calls: int) -> dict[str, Any]:
    """What ``generate`` needs so that a racer spends ``calls`` calls (Heun: an even number less 1).

    ValueError where so few calls make no step.
    """
    racer = RACE[name]
    spacing = racer.spacing or ("uniform" if denoiser.schedule.vp else "karras")
    given = {"sampler": racer.sampler, "spacing": spacing, **racer.options}
    if racer.sampler == "emsde":
        raise ValueError("EMSDE chooses its own number of calls: give it tolerances")
    if racer.sampler == "heun":
        steps = (calls + 1) // 2
        return (
            given | {"steps": steps} | ({"churn": CHURN / steps} if racer.kind == "churn" else {})
        )
    if racer.sampler != "dpm-solver":
        return given | {"steps": calls}
    orders = split_calls(calls, racer.options["order"])
    times = grid(denoiser.schedule, len(orders), spacing, lam_range=denoiser.lam_range)
    return given | {"steps": len(orders), "order": dict(zip(times, orders, strict=False))}


def run(
    *,
    quick: bool = False,
    budgets: Sequence[float] | None = None,
    seeds: Sequence[int] = (0,),
    n: int | None = None,
    done: Sequence[str] = (),
) -> Iterator[Row]:
    """FD in units of A of every sampler at every number of calls; cases in ``done`` are skipped.

    Few calls come first, so that a run that is stopped has told the most. ``budgets`` are calls;
    by default each sampler has its own.
    """
    if budgets is not None and (not budgets or any(b < 5 or b != int(b) for b in budgets)):
        raise ValueError(f"budgets are whole numbers of calls >= 5; got {list(budgets)}")
    check_pictures(n)
    n = n or (40 if quick else PICTURES)
    calls = None if budgets is None else tuple(sorted(int(b) for b in budgets))
    if quick:
        calls = (calls or CALLS)[:1]
    with one_thread():
        for seed in seeds:
            for model, names in MODELS.items():
                yield from _one_model(model, names, calls, seed, n, done, quick)
                if quick:
                    return


def _one_model(
    model: str,
    names: Sequence[str],
    calls: tuple[int, ...] | None,
    seed: int,
    n: int,
    done: Sequence[str],
    quick: bool,
) -> Iterator[Row]:
    denoiser = checkpoints.load_denoiser(model)
    about = "" if n == PICTURES and seed == 0 else f", {n} pictures, seed {seed}"
    weights = store.index()[f"checkpoints/{model}.safetensors"]["sha256"][:8]
    anchor = metrics.anchor().value
    for one in _plan(names, denoiser, calls, quick):
        case = f"{model}: {one.text}{about}"
        if case in done:
            continue
        label = torch.arange(n) % denoiser.num_classes if denoiser.num_classes else None
        drawn, cost = metrics.measure(
            denoiser,
            lambda given=one.given, label=label: generate(
                denoiser, n, label=label, seed=seed, **given
            ),
            pictures=n,
        )
        fd = metrics.fd(drawn.x)
        details = {
            "model": model,
            "weights": weights,
            "sampler": one.name,
            "kind": RACE[one.name].kind,
            "asked": one.calls,
            "limit": one.limit,
            "NFE": drawn.nfe,
            "FD": round(fd, 4),
            "A": round(anchor, 4),
            "pictures": n,
            "seed": seed,
            "grid": one.given["spacing"],
            "core-s for 1,000 pictures": round(cost.cpu_seconds_per_1000, 2),
        }
        if one.name == "EMSDE":  # it was asked for a tolerance, not for calls
            own = {"rel": one.given["rel"], "abs": one.given["abs"], "grid": "adaptive", "asked": 0}
            details |= own
        yield Row(
            "samplers",
            case,
            round(fd / anchor, 4),
            "A",
            "diffusion-lab bench samplers",
            details=details,
            quick=quick,
        )


@dataclass(frozen=True)
class _Case:
    """One measurement: what it is called, whose, with how many calls, when, and what to draw."""

    text: str
    name: str
    calls: int
    when: int
    given: dict[str, Any]
    limit: bool = False


def _plan(
    names: Sequence[str], denoiser: Denoiser, calls: tuple[int, ...] | None, quick: bool
) -> list[_Case]:
    """What to draw: few calls of all samplers first, then more, then what says least."""
    plan = []
    for name in names:
        racer = RACE[name]
        if name == "EMSDE":
            plan += _adaptive(TOLERANCES[:1] if quick else TOLERANCES)
            continue
        for k in racer.calls if calls is None else calls:
            when = 1000 + k if k in racer.last else k
            plan.append(_Case(f"{name}, {k} calls", name, k, when, settings(name, denoiser, k)))
    for kind, (name, k) in () if quick else LIMITS.items():
        if any(RACE[one].kind == kind for one in names):
            given = settings(name, denoiser, k)
            given |= {"spacing": "lambda" if denoiser.schedule.vp else given["spacing"]}
            text = f"limit of the {kind}, {name}, {k} calls"
            plan.append(_Case(text, name, k, 21 if kind == "ODE" else 51, given, limit=True))
    return sorted(plan, key=lambda one: one.when)


def _adaptive(tolerances: Sequence[tuple[float, float]]) -> Iterator[_Case]:
    """EMSDE at these tolerances, each at about the place in the line that its calls give it."""
    for rel, absolute in tolerances:
        given = {"sampler": "emsde", "spacing": "uniform", "rel": rel, "abs": absolute}
        calls = round(50 * (0.25 / rel) ** 0.6)
        when = calls if calls < max(SLOW) else 1000 + calls
        yield _Case(f"EMSDE, tolerance {rel:g}", "EMSDE", calls, when, given)


def stored(model: str = "fashion-vp1000") -> list[Row]:
    """The rows of the race that the repository or the installed package carries, for one model."""
    return [row for row in recorded("samplers") if row.details["model"] == model]
