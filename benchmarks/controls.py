"""Controls that lessons 06 and 07 print: one knob at a time, as pairs, with errors.

    corrector-toy     score SDE, exact score of two_class: W1 at equal calls of a predictor alone
                      and with a Langevin corrector, VE and VP, r scanned
    langevin-toy      the same mixture, about 201 calls: annealed Langevin dynamics, step scanned,
                      beside Euler-Maruyama and the ancestral step; VE, VP and sub-VP
    corrector-digits  the same with the digits network: FD of 300 digits
    guidance          scale 6, eleven calls: share of pixels outside of the data's range for solvers
                      that differ in order, in form or in kind
    duels             FD of solvers that differ in one thing, 500 pictures of fashion-vp1000 each
                      from the same start noise: the difference, with its error as a pair

r of a corrector, and the step of annealed Langevin, are chosen on seeds of their own (TUNE) and
judged on others, as pairs: the same seed, so the same start noise, with and without corrector.

    python benchmarks/controls.py                # about 20 core-minutes
    python benchmarks/controls.py guidance       # one part, which replaces its own entry
    python benchmarks/controls.py --tiny         # seconds, to see that it runs; writes nothing
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from diffusion_lab import checkpoints, metrics, schedules
from diffusion_lab.course.bench import measured
from diffusion_lab.course.bench.samplers import settings
from diffusion_lab.data import toys
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import generator
from diffusion_lab.generate import generate
from diffusion_lab.metrics.distances import w1
from diffusion_lab.metrics.frechet import Reference, features, frechet, paired, reference
from diffusion_lab.scores.subvp import SubVP

COMMAND = "python benchmarks/controls.py"
RESULT = "measured/controls.json"
ALONE = {"ancestral": "ddpm", "reverse diffusion": "reverse-diffusion"}
TUNE = (100, 101, 102)
PUBLISHED = 0.1  # a / sigma^2 of annealed Langevin in 1907.05600
CALLS = 11  # of the guided solvers, the same for all
GUIDED = (
    "DDIM",
    "DPM-Solver-2",
    "DPM-Solver++(2S)",
    "DPM-Solver-3",
    "DPM-Solver++(2M)",
    "DPM-Solver++(3M)",
    "UniPC-2",
    "++(2M), clipped",
)


# ---- correctors ---------------------------------------------------------------------------------
def race(
    score: Callable[..., float], budget: int, rs: tuple[float, ...], tune: int, judge: int
) -> dict[str, Any]:
    """Both predictors at one budget: alone and corrected with the best r of the tuning seeds.

    ``score(sampler, steps, seed, **options)`` is the distance of one run, the lower the better.
    """
    found: dict[str, Any] = {}
    for name, sampler in ALONE.items():
        which = {"predictor": sampler.replace("ddpm", "ancestral")}

        def corrected(r: float, seed: int, which: dict[str, str] = which) -> float:
            steps = (budget - 1) // 2 + 1
            return score("predictor-corrector", steps, seed, snr=r, **which)

        scan = {r: sum(corrected(r, s) for s in TUNE[:tune]) / tune for r in rs}
        best = min(scan, key=lambda r: scan[r])
        without = [score(sampler, budget, seed) for seed in range(judge)]
        with_it = [corrected(best, seed) for seed in range(judge)]
        found[name] = {
            "r": best,
            "scan": {f"{r:g}": round(value, 4) for r, value in scan.items()},
            "alone": [round(value, 4) for value in without],
            "corrected": [round(value, 4) for value in with_it],
        }
        print(budget, name, found[name], flush=True)
    return found


def of_toy(tiny: bool) -> dict[str, Any]:
    """VE and VP with the exact score of a mixture on a line."""
    n, law = 400 if tiny else 20_000, toys.two_class()
    truth = law.sample(n, generator(12))[:, 0]
    real = [w1(law.sample(n, generator(k))[:, 0], truth) for k in range(30, 40)]
    found: dict[str, Any] = {"N": n, "floor": [round(value, 4) for value in real], "races": {}}
    rs = (0.01, 0.05, 0.1, 0.16, 0.25, 0.35, 0.5, 0.7, 1.0)
    for process, schedule in {"VE": schedules.VE(0.01, 20.0), "VP": schedules.Linear()}.items():
        den = law.denoiser(schedule)

        def score(
            sampler: str, steps: int, seed: int, den: Denoiser = den, **options: Any
        ) -> float:
            how = {"sampler": sampler, "steps": steps, "spacing": "uniform", "seed": seed}
            return w1(generate(den, n, batch=n, **how, **options).x[:, 0], truth)

        for budget in (21,) if tiny else (21, 51, 101):
            print(process, flush=True)
            found["races"][f"{process} {budget}"] = race(score, budget, rs, 3, 2 if tiny else 8)
    return found


def of_langevin(tiny: bool) -> dict[str, Any]:
    """Annealed Langevin with the paper's step and a tuned one, beside two other samplers."""
    n, law = 400 if tiny else 20_000, toys.two_class()
    truth = law.sample(n, generator(12))[:, 0]
    processes = {"VP": schedules.Linear(), "sub-VP": SubVP(), "VE": schedules.VE(0.01, 20.0)}
    tune, judge = (TUNE[:1], range(2)) if tiny else (TUNE, range(8))
    found: dict[str, Any] = {"N": n, "corrections": 5, "processes": {}}
    for process, schedule in processes.items():
        den = law.denoiser(schedule)

        def score(
            sampler: str, steps: int, seed: int, den: Denoiser = den, **options: Any
        ) -> tuple[float, int]:
            how = {"sampler": sampler, "steps": steps, "spacing": "uniform", "seed": seed}
            r = generate(den, n, batch=n, **how, **options)
            return w1(r.x[:, 0], truth), r.nfe

        def annealed(ratio: float, seed: int) -> tuple[float, int]:
            return score("annealed-langevin", 5 if tiny else 41, seed, ratio=ratio)

        ratios = (0.03, PUBLISHED, 0.2, 0.35, 0.6, 1.0, 1.4, 1.8)
        scan = {q: sum(annealed(q, seed)[0] for seed in tune) / len(tune) for q in ratios}
        best = min(scan, key=lambda q: scan[q])
        runs = {
            "Euler-Maruyama": [score("euler-maruyama", 20 if tiny else 201, k) for k in judge],
            "ancestral": [score("ddpm", 20 if tiny else 201, k) for k in judge],
            "Langevin, published step": [annealed(PUBLISHED, k) for k in judge],
            "Langevin, tuned step": [annealed(best, k) for k in judge],
        }
        found["processes"][process] = {
            "ratio": best,
            "scan": {f"{q:g}": round(value, 4) for q, value in scan.items()},
            "NFE": {name: own[0][1] for name, own in runs.items()},
            "runs": {name: [round(value, 4) for value, _ in own] for name, own in runs.items()},
        }
        print(process, found["processes"][process], flush=True)
    return found


