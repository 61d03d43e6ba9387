"""Diffusion of categories: tokens with K values, each noised alone (D3PM, 2107.03006).

A token is a one-hot row x, and a step a matrix whose rows sum to 1: [Q_t]_ij = q(x_t = j | x_{t-1}
= i). With Qbar_t = Q_1 ... Q_t and [MASK] as one state more (number K),

    q(x_t | x_0)      = x_0 Qbar_t
    q(x_s | x_t, x_0) = (x_t Q_{t|s}^T) * (x_0 Qbar_s) / (x_0 Qbar_t x_t^T).

Three kernels are one closed form (VQ-Diffusion, 2111.14822, eq 8): a code stays with abar_t, turns
into each code with bbar_t = (1 - abar_t - gbar_t)/K, and is masked with gbar_t = 1 - ``alive``; a
mask stays one. Without masks it is the uniform kernel (multinomial diffusion, 2102.05379; K = 2 is
the binomial one, 1503.03585), with bbar = 0 the absorbing one. Between two times it is the same
form with alpha = abar_t/abar_s and 1 - gamma = alive_t/alive_s.

A network says p~(x_0 | x_t), and a step back is built of it in one of two ways, which differ:

    marginal  p(x_s | x_t) = sum_{x_0} q(x_s | x_t, x_0) p~(x_0)      best p~: p(x_0 | x_t)
    product   p(x_s | x_t) prop. to (x_t Q_{t|s}^T) * (p~ Qbar_s)     best p~: what the *other*
              tokens say of this one; for a single token the law of the data, whatever x_t is

VQ-Diffusion has the first, D3PM and multinomial diffusion the second. They agree where q(x_t | x_0)
does not depend on x_0: a masked token. In the marginal form an x_0 that cannot lead to x_t has no
weight. Times are t = i/T, i = 0..T (between two of them, abar and alive are interpolated).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from diffusion_lab import nets
from diffusion_lab.denoisers import Denoiser, Prediction
from diffusion_lab.device import check_generator, check_label, check_time, check_times, generator
from diffusion_lab.errors import check_arguments, unknown, whole
from diffusion_lab.nets.specs import spec_of
from diffusion_lab.walk import Noise, Result, Step, sample, walk

__all__ = ["FORMS", "PROCESSES", "Categorical", "CodeDenoiser", "ExactCodes", "Matrices", "Process"]
__all__ += ["absorbing", "ancestral", "bound", "check_codes", "draw", "generate", "make"]
__all__ += ["mask_and_replace", "reverse", "term", "times", "uniform", "uniforms"]

FORMS = ("marginal", "product")
Number = float | Tensor


# ---- the process --------------------------------------------------------------------------------
class Process:
    """K codes and, with ``alive``, a mask (state K): ``n`` states; T steps.

    abar, alive: tables of T + 1 numbers, 1 at t = 0: the share of tokens that no step touched, and
    of those not masked. ValueError where they are no such tables, or abar falls slower than alive.
    """

    def __init__(
        self,
        K: int,
        abar: Sequence[float] | Tensor,
        alive: Sequence[float] | Tensor | None = None,
        spec: dict[str, Any] | None = None,
    ) -> None:
        self.K, self.masks, self.about = whole("K", K, 2), alive is not None, spec
        self.n = self.K + self.masks
        one = torch.ones(len(abar), dtype=torch.float64, device="cpu")
        self.abar = torch.as_tensor(abar, dtype=torch.float64, device="cpu")
        self.alive = one if alive is None else torch.as_tensor(alive, dtype=one.dtype, device="cpu")
        self.T = len(self.abar) - 1
        for name, table in (("abar", self.abar), ("alive", self.alive)):
            falls = table.shape == one.shape and bool((table.diff() <= 1e-12).all())
            if not (self.T >= 1 and falls and table[0] == 1 and table[-1] >= 0):
                raise ValueError(f"{name} falls from 1 at t = 0, in T + 1 numbers; got {table}")
        if bool((self._stays(self.abar) > self._stays(self.alive) + 1e-9).any()):
            raise ValueError("abar falls at least as fast as alive: what is masked is not kept")

    @staticmethod
    def _stays(table: Tensor) -> Tensor:
        return table[1:] / table[:-1].clamp(min=1e-300)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.about or f'K={self.K}, T={self.T}'})"

    def spec(self) -> dict[str, Any]:
        """Plain values of which ``make`` builds it again; ValueError for one of bare tables."""
        if self.about is None:
            raise ValueError("a process of bare tables has no name: take one of PROCESSES")
        return dict(self.about)

    def _read(self, table: Tensor, t: Number) -> Tensor:
        """The table at time t (a float, or (B,)), interpolated; float64."""
        place = torch.as_tensor(check_time(t), dtype=torch.float64, device="cpu") * self.T
        whole_step = place.round()
        place = torch.where((place - whole_step).abs() < 1e-9, whole_step, place)
        low = place.long().clamp(max=self.T - 1)
        return torch.lerp(table[low], table[low + 1], place - low)

    def between(self, t: Number, s: Number = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """(alpha, beta, gamma) of Q_{t|s}: alpha on the code, beta on every code, gamma masked."""
        a = self._read(self.abar, t) / self._read(self.abar, s).clamp(min=1e-300)
        alive = self._read(self.alive, t) / self._read(self.alive, s).clamp(min=1e-300)
        return a, ((alive - a) / self.K).clamp(min=0), 1 - alive

    def _told(self, t: Number, s: Number, like: Tensor) -> list[Tensor]:
        """``between`` ready to multiply (B, D, n)."""
        found = self.between(t, s)
        return [c if c.ndim == 0 else c.to(like)[:, None, None] for c in found]

    def spread(self, p: Tensor, t: Number, s: Number = 0.0) -> Tensor:
        """p Q_{t|s}: the law at t of tokens with the law p (..., K or n) at s; (..., n)."""
        a, b, g = self._told(t, s, p)
        codes, mask = p[..., : self.K], p[..., self.K :]
        total = codes.sum(-1, keepdim=True)
        moved = a * codes + b * total
        if not self.masks:
            return moved
        return torch.cat([moved, g * total + (mask if mask.shape[-1] else 0)], dim=-1)

    def likelihood(self, x_t: Tensor, t: Number, s: Number, like: Tensor) -> Tensor:
        """q(x_t | x_s = j) for every state j: x_t Q_{t|s}^T, (B, D, n) in the dtype of ``like``."""
        hot = one_hot(x_t, self.n).to(like)
        a, b, g = self._told(t, s, like)
        if not self.masks:
            return a * hot + b
        mask = hot[..., self.K :]
        return torch.cat([a * hot[..., : self.K] + b * (1 - mask) + g * mask, mask], dim=-1)

    def matrix(self, t: float, s: float = 0.0) -> Tensor:
        """Q_{t|s} (n, n), float64; Qbar_t with s = 0."""
        return self.spread(torch.eye(self.n, dtype=torch.float64, device="cpu"), t, s)

    def prior(self) -> Tensor:
        """p(x_1) (n,): where codes that are all equally likely have come at t = 1; float64."""
        even = torch.full((self.K,), 1 / self.K, dtype=torch.float64, device="cpu")
        return self.spread(even, 1.0)

    def noised(self, x0: Tensor, t: Number, u: Tensor) -> Tensor:
        """x_t (B, D) from codes x_0 and uniform numbers u of their shape."""
        hot = one_hot(check_codes(x0, self.K, "x0"), self.K).double()
        return draw(self.spread(hot, t), u)


class Matrices(Process):
    """Any T matrices Q (T, n, n), the last state a mask where n = K + 1. Times are i/T exactly."""

    def __init__(self, Q: Tensor, K: int | None = None) -> None:
        if Q.ndim != 3 or Q.shape[1] != Q.shape[2] or bool((Q < 0).any()):
            raise ValueError(f"Q holds T matrices (T, n, n), nothing below 0; got {tuple(Q.shape)}")
        off = (Q.sum(-1) - 1).abs().max().item()
        if off > 1e-6:
            raise ValueError(f"each row of a transition matrix sums to 1; one is off by {off:.2g}")
        self.Q, self.T, self.n, self.about = Q.double(), len(Q), Q.shape[1], None
        self.K = self.n if K is None else whole("K", K, 2)
        if self.n - self.K not in (0, 1):
            raise ValueError(f"{self.n} states are K = {self.n} codes, or one less and a mask")
        self.masks = self.n > self.K
        bar = [torch.eye(self.n, dtype=torch.float64, device="cpu")]
        for one in self.Q:
            bar.append(bar[-1] @ one)
        self.Qbar = torch.stack(bar)

    def matrix(self, t: Number, s: Number = 0.0) -> Tensor:
        """Q_{t|s}, (n, n), or (B, n, n) for times (B,); ValueError between two steps."""
        if isinstance(t, Tensor) and t.ndim:
            s = s if isinstance(s, Tensor) else torch.full_like(t, s)
            return torch.stack([self.matrix(*pair) for pair in zip(t.tolist(), s.tolist())])
        i, j = (round(check_time(float(one)) * self.T) for one in (t, s))
        if max(abs(i - t * self.T), abs(j - s * self.T)) > 1e-6:
            raise ValueError(f"times of this process are i/{self.T}; got {t} and {s}")
        if j == 0:
            return self.Qbar[i]
        found = torch.eye(self.n, dtype=torch.float64, device="cpu")
        for one in self.Q[j:i]:
            found = found @ one
        return found

    def spread(self, p: Tensor, t: Number, s: Number = 0.0) -> Tensor:
        return p @ self.matrix(t, s).to(p)[..., : p.shape[-1], :]

    def likelihood(self, x_t: Tensor, t: Number, s: Number, like: Tensor) -> Tensor:
        Q = self.matrix(t, s).to(like)
        return one_hot(x_t, self.n).to(like) @ Q.transpose(-1, -2)


def uniform(K: int, T: int = 100, law: str = "linear") -> Process:
    """The uniform kernel. ``linear``: abar = 1 - t (beta_t = 1/(T - t + 1)); ``cosine``: that of
    multinomial diffusion, abar = cos((t + .008)/1.008 pi/2), no step below alpha = sqrt(.001).
    """
    t = torch.arange(whole("T", T) + 1, dtype=torch.float64, device="cpu") / T
    if law == "cosine":
        raw = ((t + 0.008) / 1.008 * math.pi / 2).cos()
        steps = (raw[1:] / raw[:-1]).clamp(min=0.001**0.5, max=1)
        abar = torch.cat([torch.ones_like(t[:1]), steps.cumprod(0)])
    elif law == "linear":
        abar = 1 - t
    else:
        raise unknown("law of a uniform kernel", law, ("linear", "cosine"))
    return Process(K, abar, spec={"name": "uniform", "K": K, "T": T, "law": law})


def absorbing(K: int, T: int = 100) -> Process:
    """The mask kernel, abar = 1 - t: step i back reveals a masked token with probability 1/i."""
    left = 1 - torch.arange(whole("T", T) + 1, dtype=torch.float64, device="cpu") / T
    return Process(K, left, left, {"name": "absorbing", "K": K, "T": T})


def mask_and_replace(K: int, T: int = 100, schedule: str = "paper") -> Process:
    """VQ-Diffusion's kernel.

    ``paper``: at t = 1 a token is masked with 0.9, else a code drawn evenly; linear in t.
    ``release``: the default of the authors' code, abar from .99999 at i = 1 to .000009 at i = T and
    gbar the other way: K bbar = 1e-6 always, a mask kernel in all but name.
    """
    t = torch.arange(whole("T", T, 2) + 1, dtype=torch.float64, device="cpu") / T
    if schedule == "release":
        inner = torch.linspace(0, 1, T, dtype=torch.float64, device="cpu")
        down = 0.99999 + inner * (0.000009 - 0.99999)
        one = torch.ones_like(t[:1])
        abar, alive = torch.cat([one, down]), torch.cat([one, down + 1e-6])
    elif schedule == "paper":
        abar, alive = 1 - t, 1 - 0.9 * t
    else:
        raise unknown("schedule of mask_and_replace", schedule, ("paper", "release"))
    spec = {"name": "mask_and_replace", "K": K, "T": T, "schedule": schedule}
    return Process(K, abar, alive, spec)


PROCESSES = {"uniform": uniform, "absorbing": absorbing, "mask_and_replace": mask_and_replace}


def make(name: str, **arguments: Any) -> Process:
    """A process by name; unknown names and arguments suggest the near match."""
    if name not in PROCESSES:
        raise unknown("process of codes", name, PROCESSES)
    check_arguments(f"the process {name!r}", PROCESSES[name], arguments)
    return PROCESSES[name](**arguments)


# ---- a step back --------------------------------------------------------------------------------
def reverse(
    process: Process, x_t: Tensor, logp: Tensor, t: Number, s: Number, form: str = "marginal"
) -> Tensor:
    """p(x_s | x_t) (B, D, n) from log p~(x_0) (B, D, K); with a one-hot p~ it is the posterior.

    t, s: floats, or one for each datum (B,). ValueError for an unknown form, and on the CPU where
    no x_0 leads to x_t.
    """
    if form not in FORMS:
        raise unknown("form of a step back", form, FORMS)
    if form == "marginal":
        far = process.likelihood(x_t, t, 0.0, logp)[..., : process.K]
        weight = logp - far.clamp(min=torch.finfo(far.dtype).tiny).log()
        p = weight.where(far > 0, weight.new_tensor(-math.inf)).softmax(-1)
    else:
        p = logp.double().exp()  # one that is small is not to vanish
    found = process.likelihood(x_t, t, s, p) * process.spread(p, s)
    total = found.sum(-1, keepdim=True)
    if total.is_cpu and not bool((total > 0).all()):
        raise ValueError("there are codes in x_t that no x_0 of this denoiser leads to at t")
    return found / total


def term(
    process: Process,
    x_t: Tensor,
    x0: Tensor,
    logp: Tensor,
    t: Number,
    s: Number,
    form: str = "marginal",
) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats (B,); at s = 0 it is -log p(x_0 | x_t)."""
    hot = one_hot(x0, process.K).to(logp).log()
    q, p = reverse(process, x_t, hot, t, s), reverse(process, x_t, logp, t, s, form)
    q = q.to(p)
    return (torch.xlogy(q, q) - q * p.clamp(min=1e-30).log()).sum((-1, -2))


