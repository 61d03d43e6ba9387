# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 06 Scores and SDEs: why does walking back work?
#
# DDPM takes a thousand small steps, DDIM jumps, and both use the same network. Why does that work?
# Because both are ways to walk along one field of arrows, the **score**. This lesson learns scores,
# walks along them with and without noise, and uses them to compute something that samples alone
# never tell: the exact probability of a picture.
#
# **Goals.** You will be able to
# - say what a score is and draw it, for any noise level,
# - learn it in three ways, and say what each costs,
# - tell VE, VP and sub-VP apart by two curves,
# - simulate the reverse SDE and the probability-flow ODE, and write a loop that corrects its errors,
# - compute the exact log-likelihood of data, in bits per dimension, and say what the number means,
# - train for likelihood (ScoreFlow), and see what that does to the pictures.
#
# **Prerequisites.** $x_t = \alpha_t x_0 + \sigma_t \epsilon$ and $\lambda = \log(\alpha/\sigma)$
# (lesson 01), $E[x_0 \mid x_t]$ (lesson 02), weights of the loss (lesson 03), the Fréchet distance (lesson 04).
#
# **Time.** {{time}}.
#
# **Data.** Gaussian mixtures, whose densities and scores are formulas; 8 x 8 digits, which come
# with scikit-learn; the digits network that travels with the course.
#
# **On the map.** Score matching, the score SDE and the probability-flow ODE (the survey's eq. 14,
# sections III-A.2 and III-A.3), and **ScoreFlow** (row 16, Table I, *score network*).

# %% [markdown] name="imports-text"
# What the first pictures need; the rest is imported where it is used.

# %% name="imports"
import math

import torch

from diffusion_lab import schedules
from diffusion_lab.course import lessons, plots
from diffusion_lab.course.checks import lesson06 as check
from diffusion_lab.course.widgets import choice, explore, slider
from diffusion_lab.data import toys
from diffusion_lab.device import generator
from diffusion_lab.scores import score_matching as sm
from diffusion_lab.scores.subvp import SubVP

vp, subvp, ve = schedules.Linear(), SubVP(), schedules.VE(0.01, 20.0)
processes = {"VP": vp, "sub-VP": subvp, "VE": ve}

# %% [markdown] name="what-a-score-is"
# ## The score: which way is more probable?
#
# The score of a density is the gradient of its logarithm, $s(x) = \nabla_x \log p(x)$: an arrow at
# every point, towards where the density grows fastest, long where it grows steeply. Adding a
# constant to $\log p$ changes no arrow, and that is the point: if $p = e^{-f(x)}/Z$ (the **energy
# form**, the survey's eq. 14), then
#
# $$ \nabla_x \log p(x) = -\nabla_x f(x), $$
#
# and the normaliser $Z$, an integral over all possible pictures that nobody can compute, is gone.
#
# Noise smooths a density, so there is a score $s_t$ for every noise level. You know it already: with
# the best guess $\hat x_0 = E[x_0 \mid x_t]$,
#
# $$ s_t(x_t) = \frac{\alpha_t \hat x_0 - x_t}{\sigma_t^2} = -\frac{\hat\epsilon}{\sigma_t}. $$
#
# This is Tweedie's formula: a denoiser *is* a score. The cell compares both sides for three long
# Gaussians, the score by differentiating $\log p_t$.

# %% name="tweedie" tags=["nbval-check-output"]
toy = toys.anisotropic()
points = toy.sample(500, generator(0))
for name, schedule in processes.items():
    a, b = schedule.alpha_sigma(0.3)
    x_t = a * points + b * torch.randn(500, 2, generator=generator(1))
    by_gradient = sm.score_of(lambda y, a=a, b=b: -toy.log_prob(y, a, b))(x_t)
    by_denoising = toy.denoiser(schedule)(x_t, 0.3).score
    print(f"{name:6s} the two agree:", bool((by_gradient - by_denoising).abs().max() < 1e-8))

# %% [markdown] name="field-text"
# ### Something to touch: the field at every noise level
#
# The code is folded. Points are noised data, arrows the score (colour is length). Move the time, and change the process.
# Where do the arrows point when there is little noise, where when there is much?

# %% name="field" tags=["hide-input"]
axis = torch.linspace(-1, 1, 15, dtype=torch.float64)
places, dots = torch.cartesian_prod(axis, axis), points


def look(t: float, process: str):
    """Noised data and the score at time t."""
    alpha, sigma = processes[process].alpha_sigma(t)
    reach = 3 * math.hypot(alpha, sigma)
    noisy = alpha * dots + sigma * torch.randn(500, 2, generator=generator(2))
    arrows = toy.score(reach * places, alpha, sigma)
    fig, ax = plots.axes(size=(5.4, 4.6))
    ax.plot(*noisy.T, linestyle="", marker=".", markersize=3, color=plots.COLOURS[4])
    title = f"{process}, t = {t:.2f}: α = {alpha:.2f}, σ = {sigma:.2f}"
    return plots.field(reach * places, arrows, ax=ax, limits=1.1 * reach, title=title)


explore(
    look,
    t=slider("time t", 0.15, 0.01, 1.0, 0.01),
    process=choice("process", list(processes)),
    alt=lambda t, process: (
        f"Noised points of three long clusters and a grid of arrows, the score of {process} at "
        f"t = {t:.2f}; arrows point towards the clusters and are longest far from them."
    ),
    caption="The score points to where noised data are denser. The more noise, the simpler the field.",
)

# %% [markdown] name="field-seen"
# With little noise each arrow points to the nearest cluster, and far away the arrows are very long.
# With much noise (try $t = 0.8$) the clusters merge and all arrows point to the centre: one Gaussian
# is left, whose score is the straight line $-x/\mathrm{Var}$. Every sampler of this lesson begins
# there, where the field is simple, and follows it while it becomes detailed.

# %% [markdown] name="three-text"
# ## Three ways to learn a score
#
# We want a network $s(x)$ close to $\nabla \log p(x)$, but nobody tells us $\nabla \log p$. Four losses,
# of which the last three get round that:
#
# | loss | formula | what it needs |
# |---|---|---|
# | explicit | $\frac12 E\,\lvert s - \nabla\log p\rvert^2$ | the answer: only on toys |
# | implicit (Hyvärinen 2005) | $E[\frac12\lvert s\rvert^2 + \mathrm{div}\, s]$ | all the slopes $\partial s_i/\partial x_i$ |
# | sliced (Song et al. 2019) | $E[\frac12\lvert s\rvert^2 + v^\top \frac{\partial s}{\partial x} v]$, random $v$ | one backward pass |
# | denoising (Vincent 2011) | $\frac12 E\,\lvert s(\tilde x) - \nabla_{\tilde x}\log q(\tilde x \mid x)\rvert^2$, $\tilde x = x + \sigma\epsilon$ | noise |
#
# ($q(\tilde x \mid x)$ is the density of the noisy point when the clean one is known.)
#
# The implicit loss is the explicit one with its square multiplied out and the cross term integrated
# by parts, so both differ by a constant, $-\frac12 E\,\lvert\nabla\log p\rvert^2$. The denoising loss
# differs from the explicit loss *of the noised density* by $\frac12(d/\sigma^2 - E\,\lvert\nabla \log
# p_\sigma\rvert^2)$.
#
# <details><summary>Derivation: integration by parts, and why noise does the same</summary>
#
# Multiplied out, the explicit loss is $E[\frac12|s|^2 - s^\top\nabla\log p + \frac12|\nabla\log p|^2]$; only
# the middle term is in the way. On a line it is
#
# $$ E[s\, (\log p)'] = \int s\, \frac{p'}{p}\, p\, dx = \int s\, p'\, dx = \big[s\, p\big]_{-\infty}^{\infty}
#    - \int s'\, p\, dx = -E[s'], $$
#
# if $s\,p$ vanishes far out. In $d$ dimensions the same holds coordinate by coordinate, with
# $\mathrm{div}\, s$ for $s'$: the implicit loss.
#
# For the denoising loss write the noised density as $p_\sigma(y) = \int p(x)\, q(y|x)\, dx$. Then
# $\int s^\top \nabla p_\sigma\, dy = \int\!\!\int s(y)^\top \nabla_y q(y|x)\, p(x)\, dx\, dy = E[s(y)^\top
# \nabla_y \log q(y|x)]$. So the cross terms of
# both losses are equal, $|s|^2$ stands in both, and what is left does not depend on $s$.
# </details>
#
# If that is right, the differences must be the same for every $s$. We try two that have nothing in
# common; on a line the expectations are integrals.

# %% [markdown] name="more-imports-text"
# What is needed from here on:

# %% name="more-imports"
import json
import time
from dataclasses import replace
from functools import partial

from diffusion_lab import checkpoints, data, metrics, nets
from diffusion_lab.course.showing import show_table
from diffusion_lab.data import store
from diffusion_lab.device import device
from diffusion_lab.exact import ExactDenoiser, Gaussian, GaussianMixture
from diffusion_lab.generate import generate
from diffusion_lab.metrics.distances import w1
from diffusion_lab.metrics.likelihood import bits_per_dim, dequantise, offset
from diffusion_lab.objectives import draw_times
from diffusion_lab.samplers import euler_maruyama
from diffusion_lab.samplers.sde import correct
from diffusion_lab.scores import likelihood, score_flow
from diffusion_lab.scores.divergence import probes, trace_variance
from diffusion_lab.training import Recipe, train
from diffusion_lab.walk import Ask, gaussian, sample, walk

# %% [markdown] name="integrals-text"
# Data and noise on fine grids, with the weights of the integrals:

# %% name="integrals"
two = toys.two_class()  # .3 N(-2, .3) + .7 N(1, .5)
spread_of_noise = 0.5
line = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
kicks = torch.linspace(-6, 6, 301, dtype=torch.float64)[:, None]
p_data, p_noised = two.log_prob(line).exp(), two.log_prob(line, 1.0, spread_of_noise).exp()
p_e = torch.exp(-(kicks[:, 0] ** 2) / 2)
pairs = line.repeat_interleave(len(kicks), 0), kicks.repeat(len(line), 1)

