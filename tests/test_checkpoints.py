"""Checkpoints: what is saved is what is loaded, and anything else is refused with a reason."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file

from diffusion_lab import checkpoints, data, nets, schedules
from diffusion_lab.data import store
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator
from diffusion_lab.errors import CheckpointError, DataError

SCHEDULES = {
    "linear": schedules.linear(),
    "linear table": schedules.linear(1000),
    "cosine": schedules.cosine(),
    "cosine table": schedules.cosine(50),
    "sigmoid": schedules.make("sigmoid", tau=0.9),
    "ve": schedules.make("ve", sigma_max=20.0),
    "edm": schedules.make("edm", sigma_max=20.0),
    "zero terminal SNR": schedules.zero_terminal_snr(schedules.linear(100)),
}
NETS = {
    "mlp": {"name": "mlp", "dim": 2, "width": 16},
    "unet": {"name": "unet", "widths": (8, 16), "emb": 16},
}
SHAPES = {"mlp": (2,), "unet": (1, 8, 8)}


def network(spec):
    """A network with no weight at zero, so that every part of it speaks."""
    arguments = dict(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nets.make(arguments.pop("name"), **arguments)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return net


def denoiser(schedule=SCHEDULES["linear"], kind="v", net="mlp", **more):
    return NetDenoiser(network(NETS[net]), schedule, kind, shape=SHAPES[net], **more).eval()


def assert_same_answers(ours, theirs, shape, **condition):
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    ours.to(memory_format=torch.channels_last)  # as loaded models are: sums in the same order
    x = torch.randn(5, *shape, generator=generator(0))
    for t in (0.3, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]).double()):
        with torch.no_grad():
            a, b = ours(x, t, **condition), theirs(x, t, **condition)
        assert torch.equal(a.out, b.out) and torch.equal(a.x0, b.x0)
        assert a.kind == b.kind


@pytest.fixture
def saved(tmp_path):
    """A file with a small denoiser in it."""
    file = tmp_path / "small.safetensors"
    checkpoints.save(file, denoiser(), {"net": NETS["mlp"], "name": "small"})
    return file


# ---- there and back
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("net", NETS)
def test_every_schedule_and_net_comes_back_with_the_same_answers(name, net, tmp_path):
    before = denoiser(SCHEDULES[name], net=net)
    file = tmp_path / "model.safetensors"
    checkpoints.save(file, before, {"net": NETS[net]})
    after = checkpoints.load(file, device="cpu")
    assert after.schedule == before.schedule
    assert_same_answers(before, after, SHAPES[net])
    assert not after.training and not any(p.requires_grad for p in after.parameters())


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "score", "edm"])
def test_every_kind_of_prediction_comes_back(kind, tmp_path):
    before = denoiser(kind=kind, sd=0.7, lam_range=(-4.5, 5.0))
    checkpoints.save(tmp_path / "model.safetensors", before, {"net": NETS["mlp"]})
    after = checkpoints.load(tmp_path / "model.safetensors", device="cpu")
    assert (after.kind, after.sd, after.lam_range) == (kind, 0.7, (-4.5, 5.0))
    assert after.shape == (2,) and isinstance(after.shape, tuple)
    assert_same_answers(before, after, (2,))


def test_classes_and_a_learned_variance_come_back(tmp_path):
    spec = NETS["unet"] | {"num_classes": 3, "out_channels": 2}
    before = NetDenoiser(
        network(spec),
        schedules.linear(1000),
        "eps",
        shape=(1, 8, 8),
        num_classes=3,
        learned_var=True,
    ).eval()
    checkpoints.save(tmp_path / "model.safetensors", before, {"net": spec})
    after = checkpoints.load(tmp_path / "model.safetensors", device="cpu")
    label = torch.tensor([0, 1, 2, 3, 0])  # 3 is 'no class'
    assert_same_answers(before, after, (1, 8, 8), label=label)
    x = torch.randn(2, 1, 8, 8, generator=generator(1))
    assert torch.equal(before(x, 0.5).var_weight, after(x, 0.5).var_weight)


def test_a_classifier_comes_back_with_its_batch_norm(tmp_path):
    spec = {"name": "classifier", "channels": 1, "num_classes": 4, "width": 4}
    before = network(spec).train()
    x = torch.randn(8, 1, 12, 12, generator=generator(0))
    before(x)  # moves the running means
    before.eval()
    checkpoints.save(tmp_path / "model.safetensors", before, {"net": spec})
    after = checkpoints.load(tmp_path / "model.safetensors", device="cpu")
    before.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(before(x), after(x)) and after(x).std(0).min() > 0
    assert after.state_dict()["body.1.num_batches_tracked"] == 1


def test_tensors_of_every_kind_come_back(tmp_path):
    tensors = {
        "number": torch.tensor(3),
        "empty": torch.zeros(0, 2),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(3).bfloat16(),
        "double": torch.randn(2, 2).double(),
        "across": torch.randn(4, 3).T,
    }
    checkpoints.save_tensors(tmp_path / "t.safetensors", tensors, {"note": [1, None, "ä"]})
    found, about = checkpoints.load_tensors(tmp_path / "t.safetensors")
    assert about == {"note": [1, None, "ä"]} and found.keys() == tensors.keys()
    for key, value in tensors.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value)


def test_the_header_says_how_the_model_was_made(tmp_path):
    from diffusion_lab import training
    from diffusion_lab.training import recipes

    recipe = recipes.get("digits").but(net=NETS["unet"] | {"patch": 1}, steps=2, batch=8)
    for _ in training.train(recipe, out=tmp_path):
        pass
    about = checkpoints.info(tmp_path / "digits.safetensors")
    digits = data.load("digits")
    told = {"name": "digits", "split": "train", "n": 1500, "hash": digits.hash}
    assert about["data"] == told | {"classes": list("0123456789")}
    assert about["recipe"] == json.loads(json.dumps(recipe.as_dict()))
    assert about["recipe"]["seed"] == 0 and about["recipe"]["steps"] == 2
    net = '\'net={"name": "unet", "widths": [8, 16], "emb": 16, "patch": 1}\''
    command = f"diffusion-lab train digits --steps 2 --set {net} --set batch=8"
    assert about["command"] == command
    spec = about["models"]["model"]
    assert spec["lam_range"] == list(recipe.lam_range)
    assert spec["schedule"] == {"name": "edm", "sigma_max": 20.0, "rho": 7.0}
    assert spec["sd"] == round(digits.std, 4)
    assert about["threads"] == 1 and torch.__version__ in about["machine"]
    assert about["cpu_seconds"] >= 0 and about["metrics"] == {}
    model = checkpoints.load(tmp_path / "digits.safetensors")
    assert about["parameters"] == sum(p.numel() for p in model.net.parameters())
    assert model.about == about


def test_nothing_is_computed_in_less_than_float32_on_the_cpu(saved):
    model = checkpoints.load(saved, device="cpu")
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32}
    assert model(torch.zeros(1, 2), 0.5).x0.dtype == torch.float32
    for name in checkpoints.shipped():
        shipped = checkpoints.load(name, device="cpu")  # some are stored as fp16
        kinds = {v.dtype for v in checkpoints.weights(shipped).values()}
        assert kinds <= {torch.float32, torch.int64}, name  # int64: the count of batch norm


# ---- what is refused
def test_a_missing_file_and_an_unknown_name(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint .*gone.safetensors: train it first"):
        checkpoints.load(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="unknown model 'fasion-features'.*'fashion-features'"):
        checkpoints.load("fasion-features")


def test_a_pickle_is_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    file = tmp_path / "model.safetensors"
    torch.save({"w": torch.zeros(2), "trap": Trap()}, file)
    with pytest.raises(CheckpointError, match="damaged and cannot be read"):
        checkpoints.load(file)
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="damaged and cannot be read"):
        checkpoints.load(file)
    assert not (tmp_path / "sprung").exists()


def test_no_byte_can_change_unseen(saved):
    """Every cut and flipped bit tried here is refused, or leaves the contents as they were."""
    good = saved.read_bytes()
    tensors, about = checkpoints.load_tensors(saved)
    length = 8 + int.from_bytes(good[:8], "little")  # the header's
    places = [0, 3, *range(8, length, 17), length, length + 1001, len(good) - 1]
    for bad in (good[:5], good[: length - 4], good[:-1], good + b"\0"):
        saved.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.load_tensors(saved)
    refused = 0
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 0b100
        saved.write_bytes(bytes(bad))
        try:
            found, text = checkpoints.load_tensors(saved)
        except CheckpointError:
            refused += 1
        else:  # such as the name of the sum itself
            assert text == about and found.keys() == tensors.keys()
            assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert refused >= len(places) - 3


def test_what_was_loaded_does_not_change_with_its_file(saved):
    """Another file written over this one in place, as a download or ``cp`` does."""
    tensors, _ = checkpoints.load_tensors(saved)
    before = {key: value.clone() for key, value in tensors.items()}
    size = saved.stat().st_size
    with saved.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    assert all(torch.equal(tensors[key], before[key]) for key in before)


def test_other_safetensors_files_are_told_apart(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"w": torch.zeros(2)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not one of this course .format 'pt'"):
        checkpoints.load(file)
    save_file({"w": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match="not one of this course"):
        checkpoints.load(file)


def test_weights_that_do_not_fit_are_named(saved):
    tensors, about = checkpoints.load_tensors(saved)
    wider = {"model": about["models"]["model"] | {"net": NETS["mlp"] | {"width": 32}}}
    wider = about | {"models": wider}
    checkpoints.save_tensors(saved, tensors, wider)
    with pytest.raises(CheckpointError, match="do not fit the network.*another shape.*level.mlp.0"):
        checkpoints.load(saved)
    checkpoints.save_tensors(saved, tensors | {"extra": torch.zeros(1)}, about)
    with pytest.raises(CheckpointError, match=r"not in the network \['extra'\]"):
        checkpoints.load(saved)
    short = {k: v for k, v in tensors.items() if k != "last.bias"}
    checkpoints.save_tensors(saved, short, about)
    with pytest.raises(CheckpointError, match=r"missing.*\['last.bias'\]"):
        checkpoints.load(saved)


@pytest.mark.parametrize(
    "net", [{"name": "umet"}, {"name": "mlp", "breadth": 3}, {"width": 3}], ids=str
)
def test_a_network_from_another_version_is_refused(net, saved):
    tensors, about = checkpoints.load_tensors(saved)
    spec = about["models"]["model"] | {"net": net}
    checkpoints.save_tensors(saved, tensors, about | {"models": {"model": spec}})
    with pytest.raises(CheckpointError, match="this version cannot build"):
        checkpoints.load(saved)


def test_a_process_from_another_version_is_refused(saved):
    tensors, about = checkpoints.load_tensors(saved)
    for change in ({"schedule": {"name": "square"}}, {"kind": "x1"}, {"colour": 1}):
        wrong = about["models"]["model"] | change
        checkpoints.save_tensors(saved, tensors, about | {"models": {"model": wrong}})
        with pytest.raises(CheckpointError, match="this version cannot build"):
            checkpoints.load(saved)


def test_a_saved_state_is_not_a_model(tmp_path):
    from diffusion_lab import training
    from diffusion_lab.training import recipes

    recipe = recipes.get("digits").but(net=NETS["unet"] | {"patch": 1}, steps=4, batch=8)
    for _ in training.train(recipe, out=tmp_path, stop_at=2):
        pass
    with pytest.raises(CheckpointError, match="is the saved state of a training"):
        checkpoints.load(tmp_path / "digits.state.safetensors")


def test_a_classifier_cannot_be_asked_for_pictures(saved, tmp_path):
    assert isinstance(checkpoints.load_denoiser(saved), NetDenoiser)
    with pytest.raises(CheckpointError, match="is a classifier, not a denoiser"):
        checkpoints.load_denoiser("fashion-features")


def test_a_shipped_file_is_held_to_the_index(tmp_path, monkeypatch):
    name = "checkpoints/digits-features.safetensors"
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(store.path(name), tmp_path / name)
    shutil.copy(store.folder() / "index.json", tmp_path)
    monkeypatch.setattr(store, "_PACKAGED", tmp_path)
    assert checkpoints.load("digits-features").about["name"] == "digits-features"
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[-1] ^= 1
    (tmp_path / name).write_bytes(bytes(damaged))
    with pytest.raises(DataError, match="is damaged or was changed: sha256"):
        checkpoints.load("digits-features")
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match="is missing"):
        checkpoints.load("digits-features")


# ---- what is saved can be loaded, and what cannot be loaded is not built
WRAPS = {
    "torch.compile(net)": lambda net: torch.compile(net, backend="eager"),
    "DataParallel(net)": torch.nn.DataParallel,
    "both": lambda net: torch.nn.DataParallel(torch.compile(net, backend="eager")),
    "net.compile()": lambda net: net.compile(backend="eager") or net,
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_compiled_or_parallel_network_is_saved_as_the_plain_one(name, tmp_path):
    file, before, plain = tmp_path / "m.safetensors", denoiser(net="unet"), denoiser(net="unet")
    before.net = WRAPS[name](before.net)
    for model in (before, torch.compile(before, backend="eager")):
        checkpoints.save(file, model, {"name": "mine"})
        after = checkpoints.load(file, device="cpu")
        assert_same_answers(plain, after, (1, 8, 8))
        assert after.about["name"] == "mine"


def test_a_block_compiled_alone_is_saved_by_its_plain_name(tmp_path):
    before = denoiser()
    before.net.last = torch.compile(before.net.last, backend="eager")
    checkpoints.save(tmp_path / "m.safetensors", before)
    assert "last.weight" in checkpoints.load_tensors(tmp_path / "m.safetensors")[0]


class Film(torch.nn.Module):
    """A network for films, with a description: what a family brings along."""

    def __init__(self, width=2):
        super().__init__()
        self.width, self.conv = width, torch.nn.Conv3d(1, width, 3)

    def spec(self):
        return {"name": "diffusion_lab.nets:Film", "width": self.width}


def test_a_network_for_films_loads(tmp_path, monkeypatch):
    Film.__module__ = "diffusion_lab.nets"
    monkeypatch.setattr(nets, "Film", Film, raising=False)
    before = Film(3)
    checkpoints.save(tmp_path / "film.safetensors", before)
    after = checkpoints.load(tmp_path / "film.safetensors", device="cpu")
    assert isinstance(after, Film) and torch.equal(after.conv.weight, before.conv.weight)


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    file, model = tmp_path / "m.safetensors", denoiser()
    with pytest.raises(ValueError, match="could not be loaded again.*missing or of another shape"):
        checkpoints.save(file, model, {"net": NETS["mlp"] | {"width": 8}})
    del model.net.spec
    with pytest.raises(ValueError, match="MLP cannot say how it is made"):
        checkpoints.save(file, model, {})
    with pytest.raises(ValueError, match="the weights are bfloat16, the network has float32"):
        checkpoints.save(file, denoiser().bfloat16())
    with pytest.raises(ValueError, match="nothing outside diffusion_lab is looked up"):
        checkpoints.save(file, torch.nn.Linear(1, 1), {"net": {"name": "os:system"}})
    assert not file.exists()


def test_a_refused_description_leaves_the_network_as_it_was(tmp_path):
    file, net = tmp_path / "m.safetensors", network(NETS["mlp"])
    with pytest.raises(ValueError, match="could not be loaded again"):
        checkpoints.save(file, net, {"net": NETS["mlp"] | {"width": 8}})
    checkpoints.save(file, net)
    assert torch.equal(checkpoints.load(file, device="cpu").last.weight, net.last.weight)


def test_a_small_network_on_a_long_table_is_saved(tmp_path):
    file = tmp_path / "m.safetensors"
    checkpoints.save(file, denoiser(schedules.linear(20_000)))
    assert checkpoints.load(file, device="cpu").schedule.T == 20_000


def test_a_header_of_before_still_loads(saved):
    """net and denoiser, as all files had them until several models could be saved."""
    tensors, about = checkpoints.load_tensors(saved)
    spec = about.pop("models")["model"]
    net = spec.pop("net")
    spec.pop("name")
    new = checkpoints.load(saved, device="cpu")
    checkpoints.save_tensors(saved, tensors, about | {"net": net, "denoiser": spec})
    old = checkpoints.load(saved, device="cpu")
    assert old.spec() == new.spec()
    assert_same_answers(new, old, (2,))
    checkpoints.save_tensors(saved, tensors, about | {"net": net})
    assert isinstance(checkpoints.load(saved, device="cpu"), nets.MLP)
    checkpoints.save(saved, old, old.about)  # what was loaded is saved as files are now
    assert set(checkpoints.info(saved)) == {"name", "models"}


def test_the_networks_answer_does_not_hang_on_torchs_defaults(saved):
    before = checkpoints.load(saved, device="cpu")
    torch.set_default_dtype(torch.float64)
    try:
        after = checkpoints.load(saved, device="cpu")
        assert nets.make("mlp").last.weight.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_answers(before, after, (2,))


DEEP = {"a": []}
for _ in range(400):
    DEEP = {"a": [DEEP]}

CRAFTED = [
    {"name": None},
    {"name": "os:system"},
    {"name": "diffusion_lab.files:sha256"},
    {"name": "diffusion_lab.denoisers:Gone"},
    {"net": {"name": "mlp", "width": 10**9}},
    {"net": {"name": "mlp", "width": 10**5}},
    {"net": {"name": "mlp", "depth": 10**9}},
    {"net": {"name": "mlp", "width": "16"}},
    {"net": {"name": "unet", "widths": [10**6] * 3}},
    {"net": None},
    {"net": DEEP},
    {"schedule": {"name": "linear", "T": 10**12}},
    {"schedule": {"name": "linear", "T": -1}},
    {"schedule": None},
    {"shape": [10**9]},
    {"shape": [-2]},
    {"shape": "ab"},
    {"num_classes": "3"},
    {"num_classes": 3},
    {"num_classes": -1},
    {"lam_range": "ab"},
    {"lam_range": [1, None]},
    {"sd": [1]},
    {"sd": float("inf")},
    {"kind": ["v"]},
]


@pytest.mark.parametrize("change", CRAFTED, ids=lambda change: str(change)[:40])
def test_a_header_that_somebody_made_up_is_refused_before_any_memory_is_taken(change, saved):
    tensors, about = checkpoints.load_tensors(saved)
    crafted = about["models"]["model"] | change
    checkpoints.save_tensors(saved, tensors, about | {"models": {"model": crafted}})
    with pytest.raises(CheckpointError, match="this version cannot build|do not fit") as error:
        checkpoints.load(saved)
    assert len(str(error.value)) < 1500
    for models in (3, [], [1], {"model": 3}, {"model": None}, "text"):
        checkpoints.save_tensors(saved, tensors, about | {"models": models})
        with pytest.raises(CheckpointError):
            checkpoints.load(saved)


def test_classes_of_header_and_network_must_agree(tmp_path):
    spec = NETS["mlp"] | {"num_classes": 10}
    file = tmp_path / "m.safetensors"
    checkpoints.save(file, NetDenoiser(network(spec), SCHEDULES["linear"], "v", num_classes=10))
    tensors, about = checkpoints.load_tensors(file)
    for classes in (3, 100, None):
        wrong = about["models"]["model"] | {"num_classes": classes}
        checkpoints.save_tensors(file, tensors, about | {"models": {"model": wrong}})
        with pytest.raises(CheckpointError, match=f"{classes} classes, and a network of 10"):
            checkpoints.load(file)


def test_weights_of_another_kind_of_number_are_refused(saved):
    tensors, about = checkpoints.load_tensors(saved)
    for dtype in (torch.int8, torch.float16, torch.float64):
        changed = {k: v.to(dtype) for k, v in tensors.items()}
        checkpoints.save_tensors(saved, changed, about)
        with pytest.raises(CheckpointError, match="the weights are .*, the network has float32"):
            checkpoints.load(saved)


@pytest.mark.parametrize("name", ["y.pt", "y.pth", "runs/y.ckpt", "y.bin"])
def test_other_peoples_formats_are_told_apart(name):
    with pytest.raises(CheckpointError, match="no safetensors file: pickles are never read here"):
        checkpoints.load(name)


def test_header_and_weights_are_of_one_file(saved, monkeypatch):
    """A file replaced while it is read: the bytes are read once."""
    from pathlib import Path

    opened, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or real(self))
    monkeypatch.setattr("builtins.open", lambda *a, **k: pytest.fail("opened again"))
    checkpoints.load_tensors(saved)
    assert opened == [saved]


def test_half_the_size_and_float32_again(tmp_path):
    """Weights come back as the nearest that fp16 holds, within 2^-11 of themselves."""
    net = nets.make("unet", channels=1, patch=1, widths=(8, 16), emb=16)
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    checkpoints.save(whole, net)
    checkpoints.save(half, net, {"why": "small"}, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert checkpoints.info(half)["stored"] == "fp16"
    loaded = checkpoints.load(half, device="cpu")
    for key, value in net.state_dict().items():
        given = loaded.state_dict()[key]
        assert given.dtype == value.dtype and torch.equal(given, value.half().to(value.dtype)), key
        torch.testing.assert_close(given, value, rtol=2**-11, atol=2**-25)
    again = tmp_path / "again.safetensors"  # what was loaded is saved whole, and says so
    checkpoints.save(again, loaded, loaded.about)
    assert "stored" not in checkpoints.info(again)
    assert torch.equal(checkpoints.load(again, device="cpu").first.weight, loaded.first.weight)
    with torch.no_grad():
        net.first.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match="fp16 ends at 65,504, and first.weight does not"):
        checkpoints.save(half, net, half=True)
