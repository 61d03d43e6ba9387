# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 07 Solvers: how do 1000 steps become 10?
#
# A trained network says, at every noise level, where the clean picture probably is. A sampler asks
# it again and again on the way from noise to data. The network is the expensive part; the sampler
# decides how often it is asked. In this lesson nothing is trained: the same network, asked 10 times
# instead of 1000, by solvers that know more about the equation they solve.
#
# **Goals.** You will be able to
# - write the sampling equation so that its linear part is solved exactly and only the network is
#   approximated,
# - write a solver's whole walk, measure its order, and say what it is worth when calls are few,
# - tell single-step, multistep and predictor-corrector methods apart by what they do with a call,
# - let a stochastic solver choose its own steps, and count what its refused trials cost,
# - draw from p(clean picture | noisy picture) and say what a realistic picture costs in squared error,
# - say when a higher order does not help.
#
# **Prerequisites.** $\lambda = \log(\alpha/\sigma)$ (lesson 01), $\hat x_0$ and $\hat\epsilon$
# (lesson 02), the Fréchet distance (lesson 04), DDIM (lesson 05) and the probability-flow ODE (lesson 06).
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
# What the first picture needs; the rest is imported where it is used.

# %% name="imports"
import torch

from diffusion_lab import checkpoints, metrics
from diffusion_lab.course import lessons, plots
from diffusion_lab.course.bench import samplers as race
from diffusion_lab.course.checks import lesson07 as check
from diffusion_lab.course.showing import show_table
from diffusion_lab.device import generator
from diffusion_lab.generate import generate

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
ten_calls = [generate(model, 8, seed=7, **race.settings(name, model, 10)).x for name in names]
far = lessons.pick(smoke=20, live=100)
arrived = generate(model, 8, seed=7, sampler="unipc", steps=far).x
gaps = [(x - arrived).square().mean().sqrt().item() for x in ten_calls]
rows = [{"ten calls of": name, "distance a pixel": gap} for name, gap in zip(names, gaps)]
show_table(rows, title=f"Distance to the row with {far} calls", digits={"distance a pixel": ".2f"})

# %% [markdown] name="ten-figure-text"
# These are distances (root mean squares) to a row that asked many more times. The pictures:

# %% name="ten-figure"
fig = plots.strip([noise_only / 3, *ten_calls, arrived], labels=["noise", *names, f"{far} calls"])
plots.show(
    fig,
    alt="Seven rows of eight pictures. First pure noise, then clothes drawn from it by five solvers "
    "with at most ten calls each, last the same clothes with many more calls.",
    caption="The same eight draws of noise, at most ten calls each; the last row asks more often.",
)

# %% [markdown] name="ten-seen"
# Down a column the garment stays the same (but for Heun, in the first), because all rows follow the same equation from the same
# start. They differ in how well they follow it; the numbers above say who has arrived. All rows
# are flatter than the last one, DDIM's and DPM-Solver-3's most (enlarge the page to see it). For Heun nine calls are five steps: does it lose its way in
# places? To see why that happens, we need the equation.

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
# <details><summary>Derivation: why the linear part disappears</summary>
#
# Lesson 06: $f = \dot\alpha/\alpha$, $g^2 = -2\sigma^2\dot\lambda$, and the score is
# $(\alpha\hat x_0 - x)/\sigma^2$. Put in, the ODE is
# $\dot x = (\dot\alpha/\alpha)\, x + \dot\lambda\, (\alpha\hat x_0 - x)$. Since $\dot\lambda = \dot\alpha/\alpha -
# \dot\sigma/\sigma$, the terms with $x$ add up to $(\dot\sigma/\sigma)\, x$, which is exactly what
# the derivative of $x/\sigma$ takes away: $\frac{d}{dt}(x/\sigma) = \dot x/\sigma - x\dot\sigma/\sigma^2 =
# \dot\lambda\,(\alpha/\sigma)\,\hat x_0$. Divide by $\dot\lambda$; $\alpha/\sigma = e^\lambda$.
# </details>
#
# The rest of what this lesson uses:

# %% name="more-imports"
import json
import math

from torch import Tensor

from diffusion_lab import data, samplers, schedules
from diffusion_lab.course.bench.results import recorded, within
from diffusion_lab.course.widgets import choice, explore, slider
from diffusion_lab.data import store, toys
from diffusion_lab.exact import Gaussian
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddpm, dpm_solver, dpmpp_2m, dpmpp_3m, emsde, heun, idsd, unipc
from diffusion_lab.samplers.sde import euler_maruyama
from diffusion_lab.walk import gaussian, sample, walk

# %% [markdown] name="along-text"
# How hard is the integral? The next cell follows one exact trajectory of a two-dimensional mixture,
# and draws what the network would say along it: against $t$, and against $\lambda$.

# %% name="along"
vp = schedules.Linear()
exact = toys.load_toy("anisotropic").denoiser(vp)
lams = torch.linspace(-5.0, 4.5, 120, dtype=torch.float64)
times = [vp.t_of_lam(lam) for lam in lams.tolist()]
along = list(walk(unipc(3), exact, torch.tensor([[0.4, -1.1]]).double(), times))
said = {
    "state": [s.x[0, 0] for s in along[1:]],
    "answer: clean data": [s.pred.x0[0, 0] for s in along[1:]],
    "answer: noise": [s.pred.eps[0, 0] for s in along[1:]],
}
fig, ax = plots.axes(1, 2, size=(4.4, 3.0))
plots.lines(times[:-1], said, ax=ax[0], xlabel="time t     data ... noise", ylabel="coordinate 1")
plots.lines(lams[:-1], said, ax=ax[1], xlabel="λ     noise ... data", ylabel="")
ax[1].get_legend().remove()
for one in ax:
    one.set_ylim(-0.45, 1.2)  # room for the legend
