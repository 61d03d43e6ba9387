"""Latent diffusion: the floor of a linear autoencoder, the scale, the texts, the right decoder."""

from __future__ import annotations

import pytest
import torch
from helpers import F64, randn
from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.data import captions, emoji, load
from diffusion_lab.errors import CheckpointError
from diffusion_lab.exact import Gaussian
from diffusion_lab.grids import grid
from diffusion_lab.latent.autoencoder import KLAutoencoder
from diffusion_lab.latent.first_stage import fingerprint, first_stage
from diffusion_lab.latent.ldm import LatentDiffusion, decode, no_text, scale_of
from diffusion_lab.metrics.frechet import Reference, frechet
from diffusion_lab.samplers import ddim
from diffusion_lab.schedules import Cosine
from diffusion_lab.training import recipes, train
from diffusion_lab.training.tasks import seeded
from diffusion_lab.walk import sample, walk

DATA = load("emoji")
PLAIN = recipes.get("emoji-ldm").but(
    net={"name": "unet", "patch": 1, "widths": (8, 8), "emb": 16, "heads": 2},
    conditional=False,
    null=0.0,
    batch=8,
    steps=4,
    sampler={"steps": 2},
)
WORDS = PLAIN.but(
    net=PLAIN.net | {"name": "text_unet", "width": 8, "vocabulary": len(captions.tokeniser())},
    conditional=("tokens",),
    null={"tokens": 0.1},
)


def tiny(seed: int = 0) -> KLAutoencoder:
    from diffusion_lab import nets

    with seeded(seed):
        return nets.make("diffusion_lab.latent.autoencoder:KLAutoencoder", widths=(8, 8)).eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ae") / "tiny.safetensors"
    checkpoints.save(path, tiny(), {"name": "tiny"})
    return path


def told(recipe, path, **more):
    return recipe.but(options={"autoencoder": str(path), **more})


# ---- the floor ----------------------------------------------------------------------------------
class Principal(nn.Module):
    """The best linear autoencoder: z = U_k^T x, without any spread."""

    def __init__(self, u: torch.Tensor) -> None:
        super().__init__()
        self.u = nn.Parameter(u)

    def moments(self, x):
        z = x @ self.u
        return z, torch.full_like(z, -30.0)

    def decode(self, z):
        return z @ self.u.T


def test_the_floor_of_latent_diffusion_is_what_the_autoencoder_discards():
    """Gaussian data, the best linear autoencoder, the exact denoiser of its latents.

    Samples have the covariance U_k L_k U_k^T, so their Fréchet distance to the data is the sum of
    the eigenvalues that are left out, and so is that of the reconstructions: nothing is added.
    """
    root = randn(6, 6, seed=3)
    cov = root @ root.T / 6 + 0.05 * torch.eye(6, dtype=F64)
    values, vectors = torch.linalg.eigh(cov)
    kept, u, floor = values[2:], vectors[:, 2:], values[:2].sum()
    auto = Principal(u)
    back = auto.decode(auto.moments(torch.eye(6, dtype=F64))[0]).detach()  # a linear map, by rows
    torch.testing.assert_close(_distance(back.T @ cov @ back, cov), floor)

    data = randn(20_000, 6, seed=4) @ torch.linalg.cholesky(cov).T
    s = scale_of(auto.moments(data)[0].detach())
    assert s == pytest.approx(4**0.5 / kept.sum().item() ** 0.5, rel=0.02)
    law = Gaussian(torch.zeros(4, dtype=F64), s**2 * torch.diag(kept))
    schedule = Cosine()
    walked = walk(ddim(), law.denoiser(schedule), torch.eye(4, dtype=F64), grid(schedule, 500))
    model = nn.Identity()  # what it says of itself is in its header
    model.about = {"stands_on": {"autoencoder": "u", "weights": fingerprint(auto), "scale": s}}
    x = decode(model, sample(walked, bar=False).x, auto)  # linear too: of N(0, I), cov = x^T x
    torch.testing.assert_close(x.T @ x, u @ torch.diag(kept) @ u.T, rtol=0, atol=0.01)
    assert _distance(x.T @ x, cov) == pytest.approx(floor.item(), rel=0.01)


