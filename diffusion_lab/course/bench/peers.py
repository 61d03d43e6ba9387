"""Other people's code at its own defaults beside this lab's: the same data, budget and measure.

Everything is unconditional, trained on the embedded Fashion-MNIST for the same CPU seconds on one
thread, drawn in the same number of pictures and scored by the same frozen features. Each peer keeps
the network, optimiser, schedule and sampler of its own published example; what differs from it is
said in its row. Two crossed rows separate what the network earns from what the recipe earns:

    our recipe, diffusers' network        diffusers' recipe, our network

Needs the ``peers`` extra; a library that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lab import data, metrics, nets
from diffusion_lab.course.bench.conditions import check_budgets, check_pictures, one_thread
from diffusion_lab.course.bench.quality import train_within
from diffusion_lab.course.bench.results import Row
from diffusion_lab.device import generator, randn
from diffusion_lab.generate import generate
from diffusion_lab.schedules import linear
from diffusion_lab.training import EMA, recipes

__all__ = ["CONTESTANTS", "run"]

PICTURES = 500
BUDGETS = (108,)
T = 1000
Draw = Callable[[int, int], Tensor]  # (number, seed) -> pictures (N, 1, 28, 28) in [-1, 1]
Trained = tuple[Draw, nn.Module, dict[str, Any]]  # what draws, its network, details of the row


def _train(
    budget: float, step: Callable[[Tensor, int], None], batch: int, seed: int
) -> tuple[int, float]:
    """Call ``step(pictures, i)`` until the budget is spent; (steps, CPU seconds)."""
    x, gen = data.load("fashion").x, generator(seed, 7)
    begin, steps = time.process_time(), 0
    while (took := time.process_time() - begin) < budget:
        step(x[torch.randint(len(x), (batch,), generator=gen, device="cpu")], steps)
        steps += 1
    return steps, took


def _details(steps: int, took: float, batch: int, nfe: int) -> dict[str, Any]:
    return {"steps": steps, "batch": batch, "core-s": round(took, 1), "NFE": nfe}


# ---- this lab -----------------------------------------------------------------------------------
def _lab(budget: float, seed: int, net: dict[str, Any] | None = None) -> Trained:
    recipe = recipes.get("fashion-1min").but(seed=seed, conditional=False)
    settings = {k: v for k, v in recipe.sampler.items() if k != "scale"}
    if net is not None:
        recipe = recipe.but(net=net)
    model, steps, took = train_within(recipe, budget)

    def draw(n: int, seed: int) -> Tensor:
        return generate(model, n, seed=seed, **settings).x

    return draw, model, _details(steps, took, recipe.batch, settings["steps"])


# ---- diffusers: examples/unconditional_image_generation/train_unconditional.py ------------------
class DiffusersNet(nn.Module):
    """diffusers' UNet2DModel at 28x28 (the example's blocks on three levels), asked as ours is.

    Its sinusoidal embedding gets 250 ln sigma_edm = -250 lambda, a timestep of the usual size.
    """

    def __init__(self, channels: int = 1) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        self.unet = UNet2DModel(
            sample_size=28,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=(32, 64, 64),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )

    def forward(self, x: Tensor, lam: Tensor, label: Tensor | None = None) -> Tensor:
        return self.unet(x, -250 * lam.expand(len(x))).sample


class _OnTimesteps(nn.Module):
    """Our U-Net asked as diffusers asks: timestep j stands for t = (j + 1) / T."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nets.UNet(1)
        lams = linear(T).lam(torch.arange(1, T + 1, dtype=torch.float64) / T)
        self.register_buffer("lams", lams.float())

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.net(x, self.lams[timestep].expand(len(x)))


class _Theirs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = DiffusersNet()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.net.unet(x, timestep).sample


