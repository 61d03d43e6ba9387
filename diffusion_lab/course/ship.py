"""Ship a trained model: measure it, write the result into its header, enter it in the index.

    python -m diffusion_lab.course.ship NAME --from runs/NAME.safetensors --metrics
    python -m diffusion_lab.course.ship --reference fashion

NAME is a recipe. The file may also be the saved state of a training
(``runs/NAME.state.safetensors``): its averaged weights are shipped then, marked ``interim`` where
it is still running. How pictures are drawn is no part of a training and may be tuned after it: the
header says what the recipe says now.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints, data, grids, metrics
from diffusion_lab.bound import prior_term, vlb_term
from diffusion_lab.course import cards, told
from diffusion_lab.course.bench.shipped import draw
from diffusion_lab.data import store
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator, randn
from diffusion_lab.errors import CheckpointError, DataError
from diffusion_lab.forward import noised
from diffusion_lab.latent import diffae, divae, prior
from diffusion_lab.latent.autoencoder import quality
from diffusion_lab.latent.covariates import agreement
from diffusion_lab.latent.first_stage import first_stage
from diffusion_lab.latent.vq import levels_quality
from diffusion_lab.metrics.frechet import PARTS, build_reference, forget
from diffusion_lab.training import header, recipes, tasks
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.resume import averaged_run
from diffusion_lab.words import JointEmbedding
from diffusion_lab.words import found as what_is_found

__all__ = [
    "accuracy",
    "bound_terms",
    "embedding_quality",
    "open_model",
    "picture_quality",
    "ship",
    "ship_reference",
]

LICENCE = "MIT, the course's own (LICENSE)"
LEVELS = (5.0, 2.0, 1.0, 0.0, -0.5, -1.0, -2.0)
"""The lambda at which an embedding is asked."""

DATA_SOURCE = {
    "fashion": "trained by this course on Fashion-MNIST, arXiv 1708.07747",
    "digits": "trained by this course on the 8x8 digits of scikit-learn, 10.24432/C50P49",
    "emoji": "trained by this course on Noto Emoji at 32x32 (data/emoji.md)",
    "phantoms": "trained by this course on phantoms of its own (data/phantoms.md)",
}


def open_model(name: str, file: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of recipe ``name`` in a finished checkpoint or a saved state, and its header.

    Raises CheckpointError where the file holds another recipe's model.
    """
    recipe = recipes.get(name)
    tensors, head = checkpoints.load_tensors(file)
    given = head.get("recipe", {}).get("name")
    if given != name:
        raise CheckpointError(f"{file} holds a model of {given!r}, not of {name!r}")
    if not any(key.startswith("ema.") for key in tensors):
        model = checkpoints.load(Path(file))
        return model, model.about | {"recipe": head["recipe"] | {"sampler": recipe.sampler}}
    recipe = Recipe(**head["recipe"] | {"sampler": recipe.sampler})
    pictures = data.load(recipe.data, "train", full=recipe.full)
    run = averaged_run(recipe, tasks.find(recipe.task)(recipe, pictures).models, tensors, head)
    model, *others = run.average.values()
    if others:
        raise CheckpointError(f"{file} holds several models: {', '.join(run.average)}")
    about = header.about(run, pictures, None, head["cpu_seconds"])
    if head["step"] < head["steps"]:
        about |= {"interim": True, "step": head["step"]}
    return model.eval().requires_grad_(False), about


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _distance(x: Tensor, name: str) -> dict[str, float]:
    """``fd`` of pictures to the reference of their data, and ``fd_in_A`` in units of the anchor."""
    distance = metrics.fd(x, name)
    return {"fd": _short(distance), "fd_in_A": _short(distance / metrics.anchor(name).value)}


@torch.no_grad()
def accuracy(model: nn.Module, name: str) -> dict[str, Any]:
    """Share of the test pictures that a classifier gets right: the full test set if it is there."""
    try:
        test = data.load(name, "test", full=name == "fashion")
    except DataError:
        test = data.load(name, "test")
    where = next(model.parameters()).device
    found = torch.cat([model(part.to(where)).argmax(1).cpu() for part in test.x.split(500)])
    right = (found == test.labels).double().mean().item()
    most = test.labels.bincount().max().item() / len(test)
    share = {"majority": round(most, 4)} if len(set(test.labels.bincount().tolist())) > 1 else {}
    return {"test_accuracy": round(right, 4), "test_pictures": len(test)} | share


