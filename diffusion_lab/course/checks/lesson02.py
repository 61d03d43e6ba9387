"""Checks of lesson 02."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course import checks
from diffusion_lab.course.checks import choice, exercise, judge
from diffusion_lab.device import randn

EXCESS = 0.09  # bits that ten well-chosen steps may cost above the entropy


def _steps(g: Generator) -> list[tuple[Any, ...]]:
    x0, x_t = torch.randn(2, 5, generator=g, dtype=torch.float64, device="cpu")
    low, high = torch.rand(2, 3, generator=g, dtype=torch.float64, device="cpu").tolist()
    return [(x0, x_t, 0.1 + 0.4 * a, 0.55 + 0.4 * b) for a, b in zip(low, high, strict=True)]


def _posterior(
    x0: Tensor, x_t: Tensor, abar_t: float, abar_s: float, slip: str = ""
) -> tuple[Tensor, float]:
    a = abar_t / abar_s
    beta = 1 - a
    c_0 = (abar_s if slip == "c_0" else math.sqrt(abar_s)) * beta / (1 - abar_t)
    c_t = (a if slip == "c_t" else math.sqrt(a)) * (1 - abar_s) / (1 - abar_t)
    if slip == "no roots":
        c_0, c_t = abar_s * beta / (1 - abar_t), a * (1 - abar_s) / (1 - abar_t)
    if slip == "since t = 0":  # beta of the whole way, not of this step
        c_0, c_t = math.sqrt(abar_s), math.sqrt(1 - beta) * (1 - abar_s) / (1 - abar_t)
    if slip == "abar in c_t":
        c_t = math.sqrt(abar_t) * (1 - abar_s) / (1 - abar_t)
    if slip == "abar_t in c_0":
        c_0 = math.sqrt(abar_t) * beta / (1 - abar_t)
    if slip == "c_0 over s":
        c_0 = math.sqrt(abar_s) * beta / (1 - abar_s)
    if slip == "bare c_t":
        c_t = (1 - abar_s) / (1 - abar_t)
    if slip == "swapped":
        x0, x_t = x_t, x0
    var = beta if slip == "beta" else beta * (1 - abar_s) / (1 - abar_t)
    if slip == "since t = 0":
        c_t, var = math.sqrt(abar_t) * (1 - abar_s) / (1 - abar_t), 1 - abar_s
    if slip == "std":
        var = math.sqrt(var)
    if slip == "upside down":
        var = beta * (1 - abar_t) / (1 - abar_s)
    if slip == "deterministic":
        c_t, var = math.sqrt((1 - abar_s) / (1 - abar_t)), 0.0
        c_0 = math.sqrt(abar_s) - c_t * math.sqrt(abar_t)
    return c_0 * x0 + c_t * x_t, var


def _slip(name: str) -> Any:
    return lambda x0, x_t, abar_t, abar_s: _posterior(x0, x_t, abar_t, abar_s, name)


@exercise(
    probes=_steps,
    slips={
        _slip("beta"): "the variance is beta, that of the forward step; knowing x0 makes it less.",
        _slip("std"): "a standard deviation is returned where the variance belongs?",
        _slip("c_0"): "abar_s stands where its root belongs, in the weight of x0?",
        _slip("c_t"): "1 - beta stands where its root belongs, in the weight of x_t?",
        _slip(
            "no roots"
        ): "both roots are forgotten: the weight of x0 has root(abar_s), that of x_t "
        "root(1 - beta).",
        _slip("abar_t in c_0"): "abar_t stands where abar_s belongs, in the weight of x0?",
        _slip("c_0 over s"): "the weight of x0 is divided by 1 - abar_s; both are by 1 - abar_t.",
        _slip("bare c_t"): "the weight of x_t lacks root(1 - beta).",
        _slip("abar in c_t"): "abar_t stands where 1 - beta (of this step alone) belongs?",
        _slip("since t = 0"): "beta is 1 - abar_t here, the noise since t = 0; that of this "
        "step is 1 - abar_t/abar_s.",
        _slip("swapped"): "the two weights are swapped: which belongs to x0?",
        _slip("upside down"): "the ratio of the two noise levels is upside down: going back, the "
        "variance must be less than beta.",
        _slip(
            "deterministic"
        ): "x_s comes out with the right mean and variance, but its covariance "
        "with x_t is not that of the forward step: another way back, not the posterior.",
    },
    hint="with 1 - beta = abar_t/abar_s: two weights, each over 1 - abar_t.",
    right="this is the survey's equation 3, for any two times.",
)
def posterior(x0: Tensor, x_t: Tensor, abar_t: float, abar_s: float) -> tuple[Tensor, float]:
    return _posterior(x0, x_t, abar_t, abar_s)


# ------------------------------------------------------------------------------- Algorithm 2
Guess = Callable[[Tensor, int], Tensor]
Noise = Callable[[int], Tensor]


def _chains(g: Generator) -> list[tuple[Any, ...]]:
    """The exact guess of data N(0.5, 0.3), a start, abar of five steps, and recorded noise."""
    abar = torch.tensor([1.0, 0.95, 0.8, 0.5, 0.2, 0.02], dtype=torch.float64)
    start, *fresh = torch.randn(7, 3, 1, 2, 2, generator=g, dtype=torch.float64, device="cpu")

    def guess(x: Tensor, i: int) -> Tensor:
        a, var = abar[i].sqrt(), 1 - abar[i]
        return var.sqrt() * (x - 0.5 * a) / (0.3 * abar[i] + var)

    return [(guess, start, abar, lambda i: fresh[i])]


def _walked(
    guess: Guess, x: Tensor, abar: Tensor, noise: Noise, slip: str = "", order: Any = None
) -> Tensor:
    T = len(abar) - 1
    for i in range(T, 0, -1) if order is None else order(T):
        beta = 1 - abar[i] / (1 if slip == "since t = 0" else abar[i - 1])
        root = 1 - abar[i] if slip == "eps root" else (1 - abar[i]).sqrt()
        if slip == "all of it":
            root = beta / root
        shrink = {"abar": abar[i].sqrt(), "unscaled": 1.0, "no root": 1 - beta}.get(
            slip, (1 - beta).sqrt()
        )
        x = (x - beta / root * guess(x, i - 1 if slip == "early" else i)) / shrink
        std = {"beta": beta, "bare": 1.0, "silent": 0.0}.get(slip, beta.sqrt())
        if slip == "small":
            std = (beta * (1 - abar[i - 1]) / (1 - abar[i])).sqrt()
        if i > 1 or slip == "last":
            x = x + std * noise(i)
    return x


def our_walk_back(guess: Guess, x: Tensor, abar: Tensor, noise: Noise) -> Tensor:
    """What the lesson draws with until the exercise is right."""
    return _walked(guess, x, abar, noise)


def _wrong(slip: str = "", order: Any = None) -> Any:
    return lambda guess, x, abar, noise: _walked(guess, x, abar, noise, slip, order)


@exercise(
    probes=_chains,
    slips={
        _wrong("silent"): "no fresh noise is added; DDPM's steps are draws, not means.",
        _wrong("last"): "noise is added in the last step too: at i = 1 the mean is the answer.",
        _wrong("small"): "that variance is beta-tilde, DDPM's other choice; beta is asked for.",
        _wrong("beta"): "the noise is multiplied by the variance beta, not by its root.",
        _wrong("bare"): "the noise comes in at full size: its standard deviation is root(beta).",
        _wrong("unscaled"): "the division by root(1 - beta) is missing: going back, x grows again.",
        _wrong("abar"): "abar_i stands where 1 - beta_i, of this step alone, belongs.",
        _wrong("no root"): "x is divided by 1 - beta, where its root belongs.",
        _wrong("since t = 0"): "beta is 1 - abar_i here, the noise since t = 0; that of this step "
        "is 1 - abar_i/abar_{i-1}.",
        _wrong("all of it"): "all of the guessed noise is taken away at once; one step takes "
        "beta/root(1 - abar) of the guess.",
        _wrong("eps root"): "the guess is divided by 1 - abar, where its root belongs.",
        _wrong("early"): "the network is asked about step i - 1, but x is still at step i.",
        _wrong(order=lambda T: range(1, T + 1)): "the steps are taken upwards: start at T, end at "
        "1.",
        _wrong(order=lambda T: range(T, 1, -1)): "the last step, i = 1, is missing: range stops "
        "before its end.",
        _wrong(order=lambda T: range(T - 1, 0, -1)): "the first step, i = T, is missing: abar has "
        "T + 1 entries.",
        lambda guess, x, abar, noise: x: "x comes back as it was given.",
    },
    hint="for i from T down to 1: the mean of the survey's equation 6, then root(beta_i) times "
    "noise(i), but not in the last step.",
    right="this is Algorithm 2 of the DDPM paper.",
)
def walk_back(guess: Guess, x: Tensor, abar: Tensor, noise: Noise) -> Tensor:
    """x_0 from x = x_T, with S^2 = beta."""
    return _walked(guess, x, abar, noise)


# ------------------------------------------------------------------------------- Algorithm 1
class _Spy(torch.nn.Module):
    """A network of two numbers that keeps what it was asked and the gradient of its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.seen: list[dict[str, Any]] = []

    def forward(self, x_t: Tensor, i: Any) -> Tensor:
        out = self.w[0] * x_t + self.w[1]
        call = {"x": x_t.detach(), "i": i, "out": out.detach(), "w": self.w.detach().clone()}
        call["left"] = None if self.w.grad is None else self.w.grad.clone()
        if out.requires_grad:
            out.register_hook(lambda g: call.update(grad=g.detach().double()))
        self.seen.append(call)
        return out


