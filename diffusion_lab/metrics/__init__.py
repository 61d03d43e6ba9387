"""Measures of quality and of cost."""

from diffusion_lab.metrics.cost import (
    Cost,
    count_flops,
    count_parameters,
    flops_by_part,
    measure,
)
from diffusion_lab.metrics.frechet import Reference, fd, features, frechet, noise_anchor, reference

__all__ = [
    "Cost", "Reference", "count_flops", "count_parameters", "fd", "features", "flops_by_part",
    "frechet", "measure", "noise_anchor", "reference",
]  # fmt: skip
