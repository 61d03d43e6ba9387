"""Checks of lesson 03."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import relu, silu

from diffusion_lab.course.checks import EMPTY, NO_RETURN, Untouched, exercise, judge
from diffusion_lab.course.checks.reading import complete
from diffusion_lab.device import randn

FLOP_BUDGET = 26.2e6  # about half of the lesson's network
FEWEST_PARAMETERS = 200_000
WIDEST_EMBEDDING = 128  # that of the lesson's network


# ---- the residual block
def _blocks(g: Generator) -> list[tuple[Any, ...]]:
    """A block that keeps its channels and one that changes them, with weights that are not zero."""

    def block(c_in: int, c_out: int) -> SimpleNamespace:
        parts = {
            "norm1": nn.GroupNorm(1, c_in),
            "conv1": nn.Conv2d(c_in, c_out, 3, padding=1),
            "told": nn.Linear(6, 2 * c_out),
            "norm2": nn.GroupNorm(2, c_out, affine=False),
            "conv2": nn.Conv2d(c_out, c_out, 3, padding=1),
            "skip": nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity(),
        }
        for part in parts.values():
            part.double().requires_grad_(False)
            for weight in part.parameters():
                weight.copy_(0.5 * randn(tuple(weight.shape), g).double())
        return SimpleNamespace(**parts)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64, device="cpu")

    return [
        (block(4, 4), some(2, 4, 5, 5), some(2, 6)),
        (block(6, 4), some(2, 6, 5, 5), some(2, 6)),
    ]


def _block(
    block: Any,
    x: Tensor,
    emb: Tensor,
    *,
    plus: float = 1.0,
    swap: bool = False,
    first: Any = silu,
    second: Any = silu,
    skip: bool = True,
    scaled: str = "after",
    pre: bool = True,
) -> Tensor:
    """The block, with one of its parts exchanged."""
    h = block.conv1(first(block.norm1(x) if pre else x))
    scale, shift = block.told(emb)[:, :, None, None].chunk(2, dim=1)
    scale, shift = (shift, scale) if swap else (scale, shift)
    if scaled == "after":
        h = block.norm2(h) * (plus + scale) + shift
    elif scaled == "before":
        h = block.norm2(h * (plus + scale) + shift)
    else:
        h = block.norm2(h)
    h = block.conv2(second(h))
    return block.skip(x) + h if skip else h


def _same(x: Tensor) -> Tensor:
    return x


@exercise(
    probes=_blocks,
    slips={
        lambda block, x, emb: _block(block, x, emb, skip=False): (
            "the skip is missing: what comes in is added to what the branch makes."
        ),
        lambda block, x, emb: _block(block, x, emb, plus=0.0): (
            "the scale multiplies as 1 + scale, so that a scale of 0 changes nothing."
        ),
        lambda block, x, emb: _block(block, x, emb, swap=True): (
            "scale and shift are exchanged: the first half of told's answer is the scale."
        ),
        lambda block, x, emb: _block(block, x, emb, scaled="before"): (
            "scale and shift come after the second normalisation, which would undo them."
        ),
        lambda block, x, emb: _block(block, x, emb, scaled="never"): (
            "the block is not told the level: scale and shift are missing."
        ),
        lambda block, x, emb: _block(block, x, emb, first=_same): (
            "the first SiLU is missing, between the normalisation and the convolution."
        ),
        lambda block, x, emb: _block(block, x, emb, second=_same): (
            "the second SiLU is missing, before the last convolution."
        ),
        lambda block, x, emb: _block(block, x, emb, first=_same, second=_same): (
            "no SiLU at all: two convolutions in a row are one."
        ),
        lambda block, x, emb: _block(block, x, emb, first=relu, second=relu): (
            "that is ReLU; the block uses SiLU."
        ),
        lambda block, x, emb: _block(block, x, emb, pre=False): (
            "the first normalisation is missing."
        ),
        lambda block, x, emb: silu(_block(block, x, emb)): (
            "one SiLU too many at the end: the sum goes on as it is."
        ),
    },
    hint="normalise, SiLU, convolve, twice; scale and shift after the second normalisation.",
    right="a few lines, and the whole network is made of them.",
)
def residual_block(block: Any, x: Tensor, emb: Tensor) -> Tensor:
    return _block(block, x, emb)


def _levels(g: Generator) -> list[tuple[Any, ...]]:
    sigma = torch.rand(3, generator=g, dtype=torch.float32, device="cpu") * 3 + 0.1
    return [(float(s), sd) for s, sd in zip(sigma, (0.5, 0.7, 1.4), strict=True)]


@exercise(
    probes=_levels,
    slips={
        lambda s, sd: (
            s**2 / (s**2 + sd**2),
            s * sd / (s**2 + sd**2) ** 0.5,
            (s**2 + sd**2) ** -0.5,
        ): ("c_skip is the share of the noise; without noise the picture should pass whole."),
        lambda s, sd: (sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2), (s**2 + sd**2) ** -0.5): (
            "c_out lacks a square root: it is a standard deviation, not a variance?"
        ),
        lambda s, sd: (
            sd**2 / (s**2 + sd**2),
            s * sd / (s**2 + sd**2) ** 0.5,
            1 / (s**2 + sd**2),
        ): ("c_in divides by the variance where the standard deviation belongs?"),
        lambda s, sd: (sd / (s + sd), s * sd / (s**2 + sd**2) ** 0.5, (s**2 + sd**2) ** -0.5): (
            "c_skip weighs standard deviations where variances belong?"
        ),
        lambda s, sd: (1 / (s**2 + 1), s / (s**2 + 1) ** 0.5, (s**2 + 1) ** -0.5): (
            "the data's standard deviation sd is taken as 1 (those are the scalings of v)."
        ),
        lambda s, sd: (
            sd**2 / (s**2 + sd**2),
            (s * sd) ** 2 / (s**2 + sd**2),
            (s**2 + sd**2) ** -0.5,
        ): "that is c_out squared: take the root.",
        lambda s, sd: (sd**2 / (s**2 + sd**2), sd, (s**2 + sd**2) ** -0.5): (
            "c_out is not the data's size: put c_skip into wish 2."
        ),
        lambda s, sd: (
            sd**2 / (s**2 + sd**2),
            (s**2 + sd**2) ** -0.5,
            s * sd / (s**2 + sd**2) ** 0.5,
        ): "the order is c_skip, c_out, c_in: the last two are exchanged.",
        lambda s, sd: (
            0.25 / (s**2 + 0.25),
            s * 0.5 / (s**2 + 0.25) ** 0.5,
            (s**2 + 0.25) ** -0.5,
        ): ("sd is fixed at 0.5; use the argument."),
        lambda s, sd: (sd**2 / (s**2 + sd**2), s / (s**2 + sd**2) ** 0.5, (s**2 + sd**2) ** -0.5): (
            "c_out lacks a factor sd: at high noise the target is the picture, of size sd."
        ),
    },
    hint="return (c_skip, c_out, c_in): wish 3 gives the first, then wish 2 the second.",
    right="input and target have variance 1 at every noise level.",
)
def edm_scalings(sigma: float, sd: float) -> tuple[float, float, float]:
    var = sigma**2 + sd**2
    return sd**2 / var, sigma * sd / var**0.5, var**-0.5


def _vp(g: Generator) -> list[tuple[Any, ...]]:
    abar = torch.rand(5, generator=g, dtype=torch.float64, device="cpu") * 0.9 + 0.05
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    return [(alpha, sigma, 1.0, 1.0), (alpha, sigma, 1.0, 0.5), (alpha, sigma, 2.0, 1.0)]


@exercise(
    probes=_vp,
    slips={
        lambda alpha, sigma, k, gamma: (k + (alpha / sigma) ** 2) ** -gamma: (
            "that is the weight on eps, P2's own; an error of v is another number."
        ),
        lambda alpha, sigma, k, gamma: (alpha / sigma) ** 2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "that is the weight on x0."
        ),
        lambda alpha, sigma, k, gamma: sigma**2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "|d x0|^2 = sigma^2 |d v|^2 turns a weight on x0 into one on v; P2 starts from eps."
        ),
        lambda alpha, sigma, k, gamma: sigma**-2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "that is the factor for |d v|^2 = |d x0|^2 / sigma^2; P2 starts from eps, and "
            "|d eps|^2 = SNR |d x0|^2."
        ),
        lambda alpha, sigma, k, gamma: alpha**-2 / (k + (alpha / sigma) ** 2) ** gamma: (
            "the factor is upside down: is |d eps|^2 = alpha^2 |d v|^2?"
        ),
        lambda alpha, sigma, k, gamma: alpha**2 / (k + alpha / sigma) ** gamma: (
            "SNR is (alpha/sigma)^2; here its root stands."
        ),
        lambda alpha, sigma, k, gamma: alpha**2 / (k + (alpha / sigma) ** 2): (
            "gamma is ignored: P2 divides by (k + SNR)^gamma."
        ),
        lambda alpha, sigma, k, gamma: (alpha * sigma) ** 2: ("that holds for k = gamma = 1 only."),
        lambda alpha, sigma, k, gamma: alpha**2 * (k + (alpha / sigma) ** 2) ** gamma: (
            "P2 divides by (k + SNR)^gamma."
        ),
        lambda alpha, sigma, k, gamma: alpha / (k + (alpha / sigma) ** 2) ** gamma: (
            "alpha where its square belongs: the loss is of squared errors."
        ),
    },
    hint="w_v |d v|^2 must equal w_eps |d eps|^2 for the same error.",
    right="for k = gamma = 1 it is alpha^2 sigma^2: nothing at both ends, most in the middle.",
)
def p2_on_v(alpha: Tensor, sigma: Tensor, k: float, gamma: float) -> Tensor:
    return alpha**2 / (k + (alpha / sigma) ** 2) ** gamma


# ---- the training loop
class _Pupil(nn.Module):
    """One weight w, x0_hat = w x_t; it notes what it is asked, and every gradient that arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.2))
        self.asked: list[tuple[Tensor, Tensor, float]] = []
        self.arrived: list[float] = []
        self.w.register_hook(lambda grad: self.arrived.append(float(grad)))

    def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
        self.asked.append((x_t.detach().clone(), torch.as_tensor(t), self.w.item()))
        return SimpleNamespace(x0=self.w * x_t)


