"""Words for a U-Net: tokens become vectors, and the picture looks at them by cross-attention.

Tokens are those of :mod:`diffusion_lab.data.captions`: 0 stands for no word and is hidden, 1 alone
for no text, [1, 0, ..., 0]. That one is learnt as every other token is, by dropping texts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.data.captions import LENGTH, NULL, PAD
from diffusion_lab.errors import whole
from diffusion_lab.nets.attention import CrossAttention
from diffusion_lab.nets.layers import check_sizes, zero
from diffusion_lab.nets.unet import UNet

__all__ = ["TextUNet", "TokenEncoder"]


class TokenEncoder(nn.Module):
    """tokens int64 (B, length) -> their vectors (B, length, width) and the mask, bool (B, length).

    A vector is that of the word plus that of its place; with ``layers`` = 1, words then look at
    each other (one transformer layer, at first the identity). ``tokens`` None is one row of 'no
    text'.
    """

    def __init__(
        self, vocabulary: int, width: int = 64, length: int = LENGTH, layers: int = 1
    ) -> None:
        super().__init__()
        check_sizes(vocabulary=vocabulary, width=width, length=length)
        if whole("layers", layers, least=0) > 1:
            raise ValueError(f"layers is 0 or 1; got {layers}")
        self.length = length
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.empty(length, width).normal_(std=0.1))
        self.attention = self.mlp = None
        if layers:
            self.attention = CrossAttention(width, 4 if width % 4 == 0 else 1, width)
            self.mlp = nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 2 * width),
                nn.GELU(),
                zero(nn.Linear(2 * width, width)),
            )

    def forward(self, tokens: Tensor | None) -> tuple[Tensor, Tensor]:
        if tokens is None:
            tokens = torch.full((1, self.length), PAD, device=self.places.device)
            tokens[:, 0] = NULL
        self._check(tokens)
        mask = tokens != PAD
        h = self.words(tokens) + self.places
        if self.attention is not None:
            h = self.attention(h, h, mask)
            h = h + self.mlp(h)
        return h, mask

    def _check(self, tokens: Tensor) -> None:
        if tokens.dtype != torch.int64 or tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ValueError(
                f"tokens are int64 (B, {self.length}), of captions.tokeniser(); "
                f"got {tokens.dtype} {tuple(tokens.shape)}"
            )
        if not tokens.is_cpu:  # a GPU would wait
            return
        low, high = (value.item() for value in tokens.aminmax())
        if low < 0 or high >= self.words.num_embeddings:
            raise ValueError(f"tokens lie in 0..{self.words.num_embeddings - 1}; got {low}..{high}")


class TextUNet(nn.Module):
    """x (B, channels, H, W), lam, tokens int64 (B, length) or None -> (B, out_channels, H, W).

    Args:
        channels: of the picture.
        vocabulary: number of tokens, ``len(captions.tokeniser())``.
        width, length, layers: see ``TokenEncoder``.
        unet: further arguments of ``UNet``.
    """

    def __init__(
        self,
        channels: int = 3,
        vocabulary: int = 1185,
        width: int = 64,
        length: int = LENGTH,
        layers: int = 1,
        **unet: Any,
    ) -> None:
        super().__init__()
        self.encoder = TokenEncoder(vocabulary, width, length, layers)
        self.unet = UNet(channels, context=width, **unet)
        self.fold = self.unet.fold

    def forward(self, x: Tensor, lam: Tensor, tokens: Tensor | None = None) -> Tensor:
        context, mask = self.encoder(tokens)
        if tokens is not None and len(tokens) != len(x):
            raise ValueError(f"{len(x)} pictures need as many rows of tokens; got {len(tokens)}")
        context, mask = context.expand(len(x), -1, -1), mask.expand(len(x), -1)
        return self.unet(x, lam, context=context, mask=mask)
