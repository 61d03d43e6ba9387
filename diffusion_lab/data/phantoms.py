"""Phantoms: slices of a head made of ellipses, from parameters that are known, and measured again.

After Shepp and Logan, The Fourier reconstruction of a head section, IEEE Trans. Nucl. Sci. 21
(1974): a skull (density 1), the brain in it (0.5), two ventricles that are darker by the contrast,
three small things that are brighter. Skull and ventricles have the axes of that paper; the skull is
thicker, so that it is seen at 32 x 32. Ellipses are painted one over the other on 5 x 5 points a
pixel, x = 2 density - 1.

=========  =====================  =====================================================
parameter  drawn evenly from      meaning
=========  =====================  =====================================================
skull      0.8 to 1               size of the head; 1 has half axes of 11.0 and 14.7 pixels
ventricle  32 to 72               area of both ventricles together, in pixels
rotation   -20 to 20              of the head, in degrees, counterclockwise
contrast   0.2 to 0.4             density of the brain minus that of the ventricles
=========  =====================  =====================================================

:func:`measure` finds all four in a picture, also in one that a model drew; a test holds it to what
was drawn: the area within one pixel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from diffusion_lab.data import Dataset, to_uint8
from diffusion_lab.device import check_float, check_generator
from diffusion_lab.device import generator as seeded
from diffusion_lab.errors import whole
from diffusion_lab.files import sha256

__all__ = ["NO_COVARIATES", "PARAMETERS", "covariates", "dataset", "draw", "measure", "render"]

PARAMETERS = {
    "skull": (0.8, 1.0),
    "ventricle": (32.0, 72.0),
    "rotation": (-20.0, 20.0),
    "contrast": (0.2, 0.4),
}
POSSIBLE = {  # what render takes
    "skull": (0.7, 1.05),
    "ventricle": (0.0, 84.0),
    "rotation": (-90.0, 90.0),
    "contrast": (0.0, 0.5),
}
DRAWN = {"train": (2048, 0), "test": (512, 1)}  # how many ``load`` gives, and the seed of each
NO_COVARIATES = -1.0  # the null of the condition, which no phantom has: 0 is the least of a range
SIZE, POINTS, CHUNK = 32, 5, 32
AXES, BONE = (0.69, 0.92), 0.1  # half axes of the skull and its thickness, of half the picture
BRAIN = 0.5
DARKEST = 6  # pixels that lie in a ventricle as a whole, in every phantom that is drawn
# half axes, centre (x, y), angle in degrees; the ventricles' axes give their shape and shares alone
VENTRICLES = ((0.11, 0.31, 0.24, 0.0, -18.0), (0.16, 0.41, -0.24, 0.0, 18.0))
BRIGHT = (
    (0.18, 0.1, 0.0, 0.6, 0.0, 0.65),  # and the density
    (0.06, 0.06, 0.0, -0.62, 0.0, 0.75),
    (0.05, 0.08, 0.2, -0.6, 0.0, 0.7),
)


def draw(n: int, generator: Generator) -> Tensor:
    """Parameters (n, 4) float64 in the order of ``PARAMETERS``, each evenly from its range."""
    n, generator = whole("the number of phantoms", n), check_generator(generator)
    share = torch.rand(n, len(PARAMETERS), generator=generator, device="cpu", dtype=torch.float64)
    low, high = _ranges()
    return low + share * (high - low)


def covariates(parameters: Tensor) -> Tensor:
    """Parameters (n, 4) as the condition, float32 (n, 4): 0 and 1 are the ends of the ranges."""
    low, high = _ranges()
    return ((_checked(parameters) - low) / (high - low)).float()


def render(parameters: Tensor) -> Tensor:
    """The phantoms of parameters (n, 4), x float32 (n, 1, 32, 32) in [-1, 1].

    ValueError for parameters that ``POSSIBLE`` does not allow: the parts would not fit.
    """
    return torch.cat([_render(part) for part in _checked(parameters).split(CHUNK)])


def dataset(n: int, generator: Generator, split: str = "train") -> Dataset:
    """``n`` phantoms of drawn parameters, with the condition "covariates" (n, 4) in [0, 1].

    256 grey levels, as stored pictures have; no labels. ``split`` is a name alone: another part
    comes from another generator. No covariates, the condition's null, are four times -1.
    """
    parameters = draw(n, generator)
    pixels = to_uint8(render(parameters))[..., 0]
    x = torch.from_numpy(pixels).unsqueeze(1).float() / 127.5 - 1
    given = covariates(parameters)
    return Dataset(
        *(x, None, (), "phantoms", split, sha256(pixels.tobytes()), 256),
        x.std(correction=0).item(),
        condition={"covariates": given},
        null={"covariates": torch.full_like(given[0], NO_COVARIATES)},
    )


@lru_cache(maxsize=2)
def part(split: str) -> Dataset:
    """What ``load("phantoms", split)`` gives: ``DRAWN``."""
    n, seed = DRAWN[split]
    return dataset(n, seeded(seed, 96), split)


def measure(x: Tensor) -> dict[str, Tensor]:
    """What ``PARAMETERS`` names, measured in pictures (n, 1, 32, 32): each float64 (n,).

    The head is what has bright pixels on all four sides. Its area gives the skull's size, the
    second moments of its bone the rotation. Of the head without its edge, brain is the median and
    ventricle the mean of the six darkest pixels; the area counts each pixel by how far it lies
    between the two, and only next to pixels that are past the half, so that noise in the brain adds
    nothing. Where there is no head, skull and area are 0 and the others nan.
    """
    check_float(x, "x")
    if x.ndim != 4 or x.shape[1:] != (1, SIZE, SIZE):
        raise ValueError(f"x must be (n, 1, {SIZE}, {SIZE}); got {tuple(x.shape)}")
    density = ((x.detach().cpu().double() + 1) / 2).clamp(0, 1)
    covered = _covered(density)
    head = (covered > 0.5).double()
    skull = (head.sum((1, 2, 3)) / (math.pi * AXES[0] * AXES[1])).sqrt() / (SIZE / 2)
    inside = -F.max_pool2d(-head, 3, 1, 1)
    values = torch.where(inside > 0, density, torch.nan).flatten(1)
    brain = values.nanmedian(1).values
    darkest = values.nan_to_num(torch.inf).sort(1).values[:, :DARKEST].mean(1)
    contrast = torch.where(brain.isnan(), torch.nan, brain - darkest)
    filled = (brain.reshape(-1, 1, 1, 1) - density) / contrast.clamp(min=1e-3).reshape(-1, 1, 1, 1)
    filled = filled.nan_to_num(0.0).clamp(0, 1) * inside
    beside = F.max_pool2d((filled > 0.5).double(), 3, 1, 1)
    area = (filled * beside).sum((1, 2, 3))
    found = (skull, area, _rotation(covered), contrast)
    return dict(zip(PARAMETERS, found))


def _covered(density: Tensor) -> Tensor:
    """The least of the brightest pixels to the left, right, above and below, itself included.

    About 1 in the head, 0 outside, and the share that the head covers of a pixel on its edge.
    """
    sides = [density.cummax(d).values for d in (2, 3)]
    sides += [density.flip(d).cummax(d).values.flip(d) for d in (2, 3)]
    return torch.stack(sides).amin(0)


def _rotation(covered: Tensor) -> Tensor:
    """Degrees from upright of the long axis of the head, (n,), from its second moments."""
    weight = (covered / covered.sum((2, 3), keepdim=True)).squeeze(1)
    axis = torch.arange(SIZE, dtype=torch.float64, device="cpu")
    x, y = axis.reshape(1, 1, -1), -axis.reshape(1, -1, 1)
    x, y = (c - (weight * c).sum((1, 2), keepdim=True) for c in (x, y))
    across, along, both = ((weight * m).sum((1, 2)) for m in (x * x, y * y, x * y))
    return torch.rad2deg(torch.atan2(-2 * both, along - across) / 2)


def _render(parameters: Tensor) -> Tensor:
    skull, area, rotation, contrast = parameters.T.unsqueeze(-1)  # each (n, 1)
    count = SIZE * POINTS
    axis = (2 * torch.arange(count, dtype=torch.float64, device="cpu") + 1) / count - 1
    y, x = (c.flatten() for c in torch.meshgrid(-axis, axis, indexing="ij"))
    terms = torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)])  # (6, points)
    own = sum(math.pi * part[0] * part[1] for part in VENTRICLES) * (SIZE / 2) ** 2
    scale = (area / own).sqrt()
    layers = [(skull * AXES[0], skull * AXES[1], 0.0, 0.0, 0.0, 1.0)]
    layers += [(skull * (AXES[0] - BONE), skull * (AXES[1] - BONE), 0.0, 0.0, 0.0, BRAIN)]
    layers += [(skull * a, skull * b, *rest) for a, b, *rest in BRIGHT]
    layers += [(scale * a, scale * b, *rest, BRAIN - contrast) for a, b, *rest in VENTRICLES]
    density = torch.zeros(len(parameters), count * count, dtype=torch.float64, device="cpu")
    for a, b, right, up, angle, value in layers:
        inside = _outside(a, b, skull * right, skull * up, angle, rotation) @ terms < 0
        density = torch.where(inside, value, density)
    picture = density.reshape(-1, 1, SIZE, POINTS, SIZE, POINTS).mean((3, 5))
    return (2 * picture - 1).float()


def _outside(a: Tensor, b: Tensor, right: Tensor, up: Tensor, angle: float, turn: Tensor) -> Tensor:
    """Coefficients (n, 6) of x^2, xy, y^2, x, y, 1 in what is negative inside an ellipse alone.

    Half axes a and b, centre and tilt in the upright head, which is then turned; degrees. With u, v
    along the axes, b^2 u^2 + a^2 v^2 - a^2 b^2, so that an ellipse without area has no inside.
    """
    turned, tilted = torch.deg2rad(turn), torch.deg2rad(turn + angle)
    p = turned.cos() * right - turned.sin() * up
    q = turned.sin() * right + turned.cos() * up
    cos, sin = tilted.cos(), tilted.sin()
    xx = (b * cos) ** 2 + (a * sin) ** 2
    yy = (b * sin) ** 2 + (a * cos) ** 2
    xy = (b**2 - a**2) * cos * sin
    rest = xx * p * p + 2 * xy * p * q + yy * q * q - (a * b) ** 2
    linear = (-2 * (xx * p + xy * q), -2 * (xy * p + yy * q))
    return torch.cat([xx, 2 * xy, yy, *linear, rest], 1)


def _ranges() -> Tensor:
    """(2, 4): the least and the greatest of each parameter."""
    return torch.tensor([*PARAMETERS.values()], dtype=torch.float64, device="cpu").T


def _checked(parameters: Tensor) -> Tensor:
    check_float(parameters, "the parameters")
    if parameters.ndim != 2 or parameters.shape[1] != len(PARAMETERS) or not len(parameters):
        raise ValueError(
            f"the parameters must be (n, {len(PARAMETERS)}): {', '.join(PARAMETERS)}; got "
            f"{tuple(parameters.shape)}"
        )
    given = parameters.detach().cpu().double()
    for column, (name, (low, high)) in zip(given.T, POSSIBLE.items()):
        wrong = column[~((column >= low) & (column <= high))]
        if len(wrong):
            raise ValueError(f"{name} of a phantom lies in {low:g} to {high:g}; got {wrong[0]:g}")
    return given
