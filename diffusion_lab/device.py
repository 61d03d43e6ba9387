"""The one place where device, precision and random numbers are chosen."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from diffusion_lab.errors import whole

__all__ = [
    "check_finite",
    "check_float",
    "device",
    "first_process",
    "generator",
    "processes",
    "randn",
    "unwrapped",
]


def device() -> torch.device:
    """CUDA if there is one, else the CPU; the variable ``DIFFUSION_LAB_DEVICE`` overrides it."""
    name = os.environ.get("DIFFUSION_LAB_DEVICE") or (
        "cuda" if torch.cuda.is_available() else "cpu"
    )
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"the variable DIFFUSION_LAB_DEVICE names no device: {name!r}. Known: cpu, cuda, cuda:0"
        ) from error


def processes() -> int:
    """How many processes torchrun started, by its variable WORLD_SIZE; 1 without it."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"the variable WORLD_SIZE, which torchrun sets, must be a whole number >= 1; got "
            f"{text!r}: unset it to train in one process"
        )
    return int(text)


def first_process() -> bool:
    """Whether this process is the one that talks: the only one, or rank 0 of torchrun."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def generator(*seed: int) -> torch.Generator:
    """A CPU generator for one purpose: ``generator(seed)`` or ``generator(seed, step, ...)``.

    Several numbers are mixed into one seed, so that the noise of training step 7 can be drawn
    without drawing that of steps 1 to 6 (resuming and several processes rest on this).
    """
    if not seed:
        raise ValueError("give at least one seed")
    seed = tuple(whole("a seed", number, least=-(2**63)) for number in seed)
    if max(seed) >= 2**63:
        raise ValueError(f"a seed must be below 2^63; got {max(seed)}")
    mixed = 0
    for number in seed:  # the finaliser of splitmix64, once for each number
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return torch.Generator("cpu").manual_seed(mixed if len(seed) > 1 else seed[0])


def randn(shape: tuple[int, ...], gen: torch.Generator, like: Tensor | None = None) -> Tensor:
    """Standard normal numbers drawn on the CPU (the same on every machine), then moved."""
    noise = torch.randn(shape, generator=gen, dtype=torch.float32, device="cpu")
    return noise if like is None else noise.to(like.device, like.dtype)


def check_float(x: Tensor, name: str) -> None:
    """ValueError unless x is a tensor of floats: pictures of whole numbers are not in [-1, 1]."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"{name} must be a tensor of floats; got {given} (pixels 0..255 become data in [-1, 1] "
            "by x.float() / 127.5 - 1)"
        )


def check_finite(x: Tensor, name: str) -> None:
    """ValueError if a number of x is nan or infinite: nothing can be measured on it."""
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} hold nan or inf: look where they come from")


def unwrapped(net: nn.Module) -> nn.Module:
    """The plain network inside ``torch.compile(net)``, DataParallel and their like."""
    while True:
        if isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        elif isinstance(getattr(net, "_orig_mod", None), nn.Module):
            net = net._orig_mod
        else:
            return net
