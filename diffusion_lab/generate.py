"""From a seed to pictures: a step from a paper, a time grid, and the walk that joins them.

states = walk(ddim(), denoiser, x, grid(denoiser.schedule, 20))      # watch it
result = generate(denoiser, 64, sampler="ddim", steps=20, seed=0)    # or just have pictures
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import generator
from diffusion_lab.errors import check_arguments, unknown, whole
from diffusion_lab.grids import grid
from diffusion_lab.guidance import guided
from diffusion_lab.samplers.ddim import ddim
from diffusion_lab.samplers.ddpm import ddpm
from diffusion_lab.samplers.dpm_solver import (
    dpm_solver,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
)
from diffusion_lab.samplers.emsde import emsde
from diffusion_lab.samplers.heun import euler, heun
from diffusion_lab.samplers.sde import (
    annealed_langevin,
    euler_maruyama,
    predictor_corrector,
    reverse_diffusion,
)
from diffusion_lab.samplers.unipc import unipc
from diffusion_lab.walk import Result, gaussian, sample, walk

__all__ = ["SAMPLERS", "generate", "start_noise"]

SAMPLERS: dict[str, Callable[..., Any]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpmpp": dpmpp_2m,
    "dpmpp-2s": dpmpp_2s,
    "dpmpp-3m": dpmpp_3m,
    "dpmpp-sde": dpmpp_sde,
    "dpm-solver": dpm_solver,
    "unipc": unipc,
    "euler": euler,
    "heun": heun,
    "emsde": emsde,
    "euler-maruyama": euler_maruyama,
    "reverse-diffusion": reverse_diffusion,
    "predictor-corrector": predictor_corrector,
    "annealed-langevin": annealed_langevin,
}


def start_noise(denoiser: Denoiser, n: int, t: float, gen: torch.Generator, like: Tensor) -> Tensor:
    """n draws of the noise that sampling starts from at time t, shaped as the denoiser's data."""
    n = whole("the number of samples", n)
    if denoiser.shape is None:
        raise ValueError("this denoiser does not know the shape of its data: draw x yourself")
    z = torch.randn((n, *denoiser.shape), generator=gen) * denoiser.schedule.prior_std(t)
    return z.to(like)


def generate(
    denoiser: Denoiser,
    n: int,
    *,
    sampler: str = "dpmpp",
    steps: int = 20,
    spacing: str | None = None,
    lam_range: tuple[float, float] | None = None,
    scale: float | None = None,
    label: Tensor | None = None,
    seed: int = 0,
    batch: int = 500,
    bar: bool = False,
    keep: bool = False,
    **options: Any,
) -> Result:
    """n samples: the whole way from a seed to data, in batches of ``batch``.

    Args:
        steps: moves; one call each for most samplers, ``order`` calls for single-step solvers (see
            ``split_calls``), two for heun. emsde chooses its own and does not look at it.
        sampler: one of ``SAMPLERS``; further ``options`` go to its step (``eta``, ``variance``).
        spacing: of the time grid; karras for schedules without alpha, else uniform.
        lam_range: where the grid may ask; the denoiser's own range by default.
        scale: guidance (1 conditional, 0 unconditional); None calls the denoiser as it is.
        label: (n,) int64 classes, for a conditional denoiser.

    Returns a Result with x (n, ...) on the denoiser's device; ``nfe`` counts calls for one sample.
    ValueError for an unknown sampler or spacing, labels of another shape, a scale without labels,
    or ``keep`` for more than one batch.
    """
    if not isinstance(denoiser, Denoiser):
        raise ValueError(
            "generate takes a denoiser, such as checkpoints.load_denoiser('fashion'); "
            f"got {denoiser!r}"
        )
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    check_arguments(f"the sampler {sampler!r}", SAMPLERS[sampler], options)
    clip = options.get("clip")
    if clip is not None and len(clip if isinstance(clip, tuple | list) else ()) != 2:
        raise ValueError(f"clip takes (lowest, highest) of x_0; got {clip!r}")
    n, batch = whole("the number of samples", n), whole("batch", batch)
    if label is not None:
        if not isinstance(label, Tensor):
            raise ValueError(
                f"label must be an int64 tensor of {n} classes, such as torch.full(({n},), 9); "
                f"got {label!r}"
            )
        denoiser.check_label(label, n)  # before guidance, which asks for twice as many
    if scale is not None and label is None:
        raise ValueError(f"guidance scale {scale:g} needs labels: give label=..., or scale=None")
    if keep and n > batch:
        raise ValueError(f"keep=True keeps the path of one batch: ask for n <= batch = {batch}")
    if scale is not None and scale != 1:
        denoiser = guided(denoiser, scale)
    step = SAMPLERS[sampler](**options)
    schedule = denoiser.schedule
    if spacing is None:
        spacing = "uniform" if schedule.vp else "karras"
    if hasattr(step, "states"):  # it chooses its own steps: only the ends are wanted
        steps, spacing = 2, "linspace"
    times = grid(schedule, steps, spacing, lam_range=lam_range or denoiser.lam_range)
    like = next(denoiser.parameters(), torch.zeros(()))
    gen = generator(seed)
    x = start_noise(denoiser, n, times[0], gen, like)
    noise = gaussian(gen)
    results = []
    for begin in range(0, n, batch):
        part = slice(begin, begin + batch)
        condition = {} if label is None else {"label": label[part].to(like.device)}
        states = walk(step, denoiser, x[part], times, noise=noise, **condition)
        results.append(sample(states, bar=bar, keep=keep))
    return Result(
        torch.cat([r.x for r in results]),
        -(-sum(r.nfe * len(r.x) for r in results) // n),  # batches differ for emsde alone
        sum(r.seconds for r in results),
        results[0].path,
    )
