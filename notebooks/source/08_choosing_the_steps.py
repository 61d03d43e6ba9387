# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 08 Choosing the steps: which times, which variances?
#
# A sampler of ten steps asks the network at ten noise levels. Lesson 07 made each step better. This
# lesson leaves the step alone and asks what else is free: **where** to step, **how much noise** to put
# back, **from where** to start, and whether all of this can be *learned* without touching the
# network. It is a lesson for two sittings; the half-way line is marked.
#
# **Goals.** You will be able to
# - price every possible jump with one number per noise level, and write the programme that finds the best K,
# - compute the best reverse variance from one number per noise level, and say what it is best for,
# - train a sampler's coefficients through a frozen network, and name the traps on the way,
# - let a second small network propose the next step, or report how much noise is really there,
# - shorten the noising itself and close the gap with a small model of its end,
# - tell which of these buy likelihood, which buy pictures, and when none of them helps.
#
# **Prerequisites.** The variational bound (lesson 02), DDIM (lesson 05), Fréchet distance and KID
# (lesson 04).
#
# **Time.** {{time}}.
#
# **Data.** Fashion-MNIST (MIT licence) and the 8 x 8 digits (CC BY 4.0), which travel with the course
# as two shipped networks do, and exact toys.
#
# **On the map.** Rows 10 (DP stride), 58 (analytic variances), 15 (GGDM), 13 (BDDM), 32 (NEDM) and
# 41 (DiffusionTimes): the survey's *scheduling* family.

# %% [markdown] name="imports-text"
# What the first picture needs; the rest is imported where it is used.

# %% name="imports"
import math

import torch

from diffusion_lab import checkpoints, data
from diffusion_lab.course import lessons, plots
from diffusion_lab.course.checks import lesson08 as check
from diffusion_lab.course.showing import show_table
from diffusion_lab.device import generator
from diffusion_lab.scheduling import dp_stride

vp = checkpoints.load_denoiser("fashion-vp1000", device="cpu")
fashion = data.load("fashion")
print(f"a network for {vp.schedule.T} steps of the linear schedule, without classes")

# %% [markdown] name="price-text"
# ## The price of a jump
#
# The bound of lesson 02 is a sum over the moves of a walk. A move from $t$ down to $s$ costs
#
# $$ L(t, s) = \tfrac1d\, E\, \mathrm{KL}\big(q(x_s \mid x_t, x_0) \,\|\, p(x_s \mid x_t)\big)
#    = \tfrac12 (\mathrm{SNR}_s - \mathrm{SNR}_t)\, D_t, \qquad
#    D_t = \tfrac1d\, E|x_0 - \hat x_0(x_t, t)|^2, $$
#
# per dimension ($d$ of them), when the reverse step uses the posterior variance.
#
# <details><summary>Derivation: where the SNR comes from</summary>
#
# Both Gaussians have the variance $\tilde\beta$, so the KL is the squared distance of their means over $2\tilde\beta$.
# The means differ only in what stands for $x_0$, with the factor $c_0$ of the posterior: $c_0^2\,|x_0 - \hat
# x_0|^2/(2\tilde\beta)$. With $V = \sigma_t^2 - (\alpha_t/\alpha_s)^2\sigma_s^2$, the noise that is added between $s$ and
# $t$, lesson 02 has $c_0 = \alpha_s V/\sigma_t^2$ and $\tilde\beta = \sigma_s^2 V/\sigma_t^2$. So
# $c_0^2/\tilde\beta = \alpha_s^2 V/(\sigma_s^2\sigma_t^2) = \alpha_s^2/\sigma_s^2 - \alpha_t^2/\sigma_t^2$: the
# difference of the SNRs.
# </details>
#
# Two things make this
# remarkable. It does not depend on the *other* moves. And the network enters through **one number per
# noise level**, $D_t$. So we measure $D_t$ once, and know the price of every jump of every grid. Here it
# is, for about a hundred training pictures at a few dozen noise levels.

# %% name="measure"
linear = vp.schedule
points = lessons.pick(smoke=6, live=32, full=100)
lams = torch.linspace(linear.lam(1.0), linear.lam(0.001), points)
some = {max(round(1000 * linear.t_of_lam(float(lam))), 1) / 1000 for lam in lams}
few = dp_stride.measure(vp, fashion.x[-4 * points :], sorted(some), noise=generator(1))
every = [i / 1000 for i in range(1, 1001)]
errors = dp_stride.fill(few, linear, every)
print(f"measured at {len(few.times)} noise levels with {4 * points} pictures each")

# %% [markdown] name="unsure-text"
# The left panel shows how unsure the network is; the right one multiplies it by how fast the SNR moves,
# which is the price of *standing* at a noise level: the loss of a tiny step in $\lambda$. Circles are
# what was measured, the lines between them are filled in.

# %% name="unsure"
fig, ax = plots.axes(1, 2, size=(4.4, 3.2))
label = "λ     noise ... data"
for found, style in ((errors, "-"), (few, "o")):
    at = torch.tensor([linear.lam(t) for t in found.times], dtype=torch.float64)
    ax[0].semilogy(at, found.error, style, markersize=3, color="tab:blue")
    ax[1].plot(
        at, found.error * (2 * at).exp() / math.log(2), style, markersize=3, color="tab:blue"
    )
ax[0].set(xlabel=label, ylabel="squared error of x₀ per dimension")
ax[1].set(xlabel=label, ylabel="bits/dim per unit of λ")
plots.show(
    fig,
    alt="Left: the squared error of x₀ on a log scale is flat up to about λ = -3 and then falls. Right: the "
    "price per unit of λ rises from zero at the noisy end towards the clean end.",
    caption="Left: what the network does not know at each noise level. Right: what the bound pays "
    "for it, per unit of λ.",
)
print(f"pure noise: D = {few.error[-1]:.3f}, the best constant guess {fashion.x.var(0).mean():.3f}")

# %% [markdown] name="unsure-seen"
# The bound is paid at the **clean end**. Almost nothing is lost at $\lambda < -2$, where everything is
# still to be decided: the right answer there is a blur, and the network knows it. Remember this panel
# for what comes next. (The line under the figure
# compares the far left with a guess that never looks at $x_t$. A network that does worse there loses
# nothing in the bound, since the SNR is nearly zero.)
#
# ### The best variance makes jumps cheaper
#
# With the posterior variance a long jump is ruinous: its price grows with the SNR. A wider Gaussian
# admits that $x_0$ is not known. The best one, $S^2 = \tilde\beta + c_0^2 D_t$, turns the price into
# $\frac12 \log(1 + c_0^2 D_t/\tilde\beta)$. It is never dearer, since it is the minimum over all
# variances. For data $N(0, 1/4)$, where $D_t$ is a formula, in bits:

# %% name="best-price"
toy_times = [0.05, 0.2, 0.5, 1.0]
alpha, sigma = linear.alpha_sigma(torch.tensor(toy_times, dtype=torch.float64))
known = 0.25 * sigma**2 / (0.25 * alpha**2 + sigma**2)
zero, kinds = torch.zeros(4, dtype=torch.float64), ("small", "large", "best")
toy = dp_stride.Errors(toy_times, known, zero, zero)
prices = {kind: dp_stride.costs(linear, toy, kind) for kind in kinds}
best_price_rows = [
    {"move": f"{toy_times[i - 1]:.2f} to {toy_times[j - 1]:.2f}"}
    | {kind: prices[kind][i, j].item() for kind in kinds}
    for i, j in ((4, 3), (3, 2), (2, 1), (4, 1))
]

# %% [markdown] name="best-price-shown-text"
# Read along the rows: the last column is never the dearest.

# %% name="best-price-shown" tags=["nbval-check-output"]
show_table(best_price_rows, title="bits/dim", digits=dict.fromkeys(kinds, ".4f"))

# %% [markdown] name="dp-text"
# ## DP stride: the shortest path
#
# Think of the noise levels as places on a map and of $L(t, s)$ as the length of the road from $t$ to
# $s$. The grid of K moves with the smallest bound is the **shortest path** from pure noise to data with
# exactly K roads. Trying all subsets of 1000 levels is hopeless. But the best path with $k$ roads to a
# place is one road plus the best path with $k - 1$ roads:
#
# $$ C[0, 0] = 0, \quad C[0, t] = \infty \text{ for } t > 0, \qquad C[k, t] = \min_{s < t}\; C[k-1, s] + L(t, s). $$
#
# That is Watson et al.'s *dynamic programming*: no training, exact, and one table gives the best grid
# for **every** K.
#
# ### Exercise 1 (fill in): one sweep
#
# `best[s]` is $C[k-1, s]$, `table[t, s]` is $L(t, s)$ (infinite where $s \ge t$). Return $C[k, t]$ for
# all $t$.
#
# <details><summary>Hint 1: nudge</summary>
#
# Which axis of the table is the place you come down *to*?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# A row of the table belongs to one $t$, a column to one $s$. The minimum is over $s$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Add the way that is left to every road, place by place; then take the smallest value of each row.
# </details>


# %% name="my-sweep"
def my_sweep(best, table):
    """C[k] (M,) from C[k - 1] (M,) and the table (M, M) of row t, column s."""
    ### BEGIN SOLUTION
    return (best[None, :] + table).min(dim=1).values
    ### END SOLUTION


# %% name="check-sweep" points=2
check.sweep(my_sweep)

# %% [markdown] name="dp-own-text"
# A sweep tells what the best walk costs. Which walk is it? Remember at each sweep *where* the minimum was (a
# **back-pointer**), and follow these from the start.
#
# ### Exercise 2 (write the programme): the shortest path
#
# `table[t, s]` is the price of the move from place `t` to place `s`; place 0 is the data, the last one pure noise. Return the
# cheapest path with exactly `moves` moves as a list of places, from the last one down to 0 (`moves` + 1 of them).
#
# <details><summary>Hint 1: nudge</summary>
#
# Sweep `moves` times from $C[0]$. Keep the places of all minima, sweep by sweep. Which sweep belongs to the first move?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $B[k, t] = \arg\min_{s<t} C[k-1, s] + L(t, s)$. The path is $t_K = M$, then $t_{k-1} = B[k, t_k]$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Begin with a cost of nothing at place 0 and infinity elsewhere. Repeat `moves` times: replace the costs by the minima over
# each row, and put the places of these minima on a pile. Start the path at the last place. Take the pile from the top: look
# up the last place of the path, append what stands there.
# </details>


# %% name="my-shortest"
def my_shortest(table, moves: int):
    """Places of the cheapest path of that many moves, from len(table) - 1 to 0."""
    ### BEGIN SOLUTION
    best = torch.full((len(table),), math.inf, dtype=table.dtype)
    best[0] = 0
    pointers = []
    for _ in range(moves):
        best, where = (best[None, :] + table).min(dim=1)
        pointers.append(where)
    path = [len(table) - 1]
    for where in reversed(pointers):
        path.append(int(where[path[-1]]))
    return path
    ### END SOLUTION


