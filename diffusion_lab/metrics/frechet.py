"""Fréchet distance between two sets of pictures, in the features of a small frozen classifier.

    FD = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})        (Heusel et al. 2017, 1706.08500)

the squared Wasserstein-2 distance between Gaussians of the same means and covariances. It is not
the FID of papers, which needs InceptionV3: values compare only with values of the same features,
the same reference and the same number of pictures. To give them a scale, they are also quoted in
units of the anchor A, the FD_inf (below) of real training pictures with noise of standard deviation
0.1 added. A is one number for each data set, whatever the number of pictures (``anchor``).

From N pictures FD comes out too high, since tr S^{1/2} of a sampled covariance comes out too low.
For N draws of N(m_1, S_1), with s_i the singular values of S_1^{1/2} S_2^{1/2}, to first order

    E FD_N - FD = tr S_1 / N + sum_ij s_i s_j (1 + [i = j]) / (2 (s_i + s_j)) / (N - 1),

which for S_1 = S_2 = I is (D + D(D+1)/4)/N. So FD is a straight line in 1/N, and its end at
1/N = 0 is FD_inf (Chong & Forsyth 2020, 1911.07023).
"""

from __future__ import annotations

import json
import statistics
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints, data
from diffusion_lab.device import (
    check_finite,
    check_float,
    check_generator,
    check_range,
    generator,
)
from diffusion_lab.errors import number, unknown, whole
from diffusion_lab.metrics.estimates import Estimate, halves, of_halves

__all__ = [
    "ANCHORS",
    "Reference",
    "anchor",
    "blurred",
    "classify",
    "estimate",
    "extrapolate",
    "fd",
    "fd_curve",
    "fd_estimate",
    "fd_infinity",
    "fd_paired",
    "features",
    "frechet",
    "gaussian_bias",
    "noise_anchor",
    "paired",
    "reference",
]

NETS = {"fashion": "fashion-features", "digits": "digits-features", "emoji": "emoji-features"}
ANCHORS = {  # FD_inf of all embedded training pictures with noise of 0.1, the mean of four noises
    "fashion": Estimate(2.07, 0.04, 10_000),
    "digits": Estimate(0.39, 0.08, 1500),
    "emoji": Estimate(0.25, 0.01, 1596),  # of the whole reference: FD itself, spread of the noise
}
SHAPES = {  # of the pictures that a net has learnt
    "fashion": (1, 28, 28),
    "digits": (1, 8, 8),
    "emoji": (3, 32, 32),
}
PARTS = {"emoji": ("train", "test", "rare")}
"""What pictures are compared with, where it is not the test part alone. 215 test emoji are few for
the covariance of 64 features, so the reference is all 1,596 that are no flags. Most of them were
trained on: a model that copies them is at distance 0 (``memory.copied`` looks for that)."""


@dataclass(frozen=True)
class Reference:
    """Mean and covariance (unbiased) of the features of n pictures, float64."""

    mean: Tensor = field(repr=False)
    cov: Tensor = field(repr=False)
    n: int

    def __post_init__(self) -> None:
        for part in (self.mean, self.cov):
            check_finite(part, "the features (or their mean and covariance)")

    @classmethod
    def of(cls, feats: Tensor) -> Reference:
        """From features (N, D). ValueError for fewer than two pictures."""
        if feats.ndim != 2 or len(feats) < 2:
            raise ValueError(
                f"need the features of at least two pictures, (N, D); got {tuple(feats.shape)}"
            )
        feats = feats.double()
        return cls(feats.mean(0), torch.atleast_2d(torch.cov(feats.T)), len(feats))


