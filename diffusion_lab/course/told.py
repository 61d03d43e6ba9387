"""Pictures from texts, whatever the model is, and how well they obey.

``draw`` hides what differs: a denoiser of pixels draws pictures; one of latents, latents that its
autoencoder decodes; one of codes, or an autoregressive model, codes. Texts are encoded by the one
tokeniser of the emoji.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from diffusion_lab import checkpoints, data, metrics
from diffusion_lab.data import emoji
from diffusion_lab.data.captions import full_caption, tokeniser
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.discrete import categorical, codes
from diffusion_lab.discrete.autoregressive import Autoregressive, in_order
from diffusion_lab.discrete.categorical import CodeDenoiser
from diffusion_lab.discrete.vqdiffusion import Truncated, reveal
from diffusion_lab.generate import generate
from diffusion_lab.guidance import guided
from diffusion_lab.latent import ldm
from diffusion_lab.latent.covariates import agreement
from diffusion_lab.latent.first_stage import first_stage
from diffusion_lab.metrics.frechet import PARTS
from diffusion_lab.walk import Result
from diffusion_lab.words.finding import chosen

__all__ = ["draw", "obedience", "phantoms_quality", "stages"]

HELD_OUT = ("test", "rare")
AMONG = 20


def stages(model: Denoiser) -> list[nn.Module]:
    """All the networks that draw a picture: the model's own, and the decoder of its latents."""
    name = (getattr(model, "about", {}).get("stands_on") or {}).get("autoencoder")
    return [model] if name is None else [model, first_stage(name)]


def draw(
    model: Denoiser,
    texts: Sequence[str],
    *,
    seed: int = 0,
    batch: int = 200,
    autoencoder: nn.Module | None = None,
    **settings: Any,
) -> Result:
    """One picture for each text, (n, 3, 32, 32); ``nfe`` counts the calls of the denoiser.

    Args:
        model: loaded from a checkpoint that was told ``tokens``.
        seed: of all noise. Pictures are the same with the same n and batch alone.
        batch: texts at a time.
        autoencoder: that of the model's latents or codes; by default the one its header names.
        settings: those of ``generate``; for codes ``steps``, ``scale``, ``top`` (``Truncated``) and
            ``purity`` (``reveal``). Without any, those of the model's own recipe.

    ValueError for no text, CheckpointError for an autoencoder of other latents.
    """
    if isinstance(texts, str) or not len(texts):
        raise ValueError("texts are a list of at least one: draw(model, ['red heart'])")
    tokens, _ = tokeniser().encode_all(texts)
    settings = settings or dict(model.about["recipe"]["sampler"])
    if autoencoder is None:
        autoencoder = (*stages(model), None)[1]
    if isinstance(model, CodeDenoiser | Autoregressive):
        done = _codes(model, tokens, seed, batch, settings)
        x = codes.decode(model, done.x, autoencoder)
    else:
        told = {"condition": {"tokens": tokens}, "null": {"tokens": ldm.no_text(tokens.shape[1])}}
        done = generate(model, len(texts), seed=seed, batch=batch, **told, **settings)
        x = done.x if autoencoder is None else ldm.decode(model, done.x, autoencoder)
    return Result(x.cpu(), done.nfe, done.seconds, [])


def _codes(
    model: Denoiser, tokens: torch.Tensor, seed: int, batch: int, settings: dict[str, Any]
) -> Result:
    scale, top, purity = (settings.get(one) for one in ("scale", "top", "purity"))
    asked = (
        model if scale in (None, 1) else guided(model, scale, tokens=ldm.no_text(tokens.shape[1]))
    )
    asked = asked if top is None else Truncated(asked, top)
    done = []
    for i, some in enumerate(tokens.split(batch)):
        ordered = isinstance(model, Autoregressive)
        step = in_order(cache=asked is model) if ordered else None
        step = reveal(purity) if "purity" in settings else step
        steps = None if ordered else settings.get("steps")
        given = {"steps": steps, "step": step, "seed": seed + 7919 * i}
        done.append(categorical.generate(asked, len(some), tokens=some, **given))
    seconds = sum(one.seconds for one in done)
    return Result(torch.cat([one.x for one in done]), done[0].nfe, seconds, [])


