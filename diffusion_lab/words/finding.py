"""How well words find pictures, and pictures each other, among emoji that were never trained on.

recall at k      share of queries whose own key is among the k nearest
precision at k   share of the k nearest that have the query's label (category), mean over queries

By chance recall at k of N keys is k/N, and precision the share that the label has among the keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffusion_lab import data
from diffusion_lab.data import emoji
from diffusion_lab.data.captions import caption, full_caption
from diffusion_lab.device import generator, randn
from diffusion_lab.errors import whole
from diffusion_lab.words.contrastive import noised_at
from diffusion_lab.words.embedding import CLEAN, JointEmbedding

__all__ = ["chosen", "found", "precision", "recall"]


def recall(queries: Tensor, keys: Tensor, k: int = 10) -> float:
    """Share of queries (N, D) whose own key, the same row of keys (N, D), is among the k nearest.

    Near is what has a large product. Equal products count as nearer: embeddings that are all the
    same find nothing.
    """
    _check(queries, keys, k)
    if len(queries) != len(keys):
        raise ValueError(f"row by row: {len(queries)} queries and {len(keys)} keys")
    scores = queries @ keys.T
    place = (scores >= scores.diagonal()[:, None]).sum(1)  # its own among them: from 1 on
    return (place <= k).double().mean().item()


def precision(
    queries: Tensor,
    keys: Tensor,
    asked: Tensor,
    labels: Tensor,
    k: int = 5,
    *,
    others: bool = False,
) -> float:
    """Mean share of the k nearest keys (M, D) that have the query's label.

    Args:
        queries: (N, D). keys: (M, D).
        asked: int64 (N,), the labels of the queries. labels: int64 (M,), those of the keys.
        others: queries are the keys themselves, and none is its own neighbour.
    """
    _check(queries, keys, k + others)
    if asked.shape != (len(queries),) or labels.shape != (len(keys),):
        raise ValueError(
            f"a label for each of {len(queries)} queries and {len(keys)} keys; "
            f"got {tuple(asked.shape)} and {tuple(labels.shape)}"
        )
    scores = queries @ keys.T
    if others:
        if scores.shape[0] != scores.shape[1]:
            raise ValueError(f"others: {len(queries)} queries are not the {len(keys)} keys")
        scores = scores.clone().fill_diagonal_(-torch.inf)
    nearest = scores.topk(k, dim=1).indices
    return (labels[nearest] == asked[:, None]).double().mean().item()


def _check(queries: Tensor, keys: Tensor, k: int) -> None:
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1] or not len(queries):
        raise ValueError(
            f"queries and keys are (N, D) and (M, D), of one D; got {tuple(queries.shape)} and "
            f"{tuple(keys.shape)}"
        )
    if whole("k", k) > len(keys):
        raise ValueError(f"k is at most the number of keys, {len(keys)}; got {k}")


@torch.no_grad()
def chosen(
    model: JointEmbedding, texts: Sequence[str], x: Tensor, among: int = 20, *, seed: int = 0
) -> float:
    """Share of pictures x (N, 3, 32, 32) whose own text is the nearest of ``among`` texts.

    The others are drawn from the rest of ``texts``, none twice. By chance 1/among; texts that are
    as near as the own count as nearer.
    """
    if len(texts) != len(x):
        raise ValueError(f"one text for each picture; got {len(texts)} and {len(x)}")
    if not 2 <= whole("among", among) <= len(texts):
        raise ValueError(f"among is from 2 to the number of texts, {len(texts)}; got {among}")
    where = model.tau.device
    pictures = torch.cat([model.pictures(some.to(where)) for some in x.split(500)])
    scores = (pictures @ model.texts(list(texts)).T).cpu()
    n, gen = len(x), generator(seed, 98)
    draws = torch.rand(n, n, generator=gen, device="cpu", dtype=torch.float32)
    draws.fill_diagonal_(2.0)  # none is its own rival
    others = draws.topk(among - 1, dim=1, largest=False).indices
    own = scores.diagonal()[:, None]
    return (scores.gather(1, others) < own).all(1).double().mean().item()


@torch.no_grad()
def found(
    model: JointEmbedding,
    split: str = "test",
    *,
    lam: float = CLEAN,
    keep: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """What a joint embedding finds among the N emoji of a split.

    ``text_recall_1`` and ``_10``: the caption of an emoji finds it among the N.
    ``text_precision_5`` and ``image_precision_5``: the category of the five nearest training
    pictures to a caption, to a picture. ``pixel_precision_5``: the same by the pixels' own
    distance. ``chance_10`` and ``chance_category``: what guessing gives. ``n``: the number of
    emoji.

    Args:
        model: of this room.
        split: "test", "rare" or "train".
        lam: the level of noise at which pictures of the split are shown, 5 for none; an encoder of
            clean pictures is told 5 whatever it sees.
        keep: parts of the captions, drawn by ``captions.caption`` from the seed; None for all
            their words. {"name": 1.0} is the name alone.
        seed: of the noise, and of drawn captions.
    """
    if not isinstance(model, JointEmbedding):
        raise ValueError(f"model is a JointEmbedding; got {type(model).__name__}")
    one, train = data.load("emoji", split), data.load("emoji", "train")
    gen, where = generator(seed, 97), model.tau.device
    said = [
        full_caption(r) if keep is None else caption(r, gen, keep) for r in emoji.records(split)
    ]
    levels = torch.full((len(one),), float(lam), dtype=torch.float32, device="cpu")
    x_t = noised_at(one.x, levels, randn(one.x.shape, gen)).to(where)
    told = CLEAN if model.lam_range[0] >= CLEAN else float(lam)
    pictures = model.pictures(x_t, told).cpu()
    texts, keys = model.texts(said).cpu(), model.pictures(train.x.to(where)).cpu()
    # |a - b|^2 is least where a . b - |b|^2 / 2 is most: a product of longer vectors
    flat, pool = one.x.flatten(1), train.x.flatten(1)
    own = torch.cat([flat, torch.ones(len(flat), 1, dtype=flat.dtype, device="cpu")], 1)
    theirs = torch.cat([pool, -pool.square().sum(1, keepdim=True) / 2], 1)
    shares = torch.bincount(train.labels, minlength=9).double() / len(train)
    same = split == "train"
    return {
        "n": len(one),
        "text_recall_1": recall(texts, pictures, 1),
        "text_recall_10": recall(texts, pictures, 10),
        "chance_10": 10 / len(one),
        "text_precision_5": precision(texts, keys, one.labels, train.labels, others=same),
        "image_precision_5": precision(pictures, keys, one.labels, train.labels, others=same),
        "pixel_precision_5": precision(own, theirs, one.labels, train.labels, others=same),
        "chance_category": shares[one.labels].mean().item(),
    }