# %% [markdown] name="constants-text"
# Now the three losses of two scores, averaged with those weights. Compare the rows.

# %% name="constants" tags=["nbval-check-output"]
found = []
for name, s in {"linear": lambda y: 0.2 - 0.7 * y, "bent": lambda y: y.sin() - 0.3 * y}.items():
    truly = two.score(line, 1.0, spread_of_noise)
    esm = (p_noised * sm.explicit(s, line, truly)).sum() / p_noised.sum()
    ism = (p_noised * sm.implicit(s, line, create_graph=False)).sum() / p_noised.sum()
    dsm = sm.denoising(s, pairs[0], spread_of_noise, pairs[1]).reshape(len(line), len(kicks))
    dsm = (p_data @ dsm @ p_e) / (p_data.sum() * p_e.sum())
    gaps = {"implicit - explicit": (ism - esm).item(), "denoising - explicit": (dsm - esm).item()}
    found.append({"score": name} | gaps)
show_table(found, digits={"implicit - explicit": ".3f", "denoising - explicit": ".3f"})

# %% [markdown] name="constants-seen"
# The same constants for both, as promised: whichever loss we minimise, the best $s$ is the score. But
# note *which* score: denoising learns that of the **noised** data. For diffusion this is no drawback,
# it is exactly what we need, at every noise level.
#
# ### Exercise 1 (derive): the denoising loss
#
# Derive the target $\nabla_{\tilde x}\log q(\tilde x \mid x)$ for Gaussian noise, and write the denoising loss of the table,
# without the expectation, for a batch: `x` and `eps` are (B, d), `score` maps (B, d) to (B, d); return (B,).
#
# <details><summary>Hint 1: nudge</summary>
#
# First move x by the noise, then ask the score there. Around which point, and how wide, is $q$ a Gaussian?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $\log q(\tilde x \mid x) = -\lvert\tilde x - x\rvert^2/(2\sigma^2) + \mathrm{const}$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Make the noisy points; ask the score there. Differentiate hint 2, put in what $\tilde x - x$ is, and take that target away;
# square, add up over the coordinates of each point, halve.
# </details>


# %% name="my-denoising"
def my_denoising_loss(score, x, sigma: float, eps):
    """Denoising score matching, (B,)."""
    ### BEGIN SOLUTION
    return 0.5 * (score(x + sigma * eps) + eps / sigma).square().sum(1)
    ### END SOLUTION


# %% name="check-denoising"
check.denoising_loss(my_denoising_loss)

# %% [markdown] name="learn-text"
# Now learn. One small network $s(x)$ on points in the plane, trained with each of the three losses in turn: same
# start, points of the same law, same number of steps. Denoising uses $\sigma = 0.5$.

# %% name="learn"
plane = GaussianMixture(
    [0.3, 0.7], [[-2.0, -1.0], [1.0, 0.5]], [[[0.3, 0.0], [0.0, 0.3]], [[0.5, 0.0], [0.0, 0.5]]]
)
losses = {
    "implicit": lambda s, x, gen: sm.implicit(s, x),
    "sliced": lambda s, x, gen: sm.sliced(s, x, probes(x, gen)),
    "denoising": lambda s, x, gen: sm.denoising(s, x, 0.5, torch.randn(x.shape, generator=gen)),
}


def learn(loss, steps: int):
    """A network x -> score, trained with one of the losses."""
    torch.manual_seed(0)
    net, gen, level = nets.make("mlp", dim=2, width=64), generator(25), torch.zeros(1)
    optimiser = torch.optim.Adam(net.parameters())
    for k in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1.0, 2 * (1 - k / steps))
        optimiser.zero_grad()
        loss(lambda y: net(y, level), plane.sample(256, gen).float(), gen).mean().backward()
        optimiser.step()
    return lambda y: net(y.float(), level).detach()


# %% [markdown] name="learn-table-text"
# How far is each from the true score of the data, asked at data, and from the true score of the noised data, asked
# at noised data? Root mean square, in per cent of the true score's own size.

# %% name="learn-table"
learn_steps = lessons.pick(smoke=10, live=600, full=3000)
clean = plane.sample(5000, generator(26))
noisy = clean + 0.5 * torch.randn(5000, 2, generator=generator(27))
rms = lambda y: y.square().mean().sqrt().item()  # noqa: E731
learned = []
for name, loss in losses.items():
    s = learn(loss, learn_steps)
    errors = [
        100 * rms(s(y) - plane.score(y, 1.0, sigma)) / rms(plane.score(y, 1.0, sigma))
        for y, sigma in ((clean, 0.0), (noisy, 0.5))
    ]
    learned.append({"loss": name, "of the data (%)": errors[0], "noised data (%)": errors[1]})

# %% [markdown] name="learn-table-shown-text"
# Read down each column: which losses know which of the two scores?

# %% name="learn-table-shown"
digits = {"of the data (%)": ".0f", "noised data (%)": ".0f"}
show_table(learned, title=f"Error of the score after {learn_steps} steps", digits=digits)

# %% [markdown] name="learn-seen"
# Implicit and sliced learn the score of the data, which is not that of the noised data.
# Denoising learns the score of the noised data, closely, and not that of the data: the table says what the
# constants above promised.

# %% [markdown] name="predict-text"
# Exercise 1's loss is $\frac12 E\,\lvert s(x + \sigma\epsilon) + \epsilon/\sigma\rvert^2$. Multiply it by $\sigma^2$ and write
# $s = -\hat\epsilon/\sigma$: it becomes $\frac12\lvert\epsilon - \hat\epsilon\rvert^2$, DDPM's simple loss (the survey's eq. 7).
# DDPM was score matching all along.
#
# ### Exercise 2 (predict): the price of the divergence
#
# $\mathrm{div}\, s = \sum_i \partial s_i/\partial x_i$. One backward pass gives the gradient of *one*
# number with respect to all of $x$. How many backward passes through the network does the implicit loss
# take to form the divergence for 8 x 8 digits?
#
# <details><summary>Hint 1: nudge</summary>
#
# Which numbers have to be differentiated?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# One pass for each $s_i$; $i$ runs over the dimensions of a picture.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# For each coordinate of the score: differentiate it with respect to all of x, keep one entry, add it up. Count the
# rounds of that loop.
# </details>

# %% name="my-passes"
### BEGIN SOLUTION
passes = 64
### END SOLUTION

# %% name="check-passes"
check.backward_passes(passes)

# %% [markdown] name="price-text"
# Is it as bad as it sounds? We time one training step's loss and gradient for a small network in
# growing dimension, in core-milliseconds.


# %% name="price"
def core_ms(d: int) -> dict[str, float]:
    """Core-milliseconds of loss and gradient in d dimensions, the best of three."""
    net = nets.make("mlp", dim=d, width=64)
    net.last.reset_parameters()
    points, noise = torch.randn(2, 64, d, generator=generator(3))
    v, level, found = probes(points, generator(4)), torch.zeros(1), {}
    losses = {
        "implicit": lambda s: sm.implicit(s, points),
        "sliced": lambda s: sm.sliced(s, points, v),
        "denoising": lambda s: sm.denoising(s, points, 0.5, noise),
    }
    for name, loss in losses.items():
        for _ in range(3):
            begin = time.process_time()
            loss(lambda y: net(y, level)).mean().backward()
            spent = 1000 * (time.process_time() - begin)
            found[name] = min(found.get(name, math.inf), spent)
    return found


# %% [markdown] name="price-loop-text"
# Four dimensions, three losses:

# %% name="price-loop"
dims = lessons.pick(smoke=[2, 8], live=[2, 8, 32, 128], full=[2, 8, 32, 128, 512])
measured = [core_ms(d) for d in dims]
cost = {name: [found[name] for found in measured] for name in measured[0]}

# %% [markdown] name="price-figure-text"
# The three curves, both axes logarithmic.

# %% name="price-figure"
fig = plots.lines(dims, cost, xlabel="dimension d", ylabel="core-ms a step", log="xy")
plots.show(
    fig,
    alt="Core-milliseconds of one training step over the dimension, on logarithmic axes: implicit "
    "score matching rises steeply, sliced and denoising stay nearly flat, denoising lowest.",
    caption="Implicit score matching pays for every dimension; sliced and denoising do not.",
)

# %% [markdown] name="price-seen"
# The implicit loss grows with $d$, the sliced one pays a constant factor for its second derivative, the
# denoising loss is one ordinary training step. That is why diffusion models are trained by denoising.
#
# The trick of the sliced loss, **Hutchinson's estimator** $E[v^\top J v] = \mathrm{tr}\, J$, returns
# below for likelihoods, so its noise matters. For one direction its variance is $2\lVert S\rVert^2$
# with Gaussian $v$ and $2(\lVert S\rVert^2 - \sum_i S_{ii}^2)$ with random signs ($S$ the symmetric
# part of $J$):

# %% name="hutchinson" tags=["nbval-check-output"]
J = torch.randn(4, 4, generator=generator(5), dtype=torch.float64)
many = torch.zeros(200_000, 4, dtype=torch.float64)
laws = []
for law in ("gaussian", "rademacher"):
    v = probes(many, generator(6), law=law)[0]
    found = ((v @ J.T) * v).sum(1)
    ratio = (found.var() / trace_variance(J, law)).item()
    off = (found.mean() - J.trace()).abs().item()
    laws.append({"directions": law, "|mean - trace|": off, "variance / formula": ratio})
show_table(laws, digits={"|mean - trace|": ".1f", "variance / formula": ".1f"})
saved = 1 - trace_variance(J, "rademacher") / trace_variance(J, "gaussian")
print(f"signs take away {saved:.0%} of the variance here")

