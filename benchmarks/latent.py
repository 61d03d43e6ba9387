"""What lesson 12 prints of latent diffusion: samplers on phantoms, and scales of guidance.

    phantoms    the shipped phantoms-ldm, 256 phantoms as the test part asks for them, from two
                seeds: ancestral sampling with 1,000 steps, DDIM with 50, 20 and 10, ++(2M) with 10.
                Mean squared error to the true phantom, correlation of what was asked for and
                what is measured, MS-SSIM of pairs (two scales, as at 32 x 32 no more fit), and
                core-seconds, decoder included
    decoders    where the codes enter a decoder that draws (DiVAE): the same 1,000 steps of training
                for each place, two seeds. Root mean square error of x0 on test pictures at three
                noise levels, and the difference picture by picture, as both places are asked on
                the same noises
    words       the models told captions, one picture for each caption of train, test and rare at
                several scales of guidance: ``course.told.obedience``
    equal       emoji-ldm trained so briefly that it and its autoencoder cost as many core-seconds
                as emoji-text, at two scales
    bits        of the codes of 64 training and 64 test emoji, by the two models of codes

    python benchmarks/latent.py phantoms decoders words equal bits     # about an hour
    python benchmarks/latent.py words --model emoji-ldm
    python benchmarks/latent.py --tiny             # seconds, to see that it runs; writes nothing

Runs on one thread. Each part replaces its own entry.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_lab import checkpoints, data, metrics
from diffusion_lab.course import told
from diffusion_lab.course.bench import measured
from diffusion_lab.data import emoji
from diffusion_lab.data.captions import full_caption, tokeniser
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import generator, randn
from diffusion_lab.discrete import categorical
from diffusion_lab.generate import generate
from diffusion_lab.latent import divae, ldm
from diffusion_lab.latent.covariates import agreement
from diffusion_lab.training import recipes, train
from diffusion_lab.training.recipes import Recipe

COMMAND = "python benchmarks/latent.py phantoms decoders words equal bits"
RESULT = "measured/latent.json"
SAMPLERS = {
    "DDPM, 1000": {"sampler": "ddpm", "steps": 1000},
    "DDIM, 50": {"sampler": "ddim", "steps": 50},
    "DDIM, 20": {"sampler": "ddim", "steps": 20},
    "DDIM, 10": {"sampler": "ddim", "steps": 10},
    "++(2M), 10": {"sampler": "dpmpp", "steps": 10},
}
SEEDS = (0, 1)
SCALES = (1.0, 2.0, 3.0, 5.0)
TOLD = ("emoji-ldm", "emoji-text", "emoji-vqdiffusion", "emoji-ar")


def alike(x: Tensor) -> float:
    """Mean MS-SSIM of neighbours in a set (N, 1, 32, 32), on two scales: 1 where all are one."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    x = ((x + 1) / 2).clamp(0, 1)
    return float(
        multiscale_structural_similarity_index_measure(
            x, x.roll(1, 0), kernel_size=7, betas=(0.5, 0.5), data_range=1.0
        )
    )


def of_phantoms(tiny: bool) -> dict[str, Any]:
    """Each sampler from the same noise, seed by seed."""
    model, decoder = told.stages(checkpoints.load("phantoms-ldm", device="cpu"))
    real = data.load("phantoms", "test")
    n = 8 if tiny else 256
    x, wanted = real.x[:n], real.condition["covariates"][:n]
    with torch.no_grad():
        back = decoder(x).clamp(-1, 1)
    found: dict[str, Any] = {
        "pictures": n,
        "seeds": len(SEEDS),
        "real": {"ms_ssim": alike(x), "r": agreement(wanted, x)},
        "autoencoder": {
            "mse": (back - x).square().mean().item(),
            "ms_ssim": alike(back),
            "r": agreement(wanted, back),
        },
        "samplers": {},
    }
    for name, options in SAMPLERS.items():
        rows = []
        for seed in SEEDS[: 1 if tiny else None]:
            given = options | {"steps": min(options["steps"], 20)} if tiny else options
            with metrics.Meter(model, decoder, pictures=n) as spent:
                z = generate(model, n, seed=seed, condition={"covariates": wanted}, **given)
                drawn = ldm.decode(model, z.x, decoder).clamp(-1, 1)
            rows.append(
                {
                    "mse": (drawn - x).square().mean().item(),
                    "ms_ssim": alike(drawn),
                    "r": agreement(wanted, drawn),
                    "r_mixed": agreement(wanted.roll(1, 0), drawn)["ventricle"],
                    "nfe": z.nfe,
                    "core_seconds_per_1000": spent.cost.cpu_seconds_per_1000,
                    "mflop": spent.cost.flops / 1e6,
                }
            )
        found["samplers"][name] = rows
        mse = statistics.mean(row["mse"] for row in rows)
        print(f"{name}: mse {mse:.5f}, ventricles {rows[0]['r']['ventricle']:.3f}", flush=True)
    return found


