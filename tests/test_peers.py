"""Step-by-step agreement with diffusers' schedulers, on the same network and the same noise.

Where the conventions differ, the tests show how:

- diffusers counts its training steps 0..T-1, here they are i = 1..T: timestep j is t = (j + 1)/T.
- ``grid(schedule, n)`` is their ``timestep_spacing="trailing"``; their default "leading" starts
  below t = 1.
- On strided steps their DDPM still draws noise for the last one (it asks whether j > 0, not whether
  data come next), with beta where the variance is "large"; here, as in the paper, none is added.
- DDIM's default keeps the old eps after x0 was clipped; ``use_clipped_model_output=True`` is right.
- DPMSolverMultistep ends at sigma = 0 by default (``final_sigmas_type="zero"``), with a step of
  first order, as here.
- With Karras sigmas diffusers asks its network at rounded timesteps; the sigmas themselves agree.

Their tables are single precision, so that 1 - abar is off by 1e-4 near t = 0. Each test is run on
their own tables, to 1e-5 at every step (2e-4 for 1000 steps), and on ours put in place of theirs,
where what is left is rounding.
"""

from __future__ import annotations

import math

import pytest
import torch
from helpers import F64, randn

from diffusion_lab.denoisers import Clipped, Denoiser, NetDenoiser, Prediction
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim, ddpm, dpmpp_2m
from diffusion_lab.schedules import EDM, Table, cosine, linear, zero_terminal_snr
from diffusion_lab.walk import walk

diffusers = pytest.importorskip("diffusers", reason="the peers extra is not installed")

# numpy 2 and torch talk past each other inside diffusers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

T = 1000
LINEAR = linear(T)
DDPM, DDIM = diffusers.DDPMScheduler, diffusers.DDIMScheduler
MULTISTEP = diffusers.DPMSolverMultistepScheduler


class Net(Denoiser):
    """The answer for N(0, I) plus a small fixed random network of x and t, so that x0_hat is not
    exact but of size 1 at every noise level; with a raw variance weight."""

    def __init__(self, schedule=LINEAR, kind="eps"):
        super().__init__(schedule)
        self.kind, g = kind, torch.Generator().manual_seed(7)
        self.first, self.second = (
            torch.randn(shape, generator=g, dtype=F64) / math.sqrt(shape[0])
            for shape in ((13, 16), (16, 24))
        )

    def raw(self, x, t):
        """(output, u) like x: u is the raw second half of the output, a variance in [-1, 1]."""
        flat = torch.cat([x.flatten(1), torch.full((len(x), 1), 2 * t, dtype=F64)], dim=1)
        out, u = (flat @ self.first).tanh().matmul(self.second).chunk(2, dim=1)
        out, u = out.reshape(x.shape), u.tanh().reshape(x.shape)
        alpha, sigma = LINEAR.alpha_sigma(t)
        best = {"eps": sigma * x + alpha * out, "x0": alpha * x + out, "v": out}
        return best[self.kind], u

    def forward(self, x_t, t):
        alpha, sigma = self.schedule.alpha_sigma(t)
        out, u = self.raw(x_t, t)
        return Prediction(x_t, alpha, sigma, out, self.kind, var_weight=(u + 1) / 2)


X = randn(4, 3, 2, 2, seed=1)


def z(i, like):
    return randn(*like.shape, seed=100 + i)


def with_our_table(scheduler, schedule):
    """The scheduler with our double-precision table in place of its own, which must agree."""
    abar = torch.tensor(schedule.abar[1:], dtype=F64)
    assert torch.allclose(scheduler.alphas_cumprod.double(), abar, rtol=2e-5, atol=1e-9)
    scheduler.alphas_cumprod, scheduler.betas = abar, schedule.betas()
    scheduler.alphas, scheduler.one = 1 - scheduler.betas, torch.ones((), dtype=F64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.ones((), dtype=F64)
    return scheduler


def compare(states, theirs, tolerance):
    """Largest gap at every step, relative to the size of the states (not only at the end)."""
    states = list(states)
    assert len(states) == len(theirs)
    for ours, x in zip(states, theirs, strict=True):
        gap = (ours.x - x).abs().max() / x.abs().max()
        assert gap <= tolerance, f"step {ours.i}: {gap:.2e}"


def run(scheduler, net, **options):
    """Their loop as their pipelines write it; returns all states."""
    x, states = X, [X]
    for j in scheduler.timesteps:
        t = (int(j) + 1) / T
        x = scheduler.step(net.raw(x, t)[0], j, x, return_dict=False, **options)[0]
        states.append(x)
    return states


@pytest.fixture
def noise_like_ours(monkeypatch):
    """diffusers draws its noise by one function: give it the noise that our walk draws."""
    count = iter(range(10**6))

    def draw(shape, generator=None, device=None, dtype=None):
        return z(next(count), torch.empty(shape)).to(dtype)

    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", draw)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.randn_tensor", draw)


