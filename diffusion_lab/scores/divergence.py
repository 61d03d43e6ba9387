"""The divergence of a vector field, exactly or by random directions (Hutchinson).

    div h = tr J = E[v^T J v],      J = dh/dx,  E[v v^T] = I.

The exact trace takes one backward pass for every dimension, an estimate one for every direction v.
With S = (J + J^T)/2 its variance is 2 |S|_F^2 for Gaussian v and 2 (|S|_F^2 - sum_i S_ii^2) for
Rademacher v (signs), which is never larger: on a diagonal J signs make no error at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lab.device import randn
from diffusion_lab.errors import unknown, whole

__all__ = ["LAWS", "divergence", "probes", "trace_variance"]

LAWS = ("rademacher", "gaussian")
Field = Callable[[Tensor], Tensor]


def probes(
    like: Tensor, generator: torch.Generator, *, law: str = "rademacher", directions: int = 1
) -> Tensor:
    """Random directions v, (directions, *like.shape), with E[v v^T] = I; drawn on the CPU."""
    if law not in LAWS:
        raise unknown("law of directions", law, LAWS)
    shape = (whole("directions", directions), *like.shape)
    if law == "gaussian":
        return randn(shape, generator, like)
    signs = torch.randint(2, shape, generator=generator, device="cpu")
    return (2.0 * signs - 1.0).to(like)


def divergence(
    field: Field, x: Tensor, v: Tensor | None = None, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """(h(x), div h(x)): the field (B, ...) and its divergence (B,), of each datum by itself.

    Args:
        field: maps (B, ...) to the same shape, row by row (no row may depend on another).
        x: (B, ...).
        v: directions (K, B, ...) for the mean of K estimates; None for the exact trace, which
            takes as many backward passes as a datum has dimensions.
        create_graph: keep the graph, so that a loss made of the divergence can be minimised.

    ValueError where the field has another shape, or was computed without gradients.
    """
    if v is not None and v.shape[1:] != x.shape:
        raise ValueError(f"v must be (K, {', '.join(map(str, x.shape))}); got {tuple(v.shape)}")
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = field(x)
        if value.shape != x.shape:
            raise ValueError(f"the field of x {tuple(x.shape)} has shape {tuple(value.shape)}")
        if not value.requires_grad:
            raise ValueError(
                "the field knows no gradient with respect to x: was it computed under no_grad, or "
                "on a copy of x?"
            )
        if v is None:
            flat = value.flatten(1)
            size = flat.shape[1]
            parts = [
                _backward(
                    flat[:, i].sum(), x, None, create_graph or i + 1 < size, create_graph
                ).flatten(1)[:, i]
                for i in range(size)
            ]
            total = torch.stack(parts).sum(0)
        else:
            last = len(v) - 1
            each = [
                (w * _backward(value, x, w, create_graph or i < last, create_graph)).flatten(1)
                for i, w in enumerate(v)
            ]
            total = torch.stack(each).sum(2).mean(0)
    return (value, total) if create_graph else (value.detach(), total.detach())


def _backward(y: Tensor, x: Tensor, v: Tensor | None, keep: bool, create: bool) -> Tensor:
    (found,) = torch.autograd.grad(
        y, x, v, retain_graph=keep, create_graph=create, materialize_grads=True
    )
    return found


def trace_variance(jacobian: Tensor, law: str = "rademacher") -> float:
    """Variance of v^T J v over directions v, for one J (D, D)."""
    if law not in LAWS:
        raise unknown("law of directions", law, LAWS)
    both = 0.5 * (jacobian + jacobian.mT).double()
    size = both.square().sum()
    if law == "rademacher":
        size = size - both.diagonal().square().sum()
    return float(2 * size)
