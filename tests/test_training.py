"""The training loop: resumed equals uninterrupted, ranks agree, the optimum is the right one."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from copy import deepcopy

import pytest
import torch

from diffusion_lab import checkpoints, data, files, pictures, schedules, training
from diffusion_lab.data import Dataset
from diffusion_lab.denoisers import Denoiser, Prediction
from diffusion_lab.device import generator
from diffusion_lab.errors import CheckpointError
from diffusion_lab.exact import GaussianMixture
from diffusion_lab.objectives import WEIGHTS, DiffusionLoss, Weighting, draw_times
from diffusion_lab.training import EMA, fit, learning_rate, loop, recipes, tasks, train
from diffusion_lab.training import resume as states

TINY = recipes.get("digits").but(
    net={"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}, steps=12, batch=16, warmup=3
)
JUDGE = recipes.get("digits-features").but(
    net={"name": "classifier", "width": 4, "pools": 1}, steps=12, batch=16, warmup=3
)
POINTS = recipes.get("digits").but(
    net={"name": "mlp", "width": 64},
    schedule={"name": "linear"},
    kind="eps",
    sd=1.0,
    weighting={"name": "simple"},
    times={"law": "uniform"},
    lam_range=(-4.6, 4.6),
    conditional=False,
    batch=256,
    lr=5e-3,
    ema=0.99,
    steps=100,
    sampler={},
)
OFTEN = {"report_every": 5, "save_every": 3}


def curve(recipe, **options):
    return [(p.step, p.loss) for p in train(recipe, **(OFTEN | options))]


def state_of(recipe, folder):
    tensors, head = checkpoints.load_tensors(states.state_file(recipe, folder))
    return tensors, {k: v for k, v in head.items() if k != "cpu_seconds"}


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


# ---- resuming ----------------------------------------------------------------------------------
@pytest.mark.parametrize("recipe", [TINY, JUDGE], ids=["diffusion", "classifier"])
@pytest.mark.parametrize("stop", [5, 7], ids=["on a report", "between reports"])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(recipe, stop, tmp_path):
    whole = curve(recipe, out=tmp_path / "whole")
    torch.manual_seed(1)  # what the caller does with torch's own generator changes nothing
    first = curve(recipe, out=tmp_path / "parts", stop_at=stop)
    torch.manual_seed(2)
    second = curve(recipe, out=tmp_path / "parts", resume=True)
    assert [step for step, _ in whole] == [5, 10, 12]
    assert [pair for pair in first if pair[0] % 5 == 0] + second == whole

    ours, head = state_of(recipe, tmp_path / "parts")
    theirs, other = state_of(recipe, tmp_path / "whole")
    same(ours, theirs)
    assert head == other and head["step"] == 12
    assert {key.split(".")[0] for key in ours} == {"w", "ema", "adam"}
    assert any(key.endswith("exp_avg_sq") for key in ours)
    same(
        *(
            checkpoints.load_tensors(tmp_path / folder / f"{recipe.name}.safetensors")[0]
            for folder in ("parts", "whole")
        )
    )


SCRIPT = """
    import sys
    import diffusion_lab.course.ship, diffusion_lab.training as training
    slow = {"accelerate", "torchvision", "sklearn", "matplotlib", "IPython"}
    assert not slow & set(sys.modules), slow & set(sys.modules)
    from diffusion_lab.training.recipes import get
    recipe = get("digits").but(
        net={"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}, steps=60, batch=16
    )
    for p in training.train(
        recipe, out=sys.argv[1], resume="resume" in sys.argv, report_every=2, save_every=1
    ):
        print(p.step, p.loss, flush=True)
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path):
    """A plain script, killed twice while it saves after every step."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    recipe = TINY.but(steps=60, warmup=recipes.get("digits").warmup)
    calm = {"report_every": 2, "save_every": 1000}
    expected = curve(recipe, out=tmp_path / "whole", **calm)
    out, seen = tmp_path / "killed", []
    for reports, more in ((2, []), (3, ["resume"])):
        run = subprocess.Popen(
            [sys.executable, script, out, *more], stdout=subprocess.PIPE, text=True
        )
        lines = [run.stdout.readline() for _ in range(reports)]
        time.sleep(0.013 * reports)
        os.kill(run.pid, signal.SIGKILL)
        rest = run.communicate()[0].splitlines()
        assert run.returncode == -signal.SIGKILL, "it ended before it was killed"
        seen += [line.split() for line in [*lines, *rest]]
        left = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        assert left == {"digits.log.csv", "digits.state.safetensors"}
        checkpoints.load_tensors(out / "digits.state.safetensors")  # whole, whenever the kill came
    found = {int(step): float(loss) for step, loss in seen}
    found |= dict(curve(recipe, out=out, resume=True, **calm))
    assert found == dict(expected)
    same(state_of(recipe, out)[0], state_of(recipe, tmp_path / "whole")[0])
    assert {path.name for path in out.iterdir()} == {
        "digits.log.csv",
        "digits.state.safetensors",
        "digits.safetensors",
    }


def test_resume_without_a_state_says_to_start_without(tmp_path):
    with pytest.raises(CheckpointError, match=r"no saved state.*--fresh.*resume=False"):
        curve(TINY, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="out="):
        curve(TINY, resume=True)


def test_resume_of_a_finished_training_says_so(tmp_path):
    curve(TINY, out=tmp_path, steps=3)
    with pytest.raises(CheckpointError, match="at step 3 of 3. Load the finished model"):
        curve(TINY, out=tmp_path, steps=3, resume=True)
    curve(TINY, out=tmp_path, stop_at=4)
    with pytest.raises(CheckpointError, match="at step 4 of 12. Raise stop_at"):
        curve(TINY, out=tmp_path, stop_at=2, resume=True)


def test_the_state_of_another_training_is_refused_by_name(tmp_path):
    curve(TINY, out=tmp_path, stop_at=3)
    with pytest.raises(CheckpointError, match=r"training \(batch 16 there, 8 asked; lr .*--fresh"):
        curve(TINY.but(batch=8, lr=1e-3), out=tmp_path, resume=True)
    for shorter, longer in ((TINY.but(steps=13), None), (TINY, 11)):  # longer only when asked
        with pytest.raises(CheckpointError, match=r"\(steps 12 there, 1[13] asked\)"):
            curve(shorter, out=tmp_path, steps=longer, resume=True)


def test_a_damaged_state_is_refused(tmp_path):
    curve(TINY, out=tmp_path, stop_at=3)
    file = states.state_file(TINY, tmp_path)
    good = file.read_bytes()
    half = bytearray(good)
    half[-1000] ^= 1  # one bit of one weight
    for bad in (good[: len(good) // 2], bytes(half), b"", good + b"!"):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            curve(TINY, out=tmp_path, resume=True)
    tensors, head = (file.write_bytes(good), checkpoints.load_tensors(file))[1]
    checkpoints.save_tensors(
        file, {k: v for k, v in tensors.items() if k != "w.net.last.bias"}, head
    )
    with pytest.raises(CheckpointError, match="does not fit this network.*net.last.bias"):
        curve(TINY, out=tmp_path, resume=True)


def test_a_full_disk_leaves_the_old_state(tmp_path, monkeypatch):
    curve(TINY, out=tmp_path, stop_at=3)
    before = states.state_file(TINY, tmp_path).read_bytes()
    real, room = os.write, [20_000]

    def write(handle, block):
        room[0] -= 4096
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, bytes(block[:4096]))

    monkeypatch.setattr(files.os, "write", write)
    with pytest.raises(OSError, match=r"No space left.*Nothing was half-written; free some space"):
        curve(TINY, out=tmp_path, resume=True)
    monkeypatch.undo()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"digits.log.csv", "digits.state.safetensors"}
    assert states.state_file(TINY, tmp_path).read_bytes() == before
    whole = curve(TINY, out=tmp_path / "whole")
    assert curve(TINY, out=tmp_path, resume=True) == whole


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_what_is_not_finite_ends_the_training_and_spares_the_state(what, tmp_path, monkeypatch):
    curve(TINY, out=tmp_path, stop_at=3)
    before = states.state_file(TINY, tmp_path).read_bytes()
    if what == "loss":
        monkeypatch.setattr(
            tasks.Diffusion,
            "losses",
            lambda self, average, **batch: iter([self.loss(**batch).mean() * math.nan]),
        )
    else:  # the last update before a save breaks the weights while the loss still looks well
        real = training.learning_rate
        monkeypatch.setattr(
            loop, "learning_rate", lambda r, k, n, lr: math.inf if k == 5 else real(r, k, n, lr)
        )
    with pytest.raises(FloatingPointError, match=f"the {what}.*near step.*lower the learning rate"):
        curve(TINY, out=tmp_path, resume=True)
    assert states.state_file(TINY, tmp_path).read_bytes() == before


# ---- several processes -------------------------------------------------------------------------
RANKS = """
    import json, sys
    import torch
    from diffusion_lab.training.recipes import get
    from diffusion_lab.training import train
    recipe = get("digits").but(
        net={"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}, steps=12, batch=16, warmup=3
    )
    try:
        next(train(recipe.but(batch=15)))
    except ValueError as error:
        message = str(error)
    curve = [(p.step, p.loss) for p in train(recipe, out=sys.argv[1], report_every=1)]
    rank = torch.distributed.get_rank()
    with open(f"{sys.argv[1]}/rank{rank}.json", "w") as file:
        of = torch.distributed.get_world_size()
        json.dump({"curve": curve, "message": message, "of": of}, file)
"""


@pytest.mark.slow
def test_two_ranks_follow_the_curve_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(RANKS))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    run = subprocess.run(
        [*command, script, tmp_path], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    ranks = [json.loads((tmp_path / f"rank{i}.json").read_text()) for i in range(2)]
    alone = curve(TINY, out=tmp_path / "alone", report_every=1)
    assert [r["of"] for r in ranks] == [2, 2] and ranks[0]["curve"] == ranks[1]["curve"]
    # The two sum the same 16 terms of 64 pixels in another order: float32 sums of n terms differ by
    # at most n eps relative, on average sqrt(n) eps = 32 * 6e-8. Each step passes the difference
    # on through Adam, whose update is bounded by the learning rate.
    for (step, ours), (_, theirs) in zip(alone, ranks[0]["curve"]):
        assert theirs == pytest.approx(ours, rel=32 * 6e-8 * step), step
    ours = checkpoints.load_tensors(tmp_path / "alone" / "digits.safetensors")[0]
    theirs = checkpoints.load_tensors(tmp_path / "digits.safetensors")[0]
    worst = max((ours[key] - theirs[key]).abs().max().item() for key in ours)
    assert worst < 1e-5
    assert "batch of 15 does not divide by 2 processes" in ranks[0]["message"]


# ---- the parts ---------------------------------------------------------------------------------
def test_the_average_of_a_ramp_of_weights_is_its_closed_form():
    """w_k = k at update k: after n updates from 0 with a fixed d the average is n - c (1 - d^n)."""
    model, average = torch.nn.Linear(1, 1).double(), torch.nn.Linear(1, 1).double()
    for p in average.parameters():
        torch.nn.init.zeros_(p)
    ema, n, late = EMA(0.9), 30, 10**6  # late: the warm-up is over
    for k in range(1, n + 1):
        for p in model.parameters():
            torch.nn.init.constant_(p, k)
        ema.update(average, model, late)
    expected = n - 0.9 / 0.1 * (1 - 0.9**n)
    assert average.weight.item() == pytest.approx(expected, rel=1e-12)


def test_a_warm_average_is_that_of_torch():
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    gen = generator(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ours, ema, late = deepcopy(model), EMA(0.9), 10**6
    theirs.update_parameters(model)  # its first update is a copy
    for _ in range(5):
        for value in (*model.parameters(), model[1].running_mean):
            value.data.copy_(torch.randn(value.shape, generator=gen, dtype=torch.float64))
        ema.update(ours, model, late)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, rtol=1e-12, atol=0), name


def test_the_warm_up_of_the_average_forgets_the_start_as_a_product():
    """prod (1 + k)/(10 + k), k < n, telescopes to n! 9!/(n + 9)!."""
    model, average = (torch.nn.BatchNorm1d(1).double() for _ in range(2))
    model.weight.data.fill_(1.0)
    average.weight.data.fill_(0.0)
    model.running_mean.fill_(7.0)
    model.num_batches_tracked.fill_(3)
    ema, n = EMA(0.9999), 20
    for k in range(n):
        ema.update(average, model, k)
    left = math.factorial(n) * math.factorial(9) / math.factorial(n + 9)
    assert 1 - average.weight.item() == pytest.approx(left, rel=1e-6)
    assert average.running_mean.item() == 7 and average.num_batches_tracked.item() == 3
    with pytest.raises(ValueError, match=r"\[0, 1\); got 1"):
        EMA(1.0)


def test_the_learning_rate_rises_stays_and_falls():
    recipe = TINY.but(lr=2.0, warmup=10, decay=0.5)
    rate = [learning_rate(recipe, k, 100) for k in range(100)]
    assert rate[0] == 0.2 and rate[4] == 1.0 and rate[9] == 2.0
    assert all(r == 2.0 for r in rate[9:51])
    assert rate[75] == pytest.approx(1.0) and rate[99] == pytest.approx(2 / 50)


def test_every_epoch_shows_every_picture_once_in_a_new_order():
    n, batch = 103, 16  # an epoch ends inside a batch
    seen = torch.cat([tasks.indices(n, batch, 5, k) for k in range(20)])
    first, second = seen[:n], seen[n : 2 * n]
    assert torch.equal(first.sort().values, torch.arange(n))
    assert torch.equal(second.sort().values, torch.arange(n))
    assert not torch.equal(first, second)
    large = tasks.indices(5, 12, 0, 0)  # a batch of more than two epochs
    assert torch.bincount(large).min() >= 2


@pytest.mark.parametrize("recipe", [TINY, JUDGE], ids=["diffusion", "classifier"])
def test_a_batch_depends_on_its_number_alone(recipe):
    digits = data.load("digits")
    task = tasks.find(recipe.task)(recipe, digits)
    expected = task.draw(70)
    tasks._order.cache_clear()
    torch.manual_seed(3)
    for k in (0, 69, 200):
        task.draw(k)
    same(task.draw(70), expected)
    for name, ours in task.draw(71).items():  # pictures, times, noise, labels
        assert not torch.equal(ours, expected[name]), name


def test_labels_are_dropped_at_the_rate_of_the_recipe():
    digits = data.load("digits")
    recipe = TINY.but(batch=64)
    task = tasks.Diffusion(recipe, digits)
    labels = torch.cat([task.draw(k)["label"] for k in range(150)])
    share = (labels == 10).double().mean().item()
    assert share == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / len(labels)) ** 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, ">= 1"),
        ({"report_every": 0}, ">= 1"),
        ({"preview_every": 0, "out": "x"}, ">= 1"),
        ({"preview_every": 2}, "previews need a folder"),
    ],
)
def test_impossible_sizes_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        curve(TINY, **options)


# ---- what people see ---------------------------------------------------------------------------
def test_previews_change_nothing_and_cost_nothing_that_is_counted(tmp_path, monkeypatch):
    from PIL import Image

    plain = curve(TINY, out=tmp_path / "plain", steps=8)
    with_pictures = curve(TINY, out=tmp_path, steps=8, preview_every=4)
    assert with_pictures == plain
    same(state_of(TINY, tmp_path)[0], state_of(TINY, tmp_path / "plain")[0])
    for step in (4, 8):
        with Image.open(tmp_path / f"digits.preview_{step}.png") as picture:
            assert picture.size[0] > 10 * 8 and picture.size[1] > 4 * 8  # 40 digits, ten in a row

    def dear(*_, **__):
        end = time.process_time() + 1.0
        while time.process_time() < end:
            pass

    monkeypatch.setattr(pictures, "save_grid", dear)
    begin = time.process_time()
    last = list(train(TINY, out=tmp_path / "dear", steps=4, preview_every=2))[-1]
    assert time.process_time() - begin > 2 and last.cpu_seconds < time.process_time() - begin - 2
    with pytest.raises(ValueError, match="only a model that draws pictures"):
        curve(JUDGE, out=tmp_path, preview_every=2)


def test_the_bar_knows_its_length_from_the_start(tmp_path, capfd):
    model = fit(TINY, out=tmp_path, stop_at=6, report_every=3)
    assert isinstance(model, Denoiser) and not model.training
    shown = capfd.readouterr().err
    assert "0/12" in shown and "6/12" in shown and "<" in shown
    fit(TINY, out=tmp_path, resume=True, report_every=3)
    shown = capfd.readouterr().err
    assert "6/12" in shown.split("\r")[1] and "12/12" in shown
    fit(TINY, steps=2, bar=False)
    assert capfd.readouterr().err == ""


def test_what_cannot_be_done_is_said_before_a_bar_is_drawn(tmp_path, capfd):
    for options in ({"resume": True}, {"steps": 0}, {"preview_every": 0}):
        with pytest.raises((CheckpointError, ValueError)):
            fit(TINY, out=tmp_path, **options)
    with pytest.raises(CheckpointError, match="no saved state"):
        train(TINY, out=tmp_path, resume=True)  # the call itself, no step taken
    assert capfd.readouterr().err == ""


# ---- the optimum -------------------------------------------------------------------------------
class Affine(Denoiser):
    """eps_hat = a_i x_t + b_i at each time i/T of a grid: all that Gaussian data asks for."""

    def __init__(self, schedule):
        super().__init__(schedule)
        self.table = torch.zeros(schedule.T, 2, dtype=torch.float64)

    def forward(self, x_t, t):
        alpha, sigma = self.levels(t, x_t)
        a, b = self.table[(t * self.schedule.T).round().long() - 1].unbind(1)
        return Prediction(x_t, alpha, sigma, a[:, None] * x_t + b[:, None], "eps")


def test_no_weighting_moves_the_optimum_of_a_free_model():
    """x_0 ~ N(m, s^2): eps_hat = sigma (x_t - alpha m)/(alpha^2 s^2 + sigma^2), whatever w is.

    The expectation is exact (three Gauss-Hermite nodes integrate polynomials up to degree 5), and
    the loss is quadratic, so one Newton step from anywhere is the optimum. The gradient of each
    time is w times that of the simple loss.
    """
    m, s, T = 0.7, 0.5, 6
    schedule = schedules.linear(T)
    nodes, mass = torch.tensor([-(3**0.5), 0.0, 3**0.5]).double(), torch.tensor([1, 4, 1]) / 6
    i, x, e = (
        g.reshape(-1)
        for g in torch.meshgrid(
            torch.arange(1, T + 1), torch.arange(3), torch.arange(3), indexing="ij"
        )
    )
    x0, eps, t = (m + s * nodes[x])[:, None], nodes[e][:, None], i.double() / T
    alpha, sigma = schedule.alpha_sigma(torch.arange(1, T + 1).double() / T)
    a = sigma / (alpha**2 * s**2 + sigma**2)
    expected = torch.stack([a, -a * alpha * m], dim=1)
    gradients = {}
    for name in WEIGHTS:
        model = Affine(schedule)
        loss = DiffusionLoss(model, Weighting(name))

        def total(table, model=model, loss=loss):
            model.table = table.reshape(T, 2)
            return (mass[x] * mass[e] * loss(x0, t, eps)).sum()

        start = torch.full((2 * T,), 0.3, dtype=torch.float64)
        slope = torch.autograd.functional.jacobian(total, start)
        curvature = torch.autograd.functional.hessian(total, start)
        found = start - torch.linalg.solve(curvature, slope)
        torch.testing.assert_close(found.reshape(T, 2), expected, rtol=1e-8, atol=1e-8)
        gradients[name] = slope.reshape(T, 2)
        times = torch.arange(1, T + 1).double() / T
        w = Weighting(name).on("eps", schedule, times)
        torch.testing.assert_close(gradients[name], w[:, None] * gradients["simple"])


@pytest.fixture(scope="module")
def mixture():
    """Three unequal clumps in the plane, 20,000 draws of them, and 20,000 fresh ones."""
    gm = GaussianMixture(
        [0.5, 0.3, 0.2],
        [[1.0, 0.0], [-0.8, 0.9], [-0.5, -1.0]],
        [[[0.02, 0.01], [0.01, 0.05]], [[0.04, 0.0], [0.0, 0.01]], [[0.09, 0.0], [0.0, 0.09]]],
    )
    x, fresh = (gm.sample(20_000, generator(seed)).float() for seed in (0, 1))
    labels = torch.zeros(len(x), dtype=torch.int64)
    points = Dataset(x, labels, ("all",), "clumps", "train", "", 256, x.std().item())
    return gm, points, fresh


def losses(recipe, model, gm, fresh):
    """Mean loss of a model and of the exact denoiser on the same fresh draws (the Bayes loss)."""
    gen = generator(11)
    eps = torch.randn(fresh.shape, generator=gen)
    t = draw_times(model.schedule, len(fresh), gen, lam_range=recipe.lam_range, **recipe.times)
    weighting = Weighting(recipe.weighting["name"])
    with torch.no_grad():
        return tuple(
            DiffusionLoss(d, weighting)(fresh, t, eps).mean().item()
            for d in (model, gm.denoiser(model.schedule))
        )


@pytest.mark.slow
def test_a_network_reaches_the_bayes_loss_of_the_exact_denoiser(mixture):
    """Nobody can be below it; 1,500 steps of a small MLP end within 5% above it."""
    gm, points, fresh = mixture
    recipe = POINTS.but(steps=1500)
    start, bayes = losses(recipe, training.build(recipe, points), gm, fresh)
    model = fit(recipe, data=points, bar=False)
    found, _ = losses(recipe, model, gm, fresh)
    assert start > 1.5 * bayes  # eps_hat = 0: the loss is 1
    assert bayes < found < 1.05 * bayes


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weighting_trains_through_the_same_loop(name, mixture):
    gm, points, fresh = mixture
    recipe = POINTS.but(weighting={"name": name}, steps=150)
    before, bayes = losses(recipe, training.build(recipe, points), gm, fresh)
    after, _ = losses(recipe, fit(recipe, data=points, bar=False), gm, fresh)
    assert bayes < after
    assert after - bayes < 0.5 * (before - bayes)


def test_the_finished_model_is_the_average(tmp_path):
    """What is saved as the model, and what is shown on the way, are the averaged weights."""
    recipe = TINY.but(ema=0.9)
    *_, last = train(recipe, out=tmp_path, **OFTEN)
    state, _ = state_of(recipe, tmp_path)
    model, _ = checkpoints.load_tensors(tmp_path / f"{recipe.name}.safetensors")
    same(model, {k.removeprefix("ema.net."): v for k, v in state.items() if k.startswith("ema.")})
    same(model, dict(last.model.net.state_dict()))
    raw = {k.removeprefix("w.net."): v for k, v in state.items() if k.startswith("w.")}
    assert max((raw[k] - model[k]).abs().max().item() for k in model) > 1e-4


def test_a_training_on_a_grid_knows_the_lambdas_it_has_seen():
    """From 1/T to 1 on the schedule's own grid; none is recorded where the last one is infinite."""
    digits = data.load("digits")
    recipe = TINY.but(
        schedule={"name": "linear", "T": 200}, times={"law": "grid"}, kind="eps", lam_range=None
    )
    model = training.build(recipe, digits)
    ends = [model.schedule.lam(t) for t in (1.0, 1 / 200)]
    assert model.lam_range == pytest.approx(ends, abs=1e-4)
    model(digits.x[:2], torch.tensor([1 / 200, 1.0]), label=digits.labels[:2])  # both may be asked
    smooth = recipe.but(schedule={"name": "cosine"}, times={"law": "uniform"}, kind="v")
    assert training.build(smooth, digits).lam_range is None


def test_what_a_kill_left_of_a_file_is_cleared_away_on_resume(tmp_path):
    curve(TINY, out=tmp_path, stop_at=3)
    left = tmp_path / f".{TINY.name}.state.safetensors.0badcafe.tmp"
    left.write_bytes(b"half a st")
    other = tmp_path / ".another.state.safetensors.0badcafe.tmp"
    other.write_bytes(b"of another training, perhaps under way")
    curve(TINY, out=tmp_path, resume=True)
    assert not left.exists() and other.exists()
