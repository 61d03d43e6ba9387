"""DiffusionTimes: how long should the noise run? (Franzese et al. 2022, 2206.05173)

The bound of a model that starts at time T splits into

    E log p(x_0) >= E log p_data(x_0) - G(T) - KL(p_T || prior),
    G(T) = 1/2 int_0^T g^2 E|score - score*|^2 dt = int E|eps_hat - eps*|^2 dlambda,

(lambda from that of T upwards). G grows with T, the KL falls, so the sum is smallest inside. With
an auxiliary model nu of x_T in place of the prior, KL(p_T || nu) is small at any T: T may be
shorter, and the walk takes proportionally fewer steps. nu here is a mixture of Gaussians.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lab.bound import BITS
from diffusion_lab.device import randn
from diffusion_lab.errors import whole
from diffusion_lab.exact import Gaussian, GaussianMixture
from diffusion_lab.grids import grid
from diffusion_lab.schedules import Schedule

__all__ = [
    "best_time",
    "cross_entropy",
    "fit_mixture",
    "fit_start",
    "gap",
    "gaussian_kl",
    "grid_from",
    "moments_at",
    "start",
]


def gaussian_kl(p: Gaussian, q: Gaussian) -> float:
    """KL(p || q) in nats of two Gaussians."""
    if p.dim != q.dim:
        raise ValueError(f"Gaussians of {p.dim} and {q.dim} dimensions do not compare")
    a, b, gap = p.covs[0], q.covs[0], p.means[0] - q.means[0]
    inner = torch.linalg.solve(b, a).trace() + gap @ torch.linalg.solve(b, gap) - p.dim
    return 0.5 * (inner + torch.logdet(b) - torch.logdet(a)).item()


def moments_at(schedule: Schedule, t: float, mean: Tensor, cov: Tensor) -> Gaussian:
    """The Gaussian of mean and covariance of x_t for data of ``mean`` (D,) and ``cov`` (D, D)."""
    alpha, sigma = schedule.alpha_sigma(t)
    eye = torch.eye(len(mean), dtype=torch.float64)
    return Gaussian(alpha * mean.double(), alpha**2 * cov.double() + sigma**2 * eye)


def gap(schedule: Schedule, times: Sequence[float], errors: Tensor) -> Tensor:
    """G at each of the rising ``times`` (M,) in nats, G = 0 at the first; trapezoids in lambda.

    ``errors``: (M,) E|eps_hat - eps*|^2, summed over dimensions.
    """
    t = torch.as_tensor(times, dtype=torch.float64)
    if t.ndim != 1 or len(t) < 2 or not (t.diff() > 0).all() or t[0] <= 0:
        raise ValueError("times must rise from above 0, at least two of them")
    if errors.shape != t.shape or bool((errors < 0).any()):
        raise ValueError(f"need an error >= 0 for each time, {tuple(t.shape)}; got {errors.shape}")
    width, e = -schedule.lam(t).diff(), errors.double()
    return torch.cat([t.new_zeros(1), (0.5 * (e[1:] + e[:-1]) * width).cumsum(0)])


def best_time(times: Sequence[float], gaps: Tensor, kls: Tensor) -> tuple[float, float]:
    """(T*, G(T*) + KL(T*)): the smallest sum among the given times."""
    total = gaps + kls
    i = int(total.argmin())
    return float(times[i]), total[i].item()


# ---- the auxiliary start ------------------------------------------------------------------------
def fit_start(
    x0: Tensor,
    schedule: Schedule,
    t: float,
    components: int = 1,
    *,
    generator: torch.Generator,
    copies: int = 4,
) -> GaussianMixture:
    """nu, a mixture of ``components`` full-covariance Gaussians for x_t of the data x0 (N, ...).

    One component: the mean and covariance of x_t in closed form. More: expectation maximisation
    (scikit-learn) on ``copies`` noised versions of each datum.
    """
    whole("the number of Gaussians", components)
    flat = x0.flatten(1).double()
    if len(flat) < 2 * components:
        raise ValueError(f"{len(flat)} data are too few for {components} Gaussians")
    if components == 1:
        return moments_at(schedule, t, flat.mean(0), torch.cov(flat.T).reshape(flat.shape[1], -1))
    alpha, sigma = schedule.alpha_sigma(t)
    many = flat.repeat(copies, 1)
    noise = randn(many.shape, generator, dtype=torch.float64)
    return fit_mixture(alpha * many + sigma * noise, components, generator, floor=sigma**2)


def fit_mixture(
    x: Tensor, components: int, generator: torch.Generator, floor: float = 0.0
) -> GaussianMixture:
    """A mixture of full-covariance Gaussians fitted to points x (N, D) by EM.

    Eigenvalues of the covariances are raised to ``floor``: x_t cannot vary less than its noise.
    """
    from sklearn.mixture import GaussianMixture as EM  # takes a second to import

    seed = int(torch.randint(2**31, (), generator=generator, device="cpu"))
    em = EM(components, covariance_type="full", random_state=seed, max_iter=50, reg_covar=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 50 rounds are enough for a start; the bound judges it
        em.fit(x.numpy())
    e, u = torch.linalg.eigh(torch.as_tensor(em.covariances_))
    covs = (u * e.clamp(min=floor)[:, None]) @ u.mT
    return GaussianMixture(em.weights_, em.means_, (covs + covs.mT) / 2)


def start(
    nu: GaussianMixture, n: int, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """n draws of x_T ~ nu as float32 data (n, *shape)."""
    return nu.sample(n, generator).reshape(n, *shape).float()


def cross_entropy(
    x0: Tensor, schedule: Schedule, t: float, nu: GaussianMixture, generator: torch.Generator
) -> Tensor:
    """The term L_T with nu as the start, E_q[log q(x_t|x_0) - log nu(x_t)], bits/dim, (N,).

    One draw of x_t for each datum x0 (N, ...). It replaces ``bound.prior_term`` in the bound of a
    grid that starts at t: the likelihood of nu belongs to the model's.
    """
    flat = x0.flatten(1).double()
    alpha, sigma = schedule.alpha_sigma(t)
    eps = randn(flat.shape, generator, dtype=torch.float64)
    noise = Gaussian(torch.zeros(flat.shape[1]), torch.eye(flat.shape[1]))
    density = noise.log_prob(eps) - flat.shape[1] * math.log(sigma)
    return BITS * (density - nu.log_prob(alpha * flat + sigma * eps)) / flat.shape[1]


def grid_from(
    schedule: Schedule, t: float, steps: int, lam_range: tuple[float, float] | None = None
) -> list[float]:
    """``steps`` uniform moves from time t to 0 (the last asked time within ``lam_range``)."""
    if not 0 < t <= 1:
        raise ValueError(f"the diffusion time must lie in (0, 1]; got {t}")
    high = grid(schedule, 1, lam_range=lam_range)[0] if lam_range else 1.0
    if t > high + 1e-9:
        raise ValueError(f"the denoiser cannot be asked above t = {high:.3g}; got {t}")
    whole("the number of steps", steps)
    last = 0.0 if lam_range is None else schedule.t_of_lam(lam_range[1])
    if not last < t:
        raise ValueError(f"the denoiser cannot be asked below t = {last:.3g}; got {t}")
    times = [t * (1 - i / steps) for i in range(steps)]
    if times[-1] < last:  # too many to fit: between the two ends instead
        times = [last + (t - last) * (1 - i / (steps - 1)) for i in range(steps)]
    return [*times, 0.0]