# %% name="check-shortest" points=2
check.shortest_path(my_shortest)

# %% [markdown] name="more-imports-text"
# The rest of what the first half uses:

# %% name="more-imports"
import itertools
import json

from diffusion_lab import metrics, schedules
from diffusion_lab.bound import bounds, prior_term
from diffusion_lab.course.widgets import explore, slider
from diffusion_lab.data import store, toys
from diffusion_lab.exact import Gaussian
from diffusion_lab.forward import posterior
from diffusion_lab.grids import grid
from diffusion_lab.metrics.distances import sliced_w2
from diffusion_lab.metrics.information import mmse
from diffusion_lab.samplers import ddim, ddpm, dpmpp_3m
from diffusion_lab.scheduling import analytic, bddm, diffusion_times, ggdm, nedm
from diffusion_lab.walk import gaussian, sample, walk

A = metrics.anchor().value

# %% [markdown] name="brute-text"
# Is it exact? A mixture of two Gaussians on a line, ten noise levels, $D_t$ by numerical integration.
# All subsets against dynamic programming, in nats of the whole walk down to the cleanest level:

# %% name="brute"
mixture = toys.two_class()


def exact_table(times):
    """L(t, s) of the mixture in nats, small variance; the walk ends at the first time, for free."""
    error = mmse(mixture, linear.lam(torch.tensor(times, dtype=torch.float64)))
    free = torch.zeros(len(times), dtype=torch.float64)
    costs = dp_stride.costs(linear, dp_stride.Errors(times, error, free, free), "small")
    costs[2:, 0] = math.inf
    return costs * math.log(2)


# %% [markdown] name="brute-all-text"
# All subsets of ten levels, against the shortest path:

# %% name="brute-all"
ten = [i / 1000 for i in (1, 2, 5, 10, 22, 46, 100, 215, 464, 1000)]
ten_table = exact_table(ten)
shortest = dp_stride.shortest(ten_table, ten, 9)
brute_all_rows = []
for k in (2, 3, 4):
    subsets = itertools.combinations(ten[1:-1], k - 1)
    paths = [[1.0, *reversed(inner), 0.001, 0.0] for inner in subsets]
    least = min(dp_stride.path_cost(ten_table, ten, path) for path in paths)
    brute_all_rows.append(
        {"K": k, "subsets": len(paths), "best of all": least, "DP": shortest.cost[k + 1].item()}
    )

# %% [markdown] name="brute-all-shown-text"
# The last two columns should agree:

# %% name="brute-all-shown" tags=["nbval-check-output"]
show_table(brute_all_rows, title="nats", digits={"best of all": ".3f", "DP": ".3f"})

# %% [markdown] name="toy-text"
# And on all 1000 levels, against the usual grids of lesson 07. The last number is the whole chain, the
# best that any number of steps can reach with an exact denoiser and the small variance.

# %% name="toy-table"
nats = exact_table(every)
best = dp_stride.shortest(nats, every, 64)


def rounded(times):
    """A grid on the thousandths, ending with the cleanest level and 0."""
    return [*sorted({max(round(1000 * t), 1) / 1000 for t in times if t > 0}, reverse=True), 0.0]


toy_table_rows = []
for name in ("linspace", "lambda"):
    grids = [rounded(grid(linear, k + 1, name)) for k in (8, 32)]
    costs = [dp_stride.path_cost(nats, every, one) for one in grids]
    toy_table_rows.append({"grid": name, "K = 8": costs[0], "K = 32": costs[1]})
toy_table_rows.append({"grid": "DP", "K = 8": best.cost[9].item(), "K = 32": best.cost[33].item()})

# %% [markdown] name="toy-table-shown-text"
# How far above the best are the usual grids?

# %% name="toy-table-shown" tags=["nbval-check-output"]
show_table(toy_table_rows, title="nats", digits={"K = 8": ".2f", "K = 32": ".2f"})
print(f"all 999 moves: {dp_stride.path_cost(nats, every, [*reversed(every), 0.0]):.2f}")

# %% [markdown] name="fashion-text"
# With eight moves a uniform grid in $t$ pays far more than the best one; uniform in $\lambda$ not quite twice as much.
#
# Now pictures: the same table from the measured $D_t$, with the best variances and the real decoder
# (the move to $t = 0$ costs what the pixels cost given $\hat x_0$). The rows named *DP stride* are laid by **your
# programme** (or, until it is right, the package's).

# %% name="fashion"
table = dp_stride.costs(linear, errors, "best")
stride = dp_stride.shortest(table, every, 100)
own_programme = my_shortest if check.shortest_path.last == "right" else check.reference_path


def laid(name: str, steps: int) -> list[float]:
    """A grid of that many moves on the thousandths, by name."""
    if name == "DP stride":
        return [0.0 if place == 0 else every[place - 1] for place in own_programme(table, steps)]
    return [round(1000 * t) / 1000 for t in grid(linear, steps, name)]


names = ("uniform", "quadratic", "lambda", "DP stride")
ks = [4, 5, 7, 10, 14, 20, 30]
bits = {n: [dp_stride.path_cost(table, every, laid(n, k)) for k in ks] for n in names}

# %% [markdown] name="fashion-figure-text"
# Bits per dimension against the number of steps, and where the four grids of ten steps lie.

# %% name="fashion-figure"
fig, ax = plots.axes(1, 2, size=(4.6, 3.4))
plots.lines(ks, bits, ax=ax[0], xlabel="steps K", ylabel="bound (bits/dim)", log="x")
ax[0].set_ylim(min(map(min, bits.values())) - 0.05, bits["uniform"][0] + 0.3)
ax[0].set_xticks([4, 5, 7, 10, 20, 30], ["4", "5", "7", "10", "20", "30"])
ax[0].minorticks_off()
for row, name in enumerate(names):
    at = [linear.lam(t) for t in laid(name, 10)[:-1]]
    ax[1].plot(at, [row] * len(at), "|", markersize=16, markeredgewidth=2, label=name)
ax[1].set(xlabel=label, yticks=range(4), ylim=(-0.6, 3.6))
ax[1].set_yticklabels(names)
plots.show(
    fig,
    alt="Left: the bound against the number of steps for four grids; DP stride lies lowest "
    "everywhere, uniform in λ is above the panel at few steps. Right: ten marks for each grid "
    "over λ; DP stride spends most of its marks between the middle and the clean end.",
    caption="Left: bound against number of steps (at few steps the curve of lambda lies above the panel). "
    "Right: where each grid of ten steps asks.",
)
rows = [
    {
        "K": k,
        "best usual grid": min(bits[n][i] for n in names[:3]),
        "DP stride": bits["DP stride"][i],
    }
    for i, k in enumerate(ks)
]
for row in rows:
    row["gain"] = row["best usual grid"] - row["DP stride"]
show_table(
    rows, title="bits/dim", digits=dict.fromkeys(("best usual grid", "DP stride", "gain"), ".2f")
)
noisy = sum(linear.lam(t) < 0 for t in laid("DP stride", 10)[:-1])
print(f"DP stride, ten steps: {noisy} of the ten times have λ < 0")

# %% [markdown] name="fashion-seen"
# DP stride is lowest at every K, as it must be: it is the minimum over all grids. The table
# says how far below the best of the usual grids. On the right you see what
# it does with its freedom: it crosses the noisiest part, where jumps are cheap, in long ones, packs its times into the cleaner half, and leaves the cleanest end to the decoder.
#
# Is the table honest? It was measured on training pictures, and filled in between a few noise levels.
# Here is the bound itself, on test pictures, for two grids of ten. (The *grid* is held out from them; the best variances
# are one number a step, taken from these very pictures.) The error of the gap is taken
# picture by picture, since both grids saw the same ones:

# %% name="honest"
held_out = data.load("fashion", "test").x[: lessons.pick(smoke=4, live=64, full=1000)]
said, each = {}, {}
for name in ("uniform", "DP stride"):
    times = laid(name, 10)
    said[name] = dp_stride.path_cost(table, every, times)
    each[name] = bounds(vp, held_out, times, noise=generator(2), variances=["best"])["best"].each
said["gap"], each["gap"] = (x["uniform"] - x["DP stride"] for x in (said, each))
honest_rows = []
for name, values in each.items():
    e = metrics.Estimate.of(values)
    honest_rows.append(
        {"grid": name, "table": said[name], "test pictures": e.value, "±": e.error, "N": e.n}
    )

# %% [markdown] name="honest-shown-text"
# The last row is what counts: the gap in the table, and on other pictures.

# %% name="honest-shown"
show_table(
    honest_rows,
    title="bits/dim, ten steps",
    digits=dict.fromkeys(("table", "test pictures", "±"), ".2f"),
)

# %% [markdown] name="honest-seen"
# On other pictures the bound is another number, for both grids alike, and its scatter between pictures
# is wide. What the table is used for is the last line: the order of the grids and the gap between them.
# It is honest where the two gaps agree within two of these errors.

# %% [markdown] name="half-text"
# ### The honest second half: the same grids, judged by pictures
#
# A small bound is a statement about likelihood. Are the pictures better too? Five DDIM steps from the
# same noise, one row for each grid:

# %% name="rows"
x = torch.randn(10, 1, 28, 28, generator=generator(3))
walks = [*(laid(name, 5) for name in names), grid(linear, 50)]
drawn_rows = [sample(walk(ddim(), vp, x, times)).x for times in walks]
plots.show(
    plots.strip(drawn_rows, labels=[*names, "50 steps"]),
    alt="Five rows of ten garments drawn from the same noise: five steps on each of four grids, and "
    "fifty steps. A column shows one garment, more or less finished.",
    caption="Rows: five DDIM steps on four grids (the last of them laid by your programme), and fifty steps. "
    "The noise is the same in a column.",
)

# %% [markdown] name="rows-seen"
# Judge for yourself, then look at the measurement. `benchmarks/steps.py` draws 1,000 pictures on every
# grid; it takes longer than a lesson may, so we read its result. FD is in units of A (lesson 04), with
# its standard error. In this benchmark every sampler starts from the **same 1,000 noises**, and nothing is clipped unless said, so its numbers compare, and differences can be taken as pairs. (Its bits are from
# more pictures and levels than ours above, so they differ from those in the second decimal.)

# %% name="stored"
bench = json.loads(store.path("measured/steps.json").read_text())
stored = bench["parts"]["grids"]
stored_rows = []
for name, run in stored.items():
    row = {"grid": name, "bits/dim": run["bits"]}
    for kind in ("ddim", "ancestral"):
        scored = run.get(kind, {"fd": None, "fd_error": None})
        row |= {f"FD, {kind}": scored["fd"], f"± {kind}": scored["fd_error"]}
    stored_rows.append(row)

# %% [markdown] name="stored-shown-text"
# Two orders in one table: by bits, and by pictures.

