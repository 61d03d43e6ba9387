# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 05 Jumping: can we skip steps?
#
# The network of this lesson was trained on 1000 noise levels, and drawing a picture with it the old
# way means asking it 1000 times. Can we ask it ten times instead, without training anything
# again? Yes, and the reason is a short calculation: training looks at one noise level at a time, so the
# network never learned how long a step is.
#
# **Goals.** You will be able to
# - say why steps can be skipped, and derive the family of processes with noise share $\eta$,
# - write DDIM's loop yourself, draw pictures with it, and say which noise suits which data,
# - turn a picture into its noise and back, and mix two noises rightly,
# - choose the steps in FastDPM's four ways, also between the trained ones,
# - compare settings that share their noise as pairs, and know when a difference is one.
#
# **Prerequisites.** Ancestral sampling and the posterior of eq. 3 (lesson 02); the Fréchet distance
# in units of A, its floor and its errors (lesson 04).
#
# **Time.** {{time}}.
#
# **Data.** Fashion-MNIST of 28 x 28 (MIT licence), which travels with the course, and exact toys.
#
# **On the map.** DDIM, implicit models (row 2 of the survey, reference 43) and FastDPM (row 11,
# reference 27; its Table II, *mixing: unified framework*).

# %% [raw] name="slide-title"
# # Jumping
#
# **Lesson 05.** Can we skip steps?
#
# - a network trained on 1000 noise levels, asked ten times
# - one family of processes, from DDPM's noise to none
# - a map from noise to pictures, and back
#
# <aside class="notes">Needed from before: the posterior of lesson 02, and the Fréchet distance with its floor from lesson 04.</aside>

# %% [markdown] name="imports-text"
# The shipped network: an unconditional one on the linear schedule of 1000 steps.

# %% name="imports"
import torch

from diffusion_lab import checkpoints, metrics
from diffusion_lab.course import lessons, plots
from diffusion_lab.device import device, generator
from diffusion_lab.grids import grid
from diffusion_lab.samplers import ddim, ddpm
from diffusion_lab.walk import gaussian, sample, walk

net = checkpoints.load_denoiser("fashion-vp1000")
linear = net.schedule
print(f"{linear}\n{metrics.count_parameters(net):,} parameters")

# %% [markdown] name="trouble-text"
# ## A thousand calls for a picture
#
# First the trouble. One row of pictures is drawn in 1000 ancestral steps. The other three have
# **twenty** steps, of the same length in $t$: with the noise that DDPM adds (its $\beta_t$, stretched
# over the longer jump), with the smaller posterior variance of eq. 3, and with no noise at all. All
# rows start from the same noise. Which of the three will look like the first?
#
# (A word on names. "DDPM" is used for both variances. *DDPM's noise* is here the larger one, $\beta_t$, written
# $\hat\sigma$ below; the row "DDPM" of lesson 07 is the posterior variance, which is called $\eta = 1$ here.)

# %% name="trouble"
shares = {"0": ddim(0.0), "0.5": ddim(0.5), "1": ddim(1.0), "hat": ddpm("large")}


def draw(share: str, steps: int, n: int = 8, seed: int = 0):
    """n pictures (n, 1, 28, 28) from the same start noise, whatever the step."""
    gen = generator(seed)
    x = torch.randn(n, 1, 28, 28, generator=gen).to(device())
    times = grid(linear, steps, "linspace")
    return sample(walk(shares[share], net, x, times, noise=gaussian(gen)))


long = lessons.pick(smoke=40, live=1000)
rows = [draw("hat", long), draw("hat", 20), draw("1", 20), draw("0", 20)]
words = [f"{long} calls", "20 calls,\nDDPM's noise", "20 calls,\nposterior", "20 calls,\nno noise"]
plots.show(
    plots.strip([row.x for row in rows], labels=words),
    alt="Four rows of eight garments. The first is clean, the second is covered by grain, the third "
    "is clean and smooth, the fourth clean and sharp, with a few broken garments.",
    caption="The same network and start noise. From the top: many steps; 20 steps with DDPM's noise, "
    "with the posterior variance, and without noise.",
)

# %% [markdown] name="trouble-seen"
# With DDPM's own noise the twenty-step row is covered in grain. The two rows below it, from the **same
# network with as few calls**, have none: nothing was trained, only the step has changed. Compare the second
# and the third row garment for garment: they share their fresh noise as well as their start, so they are the same
# pictures, with grain and without. In the first row the draws enter at other times, and there are more of them; the last
# has none, and so both show other garments. Compare texture and contrast, and look for broken garments: they
# come back below.
#
# The rest of what this lesson needs:

# %% [raw] name="slide-trouble" shows="trouble"
# ## Twenty steps instead of a thousand
#
# Same network, same start noise. Only the step has changed. Which row would you take?
#
# <aside class="notes">Grain in the second row. The third and the last row have none: compare their texture, and look for broken garments.</aside>

# %% name="more-imports"
import json
import math
from itertools import pairwise

from diffusion_lab import data
from diffusion_lab.course.checks import lesson05 as check
from diffusion_lab.course.widgets import choice, explore, slider
from diffusion_lab.data import store, toys
from diffusion_lab.exact import FiniteData, GaussianMixture
from diffusion_lab.forward import posterior
from diffusion_lab.metrics import Estimate
from diffusion_lab.metrics.distances import w1
from diffusion_lab.samplers.inversion import encode, slerp
from diffusion_lab.scheduling.fastdpm import GammaLevels, fastdpm_grid

test = data.load("fashion", "test")

# %% [markdown] name="family-text"
# ## A family of processes with the same marginals
#
# What does training know about steps? The loss draws a time, a picture and its noise,
#
# $$ x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad
#    L = E_{t, x_0, \epsilon} \; w_t\, |\epsilon - \hat\epsilon(x_t, t)|^2, $$
#
# one time at a time. It never looks at two times together. So *any* process with these marginals
# $q(x_t \mid x_0)$ has the same loss, and the same network serves it. Song, Meng and Ermon write down
# a family of them. For $s < t$, let
#
# $$ q_S(x_s \mid x_t, x_0) = \mathcal N\!\Big(\alpha_s x_0 + \sqrt{\sigma_s^2 - S^2}\;
#    \frac{x_t - \alpha_t x_0}{\sigma_t},\; S^2 I\Big), \qquad 0 \le S \le \sigma_s. $$
#
# Put $x_t = \alpha_t x_0 + \sigma_t \epsilon$ in: the fraction is $\epsilon$, and
#
# $$ x_s = \alpha_s x_0 + \sqrt{\sigma_s^2 - S^2}\; \epsilon + S z. $$
#
# The two noises are independent and their variances add up to $\sigma_s^2$: the marginal at $s$ is
# right **for every $S$ and every pair $s < t$**, neighbours or not. By induction it is right along any
# list of times. (Except at the $S$ of $\eta = 1$ below, which is DDPM's own chain, these processes are not
# Markovian: forward, $x_t$ depends on $x_s$ *and* $x_0$.)
#
# The cell checks it where $x_0$ is known: data that are a single number, 1.5. We jump from $t = 0.6$ to
# $s = 0.2$ with three values of $S = \eta \cdot$ (the root of eq. 3's posterior variance).

# %% name="family" tags=["nbval-check-output"]
t, s, n = 0.6, 0.2, 200_000
point = FiniteData(torch.full((1, 1), 1.5)).denoiser(linear)
eps = torch.randn(n, 1, generator=generator(1))
x_t = linear.alpha(t) * 1.5 + linear.sigma(t) * eps
rows = []
for eta in (0.0, 0.5, 1.0):
    x_s = sample(walk(ddim(eta), point, x_t, [t, s], noise=gaussian(generator(2)))).x
    joint = torch.corrcoef(torch.cat([x_t, x_s], 1).T)[0, 1]
    mean, var = x_s.mean() / linear.alpha(s), x_s.var() / linear.sigma(s) ** 2
    row = {"mean of xₛ / αₛ": mean.item(), "variance of xₛ / σₛ²": var.item()}
    rows.append({"η": eta} | row | {"correlation of xₜ and xₛ": joint.item()})
