"""What a learner waits for: the import, and the first pictures."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from diffusion_lab.course.bench.results import Row

__all__ = ["run_first_picture", "run_import"]

LESSON = "checkpoints, data, generate, metrics, samplers, schedules, training"
IMPORTS = {"diffusion_lab": "import diffusion_lab", "what a lesson imports": ""}
IMPORTS["what a lesson imports"] = (
    f"from diffusion_lab import {LESSON}; from diffusion_lab.course import plots"
)
LATE = ("torchvision", "sklearn", "matplotlib", "accelerate", "IPython")

_IMPORT = """
import json, sys, time
begin = time.process_time(), time.perf_counter()
import torch
middle = time.process_time(), time.perf_counter()
{line}
end = time.process_time(), time.perf_counter()
late = [name for name in {late} if name in sys.modules]
print(json.dumps(dict(cpu=end[0] - middle[0], wall=end[1] - middle[1],
                      torch=middle[0] - begin[0], late=late)))
"""

_PICTURES = """
import time
from diffusion_lab import checkpoints, data
from diffusion_lab.generate import generate
import torch
model = checkpoints.load("fashion")
settings = model.about["recipe"]["sampler"]
drawn = generate(model, 64, label=torch.arange(64) % 10, **settings)
pictures = data.to_uint8(drawn.x)
print(time.process_time())
"""


def run_import(*, quick: bool = False) -> Iterator[Row]:
    """CPU seconds of importing the package above torch, the median of fresh processes."""
    repeats = 1 if quick else 7
    took: dict[str, list[dict[str, Any]]] = {name: [] for name in IMPORTS}
    for _ in range(repeats):
        for name, line in IMPORTS.items():
            took[name].append(json.loads(_python(_IMPORT.format(line=line, late=LATE))))
    for name, runs in took.items():
        details = {
            "wall-clock s": round(statistics.median(r["wall"] for r in runs), 3),
            "torch itself s": round(statistics.median(r["torch"] for r in runs), 2),
            "heavy modules imported": ", ".join(runs[0]["late"]) or "none",
            "repeats": repeats,
        }
        value = round(statistics.median(r["cpu"] for r in runs), 4)
        yield Row(
            "import",
            name,
            value,
            "s",
            "diffusion-lab bench import",
            0.3,
            details=details,
            quick=quick,
        )


def run_first_picture(*, quick: bool = False) -> Iterator[Row]:
    """Seconds to the first 64 pictures, from the start of a process and of a notebook kernel."""
    repeats = 1 if quick else 3
    ways = {"from the start of a process": _process}
    if importlib.util.find_spec("jupyter_client") and importlib.util.find_spec("ipykernel"):
        ways["from the start of a notebook kernel"] = _kernel
    for case, way in ways.items():
        took = [way() for _ in range(repeats)]
        seconds = [wall for wall, _ in took]
        details = {
            "core-s": round(statistics.median(cpu for _, cpu in took), 1),
            "least to most": f"{min(seconds):.1f} to {max(seconds):.1f} s",
            "repeats": repeats,
        }
        yield Row(
            "first-picture",
            case,
            round(statistics.median(seconds), 2),
            "s",
            "diffusion-lab bench first-picture",
            10.0,
            details=details,
            quick=quick,
        )


def _python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"a benchmark's process failed:\n{run.stderr}")
    return run.stdout


def _process() -> tuple[float, float]:
    """(wall-clock, CPU) seconds of a fresh process."""
    begin = time.perf_counter()
    cpu = float(_python(_PICTURES))
    return time.perf_counter() - begin, cpu


def _kernel() -> tuple[float, float]:
    """The same for a fresh notebook kernel; what stopping it takes is left out."""
    from jupyter_client.manager import KernelManager

    begin = time.perf_counter()
    manager = KernelManager()  # this environment's own kernel, whatever kernelspecs there are
    manager.kernel_spec.argv = [
        sys.executable,
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=300)
        printed: list[dict[str, Any]] = []
        reply = client.execute_interactive(_PICTURES, timeout=300, output_hook=printed.append)
        seconds = time.perf_counter() - begin
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"a benchmark's kernel failed: {reply['content'].get('evalue')}")
        text = "".join(m["content"]["text"] for m in printed if m["msg_type"] == "stream")
        return seconds, float(text)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
