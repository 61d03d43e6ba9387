"""The toys: their moments against theory, with tolerances that follow from the sample size."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lab.data.toys import TOYS, Product, load_toy, product
from diffusion_lab.schedules import linear

N = 20_000
MIXTURES = ["ring", "grid", "anisotropic", "two_class"]
SHAPES = ["moons", "rings", "checkerboard", "spirals", "pinwheel", "swiss_roll"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def within(values, expected, sigmas=5.0):
    """Is the mean over rows of ``values`` within 5 standard errors of ``expected``?"""
    error = values.std(0) / math.sqrt(len(values))
    return bool(((values.mean(0) - expected).abs() <= sigmas * error).all())


def test_all_toys_are_there():
    assert sorted(TOYS) == sorted([*MIXTURES, "product", *SHAPES])


@pytest.mark.parametrize("name", sorted(TOYS))
def test_the_same_seed_gives_the_same_points(name):
    toy = load_toy(name)
    first, again, other = (toy.sample(500, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == (500, toy.dim)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("name", sorted(TOYS))
def test_the_global_generator_is_left_alone(name):
    before = torch.get_rng_state()
    load_toy(name).sample(10, generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", MIXTURES)
def test_mixture_samples_have_the_moments_of_the_formula(name):
    toy = load_toy(name)
    x = toy.sample(N, generator())
    mean = toy.weights @ toy.means
    spread = toy.means - mean
    cov = torch.einsum("k,kij->ij", toy.weights, toy.covs)
    cov += torch.einsum("k,ki,kj->ij", toy.weights, spread, spread)
    assert within(x, mean)
    assert within(torch.einsum("ni,nj->nij", x - mean, x - mean).flatten(1), cov.flatten())


def test_the_numbers_of_the_mixtures():
    ring, grid, long, line = map(load_toy, MIXTURES)
    assert ring.means.shape == (8, 2)
    torch.testing.assert_close(ring.means.norm(dim=1), torch.full((8,), 2.0).double())
    torch.testing.assert_close(ring.covs, (0.15**2 * torch.eye(2).double()).expand(8, 2, 2))
    assert sorted(map(tuple, grid.means.tolist())) == [
        (i, j) for i in range(-2, 3) for j in range(-2, 3)
    ]
    assert torch.linalg.eigvalsh(long.covs).sqrt().tolist() == [
        pytest.approx([0.15, 0.8]) for _ in range(3)
    ]
    assert long.covs[1, 1, 1] == pytest.approx(0.8**2)  # tilted by 90 degrees: long in y
    assert long.covs[0, 0, 1] > 0 > long.covs[2, 0, 1]
    assert line.weights.tolist() == pytest.approx([0.3, 0.7])
    assert line.means.flatten().tolist() == [-2, 1]
    assert line.covs.flatten().tolist() == pytest.approx([0.3, 0.5])


def test_two_class_density_at_a_point():
    def normal(x, mean, var):
        return math.exp(-((x - mean) ** 2) / (2 * var)) / math.sqrt(2 * math.pi * var)

    known = math.log(0.3 * normal(0.4, -2, 0.3) + 0.7 * normal(0.4, 1, 0.5))
    x = torch.tensor([[0.4]], dtype=torch.float64)
    assert load_toy("two_class").log_prob(x).item() == pytest.approx(known, rel=1e-12)


def test_product_is_two_class_in_every_coordinate():
    toy, line = load_toy("product"), load_toy("two_class")
    assert (toy.dim, toy.sample(3, generator()).shape) == (64, (3, 64))
    x = toy.sample(2_000, generator())
    assert within(x, 0.1)
    assert within((x - 0.1) ** 2, 2.33)
    by_hand = sum(line.log_prob(x[:, i : i + 1]) for i in range(64))
    torch.testing.assert_close(toy.log_prob(x), by_hand)


def test_product_in_two_dimensions_equals_the_mixture_written_out():
    from diffusion_lab.exact import GaussianMixture

    line, toy = load_toy("two_class"), product(2)
    pairs = [(i, j) for i in range(2) for j in range(2)]
    w, m, v = line.weights, line.means.flatten(), line.covs.flatten()
    written = GaussianMixture(
        torch.stack([w[i] * w[j] for i, j in pairs]),
        torch.stack([m[[i, j]] for i, j in pairs]),
        torch.stack([v[[i, j]].diag() for i, j in pairs]),
    )
    x, t = toy.sample(7, generator()), torch.linspace(0.1, 0.9, 7)
    for at in (0.5, t):  # one time for all, and one for each
        ours, theirs = (d.denoiser(linear())(x, at) for d in (toy, written))
        torch.testing.assert_close(ours.x0, theirs.x0, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.score, theirs.score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(toy.score(x, 0.8, 0.6), written.score(x, 0.8, 0.6))
    torch.testing.assert_close(toy.log_prob(x, 0.8, 0.6), written.log_prob(x, 0.8, 0.6))


def test_product_refuses():
    with pytest.raises(ValueError, match=r"\(B, 64\)"):
        load_toy("product").log_prob(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="no labels"):
        load_toy("product").x0(torch.zeros(3, 64), 1.0, 0.1, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="dimension must be a whole number >= 1; got 0"):
        product(0)
    assert isinstance(product(3), Product)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_centred_with_unit_spread(name):
    x = load_toy(name).sample(N, generator())
    assert x.dtype == torch.float32
    assert within(x.double(), 0.0)
    assert within((x.double() ** 2).mean(1), 1.0)


def test_checkerboard_is_half_empty():
    x = load_toy("checkerboard").sample(N, generator()).double() * math.sqrt(16 / 12) + 2
    column, row = x.floor().long().clamp(0, 3).T
    assert ((column + row) % 2 == 0).all()
    counts = torch.bincount(4 * column + row, minlength=16)
    assert (counts > 0).sum() == 8
    share = counts[counts > 0] / N
    assert (share - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 * 7 / 8 / N)


def test_rings_lie_on_three_circles():
    x = load_toy("rings").sample(N, generator())
    radius = x.norm(dim=1) * math.sqrt(14 / 54 + 0.03**2) * 3
    assert (radius - radius.round()).abs().max() < 5 * 3 * 0.03
    assert set(radius.round().int().tolist()) == {1, 2, 3}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_a_number_of_samples_that_is_none(name, n):
    with pytest.raises(ValueError, match="number of samples must be a whole number >= 1"):
        load_toy(name).sample(n, generator())


def test_an_unknown_toy():
    with pytest.raises(ValueError, match="Did you mean 'checkerboard'"):
        load_toy("chekerboard")


@pytest.mark.parametrize("name", TOYS)
def test_draws_do_not_follow_torchs_defaults(name):
    before = load_toy(name).sample(5, generator(2))
    for setting in (torch.set_default_dtype, torch.set_default_device):
        device = setting is torch.set_default_device
        setting("meta" if device else torch.float64)
        try:
            after = load_toy(name).sample(5, generator(2))
        finally:
            setting(None if device else torch.float32)
        assert after.dtype == before.dtype and torch.equal(after, before)


def test_the_mixtures_are_those_of_the_table():
    """Weights, means and covariances as the module's docstring gives them."""
    ring, grid, long, two = (load_toy(n) for n in ("ring", "grid", "anisotropic", "two_class"))
    turn = torch.arange(8).double() * math.pi / 4
    assert torch.allclose(ring.means, 2 * torch.stack([turn.cos(), turn.sin()], 1))
    assert torch.allclose(ring.covs, 0.15**2 * torch.eye(2).double())
    assert sorted(map(tuple, grid.means.tolist())) == [
        (i, j) for i in range(-2, 3) for j in range(-2, 3)
    ]
    assert torch.allclose(grid.covs, 0.1**2 * torch.eye(2).double())
    assert torch.allclose(long.weights, torch.tensor([0.5, 0.3, 0.2]).double())
    assert long.means.tolist() == [[-1.0, -1.0], [1.5, 0.0], [-0.5, 1.5]]
    tilt = torch.tensor([20.0, 90.0, 150.0]).double().deg2rad()
    along = torch.stack([tilt.cos(), tilt.sin()], 1)
    expected = (0.8**2 - 0.15**2) * along[:, :, None] * along[:, None]
    assert torch.allclose(long.covs, expected + 0.15**2 * torch.eye(2))
    assert torch.allclose(two.weights, torch.tensor([0.3, 0.7]).double())
    assert two.means.flatten().tolist() == [-2.0, 1.0]
    assert torch.allclose(two.covs.flatten(), torch.tensor([0.3, 0.5]).double())


def test_a_pinwheel_turned_back_has_five_straight_blades():
    """The angle less .25 e^radius is a multiple of 2 pi/5, as far as a width of .1 allows."""
    x = load_toy("pinwheel").sample(N, generator()) * math.sqrt((1 + 0.3**2 + 0.1**2) / 2)
    radius, fifth = x.norm(dim=1), 2 * math.pi / 5
    angle = torch.atan2(x[:, 1], x[:, 0]) - 0.25 * radius.exp()
    off = (angle / fifth - (angle / fifth).round()) * fifth
    wide = radius > 0.7
    expected = float((0.1 / radius[wide]).square().mean().sqrt())
    assert float(off[wide].std()) == pytest.approx(expected, rel=0.1)
    assert abs(off[wide].mean()) < 0.01