plots.show_table(
    rows,
    title=f"One jump from t = {t} to s = {s}, {n:,} points",
    digits=dict(zip(rows[0], (".1f", ".2f", ".2f", ".1f"), strict=True)),
)

# %% [raw] name="slide-seen"
# ## What does training know about steps?
#
# $$L = E_{t, x_0, \epsilon} \; w_t\, |\epsilon - \hat\epsilon(x_t, t)|^2, \qquad x_t = \alpha_t x_0 + \sigma_t \epsilon$$
#
# One time at a time. It never looks at two times together.
#
# **So every process with these marginals has the same loss, and the same network serves it.**

# %% [markdown] name="family-seen"
# Mean and variance are the same for all; how $x_s$ depends on $x_t$ is not. With $\eta = 0$ the noise of
# $x_s$ *is* the noise of $x_t$, only scaled: the correlation is 1. With $\eta = 1$ most of it is fresh.
#
# ### The step
#
# When sampling, $x_0$ is unknown, and the network's guess $\hat x_0$ takes its place; the fraction is
# then $\hat\epsilon$:
#
# $$ x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - S^2}\; \hat\epsilon + S z, \qquad
#    S = \eta \sqrt{\tfrac{1 - \bar\alpha_s}{1 - \bar\alpha_t}\Big(1 - \tfrac{\bar\alpha_t}{\bar\alpha_s}\Big)}. $$
#
# Read it as: *go to the guess, go back out along the noise, add fresh noise for what is missing*.
#
# Put one step after another and you have a sampler: start from noise at the first time, and let the $x_s$
# of one step be the $x_t$ of the next, until the time is 0. There $\bar\alpha = 1$ and the step lands on $\hat x_0$.
#
# ### Exercise 1 (write it): DDIM's loop
#
# Write the whole loop. You get
# - `eps_hat(x, t)`, the network's guess of the noise in `x` at time `t`,
# - `x`, the start noise, and `times`, falling, of which `x` belongs to the first,
# - `abar(t)`, which gives $\bar\alpha_t = \alpha_t^2 = 1 - \sigma_t^2$ as a float, and `eta`,
# - `fresh()`, which gives new noise $z$ of the shape of `x` at every call.
#
# Return the last `x`. The next cell draws pictures with your loop.
#
# <details><summary>Hint 1: nudge</summary>
#
# Go through `times` in pairs of neighbours: the first of a pair is t, the second s. In each pair, find the guess of
# $x_0$ first.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $\hat x_0 = (x_t - \sigma_t \hat\epsilon)/\alpha_t$ with $\hat\epsilon$ asked at $x_t$ and $t$, then $S$ and the step
# above, with $\alpha = \sqrt{\bar\alpha}$ and $\sigma = \sqrt{1 - \bar\alpha}$ at t and at s.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# For each pair (t, s): ask for the noise; turn it into the guess of the picture; compute S from the two values of
# abar and eta; replace x by the sum of three terms: the guess times alpha at s, the noise times what S leaves of
# sigma at s, and S times one new draw.
# </details>


# %% [raw] name="slide-step"
# ## The step
#
# $$x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - S^2}\; \hat\epsilon + S z$$
#
# Go to the guess, go back out along the noise, add fresh noise for what is missing.
#
# - $S = 0$: no fresh noise (DDIM, $\eta = 0$)
# - $S$ of the posterior: ancestral sampling ($\eta = 1$)
# - DDPM's own $\hat\sigma$: in a long jump more noise than the marginal has room for
#
# <aside class="notes">Exercise 1 now: they write the loop around this step, and the notebook draws pictures with it.</aside>


# %% name="my-loop"
def my_ddim(eps_hat, x, times, abar, eta: float, fresh):
    """x at the last of the times, by steps with noise share eta from the first."""
    ### BEGIN SOLUTION
    for t, s in pairwise(times):
        a, b, eps = abar(t), abar(s), eps_hat(x, t)
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        std = eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        x = b**0.5 * x0 + (1 - b - std**2) ** 0.5 * eps + std * fresh()
    return x
    ### END SOLUTION


# %% name="check-loop" points=3
check.ddim_loop(my_ddim)

# %% [markdown] name="drawn-text"
# Now with the network: eight pictures in ten of **your** steps without noise, and in ten with $\eta = 1$, from
# the start noise of the first figure. (Until the check says *right*, the package's loop draws them.)


# %% name="drawn"
def package_ddim(eps_hat, x, times, abar, eta, fresh):
    return sample(walk(ddim(eta), net, x, times, noise=lambda i, like: fresh())).x


right = check.ddim_loop.last == "right"
loop, whose = (my_ddim, "your") if right else (package_ddim, "the package's")
rows = []
for eta in (0.0, 1.0):
    gen = generator(0)
    x = torch.randn(8, 1, 28, 28, generator=gen)
    with torch.no_grad():
        made = loop(
            lambda x, t: net(x.to(device()), t).eps.cpu(),
            x, grid(linear, 10, "linspace"), lambda t: linear.alpha(t) ** 2, eta,
            lambda g=gen: torch.randn(8, 1, 28, 28, generator=g),
        )  # fmt: skip
    rows.append(made)
plots.show(
    plots.strip(rows, labels=["η = 0", "η = 1"]),
    alt="Two rows of eight garments. The upper row, without noise, is sharper and partly broken; the "
    "lower row, with noise, is smooth.",
    caption=f"Ten steps of {whose} loop, the same start noise in both rows.",
)

# %% [markdown] name="ends-text"
# ### The two ends, and one outside
#
# At $\eta = 1$ the coefficients are those of the posterior $q(x_s \mid x_t, x_0)$, so the step is
# ancestral sampling; the cell runs both and compares. For CIFAR-10 DDPM itself used another noise, the
# variance $1 - \bar\alpha_t/\bar\alpha_s$ (its $\beta_t$ if $s$ and $t$ are neighbours; for its other data sets it
# used the posterior's). The DDIM paper calls that $\hat\sigma$; here it is `ddpm("large")`. It has the mean of
# $\eta = 1$ and more noise than that, so it is no member of the family. How much more depends on the jump; the
# last column of the table, $\sigma_s$, is all the noise that the marginal at $s$ has room for.

# %% name="ends" tags=["nbval-check-output"]
broad = toys.two_class()
x = torch.randn(1000, 1, generator=generator(3), dtype=torch.float64)
times = grid(linear, 12)
ends = [
    sample(walk(step, broad.denoiser(linear), x, times, noise=gaussian(generator(4)))).x
    for step in (ddim(1.0), ddpm("small"))
]
print("eta = 1 is ancestral sampling:", bool((ends[0] - ends[1]).abs().max() < 1e-9))
rows = []
for t, jump in ((0.002, 0.001), (0.5, 0.001), (0.5, 0.05), (0.5, 0.25), (0.5, 0.49)):
    q = posterior(linear, t, t - jump)
    noises = {"noise of η = 1": q.var**0.5, "noise of σ̂": q.added**0.5}
    rows.append({"jump from": t, "by": jump} | noises | {"room, σₛ": linear.sigma(t - jump)})
plots.show_table(rows, digits=dict.fromkeys(rows[0], ".3f"))

# %% [markdown] name="ends-seen"
# Between neighbours in the middle of the walk the two noises are nearly equal. At its clean end they are not (first row), and
# what that is worth over 1000 steps the paper's numbers below show. In a long jump $\eta = 1$ never adds more than the marginal at $s$ has room for, while $\hat\sigma$ adds as much as
# the whole jump destroys: in the last row far more than there is room for. That is the grain in the second row of the
# first figure. (The very last jump of a walk, to $t = 0$, adds no noise with either.)

# %% [markdown] name="toy-text"
# ## First on exact data
#
# A network errs, and so does a sampler; to see the sampler alone we take data whose best denoiser is
# a formula. Start with the largest jump there is.
#
# ### Exercise 2 (predict): one single step
#
# The data are the mixture .3 N(-2, .3) + .7 N(1, .5). Take **one** DDIM step from pure noise to data
# ($\eta = 0$). All samples land near one number. Which?
#
# <details><summary>Hint 1: nudge</summary>
#
# The last jump lands on $\hat x_0$. What does the best denoiser answer to pure noise?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $E[x_0 \mid x_1] \approx E[x_0]$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# each peak's mean times its weight, added up
# </details>