# %% [markdown] name="three-processes-text"
# ## VE, VP, sub-VP: three ways to add noise in continuous time
#
# Let the number of DDPM's steps go to infinity and the forward chain becomes a stochastic differential
# equation (SDE), $dx = f(t)\, x\, dt + g(t)\, dw$: a drift that shrinks $x$ and noise of strength $g$.
#
# | process | $\alpha_t$ | $\sigma_t$ | what happens |
# |---|---|---|---|
# | VE, variance exploding | $1$ | $\sigma_{\min}(\sigma_{\max}/\sigma_{\min})^t$ | data stay, noise drowns them |
# | VP, variance preserving | $e^{-B/2}$ | $\sqrt{1 - e^{-B}}$ | DDPM |
# | sub-VP | $e^{-B/2}$ | $1 - e^{-B}$ | VP with less noise |
#
# with $B(t) = \int_0^t \beta$. (Mind sub-VP: $1 - e^{-B}$ is the standard deviation, not the variance.)
# For any pair, $f = \dot\alpha/\alpha$ and $g^2 = -2\sigma^2 \dot\lambda$.

# %% name="processes"
t = torch.linspace(0.001, 1, 200, dtype=torch.float64)
fig, ax = plots.axes(1, 3, size=(3.5, 2.9))
curves = {name: schedule.alpha_sigma(t) for name, schedule in processes.items()}
for place, i, name, log in ((ax[0], 0, "α", ""), (ax[1], 1, "σ", "y")):
    one = {k: c[i] for k, c in curves.items()}
    plots.lines(t, one, ax=place, xlabel="time t", ylabel=name, log=log)
lams = {k: schedule.lam(t) for k, schedule in processes.items()}
plots.lines(t, lams, ax=ax[2], xlabel="time t", ylabel="λ")
plots.show(
    fig,
    alt="Three panels over time for VP, sub-VP and VE: α falls to zero for VP and sub-VP and "
    "stays one for VE; σ rises to one for VP and sub-VP (slower for sub-VP) and to 20 for VE; "
    "λ falls in all three, as a straight line for VE.",
    caption="Data left (α), noise (σ) and half the log signal-to-noise ratio (λ).",
)

# %% [markdown] name="processes-seen"
# VP and sub-VP shrink the data equally; sub-VP adds less noise at every $t$. VE never touches the data.
# Lesson 01 showed that only $\lambda$ matters for what a denoiser can know: up to a rescaling of $x$,
# these are three speeds on one road. But solvers feel the speed. In numbers, $f$ and $g^2$ at three times:

# %% name="slopes" tags=["nbval-check-output"]
table = []
for name, schedule in processes.items():
    f, g2 = schedule.drift_diffusion(torch.tensor([0.1, 0.5, 0.9]))
    row = {"process": name}
    for t, a, b in zip((0.1, 0.5, 0.9), (f + 0.0).tolist(), g2.tolist()):
        row |= {f"f({t})": a, f"g²({t})": b}
    table.append(row)
show_table(table, digits={column: ".3f" for column in table[0] if column != "process"})

# %% [markdown] name="reverse-text"
# ## Walking back: an SDE, an ODE, and everything between
#
# Time can be turned round if the score is known. Anderson (1982) showed that the **reverse SDE**
#
# $$ dx = \big[f\, x - g^2\, s_t(x)\big]\, dt + g\, dw, $$
#
# run from noise to data, has the **same distribution at every time** as the forward process. Can one walk back without noise?
# Then something else must do what the noise did. How noise and drift act on a density says the **Fokker-Planck equation**: that
# of $dx = a\,dt + g\,dw$ obeys
#
# $$ \partial_t p = -\nabla\cdot(a\, p) + \tfrac12 g^2\, \nabla\cdot\nabla p , $$
#
# it moves with the drift and is smoothed by the noise.
#
# ### Exercise 3 (find the bug): the velocity of the ODE
#
# The **probability-flow ODE** $dx/dt = h(x, t)$ has no noise, and the densities $p_t$ of the *forward* process
# $dx = f x\,dt + g\,dw$. This function should return $h$; somebody took the drift of the reverse SDE and left the noise out. One
# thing is wrong.
#
# <details><summary>Hint 1: nudge</summary>
#
# Forward in time the noise smooths the density. Since $\nabla p = p\,\nabla\log p$, smoothing can be written as a drift: which?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# Forward: $\partial_t p = -\nabla\cdot(f x\, p) + \frac12 g^2\,\nabla\cdot(p\,\nabla\log p)$. The ODE: $\partial_t p =
# -\nabla\cdot(h\, p)$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Put both terms of the forward equation under one divergence, and read off what multiplies $p$. Compare its two parts with those
# of the function.
# </details>


# %% name="my-velocity"
def my_velocity(x, score, f: float, g2: float):
    """dx/dt of the probability-flow ODE; g2 is g squared."""
    ### BEGIN SOLUTION
    return f * x - 0.5 * g2 * score
    ### END SOLUTION
    ### BEGIN STUB
    # return f * x - g2 * score  # something is wrong here
    ### END STUB


# %% name="check-velocity"
check.ode_velocity(my_velocity)

# %% [markdown] name="paths-text"
# Between the two lies a whole family. For every $c \ge 0$,
#
# $$ dx = \Big[f\, x - \tfrac{1 + c^2}{2}\, g^2\, s_t(x)\Big] dt + c\, g\, dw, $$
#
# run from noise to data, has the distributions of the forward process: with $c = 1$ it is the reverse SDE, with $c = 0$ the
# probability-flow ODE (Song et al. 2020).
#
# <details><summary>Derivation: why c drops out</summary>
#
# By exercise 3 the forward process has
#
# $$ \partial_t p = -\nabla\cdot\big[(f x - \tfrac12 g^2\, \nabla\log p)\, p\big], $$
#
# which is the equation of a flow *without* noise: the ODE, $c = 0$. Now run time backwards, $\tau = 1 - t$: the
# flow's drift changes its sign, $-(f x - \frac12 g^2\nabla\log p)$. Add noise of strength $c\,g$, which smooths by
# $\frac12 c^2 g^2$, and a drift $+\frac12 c^2 g^2\nabla\log p$, which undoes exactly that. Nothing has changed in the
# equation for $p$, whatever $c$ is; together the drift is $-[f x - \frac{1 + c^2}{2} g^2\nabla\log p]$, as above.
# </details>
#
# Now walk: 14 particles on a line, from the same noise (left) to data (right), once with $c = 0$ and
# once with $c = 1$, with the exact score. How do the paths differ, and what do they share?

# %% name="paths"
denoiser, paths = two.denoiser(vp), {}
times = [1 - 0.999 * i / 300 for i in range(301)]
start = torch.randn(14, 1, generator=generator(7), dtype=torch.float64)
for name, c in {"ODE, c = 0": 0.0, "SDE, c = 1": 1.0}.items():
    states = walk(euler_maruyama(c), denoiser, start, times, noise=gaussian(generator(8)))
    paths[name] = torch.stack([state.x[:, 0] for state in sample(states, keep=True).path])

# %% [markdown] name="paths-figure-text"
# Noise on the left, data on the right, as in lesson 05.

# %% name="paths-figure"
level = torch.linspace(-4.5, 3.5, 200, dtype=torch.float64)
density = two.log_prob(level[:, None]).exp()  # drawn from the right edge into the panel
fig, ax = plots.axes(1, 2, size=(4.6, 3.3), share=True)
for place, (name, path) in zip(ax, paths.items()):
    place.plot(times, path, color=plots.COLOURS[0], linestyle="-", marker="", linewidth=1)
    place.set(xlabel="time t   (noise ... data)", title=name, xlim=(1, 0))
    place.plot(0.3 * density, level, color="0.4", linestyle="-", marker="", linewidth=2)
ax[0].set_ylabel("x")
plots.show(
    fig,
    alt="Two panels of 14 paths from noise at t = 1 to data at t = 0. With the ODE the paths are "
    "smooth and never cross; with the SDE they are jagged and cross often. Most end in two groups, "
    "near -2 and near 1, where the exact density, drawn at the right edge, has its two peaks.",
    caption="From the same 14 points of noise: smooth paths without noise, jagged ones with noise. Grey: "
    "the density of the data.",
)

# %% [markdown] name="paths-seen"
# ODE paths are smooth and never cross: each noise has one picture and each picture one noise. SDE paths
# forget where they began. Most end under the two peaks near $-2$ and $1$. Only the paths should differ, not the
# distributions at any one time. Fourteen points cannot show that; so the variance of 5,000, for four values of
# $c$ at three times, beside the exact one ($\alpha_t^2$ times the data's variance, plus $\sigma_t^2$), and how far
# one such variance moves by chance:

# %% name="marginals"
crowd = lessons.pick(smoke=300, live=5000, full=20_000)
many_starts = torch.randn(crowd, 1, generator=generator(28), dtype=torch.float64)
mean = two.weights @ two.means
spread = float(two.weights @ (two.covs[:, 0] + (two.means - mean) ** 2))
places = {f"t = {times[i]:.2f}": i for i in (90, 180, 270)}
levels = [vp.alpha_sigma(times[i]) for i in places.values()]
exactly = [a * a * spread + b * b for a, b in levels]
marginals = [{"": "exact"} | dict(zip(places, exactly))]
for c in (0.0, 0.5, 1.0, 2.0):
    states = walk(euler_maruyama(c), denoiser, many_starts, times, noise=gaussian(generator(8)))
    path = sample(states, keep=True).path
    row = {name: path[i].x.var().item() for name, i in places.items()}
    marginals.append({"": f"c = {c:g}"} | row)
    if c == 0:
        squares = [(path[i].x - path[i].x.mean()).square() for i in places.values()]
chance = [(q.var() / crowd).sqrt().item() for q in squares]
marginals.append({"": "chance (standard error)"} | dict(zip(places, chance)))

# %% [markdown] name="marginals-shown-text"
# Four rows to compare with the first, and the size of chance:

# %% name="marginals-shown"
show_table(marginals, digits=dict.fromkeys(places, ".3f"), title=f"Variance of {crowd:,} points")

# %% [markdown] name="marginals-seen"
# Compare the rows with the first one, and their gaps with the last one. Two things move a row away from the exact
# variance: chance, and the error of 300 Euler steps, which is of its own for each $c$. No row should be further off
# than a few per cent. That is the claim above, seen.
#
# How many steps does it need? For Gaussian data a step is linear in $x$ and in the noise, so the variance of the
# samples can be followed exactly, without drawing one. The simplest solver of the equation above, **Euler-Maruyama**,
# freezes $f$, $g$ and the score for a step of length $h$ back in time ($dt = -h$) and adds noise of variance
# $c^2 g^2 h$. The data's variance is 0.25; the walk stops at $t = 0.001$, where 0.25008 is right.

