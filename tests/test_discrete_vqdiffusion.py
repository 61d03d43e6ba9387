"""VQ-Diffusion and its autoregressive peer: sampling rules, losses, caches, and how they train."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers import F64, gen
from torch import nn

from diffusion_lab import checkpoints, data, nets, training
from diffusion_lab.denoisers import Denoiser
from diffusion_lab.discrete import codes
from diffusion_lab.discrete.autoregressive import Autoregression, Autoregressive, in_order
from diffusion_lab.discrete.categorical import Categorical, CodeDenoiser, absorbing, generate, term
from diffusion_lab.discrete.codes import Codes
from diffusion_lab.discrete.vqdiffusion import Truncated, VQDiffusion, chances, reveal
from diffusion_lab.errors import CheckpointError
from diffusion_lab.guidance import guided
from diffusion_lab.training.recipes import Recipe

HEARTBEAT = torch.eye(5, dtype=torch.int64).repeat(1, 2)  # a 1 at every fifth of 10 places
DATA = data.Dataset(
    HEARTBEAT.repeat(8, 1).float(),
    (torch.arange(40) % 5) // 3,
    ("early", "late"),
    "heartbeat",
    "train",
    "0",
    None,
    1.0,
)
TINY = Recipe(
    "beat",
    "heartbeat",
    task="diffusion_lab.discrete.vqdiffusion:VQDiffusion",
    options={"process": {"T": 5}},
    net={
        "name": "diffusion_lab.discrete.transformer:CodeTransformer",
        "width": 16,
        "layers": 2,
        "heads": 2,
    },
    batch=8,
    steps=6,
    warmup=2,
    ema=0.9,
)
PEER = TINY.but(task="diffusion_lab.discrete.autoregressive:Autoregression", options={})


def shaken(net, seed=0):
    """The network with all weights drawn: none of them 0."""
    g = gen(seed)
    for p in net.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=g)
    return net.eval().requires_grad_(False)


def transformer(**more):
    spec = {"codes": 3, "length": 5, "width": 16, "layers": 2, "heads": 2} | more
    return shaken(nets.make("diffusion_lab.discrete.transformer:CodeTransformer", **spec))


class Table(Denoiser):
    """Says the same of every token: log-probabilities (D, K)."""

    def __init__(self, process, p):
        super().__init__(process)
        self.p, self.shape = torch.as_tensor(p, dtype=F64), (len(p),)

    def forward(self, x_t, t, **_):
        return Categorical(x_t, self.p.log().expand(len(x_t), -1, -1))


# ---- sampling rules -----------------------------------------------------------------------------
def test_truncation_keeps_the_likeliest_codes_up_to_their_share():
    said = Table(absorbing(4), [[0.1, 0.5, 0.3, 0.1], [0.9, 0.05, 0.03, 0.02]])
    found = Truncated(said, 0.86)(torch.full((1, 2), 4), 1.0).out.exp()[0]
    wanted = torch.tensor([[1 / 9, 5 / 9, 3 / 9, 0], [1, 0, 0, 0]], dtype=F64)
    first, second = found[0].sort().values, wanted[0].sort().values  # two of 0.1 are alike
    assert (first - second).abs().max() < 1e-12 and (found[1] - wanted[1]).abs().max() < 1e-12
    assert (Truncated(said, 0.0)(torch.full((1, 2), 4), 1.0).x0 == torch.tensor([1, 0])).all()
    everything = Truncated(said, 1.0)(torch.full((1, 2), 4), 1.0).out
    assert (everything - said(torch.full((1, 2), 4), 1.0).out).abs().max() < 1e-12
    with pytest.raises(ValueError, match="top must lie in"):
        Truncated(said, 86)


@pytest.mark.parametrize("purity", [None, 0.0, 2.0])
def test_as_many_tokens_are_revealed_in_every_step(purity):
    said = Table(absorbing(2, 4), [[0.5, 0.5]] * 10)
    path = generate(said, 50, step=reveal(purity), keep=True).path
    masks = [set((state.x == 2).sum(1).tolist()) for state in path]
    assert masks == [{10}, {7}, {4}, {2}, {0}]  # ceil(10/4), ceil(7/3), ceil(4/2), the rest
    for before, after in itertools.pairwise(path):
        assert bool(((before.x == 2) | (before.x == after.x)).all()), "what is revealed stays"


def test_purity_reveals_first_what_the_network_is_sure_of_and_sharpens_it():
    n, sharp = 20_000, 2.0
    said = Table(absorbing(2, 3), [[0.5, 0.5], [0.99, 0.01], [0.8, 0.2]])
    even, pure = (generate(said, n, step=reveal(r), steps=3, keep=True) for r in (None, sharp))
    odds = torch.tensor([0.5, 0.99, 0.8], dtype=F64)
    for found, wanted in ((even, torch.ones(3) / 3), (pure, odds / odds.sum())):
        first = (found.path[1].x < 2).double().mean(0)
        assert (first - wanted).abs().max() < 4 * 0.5 / n**0.5
    a, b = 0.8 ** (1 + sharp * 0.8), 0.2 ** (1 + sharp * 0.8)
    ones = (pure.x == 1).double().mean(0)
    assert ones[2].item() == pytest.approx(b / (a + b), abs=4 * 0.5 / n**0.5)
    assert (even.x == 1).double().mean(0)[2].item() == pytest.approx(0.2, abs=0.015)


# ---- the transformer ----------------------------------------------------------------------------
def test_a_causal_network_sees_no_code_that_is_still_to_come():
    net, t = transformer(causal=True), torch.zeros(1)
    x = torch.tensor([[0, 1, 2, 1]])
    out = net(x, t)
    assert out.shape == (1, 5, 3)
    for place in range(4):
        other = x.clone()
        other[0, place] = (x[0, place] + 1) % 3
        changed = (net(other, t) - out).abs().amax(-1)[0] > 1e-6
        assert changed.tolist() == [i > place for i in range(5)]
        assert torch.allclose(net(x[:, :place], t), out[:, : place + 1], atol=1e-5)


@pytest.mark.parametrize("parts", [None, [2, 3]])
def test_the_cache_changes_nothing(parts):
    net, t = transformer(causal=True, parts=parts, context=4), torch.zeros(1)
    x = torch.randint(0, 3, (2, 4), generator=gen())
    context, mask = torch.ones(2, 3, 4), torch.tensor([[True, False, True], [False] * 3])
    told, cache = {"context": context, "mask": mask}, {}
    whole = net(x, t, **told)
    for n in range(5):
        new = net(x[:, :n], t, cache=cache, **told)
        assert new.shape == (2, 1, 3) and torch.allclose(new[:, 0], whole[:, n], atol=1e-5)
    model = Autoregressive(net, 3, 5)
    told = {k: v[:1].expand(6, *v.shape[1:]) for k, v in told.items()}
    ours, theirs = (generate(model, 6, step=in_order(cache=c), **told) for c in (True, False))
    assert torch.equal(ours.x, theirs.x) and ours.nfe == 5 and ours.x.max() < 3


def test_parts_have_codes_of_their_own():
    net = transformer(parts=[2, 3])
    assert net.embed.num_embeddings == 2 * 4 and net.last.out_features == 2 * 3
    x, t = torch.zeros(1, 5, dtype=torch.int64), torch.tensor([0.5])
    out = net(x, t)
    net.last.bias[:3] += 1.0  # of the first part
    assert (net(x, t) - out)[0, :, 0].round(decimals=4).tolist() == [1, 1, 0, 0, 0]


def test_a_context_that_shows_nothing_is_none():
    net, t = transformer(context=4), torch.tensor([0.5])
    x, context = torch.tensor([[0, 1, 2, 3, 3]] * 2), torch.randn(2, 3, 4, generator=gen())
    nothing = net(x, t)
    mask = torch.tensor([[False] * 3, [True, True, False]])
    found = net(x, t, context=context, mask=mask)
    assert torch.allclose(found[0], nothing[0], atol=1e-6)
    assert torch.allclose(found[1], net(x, t, context=context[:, :2])[1], atol=1e-5)
    assert not torch.allclose(found[1], nothing[1], atol=1e-2)
    with pytest.raises(ValueError, match="made without one"):
        transformer()(x, t, context=context)
    with pytest.raises(ValueError, match="without a vocabulary"):
        transformer()(x, t, tokens=x)


def test_no_text_is_the_null_token():
    net, t = transformer(vocabulary=9), torch.tensor([0.5])
    x, tokens = torch.tensor([[0, 1, 2, 3, 3]] * 2), torch.tensor([[1] + [0] * 7, [5, 3] + [0] * 6])
    found, none = net(x, t, tokens=tokens), net(x, t)
    assert torch.allclose(found[0], none[0], atol=1e-6)
    assert not torch.allclose(found[1], none[1], atol=1e-2)


def test_a_network_cannot_say_that_data_are_masked():
    class Net(nn.Module):
        def forward(self, x, t):
            out = torch.zeros(*x.shape, 4)
            out[..., 3] = 50.0  # of the mask
            return out

    said = CodeDenoiser(Net(), absorbing(3, 5), 2)(torch.full((1, 2), 3), 1.0)
    assert said.out.shape == (1, 2, 3) and (said.out.exp() - 1 / 3).abs().max() < 1e-6


# ---- one after another --------------------------------------------------------------------------
def test_the_likelihoods_of_all_sequences_sum_to_one():
    model = Autoregressive(transformer(causal=True, codes=2, length=4), 2, 4)
    every = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    p = 2 ** -model.bits(every)
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    found = generate(model, 4000, step=in_order(), seed=1).x
    share = (found[:, None] == every).all(-1).double().mean(0)
    assert (share - p).abs().max() < 4 * 0.5 / 4000**0.5
    with pytest.raises(ValueError, match="codes come one by one"):
        generate(model, 2, step=in_order(), steps=2)


def test_guidance_works_on_codes_one_after_another_too():
    model = Autoregressive(transformer(causal=True, num_classes=2), 3, 5, num_classes=2)
    label, x = torch.tensor([0, 1]), torch.full((2, 5), 3)
    yes, no = (model(x, 1.0, label=one).out for one in (label, torch.tensor([2, 2])))
    wanted = (no + 2.5 * (yes - no)).log_softmax(-1)
    assert torch.allclose(guided(model, 2.5)(x, 1.0, label=label).out, wanted, atol=1e-5)
    told = {"label": label.repeat(3), "seed": 3}
    strong = guided(model, 2.5)
    ours, theirs = (generate(strong, 6, step=in_order(cache=c), **told) for c in (True, False))
    assert torch.equal(ours.x, theirs.x) and ours.nfe == 10


# ---- training -----------------------------------------------------------------------------------
def test_steps_are_drawn_as_their_terms_are_large_and_paid_for():
    squares = torch.tensor([9.0, 1.0, 4.0])
    assert torch.equal(chances(squares, torch.tensor([11.0, 11, 10])), torch.full((3,), 1 / 3))
    p = chances(squares, torch.tensor([11.0, 11, 11]))
    assert (p - torch.tensor([1, 1, 2]) / 4).abs().max() < 1e-4, "the first as the second"

    task = VQDiffusion(TINY.but(options={"process": {"T": 5}, "aux": 0.3}), DATA)
    model = task.models["model"]
    shaken(model.net)
    batch = task.draw(3)
    x0, noise, label = batch["x0"], batch["noise"], batch["label"]
    known = torch.rand(5, generator=gen()) + 0.5
    for seen in (0.0, 20.0):
        model.squares, model.seen = known.clone(), torch.full((5,), seen)
        p = chances(model.squares, model.seen).double()
        wanted, terms = [], []
        for j in range(8):
            i = int((p.cumsum(0) <= batch["of_t"][j] * p.sum()).sum())
            t, s, one = (i + 1) / 5, i / 5, slice(j, j + 1)
            x_t = model.schedule.noised(x0[one], t, noise[one])
            logp = model(x_t, t, label=label[one]).out
            kl = term(model.schedule, x_t, x0[one], logp, t, s) / 10
            missed = -logp.gather(2, x0[one][..., None]).mean()
            wanted.append((kl + 0.3 * (2 - t) * missed) / p[i] / 5)
            terms.append((i, kl.item()))
        (loss,) = task.losses(None, **batch)
        assert loss.item() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-4)
        for i in range(5):
            new = [kl**2 for j, kl in terms if j == i]
            mean = known[i].item() * 0.9 ** len(new)
            mean += (1 - 0.9 ** len(new)) * (sum(new) / len(new) if new else 0)
            assert model.seen[i] == seen + len(new)
            assert model.squares[i].item() == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("recipe", [TINY, PEER], ids=["vq", "ar"])
def test_a_resumed_training_equals_an_uninterrupted_one(recipe, tmp_path):
    def curve(**options):
        found = training.train(recipe, data=DATA, report_every=1, **options)
        return [(p.step, p.loss) for p in found]

    whole = curve(out=tmp_path / "whole")
    curve(out=tmp_path / "parts", stop_at=3)
    assert curve(out=tmp_path / "parts", resume=True) == whole[3:]
    ours, theirs = (
        checkpoints.load(tmp_path / where / "beat.safetensors") for where in ("whole", "parts")
    )
    assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))
    step = in_order() if recipe is PEER else None
    label = torch.tensor([0, 1, 2])
    found = generate(ours, 3, step=step, label=label)
    assert found.x.shape == (3, 10) and found.x.max() < 2
    if recipe is TINY:
        assert ours.seen.sum() == 6 * 8 and ours.spec()["process"]["T"] == 5


def test_what_is_told_is_dropped_at_its_rate():
    found = Codes(TINY.but(batch=2000, null=0.25), DATA)
    batch = found.batch(0)
    gone = batch["label"] == 2
    assert gone.double().mean().item() == pytest.approx(0.25, abs=4 * (0.1875 / 2000) ** 0.5)
    phase = batch["x0"].argmax(1)
    assert torch.equal(batch["label"][~gone], (phase // 3)[~gone])
    assert set(Codes(TINY.but(conditional=False), DATA).batch(0)) == {"x0"}
    with pytest.raises(ValueError, match="Did you mean 'label'"):
        Codes(TINY.but(conditional=["labels"]), DATA)


def test_pictures_with_levels_are_codes_as_they_are():
    digits = data.load("digits")
    found = Codes(TINY.but(data="digits"), digits)
    assert (found.K, found.x.shape, found.x.min(), found.x.max()) == (17, (1500, 64), 0, 16)
    assert (found.pictures(found.x) - digits.x).abs().max() < 1e-6
    assert Codes(TINY, DATA).pictures(HEARTBEAT) is None


def test_codes_of_an_autoencoder_stand_coarse_first(monkeypatch):
    class Two(nn.Module):
        """Codes: the place of a pixel's square, fine, and the sign of its mean, coarse."""

        def __init__(self):
            super().__init__()
            self.quantisers = nn.ModuleList([nn.Module(), nn.Module()])
            for one in self.quantisers:
                one.codes = nn.Parameter(torch.zeros(7, 2))

        def encode(self, x):
            fine = torch.arange(16).remainder(7).reshape(1, 4, 4).expand(len(x), -1, -1)
            return [fine, (x[:, 0, ::4, ::4] > 0).long() + 5]

        def decode(self, maps):
            assert [tuple(one.shape[1:]) for one in maps] == [(4, 4), (2, 2)]
            return maps[1][:, None].float() - 5

    digits, model = data.load("digits"), Two()
    monkeypatch.setattr("diffusion_lab.checkpoints.load", lambda name: model)
    recipe = TINY.but(options={"autoencoder": "two"})
    found = Codes(recipe, digits)
    assert (found.K, found.parts) == (7, [4, 16])
    assert found.x[:, :4].min() >= 5 and torch.equal(found.x[0, 4:], torch.arange(16) % 7)
    signs = (digits.x[:, :, ::4, ::4] > 0).float()
    assert torch.equal(found.pictures(found.x), signs)
    loaded = VQDiffusion(recipe, digits).models["model"]
    with pytest.raises(CheckpointError, match="says nothing of an autoencoder"):
        codes.decode(loaded, found.x, model)
    loaded.about = {"stands_on": VQDiffusion(recipe, digits).stands_on}
    assert torch.equal(codes.decode(loaded, found.x, "two"), signs)
    with torch.no_grad():
        model.quantisers[0].codes += 1
    with pytest.raises(CheckpointError, match="autoencoder two .* another"):
        codes.decode(loaded, found.x, model)
    monkeypatch.setattr("diffusion_lab.checkpoints.load", lambda name: nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match="no autoencoder"):
        Codes(TINY.but(options={"autoencoder": "none"}), digits)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: transformer(parts=[2, 2]), "add up to the length 5"),
        (lambda: transformer(heads=3), "divide the width"),
        (lambda: transformer()(torch.zeros(1, 4).long(), torch.zeros(1)), r"codes \(B, 5\)"),
        (lambda: reveal(-1.0), "purity must be"),
        (lambda: VQDiffusion(TINY.but(options={"proces": {}}), DATA), "Did you mean 'process'"),
        (
            lambda: VQDiffusion(TINY.but(options={"process": {"name": "uniforms"}}), DATA),
            "Did you mean 'uniform'",
        ),
        (lambda: Autoregression(PEER.but(options={"aux": 1}), DATA), "Known: autoencoder"),
        (
            lambda: Codes(
                TINY, data.Dataset(torch.randn(4, 2), None, (), "p", "train", "0", None, 1)
            ),
            "whole numbers",
        ),
        (
            lambda: CodeDenoiser(transformer(), absorbing(3), 5)(HEARTBEAT, 0.5),
            "10 tokens, this denoiser 5",
        ),
        (lambda: Codes(TINY.but(options={"captions": True}), DATA), "heartbeat|only the emoji"),
    ],
)
def test_what_cannot_be_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()
