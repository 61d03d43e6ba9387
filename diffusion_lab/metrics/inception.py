"""FID, with the one network that the name stands for; its weights are the user's to bring.

    FID = FD of the 2048 pooled features of InceptionV3        (Heusel et al. 2017, 1706.08500)

Papers mean the TensorFlow network of 2015-12-05, ported to PyTorch as the file named in ``FILE``
(95,628,359 bytes, sha256 in ``SHA256``). Nothing is fetched here: get the file from the release
"fid_weights" of the project pytorch-fid (mseitzer/pytorch-fid on GitHub), or from torch-fidelity,
which ships the same bytes, and give its path, or set the variable ``DIFFUSION_LAB_INCEPTION``.

The network, its resizing and its scaling are those of torch-fidelity (the extra ``fid``),
which follows the TensorFlow graph to the last operation. Pictures in [-1, 1] are rounded to 256
levels and grey is repeated to three channels here. Other ports resize otherwise, which moves FID by
whole points: both sides of a comparison must be measured by one. At least 10,000 pictures a side;
quote how many, and of which split.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
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
    """Pictures (N, 1 or 3, H, W) in [-1, 1] as the network takes them: uint8 (N, 3, H, W)."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"pictures must be (N, 1 or 3, H, W); got {tuple(x.shape)}")
    check_float(x, "pictures")
    check_finite(x, "pictures")
    check_range(x, "pictures")
    levels = ((x.float().clamp(-1, 1) + 1) * 127.5).round()
    return levels.to(torch.uint8).expand(-1, 3, -1, -1)


def inception(weights: str | Path | None = None, *, device: str | None = None) -> nn.Module:
    """torch-fidelity's network, uint8 (N, 3, H, W) -> ((N, 2048),), with the user's weights.

    ``weights`` is a path; where it is None, that in ``DIFFUSION_LAB_INCEPTION``. DataError if there
    is none, or if the file's sha256 is another than ``SHA256`` (it is then not opened), or without
    torch-fidelity.
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
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        what = "FID needs the network of torch-fidelity: pip install torch-fidelity"
        raise DataError(what) from error
    net = FeatureExtractorInceptionV3("fid", ["2048"], str(path))
    return net.eval().requires_grad_(False).to(device or "cpu")


@torch.no_grad()
def inception_features(x: Tensor, net: nn.Module, batch: int = 50) -> Tensor:
    """Features (N, 2048), float64, of pictures (N, 1 or 3, H, W) in [-1, 1]."""
    where = next(net.parameters(), torch.zeros((), device="cpu")).device
    return torch.cat([net(prepare(part.to(where)))[0].double().cpu() for part in x.split(batch)])


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
