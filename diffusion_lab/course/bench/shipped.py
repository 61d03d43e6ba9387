"""How good the shipped models are, and what 1,000 of their pictures cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from diffusion_lab import checkpoints, metrics
from diffusion_lab.course import told
from diffusion_lab.course.bench.conditions import one_thread
from diffusion_lab.course.bench.results import Row
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.generate import generate

__all__ = ["draw", "run"]

COMMAND = "diffusion-lab bench shipped"
MOST = {"fashion": 5000, "digits": 297, "emoji": 1000}  # pictures compared


def draw(
    model: NetDenoiser, n: int, settings: dict[str, Any], seed: int = 1
) -> tuple[torch.Tensor, metrics.Cost]:
    """n pictures, classes in turn, and what they cost; ``settings`` as a recipe's sampler."""
    label = None
    if model.num_classes is not None:
        label = torch.arange(n) % model.num_classes
    drawn, cost = metrics.measure(
        model, lambda: generate(model, n, label=label, seed=seed, **settings), pictures=n
    )
    return drawn.x, cost


def run(*, quick: bool = False) -> Iterator[Row]:
    """FD and core-seconds of every shipped model that draws pictures."""
    with one_thread():
        for name in checkpoints.shipped():
            model = checkpoints.load(name, device="cpu")
            if isinstance(model, NetDenoiser) and not (quick and "stands_on" in model.about):
                rows = _told_rows if "stands_on" in model.about else _rows
                yield from rows(name, model, quick)
                if quick:
                    return


def _told_rows(name: str, model: NetDenoiser, quick: bool) -> Iterator[Row]:
    """Of a model that is told words or numbers: one picture for each caption or request."""
    worded = bool(model.about["recipe"]["options"].get("captions"))
    found = told.obedience(model) if worded else told.phantoms_quality(model)
    value, unit = (found["fd_in_A"], "A") if worded else (found["mse"], "mse to what was asked")
    details = {k: v for k, v in found.items() if not isinstance(v, dict)}
    details |= {"trained core-s": model.about["cpu_seconds"]}
    case = f"{name}: quality"
    yield Row("shipped", case, round(value, 4), unit, COMMAND, details=details, quick=quick)
    value = round(found["core_seconds_per_1000"], 2)
    case = f"{name}: 1,000 pictures"
    yield Row("shipped", case, value, "core-s", COMMAND, details={"NFE": found["nfe"]}, quick=quick)


def _rows(name: str, model: NetDenoiser, quick: bool) -> Iterator[Row]:
    recipe, data = model.about["recipe"], model.about["data"]["name"]
    n = 100 if quick else MOST[data]
    anchor = metrics.anchor(data).value
    x, cost = draw(model, n, recipe["sampler"])
    fd = metrics.fd(x, data)
    few = name == "fashion"
    details = {
        "FD": round(fd, 4),
        "A": round(anchor, 4),
        "pictures": n,
        "NFE": cost.nfe,
        "parameters": cost.parameters,
        "trained core-s": model.about["cpu_seconds"],
    }
    goal = 0.2 if few else None
    yield Row(
        "shipped",
        f"{name}: quality",
        round(fd / anchor, 4),
        "A",
        COMMAND,
        goal,
        details=details,
        quick=quick,
    )
    details = {"NFE": cost.nfe, "MFLOP a picture": round(cost.flops / 1e6, 1), "pictures": n}
    goal = 12.0 if few else None
    yield Row(
        "shipped",
        f"{name}: 1,000 pictures",
        round(cost.cpu_seconds_per_1000, 2),
        "core-s",
        COMMAND,
        goal,
        details=details,
        quick=quick,
    )
