"""Diffusion autoencoders (Preechakul et al. 2021, 2111.15640): a picture as two codes.

    z   = Enc(x_0)                          (B, d), learned: what the picture is of
    x_T = DDIM walked upward, told of z     like x_0: the rest of it, which z does not hold

Encoder and decoder are trained together by the decoder's loss alone, |eps - eps_hat(x_t, t, z)|^2,
without a KL. In each residual block of the decoder, after its second norm (their eq 7),

    h = ((1 + t_s) GN(h) + t_b) (1 + z_s),

t_s and t_b read from the noise level, z_s from z. That is again a scale and a shift for each
channel, so the U-Net stays as it is and only what tells its blocks changes. If d is too large, z
holds the whole picture and x_T nothing. Drawing new z is the work of
:mod:`diffusion_lab.latent.prior`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import nets
from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.device import check_batch
from diffusion_lab.errors import check_arguments, share
from diffusion_lab.nets.layers import check_inputs, check_sizes
from diffusion_lab.nets.unet import Fine, ResBlock, UNet
from diffusion_lab.samplers.ddim import ddim
from diffusion_lab.samplers.inversion import encode, slerp
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import Diffusion, seeded
from diffusion_lab.walk import sample, walk

__all__ = ["Decoder", "DiffAE", "SemanticEncoder", "codes", "decode", "interpolate"]


# ---- the two networks ---------------------------------------------------------------------------
class SemanticEncoder(nn.Module):
    """Pictures (B, channels, H, W) -> z (B, dim), without noise: it sees x_0 alone.

    Each of ``widths`` halves height and width; the mean over what is left becomes z.
    """

    def __init__(self, channels: int = 1, dim: int = 16, widths: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        check_sizes(channels=channels, dim=dim, **{f"width {i}": w for i, w in enumerate(widths)})
        self.channels, layers, c = channels, [], channels
        for width in widths:
            layers += [nn.Conv2d(c, width, 3, stride=2, padding=1), nn.GroupNorm(1, width)]
            layers += [nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
            c = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(c, dim)

    def forward(self, x: Tensor) -> Tensor:
        check_inputs(x, self.channels, 4)
        return self.head(self.body(x).mean((2, 3)))


class _Level(nn.Module):
    """The embedding of the noise level, and z beside it: (B, width + dim)."""

    def __init__(self, level: nn.Module, dim: int) -> None:
        super().__init__()
        self.level, self.dim = level, dim

    def forward(self, lam: Tensor, z: Tensor | None, n: int) -> Tensor:
        if z is None:
            raise ValueError("this decoder is told what to draw: give z=, as of its encoder")
        check_batch(z, "z", (self.dim,))
        if len(z) != n:
            raise ValueError(f"z must have one row for each of the {n} pictures; got {len(z)}")
        return torch.cat([self.level(lam, None, n).to(z.dtype).expand(n, -1), z], dim=1)


class _Told(nn.Module):
    """(1 + t_s)(1 + z_s) - 1 and t_b (1 + z_s), (B, 2 C): what a block adds to 1, and its shift."""

    def __init__(self, told: nn.Linear, dim: int) -> None:
        super().__init__()
        self.level, self.z = told, nn.Linear(dim, told.out_features // 2)

    def forward(self, emb: Tensor) -> Tensor:
        level, z = emb.split([self.level.in_features, self.z.in_features], dim=1)
        scale, shift = self.level(level).chunk(2, dim=1)
        by = 1 + self.z(z)
        return torch.cat([(1 + scale) * by - 1, shift * by], dim=1)


class Decoder(UNet):
    """A U-Net that is told z: x (B, C, H, W), lam (B,) or (1,), z (B, z_dim) -> (B, C, H, W).

    ``unet``: arguments of :class:`UNet`, which has no classes here.
    """

    def __init__(self, channels: int = 1, z_dim: int = 16, **unet: Any) -> None:
        check_arguments("the U-Net", UNet, unet)
        super().__init__(channels, **unet)
        check_sizes(z_dim=z_dim)
        if self.level.classes is not None:
            raise ValueError("a decoder is told z, no classes: leave num_classes out")
        self.level = _Level(self.level, z_dim)
        for block in list(self.modules()):
            if isinstance(block, ResBlock | Fine):
                block.told = _Told(block.told, z_dim)

    def forward(self, x: Tensor, lam: Tensor, z: Tensor | None = None) -> Tensor:
        return super().forward(x, lam, z)  # in the place of the label: ``level`` takes it there


# ---- the training -------------------------------------------------------------------------------
class DiffAE(Diffusion):
    """Encoder and decoder together; saved as the two models "encoder" and "model".

    ``recipe.net`` is a :class:`Decoder` (or any network that is told z); ``recipe.options`` are the
    arguments of the encoder but for channels and dim: {"widths": [32, 64]}.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        if data.x.ndim != 4:
            raise ValueError(f"a diffusion autoencoder encodes pictures; got {tuple(data.x.shape)}")
        self.dim = recipe.net.get("z_dim", 16)
        super().__init__(recipe.but(conditional=False), data)
        with seeded(recipe.seed, 3):
            self.models["encoder"] = nets.make(
                "diffusion_lab.latent.diffae:SemanticEncoder",
                **recipe.options,
                channels=data.x.shape[1],
                dim=self.dim,
            )

    def losses(self, average: nn.ModuleDict, **batch: Tensor) -> Iterator[Tensor]:
        yield self.loss(**batch, z=self.models["encoder"](batch["x0"])).mean()

    def preview(self, average: nn.ModuleDict) -> Tensor:
        """20 pictures of the data, each row above what is drawn for its z, from one x_T always."""
        x = self.data.x[:20]
        with torch.no_grad():
            z = average["encoder"](x.to(next(average.parameters()).device))
        drawn = self._drawn(average["model"], len(x), z).cpu()
        return torch.cat([x[:10], drawn[:10], x[10:], drawn[10:]])

    distance = None  # of the data's own z it would say little

    def _drawn(self, model: Denoiser, n: int, z: Tensor | None = None) -> Tensor:
        from diffusion_lab.generate import generate

        z = torch.zeros(n, self.dim, device="cpu") if z is None else z
        return generate(
            model, n, seed=self.recipe.seed, condition={"z": z}, **self.recipe.sampler
        ).x


