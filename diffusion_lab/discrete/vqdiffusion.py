"""VQ-Diffusion (Gu et al. 2021, 2111.14822) and its better sampling (Tang et al. 2022, 2205.16007).

All codes of a picture are refined at once by the mask-and-replace kernel of ``categorical``. A
network says p~(x_0 | x_t, y) over the K codes alone, and is trained on

    L = L_t / p_t + 5e-4 w_t KL(x_0 || p~) / p_t,      w_t = 2 - t,      p_t prop. to sqrt(E[L_t^2])

one step of the bound for each datum, in the marginal form; p_t is even until every step has had
more than ten data, and the first step, whose term is another thing, has the p_t of the second.

Sampling: ``ancestral`` over any times, by the two-time kernel (the authors' fast sampler uses the
one-step posterior, an approximation). What can be added, in this order:

    guided       log p~ = log p~(null) + scale (log p~(y) - log p~(null)), normalised: as for
                 pictures, ``guidance.guided(denoiser, scale)``
    Truncated    the likeliest codes up to a share of 0.86
    reveal       the same number of tokens at each step; with ``purity`` r those first that the
                 network is sure of, drawn with odds max p~, from softmax((1 + r max p~) log p~)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import Denoiser, Number, Wrapped
from diffusion_lab.device import generator
from diffusion_lab.discrete import categorical
from diffusion_lab.discrete.categorical import (
    Categorical,
    CodeDenoiser,
    asked,
    draw,
    term,
    uniforms,
)
from diffusion_lab.discrete.codes import Codes
from diffusion_lab.errors import number, share
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import adamw, check_options
from diffusion_lab.walk import Step

__all__ = ["Truncated", "VQDiffusion", "chances", "reveal"]

ENOUGH = 10  # data that every step has had before the draw of t is trusted to its memory


# ---- sampling -----------------------------------------------------------------------------------
class Truncated(Wrapped):
    """Of each token the likeliest codes until their sum reaches ``top``, the others impossible."""

    def __init__(self, inner: Denoiser, top: float = 0.86) -> None:
        super().__init__(inner)
        self.top = share("top", top, "the likeliest code alone, all of them")

    def forward(self, x_t: Tensor, t: Number, **condition: Any) -> Categorical:
        logp = self.inner(x_t, t, **condition).out
        p, order = logp.exp().sort(-1, descending=True)
        before = p.cumsum(-1) - p  # the first is kept always
        kept = torch.zeros_like(p, dtype=torch.bool)
        kept.scatter_(-1, order, (before < self.top) | (torch.arange(p.shape[-1]).to(order) == 0))
        return Categorical(x_t, logp.masked_fill(~kept, -math.inf))


def reveal(purity: float | None = None) -> Step:
    """High-quality inference: of m masked tokens m/(steps left) are revealed, then stay.

    Which: evenly drawn, or with ``purity`` r >= 0 drawn with odds max p~; see the module. For
    kernels that mask all at t = 1: a code that was replaced is never looked at again.
    """
    r = None if purity is None else number("purity", purity)

    def step(ask: Any, x: Tensor, t: float, s: float) -> Tensor:
        logp, K = asked(ask, x, t).out, ask.schedule.K
        sure = torch.ones_like(logp[..., 0])
        if r is not None:
            sure = logp.exp().amax(-1)
            logp = ((1 + r * sure[..., None]) * logp).log_softmax(-1)
        codes, masked = draw(logp.exp(), ask.noise(x, s)), x == K
        count = (
            (masked.sum(1, keepdim=True) / ask.left).ceil() if s else masked.sum(1, keepdim=True)
        )
        race = (
            -(ask.noise(x, s).clamp(min=1e-300).log()) / sure
        )  # the k first of exponential clocks
        rank = race.masked_fill(~masked, math.inf).argsort(1).argsort(1)
        return torch.where(masked & (rank < count), codes, x)

    return step


# ---- training -----------------------------------------------------------------------------------
def chances(squares: Tensor, seen: Tensor) -> Tensor:
    """p_t (T,), from running means of L_t^2 and how many data each step has had."""
    if not bool((seen > ENOUGH).all()):
        return torch.full_like(squares, 1 / len(squares))
    size = (squares + 1e-10).sqrt() + 1e-4
    size[0] = size[min(1, len(size) - 1)]
    return size / size.sum()


class VQDiffusion:
    """A denoiser of codes. Options: ``process``, {"name": ..., **arguments} but for K, by default
    mask_and_replace; ``aux``, the weight 5e-4; those of ``Codes``.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("process", "aux", "autoencoder", "captions"))
        self.recipe, self.codes = recipe, Codes(recipe, data)
        self.stands_on = self.codes.stands_on
        self.aux = number("aux", recipe.options.get("aux", 5e-4))
        about = {"name": "mask_and_replace"} | recipe.options.get("process", {})
        process = categorical.make(**about, K=self.codes.K)
        model = CodeDenoiser(
            self.codes.net(), process, sum(self.codes.parts), self.codes.num_classes
        )
        self.models = nn.ModuleDict({"model": model})
        if data.x.ndim != 4:
            self.preview = None

    def optimisers(self) -> list[Optimizer]:
        return [adamw(self.recipe, self.models.parameters())]

    def draw(self, step: int) -> dict[str, Tensor]:
        """The batch, and uniform numbers for t (B,) and for the noise (B, D)."""
        batch, noise = self.codes.batch(step), uniforms(generator(self.recipe.seed, 3, step))
        return batch | {"of_t": noise(0, batch["x0"][:, 0]), "noise": noise(1, batch["x0"])}

    def losses(
        self, average: nn.ModuleDict, x0: Tensor, of_t: Tensor, noise: Tensor, **condition: Tensor
    ) -> Iterator[Tensor]:
        model, D = self.models["model"], x0.shape[1]
        process = model.schedule
        p = chances(model.squares, model.seen)
        i = draw(p.expand(len(x0), -1), of_t)  # step i + 1 of 1..T
        t, s = (i + 1).double() / process.T, i.double() / process.T
        x_t = process.noised(x0, t, noise)
        logp = model(x_t, t, **condition).out.float()
        kl = term(process, x_t, x0, logp, t, s) / D
        missed = -logp.gather(2, x0[..., None]).mean((1, 2))
        with torch.no_grad():
            for name, new in (("squares", kl.detach() ** 2), ("seen", torch.ones_like(kl))):
                total = torch.zeros_like(p).index_add(0, i, new.to(p))
                if name == "seen":
                    model.seen += total
                else:
                    count = torch.zeros_like(p).index_add(0, i, torch.ones_like(new).to(p))
                    mean = total / count.clamp(min=1)
                    model.squares += (mean - model.squares) * (1 - 0.9**count)
        yield ((kl + self.aux * (2 - t.to(kl)) * missed) / p[i] / process.T).mean()

    def preview(self, average: nn.ModuleDict) -> Tensor:
        """40 pictures that the averaged model draws, one class after another where it has them."""
        return self.codes.pictures(
            categorical.generate(average["model"], 40, **self.codes.given(40)).x
        )
