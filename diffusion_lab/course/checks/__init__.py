"""Exercise checks that say what is likely wrong, and never raise into a lesson.

One file a lesson holds its checks::

    from diffusion_lab.course.checks import exercise, number

    @exercise(
        probes=lambda g: [(torch.randn(4, 1, 2, 2, generator=g), 0.8, 0.6)],
        slips={lambda x0, a, s: a**2 * x0: "a variance used where the standard deviation belongs?"},
        hint="alpha multiplies the picture.",
        right="this is the mean of equation 1.",
    )
    def forward_mean(x0, alpha, sigma):  # the reference: its name is the name of the check
        return alpha * x0

    half_life = number(0.5, tolerance=0.01, slips={0.25: "abar where its root belongs?"})

and a lesson asks ``check.forward_mean(my_function)``. The answer is shown: ``right: ...``,
``not yet: <what is likely wrong>`` (from the second time on with ``Hint: ...``) or ``not attempted
yet: ...`` for a stub; ``score(check)`` counts them. A function
is compared with the reference by the largest absolute error over all probes; when it is wrong, it
is compared with each recorded slip, so that the slip can be named. ``probes`` draws from a CPU
generator, so ``check.forward_mean.hidden(my_function, seed=7)`` tries other numbers, and raises
``AssertionError`` unless they are right: that is what a grader calls. (The check itself raises only
while ``nbgrader validate`` runs the notebook.)
"""

from __future__ import annotations

import html
import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from types import ModuleType
from typing import Any

from diffusion_lab.course.checks.comparing import difference, numeric
from diffusion_lab.course.checks.reading import complete, edited
from diffusion_lab.course.showing import both

__all__ = [
    "EMPTY",
    "NO_RETURN",
    "Result",
    "Task",
    "Untouched",
    "choice",
    "exercise",
    "hidden",
    "judge",
    "number",
    "score",
    "tasks",
]

