"""Checks of lesson 00, start here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course import checks, survey
from diffusion_lab.course.checks import exercise, judge, number
from diffusion_lab.device import generator, randn
from diffusion_lab.exact import Gaussian
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim
from diffusion_lab.schedules import make
from diffusion_lab.walk import Result, State, walk

CLASSES = 10  # of Fashion-MNIST; this number itself stands for 'no kind'
IDEAS = (
    ("LDM", "compress first"),
    ("Cold Diffusion", "blur in place of noise"),
    ("DDIM", "10 times in place of 1000"),
    ("ProgressiveDistillation", "a student of two steps in one"),
    ("DDRM", "a known part must come out right"),
)
"""The paper behind each idea of exercise 5, and the idea in a few words."""

SAID = {
    ("ProgressiveDistillation", "denoiser"): (
        "idea 4: the student is the same kind of network and predicts the same thing; new is what "
        "it is trained to match."
    ),
    ("ProgressiveDistillation", "sampler"): (
        "idea 4: the student does take fewer steps, but as a consequence: what had to be made anew "
        "is the training target."
    ),
}
"""What is said to a word that is nearly right: the idea's paper and the word."""


# ------------------------------------------------------------------------------- states of a walk
def _walks(g: Generator) -> list[tuple[Any, ...]]:
    schedule = make("edm", sigma_max=20.0)
    denoiser = Gaussian([0.5, -1.0], [[1.0, 0.3], [0.3, 0.5]]).denoiser(schedule)
    start = 20 * torch.randn(3, 2, generator=g, dtype=torch.float64, device="cpu")
    return [
        (list(walk(ddim(), denoiser, start, times)),)
        for steps in (2, 5)
        for times in [grid(schedule, steps, "karras", lam_range=(-3.0, 4.0))]
    ]


def _listed(given: Any) -> Any:
    """A tuple, a stack of tensors or a generator will do where a list is asked for."""
    stacked = isinstance(given, Tensor) and given.ndim > 2  # of states (3, 2) each
    return list(given) if stacked or isinstance(given, Iterator | tuple) else given


@exercise(
    probes=_walks,
    view=_listed,
    slips={
        lambda states: [state.x for state in states if state.pred is not None]: (
            "these are the noisy pictures that the sampler holds; the guess is in pred."
        ),
        lambda states: [state.x for state in states]: (
            "these are the pictures that the sampler holds, the start included; the guess is in "
            "pred."
        ),
        lambda states: [state.pred.eps for state in states if state.pred is not None]: (
            "this is the predicted noise; the clean picture is x0."
        ),
        lambda states: [state.pred.x_t for state in states if state.pred is not None]: (
            "this is what the network was shown; its answer is x0."
        ),
        lambda states: [state.pred.x0 for state in states if state.pred is not None][:-1]: (
            "the answer of the last step is missing: only the first state has none."
        ),
        lambda states: [state.pred.x0 for state in states if state.pred is not None][-1:]: (
            "this is the last answer alone; all of them are asked for, in order."
        ),
        lambda states: [state.pred.x0 if state.pred else torch.zeros(()) for state in states]: (
            "something stands in the list for the first state too; it has no answer, so leave it "
            "out."
        ),
    },
    hint="each state after the first has pred, and pred.x0 is the clean picture it expects.",
    right="one guess for each step, from the average of everything to the finished picture.",
)
def guesses(states: Iterable[State]) -> list[Tensor]:
    """The predicted clean pictures of a walk, in order."""
    return [state.pred.x0 for state in states if state.pred is not None]


# ------------------------------------------------------------------------------- counting calls
calls = number(
    24,
    tolerance=0,
    slips={
        12: "that is without guidance: a guided step asks with the label and without it?",
        36: "the scale is how far to go, not how often to ask?",
        720: "that is for the whole batch, without guidance; one picture is asked for.",
        1440: "that is for the whole batch; one picture is asked for.",
    },
    unit="calls",
    hint="each step asks the network twice, once with the label and once without.",
    right="12 steps, two answers for each, at any scale but 1 and in a batch of any size.",
)


# ------------------------------------------------------------------------------- equal starts
def _start(runs: int, n: int, seeds: list[int]) -> list[Tensor]:
    return [randn((n, 1, 28, 28), generator(seed)) for seed in seeds[:runs]]


def _used_up(runs: int, n: int, seed: int) -> list[Tensor]:
    gen = generator(seed)
    return [randn((n, 1, 28, 28), gen) for _ in range(runs)]


