"""Data sets behind one call: ``load("fashion")`` works offline, ``full=True`` is the whole set.

========  ==================================  ================  ============================
name      embedded, train + test              full=True         pictures
========  ==================================  ================  ============================
fashion   10,000 + 2,000 of Fashion-MNIST     60,000 + 10,000   (N, 1, 28, 28), 256 levels
digits    1,500 + 297, from scikit-learn      (only one size)   (N, 1, 8, 8), 17 levels
emoji     1,207 + 215; 174 rare, 261 flags    (only one size)   (N, 3, 32, 32), 256 levels
phantoms  2,048 + 512, drawn by a formula     (only one size)   (N, 1, 32, 32), 256 levels
========  ==================================  ================  ============================

What each emoji is called stands in :mod:`diffusion_lab.data.emoji`, what phantoms are drawn from in
:mod:`diffusion_lab.data.phantoms`; the 2-D toys and exact mixtures are in
:mod:`diffusion_lab.data.toys`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data import idx, store
from diffusion_lab.device import check_finite, check_float
from diffusion_lab.errors import DataError, unknown
from diffusion_lab.files import sha256

__all__ = ["CLASSES", "Dataset", "default_root", "from_folder", "load", "to_uint8"]

CLASSES = {
    "fashion": (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    "digits": tuple("0123456789"),
    "emoji": (
        "smileys & emotion",
        "people & body",
        "animals & nature",
        "food & drink",
        "travel & places",
        "activities",
        "objects",
        "symbols",
    ),
}
SPLITS = {
    "fashion": ("train", "test"),
    "digits": ("train", "test"),
    "emoji": ("train", "test", "rare", "flags"),
    "phantoms": ("train", "test"),
}
FAR = 3.0  # pictures beyond it are no data in [-1, 1], nor samples or noisy data near it

# sha256 of the pixels of the whole of Fashion-MNIST, as uint8 (N, 28, 28)
FULL_SIZE = {"train": 60_000, "test": 10_000}
FULL_FASHION = {
    "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures, labels and other conditions of one split, in memory.

    x          float32 (N, C, H, W) in [-1, 1], or points (N, D)
    labels     int64 (N,), the position in ``classes``; None for data without
    hash       sha256 of the stored pixels, uint8 (N, H, W), in colour (N, H, W, 3): the identity of
               the data
    levels     how many values a stored pixel can take (256, or 17 for digits); None for data that
               are no pixels, such as latents
    std        standard deviation of ``x`` over all pixels (sigma_data of EDM)
    condition  what a network may be told of each datum, by name, each (N, ...): ``label``, which is
               always ``labels``, and what else is given (tokens, a smaller picture)
    null       what stands for 'no condition', by name, as one datum: the number of classes for
               ``label``, zeros for the others unless given
    source     the words that give these data to ``diffusion-lab train``, where they are no set of
               ``load``

    ValueError for numbers out of place, which would train another model than was meant.
    """

    x: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    name: str
    split: str
    hash: str
    levels: int | None
    std: float
    condition: dict[str, Tensor] = field(default_factory=dict, repr=False)
    null: dict[str, Tensor] = field(default_factory=dict, repr=False)
    source: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_float(self.x, "x")
        n = len(self.x) if self.x.ndim else 0
        if self.x.ndim < 2 or not n:
            raise ValueError(
                f"x must be (N, C, H, W) or (N, D), N of at least 1; got {tuple(self.x.shape)}"
            )
        condition = {k: v for k, v in self.condition.items() if k != "label"}
        null = {k: torch.zeros_like(v[0]) for k, v in condition.items()} | self.null
        if self.labels is not None:
            _check_labels(self.labels, n, len(self.classes))
            condition = {"label": self.labels} | condition
            null["label"] = torch.tensor(len(self.classes), device="cpu")
        for name, value in condition.items():
            if not isinstance(value, Tensor) or value.shape[:1] != (n,):
                given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"condition {name!r} must be a tensor ({n}, ...); got {given}")
        null = {k: torch.as_tensor(null[k]) for k in condition}
        object.__setattr__(self, "condition", condition)
        object.__setattr__(self, "null", null)

    def __len__(self) -> int:
        return len(self.x)

    def check(self) -> None:
        """ValueError where x holds nan or inf, or pixels that are not in [-1, 1] (see ``levels``).

        A look at every number, so it is not done whenever a data set is made.
        """
        check_finite(self.x, "the data")
        low, high = (value.item() for value in self.x.aminmax())
        if self.x.ndim == 4 and self.levels is not None and max(-low, high) > FAR:
            raise ValueError(
                f"pictures are data in [-1, 1], and these go from {low:g} to {high:g}: pixels "
                "0..255 become data by x.float() / 127.5 - 1 (for what are no pixels, as latents, "
                "give Dataset(levels=None))"
            )


