"""Errors that say what was wrong, what was given and what to do about it."""

from __future__ import annotations

import importlib
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "CheckpointError",
    "DataError",
    "check_arguments",
    "check_lam_range",
    "check_takes",
    "did_you_mean",
    "named",
    "near",
    "number",
    "share",
    "unknown",
    "whole",
]

CLOSE = 0.5
"""A name is near when at most this share of its letters has to change."""


class DataError(RuntimeError):
    """A data file is missing, damaged or cannot be fetched."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged or does not fit what it is asked to do."""


def unknown(what: str, given: object, known: Iterable[str]) -> ValueError:
    """The error for a name that is not in a list, with the nearest names suggested.

    Usage: ``raise unknown("sampler", name, SAMPLERS)``.
    """
    names = sorted(known)
    hint = did_you_mean(given, names)
    return ValueError(f"unknown {what} {given!r}.{hint} Known: {', '.join(names) or 'none'}.")


def whole(what: str, given: object, least: int = 1) -> int:
    """``given`` as an int; ValueError unless it is a whole number from ``least`` on."""
    try:
        number = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{what} must be a whole number >= {least}; got {given!r}")
    return number


def number(what: str, given: float, least: float = 0.0, *, above: bool = False) -> float:
    """``given`` as a float; ValueError unless it is finite and >= ``least`` (> with ``above``)."""
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not least <= value < math.inf or (above and value == least):
        raise ValueError(
            f"{what} must be a finite number {'>' if above else '>='} {least:g}; got {given!r}"
        )
    return value


def share(what: str, given: float, meaning: str = "", *, inside: bool = False) -> float:
    """``given`` as a float; ValueError unless it lies in [0, 1], or ``inside`` (0, 1).

    ``meaning`` says in the error what the two ends mean.
    """
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1 or (inside and value in (0, 1)):
        range_ = ("(0, 1)" if inside else "[0, 1]") + (f" ({meaning})" if meaning else "")
        raise ValueError(f"{what} must lie in {range_}; got {given!r}")
    return value


def check_arguments(what: str, function: Callable[..., object], given: Iterable[str]) -> None:
    """ValueError, with the near match, for a name that is no argument of ``function``."""
    names = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in names.values()):
        return
    for name in given:
        if name not in names:
            raise unknown(f"argument of {what}", name, names)


def named(what: str, name: object) -> Any:
    """The class or function ``name``, written "diffusion_lab.module:Class", as files record it.

    ValueError for any other form, a private name, and what is not there. Only this package is
    looked into: a file must not choose code from elsewhere.
    """
    text = str(name)
    module, _, attribute = text.partition(":")
    if not re.fullmatch(r"diffusion_lab(\.[a-z]\w*)+:[a-zA-Z]\w*", text, re.ASCII):
        raise ValueError(
            f"a {what} is named 'diffusion_lab.module:Class', and nothing outside diffusion_lab is "
            f"looked up; got {name!r}"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {what} {name!r}: {error}") from error
    if not str(getattr(found, "__module__", "")).startswith("diffusion_lab."):  # such as files:os
        raise ValueError(f"there is no {what} {name!r}: it is not defined in diffusion_lab")
    return found


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """`` Did you mean 'ddpm' or 'dpmpp'?``, or nothing where no name is near."""
    *names, last = [repr(name) for name in near(given, known)] or [""]
    return (f" Did you mean {', '.join(names)}{' or ' if names else ''}{last}?") if last else ""


def near(given: object, known: Iterable[str]) -> list[str]:
    """Up to three names that ``given`` may have been meant for, the likeliest first.

    Those that hold ``given``, then those with the fewest slips of the keyboard, else those that it
    begins with; upper and lower case are one. A number is near nothing: 12 is not meant for 2.
    """
    text, names = str(given).lower(), list(dict.fromkeys(known))
    if not text or text.lstrip("+-").replace(".", "", 1).isdecimal():
        return []
    slips = {name: _slips(text, name.lower()) for name in names}
    close = {n: k for n, k in slips.items() if k <= CLOSE * max(len(text), len(n))}
    holds = [name for name in names if len(text) >= 3 and text in name.lower()]
    found = holds + [name for name in close if close[name] == min(close.values())]
    if not found:
        found = [name for name in names if len(name) >= 3 and text.startswith(name.lower())]
    return sorted(dict.fromkeys(found), key=lambda name: (name not in holds, slips[name]))[:3]


def _slips(a: str, b: str) -> int:
    """Letters left out, put in, exchanged, or swapped with their neighbour, to get from a to b.

    The optimal string alignment distance, one row of its table at a time.
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        two_up, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            fewest = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                fewest = min(fewest, two_up[j - 2] + 1)
            row.append(fewest)
    return row[-1]


def check_takes(what: str, function: Any, *names: str) -> None:
    """ValueError unless ``function`` can be called with those positional arguments."""
    try:
        inspect.signature(function).bind(*names)
    except TypeError as error:
        name = getattr(function, "__name__", None)
        call = f"; {name} makes one: {name}()" if name else ""
        raise ValueError(f"{what} ({', '.join(names)}); got {function!r}{call}") from error


def check_lam_range(lam_range: tuple[float, float] | None) -> None:
    """ValueError unless lam_range is None or (lowest, highest)."""
    if lam_range is not None and not (len(lam_range) == 2 and lam_range[0] < lam_range[1]):
        raise ValueError(f"lam_range must be (lowest, highest); got {lam_range}")