# %% name="my-jump"
### BEGIN SOLUTION
landing = 0.3 * (-2) + 0.7 * 1
### END SOLUTION

# %% name="check-jump"
check.one_jump(landing)

# %% [markdown] name="paths-text"
# Now more steps. Each line is one sample on its way from noise (left) to data (right), always from
# the same eleven starts. Left: ten steps without noise. Middle: 500 steps without noise. Right: 500
# steps with $\eta = 1$. Compare where the lines end.

# %% name="paths"
starts = torch.linspace(-2, 2, 11, dtype=torch.float64)[:, None]
fig, ax = plots.axes(1, 3, size=(3.6, 2.8), share=True)
for axis, eta, steps in zip(ax, (0.0, 0.0, 1.0), (10, 500, 500), strict=True):
    times, noise = grid(linear, steps), gaussian(generator(5))
    run = sample(walk(ddim(eta), broad.denoiser(linear), starts, times, noise=noise), keep=True)
    lines = torch.cat([state.x for state in run.path], 1)
    for line in lines:
        axis.plot(times, line, color=plots.COLOURS[0], marker="", linestyle="-", alpha=0.7, lw=1)
    axis.set(xlabel="time t", title=f"η = {eta:g}, {steps} steps", xlim=(1, 0))
ax[0].set_ylabel("x")
plots.show(
    fig,
    alt="Three panels of eleven paths from noise at the left to data at the right. The first two, "
    "without noise, are smooth and end at nearly the same places; the third is jagged.",
    caption="Without noise the paths are smooth curves that never cross, and ten steps follow them "
    "roughly (left, middle). With noise they are jagged, and the start does not fix the end (right).",
)

# %% [markdown] name="paths-seen"
# Without noise, sampling is a map: each start has **one** end, and few steps find nearly the end of
# many steps (the outermost paths are off the most). In the limit of many steps the curves solve an
# ordinary differential equation, the subject of lesson 06. With noise there is no such map.
#
# ### Exercise 3 (predict): which noise at ten steps?
#
# Before you measure: on the broad mixture above (its peaks have variances .3 and .5), which of the
# settings `"0"`, `"0.5"`, `"1"`, `"hat"` comes nearest to the data with ten steps?
#
# <details><summary>Hint 1: nudge</summary>
#
# DDPM's authors tried both noises and said for which data each is exactly right.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The posterior variance is exact if $x_0$ is a single point; $\beta_t$ is exact if $x_0 \sim N(0, I)$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# variances of .3, .5 and a spread of peaks: nearer to 1 than to 0
# </details>

# %% [raw] name="slide-paths" shows="paths"
# ## Without noise, sampling is a map

# %% name="my-guess"
### BEGIN SOLUTION
best = "hat"
### END SOLUTION

# %% name="check-guess"
check.best_on_broad(best)

# %% [markdown] name="error-text"
# Measure it, on the broad mixture and on a **narrow** one: two peaks of standard deviation 0.02. The
# error is the Wasserstein distance $W_1$ to a million exact draws: by how much a sample must be moved on average.
# Two finite sets of the same law are not at distance 0, so the **floor** is measured too: as many exact draws
# as we have samples, against the same million. Such distances scatter; the floor is the largest of ten.

# %% name="error"
narrow = GaussianMixture([0.3, 0.7], [[-1.0], [0.6]], [[[4e-4]], [[4e-4]]])
n = lessons.pick(smoke=2000, live=40_000, full=200_000)
counts = lessons.pick(smoke=[5, 10], live=[5, 10, 20, 50, 100])
start = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


def toy_draw(denoiser, step, times):
    """n samples (n,); the starts are the quantiles of N(0, 1)."""
    return sample(walk(step, denoiser, start, times, noise=gaussian(generator(6)))).x[:, 0]


def data_and_floor(toy):
    """A million exact draws, and the largest W1 to them of ten times n exact draws."""
    many = toy.sample(lessons.pick(smoke=50_000, live=1_000_000), generator(7))[:, 0]
    return many, max(w1(toy.sample(n, generator(8, i))[:, 0], many) for i in range(10))


both = {"broad": broad, "narrow": narrow}
drawn, found, floors = {}, {}, {}
for name, toy in both.items():
    exact = toy.denoiser(linear)
    data_draws, floors[name] = data_and_floor(toy)
    for k, step in shares.items():
        drawn[name, k] = [toy_draw(exact, step, grid(linear, c, "linspace")) for c in counts]
        found[name, k] = [w1(x, data_draws) for x in drawn[name, k]]

# %% [markdown] name="error-figure-text"
# Both axes are logarithmic, so "half the error with twice the steps" is a straight line. Where a curve comes
# near the dotted floor, the scatter of the draws can make up all of it.

# %% name="error-figure"
fig, ax = plots.axes(1, 2, size=(4.4, 3.3), share=True)
share_names = {k: "σ̂" if k == "hat" else f"η = {k}" for k in shares}
for axis, name in zip(ax, both, strict=True):
    named = {label: found[name, k] for k, label in share_names.items()}
    named["exact draws (floor)"] = [floors[name]] * len(counts)
    plots.lines(
        counts, named, ax=axis, log="xy", xlabel="steps", ylabel="W1 to the data", title=name
    )
    axis.lines[-1].set(color="black", linestyle=":", marker="")
for axis in ax:
    axis.legend(fontsize=9)
plots.show(
    fig,
    alt="Two panels of error against steps, four lines that fall towards a dotted floor. At few "
    "steps, left, broad data: σ̂ is lowest, η = 1 highest. Right, narrow: σ̂ is highest, η = 0 lowest.",
    caption=f"Exact denoisers, {n:,} samples each. Left: broad peaks. Right: narrow peaks. "
    "At few steps σ̂ goes from best to worst; η = 0 stays before η = 1.",
)

# %% [markdown] name="error-seen"
# On broad data $\hat\sigma$ is the best of the four at few steps; on narrow data it is the worst. So "DDIM
# beats DDPM" is not a law of sampling: against $\hat\sigma$ it is a statement about **data**. But only
# $\hat\sigma$ changes its place: $\eta = 0$ comes before $\eta = 1$ on both, wherever they are clear of the floor. To
# see why, look at the widths: the variance of the samples, beside the variance of the data.

# %% [raw] name="slide-error" shows="error-figure"
# ## Is no noise always better?
#
# Exact denoisers, so that all error is the sampler's. What changes from left to right, and what does not?
#
# <aside class="notes">Only sigma-hat changes its place. Whether it beats no noise is a statement about the data: broad or narrow.</aside>

# %% name="widths"
for name, toy in both.items():
    variance = toy.sample(200_000, generator(7)).var()
    rows = [
        {"": share_names[k]} | {f"{c} steps": x.var().item() for c, x in zip(counts, drawn[name, k], strict=True)}
        for k in shares
    ]  # fmt: skip
    plots.show_table(
        rows,
        title=f"Variance of the samples, {name} (the data have {variance:.2f})",
        digits={column: ".2f" for column in rows[0] if column},
    )

