"""The command ``train``: a recipe becomes a model, and a training that was stopped goes on."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.cli.base import PROGRAM, Subparsers, add, add_json, writable
from diffusion_lab.errors import CheckpointError, whole

if TYPE_CHECKING:
    from diffusion_lab.training import Progress
    from diffusion_lab.training.recipes import Recipe

__all__ = ["train_command"]


def _list_recipes(as_json: bool) -> int:
    from diffusion_lab.training.recipes import RECIPES

    costs = {name: _cost(recipe) for name, recipe in RECIPES.items()}
    if as_json:
        listed = [recipe.as_dict() | costs[name] for name, recipe in RECIPES.items()]
        print(json.dumps(listed, indent=2))
        return 0
    width = max(map(len, RECIPES))
    print(f"{'recipe':<{width}}   steps  parameters  core-seconds  what it makes")
    for name, recipe in RECIPES.items():
        parameters, seconds = (
            "-" if value is None else f"{value:,.0f}" for value in costs[name].values()
        )
        print(
            f"{name:<{width}}  {recipe.steps:>6,}  {parameters:>10}  {seconds:>12}  {recipe.about}"
        )
    print(
        "\ncore-seconds: what the shipped model took, as its checkpoint records ('-': none shipped)"
    )
    return 0


def _cost(recipe: Recipe) -> dict[str, float | None]:
    """The size of a recipe's network, and what training it took; None where nothing says it."""
    from diffusion_lab import checkpoints, training
    from diffusion_lab.data import load
    from diffusion_lab.errors import DataError
    from diffusion_lab.metrics import count_parameters

    with contextlib.suppress(CheckpointError, DataError):
        if recipe.name in checkpoints.shipped():
            about = checkpoints.info(recipe.name)
            same = about["recipe"]["steps"] == recipe.steps and not about.get("interim")
            return {
                "parameters": about["parameters"],
                "cpu_seconds": about["cpu_seconds"] if same else None,
            }
        net = training.build(recipe, load(recipe.data))
        return {"parameters": count_parameters(net), "cpu_seconds": None}
    return {"parameters": None, "cpu_seconds": None}


def _recipe(given: argparse.Namespace) -> Recipe:
    """The recipe with what was asked to be different."""
    from diffusion_lab.training import recipes

    if given.recipe is None:
        raise ValueError(f"which recipe? Known: {', '.join(recipes.RECIPES)}")
    recipe = recipes.get(given.recipe)
    changes = {"steps": given.steps, "seed": given.seed, "full": given.data_full or None}
    return recipe.but(**{name: value for name, value in changes.items() if value is not None})


