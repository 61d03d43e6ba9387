"""Energy and carbon of computing. Every figure is an estimate, and carries what it assumes.

    kWh      = devices x watts x hours x PUE / 1000
    kg CO2   = kWh x kg/kWh of the grid
    N*       = E_train / (E_slow - E_fast)        pictures after which a faster model has paid

PUE is what the whole building draws for each watt that computes. The survey's introduction: 512
GPUs of 250 W for 216 hours are 27,648 kWh (PUE 1), the yearly use of 2.6 homes. The grid's factor
differs by more than ten between countries, so a mass of CO2 without it says nothing.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from diffusion_lab.errors import number

__all__ = [
    "CORE_WATTS",
    "GPU_WATTS",
    "HOME_KWH",
    "KG_CO2_PER_KG_COAL",
    "KG_PER_KWH",
    "PUE",
    "Energy",
    "PowerMeter",
    "break_even",
    "co2",
    "coal",
    "homes",
    "kwh",
    "v100_days",
]

CORE_WATTS = 15.0  # of one busy CPU core
GPU_WATTS = 250.0  # of one board, where it cannot be read
PUE = 1.1
KG_PER_KWH = 0.4
HOME_KWH = 10_649.0  # one home in the United States in a year, as in the survey
KG_CO2_PER_KG_COAL = 1.995  # burnt
V100_PEAK = 15.7e12  # FLOP/s in float32
RAPL = Path("/sys/class/powercap")


def kwh(watts: float, hours: float, devices: int = 1, pue: float = PUE) -> float:
    """Energy of ``devices`` that draw ``watts`` each for ``hours``, the building's share added."""
    for what, given in {"watts": watts, "hours": hours, "devices": devices}.items():
        number(what, given)
    number("PUE", pue, 1.0)
    return devices * watts * hours * pue / 1000


def co2(energy: float, factor: float = KG_PER_KWH) -> float:
    """kg of CO2 for ``energy`` in kWh."""
    return number("an energy", energy) * number("kg of CO2 for a kWh", factor)


def coal(kg_co2: float) -> float:
    """kg of coal that give off that much CO2 when burnt."""
    return number("kg of CO2", kg_co2) / KG_CO2_PER_KG_COAL


def homes(energy: float) -> float:
    """How many homes' yearly electricity ``energy`` in kWh is."""
    return number("an energy", energy) / HOME_KWH


def break_even(train: float, slow: float, fast: float) -> float:
    """N*: pictures after which ``train`` (spent to get from ``slow`` to ``fast`` each) is repaid.

    Any one unit (joules, core-seconds, kg). ``inf`` where nothing is saved.
    """
    for what, given in {"train": train, "slow": slow, "fast": fast}.items():
        number(what, given)
    return train / (slow - fast) if slow > fast else math.inf


def v100_days(flops: float, utilisation: float = 0.3, peak: float = V100_PEAK) -> float:
    """V100-days, the unit of published trainings, of a number of FLOPs.

    Rests on an assumed ``utilisation`` of ``peak`` FLOP/s (125e12 with tensor cores): never mix it
    with measured device-seconds.
    """
    for what, given in {"utilisation": utilisation, "peak": peak}.items():
        number(what, given, above=True)
    return number("a number of FLOPs", flops) / (peak * utilisation * 86_400)


@dataclass(frozen=True)
class Energy:
    """An estimate of energy: ``joules`` drawn by the device, and where the number is from."""

    joules: float
    source: str
    pue: float = PUE
    factor: float = KG_PER_KWH

    @property
    def kwh(self) -> float:
        """With the building's share (PUE)."""
        return self.joules * self.pue / 3.6e6

    @property
    def kg_co2(self) -> float:
        return co2(self.kwh, self.factor)

    def __str__(self) -> str:
        return (
            f"estimate: {self.joules:.4g} J ({self.source}); with PUE {self.pue:g} "
            f"{1000 * self.kwh:.3g} Wh and {1000 * self.kg_co2:.3g} g CO2 ({self.factor:g} kg/kWh)"
        )


