"""The command ``train``: a recipe becomes a model, and a training that was stopped goes on."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.cli.base import PROGRAM, Subparsers, add, add_json, laid_out, names, writable
from diffusion_lab.errors import CheckpointError, whole

if TYPE_CHECKING:
    from diffusion_lab.data import Dataset
    from diffusion_lab.training import Progress
    from diffusion_lab.training.recipes import Recipe

__all__ = ["train_command"]

FLAGS = ("data_full", "tensorboard")  # that a resumed training is given again


def _list_recipes(as_json: bool) -> int:
    from diffusion_lab.training.recipes import RECIPES

    costs = {name: _cost(recipe) for name, recipe in RECIPES.items()}
    if as_json:
        listed = [recipe.as_dict() | costs[name] for name, recipe in RECIPES.items()]
        print(json.dumps(listed, indent=2))
        return 0
    rows = [("recipe", "steps", "parameters", "core-seconds", "what it makes")]
    for name, recipe in RECIPES.items():
        numbers = ("-" if value is None else f"{value:,.0f}" for value in costs[name].values())
        rows.append((name, f"{recipe.steps:,}", *numbers, recipe.about))
    print(laid_out(rows, right=(1, 2, 3)))
    print("\ncore-seconds: what the shipped model took, as its checkpoint says ('-': none shipped)")
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
    """The recipe with what was asked to be different; ``--steps`` goes to the training itself."""
    from diffusion_lab.training import recipes

    if given.recipe is None:
        raise ValueError(f"which recipe? Known: {', '.join(recipes.RECIPES)}")
    recipe = recipes.get(given.recipe)
    changes = dict(_change(one) for one in given.set)
    if given.seed is not None:
        changes["seed"] = given.seed
    if given.data_full:
        changes["full"] = True
    try:
        return recipe.but(**changes)
    except TypeError as error:
        raise ValueError(f"--set {' '.join(given.set)}: {error}") from error


def _change(text: str) -> tuple[str, Any]:
    """``field=value`` of ``--set``: the value is JSON, and anything else is taken as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes FIELD=VALUE, such as lr=1e-3; got {text!r}")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def _command(given: argparse.Namespace) -> str:
    """What resumes this training."""
    from diffusion_lab.training.header import quoted

    words = [PROGRAM, "train", given.recipe]
    options = ("steps", "seed", "out", "threads", "preview_every", "keep_best", "data", "size")
    for option in options:
        value = getattr(given, option, None)
        words += [] if value is None else [f"--{option.replace('_', '-')}", str(value)]
    for change in getattr(given, "set", []):
        words += ["--set", change]
    flags = [f"--{one.replace('_', '-')}" for one in FLAGS if getattr(given, one, False)]
    return quoted([*words, *flags, "--resume"])


def _data(given: argparse.Namespace, recipe: Recipe) -> tuple[Recipe, Dataset | None]:
    """The pictures of ``--data`` at a size that the network takes, and the recipe for them."""
    if given.data is None:
        if given.size is not None:
            raise ValueError("--size belongs to --data FOLDER")
        return recipe, None
    if given.data_full:
        raise ValueError("--data-full is of the course's own data: leave it out beside --data")
    from diffusion_lab import data
    from diffusion_lab.device import first_process
    from diffusion_lab.training import fold

    own = tuple(data.load(recipe.data).x.shape[2:])
    multiple = fold(recipe)
    pictures = data.from_folder(given.data, given.size, multiple=multiple, otherwise=own)
    words = ["--data", given.data] + ([] if given.size is None else ["--size", str(given.size)])
    pictures = dataclasses.replace(pictures, source=tuple(words))
    if pictures.labels is None and recipe.conditional:
        recipe = recipe.but(conditional=False)
        if first_process():
            print("no classes, so the network is told none (conditional=false)", file=sys.stderr)
    return recipe, pictures


def _threads(threads: int) -> None:
    """Set them; ValueError for more than a machine could ever use, which torch dies of."""
    import torch

    most = max(64, 4 * (os.cpu_count() or 1))
    if whole("--threads", threads) > most:
        raise ValueError(f"--threads must be at most {most} on this machine; got {threads}")
    torch.set_num_threads(threads)


