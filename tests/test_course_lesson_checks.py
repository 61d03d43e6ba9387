"""Answers that are right in another form, and attempts that are only half there."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.course.checks import lesson00, lesson01


def root(x):
    return torch.sigmoid(2 * x).sqrt()


@pytest.mark.parametrize(
    "answer",
    [
        lambda lam: torch.stack([root(lam), root(-lam)]),
        lambda lam: [root(lam), root(-lam)],
        lambda lam: (lam.exp() / (1 + (2 * lam).exp()).sqrt(), 1 / (1 + (2 * lam).exp()).sqrt()),
    ],
)
def test_alpha_and_sigma_in_any_form(answer):
    assert lesson01.from_lambda.result(answer).ok


@pytest.mark.parametrize("letter", ["b", "B", " b", "b)", ["b"]])
def test_the_letter_in_any_form(letter):
    assert lesson01.halved.result(letter).ok


def by_the_noise(guess, x, noises):
    """The same step, written with the noise that the guess leaves."""
    for i in range(len(noises) - 1):
        clean = guess(x, noises[i])
        eps = (x - clean) / noises[i]
        x = clean + noises[i + 1] * eps
    return x


def as_a_mean(guess, x, noises):
    for i in range(len(noises) - 1):
        r = noises[i + 1] / noises[i]
        x = r * x + (1 - r) * guess(x, noises[i])
    return x


@pytest.mark.parametrize("answer", [by_the_noise, as_a_mean])
def test_a_sampler_in_any_form(answer):
    assert lesson00.sampler.result(answer).ok


@pytest.mark.parametrize(
    ("task", "answer", "words"),
    [
        (lesson01.from_lambda, lambda lam: (root(lam), ...), "sigma still to come"),
        (lesson01.from_lambda, lambda lam: (..., ...), "alpha and sigma still to come"),
        (lesson01.half_times, dict.fromkeys(lesson01.SCHEDULES, ...), "the three times"),
        (lesson01.my_betas, lambda T: 2 * ..., "a `...` is still left"),
        (lesson01.my_betas, lambda T: ..., "returns nothing"),
        (lesson00.choices, [...] * 5, "five words"),
    ],
)
def test_an_attempt_that_is_not_there_yet_says_what_is_missing(task, answer, words):
    found = task.result(answer)
    assert found.status == "not attempted yet" and words in found.message