class _Noting(torch.optim.SGD):
    """Notes the gradient that is used and the weight after each step."""

    def __init__(self, w: nn.Parameter) -> None:
        super().__init__([w], lr=0.02)
        self.w, self.used, self.after = w, [], []

    def step(self, *args: Any, **options: Any) -> None:
        self.used.append(None if self.w.grad is None else float(self.w.grad))
        super().step(*args, **options)
        self.after.append(self.w.item())


def _average_of(path: list[float], rule: Callable[[int, float, float], float]) -> float:
    """An average that starts at 0.2 and follows the weights after each step."""
    mean = 0.2
    for n, w in enumerate(path):
        mean = rule(n, mean, w)
    return mean


def _d(n: int) -> float:
    return min(0.99, (1 + n) / (10 + n))


_AVERAGES: dict[Callable[[int, float, float], float], str] = {
    lambda n, mean, w: mean: "the average never moved: update its parameters after each step.",
    lambda n, mean, w: w: "the average is the model itself: it should move by 1 - d only.",
    lambda n, mean, w: 0.99 * mean + 0.01 * w: (
        "the average has no warm-up: d is the smaller of 0.99 and (1 + n)/(10 + n)."
    ),
    lambda n, mean, w: (1 - _d(n)) * mean + _d(n) * w: (
        "d and 1 - d are exchanged in the average: the old average keeps the share d."
    ),
    lambda n, mean, w: _d(n + 1) * mean + (1 - _d(n + 1)) * w: (
        "the steps of the average are numbered n = 0, 1, 2, ...: the first d is 1/10."
    ),
}


