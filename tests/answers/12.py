"""Wrong answers to lesson 12, and words that each refusal must hold."""

import math

import torch


def step(scale="draw", noise="eps", target="v", mean_over="each"):
    """A learner's training step with one of the slips."""

    def run(mean, spread, s, xi, eps, alpha, sigma, denoise):
        z0 = s * (mean + spread * xi)
        z0 = {"draw": z0, "no": z0 / s, "mean": s * mean + spread * xi, "sure": s * mean}[scale]
        answer = denoise(alpha * z0 + sigma * (eps if noise == "eps" else xi))
        v = alpha * eps - sigma * z0
        wrong = (answer - {"v": v, "-v": -v, "eps": eps}[target]) ** 2
        return wrong.mean() if mean_over == "all" else wrong.flatten(1).mean(1)

    return run


def attention(root=True, hide=True, over=-1, reverse=False):
    """A learner's attention with one of the slips."""

    def run(q, k, v, there):
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / (math.sqrt(q.shape[-1]) if root else 1)
        if hide:
            absent = there if reverse else ~there
            scores = scores.masked_fill(absent[:, None, None], -1e30)
        return torch.softmax(scores, over) @ v

    return run


def half(z, codes):
    """A quantiser that passes half of the gradient."""
    return 0.5 * z + (codes[torch.cdist(z, codes).argmin(1)] - 0.5 * z).detach()


WRONG = {
    "floor": [
        (lambda C, k: torch.linalg.eigvalsh(C)[-k:].sum(), "variance that is kept"),
        (lambda C, k: torch.diagonal(C)[k:].sum(), "variances of the pixels"),
        (lambda C, k: torch.linalg.eigvalsh(C)[:k].sum(), "k smallest"),
        (lambda C, k: torch.trace(C), "largest error"),
    ],
    "budget": [("falls", "lowest points"), ("stays", "same for all budgets"), ("up", "not one of")],
    "latent_step": [
        (step(scale="no"), "not scaled"),
        (step(scale="mean"), "mean alone"),
        (step(scale="sure"), "spread is left out"),
        (step(noise="xi"), "autoencoder's noise"),
        (step(target="-v"), "sign of v"),
        (step(target="eps"), "with eps"),
        (step(mean_over="all"), "over the batch"),
    ],
    "attention": [
        (attention(root=False), "root of d"),
        (attention(hide=False), "absent words are heard"),
        (attention(over=-2), "over the places"),
        (attention(reverse=True), "turned round"),
        (lambda q, k, v, there: v, "shape"),
    ],
    "straight_through": [
        (lambda z, codes: codes[torch.cdist(z, codes).argmin(1)], "no gradient reaches z"),
        (
            lambda z, codes: codes[torch.cdist(z, codes).argmin(1)].detach(),
            "reaches the encoder at all",
        ),
        (lambda z, codes: z + (codes[torch.cdist(z, codes).argmin(1)] - z.detach()), "codes get"),
        (lambda z, codes: z + (codes[torch.cdist(z, codes).argmax(1)] - z).detach(), "farthest"),
        (lambda z, codes: z, "z itself"),
        (lambda z, codes: torch.cdist(z, codes).argmin(1), "shape of z"),
        (
            lambda z, codes: 0.5 * z + (codes[torch.cdist(z, codes).argmin(1)] - 0.5 * z).detach(),
            "not that of the identity",
        ),
    ],
    "guidance": [
        (lambda y, n, s: n + s * (y - n), "no law yet"),
        (lambda y, n, s: torch.log_softmax(y + s * (n - y), -1), "exchanged"),
        (lambda y, n, s: torch.log_softmax((1 + s) * y - s * n, -1), "another convention"),
        (lambda y, n, s: torch.log_softmax((1 - s) * n + s * y, 1), "over the places"),
        (lambda y, n, s: torch.softmax((1 - s) * n + s * y, -1), "these are probabilities"),
        (lambda y, n, s: y, "largest error"),
    ],
}
