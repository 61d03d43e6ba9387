"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from diffusion_lab.files import sha256, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_the_bytes_and_makes_the_folders(tmp_path):
    target = tmp_path / "a" / "b" / "file.bin"
    write_atomically(target, b"one")
    assert target.read_bytes() == b"one"
    write_atomically(target, b"")
    assert target.read_bytes() == b""
    assert names(target.parent) == ["file.bin"]


def test_the_file_has_the_usual_rights_not_those_of_a_temporary_file(tmp_path):
    write_atomically(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="modes and pipes of posix")
def test_the_old_file_keeps_its_rights(tmp_path):
    target = tmp_path / "private"
    target.write_bytes(b"old")
    for mode in (0o600, 0o640, 0o755):
        target.chmod(mode)
        write_atomically(target, b"new")
        assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.skipif(os.name != "posix", reason="modes and pipes of posix")
def test_what_is_no_file_or_read_only_is_not_replaced(tmp_path):
    (tmp_path / "device").symlink_to(os.devnull)
    os.mkfifo(tmp_path / "pipe")
    for name in ("device", "pipe"):
        with pytest.raises(OSError, match="is a device, a pipe or a socket, not a file"):
            write_atomically(tmp_path / name, b"x")
    assert not Path(os.devnull).is_file() and (tmp_path / "pipe").is_fifo()
    (tmp_path / "kept").write_bytes(b"old")
    (tmp_path / "kept").chmod(0o400)
    with pytest.raises(PermissionError, match=r"kept is read-only: choose another name"):
        write_atomically(tmp_path / "kept", b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"
    assert names(tmp_path) == ["device", "kept", "pipe"]


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data[:3])))
    write_atomically(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def full(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_after_half(write):
    def half_then_full(handle, data):
        if len(data) < 1_500_000:
            full()
        return write(handle, bytes(data[:1_000_000]))

    return half_then_full


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where):
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, where, full_after_half(os.write) if where == "write" else full)
    with pytest.raises(OSError, match=r"weights\.bin") as caught:
        write_atomically(target, bytes(2_345_678))
    assert caught.value.errno == errno.ENOSPC
    text = str(caught.value)
    assert "2.3 MB needed" in text
    assert "No space left" in text
    assert "free some space" in text
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["weights.bin"]


def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"data")
    assert names(tmp_path) == []


def test_no_permission_stays_a_permission_error(tmp_path, monkeypatch):
    def refuse(*_args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="a folder you may write to"):
        write_atomically(tmp_path / "file", b"data")


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "plain").write_bytes(b"x")
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        write_atomically(tmp_path / "plain" / "file", b"data")


def test_a_folder_where_the_file_should_be(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="choose another name"):
        write_atomically(tmp_path / "taken", b"data")
    assert names(tmp_path) == ["taken"]


def test_sha256_of_bytes_and_of_the_file_that_holds_them(tmp_path):
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180, "abc"
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(b"abc") == sha256(tmp_path / "file") == sha256(str(tmp_path / "file")) == known
