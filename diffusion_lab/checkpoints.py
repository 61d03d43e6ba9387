"""Checkpoints: weights as safetensors, with everything needed to use them in the header.

No pickle is ever read. A file is written whole or not at all, and says what it is: network,
schedule, kind of prediction, range of lambda seen in training, data set and its hash, recipe, cost
and measured quality. It carries the sha256 of its own contents, so that a damaged one is refused;
shipped files are also checked against ``data/index.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import nets
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import device as best_device
from diffusion_lab.device import unwrapped
from diffusion_lab.errors import CheckpointError, unknown
from diffusion_lab.files import write_atomically

__all__ = [
    "described",
    "find",
    "info",
    "load",
    "load_denoiser",
    "load_tensors",
    "save",
    "save_tensors",
    "shipped",
    "weights",
]

FORMAT = "diffusion-lab-1"
DENOISER = "diffusion_lab.denoisers:NetDenoiser"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
UNUSABLE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
"""What building a model from a header that somebody made up can raise."""


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
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}: train it first, or load a shipped one by its name "
            f"({', '.join(shipped())})"
        )
    try:
        data = path.read_bytes()  # once: header and weights are of one file, and stay as they are
        tensors = from_bytes(data)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
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
    except (SafetensorError, OSError, *UNUSABLE) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged and cannot be read ({error}): restore it, or train it again"
        ) from error


# ---- models -------------------------------------------------------------------------------------
def save(
    path: str | Path, model: Any, about: dict[str, Any] | None = None, *, half: bool = False
) -> None:
    """Save a model, or several as an ``nn.ModuleDict`` or dict, with ``about`` in the header.

    A model says by its ``spec()`` how it is built again; for a network that cannot, ``about`` holds
    net = {name, **arguments}. Compiled and parallel networks are saved as the plain ones. With
    ``half`` float32 weights are stored with 11 bits (fp16), for half the size: what ``load`` gives
    is float32 again, rounded. ValueError where ``load`` would refuse the file, and for weights that
    fp16 cannot hold.
    """
    about = {k: v for k, v in (about or {}).items() if k not in ("models", "denoiser", "stored")}
    specs, tensors = described(model, about.pop("net", None))
    if half:
        tensors, about["stored"] = _halved(tensors), "fp16"
    save_tensors(path, tensors, about | {"models": specs})


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """float32 as fp16, whatever else there is as it is."""
    found = {k: v.half() if v.dtype == torch.float32 else v for k, v in tensors.items()}
    lost = [k for k, v in found.items() if not torch.equal(v.isfinite(), tensors[k].isfinite())]
    if lost:
        raise ValueError(f"fp16 ends at 65,504, and {lost[0]} does not: save it without half")
    return found


def described(
    model: Any, net: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The specs and the tensors that ``save`` writes; ValueError where they could not be loaded."""
    models = dict(model.items()) if isinstance(model, nn.ModuleDict | dict) else {"model": model}
    if net is None:
        return _described(models)
    before = []
    for one in map(unwrapped, models.values()):
        inner = unwrapped(one.net) if isinstance(one, NetDenoiser) else one
        before.append((inner, {k: v for k, v in vars(inner).items() if k == "spec"}))
        inner.spec = partial(dict, net)
    try:
        return _described(models)
    except BaseException:  # a network that is not saved stays as it was
        for inner, spec in reversed(before):
            vars(inner).pop("spec", None)
            vars(inner).update(spec)
        raise


