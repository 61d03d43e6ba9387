"""Checks of lesson 00, start here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course import checks, survey
from diffusion_lab.course.checks import exercise, judge, number
from diffusion_lab.device import generator, randn
from diffusion_lab.walk import Result

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


# ------------------------------------------------------------------------------- a sampler
Guess = Callable[[Tensor, float], Tensor]


def _walks(g: Generator) -> list[tuple[Any, ...]]:
    """A guess that is exact for data N(1, 0.5), a start, and falling noises."""
    start = 20 * torch.randn(3, 1, 2, 2, generator=g, dtype=torch.float64, device="cpu")

    def guess(x: Tensor, noise: float) -> Tensor:
        return 1 + 0.5 / (0.5 + noise**2) * (x - 1)

    return [
        (guess, start, [20.0, 6.0, 2.0, 0.5, 0.1]),
        (guess, start.clone(), [20.0, 3.0, 1.0, 0.0]),
    ]


def our_sampler(guess: Guess, x: Tensor, noises: Sequence[float]) -> Tensor:
    """What the lesson draws with until the exercise is right."""
    for now, then in pairwise(noises):
        clean = guess(x, now)
        x = clean + then / now * (x - clean)
    return x


def _moving(share: Callable[[float, float], float], at: int = 0) -> Callable[..., Tensor]:
    """A sampler that keeps another share of the noise, or asks at the noise it goes to."""

    def walked(guess: Guess, x: Tensor, noises: Sequence[float]) -> Tensor:
        for pair in pairwise(noises):
            clean = guess(x, pair[at])
            x = clean + share(*pair) * (x - clean)
        return x

    return walked


def _asked_once(guess: Guess, x: Tensor, noises: Sequence[float]) -> Tensor:
    clean = guess(x, noises[0])
    for now, then in pairwise(noises):
        x = clean + then / now * (x - clean)
    return x


def _of_the_start(guess: Guess, x: Tensor, noises: Sequence[float]) -> Tensor:
    first = x
    for now, then in pairwise(noises):
        clean = guess(x, now)
        x = clean + then / noises[0] * (first - clean)
    return x


def _unshrunk(guess: Guess, x: Tensor, noises: Sequence[float]) -> Tensor:
    for now, then in pairwise(noises):
        x = then / now * x
    return x


@exercise(
    probes=_walks,
    slips={
        _asked_once: "the network is asked once, before the loop: ask again at every step.",
        _moving(lambda now, then: 0.0): (
            "this steps all the way to the guess: x then carries no noise, and the network is told "
            "that it does. Keep a share of x - guess."
        ),
        _moving(lambda now, then: 1 - then / now): (
            "the two shares are swapped: then/now of the noise stays, the rest goes."
        ),
        _moving(lambda now, then: (then / now) ** 2): (
            "the share is squared: noise is a standard deviation here, and x - guess shrinks as it "
            "does."
        ),
        _moving(lambda now, then: then): (
            "x - guess is multiplied by the new noise; it holds the old one already: then / now."
        ),
        _moving(lambda now, then: then / now, at=1): (
            "the network is asked at the noise to come; x still carries the noise of now."
        ),
        lambda guess, x, noises: our_sampler(guess, x, noises[:-1]): (
            "one step is missing: the last goes to the last of the noises."
        ),
        lambda guess, x, noises: guess(x, noises[0]): (
            "that is the first guess alone; the loop goes on from there."
        ),
        _of_the_start: (
            "the noise of the start is kept; take what x holds now, x - guess, at every step."
        ),
        _unshrunk: "x is only made smaller: where does the network's guess come in?",
        lambda guess, x, noises: our_sampler(guess, x, noises[:2]): (
            "only the first step is taken: does the `return` stand inside the loop?"
        ),
        lambda guess, x, noises: guess(our_sampler(guess, x, noises), noises[-1]): (
            "the walk is right, but the network is asked once more at its end: return x itself."
        ),
        lambda guess, x, noises: x: "x comes back as it was given.",
    },
    hint="x is the guess plus noise of size `now`. What has to happen to the part x - guess, so "
    "that its size becomes `then`?",
    right="this is a sampler: DDIM without added noise, in the units of this network (lesson 05).",
)
def sampler(guess: Guess, x: Tensor, noises: Sequence[float]) -> Tensor:
    """From noises[0] down to noises[-1], a share of the noise at a time."""
    return our_sampler(guess, x, noises)


# ------------------------------------------------------------------------------- counting calls
calls = number(
    24,
    tolerance=0,
    slips={
        12: "that is what it costs without guidance: a guided step asks twice, with the label and "
        "without it.",
        36: "the scale is how far to go, not how often to ask?",
        720: "that is for the whole batch, without guidance; one picture is asked for.",
        1440: "that is for the whole batch; one picture is asked for.",
    },
    unit="calls",
    hint="how many answers does one guided step need?",
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
        lambda run: run.seconds / run.nfe / run.x.numel(): (
            "that is for one pixel: run.x.numel() counts all of them, len(run.x) the pictures."
        ),
        lambda run: run.seconds / run.nfe / 60: (
            "60 is the number of pictures of one figure; how many are there in run.x?"
        ),
        lambda run: run.seconds * run.nfe / len(run.x): (
            "you multiply by the calls; the more calls the batch took, the less is one of them."
        ),
        lambda run: run.seconds * len(run.x) / run.nfe: (
            "you multiply by the pictures; the batch's seconds are shared by them."
        ),
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
    hint="a list of ten equal numbers is [k] * 10; two lists can be added, and torch.tensor takes "
    "the whole.",
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
