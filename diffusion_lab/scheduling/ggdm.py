"""GGDM: a sampler whose coefficients are learned by descending the quality of its samples.

Differentiable Diffusion Sampler Search (Watson et al. 2022, 2202.05830) learns the coefficients of
a sampler whose every step may use all states before it. There a step is q(x_t | x_{>t}, x_0) =
N(sum_{u>t} mu_tu x_u + ..., sigma_t^2), with x0_hat read off the marginals which that implies. Here
the same span of steps is written in coordinates of the course's own, K steps down a grid,

    x_s = p_k alpha_s x0_hat + q_k sqrt(sigma_s^2 - r_k^2) eps_hat + r_k z + sum_{j>=k} H_kj x_j,
    r_k = eta_k sqrt(bt),   x0_hat and eps_hat asked at (x_k, t_k),

with p = q = 1 and H = 0 is DDIM(eta). Learned are p, q, eta, H and the times (gaps in lambda, which
a softmax keeps positive): 33 numbers for K = 5, through the frozen network, by Adam on

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)

of features of samples x and real data y. Nothing forces the marginals to stay those of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import randn
from diffusion_lab.errors import number, share, unknown
from diffusion_lab.forward import posterior
from diffusion_lab.metrics.kid import cubic, mmd2
from diffusion_lab.schedules import Schedule
from diffusion_lab.walk import Noise, State, check_grid

__all__ = ["GGDM", "LEARNABLE", "fit", "mmd2", "outside", "rbf"]

LEARNABLE = ("times", "eta", "scales", "history")
Kernel = Callable[[Tensor, Tensor], Tensor]


class GGDM(nn.Module):
    """A K-step sampler on ``schedule`` that starts as DDIM(``eta``) on ``grid``.

    ``learn`` names what is trained: times, eta, scales (p, q), history (H). Parameters are float64.
    The first time stays; the others may move up to the lambda ``lam_max`` (a network's highest; by
    default that of the schedule's first step, or of t = 0.001).
    """

    def __init__(
        self,
        schedule: Schedule,
        grid: Sequence[float],
        eta: float = 0.0,
        learn: Sequence[str] = LEARNABLE,
        lam_max: float | None = None,
    ) -> None:
        super().__init__()
        times = check_grid(grid)
        if times[-1] != 0:
            raise ValueError(f"the grid must end at 0, the data; it ends at {times[-1]:g}")
        eta = share("eta", eta, "0 no noise, 1 ancestral")
        for name in learn:
            if name not in LEARNABLE:
                raise unknown("part to learn", name, LEARNABLE)
        self.schedule, self.steps = schedule, len(times) - 1
        lam = torch.tensor([schedule.lam(t) for t in times[:-1]], dtype=torch.float64)
        if not lam.isfinite().all():
            raise ValueError(
                "the grid's first time holds no data (lambda is infinite): start lower"
            )
        self.start, self.low = times[0], lam[0].item()
        edge = schedule.lam(1 / (schedule.T or 1000)) if lam_max is None else lam_max
        if edge > lam[-1] + 1e-6:  # else the last time is at the end already, and stays
            lam = torch.cat([lam, lam.new_tensor([edge])])
        self.high = lam[-1].item()
        k = self.steps
        self.gaps = nn.Parameter(lam.diff().log(), "times" in learn)
        self.eta = nn.Parameter(torch.full((k,), float(eta), dtype=torch.float64), "eta" in learn)
        ones = torch.ones(k, 2, dtype=torch.float64)
        self.scales = nn.Parameter(ones, "scales" in learn)
        # row k, column j: how much of state j (0 = the start) step k adds; states after k unused
        self.history = nn.Parameter(torch.zeros(k, k, dtype=torch.float64), "history" in learn)

    def learned(self) -> int:
        """How many numbers are trained and used: the last step adds neither eps nor noise, and no
        step knows the states after it.
        """
        k = self.steps
        used = {"gaps": self.gaps.numel(), "eta": k - 1, "scales": 2 * k - 1}
        used["history"] = k * (k + 1) // 2
        return sum(used[name] for name, p in self.named_parameters() if p.requires_grad)

    def times(self) -> Tensor:
        """The K times asked at, (K,), falling."""
        share = self.gaps.softmax(0).cumsum(0)[: self.steps - 1]
        moved = self.schedule.t_of_lam(self.low + (self.high - self.low) * share)
        return torch.cat([moved.new_tensor([self.start]), moved])

    def states(
        self,
        denoiser: Denoiser,
        x: Tensor,
        noise: Noise | None = None,
        *,
        grad: bool = False,
        **condition: Any,
    ) -> Iterator[State]:
        """Run it, as ``walk``; with ``grad`` the graph is kept and network passes are recomputed.

        Without a source of noise, eta must be 0 throughout.
        """
        if noise is None and bool((self.eta != 0).any()):
            raise ValueError("this sampler draws noise: pass noise=gaussian(generator(seed))")
        with torch.set_grad_enabled(grad):
            times = self.times()
            alphas, sigmas = self.schedule.alpha_sigma(times)
        shown = [*times.tolist(), 0.0]
        path = [x]
        yield State(x, shown[0], shown[0], 0, self.steps, None, 0)
        for k in range(self.steps):
            with torch.set_grad_enabled(grad):
                x = self._step(denoiser, path, k, times, alphas, sigmas, noise, condition)
            path.append(x)
            yield State(x, *shown[k : k + 2], k + 1, self.steps, None, (k + 1) * denoiser.nfe)

    def _step(
        self,
        denoiser: Denoiser,
        path: list[Tensor],
        k: int,
        times: Tensor,
        alphas: Tensor,
        sigmas: Tensor,
        noise: Noise | None,
        condition: dict[str, Any],
    ) -> Tensor:
        x = path[-1]
        alpha, sigma = alphas[k], sigmas[k]

        def ask(x: Tensor, t: Tensor) -> Tensor:
            return denoiser(x, t.expand(len(x)), **condition).x0

        if torch.is_grad_enabled():  # rematerialisation: store x_k, not the network's insides
            x0 = checkpoint(ask, x, times[k], use_reentrant=False)
        else:
            x0 = ask(x, times[k])
        p, q = self.scales[k]
        out = 0.0
        for j, state in enumerate(path):
            out = out + self.history[k, j].to(x.dtype) * state
        if k == self.steps - 1:  # s = 0: no noise, and sqrt(0) would have no gradient
            return out + p.to(x.dtype) * x0
        eps = (x - alpha.to(x.dtype) * x0) / sigma.to(x.dtype)
        alpha_s, sigma_s = alphas[k + 1], sigmas[k + 1]
        bt = posterior(self.schedule, times[k], times[k + 1]).var
        std = self.eta[k] * bt.sqrt()
        towards = (sigma_s**2 - std**2).clamp(min=1e-12).sqrt()
        out = out + (p * alpha_s).to(x.dtype) * x0 + (q * towards).to(x.dtype) * eps
        if noise is not None and (self.eta.requires_grad or bool(self.eta[k] != 0)):
            out = out + std.to(x.dtype) * noise(k, x)
        return out


# ---- what is descended --------------------------------------------------------------------------
def rbf(*widths: float) -> Kernel:
    """The sum of exp(-|a - b|^2 / 2 w^2) over widths w. Squared distances: no root at 0."""
    if not widths or min(widths) <= 0:
        raise ValueError(f"an RBF kernel needs widths > 0; got {widths}")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        square = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
        return sum((-square.clamp(min=0) / (2 * w * w)).exp() for w in widths)

    return kernel


def outside(x: Tensor) -> Tensor:
    """The mean square of what exceeds [-1, 1]: 0 for pictures that stay in their range."""
    return (x.abs() - 1).relu().square().mean()


def fit(
    sampler: GGDM,
    denoiser: Denoiser,
    real: Tensor,
    generator: torch.Generator,
    *,
    steps: int = 300,
    batch: int = 256,
    lr: float = 0.03,
    kernel: Kernel = cubic,
    features: Callable[[Tensor], Tensor] = lambda x: x.flatten(1),
    condition: Callable[[int], dict[str, Any]] = lambda n: {},
    overshoot: float = 0.0,
    cool: bool = False,
) -> Iterator[float]:
    """Train ``sampler`` in place, yielding the loss of each iteration; the denoiser stays frozen.

    Start noise, step noise and real data (N, ...) are drawn afresh each time: fixed noise would be
    learned by heart. ``features`` must let gradients through; ``condition(n)`` gives the labels.

    Not in the paper: ``overshoot`` times ``outside`` of the samples is added to what is descended
    (the loss that is yielded is the MMD^2 alone), and with ``cool`` the rate falls linearly to 0
    over the second half.
    """
    if len(real) < 2 or batch < 2:
        raise ValueError(
            f"need at least two real data and a batch of two; got {len(real)}, {batch}"
        )
    learned = [p for p in sampler.parameters() if p.requires_grad]
    if not learned:
        raise ValueError("this sampler has nothing to learn: name parts in learn=...")
    number("the weight of the overshoot", overshoot)
    adam = torch.optim.Adam(learned, lr=lr)
    std = sampler.schedule.prior_std(sampler.start)

    def draw(i: int, like: Tensor) -> Tensor:
        return randn(like.shape, generator, like)

    for i in range(steps):
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - i / steps)) if cool else lr
        chosen = torch.randint(len(real), (batch,), generator=generator, device="cpu")
        y = real[chosen]
        x = std * draw(0, y)
        *_, last = sampler.states(denoiser, x, draw, grad=True, **condition(batch))
        with torch.no_grad():
            wanted = features(y)
        made = features(last.x)
        if not bool(made.isfinite().all()):
            raise FloatingPointError(f"the samples hold nan: lower the learning rate ({lr:g})")
        loss = mmd2(made, wanted, kernel)
        # of these alone: backward() would also leave gradients on the network's weights
        total = loss + overshoot * outside(last.x) if overshoot else loss
        slopes = torch.autograd.grad(total, learned, allow_unused=True)
        for p, slope in zip(learned, slopes, strict=True):
            p.grad = slope
        adam.step()
        with torch.no_grad():
            sampler.eta.clamp_(-1.0, 1.0)
        yield loss.item()
