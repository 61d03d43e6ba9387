"""From a seed to pictures: a step from a paper, a time grid, and the walk that joins them.

states = walk(ddim(), denoiser, x, grid(denoiser.schedule, 20))      # watch it
result = generate(denoiser, 64, sampler="ddim", steps=20, seed=0)    # or just have pictures
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion_lab import grids
from diffusion_lab.denoisers import Clipped, Denoiser
from diffusion_lab.device import check_label, generator, randn, rows_of, unwrapped
from diffusion_lab.errors import unknown, whole
from diffusion_lab.guidance import guided
from diffusion_lab.samplers import (
    annealed_langevin,
    ddim,
    ddpm,
    dpm_solver,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
    emsde,
    euler,
    euler_maruyama,
    heun,
    predictor_corrector,
    reverse_diffusion,
    unipc,
)
from diffusion_lab.walk import Noise, Result, Step, gaussian, sample, walk

__all__ = ["SAMPLERS", "generate"]

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


def generate(
    denoiser: Denoiser,
    n: int,
    *,
    sampler: str | Step = "dpmpp",
    steps: int = 20,
    spacing: str | None = None,
    grid: Sequence[float] | None = None,
    lam_range: tuple[float, float] | None = None,
    label: Tensor | None = None,
    condition: dict[str, Any] | None = None,
    scale: float | None = None,
    null: dict[str, Any] | None = None,
    clip: tuple[float, float] | None = None,
    keep_eps: bool = False,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    batch: int = 500,
    bar: bool = False,
    keep: bool = False,
    **options: Any,
) -> Result:
    """n samples: the whole way from a seed to data, in batches of ``batch``.

    Noise is drawn for a whole batch at a time, so ``seed`` gives the same samples only with the
    same ``n`` and ``batch``; with ``seeds`` each sample has its own noise, whatever else is drawn.

    Args:
        sampler: one of ``SAMPLERS``, whose step takes further ``options`` (``eta``, ``variance``,
            ``order``), or a step.
        steps: moves; one call each for most samplers, ``order`` calls for single-step solvers (see
            ``split_calls``), two for heun. emsde chooses its own and does not look at it.
        spacing: of the time grid; karras for schedules without alpha, else uniform.
        grid: the times themselves, in place of steps and spacing.
        lam_range: where the grid may ask; the denoiser's own range by default.
        label: (n,) int64 classes: short for condition={"label": label}.
        condition: what the denoiser is told; tensors have one row for each sample (n, ...).
        scale: guidance (1 conditional, 0 unconditional); None calls the denoiser as it is.
        null: the condition that guidance leads away from, for one datum; "no class" for labels.
        clip: (lowest, highest) to which x_0 is clamped at each call; ``keep_eps``: see ``Clipped``.
        seeds: n seeds, one for each sample.

    Returns a Result with x (n, ...) on the denoiser's device; ``nfe`` counts calls for one sample.
    ValueError for what is unknown or does not fit, and for ``keep`` for more than one batch.
    """
    if not isinstance(denoiser, Denoiser):
        compiled = isinstance(denoiser, torch.nn.Module) and unwrapped(denoiser) is not denoiser
        raise ValueError(
            "generate takes the denoiser itself: compile what is inside, model.net.compile()"
            if compiled
            else "generate takes a denoiser, such as checkpoints.load_denoiser('fashion'); "
            f"got {type(denoiser).__name__}"
        )
    step = _step(sampler, options)
    n, batch = whole("the number of samples", n), whole("batch", batch)
    if keep and n > batch:
        raise ValueError(f"keep=True keeps the path of one batch: ask for n <= batch = {batch}")
    condition = (condition or {}) | ({} if label is None else {"label": label})
    for name, value in condition.items():
        _check_rows(name, value, n, denoiser.num_classes)
    if scale is not None and not condition:
        raise ValueError("a guidance scale needs labels: give label=... (or condition=...)")
    if scale is not None and scale != 1:
        denoiser = guided(denoiser, scale, **(null or {}))
    if clip is not None:
        if not isinstance(clip, tuple | list) or len(clip) != 2:
            raise ValueError(f"clip takes (lowest, highest) of x_0; got {clip!r}")
        denoiser = Clipped(denoiser, *clip, keep_eps=keep_eps)
    if denoiser.shape is None:
        raise ValueError(
            "this denoiser does not know the shape of its data: set denoiser.shape, or draw x "
            "yourself and walk"
        )
    if seeds is not None and len(seeds) != n:
        raise ValueError(f"{n} samples need {n} seeds; got {len(seeds)}")
    schedule = denoiser.schedule
    if grid is None:
        if spacing is None:
            spacing = "uniform" if schedule.vp else "karras"
        if hasattr(step, "states"):  # it chooses its own steps: only the ends are wanted
            steps, spacing = 2, "linspace"
        grid = grids.grid(schedule, steps, spacing, lam_range=lam_range or denoiser.lam_range)
    elif spacing is not None:
        raise ValueError("give either a grid or its spacing, not both")
    like = next(denoiser.parameters(), torch.zeros((), dtype=torch.float32, device="cpu"))
    gens = [generator(seed)] if seeds is None else [generator(one) for one in seeds]
    each = [n] if seeds is None else [1] * n
    shape = tuple(denoiser.shape)
    x = torch.cat([schedule.prior(k, shape, gen, grid[0]) for k, gen in zip(each, gens)]).to(like)
    results = []
    for begin in range(0, n, batch):
        part = slice(begin, begin + batch)
        noise = gaussian(gens[0]) if seeds is None else _own_noise(gens[part])
        told = {
            name: value.to(like.device) if isinstance(value, Tensor) else value
            for name, value in rows_of(condition, part, n).items()
        }
        states = walk(step, denoiser, x[part], grid, noise=noise, **told)
        results.append(sample(states, bar=bar, keep=keep))
    return Result(
        torch.cat([r.x for r in results]),
        -(-sum(r.nfe * len(r.x) for r in results) // n),  # batches differ for emsde alone
        sum(r.seconds for r in results),
        results[0].path,
    )


def _step(sampler: str | Step, options: dict[str, Any]) -> Step:
    """The step of a sampler's name with its options, or the one that was given."""
    own = [name for name in inspect.signature(generate).parameters if name != "options"]
    if not isinstance(sampler, str):
        if options:
            raise unknown("argument of generate", next(iter(options)), own)
        return sampler
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    takes = inspect.signature(SAMPLERS[sampler]).parameters
    for name in options:
        if name not in takes:
            error = unknown(
                f"argument of generate or of the sampler {sampler!r}", name, [*own, *takes]
            )
            raise ValueError(f"{error} (What the denoiser is told goes into condition={{...}}.)")
    return SAMPLERS[sampler](**options)


def _check_rows(name: str, value: Any, n: int, classes: int | None) -> None:
    """ValueError unless a tensor has n rows, and a label is one of the classes."""
    if name == "label" and not isinstance(value, Tensor):
        raise ValueError(
            f"label must be an int64 tensor of {n} classes, such as torch.full(({n},), 9); "
            f"got {value!r}"
        )
    if name == "label" and classes is not None:
        check_label(value, n, classes)
    if isinstance(value, Tensor) and value.ndim and len(value) != n:
        raise ValueError(
            f"{name} must have one row for each of the {n} samples; got shape {tuple(value.shape)}"
        )


def _own_noise(gens: Sequence[torch.Generator]) -> Noise:
    """Noise of which every sample draws its own."""
    return lambda i, like, s=None: torch.cat([randn((1, *like.shape[1:]), g) for g in gens]).to(
        like
    )