def _distance(a, b) -> torch.Tensor:
    zero = torch.zeros(len(a), dtype=F64)
    return torch.tensor(frechet(Reference(zero, a, 2), Reference(zero, b, 2)), dtype=F64)


# ---- the scale ----------------------------------------------------------------------------------
def test_an_encoder_times_c_changes_nothing(file, tmp_path):
    c = 7.0
    scaled = tiny()
    last = scaled.moment[1]
    last.weight.data[:4] *= c
    last.bias.data[:4] *= c
    last.bias.data[4:] += 2 * torch.tensor(c).log()
    scaled.decoder[0].weight.data /= c
    checkpoints.save(tmp_path / "scaled.safetensors", scaled, {})
    one = LatentDiffusion(told(PLAIN, file), DATA)
    other = LatentDiffusion(told(PLAIN, tmp_path / "scaled.safetensors"), DATA)
    assert other.scale == pytest.approx(one.scale / c, rel=1e-4)
    assert other.stands_on["weights"] != one.stands_on["weights"]
    a, b = one.draw(3), other.draw(3)
    torch.testing.assert_close(a["x0"], b["x0"], rtol=1e-4, atol=1e-4)
    losses = [next(task.losses(None, **batch)) for task, batch in ((one, a), (other, b))]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


def test_the_first_batch_has_unit_size_and_z_is_drawn_anew(file):
    task = LatentDiffusion(told(PLAIN, file), DATA)
    first = task.draw(0)["x0"]
    assert first.std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    pick = task.draw(0), task.draw(0)
    assert torch.equal(pick[0]["x0"], pick[1]["x0"])
    every = torch.arange(8)
    a, b = task._z(1, every), task._z(2, every)
    assert not torch.equal(a, b)
    mean, logvar = task.autoencoder.moments(DATA.x[:8].to(next(task.autoencoder.parameters())))
    zs = torch.stack([task._z(step, every) for step in range(300)]).double()
    std = (0.5 * logvar).exp().cpu().double()
    assert ((zs.mean(0) - mean.cpu()).abs() < 5 * std / 300**0.5).all()
    torch.testing.assert_close(zs.std(0).mean(), std.mean(), rtol=0.02, atol=0)


def test_pictures_come_back_at_their_own_scale(file):
    """The preview divides by s before it decodes."""
    task = LatentDiffusion(told(PLAIN, file), DATA)
    model = task.models["model"]
    drawn = task._drawn(model, 2)
    z = super(LatentDiffusion, task)._drawn(model, 2)
    torch.testing.assert_close(drawn, task.autoencoder.decode(z / task.scale))
    assert drawn.shape == (2, 3, 32, 32) and task.distance is None


def test_numbers_that_are_all_equal_have_no_scale():
    with pytest.raises(ValueError, match="no scale"):
        scale_of(torch.ones(3, 4))
    assert scale_of(torch.tensor([-4.0, 4.0])) == 0.25


# ---- texts --------------------------------------------------------------------------------------
def test_texts_are_drawn_anew_from_seed_and_step():
    task = LatentDiffusion(WORDS.but(options={"captions": True}, batch=400), DATA)
    batch, again, later = task.draw(0), task.draw(0), task.draw(1)
    assert torch.equal(batch["tokens"], again["tokens"]) and batch["x0"].shape == (400, 3, 32, 32)
    null = no_text(8)
    dropped = (batch["tokens"] == null).all(1)
    assert abs(dropped.float().mean() - 0.1) < 4 * (0.09 / 400) ** 0.5
    assert not torch.equal(batch["tokens"], later["tokens"])
    records, tokeniser = emoji.records("train"), captions.tokeniser()
    for i in range(0, 400, 40):  # the text is of the picture
        place = int((DATA.x == batch["x0"][i]).flatten(1).all(1).nonzero()[0])
        said = set(captions.full_caption(records[place]).split())
        known = {tokeniser.numbers.get(w, captions._bucket(w)) for w in said}
        assert dropped[i] or set(batch["tokens"][i].tolist()) - {0} <= known
    assert "label" not in batch


