"""What the header of a trained checkpoint says, and the command that makes it again."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
from typing import Any

import torch

from diffusion_lab.data import Dataset, load
from diffusion_lab.errors import DataError
from diffusion_lab.training import recipes
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.resume import Run

__all__ = ["about", "command", "quoted"]


def about(run: Run, data: Dataset, given: Dataset | None, seconds: float) -> dict[str, Any]:
    """The header of a checkpoint; ``given`` is the data where they are not the recipe's own."""
    recipe = run.recipe
    return {
        "name": recipe.name,
        "recipe": recipe.as_dict() | {"steps": run.steps},
        "command": command(run, given),
        "data": {
            "name": data.name,
            "split": data.split,
            "n": len(data),
            "hash": data.hash,
            "classes": list(data.classes),
        },
        "cpu_seconds": round(seconds, 1),
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "parameters": sum(p.numel() for p in run.average.parameters()),
        "metrics": {},
    } | {k: v for k, v in run.made.items() if k not in ("data", "content")}


def command(run: Run, given: Dataset | None) -> str:
    """What makes the checkpoint again on the command line, or what would be left out of it."""
    recipe, made = run.recipe, run.made
    own = given is None or bool(given.source) or _is_own(given, recipe)
    left_out = [
        what
        for missing, what in (
            (not own, f"the data ({given.name if given else ''!r}) were given in Python"),
            ("task" in made, f"the task, {made.get('task')}, was given in Python"),
            (
                made.get("init") == "a model given in Python",
                "it began from a model given in Python",
            ),
            (
                any(at != end for (_, end), (at, _) in zip(_stages(run), _stages(run)[1:])),
                "its number of steps was changed on the way: "
                + ", ".join(f"{steps:,} from step {at:,} on" for at, steps in _stages(run)),
            ),
        )
        if missing
    ]
    if left_out:
        return f"no command makes it again: {'; '.join(left_out)}"
    words = list(given.source) if given is not None else []
    if "init" in made:
        words += ["--from", made["init"].rsplit(" (", 1)[0]]
    base, changes = _changes(recipe)
    words += ["--seed", str(recipe.seed)] if changes.pop("seed", None) is not None else []
    words += ["--data-full"] if changes.pop("full", None) else []
    for name, value in changes.items():
        words += ["--set", f"{name}={_literal(value)}"]
    runs = [
        ["diffusion-lab", "train", base, "--steps", str(steps), *words, *["--resume"] * (i > 0)]
        for i, (_, steps) in enumerate(_stages(run))
    ]
    return " && ".join(quoted(one) for one in runs)


def quoted(words: list[str]) -> str:
    """Words as one line for a shell; for cmd.exe on Windows, and where a path is one of Windows."""
    if os.name == "nt" or any(
        "\\" in word and "/" not in word and "{" not in word for word in words
    ):
        return subprocess.list2cmdline(words)
    return shlex.join(words)


def _literal(value: Any) -> str:
    """A value as ``--set`` reads it: JSON, a plain word without its quotes."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.:-]*", value)
    return value if plain and value not in ("true", "false", "null") else json.dumps(value)


def _stages(run: Run) -> list[list[int]]:
    return run.made.get("stages", [[0, run.steps]])


def _changes(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The known recipe that is nearest, and every field in which this one differs from it."""
    ours = json.loads(json.dumps(recipe.as_dict()))
    told = [name for name in ours if name not in ("about", "steps")]

    def differ(known: Recipe) -> dict[str, Any]:
        theirs = json.loads(json.dumps(known.as_dict()))
        return {name: ours[name] for name in told if ours[name] != theirs[name]}

    near = {name: differ(known) for name, known in recipes.RECIPES.items()}
    base = recipe.name if recipe.name in near else min(near, key=lambda name: len(near[name]))
    return base, near[base]


def _is_own(data: Dataset, recipe: Recipe) -> bool:
    """Whether data that were given are those that the recipe would have loaded."""
    try:
        own = load(recipe.data, "train", full=recipe.full)
    except (ValueError, DataError):
        return False
    if data.labels is None or data.condition.keys() != own.condition.keys():
        return False
    return torch.equal(data.x, own.x) and torch.equal(data.labels, own.labels)
