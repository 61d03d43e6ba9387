"""Reverse SDE, ODE and correctors against variances that are known without a random number."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import ExactDenoiser, Gaussian
from diffusion_lab.generate import generate
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim, ddpm, dpmpp_2m, dpmpp_3m, unipc
from diffusion_lab.samplers.sde import (
    annealed_langevin,
    correct,
    euler_maruyama,
    langevin_size,
    predictor_corrector,
    reverse_diffusion,
    slopes,
)
from diffusion_lab.schedules import EDM, VE, Cosine, Linear, linear
from diffusion_lab.scores.subvp import SubVP
from diffusion_lab.walk import Ask, gaussian, sample, walk

F64 = torch.float64
VAR = 0.25
DATA = Gaussian([0.0], [[VAR]])
TWO = toys.two_class()


def times(n: int, t0: float = 1e-3) -> list[float]:
    return [1 - (1 - t0) * i / n for i in range(n)] + [t0]


def noised_variance(schedule, t):
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha**2 * VAR + sigma**2


def variance_of(step, schedule, path, begin=1.0):
    """Variance at the end of a walk that is linear in x and in every draw of noise.

    Each step is x_s = k x + c z: both factors are read off the step itself, by asking it with
    x = 1, z = 0 and with x = 0, z = 1.
    """
    denoiser = DATA.denoiser(schedule)
    v = begin
    for t, s in itertools.pairwise(path):
        x = torch.tensor([[1.0], [0.0]], dtype=F64)
        z = torch.tensor([[0.0], [1.0]], dtype=F64)
        ask = Ask(denoiser, source=lambda i, like, z=z: z)
        k, c = step(ask, x, t, s)[:, 0].tolist()
        v = k * k * v + c * c
    return v


# ---- first order, with the numbers of the specification -----------------------------------------
@pytest.mark.parametrize(
    ("noise", "expected"),
    [(1.0, (0.25826, 0.25390, 0.25193, 0.25044)), (0.0, (0.24593, 0.24791, 0.24898, 0.24986))],
    ids=["SDE", "ODE"],
)
def test_euler_variances_of_gaussian_data(noise, expected):
    counts = (50, 100, 200, 1000)
    found = [variance_of(euler_maruyama(noise), Linear(), times(n)) for n in counts]
    assert found == pytest.approx(expected, abs=6e-6)
    target = noised_variance(Linear(), 1e-3)
    assert target == pytest.approx(0.25008, abs=5e-6)
    # order one: halving the step halves the error (up to the second order that is left)
    errors = [abs(v - target) for v in found[1:3]]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("schedule", [Linear(), SubVP(), VE(0.01, 10.0), Cosine()], ids=repr)
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_every_share_of_noise_has_the_same_marginals_in_the_limit(schedule, noise):
    """Two runs with n and 2n steps, extrapolated: the marginal's variance at every share."""
    begin = 0.99
    found = []
    for n in (400, 800):
        path = [begin - (begin - 0.02) * i / n for i in range(n + 1)]
        step = euler_maruyama(noise)
        found.append(variance_of(step, schedule, path, noised_variance(schedule, begin)))
    limit = 2 * found[1] - found[0]
    assert limit == pytest.approx(noised_variance(schedule, 0.02), rel=3e-3)
    assert found[1] == pytest.approx(limit, rel=0.03)


@pytest.mark.parametrize("schedule", [Linear(), SubVP(), VE(0.01, 10.0), linear(1000)], ids=repr)
def test_reverse_diffusion_agrees_with_euler_maruyama_for_short_steps(schedule):
    n = 1000
    path = [i / n for i in range(n - 10, 20, -1)]
    begin = noised_variance(schedule, path[0])
    pair = [variance_of(s, schedule, path, begin) for s in (reverse_diffusion(), euler_maruyama())]
    target = noised_variance(schedule, path[-1])
    assert pair == pytest.approx([target, target], rel=0.02)


def test_reverse_diffusion_is_the_formula_of_the_paper_for_ve():
    """x_i = x_{i+1} + (sigma_{i+1}^2 - sigma_i^2) score + sqrt(sigma_{i+1}^2 - sigma_i^2) z."""
    ve, x, z = VE(), torch.randn(4, 1, generator=generator(0), dtype=F64), torch.full((4, 1), 0.3)
    ask = Ask(TWO.denoiser(ve), source=lambda i, like: z.double())
    found = reverse_diffusion()(ask, x, 0.6, 0.55)
    gap = ve.sigma(0.6) ** 2 - ve.sigma(0.55) ** 2
    expected = x + gap * TWO.score(x, 1.0, ve.sigma(0.6)) + math.sqrt(gap) * z
    assert torch.allclose(found, expected, atol=1e-10)