def _check_labels(labels: object, n: int, classes: int) -> None:
    """ValueError unless labels are int64 (n,) within 0..classes-1."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (n,):
        given = (
            f"{labels.dtype} of shape {tuple(labels.shape)}"
            if isinstance(labels, Tensor)
            else type(labels).__name__
        )
        raise ValueError(f"labels must be int64 of shape ({n},), one for each datum; got {given}")
    low, high = (value.item() for value in labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels are positions in the {classes} classes, 0..{classes - 1}; got {low}..{high}"
        )


def load(
    name: str,
    split: str = "train",
    *,
    full: bool = False,
    download: bool = False,
    root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A data set by name, ready to train on.

    All of them need no network, but for the whole of Fashion-MNIST:
    ``load("fashion", full=True)`` reads the whole of Fashion-MNIST from ``root`` (the environment's
    DIFFUSION_LAB_DATA, else ``~/.cache/diffusion_lab``); ``download=True`` lets torchvision fetch
    it there first.

    The emoji have two splits more, ``rare`` and ``flags``: see :mod:`diffusion_lab.data.emoji`.
    Phantoms have the condition ``covariates`` and no labels.

    ValueError for an unknown name or split; DataError for files that are missing, damaged or
    cannot be fetched.
    """
    if name not in SPLITS:
        raise unknown("data set", name, SPLITS)
    if split not in SPLITS[name]:
        raise unknown(f"split of {name}", split, SPLITS[name])
    if full and name != "fashion":
        raise ValueError(f"{name} has one size only, and all of it is here: leave full=True out")
    if not full and (download or root is not None):
        given = "download=True" if download else f"root={os.fspath(root)!r}"
        raise ValueError(f"{given} belongs to the whole data set: add full=True, or leave it out")
    if name == "digits":
        return _dataset(name, split, *_digits(split), levels=17)
    if name == "phantoms":
        from diffusion_lab.data import phantoms

        return phantoms.part(split)
    if name == "emoji":
        from diffusion_lab.data import emoji

        return _dataset(name, split, *emoji.pixels(split), levels=256, classes=emoji.classes(split))
    if full:
        return _dataset(name, split, *_full_fashion(split, download, root), levels=256)
    pixels, labels = _embedded(split)
    return _dataset(name, split, pixels, labels, levels=256)


def from_folder(
    path: str | os.PathLike[str],
    size: int | Sequence[int] | None = None,
    grey: bool | None = None,
    *,
    multiple: int = 1,
    otherwise: int | Sequence[int] | None = None,
) -> Dataset:
    """The pictures in a folder as a data set; what was done with them is said in one line.

    See :func:`diffusion_lab.data.folder.from_folder`, which this is.
    """
    from diffusion_lab.data import folder

    return folder.from_folder(path, size, grey, multiple=multiple, otherwise=otherwise)


def to_uint8(x: Tensor) -> np.ndarray:
    """Pictures (N, C, H, W) in [-1, 1] as uint8 (N, H, W, C); what lies outside is clipped.

    The inverse of :func:`load` for data of 256 levels: equal pixel by pixel.
    """
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"to_uint8 wants a float tensor (N, C, H, W) in [-1, 1], not {given}")
    x = x.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the pictures hold nan or inf, so they cannot be shown: look upstream")
    pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def default_root() -> Path:
    """Where whole data sets are kept: DIFFUSION_LAB_DATA, else ``~/.cache/diffusion_lab``."""
    given = os.environ.get("DIFFUSION_LAB_DATA")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "diffusion_lab"