class Categorical(Prediction):
    """What is said of x_0: ``out``, normalised log-probabilities (B, D, K), from any logits."""

    __slots__ = ()

    def __init__(self, x_t: Tensor, logits: Tensor) -> None:
        self.x_t, self.kind, self.kept_eps, self.var_weight = x_t, "codes", None, None
        self.alpha = self.sigma = self.a = self.b = math.nan
        self.out = logits.log_softmax(-1)

    @property
    def x0(self) -> Tensor:
        """The likeliest codes (B, D)."""
        return self.out.argmax(-1)

    def mix(self, **_: Any) -> Tensor:
        """ValueError: a prediction of codes is no line in x_t."""
        raise ValueError("codes have no eps, v or score: read .out, the log-probabilities of x_0")

    def pushed(self, scale: float) -> Categorical:
        """Discrete guidance (2205.16007): the first half of the batch, away from the second.

        log p_s = log p_null + scale (log p_condition - log p_null), normalised.
        """
        yes, no = self.out.chunk(2)
        return Categorical(self.x_t[: len(yes)], torch.lerp(no, yes, scale))


def uniforms(gen: torch.Generator) -> Noise:
    """Numbers in [0, 1), one for each token: the noise of a walk over codes."""
    check_generator(gen)
    return lambda i, like, s=None: torch.rand(
        like.shape, generator=gen, dtype=torch.float64, device="cpu"
    ).to(like.device)


