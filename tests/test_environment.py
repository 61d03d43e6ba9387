"""pyproject.toml, constraints.txt and environment.yml tell one story.

conda is not installed where these tests run, so environment.yml is compared as text and was not
solved here; what pip would install from it is what `make test` has installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import diffusion_lab
from diffusion_lab import about


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def ranges(project) -> dict[str, list[Requirement]]:
    """Every direct requirement by name, our own extras left out."""
    named: dict[str, list[Requirement]] = {}
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(line for group in extras.values() for line in group)]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != "diffusion-lab":
            named.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return named


@pytest.fixture(scope="module")
def pins(root) -> dict[str, Version]:
    lines = (root / "constraints.txt").read_text().splitlines()
    rows = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(row) == 2 for row in rows), "constraints.txt holds exact pins, NAME==VERSION"
    return {name: Version(version) for name, version in rows}


@pytest.fixture(scope="module")
def conda(root) -> dict:
    return yaml.safe_load((root / "environment.yml").read_text())


def test_constraints_are_sorted_and_written_in_one_way(root, pins):
    names = list(pins)
    assert names == sorted(names)
    assert names == [canonicalize_name(name) for name in names]


def test_every_direct_requirement_is_pinned_inside_its_range(ranges, pins):
    for name, requirements in ranges.items():
        assert name in pins, f"{name} is in pyproject.toml and not in constraints.txt"
        for requirement in requirements:
            assert pins[name] in requirement.specifier, (
                f"{name}=={pins[name]} outside {requirement}"
            )


def test_ranges_have_a_lower_bound_and_the_package_none_above(project, ranges):
    for requirements in ranges.values():
        for requirement in requirements:
            assert ">=" in {part.operator for part in requirement.specifier}, str(requirement)
    for text in project["dependencies"]:  # a hosted notebook keeps its own, newer or not
        assert len(Requirement(text).specifier) == 1, text
    assert Version("2.6.0") in Requirement(project["dependencies"][0]).specifier
    assert "<" in {part.operator for part in ranges["pytest"][0].specifier}, "nbval needs a bound"


def test_cuda_wheels_follow_from_torch(pins):
    assert not [name for name in pins if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_torch_and_torchvision_are_one_pair(pins):
    if metadata.version("torchvision").split("+")[0] != str(pins["torchvision"]):
        pytest.skip("another torchvision is installed; its own requirement cannot be read")
    wanted = [Requirement(text) for text in metadata.requires("torchvision") or []]
    (torch,) = [requirement for requirement in wanted if requirement.name == "torch"]
    assert pins["torch"] in torch.specifier


def test_what_is_installed_is_what_is_pinned(root, pins):
    """The tests speak for the pinned versions, so `make test` must have installed those."""
    if Path(sys.prefix).resolve() != (root / ".venv").resolve():
        pytest.skip("not the environment that make created: other versions are welcome")
    # This folder alone: importing setuptools puts its private copies of others on the path.
    installed = {
        canonicalize_name(found.name): found.version.split("+")[0]
        for found in metadata.distributions(path=[sysconfig.get_path("purelib")])
    }
    assert len(installed) > 100
    other = {
        name: (installed[name], str(pin))
        for name, pin in pins.items()
        if name in installed and installed[name] != str(pin)
    }
    assert not other, f"installed against pinned: {other}; `make distclean setup` installs afresh"


def test_environment_yml_agrees(root, conda, project, pins):
    assert conda["channels"] == ["conda-forge"]
    *plain, pip = conda["dependencies"]
    assert plain[1:] == ["pip"]
    name, version = plain[0].split("=")
    assert name == "python"
    assert Version(version) in SpecifierSet(project["requires-python"])
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]

    constraint, editable = pip["pip"]
    assert constraint == "-c constraints.txt"
    assert (root / "constraints.txt").is_file()
    match = re.fullmatch(r"-e \.\[(.+)\]", editable)
    assert match, f"{editable!r} is not an editable install of the project with extras"
    extras = match.group(1).split(",")
    assert "lab" in extras, "without it there is no JupyterLab"
    assert set(extras) <= set(project["optional-dependencies"])


def test_make_installs_extras_that_exist(root, project):
    (extras,) = re.findall(r"^EXTRAS := (.+)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_what_make_installs_alone_is_pinned_too(root, pins):
    alone = re.findall(r"--no-deps (\S+)", (root / "Makefile").read_text())
    assert alone == ["k-diffusion"]
    assert all(canonicalize_name(name) in pins for name in alone)


def test_python_versions_agree(root, project):
    (low,) = SpecifierSet(project["requires-python"])
    assert f"MIN_PYTHON := {low.version.replace('.', ', ')}" in (root / "Makefile").read_text()
    assert sys.version_info[:2] >= tuple(int(part) for part in low.version.split("."))


def test_one_version_and_one_address(root):
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert diffusion_lab.__version__ == about.VERSION == citation["version"]
    assert metadata.version("diffusion_lab") == about.VERSION
    assert citation["repository-code"] == about.REPOSITORY


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "constraints.txt", "environment.yml", "Makefile", "README.md"]
)
def test_no_file_names_a_package_index(root, name):
    text = (root / name).read_text()
    assert not re.search(r"index-url|find-links|trusted-host|download\.pytorch\.org", text)


def test_a_python_that_is_too_old_is_told_so(root, tmp_path):
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout
    assert "Python 3.9.1" in done.stdout
    assert "PYTHON=" in done.stdout
    assert not (tmp_path / "venv").exists()
