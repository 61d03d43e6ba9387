"""The autoencoder of latent diffusion with a Gaussian latent (Rombach et al. 2021, 2112.10752).

The encoder says mu and log s^2 of every latent number, z = mu + s n with n ~ N(0, I), and the
decoder makes a picture of z. With sums over one picture and the mean over the batch,

    L = sum |x - D(z)| + w_g sum |grad x - grad D(z)| + w_KL KL,
    KL = 1/2 sum (mu^2 + s^2 - 1 - log s^2).

The paper adds a perceptual and an adversarial term; both need networks larger than all of this, so
here the differences of neighbours (grad) take their place: what is blurred has weaker ones. The
loss that is reported is L divided by the numbers of a picture.

Nothing wide runs at full resolution: the picture is folded by 2 first, the last convolution alone
sees 32 x 32, with a quarter of the channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from diffusion_lab.data import Dataset
from diffusion_lab.device import generator, randn
from diffusion_lab.errors import number
from diffusion_lab.nets.layers import check_inputs, check_sizes, zero
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import adamw, check_options, indices, network

__all__ = ["Autoencoding", "Block", "KLAutoencoder", "decoder", "encoder", "gradients", "kl"]

LOW, HIGH = -30.0, 20.0  # to which the log-variance is clamped


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), at first the identity, on (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = min(8, channels // 4)
        self.norm1, self.norm2 = (nn.GroupNorm(groups, channels) for _ in range(2))
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


def check_widths(widths: Sequence[int]) -> None:
    """ValueError unless there is a width, each of them a multiple of 8 (of the groups, of 4)."""
    if not widths or any(w < 8 or w % 8 for w in widths):
        raise ValueError(
            f"widths are channels, one for each halving, each a multiple of 8; {widths}"
        )


def encoder(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """(B, channels, H, W) -> features (B, widths[-1], H/f, W/f), f = 2 ** len(widths)."""
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * channels, widths[0], 3, padding=1),
    ]
    for before, width in pairwise(widths):
        layers += [Block(before), nn.Conv2d(before, width, 3, stride=2, padding=1)]
    return nn.Sequential(*layers, Block(widths[-1]))


def decoder(latent: int, channels: int, widths: Sequence[int]) -> nn.Sequential:
    """z (B, latent, H/f, W/f) -> (B, channels, H, W); ``widths`` as of the encoder."""
    coarse = widths[-1]
    layers = [nn.Conv2d(latent, coarse, 3, padding=1), Block(coarse), Block(coarse)]
    for width, finer in zip(widths[:0:-1], widths[-2::-1]):
        layers += [nn.Conv2d(width, 4 * finer, 1), nn.PixelShuffle(2), Block(finer)]
    layers += [nn.GroupNorm(min(8, widths[0] // 4), widths[0]), nn.SiLU()]
    layers += [nn.Conv2d(widths[0], 2 * widths[0], 3, padding=1), nn.PixelShuffle(2), nn.SiLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[0] // 2, channels, 3, padding=1))


class KLAutoencoder(nn.Module):
    """Pictures (B, channels, H, W) to Gaussians over z (B, latent, H/f, W/f), and z to pictures.

    Args:
        channels: of a picture.
        latent: channels of z.
        widths: channels at half, a quarter, ... of the resolution: f = 2 ** len(widths).
    """

    def __init__(
        self, channels: int = 3, latent: int = 4, widths: Sequence[int] = (32, 64)
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latent=latent)
        check_widths(widths)
        self.channels, self.latent, self.factor = channels, latent, 2 ** len(widths)
        self.encoder = encoder(channels, widths)
        self.moment = nn.Sequential(nn.SiLU(), nn.Conv2d(widths[-1], 2 * latent, 3, padding=1))
        self.decoder = decoder(latent, channels, widths)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log s^2) of z, each (B, latent, H/f, W/f); ValueError for sizes not of f."""
        check_inputs(x, self.channels, 4)
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"height and width must be multiples of {self.factor}; got {tuple(x.shape[2:])}"
            )
        mean, logvar = self.moment(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(LOW, HIGH)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """z = mu + s noise, or the mean without noise."""
        mean, logvar = self.moments(x)
        return mean if noise is None else mean + (0.5 * logvar).exp() * noise

    def decode(self, z: Tensor) -> Tensor:
        """Pictures of z, nearly in [-1, 1]. ValueError for z of another number of channels."""
        check_inputs(z, self.latent, 4)
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """The picture as it comes back, by the mean."""
        return self.decode(self.encode(x))


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, s^2) || N(0, 1)) summed over each datum, (B,)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def gradients(x: Tensor, y: Tensor) -> Tensor:
    """Sum over each datum (B,) of |difference of neighbours of x - that of y|, down and across."""
    wrong = x - y
    return sum(wrong.diff(dim=d).abs().flatten(1).sum(1) for d in (2, 3))