# %% [markdown] name="widths-seen"
# At few steps every member of the family is too narrow, on both toys, and $\eta = 1$ the most. The guess
# $\hat x_0$ is a mean, so it has less variance than $x_0$. Its factor in the step is
# $c = \alpha_s - \sqrt{\sigma_s^2 - S^2}\,\alpha_t/\sigma_t$, and what $x_s$ lacks after one step from a
# right $x_t$ is $c^2$ times the mean of $\mathrm{Var}(x_0 \mid x_t)$. The factor grows with $S$: a step that adds
# more fresh noise keeps less of $x_t$, and leans more on the guess.
#
# <details><summary>Why the deficit is that, and why it grows with S</summary>
#
# Put $\hat\epsilon = (x_t - \alpha_t \hat x_0)/\sigma_t$ into the step: $x_s = k\, x_t + c\, \hat x_0 + S z$ with
# $k = \sqrt{\sigma_s^2 - S^2}/\sigma_t$ and $c = \alpha_s - k\, \alpha_t$. With the true $x_0$ in the place of
# $\hat x_0$ the marginal at $s$ would be exact. Given $x_t$, the true $x_0$ varies by $\mathrm{Var}(x_0 \mid x_t)$ around
# its mean $\hat x_0$; leaving that out takes $c^2\, E\, \mathrm{Var}(x_0 \mid x_t)$ from the variance of $x_s$. A larger
# $S$ makes $k$ smaller, and so $c$ larger.
# </details>
# <details><summary>Why the larger noise is exact for N(0, I)</summary>
#
# Then $x_t \sim N(0, I)$ at every time, $\hat\epsilon = \sigma_t x_t$, and the mean of $\eta = 1$ is
# $(x_t - \beta\, \hat\epsilon/\sigma_t)/\sqrt{1 - \beta} = \sqrt{1 - \beta}\, x_t$ with
# $1 - \beta = \bar\alpha_t/\bar\alpha_s$. For variance 1 the fresh noise must have variance $\beta$, which is
# $\hat\sigma^2$.
# </details>
#
# $\hat\sigma$ has the mean of $\eta = 1$, and adds noise for what is lacking, without knowing the data. If the
# data's variance is 0, nothing is lacking and $\eta = 1$ is right; if it is 1 ($x_0 \sim N(0, I)$),
# $\hat\sigma$ is right. Broad peaks are served by the second; narrow ones it smears: their samples are too wide.
#
# Pictures are narrow in almost every direction: change one pixel by a little and it is no longer a
# clean photograph. What do you expect of $\hat\sigma$ there?

# %% [markdown] name="round-text"
# ## There and back: encoding
#
# Without noise the step works in both directions. Walk it from data to noise and you get *the noise
# that the picture comes from*; walk down again and you get the picture back, up to the error of the
# steps. `encode` does the first, `walk(ddim(), ...)` the second. How large is the error on the broad
# mixture?

# %% name="round"
x0, exact = broad.sample(8000, generator(5)), broad.denoiser(linear)
there_and_back = []
for steps in (10, 20, 50, 100):
    times = grid(linear, steps, "linspace")
    z = sample(encode(exact, x0, times)).x
    back = sample(walk(ddim(), exact, z, times)).x
    miss = (back - x0).square().mean().sqrt().item()
    there_and_back.append({"steps": steps, "error (rms)": miss, "steps x error": steps * miss})

# %% [markdown] name="round-table-text"
# The error after the round trip, and what stays of it when it is multiplied by the number of steps:

# %% name="round-table" tags=["nbval-check-output"]
plots.show_table(there_and_back, digits={"error (rms)": ".2f", "steps x error": ".1f"})

# %% [markdown] name="round-seen"
# The last column is constant: the error is proportional to 1/steps. DDIM is a **first-order** method.
#
# ### Exercise 4 (predict): a hundredth
#
# How many steps does the round trip need for an error of 0.01?
#
# <details><summary>Hint 1: nudge</summary>
#
# What stays the same from row to row?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# steps x error = a constant, which you can read in the table
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# divide the last column by the error that you want
# </details>

# %% name="my-steps"
### BEGIN SOLUTION
needed = 4.1 / 0.01
### END SOLUTION

# %% name="check-steps"
check.steps_for_a_hundredth(needed)

# %% [markdown] name="pictures-text"
# ## On pictures
#
# Two things about the network first. It was trained on 1000 noise levels, and knows nothing outside
# them: which $\lambda = \log(\alpha/\sigma)$ it may be asked at is written in its checkpoint, and asking
# elsewhere is an error, not a bad picture. And the grid must end with a jump to clean data,
# $\bar\alpha = 1$: the classic slip is to stop at the last trained level and call its $x$ a picture.

# %% name="range" tags=["nbval-check-output"]
low, high = net.lam_range
print(f"trained for lambda from {low:.2f} to {high:.2f}")
print("five steps: t =", ", ".join(f"{t:.3g}" for t in grid(linear, 5, "linspace")))
try:
    net(torch.zeros(1, 1, 28, 28, device=device()), 0.0005)
except ValueError as error:
    print("asked at t = 0.0005:", str(error).partition(" and was")[0])

# %% [markdown] name="live-text"
# ### Measured here, with few pictures
#
# Four noises at 5, 10 and 20 calls, the same start noise for all, in units of A (the distance of real
# pictures with noise of standard deviation 0.1 added, one number for the whole course). Few pictures make
# every distance too high, the floor
# too, so these numbers compare **only with each other**. The floor is that of as many real pictures, with
# the spread of one such draw. The steps lie evenly among the 1000, from step 1000 to step 1, and then jump to
# data (`linspace`; lesson 08 writes $\hat\sigma$ on another grid, `uniform`, and its numbers differ for that).

# %% name="live"
N = lessons.pick(smoke=16, live=150, full=2000)
A = metrics.anchor().value
floor, spread = (f / A for f in metrics.real_floor(N, balanced=False))
measured, rows = {}, []
for steps in lessons.pick(smoke=(5,), live=(5, 10, 20)):
    for k in shares:
        result, cost = metrics.measure(net, lambda k=k, c=steps: draw(k, c, N, 9), pictures=N)
        measured[steps, k] = metrics.fd(result.x.cpu()) / A, cost
    rows.append({"calls": steps} | {share_names[k]: measured[steps, k][0] for k in shares})
plots.show_table(
    rows,
    title=f"FD / A, N = {N} (A = {A:.2f}); real pictures {floor:.2f} ± {spread:.2f}; grid linspace",
    digits=dict.fromkeys(share_names.values(), ".2f"),
)

# %% [markdown] name="stored-text"
# ### Measured before, with more pictures and more steps
#
# `benchmarks/jumping.py` does the same with more pictures and says how far each number may be off
# (one standard error). It takes longer than a lesson may, so we read its result.

# %% name="stored"
bench = json.loads(store.path("measured/jumping.json").read_text())
runs, n_bench = bench["runs"], bench["pictures"]


def written(name: str) -> str:
    """A stored distance with its standard error."""
    return f"{runs[name]['fd']:.2f} ± {runs[name]['error']:.2f}" if name in runs else "-"


rows = [
    {"calls": c} | {share_names[k]: written(f"ddim {c} eta {k}") for k in shares}
    for c in (5, 10, 20, 50, 100)
]
rows.append(
    {"calls": "real"}
    | {share_names[k]: "{floor:.2f} ± {floor_spread:.2f}".format_map(bench) for k in shares}
)
plots.show_table(rows, title=f"FD / A, N = {n_bench}, grid linspace; " + bench["command"])

# %% [markdown] name="stored-figure-text"
# The same as a figure. Bars are two standard errors; the dotted line is the floor.

# %% name="stored-figure"
fig, ax = plots.axes(size=(6.4, 3.6))
for i, k in enumerate(shares):
    named = [c for c in (5, 10, 20, 50, 100) if f"ddim {c} eta {k}" in runs]
    got = [runs[f"ddim {c} eta {k}"] for c in named]
    bars = [2 * r["error"] for r in got]
    ax.errorbar(
        named,
        [r["fd"] for r in got],
        bars,
        label=share_names[k],
        marker=plots.MARKERS[i],
        capsize=3,
    )
ax.axhline(bench["floor"], color="black", linestyle=":", marker="", label="real pictures")
ax.set(xscale="log", yscale="log", xlabel="network calls", ylabel="Fréchet distance (A)")
ax.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
ax.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
ax.minorticks_off()
ax.legend(loc="upper right", ncols=2, fontsize=9)
plots.show(
    fig,
    alt="Fréchet distance against network calls on logarithmic axes, four falling lines above a "
    "dotted floor. σ̂ starts far above the other three, which lie close together.",
    caption=f"Quality of {n_bench} pictures against network calls (same network, same start noise).",
)

