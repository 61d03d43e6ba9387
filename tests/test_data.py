"""The embedded data: real values, and what happens when something is wrong with it."""

from __future__ import annotations

import builtins
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from diffusion_lab import data
from diffusion_lab.data import build, idx, store
from diffusion_lab.errors import DataError
from diffusion_lab.files import sha256

REPO = Path(__file__).resolve().parents[1]
FASHION_HASH = "2929ae1c7b89e0ee6587bbe4911fd5f0a5dafe21ae6ed9b737173cbfe20c12c9"
DIGITS_HASH = "cca9c3c0c6f234e74498d7c02c3cb193d1d21b4e09e9e8d8a27a5e568942e4f6"

needs_full = pytest.mark.skipif(
    "DIFFUSION_LAB_DATA" not in os.environ or not idx.present(data.default_root()),
    reason="the whole of Fashion-MNIST is not under DIFFUSION_LAB_DATA",
)


# ---- what is in the data ------------------------------------------------------------------------
def test_fashion_train_is_what_it_says():
    fashion = data.load("fashion")
    assert fashion.x.shape == (10_000, 1, 28, 28)
    assert fashion.x.dtype == torch.float32
    assert fashion.labels.shape == (len(fashion),)
    assert fashion.labels.dtype == torch.int64
    assert (fashion.x.min(), fashion.x.max()) == (-1, 1)
    counts = [942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000]
    assert fashion.labels.bincount().tolist() == counts
    assert (fashion.name, fashion.split, fashion.levels) == ("fashion", "train", 256)
    assert len(fashion.classes) == 10
    assert [fashion.classes[label] for label in fashion.labels[:3]] == [
        "ankle boot",
        "t-shirt",
        "t-shirt",
    ]
    assert fashion.hash == FASHION_HASH


def test_fashion_test_is_what_it_says():
    fashion = data.load("fashion", "test")
    assert fashion.x.shape == (2_000, 1, 28, 28)
    assert fashion.labels[:5].tolist() == [9, 2, 1, 1, 6]
    counts = [200, 203, 214, 190, 219, 195, 197, 200, 194, 188]
    assert fashion.labels.bincount().tolist() == counts


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["fashion", "digits"])
def test_std_is_the_standard_deviation_of_x(name, split):
    dataset = data.load(name, split)
    assert dataset.std == pytest.approx(dataset.x.double().std(correction=0).item(), rel=1e-7)


@pytest.mark.parametrize("name", ["fashion", "digits"])
def test_every_value_is_one_of_the_levels(name):
    dataset = data.load(name, "test")
    half = (dataset.levels - 1) / 2
    stored = (dataset.x.double() + 1) * half
    assert (stored - stored.round()).abs().max() < 1e-5
    assert stored.round().unique().tolist() == list(range(dataset.levels))


def test_the_subset_has_the_statistics_of_the_whole():
    pixels = (data.load("fashion").x.double() + 1) / 2
    assert pixels.mean().item() == pytest.approx(0.286, abs=5e-4)
    assert pixels.std().item() == pytest.approx(0.353, abs=2e-3)


def test_digits_are_scikit_learns_in_a_fixed_order():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    train, test = data.load("digits"), data.load("digits", "test")
    assert (train.x.shape, test.x.shape) == ((1500, 1, 8, 8), (297, 1, 8, 8))
    assert train.levels == 17
    assert train.hash == DIGITS_HASH

    def rows(x, labels):
        return sorted(map(tuple, np.column_stack([x.reshape(len(x), -1), labels]).tolist()))

    both = np.concatenate([train.x, test.x]) * 8 + 8
    labels = np.concatenate([train.labels, test.labels])
    assert rows(both, labels) == rows(bunch.images, bunch.target)  # each once, with its own label


def test_loading_twice_gives_tensors_of_its_own():
    first, second = data.load("digits"), data.load("digits")
    first.x.zero_()
    assert second.x.min() == -1