def test_reverse_diffusion_is_the_formula_of_the_paper_for_vp():
    """x_i = (2 - sqrt(1 - beta)) x_{i+1} + beta score + sqrt(beta) z, with the beta of the jump."""
    table, x = linear(1000), torch.randn(4, 1, generator=generator(0), dtype=F64)
    z, t, s = torch.full((4, 1), 0.3, dtype=F64), 0.6, 0.5
    found = reverse_diffusion()(Ask(TWO.denoiser(table), source=lambda i, like: z), x, t, s)
    beta = 1 - table.abar[600] / table.abar[500]
    score = TWO.score(x, *table.alpha_sigma(t))
    expected = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * z
    assert torch.allclose(found, expected, atol=1e-10)


def test_the_last_move_is_tweedies_formula():
    x = torch.randn(5, 1, generator=generator(0), dtype=F64)
    for schedule in (Linear(), VE(), SubVP()):
        alpha, sigma = schedule.alpha_sigma(0.2)
        expected = (x + sigma**2 * TWO.score(x, alpha, sigma)) / alpha
        for step in (
            euler_maruyama(),
            reverse_diffusion(),
            predictor_corrector(),
            annealed_langevin(),
        ):
            result = sample(walk(step, TWO.denoiser(schedule), x, [0.2, 0.0]))
            assert torch.allclose(result.x, expected, atol=1e-10)
            assert result.nfe == 1


# ---- correctors ---------------------------------------------------------------------------------
def test_the_size_of_a_langevin_step():
    z, g = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [0.0, 4.0]])
    # norms of the batch's mean: (5 + 1)/2 over (2 + 4)/2
    assert langevin_size(g, z, 0.16).item() == pytest.approx(2 * 0.16**2, rel=1e-6)
    assert langevin_size(g, z, 0.16, kept=0.9).item() == pytest.approx(1.8 * 0.16**2, rel=1e-6)
    assert langevin_size(g, 2 * z, 0.16).item() == pytest.approx(8 * 0.16**2, rel=1e-6)


@pytest.mark.parametrize("schedule", [Linear(), VE(0.01, 5.0)], ids=repr)
def test_a_corrector_alone_leaves_the_marginal_as_it_is(schedule):
    """One Langevin step of size a = rho Var turns the variance into (1 + rho^2) Var."""
    t, n = 0.4, 100_000
    v = noised_variance(schedule, t)
    gen = generator(0)
    x = torch.randn(n, 1, generator=gen, dtype=F64) * v**0.5
    x = x / x.std(correction=0) * v**0.5
    moved = correct(Ask(DATA.denoiser(schedule), source=gaussian(gen)), x, t, 0.16)
    rho = 2 * 0.16**2  # |z| and |score| sqrt(v) have the same mean norm
    assert moved.var().item() / v == pytest.approx(1 + rho**2, abs=4 * math.sqrt(2 / n))
    assert moved.var().item() / v == pytest.approx(1.0, abs=0.01)


def test_many_corrections_settle_near_the_marginal_from_anywhere():
    """The fixed point of Langevin's variance is Var / (1 - rho/2)."""
    t, schedule = 0.4, Linear()
    v, gen = noised_variance(Linear(), 0.4), generator(1)
    x = torch.zeros(50_000, 1, dtype=F64)  # all wrong: one point
    ask = Ask(DATA.denoiser(schedule), source=gaussian(gen))
    size, rho = 0.1 * v, 0.1
    for _ in range(60):
        p = ask(x, t)
        x = x + size * p.score + math.sqrt(2 * size) * ask.noise(x)
    assert x.var().item() / v == pytest.approx(1 / (1 - rho / 2), abs=4 * math.sqrt(2 / 50_000))


def test_predictor_corrector_is_its_two_parts():
    """Algorithm 1: the predictor from t to s, then Langevin at s, drawing noise in this order."""
    schedule, x = Linear(), torch.randn(6, 1, generator=generator(0), dtype=F64)
    denoiser = TWO.denoiser(schedule)
    first = Ask(denoiser, source=gaussian(generator(5)))
    found = predictor_corrector("euler-maruyama", snr=0.2, corrections=2)(first, x, 0.5, 0.4)
    ask = Ask(denoiser, source=gaussian(generator(5)))
    y = euler_maruyama()(ask, x, 0.5, 0.4)
    kept = (schedule.alpha(0.5) / schedule.alpha(0.4)) ** 2
    for _ in range(2):
        score, z = ask(y, 0.4).score, ask.noise(y)
        a = 2 * kept * float(0.2 * z.abs().mean() / score.abs().mean()) ** 2
        y = y + a * score + math.sqrt(2 * a) * z
    assert torch.allclose(found, y, atol=1e-12)
    assert first.nfe == ask.nfe == 3
    none = predictor_corrector("ancestral", corrections=0)
    alone = ddpm()(Ask(denoiser, source=gaussian(generator(5))), x, 0.5, 0.4)
    again = none(Ask(denoiser, source=gaussian(generator(5))), x, 0.5, 0.4)
    assert torch.equal(alone, again)