# %% name="stored-shown"
title = "N = {pictures}, FD / A; as many real pictures {floor[fd]:.2f} ± {floor[fd_error]:.2f}".format_map(
    bench
)
show_table(stored_rows, title=title, digits=dict.fromkeys(list(stored_rows[0])[1:], ".2f"))

# %% [markdown] name="stored-verdict-text"
# Now the pairs: by how much does a grid change the FD of DDIM's pictures? Below 0 the first of the two is better; a word is
# said where the 95% interval leaves out 0.


# %% name="stored-verdict"
def pair_row(name: str) -> dict:
    """A stored difference, with its word."""
    one = bench["parts"]["pairs"][name]
    low, high = metrics.Estimate(one["gap"], one["error"], bench["pictures"]).interval
    word = "first better" if high < 0 else "second better" if low > 0 else "open"
    return {"first - second": name, "FD / A": one["gap"], "±": one["error"], "says": word}


rows = [pair_row(name) for name in bench["parts"]["pairs"] if not name.startswith("GGDM")]
show_table(rows, title=f"{len(rows)} comparisons", digits={"FD / A": "+.2f", "±": ".2f"})
rows = [
    {
        "DDIM, x̂₀ clipped to [-1, 1]": name,
        "FD / A": run["fd"],
        "change (%)": 100 * (run["fd"] / stored[name]["ddim"]["fd"] - 1),
    }
    for name, run in bench["parts"]["clipped"].items()
]
show_table(rows, digits={"FD / A": ".2f", "change (%)": "+.1f"})

# %% [markdown] name="stored-seen"
# By bits DP stride is first at every K, by construction. The pairs say what it is by the pictures, against uniform and
# against quadratic times. Where it is behind, two measures of the same grids disagree. (The bits are those of the ancestral walk with
# the best variances; its own pictures, in the column *ancestral* with analytic variances, are no better on this grid.) The bound is paid for details near the
# clean end (our first figure), while a garment's kind and outline are decided at the noisy end, where the bound sees hardly
# anything to pay for. (That this is *why* is plausible, and not tested here.) The authors said that likelihood and pictures part,
# and went on to GGDM, below.
#
# The second table answers another question: what does clipping $\hat x_0$, which many samplers do at every step, do to the
# same walks? Where it shows more than a few percent, never set a clipped sampler beside one that is not.
#
# ### Something to touch: your own grid
#
# Five steps: the first is at $t = 1$, the other four are yours. The bars show what each move costs in
# bits per dimension, on a log scale; the title gives the bound, and how far the pictures are from where
# fifty steps lead from the same noise.

# %% name="touch" tags=["hide-input"]
x10 = torch.randn(10, 1, 28, 28, generator=generator(4))
far = sample(walk(ddim(), vp, x10, grid(linear, 50))).x


def own(a: int, b: int, c: int, d: int):
    times = [1.0, *(t / 1000 for t in sorted({a, b, c, d}, reverse=True)), 0.0]
    drawn = sample(walk(ddim(), vp, x10, times)).x
    prices = [table[round(1000 * t), round(1000 * s)].item() for t, s in itertools.pairwise(times)]
    fig, ax = plots.axes(1, 2, size=(4.8, 3.0))
    ax[0].bar([f"{t:g}\nto {s:g}" for t, s in itertools.pairwise(times)], prices)
    few = "" if len(prices) == 5 else f" ({len(prices)} steps: equal times count once)"
    ax[0].set(ylabel="bits/dim of the move", yscale="log", ylim=(1e-4, 10))
    ax[0].set_title(f"bound {sum(prices):.2f} bits/dim{few}")
    ax[1].imshow(plots.picture(drawn, columns=5))
    ax[1].set_axis_off()
    ax[1].set_title(f"{(drawn - far).square().mean().sqrt():.2f} from 50 steps (rms)")
    return fig


# %% [markdown] name="touch-explore-text"
# Drag the times. It starts with the uniform grid.

# %% name="touch-explore"
explore(
    own,
    a=slider("second time x 1000", 800, 1, 999, 1), b=slider("third", 600, 1, 999, 1),
    c=slider("fourth", 400, 1, 999, 1), d=slider("fifth", 200, 1, 999, 1),
    alt=lambda a, b, c, d: (
        f"Left: five bars, the price of each move of the grid 1000, {a}, {b}, {c}, {d}. Right: ten "
        "garments drawn on it."
    ),
    caption="The price of every move (log scale), and the pictures. Drag the times.",
)  # fmt: skip

# %% [markdown] name="touch-seen"
# Drag the last time to 20: the decoder's bar shrinks, the one before it grows. Then compare the two
# numbers in the titles for `uniform` (800, 600, 400, 200) and for the times that DP stride chose:

# %% name="touch-times"
print("DP stride's five steps:", *(f"{1000 * t:.0f}" for t in laid("DP stride", 5)[:-1]))

# %% [markdown] name="even-text"
# Back to the toy mixture. Four moves from $t = 1$ to $t = 0.001$, even in $t$ and even in $\lambda$:

# %% name="even" tags=["nbval-check-output"]
rows = []
for name in ("linspace", "lambda"):
    even = rounded(grid(linear, 5, name))
    row = {"grid": name, "inner times": ", ".join(f"{t:g}" for t in even[1:4])}
    rows.append(row | {"nats": dp_stride.path_cost(nats, every, even)})
show_table(rows, digits={"nats": ".0f"})

# %% [markdown] name="own-text"
# ### Exercise 3 (measure): beat the usual grids
#
# On the toy mixture above, choose the **three inner times** of a walk of four moves from $t = 1$ to
# $t = 0.001$ whose price is below 24 nats. Give them in units of $t$, on the thousandths: 0.25, not 250.
# Use `nats` from above, or your programme of exercise 2.
#
# <details><summary>Hint 1: nudge</summary>
#
# The clean end is expensive: put times at small $t$.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# `dp_stride.path_cost(nats, every, [...])` is the price of a whole list of times, from 1 to 0.001 and 0.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Either try triples and print their price, or let a shortest path of five moves (the last one, from 0.001 to 0, is
# free) choose, and take the three times in the middle.
# </details>

# %% name="my-times"
### BEGIN SOLUTION
inner = dp_stride.shortest(nats, every, 5).grid(5)[1:4]
### END SOLUTION

# %% name="check-times"
check.inner_times(inner)

# %% [markdown] name="best-times-text"
# How far below 24 can one come? That is what dynamic programming is for:

# %% name="best-times" tags=["nbval-check-output"]
four = dp_stride.shortest(nats, every, 5)
print(f"the best: {four.cost[5]:.2f} nats, at", *(f"{t:.3f}" for t in four.grid(5)[1:4]))

# %% [markdown] name="analytic-text"
# ## Analytic variances: how much noise to put back
#
# The second free choice. DDPM offers two variances of the reverse step, $\tilde\beta$ (right if $x_0$
# were known) and $\beta$ (right if data were white noise). Both are wrong at long jumps. Bao et al.
# found the best one in closed form. The step that is right for a known $x_0$ is
#
# $$ x_s = k\, x_t + c\, x_0 + \ell z, \qquad c = \alpha_s - \sqrt{\sigma_s^2 - \ell^2}\,\alpha_t/\sigma_t, $$
#
# where $\ell^2$ is the forward posterior's variance ($\tilde\beta$ for DDPM, 0 for DDIM) and $c$ is how much of $x_0$ the step
# uses. Given $x_t$ only, $x_0$ is $\hat x_0$ give or take something, and that something must be added to $\ell^2$, on average over
# pixels and $x_t$. By $x_t = \alpha_t x_0 + \sigma_t \epsilon$ what is not known of $x_0$ is what is not known of $\epsilon$,
# times $\sigma_t/\alpha_t$; and what is not known of $\epsilon$ has the mean square $1 - \Gamma_t$ with
# $\Gamma_t = E|\hat\epsilon|^2/d$. Again **one number per level**: the mean square of the network's own output. If
# $\Gamma_t = 1$, the network claims to know all the noise, and nothing is added to $\ell^2$.
#
# ### Exercise 4 (find the bug): the best variance
#
# One line is wrong. On the toy below it is too large wherever a step uses little of $x_0$.
#
# <details><summary>Hint 1: nudge</summary>
#
# What does a factor $c$ on $x_0$ do to its variance?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $\mathrm{Var}(c\, x_0) = c^2\, \mathrm{Var}(x_0)$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Go through the factors of the second term; one of them enters the variance otherwise than it enters the step.
# </details>


# %% name="my-variance"
def my_variance(alpha_t, sigma_t, alpha_s, sigma_s, l2, size):
    """S*^2 of the step t -> s; size is E|eps_hat|^2 / d at t."""
    c = alpha_s - (sigma_s**2 - l2) ** 0.5 * alpha_t / sigma_t
    ### BEGIN SOLUTION
    return l2 + c**2 * (sigma_t / alpha_t) ** 2 * (1 - size)
    ### END SOLUTION
    ### BEGIN STUB
    # return l2 + c * (sigma_t / alpha_t) ** 2 * (1 - size)
    ### END STUB


# %% name="check-variance" points=2
check.best_variance(my_variance)

# %% [markdown] name="chain-text"
# As a formula:
#
# $$ S^{*2} = \ell^2 + c^2\, E\,\mathrm{Var}(x_0 \mid x_t)
#    = \ell^2 + c^2 \frac{\sigma_t^2}{\alpha_t^2} \big(1 - \Gamma_t\big). $$
#
# It is exact for the exact network, whose $\hat\epsilon$ is a conditional mean. For a trained one it is an estimate; the price
# list above took the measured $D_t$ in place of $E\,\mathrm{Var}$.
#
# <details><summary>Derivation: why one number is enough</summary>
#
# Given $x_t$ only, $x_s$ has mean $k x_t + c\,\hat x_0$ and variance $\ell^2 + c^2\,\mathrm{Var}(x_0|x_t)$. A Gaussian with one
# variance for all pixels and all $x_t$ fits best in KL if it has the right mean and the *average* of these variances
# (set the derivative of $\frac12\log S^2 + v/(2S^2)$ to zero: $S^2 = E[v]$). And $E\,\mathrm{Var}(\epsilon|x_t) =
# E|\epsilon|^2/d - E|\hat\epsilon|^2/d = 1 - \Gamma$.
# </details>
#
# Does it do what it says? Gaussian data $N(0, 1/4)$ and the exact denoiser: after ten ancestral steps
# the samples should have variance 0.25 again. The chain is linear, so we can compute what each choice
# gives, without drawing anything.

# %% name="chain"
s2 = 0.25


