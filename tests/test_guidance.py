"""Guidance against the exact conditional and unconditional answers."""

from __future__ import annotations

import pytest
import torch
from helpers import F64, Same, randn
from torch import nn

from diffusion_lab.denoisers import Clipped, Denoiser, NetDenoiser, Prediction
from diffusion_lab.exact import FiniteData, GaussianMixture
from diffusion_lab.grids import grid
from diffusion_lab.guidance import guided
from diffusion_lab.samplers import ddim, ddpm, dpmpp_2m, euler, unipc
from diffusion_lab.schedules import EDM, VE, Linear, linear
from diffusion_lab.walk import sample, walk

MIX = GaussianMixture(
    [0.3, 0.7],
    [[1.0, 1.0], [-1.5, 0.2]],
    [[[0.3, 0.1], [0.1, 0.2]], [[0.15, 0.0], [0.0, 0.4]]],
)
LABEL = torch.tensor([0, 1, 1, 0])
NULL = torch.full((4,), 2)


@pytest.mark.parametrize("schedule", [Linear(), EDM(), VE(), linear(100)], ids=repr)
@pytest.mark.parametrize("t", [0.3, 0.8, torch.tensor([0.2, 0.4, 0.6, 0.9])], ids=str)
def test_scale_one_is_conditional_and_zero_unconditional(schedule, t):
    d, x = MIX.denoiser(schedule), randn(4, 2)
    for scale, plain in ((1.0, d(x, t, label=LABEL)), (0.0, d(x, t)), (0, d(x, t, label=NULL))):
        p = guided(d, scale)(x, t, label=LABEL)
        for name in ("x0", "eps", "v", "score"):
            assert torch.allclose(getattr(p, name), getattr(plain, name), rtol=1e-12), name


@pytest.mark.parametrize("scale", [-1.0, 0.4, 1.5, 3.0, 7.5])
def test_guidance_is_linear_in_every_reading(scale):
    """unconditional + scale (conditional - unconditional); their w is scale - 1."""
    d, x = MIX.denoiser(Linear()), randn(4, 2)
    yes, no, p = d(x, 0.5, label=LABEL), d(x, 0.5), guided(d, scale)(x, 0.5, label=LABEL)
    for name in ("x0", "eps", "v", "score"):
        a, b = getattr(yes, name), getattr(no, name)
        assert torch.allclose(getattr(p, name), b + scale * (a - b), atol=1e-12), name
        w = scale - 1
        assert torch.allclose(getattr(p, name), (1 + w) * a - w * b, atol=1e-12), name


def test_guided_score_is_that_of_the_sharpened_density():
    """The score of p(x) p(class | x)^scale, by autograd of the exact densities."""
    x = randn(4, 2).requires_grad_(True)
    alpha, sigma = Linear().alpha_sigma(0.4)
    for scale in (0.0, 1.0, 2.5):
        by_class = MIX.responsibilities(x, alpha, sigma).gather(1, LABEL[:, None])[:, 0]
        log = MIX.log_prob(x, alpha, sigma) + scale * by_class.log()
        (slope,) = torch.autograd.grad(log.sum(), x)
        p = guided(MIX.denoiser(Linear()), scale)(x.detach(), 0.4, label=LABEL)
        assert torch.allclose(p.score, slope, atol=1e-9)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "edm"])
def test_both_answers_come_from_one_call(kind):
    calls = []

    class Net(nn.Module):
        def forward(self, x, lam, label):
            calls.append((len(x), lam.numel(), label.tolist()))
            return 0.3 * x + label.to(x.dtype)[:, None, None, None]

    d, x = NetDenoiser(Net(), Linear(), kind, num_classes=10, shape=(1, 2, 2)), randn(3, 1, 2, 2)
    label, t = torch.tensor([3, 0, 9]), torch.tensor([0.2, 0.5, 0.7], dtype=F64)
    g = guided(d, 2.0)
    assert (g.nfe, g.shape, g.num_classes) == (2, (1, 2, 2), 10)
    together = g(x, t, label=label)
    assert calls == [(6, 6, [3, 0, 9, 10, 10, 10])]
    assert together.out.shape == x.shape
    for i in range(3):
        one = g(x[i : i + 1], t[i].item(), label=label[i : i + 1])
        for name in ("x0", "eps", "v", "score"):
            got = getattr(together, name)[i : i + 1]
            assert torch.allclose(got, getattr(one, name), rtol=1e-9, atol=1e-9), name


