"""The command ``sample``: pictures are drawn with a trained model."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusion_lab.cli.base import PROGRAM, Subparsers, add, add_json, make_folder, names, writable
from diffusion_lab.errors import CheckpointError, check_arguments, did_you_mean, unknown, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffusion_lab.denoisers import NetDenoiser

__all__ = ["sample_command"]

MOST = 1_000_000  # pictures of one command: 3 GB of Fashion-MNIST's size
STEPS = 100_000  # of one walk: a grid of more takes minutes before the first call
MOVING = 100  # pictures of one GIF: the whole walk is kept
SHEET = 5_000  # pictures of one PNG: more cannot be looked at, and take gigabytes to lay out


def _device(name: str | None) -> torch.device | None:
    from diffusion_lab.device import device

    if name is None and os.environ.get("DIFFUSION_LAB_DEVICE") == "meta":
        raise ValueError("DIFFUSION_LAB_DEVICE is meta, which cannot draw: take cpu or cuda")
    return None if name is None else device(name, "--device")


def _sampler(given: argparse.Namespace, recipe: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``generate``: what the model's recipe says is best, then what was asked."""
    from diffusion_lab.generate import SAMPLERS
    from diffusion_lab.grids import SPACINGS

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
    for name in given.set:
        fit = [other for other, make in SAMPLERS.items() if name in _options(make)]
        if fit and sampler not in fit:
            raise ValueError(f"{name} belongs to {', '.join(fit)}; {sampler} does not have it")
    check_arguments(f"the sampler {sampler!r}", SAMPLERS[sampler], given.set)
    settings |= given.set
    for name in settings.keys() - own - FITS.keys():
        raise unknown("setting of the recipe's sampler", name, {*own, *FITS})
    chosen = {name: settings[name] for name in own if name in settings}
    try:
        SAMPLERS[sampler](**chosen)  # looks at the values too
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{sampler} cannot work with {chosen}: {error}") from error
    order = [name for name in ("sampler", "steps", "scale", "spacing") if name in settings]
    return {name: settings[name] for name in dict.fromkeys([*order, *settings])}


def _best(about: dict[str, Any], model: str) -> dict[str, Any]:
    """What the header says draws the best pictures; CheckpointError for what cannot be that."""
    recipe = about.get("recipe", {})
    best = recipe.get("sampler", {}) if isinstance(recipe, dict) else None
    if not isinstance(best, dict):
        raise CheckpointError(f"{model}: the recipe in its header says no sampler: {recipe!r:.200}")
    for name, value in best.items():
        if name in NEVER or (name in FITS and not FITS[name](value)):
            raise CheckpointError(
                f"{model}: the sampler of the recipe in its header cannot have {name} = "
                f"{value!r:.200}"
            )
    return dict(best)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_pair(value: object) -> bool:
    return value is None or (
        isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    )


FITS: dict[str, Callable[[Any], bool]] = {
    "sampler": lambda value: isinstance(value, str),
    "spacing": lambda value: value is None or isinstance(value, str),
    "steps": lambda value: type(value) is int and 1 <= value <= STEPS,
    "scale": lambda value: value is None or _is_number(value),
    "batch": lambda value: type(value) is int and 1 <= value <= MOST,
    "lam_range": _is_pair,
    "clip": _is_pair,
    "keep_eps": lambda value: isinstance(value, bool),
}
"""What the recipe of a header may give to ``generate``: a file may be made up."""
NEVER = ("denoiser", "n", "label", "condition", "null", "seed", "seeds", "bar", "keep", "grid")


