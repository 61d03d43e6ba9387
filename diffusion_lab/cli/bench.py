"""The command ``bench``: measures again what the benchmark report says."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from diffusion_lab.cli.base import Subparsers, add, add_json

__all__ = ["bench_command"]


def _bench(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab bench overhead shipped
    diffusion-lab bench samplers --n 500 --out runs/race
    """
    from diffusion_lab.course import bench

    options = {
        name: value
        for name, value in (("budgets", given.budgets), ("seeds", given.seeds), ("n", given.n))
        if value is not None
    }
    names = given.names or list(bench.QUICK)
    if options and not {*bench.LONG, "all"} & set(names):
        long = " and ".join(bench.LONG)
        raise ValueError(f"--{next(iter(options))} belongs to the long benchmarks, {long}")
    out = Path(given.out).expanduser() if given.out else None if given.quick else bench.folder()
    # stdout is one JSON document with --json: rows are told on stderr as they come
    stream = sys.stderr if given.json else sys.stdout
    rows = bench.run(
        names,
        quick=given.quick,
        out=out,
        fresh=given.fresh,
        tell=lambda row: print(row, file=stream, flush=True),
        **options,
    )
    if given.json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    elif out is not None:
        print(out / "report.md")
    return 0


def bench_command(commands: Subparsers) -> None:
    """Add ``bench``."""
    parser = add(
        commands,
        "bench",
        _bench,
        "Measure again what the benchmark report says, and write the report.",
        epilog="Benchmarks: overhead, import, first-picture, shipped and scaling take some minutes "
        "together, costs (the running table of the lessons) only reads; these are run if none is "
        "named; quality and peers (beside other libraries: the peers extra) train for an hour or "
        "more, samplers (the solver race) draws for three quarters of one; these write each result "
        "down as it comes and go on where they were stopped; all is everything.",
    )
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help="which ones; see below")
    words = "only show that they run; writes nothing without --out"
    parser.add_argument("--quick", action="store_true", help=words)
    words = "of report.md and results.json (default: benchmarks)"
    parser.add_argument("--out", metavar="DIR", help=words)
    words = "of the long ones: measure again what was measured here"
    parser.add_argument("--fresh", action="store_true", help=words)
    words = "long ones: core-seconds (108 216 540; peers: 108)"
    parser.add_argument("--budgets", type=float, nargs="+", metavar="S", help=words)
    parser.add_argument("--seeds", type=int, nargs="+", help="long ones: a training each (0 1 2)")
    parser.add_argument("--n", type=int, help="long ones: pictures to compare (5000; peers: 500)")
    add_json(parser)