_TABLE = torch.cat([torch.ones(1), torch.linspace(0.99, 0.05, 20)]).double()  # abar_0..abar_20
_RATE = 2e-3  # Adam's
_APART = 100.0  # the pixels of the check's eight pictures differ so much that noise hides none


def _pictures() -> Tensor:
    levels = _APART * (torch.arange(8, dtype=torch.float64) - 3.5)
    return levels.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


_FORMS: dict[str, tuple[Callable[[Tensor], tuple[Tensor, Tensor]], str]] = {
    "": (lambda i: (_TABLE[i].sqrt(), (1 - _TABLE[i]).sqrt()), ""),
    "no roots": (lambda i: (_TABLE[i], 1 - _TABLE[i]), "both roots of the jump are missing."),
    "no root of the noise": (
        lambda i: (_TABLE[i].sqrt(), 1 - _TABLE[i]),
        "the noise is multiplied by 1 - abar, where its root belongs.",
    ),
    "no root of the picture": (
        lambda i: (_TABLE[i], (1 - _TABLE[i]).sqrt()),
        "the picture is multiplied by abar, where its root belongs.",
    ),
    "swapped": (
        lambda i: ((1 - _TABLE[i]).sqrt(), _TABLE[i].sqrt()),
        "the two factors of the jump are swapped: abar_i belongs to the picture.",
    ),
    "one off": (
        lambda i: (_TABLE[i - 1].sqrt(), (1 - _TABLE[i - 1]).sqrt()),
        "x_t is at step i - 1, and the network is told i: abar[0] is 1, abar[i] belongs to i.",
    ),
    "one step": (
        lambda i: ((_TABLE[i] / _TABLE[i - 1]).sqrt(), (1 - _TABLE[i] / _TABLE[i - 1]).sqrt()),
        "this is one step of noise, not the jump to step i: abar, not 1 - beta.",
    ),
}
"""How x_t may have been made from a picture and noise, and what is said to it."""


