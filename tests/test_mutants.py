"""The list of slips fits the package and its tests, and the tool that runs it can say no.

That each slip is killed is looked at by ``make mutants``, whose report is tests/mutants.md.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import mutation
import pytest
from mutation import Finding, Mutant, judge, read

MUTANTS = read()
KNOWN = MUTANTS[0]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.slip)
def test_the_slip_still_fits(mutant):
    """Its text is there exactly once, the changed file is Python, and the named test exists."""
    ast.parse(mutant.changed())
    assert mutant.missing_test() is None
    assert mutant.file.startswith("diffusion_lab/") and mutant.right != mutant.wrong


def test_every_slip_is_in_the_report_and_was_killed():
    rows = re.findall(
        r"^\| `(.+?)` \| (.+?) \| `(.+?)` \| (\w+) ", mutation.REPORT.read_text(), re.M
    )
    assert [row[:3] for row in rows] == [
        (m.file.removeprefix("diffusion_lab/"), m.slip, m.test) for m in MUTANTS
    ], "run make mutants: its report is of another list"
    assert {row[3] for row in rows} == {"killed"}


def test_a_report_is_the_list_with_what_became_of_it():
    text = mutation.report(
        [Finding(KNOWN, "killed", "AssertionError", 1.0), Finding(KNOWN, "survived", "a | b", 2.0)]
    )
    assert "1 of 2 killed." in text
    assert r"survived (a \| b)" in text
    assert "2.0" not in text  # no times: the same on every run


@pytest.mark.parametrize(
    ("status", "kinds", "state"),
    [
        (0, [], "survived"),
        (1, ["AssertionError", "Exception"], "killed"),
        (1, ["UnboundLocalError", "NameError"], "broken"),  # the change misspells a name
        (2, [], "broken"),
        (4, [], "broken"),
        (5, [], "broken"),
        (-1, [], "broken"),
    ],
)
def test_only_a_failing_test_kills(status, kinds, state):
    assert judge({"status": status, "kinds": kinds, "line": "x"})[0] == state


def test_a_slip_that_no_longer_fits_is_named():
    with pytest.raises(ValueError, match="0 times, not once: bring its entry"):
        Mutant("s", "diffusion_lab/bound.py", "no such text", "", "t").changed()
    with pytest.raises(ValueError, match="times, not once"):
        Mutant("s", "diffusion_lab/bound.py", "import", "", "t").changed()
    missing = [
        Mutant("s", "f", "r", "w", test).missing_test()
        for test in ("test_none.py::test_a", "test_bound.py::test_none", "test_metrics_kid.py")
    ]
    assert all(missing)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[mutant]]\nslip = "a"\nfile = "f"', "must have exactly"),
        ('[[mutant]]\nslip = "a"\nfile = "f"\nright = "r"\nwrong = "w"\ntest = "t"\n' * 2, "twice"),
    ],
)
def test_a_list_that_is_wrong_is_refused(text, why, tmp_path):
    file = tmp_path / "list.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=why):
        read(file)


SCRIPT = """
import sys
from tests import mutation
from tests.mutation import Mutant
test = "test_forward.py::test_vp_is_the_inverse_of_lambda"
file, right = "diffusion_lab/metrics/information.py", "torch.sigmoid(2 * lam).sqrt(), "
mutation.read = lambda: [
    Mutant("a real slip", file, right, "torch.sigmoid(lam).sqrt(), ", test),
    Mutant("no slip at all", file, right, "torch.sigmoid(2 * lam) ** 0.5, ", test),
    Mutant("a misspelt name", file, right, "torch.sigmoid(2 * lamb).sqrt(), ", test),
]
sys.exit(mutation.main(["-k", "s"]))
"""


@pytest.mark.skipif(not hasattr(mutation.os, "fork"), reason="this system cannot fork a process")
def test_the_tool_tells_a_slip_from_none(root):
    before = (root / "diffusion_lab/metrics/information.py").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for name, state in (
        ("a real slip", "killed"),
        ("no slip at all", "survived"),
        ("a misspelt name", "broken"),
    ):
        assert [line.split()[0] for line in lines if name in line] == [state], done.stdout
    assert lines[-1].startswith("1 of 3 killed")  # and no report: it is not the whole list
    assert (root / "diffusion_lab/metrics/information.py").read_bytes() == before