@pytest.mark.parametrize("multistep", [dpmpp_2m, dpmpp_3m, unipc])
def test_a_multistep_predictor_is_ddim_between_correctors(multistep):
    """It has no past to look back on: the corrector asked last, at this very level."""
    d, x = TWO.denoiser(Linear()), torch.randn(6, 1, generator=generator(0), dtype=F64)
    found, wanted = (
        sample(walk(predictor_corrector(p), d, x, grid(Linear(), 6), noise=gaussian(generator(1))))
        for p in (multistep(), ddim())
    )
    assert torch.allclose(found.x, wanted.x, atol=1e-12)
    assert found.nfe == 11


def test_annealed_langevin_takes_the_steps_of_its_paper():
    """x <- x + (a_i/2) score + sqrt(a_i) z with a_i = eps sigma_i^2/sigma_L^2 (1907.05600)."""
    ve, x = VE(0.01, 1.0), torch.randn(4, 1, generator=generator(0), dtype=F64)
    found = annealed_langevin(corrections=3)(
        Ask(TWO.denoiser(ve), source=gaussian(generator(2))), x, 0.6, 0.5
    )
    noise, y, sigma = gaussian(generator(2)), x, ve.sigma(0.5)
    a = 2e-5 * sigma**2 / 0.01**2
    for i in range(3):
        y = y + 0.5 * a * TWO.score(y, 1.0, sigma) + math.sqrt(a) * noise(i, y)
    assert torch.allclose(found, y, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("euler-maruyama", {}),
        ("reverse-diffusion", {}),
        ("predictor-corrector", {}),
        ("predictor-corrector", {"predictor": "ancestral", "corrections": 2}),
        ("annealed-langevin", {}),
    ],
)
@pytest.mark.parametrize("schedule", [Linear(), SubVP(), VE(0.01, 20.0), linear(500)], ids=repr)
def test_they_draw_the_data_by_name(name, options, schedule):
    n, steps = 2000, 120
    spacing = "uniform"
    d = TWO.denoiser(schedule)
    result = generate(d, n, sampler=name, steps=steps, spacing=spacing, seed=1, **options)
    calls = {"predictor-corrector": 1 + options.get("corrections", 1), "annealed-langevin": 5}
    assert result.nfe == (steps - 1) * calls.get(name, 1) + 1
    share = (result.x < -0.5).double().mean().item()
    exact = 0.3  # the left component; 4 standard errors, and the sampler's own error
    assert share == pytest.approx(exact, abs=4 * math.sqrt(0.21 / n) + 0.03)
    mean = TWO.weights @ TWO.means[:, 0]
    var = TWO.weights @ (TWO.covs[:, 0, 0] + TWO.means[:, 0] ** 2) - mean**2
    assert result.x.var().item() == pytest.approx(var.item(), rel=0.15)


# ---- peers --------------------------------------------------------------------------------------
def test_torchsde_makes_the_same_steps_on_the_same_brownian_path():
    torchsde = pytest.importorskip("torchsde")
    schedule, n, t0 = Linear(), 40, 1e-3
    denoiser = TWO.denoiser(schedule)

    class Reverse:
        """The reverse SDE in u = 1 - t, as torchsde wants it."""

        noise_type, sde_type = "diagonal", "ito"

        def f(self, u, y):
            t = 1 - float(u)
            f, g2 = slopes(schedule, t)
            return -(f * y - g2 * TWO.score(y, *schedule.alpha_sigma(t)))

        def g(self, u, y):
            return torch.full_like(y, math.sqrt(slopes(schedule, 1 - float(u))[1]))

    ends = torch.tensor([0.0, 1 - t0], dtype=F64)
    size = (1 - t0) / n
    path = torchsde.BrownianInterval(t0=0.0, t1=1 - t0, size=(8, 1), dtype=F64, entropy=3)
    x = torch.randn(8, 1, generator=generator(0), dtype=F64)
    theirs = torchsde.sdeint(Reverse(), x, ends, bm=path, method="euler", dt=size)[-1]

    marks = [i * size for i in range(n)] + [1 - t0]

    def increments(i, like):
        return path(marks[i], marks[i + 1]) / math.sqrt(marks[i + 1] - marks[i])

    own = [1 - u for u in marks]
    ours = sample(walk(euler_maruyama(), denoiser, x, own, noise=increments)).x
    assert torch.allclose(ours, theirs, atol=1e-9)