def _follows(call: dict[str, Any], target: Tensor) -> float:
    """c, where the gradient is c (answer - target) with one c for all pixels; else 0."""
    known = target.isfinite()  # the form "one off" has no noise at i = 1
    away, grad = (call["out"] - target)[known], call["grad"][known]
    c = float((grad * away).sum() / away.square().sum().clamp(min=1e-12))
    return c if bool(((grad - c * away).abs() < 1e-4 * grad.abs().max()).all()) else 0


def _parts(call: dict[str, Any], form: str) -> tuple[Tensor, Tensor]:
    """(picture, noise) that x_t was made of, if it was made in this form."""
    a, s = (c.view(-1, 1, 1, 1) for c in _FORMS[form][0](call["i"].long()))
    known = ((call["x"].mean((1, 2, 3), keepdim=True) / a / _APART + 3.5).round()).clamp(0, 7)
    x0 = (_APART * (known - 3.5)).expand_as(call["x"])
    return x0, (call["x"] - a * x0) / s


def _asked(calls: list[dict[str, Any]], steps: int) -> str | None:
    """What is wrong with how the network was asked, or with what came of it."""
    if len(calls) != steps:
        return f"the network is asked {len(calls)} times in {steps} training steps."
    for call in calls:
        i, many = call["i"], len(call["x"])
        if not isinstance(i, Tensor) or i.shape != (many,) or i.is_floating_point():
            return "the network takes one step number for each picture: a tensor of whole numbers."
        if "grad" not in call:
            return "no gradient comes back to the network: loss.backward(), outside of no_grad?"
    drawn = torch.cat([call["i"].long() for call in calls])
    if bool(torch.stack([(call["i"] == call["i"][0]).all() for call in calls]).all()):
        return "all pictures of a batch get the same step: draw one for each."
    if int(drawn.min()) < 1:
        return "step 0 is drawn: it has no noise to be guessed. The steps are 1 to T."
    count = torch.bincount(drawn, minlength=len(_TABLE))[1:]
    if int(count[-1]) == 0:
        return "step T is never drawn: the upper end of randint is not included."
    if int(count.min()) < 0.4 * count.double().mean():
        return "the steps are not drawn evenly from 1 to T."
    if torch.equal(calls[0]["w"], calls[-1]["w"]):
        return "the weights never change: is the optimiser's step() missing?"
    for call, after in pairwise(calls[1:]):
        own = torch.stack([(call["grad"] * call["x"]).sum(), call["grad"].sum()])
        left = after["left"]
        if left is not None and left.abs().max() > 0 and not torch.allclose(left, own, rtol=1e-3):
            return "the gradients of earlier steps are added up: zero_grad() is missing."
    return None


