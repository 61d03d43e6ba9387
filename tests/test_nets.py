"""Networks: what they start as, what they are told, and what they must not see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diffusion_lab import nets
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.nets import MLP, Classifier, UNet, make
from diffusion_lab.nets.layers import LevelEmbedding, zero
from diffusion_lab.nets.unet import Fine, ResBlock
from diffusion_lab.schedules import EDM


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def same_weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def awake(net):
    """The network with small random weights in the layers that start as zero."""
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return net.eval()


def small_unet(**options):
    return UNet(**({"widths": (8, 16), "emb": 16, "heads": 2} | options))


# ---- the start ----------------------------------------------------------------------------------
def test_untrained_networks_say_zero():
    """So that an untrained EDM denoiser is its skip connection alone: the best linear guess."""
    x, lam = randn(3, 1, 8, 8), torch.tensor([0.3])
    assert not small_unet()(x, lam).any()
    assert not small_unet(fine=4)(x, lam).any()
    assert not MLP(dim=2, width=16)(randn(3, 2), lam).any()
    d = NetDenoiser(small_unet(), EDM(), "edm", sd=0.5)
    sigma = EDM().sigma(0.6)
    expected = 0.25 / (sigma**2 + 0.25) * x
    assert torch.allclose(d(x, 0.6).x0, expected, rtol=1e-6)
    layer = zero(nn.Linear(3, 2))
    assert not layer.weight.any()
    assert not layer.bias.any()


@pytest.mark.parametrize(
    "net",
    [small_unet(num_classes=3), small_unet(num_classes=3, fine=4), MLP(2, 16, num_classes=3)],
    ids=["unet", "fine", "mlp"],
)
def test_every_weight_gets_a_gradient_in_the_end(net):
    net = awake(net).train()
    x = randn(4, 1, 8, 8) if isinstance(net, UNet) else randn(4, 2)
    label, lam = torch.tensor([0, 1, 2, 3]), torch.linspace(-2, 2, 4)
    (net(x, lam, label) * randn(*x.shape, seed=1)).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


# ---- shapes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("size,patch", [((28, 28), 2), ((8, 8), 1), ((8, 12), 2)])
@pytest.mark.parametrize("channels,out", [(1, None), (3, 6)])
@pytest.mark.parametrize("fine", [None, 4])
def test_unet_keeps_the_size(size, patch, channels, out, fine):
    net = awake(small_unet(channels=channels, out_channels=out, patch=patch, fine=fine))
    y = net(randn(2, channels, *size), torch.tensor([0.0]))
    assert y.shape == (2, out or channels, *size)
    assert torch.isfinite(y).all()


def test_unet_of_other_depths():
    x = randn(2, 1, 16, 16)
    for options in (
        {"widths": (8,), "attention": (True,)},
        {"widths": (8, 8, 16), "attention": (False, True, True), "blocks": 2},
        {"attention": (False, False)},
    ):
        assert awake(small_unet(**options))(x, torch.zeros(1)).shape == x.shape


def test_without_fine_the_answer_is_the_last_convolution_unfolded():
    """Bit for bit what files of before ``fine`` mean; and ``fine`` replaces ``last`` alone."""
    net, x = awake(make("unet", widths=(8, 16), emb=16, heads=2)), randn(2, 1, 8, 8)
    said = []
    net.last.register_forward_hook(lambda module, given, out: said.append(out))
    assert torch.equal(net(x, torch.zeros(1)), nn.functional.pixel_shuffle(said[0], 2))
    assert net.last.weight.shape == (4, 8, 3, 3)
    with_fine = make("unet", widths=(8, 16), emb=16, heads=2, fine=4)
    ours, theirs = (
        {k: v.shape for k, v in one.state_dict().items() if not k.startswith("last.")}
        for one in (net, with_fine)
    )
    assert ours == theirs


@pytest.mark.parametrize("patch", [2, 4])
def test_with_fine_a_wrong_mean_is_no_wave(patch):
    """On a plain picture and plain features a folded answer differs inside a block; this cannot."""
    h, x, emb = (
        torch.full((1, 8, 6, 6), 0.7),
        torch.full((1, 1, 6 * patch, 6 * patch), 0.3),
        randn(1, 16),
    )
    plain = awake(Fine(8, 1, 1, width=4, emb=16, patch=patch))(h, x, emb)
    inner = slice(patch + 2, -patch - 2)  # padding reaches a block and two pixels far
    inside = plain[0, 0, inner, inner]
    assert (inside - inside[0, 0]).abs().max() < 1e-6
    folded = nn.functional.pixel_shuffle(awake(nn.Conv2d(8, patch**2, 3, padding=1))(h), patch)
    inside = folded[0, 0, inner, inner]
    assert (inside - inside[0, 0]).abs().max() > 1e-2


def test_stripes_are_two_differences_inside_a_block_and_no_more():
    """Each block of a stripe sums to 0, and so does its product with the check (+-/-+)."""
    fine = Fine(3, 1, 2, width=4, emb=8, patch=2, stripes=True)
    h, x, emb = randn(2, 3, 5, 4), randn(2, 1, 10, 8, seed=1), randn(2, 8, seed=2)
    assert not fine(h, x, emb).any()  # zero at first, as every last layer
    fine.stripes.bias.data = torch.tensor([1.0, 2.0, 10.0, 20.0])  # down 1, 2; across 10, 20
    blocks = fine(h, x, emb).unfold(2, 2, 2).unfold(3, 2, 2)  # (2, 2, 5, 4, rows, columns)
    one = torch.tensor([[11.0, -9.0], [9.0, -11.0]])
    assert torch.equal(blocks, torch.stack([one, 2 * one])[:, None, None].expand_as(blocks))

    fine.stripes.weight.data = randn(4, 3, 3, 3, seed=3)
    blocks = fine(h, x, emb).unfold(2, 2, 2).unfold(3, 2, 2)
    waves = {
        "mean": torch.tensor([[1.0, 1.0], [1.0, 1.0]]),
        "down": torch.tensor([[1.0, 1.0], [-1.0, -1.0]]),
        "across": torch.tensor([[1.0, -1.0], [1.0, -1.0]]),
        "check": torch.tensor([[1.0, -1.0], [-1.0, 1.0]]),
    }
    size = {name: (blocks * wave).sum((-2, -1)).abs() for name, wave in waves.items()}
    assert max(size["mean"].max(), size["check"].max()) < 1e-4
    assert min(size["down"].median(), size["across"].median()) > 1
    down, across = fine.stripes(h).chunk(2, dim=1)  # each stripe is that of its own coarse place
    torch.testing.assert_close(size["down"], 4 * down.abs())
    torch.testing.assert_close(size["across"], 4 * across.abs())


def test_stripes_are_an_addition_to_fine():
    """Nothing else changes, so files of before mean what they meant."""
    plain, striped = small_unet(fine=4), small_unet(fine=4, stripes=True)
    assert list(small_unet(fine=4, stripes=False).state_dict()) == list(plain.state_dict())
    added = set(striped.state_dict()) - set(plain.state_dict())
    assert added == {"last.stripes.weight", "last.stripes.bias"}
    awake(plain)
    striped.load_state_dict(plain.state_dict() | {k: striped.state_dict()[k] for k in added})
    x, lam = randn(2, 1, 8, 8), torch.zeros(2)
    assert torch.equal(striped(x, lam), plain(x, lam))
    for options in ({"stripes": True}, {"stripes": True, "fine": 4, "patch": 4}):
        with pytest.raises(ValueError, match="stripes are drawn beside fine, with patch 2"):
            small_unet(**options)


def test_fine_is_told_of_level_picture_and_features():
    net = awake(Fine(8, 1, 2, width=4, emb=16, patch=2))
    h, x, emb = randn(2, 8, 3, 3), randn(2, 1, 6, 6, seed=1), randn(2, 16, seed=2)
    wide = net.coarse(h).repeat_interleave(2, 2).repeat_interleave(2, 3)
    scale, shift = (part[:, :, None, None] for part in net.told(emb).split(4, dim=1))
    mixed = net.mix(torch.cat([wide, x], 1)) * (1 + scale) + shift
    assert torch.allclose(net(h, x, emb), net.out(nn.functional.silu(mixed)), atol=1e-6)


def test_mlp_and_classifier_shapes():
    assert MLP(dim=5, width=8, depth=1)(randn(3, 5), torch.zeros(3)).shape == (3, 5)
    assert MLP(dim=5, width=8, out_dim=10)(randn(3, 5), torch.zeros(1)).shape == (3, 10)
    net = Classifier(width=4, features=6).eval()
    assert net.features(randn(2, 1, 28, 28)).shape == (2, 6)
    assert net(randn(2, 1, 28, 28)).shape == (2, 10)
    assert (net.features(randn(2, 1, 28, 28)) >= 0).all()


# ---- what they are told -------------------------------------------------------------------------
def nets_and_inputs():
    return [
        (awake(small_unet(num_classes=3)), randn(4, 1, 8, 8)),
        (awake(MLP(2, 16, num_classes=3)), randn(4, 2)),
    ]


def test_one_level_for_all_is_the_same_level_for_each():
    label = torch.tensor([0, 1, 2, 3])
    for net, x in nets_and_inputs():
        one, each = net(x, torch.tensor([0.7]), label), net(x, torch.full((4,), 0.7), label)
        assert torch.allclose(one, each, atol=1e-6)


def test_pictures_of_a_batch_do_not_see_each_other():
    label, lam = torch.tensor([0, 1, 2, 3]), torch.tensor([-3.0, -1.0, 0.5, 4.0])
    for net, x in nets_and_inputs():
        together = net(x, lam, label)
        for i in range(4):
            j = slice(i, i + 1)
            assert torch.allclose(together[j], net(x[j], lam[j], label[j]), atol=1e-5)


def test_level_and_class_matter():
    for net, x in nets_and_inputs():
        base = net(x, torch.tensor([0.0]), torch.zeros(4, dtype=torch.int64))
        other_class = net(x, torch.tensor([0.0]), torch.ones(4, dtype=torch.int64))
        other_level = net(x, torch.tensor([1.0]), torch.zeros(4, dtype=torch.int64))
        assert (base - other_class).abs().max() > 1e-4
        assert (base - other_level).abs().max() > 1e-4


def test_every_pixel_can_matter_to_every_other():
    """Attention on the coarse level: one pixel's change reaches the far corner."""
    net = awake(small_unet())
    x = randn(1, 1, 16, 16)
    y = x.clone()
    y[0, 0, 0, 0] += 1.0
    gap = (net(x, torch.zeros(1)) - net(y, torch.zeros(1))).abs()[0, 0]
    assert gap[-1, -1] > 0


