"""DDPM's simple loss against the bound, on digits: three objectives, several seeds.

It runs the cells of lesson 02 that hold the recipe, the yardstick of ten Gaussians and ``fit``, so
what is measured here is the training that the lesson shows, with more seeds, all test digits and
more drawn ones. All models of a seed have the same first weights, and all models are
judged on the same digits with the same noise: differences of two rows are paired, digit by digit.

    python benchmarks/objectives.py             # about 15 core-minutes; resumes where it was killed
    python benchmarks/objectives.py --tiny      # seconds, to see that it runs; writes nothing

Runs on one thread (OMP_NUM_THREADS=1 before it, to be sure).
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import data, metrics
from diffusion_lab.bound import bounds
from diffusion_lab.course.bench import measured
from diffusion_lab.device import generator
from diffusion_lab.files import write_atomically
from diffusion_lab.generate import generate
from diffusion_lab.metrics.likelihood import dequantise

SOURCE = Path(__file__).resolve().parents[1] / "notebooks/source/02_learning_to_go_back.py"
CELLS = ("imports", "recipe", "exact-imports", "mixture", "ridge", "more-imports", "fit")
OBJECTIVES = ("hybrid", "bound, uniform t", "bound, t by loss")
KINDS = ("small", "large", "learned", "best")
COMMAND = "python benchmarks/objectives.py"
RESULT = "measured/objectives.json"


def lesson() -> dict[str, Any]:
    """The names that the cells of lesson 02 define."""
    text = SOURCE.read_text(encoding="utf-8")
    found = dict(re.findall(r'^# %% name="([\w-]+)".*\n((?:(?!# %%).*\n)+)', text, re.MULTILINE))
    names: dict[str, Any] = {}
    for cell in CELLS:
        exec(found[cell], names)
    return names


def judged(net: Any, held_out: Any, levels: int, anchor: float, pictures: int) -> dict[str, Any]:
    """Bits of each test digit with the learned variance, mean bits with all, and the distance."""
    found = bounds(net, held_out, noise=generator(6), variances=KINDS, levels=levels, batch=600)
    walk = {"sampler": "ddpm", "variance": "learned", "steps": 50, "spacing": "linspace"}
    drawn = generate(net, pictures, seed=1, **walk)
    return {
        "bits": {kind: round(found[kind].total, 4) for kind in KINDS},
        "fd": round(metrics.fd(drawn.x, "digits") / anchor, 3),
        "each": found["learned"].each.tolist(),
    }


def measure(steps: int, seeds: int, pictures: int, digits: int, folder: Path) -> dict[str, Any]:
    """All runs, as the JSON that is stored."""
    here, test = lesson(), data.load("digits", "test")
    held_out, anchor = test.x[:digits], metrics.noise_anchor(pictures, "digits")
    floor, spread = metrics.real_floor(pictures, "digits", balanced=False)
    some = dequantise(held_out.flatten(1).double(), test.levels, generator(4))
    gauss = 3 - here["fitted"].log_prob(some) / (64 * here["LN2"])
    runs: dict[str, Any] = {}
    for seed, name in itertools.product(range(seeds), OBJECTIVES):
        file = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
        if not file.is_file():
            net, cost = metrics.measure(
                here["build"](here["recipe"], here["digits"]),
                lambda name=name, seed=seed: here["fit"](name, steps, seed),
                pictures=1,
            )
            run = judged(net, held_out, test.levels, anchor, pictures)
            run["core_seconds"] = round(cost.cpu_seconds, 1)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(run).encode())
        runs[f"{name}, seed {seed}"] = json.loads(file.read_text())
        print(name, seed, {k: v for k, v in runs[f"{name}, seed {seed}"].items() if k != "each"})

    def pair(more: torch.Tensor, less: torch.Tensor) -> list[float]:
        gap = metrics.Estimate.of(more - less)
        return [round(gap.value, 4), round(gap.error, 4)]

    each = {name: torch.tensor(run.pop("each"), dtype=torch.float64) for name, run in runs.items()}
    for name, run in runs.items():
        run["error"] = round(metrics.Estimate.of(each[name]).error, 4)
        run["below_gaussians"] = pair(gauss, each[name])
    pairs = {
        f"{more} - {less}": [
            pair(each[f"{more}, seed {seed}"], each[f"{less}, seed {seed}"])
            for seed in range(seeds)
        ]
        for more, less in itertools.combinations(OBJECTIVES, 2)
    }
    return {
        "command": COMMAND,
        "unit": "A",
        "digits": len(held_out),
        "pictures": pictures,
        "steps": steps,
        "seeds": seeds,
        "ridge": here["ridge"],
        "gaussians": metrics.Estimate.of(gauss).value,
        "gaussians_error": metrics.Estimate.of(gauss).error,
        "floor": round(floor / anchor, 3),
        "spread": round(spread / anchor, 3),
        "runs": runs,
        "pairs": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"), help="what is done")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.tiny:
        print(measure(3, 1, 70, 4, given.runs / "tiny"))
        return
    result = measure(700, 4, 1000, 297, given.runs)
    measured.write(RESULT, result, COMMAND)


if __name__ == "__main__":
    main()