def final_variance(choice: str, steps: int) -> float:
    """Variance of x_0 after ancestral steps with one of three reverse variances."""
    v = 1.0
    for t, s in itertools.pairwise(grid(linear, steps)):
        (a, b), q = linear.alpha_sigma(t), posterior(linear, t, s)
        k = a * s2 / (a * a * s2 + b * b)  # x0_hat = k x_t
        size = ((1 - a * k) / b) ** 2 * (a * a * s2 + b * b)
        best = analytic.best_variance(linear, t, s, size)
        added = {"small": q.var, "large": q.added, "analytic": best}[choice]
        v = (q.c_t + q.c_0 * k) ** 2 * v + added
    return v


# %% [markdown] name="chain-table-text"
# The variance at the end, which should be 0.25:

# %% name="chain-table" tags=["nbval-check-output"]
counts = (5, 10, 50, 200)
rows = [
    {"variance": choice} | {f"{k} steps": final_variance(choice, k) for k in counts}
    for choice in ("small", "large", "analytic")
]
show_table(rows, digits={f"{k} steps": ".4f" for k in counts})

# %% [markdown] name="chain-seen"
# The analytic choice is exact at any number of steps; the other two only in the limit. On pictures a
# single number for all pixels is a compromise, so we ask the bound. All four choices come from the same
# network calls; *learned* is what this network says itself (lesson 02).

# %% name="variances"
in_bits = {}
for k in (5, 10, 20, 50):
    asked = held_out[: lessons.pick(smoke=2, live=40, full=500)]
    in_bits[k] = bounds(
        vp, asked, laid("uniform", k), noise=generator(5),
        variances=["small", "large", "learned", "best"],
    )  # fmt: skip
variances_rows = [
    {"K": k} | {f"{name}": f"{b.parts['steps']:.3f} ({b.total:.2f})" for name, b in row.items()}
    for k, row in in_bits.items()
]

# %% [markdown] name="variances-shown-text"
# Look along the rows at the moves, then at the brackets:

# %% name="variances-shown"
show_table(variances_rows, title="bits/dim of the moves, uniform steps (whole bound in brackets)")

# %% [markdown] name="variances-gap-text"
# These are few pictures. Their differences between two variances, picture by picture, are known better:

# %% name="variances-gap"
rows = []
for k, row in in_bits.items():
    moves = row["best"].table[:-1].sum(0) - row["small"].table[:-1].sum(0)
    both = [metrics.Estimate.of(d) for d in (moves, row["best"].each - row["small"].each)]
    cells = [f"{e.value:+.3f} ± {e.error:.3f}" for e in both]
    rows.append({"K": k, "the moves": cells[0], "the whole bound": cells[1], "N": both[0].n})
show_table(rows, title="The best variance minus the small one, bits/dim")

# %% [markdown] name="variances-seen"
# Of the three that are one number for all pixels, *best* has the cheapest moves at every K, as it must.
# Two honest footnotes. The learned variance can be cheaper still: it says **where** in the picture the
# network is unsure, which no single number can. And the last move, the decoder, is not a matter of mean
# squares: most background pixels are known exactly, and a narrower Gaussian than the best single one
# suits them. So a gain in the moves can be lost in the decoder: that is the case where the last column
# is above zero by more than two of its errors.
#
# And the pictures, ten ancestral steps each?

# %% name="variance-pictures"
ten_times = laid("uniform", 10)
ten_steps = {
    "small": ddpm("small"),
    "large": ddpm("large"),
    "analytic": analytic.analytic(analytic.sizes(errors, ten_times)),
    "DDIM": ddim(),
}

# %% [markdown] name="variance-score-text"
# All from the same noise, scored by the Fréchet distance in units of A; the last column is the difference from the small
# variance, as a pair:

# %% name="variance-score"
N = lessons.pick(smoke=24, live=200, full=2000)
z = torch.randn(N, 1, 28, 28, generator=generator(6))
drawn = {
    name: sample(walk(step, vp, z, ten_times, noise=gaussian(generator(7)))).x
    for name, step in ten_steps.items()
}
variance_score_rows = []
for name, x in drawn.items():
    gap = metrics.fd_paired(x, drawn["small"]) / A
    row = {"variance": name, "FD / A": metrics.fd(x) / A}
    variance_score_rows.append(
        row | {"minus small": "" if name == "small" else f"{gap.value:+.2f} ± {gap.error:.2f}"}
    )
lowest, scatter = (v / A for v in metrics.real_floor(N, balanced=False))

# %% [markdown] name="variance-score-shown-text"
# Read the last column with its error:

# %% name="variance-score-shown"
show_table(
    variance_score_rows,
    title=f"N = {N}, floor {lowest:.2f} ± {scatter:.2f}",
    digits={"FD / A": ".2f"},
)

# %% [markdown] name="variance-figure-text"
# The first twelve of each:

# %% name="variance-figure"
plots.show(
    plots.strip([x[:12] for x in drawn.values()], labels=list(drawn)),
    alt="Four rows of twelve garments after ten steps: with the small and the analytic variance nearly "
    "the same, with the large one covered in grain, with DDIM smooth.",
    caption="Ten ancestral steps with three variances, and ten DDIM steps, from the same noise.",
)

# %% [markdown] name="variance-seen"
# The large variance leaves grain that no later step takes away, and its distance is far above the others.
# Small and analytic look nearly alike: on pictures, where most pixels are almost certain, the best
# variance lies near the small one. Whether one of them is the better says the difference with its error.

# %% [markdown] name="ggdm-text"
# ## GGDM: descend the quality itself
#
# If neither times nor variances that are best for the bound are best for pictures, why not ask for
# pictures? Watson et al. let every step use all states before it, and learn the coefficients. In coordinates of our own
# (theirs are those of a Gaussian $q(x_t \mid x_{>t}, x_0)$ and its marginals; they span the same steps) a K-step sampler is
#
# $$ x_s = p_k \alpha_s \hat x_0 + q_k \sqrt{\sigma_s^2 - r_k^2}\; \hat\epsilon + r_k z
#    + \sum_{j \ge k} H_{kj} x_j: $$
#
# with $p = q = 1$, $r = 0$, $H = 0$ it is DDIM, and differentiate a **measure of sample quality** through all K
# steps and the frozen network. The measure is KID's: the squared maximum mean discrepancy of features.
# Three traps, each of which we met:
# - memory: K copies of the network's insides. They are thrown away and **recomputed** backwards;
# - the root of 0: the last step has $\sigma_s = 0$, and $\sqrt{0}$ has an infinite slope. That step is
#   written without it;
# - bias: see the exercise.
#
# ### Exercise 5 (fill in): the unbiased MMD
#
# From the kernel matrices `kxx` (n, n), `kyy` (m, m), `kxy` (n, m) return
# $\mathrm{MMD}^2 = \mathrm{mean}_{i \ne j} k(x_i, x_j) + \mathrm{mean}_{i \ne j} k(y_i, y_j)
# - 2\, \mathrm{mean}_{ij} k(x_i, y_j)$. With the diagonal kept, the pairs that push samples
# apart count for less than they should, and the sampler learns too small a spread.
#
# <details><summary>Hint 1: nudge</summary>
#
# How many pairs are there with $i \ne j$?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $(\sum_{ij} k_{ij} - \sum_i k_{ii})\,/\,(n(n-1))$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# For each of the two square matrices: add up everything, take the diagonal away, divide by the number of entries that
# are left. Add the two results and subtract twice the plain mean of the third matrix.
# </details>


# %% name="my-mmd"
def my_mmd2(kxx, kyy, kxy):
    """The unbiased squared maximum mean discrepancy."""

    ### BEGIN SOLUTION
    def within(k):
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return within(kxx) + within(kyy) - 2 * kxy.mean()
    ### END SOLUTION


# %% name="check-mmd"
check.mmd2(my_mmd2)

# %% [markdown] name="ring-text"
# First the exact toy: eight Gaussians on a ring, the exact denoiser, **three** steps. We learn once only
# times and noise, once everything, and draw with fresh noise. Judge: the kernel's MMD, and the sliced
# Wasserstein distance, which was *not* descended; the last row is the floor of both.

# %% name="ring"
ring, cont = toys.ring(), schedules.Linear()
exact, kernel = ring.denoiser(cont), ggdm.rbf(0.1, 0.3, 1.0)
real = ring.sample(20_000, generator(0)).float()
test_points, again = (ring.sample(2000, generator(k)).float() for k in (1, 6))
ring_z, points, ring_rows = torch.randn(2000, 2, generator=generator(2)), {}, []
for name, learn in {"DDIM": (), "times, noise": ("times", "eta"), "all": ggdm.LEARNABLE}.items():
    sampler = ggdm.GGDM(cont, grid(cont, 3), learn=learn)
    if learn:
        rounds = lessons.pick(smoke=3, live=100, full=300)
        for _ in ggdm.fit(
            sampler, exact, real, generator(3), steps=rounds, batch=128, lr=0.05, kernel=kernel
        ):
            pass
    points[name] = sample(sampler.states(exact, ring_z, gaussian(generator(4)))).x
for name, x in {**points, "real points": again}.items():
    square = ggdm.mmd2(x, test_points, kernel).item()
    ring_rows.append(
        {"learned": name, "MMD²": square, "sliced W2": sliced_w2(x, test_points, generator(5))}
    )

# %% [markdown] name="ring-shown-text"
# The last row is the floor:

# %% name="ring-shown"
show_table(ring_rows, title="N = 2,000", digits={"MMD²": ".4f", "sliced W2": ".3f"})

# %% [markdown] name="ring-figure-text"
# The samples of the three, three steps each, over the data's centres:

