"""Answers that are right in another form, and attempts that are only half there."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch

from diffusion_lab import schedules
from diffusion_lab.course.checks import lesson00, lesson01, lesson02, lesson06, lesson07, lesson08
from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.grids import grid
from diffusion_lab.samplers import dpmpp_2m, predictor_corrector
from diffusion_lab.scheduling import dp_stride
from diffusion_lab.walk import sample, walk


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
    """Gradients cleared at the end, steps drawn from 0 and moved up, losses kept as tensors."""
    adam, found = torch.optim.AdamW(net.parameters(), lr=0.002, weight_decay=0), []
    for _ in range(steps):
        x0 = x0s[torch.randperm(len(x0s), generator=gen)[:8]].repeat(8, 1, 1, 1)
        i = torch.randint(len(abar) - 1, (64,), generator=gen) + 1
        eps = torch.randn(x0.shape, generator=gen, dtype=x0.dtype)
        alpha, sigma = abar[i, None, None, None] ** 0.5, (1 - abar[i, None, None, None]) ** 0.5
        loss = torch.nn.functional.mse_loss(net(alpha * x0 + sigma * eps, i), eps)
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=False)
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


# ---- what learners write whole is what the package runs ------------------------------------------
def test_the_predictor_corrector_loop_is_the_samplers_own():
    ve, law = schedules.VE(0.01, 20.0), toys.ring()
    times, gen = grid(ve, 8, "uniform"), generator(0)
    noises = torch.randn(20, 30, 2, generator=gen, dtype=torch.float64)
    start, step = 20.0 * noises[0], predictor_corrector("ancestral", snr=0.2)
    draws = iter(noises[1:])
    down = walk(step, law.denoiser(ve), start, times[:-1], noise=lambda i, x: next(draws))
    wanted = law.denoiser(ve)(sample(down).x, times[-2]).x0  # the best guess at the last level
    draws = iter(noises[1:])
    levels = [ve.alpha_sigma(t)[1] for t in times[:-1]]
    score = lambda x, sigma: law.score(x, 1.0, sigma)  # noqa: E731
    found = lesson06.reference_pc(score, start, levels, 0.2, lambda x: next(draws))
    assert (found - wanted).abs().max() < 1e-9


@pytest.mark.parametrize("spacing", ["uniform", "lambda"])
def test_the_whole_walk_is_the_solvers_own(spacing):
    vp = schedules.Linear()
    exact, times = toys.ring().denoiser(vp), grid(vp, 9, spacing, lam_range=(-5.0, 4.0))
    start = torch.randn(30, 2, generator=generator(1), dtype=torch.float64)
    wanted = sample(walk(dpmpp_2m(), exact, start, times)).x
    found = lesson07.reference_walk(lambda x, t: exact(x, t).x0, start, times, vp.alpha_sigma)
    assert (found - wanted).abs().max() < 1e-9


def test_the_shortest_path_is_that_of_the_package_and_of_all_subsets():
    size = 7
    table = torch.rand(size, size, generator=generator(2), dtype=torch.float64)
    table = torch.where(torch.ones(size, size, dtype=torch.bool).tril(-1), table, torch.inf)
    times = [k / (size - 1) for k in range(1, size)]
    strides = dp_stride.shortest(table, times, size - 1)
    for moves in range(1, size):
        path = lesson08.reference_path(table, moves)
        assert strides.grid(moves) == [0.0 if k == 0 else times[k - 1] for k in path]
        inner = combinations(range(1, size - 1), moves - 1)
        all_paths = [(size - 1, *reversed(some), 0) for some in inner]
        price = lambda path: sum(table[a, b].item() for a, b in pairwise(path))  # noqa: E731
        assert price(path) == pytest.approx(min(map(price, all_paths)))


def test_a_walk_asks_once_a_step_and_ends_at_alpha():
    def walk_of(twice: bool, scaled: bool):
        def mine(denoise, x, times, level):
            if twice:
                denoise(x, times[0])
            end = lesson07.reference_walk(denoise, x, times, level)
            return end if scaled or level(times[-1])[1] else end / level(times[-1])[0]

        return mine

    assert lesson07.whole_walk.result(walk_of(False, True)).ok
    assert "more than once a move" in lesson07.whole_walk.result(walk_of(True, True)).message
    assert not lesson07.whole_walk.result(walk_of(False, False)).ok


def test_a_training_loop_without_alpha_is_told_so():
    def loop(model, average, optimiser, pictures, draw, steps):
        for _ in range(steps):
            t, _, sigma, weight = (c[:, None, None, None] for c in draw(32))
            x0 = pictures[torch.randint(len(pictures), (32,))]
            x_t = x0 + sigma * torch.randn_like(x0)
            loss = (weight * (model(x_t, t.flatten()).x0 - x0).square()).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return [0.0] * steps

    from diffusion_lab.course.checks import lesson03

    assert "too much of x0" in lesson03.training_loop.result(loop).message


def in_epochs(model, average, optimiser, pictures, draw, steps):
    """Pictures in a shuffled order, each once before any comes again; the average by hand."""
    order, losses = torch.randperm(len(pictures)).repeat(2), []
    for n in range(steps):
        x0 = pictures[order[32 * n : 32 * n + 32]]
        t, alpha, sigma, weight = draw(32)
        shape = (-1, 1, 1, 1)
        x_t = alpha.view(shape) * x0 + sigma.view(shape) * torch.randn(x0.shape)
        loss = ((model(x_t, t).x0 - x0) ** 2 * weight.view(shape)).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        d = min(0.99, (1 + n) / (10 + n))
        for a, w in zip(average.parameters(), model.parameters(), strict=True):
            a.data = d * a.data + (1 - d) * w.data
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("seed", range(4))
def test_a_training_loop_may_go_through_the_pictures_in_any_random_order(seed):
    from diffusion_lab.course.checks import lesson03

    for _ in range(3):
        assert lesson03.training_loop.result(in_epochs, seed).ok


# ---- a walk that calls the functions of earlier exercises ----------------------------------------
def my_step(x, x0, alpha_t, sigma_t, alpha_s, sigma_s):
    return sigma_s / sigma_t * x + alpha_s * (1 - alpha_t * sigma_s / (alpha_s * sigma_t)) * x0


def line_ahead(now, before, lam_before, lam_now, lam_next):
    return now + (lam_next - lam_now) / (2 * (lam_now - lam_before)) * (now - before)


def walk_of_pieces(denoise, x, times, level):
    past = None
    for t, s in pairwise(times):
        now, here, there = denoise(x, t), level(t), level(s)
        if there[1] == 0:
            return there[0] * now
        lam, ahead = math.log(here[0] / here[1]), math.log(there[0] / there[1])
        d = now if past is None else line_ahead(now, past[0], past[1], lam, ahead)
        x, past = my_step(x, d, *here, *there), (now, lam)
    return x


def test_a_walk_of_the_earlier_functions_is_right():
    assert lesson07.whole_walk.result(walk_of_pieces).ok


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        (
            "my_step",
            lambda *levels: levels[0],
            "`my_step`, which is not right yet: finish exercise 1",
        ),
        ("my_step", lambda *levels: ..., "`my_step`, which is not filled in yet"),
        ("my_step", lambda x: x, "finish exercise 1"),
        ("line_ahead", lambda now, before, *lams: before, "finish exercise 3"),
        ("line_ahead", lambda now, before, *lams: ..., "`line_ahead`, which is not filled in"),
    ],
)
def test_a_walk_of_a_wrong_earlier_function_is_sent_back_to_it(monkeypatch, name, wrong, words):
    monkeypatch.setitem(globals(), name, wrong)
    found = lesson07.whole_walk.result(walk_of_pieces)
    assert found.status == "not yet" and words in found.message