def _train(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab train --list
    diffusion-lab train digits --steps 500 --preview-every 100
    diffusion-lab train digits --steps 500 --preview-every 100 --resume
    diffusion-lab train fashion --data my-pictures --size 28 --set lr=1e-3
    """
    if given.list:
        return _list_recipes(given.json)
    for option in ("steps", "threads", "preview_every", "keep_best"):
        if getattr(given, option) is not None:
            whole(f"--{option.replace('_', '-')}", getattr(given, option))
    if not given.out.strip():
        raise ValueError("--out names a folder; got '' (is a variable of the shell not set?)")
    out = Path(given.out).expanduser()
    if given.data is not None:
        given.data = str(Path(given.data).expanduser())
    recipe = _recipe(given)
    file = out / f"{recipe.name}.safetensors"
    for target in (file, out / f"{recipe.name}.state.safetensors"):
        if target.is_dir():
            raise IsADirectoryError(
                f"--out: {target} is a folder: move it, or choose another --out"
            )
    writable(str(file), ".safetensors", "--out")

    import torch

    from diffusion_lab import checkpoints, training
    from diffusion_lab.device import first_process, processes
    from diffusion_lab.training import resume as states

    state = states.state_file(recipe, out)
    if given.resume and given.init is not None:
        raise ValueError("--from starts a training: what is resumed has its own weights")
    if not (given.resume or given.fresh):
        _refuse_to_overwrite(recipe, out, file, state)
    if given.threads is not None:
        _threads(given.threads)
    elif given.resume and state.is_file():  # sums depend on it in the last bit
        kept = checkpoints.info(state).get("threads")
        if isinstance(kept, int) and 0 < kept <= (os.cpu_count() or 1):
            torch.set_num_threads(kept)
    recipe, pictures = _data(given, recipe)
    steps = recipe.steps if given.steps is None else given.steps
    reports: list[Progress] = []
    older = given.fresh and state.is_file()

    def watch(report: Progress) -> None:
        if given.fresh and not reports and report.step < report.steps and first_process():
            state.unlink(missing_ok=True)  # under way: from here on a resume must not find it
        reports.append(report)

    begin = time.perf_counter()
    try:
        training.fit(
            recipe,
            data=pictures,
            steps=given.steps,
            out=out,
            resume=given.resume,
            init=given.init,
            preview_every=given.preview_every,
            best_every=given.keep_best,
            tensorboard=given.tensorboard,
            watch=watch,
        )
    except KeyboardInterrupt:
        if first_process():
            earlier = older and not reports  # the state there is not of this training
            saved = 0 if earlier else states.saved_step(recipe, out)
            print(
                f"stopped; saved up to step {saved:,} of {steps:,}. Go on with: {_command(given)}"
                if saved
                else "stopped before a step was saved",
                file=sys.stderr,
            )
        return 130
    if first_process():
        last, about = reports[-1], checkpoints.info(file)
        done = {
            "recipe": recipe.name,
            "path": str(file),
            "state": str(state),
            "log": str(out / f"{recipe.name}.log.csv"),
            "steps": last.steps,
            "seed": recipe.seed,
            "loss": last.loss,
            "cpu_seconds": round(last.cpu_seconds, 1),
            "seconds": round(time.perf_counter() - begin, 1),
            "threads": torch.get_num_threads(),
            "processes": processes(),
            "parameters": about["parameters"],
        }
        if "best" in about:
            done["best"] = about["best"] | {"path": str(out / f"{recipe.name}.best.safetensors")}
        print(json.dumps(done, indent=2) if given.json else _told(done))
    return 0


def _refuse_to_overwrite(recipe: Recipe, out: Path, file: Path, state: Path) -> None:
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
            "choose another --out" + (", or longer with --resume --steps MORE" if left else "")
        )


def _told(done: dict[str, Any]) -> str:
    from diffusion_lab.training.header import quoted

    ranks = "" if done["processes"] == 1 else f" in each of {done['processes']} processes"
    text = (
        f"{done['path']}\n"
        f"{done['recipe']}: {done['steps']:,} steps, {done['parameters']:,} parameters, loss "
        f"{done['loss']:.4f}; {done['cpu_seconds']:,.1f} core-seconds{ranks}, "
        f"{done['seconds']:,.1f} s"
    )
    if "best" in done:
        best = done["best"]
        text += f"\n{best['path']} is the best, at step {best['step']:,}: {best['distance']:.4f}"
    text += f"\nits loss: {quoted([PROGRAM, 'plot', done['log']])}"
    text += f"\n{done['state']} was for --resume: the model does not need it, delete it at will"
    if not done["recipe"].endswith("-features"):
        text += f"\ndraw with it: {quoted([PROGRAM, 'sample', '--model', done['path']])}"
    return text


def train_command(commands: Subparsers) -> None:
    """Add ``train``."""
    parser = add(
        commands,
        "train",
        _train,
        "Train a recipe from nothing and save the model. A training that was stopped goes on with "
        "--resume, bit for bit as if it had never stopped (with as many threads and processes).",
        epilog="The loss goes to NAME.log.csv in --out: 'plot' draws it. On two processes: "
        "torchrun --nproc-per-node 2 -m diffusion_lab.cli train RECIPE (both draw the same batch "
        "and take a half each, so the loss curve stays the same).",
    )
    recipe = parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name of --list")
    recipe.completer = names("diffusion_lab.training.recipes:RECIPES")
    again = parser.add_mutually_exclusive_group()
    for to, option, words in (
        (parser, "--list", "list the recipes and what they cost"),
        (again, "--resume", "go on from the state in --out, same options or more --steps"),
        (again, "--fresh", "begin again over what --out holds of this recipe"),
        (parser, "--data-full", "the whole data set, not the embedded part"),
        (parser, "--tensorboard", "losses for TensorBoard too, in NAME.tensorboard in --out"),
    ):
        to.add_argument(option, action="store_true", help=words)
    for option, kind, metavar, words in (
        ("--steps", int, None, "optimiser steps; the recipe's own if not given"),
        ("--seed", int, None, "of the weights, batches and noise"),
        ("--data", str, "FOLDER", "train on the pictures in a folder; subfolders are classes"),
        ("--size", int, None, "of the pictures of --data: height and width they are scaled to"),
        ("--threads", int, None, "threads of each process"),
        ("--preview-every", int, "K", "save pictures to --out every K steps"),
        ("--keep-best", int, "K", "measure every K steps, keep the best as NAME.best.safetensors"),
    ):
        parser.add_argument(option, type=kind, metavar=metavar, help=words)
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder (default: runs)")
    words = "start from a model's weights: a name or file"
    parser.add_argument("--from", dest="init", metavar="MODEL", help=words)
    words = "change a field of the recipe, such as lr=1e-3 or precision=bf16; again for another"
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=words)
    add_json(parser)
