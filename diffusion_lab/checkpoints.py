"""Checkpoints: weights as safetensors, with everything needed to use them in the header.

No pickle is ever read. A file is written whole or not at all, and says what it is: network,
schedule, kind of prediction, range of lambda seen in training, data set and its hash, recipe, cost
and measured quality. It carries the sha256 of its own contents, so that a damaged one is refused;
shipped files are also checked against ``data/index.json``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import nets, schedules
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import device as best_device
from diffusion_lab.errors import CheckpointError, unknown
from diffusion_lab.files import write_atomically

__all__ = [
    "find",
    "info",
    "load",
    "load_denoiser",
    "load_tensors",
    "save",
    "save_tensors",
    "shipped",
]

FORMAT = "diffusion-lab-1"


# ---- tensors and a header -----------------------------------------------------------------------
def save_tensors(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON header to one safetensors file, whole or not at all."""
    from safetensors.torch import save as to_bytes

    wrong = [k for k, v in tensors.items() if not isinstance(v, Tensor)]
    if wrong:
        raise ValueError(
            f"only tensors are saved: {wrong[0]!r} is a {type(tensors[wrong[0]]).__name__}"
        )
    flat = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}
    try:
        text = json.dumps(about, sort_keys=True)
    except TypeError as error:
        raise ValueError(f"the header must be what JSON can hold: {error}") from error
    header = {"format": FORMAT, "about": text, "sha256": _digest(flat, text)}
    write_atomically(Path(path), to_bytes(flat, metadata=header))


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """sha256 of the header and of every tensor with its name, dtype and shape."""
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of ``save_tensors``; CheckpointError if it is not one."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}: train it first, or load a shipped one by its name "
            f"({', '.join(shipped())})"
        )
    try:
        with safe_open(str(path), framework="pt") as f:
            header = f.metadata() or {}
            # copies: what is read is a view of the file, and would change when the file does
            tensors = {key: f.get_tensor(key).clone() for key in f.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is a safetensors file but not one of this course "
                f"(format {header.get('format')!r}, expected {FORMAT!r})"
            )
        # a file without one is taken as it is; the index vouches for shipped ones
        if header.get("sha256") not in (None, _digest(tensors, header["about"])):
            raise ValueError("its contents are not those that were written")
        about = json.loads(header["about"])
        if not isinstance(about, dict):
            raise ValueError("its header is no dictionary")
        return tensors, about
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged and cannot be read ({error}): restore it, or train it again"
        ) from error


# ---- models -------------------------------------------------------------------------------------
def save(path: str | Path, model: nn.Module, about: dict[str, Any]) -> None:
    """Save a NetDenoiser or a plain network. ``about`` holds at least net = {name, **arguments}.

    For a denoiser the schedule, kind, sd, shape, classes, lambda range and learned variance are
    taken from it.
    """
    if isinstance(model, NetDenoiser):
        about = about | {
            "denoiser": {
                "schedule": model.schedule.spec(),
                "kind": model.kind,
                "sd": model.sd,
                "shape": model.shape,
                "num_classes": model.num_classes,
                "lam_range": model.lam_range,
                "learned_var": model.learned_var,
            }
        }
        model = model.net
    save_tensors(path, dict(model.state_dict()), about)


def load(name: str | Path, *, device: str | torch.device | None = None) -> Any:
    """A shipped model by name (``load("fashion")``), or any checkpoint by path, ready to use.

    Returns a NetDenoiser (or a Classifier) in eval mode without gradients, on ``device`` (by
    default the best there is), with ``.about`` holding the header.
    Raises CheckpointError for a missing, damaged or mismatched file, ValueError for a name that is
    not shipped (the near match is suggested).
    """
    tensors, about = load_tensors(find(name))
    if "net" not in about:
        what = "the saved state of a training" if "step" in about else "no model"
        raise CheckpointError(
            f"{name} is {what}: load a finished model (NAME.safetensors), or finish the training "
            "with --resume (resume=True in Python)"
        )
    try:
        spec = dict(about["net"])
        net = nets.make(spec.pop("name"), **spec)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{name} needs the network {about['net']}, which this version cannot build: {error}"
        ) from error
    expected, given = net.state_dict(), tensors
    wrong = [k for k in expected if k not in given or given[k].shape != expected[k].shape]
    extra = [k for k in given if k not in expected]
    if wrong or extra:
        raise CheckpointError(
            f"the weights in {name} do not fit the network {about['net']}: "
            f"missing or of another shape {wrong[:3]}, not in the network {extra[:3]}"
        )
    net.load_state_dict(given)
    model: nn.Module = net
    if "denoiser" in about:
        d = dict(about["denoiser"])
        try:
            for key in ("shape", "lam_range"):
                d[key] = None if d[key] is None else tuple(d[key])
            model = NetDenoiser(net, schedules.make(**d.pop("schedule")), d.pop("kind"), **d)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{name} needs the process {about['denoiser']}, which this version cannot build: "
                f"{error}"
            ) from error
    model = model.eval().requires_grad_(False)
    try:
        model.to(device or best_device())
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise ValueError(
            f"{name} cannot be put on the device {str(device or best_device())!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    model.to(memory_format=torch.channels_last)  # convolutions run faster so
    model.about = about
    return model


def load_denoiser(name: str | Path, *, device: str | torch.device | None = None) -> NetDenoiser:
    """As ``load``, for a model that draws pictures; CheckpointError for any other, with names."""
    model = load(name, device=device)
    if not isinstance(model, NetDenoiser):
        draw = [n for n in shipped() if not n.endswith("-features")]
        raise CheckpointError(
            f"{name} is a {type(model).__name__.lower()}, not a denoiser: it cannot draw pictures. "
            f"Shipped models that can: {', '.join(draw)}"
        )
    return model


def find(name: str | Path) -> Path:
    """The file of a shipped name, or the path itself if it looks like one."""
    if isinstance(name, Path) or "/" in str(name) or str(name).endswith(".safetensors"):
        return Path(name)
    from diffusion_lab.data import store

    if name not in shipped():
        raise unknown("model", name, shipped())
    return store.path(f"checkpoints/{name}.safetensors")


def info(name: str | Path) -> dict[str, Any]:
    """The header of a checkpoint: recipe, seed, steps, seconds, machine, metric, ..."""
    return load_tensors(find(name))[1]


def shipped() -> list[str]:
    """Names of the checkpoints that come with the course."""
    from diffusion_lab.data import store

    head, tail = "checkpoints/", ".safetensors"
    return sorted(
        k[len(head) : -len(tail)] for k in store.index() if k.startswith(head) and k.endswith(tail)
    )