def phantoms_quality(model: Denoiser, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """512 phantoms as the test part asks for them: are they those that the formula draws?

    ``mse`` is to the true phantom of each request; ``r_...`` correlates each parameter as asked for
    and as measured; ``r_mixed`` does so for the area and another's request. ``nfe`` and
    ``core_seconds_per_1000`` are what they cost, decoder included.
    """
    real = data.load("phantoms", "test")
    wanted = real.condition["covariates"]
    settings = settings or dict(model.about["recipe"]["sampler"])
    model, *decoders = stages(model)
    with metrics.Meter(model, *decoders, pictures=len(real)) as spent:
        done = generate(model, len(real), seed=seed, condition={"covariates": wanted}, **settings)
        x = ldm.decode(model, done.x, decoders[0]) if decoders else done.x
    x = x.cpu().clamp(-1, 1)
    found = {f"r_{name}": r for name, r in agreement(wanted, x).items()}
    return found | {
        "pictures": len(real),
        "mse": (x - real.x).square().mean().item(),
        "r_mixed": agreement(wanted.roll(1, 0), x)["ventricle"],
        "nfe": done.nfe,
        "core_seconds_per_1000": spent.cost.cpu_seconds_per_1000,
    }


def obedience(model: Denoiser, **settings: Any) -> dict[str, Any]:
    """How near pictures of all captions come to the emoji, and whether they show what was asked.

    One picture for each emoji of train, test and rare, from all its words. ``fd``: their distance
    to those emoji (N = 1,596), ``fd_in_A`` in units of the anchor. For captions of ``train`` and
    of those ``held_out`` (test and rare): ``judged``, the share of pictures in which emoji-judge
    sees the category that was asked for, and ``chosen``, the share whose own caption the embedding
    emoji-embedding-b finds nearest among 20; with errors (binomial), and ``real`` what they say of
    the emoji themselves. By chance ``chosen`` is 0.05, and ``judged`` at most the largest category.
    ``copied``: the share of pictures that lie nearer to a training emoji than all but 5% of the
    emoji held out do, all of them as the model's autoencoder gives them back.
    """
    splits = PARTS["emoji"]
    told = {one: emoji.records(one) for one in splits}
    real = {one: data.load("emoji", one) for one in splits}
    texts = [full_caption(record) for one in splits for record in told[one]]
    networks = stages(model)
    autoencoder = (*networks, None)[1]
    with metrics.Meter(*networks, pictures=len(texts)) as spent:
        done = draw(model, texts, autoencoder=autoencoder, **settings)
    x = dict(zip(splits, done.x.clamp(-1, 1).split([len(told[one]) for one in splits])))
    judge = checkpoints.load("emoji-judge", device="cpu")
    embedding = checkpoints.load("emoji-embedding-b", device="cpu")
    distance = metrics.fd(torch.cat(list(x.values())), "emoji")
    back = {one: part.x for one, part in real.items()}
    if autoencoder is not None:
        with torch.no_grad():
            for one, pictures in back.items():
                parts = [autoencoder(some).cpu().clamp(-1, 1) for some in pictures.split(200)]
                back[one] = torch.cat(parts)
    new = torch.cat([back[one] for one in HELD_OUT])
    found: dict[str, Any] = {
        "pictures": len(texts),
        "nfe": done.nfe,
        "core_seconds_per_1000": spent.cost.cpu_seconds_per_1000,
        "mflop": spent.cost.flops / 1e6,
        "fd": distance,
        "fd_in_A": distance / metrics.anchor("emoji").value,
    }
    for which, parts in (("train", ("train",)), ("held_out", HELD_OUT)):
        said = [full_caption(record) for one in parts for record in told[one]]
        labels = torch.cat([real[one].labels for one in parts])
        row: dict[str, Any] = {"n": len(said)}
        for key, shown in (("", x), ("real_", {one: real[one].x for one in splits})):
            pictures = torch.cat([shown[one] for one in parts])
            with torch.no_grad():
                right = torch.cat([judge(some).argmax(1) for some in pictures.split(500)]) == labels
            row[f"{key}judged"] = right.double().mean().item()
            row[f"{key}chosen"] = chosen(embedding, said, pictures, AMONG)
        made = torch.cat([x[one] for one in parts])
        row["copied"] = metrics.copied(made, back["train"], new)
        for key in ("judged", "chosen"):
            row[f"{key}_error"] = math.sqrt(row[key] * (1 - row[key]) / len(said))
        found[which] = row
    return found