# %% name="ring-figure"
fig, ax = plots.axes(1, 3, size=(3.1, 3.1), share=True)
for a, (name, x) in zip(ax, points.items(), strict=True):
    a.plot(x[:, 0], x[:, 1], ".", markersize=1.5, alpha=0.5)
    a.plot(ring.means[:, 0], ring.means[:, 1], "+", markersize=9, color="black")
    a.set(title=name, xlabel="x", ylabel="y", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
plots.show(
    fig,
    alt="Three scatter plots. DDIM with three steps: a filled disc. Times and noise learned: a ring "
    "that joins the modes by straight lines. All learned: eight spots at the centres, with few points "
    "between them.",
    caption="Three steps on the ring: DDIM, learned times and noise, all coefficients learned. "
    "Crosses: the true centres.",
)

# %% [markdown] name="ring-seen"
# Times and noise alone help a lot, by both measures. Free coefficients cut the descended measure again; the one that was not
# descended falls by another amount, and this is one seed. Nothing about the denoiser changed.
#
# Now pictures: five and ten steps on Fashion, from uniform DDIM, with KID in the features of the frozen
# classifier, equally many rounds each. The classifier sees the picture clamped to $[-1, 1]$, so pixels
# that leave this range would cost nothing. We therefore add to the loss ten times the mean square
# of what exceeds it, and let the learning rate fall to zero over the second half; both are our additions,
# we know of nothing like the first in the paper. Training through the
# network passes takes minutes, so the numbers are stored by the same benchmark. And one more question:
# is it the learning, or would a better fixed step do? ++(3M) is the third-order multistep solver of
# lesson 07: the same calls, uniform times, nothing learned.

# %% name="ggdm-table"
ggdm_table_rows = []
for k in (5, 10):
    contest = {f"DDIM, {name} {k}": stored[f"{name} {k}"]["ddim"] for name in names}
    contest[f"++(3M), uniform {k}"] = stored[f"uniform {k}"]["++(3M)"]
    contest[f"GGDM {k}"] = bench["parts"][f"ggdm-{k}"]["ggdm"]
    for name, run in contest.items():
        row = {"sampler": name, "FD / A": f"{run['fd']:.2f} ± {run['fd_error']:.2f}"}
        row |= {
            "KID": f"{run['kid']:.3f} ± {run['kid_error']:.3f}",
            "pixels": f"{run['pixels']:.3f}",
        }
        ggdm_table_rows.append(row | {"beyond the range": f"{run['beyond']:.1%}"})
run = bench["floor"]
row = {"sampler": "as many real pictures", "FD / A": f"{run['fd']:.2f} ± {run['fd_error']:.2f}"}
row |= {"KID": f"{run['kid']:.3f} ± {run['kid_error']:.3f}", "pixels": f"{run['pixels']:.3f}"}
ggdm_table_rows.append(row | {"beyond the range": f"{run['beyond']:.1%}"})

# %% [markdown] name="ggdm-table-shown-text"
# Four measures of the same pictures, five steps and ten:

# %% name="ggdm-table-shown"
show_table(ggdm_table_rows, title=f"N = {bench['pictures']}")

# %% [markdown] name="ggdm-price-text"
# *Pixels* is the sliced Wasserstein distance of the pixels as they are; nothing descended it. GGDM against the sampler that it
# starts from and against the solver, as pairs; and what the learning took. (Counted are numbers that do something: the last
# step adds neither noise nor $\hat\epsilon$, and a step sees no state that comes after it; the times are shares of a softmax, so one of them is not free.) *Beyond
# the range* are pixels outside of $\pm 1.05$.

# %% name="ggdm-price"
rows = [pair_row(name) for name in bench["parts"]["pairs"] if name.startswith("GGDM")]
show_table(rows, digits={"FD / A": "+.2f", "±": ".2f"})
rows = [
    {"sampler": f"GGDM {k}", "numbers": run["learned"], "rounds": run["rounds"], "pictures a round": run["batch"],
     "core-s": round(run["training_core_seconds"])}
    for k, run in ((k, bench["parts"][f"ggdm-{k}"]) for k in (5, 10))
]  # fmt: skip
show_table(rows)

# %% [markdown] name="ggdm-draw-text"
# The samplers from their stored numbers, and the noise levels at which they ask:

# %% name="ggdm-draw"
few_noises, by_sampler = torch.randn(12, 1, 28, 28, generator=generator(8)), {}
for k in (5, 10):
    learned = ggdm.GGDM(linear, grid(linear, k), lam_max=vp.lam_range[1])
    numbers = bench["parts"][f"ggdm-{k}"]["numbers"]
    numbers = {name: torch.tensor(v, dtype=torch.float64) for name, v in numbers.items()}
    learned.load_state_dict(numbers)
    print(f"GGDM {k} asks at t =", *(f"{t:.3f}" for t in learned.times().tolist()))
    by_sampler[f"DDIM, {k}"] = sample(walk(ddim(), vp, few_noises, grid(linear, k))).x
    by_sampler[f"GGDM, {k}"] = sample(learned.states(vp, few_noises, gaussian(generator(9)))).x
    by_sampler[f"++(3M), {k}"] = sample(walk(dpmpp_3m(), vp, few_noises, grid(linear, k))).x

# %% [markdown] name="ggdm-figure-text"
# The same noise: uniform DDIM, the learned steps, the solver.

# %% name="ggdm-figure"
plots.show(
    plots.strip(list(by_sampler.values()), labels=list(by_sampler)),
    alt="Six rows of the same twelve garments: DDIM, the learned sampler and the solver in five steps, "
    "then in ten. In five steps DDIM's garments are the greyest. Most columns show one garment in all rows.",
    caption="The same network from the same noise: uniform DDIM, the learned sampler and ++(3M), in "
    "five and in ten steps.",
)
rows = [
    {
        "pictures": name,
        "standard deviation": x.std().item(),
        "beyond the range (%)": 100 * (x.abs() > 1.05).double().mean().item(),
    }
    for name, x in (*by_sampler.items(), ("data", fashion.x))
]
show_table(rows, digits={"standard deviation": ".2f", "beyond the range (%)": ".1f"})

# %% [markdown] name="ggdm-seen"
# How to read the tables: FD and KID look through the classifier that was descended, the pixels do not.
# A gain in the first two that the third does not share is one that the measure saw and the eye may
# not: an optimiser finds what its measure does not see, and that is why we judge with another one. (In
# the figure, look for dark garments in the rows of the learned sampler.) What was learned? Few uniform DDIM steps draw grey
# pictures: compare their standard deviation with that of the data, and with that of the learned rows.
#
# And the rival: look at GGDM against ++(3M) in the pairs, at equal calls. What a good fixed step
# brings for nothing should not be credited to the learning.
#
# ---
#
# **Half way.** A good place to stop. To go on another day, open the lesson, click on this cell and choose *Run > Run All Above
# Selected Cell*.
#
# ---

# %% [markdown] name="bddm-text"
# ## BDDM: a second network proposes the next step
#
# The grids so far are fixed before the walk. Lam et al. let a tiny network $\varphi$ look at the current
# sample and propose how much noise to take away next, $\beta = \varphi(x_n) \min(1 - \bar\alpha_n,
# \beta_{n+1})$. In training, where no walk has led to $x_n$, the cap $\beta_{n+1}$ is the $\beta$ of a jump of fixed length:
# $1 - \bar\alpha_{t+\tau}/\bar\alpha_t$ with $\tau = 0.1$. It is trained, the denoiser frozen, on the exact KL of one step. With $\sigma_n^2 = 1 -
# \bar\alpha_n$ and $b = \beta/\sigma_n^2$ that is
#
# $$ \frac{|\epsilon - b\,\hat\epsilon|^2}{2(1 - b)} + \frac d2 (b - 1) - \frac d2 \log b. $$
#
# (The authors' code has $d/4$ before the logarithm. The cell checks which is the KL.)

# %% name="half-or-quarter"
gen = generator(10)
x0, eps, eps_hat = torch.randn(3, 1, 1, generator=gen, dtype=torch.float64)
var = torch.tensor([0.6], dtype=torch.float64)  # sigma_n^2
beta = var / 2
before = (1 - var) / (1 - beta)  # abar after the step
x_n = (1 - var).sqrt() * x0 + var.sqrt() * eps
mean_p = (x_n - beta / var.sqrt() * eps_hat) / (1 - beta).sqrt()
p = Gaussian(mean_p[0], ((1 - before) / var * beta)[:, None])
q = Gaussian((before.sqrt() * x0)[0], (1 - before)[:, None])
half_or_quarter_rows = [
    {"formula": "KL of the two Gaussians", "nats": diffusion_times.gaussian_kl(p, q)}
]
for words, quarter in (("1/2 before the log", False), ("1/4 before the log", True)):
    half_or_quarter_rows.append(
        {"formula": words, "nats": bddm.step_kl(eps, eps_hat, var, beta, quarter).item()}
    )

# %% [markdown] name="half-or-quarter-shown-text"
# Which line equals the first?

# %% name="half-or-quarter-shown" tags=["nbval-check-output"]
show_table(half_or_quarter_rows, digits={"nats": ".5f"})

# %% [markdown] name="closed-text"
# If $\hat\epsilon$ is exact, a conditional mean, the best $b$ is known. With $r = E|\hat\epsilon|^2/d$ (the $\Gamma_t$ of the analytic
# variances) it solves
# $(1 - r)\big(1 + \frac{1}{(1-b)^2}\big) = \frac1b$: the better the denoiser knows the noise
# ($r \to 1$), the more of it may go at once.
#
# ### Exercise 6 (measure): how long may the step be?
#
# For $r = 0.9$, which share $b$ of the noise should one step remove? Two digits are enough.
#
# <details><summary>Hint 1: nudge</summary>
#
# The left side minus the right side changes sign once between 0 and 1.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# Find the root of $(1 - r)(1 + (1-b)^{-2}) - 1/b$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Compute left minus right for all shares of the row at once; find where its size is smallest; read the share there.
# </details>

# %% name="my-share"
b = torch.linspace(0.01, 0.99, 9801)  # shares to try
### BEGIN SOLUTION
share = b[(0.1 * (1 + (1 - b) ** -2) - 1 / b).abs().argmin()].item()
### END SOLUTION

# %% name="check-share"
check.share(share)

# %% [markdown] name="digits-text"
# The next three sections use the 8 x 8 digits, where everything takes seconds: the shipped EDM-style
# network, read on the linear schedule (the same $\lambda$, lesson 05). We train $\varphi$, a few
# thousand parameters.

# %% name="bddm"
digits = data.load("digits")
small = checkpoints.load_denoiser("digits", device="cpu").on(cont)
torch.manual_seed(0)
phi = bddm.ScheduleNet(64, 32)
rounds = lessons.pick(smoke=3, live=250, full=1000)
kl = list(
    bddm.train(phi, small, digits.x, generator(11), times=(0.02, 0.65), steps=rounds, batch=64)
)
# %% [markdown] name="bddm-walk-text"
# Now three walks from other starts $(\bar\alpha_N, \beta_N)$, and how many steps each takes:

# %% name="bddm-walk"
z64 = torch.randn(64, 1, 8, 8, generator=generator(12))
starts = ((0.01, 0.3), (0.01, 0.6), (0.03, 0.8))
found = {
    (abar, beta): bddm.find(phi, small, z64, ddim(), abar, beta, smallest=0.004)
    for abar, beta in starts
}
print(f"{metrics.count_parameters(phi):,} parameters, KL {kl[0]:.2f} -> {kl[-1]:.2f} nats/dim")
show_table([{"start ᾱ": a, "first β": b, "steps": len(g) - 1} for (a, b), g in found.items()])

# %% [markdown] name="bddm-kid-text"
# What are such grids worth? KID of digits drawn with them, with its standard error, against uniform steps
# and against the betas of a straight line, at equal numbers of steps; the last row is the floor, as many real digits:

# %% name="bddm-kid"
M = lessons.pick(smoke=20, live=300, full=1500)
digits_z = torch.randn(M, 1, 8, 8, generator=generator(13))
noisiest = 1 / (1 + math.exp(-2 * small.lam_range[0])) + 1e-6  # the smallest abar of this network


def kid(x, times):
    """KID of the digits that DDIM draws from the noise x at these times, with its error."""
    return metrics.kid(sample(walk(ddim(), small, x, times)).x, "digits")


bddm_kid_rows = []
for times in found.values():
    n = len(times) - 1
    straight = nedm.fixed(cont, nedm.betas(noisiest, n, 1e-3))
    grids = {
        "BDDM": times,
        "uniform": grid(cont, n, lam_range=small.lam_range),
        "straight line": straight,
    }
    kids = {name: kid(digits_z, g) for name, g in grids.items()}
    bddm_kid_rows.append(
        {"steps": str(n)} | {name: f"{e.value:.3f} ± {e.error:.3f}" for name, e in kids.items()}
    )
some = digits.x[torch.randperm(len(digits.x), generator=generator(42))[:M]]
e = metrics.kid(some, "digits")
bddm_kid_rows.append(
    {"steps": "real"}
    | dict.fromkeys(("BDDM", "uniform", "straight line"), f"{e.value:.3f} ± {e.error:.3f}")
)

# %% [markdown] name="bddm-kid-shown-text"
# Read along the rows, and compare with the last:

# %% name="bddm-kid-shown"
show_table(bddm_kid_rows, title=f"KID, N = {M}")

# %% [markdown] name="bddm-figure-text"
# And the share $b$ of the noise that each step of the three walks removes. What should it be? We can measure
# $r_t = E|\hat\epsilon|^2/d$ of this network on digits, and solve the equation of exercise 6 at every level: $b^*$, the share
# that is best for *one* step.

# %% name="bddm-best"
asked_at = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6]
seen = dp_stride.measure(small, digits.x[:500], asked_at, noise=generator(43), levels=17)
tries = torch.linspace(0.01, 0.99, 9801, dtype=torch.float64)
bddm_best_rows, gen = [], generator(44)
for t, r in zip(asked_at, seen.size.tolist()):
    best_b = tries[((1 - r) * (1 + (1 - tries) ** -2) - 1 / tries).abs().argmin()].item()
    a, b = cont.alpha_sigma(t)
    eps = torch.randn(500, 1, 8, 8, generator=gen)
    x_t, d2 = a * digits.x[:500] + b * eps, torch.full((500,), b * b)
    cap = min(1.0, (1 - cont.alpha(min(t + 0.1, 1.0)) ** 2 / a**2) / b**2)  # tau = 0.1, as a share
    with torch.no_grad():
        proposed, eps_hat = cap * phi(x_t), small(x_t, t).eps
        paid = bddm.step_kl(eps, eps_hat, d2, proposed * d2).mean().item()
    bddm_best_rows.append(
        {
            "t": t,
            "σ": b,
            "r": r,
            "best b": best_b,
            "cap": cap,
            "φ's b": proposed.mean().item(),
            "KL": paid,
        }
    )
