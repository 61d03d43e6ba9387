"""Notation, glossary and bibliography say what the code and the lessons say."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from diffusion_lab import cli
from diffusion_lab.course import bibliography, building, survey

ARXIV = re.compile(r"(?<![\d.])\d{4}\.\d{4,5}(?!\d)")
TERM = re.compile(r"- \*\*(.+?)\*\*: (.+\.) \[Lesson (\d\d)\]\((.+)\.ipynb\)")


@pytest.fixture(scope="module")
def sources(root) -> dict[str, str]:
    """What the lessons say, by name, each in one line."""
    files = sorted((root / "notebooks" / "source").glob("[0-9][0-9]_*.py"))
    assert files
    return {file.stem: re.sub(r"\n#? *", " ", file.read_text()) for file in files}


# ---- notation ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def notation(root) -> list[list[str]]:
    text = (root / "notebooks" / "notation.md").read_text()
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert all(len(row) == 4 for row in rows)
    return [row for row in rows if row[0] != "symbol" and set(row[0]) != {"-"}]


def test_what_notation_points_to_exists(notation):
    places = [row[3].strip("`") for row in notation if row[3]]
    assert len(places) > 30
    for place in places:
        found, rest = importlib.import_module("diffusion_lab"), place.split(".")
        while rest:
            word = rest.pop(0)
            name = f"{found.__name__}.{word}"
            if hasattr(found, "__path__") and importlib.util.find_spec(name):
                found = importlib.import_module(name)
            else:
                found = getattr(found, word)  # AttributeError: notation.md names what is not there


def test_the_house_names_are_in_the_notation(root, notation):
    words = {word for row in notation for word in re.findall(r"[\w.]+", row[2])}
    (names,) = re.findall(r"finds its symbols: `([^`]+)`", (root / "CONTRIBUTING.md").read_text())
    assert set(names.split(", ")) <= words


# ---- glossary ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def glossary(root) -> list[tuple[str, ...]]:
    lines = (root / "notebooks" / "glossary.md").read_text().splitlines()
    items = [line for line in lines if line.startswith("- ")]
    matches = [TERM.fullmatch(line) for line in items]
    assert all(matches), [line for line, match in zip(items, matches) if not match]
    return [match.groups() for match in matches if match]


def test_terms_stand_in_order_and_once(glossary):
    terms = [term.casefold() for term, *_ in glossary]
    assert terms == sorted(set(terms))


def test_the_lesson_that_introduces_a_term_uses_it(glossary, sources):
    for term, _, number, name in glossary:
        assert name.startswith(f"{number}_")
        text = sources[name].casefold()
        words = [word for word in re.split(r" \(|\)|, ", term) if word]
        assert any(word.casefold() in text for word in words), f"{name} does not say {term!r}"


def test_every_lesson_has_terms_in_the_glossary(glossary, sources):
    assert {name for *_, name in glossary} == set(sources)


# ---- bibliography --------------------------------------------------------------------------------
def test_the_page_is_not_stale(root):
    stored = (root / "notebooks" / bibliography.PAGE).read_text()
    assert stored == bibliography.page(), "run `diffusion-lab lesson build`"


def test_building_writes_the_page_again(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "01_one.py").write_text("# %% [markdown]\n# See arXiv\n# 2006.11239.\n")
    monkeypatch.setattr(bibliography, "folder", lambda: tmp_path)
    monkeypatch.setattr(building, "names", list)
    building.update(check=True)
    assert not (tmp_path / bibliography.PAGE).exists()
    building.update()
    (line,) = [x for x in (tmp_path / bibliography.PAGE).read_text().splitlines() if "01_one" in x]
    assert line == (
        "- Ho, Jain, Abbeel (2020). *Denoising Diffusion Probabilistic Models*. "
        "[arXiv 2006.11239](https://arxiv.org/abs/2006.11239). On the map: DDPM. "
        "Lessons: [01](01_one.ipynb)."
    )


def test_all_that_lessons_cite_is_there_and_nothing_twice(sources):
    works = bibliography.works()
    numbers = [paper.arxiv for paper in works if paper.arxiv]
    assert len(numbers) == len(set(numbers))
    assert len({paper.title.casefold() for paper in works}) == len(works)
    for name, text in sources.items():
        missing = set(ARXIV.findall(text)) - set(numbers)
        assert not missing, f"{name} cites {missing}: add them to course/works.json"


def test_works_beyond_the_survey_are_cited_and_not_of_the_survey(root, sources):
    beyond = json.loads((root / "diffusion_lab" / "course" / "works.json").read_text())
    named = [paper for row in survey.rows() for paper in (row.paper, *row.also)]
    for work in beyond:
        cited = work["arxiv"] or work["title"]
        assert any(cited in text for text in sources.values()), f"no lesson cites {cited}"
        assert work["title"] not in [paper.title for paper in named]


def test_years_are_those_of_the_first_version():
    for paper in bibliography.works():
        if paper.arxiv:
            assert paper.year == 2000 + int(paper.arxiv[:2]), paper


FIELD = r"  (author|title|year|eprint|archiveprefix|url) = \{(.+)\},"
ENTRY = re.compile(rf"@misc\{{([a-z0-9]+),\n((?:{FIELD}\n)+)\}}\n")


def entries(text: str) -> dict[str, dict[str, str]]:
    """The entries of a BibTeX text, which must hold nothing else."""
    found = {match[1]: dict(re.findall(FIELD, match[2])) for match in ENTRY.finditer(text)}
    assert not ENTRY.sub("", text).strip(), "this is no BibTeX of ours"
    assert len(found) == text.count("@misc")
    return found


def test_bibtex_is_valid_and_complete(capsys):
    assert cli.main(["survey", "--bibtex"]) == 0
    found = entries(capsys.readouterr().out)
    assert len(found) == len(bibliography.works())
    for key, one in found.items():
        assert {"author", "title", "year"} <= set(one), key
        assert re.fullmatch(r"\{[^{}]+\}", one["title"]), key
        for value in one.values():
            assert value.count("{") == value.count("}")
            assert not re.search(r"(?<!\\)[%#$&_^~]", value), f"{key}: not plain: {value}"
    assert found["ho2020denoising"] == {
        "author": "Ho and Jain and Abbeel",
        "title": "{Denoising Diffusion Probabilistic Models}",
        "year": "2020",
        "eprint": "2006.11239",
        "archiveprefix": "arXiv",
        "url": "https://arxiv.org/abs/2006.11239",
    }
    assert found["binkowski2018demystifying"]["author"] == "Bińkowski and others"
    assert "eprint" not in found["shoemake1985animating"]


def test_bibtex_of_some_systems(capsys):
    assert cli.main(["survey", "DDIM", "--bibtex"]) == 0
    assert [one["eprint"] for one in entries(capsys.readouterr().out).values()] == ["2010.02502"]
    assert cli.main(["survey", "--lesson", "05", "--bibtex"]) == 0
    some = entries(capsys.readouterr().out)
    assert {"song2020denoising", "kong2021fast"} <= set(some) and len(some) < 10
