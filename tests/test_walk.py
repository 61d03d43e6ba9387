"""The walk's openings: any tensor, noise by level, rising grids, relays, a seed for each."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import MIX, Same, gen, randn

from diffusion_lab.bound import bounds
from diffusion_lab.denoisers import Clipped, Denoiser, NetDenoiser, Prediction
from diffusion_lab.exact import ExactDenoiser, Gaussian
from diffusion_lab.forward import best_variance
from diffusion_lab.generate import SAMPLERS, generate
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim, ddpm, dpm_solver, dpmpp_2m, emsde, split_calls
from diffusion_lab.schedules import EDM, Cosine, Linear, Schedule, linear, zero_terminal_snr
from diffusion_lab.scheduling.dp_stride import measure
from diffusion_lab.walk import gaussian, relay, sample, walk

S = Linear()
X = randn(5, 2)


# ---- x may be anything --------------------------------------------------------------------------
class Tokens(Denoiser):
    """Says that every masked token (the last one) is its place."""

    def forward(self, x_t, t):
        clean = torch.arange(x_t.shape[1]).expand_as(x_t)
        return Prediction(x_t, 1.0, 0.0, torch.where(x_t == 4, clean, x_t), "x0", ab=(0, 1))


def unmask(ask, x, t, s):
    place = int(x.shape[1] * (1 - t))
    told = ask(x, t).out
    return torch.cat([told[:, : place + 1], x[:, place + 1 :]], dim=1)


def test_tokens_walk_too():
    x = torch.full((3, 4), 4)
    states = list(walk(unmask, Tokens(S), x, [1.0, 0.75, 0.5, 0.25, 0.0]))
    assert states[1].x[0].tolist() == [0, 4, 4, 4]
    result = sample(walk(unmask, Tokens(S), x, [1.0, 0.75, 0.5, 0.25, 0.0]))
    assert result.x.dtype == torch.int64 and result.x[2].tolist() == [0, 1, 2, 3]
    assert result.nfe == 4


# ---- noise whose law depends on the level -------------------------------------------------------
def test_a_source_with_an_s_is_told_where_the_step_leads():
    told = []

    def source(i, like, s):
        told.append((i, s))
        return torch.full_like(like, s)

    times = [1.0, 0.6, 0.3, 0.0]
    *_, before, last = walk(ddpm(), MIX.denoiser(S), X, times, noise=source)
    assert told == [(0, 0.6), (1, 0.3)], "none at the last step"
    plain = list(
        walk(ddpm(), MIX.denoiser(S), X, times, noise=lambda i, like: like * 0 + told[i][1])
    )
    assert torch.equal(plain[-2].x, before.x) and torch.equal(plain[-1].x, last.x)
    # a default that is no s stays a default
    fixed = torch.ones_like(X)
    states = walk(ddpm(), MIX.denoiser(S), X, times, noise=lambda i, like, z=fixed: z)
    assert torch.isfinite(sample(states).x).all()


# ---- times that rise ----------------------------------------------------------------------------
def test_a_list_of_times_rises_only_where_the_step_says_so():
    times = [0.5, 0.8, 0.2, 0.0]
    with pytest.raises(ValueError, match="must fall from noise to data"):
        walk(ddim(), MIX.denoiser(S), X, times)
    moved = ddim()

    def step(ask, x, t, s):  # RePaint's: noise is added on the way up
        if s > t:
            k = S.alpha(s) / S.alpha(t)
            return k * x + math.sqrt(S.sigma(s) ** 2 - (k * S.sigma(t)) ** 2) * ask.noise(x, s)
        return moved(ask, x, t, s)

    step.up = True
    states = list(walk(step, MIX.denoiser(S), X, times, noise=gaussian(gen())))
    assert [s.s for s in states] == times and states[-1].nfe == 2
    with pytest.raises(ValueError, match="time number 1 is 0.5 after 0.5"):
        walk(step, MIX.denoiser(S), X, [0.5, 0.5])


# ---- relays -------------------------------------------------------------------------------------
def test_a_relay_is_one_walk_with_one_count():
    """Cut a deterministic walk in two: the same states, and calls counted through."""
    d, times = MIX.denoiser(S), grid(S, 8)
    whole = sample(walk(ddim(), d, X, times), keep=True)
    parts = sample(
        relay(
            walk(ddim(), d, X, times[:4]),
            lambda end: walk(ddim(), d, end.x, times[3:6]),
            lambda end: walk(ddim(), d, end.x, times[5:]),
        ),
        keep=True,
    )
    assert torch.equal(parts.x, whole.x) and parts.nfe == whole.nfe == 8
    steps = [s for s in parts.path if s.t != s.s]  # each walk yields its first state too
    assert [(s.i, s.s, s.nfe) for s in steps] == [(s.i, s.s, s.nfe) for s in whole.path[1:]]
    assert parts.path[-1].n == 8


def test_a_relay_hands_on_what_the_last_walk_ended_with():
    """A cascade: the second stage is told what the first one drew."""
    seen = []

    class Told(Denoiser):
        def forward(self, x_t, t, *, low):
            seen.append(low)
            alpha, sigma = self.levels(t, x_t)
            return Prediction(x_t, alpha, sigma, low.repeat_interleave(2, 1), "x0")

    first = walk(ddim(), MIX.denoiser(S), X, grid(S, 3))
    end = sample(
        relay(first, lambda end: walk(ddim(), Told(S), randn(5, 4), grid(S, 2), low=end.x)),
        bar=True,
    )
    low = sample(walk(ddim(), MIX.denoiser(S), X, grid(S, 3))).x
    assert torch.equal(seen[0], low) and torch.equal(end.x, low.repeat_interleave(2, 1))
    assert end.nfe == 5
    adaptive = relay(
        walk(emsde(rel=0.5), MIX.denoiser(S), X.float(), [1.0, 0.01, 0.0], noise=gaussian(gen())),
        lambda end: walk(ddim(), MIX.denoiser(S), randn(5, 2).float(), grid(S, 2)),
    )
    last = list(adaptive)[-1]
    assert last.nfe > 2 and torch.isfinite(last.x).all()


# ---- seeds --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sampler", ["ddim", "ddpm", "heun", "predictor-corrector", "euler-maruyama"]
)
def test_a_seed_of_its_own_gives_a_picture_of_its_own(sampler):
    """Whatever else is drawn, and in whatever batches: the same picture to rounding."""
    d = Gaussian([0.2, -0.1, 0.4], torch.diag(torch.tensor([0.3, 0.2, 0.1]))).denoiser(S)
    options = {"sampler": sampler, "steps": 6}
    if sampler == "predictor-corrector":
        options["corrections"] = 0  # a corrector's step is chosen over the batch
    many = generate(d, 7, seeds=range(7), batch=3, **options).x
    for i in (0, 4, 6):
        alone = generate(d, 1, seeds=[i], **options).x
        assert torch.allclose(many[i], alone[0], atol=1e-6)
    other = generate(d, 3, seeds=[5, 0, 5], **options).x
    assert torch.allclose(other[0], other[2]) and torch.allclose(other[1], many[0], atol=1e-6)
    with pytest.raises(ValueError, match="3 samples need 3 seeds; got 2"):
        generate(d, 3, seeds=[1, 2], **options)


# ---- generate takes grids, orders and steps -----------------------------------------------------
def test_generate_takes_a_grid_and_orders_by_time():
    d, orders = MIX.denoiser(linear(1000)), split_calls(9)
    times = grid(linear(1000), len(orders), "lambda")
    by_time = dict(zip(times, orders))
    drawn = generate(d, 4, sampler="dpm-solver", grid=times, order=by_time, seed=2)
    x = linear(1000).prior(4, (2,), gen(2))
    assert torch.equal(drawn.x, sample(walk(dpm_solver(by_time), d, x, times)).x)
    assert drawn.nfe == 9
    assert torch.equal(
        generate(d, 4, sampler=ddim(), steps=5).x, generate(d, 4, sampler="ddim", steps=5).x
    )
    with pytest.raises(ValueError, match="either a grid or its spacing"):
        generate(d, 4, grid=times, spacing="karras")
    with pytest.raises(ValueError, match="unknown argument of generate 'eta'"):
        generate(d, 4, sampler=ddim(), eta=0.5)


def test_generate_starts_where_its_grid_does():
    """On EDM from a level in the middle: the noise has that level's size, lam_range or grid."""
    d = MIX.denoiser(EDM())
    for more in ({"lam_range": (-1.0, 4.0)}, {"grid": grid(EDM(), 20, lam_range=(-1.0, 4.0))}):
        found = generate(d, 4, steps=20, keep=True, seed=2, **more).path
        assert EDM().lam(found[0].s) == pytest.approx(-1.0)
        assert torch.allclose(found[0].x, math.e * torch.randn(4, 2, generator=gen(2)))
        assert EDM().lam(found[-2].s) == pytest.approx(4.0)


