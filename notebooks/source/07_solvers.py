# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 07 Solvers: 1000 steps to 10
#
# A trained network says, at every noise level, where the clean picture probably is. A sampler asks
# it again and again on the way from noise to data. The network is the expensive part; the sampler
# decides how often it is asked. In this lesson nothing is trained: the same network, asked 10 times
# instead of 1000, by solvers that know more about the equation they solve.
#
# **Goals.** You will be able to
# - write the sampling equation so that its linear part is solved exactly and only the network is
#   approximated,
# - measure the order of a solver, and say what it is worth when calls are few,
# - tell single-step, multistep and predictor-corrector methods apart by what they do with a call,
# - let a stochastic solver choose its own steps, and count what its refused trials cost,
# - draw from p(clean picture | noisy picture) and say what a realistic picture costs in squared error,
# - say when a higher order does not help.
#
# **Prerequisites.** $\lambda = \log(\alpha/\sigma)$ (lesson 01), $\hat x_0$ and $\hat\epsilon$
# (lesson 02), DDIM (lesson 05) and the probability-flow ODE (lesson 06).
#
# **Time.** {{time}}.
#
# **Data.** Exact Gaussian mixtures, and Fashion-MNIST (MIT licence) with the course's two small
# networks.
#
# **On the map.** DPM-Solver (row 57), EMSDE (row 17, the survey's Table I: *SDE, adaptive step
# sizes*) and IDSD (row 46, Table II: *scheduling, stochastic sampling*), with UniPC and EDM's Heun
# as neighbours.

# %% [markdown] name="imports-text"
# Everything comes from the package.

# %% name="imports"
import math

import torch
from torch import Tensor

from diffusion_lab import checkpoints, data, metrics, samplers, schedules
from diffusion_lab.course import lessons, plots
from diffusion_lab.course.bench import samplers as race
from diffusion_lab.course.bench.results import recorded, within
from diffusion_lab.course.checks import lesson07 as check
from diffusion_lab.course.widgets import choice, explore, slider
from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian
from diffusion_lab.generate import generate
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddpm, dpm_solver, dpmpp_2m, dpmpp_3m, emsde, heun, idsd, unipc
from diffusion_lab.samplers.sde import euler_maruyama
from diffusion_lab.walk import gaussian, sample, walk

model = checkpoints.load_denoiser("fashion-vp1000")
print(f"a network of {metrics.count_parameters(model.net):,} parameters, trained on 1000 steps")

# %% [markdown] name="ten-text"
# ## Ten calls, and what they can buy
#
# Five samplers start from the same eight draws of noise and may ask the network ten times (the last
# row: more often, to show where they are all heading). They solve the same equation. Look down a
# column: who has arrived?

# %% name="ten"
noise_only = torch.randn((8, *model.shape), generator=generator(7))
names = ["DDIM", "Heun", "DPM-Solver-3", "DPM-Solver++(2M)", "UniPC-2"]
rows = [generate(model, 8, seed=7, **race.settings(name, model, 10)).x for name in names]
far = lessons.pick(smoke=20, live=100)
rows += [generate(model, 8, seed=7, sampler="unipc", steps=far).x]
for name, x in zip(names, rows):
    print(f"{name:18s} is {(x - rows[-1]).square().mean().sqrt():.2f} a pixel from the last row")

# %% [markdown] name="ten-figure-text"
# These are distances (root mean squares) to a row that asked many more times. The pictures:

# %% name="ten-figure"
fig = plots.strip([noise_only / 3, *rows], labels=["noise", *names, f"{far} calls"])
plots.show(
    fig,
    alt="Seven rows of eight pictures. First pure noise, then clothes drawn from it by five solvers "
    "with ten network calls each, last the same clothes with many more calls.",
    caption="The same eight draws of noise, ten network calls each; the last row asks more often.",
)

# %% [markdown] name="ten-seen"
# Down a column the garment stays the same, because all rows follow the same equation from the same
# start. They differ in how well they follow it; the numbers above say who has arrived. DDIM's pictures
# are flatter, with less texture. Heun, for whom ten calls are only five steps, loses its way in
# places: look at the two dark shirts. To see why, we need the equation.

# %% [markdown] name="linear-text"
# ## Half of the equation is already solved
#
# The probability-flow ODE of lesson 06 is $dx/dt = f x - \tfrac12 g^2\,\mathrm{score}$. Take
# $\lambda = \log(\alpha/\sigma)$ as the time and put in $\hat x_0$. Then, for every schedule,
#
# $$ \frac{d}{d\lambda}\Big(\frac{x}{\sigma}\Big) = e^{\lambda}\,\hat x_0(x, \lambda). $$
#
# The left side swallows everything that is known. From $t$ to $s$, with
# $h = \lambda_s - \lambda_t > 0$, what is left is one integral:
#
# $$ x_s = \frac{\sigma_s}{\sigma_t}\,x_t \;+\; \sigma_s\int_{\lambda_t}^{\lambda_s} e^{l}\,\hat x_0\,dl. $$
#
# This is called **semi-linear**: a linear part, solved without error, and the network. A general
# ODE solver does not know this and spends steps on re-discovering the linear part. The same can be
# done with $\hat\epsilon$ (then $x/\alpha$ is the left side and $e^{-l}$ the weight): DPM-Solver
# uses that form, DPM-Solver++ the one above.
#
# How hard is the integral? The next cell follows one exact trajectory of a two-dimensional mixture,
# and draws what the network would say along it: against $t$, and against $\lambda$.

# %% name="along"
vp = schedules.Linear()
exact = toys.load_toy("anisotropic").denoiser(vp)
lams = torch.linspace(-5.0, 4.5, 120, dtype=torch.float64)
times = [vp.t_of_lam(lam) for lam in lams.tolist()]
states = list(walk(unipc(3), exact, torch.tensor([[0.4, -1.1]]).double(), times))
said = {
    "state": [s.x[0, 0] for s in states[1:]],
    "answer: clean data": [s.pred.x0[0, 0] for s in states[1:]],
    "answer: noise": [s.pred.eps[0, 0] for s in states[1:]],
}
fig, ax = plots.axes(1, 2, size=(4.4, 3.0))
plots.lines(times[:-1], said, ax=ax[0], xlabel="time t     data ... noise", ylabel="coordinate 1")
plots.lines(lams[:-1], said, ax=ax[1], xlabel="lambda     noise ... data", ylabel="")
ax[1].get_legend().remove()
for one in ax:
    one.set_ylim(-0.45, 1.2)  # room for the legend
plots.show(
    fig,
    alt="Two panels with three curves each: the state, the predicted clean datum and the predicted "
    "noise along one trajectory. The same curves, mirrored and stretched: against t most of the "
    "bending lies below t = 0.3 and the noise curve drops steeply at t = 0; against lambda the bend "
    "is in the middle, from -1 to 2, with flatter stretches on both sides.",
    caption="One trajectory, from noise to data, over time t (read from right to left) and over "
    "lambda (from left to right).",
)

# %% [markdown] name="along-seen"
# Both panels tell the same story, one of them from right to left. Over $t$ the side of the data is
# squeezed against $t = 0$, where the predicted noise drops almost vertically. Over $\lambda$ that
# side gets room: there is one bend, in the middle, where the choice between the three components is
# made. Smooth functions are what Taylor expansions are good at. On both sides of the bend
# $\hat x_0$ is nearly constant: there a long step costs little, *if the linear part is exact*.

# %% [markdown] name="exact-step-text"
# ### Exercise 1 (fill in): the exact step
#
# Take $\hat x_0$ as constant over the step and do the integral. The result is the first-order
# solver, written with $h$.
#
# <details><summary>Hint 1: nudge</summary>
#
# $\int_{\lambda_t}^{\lambda_s} e^l\,dl = e^{\lambda_s} - e^{\lambda_t}$, and
# $\sigma_s e^{\lambda_s} = \alpha_s$.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $x_s = (\sigma_s/\sigma_t)\,x_t + \alpha_s (1 - e^{-h})\,\hat x_0$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t)`, then `-expm1(-h)` for $1 - e^{-h}$
# </details>


