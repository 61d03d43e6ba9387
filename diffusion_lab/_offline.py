"""A block on the network, to prove that the course needs none once it is installed.

Set ``DIFFUSION_LAB_OFFLINE=1`` and every process that imports ``diffusion_lab`` (a script, a test,
a notebook's kernel, a rank of ``torchrun``) refuses connections that would leave this machine.
Loopback addresses and Unix sockets stay open: kernels and ranks talk through them.

It covers Python's own sockets, not those that a compiled library opens by itself.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

__all__ = ["OfflineError", "install"]

_LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost"}
_real: dict[str, Any] = {}


class OfflineError(ConnectionError):
    """A connection that would leave this machine, refused because of DIFFUSION_LAB_OFFLINE."""


def _is_local(host: object) -> bool:
    """Whether a host (None, a name or an address, str or bytes) is this machine's loopback."""
    if host is None:
        return True
    name = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
    name = name.lower().rstrip(".")
    # The machine's own name is looked up by torchrun and Jupyter; only loopback can be reached.
    if name in _LOCAL_NAMES or name == socket.gethostname().lower():
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or address.is_unspecified


def _refuse(what: str, host: object) -> OfflineError:
    return OfflineError(
        f"{what} {host!r} refused: DIFFUSION_LAB_OFFLINE is set, and only this machine may be "
        "reached. Unset the variable if you mean to use the network."
    )


def _check_address(sock: socket.socket, address: object) -> None:
    internet = sock.family in (socket.AF_INET, socket.AF_INET6)
    if internet and isinstance(address, tuple) and address and not _is_local(address[0]):
        raise _refuse("connection to", address[0])


def _connect(self: socket.socket, address: Any) -> None:
    _check_address(self, address)
    return _real["connect"](self, address)


def _connect_ex(self: socket.socket, address: Any) -> int:
    _check_address(self, address)
    return _real["connect_ex"](self, address)


def _sendto(self: socket.socket, data: Any, *rest: Any) -> int:
    _check_address(self, rest[-1])
    return _real["sendto"](self, data, *rest)


def _lookup(name: str) -> Any:
    real = _real[name]

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_local(host):
            raise _refuse("look-up of", host)
        return real(host, *args, **kwargs)

    lookup.__name__ = name
    return lookup


def install() -> None:
    """Refuse, from now on and in this process, what would leave the machine. Safe to call twice."""
    if _real:
        return
    for method, blocked in {
        "connect": _connect,
        "connect_ex": _connect_ex,
        "sendto": _sendto,
    }.items():
        _real[method] = getattr(socket.socket, method)
        setattr(socket.socket, method, blocked)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        _real[name] = getattr(socket, name)
        setattr(socket, name, _lookup(name))