def _target(calls: list[dict[str, Any]]) -> str | None:
    """What is wrong with x_t, the noise or the loss, told from the gradients."""
    for form, (_, sentence) in _FORMS.items():
        found = [_follows(call, _parts(call, form)[1]) for call in calls]
        if all(c > 0 for c in found):
            if sentence:
                return sentence
            break
        if all(c < 0 for c in found):
            return "the loss is climbed, not descended: a sign is the other way round."
    else:
        parts = [_parts(call, "") for call in calls]
        if all(_follows(c, x0) > 0 for c, (x0, _) in zip(calls, parts, strict=True)):
            return "the network is trained to say the clean picture; here it says the noise."
        if all(_follows(call, call["x"]) > 0 for call in calls):
            return "the network is trained to say what it was shown, x_t; it should say the noise."
        sizes = [call["grad"].abs() for call in calls]
        if all(bool((g - g.max() < 1e-9).all() and g.min() > 0.99 * g.max()) for g in sizes):
            return "this is the absolute error; L_simple is the squared one."
        return (
            "the gradient is not that of the squared error between the network's answer and the "
            "noise in x_t: is the same noise in both, and are the factors of x_t root(abar_i) and "
            "root(1 - abar_i)?"
        )
    x0, eps = (torch.cat(part) for part in zip(*(_parts(c, "") for c in calls), strict=True))
    if torch.allclose(eps[0], eps[1]) or torch.allclose(eps[0], eps[len(calls[0]["x"])]):
        return "the same noise is used again: fresh noise for every picture, at every step."
    if abs(float(eps.mean())) > 0.1 or abs(float(eps.std()) - 1) > 0.1:
        return "the noise is not standard normal: torch.randn?"
    if len(x0[:, 0, 0, 0].unique()) < 8:
        return "only some of the pictures are used: draw each batch from all of them."
    return None


def _trained(net: Any, x0s: Tensor, abar: Tensor, steps: int, gen: Generator) -> list[float]:
    adam, losses = torch.optim.Adam(net.parameters(), lr=_RATE), []
    for _ in range(steps):
        x0 = x0s[torch.randint(len(x0s), (64,), generator=gen, device="cpu")]
        i = torch.randint(1, len(abar), (64,), generator=gen, device="cpu")
        eps = randn(tuple(x0.shape), gen, x0)
        a = abar[i].view(-1, 1, 1, 1)
        loss = (net(a.sqrt() * x0 + (1 - a).sqrt() * eps, i) - eps).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


our_training = _trained  # what the lesson trains with until the exercise is right


