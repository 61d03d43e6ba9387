"""What is minimised: a squared error with a weight on t, and how t is drawn.

All losses are one loss. With x0_hat the denoiser's answer,

    L = E_{t, eps}  w(t) |x_0 - x0_hat(x_t, t)|^2,

and only w differs: DDPM's simple loss is this one with w = SNR ("simple" below). Since
x_0 = a x_t + b out, the error of the native output is |d out|^2 = |d x_0|^2 / b^2, so a weight on
x_0 becomes w b^2 on the output: SNR times smaller on eps, (alpha^2 + sigma^2)^2 / sigma^2 times
smaller on v. Weights on |d x_0|^2:

    simple    SNR                        |eps - eps_hat|^2, DDPM eq 14, the survey's eq 7
    vlb       -SNR d lambda/dt           the continuous bound (Kingma et al. 2021, 2107.00630); on
                                         the score g^2/2, ScoreFlow's likelihood weight (2101.09258)
    p2        SNR / (k + SNR)^gamma      Choi et al. 2022, 2204.00227
    min-snr   min(SNR, g)                Hang et al. 2023, 2303.09556
    edm       1/sd^2 + SNR               Karras et al. 2022: (s^2 + sd^2)/(s sd)^2, s = sigma/alpha
    x0        1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.bound import vlb_term
from diffusion_lab.denoisers import Denoiser, NetDenoiser, affine
from diffusion_lab.device import randn
from diffusion_lab.errors import check_lam_range, unknown, whole
from diffusion_lab.forward import noised
from diffusion_lab.schedules import Schedule

__all__ = ["TIMES", "WEIGHTS", "DiffusionLoss", "Weighting", "draw_times"]

WEIGHTS: dict[str, dict[str, float]] = {  # name -> its parameters with their defaults
    "simple": {},
    "vlb": {},
    "p2": {"k": 1.0, "gamma": 1.0},
    "min-snr": {"g": 5.0},
    "edm": {"sd": 0.5},
    "x0": {},
}


@dataclass(frozen=True)
class Weighting:
    """A weight on t, readable in units of x0, eps, v or any other output.

    ``Weighting("p2", {"k": 1, "gamma": 0.5}).on("eps", schedule, t)``; t is (B,), result (B,)
    float64. For p2 with k = gamma = 1 on a VP schedule, the weight on eps is 1 - abar.
    """

    name: str = "simple"
    parameters: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in WEIGHTS:
            raise unknown("weighting", self.name, WEIGHTS)
        for key in self.parameters:
            if key not in WEIGHTS[self.name]:
                raise unknown(f"parameter of the weighting {self.name!r}", key, WEIGHTS[self.name])
            value, least = self.parameters[key], "> 0" if key in ("g", "sd") else ">= 0"
            if not 0 <= value < math.inf or (value == 0 and least == "> 0"):
                raise ValueError(
                    f"{key} of the weighting {self.name!r} must be {least}; got {value}"
                )

    def on(self, kind: str, schedule: Schedule, t: Tensor, sd: float = 1.0) -> Tensor:
        """The weight on the squared error of ``kind`` (one of ``denoisers.KINDS``).

        ValueError where sigma = 0: most weights have no value without noise.
        """
        alpha, sigma = schedule.alpha_sigma(t)
        if sigma.device.type == "cpu" and bool((sigma == 0).any()):  # a GPU would wait
            raise ValueError("a weight needs noise, and there is none at t = 0: draw t > 0")
        _, b = affine(kind, alpha, sigma, sd)
        return self._x0(schedule, t, (alpha / sigma) ** 2) * b**2

    def _x0(self, schedule: Schedule, t: Tensor, snr: Tensor) -> Tensor:
        p = WEIGHTS[self.name] | self.parameters
        if self.name == "simple":
            return snr
        if self.name == "vlb":
            return -0.5 * schedule.snr_slope(t)  # d SNR = 2 SNR d lambda
        if self.name == "p2":
            return snr / (p["k"] + snr) ** p["gamma"]
        if self.name == "min-snr":
            return snr.clamp(max=p["g"])
        if self.name == "edm":
            return 1 / p["sd"] ** 2 + snr
        return torch.ones_like(snr)


class DiffusionLoss(nn.Module):
    """The loss of one batch, picture by picture.

    ``forward(x0 (B, ...), t (B,), eps like x0, **condition) -> (B,)``, averaged over the
    pixels. The error is taken on the network's own output, where it has unit size. With
    ``hybrid`` (2102.09672) the term of the bound at t, in bits/dim, is added with the factor T/1000
    and with its mean held fixed, so that it trains the learned variance only.
    """

    def __init__(
        self, denoiser: Denoiser, weighting: Weighting, *, hybrid: bool = False, levels: int = 256
    ) -> None:
        super().__init__()
        if not isinstance(weighting, Weighting):
            raise ValueError(f"give a Weighting, such as Weighting('simple'); got {weighting!r}")
        if hybrid and not getattr(denoiser, "learned_var", False):
            raise ValueError(
                "the hybrid loss trains a variance: build the denoiser learned_var=True"
            )
        if hybrid and denoiser.schedule.T is None:
            raise ValueError("the hybrid loss needs a schedule on T steps, such as linear(1000)")
        self.denoiser, self.weighting, self.hybrid, self.levels = (
            denoiser,
            weighting,
            hybrid,
            levels,
        )

    def forward(self, x0: Tensor, t: Tensor, eps: Tensor, **condition: Any) -> Tensor:
        schedule = self.denoiser.schedule
        x_t = noised(x0, eps, schedule, t)
        pred = self.denoiser(x_t, t, **condition)
        target = eps if pred.kind == "eps" else (x0 - pred.a * x_t) / pred.b
        error = (pred.out - target).square().flatten(1).mean(1)
        if isinstance(self.denoiser, NetDenoiser):
            weight = self.weighting.on(pred.kind, schedule, t, self.denoiser.sd)
        else:  # a wrapper's reading is not its schedule's: its own b says what the output is worth
            b2 = pred.b * pred.b
            b2 = b2.double().flatten(1).mean(1) if isinstance(b2, Tensor) else b2
            weight = self.weighting.on("x0", schedule, t) * b2
        loss = error * weight.to(error.dtype)
        if self.hybrid:
            bits = vlb_term(pred.with_x0(pred.x0.detach()), x0, schedule, t, levels=self.levels)
            loss = loss + (schedule.T / 1000) * bits
        return loss


TIMES: dict[str, dict[str, float]] = {  # law -> its parameters with their defaults
    "uniform": {},
    "grid": {},
    "lambda": {},
    "lognormal": {"mean": -1.2, "std": 1.2},
}


def draw_times(
    schedule: Schedule,
    n: int,
    generator: torch.Generator,
    *,
    law: str = "uniform",
    lam_range: tuple[float, float] | None = None,
    **parameters: float,
) -> Tensor:
    """n training times, (n,) float64: ``uniform`` in t, uniform on the ``grid`` i/T, uniform in
    ``lambda``, or ``lognormal`` (ln(sigma/alpha) ~ N(mean, std^2), EDM; on a schedule of T steps
    the nearest i/T, so that every draw is a step of the chain). Clipped to ``lam_range``, but for
    grid.

    ``lambda`` is the importance-sampled law of ScoreFlow (2101.09258): its density in t is
    proportional to g^2/sigma^2, so that the simple loss under it is the likelihood-weighted one.
    Without ``lam_range`` it takes the schedule's own ends, which must be finite.
    """
    if law not in TIMES:
        raise unknown("law of t", law, TIMES)
    for key in parameters:
        if key not in TIMES[law]:
            raise unknown(f"parameter of the law {law!r}", key, TIMES[law])
    n = whole("the number of times", n)
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"times are drawn by a torch.Generator; got {generator!r}")
    check_lam_range(lam_range)
    if law == "grid":
        if schedule.T is None:
            raise ValueError("the law 'grid' needs a schedule on T steps, such as linear(1000)")
        steps = torch.randint(1, schedule.T + 1, (n,), generator=generator, device="cpu")
        return steps.double() / schedule.T
    if law in ("uniform", "lambda"):
        # one stratified draw: evenly spread over [0, 1], each still uniform by itself
        u = torch.rand(1, generator=generator, dtype=torch.float64, device="cpu")
        t = (torch.randperm(n, generator=generator, device="cpu").double() + u) / n
        if law == "lambda":
            low, high = lam_range or (schedule.lam(1.0), schedule.lam(0.0))
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(
                    f"the law 'lambda' needs a finite range, and {schedule!r} goes from {low:g} to "
                    f"{high:g}: give lam_range=(lowest, highest)"
                )
            t = schedule.t_of_lam(low + t * (high - low))
    else:
        p = TIMES[law] | parameters
        if not (math.isfinite(p["mean"]) and 0 < p["std"] < math.inf):
            raise ValueError(
                f"a lognormal law has a finite mean and a std > 0; got {p['mean']}, {p['std']}"
            )
        z = randn((n,), generator, dtype=torch.float64)
        log_sigma = p["mean"] + p["std"] * z
        t = schedule.t_of_lam(-log_sigma)
    low, high = (-math.inf, math.inf) if lam_range is None else lam_range
    first, last = schedule.t_of_lam(high), schedule.t_of_lam(low)
    if law == "lognormal" and schedule.T is not None:
        steps, rounding = schedule.T, 1e-6  # a range that ends at a step holds it
        lowest = max(math.ceil(first * steps - rounding), 1)
        highest = max(math.floor(last * steps + rounding), lowest)
        return (t * steps).round().clamp(lowest, highest) / steps
    return t.clamp(first, last)