def _command(given: argparse.Namespace) -> str:
    """What resumes this training."""
    words = [PROGRAM, "train", given.recipe]
    for option in ("steps", "seed", "out", "threads", "preview_every"):
        value = getattr(given, option)
        words += [] if value is None else [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join([*words, *["--data-full"] * given.data_full, "--resume"])


def _train(given: argparse.Namespace) -> int:
    if given.list:
        return _list_recipes(given.json)
    for option in ("steps", "threads", "preview_every"):
        if getattr(given, option) is not None:
            whole(f"--{option.replace('_', '-')}", getattr(given, option))
    recipe = _recipe(given)
    file = writable(f"{given.out}/{recipe.name}.safetensors", ".safetensors", "--out")

    import torch

    from diffusion_lab import checkpoints, training
    from diffusion_lab.device import first_process
    from diffusion_lab.training import resume as states

    state = states.state_file(recipe, given.out)
    if not (given.resume or given.fresh):
        _refuse_to_overwrite(recipe, given.out, file, state)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    reports: list[Progress] = []

    def watch(report: Progress) -> None:
        if given.fresh and not reports and report.step < report.steps and first_process():
            state.unlink(missing_ok=True)  # under way: from here on a resume must not find it
        reports.append(report)

    begin = time.perf_counter()
    try:
        training.fit(
            recipe,
            out=given.out,
            resume=given.resume,
            preview_every=given.preview_every,
            watch=watch,
        )
    except KeyboardInterrupt:
        if first_process():
            earlier = given.fresh and not reports  # the state there is not of this training
            saved = 0 if earlier else states.saved_step(recipe, given.out)
            print(
                f"stopped; saved up to step {saved:,} of {recipe.steps:,}. Go on with: "
                + _command(given)
                if saved
                else "stopped before the first state was saved (one is every 1,000 steps)",
                file=sys.stderr,
            )
        return 130
    if first_process():
        last, about = reports[-1], checkpoints.info(file)
        done = {
            "recipe": recipe.name,
            "path": str(file),
            "state": str(state),
            "steps": last.steps,
            "seed": recipe.seed,
            "loss": last.loss,
            "cpu_seconds": round(last.cpu_seconds, 1),
            "seconds": round(time.perf_counter() - begin, 1),
            "threads": torch.get_num_threads(),
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
            "parameters": about["parameters"],
        }
        print(json.dumps(done, indent=2) if given.json else _told(done))
    return 0


def _refuse_to_overwrite(recipe: Recipe, out: str, file: Path, state: Path) -> None:
    """ValueError where ``out`` holds a stopped training of this recipe, or its finished model."""
    from diffusion_lab import checkpoints

    if state.is_file():
        about = checkpoints.info(state)
        saved, steps = about.get("step", 0), about.get("steps", 0)
        if saved < steps:
            same = "" if steps == recipe.steps else f" --steps {steps}"
            raise ValueError(
                f"{out} holds a training of {recipe.name} that stopped after step {saved:,} of "
                f"{steps:,}: go on with --resume{same}, throw it away with --fresh, or choose "
                "another --out"
            )
    if file.exists():
        left = f", and {state.name}, the last state of its training" if state.is_file() else ""
        raise ValueError(
            f"{out} holds a finished model, {file.name}{left}: train over it with --fresh, or "
            "choose another --out"
        )


def _told(done: dict[str, Any]) -> str:
    ranks = "" if done["processes"] == 1 else f" in each of {done['processes']} processes"
    text = (
        f"{done['path']}\n"
        f"{done['recipe']}: {done['steps']:,} steps, {done['parameters']:,} parameters, loss "
        f"{done['loss']:.4f}; {done['cpu_seconds']:,.1f} core-seconds{ranks}, "
        f"{done['seconds']:,.1f} s"
    )
    text += f"\n{done['state']} was for --resume: the model does not need it, delete it at will"
    if not done["recipe"].endswith("-features"):
        text += f"\ndraw with it: {PROGRAM} sample --model {shlex.quote(done['path'])}"
    return text


def train_command(commands: Subparsers) -> None:
    """Add ``train``."""
    parser = add(
        commands,
        "train",
        _train,
        "Train a recipe from nothing and save the model. A training that was stopped goes on with "
        "--resume, bit for bit as if it had never stopped.",
        epilog="On two processes: torchrun --nproc-per-node 2 -m diffusion_lab.cli train RECIPE "
        "(both draw the same batch and take a half each, so the loss curve stays the same).",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name that --list shows")
    parser.add_argument("--list", action="store_true", help="list the recipes and what they cost")
    parser.add_argument("--steps", type=int, help="optimiser steps; the recipe's own if not given")
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder (default: runs)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="go on from the state saved in --out; the same --steps, --seed and --data-full must "
        "be given as before",
    )
    again.add_argument(
        "--fresh", action="store_true", help="begin again over what --out holds of this recipe"
    )
    parser.add_argument("--seed", type=int, help="of the weights, batches and noise")
    parser.add_argument(
        "--data-full", action="store_true", help="the whole data set, not the embedded part"
    )
    parser.add_argument("--threads", type=int, help="threads of each process")
    parser.add_argument(
        "--preview-every", type=int, metavar="K", help="save pictures to --out every K steps"
    )
    add_json(parser)
