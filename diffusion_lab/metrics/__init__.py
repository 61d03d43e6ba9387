"""Measures of quality and of cost."""

from diffusion_lab.metrics.cost import (
    Cost,
    Meter,
    count_flops,
    count_parameters,
    flops_by_part,
    measure,
    meter,
    timing,
)
from diffusion_lab.metrics.estimates import Estimate, compare, verdict
from diffusion_lab.metrics.frechet import (
    Reference,
    anchor,
    blurred,
    fd,
    fd_estimate,
    fd_infinity,
    fd_paired,
    features,
    frechet,
    noise_anchor,
    real_floor,
    reference,
)
from diffusion_lab.metrics.inception import fid
from diffusion_lab.metrics.inception_score import classifier_score, inception_score
from diffusion_lab.metrics.kid import kid
from diffusion_lab.metrics.memory import copied, nearest
from diffusion_lab.metrics.precision_recall import precision_recall

__all__ = [
    "Cost",
    "Estimate",
    "Meter",
    "Reference",
    "anchor",
    "blurred",
    "classifier_score",
    "compare",
    "copied",
    "count_flops",
    "count_parameters",
    "fd",
    "fd_estimate",
    "fd_infinity",
    "fd_paired",
    "features",
    "fid",
    "flops_by_part",
    "frechet",
    "inception_score",
    "kid",
    "measure",
    "meter",
    "nearest",
    "noise_anchor",
    "precision_recall",
    "real_floor",
    "reference",
    "timing",
    "verdict",
]