# %% [markdown] name="stored-seen"
# $\hat\sigma$ is far above the others at few calls, as on the narrow toy. What about the other three? The bars
# do not answer that. All settings began with the **same noises**, so where one of them was lucky, so was the
# other: two distances rise and fall together, and the error of their *difference* is smaller than their own errors
# make believe (*if independent* in the table). The benchmark therefore measures each difference **pair by pair** (`metrics.fd_paired`: the same random
# halves of both sets, and the scatter of the difference over them).


# %% [raw] name="slide-quality" shows="stored-figure"
# ## On pictures
#
# Bars are two standard errors; the dotted line is real pictures.
#
# <aside class="notes">Where bars overlap the eye decides nothing: the notebook compares in pairs. Never compare distances of different N.</aside>


# %% name="stored-pairs"
pairs = {(one["first"], one["second"]): one for one in bench["pairs"]}


def gap(first: str, second: str) -> Estimate:
    """FD of the first setting minus that of the second, in A, as pairs."""
    one = pairs[first, second]
    return Estimate(one["gap"], one["error"], n_bench)


def lower(first: str, second: str, names: tuple[str, str]) -> dict:
    """A row: the difference, both errors, and which of the two is lower (if one can tell)."""
    one = gap(first, second)
    loose = math.hypot(runs[first]["error"], runs[second]["error"])
    low, high = one.interval
    word = names[0] if high < 0 else names[1] if low > 0 else "cannot be told apart"
    errors = {"paired error": f"{one.error:.3f}", "if independent": f"{loose:.3f}"}
    return {"difference": f"{one.value:+.3f}"} | errors | {"lower": word}


rows = [
    {"calls": c, "against": other} | lower(f"ddim {c} eta 0", f"ddim {c} eta {k}", ("η = 0", other))
    for c in (5, 10, 20, 50, 100)
    for k, other in (("1", "η = 1"), ("0.5", "η = 0.5"))
    if (f"ddim {c} eta 0", f"ddim {c} eta {k}") in pairs
]
plots.show_table(rows, title=f"FD of η = 0 minus FD of another share, in A; pairs, N = {n_bench}")

# %% [markdown] name="stored-pairs-seen"
# One side is called *lower* where the 95% interval of the difference does not hold 0. Here pairs gain little: fresh noise
# soon leads away from the common start. Between two settings *without* noise they gain much, as the FastDPM tables below show.
#
# A warning that holds for all such tables: of twenty comparisons between equals, one would be
# called a difference by chance. A line that stands alone and barely decided is a hint and no finding.
#
# And what do more than twenty calls bring without noise?

# %% name="stored-gains"
twenty, most = "ddim 20 eta 0", "ddim 100 eta 0"
print("20 and 100 calls:", metrics.verdict(gap(twenty, most), ("20 calls", "100 calls")))
print(f"100 calls: {runs[most]['fd'] / bench['floor']:.1f} times the floor")

# %% [markdown] name="stored-gains-seen"
# After twenty calls there is little left to gain by more of them. The rest is the network's own error, which
# more steps do not touch; whether fresh noise repairs part of it is asked in lesson 07.
#
# Numbers here and in your own run above rest on different counts of pictures: they differ for the same sampler, and
# so do their floors. Never compare across N. And a small N can turn the order of close settings round, as it may in
# your own run.

# %% [markdown] name="same-text"
# ## The same noise, the same picture
#
# If sampling without noise is a map, then the start noise should fix the picture, whatever the
# number of steps. Columns start from one noise each (those of the first figure); rows differ in
# steps. Above $\eta = 0$, below $\eta = 1$.

# %% name="same"
ladder = lessons.pick(smoke=(5, 10), live=(5, 10, 20, 50))
rows = {(k, c): draw(k, c, seed=0).x.cpu() for k in ("0", "1") for c in ladder}
plots.show(
    plots.strip(list(rows.values()), labels=[f"η = {k}, {c} steps" for k, c in rows], size=0.65),
    alt="Eight rows of eight garments. In the upper four rows each column shows the same garment, "
    "sharper with more steps; in the lower four rows the garments change from row to row.",
    caption="Columns: the same start noise. Upper rows: η = 0. Lower rows: η = 1.",
)
for k in ("0", "1"):
    gaps = [(rows[k, c] - rows[k, ladder[-1]]).square().mean().sqrt() for c in ladder[:-1]]
    told = ", ".join(f"{d:.2f} from {c} steps" for d, c in zip(gaps, ladder[:-1], strict=True))
    print(f"η = {k}: distance a pixel to {ladder[-1]} steps: {told}")

# %% [markdown] name="same-seen"
# Without noise the columns keep their garment: five steps give a sketch of what fifty steps finish. So
# you can look at cheap sketches, choose one, and pay for that one only. The same is true of the broken
# ones: where the map leads to a broken garment, more steps do not repair it. With noise every row is
# another picture: what is drawn there hangs on the fresh noise too: the same draws here, but they enter at other times, and
# in another number.

# %% [raw] name="slide-same" shows="same"
# ## The same noise, the same picture

# %% [markdown] name="mix-text"
# ## Between two noises
#
# A map can be asked what lies between two of its inputs. But not on the straight line: independent
# noises of many pixels all have nearly the same length, and the middle of two of them is shorter by a factor
# $\sqrt{1/2}$, a "noise" that the network never saw. **Slerp** goes along the sphere, by shares of the
# angle $w$ (the two ends are the third and the fifth start of the figures above):
#
# $$ \mathrm{slerp}(a, b; u) = \frac{\sin((1-u)\,w)\, a + \sin(u\, w)\, b}{\sin w}, \qquad
#    \cos w = \frac{\langle a, b\rangle}{|a||b|}. $$

# %% name="mix"
ab = torch.randn(8, 1, 28, 28, generator=generator(0))[[2, 4]][:, None]
path = torch.linspace(0, 1, 9).tolist()
routes = {
    "slerp": [slerp(*ab, u) for u in path],
    "straight": [(1 - u) * ab[0] + u * ab[1] for u in path],
}
times = grid(linear, 20)
rows = [sample(walk(ddim(), net, torch.cat(way).to(device()), times)).x for way in routes.values()]
plots.show(
    plots.strip(rows, titles=[f"{u:g}" for u in path], labels=list(routes)),
    alt="Two rows of nine pictures between two garments. Top, slerp: garments all along. Bottom, the "
    "straight line: the pictures in the middle are poor in detail.",
    caption="From one noise to another in 20 steps: along the sphere (top), straight (bottom).",
)
for name, way in routes.items():
    sizes = [x.square().mean().sqrt() for x in way]
    print(f"{name}: size of the noise at each share:", ", ".join(f"{size:.2f}" for size in sizes))

# %% [markdown] name="mix-seen"
# Slerp keeps the length, and each of its pictures could have been drawn like any other. On the straight
# line the noise becomes short, and the garments in the middle lose their texture: too little noise is
# read as a picture with too little in it. On small, plain pictures the difference is one of detail.
#
# ### Exercise 5 (find the bug): slerp of a batch
#
# This function passes every test with one pair. With a batch of pairs it is wrong. Repair it.
#
# <details><summary>Hint 1: nudge</summary>
#
# How many angles does a batch of pairs have?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The sums in $\cos w$ run over the pixels of one picture: over all axes but the first.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# sum the product over channels, rows and columns of each pair (keep those axes with length 1), the two squares likewise
# </details>


# %% [raw] name="slide-mix" shows="mix"
# ## Between two noises
#
# A straight line leaves the sphere on which noises lie: too little noise is read as a picture with too little in it.
#
# <aside class="notes">Exercise 5, find the bug: slerp of a batch needs one angle for each pair.</aside>


# %% name="repair-slerp"
def my_slerp(a, b, u: float):
    """Spherical interpolation of noises (B, C, H, W), pair by pair."""
    ### BEGIN SOLUTION
    own = {"dim": (1, 2, 3), "keepdim": True}  # of each pair
    size = (a.square().sum(**own) * b.square().sum(**own)).sqrt()
    w = ((a * b).sum(**own) / size).acos()
    return (torch.sin((1 - u) * w) * a + torch.sin(u * w) * b) / torch.sin(w)
    ### END SOLUTION
    ### BEGIN STUB
    # size = (a.square().sum() * b.square().sum()).sqrt()
    # w = ((a * b).sum() / size).acos()
    # return (torch.sin((1 - u) * w) * a + torch.sin(u * w) * b) / torch.sin(w)
    ### END STUB


