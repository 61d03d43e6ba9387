"""Exact answers: data whose optimal denoiser is a formula.

For a Gaussian mixture sum_k w_k N(m_k, S_k) the noised density is again a mixture,

    p_t(x) = sum_k w_k N(x; alpha m_k, C_k),      C_k = alpha^2 S_k + sigma^2 I,

with responsibilities r_k(x) proportional to w_k N(x; alpha m_k, C_k), so that

    score(x)     = -sum_k r_k C_k^{-1} (x - alpha m_k)
    E[x_0 | x]   = sum_k r_k [m_k + alpha S_k C_k^{-1} (x - alpha m_k)].

For a finite data set (all S_k = 0) this is the ideal denoiser of the training set. Each has the
interface of a network, so every sampler can be proved right before a network is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser, Prediction
from diffusion_lab.device import (
    check_batch,
    check_finite,
    check_float,
    check_generator,
    check_label,
)
from diffusion_lab.errors import unknown, whole
from diffusion_lab.schedules import Schedule, Time

__all__ = ["ExactDenoiser", "FiniteData", "Gaussian", "GaussianMixture"]

SINGULAR = "a singular covariance has no density at sigma = 0: ask at sigma > 0"


class ExactDenoiser(Denoiser):
    """A formula ``x0(x_t, alpha, sigma, **condition) -> E[x_0 | x_t]`` with a network's interface.

    Any exact law can be conditioned on anything: ``x0(x_t, alpha, sigma, *, tokens=None)`` is asked
    as ``denoiser(x_t, t, tokens=...)``. A condition that is None was not given; ValueError for one
    that the formula does not take. alpha and sigma are floats, or tensors (B, 1, ...).
    """

    def __init__(
        self,
        schedule: Schedule,
        x0: Callable[..., Tensor],
        *,
        num_classes: int | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(schedule)
        self.formula, self.num_classes, self.shape = x0, num_classes, shape

    def forward(self, x_t: Tensor, t: Time, **condition: Any) -> Prediction:
        check_batch(x_t, "x_t", self.shape)
        given = {name: value for name, value in condition.items() if value is not None}
        if given:
            _check_condition(self.formula, given)
        alpha, sigma = self.levels(t, x_t)
        return Prediction(x_t, alpha, sigma, self.formula(x_t, alpha, sigma, **given), "x0")


def _check_condition(formula: Callable[..., Tensor], given: dict[str, Any]) -> None:
    """ValueError for a condition that is no argument of the formula after its first three."""
    names = signature(formula).parameters
    if any(one.kind is Parameter.VAR_KEYWORD for one in names.values()):
        return
    places = [name for name, one in names.items() if one.kind is not Parameter.KEYWORD_ONLY]
    for name in given:
        if name not in names or name in places[:3]:
            raise unknown("condition of this exact denoiser", name, {*names} - {*places[:3]})


class GaussianMixture:
    """sum_k w_k N(m_k, S_k) in D dimensions, float64.

    Args:
        weights: (K,), positive, summing to 1 (normalised here).
        means: (K, D).
        covs: (K, D, D), symmetric and positive semi-definite.
    """

    def __init__(self, weights: Any, means: Any, covs: Any) -> None:
        self.weights, self.means, self.covs = (_exactly(p) for p in (weights, means, covs))
        k, d = self.means.shape if self.means.ndim == 2 else (-1, -1)
        if self.weights.shape != (k,) or self.covs.shape != (k, d, d):
            raise ValueError(
                "need weights (K,), means (K, D), covs (K, D, D); got "
                f"{tuple(self.weights.shape)}, {tuple(self.means.shape)}, {tuple(self.covs.shape)}"
            )
        if not (self.weights > 0).all():
            raise ValueError("the weights of a mixture must be positive")
        if not all(bool(p.isfinite().all()) for p in (self.weights, self.means, self.covs)):
            raise ValueError("the weights, means and covariances of a mixture must be finite")
        if not torch.allclose(self.covs, self.covs.mT):
            raise ValueError("the covariances of a mixture must be symmetric")
        self.weights = self.weights / self.weights.sum()
        # S_k = U diag(e) U^T, so that C_k has the same U at every noise level
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(self.covs)
        largest = self.eigenvalues.abs().amax(-1, keepdim=True)
        if not (self.eigenvalues > -1e-10 * largest.clamp(min=1)).all():
            raise ValueError("the covariances of a mixture must be positive semi-definite")
        rounding = d * torch.finfo(torch.float64).eps * largest
        self.eigenvalues = self.eigenvalues.where(self.eigenvalues > rounding, 0.0)
        self.dim = d

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n exact draws, (n, D) float64."""
        return self.sample_labelled(n, generator)[0]

    def sample_labelled(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n exact draws (n, D) and the component each came from (n,)."""
        n, generator = whole("the number of samples", n), check_generator(generator)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.dim, generator=generator, dtype=torch.float64, device="cpu")
        z = z * self.eigenvalues[k].sqrt()
        return self.means[k] + torch.einsum("nij,nj->ni", self.eigenvectors[k], z), k

    def _parts(self, x: Tensor, alpha: Any, sigma: Any, label: Tensor | None = None) -> Any:
        """In each component's eigenbasis: (log of weight times density, offset, variance).

        Shapes (B, K), (B, K, D), (B or 1, K, D). ValueError where a variance is 0.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}); got {tuple(x.shape)}")
        x = x.double()
        alpha, sigma = (
            torch.as_tensor(c, dtype=torch.float64, device=x.device).reshape(-1, 1, 1)
            for c in (alpha, sigma)
        )
        gap = x[:, None] - alpha * self.means  # (B, K, D)
        gap = torch.einsum("kji,bkj->bki", self.eigenvectors, gap)
        var = alpha**2 * self.eigenvalues + sigma**2
        if not bool((var > 0).all()):
            raise ValueError(SINGULAR)
        log_n = -0.5 * (gap**2 / var + var.log() + math.log(2 * math.pi)).sum(-1)
        log_w = self.weights.log().expand_as(log_n)
        if label is not None:
            check_label(label, len(x), len(self.weights))
            own = torch.arange(len(self.weights), device=label.device) == label[:, None]
            anyone = label == len(self.weights)
            log_w = torch.where(own | anyone[:, None], log_w, -torch.inf)
        return log_w + log_n, gap, var

    def log_prob(self, x: Tensor, alpha: Any = 1.0, sigma: Any = 0.0) -> Tensor:
        """log p_t(x) in nats, (B,) float64; by default the density of the data."""
        return self._parts(x, alpha, sigma)[0].logsumexp(-1)

    def responsibilities(self, x: Tensor, alpha: Any = 1.0, sigma: Any = 0.0) -> Tensor:
        """P(component k | x_t = x), (B, K)."""
        return self._parts(x, alpha, sigma)[0].softmax(-1)

    def score(self, x: Tensor, alpha: Any = 1.0, sigma: Any = 0.0) -> Tensor:
        """grad_x log p_t(x), (B, D) float64."""
        logs, gap, var = self._parts(x, alpha, sigma)
        pull = torch.einsum("kij,bkj->bki", self.eigenvectors, -gap / var)
        return (logs.softmax(-1)[..., None] * pull).sum(1)

    def x0(self, x: Tensor, alpha: Any, sigma: Any, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t = x], (B, D) in the dtype of x; ``label`` (B,) picks the components.

        Labels are int64, 0..K-1, and K for no class.
        """
        logs, gap, var = self._parts(x, alpha, sigma, label)
        a = torch.as_tensor(alpha, dtype=torch.float64, device=x.device).reshape(-1, 1, 1)
        move = torch.einsum("kij,bkj->bki", self.eigenvectors, a * self.eigenvalues * gap / var)
        mean = (logs.softmax(-1)[..., None] * (self.means + move)).sum(1)
        return mean.to(x.dtype)

    def posterior_cov(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """Cov[x_0 | x_t = x], (B, D, D) float64 (what the best reverse variance is made of)."""
        logs, gap, var = self._parts(x, alpha, sigma)
        r = logs.softmax(-1)
        move = torch.einsum("kij,bkj->bki", self.eigenvectors, alpha * self.eigenvalues * gap / var)
        centres = self.means + move  # (B, K, D)
        inner = self.eigenvalues * sigma**2 / (alpha**2 * self.eigenvalues + sigma**2)  # (K, D)
        within = torch.einsum("kij,kj,klj->kil", self.eigenvectors, inner, self.eigenvectors)
        mean = (r[..., None] * centres).sum(1)
        spread = centres - mean[:, None]
        between = torch.einsum("bk,bki,bkj->bij", r, spread, spread)
        return torch.einsum("bk,kij->bij", r, within) + between

    def moved(self, a: Any, cov: Any) -> GaussianMixture:
        """The law of a x + noise with noise ~ N(0, cov): means a m_k, covariances a S_k a' + cov.

        ``a`` is a number, (D,) for one factor a coordinate, or a matrix (D', D); ``cov`` (D', D').
        So the truth of any linear Gaussian process: a velocity beside x, blur, a projection.
        """
        a, cov = _exactly(a), _exactly(cov)
        if a.ndim == 0 or a.shape == (self.dim,):
            a = a.expand(self.dim).diag()
        if a.ndim != 2 or a.shape[1] != self.dim or cov.shape != (len(a), len(a)):
            raise ValueError(
                f"need a as a number, ({self.dim},) or (D', {self.dim}), and cov (D', D'); got "
                f"{tuple(a.shape)} and {tuple(cov.shape)}"
            )
        noise = Gaussian(torch.zeros(len(a)), cov)  # checks the covariance
        return GaussianMixture(self.weights, self.means @ a.T, a @ self.covs @ a.T + noise.covs)

    def denoiser(self, schedule: Schedule) -> ExactDenoiser:
        """The optimal denoiser; ``label`` picks one component (K = no label)."""
        return ExactDenoiser(schedule, self.x0, num_classes=len(self.weights), shape=(self.dim,))


def _exactly(numbers: Any) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.float64, device="cpu")


class Gaussian(GaussianMixture):
    """N(m, S): mixture of one, with the probability-flow ODE solved in closed form."""

    def __init__(self, mean: Any, cov: Any) -> None:
        super().__init__([1.0], _exactly(mean)[None], _exactly(cov)[None])

    def flow(
        self, x: Tensor, alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float
    ) -> Tensor:
        """Where the ODE carries x from (alpha_t, sigma_t) to (alpha_s, sigma_s).

        x_s = alpha_s m + C_s^{1/2} C_t^{-1/2} (x_t - alpha_t m); all C share eigenvectors.
        """
        u, e, m = self.eigenvectors[0], self.eigenvalues[0], self.means[0]
        stretch = ((alpha_s**2 * e + sigma_s**2) / (alpha_t**2 * e + sigma_t**2)).sqrt()
        if not bool(stretch.isfinite().all()):
            raise ValueError(SINGULAR)
        z = (x.double() - alpha_t * m) @ u
        return ((z * stretch) @ u.T + alpha_s * m).to(x.dtype)


class FiniteData:
    """The uniform distribution on the pictures of a data set: the ideal denoiser memorises.

    E[x_0 | x_t] = sum_i softmax_i(-|x_t - alpha x_i|^2 / 2 sigma^2) x_i, over the pictures of the
    label's class if a label is given.
    """

    def __init__(self, x: Tensor, labels: Tensor | None = None) -> None:
        if len(x) == 0:
            raise ValueError("a finite data set needs at least one picture")
        check_float(x, "the data")
        check_finite(x, "the data")
        if labels is not None and (
            labels.dtype != torch.int64 or labels.shape != (len(x),) or int(labels.min()) < 0
        ):
            raise ValueError(
                f"labels must be int64 of shape ({len(x)},) and >= 0; got {labels.dtype} of shape "
                f"{tuple(labels.shape)}, smallest {labels.min():g}"
            )
        self.x, self.labels = x, labels
        self.classes = None if labels is None else int(labels.max()) + 1
        self.flat = x.flatten(1)
        self.norms = (self.flat.double() ** 2).sum(1)

    def log_weights(self, x_t: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """-|x_t - alpha x_i|^2 / 2 sigma^2 up to a constant of x_t, (B, N) float64."""
        alpha, sigma = (
            torch.as_tensor(c, dtype=torch.float64, device=x_t.device).reshape(-1, 1)
            for c in (alpha, sigma)
        )
        if x_t.shape[1:] != self.x.shape[1:]:
            raise ValueError(
                f"x_t must be (B, {', '.join(map(str, self.x.shape[1:]))}); got {tuple(x_t.shape)}"
            )
        if not bool((sigma > 0).all()):
            raise ValueError("a finite data set is asked about noised pictures: sigma must be > 0")
        cross = (x_t.flatten(1) @ self.flat.T.to(x_t.dtype)).double()
        return (alpha * cross - 0.5 * alpha**2 * self.norms) / sigma**2

    def x0(self, x_t: Tensor, alpha: Any, sigma: Any, label: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t], the shape and dtype of x_t; ``label`` (B,) int64, K for no class."""
        logs = self.log_weights(x_t, alpha, sigma)
        if label is not None:
            if self.labels is None:
                raise ValueError("this data set was given without labels: ask without a label")
            check_label(label, len(x_t), self.classes)
            same = self.labels == label[:, None]
            nobody = ~same.any(1, keepdim=True)  # 'no class' stands for all pictures
            logs = torch.where(same | nobody, logs, -torch.inf)
        mean = logs.softmax(1).to(x_t.dtype) @ self.flat.to(x_t.dtype)
        return mean.reshape(x_t.shape)

    def denoiser(self, schedule: Schedule) -> ExactDenoiser:
        """The denoiser that minimises the training loss on exactly these pictures."""
        return ExactDenoiser(
            schedule, self.x0, num_classes=self.classes, shape=tuple(self.x.shape[1:])
        )