def draw(p: Tensor, u: Tensor) -> Tensor:
    """States (B, D) drawn from p (B, D, n) by uniform numbers u (B, D): the inverse of the sum."""
    if not u.is_floating_point():
        raise ValueError("codes are drawn from uniform numbers: noise=uniforms(generator(seed))")
    total = p.double().cumsum(-1)
    return (total <= u[..., None] * total[..., -1:]).sum(-1).clamp(max=p.shape[-1] - 1)


def ancestral(form: str = "marginal") -> Step:
    """The step for ``walk``: draw x_s from p(x_s | x_t), by the two-time kernel for any s < t."""
    if form not in FORMS:
        raise unknown("form of a step back", form, FORMS)

    def step(ask: Any, x: Tensor, t: float, s: float) -> Tensor:
        p = reverse(ask.schedule, x, asked(ask, x, t).out, t, s, form)
        return draw(p, ask.noise(x, s))

    return step


def asked(ask: Any, x: Tensor, t: float, **more: Any) -> Categorical:
    """The denoiser's answer; ValueError unless it speaks of codes."""
    said = ask(x, t, **more)
    if not isinstance(said, Categorical):
        raise ValueError(f"this step walks over codes; the denoiser answered with {said.kind!r}")
    return said


def times(process: Process, steps: int | None = None) -> list[float]:
    """The grid 1 = t_0 > ... > 0 of ``steps`` moves, all T by default, on times i/T."""
    steps = process.T if steps is None else whole("the number of steps", steps)
    if steps > process.T:
        raise ValueError(f"{steps} steps asked of a process that has {process.T}")
    return [round(process.T * k / steps) / process.T for k in range(steps, -1, -1)]


