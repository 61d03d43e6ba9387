"""Specs: the plain values in a file's header of which a network or a denoiser is made again."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from diffusion_lab import nets, schedules
from diffusion_lab.device import unwrapped
from diffusion_lab.errors import number, whole

__all__ = ["denoiser_arguments", "spec_of"]


def spec_of(net: nn.Module) -> dict[str, Any]:
    """{name, **arguments} of a network; ValueError where it cannot say how it is made."""
    net = unwrapped(net)
    if not callable(getattr(net, "spec", None)):
        raise ValueError(
            f"{type(net).__name__} cannot say how it is made: build it by nets.make(name, "
            "...), or give it a spec() -> {'name': 'diffusion_lab.module:Class', **arguments}"
        )
    return net.spec()


def denoiser_arguments(spec: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a NetDenoiser from its spec; KeyError, TypeError, ValueError for no such."""
    given = {k: v for k, v in spec.items() if k != "name"}
    net, schedule, _ = given.pop("net"), given.pop("schedule"), given["kind"]
    shape, lam_range, classes = given.pop("shape"), given.pop("lam_range"), None
    if given.get("num_classes") is not None:
        classes = given["num_classes"] = whole("num_classes", given["num_classes"])
    if ":" not in net["name"] and net.get("num_classes") != classes:
        raise ValueError(f"{classes} classes, and a network of {net.get('num_classes')}")
    if "sd" in given:
        given["sd"] = number("sd", given["sd"])
    with torch.device("cpu"):  # numbers, also where a network is made without any (meta)
        given["schedule"] = schedules.make(**schedule)
    given["net"] = nets.make(**net)
    given["shape"] = None if shape is None else tuple(whole("a size", size) for size in shape)
    given["lam_range"] = (
        None if lam_range is None else tuple(number("a lambda", v, -math.inf) for v in lam_range)
    )
    return given
