"""Pictures: one style, one way to show a figure with its alt text, and the figures lessons share.

Every function takes pictures as ``(N, C, H, W)`` in [-1, 1] with C = 1 (grey) or 3 (colour), and
returns a matplotlib figure that nobody else holds; ``show(fig, alt=..., caption=...)`` displays
it. Colours are the eight of Okabe and Ito, which colour-blind readers can tell apart, the light
ones darkened until each has a contrast of 3 with white; lines also differ in marker and dash.
matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusion_lab.course.showing import DPI, Live, png, show, show_table
from diffusion_lab.pictures import picture, pixels, save_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "Live",
    "axes",
    "balls",
    "field",
    "grid",
    "lines",
    "picture",
    "png",
    "save_grid",
    "scatter",
    "show",
    "show_table",
    "strip",
    "training",
    "use_style",
]

COLOURS = ("#0072B2", "#C98200", "#009E73", "#C46A9B", "#2E9BD6", "#C25400", "#000000", "#9A8F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PAGE = 900  # pixels of a page's width
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")


# ------------------------------------------------------------------------------------- style
def use_style() -> None:
    """Set matplotlib's defaults: readable sizes, colours and markers that everyone can tell apart.

    Called by every function here; call it yourself before your own ``plt`` figures.
    """
    import matplotlib
    from cycler import cycler

    cycle = cycler(color=COLOURS) + cycler(marker=MARKERS) + cycler(linestyle=DASHES)
    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": cycle,
            "image.cmap": "viridis",
            "figure.dpi": DPI,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.labelsize": 11,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.25,
            "lines.markersize": 5,
            "lines.linewidth": 1.8,
        }
    )


def axes(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (4.2, 3.0), share: bool = False
) -> tuple[Figure, Any]:
    """A styled figure and its axes, ``size`` inches each; ``share`` gives all the same limits."""
    import matplotlib.pyplot as plt

    use_style()
    shape = (columns * size[0], rows * size[1])
    return plt.subplots(rows, columns, figsize=shape, sharex=share, sharey=share)


# ------------------------------------------------------------------------------------- pictures
def _zoom(width: int, columns: int, size: float) -> float:
    """Pixels of the page for one of a picture: whole; halves where ``columns`` fill the page."""
    fits = PAGE / (columns * width)
    wanted = max(1, round(size * DPI / width))
    return wanted if wanted <= fits else max(0.5, int(2 * fits) / 2)


def _places(
    shape: tuple[int, int],
    width: float,
    height: float,
    *,
    left: float = 0,
    above: float = 0,
    gap: float = 3,
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, each exactly (width, height) pixels of the page: none is smeared.

    ``above`` is the room over the first row, ``gap`` over the others, ``left`` before the first
    column.
    """
    import matplotlib.pyplot as plt

    use_style()
    rows, columns = shape
    across, down = left + columns * (width + 3), above + rows * (height + gap) - gap + 3
    fig = plt.figure(figsize=(across / DPI, down / DPI), layout="none")
    made = np.empty(shape, object)
    for i, j in np.ndindex(shape):
        x, y = left + j * (width + 3), above + i * (height + gap) + height
        made[i, j] = fig.add_axes((x / across, 1 - y / down, width / across, height / down))
    return fig, made


def _lines(words: Sequence[str]) -> int:
    return 1 + max(word.count("\n") for word in words)


