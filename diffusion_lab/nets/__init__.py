"""Networks. ``make(name, **arguments)`` builds one by the name that checkpoints record."""

from __future__ import annotations

from typing import Any

from torch import nn

from diffusion_lab.errors import check_arguments, unknown
from diffusion_lab.nets.calls import by_timestep, times_of, times_of_sigmas, timesteps
from diffusion_lab.nets.classifier import Classifier
from diffusion_lab.nets.mlp import MLP
from diffusion_lab.nets.unet import UNet

__all__ = [
    "MLP",
    "NETS",
    "Classifier",
    "UNet",
    "by_timestep",
    "make",
    "times_of",
    "times_of_sigmas",
    "timesteps",
]

NETS: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet, "classifier": Classifier}


def make(name: str, **arguments: Any) -> nn.Module:
    """The network ``name`` with its arguments; unknown names suggest the near match."""
    if name not in NETS:
        raise unknown("network", name, NETS)
    check_arguments(f"the network {name!r}", NETS[name], arguments)
    return NETS[name](**arguments)