def test_nothing_global_is_drawn():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    data.load("digits")
    data.load("fashion", "test")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


# ---- back to pixels -----------------------------------------------------------------------------
def test_to_uint8_gives_the_stored_pixels_back():
    fashion = data.load("fashion", "test")
    pixels = data.to_uint8(fashion.x)
    assert pixels.shape == (2_000, 28, 28, 1)
    assert pixels.dtype == np.uint8
    assert sha256(pixels.tobytes()) == fashion.hash


def test_to_uint8_clips_and_orders_channels_last():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 1.5, 0.5]).reshape(1, 3, 1, 2)
    assert data.to_uint8(x).tolist() == [[[[0, 128, 255], [0, 255, 191]]]]


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, 28, 28),
        torch.zeros(1, 1, 2, 2, dtype=torch.uint8),
        np.zeros((1, 1, 2, 2)),
        torch.full((1, 1, 2, 2), torch.nan),
    ],
    ids=["3-d", "uint8", "numpy", "nan"],
)
def test_to_uint8_refuses(bad):
    with pytest.raises(ValueError, match=r"to_uint8 wants|nan or inf"):
        data.to_uint8(bad)


# ---- wrong questions ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: data.load("fasion"), "Did you mean 'fashion'"),
        (lambda: data.load("fashion", "tset"), "Did you mean 'test'"),
        (lambda: data.load("digits", full=True), "one size only"),
        (lambda: data.load("fashion", download=True), "add full=True"),
        (lambda: data.load("fashion", root="somewhere"), "add full=True"),
    ],
)
def test_wrong_arguments(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# ---- the store ----------------------------------------------------------------------------------
@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The data folder of a checkout, with one file that may be broken."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(store.path("fashion.npz"), folder)
    entry = {"fashion.npz": store.index()["fashion.npz"]}
    (folder / "index.json").write_text(json.dumps(entry))
    monkeypatch.setattr(store, "_PACKAGED", tmp_path / "_data")
    monkeypatch.setattr(store, "_CHECKOUT", folder)
    monkeypatch.setattr(store, "_verified", set())
    return folder


def test_every_embedded_file_is_listed_whole_with_licence_source_and_recipe():
    assert "fashion.npz" in store.index()
    for name, entry in store.index().items():
        file = store.path(name)
        assert file.stat().st_size == entry["bytes"], name
        assert all(entry[key] for key in ("licence", "source", "recipe")), name


def test_the_hash_is_computed_once_a_process_and_again_after_a_change(copy, monkeypatch):
    calls = []
    monkeypatch.setattr(store, "sha256", lambda file: calls.append(file) or sha256(file))
    for _ in range(3):
        data.load("fashion", "test")
    assert len(calls) == 1
    os.utime(copy / "fashion.npz", ns=(1, 1))
    data.load("fashion", "test")
    assert len(calls) == 2


def test_one_changed_byte_is_noticed(copy):
    store.path("fashion.npz")  # verified once: the change must still be seen
    content = bytearray((copy / "fashion.npz").read_bytes())
    content[1_000_000] ^= 1
    (copy / "fashion.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged(.|\n)*git checkout -- data/fashion\.npz"):
        data.load("fashion")


def test_a_cut_file_is_noticed(copy):
    content = (copy / "fashion.npz").read_bytes()
    (copy / "fashion.npz").write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"it has {len(content) - 1}"):
        data.load("fashion")


def test_a_missing_file(copy):
    (copy / "fashion.npz").unlink()
    with pytest.raises(DataError, match=r"missing.*git checkout -- data/fashion\.npz"):
        data.load("fashion")


def test_an_installed_package_is_told_to_install_again(copy, monkeypatch):
    monkeypatch.setattr(store, "_PACKAGED", copy)
    (copy / "fashion.npz").unlink()
    with pytest.raises(DataError, match="pip install"):
        data.load("fashion")


def test_the_packaged_folder_comes_first(copy, monkeypatch, tmp_path):
    shutil.copytree(copy, tmp_path / "_data")
    assert store.path("fashion.npz") == tmp_path / "_data" / "fashion.npz"