@judge(
    hint="in every step draw 64 pictures, a step number from 1 to T and noise for each, jump, ask "
    "the network, and take an optimiser step on the mean squared error of the noise.",
    right="this is Algorithm 1 of the DDPM paper: all that a diffusion model needs to be trained.",
)
def training(given: Any, seed: int) -> str | None:
    """A training loop, watched from the inside of the network."""
    if not callable(given):
        return f"a function is expected here, but a {type(given).__name__} was given."
    net, steps = _Spy(), 60
    gen = torch.Generator().manual_seed(99 + seed)
    unused, shared = gen.get_state(), torch.get_rng_state()
    try:
        losses = given(net, _pictures(), _TABLE.clone(), steps, gen)
    except Exception as error:
        if "ellipsis" in str(error).lower():
            raise checks.Untouched(checks.EMPTY) from None
        return f"it raised {type(error).__name__}: {str(error).rstrip('.')}."
    if losses is None and not net.seen:
        raise checks.Untouched(checks.EMPTY)
    if not net.seen:
        return "the network is never asked."
    reason = _asked(net.seen, steps) or _target(net.seen)
    if reason:
        return reason
    if not isinstance(losses, list) or len(losses) != steps:
        return "the training is right; return the list of its losses, one number for each step."
    wanted = [(c["out"] - _parts(c, "")[1]).square().mean().item() for c in net.seen]
    if any(isinstance(a, Tensor) and a.requires_grad for a in losses):
        return (
            "the training is right; keep each loss as a number, loss.item(): a tensor holds on to "
            "all that it was computed from."
        )
    if any(abs(float(a) - b) > 1e-3 * b for a, b in zip(losses, wanted, strict=True)):
        return "the training is right, but the numbers returned are not the mean squared errors."
    if any(len(call["x"]) != 64 for call in net.seen):
        return "the training is right, but a batch has 64 pictures."
    if torch.equal(gen.get_state(), unused):
        return "the training is right, but its random numbers do not come from gen: generator=gen."
    if not torch.equal(torch.get_rng_state(), shared):
        return "the training is right, but some random numbers do not come from gen: generator=gen."
    first = (net.seen[1]["w"] - net.seen[0]["w"]).abs()
    if bool(((first / _RATE - 1).abs() > 0.01).any()):
        return (
            "the training is right, but the optimiser is Adam with learning rate 0.002, "
            "whose first step moves every weight by 0.002."
        )
    return None


which_variance = choice(
    "small",
    {
        "small": "near t = 0 the hidden value of such data is certain: what is the variance of "
        "q(x_s | x_t) then?",
        "large": "beta is best for data N(0, 1), where x0 stays uncertain at every t; here, with "
        "little noise, only one of the five values is possible.",
        "equal": "they differ by a factor of 2 at t = 2, and a KL notices.",
    },
    hint="with little noise x0 is known, and q(x_s | x_t) becomes q(x_s | x_t, x0).",
    right="where x0 is certain, the reverse step is the posterior itself.",
)


def _grids(g: Generator) -> list[tuple[Any, ...]]:
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100, dtype=torch.float64), 0)
    picked = torch.randperm(90, generator=g, device="cpu")[:5].sort().values + 9
    return [(abar, picked), (abar, torch.tensor([0, 10, 99])), (abar**5, picked)]


def _per_step(abar: Tensor, steps: Tensor) -> Tensor:
    previous = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    return (1 - abar / previous)[steps]


