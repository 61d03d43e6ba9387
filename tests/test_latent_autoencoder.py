"""Autoencoders: the KL and the straight-through gradient are what they are said to be."""

from __future__ import annotations

import pytest
import torch
from helpers import F64, randn
from torch.distributions import Normal, kl_divergence

from diffusion_lab import checkpoints, nets
from diffusion_lab.data import load
from diffusion_lab.latent import autoencoder as ae
from diffusion_lab.latent.autoencoder import KLAutoencoder, gradients, kl
from diffusion_lab.latent.quantiser import Quantiser, perplexity
from diffusion_lab.latent.vq import VQAutoencoder, levels_quality
from diffusion_lab.training import recipes, train
from diffusion_lab.training.tasks import find, seeded

TINY = {
    "emoji-kl": {"net": {"name": "diffusion_lab.latent.autoencoder:KLAutoencoder"}},
    "emoji-vq": {"net": {"name": "diffusion_lab.latent.vq:VQAutoencoder", "size": 16}},
}
for _changes in TINY.values():
    _changes |= {"net": _changes["net"] | {"widths": (8, 8)}, "batch": 8, "steps": 6}


def kl_net(**more) -> KLAutoencoder:
    with seeded(0):
        return KLAutoencoder(3, widths=(8, 16), **more).eval()


def vq_net(**more) -> VQAutoencoder:
    with seeded(0):
        return VQAutoencoder(3, widths=(8, 16), size=16, **more).eval()


X = randn(4, 3, 32, 32, seed=5, dtype=torch.float32).clamp(-1, 1)


# ---- the Gaussian latent ------------------------------------------------------------------------
def test_the_divergence_is_that_of_torch():
    mean, logvar = randn(3, 4, 2, 2), randn(3, 4, 2, 2, seed=1)
    peer = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl(mean, logvar), peer.sum((1, 2, 3)))


def test_z_has_the_mean_and_the_spread_that_the_encoder_says():
    net = kl_net().double()
    mean, logvar = net.moments(X[:1].double())
    n = 4000
    z = net.encode(X[:1].double(), randn(n, *mean.shape[1:]))
    error = (0.5 * logvar).exp() / n**0.5
    assert ((z.mean(0) - mean[0]).abs() < 5 * error[0]).all()
    torch.testing.assert_close(z.std(0), (0.5 * logvar[0]).exp(), rtol=5 / (2 * n) ** 0.5, atol=0)
    assert torch.equal(net.encode(X[:1].double()), mean)


def test_the_variance_is_clamped():
    net = kl_net()
    torch.nn.init.constant_(net.moment[1].bias, 1e4)
    assert (net.moments(X)[1] == 20.0).all()


