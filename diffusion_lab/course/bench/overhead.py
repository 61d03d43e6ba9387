"""What the sampling loop costs above its network calls, here and in other libraries.

Ratio = whole run / (NFE x net(x, t) with t ready, plus one randn for each draw of noise).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import grids, schedules
from diffusion_lab.course.bench.conditions import one_thread
from diffusion_lab.course.bench.results import Row
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator, randn
from diffusion_lab.generate import SAMPLERS
from diffusion_lab.schedules import Schedule
from diffusion_lab.walk import sample, walk

__all__ = ["cases", "compare", "k_diffusion_sampling", "run"]

BATCH, STEPS, T = 256, 50, 1000
COMMAND = "diffusion-lab bench overhead"
TOLD = ("solver_order", "algorithm_type")  # options of a peer that its row names


class Net(nn.Module):
    """2-128-128-128-2. It ignores lambda: the cheapest network makes the strictest ratio."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(2, 128), (128, 128), (128, 128)]
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 2))

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        return self.layers(x)


@dataclass
class Case:
    """A sampler ready to run. ``whole()`` returns (NFE, draws of noise)."""

    name: str
    whole: Callable[[], tuple[int, int]]
    goal: float | None = None
    ratios: list[float] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)  # (whole, bare)
    nfe: int = 0
    draws: int = 0


def run(*, quick: bool = False) -> Iterator[Row]:
    """Rows of all samplers here with and without a progress bar, and of the peers installed."""
    with one_thread():
        steps, repeats = (4, 3) if quick else (STEPS, 60)
        yield from compare(cases(steps), repeats, quick)


def compare(some: list[Case], repeats: int, quick: bool = False) -> Iterator[Row]:
    """Time every case against its bare calls ``repeats`` times, in turns; yields a row for each."""
    for case in some:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            case.nfe, case.draws = case.whole()  # to count, and to warm up
            bare = _bare(case.nfe, case.draws)
            bare()
            for i in range(repeats):
                if i % 2:
                    pair = _seconds(case.whole), _seconds(bare)
                else:
                    pair = (_seconds(bare), _seconds(case.whole))[::-1]
                case.ratios.append(pair[0] / pair[1])
                case.seconds.append(pair)
        q1, median, q3 = statistics.quantiles(case.ratios, n=4)
        best = min(w for w, _ in case.seconds) / min(b for _, b in case.seconds)
        details = {
            "NFE": case.nfe,
            "draws": case.draws,
            "repeats": repeats,
            "quartiles": f"{q1:.3f} to {q3:.3f}",
            "fastest over fastest": round(best, 3),
        }
        yield Row(
            "overhead",
            case.name,
            round(median, 4),
            "x bare",
            COMMAND,
            case.goal,
            details=details,
            quick=quick,
        )


def _seconds(f: Callable[[], object]) -> float:
    begin = time.process_time()
    f()
    return time.process_time() - begin


def _network() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval().requires_grad_(False)


_NET, _X, _TIME = _network(), randn((BATCH, 2), generator(1)), torch.zeros(1)


def _bare(nfe: int, draws: int) -> Callable[[], None]:
    gen = generator(2)

    def calls() -> None:
        net, x, t = _NET, _X, _TIME
        with torch.no_grad():
            for i in range(nfe):
                net(x, t)
                if i < draws:
                    randn((BATCH, 2), gen)

    return calls


# ---- who takes part -----------------------------------------------------------------------------
def cases(steps: int = STEPS) -> list[Case]:
    """Every sampler of the course, without and with a bar, then the peers that are installed."""
    table, edm = schedules.linear(T), schedules.EDM(20.0)
    ours: list[tuple[str, str, dict[str, Any], Schedule]] = [
        *((name, name, {}, table) for name in SAMPLERS if name != "emsde"),
        ("dpm-solver, order 3", "dpm-solver", {"order": 3}, table),
        ("unipc, order 3", "unipc", {"order": 3}, table),
        ("ddim, eta 1", "ddim", {"eta": 1.0}, table),
        ("dpmpp on the EDM schedule", "dpmpp", {}, edm),
    ]
    return [
        *(_ours(f"{n}, no bar", s, o, sc, steps, False, 1.15) for n, s, o, sc in ours),
        _ours("emsde in steps of 1/50, no bar", "emsde", {"fixed": 0.02}, table, steps, False),
        *(_ours(f"{n}, bar", s, o, sc, steps, True, 1.20) for n, s, o, sc in ours),
        *_diffusers(steps),
        *_k_diffusion(steps),
    ]