class Autoencoding:
    """A KL autoencoder; options ``kl`` and ``gradient``, the weights of the two other terms.

    Every picture is seen as it is or as in a mirror, and moved by up to two pixels on the ground
    ``fill``, by default 1, white.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("kl", "gradient", "fill"))
        if data.x.ndim != 4:
            raise ValueError(f"an autoencoder is trained on pictures; got x {tuple(data.x.shape)}")
        self.recipe, self.data = recipe, data
        self.weights = {
            name: number(name, recipe.options.get(name, default))
            for name, default in (("kl", 1e-6), ("gradient", 0.5))
        }
        self.models = nn.ModuleDict({"model": network(recipe, data)})

    def optimisers(self) -> list[Optimizer]:
        return [adamw(self.recipe, self.models.parameters())]

    def draw(self, step: int) -> dict[str, Tensor]:
        x, gen = augmented(self.recipe, self.data, step)
        model = self.models["model"]
        h, w = (size // model.factor for size in x.shape[2:])
        return {"x": x, "noise": randn((len(x), model.latent, h, w), gen)}

    def losses(self, average: nn.ModuleDict, x: Tensor, noise: Tensor) -> Iterator[Tensor]:
        model = self.models["model"]
        mean, logvar = model.moments(x)
        back = model.decode(mean + (0.5 * logvar).exp() * noise)
        loss = reconstruction(x, back, self.weights["gradient"])
        loss = loss + self.weights["kl"] * kl(mean, logvar)
        yield loss.mean() / x[0].numel()

    def preview(self, average: nn.ModuleDict) -> Tensor:
        """Ten pictures in a row, and below them as they come back, twice."""
        return side_by_side(average["model"], self.data)


@torch.no_grad()
def side_by_side(model: nn.Module, data: Dataset) -> Tensor:
    """Twenty pictures of the data in rows of ten, each row above the same as they come back."""
    x = data.x[:: max(1, len(data) // 20)][:20]
    back = model(x.to(next(model.parameters()).device)).cpu()
    return torch.cat([x[:10], back[:10], x[10:], back[10:]])


def reconstruction(x: Tensor, back: Tensor, gradient: float) -> Tensor:
    """sum |x - back| + gradient sum |grad x - grad back| of each picture, (B,)."""
    return (x - back).abs().flatten(1).sum(1) + gradient * gradients(x, back)


def augmented(recipe: Recipe, data: Dataset, step: int) -> tuple[Tensor, torch.Generator]:
    """The pictures of a step, half of them mirrored, moved by up to two pixels; the generator."""
    fill = recipe.options.get("fill", 1.0)
    gen = generator(recipe.seed, 1, step)
    x = data.x[indices(len(data), recipe.batch, recipe.seed, step)]
    mirrored = torch.rand(len(x), generator=gen, dtype=torch.float32, device="cpu") < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    dy, dx = torch.randint(0, 5, (2, len(x)), generator=gen, device="cpu")
    h, w = x.shape[2:]
    x = F.pad(x, (2, 2, 2, 2), value=fill)
    rows, columns = dy[:, None] + torch.arange(h), dx[:, None] + torch.arange(w)
    x = x[torch.arange(len(x))[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return x.permute(0, 3, 1, 2).contiguous(), gen


@torch.no_grad()
def quality(model: nn.Module, data: Dataset) -> dict[str, Any]:
    """How near pictures come back: mean |x - x~| and PSNR in dB of [-1, 1] pictures, clamped."""
    where = next(model.parameters()).device
    back = torch.cat([model(part.to(where)).cpu().clamp(-1, 1) for part in data.x.split(256)])
    mse = (data.x - back).square().mean().item()
    psnr = 10 * math.log10(4 / mse)
    return {"l1": (data.x - back).abs().mean().item(), "mse": mse, "psnr": psnr, "n": len(data)}
