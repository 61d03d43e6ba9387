"""Widgets: driven without a front end, and still a figure where nothing runs."""

from __future__ import annotations

import base64

import pytest
import torch

from diffusion_lab.course import plots, widgets
from diffusion_lab.course.cells import tidy
from diffusion_lab.course.widgets import choice, explore, player, slider, text, toggle

VIEW = "application/vnd.jupyter.widget-view+json"


def draw(t, kind="linear", on=True):
    if t > 0.95:
        raise ValueError("t is <too> large")
    return plots.lines([0, 1], {kind: [0, t]}, xlabel="time t", ylabel="alpha")


def explorer(**more):
    options = {
        "t": slider("time t", 0.3, 0, 1, 0.01, unit="of the way"),
        "kind": choice("schedule", ["linear", "cosine"]),
        "on": toggle("with noise", True),
        "alt": lambda t, kind, on: f'a "{kind}" line to {t:.2f}',
        "caption": "The line rises.",
    }
    return explore(draw, **(options | more))


def test_set_redraws():
    seen = explorer()
    first = seen.data
    assert seen.redraws == 1 and first.startswith(b"\x89PNG")
    assert seen.values == {"t": 0.3, "kind": "linear", "on": True}
    seen.set(t=0.7)
    assert seen.redraws == 2 and seen.data != first and seen.values["t"] == 0.7
    seen.set(kind="cosine")
    assert 'alt="a &quot;cosine&quot; line to 0.70"' in seen.screen.value
    assert base64.b64encode(seen.data).decode() in seen.screen.value
    seen.set(t=0.3, kind="linear")
    assert seen.data == first


def test_children_move_it_too():
    seen = explorer()
    seen.children[0].value = 0.5
    assert seen.values["t"] == 0.5 and seen.redraws == 2


def test_each_control_has_a_label_with_its_unit_and_waits_for_the_hand():
    control, listed, ticked, *_ = explorer().children
    assert control.description == "time t (of the way)" and control.tooltip == control.description
    assert control.continuous_update is False
    assert listed.description == "schedule" and ticked.description == "with noise"


def test_a_line_to_type_in_waits_for_enter_and_is_shown_as_it_is():
    seen = explore(
        lambda words: plots.lines(
            [0, 1], {words or "none": [0, len(words)]}, xlabel="x", ylabel="y"
        ),
        words=text("words", "red heart"),
        alt=lambda words: f"of {words}",
        caption="A line.",
    )
    line, first = seen.children[0], seen.data
    assert (line.value, line.continuous_update) == ("red heart", False)
    assert line.description == line.tooltip == "words"
    line.value = "<b>dog"
    assert seen.values == {"words": "<b>dog"} and seen.data != first and seen.error == ""
    assert 'alt="of &lt;b&gt;dog"' in seen.screen.value and "<b>" not in seen.screen.value
    seen.set(words="red heart")
    assert seen.data == first


def test_an_error_is_shown_and_mends_itself():
    seen = explorer()
    seen.set(t=0.99)
    assert seen.error == "ValueError: t is <too> large"
    assert seen.screen.value == "<pre>ValueError: t is &lt;too&gt; large</pre>"
    seen.set(t=0.2)
    assert seen.error == "" and "<img" in seen.screen.value


def test_first_drawing_may_raise():
    with pytest.raises(ValueError, match="too"):
        explorer(t=slider("time t", 1.0, 0, 1, 0.01))


def test_the_still_figure_is_an_output_of_its_own(shown, capsys):
    seen = explorer()
    seen._ipython_display_()
    (live, _), (still, metadata) = shown
    assert live[VIEW]["model_id"] == seen.box.model_id and "image/png" not in live
    assert set(still) == {"image/png", "text/plain"}  # nothing that a front end would prefer
    assert base64.b64decode(still["image/png"]) == seen.data
    assert metadata["image/png"]["alt"] == 'a "linear" line to 0.30'
    assert capsys.readouterr().out == "The line rises.\n"


def test_only_a_live_widget_hides_the_still_figure(shown):
    """The rule that hides the next output lives in the widget, and asks for its class."""
    seen = explorer()
    seen._ipython_display_()
    assert widgets.ALIVE in seen.box._dom_classes
    values = [str(getattr(child, "value", "")) for child in seen.children]
    rules = [value for value in values if "<style>" in value]
    assert rules == [widgets.HIDE_STILL] and f":has(.{widgets.ALIVE}) +" in rules[0]
    assert not any("style" in str(value) for bundle, _ in shown for value in bundle.values())


