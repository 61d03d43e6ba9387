"""Which steps? Grids, clipping, a solver and learned samplers on one network, at equal calls.

The shipped 1000-step model of Fashion-MNIST (linear schedule, no classes), 1,000 pictures each from
the same noise, at 5 and 10 evaluations (grids at 20 too). Lesson 08 reads the result:

    grids     uniform, quadratic, uniform in lambda, DP stride: bits/dim, and pictures by DDIM and
              (at 5 and 10) by ancestral sampling with the analytic variance; ++(3M) on uniform
              times
    clipped   uniform and DP stride again, DDIM with x0_hat clipped to [-1, 1] at every step
    ggdm-K    GGDM with K steps from uniform DDIM: KID in the frozen features of the clipped
              picture, and OVERSHOOT times the mean square of what exceeds the range; ``ggdm-K-2``
              from a second seed of the training
    pairs     differences of FD between settings that drew from the same noise, with the error of
              the difference (``metrics.frechet.paired``); GGDM from its stored numbers

    python benchmarks/steps.py grids clipped ggdm-5 ggdm-10 pairs   # about a quarter of an hour
    python benchmarks/steps.py --tiny                         # seconds, to see that it runs

Nothing but the part ``clipped`` clips. Runs on one thread (OMP_NUM_THREADS=1 before it, to be
sure). Each part replaces its own entry.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_lab import checkpoints, data, grids, metrics
from diffusion_lab.course.bench import measured
from diffusion_lab.data import store
from diffusion_lab.denoisers import Clipped, Denoiser
from diffusion_lab.device import generator
from diffusion_lab.metrics.distances import sliced_w2
from diffusion_lab.metrics.frechet import features, paired, reference
from diffusion_lab.samplers import ddim, dpmpp_3m
from diffusion_lab.scheduling import analytic, dp_stride, ggdm
from diffusion_lab.walk import Step, gaussian, sample, walk

COMMAND = "python benchmarks/steps.py grids clipped ggdm-5 ggdm-10 pairs"
PARTS = tuple(COMMAND.split()[2:])
RESULT = "measured/steps.json"
STEPS = (5, 10, 20)
ROUNDS, BATCH, OVERSHOOT = 120, 64, 10.0
GRIDS_COMPARED = (("DP stride", "uniform"), ("DP stride", "quadratic"), ("lambda", "uniform"))
RATE = {5: 0.006, 10: 0.002}  # what one coefficient does to the end of the walk grows with K


def table(model: Denoiser, pictures: int, points: int) -> dp_stride.Errors:
    """D_t and its companions at all 1000 times, measured at ``points`` of them (even in lambda)."""
    T = model.schedule.T
    even = torch.linspace(model.schedule.lam(1.0), model.schedule.lam(1 / T), points)
    times = {max(round(model.schedule.t_of_lam(float(lam)) * T), 1) / T for lam in even}
    x0 = data.load("fashion").x[-pictures:]
    errors = dp_stride.measure(model, x0, sorted(times | {1.0, 1 / T}), noise=generator(1))
    return dp_stride.fill(errors, model.schedule, [i / T for i in range(1, T + 1)])


def judge(draw: Callable[[], Tensor], anchor: float) -> dict[str, float]:
    """FD in units of A and KID, with standard errors, of the clipped pictures; then two that see
    the pictures as they are: sliced W2 of the pixels, and the share of pixels beyond 1.05.
    """
    begin = time.process_time()
    x = draw()
    seconds = time.process_time() - begin
    test = data.load("fashion", "test").x[: len(x)]
    fd, kid = metrics.fd_estimate(x) / anchor, metrics.kid(x)
    return {
        "fd": round(fd.value, 3),
        "fd_error": round(fd.error, 3),
        "kid": round(kid.value, 4),
        "kid_error": round(kid.error, 4),
        "pixels": round(sliced_w2(x.flatten(1), test.flatten(1), generator(9)), 4),
        "beyond": round((x.abs() > 1.05).double().mean().item(), 4),
        "core_seconds": round(seconds, 1),
    }


def walked(step: Step, model: Denoiser, x: Tensor, times: list[float]) -> Callable[[], Tensor]:
    """Draws from the start noise x, in batches; the noise of the steps is the same each time."""

    def draw() -> Tensor:
        noise = gaussian(generator(3))
        return torch.cat([sample(walk(step, model, p, times, noise=noise)).x for p in x.split(250)])

    return draw


def spacings(model: Denoiser, tiny: bool) -> tuple[dict[str, list[float]], Any, dp_stride.Errors]:
    """{"uniform 5": times, ...} at every number of steps, the price of a grid, and the errors."""
    errors = table(model, 8 if tiny else 256, 5 if tiny else 50)
    costs = dp_stride.costs(model.schedule, errors, "best")
    best, laid = dp_stride.shortest(costs, errors.times, max(STEPS)), {}
    for steps in STEPS[:1] if tiny else STEPS:
        for name in ("uniform", "quadratic", "lambda"):
            times = grids.grid(model.schedule, steps, name)
            laid[f"{name} {steps}"] = [round(t * 1000) / 1000 for t in times]
        laid[f"DP stride {steps}"] = best.grid(steps)

    def price(times: list[float]) -> float:
        return round(dp_stride.path_cost(costs, errors.times, times), 4)

    return laid, price, errors


def of_grids(model: Denoiser, n: int, anchor: float, tiny: bool) -> dict[str, Any]:
    """Every spacing at every number of steps, and the solver on uniform times."""
    laid, price, errors = spacings(model, tiny)
    x, found = torch.randn(n, *model.shape, generator=generator(2)), {}
    for name, times in laid.items():
        row: dict[str, Any] = {"times": times, "bits": price(times)}
        row["ddim"] = judge(walked(ddim(), model, x, times), anchor)
        if len(times) - 1 <= 10:
            ancestral = analytic.analytic(analytic.sizes(errors, times))
            row["ancestral"] = judge(walked(ancestral, model, x, times), anchor)
        if name.startswith("uniform"):
            row["++(3M)"] = judge(walked(dpmpp_3m(), model, x, times), anchor)
        found[name] = row
        print(name, row, flush=True)
    return found


def of_clipped(model: Denoiser, n: int, anchor: float, tiny: bool) -> dict[str, Any]:
    """Two of the grids again, DDIM, with x0_hat clipped."""
    x = torch.randn(n, *model.shape, generator=generator(2))
    inside, found = Clipped(model, -1, 1), {}
    for name, times in spacings(model, tiny)[0].items():
        if name.startswith(("uniform", "DP")) and len(times) - 1 <= 10:
            found[name] = judge(walked(ddim(), inside, x, times), anchor)
            print("clipped", name, found[name], flush=True)
    return found


def of_ggdm(part: str, model: Denoiser, n: int, anchor: float, rounds: int) -> dict[str, Any]:
    """GGDM-K: trained from uniform DDIM, judged on the noise of the grids."""
    steps, *seed = map(int, part.split("-")[1:])
    sampler = ggdm.GGDM(
        model.schedule, grids.grid(model.schedule, steps), lam_max=model.lam_range[1]
    )
    draw = learned(sampler, model, torch.randn(n, *model.shape, generator=generator(2)))
    eye, begin, losses = checkpoints.load("fashion-features"), time.process_time(), []
    for loss in ggdm.fit(
        sampler,
        model,
        data.load("fashion").x,
        generator(4, *seed),
        steps=rounds,
        batch=BATCH,
        lr=RATE[steps],
        cool=True,
        overshoot=OVERSHOOT,
        features=lambda x: eye.features(x.clamp(-1, 1)),
    ):
        losses.append(loss)
        if len(losses) % 10 == 0:
            print(part, len(losses), f"{sum(losses[-10:]) / 10:.4f}", flush=True)
    training = time.process_time() - begin
    print(part, f"{training:.0f} core-seconds, loss {losses[-1]:.4f}", flush=True)
    return {
        "learned": sampler.learned(),
        "rounds": len(losses),
        "batch": BATCH,
        "overshoot": OVERSHOOT,
        "rate": RATE[steps],
        "ggdm": judge(draw, anchor),
        "training_core_seconds": round(training, 1),
        "losses": [
            round(sum(losses[i : i + 10]) / len(losses[i : i + 10]), 4)
            for i in range(0, len(losses), 10)
        ],
        "numbers": {k: v.tolist() for k, v in sampler.state_dict().items()},
    }


def of_pairs(model: Denoiser, n: int, anchor: float, tiny: bool) -> dict[str, Any]:
    """FD(one) - FD(other) in units of A: {"one - other": {"gap": ..., "error": ...}}."""
    laid, parts = spacings(model, tiny)[0], json.loads(store.path(RESULT).read_text())["parts"]
    x, ref = torch.randn(n, *model.shape, generator=generator(2)), reference()
    runs: dict[str, Callable[[], Tensor]] = {}
    for name, times in laid.items():
        runs[f"DDIM, {name}"] = walked(ddim(), model, x, times)
        if name.startswith("uniform"):
            runs[f"++(3M), {name}"] = walked(dpmpp_3m(), model, x, times)
    for steps in STEPS[:1] if tiny else STEPS[:2]:
        sampler = ggdm.GGDM(
            model.schedule, grids.grid(model.schedule, steps), lam_max=model.lam_range[1]
        )
        numbers = parts[f"ggdm-{steps}"]["numbers"]
        sampler.load_state_dict({k: torch.tensor(v).double() for k, v in numbers.items()})
        runs[f"GGDM {steps}"] = learned(sampler, model, x)
    feats = {name: features(draw()) for name, draw in runs.items()}
    asked = [(f"DDIM, {a} {k}", f"DDIM, {b} {k}") for k in STEPS for a, b in GRIDS_COMPARED]
    for k in STEPS[:2]:
        asked += [(f"GGDM {k}", f"{other}, uniform {k}") for other in ("DDIM", "++(3M)")]
    found = {}
    for one, other in asked:
        if one in feats and other in feats:
            e = paired(feats[one], feats[other], ref, generator(5)) / anchor
            found[f"{one} - {other}"] = {"gap": round(e.value, 3), "error": round(e.error, 3)}
            print(one, other, found[f"{one} - {other}"], flush=True)
    return found


def learned(sampler: ggdm.GGDM, model: Denoiser, x: Tensor) -> Callable[[], Tensor]:
    """Draws of a learned sampler from the start noise x, as ``walked``."""

    def draw() -> Tensor:
        noise = gaussian(generator(3))
        return torch.cat([sample(sampler.states(model, p, noise)).x for p in x.split(250)])

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help="grids, clipped, ggdm-K, ggdm-K-SEED, pairs")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of GGDM's training")
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    n = 60 if given.tiny else 1000
    model = checkpoints.load_denoiser("fashion-vp1000", device="cpu")
    anchor = metrics.anchor().value
    plain = {"grids": of_grids, "clipped": of_clipped, "pairs": of_pairs}
    for part in given.parts or PARTS:
        if part in plain:
            found = plain[part](model, n, anchor, given.tiny)
        else:
            found = of_ggdm(part, model, n, anchor, 2 if given.tiny else given.rounds)
        if given.tiny:
            continue
        real = data.load("fashion").x[-n:]
        floor, scatter = (v / anchor for v in metrics.real_floor(n, balanced=False))
        known = {
            "unit": "A",
            "pictures": n,
            "anchor": round(anchor, 4),
            "floor": judge(real.clone, anchor)
            | {"fd": round(floor, 3), "fd_error": round(scatter, 3), "core_seconds": 0.0},
        }
        measured.add(RESULT, part, found, COMMAND, **known)


if __name__ == "__main__":
    main()
