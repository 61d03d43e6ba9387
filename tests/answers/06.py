"""Wrong answers to lesson 06, and words that each refusal must hold."""

import math
from itertools import pairwise


def loop(kappa=None, noise=1.0, old=False, factor=2.0, root=2.0, correct=True, last=True):
    """A learner's predictor-corrector loop with one of the slips."""

    def run(score, x, sigmas, r, draw):
        for before, now in pairwise(sigmas):
            v = before**2 - now**2
            share = now / before if kappa is None else kappa
            x = x + v * score(x, before) + noise * share * math.sqrt(v) * draw(x)
            if correct:
                s, z = score(x, before if old else now), draw(x)
                a = factor * (r * z.norm(dim=1).mean() / s.norm(dim=1).mean()) ** 2
                x = x + a * s + (root * a).sqrt() * z
        return x + sigmas[-1] ** 2 * score(x, sigmas[-1]) if last else x

    return run


WRONG = {
    "denoising_loss": [
        (lambda s, x, sg, e: 0.5 * (s(x + sg * e) - e / sg).square().sum(1), "minus eps"),
        (lambda s, x, sg, e: 0.5 * (s(x) + e / sg).square().sum(1), "clean x"),
        (lambda s, x, sg, e: 0.5 * (s(x + sg * e) + e / sg).square(), "shape"),
        (lambda s, x, sg, e: (s(x + sg * e) + e / sg).square().sum(1), "1/2"),
    ],
    "backward_passes": [
        (1, "sliced"),
        (0, "denoising"),
        (4096, "whole row"),
        (30, "too small"),
        (64.3, "too large"),
    ],
    "ode_velocity": [
        (lambda x, s, f, g2: f * x + 0.5 * g2 * s, "sign"),
        (lambda x, s, f, g2: 0.5 * (f * x - g2 * s), "stays whole"),
        (lambda x, s, f, g2: s, "largest error"),
    ],
    "pc_loop": [
        (loop(kappa=1.0), "reverse diffusion"),
        (loop(noise=0.0), "predictor's noise is missing"),
        (loop(old=True), "old level"),
        (loop(factor=1.0), "factor 2"),
        (loop(root=1.0), "root of 2a"),
        (loop(correct=False), "predictor alone"),
        (loop(last=False), "best guess"),
        (lambda score, x, sigmas, r, draw: x, "largest error"),
    ],
    "log_stretch": [
        (lambda v0, v1, d: -0.5 * d * math.log(v1 / v0), "sign"),
        (lambda v0, v1, d: 0.5 * math.log(v1 / v0), "coordinates"),
        (lambda v0, v1, d: d * math.log(v1 / v0), "1/2"),
        (lambda v0, v1, d: d / 2 * math.log2(v1 / v0), "natural log"),
    ],
}