def _described(models: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    specs, tensors = {}, {}
    for name, one in models.items():
        one = unwrapped(one)
        if not callable(getattr(one, "spec", None)):
            raise ValueError(
                f"{type(one).__name__} cannot say how it is made: build it by nets.make(name, "
                "...), or give it a spec() -> {'name': 'diffusion_lab.module:Class', **arguments}"
            )
        specs[name] = json.loads(json.dumps(one.spec()))
        tensors |= {_key(name, models, k): v for k, v in weights(one).items()}
        try:
            wrong = _misfit(specs[name], weights(one))
        except UNUSABLE as error:
            wrong = str(error)
        if wrong:
            raise ValueError(
                f"this {type(one).__name__} could not be loaded again, so it is not saved: "
                f"{_short(specs[name])} is not its description ({wrong})"
            )
    return specs, tensors


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What is saved of a model: its tensors; of a denoiser, those of its network."""
    model = unwrapped(model)
    net = unwrapped(model.net) if isinstance(model, NetDenoiser) else model
    return {k.replace("_orig_mod.", ""): v for k, v in net.state_dict().items()}


def _key(name: str, models: Iterable[str], key: str) -> str:
    """A tensor's name in the file: the model's before it, where there are several."""
    return key if len(list(models)) == 1 else f"{name}.{key}"


def _short(spec: Any) -> str:
    text = str(spec)
    return text if len(text) < 300 else text[:300] + " ..."


def _specs(about: dict[str, Any]) -> dict[str, Any]:
    """The models of a header, name -> spec; those of before ``models`` had one, as net."""
    if "models" in about:
        return about["models"]
    if "denoiser" in about:
        kind = {"name": DENOISER}
        return {"model": kind | {"net": about["net"]} | about["denoiser"]}
    return {"model": about["net"]} if "net" in about else {}


def _check_sizes(spec: Any, most: int) -> None:
    """ValueError for a size that no model with ``most`` weights has: it would take long to fail."""
    for value in spec.values() if isinstance(spec, dict) else spec:
        if isinstance(value, dict | list):
            _check_sizes(value, most)
        layers = isinstance(value, list) and not any(isinstance(one, float) for one in value)
        size = len(value) if layers else value  # a list of floats is a table, in the file itself
        if isinstance(size, int) and abs(size) > most:
            raise ValueError(f"a size of {size} has no place in a file of {most} numbers")


def _misfit(spec: dict[str, Any], given: dict[str, Tensor]) -> str:
    """Why the tensors are not those of the model, looked at before any memory is taken; or ""."""
    _check_sizes(spec, max(10_000, sum(v.numel() for v in given.values())))
    with torch.device("meta"):
        expected = weights(nets.make(**spec))
    wrong = [k for k in expected if k not in given or given[k].shape != expected[k].shape]
    extra = [k for k in given if k not in expected]
    if wrong or extra:
        return f"missing or of another shape {wrong[:3]}, not in the network {extra[:3]}"
    kinds = [k for k in expected if given[k].dtype != expected[k].dtype]
    if kinds:
        ours, theirs = (str(v[kinds[0]].dtype).removeprefix("torch.") for v in (expected, given))
        return f"the weights are {theirs}, the network has {ours}: {kinds[:3]}"
    return ""


def _built(spec: dict[str, Any], given: dict[str, Tensor], name: str | Path) -> nn.Module:
    try:
        wrong = _misfit(spec, given)
        model = None if wrong else nets.make(**spec)
    except UNUSABLE as error:
        raise CheckpointError(
            f"{name} needs the model {_short(spec)}, which this version cannot build: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    if model is None:
        raise CheckpointError(
            f"the weights in {name} do not fit the network {_short(spec)}: {wrong}"
        )
    (model.net if isinstance(model, NetDenoiser) else model).load_state_dict(given)
    return model


def load(name: str | Path, *, device: str | torch.device | None = None) -> Any:
    """A shipped model by name (``load("fashion")``), or any checkpoint by path, ready to use.

    Returns what was saved (a NetDenoiser, a Classifier, ...; several models as an nn.ModuleDict)
    in eval mode without gradients, on ``device`` (by default the best there is), with ``.about``
    holding the header.
    Raises CheckpointError for a missing, damaged or mismatched file, ValueError for a name that is
    not shipped (the near match is suggested).
    """
    tensors, about = load_tensors(find(name))
    try:
        specs = dict(_specs(about))
    except UNUSABLE as error:
        raise CheckpointError(
            f"{name} has a header that this version cannot build a model from: {error}"
        ) from error
    if not specs:
        what = "the saved state of a training" if "step" in about else "no model"
        raise CheckpointError(
            f"{name} is {what}: load a finished model (NAME.safetensors), or finish the training "
            "with --resume (resume=True in Python)"
        )
    if about.get("stored") == "fp16":
        tensors = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
    models = nn.ModuleDict()
    for key, spec in specs.items():
        head = _key(key, specs, "")
        part = {k[len(head) :]: tensors.pop(k) for k in list(tensors) if k.startswith(head)}
        models[key] = _built(spec, part, name)
    if tensors:
        raise CheckpointError(f"{name} holds weights of no model of it: {list(tensors)[:3]}")
    model: nn.Module = models if len(models) > 1 else models[key]
    model = model.eval().requires_grad_(False)
    try:
        model.to(device or best_device())
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise ValueError(
            f"{name} cannot be put on the device {str(device or best_device())!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # they run faster so
    model.about = about
    return model


def load_denoiser(name: str | Path, *, device: str | torch.device | None = None) -> NetDenoiser:
    """As ``load``, for a model that draws pictures; CheckpointError for any other, with names."""
    model = load(name, device=device)
    if not isinstance(model, NetDenoiser):
        draw = [n for n in shipped() if _draws(info(n))]
        raise CheckpointError(
            f"{name} is a {type(model).__name__.lower()}, not a denoiser: it cannot draw pictures. "
            f"Shipped models that can: {', '.join(draw)}"
        )
    return model


def _draws(about: dict[str, Any]) -> bool:
    """Whether a header is that of a denoiser alone."""
    return [s.get("name") for s in _specs(about).values()] == [DENOISER]


def find(name: str | Path) -> Path:
    """The file of a shipped name, or the path itself if it looks like one."""
    text = str(name)
    if Path(text).suffix in PICKLES:
        raise CheckpointError(
            f"{name} is no safetensors file: pickles are never read here, for they can run code. "
            "Load its weights with the tool that wrote it, and checkpoints.save the model"
        )
    if isinstance(name, Path) or "/" in text or os.sep in text or text.endswith(".safetensors"):
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
