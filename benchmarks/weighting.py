"""Does the weight over noise levels matter? One small network, four weights, two seeds.

Everything but the weight is equal: Fashion-MNIST without classes, the linear schedule of 1000
steps, a U-Net of under 100,000 parameters that predicts v, batch, steps, EMA, noise, sampler. The
small network is on purpose: with capacity and time without end the optimum would not depend on
the weight. Adam does not feel a constant factor of the loss, so the weights are not normalised.

For each run: the Fréchet distance of its pictures (frozen features, units of the anchor A), and
the error of its x0 at eight noise levels on test pictures. Lesson 03 reads the result.

    python benchmarks/weighting.py             # about 15 core-minutes; resumes where it was killed
    python benchmarks/weighting.py --tiny      # seconds, to see that it runs; writes nothing

Runs on one thread (OMP_NUM_THREADS=1 before it, to be sure).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from diffusion_lab import checkpoints, data, metrics
from diffusion_lab.course.bench import measured
from diffusion_lab.denoisers import expand
from diffusion_lab.device import generator
from diffusion_lab.forward import noised
from diffusion_lab.generate import generate
from diffusion_lab.training import train
from diffusion_lab.training.recipes import Recipe

WEIGHTINGS: dict[str, dict[str, Any]] = {
    "simple": {"name": "simple"},
    "P2 (1, 1)": {"name": "p2", "k": 1.0, "gamma": 1.0},
    "min-SNR 5": {"name": "min-snr", "g": 5.0},
    "EDM": {"name": "edm", "sd": 0.7},
}
LAMBDAS = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
COMMAND = "python benchmarks/weighting.py"
RESULT = "measured/weighting.json"


def recipe(weighting: str, seed: int) -> Recipe:
    """The training of one run: only the weight and the seed differ between runs."""
    word = "".join(c for c in weighting.lower() if c.isalnum())
    return Recipe(
        f"weighting-{word}-{seed}",
        "a small network under one of four weights",
        net={"name": "unet", "widths": (16, 32), "emb": 64},
        schedule={"name": "linear", "T": 1000},
        kind="v",
        sd=1.0,
        lam_range=None,
        weighting=WEIGHTINGS[weighting],
        times={"law": "grid"},
        conditional=False,
        steps=1500,
        lr=2e-3,
        ema=0.995,
        seed=seed,
    )


def trained(weighting: str, seed: int, steps: int, folder: Path) -> Any:
    """The model of one run: from ``folder`` if it is there, else trained (going on if killed)."""
    r = recipe(weighting, seed).but(steps=steps)
    file = folder / f"{r.name}.safetensors"
    if not file.is_file():
        state = folder / f"{r.name}.state.safetensors"
        for p in train(r, out=folder, resume=state.is_file(), save_every=250, report_every=250):
            print(f"{r.name}: step {p.step}, loss {p.loss:.4f}, {p.cpu_seconds:.0f} core-s")
        state.unlink()
    return checkpoints.load(file)


@torch.no_grad()
def errors(model: Any, pictures: int) -> list[float]:
    """Mean squared error of x0_hat on test pictures at ``LAMBDAS``, the same noise for all."""
    x0 = data.load("fashion", "test").x[:pictures]
    found = []
    for i, lam in enumerate(LAMBDAS):
        t = model.schedule.t_of_lam(torch.full((len(x0),), lam, dtype=torch.float64))
        eps = torch.randn(x0.shape, generator=generator(7, i))
        x_t = noised(x0, eps, model.schedule, t)
        alpha, sigma = (expand(c, x0) for c in model.schedule.alpha_sigma(t))
        out = model(x_t, t)
        assert torch.equal(alpha, out.alpha) and torch.equal(sigma, out.sigma)
        found.append((out.x0 - x0).square().mean().item())
    return found


def measure(steps: int, seeds: int, pictures: int, folder: Path) -> dict[str, Any]:
    """All runs, as the JSON that is stored."""
    anchor = metrics.anchor().value
    floor = metrics.fd(data.load("fashion").x[-pictures:])
    runs: dict[str, dict[str, Any]] = {}
    for name in WEIGHTINGS:
        models = [trained(name, seed, steps, folder) for seed in range(seeds)]
        drawn = [generate(m, pictures, sampler="dpmpp", steps=20, seed=11).x for m in models]
        fds = [metrics.fd(x) / anchor for x in drawn]
        per_level = [errors(m, min(pictures, 500)) for m in models]
        runs[name] = {
            "fd": [round(fd, 3) for fd in fds],
            "error": [float(f"{statistics.mean(e):.4g}") for e in zip(*per_level, strict=True)],
            "core_seconds": round(sum(m.about["cpu_seconds"] for m in models), 1),
        }
        print(name, runs[name])
    return {
        "command": COMMAND,
        "unit": "A",
        "pictures": pictures,
        "steps": steps,
        "seeds": seeds,
        "nfe": 20,
        "anchor": anchor,
        "floor": round(floor / anchor, 4),
        "lambda": LAMBDAS,
        "parameters": models[0].about["parameters"],
        "machine": models[0].about["machine"],
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/weighting"), help="trained models")
    parser.add_argument("--train-only", action="store_true", help="train, measure another time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    steps, seeds, pictures = (4, 1, 100) if given.tiny else (1500, 2, 1000)
    folder = given.runs / "tiny" if given.tiny else given.runs
    if given.train_only:
        for seed in range(seeds):
            for name in WEIGHTINGS:
                trained(name, seed, steps, folder)
        return
    result = measure(steps, seeds, pictures, folder)
    if given.tiny:
        return
    measured.write(RESULT, result, COMMAND)


if __name__ == "__main__":
    main()