# ---- what the two codes are for -----------------------------------------------------------------
def codes(models: nn.ModuleDict, x0: Tensor, grid: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(z, x_T) of pictures (B, ...): z of the encoder, x_T by DDIM upward, their section 3.2.

    ``models`` holds "encoder" and "model", as a training of :class:`DiffAE` saves them; ``grid``
    falls, and :func:`decode` on the same one gives the pictures back up to an error of order
    1/steps.
    """
    with torch.no_grad():
        z = models["encoder"](x0)
    return z, sample(encode(models["model"], x0, grid, z=z)).x


def decode(model: Denoiser, z: Tensor, x_T: Tensor, grid: Sequence[float]) -> Tensor:
    """The pictures of two codes by DDIM without noise; x_T may be fresh noise of the first time."""
    return sample(walk(ddim(), model, x_T, grid, z=z)).x


def interpolate(
    model: Denoiser,
    a: tuple[Tensor, Tensor],
    b: tuple[Tensor, Tensor],
    shares: Sequence[float],
    grid: Sequence[float],
) -> Tensor:
    """Pictures between those of the codes a and b, (len(shares), B, ...): a at 0, b at 1.

    z goes along a straight line, x_T along a great circle, which keeps its length.
    """
    shares = [share("a share of an interpolation", u, "a and b") for u in shares]
    z = [torch.lerp(a[0], b[0], u) for u in shares]
    x_T = [slerp(a[1], b[1], u) for u in shares]
    drawn = decode(model, torch.cat(z), torch.cat(x_T), grid)
    return drawn.unflatten(0, (len(shares), -1))
