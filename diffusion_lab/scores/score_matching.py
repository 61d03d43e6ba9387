"""Score matching: learning grad log p without knowing p (the survey's eq 14).

    explicit    ESM = 1/2 E |s(x) - grad log p(x)|^2             needs the true score
    implicit    ISM = E[ 1/2 |s|^2 + div s ]                     = ESM - 1/2 E|grad log p|^2
    sliced      SSM = E_v E[ v^T (ds/dx) v + 1/2 (v^T s)^2 ]     = ISM in expectation
    denoising   DSM = 1/2 E |s(x + sigma eps) + eps/sigma|^2
                    = ESM of the noised density + 1/2 (d/sigma^2 - E|grad log p_sigma|^2)

Hyvarinen 2005; Song et al. 2019 (1905.07088), whose variance-reduced form has 1/2 |s|^2 in place of
1/2 (v^T s)^2; Vincent 2011. All have the same minimiser, but their prices differ: the implicit loss
takes one backward pass through the score for every dimension, the sliced one a single one, the
denoising loss none. The price of the last: it learns the score of the *noised* density.

Equation 14 of the survey is the energy form p = e^{-f}/Z, for which the score is -grad f: the
normaliser Z drops out. ``score_of`` turns an energy into its score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lab.denoisers import expand
from diffusion_lab.scores.divergence import divergence

__all__ = ["annealed", "denoising", "explicit", "implicit", "score_of", "sliced"]

Score = Callable[[Tensor], Tensor]  # (B, ...) -> the same shape


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x.flatten(1).square().sum(1)


def explicit(score: Score, x: Tensor, truth: Tensor) -> Tensor:
    """1/2 |s(x) - truth|^2, (B,), with ``truth`` = grad log p(x) like x."""
    if truth.shape != x.shape:
        raise ValueError(
            f"the true score must be like x {tuple(x.shape)}; got {tuple(truth.shape)}"
        )
    return _half_square(score(x) - truth)


def implicit(score: Score, x: Tensor, *, create_graph: bool = True) -> Tensor:
    """1/2 |s|^2 + div s, (B,): one backward pass for every dimension of a datum.

    It may fall without bound where the data are bounded or hold duplicates (the true score of such
    data is infinite); ``create_graph=False`` for a value that will not be minimised.
    """
    value, div = divergence(score, x, create_graph=create_graph)
    return _half_square(value) + div


def sliced(
    score: Score, x: Tensor, v: Tensor, *, reduced: bool = True, create_graph: bool = True
) -> Tensor:
    """v^T (ds/dx) v + 1/2 |s|^2 (``reduced``) or + 1/2 (v^T s)^2, (B,), averaged over directions.

    ``v`` is (K, B, ...) from ``divergence.probes``: one backward pass for each of the K directions.
    """
    value, div = divergence(score, x, v, create_graph=create_graph)
    if reduced:
        return div + _half_square(value)
    along = (v * value).flatten(2).sum(2)  # (K, B)
    return div + 0.5 * along.square().mean(0)


def denoising(score: Score, x: Tensor, sigma: float | Tensor, eps: Tensor) -> Tensor:
    """1/2 |s(x + sigma eps) + eps/sigma|^2, (B,); sigma a number or (B,), eps like x."""
    if eps.shape != x.shape:
        raise ValueError(f"eps must be like x {tuple(x.shape)}; got {tuple(eps.shape)}")
    if not bool((torch.as_tensor(sigma) > 0).all()):
        raise ValueError(f"denoising score matching needs noise: sigma > 0; got {sigma}")
    sigma = expand(sigma, x)
    return _half_square(score(x + sigma * eps) + eps / sigma)


def annealed(
    score: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, eps: Tensor
) -> Tensor:
    """sigma^2 times the denoising loss, (B,), for a score s(x, sigma) of many levels (1907.05600).

    With s = -eps_hat/sigma it is 1/2 |eps - eps_hat|^2: DDPM's simple loss (the survey's eq 7).
    """
    return sigma.to(x) ** 2 * denoising(lambda y: score(y, sigma), x, sigma, eps)


def score_of(energy: Callable[[Tensor], Tensor]) -> Score:
    """-grad f of an energy f: (B, ...) -> (B,), so that p = e^{-f}/Z (the survey's eq 14).

    The graph is kept, so the score can be differentiated again and trained.
    """

    def score(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            f = energy(x)
            if f.shape != (len(x),):
                raise ValueError(f"an energy is one number a datum, (B,); got {tuple(f.shape)}")
            (slope,) = torch.autograd.grad(f.sum(), x, create_graph=True)
        return -slope

    return score
