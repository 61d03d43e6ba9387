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

import torch

from diffusion_lab import metrics, nets, recipes, schedules
from diffusion_lab.bench.results import Row
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator
from diffusion_lab.training import train

__all__ = ["run"]

COMMAND = "diffusion-lab bench scaling"
BATCH = 64
THIS = "diffusion_lab.bench.scaling"
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
        "batch": BATCH, "repeats": repeats,
    }  # fmt: skip
    yield Row(
        "scaling", "two processes over two threads", round(ratio, 3), "x", COMMAND, 1.4, True,
        details, quick,
    )  # fmt: skip
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
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"pictures per second": BATCH * (last - first) / (end - begin)}))


# ---- time against FLOPs -------------------------------------------------------------------------
def _against_flops(quick: bool) -> Iterator[Row]:
    """CPU time of a forward pass over what its FLOPs predict, by size, batch and width."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    kinds = {
        "image size": [(28, 64, 32), (56, 64, 32), (84, 64, 32)],
        "batch": [(28, 64, 32), (28, 16, 32), (28, 256, 32)],
        "width": [(28, 64, 32), (28, 64, 48), (28, 64, 64)],
    }
    try:
        for kind, rows in kinds.items():
            rows = rows[:2] if quick else rows
            measured = [_forward(*row, repeats=2 if quick else 15) for row in rows]
            base = measured[0][0] / measured[0][1]
            for (size, batch, width), (seconds, flops, parameters) in zip(
                rows, measured, strict=True
            ):
                details = {
                    "GFLOP": round(flops / 1e9, 2), "GFLOP/s": round(flops / seconds / 1e9, 1),
                    "parameters": parameters,
                }  # fmt: skip
                yield Row(
                    "scaling",
                    f"time over FLOPs by {kind}: {size}x{size}, batch {batch}, width {width}",
                    round(seconds / flops / base, 3), "x the first", COMMAND, details=details,
                    quick=quick,
                )  # fmt: skip
    finally:
        torch.set_num_threads(threads)


def _forward(size: int, batch: int, width: int, repeats: int) -> tuple[float, float, int]:
    """(CPU seconds, FLOPs, parameters) of one call on a batch."""
    net = nets.make("unet", widths=(width, 2 * width)).eval().requires_grad_(False)
    net.to(memory_format=torch.channels_last)
    denoiser = NetDenoiser(net, schedules.EDM(20.0), shape=(1, size, size))
    x = torch.randn((batch, 1, size, size), generator=generator(0))
    seconds = []
    with torch.no_grad():
        denoiser(x, 0.5)
        for _ in range(repeats):
            begin = time.process_time()
            denoiser(x, 0.5)
            seconds.append(time.process_time() - begin)
    flops = batch * metrics.count_flops(denoiser)
    return statistics.median(seconds), flops, metrics.count_parameters(net)


if __name__ == "__main__":
    _worker()