def embedding_quality(model: JointEmbedding) -> dict[str, Any]:
    """What a joint embedding finds among held-out emoji, by captions, names, and through noise."""

    def rounded(**options: Any) -> dict[str, float]:
        return {k: round(v, 4) for k, v in what_is_found(model, **options).items()}

    levels = {f"{lam:g}": rounded(lam=lam)["text_recall_10"] for lam in LEVELS}
    names = rounded(keep={"name": 1.0})
    return {"captions": rounded(), "names": names, "rare": rounded(split="rare"), "noise": levels}


@torch.no_grad()
def reconstruction_quality(model: nn.Module, name: str) -> dict[str, Any]:
    """How near pictures of each part come back, and the FD of all that do: what no draw can beat.

    The FD is of the very pictures of the reference (``metrics.frechet.PARTS``), so its floor is 0.
    Phantoms have no frozen features: their parameters are measured instead, r with the true ones.
    """

    def rounded(values: dict[str, Any]) -> dict[str, Any]:
        short = {k: [_short(one) for one in v] for k, v in values.items() if isinstance(v, list)}
        return {k: _short(v) for k, v in values.items() if k not in short} | short

    found, back = {}, []
    for split in dict.fromkeys(("train", "test", *PARTS.get(name, ()))):
        part = data.load(name, split)
        one = levels_quality(model, part) if hasattr(model, "quantisers") else quality(model, part)
        found[split] = rounded(one)
        if split in PARTS.get(name, ("test",)):
            where = next(model.parameters()).device
            back += [model(some.to(where)).cpu().clamp(-1, 1) for some in part.x.split(256)]
    if name == "phantoms":
        wanted = data.load(name, "test").condition["covariates"]
        return {"reconstruction": found, "r": rounded(agreement(wanted, torch.cat(back)))}
    distance = {f"r{key}": value for key, value in _distance(torch.cat(back), name).items()}
    return {"reconstruction": found, **distance}


def two_codes_quality(models: nn.ModuleDict, recipe: Recipe, n: int = 2000) -> dict[str, Any]:
    """How near test pictures come back from z and their own x_T, and from z and other noise.

    ``rmse_own`` and ``rmse_other``: root mean square errors on 500 pictures with the recipe's steps
    of DDIM, up and down. ``fd``: of all n with other noise, to the whole test part.
    """
    model, x = models["model"], data.load(recipe.data, "test").x[:n]
    times = grids.grid(
        model.schedule, recipe.sampler["steps"], "uniform", lam_range=model.lam_range
    )
    z, x_T = diffae.codes(models, x[:500], times)
    own = diffae.decode(model, z, x_T, times)
    noise = randn(x.shape, generator(0, 95))
    parts = zip(prior.encoded(models["encoder"], x).split(500), noise.split(500))
    other = torch.cat([diffae.decode(model, some, fresh, times) for some, fresh in parts])
    wrong = {"rmse_own": own - x[:500], "rmse_other": other[:500] - x[:500]}
    found = {name: _short(one.square().mean().sqrt().item()) for name, one in wrong.items()}
    return found | {
        "pictures": len(x),
        "steps": recipe.sampler["steps"],
        **_distance(other, recipe.data),
    }


def prior_quality(models: nn.ModuleDict, recipe: Recipe, n: int = 2000) -> dict[str, Any]:
    """FD of n pictures of new z and new noise, by the decoder of the autoencoder it is of."""
    pair = first_stage(recipe.options["autoencoder"])
    model, how = pair["model"], pair.about["recipe"]["sampler"]
    times = grids.grid(model.schedule, how["steps"], "uniform", lam_range=model.lam_range)
    z = prior.draw(models, n, seed=0, **recipe.sampler)
    noise = randn((n, *model.shape), generator(0, 95))
    parts = zip(z.split(500), noise.split(500))
    x = torch.cat([diffae.decode(model, some, fresh, times) for some, fresh in parts])
    return {"pictures": n, "steps": how["steps"], **_distance(x, recipe.data)}


