"""The network block bites in this process, in a script, in a notebook's kernel and in ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.request

import nbformat
import pytest
from nbclient import NotebookClient

from diffusion_lab._offline import OfflineError

# 192.0.2.0/24 and 2001:db8::/32 are reserved for documentation: nobody answers there.
TRY = """
import socket
import diffusion_lab
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    "address", [("192.0.2.1", 80), ("example.org", 443), ("2001:db8::1", 80), ("8.8.8.8", 53)]
)
def test_connections_that_leave_the_machine_are_refused(address):
    with pytest.raises(OfflineError, match=rf"{address[0]}.*DIFFUSION_LAB_OFFLINE"):
        socket.create_connection(address, timeout=1)


def test_names_are_not_looked_up():
    for look_up in (socket.gethostbyname, socket.gethostbyname_ex):
        with pytest.raises(OfflineError, match="look-up of 'example.org'"):
            look_up("example.org")


def test_datagrams_are_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(OfflineError):
            sock.sendto(b"x", ("192.0.2.1", 9))
        with pytest.raises(OfflineError):
            sock.sendto(b"x", 0, ("192.0.2.1", 9))
        with pytest.raises(OfflineError):
            sock.connect_ex(("192.0.2.1", 9))


def test_libraries_see_a_missing_network_at_once():
    with pytest.raises(OSError, match="DIFFUSION_LAB_OFFLINE"):
        urllib.request.urlopen("https://example.org", timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", b"127.0.0.1"])
def test_loopback_stays_open(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"))
        answer.start()
        with socket.create_connection((host, port), timeout=5) as sock:
            assert sock.recv(5) == b"hello"
        answer.join()


def test_unix_sockets_stay_open():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"hello")
        assert other.recv(5) == b"hello"


def test_it_bites_in_a_script():
    done = subprocess.run([sys.executable, "-c", TRY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OfflineError"


def test_without_the_variable_the_package_leaves_sockets_alone():
    look = (
        "import socket; real = socket.socket.connect, socket.getaddrinfo\n"
        "import diffusion_lab, sys\n"
        "assert (socket.socket.connect, socket.getaddrinfo) == real\n"
        "assert 'diffusion_lab._offline' not in sys.modules"
    )
    for value in (None, "0"):
        environment = {k: v for k, v in os.environ.items() if k != "DIFFUSION_LAB_OFFLINE"}
        if value is not None:
            environment["DIFFUSION_LAB_OFFLINE"] = value
        subprocess.run([sys.executable, "-c", look], env=environment, check=True)


def test_it_bites_in_a_notebook_kernel(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(TRY)])
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    assert notebook.cells[0].outputs[0]["text"].strip() == "OfflineError"


@pytest.mark.slow
def test_it_bites_in_ranks_and_they_still_find_each_other(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(
        TRY.replace("print(type(error).__name__)", "caught = type(error).__name__")
        + "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.ones(())\n"
        "dist.all_reduce(total)\n"
        # One file for each rank: two processes' lines can mix in one stream.
        "open(f'rank{dist.get_rank()}.txt', 'w').write(f'{caught} {int(total)}')\n"
        "dist.destroy_process_group()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + [str(script)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert (tmp_path / f"rank{rank}.txt").read_text() == "OfflineError 2"
