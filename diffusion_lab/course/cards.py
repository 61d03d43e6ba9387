"""Model cards: what the header of each shipped checkpoint says, as a page for people.

    python -m diffusion_lab.course.cards      writes data/checkpoints/NAME.md for every model

The sentences stand in ``model_card.md``, a Jinja template that huggingface_hub fills, so that a
card and its weights can go to the Hub as they are. ``course.ship`` writes the card of what it
ships; a test compares every card with its header.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.data import emoji, store
from diffusion_lab.data import load as data_of
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.discrete.autoregressive import Autoregressive
from diffusion_lab.discrete.categorical import CodeDenoiser
from diffusion_lab.files import write_atomically
from diffusion_lab.words import JointEmbedding
from diffusion_lab.words.contrastive import in_fold

__all__ = ["card", "write"]

TEMPLATE = Path(__file__).with_name("model_card.md")


def card(name: str) -> str:
    """The card of a shipped model, as Markdown below the metadata that the Hub reads."""
    from huggingface_hub import ModelCard, ModelCardData

    model = checkpoints.load(name, device="cpu")
    draws = isinstance(model, NetDenoiser)
    embeds = isinstance(model, JointEmbedding)
    rebuilds = hasattr(model, "decode")
    other = "feature-extraction" if embeds else "image-classification"
    other = "image-to-image" if rebuilds else other
    codes = isinstance(model, CodeDenoiser | Autoregressive)
    task = "unconditional-image-generation" if draws or codes else other
    task = "text-to-image" if model.about["recipe"].get("options", {}).get("captions") else task
    data = ModelCardData(license="mit", library_name="diffusion_lab", pipeline_tag=task)
    file = f"checkpoints/{name}.safetensors"
    said = {"name": name, "model": model, "about": model.about, "file": store.index()[file]}
    kind = {"draws": draws, "embeds": embeds, "hidden": _hidden(model.about) if embeds else 0}
    size = data_of(model.about["data"]["name"], "test").x.shape[-1]
    kind |= {"rebuilds": rebuilds, "spread": _spread(model, size) if rebuilds else ""}
    kind |= {"size": size}
    kind |= {"pair": isinstance(model, nn.ModuleDict)}
    kind |= {"codes": codes, "ordered": isinstance(model, Autoregressive)}
    return f"{ModelCard.from_template(data, str(TEMPLATE), **said, **kind)}\n"


def _hidden(about: dict[str, Any]) -> int:
    """How many of its training emoji a joint embedding has never seen."""
    return int(in_fold(emoji.records("train"), about["recipe"]["options"]["fold"]).sum())


def _spread(model: nn.Module, side: int) -> str:
    """What an autoencoder makes of a picture of ``side`` pixels, in words."""
    f, z = model.factor, model.latent
    size = f"{z} x {side // f} x {side // f}"
    if not hasattr(model, "quantisers"):
        fewer = model.channels * f * f / z
        return f"a Gaussian over z, {size} ({fewer:g} times fewer numbers)"
    if len(model.quantisers) == 1:
        codes = len(model.quantisers[0].codes)
        return f"a map of {side // f} x {side // f} codes, each one of {codes}"
    return f"codes on {len(model.quantisers)} levels, the finest {size}"


def write(name: str) -> Path:
    """Write the card of a shipped model beside its weights; returns the path."""
    path = store.folder() / "checkpoints" / f"{name}.md"
    write_atomically(path, card(name).encode())
    return path


if __name__ == "__main__":
    for one in checkpoints.shipped():
        print(write(one))