def trained(recipe: Recipe) -> Denoiser:
    """The model of a recipe, trained here and kept nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in train(recipe, out=folder):
            pass
        return checkpoints.load(f"{folder}/{recipe.name}.safetensors", device="cpu")


LEVELS = (-2.0, 0.0, 2.0)


def of_decoders(tiny: bool) -> dict[str, Any]:
    """The same short training for each place where codes may enter."""
    first = checkpoints.load("fashion-vq", device="cpu")
    x = data.load("fashion", "test").x[: 8 if tiny else 500]
    codes, noise = divae.embedded(first, x), randn(x.shape, generator(0, 96))
    base, steps = recipes.get("fashion-divae"), 2 if tiny else 1000
    wrong: dict[tuple[str, int], list[Tensor]] = {}
    for place in divae.PLACES:
        for seed in SEEDS:
            recipe = base.but(steps=steps, seed=seed, net=base.net | {"place": place})
            model = trained(recipe)
            wrong[place, seed] = []
            for lam in LEVELS:
                t = model.schedule.t_of_lam(lam)
                alpha, sigma = model.schedule.alpha_sigma(t)
                parts = zip((alpha * x + sigma * noise).split(250), codes.split(250))
                with torch.no_grad():
                    hat = torch.cat([model(x_t, t, codes=e).x0 for x_t, e in parts])
                wrong[place, seed].append((hat - x).square().mean((1, 2, 3)))
            print(place, seed, [round(one.mean().item() ** 0.5, 4) for one in wrong[place, seed]])
    one, other = divae.PLACES
    rows = []
    for i, lam in enumerate(LEVELS):
        row: dict[str, Any] = {"lam": lam}
        for place in divae.PLACES:
            row[place] = [wrong[place, seed][i].mean().item() ** 0.5 for seed in SEEDS]
        apart = [wrong[one, seed][i] - wrong[other, seed][i] for seed in SEEDS]
        row["apart"] = [d.mean().item() for d in apart]
        row["apart_error"] = [d.std().item() / len(d) ** 0.5 for d in apart]
        rows.append(row)
    return {"pictures": len(x), "steps": steps, "seeds": len(SEEDS), "levels": rows}


def of_words(tiny: bool, names: Sequence[str] = TOLD) -> dict[str, Any]:
    """The shipped models that are told captions, at each scale, with their recipes' samplers."""
    found: dict[str, Any] = {}
    for name in names:
        model = checkpoints.load(name, device="cpu")
        found[name] = {"trained_core_seconds": model.about["cpu_seconds"], "scales": {}}
        # one code after another, guidance asks twice and cannot keep what it computed: hours
        for scale in SCALES[: 1 if tiny or name == "emoji-ar" else None]:
            settings = dict(model.about["recipe"]["sampler"]) | {"scale": scale}
            if tiny:
                drawn = told.draw(model, ["red heart"], **settings)
                print(name, tuple(drawn.x.shape))
                continue
            one = told.obedience(model, **settings)
            found[name]["scales"][f"{scale:g}"] = one
            held = one["held_out"]
            said = f"FD {one['fd_in_A']:.2f} A, judged {held['judged']:.3f}"
            said += f", chosen {held['chosen']:.3f}, copied {held['copied']:.3f}"
            print(f"{name}, scale {scale:g}: {said}", flush=True)
    return found


SHORT = 5000  # steps: with its autoencoder as many core-seconds as emoji-text had


def of_equal(tiny: bool) -> dict[str, Any]:
    """emoji-ldm trained so briefly that autoencoder and denoiser cost what emoji-text did."""
    recipe = recipes.get("emoji-ldm").but(steps=2 if tiny else SHORT)
    model = trained(recipe)
    found: dict[str, Any] = {"trained_core_seconds": model.about["cpu_seconds"], "scales": {}}
    for scale in () if tiny else (2.0, 3.0):
        settings = dict(recipe.sampler) | {"scale": scale}
        one = found["scales"][f"{scale:g}"] = told.obedience(model, **settings)
        held = one["held_out"]
        print(f"short, scale {scale:g}: FD {one['fd_in_A']:.2f} A, {held}", flush=True)
    return found


def of_bits(tiny: bool) -> dict[str, Any]:
    """Bits of the codes of an emoji, told its caption: exact one by one, a bound of the others."""
    names = ("emoji-vq", "emoji-vqdiffusion", "emoji-ar")
    autoencoder, *models = (checkpoints.load(name, device="cpu") for name in names)
    found: dict[str, Any] = {}
    for part in ("train", "test"):
        n = 4 if tiny else 64
        x, said = data.load("emoji", part).x[:n], emoji.records(part)[:n]
        tokens, _ = tokeniser().encode_all([full_caption(one) for one in said])
        with torch.no_grad():
            fine, coarse = autoencoder.encode(x)
        codes = torch.cat([coarse.flatten(1), fine.flatten(1)], 1)
        for name, model in zip(names[1:], models):
            if name == "emoji-ar":
                bits = model.bits(codes, tokens=tokens)
            else:
                steps = 4 if tiny else None
                terms = categorical.bound(model, codes, generator(0), steps=steps, tokens=tokens)
                bits = terms.sum(0)
            error = bits.std().item() / len(bits) ** 0.5
            found.setdefault(name, {})[part] = {"bits": bits.mean().item(), "error": error}
            print(name, part, found[name][part], flush=True)
    return found | {"pictures": n, "uniform": codes.shape[1] * math.log2(128)}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "phantoms": of_phantoms,
    "decoders": of_decoders,
    "words": of_words,
    "equal": of_equal,
    "bits": of_bits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--model", choices=TOLD, help="words: this one alone, beside those known")
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts or PARTS:
        one = {"names": (given.model,)} if part == "words" and given.model else {}
        found = PARTS[part](given.tiny, **one)
        if not given.tiny:
            measured.add(RESULT, part, found, COMMAND, into=bool(one))


if __name__ == "__main__":
    main()