def decoder_quality(model: NetDenoiser, recipe: Recipe, n: int = 2000) -> dict[str, Any]:
    """A decoder that draws beside the one that answers with a mean, on n test pictures.

    ``mse``: mean squared error to the pictures; ``fd``: of what comes back, to the whole test part;
    ``consistency``: share of codes that are the same when it is encoded again.
    """
    mean, x = first_stage(recipe.options["autoencoder"]), data.load(recipe.data, "test").x[:n]
    with metrics.Meter(model, mean, pictures=len(x)) as spent:
        drawn = divae.redrawn(model, mean, x, seed=0, **recipe.sampler)
    with torch.no_grad():
        answers = {"mean": mean(x).clamp(-1, 1), "drawn": drawn.x.clamp(-1, 1)}
    found: dict[str, Any] = {
        "pictures": len(x),
        "nfe": drawn.nfe,
        "core_seconds_per_1000": spent.cost.cpu_seconds_per_1000,
    }
    for way, answer in answers.items():
        found[way] = {
            "mse": (answer - x).square().mean().item(),
            **_distance(answer, recipe.data),
            "consistency": divae.consistency(mean, x, answer),
        }
    return found


def _shortened(found: dict[str, Any]) -> dict[str, Any]:
    """Four digits of every number, however deep."""
    return {k: _shortened(v) if isinstance(v, dict) else _short(v) for k, v in found.items()}


def picture_quality(model: NetDenoiser, recipe: Recipe, n: int = 5000) -> dict[str, Any]:
    """Fréchet distance of n pictures by the recipe's sampler, and what 1,000 of them cost.

    With classes (as many of each) it is measured with the recipe's guidance, if it has one, and
    without. ``_in_A`` is in units of the anchor (``metrics.anchor``).
    """
    n = min(n, len(data.load(recipe.data, "train")))
    anchor = metrics.anchor(recipe.data).value
    found: dict[str, Any] = {"pictures": n, "anchor_A": _short(anchor)}
    options = dict(recipe.sampler)
    scale = options.pop("scale", None)
    ways = {"plain" if model.num_classes is None else "unguided": None}
    if model.num_classes is not None and scale not in (None, 1):
        ways = {"guided": scale} | ways
    for way, strength in ways.items():
        x, cost = draw(model, n, options | {"scale": strength}, seed=0)
        found[way] = {
            **_distance(x.cpu(), recipe.data),
            "nfe": cost.nfe,
            "core_seconds_per_1000": round(cost.cpu_seconds_per_1000, 2),
        }
        if strength is not None:
            found[way]["scale"] = strength
    return found


@torch.no_grad()
def bound_terms(model: NetDenoiser, recipe: Recipe, each: int = 4) -> dict[str, Any]:
    """The variational bound on test pictures in bits/dim, every step asked on ``each`` of them.

    ``prior`` is L_T, ``steps`` the sum of the L_{t-1}, ``decoder`` L_0; ``simple`` is the mean of
    |eps - eps_hat|^2 over steps and pixels.
    """
    test, schedule = data.load(recipe.data, "test"), model.schedule
    gen = generator(recipe.seed, 3)
    where = next(model.parameters()).device
    terms, simple = [], []
    for i in range(1, schedule.T + 1):
        x0 = test.x[torch.randint(len(test), (each,), generator=gen, device="cpu")].to(where)
        eps = randn(x0.shape, gen).to(where)
        t = torch.full((each,), i / schedule.T, dtype=torch.float64, device=where)
        pred = model(noised(x0, eps, schedule, t), t)
        variance = "learned" if model.learned_var else "small"
        bits = vlb_term(pred, x0, schedule, t, variance=variance, levels=test.levels)
        terms.append(bits.mean().item())
        simple.append((pred.eps - eps).square().mean().item())
    prior = prior_term(test.x[:500], schedule).mean().item()
    parts = {"prior": prior, "steps": sum(terms[1:]), "decoder": terms[0]}
    return {
        "bits_per_dim": {
            "total": round(sum(parts.values()), 4),
            **{k: round(v, 5) for k, v in parts.items()},
        },
        "simple_loss": round(sum(simple) / len(simple), 5),
        "asked": each * schedule.T,
    }