@pytest.mark.parametrize(("widths", "factor"), [((8,), 2), ((8, 16), 4), ((8, 16, 16), 8)])
def test_the_latent_is_as_small_as_it_was_asked_to_be(widths, factor):
    net = KLAutoencoder(3, latent=5, widths=widths)
    z = net.encode(X)
    assert net.factor == factor and z.shape == (4, 5, 32 // factor, 32 // factor)
    assert net(X).shape == X.shape
    with pytest.raises(ValueError, match=f"multiples of {factor}"):
        net.encode(X[:, :, 1:])


def test_differences_of_neighbours():
    """A change of brightness has none; a step of height h across 4 rows counts 4 h."""
    x = randn(2, 1, 4, 6)
    assert torch.allclose(gradients(x, x + 1.5), torch.zeros(2, dtype=F64))
    y = x.clone()
    y[0, :, :, 3:] += 2.0
    torch.testing.assert_close(gradients(x, y), torch.tensor([8.0, 0.0], dtype=F64))


def test_the_loss_is_the_sum_over_a_picture_divided_by_its_numbers():
    recipe = recipes.get("emoji-kl").but(**TINY["emoji-kl"], options={"kl": 0.1, "gradient": 0.3})
    task = find(recipe.task)(recipe, load("emoji"))
    batch = task.draw(0)
    found = next(task.losses(None, **batch))
    model = task.models["model"]
    mean, logvar = model.moments(batch["x"])
    std = torch.exp(logvar / 2)
    wrong = batch["x"] - model.decode(mean + std * batch["noise"])
    total = wrong.abs().sum() + 0.3 * (
        wrong.diff(dim=2).abs().sum() + wrong.diff(dim=3).abs().sum()
    )
    total = total + 0.1 * kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(found, total / batch["x"].numel())


def test_pictures_are_moved_and_mirrored_on_white():
    recipe, data = recipes.get("emoji-kl").but(batch=400), load("emoji")
    x, _ = ae.augmented(recipe, data, 3)
    again, _ = ae.augmented(recipe, data, 3)
    assert torch.equal(x, again) and x.shape == (400, 3, 32, 32)
    own = data.x[ae.indices(len(data), 400, recipe.seed, 3)]
    padded = torch.nn.functional.pad(own, (2, 2, 2, 2), value=1.0)
    ways = [
        torch.stack([p[:, :, i : i + 32, j : j + 32] for i in range(5) for j in range(5)])
        for p in (padded, padded.flip(3))
    ]
    match = (torch.stack(ways) == x).flatten(3).all(3)  # mirrored, way, picture
    assert match.any(0).any(0).all()
    seen = match.any(2).float().mean(1)  # every way, mirrored and not
    assert (seen == 1).all()


# ---- codes --------------------------------------------------------------------------------------
def test_the_nearest_code():
    q = Quantiser(16, 3).double()
    z = randn(2, 3, 4, 5)
    brute = (z.movedim(1, -1)[..., None, :] - q.codes).square().sum(-1).argmin(-1)
    assert torch.equal(q.nearest(z), brute)
    out, codes, loss = q.eval()(z)
    assert torch.equal(codes, brute)
    torch.testing.assert_close(out, q.lookup(brute))
    torch.testing.assert_close(loss, 1.25 * (z - out).square().mean((1, 2, 3)))


def test_the_gradient_goes_straight_through():
    """Of the answer to z: the identity. To the codes: none but by the loss, of those in use."""
    q = Quantiser(16, 3).double()
    z, weight = randn(2, 3, 4, 5).requires_grad_(), randn(2, 3, 4, 5, seed=2)
    out, codes, loss = q(z)
    (out * weight).sum().backward(retain_graph=True)
    torch.testing.assert_close(z.grad, weight)
    assert q.codes.grad is None
    z.grad = None
    loss.mean().backward()
    used = torch.zeros(16, dtype=torch.bool)
    used[codes.unique()] = True
    assert torch.equal(q.codes.grad.abs().sum(1) > 0, used) and not used.all()
    wrong = (z - q.lookup(codes)).detach()
    torch.testing.assert_close(z.grad, 2 * 0.25 * wrong / wrong.numel())
    pulled = -2 * wrong.movedim(1, -1).reshape(-1, 3) / wrong.numel()
    torch.testing.assert_close(
        q.codes.grad, torch.zeros(16, 3, dtype=F64).index_add(0, codes.flatten(), pulled)
    )


def test_codes_of_no_use_are_put_where_something_is():
    q = Quantiser(8, 2)
    q.codes.data.copy_(torch.arange(8.0)[:, None].expand(8, 2))
    z = torch.full((1, 2, 4, 4), 3.2)  # code 3 alone
    for _ in range(400):
        q(z)
    assert q.share[3] > 0.95
    assert q.revive() == 7
    moved = torch.full((8, 2), 3.2)
    moved[3] = 3.0
    assert torch.equal(q.codes, moved)
    assert q.revive() == 0
    q.eval()(torch.zeros(1, 2, 4, 4))
    assert torch.equal(q.last, torch.full((8, 2), 3.2))  # only a training is followed


def test_perplexity():
    assert perplexity(torch.arange(8), 8) == pytest.approx(8)
    assert perplexity(torch.zeros(8, dtype=torch.int64), 8) == 1
    share = torch.tensor([0] * 3 + [1])
    assert perplexity(share, 4) == pytest.approx(4 / 3**0.75)  # exp H(3/4, 1/4)


@pytest.mark.parametrize("levels", [1, 2])
def test_codes_are_all_that_the_decoder_sees(levels):
    net = vq_net(levels=levels)
    codes = net.encode(X)
    assert [tuple(c.shape) for c in codes] == [(4, 8, 8), (4, 4, 4)][:levels]
    torch.testing.assert_close(net.decode(codes), net(X))
    torch.testing.assert_close(net.decode_latents(net.latents(X)), net(X))


def test_the_fine_level_sees_the_coarse_one_as_it_is_decoded():
    """Quantised: z of the coarse level moves a little, its code does not, nor the fine level."""
    net = vq_net()
    first, codes = net.latents(X), net.encode(X)
    net.coarse[-1].bias.data += 1e-6
    second = net.latents(X)
    assert torch.equal(net.encode(X)[1], codes[1]) and not torch.equal(first[1], second[1])
    assert torch.equal(first[0], second[0])
    net.quantisers[1].codes.data += 0.1 * torch.sign(net.quantisers[1].codes.data)
    assert not torch.equal(net.latents(X)[0], first[0])  # where the codes lie is seen


def test_what_each_level_contributes():
    net, data = vq_net(), load("emoji", "test")
    found = levels_quality(net, data)
    back = torch.cat([net(part) for part in data.x.split(64)]).detach().clamp(-1, 1)
    assert found["mse"] == pytest.approx((back - data.x).square().mean().item(), rel=1e-4)
    assert found["psnr"] == pytest.approx(10 * torch.tensor(4 / found["mse"]).log10().item())
    assert all(1 <= one <= 16 for one in found["perplexity"]) and len(found["without"]) == 2
    e = net.quantise(data.x)[1]
    alone = net.picture([0 * e[0], e[1]]).clamp(-1, 1)
    assert found["coarse"] == pytest.approx((alone - data.x).square().mean().item(), rel=1e-4)


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: KLAutoencoder(widths=()), "widths are channels"),
        (lambda: KLAutoencoder(widths=(12,)), "multiple of 8"),
        (lambda: KLAutoencoder(latent=0), "latent must be"),
        (lambda: kl_net().encode(X[:, :1]), r"\(B, 3, H, W\)"),
        (lambda: kl_net().decode(torch.ones(1, 3, 8, 8)), r"\(B, 4, H, W\)"),
        (lambda: VQAutoencoder(levels=3), "levels are 1 or 2"),
        (lambda: vq_net().encode(X[:, :, :28, :28]), "multiples of 8"),
        (lambda: vq_net().decode(torch.zeros(1, 8, 8, dtype=torch.int64)), "one map for each"),
        (lambda: vq_net().decode([torch.zeros(1, 8, 8, dtype=torch.int64)]), "one map for each"),
        (lambda: Quantiser(4).lookup(torch.tensor([[[4]]])), r"codes lie in 0\.\.3"),
        (lambda: Quantiser(4).lookup(torch.ones(1, 2, 2)), "codes are int64"),
        (lambda: Quantiser(commitment=-1), "commitment must be"),
    ],
)
def test_what_cannot_be_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()


