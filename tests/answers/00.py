"""Recorded wrong answers of lesson 00: (answer, words that its check must say)."""

import torch


def no_generator(runs, n, seed):
    return [torch.randn(n, 1, 28, 28)] * runs


def seed_plus_run(runs, n, seed):
    return [
        torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed + i))
        for i in range(runs)
    ]


BOOT, NONE = [9] * 10, [10] * 10

WRONG = {
    "guesses": [
        (lambda states: [s.x for s in states if s.pred is not None], "noisy"),
        (lambda states: [s.pred.x0 for s in states], "NoneType"),
        (lambda states: [s.pred.eps for s in states if s.pred], "predicted noise"),
        (lambda states: [s.pred.x0 for s in states if s.pred][-1], "last answer alone"),
        (lambda states: [], "values should come back"),
        (lambda states: [s.pred.x0 if s.pred else torch.zeros(()) for s in states], "leave it out"),
        (lambda states: [s.pred for s in states if s.pred], "Prediction came back"),
    ],
    "calls": [
        (12, "without guidance"),
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
