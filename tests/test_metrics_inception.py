"""FID: the errors without weights, the conventions, and the pipeline with a tiny stand-in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusion_lab.device import generator
from diffusion_lab.errors import DataError
from diffusion_lab.files import sha256
from diffusion_lab.metrics import fid, frechet, inception
from diffusion_lab.metrics.frechet import Reference


@pytest.fixture(autouse=True)
def no_weights_around(monkeypatch):
    monkeypatch.delenv(inception.VARIABLE, raising=False)


def tiny() -> nn.Module:
    """Stands in for the network: the means of 3 x 2 tiles."""
    return nn.Sequential(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(6, 5))


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


def test_the_right_file_is_loaded(tmp_path, monkeypatch):
    net = tiny()
    path = tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    monkeypatch.setattr(inception, "SHA256", sha256(path))
    monkeypatch.setattr(inception, "build", tiny)
    found = inception.inception(str(path))
    assert torch.equal(found[2].weight, net[2].weight)
    assert not found.training and not found[2].weight.requires_grad


def test_pictures_are_rounded_made_coloured_and_resized():
    x = torch.rand(2, 1, 8, 8, generator=generator(0)) * 2.2 - 1.1
    out = inception.prepare(x)
    assert out.shape == (2, 3, 299, 299) and out.min() >= -1 and out.max() <= 1
    assert torch.equal(out[:, 0], out[:, 2])
    bytes_ = ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    same = F.interpolate(bytes_, size=(299, 299), mode="bilinear", align_corners=False)
    assert torch.allclose(out[:, :1], same, atol=1e-6)
    # a difference of less than half a level is none
    assert torch.equal(inception.prepare(bytes_ + 0.003), inception.prepare(bytes_ - 0.003))
    for shape in ((2, 2, 8, 8), (1, 8, 8)):
        with pytest.raises(ValueError, match="1 or 3"):
            inception.prepare(torch.zeros(shape))


def test_pooling_branches_are_those_of_the_tensorflow_network():
    models = pytest.importorskip("torchvision.models.inception")
    torch.manual_seed(0)
    x = torch.randn(1, 16, 5, 5)
    plain, means, maxima = (models.InceptionA(16, pool_features=4).eval() for _ in range(3))
    means.load_state_dict(plain.state_dict()), maxima.load_state_dict(plain.state_dict())
    inception._repool(means, inception._mean)
    inception._repool(maxima, inception._maximum)
    with torch.no_grad():
        a, b, c = plain(x), means(x), maxima(x)
        assert torch.equal(a[:, :-4], b[:, :-4]) and torch.equal(a[:, :-4], c[:, :-4])
        full = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1) * 9
        count = F.avg_pool2d(F.pad(torch.ones(1, 1, 5, 5), (1, 1, 1, 1)), 3, 1) * 9
        assert torch.allclose(b[:, -4:], plain.branch_pool(full / count), atol=1e-6)
        assert torch.equal(c[:, -4:], plain.branch_pool(F.max_pool2d(x, 3, 1, 1)))
        assert torch.equal(a[..., 1:4, 1:4], b[..., 1:4, 1:4])  # only the edges differ
        assert not torch.allclose(a[:, -4:], b[:, -4:])


@pytest.mark.slow
def test_the_network_has_the_shape_that_the_weights_need():
    pytest.importorskip("torchvision.models.inception")
    net = inception.build().eval()
    assert net.fc.weight.shape == (1008, 2048)
    numbers = sum(v.numel() for v in net.state_dict().values() if v.is_floating_point())
    assert 0 < 95_628_359 - 4 * numbers < 100_000  # the size of the file, but for its names
    out = inception.inception_features(torch.zeros(2, 1, 28, 28), net, batch=1)
    assert out.shape == (2, 2048) and out.dtype == torch.float64 and torch.equal(out[0], out[1])


def test_the_pipeline_is_frechet_of_features(monkeypatch):
    net = tiny()
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
