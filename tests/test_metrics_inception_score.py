"""The inception score at its ends, against its definition and torchmetrics, and what it misses."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab import data
from diffusion_lab.device import generator
from diffusion_lab.metrics import classifier_score, inception_score
from diffusion_lab.metrics.frechet import classify


def test_ends_of_the_scale():
    certain = torch.eye(10).repeat(40, 1)
    assert inception_score(certain).value == pytest.approx(10, rel=1e-12)
    assert inception_score(certain).error == pytest.approx(0, abs=1e-12)
    assert inception_score(torch.full((400, 10), 0.1)).value == pytest.approx(1, rel=1e-9)
    unsure = torch.tensor([0.7, 0.2, 0.1]).repeat(60, 1)
    assert inception_score(unsure).value == pytest.approx(1, rel=1e-6)
    assert inception_score(torch.eye(10)[[3] * 50]).value == pytest.approx(1)


def test_two_classes_with_unequal_shares():
    """Certain pictures: exp of the entropy of the shares."""
    p = torch.eye(2)[[0] * 30 + [1] * 10]
    exact = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert inception_score(p, splits=1).value == pytest.approx(exact, rel=1e-12)


def test_pictures_ordered_by_class_need_a_shuffle():
    ordered = torch.eye(10).repeat_interleave(100, 0)
    assert inception_score(ordered).value == pytest.approx(1)
    assert inception_score(ordered, generator=generator(0)).value > 9


def test_agrees_with_torchmetrics():
    peer = pytest.importorskip("torchmetrics.image.inception")
    scores = 2 * torch.randn(300, 10, generator=generator(0))
    judge = peer.InceptionScore(feature=torch.nn.Identity(), splits=1)
    judge.update(scores)
    found = inception_score(scores.double().softmax(1), splits=1)
    assert found.value == pytest.approx(float(judge.compute()[0]), rel=1e-5)
    assert math.isnan(found.error) and found.n == 300


def test_blind_to_collapse_within_a_class():
    """One real picture of each class, repeated, scores as high as a thousand different ones."""
    test = data.load("fashion", "test")
    probs = classify(test.x[:1000])
    real = inception_score(probs, splits=1).value
    assert classifier_score(test.x[:1000]).n == 1000
    best = [int(probs[:, c].argmax()) for c in range(10)]  # the picture surest to be a c
    assert 5 < real < inception_score(probs[best].repeat(100, 1), splits=1).value < 10


def test_errors():
    with pytest.raises(ValueError, match="softmax"):
        inception_score(torch.randn(20, 3))
    for bad, splits in [(torch.ones(3), 1), (torch.eye(3), 4), (torch.eye(3), 0)]:
        with pytest.raises(ValueError, match="splits"):
            inception_score(bad, splits)


def test_rows_may_miss_one_by_rounding_and_no_more():
    inception_score(torch.full((20, 2), 0.5 + 4e-5, dtype=torch.float64))
    with pytest.raises(ValueError, match="apply softmax"):
        inception_score(torch.full((20, 2), 0.5 + 8e-5, dtype=torch.float64))
    assert inception_score(torch.full((3, 2), 0.5), splits=3).n == 3  # a picture a split
