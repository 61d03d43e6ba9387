"""The transformer that VQ-Diffusion and its autoregressive peer share: codes in, logits out.

Blocks of self-attention, cross-attention on a text where there is one, and an MLP. The time and the
class enter each block by an AdaLayerNorm (VQ-Diffusion, 2111.14822, sec 4.1):

    h = a LayerNorm(h) + b,      (a, b) a linear map of the embedded time.

``causal`` turns it into a model of the next code: a token looks at those before it alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from diffusion_lab.errors import whole
from diffusion_lab.nets.attention import CrossAttention
from diffusion_lab.nets.layers import LevelEmbedding, check_sizes, zero
from diffusion_lab.nets.text import TokenEncoder

__all__ = ["CodeTransformer"]

Cache = dict[int, tuple[Tensor, Tensor]]  # layer -> its keys and values of all places so far


class Block(nn.Module):
    """h (B, N, width) -> the same shape; at first each AdaLayerNorm is a plain LayerNorm."""

    def __init__(self, width: int, heads: int, mlp: int, context: int | None, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.told = zero(nn.Linear(width, 4 * width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp * width), nn.GELU(), nn.Linear(mlp * width, width)
        )
        self.read = None if context is None else CrossAttention(width, heads, context)

    def forward(
        self, h: Tensor, level: Tensor, context: Tensor | None, mask: Tensor | None, cache: Cache,
        layer: int, keep: bool,
    ) -> Tensor:  # fmt: skip
        a, b, c, d = self.told(level)[:, None].chunk(4, dim=-1)
        q, k, v = map(self._split, self.qkv(_normal(h) * (1 + a) + b).chunk(3, dim=-1))
        if keep:
            if layer in cache:
                k, v = (torch.cat(pair, dim=2) for pair in zip(cache[layer], (k, v)))
            cache[layer] = k, v
        seen = None
        if self.causal and q.shape[2] > 1:  # the last one may look at all
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=h.device)
            seen = seen.tril(k.shape[2] - q.shape[2])
        h = h + self.out(_joined(scaled_dot_product_attention(q, k, v, attn_mask=seen)))
        if self.read is not None and context is not None:
            h = self.read(h, context, mask)
        return h + self.mlp(_normal(h) * (1 + c) + d)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _normal(h: Tensor) -> Tensor:
    return layer_norm(h, h.shape[-1:])


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class CodeTransformer(nn.Module):
    """Codes x int64 (B, D), ``codes`` for a mask -> logits of every token's code (B, D, codes).

    Args:
        parts: lengths of the pieces of a sequence that have code books of their own (levels of an
            autoencoder); one piece of ``length`` by default.
        context: numbers of a vector of the context (B, M, context), of which ``mask`` (B, M) bool
            hides some; a row that shows none is one without any.
        vocabulary: of texts, tokens int64 (B, 8) in place of a context; None is no text, which has
            a learned vector (see ``nets.text``).
        causal: x (B, n) holds the first n codes and the answer speaks of the places 0..n. With a
            ``cache`` (a dictionary, empty at first) only of those that it has not seen.

    t (1,) or (B,) in [0, 1]; label int64 (B,), ``num_classes`` or None for 'no class'.
    """

    def __init__(
        self,
        codes: int,
        length: int,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        mlp: int = 2,
        num_classes: int | None = None,
        parts: Sequence[int] | None = None,
        context: int | None = None,
        vocabulary: int | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(codes=codes, length=length, width=width, layers=layers, heads=heads, mlp=mlp)
        check_sizes(num_classes=num_classes, context=context, vocabulary=vocabulary)
        parts = [length] if parts is None else [whole("a part", one) for one in parts]
        if sum(parts) != length or width % heads:
            raise ValueError(
                f"parts {parts} add up to the length {length}, and heads {heads} divide the width "
                f"{width}"
            )
        self.codes, self.length, self.causal = codes, length, causal
        part = torch.tensor([i for i, size in enumerate(parts) for _ in range(size)])
        self.register_buffer("part", part, persistent=False)
        self.text = None
        if vocabulary is not None:
            context = width if context is None else context
            self.text = TokenEncoder(vocabulary, context)
        self.level = LevelEmbedding(width, num_classes)
        self.embed = nn.Embedding(len(parts) * (codes + 1), width)
        self.places = nn.Parameter(torch.empty(length, width).normal_(std=0.1))
        self.context = context
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp, context, causal) for _ in range(layers)
        )
        self.last = zero(nn.Linear(width, len(parts) * codes))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        tokens: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        most = self.length - self.causal
        if x.ndim != 2 or not (x.shape[1] == most or (self.causal and x.shape[1] < most)):
            raise ValueError(f"x must be codes (B, {most}); got {tuple(x.shape)}")
        if self.text is not None:
            context, mask = (one.expand(len(x), *one.shape[1:]) for one in self.text(tokens))
        elif tokens is not None:
            raise ValueError("this network knows no texts: it was made without a vocabulary")
        if context is not None and self.context is None:
            raise ValueError("this network takes no context: it was made without one")
        h = self.embed(x + self.part[: x.shape[1]] * (self.codes + 1))
        if self.causal:  # the first place is told by the number of a mask
            h = torch.cat([self.embed.weight[self.codes].expand(len(x), 1, -1), h], dim=1)
        done = cache[0][0].shape[2] if cache else 0
        place = torch.arange(done, h.shape[1], device=x.device)
        h = h[:, done:] + self.places[place]
        level = self.level(10 * t - 5, label, len(x))  # over the range of a lambda
        store = {} if cache is None else cache
        for i, block in enumerate(self.blocks):
            h = block(h, level, context, mask, store, i, cache is not None)
        out = self.last(_normal(h)).unflatten(-1, (-1, self.codes))
        return out[:, torch.arange(len(place), device=x.device), self.part[place]]
