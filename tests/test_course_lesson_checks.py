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


@pytest.mark.parametrize(
    "answer",
    [
        lambda states: [state.pred.x0 for state in states[1:]],
        lambda states: (state.pred.x0 for state in states if state.pred is not None),
        lambda states: torch.stack([state.pred.x0 for state in states[1:]]),
    ],
)
def test_guesses_in_any_form(answer):
    assert lesson00.guesses.result(answer).ok


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
