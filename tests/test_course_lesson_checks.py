"""Answers that are right in another form, and attempts that are only half there."""

from __future__ import annotations

import pytest
import torch

from diffusion_lab.course.checks import lesson00, lesson01, lesson02


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


def with_mse_loss(net, x0s, abar, steps, gen):
    """Another optimiser, gradients cleared at the end, steps drawn from 0 and moved up."""
    sgd, found = torch.optim.SGD(net.parameters(), lr=1e-6), []
    for _ in range(steps):
        x0 = x0s[torch.randperm(len(x0s), generator=gen)[:8]].repeat(8, 1, 1, 1)
        i = torch.randint(len(abar) - 1, (64,), generator=gen) + 1
        eps = torch.randn_like(x0)
        alpha, sigma = abar[i, None, None, None] ** 0.5, (1 - abar[i, None, None, None]) ** 0.5
        loss = torch.nn.functional.mse_loss(net(alpha * x0 + sigma * eps, i), eps)
        loss.backward()
        sgd.step()
        sgd.zero_grad(set_to_none=False)
        found.append(loss.detach())
    return found


def by_x0(guess, x, abar, noise):
    """The same step by way of the clean picture: the posterior's mean, equation 3."""
    for i in reversed(range(1, len(abar))):
        a, before = abar[i], abar[i - 1]
        x0 = (x - (1 - a) ** 0.5 * guess(x, i)) / a**0.5
        beta = 1 - a / before
        x = before**0.5 * beta / (1 - a) * x0 + (1 - beta) ** 0.5 * (1 - before) / (1 - a) * x
        x = x + (beta**0.5 * noise(i) if i > 1 else 0)
    return x


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_two_algorithms_in_any_form(seed):
    for answer in (lesson02.our_training, with_mse_loss):
        assert lesson02.training.result(answer, seed).ok
    assert lesson02.walk_back.result(by_x0, seed).ok


def test_what_the_lessons_fall_back_on_is_right():
    assert lesson00.sampler.result(lesson00.our_sampler).ok
    assert lesson01.my_betas.result(lesson01.our_betas).ok
    assert lesson02.walk_back.result(lesson02.our_walk_back).ok


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
