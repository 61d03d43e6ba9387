"""Exact likelihoods by the probability-flow ODE (Song et al. 2020, 2011.13456, section 4.3).

    dx/dt = h(x, t) = f x - g^2/2 score,      log p_0(x_0) = log p_1(x_1) + integral of div h dt,

integrated from t0, just above clean data, to t1 by torchdiffeq. With a network in place of the
score this is the exact density of what the ODE draws from the prior, up to the solver's tolerance
and, with Hutchinson's trace, up to noise that is zero on average. The same ODE without the integral
is an encoder (data to noise) and a decoder that inverts it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser
from diffusion_lab.errors import unknown
from diffusion_lab.metrics.likelihood import bits_per_dim, dequantise
from diffusion_lab.samplers.sde import slopes
from diffusion_lab.schedules import Schedule
from diffusion_lab.scores.divergence import divergence, probes

__all__ = [
    "METHODS",
    "TRACES",
    "Flow",
    "decode",
    "encode",
    "ends",
    "log_likelihood",
    "nll_bits",
    "normal_prior",
    "solve",
    "velocity",
]

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
METHODS = (*ADAPTIVE, "euler", "midpoint", "rk4")
TRACES = ("exact", "rademacher", "gaussian")
Prior = Callable[[Tensor], Tensor]  # x_1 (B, ...) -> log density (B,)


@dataclass(frozen=True, eq=False)
class Flow:
    """Where the ODE carried a batch.

    x        (B, ...) at the last time
    change   (B,) the integral of div h along the way, None if it was not asked for
    nfe      network evaluations for one datum; the trace's backward passes come on top
    log_prob (B,) log-density in nats of the data that the flow began with, for ``log_likelihood``
    """

    x: Tensor
    change: Tensor | None
    nfe: int
    log_prob: Tensor | None = None


def ends(denoiser: Denoiser) -> tuple[float, float]:
    """(t0, t1): the times between which this denoiser's ODE is solved by default.

    The range of lambda that a network was trained on; else from sigma/alpha = .002 (VE at its own
    sigma_min, VP at t = .001) to t = 1, or where lambda = -5 if no data are left at t = 1.
    """
    schedule = denoiser.schedule
    low, high = denoiser.lam_range or (-math.inf, math.inf)
    t0, t1 = schedule.t_of_lam(high), schedule.t_of_lam(low)
    if schedule.lam(t0) == math.inf:
        t0 = 1e-3 if schedule.vp else schedule.t_of_lam(-math.log(0.002))
    if schedule.lam(t1) == -math.inf:
        t1 = schedule.t_of_lam(-5.0)
    return t0, t1


def velocity(denoiser: Denoiser, x: Tensor, t: float, **condition: Any) -> Tensor:
    """dx/dt of the probability-flow ODE at t, like x."""
    f, g2 = slopes(denoiser.schedule, t)
    p = denoiser(x, t, **condition)
    return p.mix(x_t=f, score=-0.5 * g2)


def solve(
    denoiser: Denoiser,
    x: Tensor,
    times: Sequence[float],
    *,
    trace: str | None = None,
    v: Tensor | None = None,
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 10_000,
    **condition: Any,
) -> Flow:
    """The probability-flow ODE from times[0] to times[-1], rising (encode) or falling (decode).

    Args:
        x: (B, ...) at times[0].
        times: where a fixed-step method steps; only the two ends matter to an adaptive one.
        trace: None, "exact", or one of the laws of random directions, which then need ``v``.
        v: (K, B, ...) directions, the same ones all along the way: drawn afresh at every call, the
            right-hand side would not be a function, and no adaptive solver could follow it.
        method: one of ``METHODS``. An adaptive method's tolerances hold for batch and trace
            together, so one hard datum makes all of them take small steps.
        condition: passed on to the denoiser (``label=...``).

    ValueError for bad times, tolerances or x, and for a schedule on T steps, which has no smooth
    ODE; FloatingPointError where the denoiser or the state is not finite; RuntimeError where the
    solver needs more than ``max_steps`` steps.
    """
    from torchdiffeq import odeint

    points = _check(denoiser.schedule, x, times, method, rtol, atol, max_steps)
    if trace is not None and trace not in TRACES:
        raise unknown("trace", trace, TRACES)
    if (v is None) != (trace in (None, "exact")):
        raise ValueError("directions v belong to the traces 'rademacher' and 'gaussian', and only")
    low, high = sorted((points[0], points[-1]))
    calls = 0

    def slope(t: Tensor, state: Any) -> Any:
        nonlocal calls
        calls += 1
        now = min(max(float(t), low), high)  # the last step may end a rounding beyond
        if trace is None:
            change = velocity(denoiser, state, now, **condition)
        else:
            change, div = divergence(lambda y: velocity(denoiser, y, now, **condition), state[0], v)
        if not bool(torch.isfinite(change).all()):
            raise FloatingPointError(
                f"the ODE's right-hand side is not finite at t = {now:.6g}: the denoiser returned "
                "NaN or infinity there, or the state has left the range it knows"
            )
        return change if trace is None else (change, div)

    start = x if trace is None else (x, x.new_zeros(len(x)))
    place = torch.tensor(points, dtype=torch.float64, device=x.device)
    options: dict[str, Any] = {}
    if method in ADAPTIVE:
        place = place[[0, -1]]
        options = {"step_t": place[1:], "max_num_steps": max_steps, "dtype": torch.float64}
    try:
        with torch.no_grad():
            found = odeint(
                slope, start, place, rtol=rtol, atol=atol, method=method, options=options
            )
    except AssertionError as error:
        raise RuntimeError(
            f"{method} could not reach rtol = {rtol:g}, atol = {atol:g} within {max_steps} steps "
            f"({error}): loosen them, or end further from t = 0"
        ) from error
    nfe = calls * denoiser.nfe
    if trace is None:
        return Flow(found[-1], None, nfe)
    return Flow(found[0][-1], found[1][-1], nfe)


def _check(
    schedule: Schedule,
    x: Tensor,
    times: Sequence[float],
    method: str,
    rtol: float,
    atol: float,
    max_steps: int,
) -> list[float]:
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not (0 < rtol < math.inf and 0 < atol < math.inf):
        raise ValueError(f"tolerances must be positive numbers; got rtol={rtol}, atol={atol}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be >= 1; got {max_steps}")
    if schedule.T is not None:
        raise ValueError(
            f"the probability-flow ODE needs a smooth schedule, not the table {schedule!r}: put "
            "the denoiser on a continuous one, as in denoiser.on(Linear())"
        )
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x must be a float batch (B, ...); got {x.dtype} {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x holds NaN or infinity: it has no likelihood and cannot be carried on")
    points = [float(t) for t in times]
    gaps = [b - a for a, b in itertools.pairwise(points)]
    if len(points) < 2 or not (all(g > 0 for g in gaps) or all(g < 0 for g in gaps)):
        raise ValueError(f"times must rise (to noise) or fall (to data), two or more; got {points}")
    for t in (points[0], points[-1]):
        if not 0 <= t <= 1 or not math.isfinite(schedule.lam(t)):
            raise ValueError(
                f"the ODE cannot begin or end at t = {t:g}, where {schedule!r} has no noise or no "
                "data: keep a little away from it, see ends(denoiser)"
            )
    return points


def encode(
    denoiser: Denoiser, x0: Tensor, times: Sequence[float] | None = None, **options: Any
) -> Flow:
    """Data to noise along the ODE; ``times`` is ``ends(denoiser)`` by default."""
    return solve(denoiser, x0, ends(denoiser) if times is None else times, **options)


def decode(
    denoiser: Denoiser, x1: Tensor, times: Sequence[float] | None = None, **options: Any
) -> Flow:
    """Noise to data along the ODE: the inverse of ``encode``. ``times`` falls."""
    return solve(denoiser, x1, ends(denoiser)[::-1] if times is None else times, **options)


def normal_prior(std: float) -> Prior:
    """log N(x; 0, std^2 I), (B,): the prior that sampling starts from."""

    def log_prob(x: Tensor) -> Tensor:
        flat = x.flatten(1).double() / std
        size = flat.shape[1]
        return -0.5 * flat.square().sum(1) - size * (0.5 * math.log(2 * math.pi) + math.log(std))

    return log_prob


def log_likelihood(
    denoiser: Denoiser,
    x0: Tensor,
    times: Sequence[float] | None = None,
    *,
    trace: str = "exact",
    generator: torch.Generator | None = None,
    directions: int = 1,
    prior: Prior | None = None,
    **options: Any,
) -> Flow:
    """log p(x_0) in nats of each datum, (B,) float64, as ``.log_prob``; ``.x`` is its noise x_1.

    p is the density at times[0] of what the ODE makes of the prior, and is asked at x_0 itself.

    Args:
        times: from (just above) data to noise; ``ends(denoiser)`` by default.
        trace: "exact" (as many backward passes a call as a datum has dimensions), or Hutchinson's
            with "rademacher" or "gaussian" directions, drawn once from ``generator``.
        prior: log-density of x_1; by default normal with the schedule's ``prior_std``. Where data
            are not centred that costs something: alpha_1 times their mean is left in x_1.
        options: for ``solve``.
    """
    times = ends(denoiser) if times is None else times
    if times[-1] < times[0]:
        raise ValueError(f"times must rise from data to noise; got {times[0]:g} to {times[-1]:g}")
    v = None
    if trace in TRACES[1:]:
        if generator is None:
            raise ValueError(f"trace={trace!r} draws directions: give generator=generator(seed)")
        v = probes(x0, generator, law=trace, directions=directions)
    elif trace not in TRACES:
        raise unknown("trace", trace, TRACES)
    flow = solve(denoiser, x0, times, trace=trace, v=v, **options)
    if prior is None:
        prior = normal_prior(denoiser.schedule.prior_std(float(times[-1])))
    log_prob = prior(flow.x).double() + flow.change.double()
    return Flow(flow.x, flow.change, flow.nfe, log_prob)


def nll_bits(
    denoiser: Denoiser, x0: Tensor, levels: int, generator: torch.Generator, **options: Any
) -> tuple[Tensor, int]:
    """(bits/dim (B,), network evaluations) of pictures on ``levels`` values in [-1, 1].

    Uniform dequantisation, then ``log_likelihood`` and the offset log2((levels-1)/2): in
    expectation an upper bound on the bits of the discrete picture, of *this* density.
    """
    x = dequantise(x0, levels, generator)
    flow = log_likelihood(denoiser, x, generator=generator, **options)
    return bits_per_dim(-flow.log_prob, x0[0].numel(), levels), flow.nfe