def _diffusers(budget: float, seed: int, ours: bool = False) -> Trained:
    """The example's defaults: eps, 1000 linear steps, batch 16, AdamW 1e-4, EMA; DDIM to draw."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(seed)
    net, gen = (_OnTimesteps() if ours else _Theirs()), generator(seed, 8)
    noising = DDPMScheduler(num_train_timesteps=T, beta_schedule="linear")
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    average = EMAModel(
        net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )

    def step(x0: Tensor, i: int) -> None:
        optimizer.param_groups[0]["lr"] = 1e-4 * min(1.0, (i + 1) / 500)
        eps = randn(x0.shape, gen)
        timestep = torch.randint(T, (len(x0),), generator=gen, device="cpu")
        loss = (net(noising.add_noise(x0, eps, timestep), timestep) - eps).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(net.parameters())

    done, took = _train(budget, step, 16, seed)
    average.copy_to(net.parameters())
    net.eval()

    @torch.no_grad()
    def draw(n: int, seed: int) -> Tensor:
        scheduler = DDIMScheduler(
            num_train_timesteps=T, beta_schedule="linear", timestep_spacing="trailing"
        )
        scheduler.set_timesteps(20)
        x = randn((n, 1, 28, 28), generator(seed))
        for timestep in scheduler.timesteps:
            x = scheduler.step(net(x, timestep), timestep, x).prev_sample
        return x.clamp(-1, 1)

    return draw, net, _details(done, took, 16, 20)


# ---- denoising-diffusion-pytorch: the defaults of its GaussianDiffusion and Trainer -------------
def _denoising_diffusion_pytorch(budget: float, seed: int) -> Trained:
    """v on a sigmoid schedule, batch 16, Adam 1e-4, its own EMA; DDIM-25 to draw."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA as Average

    torch.manual_seed(seed)
    net = Unet(dim=32, dim_mults=(1, 2, 4), channels=1, flash_attn=False)
    model = GaussianDiffusion(net, image_size=28, timesteps=T, sampling_timesteps=25)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    average = Average(model, beta=0.995, update_every=10)

    def step(x0: Tensor, i: int) -> None:
        model((x0 + 1) / 2).backward()  # it draws its noise from torch's own generator
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    done, took = _train(budget, step, 16, seed)

    def draw(n: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        size = min(n, 100)
        parts = [average.ema_model.sample(batch_size=size) for _ in range(0, n, size)]
        return torch.cat(parts)[:n] * 2 - 1

    return draw, net, _details(done, took, 16, 25)


# ---- smalldiffusion: examples/fashion_mnist_unet.py ---------------------------------------------
def _smalldiffusion(budget: float, seed: int) -> Trained:
    """The example's network, schedule, AdamW 7e-4, EMA and sampler.

    Batch 64 instead of 1024, of which the budget would allow a handful of steps, and no mirrored
    pictures, which its loader makes: the shoes of this data all point one way.
    """
    from smalldiffusion import Scaled, ScheduleLogLinear, Unet, generate_train_sample, samples

    torch.manual_seed(seed)
    net, average = (
        Scaled(Unet)(28, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,)) for _ in range(2)
    )
    average.load_state_dict(net.state_dict())
    schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
    optimizer, ema = torch.optim.AdamW(net.parameters(), lr=7e-4), EMA(0.999)

    def step(x0: Tensor, i: int) -> None:
        x0, sigma, eps, _ = generate_train_sample(x0, schedule)
        net.get_loss(x0, sigma, eps).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(average, net, i)

    done, took = _train(budget, step, 64, seed)
    average.eval()

    @torch.no_grad()
    def draw(n: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        size, sigmas = min(n, 100), schedule.sample_sigmas(20)
        parts = [
            list(samples(average, sigmas, gam=1.6, batchsize=size))[-1] for _ in range(0, n, size)
        ]
        return torch.cat(parts)[:n].clamp(-1, 1)

    return draw, average, _details(done, took, 64, 20)


# ---- side by side -------------------------------------------------------------------------------
CONTESTANTS: dict[str, tuple[str | None, Callable[[float, int], Trained]]] = {
    "this lab": (None, _lab),
    "our recipe, diffusers' network": (
        "diffusers",
        lambda budget, seed: _lab(budget, seed, {"name": "diffusers"}),
    ),
    "diffusers' recipe, our network": (
        "diffusers",
        lambda budget, seed: _diffusers(budget, seed, ours=True),
    ),
    "diffusers": ("diffusers", _diffusers),
    "smalldiffusion": ("smalldiffusion", _smalldiffusion),
    "denoising-diffusion-pytorch": ("denoising_diffusion_pytorch", _denoising_diffusion_pytorch),
}


def run(
    *,
    quick: bool = False,
    budgets: Sequence[float] = BUDGETS,
    seeds: Sequence[int] = (0, 1),
    n: int | None = None,
    done: Sequence[str] = (),
) -> Iterator[Row]:
    """FD in units of A of every contestant after each budget; cases in ``done`` are skipped."""
    check_budgets(budgets)
    check_pictures(n)
    budgets, seeds = ((1,), (0,)) if quick else (budgets, seeds)
    n = n or (20 if quick else PICTURES)
    nets.NETS.setdefault("diffusers", DiffusersNet)
    with one_thread():
        anchor = metrics.anchor().value
        for seed in seeds:
            for budget in budgets:
                for name, (library, train) in CONTESTANTS.items():
                    command = "diffusion-lab bench peers"
                    command += "" if quick else f" --budgets {budget:g} --seeds {seed}"
                    command += "" if quick or n == PICTURES else f" --n {n}"
                    size = "" if n == PICTURES else f", {n} pictures"
                    case = f"{budget:g} core-s, {name}{size}, seed {seed}"
                    if library is not None and importlib.util.find_spec(library) is None:
                        continue
                    if case not in done:
                        yield _row(case, train(budget, seed), n, anchor, seed, command, quick)


def _row(
    case: str, trained: Trained, n: int, anchor: float, seed: int, command: str, quick: bool
) -> Row:
    draw, net, details = trained
    begin = time.process_time()
    x = draw(n, 1000 + seed)
    took = time.process_time() - begin
    fd = metrics.fd(x)
    details |= {
        "pictures": n,
        "FD": round(fd, 4),
        "A": round(anchor, 4),
        "parameters": metrics.count_parameters(net),
        "core-s for 1,000 pictures": round(1000 * took / n, 1),
    }
    return Row("peers", case, round(fd / anchor, 4), "A", command, details=details, quick=quick)