# %% name="order"
normal = Gaussian([0.0], [[0.25]])


def final_variance(n: int, c: float) -> float:
    """Variance after n Euler steps from t = 1 to 0.001."""
    variance, h = 1.0, 0.999 / n
    for i in range(n):
        alpha, sigma = vp.alpha_sigma(1 - i * h)
        f, g2 = (float(y) for y in vp.drift_diffusion(1 - i * h))
        keep = 1 - f * h - (1 + c * c) / 2 * g2 * h / (alpha**2 * 0.25 + sigma**2)
        variance = keep**2 * variance + c * c * g2 * h
    return variance


# %% [markdown] name="order-table-text"
# Four numbers of steps, with noise and without:

# %% name="order-table" tags=["nbval-check-output"]
rows = [
    {"steps": k, "SDE": final_variance(k, 1.0), "ODE": final_variance(k, 0.0)}
    for k in (50, 100, 200, 1000)
]
show_table(rows, digits={"SDE": ".4f", "ODE": ".4f"})

# %% [markdown] name="order-seen"
# Twice the steps, half the error: both are of first order. That is the order of an *average* (here the variance),
# which is what samples are judged by, called weak order; how well single paths are followed is another question
# (strong order). The ODE has an advantage that a table of Euler steps does not show: without noise, *better* solvers of
# differential equations apply (lesson 07).

# %% [markdown] name="pc-text"
# ## Predictor and corrector
#
# A solver's step (the *predictor*) makes an error. But with the score we can repair samples without
# moving in time: **Langevin dynamics**,
#
# $$ x \leftarrow x + a\, s_t(x) + \sqrt{2a}\, z, \qquad a = 2\Big(r\,\frac{\overline{\lvert z\rvert}}{\overline{\lvert s\rvert}}\Big)^2, $$
#
# pulls a wrong cloud of points towards $p_t$. The step length $a$ is Song et al.'s: bars are means over the batch, and
# $r$ is a knob. They *tuned* it for each process: 0.16 or 0.17 for VE, 0.01 for VP (their Table 5), where $a$ is
# multiplied by $(\alpha_t/\alpha_s)^2$ of the step before it, too. For $a \to 0$ the
# step leaves $p_t$ as it is; a step of finite length does not quite, and so $r$ must be neither too small nor too large.
#
# We put all points into one place and let them find $p_t$; and we put them where they belong, and watch how far a long
# step drives them away.

# %% name="repair"
t, n = 0.15, lessons.pick(smoke=300, live=5000, full=20_000)
a, b = vp.alpha_sigma(t)


def noised_data(seed: int):
    """n draws from p_t."""
    gen = generator(seed)
    return a * two.sample(n, gen) + b * torch.randn(n, 1, generator=gen, dtype=torch.float64)


def after(cloud, r: float, rounds: tuple[int, ...]):
    """W1 to p_t after so many corrections."""
    ask, goal, found = Ask(two.denoiser(vp), source=gaussian(generator(11))), noised_data(9), {}
    for k in range(rounds[-1] + 1):
        if k in rounds:
            found[str(k)] = w1(cloud[:, 0], goal[:, 0])
        cloud = correct(ask, cloud, t, snr=r)
    return found


counts, one_place = (0, 5, 20, 80, 320), torch.zeros(n, 1, dtype=torch.float64)
repair_rows = [{"start": "one place", "r": 0.16} | after(one_place, 0.16, counts)]
repair_rows += [
    {"start": "p_t", "r": r} | after(noised_data(10), r, counts) for r in (0.16, 0.6, 1.0)
]

# %% [markdown] name="repair-shown-text"
# Read along the rows: which clouds come nearer to $p_t$, and which leave it?

# %% name="repair-shown"
show_table(
    repair_rows, title="W1 to p_t after so many corrections", digits={str(k): ".2f" for k in counts}
)

# %% [markdown] name="pc-race-text"
# It works, but not in a hurry; and with long steps the cloud settles somewhere else.
#
# The sampler of the paper alternates: one predictor step, one corrector step. Its predictors are not Euler-Maruyama's
# step. For VE, where $x_t = x_0 + \sigma_t\epsilon$, both are
#
# $$ x_s = x_t + V\, s_t(x_t) + \kappa\sqrt V\, z, \qquad V = \sigma_t^2 - \sigma_s^2, $$
#
# with $\kappa = 1$ for **reverse diffusion** (as much noise as the forward chain adds between $s$ and $t$) and
# $\kappa = \sigma_s/\sigma_t$ for the **ancestral** step (DDPM's posterior). After the last level both take the best
# guess, $x + \sigma^2 s$.
#
# ### Exercise 4 (write the loop): predictor and corrector
#
# Write the whole sampler for VE with the ancestral predictor. `sigmas` are the noise levels, falling; `x` (B, d) is noise
# at the first of them; `score(x, sigma)` is the score; `draw(x)` returns standard normal noise of the shape of `x`, a new
# one at each call. Predict to each next level, then correct there once, at that level; return the best guess at the last.
# Draw the predictor's noise before the corrector's.
#
# <details><summary>Hint 1: nudge</summary>
#
# Walk over neighbouring pairs of levels. Inside are two moves, and the second asks for the score anew: at the point
# that the first has reached, and at its noise level.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The variance of the ancestral noise is $V\sigma_s^2/\sigma_t^2$. In the corrector, $\overline{\lvert s\rvert}$ is the
# mean over the batch of the lengths of the rows of the score.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# For each pair (level, next level): ask the score at the level; move along it by the difference of the squares; add
# noise. Then ask the score at the next level; draw z; form the step length from the two mean lengths and r; move along
# the score by the step length and add z times the root of twice the step length. After the loop ask once more and step to
# the best guess.
# </details>


# %% name="my-pc"
def my_pc(score, x, sigmas, r: float, draw):
    """Data (B, d) from noise x (B, d), down the falling levels sigmas."""
    ### BEGIN SOLUTION
    for sigma_t, sigma_s in zip(sigmas, sigmas[1:]):
        v = sigma_t**2 - sigma_s**2
        x = x + v * score(x, sigma_t)
        x = x + sigma_s / sigma_t * v**0.5 * draw(x)
        s, z = score(x, sigma_s), draw(x)
        a = 2 * (r * z.norm(dim=1).mean() / s.norm(dim=1).mean()) ** 2
        x = x + a * s + (2 * a) ** 0.5 * z
    return x + sigmas[-1] ** 2 * score(x, sigmas[-1])
    ### END SOLUTION


# %% name="check-pc"
check.pc_loop(my_pc)

# %% [markdown] name="pc-own-text"
# Your loop at work (or, until it is right, the package's): data on a line, VE, exact score. On the left $r = 0$ and 21
# levels: nothing is corrected, and a predictor alone needs 21 calls for it (your loop asks for the corrections too, and
# moves nothing). On the right 11 levels with a correction after each step, 21 calls as well. How well do the samples
# fill the grey density?

# %% name="pc-own"
loop = my_pc if check.pc_loop.last == "right" else check.reference_pc
exact_score = lambda y, sigma: two.score(y, 1.0, sigma)  # noqa: E731
shots = lessons.pick(smoke=300, live=20_000)
clouds = {}
for name, k, r in (("without corrector", 21, 0.0), ("with, r = 0.25", 11, 0.25)):
    sigmas, gen = (
        ve.alpha_sigma(torch.linspace(1, 1 / k, k, dtype=torch.float64))[1].tolist(),
        generator(1),
    )
    draw = lambda y, gen=gen: torch.randn(y.shape, generator=gen, dtype=torch.float64)  # noqa: E731
    clouds[name] = loop(exact_score, sigmas[0] * draw(torch.empty(shots, 1)), sigmas, r, draw)

# %% [markdown] name="pc-own-figure-text"
# The two histograms over the exact density:

# %% name="pc-own-figure"
wide = torch.linspace(-5, 4, 200, dtype=torch.float64)
drawn_from = two.sample(shots, generator(12))[:, 0]
fig, ax = plots.axes(1, 2, size=(4.6, 3.0), share=True)
for place, (name, cloud) in zip(ax, clouds.items()):
    place.hist(cloud[:, 0], bins=90, range=(-5, 4), density=True, color=plots.COLOURS[0], alpha=0.6)
    place.plot(wide, two.log_prob(wide[:, None]).exp(), color="0.3", marker="", linestyle="-")
    place.set(title=f"{name}: W1 {w1(cloud[:, 0], drawn_from):.3f}", xlabel="x")
plots.show(
    fig,
    alt="Two histograms of samples over the same exact density with two peaks. The titles give their "
    "Wasserstein distance.",
    caption="21 useful calls: 20 predictor steps, or 10 with a correction after each; then the last guess.",
)

# %% [markdown] name="pc-own-seen"
# That is one seed and one value of $r$. Is the corrector worth its call in general? Two things must be fair: the
# number of calls, and the knob. So at each budget $r$ was chosen among nine values on three seeds, and then judged on
# *eight others*, against the same predictor alone, as pairs: the same seed with and without. W1 to 20,000 exact draws;
# the floor is the distance of another 20,000 exact draws, averaged over ten. `benchmarks/controls.py` measured it.

# %% name="pc"
controls = json.loads(store.path("measured/controls.json").read_text())["parts"]


def races(found: dict, scale: str) -> list[dict]:
    """One row for each budget and predictor: alone, corrected, and their difference as pairs."""
    rows = []
    for budget, race in found["races"].items():
        for predictor, one in race.items():
            alone, corrected = (metrics.Estimate.of(one[way]) for way in ("alone", "corrected"))
            gap = metrics.Estimate.of([a - b for a, b in zip(one["corrected"], one["alone"])])
            low, high = gap.interval
            word = "helps" if high < 0 else "costs" if low > 0 else "cannot tell"
            rows.append({scale: budget, "predictor": predictor, "alone": alone.value, "best r": one["r"],
                         "corrected": corrected.value, "difference": gap.value, "±": gap.error,
                         "corrector": word})  # fmt: skip
    return rows