def test_learned_variance_is_the_conditional_one():
    class Net(nn.Module):
        def forward(self, x, lam, label):
            u = label.to(x.dtype)[:, None, None, None].expand_as(x)
            return torch.cat([x, u], dim=1)

    d = NetDenoiser(Net(), Linear(), "eps", num_classes=2, learned_var=True)
    p = guided(d, 3.0)(randn(2, 1, 2, 2), 0.5, label=torch.tensor([0, 1]))
    assert p.var_weight[:, 0, 0, 0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("step", [ddim(), ddpm(), dpmpp_2m()], ids=["ddim", "ddpm", "dpmpp"])
def test_a_guided_walk_counts_two(step):
    def noise(i, like):
        return randn(*like.shape, seed=i)

    d, x, times = MIX.denoiser(Linear()), randn(4, 2), grid(Linear(), 6)
    by_class = sample(walk(step, d, x, times, noise=noise, label=LABEL))
    one = sample(walk(step, guided(d, 1.0), x, times, noise=noise, label=LABEL))
    none = sample(walk(step, guided(d, 0.0), x, times, noise=noise, label=LABEL))
    assert (by_class.nfe, one.nfe) == (6, 12)
    assert torch.allclose(one.x, by_class.x, atol=1e-10)
    assert torch.allclose(none.x, sample(walk(step, d, x, times, noise=noise)).x, atol=1e-10)
    far = sample(walk(step, guided(d, 4.0), x, times, noise=noise, label=LABEL)).x
    sure = MIX.responsibilities(far).gather(1, LABEL[:, None])
    assert (sure > 0.99).all()


def test_guidance_on_another_schedule():
    x, s = randn(4, 2), EDM()
    moved = guided(MIX.denoiser(Linear()).on(s), 2.0)
    also = guided(MIX.denoiser(Linear()), 2.0).on(s)
    exact = guided(MIX.denoiser(s), 2.0)(x, 0.4, label=LABEL).x0
    assert torch.allclose(moved(x, 0.4, label=LABEL).x0, exact, atol=1e-8)
    assert torch.allclose(also(x, 0.4, label=LABEL).x0, exact, atol=1e-8)
    assert also.nfe == 2


def test_a_new_label_is_a_new_question():
    d = guided(MIX.denoiser(Linear()), 2.0)
    x = randn(4, 2)
    first, other = d(x, 0.5, label=LABEL).x0, d(x, 0.5, label=1 - LABEL).x0
    assert not torch.allclose(first, other)
    assert torch.equal(d(x, 0.5, label=LABEL).x0, first)


def test_bad_input():
    with pytest.raises(ValueError, match="needs a denoiser trained with classes"):
        guided(NetDenoiser(Same(), Linear()), 2.0)
    with pytest.raises(ValueError, match="needs a denoiser trained with classes"):
        guided(FiniteData(randn(3, 2)).denoiser(Linear()), 2.0)
    g = guided(MIX.denoiser(Linear()), 2.0)
    with pytest.raises(ValueError, match="call it with label="):
        g(randn(4, 2), 0.5)
    for label in (torch.tensor([0, 1, 1, 3]), torch.tensor([0, 1]), LABEL.float()):
        with pytest.raises(ValueError, match="label"):
            g(randn(4, 2), 0.5, label=label)


def test_levels_of_each_coordinate_and_a_kept_eps_pass_guidance():
    """(2,) levels with a batch of one are no batch; at scale 1 guidance changes nothing."""

    class Apart(Denoiser):
        num_classes = 2

        def forward(self, x_t, t, *, label):
            levels = torch.tensor([[0.9, 0.2]]), torch.tensor([[0.4, 0.98]])
            return Prediction(x_t, *levels, 0.5 * x_t + label[:, None], "eps")

    x, label = randn(1, 2), torch.tensor([1])
    plain = Apart(Linear())(x, 0.5, label=label)
    assert torch.allclose(guided(Apart(Linear()), 1.0)(x, 0.5, label=label).x0, plain.x0)
    clipped = Clipped(MIX.denoiser(Linear()), -0.3, 0.3, keep_eps=True)
    x, told = 2 * randn(4, 2), {"label": LABEL}
    plain, same = clipped(x, 0.5, **told), guided(clipped, 1.0)(x, 0.5, **told)
    assert torch.allclose(same.eps, plain.eps) and torch.allclose(same.x0, plain.x0)
    first = [
        sample(walk(step, clipped, x, [0.5, 0.3], **told)).x for step in (ddim(), unipc(), euler())
    ]
    assert torch.allclose(first[0], first[1]) and torch.allclose(first[0], first[2])
