"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598).

    out = out_null + scale (out_condition - out_null)

with scale 1 the conditional and 0 the unconditional answer (their w is scale - 1). Both answers
come from one network call on twice the batch, and count as two evaluations.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser, Prediction, Wrapped
from diffusion_lab.schedules import Time

__all__ = ["Guided", "guided"]


class Guided(Wrapped):
    """A conditional denoiser pushed away from what it says under the ``null`` condition.

    Conditions that ``null`` does not name are the same for both answers.
    """

    def __init__(self, inner: Denoiser, scale: float, null: dict[str, Any]) -> None:
        super().__init__(inner, calls=2)
        self.scale, self.null = scale, null

    def forward(self, x_t: Tensor, t: Time, **condition: Any) -> Prediction:
        missing = [name for name in self.null if condition.get(name) is None]
        if missing:
            raise ValueError(f"guidance has nothing to push towards: call it with {missing[0]}=...")
        n = len(x_t)
        twice = {k: self._pair(k, v, n) for k, v in condition.items()}
        twice_t = torch.cat([t, t]) if isinstance(t, Tensor) and len(t) == n else t
        both = self.inner(torch.cat([x_t, x_t]), twice_t, **twice)
        if hasattr(both, "pushed"):  # log-probabilities of codes have their own line
            return both.pushed(self.scale)
        yes, no = both.out.chunk(2)
        alpha, sigma, a, b, weight = (
            c[:n] if isinstance(c, Tensor) and c.ndim == x_t.ndim and len(c) == 2 * n else c
            for c in (both.alpha, both.sigma, both.a, both.b, both.var_weight)
        )
        out = torch.lerp(no, yes, self.scale)
        eps = both.kept_eps
        if eps is not None:  # one that was kept while x_0 was clipped is guided too
            eps = torch.lerp(*eps.chunk(2)[::-1], self.scale)
        told = {"ab": (a, b), "var_weight": weight, "eps": eps}
        return Prediction(x_t, alpha, sigma, out, both.kind, **told)

    def _pair(self, name: str, value: Any, n: int) -> Any:
        """A condition of the whole batch followed by its null (or by itself)."""
        rows = isinstance(value, Tensor) and value.ndim > 0 and len(value) == n
        if name not in self.null:
            return torch.cat([value, value]) if rows else value
        if not rows:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be a tensor of shape ({n}, ...); got {given}")
        null = torch.as_tensor(self.null[name], dtype=value.dtype, device=value.device)
        try:
            return torch.cat([value, null.expand_as(value)])
        except RuntimeError as error:
            raise ValueError(
                f"the null of {name} has shape {tuple(null.shape)}, which does not fit "
                f"{name} {tuple(value.shape)}: give one for a single datum, of {name}'s own shape"
            ) from error


def guided(denoiser: Denoiser, scale: float, **null: Any) -> Denoiser:
    """``denoiser`` with guidance ``scale``, away from the condition ``null``.

    ``guided(net, 2.0)`` takes the null class of a denoiser with classes; ``guided(net, 3.0,
    tokens=empty)`` what is given: a number, or one datum's condition (or one for each datum).
    ValueError for a scale that is no finite number, and where there is no null condition.
    """
    try:
        value = math.nan if isinstance(scale, bool | str) else float(scale)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"the guidance scale must be a finite number; got {scale!r}")
    if not null:
        if denoiser.num_classes is None:
            raise ValueError(
                "guidance needs a denoiser trained with classes, or the condition that stands for "
                "none: guided(denoiser, scale, tokens=empty)"
            )
        null = {"label": denoiser.num_classes}
    return Guided(denoiser, value, null)