def grid(
    images: Any,
    *,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    title: str = "",
    size: float = 0.75,
) -> Figure:
    """A grid of pictures ``(N, C, H, W)`` in [-1, 1], each about ``size`` inches, with a title.

    A pixel of a picture is a whole number of pixels of the page (halves where the page is full).
    Without ``titles`` the pictures are one image, drawn fast; ``heads`` are words above its
    columns.
    """
    array = pixels(images)
    count, height, width, _ = array.shape
    columns = min(count, columns or int(np.ceil(np.sqrt(count))))
    rows, zoom = -(-count // columns), _zoom(width, columns, size)
    if heads is not None and (titles is not None or len(heads) != columns):
        raise ValueError(
            f"heads are words above the {columns} columns of a grid without titles, "
            f"{len(heads)} were given" + (" beside titles" if titles is not None else "")
        )
    if titles is None:
        sheet = picture(images, columns=columns)
        room = 26 * bool(title) + 18 * bool(heads)
        fig, ((ax,),) = _places((1, 1), zoom * sheet.shape[1], zoom * sheet.shape[0], above=room)
        ax.imshow(sheet, interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(title, pad=20 if heads else None)
        _heads(ax, sheet.shape[1], heads or (), 9)
        return fig
    if len(titles) != count:
        raise ValueError(f"{count} pictures need {count} titles, {len(titles)} were given")
    gap = 4 + 14 * _lines(titles)
    room = {"above": gap + 26 * bool(title), "gap": gap}
    fig, cells = _places((rows, columns), zoom * width, zoom * height, **room)
    fig.suptitle(title)
    for index, ax in enumerate(cells.flat):
        ax.set_axis_off()
        if index < count:
            ax.imshow(array[index].repeat(3 // array.shape[3], axis=2), interpolation="nearest")
            ax.set_title(titles[index], fontsize=9, pad=3)
    return fig


def _heads(ax: Axes, width: int, words: Sequence[str], size: float) -> None:
    """Words above the columns of a sheet of pictures that is ``width`` pixels wide."""
    for index, word in enumerate(words):
        x = (index + 0.5) * (width + 1) / len(words) - 1
        ax.annotate(word, (x, -0.5), (0, 3), textcoords="offset points", ha="center", fontsize=size)


def strip(
    rows: Sequence[Any],
    *,
    titles: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    size: float = 0.75,
) -> Figure:
    """Rows of pictures over time: ``rows[i]`` is ``(N, C, H, W)``, from left to right.

    ``titles`` stand above the N columns (times, say), ``labels`` before the rows.
    """
    arrays = [pixels(row, f"rows[{i}]") for i, row in enumerate(rows)]
    if not arrays or len({len(array) for array in arrays}) > 1:
        raise ValueError(f"rows need the same number of pictures, {[len(a) for a in arrays]} given")
    count = len(arrays[0])
    for name, words, wanted in (("titles", titles, count), ("labels", labels, len(arrays))):
        if words is not None and len(words) != wanted:
            raise ValueError(f"{wanted} {name} are needed, {len(words)} were given")
    _, height, width, _ = arrays[0].shape
    zoom = _zoom(width, count, size)
    longest = max(len(line) for word in labels or [""] for line in word.split("\n"))
    room = {"left": 14 + 7.5 * longest if labels else 0}
    room["above"] = 4 + 14 * _lines(titles) if titles else 0
    fig, cells = _places((len(arrays), count), zoom * width, zoom * height, **room)
    for i, array in enumerate(arrays):
        for j, ax in enumerate(cells[i]):
            ax.imshow(array[j].repeat(3 // array.shape[3], axis=2), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.grid(False)
            if titles and i == 0:
                ax.set_title(titles[j], fontsize=9, pad=3)
            if labels and j == 0:
                ax.set_ylabel(labels[i], rotation=0, ha="right", va="center", fontsize=9)
    return fig


# ------------------------------------------------------------------------------------- curves
def lines(
    x: Any,
    curves: dict[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log: str = "",
    markers: int = 8,
    ax: Axes | None = None,
) -> Figure:
    """Curves over a shared x, by name; ``log`` is ``""``, ``"x"``, ``"y"`` or ``"xy"``.

    Each curve carries about ``markers`` markers, so that it is known without its colour.
    """
    fig, ax = _own(ax)
    x = _array(x)
    for index, (name, y) in enumerate(curves.items()):
        every = max(1, len(x) // max(1, markers))
        ax.plot(x, _array(y), label=name, markevery=(index * every // 4, every))
    if "x" in log:
        ax.set_xscale("log")
        if len(x) <= 8:
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.xaxis.minorticks_off()
    if "y" in log:
        ax.set_yscale("log")
        _plain_ticks(ax)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if len(curves) > 1:
        ax.legend()
    return fig


def training(
    steps: Sequence[int],
    losses: Sequence[float],
    images: Any,
    *,
    columns: int = 10,
    title: str = "",
    heads: Sequence[str] = (),
) -> Figure:
    """A training as it stands: its loss so far on the left, pictures (N, C, H, W) on the right.

    ``heads`` are words above the columns of the pictures.
    """
    import matplotlib.pyplot as plt

    use_style()
    rows = -(-len(images) // columns)
    shape = (3.2 + 0.7 * columns, max(2.6, 0.7 * rows + 0.4))
    fig, (left, right) = plt.subplots(1, 2, figsize=shape, width_ratios=[3.2, 0.7 * columns])
    lines(steps, {"loss": losses}, xlabel="optimiser step", ylabel="training loss", ax=left)
    sheet = picture(images, columns=columns)
    right.imshow(sheet, interpolation="nearest")
    right.set_axis_off()
    right.set_title(title, pad=20 if heads else None)
    _heads(right, sheet.shape[1], heads, 8)
    return fig


def scatter(
    points: Any,
    *,
    values: Any = None,
    label: str = "",
    title: str = "",
    limits: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Points ``(N, 2)`` with equal axes, coloured by ``values`` ``(N,)`` (named ``label``)."""
    array = _array(points)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"points must have the shape (N, 2), {array.shape} was given")
    fig, ax = _own(ax)
    colour = COLOURS[0] if values is None else _array(values)
    drawn = ax.scatter(*array.T, s=6, c=colour, cmap="cividis", marker="o", linewidths=0, alpha=0.7)
    if values is not None:
        fig.colorbar(drawn, ax=ax, label=label)
    _square(ax, limits, title)
    return fig


def balls(
    centres: Any,
    radii: Any,
    *,
    title: str = "",
    limits: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Discs of ``radii`` ``(N,)`` around ``centres`` ``(N, 2)``, see-through, with equal axes."""
    from matplotlib.collections import EllipseCollection

    where, size = _array(centres), 2 * _array(radii)
    if where.ndim != 2 or where.shape[1] != 2 or size.shape != where.shape[:1]:
        raise ValueError(
            f"centres must be (N, 2) and radii (N,); {where.shape} and {size.shape} were given"
        )
    fig, ax = _own(ax)
    ax.add_collection(
        EllipseCollection(
            size,
            size,
            0 * size,
            units="x",
            offsets=where,
            offset_transform=ax.transData,
            facecolor=COLOURS[0],
            alpha=0.15,
            linewidth=0,
        )
    )
    _square(ax, limits, title)
    return fig


def field(
    points: Any,
    arrows: Any,
    *,
    label: str = "length",
    title: str = "",
    limits: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """A vector field: ``arrows`` ``(N, 2)`` at ``points`` ``(N, 2)``, coloured by their length."""
    where, what = _array(points), _array(arrows)
    if where.shape != what.shape or where.ndim != 2 or where.shape[1] != 2:
        raise ValueError(
            f"points and arrows must both be (N, 2), {where.shape} and {what.shape} were given"
        )
    fig, ax = _own(ax)
    length = np.hypot(*what.T)
    unit = what / np.maximum(length, 1e-12)[:, None]
    drawn = ax.quiver(*where.T, *unit.T, length, cmap="cividis", pivot="mid", angles="xy")
    fig.colorbar(drawn, ax=ax, label=label)
    _square(ax, limits, title)
    return fig


def _plain_ticks(ax: Axes) -> None:
    """Where a logarithmic y axis spans less than two decades: 0.3, 0.5, 1, 2 in place of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = ax.get_ylim()
    if high < 100 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _own(ax: Axes | None) -> tuple[Any, Axes]:
    if ax is not None:
        return ax.figure, ax
    return axes()


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _square(ax: Axes, limits: float | None, title: str) -> None:
    ax.set(xlabel="first coordinate", ylabel="second coordinate", title=title)
    ax.set_aspect("equal")
    if limits is not None:
        ax.set(xlim=(-limits, limits), ylim=(-limits, limits))