# %% name="check-slerp"
check.slerp(my_slerp)

# %% [markdown] name="slerp-seen"
# A nasty one: independent noises of 784 pixels are all at nearly 90 degrees, so one angle for the whole batch
# is almost right and the bug almost invisible. It bites when the pairs are related, such as a noise and a slightly
# changed copy of it beside an unrelated pair: the check has such pairs.

# %% [markdown] name="encode-text"
# ## Real pictures, there and back
#
# Eight test pictures, which the network never saw, are encoded to noise and decoded again, with the
# same number of steps both ways.

# %% name="encode"
pictures = test.x[:8].to(device())
codes, decoded = {}, [pictures]
for steps in ladder:
    times = grid(linear, steps, "linspace")
    codes[steps] = sample(encode(net, pictures, times)).x
    decoded.append(sample(walk(ddim(), net, codes[steps], times)).x)
row_names = ["test picture", *(f"{steps} steps" for steps in ladder), "its noise"]
plots.show(
    plots.strip([*decoded, codes[ladder[-1]]], labels=row_names),
    alt="Rows of eight garments: the originals, then what comes back with more and more steps, and "
    "last the noises. At five steps all are blurred and some have lost their kind, "
    "at ten most kinds are back without their finest detail, at fifty nearly the originals.",
    caption="Encoded and decoded with the same number of steps. Last row: the noise they passed.",
)

# %% [markdown] name="encode-table-text"
# What is missed, and how large the noise is where the picture is black and where it is not:

# %% name="encode-table"
black, table = pictures < -0.99, []
for steps, row in zip(ladder, decoded[1:], strict=True):
    miss, z = (row - pictures).square().mean().sqrt().item(), codes[steps]
    sizes = {"in the garment": z[~black].std().item(), "in the background": z[black].std().item()}
    table.append(
        {"steps": steps, "error (rms)": miss} | {f"noise {k}": v for k, v in sizes.items()}
    )
plots.show_table(table, digits={name: ".2f" for name in table[0] if name != "steps"})

# %% [markdown] name="encode-seen"
# Five steps bring back something blurred and near the average garment, fifty nearly the picture, down to the print
# on the pullover: twice the steps, about half the error, as on the toy. Now look at the last row: *that is not white
# noise*. In the black background its size is clearly less than in the garments, and you can see the outline. A
# background that is exactly black has no spread, so a whole range of noises leads to it, and its code is the middle of that
# range. The round trip works all the same; but such a code is no typical draw of $N(0, I)$.

# %% [raw] name="slide-encode" shows="encode"
# ## Real pictures, there and back
#
# <aside class="notes">The last row is not white noise: the outline can be seen in it.</aside>

# %% [markdown] name="between-text"
# With the noises of two real pictures we can go from one to the other: encode both, slerp, decode.

# %% name="between"
steps = lessons.pick(smoke=5, live=40)
times = grid(linear, steps, "linspace")
two = sample(encode(net, test.x[[2, 4]].to(device()), times)).x
way = torch.cat([slerp(two[:1], two[1:], u) for u in path])
plots.show(
    plots.strip([sample(walk(ddim(), net, way, times)).x], titles=[f"{u:g}" for u in path]),
    alt="Nine pictures from one real garment at the left to another at the right.",
    caption="Between two test pictures: their noises mixed by slerp and decoded.",
)
cosine = (two[0] * two[1]).sum() / (two[0].norm() * two[1].norm())
print(f"angle between the two noises: {cosine.acos().rad2deg():.0f} degrees")

# %% [markdown] name="between-seen"
# The garment changes its kind on the way, and every stage is one picture, not two faded ones laid over each
# other. (Mixing the pixels would give just that.)

# %% [markdown] name="touch-text"
# ## Something to touch
#
# Steps, noise and seed. Try two steps with $\eta = 0$ (the average garment), then more; raise $\eta$ at ten
# steps; then $\hat\sigma$ with 10 and with 50. (At two steps $\eta$ changes hardly anything: the only step that may add noise
# goes to step 1, where there is room for very little.)

# %% name="touch"
explore(
    lambda steps, share, seed: plots.grid(draw(share, steps, 10, seed).x, columns=10, size=0.9),
    steps=slider("steps", 10, 2, 50, 1),
    share=choice("noise eta", ["0", "0.5", "1", "hat"]),
    seed=slider("seed", 16, 0, 99, 1),
    alt=lambda steps, share, seed: f"Ten garments in {steps} steps with noise share {share}.",
    caption="Ten pictures, drawn anew with every change.",
)

# %% [markdown] name="touch-seen"
# The steps decide how finished the pictures are; the seed decides which pictures they are, as long as
# $\eta = 0$. The second thing to touch is the way between two noises: move the share, and change the route.

# %% name="touch-mix" tags=["hide-input"]
corners = torch.randn(6, 1, 28, 28, generator=generator(8))


def between(u: float, route: str, steps: int):
    """Five pictures at share u between the first five starts and the sixth."""
    a, b = corners[:5], corners[5:].expand(5, -1, -1, -1)
    z = slerp(a, b, u) if route == "sphere" else (1 - u) * a + u * b
    made = sample(walk(ddim(), net, z.to(device()), grid(linear, steps))).x
    return plots.grid(made, columns=5, size=1.1)


explore(
    between,
    u=slider("share of the sixth noise", 0.25, 0, 1, 0.05),
    route=choice("route", ["sphere", "straight"]),
    steps=slider("steps", 20, 2, 50, 1),
    alt=lambda u, route, steps: (
        f"Five garments in {steps} steps, at share {u:.2f} of the way ({route}) to a sixth one."
    ),
    caption="Five noises on their way to a sixth. At a share of 1 all five are the same picture.",
)

# %% [markdown] name="touch-mix-seen"
# At a share of 0 there are five garments, at 1 five times the same. Half-way, the straight route loses texture
# where the sphere keeps it. (Some pictures of both controls are broken, as in the figures above: it is a small network.)

# %% [markdown] name="fast-text"
# ## FastDPM: choosing the steps, also between the trained ones
#
# So far the steps lay evenly among the 1000. Kong and Ping ask two questions: **which** noise levels
# should the few steps have, and what if a good level lies *between* two trained ones? Their answer to the second is
# a formula. On the linear schedule the factors fall in a straight line, $1 - \beta_j = D\,(c - j + 1)$
# with $D = (\beta_T - \beta_1)/(T - 1)$ and $c = (1 - \beta_1)/D$, so that
#
# $$ \bar\alpha_i = \prod_{j=1}^{i} D\,(c - j + 1) = D^i \; c\,(c-1) \cdots (c - i + 1) $$
#
# and a falling product like $5 \cdot 4 \cdot 3 = 5!/2!$ is a quotient of two factorials. Factorials have a
# version for real numbers: $\Gamma(n + 1) = n!$.
#
# ### Exercise 6 (derive): the level of a real step
#
# Return $\log \bar\alpha$ at a real step `i`, from `i`, `d` ($D$) and `c`. You have
# `math.lgamma`, the logarithm of $\Gamma$ ($\Gamma$ itself would overflow).
#
# <details><summary>Hint 1: nudge</summary>
#
# Which factorial over which factorial is $c\,(c-1)\cdots(c-i+1)$?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $c\,(c-1)\cdots(c-i+1) = c!\,/\,(c-i)!$, and the logarithm of a product is a sum of logarithms
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# i times the logarithm of D, plus the logarithm of the upper factorial, minus that of the lower one, each by lgamma of
# one more than its number
# </details>


# %% name="my-level"
def my_log_abar(i: float, d: float, c: float) -> float:
    """log abar at the real step i of the linear schedule."""
    ### BEGIN SOLUTION
    return i * math.log(d) + math.lgamma(c + 1) - math.lgamma(c - i + 1)
    ### END SOLUTION


