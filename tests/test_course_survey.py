"""The map holds every system of the survey, and no row claims what is not there."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from diffusion_lab.course import survey
from diffusion_lab.course.survey_check import verify

# Number, the survey's label with its citation, table, lesson: the list the map must hold.
SYSTEMS = [
    (1, "DDPM [8]", "I", "02-03"),
    (2, "DDIM [43]", "I", "05"),
    (3, "ADM [11]", "I, III", "14"),
    (4, "CFDG [20]", "I", "14"),
    (5, "SDEDIT [21]", "I", "16"),
    (6, "VDM [22]", "I, II", "18"),
    (7, "SDG [23]", "I", "15"),
    (8, "Make-A-Scene [24]", "I", "15"),
    (9, "VQ-Diffusion [25]", "I", "12"),
    (10, "DP stride [26]", "I, II", "08"),
    (11, "FastDPM [27]", "I, II", "05"),
    (12, "DSB [28]", "I", "11"),
    (13, "BDDM [29]", "I, II", "08"),
    (14, "CLD [30]", "I", "09"),
    (15, "GGDM [33]", "I, II", "08"),
    (16, "ScoreFlow [34]", "I", "06"),
    (17, "EMSDE [35]", "I", "07"),
    (18, "CDM [36]", "I", "13"),
    (19, "Frido [19]", "I, III", "13"),
    (20, "PDDPM [37]", "I", "13"),
    (21, "Blur diffusion [38]", "I", "09"),
    (22, "NWDM [39]", "I", "13"),
    (23, "ILVR [40]", "I", "16"),
    (24, "LDM [10]", "I, III", "12"),
    (25, "latent DDIM [41]", "I", "12"),
    (26, "INDM [42]", "I", "11"),
    (27, "FSDM [50]", "II", "22"),
    (28, "MMDM [51]", "II", "10"),
    (29, "P2 [52]", "II", "03"),
    (30, "DDRM [53]", "II", "17"),
    (31, "DGM [54]", "II", "09"),
    (32, "NEDM [55]", "II", "08"),
    (33, "CCDF [56]", "II", "17"),
    (34, "Cold Diffusion [57]", "II", "09"),
    (35, "GDDIM [58]", "II", "09"),
    (36, "DiVAE [59]", "II", "12"),
    (37, "DiffFlow [60]", "II", "11"),
    (38, "LDM+DDIM [61]", "II", "12"),
    (39, "Diffusion-GAN [62]", "II", "20"),
    (40, "Bit Diffusion [63]", "II", "10"),
    (41, "DiffusionTimes [64]", "II", "08"),
    (42, "ProgressiveDistillation [65]", "II", "19"),
    (43, "ES-DDPM [66]", "II", "20"),
    (44, "CMDE [67]", "II", "13"),
    (45, "FHDM [68]", "II", "11"),
    (46, "IDSD [69]", "II", "07"),
    (47, "KNN-Diffusion [70]", "II", "21"),
    (48, "RDM [71]", "II", "21"),
    (49, "RDM [72]", "II", "21"),
    (50, "PGGAN", "III", "20"),
    (51, "DDGAN", "III", "20"),
    (52, "StyleSwin", "III", "20"),
    (53, "LDM-8 / Frido / Dido-gating", "III", "13, 23"),
    (54, "binary diffusion [46]", "text", "10"),
    (
        55,
        "structured transitions (D3PM: uniform, absorbing, discretised truncated Gaussian)",
        "text",
        "10",
    ),
    (56, "score matching (eq 14), score SDE, probability-flow ODE [45, 48]", "text", "06"),
    (57, "DPM-Solver", "text", "07"),
    (58, "analytical and dynamic-programming training-free samplers", "text", "08"),
    (59, "accelerated DDPM for low-dose CT [49], 20x", "text", "17"),
    (60, "guided steps by strong conditions (Early Stop with VAE)", "text", "20"),
    (61, "Re-Imagen [81]", "text", "21"),
    (62, "mask-agnostic inpainting, NTIRE 2022 [84]", "text", "17"),
    (63, "DreamBooth [86]", "text", "22"),
    (64, "CycleDiffusion [32]", "text", "16"),
    (65, "video: joint training, generation without text-video data [87, 88]", "text", "18"),
    (66, "Motion Diffusion Model (MDM)", "text", "18"),
    (67, "MotionDiffuse [90]", "text", "18"),
    (68, "DAAM [31]", "text", "15"),
    (
        69,
        "metrics: IS, FID, NLL; steps, throughput, workload (V100-days), parameters, FLOPs, time; "
        "energy and CO2",
        "text",
        "04",
    ),
    (
        70,
        "bibliographic clusters (Fig. 7), timeline and statistics (Fig. 1), taxonomy (Fig. 6)",
        "figs",
        "00, 23",
    ),
]

# Rows that share a paper because the survey names one work twice.
SAME_PAPER = [{19, 53}, {43, 60}, {69, 70}]


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Path:
    """A tiny repository: a module, a lesson with a section, a test file, nothing else."""
    (tmp_path / "diffusion_lab").mkdir()
    (tmp_path / "diffusion_lab" / "part.py").write_text("")
    (tmp_path / "notebooks" / "source").mkdir(parents=True)
    lesson = "# %% [markdown]\n# # Jumping\n# ## Skip the steps\n\n# %%\n# ## Not a heading\n"
    (tmp_path / "notebooks" / "source" / "05_jumping.py").write_text(lesson)
    (tmp_path / "tests").mkdir()
    tests = (
        "import pytest\n\ndef test_exact():\n    pass\n\n"
        "@pytest.mark.skip(reason='later')\ndef test_skipped():\n    pass\n\n"
        "class TestSteps:\n    def test_last(self):\n        pass\n\ndef helper():\n    pass\n"
    )
    (tmp_path / "tests" / "test_part.py").write_text(tests)
    return tmp_path


@pytest.fixture
def working() -> survey.Row:
    """A row that the tiny repository lets through as working."""
    return replace(
        survey.find("DDIM"),
        state="working",
        file="diffusion_lab/part.py",
        symbols=(
            "diffusion_lab.course.survey_check:verify",
            "diffusion_lab.course.survey:Paper.url",
        ),
        section="Skip the steps",
        tests=("tests/test_part.py::test_exact", "tests/test_part.py::TestSteps::test_last"),
    )


def test_the_map_holds_the_70_rows_once_each():
    assert [row.number for row in survey.rows()] == list(range(1, 71))


@pytest.mark.parametrize(("number", "label", "place", "lesson"), SYSTEMS)
def test_labels_tables_and_lessons_are_the_surveys(number, label, place, lesson):
    row = survey.find(number)
    words, _, after = label.partition(f" {row.cites}") if row.cites else (label, "", "")
    assert row.label == words + after
    assert bool(row.cites) == ("[" in label)
    assert row.table == (("figures",) if place == "figs" else tuple(place.split(", ")))
    # A range such as 02-03 or 13, 23 means: taught in one of them, touched in the other.
    assert row.lesson in re.findall(r"\d\d", lesson)


def test_arxiv_numbers_are_well_formed_and_match_the_years():
    for row in survey.rows():
        for paper in (row.paper, *row.also):
            if paper.arxiv is None:
                assert row.number == 62  # a challenge report without an arXiv version
                continue
            assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv), paper
            assert 2000 + int(paper.arxiv[:2]) == paper.year, paper
            assert 1 <= int(paper.arxiv[2:4]) <= 12, paper


def test_papers_are_shared_only_where_the_survey_names_one_work_twice():
    numbers: dict[str, set[int]] = {}
    for row in survey.rows():
        numbers.setdefault(row.paper.arxiv or row.paper.title, set()).add(row.number)
    assert [found for found in numbers.values() if len(found) > 1] == SAME_PAPER


def test_one_paper_is_written_the_same_way_everywhere():
    papers = {paper for row in survey.rows() for paper in (row.paper, *row.also)}
    assert max(Counter(paper.arxiv for paper in papers).values()) == 1
    assert max(Counter(paper.title for paper in papers).values()) == 1


def test_rows_are_complete_and_in_a_known_family():
    names = [row.name for row in survey.rows()]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 24, "names must fit the boxes of the map"
    for row in survey.rows():
        assert survey.family(row.family) and survey.lesson(row.lesson)
        assert row.state in survey.STATES
        assert row.survey_class and row.sure and row.paper.authors and row.paper.title
        assert row.file.startswith("diffusion_lab/") and row.file.endswith(".py")
        assert row.cost or row.family == "map"


def test_every_family_is_used_and_changes_one_of_the_six_choices():
    used = {row.family for row in survey.rows()}
    assert {one.key for one in survey.families()} == used
    for one in survey.families():
        assert one.choice in (*survey.CHOICES, "")
        assert one.description.endswith(".") and one.title


def test_lessons_run_from_00_to_24_and_agree_with_the_sources(root):
    lessons = survey.lessons()
    assert [one.number for one in lessons] == [f"{number:02d}" for number in range(25)]
    for one in lessons:
        assert one.title and one.question[-1] in "?."
        assert Path(one.file).name.startswith(f"{one.number}_")
    for source in (root / "notebooks" / "source").glob("[0-9][0-9]_*.py"):
        assert survey.lesson(source.stem[:2]).source == f"notebooks/source/{source.name}"


def test_every_system_has_a_lesson_and_all_but_the_last_lesson_teach_some():
    taught = {row.lesson for row in survey.rows()}
    assert {one.number for one in survey.lessons()} - taught == {"01", "24"}


def test_filters_and_their_errors():
    assert [row.name for row in survey.rows(family="core")] == ["DDPM", "P2"]
    assert survey.rows(lesson="5") == survey.rows(lesson=5) == survey.rows(lesson="05")
    assert {row.name for row in survey.rows(lesson=5)} == {"DDIM", "FastDPM"}
    assert sum(len(survey.rows(state=state)) for state in survey.STATES) == 70
    with pytest.raises(ValueError, match="unknown family 'nois'. Did you mean 'noise'"):
        survey.rows(family="nois")
    with pytest.raises(ValueError, match="Did you mean 'planned'"):
        survey.rows(state="plan")
    with pytest.raises(ValueError, match="from 00 to 24"):
        survey.rows(lesson="25")


def test_find_by_number_name_and_label():
    assert survey.find(29) is survey.find("p2") is survey.find("29")
    assert survey.find("MDM").number == survey.find("Motion Diffusion Model (MDM)").number == 66
    with pytest.raises(ValueError, match=r"48 \(RDM \[71\]\), 49"):
        survey.find("RDM")
    with pytest.raises(ValueError, match="Did you mean 'Cold Diffusion'"):
        survey.find("cold diffuson")
    with pytest.raises(ValueError, match="from 1 to 70"):
        survey.find(0)


def test_the_timeline_holds_each_system_once_in_the_order_of_the_arxiv_numbers():
    periods = survey.timeline()
    found = [row for _, rows in periods for row in rows]
    assert sorted(row.number for row in found) == [
        row.number for row in survey.rows() if row.kind == "system"
    ]
    numbers = [row.paper.arxiv for row in found if row.paper.arxiv]
    assert numbers == sorted(numbers)
    assert len({period for period, _ in periods}) == len(periods)
    for period, rows in periods:
        halves = {"Jan to Jun": range(1, 7), "Jul to Dec": range(7, 13)}
        year, _, half = period.partition(", ")
        assert {row.paper.year for row in rows} == {int(year)}
        assert {row.paper.month for row in rows} <= set(halves.get(half, range(1, 13)))
        assert half or len(rows) <= 5
    halves = [rows for period, rows in periods if period.startswith("2022")]
    assert "NTIRE inpainting" in {row.name for row in halves[0]}  # June, and no arXiv number


def test_what_is_no_system_is_not_counted():
    references = survey.rows(kind="reference")
    assert [row.number for row in references] == [53, 60, 69, 70]
    assert {"metrics", "figures of the survey"} < {row.name for row in references}
    assert len(survey.rows(kind="system")) == 66
    assert survey.counts(survey.rows()).startswith("66 systems: ")
    assert survey.counts(survey.rows()).endswith(" working, and 4 references")
    assert survey.counts(survey.rows(family="map")).endswith(" and 1 reference")
    assert survey.counts([survey.find("DDIM")]).startswith("1 system: ")
    with pytest.raises(ValueError, match="Did you mean 'system'"):
        survey.rows(kind="sytem")


def test_the_gans_that_are_compared_with_change_none_of_the_choices():
    assert {row.name for row in survey.rows(family="comparators")} == {"PGGAN", "StyleSwin"}
    assert survey.family("comparators").choice == ""


# Which systems the survey lists in each class of its Tables I and II.
CLASSES = {
    "guided": {3, 5, 6, 7},
    "not guided": {4, 8, 9},
    "discrete": {1, 9},
    "continuous": {10, 11, 12},
    "score network": {13, 14, 15, 16},
    "SDE": {12, 17},
    "pyramidal": {18, 19, 20},
    "non-pyramidal": {21, 22},
    "pixel": {1, 2},
    "latent": {23, 24, 25, 26},
    "training": {6, 27, 28, 29, 30},
    "noise distribution": {13, 15, 31, 32, 33, 34, 35},
    "mixing": {11, 28, 36, 37, 38, 39},
    "scheduling": {10, 40, 41, 42, 43, 44, 45, 46},
    "retrieval": {47, 48, 49},
}


def test_the_classes_are_the_surveys():
    assert [one for classes in survey.CLASSES.values() for one in classes] == list(CLASSES)
    for one, numbers in CLASSES.items():
        assert {row.number for row in survey.rows() if one in row.classes} == numbers, one
    for row in survey.rows():
        tables = {table for table, some in survey.CLASSES.items() if set(row.classes) & set(some)}
        assert tables == set(row.table) & {"I", "II"}, row.name
        assert all(one in row.survey_class for one in row.classes), row.name


def test_the_table_of_the_classes_names_each_system_where_it_belongs():
    text = survey.classes_table()
    assert max(map(len, text.splitlines())) <= 92
    lines = {line[:25].strip(): line[25:] for line in text.splitlines() if line[2:3].strip()}
    assert lines["discrete"] == "DDPM, VQ-Diffusion"
    assert lines["compared in Table III"] == "ADM, Frido, LDM, PGGAN, DDGAN, StyleSwin"
    assert set(CLASSES) < set(lines) and "metrics" not in text
    assert all(text.count(row.name) for row in survey.rows(kind="system"))


# Working is earned ------------------------------------------------------------------------------


@pytest.mark.parametrize("row", survey.rows(), ids=lambda row: row.name)
def test_every_row_has_earned_its_state(row):
    assert verify(row) == []


def test_a_working_row_with_all_its_evidence_passes(working, lab):
    assert verify(working, lab) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"symbols": ()}, "names its symbols"),
        ({"symbols": ("diffusion_lab.course.survey",)}, "not of the form"),
        ({"symbols": ("diffusion_lab.nowhere:x",)}, "cannot import"),
        ({"symbols": ("diffusion_lab.course.survey:nothing",)}, "has no nothing"),
        ({"symbols": ("diffusion_lab.course.survey:Paper.nothing",)}, "has no Paper.nothing"),
        ({"section": ""}, "names its section"),
        ({"section": "Skip the step"}, "no such heading"),
        ({"section": "Not a heading"}, "no such heading"),
        ({"lesson": "06"}, "no source file"),
        ({"tests": ()}, "names its tests"),
        ({"tests": ("tests/test_part.py",)}, "not of the form"),
        ({"tests": ("tests/test_other.py::test_exact",)}, "no file"),
        ({"tests": ("tests/test_part.py::test_exac",)}, "has no test_exac"),
        ({"tests": ("tests/test_part.py::TestSteps::test_first",)}, "has no test_first"),
        ({"tests": ("tests/test_part.py::test_skipped",)}, "skipped"),
        ({"tests": ("tests/test_part.py::helper",)}, "not be collected"),
        ({"file": "diffusion_lab/other.py"}, "no file diffusion_lab/other.py"),
        ({"state": "done"}, "state 'done'"),
    ],
)
def test_one_missing_piece_of_evidence_is_enough_to_refuse(change, word, working, lab):
    problems = verify(replace(working, **change), lab)
    assert len(problems) == 1 and word in problems[0], problems


def test_a_section_may_lie_in_another_lesson(working, lab):
    elsewhere = replace(working, lesson="02", section="05/Skip the steps")
    assert verify(elsewhere, lab) == []
    assert verify(replace(elsewhere, section="05/Skip"), lab)


def test_parametrised_tests_are_found_by_their_function(working, lab):
    row = replace(working, tests=("tests/test_part.py::test_exact[0.5-linear]",))
    assert verify(row, lab) == []


def test_a_partial_row_needs_symbols_and_what_it_names_must_exist(working, lab):
    partial = replace(working, state="partial", section="", tests=())
    assert verify(partial, lab) == []
    assert verify(replace(partial, symbols=()), lab)
    assert verify(replace(partial, section="Nowhere"), lab)
    assert verify(replace(partial, tests=("tests/test_part.py::test_no",)), lab)


def test_a_planned_row_names_nothing(working, lab):
    problems = verify(replace(working, state="planned"), lab)
    assert len(problems) == 3 and all("planned row names no" in one for one in problems)


# What people read -------------------------------------------------------------------------------


def test_table_has_a_line_for_each_row_and_counts_the_states():
    lines = survey.table(survey.rows(family="sde")).splitlines()
    assert lines[0].split() == ["no", "system", "paper", "arXiv", "family", "lesson", "state"]
    assert [line.split()[0] for line in lines[2:7]] == ["12", "14", "16", "45", "56"]
    assert lines[-1].startswith("5 systems: ")
    assert survey.table([]).splitlines()[-1].startswith("0 systems")


def test_describe_tells_the_slip_and_the_other_reading():
    text = survey.describe(survey.find("GDDIM"))
    assert "2206.05564" in text and "2106.07582" in text and "about 60 %" in text
    assert "Label and strategy disagree" in text
    assert "certain" not in survey.describe(survey.find("ADM"))  # said only where there is doubt
    assert survey.describe(survey.find("ADM")).startswith("ADM (row 3 of the map)\n")
    assert "no system of its own" in survey.describe(survey.find("metrics"))


def test_a_file_that_is_not_there_yet_is_said_to_be_planned():
    row = survey.find("DDPM")
    assert f"file    {row.file}\n" in survey.describe(row)
    missing = replace(row, file="diffusion_lab/none.py")
    assert "file    diffusion_lab/none.py (planned)\n" in survey.describe(missing)


def test_json_holds_what_the_file_holds():
    file = json.loads(Path(survey.__file__).with_name("survey.json").read_text(encoding="utf-8"))
    assert json.loads(survey.to_json(survey.rows())) == file["rows"]


def test_the_map_costs_no_heavy_import():
    code = (
        "import sys; from diffusion_lab import cli;"
        "from diffusion_lab.course import survey, survey_plots; survey.rows();"
        "print([m for m in ('torch', 'numpy', 'matplotlib', 'ipywidgets', 'IPython')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Pictures ---------------------------------------------------------------------------------------


def _words(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_map_shows_every_family_system_and_lesson_once():
    from diffusion_lab.course.survey_plots import map_figure

    words = Counter(_words(map_figure()))
    assert all(words[row.name] == 1 for row in survey.rows())
    assert all(words[one.title] == 1 for one in survey.families())
    lessons = Counter(row.lesson for row in survey.rows())
    assert {word: n for word, n in words.items() if word.isdecimal()} == lessons
    assert all(words[choice] == 1 for choice in survey.CHOICES)


def test_no_label_of_the_pictures_leaves_its_column_or_covers_another():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from diffusion_lab.course.survey_plots import classes_figure, map_figure, timeline_figure

    names = {row.name for row in survey.rows()} | {one.title for one in survey.families()}
    for figure in (map_figure(), timeline_figure(), classes_figure()):
        FigureCanvasAgg(figure).draw()
        axes = figure.axes[0]
        back = axes.transData.inverted()
        boxes = [(text, text.get_window_extent().transformed(back)) for text in axes.texts]
        for text, box in boxes:
            if text.get_text().split(", ")[0].replace("\u00a0", " ") in names:
                assert box.width < 0.98, text.get_text()
                assert axes.get_xlim()[0] <= box.x0 and box.x1 <= axes.get_xlim()[1] + 0.05
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            assert not a.overlaps(b), (one.get_text(), other.get_text())


@pytest.mark.parametrize(
    ("highlight", "names"),
    [
        ("core", {"DDPM", "P2"}),
        ("05", {"DDIM", "FastDPM"}),
        ([1, 29], {"DDPM", "P2"}),
        (1, {"DDPM"}),
    ],
)
def test_highlight_leaves_only_the_wanted_systems_bright(highlight, names):
    from diffusion_lab.course.survey_plots import map_figure

    systems = {row.name for row in survey.rows()}
    texts = map_figure(highlight).axes[0].texts
    bright = {t.get_text() for t in texts if t.get_text() in systems and t.get_alpha() == 1}
    assert bright == names


def test_highlight_refuses_what_is_not_on_the_map():
    from diffusion_lab.course.survey_plots import map_figure

    for wrong in ("nois", "25", [71]):
        with pytest.raises(ValueError):
            map_figure(wrong)


def test_timeline_counts_each_period_and_lists_from_the_top():
    from diffusion_lab.course.survey_plots import timeline_figure

    figure = timeline_figure()
    words = Counter(_words(figure))
    assert all(words[row.name] == (row.kind == "system") for row in survey.rows())
    height = {text.get_text(): text.get_position()[1] for text in figure.axes[0].texts}
    for period, rows in survey.timeline():
        assert words[period] == 1
        assert words[f"{len(rows)} system{'s' if len(rows) > 1 else ''}"] >= 1
        levels = [height[period], *(height[row.name] for row in rows)]
        assert levels == sorted(levels, reverse=True)


def test_the_survey_s_classes_are_crossed_with_our_choices():
    from diffusion_lab.course.survey_plots import classes_figure, classes_text

    words = classes_text()
    assert "retrieval: 3 steering." in words and "guided: 1 data, 3 steering;" in words
    axes = classes_figure().axes[0]
    place = {text.get_text(): text.get_position() for text in axes.texts}
    columns = {name: place[name][0] for name in survey.CHOICES if name in place}
    assert list(columns) == [one for one in survey.CHOICES if one != "denoiser"]
    assert place["ADM, SDEDIT, SDG"] == (columns["steering"], place["guided"][1])
    assert place["CMDE"] == (columns["data"], place["scheduling"][1])


def test_family_html_lists_its_systems_and_is_safe():
    from html.parser import HTMLParser

    from diffusion_lab.course.survey_plots import family_html

    for one in survey.families():
        page, tags = family_html(one.key), []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, _, tags=tags: tags.append(tag)
        parser.handle_endtag = lambda tag, tags=tags: tags.append(f"/{tag}")
        parser.feed(page)
        assert tags.count("tr") == tags.count("/tr") == 1 + len(survey.rows(family=one.key))
        assert tags.count("a") == tags.count("/a")
    assert "Schr&ouml;dinger" in family_html("sde") or "Schrödinger" in family_html("sde")


def test_explore_map_follows_the_choice():
    pytest.importorskip("ipywidgets")
    from diffusion_lab.course.survey_plots import explore_map

    seen = explore_map()
    whole = seen.data
    assert whole.startswith(b"\x89PNG")
    assert "66 systems" in seen.words(seen.alt)
    seen.set(family="Other noises")
    assert seen.error == "" and seen.data != whole
    assert "Cold Diffusion" in seen.words(seen.alt)
    assert "Cold Diffusion" in seen.children[-1].value
    assert explore_map("noise").values == {"family": "Other noises"}
    with pytest.raises(ValueError, match="Did you mean 'noise'"):
        explore_map("nois")
