"""The network that was trained before: an encoder, by the name that a recipe gives."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.errors import CheckpointError

__all__ = ["first_stage"]


def first_stage(name: str | Path) -> nn.Module:
    """A shipped model or the one at a path, frozen; CheckpointError where there is none yet."""
    try:
        return checkpoints.load(name)
    except ValueError as error:
        raise CheckpointError(
            f"the model {name!r} must be there first: train it, and give its file, to train by "
            f'--set \'options={{"autoencoder": "runs/{name}.safetensors"}}\' ({error})'
        ) from error
