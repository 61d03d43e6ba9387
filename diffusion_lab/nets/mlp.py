"""A multilayer perceptron for data without space: 2-D toys and flat 8x8 digits."""

from __future__ import annotations

from torch import Tensor, nn

from diffusion_lab.nets.layers import LevelEmbedding, check_inputs, check_sizes, zero

__all__ = ["MLP"]


class MLP(nn.Module):
    """x (B, dim) -> (B, out_dim), told of lambda and the class in every hidden layer."""

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        num_classes: int | None = None,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width, depth=depth, num_classes=num_classes, out_dim=out_dim)
        self.level = LevelEmbedding(width, num_classes)
        self.first = nn.Linear(dim, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth - 1)])
        self.told = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.last = zero(nn.Linear(width, out_dim or dim))

    def forward(self, x: Tensor, lam: Tensor, label: Tensor | None = None) -> Tensor:
        check_inputs(x, self.first.in_features, 2)
        level = self.level(lam, label, len(x))
        h = nn.functional.silu(self.first(x) + self.told[0](level))
        for layer, told in zip(self.hidden, self.told[1:], strict=True):
            h = nn.functional.silu(layer(h) + told(level))
        return self.last(h)
