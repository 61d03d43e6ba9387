"""What lessons lean on: FLOPs by part, train or load, a figure drawn again, the running table."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

from diffusion_lab import checkpoints
from diffusion_lab.course import building, lessons, plots
from diffusion_lab.data import toys
from diffusion_lab.metrics import Cost, count_flops, flops_by_part
from diffusion_lab.training import build, load_or_train, recipes, train
from diffusion_lab.training.recipes import Recipe


def test_flops_by_part_add_up():
    recipe = recipes.get("fashion")
    from diffusion_lab.data import load

    model = build(recipe, load("fashion"))
    parts = flops_by_part(model)
    assert sum(parts.values()) == count_flops(model)
    # by hand: a 3x3 convolution of the 14x14 map from 4 to 32 channels, a multiply-add as two
    assert parts["first"] == 2 * 14 * 14 * 9 * 4 * 32


def test_a_toy_is_trained_on_like_pictures():
    ring = toys.dataset("ring", 500, seed=3)
    assert ring.x.shape == (500, 2) and ring.x.dtype == torch.float32
    assert ring.std == pytest.approx(ring.x.double().std(correction=0).item(), rel=1e-5)
    assert ring.hash == toys.dataset("ring", 500, seed=3).hash
    recipe = Recipe("toy", "", net={"name": "mlp", "width": 16}, conditional=False, batch=8)
    (progress,) = train(recipe, data=ring, steps=2)
    assert progress.model(torch.zeros(4, 2), 0.5).x0.shape == (4, 2)


def test_load_or_train_says_which_branch_ran(tmp_path, monkeypatch, capsys):
    net = {"name": "unet", "patch": 1, "widths": (8, 8), "emb": 8}
    tiny = Recipe("tiny", "", data="digits", net=net, steps=2, batch=4)
    monkeypatch.setitem(recipes.RECIPES, "tiny", tiny)
    first = load_or_train("tiny", folder=tmp_path)
    said = capsys.readouterr().out
    assert "tiny: trained here, just now, sha256" in said and "2 steps" in said
    again = load_or_train("tiny", folder=tmp_path)
    assert "loaded what was trained here before" in capsys.readouterr().out
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.log.csv", "tiny.safetensors"]
    load_or_train("tiny", folder=tmp_path, steps=3)  # another recipe: not that file
    assert "just now" in capsys.readouterr().out
    monkeypatch.setattr(checkpoints, "shipped", lambda: ["tiny"])
    monkeypatch.setattr(checkpoints, "find", lambda name: tmp_path / "tiny.safetensors")
    load_or_train("tiny")
    assert "loaded the shipped checkpoint" in capsys.readouterr().out


def test_a_live_figure_needs_words_and_closes_its_figures(capsys):
    with pytest.raises(ValueError, match="alt"):
        plots.Live(alt=" ", caption="c")
    before = plt.get_fignums()
    view = plots.Live(alt="a", caption="the caption")
    for _ in range(2):
        view.draw(plots.training([1, 2], [0.5, 0.4], torch.zeros(4, 1, 8, 8)))
    view.close()
    assert plt.get_fignums() == before and capsys.readouterr().out == "the caption\n"


def test_rows_of_the_running_table_are_found_again(tmp_path):
    row = {"system": "a", **Cost(10, 16, 1000, 2e6, 1.0, 1.0).row(), "FD / A": 1.2}
    cell = f"from diffusion_lab.course import lessons\nlessons.cost_row(3, {row}, {row})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    building.execute(notebook, at="live")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "03_x.py").write_text("")
    (tmp_path / "solutions").mkdir()
    nbformat.write(notebook, tmp_path / "solutions" / "03_x.ipynb")
    assert lessons.cost_rows(tmp_path) == [{"lesson": "03"} | row] * 2
    shown = json.dumps(notebook.cells[0].outputs[0].data["text/plain"])
    assert "core-s / 1000" in shown and "100" in shown and "100.0" not in shown
    building.execute(notebook, at="smoke")  # shows the rows, and leaves nothing to be found
    nbformat.write(notebook, tmp_path / "solutions" / "03_x.ipynb")
    assert json.dumps(notebook.cells[0].outputs[0].data["text/plain"]) == shown
    assert lessons.cost_rows(tmp_path) == []
    with pytest.raises(ValueError, match="same columns"):
        lessons.cost_row(3, row, {"system": "b"})