def frechet(a: Reference, b: Reference) -> float:
    """The Fréchet distance of two sets of statistics; 0 for a set with itself (to rounding)."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} numbers do not compare")
    # tr (S1 S2)^{1/2} = sum of the singular values of S1^{1/2} S2^{1/2}
    cross = torch.linalg.svdvals(_root(a.cov) @ _root(b.cov)).sum()
    value = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    return max(value.item(), 0.0)


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    e, u = torch.linalg.eigh(cov)
    return (u * e.clamp(min=0).sqrt()) @ u.T


def gaussian_bias(a: Reference, b: Reference, n: int, m: int | None = None) -> float:
    """How far above FD(a, b) the FD of n draws of N(a) lies on average, to first order in 1/n.

    Against the exact statistics of b; with ``m``, against m draws of N(b). Features are not
    Gaussian: for them this is the size to expect, and ``fd_infinity`` measures it.
    """
    n, m = whole("n", n, 2), None if m is None else whole("m", m, 2)
    s = torch.linalg.svdvals(_root(a.cov) @ _root(b.cov))
    s = s[s > 1e-12 * s.max()]
    pairs = s[:, None] * s / (2 * (s[:, None] + s))
    shape = float(pairs.sum() + pairs.diagonal().sum())
    bias = float(a.cov.trace()) / n + shape / (n - 1)
    return bias if m is None else bias + float(b.cov.trace()) / m + shape / (m - 1)


def _many(parts: Tensor, ref: Reference, root: Tensor) -> Tensor:
    """FD of each of P sets of features (P, n, D) to ``ref``, whose root is given: (P,)."""
    mean = parts.mean(1)
    centred = parts - mean[:, None]
    cov = centred.mT @ centred / (parts.shape[1] - 1)
    cross = torch.linalg.eigvalsh(root @ cov @ root).clamp(min=0).sqrt().sum(1)
    spread = cov.diagonal(dim1=1, dim2=2).sum(1) + ref.cov.trace()
    return ((mean - ref.mean) ** 2).sum(1) + spread - 2 * cross


def _check_features(feats: Tensor, ref: Reference) -> Tensor:
    if feats.ndim != 2 or feats.shape[1] != len(ref.mean) or len(feats) < 2:
        raise ValueError(
            f"need the features of at least two pictures, (N, {len(ref.mean)}); "
            f"got {tuple(feats.shape)}"
        )
    check_finite(feats, "the features")
    return feats.double()


def estimate(
    feats: Tensor, ref: Reference, generator: torch.Generator, draws: int = 50
) -> Estimate:
    """FD of features (N, D), with the standard error of having drawn these N pictures.

    From random halves, ``draws`` times (``metrics.estimates.of_halves``). The statistics of ``ref``
    are taken as they are, and the bias of N stays. ValueError unless each half has two pictures and
    there are two draws.
    """
    feats, root = _check_features(feats, ref), _root(ref.cov)
    pairs = [_many(feats[half], ref, root) for half in halves(len(feats), generator, draws)]
    error = of_halves(*torch.stack(pairs, 1))
    return Estimate(frechet(Reference.of(feats), ref), error, len(feats))


def paired(
    a: Tensor, b: Tensor, ref: Reference, generator: torch.Generator, draws: int = 50
) -> Estimate:
    """FD(a) - FD(b) of features (N, D) whose rows are pairs, with its standard error.

    Row i of both comes from the same noise (and label), so most of the scatter is common and
    cancels, as most of the bias of N does. The same random halves are taken of both, and
    ``of_halves`` reads their difference. ValueError for different numbers of rows.
    """
    a, b, root = _check_features(a, ref), _check_features(b, ref), _root(ref.cov)
    if len(a) != len(b):
        raise ValueError(
            f"pairs need as many pictures on both sides, row by row from the same noise; "
            f"got {len(a)} and {len(b)}"
        )
    picks = halves(len(a), generator, draws)
    gaps = [_many(a[half], ref, root) - _many(b[half], ref, root) for half in picks]
    value = frechet(Reference.of(a), ref) - frechet(Reference.of(b), ref)
    return Estimate(value, of_halves(*torch.stack(gaps, 1)), len(a))


def fd_curve(feats: Tensor, ref: Reference, sizes: list[int], generator: torch.Generator) -> Tensor:
    """Mean FD at each number of pictures, (len(sizes),): features (N, D) shuffled and cut.

    At size n all N//n pieces are used, so the points share most of their noise and the line
    through them keeps it no larger than that of one FD. ValueError for a size not in D+1..N: with
    fewer pictures than dimensions the covariance is singular and FD no line in 1/n.
    """
    feats, root = _check_features(feats, ref), _root(ref.cov)
    n, d = feats.shape
    sizes = [whole("a size", size) for size in sizes]
    wrong = [size for size in sizes if not d < size <= n]
    if wrong or not sizes:
        raise ValueError(
            f"sizes must be more than the {d} features and at most the {n} pictures; "
            f"got {wrong or 'none'}"
        )
    feats = feats[torch.randperm(n, generator=check_generator(generator), device="cpu")]
    pieces = [feats[: n // size * size].reshape(-1, size, d) for size in sizes]
    return torch.stack([_many(p, ref, root).mean() for p in pieces])


def extrapolate(
    feats: Tensor,
    ref: Reference,
    sizes: list[int] | None = None,
    generator: torch.Generator | None = None,
    draws: int = 50,
) -> Estimate:
    """FD_inf of features (N, D): the end at 1/n = 0 of the line through FD at several sizes n.

    By default the sizes N, N/2, ... down to N/6, but none below 4D except N/2: with few pictures a
    dimension the curve bends away from its line (1.25 c + 0.05 c^2 a dimension at c = D/n for equal
    unit variances) and the end comes out too low. Seed 0. The value is the mean of five shuffles,
    the standard error that of FD itself (``estimate``). May come out below 0, as an estimate
    without bias of something near 0 must.
    """
    n = len(feats)
    if sizes is None:
        least = 4 * len(ref.mean)
        sizes = [n // k for k in range(1, 7) if k <= 2 or n // k >= least]
    sizes = list(sizes)
    if len(set(sizes)) < 2:
        raise ValueError(f"a line needs at least two different sizes; got {sizes}")
    generator = check_generator(generator, seed=0)
    design = torch.tensor([[1.0, 1 / n] for n in sizes], dtype=torch.float64, device="cpu")
    weights = torch.linalg.pinv(design)[0]  # least squares: the intercept is weights @ values
    ends = [float(weights @ fd_curve(feats, ref, sizes, generator)) for _ in range(5)]
    return Estimate(sum(ends) / 5, estimate(feats, ref, generator, draws).error, n)


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise ValueError(
            f"name must be text, one of {', '.join(sorted(NETS))}; got a {type(name).__name__}: "
            "pictures are compared with those of the data set of that name"
        )


@lru_cache(maxsize=4)
def _net(name: str) -> nn.Module:
    if name not in NETS:
        raise unknown("data set with frozen features", name, NETS)
    return checkpoints.load(NETS[name])


@torch.no_grad()
def features(x: Tensor, name: str = "fashion", batch: int = 500) -> Tensor:
    """Features (N, 64) of pictures (N, C, H, W) in [-1, 1] (values outside are clipped).

    ValueError for pixels 0..255, a warning for what looks like [0, 1] (``device.check_range``).
    """
    _check_name(name)
    net, batch = _net(name), whole("batch", batch)
    check_float(x, "pictures")
    if x.ndim != 4 or tuple(x.shape[1:]) != SHAPES[name] or not len(x):
        inside = ", ".join(map(str, SHAPES[name]))
        raise ValueError(
            f"pictures must be (N, C, H, W), for the features of {name!r} (N, {inside}) with N of "
            f"at least 1; got {tuple(x.shape)}"
        )
    check_finite(x, "pictures")
    check_range(x, "pictures")
    x, where = x.float(), next(net.parameters()).device
    return torch.cat([net.features(part.to(where).clamp(-1, 1)).cpu() for part in x.split(batch)])


@torch.no_grad()
def classify(x: Tensor, name: str = "fashion", batch: int = 500) -> Tensor:
    """Class probabilities (N, K) of pictures (N, C, H, W) by the same frozen net."""
    _check_name(name)
    net = _net(name)
    return net.head(features(x, name, batch).to(net.head.weight.device)).softmax(1).cpu()


@lru_cache(maxsize=4)
def reference(name: str = "fashion") -> Reference:
    """The shipped statistics of the full test set (10,000 of Fashion-MNIST, 297 digits).

    Of the emoji they are of train, test and rare together, 1,596 (``PARTS``).
    """
    if name not in NETS:
        raise unknown("data set with reference statistics", name, NETS)
    tensors, about = checkpoints.load_tensors(
        data.store.path(f"reference/{NETS[name]}.safetensors")
    )
    return Reference(tensors["mean"], tensors["cov"], about["n"])


def forget() -> None:
    """Read nets and statistics again when next asked: for the scripts that make new ones."""
    _net.cache_clear()
    reference.cache_clear()


def fd(x: Tensor, name: str = "fashion") -> float:
    """Fréchet distance of pictures (N, C, H, W) to the ``reference``. Quote it with N.

    A warning where N is no larger than the number of features.
    """
    return frechet(Reference.of(_enough(features(x, name))), reference(name))


def _enough(feats: Tensor) -> Tensor:
    n, d = feats.shape
    if n <= d:
        words = f"FD of {n} pictures: their covariance of {d} features is singular, and the value"
        warnings.warn(f"{words} says more about N than about them. Take more.", stacklevel=3)
    return feats


def fd_estimate(
    x: Tensor, name: str = "fashion", generator: torch.Generator | None = None, draws: int = 50
) -> Estimate:
    """``fd`` with its standard error (see ``estimate``; seed 0 where no generator is given)."""
    generator = check_generator(generator, seed=0)
    return estimate(_enough(features(x, name)), reference(name), generator, draws)


def fd_paired(
    x: Tensor,
    y: Tensor,
    name: str = "fashion",
    generator: torch.Generator | None = None,
    draws: int = 50,
) -> Estimate:
    """FD(x) - FD(y) of pictures (N, C, H, W) drawn pair by pair from the same noise.

    For two settings of a sampler, or two networks, that began with the same ``generator(seed)``:
    their distances rise and fall together, and the error of the difference can be far smaller than
    that of either (``paired``; ``estimates.verdict`` puts it into words). For sets drawn
    independently, subtract their ``fd_estimate``. Seed 0 where no generator is given.
    """
    generator = check_generator(generator, seed=0)
    a, b = (_enough(features(one, name)) for one in (x, y))
    return paired(a, b, reference(name), generator, draws)


def fd_infinity(
    x: Tensor,
    name: str = "fashion",
    sizes: list[int] | None = None,
    generator: torch.Generator | None = None,
    draws: int = 50,
) -> Estimate:
    """FD_inf of pictures (N, C, H, W) to the ``reference``: what infinitely many would score.

    Freed of the bias of N only: the reference keeps that of its own number (10,000 of
    Fashion-MNIST, 297 digits, 1,596 emoji), the same for all models. See ``extrapolate`` for the
    rest.
    """
    return extrapolate(features(x, name), reference(name), sizes, generator, draws)


def anchor(name: str = "fashion") -> Estimate:
    """A, the unit of distances: 2.07 for Fashion-MNIST, 0.39 for the digits, 0.25 for the emoji.

    FD_inf of real pictures with noise of standard deviation 0.1, fixed to two digits so that every
    lesson and number of pictures has the same. The error is the spread of having drawn the pictures
    that define it: it is common to all values in A and never decides between two of them.
    """
    if name not in ANCHORS:
        raise unknown("data set with a unit A", name, ANCHORS)
    return ANCHORS[name]


def noise_anchor(n: int, name: str = "fashion", seed: int = 0, std: float = 0.1) -> float:
    """The FD of n real pictures with noise of standard deviation ``std`` added: one draw.

    It scatters, and falls with n; ``anchor`` is what distances are divided by.
    """
    n = whole("the number of pictures", n)
    number("the standard deviation of the noise", std)
    pool = data.load(name, "train").x[:n]
    if len(pool) < n:
        raise ValueError(f"only {len(pool)} real pictures are embedded; asked for {n}")
    gen = generator(seed, 99)
    noise = torch.randn(pool.shape, generator=gen, device="cpu", dtype=torch.float32)
    return fd(pool + std * noise, name)


def blurred(x: Tensor, factor: int = 2) -> Tensor:
    """Pictures (N, C, H, W) with each ``factor`` x ``factor`` block set to its mean."""
    factor = whole("factor", factor)
    small = nn.functional.avg_pool2d(x, factor)
    return nn.functional.interpolate(small, scale_factor=factor, mode="nearest")


def real_floor(
    n: int, name: str = "fashion", *, balanced: bool = True, draws: int = 8, seed: int = 0
) -> tuple[float, float]:
    """(mean, standard deviation) of the FD of n real pictures over several draws.

    ``balanced`` draws n/K pictures of each of the K classes, as ``generate`` does with a label for
    each class. That takes away part of the scatter, so such sets lie lower than n pictures drawn
    without regard to class: compare balanced with balanced. Draws are from the embedded training
    pictures, none twice, so the spread shrinks where n comes near their number. Of the emoji they
    are from the reference itself, with repetition: without it n of 1,596 would lie lower than n
    new pictures of the same law. Their classes differ in size, from 85 to 346, so that balanced
    sets are far from the reference (about 2): there give balanced=False, and draw models' pictures
    in the shares of the classes too.
    ValueError where n is no multiple of K or more than is embedded.
    """
    n, draws = whole("the number of pictures", n), whole("draws", draws, 2)
    again = name in PARTS
    x, labels, classes = _real(name, PARTS.get(name, ("train",)))
    if balanced and n % classes:
        raise ValueError(f"{n} pictures cannot hold {classes} classes equally: give a multiple")
    some = (
        [torch.nonzero(labels == k)[:, 0] for k in range(classes)]
        if balanced
        else [torch.arange(len(x), device="cpu")]
    )
    each = n // len(some)
    if each > min(map(len, some)) and not again:
        raise ValueError(
            f"only {min(map(len, some)) * len(some)} such pictures are embedded; asked for {n}"
        )
    rng = generator(seed, 98)
    found = []
    for _ in range(draws):
        orders = (
            torch.randint(len(i), (each,), generator=rng, device="cpu")
            if again
            else torch.randperm(len(i), generator=rng, device="cpu")
            for i in some
        )
        chosen = [i[order[:each]] for i, order in zip(some, orders, strict=True)]
        found.append(fd(x[torch.cat(chosen)], name))
    return statistics.mean(found), statistics.stdev(found)


def _real(name: str, parts: tuple[str, ...]) -> tuple[Tensor, Tensor, int]:
    """Pictures and labels of several splits one after the other, and the number of classes."""
    each = [data.load(name, split) for split in parts]
    x, labels = (torch.cat([getattr(one, k) for one in each]) for k in ("x", "labels"))
    return x, labels, len(each[0].classes)


def build_reference(name: str) -> Path:
    """Make the shipped statistics again: fashion needs the full test set."""
    from diffusion_lab.data import store

    parts, full = PARTS.get(name, ("test",)), name == "fashion"
    each = [data.load(name, split, full=full) for split in parts]
    stats = Reference.of(torch.cat([features(one.x, name) for one in each]))
    path = store.folder() / "reference" / f"{NETS[name]}.safetensors"
    said = {"split": "+".join(parts), "hash": " ".join(one.hash for one in each)}
    note = {"n": stats.n, "data": {"name": name} | said}
    note["features"] = json.loads(json.dumps(checkpoints.info(NETS[name]).get("name")))
    checkpoints.save_tensors(path, {"mean": stats.mean, "cov": stats.cov}, note)
    return path
