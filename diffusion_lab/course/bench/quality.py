"""Time to quality: a budget of CPU seconds, from untrained weights to pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from diffusion_lab import metrics
from diffusion_lab.course.bench.conditions import check_budgets, check_pictures, one_thread
from diffusion_lab.course.bench.results import Row, recorded
from diffusion_lab.course.bench.shipped import draw
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.training import recipes, train
from diffusion_lab.training.recipes import Recipe

__all__ = ["BUDGETS", "GOALS", "run", "stored", "train_within"]

BUDGETS = (108, 216, 540)
GOALS = {  # in units of A, at 5,000 pictures
    (108, "guided"): 1.4,
    (216, "guided"): 0.7,
    (540, "guided"): 0.3,
    (108, "conditional"): 2.9,
    (216, "conditional"): 1.6,
    (540, "conditional"): 0.9,
    (108, "unconditional"): 4.6,
}
PICTURES = 5000


def train_within(recipe: Recipe, budget: float, pilot: int = 60) -> tuple[NetDenoiser, int, float]:
    """Train for ``budget`` CPU seconds; returns (model, steps, CPU seconds that it took).

    The learning rate must know the number of steps beforehand, so seconds a step are measured
    first, over ``pilot`` steps. Where a quarter of the training shows that they were wrong by more
    than 4%, it starts again with what it has learnt.
    """
    pace = _pace(recipe, pilot)
    for trial in range(5):
        steps = max(int(0.98 * budget / pace), 1)
        begin = time.process_time()
        for p in train(recipe.but(steps=steps), report_every=max(steps // 8, 1)):
            took = time.process_time() - begin
            late = abs(took / p.share / (0.98 * budget) - 1) > 0.04
            if trial < 4 and late and 0.2 < p.share < 0.4:
                pace = took / p.step
                break
        else:
            return p.model, steps, took
    raise AssertionError("unreachable: the last trial is never broken off")


def _pace(recipe: Recipe, steps: int) -> float:
    """CPU seconds of a step, over ``steps`` steps after a third as many."""
    warm = max(steps // 3, 1)
    reports = [p.cpu_seconds for p in train(recipe.but(steps=4 * warm), report_every=warm)]
    return (reports[-1] - reports[0]) / (3 * warm)


def run(
    *,
    quick: bool = False,
    budgets: Sequence[float] = BUDGETS,
    seeds: Sequence[int] = (0, 1, 2),
    n: int | None = None,
    done: Sequence[str] = (),
) -> Iterator[Row]:
    """FD in units of A after each budget, a training for each seed; cases in ``done`` are skipped.

    With classes, one training is read twice: with the recipe's guidance, and without. Without
    classes only the smallest budget is trained.
    """
    check_budgets(budgets)
    check_pictures(n)
    budgets, seeds = ((2,), (0,)) if quick else (budgets, seeds)
    n = n or (100 if quick else PICTURES)
    with one_thread():
        for seed in seeds:
            for budget in budgets:
                yield from _one(budget, seed, n, True, done, quick)
                if budget == min(budgets):
                    yield from _one(budget, seed, n, False, done, quick)


def _one(
    budget: float, seed: int, n: int, conditional: bool, done: Sequence[str], quick: bool
) -> Iterator[Row]:
    recipe = recipes.get("fashion-1min").but(seed=seed, conditional=conditional)
    sampler = {key: value for key, value in recipe.sampler.items() if key != "scale"}
    scale = recipe.sampler.get("scale", 2.0)
    ways = {"guided": {"scale": scale}, "conditional": {}} if conditional else {"unconditional": {}}
    size = "" if n == PICTURES else f", {n} pictures"
    cases = {way: f"{budget:g} core-s, {way}{size}, seed {seed}" for way in ways}
    if all(case in done for case in cases.values()):
        return
    model, steps, took = train_within(recipe, budget, 3 if quick else 60)
    anchor = metrics.anchor().value
    for way, how in ways.items():
        x, cost = draw(model, n, sampler | how, seed=1000 + seed)
        fd = metrics.fd(x)
        details = {
            "FD": round(fd, 4),
            "A": round(anchor, 4),
            "pictures": n,
            "core-s": round(took, 1),
            "steps": steps,
            "batch": recipe.batch,
            "NFE": cost.nfe,
            "parameters": cost.parameters,
            "core-s for 1,000 pictures": round(cost.cpu_seconds_per_1000, 1),
            **how,
        }
        goal = GOALS.get((budget, way)) if n == PICTURES else None
        command = "diffusion-lab bench quality"
        command += "" if quick else f" --budgets {budget:g} --seeds {seed}"
        command += "" if quick or n == PICTURES else f" --n {n}"
        yield Row(
            "quality",
            cases[way],
            round(fd / anchor, 4),
            "A",
            command,
            goal,
            details=details,
            quick=quick,
        )


def stored() -> list[Row]:
    """The rows that the repository or the installed package carries, at 5,000 pictures."""
    return [row for row in recorded("quality") if row.details["pictures"] == PICTURES]
