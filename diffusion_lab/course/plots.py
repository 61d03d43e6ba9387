"""Pictures: one style, one way to show a figure with its alt text, and the figures lessons share.

Every function takes pictures as ``(N, C, H, W)`` in [-1, 1] with C = 1 (grey) or 3 (colour), and
returns a matplotlib figure that nobody else holds; ``show(fig, alt=..., caption=...)`` displays
it. Colours are the eight of Okabe and Ito, which colour-blind readers can tell apart; lines also
differ in marker and dash. matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
    "strip",
    "training",
    "use_style",
]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")
DPI = 96


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


# ------------------------------------------------------------------------------------- showing
def png(fig: Figure) -> bytes:
    """The figure as PNG bytes, the same for the same figure (no version, no date inside)."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def show(fig: Figure, *, alt: str, caption: str) -> None:
    """Display a figure with its alt text, print its caption below, and close it.

    ``alt`` says what the figure looks like, for those who cannot see it; ``caption`` says what to
    take from it. Both must hold words: an empty one is a ``ValueError``.
    """
    import matplotlib.pyplot as plt

    bundle, metadata = mime(png(fig), alt=alt, caption=caption)
    plt.close(fig)
    _display(bundle, metadata)
    print(caption)


def mime(data: bytes, *, alt: str, caption: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The display bundle and metadata of a PNG that carries its alt text."""
    for name, words in (("alt", alt), ("caption", caption)):
        if not isinstance(words, str) or not words.strip():
            raise ValueError(f"{name} must say something about the figure, {words!r} was given")
    text = base64.b64encode(data).decode("ascii")
    return {"image/png": text, "text/plain": f"[figure: {alt}]"}, {"image/png": {"alt": alt}}


def _display(bundle: dict[str, Any], metadata: dict[str, Any] | None = None, **options: Any) -> Any:
    """Show a bundle where there is a notebook; with ``display_id=True`` returns its handle."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:  # a plain script: there is nothing to show it on
        return None
    if get_ipython() is None:
        return None
    return display(bundle, metadata=metadata or {}, raw=True, **options)


class Live:
    """One figure that is drawn again and again while something runs::

        view = Live(alt="...", caption="...")
        for ...:
            view.draw(fig)  # replaces what stood there
        view.close()  # prints the caption below

    What is stored is the last figure, with its alt text.
    """

    def __init__(self, *, alt: str, caption: str) -> None:
        self.alt, self.caption = alt, caption
        self.handle: Any = None
        mime(b"", alt=alt, caption=caption)  # words that are missing are found before the work

    def draw(self, fig: Figure) -> None:
        """Show ``fig`` in the place of the one before, and close it."""
        import matplotlib.pyplot as plt

        bundle, metadata = mime(png(fig), alt=self.alt, caption=self.caption)
        plt.close(fig)
        if self.handle is None:
            self.handle = _display(bundle, metadata, display_id=True)
        else:
            self.handle.update(bundle, metadata=metadata, raw=True)

    def close(self) -> None:
        """Nothing more will be drawn: print the caption."""
        print(self.caption)


# ------------------------------------------------------------------------------------- pictures
def grid(
    images: Any,
    *,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    title: str = "",
    size: float = 0.75,
) -> Figure:
    """A grid of pictures ``(N, C, H, W)`` in [-1, 1], each ``size`` inches, each with a title.

    Without ``titles`` the pictures are one image, drawn fast; ``heads`` are words above its
    columns.
    """
    import matplotlib.pyplot as plt

    array = pixels(images)
    count = len(array)
    columns = min(count, columns or int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    use_style()
    if heads is not None and (titles is not None or len(heads) != columns):
        raise ValueError(
            f"heads are words above the {columns} columns of a grid without titles, "
            f"{len(heads)} were given" + (" beside titles" if titles is not None else "")
        )
    if titles is None:
        sheet = picture(images, columns=columns)
        room = 0.3 * bool(title) + 0.25 * bool(heads)
        fig, ax = plt.subplots(figsize=(columns * size, rows * size + room))
        ax.imshow(sheet, interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(title, pad=20 if heads else None)
        _heads(ax, sheet.shape[1], heads or (), 9)
        return fig
    if len(titles) != count:
        raise ValueError(f"{count} pictures need {count} titles, {len(titles)} were given")
    shape = (columns * size, rows * (size + 0.25) + (0.3 if title else 0))
    fig, cells = plt.subplots(rows, columns, figsize=shape, squeeze=False)
    for index, ax in enumerate(cells.flat):
        ax.set_axis_off()
        if index < count:
            ax.imshow(array[index].repeat(3 // array.shape[3], axis=2), interpolation="nearest")
            ax.set_title(titles[index], fontsize=9)
    fig.suptitle(title)
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
    import matplotlib.pyplot as plt

    arrays = [pixels(row, f"rows[{i}]") for i, row in enumerate(rows)]
    if not arrays or len({len(array) for array in arrays}) > 1:
        raise ValueError(f"rows need the same number of pictures, {[len(a) for a in arrays]} given")
    count = len(arrays[0])
    for name, words, wanted in (("titles", titles, count), ("labels", labels, len(arrays))):
        if words is not None and len(words) != wanted:
            raise ValueError(f"{wanted} {name} are needed, {len(words)} were given")
    use_style()
    shape = (count * size + (0.9 if labels else 0), len(arrays) * size + (0.3 if titles else 0))
    fig, cells = plt.subplots(len(arrays), count, figsize=shape, squeeze=False)
    for i, array in enumerate(arrays):
        for j, ax in enumerate(cells[i]):
            ax.imshow(array[j].repeat(3 // array.shape[3], axis=2), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.grid(False)
            if titles and i == 0:
                ax.set_title(titles[j], fontsize=9)
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
    shape = (3.4 + 0.62 * columns, max(2.6, 0.62 * rows + 0.4))
    fig, (left, right) = plt.subplots(1, 2, figsize=shape, width_ratios=[3.4, 0.62 * columns])
    lines(steps, {"loss": losses}, xlabel="optimiser step", ylabel="training loss", ax=left)
    sheet = picture(images, columns=columns)
    right.imshow(sheet, interpolation="nearest")
    right.set_axis_off()
    right.set_title(title, pad=20 if heads else None)
    _heads(right, sheet.shape[1], heads, 7)
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