def test_a_preview_of_words_is_guided_from_no_text():
    """With scale 0 all pictures are of no text, so words that are changed change nothing."""
    recipe = WORDS.but(options={"captions": True}, sampler={"steps": 2, "scale": 0.0})
    task = LatentDiffusion(recipe, DATA)
    for p in task.models.parameters():
        nn.init.normal_(p, std=0.1)
    model = task.models["model"]
    plain = task._drawn(model, 2)
    task.data.condition["tokens"][:2] = 300
    assert torch.equal(task._drawn(model, 2), plain)
    task.recipe = recipe.but(sampler={"steps": 2})
    assert not torch.allclose(task._drawn(model, 2), plain)


# ---- the right decoder --------------------------------------------------------------------------
def test_a_model_is_decoded_by_its_own_autoencoder_alone(file, tmp_path):
    recipe = told(WORDS, file, captions=True)
    list(train(recipe, out=tmp_path))
    model = checkpoints.load(tmp_path / "emoji-ldm.safetensors", device="cpu")
    made = model.about["stands_on"]
    assert made["autoencoder"] == str(file) and made["weights"] == fingerprint(tiny())
    z = randn(2, 4, 8, 8, dtype=torch.float32)
    expected = tiny().decode(z / made["scale"])
    torch.testing.assert_close(decode(model, z, file).cpu(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decode(model, z, tiny()), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="is another"):
        decode(model, z, tiny(seed=1))
    other = tmp_path / "again.safetensors"  # measured, so its header is another
    checkpoints.save(other, tiny(), {"name": "tiny", "metrics": {"psnr": 30}})
    assert decode(model, z, other).shape == (2, 3, 32, 32)
    with pytest.raises(CheckpointError, match="says nothing of an autoencoder"):
        decode(tiny(), z, file)


def test_a_training_goes_on_bit_for_bit_and_on_the_same_autoencoder_alone(file, tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(file.read_bytes())
    recipe = told(WORDS, own, captions=True)
    *_, whole = train(recipe, report_every=2)
    list(train(recipe, out=tmp_path, stop_at=2, save_every=2))
    checkpoints.save(own, tiny(seed=1), {})
    with pytest.raises(CheckpointError, match="what it stands on"):
        train(recipe, out=tmp_path, resume=True)
    own.write_bytes(file.read_bytes())
    *_, p = train(recipe, out=tmp_path, resume=True)
    for a, b in zip(whole.model.state_dict().values(), p.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# ---- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("recipe", "data", "why"),
    [
        (WORDS.but(options={"caption": True}), DATA, "Did you mean 'captions'"),
        (WORDS.but(options={"captions": True}), load("digits"), "only the emoji have captions"),
        (
            WORDS.but(options={"captions": True}, net=WORDS.net | {"vocabulary": 9}),
            DATA,
            "tokens, the network 9",
        ),
        (PLAIN.but(options={"captions": True}), DATA, "are the condition tokens"),
    ],
)
def test_what_cannot_be_trained_is_refused(recipe, data, why):
    with pytest.raises(ValueError, match=why):
        LatentDiffusion(recipe, data)


def test_an_autoencoder_must_be_one():
    with pytest.raises(CheckpointError, match="must be there first"):
        first_stage("emoji-none")
    with pytest.raises(CheckpointError, match="Linear is no autoencoder"):
        first_stage(nn.Linear(2, 2), "moments", "decode")
