"""Errors that say what was wrong, what was given and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["CheckpointError", "DataError", "unknown"]


class DataError(RuntimeError):
    """A data file is missing, damaged or cannot be fetched."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or does not fit what it is asked to do."""


def unknown(what: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in a list, with the nearest name suggested.

    Usage: ``raise unknown("sampler", name, SAMPLERS)``.
    """
    names = sorted(known)
    near = get_close_matches(str(given).lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {given!r}.{hint} Known: {', '.join(names)}.")
