"""The command ``bench``: measures again what the benchmark report says."""

from __future__ import annotations

from diffusion_lab.cli_base import Subparsers


def bench_command(commands: Subparsers) -> None:
    """Add ``bench``."""
