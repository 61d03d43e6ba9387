"""Words in a network: what cross-attention must and must not depend on."""

from __future__ import annotations

import pytest
import torch
from helpers import randn

from diffusion_lab import nets
from diffusion_lab.data.captions import LENGTH, tokeniser
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.guidance import guided
from diffusion_lab.nets.attention import CrossAttention
from diffusion_lab.nets.text import TextUNet, TokenEncoder
from diffusion_lab.schedules import EDM
from diffusion_lab.training.tasks import seeded

H, C = randn(2, 5, 8), randn(2, 3, 6, seed=1)
SMALL = {"vocabulary": 20, "width": 8, "widths": (8, 8), "emb": 16, "heads": 2, "patch": 1}
TOKENS = torch.tensor([[7, 8, 9, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])


def attention(seed: int = 0) -> CrossAttention:
    """In double precision, and as if it had been trained: its last map is not 0."""
    with seeded(seed):
        made = CrossAttention(8, 2, 6).double()
        torch.nn.init.normal_(made.out.weight)
    return made


def text_net(trained: bool = True) -> TextUNet:
    with seeded(3):
        net = nets.make("text_unet", channels=2, **SMALL)
        if trained:
            for p in net.parameters():
                torch.nn.init.normal_(p, std=0.2)
    return net.eval()


# ---- cross-attention ----------------------------------------------------------------------------
def test_at_first_it_is_the_identity():
    assert torch.equal(CrossAttention(8, 2, 6).double()(H, C), H)


def test_it_is_the_formula_of_the_paper():
    """One head at a time, by eq 9 and softmax(Q K^T / sqrt(d)) V."""
    net = attention()
    q, k, v = net.query(net.norm(H)), net.key(C), net.value(C)
    seen = torch.cat(
        [
            torch.softmax(q[..., i : i + 4] @ k[..., i : i + 4].mT / 2, -1) @ v[..., i : i + 4]
            for i in (0, 4)
        ],
        dim=-1,
    )
    torch.testing.assert_close(net(H, C), H + seen @ net.out.weight.T)


def test_with_one_token_the_query_says_nothing():
    net = attention()
    before = net(H, C[:, :1]) - H
    torch.nn.init.normal_(net.query.weight)
    torch.testing.assert_close(net(H, C[:, :1]) - H, before)
    torch.testing.assert_close(before, before[:, :1].expand_as(before))  # the same everywhere


def test_the_order_of_tokens_says_nothing():
    net, order = attention(), torch.tensor([2, 0, 1])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    torch.testing.assert_close(net(H, C[:, order]), net(H, C))
    torch.testing.assert_close(net(H, C[:, order], mask[:, order]), net(H, C, mask))


def test_what_the_mask_hides_is_as_if_it_were_not_there():
    net, mask = attention(), torch.tensor([[True, True, False]] * 2)
    hidden = C.clone()
    hidden[:, 2] = 1e6
    torch.testing.assert_close(net(H, hidden, mask), net(H, C[:, :2]))
    assert not net.weights(H, hidden, mask)[..., 2].any()


def test_a_row_without_tokens_gives_back_what_came_and_no_gradient():
    net, mask = attention(), torch.tensor([[True, True, True], [False, False, False]])
    context = C.clone().requires_grad_()
    out = net(H, context, mask)
    assert torch.equal(out[1], H[1]) and not torch.equal(out[0], H[0])
    out.sum().backward()
    assert not context.grad[1].any() and context.grad.isfinite().all()
    sums = net.weights(H, C, mask).sum(-1)
    torch.testing.assert_close(sums[0], torch.ones_like(sums[0]))
    assert sums.shape == (2, 2, 5) and not sums[1].any()


@pytest.mark.parametrize(
    ("context", "mask", "why"),
    [
        (C[..., :4], None, "context must be"),
        (C[:1], None, "context must be"),
        (C, torch.ones(2, 3), "mask must be bool"),
        (C, torch.ones(2, 2, dtype=torch.bool), "mask must be bool"),
    ],
)
def test_what_does_not_fit_is_refused(context, mask, why):
    with pytest.raises(ValueError, match=why):
        attention()(H, context, mask)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 heads do not divide"):
        CrossAttention(8, 3, 6)


# ---- the U-Net ----------------------------------------------------------------------------------
def test_without_a_context_the_unet_is_as_it_was():
    with seeded(0):
        plain = nets.UNet(1, widths=(8, 8), emb=16)
    with seeded(0):
        same = nets.UNet(1, widths=(8, 8), emb=16, context=None)
    assert list(plain.state_dict()) == list(same.state_dict())
    assert not any("cross" in key for key in plain.state_dict())
    x, lam = torch.ones(2, 1, 8, 8), torch.zeros(1)
    assert torch.equal(plain(x, lam), same(x, lam))
    with pytest.raises(ValueError, match="takes no context"):
        plain(x, lam, context=torch.ones(2, 3, 4))


def test_a_context_wants_attention_and_is_wanted():
    with pytest.raises(ValueError, match="needs attention"):
        nets.UNet(1, widths=(8,), attention=(False,), context=4)
    net = nets.UNet(1, widths=(8, 8), emb=16, context=4)
    with pytest.raises(ValueError, match=r"context \(B, M, 4\)"):
        net(torch.ones(2, 1, 8, 8), torch.zeros(1))


# ---- tokens -------------------------------------------------------------------------------------
@pytest.mark.parametrize("layers", [0, 1])
def test_without_tokens_it_is_the_null_text(layers):
    encoder = TokenEncoder(20, 8, layers=layers)
    null = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]])
    for given, expected in zip(encoder(None), encoder(null), strict=True):
        assert torch.equal(given, expected)
    assert encoder(None)[1].tolist() == [[True] + [False] * 7]


