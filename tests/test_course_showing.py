"""What is shown: tables in both forms, words below figures, links, and pages with alt text."""

from __future__ import annotations

import re

import pytest

from diffusion_lab.course import linking, showing
from diffusion_lab.course.showing import show_table

ROWS = [
    {"system": "DDIM", "NFE": 10, "FD": 0.5, "N": 500},
    {"system": "<b>", "NFE": 1000, "FD": 12.25, "N": None},
]


@pytest.fixture
def notebook(shown, monkeypatch):
    """As ``shown``, where a front end is said to be there."""
    monkeypatch.setattr(showing, "in_notebook", lambda: True)
    return shown


def test_a_table_has_both_forms(notebook):
    show_table(ROWS, title="A & B", digits={"FD": ".2f"}, more={"x/y": 1})
    ((bundle, _),) = notebook
    assert bundle["text/plain"].splitlines() == [
        "A & B",
        "",
        "system   NFE     FD    N",
        "DDIM      10   0.50  500",
        "<b>     1000  12.25",
    ]
    markup = bundle["text/html"]
    assert "<caption>A &amp; B</caption>" in markup and "&lt;b&gt;" in markup
    assert len(re.findall('<th scope="col"', markup)) == 4 and bundle["x/y"] == 1
    cells = re.findall(r"<td([^>]*)>", markup)
    assert ["right" in cell for cell in cells] == [False, True, True, True] * 2


def test_a_wide_table_is_printed_in_parts_of_a_hundred_letters(capsys):
    row = {"name": "a"} | {f"column number {i}": i for i in range(12)}
    show_table([row, row | {"name": "bb"}])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and sum(line.startswith("bb") for line in lines) > 1
    for i in range(12):
        assert sum(f"column number {i}" in re.split(r"  +", line) for line in lines) == 1


def test_long_words_wrap_in_their_column(capsys):
    show_table([{"claim": "a" * 50 + " b", "here": "word " * 30}, {"claim": "c", "here": "d"}])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) == 6
    assert sum(line.count("word") for line in lines) == 30


@pytest.mark.parametrize(
    ("rows", "digits", "words"),
    [
        ([], {}, "same columns"),
        ([{"a": 1}, {"b": 1}], {}, r"same columns: \[\['a'\], \['b'\]\]"),
        ([{"a": 1}], {"b": ".1f"}, r"digits are given for \['b'\]"),
    ],
)
def test_what_is_no_table_is_refused(rows, digits, words):
    with pytest.raises(ValueError, match=words):
        show_table(rows, digits=digits)


def test_the_words_below_a_figure_are_escaped_and_folded(notebook):
    showing.words("x < y", "It rises & falls.")
    ((bundle, _),) = notebook
    assert bundle["text/html"] == (
        "<p><em>It rises &amp; falls.</em></p>\n"
        "<details><summary>Description of the figure</summary>x &lt; y</details>"
    )
    assert bundle["text/plain"] == "It rises & falls."


def test_a_long_caption_is_broken_between_words_in_plain_text_only(notebook):
    caption = "One long-winded caption, of a figure with much to say. " * 6 + "The end."
    showing.words("a figure", caption)
    ((bundle, _),) = notebook
    lines = bundle["text/plain"].split("\n")
    assert len(lines) > 2 and max(map(len, lines)) <= 100
    assert " ".join(lines) == caption and f"<p><em>{caption}</em></p>" in bundle["text/html"]


def test_a_word_is_never_cut(notebook):
    showing.words("a figure", "see " + "x" * 120)
    assert notebook[0][0]["text/plain"].split("\n") == ["see", "x" * 120]


LESSONS = ["00_start", "05_jumping", "06_scores"]


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see lesson 06.", "see [lesson 06](06_scores.ipynb)."),
        ("lessons 05 and 06", "lessons 05 and [06](06_scores.ipynb)"),  # 05 is this one
        ("lessons 06, 17", "lessons [06](06_scores.ipynb), 17"),  # 17 is not there yet
        ("arXiv 2010.02502:", "arXiv [2010.02502](https://arxiv.org/abs/2010.02502):"),
        ("0.2010.02502 and 1234.5678 of 2013.0250", None),
        ("`lesson 06` $2010.02502$", None),
        ("[lesson 06](x) <a href='2010.02502'>", None),
        ("https://arxiv.org/abs/2010.02502", None),
        ("# Lesson 06 in a heading", None),
    ],
)
def test_links(text, links):
    assert linking.linked(text, "05_jumping", LESSONS) == (text if links is None else links)


def test_the_way_leads_to_the_neighbours_and_the_pages(tmp_path):
    (tmp_path / "notation.md").write_text("")
    way = linking.leads("05_jumping", LESSONS, tmp_path, "../")
    assert re.findall(r"\]\(([^)]*)\)", way) == [
        "00_start.ipynb",
        "00_start.ipynb",
        "../notation.md",
        "06_scores.ipynb",
    ]
    assert "05 Jumping" not in way and "06 Scores and SDEs" in way
    assert "←" not in linking.leads("00_start", LESSONS, tmp_path)
    assert "→" not in linking.leads("06_scores", LESSONS, tmp_path)


def test_every_figure_of_an_exported_lesson_has_its_alt_text(tmp_path):
    from diffusion_lab.course import exporting, lessons

    for name in lessons.ready():
        exporting.export(name, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        images = re.findall(r"<img[^>]*data:image/png[^>]*>", page)
        stored = lessons.find(name).read_text(encoding="utf-8").count('"image/png": "')
        assert len(images) == stored > 0
        assert all(re.search(r'alt="[^"]{20,}"', one) for one in images)
        assert "No description has been provided" not in page