EXACT = pytest.mark.parametrize("exact", [False, True], ids=["their table", "our table"])


def prepared(scheduler, exact, steps):
    if exact:
        with_our_table(scheduler, LINEAR)
    scheduler.set_timesteps(steps)
    if exact:
        return scheduler, 1e-9  # they keep a variance of 1e-20 at the end
    return scheduler, 2e-4 if steps == T else 1e-5


# ---- schedules ----------------------------------------------------------------------------------
def test_tables_of_betas():
    for kind, ours in (("linear", LINEAR), ("squaredcos_cap_v2", cosine(T))):
        theirs = DDPM(beta_schedule=kind)
        assert torch.allclose(theirs.betas.double(), ours.betas(), rtol=1e-5, atol=1e-7)
        abar = torch.tensor(ours.abar[1:], dtype=F64)
        assert torch.allclose(theirs.alphas_cumprod.double(), abar, rtol=1e-4, atol=1e-9)
    theirs = DDIM(rescale_betas_zero_snr=True).alphas_cumprod.double()
    ours = torch.tensor(zero_terminal_snr(LINEAR).abar[1:], dtype=F64)
    assert torch.allclose(theirs[:-1], ours[:-1], rtol=1e-4, atol=1e-9)
    assert ours[-1] == 0.0
    assert theirs[-1] < 1e-12


def test_trailing_timesteps_are_our_grid():
    for steps in (10, 25, 37, 1000):
        scheduler = DDPM(timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        ours = [round(t * T) for t in grid(LINEAR, steps)[:-1]]
        assert (scheduler.timesteps + 1).tolist() == pytest.approx(
            ours, abs=0 if steps != 37 else 1
        )
    leading = DDPM()
    leading.set_timesteps(10)
    assert (leading.timesteps[0] + 1) / T == pytest.approx(0.901), "their default starts low"


# ---- DDPM ---------------------------------------------------------------------------------------
@EXACT
@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize(
    "theirs,ours", [("fixed_small", "small"), ("fixed_large", "large")], ids=["small", "large"]
)
def test_ddpm(theirs, ours, steps, exact, noise_like_ours):
    scheduler = DDPM(variance_type=theirs, clip_sample=False, timestep_spacing="trailing")
    scheduler, tolerance = prepared(scheduler, exact, steps)
    states = list(walk(ddpm(ours), Net(), X, grid(LINEAR, steps), noise=z))
    theirs = run(scheduler, Net())
    if ours == "large" and steps < T:  # they add noise to the data
        beta = 1 - LINEAR.alpha(1 / steps) ** 2
        theirs[-1] = theirs[-1] - math.sqrt(beta) * z(steps - 1, X)
    compare(states, theirs, tolerance)


@EXACT
def test_ddpm_clipped(exact, noise_like_ours):
    scheduler = DDPM(variance_type="fixed_small", clip_sample=True, timestep_spacing="trailing")
    scheduler, tolerance = prepared(scheduler, exact, 50)
    states = walk(ddpm("small"), Clipped(Net()), X, grid(LINEAR, 50), noise=z)
    compare(states, run(scheduler, Net()), tolerance)


@EXACT
def test_ddpm_learned_variance(exact, noise_like_ours):
    """Their 'learned_range': new betas of the strided steps, weight (u + 1)/2 between the logs."""
    scheduler = DDPM(variance_type="learned_range", clip_sample=False, timestep_spacing="trailing")
    scheduler, tolerance = prepared(scheduler, exact, 50)
    net, x, theirs = Net(), X, [X]
    for j in scheduler.timesteps:
        both = torch.cat(net.raw(x, (int(j) + 1) / T), dim=1)
        x = scheduler.step(both, j, x, return_dict=False)[0]
        theirs.append(x)
    states = list(walk(ddpm("learned"), net, X, grid(LINEAR, 50), noise=z))
    compare(states[:-1], theirs[:-1], tolerance)
    assert torch.allclose(states[-1].x, states[-1].pred.x0), "and no noise on the data"


@pytest.mark.parametrize("kind,theirs", [("v", "v_prediction"), ("x0", "sample")])
def test_ddpm_kinds(kind, theirs, noise_like_ours):
    scheduler = DDPM(prediction_type=theirs, clip_sample=False, timestep_spacing="trailing")
    scheduler, tolerance = prepared(scheduler, True, 40)
    net = Net(kind=kind)
    compare(walk(ddpm(), net, X, grid(LINEAR, 40), noise=z), run(scheduler, net), tolerance)


def test_an_index_off_by_one_would_be_seen(noise_like_ours):
    """Their step j walked at t = j/T instead of (j + 1)/T is far outside the tolerance."""
    scheduler = DDPM(clip_sample=False, timestep_spacing="trailing")
    scheduler, tolerance = prepared(scheduler, False, 50)
    shifted = [max(t - 1 / T, 0.5 / T) for t in grid(LINEAR, 50)[:-1]] + [0.0]
    with pytest.raises(AssertionError, match="step"):
        compare(walk(ddpm(), Net(), X, shifted, noise=z), run(scheduler, Net()), 100 * tolerance)


# ---- DDIM ---------------------------------------------------------------------------------------
@EXACT
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [50, 10])
def test_ddim(steps, eta, clip, exact, noise_like_ours):
    scheduler = DDIM(clip_sample=clip, timestep_spacing="trailing")
    scheduler, tolerance = prepared(scheduler, exact, steps)
    theirs = run(scheduler, Net(), eta=eta, use_clipped_model_output=clip)
    net = Clipped(Net()) if clip else Net()

    def noise(i, like):
        return z(i, like)

    states = list(walk(ddim(eta), net, X, grid(LINEAR, steps), noise=noise))
    compare(states, theirs, tolerance)


