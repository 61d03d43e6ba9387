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

from diffusion_lab import checkpoints, data, lessons, metrics, plots, samplers, schedules
from diffusion_lab.bench import samplers as race
from diffusion_lab.bench.results import within
from diffusion_lab.checks import lesson07 as check
from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.exact import Gaussian
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddpm, dpm_solver, dpmpp_2m, dpmpp_3m, emsde, gaussian
from diffusion_lab.samplers import generate, heun, idsd, sample, unipc, walk
from diffusion_lab.samplers.sde import euler_maruyama
from diffusion_lab.widgets import choice, explore, slider

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
fig = plots.strip([noise_only / 3, *rows], labels=["noise", *names, f"{far} calls"])
plots.show(
    fig,
    alt="Seven rows of eight pictures. First pure noise, then clothes drawn from it by five solvers "
    "with ten network calls each, last the same clothes with many more calls.",
    caption="The same eight draws of noise, ten network calls each; the last row asks more often.",
)

# %% [markdown] name="ten-seen"
# Down a column the garment mostly stays the same, because all rows follow the same equation from the
# same start. They differ in how well they follow it. DDIM's are flatter, with less texture. Heun,
# for whom ten calls are only five steps, loses the way and ends with other garments in places, and
# DPM-Solver-3 changes one too. The last two solvers are nearest to the row below, which asked many
# more times and adds speckle. To see why, we need the equation.

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
    "UniPC-2": (unipc(2), 1),
    "UniPC-3": (unipc(3), 1),
}


def carried(step, moves: int) -> Tensor:
    """Where a step takes ``start`` in this many moves, equally spaced in lambda."""
    times = [vp.t_of_lam(-5.0 + 9.5 * i / moves) for i in range(moves + 1)]
    return sample(walk(step, exact, start, times)).x


