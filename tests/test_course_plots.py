"""Figures: pixels are the pictures, alt text and caption are required, nothing is left open."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab.course import plots


def pictures(count: int = 5, channels: int = 1, size: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


def open_figures() -> list[int]:
    import matplotlib.pyplot as plt

    return plt.get_fignums()


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_holds_the_pixels(channels):
    images = pictures(5, channels)
    sheet = plots.picture(images, columns=3, pad=1)
    assert sheet.shape == (2 * 5 - 1, 3 * 5 - 1, 3) and sheet.dtype == np.uint8
    for index in range(5):
        top, left = index // 3 * 5, index % 3 * 5
        tile = sheet[top : top + 4, left : left + 4].astype(float) / 127.5 - 1
        wanted = images[index].permute(1, 2, 0).numpy()
        assert np.abs(tile - wanted).max() <= 0.5 / 127.5 + 1e-6
    assert (sheet[5:, 10:] == 255).all()  # the place of the picture that is missing
    assert (sheet[4] == 255).all()  # the padding


def test_picture_zooms_and_clips():
    images = torch.tensor([-3.0, -1.0, 1.0, 7.0]).view(1, 1, 2, 2)
    assert plots.picture(images, zoom=3)[::3, ::3, 0].tolist() == [[0, 0], [255, 255]]
    whole = torch.full((1, 1, 2, 2), 9, dtype=torch.uint8)
    assert (plots.picture(whole) == 9).all()


def test_grid_draws_the_picture():
    images = pictures(6)
    fig = plots.grid(images, columns=3, title="six")
    assert np.array_equal(fig.axes[0].images[0].get_array(), plots.picture(images, columns=3))
    titled = plots.grid(images, columns=4, titles=list("abcdef"))
    drawn = [ax for ax in titled.axes if ax.images]
    assert [ax.get_title() for ax in drawn] == list("abcdef")
    for image, ax in zip(images, drawn, strict=True):
        assert np.array_equal(ax.images[0].get_array(), plots.picture(image[None]))


def test_grid_has_heads_above_its_columns():
    fig = plots.grid(pictures(6), columns=3, heads=["a", "b", "c"], title="six")
    (ax,) = fig.axes
    assert [t.get_text() for t in ax.texts] == ["a", "b", "c"]
    width = plots.picture(pictures(6)[:1]).shape[1]
    middles = [(width - 1) / 2 + i * (width + 1) for i in range(3)]
    assert [t.xy[0] for t in ax.texts] == pytest.approx(middles)


def test_a_training_has_heads_above_its_pictures():
    _, ax = plots.training([1, 2], [1.0, 0.5], pictures(6), columns=3, heads=["a", "b", "c"]).axes
    assert [t.get_text() for t in ax.texts] == ["a", "b", "c"]
    assert [t.xy for t in ax.texts] == [
        t.xy for t in plots.grid(pictures(6), columns=3, heads=["a", "b", "c"]).axes[0].texts
    ]


def test_strip_draws_each_row():
    rows = [pictures(3), pictures(3) * 0.5]
    fig = plots.strip(rows, titles=["0", "1", "2"], labels=["a", "b"])
    assert np.array_equal(fig.axes[4].images[0].get_array(), plots.picture(rows[1][1:2]))
    assert fig.axes[3].get_ylabel() == "b" and fig.axes[2].get_title() == "2"


def test_save_grid_writes_the_pixels(tmp_path):
    from PIL import Image

    images = pictures(4, 3)
    plots.save_grid(tmp_path / "grid.png", images, columns=2, zoom=1)
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "grid.png")), plots.picture(images, columns=2)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.picture(torch.zeros(4, 4)), r"\(N, C, H, W\).*\(4, 4\) was given"),
        (lambda: plots.picture(torch.zeros(1, 2, 4, 4)), "C = 1 or 3"),
        (lambda: plots.picture(torch.zeros(0, 1, 4, 4)), "holds no picture"),
        (lambda: plots.picture(pictures(), zoom=0), "zoom=0"),
        (lambda: plots.grid(pictures(), titles=["a"]), "5 titles, 1 were given"),
        (lambda: plots.grid(pictures(), columns=2, heads=["a"]), "2 columns .* 1 were given"),
        (lambda: plots.grid(pictures(2), titles=["a", "b"], heads=["a", "b"]), "beside titles"),
        (lambda: plots.strip([pictures(2), pictures(3)]), "same number"),
        (lambda: plots.strip([]), "same number"),
        (lambda: plots.strip([pictures(2)], labels=["a", "b"]), "1 labels are needed"),
        (lambda: plots.scatter(torch.zeros(3, 3)), r"\(N, 2\)"),
        (lambda: plots.field(torch.zeros(3, 2), torch.zeros(2, 2)), "both be"),
    ],
)
def test_bad_input_says_what_was_given(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_show_stores_alt_prints_caption_and_closes(shown, capsys):
    before = open_figures()
    fig = plots.lines([0, 1], {"a": [0, 1], "b": [1, 0]}, xlabel="time t", ylabel="alpha")
    plots.show(fig, alt="two crossing lines", caption="They cross at one half.")
    ((bundle, metadata),) = shown
    stored = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert stored.mode == "P" and stored.width == 2 * 4.2 * 96 // 1
    assert metadata == {"image/png": {"alt": "two crossing lines", "width": stored.width // 2}}
    assert capsys.readouterr().out == "They cross at one half.\n"
    assert open_figures() == before


@pytest.mark.parametrize("words", [{"alt": " ", "caption": "c"}, {"alt": "a", "caption": ""}])
def test_show_needs_words(shown, words):
    with pytest.raises(ValueError, match="must say something"):
        plots.show(plots.grid(pictures()), **words)
    assert not shown
    with pytest.raises(TypeError):
        plots.show(plots.grid(pictures()))


def test_png_is_the_same_for_the_same_figure():
    assert plots.png(plots.grid(pictures())) == plots.png(plots.grid(pictures()))


def test_lines_differ_without_colour():
    fig = plots.lines([0, 1], {str(i): [i, i] for i in range(8)}, xlabel="x", ylabel="y", log="x")
    ax = fig.axes[0]
    looks = {(line.get_marker(), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == 8 and len({line.get_color() for line in ax.lines}) == 8
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("x", "y", "log")


def test_scatter_and_field_hold_the_numbers():
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    fig = plots.scatter(points, values=torch.tensor([1.0, 2.0]), label="log p", limits=4)
    assert np.array_equal(fig.axes[0].collections[0].get_offsets(), points)
    assert fig.axes[0].get_xlim() == (-4, 4) and fig.axes[1].get_ylabel() == "log p"
    fig = plots.field(points, torch.tensor([[3.0, 4.0], [0.0, 0.0]]), label="speed")
    arrows = fig.axes[0].collections[0]
    assert arrows.get_array().tolist() == [5.0, 0.0]
    assert np.allclose(arrows.U, [0.6, 0.0]) and np.allclose(arrows.V, [0.8, 0.0])


def test_importing_plots_does_not_import_matplotlib():
    code = """
