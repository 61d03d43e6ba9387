"""How few steps? DDIM at four noise shares and FastDPM's ways to choose steps, on one network.

The shipped network on 1000 linear steps draws the same number of pictures from the same start
noise with each setting; the Fréchet distance (frozen features, units of the anchor A) has its
standard error beside it, and the floor is that of as many real pictures, averaged over draws.
Lesson 05 reads the result.

    python benchmarks/jumping.py                # about 4 core-minutes; resumes where it was killed
    python benchmarks/jumping.py --seconds 100  # as many settings as fit, then stop
    python benchmarks/jumping.py --tiny         # seconds, to see that it runs; writes nothing

Runs on one thread (OMP_NUM_THREADS=1 before it, to be sure).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import checkpoints, metrics
from diffusion_lab.data import store
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import generator
from diffusion_lab.files import write_atomically
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim, ddpm
from diffusion_lab.scheduling.fastdpm import GammaLevels, fastdpm_grid
from diffusion_lab.walk import Step, gaussian, sample, walk

MODEL = "fashion-vp1000"
PICTURES = 300
GRID = "linspace"
ETAS = ("0", "0.5", "1", "hat")
KAPPAS = (0.0, 0.5, 1.0)
COMMAND = "python benchmarks/jumping.py"
RESULT = "measured/jumping.json"


def settings() -> list[str]:
    """All names: ``ddim 10 eta 0.5`` and ``step linear 10 kappa 1``, the cheap ones first."""
    jumps = [f"ddim {steps} eta {eta}" for steps in (5, 10, 20, 50) for eta in ETAS]
    ways = [
        f"{how} {spacing} {steps} kappa {kappa:g}"
        for steps in (10, 20)
        for kappa in KAPPAS
        for how in ("step", "var")
        for spacing in ("linear", "quadratic")
    ]
    return jumps[:12] + ways[:12] + jumps[12:] + ways[12:] + ["ddim 100 eta 0", "ddim 100 eta 1"]


def plan(name: str, denoiser: Denoiser) -> tuple[Denoiser, Step, list[float]]:
    """The denoiser, the step and the times of a setting."""
    *way, steps, _, share = name.split()
    if way == ["ddim"]:
        step = ddpm("large") if share == "hat" else ddim(float(share))
        return denoiser, step, grid(denoiser.schedule, int(steps), GRID)
    levels = GammaLevels()
    return denoiser.on(levels), ddim(float(share)), fastdpm_grid(levels, int(steps), *way)


def draw(name: str, denoiser: Denoiser, pictures: int, batch: int = 150) -> torch.Tensor:
    """Pictures of a setting, all from the same start noise."""
    denoiser, step, times = plan(name, denoiser)
    gen = generator(11)
    x = torch.randn(pictures, 1, 28, 28, generator=gen)
    noise = gaussian(gen)
    parts = [sample(walk(step, denoiser, part, times, noise=noise)).x for part in x.split(batch)]
    return torch.cat(parts)


def scored(name: str, denoiser: Denoiser, pictures: int, anchor: float) -> dict[str, Any]:
    """Distance in units of the anchor with its standard error, and what it cost."""
    begin = time.process_time()
    x = draw(name, denoiser, pictures)
    seconds = time.process_time() - begin
    found = metrics.fd_estimate(x)
    return {
        "fd": round(found.value / anchor, 3),
        "error": round(found.error / anchor, 3),
        "nfe": len(plan(name, denoiser)[2]) - 1,
        "core_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    parser.add_argument("--seconds", type=float, default=1e9, help="core-seconds, then stop")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of what is done")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pictures, names = (20, settings()[:13:4]) if given.tiny else (PICTURES, settings())
    denoiser = checkpoints.load_denoiser(MODEL)
    anchor = metrics.noise_anchor(pictures)
    weights = store.index()[f"checkpoints/{MODEL}.safetensors"]["sha256"][:8]
    so_far = given.runs / f"jumping-{weights}-{pictures}.json"  # of these weights, and no others
    done = not given.tiny and so_far.is_file()
    runs: dict[str, dict[str, Any]] = json.loads(so_far.read_text()) if done else {}
    for name in names:
        if time.process_time() > given.seconds:
            print(f"{len(runs)} of {len(names)} settings done; call again to go on")
            return
        if name in runs:
            continue
        runs[name] = scored(name, denoiser, pictures, anchor)
        print(name, runs[name], flush=True)
        if not given.tiny:
            so_far.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(so_far, json.dumps(runs, indent=1).encode())
    if given.tiny:
        return
    floor, spread = (f / anchor for f in metrics.real_floor(pictures, balanced=False))
    result = {
        "command": COMMAND,
        "model": MODEL,
        "unit": "A",
        "pictures": pictures,
        "grid": GRID,
        "anchor": round(anchor, 4),
        "floor": round(floor, 3),
        "floor_spread": round(spread, 3),
        "machine": denoiser.about["machine"],
        "runs": {name: runs[name] for name in names},
    }
    file = store.folder() / RESULT
    write_atomically(file, (json.dumps(result, indent=1) + "\n").encode())
    store.register(RESULT, licence="CC BY 4.0", source="measured by the course", recipe=COMMAND)
    print(f"written: {file.relative_to(store.folder().parent)}")


if __name__ == "__main__":
    main()
