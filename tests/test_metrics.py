"""Fréchet distance and cost against closed forms, hand counts and other people's code."""

from __future__ import annotations

import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffusion_lab import checkpoints, data, metrics, nets, schedules
from diffusion_lab.data.toys import load_toy
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator
from diffusion_lab.generate import generate
from diffusion_lab.guidance import guided
from diffusion_lab.metrics import (
    Cost,
    Meter,
    Reference,
    count_flops,
    count_parameters,
    frechet,
    inception,
    likelihood,
    measure,
)
from diffusion_lab.metrics.distances import sliced_w2
from diffusion_lab.metrics.frechet import classify, gaussian_bias
from diffusion_lab.metrics.kid import kid_subsets
from diffusion_lab.nets import MLP, UNet
from diffusion_lab.nets.unet import Attention


def gaussian(mean, cov, n=100):
    return Reference(torch.as_tensor(mean).double(), torch.as_tensor(cov).double(), n)


def random_gaussian(seed, d=6, rank=None):
    gen = generator(seed)
    root = torch.randn(d, d if rank is None else rank, generator=gen, dtype=torch.float64)
    return gaussian(torch.randn(d, generator=gen, dtype=torch.float64), root @ root.T)


# ---- the Fréchet distance
def test_diagonal_gaussians_have_a_closed_form():
    """|m_1 - m_2|^2 + sum (sd_1 - sd_2)^2."""
    gen = generator(0)
    m1, m2 = torch.randn(2, 8, generator=gen).double()
    s1, s2 = torch.rand(2, 8, generator=gen).double() * 3
    s2[0] = 0.0
    found = frechet(gaussian(m1, torch.diag(s1**2)), gaussian(m2, torch.diag(s2**2)))
    assert found == pytest.approx(((m1 - m2) ** 2 + (s1 - s2) ** 2).sum().item(), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_full_covariances_agree_with_scipy_and_torchmetrics(seed):
    from scipy.linalg import sqrtm

    a, b = random_gaussian(seed), random_gaussian(seed + 100)
    root = torch.as_tensor(sqrtm((a.cov @ b.cov).numpy()).real)
    expected = (a.mean - b.mean).square().sum() + (a.cov + b.cov - 2 * root).trace()
    assert frechet(a, b) == pytest.approx(expected.item(), rel=1e-9)
    theirs = pytest.importorskip("torchmetrics.image.fid")._compute_fid(
        a.mean, a.cov, b.mean, b.cov
    )
    assert frechet(a, b) == pytest.approx(theirs.item(), rel=1e-9)


@pytest.mark.parametrize("rank", [None, 3], ids=["full rank", "singular"])
def test_a_distance_is_zero_to_itself_symmetric_and_blind_to_rotation(rank):
    a, b = random_gaussian(1, rank=rank), random_gaussian(2, rank=rank)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12 * a.cov.trace().item())
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9) and frechet(a, b) > 1
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator(3), dtype=torch.float64))
    turned = [gaussian(q @ r.mean + 5, q @ r.cov @ q.T) for r in (a, b)]
    assert frechet(*turned) == pytest.approx(frechet(a, b), rel=1e-7)
    moved = gaussian(a.mean + 3, a.cov)
    assert frechet(a, moved) == pytest.approx(6 * 9, rel=1e-9)
    assert frechet(a, gaussian(a.mean, 4 * a.cov)) == pytest.approx(a.cov.trace().item(), rel=1e-9)


def test_the_statistics_are_the_mean_and_the_unbiased_covariance():
    feats = torch.randn(50, 3, generator=generator(0)) * torch.tensor([1.0, 2.0, 3.0]) + 1
    found = Reference.of(feats)
    centred = feats.double() - feats.double().mean(0)
    torch.testing.assert_close(found.cov, centred.T @ centred / 49, rtol=1e-12, atol=1e-12)
    assert found.n == 50 and found.mean.dtype == torch.float64


def test_one_feature_is_a_covariance_of_one_by_one():
    x = torch.randn(40, 1, generator=generator(1)).double()
    a, b = Reference.of(x), Reference.of(2 * x + 3)
    assert a.cov.shape == (1, 1)
    expected = (x.mean() + 3) ** 2 + x.var()  # (m - (2m + 3))^2 + (s - 2s)^2
    assert frechet(a, b) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (5,), (5, 3, 1)])
