"""FID: the errors without weights, the conventions, and the pipeline with a tiny stand-in."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from diffusion_lab.device import generator
from diffusion_lab.errors import DataError
from diffusion_lab.files import sha256
from diffusion_lab.metrics import fid, frechet, inception
from diffusion_lab.metrics.frechet import Reference


@pytest.fixture(autouse=True)
def no_weights_around(monkeypatch):
    monkeypatch.delenv(inception.VARIABLE, raising=False)


class Tiny(nn.Module):
    """Stands in for the network: a linear map of the means of 3 x 2 tiles."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        tiles = nn.functional.adaptive_avg_pool2d(x.float() / 255, (2, 1))
        return (self.linear(tiles.flatten(1)),)


def test_without_weights_it_says_which_file_and_where_from(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"pt_inception.*pytorch-fid.*metrics\.fd"):
        inception.inception()
    with pytest.raises(DataError, match="missing.pth is not there"):
        inception.inception(tmp_path / "missing.pth")
    monkeypatch.setenv(inception.VARIABLE, str(tmp_path / "elsewhere.pth"))
    with pytest.raises(DataError, match="elsewhere.pth is not there"):
        inception.inception()


def test_another_file_is_refused_unopened(tmp_path, monkeypatch):
    path = tmp_path / inception.FILE
    path.write_bytes(b"not weights")
    monkeypatch.setattr(torch, "load", lambda *given, **named: pytest.fail("it was opened"))
    with pytest.raises(DataError, match=rf"{sha256(path)[:12]}.*6726825d0af5"):
        inception.inception(path)


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"any")
    monkeypatch.setattr(inception, "SHA256", sha256(path))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(DataError, match="pip install torch-fidelity"):
        inception.inception(path)


def test_pictures_are_rounded_and_made_coloured():
    x = torch.rand(2, 1, 8, 8, generator=generator(0)) * 2.2 - 1.1
    out = inception.prepare(x)
    assert out.shape == (2, 3, 8, 8) and out.dtype == torch.uint8
    assert torch.equal(out[:, 0], out[:, 2])
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round()
    assert torch.equal(out[:, :1].float(), levels)
    # a difference of less than half a level is none
    exact = levels / 127.5 - 1
    assert torch.equal(inception.prepare(exact + 0.003), inception.prepare(exact - 0.003))
    colour = torch.rand(2, 3, 4, 4, generator=generator(1)) * 2 - 1
    assert not torch.equal(*inception.prepare(colour)[:, :2].unbind(1))
    for shape in ((2, 2, 8, 8), (1, 8, 8)):
        with pytest.raises(ValueError, match="1 or 3"):
            inception.prepare(torch.zeros(shape))


@pytest.mark.slow
def test_features_are_those_of_the_network_that_the_weights_are_from(tmp_path, monkeypatch):
    """With made-up weights in a file of the right form, against pytorch-fid on 299 x 299."""
    pytest.importorskip("torch_fidelity")
    theirs = pytest.importorskip("pytorch_fid.inception")
    from torchvision.models import Inception3

    torch.manual_seed(0)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: state)
    state = Inception3(1008, aux_logits=False, init_weights=False).state_dict()
    for name, value in state.items():
        if "running" in name:  # features that differ between pictures
            value.uniform_(0.05, 0.2)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    monkeypatch.setattr(inception, "SHA256", sha256(path))
    net = inception.inception(str(path))
    peer = theirs.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    x = torch.randint(256, (2, 3, 299, 299), generator=generator(0))
    ours = inception.inception_features(x / 127.5 - 1, net, batch=1)
    with torch.no_grad():
        expected = peer((x - 128) / 128)[0][:, :, 0, 0].double()
    assert ours.shape == (2, 2048) and (expected[0] - expected[1]).norm() > 0.01
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_the_pipeline_is_frechet_of_features(monkeypatch):
    net = Tiny()
    monkeypatch.setattr(inception, "inception", lambda weights, device: net)
    monkeypatch.setattr(inception, "FEWEST", 40)
    x = torch.rand(40, 1, 6, 6, generator=generator(1)) * 2 - 1
    y = torch.rand(50, 1, 6, 6, generator=generator(2)) * 2 - 0.5
    stats = [Reference.of(inception.inception_features(a, net, batch=7)) for a in (x, y)]
    assert fid(x, y) == pytest.approx(frechet(*stats), rel=1e-6)
    assert fid(x, stats[1]) == pytest.approx(fid(x, y), rel=1e-6) and fid(x, x) < 1e-9
    with pytest.raises(ValueError, match="there are 39 generated"):
        fid(x[:39], y)
    with pytest.raises(ValueError, match="there are 30 real"):
        fid(x, y[:30])