RIGHT, WRONG, OPEN = "right", "not yet", "not attempted yet"
SIGNS = {RIGHT: ("✓", "#00875F"), WRONG: ("✗", "#C25400"), OPEN: ("○", "#767676")}
Probes = Callable[[Any], Sequence[tuple[Any, ...]]]


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found. ``status`` is ``right``, ``not yet`` or ``not attempted yet``."""

    status: str
    message: str
    hint: str = ""

    @property
    def ok(self) -> bool:
        """Whether the answer was right."""
        return self.status == RIGHT

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"

    def __repr__(self) -> str:
        return ""

    def _ipython_display_(self) -> None:
        """Show nothing: the check has shown its answer already."""

    def show(self, *, hint: bool) -> None:
        """A box with a sign and a colour, or a line where there are none; with or without hint."""
        message = self.message if hint else self.message.removesuffix(f" Hint: {self.hint}")
        sign, colour = SIGNS[self.status]
        style = f"border-left: 0.4em solid {colour}; padding: 0.2em 0.8em"
        said = re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(message))
        head = f"<b>{sign} {self.status}:</b>"
        both(f'<div style="{style}">{head} {said}</div>', f"{self.status}: {message}")


class Task:
    """One check: call it with an answer, and it prints and returns a ``Result``.

    ``judged(answer, seed)`` returns ``None`` when the answer is right and the reason otherwise;
    it may raise ``Untouched`` for a stub.
    """

    def __init__(
        self,
        judged: Callable[[Any, int], str | None],
        *,
        right: str = "well done.",
        hint: str = "",
        slips: Mapping[Any, str] | None = None,
        audit: Callable[[int], list[str]] = lambda seed: [],
    ) -> None:
        self.judged, self.right, self.hint = judged, right, hint
        self.slips: Mapping[Any, str] = slips or {}
        self.audit = audit
        self.last = OPEN  # what was found last, and how often it was "not yet"
        self.refused = 0

    def result(self, answer: Any, seed: int = 0) -> Result:
        """The ``Result`` for an answer, without printing it."""
        if answer is None or answer is ...:
            return Result(OPEN, "replace the `...` above with your answer, then run this again.")
        try:
            reason = self.judged(answer, seed)
        except Untouched as stub:
            return Result(OPEN, str(stub))
        except Exception as error:  # whatever a learner's object does when it is looked at
            reason = f"checking it raised {type(error).__name__}: {str(error).rstrip('.')}."
        if reason is None:
            return Result(RIGHT, self.right)
        return Result(WRONG, f"{reason} Hint: {self.hint}" if self.hint else reason, self.hint)

    def __call__(self, answer: Any) -> Result:
        found = self.result(answer)
        self.last, self.refused = found.status, self.refused + (found.status == WRONG)
        found.show(hint=self.refused > 1)
        if "NBGRADER_VALIDATING" in os.environ and not found.ok:
            raise AssertionError(str(found))  # nbgrader counts a cell that raises nothing as right
        return found

    def hidden(self, answer: Any, seed: int = 1) -> None:
        """Try the answer on other numbers; raises ``AssertionError`` unless it is right."""
        found = self.result(answer, seed)
        if not found.ok:
            raise AssertionError(str(found))


class Untouched(Exception):
    """The answer is still the stub; the message says which kind."""


EMPTY = "your function still returns nothing; fill in its `...`."
_BUG = "this is still the function as you found it; find the line and change it."
_SAME_BUG = "it still does what the function that you found does; find the line and change it."
NO_RETURN = "your function returns nothing: is a `return` missing?"


# ------------------------------------------------------------------------------------- functions
def exercise(
    *,
    probes: Probes,
    slips: Mapping[Callable[..., Any], str] | None = None,
    hint: str = "",
    right: str = "well done.",
    tolerance: float = 1e-5,
    bug: Callable[..., Any] | None = None,
    view: Callable[[Any], Any] = lambda value: value,
) -> Callable[[Callable[..., Any]], Task]:
    """Make the decorated function the reference of a check.

    Args:
        probes: ``probes(generator)`` gives a list of argument tuples; it is called anew for each
            run, so an answer that changes its input in place is found and spoils nothing.
        slips: wrong function to the sentence that names its mistake (end it with ``.`` or ``?``).
        hint: one sentence, added after the reason.
        right: what is said when the answer is right.
        tolerance: largest absolute error, relative to the largest reference value above 1.
        bug: for "find the bug": what the learner finds, or a function that does the same. It is
            behaviour that is compared; doing the same counts as not attempted, unless the text
            of the function can be read and has been changed.
        view: turns what the functions return into numbers, tensors, or tuples of them.
    """
    slips = dict(slips or {})

    def decorate(reference: Callable[..., Any]) -> Task:
        def run(function: Callable[..., Any], seed: int) -> list[Any]:
            return [view(function(*probe)) for probe in probes(_generator(seed))]

        def same(left: list[Any], right: list[Any]) -> bool:
            return all(
                difference(a, b, tolerance) is None for a, b in zip(left, right, strict=True)
            )

        def judged(answer: Any, seed: int) -> str | None:
            if not callable(answer):
                return f"a function is expected here, but a {type(answer).__name__} was given."
            given, wanted = [], run(reference, seed)
            before, probed = probes(_generator(seed)), probes(_generator(seed))
            for probe in probed:
                try:
                    value = answer(*probe)
                    if value is None and complete(answer):
                        return NO_RETURN
                    if value is None or value is ...:
                        raise Untouched(EMPTY)
                    given.append(view(value))
                except Untouched:
                    raise
                except Exception as error:
                    if "ellipsis" in str(error).lower():
                        raise Untouched(EMPTY) from None
                    return _raised(error, answer, probe)
            if bug is not None and same(run(bug, seed), given):
                if edited(answer, reference.__module__):
                    return _SAME_BUG
                raise Untouched(_BUG)
            if not same(wanted, given):
                for slip, sentence in slips.items():
                    if same(run(slip, seed), given):
                        return sentence
                return next(filter(None, map(difference, wanted, given, [tolerance] * len(given))))
            for was, now in zip(before, probed, strict=True):
                if any(difference(a, b, 0.0) for a, b in zip(was, now, strict=True) if numeric(a)):
                    return "the result is right, but the function changes its input in place."
            return None

        def audit(seed: int) -> list[str]:
            wanted, found = run(reference, seed), []
            cases = [*slips.items(), *([(bug, "bug")] if bug else [])]
            outputs = [run(slip, seed) for slip, _ in cases]
            for i, (_, sentence) in enumerate(cases):
                if same(wanted, outputs[i]):
                    found.append(f"no probe tells this slip from the reference: {sentence}")
                for j in range(i):
                    if same(outputs[j], outputs[i]):
                        found.append(f"two slips give the same: {cases[j][1]} / {sentence}")
            return found

        return Task(judged, right=right, hint=hint, slips=slips, audit=audit)

    return decorate


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(1234 + seed)


def _raised(error: Exception, answer: Any, probe: tuple[Any, ...]) -> str:
    text = f"it raised {type(error).__name__}: {str(error).rstrip('.')}."
    if isinstance(error, TypeError):
        try:
            inspect.signature(answer).bind(*probe)
        except TypeError:
            return f"{text} It is called with {len(probe)} arguments."
        except ValueError:
            pass
    return text


# ------------------------------------------------------------------------------------- values
def number(
    answer: float | Callable[[], float],
    *,
    tolerance: float = 1e-6,
    slips: Mapping[float, str] | None = None,
    hint: str = "",
    right: str = "well done.",
    unit: str = "",
) -> Task:
    """A check of one number: the answer within ``tolerance`` (absolute), or known wrong values.

    ``answer`` may be a function, which is called when the check runs.
    """
    slips = dict(slips or {})

    def value() -> float:
        return float(answer() if callable(answer) else answer)

    def judged(given: Any, seed: int) -> str | None:
        try:
            got, wanted = float("?" if isinstance(given, str) else given), value()
        except (TypeError, ValueError, RuntimeError):
            return f"one number is expected, but a {type(given).__name__} was given."
        if abs(got - wanted) <= tolerance:
            return None
        for slip, sentence in slips.items():
            if abs(got - slip) <= tolerance:
                return sentence
        if not math.isfinite(got):
            return f"{got} is not a finite number."
        if wanted and abs(got + wanted) <= tolerance:
            return "the size is right, but the sign is the other way round."
        words = f"{got:g} {unit}".strip()
        return f"{words} is too {'large' if got > wanted else 'small'}."

    def audit(seed: int) -> list[str]:
        close = [s for v, s in slips.items() if abs(v - value()) <= 2 * tolerance]
        return [f"this slip is as good as the answer: {sentence}" for sentence in close]

    return Task(judged, right=right, hint=hint, slips=slips, audit=audit)


def choice(
    answer: str | set[str], options: Mapping[str, str], *, hint: str = "", right: str = "well done."
) -> Task:
    """A check of a choice such as ``"b"``, or of a set of choices such as ``{"a", "c"}``.

    ``options`` maps each option to the sentence said when it was chosen wrongly (or, for a right
    one, left out).
    """
    wanted = {answer} if isinstance(answer, str) else set(answer)
    if not wanted <= set(options):
        raise ValueError(f"the answer {sorted(wanted)} is not among the options {sorted(options)}")

    example = _set_of_two(options, wanted) if len(wanted) > 1 else ""

    def judged(given: Any, seed: int) -> str | None:
        words = [given] if isinstance(given, str) else given
        if not (isinstance(words, Iterable) and all(isinstance(word, str) for word in words)):
            what = example or f"one of {', '.join(map(repr, options))}"
            return f"{what} is expected, in quotes; got {given!r:.60}."
        chosen = {str(word).strip().lower() for word in words}
        for word in sorted(chosen - set(options)):
            form = f" {example[0].upper()}{example[1:]} is expected." if example else ""
            form = form if isinstance(given, str) else ""
            return f"{word!r} is not one of the options {', '.join(options)}.{form}"
        for word in options:  # what was chosen wrongly first: that is what a learner wonders about
            if word in chosen - wanted:
                return options[word]
        return next((options[word] for word in options if word in wanted - chosen), None)

    return Task(judged, right=right, hint=hint)


def _set_of_two(options: Mapping[str, str], wanted: set[str]) -> str:
    """How a set is written, in two of the options, and not those that are the answer."""
    pair = next((p for p in combinations(options, 2) if set(p) != wanted), ("a", "b"))
    return f'a set such as {{"{pair[0]}", "{pair[1]}"}}'


def judge(*, hint: str = "", right: str = "well done.") -> Callable[[Callable[[Any], Any]], Task]:
    """Make the decorated function the check itself: it returns ``None`` or what is wrong.

    For "extend" and "measure" exercises, where many answers are right. It may take a second
    argument, the seed of a hidden variant.
    """

    def decorate(function: Callable[..., str | None]) -> Task:
        seeded = len(inspect.signature(function).parameters) > 1

        def judged(answer: Any, seed: int) -> str | None:
            return function(answer, seed) if seeded else function(answer)

        return Task(judged, right=right, hint=hint)

    return decorate


# ------------------------------------------------------------------------------------- finding
def tasks(lesson: ModuleType | str) -> dict[str, Task]:
    """The checks of a lesson's module (or of its name, ``"lesson01"``), by name."""
    if isinstance(lesson, str):
        lesson = import_module(f"diffusion_lab.course.checks.{lesson}")
    return {name: task for name, task in vars(lesson).items() if isinstance(task, Task)}


def score(lesson: ModuleType | str) -> None:
    """Show how many checks of a lesson are right, as they were last run here."""
    found = [task.last for task in tasks(lesson).values()]
    count = {status: found.count(status) for status in SIGNS}
    rest = [f"{count[status]} {status}" for status in (WRONG, OPEN) if count[status]]
    text = ", ".join([f"{count[RIGHT]} of {len(found)} right", *rest])
    signs = " ".join(SIGNS[status][0] for status in found)
    both(f"<p><b>{text}</b> &ensp; {signs}</p>", text)


def hidden(task: str, answer: Any, seed: int) -> None:
    """``hidden("lesson01.forward_mean", my_function, 7)``: raises unless the answer is right."""
    from diffusion_lab.errors import unknown

    lesson, _, name = task.partition(".")
    known = tasks(lesson)
    if name not in known:
        raise unknown(f"check of {lesson}", name, known)
    known[name].hidden(answer, seed)
