"""Are pictures new? What no distance between distributions asks.

    d(x) = min_i |x - x_i| / sqrt(D)          root mean square distance to the nearest training one

Training pictures given back score perfectly in FD, KID, precision and recall. ``copied`` compares
d of generated pictures with d of held-out real ones: pictures of the same law that were not copied
lie nearer than the q-quantile of the held-out ones in a share q of cases.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.device import check_finite, check_float, check_range

__all__ = ["copied", "nearest"]

CHUNK = 500


def nearest(x: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (N,) and index (N,) of the picture of ``pool`` (M, ...) nearest to each of x.

    Root mean square over pixels (or over features): two pictures of opposite black and white in
    [-1, 1] are 2 apart. Computed in float32 at least; indices are int64.
    """
    _check(x, pool)
    return _nearest(x, pool)


def _check(*sets: Tensor) -> None:
    """ValueError for what cannot be measured; a warning for pictures that are not in [-1, 1]."""
    for pictures in sets:
        check_float(pictures, "pictures")
        check_finite(pictures, "pictures")
        if pictures.ndim == 4 and pictures.numel():
            check_range(pictures, "pictures")


def _nearest(x: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[1:] != pool.shape[1:] or x.ndim < 2 or not len(x) or not len(pool):
        raise ValueError(
            f"need pictures of one size, at least one each; got {tuple(x.shape)} and "
            f"{tuple(pool.shape)}"
        )
    precision = torch.promote_types(torch.promote_types(x.dtype, pool.dtype), torch.float32)
    a, b = (pictures.flatten(1).to(precision) for pictures in (x, pool))
    norms = (b * b).sum(1)
    distances, indices = [], []
    for part in a.split(CHUNK):
        index = (norms - 2 * part @ b.T).argmin(1)
        distances.append((part - b[index]).norm(dim=1))
        indices.append(index)
    return torch.cat(distances) / a.shape[1] ** 0.5, torch.cat(indices)


def copied(made: Tensor, train: Tensor, held_out: Tensor, quantile: float = 0.05) -> float:
    """Share of ``made`` nearer to ``train`` than a share ``quantile`` of ``held_out`` real ones.

    About ``quantile`` for new pictures of the same law, 1 for copies. Pictures that are merely
    smoother than real ones also come nearer: look at the pairs before you say "memorised".
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is a share between 0 and 1; got {quantile}")
    _check(made, train, held_out)
    limit = _nearest(held_out, train)[0].quantile(quantile)
    return float((_nearest(made, train)[0] < limit).double().mean())
