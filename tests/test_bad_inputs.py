"""What is public, given what it cannot use: an error that says what was wrong, and no trace left.

Each line is a call and a part of what its error must say; the error is always one of those that
the command line prints (ValueError, CheckpointError, DataError, FloatingPointError, OSError), never
one of torch or Python about something inside. What a module's own tests refuse is not repeated.
"""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

from diffusion_lab import (
    checkpoints,
    cli,
    data,
    device,
    forward,
    grids,
    metrics,
    nets,
    schedules,
    training,
)
from diffusion_lab.data import store, toys
from diffusion_lab.denoisers import NetDenoiser, Prediction
from diffusion_lab.device import generator
from diffusion_lab.errors import CheckpointError, DataError, check_arguments, whole
from diffusion_lab.exact import FiniteData, Gaussian, GaussianMixture
from diffusion_lab.forward import noised
from diffusion_lab.generate import generate
from diffusion_lab.guidance import guided
from diffusion_lab.metrics import Estimate, Meter, Reference, distances, energy, information
from diffusion_lab.metrics import likelihood as bits
from diffusion_lab.metrics.frechet import estimate, fd_curve, gaussian_bias
from diffusion_lab.metrics.inception import prepare
from diffusion_lab.metrics.kid import kid_subsets, mmd2
from diffusion_lab.metrics.precision_recall import neighbours
from diffusion_lab.nets import MLP, Classifier, UNet
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.samplers import ddim
from diffusion_lab.training import recipes
from diffusion_lab.training import resume as states
from diffusion_lab.walk import sample, walk