def test_fewer_than_two_pictures_or_no_table_is_refused(shape):
    with pytest.raises(ValueError, match=r"at least two pictures, \(N, D\)"):
        Reference.of(torch.zeros(shape))


def test_features_of_other_sizes_do_not_compare():
    with pytest.raises(ValueError, match="features of 6 and 4 numbers"):
        frechet(random_gaussian(0), random_gaussian(0, d=4))


# ---- in the frozen features
def test_features_do_not_depend_on_the_batch_and_clip_what_lies_outside():
    x = data.load("digits", "test").x[:31]
    found = metrics.features(x, "digits")
    assert found.shape == (31, 64) and not found.requires_grad
    torch.testing.assert_close(metrics.features(x, "digits", batch=7), found, rtol=1e-5, atol=1e-5)
    assert torch.equal(
        metrics.features(3 * x, "digits"), metrics.features((3 * x).clamp(-1, 1), "digits")
    )
    with pytest.raises(ValueError, match=r"pictures must be \(N, C, H, W\)"):
        metrics.features(x[0], "digits")
    with pytest.raises(ValueError, match="unknown data set.*'digits'"):
        metrics.features(x, "digit")
    with pytest.raises(ValueError, match="unknown data set.*'fashion'"):
        metrics.reference("fashoin")


def test_the_reference_is_that_of_the_full_test_set():
    assert (metrics.reference("fashion").n, metrics.reference("digits").n) == (10_000, 297)
    digits = data.load("digits", "test")
    assert metrics.fd(digits.x, "digits") == pytest.approx(0, abs=1e-6)
    assert metrics.fd(digits.x[:100], "digits") > 1e-3


@pytest.mark.slow
def test_emoji_are_compared_with_all_that_are_no_flags():
    """215 test emoji are few for 64 features: train, test and rare are the reference."""
    parts = [data.load("emoji", split).x for split in ("train", "test", "rare")]
    assert metrics.reference("emoji").n == sum(map(len, parts)) == 1596
    assert metrics.fd(torch.cat(parts), "emoji") == pytest.approx(0, abs=1e-4)
    noise = [torch.randn((1596, 3, 32, 32), generator=generator(s, 99)) for s in (0, 3)]
    a, b = (metrics.fd(torch.cat(parts) + 0.1 * one, "emoji") for one in noise)
    assert metrics.anchor("emoji").value == pytest.approx((a + b) / 2, abs=0.02)
    assert metrics.fd(metrics.blurred(torch.cat(parts), 4), "emoji") > 4 * (a + b)


def test_the_floor_of_emoji_is_that_of_new_pictures():
    """With repetition n draws are n of the reference's law, whose bias to first order is known."""
    reference = metrics.reference("emoji")
    mean, spread = metrics.real_floor(200, "emoji", balanced=False, draws=4)
    expected = gaussian_bias(reference, reference, 200)
    assert mean == pytest.approx(expected, abs=4 * max(spread, 0.15) / 4**0.5)
    balanced, _ = metrics.real_floor(200, "emoji", draws=2)
    assert balanced > 1.5 * mean  # classes differ in size, and so does a set with as many of each


def test_the_frozen_classifiers_know_their_classes():
    for name, least in (("fashion", 0.90), ("digits", 0.96), ("emoji", 0.60)):
        test = data.load(name, "test")
        net = checkpoints.load(f"{name}-features", device="cpu")
        with torch.no_grad():
            found = net(test.x[:1000]).argmax(1)
        assert (found == test.labels[:1000]).double().mean() > least, name


def test_the_anchor_grows_with_the_noise_and_repeats():
    small = metrics.noise_anchor(300, "digits")
    assert small == metrics.noise_anchor(300, "digits")
    assert small != metrics.noise_anchor(300, "digits", seed=1)
    assert metrics.noise_anchor(300, "digits", std=0.3) > 2 * small
    assert metrics.noise_anchor(300, "digits", std=0.0) < small
    with pytest.raises(ValueError, match="only 1500 real pictures are embedded; asked for 2000"):
        metrics.noise_anchor(2000, "digits")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion", "digits"])
