"""ScoreFlow: maximum-likelihood training of diffusion models (Song et al. 2021, 2101.09258).

With weight g^2 on the squared error of the score, score matching bounds the likelihood:

    KL(p_0 || p_model)  <=  1/2 int g^2 E|s - grad log p_t|^2 dt  +  KL(p_1 || prior),

where p_model is what the reverse *SDE* draws with the model's score s. Since g^2/sigma^2 dt =
-2 d lambda for every Gaussian diffusion, the same integral is plain in lambda,

    int E|eps_hat - eps*|^2 d lambda,     eps* the exact answer, E[eps | x_t],

so drawing t with density proportional to g^2/sigma^2 is drawing lambda uniformly
(``draw_times(law="lambda")``); what is left of the weight is a constant, Z/2, and the loss is the
simple one. The weight itself is ``Weighting("vlb")``: 1/2 g^2 on the score.

The probability-flow ODE has another density than the SDE unless s is the score of some diffusion,
so the bound does not cover a likelihood computed by the ODE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import randn
from diffusion_lab.exact import GaussianMixture
from diffusion_lab.forward import noised
from diffusion_lab.objectives import Weighting, draw_times
from diffusion_lab.schedules import Schedule
from diffusion_lab.scores.likelihood import Prior, ends, normal_prior

__all__ = ["DataBound", "data_bound", "density", "kl_bound", "losses", "mass"]


def mass(schedule: Schedule, t0: float, t1: float = 1.0) -> float:
    """Z, the integral of g^2/sigma^2 over [t0, t1]: 2 (lambda_t0 - lambda_t1)."""
    if not 0 <= t0 < t1 <= 1:
        raise ValueError(f"need 0 <= t0 < t1 <= 1; got {t0} and {t1}")
    z = 2 * (schedule.lam(t0) - schedule.lam(t1))
    if not math.isfinite(z):
        raise ValueError(
            f"g^2/sigma^2 has no finite integral from t = {t0:g} to {t1:g} on {schedule!r}: begin "
            "above clean data, such as t0 = 0.001, and end where some data are left"
        )
    return z


def density(schedule: Schedule, t: Tensor, t0: float, t1: float = 1.0) -> Tensor:
    """p(t) = g^2/(sigma^2 Z) on [t0, t1], (B,) float64: the law of t that levels the weight."""
    _, g2 = schedule.drift_diffusion(t)
    return g2 / schedule.sigma(t) ** 2 / mass(schedule, t0, t1)


def losses(
    denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, *, importance: float | None = None
) -> Tensor:
    """One-draw estimates (B,), in nats, of 1/2 int g^2 E|s + eps/sigma|^2 dt (times t1 - t0).

    With t uniform: 1/2 (g^2/sigma^2) |eps_hat - eps|^2. With t drawn uniformly in lambda give
    ``importance`` = Z = ``mass(...)``: 1/2 Z |eps_hat - eps|^2, the same mean, far less variance.
    """
    schedule = denoiser.schedule
    p = denoiser(noised(x0, eps, schedule, t), t)
    error = (p.eps - eps).flatten(1).square().sum(1).double()
    if importance is not None:
        return 0.5 * importance * error
    return Weighting("vlb").on("eps", schedule, t) * error


def _lam_range(schedule: Schedule, t0: float, t1: float) -> tuple[float, float]:
    mass(schedule, t0, t1)  # refuses what is infinite
    return schedule.lam(t1), schedule.lam(t0)


@torch.no_grad()
def kl_bound(
    denoiser: Denoiser,
    truth: GaussianMixture,
    n: int,
    generator: torch.Generator,
    times: tuple[float, float] | None = None,
    prior: Prior | None = None,
) -> tuple[float, float]:
    """(1/2 int g^2 E|s - grad log p_t|^2 dt, KL(p_1 || prior)) in nats, where p_t is known.

    Their sum bounds KL(p_t0 || the SDE's density at t0) from above. Monte Carlo with ``n`` draws,
    lambda spread evenly; ``times`` = (t0, t1), ``ends(denoiser)`` by default.
    """
    schedule = denoiser.schedule
    t0, t1 = ends(denoiser) if times is None else times
    span = mass(schedule, t0, t1) / 2
    t = draw_times(schedule, n, generator, law="lambda", lam_range=_lam_range(schedule, t0, t1))
    x0 = truth.sample(n, generator)
    eps = randn(x0.shape, generator, dtype=x0.dtype)
    x_t = noised(x0, eps, schedule, t)
    gap = denoiser(x_t, t).eps.double() - truth.denoiser(schedule)(x_t, t).eps
    alpha, sigma = schedule.alpha_sigma(t1)
    x1 = alpha * x0 + sigma * eps
    prior = normal_prior(schedule.prior_std(t1)) if prior is None else prior
    end = truth.log_prob(x1, alpha, sigma) - prior(x1)
    return span * float(gap.square().sum(1).mean()), float(end.mean())


@dataclass(frozen=True, eq=False)
class DataBound:
    """The bound on -log p(x_0) of each datum, in nats, (B,) float64; ``total`` is the sum of

    prior    -E log prior(x_1)
    path     int E[|eps_hat - eps|^2 - |eps|^2] d lambda - d (log alpha_1 - log alpha_t0)
    decoder  what the last move from t0 to data costs: -log of N(x0_hat, (sigma/alpha)^2 I)
             at x_0, plus log q(x_t0 | x_0)
    """

    prior: Tensor
    path: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.path + self.decoder


@torch.no_grad()
def data_bound(
    denoiser: Denoiser,
    x0: Tensor,
    generator: torch.Generator,
    *,
    draws: int = 16,
    times: tuple[float, float] | None = None,
    prior: Prior | None = None,
    **condition: Tensor,
) -> DataBound:
    """Upper bound on -log p(x_0) under the reverse SDE (theorem 3), with the offset of t0.

    Without bias, by ``draws`` lambdas a datum, spread evenly over the range; ``times`` = (t0, t1)
    as ``ends(denoiser)`` by default. Condition tensors are (B,), such as label.
    """
    if draws < 1:
        raise ValueError(f"draws must be >= 1; got {draws}")
    if not bool(torch.isfinite(x0).all()):
        raise ValueError("x0 holds NaN or infinity: it has no likelihood")
    schedule, n, size = denoiser.schedule, len(x0), x0[0].numel()
    t0, t1 = ends(denoiser) if times is None else times
    span, lams = mass(schedule, t0, t1) / 2, _lam_range(schedule, t0, t1)
    offset = torch.rand(n, generator=generator, dtype=torch.float64, device="cpu")
    path = torch.zeros(n, dtype=torch.float64, device="cpu")
    for k in range(draws):
        lam = lams[0] + (lams[1] - lams[0]) * (k + offset) / draws
        t = schedule.t_of_lam(lam).clamp(t0, t1).to(x0.device)
        path += _excess(denoiser, x0, t, generator, **condition).cpu() / draws
    (alpha0, _), (alpha1, sigma1) = schedule.alpha_sigma(t0), schedule.alpha_sigma(t1)
    path = span * path - size * math.log(alpha1 / alpha0)
    edge = torch.full((n,), t0, dtype=torch.float64, device="cpu").to(x0.device)
    first = _excess(denoiser, x0, edge, generator, **condition)
    eps = randn(x0.shape, generator, x0, x0.dtype)
    prior = normal_prior(schedule.prior_std(t1)) if prior is None else prior
    end = -prior(alpha1 * x0 + sigma1 * eps).double()
    return DataBound(end.cpu(), path, 0.5 * first.cpu() - size * math.log(alpha0))


def _excess(
    denoiser: Denoiser, x0: Tensor, t: Tensor, generator: torch.Generator, **condition: Tensor
) -> Tensor:
    """|eps_hat - eps|^2 - |eps|^2, (B,) float64: sigma^2 times that of theorem 3 on the score.

    A share 1 - w of |eps|^2 is replaced by its mean d: at the noisy end, where eps_hat is eps, the
    difference would only add noise. w = (SNR/(1 + SNR))^2 takes most of it away.
    """
    eps = randn(x0.shape, generator, x0, x0.dtype)
    p = denoiser(noised(x0, eps, denoiser.schedule, t), t, **condition)
    miss, size = (y.double().flatten(1).square().sum(1) for y in (p.eps - eps, eps))
    w = torch.sigmoid(2 * denoiser.schedule.lam(t)) ** 2
    return miss - w * size - (1 - w) * eps[0].numel()