NAN, INF = math.nan, math.inf
LINEAR = schedules.linear(1000)
MIX = GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [1.0, 0.0]], torch.eye(2).repeat(2, 1, 1))
EXACT = MIX.denoiser(LINEAR)
X = torch.randn(4, 2, generator=generator(0))
BYTES = torch.zeros(4, 2, dtype=torch.uint8)
HALF = torch.full((4,), 0.5)
CLASSES = torch.tensor([0, 1, 0, 1])
TINY = recipes.get("digits").but(
    net={"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}, steps=2, batch=4, warmup=1
)


def net(**options):
    return NetDenoiser(MLP(2, 8), LINEAR, "eps", **({"shape": (2,)} | options))


def classes():
    return NetDenoiser(MLP(2, 8, num_classes=3), LINEAR, "eps", shape=(2,), num_classes=3)


def unet(**options):
    return UNet(**({"widths": (8, 8), "emb": 8} | options))


def trained(recipe, **options):
    return list(training.train(recipe, **options))


SCHEDULES = [
    (lambda: schedules.Linear(NAN, 20), "b0 must be a finite number.*got nan"),
    (lambda: schedules.Cosine(NAN), "got nan"),
    (lambda: schedules.Sigmoid(tau=NAN), "tau must be a finite number.*got nan"),
    (lambda: schedules.VE(NAN, 1), "sigma_min must be a finite number.*got nan"),
    (lambda: schedules.EDM(80, NAN), "rho must be a finite number.*got nan"),
    (lambda: schedules.Table([]), "list of T numbers"),
    (lambda: schedules.Table([NAN]), r"numbers in \(0, 1\]"),
    (lambda: schedules.Table(torch.full((2, 2), 0.1)), r"numbers in \(0, 1\]"),
    (lambda: schedules.Table(abar=[NAN]), "fall strictly"),
    (lambda: schedules.cosine(10, s=NAN), r"numbers in \(0, 1\]"),
    (lambda: LINEAR.alpha(torch.tensor([0.5, NAN])), r"t must lie in \[0, 1\]"),
    (lambda: LINEAR.drift_diffusion(torch.tensor([1.5])), r"t must lie in \[0, 1\]"),
    (lambda: grids.grid(LINEAR, 2.5), "whole number >= 1; got 2.5"),
    (lambda: grids.grid(LINEAR, 10, lam_range=(NAN, 1.0)), "lowest, highest"),
    (lambda: grids.grid(LINEAR, 10, "karras", rho=NAN), "."),
]

DENOISERS = [
    (lambda: NetDenoiser(MLP(), LINEAR, sd=INF), "must be > 0; got inf"),
    (lambda: NetDenoiser(MLP(), LINEAR, sd=NAN), "must be > 0; got nan"),
    (lambda: NetDenoiser(MLP(), "linear"), "and a schedule; got MLP and str"),
    (lambda: NetDenoiser(None, LINEAR), "got NoneType and Table"),
    (lambda: net(lam_range=(3.0, -3.0)), "lowest, highest"),
    (lambda: net(lam_range=(NAN, 3.0)), "lowest, highest"),
    (lambda: net()(BYTES, 0.5), r"tensor of floats; got torch.uint8 .*x.float\(\) / 127.5 - 1"),
    (lambda: net()(X.numpy(), 0.5), "tensor of floats; got ndarray"),
    (lambda: net()(X.double(), 0.5), r"x_t is torch.float64 .* call x_t.to\(torch.float32\)"),
    (lambda: net()(X, NAN), r"t must lie in \[0, 1\]"),
    (lambda: net()(X, torch.tensor([0.5, 0.5, NAN, 0.5])), r"t must lie in \[0, 1\]"),
    (lambda: net()(X, torch.tensor(0.5)), r"tensor of shape \(4,\).*got shape \(\)"),
    (lambda: classes()(X, 0.5, label=[0, 1, 2, 3]), "label must be a tensor"),
    (lambda: NetDenoiser(MLP(2, 8, out_dim=3), LINEAR, "eps")(X, 0.5), "must have one shape"),
    (
        lambda: NetDenoiser(MLP(2, 8, out_dim=3), LINEAR, "eps", learned_var=True)(X, 0.5),
        "answers with 2 x 2 channels",
    ),
    (lambda: NetDenoiser(MLP(3, 8), LINEAR, "eps")(X, 0.5), r"x of shape \(B, 3\); got \(4, 2\)"),
    (
        lambda: NetDenoiser(unet(), LINEAR, "eps")(torch.zeros(2, 3, 8, 8), 0.5),
        r"\(B, 1, H, W\); got \(2, 3, 8, 8\)",
    ),
    (lambda: Prediction(X, 0.8, 0.6, X, "x0").clip(1.0, -1.0), r"clip takes \(lowest, highest\)"),
    (lambda: Prediction(X, 0.8, 0.6, X, "x0").clip(NAN, 1.0), r"clip takes \(lowest, highest\)"),
]

EXACT_ANSWERS = [
    (lambda: GaussianMixture([0.5, 0.5], [[NAN], [1.0]], [[[1.0]], [[1.0]]]), "must be finite"),
    (lambda: GaussianMixture([INF, 0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "must be finite"),
    (lambda: GaussianMixture([NAN, 0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "must be positive"),
    (lambda: Gaussian([0.0], [[-1.0]]), "positive semi-definite"),
    (lambda: EXACT(BYTES, 0.5), "tensor of floats; got torch.uint8"),
    (lambda: FiniteData(BYTES), "tensor of floats; got torch.uint8"),
    (lambda: FiniteData(X * NAN), "nan or inf"),
    (lambda: FiniteData(X, CLASSES[:2]), r"labels must be int64 of shape \(4,\)"),
    (lambda: FiniteData(X, CLASSES.float()), "got torch.float32"),
    (lambda: FiniteData(X, CLASSES - 1), "smallest -1"),
    (lambda: FiniteData(X).x0(torch.zeros(4, 3), 0.5, 0.5), r"x_t must be \(B, 2\)"),
    (lambda: FiniteData(X).x0(X, 1.0, 0.0), "sigma must be > 0"),
    (lambda: toys.product(2.5), "dimension must be a whole number"),
    (lambda: toys.dataset("ring", n=0), "number of samples"),
    (lambda: forward.move(BYTES, LINEAR, 0.1, 0.5, torch.zeros(4, 2)), "floats; got torch.uint8"),
    (lambda: forward.transition(LINEAR, NAN, 0.5), "0 <= s < t <= 1"),
    (lambda: information.vp(NAN), "got nan"),
]

OBJECTIVES = [
    (lambda: Weighting("p2", {"k": NAN}), "k of the weighting 'p2' must be >= 0; got nan"),
    (lambda: Weighting("p2", {"gamma": -1.0}), "must be >= 0"),
    (lambda: Weighting("min-snr", {"g": 0.0}), "must be > 0; got 0.0"),
    (lambda: Weighting("edm", {"sd": 0.0}), "must be > 0"),
    (lambda: noised(BYTES, BYTES, LINEAR, HALF), "x0 must be a tensor of floats"),
    (lambda: noised(X, BYTES, LINEAR, HALF), "eps must be a tensor of floats"),
    (lambda: noised(X, X, LINEAR, 0.5), "t must be a tensor"),
    (lambda: DiffusionLoss(net(), "simple"), r"such as Weighting\('simple'\)"),
    (lambda: DiffusionLoss(net(), Weighting())(BYTES, HALF, BYTES), "tensor of floats"),
    (lambda: Weighting().on("eps", LINEAR, torch.tensor([0.0, 0.5])), "none at t = 0: draw t > 0"),
    (lambda: draw_times(LINEAR, 2.5, generator(0)), "whole number >= 1; got 2.5"),
    (lambda: draw_times(LINEAR, 4, None), "drawn by a torch.Generator; got None"),
    (lambda: draw_times(LINEAR, 4, generator(0), lam_range=(1.0, -1.0)), "lowest, highest"),
    (lambda: draw_times(LINEAR, 4, generator(0), lam_range=(NAN, 1.0)), "lowest, highest"),
    (lambda: draw_times(LINEAR, 4, generator(0), law="lognormal", std=-1.0), "std > 0"),
    (lambda: draw_times(LINEAR, 4, generator(0), law="lognormal", mean=NAN), "finite mean"),
]

RECIPES = [
    ({"lr": NAN}, "lr of a recipe must be > 0"),
    ({"lr": 0.0}, "lr of a recipe must be > 0"),
    ({"weight_decay": -1.0}, "weight_decay >= 0"),
    ({"batch": 0}, "batch of a recipe must be a whole number >= 1; got 0"),
    ({"batch": 2.5}, "batch of a recipe must be a whole number >= 1; got 2.5"),
    ({"steps": -1}, "steps of a recipe"),
    ({"warmup": -1}, "warmup of a recipe must be a whole number >= 0"),
    ({"seed": 1.5}, "seed of a recipe"),
    ({"null": 2.0}, "null of a recipe is a share from 0 to 1; got 2.0"),
    ({"null": NAN}, "null of a recipe is a share"),
    ({"decay": 2.0}, "decay of a recipe is a share"),
    ({"task": "clasifier"}, "Did you mean 'classifier'"),
    ({"net": {}}, "net of a recipe needs 'name'"),
    ({"schedule": {}}, "schedule of a recipe needs 'name'"),
    ({"weighting": {}}, "weighting of a recipe needs 'name'"),
    ({"times": {}}, "times of a recipe needs 'law'"),
]

BUILT = [  # found when the training begins, before its first step
    ({"net": {"name": "unett"}}, "Did you mean 'unet'"),
    ({"net": {"name": "unet", "widht": 3}}, "unknown argument of the network 'unet' 'widht'"),
    ({"schedule": {"name": "liner"}}, "Did you mean 'linear'"),
    ({"kind": "epss"}, "Did you mean 'eps'"),
    ({"data": "digit"}, "Did you mean 'digits'"),
    ({"times": {"law": "unifrm"}}, "Did you mean 'uniform'"),
    ({"weighting": {"name": "min_snr"}}, "Did you mean 'min-snr'"),
    ({"sd": -1.0}, "must be > 0; got -1.0"),
    ({"ema": 1.5}, r"\[0, 1\); got 1.5"),
    ({"lam_range": (1.0, -1.0)}, "lowest, highest"),
]

TRAININGS = [
    (lambda: trained(TINY, steps=2.5), "steps must be a whole number >= 1; got 2.5"),
    (lambda: trained(TINY, save_every=0), "save_every must be a whole number >= 1; got 0"),
    (lambda: trained("digits"), "train takes a recipe.*got str"),
    (lambda: trained(TINY, data="digits"), "data as of data.load or nothing; got Recipe and str"),
    (lambda: trained(TINY, stop_at=0), "nothing is left to do"),
    (lambda: training.load_or_train("fasion"), "Did you mean 'fashion'"),
]

DEVICES = [
    (lambda: generator("a"), "a seed must be a whole number.*got 'a'"),
    (lambda: generator(1.5), "a seed must be a whole number.*got 1.5"),
    (lambda: generator(True), "a seed must be a whole number.*got True"),
    (lambda: generator(0, None), "a seed must be a whole number.*got None"),
    (lambda: generator(2**70), "below 2"),
    (lambda: whole("it", -1, 0), "it must be a whole number >= 0; got -1"),
    (lambda: check_arguments("f", lambda width: None, ["widht"]), "Did you mean 'width'"),
    (lambda: checkpoints.load("digits", device="cpuu"), "cannot be put on the device 'cpuu'"),
]

NETWORKS = [
    (lambda: nets.make("mlp", widht=3), "Did you mean 'width'"),
    (lambda: MLP(0), "dim must be a whole number >= 1; got 0"),
    (lambda: MLP(2.5), "dim must be a whole number >= 1; got 2.5"),
    (lambda: MLP(2, 8, 0), "depth must be a whole number >= 1"),
    (lambda: MLP(2, 8, num_classes=0), "num_classes must be"),
    (lambda: MLP(2, 8)(torch.zeros(4, 2, 1), torch.zeros(1)), r"\(B, 2\); got \(4, 2, 1\)"),
    (lambda: UNet(widths=()), "widths are the channels of each level"),
    (lambda: UNet(widths=(3, 8)), "4 or more"),
    (lambda: UNet(widths=(8, 36)), "multiple of its groups"),
    (lambda: UNet(widths=(8, 8), heads=3), "3 heads do not divide the width 8"),
    (lambda: UNet(patch=0), "patch must be"),
    (lambda: UNet(blocks=0), "blocks must be"),
    (lambda: UNet(fine=0), "fine must be"),
    (lambda: UNet(0), "channels must be"),
    (lambda: unet()(torch.zeros(2, 1, 7, 7), torch.zeros(1)), "multiples of 4"),
    (lambda: Classifier(width=0), "width must be"),
    (lambda: Classifier(pools=-1), "pools must be a whole number >= 0"),
    (lambda: Classifier()(torch.zeros(2, 3, 28, 28)), r"\(B, 1, H, W\)"),
    (lambda: Classifier()(torch.zeros(2, 1, 2, 2)), "at least 4; got"),
]

SAMPLING = [
    (lambda: generate(None, 4), "generate takes a denoiser"),
    (lambda: generate("fashion", 4), r"such as checkpoints.load_denoiser\('fashion'\)"),
    (lambda: generate(EXACT, "4"), "number of samples must be a whole number"),
    (lambda: generate(EXACT, 4, batch=0), "batch must be a whole number >= 1; got 0"),
    (lambda: generate(EXACT, 4, batch=-1), "batch must be a whole number >= 1; got -1"),
    (lambda: generate(EXACT, 4, batch=1.5), "batch must be a whole number >= 1; got 1.5"),
    (lambda: generate(EXACT, 4, seed=1.5), "a seed must be a whole number"),
    (lambda: generate(EXACT, 4, sampler="ddim", etta=0.5), "Did you mean 'eta'"),
    (lambda: generate(EXACT, 4, sampler="dpmpp", variance="small"), "unknown argument"),
    (lambda: generate(EXACT, 4, sampler="ddim", clip=1.0), r"clip takes \(lowest, highest\)"),
    (lambda: generate(EXACT, 4, sampler="ddim", clip=(1.0, -1.0)), r"clip takes \(lowest"),
    (lambda: generate(EXACT, 4, lam_range=(NAN, 1.0)), "lowest, highest"),
    (lambda: EXACT.schedule.prior(0, (2,), generator(0)), "number of samples"),
    (lambda: walk(ddim(), EXACT, X.numpy(), [1, 0]), "x must be a tensor.*got ndarray"),
    (lambda: sample(walk(ddim(), EXACT, X * NAN, [1.0, 0.0])), "not finite"),
    (lambda: sample(iter(())), "yielded no state"),
    (lambda: generate(EXACT, 4, scale=NAN, label=CLASSES), "must be a finite number; got nan"),
    (lambda: guided(classes(), INF), "must be a finite number; got inf"),
    (lambda: guided(classes(), "2"), "must be a finite number; got '2'"),
    (lambda: guided(classes(), None), "must be a finite number; got None"),
    (
        lambda: guided(classes(), 2.0)(X, 0.5, label=CLASSES[:2]),
        r"label must be a tensor of shape \(4, \.\.\.\); got \(2,\)",
    ),
    (lambda: guided(classes(), 2.0)(X, 0.5, label=[0, 1, 0, 1]), "label must be a tensor"),
]

DATA = [
    (lambda: data.load(None), "unknown data set None"),
    (lambda: store.path("../x"), "not listed"),
    (lambda: store.path(""), "not listed"),
    (lambda: data.to_uint8(BYTES), "wants a float tensor"),
    (lambda: data.to_uint8(torch.full((1, 1, 2, 2), INF)), "nan or inf"),
]

POINTS = torch.randn(20, 2, generator=generator(1))
HOLE = POINTS.clone()
HOLE[3, 1] = NAN
PICTURES = torch.zeros(4, 1, 8, 8)
STATISTICS = Reference.of(POINTS)
LINE = GaussianMixture([0.3, 0.7], [[-2.0], [1.0]], torch.ones(2, 1, 1))
CLASSED = FiniteData(X, CLASSES)

METRICS = [
    (lambda: metrics.fd(PICTURES * NAN, "digits"), "pictures hold nan or inf"),
    (lambda: metrics.features(PICTURES.to(torch.uint8), "digits"), "floats; got torch.uint8"),
    (lambda: metrics.features(PICTURES), r"'fashion' \(N, 1, 28, 28\).*got \(4, 1, 8, 8\)"),
    (lambda: metrics.features(PICTURES[:0], "digits"), r"at least 1; got \(0, 1, 8, 8\)"),
    (lambda: metrics.features(PICTURES, "digits", batch=0), "batch must be a whole number >= 1"),
    (lambda: metrics.noise_anchor(10, "digits", std=NAN), "standard deviation of the noise must"),
    (lambda: metrics.noise_anchor(2.5, "digits"), "number of pictures must be a whole number"),
    (lambda: metrics.blurred(PICTURES, 0), "factor must be a whole number >= 1; got 0"),
    (lambda: Reference.of(HOLE), "features .* hold nan or inf"),
    (lambda: Reference(torch.zeros(2), torch.full((2, 2), NAN), 5), "hold nan or inf"),
    (lambda: gaussian_bias(STATISTICS, STATISTICS, 1), "n must be a whole number >= 2; got 1"),
    (lambda: gaussian_bias(STATISTICS, STATISTICS, 9, 1), "m must be a whole number >= 2; got 1"),
    (lambda: fd_curve(POINTS, STATISTICS, [], generator(0)), "sizes must be .* got none"),
    (lambda: fd_curve(POINTS, STATISTICS, [4.5], generator(0)), "a size must be a whole number"),
    (lambda: fd_curve(HOLE, STATISTICS, [9], generator(0)), "features hold nan or inf"),
    (lambda: estimate(POINTS, STATISTICS, generator(0), 2.5), "draws must be a whole number"),
    (lambda: prepare(PICTURES.to(torch.uint8)), "floats; got torch.uint8"),
    (lambda: prepare(PICTURES * NAN), "pictures hold nan or inf"),
    (lambda: mmd2(HOLE, POINTS), "features hold nan or inf"),
    (lambda: mmd2(POINTS, HOLE), "features hold nan or inf"),
    (lambda: kid_subsets(POINTS, POINTS, generator(0), 0, 5), "subsets must be a whole number"),
    (lambda: kid_subsets(POINTS, POINTS, generator(0), 5, 1), "size of a subset must be"),
    (lambda: neighbours(POINTS, HOLE), "points hold nan or inf"),
    (lambda: neighbours(POINTS, POINTS, k=2.5), "k must be a whole number >= 1; got 2.5"),
    (lambda: metrics.inception_score(torch.eye(4), 2.5), "splits must be a whole number"),
    (lambda: metrics.inception_score(torch.eye(4) * NAN, 2), "probabilities that sum to 1"),
    (lambda: metrics.nearest(HOLE, POINTS), "pictures hold nan or inf"),
    (lambda: metrics.nearest(BYTES, BYTES), "floats; got torch.uint8"),
    (lambda: distances.w1(HOLE[:, 1], POINTS[:, 1]), "numbers hold nan or inf"),
    (lambda: distances.sliced_w2(HOLE, POINTS, generator(0)), "points hold nan or inf"),
    (lambda: distances.sliced_w2(POINTS, POINTS, generator(0), 0), "directions must be a whole"),
    (lambda: distances.energy_distance(POINTS, HOLE), "points hold nan or inf"),
    (lambda: distances.modes(POINTS, POINTS, NAN), "radius must be a finite number > 0; got nan"),
    (lambda: Estimate.of([1.0, NAN]), "values hold nan or inf"),
    (lambda: Estimate(1.0, 0.1, 9) / 0, "size of a unit must be a finite number > 0; got 0"),
    (lambda: information.class_bits(LINE, NAN), "lambda must be a number; got nan"),
    (lambda: information.finite(CLASSED, 0.0, 0, generator(0)), "number of pictures must be"),
    (lambda: bits.dequantise(BYTES, 256, generator(0)), "floats; got torch.uint8"),
    (lambda: bits.dequantise(X, 1, generator(0)), "levels .* must be a whole number >= 2; got 1"),
    (lambda: bits.nats(1.0, 0), "dims must be a whole number >= 1; got 0"),
    (lambda: bits.bits_per_dim(1.0, 2.5), "dims must be a whole number >= 1; got 2.5"),
    (lambda: energy.kwh(NAN, 1), "watts must be a finite number >= 0; got nan"),
    (lambda: energy.kwh(1, 1, pue=NAN), "PUE must be a finite number >= 1; got nan"),
    (lambda: energy.co2(-1.0), "an energy must be a finite number >= 0; got -1.0"),
    (lambda: energy.co2(1.0, NAN), "kg of CO2 for a kWh must be a finite number"),
    (lambda: energy.homes(NAN), "an energy must be a finite number"),
    (lambda: energy.coal(INF), "kg of CO2 must be a finite number"),
    (lambda: energy.break_even(INF, 2, 1), "train must be a finite number"),
    (lambda: energy.break_even(1, NAN, 1), "slow must be a finite number"),
    (lambda: energy.v100_days(1e18, utilisation=0), "utilisation must be a finite number > 0"),
    (lambda: energy.v100_days("much"), "number of FLOPs must be a finite number"),
    (lambda: energy.PowerMeter(watts=NAN), "watts must be a finite number"),
    (lambda: Meter(MLP(2, 8), pictures=2.5), "must be a whole number >= 1; got 2.5"),
    (lambda: metrics.timing(lambda n: n, 0), "pictures must be a whole number >= 1; got 0"),
]

CALLS = [
    (f"{table}-{i}", call, says)
    for table, lines in {
        "schedules": SCHEDULES,
        "denoisers": DENOISERS,
        "exact": EXACT_ANSWERS,
        "objectives": OBJECTIVES,
        "training": TRAININGS,
        "device": DEVICES,
        "nets": NETWORKS,
        "samplers": SAMPLING,
        "data": DATA,
        "metrics": METRICS,
    }.items()
    for i, (call, says) in enumerate(lines)
]


@pytest.mark.parametrize(("call", "says"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_it_is_refused_in_words(call, says):
    with pytest.raises(cli.EXPECTED + (CheckpointError,), match=says):
        call()


@pytest.mark.parametrize(("change", "says"), RECIPES, ids=str)
def test_a_recipe_that_no_training_can_be(change, says):
    with pytest.raises(ValueError, match=says):
        TINY.but(**change)


@pytest.mark.parametrize(("change", "says"), BUILT, ids=str)
def test_a_training_that_cannot_begin_leaves_nothing(change, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        trained(TINY.but(**change), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_variable_for_the_device_is_looked_at(monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_DEVICE", "gpu")
    with pytest.raises(ValueError, match="DIFFUSION_LAB_DEVICE names no device: 'gpu'"):
        device.device()


def test_whole_numbers_of_numpy_and_torch_are_whole_numbers():
    assert whole("n", np.int64(3)) == whole("n", torch.tensor(3)) == 3
    assert generate(EXACT, np.int64(2), steps=2).x.shape == (2, 2)
    same = generator(np.int32(5)), generator(5)
    assert torch.equal(*(torch.rand(2, generator=one) for one in same))


# ---- files ---------------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "small.safetensors"
    checkpoints.save(file, net(), {"net": {"name": "mlp", "dim": 2, "width": 8}})
    return file


def header(**about):
    """A safetensors file of this format whose header holds ``about``, without a sum."""
    text = json.dumps(about) if about else "[]"
    return to_bytes({"w": torch.zeros(2)}, metadata={"format": checkpoints.FORMAT, "about": text})


DAMAGED = {
    "empty": b"",
    "eight zeros": bytes(8),
    "a header of 2^60 bytes": (2**60).to_bytes(8, "little") + b"{}",
    "no JSON": (3).to_bytes(8, "little") + b"abc",
    "text": b"a letter to the reader, and not a model",
    "a zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("read", [checkpoints.load, checkpoints.info, checkpoints.load_tensors])
def test_a_damaged_checkpoint_is_named(name, read, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(DAMAGED[name])
    with pytest.raises(CheckpointError, match="model.safetensors is damaged.*restore it, or train"):
        read(file)


def test_a_checkpoint_cut_anywhere_is_refused(saved):
    whole_file = saved.read_bytes()
    for length in [*range(0, 200, 23), *range(200, len(whole_file), 997), len(whole_file) - 1]:
        saved.write_bytes(whole_file[:length])
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoints.load(saved)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({}, "no model|damaged"),
        ({"step": 3}, "the saved state of a training"),
        ({"net": {"name": "mlp", "dim": -1}}, "this version cannot build"),
        ({"net": {"name": "mlp", "widht": 1}}, "this version cannot build"),
        ({"net": ["mlp"]}, "this version cannot build"),
        ({"net": {"name": "mlp"}}, "do not fit the network"),
    ],
    ids=str,
)
def test_a_checkpoint_with_another_header_is_refused(about, says, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(header(**about))
    with pytest.raises(CheckpointError, match=says):
        checkpoints.load(file)


@pytest.mark.parametrize(
    "change",
    [{"shape": 5}, {"lam_range": [1]}, {"sd": "one"}, {"kind": None}, {"schedule": {}}],
    ids=str,
)
def test_a_checkpoint_of_a_process_that_cannot_be_is_refused(change, saved):
    tensors, about = checkpoints.load_tensors(saved)
    spec = about["models"]["model"] | change
    checkpoints.save_tensors(saved, tensors, about | {"models": {"model": spec}})
    with pytest.raises(CheckpointError, match="this version cannot build"):
        checkpoints.load(saved)


def test_a_checkpoint_without_a_part_of_its_process_is_refused(saved):
    tensors, about = checkpoints.load_tensors(saved)
    for part in ("schedule", "kind", "shape", "lam_range"):
        less = {k: v for k, v in about["models"]["model"].items() if k != part}
        checkpoints.save_tensors(saved, tensors, about | {"models": {"model": less}})
        with pytest.raises(CheckpointError, match="this version cannot build"):
            checkpoints.load(saved)


@pytest.mark.parametrize(
    ("tensors", "about", "says"),
    [
        ({"w": 1}, {}, "'w' is a int"),
        ({"w": np.zeros(2)}, {}, "'w' is a ndarray"),
        ({"w": torch.zeros(2)}, {"a": torch.zeros(2)}, "what JSON can hold"),
    ],
    ids=["a number", "an array", "a tensor in the header"],
)
def test_what_cannot_be_saved_leaves_the_old_file(tensors, about, says, saved):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match=says):
        checkpoints.save_tensors(saved, tensors, about)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


WRITERS = {
    "a checkpoint": lambda folder: checkpoints.save(
        folder / "m.safetensors", net(), {"net": {"name": "mlp", "dim": 2, "width": 8}}
    ),
    "a training": lambda folder: trained(TINY, out=folder),
}


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "read-only"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "try again"),
    ],
)
def test_a_disk_that_fails_leaves_nothing(what, number, advice, tmp_path, monkeypatch):
    real, calls = os.write, []

    def failing(handle, part):  # some of it is written, then the disk fails
        if len(part) < 200:  # the log of a training, a line so far, is written and stays
            return real(handle, part)
        calls.append(1)
        if len(calls) == 1:
            return real(handle, bytes(part)[:1000])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("diffusion_lab.files.os.write", failing)
    with pytest.raises(OSError, match=advice) as error:
        WRITERS[what](tmp_path)
    assert error.value.errno == number
    assert "Nothing was half-written" in str(error.value)
    assert not [file for file in tmp_path.iterdir() if not file.name.endswith(".log.csv")]


@pytest.mark.parametrize("what", WRITERS)
@pytest.mark.parametrize("where", ["os.write", "os.fsync", "os.replace"])
def test_an_interrupt_leaves_nothing(what, where, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"diffusion_lab.files.{where}", stop)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[what](tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", WRITERS)
def test_a_file_where_the_folder_should_be(what, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a letter")
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        WRITERS[what](taken)
    assert taken.read_text() == "a letter"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("what", WRITERS)
def test_a_folder_that_is_read_only(what, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="choose a folder you may write to"):
        WRITERS[what](tmp_path)
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "bad",
    [b"", b"abc", header(), header(recipe={}), header(step=2)],
    ids=["empty", "text", "a list", "no recipe", "a step"],
)
def test_a_state_that_cannot_be_resumed_is_left_as_it_is(bad, tmp_path):
    file = states.state_file(TINY, tmp_path)
    file.write_bytes(bad)
    with pytest.raises(CheckpointError, match="damaged|another training"):
        trained(TINY, out=tmp_path, resume=True)
    assert file.read_bytes() == bad
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


# ---- data files and the network -----------------------------------------------------------------
@pytest.fixture
def copy(tmp_path, monkeypatch):
    """An index with one small archive, where the course looks for its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "index.json").write_bytes((store.folder() / "index.json").read_bytes())
    monkeypatch.setattr(store, "_PACKAGED", folder)
    return folder


@pytest.mark.parametrize(
    "use",
    [
        lambda: data.load("fashion"),
        lambda: checkpoints.load("digits"),
        lambda: checkpoints.info("fashion"),
        lambda: training.load_or_train("digits"),
        lambda: generate(checkpoints.load_denoiser("fashion"), 1),
    ],
)
def test_a_data_file_that_is_missing_is_named_with_its_remedy(use, copy):
    with pytest.raises(DataError, match=r"is missing\. Install the package again"):
        use()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(1000)])
def test_a_data_file_that_is_something_else_is_not_opened(content, copy):
    (copy / "fashion.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged or was changed"):
        data.load("fashion")


def test_without_a_network_the_way_on_is_told(tmp_path):
    """The tests run sealed: a download fails as it does without a network."""
    with pytest.raises(DataError, match="To go on without a network") as error:
        data.load("fashion", full=True, download=True, root=tmp_path)
    assert "could not be fetched" in str(error.value) or "torchvision" in str(error.value)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.stat().st_size]


# ---- the command line --------------------------------------------------------------------------
COMMANDS = [
    "sample --model empty.safetensors",
    "sample --model text.safetensors",
    "sample --model folder",
    "sample --model other.safetensors",
    "sample --scale nan --label 1",
    "sample --sampler ddim --set eta=nan",
    "sample --n 99999999999999999999",
    "sample --seed 99999999999999999999",
    "sample --steps 2.5",
    "sample --sampler ddpm --steps 100000 --model fashion-vp1000",
    "sample --out /proc/no/such.png",
    "train digits --resume --out damaged",
    "train digits --seed x",
    "train digits --out text.safetensors",
    "survey 9999",
    "survey --family sampler",
    "survey --lesson 99",
    "lesson open 99",
    "lesson open x",
    "bench nothing",
    "nothing",
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_that_cannot_run_says_why_in_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.safetensors").write_bytes(b"")
    Path("text.safetensors").write_text("a letter")
    Path("other.safetensors").write_bytes(to_bytes({"w": torch.zeros(2)}))
    Path("folder").mkdir()
    Path("damaged").mkdir()
    (Path("damaged") / "digits.state.safetensors").write_bytes(b"abc")
    before = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
    try:
        status = cli.main(words.split())
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert said.err.splitlines()[-1].startswith("diffusion-lab: error: ")
    assert "Traceback" not in said.err
    assert {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")} == before
