"""What a training is given: its data, its task by name, the weights that it begins from."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import checkpoints
from diffusion_lab.data import Dataset
from diffusion_lab.errors import CheckpointError
from diffusion_lab.files import sha256

__all__ = ["called", "content", "single_precision", "take_weights"]


def single_precision(data: Dataset) -> Dataset:
    """The data with every float in float32, as networks and noise are."""

    def single(value: Tensor) -> Tensor:
        return value.float() if value.is_floating_point() else value

    parts = (data.x, *data.condition.values(), *data.null.values())
    if all(single(part) is part for part in parts):
        return data
    condition, null = (
        {k: single(v) for k, v in many.items()} for many in (data.condition, data.null)
    )
    return replace(data, x=single(data.x), condition=condition, null=null)


def content(data: Dataset) -> str:
    """sha256 of what is trained on, whatever ``data.hash`` says of it."""
    parts = {"x": data.x} | {f"condition {k}": v for k, v in data.condition.items()}
    parts |= {f"null {k}": v for k, v in data.null.items()}
    digest = hashlib.sha256(str(len(data.classes)).encode())
    for name, value in parts.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def called(task: Callable[..., Any]) -> str:
    """What a state says of a task: its class, and what functools.partial gives to it."""
    if isinstance(task, functools.partial):
        words = [*map(_plain, task.args), *(f"{k}={_plain(v)}" for k, v in task.keywords.items())]
        return f"{called(task.func)}({', '.join(words)})"
    task = task if hasattr(task, "__qualname__") else type(task)
    return f"{task.__module__}:{task.__qualname__}"


def _plain(value: Any) -> str:
    """A value in words that are the same in every process."""
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


@torch.no_grad()
def take_weights(init: str | Path | nn.Module, models: nn.ModuleDict) -> str:
    """Fill models with the weights of a checkpoint or a model; returns what the header says of it.

    CheckpointError where they do not fit.
    """
    note = "a model given in Python"
    if not isinstance(init, nn.Module):
        path = checkpoints.find(init)
        init, note = checkpoints.load(init, device="cpu"), f"{init} (sha256 {sha256(path)[:12]})"
    theirs = init if isinstance(init, nn.ModuleDict) else nn.ModuleDict({"model": init})
    if len(theirs) == len(models) == 1:
        theirs = nn.ModuleDict(dict(zip(models, theirs.values(), strict=True)))
    if set(theirs) != set(models):
        raise CheckpointError(f"{note} holds models {list(theirs)}, the recipe has {list(models)}")
    for name, model in models.items():
        given, ours = checkpoints.weights(theirs[name]), checkpoints.weights(model)
        differ = [
            f"{key} is {_size(given, key)} there and {_size(ours, key)} here"
            for key in sorted(given.keys() | ours.keys())
            if _size(given, key) != _size(ours, key)
        ]
        kinds = [getattr(one, "kind", None) for one in (theirs[name], model)]
        if kinds[0] != kinds[1]:
            differ.append(f"it predicts {kinds[0]} there and {kinds[1]} here")
        if differ:
            raise CheckpointError(
                f"the weights of {note} do not fit the recipe's model ({'; '.join(differ[:3])}): "
                "take the recipe that made it and data of the same channels and classes, or "
                "change the recipe's net"
            )
        for key, value in ours.items():
            value.copy_(given[key])  # of a state: no gradient follows
    return note


def _size(tensors: dict[str, Tensor], key: str) -> str:
    return str(tuple(tensors[key].shape)) if key in tensors else "missing"
