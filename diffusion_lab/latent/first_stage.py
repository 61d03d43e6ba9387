"""The network that was trained before, and whether it is the right one.

A model of latents or codes remembers the autoencoder they are of: the header's ``stands_on`` holds
its name and the sha256 of its weights, and ``belonging`` refuses any other. The sum is of the
weights and not of the file, whose header may still change (measured quality).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.errors import CheckpointError

__all__ = ["belonging", "fingerprint", "first_stage", "standing_on"]


def first_stage(given: str | Path | nn.Module, *methods: str) -> nn.Module:
    """A shipped model or the one at a path, frozen, or a module as it is.

    CheckpointError where there is none yet, and for one that lacks one of the ``methods``.
    """
    model = given
    if not isinstance(given, nn.Module):
        try:
            model = checkpoints.load(given)
        except ValueError as error:
            raise CheckpointError(
                f"the model {given!r} must be there first: train it, and give its file, to train "
                f'by --set \'options={{"autoencoder": "runs/{given}.safetensors"}}\' ({error})'
            ) from error
    lacking = [one for one in methods if not hasattr(model, one)]
    if lacking:
        raise CheckpointError(
            f"{type(model).__name__} is no autoencoder with {' and '.join(methods)}: it has no "
            f"{lacking[0]}"
        )
    return model


def fingerprint(model: nn.Module) -> str:
    """sha256 of the weights by name, whatever the header of their file says."""
    digest = hashlib.sha256()
    for name, value in sorted(checkpoints.weights(model).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def standing_on(name: str | Path, autoencoder: nn.Module, **more: Any) -> dict[str, Any]:
    """What a training on the latents or codes of an autoencoder says of it in its header."""
    return {"autoencoder": str(name), "weights": fingerprint(autoencoder), **more}


def belonging(
    model: nn.Module, autoencoder: str | Path | nn.Module, *needs: str
) -> tuple[nn.Module, dict[str, Any]]:
    """The autoencoder of a loaded ``model``, and what its header says of it, ``needs`` among it.

    CheckpointError for an autoencoder that the model was not trained on, and for a model whose
    header names none, or says nothing of what is needed.
    """
    made = getattr(model, "about", {}).get("stands_on") or {}
    if not {"autoencoder", "weights", *needs} <= made.keys():
        raise CheckpointError(
            "this model says nothing of an autoencoder: what it draws is decoded for a model of "
            "checkpoints.load that was trained on latents or codes"
        )
    given, autoencoder = autoencoder, first_stage(autoencoder)
    found = fingerprint(autoencoder)
    if found != made["weights"]:
        called = type(given).__name__ if isinstance(given, nn.Module) else given
        raise CheckpointError(
            f"the model was trained on the autoencoder {made['autoencoder']} (weights "
            f"{made['weights'][:12]}...), and {called} is another ({found[:12]}...): its decoder "
            "would make noise of them"
        )
    return autoencoder, made
