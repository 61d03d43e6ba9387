"""Pictures in a file: what is drawn, and what is refused. The array is tested with the plots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_lab import pictures
from diffusion_lab.course import plots


def test_the_file_holds_the_sheet(tmp_path):
    images = torch.rand(5, 3, 4, 6) * 2 - 1
    pictures.save_grid(tmp_path / "a.PNG", images, columns=2, zoom=3)
    with Image.open(tmp_path / "a.PNG") as picture:
        sheet = pictures.picture(images, columns=2, zoom=3)
        assert np.array_equal(np.asarray(picture), sheet)
    assert plots.picture is pictures.picture and plots.save_grid is pictures.save_grid


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt"])
def test_another_ending_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="must end in .png"):
        pictures.save_grid(tmp_path / name, torch.zeros(1, 1, 4, 4))
    assert not list(tmp_path.iterdir())


def test_pictures_of_nan_are_not_saved_black(tmp_path):
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="hold nan, and would be saved black"):
        pictures.save_grid(tmp_path / "a.png", images)
    assert not list(tmp_path.iterdir())
