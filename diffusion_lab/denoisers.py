"""Denoisers: what a network (or a formula) says about the clean picture, and how to read it.

A denoiser is a function ``(x_t, t, **condition) -> Prediction``. Whatever was predicted, it is one
straight line in the output,

    x_0 = a x_t + b out,

and the kind of output is nothing but the pair (a, b):

    x0:     a = 0                                 b = 1
    eps:    a = 1/alpha                           b = -sigma/alpha
    v:      a = alpha/(alpha^2 + sigma^2)         b = -sigma/(alpha^2 + sigma^2)
    score:  a = 1/alpha                           b = sigma^2/alpha
    edm:    a = alpha sd^2/(alpha^2 sd^2 + sigma^2)  b = sigma sd/sqrt(alpha^2 sd^2 + sigma^2)

where v = alpha eps - sigma x_0 (Salimans & Ho 2022) and sd is the data's standard deviation
(Karras et al. 2022, 2206.00364, here for any alpha). From x_0 everything else follows:

    eps = (x_t - alpha x_0)/sigma,   v = alpha eps - sigma x_0,   score = -eps/sigma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.device import check_float, unwrapped
from diffusion_lab.errors import number, unknown, whole
from diffusion_lab.schedules import Schedule, Time

__all__ = [
    "KINDS",
    "Denoiser",
    "NetDenoiser",
    "OnSchedule",
    "Prediction",
    "affine",
    "expand",
    "scaled",
]

KINDS = ("x0", "eps", "v", "score", "edm")
FAR = 10.0  # what a network is told of lambda where there is no data, or no noise, left
Number = float | Tensor  # a coefficient: one for all pictures, or (B, 1, 1, 1)
_Level = tuple[Number, Number, Tensor, Number | None, tuple[Number, Number]]


def affine(kind: str, alpha: Number, sigma: Number, sd: float = 1.0) -> tuple[Number, Number]:
    """(a, b) of x_0 = a x_t + b out. Raises ValueError for eps and score where alpha = 0."""
    if kind == "x0":
        return 0.0, 1.0
    if kind in ("eps", "score"):
        on_cpu = not isinstance(alpha, Tensor) or alpha.device.type == "cpu"  # a GPU would wait
        if on_cpu and (alpha == 0 if not isinstance(alpha, Tensor) else bool((alpha == 0).any())):
            raise ValueError(
                f"a prediction of {kind} says nothing about x_0 where alpha = 0 "
                "(zero terminal SNR): use a denoiser that predicts v, x0 or edm"
            )
        return 1 / alpha, (-sigma if kind == "eps" else sigma * sigma) / alpha
    if kind == "v":
        size = alpha * alpha + sigma * sigma
        return alpha / size, -sigma / size
    if kind == "edm":
        size = alpha * alpha * sd * sd + sigma * sigma
        return alpha * sd * sd / size, sigma * sd / size**0.5
    raise unknown("kind of prediction", kind, KINDS)


def scaled(x: Tensor, k: float) -> Tensor:
    """k x, as a sum where k is near 1: torch adds a multiple faster than it scales by a number."""
    return x.add(x, alpha=k - 1.0) if 0.5 < k < 2.0 else x * k


def expand(value: Number, like: Tensor) -> Number:
    """A (B,) tensor of coefficients as (B, 1, ..., 1) in the dtype of ``like``; floats pass."""
    if isinstance(value, Tensor):
        check_float(like, "x")
        return value.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))
    return value


class Prediction:
    """One answer of a denoiser at x_t, readable as ``.x0 .eps .v .score`` (computed when asked).

    ``alpha`` and ``sigma`` are floats, or tensors that broadcast against ``x_t``. ``var`` is an
    optional learned interpolation weight of the log variance (2102.09672), in [0, 1] as a rule.
    """

    __slots__ = ("_x0", "a", "alpha", "b", "kind", "out", "sigma", "var", "x_t")

    def __init__(
        self,
        x_t: Tensor,
        alpha: Number,
        sigma: Number,
        out: Tensor,
        kind: str,
        *,
        ab: tuple[Number, Number] | None = None,
        var: Tensor | None = None,
    ) -> None:
        self.x_t, self.alpha, self.sigma, self.out, self.kind = x_t, alpha, sigma, out, kind
        self.a, self.b = affine(kind, alpha, sigma) if ab is None else ab
        self.var = var
        self._x0: Tensor | None = None

    def mix(self, cx: Number, c0: Number) -> Tensor:
        """cx x_t + c0 x_0 in two operations, straight from the network's output."""
        k, c = cx + c0 * self.a, c0 * self.b
        if isinstance(k, float):
            return self.out * c if k == 0.0 else scaled(self.x_t, k).add_(self.out, alpha=c)
        return k * self.x_t + c * self.out

    def along(self, cx: float, c0: float) -> tuple[float, Tensor]:
        """(k, y) with cx x_t + c0 x_0 = k y: one operation, where the factor can wait.

        k is the larger of the two factors: the other may be 0 but for rounding (score from eps).
        """
        k, c = cx + c0 * self.a, c0 * self.b
        if abs(k) < abs(c):
            return c, self.out if k == 0.0 else self.out.add(self.x_t, alpha=k / c)
        return k, self.x_t if c == 0.0 else self.x_t.add(self.out, alpha=c / k)

    def add_to(self, y: Tensor, c0: float) -> Tensor:
        """y <- y + c0 x_0, in place and without computing x_0 (float coefficients only)."""
        if self.a != 0.0:
            y.add_(self.x_t, alpha=c0 * self.a)
        return y.add_(self.out, alpha=c0 * self.b)

    @property
    def x0(self) -> Tensor:
        """The predicted clean datum E[x_0 | x_t]."""
        if self._x0 is None:
            self._x0 = self.out if self.kind == "x0" else self.mix(0.0, 1.0)
        return self._x0

    @property
    def eps(self) -> Tensor:
        """The predicted noise."""
        if self.kind == "eps":
            return self.out
        return self.mix(1 / self._noise(), -self.alpha / self._noise())

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x_0."""
        if self.kind == "v":
            return self.out
        ratio = self.alpha / self._noise()
        return self.mix(ratio, -(ratio * self.alpha + self.sigma))

    @property
    def score(self) -> Tensor:
        """grad log p_t(x_t) = (alpha x_0 - x_t) / sigma^2."""
        if self.kind == "score":
            return self.out
        var = self._noise() * self._noise()
        return self.mix(-1 / var, self.alpha / var)

    @property
    def lam(self) -> Number:
        """log(alpha / sigma) of the noise level asked about."""
        if not isinstance(self.alpha, float):
            return (self.alpha / self.sigma).log()
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    def _noise(self) -> Number:
        if not isinstance(self.sigma, Tensor) and self.sigma == 0:
            raise ValueError("at sigma = 0 there is no noise to read: eps, v and score need t > 0")
        return self.sigma

    def with_x0(self, x0: Tensor) -> Prediction:
        """The same question answered with another x_0; eps, v and score follow it."""
        return Prediction(self.x_t, self.alpha, self.sigma, x0, "x0", var=self.var)

    def with_out(self, out: Tensor) -> Prediction:
        """The same reading of another output (used by guidance)."""
        return Prediction(
            self.x_t, self.alpha, self.sigma, out, self.kind, ab=(self.a, self.b), var=self.var
        )

    def alone(self) -> Prediction:
        """The same x_0 as b out with a = 0, in one operation (float coefficients only).

        For those who use x_0 in several steps: each use then costs ``add_to`` one operation, and
        x_0 stays as it is whatever becomes of ``x_t``.
        """
        b, out = self.along(0.0, 1.0)
        return Prediction(self.x_t, self.alpha, self.sigma, out, "edm", ab=(0.0, b), var=self.var)

    def clip(self, low: float = -1.0, high: float = 1.0) -> Prediction:
        """x_0 clamped to the range of the data, with eps recomputed from it."""
        if not low < high:
            raise ValueError(f"clip takes (lowest, highest) of x_0; got ({low}, {high})")
        return self.with_x0(self.x0.clamp(low, high))


class Denoiser(nn.Module):
    """Anything that answers ``(x_t, t, **condition) -> Prediction`` on a schedule.

    ``nfe`` is the number of network evaluations that one call costs: 2 with guidance; 1 for an
    exact denoiser, the formula that stands in for a network.
    """

    nfe: int = 1
    lam_range: tuple[float, float] | None = None
    num_classes: int | None = None
    shape: tuple[int, ...] | None = None  # of one datum, without the batch

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def on(self, schedule: Schedule) -> Denoiser:
        """The same denoiser for x_t of another schedule, asked where lambda is equal."""
        return self if schedule == self.schedule else OnSchedule(self, schedule)

    def prepare(self, times: Sequence[float], like: Tensor) -> None:
        """Told by ``walk`` at which times it will be asked, before the loop starts.

        A denoiser that computes its coefficients here, all at once, costs less in the loop: there
        the network has just thrown the interpreter out of the processor's caches.
        """

    def levels(self, t: Time, like: Tensor) -> tuple[Number, Number]:
        """(alpha, sigma) at t, ready to multiply ``like``."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        if isinstance(t, Tensor):
            if t.ndim != 1 or len(t) not in (1, len(like)):
                raise ValueError(
                    f"t must be a float or a tensor of shape ({len(like)},), one time for each "
                    f"picture; got shape {tuple(t.shape)}"
                )
            return expand(alpha, like), expand(sigma, like)
        return alpha, sigma

    def check_label(self, label: Tensor, n: int) -> Tensor:
        """The label if it is int64 (n,) within 0..num_classes (the last is 'no class').

        The range is looked at on the CPU only (a GPU would wait); ValueError otherwise.
        """
        if self.num_classes is None:
            raise ValueError("this denoiser knows no classes: call it without a label")
        if not isinstance(label, Tensor):
            raise ValueError(f"label must be a tensor, int64 of shape ({n},); got {label!r}")
        if label.dtype != torch.int64 or label.shape != (n,):
            raise ValueError(
                f"label must be int64 of shape ({n},); "
                f"got {label.dtype} of shape {tuple(label.shape)}"
            )
        if label.device.type == "cpu" and n:
            low, high = label.aminmax()
            if low < 0 or high > self.num_classes:
                raise ValueError(
                    f"labels must lie in 0..{self.num_classes - 1}, or be {self.num_classes} for "
                    f"'no class'; got values in {low}..{high}"
                )
        return label


