"""Information left: what x_t = alpha x_0 + sigma eps still says about x_0.

Every quantity here depends on the noise level through lambda = log(alpha / sigma) alone, because
multiplying x_t by a number takes nothing away; so lambda is the only argument.

For a mixture in one dimension all are integrals over a line, computed to about ten digits:

    class     I(k; x_t) = sum_k w_k E[log(r_k(x_t) / w_k) | k],  r_k the responsibilities
    data      I(x_0; x_t) = h(x_t) - h(sigma eps)
    mmse      E |x_0 - E[x_0 | x_t]|^2

and they are tied together by dI(x_0; x_t)/d lambda = SNR mmse = E |eps - eps_hat|^2 in nats (Guo,
Shamai, Verdu 2005, there as dI/dSNR = mmse/2). For a finite data set the posterior over its
pictures is exact and only the average over x_t is a sample mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.device import check_generator, randn
from diffusion_lab.errors import whole
from diffusion_lab.exact import FiniteData, GaussianMixture

__all__ = [
    "Left",
    "bayes_accuracy",
    "class_bits",
    "class_posterior",
    "data_bits",
    "finite",
    "level",
    "mmse",
    "vp",
]

NODES, REACH = 801, 9.0  # integration points of a component, and how many of its std they span


def vp(lam: float | Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with log(alpha/sigma) = lam and alpha^2 + sigma^2 = 1, float64."""
    lam = torch.as_tensor(lam, dtype=torch.float64)
    if lam.isnan().any():
        raise ValueError("lambda must be a number (or infinite); got nan")
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()


def _average(mixture: GaussianMixture, lam: Tensor | float, value: Callable[..., Tensor]) -> Tensor:
    """E[value] at each lambda, the shape of lam; ``value(x, k, alpha, sigma)`` is (NODES,)."""
    if mixture.dim != 1:
        raise ValueError(
            f"the integrals are over a line: the mixture must have D = 1, not {mixture.dim}"
        )
    levels = torch.as_tensor(lam, dtype=torch.float64, device="cpu")
    if bool(levels.isnan().any()):
        raise ValueError("lambda must be a number; got nan")
    z = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64, device="cpu")
    weight = torch.exp(-0.5 * z * z)
    weight = weight / weight.sum()
    out = []
    for alpha, sigma in zip(*(c.reshape(-1).tolist() for c in vp(levels)), strict=True):
        total = 0.0
        for k, share in enumerate(mixture.weights.tolist()):
            std = math.sqrt(alpha**2 * float(mixture.covs[k, 0, 0]) + sigma**2)
            x = alpha * mixture.means[k] + std * z
            total += share * float(weight @ value(x[:, None], k, alpha, sigma))
        out.append(total)
    return levels.new_tensor(out).reshape(levels.shape)


def class_bits(mixture: GaussianMixture, lam: Tensor | float) -> Tensor:
    """I(component; x_t) in bits, the shape of ``lam``: from 0 to at most the entropy of weights."""

    def gain(x: Tensor, k: int, alpha: float, sigma: float) -> Tensor:
        log_r = mixture._parts(x, alpha, sigma)[0].log_softmax(-1)[:, k]
        return (log_r - mixture.weights[k].log()) / math.log(2)

    return _average(mixture, lam, gain)


def bayes_accuracy(mixture: GaussianMixture, lam: Tensor | float) -> Tensor:
    """How often the best guess of the component from x_t is right, the shape of ``lam``."""
    return _average(
        mixture, lam, lambda x, k, alpha, sigma: mixture.responsibilities(x, alpha, sigma).amax(-1)
    )


def data_bits(mixture: GaussianMixture, lam: Tensor | float) -> Tensor:
    """I(x_0; x_t) in bits, the shape of ``lam``; for N(m, v) it is log2(1 + v SNR) / 2."""

    def gain(x: Tensor, k: int, alpha: float, sigma: float) -> Tensor:
        noise = 0.5 * math.log(2 * math.pi * math.e * sigma**2)
        return (-mixture.log_prob(x, alpha, sigma) - noise) / math.log(2)

    return _average(mixture, lam, gain)


def mmse(mixture: GaussianMixture, lam: Tensor | float) -> Tensor:
    """E |x_0 - E[x_0 | x_t]|^2, the error of the best denoiser, the shape of ``lam``."""
    return _average(
        mixture, lam, lambda x, k, alpha, sigma: mixture.posterior_cov(x, alpha, sigma)[:, 0, 0]
    )


def level(
    value: Callable[[float], Tensor | float], wanted: float, low: float = -15.0, high: float = 15.0
) -> float:
    """The lambda in [low, high] at which a rising function of lambda takes the value ``wanted``.

    Found by bisection. ``level(lambda lam: class_bits(toy, lam), 0.5)``. Raises ValueError where
    the function does not pass through ``wanted``.
    """
    ends = float(value(low)), float(value(high))
    if not ends[0] <= wanted <= ends[1]:
        raise ValueError(
            f"between lambda {low:g} and {high:g} the values go from {ends[0]:.4g} to "
            f"{ends[1]:.4g}; {wanted:.4g} is not among them"
        )
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(value(middle)) < wanted else (low, middle)
    return 0.5 * (low + high)


@torch.no_grad()
def class_posterior(data: FiniteData, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
    """P(class | x_t) for one who knows every picture of ``data``: (B, K) float64, sigma > 0."""
    if data.labels is None:
        raise ValueError("the class of a picture needs labels: FiniteData(x, labels)")
    classes = torch.nn.functional.one_hot(data.labels).double()
    return data.log_weights(x_t, alpha, sigma).softmax(1) @ classes


@dataclass(frozen=True)
class Left:
    """What is left of a finite data set at one noise level: means over noised pictures."""

    picture_bits: float  # I(which picture; x_t), at most log2 N
    class_bits: float  # I(its class; x_t), at most the entropy of the labels
    accuracy: float  # how often the best guess of the class is right
    mmse: float  # E |x_0 - E[x_0 | x_t]|^2 / pixels


@torch.no_grad()
def finite(data: FiniteData, lam: float, n: int, generator: torch.Generator) -> Left:
    """Information left of ``data`` (with labels) at ``lam``, from n pictures noised at random.

    The posterior over all pictures is exact; the mean over n draws is not: its error falls as
    1/sqrt(n).
    """
    if data.labels is None:
        raise ValueError("the class of a picture needs labels: FiniteData(x, labels)")
    n = whole("the number of pictures", n)
    alpha, sigma = (float(c) for c in vp(lam))
    generator = check_generator(generator)
    chosen = torch.randint(len(data.x), (n,), generator=generator, device="cpu")
    x0 = data.x[chosen]
    x_t = alpha * x0 + sigma * randn(tuple(x0.shape), generator, x0)
    weights = data.log_weights(x_t, alpha, sigma).softmax(1)  # (n, N) float64
    classes = torch.nn.functional.one_hot(data.labels).double()  # (N, K)
    by_class = weights @ classes
    mean = weights.to(data.flat.dtype) @ data.flat
    spread = weights @ data.norms - mean.double().square().sum(1)
    return Left(
        picture_bits=math.log2(len(data.x)) - float(_entropy(weights).mean()),
        class_bits=float(_entropy(classes.mean(0)) - _entropy(by_class).mean()),
        accuracy=float(by_class.amax(1).mean()),
        mmse=float(spread.mean()) / data.flat.shape[1],
    )


def _entropy(p: Tensor) -> Tensor:
    """-sum p log2 p over the last axis."""
    return -torch.special.xlogy(p, p).sum(-1) / math.log(2)
