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

What a network is conditioned on (``label=``, ``tokens=``, a picture, neighbours) passes through as
it is: whoever wraps a denoiser hands the conditions on, and only what uses one looks at it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.device import check_alike, check_batch, check_float, check_times
from diffusion_lab.errors import check_lam_range, unknown
from diffusion_lab.nets.calls import accepted, explain_precision, steps_range
from diffusion_lab.nets.specs import denoiser_arguments, spec_of
from diffusion_lab.schedules import Schedule, Time, lib_of

__all__ = ["KINDS", "Clipped", "Denoiser", "NetDenoiser", "OnSchedule", "Prediction", "Wrapped"]
__all__ += ["affine", "expand"]

KINDS = ("x0", "eps", "v", "score", "edm")
READING = ("kind", "sd", "shape", "num_classes", "lam_range", "learned_var", "scale_input", "form")
FAR = 10.0  # what a network is told of lambda where there is no data, or no noise, left
Number = float | Tensor  # a coefficient: one for all pictures, or a tensor that broadcasts


def affine(kind: str, alpha: Number, sigma: Number, sd: float = 1.0) -> tuple[Number, Number]:
    """(a, b) of x_0 = a x_t + b out. Raises ValueError for eps and score where alpha = 0."""
    if kind == "x0":
        return 0.0, 1.0
    if kind in ("eps", "score"):
        none = alpha == 0  # asked on the CPU only: a GPU would wait
        if bool(none.any()) if isinstance(none, Tensor) and none.is_cpu else none is True:
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


def expand(value: Number, like: Tensor) -> Number:
    """Coefficients (B,) as (B, 1, ..., 1) in the dtype of ``like``; floats pass as they are."""
    if isinstance(value, float) or not isinstance(value, Tensor):
        return value
    check_float(like, "x")
    value = value.to(like.dtype)
    return value.reshape(-1, *(1,) * (like.ndim - 1)) if value.ndim == 1 else value