@pytest.mark.parametrize("name", TINY)
def test_options_are_known_and_data_are_pictures(name):
    recipe = recipes.get(name).but(**TINY[name], options={"gradiant": 1.0})
    with pytest.raises(ValueError, match="Did you mean 'gradient'"):
        train(recipe)


# ---- trainings ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TINY)
def test_a_training_goes_on_bit_for_bit(name, tmp_path):
    recipe = recipes.get(name).but(**TINY[name])
    *_, whole = train(recipe, report_every=2)
    list(train(recipe, out=tmp_path, stop_at=3, save_every=3))
    *_, p = train(recipe, out=tmp_path, resume=True)
    for a, b in zip(whole.model.state_dict().values(), p.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    loaded = checkpoints.load(tmp_path / f"{name}.safetensors", device="cpu")
    torch.testing.assert_close(loaded(X), p.model(X), rtol=1e-4, atol=1e-5)
    assert loaded.about["recipe"]["task"].startswith("diffusion_lab.latent.")


@pytest.mark.parametrize(("levels", "drop"), [(2, 0.3), (2, 1.0), (1, 0.3)])
def test_pictures_of_the_coarse_level_alone(levels, drop):
    """A share ``drop`` of the pictures is made without the fine level, of one level none."""
    recipe = recipes.get("emoji-vq").but(**TINY["emoji-vq"], options={"drop": drop})
    recipe = recipe.but(batch=400, net=recipe.net | {"levels": levels})
    task = find(recipe.task)(recipe, load("emoji"))
    batch = task.draw(0)
    left_out = (~batch["fine"]).double().mean().item()
    assert left_out == pytest.approx(drop if levels == 2 else 0.0, abs=4 * (0.21 / 400) ** 0.5)
    if drop == 1.0 and levels == 2:
        some = {k: v[:8] if v.ndim else v for k, v in batch.items()}
        next(task.losses(task.models, **some)).backward()
        read = task.models["model"].decoder[0].weight.grad
        assert not read[:, :4].any() and read[:, 4:].any()  # nothing of the fine level was read


@pytest.mark.parametrize("name", ["emoji-kl", "emoji-kl8", "emoji-vq"])
def test_the_recipes_build_networks_of_their_size(name):
    recipe = recipes.get(name)
    net = nets.make(**recipe.net)
    assert 1.5e5 < sum(p.numel() for p in net.parameters()) < 6e5