def at_the_edge(found: dict) -> str:
    """How often the best r is the smallest or the largest that was tried."""
    ones = [one for race in found["races"].values() for one in race.values()]
    ends = [one["r"] in (min(rs := [*map(float, one["scan"])]), max(rs)) for one in ones]
    return f"best r at an end of what was tried: {sum(ends)} of {len(ends)}"


# %% [markdown] name="pc-table-text"
# The table. 'helps' and 'costs' are said only where the 95% interval of the difference leaves out 0.

# %% name="pc-table"
toy_races = controls["corrector-toy"]
floor = metrics.Estimate.of(toy_races["floor"])
as_written = dict.fromkeys(("alone", "corrected", "difference", "±"), ".3f")
title = f"W1, N = {toy_races['N']:,}, floor {floor.value:.3f} ± {floor.error:.3f}"
rows_of_toy = races(toy_races, "process, calls")
show_table(rows_of_toy, title=title, digits=as_written)
print(at_the_edge(toy_races))

# %% [markdown] name="pc-scan-text"
# And the knob itself, at 51 calls: W1 over $r$ on the tuning seeds, beside the predictor alone (dashed).

# %% name="pc-scan"
fig, ax = plots.axes(1, 2, size=(4.6, 3.2), share=True)
for place, process in zip(ax, ("VE", "VP")):
    for k, (predictor, one) in enumerate(toy_races["races"][f"{process} 51"].items()):
        rs, values = zip(*((float(r), v) for r, v in one["scan"].items()))
        place.plot(
            rs, values, color=plots.COLOURS[k], marker="os"[k], linestyle="-", label=predictor
        )
        alone = sum(one["alone"]) / len(one["alone"])
        place.axhline(
            alone, color=plots.COLOURS[k], linestyle="--", marker="", label=f"{predictor} alone"
        )
    place.axhline(floor.value, color="0.6", linestyle=":", marker="", label="floor")
    place.set(xscale="log", yscale="log", xlabel="r of the corrector", title=f"{process}, 51 calls")
