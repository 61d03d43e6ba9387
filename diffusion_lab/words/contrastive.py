"""Pictures and their captions are trained to find each other in a batch (InfoNCE, both ways).

    L = (CE(S, i) + CE(S^T, i)) / 2,    S_ij = e^tau u_i . v_j      (CLIP, arXiv 2103.00020)

Row i is to be told from the others of its batch. Two captions may be word for word the same: then
neither is wrong, and S_ij is taken out for both (off the diagonal).

A noise-aware embedding sees each picture at a level of its own: lambda uniform in its ``lam_range``
and a share of them clean.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from diffusion_lab.data import Dataset, emoji
from diffusion_lab.data.captions import caption
from diffusion_lab.device import generator, processes, randn
from diffusion_lab.errors import share, whole
from diffusion_lab.training.augment import moved
from diffusion_lab.training.recipes import Recipe
from diffusion_lab.training.tasks import adamw, check_options, indices, network
from diffusion_lab.words.embedding import CLEAN, JointEmbedding, padded

__all__ = ["Contrastive", "contrastive", "in_fold", "noised_at"]

FOLDS = 10


def contrastive(scores: Tensor, texts: Tensor | None = None) -> Tensor:
    """The symmetric loss of scores S (B, B); a scalar.

    Args:
        scores: row i is picture i against all texts, the right one at column i.
        texts: int64 (B, L), what each text says; equal rows are the same text. None: all differ.

    For S = 0 it is log B.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores are (B, B), pictures by their texts; got {tuple(scores.shape)}")
    n = len(scores)
    if texts is not None:
        if texts.ndim != 2 or len(texts) != n:
            raise ValueError(f"texts are ({n}, L), one for each score; got {tuple(texts.shape)}")
        same = (texts[:, None] == texts[None]).all(2)
        same = same & ~torch.eye(n, dtype=torch.bool, device=same.device)
        scores = scores.masked_fill(same, -torch.inf)
    own = torch.arange(n, device=scores.device)
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


def noised_at(x0: Tensor, lam: Tensor, eps: Tensor) -> Tensor:
    """x_t = alpha x_0 + sigma eps at lam (B,), alpha^2 = 1/(1 + e^(-2 lam)); x_0 itself at 5."""
    lam = lam[:, None, None, None]
    noisy = torch.sigmoid(2 * lam).sqrt() * x0 + torch.sigmoid(-2 * lam).sqrt() * eps
    return torch.where(lam >= CLEAN, x0, noisy)


def in_fold(records: tuple[emoji.Record, ...], fold: int) -> Tensor:
    """Which emoji belong to a tenth of the groups, bool (N,): crc32 of the group's name mod 10."""
    if whole("fold", fold, 0) >= FOLDS:
        raise ValueError(f"fold is one of 0..{FOLDS - 1}; got {fold}")
    return torch.tensor(
        [zlib.crc32(one.group.encode()) % FOLDS == fold for one in records], device="cpu"
    )


class Contrastive:
    """Trains a ``JointEmbedding`` on the emoji, a caption drawn anew for each picture it shows.

    Options: ``fold``, the tenth of the training emoji that it never sees (two embeddings that judge
    each other hide different ones); ``clean``, the share of clean pictures where the network's
    ``lam_range`` has noisy ones; ``moved``, the settings of ``augment.moved``. The loss compares
    the pictures of one batch, so the batch cannot be cut: one process, ``accumulate`` 1.
    """

    def __init__(self, recipe: Recipe, data: Dataset) -> None:
        check_options(recipe, ("fold", "clean", "moved"))
        if data.name != "emoji" or data.split != "train" or data.source:
            raise ValueError(
                f"captions are of the emoji's training split; these data are {data.name!r}, "
                f"split {data.split!r}"
            )
        if recipe.accumulate > 1 or processes() > 1:
            raise ValueError(
                "the pictures of a batch are compared with each other: train this in one process "
                "and with accumulate=1"
            )
        self.recipe, self.data = recipe, data
        self.records = emoji.records("train")
        if len(self.records) != len(data):
            raise ValueError(f"{len(data)} pictures, and captions for {len(self.records)}")
        hidden = in_fold(self.records, recipe.options.get("fold", 0))
        self.seen = torch.nonzero(~hidden)[:, 0]
        self.clean = share("the share of clean pictures", recipe.options.get("clean", 0.3))
        model = network(recipe, data)
        if not isinstance(model, JointEmbedding):
            raise ValueError(f"this task trains a JointEmbedding; got {type(model).__name__}")
        self.models = nn.ModuleDict({"model": model})

    def optimisers(self) -> list[Optimizer]:
        model = self.models["model"]
        rest = [p for p in model.parameters() if p is not model.tau]
        plain = {"params": [model.tau], "weight_decay": 0.0}  # decay would pull e^tau to 1
        return [adamw(self.recipe, [{"params": rest}, plain])]

    def draw(self, step: int) -> dict[str, Tensor]:
        r, gen = self.recipe, generator(self.recipe.seed, 1, step)
        pick = self.seen[indices(len(self.seen), r.batch, r.seed, step)]
        texts = padded([caption(self.records[i], gen) for i in pick.tolist()])
        x0 = moved(self.data.x[pick], gen, **r.options.get("moved", {}))
        low, high = self.models["model"].lam_range
        draws = torch.rand(2, r.batch, generator=gen, device="cpu", dtype=torch.float32)
        lam = torch.where(draws[0] < self.clean, CLEAN, low + (high - low) * draws[1])
        return {"x_t": noised_at(x0, lam, randn(x0.shape, gen)), "lam": lam, "texts": texts}

    def losses(
        self, average: nn.ModuleDict, x_t: Tensor, lam: Tensor, texts: Tensor
    ) -> Iterator[Tensor]:
        model = self.models["model"]
        scores = model.temperature * model.pictures(x_t, lam) @ model.bags(texts).T
        yield contrastive(scores, texts)
