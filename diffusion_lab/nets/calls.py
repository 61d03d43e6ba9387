"""How a network is called: ours as net(x, lam, **condition), other people's by an adapter.

``NetDenoiser(by_timestep(unet, linear(1000)), linear(1000), "eps")`` makes a denoiser of a network
that wants timesteps: a UNet2DModel of diffusers, or any ``net(x, timestep) -> tensor``. Other
people's grids become ours by ``times_of`` (timesteps) and ``times_of_sigmas``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from diffusion_lab.device import unwrapped
from diffusion_lab.errors import unknown, whole
from diffusion_lab.schedules import Schedule

__all__ = ["ByTimestep", "accepted", "by_timestep", "times_of", "times_of_sigmas", "timesteps"]


def accepted(net: nn.Module, form: str | None = None) -> tuple[str, ...] | None:
    """Names of the conditions that net(x, lam, ...) takes, None for any.

    ValueError where its second argument is not called ``lam`` and ``form`` does not say that it is
    lambda all the same: nothing would fail, and the network would be told lambda for a timestep.
    """
    parameters = list(inspect.signature(unwrapped(net).forward).parameters.values())
    if form not in (None, "lam"):
        raise unknown("form of call", form, ("lam",))
    if form is None and (len(parameters) < 2 or parameters[1].name != "lam"):
        told = ", ".join(p.name for p in parameters)
        raise ValueError(
            f"this network is called net({told}), and a NetDenoiser calls net(x, lam), with lam = "
            "log(alpha/sigma): wrap one that wants timesteps as nets.by_timestep(net, schedule), "
            'or say form="lam" if its second argument is lambda'
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return tuple(p.name for p in parameters[2:])


def steps_range(schedule: Schedule) -> tuple[float, float] | None:
    """(lowest, highest) lambda of a schedule of T steps; None for others, and where T = 1."""
    if schedule.T is None or schedule.T == 1:
        return None
    return schedule.lam(1.0), schedule.lam(1 / schedule.T)


def explain_precision(x: Tensor, net: nn.Module, error: Exception) -> None:
    """A ValueError from ``error`` where x and the weights of a network differ in precision."""
    weight = next(net.parameters(), None)
    if weight is not None and weight.dtype != x.dtype:
        raise ValueError(
            f"x_t is {x.dtype} and the network's weights are {weight.dtype}: call x_t.to("
            f"{weight.dtype}), or net.to({x.dtype})"
        ) from error


class ByTimestep(nn.Module):
    """net(x, timestep, ...) called as net(x, lam, ...); see ``by_timestep``."""

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        T: int,
        first: int,
        exact: bool,
        names: dict[str, str],
    ) -> None:
        super().__init__()
        self.net, self.schedule, self.names = net, schedule, names
        self.T, self.first, self.exact = T, first, exact

    def forward(self, x: Tensor, lam: Tensor, **condition: Any) -> Tensor:
        place = self.schedule.t_of_lam(lam) * self.T - 1
        step = place.round().long().clamp(0, self.T - 1) if self.exact else place.clamp(min=0.0)
        step = (step + self.first).expand(len(x))
        told = {self.names.get(name, name): value for name, value in condition.items()}
        out = self.net(x, step if self.exact else step.to(x.dtype), **told)
        if isinstance(out, tuple | list):
            out = out[0]
        return out if isinstance(out, Tensor) else out.sample


def by_timestep(
    net: nn.Module,
    schedule: Schedule,
    *,
    T: int | None = None,
    first: int = 0,
    exact: bool = True,
    **names: str,
) -> ByTimestep:
    """A network that is told timesteps, as one that is told lambda.

    Args:
        net: called as ``net(x, timestep, ...)`` with timestep int64 (B,); it may answer with a
            tensor, a tuple whose first entry it is, or an object with ``.sample``.
        schedule: the one it was trained on: step j of 0..T-1 is the time t = (j + 1)/T.
        T: number of training steps, where the schedule does not say it.
        first: the number of the first step, 0 (diffusers, improved-diffusion) or 1.
        exact: False tells the fractional timestep as a float, for times between two steps.
        names: what the network calls a condition: ``label="class_labels"`` or
            ``tokens="encoder_hidden_states"`` for the networks of diffusers.
    """
    T = schedule.T if T is None else whole("T", T)
    if T is None:
        raise ValueError(f"how many training steps? give T=..., {schedule!r} does not say")
    return ByTimestep(net, schedule, T, first, exact, names)


# ---- their grids --------------------------------------------------------------------------------
def timesteps(
    schedule: Schedule, steps: int, spacing: str = "leading", offset: int = 0
) -> list[int]:
    """Falling timesteps as diffusers lays them: ``leading`` i (T // steps), or ``trailing``.

    trailing is round(T - i T/steps) - 1: the one that begins at pure noise. ``offset`` is added to
    leading ones (their ``steps_offset``). ValueError for more steps than the schedule has.
    """
    T, steps = schedule.T, whole("the number of steps", steps)
    if spacing not in ("leading", "trailing"):
        raise unknown("spacing of timesteps", spacing, ("leading", "trailing"))
    if T is None or steps > T:
        raise ValueError(f"{steps} timesteps asked of {schedule!r}, which has {T or 'none'}")
    if spacing == "leading":
        return [i * (T // steps) + offset for i in reversed(range(steps))]
    return [round(T - i * T / steps) - 1 for i in range(steps)]


def times_of(steps: Iterable[int], schedule: Schedule, *, clean: bool = True) -> list[float]:
    """The times (j + 1)/T of falling timesteps j of 0..T-1, and 0 at the end with ``clean``."""
    found = [int(j) for j in steps]
    T = schedule.T
    if T is None or not all(0 <= j < T for j in found):
        raise ValueError(f"timesteps of {schedule!r} lie in 0..{(T or 1) - 1}; got {found[:5]}")
    return [(j + 1) / T for j in found] + [0.0] * clean


def times_of_sigmas(sigmas: Iterable[float], schedule: Schedule) -> list[float]:
    """The times at which sigma_t/alpha_t is each of ``sigmas`` (EDM's sigma); 0 where it is 0.

    ValueError for a noise level that the schedule does not reach.
    """
    found = []
    for sigma in map(float, sigmas):
        lam = math.inf if sigma == 0 else -math.log(sigma)
        t = schedule.t_of_lam(lam)
        if sigma and not math.isclose(schedule.lam(t), lam, abs_tol=1e-3):
            raise ValueError(f"{schedule!r} has no time with sigma/alpha = {sigma:g}")
        found.append(t)
    return found