def test_drawing_is_announced_while_it_works():
    said = []

    def slow(t):
        if seen:
            said.append(seen[0].busy.value)
        return draw(t)

    seen = []
    seen.append(explore(slow, t=slider("t", 0.1, 0, 1, 0.01), alt="a", caption="c"))
    (one,) = seen
    assert one.busy in one.children and "drawing" not in one.busy.value
    one.set(t=0.2)
    assert "drawing" in said[0] and "drawing" not in one.busy.value
    one.set(t=0.99)  # draw raises
    assert one.error and "drawing" in said[1] and "drawing" not in one.busy.value


def test_no_figure_is_left_open():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    explorer().set(t=0.4)
    assert plt.get_fignums() == before


def test_player(shown):
    frames = [torch.full((4, 1, 3, 3), value) for value in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    seen = player(frames, titles=["1", "0.75", "0.5", "0.25", "0"], alt="fades in", caption="Look.")
    assert seen.values == {"step": 4}
    play = seen.children[0]
    assert (play.min, play.max, play.value) == (0, 4, 4)
    shots = {seen.set(step=i).data for i in range(5)}
    assert len(shots) == 5
    announced = []
    seen.busy.observe(announced.append, names="value")
    seen.set(step=0)
    assert not announced  # nothing to wait for


@pytest.mark.parametrize(("still", "words"), [("", "frame 2"), ("a strip", "a strip")])
def test_player_stores_a_strip_with_its_own_words(shown, still, words):
    frames = [torch.full((4, 1, 3, 3), value) for value in (-1.0, 0.0, 1.0)]
    seen = player(frames, alt=lambda step: f"frame {step}", caption="Look.", still=still)
    seen.set(step=1)
    assert 'alt="frame 1"' in seen.screen.value
    seen._ipython_display_()
    bundle, metadata = shown[1]
    assert base64.b64decode(bundle["image/png"]) == seen.still[0] != seen.data
    assert metadata["image/png"]["alt"] == words


def test_the_strip_of_a_player_shows_the_rows_that_are_named(monkeypatch):
    frames = [torch.tensor([value, 0.0, -value]).reshape(3, 1, 1, 1) for value in (-1.0, 1.0)]
    drawn, draw_strip = [], widgets.strip

    def spy(rows, **words):
        drawn.append(([row.flatten().tolist() for row in rows], words["labels"]))
        return draw_strip(rows, **words)

    monkeypatch.setattr(widgets, "strip", spy)
    player(frames, alt="a", caption="c")
    player(frames, alt="a", caption="c", rows={"held": 0, "guess": 2})
    assert drawn == [([[-1, 1]], None), ([[-1, 1], [1, -1]], ["held", "guess"])]


def test_saved_shut_down_and_read_again_the_figure_is_there():
    """What a learner's front end stores: each output on its own, the widget's without state."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    code = (
        "from diffusion_lab.course import plots\n"
        "from diffusion_lab.course.widgets import explore, slider\n"
        "explore(lambda t: plots.lines([0, 1], {'a': [0, t]}, xlabel='t', ylabel='y'),\n"
        "        t=slider('t', 1, 0, 2, 1), alt='a line', caption='It rises.')"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, kernel_name="python3", store_widget_state=False).execute()
    kinds = [set(out.get("data", {})) for out in notebook.cells[0].outputs]
    words = {"text/html", "text/plain"}
    assert kinds == [{VIEW, "text/plain"}, {"image/png", "text/plain"}, words]
    figure, below = tidy(notebook).cells[0].outputs
    assert figure.metadata["image/png"]["alt"] == "a line"
    assert below.data["text/plain"] == "It rises." and "a line</details>" in below.data["text/html"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: explore(draw, alt="a", caption="c"), "at least one control"),
        (lambda: explorer().set(s=1), "unknown control 's'"),
        (lambda: slider("time", 2, 0, 1, 0.1), "value 2"),
        (lambda: slider("time", 0, 0, 1, 0), "step 0"),
        (lambda: choice("kind", []), "at least one option"),
        (lambda: choice("kind", ["linear"], "liner"), "Did you mean 'linear'"),
        (lambda: player([torch.zeros(1, 1, 2, 2)], alt="a", caption="c"), "at least two frames"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_draw_must_return_a_figure():
    with pytest.raises(TypeError, match="must return a figure"):
        explore(lambda t: None, t=slider("t", 0, 0, 1, 1), alt="a", caption="c")


def test_whole_numbers_stay_whole():
    seen = explore(
        lambda n: plots.lines([0, 1], {"a": [0, n]}, xlabel="x", ylabel="y"),
        n=slider("steps", 3, 1, 9, 1),
        alt="a",
        caption="c",
    )
    assert seen.set(n=5).values == {"n": 5} and isinstance(seen.values["n"], int)
