"""What every test run needs: no network, one thread a process, the fast tests first.

The settings are environment variables, set before anything imports torch, so that the processes
which tests start (scripts, notebook kernels, the ranks of torchrun) inherit them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONGEST = "test_course_rerun.py"

os.environ.update(
    DIFFUSION_LAB_OFFLINE="1",  # diffusion_lab/_offline.py: loopback only
    HF_HUB_OFFLINE="1",
    GLOO_SOCKET_IFNAME="lo0" if sys.platform == "darwin" else "lo",
    MATPLOTLIBRC=str(ROOT / "tests" / "matplotlibrc"),  # MPLBACKEND would silence kernels
    OMP_NUM_THREADS="1",  # sums depend on the number of threads
    MKL_NUM_THREADS="1",
    JUPYTER_PREFER_ENV_PATH="1",
    PYTHONHASHSEED="0",
)
os.environ.pop("COLUMNS", None)  # tables would be as narrow as the terminal of who runs the tests

import diffusion_lab  # noqa: E402, F401  (after the variables: this import seals the process)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict | None]]:
    """What figures and widgets would show in a notebook: (bundle, metadata) of each."""
    from diffusion_lab.course import showing, widgets

    seen: list[tuple[dict, dict | None]] = []
    for module in (showing, widgets):
        monkeypatch.setattr(
            module, "display", lambda bundle, metadata=None: seen.append((bundle, metadata))
        )
    return seen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast first: a file with slow tests runs after the files without, its fast tests first.

    But for the longest file: one of two workers takes it at once, so that both end together.
    """
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        slow = bool(item.get_closest_marker("slow"))
        return item.path.name != LONGEST, item.path in slow_files, slow

    items.sort(key=place)
