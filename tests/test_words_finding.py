"""Recall and precision against counts by hand, and what the shipped embeddings find."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from helpers import gen, randn
from torch.nn import functional

from diffusion_lab import checkpoints, data
from diffusion_lab.data.captions import full_caption
from diffusion_lab.words import found, precision, recall
from diffusion_lab.words.contrastive import noised_at
from diffusion_lab.words.finding import chosen

EYE = torch.eye(4)


# ---- by hand ------------------------------------------------------------------------------------
def test_recall_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.1]])  # places 1, 2 and 1
    assert recall(queries, keys, 1) == pytest.approx(2 / 3)
    assert recall(queries, keys, 2) == 1
    assert recall(EYE, EYE, 1) == 1 and recall(EYE, EYE.flip(0), 3) == 0


def test_embeddings_that_are_all_one_find_nothing():
    same = torch.ones(20, 3)
    assert recall(same, same, 19) == 0 and recall(same, same, 20) == 1


def test_random_embeddings_recall_by_chance():
    u, v = (functional.normalize(randn(1000, 16, seed=s), dim=1) for s in (1, 2))
    assert recall(u, v, 100) == pytest.approx(0.1, abs=4 * (0.09 / 1000) ** 0.5)


def test_precision_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.9, 0.0], [0.0, 1.0], [0.0, 0.9]])
    labels = torch.tensor([0, 1, 1, 1])
    queries, asked = torch.tensor([[1.0, 0.1], [0.1, 1.0]]), torch.tensor([0, 1])
    assert precision(queries, keys, asked, labels, 1) == 1
    assert precision(queries, keys, asked, labels, 2) == pytest.approx((0.5 + 1) / 2)
    # among themselves, without their own: 0 -> 1, 1 -> 0, 2 -> 3, 3 -> 2
    assert precision(keys, keys, labels, labels, 1, others=True) == pytest.approx(2 / 4)
    assert precision(keys, keys, labels, labels, 1) == pytest.approx(3 / 4)  # 1 is nearest to 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: recall(EYE, EYE[:3], 1), "4 queries and 3 keys"),
        (lambda: recall(EYE, EYE, 5), "at most the number of keys, 4; got 5"),
        (lambda: recall(EYE, EYE, 0), "k must be a whole number >= 1"),
        (lambda: recall(EYE, EYE[:, :3], 1), "of one D"),
        (lambda: recall(EYE[0], EYE, 1), "of one D"),
        (lambda: precision(EYE, EYE, torch.zeros(3), torch.zeros(4), 1), "a label for each"),
        (lambda: precision(EYE, EYE, EYE[0], EYE[0], 4, others=True), "at most"),
        (
            lambda: precision(EYE[:2], EYE, torch.zeros(2), torch.zeros(4), 1, others=True),
            "2 queries are not the 4 keys",
        ),
        (lambda: found(torch.nn.Identity()), "JointEmbedding; got Identity"),
        (lambda: found(asked("a"), "tests"), "unknown split of emoji"),
        (lambda: found(asked("a"), keep={"names": 1.0}), "keep has the keys"),
        (lambda: found(asked("a-noisy"), lam=-4.0), "at least -3"),
    ],
)
def test_wrong_questions(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# ---- the shipped ones ---------------------------------------------------------------------------
@lru_cache
def asked(which: str):
    return checkpoints.load(f"emoji-embedding-{which}", device="cpu")


@pytest.mark.parametrize("which", ["a", "b", "a-noisy", "b-noisy"])
def test_words_find_held_out_emoji(which):
    """The specification's aim is recall at 10 of .35 at least, on clean pictures."""
    says = found(asked(which))
    least = 0.35 if "noisy" not in which else 0.25
    assert says["text_recall_10"] >= least and says["chance_10"] == pytest.approx(10 / 215)
    assert says["text_precision_5"] > says["image_precision_5"] - 0.1
    assert says["text_precision_5"] > 2.5 * says["chance_category"]


def test_the_header_says_what_is_found():
    for which in ("a", "b-noisy"):
        measured = asked(which).about["metrics"]
        says = found(asked(which), keep={"name": 1.0})
        for key, value in says.items():
            assert measured["names"][key] == pytest.approx(value, abs=0.011), key


@torch.no_grad()
@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_noise_aware_embedding_sees_through_noise(letter):
    """The specification's aim: it beats the clean one from lambda = -0.5 down."""
    clean, aware = asked(letter), asked(f"{letter}-noisy")
    x = data.load("emoji", "test").x
    said = [full_caption(one) for one in data.emoji.records("test")]
    for lam in (-0.5, -1.0, -2.0):
        gaps = []
        for seed in range(3):
            levels = torch.full((len(x),), lam, dtype=torch.float32)
            x_t = noised_at(x, levels, randn(*x.shape, seed=seed, dtype=torch.float32))
            ours = recall(aware.texts(said), aware.pictures(x_t, lam), 10)
            gaps.append(ours - recall(clean.texts(said), clean.pictures(x_t), 10))
        assert sum(gaps) / 3 > 0.05, lam


def test_pixels_by_their_own_distance():
    """The product of longer vectors orders as the distance does."""
    test, train = data.load("emoji", "test"), data.load("emoji")
    distance = torch.cdist(test.x.flatten(1), train.x.flatten(1))
    near = distance.topk(5, largest=False).indices
    share = (train.labels[near] == test.labels[:, None]).double().mean().item()
    assert found(asked("a"))["pixel_precision_5"] == pytest.approx(share, abs=0.004)


def test_the_chosen_text_is_the_nearest_of_a_few():
    """Pictures that are their texts are chosen always, any others once in ``among``."""

    class Numbers:
        tau = torch.zeros(1)

        def pictures(self, x):
            return x.flatten(1)

        def texts(self, texts):
            return torch.nn.functional.one_hot(torch.tensor([int(t) for t in texts])).float()

    n = 400
    texts = [str(i) for i in range(n)]
    own = torch.eye(n)
    assert chosen(Numbers(), texts, own, 20) == 1.0
    assert chosen(Numbers(), texts, torch.zeros(n, n), 20) == 0.0  # a tie is no choice
    noise = torch.randn(n, n, generator=gen(0))
    share = chosen(Numbers(), texts, noise, 20)
    assert share == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / n) ** 0.5)
    assert chosen(Numbers(), texts, noise, 2) == pytest.approx(0.5, abs=4 * (0.25 / n) ** 0.5)
    with pytest.raises(ValueError, match="one text for each picture; got 400 and 3"):
        chosen(Numbers(), texts, own[:3])
    with pytest.raises(ValueError, match="from 2 to the number of texts, 400; got 401"):
        chosen(Numbers(), texts, own, 401)