by_level = bddm_best_rows

# %% [markdown] name="bddm-best-shown-text"
# Compare the columns of $b$:

# %% name="bddm-best-shown"
show_table(
    bddm_best_rows,
    title="nats/dim, 500 digits",
    digits=dict.fromkeys(list(bddm_best_rows[0])[1:], ".2f"),
)

# %% [markdown] name="bddm-figure-text-2"
# Grey: the best share of a single step. Colours: the walks. (The last move, which goes to clean data, is left out.)

# %% name="bddm-figure"
fig, ax = plots.axes(size=(6.2, 3.4))
ax.plot(
    [row["σ"] for row in by_level],
    [row["best b"] for row in by_level],
    color="0.4",
    lw=2,
    label="best b of one step",
)
for (abar, beta), times in found.items():
    levels = torch.tensor([cont.alpha(t) ** 2 for t in times])[:-1]
    shares = (1 - levels[:-1] / levels[1:]) / (1 - levels[:-1])
    ax.plot((1 - levels[:-1]).sqrt(), shares, "o-", label=f"start ᾱ = {abar}, β = {beta}")
ax.set(xlabel="σ: data ... noise", ylabel="share b of the noise removed", ylim=(0, 1))
ax.legend(loc="lower left", fontsize=9)
plots.show(
    fig,
    alt="The share of the noise removed by each step against σ, for three walks, and the best share of a single "
    "step in grey. One walk begins at 0.3 and its shares sink towards 0.",
    caption="What the schedule network proposes on its way from noise (right) to data (left), and what would be best for one "
    "step.",
)

# %% [markdown] name="bddm-seen"
# Read the table first: where the cap leaves it room, $\varphi$ proposes nearly the best share of the level (somewhat too much at
# the cleanest ones), and that share differs from level to level. So it learns what it is trained on, and sees more than the
# clean end. At large $t$ it is the cap that holds it down. But the best share
# of *one* step, in the KL of the DDPM step, need not make the best *walk*, and DDIM walks here.
#
# The start decides much: betas can only shrink on the way, and from a small first beta
# they die out before the noise does; the last jump must then take all that is left. That is why
# the paper tries many pairs and keeps the best grid of each length by a measure of quality. We must not
# judge BDDM without it. Here is that search over twelve starts, each as it is and moved a little, scored
# by the KID of one set of noises. The winners are then judged with **other** noises, since the best of
# many tries is flattered by the score that chose it:

# %% name="bddm-search"
tried, half = lessons.pick(smoke=1, live=3, full=3), M // 2
searched = bddm.search(
    phi, small, z64, ddim(), lambda times: kid(digits_z[:half], times).value, generator(31),
    abars=(0.01, 0.03, 0.1)[:tried], betas=(0.3, 0.5, 0.7, 0.9), smallest=0.004,
)  # fmt: skip
winners = {n: best for n, best in sorted(searched.items()) if 6 <= n <= 10}

# %% [markdown] name="bddm-search-text"
# The best grids of six to ten steps, each against uniform steps from the same noises. The mean and its
# standard error are over four seeds:

# %% name="bddm-search-table"
others = [torch.randn(half, 1, 8, 8, generator=generator(seed)) for seed in range(32, 36)]
bddm_search_table_rows = []
for n, (score, times) in winners.items():
    even = grid(cont, n, lam_range=small.lam_range)
    a, b = ([kid(x, g).value for x in others] for g in (times, even))
    gap = metrics.Estimate.of([u - v for u, v in zip(a, b, strict=True)])
    low, high = gap.interval
    word = "BDDM" if high < 0 else "uniform" if low > 0 else "open"
    row = {"steps": n, "while searching": score, "other noises": sum(a) / 4, "uniform": sum(b) / 4}
    bddm_search_table_rows.append(
        row | {"difference": f"{gap.value:+.3f} ± {gap.error:.3f}", "better": word}
    )

# %% [markdown] name="bddm-search-table-shown-text"
# Compare the score of the search with that of other noises, then with uniform steps.

# %% name="bddm-search-table-shown"
columns = ("while searching", "other noises", "uniform")
show_table(bddm_search_table_rows or [{"steps": "none of 6 to 10"}], title=f"KID, N = {half}, four seeds",
           digits=dict.fromkeys(columns, ".3f") if bddm_search_table_rows else {})  # fmt: skip

# %% [markdown] name="bddm-search-seen"
# Compare the grids that were found with those of the three starts above, at equal length. The last columns are
# what the second network and the search have won (below zero) or lost (above) over steps that need neither. (Four seeds know
# their own error badly; the word is said by Student's law, which takes that into account.) The paper's claim concerns speech and
# a linear schedule.

# %% [markdown] name="nedm-text"
# ## NEDM: measure the noise that is really there
#
# A few-step walk does not arrive where its schedule says: after a bad jump the sample holds more, or
# other, noise than the label $t$ promises. San-Roman et al. train a small network $P$ to read the level
# from the sample, and before each step **re-fit** the rest of the schedule to it: betas of a fixed family,
# $\beta_i = b_0 + i u$ or Fibonacci's $\beta_{i+2} = \beta_{i+1} + \beta_i$, with
# $\prod (1 - \beta_i) = \hat{\bar\alpha}$. The one free number must be found exactly: the first-order
# solution leaves the interval of probabilities, or misses the level.

# %% name="betas"
betas_rows = []
for n in (6, 20):
    u = -2 * (math.log(0.02) + n * 1e-4) / (n * (n - 1))
    for name, bs in (
        ("first order", [1e-4 + i * u for i in range(n)]), ("bisection", nedm.betas(0.02, n, 1e-4)),
    ):  # fmt: skip
        reached = f"{math.prod(1 - b for b in bs):.4f}" if max(bs) < 1 else "none: a beta above 1"
        betas_rows.append(
            {"n": n, "solution": name, "largest beta": max(bs), "level reached": reached}
        )

# %% [markdown] name="betas-shown-text"
# Where does the first-order solution go wrong?

# %% name="betas-shown" tags=["nbval-check-output"]
show_table(betas_rows, title="Wanted: ᾱ = 0.02", digits={"largest beta": ".3f"})
fib = nedm.betas(0.02, 6, 1e-4, "fibonacci")
print("Fibonacci, n = 6:", *(f"{b:.4f}" for b in fib))

# %% [markdown] name="level-text"
# Train $P$ on noised digits (no denoiser needed). Then walk ten steps on a **bad** schedule (every beta
# the same) and on a good one (a straight line of betas).

# %% name="nedm"
torch.manual_seed(0)
level = nedm.LevelNet(64)
losses = list(nedm.train(
    level, digits.x, cont, generator(14), steps=lessons.pick(smoke=3, live=500, full=3000)
))  # fmt: skip
print(f"squared error of log(1 - abar): {losses[0]:.2f} -> {losses[-1]:.2f}")


# %% [markdown] name="nedm-walk-text"
# The walks: two schedules, two samplers, as they are and re-fitted.

# %% name="nedm-walk"
n_steps = 10
floor_digits = metrics.real_floor(M, "digits", balanced=False)
plans = {
    "bad": nedm.fixed(cont, [1 - noisiest ** (1 / n_steps)] * n_steps),
    "good": nedm.fixed(cont, nedm.betas(noisiest, n_steps)),
}
walks = {}
for name, plan in plans.items():
    for kind, step in {"DDPM": ddpm(), "DDIM": ddim()}.items():
        noise = gaussian(generator(15))
        walks[name, kind, "as it is"] = sample(
            walk(step, small, digits_z, plan, noise=noise), keep=True
        )
        states = nedm.adjusted(
            step, small, digits_z, level.level, plan, noise=gaussian(generator(15))
        )
        walks[name, kind, "re-fitted"] = sample(states, keep=True)

# %% [markdown] name="nedm-table-text"
# FD of digits, in features of digits, without a unit; the real ones are the floor. The last column compares with the good plan
# as it is, as a pair from the same noise:

# %% name="nedm-table"
rows = []
for (name, kind, how), result in walks.items():
    row = {"plan": name, "sampler": kind, "walked": how, "FD": metrics.fd(result.x, "digits")}
    same = (name, how) == ("good", "as it is")
    gap = metrics.fd_paired(result.x, walks["good", kind, "as it is"].x, "digits")
    rows.append(row | {"minus good": "" if same else f"{gap.value:+.2f} ± {gap.error:.2f}"})