def test_ddim_without_recomputed_eps_is_a_choice():
    """Their default: x0 clipped, eps not. Ours recomputes it unless told to keep it."""
    scheduler = DDIM(clip_sample=True, timestep_spacing="trailing")
    scheduler, tolerance = prepared(scheduler, True, 10)
    theirs = run(scheduler, Net(), use_clipped_model_output=False)
    times = grid(LINEAR, 10)
    with pytest.raises(AssertionError, match="step 1"):
        compare(list(walk(ddim(), Clipped(Net()), X, times)), theirs, 1e-3)
    compare(list(walk(ddim(), Clipped(Net(), keep_eps=True), X, times)), theirs, tolerance)


def test_ddim_from_zero_terminal_snr():
    schedule = zero_terminal_snr(LINEAR)
    scheduler = DDIM(
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(20)
    net = Net(schedule, "v")
    compare(walk(ddim(), net, X, grid(schedule, 20)), run(scheduler, net), 1e-5)


def test_ddim_on_the_cosine_schedule():
    scheduler = DDIM(
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
    with_our_table(scheduler, cosine(T))
    scheduler.set_timesteps(25)
    net = Net(cosine(T), "v")
    compare(walk(ddim(), net, X, grid(cosine(T), 25)), run(scheduler, net), 1e-11)


# ---- DPM-Solver++(2M) ---------------------------------------------------------------------------
def multistep(exact, steps, schedule=LINEAR, **options):
    scheduler = MULTISTEP(
        **{
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "timestep_spacing": "trailing",
            "lower_order_final": True,
        }
        | options
    )
    if exact:
        with_our_table(scheduler, schedule)
    scheduler.set_timesteps(steps)
    if exact:  # they round their sigmas to single precision once more
        abar = scheduler.alphas_cumprod[scheduler.timesteps]
        scheduler.sigmas = torch.cat([((1 - abar) / abar).sqrt(), torch.zeros(1, dtype=F64)])
    return scheduler, 5e-7 if exact else 1e-5  # they step in single precision


@EXACT
@pytest.mark.parametrize("steps", [8, 20])
def test_dpmpp_2m(steps, exact):
    scheduler, tolerance = multistep(exact, steps)
    assert scheduler.sigmas[-1] == 0
    assert (scheduler.timesteps + 1).tolist() == [round(t * T) for t in grid(LINEAR, steps)[:-1]]
    compare(walk(dpmpp_2m(), Net(), X, grid(LINEAR, steps)), run(scheduler, Net()), tolerance)


def test_dpmpp_2m_ends_with_a_first_order_step_at_any_length():
    """Their lower_order_final acts below 15 steps only; sigma = 0 forces it at any length."""
    scheduler, tolerance = multistep(True, 40, lower_order_final=False)
    compare(walk(dpmpp_2m(), Net(), X, grid(LINEAR, 40)), run(scheduler, Net()), tolerance)


def test_dpmpp_of_first_order_is_ddim():
    scheduler, tolerance = multistep(True, 20, solver_order=1)
    compare(walk(ddim(), Net(), X, grid(LINEAR, 20)), run(scheduler, Net()), tolerance)


@pytest.mark.parametrize("steps", [8, 20])
def test_dpmpp_2m_on_karras_sigmas(steps):
    """The same sigmas; their network is asked at a rounded timestep, so ours is asked there too."""
    scheduler, _ = multistep(False, steps, use_karras_sigmas=True)
    times = grid(LINEAR, steps, "karras")
    alpha, sigma = LINEAR.alpha_sigma(torch.tensor(times[:-1], dtype=F64))
    assert torch.allclose(scheduler.sigmas[:-1].double(), sigma / alpha, rtol=1e-4)
    scheduler.sigmas = torch.cat([sigma / alpha, torch.zeros(1, dtype=F64)])
    asked = dict(zip(times, ((scheduler.timesteps + 1) / T).tolist(), strict=False))
    moved = [abs(t - u) * T for t, u in asked.items()]
    assert max(moved) <= 0.52, "half a step of rounding, and log- against linear interpolation"

    class Rounded(Net):
        def raw(self, x, t):
            return super().raw(x, asked.get(t, t))

    compare(walk(dpmpp_2m(), Rounded(), X, times), run(scheduler, Net()), 5e-7)


# ---- EDM ----------------------------------------------------------------------------------------
class Plain(torch.nn.Module):
    """What EDM calls F: a fixed function of the scaled input and of the noise level."""

    def forward(self, x, lam):
        return torch.tanh(1.3 * x + 0.25 * lam.to(x.dtype))


@pytest.mark.parametrize("steps", [18, 7])
@pytest.mark.parametrize(
    "scheduler,step",
    [
        (diffusers.EDMEulerScheduler, ddim()),
        (diffusers.EDMDPMSolverMultistepScheduler, dpmpp_2m()),
    ],
    ids=["euler", "dpmpp"],
)
def test_edm_schedule_and_preconditioning(scheduler, step, steps):
    """Karras sigmas, c_skip, c_out, c_in of Karras et al.; DDIM is Euler's method in sigma."""
    peer = scheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    peer.set_timesteps(steps)
    schedule = EDM()
    times = grid(schedule, steps, "karras")
    ours = torch.tensor([schedule.sigma(t) for t in times], dtype=F64)
    assert torch.allclose(peer.sigmas.double(), ours, rtol=2e-5)
    peer.sigmas = ours  # theirs are single precision: 1e-5 at sigma = 80 is 1e-3 of the data
    d = NetDenoiser(Plain(), schedule, "edm", sd=0.5)
    x, theirs = 80 * X, [80 * X]
    for i, c_noise in enumerate(peer.timesteps):
        scaled = peer.scale_model_input(x, c_noise)
        lam = torch.tensor([-ours[i].log()])  # c_noise is ln(sigma)/4 = -lambda/4
        assert c_noise.item() == pytest.approx(-lam.item() / 4, abs=1e-5)
        x = peer.step(Plain()(scaled, lam), c_noise, x, return_dict=False)[0]
        theirs.append(x)
    compare(walk(step, d, 80 * X, times), theirs, 1e-5)


# ---- noising ------------------------------------------------------------------------------------
def test_noising_and_velocity():
    from diffusion_lab.forward import noised

    scheduler = with_our_table(DDPM(), LINEAR)
    j = torch.tensor([0, 10, 500, 999])
    t = (j.double() + 1) / T
    eps = randn(*X.shape, seed=5)
    ours = noised(X, eps, LINEAR, t)
    assert torch.allclose(ours, scheduler.add_noise(X, eps, j), atol=1e-12)
    alpha, sigma = (c[:, None, None, None] for c in LINEAR.alpha_sigma(t))
    p = Prediction(ours, alpha, sigma, eps, "eps")
    assert torch.allclose(p.v, scheduler.get_velocity(X, eps, j), atol=1e-9)
    assert isinstance(LINEAR, Table)
