"""The contrastive loss against closed forms, and a training that resumes bit for bit."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from helpers import randn
from torch.nn import functional

from diffusion_lab import checkpoints, data
from diffusion_lab.data import emoji
from diffusion_lab.training import recipes, train
from diffusion_lab.words.contrastive import Contrastive, contrastive, in_fold, noised_at
from diffusion_lab.words.embedding import padded

NOISY = recipes.get("emoji-embedding-a-noisy")
TINY = NOISY.but(
    net=NOISY.net | {"widths": (4, 8), "width": 8}, batch=16, steps=6, warmup=2, ema=0.9
)


@lru_cache
def task(name: str = "emoji-embedding-a-noisy") -> Contrastive:
    return Contrastive(recipes.get(name), data.load("emoji"))


# ---- the loss -----------------------------------------------------------------------------------
def test_scores_of_nothing_cost_log_B():
    assert contrastive(torch.zeros(128, 128)).item() == pytest.approx(math.log(128))


def test_random_unit_vectors_cost_log_B_within_two_per_cent():
    """With e^tau = 1 the scores are within 1/sqrt(D) of 0, so the loss is log B + 1/2D - ..."""
    u, v = (functional.normalize(randn(128, 64, seed=s), dim=1) for s in (1, 2))
    assert contrastive(u @ v.T).item() == pytest.approx(math.log(128), rel=0.02)


def test_two_pairs_have_a_closed_form():
    a, b, c, d = 0.3, -0.7, 1.1, 0.4
    rows = [math.log(1 + math.exp(b - a)), math.log(1 + math.exp(c - d))]
    columns = [math.log(1 + math.exp(c - a)), math.log(1 + math.exp(b - d))]
    expected = (sum(rows) + sum(columns)) / 4
    found = contrastive(torch.tensor([[a, b], [c, d]])).item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_pictures_and_texts_may_be_swapped():
    scores = 5 * randn(9, 9, seed=3)
    texts = padded(["cat", "dog", "cat", *"abcdef"])
    torch.testing.assert_close(contrastive(scores, texts), contrastive(scores.T, texts))


def test_the_same_text_twice_is_no_mistake():
    """Two rows of one text: each keeps its own column and the third, and no gradient joins them."""
    scores = randn(3, 3, seed=4).requires_grad_(True)
    loss = contrastive(scores, padded(["red cat", "Red CAT", "dog"]))
    s = scores.detach()
    terms = [functional.softplus(s[i, j] - s[i, i]) for i, j in ((0, 2), (1, 2))]
    terms += [functional.softplus(s[j, i] - s[i, i]) for i, j in ((0, 2), (1, 2))]
    terms += [torch.logsumexp(s[2], 0) - s[2, 2], torch.logsumexp(s[:, 2], 0) - s[2, 2]]
    torch.testing.assert_close(loss.detach(), sum(terms) / 6)
    loss.backward()
    assert scores.grad[0, 1] == scores.grad[1, 0] == 0 and (scores.grad[:2, 2] > 0).all()
    # the words of another order are another text
    whole = contrastive(s, padded(["red cat", "cat red", "dog"]))
    torch.testing.assert_close(whole, contrastive(s))


def test_all_texts_the_same_cost_nothing():
    assert contrastive(randn(4, 4), padded(["cat"] * 4)).item() == 0


@pytest.mark.parametrize(
    ("scores", "texts", "says"),
    [
        (torch.zeros(3, 4), None, r"scores are \(B, B\)"),
        (torch.zeros(3), None, r"scores are \(B, B\)"),
        (torch.zeros(3, 3), torch.zeros(2, 4), r"texts are \(3, L\)"),
    ],
)
def test_wrong_scores(scores, texts, says):
    with pytest.raises(ValueError, match=says):
        contrastive(scores, texts)


# ---- what a step sees ---------------------------------------------------------------------------
def test_noise_keeps_the_variance():
    lam = torch.tensor([-3.0, -1.0, 0.0, 2.0, 5.0])
    x0, eps = torch.ones(5, 1, 1, 1), torch.zeros(5, 1, 1, 1)
    alpha, sigma = noised_at(x0, lam, eps).flatten(), noised_at(eps, lam, x0).flatten()
    assert alpha[4] == 1 and sigma[4] == 0  # clean
    torch.testing.assert_close((alpha**2 + sigma**2), torch.ones(5))
    torch.testing.assert_close((alpha / sigma).log()[:4], lam[:4])


def test_a_step_is_drawn_from_its_number_alone():
    one, again, other = (
        task().draw(5),
        Contrastive(NOISY, data.load("emoji")).draw(5),
        task().draw(6),
    )
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert one["x_t"].shape == (128, 3, 32, 32) and not torch.equal(one["lam"], other["lam"])


def test_levels_are_uniform_and_three_in_ten_are_clean():
    drawn = [task().draw(step) for step in range(8)]
    lam = torch.cat([one["lam"] for one in drawn])
    n, clean = len(lam), lam == 5
    assert clean.double().mean() == pytest.approx(0.3, abs=4 * (0.21 / n) ** 0.5)
    rest = (lam[~clean] + 3) / 8
    assert rest.min() >= 0 and rest.mean() == pytest.approx(0.5, abs=4 / (12 * 0.7 * n) ** 0.5)
    white = torch.cat([one["x_t"] for one in drawn])[clean]
    assert white.abs().max() <= 1.0001
    alone = task("emoji-embedding-a").draw(0)
    assert (alone["lam"] == 5).all() and alone["x_t"].abs().max() <= 1.0001


def test_captions_are_drawn_anew_and_of_the_pictures_shown():
    emojis, t = emoji.records("train"), task("emoji-embedding-a")
    still = recipes.get("emoji-embedding-a").but(
        options={"fold": 0, "moved": {"flip": False, "shift": 0.0, "scale": 0.0, "turn": 0.0}}
    )
    drawn = Contrastive(still, t.data).draw(2)
    distance = torch.cdist(drawn["x_t"].flatten(1), t.data.x.flatten(1))
    from diffusion_lab.data.captions import full_caption
    from diffusion_lab.data.trigrams import NUMBERS, trigrams

    for row, near in zip(drawn["texts"], distance.argmin(1).tolist(), strict=True):
        said = set(row.tolist()) - {NUMBERS}
        assert said and said <= set(trigrams(full_caption(emojis[near])).tolist())


def test_two_letters_hide_different_tenths_by_groups():
    records = emoji.records("train")
    folds = torch.stack([in_fold(records, k) for k in range(10)])
    assert (folds.sum(0) == 1).all() and folds.sum(1).min() > 0.06 * len(records)
    groups = [{r.group for r, f in zip(records, fold, strict=True) if f} for fold in folds]
    assert not groups[0] & groups[1]
    a, b = task("emoji-embedding-a"), task("emoji-embedding-b")
    assert set(range(len(records))) - set(a.seen.tolist()) == set(folds[0].nonzero()[:, 0].tolist())
    assert set(range(len(records))) - set(b.seen.tolist()) == set(folds[1].nonzero()[:, 0].tolist())
    assert torch.equal(task().seen, a.seen) and a.recipe.seed != b.recipe.seed
    with pytest.raises(ValueError, match=r"fold is one of 0\.\.9; got 10"):
        in_fold(records, 10)


def test_the_temperature_does_not_decay():
    groups = task().optimisers()[0].param_groups
    assert [len(g["params"]) for g in groups][1] == 1
    assert groups[1]["params"][0] is task().models["model"].tau
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (NOISY.weight_decay, 0)


# ---- the training -------------------------------------------------------------------------------
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    for where, stops in (("one", [None]), ("two", [3, None])):
        for stop in stops:
            resume = stop is None and len(stops) == 2
            list(train(TINY, out=tmp_path / where, save_every=2, stop_at=stop, resume=resume))
    files = [
        checkpoints.load_tensors(tmp_path / where / f"{TINY.name}.safetensors")[0]
        for where in ("one", "two")
    ]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][k], files[1][k]) for k in files[0])
    model = checkpoints.load(tmp_path / "one" / f"{TINY.name}.safetensors", device="cpu")
    assert model.lam_range == (-3.0, 5.0) and "fold" in model.about["recipe"]["options"]


def test_one_batch_is_learnt_by_heart():
    recipe = TINY.but(net=NOISY.net | {"widths": (16, 32)}, lr=3e-3)
    one = Contrastive(recipe, data.load("emoji"))
    batch, (optimiser,) = one.draw(0), one.optimisers()
    batch["lam"], batch["x_t"] = torch.full((16,), 5.0), one.data.x[one.seen[:16]]
    for _ in range(60):
        (loss,) = one.losses(one.models, **batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3 * math.log(16)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": {"folds": 1}}, "unknown option.*'folds'. Did you mean 'fold'"),
        ({"options": {"fold": 10}}, r"fold is one of 0\.\.9"),
        ({"options": {"clean": 2}}, r"share of clean pictures must lie in \[0, 1\]"),
        ({"options": {"moved": {"shift": -1}}}, "shift must be"),
        ({"accumulate": 2}, "accumulate=1"),
        ({"net": {"name": "classifier"}}, "trains a JointEmbedding; got Classifier"),
    ],
)
def test_recipes_that_cannot_be(changes, says):
    with pytest.raises(ValueError, match=says):
        Contrastive(NOISY.but(**changes), data.load("emoji"))


def test_other_data_have_no_captions(monkeypatch):
    for given in (data.load("digits"), data.load("emoji", "test")):
        with pytest.raises(ValueError, match="captions are of the emoji's training split"):
            Contrastive(NOISY, given)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in one process"):
        Contrastive(NOISY, data.load("emoji"))