@judge(
    hint="pictures, levels, noise, question, loss; zero, backward, step; then the average.",
    right="each picture has its own level, gradients are fresh, and the average follows.",
)
def training_loop(given: Any, seed: int) -> str | None:
    """Run a learner's loop on a network of one weight that notes all it is asked."""
    if not callable(given):
        return f"a function is expected here, but a {type(given).__name__} was given."
    g = torch.Generator().manual_seed(90 + seed)
    pictures, steps, drawn = randn((200, 1, 28, 28), g), 7, []
    known = pictures.clone()

    def draw(n: int) -> tuple[Tensor, ...]:
        t = torch.rand(n, generator=g, dtype=torch.float32, device="cpu")
        drawn.append((t, 1 - 0.6 * t, 0.1 + 0.9 * t, 0.5 + 3 * (1 - t)))
        return drawn[-1]

    pupil, average = _Pupil(), _Pupil()
    optimiser = _Noting(pupil.w)
    with torch.random.fork_rng(devices=[]):
        losses = given(pupil, average, optimiser, pictures, draw, steps)
    if not pupil.asked and losses in (None, ...) and not optimiser.used:
        if complete(given):
            return NO_RETURN
        raise Untouched(EMPTY)
    before: Tensor | None = None
    taken: list[Tensor] = []  # which pictures a step asked about
    for i, (x_t, t, _) in enumerate(pupil.asked):
        if x_t.shape[1:] != known.shape[1:] or len(x_t) != len(t.reshape(-1)):
            return (
                f"the network got x_t of shape {tuple(x_t.shape)} and t of {tuple(t.shape)}: "
                "alpha and sigma of shape (B,) must become (B, 1, 1, 1), or they meet other axes."
            )
        if len(x_t) != 32:
            return f"a step has {len(x_t)} pictures, 32 are asked for."
        same = [levels for levels in drawn if torch.equal(levels[0], t)]
        if not same:
            return "the network is asked at times t that `draw` has not drawn, one for each of 32."
        if i and torch.equal(t, pupil.asked[i - 1][1]):
            return "every step uses the same noise levels: call `draw` inside the loop."
        alpha, sigma = (c[:, None, None, None] for c in same[0][1:3])
        taken.append(_recognised(x_t, known))
        x0 = known[taken[-1]]
        noise = (x_t - alpha * x0) / sigma
        if ((noise.square().mean((1, 2, 3)) - 1).abs() > 0.6).any():
            return (
                "x_t is not alpha x0 + sigma eps with the alpha and sigma of each picture's own t "
                "and noise of variance 1."
            )
        if abs((noise * x0).mean() / x0.square().mean()) > 0.15:  # chance: 0.006
            return "x_t holds too much of x0, or too little: it is alpha x0 + sigma eps."
        if len(taken[-1].unique()) == 1:
            return "all 32 pictures of a step are the same one: draw a place for each of them."
        if before is not None and torch.allclose(noise, before, atol=1e-4):
            return "every step adds the same noise: draw it inside the loop."
        if torch.allclose(noise[:1], noise[1:2], atol=1e-4):
            return "all pictures of a step get the same noise: it needs the shape of x0."
        before = noise
    slip = _narrow_choice(taken, len(known))
    if slip is not None:
        return slip
    if len(pupil.asked) != steps:
        return f"the network was asked {len(pupil.asked)} times in {steps} steps: once a step."
    if None in optimiser.used or not pupil.arrived:
        return (
            "the optimiser steps without a gradient: call `loss.backward()` before, on a loss "
            "that comes from `model`."
        )
    if len(optimiser.used) != steps:
        return f"the optimiser made {len(optimiser.used)} steps, {steps} are asked for."
    if any(abs(a - b) > 1e-4 * (1 + abs(b)) for a, b in zip(optimiser.used, pupil.arrived)):
        return "gradients add up from step to step: `optimiser.zero_grad()` before `backward`."
    if not isinstance(losses, list | tuple) or len(losses) != steps:
        return f"a list of {steps} losses is expected; got {type(losses).__name__}."
    if any(isinstance(loss, Tensor) and loss.requires_grad for loss in losses):
        return "the losses still hold their graphs: keep `loss.item()`."
    x0s = [known[places] for places in taken]
    return _wrong_loss(losses, pupil, drawn, x0s) or _wrong_average(average, optimiser)


