"""Networks. ``make(name, **arguments)`` builds one by the name that checkpoints record."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from diffusion_lab.errors import check_arguments, named, unknown
from diffusion_lab.nets.calls import by_timestep, times_of, times_of_sigmas, timesteps
from diffusion_lab.nets.classifier import Classifier
from diffusion_lab.nets.mlp import MLP
from diffusion_lab.nets.text import TextUNet
from diffusion_lab.nets.unet import UNet

__all__ = [
    "MLP",
    "NETS",
    "Classifier",
    "TextUNet",
    "UNet",
    "by_timestep",
    "find",
    "make",
    "times_of",
    "times_of_sigmas",
    "timesteps",
]

NETS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "unet": UNet,
    "text_unet": TextUNet,
    "classifier": Classifier,
}


def find(name: str) -> type[nn.Module]:
    """The class of a name in ``NETS``, or of a "diffusion_lab.module:Class"; ValueError else."""
    found = named("network", name) if ":" in str(name) else NETS.get(name)
    if found is None:
        raise unknown("network", name, NETS)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{name!r} is no network (nn.Module)")
    return found


def make(name: str, **arguments: Any) -> nn.Module:
    """The network ``name`` with its arguments: float32, on the CPU, whatever torch's defaults are.

    Its ``spec()`` is {"name": name, **arguments}, which ``make`` builds it from again. A class with
    a ``from_spec`` of its own is built by that. Unknown names suggest the near match. Inside
    ``with torch.device("meta")`` shapes alone are made.
    """
    kind, dtype = find(name), torch.get_default_dtype()
    where = "meta" if torch.get_default_device().type == "meta" else "cpu"
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device(where):
            if hasattr(kind, "from_spec"):
                return kind.from_spec(arguments)
            check_arguments(f"the network {name!r}", kind, arguments)
            net = kind(**arguments)
    finally:
        torch.set_default_dtype(dtype)
    if not hasattr(net, "spec"):
        net.spec = partial(dict, arguments, name=name)
    return net
