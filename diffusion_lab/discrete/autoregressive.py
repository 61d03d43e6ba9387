"""One code after another: the peer of VQ-Diffusion, of the same size on the same codes.

    p(x) = prod_i p(x_i | x_1 ... x_{i-1}, y)

by a causal transformer, so a picture of D codes costs D calls, and its likelihood one. A call with
a cache computes the newest place alone: keys and values of those before are kept. It is a denoiser
too, of the absorbing chain with T = D whose masks fall from the left, and ``in_order`` the step
that walks it; guidance works on its log-probabilities as on those of any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from diffusion_lab import nets
from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import Denoiser, Number
from diffusion_lab.discrete import categorical
from diffusion_lab.discrete.categorical import Categorical, absorbing, asked, check_codes, draw
from diffusion_lab.discrete.codes import Codes
from diffusion_lab.errors import whole
from diffusion_lab.nets.specs import spec_of
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import adamw, check_options
from diffusion_lab.walk import Step

__all__ = ["Autoregression", "Autoregressive", "in_order"]


class Autoregressive(Denoiser):
    """A causal ``net(x, t, **condition) -> logits (B, n + 1, K)`` of the codes before each place.

    Asked at t = 1 - i/D with i codes known, it speaks of place i alone: ``out`` (B, 1, K).
    """

    def __init__(self, net: nn.Module, K: int, length: int, num_classes: int | None = None) -> None:
        super().__init__(absorbing(K, whole("length", length)))
        self.net, self.shape, self.num_classes = net, (length,), num_classes

    def logits(self, x: Tensor, **condition: Any) -> Tensor:
        """Logits (B, n + 1, K) of the places 0..n, given the codes (B, n) of the first n."""
        return self.net(x, torch.zeros(1, device=x.device, dtype=torch.float32), **condition)

    def forward(self, x_t: Tensor, t: Number, **condition: Any) -> Categorical:
        known = x_t[:, : _place(t, self.shape[0])]
        return Categorical(x_t, self.logits(known, **condition)[:, -1:])

    def bits(self, x0: Tensor, **condition: Any) -> Tensor:
        """-log2 p(x_0) of codes (N, D), exactly: (N,)."""
        check_codes(x0, self.schedule.K, "x0")
        with torch.no_grad():
            out = self.logits(x0[:, :-1], **condition).double()
        return cross_entropy(out.mT, x0, reduction="none").sum(1) / math.log(2)

    def spec(self) -> dict[str, Any]:
        """Plain values of which ``from_spec`` builds it again, but for the weights."""
        about = {"net": spec_of(self.net), "K": self.schedule.K, "length": self.shape[0]}
        about |= {"name": "diffusion_lab.discrete.autoregressive:Autoregressive"}
        return about | {"num_classes": self.num_classes}

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Autoregressive:
        """The model of a ``spec``, untrained; KeyError, TypeError or ValueError for no such."""
        given = {k: v for k, v in spec.items() if k != "name"}
        return cls(nets.make(**given.pop("net")), **given)


def _place(t: float, D: int) -> int:
    """How many codes are known at time t; ValueError for a time between two."""
    place = round((1 - float(t)) * D)
    if not math.isclose(place, (1 - float(t)) * D, abs_tol=1e-6):
        raise ValueError(f"codes come one by one: times are i/{D}; got {t}")
    return place


def in_order(*, cache: bool = True) -> Step:
    """The step for ``walk`` over all D places, each from what stands before it.

    Without ``cache`` every call computes all places so far anew, with the same result. One step of
    it is good for one walk at a time, begun at t = 1.
    """
    store: dict[int, tuple[Tensor, Tensor]] = {}

    def step(ask: Any, x: Tensor, t: float, s: float) -> Tensor:
        i, D = _place(t, x.shape[1]), x.shape[1]
        if _place(s, D) != i + 1:
            raise ValueError(f"codes come one by one: {D} steps; this one goes from {t} to {s}")
        if i == 0:
            store.clear()
        said = asked(ask, x, t, **({"cache": store} if cache else {})).out
        code = draw(said.exp(), ask.noise(x[:, i : i + 1], s))
        return torch.cat([x[:, :i], code, x[:, i + 1 :]], dim=1)

    return step


class Autoregression:
    """The task: cross-entropy in nats per code. Options: those of ``Codes``."""

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("autoencoder", "captions"))
        self.recipe, self.codes = recipe, Codes(recipe, data)
        self.stands_on = self.codes.stands_on
        codes = self.codes
        model = Autoregressive(codes.net(causal=True), codes.K, sum(codes.parts), codes.num_classes)
        self.models = nn.ModuleDict({"model": model})
        if data.x.ndim != 4:
            self.preview = None

    def optimisers(self) -> list[Optimizer]:
        return [adamw(self.recipe, self.models.parameters())]

    def draw(self, step: int) -> dict[str, Tensor]:
        return self.codes.batch(step)

    def losses(self, average: nn.ModuleDict, x0: Tensor, **condition: Tensor) -> Iterator[Tensor]:
        out = self.models["model"].logits(x0[:, :-1], **condition)
        yield cross_entropy(out.float().mT, x0)

    def preview(self, average: nn.ModuleDict) -> Tensor:
        """40 pictures that the averaged model draws."""
        given = self.codes.given(40)
        x = categorical.generate(average["model"], 40, step=in_order(), **given).x
        return self.codes.pictures(x)
