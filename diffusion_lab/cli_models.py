"""The commands ``train`` and ``sample``: models are made, and pictures drawn with them."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.cli_base import PROGRAM, Subparsers, add, add_json, make_folder, writable
from diffusion_lab.errors import CheckpointError, did_you_mean, unknown

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffusion_lab.denoisers import NetDenoiser
    from diffusion_lab.recipes import Recipe
    from diffusion_lab.training import Progress

__all__ = ["sample_command", "train_command"]


MOST = 1_000_000  # pictures of one command: 3 GB of Fashion-MNIST's size


def _first() -> bool:
    """Whether this is the process that talks: the only one, or rank 0 of torchrun."""
    return os.environ.get("RANK", "0") == "0"


def _at_least_one(value: int | None, option: str) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{option} must be a whole number >= 1; got {value}")


# train ------------------------------------------------------------------------------------------


def _list_recipes(as_json: bool) -> int:
    from diffusion_lab.recipes import RECIPES

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

    with contextlib.suppress(CheckpointError, DataError):
        if recipe.name in checkpoints.shipped():
            about = checkpoints.info(recipe.name)
            same = about["recipe"]["steps"] == recipe.steps and not about.get("interim")
            return {
                "parameters": about["parameters"],
                "cpu_seconds": about["cpu_seconds"] if same else None,
            }
        net = training.build(recipe, load(recipe.data))
        return {"parameters": sum(p.numel() for p in net.parameters()), "cpu_seconds": None}
    return {"parameters": None, "cpu_seconds": None}


def _recipe(given: argparse.Namespace) -> Recipe:
    """The recipe with what was asked to be different."""
    from diffusion_lab import recipes

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
        _at_least_one(getattr(given, option), f"--{option.replace('_', '-')}")
    recipe = _recipe(given)
    file = writable(f"{given.out}/{recipe.name}.safetensors", ".safetensors", "--out")

    import torch

    from diffusion_lab import checkpoints, states, training

    state = states.state_file(recipe, given.out)
    if not (given.resume or given.fresh):
        _refuse_to_overwrite(recipe, given.out, file, state)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    reports: list[Progress] = []

    def watch(report: Progress) -> None:
        if given.fresh and not reports and report.step < report.steps and _first():
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
        if _first():
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
    if _first():
        last, about = reports[-1], checkpoints.info(file)
        done = {
            "recipe": recipe.name, "path": str(file), "state": str(state),
            "steps": last.steps, "seed": recipe.seed, "loss": last.loss,
            "cpu_seconds": round(last.cpu_seconds, 1),
            "seconds": round(time.perf_counter() - begin, 1), "threads": torch.get_num_threads(),
            "processes": int(os.environ.get("WORLD_SIZE", "1")), "parameters": about["parameters"],
        }  # fmt: skip
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


# sample -----------------------------------------------------------------------------------------


def _device(name: str | None) -> torch.device | None:
    import torch

    if name is None:
        return None
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name!r} is no device: cpu, cuda or cuda:0") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name!r} is not supported: cpu or cuda")
    return device


def _sampler(given: argparse.Namespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate``: what the model's recipe says is best, then what was asked."""
    from diffusion_lab.grids import SPACINGS
    from diffusion_lab.samplers import SAMPLERS

    settings = dict(recipe)
    own = {option for make in SAMPLERS.values() for option in _options(make)}
    if given.sampler is not None and given.sampler != settings.get("sampler"):
        settings = {name: value for name, value in settings.items() if name not in own}
    for name in ("sampler", "steps", "spacing", "scale"):
        if getattr(given, name) is not None:
            settings[name] = getattr(given, name)
    sampler = settings.setdefault("sampler", "dpmpp")
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    if settings.get("spacing") not in (None, *SPACINGS):
        raise unknown("spacing", settings["spacing"], SPACINGS)
    for name in ("eta", "variance", "order", "rel"):
        value = getattr(given, name)
        if value is None:
            continue
        if name not in _options(SAMPLERS[sampler]):
            fit = [other for other, make in SAMPLERS.items() if name in _options(make)]
            raise ValueError(f"--{name} belongs to {', '.join(fit)}; {sampler} does not have it")
        settings[name] = value
    SAMPLERS[sampler](**{name: settings[name] for name in own if name in settings})  # values too
    order = [name for name in ("sampler", "steps", "scale", "spacing") if name in settings]
    return {name: settings[name] for name in dict.fromkeys([*order, *settings])}