def test_torchdiffeq_makes_the_same_euler_steps():
    from torchdiffeq import odeint

    from diffusion_lab.scores.likelihood import velocity

    denoiser, path = TWO.denoiser(SubVP()), times(30, 0.02)
    x = torch.randn(8, 1, generator=generator(0), dtype=F64)
    theirs = odeint(
        lambda t, y: velocity(denoiser, y, float(t)),
        x,
        torch.tensor(path, dtype=F64),
        method="euler",
    )
    ours = sample(walk(euler_maruyama(noise=0.0), denoiser, x, path), keep=True).path
    for state, row in zip(ours, theirs, strict=True):
        assert torch.allclose(state.x, row, atol=1e-10)


def test_ode_and_sde_draw_the_same_marginal():
    """Kolmogorov-Smirnov, each against the exact distribution function at t0."""
    schedule, n, t0 = Linear(), 4000, 0.01
    denoiser = TWO.denoiser(schedule)
    alpha, sigma = schedule.alpha_sigma(t0)
    start = torch.randn(n, 1, generator=generator(0), dtype=F64)
    for noise in (0.0, 1.0):
        source = gaussian(generator(1))
        x = sample(walk(euler_maruyama(noise), denoiser, start, times(500, t0), noise=source)).x
        x = x[:, 0].sort().values
        spread = (alpha**2 * TWO.covs[:, 0, 0] + sigma**2).sqrt()
        z = (x[:, None] - alpha * TWO.means[:, 0]) / spread
        exact = (TWO.weights * torch.special.ndtr(z)).sum(1)
        steps = torch.arange(n + 1, dtype=F64) / n
        gap = torch.maximum((exact - steps[:-1]).abs(), (exact - steps[1:]).abs()).max()
        # 1.95/sqrt(n) is passed once in a thousand; 0.01 for the steps' own error
        assert float(gap) < 1.95 / math.sqrt(n) + 0.01


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: euler_maruyama(-1.0), "share of noise c must be >= 0"),
        (lambda: euler_maruyama(math.nan), "share of noise"),
        (lambda: predictor_corrector("ancestor"), "Did you mean 'ancestral'"),
        (lambda: predictor_corrector(snr=0.0), "snr must be a positive number"),
        (lambda: predictor_corrector(corrections=-1), "whole number >= 0"),
        (lambda: predictor_corrector(corrections=1.5), "whole number >= 0"),
        (lambda: annealed_langevin(ratio=-0.1), "ratio must be a positive"),
        (lambda: annealed_langevin(corrections=0), "whole number >= 1"),
        (
            lambda: sample(
                walk(
                    euler_maruyama(),
                    DATA.denoiser(Cosine()),
                    torch.zeros(1, 1),
                    grid(Cosine(), 4),
                    noise=gaussian(generator(0)),
                )
            ),
            "drift of Cosine.* is infinite at t = 1",
        ),
        (
            lambda: sample(
                walk(euler_maruyama(), DATA.denoiser(Linear()), torch.zeros(1, 1), [1.0, 0.5])
            ),
            "pass noise=gaussian",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_walk_that_leaves_the_numbers_says_so():
    d = DATA.denoiser(EDM())
    x = torch.full((2, 1), math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(walk(euler_maruyama(0.0), d, x, [1.0, 0.5]))


def test_the_size_of_a_langevin_step_is_by_whole_pictures():
    score, z = (torch.randn(4, 3, 5, 5, generator=generator(k), dtype=F64) for k in (0, 1))
    flat = langevin_size(score.flatten(1), z.flatten(1), 0.16)
    assert torch.allclose(langevin_size(score, z, 0.16), flat)
    norms = [y.flatten(1).norm(dim=1).mean() for y in (z, score)]
    assert flat == pytest.approx(2 * (0.16 * norms[0] / norms[1]).item() ** 2)


def test_a_picture_is_corrected_as_its_flat_twin():
    """correct() on (B, C, H, W) and on (B, D): the same step, from the same noise."""
    flat = Gaussian(torch.zeros(4), torch.eye(4)).denoiser(Linear())
    picture = ExactDenoiser(
        Linear(), lambda x, a, s: flat.formula(x.flatten(1), a, s).reshape(x.shape)
    )
    x = torch.randn(6, 1, 2, 2, generator=generator(5), dtype=F64)
    noise = torch.randn(6, 4, generator=generator(6), dtype=F64)
    ours = correct(Ask(picture, source=lambda i, like: noise.reshape(like.shape)), x, 0.4, 0.16)
    twin = correct(Ask(flat, source=lambda i, like: noise), x.flatten(1), 0.4, 0.16)
    assert torch.allclose(ours.flatten(1), twin, atol=1e-12)
