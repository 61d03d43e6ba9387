"""A number, how far it may be off, and what it was measured on.

    mean of n independent values:  m +- s/sqrt(n),      s the standard deviation with n - 1
    difference of two estimates:   (a - b) +- sqrt(e_a^2 + e_b^2)       (measured independently)

An error is always a *standard* error: about two thirds of repetitions lie within one of it, 95%
within two. It knows nothing of bias: a Fréchet distance of few pictures can be off by far more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Estimate", "compare"]


@dataclass(frozen=True)
class Estimate:
    """``value`` with its standard error, from ``n`` pictures (or runs, or whatever was counted)."""

    value: float
    error: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | Tensor, n: int | None = None) -> Estimate:
        """The mean of independent values (seeds, splits, blocks), with its standard error.

        ``n`` is what the estimate says it rests on; by default the number of values. ValueError
        for fewer than two values: one run says nothing about the spread.
        """
        values = torch.as_tensor(values, dtype=torch.float64)
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                f"a standard error needs at least two values in one row; got {tuple(values.shape)}"
            )
        error = values.std() / math.sqrt(len(values))
        return cls(values.mean().item(), error.item(), len(values) if n is None else n)

    def __float__(self) -> float:
        return self.value

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two independent estimates; n is the smaller one."""
        error = math.hypot(self.error, other.error)
        return Estimate(self.value - other.value, error, min(self.n, other.n))

    def __truediv__(self, unit: float) -> Estimate:
        """The same in other units: ``fd / anchor``."""
        return Estimate(self.value / unit, abs(self.error / unit), self.n)

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g} (N = {self.n:,})"

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true value lies with 95% if the errors are Gaussian."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error

    @property
    def sure(self) -> float:
        """Probability, from 0.5 to 1, that the true value has this sign (Gaussian errors)."""
        if self.error == 0:
            return 1.0 if self.value else 0.5
        return 0.5 * math.erfc(-abs(self.value) / self.error / math.sqrt(2))


def compare(a: Estimate, b: Estimate, names: tuple[str, str] = ("first", "second")) -> str:
    """Which of two independent estimates is lower, by how much, and how sure that is, in words.

    Estimates whose difference is within two standard errors are called equal.
    """
    gap = a - b
    sure = "over 99.9%" if gap.sure > 0.999 else f"{gap.sure:.1%}"
    text = f"{abs(gap.value):.3g} ± {gap.error:.2g}, {sure} sure"
    if abs(gap.value) <= 2 * gap.error:
        return f"{names[0]} and {names[1]} cannot be told apart ({text})"
    low, high = names if gap.value < 0 else names[::-1]
    return f"{low} is lower than {high} by {text}"