def _recognised(x_t: Tensor, known: Tensor) -> Tensor:
    """Which of the known pictures each noisy one is most like (28 x 28 pixels leave no doubt)."""
    return (x_t.flatten(1) @ known.flatten(1).T).argmax(1)


def _narrow_choice(taken: list[Tensor], count: int) -> str | None:
    """What is wrong with the choice of the pictures, step by step; a loop draws them at random."""
    for before, places in pairwise(taken):
        if torch.equal(places.sort()[0], before.sort()[0]):
            return "every step takes the same 32 pictures: draw their places inside the loop."
    for places in taken:
        if (places.diff().remainder(count) == 1).all():
            return "a step takes pictures that lie side by side: 32 random places are asked for."
        if len(places.unique()) < 16:  # of 200, 30 by chance
            return f"a step holds only {len(places.unique())} pictures, some of them many times."
    seen = len(torch.cat(taken).unique()) if taken else 0
    if len(taken) > 6 and seen < count // 2:  # 135 of 200 by chance in 7 steps
        return f"only {seen} of {count} pictures are ever used: draw places among all of them."
    return None


def _wrong_loss(losses: Any, pupil: _Pupil, drawn: list, x0s: list[Tensor]) -> str | None:
    steps = zip(losses, pupil.arrived, pupil.asked, x0s, strict=True)
    for loss, gradient, (x_t, t, w), x0 in steps:
        weight = next(levels[3] for levels in drawn if torch.equal(levels[0], t))
        squares = (w * x_t - x0).square()
        per_picture = weight[:, None, None, None]
        wanted = (per_picture * squares).mean()
        slope = (per_picture * 2 * (w * x_t - x0) * x_t).mean()
        if abs(float(loss) - wanted) > 1e-3 * wanted:
            if abs(float(loss) - squares.mean()) < 1e-3 * wanted:
                return "the weight is missing in the loss."
            if abs(float(loss) / wanted - squares.numel()) < 1:
                return "the loss is summed over pictures and pixels; the mean is asked for."
            return f"a loss is {float(loss):.4g} where {wanted:.4g} was expected."
        if abs(gradient - slope) > 1e-3 * (1 + abs(slope)):
            return "the loss that is returned is right, but `backward` is called on another one."
    return None


