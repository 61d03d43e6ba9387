"""What a benchmark measured for a lesson: a JSON file in ``data/measured``, entered in the index.

``write`` replaces a file, ``add`` one part of a file whose parts are measured one by one. The
lessons read them through ``store.path``.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from diffusion_lab.data import store
from diffusion_lab.files import write_atomically

__all__ = ["add", "write"]


def write(name: str, result: dict[str, Any], command: str) -> None:
    """Write ``result`` to ``name`` in the data folder; ``command`` is what measures it again."""
    file = store.folder() / name
    write_atomically(file, (json.dumps(result, indent=1) + "\n").encode())
    store.register(name, licence="CC BY 4.0", source="measured by the course", recipe=command)
    print(f"written: {file.relative_to(store.folder().parent)}", flush=True)


def add(
    name: str, part: str, found: dict[str, Any], command: str, *, into: bool = False, **known: Any
) -> None:
    """Put ``found`` under ``parts`` as ``part``, beside the other parts of the file.

    With ``into`` it is put into what the part held before. ``known`` is said of the whole file.
    """
    file = store.folder() / name
    result = json.loads(file.read_text()) if file.is_file() else {"parts": {}}
    before = result["parts"].get(part, {}) if into else {}
    machine = f"torch {torch.__version__}, 1 thread, cpu"
    result |= {"command": command, **known, "machine": machine}
    result["parts"][part] = before | found
    write(name, result, command)
