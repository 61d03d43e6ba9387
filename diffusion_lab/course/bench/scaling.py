"""Two processes against two threads, and time against counted FLOPs."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from diffusion_lab import metrics, nets, schedules
from diffusion_lab.course.bench.conditions import one_thread
from diffusion_lab.course.bench.results import Row
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import first_process, generator, randn
from diffusion_lab.training import recipes, train

__all__ = ["KINDS", "Forward", "forward", "run"]

COMMAND = "diffusion-lab bench scaling"
BATCH = 64
THIS = "diffusion_lab.course.bench.scaling"
ONE = ("-m", THIS)
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", THIS)


def run(*, quick: bool = False) -> Iterator[Row]:
    """Pictures a second of two processes over one, then time over FLOPs."""
    steps, repeats = (4, 1) if quick else (96, 3)
    took: dict[tuple[str, ...], list[float]] = {ONE: [], TWO: []}
    for i in range(repeats):
        for way in (ONE, TWO) if i % 2 else (TWO, ONE):
            took[way].append(_speed(way, steps))
    one, two = (statistics.median(took[way]) for way in (ONE, TWO))
    ratio = statistics.median(b / a for a, b in zip(took[ONE], took[TWO], strict=True))
    details = {
        "two processes of one thread, pictures/s": round(two, 1),
        "one process of two threads, pictures/s": round(one, 1),
        "batch": BATCH,
        "repeats": repeats,
    }
    yield Row(
        "scaling",
        "two processes over two threads",
        round(ratio, 3),
        "x",
        COMMAND,
        1.4,
        True,
        details,
        quick,
    )
    yield from _against_flops(quick)


def _speed(way: tuple[str, ...], steps: int) -> float:
    environment = os.environ | {"OMP_NUM_THREADS": "2" if way is ONE else "1"}
    command = [sys.executable, *way, "--steps", str(steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise RuntimeError(f"a benchmark's training failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout)["pictures per second"]


def _worker() -> None:
    """Train for a while and print the speed, the first quarter left out; run by ``_speed``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    steps = parser.parse_args().steps
    recipe = recipes.get("fashion").but(batch=BATCH, steps=steps)
    stamps = [(p.step, time.perf_counter()) for p in train(recipe, report_every=max(steps // 4, 1))]
    (first, begin), (last, end) = stamps[0], stamps[-1]
    if first_process():
        print(json.dumps({"pictures per second": BATCH * (last - first) / (end - begin)}))


# ---- time against FLOPs -------------------------------------------------------------------------
KINDS = {  # (size, batch, width); the first row of each sets the rate
    "image size": [(28, 16, 48), (56, 16, 48), (84, 16, 48)],
    "batch": [(28, 16, 48), (28, 64, 48), (28, 256, 48)],
    "parameters": [(28, 16, 48), (28, 16, 64), (28, 16, 96)],
}
"""Where a FLOP should cost the same: below these sizes the machine is not filled."""


@dataclass(frozen=True)
class Forward:
    """One call of a U-Net of ``width`` on a batch of square pictures, on one thread."""

    size: int
    batch: int
    width: int
    seconds: float  # CPU time, median
    flops: float
    parameters: int

    def over(self, first: Forward) -> float:
        """Its time over what its FLOPs predict from another call: 1 where they tell it all."""
        return self.seconds / self.flops / (first.seconds / first.flops)


def _against_flops(quick: bool) -> Iterator[Row]:
    """CPU time of a forward pass over what its FLOPs predict, by size, batch and parameters."""
    with one_thread():
        for kind, cases in KINDS.items():
            cases = cases[:2] if quick else cases
            found = [forward(*case, repeats=2 if quick else 15) for case in cases]
            ratios = [one.over(found[0]) for one in found]
            worst = max(max(r, 1 / r) for r in ratios)
            details = {
                f"{one.size}x{one.size}, batch {one.batch}, width {one.width}": (
                    f"{one.parameters:,} parameters, {one.flops / 1e9:.2f} GFLOP, "
                    f"{1000 * one.seconds:.1f} ms, {ratio:.2f} x predicted"
                )
                for one, ratio in zip(found, ratios, strict=True)
            }
            yield Row(
                "scaling",
                f"time against FLOPs by {kind}, furthest off",
                round(worst, 3),
                "x",
                COMMAND,
                1.25,
                details=details,
                quick=quick,
            )


def forward(size: int, batch: int, width: int, repeats: int = 5) -> Forward:
    """Time one call of a U-Net with channels (width, 2 width) on ``batch`` pictures size x size.

    CPU seconds, the median of ``repeats`` calls after one that is not counted.
    """
    net = nets.make("unet", widths=(width, 2 * width)).eval().requires_grad_(False)
    net.to(memory_format=torch.channels_last)
    denoiser = NetDenoiser(net, schedules.EDM(20.0), shape=(1, size, size))
    x = randn((batch, 1, size, size), generator(0))
    seconds = []
    with torch.no_grad():
        denoiser(x, 0.5)
        for _ in range(repeats):
            begin = time.process_time()
            denoiser(x, 0.5)
            seconds.append(time.process_time() - begin)
    flops = batch * metrics.count_flops(denoiser)
    parameters = metrics.count_parameters(net)
    return Forward(size, batch, width, statistics.median(seconds), flops, parameters)


if __name__ == "__main__":
    _worker()
