"""The one place where device, precision and random numbers are chosen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.errors import whole

__all__ = [
    "check_alike",
    "check_batch",
    "check_each",
    "check_finite",
    "check_float",
    "check_generator",
    "check_label",
    "check_range",
    "check_time",
    "check_times",
    "device",
    "first_process",
    "generator",
    "processes",
    "randn",
    "rows_of",
    "unwrapped",
]


def device(name: str | None = None, option: str = "the device") -> torch.device:
    """CUDA if there is one, else the CPU; the variable ``DIFFUSION_LAB_DEVICE`` overrides it.

    Apple's ``mps`` is taken where it is asked for by name and torch has it, and never by itself: it
    knows no float64, in which times and schedules are computed. Walks whose times are plain numbers
    draw there (all samplers but emsde); training, and what calls a denoiser at a tensor of times,
    does not work.

    Args:
        name: a device that a person asked for by ``option``, which messages name; one to compute
            on, so not ``meta``. None stands for the choice above.

    Raises ValueError for what is no device, or not there.
    """
    asked = name is not None
    if name is None:
        option, name = "the variable DIFFUSION_LAB_DEVICE", os.environ.get("DIFFUSION_LAB_DEVICE")
        name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"{option} names no device: {name!r}. Known: cpu, cuda, cuda:0, mps"
        ) from error
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{option} is {name!r}, which torch has not got here")
    count = torch.cuda.device_count()
    if asked and found.type == "cuda" and (found.index or 0) >= count:
        raise ValueError(f"{option} is {name!r}: torch sees {count} CUDA devices")
    if asked and found.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"{option} {name!r} is not supported: cpu, cuda or mps")
    return found


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


def randn(
    shape: Sequence[int],
    gen: torch.Generator,
    like: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal numbers drawn on the CPU (the same on every machine), then moved.

    Drawn in ``dtype`` whatever torch's default is, and given in the dtype of ``like``.
    """
    noise = torch.randn(tuple(shape), generator=gen, dtype=dtype, device="cpu")
    return noise if like is None else noise.to(like)


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


def rows_of(condition: dict[str, Any], rows: Any, n: int) -> dict[str, Any]:
    """The same rows of every condition that has one for each of n data; others as they are."""
    return {
        name: value[rows] if isinstance(value, Tensor) and value.shape[:1] == (n,) else value
        for name, value in condition.items()
    }


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside what torch.compile, DataParallel or DistributedDataParallel made of it."""
    while True:
        inner = getattr(net, "_orig_mod", None)
        if inner is None and type(net).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = net.module
        if inner is None:
            return net
        net = inner


def check_label(label: Tensor, n: int, classes: int | None) -> Tensor:
    """The label if it is int64 (n,) within 0..classes (the last is 'no class').

    The range is looked at on the CPU only (a GPU would wait); ValueError otherwise.
    """
    if classes is None:
        raise ValueError("this denoiser knows no classes: call it without a label")
    if not isinstance(label, Tensor):
        raise ValueError(f"label must be a tensor, int64 of shape ({n},); got {label!r}")
    if label.dtype != torch.int64 or label.shape != (n,):
        raise ValueError(
            f"label must be int64 of shape ({n},); got {label.dtype} of shape {tuple(label.shape)}"
        )
    if label.device.type == "cpu" and n:
        low, high = label.aminmax()
        if low < 0 or high > classes:
            raise ValueError(
                f"labels must lie in 0..{classes - 1}, or be {classes} for 'no class'; "
                f"got values in {low}..{high}"
            )
    return label


def check_time(t: float | Tensor) -> float | Tensor:
    """t as a float or a float64 tensor; ValueError unless it lies in [0, 1].

    Tensors are looked at on the CPU only (a GPU would wait).
    """
    if isinstance(t, float) and 0.0 <= t <= 1.0:  # most calls by far end here
        return t
    if isinstance(t, Tensor):
        if t.device.type == "cpu" and t.numel() and not (t.min() >= 0 and t.max() <= 1):
            raise ValueError(f"t must lie in [0, 1]; got values in [{t.min():g}, {t.max():g}]")
        return t.double()
    if not isinstance(t, Real):
        raise ValueError(f"t must be a number or a tensor of times; got {type(t).__name__}")
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t must lie in [0, 1] (0 is data, 1 is noise); got {t!r}")
    return float(t)


def check_each(t: Tensor, like: Tensor) -> None:
    """ValueError unless t is a tensor (B,), one time for each datum of ``like``."""
    if not isinstance(t, Tensor):
        raise ValueError(f"t must be a tensor, one time for each datum; got {t!r}")
    if t.shape != (len(like),):
        raise ValueError(f"t must have shape ({len(like)},); got {tuple(t.shape)}")


def check_times(t: float | Tensor, like: Tensor) -> None:
    """ValueError unless t is a number, or a tensor with one time for each datum of ``like``."""
    if isinstance(t, float):
        return
    if isinstance(t, Tensor) and (t.ndim != 1 or len(t) not in (1, len(like))):
        raise ValueError(
            f"t must be a float or a tensor of shape ({len(like)},), one time for each "
            f"picture; got shape {tuple(t.shape)}"
        )


def check_batch(x: Tensor, name: str, shape: Sequence[int] | None) -> None:
    """ValueError where x is not a batch of floats (B, *shape); None stands for any shape."""
    check_float(x, name)
    if shape is not None and tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(
            f"{name} must have shape (B, {', '.join(map(str, shape))}); got {tuple(x.shape)}"
        )


def check_alike(**tensors: Tensor) -> None:
    """ValueError unless all have one shape; they are called by their names."""
    if len({t.shape for t in tensors.values()}) > 1:
        given = " and ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"{given} must have one shape")


def check_range(x: Tensor, name: str) -> None:
    """Do pictures (N, C, H, W) lie in [-1, 1]? Samplers' may exceed it, most by little.

    ValueError for pixels 0..255, which no sampler draws. A warning where no pixel is below 0, as in
    pictures scaled to [0, 1], or where more than half of them are far outside.
    """
    low, high = (float(end) for end in x.aminmax())
    scale = f"{name} go from {low:g} to {high:g}"
    if low >= 0 and high > 2:
        raise ValueError(f"{scale}: pixels 0..255 become data in [-1, 1] by x / 127.5 - 1")
    if low >= 0 and low < high and len(x) > 1:
        words = f"{scale}, and black is -1: pictures in [0, 1] become data in [-1, 1] by 2 * x - 1"
        warnings.warn(words, stacklevel=3)
    elif float((x.abs() > 1.5).double().mean()) > 0.5:
        words = f"{scale}: more than half of the pixels lie far outside [-1, 1]"
        warnings.warn(words, stacklevel=3)


def check_generator(given: torch.Generator | None, seed: int | None = None) -> torch.Generator:
    """The generator; with ``seed``, that of the seed for None. ValueError for anything else."""
    if given is None and seed is not None:
        return generator(seed)
    if not isinstance(given, torch.Generator):
        raise ValueError(
            f"random numbers come from a torch.Generator; got {type(given).__name__}: "
            "device.generator(seed) makes one"
        )
    return given
