"""Conditions pass through: tokens, a small picture, neighbours and labels, everywhere alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import F64, gen, randn
from torch import nn

from diffusion_lab.bound import bounds
from diffusion_lab.denoisers import Clipped, NetDenoiser
from diffusion_lab.exact import ExactDenoiser
from diffusion_lab.generate import SAMPLERS, generate
from diffusion_lab.grids import grid
from diffusion_lab.guidance import guided
from diffusion_lab.nets.layers import LevelEmbedding
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.samplers import ddim
from diffusion_lab.schedules import EDM, Linear, linear
from diffusion_lab.scheduling.dp_stride import measure
from diffusion_lab.walk import sample, walk

SD = 0.1
SHAPE = (1, 4, 4)
TABLE = randn(3, 16, seed=7).float()  # what each of three numbers of a token adds to the mean

MEANS = {  # condition (B, ...) -> where the data lie, (B, 1, 4, 4)
    "tokens": lambda c: (c.mean(1) @ TABLE.to(c.dtype)).reshape(-1, *SHAPE),
    "low": lambda c: nn.functional.interpolate(c, scale_factor=2),
    "neighbours": lambda c: c.mean(1),
    "label": lambda c: TABLE.double()[c % 3].reshape(-1, *SHAPE) * (c < 3)[:, None, None, None],
}
EXAMPLES = {  # two data's conditions
    "tokens": randn(2, 5, 3, seed=1).float(),
    "low": randn(2, 1, 2, 2, seed=2).float(),
    "neighbours": randn(2, 6, *SHAPE, seed=3).float(),
    "label": torch.tensor([0, 2]),
}
NULLS = {
    "tokens": torch.zeros(5, 3),
    "low": torch.zeros(1, 2, 2),
    "neighbours": 0.0,
    "label": 3,
}
KINDS = pytest.mark.parametrize("name", MEANS)


def exact(name, schedule=None):
    """N(mean of the condition, SD^2 I)."""

    def formula(x, alpha, sigma, **condition):
        (given,) = condition.values()
        mean = MEANS[name](given).to(x)
        gain = alpha * SD**2 / (alpha**2 * SD**2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return ExactDenoiser(schedule or Linear(), formula, shape=SHAPE)


def asked(name, n):
    """The two conditions by turns, and where their data lie."""
    condition = EXAMPLES[name][torch.arange(n) % 2]
    return {name: condition}, MEANS[name](condition).float()


@pytest.mark.parametrize("sampler", SAMPLERS)
@KINDS
def test_every_sampler_under_every_condition(name, sampler):
    condition, mean = asked(name, 60)
    drawn = generate(exact(name), 60, sampler=sampler, steps=40, condition=condition, batch=25).x
    for half in (slice(0, None, 2), slice(1, None, 2)):
        off = drawn[half].mean(0) - mean[half][0]
        assert off.abs().max() < 6 * SD / 30**0.5 + 0.03, "each half at its own place"


@pytest.mark.parametrize("sampler", SAMPLERS)
@KINDS
def test_every_sampler_under_guidance(name, sampler):
    """Equal variances: the guided law is the Gaussian at null + scale (mean - null)."""
    condition, mean = asked(name, 60)
    null = MEANS[name](torch.as_tensor(NULLS[name]).expand_as(condition[name])).float()
    drawn = generate(
        exact(name),
        60,
        sampler=sampler,
        steps=40,
        condition=condition,
        scale=2.0,
        null={name: NULLS[name]},
    )
    wanted = null + 2.0 * (mean - null)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        off = drawn.x[half].mean(0) - wanted[half][0]
        assert off.abs().max() < 6 * SD / 30**0.5 + 0.05


@KINDS
def test_guidance_pushes_away_from_the_null_that_is_given(name):
    denoiser, x = exact(name), randn(2, *SHAPE)
    condition = {name: EXAMPLES[name]}
    null = torch.as_tensor(NULLS[name]).expand_as(EXAMPLES[name])
    yes, no = denoiser(x, 0.5, **condition).x0, denoiser(x, 0.5, **{name: null}).x0
    for t in (0.5, torch.full((2,), 0.5, dtype=F64)):
        got = guided(denoiser, 1.7, **{name: NULLS[name]})(x, t, **condition).x0
        assert torch.allclose(got, no + 1.7 * (yes - no), atol=1e-12)
    assert torch.equal(guided(denoiser, 1.0, **{name: null})(x, 0.5, **condition).x0, yes)


def test_what_guidance_does_not_name_is_told_to_both_answers():
    def formula(x, alpha, sigma, *, tokens, low):
        return MEANS["tokens"](tokens).to(x) + MEANS["low"](low).to(x)

    denoiser = ExactDenoiser(Linear(), formula, shape=SHAPE)
    both = {name: EXAMPLES[name] for name in ("tokens", "low")}
    got = guided(denoiser, 3.0, tokens=NULLS["tokens"])(randn(2, *SHAPE), 0.5, **both).x0
    wanted = 3 * MEANS["tokens"](both["tokens"]) + MEANS["low"](both["low"])
    assert torch.allclose(got, wanted.double(), atol=1e-6)
    got = guided(denoiser, 3.0, tokens=NULLS["tokens"], low=NULLS["low"])(
        randn(2, *SHAPE), 0.5, **both
    ).x0
    wanted = 3 * (MEANS["tokens"](both["tokens"]) + MEANS["low"](both["low"]))
    assert torch.allclose(got, wanted.double(), atol=1e-6)


@KINDS
def test_bounds_and_errors_take_conditions_of_any_rank(name):
    """D_t of a Gaussian is sigma^2 s^2/(alpha^2 s^2 + sigma^2), whatever the condition."""
    condition, mean = asked(name, 40)
    x0 = (mean + SD * randn(*mean.shape, seed=5)).double()
    schedule = linear(1000)
    denoiser = exact(name, schedule)
    times = [1.0, 0.5, 0.1, 0.0]
    found = bounds(denoiser, x0, times, noise=gen(0), levels=None, batch=16, **condition)["small"]
    errors = measure(denoiser, x0, times[:-1], noise=gen(1), levels=None, batch=16, **condition)
    for given in (found.error, errors.error.flip(0)):
        for t, error in zip(times, given.tolist()):
            alpha, sigma = schedule.alpha_sigma(t)
            wanted = sigma**2 * SD**2 / (alpha**2 * SD**2 + sigma**2)
            assert error == pytest.approx(wanted, rel=6 * (2 / x0.numel()) ** 0.5)


# ---- small trained networks ---------------------------------------------------------------------
class Net(nn.Module):
    """An MLP that is told one condition, of any shape, as what ``read`` makes of it."""

    def __init__(self, name):
        super().__init__()
        self.name, self.level = name, LevelEmbedding(32)
        self.body = nn.Sequential(
            nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 16)
        )

    def forward(self, x, lam, **condition):
        told = MEANS[self.name](condition[self.name]).to(x).flatten(1)  # (B, 16)
        level = self.level(lam, None, len(x)).expand(len(x), -1)
        return self.body(torch.cat([x.flatten(1), told, level], dim=1)).reshape(x.shape)


@pytest.fixture(scope="module")
def trained():
    made = {}

    def train(name):
        if name not in made:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                net = Net(name)
            model = NetDenoiser(net, EDM(20.0), sd=0.8, shape=SHAPE, lam_range=(-2.9957, 4.0))
            loss = DiffusionLoss(model, Weighting("edm", {"sd": 0.8}))
            adam = torch.optim.Adam(net.parameters(), 3e-3)
            like = EXAMPLES[name]
            for step in range(300):
                g = gen(step)
                if name == "label":
                    condition = torch.randint(4, (64,), generator=g)
                else:
                    condition = torch.randn(64, *like.shape[1:], generator=g)
                    condition[torch.rand(64, generator=g) < 0.1] = 0.0
                x0 = MEANS[name](condition).float()
                x0 = x0 + SD * torch.randn(x0.shape, generator=g)
                t = draw_times(model.schedule, 64, g, law="lambda", lam_range=model.lam_range)
                adam.zero_grad()
                loss(
                    x0, t, torch.randn(x0.shape, generator=g), **{name: condition}
                ).mean().backward()
                adam.step()
            made[name] = model.eval().requires_grad_(False)
        return made[name]

    return train


@pytest.mark.parametrize("name", ["tokens", "low", "neighbours"])
def test_a_trained_network_follows_its_condition_under_every_sampler(name, trained):
    model = trained(name)
    condition, mean = asked(name, 40)
    for sampler in SAMPLERS:
        steps = 60 if sampler == "annealed-langevin" else 12
        for more in ({}, {"clip": (-9.0, 9.0)}, {"scale": 1.5, "null": {name: NULLS[name]}}):
            drawn = generate(model, 40, sampler=sampler, steps=steps, condition=condition, **more).x
            wanted = mean * more.get("scale", 1.0)  # the null's mean is 0
            apart = (wanted[0] - wanted[1]).square().mean().sqrt()
            off = (drawn - wanted).square().mean().sqrt()
            assert off < 0.45 * apart, (sampler, more)


# ---- what does not fit --------------------------------------------------------------------------
def test_a_condition_that_does_not_fit_is_refused():
    denoiser, (condition, _) = exact("tokens"), asked("tokens", 4)
    with pytest.raises(ValueError, match="tokens must have one row for each of the 6 samples"):
        generate(denoiser, 6, condition=condition, steps=2)
    with pytest.raises(ValueError, match="tokens=empty"):
        generate(denoiser, 4, condition=condition, scale=2.0, steps=2)
    with pytest.raises(ValueError, match="needs labels: give label=... .or condition"):
        generate(denoiser, 4, scale=2.0, steps=2)
    with pytest.raises(ValueError, match=r"null of tokens has shape \(7, 3\), which does not fit"):
        generate(denoiser, 4, condition=condition, scale=2.0, null={"tokens": torch.zeros(7, 3)})
    with pytest.raises(ValueError, match="nothing to push towards: call it with tokens="):
        guided(denoiser, 2.0, tokens=NULLS["tokens"])(randn(4, *SHAPE), 0.5)
    with pytest.raises(ValueError, match="Did you mean 'label'"):
        generate(denoiser, 4, labels=torch.zeros(4, dtype=torch.int64), steps=2)

    def only(x, alpha, sigma, *, low):
        return x

    with pytest.raises(ValueError, match="unknown condition .*'tokens'"):
        ExactDenoiser(Linear(), only)(randn(2, *SHAPE), 0.5, tokens=EXAMPLES["tokens"])


def test_a_call_of_its_own_may_be_told_more():
    """``ask(x, t, z=...)``: what one call alone is conditioned on (DDGAN's z)."""
    seen = []

    def formula(x, alpha, sigma, *, tokens, z):
        seen.append(z)
        return MEANS["tokens"](tokens).to(x) + z

    def step(ask, x, t, s):
        return ask(x, t, z=torch.full_like(x, 0.25)).x0

    condition, mean = asked("tokens", 2)
    states = walk(step, ExactDenoiser(Linear(), formula), randn(2, *SHAPE), [1.0, 0.0], **condition)
    assert torch.allclose(sample(states).x, mean.double() + 0.25, atol=1e-6) and len(seen) == 1


def test_wrappers_hand_conditions_on():
    condition, _ = asked("low", 2)
    x, d = randn(2, *SHAPE), exact("low")
    plain = d(x, 0.5, **condition).x0
    assert torch.equal(Clipped(d, -9.0, 9.0)(x, 0.5, **condition).x0, plain)
    there = EDM().t_of_lam(Linear().lam(0.5))
    moved = d.on(EDM())(x / Linear().alpha(0.5), there, **condition).x0
    assert torch.allclose(moved, plain, atol=1e-9)
    states = walk(ddim(), d, x, grid(Linear(), 3), **condition)
    assert torch.isfinite(sample(states).x).all()


def test_a_text_model_in_forty_lines():
    """tests/text_toy.py touches nothing of the package; its samples lie where the words say."""
    folder = Path(__file__).parent
    lines = [
        line
        for line in (folder / "text_toy.py").read_text().splitlines()
        if line.strip() and not line.strip().startswith(("#", '"""'))
    ]
    assert len(lines) < 40
    code = "import torch; torch.set_num_threads(1); from text_toy import drawn, guided; "
    code += "print(*drawn.mean(0).tolist(), *drawn.std(0).tolist(), *guided.x.mean(0).tolist())"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    x, y, sx, sy, gx, gy = map(float, run.stdout.split())
    assert abs(x + 2) < 0.4 and abs(y - 2) < 0.4 and max(sx, sy) < 0.3
    assert gx < -2.4 and gy > 2.4, "guidance goes further"
