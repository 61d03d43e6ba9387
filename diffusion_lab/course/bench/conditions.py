"""The conditions of a measurement: one thread, and sizes that can be measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

__all__ = ["check_budgets", "check_pictures", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside, on as many as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check_budgets(budgets: Sequence[float]) -> None:
    """ValueError unless there are budgets of a training, all above 0."""
    if not budgets or not all(0 < budget < math.inf for budget in budgets):
        raise ValueError(f"budgets are CPU seconds > 0; got {list(budgets)}")


def check_pictures(n: int | None) -> None:
    """ValueError for so few pictures that they have no distance; None stands for a default."""
    if n is not None and n < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 pictures; got n={n}")