def test_an_unlisted_file(copy):
    (copy / "extra.npz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"not listed(.|\n)*register"):
        store.path("extra.npz")
    with pytest.raises(DataError, match=r"Did you mean 'fashion\.npz'"):
        store.path("fashon.npz")


@pytest.mark.parametrize("text", ["{", "[]", '{"fashion.npz": 1}', '{"fashion.npz": {}}'])
def test_a_broken_index(copy, text):
    (copy / "index.json").write_text(text)
    with pytest.raises(DataError, match=r"git checkout -- data/index\.json"):
        store.path("fashion.npz")


def test_no_data_folder_at_all(copy, monkeypatch, tmp_path):
    monkeypatch.setattr(store, "_CHECKOUT", tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no index\.json"):
        data.load("fashion")


def test_register_then_path(copy):
    file = copy / "checkpoints" / "tiny.bin"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    info = {"licence": "MIT", "source": "ours", "recipe": "diffusion-lab train tiny", "seed": 3}
    entry = store.register(file, **info)
    assert entry == {"sha256": sha256(b"weights"), "bytes": 7, **info}
    assert store.index()["checkpoints/tiny.bin"] == entry
    assert store.path("checkpoints/tiny.bin") == file
    assert list(store.index()) == sorted(store.index())
    assert store.path("fashion.npz").is_file()  # the others are still listed
    file.write_bytes(b"WEIGHTS")
    with pytest.raises(DataError, match="damaged"):
        store.path("checkpoints/tiny.bin")
    store.register("checkpoints/tiny.bin", **info)
    assert store.path("checkpoints/tiny.bin") == file


def test_register_refuses(copy, tmp_path):
    info = {"licence": "MIT", "source": "ours", "recipe": "make"}
    before = (copy / "index.json").read_bytes()
    with pytest.raises(ValueError, match="recipe"):
        store.register("fashion.npz", licence="MIT", source="ours")
    with pytest.raises(ValueError, match="outside the data folder"):
        store.register(tmp_path / "elsewhere", **info)
    with pytest.raises(DataError, match="does not exist"):
        store.register("nothing.npz", **info)
    assert (copy / "index.json").read_bytes() == before


# ---- the recipe ---------------------------------------------------------------------------------
def test_the_archive_is_the_same_whenever_it_is_made():
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.zeros(3, np.uint8)}
    content = build.npz_bytes(arrays)
    assert content == build.npz_bytes(arrays)
    assert b"\x00\x00!\x00" in content[:20]  # 1980-01-01 00:00, not today


def test_the_listed_array_hashes_are_those_in_the_file():
    listed = store.index()["fashion.npz"]["arrays"]
    with np.load(store.path("fashion.npz")) as arrays:
        assert {name: sha256(arrays[name].tobytes()) for name in arrays.files} == listed


def test_build_check_and_stats_print_what_the_data_cards_say(capsys):
    assert build.main(["check"]) == 0
    assert "ok fashion.npz" in capsys.readouterr().out
    assert build.main(["stats"]) == 0
    said = capsys.readouterr().out
    for name in data.SPLITS:
        printed = "".join(re.findall(rf"^{name} .*\n(?:  .*\n)+", said, re.MULTILINE))
        card = (REPO / "data" / f"{name}.md").read_text(encoding="utf-8")
        assert f"prints:\n```\n{printed}```" in card


def test_build_without_sources_says_what_is_missing(tmp_path, capsys):
    assert build.main(["fashion", "--root", str(tmp_path)]) == 1
    assert "train-images-idx3-ubyte" in capsys.readouterr().err


# ---- the whole of Fashion-MNIST -----------------------------------------------------------------
@needs_full
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_the_whole_set(split, count):
    whole, part = data.load("fashion", split, full=True), data.load("fashion", split)
    assert whole.x.shape == (count, 1, 28, 28)
    assert whole.labels.bincount().tolist() == [count // 10] * 10
    assert torch.equal(whole.x[: len(part)], part.x)  # pixel by pixel
    assert torch.equal(whole.labels[: len(part)], part.labels)
    if split == "train":
        pixels = data.to_uint8(whole.x).astype(np.float64) / 255
        assert pixels.mean() == pytest.approx(0.2860, abs=5e-5)
        assert pixels.std() == pytest.approx(0.3530, abs=5e-5)


@needs_full
def test_the_recipe_rebuilds_the_embedded_arrays():
    with np.load(store.path("fashion.npz")) as embedded:
        rebuilt = build.build_fashion(data.default_root())
        assert sorted(rebuilt) == sorted(embedded.files)
        for name, array in rebuilt.items():
            np.testing.assert_array_equal(array, embedded[name])


def write_idx(file: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    file.write_bytes(header + array.tobytes())


def fake_fashion(root: Path) -> Path:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        pixels = np.arange(4 * 28 * 28, dtype=np.uint8).reshape(4, 28, 28)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(4, dtype=np.uint8))
    return raw


def test_idx_files_are_read_plain_and_gzipped(tmp_path):
    import gzip

    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a", array)
    (tmp_path / "a.gz").write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(idx.read_idx(tmp_path / name), array)


def test_idx_files_that_are_cut_or_something_else(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a", array)
    content = (tmp_path / "a").read_bytes()
    for cut in (content[:-1], content[:9], content + b"x", b"", b"<html>not found</html>"):
        (tmp_path / "a").write_bytes(cut)
        with pytest.raises(DataError, match="Delete it and fetch it again"):
            idx.read_idx(tmp_path / "a")
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match="Delete it and fetch it again"):
        idx.read_idx(tmp_path / "a.gz")


def test_other_pictures_under_the_same_names_are_refused(tmp_path):
    fake_fashion(tmp_path)
    with pytest.raises(DataError, match="not those of Fashion-MNIST"):
        data.load("fashion", full=True, root=tmp_path)


def test_the_whole_set_is_read_from_root_or_the_environment(tmp_path, monkeypatch):
    raw = fake_fashion(tmp_path)
    pixels = idx.read_idx(raw / "t10k-images-idx3-ubyte")
    monkeypatch.setitem(data.FULL_FASHION, "test", sha256(pixels.tobytes()))
    monkeypatch.setenv("DIFFUSION_LAB_DATA", str(tmp_path))
    for root in (None, tmp_path, str(tmp_path), raw):
        dataset = data.load("fashion", "test", full=True, root=root)
        assert dataset.x.shape == (4, 1, 28, 28)
        assert dataset.labels.tolist() == [0, 1, 2, 3]


def test_the_whole_set_without_asking_for_a_download(tmp_path):
    with pytest.raises(DataError, match=r"download=True(.|\n)*embedded subset") as caught:
        data.load("fashion", full=True, root=tmp_path)
    assert "t10k-labels-idx1-ubyte" in str(caught.value)
    assert str(tmp_path / "FashionMNIST" / "raw") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path, monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise URLError("Name or service not known")

    mnist = pytest.importorskip("torchvision.datasets.mnist")
    monkeypatch.setattr(mnist, "download_and_extract_archive", unreachable)
    with pytest.raises(DataError, match="Is there a network") as caught:
        data.load("fashion", full=True, download=True, root=tmp_path)
    text = str(caught.value)
    assert "Name or service not known" in text
    assert "load('fashion') is the embedded subset" in text
    assert "four uncompressed idx files" in text


def test_a_download_is_read_back(tmp_path, monkeypatch):
    mnist = pytest.importorskip("torchvision.datasets.mnist")
    raw = fake_fashion(tmp_path / "source")
    pixels = idx.read_idx(raw / "train-images-idx3-ubyte")
    monkeypatch.setitem(data.FULL_FASHION, "train", sha256(pixels.tobytes()))

    def fetch(_url, download_root, filename, md5):
        name = filename.removesuffix(".gz")
        shutil.copy(raw / name, Path(download_root) / name)

    monkeypatch.setattr(mnist, "download_and_extract_archive", fetch)
    dataset = data.load("fashion", full=True, download=True, root=tmp_path / "cache")
    assert data.to_uint8(dataset.x)[..., 0].tolist() == pixels.tolist()


@pytest.mark.parametrize(
    "failure",
    [RuntimeError("operator torchvision::nms does not exist"), ImportError("no torchvision")],
)
def test_a_torchvision_that_does_not_fit(tmp_path, monkeypatch, failure):
    imported = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise failure
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(DataError, match="one pair") as caught:
        data.load("fashion", full=True, download=True, root=tmp_path)
    assert str(failure) in str(caught.value)
    assert torch.__version__ in str(caught.value)
    assert "pip install" in str(caught.value)


# ---- cost of importing --------------------------------------------------------------------------
def test_importing_data_imports_neither_sklearn_nor_torchvision():
    code = (
        "import sys; import diffusion_lab.data, diffusion_lab.data.toys; "
        "print([m for m in ('sklearn', 'torchvision', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


# ---- labels and arrays that are not what they should be -----------------------------------------
def embedded_as_whole(root: Path, monkeypatch, labels=None) -> Path:
    """The embedded part as idx files, taken for the whole set."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    with np.load(store.path("fashion.npz")) as arrays:
        for split, prefix in (("train", "train"), ("test", "t10k")):
            pixels, right = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            monkeypatch.setitem(data.FULL_FASHION, split, sha256(pixels.tobytes()))
            write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
            given = right if labels is None else labels(right).astype(np.uint8)
            write_idx(raw / f"{prefix}-labels-idx1-ubyte", given)
    return root


WRONG_LABELS = {
    "two hundreds": lambda right: np.full_like(right, 200),
    "shifted by one": lambda right: (right + 1) % 10,
    "in another order": lambda right: right[::-1],
    "one of them": lambda right: np.concatenate([right[:-1], (right[-1:] + 1) % 10]),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_of_the_whole_set_are_held_to_the_embedded_ones(name, split, tmp_path, monkeypatch):
    root = embedded_as_whole(tmp_path, monkeypatch, WRONG_LABELS[name])
    with pytest.raises(DataError, match=f"the {split} labels under .* are not those of Fashion"):
        data.load("fashion", split, full=True, root=root)


def test_the_right_labels_are_taken_and_classes_must_be_of_one_size(tmp_path, monkeypatch):
    root = embedded_as_whole(tmp_path, monkeypatch)
    assert torch.equal(
        data.load("fashion", full=True, root=root).labels, data.load("fashion").labels
    )
    monkeypatch.setitem(data.FULL_SIZE, "test", 2000)  # as if these were all: they are not even
    with pytest.raises(DataError, match="the classes are not of one size"):
        data.load("fashion", "test", full=True, root=root)


@pytest.mark.parametrize(
    "change",
    [
        {"train_labels": np.full(10_000, 12, np.uint8)},
        {"train_labels": np.zeros(9_999, np.uint8)},
        {"train_labels": np.zeros(10_000, np.float64)},
        {"train_images": np.zeros((10_000, 27, 28), np.uint8)},
        {"train_images": np.zeros((10_000, 28, 28), np.float32)},
        {"train_images": None},
    ],
    ids=lambda change: str({k: getattr(v, "shape", None) for k, v in change.items()}),
)
def test_an_archive_with_other_arrays_is_refused(change, tmp_path, monkeypatch):
    with np.load(store.path("fashion.npz")) as arrays:
        changed = {k: v for k, v in (dict(arrays) | change).items() if v is not None}
    np.savez(tmp_path / "fashion.npz", **changed)
    monkeypatch.setattr(store, "path", lambda name: tmp_path / name)  # with a matching index
    with pytest.raises(DataError, match="is not the embedded Fashion-MNIST"):
        data.load("fashion")
