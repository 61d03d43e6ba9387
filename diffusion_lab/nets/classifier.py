"""A small classifier whose last hidden layer serves as the eye of the quality measures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusion_lab.errors import whole
from diffusion_lab.nets.layers import check_inputs, check_sizes

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] -> class scores (B, classes); ``features`` -> (B, 64)."""

    def __init__(
        self,
        channels: int = 1,
        num_classes: int = 10,
        width: int = 16,
        pools: int = 2,
        features: int = 64,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, num_classes=num_classes, width=width, features=features)
        whole("pools", pools, least=0)
        self.channels, self.smallest = channels, 2**pools
        layers: list[nn.Module] = []
        c = channels
        for i in range(pools + 1):
            out = width * 2**i
            layers += [nn.Conv2d(c, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            layers += [nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            if i < pools:
                layers.append(nn.MaxPool2d(2))
            c = out
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(c, features)
        self.head = nn.Linear(features, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The 64 numbers in which two sets of pictures are compared, (B, 64)."""
        check_inputs(x, self.channels, 4)
        if min(x.shape[2:]) < self.smallest:
            raise ValueError(
                f"height and width must be at least {self.smallest}; got {tuple(x.shape[2:])}"
            )
        return torch.relu(self.hidden(self.body(x).mean((2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
