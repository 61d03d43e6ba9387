"""The files that travel with the course: where they are, and that they are the right ones.

In a checkout they lie in ``data/`` at the root of the repository, in an installed wheel in
``diffusion_lab/_data``. ``index.json`` there lists every file with its sha256, size, licence,
source and the command that rebuilds it; a file that differs from it is never used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusion_lab.errors import DataError, did_you_mean
from diffusion_lab.files import sha256, write_atomically

__all__ = ["folder", "index", "path", "register"]

_PACKAGED = Path(__file__).resolve().parents[1] / "_data"
_CHECKOUT = Path(__file__).resolve().parents[2] / "data"
_REQUIRED = ("licence", "source", "recipe")
_verified: set[tuple[str, int, int, str]] = set()  # path, size, time of change, sha256


def folder() -> Path:
    """The folder of the embedded files: inside the installed package, else beside it."""
    for candidate in (_PACKAGED, _CHECKOUT):
        if (candidate / "index.json").is_file():
            return candidate
    raise DataError(
        f"the course's data is not there: no index.json in {_PACKAGED} or {_CHECKOUT}. "
        f"{_remedy(_CHECKOUT, '')}"
    )


def index() -> dict[str, dict[str, Any]]:
    """``index.json``: name -> sha256, bytes, licence, source, recipe (and what else was noted)."""
    return _read(folder())


def path(name: str) -> Path:
    """The embedded file ``name`` ("fashion.npz", "checkpoints/NAME.safetensors"), verified.

    The sha256 is compared once per process and again only if the file has changed. DataError for a
    file that is not listed, missing or damaged.
    """
    root = folder()
    listed = _read(root)
    file = root / name
    if name not in listed:
        raise DataError(_unlisted(name, file, listed))
    if not file.is_file():
        raise DataError(f"the embedded file {file} is missing. {_remedy(root, name)}")
    status, expected = file.stat(), listed[name]["sha256"]
    key = (str(file), status.st_size, status.st_mtime_ns, expected)
    if key not in _verified:
        found = sha256(file)
        if found != expected:
            raise DataError(
                f"the embedded file {file} is damaged or was changed: sha256 {found[:12]}..., "
                f"index.json says {expected[:12]}... ({listed[name]['bytes']} bytes; it has "
                f"{status.st_size}). {_remedy(root, name)}"
            )
        _verified.add(key)
    return file


def register(file: str | Path, **info: Any) -> dict[str, Any]:
    """Enter a file of the data folder in ``index.json`` (for the scripts that make such files).

    ``info`` must hold ``licence``, ``source`` and ``recipe`` (the exact command that rebuilds the
    file); anything else that JSON can hold may be added. sha256 and size are taken from the file.
    Returns the entry. ``file`` is a path, or a name relative to the data folder.
    """
    root = folder()
    file = root / file  # an absolute path stays as it is
    if not file.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{file} lies outside the data folder {root}: only files in it are listed")
    missing = [key for key in _REQUIRED if not info.get(key)]
    if missing:
        raise ValueError(f"register({file.name!r}) needs {', '.join(missing)} (non-empty text)")
    if not file.is_file():
        raise DataError(f"{file} does not exist: write the file first, then register it")
    entry = {"sha256": sha256(file), "bytes": file.stat().st_size, **info}
    listed = _read(root)
    listed[file.resolve().relative_to(root.resolve()).as_posix()] = entry
    text = json.dumps(listed, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(root / "index.json", text.encode())
    return entry


def _read(root: Path) -> dict[str, dict[str, Any]]:
    try:
        listed = json.loads((root / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"cannot read {root / 'index.json'}: {error}."
        raise DataError(f"{what} {_remedy(root, 'index.json')}") from error
    entries = listed.values() if isinstance(listed, dict) else (listed,)
    if not all(isinstance(entry, dict) and {"sha256", "bytes"} <= set(entry) for entry in entries):
        what = f"{root / 'index.json'} must hold name -> {{sha256, bytes, ...}}."
        raise DataError(f"{what} {_remedy(root, 'index.json')}")
    return listed


def _unlisted(name: str, file: Path, listed: dict[str, Any]) -> str:
    hint = did_you_mean(name, listed)
    if file.is_file():
        hint += " The file is there: its recipe should enter it with data.store.register(...)."
    return f"{name!r} is not listed in data/index.json.{hint} " + (
        f"Listed: {', '.join(sorted(listed)) or 'nothing'}."
    )


def _remedy(root: Path, name: str) -> str:
    if root == _PACKAGED:
        return "Install the package again: pip install --force-reinstall --no-deps diffusion-lab."
    target = f"data/{name}" if name else "data"
    return f"Get it back with: git checkout -- {target} (in the repository), or clone again."
