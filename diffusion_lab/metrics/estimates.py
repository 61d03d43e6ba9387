"""A number, how far it may be off, and what it was measured on.

    mean of n independent values:  m +- s/sqrt(n),      s the standard deviation with n - 1
    difference of two estimates:   (a - b) +- sqrt(e_a^2 + e_b^2)       (measured independently)
    difference of n pairs:         the mean of a_i - b_i, as above          (from the same noise)

An error is always a *standard* error: about two thirds of repetitions lie within one of it, 95%
within two. An error that was itself found from few values (three seeds) is known badly, and then
fewer do: such an estimate keeps its degrees of freedom (n - 1; for a difference those of Welch and
Satterthwaite), and ``interval``, ``sure`` and ``compare`` read Student's law with them. No error
knows of bias: a Fréchet distance of few pictures can be off by far more.

Two settings that draw from the same noise (or are trained from the same seeds) go up and down
together. Their errors do not add: take ``Estimate.of`` of the differences run by run, or, for the
distances of one set of pictures each, ``metrics.fd_paired``, and read it with ``verdict``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.device import check_finite, check_generator
from diffusion_lab.errors import number, whole

__all__ = ["Estimate", "compare", "halves", "of_halves", "verdict"]

SURE = 0.5 * math.erfc(-math.sqrt(2))  # that of two standard errors, 97.7%


@dataclass(frozen=True)
class Estimate:
    """``value`` with its standard error, from ``n`` pictures (or runs, or whatever was counted).

    ``freedom`` are the degrees of freedom of the error, infinite where it is known well.
    """

    value: float
    error: float
    n: int
    freedom: float = math.inf

    @classmethod
    def of(cls, values: Sequence[float] | Tensor, n: int | None = None) -> Estimate:
        """The mean of independent values (seeds, splits), with its standard error.

        ``n`` is what the estimate says it rests on; by default the number of values. ValueError
        for fewer than two values: one run says nothing about the spread.
        """
        values = torch.as_tensor(values, dtype=torch.float64, device="cpu")
        if values.ndim != 1 or len(values) < 2:
            raise ValueError(
                f"a standard error needs at least two values in one row; got {tuple(values.shape)}"
            )
        check_finite(values, "the values")
        error = values.std() / math.sqrt(len(values))
        count = len(values)
        return cls(values.mean().item(), error.item(), count if n is None else n, count - 1)

    def __float__(self) -> float:
        return self.value

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of two independent estimates; n is the smaller one."""
        error = math.hypot(self.error, other.error)
        loose = self.error**4 / self.freedom + other.error**4 / other.freedom
        freedom = error**4 / loose if loose > 0 else math.inf
        return Estimate(self.value - other.value, error, min(self.n, other.n), freedom)

    def __truediv__(self, unit: float) -> Estimate:
        """The same in other units: ``fd / anchor``."""
        number("the size of a unit", abs(unit), above=True)
        return Estimate(self.value / unit, abs(self.error / unit), self.n, self.freedom)

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g} (N = {self.n:,})"

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true value lies with 95% if what was averaged is Gaussian."""
        low, high = 1.9, 20.0  # 1.96 errors; 12.7 where only two values gave the error
        while high - low > 1e-9:
            middle = 0.5 * (low + high)
            low, high = (middle, high) if _beyond(middle, self.freedom) > 0.025 else (low, middle)
        return self.value - low * self.error, self.value + low * self.error

    @property
    def sure(self) -> float:
        """Probability, from 0.5 to 1, that the true value has this sign.

        If what was averaged is Gaussian and nothing was known before.
        """
        if self.error == 0:
            return 1.0 if self.value else 0.5
        return 1 - _beyond(abs(self.value) / self.error, self.freedom)


def _beyond(t: float, freedom: float) -> float:
    """P(T > t) for t >= 0, T of Student's law: Gaussian where ``freedom`` is infinite.

    With t = sqrt(freedom)/tan(u) the density is sin(u)^(freedom - 1) up to a constant.
    """
    if math.isinf(freedom) or math.isnan(t):
        return 0.5 * math.erfc(t / math.sqrt(2))
    end = math.atan2(math.sqrt(freedom), t)
    w = (torch.arange(2000, dtype=torch.float64, device="cpu") + 0.5) / 2000
    part = (2 * end * w * torch.sin(end * w * w) ** (freedom - 1)).mean().item()
    size = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    return part * math.exp(size)


def halves(n: int, generator: torch.Generator, draws: int) -> Tensor:
    """Places of the two random halves of n pictures, drawn anew each time: (draws, 2, n // 2).

    ValueError unless each half has two pictures and there are two draws.
    """
    draws, generator = whole("draws", draws), check_generator(generator)
    if n < 4 or draws < 2:
        raise ValueError(f"need at least four pictures and two draws; got {n} and {draws}")
    orders = [torch.randperm(n, generator=generator, device="cpu") for _ in range(draws)]
    return torch.stack(orders)[:, : n // 2 * 2].reshape(draws, 2, n // 2)


def of_halves(a: Tensor, b: Tensor) -> float:
    """The standard error of a value measured on all, from its values on both halves, (draws,) each.

    The halves' difference tells how much of the value is linear in the pictures, their mean how
    much is quadratic (which is all there is where both laws agree): with l = (a - b)/2 and
    q = (a + b)/2,

        error^2 = max(Var l - Var q, Var q).

    Redrawing with replacement would find Var l + Var q, up to 1.7 times the error of a Fréchet
    distance near 0; this too errs on the safe side there.
    """
    linear, quadratic = ((a - b) / 2).var(), ((a + b) / 2).var()
    return torch.maximum(linear - quadratic, quadratic).sqrt().item()


def compare(a: Estimate, b: Estimate, names: tuple[str, str] = ("first", "second")) -> str:
    """Which of two independent estimates is lower, by how much, and how sure that is, in words.

    For settings that share their noise: ``verdict`` of the paired difference.
    """
    for one in (a, b):
        _check_estimate("compare takes two Estimates, values with their errors", one)
    return verdict(a - b, names)


def verdict(gap: Estimate, names: tuple[str, str] = ("first", "second")) -> str:
    """What a difference first - second says: which is lower, by how much, how sure, in words.

    They cannot be told apart within two standard errors of the difference, or within as many more
    as it takes to be as sure (97.7%) where the error rests on few values.
    """
    _check_estimate("verdict takes the difference of two settings with its error", gap)
    text = f"{abs(gap.value):.3g} ± {gap.error:.2g}"
    if not gap.sure > SURE:
        return f"{names[0]} and {names[1]} cannot be told apart (difference {text})"
    low, high = names if gap.value < 0 else names[::-1]
    sure = "over 99.9%" if gap.sure > 0.999 else f"{gap.sure:.1%}"
    return f"{low} is lower than {high} by {text}, {sure} sure"


def _check_estimate(words: str, given: object) -> None:
    if not isinstance(given, Estimate):
        raise ValueError(
            f"{words}; got {type(given).__name__}: a number alone says nothing about its spread "
            "(metrics.fd_estimate, metrics.fd_paired, Estimate.of)"
        )
