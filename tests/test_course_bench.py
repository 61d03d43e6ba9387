"""The benchmarks: that they measure what they say. No threshold on time is tested here."""

from __future__ import annotations

import json
import time

import pytest
import torch

from diffusion_lab import cli, metrics
from diffusion_lab.course import bench, lessons
from diffusion_lab.course.bench import (
    costs,
    overhead,
    peers,
    quality,
    results,
    samplers,
    shipped,
    startup,
)
from diffusion_lab.course.bench.results import TITLES, Results, Row, machine, report
from diffusion_lab.errors import DataError
from diffusion_lab.generate import SAMPLERS
from diffusion_lab.training import recipes

FIELDS = {
    "benchmark": str,
    "case": str,
    "value": float,
    "unit": str,
    "command": str,
    "at_least": bool,
    "details": dict,
    "quick": bool,
    "machine": str,
}


def check(rows, name):
    """Every row has its fields, is of benchmark ``name`` and names a command that exists."""
    assert rows
    for row in rows:
        values = row.as_dict()
        for field, kind in FIELDS.items():
            assert isinstance(values[field], kind), field
        assert row.benchmark == name
        assert row.value > 0
        assert row.met in (True, False, None)
        words = row.command.split()
        assert words[:2] == ["diffusion-lab", "bench"]
        assert words[2] == name
        given = cli._parser().parse_args(words[1:])
        assert given.names == [name]
    assert len({row.case for row in rows}) == len(rows)


# ---- rows and report ----------------------------------------------------------------------------
def row(**changes):
    given = {
        "benchmark": "overhead",
        "case": "a",
        "value": 1.05,
        "unit": "x bare",
        "command": "diffusion-lab bench overhead",
        "goal": 1.1,
    }
    return Row(**given | changes)


@pytest.mark.parametrize(
    ("value", "goal", "at_least", "met"),
    [
        (1.1, 1.1, False, True),
        (1.11, 1.1, False, False),
        (1.4, 1.4, True, True),
        (1.39, 1.4, True, False),
        (5.0, None, False, None),
    ],
)
def test_goals(value, goal, at_least, met):
    assert row(value=value, goal=goal, at_least=at_least).met is met


def test_results_are_kept_row_by_row_and_replaced(tmp_path):
    first = Results(tmp_path)
    first.add(row(case="a"))
    first.add(row(case="b"))
    first.add(row(case="a", value=2.0))
    again = Results(tmp_path)
    assert [(one.case, one.value) for one in again.rows] == [("b", 1.05), ("a", 2.0)]
    assert again.rows == first.rows
    assert set(again.done("overhead", False)) == {"a", "b"}
    assert again.done("overhead", True) == again.done("quality", False) == ()
    again.add(row(case="c", machine="another"))
    assert "c" not in again.done("overhead", False)
    again.forget("overhead")
    assert again.rows == []
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text)["rows"][0]["met"] is True


def test_two_benchmarks_may_write_the_same_report(tmp_path):
    ours, theirs = Results(tmp_path), Results(tmp_path)
    ours.add(row(case="a"))
    theirs.add(row(benchmark="import", case="b"))  # began before a was written
    ours.forget("overhead")
    ours.add(row(case="c"))
    assert {(one.benchmark, one.case) for one in Results(tmp_path).rows} == {
        ("import", "b"),
        ("overhead", "c"),
    }


def test_damaged_results_are_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text('{"rows": [{}]}')
    with pytest.raises(DataError, match="move it away"):
        Results(tmp_path)
    assert (tmp_path / "results.json").read_text() == '{"rows": [{}]}'


def test_report_says_machine_goal_and_command_and_no_date():
    rows = [
        row(),
        row(case="slow", value=1.2, details={"NFE": 50}),
        row(benchmark="quality", case="108 core-s, guided, seed 0", value=1.0, goal=1.4),
        row(benchmark="quality", case="108 core-s, guided, seed 1", value=2.0, goal=1.4),
    ]
    text = report(rows)
    assert machine() in text
    assert "| a | 1.05 x bare | <= 1.1 | met |  | `diffusion-lab bench overhead` |" in text
    assert "| slow | 1.2 x bare | <= 1.1 | missed | NFE 50 |" in text
    assert "| 108 core-s, guided | 2 | 1.5 A | 1 to 2 A | <= 1.4 A | missed |" in text
    assert str(time.gmtime().tm_year) not in text.replace(machine(), "")
    assert report(rows) == text
    assert set(TITLES) == set(bench.BENCHMARKS)


