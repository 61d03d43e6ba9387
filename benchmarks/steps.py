"""Which steps? Grids, variances and learned samplers on one network, at 5 and 10 evaluations.

The shipped 1000-step model of Fashion-MNIST (linear schedule, no classes), 1,000 pictures each from
the same noise. Lesson 08 reads the result:

    grids    uniform, quadratic, uniform in lambda, DP stride: bits/dim, and Fréchet distance (A) of
             DDIM and of ancestral sampling with the analytic variance
    ggdm-K   GGDM with K steps from uniform DDIM, KID loss in the frozen features

    python benchmarks/steps.py grids ggdm-5 ggdm-10      # about 10 core-minutes; any of the parts
    python benchmarks/steps.py --tiny                    # seconds, to see that it runs

Runs on one thread (OMP_NUM_THREADS=1 before it, to be sure). Each part replaces its own entry.
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
from diffusion_lab.data import store
from diffusion_lab.device import generator
from diffusion_lab.files import write_atomically
from diffusion_lab.metrics.distances import sliced_w2
from diffusion_lab.samplers import ddim, gaussian, sample, walk
from diffusion_lab.scheduling import analytic, dp_stride, ggdm

COMMAND = "python benchmarks/steps.py grids ggdm-5 ggdm-10"
RESULT = "measured/steps.json"
STEPS = (5, 10)


def table(model: Any, pictures: int, points: int) -> dp_stride.Errors:
    """D_t and its companions at all 1000 times, measured at ``points`` of them (even in lambda)."""
    T = model.schedule.T
    even = torch.linspace(model.schedule.lam(1.0), model.schedule.lam(1 / T), points)
    times = {max(round(model.schedule.t_of_lam(float(lam)) * T), 1) / T for lam in even}
    x0 = data.load("fashion").x[-pictures:]
    errors = dp_stride.measure(model, x0, sorted(times | {1.0, 1 / T}), noise=generator(1))
    return dp_stride.fill(errors, model.schedule, [i / T for i in range(1, T + 1)])


def judge(draw: Callable[[], Tensor], anchor: float) -> dict[str, float]:
    """FD in units of A, KID, and sliced W2 of the pixels (another measure than was descended)."""
    begin = time.process_time()
    x = draw()
    seconds = time.process_time() - begin
    test = data.load("fashion", "test").x[: len(x)]
    return {
        "fd": round(metrics.fd(x) / anchor, 3),
        "kid": round(metrics.kid(x).value, 4),
        "pixels": round(sliced_w2(x.flatten(1), test.flatten(1), generator(9)), 4),
        "core_seconds": round(seconds, 1),
    }


def of_grids(model: Any, n: int, anchor: float, tiny: bool) -> dict[str, Any]:
    """Every spacing at every number of steps."""
    errors = table(model, 8 if tiny else 256, 5 if tiny else 50)
    costs = dp_stride.costs(model.schedule, errors, "best")
    best = dp_stride.shortest(costs, errors.times, max(STEPS))
    x, found = torch.randn(n, *model.shape, generator=generator(2)), {}
    for steps in STEPS[:1] if tiny else STEPS:
        laid = {s: grids.grid(model.schedule, steps, s) for s in ("uniform", "quadratic", "lambda")}
        laid["lambda"] = [round(t * 1000) / 1000 for t in laid["lambda"]]
        for name, times in {**laid, "DP stride": best.grid(steps)}.items():
            row: dict[str, Any] = {
                "times": times,
                "bits": round(dp_stride.path_cost(costs, errors.times, times), 4),
            }
            kinds = {
                "ddim": ddim(clip=(-1, 1)),
                "ancestral": analytic.analytic(analytic.sizes(errors, times), clip=(-1, 1)),
            }
            for kind, step in kinds.items():

                def draw(step: Any = step, times: list[float] = times) -> Tensor:
                    parts = x.split(500)
                    noise = gaussian(generator(3))
                    return torch.cat(
                        [sample(walk(step, model, p, times, noise=noise)).x for p in parts]
                    )

                row[kind] = judge(draw, anchor)
            found[f"{name} {steps}"] = row
            print(name, steps, row, flush=True)
    return found


def of_ggdm(part: str, model: Any, n: int, anchor: float, tiny: bool) -> dict[str, Any]:
    """GGDM-K: trained from uniform DDIM, judged on fresh noise; "-times" learns times and eta."""
    _, steps, *less = part.split("-")
    learn = ("times", "eta") if less else ggdm.LEARNABLE
    sampler = ggdm.GGDM(
        model.schedule, grids.grid(model.schedule, int(steps)), learn=learn,
        lam_max=model.lam_range[1],
    )  # fmt: skip
    x = torch.randn(n, *model.shape, generator=generator(2))

    def draw() -> Tensor:
        noise = gaussian(generator(3))
        return torch.cat([sample(sampler.states(model, p, noise)).x for p in x.split(500)])

    before = judge(draw, anchor)
    eye = checkpoints.load("fashion-features")
    # memory and time grow with K, and so does what one coefficient does to the end of the walk
    rounds, batch, lr = (100, 96, 0.02) if int(steps) <= 5 else (36, 48, 0.006)
    begin, losses = time.process_time(), []
    for loss in ggdm.fit(
        sampler, model, data.load("fashion").x, generator(4), steps=2 if tiny else rounds,
        batch=8 if tiny else batch, lr=lr, features=lambda x: eye.features(x.clamp(-1, 1)),
    ):  # fmt: skip
        losses.append(loss)
        if len(losses) % 10 == 0:
            print(part, len(losses), f"{sum(losses[-10:]) / 10:.4f}", flush=True)
    return {
        "learned": sum(p.numel() for p in sampler.parameters() if p.requires_grad),
        "before": before,
        "after": judge(draw, anchor),
        "training_core_seconds": round(time.process_time() - begin, 1),
        "losses": [float(f"{loss:.4g}") for loss in losses],
        "numbers": {k: v.tolist() for k, v in sampler.state_dict().items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", help="grids, ggdm-K, ggdm-K-times")
    parser.add_argument("--tiny", action="store_true", help="seconds, and write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    n = 60 if given.tiny else 1000
    model = checkpoints.load_denoiser("fashion-vp1000", device="cpu")
    anchor = metrics.noise_anchor(n)
    file = store.folder() / RESULT
    for part in given.parts or ["grids", "ggdm-5"]:
        run = of_grids if part == "grids" else lambda *a, part=part: of_ggdm(part, *a)
        found = run(model, n, anchor, given.tiny)
        if given.tiny:
            continue
        known = json.loads(file.read_text()) if file.is_file() else {"parts": {}}
        real = data.load("fashion").x[-n:]
        known |= {
            "command": COMMAND, "unit": "A", "pictures": n, "anchor": round(anchor, 4),
            "floor": judge(real.clone, anchor) | {"core_seconds": 0.0},
            "machine": f"torch {torch.__version__}, 1 thread, cpu",
        }  # fmt: skip
        known["parts"][part] = found
        write_atomically(file, (json.dumps(known, indent=1) + "\n").encode())
        store.register(
            RESULT, licence="CC BY 4.0", source="measured by the course", recipe=COMMAND,
        )  # fmt: skip
        print(f"written: {part} in {file.relative_to(store.folder().parent)}", flush=True)


if __name__ == "__main__":
    main()
