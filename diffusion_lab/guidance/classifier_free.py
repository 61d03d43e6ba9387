"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598).

    out = out_null + scale (out_class - out_null)

with scale 1 the conditional and 0 the unconditional answer (their w is scale - 1). Both answers
come from one network call on twice the batch, and count as two evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser, Prediction
from diffusion_lab.schedules import Time

__all__ = ["Guided", "guided"]


class Guided(Denoiser):
    """A conditional denoiser pushed away from what it says without the class."""

    def __init__(self, inner: Denoiser, scale: float) -> None:
        super().__init__(inner.schedule)
        if inner.num_classes is None:
            raise ValueError("guidance needs a denoiser trained with classes and a null class")
        self.inner, self.scale, self.nfe = inner, scale, 2 * inner.nfe
        self.lam_range, self.num_classes, self.shape = (
            inner.lam_range,
            inner.num_classes,
            inner.shape,
        )
        self._labels: tuple[Tensor, Tensor] | None = None

    def prepare(self, times: Sequence[float], like: Tensor) -> None:
        self.inner.prepare(times, like)

    def forward(
        self, x_t: Tensor, t: Time, *, label: Tensor | None = None, **condition: Any
    ) -> Prediction:
        if label is None:
            raise ValueError("guidance has nothing to push towards: call it with label=...")
        if self._labels is None or self._labels[0] is not label:
            self.check_label(label, len(x_t))
            null = torch.full_like(label, self.num_classes)
            self._labels = label, torch.cat([label, null])
        twice_t = torch.cat([t, t]) if isinstance(t, Tensor) else t
        both = self.inner(torch.cat([x_t, x_t]), twice_t, label=self._labels[1], **condition)
        yes, no = both.out.chunk(2)
        out = torch.lerp(no, yes, self.scale)
        if isinstance(both.alpha, Tensor):
            b = len(x_t)
            alpha, sigma = both.alpha[:b], both.sigma[:b]
            ab = tuple(c[:b] if isinstance(c, Tensor) else c for c in (both.a, both.b))
        else:
            alpha, sigma, ab = both.alpha, both.sigma, (both.a, both.b)
        var = None if both.var is None else both.var[: len(x_t)]
        return Prediction(x_t, alpha, sigma, out, both.kind, ab=ab, var=var)


def guided(denoiser: Denoiser, scale: float) -> Denoiser:
    """``denoiser`` with guidance ``scale``; ValueError if it has no classes."""
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"the guidance scale must be a finite number; got {scale!r}")
    return Guided(denoiser, float(scale))