def ship(
    name: str, file: str | Path, *, measure: bool = True, n: int = 5000, half: bool = False
) -> Path:
    """Measure, save to ``data/checkpoints/NAME.safetensors``, register, write its card.

    With ``half`` its weights are stored as fp16, and it is these that are measured. Returns the
    path of the weights.
    """
    recipe = recipes.get(name)
    model, about = open_model(name, file)
    if half:
        for one in (*model.parameters(), *model.buffers()):
            if one.dtype == torch.float32:
                one.data = one.half().float()
    made = about["command"]
    source = Path(file).name if about.get("interim") else f"{name}.safetensors"
    command = f"python -m diffusion_lab.course.ship {name} --from runs/{source}"
    command += " --half" if half else ""
    if measure:
        command += " --metrics" + (f" --n {n}" if n != 5000 else "")
        found: dict[str, Any] = {
            "command": command,
            "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}, "
            f"{torch.get_num_threads()} thread(s), {next(model.parameters()).device.type}",
        }
        if recipe.task == "classifier":
            found |= accuracy(model, recipe.data)
        elif isinstance(model, JointEmbedding):
            found |= embedding_quality(model)
        elif hasattr(model, "decode"):
            found |= reconstruction_quality(model, recipe.data)
        elif isinstance(model, nn.ModuleDict):
            own = two_codes_quality if "encoder" in model else prior_quality
            found |= own(model, recipe)
        elif recipe.options.get("captions"):
            found |= _shortened(told.obedience(model, **recipe.sampler))
        elif recipe.data == "phantoms":
            found |= _shortened(told.phantoms_quality(model, **recipe.sampler))
        elif recipe.conditional == ("codes",):
            found |= _shortened(decoder_quality(model, recipe))
        else:
            found |= picture_quality(model, recipe, n)
            if recipe.hybrid:
                found |= bound_terms(model, recipe)
        about = about | {"metrics": found}
    path = store.folder() / "checkpoints" / f"{name}.safetensors"
    checkpoints.save(path, model, about, half=half)
    note = {"interim": about["step"]} if about.get("interim") else {}
    made += " --out runs" if made.startswith("diffusion-lab train") and "&&" not in made else ""
    how = f"{made}; {command}"
    store.register(path, licence=LICENCE, source=DATA_SOURCE[recipe.data], recipe=how, **note)
    cards.write(name)
    forget()
    return path


def ship_reference(name: str) -> Path:
    """Make and register the feature statistics of a full test set."""
    path = build_reference(name)
    command = f"python -m diffusion_lab.course.ship --reference {name}"
    store.register(path, licence=LICENCE, source=DATA_SOURCE[name], recipe=command)
    forget()
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of the module's docstring; prints the path and the metrics."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.course.ship", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", nargs="?", help="the recipe whose model is shipped")
    parser.add_argument("--from", dest="file", help="checkpoint or saved state of its training")
    parser.add_argument("--metrics", action="store_true", help="measure the model first")
    parser.add_argument("--n", type=int, default=5000, help="pictures to measure with")
    parser.add_argument("--half", action="store_true", help="store the weights as fp16")
    parser.add_argument("--reference", metavar="DATA", help="ship the statistics of a test set")
    given = parser.parse_args(arguments)
    if (given.name is None) == (given.reference is None):
        parser.error("give a recipe and --from FILE, or --reference DATA")
    if given.name is not None and given.file is None:
        parser.error(f"where is the model? --from runs/{given.name}.safetensors")
    try:
        if given.reference is not None:
            path = ship_reference(given.reference)
        else:
            path = ship(given.name, given.file, measure=given.metrics, n=given.n, half=given.half)
    except (ValueError, CheckpointError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path, checkpoints.info(path).get("metrics", ""), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