def _ours(
    name: str,
    sampler: str,
    options: dict[str, Any],
    schedule: Schedule,
    steps: int,
    bar: bool,
    goal: float | None = None,
) -> Case:
    kind, sd = ("v", 1.0) if schedule.vp else ("edm", 0.5)
    denoiser = NetDenoiser(_NET, schedule, kind, sd=sd)
    step, gen = SAMPLERS[sampler](**options), generator(3)

    def whole() -> tuple[int, int]:
        draws = 0

        def noise(i: int, like: Tensor) -> Tensor:
            nonlocal draws
            draws += 1
            return randn(like.shape, gen)

        times = grids.grid(schedule, steps, "uniform" if schedule.vp else "karras")
        return sample(walk(step, denoiser, _X, times, noise=noise), bar=bar).nfe, draws

    return Case(name, whole, goal)


def _diffusers(steps: int) -> Iterator[Case]:
    if importlib.util.find_spec("diffusers") is None:
        return
    import diffusers

    common = {"num_train_timesteps": T, "beta_schedule": "linear"}
    common["prediction_type"] = "v_prediction"
    version = f"diffusers {diffusers.__version__}"
    for cls, options, draws in (
        (diffusers.DDPMScheduler, {"clip_sample": False}, steps - 1),
        (diffusers.DDIMScheduler, {"clip_sample": False}, 0),
        (diffusers.DPMSolverMultistepScheduler, {}, 0),
        (diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}, 0),
        (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, steps - 1),
        (diffusers.DPMSolverSinglestepScheduler, {"lower_order_final": True}, 0),
        (diffusers.UniPCMultistepScheduler, {}, 0),
        (diffusers.UniPCMultistepScheduler, {"solver_order": 3}, 0),
    ):
        scheduler = cls(**common, **options)

        def whole(
            scheduler: Any = scheduler, draws: int = draws, cls: Any = cls
        ) -> tuple[int, int]:
            gen, x = generator(3), _X
            with torch.no_grad():
                scheduler.set_timesteps(steps)
                for t in scheduler.timesteps:
                    more = {"generator": gen} if draws or cls is diffusers.DDIMScheduler else {}
                    x = scheduler.step(_NET(x, t), t, x, return_dict=False, **more)[0]
            return steps, draws

        about = "".join(f", {key} {value}" for key, value in options.items() if key in TOLD)
        yield Case(f"{version}: {cls.__name__}{about}, no bar", whole)


def k_diffusion_sampling() -> ModuleType:
    """k-diffusion's module ``sampling`` alone: its package imports a dozen libraries more.

    Raises ImportError if it, torchsde, torchdiffeq or scipy is not installed.
    """
    if "k_diffusion" not in sys.modules:
        found = importlib.util.find_spec("k_diffusion")  # finds the package, does not run it
        if found is None or found.submodule_search_locations is None:
            raise ImportError("k-diffusion is not installed")
        parent = ModuleType("k_diffusion")
        parent.__path__ = list(found.submodule_search_locations)
        sys.modules["k_diffusion"] = parent
    return importlib.import_module("k_diffusion.sampling")


def _k_diffusion(steps: int) -> Iterator[Case]:
    try:
        sampling = k_diffusion_sampling()
    except Exception:  # it is not installed, or something that it needs is not
        return

    sigmas = sampling.get_sigmas_karras(steps, 0.002, 20.0)
    silent = {"eta": 0.0, "noise_sampler": lambda *_: 0.0}
    for name, options in (
        ("sample_euler", {}),
        ("sample_euler_ancestral", {}),
        ("sample_heun", {}),
        ("sample_dpmpp_2s_ancestral", silent),
        ("sample_dpmpp_2m", {}),
        ("sample_dpmpp_3m_sde", silent),
    ):
        sampler = getattr(sampling, name)
        calls = 2 * steps - 1 if "heun" in name or "2s" in name else steps

        def whole(
            sampler: Any = sampler, name: str = name, options: Any = options, calls: int = calls
        ) -> tuple[int, int]:
            with torch.no_grad():
                sampler(lambda x, sigma: _NET(x, sigma), _X * 20, sigmas, disable=True, **options)
            return calls, steps - 1 if name == "sample_euler_ancestral" else 0

        yield Case(f"k-diffusion: {name}, no bar", whole)
