"""Diffusion autoencoders: the two codes against closed forms, the injection, the training."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import F64, gen, randn
from torch import nn

from diffusion_lab import checkpoints, data, nets
from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.exact import ExactDenoiser
from diffusion_lab.grids import grid
from diffusion_lab.latent.diffae import Decoder, DiffAE, SemanticEncoder, codes, decode, interpolate
from diffusion_lab.nets import UNet
from diffusion_lab.nets.unet import Fine, ResBlock
from diffusion_lab.samplers.inversion import slerp
from diffusion_lab.schedules import Cosine, Linear
from diffusion_lab.training import Recipe, recipes, train

S2 = 0.5
SMALL = {"name": "diffusion_lab.latent.diffae:Decoder", "z_dim": 3, "widths": (8, 8), "emb": 8}
TINY = Recipe(
    "tiny",
    "",
    task="diffusion_lab.latent.diffae:DiffAE",
    options={"widths": (4, 8)},
    data="digits",
    net=SMALL | {"patch": 1, "attention": (False, False)},
    schedule={"name": "linear"},
    steps=6,
    batch=8,
    sampler={"sampler": "ddim", "steps": 2},
)


def around_z(schedule, s2=S2):
    """The exact denoiser of x ~ N(z, s2 I)."""

    def x0(x_t, alpha, sigma, *, z):
        return z + alpha * s2 / (alpha**2 * s2 + sigma**2) * (x_t - alpha * z)

    return ExactDenoiser(schedule, x0)


class Half(nn.Module):
    """An encoder that keeps half of each number."""

    def forward(self, x):
        return 0.5 * x


def digits(n=40):
    whole = data.load("digits")
    return Dataset(whole.x[:n], None, (), "some", "train", "0", 17, whole.std)


# ---- the codes ----------------------------------------------------------------------------------
def test_decoding_a_gaussian_is_a_product_of_scalars_with_order_one():
    """Data N(z, 1/2), told z = 0: x_T = 1 ends at the standard deviation 1/sqrt 2, from below."""
    model, z, x_T = (
        around_z(Cosine(1e-9)),
        torch.zeros(1, 1, dtype=F64),
        torch.ones(1, 1, dtype=F64),
    )
    found = [decode(model, z, x_T, grid(model.schedule, n)).item() for n in (16, 32, 64)]
    assert found == pytest.approx([0.6515, 0.6788, 0.6928], abs=5e-5)
    wrong = [math.sqrt(S2) - one for one in found]
    assert all(1.9 < a / b < 2.1 for a, b in itertools.pairwise(wrong))


@pytest.mark.parametrize("schedule", [Cosine(), Linear()], ids=str)
def test_decoding_the_two_codes_gives_the_picture_back_with_order_one(schedule):
    models = nn.ModuleDict({"encoder": Half(), "model": around_z(schedule)})
    x0, wrong = randn(5, 3), []
    for steps in (50, 100, 200):
        times = grid(schedule, steps)
        z, x_T = codes(models, x0, times)
        assert torch.equal(z, 0.5 * x0)
        wrong.append((decode(models["model"], z, x_T, times) - x0).abs().max().item())
    assert all(1.8 < a / b < 2.2 for a, b in itertools.pairwise(wrong)), wrong
    assert wrong[-1] < 0.05


def test_the_stochastic_code_is_the_noise_that_the_flow_comes_from():
    """For N(z, s2), x_T = alpha z + std_T (x_0 - z)/s as the steps get short."""
    schedule = Linear()
    models = nn.ModuleDict({"encoder": Half(), "model": around_z(schedule)})
    x0 = randn(4, 2)
    z, x_T = codes(models, x0, grid(schedule, 2000))
    alpha, sigma = schedule.alpha_sigma(1.0)
    expected = alpha * z + math.sqrt(alpha**2 * S2 + sigma**2) * (x0 - z) / math.sqrt(S2)
    assert (x_T - expected).abs().max() < 0.02


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_z_that_holds_the_picture_leaves_nothing_to_the_noise(steps):
    """eps_hat = (x_t - alpha z)/sigma with z = x_0 gives x_0 from any x_T in any steps."""

    def x0(x_t, alpha, sigma, *, z):
        return (x_t - sigma * ((x_t - alpha * z) / sigma)) / alpha

    model, z = ExactDenoiser(Linear(), x0), randn(3, 4)
    for seed in (1, 2):
        x = decode(model, z, 5 * randn(3, 4, seed=seed), grid(model.schedule, steps))
        torch.testing.assert_close(x, z, rtol=0, atol=1e-10)


def test_interpolation_takes_z_straight_and_the_noise_round():
    model = around_z(Cosine())
    times = grid(model.schedule, 10)
    a, b = [(randn(2, 6, seed=i), randn(2, 6, seed=i + 1)) for i in (1, 3)]
    found = interpolate(model, a, b, [0, 0.25, 1], times)
    torch.testing.assert_close(found[0], decode(model, *a, times), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[2], decode(model, *b, times), rtol=0, atol=1e-12)
    z, x_T = 0.75 * a[0] + 0.25 * b[0], slerp(a[1], b[1], 0.25)
    torch.testing.assert_close(found[1], decode(model, z, x_T, times), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\] \(a and b\)"):
        interpolate(model, a, b, [1.5], times)


def test_a_great_circle_keeps_the_length_of_noise():
    d = 10_000
    a, b = randn(1, d, seed=1), randn(1, d, seed=2)
    for share in (0.0, 0.3, 0.5, 1.0):  # |x|/sqrt d has a standard deviation of 1/sqrt(2 d)
        assert abs(slerp(a, b, share).norm().item() / d**0.5 - 1) < 4 / (2 * d) ** 0.5
    assert torch.lerp(a, b, 0.5).norm().item() / d**0.5 == pytest.approx(0.5**0.5, abs=0.02)
    near = a + 1e-9 * b
    torch.testing.assert_close(slerp(a, near, 0.5), torch.lerp(a, near, 0.5), rtol=0, atol=1e-9)


# ---- the injection ------------------------------------------------------------------------------
def decoder(**more):
    torch.manual_seed(0)
    return Decoder(1, z_dim=3, widths=(8, 16), emb=8, **more).double()


def test_a_block_is_scaled_by_level_and_by_z_as_in_the_paper():
    net = decoder()
    block = next(m for m in net.modules() if isinstance(m, ResBlock))
    nn.init.normal_(block.conv2.weight, std=0.1)
    emb, z, x = randn(2, 8), randn(2, 3, seed=1), randn(2, 8, 4, 4, seed=2)
    t_s, t_b = block.told.level(emb)[:, :, None, None].chunk(2, dim=1)
    h = block.norm2(block.conv1(nn.functional.silu(block.norm1(x))))
    h = ((1 + t_s) * h + t_b) * (1 + block.told.z(z)[:, :, None, None])
    expected = x + block.conv2(nn.functional.silu(h))
    found = block(x, torch.cat([emb, z], dim=1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fine", [None, 4])
def test_without_a_word_of_z_the_decoder_is_the_u_net(fine):
    net = decoder(fine=fine)
    told = [m.told for m in net.modules() if isinstance(m, ResBlock | Fine)]
    for one in told:
        nn.init.zeros_(one.z.weight), nn.init.zeros_(one.z.bias)
    for p in net.parameters():  # what starts at zero would hide the rest
        if not p.any() and all(p is not q for one in told for q in one.z.parameters()):
            nn.init.normal_(p, std=0.1)
    plain = UNet(1, widths=(8, 16), emb=8, fine=fine).double()
    same = {k.replace("level.level.", "level.").replace("told.level.", "told."): v
            for k, v in net.state_dict().items() if ".told.z." not in k}  # fmt: skip
    plain.load_state_dict(same)
    x, lam = randn(2, 1, 8, 8), torch.tensor([0.3], dtype=F64)
    expected = plain(x, lam)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(net(x, lam, randn(2, 3)), expected, rtol=0, atol=1e-12)
    nn.init.normal_(told[0].z.weight)
    assert (net(x, lam, randn(2, 3)) - expected).abs().max() > 1e-4


def test_the_encoder_sees_no_noise_level_and_says_z():
    encoder = SemanticEncoder(2, 5, (4, 8))
    assert encoder(torch.zeros(3, 2, 9, 7)).shape == (3, 5)
    with pytest.raises(ValueError, match=r"takes x of shape \(B, 2, H, W\)"):
        encoder(torch.zeros(3, 1, 8, 8))


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (None, "give z=, as of its encoder"),
        (torch.zeros(2, 4, dtype=F64), r"z must have shape \(B, 3\)"),
        (torch.zeros(1, 3, dtype=F64), "one row for each of the 2 pictures; got 1"),
    ],
)
def test_a_decoder_needs_a_z_for_each_picture(z, says):
    model = NetDenoiser(decoder(), Linear())
    with pytest.raises(ValueError, match=says):
        model(randn(2, 1, 8, 8), 0.5, z=z)


def test_what_cannot_be_a_decoder():
    with pytest.raises(ValueError, match="unknown argument of the U-Net 'width'"):
        Decoder(width=3)
    with pytest.raises(ValueError, match="leave num_classes out"):
        Decoder(num_classes=3)
    points = Dataset(torch.zeros(4, 2), None, (), "p", "train", "0", None, 1.0)
    with pytest.raises(ValueError, match="encodes pictures"):
        DiffAE(TINY, points)


# ---- the training -------------------------------------------------------------------------------
def test_encoder_and_decoder_learn_together_and_a_training_resumes_bit_for_bit(tmp_path):
    def weights(folder, **options):
        *_, last = train(TINY, data=digits(), out=folder, report_every=3, **options)
        return last.model.state_dict()

    whole = weights(tmp_path / "whole", preview_every=6)
    weights(tmp_path / "parts", stop_at=2)
    again = weights(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    assert (tmp_path / "whole" / "tiny.preview_6.png").exists()
    models = checkpoints.load(tmp_path / "whole" / "tiny.safetensors", device="cpu")
    assert set(models) == {"model", "encoder"}
    first = DiffAE(TINY, digits()).models
    for name in models:  # both have moved
        moved = [
            not torch.equal(a, b)
            for a, b in zip(models[name].parameters(), first[name].parameters())
        ]
        assert all(moved), name
    x0 = digits().x[:2]
    z, x_T = codes(
        models, x0, grid(models["model"].schedule, 5, lam_range=models["model"].lam_range)
    )
    assert z.shape == (2, 3) and x_T.shape == x0.shape


def test_the_loss_is_that_of_a_denoiser_told_the_code_of_the_clean_picture():
    job = DiffAE(TINY, digits())
    for p in job.models.parameters():  # what starts at zero would hide the rest
        if not p.any():
            nn.init.normal_(p, std=0.3)
    batch = job.draw(0)
    (loss,) = job.losses(job.models, **batch)
    z = job.models["encoder"](batch["x0"])
    assert abs(job.loss(**batch, z=z.flip(0)).mean() - loss) > 1e-3
    torch.testing.assert_close(loss, job.loss(**batch, z=z).mean())
    assert set(batch) == {"x0", "t", "eps"}


def test_the_recipe_makes_its_networks():
    recipe = recipes.get("fashion-diffae")
    job = DiffAE(recipe, data.load("fashion"))
    assert job.dim == 16
    sizes = {k: sum(p.numel() for p in m.parameters()) for k, m in job.models.items()}
    assert sum(sizes.values()) < 1e6  # 4 MB
    assert nets.make(**job.models["encoder"].spec()).head.out_features == job.dim
    assert isinstance(job.models["model"].net, Decoder) and gen(0)