class PowerMeter:
    """Time and energy of what runs inside: ``with PowerMeter() as m: ...``, then ``m.energy``.

    ``m.core_seconds`` (CPU time of the process, all cores) and ``m.seconds`` (wall clock) too.

    On a CPU the machine's own counters (RAPL) where they can be read, else this process's
    core-seconds times ``watts`` (15 a core unless given). On a GPU the board's power, sampled,
    where it can be read, else seconds times ``watts`` (250 unless given). Giving ``watts`` skips
    counters and sampling. RAPL counts everything that runs on the machine, a board's power all
    that runs on the board; core-seconds are those of this process alone.

    Args:
        device: what computes.
        watts: of one core, or of one board.
        rapl: the folder of the counters.
        power: reads the board's power in watts.
    """

    def __init__(
        self,
        device: str | torch.device = "cpu",
        watts: float | None = None,
        *,
        rapl: Path = RAPL,
        power: Callable[[], float] | None = None,
        every: float = 0.1,
    ) -> None:
        if watts is not None:
            number("watts", watts)
        self.device, self.watts, self.every = torch.device(device), watts, every
        self.rapl, self.power = rapl, power
        self.energy: Energy | None = None
        self.core_seconds = self.seconds = 0.0

    def __enter__(self) -> PowerMeter:
        self._counters = {} if self.watts is not None or self._gpu else _counters(self.rapl)
        self._board = None
        if self._gpu and self.watts is None:
            with contextlib.suppress(Exception):  # no driver or no library: it cannot be read
                self._board = _Board(self.power or self._nvml, self.every)
        self._wait()
        self._core, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        core, wall = time.process_time() - self._core, time.perf_counter() - self._wall
        self.core_seconds, self.seconds = core, wall
        if self._board is not None:
            mean = self._board.stop()
            self.energy = Energy(mean * wall, f"board power sampled, {mean:.0f} W on average")
        elif self._gpu:
            watts = GPU_WATTS if self.watts is None else self.watts
            self.energy = Energy(watts * wall, f"{watts:g} W a board assumed")
        elif self._counters:
            joules = _drawn(self._counters, _counters(self.rapl))
            self.energy = Energy(joules, "RAPL counters of the whole machine")
        else:
            watts = CORE_WATTS if self.watts is None else self.watts
            self.energy = Energy(watts * core, f"{watts:g} W a core assumed")

    def _wait(self) -> None:
        """A GPU answers before it has finished: wait for it."""
        if self.device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    @property
    def _gpu(self) -> bool:
        return self.device.type != "cpu"

    def _nvml(self) -> float:
        return torch.cuda.power_draw(self.device) / 1000  # milliwatts; needs nvidia-ml-py


def _counters(folder: Path) -> dict[str, tuple[int, int]]:
    """Microjoules and range of each processor package's counter; empty where unreadable."""
    found = {}
    try:
        for zone in sorted(folder.glob("intel-rapl:*")):
            # the parts of a package are counted in it, and "psys" counts the package again
            if zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package"):
                pair = (zone / "energy_uj", zone / "max_energy_range_uj")
                found[zone.name] = tuple(int(file.read_text()) for file in pair)
    except (OSError, ValueError):
        return {}
    return found


def _drawn(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float:
    """Joules between two readings; a counter that fell has passed its range once."""
    total = 0
    for name, (start, span) in before.items():
        end = after.get(name, (start, span))[0]
        total += end - start + (span if end < start else 0)
    return total / 1e6


class _Board:
    """A power in watts, sampled in a thread until ``stop`` gives the mean."""

    def __init__(self, read: Callable[[], float], every: float) -> None:
        self._values, self._read, self._every = [float(read())], read, every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(self._every):
            with contextlib.suppress(Exception):  # a sample that a driver refuses is left out
                self._values.append(float(self._read()))

    def stop(self) -> float:
        self._end.set()
        self._thread.join()
        return sum(self._values) / len(self._values)