show_table(
    rows, title="N = {}, real digits {:.2f} ± {:.2f}".format(M, *floor_digits), digits={"FD": ".2f"}
)

# %% [markdown] name="nedm-figure-text"
# Left: the level at each step of the bad schedule, as planned and as re-fitted. Right: six digits of each.

# %% name="nedm-figure"
fig, ax = plots.axes(1, 2, size=(4.6, 3.3))
planned = [cont.alpha(t) ** 2 for t in plans["bad"]]
fitted = [cont.alpha(s.t) ** 2 for s in walks["bad", "DDIM", "re-fitted"].path[1:]] + [1.0]
curves = {"planned": planned, "re-fitted": fitted}
plots.lines(range(n_steps + 1), curves, ax=ax[0], xlabel="step", ylabel="ᾱ: noise ... data")
three = [("bad", "as it is"), ("bad", "re-fitted"), ("good", "as it is")]
shown = torch.cat([walks[name, "DDIM", how].x[:6] for name, how in three])
ax[1].imshow(plots.picture(shown, columns=6), cmap="gray")
ax[1].set_axis_off()
ax[1].set_title("rows: bad; bad, re-fitted; good")
plots.show(
    fig,
    alt="Left: the planned level stays near 0 for half of the steps and jumps to 1 in the last one; the "
    "re-fitted one rises earlier, as an S. Right: three rows of the same six digits, the first grey.",
    caption="A bad schedule (DDIM, ten steps) as planned and as re-fitted to the estimated noise.",
)
print(f"ᾱ of pure noise: planned {planned[0]:.4f}, read by P {fitted[0]:.3f}")

# %% [markdown] name="nedm-seen"
# The bad schedule spends most of its ten steps in noise and makes the picture in its last jumps. Re-fitting cures that. What
# deserves the credit? Two things change:
# - the **family**: a re-fit before *every* step throws the plan away and lays a straight line of betas
#   in its place, so bad and good end in the very same pictures. But the good plan *is* such a line, with
#   no network at all, and has most of the gain already: compare *bad, as it is* with *good, as it is*;
# - the **measurement**: what is left from *good, as it is* to *re-fitted*, the last column of the table. (That includes another
#   start of the line, at the level that $P$ reads; we did not take the two apart.)
#
# Nor is the reading exact: for pure noise $P$ says more signal than the plan, as the left panel shows.
# In 64 dimensions such a small level cannot be read well. So the claim to remember is a weak one: a walk
# that re-fits does not depend on its plan.

# %% [markdown] name="times-text"
# ## DiffusionTimes: do we have to start from pure noise?
#
# The last free choice is the end of the noise itself. Stop the forward process at $T < 1$: fewer noise
# levels, fewer steps, and a network that need not be trained on the rest. (That half is not tested here: our network knows all
# levels.) But $p_T$ is no longer $N(0, I)$. Franzese et al. split the
# bound,
#
# $$ E \log p(x_0) \ge E\log p_{\rm data} - G(T) - \mathrm{KL}(p_T \,\|\, \text{prior}), \qquad
#    G(T) = \int E|\hat\epsilon - \epsilon^*|^2\, d\lambda, $$
#
# and see a sum of a growing and a falling function. Data $N(2, 1/4)$, where the KL is a formula, with a
# network whose $\hat\epsilon$ is wrong by 0.05, 0.1 or 0.2:

# %% name="gaps"
tenths = [i / 10 for i in range(1, 11)]
mean, cov = torch.tensor([2.0]), torch.tensor([[0.25]])
normal = Gaussian([0.0], [[1.0]])
kls = torch.tensor(
    [
        diffusion_times.gaussian_kl(diffusion_times.moments_at(cont, t, mean, cov), normal)
        for t in tenths
    ]
).double()
gaps = {
    rms: diffusion_times.gap(cont, [1e-4, *tenths], torch.full((11,), rms**2))[1:]
    for rms in (0.05, 0.1, 0.2)
}


# %% [markdown] name="gaps-table-text"
# Where is the sum smallest, and what does the longest noise cost?

# %% name="gaps-table" tags=["nbval-check-output"]
rows = [{"T": f"{t:.1f}", "KL to N(0, 1)": kl} for t, kl in zip(tenths[1::2], kls.tolist()[1::2])]
show_table(rows, digits={"KL to N(0, 1)": ".4f"})
rows = []
for rms, g in gaps.items():
    found_t, least = diffusion_times.best_time(tenths, g, kls)
    row = {"network error": rms, "best T": found_t, "sum there": least}
    rows.append(row | {"sum at T = 1": (g[-1] + kls[-1]).item()})
show_table(rows, title="nats", digits={"sum there": ".3f", "sum at T = 1": ".3f"})

# %% [markdown] name="gaps-figure-text"
# The two parts and their sum:

# %% name="gaps-figure"
fig, ax = plots.axes(size=(6.0, 3.4))
parts = {"G (error 0.2)": gaps[0.2], "KL to the prior": kls, "sum": gaps[0.2] + kls}
plots.lines(tenths, parts, ax=ax, xlabel="diffusion time T", ylabel="nats")
ax.set_ylim(0, 1.2)
plots.show(
    fig,
    alt="Three curves over T: G grows from 0.2 to 0.4, the KL falls from above 1 to 0, their sum has "
    "a minimum near T = 0.7.",
    caption="A longer noise pays more network error and less prior gap: the best T lies inside.",
)

# %% [markdown] name="gaps-seen"
# The better the network, the later the optimum. But the falling curve is our own doing: it is there only
# because we start from $N(0, I)$. Put a small **auxiliary model** $\nu$ of $x_T$ in its place, and T may
# be much shorter. $x_T$ is blurred by noise, so it is far easier to model than $x_0$: here a mixture of
# Gaussians with full covariances, fitted in seconds. Steps shrink in proportion to T (the same step length).

# %% name="aux"
shapes, by_time, aux_rows = (1, 8, 8), {}, []
most = small.schedule.t_of_lam(small.lam_range[0])  # the noisiest this network knows
shares = lessons.pick(smoke=(0.3, 1.0), live=(0.15, 0.25, 0.4, 0.6, 1.0))
for part in shares:
    T, steps_T = part * most, max(2, round(20 * part))
    walk_T = diffusion_times.grid_from(cont, T, steps_T, small.lam_range)
    starts = {"N(0, I)": torch.randn(M, *shapes, generator=generator(16))}
    for name, k in {"one Gaussian": 1, "ten Gaussians": 10}.items():
        nu = diffusion_times.fit_start(digits.x, cont, T, k, generator=generator(17), copies=2)
        starts[name] = diffusion_times.start(nu, M, shapes, generator(18))
    ends = {name: sample(walk(ddim(), small, x, walk_T)).x for name, x in starts.items()}
    by_time[part] = {name: metrics.fd(x, "digits") for name, x in ends.items()}
    aux_rows.append({"T": f"{T:.2f}", "steps": steps_T} | by_time[part])

# %% [markdown] name="aux-shown-text"
# Read down the columns: $T$ and the number of steps shrink together.

# %% name="aux-shown"
show_table(aux_rows, title="FD of digits, N = {}, real ones {:.2f} ± {:.2f}".format(M, *floor_digits),
           digits=dict.fromkeys(by_time[part], ".2f"))  # fmt: skip

# %% [markdown] name="aux-figure-text"
# Quality against the diffusion time, for the three starts:

# %% name="aux-figure"
fig, ax = plots.axes(size=(6.0, 3.4))
curves = {name: [by_time[part][name] for part in shares] for name in by_time[shares[0]]}
plots.lines([p * most for p in shares], curves, ax=ax, xlabel="diffusion time T",
            ylabel="Fréchet distance", log="y")  # fmt: skip
ax.axhline(floor_digits[0], color="0.5", ls=":", marker="", label="real digits")
ax.legend()
plots.show(
    fig,
    alt="Fréchet distance over T for three starts on a log scale: from N(0, I) it explodes as T "
    "shrinks, from one Gaussian it rises slowly, from ten Gaussians it is lowest near T = 0.3. A dotted line is that of real digits.",
    caption="Shorter noise, proportionally fewer steps, one seed each. From N(0, I) it fails; from a "
    "model of x_T it works, and costs a fraction of the calls.",
)

# %% [markdown] name="aux-seen"
# From $N(0, I)$ a short noise fails: the walk starts in the wrong place. One Gaussian, whose mean and
# covariance need no fitting at all, repairs most of it, ten Gaussians nearly all. With those
# the short noise is ahead of the long one: are five steps really better than twenty, or is that one seed of 300 pictures? The same with other seeds
# of the noise (the mixtures stay), and five plain steps beside it:

# %% name="spread-starts"
long, short = (grid(cont, n, lam_range=small.lam_range) for n in (20, 5))
one_gaussian, ten_gaussians = (
    diffusion_times.fit_start(digits.x, cont, T, k, generator=generator(17), copies=2)
    for T, k in ((most, 1), (0.25 * most, 10))
)
contenders = {
    "N(0, I), 5 steps": (None, short),
    "N(0, I), 20 steps": (None, long),
    "one Gaussian, 20 steps": (one_gaussian, long),
    "ten Gaussians, 5 steps": (
        ten_gaussians, diffusion_times.grid_from(cont, 0.25 * most, 5, small.lam_range)),
}  # fmt: skip
numbers = sum(v.numel() for v in (ten_gaussians.weights, ten_gaussians.means, ten_gaussians.covs))
print(
    f"the ten Gaussians hold {numbers:,} numbers, the network {metrics.count_parameters(small.net):,}"
)

# %% [markdown] name="spread-text"
# Mean and standard error over the seeds. The starts differ, so these are independent, not pairs:

# %% name="spread"
seeds, spread, spread_rows = range(20, lessons.pick(smoke=22, live=24, full=28)), {}, []
for name, (nu, times) in contenders.items():
    scores = []
    for seed in seeds:
        x = torch.randn(M, *shapes, generator=generator(seed))
        x = x if nu is None else diffusion_times.start(nu, M, shapes, generator(seed))
        scores.append(metrics.fd(sample(walk(ddim(), small, x, times)).x, "digits"))
    spread[name] = metrics.Estimate.of(scores)
    spread_rows.append(
        {"start": name, "FD": spread[name].value, "standard error": spread[name].error}
    )

# %% [markdown] name="spread-shown-text"
# How sure is it?

# %% name="spread-shown"
show_table(spread_rows, title="N = {} x {} seeds, real digits {:.2f} ± {:.2f}".format(M, len(seeds), *floor_digits),
           digits={"FD": ".2f", "standard error": ".2f"})  # fmt: skip
short_walk, long_walk = "ten Gaussians, 5 steps", "N(0, I), 20 steps"
print(metrics.compare(spread[short_walk], spread[long_walk], (short_walk, long_walk)))

