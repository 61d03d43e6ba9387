"""Near names: what a slip of the keyboard was meant to be, and when nothing should be guessed."""

from __future__ import annotations

import pytest

from diffusion_lab.course import survey
from diffusion_lab.errors import _slips, did_you_mean, near, unknown

SYSTEMS = [row.name for row in survey.rows()]
SAMPLERS = ["ddim", "ddpm", "dpmpp"]
MODELS = ["digits", "fashion", "fashion-1min", "fashion-features", "fashion-vp1000"]


@pytest.mark.parametrize(
    ("a", "b", "slips"),
    [
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("abc", "ac", 1),  # left out
        ("ac", "abc", 1),  # put in
        ("abc", "axc", 1),  # exchanged
        ("abc", "acb", 1),  # swapped
        ("abcd", "badc", 2),  # two swaps
        ("ca", "abc", 3),  # 2 were a swapped pair open to a letter between: not allowed here
        ("kitten", "sitting", 3),
    ],
)
def test_slips_of_known_pairs(a, b, slips):
    assert _slips(a, b) == _slips(b, a) == slips


@pytest.mark.parametrize(
    ("given", "known", "names"),
    [
        ("DDMI", SYSTEMS, ["DDIM"]),  # one swap away; DDRM and BDDM are two letters away
        ("ddmp", SYSTEMS, ["DDPM"]),
        ("dpm", SAMPLERS, ["ddpm", "dpmpp"]),
        ("dpm++", SAMPLERS, ["dpmpp"]),
        ("DDIM", SAMPLERS, ["ddim"]),
        ("fashon", MODELS, ["fashion"]),
        ("fashion-1mn", MODELS, ["fashion-1min"]),
        ("vp1000", MODELS, ["fashion-vp1000"]),
        ("fash", MODELS, ["fashion", "fashion-1min", "fashion-vp1000"]),  # three at most
        ("boot", ["coat", "ankle boot"], ["ankle boot", "coat"]),
        ("epsilon", ["eps", "v", "x0"], ["eps"]),
    ],
)
def test_near_names_the_likeliest_first(given, known, names):
    assert near(given, known) == names


@pytest.mark.parametrize("given", ["12", "-1", "2.5", "+3", "", "zzz", 12])
def test_numbers_and_strangers_are_near_nothing(given):
    assert near(given, [*"0123456789", *SAMPLERS]) == []
    assert did_you_mean(given, [*"0123456789", *SAMPLERS]) == ""


def test_the_sentence():
    assert did_you_mean("tset", ["test", "train"]) == " Did you mean 'test'?"
    assert did_you_mean("dpm", SAMPLERS) == " Did you mean 'ddpm' or 'dpmpp'?"
    many = did_you_mean("fash", MODELS)
    assert many == " Did you mean 'fashion', 'fashion-1min' or 'fashion-vp1000'?"
    error = unknown("sampler", "dimm", SAMPLERS)
    assert str(error).startswith("unknown sampler 'dimm'. Did you mean 'ddim'")
    assert str(error).endswith("Known: ddim, ddpm, dpmpp.")
    assert str(unknown("sampler", "euler", SAMPLERS)) == (
        "unknown sampler 'euler'. Known: ddim, ddpm, dpmpp."
    )


def test_a_class_is_found_by_its_name_in_this_package_only():
    from diffusion_lab.errors import named
    from diffusion_lab.scheduling.fastdpm import GammaLevels

    assert named("schedule", "diffusion_lab.scheduling.fastdpm:GammaLevels") is GammaLevels
    for wrong in (
        "os:system",
        "os.path:join",
        "diffusion_lab:device",
        "diffusion_labs.evil:Class",
        "diffusion_lab.files:os",  # what a module imported is not its own
        "diffusion_lab.files:secrets",
        "diffusion_lab._offline:seal",
        "diffusion_lab.cli.__main__:main",
        "diffusion_lab.schedules:Gone",
        "diffusion_lab.gone:Schedule",
        "diffusion_lab.schedules:Table.spec",
        "diffusion_lab.schedules:Table\n",
        "",
        None,
        3,
    ):
        with pytest.raises(ValueError, match="schedule"):
            named("schedule", wrong)
