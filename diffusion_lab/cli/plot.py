"""The command ``plot``: the loss of one training or more, from their logs, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffusion_lab.cli.base import Subparsers, add, writable

__all__ = ["plot_command"]


def _plot(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab plot runs/fashion.log.csv
    diffusion-lab plot runs/digits.log.csv more/digits.log.csv --scale log
    """
    import numpy as np

    from diffusion_lab.course import plots
    from diffusion_lab.files import write_atomically

    out = writable(given.out, ".png", "--out")
    fig, ax = plots.axes(size=(6.4, 4.0))
    for name in given.logs:
        try:
            log = np.genfromtxt(name, delimiter=",", names=True, usecols=("step", "loss"), ndmin=1)
            if not log.size:
                raise ValueError("no line")
            ax.plot(*(log[x] for x in log.dtype.names), label=name, markevery=len(log) // 8 or 1)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{name} is no log of a training, or holds no step yet") from error
    ax.set(xlabel="optimiser step", ylabel="loss, mean since the last report", yscale=given.scale)
    ax.legend()
    write_atomically(out, plots.png(fig))
    print(out)
    return 0


def plot_command(commands: Subparsers) -> None:
    """Add ``plot``."""
    parser = add(
        commands,
        "plot",
        _plot,
        "Draw the loss of a training from its log, also while it runs, or of several in one.",
    )
    parser.add_argument(
        "logs", nargs="+", type=Path, metavar="LOG", help="NAME.log.csv of a training"
    )
    parser.add_argument("--out", default="loss.png", metavar="PNG", help="the picture (loss.png)")
    parser.add_argument("--scale", default="linear", choices=["linear", "log"], help="of the loss")