class OnSchedule(Denoiser):
    """A denoiser asked on a schedule that it does not live on (same lambda, rescaled x).

    With t' = t_A(lambda_B(t)) and r = alpha_A(t') / alpha_B(t), the point x_B r is distributed as
    x_A at t', and x_0 = a x_A + b out = (a r) x_B + b out. Where lambda < 0, r is taken as
    sigma_A / sigma_B: equal, and right also where there is no data left (alpha = 0).
    """

    def __init__(self, inner: Denoiser, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.inner = inner
        self.nfe, self.lam_range = inner.nfe, inner.lam_range
        self.num_classes, self.shape = inner.num_classes, inner.shape

    def prepare(self, times: Sequence[float], like: Tensor) -> None:
        t_inner = self.inner.schedule.t_of_lam
        self.inner.prepare([t_inner(self.schedule.lam(t)) for t in times], like)

    def forward(self, x_t: Tensor, t: Time, **condition: Any) -> Prediction:
        alpha, sigma = self.levels(t, x_t)
        lam = self.schedule.lam(t)
        t_inner = self.inner.schedule.t_of_lam(lam)
        alpha_in, sigma_in = self.inner.levels(t_inner, x_t)
        if isinstance(lam, Tensor):
            r = torch.where(expand(lam, x_t) < 0, sigma_in / sigma, alpha_in / alpha)
        else:
            r = sigma_in / sigma if lam < 0 else alpha_in / alpha
        p = self.inner(x_t * r, t_inner, **condition)
        kind = p.kind if p.kind in ("x0", "eps") else "edm"  # v and score are others here
        return Prediction(x_t, alpha, sigma, p.out, kind, ab=(p.a * r, p.b), var=p.var)


class NetDenoiser(Denoiser):
    """A network read as ``kind``, with inputs scaled to unit size.

    The network is called as ``net(x, lam, label)`` with x = x_t / sqrt(alpha^2 sd^2 + sigma^2)
    (EDM's c_in; exactly x_t for a VP schedule with sd = 1), lam of shape (1,) or (B,) and label
    (B,) or None, and returns (B, C, H, W), or (B, 2C, H, W) with ``learned_var``.

    Args:
        net: the network.
        schedule: the schedule it is asked on.
        kind: what its output means, one of ``KINDS``.
        sd: standard deviation of the data in its own units ([-1, 1] for pictures).
        shape: shape of one datum, checked at each call; None accepts any.
        num_classes: with classes, labels 0..num_classes-1; ``num_classes`` itself is 'no class'.
        lam_range: (lowest, highest) lambda seen in training; asking outside raises ValueError.
        learned_var: the second half of the output is the variance weight of 2102.09672.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        kind: str = "edm",
        *,
        sd: float = 1.0,
        shape: tuple[int, ...] | None = None,
        num_classes: int | None = None,
        lam_range: tuple[float, float] | None = None,
        learned_var: bool = False,
    ) -> None:
        super().__init__(schedule)
        if kind not in KINDS:
            raise unknown("kind of prediction", kind, KINDS)
        if not (isinstance(net, nn.Module) and isinstance(schedule, Schedule)):
            raise ValueError(
                "a NetDenoiser is made of a network (nn.Module) and a schedule; got "
                f"{type(net).__name__} and {type(schedule).__name__}"
            )
        if not 0 < sd < math.inf:
            raise ValueError(f"the standard deviation of the data must be > 0; got {sd}")
        if lam_range is not None and (len(lam_range) != 2 or not lam_range[0] < lam_range[1]):
            raise ValueError(f"lam_range must be (lowest, highest); got {lam_range}")
        self.net, self.kind, self.sd = net, kind, sd
        self.shape, self.num_classes = shape, num_classes
        self.lam_range, self.learned_var = lam_range, learned_var
        self._null: Tensor | None = None
        self._known: dict[float, _Level] = {}  # of the walk under way, see prepare
        self._known_for: tuple[Any, ...] = ()

    def on(self, schedule: Schedule) -> Denoiser:
        if self.kind != "edm":
            return super().on(schedule)
        return NetDenoiser(  # the edm reading is the same line on every schedule
            self.net,
            schedule,
            "edm",
            sd=self.sd,
            shape=self.shape,
            num_classes=self.num_classes,
            lam_range=self.lam_range,
            learned_var=self.learned_var,
        )

    def forward(self, x_t: Tensor, t: Time, *, label: Tensor | None = None) -> Prediction:
        if self.shape is not None and x_t.shape[1:] != self.shape:
            raise ValueError(
                f"x_t must have shape (B, {', '.join(map(str, self.shape))}); "
                f"got {tuple(x_t.shape)}"
            )
        known = self._known.get(t) if isinstance(t, float) else None
        if (
            known is None
            or type(x_t) is not Tensor
            or known[2].dtype is not x_t.dtype
            or known[2].device != x_t.device
        ):
            check_float(x_t, "x_t")
            known = self._level(t, x_t)
        alpha, sigma, lam, shrink, ab = known
        x = x_t if shrink is None else x_t * shrink
        net = self._modules["net"]  # self.net, without nn.Module's slow look-up
        if self.num_classes is not None:
            given: tuple[Tensor, ...] = x, lam, self._label(label, x_t)
        elif label is not None:
            raise ValueError("this denoiser was trained without classes: call it without a label")
        else:
            given = x, lam
        try:
            out = net(*given)
        except RuntimeError as error:
            clearer = self._explained(x_t)
            if clearer is None:
                raise
            raise clearer from error
        var = None
        if self.learned_var:
            if out.shape[1] != 2 * x_t.shape[1]:
                raise ValueError(
                    f"with learned_var the network answers with 2 x {x_t.shape[1]} channels, the "
                    f"second half for the variance; got {out.shape[1]}"
                )
            out, u = out.chunk(2, dim=1)
            var = (u + 1) / 2
        if out.shape != x_t.shape:
            raise ValueError(
                f"the network answered x_t {tuple(x_t.shape)} with {tuple(out.shape)}: "
                "both must have one shape"
            )
        return Prediction(x_t, alpha, sigma, out, self.kind, ab=ab, var=var)

    def _explained(self, x_t: Tensor) -> ValueError | None:
        """The error where x_t and the weights differ in precision."""
        weight = next(self.net.parameters(), None)
        if weight is None or weight.dtype == x_t.dtype:
            return None
        return ValueError(
            f"x_t is {x_t.dtype} and the network's weights are {weight.dtype}: call x_t.to("
            f"{weight.dtype}), or net.to({x_t.dtype})"
        )

    def prepare(self, times: Sequence[float], like: Tensor) -> None:
        about = (like.dtype, like.device, self.schedule, self.kind, self.sd, self.lam_range)
        if self._known_for == (about, times):
            return
        known = {}
        for t in times:
            try:
                known[t] = self._level_float(t)
            except ValueError:  # an error where it is asked, not before
                continue
        # numbers for the network and its input become tensors at once: faster than one at a time
        rows = [(level[2], level[3] or 1.0) for level in known.values()]
        ready = torch.tensor(rows, dtype=like.dtype).reshape(len(rows), 2, 1).to(like.device)
        self._known = {
            t: (alpha, sigma, lam, None if shrink is None else scale, ab)
            for (t, (alpha, sigma, _, shrink, ab)), (lam, scale) in zip(
                known.items(), ready, strict=True
            )
        }
        self._known_for = (about, list(times))

    def _level(self, t: Time, x_t: Tensor) -> _Level:
        """What a call at t needs: alpha, sigma, lambda as a tensor, 1/size of x_t, (a, b)."""
        if not isinstance(t, Tensor):
            alpha, sigma, lam, shrink, ab = self._level_float(t)
            return alpha, sigma, x_t.new_full((1,), lam), shrink, ab
        alpha, sigma = self.levels(t, x_t)
        lam = self._lam_tensor(alpha, sigma, x_t)
        shrink = (alpha * alpha * self.sd * self.sd + sigma * sigma) ** -0.5
        return alpha, sigma, lam, shrink, affine(self.kind, alpha, sigma, self.sd)

    def _level_float(
        self, t: float
    ) -> tuple[float, float, float, float | None, tuple[float, float]]:
        """The same for one t, in plain numbers; lambda is checked against what was trained."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        if alpha > 0 and sigma > 0:
            lam = math.log(alpha / sigma)
        else:
            lam = math.inf if sigma == 0 else -math.inf
        if self.lam_range is not None:
            if lam == -math.inf:  # zero terminal SNR: the network saw this end as its lowest lambda
                lam = self.lam_range[0]
            self._check_lam(lam, lam, f"t = {t:.6g}")
        size = math.hypot(alpha * self.sd, sigma)
        shrink = None if abs(size - 1) < 1e-7 else 1 / size
        ab = affine(self.kind, alpha, sigma, self.sd)
        return alpha, sigma, min(max(lam, -FAR), FAR), shrink, ab

    def _lam_tensor(self, alpha: Tensor, sigma: Tensor, x_t: Tensor) -> Tensor:
        """lambda as a (B,) tensor; its range is checked on the CPU only (a GPU would wait)."""
        lam = (alpha / sigma).log().reshape(-1).to(x_t.dtype)
        if self.lam_range is not None:
            lam = torch.where(lam == -math.inf, self.lam_range[0], lam)
            if lam.device.type == "cpu":
                self._check_lam(lam.min().item(), lam.max().item(), "one t of the batch")
        return lam.clamp(-FAR, FAR)

    def _check_lam(self, smallest: float, largest: float, where: str) -> None:
        low, high = self.lam_range
        if not (low - 1e-3 <= smallest and largest <= high + 1e-3):
            asked = smallest if smallest < low else largest
            raise ValueError(
                f"this network was trained for lambda in [{low:.3g}, {high:.3g}] and was asked at "
                f"{asked:.3g} ({where}): lay the time grid with lam_range=denoiser.lam_range"
            )

    def _label(self, label: Tensor | None, x_t: Tensor) -> Tensor:
        if label is None:
            null = self._null
            if null is None or len(null) != len(x_t) or null.device != x_t.device:
                self._null = torch.full((len(x_t),), self.num_classes, device=x_t.device)
            return self._null
        return self.check_label(label, len(x_t))

    def spec(self) -> dict[str, Any]:
        """What ``from_spec`` makes this denoiser of again, but for the weights: plain values.

        ValueError where the network cannot say how it is made.
        """
        net = unwrapped(self.net)
        if not callable(getattr(net, "spec", None)):
            raise ValueError(
                f"{type(net).__name__} cannot say how it is made: build it by nets.make(name, "
                "...), or give it a spec() -> {'name': 'diffusion_lab.module:Class', **arguments}"
            )
        return {
            "name": "diffusion_lab.denoisers:NetDenoiser",
            "net": net.spec(),
            "schedule": self.schedule.spec(),
            "kind": self.kind,
            "sd": self.sd,
            "shape": self.shape,
            "num_classes": self.num_classes,
            "lam_range": self.lam_range,
            "learned_var": self.learned_var,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> NetDenoiser:
        """The denoiser of a ``spec``, untrained. KeyError, TypeError or ValueError for no such."""
        from diffusion_lab import nets, schedules

        given = {k: v for k, v in spec.items() if k != "name"}
        net, schedule, kind = given.pop("net"), given.pop("schedule"), given.pop("kind")
        shape, lam_range, classes = given.pop("shape"), given.pop("lam_range"), None
        if given.get("num_classes") is not None:
            classes = given["num_classes"] = whole("num_classes", given["num_classes"])
        if ":" not in net["name"] and net.get("num_classes") != classes:
            raise ValueError(f"{classes} classes, and a network of {net.get('num_classes')}")
        if "sd" in given:
            given["sd"] = number("sd", given["sd"])
        with torch.device("cpu"):  # numbers, also where a network is made without any (meta)
            process = schedules.make(**schedule)
        return cls(
            nets.make(**net),
            process,
            kind,
            shape=None if shape is None else tuple(whole("a size", size) for size in shape),
            lam_range=None
            if lam_range is None
            else tuple(number("a lambda", v, -math.inf) for v in lam_range),
            **given,
        )