def _options(make: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(signature(make).parameters)


def _labels(given: argparse.Namespace, model: NetDenoiser, settings: dict[str, Any]) -> Any:
    """(labels or None, columns of the picture); takes the scale away where it has no meaning."""
    import torch

    from diffusion_lab.data import CLASSES

    classes = model.num_classes
    if classes is None:
        if given.label is not None or given.labels is not None:
            raise ValueError(f"{given.model} was trained without classes: leave --label out")
        if given.scale is not None:
            raise ValueError(f"{given.model} was trained without classes: leave --scale out")
        settings.pop("scale", None)
        return None, None
    if given.labels == "none":
        if given.scale is not None:
            raise ValueError("without a class there is nothing to be guided to: leave --scale out")
        settings.pop("scale", None)
        return None, None
    if given.label is None:
        return torch.arange(given.n) % classes, classes
    names = CLASSES.get(model.about.get("data", {}).get("name"), ())
    return torch.full((given.n,), _label(given.label, classes, names)), None


def _label(given: str, classes: int, names: Sequence[str]) -> int:
    """The number of the class that --label gives by its number or name."""
    if given.lower() in names:
        return names.index(given.lower())
    if given.isdecimal() and int(given) < classes:
        return int(given)
    words = ", ".join(
        f"{number} {name}" for number, name in enumerate(names) if not name.isdecimal()
    )
    raise ValueError(
        f"unknown label {given!r}.{did_you_mean(given, names)} A label is a number from 0 to "
        f"{classes - 1}" + (f", or its name: {words}" if words else "")
    )


def _sample(given: argparse.Namespace) -> int:
    _at_least_one(given.n, "--n")
    if given.n > MOST:
        raise ValueError(f"--n is at most {MOST:,}; got {given.n}: draw several files by --seed")
    _at_least_one(given.steps, "--steps")
    if given.out is None and given.save is None:
        given.out = "samples.png"
    out = writable(given.out, ".png", "--out")
    save = writable(given.save, ".npz", "--save")

    from diffusion_lab import checkpoints, plots
    from diffusion_lab.recipes import RECIPES
    from diffusion_lab.samplers import generate

    if given.model in RECIPES and given.model not in checkpoints.shipped():
        raise ValueError(
            f"{given.model} is a recipe whose model is not shipped: '{PROGRAM} train "
            f"{given.model}' makes it, then --model runs/{given.model}.safetensors draws with it"
        )
    model = checkpoints.load_denoiser(given.model, device=_device(given.device))
    if len(model.shape) != 3:
        raise ValueError(f"{given.model} draws points of shape {model.shape}, not pictures")
    best = model.about.get("recipe", {}).get("sampler", {})
    settings = _sampler(given, best)
    label, columns = _labels(given, model, settings)
    bar = sys.stderr.isatty() and not given.json
    cpu = time.process_time()
    drawn = generate(model, given.n, label=label, seed=given.seed, bar=bar, **settings)
    cpu = time.process_time() - cpu

    if save is not None:
        make_folder(save)
        _save(save, drawn.x, label)
    if out is not None:
        make_folder(out)
        plots.save_grid(out, drawn.x, columns=columns, zoom=2 if model.shape[-1] >= 16 else 6)
    done = {
        "model": given.model, **settings, "n": given.n, "seed": given.seed,
        "nfe": drawn.nfe, "seconds": round(drawn.seconds, 3), "cpu_seconds": round(cpu, 3),
        "out": None if out is None else str(out), "save": None if save is None else str(save),
    }  # fmt: skip
    if given.json:
        print(json.dumps(done, indent=2))
        return 0
    pictures = "1 picture" if given.n == 1 else f"{given.n:,} pictures"
    how = ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
    print(f"{pictures} of {given.model}, seed {given.seed}: {how}")
    print(f"NFE {drawn.nfe} a picture, {drawn.seconds:.2f} s, {cpu:.2f} core-seconds")
    if settings["sampler"] == "emsde":
        if given.rel is None or given.steps is not None:
            print(
                "emsde chooses its own steps: --steps has no effect; a smaller --rel (here "
                f"{_rel(settings)}) takes more calls"
            )
    elif best.get("steps") and given.steps is None and settings["sampler"] != best.get("sampler"):
        print(
            f"{best['steps']} steps are what the recipe says for {best.get('sampler')}; "
            f"{settings['sampler']} may want more: --steps"
        )
    for file in filter(None, (out, save)):
        print(file)
    return 0


def _rel(settings: dict[str, Any]) -> str:
    """The relative tolerance that emsde worked with."""
    from diffusion_lab.samplers import emsde

    return f"{settings.get('rel', signature(emsde).parameters['rel'].default):g}"


def _short(value: object) -> str:
    return f"{tuple(value)}" if isinstance(value, list | tuple) else f"{value}"


def _save(path: Path, x: Tensor, label: Tensor | None) -> None:
    """``samples`` uint8 (N, H, W, C), and ``labels`` int64 (N,) where there are any."""
    import numpy as np

    from diffusion_lab.data import to_uint8
    from diffusion_lab.files import write_atomically

    arrays = {"samples": to_uint8(x)}
    if label is not None:
        arrays["labels"] = label.numpy()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def sample_command(commands: Subparsers) -> None:
    """Add ``sample``."""
    parser = add(
        commands,
        "sample",
        _sample,
        "Draw pictures with a trained model. What is not given is what draws the model's best "
        "pictures, as its recipe says; a model with classes draws one class a column.",
    )
    parser.add_argument(
        "--model", default="fashion", help="a shipped name, or a .safetensors file (fashion)"
    )
    parser.add_argument("--sampler", help="how to walk back, such as ddim; a wrong name lists all")
    parser.add_argument(
        "--steps", type=int, help="steps from noise to picture (emsde: --rel instead)"
    )
    parser.add_argument("--n", type=int, default=60, help="how many pictures (60)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--out", metavar="PNG", help="the picture (samples.png without --save)")
    parser.add_argument("--save", metavar="NPZ", help="samples, uint8 (N, H, W, C), and labels")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--label", help="draw one class only: its number or name")
    which.add_argument(
        "--labels", choices=["all", "none"], help="all classes in turn (default), or no class"
    )
    parser.add_argument("--scale", type=float, help="guidance: 1 conditional, 0 unconditional")
    parser.add_argument("--eta", type=float, help="share of noise in ddim and dpmpp-sde: 0 to 1")
    parser.add_argument("--order", type=int, help="of dpm-solver and unipc: 1, 2 or 3 (2)")
    parser.add_argument("--rel", type=float, help="relative tolerance of emsde (0.05)")
    parser.add_argument("--variance", help="of ddpm: small, large or learned")
    parser.add_argument(
        "--spacing", help="of the time grid: uniform, linspace, quadratic, lambda, karras"
    )
    parser.add_argument("--device", help="cpu or cuda; the best there is if not given")
    add_json(parser)
