"""Fréchet distance between two sets of pictures, in the features of a small frozen classifier.

    FD = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})        (Heusel et al. 2017, 1706.08500)

the squared Wasserstein-2 distance between Gaussians of the same means and covariances. It is not
the FID of papers, which needs InceptionV3: values compare only with values of the same features,
the same reference and the same number of pictures. To give them a scale, they are also quoted in
units of the anchor A, the FD of as many real (training) pictures with noise of standard deviation
0.1 added.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints, data
from diffusion_lab.device import generator
from diffusion_lab.errors import unknown

__all__ = ["Reference", "fd", "features", "frechet", "noise_anchor", "reference"]

NETS = {"fashion": "fashion-features", "digits": "digits-features"}


@dataclass(frozen=True)
class Reference:
    """Mean and covariance (unbiased) of the features of n pictures, float64."""

    mean: Tensor = field(repr=False)
    cov: Tensor = field(repr=False)
    n: int

    @classmethod
    def of(cls, feats: Tensor) -> Reference:
        """From features (N, D). ValueError for fewer than two pictures."""
        if feats.ndim != 2 or len(feats) < 2:
            raise ValueError(
                f"need the features of at least two pictures, (N, D); got {tuple(feats.shape)}"
            )
        feats = feats.double()
        return cls(feats.mean(0), torch.cov(feats.T), len(feats))


def frechet(a: Reference, b: Reference) -> float:
    """The Fréchet distance of two sets of statistics; exactly 0 for a set with itself."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and {len(b.mean)} numbers do not compare")
    # tr (S1 S2)^{1/2} = sum of the singular values of S1^{1/2} S2^{1/2}
    roots = []
    for cov in (a.cov, b.cov):
        e, u = torch.linalg.eigh(cov)
        roots.append((u * e.clamp(min=0).sqrt()) @ u.T)
    cross = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    value = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    return max(value.item(), 0.0)


@lru_cache(maxsize=4)
def _net(name: str) -> nn.Module:
    if name not in NETS:
        raise unknown("data set with frozen features", name, NETS)
    return checkpoints.load(NETS[name])


@torch.no_grad()
def features(x: Tensor, name: str = "fashion", batch: int = 500) -> Tensor:
    """Features (N, 64) of pictures (N, C, H, W) in [-1, 1] (values outside are clipped)."""
    if x.ndim != 4:
        raise ValueError(f"pictures must be (N, C, H, W); got {tuple(x.shape)}")
    net = _net(name)
    where = next(net.parameters()).device
    return torch.cat([net.features(part.to(where).clamp(-1, 1)).cpu() for part in x.split(batch)])


@lru_cache(maxsize=4)
def reference(name: str = "fashion") -> Reference:
    """The shipped statistics of the full test set (10,000 of Fashion-MNIST, 297 digits)."""
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
    """Fréchet distance of pictures (N, C, H, W) to the full test set. Quote it with N."""
    return frechet(Reference.of(features(x, name)), reference(name))


def noise_anchor(n: int, name: str = "fashion", seed: int = 0, std: float = 0.1) -> float:
    """A: the FD of n real pictures with noise of standard deviation ``std`` added."""
    pool = data.load(name, "train").x[:n]
    if len(pool) < n:
        raise ValueError(f"only {len(pool)} real pictures are embedded; asked for {n}")
    noise = torch.randn(pool.shape, generator=generator(seed, 99))
    return fd(pool + std * noise, name)


def build_reference(name: str, root: str | None = None) -> Path:
    """Make the shipped statistics again: fashion needs the full test set (``root``)."""
    from diffusion_lab.data import store

    full = name == "fashion"
    test = data.load(name, "test", full=True, root=root) if full else data.load(name, "test")
    stats = Reference.of(features(test.x, name))
    path = store.folder() / "reference" / f"{NETS[name]}.safetensors"
    note = {"n": stats.n, "data": {"name": name, "split": "test", "hash": test.hash}}
    note["features"] = json.loads(json.dumps(checkpoints.info(NETS[name]).get("name")))
    checkpoints.save_tensors(path, {"mean": stats.mean, "cov": stats.cov}, note)
    return path
