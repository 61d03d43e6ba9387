"""The check framework: right, wrong with the slip named, untouched, and never an exception."""

from __future__ import annotations

import linecache
import shutil
import sys
from types import ModuleType

import pytest
import torch

from diffusion_lab.course import checks
from diffusion_lab.course.checks import choice, exercise, judge, number

SLIP = "a variance is used where the standard deviation belongs?"


def probes(g: torch.Generator) -> list[tuple]:
    return [(torch.randn(4, 1, 2, 2, generator=g), 0.8), (torch.randn(3, generator=g), 0.6)]


@exercise(
    probes=probes,
    slips={lambda x, a: a**2 * x: SLIP},
    hint="look at the root.",
    right="that is the mean.",
    bug=lambda x, a: x / a,
)
def mean(x: torch.Tensor, alpha: float) -> torch.Tensor:
    return alpha * x


def test_right(capsys):
    found = mean(lambda x, a: x * a)
    assert found.ok and found.status == "right"
    assert capsys.readouterr().out == "right: that is the mean.\n"
    assert repr(found) == ""


def test_slip_is_named_with_its_hint(capsys):
    assert mean(lambda x, a: x * a**2).status == "not yet"
    assert mean(lambda x, a: x * a**2).message == f"{SLIP} Hint: look at the root."
    assert capsys.readouterr().out.endswith(f"not yet: {SLIP} Hint: look at the root.\n")


def test_the_hint_comes_with_the_second_refusal(capsys):
    @judge(hint="think.")
    def positive(value):
        return None if value > 0 else "it is not positive."

    for answer in (-1, ..., -2, 1):
        positive(answer)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "not yet: it is not positive."
    assert said[1].startswith("not attempted yet: ")
    assert said[2] == "not yet: it is not positive. Hint: think."
    assert said[3] == "right: well done."


def test_the_three_answers_look_different_and_are_escaped(shown, monkeypatch):
    from diffusion_lab.course import showing

    @judge(hint="set `a`.")
    def small(value):
        return None if value < 1 else "a < 1 is wanted, not `a`."

    monkeypatch.setattr(showing, "in_notebook", lambda: True)
    for answer in (0, 2, ...):
        small(answer)
    marks = [bundle["text/html"] for bundle, _ in shown]
    for sign, mark in zip(("✓ right:", "✗ not yet:", "○ not attempted"), marks, strict=True):
        assert sign in mark
    assert len({mark.split("solid ")[1].split(";")[0] for mark in marks}) == 3
    assert "a &lt; 1 is wanted, not <code>a</code>." in marks[1]
    assert shown[1][0]["text/plain"] == "not yet: a < 1 is wanted, not `a`."


def test_the_score_counts_what_was_run_last(capsys):
    from types import SimpleNamespace

    from diffusion_lab.course.checks import score

    lesson = SimpleNamespace(a=number(1.0), b=number(2.0), c=number(3.0), other=4)
    lesson.a(0.0), lesson.a(1.0), lesson.b(1.0)
    capsys.readouterr()
    score(lesson)
    assert capsys.readouterr().out == "1 of 3 right, 1 not yet, 1 not attempted yet\n"


@pytest.mark.parametrize("stub", [None, ..., lambda x, a: None, lambda x, a: ...])
def test_stub_is_not_attempted(stub):
    assert mean(stub).status == "not attempted yet"


def test_half_filled_stub_is_not_attempted():
    def half(x, a):
        scale = ...
        return scale * x

    assert mean(half).status == "not attempted yet"


def test_untouched_bug_is_not_attempted():
    found = mean(lambda x, a: x / a)
    assert found.status == "not attempted yet" and "as you found it" in found.message


AS_FOUND = """
def repaired_jump(x0, betas, i, eps):
    \"""x_i from x_0, for i = 1..T.\"""
    abar = (1 - betas[: i - 1]).prod()  # a comment is no change
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps
"""


