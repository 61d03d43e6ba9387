"""A joint embedding of pictures and texts (CLIP: Radford et al. 2021, arXiv 2103.00020), small.

    u = E_I(x_t, lambda) / |E_I(x_t, lambda)|,  v = E_T(text) / |E_T(text)|,  S_ij = e^tau u_i . v_j

Both encoders give unit vectors of 64 numbers, and their product is near 1 where a text says what a
picture shows. Texts are bags of words and parts of words (``data.trigrams``), so that an unknown
word has relatives. Pictures may be noisy, x_t = alpha x_0 + sigma eps with alpha^2 + sigma^2 = 1:
the encoder is told lambda = log(alpha/sigma), which scales and shifts the channels of every layer
(the noise-aware encoder of SDG: Liu et al. 2023, arXiv 2112.05744). Gradients of S
with respect to x_t guide a sampler. lambda = 5 and more are clean.

Guide with one embedding and judge with another: what a gradient has climbed, its own model praises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_lab.data.captions import several
from diffusion_lab.data.trigrams import NUMBERS, trigrams
from diffusion_lab.device import check_finite, check_float, check_range
from diffusion_lab.errors import check_lam_range
from diffusion_lab.nets.layers import LevelEmbedding, check_inputs, check_sizes

__all__ = ["CLEAN", "ImageEncoder", "JointEmbedding", "TextEncoder", "padded"]

CLEAN = 5.0
"""The lambda of a clean picture: noise of 0.7%, less than a step of a pixel's 256 levels."""


def padded(texts: Iterable[str]) -> Tensor:
    """The trigrams of N texts, int64 (N, L), shorter ones filled up with ``NUMBERS``."""
    each = [trigrams(text) for text in several(texts)]
    length = max(1, *map(len, each))
    filled = [functional.pad(one, (0, length - len(one)), value=NUMBERS) for one in each]
    return torch.stack(filled)


class TextEncoder(nn.Module):
    """Bags (B, L) as ``padded`` gives them -> (B, width): the mean of embeddings, then an MLP."""

    def __init__(self, width: int = 64, hidden: int = 128) -> None:
        super().__init__()
        check_sizes(width=width, hidden=hidden)
        self.bag = nn.EmbeddingBag(NUMBERS + 1, width, mode="mean", padding_idx=NUMBERS)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))

    def forward(self, bags: Tensor) -> Tensor:
        return self.mlp(self.bag(bags))


class ImageEncoder(nn.Module):
    """Pictures (B, C, H, W) and lam (B,) or (1,) -> (B, width): strided convolutions with FiLM.

    FiLM (Perez et al. 2018, arXiv 1709.07871): h -> GroupNorm(h) (1 + a) + b, with a and b for each
    channel a linear function of the embedding of lambda.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        emb: int = 64,
    ) -> None:
        super().__init__()
        check_sizes(
            channels=channels,
            width=width,
            emb=emb,
            **{f"widths[{i}]": w for i, w in enumerate(widths)},
        )
        self.channels, self.smallest = channels, 2 ** len(widths)
        self.level = LevelEmbedding(emb)
        ins = (channels, *widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in zip(ins, widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, w), w) for w in widths)
        self.films = nn.ModuleList(nn.Linear(emb, 2 * w) for w in widths)
        self.last = nn.Linear(widths[-1], width)

    def forward(self, x: Tensor, lam: Tensor) -> Tensor:
        check_inputs(x, self.channels, 4)
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"height and width must be at least {self.smallest}; got {tuple(x.shape[2:])}"
            )
        level = self.level(lam, None, len(x))
        for conv, norm, film in zip(self.convs, self.norms, self.films, strict=True):
            a, b = film(level)[:, :, None, None].chunk(2, 1)
            x = functional.silu(norm(conv(x)) * (1 + a) + b)
        return self.last(x.mean((2, 3)))


class JointEmbedding(nn.Module):
    """The pair of encoders, and the temperature between them.

    Args:
        channels: of the pictures.
        width: numbers in an embedding.
        widths: channels of the image encoder, halving the picture each time.
        lam_range: the lambda that it is trained on, up to 5. (5, 5) knows clean pictures alone.

    ValueError for sizes below 1, and for a range that does not end at 5.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        lam_range: tuple[float, float] = (CLEAN, CLEAN),
    ) -> None:
        super().__init__()
        self.lam_range = tuple(map(float, lam_range))
        if self.lam_range != (CLEAN, CLEAN):
            check_lam_range(self.lam_range)
        if self.lam_range[-1] != CLEAN:
            raise ValueError(f"lam_range ends at 5, a clean picture; got {self.lam_range}")
        self.image = ImageEncoder(channels, width, tuple(widths))
        self.text = TextEncoder(width)
        self.tau = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def temperature(self) -> Tensor:
        """e^tau, at most 100 as in CLIP."""
        return self.tau.exp().clamp(max=100.0)

    def pictures(self, x_t: Tensor, lam: float | Tensor = CLEAN) -> Tensor:
        """Unit vectors (B, width) of pictures (B, C, H, W); gradients flow to x_t.

        Args:
            x_t: clean pictures in [-1, 1], or noisy ones alpha x_0 + sigma eps with
                alpha^2 + sigma^2 = 1 (of other schedules, x_t / sqrt(alpha^2 + sigma^2)).
            lam: log(alpha/sigma), a number or (B,); above 5 it counts as 5. ValueError below what
                the encoder was trained on, which has learnt nothing there.
        """
        check_float(x_t, "pictures")
        levels = torch.as_tensor(lam, dtype=torch.float32, device=x_t.device)
        if levels.ndim > 1 or (levels.ndim == 1 and len(levels) not in (1, len(x_t))):
            raise ValueError(
                f"lam is a number or (B,), one for each of {len(x_t)} pictures; "
                f"got {tuple(levels.shape)}"
            )
        if not bool((levels >= self.lam_range[0]).all()):  # nan too
            clean = self.lam_range[0] >= CLEAN
            raise ValueError(
                f"lam must be at least {self.lam_range[0]:g}, got {levels.min().item():g}: "
                + (
                    "this embedding knows clean pictures alone; the noise-aware ones are called "
                    "emoji-embedding-a-noisy and emoji-embedding-b-noisy"
                    if clean
                    else "noisier pictures were no part of its training"
                )
            )
        if len(x_t) and bool((levels >= CLEAN).all()):
            check_finite(x_t, "pictures")
            check_range(x_t.detach(), "pictures")
        return self._pictures(x_t, levels)

    def _pictures(self, x_t: Tensor, lam: Tensor) -> Tensor:
        lam = lam.clamp(max=CLEAN).reshape(-1)
        return functional.normalize(self.image(x_t, lam), dim=1)

    def texts(self, texts: Iterable[str]) -> Tensor:
        """Unit vectors (N, width) of N texts; a text without words has the vector of no text.

        ValueError for one text that is not in a list, and for none.
        """
        return self.bags(padded(texts).to(self.tau.device))

    def bags(self, bags: Tensor) -> Tensor:
        """Unit vectors (N, width) of texts as ``padded`` gives them."""
        return functional.normalize(self.text(bags), dim=1)
