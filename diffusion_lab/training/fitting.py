"""A training in one call: with a progress bar, or only where no checkpoint is there yet."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.data import default_root
from diffusion_lab.device import first_process
from diffusion_lab.errors import CheckpointError
from diffusion_lab.files import sha256
from diffusion_lab.training import resume as states
from diffusion_lab.training.loop import Progress, train
from diffusion_lab.training.recipes import ADDED, Recipe, get

__all__ = ["fit", "load_or_train"]


def fit(
    recipe: Recipe,
    *,
    bar: bool = True,
    watch: Callable[[Progress], object] | None = None,
    **options: Any,
) -> nn.Module:
    """Train to the end with a progress bar that shows the time left; returns the EMA model.

    ``watch`` is called with every Progress; the other options are those of ``train``. On several
    processes only the first shows a bar.
    """
    from tqdm.auto import tqdm

    training = train(recipe, **options)  # refuses before a bar is drawn
    steps, start = options.get("steps") or recipe.steps, 0
    if options.get("resume"):
        start = states.saved_step(recipe, options["out"])
    quiet = not bar or not first_process()
    with tqdm(total=steps, initial=start, desc=recipe.name, unit="step", disable=quiet) as progress:
        try:
            for p in training:
                progress.set_postfix(loss=f"{p.loss:.4f}", refresh=False)
                progress.update(p.step - progress.n)
                if watch is not None:
                    watch(p)
                model = p.model
        except KeyboardInterrupt as stop:  # in here the loop has not heard of it, and saves then
            if inspect.getgeneratorstate(training) == inspect.GEN_SUSPENDED:
                training.throw(stop)
            raise
        finally:
            training.close()
    return model


def load_or_train(
    name: str, *, fresh: bool = False, steps: int | None = None, folder: str | Path | None = None
) -> Any:
    """The shipped model ``name``, or the same recipe trained here; prints which, and at what cost.

    ``fresh`` trains even where a checkpoint is shipped (lessons do so at the level ``full``), with
    a progress bar, into ``folder`` (by default ``trained`` beside the whole data sets). A training
    that was killed goes on where it stopped, or begins again where its state cannot be used; a
    finished one of the same recipe is loaded.
    """
    recipe = get(name)
    recipe = recipe if steps is None else recipe.but(steps=steps)
    if name in checkpoints.shipped() and not fresh:
        path, branch = checkpoints.find(name), "loaded the shipped checkpoint"
    else:
        folder = default_root() / "trained" if folder is None else Path(folder)
        path, branch = folder / f"{name}.safetensors", "loaded what was trained here before"
        if _made_by(path) != json.loads(json.dumps(recipe.as_dict())):
            state = states.state_file(recipe, folder)
            try:
                try:
                    fit(recipe, out=folder, resume=state.is_file())
                except states.Taken:
                    raise
                except CheckpointError:
                    if not state.is_file():
                        raise
                    print(
                        f"{name}: the saved state {state} is damaged, at its end or of another "
                        "training, so it begins again"
                    )
                    fit(recipe, out=folder)
            except OSError as error:
                raise type(error)(
                    error.errno, f"{error.strerror} (the variable DIFFUSION_LAB_DATA moves it)"
                ) from error
            state.unlink(missing_ok=True)
            branch = "trained here, just now"
    model = checkpoints.load(path)
    about = model.about
    print(
        f"{name}: {branch}, sha256 {sha256(path)[:12]}\n"
        f"trained for {about['recipe']['steps']:,} steps in {about['cpu_seconds']:,.0f} "
        f"core-seconds ({about['machine']})\nby: {about['command']}"
    )
    return model


def _made_by(path: Path) -> dict[str, Any] | None:
    """The recipe in the header of a checkpoint; None for a file that is none, or damaged."""
    try:
        return ADDED | checkpoints.info(path)["recipe"]
    except (CheckpointError, KeyError, TypeError):
        return None
