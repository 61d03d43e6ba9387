"""The saved state of a training: weights, average, both moments of Adam and where it stands.

One safetensors file, written whole or not at all, so that a kill at any moment leaves the old state
or the new one. No random state is kept: every step draws from (seed, step) alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.errors import CheckpointError
from diffusion_lab.training.recipes import Recipe

__all__ = ["AGAIN", "keep", "restore", "saved_step", "state_file"]

AGAIN = "start again from nothing (on the command line --fresh, in Python resume=False)"


def state_file(recipe: Recipe, out: str | Path) -> Path:
    """Where a training in the folder ``out`` saves its state."""
    return Path(out) / f"{recipe.name}.state.safetensors"


def saved_step(recipe: Recipe, out: str | Path) -> int:
    """The step at which the saved state stands; 0 where there is none."""
    file = state_file(recipe, out)
    return int(checkpoints.info(file).get("step", 0)) if file.is_file() else 0


def keep(
    recipe: Recipe,
    out: str | Path,
    head: dict[str, Any],
    model: nn.Module,
    average: nn.Module,
    optimiser: Any,
) -> None:
    """Save the state; ``head`` holds steps, step, cpu_seconds and the loss since the report."""
    tensors = {f"w.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in average.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    checkpoints.save_tensors(state_file(recipe, out), tensors, {"recipe": recipe.as_dict(), **head})


def restore(
    recipe: Recipe,
    out: str | Path,
    steps: int,
    model: nn.Module,
    average: nn.Module,
    optimiser: Any,
) -> dict[str, Any]:
    """Fill model, average and optimiser from the saved state; returns its header.

    Raises CheckpointError where there is none, it is damaged, or it is of another training.
    """
    file = state_file(recipe, out)
    if not file.is_file():
        raise CheckpointError(f"there is no saved state {file} to resume from: {AGAIN}")
    for part in file.parent.glob(f".{recipe.name}.*.tmp"):  # what a kill left of a file
        part.unlink(missing_ok=True)
    tensors, header = checkpoints.load_tensors(file)
    ours = json.loads(json.dumps(recipe.as_dict())) | {"steps": steps}
    theirs = header.get("recipe", {}) | {"steps": header.get("steps")}
    differ = [
        f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} asked"
        for name in sorted(ours | theirs)
        if ours.get(name) != theirs.get(name)
    ]
    if differ:
        raise CheckpointError(
            f"{file} is the state of another training ({'; '.join(differ)}): ask for the same, "
            f"choose another folder, or {AGAIN}"
        )
    try:
        model.load_state_dict({k[2:]: v for k, v in tensors.items() if k.startswith("w.")})
        average.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")})
        state = optimiser.state_dict()
        state["state"] = {}
        for key, value in tensors.items():
            if key.startswith("adam."):
                _, i, name = key.split(".", 2)
                state["state"].setdefault(int(i), {})[name] = value
        optimiser.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{file} does not fit this network: {' '.join(str(error).split())}"
        ) from error
    return header