def of_digits(tiny: bool) -> dict[str, Any]:
    """The shipped digits network, VE-like (EDM), with labels."""
    n = 30 if tiny else 300
    model = checkpoints.load_denoiser("digits", device="cpu")
    label = torch.arange(n) % 10
    floor, spread = metrics.real_floor(n, "digits")
    found: dict[str, Any] = {"N": n, "floor": [round(floor, 4), round(spread, 4)], "races": {}}

    def score(sampler: str, steps: int, seed: int, **options: Any) -> float:
        how = {"sampler": sampler, "steps": steps, "seed": seed, "label": label, "batch": n}
        return metrics.fd(generate(model, n, **how, **options).x, "digits")

    for budget in (5,) if tiny else (11, 41):
        rs = (0.16, 0.25, 0.4, 0.6, 0.8, 1.2, 1.8, 2.7)
        found["races"][str(budget)] = race(score, budget, rs, 1 if tiny else 2, 2 if tiny else 5)
    return found


# ---- guidance -----------------------------------------------------------------------------------
def guided(name: str, model: Denoiser) -> dict[str, Any]:
    """How ``generate`` runs a solver with eleven calls, all on times of the same spacing."""
    if name == "DPM-Solver++(2S)":  # five steps of two calls, and one onto clean data
        return {"sampler": "dpmpp-2s", "steps": (CALLS + 1) // 2, "spacing": "karras"}
    if name == "++(2M), clipped":
        return {**settings("DPM-Solver++(2M)", model, CALLS), "clip": (-1.0, 1.0)}
    return settings(name, model, CALLS)


def of_guidance(tiny: bool) -> dict[str, Any]:
    """Share of pixels beyond 1.02 in strongly guided pictures, by solver and seed."""
    n, seeds = (10, range(2)) if tiny else (50, range(8))
    model = checkpoints.load_denoiser("fashion", device="cpu")
    label, shares = torch.arange(n) % 10, {}
    for name in GUIDED:
        how, shares[name] = guided(name, model), []
        for seed in seeds:
            r = generate(model, n, label=label, scale=6.0, seed=seed, **how)
            assert r.nfe == 2 * CALLS, (name, r.nfe)  # a guided call is two evaluations
            shares[name].append(round((r.x.abs() > 1.02).double().mean().item(), 4))
        print(name, shares[name], flush=True)
    return {"N": n, "scale": 6, "calls": CALLS, "beyond": 1.02, "shares": shares}


# ---- solvers ------------------------------------------------------------------------------------
DUELS = (
    ("a second-order step, ODE", "DPM-Solver++(2M)", "DDIM"),
    ("a second-order step, SDE", "SDE-DPM-Solver++(2M)", "DDPM (eta = 1)"),
    ("noise on the way, first order", "DDPM (eta = 1)", "DDIM"),
    ("noise on the way, second order", "SDE-DPM-Solver++(2M)", "DPM-Solver++(2M)"),
    ("the corrector, order 2", "UniPC-2", "DPM-Solver++(2M)"),
    ("the corrector, order 3", "UniPC-3", "DPM-Solver++(3M)"),
    ("a parabola for a line", "DPM-Solver++(3M)", "DPM-Solver++(2M)"),
    ("the whole parabola, not half of it", "DPM-Solver++(3M)", "++(3M) as published"),
    ("calls inside the step, noise form", "DPM-Solver-2", "DPM-Solver++(2M)"),
    ("two calls for one step", "DPM-Solver-2", "DDIM"),
    ("a quadratic grid", "UniPC-2, quadratic", "UniPC-2"),
    ("a grid uniform in lambda", "UniPC-2, lambda", "UniPC-2"),
)


def of_duels(tiny: bool) -> dict[str, Any]:
    """{calls: [[what, one, other, FD of one, FD of other, difference, its error]]}, units of A."""
    n, unit = (80, 1.0) if tiny else (500, metrics.anchor().value)
    model, ref = checkpoints.load_denoiser("fashion-vp1000", device="cpu"), reference()
    found: dict[str, Any] = {"N": n, "unit": unit, "duels": {}}
    for calls in (5,) if tiny else (5, 10, 20):
        feats = {}
        for name in dict.fromkeys(name for duel in DUELS for name in duel[1:]):
            if not (tiny and len(feats) > 2):
                drawn = generate(model, n, seed=0, **settings(name, model, calls)).x
                feats[name] = features(drawn)
                print(calls, name, flush=True)
        rows = []
        for what, one, other in DUELS:
            if one in feats and other in feats:
                a, b = (frechet(Reference.of(feats[k]), ref) / unit for k in (one, other))
                gap = paired(feats[one], feats[other], ref, generator(5)) / unit
                numbers = (round(v, 3) for v in (a, b, gap.value, gap.error))
                rows.append([what, one, other, *numbers])
                print(rows[-1], flush=True)
        found["duels"][str(calls)] = rows
    return found


PARTS = {
    "corrector-toy": of_toy,
    "langevin-toy": of_langevin,
    "corrector-digits": of_digits,
    "guidance": of_guidance,
    "duels": of_duels,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts or PARTS:
        found = PARTS[part](given.tiny)
        if not given.tiny:
            measured.add(RESULT, part, found, COMMAND)


if __name__ == "__main__":
    main()
