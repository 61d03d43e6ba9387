"""Checks of lesson 05."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import choice, exercise, number

one_jump = number(
    0.1,
    tolerance=0.04,
    slips={
        0.0: "that is the mean of the noise; the last jump lands on x0_hat, a guess about data.",
        1.0: "that is the larger peak; the best guess in mean square is between the peaks.",
        -0.5: "the two peaks do not weigh the same: .3 and .7.",
    },
    hint="from pure noise nothing is known about x0, and the best guess is E[x0].",
    right="one jump lands on E[x0 | x_1], the mean of all data: .3 (-2) + .7 (1), with no variety.",
)


def _walks(g: Generator) -> list[tuple[Any, ...]]:
    """Walks of one and of three steps, with made-up levels and a network that is a line in x."""
    starts = torch.randn(4, 4, 1, 2, 2, generator=g, dtype=torch.float64, device="cpu")
    low, high = (
        torch.rand(2, generator=g, dtype=torch.float32, device="cpu") * 0.3
        + torch.tensor([0.05, 0.5])
    ).tolist()
    nearly = 1 - 1e-12  # as good as 1, and a division by 1 - abar_s is a slip that can be named
    levels = {1.0: low, 0.5: high, 0.2: 0.5 * (high + 1), 0.0: nearly}

    def eps_hat(x: Tensor, t: float) -> Tensor:
        return 0.6 * x + math.sin(7 * t)

    def draws(seed: int) -> Callable[[], Tensor]:
        own = torch.Generator().manual_seed(seed)
        return lambda: torch.randn(4, 1, 2, 2, generator=own, dtype=torch.float64, device="cpu")

    walks = (((1.0, 0.5), 0.2), ((1.0, 0.5), 1.0), ((0.5, 0.0), 1.0), ((1.0, 0.5, 0.2, 0.0), 0.5))
    return [
        (eps_hat, x, times, levels.__getitem__, eta, draws(k))
        for k, (x, (times, eta)) in enumerate(zip(starts, walks, strict=True))
    ]


def _std(a: float, b: float, eta: float) -> Any:
    return eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5


def _stepped(
    x: Tensor,
    eps: Tensor,
    z: Tensor,
    a: float,
    b: float,
    eta: float,
    *,
    std: Any = None,
    towards: Any = None,
    x0: Tensor | None = None,
    ahead: float | None = None,
) -> Tensor:
    """The step, with one of its four parts exchanged."""
    std = _std(a, b, eta) if std is None else std
    towards = (1 - b - std**2) ** 0.5 if towards is None else towards
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5 if x0 is None else x0
    ahead = b**0.5 if ahead is None else ahead
    return ahead * x0 + towards * eps + std * z


def _real(answer: Any) -> Any:
    """The real part: ``(-0.1) ** 0.5`` is complex in Python, and torch warns when it casts that."""
    return answer.real if isinstance(answer, Tensor) and answer.is_complex() else answer


def _rootless(
    x: Tensor, eps: Tensor, z: Tensor, a: float, b: float, eta: float, *, std: Any = None
) -> Tensor:
    """The step with variances and abar in the place of their roots."""
    std = eta * _std(a, b, 1) ** 2 if std is None else std
    return b * (x - (1 - a) * eps) / a + (1 - b - std**2) * eps + std * z


def _loop(step: Callable[..., Tensor], *, asked_at_s: bool = False, one_z: bool = False) -> Any:
    """The loop around a step, with or without a slip of the loop itself."""

    def walked(eps_hat: Any, x: Tensor, times: Any, abar: Any, eta: float, fresh: Any) -> Tensor:
        z = fresh() if one_z else None
        for t, s in pairwise(times):
            eps = eps_hat(x, s if asked_at_s else t)
            x = step(x, eps, z if one_z else fresh(), abar(t), abar(s), eta)
        return x

    return walked


def _short(eps_hat: Any, x: Tensor, times: Any, abar: Any, eta: float, fresh: Any) -> Tensor:
    return _loop(_stepped)(eps_hat, x, times[:-1], abar, eta, fresh)


def _first_step(eps_hat: Any, x: Tensor, times: Any, abar: Any, eta: float, fresh: Any) -> Tensor:
    """The return stands inside the loop."""
    return _loop(_stepped)(eps_hat, x, times[:2], abar, eta, fresh)


def _same_x(eps_hat: Any, x: Tensor, times: Any, abar: Any, eta: float, fresh: Any) -> Tensor:
    """Every step starts from the first x."""
    made = x
    for t, s in pairwise(times):
        made = _stepped(x, eps_hat(x, t), fresh(), abar(t), abar(s), eta)
    return made


def _first_eps(eps_hat: Any, x: Tensor, times: Any, abar: Any, eta: float, fresh: Any) -> Tensor:
    """The network is asked once."""
    eps = eps_hat(x, times[0])
    for t, s in pairwise(times):
        x = _stepped(x, eps, fresh(), abar(t), abar(s), eta)
    return x


def _alpha_of(eps_hat: Any, x: Tensor, times: Any, abar: Any, eta: float, fresh: Any) -> Tensor:
    """abar(t) is taken for alpha."""
    return _loop(_stepped)(eps_hat, x, times, lambda t: abar(t) ** 2, eta, fresh)


def _step_slips() -> dict[Callable[..., Any], str]:
    """Slips of the step, each inside the loop."""
    slips: dict[Callable[..., Tensor], str] = {
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, towards=(1 - b) ** 0.5): (
            "the variance of S z comes on top: the factor of eps must leave room for it?"
        ),
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, std=_std(a, b, 1) ** 2 * eta): (
            "S is a standard deviation: the root of the posterior variance is missing?"
        ),
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, std=_std(a, b, 1) ** 2 * eta**2
        ): "that is S^2 in the place of S: take the root of the variance, eta outside of it?",
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, std=_std(a, b, 1) * eta**0.5): (
            "eta stands under the root: it multiplies the root."
        ),
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, std=eta * (1 - a / b) ** 0.5): (
            "S lacks the factor (1 - abar_s)/(1 - abar_t): that is sigma-hat's noise, and in long "
            "jumps its S^2 exceeds 1 - abar_s?"
        ),
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, std=eta * ((1 - a) / (1 - b) * (1 - a / b)) ** 0.5
        ): "s and t are exchanged in the first fraction of S: it is (1 - abar_s)/(1 - abar_t).",
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, towards=(1 - b - _std(a, b, eta)) ** 0.5
        ): "S is squared under the root: the factor of eps is the root of 1 - abar_s - S^2.",
        lambda x, eps, z, a, b, eta: _stepped(x, eps, -z, a, b, eta): (
            "with - S z the law of x_s is equally right; the check compares with + S z."
        ),
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, std=eta * ((1 - b) / (1 - a) * (1 - b / a)) ** 0.5
        ): "S is complex: abar_t is the smaller one, so abar_t/abar_s it must be.",
        _rootless: "the roots are missing: alpha is the root of abar, and sigma that of 1 - abar.",
        lambda x, eps, z, a, b, eta: _rootless(x, eps, z, a, b, eta, std=_std(a, b, eta)): (
            "only S has its root: alpha is the root of abar, and sigma that of 1 - abar."
        ),
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, x0=(x - (1 - a) * eps) / a
        ): "in x0_hat the roots are missing: sigma_t = sqrt(1 - abar_t), alpha_t = sqrt(abar_t).",
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, towards=1 - b - _std(a, b, eta) ** 2
        ): "the factor of eps is the root of 1 - abar_s - S^2.",
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, std=_std(a, b, 1)): (
            "eta is left out: S does not depend on it?"
        ),
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, 0.0): (
            "that is the walk for eta = 0: the noise S z is missing."
        ),
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, towards=(1 - a - _std(a, b, eta) ** 2) ** 0.5
        ): "the factor of eps is what S leaves of sigma at s, not at t.",
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, ahead=a**0.5): (
            "x0_hat arrives at time s, so it is multiplied by the alpha of s, not of t."
        ),
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, ahead=b): (
            "abar_s stands where its root belongs (alpha = sqrt(abar))."
        ),
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, x0=x - (1 - a) ** 0.5 * eps): (
            "x0_hat is not divided by alpha_t."
        ),
        lambda x, eps, z, a, b, eta: _stepped(
            x, eps, z, a, b, eta, x0=(x + (1 - a) ** 0.5 * eps) / a**0.5
        ): "x0_hat adds the noise once more where it should take it away.",
        lambda x, eps, z, a, b, eta: _stepped(x, eps, z, a, b, eta, towards=0.0): (
            "the direction towards x_t (the term with eps) is missing."
        ),
        lambda x, eps, z, a, b, eta: (x - (1 - a) ** 0.5 * eps) / a**0.5: (
            "each step goes to x0_hat and stays there: go back out to time s."
        ),
    }
    return {_loop(step): sentence for step, sentence in slips.items()}


@exercise(
    probes=_walks,
    view=_real,
    slips={
        **_step_slips(),
        _loop(_stepped, asked_at_s=True): "the network is asked at s: x belongs to time t.",
        _loop(_stepped, one_z=True): "every step needs new noise: call fresh() inside the loop.",
        _first_step: "that is x after the first step: return it after the loop, not inside.",
        _short: "the last jump is missing: the walk ends at the last of the times.",
        _same_x: "every step starts at the first x: the x_s of a step is the x_t of the next.",
        _first_eps: "the network is asked once only: every step asks it at its own x and t.",
        _alpha_of: "abar(t) is squared: it is alpha^2 already.",
    },
    hint="x0_hat first, then S, then the factor of eps such that its square and S^2 give 1-abar_s.",
    right="eta = 0 is DDIM, eta = 1 ancestral sampling, and abar = 1 lands on x0_hat.",
)
def ddim_loop(
    eps_hat: Callable[[Tensor, float], Tensor],
    x: Tensor,
    times: Sequence[float],
    abar: Callable[[float], float],
    eta: float,
    fresh: Callable[[], Tensor],
) -> Tensor:
    return _loop(_stepped)(eps_hat, x, times, abar, eta, fresh)


best_on_broad = choice(
    "hat",
    {
        "0": "of the family it is the best, but it too loses variance in each step and adds none.",
        "0.5": "it loses more variance in each step than eta = 0 does, and adds nothing for it.",
        "1": "the posterior variance is right if x0 is known exactly, that is for a single point.",
        "hat": "ask which noise suits data that have a variance near 1 themselves.",
    },
    hint="one of the noises is right for data without variance, one for data of variance 1.",
    right="it is exact for N(0, I), as Ho et al. noted, and broad peaks come near it; now see what "
    "narrow data say.",
)

steps_for_a_hundredth = number(
    410,
    tolerance=20,
    slips={
        100: "that is what an error of .041 takes; it must fall by four more.",
        64: "that would be second order, 1/steps^2; steps times error is constant here.",
        1000: "that many give .004: fewer will do.",
        40: "the error is .1 there; look at steps times error.",
    },
    hint="steps times error is the same in every row.",
    right="first order: ten times the steps for a tenth of the error.",
)


def _noises(g: Generator) -> list[tuple[Any, ...]]:
    a, z = torch.randn(2, 3, 2, 3, 3, generator=g, dtype=torch.float64, device="cpu")
    near = a + torch.tensor([0.1, 1.0, -3.0], dtype=torch.float64)[:, None, None, None] * z
    return [(a, near, 0.3), (a, near, 0.8)]  # three pairs, three angles


def _half_repaired(a: Tensor, b: Tensor, share: float) -> Tensor:
    """One dot product for each pair, the two sizes of the whole batch."""
    w = ((a * b).sum((1, 2, 3), keepdim=True) / (a.square().sum() * b.square().sum()).sqrt()).acos()
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


def _mixed(a: Tensor, b: Tensor, share: float, cosine: Tensor) -> Tensor:
    w = cosine.clamp(-1, 1).acos()
    return (torch.sin((1 - share) * w) * a + torch.sin(share * w) * b) / torch.sin(w)


def _cosine(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    def dot(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(dims, keepdim=True)

    return dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()


@exercise(
    probes=_noises,
    bug=lambda a, b, share: _mixed(a, b, share, _cosine(a, b, (0, 1, 2, 3))),
    slips={
        lambda a, b, share: _mixed(a, b, share, _cosine(a, b, (0,))): (
            "now each pixel has an angle of its own: sum over everything but the batch."
        ),
        lambda a, b, share: _mixed(a, b, share, _cosine(a, b, (3,))): (
            "now each row of pixels has an angle of its own: sum over channels and rows too."
        ),
        lambda a, b, share: _mixed(a, b, share, _cosine(a, b, (2, 3))): (
            "now each channel has an angle of its own: sum over the channels too."
        ),
        lambda a, b, share: _mixed(a, b, share, _cosine(a, b, (1, 2, 3)).flatten()): (
            "each column of pixels gets another pair's angle: keep the summed axes (keepdim=True)."
        ),
        _half_repaired: "the dot product is that of a pair, the two sizes still of the batch.",
        lambda a, b, share: (1 - share) * a + share * b: (
            "that is the straight line, which passes through shorter vectors."
        ),
        lambda a, b, share: _mixed(b, a, share, _cosine(a, b, (1, 2, 3))): (
            "the ends are exchanged: a share of 0 should give a."
        ),
    },
    hint="which axes of (B, C, H, W) belong to one picture?",
    right="one angle for each pair, shape (B, 1, 1, 1).",
)
def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    return _mixed(a, b, share, _cosine(a, b, (1, 2, 3)))


def _real_steps(g: Generator) -> list[tuple[float, ...]]:
    places = (torch.rand(3, generator=g, dtype=torch.float32, device="cpu") * 900 + 50).tolist()
    d = (0.02 - 1e-4) / 999
    return [(i, d, (1 - 1e-4) / d) for i in (1.0, 40.0, *places)]


def _log_gamma(i: float, d: float, c: float, *, above: float = 1.0, below: float = 1.0) -> float:
    return i * math.log(d) + math.lgamma(c + above) - math.lgamma(c - i + below)


@exercise(
    probes=_real_steps,
    tolerance=1e-6,
    slips={
        lambda i, d, c: _log_gamma(i, d, c, above=0, below=0): (
            "Gamma(n + 1) = n!: the product c (c - 1) ... is Gamma(c + 1) over another Gamma."
        ),
        lambda i, d, c: _log_gamma(i, d, c, below=0.0): (
            "one factor too many: the last one is c - i + 1, so Gamma(c - i + 1) divides."
        ),
        lambda i, d, c: _log_gamma(i, d, c) - i * math.log(d): "the factor D^i is missing.",
        lambda i, d, c: _log_gamma(i, d, c) + (1 - i) * math.log(d): (
            "D stands in every one of the i factors, not once."
        ),
        lambda i, d, c: _log_gamma(i, d, c) / 2: "that is log alpha, half of log abar.",
        lambda i, d, c: _log_gamma(round(i), d, c): (
            "i is rounded to a whole step: the formula takes any real one."
        ),
        lambda i, d, c: _log_gamma(math.floor(i), d, c): (
            "that is the level of the whole step below i: turn the product into a formula first."
        ),
        lambda i, d, c: 2 * i * math.log(d) - _log_gamma(i, d, c): (
            "the two factorials are exchanged: the larger one is above."
        ),
        lambda i, d, c: math.exp(_log_gamma(i, d, c)): "that is abar itself, not its logarithm.",
    },
    hint="Gamma(x + 1) = x Gamma(x): a falling product is a quotient of two Gammas.",
    right="it equals the table at whole steps, and has a value between them.",
)
def log_abar(i: float, d: float, c: float) -> float:
    return _log_gamma(i, d, c)
