"""How few steps? DDIM at four noise shares and FastDPM's ways to choose steps, on one network.

The shipped network on 1000 linear steps draws the same number of pictures from the same start
noise with each setting; the Fréchet distance (frozen features, units of the anchor A) has its
standard error beside it, and the floor is that of as many real pictures, averaged over draws.
Settings share their noise, so their differences are measured pair by pair, with the error of the
difference. Lesson 05 reads the result.

    python benchmarks/jumping.py                # about 8 core-minutes; resumes where it was killed
    python benchmarks/jumping.py --seconds 100  # as many settings as fit, then stop
    python benchmarks/jumping.py --tiny         # seconds, to see that it runs; writes nothing

Runs on one thread (OMP_NUM_THREADS=1 before it, to be sure).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import checkpoints, metrics
from diffusion_lab.course.bench import measured
from diffusion_lab.data import store
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import generator
from diffusion_lab.files import write_atomically
from diffusion_lab.grids import grid
from diffusion_lab.metrics.frechet import paired
from diffusion_lab.samplers import ddim, ddpm
from diffusion_lab.scheduling.fastdpm import GammaLevels, fastdpm_grid
from diffusion_lab.walk import Step, gaussian, sample, walk

MODEL = "fashion-vp1000"
PICTURES = 500
GRID = "linspace"
ETAS = ("0", "0.5", "1", "hat")
KAPPAS = (0.0, 0.5, 1.0)
JUMPS = (("0", "1"), ("0", "0.5"), ("1", "hat"))
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


def pairs() -> list[tuple[str, str]]:
    """What lesson 05 compares: (first, second), all from the same noise."""
    found = []
    for steps in (5, 10, 20, 50):
        found += [(f"ddim {steps} eta {a}", f"ddim {steps} eta {b}") for a, b in JUMPS]
    found += [("ddim 100 eta 0", "ddim 100 eta 1"), ("ddim 20 eta 0", "ddim 100 eta 0")]
    for steps in (10, 20):
        for how in ("step", "var"):
            for k in (0, 1):
                one = f"{how} {{}} {steps} kappa {k}"
                found.append((one.format("quadratic"), one.format("linear")))
            for spacing in ("linear", "quadratic"):
                one = f"{how} {spacing} {steps} kappa"
                found.append((f"{one} 0", f"{one} 1"))
        found.append((f"var linear {steps} kappa 0", f"step linear {steps} kappa 0"))
    return found


def plan(name: str, denoiser: Denoiser) -> tuple[Denoiser, Step, list[float]]:
    """The denoiser, the step and the times of a setting."""
    *way, steps, _, share = name.split()
    if way == ["ddim"]:
        step = ddpm("large") if share == "hat" else ddim(float(share))
        return denoiser, step, grid(denoiser.schedule, int(steps), GRID)
    levels = GammaLevels()
    return denoiser.on(levels), ddim(float(share)), fastdpm_grid(levels, int(steps), *way)


def draw(name: str, denoiser: Denoiser, pictures: int, batch: int = 125) -> torch.Tensor:
    """Pictures of a setting; picture i has the same start noise, and fresh noise, in every setting.

    Each batch has a generator of its own, so that no setting's number of steps moves the next one.
    """
    denoiser, step, times = plan(name, denoiser)
    parts = []
    for first in range(0, pictures, batch):
        gen = generator(11, first)
        x = torch.randn(min(batch, pictures - first), 1, 28, 28, generator=gen)
        parts.append(sample(walk(step, denoiser, x, times, noise=gaussian(gen))).x)
    return torch.cat(parts)


def scored(name: str, denoiser: Denoiser, pictures: int, file: Path | None) -> dict[str, Any]:
    """Distance with its standard error, and what it cost; the features are kept in ``file``."""
    begin = time.process_time()
    x = draw(name, denoiser, pictures)
    seconds = time.process_time() - begin
    found = metrics.fd_estimate(x) / metrics.anchor().value
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(metrics.features(x), file)
    return {
        "fd": round(found.value, 3),
        "error": round(found.error, 3),
        "nfe": len(plan(name, denoiser)[2]) - 1,
        "core_seconds": round(seconds, 1),
    }


def compared(first: str, second: str, file: Callable[[str], Path]) -> dict[str, Any]:
    """FD of ``first`` minus that of ``second`` in units of the anchor, as pairs."""
    feats = [torch.load(file(name), weights_only=True) for name in (first, second)]
    gap = paired(*feats, metrics.reference("fashion"), generator(0), draws=200)
    gap = gap / metrics.anchor().value
    return {
        "first": first,
        "second": second,
        "gap": round(gap.value, 4),
        "error": round(gap.error, 4),
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
    anchor = metrics.anchor().value
    weights = store.index()[f"checkpoints/{MODEL}.safetensors"]["sha256"][:8]
    so_far = given.runs / f"jumping-{weights}-{pictures}.json"  # of these weights, and no others

    def file(name: str) -> Path:
        return so_far.with_suffix("") / f"{name}.pt"

    done = not given.tiny and so_far.is_file()
    runs: dict[str, dict[str, Any]] = json.loads(so_far.read_text()) if done else {}
    for name in names:
        if time.process_time() > given.seconds:
            print(f"{len(runs)} of {len(names)} settings done; call again to go on")
            return
        if name in runs:
            continue
        runs[name] = scored(name, denoiser, pictures, None if given.tiny else file(name))
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
        "anchor": anchor,
        "floor": round(floor, 3),
        "floor_spread": round(spread, 3),
        "machine": denoiser.about["machine"],
        "runs": {name: runs[name] for name in names},
        "pairs": [compared(a, b, file) for a, b in pairs()],
    }
    measured.write(RESULT, result, COMMAND)


if __name__ == "__main__":
    main()
