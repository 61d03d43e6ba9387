"""Pictures as pixels: tensors in [-1, 1] side by side in one array, in a PNG or in a GIF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from diffusion_lab.schedules import Schedule
    from diffusion_lab.walk import State

__all__ = ["frames", "headed", "picture", "pixels", "save_gif", "save_grid"]


def pixels(images: Any, name: str = "images") -> np.ndarray:
    """``(N, C, H, W)`` in [-1, 1] to uint8 ``(N, H, W, C)``; other shapes are a ``ValueError``."""
    array = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(
            f"{name} must have the shape (N, C, H, W) with C = 1 or 3, {array.shape} was given"
        )
    if array.shape[0] == 0:
        raise ValueError(f"{name} holds no picture: its shape is {array.shape}")
    if array.dtype != np.uint8:
        if array.min() >= 0 and array.max() > 2:  # no sampler draws such
            raise ValueError(
                f"{name} go from {array.min():g} to {array.max():g}: pixels 0..255 become data in "
                "[-1, 1] by x / 127.5 - 1"
            )
        scaled = np.nan_to_num((array.astype(np.float64) + 1) * 127.5, nan=0.0)
        array = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return array.transpose(0, 2, 3, 1)


def picture(images: Any, *, columns: int | None = None, pad: int = 1, zoom: int = 1) -> np.ndarray:
    """Pictures side by side as one uint8 array ``(H, W, 3)``, row by row.

    Args:
        images: ``(N, C, H, W)`` in [-1, 1] (clipped), or uint8 in [0, 255].
        columns: pictures in a row; about the root of N where none is given.
        pad: white pixels between pictures.
        zoom: each pixel becomes a ``zoom`` x ``zoom`` square.
    """
    array = pixels(images)
    if zoom < 1 or pad < 0 or (columns is not None and columns < 1):
        raise ValueError(f"zoom and columns start at 1, pad at 0: {zoom=}, {columns=}, {pad=}")
    array = array.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width, _ = array.shape
    columns = min(count, columns or int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + pad) - pad, columns * (width + pad) - pad, 3), 255, np.uint8)
    for index, one in enumerate(array):
        top, left = index // columns * (height + pad), index % columns * (width + pad)
        sheet[top : top + height, left : left + width] = one
    return sheet


def headed(sheet: np.ndarray, heads: Sequence[str]) -> np.ndarray:
    """A sheet (H, W, 3) with a word above each of its columns; one word stands above the middle.

    All are of one size, from 16 to 9 pixels, that fits the longest; what does not is cut short.
    """
    if not heads:
        return sheet
    from PIL import Image, ImageDraw, ImageFont

    width = sheet.shape[1] / len(heads)
    for size in range(16, 8, -1):
        font = ImageFont.load_default(size)
        if max(map(font.getlength, heads)) <= width - 4:
            break
    band = Image.new("RGB", (sheet.shape[1], size + 8), "white")
    draw = ImageDraw.Draw(band)
    for index, word in enumerate(heads):
        while len(word) > 1 and font.getlength(word) > width - 2:
            word = word.rstrip("…")[:-1] + "…"
        draw.text(((index + 0.5) * width, size / 2 + 4), word, "black", font, anchor="mm")
    return np.concatenate([np.asarray(band), sheet])


def frames(path: Sequence[State], schedule: Schedule, most: int = 60) -> list[np.ndarray]:
    """The states of a walk as pictures (N, C, H, W), at most so many, the first and last of them.

    Divided by sqrt(alpha^2 + sigma^2), so that noise has the spread of data at every time.
    """
    import torch

    found = []
    for i in sorted({round(j * (len(path) - 1) / (most - 1)) for j in range(most)}):
        time = torch.as_tensor(path[i].s, dtype=torch.float64, device="cpu")
        spread = torch.hypot(*schedule.alpha_sigma(time)).reshape(-1, 1, 1, 1)
        found.append((path[i].x.cpu() / spread).numpy())
    return found


def save_gif(
    path: str | PathLike[str],
    images: Sequence[Any],
    *,
    seconds: float = 3.0,
    heads: Sequence[str] = (),
    note: str = "",
    **options: Any,
) -> None:
    """Write pictures (N, C, H, W) after one another, as a moving picture that begins again.

    It moves for ``seconds`` and then rests on the last for half as long; ``note`` is the comment
    inside, ``heads`` are words above the columns; other options as ``picture``. What has no colour
    keeps every level.
    """
    from PIL import Image

    from diffusion_lab.files import write_atomically

    sheets = [headed(picture(one, **options), heads) for one in images]
    grey = all((sheet == sheet[..., :1]).all() for sheet in sheets)
    made = [Image.fromarray(sheet).convert("L" if grey else "RGB") for sheet in sheets]
    each = max(20, round(1000 * seconds / len(made)))  # milliseconds
    buffer = io.BytesIO()
    made[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=made[1:],
        duration=[each] * (len(made) - 1) + [each + round(500 * seconds)],
        loop=0,
        comment=note.encode(),
    )
    write_atomically(path, buffer.getvalue())


def save_grid(
    path: str | PathLike[str],
    images: Any,
    *,
    zoom: int = 2,
    heads: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """Write pictures side by side to a PNG file, whole or not at all; options as ``picture``.

    ``heads`` are words above the columns, ``notes`` texts inside the file by their names.
    ValueError for a name that does not end in .png, and for pictures that hold nan.
    """
    from PIL import Image, PngImagePlugin

    from diffusion_lab.files import write_atomically

    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"pictures are saved as PNG: the name must end in .png; got {str(path)!r}")
    array = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if np.isnan(array).any():
        raise ValueError("the pictures hold nan, and would be saved black: look upstream")
    inside = PngImagePlugin.PngInfo()
    for name, text in (notes or {}).items():
        inside.add_text(name, text)
    sheet = headed(picture(array, zoom=zoom, **options), heads)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", pnginfo=inside)
    write_atomically(path, buffer.getvalue())