# %% name="my-step"
def my_step(x, x0, alpha_t, sigma_t, alpha_s, sigma_s):
    """x_s from x_t if the network says x0 all the way."""
    ### BEGIN SOLUTION
    h = math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)
    return sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * x0
    ### END SOLUTION


# %% name="check-step"
check.exact_step(my_step)

# %% [markdown] name="ddim-text"
# So DPM-Solver of order 1 is DDIM. Below, both are run over the same ten times; what is printed is the
# largest gap between them. `expm1` matters: for a short step $1 - e^{-h}$ computed plainly loses
# its digits.

# %% name="ddim" tags=["nbval-check-output"]
start = torch.randn(16, 2, generator=generator(0), dtype=torch.float64)
ten = grid(vp, 10)
gap = sample(walk(samplers.ddim(), exact, start, ten)).x
gap = (gap - sample(walk(dpm_solver(1), exact, start, ten)).x).abs().max()
print("DPM-Solver-1 and DDIM agree to 12 digits:", bool(gap < 1e-12))
print(
    f"1 - exp(-h) at h = 1e-15: plain {1 - math.exp(-1e-15):.3e}, expm1 {-math.expm1(-1e-15):.3e}"
)

# %% [markdown] name="order-text"
# ## Order: what a better integral buys
#
# Expand $\hat x_0$ along the trajectory, $\hat x_0(\lambda) \approx \hat x_0 + (\lambda - \lambda_t)
# \hat x_0' + \dots$. Each term can be integrated exactly (the functions that come out are called
# $\varphi_k$; `samplers/exponential.py`). A solver of **order p** gets the first $p$ terms right;
# then its error at the end falls like $h^p$.
#
# The derivatives must come from calls of the network, and there are three ways to get them:
#
# | | where the calls are | calls a step | examples |
# |---|---|---|---|
# | single-step | inside the step, then forgotten | p | DPM-Solver-2, -3, ++(2S), Heun |
# | multistep | the calls of the steps before | 1 | ++(2M), ++(3M) |
# | predictor-corrector | those, and the next step's call looks back | 1 | UniPC |
#
# In the names after ++, the digit is the order and the letter the kind: 2M is of order 2, multistep;
# 3M of order 3, multistep; 2S of order 2, single-step. UniPC's corrector makes the step from
# $x_t$ again when the answer at the point reached, $x_s$, is known, with weights $w$ that make the
# integral exact for polynomials:
#
# $$ x_s^{c} = \frac{\sigma_s}{\sigma_t}x_t + \alpha_s h\Big[w_0\,\hat x_0(x_t) + \sum_j w_j\,
# \hat x_0(\text{step } j \text{ before}) + w_s\,\hat x_0(x_s)\Big]. $$
#
# The single-step kind, written out. DPM-Solver-2 goes half of the way (in $\lambda$, to the time $m$)
# with a first-order step, asks there, and makes the whole step with that answer:
#
# $$ u = \frac{\alpha_m}{\alpha_t}x_t - \sigma_m(e^{h/2}-1)\,\hat\epsilon(x_t), \qquad
# x_s = \frac{\alpha_s}{\alpha_t}x_t - \sigma_s(e^{h}-1)\,\hat\epsilon(u). $$
#
# DPM-Solver-3 asks at a third and at two thirds of the way, $u_1$ and $u_2$, and lets the last answer
# correct the first one, $x_s = \frac{\alpha_s}{\alpha_t}x_t - \sigma_s(e^h-1)\hat\epsilon(x_t) -
# \frac32\sigma_s\big(\frac{e^h-1}{h}-1\big)\big(\hat\epsilon(u_2)-\hat\epsilon(x_t)\big)$; $u_2$ is
# reached by the same formula with $\hat\epsilon(u_1)$, a step of $2h/3$ and the factor 2 for
# $\frac32$. Here is the second-order step by hand, beside the package's:

# %% name="by-hand" tags=["nbval-check-output"]
t, s = 0.6, 0.4
m = vp.t_of_lam((vp.lam(t) + vp.lam(s)) / 2)
(alpha_t, _), (alpha_m, sigma_m), (alpha_s, sigma_s) = map(vp.alpha_sigma, (t, m, s))
h = vp.lam(s) - vp.lam(t)
u = alpha_m / alpha_t * start - sigma_m * math.expm1(h / 2) * exact(start, t).eps
by_hand = alpha_s / alpha_t * start - sigma_s * math.expm1(h) * exact(u, m).eps
theirs = sample(walk(dpm_solver(2), exact, start, [t, s])).x
print("the same step to 12 digits:", bool((by_hand - theirs).abs().max() < 1e-12))

# %% [markdown] name="price-text"
# ### Exercise 2 (predict): the price of a digit
#
# A third-order solver makes an error of 0.008 with 20 calls. About which error do you expect with
# 40 calls?
#
# <details><summary>Hint 1: nudge</summary>
#
# Twice the calls, half of $h$.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# error $\propto h^3$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `0.008 / 2**3`
# </details>

# %% name="my-error"
### BEGIN SOLUTION
error_at_forty = 0.008 / 2**3
### END SOLUTION

# %% name="check-error"
check.order_three(error_at_forty)

# %% [markdown] name="measure-text"
# ### The solver race, on an exact mixture
#
# A mixture's denoiser is a formula, so there is no network error, and a solver with very many steps
# gives the end of the exact trajectory. Every solver gets the same number of calls, with times
# equally spaced in $\lambda$. A call is what costs, so calls are counted, not steps.

# %% name="racers"
RACERS = {  # step, calls a step
    "DDIM (order 1)": (samplers.ddim(), 1),
    "Heun": (heun(), 2),
    "DPM-Solver-2": (dpm_solver(2), 2),
    "DPM-Solver-3": (dpm_solver(3), 3),
    "DPM-Solver++(2M)": (dpmpp_2m(), 1),
    "DPM-Solver++(3M)": (dpmpp_3m(), 1),
    "++(3M) as published": (dpmpp_3m(published=True), 1),
    "UniPC-2": (unipc(2), 1),
    "UniPC-3": (unipc(3), 1),
}

# %% [markdown] name="carried-text"
# All start from pure noise, $t = 1$. The truth is 1500 steps of UniPC-3; the error is the mean distance
# of the ends to it.


# %% name="carried"
def even(moves: int) -> list[float]:
    """Times from pure noise to lambda = 4.5, equally spaced in lambda."""
    most = vp.lam(1.0)
    return [vp.t_of_lam(most + (4.5 - most) * i / moves) for i in range(moves + 1)]


def carried(step, moves: int) -> Tensor:
    """Where a step takes ``start`` in this many moves."""
    return sample(walk(step, exact, start, even(moves))).x


