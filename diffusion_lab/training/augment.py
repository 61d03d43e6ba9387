"""Pictures as a training shows them: each flipped, turned, scaled and shifted a little, at random.

A picture x(u) at the place u in [-1, 1]^2 is shown as x(A u + b), with A a rotation, a scale and
perhaps a mirror, b a shift; between pixels it is interpolated linearly, and what comes in from
outside has the colour of the paper. Colours stay as they are: words name them.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from diffusion_lab.device import check_float, check_generator
from diffusion_lab.errors import number

__all__ = ["moved"]


def moved(
    x: Tensor,
    generator: Generator,
    *,
    flip: bool = True,
    shift: float = 2.0,
    scale: float = 0.15,
    turn: float = 15.0,
    fill: float = 1.0,
) -> Tensor:
    """Pictures (B, C, H, W), each moved in its own way; what is drawn depends on B alone.

    Args:
        x: on the CPU, where the generator draws.
        generator: four numbers are drawn from it for each picture, and one for its mirror.
        flip: half of them are mirrored, left for right.
        shift: by up to so many pixels in each direction.
        scale: 0.15 makes a picture up to 15% larger or smaller.
        turn: by up to so many degrees, either way.
        fill: the value outside: 1 is white, -1 black.

    ValueError for settings below 0, and for a scale of 1 and more.
    """
    check_float(x, "pictures")
    if x.ndim != 4:
        raise ValueError(f"pictures are (B, C, H, W); got {tuple(x.shape)}")
    number("shift", shift), number("turn", turn)
    if number("scale", scale) >= 1:
        raise ValueError(f"scale must be below 1; got {scale}")
    n, (height, width) = len(x), x.shape[2:]
    draws = torch.rand(
        5, n, generator=check_generator(generator), device="cpu", dtype=torch.float32
    )
    angle, size, right, down = 2 * draws[:4] - 1
    angle = torch.deg2rad(angle * turn)
    size = 1 / (1 + scale * size)
    mirror = torch.where(draws[4] < 0.5, -1.0, 1.0) if flip else torch.ones(n, device="cpu")
    cos, sin = size * angle.cos(), size * angle.sin()
    # a pixel is 2/width wide on the scale of -1 to 1; on oblong pictures a turn is one in pixels
    matrix = torch.stack(
        [
            torch.stack([mirror * cos, -sin * height / width, 2 * shift / width * right], 1),
            torch.stack([mirror * sin * width / height, cos, 2 * shift / height * down], 1),
        ],
        1,
    )
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return functional.grid_sample(x - fill, grid.to(x.dtype), align_corners=False) + fill
