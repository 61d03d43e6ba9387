"""Model and data cards say what headers, index and data say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusion_lab import checkpoints, data
from diffusion_lab.course import cards
from diffusion_lab.data import store

DATA = Path(__file__).resolve().parent.parent / "data"


@pytest.mark.parametrize("name", checkpoints.shipped())
def test_the_card_is_of_the_file_that_is_there(name):
    stale = "python -m diffusion_lab.course.cards writes it again"
    assert (DATA / "checkpoints" / f"{name}.md").read_text() == cards.card(name), stale


def test_every_model_has_a_card_and_every_card_a_model():
    found = sorted(path.stem for path in (DATA / "checkpoints").glob("*.md"))
    assert found == checkpoints.shipped()
    listed = re.findall(r"\]\(checkpoints/(.+?)\.md\)", (DATA / "README.md").read_text())
    assert listed == found


@pytest.mark.parametrize("name", checkpoints.shipped())
def test_a_card_says_what_the_header_says(name):
    """A template writes nothing for a name that is not there, so every value is looked for."""
    card, about = cards.card(name), checkpoints.info(name)
    recipe, found = about["recipe"], about["metrics"]
    parameters, steps, n = about["parameters"], recipe["steps"], about["data"]["n"]
    seconds, threads = about["cpu_seconds"], about["threads"]
    said = [
        f"{parameters:,} parameters",
        f"{n:,} pictures",
        about["data"]["hash"],
        store.index()[f"checkpoints/{name}.safetensors"]["sha256"],
        f"| {steps:,} of {recipe['batch']} pictures, seed {recipe['seed']} |",
        f"| {seconds:,} core-seconds |",
        f"| {about['machine']}, {threads} thread(s) |",
        about["command"],
        f"Measured on {found['machine']}.",
    ]
    if recipe["task"] == "classifier":
        said += [f"**N = {found['test_pictures']:,}**", f"{100 * found['test_accuracy']:.2f}%"]
        said += [f"{100 * found['majority']:.2f}%"] if "majority" in found else []
    elif "captions" in found:
        for way in ("captions", "names", "rare"):
            keys = ("n", "text_recall_1", "text_recall_10", "chance_10", "text_precision_5")
            keys += ("image_precision_5", "pixel_precision_5", "chance_category")
            said.append(" | ".join(str(found[way][key]) for key in keys))
        said += [" | ".join(map(str, found["noise"].values())), "hidden from it"]
        low = checkpoints.load(name, device="cpu").lam_range[0]
        said.append(f"from {low} to 5.0" if low < 5 else "noisy ones it refuses")
    elif "reconstruction" in found:
        for part, row in found["reconstruction"].items():
            said.append(f"| {part} | {row['n']:.0f} | {row['l1']} | {row['psnr']} |")
        ways = [f"{found['rfd']}, or {found['rfd_in_A']} A"] if "rfd" in found else []
        said += ways or [f"{name} {r}" for name, r in found["r"].items() if name != "skull"][:1]
    elif "steps" in found:
        said += [f"**N = {found['pictures']:,}**", f"{found['fd']}, or {found['fd_in_A']} A"]
        said += [str(found[key]) for key in ("rmse_own", "rmse_other") if key in found]
    elif "held_out" in found:
        said += [f"**N = {found['pictures']:,.0f}**", f"{found['fd']}, or {found['fd_in_A']} A"]
        for part in ("train", "held_out"):
            row = found[part]
            said.append(f"| {row['judged']} ± {row['judged_error']} | {row['real_judged']} |")
            said.append(f"| {row['chosen']} ± {row['chosen_error']} | {row['real_chosen']} |")
    elif "drawn" in found:
        said += [f"**N = {found['pictures']:,.0f}**", f"({found['nfe']:.0f} evaluations"]
        for way in ("mean", "drawn"):
            row = [found[way][key] for key in ("mse", "fd", "fd_in_A", "consistency")]
            said.append(" | ".join(map(str, row)))
    elif "r_ventricle" in found:
        said.append(f"| {found['r_skull']} | {found['r_ventricle']} | {found['r_rotation']} |")
        said.append(f"| {found['r_mixed']} | {found['mse']} |")
    else:
        model = checkpoints.load_denoiser(name, device="cpu")
        low, high = model.lam_range
        said += [f"{low} to {high}", f"**N = {found['pictures']:,}**", f"{found['anchor_A']}."]
        said += [f"`{recipe['schedule']['name']}`", f"`{model.kind}`"]
        for way in {"plain", "unguided", "guided"} & found.keys():
            row = [found[way][key] for key in ("fd", "fd_in_A", "nfe", "core_seconds_per_1000")]
            said.append(" | ".join(map(str, row)))
    assert not [one for one in said if one not in card]
    assert not re.search(
        r"\|\s*\|\s*$|None|Undefined|\{\{", card.split("# ", 1)[1].replace("| | |", "")
    )


def test_a_card_changes_with_its_header(monkeypatch):
    model = checkpoints.load("digits", device="cpu")
    model.about["metrics"]["unguided"]["fd"], model.about["recipe"]["seed"] = 0.4242, 17
    monkeypatch.setattr(checkpoints, "load", lambda name, device: model)
    before, after = (DATA / "checkpoints" / "digits.md").read_text(), cards.card("digits")
    assert "| 0.4242 |" in after and "seed 17" in after and after != before
    model.about |= {"interim": True, "step": 1234, "metrics": {}}
    after = cards.card("digits")
    assert "after step 1,234 of a training" in after and "Not measured." in after


def test_data_cards_say_what_the_index_and_the_data_say():
    for file in ("fashion.npz", "emoji.npz", "emoji.json"):
        card, entry = (DATA / f"{file.split('.')[0]}.md").read_text(), store.index()[file]
        assert f"{entry['bytes']:,} bytes, sha256 `{entry['sha256']}`" in card
        assert entry["recipe"] in card and entry["licence"].split(" (licenses")[0] in card
    for name in data.SPLITS:
        card = (DATA / f"{name}.md").read_text()
        parts = [data.load(name, split) for split in data.SPLITS[name]]
        channels, height, width = parts[0].x.shape[1:]
        told = {1: "one channel, {} grey levels", 3: "three channels, {} levels"}[channels]
        assert f"| {height} x {width}, {told.format(parts[0].levels)}" in card
        assert all(f"{len(part):,}" in card for part in parts)
        assert f"[`{name}`]({name}.md)" in (DATA / "README.md").read_text()
        for path in re.findall(r"\]\(((?!http)[^)]+)\)", card):
            assert (DATA / path).is_file(), path