# ---- overhead -----------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_overhead_counts_calls_and_draws():
    rows = list(overhead.run(quick=True))
    check(rows, "overhead")
    cases = {one.case: one for one in rows}
    for sampler in set(SAMPLERS) - {"emsde"}:  # which is no fixed number of fused operations
        assert cases[f"{sampler}, no bar"].goal == 1.15
        assert cases[f"{sampler}, bar"].goal == 1.20
    assert cases["ddim, no bar"].details["NFE"] == 4
    assert cases["ddim, no bar"].details["draws"] == 0
    assert cases["heun, no bar"].details["NFE"] == cases["dpm-solver, no bar"].details["NFE"] == 7
    assert cases["dpm-solver, order 3, no bar"].details["NFE"] == 10
    assert cases["emsde in steps of 1/50, no bar"].goal is None
    assert cases["ddpm, no bar"].details["draws"] == 3  # none at the last step
    assert cases["ddim, eta 1, no bar"].details["draws"] == 3


def test_overhead_sees_overhead():
    """A loop that does everything twice costs twice; one that does nothing else costs once."""
    once = overhead.Case("once", lambda: (overhead._bare(20, 0)(), (20, 0))[1])
    twice = overhead.Case("twice", lambda: (overhead._bare(40, 0)(), (20, 0))[1])
    a, b = overhead.compare([once, twice], repeats=9)
    assert 0.7 < a.value < 1.4
    assert 1.5 < b.value < 2.7


def test_peers_take_part():
    diffusers = pytest.importorskip("diffusers")
    names = [case.name for case in overhead.cases(4)]
    for scheduler in ("DDPMScheduler", "DDIMScheduler", "UniPCMultistepScheduler"):
        assert f"diffusers {diffusers.__version__}: {scheduler}, no bar" in names


# ---- the others ---------------------------------------------------------------------------------
def test_import_is_measured_in_a_fresh_process():
    rows = list(startup.run_import(quick=True))
    check(rows, "import")
    assert [one.details["heavy modules imported"] for one in rows] == ["none", "none"]


@pytest.mark.slow
def test_first_picture():
    rows = list(startup.run_first_picture(quick=True))
    check(rows, "first-picture")
    assert all(one.details["core-s"] > 0 for one in rows)


def test_shipped_models():
    rows = list(shipped.run(quick=True))
    check(rows, "shipped")
    assert torch.get_num_threads() == 1  # as conftest set it, and as it was before


@pytest.fixture
def small(monkeypatch):
    """Recipe ``fashion`` with a network of seconds."""
    net = {"name": "unet", "patch": 4, "widths": (8,), "attention": (False,), "emb": 16}
    recipe = recipes.get("fashion-1min").but(net=net, batch=8)
    monkeypatch.setattr(quality.recipes, "get", lambda name: recipe)
    return recipe


def test_training_keeps_to_its_budget(small):
    begin = time.process_time()
    model, steps, took = quality.train_within(small, 1.0, pilot=12)
    assert steps > 1
    assert 0 < took <= time.process_time() - begin
    assert model.num_classes == 10


def test_quality_rows_and_what_is_skipped(small, tmp_path):
    rows = bench.run(["quality"], quick=True, out=tmp_path)
    check(rows, "quality")
    assert [one.case for one in rows] == [
        f"2 core-s, {way}, 100 pictures, seed 0"
        for way in ("guided", "conditional", "unconditional")
    ]
    assert [one.details["NFE"] for one in rows] == [16, 8, 8]
    guided = rows[0]
    assert guided.details["scale"] == small.sampler["scale"]
    assert guided.value == pytest.approx(guided.details["FD"] / guided.details["A"], rel=1e-3)
    assert guided.details["A"] == metrics.anchor().value
    assert bench.run(["quality"], quick=True, out=tmp_path) == []  # all is done already
    assert len(Results(tmp_path).rows) == 3


