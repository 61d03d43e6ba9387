"""What a picture costs: network evaluations, parameters, multiplications, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffusion_lab.denoisers import Denoiser, NetDenoiser

__all__ = ["Cost", "count_flops", "count_parameters", "flops_by_part", "measure"]


@dataclass(frozen=True)
class Cost:
    """The cost of some pictures. FLOPs count a multiply-add as two."""

    pictures: int
    nfe: int
    parameters: int
    flops: float  # for one picture, all evaluations
    cpu_seconds: float  # all cores together
    seconds: float  # wall clock

    @property
    def cpu_seconds_per_1000(self) -> float:
        return 1000 * self.cpu_seconds / self.pictures

    def row(self) -> dict[str, Any]:
        """Rounded values for a table."""
        return {
            "NFE": self.nfe,
            "parameters (M)": round(self.parameters / 1e6, 3),
            "MFLOP / picture": round(self.flops / 1e6, 1),
            "core-s / 1000": round(self.cpu_seconds_per_1000, 1),
        }


def count_parameters(module: nn.Module) -> int:
    """Number of trained numbers in a module."""
    return sum(p.numel() for p in module.parameters())


def count_flops(denoiser: Denoiser, shape: tuple[int, ...] | None = None, t: float = 0.5) -> float:
    """FLOPs of one call of the denoiser on one datum (attention's products counted)."""
    return float(_counted(denoiser, shape, t)["Global"])


def flops_by_part(
    denoiser: NetDenoiser, shape: tuple[int, ...] | None = None, t: float = 0.5
) -> dict[str, float]:
    """FLOPs of one call on one datum for each part of the network, as its layers are named.

    A part is a child of the network, or an entry of a list of layers ("down.0"). Parts without
    multiplications of matrices (norms, additions) count 0, as in ``count_flops``.
    """
    counts = _counted(denoiser, shape, t)
    parts = []
    for name, child in denoiser.net.named_children():
        is_list = isinstance(child, nn.ModuleList)
        parts += [f"{name}.{i}" for i in range(len(child))] if is_list else [name]
    root = f"{type(denoiser).__name__}.net"
    return {part: float(counts.get(f"{root}.{part}", 0)) for part in parts}


@torch.no_grad()
def _counted(denoiser: Denoiser, shape: tuple[int, ...] | None, t: float) -> dict[str, int]:
    """FLOPs of one call on one datum by module, and of all of it as "Global"."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    shape = shape or denoiser.shape
    if shape is None:
        raise ValueError("give the shape of one datum: this denoiser does not know it")
    like = next(denoiser.parameters(), torch.zeros(()))
    x = torch.zeros(1, *shape, device=like.device)
    condition = {}
    if denoiser.num_classes is not None:
        condition["label"] = torch.zeros(1, dtype=torch.int64, device=like.device)
    # the fused attention kernels of the CPU are invisible to the counter: count the plain one
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        denoiser(x, t, **condition)
    return {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}


def measure(denoiser: Denoiser, run: Callable[[], Any], *, pictures: int) -> tuple[Any, Cost]:
    """Run ``run`` once (it returns a samplers.Result) and say what it cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    net = denoiser.net if isinstance(denoiser, NetDenoiser) else denoiser
    per_call = count_flops(denoiser) / denoiser.nfe
    return result, Cost(
        pictures, result.nfe, count_parameters(net), per_call * result.nfe, cpu, wall
    )