@exercise(
    probes=lambda g: [
        (3, 2, int(torch.randint(1, 1000, (1,), generator=g, device="cpu"))),
        (2, 4, 7),
    ],
    bug=_used_up,
    slips={
        lambda runs, n, seed: _start(runs, n, [seed + i for i in range(runs)]): (
            "every run has its own seed now, so they still start from different noise."
        ),
        lambda runs, n, seed: _start(runs, n, list(range(runs))): (
            "the seed that is given is not used, and the runs differ."
        ),
        lambda runs, n, seed: _start(runs, n, [0] * runs): (
            "the runs agree, but the seed that is given is not used."
        ),
        lambda runs, n, seed: _start(1, n, [seed]): (
            "this is one noise; it is asked for once for each run."
        ),
    },
    hint="make the generator anew for each run, from the same seed.",
    right="a fresh generator of the same seed for each run. Now settings can be compared.",
)
def starts(runs: int, n: int, seed: int) -> list[Tensor]:
    """The same noise (n, 1, 28, 28) for each run."""
    return _start(runs, n, [seed] * runs)


# ------------------------------------------------------------------------------- seconds
def _results(g: Generator) -> list[tuple[Any, ...]]:
    cases = [(60, 16, 1.92), (7, 1000, 35.0), (1, 8, 0.25)]
    return [
        (
            Result(
                torch.zeros(n, 1, 2, 2),
                nfe,
                3 * s * float(torch.rand((), generator=g, dtype=torch.float32, device="cpu")),
                [],
            ),
        )
        for n, nfe, s in cases
    ]


@exercise(
    probes=_results,
    slips={
        lambda run: run.seconds / run.nfe: "that is one call for the whole batch: len(run.x)?",
        lambda run: run.seconds / len(run.x): "that is one picture with all its calls: run.nfe?",
        lambda run: run.seconds: "these are the seconds of the whole batch.",
        lambda run: run.nfe * len(run.x) / run.seconds: (
            "that is the reciprocal, calls for each second."
        ),
        lambda run: run.nfe * len(run.x): (
            "this is how many picture-calls the batch took; how many seconds did one of them take?"
        ),
        lambda run: run.seconds * run.nfe / len(run.x): "the calls multiply where they divide?",
        lambda run: run.seconds * len(run.x) / run.nfe: "the pictures multiply where they divide?",
    },
    tolerance=1e-9,
    hint="the batch took nfe times len(x) picture-calls in all.",
    right="times 1000: what a picture would cost with 1000 calls of *this* network.",
)
def seconds_per_call(run: Result) -> float:
    """Seconds of one network call for one picture."""
    return run.seconds / (run.nfe * len(run.x))


# ------------------------------------------------------------------------------- six choices
@judge(
    hint="the papers are on the map; the column of a system is the choice it mainly changes.",
    right="the map agrees: each has one *main* change.",
)
def choices(given: Any) -> str | None:
    """Five words; the truth is read from the map."""
    if not isinstance(given, list | tuple) or len(given) != len(IDEAS):
        many = isinstance(given, list | tuple)
        what = f"one of {len(given)}" if many else f"a thing of type {type(given).__name__}"
        return f"a list of {len(IDEAS)} words is expected, not {what}."
    left = [str(place) for place, word in enumerate(given, start=1) if word in (..., None)]
    if len(left) == len(IDEAS):
        raise checks.Untouched("replace the `...` with five words.")
    if left:
        return f"still `...`: idea{'s' * (len(left) > 1)} {', '.join(left)}."
    for place, (word, (name, idea)) in enumerate(zip(given, IDEAS, strict=True), start=1):
        said = str(word).strip().lower()
        if said not in survey.CHOICES:
            return f"{word!r} (idea {place}) is none of {', '.join(survey.CHOICES)}."
        if (name, said) in SAID:
            return SAID[name, said]
        if said != survey.family(survey.find(name).family).choice:
            return (
                f"idea {place} ({idea}): the {said} is not its main change. What must be made anew "
                "before anything else can follow?"
            )
    return None


# ------------------------------------------------------------------------------- wishes
@judge(
    hint="torch.tensor([k] * 10 + [10] * 10), with the position k of a kind from 0 to 9.",
    right="ten wishes, and ten times 'as you like'.",
)
def labels(given: Any) -> str | None:
    """Twenty labels: ten of one kind, ten of none."""
    if not isinstance(given, Tensor):
        return f"a tensor is expected, but a {type(given).__name__} was given: torch.tensor(...)?"
    if given.shape != (2 * CLASSES,):
        return f"the shape is {tuple(given.shape)} where (20,) was expected."
    if given.dtype != torch.int64:
        return f"labels are whole numbers, torch.int64; these are {given.dtype}."
    first, rest = given[:10], given[10:]
    if not bool(((first >= 0) & (first < CLASSES)).all()):
        return "the first ten must be kinds, numbers from 0 to 9."
    if not bool((first == first[0]).all()):
        return "the first ten must be of one and the same kind."
    if bool((rest == CLASSES - 1).all()):
        return "9 is the ankle boot; 'no kind' is one past the last."
    if not bool((rest == CLASSES).all()):
        return "the last ten must be 'no kind', the number model.num_classes."
    return None