def test_other_libraries_are_asked_about_the_same_noise_levels():
    """Our network under diffusers' timesteps, and theirs under our lambda, in the crossed rows."""
    from diffusion_lab.schedules import linear

    ours = peers._OnTimesteps()
    heard = []
    ours.net.forward = lambda x, lam: heard.append(lam) or x
    x = torch.zeros(2, 1, 28, 28)
    ours(x, torch.tensor([0, 999]))
    exact = [linear(1000).lam(0.001), linear(1000).lam(1.0)]
    assert heard[0].tolist() == pytest.approx(exact, rel=1e-6)

    pytest.importorskip("diffusers")
    theirs = peers.DiffusersNet()
    theirs.unet.forward = lambda x, timestep: heard.append(timestep) or type("", (), {"sample": x})
    theirs(x, torch.tensor([-4.0]))
    assert heard[1].tolist() == [1000.0, 1000.0]


def test_contestants_are_trained_for_the_budget_and_scored_alike(tmp_path, monkeypatch):
    """Pictures of the data have a distance near 0, noise a large one; nothing is measured twice."""
    x = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def contestant(pictures):
        def train(budget, seed):
            steps, took = peers._train(0.01, lambda x0, i: None, 4, seed)
            assert steps > 0 and took >= 0.01
            return lambda n, seed: pictures[:n], torch.nn.Linear(2, 1), {"steps": steps}

        return None, train

    from diffusion_lab import data

    known = {"real": contestant(data.load("fashion").x), "noise": contestant(x)}
    monkeypatch.setattr(peers, "CONTESTANTS", known)
    rows = bench.run(["peers"], out=tmp_path, budgets=[1], seeds=[0, 1], n=40)
    check(rows, "peers")
    assert [one.case for one in rows] == [
        f"1 core-s, {name}, 40 pictures, seed {seed}" for seed in (0, 1) for name in known
    ]
    assert all(one.details["parameters"] == 3 for one in rows)
    assert rows[0].value < 0.2 * rows[1].value
    assert bench.run(["peers"], out=tmp_path, budgets=[1], seeds=[0, 1], n=40) == []
    assert "| 1 core-s, noise, 40 pictures | 2 |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("options", [{"budgets": [0]}, {"budgets": []}, {"n": 1}])
@pytest.mark.parametrize("name", bench.LONG)
def test_long_ones_refuse(options, name):
    with pytest.raises(ValueError, match="got"):
        bench.run([name], **options)


