"""Things to touch: controls beside a figure, which stay a figure with alt text where nothing runs.

``explore(draw, ...)`` shows sliders and the figure that ``draw`` makes of their values::

    explore(
        draw,                                      # draw(t=0.3, kind="linear") -> Figure
        t=slider("time t", 0.3, 0, 1, 0.01),
        kind=choice("schedule", ["linear", "cosine"]),
        alt=lambda t, kind: f"A picture at time {t:.2f} under the {kind} schedule.",
        caption="Half of the contrast is gone long before t = 1.",
    )

The cell has three outputs: the widget, a PNG of the first figure, and the words below it. While the
widget is alive it hides that figure, since it draws its own (in JupyterLab and Jupyter Notebook; a
front end that knows no such rule shows both). A notebook that is opened again, a code host or a
printer has no live widget, and shows the figure, with its alt text. Every control has a name with
its unit, which screen readers say too. A slider redraws when it is let go, not on the way; while
``draw`` works, "drawing ..." stands under the controls.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_lab.course.plots import _array, strip
from diffusion_lab.course.showing import DENSE, display, mime, png, width, words
from diffusion_lab.errors import unknown
from diffusion_lab.pictures import picture

__all__ = ["Explorer", "choice", "explore", "player", "slider", "text", "toggle"]

Words = str | Callable[..., str]

ALIVE = "diffusion-lab-alive"
"""The CSS class of the box: only a widget that is alive has an element of this class."""

HIDE_STILL = (
    f"<style>.jp-OutputArea-child:has(.{ALIVE}) + .jp-OutputArea-child {{ display: none; }}</style>"
)
"""Lives in the widget and hides the output after it; without the widget the still is shown."""

NAMES = Path(__file__).with_name("names.js").read_text(encoding="utf-8")
"""Names for what ipywidgets leaves nameless: the handles of sliders, the buttons of a player."""

BUSY = '<span role="status">drawing ...</span>'
IDLE = '<span role="status"></span>'


# ------------------------------------------------------------------------------------- controls
def slider(
    label: str, value: float, low: float, high: float, step: float, unit: str = ""
) -> dict[str, Any]:
    """A slider for ``explore``: whole numbers where all four are ``int``, else floats."""
    if not low <= value <= high or step <= 0:
        raise ValueError(
            f"slider {label!r}: {low} <= value <= {high} and step > 0 are needed, "
            f"value {value} and step {step} were given"
        )
    options = {"value": value, "min": low, "max": high, "step": step}
    return {"kind": "slider", "label": label, "unit": unit, "options": options}


def choice(label: str, options: Sequence[Any], value: Any = None) -> dict[str, Any]:
    """A drop-down list for ``explore``; the first option is chosen where no value is given."""
    known = list(options)
    if not known:
        raise ValueError(f"choice {label!r} needs at least one option")
    if value is not None and value not in known:
        raise unknown(f"option of {label!r}", value, map(str, known))
    chosen = {"options": known, "value": known[0] if value is None else value}
    return {"kind": "choice", "label": label, "unit": "", "options": chosen}


def toggle(label: str, value: bool = False) -> dict[str, Any]:
    """A box to tick, for ``explore``."""
    return {"kind": "toggle", "label": label, "unit": "", "options": {"value": bool(value)}}


def text(label: str, value: str = "") -> dict[str, Any]:
    """A line to type in, for ``explore``; it counts when Enter is pressed or the line is left."""
    return {"kind": "text", "label": label, "unit": "", "options": {"value": str(value)}}


def _widget(control: Mapping[str, Any]) -> Any:
    import ipywidgets

    kind, options = control["kind"], dict(control["options"])
    if kind == "toggle":
        return ipywidgets.Checkbox(**options, indent=False, description=control["label"])
    said = control["label"] + (f" ({control['unit']})" if control["unit"] else "")
    options |= {"description": said, "style": {"description_width": "initial"}, "tooltip": said}
    if kind == "text":
        layout = ipywidgets.Layout(width="36em", max_width="98%")
        return ipywidgets.Text(**options, continuous_update=False, layout=layout)
    if kind == "choice":
        return ipywidgets.Dropdown(**options, layout=ipywidgets.Layout(width="max-content"))
    whole = all(isinstance(options[key], int) for key in ("value", "min", "max", "step"))
    make = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    layout = ipywidgets.Layout(width="36em", max_width="98%")
    return make(
        **options, continuous_update=False, readout_format="d" if whole else ".3g", layout=layout
    )


# ------------------------------------------------------------------------------------- exploring
class Explorer:
    """Controls beside a drawing. ``set(t=0.3)`` moves a control as a hand would; ``values`` and
    ``redraws`` say where it stands, ``data`` is the PNG now shown, ``children`` the widgets.

    ``still`` is the PNG and alt text that the notebook stores: the present drawing where it is
    None. Drawing that takes no time (a player's) is ``quick``, and is not announced."""

    def __init__(
        self,
        draw: Callable[..., Any],
        controls: Mapping[str, Mapping[str, Any]],
        alt: Words,
        caption: Words,
    ) -> None:
        import anywidget
        import ipywidgets

        self.draw, self.alt, self.caption = draw, alt, caption
        self.redraws, self.data, self.error = 0, b"", ""
        self.controls = {name: _widget(control) for name, control in controls.items()}
        for widget in self.controls.values():
            widget.observe(self._moved, names="value")
        self.quick = False
        self.busy = ipywidgets.HTML(IDLE, layout=ipywidgets.Layout(height="1.8em"))
        self.screen = ipywidgets.HTML()
        hide = ipywidgets.HTML(HIDE_STILL, layout=ipywidgets.Layout(display="none"))
        named = anywidget.AnyWidget(_esm=NAMES, layout=ipywidgets.Layout(display="none"))
        rows = self.controls.values()
        self.box = ipywidgets.VBox([*rows, self.busy, self.screen, hide, named])
        self.box.add_class(ALIVE)
        self.still: tuple[bytes, str] | None = None
        self._put(self._drawn())

    @property
    def children(self) -> tuple[Any, ...]:
        """The widgets: the controls, the words "drawing ...", the drawing, its style and names."""
        return self.box.children

    @property
    def values(self) -> dict[str, Any]:
        """Where the controls stand, by name."""
        return {name: widget.value for name, widget in self.controls.items()}

    def set(self, **values: Any) -> Explorer:
        """Move controls, as a hand would; an unknown name is a ``ValueError``."""
        for name, value in values.items():
            if name not in self.controls:
                raise unknown("control", name, self.controls)
            self.controls[name].value = value
        return self

    def words(self, text: Words) -> str:
        """A text, or the text that a function makes of the values."""
        return text(**self.values) if callable(text) else text

    def _drawn(self) -> bytes:
        made = self.draw(**self.values)
        self.dense = 1 if isinstance(made, bytes) else DENSE
        if isinstance(made, bytes):
            return made
        if not hasattr(made, "savefig"):
            raise TypeError(f"draw must return a figure, it returned a {type(made).__name__}")
        import matplotlib.pyplot as plt

        data = png(made)
        plt.close(made)
        return data

    def _put(self, data: bytes) -> None:
        self.data = data
        self.redraws += 1
        code, alt = base64.b64encode(data).decode("ascii"), html.escape(self.words(self.alt))
        size = f'width="{width(data) // self.dense}" style="max-width: 100%; height: auto"'
        self.screen.value = f'<img alt="{alt}" {size} src="data:image/png;base64,{code}">'

    def _moved(self, change: Mapping[str, Any]) -> None:
        try:
            self.error = ""
            if not self.quick:
                self.busy.value = BUSY  # sent at once: the page shows it while draw works
            self._put(self._drawn())
        except Exception as error:  # shown where the learner looks, instead of lost in a log
            self.error = f"{type(error).__name__}: {error}"
            self.screen.value = f"<pre>{html.escape(self.error)}</pre>"
        finally:
            self.busy.value = IDLE

    def _ipython_display_(self) -> None:
        """Show the widget, the still figure (an output of its own, which stays), the caption."""
        data, alt = self.still or (self.data, self.words(self.alt))
        caption = self.words(self.caption)
        bundle, metadata = mime(data, alt=alt, caption=caption)
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        said = "[controls: run this cell to use them]"
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": said})
        display(bundle, metadata)
        words(alt, caption)


def explore(
    draw: Callable[..., Any], *, alt: Words, caption: Words, **controls: Mapping[str, Any]
) -> Explorer:
    """Controls and the figure that ``draw(**values)`` makes of them; let it be a cell's last line.

    Args:
        draw: gives a matplotlib figure for the values of all controls.
        alt, caption: as for ``plots.show``; each may be a function of the values.
        controls: by name, made with ``slider``, ``choice``, ``toggle`` or ``text``.
    """
    if not controls:
        raise ValueError("explore needs at least one control, for example t=slider(...)")
    return Explorer(draw, controls, alt, caption)


def player(
    frames: Sequence[Any],
    *,
    alt: Words,
    caption: Words,
    label: str = "step",
    titles: Sequence[str] | None = None,
    interval: int = 200,
    columns: int | None = None,
    still: str = "",
    rows: Mapping[str, int] | None = None,
) -> Explorer:
    """Pictures over time with a play button and a slider; the still figure is a strip of frames.

    Args:
        frames: each ``(N, C, H, W)`` in [-1, 1], the same shape in all.
        titles: a word for each frame (its time, say), shown above the strip's frames.
        alt, caption: as for ``plots.show``; each may be a function of ``step``.
        interval: milliseconds from one frame to the next.
        still: the alt text of the strip, which shows up to eight frames; that of the last frame
            where none is given.
        rows: the rows of the strip, each a name and which picture of a frame it shows; the first
            picture, without a name, where none are given.
    """
    import ipywidgets
    import matplotlib.pyplot as plt

    if len(frames) < 2:
        raise ValueError(f"a player needs at least two frames, {len(frames)} was given")
    sheets = [_png(picture(frame, columns=columns, zoom=3)) for frame in frames]
    last = len(frames) - 1
    seen = explore(
        lambda step: sheets[step], alt=alt, caption=caption, step=slider(label, last, 0, last, 1)
    )
    play = ipywidgets.Play(value=last, min=0, max=last, interval=interval)
    ipywidgets.jslink((play, "value"), (seen.controls["step"], "value"))
    seen.box.children = (play, *seen.box.children)
    shown = _evenly(len(frames), 8)
    words = [titles[i] if titles else f"{label} {i}" for i in shown]
    stills = [
        _stack([frames[i][place : place + 1] for i in shown])
        for place in (rows.values() if rows else [0])
    ]
    drawn = strip(stills, titles=words, labels=list(rows) if rows else None)
    seen.still = png(drawn), still or seen.words(alt)
    plt.close(drawn)
    seen.quick = True
    return seen


def _png(sheet: Any) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    return buffer.getvalue()


def _evenly(count: int, most: int) -> list[int]:
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})


def _stack(frames: Sequence[Any]) -> np.ndarray:
    return np.concatenate([_array(frame) for frame in frames])