class Prediction:
    """One answer of a denoiser at x_t, readable as ``.x0 .eps .v .score`` (computed when asked).

    ``alpha`` and ``sigma`` are floats, or tensors that broadcast against ``x_t``. ``var_weight`` is
    an optional learned interpolation weight of the log variance (2102.09672), in [0, 1] as a rule.
    With ``eps`` (``kept_eps``) that is what ``.eps`` says, whatever x_0 is (see ``clip``).
    ValueError for an ``out`` that is not like ``x_t``.
    """

    __slots__ = ("_x0", "a", "alpha", "b", "kept_eps", "kind", "out", "sigma", "var_weight", "x_t")

    def __init__(
        self,
        x_t: Tensor,
        alpha: Number,
        sigma: Number,
        out: Tensor,
        kind: str,
        *,
        ab: tuple[Number, Number] | None = None,
        var_weight: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> None:
        if out.shape != x_t.shape:
            check_alike(**{"the denoiser's answer": out, "x_t": x_t})
        self.x_t, self.alpha, self.sigma, self.out, self.kind = x_t, alpha, sigma, out, kind
        self.a, self.b = affine(kind, alpha, sigma) if ab is None else ab
        self.var_weight, self.kept_eps = var_weight, eps
        self._x0: Tensor | None = None

    def mix(
        self, *, x_t: Number = 0.0, x0: Number = 0.0, eps: Number = 0.0, score: Number = 0.0
    ) -> Tensor:
        """The sum of x_t, x_0, eps and score, each times what is given for it.

        Two operations, straight from the network's output: ``mix(x0=alpha_s, eps=sigma_s)`` is a
        step of DDIM. ValueError for eps or score where sigma = 0.
        """
        if not isinstance(score, float) or score:
            eps = eps - score / self._noise()
        kept = 0.0
        if self.kept_eps is not None:
            kept, eps = eps * self.kept_eps, 0.0
        of_x, of_out = x_t + x0 * self.a, x0 * self.b
        if not isinstance(eps, float) or eps:
            a, b = self._line_of_eps()
            of_x, of_out = of_x + eps * a, of_out + eps * b
        if not (isinstance(of_x, float) and isinstance(of_out, float)):
            return of_x * self.x_t + of_out * self.out + kept
        mixed = self.out * of_out if of_x == 0 else (self.x_t * of_x).add_(self.out, alpha=of_out)
        return mixed if isinstance(kept, float) else mixed + kept

    def _line_of_eps(self) -> tuple[Number, Number]:
        """(a, b) of eps = a x_t + b out."""
        sigma = self._noise()
        if self.kind in ("eps", "score"):
            return 0.0, 1.0 if self.kind == "eps" else -sigma
        return (1 - self.alpha * self.a) / sigma, -self.alpha * self.b / sigma

    def _noise(self) -> Number:
        if not isinstance(self.sigma, Tensor) and self.sigma == 0:
            raise ValueError("at sigma = 0 there is no noise to read: eps, v and score need t > 0")
        return self.sigma

    @property
    def x0(self) -> Tensor:
        """The predicted clean datum E[x_0 | x_t]."""
        if self._x0 is None:
            self._x0 = self.out if self.kind == "x0" else self.mix(x0=1.0)
        return self._x0

    @property
    def eps(self) -> Tensor:
        """The predicted noise."""
        if self.kept_eps is not None:
            return self.kept_eps
        return self.out if self.kind == "eps" else self.mix(eps=1.0)

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x_0."""
        return self.out if self.kind == "v" else self.mix(eps=self.alpha, x0=-self.sigma)

    @property
    def score(self) -> Tensor:
        """grad log p_t(x_t) = (alpha x_0 - x_t) / sigma^2."""
        return self.out if self.kind == "score" else self.mix(score=1.0)

    @property
    def lam(self) -> Number:
        """log(alpha / sigma) of the noise level asked about; infinite where one of them is 0."""
        lib = lib_of(self.alpha)
        return lib.log(self.alpha) - lib.log(self.sigma)

    def with_x0(self, x0: Tensor, eps: Tensor | None = None) -> Prediction:
        """The same question answered with another x_0; eps, v and score follow it.

        With ``eps`` given, that is what eps says from then on (v and score with it).
        """
        return Prediction(
            self.x_t, self.alpha, self.sigma, x0, "x0", var_weight=self.var_weight, eps=eps
        )

    def clip(self, low: float = -1.0, high: float = 1.0, *, keep_eps: bool = False) -> Prediction:
        """x_0 clamped to the range of the data; eps is recomputed from it, or kept as it was."""
        if not low < high:
            raise ValueError(f"clip takes (lowest, highest) of x_0; got ({low}, {high})")
        return self.with_x0(self.x0.clamp(low, high), self.eps if keep_eps else None)


class Denoiser(nn.Module):
    """Anything that answers ``(x_t, t, **condition) -> Prediction`` on a schedule.

    ``nfe`` is the number of network evaluations that one call costs: 2 with guidance; 1 for an
    exact denoiser, the formula that stands in for a network. ``num_classes`` is K where ``label``
    takes 0..K-1, and K for 'no class'; ``shape`` that of one datum, without the batch.
    """

    nfe: int = 1
    lam_range: tuple[float, float] | None = None
    num_classes: int | None = None
    shape: tuple[int, ...] | None = None

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def on(self, schedule: Schedule) -> Denoiser:
        """The same denoiser for x_t of another schedule, asked where lambda is equal."""
        return self if schedule == self.schedule else OnSchedule(self, schedule)

    def levels(self, t: Time, like: Tensor) -> tuple[Number, Number]:
        """(alpha, sigma) at t, ready to multiply ``like``."""
        check_times(t, like)
        return tuple(expand(value, like) for value in self.schedule.alpha_sigma(t))


class Wrapped(Denoiser):
    """A denoiser made of another, ``inner``: what is not said otherwise is the inner one's.

    ``calls``: how often the inner one is asked, or on how many times the batch.
    """

    def __init__(self, inner: Denoiser, schedule: Schedule | None = None, calls: int = 1) -> None:
        super().__init__(inner.schedule if schedule is None else schedule)
        self.inner, self.nfe = inner, calls * inner.nfe
        self.lam_range, self.num_classes = inner.lam_range, inner.num_classes
        self.shape = inner.shape


class Clipped(Wrapped):
    """x_0 clamped to ``low``..``high`` at every answer, so that every sampler can be clipped.

    eps follows the clamped x_0 (improved-diffusion, Ho et al.); ``keep_eps`` keeps the network's
    (diffusers' DDIM, Analytic-DPM).
    """

    def __init__(
        self, inner: Denoiser, low: float = -1.0, high: float = 1.0, *, keep_eps: bool = False
    ) -> None:
        super().__init__(inner)
        self.low, self.high, self.keep_eps = low, high, keep_eps

    def forward(self, x_t: Tensor, t: Time, **condition: Any) -> Prediction:
        return self.inner(x_t, t, **condition).clip(self.low, self.high, keep_eps=self.keep_eps)


class OnSchedule(Wrapped):
    """A denoiser asked on a schedule that it does not live on (same lambda, rescaled x).

    With t' = t_A(lambda_B(t)) and r = alpha_A(t') / alpha_B(t), the point x_B r is distributed as
    x_A at t', and x_0 = a x_A + b out = (a r) x_B + b out. Where lambda < 0, r is taken as
    sigma_A / sigma_B: equal, and right also where there is no data left (alpha = 0).
    """

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
        told = {"ab": (p.a * r, p.b), "var_weight": p.var_weight, "eps": p.kept_eps}
        return Prediction(x_t, alpha, sigma, p.out, kind, **told)


class NetDenoiser(Denoiser):
    """A network read as ``kind``, with inputs scaled to unit size.

    The network is called as ``net(x, lam, **condition)`` with x = x_t / sqrt(alpha^2 sd^2 +
    sigma^2) (EDM's c_in; exactly x_t for a VP schedule with sd = 1) and lam, float32 (or float64
    with x), of shape (1,) or (B,). It returns (B, C, H, W), or (B, 2C, H, W) with ``learned_var``.

    Args:
        net: the network. One whose second argument is not called ``lam`` is refused: another form
            of call needs ``nets.by_timestep``, or ``form="lam"`` if lambda is what it wants.
        schedule: the schedule it is asked on.
        kind: what its output means, one of ``KINDS``.
        sd: standard deviation of the data in its own units ([-1, 1] for pictures).
        shape: shape of one datum, checked at each call; None accepts any.
        num_classes: with classes, labels 0..num_classes-1; ``num_classes`` itself is 'no class'.
        lam_range: (lowest, highest) lambda seen in training; asking outside raises ValueError. By
            default the steps of a schedule that has T of them, no limit on others.
        learned_var: the second half of the output is the variance weight of 2102.09672.
        scale_input: False hands x_t to the network as it is (score networks of VE).
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
        scale_input: bool = True,
        form: str | None = None,
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
        check_lam_range(lam_range)
        self._accepts = accepted(net, form)
        self.net, self.kind, self.sd = net, kind, sd
        self.shape, self.num_classes = shape, num_classes
        self.lam_range = steps_range(schedule) if lam_range is None else lam_range
        self.learned_var, self.scale_input, self.form = learned_var, scale_input, form

    def on(self, schedule: Schedule) -> Denoiser:
        if self.kind != "edm" or not self.scale_input:
            return super().on(schedule)
        moved = copy.copy(self)  # the edm reading is the same line on every schedule
        moved.schedule = schedule
        return moved

    def forward(self, x_t: Tensor, t: Time, **condition: Any) -> Prediction:
        check_batch(x_t, "x_t", self.shape)
        check_times(t, x_t)
        for name in condition:
            if self._accepts is not None and name not in self._accepts:
                raise unknown("condition of this network", name, self._accepts)
        alpha, sigma, lam = self._level(t)
        size = (alpha * alpha * self.sd * self.sd + sigma * sigma) ** 0.5
        ab = affine(self.kind, alpha, sigma, self.sd)
        precision = torch.promote_types(x_t.dtype, torch.float32)  # half would blur the level
        if isinstance(lam, float):
            lam = x_t.new_full((1,), lam, dtype=precision)
        else:
            alpha, sigma, size, *ab = (expand(c, x_t) for c in (alpha, sigma, size, *ab))
            lam = lam.to(x_t.device, precision)
        unit = isinstance(size, float) and abs(size - 1) < 1e-7
        x = x_t / size if self.scale_input and not unit else x_t
        try:  # _modules["net"] is self.net, without nn.Module's slow search for it
            out = self._modules["net"](x, lam, **condition)
        except RuntimeError as error:
            explain_precision(x_t, self.net, error)
            raise
        weight = None
        if self.learned_var:
            if out.shape[1] != 2 * x_t.shape[1]:
                raise ValueError(
                    f"with learned_var the network answers with 2 x {x_t.shape[1]} channels, the "
                    f"second half for the variance; got {out.shape[1]}"
                )
            out, u = out.chunk(2, dim=1)
            weight = (u + 1) / 2
        return Prediction(x_t, alpha, sigma, out, self.kind, ab=tuple(ab), var_weight=weight)

    def _level(self, t: Time) -> tuple[Time, Time, Time]:
        """alpha, sigma and what the network is told of lambda, in double precision.

        lambda is checked against what was trained, on the CPU only (a GPU would wait).
        """
        log_alpha, log_sigma = self.schedule.logs(t)
        lib, lam = lib_of(log_alpha), log_alpha - log_sigma
        if self.lam_range is not None:  # zero terminal SNR: the network saw that end as its lowest
            lam = lib.where(lam == -math.inf, self.lam_range[0], lam)
            if isinstance(lam, float):
                self._check_lam(lam, lam, t)
            elif lam.is_cpu and len(lam):
                self._check_lam(lam.min().item(), lam.max().item(), "one of the batch")
        return lib.exp(log_alpha), lib.exp(log_sigma), lib.clamp(lam, -FAR, FAR)

    def _check_lam(self, smallest: float, largest: float, t: float | str) -> None:
        low, high = self.lam_range
        if smallest < low - 1e-3 or largest > high + 1e-3:
            asked = smallest if smallest < low - 1e-3 else largest
            raise ValueError(
                f"this network was trained for lambda in [{low:.3g}, {high:.3g}] and was asked at "
                f"{asked:.3g} (t = {t}): lay the time grid with lam_range=denoiser.lam_range"
            )

    def spec(self) -> dict[str, Any]:
        """What ``from_spec`` makes this denoiser of again, but for the weights: plain values."""
        named = {"name": "diffusion_lab.denoisers:NetDenoiser", "net": spec_of(self.net)}
        reading = {name: getattr(self, name) for name in READING}
        return named | {"schedule": self.schedule.spec()} | reading

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> NetDenoiser:
        """The denoiser of a ``spec``, untrained. KeyError, TypeError or ValueError for no such."""
        return cls(**denoiser_arguments(spec))