# ---- the command --------------------------------------------------------------------------------
def test_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    def fake(*, quick):
        yield row(benchmark="import", command="diffusion-lab bench import", quick=quick)

    monkeypatch.setitem(bench.BENCHMARKS, "import", fake)
    monkeypatch.setattr(bench, "folder", lambda: tmp_path / "never")
    assert cli.main(["bench", "import", "--quick", "--json"]) == 0
    said = capsys.readouterr()
    (told,) = json.loads(said.out)
    assert FIELDS.keys() <= told.keys()
    assert said.err == "import: a: 1.05 x bare  (goal <= 1.1: met)\n"
    assert not list(tmp_path.iterdir())  # a quick run writes where it is told to, if it is
    assert cli.main(["bench", "import", "--quick", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "results.json"]
    assert "`diffusion-lab bench import --quick`" in (tmp_path / "report.md").read_text()
    assert cli.main(["bench", "import"]) == 0
    assert (tmp_path / "never" / "report.md").is_file()


def test_without_a_name_all_but_the_hours_are_run(tmp_path, capsys, monkeypatch):
    run = []
    for name in bench.BENCHMARKS:
        monkeypatch.setitem(
            bench.BENCHMARKS, name, lambda name=name, **_: iter([run.append(name)][:0])
        )
    assert cli.main(["bench", "--out", str(tmp_path)]) == 0
    assert run == list(bench.QUICK)
    run.clear()
    assert cli.main(["bench", "all", "--seeds", "3", "--out", str(tmp_path)]) == 0
    assert run == list(bench.BENCHMARKS)


@pytest.mark.slow
def test_scaling():
    from diffusion_lab.course.bench import scaling

    rows = list(scaling.run(quick=True))
    check(rows, "scaling")
    assert rows[0].goal == 1.4
    assert rows[0].at_least
    assert [one.goal for one in rows[1:]] == [1.25] * 3 and all(one.value >= 1 for one in rows[1:])


def test_time_over_flops_is_a_ratio_of_rates():
    from diffusion_lab.course.bench.scaling import Forward

    one = Forward(28, 16, 48, seconds=0.1, flops=4e9, parameters=1)
    assert one.over(one) == 1
    assert Forward(56, 16, 48, 0.5, 16e9, 1).over(one) == pytest.approx(1.25)


def test_costs_are_what_the_lessons_hold(tmp_path):
    rows = bench.run(["costs"], out=tmp_path)
    check(rows, "costs")
    table = costs.read(tmp_path)
    assert table == lessons.cost_rows()
    assert len(rows) == sum(bool(row.get("core-s / 1000")) for row in table) > 0
    assert {row.case.split(":")[0] for row in rows} <= {row["lesson"] for row in table}
    assert "## What the lessons measured" in (tmp_path / "report.md").read_text()
    (tmp_path / costs.FILE).write_text("[]")
    with pytest.raises(DataError, match="diffusion-lab bench costs"):
        costs.read(tmp_path)


def test_the_stored_cost_table_is_that_of_the_built_lessons():
    assert costs.read(bench.folder()) == lessons.cost_rows()


# ---- the solver race ----------------------------------------------------------------------------
def raced(sampler, asked, value, limit=False, kind="ODE"):
    details = {
        "model": "m",
        "sampler": sampler,
        "kind": kind,
        "asked": asked,
        "limit": limit,
        "NFE": asked,
        "seed": 0,
    }
    return row(
        benchmark="samplers", case=f"{sampler} {asked} {limit}", value=value, details=details
    )


def test_within_a_share_of_the_limit():
    limits = [raced("a", 100, 2.0, True), raced("b", 100, 1.0, True, "SDE")]
    mine = [raced("a", n, v) for n, v in ((5, 2.05), (10, 2.2), (20, 2.09), (50, 1.9))]
    assert results.within([*mine, *limits], "ODE") == 20, "5 calls came near by chance: 10 did not"
    assert results.within([*mine, *limits], "SDE") is None
    assert results.within(mine, "ODE") is None
    assert results.within([*mine, *limits], "ODE", 0.2) == 5


def test_the_race_is_a_table(tmp_path):
    some = Results(tmp_path)
    for one in (
        raced("a", 5, 3.0),
        raced("a", 10, 2.0),
        raced("b", 10, 2.5),
        raced("a", 100, 2.0, True),
    ):
        some.add(one)
    report = (tmp_path / "report.md").read_text()
    assert "| m | 5 calls | 10 calls | at most 5% above |" in report
    assert "| a | 3 | 2 | 10 |" in report
    assert "| b |  | 2.5 | no |" in report
    assert "Limit of the ODE (a, 100 calls): 2 A." in report


@pytest.mark.parametrize("calls", [5, 10, 20, 50])
def test_a_racer_spends_the_calls_it_is_given(calls):
    from diffusion_lab.exact import Gaussian
    from diffusion_lab.generate import generate
    from diffusion_lab.schedules import linear

    denoiser = Gaussian([0.0], [[0.3]]).denoiser(linear(1000))
    for name, racer in samplers.RACE.items():
        if name == "EMSDE":
            with pytest.raises(ValueError, match="chooses its own"):
                samplers.settings(name, denoiser, calls)
            continue
        nfe = generate(denoiser, 2, **samplers.settings(name, denoiser, calls)).nfe
        assert nfe == (calls - 1 + calls % 2 if racer.sampler == "heun" else calls), name


def test_the_race_plan():
    """Few calls first; limits end at 1/T, though uniform times of as many calls do not."""
    from diffusion_lab.exact import Gaussian
    from diffusion_lab.grids import grid
    from diffusion_lab.schedules import linear

    denoiser = Gaussian([0.0], [[0.3]]).denoiser(linear(1000))
    plan = samplers._plan(tuple(samplers.RACE), denoiser, None, False)
    assert len({one.text for one in plan}) == len(plan)
    asked = [one.calls for one in plan if one.when < 1000 and not one.limit]
    assert asked == sorted(asked)
    assert {one.name for one in plan} == set(samplers.RACE)
    limits = {samplers.RACE[one.name].kind: one for one in plan if one.limit}
    assert set(limits) == {"ODE", "SDE"}
    for one in limits.values():
        ends = [
            grid(denoiser.schedule, one.calls, s)[-2] for s in (one.given["spacing"], "uniform")
        ]
        assert ends == pytest.approx([1 / 1000, 1 / one.calls])
    slow = {one.calls for one in plan if samplers.RACE[one.name].kind == "SDE" and not one.limit}
    assert {100, 200} <= slow, "samplers that add noise need more calls to come near their limit"
    some = samplers._plan(("DDIM", "EMSDE"), denoiser, (7,), False)
    assert [one.calls for one in some if one.name == "DDIM"] == [7]


def test_a_racer_keeps_its_own_spacing_and_churn():
    from diffusion_lab.exact import Gaussian
    from diffusion_lab.schedules import EDM, linear

    vp, edm = (Gaussian([0.0], [[0.3]]).denoiser(s) for s in (linear(1000), EDM()))
    assert samplers.settings("UniPC-2", vp, 5)["spacing"] == "uniform"
    assert samplers.settings("UniPC-2", edm, 5)["spacing"] == "karras"
    assert samplers.settings("UniPC-2, lambda", vp, 5)["spacing"] == "lambda"
    assert "churn" not in samplers.settings("Heun", vp, 20)
    given = samplers.settings("Heun with churn", vp, 50)
    assert given["churn"] * given["steps"] == pytest.approx(samplers.CHURN)


def test_recorded_rows_are_the_full_ones_of_one_benchmark():
    rows = results.recorded("samplers")
    assert rows and {(row.benchmark, row.quick) for row in rows} == {("samplers", False)}
    mine = samplers.stored("fashion")
    assert mine and {row.details["model"] for row in mine} == {"fashion"}
    assert results.recorded("nothing of this name") == []
    ours = quality.stored()
    assert {(108, "guided"), (540, "guided")} <= {
        (float(row.case.split()[0]), row.case.split(", ")[1]) for row in ours
    }
    assert {row.details["pictures"] for row in ours} == {quality.PICTURES}


def test_the_stored_race_is_that_of_the_shipped_weights():
    """Trained anew, a model needs its race run anew: ``diffusion-lab bench samplers``."""
    from diffusion_lab.data import store

    shipped = store.index()["checkpoints/fashion-vp1000.safetensors"]["sha256"]
    rows = samplers.stored("fashion-vp1000")
    assert {row.details["weights"] for row in rows} == {shipped[:8]}
    assert {row.details["kind"] for row in rows if row.details["limit"]} == {"ODE", "SDE"}
    raced = {row.details["sampler"] for row in rows}
    assert raced == set(samplers.RACE), "a racer without a row, or a row without its racer"


# ---- what is measured for lessons ---------------------------------------------------------------
def test_a_part_is_put_beside_the_others_and_registered(tmp_path, monkeypatch, capsys):
    from diffusion_lab.course.bench import measured
    from diffusion_lab.data import store

    folder = tmp_path / "data"
    (folder / "measured").mkdir(parents=True)
    (folder / "index.json").write_text("{}")
    monkeypatch.setattr(store, "_PACKAGED", folder)
    name = "measured/some.json"
    measured.add(name, "one", {"a": 1}, "python some.py", unit="A")
    measured.add(name, "two", {"b": 2}, "python some.py")
    measured.add(name, "one", {"c": 3}, "python some.py", into=True)
    said = json.loads((folder / name).read_text())
    assert said["parts"] == {"one": {"a": 1, "c": 3}, "two": {"b": 2}}
    assert said["unit"] == "A" and "1 thread" in said["machine"]
    measured.add(name, "one", {"d": 4}, "python other.py")
    said = json.loads((folder / name).read_text())
    assert said["parts"]["one"] == {"d": 4} and said["command"] == "python other.py"
    assert store.index()[name]["recipe"] == "python other.py"
    assert store.path(name).is_file()  # its sum is that of the index
    assert capsys.readouterr().out.count("written: data/measured/some.json") == 4