def test_the_unit_is_what_its_definition_gives(name):
    """FD_inf of all embedded training pictures with noise of 0.1, to the two digits it is fixed to.

    The noise moves it by about 0.01 (Fashion-MNIST, digits), so two of the four noises are enough.
    """
    pool = data.load(name).x
    found = []
    for seed in (0, 3):
        noise = torch.randn(pool.shape, generator=generator(seed, 99))
        found.append(metrics.fd_infinity(pool + 0.1 * noise, name))
    unit, mean = metrics.anchor(name), (found[0].value + found[1].value) / 2
    assert unit.value == pytest.approx(mean, abs=0.015)
    assert unit.error == pytest.approx(found[0].error, rel=0.15)
    assert unit.n == len(pool)
    with pytest.raises(ValueError, match="data set with a unit A"):
        metrics.anchor("mnist")


# ---- cost
class One(nn.Module):
    """A network of one given layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lam, label=None):
        return self.layer(x)


def flops(layer, shape):
    return count_flops(NetDenoiser(One(layer), schedules.linear(), "eps", shape=shape))


def test_flops_of_single_layers_are_those_counted_by_hand():
    assert flops(nn.Linear(5, 5), (5,)) == 2 * 5 * 5
    conv = nn.Conv2d(3, 3, 3, padding=1)
    assert flops(conv, (3, 8, 6)) == 2 * 3 * 3 * 9 * 8 * 6
    grouped = nn.Conv2d(4, 4, 5, padding=2, groups=4)
    assert flops(grouped, (4, 7, 7)) == 2 * 4 * 25 * 7 * 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_flops_are_those_of_the_model_in_any_precision(dtype):
    def model():
        net = nets.make("unet", widths=(8, 16), emb=16)
        return NetDenoiser(net, schedules.linear(), "v", shape=(1, 8, 8))

    expected = count_flops(model())
    assert count_flops(model().to(dtype)) == expected
    torch.set_default_dtype(dtype)
    try:
        assert count_flops(model()) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_counted(heads):
    """Two 1x1 convolutions, C -> 3C and C -> C, and the products QK^T and AV: 2 N^2 C each."""
    c, n = 16, 7 * 7
    found = flops(Attention(c, heads), (c, 7, 7))
    assert found == 2 * n * c * 3 * c + 2 * n * c * c + 2 * (2 * n * n * c)


@pytest.mark.parametrize("fine", [None, 4])
def test_flops_of_the_mlp_and_the_unet_are_those_of_their_layers(fine):
    mlp = MLP(dim=2, width=8, depth=3)
    level = 2 * (32 * 8 + 8 * 8)
    hidden = 2 * (2 * 8 + 2 * 8 * 8 + 3 * 8 * 8 + 8 * 2)
    assert count_flops(NetDenoiser(mlp, schedules.linear(), "eps", shape=(2,))) == level + hidden

    net = UNet(widths=(8, 16), patch=2, attention=(False, False), emb=16, fine=fine)
    sizes: dict[str, int] = {}  # pixels that each convolution writes

    def note(name):
        return lambda module, given, out: sizes.__setitem__(name, out.shape[-1] * out.shape[-2])

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(name))
    net(torch.zeros(1, 1, 28, 28), torch.zeros(1))
    at_full = {name for name, size in sizes.items() if size == 28 * 28}
    assert at_full == (set() if fine is None else {"last.mix", "last.out"})
    assert set(sizes.values()) - {28 * 28} == {14 * 14, 7 * 7}
    by_hand = sum(
        2 * module.weight.numel() * sizes.get(name, 1)
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    )
    found = NetDenoiser(net, schedules.linear(), "eps", shape=(1, 28, 28))
    assert count_flops(found) == by_hand
    with pytest.raises(ValueError, match="does not know the shape of one datum"):
        count_flops(NetDenoiser(net, schedules.linear(), "eps"))


def test_parameters_are_those_counted_by_hand():
    level = (32 * 8 + 8) + (8 * 8 + 8)
    rest = (2 * 8 + 8) + 2 * (8 * 8 + 8) + 3 * (8 * 8 + 8) + (8 * 2 + 2)
    assert count_parameters(MLP(dim=2, width=8, depth=3)) == level + rest
    assert count_parameters(nn.BatchNorm2d(5)) == 10  # the running statistics are not trained


def test_a_guided_picture_costs_two_evaluations_a_step():
    net = MLP(dim=2, width=8, num_classes=3)
    plain = NetDenoiser(net, schedules.linear(), "eps", shape=(2,), num_classes=3)
    label = torch.zeros(5, dtype=torch.int64)
    result, cost = measure(
        plain, lambda: generate(plain, 5, steps=4, sampler="ddim", label=label), pictures=5
    )
    assert cost.nfe == result.nfe == 4 and cost.flops == 4 * count_flops(plain)
    assert cost.parameters == count_parameters(net)
    twice = guided(plain, 2.0)
    _, dear = measure(
        twice, lambda: generate(twice, 5, steps=4, sampler="ddim", label=label), pictures=5
    )
    assert dear.nfe == 8 and dear.flops == pytest.approx(2 * cost.flops, rel=0.2)
    assert dear.parameters == cost.parameters


def test_seconds_are_those_of_the_processor_and_of_the_clock():
    def run():
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        time.sleep(0.1)
        return SimpleNamespace(nfe=3)

    denoiser = NetDenoiser(MLP(width=8), schedules.linear(), "eps", shape=(2,))
    _, cost = measure(denoiser, run, pictures=100)
    assert 0.2 <= cost.cpu_seconds < 0.35 and cost.seconds >= 0.3
    assert cost.cpu_seconds_per_1000 == 10 * cost.cpu_seconds
    row = Cost(1000, 16, 440_000, 1.6e9, 10.04, 12.0).row()
    assert row == {
        "NFE": 16,
        "parameters (M)": 0.44,
        "MFLOP / picture": 1600.0,
        "core-s / 1000": 10.0,
    }
    small = Cost(500, 0, 0, 2352, 0.00617, 0.01).row()  # cheap is not free
    assert (small["MFLOP / picture"], small["core-s / 1000"]) == (0.0024, 0.012)


def test_evaluations_weighted_by_their_pixels():
    """A cascade of 8 calls at 8x8 and 2 at 16x16 is 10 NFE, and 8/4 + 2 = 4 pixel-NFE."""
    net = nn.Conv2d(1, 1, 3, padding=1)
    with Meter(net, pictures=5) as m:
        for size, calls in ((8, 8), (16, 2)):
            for _ in range(calls):
                net(torch.zeros(5, 1, size, size))
    assert m.cost.nfe == 10 and m.cost.pixel_nfe == 4
    colour = nn.Conv2d(3, 1, 1)
    with Meter(net, colour, pictures=1) as m:  # pixels, not channels
        net(torch.zeros(1, 1, 8, 8))
        colour(torch.zeros(1, 3, 8, 8))
    assert m.cost.pixel_nfe == 2
    points = nn.Linear(2, 2)
    with Meter(points, pictures=3) as m:
        points(torch.zeros(3, 2))
    assert m.cost.pixel_nfe == m.cost.nfe == 1


# ---- wrapped networks
@pytest.mark.parametrize("way", ["compile(net)", "net.compile()", "DataParallel", "twice"])
def test_a_wrapped_network_costs_what_it_costs_bare(way):
    def spent(model):
        label = torch.arange(4)
        with Meter(model, pictures=4) as m:
            generate(model, 4, steps=2, label=label, scale=2.0)
        return (m.cost.nfe, m.cost.flops, m.cost.parameters, m.cost.pixel_nfe)

    bare, wrapped = (checkpoints.load_denoiser("digits", device="cpu") for _ in range(2))
    if way == "net.compile()":
        wrapped.net.compile(backend="eager")
    if way in ("DataParallel", "twice"):
        wrapped.net = nn.DataParallel(wrapped.net)
    if way in ("compile(net)", "twice"):
        wrapped.net = torch.compile(wrapped.net, backend="eager")
    expected = spent(bare)
    assert expected[0] == 4 and expected[2] == count_parameters(bare.net)
    assert [spent(wrapped) for _ in range(2)] == [expected] * 2  # the second finds it as it was
    assert count_flops(wrapped) == count_flops(bare)
    assert metrics.flops_by_part(wrapped) == metrics.flops_by_part(bare)


def test_a_network_called_without_a_tensor_counts_once():
    class Code(nn.Module):
        def forward(self, name="a", scale=2.0):
            return torch.eye(3) @ torch.eye(3)

    net = Code()
    with Meter(net, pictures=1) as m:
        net()
        net("b", scale=torch.tensor(3.0))  # a tensor, but no batch
    assert m.cost.nfe == 2 and m.cost.flops == 2 * 2 * 27 and m.cost.pixel_nfe == 2


# ---- what is given
def test_pictures_on_another_scale():
    """No word for data and for what samplers draw; an error for 0..255; else a warning."""
    x = data.load("digits", "test").x
    with warnings.catch_warnings():  # as errors
        warnings.simplefilter("error")
        metrics.fd(x, "digits")
        metrics.fd(1.4 * x + 0.3 * torch.randn(x.shape, generator=generator(0)), "digits")
        metrics.features(torch.ones(5, 1, 8, 8), "digits")  # white, and nothing else
        metrics.features(x[:1].abs(), "digits")  # one picture may well be bright
    for measure_it in (metrics.fd, metrics.kid, metrics.features, metrics.precision_recall):
        with pytest.raises(ValueError, match=r"go from 0 to 255: .* by x / 127.5 - 1"):
            measure_it((x + 1) * 127.5, "digits")
        with pytest.warns(UserWarning, match=r"go from 0 to 1, and black is -1: .* by 2 \* x - 1"):
            measure_it((x + 1) / 2, "digits")
        with pytest.warns(UserWarning, match="more than half of the pixels lie far outside"):
            measure_it(x * 127.5, "digits")
    with pytest.raises(ValueError, match="pixels 0..255"):
        inception.prepare(torch.full((2, 1, 8, 8), 2.1))
    inception.prepare(torch.full((2, 1, 8, 8), 2.0))  # the edge


def test_fewer_pictures_than_features_are_warned_of():
    x = data.load("digits", "test").x
    for distance in (metrics.fd, metrics.fd_estimate):
        with pytest.warns(UserWarning, match="FD of 64 pictures: their covariance of 64 features"):
            distance(x[:64], "digits")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            distance(x[:65], "digits")


def test_two_sets_of_pictures_are_no_picture_set_and_name():
    x = data.load("digits", "test").x
    for compare_them in (metrics.kid, metrics.precision_recall, metrics.fd, metrics.features):
        with pytest.raises(ValueError, match="text, one of digits, emoji, fashion; got a T"):
            compare_them(x, x)
    with pytest.raises(ValueError, match="got a list"):
        classify(x, ["digits"])


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: metrics.kid(torch.zeros(9, 1, 8, 8), "digits", seed),
        lambda seed: metrics.fd_estimate(torch.zeros(99, 1, 8, 8), "digits", seed),
        lambda seed: metrics.fd_infinity(torch.zeros(199, 1, 8, 8), "digits", None, seed),
        lambda seed: metrics.classifier_score(torch.zeros(99, 1, 8, 8), "digits", 2, seed),
        lambda seed: kid_subsets(torch.zeros(9, 2), torch.zeros(9, 2), seed, 2, 5),
        lambda seed: sliced_w2(torch.zeros(9, 2), torch.ones(9, 2), seed),
        lambda seed: likelihood.dequantise(torch.zeros(9, 2), 17, seed),
        lambda seed: load_toy("ring").sample(3, seed),
        lambda seed: load_toy("moons").sample(3, seed),
    ],
)
def test_a_seed_is_no_generator(draw):
    with pytest.raises(ValueError, match=r"torch\.Generator; got int: device\.generator\(seed\)"):
        draw(0)


def test_measures_do_not_follow_torchs_defaults():
    x = data.load("digits", "test").x

    def found():
        return [
            metrics.fd_infinity(x, "digits").value,
            metrics.fd_estimate(x, "digits").error,
            metrics.kid(x, "digits").error,
            metrics.precision_recall(x, "digits").coverage,
            metrics.classifier_score(x, "digits").value,
            metrics.noise_anchor(100, "digits"),
            sliced_w2(x.flatten(1), x.flatten(1) + 1, generator(0)),
            float(likelihood.dequantise(x, 17, generator(0)).double().sum()),
        ]

    before = found()
    for setting in (torch.set_default_dtype, torch.set_default_device):
        device = setting is torch.set_default_device
        setting("meta" if device else torch.float64)
        try:
            assert found() == before
        finally:
            setting(None if device else torch.float32)


# ---- memorisation, modes
def test_blurred_is_the_mean_of_each_block():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    expected = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    assert torch.equal(metrics.blurred(x)[0, 0, ::2, ::2], expected)
    assert torch.equal(metrics.blurred(x)[0, 0, 1::2, 1::2], expected)


def test_the_nearest_training_picture():
    pool = torch.tensor([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    distance, index = metrics.nearest(torch.tensor([[3.0, 3.0], [9.0, 0.0], [0.0, 0.0]]), pool)
    assert index.tolist() == [1, 2, 0]
    torch.testing.assert_close(distance, torch.tensor([1.0, 1.0, 0.0]) / 2**0.5)
    with pytest.raises(ValueError, match="pictures of one size"):
        metrics.nearest(torch.zeros(3, 2), torch.zeros(3, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_nearest_in_every_precision_has_its_whole_index(dtype):
    pool = torch.linspace(-1, 1, 2 * 3001).reshape(3001, 2).to(dtype).unique(dim=0)
    distance, index = metrics.nearest(pool[-5:], pool)
    assert index.tolist() == list(range(len(pool)))[-5:] and index.dtype == torch.int64
    assert distance.tolist() == [0] * 5


def test_pictures_on_another_scale_are_warned_of_before_they_are_compared():
    x = data.load("digits", "test").x
    for measure_it in (lambda y: metrics.nearest(y, x), lambda y: metrics.copied(x, y, x)):
        with pytest.raises(ValueError, match="pixels 0..255"):
            measure_it((x + 1) * 127.5)
        with pytest.warns(UserWarning, match="black is -1"):
            measure_it((x + 1) / 2)


def test_copies_are_told_from_new_draws_of_the_same_law():
    """New draws fall below the q-quantile of held-out ones with probability q: here 0.1 +- 0.02."""
    draws = torch.randn(6000, 5, generator=generator(0))
    train, held_out, new = draws.split(2000)
    share = metrics.copied(new, train, held_out, quantile=0.1)
    assert share == pytest.approx(0.1, abs=4 * (2 * 0.1 * 0.9 / 2000) ** 0.5)
    assert metrics.copied(train[:500], train, held_out) == 1
    half = torch.cat([train[:500], new[:500] + 20])
    assert metrics.copied(half, train, held_out) == 0.5
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.copied(new, train, held_out, quantile=1.0)


def test_modes_are_counted_and_points_between_them_too():
    from diffusion_lab.metrics.distances import modes

    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    points = torch.tensor([[0.5, 0.0], [0.0, -1.0], [4.0, 1.0], [2.0, 0.0], [9.0, 9.0]])
    counts, none = modes(points, centres, radius=1.0)
    assert counts.tolist() == [2, 1, 0] and none == 2
    with pytest.raises(ValueError, match="radius must be a finite number > 0"):
        modes(points, centres, 0)


# ---- the floor of real pictures
def test_the_floor_of_balanced_sets_lies_lower_and_both_fall_with_n():
    """Var = within + between classes: equal classes leave only the first to chance."""
    balanced, free = (
        metrics.real_floor(60, "digits"),
        metrics.real_floor(60, "digits", balanced=False),
    )
    assert balanced[0] + 2 * balanced[1] / 8**0.5 < free[0]
    assert metrics.real_floor(600, "digits")[0] < balanced[0]
    assert metrics.real_floor(60, "digits") == balanced
    assert metrics.real_floor(60, "digits", seed=1) != balanced


def test_the_floor_is_the_mean_over_draws_of_the_distance_of_real_pictures():
    """All of the pool, drawn without regard to class, is one set: no scatter, and its own FD."""
    pool = data.load("digits").x
    mean, std = metrics.real_floor(len(pool), "digits", balanced=False, draws=2)
    assert mean == pytest.approx(metrics.fd(pool, "digits"), rel=1e-5)
    assert std < 1e-5 * mean


def test_a_floor_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="65 pictures cannot hold 10 classes equally"):
        metrics.real_floor(65, "digits")
    with pytest.raises(ValueError, match="only 1500 such pictures are embedded; asked for 1600"):
        metrics.real_floor(1600, "digits", balanced=False)
    with pytest.raises(ValueError, match="such pictures are embedded; asked for 15000"):
        metrics.real_floor(15000, "digits")