def test_words_see_each_other_but_not_what_stands_nowhere():
    encoder = TokenEncoder(20, 8)
    torch.nn.init.normal_(encoder.attention.out.weight)
    first = encoder(TOKENS)[0]
    encoder.words.weight.data[0] = 1e3  # PAD
    torch.testing.assert_close(encoder(TOKENS)[0][:, 0], first[:, 0])
    encoder.words.weight.data[9] = 0  # the third word changes the first
    assert not torch.allclose(encoder(TOKENS)[0][0, 0], first[0, 0])


def test_a_picture_hears_its_own_words_alone():
    net, x, lam = text_net(), torch.ones(2, 2, 8, 8), torch.zeros(1)
    both = net(x, lam, TOKENS)
    assert not torch.allclose(both[0], both[1], atol=1e-4)
    torch.testing.assert_close(net(x[:1], lam, TOKENS[:1]), both[:1])
    torch.testing.assert_close(net(x, lam)[1], both[1])  # the second is the null text
    changed = TOKENS.clone()
    changed[0, 1] = 3
    torch.testing.assert_close(net(x, lam, changed)[1], both[1])
    assert not torch.allclose(net(x, lam, changed)[0], both[0], atol=1e-4)


def test_it_is_guided_as_any_denoiser():
    """At scale 1 the conditional answer, at 0 that of no text."""
    model = NetDenoiser(text_net(), EDM(), shape=(2, 8, 8))
    x, null = torch.ones(2, 2, 8, 8), TOKENS[1]
    for scale, tokens in ((1.0, TOKENS), (0.0, None)):
        told = guided(model, scale, tokens=null)(x, 0.5, tokens=TOKENS)
        torch.testing.assert_close(told.x0, model(x, 0.5, tokens=tokens).x0)


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (TOKENS[:, :5], "tokens are int64"),
        (TOKENS.float(), "tokens are int64"),
        (TOKENS + 19, "tokens lie in 0..19"),
        (TOKENS[:1], "2 pictures need as many rows"),
    ],
)
def test_tokens_that_are_none(tokens, why):
    with pytest.raises(ValueError, match=why):
        text_net()(torch.ones(2, 2, 8, 8), torch.zeros(1), tokens)


def test_layers_are_none_or_one():
    with pytest.raises(ValueError, match="0 or 1"):
        TokenEncoder(20, layers=2)


def test_the_default_vocabulary_is_the_courses():
    net = nets.make("text_unet", widths=(8, 8), emb=16)
    assert net.encoder.words.num_embeddings == len(tokeniser())
    assert net.encoder.length == LENGTH