def generate(
    denoiser: Denoiser,
    n: int,
    *,
    steps: int | None = None,
    step: Step | None = None,
    seed: int = 0,
    bar: bool = False,
    keep: bool = False,
    **condition: Any,
) -> Result:
    """n sequences of codes (n, D) from a seed: over ``times`` by ``ancestral()``, or ``step``."""
    process, gen = denoiser.schedule, generator(seed)
    where = next((p.device for p in denoiser.parameters()), torch.device("cpu"))
    shape = (whole("the number of samples", n), *denoiser.shape)
    noise = uniforms(gen)
    x = draw(process.prior().expand(*shape, -1), noise(0, torch.empty(shape, device="cpu")))
    states = walk(
        step or ancestral(), denoiser, x.to(where), times(process, steps), noise=noise, **condition
    )
    return sample(states, bar=bar, keep=keep)


def bound(
    denoiser: Denoiser,
    x0: Tensor,
    gen: torch.Generator,
    *,
    steps: int | None = None,
    form: str = "marginal",
    **condition: Any,
) -> Tensor:
    """The terms of the bound in bits per sequence, (steps + 1, N), one draw of x_t for each.

    Row 0 is the prior's, row i that of the step down from the i-th time: their sum bounds
    -log2 p(x_0). Divide by D for bits per token.
    """
    process = denoiser.schedule
    grid = times(process, steps)[::-1]
    end = process.spread(one_hot(check_codes(x0, process.K, "x0"), process.K).double(), 1.0)
    rows = [(torch.xlogy(end, end) - torch.xlogy(end, process.prior().to(end))).sum((-1, -2))]
    with torch.no_grad():
        for s, t in itertools.pairwise(grid):
            x_t = process.noised(x0, t, uniforms(gen)(0, x0))
            logp = denoiser(x_t, t, **condition).out
            rows.append(term(process, x_t, x0, logp, t, s, form).double())
    return torch.stack(rows) / math.log(2)


