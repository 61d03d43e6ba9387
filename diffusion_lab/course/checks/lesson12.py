"""Checks of lesson 12."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from diffusion_lab.course.checks import EMPTY, NO_RETURN, Untouched, choice, exercise, judge
from diffusion_lab.course.checks.reading import complete

F64 = torch.float64


def _randn(g: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=F64, device="cpu")


# ---- the floor ----------------------------------------------------------------------------------
def _covariances(g: Generator) -> list[tuple[Any, ...]]:
    found = []
    for d, k in ((5, 2), (6, 5), (4, 4)):
        root = _randn(g, d, d)
        found.append((root @ root.T, k))
    return found


@exercise(
    probes=_covariances,
    slips={
        lambda C, k: torch.linalg.eigvalsh(C)[k:].sum(): (
            "in rising order the large eigenvalues stand last: those are kept, not lost."
        ),
        lambda C, k: torch.linalg.eigvalsh(C)[len(C) - k :].sum(): (
            "that is the variance that is kept; the floor is what is lost."
        ),
        lambda C, k: torch.linalg.eigvalsh(C)[:k].sum(): (
            "that adds the k smallest; as many as d - k are lost."
        ),
        lambda C, k: C.diagonal()[k:].sum(): (
            "the diagonal holds the variances of the pixels: the best directions are the "
            "eigenvectors."
        ),
        lambda C, k: C.diagonal().sort().values[: len(C) - k].sum(): (
            "these are the pixels of least variance; the best directions mix pixels: take "
            "eigenvalues."
        ),
        lambda C, k: torch.linalg.eigvalsh(C)[: len(C) - k].clamp(min=0).sqrt().sum(): (
            "the distance adds variances (0 - the root, squared), not standard deviations."
        ),
        lambda C, k: torch.linalg.eigvalsh(C)[: len(C) - k].mean() if k < len(C) else C.sum() * 0: (
            "a sum over the lost directions, not their mean."
        ),
    },
    hint="the sum of the d - k smallest eigenvalues, which stand first.",
    right="the floor of every latent model with this autoencoder, known before one is trained.",
    view=lambda value: value if isinstance(value, Tensor) else torch.tensor(value, dtype=F64),
)
def floor(C: Tensor, k: int) -> Tensor:
    return torch.linalg.eigvalsh(C)[: len(C) - k].sum()


budget = choice(
    "grows",
    {
        "falls": "look at the lowest points of the three curves: with more work they move.",
        "stays": "the floor is the same for all budgets, the lowest point of the curve is not.",
        "grows": "",
    },
    hint="compare the three printed lines.",
    right="who can afford many steps on everything need not throw anything away: compression is "
    "for those who cannot.",
)


# ---- the training step --------------------------------------------------------------------------
def _step(
    mean: Tensor,
    spread: Tensor,
    s: float,
    xi: Tensor,
    eps: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    denoise: Callable[[Tensor], Tensor],
    *,
    draw: bool = True,
    scale: str = "draw",
    own: bool = True,
    target: str = "v",
    over: str = "numbers",
    squared: bool = True,
) -> Tensor:
    """The step, with a knob for each slip; as it stands it is right."""
    z = mean + (spread * xi if draw else 0)
    z0 = {
        "draw": s * z,
        "none": z,
        "inverse": z / s,
        "mean": s * mean + spread * xi,
        "twice": s * (mean + s * spread * xi),
    }[scale]
    answer = denoise(alpha * z0 + sigma * (eps if own else xi))
    wanted = {
        "v": alpha * eps - sigma * z0,
        "minus": sigma * z0 - alpha * eps,
        "swapped": sigma * eps - alpha * z0,
        "plus": alpha * eps + sigma * z0,
        "eps": eps,
        "z0": z0,
    }[target]
    wrong = answer - wanted
    wrong = wrong.square() if squared else wrong.abs()
    if over == "all":
        return wrong.mean()
    return wrong.flatten(1).sum(1) if over == "sum" else wrong.mean((1, 2, 3))


def reference_step(
    mean: Tensor,
    spread: Tensor,
    s: float,
    xi: Tensor,
    eps: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    denoise: Callable[[Tensor], Tensor],
) -> Tensor:
    """The loss (B,) of latent diffusion on v."""
    return _step(mean, spread, s, xi, eps, alpha, sigma, denoise)


def _batches(g: Generator) -> list[tuple[Any, ...]]:
    found = []
    for s in (0.5, 1.7):
        mean, xi, eps = (_randn(g, 3, 2, 4, 4) for _ in range(3))
        spread = 0.2 + _randn(g, 3, 2, 4, 4).abs()
        angle = torch.rand(3, 1, 1, 1, generator=g, dtype=F64, device="cpu") * 1.2 + 0.2
        found.append((mean, spread, s, xi, eps, angle.cos(), angle.sin(), _answer()))
    return found


def _answer() -> Callable[[Tensor], Tensor]:
    asked: list[int] = []

    def denoise(z: Tensor) -> Tensor:
        asked.append(1)
        if len(asked) > 1:
            raise ValueError("the network was asked more than once a step")
        return torch.tanh(z) - 0.3 * z

    return denoise


_SLIPS: dict[str, dict[str, Any]] = {
    "the spread is left out: z is a draw, mean + spread * xi.": {"draw": False},
    "the latents are not scaled: without s the schedule does not fit them.": {"scale": "none"},
    "s multiplies on the way in; 1/s belongs before the decoder.": {"scale": "inverse"},
    "s multiplies the whole draw, its spread too, not the mean alone.": {"scale": "mean"},
    "the spread is scaled twice.": {"scale": "twice"},
    "xi is the autoencoder's noise; the diffusion adds eps.": {"own": False},
    "the sign of v: alpha * eps - sigma * z0.": {"target": "minus"},
    "alpha and sigma are exchanged in v: eps goes with alpha.": {"target": "swapped"},
    "v has a minus: alpha * eps - sigma * z0.": {"target": "plus"},
    "the network answers with v here; this compares it with eps.": {"target": "eps"},
    "the network answers with v here; this compares it with z0.": {"target": "z0"},
    "one number a picture is wanted, (B,): this is the mean over the batch too.": {"over": "all"},
    "the mean over the numbers of a picture is wanted, not their sum.": {"over": "sum"},
    "the squared error is wanted, not the absolute one.": {"squared": False},
}

latent_step = exercise(
    probes=_batches,
    slips={partial(_step, **knobs): said for said, knobs in _SLIPS.items()},
    hint="z0 = s * (mean + spread * xi); the target is alpha * eps - sigma * z0 with that z0.",
    right="lesson 02's loss, one floor down; of the autoencoder it needs the cached answers alone.",
)(reference_step)


# ---- cross-attention ----------------------------------------------------------------------------
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    there: Tensor,
    *,
    root: float | None = 0.5,
    heads: bool = False,
    over: int = -1,
    hide: str = "before",
) -> Tensor:
    scores = q @ k.mT
    if root is not None:
        size = q.shape[-1] * (q.shape[1] if heads else 1)
        scores = scores / size**root
    shown = there[:, None, None, :]
    if hide == "before":
        # over the places a hidden column would be all -inf, and its shares no numbers
        scores = scores.masked_fill(~shown, -math.inf if over == -1 else -1e30)
    elif hide == "zero":
        scores = scores.masked_fill(~shown, 0.0)
    elif hide == "others":
        scores = scores.masked_fill(shown, -1e30)
    shares = scores.softmax(over)
    return (shares * shown if hide == "after" else shares) @ v


def reference_attention(q: Tensor, k: Tensor, v: Tensor, there: Tensor) -> Tensor:
    """softmax(QK^T / sqrt d) V over the words that are there, (B, heads, N, d)."""
    return _attention(q, k, v, there)


def _heads(g: Generator) -> list[tuple[Any, ...]]:
    found = []
    for heads, places, words, d in ((2, 5, 4, 3), (1, 4, 4, 4)):
        q = 2 * _randn(g, 3, heads, places, d)
        k, v = (_randn(g, 3, heads, words, d) for _ in range(2))
        there = torch.arange(words, device="cpu") < torch.tensor([[1], [words - 1], [words]])
        found.append((q, k, v, there))
    return found


_ATTENTION: dict[str, dict[str, Any]] = {
    "the scores are not divided by the root of d.": {"root": None},
    "the root of d, not d itself, divides the scores.": {"root": 1.0},
    "d is the width of one head, not of all of them together.": {"heads": True},
    "the softmax runs over the places; the shares of the words must sum to 1.": {"over": -2},
    "absent words are heard: hide them before the softmax.": {"hide": "never"},
    "a score of 0 is not silence: e^0 = 1. Minus infinity is.": {"hide": "zero"},
    "hidden after the softmax, absent words have taken their share: what is left sums to less "
    "than 1.": {"hide": "after"},
    "the mask is turned round: True is where a word stands.": {"hide": "others"},
}

attention = exercise(
    probes=_heads,
    slips={partial(_attention, **knobs): said for said, knobs in _ATTENTION.items()},
    hint="softmax over the last dimension of q k^T / sqrt(d), with -inf where no word stands.",
    right="the door through which every text-to-image model of this kind hears its words.",
)(reference_attention)


# ---- codes --------------------------------------------------------------------------------------
@judge(
    hint="z + (e - z).detach(), with e the nearest codes.",
    right="forward a code, backward as if nothing had happened: how every VQ autoencoder learns.",
)
def straight_through(answer: Any, seed: int) -> str | None:
    if not callable(answer):
        return f"a function is expected here, but a {type(answer).__name__} was given."
    g = torch.Generator().manual_seed(77 + seed)
    z, codes, weight = _randn(g, 7, 3), _randn(g, 5, 3), _randn(g, 7, 3)
    z.requires_grad_(), codes.requires_grad_()
    e = codes[torch.cdist(z, codes).argmin(1)]
    out = answer(z, codes)
    if out is None:
        if complete(answer):
            return NO_RETURN
        raise Untouched(EMPTY)
    if not isinstance(out, Tensor) or out.shape != z.shape:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        return f"a tensor of the shape of z, {tuple(z.shape)}, is wanted; got {shape}."
    far = codes[torch.cdist(z, codes).argmax(1)]
    if torch.allclose(out, far):
        return "these are the farthest codes: argmin, not argmax."
    if torch.allclose(out, z):
        return "this is z itself: in value the nearest codes are wanted."
    if not torch.allclose(out, e):
        return "the values are not the nearest codes, row by row."
    if not out.requires_grad:
        return "no gradient reaches the encoder at all: z must stay in the sum."
    to_z, to_codes = torch.autograd.grad((out * weight).sum(), (z, codes), allow_unused=True)
    if to_z is None or torch.allclose(to_z, torch.zeros_like(to_z)):
        return (
            "no gradient reaches z: the codes alone are in the graph. Add z, and take it away "
            "again where no gradient sees it."
        )
    if not torch.allclose(to_z, weight):
        return "the gradient of z is not that of the identity."
    if to_codes is not None and not torch.allclose(to_codes, torch.zeros_like(to_codes)):
        return "the codes get a gradient too: detach the whole difference e - z."
    return None


# ---- guidance of codes --------------------------------------------------------------------------
def _laws(g: Generator) -> list[tuple[Any, ...]]:
    return [
        (_randn(g, 2, 3, 5).log_softmax(-1), _randn(g, 2, 3, 5).log_softmax(-1), scale)
        for scale in (0.0, 1.5, 4.0)
    ]


def reference_guidance(logp_y: Tensor, logp: Tensor, scale: float) -> Tensor:
    """Log-probabilities of p(x | y)^scale p(x)^(1 - scale) / Z."""
    return (logp + scale * (logp_y - logp)).log_softmax(-1)


guidance = exercise(
    probes=_laws,
    slips={
        lambda y, n, s: n + s * (y - n): (
            "that is no law yet: its exponentials do not sum to 1 over the codes."
        ),
        lambda y, n, s: (y + s * (n - y)).log_softmax(-1): (
            "with and without are exchanged: a scale of 1 must give the law with the text."
        ),
        lambda y, n, s: (y + s * (y - n)).log_softmax(-1): (
            "that is another convention, in which 0 is the law with the text; here 1 is."
        ),
        lambda y, n, s: (n + s * (y - n)).log_softmax(-2): (
            "it is normalised over the places; each place has a law of its own over the codes."
        ),
        lambda y, n, s: (
            ((1 - s) * n.exp() + s * y.exp()).abs().clamp(min=1e-30).log().log_softmax(-1)
        ): ("probabilities are mixed; it is their logarithms that are."),
        lambda y, n, s: (n + s * (y - n)).softmax(-1): (
            "these are probabilities; log-probabilities are wanted."
        ),
    },
    hint="log_softmax over the codes of logp + scale * (logp_y - logp).",
    right="p(x|y)^s p(x)^(1-s) / Z: the same line guides codes and the next word of a text.",
)(reference_guidance)
