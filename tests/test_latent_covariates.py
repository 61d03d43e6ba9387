"""Covariates: the two ways in, and phantoms that were asked for."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, gen, randn
from torch import nn

from diffusion_lab.data import phantoms
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.latent.covariates import PHANTOMS, WAYS, CovariateUNet, agreement
from diffusion_lab.nets import UNet
from diffusion_lab.schedules import Linear
from diffusion_lab.training import train
from diffusion_lab.training.tasks import Diffusion

LAM = torch.tensor([0.3], dtype=F64)
TINY = PHANTOMS.but(
    net=PHANTOMS.net | {"widths": (8, 8), "emb": 8},
    steps=4,
    batch=4,
    sampler={"sampler": "ddim", "steps": 2},
)


def network(*ways):
    torch.manual_seed(0)
    net = CovariateUNet(2, 4, ways, widths=(8, 8), emb=8).double()
    for p in net.parameters():  # what starts at zero would hide the rest
        if not p.any():
            nn.init.normal_(p, std=0.2)
    return net


class Says(nn.Module):
    """An embedding that is what it was given."""

    def __init__(self, emb):
        super().__init__()
        self.emb = emb

    def forward(self, lam, label, n):
        return self.emb


# ---- the network --------------------------------------------------------------------------------
@pytest.mark.parametrize("ways", [WAYS, WAYS[:1], WAYS[1:]], ids="-".join)
def test_covariates_are_channels_a_part_of_the_level_or_both(ways):
    net = network(*ways)
    x, c = randn(3, 2, 8, 8), randn(3, 4, seed=1)
    told = torch.cat([x, c[:, :, None, None].expand(-1, -1, 8, 8)], 1)
    plain = UNet(6 if "channels" in ways else 2, 2, widths=(8, 8), emb=8).double()
    same = {k: v for k, v in net.state_dict().items() if not k.startswith("level.told")}
    plain.load_state_dict({k.replace("level.level", "level"): v for k, v in same.items()})
    if "embedding" in ways:  # the embedding that the network should come to, as a level of its own
        emb = plain.level(LAM, None, 3) + net.level.told(c)
        plain.level = Says(emb)
    expected = plain(told if "channels" in ways else x, LAM)
    torch.testing.assert_close(net(x, LAM, c), expected, rtol=0, atol=1e-12)
    assert (net(x, LAM, c) - net(x, LAM, c.flip(0))).abs().max() > 1e-4


def test_covariates_that_are_not_said_are_the_null_of_the_data():
    net, x = network(*WAYS), randn(2, 2, 8, 8)
    null = torch.full((2, 4), phantoms.NO_COVARIATES, dtype=F64)
    assert torch.equal(net(x, LAM), net(x, LAM, null))


def test_covariates_that_do_not_fit_are_refused():
    model, x = NetDenoiser(network(*WAYS), Linear()), randn(2, 2, 8, 8)
    for given, says in (
        (randn(2, 3), r"covariates must have shape \(B, 4\)"),
        (randn(3, 4), "covariates must have 2 rows; got 3"),
    ):
        with pytest.raises(ValueError, match=says):
            model(x, 0.5, covariates=given)
    with pytest.raises(ValueError, match="unknown way of conditioning 'channel'"):
        CovariateUNet(ways=("channel",))
    for wrong in ((), None):
        with pytest.raises(ValueError, match="ways are some of channels, embedding"):
            CovariateUNet(ways=wrong) if wrong == () else CovariateUNet(num_classes=3)
    with pytest.raises(ValueError, match="unknown argument of the U-Net 'width'"):
        CovariateUNet(width=3)


# ---- what was asked for -------------------------------------------------------------------------
def test_true_phantoms_obey_and_shuffled_requests_do_not():
    n = 300
    parameters = phantoms.draw(n, gen(0))
    x = phantoms.render(parameters)
    assert all(r > 0.99 for r in agreement(parameters, x).values())
    shuffled = parameters[torch.randperm(n, generator=gen(1))]
    assert all(abs(r) < 4 / math.sqrt(n) for r in agreement(shuffled, x).values())


def test_pictures_without_a_head_are_left_out():
    parameters = phantoms.draw(20, gen(0))
    x = phantoms.render(parameters)
    black = torch.full_like(x[:5], -1.0)
    both = agreement(torch.cat([parameters, parameters[:5].flip(0)]), torch.cat([x, black]))
    assert both == pytest.approx(agreement(parameters, x))
    assert all(math.isnan(r) for r in agreement(parameters[:5], black).values())
    with pytest.raises(ValueError, match="20 rows of parameters for 5 pictures"):
        agreement(parameters, black)


def test_a_network_is_trained_on_phantoms_and_their_parameters():
    data = phantoms.dataset(12, gen(0))
    *_, last = train(TINY, data=data)
    assert isinstance(last.model.net, CovariateUNet) and math.isfinite(last.loss)
    job = Diffusion(TINY, data)
    assert job.conditions == ("covariates",)
    batch = job.draw(0)
    null = (batch["covariates"] == phantoms.NO_COVARIATES).all(1)
    known = {tuple(row) for row in data.condition["covariates"].tolist()}
    assert all(tuple(row) in known for row in batch["covariates"][~null].tolist())