def test_attention_is_softmax_of_scaled_products():
    layer = awake(nets.unet.Attention(8, 2))
    x = randn(2, 8, 3, 3)
    q, k, v = layer.qkv(layer.norm(x)).reshape(2, 3, 2, 4, 9).unbind(1)  # (B, heads, C/heads, HW)
    weight = torch.softmax(torch.einsum("bhcq,bhck->bhqk", q, k) / math.sqrt(4), dim=-1)
    mixed = torch.einsum("bhqk,bhck->bhcq", weight, v).reshape(2, 8, 3, 3)
    assert torch.allclose(layer(x), x + layer.out(mixed), atol=1e-5)


def test_a_block_that_is_told_nothing_is_a_plain_residual_block():
    """Where the level's scale and shift are 0, the features pass as they are."""
    block = awake(ResBlock(8, 8, emb=4))
    zero(block.told)
    x = randn(3, 8, 5, 5)
    silu = nn.functional.silu
    plain = x + block.conv2(silu(block.norm2(block.conv1(silu(block.norm1(x))))))
    assert torch.allclose(block(x, randn(3, 4, seed=1)), plain, atol=1e-6)
    assert (plain - x).abs().max() > 1e-3  # the branch says something


def test_the_embedding_tells_levels_apart():
    """Waves with periods 64 to 1 in lambda: no two levels of [-10, 10] look alike."""
    layer = LevelEmbedding(32)
    assert (2 * math.pi / layer.omega).tolist() == pytest.approx(
        torch.logspace(6, 0, 16, base=2.0).tolist(), rel=1e-5
    )
    lam = torch.linspace(-10, 10, 201)
    angle = lam[:, None] * layer.omega
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)
    apart = torch.cdist(waves, waves) + 100 * torch.eye(201)
    assert apart.min() > 0.3
    assert layer(lam, None, 201).shape == (201, 32)
    told = []  # what enters the network is those waves, each with its quarter turn
    layer.mlp[0].register_forward_pre_hook(lambda _, given: told.append(given[0]))
    layer(lam, None, 201)
    assert torch.allclose(told[0], waves, atol=1e-5)