def _options(make: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(signature(make).parameters)


def _setting(text: str) -> tuple[str, Any]:
    """``eta=0.5`` as its name and value: a Python literal, or else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"--set takes NAME=VALUE, such as eta=0.5; got {text!r}")
    with contextlib.suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(value)
    return name, value


def _labels(given: argparse.Namespace, model: NetDenoiser, settings: dict[str, Any]) -> Any:
    """(labels or None, columns of the picture, words above them).

    Takes the scale away where it has no meaning.
    """
    import torch

    from diffusion_lab.data import CLASSES

    classes = model.num_classes
    if classes is None:
        if given.label is not None or given.labels is not None:
            raise ValueError(f"{given.model} was trained without classes: leave --label out")
        if given.scale is not None:
            raise ValueError(f"{given.model} was trained without classes: leave --scale out")
        settings.pop("scale", None)
        return None, None, ()
    if given.labels == "none":
        if given.scale is not None:
            raise ValueError("without a class there is nothing to be guided to: leave --scale out")
        settings.pop("scale", None)
        return None, None, ()
    about = model.about.get("data", {})
    about = about if isinstance(about, dict) else {}
    names = CLASSES.get(str(about.get("name")), about.get("classes", ()))
    if not isinstance(names, list | tuple) or len(names) != classes:
        names = ()
    names = tuple(map(str, names))
    if given.label is None:
        return torch.arange(given.n) % classes, classes, names[: given.n]
    one = _label(given.label, classes, names)
    return torch.full((given.n,), one), None, names[one : one + 1]


def _worded(given: argparse.Namespace, about: dict[str, Any]) -> bool:
    """Whether the model draws what words say; ValueError for what then has no meaning."""
    recipe = about.get("recipe")
    options = recipe.get("options") if isinstance(recipe, dict) else None
    worded = isinstance(options, dict) and bool(options.get("captions"))
    if not worded:
        if given.text is not None:
            raise ValueError(f"{given.model} was trained without words: leave --text out")
        if about.get("stands_on"):
            raise ValueError(
                f"{given.model} draws latents of numbers that it is told, which have no option "
                "here: see diffusion_lab.latent.ldm.decode, or lesson 12"
            )
        return False
    if given.text is None:
        raise ValueError(f"{given.model} draws what words say: give it some, --text 'red heart'")
    for option in ("gif", "label", "labels"):
        if getattr(given, option) is not None:
            raise ValueError(f"{given.model} is told words: leave --{option} out")
    return True


def _of_codes(given: argparse.Namespace, best: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model of codes: those of its recipe, then what was asked."""
    for option in ("sampler", "spacing"):
        if getattr(given, option) is not None:
            raise ValueError(f"{given.model} draws codes: leave --{option} out")
    asked = {name: getattr(given, name) for name in ("steps", "scale")}
    return best | {name: value for name, value in asked.items() if value is not None} | given.set


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
    """Examples:

    diffusion-lab sample
    diffusion-lab sample --model digits --n 100 --gif walk.gif
    diffusion-lab sample --sampler ddim --steps 20 --set eta=0.5 --label sneaker
    diffusion-lab sample --model emoji-ldm --text "red heart" --n 8
    diffusion-lab sample --model runs/digits.safetensors --save samples.npz
    """
    whole("--n", given.n)
    if given.n > MOST:
        raise ValueError(f"--n is at most {MOST:,}; got {given.n:,}: draw several files by --seed")
    if given.steps is not None and whole("--steps", given.steps) > STEPS:
        raise ValueError(f"--steps is at most {STEPS:,}; got {given.steps:,}")
    if given.out is None and given.save is None and given.gif is None:
        given.out = "samples.png"
    if given.out is not None and given.n > SHEET:
        raise ValueError(
            f"a PNG holds at most {SHEET:,} pictures; got {given.n:,}: --save FILE.npz without "
            "--out keeps them as numbers"
        )
    if given.gif is not None and given.n > MOVING:
        raise ValueError(f"a GIF holds at most {MOVING} pictures; got {given.n:,}")
    given.set = dict(map(_setting, given.set))
    if os.path.isdir(given.model):
        raise ValueError(f"--model: {given.model} is a folder; name a .safetensors file in it")
    out = writable(given.out, ".png", "--out")
    save = writable(given.save, ".npz", "--save")
    gif = writable(given.gif, ".gif", "--gif")

    from diffusion_lab import checkpoints, pictures
    from diffusion_lab.about import VERSION
    from diffusion_lab.course import told
    from diffusion_lab.denoisers import NetDenoiser
    from diffusion_lab.generate import generate
    from diffusion_lab.training.recipes import RECIPES

    if given.model in RECIPES and given.model not in checkpoints.shipped():
        raise ValueError(
            f"{given.model} is a recipe whose model is not shipped: '{PROGRAM} train "
            f"{given.model}' makes it, then --model runs/{given.model}.safetensors draws with it"
        )
    worded = _worded(given, checkpoints.info(given.model))
    load = checkpoints.load if worded else checkpoints.load_denoiser
    model = load(given.model, device=_device(given.device))
    if not worded and len(model.shape) != 3:
        raise ValueError(f"{given.model} draws points of shape {model.shape}, not pictures")
    best = _best(model.about, given.model)
    codes = worded and not isinstance(model, NetDenoiser)
    settings = _of_codes(given, best) if codes else _sampler(given, best)
    label, columns, heads = None, None, ()
    if not worded:
        label, columns, heads = _labels(given, model, settings)
    bar = sys.stderr.isatty() and not given.json
    cpu = time.process_time()
    options = {"seed": given.seed, **settings}
    if worded:
        drawn = told.draw(model, [given.text] * given.n, **options)
    else:
        drawn = generate(model, given.n, label=label, bar=bar, keep=gif is not None, **options)
    cpu = time.process_time() - cpu

    if save is not None:
        make_folder(save)
        _save(save, drawn.x, label)
    zoom = 2 if drawn.x.shape[-1] >= 16 else 6
    if out is not None:
        make_folder(out)
        command = _command(given, settings, "out")
        notes = {"Software": f"{PROGRAM} {VERSION}", "Command": command}
        pictures.save_grid(out, drawn.x, columns=columns, zoom=zoom, heads=heads, notes=notes)
    if gif is not None:
        make_folder(gif)
        frames = pictures.frames(drawn.path, model.schedule)
        note = _command(given, settings, "gif")
        pictures.save_gif(gif, frames, columns=columns, zoom=zoom, heads=heads, note=note)
    done = {
        "model": given.model,
        **settings,
        "n": given.n,
        "seed": given.seed,
        "nfe": drawn.nfe,
        "seconds": round(drawn.seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "out": None if out is None else str(out),
        "save": None if save is None else str(save),
        "gif": None if gif is None else str(gif),
    }
    if given.json:
        print(json.dumps(done, indent=2))
        return 0
    pictures = "1 picture" if given.n == 1 else f"{given.n:,} pictures"
    how = ", ".join(f"{name} {_short(value)}" for name, value in settings.items())
    print(f"{pictures} of {given.model}, seed {given.seed}: {how}")
    print(f"NFE {drawn.nfe} a picture, {drawn.seconds:.2f} s, {cpu:.2f} core-seconds")
    if settings.get("sampler") == "emsde":
        if "rel" not in given.set or given.steps is not None:
            print(
                "emsde chooses its own steps: --steps has no effect; a smaller --set rel=... (here "
                f"{_rel(settings)}) takes more calls"
            )
    elif best.get("steps") and given.steps is None and settings.get("sampler") != best["sampler"]:
        print(
            f"{best['steps']} steps are what the recipe says for {best.get('sampler')}; "
            f"{settings['sampler']} may want more: --steps"
        )
    for file in filter(None, (out, save, gif)):
        print(file)
    return 0


def _command(given: argparse.Namespace, settings: dict[str, Any], file: str) -> str:
    """What draws the same again, with every setting of the model's recipe spelt out."""
    from diffusion_lab.training.header import quoted

    words = [PROGRAM, "sample", "--model", given.model]
    for name in ("sampler", "steps", "scale", "spacing"):
        value = settings.get(name)
        words += [] if value is None else [f"--{name}", str(value)]
    for name, value in settings.items():
        if name not in FITS:
            words += ["--set", f"{name}={value}"]
    for name in ("n", "seed", "text", "label", "labels", "device", file):
        value = getattr(given, name)
        words += [] if value is None else [f"--{name}", str(value)]
    return quoted(words)


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
        "pictures, as its recipe says; a model with classes draws one class a column. The PNG "
        "holds the command that draws it again.",
    )
    words = "a shipped name, or a .safetensors file (fashion)"
    model = parser.add_argument("--model", default="fashion", help=words)
    model.completer = names("diffusion_lab.checkpoints:shipped")
    words = "how to walk back, such as ddim; a wrong name lists all"
    walk = parser.add_argument("--sampler", help=words)
    walk.completer = names("diffusion_lab.generate:SAMPLERS")
    which = parser.add_mutually_exclusive_group()
    for to, option, kind, metavar, words in (
        (parser, "--steps", int, None, "from noise to picture (emsde: --set rel=... instead)"),
        (parser, "--seed", int, None, "of the noise (0)"),
        (parser, "--out", str, "PNG", "the picture (samples.png if no other file is named)"),
        (parser, "--save", str, "NPZ", "samples, uint8 (N, H, W, C), and labels"),
        (parser, "--gif", str, "GIF", "the walk from noise to picture, moving"),
        (which, "--label", str, None, "draw one class only: its number or name"),
        (which, "--text", str, "WORDS", "what to draw, for a model that is told words"),
        (parser, "--scale", float, None, "guidance: 1 conditional, 0 unconditional"),
        (parser, "--device", str, None, "cpu, cuda or mps; the best there is if not given"),
    ):
        to.add_argument(option, type=kind, metavar=metavar, help=words)
    parser.set_defaults(seed=0)
    parser.add_argument("--n", type=int, default=60, help="how many pictures (60)")
    words = "of the time grid: uniform, linspace, quadratic, lambda, karras"
    parser.add_argument("--spacing", help=words)
    words = "all classes in turn (default), or no class"
    which.add_argument("--labels", choices=["all", "none"], help=words)
    words = (
        "an argument of the sampler, once for each: ddim eta=0.5, dpm-solver order=3, ddpm "
        "variance=large, emsde rel=0.02; a wrong name lists all"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=words)
    add_json(parser)
