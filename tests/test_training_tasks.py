"""Tasks: two models and two optimisers resume, average and divide as one does; what a state holds.

The toy GAN of ``gan.py`` stands for every task that a family brings along.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import gan
import pytest
import torch
from gan import Gan
from torch import nn

from diffusion_lab import checkpoints, data, nets, training
from diffusion_lab.data import Dataset
from diffusion_lab.errors import CheckpointError
from diffusion_lab.training import Recipe, learning_rate, loop, recipes, tasks, train
from diffusion_lab.training import resume as states

GAN, POINTS = gan.RECIPE, gan.points()
OFTEN = {"report_every": 5, "save_every": 3}
TINY = recipes.get("digits").but(
    net={"name": "unet", "patch": 1, "widths": (8, 16), "emb": 16}, steps=12, batch=16, warmup=3
)


def curve(recipe=GAN, **options):
    if recipe is GAN or recipe.name == "gan":
        options = {"data": POINTS, "task": Gan} | options
    return [(p.step, p.losses) for p in train(recipe, **(OFTEN | options))]


def state(folder, recipe=GAN):
    return checkpoints.load_tensors(states.state_file(recipe, folder))


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def final(folder, name="gan"):
    return checkpoints.load_tensors(folder / f"{name}.safetensors")[0]


# ---- two models, two optimisers ------------------------------------------------------------------
def test_the_loop_is_the_two_steps_written_out():
    """Six steps by hand: clear, backward, step, for each loss in turn, then the average."""
    recipe = GAN.but(steps=6, warmup=1, decay=1.0, ema=0.5)
    *_, last = train(recipe, data=POINTS, task=Gan)
    job = Gan(recipe, POINTS)
    average = copy.deepcopy(job.models).eval().requires_grad_(False)
    optimisers = job.optimisers()
    for step in range(6):
        losses = job.losses(average, **job.draw(step))
        for optimiser in optimisers:
            job.models.zero_grad()
            next(losses).backward()
            optimiser.step()
        loop.EMA(0.5).update(average, job.models, step)
    same(dict(last.model.state_dict()), dict(average.state_dict()))
    assert isinstance(last.model, nn.ModuleDict) and set(last.model) == {"maker", "critic"}


def test_a_resumed_training_of_two_models_equals_an_uninterrupted_one(tmp_path):
    whole = curve(out=tmp_path / "whole")
    first = curve(out=tmp_path / "parts", stop_at=7)
    second = curve(out=tmp_path / "parts", resume=True)
    assert [pair for pair in first if pair[0] % 5 == 0] + second == whole
    (ours, head), (theirs, other) = state(tmp_path / "parts"), state(tmp_path / "whole")
    same(ours, theirs)
    assert head | {"cpu_seconds": 0} == other | {"cpu_seconds": 0}
    kinds = {key.split(".")[0] for key in ours}
    assert kinds == {"w", "ema", "adam0", "adam1"}
    assert {key.split(".")[2] for key in ours if key.startswith("adam1")} == {"momentum_buffer"}
    same(final(tmp_path / "parts"), final(tmp_path / "whole"))
    assert "rates" in str(head["recipe"]["options"]) and head["task"].endswith("gan:Gan")


def test_several_models_come_back_as_a_dictionary_of_them(tmp_path):
    *_, last = train(GAN, data=POINTS, task=Gan, out=tmp_path)
    models = checkpoints.load(tmp_path / "gan.safetensors", device="cpu")
    assert isinstance(models, nn.ModuleDict) and set(models) == {"maker", "critic"}
    same(dict(models.state_dict()), dict(last.model.state_dict()))
    assert models["critic"].spec() == nets.make(**GAN.net, dim=2, out_dim=1).spec()
    about = models.about
    assert about["parameters"] == sum(p.numel() for p in models.parameters())
    assert about["command"].startswith("no command makes it again: the data ('ring') were given")
    assert "the task, gan:Gan, was given in Python" in about["command"]
    with pytest.raises(CheckpointError, match="is a moduledict, not a denoiser"):
        checkpoints.load_denoiser(tmp_path / "gan.safetensors")
    tensors, head = checkpoints.load_tensors(tmp_path / "gan.safetensors")
    checkpoints.save_tensors(tmp_path / "more.safetensors", tensors | {"x.w": POINTS.x}, head)
    with pytest.raises(CheckpointError, match="holds weights of no model"):
        checkpoints.load(tmp_path / "more.safetensors")


def test_each_optimiser_follows_the_schedule_from_its_own_rate(monkeypatch):
    jobs = []

    class Watched(Gan):
        def optimisers(self):
            jobs.append(super().optimisers())
            return jobs[-1]

        def draw(self, step):
            if step:
                rates.append([o.param_groups[0]["lr"] for o in jobs[-1]])
            return super().draw(step)

    rates = []
    curve(task=Watched)
    for step, (critic, maker) in enumerate(rates):
        share = learning_rate(GAN, step, 12) / GAN.lr
        assert (critic, maker) == pytest.approx((1e-3 * share, 2e-3 * share), rel=1e-12)
    assert len({critic for critic, _ in rates}) > 3  # it rises and falls


def test_the_second_loss_sees_the_step_of_the_first_and_what_is_not_of_the_batch_goes_whole():
    jobs = []

    def watched(recipe, points):
        jobs.append(Gan(recipe, points))
        return jobs[-1]

    for accumulate in (1, 4):
        list(
            train(
                GAN.but(accumulate=accumulate),
                data=POINTS,
                task=type(
                    "T",
                    (Gan,),
                    {
                        "__init__": lambda self, r, d: (
                            Gan.__init__(self, r, d),
                            jobs.append(self),
                        )[0]
                    },
                ),
            )
        )
        assert len(jobs[-1].seen) == 12 * accumulate
        assert {one[:2] for one in jobs[-1].seen} == {(32 // accumulate, 1)}
        assert not any(unmoved for *_, unmoved in jobs[-1].seen)


def test_a_batch_in_parts_is_the_same_step(tmp_path):
    """Means of equal parts: the gradients differ by rounding only, a few 1e-7 of their size."""
    whole, parts = curve(), curve(GAN.but(accumulate=4))
    for (step, ours), (_, theirs) in zip(whole, parts):
        assert theirs == pytest.approx(ours, rel=1e-5), step
    whole, parts = (
        curve(TINY, out=tmp_path / "a"),
        curve(TINY.but(accumulate=4), out=tmp_path / "b"),
    )
    for (step, ours), (_, theirs) in zip(whole, parts):
        assert theirs == pytest.approx(ours, rel=1e-5), step
    with pytest.raises(ValueError, match="batch of 16 does not divide by 1 processes x 3 parts"):
        train(TINY.but(accumulate=3))


def test_a_task_that_yields_another_number_of_losses_is_told():
    class Fewer(Gan):
        def losses(self, average, **batch):
            yield next(iter(super().losses(average, **batch)))

    class More(Gan):
        def losses(self, average, **batch):
            yield from super().losses(average, **batch)
            yield self.models["maker"].last.bias.sum()

    class Loose(Gan):
        def __init__(self, recipe, points):
            super().__init__(recipe, points)
            self.models = dict(self.models)

    for task, why in (
        (Fewer, "1 for 2 optimisers"),
        (More, "more than its 2"),
        (Loose, "got dict"),
    ):
        with pytest.raises(ValueError, match=why):
            curve(task=task)


def test_previews_and_the_best_are_the_tasks_own(tmp_path):
    from PIL import Image

    curve(out=tmp_path, preview_every=6, best_every=4)
    with Image.open(tmp_path / "gan.preview_6.png") as picture:
        assert picture.size == (32, 32)
    best = checkpoints.load(tmp_path / "gan.best.safetensors", device="cpu")
    job = Gan(GAN, POINTS)
    distance = job.distance(best)
    assert best.about["best"] == {"step": best.about["step"], "distance": pytest.approx(distance)}
    assert distance <= job.distance(checkpoints.load(tmp_path / "gan.safetensors", device="cpu"))
    one = checkpoints.info(tmp_path / "gan.safetensors")["best"]
    assert one == best.about["best"] == state(tmp_path)[1]["best"]

    class Blind(Gan):
        preview = distance = None

    with pytest.raises(ValueError, match="has previews: leave preview_every out"):
        curve(task=Blind, out=tmp_path, preview_every=2)
    with pytest.raises(ValueError, match=r"no distance is known .*'ring'.*leave best_every out"):
        curve(task=Blind, out=tmp_path, best_every=2)
    with pytest.raises(ValueError, match="no distance is known"):  # points have no features
        curve(
            recipes.get("digits").but(net={"name": "mlp"}, conditional=False),
            data=POINTS,
            out=tmp_path,
            best_every=2,
        )


def test_previews_and_the_best_do_not_see_the_callers_autocast(tmp_path):
    seen = []

    class Looks(Gan):
        def preview(self, average):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().preview(average)

        def distance(self, average):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().distance(average)

    with torch.autocast("cpu", torch.bfloat16):
        curve(task=Looks, out=tmp_path, preview_every=12, best_every=12)
    assert seen == [False, False]


def test_first_weights_move_no_generator_outside(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU reseeded"))
    before = torch.get_rng_state()
    with tasks.seeded(3):
        first = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with tasks.seeded(3):
        assert torch.equal(torch.rand(2), first)


def test_the_best_is_the_same_after_a_resume(tmp_path):
    curve(out=tmp_path / "whole", best_every=2)
    curve(out=tmp_path / "parts", best_every=2, stop_at=7)
    curve(out=tmp_path / "parts", best_every=2, resume=True)
    same(final(tmp_path / "parts", "gan.best"), final(tmp_path / "whole", "gan.best"))


@pytest.mark.slow
def test_a_killed_training_of_two_models_goes_on_as_if_nothing_had_happened(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(gan.__file__).parent.parent)}
    command = [sys.executable, gan.__file__]
    run = subprocess.Popen(
        [*command, tmp_path / "killed", "slow"], stdout=subprocess.PIPE, text=True, env=environment
    )
    for _ in range(20):
        run.stdout.readline()
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL, "it ended before it was killed"
    for words in ([tmp_path / "killed", "slow", "resume"], [tmp_path / "whole", "slow"]):
        subprocess.run([*command, *words], check=True, capture_output=True, env=environment)
    same(final(tmp_path / "killed"), final(tmp_path / "whole"))
    same(state(tmp_path / "killed")[0], state(tmp_path / "whole")[0])
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {
        "gan.log.csv",
        "gan.safetensors",
        "gan.state.safetensors",
    }


@pytest.mark.slow
def test_two_ranks_train_two_models_as_one_does(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(Path(gan.__file__).parent.parent)}
    run = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", gan.__file__, tmp_path / "two"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    ranks = [json.loads((tmp_path / "two" / f"rank{i}.json").read_text()) for i in range(2)]
    assert ranks[0] == ranks[1]
    alone = curve(out=tmp_path / "one", report_every=1)
    for (step, losses), row in zip(alone, ranks[0], strict=True):
        # sums of 32 terms in another order, and each step passes the difference on
        assert row == [step, *(pytest.approx(loss, rel=1e-6 * step) for loss in losses)]
    ours, theirs = final(tmp_path / "one"), final(tmp_path / "two")
    assert max((ours[k] - theirs[k]).abs().max().item() for k in ours) < 1e-5


# ---- the name of a task -------------------------------------------------------------------------
def test_a_task_is_found_by_its_name_in_this_package_alone():
    assert tasks.find("diffusion") is tasks.Diffusion
    assert tasks.find("diffusion_lab.training.tasks:Classification") is tasks.Classification
    written = TINY.but(task="diffusion_lab.training.tasks:Diffusion")
    assert curve(written) == curve(TINY)
    for name in ("os:system", "tests.gan:Gan", "diffusion_lab.training.tasks:Gone"):
        with pytest.raises(ValueError, match="task"):
            train(TINY.but(task=name))


# ---- conditions ---------------------------------------------------------------------------------
def told(**more):
    """Points with a label, a vector and a grid of numbers told of each."""
    n = 60
    extra = {"tokens": torch.arange(n * 3).reshape(n, 3), "low": torch.ones(n, 2, 2)}
    return Dataset(
        torch.randn(n, 2),
        torch.arange(n) % 3,
        ("a", "b", "c"),
        "told",
        "train",
        "",
        256,
        1.0,
        condition=extra,
        **more,
    )


def test_conditions_are_drawn_with_their_datum_and_dropped_each_at_its_rate():
    points = told(null={"tokens": torch.tensor([7, 7, 7])})
    assert list(points.condition) == ["label", "tokens", "low"]
    assert points.null["label"] == 3 and torch.equal(points.null["low"], torch.zeros(2, 2))
    recipe = Recipe(
        "told",
        "",
        net={"name": "mlp", "width": 8},
        batch=50,
        conditional=["label", "tokens"],
        null={"label": 0.5, "tokens": 0.2},
    )
    task = tasks.Diffusion(recipe, points)
    labels, tokens, rows = [], [], []
    for step in range(60):
        batch = task.draw(step)
        assert set(batch) == {"x0", "t", "eps", "label", "tokens"}
        rows.append((batch["x0"][:, None] == points.x).all(2).float().argmax(1))
        labels.append(batch["label"])
        tokens.append(batch["tokens"])
    labels, tokens, rows = map(torch.cat, (labels, tokens, rows))
    dropped = {"label": labels == 3, "tokens": (tokens == 7).all(1)}
    assert torch.equal(labels[~dropped["label"]], points.labels[rows][~dropped["label"]])
    kept = ~dropped["tokens"]
    assert torch.equal(tokens[kept], points.condition["tokens"][rows][kept])
    for name, share in recipe.null.items():
        spread = 4 * (share * (1 - share) / 3000) ** 0.5
        assert dropped[name].double().mean().item() == pytest.approx(share, abs=spread)
    both = (dropped["label"] & dropped["tokens"]).double().mean().item()
    assert both == pytest.approx(0.1, abs=4 * (0.09 / 3000) ** 0.5)  # each by itself
    with pytest.raises(ValueError, match="Did you mean 'tokens'"):
        tasks.Diffusion(recipe.but(conditional=["token"], null=0.1), points)
    with pytest.raises(ValueError, match="unknown condition in null 'low'"):
        tasks.Diffusion(recipe.but(null={"low": 0.1}), points)


def test_one_number_for_null_drops_labels_alone():
    recipe = Recipe("told", "", net={"name": "mlp", "width": 8}, batch=60, null=1.0)
    batch = tasks.Diffusion(recipe, told()).draw(0)
    assert (batch["label"] == 3).all() and (batch["tokens"].sum(1) > 0).all()
    assert "label" not in tasks.Diffusion(recipe.but(conditional=False), told()).draw(0)


def test_data_without_labels_need_a_recipe_without_conditions():
    digits = replace(data.load("digits"), labels=None, classes=())
    assert digits.condition == {} and digits.null == {}
    with pytest.raises(ValueError, match=r"no labels: recipe.but\(conditional=False\)"):
        train(TINY, data=digits)
    with pytest.raises(ValueError, match="trained on pictures with labels"):
        train(recipes.get("digits-features"), data=digits)
    assert len(curve(TINY.but(conditional=False, steps=2), data=digits)) == 1


# ---- precision ----------------------------------------------------------------------------------
def test_precision_is_the_recipes_and_nobody_elses(tmp_path, monkeypatch):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    plain = curve(TINY)
    try:
        Accelerator(mixed_precision="bf16", cpu=True)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
        assert curve(TINY) == plain
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert curve(TINY) == plain
    finally:
        AcceleratorState._reset_state(True)
    half = curve(TINY.but(precision="bf16"))
    assert half != plain
    for (_, (ours,)), (_, (theirs,)) in zip(half, plain):
        assert ours == pytest.approx(theirs, rel=2**-6)  # 8 bits of mantissa, averaged
    with pytest.raises(ValueError, match="Did you mean 'bf16'"):
        TINY.but(precision="bf61")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_training_in_half_precision_equals_an_uninterrupted_one(precision, tmp_path):
    recipe = TINY.but(precision=precision)
    whole = curve(recipe, out=tmp_path / "whole")
    curve(recipe, out=tmp_path / "parts", stop_at=6)
    assert curve(recipe, out=tmp_path / "parts", resume=True) == whole[1:]
    (ours, head), (theirs, _) = state(tmp_path / "parts", recipe), state(tmp_path / "whole", recipe)
    same(ours, theirs)
    assert {v.dtype for v in ours.values()} == {torch.float32}
    assert ("scaler" in head) == (precision == "fp16")
    with pytest.raises(CheckpointError, match="precision .* there, 'fp32' asked"):
        curve(TINY, out=tmp_path / "parts", resume=True)


def test_torchs_defaults_change_no_training():
    plain = curve(TINY)
    torch.set_default_dtype(torch.float64)
    try:
        assert curve(TINY) == plain
        assert {p.dtype for p in training.build(TINY, data.load("digits")).parameters()} == {
            torch.float32
        }
    finally:
        torch.set_default_dtype(torch.float32)


# ---- states of before, states of somebody else --------------------------------------------------
def test_a_state_of_before_goes_on_bit_for_bit(tmp_path):
    """The layout of 0.x: w.*, ema.*, adam.I.*, and a header without the fields that came since."""
    whole = curve(TINY, out=tmp_path / "whole")
    curve(TINY, out=tmp_path / "old", stop_at=7)
    tensors, head = state(tmp_path / "old", TINY)
    assert all(k.split(".")[0] in ("w", "ema", "adam") for k in tensors)
    assert "w.net.first.weight" in tensors and "adam.0.exp_avg_sq" in tensors
    old = {k: head[k] for k in ("steps", "step", "cpu_seconds", "counted")}
    old["total"] = head["total"][0]  # one loss was one number
    old["recipe"] = {
        k: v for k, v in head["recipe"].items() if k not in ("options", "precision", "accumulate")
    }
    assert old["recipe"]["task"] == "diffusion"
    checkpoints.save_tensors(states.state_file(TINY, tmp_path / "old"), tensors, old)
    assert curve(TINY, out=tmp_path / "old", resume=True) == whole[1:]
    same(state(tmp_path / "old", TINY)[0], state(tmp_path / "whole", TINY)[0])


def test_a_state_that_somebody_changed_is_refused(tmp_path):
    curve(TINY, out=tmp_path, stop_at=3)
    file = states.state_file(TINY, tmp_path)
    tensors, head = state(tmp_path, TINY)
    moment = next(k for k in tensors if k.endswith("exp_avg"))
    weight = "ema.net.first.weight"
    nan = tensors[weight].clone()
    nan[0] = float("nan")
    no_adam = {k: v for k, v in tensors.items() if not k.startswith("adam.")}
    for changed, why in (
        (tensors | {moment: torch.zeros(3)}, f"{moment} is float32 .3,. there"),  # was SIGSEGV
        (tensors | {moment: tensors[moment].double()}, "is float64"),
        (tensors | {weight: torch.zeros_like(nan, dtype=torch.int8)}, "is int8"),
        (tensors | {weight: nan}, f"{weight} holds nan or inf"),
        (tensors | {"adam.0.speed": torch.zeros(1)}, "it has no adam.0.speed"),
        (tensors | {"adam.900.exp_avg": torch.zeros(1)}, "it has no adam.900"),
        (no_adam, "adam.0 is missing"),
        ({k: v for k, v in tensors.items() if k != moment}, f"{moment} is missing"),
    ):
        checkpoints.save_tensors(file, changed, head)
        with pytest.raises(CheckpointError, match=why):
            curve(TINY, out=tmp_path, resume=True)
    for change in (
        {"step": -3},
        {"step": None},
        {"step": "3"},
        {"step": 3.5},
        {"step": 13},
        {"steps": None},
        {"cpu_seconds": "1"},
        {"cpu_seconds": None},
        {"counted": -1},
        {"total": ["x"]},
        {"recipe": 3},
    ):
        checkpoints.save_tensors(file, tensors, head | change)
        with pytest.raises(CheckpointError, match="is no state|another training"):
            curve(TINY, out=tmp_path, resume=True)
    for name, why in (("step", "it stands at step None"), ("cpu_seconds", "cpu_seconds is None")):
        checkpoints.save_tensors(file, tensors, {k: v for k, v in head.items() if k != name})
        with pytest.raises(CheckpointError, match=f"is no state: .*{why}"):
            curve(TINY, out=tmp_path, resume=True)
    checkpoints.save_tensors(file, tensors, head)
    curve(TINY, out=tmp_path, resume=True)


def test_a_state_of_other_data_is_refused(tmp_path):
    curve(TINY, out=tmp_path, stop_at=3)
    other = replace(data.load("digits"), hash="mine")
    with pytest.raises(CheckpointError, match="the data '.*' there, 'mine' asked"):
        curve(TINY, out=tmp_path, resume=True, data=other)
    curve(GAN, out=tmp_path, stop_at=3)
    with pytest.raises(CheckpointError, match="the task 'gan:Gan' there"):
        curve(GAN, out=tmp_path, resume=True, task=type("Other", (Gan,), {}))


def test_data_with_the_same_hash_and_other_numbers_are_refused(tmp_path):
    curve(TINY, out=tmp_path, stop_at=3)
    digits = data.load("digits")
    for change in (
        {"x": -digits.x},
        {"labels": 9 - digits.labels},
        {"condition": {"tokens": torch.zeros(1500, 2)}},
    ):
        with pytest.raises(CheckpointError, match="the numbers of the data"):
            curve(TINY, out=tmp_path, resume=True, data=replace(digits, **change))
    tensors, head = state(tmp_path, TINY)
    old = {k: v for k, v in head.items() if k != "content"}
    checkpoints.save_tensors(states.state_file(TINY, tmp_path), tensors, old)
    assert "content" in head and len(curve(TINY, out=tmp_path, resume=True, data=digits)) == 3
    assert "content" not in checkpoints.info(tmp_path / "digits.safetensors")


def test_a_state_of_the_recipes_task_is_not_of_ones_own_and_back(tmp_path):
    own = type("Own", (tasks.Diffusion,), {})
    curve(TINY, out=tmp_path, stop_at=3)
    with pytest.raises(CheckpointError, match="the task 'of the recipe' there, '.*:Own' asked"):
        curve(TINY, out=tmp_path, resume=True, task=own)
    curve(TINY, out=tmp_path, stop_at=3, task=own)
    with pytest.raises(CheckpointError, match="the task '.*:Own' there, 'of the recipe' asked"):
        curve(TINY, out=tmp_path, resume=True)


def test_a_task_may_be_a_partial_and_is_known_by_what_it_was_given(tmp_path):
    class Named(Gan):
        def __init__(self, recipe, points, how=1):
            super().__init__(recipe, points)

    curve(out=tmp_path, stop_at=3, task=partial(Named, how=2))
    assert state(tmp_path)[1]["task"].endswith("Named(how=2)")
    with pytest.raises(CheckpointError, match=r"Named\(how=2\)' there, .*Named\(how=3\)' asked"):
        curve(out=tmp_path, resume=True, task=partial(Named, how=3))
    curve(out=tmp_path, resume=True, task=partial(Named, how=2))
    with pytest.raises(ValueError, match="task is a class"):
        curve(task="diffusion")


def test_an_optimiser_without_moments_resumes(tmp_path):
    class Plain(Gan):
        def optimisers(self):
            critic, _ = super().optimisers()
            return [critic, torch.optim.SGD(self.models["maker"].parameters(), 1e-3)]

    class Alone(tasks.Diffusion):
        def optimisers(self):
            return [torch.optim.SGD(self.models.parameters(), 1e-3)]

    for recipe, task in ((GAN, Plain), (TINY, Alone)):
        whole = curve(recipe, task=task)
        curve(recipe, task=task, out=tmp_path, stop_at=5)
        assert curve(recipe, task=task, out=tmp_path, resume=True) == whole[1:]


# ---- longer, and from other weights -------------------------------------------------------------
def test_a_finished_training_goes_on_to_a_later_end(tmp_path, monkeypatch):
    curve(TINY, out=tmp_path, steps=6)
    asked, real = [], loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda r, k, n, lr: asked.append((k, n)) or real(r, k, n, lr)
    )
    curve(TINY, out=tmp_path, steps=12, resume=True)
    assert asked == [(k, 12) for k in range(6, 12)]
    about = checkpoints.info(tmp_path / "digits.safetensors")
    assert about["recipe"]["steps"] == 12 and about["stages"] == [[0, 6], [6, 12]]
    first, second = about["command"].split(" && ")
    assert first.startswith("diffusion-lab train digits --steps 6 --set")
    assert second == first.replace("--steps 6", "--steps 12") + " --resume"


def test_a_stopped_training_that_is_made_longer_says_that_no_command_does_it(tmp_path):
    curve(TINY, out=tmp_path, steps=6, stop_at=4)
    curve(TINY, out=tmp_path, steps=9, resume=True, stop_at=7)
    curve(TINY, out=tmp_path, steps=9, resume=True)
    about = checkpoints.info(tmp_path / "digits.safetensors")
    assert about["stages"] == [[0, 6], [4, 9]]
    assert "6 from step 0 on, 9 from step 4 on" in about["command"]
    assert about["command"].startswith("no command makes it again")
    with pytest.raises(CheckpointError, match=r"steps 9 there, 8 asked"):
        curve(TINY, out=tmp_path, steps=8, resume=True)


def test_training_starts_from_given_weights(tmp_path):
    curve(TINY, out=tmp_path / "a")
    file = tmp_path / "a" / "digits.safetensors"
    given = checkpoints.load(file, device="cpu")
    for init in (file, str(file), given):
        *_, last = train(TINY.but(lr=1e-30, steps=1), init=init)
        same(dict(last.model.state_dict()), dict(given.state_dict()))
    curve(TINY.but(steps=2), out=tmp_path / "b", init=file)
    about = checkpoints.info(tmp_path / "b" / "digits.safetensors")
    assert about["init"].startswith(f"{file} (sha256 ")
    assert f"--from {file} " in about["command"]
    curve(TINY.but(steps=2), out=tmp_path / "c", init=given)
    about = checkpoints.info(tmp_path / "c" / "digits.safetensors")
    assert "it began from a model given in Python" in about["command"]
    wide = TINY.but(net=TINY.net | {"widths": (16, 16)})
    for recipe, why in (
        (wide, r"down.0.blocks.0.conv1.bias is \(8,\) there and \(16,\) here"),
        (TINY.but(conditional=False), "level.classes.weight is .* there and missing here"),
        (TINY.but(kind="v"), "it predicts edm there and v here"),
    ):
        with pytest.raises(CheckpointError, match=why):
            train(recipe, init=file)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(TINY, init=tmp_path / "gone.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds models \['model'\], the recipe has \['maker'"
    ):
        curve(GAN, init=file)


# ---- two at once, and Ctrl-C --------------------------------------------------------------------
def test_one_training_of_a_name_in_a_folder_at_a_time(tmp_path):
    first = train(TINY, out=tmp_path, **OFTEN)
    next(first)
    script = (
        "import sys; from diffusion_lab.training import resume, recipes\n"
        "try: resume.Lock(recipes.get('digits'), sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert f"digits is being trained in {tmp_path} by process {os.getpid()}: wait" in said
    first.close()
    assert not (tmp_path / ".digits.lock").exists()
    (tmp_path / ".digits.lock").write_text("123")  # of a killed one
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == ""


def test_a_second_training_in_one_process_is_refused_and_no_others_lock_removed(tmp_path):
    first = train(TINY, out=tmp_path, **OFTEN)
    next(first)
    with pytest.raises(CheckpointError, match="is being trained in .* by this process"):
        train(TINY, out=tmp_path / ".." / tmp_path.name)
    assert [p.step for p in first] == [10, 12]
    for _ in range(2):  # one that nobody began holds nothing once it is gone
        train(TINY, out=tmp_path)
    lock = states.Lock(TINY, tmp_path)
    lock.release()
    lock.path.write_text("another's")
    lock.release()
    assert lock.path.read_text() == "another's"


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no open file, so it is done twice")
def test_a_lock_is_removed_once(tmp_path):
    lock = states.Lock(TINY, tmp_path)
    close = lock.file.close

    class Closed:
        closed = False

        def close(self):
            close()
            lock.path.write_text("another's")  # took it in between

    lock.file = Closed()
    lock.release()
    assert lock.path.read_text() == "another's"


def test_only_what_a_kill_leaves_is_cleared_away(tmp_path):
    left = [".digits.state.safetensors.0badcafe.tmp", ".digits.safetensors.00000000.tmp"]
    left += [".digits.log.csv.12345678.tmp"]
    notes = [".digits.my-notes.tmp", ".digits.state.safetensors.notes.tmp", ".digits.0badcafe.tmp"]
    for name in (*left, *notes):
        (tmp_path / name).write_text("")
    curve(TINY, out=tmp_path, steps=1)
    there = {p.name for p in tmp_path.iterdir()}
    assert not there & set(left) and set(notes) <= there


def test_ctrl_c_saves_the_last_whole_step(tmp_path):
    """Pressed in the middle of a step, between the two optimisers."""

    class Pressed(Gan):
        def losses(self, average, **batch):
            both = super().losses(average, **batch)
            yield next(both)
            if len(self.seen) == 6:
                signal.raise_signal(signal.SIGINT)
            yield next(both)

    whole = curve(out=tmp_path / "whole", save_every=100)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for p in train(GAN, data=POINTS, task=Pressed, out=tmp_path / "a", report_every=5):
            seen.append((p.step, p.losses))
    tensors, head = state(tmp_path / "a")
    assert head["step"] == 7 and seen == whole[:1]
    assert not (tmp_path / "a" / ".gan.lock").exists()
    checkpoints.save_tensors(
        states.state_file(GAN, tmp_path / "a"), tensors, head | {"task": "gan:Gan"}
    )
    assert curve(out=tmp_path / "a", resume=True, save_every=100) == whole[1:]
    same(final(tmp_path / "a"), final(tmp_path / "whole"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_outside_the_loop_is_heard_by_fit(tmp_path):
    def press(p):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(TINY, out=tmp_path, report_every=2, watch=press, bar=False)
    assert states.saved_step(TINY, tmp_path) == 2


def test_it_trains_in_a_thread_too():
    found = []
    thread = threading.Thread(target=lambda: found.extend(curve(TINY)))
    thread.start()
    thread.join()
    assert found == curve(TINY)


# ---- what is refused before the first step -------------------------------------------------------
def test_data_that_are_no_data_are_refused():
    digits = data.load("digits")
    for x, why in (
        ((digits.x + 1) * 127.5, r"in \[-1, 1\], and these go from 0 to 255: pixels"),
        (digits.x.masked_fill(digits.x > 0.9, float("nan")), "the data hold nan"),
    ):
        with pytest.raises(ValueError, match=why):
            train(TINY, data=replace(digits, x=x))
    latents = replace(digits, x=digits.x * 20, levels=None, std=digits.std * 20)
    assert len(curve(TINY.but(steps=1), data=latents)) == 1
    for change, why in (
        ({"x": digits.x.numpy()}, "x must be a tensor of floats; got ndarray"),
        ({"x": digits.x[:0], "labels": digits.labels[:0]}, "N of at least 1"),
        ({"x": digits.x[:, 0, 0, 0]}, r"\(N, C, H, W\) or \(N, D\)"),
        (
            {"labels": digits.labels[:9]},
            r"int64 of shape \(1500,\).*got torch.int64 of shape \(9,\)",
        ),
        ({"labels": ["3"] * 1500}, "got list"),
        ({"labels": digits.labels.float()}, "got torch.float32"),
        ({"labels": digits.labels + 1}, r"0..9; got 1..10"),
        ({"condition": {"tokens": torch.zeros(9)}}, r"'tokens' must be a tensor \(1500, ...\)"),
    ):
        with pytest.raises(ValueError, match=why):
            replace(digits, **change)


def test_pictures_from_0_to_1_are_warned_of_and_double_numbers_made_single():
    digits = data.load("digits")
    with pytest.warns(UserWarning, match="black is -1"):
        train(TINY, data=replace(digits, x=(digits.x + 1) / 2))
    assert curve(TINY.but(steps=2), data=replace(digits, x=digits.x.double())) == curve(
        TINY.but(steps=2), data=digits
    )


def test_a_sampler_that_cannot_be_is_found_before_the_training():
    for sampler, why in (
        ({"sampler": "dimm"}, "Did you mean 'ddim'"),
        ({"sampler": "ddim", "etta": 0.5}, "Did you mean 'eta'"),
        ({"sampler": "ddim", "spacing": "karas"}, "Did you mean 'karras'"),
        ({"steps": 0}, ">= 1"),
        ({"scale": "2"}, "."),
    ):
        with pytest.raises((ValueError, TypeError), match=why):
            train(TINY.but(sampler=sampler))
    for known in recipes.RECIPES.values():
        if known.task == "diffusion" and known.data == "digits":
            train(known)


@pytest.mark.parametrize("name", ["../../evil", "", "a/b", None, "a b", "a.b", 3])
def test_a_recipes_name_names_files(name):
    with pytest.raises(ValueError, match="names its files"):
        TINY.but(name=name)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lr": True}, "lr of a recipe"),
        ({"lr": "1e-3"}, "lr of a recipe"),
        ({"conditional": "no"}, "True, False or a list of names"),
        ({"conditional": [1]}, "True, False or a list of names"),
        ({"null": {"label": 2.0}}, "share from 0 to 1"),
        ({"null": True}, "share from 0 to 1"),
        ({"accumulate": 0}, "accumulate of a recipe"),
        ({"net": "unet"}, "net of a recipe needs 'name'"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_is_refused(change, why):
    with pytest.raises(ValueError, match=why):
        TINY.but(**change)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setenv("DIFFUSION_LAB_DEVICE", "cuda")
    with pytest.raises(ValueError, match="cannot be trained on the device 'cuda'"):
        train(TINY)
    monkeypatch.setenv("DIFFUSION_LAB_DEVICE", "meta")
    with pytest.raises(ValueError, match="cannot be trained on the device 'meta'"):
        train(TINY)
    monkeypatch.delenv("DIFFUSION_LAB_DEVICE")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE.*'two'"):
        train(TINY)


def test_what_cannot_be_saved_in_the_end_is_refused_before(tmp_path):
    class Mine(Gan):
        def __init__(self, recipe, points):
            super().__init__(recipe, points)
            self.models["critic"] = nn.Linear(2, 1)

    with pytest.raises(ValueError, match="Linear cannot say how it is made: build it by nets.make"):
        curve(task=Mine, out=tmp_path)
    for bad in ("",):
        with pytest.raises(ValueError, match="out names a folder"):
            curve(TINY, out=bad)
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        train(TINY, out=tmp_path / "taken")  # the call itself, no step taken


def test_load_or_train_trains_over_what_it_cannot_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(recipes.RECIPES, "digits", TINY.but(steps=2))
    for bad in (b"damaged", None):
        file = tmp_path / "digits.safetensors"
        if bad is None:  # a header without a recipe
            checkpoints.save_tensors(file, {}, {"net": {}})
        else:
            file.write_bytes(bad)
        training.load_or_train("digits", fresh=True, folder=tmp_path)
        assert "trained here, just now" in capsys.readouterr().out
    training.load_or_train("digits", fresh=True, folder=tmp_path)
    assert "loaded what was trained here before" in capsys.readouterr().out
    for bad in (None, b"damaged"):  # a state of other steps, and none
        curve(TINY.but(steps=3), out=tmp_path, stop_at=1)
        if bad is not None:
            states.state_file(TINY, tmp_path).write_bytes(bad)
        model = training.load_or_train("digits", fresh=True, folder=tmp_path, steps=1)
        assert model.about["recipe"]["steps"] == 1
        assert "so it begins again" in capsys.readouterr().out
        file.unlink()
    for steps in (0, True):
        with pytest.raises(ValueError, match="steps of a recipe"):
            training.load_or_train("digits", steps=steps)
    file.write_bytes(b"")
    monkeypatch.setenv("DIFFUSION_LAB_DATA", str(file))
    with pytest.raises(OSError, match="DIFFUSION_LAB_DATA"):
        training.load_or_train("digits", fresh=True)


# ---- the command in the header ------------------------------------------------------------------
def test_the_command_holds_every_changed_field(tmp_path):
    changes = {"batch": 8, "lr": 1e-3, "kind": "v", "conditional": False, "lam_range": (-3.0, 3.0)}
    curve(TINY.but(name="mine", steps=2, seed=4, sampler={}, **changes), out=tmp_path)
    command = checkpoints.info(tmp_path / "mine.safetensors")["command"]
    import argparse
    import shlex

    from diffusion_lab.cli import train as cli

    parser = argparse.ArgumentParser()
    cli.train_command(parser.add_subparsers())
    given = parser.parse_args(shlex.split(command)[1:])
    found = cli._recipe(given).but(steps=given.steps)
    assert json.loads(json.dumps(found.as_dict())) == json.loads(
        json.dumps(TINY.but(name="mine", steps=2, seed=4, sampler={}, **changes).as_dict())
    )


def test_data_given_in_python_are_in_no_command(tmp_path):
    digits = data.load("digits")
    curve(TINY.but(steps=1), out=tmp_path, data=digits)  # the recipe's own
    assert "diffusion-lab train" in checkpoints.info(tmp_path / "digits.safetensors")["command"]
    curve(TINY.but(steps=1), out=tmp_path, data=replace(digits, x=-digits.x))
    about = checkpoints.info(tmp_path / "digits.safetensors")
    assert about["command"] == (
        "no command makes it again: the data ('digits') were given in Python"
    )
