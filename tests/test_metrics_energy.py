"""Energy and carbon: the survey's own examples, units, meters; and the cost of anything."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffusion_lab import schedules
from diffusion_lab.data.toys import grid
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.generate import generate
from diffusion_lab.guidance import guided
from diffusion_lab.metrics import cost as costs
from diffusion_lab.metrics import energy
from diffusion_lab.metrics.cost import Cost, Meter, count_flops, measure, meter, table, timing
from diffusion_lab.metrics.energy import Energy, PowerMeter
from diffusion_lab.nets import MLP


# ---- the survey's introduction ------------------------------------------------------------------
def test_megatron_lm_is_nearly_three_homes():
    used = energy.kwh(250, 216, devices=512, pue=1)
    assert used == 27_648
    assert round(energy.homes(used), 2) == 2.60


def test_stable_diffusion_is_nearly_seven_tonnes_of_coal_or_less():
    """150,000 hours of 250 W: the claim rests on the factor of the grid."""
    used = energy.kwh(250, 150_000, pue=1)
    assert used == 37_500
    assert energy.co2(used, 0.37) == pytest.approx(13_875)
    assert int(energy.coal(energy.co2(used, 0.37))) == 6_954
    assert energy.co2(used, 0.30) == pytest.approx(11_250)
    assert int(energy.coal(energy.co2(used, 0.30))) == 5_639


def test_ddpm_takes_a_second_and_a_half_a_picture():
    ddpm = Cost(50_000, 1000, 35_700_000, 0.0, 20 * 3600, 20 * 3600, "cuda")
    assert ddpm.seconds_per_picture == 1.44 and ddpm.device_seconds == 72_000
    gan = Cost(50_000, 1, 0, 0.0, 60, 60, "cuda")
    assert ddpm.seconds_per_picture / gan.seconds_per_picture == 1200


def test_break_even():
    assert energy.break_even(1000, 3.0, 1.0) == 500
    assert energy.break_even(0, 3.0, 1.0) == 0
    assert energy.break_even(1000, 1.0, 1.0) == energy.break_even(1000, 1.0, 2.0) == math.inf


def test_units():
    assert energy.kwh(1000, 1) == 1.1  # the building's share
    assert energy.kwh(15, 2, devices=4) == pytest.approx(2 * energy.kwh(15, 1, devices=4))
    one = Energy(3.6e6, "a kilowatt-hour")
    assert one.kwh == pytest.approx(1.1) and one.kg_co2 == pytest.approx(0.44)
    assert str(one).startswith("estimate: 3.6e+06 J") and "(a kilowatt-hour); with PUE 1.1" in str(
        one
    )
    assert energy.v100_days(15.7e12 * 86_400, utilisation=1) == 1
    assert energy.v100_days(15.7e12 * 86_400, utilisation=0.25) == 4
    for what, wrong in {"watts": {"watts": -1}, "PUE": {"pue": 0.9}}.items():
        with pytest.raises(ValueError, match=f"{what} must be a finite number >="):
            energy.kwh(**({"watts": 1, "hours": 1} | wrong))


# ---- reading power ------------------------------------------------------------------------------
def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_assumed_watts_times_core_seconds(tmp_path):
    with PowerMeter(rapl=tmp_path) as m:
        busy(0.05)
    assert 0.05 <= m.core_seconds < 0.2 and m.seconds >= 0.99 * m.core_seconds
    assert m.energy.joules == 15 * m.core_seconds and m.energy.source == "15 W a core assumed"
    with PowerMeter(watts=4, rapl=tmp_path) as m:
        busy(0.01)
    assert m.energy.joules == 4 * m.core_seconds
    with pytest.raises(ValueError, match="watts must be a finite number >= 0"):
        PowerMeter(watts=-1)


def zone(folder, name, label, value):
    (folder / name).mkdir(exist_ok=True)
    for file, text in (("name", label), ("energy_uj", value), ("max_energy_range_uj", 10_000_000)):
        (folder / name / file).write_text(f"{text}\n")


def test_rapl_counters_by_package_and_past_their_range(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 9_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 0)
    zone(tmp_path, "intel-rapl:2", "psys", 0)
    with PowerMeter(rapl=tmp_path) as m:
        zone(tmp_path, "intel-rapl:0", "package-0", 3_500_000)
        zone(tmp_path, "intel-rapl:1", "package-1", 1_000_000)  # 10 J is the range: 2 J drawn
        zone(tmp_path, "intel-rapl:0:0", "core", 2_000_000)
        zone(tmp_path, "intel-rapl:2", "psys", 5_000_000)
    assert m.energy.joules == pytest.approx(2.5 + 2.0) and "RAPL" in m.energy.source
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("not a number")
    with PowerMeter(rapl=tmp_path) as m:
        pass
    assert "assumed" in m.energy.source


def test_watts_that_are_given_are_not_read_from_a_board():
    with PowerMeter("meta", watts=300, power=lambda: 70.0) as m:
        pass
    assert "300 W a board assumed" in m.energy.source


def test_a_boards_power_is_sampled_or_assumed():
    readings = iter([100.0, 300.0] + [200.0] * 10_000)
    with PowerMeter("meta", power=lambda: next(readings), every=0.002) as m:
        time.sleep(0.05)
    assert 100 <= m.energy.joules / m.seconds <= 300 and "sampled" in m.energy.source

    def broken() -> float:
        raise RuntimeError("no driver")

    with PowerMeter("meta", power=broken) as m:
        time.sleep(0.01)
    assert m.energy.joules == 250 * m.seconds and m.energy.source == "250 W a board assumed"


# ---- the cost of anything -----------------------------------------------------------------------
@pytest.fixture
def model():
    return NetDenoiser(
        MLP(dim=2, width=16, num_classes=3), schedules.linear(), "eps", shape=(2,), num_classes=3
    )


def test_the_meter_sees_what_the_walk_counts(model):
    with Meter(model, pictures=10) as m:
        run = generate(model, 10, steps=6, sampler="ddim", batch=4)
    _, short = measure(model, lambda: generate(model, 10, steps=6, sampler="ddim"), pictures=10)
    assert m.cost.nfe == run.nfe == short.nfe == 6 and isinstance(m.cost.nfe, int)
    assert m.cost.flops == short.flops == 6 * count_flops(model)
    assert m.cost.parameters == short.parameters and m.cost.row().keys() == short.row().keys()
    assert "forward" not in vars(model.net)  # left as it was


def test_guidance_counts_twice_and_a_wrapper_does_not_hide_the_network(model):
    label = torch.zeros(8, dtype=torch.int64)
    twice = guided(model, 2.0)
    with Meter(twice, pictures=8) as m:
        generate(twice, 8, steps=3, sampler="ddim", label=label)
    assert m.cost.nfe == 6 and m.cost.flops == 6 * count_flops(model)


def test_linear_in_steps_and_in_pictures(model):
    def spent(n, steps):
        with Meter(model, pictures=n) as m:
            generate(model, n, steps=steps, sampler="ddim")
        return m.cost

    assert spent(5, 8).flops == 2 * spent(5, 4).flops == 2 * spent(50, 4).flops


def test_an_exact_denoiser_and_a_generator_of_one_call():
    exact = grid().denoiser(schedules.cosine())
    with Meter(exact, pictures=7) as m:
        generate(exact, 7, steps=5, sampler="ddim")
    assert m.cost.nfe == 5 and m.cost.parameters == 0
    gan = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 9))
    with Meter(gan, pictures=20) as m:
        gan(torch.randn(20, 4))
    assert m.cost.nfe == 1 and m.cost.flops == 2 * (4 * 16 + 16 * 9)
    assert m.cost.parameters == 4 * 16 + 16 + 16 * 9 + 9


def test_a_cascade_is_the_sum_of_its_stages_and_shared_weights_count_once():
    small, large = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
    large.bias = nn.Parameter(torch.zeros(1))
    with Meter(small, large, small, pictures=4) as m:
        large(small(torch.zeros(4, 1, 8, 8)))
        small(torch.zeros(4, 1, 16, 16))  # the same network at another size
    assert m.cost.nfe == 3 and m.cost.parameters == 18 + 2 + 18 + 1
    assert m.cost.flops == 2 * 18 * (64 + 64 + 256)
    tied = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    tied[1].weight = tied[0].weight
    with Meter(*tied, pictures=1) as m:
        tied[1](tied[0](torch.zeros(1, 3)))
    assert m.cost.parameters == 9 and m.cost.nfe == 2


def test_meters_nest_and_survive_an_error():
    net = nn.Linear(2, 2)
    with Meter(net, pictures=1) as outer:
        with Meter(net, pictures=1) as inner:
            net(torch.zeros(1, 2))
        net(torch.zeros(1, 2))
    assert (outer.cost.nfe, inner.cost.nfe) == (2, 1)
    failing = Meter(net, pictures=1)
    with pytest.raises(RuntimeError), failing:
        net(torch.zeros(1, 3))
    assert failing.cost is None and "forward" not in vars(net)


def test_samples_that_stop_by_themselves_give_a_fractional_nfe():
    net = nn.Linear(2, 2)
    with Meter(net, pictures=4) as m:
        net(torch.zeros(4, 2))
        net(torch.zeros(1, 2))
    assert m.cost.nfe == 1.25


def test_latency_and_throughput_are_medians_after_a_warm_up(monkeypatch):
    now, calls = [0.0], []
    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 2 * now[0])
    monkeypatch.setattr(energy, "time", clock)

    def make(n: int) -> None:
        calls.append(n)
        now[0] += 50.0 if len(calls) in (1, 4) else 0.5 * n  # slow to start, and one hiccup

    found = timing(make, 4, repeats=5)
    assert calls == [4] * 6
    assert (found.median, found.low, found.high, found.cpu_median) == (2, 2, 50, 4)
    assert found.throughput == 2 and found.threads == torch.get_num_threads()
    assert str(found).startswith("4 at once: median 2 s (2 to 50, 5 repeats")
    with pytest.raises(ValueError, match="repeats must be a whole number >= 1"):
        timing(make, 1, repeats=0)


def test_timing_is_of_one_picture_five_times_after_one_unless_told_otherwise():
    asked = []
    found = timing(asked.append)
    assert asked == [1] * 6 and (found.pictures, found.repeats) == (1, 5)


def test_everything_at_once(model):
    found = meter(
        lambda n: generate(model, n, steps=4, sampler="ddim"),
        model,
        pictures=16,
        repeats=3,
        watts=10,
    )
    assert found.pictures == 48 and found.nfe == 4
    assert found.energy.joules == 10 * found.cpu_seconds and found.latency > 0 < found.throughput
    row = found.full_row()
    assert list(row)[:4] == list(found.row()) and "J / picture (estimate)" in row
    joules = found.energy.joules / 48
    assert row["J / picture (estimate)"] == pytest.approx(joules, rel=0.01)
    grams = joules * 1.1 / 3.6e6 * 0.4 * 1000 * 1000
    assert row["g CO2 / 1000 (estimate)"] == pytest.approx(grams, rel=0.01)
    assert "latency (s)" not in Cost(1, 1, 1, 1.0, 1.0, 1.0).full_row()


def test_table_of_rows_with_different_columns():
    text = table(
        [
            {"FD / A": 1.2, "NFE": 50, "lesson": "00", "system": "DDIM"},
            {"lesson": "01", "system": "a long name", "NFE": 8, "bits/dim": 2.31},
        ]
    )
    assert text.splitlines() == [
        "lesson  system       NFE  FD / A  bits/dim",
        "00      DDIM          50     1.2         -",
        "01      a long name    8       -      2.31",
    ]
    with pytest.raises(ValueError, match="no rows"):
        table([])
    assert costs.table is table  # metrics.cost stays a module


def test_errors(model):
    with pytest.raises(ValueError, match="must be a whole number >= 1; got 0"):
        Meter(model, pictures=0)
    for wrong in ((), (lambda n: n,)):
        with pytest.raises(ValueError, match="give the modules"):
            Meter(*wrong, pictures=1)


def test_measures_import_without_heavy_libraries():
    code = (
        "import sys, diffusion_lab.metrics as m; from diffusion_lab.metrics import distances, "
        "likelihood, energy; heavy = {'sklearn', 'scipy', 'torchvision', 'torchmetrics', "
        "'matplotlib'}; print(sorted(heavy & set(sys.modules)), m.cost.table is m.cost.table)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] True"