def defined(text: str, name: str):
    """A function whose text ``inspect`` can read, as it reads that of a notebook's cell."""
    file, space = f"<cell {len(linecache.cache)}>", {}
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), space)
    return space[name]


@pytest.fixture(params=["repository", "installed"])
def lesson01(request, monkeypatch, tmp_path):
    """Lesson 01's checks, beside its source or beside its packaged notebook alone."""
    from diffusion_lab.course import lessons
    from diffusion_lab.course.checks import lesson01

    if request.param == "installed":
        shutil.copy(lessons.find(1), tmp_path)
        monkeypatch.setattr(lessons, "folder", lambda: tmp_path)
    return lesson01


def test_a_changed_function_that_does_the_same_was_attempted(lesson01):
    """The bug is known by what it does; only its text tells whether somebody was there."""
    check = lesson01.repaired_jump.result
    untouched = check(defined(AS_FOUND, "repaired_jump"))
    assert untouched.status == "not attempted yet" and "as you found it" in untouched.message
    edited = AS_FOUND.replace("abar = (1 - betas[: i - 1]).prod()", "abar = (1-betas)[:i-1].prod()")
    found = check(defined(edited, "repaired_jump"))
    assert found.status == "not yet" and found.message.startswith("it still does what")
    other = AS_FOUND.replace("repaired_jump", "another")  # of no known text: nothing to compare
    assert check(defined(other, "another")).status == "not attempted yet"
    repaired = AS_FOUND.replace("i - 1", "i")
    assert check(defined(repaired, "repaired_jump")).ok


def test_a_missing_return_is_named():
    def shown(x, a):
        print(a * x)

    found = mean.result(shown)
    assert found.status == "not yet" and "is a `return` missing?" in found.message

    def untouched(x, a): ...  # your turn

    assert mean.result(untouched).status == "not attempted yet"


def _raises(x, a):
    raise RuntimeError("no idea")


def _in_place(x, a):
    return x.mul_(a)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_raises, "raised RuntimeError: no idea."),
        (lambda x: x, "called with 2 arguments"),
        (lambda x, a: -a * x, "sign"),
        (lambda x, a: 3 * a * x, "3 times"),
        (lambda x, a: a * x + 1, "+1 away"),
        (lambda x, a: a * x + x**2, "largest error"),
        (lambda x, a: (a * x)[None], "shape"),
        (lambda x, a: a * x * float("nan"), "not finite"),
        (lambda x, a: "text", "str"),
        (lambda x, a: (a * x, a), "1 value should come back"),
        (lambda x, a: object(), "object"),
        (_in_place, "in place"),
        (3.0, "a function is expected"),
    ],
)
def test_wrong_is_refused_with_a_reason(wrong, words):
    found = mean.result(wrong)
    assert found.status == "not yet" and words in found.message


def test_a_pair_may_be_floats_or_tensors_of_no_dimension():
    @exercise(probes=lambda g: [(0.5,)])
    def pair(x):
        return x, 2 * x

    assert pair.result(lambda x: (torch.tensor(x), 2 * x)).ok
    assert pair.result(lambda x: (torch.tensor(x), torch.tensor(2 * x))).ok
    assert not pair.result(lambda x: (torch.tensor(x), torch.tensor(3 * x))).ok


def test_cancelling_errors_do_not_pass():
    """Errors that sum to zero are still errors: the largest one counts."""

    def cancelling(x, a):
        error = torch.zeros_like(x)
        error.view(-1)[0], error.view(-1)[1] = 0.1, -0.1
        return a * x + error

    assert not mean.result(cancelling).ok


def test_a_nan_reference_needs_the_same_nan():
    @exercise(probes=lambda g: [(torch.tensor([1.0, 0.0]),)])
    def log(x):
        return (x - 1 + x).log() * 0 + torch.tensor([0.0, float("nan")])

    assert log.result(lambda x: torch.tensor([0.0, float("nan")])).ok
    assert not log.result(lambda x: torch.tensor([float("nan"), 0.0])).ok