# ---- denoisers ----------------------------------------------------------------------------------
def check_codes(x: Tensor, n: int, name: str) -> Tensor:
    """x if it is int64 (B, D) within 0..n-1 (looked at on the CPU only); ValueError otherwise."""
    if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.ndim != 2:
        given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be codes, int64 (B, D); got {given}")
    if x.is_cpu and x.numel() and not (x.min() >= 0 and x.max() < n):
        raise ValueError(f"{name} must lie in 0..{n - 1}; got {x.min()}..{x.max()}")
    return x


class ExactCodes(Denoiser):
    """The truth for a finite list of sequences (M, D) with ``weights``: p(x_0 | x_t) of a token.

    With ``others`` what the other tokens say of it: the best answer in the product form. ``labels``
    (M,) give each its class, and ``label=`` then leaves those of the class alone.
    """

    def __init__(
        self,
        process: Process,
        sequences: Tensor,
        weights: Sequence[float] | Tensor | None = None,
        *,
        labels: Tensor | None = None,
        others: bool = False,
    ) -> None:
        super().__init__(process)
        self.sequences = check_codes(sequences, process.K, "sequences")
        M, D = sequences.shape
        given = torch.as_tensor([1.0] * M if weights is None else weights, dtype=torch.float64)
        if given.shape != (M,) or bool((given < 0).any()) or not given.sum() > 0:
            raise ValueError(f"weights are {M} numbers >= 0, one a sequence; got {weights!r}")
        self.log_w = (given / given.sum()).log()
        self.labels, self.others, self.shape = labels, others, (D,)
        self.num_classes = None if labels is None else int(labels.max()) + 1

    def forward(self, x_t: Tensor, t: Number, label: Tensor | None = None) -> Categorical:
        check_codes(x_t, self.schedule.n, "x_t")
        K, w = self.schedule.K, self.log_w.expand(len(x_t), -1)
        if label is not None:
            label = check_label(label, len(x_t), self.num_classes)[:, None]
            w = w.masked_fill((label != self.labels) & (label != self.num_classes), -math.inf)
        far = self.schedule.likelihood(x_t, t, 0.0, w).clamp(min=1e-30).log()
        own = far.gather(2, self.sequences.T.expand(len(x_t), -1, -1))  # (B, D, M)
        said = w[:, None] + own.sum(1, keepdim=True) - (own if self.others else 0)
        share = said.softmax(-1).expand(len(x_t), x_t.shape[1], -1)
        p = torch.einsum("bdm,mdk->bdk", share, one_hot(self.sequences, K).double())
        return Categorical(x_t, p.log())


