"""Does the folding show? Power of drawn over real pictures at the three waves of period 2.

A network that folds 2 x 2 pixels into channels makes an error of its own for each of the four, and
what differs from pixel to pixel inside a block has period 2: the waves (pi, 0), (0, pi), (pi, pi).
For each model its recipe's own sampler draws pictures from several seeds, and this prints

    power      at each wave, over that of the test pictures, with its 95% interval
    FD         mean and standard error over the seeds, to the full test set
    seconds    core-seconds of 1,000 pictures

    python benchmarks/waves.py fashion runs/fashion.safetensors    # shipped names or files
    python benchmarks/waves.py fashion-vp1000 --seeds 1 --pictures 2000

Runs on one thread (OMP_NUM_THREADS=1 before it, to be sure).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from diffusion_lab import checkpoints, data, metrics
from diffusion_lab.course.bench.shipped import draw

WAVES = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1)}
"""Half turns from pixel to pixel, down and across."""


def powers(x: Tensor) -> dict[str, Tensor]:
    """Power of each picture (N, C, H, W) in [-1, 1] at each wave, a pixel and channel: (N,)."""
    x = x.clamp(-1, 1).double()
    down, across = ((-1.0) ** torch.arange(n) for n in x.shape[2:])
    found = {}
    for name, (i, j) in WAVES.items():
        wave = torch.outer(down**i, across**j)
        found[name] = (x * wave).sum((2, 3)).square().mean(1) / wave.numel()
    return found


def ratio(drawn: Tensor, real: Tensor) -> tuple[float, float, float]:
    """Mean of ``drawn`` over mean of ``real``, (N,) each, and the ends of its 95% interval.

    The interval is symmetric in the logarithm; both sets scatter.
    """
    found = (drawn.mean() / real.mean()).item()
    relative = [(p.std() / p.mean()).item() / math.sqrt(len(p)) for p in (drawn, real)]
    factor = math.exp(1.96 * math.hypot(*relative))
    return found, found / factor, found * factor


def measure(name: str, seeds: int, pictures: int) -> dict[str, Any]:
    """All numbers of one model: a shipped name or a file."""
    model = checkpoints.load_denoiser(name, device="cpu")
    settings, about = model.about["recipe"]["sampler"], model.about["data"]
    sets, fds, seconds = [], [], []
    for seed in range(1, seeds + 1):
        x, cost = draw(model, pictures, settings, seed=seed)
        sets.append(powers(x))
        fds.append(metrics.fd(x, about["name"]))
        seconds.append(cost.cpu_seconds_per_1000)
    real = powers(data.load(about["name"], "test").x)
    return {
        "model": name,
        "parameters": metrics.count_parameters(model),
        "pictures": pictures,
        "power": {
            wave: [round(v, 3) for v in ratio(torch.cat([one[wave] for one in sets]), real[wave])]
            for wave in WAVES
        },
        "fd": [round(one, 4) for one in fds],
        "fd_mean": round(statistics.mean(fds), 4),
        "fd_error": round(statistics.stdev(fds) / math.sqrt(seeds), 4) if seeds > 1 else None,
        "nfe": cost.nfe,
        "core_seconds_per_1000": round(statistics.median(seconds), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", default=["fashion"], help="shipped names or files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=5000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        print(json.dumps(measure(name, given.seeds, given.pictures)), flush=True)


if __name__ == "__main__":
    main()
