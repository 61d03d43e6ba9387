"""Toys that one can see, and whose exact answer is often known.

``load_toy(name)`` gives something with ``.sample(n, generator) -> (n, D)``. The mixtures are
:class:`diffusion_lab.exact.GaussianMixture` (density, score and denoiser are formulas) in float64;
the others can only be drawn from, in float32, centred and scaled to a standard deviation of 1 over
both coordinates together.

===========  ===  =============================================================
ring         2-D  8 Gaussians on a circle of radius 2, std 0.15
grid         2-D  5 x 5 Gaussians one apart, std 0.1
anisotropic  2-D  3 long Gaussians of unequal weight, tilted
two_class    1-D  weights .3 and .7, means -2 and 1, variances .3 and .5
product      64-D every coordinate an independent ``two_class``
moons, rings, checkerboard, spirals, pinwheel, swiss_roll    2-D, samples only
===========  ===  =============================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from diffusion_lab.errors import unknown, whole

if TYPE_CHECKING:
    from diffusion_lab.data import Dataset
    from diffusion_lab.exact import ExactDenoiser, GaussianMixture
    from diffusion_lab.schedules import Schedule

__all__ = [
    "TOYS",
    "Product",
    "Samples",
    "anisotropic",
    "checkerboard",
    "dataset",
    "grid",
    "load_toy",
    "moons",
    "pinwheel",
    "product",
    "ring",
    "rings",
    "spirals",
    "swiss_roll",
    "two_class",
]


# ---- exact mixtures -----------------------------------------------------------------------------
def _mixture(weights: Any, means: Any, covs: Any) -> GaussianMixture:
    from diffusion_lab.exact import GaussianMixture

    return GaussianMixture(
        *(torch.as_tensor(p, dtype=torch.float64) for p in (weights, means, covs))
    )


def _round(means: Tensor, std: float) -> GaussianMixture:
    """Equal weights, covariance std^2 I around each of ``means`` (K, D)."""
    count, dim = means.shape
    covs = (std**2 * torch.eye(dim, dtype=torch.float64)).expand(count, dim, dim)
    return _mixture(torch.full((count,), 1 / count, dtype=torch.float64), means, covs)


def ring() -> GaussianMixture:
    """8 Gaussians of std 0.15 on a circle of radius 2."""
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    return _round(2 * torch.stack([angle.cos(), angle.sin()], 1), 0.15)


def grid() -> GaussianMixture:
    """5 x 5 Gaussians of std 0.1 at the integer points of [-2, 2]^2."""
    axis = torch.arange(-2, 3, dtype=torch.float64)
    return _round(torch.cartesian_prod(axis, axis), 0.1)


def anisotropic() -> GaussianMixture:
    """3 Gaussians, weights .5 .3 .2, std .8 along and .15 across, tilted 20, 90, 150 degrees."""
    angle = torch.tensor([20.0, 90.0, 150.0], dtype=torch.float64).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # (3, 2, 2)
    variances = torch.tensor([0.8, 0.15], dtype=torch.float64) ** 2
    means = [[-1.0, -1.0], [1.5, 0.0], [-0.5, 1.5]]
    return _mixture([0.5, 0.3, 0.2], means, (turn * variances) @ turn.mT)


def two_class() -> GaussianMixture:
    """The 1-D mixture .3 N(-2, .3) + .7 N(1, .5): two classes, as for classifier guidance."""
    return _mixture([0.3, 0.7], [[-2.0], [1.0]], [[[0.3]], [[0.5]]])


@dataclass(frozen=True)
class Product:
    """``dim`` independent coordinates, each from the same 1-D mixture ``base``.

    Written out it would be a mixture of K^dim Gaussians; coordinate by coordinate it stays exact.
    """

    base: GaussianMixture
    dim: int

    def sample(self, n: int, generator: Generator) -> Tensor:
        """(n, dim) in float64."""
        return self.base.sample(n * self.dim, generator).reshape(n, self.dim)

    def log_prob(self, x: Tensor, alpha: Any = 1.0, sigma: Any = 0.0) -> Tensor:
        """log p_t(x) of x (B, dim) in nats, (B,): the sum over coordinates."""
        return self._each(self.base.log_prob, x, alpha, sigma).sum(1)

    def score(self, x: Tensor, alpha: Any = 1.0, sigma: Any = 0.0) -> Tensor:
        """grad_x log p_t(x), (B, dim)."""
        return self._each(self.base.score, x, alpha, sigma)

    def x0(self, x: Tensor, alpha: Any, sigma: Any, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t = x], (B, dim) in the dtype of x. There are no labels here."""
        if label is not None:
            raise ValueError("a product of mixtures has no labels: call it without one")
        return self._each(self.base.x0, x, alpha, sigma)

    def denoiser(self, schedule: Schedule) -> ExactDenoiser:
        """The optimal denoiser on this schedule."""
        from diffusion_lab.exact import ExactDenoiser

        return ExactDenoiser(schedule, self.x0, shape=(self.dim,))

    def _each(self, formula: Callable[..., Tensor], x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """A formula of the 1-D mixture at every coordinate; alpha, sigma floats or (B, 1)."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}); got {tuple(x.shape)}")
        levels = (
            c.reshape(-1).expand(len(x)).repeat_interleave(self.dim) if isinstance(c, Tensor) else c
            for c in (alpha, sigma)
        )
        return formula(x.reshape(-1, 1), *levels).reshape(x.shape)


def product(dim: int = 64) -> Product:
    """:func:`two_class` in each of ``dim`` coordinates: for what depends on dimension."""
    return Product(two_class(), whole("the dimension", dim))


# ---- shapes that can only be drawn from ---------------------------------------------------------
@dataclass(frozen=True)
class Samples:
    """A sampler function with the face of a mixture: ``.sample(n, generator)`` and nothing else."""

    draw: Callable[[int, Generator], Tensor]
    dim: int = 2

    def sample(self, n: int, generator: Generator) -> Tensor:
        """(n, dim) in float32."""
        return self.draw(n, generator)


_PLAIN = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are


def _uniform(n: int, generator: Generator) -> Tensor:
    return torch.rand(whole("the number of samples", n), generator=generator, **_PLAIN)


def _one_of(count: int, n: int, generator: Generator) -> Tensor:
    size = (whole("the number of samples", n),)
    return torch.randint(count, size, generator=generator, device="cpu").to(torch.float32)


def _normal(n: int, generator: Generator) -> Tensor:
    return torch.randn(whole("the number of samples", n), 2, generator=generator, **_PLAIN)


def _finish(points: Tensor, centre: tuple[float, float], variance: float) -> Tensor:
    """Centre, and scale by the root of the variance averaged over both coordinates."""
    return (points - points.new_tensor(centre)) / math.sqrt(variance)


def moons(n: int, generator: Generator) -> Tensor:
    """(n, 2): two interleaved half circles of radius 1, noise .08."""
    lower, angle = _one_of(2, n, generator), math.pi * _uniform(n, generator)
    sign = 1.0 - 2.0 * lower
    points = torch.stack([lower + sign * angle.cos(), 0.5 * lower + sign * angle.sin()], 1)
    points = points + 0.08 * _normal(n, generator)
    # var x = 1/2 + 1/4; y is sin or 1/2 - sin: var = 1/2 - 4/pi^2 + (2/pi - 1/4)^2
    spread = 0.75 + 0.5 - 4 / math.pi**2 + (2 / math.pi - 0.25) ** 2
    return _finish(points, (0.5, 0.25), spread / 2 + 0.08**2)


def rings(n: int, generator: Generator) -> Tensor:
    """(n, 2): three circles of radius 1/3, 2/3, 1 with equal shares, noise .03."""
    radius = (1 + _one_of(3, n, generator)) / 3
    angle = 2 * math.pi * _uniform(n, generator)
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    points = points + 0.03 * _normal(n, generator)
    return _finish(points, (0.0, 0.0), (14 / 27) / 2 + 0.03**2)  # E radius^2 = (1 + 4 + 9)/27


def checkerboard(n: int, generator: Generator) -> Tensor:
    """(n, 2): uniform on the 8 dark squares of a 4 x 4 board."""
    column, row = _one_of(4, n, generator), _one_of(2, n, generator)
    corner = torch.stack([column, 2 * row + column % 2], 1) - 2.0
    inside = torch.stack([_uniform(n, generator), _uniform(n, generator)], 1)
    return _finish(corner + inside, (0.0, 0.0), 16 / 12)


def spirals(n: int, generator: Generator) -> Tensor:
    """(n, 2): two arms of one and a half turns, noise .25 before scaling."""
    angle = 3 * math.pi * _uniform(n, generator).sqrt()
    arm = 1.0 - 2.0 * _one_of(2, n, generator)
    points = torch.stack([arm * angle * angle.cos(), arm * angle * angle.sin()], 1)
    points = points + 0.25 * _normal(n, generator)
    return _finish(points, (0.0, 0.0), 9 * math.pi**2 / 4 + 0.25**2)  # E angle^2 = 9 pi^2 / 2


def pinwheel(n: int, generator: Generator) -> Tensor:
    """(n, 2): five bent blades (radius N(1, .3^2), width .1, turned by .25 e^radius)."""
    blade, noise = _one_of(5, n, generator), _normal(n, generator)
    along, across = 1 + 0.3 * noise[:, 0], 0.1 * noise[:, 1]
    angle = blade * (2 * math.pi / 5) + 0.25 * along.exp()
    cos, sin = angle.cos(), angle.sin()
    points = torch.stack([along * cos - across * sin, along * sin + across * cos], 1)
    return _finish(points, (0.0, 0.0), (1 + 0.3**2 + 0.1**2) / 2)  # turning keeps the length


def swiss_roll(n: int, generator: Generator) -> Tensor:
    """(n, 2): one arm, the angle uniform in [1.5 pi, 4.5 pi], noise .5 before scaling."""
    angle = math.pi * (1.5 + 3 * _uniform(n, generator))
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], 1)
    points = points + 0.5 * _normal(n, generator)
    centre = (2.0, 2 / (3 * math.pi))  # E angle cos, E angle sin; E angle^2 = 9.75 pi^2
    spread = 9.75 * math.pi**2 - centre[0] ** 2 - centre[1] ** 2
    return _finish(points, centre, spread / 2 + 0.5**2)


_EXACT = (ring, grid, anisotropic, two_class, product)
_DRAWN = (moons, rings, checkerboard, spirals, pinwheel, swiss_roll)
TOYS: dict[str, Callable[[], Any]] = {make.__name__: make for make in _EXACT} | {
    draw.__name__: partial(Samples, draw) for draw in _DRAWN
}


def load_toy(name: str) -> GaussianMixture | Product | Samples:
    """The toy of that name, with ``.sample(n, generator)``; ValueError for an unknown name."""
    if name not in TOYS:
        raise unknown("toy", name, TOYS)
    return TOYS[name]()


def dataset(name: str, n: int = 10_000, seed: int = 0) -> Dataset:
    """``n`` draws of a toy as a data set to train on: x (n, D) float32, one class.

    ``training.train(recipe, data=toys.dataset("ring"))`` then works as with pictures.
    """
    from diffusion_lab.data import Dataset
    from diffusion_lab.device import generator
    from diffusion_lab.files import sha256

    x = load_toy(name).sample(n, generator(seed)).float()
    labels = torch.zeros(n, dtype=torch.int64)
    digest = sha256(x.numpy().tobytes())
    return Dataset(x, labels, ("all",), name, "train", digest, 256, x.std(correction=0).item())
