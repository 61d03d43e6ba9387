"""Whether two answers are the same, and in words how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["difference", "numeric"]


def numeric(value: Any) -> bool:
    """Whether a value is a number, an array or a tensor."""
    return hasattr(value, "shape") or isinstance(value, int | float | complex)


def difference(wanted: Any, given: Any, tolerance: float) -> str | None:
    """``None`` when equal within the tolerance, else a sentence on how they differ."""
    import torch

    left, right = list(_leaves(wanted)), list(_leaves(given))
    if len(left) != len(right):
        noun = "value" if len(left) == 1 else "values"
        return f"{len(left)} {noun} should come back, but {len(right)} did."
    for a, b in zip(left, right, strict=True):
        if isinstance(a, str) and isinstance(b, str):
            if a != b:
                return f"{b!r} came back where {a!r} was expected."
            continue
        try:
            x = torch.as_tensor(a, dtype=torch.float64).detach().cpu()
            y = torch.as_tensor(b, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            return f"a {type(b).__name__} came back where a {type(a).__name__} was expected."
        if x.shape != y.shape:
            return _shapes(tuple(x.shape), tuple(y.shape))
        if not bool(torch.isfinite(y).all()) and bool(torch.isfinite(x).all()):
            return "some of the numbers that came back are not finite."
        error = (x - y).abs()
        error = torch.where((x == y) | (x.isnan() & y.isnan()), torch.zeros_like(error), error)
        finite = x[torch.isfinite(x)].abs()
        scale = max(1.0, float(finite.max())) if finite.numel() else 1.0
        if error.numel() and not float(error.max()) <= tolerance * scale:
            return _pattern(x, y, float(error.max()))
    return None


def _scalar(value: Any) -> bool:
    """One plain number, or one of numpy's or torch's: a tuple of them is one answer."""
    return isinstance(value, int | float) or getattr(value, "shape", None) == ()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, tuple | list) and not all(map(_scalar, value)):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _shapes(wanted: tuple[int, ...], given: tuple[int, ...]) -> str:
    if len(given) > len(wanted) or sorted(given) != sorted(wanted):
        more = " Does a value per sample need the shape (B, 1, 1, 1)?" if given else ""
    else:
        more = " Are two axes exchanged?"
    return f"the shape is {given} where {wanted} was expected.{more}"


def _pattern(x: Any, y: Any, largest: float) -> str:
    """Name a wrong sign or a constant factor or offset; else give the largest error."""
    if float((x + y).abs().max()) <= 1e-6 * (1 + float(x.abs().max())):
        return "the size is right, but the sign is the other way round."
    norm = float((x * x).sum())
    if x.numel() > 1 and norm > 0:
        factor = float((x * y).sum()) / norm
        scaled = factor and float((y - factor * x).abs().max()) <= 1e-4 * abs(factor)
        if scaled and f"{factor:.4g}" != "1":
            return f"everything is {factor:.4g} times what it should be."
        offset = float((y - x).mean())
        if offset and float((y - x - offset).abs().max()) <= 1e-4 * abs(offset):
            return f"everything is {offset:+.4g} away from what it should be."
    return f"the largest error is {largest:.3g}."