def test_the_last_class_is_no_class():
    layer = LevelEmbedding(16, num_classes=3)
    assert layer.classes.num_embeddings == 4
    out = layer(torch.zeros(1), torch.tensor([0, 1, 2, 3]), 4)
    assert out.shape == (4, 16)
    assert torch.allclose(layer(torch.zeros(1), None, 4), out[3:], atol=1e-6)
    with pytest.raises(ValueError, match="labels must lie in 0..2, or be 3 for 'no class'"):
        layer(torch.zeros(1), torch.tensor([4]), 1)
    with pytest.raises(ValueError, match=r"int64 of shape \(2,\)"):
        layer(torch.zeros(1), torch.tensor([1]), 2)
    with pytest.raises(ValueError, match="trained without classes"):
        LevelEmbedding(16)(torch.zeros(1), torch.tensor([1]), 1)


def test_classifier_scores_are_linear_in_the_features():
    net = Classifier(width=4, features=32).eval()
    x = randn(2, 1, 8, 8)
    assert torch.allclose(net(x), net.head(net.features(x)))
    assert torch.equal(net(x), net(x))


# ---- bad input ----------------------------------------------------------------------------------
def test_bad_input():
    with pytest.raises(ValueError, match="Did you mean 'unet'"):
        make("unets")
    with pytest.raises(ValueError, match="height and width must be multiples of 4; got \\(6, 8\\)"):
        small_unet()(randn(1, 1, 6, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="yes or no for each of the 3 levels"):
        UNet(widths=(8, 8, 8), attention=(False, True))
    assert isinstance(make("mlp", dim=3), MLP)


def test_a_network_says_how_it_is_made():
    import copy

    from diffusion_lab import nets

    given = {"dim": 3, "width": 8, "num_classes": 4}
    net = nets.make("mlp", **given)
    assert net.spec() == {"name": "mlp"} | given
    again = nets.make(**copy.deepcopy(net).spec())
    assert again.state_dict().keys() == net.state_dict().keys()
    named = nets.make("diffusion_lab.nets.mlp:MLP", **given)
    assert type(named) is MLP and named.spec()["name"] == "diffusion_lab.nets.mlp:MLP"
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    with torch.device("meta"):
        assert nets.make("mlp", **given).last.weight.device.type == "meta"
    for wrong in ("torch.nn:Linear", "diffusion_lab.files:sha256", "diffusion_lab.nets:make"):
        with pytest.raises(ValueError, match="network"):
            nets.make(wrong)
