"""Cross-attention: every place of a picture looks at the words (Rombach et al. 2021, eqs 9-11).

    Q = LN(h) W_Q,   K = c W_K,   V = c W_V,   h <- h + softmax(Q K^T / sqrt(d)) V W_O

with h (B, N, channels) the features of N places, c (B, M, context) the M tokens, d the width of a
head, and W_O = 0 at first. No map of c has a bias, so a row without any token gives h back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_lab.nets.layers import check_sizes, zero

__all__ = ["CrossAttention"]


class CrossAttention(nn.Module):
    """h (B, N, channels), context (B, M, context), mask bool (B, M) or None -> (B, N, channels).

    The mask is True where a token stands; what it hides weighs exactly 0. Written as plain products
    of matrices, so that FLOP counters see them. ValueError for heads that do not divide channels.
    """

    def __init__(self, channels: int, heads: int, context: int) -> None:
        super().__init__()
        check_sizes(channels=channels, heads=heads, context=context)
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide the width {channels}")
        self.heads, self.width = heads, context
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key, self.value = (nn.Linear(context, channels, bias=False) for _ in range(2))
        self.out = zero(nn.Linear(channels, channels, bias=False))

    def weights(self, h: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each place looks at each token, (B, heads, N, M).

        They sum to 1 over the tokens, or to 0 where the mask hides all.
        """
        self._check(h, context, mask)
        q, k = self._apart(self.query(self.norm(h))), self._apart(self.key(context))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if mask is None:
            return scores.softmax(-1)
        there = mask[:, None, None, :]
        lowest = torch.finfo(scores.dtype).min  # not -inf: a row without tokens would be nan
        return scores.masked_fill(~there, lowest).softmax(-1) * there

    def forward(self, h: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        seen = self.weights(h, context, mask) @ self._apart(self.value(context))
        return h + self.out(seen.transpose(1, 2).flatten(2))

    def _apart(self, x: Tensor) -> Tensor:
        """(B, N, heads * d) as (B, heads, N, d)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _check(self, h: Tensor, context: Tensor, mask: Tensor | None) -> None:
        if context.ndim != 3 or context.shape[2] != self.width or len(context) != len(h):
            raise ValueError(
                f"context must be ({len(h)}, M, {self.width}); got {tuple(context.shape)}"
            )
        if mask is not None and (mask.dtype != torch.bool or mask.shape != context.shape[:2]):
            raise ValueError(
                f"mask must be bool {tuple(context.shape[:2])}, True where a token stands; "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
