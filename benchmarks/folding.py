"""What does folding the pixels buy, and what does it cost? One U-Net with and without the fold.

The recipe ``fashion-1min`` is trained three times for the same number of steps: with 2 x 2 pixels
folded into channels and the answer unfolded; folded, with the answer made at full resolution
(``fine``, as the shipped networks are); and not folded at all. All else is equal. Of pictures drawn
from the same noise with the recipe's sampler, the mean power of the waves that have period two in
x, in y or in both, divided by that of real test pictures: 1 is right. Its error is the scatter over
the pictures. Lesson 03 reads the result.

    python benchmarks/folding.py --seeds 2 # about 7 core-minutes for each seed; resumes
    python benchmarks/folding.py --tiny    # seconds, to see that it runs; writes nothing

Runs on one thread (OMP_NUM_THREADS=1 before it, to be sure).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import data, metrics
from diffusion_lab.course.bench import measured
from diffusion_lab.files import write_atomically
from diffusion_lab.generate import generate
from diffusion_lab.training import recipes, train

NETS = {
    "folded": {"patch": 2},
    "folded, fine answer": {"patch": 2, "fine": 16},
    "not folded": {"patch": 1},
}
WAVES = ((14, 14), (14, 0), (0, 14), (13, 13), (12, 12), (7, 7))
COMMAND = "python benchmarks/folding.py --seeds"
RESULT = "measured/folding.json"


def powers(x: torch.Tensor) -> torch.Tensor:
    """Power of ``WAVES`` in each picture (N, 1, 28, 28): (N, len(WAVES))."""
    found = torch.fft.fft2(x.clamp(-1, 1).double()).abs().square()[:, 0]
    return torch.stack([found[:, i, j] for i, j in WAVES], 1)


def one(net: str, seed: int, steps: int, pictures: int) -> dict[str, Any]:
    """Train, draw, measure: one row of the result."""
    recipe = recipes.get("fashion-1min")
    recipe = recipe.but(net=recipe.net | NETS[net], steps=steps, seed=seed)
    *_, last = train(recipe, report_every=max(steps // 6, 1))
    label = torch.arange(pictures) % 10
    x = generate(last.model, pictures, label=label, seed=6, **recipe.sampler).x.cpu()
    real = powers(data.load("fashion", "test").x).mean(0)
    ratio = powers(x) / real
    error = ratio.std(0) / math.sqrt(pictures)
    fd = metrics.fd_estimate(x) / metrics.anchor().value
    return {
        "net": net,
        "seed": seed,
        "parameters": metrics.count_parameters(last.model),
        "core_seconds": round(last.cpu_seconds, 1),
        "loss": round(last.loss, 4),
        "mflop": round(metrics.count_flops(last.model) / 1e6, 1),
        "fd": round(fd.value, 3),
        "fd_error": round(fd.error, 3),
        "ratio": [round(v, 3) for v in ratio.mean(0).tolist()],
        "error": [round(v, 3) for v in error.tolist()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each network")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of what is done")
    given = parser.parse_args()
    torch.set_num_threads(1)
    steps, seeds, pictures = (6, 1, 100) if given.tiny else (600, given.seeds, 500)
    so_far = given.runs / f"folds-{steps}-{pictures}.json"
    done = not given.tiny and so_far.is_file()
    rows: list[dict[str, Any]] = json.loads(so_far.read_text()) if done else []
    for seed in range(seeds):
        for net in NETS:
            if any((row["net"], row["seed"]) == (net, seed) for row in rows):
                continue
            rows.append(one(net, seed, steps, pictures))
            print(rows[-1], flush=True)
            if not given.tiny:
                so_far.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(so_far, json.dumps(rows).encode())
    if given.tiny:
        return
    result = {
        "command": f"{COMMAND} {seeds}",
        "recipe": "fashion-1min",
        "steps": steps,
        "pictures": pictures,
        "unit": "A",
        "floor": round(metrics.real_floor(pictures)[0] / metrics.anchor().value, 3),
        "waves": WAVES,
        "rows": [row for row in rows if row["seed"] < seeds],
    }
    measured.write(RESULT, result, result["command"])


if __name__ == "__main__":
    main()
