"""Where random numbers come from, and where tensors live."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from diffusion_lab.device import device, first_process, generator, randn


def test_seeds_of_several_numbers_do_not_meet():
    """Order, length and leading zeros all count: each pair of these draws other numbers."""
    seeds = [(1, 2), (2, 1), (3,), (0, 3), (3, 0), (1, 2, 0), (0, 1, 2), (12,), (1, 1), (0, 2)]
    first = [torch.randint(2**62, (2,), generator=generator(*s)).tolist() for s in seeds]
    assert all(a != b for a, b in itertools.combinations(first, 2))
    again = torch.randint(2**62, (2,), generator=generator(1, 2)).tolist()
    assert again == first[0]


def test_one_number_is_the_seed_itself():
    mine, theirs = torch.Generator().manual_seed(7), generator(7)
    assert torch.equal(torch.randn(5, generator=mine), torch.randn(5, generator=theirs))
    with pytest.raises(ValueError, match="at least one seed"):
        generator()


def test_noise_follows_another_tensor_and_is_drawn_in_single_precision():
    like = torch.zeros(2, dtype=torch.float64)
    drawn = randn((4,), generator(0), like)
    assert drawn.dtype == torch.float64
    assert torch.equal(drawn, randn((4,), generator(0)).double())


def test_the_variable_chooses_the_device(monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_DEVICE", "meta")
    assert device().type == "meta"
    monkeypatch.setenv("DIFFUSION_LAB_DEVICE", "")  # empty is as if it were not there
    assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_mps_is_taken_where_it_is_asked_for_and_there(monkeypatch):
    """Never by itself: it has no float64, in which the times of a training are."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("DIFFUSION_LAB_DEVICE", raising=False)
    assert device().type == "cpu"
    monkeypatch.setenv("DIFFUSION_LAB_DEVICE", "mps")
    assert device().type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="DIFFUSION_LAB_DEVICE is 'mps', which torch has not got"):
        device()


def test_a_device_that_a_person_names_is_one_to_compute_on(monkeypatch):
    monkeypatch.setenv("DIFFUSION_LAB_DEVICE", "meta")
    assert device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device("cuda:0").index == 0
    for name, why in (
        ("cuda:1", "--device is 'cuda:1': torch sees 1 CUDA devices"),
        ("meta", "--device 'meta' is not supported: cpu, cuda or mps"),
        ("cpuu", "--device names no device: 'cpuu'"),
    ):
        with pytest.raises(ValueError, match=why):
            device(name, "--device")


def test_of_several_processes_the_first_one_talks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert first_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, talks in (("0", True), ("1", False)):  # as torchrun sets it
        monkeypatch.setenv("RANK", rank)
        assert first_process() == talks


CODE = """
import sys, torch
{before}
from diffusion_lab.device import generator, randn
from diffusion_lab.nets import MLP
from diffusion_lab.schedules import linear
from diffusion_lab.samplers import ddpm
from diffusion_lab.exact import Gaussian
from diffusion_lab.objectives import draw_times
from diffusion_lab.walk import gaussian
S = linear(1000)
like = torch.zeros(2, 2, dtype=torch.float32, device="cpu")
drawn = [randn((2, 2), generator(0)), gaussian(generator(1))(0, like),
         S.prior(2, (3,), generator(2)), draw_times(S, 3, generator(3), law="grid"),
         draw_times(S, 3, generator(4), law="uniform"),
         draw_times(S, 3, generator(5), law="lognormal")]
assert all(d.device.type == "cpu" for d in drawn), [d.device for d in drawn]
print([(str(d.dtype), d.double().flatten().tolist()) for d in drawn])
"""


@pytest.mark.parametrize(
    "before", ["torch.set_default_dtype(torch.float64)", 'torch.set_default_device("meta")']
)
def test_torchs_defaults_change_nothing_that_is_drawn(before):
    def run(code):
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run(CODE.format(before=before)) == run(CODE.format(before=""))


def test_the_plain_network_is_found_in_its_wrappings():
    from diffusion_lab.device import unwrapped

    net = torch.nn.Linear(1, 1)
    assert unwrapped(net) is net
    compiled = torch.compile(net, backend="eager")
    for wrapped in (compiled, torch.nn.DataParallel(net), torch.nn.DataParallel(compiled)):
        assert unwrapped(wrapped) is net


def test_a_rank_left_in_the_environment_silences_nobody(monkeypatch):
    from diffusion_lab.device import first_process, processes

    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (processes(), first_process()) == (1, True)
    monkeypatch.setenv("RANK", "1")
    assert first_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes() == 2 and not first_process()
    for wrong in ("two", "0", "-1", ""):
        monkeypatch.setenv("WORLD_SIZE", wrong)
        with pytest.raises(ValueError, match="WORLD_SIZE.*whole number >= 1"):
            processes()


def test_draws_are_of_float32_whatever_torchs_default_is():
    from diffusion_lab.data import toys
    from diffusion_lab.device import generator, randn

    before = randn((5,), generator(0)), toys.load_toy("moons").sample(9, generator(0))
    torch.set_default_dtype(torch.float64)
    try:
        after = randn((5,), generator(0)), toys.load_toy("moons").sample(9, generator(0))
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(after, before):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs)
