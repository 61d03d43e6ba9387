"""Wrong answers to lesson 06, and words that each refusal must hold."""

import math

WRONG = {
    "denoising_loss": [
        (lambda s, x, sg, e: 0.5 * (s(x + sg * e) - e / sg).square().sum(1), "minus eps"),
        (lambda s, x, sg, e: 0.5 * (s(x) + e / sg).square().sum(1), "clean x"),
        (lambda s, x, sg, e: 0.5 * (s(x + sg * e) + e / sg).square(), "shape"),
        (lambda s, x, sg, e: (s(x + sg * e) + e / sg).square().sum(1), "1/2"),
    ],
    "backward_passes": [(1, "sliced"), (0, "denoising"), (4096, "whole row"), (30, "too small")],
    "ode_velocity": [
        (lambda x, s, f, g2: f * x + 0.5 * g2 * s, "sign"),
        (lambda x, s, f, g2: 0.5 * (f * x - g2 * s), "stays whole"),
        (lambda x, s, f, g2: s, "largest error"),
    ],
    "reverse_step": [
        (lambda x, s, f, g2, h, z: x + (f * x - g2 * s) * h + (g2 * h) ** 0.5 * z, "backwards"),
        (lambda x, s, f, g2, h, z: x - (f * x - 0.5 * g2 * s) * h + (g2 * h) ** 0.5 * z, "ODE"),
        (lambda x, s, f, g2, h, z: x - (f * x - g2 * s) * h + g2**0.5 * h * z, "root of time"),
        (lambda x, s, f, g2, h, z: x - (f * x - g2 * s) * h + g2 * h * z, "its root"),
        (lambda x, s, f, g2, h, z: x - (f * x - g2 * s) * h, "noise is missing"),
        (lambda x, s, f, g2, h, z: x - (f * x - g2 * s) * h - (g2 * h) ** 0.5 * z, "equally right"),
    ],
    "log_stretch": [
        (lambda v0, v1, d: -0.5 * d * math.log(v1 / v0), "sign"),
        (lambda v0, v1, d: 0.5 * math.log(v1 / v0), "coordinates"),
        (lambda v0, v1, d: d * math.log(v1 / v0), "1/2"),
    ],
}