def _wrong_average(average: _Pupil, optimiser: _Noting) -> str | None:
    found = average.w.item()
    wanted = _average_of(optimiser.after, lambda n, mean, w: _d(n) * mean + (1 - _d(n)) * w)
    if abs(found - wanted) < 1e-5:
        return None
    for rule, sentence in _AVERAGES.items():
        if abs(found - _average_of(optimiser.after, rule)) < 1e-5:
            return sentence
    return f"the average ends at {found:.4f} where {wanted:.4f} was expected."


@judge(
    hint="a convolution costs height x width x channels in x channels out: where are pixels few?",
    right="channels are cheap where pixels are few.",
)
def small_net(given: dict[str, Any]) -> str | None:
    """Arguments of a U-Net that fits the budget of the exercise."""
    from diffusion_lab import metrics, nets, schedules
    from diffusion_lab.denoisers import NetDenoiser

    if not isinstance(given, dict):
        return f"arguments of nets.make('unet', ...) are expected as a dict, not {given!r}."
    if isinstance(given.get("emb"), int) and given["emb"] > WIDEST_EMBEDDING:
        return (
            f"parameters of the embedding are nearly free and draw nothing: leave `emb` at "
            f"{WIDEST_EMBEDDING} (or lower) and put them into the maps."
        )
    net = nets.make("unet", **given | {"num_classes": 10})
    model = NetDenoiser(net, schedules.EDM(20.0), shape=(1, 28, 28), num_classes=10)
    flops, parameters = metrics.count_flops(model), metrics.count_parameters(net)
    if flops > FLOP_BUDGET:
        return f"it costs {flops / 1e6:.1f} MFLOP, the budget is {FLOP_BUDGET / 1e6:.1f}."
    if parameters < FEWEST_PARAMETERS:
        return f"it has {parameters:,} parameters, {FEWEST_PARAMETERS:,} are asked for."
    return None
