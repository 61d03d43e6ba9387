"""The pages around the course: what they name is there, and they have the form that hosts read."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from diffusion_lab import about

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
REPRODUCIBILITY = (ROOT / "REPRODUCIBILITY.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PAGES = ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "REPRODUCIBILITY.md")
FORMS = sorted(p for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config")


# ---- reproducibility ----------------------------------------------------------------------------
@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(tests/\S+?::\S+?)`", REPRODUCIBILITY))))
def test_promises_name_tests_that_are_there(named):
    file, name = named.split("::")
    assert f"def {name}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_pages_name_exist(page):
    words = re.findall(r"`([\w.-]+(?:/[\w.-]*)*)`", (ROOT / page).read_text())
    paths = [w for w in words if "/" in w or w.endswith((".md", ".txt", ".json"))]
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert paths or page == "CODE_OF_CONDUCT.md"


def test_commands_of_the_reproducibility_page_exist():
    from diffusion_lab import cli

    known = {command.__name__.removesuffix("_command") for command in cli.COMMANDS}
    lines = re.findall(r"`(diffusion-lab [^`]+)`", REPRODUCIBILITY)
    assert len(lines) >= 3 and {line.split()[1] for line in lines} <= known
    modules = re.findall(r"`python -m ([\w.]+)", REPRODUCIBILITY)
    assert modules
    for module in modules:
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert "__name__ == '__main__'" in ast.unparse(tree)
    for target in re.findall(r"`make ([\w-]+)`", REPRODUCIBILITY):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target


# ---- changelog ----------------------------------------------------------------------------------
def test_the_changelog_has_the_version_and_the_form_of_keep_a_changelog():
    versions = re.findall(r"^## (.+)$", CHANGELOG, re.M)
    assert versions[0] == "[Unreleased]"
    dated = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", one) for one in versions[1:]]
    assert all(dated)
    newest = dated[0][1] if dated else None  # without a release the text names the coming one
    assert newest == about.VERSION or f"package, {about.VERSION}, is" in CHANGELOG
    kinds = re.findall(r"^### (.+)$", CHANGELOG, re.M)
    assert kinds and set(kinds) <= {
        *("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    }
    assert f"[Unreleased]: {about.REPOSITORY}/" in CHANGELOG


# ---- what hosts read ----------------------------------------------------------------------------
@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_issue_forms_have_the_form_that_the_host_takes(path):
    """An unknown key or a missing label makes the host drop the form without a word."""
    form = yaml.safe_load(path.read_text())
    assert set(form) == {"name", "description", "labels", "body"}
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids)) >= 3
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "dropdown")
        assert set(part) <= {"type", "id", "attributes", "validations"}
        wanted = {"label", "options"} if part["type"] == "dropdown" else {"label"}
        assert wanted <= set(part["attributes"])
        known = wanted | {"description", "placeholder", "render"}
        assert set(part["attributes"]) <= known
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_there_is_a_form_for_bugs_lessons_and_ideas():
    assert [path.stem for path in FORMS] == ["bug", "idea", "lesson"]


def test_the_versions_line_of_the_bug_form_runs(capsys):
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text())
    (part,) = [part for part in form["body"] if part["id"] == "versions"]
    exec(re.search(r'python -c "(.+)"', part["attributes"]["description"])[1], {})
    assert about.VERSION in capsys.readouterr().out


def test_the_container_runs_the_line_of_the_readme():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert f"\n{container['postCreateCommand']}\n" in README
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert f"python={container['image'].split(':')[1]}" in conda["dependencies"]
