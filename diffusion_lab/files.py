"""Files are written whole or not at all, and known by their sha256."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["check_replaceable", "sha256", "write_atomically"]

_ADVICE = {
    errno.ENOSPC: "free some space or choose another folder, then run it again",
    errno.EDQUOT: "your disk quota is used up: delete something or choose another folder",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.EISDIR: "a folder of that name is in the way: choose another name",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another folder",
    errno.EEXIST: "a file stands where a folder is needed: choose another folder",
}


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and the file is
    then renamed. Parent folders are made; an old file's rights are kept. Where it fails (a full
    disk, no permission) the temporary file is removed, the old file stays, and the OSError says
    which file, how many MB are needed and what to do. It keeps the original ``errno``, so
    PermissionError stays PermissionError. What is no file, or read-only, is not replaced.
    """
    target = Path(os.path.realpath(path))  # a link stays a link, what it points to is replaced
    rights = check_replaceable(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_through(temporary, data)
        if rights is not None:
            os.chmod(temporary, rights)
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _explained(error, target, len(data)) from error
        raise
    _flush_folder(target.parent)


def check_replaceable(path: str | os.PathLike[str]) -> int | None:
    """The rights (mode bits) of the file at ``path``; None where there is none, or a folder.

    OSError where a device, pipe or socket is there, PermissionError where the file is read-only.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # not there, or not to be seen: writing will say why
        return None
    if stat.S_ISDIR(mode):
        return None
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is a device, a pipe or a socket, not a file: choose another name")
    if not mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only: choose another name")
    return stat.S_IMODE(mode)


def _write_through(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explained(error: OSError, path: Path, size: int) -> OSError:
    advice = _ADVICE.get(error.errno or 0, "see to that, or choose another folder, and try again")
    space = f"{size / 1e6:.1f} MB needed"
    with suppress(OSError):
        space += f", {shutil.disk_usage(path.parent).free / 1e6:.1f} MB free"
    reason = error.strerror or str(error) or type(error).__name__
    message = f"could not write {path} ({space}): {reason}. Nothing was half-written; {advice}."
    return OSError(error.errno, message) if error.errno else OSError(message)


def sha256(source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> str:
    """The sha256 of bytes, or of the file at a path, as 64 hexadecimal digits."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