ax[0].set_ylabel("W1 to the data")
ax[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plots.show(
    fig,
    alt="Two panels, VE and VP: W1 over r for two predictors with a corrector, each a curve with a minimum, and "
    "dashed lines for the predictors alone at the same number of calls.",
    caption="Too small an r repairs nothing and costs half of the steps; too large a one spoils the law.",
)

# %% [markdown] name="pc-seen"
# With an exact score there is no network error, but each predictor has its own: of 20 to 100 steps. The corrector repairs
# that. Where the table says *helps*, half of the calls are better spent on corrections; at the smallest $r$ of the figure
# they are thrown away. So a corrector that 'does not help' may only be one whose knob was left alone. Twelve comparisons
# were made: with intervals of 95%, expect about one wrong word in twenty.
#
# Does the predictor matter? Compare the columns *alone* in pairs of rows. Here it depends on the process
# and on the budget. (The paper finds reverse diffusion always better than ancestral sampling, on CIFAR-10 with its
# networks.)
#
# And the ODE? An adaptive solver (Runge-Kutta of order 5) chooses its own steps; we choose its tolerance. One seed, so
# compare with the floor's own size.

# %% name="pc-ode"
exact_ve = two.denoiser(ve)
target = two.sample(shots, generator(12))[:, 0]
begin = ve.prior_std() * torch.randn(shots, 1, generator=generator(14), dtype=torch.float64)
pc_ode_rows = []
for tolerance in (1e-2, 1e-3, 1e-4):
    flow = likelihood.decode(exact_ve, begin, rtol=tolerance, atol=tolerance)
    pc_ode_rows.append({"tolerance": tolerance, "NFE": flow.nfe, "W1": w1(flow.x[:, 0], target)})

# %% [markdown] name="pc-ode-shown-text"
# How many calls does it take to be near the floor?

# %% name="pc-ode-shown"
show_table(
    pc_ode_rows,
    title=f"Adaptive ODE solver, N = {shots:,}, floor {floor.value:.3f}",
    digits={"W1": ".3f"},
)

# %% [markdown] name="pc-others-text"
# Last, the method before the SDE, **annealed Langevin dynamics**: no predictor at all, only Langevin steps at falling
# noise, five at each of 40 levels, with $a$ a fixed share of $\sigma^2$. The paper's share is 0.1. It is a knob as $r$ is, so it
# was tuned too, on three seeds: W1 over $a/\sigma^2$, on all three processes.

# %% name="pc-others"
annealed = controls["langevin-toy"]["processes"]
scan_rows = [{"process": process} | one["scan"] for process, one in annealed.items()]
show_table(scan_rows, title="W1 on the tuning seeds, by a / σ²",
           digits=dict.fromkeys(list(scan_rows[0])[1:], ".3f"))  # fmt: skip
annealed_rows = []
for process, one in annealed.items():
    runs = {name: metrics.Estimate.of(found) for name, found in one["runs"].items()}
    both = zip(one["runs"]["Langevin, tuned step"], one["runs"]["ancestral"], strict=True)
    gap = metrics.Estimate.of([tuned - other for tuned, other in both])
    row = {"process": process} | {name: e.value for name, e in runs.items()}
    annealed_rows.append(row | {"tuned - ancestral": gap.value, "±": gap.error})
annealed_calls = one["NFE"]["ancestral"]

# %% [markdown] name="pc-others-shown-text"
# The published step and the best one, on eight other seeds, beside Euler-Maruyama and the ancestral step, all with 201 calls;
# the difference is of pairs, the same seed for both:

# %% name="pc-others-shown"
show_table(
    annealed_rows, title=f"W1, N = {toy_races['N']:,}, {annealed_calls} calls, floor {floor.value:.3f}",
    digits=dict.fromkeys(list(annealed_rows[0])[1:], ".3f"),
)  # fmt: skip

# %% [markdown] name="pc-others-seen"
# All three processes can be sampled: one field, three speeds. Longer steps take away most of what annealed Langevin lacked: the
# first table falls all the way to its last column. (The best is the longest that was tried. There is little room beyond: with
# $a = 2\sigma^2$ a point of a Gaussian of width $\sigma$ lands as far behind the centre as it was before it.) At equal calls it
# stays behind the ancestral step, whose lead is the last column but one; how to share the calls between levels and steps was
# not tuned.
#
# ### Why many noise levels?
#
# Why not do without all this, and run Langevin dynamics on the data's own score? Because where there are no data the
# score says nothing about how *much* data lies on either side. Two groups far apart, 30% of the data in the left one, and
# an exact score: 2,000 Langevin steps at the lowest noise level, against the same number spread over levels of falling
# noise.

# %% name="many-levels"
apart = GaussianMixture([0.3, 0.7], [[-4.0], [4.0]], [[[0.1]], [[0.1]]])
how_many, moves = lessons.pick(smoke=100, live=1000), lessons.pick(smoke=20, live=2000)
many_levels_rows = []
for name, levels_down in {
    "one level, σ = 0.1": [0.1] * moves,
    "from σ = 10 to 0.1": torch.logspace(1, -1, moves, dtype=torch.float64).tolist(),
}.items():
    gen = generator(40)
    x = torch.randn(how_many, 1, generator=gen, dtype=torch.float64)
    for sigma in levels_down:
        a = 0.1 * (0.1 + sigma**2)
        z = torch.randn(how_many, 1, generator=gen, dtype=torch.float64)
        x = x + a * apart.score(x, 1.0, sigma) + (2 * a) ** 0.5 * z
    many_levels_rows.append(
        {"Langevin steps at": name, "in the left group (%)": 100 * (x < 0).double().mean().item()}
    )

# %% [markdown] name="many-levels-shown-text"
# What is left of the proportions, 30 to 70?

# %% name="many-levels-shown"
show_table(many_levels_rows, title="30% would be right", digits={"in the left group (%)": ".0f"})

# %% [markdown] name="many-levels-seen"
# At one low level each point falls into the group that is nearer to where it began, and stays: the shares are those of
# the start, not of the data. With much noise the groups have merged and points pass freely; as the noise falls they are
# sorted in the right proportion. That is what noise levels are for. (A learned score is worse still between the groups: it has
# seen no data there.)
#
# Now a network instead of the exact score. The digits network, 11 and 41 calls, the same protocol: $r$ chosen among eight
# values on two seeds, judged on five others as pairs. Below the table: what the tuning seeds said of $r = 0.16$ and of the best $r$.

# %% name="pc-net"
net_races = controls["corrector-digits"]
mean_floor, spread_floor = net_races["floor"]
title = (
    f"FD of {net_races['N']} digits; as many real ones have {mean_floor:.2f} ± {spread_floor:.2f}"
)
rows_of_net = races(net_races, "calls")
show_table(
    rows_of_net, title=title, digits=as_written | dict.fromkeys(("alone", "corrected"), ".2f")
)
print(at_the_edge(net_races))
for budget, race in net_races["races"].items():
    for predictor, one in race.items():
        known, least = one["scan"]["0.16"], min(one["scan"].values())
        print(f"{budget} calls, {predictor}: {known:.2f} at r = 0.16, {least:.2f} at the best r")

# %% [markdown] name="pc-net-seen"
# Read the column *alone* first: with few calls the choice of the predictor is most of the difference. (Half of eleven calls
# are six steps, and reverse diffusion with six steps is far off, corrected or not.) Then the column *best r*: it is far from
# 0.16, and at eleven calls 0.16 would have lost to the predictor alone. Then the
# verdicts: four comparisons, of one small network at few calls. The paper's own test is at 2,000 evaluations on CIFAR-10, at the *same*
# computation (its Table 1: 2,000 predictor steps against 1,000 with as many corrections), and there correcting wins: FID
# 4.88 to 3.62 (VE, ancestral) and 4.74 to 3.60 (VE, reverse diffusion), 3.24 to 3.21 and 3.19 to 3.18 for VP. Nothing here
# says anything about that many steps.

# %% [markdown] name="likelihood-text"
# ## An exact likelihood
#
# The ODE has one more gift. It moves points smoothly, so it moves *density* smoothly: where the flow
# spreads points out, density falls, at the rate of the divergence of the velocity $h$,
#
# $$ \log p_0(x_0) = \log p_1(x_1) + \int_0^1 \mathrm{div}\, h(x_t, t)\, dt . $$
#
# <details><summary>Derivation: change of variables, one instant at a time</summary>
#
# In a time $dt$ the flow moves $x$ to $x + h\,dt$. This map stretches a small volume by its determinant,
# $\det(I + dt\,\partial h/\partial x) = 1 + dt\,\mathrm{tr}(\partial h/\partial x) + O(dt^2)$, and the trace is
# $\mathrm{div}\, h$. Probability is neither made nor lost, so the density at the moving point is divided by that
# factor: $d\log p_t(x_t) = -\mathrm{div}\, h\, dt$. Added up from $t = 0$ to 1 this is $\log p_1(x_1) - \log
# p_0(x_0)$.
# </details>
#
# So: encode a datum along the ODE, add up the divergence on the way, and evaluate a Gaussian at the end.
# No bound, no sampling error: the density of *this model*, up to the solver's tolerance.
#
# ### Exercise 5 (derive): how much does a Gaussian stretch?
#
# For data $N(0, v_0 I)$ in $d$ dimensions the variance at time $t$ is $V(t)$, and the ODE just rescales:
# $h = x\, \dot V/(2V)$. Derive $\int \mathrm{div}\, h\, dt$ between the times where $V = v_0$ and
# $V = v_1$.
#
# <details><summary>Hint 1: nudge</summary>
#
# What is the divergence of $x \mapsto k x$ in $d$ dimensions?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $\frac{d}{dt} \log V = \dot V/V$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# The integral of a derivative is a difference of end values; a difference of logs is the log of a ratio. Mind the
# factor and the dimension.
# </details>


# %% name="my-stretch"
def my_log_stretch(v0: float, v1: float, d: int) -> float:
    """The integral of div h from variance v0 to v1."""
    ### BEGIN SOLUTION
    return 0.5 * d * math.log(v1 / v0)
    ### END SOLUTION


# %% name="check-stretch"
check.log_stretch(my_log_stretch)

# %% [markdown] name="known-text"
# On a mixture we know the density, so the method can be tested point by point. `log_likelihood`
# integrates with torchdiffeq. The cell prints the largest error over 100 points, in nats, for each
# process: first with the true $p_1$ as the prior, then with the plain Gaussian that samplers start from.

# %% name="known"
errors = []
for name, schedule in processes.items():
    on_it = toy.denoiser(schedule)
    t0, t1 = likelihood.ends(on_it)
    (a0, b0), (a1, b1) = schedule.alpha_sigma(t0), schedule.alpha_sigma(t1)
    y = a0 * toy.sample(100, generator(12))
    ends = (partial(toy.log_prob, alpha=a1, sigma=b1), None)  # the true prior, and the usual one
    flows = [likelihood.log_likelihood(on_it, y, prior=p, rtol=1e-6, atol=1e-6) for p in ends]
    off = [float((f.log_prob - toy.log_prob(y, a0, b0)).abs().max()) for f in flows]
    errors.append({"process": name, "true prior": f"{off[0]:.0e}", "usual prior": f"{off[1]:.3f}"})

# %% [markdown] name="known-shown-text"
# The two columns differ in the prior only:

# %% name="known-shown" tags=["nbval-check-output"]
show_table(errors, title="Largest error of log p over 100 points, in nats")

# %% [markdown] name="known-seen"
# With the true $p_1$ at the end, the error is the solver's. Samplers start from a plain Gaussian instead,
# and that costs a little: at $t = 1$ a trace of the data is left. It is small here because the data are
# centred. Next, the map: the density by the ODE, and its error.

# %% name="map"
side = lessons.pick(smoke=8, live=36, full=80)
span = torch.linspace(-3, 3, side, dtype=torch.float64)
tiles, on_vp = torch.cartesian_prod(span, span).flip(1), toy.denoiser(vp)
exact_map = toy.log_prob(tiles, *vp.alpha_sigma(1e-3))
true_end = partial(toy.log_prob, **dict(zip(("alpha", "sigma"), vp.alpha_sigma(1.0))))
maps = {
    name: likelihood.log_likelihood(on_vp, tiles, rtol=1e-4, atol=1e-4, prior=prior)
    for name, prior in {"usual prior": None, "true prior": true_end}.items()
}

# %% [markdown] name="map-figure-text"
# The map, and what is wrong with it:

# %% name="map-figure"
fig, ax = plots.axes(1, 2, size=(4.4, 3.5))
by_ode = maps["usual prior"].log_prob
wrong_by = torch.where(exact_map > -15, by_ode - exact_map, torch.nan)
top = wrong_by.nan_to_num().abs().max().item()
pictures = {"log p by the ODE": by_ode.clamp(min=-15), "error": wrong_by}
for place, (name, values) in zip(ax, pictures.items()):
    style = {"cmap": "PuOr", "vmin": -top, "vmax": top} if name == "error" else {}
    values = values.reshape(side, side)
    drawn = place.imshow(values, origin="lower", extent=(-3, 3, -3, 3), **style)
    place.set(title=name, xlabel="first coordinate", ylabel="second coordinate")
    place.grid(False)
    fig.colorbar(drawn, ax=place, label="nats")
plots.show(
    fig,
    alt="Left: a map of the log-density with three long bright clusters. Right: its error, drawn "
    "where the density is not negligible: too low in orange, too high in purple, hundreds of times smaller "
    "than the range on the left.",
    caption="Log-density of the three clusters by the probability-flow ODE, and what is wrong with it.",
)
for name, one in maps.items():
    off = (one.log_prob - exact_map)[exact_map > -15].abs()
    print(
        f"{name}: error {off.square().mean().sqrt():.4f} rms, {off.max():.3f} at most, {one.nfe} NFE"
    )

# %% [markdown] name="map-seen"
# Wherever there could be data (the white rest has a density below $e^{-15}$) the map is right to a small
# part of a nat. The lines under the figure tell the two causes apart: with the true $p_1$ at the end only the solver's
# tolerance is left. (Each of these evaluations comes with 2 backward passes for the exact trace.)

# %% [markdown] name="bits-text"
# ## Bits per dimension on digits
#
# Now the network that travels with the course, on test digits it has never seen. Pixels take 17 values,
# but the model has a *density*. Two steps make the number comparable:
# 1. **Dequantise**: add uniform noise of one bin's width, so that a density makes sense. The
#    average then bounds the bits of the discrete picture from above.
# 2. **Count in bits per dimension**: divide nats by $d \ln 2$, and add $\log_2((K-1)/2)$ because $K$
#    values were squeezed into $[-1, 1]$. Forgetting this *offset* is the classic slip:

# %% name="offset" tags=["nbval-check-output"]
print(f"offset for 17 levels: {offset(17):.0f} bits, for 256 levels: {offset(256):.3f} bits")
print(f"uniform noise in [-1, 1] costs {bits_per_dim(64 * math.log(2), 64, 17):.0f} bits a pixel")

# %% [markdown] name="digits-text"
# A uniform density on the 17 bins costs $\log_2 17$ bits; a model must be below. The divergence in 64 dimensions takes
# 64 backward passes a call, or one with Hutchinson's estimator. We compare both on the same pictures. The
# direction $v$ is drawn once and **held fixed along the path**; fresh noise at every call would leave the adaptive
# solver chasing a function that changes under its feet.

# %% name="digits"
model = checkpoints.load_denoiser("digits")
test = data.load("digits", "test")

# %% [markdown] name="digits-exact-text"
# First the exact trace, on very few pictures:

# %% name="digits-exact"
few = lessons.pick(smoke=1, live=2, full=8)
pixels = dequantise(test.x[:few], 17, generator(13)).to(device())
anyone = torch.full((few,), 10, device=device())  # the label that says 'no class'
options = {"rtol": 1e-3, "atol": 1e-3}
run = lambda: likelihood.log_likelihood(model, pixels, label=anyone, **options)  # noqa: E731
exact_flow, exact_cost = metrics.measure(model, run, pictures=few)
exact_bits = bits_per_dim(-exact_flow.log_prob, 64, 17)

# %% [markdown] name="hutch-digits-text"
# The same pictures again, each with 12 random directions of its own:


# %% name="hutch-digits"
def by_directions(copies: int):
    """Likelihoods of the pictures, each with this many directions."""
    return likelihood.log_likelihood(
        model, pixels.repeat(copies, 1, 1, 1), label=anyone.repeat(copies), trace="rademacher",
        generator=generator(14), **options,
    )  # fmt: skip


copies = 12
many_flows, hutch_cost = metrics.measure(
    model, partial(by_directions, copies), pictures=few * copies
)
hutch_bits = bits_per_dim(-many_flows.log_prob, 64, 17).reshape(copies, few)
hutch_digits_rows = [
    {"picture": i + 1, "exact trace": exact_bits[i].item(), "mean of 12 directions": each.value,
     "±": each.error, "spread of one": hutch_bits[:, i].std().item()}
    for i, each in enumerate(metrics.Estimate.of(column) for column in hutch_bits.T)
]  # fmt: skip

# %% [markdown] name="hutch-digits-shown-text"
# Beside each other, picture by picture:

# %% name="hutch-digits-shown"
show_table(
    hutch_digits_rows, title="bits/dim", digits=dict.fromkeys(list(hutch_digits_rows[0])[1:], ".2f")
)

# %% [markdown] name="hutch-cost-text"
# What does it save? The exact trace had a batch of few pictures, the directions one twelve times as
# large, so we also time one direction in a batch as small as that of the exact trace.

# %% name="hutch-cost"
_, small_cost = metrics.measure(model, partial(by_directions, 1), pictures=few)
hutch_cost_rows = []
for name, spent in {
    "exact trace": exact_cost, "one direction": small_cost, "12 directions": hutch_cost,
}.items():  # fmt: skip
    each = spent.cpu_seconds / spent.pictures
    ratio = exact_cost.cpu_seconds / exact_cost.pictures / each
    row = {"trace": name, "batch": spent.pictures, "core-s each": each, "times cheaper": ratio}
    hutch_cost_rows.append(row)

# %% [markdown] name="hutch-cost-shown-text"
# Per picture, and against the exact trace:

# %% name="hutch-cost-shown"
show_table(hutch_cost_rows, digits={"core-s each": ".3f", "times cheaper": ".0f"})

# %% [markdown] name="where-text"
# The estimate is right on average and scatters from direction to direction (last column of the first table): over a
# test set that averages out. And it is far cheaper. How far depends on what is compared: a call takes one
# forward pass, then 64 backward passes or one, so equal batches promise a factor between 32 and 64; in
# batches this small much of the time is overhead, which the direction does not save. The last line gains more
# only because a larger batch uses the machine better, which the exact trace could use as well. We
# go on with the directions.
#
# An honest question remains: *the density at which noise level?* The ODE stops at some smallest $\sigma$. Our
# network was trained on undequantised digits, with noise down to $\sigma = 0.01$; a bin is 0.125 wide,
# so uniform noise in it has standard deviation 0.036.

# %% name="where"
n = lessons.pick(smoke=2, live=24, full=297)
scored, nobody = test.x[:n].to(device()), torch.full((n,), 10, device=device())
where_rows = []
for sigma in (0.01, 0.036, 0.06):
    begin_at = max(model.schedule.t_of_lam(-math.log(sigma)), likelihood.ends(model)[0])
    bits, nfe = likelihood.nll_bits(
        model, scored, 17, generator(15), times=(begin_at, likelihood.ends(model)[1]),
        trace="rademacher", label=nobody, **options,
    )  # fmt: skip
    e = metrics.Estimate.of(bits)
    where_rows.append(
        {"density at σ": sigma, "bits/dim": e.value, "±": e.error, "N": e.n, "NFE": nfe}
    )

# %% [markdown] name="where-shown-text"
# The same pictures, the same network:

# %% name="where-shown"
show_table(where_rows, digits={"bits/dim": ".2f", "±": ".2f"})

# %% [markdown] name="where-seen"
# The same network, three numbers. At $\sigma = 0.01$ the network knows that pixels take 17 values: its
# density is a comb of narrow peaks, and dequantised pixels fall between them. Near
# $\sigma = 0.036$ the peaks are as wide as the noise by which the pixels were dequantised, and the number is the lowest of the three; at
# 0.06 the density is blurred further than the pixels are. So a likelihood in bits/dim is a
# property of the model *and* of how it was asked. Say both.

# %% [markdown] name="flow-text"
# ## ScoreFlow: training for likelihood
#
# If likelihood is the goal, which weight should the loss have? Song et al. (2021) prove
#
# $$ \mathrm{KL}(p_0 \,\|\, p_{\rm SDE}) \;\le\; \tfrac12 \int g(t)^2\, E\,\lvert s(x_t, t) - \nabla \log
#    p_t\rvert^2\, dt \;+\; \mathrm{KL}(p_1 \,\|\, \mathrm{prior}) . $$
#
# So the weight is $g^2$. Note what is bounded: the density of samples of the **SDE**, not the ODE. On
# Gaussian data everything can be computed. First a model that is wrong but consistent, the score of
# $N(0, 0.4)$ where the data are $N(0, 0.25)$; then an inconsistent one, the right score times 0.8, which
# is the score of no diffusion at all.


# %% name="flow-bound"
def too_short(x, alpha, sigma):
    """Tweedie's formula with the score scaled by 0.8."""
    return (x + 0.8 * sigma**2 * normal.score(x, alpha, sigma)) / alpha


wrong = {
    "N(0, 0.4)": Gaussian([0.0], [[0.4]]).denoiser(vp),
    "0.8 score": ExactDenoiser(vp, too_short, shape=(1,)),
}

# %% [markdown] name="flow-bound-table-text"
# The bound by Monte Carlo; the KL of the SDE's samples, whose law stays Gaussian, so that its variance can be followed
# as above; and the KL of the ODE from its own likelihood at 2000 points spread like the data:

# %% name="flow-bound-table"
quantiles = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
z = torch.special.ndtri(quantiles)[:, None]  # 2000 points spread as N(0, 1)
a0, b0 = vp.alpha_sigma(1e-3)
right_variance = a0**2 * 0.25 + b0**2
y = z * math.sqrt(right_variance)


def kl_of_sde(model, steps: int = 4000) -> float:
    """KL of the data at t = 0.001 from where this model's reverse SDE ends (its score is linear)."""
    variance, h, one = 1.0, 0.999 / steps, torch.ones(1, 1, dtype=torch.float64)
    for i in range(steps):
        t = 1 - i * h
        f, g2 = (float(q) for q in vp.drift_diffusion(t))
        variance = (1 - (f - g2 * float(model(one, t).score)) * h) ** 2 * variance + g2 * h
    return 0.5 * (right_variance / variance - 1 + math.log(variance / right_variance))


flow_bound_table_rows = []
for name, one in wrong.items():
    bound = float(sum(score_flow.kl_bound(one, normal, 100_000, generator(16), (1e-3, 1.0))))
    ode = likelihood.log_likelihood(one, y, rtol=1e-6, atol=1e-6).log_prob
    kl = {"SDE": kl_of_sde(one), "ODE": (normal.log_prob(y, a0, b0) - ode).mean().item()}
    row = {"model": name, "bound": bound}
    for kind, value in kl.items():
        row |= {f"KL, {kind}": value, f"{kind} within": "yes" if value < bound + 0.005 else "no"}
    flow_bound_table_rows.append(row)

# %% [markdown] name="flow-bound-table-shown-text"
# Which KL is within the bound?

# %% name="flow-bound-table-shown" tags=["nbval-check-output"]
show_table(flow_bound_table_rows, digits=dict.fromkeys(("bound", "KL, SDE", "KL, ODE"), ".2f"))

# %% [markdown] name="flow-bound-seen"
# For the consistent model all three agree. For the inconsistent one the bound holds for the SDE, whose fresh noise
# makes up for much of the wrong score, and is broken by the ODE: a likelihood by the ODE is *not* bounded by the
# training loss. Networks are never quite consistent, so report which of the two you computed.
#
# ### The weight is huge near the data; draw t accordingly
#
# On $\epsilon$ the weight is $\frac12 g^2/\sigma^2$, which explodes at small $t$: a few draws dominate
# each gradient. **Importance sampling** draws $t$ with density $\propto g^2/\sigma^2$ instead, and then the
# weight is constant. Since $g^2/\sigma^2\, dt = -2\, d\lambda$, that is simply: *draw $\lambda$
# uniformly*. Same mean, less noise:

# %% name="importance"
draws, (low, high) = 200_000, (vp.lam(1.0), vp.lam(1e-3))
x0, eps = normal.sample(draws, generator(17)), torch.randn(draws, 1, generator=generator(18))
uniform = 1e-3 + 0.999 * torch.rand(draws, generator=generator(19), dtype=torch.float64)
evenly = draw_times(vp, draws, generator(20), law="lambda", lam_range=(low, high))

# %% [markdown] name="importance-numbers-text"
# Mean (with its standard error) and spread (standard deviation) of the loss of one draw, for data $N(0, 0.25)$ and their exact
# denoiser. The two means should agree within about two of their errors:

# %% name="importance-numbers"
Z, exact_normal = score_flow.mass(vp, 1e-3), normal.denoiser(vp)
one_draw = {
    "t uniform": 0.999 * score_flow.losses(exact_normal, x0, uniform, eps.double()),
    "λ uniform": score_flow.losses(exact_normal, x0, evenly, eps.double(), importance=Z),
}
importance_numbers_rows = [
    {
        "draws": name,
        "mean": one.mean().item(),
        "±": (one.std() / draws**0.5).item(),
        "spread": one.std().item(),
    }
    for name, one in one_draw.items()
]

# %% [markdown] name="importance-numbers-shown-text"
# Compare the means, then the spreads.

# %% name="importance-numbers-shown" tags=["nbval-check-output"]
show_table(
    importance_numbers_rows,
    digits={"mean": ".2f", "±": ".2f", "spread": ".0f"},
    title=f"Z = {Z:.2f}",
)

# %% [markdown] name="train-text"
# ### Likelihood against pictures, live
#
# Three trainings of one small network on dequantised digits, with the same seeds and steps: the simple loss
# with $t$ uniform; the likelihood weight with $t$ uniform; the likelihood weight by importance. Then, on
# test digits: the bound (which holds for the SDE), bits by the ODE, and the Fréchet distance of drawn
# digits (lesson 04), beside that of as many real ones.

# %% name="recipes"
digits = data.load("digits")
pool = dequantise(digits.x.repeat(8, 1, 1, 1), 17, generator(21))
grey = replace(digits, x=pool, labels=digits.labels.repeat(8), std=pool.std().item())
base = Recipe(
    "scoreflow", "one small network, three weights", data="digits",
    net={"name": "unet", "patch": 1, "widths": (16, 32)}, schedule={"name": "linear"},
    lam_range=(-5.0, 4.0), conditional=False, batch=64, lr=4e-3, ema=0.99,
)  # fmt: skip
ways = {
    "simple, t uniform": {"weighting": {"name": "simple"}, "times": {"law": "uniform"}},
    "likelihood, t uniform": {"weighting": {"name": "vlb"}, "times": {"law": "uniform"}},
    "likelihood, by importance": {"weighting": {"name": "simple"}, "times": {"law": "lambda"}},
}

# %% [markdown] name="train-cell-text"
# The last line of the dictionary is the whole of ScoreFlow's training: *simple* weight, $\lambda$ uniform.

# %% name="train"
steps = lessons.pick(smoke=4, live=700, full=6000)
trained, seconds = {}, {}
for name, change in ways.items():
    for p in train(base.but(**change), data=grey, steps=steps, report_every=steps):
        trained[name], seconds[name] = p.model, p.cpu_seconds
    print(f"{name:26s} {steps} steps, {p.cpu_seconds:.0f} core-seconds")

# %% [markdown] name="judge-text"
# The verdict on 200 test digits and 500 drawn ones. The three nets draw from the same noise.

# %% name="judge"
N = lessons.pick(smoke=40, live=500, full=1000)
held_out = dequantise(test.x[:200], 17, generator(22)).to(device())
settings = {"sampler": "ddim", "steps": 30, "spacing": "lambda", "seed": 2}
result, judge_rows = {}, []
for name, net in trained.items():
    bound = score_flow.data_bound(net, held_out, generator(23), draws=32).total
    ode = likelihood.log_likelihood(
        net, held_out, trace="rademacher", generator=generator(24), **options
    ).log_prob
    bits = [bits_per_dim(nll, 64, 17) for nll in (bound, -ode)]
    drawn, spent = metrics.measure(net, lambda net=net: generate(net, N, **settings), pictures=N)
    distance = metrics.fd_estimate(drawn.x.cpu(), "digits")
    result[name] = (*bits, distance, drawn.x.cpu(), spent)
    row = {"training": name}
    for kind, e in zip(("bound, SDE", "by the ODE"), map(metrics.Estimate.of, bits)):
        row |= {kind: e.value, f"± ({kind[-3:]})": e.error}
    judge_rows.append(row | {"FD": distance.value, "± (FD)": distance.error})

# %% [markdown] name="judge-shown-text"
# Three trainings, one row each:

# %% name="judge-shown"
show_table(
    judge_rows,
    digits=dict.fromkeys(list(judge_rows[0])[1:], ".2f"),
    title=f"bits/dim, and FD of {N}",
)

# %% [markdown] name="judge-floor-text"
# And the floor: as many real digits, drawn without regard to class, and the dequantised ones that these nets have
# learned.

# %% name="judge-floor"
floor_digits, floor_spread = metrics.real_floor(N, "digits", balanced=False)
some = torch.randperm(len(pool), generator=generator(41))[:N]
dequantised = metrics.fd(pool[some], "digits")
print(f"{N} real digits: FD {floor_digits:.2f} ± {floor_spread:.2f}, dequantised {dequantised:.2f}")

# %% [markdown] name="drawn-text"
# And the digits themselves, ten from each training, from the same noise.

# %% name="drawn"
rows = [r[3][:10] for r in result.values()]
plots.show(
    plots.strip(rows, labels=["simple", "likelihood,\nt uniform", "likelihood,\nimportance"]),
    alt="Three rows of ten small generated pictures, one row for each training. In each some can be "
    "read as digits and others cannot; the rows are alike, the second a little rougher.",
    caption="Ten digits from each training, the same noise in a column.",
)

# %% [markdown] name="drawn-seen"
# Some digits can be read, others are none: the network is small and its training takes seconds. Between the rows the eye
# finds little difference. What differs is in the columns above, and the claims below say how sure each difference is.
#
# An explanation, which is *not* tested here: a digit's shape is decided at middle noise, and there the likelihood
# weight is small against that at little noise, where most of the bits are. With $t$ uniform the gradient is
# noisy on top: a few draws at tiny $t$ dominate it, and importance sampling removes that noise.

# %% [markdown] name="cost-text"
# ## What did it cost
#
# Likelihoods cost more than pictures: dozens of evaluations, each with at least one backward pass (not
# counted in NFE and FLOPs, but in core-seconds). "per 1000" is per 1000 pictures scored or drawn. The first two
# rows score the *same* pictures, once each by the exact trace and twelve times each by one direction; their
# bits agree within the scatter that was printed above. N is how many were scored in one batch: the batches
# differ, so do not read a speed-up from these rows (the equal batches are above). FD is of digits, in features of
# digits, not in units of A.

# %% name="cost"
rows = []
for name, spent, bits in (
    ("likelihood, exact trace", exact_cost, exact_bits.mean().item()),
    ("likelihood, Hutchinson", hutch_cost, hutch_bits.mean().item()),
):
    quality = {"bits, SDE": "", "bits, ODE": round(bits, 2), "FD": "", "N": spent.pictures}
    rows.append({"system": name, **spent.row(), **quality})
for name, (bound, ode, distance, _, spent) in result.items():
    quality = {"bits, SDE": round(bound.mean().item(), 2), "bits, ODE": round(ode.mean().item(), 2)}
    quality |= {"FD": round(distance.value, 2), "N": N}
    rows.append({"system": f"draw, {name}", **spent.row(), **quality})
lessons.cost_row(6, *rows)

# %% [markdown] name="paper-text"
# ## Paper against here
#
# Claims of the papers and what this run says. Bits are compared picture by picture, since all trainings scored the
# same ones, and FD as a pair, since all drew from the same noise; a difference counts if its 95% interval leaves out 0.
# (Those errors are of pictures, not of training seeds, of which there is one.)

# %% name="paper"
simple, plain, clever = result.values()


def told(gap: metrics.Estimate) -> dict[str, str]:
    """A difference, lower is better, and what it says of the claim."""
    low, high = gap.interval
    word = "agrees here" if high < 0 else "the other way round" if low > 0 else "cannot tell"
    return {"here": f"{gap.value:+.3f} ± {gap.error:.3f}", "verdict": word}


def words_of(rows: list[dict], part: str) -> dict[str, str]:
    """How often a corrector helped in rows whose first column holds ``part``."""
    said = [row["corrector"] for row in rows if part in str(next(iter(row.values())))]
    counted = ", ".join(f"{word} {said.count(word)}" for word in ("helps", "cannot tell", "costs"))
    return {"here": f"{counted} (of {len(said)})", "verdict": "see the table"}


# %% [markdown] name="paper-claims-text"
# One row a claim; differences are of bits/dim or FD, and below 0 where the claim holds:

# %% name="paper-claims"
ratio = {name: of_d[-1] / of_d[0] for name, of_d in cost.items()}
both = f"sliced {ratio['sliced']:.1f}, implicit {ratio['implicit']:.0f} times"
claims = [
    {
        "claim": f"sliced needs no pass per dimension: d = {dims[-1]} over {dims[0]}",
        "here": both,
        "verdict": "",
    }
]
claims += [
    {"claim": f"a corrector helps at equal calls: {what}"} | words_of(rows, part)
    for what, rows, part in (
        ("VE, exact score", rows_of_toy, "VE"), ("VP, exact score", rows_of_toy, "VP"),
        ("digits network", rows_of_net, ""),
    )
]  # fmt: skip
for name, k in {"bound": 0, "ODE": 1}.items():
    for what, other in {"uniform t": plain, "simple": simple}.items():
        gap = metrics.Estimate.of(clever[k] - other[k])
        claims.append({"claim": f"fewer bits ({name}) by importance than {what}"} | told(gap))
gap = metrics.fd_paired(simple[3], clever[3], "digits")
claims.append({"claim": "simple weight draws better digits (FD) than importance"} | told(gap))

# %% [markdown] name="paper-claims-shown-text"
# Read the last column, and the error beside each difference.

# %% name="paper-claims-shown"
show_table(claims)

# %% [markdown] name="paper-seen"
# One seed of training, one tiny network: only the directions are worth reading. In the first row,
# compare the two ratios with each other: at these sizes a step is mostly overhead, and the clock is noisy.
#
# The papers, on CIFAR-10: score SDE reports 2.99 bits/dim for DDPM++ (continuous, deep, sub-VP), whose FID is 2.92 with
# the ODE and 2.41 with predictor and corrector; its best FID of 2.20 belongs to another network, NCSN++ (continuous,
# deep, VE), of which no likelihood is given. ScoreFlow reports 2.83 bits/dim, and 3.76 on
# ImageNet-32 (with variational dequantisation, which we left out). Their bits are for 256
# levels in colour; ours for 17 grey levels on 8 x 8 pixels: the numbers cannot be compared.

# %% [markdown] name="not-text"
# ## When it does not help
#
# - **Correctors** cost a call each. Without tuning $r$ they can cost more than they bring, and where predictor alone is at
#   the floor nothing is left to repair.
# - **The SDE** forgives errors of the score (above: a KL within the bound where the ODE's is not) but needs many steps; with
#   few, use the ODE.
# - **Implicit score matching** fails on pictures twice: by its price, and because bounded or repeated data have
#   no finite score.
# - **Bits/dim** rewards noise that nobody sees, depends on dequantisation and on where the ODE stops, and
#   says little about pictures. A lower number is not a better picture.
# - **Likelihood training** without importance sampling has a noisy gradient; with
#   it, do it if you compress data or compare densities, not for looks.

# %% [markdown] name="recap"
# ## Recap
#
# - A denoiser is a score: $s_t = (\alpha_t \hat x_0 - x_t)/\sigma_t^2$. Denoising score matching is DDPM's loss.
# - Implicit matching pays per dimension, sliced one backward pass, denoising none.
# - VE, VP, sub-VP differ in $\alpha$ and $\sigma$ only; $f$ and $g$ follow.
# - Reverse SDE and probability-flow ODE share every marginal; $c$ moves between them.
# - Langevin repairs at fixed $t$, slowly. A corrector repairs the predictor's error; whether it earns its call depends on
#   its $r$, on the predictor and on the budget: tune before you judge.
# - The ODE gives exact likelihoods: encode, add up the divergence, evaluate the prior. Say which noise level,
#   which trace, which dequantisation.
# - Likelihood training = simple loss with $\lambda$ uniform. Its bound covers the SDE, not the ODE.
#
# Next: lesson 07 solves this ODE in ten steps.

# %% [markdown] name="reading"
# ## Further reading
#
# - Hyvärinen 2005, *Estimation of Non-Normalized Statistical Models by Score Matching*.
# - Vincent 2011, *A Connection Between Score Matching and Denoising Autoencoders*.
# - Song, Garg, Shi, Ermon 2019, *Sliced Score Matching*, arXiv 1905.07088.
# - Song and Ermon 2019, *Generative Modeling by Estimating Gradients of the Data Distribution*, arXiv
#   1907.05600: annealed Langevin dynamics.
# - Song et al. 2020, *Score-Based Generative Modeling through Stochastic Differential Equations*, arXiv
#   2011.13456: VE, VP, sub-VP, predictor-corrector, the ODE and its likelihood.
# - Song, Durkan, Murray, Ermon 2021, *Maximum Likelihood Training of Score-Based Diffusion Models*, arXiv
#   2101.09258: ScoreFlow.
# - Kingma et al. 2021, *Variational Diffusion Models*, arXiv 2107.00630: the same bound in $\lambda$.