truth = carried(unipc(3), 1500)
calls = [6, 12, 24, 48, 96, 192, 384]
error = {
    name: [(carried(step, n // k) - truth).norm(dim=1).mean().item() for n in calls]
    for name, (step, k) in RACERS.items()
}

# %% [markdown] name="race-figure-text"
# Both axes are logarithmic: a solver of order $p$ becomes a straight line that falls by $p$ decades
# for one decade of calls. Read it twice: the slopes on the right, and who is lowest on the left.

# %% name="race-figure"
fig = plots.lines(
    calls, error, xlabel="network calls", ylabel="mean error at the end", log="xy", markers=6
)
fig.set_size_inches(7.5, 4.6)
fig.axes[0].legend(ncols=2, fontsize=8)
plots.show(
    fig,
    alt="Eight falling lines of error against calls on logarithmic axes. DDIM falls slowest; UniPC-3 "
    "fastest. At six calls Heun and DPM-Solver-2 are the worst, above DDIM.",
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
    print(f"{name:18s}{e[0]:10.2f}{e[1]:9.2f}{slopes[0]:15.1f}{slopes[1]:10.1f}")

# %% [markdown] name="slopes-seen"
# The table holds a surprise. UniPC-2 is of order 3 and UniPC-3 of order 4: the corrector looks at
# the point that has just been reached, whose call the next step needs anyway, and gains an order
# **for no call at all**. (UniPC-3's slope is not settled yet: a slope is the order only in the limit
# of short steps. The last doubling is the nearer one to 4.)
# And a warning: the formula that goes by the name ++(3M) in several libraries takes only half of the
# second-derivative term. Ours is the rule that is exact for parabolas; the tests compare the two
# step by step, and measure order 3 for ours and order 2 for theirs. (With a network and 20 calls
# you would not see it. That is how such things survive.)
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
# Choose a solver and a number of calls. Grey: the exact trajectories. Colour: the solver's states,
# one marker a step. Try 6 calls with DPM-Solver-2, then with UniPC-2; then find out how many calls
# DDIM needs for the error that UniPC-2 has at 8.


# %% name="touch"
fine = list(walk(unipc(3), exact, start[:6], [vp.t_of_lam(-5 + 9.5 * i / 200) for i in range(201)]))
paths = torch.stack([s.x for s in fine])


def look(solver, n):
    step, k = RACERS[solver]
    moves = max(n // k, 1)
    times = [vp.t_of_lam(-5.0 + 9.5 * i / moves) for i in range(moves + 1)]
    seen = torch.stack([s.x for s in walk(step, exact, start[:6], times)])
    fig, ax = plots.axes(size=(5.2, 4.4))
    ax.plot(paths[..., 0], paths[..., 1], color="0.6", lw=2, marker="", ls="-")
    for i in range(6):
        ax.plot(seen[:, i, 0], seen[:, i, 1], color=plots.COLOURS[i], marker="o", ls="--", lw=1)
    ax.plot(*paths[-1].T, color="k", marker="*", ls="", ms=10)
    wrong = (seen[-1] - paths[-1]).norm(dim=1).mean()
    ax.set(title=f"{moves} steps, {moves * k} calls: error {wrong:.3f}", xlabel="$x_1$")
    ax.set(ylabel="$x_2$", aspect="equal", xlim=(-4, 4), ylim=(-3.5, 3.5))
    return fig


explore(
    look,
    solver=choice("solver", list(RACERS), "UniPC-2"),
    n=slider("network calls", 8, 3, 48, 1),
    alt=lambda solver, n: (
        f"Six trajectories from noise to a mixture of three Gaussians by {solver} with {n} calls, "
        "over the exact ones in grey."
    ),
    caption="Grey: exact trajectories, ending at the stars. Colour: the solver's steps.",
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
# Now with a network, and with quality instead of error: the Fréchet distance (FD, lesson 04) of
# 500 pictures, all samplers on the same network and the same noise. These rows are stored;
# `diffusion-lab bench samplers` measures them again in a quarter of an hour. FD is in units of A, the
# FD of real pictures with a little noise. The dashed line is the limit that all ODE solvers share: the
# exact solution of *this network's* ODE (100 calls of a third-order method); the dotted one is
# DDPM with 200 calls, as a limit of the samplers that add noise.

# %% name="fashion-rows"
kept = race.stored("fashion-vp1000")
limits = [row for row in kept if row.details["limit"]]
ran = {name: [r for r in kept if r.details["sampler"] == name and r not in limits]
       for name in race.RACE}  # fmt: skip

# %% [markdown] name="fashion-text-2"
# Look left for who comes down first, and right for where the lines end.

# %% name="fashion"
fig, ax = plots.axes(size=(7.5, 4.4))
for name, own in ran.items():
    grey = {"color": "0.45"} if name == "EMSDE" else {}
    ax.plot(*zip(*sorted((r.details["NFE"], r.value) for r in own)), label=name, **grey)
for row in limits:
    kind, ls = row.details["kind"], "--" if row.details["kind"] == "ODE" else ":"
    ax.axhline(row.value, color="0.4", ls=ls, marker="", lw=1, label=f"limit of the {kind}")
ax.set(xscale="log", yscale="log", xlabel="network calls a picture", ylabel="FD in units of A")
ax.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
ax.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.show(
    fig,
    alt="Nine lines of Frechet distance against network calls from 5 to 100. Multistep solvers and "
    "UniPC reach the dashed limit first; DDPM and the adaptive EMSDE need many more calls.",
    caption="Quality against network calls on Fashion-MNIST, 500 pictures, one network.",
)

# %% [markdown] name="within-text"
# The survey's question, "how many steps?", as a number: the fewest calls measured from which on a
# sampler stays at most 5 per cent above its own limit. (Below the limit counts as reached.)

# %% name="within"
for row in limits:
    kind, who, k = (row.details[key] for key in ("kind", "sampler", "NFE"))
    print(f"limit of the {kind}: {row.value:.3f} A ({who}, {k} calls)")
print("                     5 calls  10 calls  20 calls  50 calls   at most 5% above")
for name, own in ran.items():
    at = {r.details["asked"]: f"{r.value:.2f}" for r in own}
    found = within([*own, *limits], race.RACE[name].kind) or "no"
    cells = [at.get(n, "-") for n in (5, 10, 20, 50)]
    print(f"{name:18s}" + "".join(f"{c:>10s}" for c in cells) + f"{found!s:>19s}")

# %% [markdown] name="within-seen"
# Three things to see.
#
# - **Few calls: multistep first.** With five and ten calls ++(2M), ++(3M) and UniPC lead. Otherwise
#   the field is *not* in the order of the exact mixture. There ++(3M) with six calls is no better
#   than DDIM; here it is first at five. There Heun with twelve calls is last; here with about ten it
#   beats DDIM. What both races share: with five or six calls the two-call steps of DPM-Solver-2 and
#   Heun lose to DDIM (here DPM-Solver-3 does too). At twenty all ODE solvers are close.
# - **Noise on the way helps this network.** With 50 and with 200 calls DDPM is better than any of the
#   ODE solvers: fresh noise repairs errors that the ODE carries along faithfully. With five or ten
#   calls it loses to DDIM. EMSDE draws from the same SDE with steps of its own: its tolerance must
#   be tight before the pictures are clean, and at equal calls DDPM's step, exact for a given
#   $\hat x_0$, is ahead of it here. (The paper compares with Euler-Maruyama; so do we, below.)
# - **Converged is not best.** Most solvers are *below* the dashed line. This network's errors at
#   little noise put a fine texture on the pictures, and a coarse grid skips them: twenty uniform
#   steps end with one long step from $t = 1/20$ to $\hat x_0$. If that is the reason, many steps that
#   stop at $t = 1/20$ must gain as well. The cell after the next tries it.
#
# How sure is the order? Each row is *one* seed and 500 pictures. All samplers start from the same
# noise, so differences are surer than the values themselves, but no error bar can be read from one
# seed. The cell draws three seeds of two solvers that are close in the table, with fewer pictures.

# %% name="seeds"
n = lessons.pick(smoke=20, live=100, full=500)
pair = ("DPM-Solver++(3M)", "UniPC-2")
anchor = metrics.noise_anchor(n)
for k in (5, 10):
    for name in pair:
        how = race.settings(name, model, k)
        found = [metrics.fd(generate(model, n, seed=i, **how).x) / anchor for i in range(3)]
        print(f"{k:2d} calls  {name:17s} seeds 0-2:" + "".join(f"{v:6.2f} A" for v in found))

# %% [markdown] name="seeds-seen"
# From seed to seed a value moves by as much as the two solvers differ; it is the difference at
# the same seed that tells something. With five calls it has the same sign for the three seeds, with
# ten it is within the noise. So gaps of a few hundredths in the table above (all of the column at
# ten calls between ++(3M) and UniPC-2, most of those at twenty and fifty) are open; gaps such as
# DDIM's at five calls are not.
#
# Now the last stretch: the same solver, the same number of calls, with and without it, for two
# seeds.

# %% name="tail"
n = lessons.pick(smoke=20, live=80, full=500)
stop = model.schedule.lam(1 / 20)
for name, top in (("down to t = 1/1000", model.lam_range[1]), ("stop at t = 1/20", stop)):
    how = {"spacing": "lambda", "lam_range": (model.lam_range[0], top), "sampler": "unipc"}
    how["steps"] = lessons.pick(smoke=8, live=25)
    found = [metrics.fd(generate(model, n, seed=i, **how).x) for i in (0, 1)]
    text = " and ".join(f"{fd / metrics.noise_anchor(n):.2f} A" for fd in found)
    print(f"{name:20s} FD {text}   (N = {n}, seeds 0 and 1)")

# %% [markdown] name="tail-seen"
# The gain is of one sign for both seeds, and about as large as the change from seed to seed. So "at
# most 5% above" says when a solver has stopped mattering, not when pictures are best. (FD from few
# pictures comes out too high, for all alike; lesson 04. Compare only equal N.)
#
# A small race of your own, live, with the EDM-trained network of lesson 03 (with classes, no
# guidance):

# %% name="live"
edm_model = checkpoints.load_denoiser("fashion")
n = lessons.pick(smoke=20, live=150, full=1000)
label = torch.arange(n) % 10
anchor = metrics.noise_anchor(n)
scores = {}
for name in ("DDIM", "DPM-Solver++(2M)", "UniPC-2", "Heun"):
    for k in (5, 9):
        how = race.settings(name, edm_model, k)
        drawn, cost = metrics.measure(
            edm_model,
            lambda how=how: generate(edm_model, n, label=label, seed=3, **how),
            pictures=n,
        )
        scores[name, k] = metrics.fd(drawn.x) / anchor, cost
        print(f"{name:18s} {k:2d} calls   FD {scores[name, k][0]:5.2f} A   (N = {n})")

# %% [markdown] name="live-seen"
# At five calls the solvers are far apart, at nine they close up, and here too the last digit goes to
# whoever is a little too smooth.

# %% [markdown] name="emsde-text"
# ## Steps that choose themselves: EMSDE
#
# The reverse SDE has a second-order solver too, stochastic Heun, and it comes with an error estimate
# for free. *Gotta Go Fast* (the survey's EMSDE) uses it to choose every step of every sample:
#
# - **try** a step $h$: Euler-Maruyama gives $x'$; a second call at $x'$, with the same noise, gives
#   the better $x''$;
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
states = list(walk(emsde(rel=0.05), smooth, x, ends, noise=gaussian(generator(2))))
trials = [(a.times, b.tried, b.error <= 1) for a, b in zip(states, states[1:-1])]
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
last = states[-1]
print(f"calls a sample: {last.calls.min()} to {last.calls.max()}, refused trials included")
print(f"refused, on average: {last.rejected.double().mean():.1f}")

# %% [markdown] name="steps-seen"
# The first step is a guess, and grows. Steps are longest in the middle, shorter in the noise (where this
# schedule's $g$ is large) and much shorter near the data: the solver finds by itself what grids are
# designed for. With hundreds of coordinates the error estimate is an average and hardly fluctuates, so
# few trials are refused and all samples do nearly the same.
#
# Does it pay? For each tolerance the same law is drawn by Euler-Maruyama with as many steps as EMSDE
# needed calls, from the same start, for several seeds. The score is the Wasserstein-1 distance of
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
    equal = grid(vp, own.nfe)
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
# So the answer depends on how exact one wants to be. At the loosest tolerance equal steps are
# better, in the middle there is nothing between the two, and only at the tightest is EMSDE ahead:
# a solver of higher order gains when the steps are short. By how much cannot be said from so few
# draws, because EMSDE's distance is then near that of exact draws. Nothing here confirms (or
# refutes) the paper's larger factors. What one has in any case: nobody had to choose a number
# of steps. The tolerance is the knob instead.
#
# ### Why not in two dimensions
#
# Here is a trap that is easily missed. After a refusal the method draws *fresh* noise. With few
# coordinates $E$ depends on the draw: large noise is refused more often than small, so the noise
# that is accepted is too small. The cell shows it in one dimension, on data with variance 1, with
# and without the cure: draw the Brownian path first and let trials only read it (`path=`).

# %% name="trap" tags=["nbval-check-output"]
normal = Gaussian([0.0], [[1.0]]).denoiser(vp)
x = torch.randn(4000, 1, generator=generator(9), dtype=torch.float64)
for name, path in (("fresh noise", None), ("path kept", 512)):
    step = emsde(rel=0.01, abs=0.02, path=path)
    end = list(walk(step, normal, x, [0.5, 0.01], noise=gaussian(generator(10))))[-1]
    off = (end.x.var().item() - 1) / math.sqrt(2 / 4000)
    print(f"{name:12s} variance off by more than 4 standard errors: {abs(off) > 4}")

# %% [markdown] name="trap-seen"
# The marginal law of the exact answer is $N(0, 1)$ at every time, so any other variance is the solver's.
# In picture-sized problems the bias is too small to matter; in toys it is what you would measure.

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
    for k, a in ((updates, 0.3), (3 * updates, 0.1))
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
    ("same, finer", slower.x, slower.nfe),
):
    mse = (found - truth_x).square().mean().item()
    print(f"{name:12s} {k:4d} calls   MSE {mse:.4f}   PSNR {10 * math.log10(4 / mse):.1f} dB")

# %% [markdown] name="idsd-seen"
# The draws agree where $y$ decides and differ where it does not. The Langevin row is still noisy, and
# its error is above twice that of the best guess, which a true draw does not exceed on average (the
# exercise below). The first suspect is the chain: with few updates at a level it has not *mixed*,
# that is, not forgotten where it came from, and long steps add an error of their own. "Finer" tests
# it with three times the updates, each with a third of the step size. The error is no smaller, so
# this is not the whole reason. What is left to suspect is the network: a chain of hundreds of
# updates follows the errors of its score at every one of them.
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
# Checked where everything is known: data $N(1, 0.5)$, $\sigma_0 = 0.8$, $y = -0.5$. The posterior is
# a Gaussian too. The chain from $y$ has the right mean from the start; its variance is right only
# with many steps, as DDPM's small variance is too small when steps are long (lesson 02).

# %% name="idsd-exact" tags=["nbval-check-output"]
known = Gaussian([1.0], [[0.5]]).denoiser(vp)
y1 = torch.full((20000, 1), -0.5, dtype=torch.float64)
print(f"exact            mean {(2 - 0.5 / 0.64) / (2 + 1 / 0.64):.2f}  "
      f"variance {1 / (2 + 1 / 0.64):.2f}")  # fmt: skip
for steps in (10, 50, 400):
    x1, times1 = idsd.from_noisy(known, y1, 0.8, steps)
    end = sample(walk(ddpm(), known, x1, times1, noise=gaussian(generator(15)))).x
    print(f"{steps:4d} calls       mean {end.mean():.2f}  variance {end.var():.2f}")

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
# - **Five or six calls.** A high order is a statement about short steps. With five calls, single-step
#   methods of order 2 or 3 lose to DDIM in our race; a multistep method is of order 1 in its first
#   step and, onto clean data, in its last one anyway.
# - **A network's error.** Once the solver's error is below the network's, FD says nothing about the
#   solver any more. In our race that is so from about 20 calls on.
# - **Noise form at high noise.** $\hat\epsilon$ read as $\hat x_0$ is multiplied by $\sigma/\alpha$;
#   with strong guidance DPM-Solver of order 3 becomes unstable. ++ (which can also clip $\hat x_0$)
#   was made for that.
# - **Adaptive steps in few dimensions**, or with a batch that must end together: the slowest sample
#   decides, and refused trials bias the law.
# - **When noise should repair the network.** ODE solvers follow the network's errors faithfully;
#   DDPM with 50 and with 200 steps beats all of them in our race (one seed).

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

# %% [markdown] name="paper-text"
# ## Paper against here
#
# Papers report FID on CIFAR-10; here it is FD in A on Fashion-MNIST with a network a hundred times
# smaller. What can be compared are rankings and numbers of calls. FD here is one seed, so less than
# 5% counts as a tie.


# %% name="paper"
def told(name: str) -> str:
    """FD and calls of a sampler's stored rows."""
    return ", ".join(f"{r.value:.2f} A at {r.details['NFE']}" for r in ran[name])


def first_three(k: int) -> str:
    """The best at about k calls."""
    return ", ".join(f"{name} {value:.2f} A" for value, name in order_at[k][:3])


def verdict(name: str, k: int) -> str:
    """Whether a sampler is the best at k calls, with 5% for what one seed leaves open."""
    (low, winner), mine = order_at[k][0], next(v for v, other in order_at[k] if other == name)
    return "a tie" if mine <= 1.05 * low else f"no, {winner} is ahead"


order_at = {
    k: sorted((r.value, name) for name, own in ran.items() for r in own if r.details["asked"] == k)
    for k in (5, 10, 20, 50)
}
fd_at = {k: {name: value for value, name in order} for k, order in order_at.items()}
few = {x: within([*ran[x], *limits], "ODE") for x in ("DPM-Solver-2", "DPM-Solver-3", "DDIM")}
no_gain = few["DDIM"] <= min(few["DPM-Solver-2"], few["DPM-Solver-3"])
clear = [k for k, at in fd_at.items() if at["DPM-Solver++(2M)"] < 0.95 * at["DDIM"]]
price_seen = (draws[0] - truth_x).square().mean() / (best - truth_x).square().mean()
lines = [
    ("DPM-Solver: high quality in 10-20 calls", f"at most 5% above the limit from: {few}"),
    ("", "in 20, but DDIM needs no more" if no_gain else "and DDIM needs more"),
    ("++(2M) beats DDIM at equal calls", told("DPM-Solver++(2M)")),
    ("", f"DDIM {told('DDIM')}: by more than 5% at {clear}"),
    ("UniPC: best at 5-10 calls", f"at 5: {first_three(5)}: {verdict('UniPC-2', 5)}"),
    ("", f"at 10: {first_three(10)}: {verdict('UniPC-2', 10)}"),
    ("EMSDE: 2-10 x fewer calls than Euler-Maruyama", "distances in 784 exact dimensions, ratio"),
    *(("", text) for text in verdicts),
    ("EMSDE against DDPM's own step", told("EMSDE")),
    ("", f"DDPM {told('DDPM')}"),
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
# - With five calls, order matters less than the number of steps; with twenty, the network is what
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
