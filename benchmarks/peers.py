"""What lesson 03 shows of `diffusion-lab bench peers`: its rows, kept with the data.

diffusion-lab bench peers     # about an hour of one core; resumes where it was stopped
python benchmarks/peers.py    # writes data/measured/peers.json from benchmarks/results.json
"""

from __future__ import annotations

from diffusion_lab import metrics
from diffusion_lab.course.bench import folder, measured
from diffusion_lab.course.bench.peers import BUDGETS, CONTESTANTS, PICTURES
from diffusion_lab.course.bench.results import Results
from diffusion_lab.data import load

RESULT = "measured/peers.json"
COMMAND = "diffusion-lab bench peers; python benchmarks/peers.py"
KEPT = {
    "NFE": "nfe",
    "parameters": "parameters",
    "steps": "steps",
    "batch": "batch",
    "core-s for 1,000 pictures": "seconds",
}


def main() -> None:
    rows = {row.case: row for row in Results(folder()).rows if row.benchmark == "peers"}
    budget, runs = BUDGETS[0], {}
    for name in CONTESTANTS:
        own = [row for case, row in rows.items() if case.startswith(f"{budget:g} core-s, {name}, ")]
        if not own:
            raise SystemExit(
                f"no row of {name!r} in {folder()}: run diffusion-lab bench peers first"
            )
        details = {short: own[0].details[long] for long, short in KEPT.items()}
        runs[name] = {"fd": [round(row.value, 2) for row in own]} | details
    floor = metrics.fd(load("fashion", "test").x[-PICTURES:]) / metrics.anchor().value
    result = {
        "command": COMMAND,
        "unit": "A",
        "pictures": PICTURES,
        "budget": budget,
        "floor": round(floor, 3),
        "runs": runs,
    }
    measured.write(RESULT, result, COMMAND)


if __name__ == "__main__":
    main()