# %% name="check-level"
check.log_abar(my_log_abar)

# %% [markdown] name="gamma-text"
# In the package that is `GammaLevels`. At the whole steps it is the table; between them it has values
# of its own; and it can be inverted (from level to step) by bisection.

# %% name="gamma" tags=["nbval-check-output"]
levels = GammaLevels()
gaps = [abs(levels.alpha(i / 1000) - linear.alpha(i / 1000)) for i in range(1, 1001)]
print("equal to the table at all 1000 steps:", max(gaps) < 1e-9)
print(f"abar at step 10, 10.5 and 11: {levels.alpha(0.010) ** 2:.5f}", end=" ")
print(f"{levels.alpha(0.0105) ** 2:.5f} {levels.alpha(0.011) ** 2:.5f}")
print(f"and back: step {1000 * levels.t_of_lam(levels.lam(0.0105)):.3f}")

# %% [markdown] name="choose-text"
# Which levels? FastDPM has two ways, each in two spacings:
# - **STEP** chooses $K$ of the steps (`linear`: evenly; `quadratic`: denser near the data) and takes
#   their levels;
# - **VAR** chooses $K$ *variances* $b_i$ of a short chain, growing linearly or quadratically, so
#   that they destroy as much as the long one, $\prod (1 - b_i) = \bar\alpha_T$, and asks the network at
#   the real steps which have the levels of that chain.
#
# The reverse step is the one you wrote: their $\kappa$, from 0 (DDIM) to 1 (DDPM), is our $\eta$. One frame for
# both samplers and for all ways to choose steps: that is what the survey's Table II calls a *unified framework*, under
# *mixing*. Here is where ten steps lie.

# %% name="choose"
ways = [(how, spacing) for how in ("step", "var") for spacing in ("linear", "quadratic")]
fig, ax = plots.axes(size=(7.0, 2.6))
chosen = []
for i, (how, spacing) in enumerate(ways):
    times = fastdpm_grid(levels, 10, how, spacing)
    real = [1000 * t for t in times[:-1]]
    ax.plot(real, [i] * len(real), linestyle="", marker=plots.MARKERS[i])
    first = {"ᾱ at the first": levels.alpha(times[0]) ** 2}
    chosen.append({"way": f"{how} {spacing}"} | first | {f"{j}": v for j, v in enumerate(real, 1)})
ax.set(xlabel="step (0 is data, 1000 is noise)", yticks=range(4), ylim=(3.5, -0.5))
ax.set_yticklabels([" ".join(way) for way in ways])
plots.show(
    fig,
    alt="Four rows of ten marks between 0 and 1000. Linear STEP is even; the others are denser "
    "towards 0, and quadratic STEP begins at 800.",
    caption="Ten steps chosen in four ways. VAR asks at steps that are not whole numbers.",
)

# %% [markdown] name="choose-table-text"
# In numbers:

# %% name="choose-table"
digits = {"ᾱ at the first": ".5f"} | {f"{j}": ".1f" for j in range(1, 11)}
plots.show_table(chosen, title="The ten steps of each way", digits=digits)

# %% [markdown] name="choose-seen"
# Two things to notice. STEP quadratic starts at step 801: $\bar\alpha$ is small there too (second
# column), so starting from pure noise costs little, and the calls saved are spent near the data. And all ways end at step 1 and
# then jump to $\bar\alpha = 1$. (Quadratic VAR with few steps needs a last variance very close to 1. The authors' code
# searches a shorter interval and finds none; the package searches all of it.)

# %% [markdown] name="fast-toy-text"
# ### On exact data
#
# Two peaks of variance .02 and .03, between the broad and the narrow data above; all twelve
# combinations at 10 and at 50 steps. The error is $W_1$, beside its floor.

# %% name="fast-toy"
peaks = GaussianMixture([0.3, 0.7], [[-1.0], [0.6]], [[[0.02]], [[0.03]]])
kappas = (0.0, 0.5, 1.0)
data_draws, floor_of_peaks = data_and_floor(peaks)
rows = []
for steps in lessons.pick(smoke=(10,), live=(10, 50)):
    for way in ways:
        times = fastdpm_grid(levels, steps, *way)
        made = [toy_draw(peaks.denoiser(levels), ddim(kappa), times) for kappa in kappas]
        errors = {f"κ = {k:g}": w1(x, data_draws) for k, x in zip(kappas, made, strict=True)}
        rows.append({"way": " ".join(way), "steps": steps} | errors)
plots.show_table(
    rows,
    title=f"W1 to the data, {n:,} samples; exact draws up to {floor_of_peaks:.3f}",
    digits={f"κ = {k:g}": ".3f" for k in kappas},
)

# %% [markdown] name="fast-toy-seen"
# At ten steps every bit of noise costs quality, in every row, and the ways that lie denser near the
# data beat the even one: they spend their calls where these narrow peaks are decided. At fifty steps all
# errors are smaller, and those near the floor cannot be told apart; full noise ($\kappa = 1$) still costs.

# %% [markdown] name="fast-live-text"
# ### On pictures
#
# The network takes $\lambda$, not a row of a table, so it can be asked at real steps; nothing assures us
# that its answers between trained levels are good, so we look. Ten calls without noise, the four ways:

# %% name="fast-live"
on_real = net.on(levels)
x = torch.randn(N, 1, 28, 28, generator=generator(9)).to(device())
rows, fast = [], {}
for way in ways:
    times = fastdpm_grid(levels, 10, *way)
    result, cost = metrics.measure(
        net, lambda t=times: sample(walk(ddim(), on_real, x, t)), pictures=N
    )
    fast[way] = metrics.fd(result.x.cpu()) / A, cost
    rows.append(result.x[:8])
plots.show(
    plots.strip(rows, labels=[f"{' '.join(way)}\n{fast[way][0]:.2f} A" for way in ways]),
    alt="Four rows of eight garments, one row for each way to choose ten steps.",
    caption=f"Ten calls, κ = 0, four ways; beside each row the distance of {N} pictures "
    f"(real ones: {floor:.2f} A).",
)

# %% [markdown] name="fast-stored-text"
# And the stored measurement, for all combinations:

# %% name="fast-stored"
rows = [
    {"way": " ".join(way), "calls": steps}
    | {f"κ = {k:g}": written(f"{' '.join(way)} {steps} kappa {k:g}") for k in kappas}
    for steps in (10, 20)
    for way in ways
]
real = "real pictures {floor:.2f} ± {floor_spread:.2f}".format_map(bench)
plots.show_table(rows, title=f"FD / A, N = {n_bench}; {real}")

# %% [markdown] name="fast-verdicts-text"
# Which of these differences are differences? All settings share their start noise, so they are compared as pairs
# again. First the spacing, quadratic minus linear:

# %% name="fast-verdicts"
rows = []
for steps in (10, 20):
    for how in ("step", "var"):
        for k in (0, 1):
            dense, even = (f"{how} {w} {steps} kappa {k}" for w in ("quadratic", "linear"))
            fields = {"way": how, "calls": steps, "κ": k}
            rows.append(fields | lower(dense, even, ("quadratic", "linear")))
plots.show_table(rows, title=f"FD of quadratic minus FD of linear, in A; pairs, N = {n_bench}")

# %% [markdown] name="fast-noise-text"
# Then noise: none minus all of it, at ten and at twenty calls.

# %% name="fast-noise"
rows = []
for steps in (10, 20):
    for way in ways:
        none, full = (f"{' '.join(way)} {steps} kappa {k}" for k in (0, 1))
        rows.append({"way": " ".join(way), "calls": steps} | lower(none, full, ("κ = 0", "κ = 1")))
plots.show_table(rows, title=f"FD of κ = 0 minus FD of κ = 1, in A; pairs, N = {n_bench}")

# %% [markdown] name="fast-real-text"
# And real steps against whole ones, without noise: the ten steps of linear VAR, as they are and each rounded to a trained one.
# Nothing else is changed (linear STEP would differ in spacing as well).