def test_hidden_variant_catches_a_recorded_answer():
    seen = [p[1] * p[0] for p in probes(checks._generator(0))]
    recorded = iter(seen)
    assert mean.result(lambda x, a: next(recorded)).ok
    recorded = iter(seen)
    with pytest.raises(AssertionError, match="not yet"):
        mean.hidden(lambda x, a: next(recorded), seed=7)
    mean.hidden(lambda x, a: a * x, seed=7)


def test_each_run_gets_its_own_generator():
    @exercise(probes=lambda g: [(5, g)])
    def noise(count, generator):
        return torch.randn(count, generator=generator)

    assert noise.result(lambda n, g: torch.randn(n, generator=g)).ok
    assert not noise.result(lambda n, g: torch.randn(n)).ok


def test_view_reads_what_comes_back():
    @exercise(probes=probes, view=lambda d: d["x0"])
    def named(x, a):
        return {"x0": x}

    assert named.result(lambda x, a: {"x0": x, "more": 1}).ok
    assert "raised KeyError" in named.result(lambda x, a: {"x1": x}).message


def test_audit_finds_a_slip_no_probe_can_tell():
    @exercise(probes=lambda g: [(1.0,)], slips={lambda a: a**2: "square", lambda a: 2 * a: "twice"})
    def same(a):
        return a

    assert same.audit(0) == ["no probe tells this slip from the reference: square"]
    assert mean.audit(0) == []
    assert number(1.0, slips={1.0: "one"}).audit(0)


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        (0.5, "right", ""),
        (torch.tensor(0.5), "right", ""),
        (..., "not attempted yet", ""),
        (0.25, "not yet", "abar"),
        (0.9, "not yet", "0.9 steps is too large"),
        (0.1, "not yet", "too small"),
        (-0.5, "not yet", "sign"),
        (float("nan"), "not yet", "not a finite"),
        ("half", "not yet", "one number is expected"),
        (lambda: 0.5, "not yet", "one number is expected"),
        ([1, 2], "not yet", "one number is expected, but a list"),
    ],
)
def test_number(given, status, words):
    task = number(0.5, tolerance=0.01, slips={0.25: "abar where its root belongs?"}, unit="steps")
    found = task.result(given)
    assert found.status == status and words in found.message


def test_number_may_be_computed_late():
    assert number(lambda: 2.0).result(2).ok


def test_choice():
    options = {"a": "not a: it shrinks.", "b": "b was left out.", "c": "not c."}
    one, two = choice("b", options), choice({"a", "b"}, options)
    assert one.result("B ").ok and two.result(["b", "a"]).ok
    assert one.result("a").message == "not a: it shrinks."
    assert two.result({"a"}).message == "b was left out."
    assert "not one of the options" in one.result("d").message
    assert one.result(...).status == "not attempted yet"
    for given in (3, print, [1]):
        assert "one of 'a', 'b', 'c' is expected, in quotes" in one.result(given).message
    for given in ("ab", "a, b", 3):  # a set is expected, and is shown: not the answer itself
        assert 'set such as {"a", "c"} is expected' in two.result(given).message
    assert "such as" not in two.result({"d"}).message + one.result("ab").message
    with pytest.raises(ValueError, match="not among the options"):
        choice("z", options)


def test_judge():
    @judge(hint="think.")
    def positive(value):
        return None if value > 0 else "it is not positive."

    @judge()
    def seeded(value, seed):
        return None if value == seed else "wrong seed."

    assert positive.result(1).ok
    assert positive.result(-1).message == "it is not positive. Hint: think."
    assert "raised TypeError" in positive.result("x").message
    assert seeded.result(0).ok
    seeded.hidden(7, seed=7)


def test_hidden_by_name(monkeypatch):
    module = ModuleType("diffusion_lab.course.checks.lesson99")
    module.mean = mean
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert list(checks.tasks("lesson99")) == ["mean"]
    checks.hidden("lesson99.mean", lambda x, a: a * x, 3)
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        checks.hidden("lesson99.meen", None, 3)