def test_generate_hands_keep_eps_on():
    d, x = MIX.denoiser(linear(1000)), linear(1000).prior(4, (2,), gen(2))
    ends = []
    for keep in (False, True):
        drawn = generate(d, 4, sampler="ddim", steps=6, seed=2, clip=(-0.4, 0.6), keep_eps=keep)
        clipped = Clipped(d, -0.4, 0.6, keep_eps=keep)
        ends.append(sample(walk(ddim(), clipped, x, grid(linear(1000), 6))).x)
        assert torch.equal(drawn.x, ends[-1])
    assert not torch.allclose(*ends, atol=1e-3)


# ---- likely mistakes ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: walk("ddim", MIX.denoiser(S), X, [1.0, 0.0]), "walk runs a step, as ddim"),
        (lambda: walk(ddim, MIX.denoiser(S), X, [1.0, 0.0]), r"ddim makes one: ddim\(\)"),
        (lambda: walk(dpmpp_2m, MIX.denoiser(S), X, [1.0, 0.0]), r"dpmpp_2m makes one"),
        (lambda: walk(ddim(), "fashion", X, [1.0, 0.0]), "walk takes a denoiser; got str"),
        (lambda: walk(ddim(), Same(), X, [1.0, 0.0]), "walk takes a denoiser; got Same"),
        (lambda: walk(ddim(), MIX.denoiser(S), X, "linspace"), "a grid is a list of times"),
        (lambda: walk(ddim(), MIX.denoiser(S), X, 20), "a grid is a list of times"),
        (lambda: gaussian(3), "come from a torch.Generator; got int"),
        (lambda: walk(ddim(), MIX.denoiser(S), X, [1.0, 0.0], noise=0), r"gaussian\(generator"),
        (lambda: walk(ddpm(), MIX.denoiser(S), X, [1.0, 0.0], noise=gen()), r"gaussian\(generator"),
        (lambda: generate(MIX.denoiser(S), 4, low=X), "goes into condition="),
        (lambda: generate("fashion", 4), "generate takes a denoiser.*got str"),
        (lambda: generate(MIX.denoiser(S), 4, scale="2", label=torch.zeros(4).long()), "finite"),
    ],
)
def test_likely_mistakes_are_told(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


def test_a_denoiser_that_answers_in_another_shape_or_kind_is_told():
    class Wrong(Denoiser):
        def __init__(self, answer):
            super().__init__(S)
            self.answer, self.shape = answer, (2,)

        def forward(self, x_t, t):
            return self.answer(x_t, *self.levels(t, x_t))

    for cut in (lambda x: x[:, :1], lambda x: x[:1], lambda x: x[:, :, None]):
        d = Wrong(lambda x, a, s, cut=cut: Prediction(x, a, s, cut(x), "x0"))
        with pytest.raises(ValueError, match="must have one shape"):
            generate(d, 4, steps=2)
    with pytest.raises(ValueError, match="answers with a Prediction.*got Tensor"):
        generate(Wrong(lambda x, a, s: x), 4, steps=2)


# ---- after and under other modes ----------------------------------------------------------------
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_denoiser_can_be_trained_after_drawing_under_any_mode(mode):
    from diffusion_lab import nets

    net = nets.MLP(2, 8, num_classes=3)
    d = NetDenoiser(net, EDM(20.0), shape=(2,), num_classes=3, lam_range=(-2.99, 4.0))
    times = grid(d.schedule, 4, "karras", lam_range=d.lam_range)
    label = torch.tensor([0, 1, 2, 3])
    with mode():
        for told in ({}, {"label": label}, {"label": label, "scale": 2.0}):
            generate(d, 4, steps=4, **told)
    for t in (torch.full((4,), 0.5), times[1]):
        for told in ({}, {"label": label}):
            d(torch.randn(4, 2, generator=gen()), t, **told).out.sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_every_name_is_a_step_and_every_schedule_has_a_prior():
    assert all(callable(make) for make in SAMPLERS.values())
    for schedule in (S, EDM(), linear(10)):
        assert isinstance(schedule, Schedule)
        z = schedule.prior(3, (2, 2), gen(1))
        assert z.dtype == torch.float32 and z.shape == (3, 2, 2)
        assert torch.allclose(z / schedule.prior_std(), torch.randn(3, 2, 2, generator=gen(1)))


def test_a_noise_share_of_one_survives_rounding_where_no_data_are_left():
    """bt = sigma_s^2 at alpha_t = 0: a rounding above must not make a root of a negative number."""
    for steps in range(2, 40):
        for schedule in (Cosine(), zero_terminal_snr(linear(200))):
            d = MIX.denoiser(schedule)
            times = [1.0, *grid(schedule, steps)[1:]]
            x = sample(walk(ddim(1.0), d, X, times, noise=gaussian(gen()))).x
            assert x.dtype == torch.float64 and torch.isfinite(x).all()
            assert isinstance(best_variance(schedule, 1.0, times[1], 0.3), float)


def test_shared_conditions_are_not_cut_into_rows():
    """A condition without one row for each datum goes whole to the denoiser, everywhere."""
    seen = []

    def formula(x, alpha, sigma, *, context, w):
        seen.append((tuple(context.shape), w.ndim))
        return x * 0

    d = ExactDenoiser(linear(100), formula, shape=(2,))
    shared = {"context": torch.zeros(1, 3), "w": torch.tensor(0.5)}
    times = [1.0, 0.5, 0.1, 0.0]
    for step in (ddim(), emsde(fixed=0.3)):
        sample(walk(step, d, X.float(), times, noise=gaussian(gen()), **shared))
    bounds(d, X.clamp(-1, 1), times, noise=gen(), batch=2, levels=None, **shared)
    measure(d, X, times[:-1], noise=gen(), batch=2, levels=None, **shared)
    assert set(seen) == {((1, 3), 0)}