# %% name="fast-real"
times = fastdpm_grid(levels, 10, "var", "linear")
trained = [round(1000 * t) / 1000 for t in times]
made = [sample(walk(ddim(), on_real, x, own)).x.cpu() for own in (times, trained)]
real_gap = metrics.fd_paired(*made) / A
print(f"FD of real steps minus FD of rounded ones: {real_gap.value:+.4f} ± {real_gap.error:.4f} A")
print(f"one draw of real pictures scatters by {spread:.2f} A (N = {N})")

# %% [markdown] name="fast-seen"
# Three things to read from the tables.
# - **What pairs are worth.** Without noise two settings draw mostly the same garments from the same starts (see the figure above),
#   and the paired error is smaller than the other one. With noise the pictures go separate ways, and pairs gain little.
# - **The spacing.** On the toy the quadratic ways win every row at ten steps. The last column of the first table says what our pictures
#   say, with noise and without. Where it disagrees with the toy, that is no contradiction: the toy's narrow peaks are decided near
#   the data, and a spacing is good for a kind of data and a network.
# - **Real steps**: linear VAR asks nearly always between trained levels. What that does to the pictures is in the last two lines.

# %% [markdown] name="cost-text"
# ## What did it cost
#
# The rows that this lesson adds to the course's running table. No training: that is the point.
# Core-seconds are for 1,000 pictures; the last columns are the distance in units of A and the N it was measured with.

# %% name="cost"
names = {("0", 10): "DDIM, η = 0", ("1", 10): "DDIM, η = 1", ("0", 20): "DDIM, η = 0"}
entries = [(f"{name}, {c} steps", measured.get((c, k))) for (k, c), name in names.items()]
entries += [(f"FastDPM {' '.join(way)}, 10 steps", fast[way]) for way in ways[1:3]]
rows = [
    {"system": name, **entry[1].row(), "FD / A": round(entry[0], 2), "N": N}
    for name, entry in entries if entry is not None
]  # fmt: skip
lessons.cost_row(5, *rows)

# %% [markdown] name="paper-text"
# ## Paper against here
#
# DDIM's Table 1 on CIFAR-10 (FID of 50,000 pictures; there with quadratic steps) beside the stored measurement. The
# numbers of the two sides are of different data, networks, features, steps and counts
# and do not compare; what can be tested is the **order** within a row, and how much the steps gain.

# %% name="paper"
papers = {
    10: (13.36, 41.07, 367.43), 20: (6.84, 18.36, 133.37), 50: (4.67, 8.01, 32.72),
    100: (4.16, 5.78, 9.99), 1000: (4.04, 4.73, 3.17),
}  # fmt: skip


def verdict(first: str, second: str) -> str:
    """Whether the first is lower, by the paired 95% interval."""
    if (first, second) not in pairs:
        return "not measured"
    low, high = gap(first, second).interval
    return "yes" if high < 0 else "no, the other way" if low > 0 else "cannot be told"


rows = []
for steps, claim in papers.items():
    told = {f"paper, {share_names[k]}": v for k, v in zip(("0", "1", "hat"), claim, strict=True)}
    names = [f"ddim {steps} eta {k}" for k in ("0", "1", "hat")]
    here = {"here: 0 before 1?": verdict(*names[:2]), "here: 1 before σ̂?": verdict(*names[1:])}
    rows.append({"calls": steps} | told | here)
plots.show_table(rows, digits={name: ".2f" for name in rows[0] if name.startswith("paper")})
above = [runs[f"ddim {c} eta 0"]["fd"] - bench["floor"] for c in (10, 50)]
print(f"left at 50 calls of the distance at 10, η = 0: paper {4.67 / 13.36:.0%}, ", end="")
print(f"here {above[1] / above[0]:.0%} of what lies above the floor")

# %% [markdown] name="paper-seen"
# - **Agrees:** $\hat\sigma$ far behind the others at few calls, and that a
#   few tens of calls suffice where training had a thousand. In the paper no noise leads $\eta = 1$ at every number
#   of calls; what our pictures say is in the fifth column.
# - **Not measured here:** the paper's last row. With all 1000 steps $\hat\sigma$ is the best of the three: skipping steps
#   is what it cannot bear.
# - **How much the steps gain** is in the last line. What is left at many calls is mostly the network's own error.
# - **FastDPM's** table finds quadratic STEP with $\kappa = 0$ the best of its ways at ten calls on CIFAR-10 (quoted
#   from memory, not checked). With $\kappa = 0$ that is DDIM on DDIM's own quadratic steps: one sampler under two names.
#   On the toy, too, both quadratic ways come before the linear ones at ten calls, VAR before STEP; for our pictures see the table of pairs above. The best spacing is a property of data and network, which is why lesson 08 learns it.

# %% [markdown] name="not-text"
# ## When it does not help
#
# - **Below about ten calls** DDIM's first order shows: pictures are sketches. Higher-order solvers
#   (lesson 07) get more out of the same calls, learned samplers (lesson 08) can add a little, at the
#   risk of what their measure does not see, and below four calls only training again helps (lessons 19, 20).
# - **With many calls** the advantage of $\eta = 0$ shrinks (in the paper's table too), and a map carries whatever the
#   network got wrong to its end. The line for 100 calls above says what our pictures say; lesson 07 asks again whether
#   noise helps then.
# - **On broad data and at few steps** the whole family makes samples too narrow, as the widths of the toy
#   showed, and $\hat\sigma$ is nearer.
# - **Clipping $\hat x_0$** to the range of pixels is only right if $\hat\epsilon$ is computed again from the
#   clipped guess. `Clipped(net, -1, 1)`, a wrapper for any denoiser, does; keeping the old $\hat\epsilon$ (`keep_eps=True`)
#   walks to an $x_s$ that belongs to no picture. For the same reason clipping breaks the way back from an encoding.
# - **Encoding** is only as exact as its steps, and a picture unlike the training data may land on a noise
#   that does not look like noise; what you do to that noise then does not decode well.
# - **FastDPM's formula** is for the linear schedule; others need their own inverse (the package solves
#   $\lambda(t)$ for each). It pays only if the network takes a continuous noise level.

# %% [markdown] name="recap"
# ## Recap
#
# - The loss sees one time at a time, so all processes with the same marginals share one network.
# - $x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - S^2}\,\hat\epsilon + S z$: any jump, any $S$ up to $\sigma_s$;
#   five lines of code make a sampler of it.
# - $\eta = 1$ is the posterior, $\eta = 0$ a map; $\hat\sigma$ lies outside the family.
# - Whether $\hat\sigma$ beats no noise depends on how broad the data are.
# - A map has an inverse: encode, mix by slerp (one angle for each pair), decode; error 1/steps.
# - FastDPM: real steps by the Gamma function, STEP or VAR; which spacing pays depends on data and network.
# - Compare only at equal N, beside the floor; settings that share their noise as pairs, with the error of the difference.
#
# Next: lesson 06 makes the steps infinitely small and finds the equations behind them.

# %% [raw] name="slide-recap"
# ## What to take home
#
# - the loss sees one time at a time: all processes with its marginals share one network
# - any jump, any $S$ up to $\sigma_s$
# - whether DDPM's noise beats none depends on how broad the data are
# - a map has an inverse; its error falls like one over the steps
# - compare only at equal N, beside the floor; settings that share their noise as pairs
#
# **Before next week:** the other exercises, and the section *When it does not help*.

# %% [markdown] name="reading"
# ## Further reading
#
# - Song, Meng, Ermon 2020, *Denoising Diffusion Implicit Models*, arXiv 2010.02502: the family (their
#   eq. 7), the step (eq. 12), Table 1.
# - Kong, Ping 2021, *On Fast Sampling of Diffusion Probabilistic Models*, arXiv 2106.00132.
# - Ho, Jain, Abbeel 2020, *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239: the two
#   variances and the data each is right for (their section 3.2).
# - Bao et al. 2022, *Analytic-DPM*, arXiv 2201.06503: the best variance, computed (lesson 08).
# - Shoemake 1985, *Animating Rotation with Quaternion Curves*: slerp.
