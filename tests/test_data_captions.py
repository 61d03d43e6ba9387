"""Words, captions and tokens: the same in every process, and clear about what they do not know."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers import gen

from diffusion_lab.data import captions, emoji
from diffusion_lab.data.captions import (
    KEEP,
    LENGTH,
    NULL,
    PAD,
    Tokeniser,
    caption,
    full_caption,
    tokeniser,
    words,
)
from diffusion_lab.data.trigrams import bags, trigrams
from diffusion_lab.errors import DataError

REPO = Path(__file__).resolve().parents[1]
RECORDS = emoji.records("train")
RECORD = emoji.Record(
    "🍎",
    "red apple",
    "apple",
    ("red apple", "fruit", ":D", "grey tart"),
    "c",
    "food-fruit",
    "red",
    "g",
)
SMALL = Tokeniser(("apple", "gray", "red"))


# ---- words and captions -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Côte d’Ivoire: 2 Flags", ["cote", "divoire", "2", "flags"]),
        ("SPOOL OF THREAD", ["spool", "of", "thread"]),
        ("rescue worker's blue-square", ["rescue", "workers", "blue", "square"]),
        ("a grey Grey gray", ["a", "gray", "gray", "gray"]),
        (" :D, ☺ ", ["d"]),
        ("", []),
    ],
)
def test_words(text, said):
    assert words(text) == said


def test_a_full_caption_has_every_word_once_in_order():
    # the colour is a word of the name, so it stands there alone; ":D" is no word
    assert full_caption(RECORD) == "red apple food fruit gray tart"
    for record in RECORDS[::50]:
        said = full_caption(record).split()
        assert len(set(said)) == len(said) and set(words(record.name)) <= set(said)


def test_a_caption_keeps_words_with_the_given_chances():
    generator, n = gen(1), 4000
    counts = Counter(w for _ in range(n) for w in caption(RECORD, generator).split())
    # of the name at least one word is kept, .8 + .2 .2 / 2; each other word with .5
    for word, chance in {
        "red": 0.82,
        "apple": 0.82,
        "food": 0.5,
        "fruit": 0.5,
        "tart": 0.5,
    }.items():
        assert counts[word] / n == pytest.approx(chance, abs=4 * (chance * (1 - chance) / n) ** 0.5)


def test_the_ends_of_keeping():
    assert caption(RECORD, gen(), dict.fromkeys(KEEP, 1.0)) == full_caption(RECORD)
    said = {caption(RECORD, gen(seed), dict.fromkeys(KEEP, 0.0)) for seed in range(20)}
    assert said == {"red", "apple"}  # never nothing
    assert {caption(RECORD, gen(seed), {"name": 1}) for seed in range(5)} == {"red apple"}


def test_what_is_drawn_does_not_depend_on_what_was_kept():
    one, other = gen(3), gen(3)
    caption(RECORD, one), caption(RECORD, other, {"name": 0.0})
    assert torch.equal(one.get_state(), other.get_state())
    assert caption(RECORDS[7], one) == caption(RECORDS[7], other)


# ---- tokens -------------------------------------------------------------------------------------
def test_tokens_of_a_small_vocabulary():
    tokens, mask = SMALL.encode("a Red apple, v2 GREY")
    assert len(SMALL) == 6 + 256 + 3 and tokens.dtype == torch.int64
    unknown = tokens[0].item()
    assert tokens.tolist() == [unknown, 264, 262, 3, 263, 0, 0, 0] and 6 <= unknown < 262
    assert mask.tolist() == [True] * 5 + [False] * 3
    assert SMALL.decode(tokens) == f"#{unknown - 6} red apple v2 gray"


def test_no_words_are_null_and_the_rest_is_masked():
    for text in ("", " ☺ "):
        tokens, mask = SMALL.encode(text)
        assert tokens.tolist() == [NULL] + [PAD] * 7
        assert mask.tolist() == [True] + [False] * 7
    assert SMALL.decode(tokens) == ""


def test_long_texts_are_cut_at_eight():
    tokens, mask = SMALL.encode("red " * 7 + "apple gray")
    assert tokens.tolist() == [264] * 7 + [262] and mask.all() and len(mask) == LENGTH == 8


def test_several_texts_at_once():
    texts = ["red apple", "", "pear"]
    tokens, masks = SMALL.encode_all(texts)
    for i, text in enumerate(texts):
        one = SMALL.encode(text)
        assert torch.equal(tokens[i], one[0]) and torch.equal(masks[i], one[1])
    assert torch.equal(masks, tokens != PAD)


def test_the_vocabulary_is_the_recorded_one():
    known = tokeniser()
    assert known.hash == captions.VOCABULARY and len(known.vocabulary) == 923
    assert list(known.vocabulary) == sorted(known.vocabulary)
    counts = Counter(word for one in RECORDS for word in full_caption(one).split())
    assert set(known.vocabulary) == {word for word, count in counts.items() if count >= 3}
    assert not {f"v{i}" for i in (1, 2, 3, 4)} & set(counts)  # free for users
    assert {"red", "blue", "gray", "face", "cat"} <= set(known.vocabulary)
    assert all(emoji.made_up(r.short_name) not in counts for r in emoji.records("rare"))


def test_the_vocabulary_knows_training_words_alone():
    """A word that only the other parts have has no token of its own, however frequent there."""
    train = {word for one in RECORDS for word in full_caption(one).split()}
    others = Counter(
        word
        for split in ("test", "rare", "flags")
        for one in emoji.records(split)
        for word in full_caption(one).split()
    )
    alone = [word for word, count in others.items() if count >= 3 and word not in train]
    assert alone and not set(alone) & set(tokeniser().vocabulary)


def test_another_vocabulary_is_noticed(monkeypatch):
    monkeypatch.setattr(captions, "records", lambda split: RECORDS[:-100])
    with pytest.raises(DataError, match=r"another than recorded(.|\n)*trained on the old words"):
        tokeniser.__wrapped__()


def test_strict_names_the_unknown_words_and_near_ones():
    known = tokeniser()
    with pytest.raises(ValueError, match=r"lacks: 'zorbit'[^;]*; 'catt' \(near: .*cat"):
        known.encode("red zorbit catt", strict=True)
    with pytest.raises(ValueError, match="9 words, and 8 are read"):
        known.encode("red " * 9, strict=True)
    plain, strict = known.encode("red cat"), known.encode("red cat", strict=True)
    assert torch.equal(plain[0], strict[0])
    known.encode("v1 cat", strict=True)


# ---- letters ------------------------------------------------------------------------------------
def test_trigrams_of_a_word_by_hand():
    import zlib

    pieces = ("word cat", "part ^ca", "part cat", "part at$")  # the word, then its parts
    assert trigrams("Cat!").tolist() == [zlib.crc32(p.encode()) % 4096 for p in pieces]
    assert trigrams("").tolist() == []
    assert trigrams("a").shape == (2,)
    shared = set(trigrams("walking").tolist()) & set(trigrams("walker").tolist())
    assert len(shared) >= 3  # ^wa wal alk


def test_bags_are_what_an_embedding_bag_takes():
    numbers, starts = bags(["cat", "", "red cat"])
    assert starts.tolist() == [0, 4, 4] and len(numbers) == 12
    bag = torch.nn.EmbeddingBag(4096, 3, mode="mean")
    out = bag(numbers, starts)
    torch.testing.assert_close(out[0], bag.weight[trigrams("cat")].mean(0))
    torch.testing.assert_close(out[2], bag.weight[trigrams("red cat")].mean(0))
    assert out[1].abs().sum() == 0


def test_another_process_gives_the_same_numbers():
    code = (
        "from diffusion_lab.data import captions, emoji, trigrams\n"
        "from diffusion_lab.device import generator\n"
        "r = emoji.records('test')[40]; t = captions.tokeniser();"
        "print(captions.caption(r, generator(5)), t.encode('zorbit red')[0].tolist(),"
        "trigrams.trigrams('zorbit').tolist(), t.hash)"
    )
    said = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = [sys.executable, "-c", code]
        said.add(
            subprocess.run(run, cwd=REPO, env=environment, capture_output=True, check=True).stdout
        )
    assert len(said) == 1


# ---- wrong questions ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: words(3), "a text is a str; got int"),
        (lambda: caption(RECORD, 3), "torch.Generator; got int"),
        (lambda: caption(RECORD, gen(), {"names": 1.0}), "keep has the keys .*; got names"),
        (lambda: caption(RECORD, gen(), {"name": 80}), r"keep\['name'\] must lie in \[0, 1\]"),
        (lambda: Tokeniser(("Red",)), "each once; got \\['Red'\\]"),
        (lambda: Tokeniser(("red", "red")), "each once"),
        (lambda: Tokeniser(("v1",)), "got \\['v1'\\]"),
        (lambda: SMALL.encode_all("red"), r"several texts, as \['red'\]"),
        (lambda: SMALL.encode_all([]), "at least one text"),
        (lambda: SMALL.decode([265]), "tokens lie in 0..264; got 265"),
        (lambda: SMALL.encode(None), "a text is a str"),
        (lambda: bags([]), "at least one text"),
    ],
)
def test_wrong_arguments(call, says):
    with pytest.raises(ValueError, match=says):
        call()