class CodeDenoiser(Denoiser):
    """A network ``net(x_t, t, **condition) -> logits (B, D, K)``, on a process.

    x_t (B, D) int64 with K for a mask; t of shape (1,) or (B,). Logits beyond K are left out: no
    network may say that x_0 is a mask. ``squares`` and ``seen`` are the training's memory of the
    terms of the bound, one for each step.
    """

    def __init__(
        self, net: torch.nn.Module, process: Process, length: int, num_classes: int | None = None
    ) -> None:
        super().__init__(process)
        self.net, self.shape, self.num_classes = net, (whole("length", length),), num_classes
        for name in ("squares", "seen"):
            self.register_buffer(name, torch.zeros(process.T, dtype=torch.float32))

    def forward(self, x_t: Tensor, t: Number, **condition: Any) -> Categorical:
        check_codes(x_t, self.schedule.n, "x_t")
        check_times(t, x_t)
        if x_t.shape[1:] != self.shape:
            raise ValueError(f"x_t has {x_t.shape[1]} tokens, this denoiser {self.shape[0]}")
        told = t if isinstance(t, Tensor) else torch.tensor([t], device="cpu")
        out = self.net(x_t, told.to(x_t.device, torch.float32), **condition)
        return Categorical(x_t, out[..., : self.schedule.K])

    def spec(self) -> dict[str, Any]:
        """Plain values of which ``from_spec`` builds it again, but for the weights."""
        about = {"net": spec_of(self.net), "process": self.schedule.spec()}
        about |= {"length": self.shape[0], "num_classes": self.num_classes}
        return {"name": "diffusion_lab.discrete.categorical:CodeDenoiser"} | about

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> CodeDenoiser:
        """The denoiser of a ``spec``, untrained; KeyError, TypeError, ValueError for no such."""
        given = {k: v for k, v in spec.items() if k != "name"}
        net, process = nets.make(**given.pop("net")), make(**given.pop("process"))
        return cls(net, process, **given)