# %% [markdown] name="spread-seen"
# Ten Gaussians and five steps against twenty steps from pure noise: the line under the table says whether one of them is
# ahead. Against five steps from pure noise there is no question. Between one Gaussian and $N(0, I)$ at twenty steps the seeds decide, and so they do
# at the right end of the figure. The price was printed above: ten covariances of 64 x 64 are not
# nothing beside this network, and they grow with the square of the picture's size.
#
# One caution: the start's likelihood belongs to the model's. The bound of a model that starts from $\nu$
# holds $E[\log q(x_T|x_0) - \log \nu(x_T)]$ in place of $L_T$. How much is that, on digits that no
# mixture was fitted to?

# %% name="start-bits"
unseen, start_bits_rows = data.load("digits", "test").x, []
for T in (0.25 * most, most):
    near = diffusion_times.fit_start(digits.x, cont, T, 1, generator=generator(17))
    models = {"one Gaussian": near} | ({"ten Gaussians": ten_gaussians} if most > T else {})
    terms = {"N(0, I)": prior_term(unseen, cont, T)}
    for name, nu in models.items():
        terms[name] = diffusion_times.cross_entropy(unseen, cont, T, nu, generator(19))
    row = {"T": f"{T:.2f}"} | dict.fromkeys(("N(0, I)", "one Gaussian", "ten Gaussians"))
    start_bits_rows.append(row | {name: bits.mean().item() for name, bits in terms.items()})

# %% [markdown] name="start-bits-shown-text"
# The price of the start:

# %% name="start-bits-shown"
show_table(
    start_bits_rows, title="bits/dim of the start", digits=dict.fromkeys(list(row)[1:], ".3f")
)

# %% [markdown] name="start-bits-seen"
# With the long noise the start costs next to nothing, whatever it is. With the short one a model of
# $x_T$ is far cheaper than $N(0, I)$, but it is not free: what the walk no longer pays between the two
# times, the start pays.

# %% [markdown] name="cost-text"
# ## What did it cost
#
# Rows of the running table: the same digits network, ten-step grids and twenty steps against the short
# walk. *Extra* is what had to be trained or fitted besides, in parameters. FD is of digits, in features of digits, not in units
# of A.

# %% name="cost"
nu = ten_gaussians
grid_b = winners[10][1] if 10 in winners else found[0.01, 0.6]
runs = {
    "uniform DDIM, 20": (0, lambda: walk(ddim(), small, digits_z, long)),
    f"uniform DDIM, {len(grid_b) - 1}": (
        0, lambda: walk(ddim(), small, digits_z, grid(cont, len(grid_b) - 1, lam_range=small.lam_range))),
    f"BDDM grid, {len(grid_b) - 1}": (metrics.count_parameters(phi), lambda: walk(ddim(), small, digits_z, grid_b)),
    "NEDM, re-fitted, 10": (
        metrics.count_parameters(level),
        lambda: nedm.adjusted(ddim(), small, digits_z, level.level, plans["bad"]),
    ),
    "DiffusionTimes, T short": (
        sum(v.numel() for v in (nu.weights, nu.means, nu.covs)),
        lambda: walk(ddim(), small, diffusion_times.start(nu, M, shapes, generator(18)),
                     diffusion_times.grid_from(cont, 0.25 * most, 5, small.lam_range)),
    ),
}  # fmt: skip

# %% [markdown] name="cost-table-text"
# Each is run and measured:

# %% name="cost-table"
rows = []
for name, (extra, run) in runs.items():
    result, cost = metrics.measure(small, lambda run=run: sample(run()), pictures=M)
    fd = round(metrics.fd(result.x, "digits"), 2)
    rows.append({"system": name, **cost.row(), "extra": extra, "FD": fd, "N": M})
lessons.cost_row(8, *rows)

# %% [markdown] name="paper-text"
# ## Paper against here
#
# What the papers claim, and what this lesson measured. First the numbers of each claim:

# %% name="paper"
dp_5, uniform_5 = (stored[f"{name} 5"]["bits"] for name in ("DP stride", "uniform"))
all_thousand = dp_stride.path_cost(table, every, [*reversed(every), 0.0])
at = {name: bound.total for name, bound in in_bits[50].items()}
moves = [in_bits[50][name].parts["steps"] for name in ("best", "small")]
pair = {k: pair_row(f"DDIM, DP stride {k} - DDIM, uniform {k}") for k in (5, 10)}
learnt = {
    k: [pair_row(f"GGDM {k} - {other}, uniform {k}") for other in ("DDIM", "++(3M)")]
    for k in (5, 10)
}
plan = ("bad", "as it is"), ("good", "as it is"), ("bad", "re-fitted")
of_plans = [metrics.fd(walks[name, "DDIM", how].x, "digits") for name, how in plan]

# %% [markdown] name="paper-learned-text"
# Then the rows. FD of Fashion is in units of A, that of digits has no unit:


# %% name="paper-learned"
def gap_words(rows: list[dict]) -> str:
    """Stored differences with their errors, one after the other."""
    return ", ".join(f"{row['FD / A']:+.2f} ± {row['±']:.2f}" for row in rows)


claims = [
    ("DP stride: fewest bits at every K", f"5 steps: {dp_5:.2f}, uniform {uniform_5:.2f}"),
    ("    32 steps near the whole chain", f"{stride.cost[32]:.2f}, all 1000 {all_thousand:.2f}"),
    (
        "    but not better pictures",
        f"FD - uniform's, 5 and 10 steps: {gap_words(list(pair.values()))}",
    ),
    (
        "Analytic-DPM: better likelihood",
        f"50 steps: {at['best']:.2f}, small variance {at['small']:.2f}",
    ),
    ("    of this the moves", f"{moves[0]:.2f} and {moves[1]:.2f}"),
    ("GGDM: better pictures than DDIM's", f"FD - DDIM's, 5 steps: {gap_words(learnt[5][:1])}"),
    ("", f"10 steps: {gap_words(learnt[10][:1])}"),
    ("    and against ++(3M)", f"5 and 10 steps: {gap_words([learnt[5][1], learnt[10][1]])}"),
    ("BDDM: better grids at equal length", "the column 'better' of its search"),
    (
        "NEDM: measuring the noise helps",
        "FD: bad plan {:.2f}, its family alone {:.2f}, re-fitted {:.2f}".format(*of_plans),
    ),
    (
        "DiffusionTimes: short noise suffices",
        f"FD: 5 steps {spread[short_walk].value:.2f}, plain 20 {spread[long_walk].value:.2f}",
    ),
]

# %% [markdown] name="paper-learned-shown-text"
# Differences of FD are below zero where the first of the two is better.

# %% name="paper-learned-shown"
show_table([{"claim": claim, "here": here} for claim, here in claims])

# %% [markdown] name="paper-seen"
# Which claims hold here? DP stride's first by construction; that its pictures are not better, where the differences are above zero by more than two
# errors. GGDM's against the sampler that it starts from; the next row says where a solver that nothing was learned for
# stands. Analytic-DPM's in part: exact on the toy and cheaper moves on pictures, but the decoder can take that back (the
# differences of the variances say where). NEDM's in small part: most of the rescue is its family of betas; what the
# measurement adds stands, with its error, in the last column of its table.
#
# 32 steps come within a few hundredths of a bit of the whole chain. Must the chain be the lowest? On the toy it is: the
# denoiser is exact there, the variance the small one for all, and nothing comes after the last move. Here the errors are measured on a network, and few steps may choose
# the level at which the decoder takes over, so nothing forbids that they end below it.
#
# Where our version is tiny: the papers report LSUN-church FID 11.6 against 51.1 at ten steps (GGDM), better likelihood and
# high-quality samples with a speed-up of 20 to 80 times (Analytic-DPM), speech in 3 to 7 steps (BDDM), ImageNet 64 x 64 within 0.1
# bits/dim of the 4,000-step chain at 32 steps (DP stride). (From memory, not looked up again: 6 steps, NEDM; CIFAR-10 from T = 0.6
# with 600 instead of 1000 evaluations, DiffusionTimes.) We have small networks, small pictures, one training seed
# and distances in a small classifier's features: only directions compare.

# %% [markdown] name="not-text"
# ## When it does not help
#
# - **DP stride** optimises likelihood, and the bound is paid at the clean end. For pictures compare it with a plain grid
#   first.
# - **Analytic variances** fade with the number of steps, slowly: at 200 the toy still tells them apart.
#   And with DDIM there is nothing to choose if you keep it deterministic. Near pure noise $1 - \Gamma_t$ is a
#   difference of nearly equal numbers and may come out negative; the package cuts it off at 0.
# - **GGDM** optimises a *measure*. Whatever the measure does not see is free to get worse; judge with
#   another one. Each number of steps needs its own training, and so does each network.
# - **BDDM** finds the best single step, which need not make the best walk; it needs a search over starts by a quality
#   measure besides.
# - **NEDM** helps most where the schedule is bad, and there a good fixed schedule does most of it. In few
#   dimensions the level cannot be read well (above, for pure noise).
# - **DiffusionTimes** needs data whose noised form a small model can learn. The shorter T, the more the
#   work moves into that model: at $T = 0$ it *is* the model.

# %% [markdown] name="recap"
# ## Recap
#
# - One number per noise level prices every jump; dynamic programming then finds the best K jumps for all
#   K at once.
# - One number per noise level gives the best variance; it is exact at any number of steps for a Gaussian whose directions all have
#   one variance.
# - A few dozen coefficients can be trained through a frozen network on an unbiased measure of quality. Compare them with
#   the sampler that they start from, and with a good solver that learned nothing.
# - A schedule can also be found on the way: by a network that proposes (BDDM) or one that measures (NEDM).
# - The walk may start anywhere you have a model for: a short noise and a model of its end save
#   most steps.
# - Likelihood and pictures want different grids. Say which you optimise.
#
# Next, in lesson 09, which is planned: does the noise have to be Gaussian at all?

# %% [markdown] name="reading"
# ## Further reading
#
# - Watson, Ho, Norouzi, Chan 2021, *Learning to Efficiently Sample from Diffusion Probabilistic
#   Models*, arXiv 2106.03802: DP stride.
# - Bao, Li, Zhu, Zhang 2022, *Analytic-DPM*, arXiv 2201.06503: the best variance.
# - Watson, Chan, Ho, Norouzi 2022, *Learning Fast Samplers for Diffusion Models by Differentiating
#   Through Sample Quality*, arXiv 2202.05830: GGDM.
# - Lam, Wang, Su, Yu 2022, *BDDM: Bilateral Denoising Diffusion Models*, arXiv 2203.13508.
# - San-Roman, Nachmani, Wolf 2021, *Noise Estimation for Generative Diffusion Models*, arXiv
#   2104.02600.
# - Franzese et al. 2022, *How Much Is Enough? A Study on Diffusion Times in Score-based Generative
#   Models*, arXiv 2206.05173.
