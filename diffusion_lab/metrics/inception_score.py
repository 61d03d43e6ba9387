"""Inception score: are pictures clear, and of all classes alike?

    IS = exp( E_x KL( p(y|x) || p(y) ) ),   p(y) = E_x p(y|x)    (Salimans et al. 2016, 1606.03498)

from 1 (all pictures look the same to the classifier) to the number of classes K (each picture
certain, classes equally frequent). With the lab's own classifier it is a *classifier score*. It
never sees a real picture, and one good picture of each class scores as high as a thousand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_lab.device import check_generator
from diffusion_lab.errors import whole
from diffusion_lab.metrics.estimates import Estimate
from diffusion_lab.metrics.frechet import classify

__all__ = ["classifier_score", "inception_score"]


def inception_score(
    probs: Tensor, splits: int = 10, generator: torch.Generator | None = None
) -> Estimate:
    """IS from class probabilities (N, K): the mean over ``splits`` parts, and its standard error.

    Papers quote the standard deviation over ten splits (with 1/10: 3 times this error). The entropy
    of a mean over few pictures comes out too low, by up to about (K - 1)/2n nats at n pictures a
    split, and the score with it: quote N and splits. A generator shuffles first: needed where
    pictures come ordered by class. With splits=1 the error is nan.
    ValueError unless the rows are probabilities and each split has a picture.
    """
    splits = whole("the number of splits", splits)
    if probs.ndim != 2 or not splits <= len(probs):
        raise ValueError(
            f"need class probabilities (N, K) and 1 to N splits; got {tuple(probs.shape)} "
            f"and splits = {splits}"
        )
    probs = probs.double()
    if (probs < 0).any() or not torch.allclose(
        probs.sum(1), torch.ones_like(probs[:, 0]), atol=1e-4
    ):
        raise ValueError("each row must hold probabilities that sum to 1: apply softmax to scores")
    if generator is not None:
        generator = check_generator(generator)
        probs = probs[torch.randperm(len(probs), generator=generator, device="cpu")]
    values = torch.stack([_score(part) for part in probs.tensor_split(splits)])
    if splits == 1:
        return Estimate(values[0].item(), float("nan"), len(probs))
    return Estimate.of(values, n=len(probs))


def _score(p: Tensor) -> Tensor:
    """exp of the entropy of the mean, less the mean entropy."""
    entropy = -torch.special.xlogy(p, p).sum(1).mean()
    mean = p.mean(0)
    return (-torch.special.xlogy(mean, mean).sum() - entropy).exp()


def classifier_score(
    x: Tensor, name: str = "fashion", splits: int = 10, generator: torch.Generator | None = None
) -> Estimate:
    """IS of pictures (N, C, H, W) in [-1, 1] by the lab's frozen classifier of a data set.

    Shuffled with seed 0 where no generator is given.
    """
    generator = check_generator(generator, seed=0)
    return inception_score(classify(x, name), splits, generator)
