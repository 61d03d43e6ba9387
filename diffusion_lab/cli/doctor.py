"""The command ``doctor``: what is installed, what it runs on and where things lie."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import distributions
from pathlib import Path

from diffusion_lab.cli.base import Subparsers, add, add_json, laid_out

__all__ = ["doctor_command"]

PACKAGES = (
    "torch torchvision numpy accelerate matplotlib ipywidgets jupyterlab nbclient tensorboard"
)


def _asked(question: object) -> str:
    """The answer, or what is wrong with it."""
    try:
        return str(question())
    except (ValueError, OSError) as error:
        return f"wrong: {error}"


def _doctor(given: argparse.Namespace) -> int:
    """Examples:

    diffusion-lab doctor
    diffusion-lab doctor --json
    """
    import torch

    import diffusion_lab
    from diffusion_lab import device
    from diffusion_lab.about import VERSION
    from diffusion_lab.course import lessons
    from diffusion_lab.data import default_root, store

    def data() -> str:
        names = [store.path(name).name for name in store.index()]
        return f"{store.folder()}: {len(names)} files, all as they were shipped"

    installed = {one.name: one.version for one in distributions()}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
    gpu += ", mps" if torch.backends.mps.is_available() else ", no mps"
    found = {
        "diffusion_lab": f"{VERSION} in {Path(diffusion_lab.__file__).parent}",
        "Python": f"{platform.python_version()} on {platform.platform()}",
        **{name: installed.get(name, "not installed") for name in PACKAGES.split()},
        "device": _asked(lambda: f"{device.device()} ({gpu})"),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "level": _asked(lambda: f"{lessons.level()} of {', '.join(lessons.LEVELS)}"),
        "lessons": _asked(lambda: f"{lessons.folder()}: {len(lessons.ready())} ready"),
        "data": _asked(data),
        "whole data sets": str(default_root()) + ("" if default_root().is_dir() else " (none yet)"),
        "network": "refused" if os.environ.get("DIFFUSION_LAB_OFFLINE") == "1" else "allowed",
    }
    print(json.dumps(found, indent=2) if given.json else laid_out(list(found.items())))
    return int(any(answer.startswith("wrong: ") for answer in found.values()))


def doctor_command(commands: Subparsers) -> None:
    """Add ``doctor``."""
    summary = (
        "Print versions, device, threads and where things lie; status 1 if something is wrong."
    )
    add_json(add(commands, "doctor", _doctor, summary))