def _kept(abar: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    kept = abar[steps]
    return kept, torch.cat([torch.ones_like(kept[:1]), kept[:-1]])


def _root(abar: Tensor, steps: Tensor) -> Tensor:
    kept, before = _kept(abar, steps)
    return 1 - (kept / before).sqrt()


def _first_lost(abar: Tensor, steps: Tensor) -> Tensor:
    kept = abar[steps]
    return 1 - kept[1:] / kept[:-1]


def _difference(abar: Tensor, steps: Tensor) -> Tensor:
    kept, before = _kept(abar, steps)
    return before - kept


def _with_start(abar: Tensor, steps: Tensor) -> Tensor:
    kept = abar[steps]
    return 1 - kept / torch.cat([kept[:1], kept[:-1]])


def _from_first(abar: Tensor, steps: Tensor) -> Tensor:
    kept = abar[steps]
    return 1 - kept / torch.cat([abar[:1], kept[:-1]])


def _ratio(abar: Tensor, steps: Tensor) -> Tensor:
    kept, before = _kept(abar, steps)
    return kept / before


def _scaled(abar: Tensor, steps: Tensor) -> Tensor:
    return _per_step(abar, steps) * len(abar) / len(steps)


def _from_data(abar: Tensor, steps: Tensor) -> Tensor:
    return 1 - abar[steps]


@exercise(
    probes=_grids,
    bug=_per_step,
    slips={
        _root: "beta is a variance: no root of abar's ratio here.",
        _first_lost: "one beta is missing: the first kept step comes from abar_0 = 1.",
        _difference: "a difference of abar; beta needs their ratio.",
        _with_start: "abar_0 is 1, no noise at all; the first kept step stands in its place.",
        _from_first: "abar[0] is the level after step 1; before the first kept step abar_0 = 1.",
        _ratio: "these are the ratios, 1 - beta; beta is wanted.",
        _scaled: "the betas are multiplied by T/K. That is nearly right for small ones only: a "
        "product of 1 - beta is wanted.",
        _from_data: "that is the noise since t = 0, not since the kept step before.",
    },
    hint="beta of a step from s to t is 1 - abar_t/abar_s, and s is now the kept step before t.",
    right="a longer step has its own, larger beta.",
)
def strided_betas(abar: Tensor, steps: Tensor) -> Tensor:
    kept, before = _kept(abar, steps)
    return 1 - kept / before


def points(n: int = 2000) -> tuple[Tensor, Tensor]:
    """n evenly laid (x0, eps) of the toy ``two_class``, (n, 1) each: steadier than random ones."""
    first = torch.arange(n) < 0.3 * n
    count = torch.where(first, 0.3 * n, 0.7 * n).double()
    place = torch.arange(n) - torch.where(first, 0.0, 0.3 * n)
    z = torch.special.ndtri((place.double() + 0.5) / count)
    x0 = torch.where(first, -2 + math.sqrt(0.3) * z, 1 + math.sqrt(0.5) * z)
    golden = (torch.arange(1, n + 1).double() * (math.sqrt(5) - 1) / 2) % 1
    return x0[:, None], torch.special.ndtri(golden)[:, None]


def _unfit(steps: Any) -> str | None:
    """What is wrong with a list of steps, or None."""
    if not isinstance(steps, list | tuple):
        return f"a list of steps such as [1000, 500, 10] is expected, not a {type(steps).__name__}."
    odd = [i for i in steps if not isinstance(i, int) or isinstance(i, bool)]
    if odd:
        return f"steps are whole numbers; {odd[0]!r:.60} is none."
    if not steps or min(steps) < 1 or max(steps) > 1000:
        return "the steps lie in 1..1000, and there is at least one."
    if len(set(steps)) != len(steps):
        return "each step is taken once: one number stands there twice."
    return None


def excess(steps: list[int]) -> float:
    """Bits of the bound above the entropy for the toy on these of 1000 steps, best variance.

    ValueError, in words, for anything but a list of different whole numbers in 1..1000.
    """
    reason = _unfit(steps)
    if reason:
        raise ValueError(reason)
    from diffusion_lab.bound import bounds
    from diffusion_lab.data import toys
    from diffusion_lab.schedules import linear

    toy = toys.two_class()
    x0, eps = points()
    times = [i / 1000 for i in sorted(steps, reverse=True)] + [0.0]
    found = bounds(
        toy.denoiser(linear(1000)),
        x0,
        times,
        noise=eps,
        variances=("best",),
        levels=None,
        batch=20_000,
    )
    return found["best"].total + toy.log_prob(x0).mean().item() / math.log(2)


@judge(
    hint="short steps back where the answer is being decided; long ones above, where little "
    "is left of the humps.",
    right="you have chosen time steps by their bound; lesson 08 does it by dynamic programming.",
)
def ten_steps(steps: Any) -> str | None:
    if not isinstance(steps, list | tuple):
        return f"a list of ten steps is expected, not a {type(steps).__name__}."
    if reason := _unfit(steps):
        return reason
    if len(steps) != 10:
        return f"ten different whole numbers are asked for, and there are {len(steps)}."
    if max(steps) != 1000:
        return "the first step taken is 1000, where sampling starts."
    found = excess(list(steps))
    if found > EXCESS:
        return f"these steps cost {found:.3f} bits above the entropy, {EXCESS} are allowed."
    return None
