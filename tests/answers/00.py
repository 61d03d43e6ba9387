"""Recorded wrong answers of lesson 00: (answer, words that its check must say)."""

from itertools import pairwise

import torch


def no_generator(runs, n, seed):
    return [torch.randn(n, 1, 28, 28)] * runs


def seed_plus_run(runs, n, seed):
    return [
        torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed + i))
        for i in range(runs)
    ]


def walked(guess, x, noises, share, at=0):
    for pair in pairwise(noises):
        clean = guess(x, pair[at])
        x = clean + share(*pair) * (x - clean)
    return x


def asked_once(guess, x, noises):
    clean = guess(x, noises[0])
    return walked(lambda x, noise: clean, x, noises, lambda now, then: then / now)


def one_step(guess, x, noises):
    return walked(guess, x, noises[:2], lambda now, then: then / now)


def in_place(guess, x, noises):
    for now, then in pairwise(noises):
        clean = guess(x, now)
        x -= clean
        x *= then / now
        x += clean
    return x


def asked_again(guess, x, noises):
    return guess(walked(guess, x, noises, lambda now, then: then / now), noises[-1])


def all_the_way(guess, x, noises):
    for noise in noises[:-1]:
        x = guess(x, noise)
    return x


BOOT, NONE = [9] * 10, [10] * 10

WRONG = {
    "sampler": [
        (asked_once, "once, before the loop"),
        (all_the_way, "all the way to the guess"),
        (lambda guess, x, noises: guess(x, noises[0]), "first guess alone"),
        (lambda guess, x, noises: x, "as it was given"),
        (one_step, "inside the loop"),
        (in_place, "in place"),
        (asked_again, "once more"),
        (lambda guess, x, noises: walked(guess, x, noises, lambda a, b: 1 - b / a), "swapped"),
        (lambda guess, x, noises: walked(guess, x, noises, lambda a, b: b), "then / now"),
        (lambda guess, x, noises: walked(guess, x, noises, lambda a, b: b / a, 1), "to come"),
        (lambda guess, x, noises: walked(guess, x, noises[:-1], lambda a, b: b / a), "missing"),
        (lambda guess, x, noises: walked(guess, x, noises, lambda a, b: a / b), "raised Zero"),
        (lambda guess, x: x, "called with 3 arguments"),
    ],
    "calls": [
        (12, "asks twice"),
        (36, "how far"),
        (1440, "batch"),
        (25, "too large"),
        (24.4, "too large"),
    ],
    "starts": [
        (seed_plus_run, "own seed"),
        (no_generator, "largest error"),
        (lambda runs, n, seed: torch.zeros(n, 1, 28, 28), "but 1 did"),
    ],
    "seconds_per_call": [
        (lambda run: run.seconds / run.nfe, "whole batch"),
        (lambda run: run.seconds / len(run.x), "all its calls"),
        (lambda run: 1 / (run.seconds / run.nfe / len(run.x)), "reciprocal"),
        (lambda run: run.nfe * len(run.x), "picture-calls"),
        (lambda run: run.seconds / run.nfe / run.x.numel(), "one pixel"),
        (lambda run: run.seconds / run.nfe / 60, "in run.x"),
    ],
    "choices": [
        (["data", "process", "sampler", "sampler", "steering"], "as a consequence"),
        (["data", "process", "objective", "objective", "steering"], "idea 3"),
        (["denoiser", "process", "sampler", "objective", "steering"], "idea 1"),
        (["data", "process", "sampler", "denoiser", "steering"], "what it is trained to match"),
        (["data", "noise", "sampler", "objective", "steering"], "none of"),
        (["data", "process"], "list of 5"),
        ("data process sampler objective steering", "list of 5"),
        (3, "not a thing of type int"),
        (["data", ..., "sampler", ..., "steering"], "still `...`: ideas 2, 4"),
    ],
    "labels": [
        ([7] * 10 + NONE, "torch.tensor"),
        (torch.tensor([7] * 10), "shape"),
        (torch.tensor([7.0] * 10 + NONE), "whole numbers"),
        (torch.tensor(NONE + NONE), "numbers from 0 to 9"),
        (torch.tensor([*range(10), *NONE]), "same kind"),
        (torch.tensor(BOOT + BOOT), "one past the last"),
        (torch.tensor(BOOT + [0] * 10), "no kind"),
    ],
}