plots.show(
    fig,
    alt="Two panels with three curves each: the state, the predicted clean datum and the predicted "
    "noise along one trajectory. The same curves, mirrored and stretched: against t most of the "
    "bending lies below t = 0.3 and the noise curve drops steeply at t = 0; against λ the bend "
    "is in the middle, from -1 to 2, with flatter stretches on both sides.",
    caption="One trajectory, from noise to data, over time t (read from right to left) and over "
    "λ (from left to right).",
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
# solver, written with $h$. `x` and `x0` are tensors; the alphas and sigmas are Python floats, so take functions of `math`.
#
# <details><summary>Hint 1: nudge</summary>
#
# $\int_{\lambda_t}^{\lambda_s} e^l\,dl = e^{\lambda_s} - e^{\lambda_t}$, and
# $\sigma_s e^{\lambda_s} = \alpha_s$.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# Take $\alpha_s$ out of the difference that hint 1 leaves; the rest is a function of $h$ alone.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# First the two lambdas and their difference. Then the shrunk state, plus the clean answer with its weight, a number
# between 0 and 1. `math.expm1(y)` is $e^y - 1$ without loss of digits.
# </details>


# %% name="my-step"
def my_step(x, x0, alpha_t, sigma_t, alpha_s, sigma_s):
    """x_s from x_t if the network says x0 all the way; the last four are floats."""
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
# Halving the step divides the error by two, once for each order.
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
# two-call steps of Heun and DPM-Solver-2 are *worse than DDIM*: they make three long steps
# where DDIM makes six. (That is not the whole reason: DPM-Solver-3 makes two, and is level with DDIM.) Multistep methods pay one call a
# step at any order; with six calls those of order 2 lead, and those of order 3 have hardly a past to learn from.
# The next cell prints the errors on the left, and the slopes of the last two doublings.

# %% name="slopes"
slopes_rows = []
for name, e in error.items():
    orders = [math.log2(e[i] / e[i + 1]) for i in (-3, -2)]
    row = {"solver": name, "error at 6": e[0], "at 12": e[1]}
    slopes_rows.append(row | {"order 96 to 192": orders[0], "192 to 384": orders[1]})

# %% [markdown] name="slopes-shown-text"
# Read the second column from the top, then the last two:

# %% name="slopes-shown" tags=["nbval-check-output"]
show_table(
    slopes_rows,
    digits={"error at 6": ".2f", "at 12": ".2f", "order 96 to 192": ".1f", "192 to 384": ".1f"},
)

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
# A line has a slope: a difference of values over a difference of places. How far ahead is the middle?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The slope is $(\mathrm{now} - \mathrm{before})/(\lambda_1 - \lambda_0)$, and the middle lies
# $(\lambda_2 - \lambda_1)/2$ ahead of $\lambda_1$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Start from the later answer and go on along the line: slope times the distance to the middle.
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
# ### Exercise 4 (write the walk): the whole of ++(2M)
#
# With $D$ in the place of $\hat x_0$ the step is that of exercise 1. Now write the whole walk (you may call `my_step` and
# `line_ahead`, if their checks say *right*). `denoise(x, t)` returns
# $\hat x_0$ (one call of the network), `level(t)` returns $(\alpha_t, \sigma_t)$, two floats; `times` fall. One call a time, at the
# beginning of the step. Two steps are special: the first has no *before*, so there $D = \hat x_0$; and onto clean data
# ($\sigma_s = 0$, $h$ infinite) the result is $\alpha_s\hat x_0$. What is remembered from step to step is the
# network's answer, not $D$.
#
# <details><summary>Hint 1: nudge</summary>
#
# A loop over neighbouring times, with two things remembered from the step before: an answer and its $\lambda$.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $x_s = \frac{\sigma_s}{\sigma_t}x_t + \alpha_s(1 - e^{-h})\,D$, with $D$ from exercise 3 between the $\lambda$ of
# the last call, of this one, and of the place to go to.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# For each pair (t, s): ask the network at t. If s is clean, return its answer times alpha there. Else compute the two
# lambdas; choose D (the answer itself if there is no past); make the step; remember answer and lambda of t. After the
# loop return x.
# </details>


# %% name="my-walk"
def my_walk(denoise, x, times, level):
    """x at the last time, by DPM-Solver++(2M)."""
    ### BEGIN SOLUTION
    before = lam_before = None
    for t, s in zip(times, times[1:]):
        now = denoise(x, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = level(t), level(s)
        if sigma_s == 0:
            return alpha_s * now
        lam_t, lam_s = math.log(alpha_t / sigma_t), math.log(alpha_s / sigma_s)
        if before is None:
            d = now
        else:
            d = now + (lam_s - lam_t) / (2 * (lam_t - lam_before)) * (now - before)
        x = sigma_s / sigma_t * x - alpha_s * math.expm1(lam_t - lam_s) * d
        before, lam_before = now, lam_t
    return x
    ### END SOLUTION


# %% name="check-walk"
check.whole_walk(my_walk)

# %% [markdown] name="own-text"
# Your walk at work (or, until it is right, the course's): first its order, on the exact mixture of the race, then the eight
# garments of the beginning, with ten calls.

# %% name="own"
own_walk = my_walk if check.whole_walk.last == "right" else check.reference_walk


def own_error(moves: int) -> float:
    """The error of the own walk at the end, as in the race."""
    end = own_walk(lambda x, t: exact(x, t).x0, start, even(moves), vp.alpha_sigma)
    return (end - truth).norm(dim=1).mean().item()


own_errors = {k: own_error(k) for k in (6, 12, 24, 48, 96)}
own_rows = [{"calls": k, "error": e, "of the last": e / own_errors.get(k // 2, math.nan)}
        for k, e in own_errors.items()]  # fmt: skip
own_rows[0]["of the last"] = None

# %% [markdown] name="own-shown-text"
# The last column is the error over that with half of the calls: a quarter at order 2.

# %% name="own-shown"
show_table(
    own_rows,
    title="Half the step, a quarter of the error?",
    digits={"error": ".4f", "of the last": ".2f"},
)

# %% [markdown] name="own-figure-text"
# And the garments: DDIM, the walk (yours once it is right, the course's until then), and the row that asked more often.

# %% name="own-figure"
steps_of_ten = grid(model.schedule, 10, "uniform", lam_range=model.lam_range)
with torch.no_grad():
    own_row = own_walk(
        lambda x, t: model(x, t).x0, noise_only, steps_of_ten, model.schedule.alpha_sigma
    )
whose = "your walk" if own_walk is my_walk else "the course's"
plots.show(
    plots.strip([ten_calls[0], own_row, arrived], labels=["DDIM", whose, f"{far} calls"]),
    alt="Three rows of the same eight garments: DDIM with ten calls, the walk of the exercise with ten "
    "calls, and many calls.",
    caption="Ten calls, twice: a step that uses one answer, and a step that uses two.",
)
print(f"{whose}: {(own_row - arrived).square().mean().sqrt():.2f} a pixel from the last row")

# %% [markdown] name="heun-bug-text"
# That is the solver that many picture generators run today, and the number is that of ++(2M) in the first table.
#
# ### Exercise 5 (find the bug): Heun's second slope
#
# EDM's sampler works in $\sigma$ ($\alpha = 1$): the slope is $(x - D(x, \sigma))/\sigma$, where $D$ is the denoiser;
# Euler goes ahead along it, and Heun takes the mean of the slopes at both ends. This version runs, draws
# pictures, and is of first order. What is wrong?
#
# <details><summary>Hint 1: nudge</summary>
#
# Which noise level does the point have that Euler reached?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $d' = (x' - D(x', \sigma'))/\sigma'$: which $\sigma'$?
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# In the line of the second slope one noise level is named twice. Both should be that of the point that is looked at.
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
# The code is folded. Choose a solver and a number of calls. Grey: the exact trajectories, from the open circles to the
# stars. Colour: the solver's states, one marker a step. Try 6 calls with DPM-Solver-2, then with UniPC-2; then find out how many calls
# DDIM needs for the error that UniPC-2 has at 8.


# %% name="touch" tags=["hide-input"]
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

# %% name="grids"
clean = sample(walk(unipc(3), exact, start, grid(vp, 1000, "lambda", lam_range=(-5.0, 9.0)))).x
spacings, grids_rows = ("uniform", "lambda", "quadratic", "karras"), []
for name, step in (("DDIM", samplers.ddim()), ("++(2M)", dpmpp_2m()), ("UniPC-2", unipc())):
    row = {"error at 10 calls": name}
    for spacing in spacings:
        end = sample(walk(step, exact, start, grid(vp, 10, spacing))).x
        row[spacing] = (end - clean).norm(dim=1).mean().item()
    grids_rows.append(row)

# %% [markdown] name="grids-shown-text"
# Each row is one solver; in which column is it nearest?

# %% name="grids-shown" tags=["nbval-check-output"]
show_table(grids_rows, digits=dict.fromkeys(spacings, ".2f"))

# %% [markdown] name="grids-seen"
# Here times quadratic in $t$ do best for all three solvers, and
# Karras et al.'s worst: made for pictures, they spend many of the ten steps at noise levels where
# nothing happens in this mixture any more. On Fashion, below, the order of the grids is another one, and changes with the number of
# calls. So say on which grid solvers were compared. The last
# step, onto clean data, is infinitely long in $\lambda$; there every solver here falls back to order
# 1 and returns $\hat x_0$. Lesson 08 learns the grid instead of choosing it.

# %% [markdown] name="fashion-text"
# ## The race on Fashion-MNIST
#
# Now with a network, and with quality instead of error: the Fréchet distance (FD, lesson 04), all
# samplers on the same network and the same first noise. These rows are stored; `diffusion-lab bench
# samplers` measures them again in less than an hour. FD is in units of A, the FD of real pictures
# with a little noise (lesson 04), fixed for all N.
#
# <details><summary>The rules of the race</summary>
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
# </details>

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
N, A = kept[0].details["pictures"], metrics.anchor().value
floor_mean, floor_std = (v / A for v in metrics.real_floor(N, balanced=False))
limits_rows = [{"what": "as many real pictures", "by": "", "calls": None, "FD / A": floor_mean}]
for row in limits:
    kind, who, k = (row.details[key] for key in ("kind", "sampler", "NFE"))
    limits_rows.append({"what": f"limit of the {kind}", "by": who, "calls": k, "FD / A": row.value})

# %% [markdown] name="limits-shown-text"
# Between the floor and the limits there is room: that is the network's own error.

# %% name="limits-shown"
show_table(
    limits_rows,
    title=f"N = {N} (real ones ± {floor_std:.2f}); A = {A:.2f}",
    digits={"FD / A": ".2f"},
)

# %% [markdown] name="fashion-text-2"
# A colour and a kind of line for each of nine samplers (the table below has all): solid lines solve the ODE, dashed ones
# add noise.

# %% name="fashion-lines"
shown = [
    name for name in ran
    if "," not in name and name not in ("++(3M) as published", "UniPC-3", "DPM-Solver-3", "Heun with churn")
]  # fmt: skip
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
    ax.axhline(floor_mean, color="0.7", ls=":", marker="", lw=1.5, label="real pictures")


# %% [markdown] name="fashion-figure-text"
# Grey lines are the two limits and the floor. The right panel is the lower right of the left one, enlarged. Look
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
    alt="Two panels of Frechet distance against network calls for nine samplers, the right one "
    "enlarged from ten calls on. Most lines are flat from about ten or twenty calls; those of DDPM "
    "and EMSDE come down later.",
    caption=f"Quality against network calls on Fashion-MNIST, {N} pictures a point, one network.",
)

# %% [markdown] name="within-text"
# The survey's question, "how many steps?", as a number: the fewest calls measured from which on a
# sampler stays at most 5 per cent above its own limit. (Below the limit counts as reached. Churn has a
# limit of its own, which was not measured.) EMSDE stands below the nearest number of calls, its own
# number in brackets (two of its five find their places taken; they are in the figure and in the last table of the lesson). Heun asks an odd number
# of times, so its nine calls stand under 10. The last column is
# the CPU time of 1,000 pictures at ten calls on one core: a call costs nearly the same whoever asks, so
# calls are a fair currency.

# %% name="within"
budgets = (5, 10, 20, 50, 100, 200)


def cell(name: str, k: int) -> str:
    """FD at k calls; EMSDE's at the number of calls that is nearest to k, with that number."""
    if (name, k) in value:
        return f"{value[name, k]:.2f}"
    near = [r for r in ran[name] if not r.details["asked"] and 2 / 3 < r.details["NFE"] / k < 1.5]
    near.sort(key=lambda r: abs(math.log(r.details["NFE"] / k)))
    return f"{near[0].value:.2f} ({near[0].details['NFE']})" if near else ""


within_rows = []
for name, own in ran.items():
    kind = race.RACE[name].kind
    most = max(r.details["NFE"] for r in own)
    reached = within([*own, *limits], kind)
    reached = reached or (f"not with {most}" if kind in ("ODE", "SDE") else "")
    spent = [r.details["core-s for 1,000 pictures"] for r in own if r.details["asked"] == 10]
    row = {"sampler": name} | {str(k): cell(name, k) for k in budgets}
    within_rows.append(
        row | {"within 5%": str(reached), "core-s": f"{spent[0]:.1f}" if spent else ""}
    )

# %% [markdown] name="within-shown-text"
# Look down the columns for few calls, then at the column of 5%:

# %% name="within-shown"
show_table(within_rows, title=f"FD / A by calls, N = {N}, floor {floor_mean:.2f} ± {floor_std:.2f}")

# %% [markdown] name="pairs-text"
# One draw of pictures does not tell 1.05 from 1.00. But samplers that start from the same noise can be compared *as pairs*:
# they draw the same garments, so most of the chance is in both and cancels (least where one of them adds noise on the way). `benchmarks/controls.py` drew 500 pictures with
# each pair, chosen so that the two differ in one thing (but for *calls inside the step*: DPM-Solver-2 has the noise form, too), and
# found the error of the difference. A word is said only where the 95% interval leaves out 0.

# %% name="judged"
controls = json.loads(store.path("measured/controls.json").read_text())["parts"]
duels = controls["duels"]


def word(gap: float, error: float) -> str:
    """Lower is better: ahead, behind, or neither within the error."""
    low, high = metrics.Estimate(gap, error, duels["N"]).interval
    return "ahead" if high < 0 else "behind" if low > 0 else "open"


judged = {
    (one, other, int(k)): f"{word(gap, error)} {gap:+.3f} ± {error:.3f}"
    for k, found in duels["duels"].items()
    for _, one, other, _, _, gap, error in found
}

# %% [markdown] name="duels-text"
# All pairs, the difference of FD in units of A. Is the first of the two ahead?

# %% name="duels"
asked = {
    (what, one, other): None for found in duels["duels"].values() for what, one, other, *_ in found
}
duels_rows = [
    {"what": what, "pair": f"{one} / {other}".replace("DPM-Solver++", "++")}
    | {f"{k} calls": judged.get((one, other, k), "") for k in (5, 10, 20)}
    for what, one, other in asked
]

# %% [markdown] name="duels-shown-text"
# Look along the rows:

# %% name="duels-shown"
show_table(duels_rows, title=f"{len(judged)} comparisons, N = {duels['N']}")
limit_of = {row.details["kind"]: row.value for row in limits}
fixed = [n for n in ran if "," not in n and race.RACE[n].kind == "ODE" and (n, 50) in value]
below = [name for name in fixed if value[name, 50] < limit_of["ODE"]]
print(f"ODE solvers below their own limit with 50 uniform steps: {len(below)} of {len(fixed)}")

# %% [markdown] name="within-seen"
# Read the table pair by pair.
#
# - **Few calls: every answer counts.** In the first table, at five calls, compare the solvers with one call a step by how much
#   they make of it: DDIM one answer, ++(2M) two, ++(3M) and UniPC-2 three, UniPC-3 four (a corrector has the next one, too). DPM-Solver-3 spends its five calls on
#   steps of order 3, 1 and 1. Heun and DPM-Solver-2 have three steps as well: the number of steps alone does not decide.
# - **Whole parabola or half of it?** On the exact mixture the two rules differ in order. Whether one can see that with a
#   network and few calls says the row of that name.
# - **Noise on the way needs a good step.** Compare the two rows of that name with each other: first-order and second-order
#   steps of the same SDE. (That noise can repair errors of the network, as is often said, is not shown by these pairs.)
#   EMSDE draws from the same SDE with steps of its own: its tolerance must be tight before the pictures are clean. (The
#   paper compares it with Euler-Maruyama; so do we, below.)
# - **The grid counts as well.** See the last two rows: is another grid ahead of the uniform one at any number of calls?
# - **Converged need not be best.** The line under the table counts solvers that are *below* the limit of their own
#   equation. (They share their noise and the limit: count them as one.) That can happen where the network's answers at little noise make pictures worse: uniform
#   steps skip them. The next cell tries it.
#
# How sure are these words? The errors are those of the pictures drawn, and of one network: another network is another
# question. Of so many intervals of 95%, expect one in twenty to be wrong. "At most 5% above" in the first table has no such
# error beside it: a fine reading for ODE solvers, which share their noise, and a rough one for the others.
#
# Twenty uniform steps end with one long step from $t = 1/20$ to $\hat x_0$; the limit's steps go all the way down. The
# same solver, the same number of calls and the same noise, with and without that last stretch:

# %% name="tail"
n = lessons.pick(smoke=80, live=200, full=500)
stop, tail = model.schedule.lam(1 / 20), {}
for name, top in (("down to t = 1/1000", model.lam_range[1]), ("stop at t = 1/20", stop)):
    how = {"spacing": "lambda", "lam_range": (model.lam_range[0], top), "sampler": "unipc"}
    how["steps"] = lessons.pick(smoke=5, live=25)
    tail[name] = generate(model, n, seed=0, **how).x
tail_rows = [{"walk": name, "FD / A": metrics.fd(x) / A} for name, x in tail.items()]

# %% [markdown] name="tail-shown-text"
# The two walks, and their difference as a pair:

# %% name="tail-shown"
show_table(
    tail_rows,
    title=f"N = {n}, floor {metrics.real_floor(n, balanced=False)[0] / A:.2f}",
    digits={"FD / A": ".2f"},
)
print(metrics.verdict(metrics.fd_paired(*tail.values()) / A, tuple(tail)))

# %% [markdown] name="tail-seen"
# (With as many calls on a shorter way the steps are shorter, too.) If stopping early is better, the network's answers at little noise make pictures
# worse, and a coarse grid that skips them is below its own limit in the table above. If it is worse,
# the last stretch is worth its calls; and if the two cannot be told apart, 200 pictures are too few to say. In all cases "at most 5% above" says when a solver has
# stopped mattering, not when pictures are best. (FD from few pictures comes out too high, for all
# alike; lesson 04. Compare only equal N.)
#
# A small race of your own, live, with the EDM-trained network of lesson 03 (with classes, no
# guidance). Its floor is the FD of as many real pictures, the same number of each class.

# %% name="live"
edm_model = checkpoints.load_denoiser("fashion")
n_live = lessons.pick(smoke=20, live=150, full=1000)
each = torch.arange(n_live) % 10
lowest, spread = (v / A for v in metrics.real_floor(n_live))
scores, live_rows = {}, []
for name in ("DDIM", "DPM-Solver++(2M)", "UniPC-2", "Heun"):
    row = {"sampler": name}
    for k in (5, 9):
        how = race.settings(name, edm_model, k) | {"label": each, "seed": 3}
        draw = lambda how=how: generate(edm_model, n_live, **how)  # noqa: E731
        drawn, cost = metrics.measure(edm_model, draw, pictures=n_live)
        scores[name, k] = metrics.fd(drawn.x) / A, cost, drawn.x
        row[f"FD / A, {k} calls"] = scores[name, k][0]
    live_rows.append(row)

# %% [markdown] name="live-shown-text"
# Read against the real ones in the title:

# %% name="live-shown"
show_table(live_rows, title=f"N = {n_live}, real ones {lowest:.2f} ± {spread:.2f}",
           digits=dict.fromkeys(list(live_rows[0])[1:], ".2f"))  # fmt: skip

# %% [markdown] name="live-pairs-text"
# At nine calls, all against DDIM, as pairs (one seed, the same noise and classes):

# %% name="live-pairs"
for name in ("DPM-Solver++(2M)", "UniPC-2", "Heun"):
    gap = metrics.fd_paired(scores[name, 9][2], scores["DDIM", 9][2]) / A
    print(metrics.verdict(gap, (name, "DDIM")))

# %% [markdown] name="live-seen"
# Where the pairs say "cannot be told apart", the second digit of a single FD says nothing. Heun makes three steps of five
# calls, and five of nine.
#
# ### Guidance, and what clipping is for
#
# Guidance (`scale=`, seen in lesson 00; lesson 14 explains it) pushes the answer away from the one
# that knows no class: far out at scale 6, where long steps can become unstable. DPM-Solver++ answers with two things: it works
# with $\hat x_0$ (the *data form*) in place of $\hat\epsilon$ (the *noise form*), and it can keep
# $\hat x_0$ within the range of data. (The paper's *dynamic thresholding* takes a quantile of each
# picture as the bound where it is larger than 1, and divides by it; `clip=(-1, 1)` is its simple form
# with a fixed bound.)
#
# Is it the form, or the order? That needs solvers that differ in one of the two. Scale 6, eleven calls for each, 50 pictures
# from each of eight seeds, the same for all (`benchmarks/controls.py`); the share of pixels outside of the data's range.

# %% name="clip"
guided = controls["guidance"]
shares = {name: [100 * v for v in per_seed] for name, per_seed in guided["shares"].items()}
kinds = {
    "DDIM": ("both", 1), "DPM-Solver-2": ("noise, single step", 2), "DPM-Solver++(2S)": ("data, single step", 2),
    "DPM-Solver-3": ("noise, single step", 3), "DPM-Solver++(2M)": ("data, multistep", 2),
    "DPM-Solver++(3M)": ("data, multistep", 3), "UniPC-2": ("data, with corrector", 2), "++(2M), clipped": ("data, multistep", 2),
}  # fmt: skip
clip_rows = []
for name, per_seed in shares.items():
    e = metrics.Estimate.of(per_seed)
    form, order = kinds[name]
    clip_rows.append(
        {"solver": name, "form": form, "order": order, "pixels outside (%)": e.value, "±": e.error}
    )

# %% [markdown] name="clip-shown-text"
# Which solvers leave most outside? (Outside means beyond $\pm 1.02$. For the clipped walk 0 is no finding: its last step returns a
# clipped $\hat x_0$.)

# %% name="clip-shown"
show_table(
    clip_rows,
    digits={"pixels outside (%)": ".1f", "±": ".1f"},
    title=f"Scale {guided['scale']}, {guided['calls']} calls",
)

# %% [markdown] name="clip-pairs-text"
# One knob at a time (with the order the number of steps in eleven calls changes, too), as pairs over the seeds; above 0 the first of
# the two leaves more outside.

# %% name="clip-pairs"
clip_pairs_rows = []
for what, one, other in (
    ("the form: noise or data, order 2", "DPM-Solver-2", "DPM-Solver++(2S)"),
    ("the order: 3 or 2, noise form", "DPM-Solver-3", "DPM-Solver-2"),
    ("the order: 3 or 2, data form", "DPM-Solver++(3M)", "DPM-Solver++(2M)"),
    ("the order: 2 or 1, data form", "DPM-Solver++(2M)", "DDIM"),
    ("the corrector", "UniPC-2", "DPM-Solver++(2M)"),
    ("clipping", "++(2M), clipped", "DPM-Solver++(2M)"),
):
    gap = metrics.Estimate.of([a - b for a, b in zip(shares[one], shares[other])])
    low, high = gap.interval
    word = "more" if low > 0 else "fewer" if high < 0 else "open"
    row = {"what differs": what, "pair": f"{one} / {other}", "difference (%)": gap.value}
    clip_pairs_rows.append(row | {"±": gap.error, "first has": word})

# %% [markdown] name="clip-pairs-shown-text"
# One row for each knob:

# %% name="clip-pairs-shown"
show_table(clip_pairs_rows, digits={"difference (%)": "+.1f", "±": ".1f"})

# %% [markdown] name="clip-draw-text"
# And the pictures: eight of each, the same noise and classes.

# %% name="clip-draw"
label, guided_rows = torch.arange(8) % 10, {}
for name, how in (
    ("Solver-2", race.settings("DPM-Solver-2", edm_model, 11)),
    ("++(2S)", {"sampler": "dpmpp-2s", "steps": 6}),
    ("++(3M)", {"sampler": "dpmpp-3m", "steps": 11}),
    ("++(2M)", {"sampler": "dpmpp", "steps": 11}),
    ("clipped", {"sampler": "dpmpp", "steps": 11, "clip": (-1.0, 1.0)}),
):
    guided_rows[name] = generate(edm_model, 8, label=label, scale=6.0, seed=4, **how).x

# %% [markdown] name="clip-figure-text"
# Cut off at black and white, as a screen does. Look for false stripes and holes.

# %% name="clip-figure"
stack = [row.clamp(-1, 1) for row in guided_rows.values()]
plots.show(
    plots.strip(stack, labels=list(guided_rows)),
    alt="Five rows of eight strongly guided garments by DPM-Solver-2, DPM-Solver++(2S), ++(3M), ++(2M), and the "
    "last with clipping.",
    caption="Guidance scale 6, eleven calls (each of two evaluations): the same noise and classes.",
)

# %% [markdown] name="clip-seen"
# Read the pairs one by one. At equal order and kind the noise form leaves far more outside than the data form. Within the data
# form order 3 leaves far more than order 2: it extrapolates further, and what guidance has overdone it overdoes again. Within the
# noise form order 2 is no better than order 3. So "data form" alone is no cure, and neither is "low order" alone; ++ of order
# 2 is both. Clipping leaves nothing outside by construction, so this table cannot judge it. It does not undo
# guidance itself: clothes drawn at this scale are harder in contrast than real ones, with or without it.

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
#   what may go unseen, pixel by pixel: the larger of `abs` and `rel` times the size of the pixel;
# - **accept** $x''$ if $E \le 1$, otherwise throw the trial away. Both cost two calls;
# - **next** $h$: $0.9\,h\,E^{-0.9}$, and never beyond the end.
#
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
    "towards the data and shrink at the end; a few refused trials are marked with crosses.",
    caption="Steps of eight samples. Circles were accepted, crosses refused.",
)

# %% [markdown] name="counts-text"
# And what did it cost? Every trial is two calls, refused or not, and each sample has its own count.

# %% name="counts"
last = rounds[-1]
print(f"calls a sample: {last.calls.min()} to {last.calls.max()}, refused trials included")
print(f"refused, on average: {last.rejected.double().mean():.1f}")
longest = size.where(good, torch.zeros(())).argmax()
print(f"the longest accepted step: {size[longest]:.3f}, tried at t = {at[longest]:.2f}")

# %% [markdown] name="steps-seen"
# The first step is a guess, and grows. Steps are shorter in the noise (where this schedule's $g$ is large),
# longest on the way towards the data, and much shorter at the end: the solver finds by itself what grids are
# designed for. With hundreds of coordinates the error estimate is an average and hardly fluctuates, so
# few trials are refused and all samples do nearly the same.
#
# Does it pay? For each tolerance the same law is drawn by Euler-Maruyama with as many equal steps as
# EMSDE needed calls, from the same start down to the same last time, $t = 1/1000$, for several seeds.
# The score is the Wasserstein-1 distance of
# all coordinates to exact draws; the "floor" is that distance for exact draws themselves. A ratio less
# than three standard errors from 1 forbids a verdict; where a distance is below twice the floor the verdict is marked, and
# only its direction can be read.

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
duels_784 = {rel: torch.tensor([duel(rel, seed) for seed in seeds]) for rel in (0.3, 0.2, 0.1)}

# %% [markdown] name="verdicts-text"
# The ratio is Euler-Maruyama's distance over EMSDE's, seed by seed: above 1 EMSDE is ahead.

# %% name="verdicts"
verdicts, verdicts_rows = [], []
for rel, found in duels_784.items():
    k, own, plain = found.mean(0).tolist()
    ratio = metrics.Estimate.of(found[:, 2] / found[:, 1])
    says = "EMSDE ahead" if ratio.value > 1 else "Euler-Maruyama ahead"
    if abs(ratio.value - 1) < 3 * ratio.error:
        says = "cannot tell"
    elif min(own, plain) < 2 * floor:
        says += ", near the floor"
    row = {"rel": rel, "calls": round(k), "EMSDE": own, "Euler-Maruyama": plain}
    verdicts_rows.append(row | {"ratio": ratio.value, "±": ratio.error, "verdict": says})
    verdicts.append(f"{ratio.value:.2f} ± {ratio.error:.2f} at {k:.0f} calls: {says}")

# %% [markdown] name="verdicts-shown-text"
# Two distances, their ratio, and whether it can be told from 1:

# %% name="verdicts-shown"
digits = dict.fromkeys(("EMSDE", "Euler-Maruyama"), ".4f") | {"ratio": ".2f", "±": ".2f"}
show_table(verdicts_rows, title=f"Floor {floor:.4f}, {len(seeds)} seeds", digits=digits)

# %% [markdown] name="adaptive-seen"
# So the answer depends on how exact one wants to be: follow the ratio from the loosest tolerance to the tightest. A
# solver of higher order should gain as the steps get shorter. Where EMSDE's distance is near that of exact draws, the size of the gain cannot be read from
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
first = torch.randn(4000, 1, generator=generator(9), dtype=torch.float64)


def remembering(source):
    """The same noise, kept to be looked at afterwards."""

    def draw(i: int, like: Tensor) -> Tensor:
        drawn.append(source(i, like))
        return drawn[-1]

    return draw


for name, path in (("path kept", 512), ("fresh noise", None)):
    noise = gaussian(generator(10)) if path else remembering(gaussian(generator(10)))
    trapped = list(
        walk(emsde(rel=0.01, abs=0.02, path=path), normal, first, [0.5, 0.01], noise=noise)
    )
    variance = trapped[-1].x.var().item()
    off = abs(variance - 1) / math.sqrt(2 / 4000)
    print(
        f"{name:12s} variance {variance:.2f}: {'more' if off > 4 else 'less'} than 4 standard errors from 1"
    )
passed = [(b.tried > 0) & (b.error <= 1) for b in trapped[1:]]  # the last run: fresh noise
squares = [z[ok].square() for ok, z in zip(passed, drawn)]
outward = [(z * a.x.sign())[ok] for ok, z, a in zip(passed, drawn, trapped)]
print(
    f"accepted noise: mean z² {torch.cat(squares).mean():.2f}, outward {torch.cat(outward).mean():+.2f}"
)
print("of all noise drawn: 1 and 0")

# %% [markdown] name="trap-seen"
# The marginal law of the exact answer is $N(0, 1)$ at every time, so any other variance is the
# solver's. Large noise is refused more often than small, so the noise that is accepted is no longer
# $N(0,1)$: it is smaller, and it depends on $x$. Here outward noise passes more often than inward
# noise, and the variance comes out almost half too large: from the smaller noise alone one would have
# guessed the wrong sign. In many dimensions $E$ is an average over all of
# them and few trials are refused, as the 784 coordinates above showed; how large the bias is for pictures was not measured
# here.

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
begin, times_y = idsd.from_noisy(edm_model, y, sigma0, lessons.pick(smoke=8, live=30), "karras")
draws = [
    sample(walk(ddpm(), edm_model, begin, times_y, noise=gaussian(generator(seed)))).x
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
tried = (
    ("best guess", best, 1),
    ("draw from y", draws[0], len(times_y) - 1),
    ("Langevin", slow.x, slow.nfe),
    ("same, longer", slower.x, slower.nfe),
)
rows = []
for name, found, k in tried:
    mse = (found - truth_x).square().mean().item()
    rows.append({"answer": name, "calls": k, "MSE": mse, "PSNR (dB)": 10 * math.log10(4 / mse)})
show_table(
    rows, digits={"MSE": ".4f", "PSNR (dB)": ".1f"}, title=f"{count} pictures, noise {sigma0}"
)

# %% [markdown] name="idsd-seen"
# The draws agree where $y$ decides and differ where it does not. Look for broken places in the Langevin row, and compare its
# error with that of the other draw: where it is larger, the first suspect
# is the chain: with few updates at a level it has not *mixed*, that is, not forgotten where it came
# from. If the chain were too short, three times the updates at the same step ("longer") would lower
# the error. On the Gaussian below, where the score is exact, that change brings the mean closer to
# the truth. If the error of the pictures rises instead, it is not the length alone: the network's score,
# followed hundreds of times, and the finite step are left, and one seed on 8 pictures does not separate them.
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
# The two brackets are independent. What is the variance of their difference?
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Write the squared error as two variances and a cross term; say what the cross term is; divide by the smallest.
# </details>

# %% name="my-price"
### BEGIN SOLUTION
price = 2.0
### END SOLUTION

# %% name="check-price"
check.posterior_price(price)

# %% [markdown] name="idsd-exact-text"
# The ratio that was measured on the pictures above is in the last table of this lesson. Both ways, checked where everything is known: data $N(1, 0.5)$, $\sigma_0 = 0.8$, $y = -0.5$. The posterior is
# a Gaussian too. The chain from $y$ has the right mean from the start; its variance is right only
# with many steps, as DDPM's small variance is too small when steps are long (lesson 02). The last two
# rows are the paper's own algorithm, with 12 and with 36 updates at each of ten levels.

# %% name="idsd-exact"
known = Gaussian([1.0], [[0.5]]).denoiser(vp)
y1 = torch.full((20000, 1), -0.5, dtype=torch.float64)
idsd_exact_rows = [
    {
        "way": "exact",
        "calls": None,
        "mean": (2 - 0.5 / 0.64) / (2 + 1 / 0.64),
        "variance": 1 / (2 + 1 / 0.64),
    }
]
for steps in (10, 50, 400):
    x1, times1 = idsd.from_noisy(known, y1, 0.8, steps)
    end = sample(walk(ddpm(), known, x1, times1, noise=gaussian(generator(15)))).x
    idsd_exact_rows.append(
        {"way": "from y", "calls": steps, "mean": end.mean().item(), "variance": end.var().item()}
    )
sigmas1 = idsd.levels(0.8, 0.03, 10)
for k in (12, 36):
    noise = gaussian(generator(18))
    end = sample(idsd.langevin(known, y1[:5000], 0.8, sigmas1, k, rate=0.3, noise=noise))
    row = {"way": "Langevin", "calls": end.nfe, "mean": end.x.mean().item()}
    idsd_exact_rows.append(row | {"variance": end.x.var().item()})

# %% [markdown] name="idsd-exact-shown-text"
# Mean and variance should be those of the first row.

# %% name="idsd-exact-shown" tags=["nbval-check-output"]
show_table(idsd_exact_rows, digits={"mean": ".2f", "variance": ".2f"})

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
residual_rows = [
    {"answer": name, "calls": k, "MSE": (found - truth_x[:4]).square().mean().item()}
    for name, k, found in (
        ("residual, and P(y)", len(times_r), drawn_r),
        ("draw from y", len(times_y) - 1, draws[0][:4]),
        ("P(y) itself", 1, predicted),
    )
]

# %% [markdown] name="residual-shown-text"
# Four pictures only:

# %% name="residual-shown"
show_table(residual_rows, digits={"MSE": ".4f"}, title="The first 4 pictures")

# %% [markdown] name="cost-text"
# ## What did it cost
#
# The rows that this lesson adds to the course's running table: the live race with the EDM-trained
# network, at nine calls.

# %% name="cost"
rows = [
    {"system": f"{name}, {k} calls", **cost.row(), "FD / A": round(found, 2), "N": n_live}
    for (name, k), (found, cost, _) in scores.items()
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
some = ("ddim", "ddpm", "dpmpp", "dpmpp-sde", "unipc", "heun")
overhead_rows = [
    {"sampler": case, "times the bare network calls": v}
    for case, v in sorted(ours.items(), key=lambda pair: pair[1])
    if case in some or v == max(ours.values())
]

# %% [markdown] name="overhead-shown-text"
# Near 1 the sampler itself costs nothing:

# %% name="overhead-shown"
show_table(overhead_rows, digits={"times the bare network calls": ".2f"})

# %% [markdown] name="paper-text"
# ## Paper against here
#
# Papers report FID on CIFAR-10; here it is FD in A on Fashion-MNIST with a network a hundred times
# smaller. What can be compared are rankings and numbers of calls. "ahead" and "open" are the words of the pairs above. First
# how a row is worded:


# %% name="paper-words"
def told(name: str, part: slice) -> str:
    """FD and calls of some of a sampler's stored rows."""
    return ", ".join(f"{r.value:.2f} at {r.details['NFE']}" for r in ran[name][part])


def first_three(k: int) -> str:
    """The three lowest at k calls on the race's grid."""
    order = sorted(
        (v, name) for (name, asked), v in value.items() if asked == k and "," not in name
    )
    return ", ".join(f"{name.replace('DPM-Solver++', '++')} {v:.2f}" for v, name in order[:3])


def against(one: str, other: str) -> str:
    """The words of the pairs at 5, 10 and 20 calls."""
    return ", ".join(f"{judged[one, other, k].split()[0]} at {k}" for k in (5, 10, 20))


def reached(name: str) -> str:
    """From how many calls on a solver is at most 5% above the ODE's limit."""
    k = within([*ran[name], *limits], "ODE")
    return f"from {k} calls" if k else "not with 50"


# %% [markdown] name="paper-lines"
# Then the rows, each a claim and what was measured here. ("At most 5% above the limit" stands for high quality.)

# %% name="paper"
mse = [(x - truth_x).square().mean() for x in (draws[0], best)]
lines = [
    ("DPM-Solver: high quality in 10-20 calls", f"-2: {reached('DPM-Solver-2')}, -3: {reached('DPM-Solver-3')}"),
    ("    while DDIM needs more", reached("DDIM")),
    ("++(2M) ahead of DDIM at equal calls", against("DPM-Solver++(2M)", "DDIM")),
    ("UniPC-2 ahead of ++(2M)", against("UniPC-2", "DPM-Solver++(2M)")),
    ("UniPC-3 ahead of ++(3M), ours", against("UniPC-3", "DPM-Solver++(3M)")),
    ("UniPC: best at 5 to 10 calls", f"at 5: {first_three(5)}"),
    ("", f"at 10: {first_three(10)}"),
    ("EMSDE: 2 to 10 x fewer calls than E.-M.", "ratios of distances, 784 exact dimensions:"),
    *(("", text) for text in verdicts),
    ("    EMSDE beside DDPM's own step, FD / A", told("EMSDE", slice(3))),
    ("", told("EMSDE", slice(3, None))),
    ("", f"DDPM {told('DDPM (eta = 1)', slice(2, None))}"),
    ("posterior draws: twice the squared error", f"{mse[0] / mse[1]:.1f} times, {count} pictures"),
]  # fmt: skip

# %% [markdown] name="paper-shown-text"
# Claims on the left, this lesson on the right:

# %% name="paper-shown"
show_table([{"claim": claim, "here": here} for claim, here in lines])

# %% [markdown] name="helps"
# ## When it does not help
#
# - **Five or six calls.** A high order is a statement about short steps. With five or six calls,
#   single-step methods make two or three long ones, and some of them lose to DDIM in each of our
#   races; a multistep method from pure noise is of order 1 in its first step and, onto clean data, in its
#   last one anyway.
# - **A network's error.** Once the solver's error is below the network's, FD says less and less about the solver; as
#   pairs some can still be told apart at 20 calls. The race's column "within 5%" says from where on.
# - **Strong guidance.** The noise form leaves many pixels outside, at order 2 most of all, and the data form more at order 3 than at
#   order 2: take ++ of order 2, or clip.
# - **Adaptive steps in few dimensions**, or with a batch that must end together: the slowest sample
#   decides, and refused trials bias the law.
# - **Noise on the way, with few calls.** First-order steps with noise lose at five calls. Whether second-order ones do, say the
#   pairs of that name, up to 20 calls; for more, see the first table.

# %% [markdown] name="recap"
# ## Recap
#
# - In $\lambda$ the sampling ODE is a linear part, solved exactly, plus one integral over the
#   network's answer. Order 1 of that is DDIM.
# - Order is the slope of error against calls. Measure it; names can lie.
# - Single steps pay $p$ calls for order $p$; multistep methods one; UniPC's corrector gains an order
#   for none.
# - With five calls, what counts is how much a step makes of one call; with twenty, most are small beside the network's own error. Converged need not be best. Compare as pairs, one knob at a time.
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
