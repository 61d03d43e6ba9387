"""The loss of a training as it went: ``NAME.log.csv`` beside the model, and TensorBoard's file.

One line for each report: step, the mean loss since the line before (of several losses each, too),
the learning rate, the core-seconds so far and the time of day. A line is written before the state
of its step is saved, and a resumed training first drops the lines after the step that it goes on
from: so no step is there twice or missing, whenever the training was killed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffusion_lab.files import write_atomically
from diffusion_lab.training.recipes import Recipe

__all__ = ["Log"]


class Log:
    """Writes the lines of a training that begins after step ``start``; an older log stays until
    the first of them. ValueError where ``tensorboard`` is asked for and not installed.
    """

    def __init__(
        self, recipe: Recipe, out: str | Path, start: int, losses: int, tensorboard: bool = False
    ) -> None:
        self.path, self.start, self.last = Path(out) / f"{recipe.name}.log.csv", start, start
        each = [f"loss{i}" for i in range(losses)] if losses > 1 else []
        self.head = ",".join(["step", "loss", *each, "lr", "cpu_seconds", "time"]) + "\n"
        self.writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                words = f"pip install tensorboard, or leave it: the losses go to {self.path} too"
                raise ValueError(f"TensorBoard is not installed here: {words}") from error
            folder = Path(out) / f"{recipe.name}.tensorboard"
            self.writer = SummaryWriter(str(folder), purge_step=start + 1)

    def write(self, step: int, losses: Sequence[float], lr: float, cpu_seconds: float) -> None:
        """Add the line of a step; one that is there already is left as it is."""
        if step <= self.last:
            return
        numbers = [sum(losses), *(losses if len(losses) > 1 else []), lr]
        words = [str(step), *(f"{number:.6g}" for number in numbers), f"{cpu_seconds:.1f}"]
        line = ",".join([*words, datetime.now(UTC).isoformat(timespec="seconds")]) + "\n"
        if self.last == self.start:
            write_atomically(self.path, (self.head + self._kept() + line).encode())
        else:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(line)
        self.last = step
        if self.writer is not None:
            self.writer.add_scalar("loss", numbers[0], step)
            self.writer.add_scalar("lr", lr, step)
            self.writer.flush()

    def _kept(self) -> str:
        """The whole lines up to the step that the training goes on from."""
        text = self.path.read_text(errors="replace") if self.path.is_file() else ""
        whole = rf"^(\d+)((?:,[^,\n]*){{{self.head.count(',')}}}\n)"
        lines = re.findall(whole, text, re.MULTILINE)
        return "".join(step + rest for step, rest in lines if int(step) <= self.start)
