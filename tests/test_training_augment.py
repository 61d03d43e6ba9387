"""Moving pictures: known moves come out where they must, and old trainings see what they saw."""

from __future__ import annotations

import pytest
import torch
from helpers import gen
from torch import nn

from diffusion_lab import data
from diffusion_lab.device import generator
from diffusion_lab.training import recipes, tasks
from diffusion_lab.training.augment import moved

STILL = {"flip": False, "shift": 0.0, "scale": 0.0, "turn": 0.0}
F32 = torch.float32


def dot(row: int, column: int, size: int = 9, n: int = 200) -> torch.Tensor:
    """White pictures with one black pixel."""
    x = torch.ones(n, 1, size, size, dtype=F32)
    x[:, :, row, column] = -1
    return x


def centre(x: torch.Tensor) -> torch.Tensor:
    """Where the ink lies, (B, 2) as row and column."""
    ink = (1 - x[:, 0]) / 2
    place = torch.arange(x.shape[-1], dtype=x.dtype)
    down, right = ink.sum(2) @ place, ink.sum(1) @ place
    return torch.stack([down, right], 1) / ink.sum((1, 2))[:, None]


def test_without_moves_a_picture_stays():
    x = torch.randn(4, 3, 8, 10, generator=gen(1), dtype=F32)
    torch.testing.assert_close(moved(x, gen(), **STILL), x, rtol=0, atol=1e-5)


def test_half_of_the_pictures_are_mirrored_exactly():
    x = torch.randn(400, 2, 8, 8, generator=gen(1), dtype=F32)
    y = moved(x, gen(3), **STILL | {"flip": True})
    mirrored = (y - x.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    same = (y - x).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored ^ same).all() and abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / 400**0.5


def test_a_shift_is_in_pixels_and_uniform():
    shift = centre(moved(dot(4, 4), gen(2), **STILL | {"shift": 2.0})) - 4
    assert shift.abs().max() <= 2.001
    # uniform on (-2, 2): standard deviation 2/sqrt(3); that of a variance of 200 is 0.9/14 of it
    assert shift.std(0).tolist() == pytest.approx([2 / 3**0.5] * 2, rel=0.15)
    assert abs(torch.corrcoef(shift.T)[0, 1]) < 4 / 200**0.5


def test_a_turn_keeps_the_distance_to_the_middle_also_on_oblong_pictures():
    for height, width in ((17, 17), (17, 31)):
        x = torch.ones(100, 1, height, width, dtype=F32)
        x[:, :, height // 2, width // 2 + 6] = -1
        y = moved(x, gen(5), **STILL | {"turn": 40.0})
        ink = (1 - y[:, 0]) / 2
        down = ink.sum(2) @ torch.arange(height, dtype=F32) / ink.sum((1, 2)) - height // 2
        right = ink.sum(1) @ torch.arange(width, dtype=F32) / ink.sum((1, 2)) - width // 2
        away = (down**2 + right**2).sqrt()
        assert (away - 6).abs().max() < 0.4
        angle = torch.rad2deg(torch.atan2(down, right))
        assert angle.abs().max() <= 43 and angle.std() == pytest.approx(40 / 3**0.5, rel=0.25)


def test_a_scale_of_a_quarter_makes_discs_of_that_size():
    place = torch.arange(33, dtype=F32) - 16
    disc = torch.where(place[:, None] ** 2 + place**2 <= 64, -1.0, 1.0)
    y = moved(disc.expand(100, 1, 33, 33), gen(4), **STILL | {"scale": 0.25})
    area = ((1 - y) / 2).sum((1, 2, 3))
    ratio = (area / ((1 - disc) / 2).sum()).sqrt()
    assert 0.72 < ratio.min() < 0.8 and 1.2 < ratio.max() < 1.28


def test_the_paper_is_white_or_what_is_asked_for():
    black = torch.full((50, 3, 8, 8), -1.0)
    for fill in (1.0, 0.25, -1.0):
        y = moved(black, gen(1), shift=3.0, fill=fill)
        assert min(-1.0, fill) - 1e-5 <= y.min() and y.max() <= max(-1.0, fill) + 1e-5
        assert (y.max() == pytest.approx(fill, abs=1e-5)) and y.shape == black.shape
    white = torch.ones(5, 3, 8, 8)
    torch.testing.assert_close(
        moved(white, gen(), turn=45.0), white
    )  # no colour comes from nowhere


def test_draws_depend_on_the_number_of_pictures_alone():
    one, other = gen(3), gen(3)
    moved(dot(1, 1, n=5), one), moved(dot(1, 1, size=7, n=5), other, **STILL)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shift": -1}, "shift must be a finite number >= 0"),
        ({"turn": float("nan")}, "turn must be"),
        ({"scale": 1.0}, "scale must be below 1"),
    ],
)
def test_wrong_settings(options, says):
    with pytest.raises(ValueError, match=says):
        moved(dot(1, 1, n=1), gen(), **options)
    with pytest.raises(ValueError, match=says):
        tasks.Classification(
            recipes.get("emoji-judge").but(options={"moved": options}), data.load("emoji")
        )


def test_wrong_pictures():
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        moved(torch.zeros(3, 8, 8), gen())
    with pytest.raises(ValueError, match="tensor of floats"):
        moved(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), gen())
    with pytest.raises(ValueError, match=r"torch\.Generator"):
        moved(torch.zeros(1, 3, 8, 8), 0)


# ---- in the classifier's task --------------------------------------------------------------------
def test_a_classifier_without_the_option_sees_what_it_always_saw():
    """The batch written out as it was: one shift for all, black outside, then the kept features."""
    recipe = recipes.get("digits-features")
    digits = data.load("digits")
    drawn = tasks.Classification(recipe, digits).draw(7)
    rng = generator(recipe.seed, 1, 7)
    pick = tasks.indices(len(digits), recipe.batch, recipe.seed, 7)
    dx, dy = torch.randint(-1, 2, (2,), generator=rng).tolist()
    x = nn.functional.pad(digits.x[pick], (1, 1, 1, 1), value=-1.0)
    assert torch.equal(drawn["x"], x.roll((dy, dx), (2, 3))[:, :, 1:-1, 1:-1])
    kept = torch.rand(recipe.batch, 64, generator=rng) >= 0.2
    assert torch.equal(drawn["kept"] > 0, kept) and torch.equal(
        drawn["labels"], digits.labels[pick]
    )


def test_with_the_option_each_emoji_moves_on_white():
    recipe, emoji = recipes.get("emoji-features").but(batch=32), data.load("emoji")
    task = tasks.Classification(recipe, emoji)
    one, again = task.draw(3), task.draw(3)
    assert all(torch.equal(one[k], again[k]) for k in one)
    pick = tasks.indices(len(emoji), 32, recipe.seed, 3)
    assert torch.equal(one["labels"], emoji.labels[pick])
    still = (one["x"] - emoji.x[pick]).abs().amax((1, 2, 3))
    assert (still > 0.1).float().mean() > 0.9
    corners = emoji.x[pick][:, :, [0, 0, -1, -1], [0, -1, 0, -1]].amin((1, 2)) > 0.99
    moved_corners = one["x"][corners][:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.sum() > 10 and (moved_corners > 0.9).double().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"move": {}}, "unknown option of the task 'classifier' 'move'. Did you mean 'moved'"),
        ({"moved": {"turns": 3}}, "unknown argument of augment.moved 'turns'.*'turn'"),
    ],
)
def test_unknown_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        tasks.Classification(recipes.get("emoji-judge").but(options=options), data.load("emoji"))
