"""The image network: a small U-Net that spends its multiplications where they count.

A 28x28 picture is first folded into 14x14 with 4 channels (pixel-unshuffle), so no wide convolution
runs at full resolution; two levels follow (14x14 and 7x7 by default), attention on the coarsest.

Unfolding the answer again has a price: what is wrong with the mean of a channel, a mere change of
brightness on a plain map, becomes a wave of period 2 over the whole picture. With ``fine`` nothing
is unfolded: coarse features are repeated and meet the picture in two narrow convolutions at full
resolution, where a wrong mean stays a change of brightness.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.nets.attention import CrossAttention
from diffusion_lab.nets.layers import LevelEmbedding, check_inputs, check_sizes, zero

__all__ = ["UNet"]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(8, channels // 4), channels, affine=False)


class ResBlock(nn.Module):
    """Two convolutions around a scale and shift that depend on noise level and class."""

    def __init__(self, c_in: int, c_out: int, emb: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(min(8, c_in // 4), c_in), _norm(c_out)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.told = nn.Linear(emb, 2 * c_out)
        self.conv2 = zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.told(emb)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """Self-attention over the pixels of one feature map (B, C, H, W)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(min(8, channels // 4), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(1)  # each (B, heads, HW, C / heads)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(2, 3).reshape(b, c, h, w))


class Fine(nn.Module):
    """The answer at full resolution, from coarse features and the picture itself.

    h (B, c_in, H / patch, W / patch), x (B, channels, H, W), emb -> (B, c_out, H, W). Features are
    repeated ``patch`` times down and across; all detail inside a block is of x. With ``stripes``
    (patch 2) two differences inside a block are h's too, between its rows and its columns: stripes
    that only a wide look finds in the noise. The third, the check, stays of x.
    """

    def __init__(
        self,
        c_in: int,
        channels: int,
        c_out: int,
        width: int,
        emb: int,
        patch: int,
        stripes: bool = False,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.stripes = zero(nn.Conv2d(c_in, 2 * c_out, 3, padding=1)) if stripes else None
        self.coarse = nn.Conv2d(c_in, width, 3, padding=1)
        self.mix = nn.Conv2d(width + channels, width, 3, padding=1)
        self.told = nn.Linear(emb, 2 * width)
        self.out = zero(nn.Conv2d(width, c_out, 3, padding=1))

    def forward(self, h: Tensor, x: Tensor, emb: Tensor) -> Tensor:
        fine = F.interpolate(self.coarse(h), scale_factor=float(self.patch), mode="nearest")
        fine = self.mix(torch.cat([fine, x], dim=1))
        scale, shift = self.told(emb)[:, :, None, None].chunk(2, dim=1)
        answer = self.out(F.silu(torch.addcmul(shift, fine, 1 + scale)))
        if self.stripes is None:
            return answer
        down, across = self.stripes(h).chunk(2, dim=1)  # of a block: ++/-- and +-/+-
        block = torch.stack([down + across, down - across, across - down, -down - across], dim=2)
        return answer + F.pixel_shuffle(block.flatten(1, 2), 2)


class UNet(nn.Module):
    """x (B, channels, H, W), lam (B,) or (1,), label (B,) or None -> (B, out_channels, H, W).

    With ``context`` the call takes context (B, M, context) and mask bool (B, M) too, as of
    ``CrossAttention``.

    Args:
        channels, out_channels: of the picture and of the answer (the same by default).
        widths: channels of each level, fine to coarse; each level halves height and width.
        blocks: residual blocks on each level, on the way down and again on the way up; one map a
            level is kept for the way up.
        patch: the picture is folded by this factor first (1: not at all).
        attention: for each level, whether its blocks are followed by attention.
        emb: width of the embedding of noise level and class.
        context: width of the tokens that every attention is followed by a look at, or None.
        num_classes: number of classes, or None.
        fine: channels at full resolution, on the way out (``Fine``); None unfolds the answer.
        stripes: with ``fine`` and patch 2, whether coarse features may draw stripes of period 2.
    """

    def __init__(
        self,
        channels: int = 1,
        out_channels: int | None = None,
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        patch: int = 2,
        attention: Sequence[bool] = (False, True),
        emb: int = 128,
        heads: int = 4,
        context: int | None = None,
        num_classes: int | None = None,
        fine: int | None = None,
        stripes: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(
            channels=channels,
            out_channels=out_channels,
            blocks=blocks,
            patch=patch,
            emb=emb,
            heads=heads,
            context=context,
            num_classes=num_classes,
            fine=fine,
        )
        if not widths or any(w < 4 or w % min(8, w // 4) for w in widths):
            raise ValueError(
                "widths are the channels of each level, 4 or more and a multiple of its groups, "
                f"min(8, width // 4); got {tuple(widths)}"
            )
        for width, attends in zip(widths, attention):
            if attends and width % heads:
                raise ValueError(f"{heads} heads do not divide the width {width} of a level")
        if len(attention) != len(widths):
            raise ValueError(f"attention must say yes or no for each of the {len(widths)} levels")
        if context is not None and not any(attention):
            raise ValueError("a context needs attention on at least one level")
        self.context = context
        if stripes and (fine is None or patch != 2):
            raise ValueError(f"stripes are drawn beside fine, with patch 2; got {fine=}, {patch=}")
        self.patch, self.fold = patch, patch * 2 ** (len(widths) - 1)
        self.level = LevelEmbedding(emb, num_classes)
        self.first = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c = widths[0]
        for i, width in enumerate(widths):
            if i:
                self.down.append(nn.Conv2d(c, width, 3, stride=2, padding=1))
            attends = heads if attention[i] else 0
            self.down.append(_Level(width, width, emb, blocks, attends, context))
            c = width
        for i in reversed(range(len(widths))):
            attends = heads if attention[i] else 0
            self.up.append(_Level(2 * widths[i], widths[i], emb, blocks, attends, context))
            if i:
                self.up.append(_Upsample(widths[i], widths[i - 1]))
        self.norm = nn.GroupNorm(min(8, widths[0] // 4), widths[0])
        out = out_channels or channels
        self.last: nn.Module
        if fine is None:
            self.last = zero(nn.Conv2d(widths[0], out * patch**2, 3, padding=1))
        else:
            self.last = Fine(widths[0], channels, out, fine, emb, patch, stripes)

    def forward(
        self,
        x: Tensor,
        lam: Tensor,
        label: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if (context is None) != (self.context is None):
            takes = "no context" if self.context is None else f"context (B, M, {self.context})"
            raise ValueError(f"this network takes {takes}")
        told = (context, mask)
        check_inputs(x, self.first.in_channels // self.patch**2, 4)
        if x.shape[-1] % self.fold or x.shape[-2] % self.fold:
            raise ValueError(
                f"height and width must be multiples of {self.fold}; got {tuple(x.shape[-2:])}"
            )
        emb = self.level(lam, label, len(x))
        h = self.first(F.pixel_unshuffle(x, self.patch))
        kept = []
        for layer in self.down:
            if isinstance(layer, _Level):
                kept.append(h := layer(h, emb, *told))
            else:
                h = layer(h)
        for layer in self.up:
            if isinstance(layer, _Level):
                h = layer(torch.cat([h, kept.pop()], dim=1), emb, *told)
            else:
                h = layer(h)
        h = F.silu(self.norm(h))
        if isinstance(self.last, Fine):
            return self.last(h, x, emb)
        return F.pixel_shuffle(self.last(h), self.patch)


class _Level(nn.Module):
    """The residual blocks of one resolution, followed by attention where heads > 0."""

    def __init__(
        self, c_in: int, c_out: int, emb: int, blocks: int, heads: int, context: int | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [ResBlock(c_in if j == 0 else c_out, c_out, emb) for j in range(blocks)]
        )
        self.attention = Attention(c_out, heads) if heads else None
        self.cross = CrossAttention(c_out, heads, context) if heads and context else None

    def forward(
        self, x: Tensor, emb: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        for block in self.blocks:
            x = block(x, emb)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross is None:
            return x
        h = self.cross(x.flatten(2).mT, context, mask)
        return h.mT.reshape(x.shape)


class _Upsample(nn.Module):
    """Twice the height and width by repeating pixels, then a convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