import sys
from diffusion_lab.course import checks, lessons, plots, widgets
late = ("matplotlib", "ipywidgets", "IPython", "jupytext", "nbformat", "nbclient")
print([name for name in late if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_log_axes_of_few_values_name_them_plainly():
    fig = plots.lines([4, 8, 16], {"a": [2.0, 0.5, 0.3]}, xlabel="calls", ylabel="FD", log="xy")
    (ax,) = fig.axes
    fig.canvas.draw()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4", "8", "16"]
    words = {t.get_text() for t in ax.get_yticklabels()}
    assert {"0.3", "0.5", "1", "2"} <= words and not any("$" in word for word in words)


def test_balls_have_the_radii_given_in_the_units_of_the_axes():
    fig = plots.balls(torch.tensor([[0.0, 0.0], [1.5, -1.0]]), torch.tensor([0.5, 0.2]), limits=2.0)
    (ax,) = fig.axes
    ax.grid(False)
    fig.canvas.draw()
    sheet = np.asarray(fig.canvas.buffer_rgba())

    def blue(x, y):
        column, row = ax.transData.transform((x, y))
        red, _, blue, _ = sheet[round(len(sheet) - row), round(column)].tolist()
        return blue > red

    assert blue(0.4, 0.1) and blue(0.1, -0.4) and blue(1.5, -1.15) and blue(1.65, -1.0)
    assert not blue(0.6, 0.1) and not blue(0.1, -0.6) and not blue(1.5, -1.3) and not blue(1.2, -1)
    with pytest.raises(ValueError, match="radii"):
        plots.balls(torch.zeros(3, 2), torch.zeros(2))


def test_pixels_that_are_floats_are_told():
    """0..255 as floats would be shown nearly all white; a sampler exceeds 1 by little."""
    x = torch.rand(3, 1, 4, 4)
    for wrong in (255 * x, 255 * x.numpy()):
        with pytest.raises(ValueError, match=r"pixels 0..255 become data in \[-1, 1\]"):
            plots.picture(wrong)
    assert plots.picture(2.4 * x - 1.2).max() == 255
    assert plots.picture((255 * x).to(torch.uint8)).dtype.name == "uint8"