truth = carried(unipc(3), 1500)
calls = [6, 12, 24, 48, 96, 192, 384]
error = {
    name: [(carried(step, n // k) - truth).norm(dim=1).mean().item() for n in calls]
    for name, (step, k) in RACERS.items()
}

# %% [markdown] name="race-figure-text"
# Both axes are logarithmic: a solver of order $p$ becomes a straight line that falls by $p$ decades
# for one decade of calls. The grey fan shows how steep the orders 1 to 4 are: lay a line beside it.
# Read the figure twice: the slopes on the right, and who is lowest on the left.

# %% name="race-figure"
fig = plots.lines(
    calls, error, xlabel="network calls", ylabel="mean error at the end", log="xy", markers=6
)
fig.set_size_inches(7.5, 4.6)
ax = fig.axes[0]
for line, colour in zip(ax.lines[7:], ("#332288", "#7B3F00")):
    line.set_color(colour)
for p in (1, 2, 3, 4):
    ax.plot([96, 384], [8, 8 * (96 / 384) ** p], color="0.7", marker="", ls="-", zorder=0)
    ax.text(395, 8 * (96 / 384) ** p, f"order {p}", color="0.45", fontsize=8, va="center")
ax.set_xlim(5, 640)
ax.legend(ncols=2, fontsize=8, loc="lower left")
plots.show(
    fig,
    alt="Nine falling lines of error against calls on logarithmic axes, and a grey fan of the slopes "
    "1 to 4. DDIM falls slowest; UniPC-3 fastest. At six calls Heun and DPM-Solver-2 are the worst.",
    caption="Error against network calls on an exact mixture. Slopes are orders; on the left, with "
    "few calls, the order says little.",
)

# %% [markdown] name="race-figure-seen"
# On the right the slopes are the orders. On the left the picture is another one: with six calls the
# two-call steps of Heun and DPM-Solver-2 are *worse than DDIM*, because they make three long steps
# where DDIM makes six. Multistep methods pay one call a step at any order, which is why they won.
# The next cell prints the errors on the left, and the slopes of the last two doublings.

# %% name="slopes" tags=["nbval-check-output"]
print("                  error at 6    at 12   order 96-192   192-384")
for name, e in error.items():
    slopes = [math.log2(e[i] / e[i + 1]) for i in (-3, -2)]
    print(f"{name:20s}{e[0]:8.2f}{e[1]:9.2f}{slopes[0]:15.1f}{slopes[1]:10.1f}")

# %% [markdown] name="slopes-seen"
# The table holds a surprise. UniPC-2 falls with order 3 and UniPC-3 nearly with order 4: the corrector
# looks at the point that has just been reached, whose call the next step needs anyway, and gains an order
# **for no call at all**. (A slope is the order only in the limit of short steps, and there the first
# steps, which have no past, would show: they leave order 3 to UniPC-3 and order 2 to ++(3M). From pure noise, where
# $\hat x_0$ hardly moves, their error is too small to be seen. A ++(3M) that starts in the middle takes a
# single step of order 3 first, two calls more.)
#
# And a warning: our ++(3M) is *not* the published rule. The formula that goes by this name in several
# libraries takes only half of the second-derivative term; ours is the rule that is exact for
# parabolas. The two rows of the table differ in nothing else, and the slopes tell them apart: 3
# for ours, 2 for the published one. Whether one would see it with a network and few calls is
# another question; the race below asks it.
#
# ### Exercise 3 (fill in): the line through two answers
#
# ++(2M) needs $\hat x_0$ along the coming step and has two answers: *before* (at $\lambda_0$) and
# *now* (at $\lambda_1$). It draws the line through both and reads it in the middle of the coming
# step, which ends at $\lambda_2$. Write that value $D$.
#
# <details><summary>Hint 1: nudge</summary>
#
# slope = (now - before) / (time between them); how far ahead is the middle?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $D = \mathrm{now} + \frac{h}{2 h_0}(\mathrm{now} - \mathrm{before})$ with $h = \lambda_2 - \lambda_1$,
# $h_0 = \lambda_1 - \lambda_0$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `now + (lam_next - lam_now) / (2 * (lam_now - lam_before)) * (now - before)`
# </details>


# %% name="my-line"
def line_ahead(now, before, lam_before, lam_now, lam_next):
    """D of DPM-Solver++(2M)."""
    ### BEGIN SOLUTION
    return now + (lam_next - lam_now) / (2 * (lam_now - lam_before)) * (now - before)
    ### END SOLUTION


# %% name="check-line"
check.line_ahead(line_ahead)

# %% [markdown] name="heun-text"
# With $D$ in the place of $\hat x_0$ the step is that of exercise 1:
# $x_s = \frac{\sigma_s}{\sigma_t}\,x_t + \alpha_s(1-e^{-h})\,D$. The first step has no *before*, so
# there $D = \hat x_0$.
#
# ### Exercise 4 (find the bug): Heun's second slope
#
# EDM's sampler works in $\sigma$ ($\alpha = 1$): the slope is $(x - D(x, \sigma))/\sigma$, Euler
# goes ahead along it, and Heun takes the mean of the slopes at both ends. This version runs, draws
# pictures, and is of first order. What is wrong?
#
# <details><summary>Hint 1: nudge</summary>
#
# Which noise level does the point have that Euler reached?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $d' = (x' - D(x', \sigma_{\text{next}}))/\sigma_{\text{next}}$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Replace `sigma` by `sigma_next` twice in the line of `second`.
# </details>


# %% name="repair-heun"
def heun_step(x, sigma, sigma_next, denoise):
    """One step of EDM's deterministic sampler."""
    ### BEGIN SOLUTION
    slope = (x - denoise(x, sigma)) / sigma
    ahead = x + (sigma_next - sigma) * slope
    second = (ahead - denoise(ahead, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + second) / 2
    ### END SOLUTION
    ### BEGIN STUB
    # slope = (x - denoise(x, sigma)) / sigma
    # ahead = x + (sigma_next - sigma) * slope
    # second = (ahead - denoise(ahead, sigma)) / sigma
    # return x + (sigma_next - sigma) * (slope + second) / 2
    ### END STUB


# %% name="check-heun"
check.heun_step(heun_step)

# %% [markdown] name="touch-text"
# ### Something to touch: watch them walk
#
# Choose a solver and a number of calls. Grey: the exact trajectories, from the open circles to the
# stars. Colour: the solver's states, one marker a step. Try 6 calls with DPM-Solver-2, then with UniPC-2; then find out how many calls
# DDIM needs for the error that UniPC-2 has at 8.


# %% name="touch"
fine = list(walk(unipc(3), exact, start[:6], even(200)))
paths = torch.stack([s.x for s in fine])
XLIM, YLIM = (
    (low - 0.4, high + 0.4)
    for low, high in zip(paths.amin((0, 1)).tolist(), paths.amax((0, 1)).tolist())
)


def look(solver, n):
    step, k = RACERS[solver]
    moves = max(n // k, 1)
    seen = torch.stack([s.x for s in walk(step, exact, start[:6], even(moves))])
    fig, ax = plots.axes(size=(5.2, 4.4))
    ax.plot(paths[..., 0], paths[..., 1], color="0.6", lw=2, marker="", ls="-")
    for i in range(6):
        ax.plot(seen[:, i, 0], seen[:, i, 1], color=plots.COLOURS[i], marker="o", ls="--", lw=1)
    ax.plot(*paths[0].T, color="k", marker="o", ls="", ms=9, mfc="none", label="start: noise")
    ax.plot(*paths[-1].T, color="k", marker="*", ls="", ms=10, label="exact end: data")
    wrong = (seen[-1] - paths[-1]).norm(dim=1).mean()
    ax.set(title=f"{moves} steps, {moves * k} calls: error {wrong:.3f}", xlabel="$x_1$")
    ax.set(ylabel="$x_2$", aspect="equal", xlim=XLIM, ylim=YLIM)
    ax.legend(fontsize=8)
    return fig


explore(
    look,
    solver=choice("solver", list(RACERS), "UniPC-2"),
    n=slider("network calls", 8, 3, 48, 1),
    alt=lambda solver, n: (
        f"Six trajectories from noise to a mixture of three Gaussians by {solver} with {n} calls, "
        "over the exact ones in grey."
    ),
    caption="Grey: exact trajectories, from circle to star. Colour: the solver's steps.",
)

# %% [markdown] name="grids-text"
# ## Where the steps lie
#
# A solver's order says how the error falls with the step; the *grid* says which steps are short.
# The same ten calls, onto clean data, with times equally spaced in $t$, in $\lambda$, quadratic in
# $t$, or as Karras et al. lay them (short at little noise).

# %% name="grids" tags=["nbval-check-output"]
clean = sample(walk(unipc(3), exact, start, grid(vp, 1000, "lambda", lam_range=(-5.0, 9.0)))).x
print("error at 10 calls    uniform   lambda  quadratic  karras")
for name, step in (("DDIM", samplers.ddim()), ("++(2M)", dpmpp_2m()), ("UniPC-2", unipc())):
    found = []
    for spacing in ("uniform", "lambda", "quadratic", "karras"):
        end = sample(walk(step, exact, start, grid(vp, 10, spacing))).x
        found.append((end - clean).norm(dim=1).mean().item())
    print(f"{name:18s}" + "".join(f"{value:10.2f}" for value in found))

# %% [markdown] name="grids-seen"
# The best grid depends on the data and on the solver. Here times quadratic in $t$ do best, and
# Karras et al.'s worst: made for pictures, they spend many of the ten steps at noise levels where
# nothing happens in this mixture any more. So say on which grid solvers were compared. The last
# step, onto clean data, is infinitely long in $\lambda$; there every solver here falls back to order
# 1 and returns $\hat x_0$. Lesson 08 learns the grid instead of choosing it.

# %% [markdown] name="fashion-text"
# ## The race on Fashion-MNIST
#
# Now with a network, and with quality instead of error: the Fréchet distance (FD, lesson 04), all
# samplers on the same network and the same first noise. These rows are stored; `diffusion-lab bench
# samplers` measures them again in less than an hour. FD is in units of A, the FD of real pictures
# with a little noise. The rules:
#
# - **The grid.** All fixed-step samplers use times uniform in $t$; Lu et al. use uniform $\lambda$ on
#   small pictures. What the grid does is in two rows of its own (UniPC-2, quadratic and lambda).
# - **The samplers that add noise.** *DDPM (eta = 1)* means ancestral steps with the posterior variance,
#   lesson 05's $\eta = 1$. *SDE-DPM-Solver++(2M)* solves the same reverse SDE with ++(2M)'s line through
#   two answers: in exercise 1's step $h$ becomes $2h$ in the weight of $D$, the state shrinks by a
#   further $e^{-h}$, and $\sigma_s\sqrt{1-e^{-2h}}\,z$ is added. *Heun with churn* (Karras et al.'s
#   stochastic sampler) first raises the noise level by fresh noise, from $\sigma/\alpha$ to
#   $(1+\gamma)\,\sigma/\alpha$ with $\gamma = 5/n$ (at most $\sqrt2-1$), and then makes Heun's step.
#   *EMSDE* chooses its steps by a tolerance (below); it has five here, from loose to the paper's.
# - **The limits.** All ODE solvers share the exact solution of *this network's* ODE as their limit, all
#   samplers of the SDE that of its SDE. Uniform times with $n$ calls never ask below $t = 1/n$ and
#   jump from there, so the limits are measured on times that go down to the last one, $t = 1/1000$.

# %% name="fashion-rows"
kept = race.stored("fashion-vp1000")
limits = [row for row in kept if row.details["limit"]]
ran = {name: [r for r in kept if r.details["sampler"] == name and r not in limits]
       for name in race.RACE}  # fmt: skip
value = {(name, r.details["asked"]): r.value for name, own in ran.items() for r in own}

# %% [markdown] name="limits-text"
# The two limits, and what is below them: the FD of as many real pictures, drawn without regard to
# class, as this network draws them.

# %% name="limits"
N = kept[0].details["pictures"]
floor_mean, floor_std = (v / metrics.noise_anchor(N) for v in metrics.real_floor(N, balanced=False))
print(f"{N} pictures a row; as many real ones have FD {floor_mean:.2f} +- {floor_std:.2f} A")
for row in limits:
    kind, who, k = (row.details[key] for key in ("kind", "sampler", "NFE"))
    print(f"limit of the {kind}: {row.value:.3f} A ({who}, {k} calls, uniform in lambda)")

# %% [markdown] name="fashion-text-2"
# A colour and a kind of line for each: solid lines solve the ODE, dashed ones add noise.

# %% name="fashion-lines"
shown = [name for name in ran if "," not in name and "published" not in name]
colours = dict(zip(shown, (*plots.COLOURS[:7], "#7B3F00", "0.55", "#332288", "#999933", "#882255")))


def draw_lines(ax) -> None:
    """FD against calls of all samplers in the figure, and the two limits."""
    for name in shown:
        ls = "-" if race.RACE[name].kind == "ODE" else "--"
        points = sorted((r.details["NFE"], r.value) for r in ran[name])
        ax.plot(*zip(*points), label=name, color=colours[name], ls=ls, ms=4)
    for row in limits:
        kind, ls = row.details["kind"], "-" if row.details["kind"] == "ODE" else "--"
        ax.axhline(row.value, color="0.4", ls=ls, marker="", lw=1, label=f"limit of the {kind}")


# %% [markdown] name="fashion-figure-text"
# Grey lines are the two limits. The right panel is the lower right of the left one, enlarged. Look
# left for who comes down first, and right for where the lines end.

# %% name="fashion"
fig, axs = plots.axes(1, 2, size=(4.6, 4.4))
for ax in axs:
    draw_lines(ax)
    ax.set(xscale="log", yscale="log", xlabel="network calls a picture")
    ax.set_xticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
axs[0].set_ylabel("FD in units of A")
axs[0].set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
axs[0].minorticks_off()
near = [r.value for name in shown for r in ran[name] if r.details["NFE"] >= 9 and name != "EMSDE"]
axs[1].set(xlim=(8.5, 260), yscale="linear", ylim=(0.9 * min(near), 1.1 * sorted(near)[-3]))
axs[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.show(
    fig,
    alt="Two panels of Frechet distance against network calls for twelve samplers, the right one "
    "enlarged from ten calls on. Multistep solvers come down first; samplers that add noise need "
    "more calls.",
    caption=f"Quality against network calls on Fashion-MNIST, {N} pictures a point, one network.",
)

# %% [markdown] name="within-text"
# The survey's question, "how many steps?", as a number: the fewest calls measured from which on a
# sampler stays at most 5 per cent above its own limit. (Below the limit counts as reached. Churn has a
# limit of its own, which was not measured.) EMSDE stands below the nearest number of calls, its own
# number in brackets (one of its five fits no column; it is in the figure). The last column is the CPU time of 1,000 pictures at ten calls on one core: a
# call costs nearly the same whoever asks, so calls are a fair currency.

# %% name="within"
budgets = (5, 10, 20, 50, 100, 200)


def cell(name: str, k: int) -> str:
    """FD at k calls; EMSDE's at the number of calls that is nearest to k, with that number."""
    if (name, k) in value:
        return f"{value[name, k]:.2f}"
    near = [r for r in ran[name] if not r.details["asked"] and 2 / 3 < r.details["NFE"] / k < 1.5]
    near.sort(key=lambda r: abs(math.log(r.details["NFE"] / k)))
    return f"{near[0].value:.2f} ({near[0].details['NFE']})" if near else "-"


print(" " * 20 + "".join(f"{k:>6d} calls" for k in budgets) + "  at most 5% above   core-s")
for name, own in ran.items():
    kind = race.RACE[name].kind
    found = within([*own, *limits], kind) or ("no" if kind in ("ODE", "SDE") else "")
    cost = [r.details["core-s for 1,000 pictures"] for r in own if r.details["asked"] == 10]
    cells = "".join(f"{cell(name, k):>12s}" for k in budgets)
    print(f"{name:20s}{cells}{found!s:>18s}" + "".join(f"{c:9.1f}" for c in cost))

# %% [markdown] name="pairs-text"
# One seed does not tell 1.05 from 1.00, so "ahead" below means at least 5 per cent less FD at the same
# number of calls; anything between is a tie. The pairs are chosen so that the two differ in one thing.

# %% name="pairs"
PAIRS = (
    ("what a second-order step is worth, ODE", "DPM-Solver++(2M)", "DDIM"),
    ("the same, SDE", "SDE-DPM-Solver++(2M)", "DDPM (eta = 1)"),
    ("noise on the way, first order", "DDPM (eta = 1)", "DDIM"),
    ("the same, second order", "SDE-DPM-Solver++(2M)", "DPM-Solver++(2M)"),
    ("the same, Heun", "Heun with churn", "Heun"),
    ("the corrector, order 2", "UniPC-2", "DPM-Solver++(2M)"),
    ("the corrector, order 3", "UniPC-3", "DPM-Solver++(3M)"),
    ("a parabola for a line", "DPM-Solver++(3M)", "DPM-Solver++(2M)"),
    ("the whole parabola, not half of it", "DPM-Solver++(3M)", "++(3M) as published"),
    ("calls inside the step, order 2", "DPM-Solver-2", "DPM-Solver++(2M)"),
    ("two calls for one step", "DPM-Solver-2", "DDIM"),
    ("a quadratic grid", "UniPC-2, quadratic", "UniPC-2"),
    ("a grid uniform in lambda", "UniPC-2, lambda", "UniPC-2"),
)

# %% [markdown] name="judged-text"
# The rule for a tie, in one function:


# %% name="judged"
def judged(one: str, other: str, k: int) -> str:
    """What the race says of ``one`` against ``other`` at k calls."""
    if (one, k) not in value or (other, k) not in value:
        return "-"
    ratio = value[one, k] / value[other, k]
    word = "ahead" if ratio < 0.95 else "behind" if ratio > 1 / 0.95 else "tie"
    return f"{word} {ratio:.2f}"


# %% [markdown] name="duels-text"
# Behind each word stands the ratio of the two FD. The last line counts ODE solvers that end below
# their own limit.

# %% name="duels"
print(" " * 36 + "".join(f"{k:>7d} calls" for k in budgets))
for what, one, other in PAIRS:
    print(f"{what:36s}" + "".join(f"{judged(one, other, k):>13s}" for k in budgets))
limit_of = {row.details["kind"]: row.value for row in limits}
fixed = [name for name in shown if race.RACE[name].kind == "ODE" and (name, 50) in value]
below = [name for name in fixed if value[name, 50] < limit_of["ODE"]]
print(f"ODE solvers below their own limit with 50 uniform steps: {len(below)} of {len(fixed)}")

# %% [markdown] name="within-seen"
# Read the table pair by pair.
#
# - **Few calls: every answer counts.** At five calls the solvers with one call a step come in the order
#   of how much they make of it: DDIM, then ++(2M) and UniPC-2, then ++(3M) and UniPC-3. The corrector
#   and the parabola gain most here, and less with every doubling; whether the parabola is whole
#   or half makes no difference that one could see. Single steps have fewer, longer ones to
#   make: DPM-Solver-3, three steps with five calls, is last of all, as solvers with two calls a step
#   were on the exact mixture.
# - **Noise on the way needs a good step.** At five or ten calls DDPM's first-order step loses to DDIM; a
#   second-order step for the same SDE does not (against ++(2M) it still loses at five). With more calls fresh noise repairs errors that the
#   ODE carries along faithfully; the rows "noise on the way" tell from where on. (Churn of this
#   strength puts back much less noise, and is a tie.) EMSDE draws from the same SDE with steps of its
#   own: its tolerance must be tight before the pictures are clean. (The paper compares it with
#   Euler-Maruyama; so do we, below.)
# - **The grid counts as much as the solver.** At five calls UniPC-2 on times uniform in $\lambda$ is behind
#   DDIM on times uniform in $t$: compare the two rows of the table. Which grid is best depends on the
#   number of calls: quadratic times are good at five and behind at ten.
# - **Converged is not best.** The last line above counts solvers that are *below* the limit of their own
#   equation. That can happen where the network's answers at little noise make pictures worse: uniform
#   steps skip them. The cell after the next tries it.
#
# How sure is the order? Each row is *one* seed. All samplers start from the same noise, so differences
# between ODE solvers are surer than the values themselves; those that add noise go their own ways.
# Follow DDPM from 50 to 200 calls: where it goes up and down again, that is hardly the solver, it is
# how far one draw moves. So "at most 5% above" is a fine reading for ODE solvers and a rough one for
# the others. The cell draws three seeds of two pairs, with fewer pictures.

# %% name="seeds"
n = lessons.pick(smoke=20, live=100, full=500)
anchor = metrics.noise_anchor(n)
for k, one, other in (
    (5, "DPM-Solver++(3M)", "UniPC-2"),
    (20, "SDE-DPM-Solver++(2M)", "DPM-Solver++(2M)"),
):
    found = [
        [metrics.fd(generate(model, n, seed=i, **race.settings(name, model, k)).x) / anchor
         for i in range(3)]
        for name in (one, other)
    ]  # fmt: skip
    for name, row in zip((one, other), found):
        print(f"{k:2d} calls  {name:20s} seeds 0-2:" + "".join(f"{v:6.2f} A" for v in row))
    gaps = [a - b for a, b in zip(*found)]
    word = "one sign" if max(gaps) * min(gaps) > 0 else "both signs"
    print(f"{'':9s}{'difference':20s}          " + "".join(f"{v:+6.2f} A" for v in gaps), word)

# %% [markdown] name="seeds-seen"
# Compare how far a value moves from seed to seed with how far two solvers are apart: with so few
# pictures the first is often the larger. It is the difference *at the same seed* that tells something,
# and only where it has one sign for all seeds. So gaps of a few hundredths in the tables above are
# open; gaps such as DDIM's at five calls are not.
#
# Now the last stretch. Twenty uniform steps end with one long step from $t = 1/20$ to $\hat x_0$; the
# limit's steps go all the way down. The same solver, the same number of calls, with and without
# that last stretch, for two seeds:

# %% name="tail"
n = lessons.pick(smoke=20, live=80, full=500)
stop, found = model.schedule.lam(1 / 20), {}
for name, top in (("down to t = 1/1000", model.lam_range[1]), ("stop at t = 1/20", stop)):
    how = {"spacing": "lambda", "lam_range": (model.lam_range[0], top), "sampler": "unipc"}
    how["steps"] = lessons.pick(smoke=8, live=25)
    found[name] = [metrics.fd(generate(model, n, seed=i, **how).x) for i in (0, 1)]
    text = " and ".join(f"{fd / metrics.noise_anchor(n):.2f} A" for fd in found[name])
    print(f"{name:20s} FD {text}   (N = {n}, seeds 0 and 1)")
gains = [a - b for a, b in zip(*found.values())]
print("stopping early is better for", sum(gain > 0 for gain in gains), "of 2 seeds")

# %% [markdown] name="tail-seen"
# Where stopping early is better for both seeds, the network's answers at little noise make pictures
# worse, and a coarse grid that skips them is below its own limit in the table above. Where it is not,
# the last stretch is worth its calls. In both cases "at most 5% above" says when a solver has
# stopped mattering, not when pictures are best. (FD from few pictures comes out too high, for all
# alike; lesson 04. Compare only equal N.)
#
# A small race of your own, live, with the EDM-trained network of lesson 03 (with classes, no
# guidance). Its floor is the FD of as many real pictures, the same number of each class.

# %% name="live"
edm_model = checkpoints.load_denoiser("fashion")
n = lessons.pick(smoke=20, live=150, full=1000)
label = torch.arange(n) % 10
anchor = metrics.noise_anchor(n)
lowest, spread = (v / anchor for v in metrics.real_floor(n))
scores = {}
print(f"real pictures: FD {lowest:.2f} +- {spread:.2f} A   (N = {n})")
for name in ("DDIM", "DPM-Solver++(2M)", "UniPC-2", "Heun"):
    for k in (5, 9):
        how = race.settings(name, edm_model, k)
        drawn, cost = metrics.measure(
            edm_model,
            lambda how=how: generate(edm_model, n, label=label, seed=3, **how),
            pictures=n,
        )
        fd = metrics.fd(drawn.x) / anchor
        scores[name, k] = fd, cost
        word = "near the floor" if fd < lowest + 3 * spread else ""
        print(f"{name:18s} {k:2d} calls   FD {fd:5.2f} A   {word}")

# %% [markdown] name="live-seen"
# The first line is where FD stops ranking: "near the floor", within three standard deviations of real
# pictures, the second digit says nothing. Where no such word stands, the solver or the network
# still has something to answer for. At five calls the solvers are far apart. Heun makes three steps of
# them, and five of nine calls: it has not arrived. The other three differ at nine calls by less than
# a draw of so few pictures moves (the seeds above), so nobody wins there.
#
# ### Guidance, and what clipping is for
#
# Guidance (`scale=`, seen in lesson 00; lesson 14 explains it) pushes the answer away from the one
# that knows no class: far out at scale 6, and long steps of high order become
# unstable. DPM-Solver++ answers with two things: it works with $\hat x_0$, and it can keep
# $\hat x_0$ within the range of data. (The paper's *dynamic thresholding* takes a quantile of each
# picture as the bound where it is larger than 1, and divides by it; `clip=(-1, 1)` is its simple form
# with a fixed bound.) Scale 6 and ten steps' worth of calls, the same noise for all:

# %% name="clip"
count = lessons.pick(smoke=10, live=50)
label, guided_rows = torch.arange(count) % 10, {}
for name, how in (
    ("DPM-Solver-3, noise form", race.settings("DPM-Solver-3", edm_model, 10)),
    ("++(2M)", {"sampler": "dpmpp", "steps": 10}),
    ("++(2M), clipped", {"sampler": "dpmpp", "steps": 10, "clip": (-1.0, 1.0)}),
):
    x = generate(edm_model, count, label=label, scale=6.0, seed=4, **how).x
    guided_rows[name] = x[:8]
    outside = 100 * (x.abs() > 1.02).float().mean()
    print(
        f"{name:25s} pixels outside of the data's range: {outside:4.1f}%, largest {x.abs().max():.1f}"
    )

# %% [markdown] name="clip-figure-text"
# The pictures, cut off at black and white as a screen does. Look at the first shirt.

# %% name="clip-figure"
stack = [row.clamp(-1, 1) for row in guided_rows.values()]
plots.show(
    plots.strip(stack, labels=["Solver-3", "++(2M)", "clipped"]),
    alt="Three rows of eight strongly guided garments by DPM-Solver-3, DPM-Solver++(2M), and the "
    "latter with clipping.",
    caption="Guidance scale 6, ten calls (each of two evaluations): the same noise and classes.",
)

# %% [markdown] name="clip-seen"
# The noise form leaves the most pixels outside of the range, and draws false stripes into the first
# shirt; ++ leaves fewer at the same number of calls; clipping leaves none, and what is cut off at one
# step is not carried on to the next. It does not undo guidance itself: clothes drawn at this scale
# are harder in contrast than real ones, with or without it.

# %% [markdown] name="emsde-text"
# ## Steps that choose themselves: EMSDE
#
# The reverse SDE has a second-order solver too, stochastic Heun, and it comes with an error estimate
# for free. *Gotta Go Fast* (the survey's EMSDE) uses it to choose every step of every sample:
#
# - **try** a step $h$ with one draw of noise $z$ and the reverse drift $D(x, t) = f x - g^2\,$score:
#   Euler-Maruyama gives $x'$, and a second call, at $x'$, a step with the slope of the other end:
#   $$ x' = x - h\,D(x, t) + \sqrt h\,g(t)\,z, \qquad
#   \tilde x = x - h\,D(x', t-h) + \sqrt h\,g(t-h)\,z, $$
#   and the better answer is their mean, $x'' = (x' + \tilde x)/2$;
# - **measure** $E$, the root mean square over all pixels of $(x' - x'')/\delta$, where $\delta$ is
#   what may go unseen: the larger of `abs` and `rel` times the size of the pixel;
# - **accept** $x''$ if $E \le 1$, otherwise throw the trial away. Both cost two calls;
# - **next** $h$: $0.9\,h\,E^{-0.9}$, and never beyond the end.
#
# ### Exercise 5 (fill in): the next step
#
# <details><summary>Hint 1: nudge</summary>
#
# A large error must shorten the step; the end must be met, not passed.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $h \leftarrow \min(\text{left},\; 0.9\,h\,E^{-0.9})$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `min(left, 0.9 * h * error ** -0.9)`
# </details>


# %% name="my-size"
def next_size(h, error, left):
    """The next trial's step."""
    ### BEGIN SOLUTION
    return min(left, 0.9 * h * error**-0.9)
    ### END SOLUTION


# %% name="check-size"
check.next_size(next_size)

# %% [markdown] name="steps-text"
# Data with as many dimensions as a picture has pixels, and an exact score: 784 independent
# coordinates, each a mixture of two Gaussians. Eight samples, each with its own steps. Where are
# they long?

# %% name="steps"
smooth = toys.product(784).denoiser(vp)
ends = [1.0, 1e-3, 0.0]
x = torch.randn(8, 784, generator=generator(1), dtype=torch.float64)
rounds = list(walk(emsde(rel=0.05), smooth, x, ends, noise=gaussian(generator(2))))
trials = [(a.times, b.tried, b.error <= 1) for a, b in zip(rounds, rounds[1:-1])]
at, size, good = (torch.stack(part).flatten() for part in zip(*trials))
fig, ax = plots.axes(size=(6.5, 3.2))
for which, marker in ((good & (size > 0), "o"), (~good, "x")):
    ax.plot(at[which], size[which], ls="", marker=marker, ms=4)
ax.set(xlabel="time t     data ... noise", ylabel="step tried", yscale="log")
plots.show(
    fig,
    alt="Scatter of step sizes over time for eight samples: steps begin at 0.01 at t = 1, grow "
    "towards the middle and shrink towards the data; a few refused trials are marked with crosses.",
    caption="Steps of eight samples. Circles were accepted, crosses refused.",
)

# %% [markdown] name="counts-text"
# And what did it cost? Every trial is two calls, refused or not, and each sample has its own count.

# %% name="counts"
last = rounds[-1]
print(f"calls a sample: {last.calls.min()} to {last.calls.max()}, refused trials included")
print(f"refused, on average: {last.rejected.double().mean():.1f}")

# %% [markdown] name="steps-seen"
# The first step is a guess, and grows. Steps are longest in the middle, shorter in the noise (where this
# schedule's $g$ is large) and much shorter near the data: the solver finds by itself what grids are
# designed for. With hundreds of coordinates the error estimate is an average and hardly fluctuates, so
# few trials are refused and all samples do nearly the same.
#
# Does it pay? For each tolerance the same law is drawn by Euler-Maruyama with as many equal steps as
# EMSDE needed calls, from the same start down to the same last time, $t = 1/1000$, for several seeds.
# The score is the Wasserstein-1 distance of
# all coordinates to exact draws; the "floor" is that distance for exact draws themselves. Two things
# forbid a verdict: a distance below twice the floor, and a ratio less than three standard errors
# from 1.

# %% name="adaptive"
count, seeds = lessons.pick(smoke=20, live=150), range(lessons.pick(smoke=2, live=4))
one_d = toys.two_class()
real = one_d.sample(10 * count * 784, generator(5))[:, 0].sort()[0][5::10].float()


def distance(drawn: Tensor) -> float:
    """Wasserstein-1 distance of all coordinates to exact draws."""
    return (drawn.flatten().sort()[0] - real).abs().mean().item()


def duel(rel: float, seed: int) -> list[float]:
    """Calls and distance of EMSDE, and the distance of as many steps of Euler-Maruyama."""
    x = torch.randn(count, 784, generator=generator(6 + seed))
    own = sample(walk(emsde(rel=rel), smooth, x, ends, noise=gaussian(generator(20 + seed))))
    equal = grid(vp, own.nfe, "linspace")  # down to 1/1000, where EMSDE ends too
    plain = walk(euler_maruyama(), smooth, x, equal, noise=gaussian(generator(20 + seed)))
    return [own.nfe, distance(own.x), distance(sample(plain).x)]


exact_draws = [one_d.sample(count * 784, generator(30 + seed))[:, 0].float() for seed in seeds]
floor = sum(map(distance, exact_draws)) / len(seeds)
duels = {rel: torch.tensor([duel(rel, seed) for seed in seeds]) for rel in (0.3, 0.2, 0.1)}

# %% [markdown] name="verdicts-text"
# The ratio is Euler-Maruyama's distance over EMSDE's, seed by seed: above 1 EMSDE is ahead.

# %% name="verdicts"
verdicts = []
print(f"floor {floor:.4f}, {len(seeds)} seeds")
for rel, rows in duels.items():
    k, own, plain = rows.mean(0).tolist()
    ratios = rows[:, 2] / rows[:, 1]
    ratio, error_bar = ratios.mean().item(), ratios.std().item() / math.sqrt(len(seeds))
    word = "EMSDE ahead" if ratio > 1 else "Euler-Maruyama ahead"
    if abs(ratio - 1) < 3 * error_bar:
        word = "cannot tell"
    elif min(own, plain) < 2 * floor:
        word += ", but near the floor: cannot tell by how much"
    verdicts.append(f"{ratio:.2f} +- {error_bar:.2f} at {k:.0f} calls: {word}")
    print(f"rel {rel:.1f}  EMSDE {own:.4f}  Euler-Maruyama {plain:.4f}  ratio {verdicts[-1]}")

# %% [markdown] name="adaptive-seen"
# So the answer depends on how exact one wants to be. At the loosest tolerance the two are level; the
# ratio grows as the tolerance gets tighter, since a solver of higher order gains when the steps are
# short. Where EMSDE's distance is near that of exact draws, the size of the gain cannot be read from
# so few. Nothing here confirms (or refutes) the paper's larger factors. What one has in any case:
# nobody had to choose a number of steps. The tolerance is the knob instead.
#
# ### Why not in two dimensions
#
# Here is a trap that is easily missed. After a refusal the method draws *fresh* noise. With few
# coordinates $E$ depends on the draw, and then it depends on the draw whether it is kept. The cell
# shows it in one dimension, on data with variance 1, with and without the cure: draw the Brownian
# path first and let trials only read it (`path=`). For the fresh noise it also looks at all draws
# that were accepted: the mean of $z^2$, and the mean of $z$ counted positive where it points away
# from 0.

# %% name="trap" tags=["nbval-check-output"]
normal, drawn = Gaussian([0.0], [[1.0]]).denoiser(vp), []
x = torch.randn(4000, 1, generator=generator(9), dtype=torch.float64)


def remembered(i: int, like: Tensor) -> Tensor:
    """The next draw of fresh noise, which is kept to look at it afterwards."""
    drawn.append(fresh(i, like))
    return drawn[-1]


for name, path in (("path kept", 512), ("fresh noise", None)):
    fresh = gaussian(generator(10))
    noise = fresh if path else remembered
    states = list(walk(emsde(rel=0.01, abs=0.02, path=path), normal, x, [0.5, 0.01], noise=noise))
    variance = states[-1].x.var().item()
    off = abs(variance - 1) / math.sqrt(2 / 4000)
    print(f"{name:12s} variance {variance:.2f}: {'more' if off > 4 else 'less'} than 4 standard "
          "errors from 1")  # fmt: skip
passed = [(b.tried > 0) & (b.error <= 1) for b in states[1:]]  # the last run: fresh noise
squares = [z[ok].square() for ok, z in zip(passed, drawn)]
outward = [(z * a.x.sign())[ok] for ok, z, a in zip(passed, drawn, states)]
print(f"accepted noise: mean z^2 {torch.cat(squares).mean():.2f}, "
      f"outward {torch.cat(outward).mean():+.2f} (of all noise drawn: 1 and 0)")  # fmt: skip

# %% [markdown] name="trap-seen"
# The marginal law of the exact answer is $N(0, 1)$ at every time, so any other variance is the
# solver's. Large noise is refused more often than small, so the noise that is accepted is no longer
# $N(0,1)$: it is smaller, and it depends on $x$. Here outward noise passes more often than inward
# noise, and the variance comes out almost half too large: from the smaller noise alone one would have
# guessed the wrong sign. In picture-sized problems $E$ hardly depends on the draw and the bias is
# small; in toys it is what you would measure.

# %% [markdown] name="idsd-text"
# ## Stochastic sampling for a purpose: IDSD
#
# Give a network a noisy picture $y = x_0 + \sigma_0 n$ and it returns $E[x_0 \mid y]$: the smallest
# squared error, and too smooth, since it averages over all pictures that $y$ might be. A *draw* from
# $p(x_0 \mid y)$ looks like a picture. Kawar, Vaksman and Elad (one reading of the survey's
# undefined label IDSD) get it from a plain denoiser by Langevin dynamics, started **at the noisy
# picture itself**.
#
# There is a shorter way to see it. $y$ *is* a state of the diffusion, the one at noise level
# $\sigma_0$. Running the reverse SDE from there samples $p(x_0 \mid y)$ as it is, with no further
# term and far fewer calls. Both, on test pictures:

# %% name="idsd"
count = lessons.pick(smoke=4, live=8)
truth_x = data.load("fashion", "test").x[20 : 20 + count]
sigma0 = 0.5
y = truth_x + sigma0 * torch.randn(truth_x.shape, generator=generator(11))
best = idsd.mmse(edm_model, y, sigma0)
begin, times = idsd.from_noisy(edm_model, y, sigma0, lessons.pick(smoke=8, live=30), "karras")
draws = [
    sample(walk(ddpm(), edm_model, begin, times, noise=gaussian(generator(seed)))).x
    for seed in (12, 13)
]
sigmas = idsd.levels(sigma0, 0.03, 10)
updates = lessons.pick(smoke=2, live=12)
slow, slower = (
    sample(idsd.langevin(edm_model, y, sigma0, sigmas, k, rate=a, noise=gaussian(generator(14))))
    for k, a in ((updates, 0.3), (3 * updates, 0.3))
)

# %% [markdown] name="idsd-figure-text"
# Top to bottom: truth, what is given, the best guess, two draws from $y$ by the reverse chain, one
# by Langevin dynamics. Look at collars, soles and handles: where do the draws differ from each other?

# %% name="idsd-figure"
stack = [truth_x, y, best, *draws, slow.x]
stack = [one_row[:8].clamp(-1, 1) for one_row in stack]
words = ["truth", "given", "best guess", "draw 1", "draw 2", "Langevin"]
plots.show(
    plots.strip(stack, labels=words),
    alt="Six rows of garments: the truth, noisy versions, a smooth best guess, two sharper draws "
    "that differ in detail, and a Langevin draw.",
    caption="The best guess is smooth; draws are sharp and differ where the noisy picture is silent.",
)
for name, found, k in (
    ("best guess", best, 1),
    ("draw from y", draws[0], len(times) - 1),
    ("Langevin", slow.x, slow.nfe),
    ("same, longer", slower.x, slower.nfe),
):
    mse = (found - truth_x).square().mean().item()
    price_seen = mse / (best - truth_x).square().mean().item()
    print(f"{name:12s} {k:4d} calls   MSE {mse:.4f}, {price_seen:.1f} times the best guess's   "
          f"PSNR {10 * math.log10(4 / mse):.1f} dB")  # fmt: skip

# %% [markdown] name="idsd-seen"
# The draws agree where $y$ decides and differ where it does not. The Langevin row is still noisy, and
# a true draw has on average twice the error of the best guess (the exercise below). The first suspect
# is the chain: with few updates at a level it has not *mixed*, that is, not forgotten where it came
# from. If the chain were too short, three times the updates at the same step ("longer") would lower
# the error. On the Gaussian below, where the score is exact, that change brings the mean closer to
# the truth. If the error of the pictures rises instead, it is not the length: it is the network's
# score, followed hundreds of times.
#
# The squared error of every draw is larger than the best guess's. By how much?
#
# ### Exercise 6 (derive): the price of realism
#
# Truth and draw are two independent samples of $p(x_0 \mid y)$. What is the expected squared error
# of a draw, divided by that of the mean $E[x_0 \mid y]$?
#
# <details><summary>Hint 1: nudge</summary>
#
# $x_0 - \mathrm{draw} = (x_0 - \mathrm{mean}) - (\mathrm{draw} - \mathrm{mean})$
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The two brackets are independent with the same variance.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `(V + V) / V`
# </details>

# %% name="my-price"
### BEGIN SOLUTION
price = 2.0
### END SOLUTION

# %% name="check-price"
check.posterior_price(price)

# %% [markdown] name="idsd-exact-text"
# Both, checked where everything is known: data $N(1, 0.5)$, $\sigma_0 = 0.8$, $y = -0.5$. The posterior is
# a Gaussian too. The chain from $y$ has the right mean from the start; its variance is right only
# with many steps, as DDPM's small variance is too small when steps are long (lesson 02). The last two
# rows are the paper's own algorithm, with 12 and with 36 updates at each of ten levels.

# %% name="idsd-exact" tags=["nbval-check-output"]
known = Gaussian([1.0], [[0.5]]).denoiser(vp)
y1 = torch.full((20000, 1), -0.5, dtype=torch.float64)
print(f"exact            mean {(2 - 0.5 / 0.64) / (2 + 1 / 0.64):.2f}  "
      f"variance {1 / (2 + 1 / 0.64):.2f}")  # fmt: skip
for steps in (10, 50, 400):
    x1, times1 = idsd.from_noisy(known, y1, 0.8, steps)
    end = sample(walk(ddpm(), known, x1, times1, noise=gaussian(generator(15)))).x
    print(f"{steps:4d} calls       mean {end.mean():.2f}  variance {end.var():.2f}")
sigmas1 = idsd.levels(0.8, 0.03, 10)
for k in (12, 36):
    noise = gaussian(generator(18))
    end = sample(idsd.langevin(known, y1[:5000], 0.8, sigmas1, k, rate=0.3, noise=noise))
    print(f"Langevin {end.nfe:3d}    mean {end.x.mean():.2f}  variance {end.x.var():.2f}")

# %% [markdown] name="residual-text"
# The other reading of the label (Whang et al., deblurring by stochastic refinement) draws only what
# a one-call predictor $P(y)$ leaves over, $r = x_0 - P(y)$. With Gaussian noise the denoiser of $r$
# follows from the one we have: `idsd.residual`. It starts from pure noise, but $r$ is small, so few
# calls do. The mean of many draws is $P(y)$ again. It is tried on the first four pictures only, so
# compare with the rows printed here, not with those of all pictures above.

# %% name="residual"
rest, predicted = idsd.residual(edm_model, y[:4], sigma0)
begin_r = edm_model.schedule.prior_std() * torch.randn(y[:4].shape, generator=generator(16))
times_r = grid(edm_model.schedule, lessons.pick(smoke=6, live=16), "karras", lam_range=(-2.9, 4.6))
drawn_r = sample(walk(ddpm(), rest, begin_r, times_r, noise=gaussian(generator(17)))).x + predicted
for name, found in (
    (f"residual, {len(times_r) - 1} calls and one for P(y)", drawn_r),
    (f"draw from y, {len(times) - 1} calls", draws[0][:4]),
    ("P(y) itself, 1 call", predicted),
):
    print(f"{name:36s} MSE {(found - truth_x[:4]).square().mean():.4f}  (the first 4 pictures)")

# %% [markdown] name="helps"
# ## When it does not help
#
# - **Five or six calls.** A high order is a statement about short steps. With five or six calls,
#   single-step methods make two or three long ones, and some of them lose to DDIM in each of our
#   races; a multistep method from pure noise is of order 1 in its first step and, onto clean data, in its
#   last one anyway.
# - **A network's error.** Once the solver's error is below the network's, FD says nothing about the
#   solver any more. The race's column "at most 5% above" says from where on.
# - **Noise form at high noise.** $\hat\epsilon$ read as $\hat x_0$ is multiplied by $\sigma/\alpha$;
#   with strong guidance DPM-Solver of order 3 becomes unstable, as seen above.
# - **Adaptive steps in few dimensions**, or with a batch that must end together: the slowest sample
#   decides, and refused trials bias the law.
# - **When noise should repair the network.** ODE solvers follow the network's errors faithfully;
#   samplers of the SDE forget them. The rows "noise on the way" say from how many calls on that pays.

# %% [markdown] name="cost-text"
# ## What did it cost
#
# The rows that this lesson adds to the course's running table: the live race with the EDM-trained
# network, at nine calls.

# %% name="cost"
rows = [
    {"system": f"{name}, {k} calls", **cost.row(), "FD / A": round(found, 2), "N": n}
    for (name, k), (found, cost) in scores.items()
    if k == 9
]
lessons.cost_row(7, *rows)

# %% [markdown] name="overhead-text"
# And the samplers themselves? Beside a network of this size their own arithmetic is lost. It was
# measured with an MLP so small that it shows (`diffusion-lab bench overhead`): CPU time of the whole
# run over that of its network calls alone.

# %% name="overhead"
measured = {row.case: row.value for row in recorded("overhead") if row.case.endswith(", no bar")}
ours = {case.split(", no")[0]: v for case, v in measured.items() if ":" not in case}
for case, v in sorted(ours.items(), key=lambda pair: pair[1]):
    if case in ("ddim", "ddpm", "dpmpp", "dpmpp-sde", "unipc", "heun") or v == max(ours.values()):
        print(f"{case:25s} {v:.2f} x the bare network calls")

# %% [markdown] name="paper-text"
# ## Paper against here
#
# Papers report FID on CIFAR-10; here it is FD in A on Fashion-MNIST with a network a hundred times
# smaller. What can be compared are rankings and numbers of calls. FD here is one seed, so less than
# 5% counts as a tie. First the words in which a line of the comparison is written:


# %% name="paper-words"
def told(name: str) -> str:
    """FD and calls of a sampler's stored rows."""
    return ", ".join(f"{r.value:.2f} A at {r.details['NFE']}" for r in ran[name])


def first_three(k: int) -> str:
    """The best at about k calls."""
    return ", ".join(f"{name} {value:.2f} A" for value, name in order_at[k][:3])


def against(one: str, other: str) -> str:
    """Ratio and verdict at 5, 10, 20 and 50 calls."""
    return ", ".join(f"{judged(one, other, k)} at {k}" for k in (5, 10, 20, 50))


# %% [markdown] name="paper-lines"
# Then the lines, each a claim and what was measured here.

# %% name="paper"
order_at = {
    k: sorted((v, name) for (name, asked), v in value.items() if asked == k and "," not in name)
    for k in (5, 10, 20, 50)
}
few = {x: within([*ran[x], *limits], "ODE") for x in ("DPM-Solver-2", "DPM-Solver-3", "DDIM")}
known_few = [k for k in (few["DPM-Solver-2"], few["DPM-Solver-3"]) if k]
gains = few["DDIM"] is None or (known_few and min(known_few) < few["DDIM"])
price_seen = (draws[0] - truth_x).square().mean() / (best - truth_x).square().mean()
lines = [
    ("DPM-Solver: high quality in 10-20 calls", f"at most 5% above the limit from: {few}"),
    ("", "DDIM needs more" if gains else "DDIM needs no more"),
    ("++(2M) beats DDIM at equal calls", against("DPM-Solver++(2M)", "DDIM")),
    ("UniPC-2 beats ++(2M) at equal calls", against("UniPC-2", "DPM-Solver++(2M)")),
    ("UniPC-3 beats ++(3M) at equal calls", against("UniPC-3", "++(3M) as published")),
    ("    and our ++(3M)", against("UniPC-3", "DPM-Solver++(3M)")),
    ("UniPC: best at 5-10 calls", f"at 5: {first_three(5)}"),
    ("", f"at 10: {first_three(10)}"),
    ("SDE++(2M): good pictures in 20 calls", against("SDE-DPM-Solver++(2M)", "DDPM (eta = 1)")),
    ("EMSDE: 2-10 x fewer calls than Euler-Maruyama", "distances in 784 exact dimensions, ratio"),
    *(("", text) for text in verdicts),
    ("EMSDE against DDPM's own step", told("EMSDE")),
    ("", f"DDPM {told('DDPM (eta = 1)')}"),
    ("posterior draws: twice the squared error", f"{price_seen:.1f} times, {count} pictures"),
]  # fmt: skip
for claim, here in lines:
    print(f"{claim:48s} {here}")

# %% [markdown] name="recap"
# ## Recap
#
# - In $\lambda$ the sampling ODE is a linear part, solved exactly, plus one integral over the
#   network's answer. Order 1 of that is DDIM.
# - Order is the slope of error against calls. Measure it; names can lie.
# - Single steps pay $p$ calls for order $p$; multistep methods one; UniPC's corrector gains an order
#   for none.
# - With five calls, what counts is how much a step makes of one call; with twenty, the network is what
#   one sees. Converged is not best.
# - EMSDE compares two solutions to choose its steps, in every sample by itself; refused trials count.
# - A noisy picture is a state of the diffusion: start there, not from noise. A realistic answer
#   costs twice the squared error of the best one.
#
# Next: lesson 08 asks which steps to take, and lets the data answer.

# %% [markdown] name="reading"
# ## Further reading
#
# - Lu et al. 2022, *DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in
#   Around 10 Steps*, arXiv 2206.00927; and *DPM-Solver++*, arXiv 2211.01095.
# - Zhao et al. 2023, *UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion
#   Models*, arXiv 2302.04867.
# - Karras et al. 2022, *Elucidating the Design Space of Diffusion-Based Generative Models*, arXiv
#   2206.00364: Heun, churn, the grid with $\rho = 7$.
# - Jolicoeur-Martineau et al. 2021, *Gotta Go Fast When Generating Data with Score-Based Models*,
#   arXiv 2105.14080: EMSDE.
# - Kawar, Vaksman and Elad 2021, *Stochastic Image Denoising by Sampling from the Posterior
#   Distribution*, arXiv 2101.09552; Whang et al. 2021, *Deblurring via Stochastic Refinement*, arXiv
#   2112.02475.
# - Hochbruck and Ostermann 2010, *Exponential integrators*, Acta Numerica 19: where $\varphi_k$ come
#   from.
