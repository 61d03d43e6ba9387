"""FID, with the one network that the name stands for; its weights are the user's to bring.

    FID = FD of the 2048 pooled features of InceptionV3        (Heusel et al. 2017, 1706.08500)

Papers mean the TensorFlow network of 2015-12-05, ported to PyTorch as the file named in ``FILE``
(95,628,359 bytes, sha256 in ``SHA256``). Nothing is fetched here: get the file from the release
"fid_weights" of the project pytorch-fid (mseitzer/pytorch-fid on GitHub), or from torch-fidelity,
which ships the same bytes, and give its path, or set the variable ``DIFFUSION_LAB_INCEPTION``.

The convention, which moves FID by whole points and must be the same on both sides: pictures in
[-1, 1] are rounded to 256 levels, grey repeated to three channels, resized to 299 x 299 by bilinear
interpolation without antialiasing (align_corners=False), and enter the network in [-1, 1], as in
pytorch-fid. At least 10,000 pictures a side; quote how many, and of which split.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lab.device import check_finite, check_float, check_range
from diffusion_lab.errors import DataError
from diffusion_lab.files import sha256
from diffusion_lab.metrics.frechet import Reference, frechet

__all__ = ["FILE", "SHA256", "fid", "inception", "inception_features", "prepare"]

FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
VARIABLE = "DIFFUSION_LAB_INCEPTION"
FEWEST = 10_000
WHERE = (
    f"FID needs InceptionV3's weights, which do not come with the course: {FILE} from the release "
    "'fid_weights' of pytorch-fid (mseitzer/pytorch-fid on GitHub). Give its path, or set "
    f"{VARIABLE}. Without it, metrics.fd measures in the course's own features."
)


def prepare(x: Tensor) -> Tensor:
    """Pictures (N, 1 or 3, H, W) in [-1, 1] as the network takes them: (N, 3, 299, 299)."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"pictures must be (N, 1 or 3, H, W); got {tuple(x.shape)}")
    check_float(x, "pictures")
    check_finite(x, "pictures")
    check_range(x, "pictures")
    levels = ((x.float().clamp(-1, 1) + 1) * 127.5).round()
    x = (levels / 127.5 - 1).expand(-1, 3, -1, -1)
    return F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)


def inception(weights: str | Path | None = None, *, device: str | None = None) -> nn.Module:
    """The network (N, 3, 299, 299) -> (N, 2048), from the user's file of weights.

    ``weights`` is a path; where it is None, that in ``DIFFUSION_LAB_INCEPTION``. DataError if there
    is none, or if the file's sha256 is another than ``SHA256`` (it is then not opened).
    """
    given = weights or os.environ.get(VARIABLE)
    if not given:
        raise DataError(f"no path was given. {WHERE}")
    path = Path(given).expanduser()
    if not path.is_file():
        raise DataError(f"{path} is not there. {WHERE}")
    found = sha256(path)
    if found != SHA256:
        raise DataError(
            f"{path} is not the file that FID is defined by: sha256 {found[:12]}..., expected "
            f"{SHA256[:12]}... Values of other weights, such as torchvision's own, are no FID. "
            f"{WHERE}"
        )
    net = build()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False).to(device or "cpu")


def build() -> nn.Module:
    """InceptionV3 as FID's weights expect it, untrained: (N, 3, 299, 299) -> (N, 2048).

    It differs from torchvision's in the pooling branches: means leave out the padding, and the last
    block takes a maximum. ``fc`` (1008 classes) is there for its weights and not used.
    """
    from torchvision.models import Inception3

    net = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for name, block in net.named_children():
        if hasattr(block, "branch_pool"):
            pool = _maximum if name == "Mixed_7c" else _mean
            _repool(block, pool)
    net.dropout = nn.Identity()
    net.forward = lambda x: _pooled(net, x)
    return net


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _repool(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
    """Let a block's pooling branch see ``pool`` of the block's input."""
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    block.branch_pool.register_forward_pre_hook(lambda module, given: (pool(seen.pop()),))


def _pooled(net: nn.Module, x: Tensor) -> Tensor:
    """The features before ``fc``: the layers in the order in which they were entered."""
    for name, layer in net.named_children():
        if name not in ("fc", "dropout", "AuxLogits"):
            x = layer(x)
    return x.flatten(1)


@torch.no_grad()
def inception_features(x: Tensor, net: nn.Module, batch: int = 50) -> Tensor:
    """Features (N, 2048), float64, of pictures (N, 1 or 3, H, W) in [-1, 1]."""
    where = next(net.parameters(), torch.zeros((), device="cpu")).device
    return torch.cat([net(prepare(part.to(where))).double().cpu() for part in x.split(batch)])


def fid(
    x: Tensor,
    real: Tensor | Reference,
    weights: str | Path | None = None,
    *,
    device: str | None = None,
) -> float:
    """FID of pictures (N, C, H, W) in [-1, 1] against real ones (or their ``Reference``).

    ``Reference.of(inception_features(real, inception(path)))`` saves the work for the next time.
    ValueError for fewer than 10,000 pictures on a side: 2048 dimensions need them.
    """
    for name, n in (("generated", len(x)), ("real", getattr(real, "n", None) or len(real))):
        if n < FEWEST:
            raise ValueError(
                f"FID needs at least {FEWEST:,} pictures a side, and there are {n:,} {name} ones: "
                "with fewer the value says more about their number than about them. metrics.fd and "
                "metrics.kid do with less."
            )
    net = inception(weights, device=device)
    if isinstance(real, Tensor):
        real = Reference.of(inception_features(real, net))
    return frechet(Reference.of(inception_features(x, net)), real)
