"""What a picture costs: network evaluations, parameters, multiplications, seconds, energy.

    NFE       evaluations of a network for one picture: data seen by it / pictures
    pixel-NFE the same, each weighted by its pixels over the most that any of them had (cascades)
    FLOPs     2 for each multiply-add of convolutions, matrices and attention's two products
    latency   median seconds of one picture alone; throughput: pictures a second in a batch
    energy    joules = seconds x watts, or as counted by the machine (``metrics.energy``)

``meter`` measures all of it for anything that draws pictures, ``Meter`` counts around a block of
code, ``measure`` is the short form for one walk of one denoiser, and ``table`` sets rows of many
lessons side by side. Core-seconds (the process's CPU time) compare across a busy machine, wall
seconds do not.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab.denoisers import Denoiser, NetDenoiser
from diffusion_lab.errors import whole
from diffusion_lab.metrics.energy import Energy, PowerMeter

__all__ = [
    "Cost",
    "Meter",
    "Timing",
    "count_flops",
    "count_parameters",
    "flops_by_part",
    "measure",
    "meter",
    "table",
    "timing",
]


@dataclass(frozen=True)
class Cost:
    """The cost of some pictures. FLOPs count a multiply-add as two."""

    pictures: int
    nfe: float  # of one picture
    parameters: int
    flops: float  # for one picture, all evaluations
    cpu_seconds: float  # all cores together
    seconds: float  # wall clock
    device: str = "cpu"
    energy: Energy | None = None  # of all pictures, an estimate
    latency: float | None = None  # median seconds of a picture alone
    throughput: float | None = None  # pictures a second, median
    pixel_nfe: float | None = None  # NFE weighted by pixels, the largest size counting 1

    @property
    def cpu_seconds_per_1000(self) -> float:
        return 1000 * self.cpu_seconds / self.pictures

    @property
    def device_seconds(self) -> float:
        """Core-seconds on a CPU, seconds of the board elsewhere; for all pictures."""
        return self.cpu_seconds if self.device == "cpu" else self.seconds

    @property
    def seconds_per_picture(self) -> float:
        """Wall clock."""
        return self.seconds / self.pictures

    def row(self) -> dict[str, Any]:
        """Rounded values for a table: one decimal, two digits of what is less than 1."""
        return {
            "NFE": self.nfe,
            "parameters (M)": round(self.parameters / 1e6, 3),
            "MFLOP / picture": _tenths(self.flops / 1e6),
            "core-s / 1000": _tenths(self.cpu_seconds_per_1000),
        }

    def full_row(self) -> dict[str, Any]:
        """``row``, then time and energy; what was not measured is left out."""
        row = self.row() | {"device": self.device, "device-s": _short(self.device_seconds)}
        if self.latency is not None:
            row["latency (s)"] = _short(self.latency)
        if self.throughput is not None:
            row["pictures / s"] = _short(self.throughput)
        if self.energy is not None:
            row["J / picture (estimate)"] = _short(self.energy.joules / self.pictures)
            grams = 1e6 * self.energy.kg_co2 / self.pictures
            row["g CO2 / 1000 (estimate)"] = _short(grams)
        return row


def _tenths(value: float) -> float:
    """One decimal, or two digits where that would leave hardly any."""
    return round(value, 1) if abs(value) >= 1 else float(f"{value:.2g}")


def _short(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")


def count_parameters(module: nn.Module) -> int:
    """Number of trained numbers in a module."""
    return sum(p.numel() for p in module.parameters())


def count_flops(denoiser: Denoiser) -> float:
    """FLOPs of one call of the denoiser on one datum (attention's products counted)."""
    return float(_counted(denoiser)["Global"])


def flops_by_part(denoiser: NetDenoiser) -> dict[str, float]:
    """FLOPs of one call on one datum for each part of the network, as its layers are named.

    A part is a child of the network, or an entry of a list of layers ("down.0"). Parts without
    multiplications of matrices (norms, additions) count 0, as in ``count_flops``.
    """
    counts, net = _counted(denoiser), _bare(denoiser.net)
    parts = []
    for name, child in net.named_children():
        is_list = isinstance(child, nn.ModuleList)
        parts += [f"{name}.{i}" for i in range(len(child))] if is_list else [name]
    place = next(name for name, module in denoiser.named_modules() if module is net)
    root = f"{type(denoiser).__name__}.{place}"
    return {part: float(counts.get(f"{root}.{part}", 0)) for part in parts}


@torch.no_grad()
def _counted(denoiser: Denoiser) -> dict[str, int]:
    """FLOPs of one call on one datum by module, and of all of it as "Global"."""
    if denoiser.shape is None:
        raise ValueError(
            "this denoiser does not know the shape of one datum: make it with shape=(C, H, W)"
        )
    floats = (p for p in denoiser.parameters() if p.is_floating_point())
    like = next(floats, torch.zeros((), dtype=torch.float32, device="cpu"))
    x = torch.zeros(1, *denoiser.shape, dtype=like.dtype, device=like.device)
    condition = {}
    if denoiser.num_classes is not None:
        condition["label"] = torch.zeros(1, dtype=torch.int64, device=like.device)
    with _counter() as counter:
        denoiser(x, 0.5, **condition)
    return {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}


@contextlib.contextmanager
def _counter() -> Iterator[Any]:
    """torch's FlopCounterMode, with attention in the plain form.

    The fused kernels of the CPU are invisible to the counter.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        yield counter


def measure(denoiser: Denoiser, run: Callable[[], Any], *, pictures: int) -> tuple[Any, Cost]:
    """Run ``run`` once (it returns a samplers.Result) and say what it cost.

    NFE are those of the result; for anything else that draws pictures use ``meter``.
    """
    pictures, where = whole("pictures", pictures), _device([denoiser])
    with PowerMeter(where) as spent:
        result = run()
    net = _network(denoiser)
    per_call = count_flops(denoiser) / denoiser.nfe
    return result, Cost(
        pictures,
        result.nfe,
        count_parameters(net),
        per_call * result.nfe,
        spent.core_seconds,
        spent.seconds,
        where.type,
        spent.energy,
    )


def _device(models: Sequence[nn.Module]) -> torch.device:
    parameters = (p for model in models for p in model.parameters())
    return next(parameters, torch.zeros((), device="cpu")).device


def _network(model: nn.Module) -> nn.Module:
    """The network inside a denoiser and its wrappers (guidance, another schedule)."""
    while isinstance(getattr(model, "inner", None), nn.Module):
        model = model.inner
    net = getattr(model, "net", None)
    return net if isinstance(model, Denoiser) and isinstance(net, nn.Module) else model


def _bare(net: nn.Module) -> nn.Module:
    """The network that torch.compile or DataParallel is wrapped around."""
    while True:
        if hasattr(net, "_orig_mod"):
            net = net._orig_mod
        elif isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        else:
            return net


class Meter:
    """What the code inside costs: ``with Meter(model, pictures=64) as m: ...``, then ``m.cost``.

    ``models`` are all the modules at work: denoisers (with whatever wraps them), GANs, decoders,
    the stages of a cascade. Each evaluation of the network inside is seen as it happens, with its
    batch, so guidance counts twice and a step that is skipped not at all; FLOPs are counted
    afterwards on one datum of each shape that was seen. NFE sums over the models: give them in
    separate meters to tell them apart. Text encoders and the like count if they are given.

    Args:
        models: modules that are called inside.
        pictures: how many pictures come out of it.
        watts: of a core (or a board) to assume, instead of reading counters.
    """

    def __init__(self, *models: nn.Module, pictures: int, watts: float | None = None) -> None:
        pictures = whole("the number of pictures that a cost is for", pictures)
        wrong = [type(m).__name__ for m in models if not isinstance(m, nn.Module)]
        if not models or wrong:
            raise ValueError(f"give the modules (networks, denoisers) that are called; got {wrong}")
        self.pictures, self.watts = pictures, watts
        self.networks = list({id(net): net for net in map(_network, models)}.values())
        self.evaluations = 0
        self.cost: Cost | None = None
        self._seen: dict[Any, list[Any]] = {}  # (network, shapes) -> [count, arguments of one]

    def __enter__(self) -> Meter:
        self._before = [vars(net).get("forward") for net in self.networks]  # of a meter around us
        for i, net in enumerate(self.networks):
            net.forward = self._counting(i, net.forward)
        self._spent = PowerMeter(_device(self.networks), self.watts).__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._spent.__exit__()
        try:
            for net in self.networks:
                del net.forward  # the class's own shows again
            if kind is None:
                self.cost = self._total(self._spent)
        finally:
            for net, before in zip(self.networks, self._before, strict=True):
                if before is not None:
                    net.forward = before

    def _total(self, spent: PowerMeter) -> Cost:
        flops = sum(count * self._flops(net, one) for (net, _), (count, one) in self._seen.items())
        nfe = self.evaluations / self.pictures
        tensors = {id(p): p.numel() for net in self.networks for p in net.parameters()}
        return Cost(
            self.pictures,
            int(nfe) if nfe == int(nfe) else nfe,
            sum(tensors.values()),
            flops / self.pictures,
            spent.core_seconds,
            spent.seconds,
            spent.device.type,
            spent.energy,
            pixel_nfe=self._pixel_nfe(),
        )

    def _pixel_nfe(self) -> float:
        """Evaluations of a picture, those of small maps counting less: 8x8 is 1/4 of 16x16."""
        seen = [
            (count, math.prod(shapes[0][1:]) if shapes else 1)
            for (_, shapes), (count, _) in self._seen.items()
        ]
        largest = max((pixels for _, pixels in seen), default=1)
        return sum(count * pixels for count, pixels in seen) / largest / self.pictures

    def _counting(self, i: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            first = next((a for a in (*given, *named.values()) if isinstance(a, Tensor)), None)
            n = 1 if first is None or not first.ndim else len(first)

            def one(value: Any) -> Any:
                if isinstance(value, dict):  # a cache, say, as it is now: the call may fill it
                    return {k: one(v) for k, v in value.items()}
                if isinstance(value, tuple):
                    return tuple(map(one, value))
                batched = isinstance(value, Tensor) and value.ndim and len(value) == n
                return value[:1].detach() if batched else value

            shapes = tuple(tuple(a.shape[1:]) for a in given if isinstance(a, Tensor))
            record = self._seen.setdefault((i, shapes), [0, None])
            if record[1] is None:
                record[1] = [one(a) for a in given], {k: one(a) for k, a in named.items()}
            record[0] += n
            self.evaluations += n
            return forward(*given, **named)

        return counted

    @torch.no_grad()
    def _flops(self, i: int, one: tuple[list[Any], dict[str, Any]]) -> int:
        net = _bare(self.networks[i])
        with _counter() as counter:
            net(*one[0], **one[1])
        return counter.get_total_flops()


@dataclass(frozen=True)
class Timing:
    """Seconds of ``repeats`` runs of ``pictures`` pictures each, after warming up."""

    pictures: int
    median: float
    low: float
    high: float
    cpu_median: float  # core-seconds
    repeats: int
    threads: int

    @property
    def throughput(self) -> float:
        """Pictures a second."""
        return self.pictures / self.median

    def __str__(self) -> str:
        return (
            f"{self.pictures} at once: median {self.median:.3g} s ({self.low:.3g} to "
            f"{self.high:.3g}, {self.repeats} repeats, {self.threads} threads)"
        )


def timing(
    make: Callable[[int], Any],
    pictures: int = 1,
    *,
    repeats: int = 5,
    warmup: int = 1,
    device: str | torch.device = "cpu",
) -> Timing:
    """Time ``make(pictures)``: the median of ``repeats`` runs after ``warmup`` uncounted ones."""
    pictures, repeats = whole("pictures", pictures), whole("repeats", repeats)
    warmup = whole("warmup", warmup, 0)
    where = torch.device(device)
    for _ in range(warmup):
        make(pictures)
    runs = [PowerMeter(where, watts=0) for _ in range(repeats)]
    for spent in runs:
        with spent:
            make(pictures)
    walls = [spent.seconds for spent in runs]
    return Timing(
        pictures,
        statistics.median(walls),
        min(walls),
        max(walls),
        statistics.median(spent.core_seconds for spent in runs),
        repeats,
        torch.get_num_threads(),
    )


def meter(
    make: Callable[[int], Any],
    *models: nn.Module,
    pictures: int = 64,
    repeats: int = 5,
    watts: float | None = None,
) -> Cost:
    """Everything that ``make(n)``, which draws n pictures with ``models``, costs.

    ``meter(lambda n: generate(model, n), model)``. Latency is the median of ``repeats`` single
    pictures after a warm-up, throughput that of ``repeats`` batches of ``pictures``; NFE, FLOPs,
    seconds and energy are of all those batches together (``Cost.pictures`` of them).
    """
    where = _device(models)
    single = timing(make, 1, repeats=repeats, device=where)
    make(pictures)
    with Meter(*models, pictures=pictures * repeats, watts=watts) as counted:
        many = timing(make, pictures, repeats=repeats, warmup=0, device=where)
    return replace(counted.cost, latency=single.median, throughput=many.throughput)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the running table (``lessons.cost_rows()``) as text, whatever columns each has.

    Lesson, system and the columns of ``Cost.row`` come first (stored rows forget their order), then
    the others as they are met; where a row has none stands "-". Numbers are flush right.
    """
    if not rows:
        raise ValueError("the table has no rows: build a lesson that measures a cost first")
    first = ("lesson", "system", *Cost(1, 0, 0, 0.0, 0.0, 0.0).row())
    met = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in first if name in met] + [name for name in met if name not in first]
    cells = [columns, *([str(row.get(name, "-")) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    words = [any(isinstance(row.get(name), str) for row in rows) for name in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, words, strict=True)
        ).rstrip()
        for line in cells
    )
