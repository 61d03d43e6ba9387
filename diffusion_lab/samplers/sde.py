"""Samplers of the score SDE (Song et al. 2020, 2011.13456): reverse SDE, correctors, Langevin.

With the forward process dx = f x dt + g dw, every process of this family has the same marginals,

    dx = [f x - (1 + c^2)/2 g^2 score] dt + c g dw      (time runs from noise to data):

c = 1 is the reverse SDE, c = 0 the probability-flow ODE. A predictor moves from t to s along it; a
corrector stays at s and runs Langevin dynamics, x <- x + a score + sqrt(2a) z, which leaves p_s as
it is and pulls a wrong x towards it. A last move onto t = 0 is a denoising step: by Tweedie's
formula x_0 = (x + sigma^2 score)/alpha, and no noise is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lab.errors import unknown, whole
from diffusion_lab.forward import transition
from diffusion_lab.samplers.ddpm import ddpm
from diffusion_lab.schedules import Schedule
from diffusion_lab.walk import Ask, Step

__all__ = [
    "PREDICTORS",
    "annealed_langevin",
    "correct",
    "euler_maruyama",
    "langevin_size",
    "predictor_corrector",
    "reverse_diffusion",
    "slopes",
]


def slopes(schedule: Schedule, t: float) -> tuple[float, float]:
    """(f, g^2) at one time; ValueError where they are infinite."""
    f, g2 = schedule.drift_diffusion(t)
    if not (math.isfinite(f) and math.isfinite(g2)):
        raise ValueError(
            f"the drift of {schedule!r} is infinite at t = {t:g}, where no data are left: begin a "
            "little later, with lam_range=(-5, 9) or a grid that starts below it"
        )
    return f, g2


def euler_maruyama(noise: float = 1.0) -> Step:
    """One Euler-Maruyama step of the reverse SDE (``noise`` = 1), the ODE (0) or between.

    One network call a step. ValueError unless 0 <= noise.
    """
    if not 0 <= noise < math.inf:
        raise ValueError(f"the share of noise c must be >= 0 (1 the SDE, 0 the ODE); got {noise}")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = ask(x, t)
        if s == 0:
            return p.x0
        f, g2 = slopes(ask.schedule, t)
        h = t - s
        mean = p.mix(x_t=1 - f * h, score=0.5 * (1 + noise * noise) * g2 * h)
        return ask.add_noise(mean, noise * math.sqrt(g2 * h), s)

    return step


def reverse_diffusion() -> Step:
    """The paper's reverse-diffusion predictor: the forward chain's own step, turned round.

    With k = alpha_t/alpha_s and V = V_ts of ``forward.posterior``,
    x_s = (2 - k) x + V score + sqrt(V) z (appendix E; V = sigma_t^2 - sigma_s^2 for VE).
    """

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        p = ask(x, t)
        if s == 0:
            return p.x0
        kept, v_ts = transition(ask.schedule, s, t)
        return ask.add_noise(p.mix(x_t=2 - kept, score=v_ts), math.sqrt(v_ts), s)

    return step


# ---- correctors ---------------------------------------------------------------------------------
def langevin_size(score: Tensor, z: Tensor, snr: float, kept: float = 1.0) -> Tensor:
    """a = 2 kept (snr |z| / |score|)^2, with norms averaged over the batch (algorithms 4 and 5).

    A tensor without dimensions: as a number it would make a GPU wait at every step.

    ``kept`` is (alpha_t/alpha_s)^2 of the jump to this level, 1 for VE. (The paper's VP corrector
    takes the alpha_i of the jump that follows; a step knows the one behind it.)
    """
    noise, pull = (torch.linalg.vector_norm(y.flatten(1), dim=1).mean() for y in (z, score))
    return 2 * kept * (snr * noise / pull.clamp(min=1e-12)) ** 2


def correct(ask: Ask, x: Tensor, s: float, snr: float, kept: float = 1.0) -> Tensor:
    """One Langevin step at time s: one network call and one draw of noise."""
    score = ask(x, s).score
    z = ask.noise(x, s)
    size = langevin_size(score, z, snr, kept)
    return x + size * score + (2 * size).sqrt() * z


PREDICTORS: dict[str, Callable[[], Step]] = {
    "euler-maruyama": euler_maruyama,
    "reverse-diffusion": reverse_diffusion,
    "ancestral": ddpm,
}


def predictor_corrector(
    predictor: str | Step = "reverse-diffusion", snr: float = 0.16, corrections: int = 1
) -> Step:
    """A predictor step to s, then ``corrections`` Langevin steps at s (2011.13456, algorithm 1).

    1 + corrections network calls a step, but one at the last, which lands on data.

    Args:
        predictor: one of ``PREDICTORS``, or any step. A multistep one has no past here (a corrector
            moves x off the path that it would look back on), and is of first order.
        snr: the corrector's signal-to-noise ratio r.

    ValueError for an unknown predictor, snr <= 0 or corrections < 0.
    """
    if isinstance(predictor, str) and predictor not in PREDICTORS:
        raise unknown("predictor", predictor, PREDICTORS)
    _check(snr, corrections, least=0)
    move = PREDICTORS[predictor]() if isinstance(predictor, str) else predictor

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        ask.history.clear()
        x = move(ask, x, t, s)
        if s > 0:
            kept = (ask.schedule.alpha(t) / ask.schedule.alpha(s)) ** 2
            for _ in range(corrections if kept else 0):  # nothing of x is left at alpha_t = 0
                x = correct(ask, x, s, snr, kept)
        return x

    return step


def annealed_langevin(ratio: float = 0.1, corrections: int = 5) -> Step:
    """Langevin dynamics at each level, from noisy to clean, without a predictor (1907.05600).

    x <- x + a score + sqrt(2a) z with a = ratio sigma_s^2, ``corrections`` times at every s; x is
    only rescaled by alpha_s/alpha_t on the way. The paper's a is eps sigma^2/(2 sigma_L^2), with
    eps = 2e-5 and sigma_L = .01: ratio = 0.1.
    """
    _check(ratio, corrections, least=1, name="ratio")

    def step(ask: Ask, x: Tensor, t: float, s: float) -> Tensor:
        if s == 0:
            return ask(x, t).x0
        (alpha_t, _), (alpha_s, sigma_s) = (ask.schedule.alpha_sigma(u) for u in (t, s))
        if alpha_t:
            x = x * (alpha_s / alpha_t)
        size = ratio * sigma_s * sigma_s
        for _ in range(corrections):
            mean = ask(x, s).mix(x_t=1.0, score=size)
            x = ask.add_noise(mean, math.sqrt(2 * size), s)
        return x

    return step


def _check(size: float, corrections: int, least: int, name: str = "snr") -> None:
    if not 0 < size < math.inf:
        raise ValueError(f"{name} must be a positive number; got {size}")
    whole("corrections", corrections, least)