def _dataset(
    name: str,
    split: str,
    pixels: np.ndarray,
    labels: np.ndarray,
    levels: int,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    """From stored pixels, uint8 in 0..levels-1, to x = 2 pixel / (levels - 1) - 1.

    Pixels are (N, H, W), or (N, H, W, 3) in colour; ``classes`` are those of the name by default.
    """
    pixels = np.ascontiguousarray(pixels)
    half = (levels - 1) / 2
    count = sum(np.bincount(part.ravel(), minlength=levels) for part in np.array_split(pixels, 20))
    value, share = np.arange(levels) / half - 1, count / count.sum()
    std = float(np.sqrt(share @ (value - share @ value) ** 2))
    x = torch.from_numpy(pixels)
    x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
    x = x.float().div_(half).sub_(1)
    classes, digest = classes or CLASSES[name], sha256(pixels.data.cast("B"))
    return Dataset(
        x, torch.from_numpy(labels.astype(np.int64)), classes, name, split, digest, levels, std
    )


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """1,797 handwritten digits of scikit-learn, values 0..16, split by a fixed permutation."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # RandomState: numpy promises that its stream never changes, so neither does the split
    order = np.random.RandomState(0).permutation(len(bunch.target))
    chosen = order[:1500] if split == "train" else order[1500:]
    return bunch.images[chosen].astype(np.uint8), bunch.target[chosen]


def _embedded(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of the embedded part of Fashion-MNIST."""
    file = store.path("fashion.npz")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    except (KeyError, ValueError) as error:
        raise DataError(f"{file} is not the embedded Fashion-MNIST: {error}") from error
    right = pixels.ndim == 3 and pixels.shape[1:] == (28, 28) and pixels.dtype == np.uint8
    if not right or labels.shape != pixels.shape[:1] or not _are_classes(labels):
        raise DataError(
            f"{file} is not the embedded Fashion-MNIST: pixels {pixels.dtype} {pixels.shape}, "
            f"labels {labels.dtype} {labels.shape}"
        )
    return pixels, labels


def _are_classes(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() <= 9


def _full_fashion(
    split: str, download: bool, root: str | os.PathLike[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    root = Path(root).expanduser() if root is not None else default_root()
    if not idx.present(root):
        if not download:
            raise DataError(
                f"the whole of Fashion-MNIST is not in {root}. Ask for it with "
                f"load('fashion', full=True, download=True). {_go_on(root)}"
            )
        _download_fashion(root)
    pixels, labels = idx.read_fashion(root, split)
    if sha256(pixels.data.cast("B")) != FULL_FASHION[split]:
        raise DataError(
            f"the {split} pictures under {root} are not those of Fashion-MNIST (plain MNIST has "
            f"the same file names). Delete them and use download=True. {_go_on(root)}"
        )
    if not _are_fashions(labels, pixels, split):
        raise DataError(
            f"the {split} labels under {root} are not those of Fashion-MNIST: they differ from the "
            "embedded ones, or the classes are not of one size. Delete the files and use "
            f"download=True. {_go_on(root)}"
        )
    return pixels, labels


def _are_fashions(labels: np.ndarray, pixels: np.ndarray, split: str) -> bool:
    """Whether labels can be those of the whole Fashion-MNIST.

    Their sum is recorded nowhere, and the files cannot be fetched where this was written, so they
    are held to what is known: 0..9, as many of each, and where a picture is also embedded, its own.
    """
    ours, known = _embedded(split)
    n = min(len(labels), len(known))
    both = (
        (pixels[:n] == ours[:n]).all((1, 2)) if pixels.shape[1:] == (28, 28) else np.zeros(n, bool)
    )
    even = len(labels) != FULL_SIZE[split] or (np.bincount(labels) == len(labels) // 10).all()
    return _are_classes(labels) and even and np.array_equal(labels[:n][both], known[:n][both])


def _download_fashion(root: Path) -> None:
    try:
        from torchvision.datasets import FashionMNIST
    except Exception as error:  # a mismatched pair fails with RuntimeError, AttributeError, OSError
        raise DataError(_pair(error)) from error
    try:
        FashionMNIST(str(root), train=True, download=True)
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        raise DataError(
            f"Fashion-MNIST could not be fetched into {root} ({error}). Is there a network, and "
            f"can the folder be written to? {_go_on(root)}"
        ) from error


def _go_on(root: Path) -> str:
    return (
        "To go on without a network: load('fashion') is the embedded subset (10,000 + 2,000); or "
        f"put the four uncompressed idx files ({', '.join(idx.FASHION)}) into "
        f"{root / 'FashionMNIST' / 'raw'}."
    )


def _pair(error: Exception) -> str:
    try:
        wanted = [r for r in requires("torchvision") or () if re.match(r"torch\b(?!vision)", r)]
        have = (
            f"torchvision {version('torchvision')} wants {wanted[0] if wanted else 'its own torch'}"
        )
    except PackageNotFoundError:
        have = "torchvision is not installed"
    return (
        f"the download needs torchvision, which cannot be imported ({error}): {have}, and torch is "
        f"{torch.__version__}. The two must be one pair from one place, both with CUDA or both for "
        "CPU only: install both in one command, 'pip install --force-reinstall torch torchvision' "
        "(the course's tested pair is in constraints.txt). The embedded subset, load('fashion'), "
        "needs no torchvision."
    )
