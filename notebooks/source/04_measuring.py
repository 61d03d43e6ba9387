# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 04 Measuring: is it good, and what does it cost?
#
# Every later lesson claims that something is *better* or *cheaper*. This one takes the rulers apart:
# what each of them measures, by how much it is off, what it cannot see, and what it takes to say that
# one model beats another.
#
# **Goals.** You will be able to
# - compute a Fréchet distance, say how far it is off at N pictures, and take that away,
# - tell apart what FD, KID, the classifier score, precision, recall and likelihood can and cannot see,
# - write a measure that catches a cheat which FD takes for honest,
# - count network evaluations, FLOPs (attention too), seconds and energy of anything that draws,
# - answer "which model is better, by how much, at what cost, and how sure is that?"
#
# **Prerequisites.** Means, covariances, eigenvalues; a trained model draws pictures (lesson 03).
#
# **Time.** {{time}}.
#
# **Data.** Fashion-MNIST, which travels with the course (MIT licence), three shipped models (one of
# scikit-learn's digits, CC BY 4.0), and exact toys.
#
# **On the map.** Row 69: the measures of the survey's section IV (IS, FID, NLL; steps, throughput,
# workload, parameters, FLOPs, time) and the energy of its introduction.

# %% [markdown] name="imports-text"
# First the pictures; the rest of what this lesson needs comes after them.

# %% name="imports"
import textwrap

import torch

from diffusion_lab import data, metrics
from diffusion_lab.course import lessons, plots
from diffusion_lab.device import generator

fashion, test = data.load("fashion"), data.load("fashion", "test")
print(f"{len(fashion):,} training and {len(test):,} test pictures travel with the course")

# %% [markdown] name="sets-text"
# ## What is "good"?
#
# Seven sets of pictures, all made from real training pictures. Before you read on: which are good,
# which are bad, and how would a number know? (The ten that are repeated are the most typical of each
# class: nearest to its mean in the features that the next section explains.)

# %% name="sets"
N = lessons.pick(smoke=130, live=600, full=2000)
feats = metrics.features(fashion.x)
real, pool, kinds = fashion.x[:N], fashion.x[5000:], fashion.labels[5000:]
ten = []
for k in range(10):
    own, f = pool[kinds == k], feats[5000:][kinds == k]
    ten.append(own[(f - f.mean(0)).norm(dim=1).argmin()])
ten = torch.stack(ten)
sets = {
    "real": real,
    "noise 0.1": real + 0.1 * torch.randn(real.shape, generator=generator(0)),
    "2x blur": metrics.blurred(real),
    "mirrored": real.flip(-1),
    "five classes": pool[kinds < 5][:N],
    "ten, repeated": ten.repeat(N // 10, 1, 1, 1),
    "copied": pool[:N],
}

# %% [markdown] name="sets-figure-text"
# Ten of each. "Copied" is what a model would draw that gives its training pictures back.

# %% name="sets-figure"
plots.show(
    plots.strip([x[:10] for x in sets.values()], labels=list(sets)),
    alt="Seven rows of ten garments: real ones, the same with fine noise, the same blurred in blocks, "
    "the same mirrored, garments of five classes only, one garment of each class, and other real "
    "garments.",
    caption="Seven sets, ten pictures of each. Three are changed, three lack something, one is as it was.",
)

# %% [markdown] name="sets-seen"
# Noise and blur are **unlike** real pictures, one by one. "Five classes" and "ten, repeated" hold
# perfect pictures, but **not all kinds**. "Copied" holds perfect pictures of all kinds, but **nothing
# new**. (And "mirrored"? Nothing is wrong with a picture, yet real shoes in this data set point to the
# left.) Good means all three: likeness, variety, newness. No single number sees all of them; keep the
# seven sets in mind, they come back in one table.
#
# ## With whose eyes? Features
#
# Comparing pixels is hopeless: a shirt moved by two pixels is far from itself. So pictures are turned
# into **features**, here the 64 numbers before the last layer of a small frozen classifier. FID uses
# the 2,048 of InceptionV3. Every measure comes from the package:

# %% name="more-imports"
import math

from torch import nn

from diffusion_lab import checkpoints
from diffusion_lab.course.bench import scaling
from diffusion_lab.course.checks import lesson04 as check
from diffusion_lab.course.widgets import explore, slider
from diffusion_lab.data import toys
from diffusion_lab.generate import generate
from diffusion_lab.metrics import Estimate, Reference, compare, energy, likelihood
from diffusion_lab.metrics.cost import Cost, Meter
from diffusion_lab.metrics.distances import modes
from diffusion_lab.metrics.frechet import classify, extrapolate, fd_curve, gaussian_bias
from diffusion_lab.metrics.inception_score import inception_score
from diffusion_lab.metrics.kid import gaussian_mmd2, kid_subsets, mmd2
from diffusion_lab.metrics.precision_recall import neighbours
from diffusion_lab.nets.unet import Attention

# %% [markdown] name="features-text"
# How well does the classifier whose features we take know the clothes?

# %% name="features"
net = checkpoints.load("fashion-features")
right = (classify(test.x).argmax(1) == test.labels).double().mean()
print(f"{metrics.count_parameters(net):,} parameters; features {tuple(feats.shape)}")
print(f"the classifier is right about {right:.0%} of test pictures")

# %% [markdown] name="names-text"
# **Names.** Values in these features are called *FD-small*, *KID-small*, *classifier score*. The name
# FID means InceptionV3 with one particular file of weights, one way of resizing, and 10,000 pictures or
# more; it is not ours to give. The package computes it if you bring that file, and checks that it
# is that file. Without it, and with few pictures, this happens:

# %% name="no-fid"
try:
    metrics.fid(real, test.x)
except ValueError as error:
    print("ValueError:", *textwrap.wrap(str(error), 80), sep="\n")

# %% [markdown] name="frechet-text"
# ## The Fréchet distance
#
# Describe each set of features by a Gaussian with its mean $m$ and covariance $C$. The distance of
# two Gaussians (squared Wasserstein-2: the least mean squared way to carry one pile of sand to the
# other) has a closed form:
#
# $$ \mathrm{FD} = |m_1 - m_2|^2 + \mathrm{tr}\!\left(C_1 + C_2
#    - 2\,(C_1^{1/2} C_2\, C_1^{1/2})^{1/2}\right). $$
#
# On a line it is $(m_1 - m_2)^2 + (s_1 - s_2)^2$ with standard deviations $s$. The cell carries the sand
# by hand: on a line the best way is to keep the order, so quantile goes to quantile.

# %% name="line" tags=["nbval-check-output"]
u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
z = torch.special.ndtri(u)  # quantiles of N(0, 1)
carried = ((0 + 1 * z) - (1 + 3 * z)).square().mean()
a, b = (
    Reference(torch.tensor([m]), torch.tensor([[s**2]]), 1) for m, s in ((0.0, 1.0), (1.0, 3.0))
)
print(f"carried by hand    {carried:.2f}")
print(f"(0-1)^2 + (1-3)^2  {(0 - 1) ** 2 + (1 - 3) ** 2:.2f}")
print(f"metrics.frechet    {metrics.frechet(a, b):.2f}")

# %% [markdown] name="frechet-exercise-text"
# ### Exercise 1 (fill in): the distance in D dimensions
#
# Means `(D,)` and covariances `(D, D)`, float64. The square root is that of a *matrix*.
#
# <details><summary>Hint 1: nudge</summary>
#
# You need the matrix whose square is $C_1$, then only the *trace* of another root: a sum over
# eigenvalues.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# With $C_1 = U \mathrm{diag}(e) U^\top$ the root is $U \mathrm{diag}(\sqrt e)\, U^\top$, and
# $\mathrm{tr}\, M^{1/2} = \sum_i \sqrt{\mathrm{eigenvalue}_i(M)}$ for the symmetric
# $M = C_1^{1/2} C_2\, C_1^{1/2}$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Eigenvalues and vectors of the first covariance (`torch.linalg.eigh`); put the roots of the eigenvalues back
# between the vectors; multiply the second covariance by that root from both sides; add up the roots of the
# eigenvalues of the product (`torch.linalg.eigvalsh`; cut rounding below 0). Then the formula above.
# </details>


# %% name="my-frechet"
def my_frechet(m1, c1, m2, c2):
    """The Fréchet distance of two Gaussians."""
    ### BEGIN SOLUTION
    e, u = torch.linalg.eigh(c1)
    root = (u * e.clamp(min=0).sqrt()) @ u.T
    cross = torch.linalg.eigvalsh(root @ c2 @ root).clamp(min=0).sqrt().sum()
    return (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * cross
    ### END SOLUTION


# %% name="check-frechet" points=2
check.frechet_of_gaussians(my_frechet)

# %% [markdown] name="blind-text"
# ### What it cannot see
#
# Only mean and covariance enter. Here are two sets of the same mean and variance that nobody would
# confuse: a bell curve, and ten percent of the points at 3 with the rest near 0. (KID, further below,
# looks at third moments as well.)

# %% name="blind" tags=["nbval-check-output"]
bell = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[:, None]
two = torch.where(torch.arange(4000) < 400, 3.0, -1 / 3).double()[:, None]
bell, two = bell / bell.std(), two / two.std()
print(f"FD   {metrics.frechet(Reference.of(bell), Reference.of(two)):.2f}")
print(f"KID  {mmd2(bell, two):.0f}")

# %% [markdown] name="bias-text"
# ## Few pictures: always too high
#
# Take N draws of a standard normal in $d$ dimensions and measure their distance to **that very
# normal**. The true answer is 0. The estimated mean is off by $d/N$ on average, and each of the
# $d(d+1)/2$ covariances adds $1/(2N)$:
#
# $$ E\,\mathrm{FD} \approx \frac{d + d(d+1)/4}{N}. $$
#
# <details><summary>Where the 1/(2N) comes from</summary>
#
# Against the identity only $\mathrm{tr}(C + I - 2\, C^{1/2})$ is left of the covariances. Write $C = I + E$ with a small
# $E$. The root is $C^{1/2} = I + E/2 - E^2/8 + \dots$, so that the trace is
# $\mathrm{tr}(2I + E - 2I - E + E^2/4) = \tfrac14 \sum_{ij} E_{ij}^2$: the first order cancels, the second does not. The
# covariance of N draws has $E\,[E_{ij}^2] \approx 1/N$ off the diagonal and $2/N$ on it. A pair $i < j$ stands twice in
# the sum and gives $\tfrac14 \cdot \tfrac2N$; a variance stands once and gives $\tfrac14 \cdot \tfrac2N$ as well.
# </details>

# %% name="bias" tags=["nbval-check-output"]
d, gen = 64, generator(1)
normal = Reference(torch.zeros(d).double(), torch.eye(d).double(), 1)
rows = []
for n in (250, 500, 1000, 2000, 4000):
    draws = [Reference.of(torch.randn(n, d, generator=gen)) for _ in range(10)]
    mean = sum(metrics.frechet(one, normal) for one in draws) / 10
    rows.append({"N": n, "measured": mean, "formula": (d + d * (d + 1) / 4) / n})
plots.show_table(rows, digits={"N": ",", "measured": ".1f", "formula": ".1f"})
print(f"below 0.1 from {(d + d * (d + 1) / 4) / 0.1:,.0f} pictures on")

# %% [markdown] name="real-bias-text"
# A distance above 4 between a thing and itself. Real features have smaller variances than 1, so the
# numbers are smaller there, but the law is the same.
#
# Now on real features: training pictures against the shipped mean and covariance of the full test set
# (10,000 pictures; 2,000 of them travel with the course), and the same pictures with noise of sd 0.05.
# Each point is a mean over pieces of n pictures. `gaussian_bias` is the formula for any covariance; it
# knows nothing of our features but their covariance.

# %% name="real-bias"
ref = metrics.reference("fashion")
noisy = fashion.x + 0.05 * torch.randn(fashion.x.shape, generator=generator(2))
noisy_feats = metrics.features(noisy[: lessons.pick(smoke=2000, live=10_000)])
sizes = [100, 150, 250, 500, 1000, 2000]
curves = {
    "real": fd_curve(feats, ref, sizes, generator(3)),
    "noise 0.05": fd_curve(noisy_feats, ref, sizes, generator(3)),
    "formula, for real": [gaussian_bias(ref, ref, n) for n in sizes],
}

# %% [markdown] name="real-bias-figure-text"
# The same three curves twice: over n, and over 1/n.

# %% name="real-bias-figure"
fig, ax = plots.axes(1, 2, size=(4.4, 3.2), share=False)
plots.lines(sizes, curves, ax=ax[0], xlabel="pictures n", ylabel="FD-small", log="x")
inverse = [1 / n for n in sizes]
plots.lines(inverse, curves, ax=ax[1], xlabel="1 / n", ylabel="FD-small")
plots.show(
    fig,
    alt="Left: FD-small falls with the number of pictures for real and noisy pictures alike. Right: "
    "over 1/n both are straight lines; the real one goes to zero and lies on the formula, the noisy "
    "one ends clearly above zero.",
    caption="The same pictures at different n. Over 1/n the curves are straight lines, and their ends "
    "at 0 are what infinitely many pictures would score.",
)

# %% [markdown] name="real-bias-seen"
# Three things. The floor for *real* pictures is far from 0 at small n, and the Gaussian formula
# predicts it. Both curves rise together: **at equal n most of the bias cancels**. And over 1/n they are
# nearly straight, which is the way out.
#
# ### Something to touch: make real pictures lose
#
# Choose how many real and how many noisy pictures are compared. Each histogram holds the FD of 40
# draws. Find settings at which real pictures look *worse* than noisy ones.

# %% name="touch" tags=["hide-input"]
spread = {}


def distances(which: str, n: int) -> list:
    """FD-small of 40 sets of n pictures (kept for the next time)."""
    source, gen = (feats if which == "real" else noisy_feats), generator(4, n)
    if (which, n) not in spread:
        picks = [torch.randint(len(source), (n,), generator=gen) for _ in range(40)]
        spread[which, n] = [metrics.frechet(Reference.of(source[i]), ref) for i in picks]
    return spread[which, n]


def contest(n_real: int, n_noisy: int):
    fig, ax = plots.axes(size=(6.4, 3.2))
    for i, (which, n) in enumerate((("real", n_real), ("noise 0.05", n_noisy))):
        bins, hatch = torch.linspace(0, 2.2, 23).tolist(), ("", "//")[i]
        ax.hist(distances(which, n), bins, alpha=0.7, hatch=hatch, label=f"{which}, n = {n}")
    ax.set(xlabel="FD-small", ylabel="draws of 40", xlim=(0, 2.2))
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return fig


explore(
    contest,
    n_real=slider("real pictures", 100, 100, 1500, 50),
    n_noisy=slider("noisy pictures", 1500, 100, 1500, 50),
    alt=lambda n_real, n_noisy: (
        f"Two histograms of FD-small: {n_real} real pictures and {n_noisy} noisy ones."
    ),
    caption="FD-small of real and of noisy pictures, each at its own number of pictures.",
)

# %% [markdown] name="touch-seen"
# With 100 real pictures against 1,500 noisy ones, the real ones lose in nearly every draw, and more seeds
# would only make you surer of the wrong answer: a bias is not a spread. Now move both to the same n, and see how far apart
# they are then. **Never compare distances at different N** (nor of different features, resizing, or
# splits).
#
# ### FD_inf: the end of the line
#
# Chong and Forsyth: measure at several n, draw the line through FD against 1/n, read it at 1/n = 0.
# (The package leaves out sizes below four times the number of features, where the line begins to bend.)
#
# ### Exercise 2 (extend): read the end of the line
#
# `sizes` and `values` are float64 tensors. Return the least-squares line's value at 1/n = 0.
#
# <details><summary>Hint 1: nudge</summary>
#
# What is the x axis, and where on it is "infinitely many pictures"?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# With $x = 1/n$: slope $= \sum (x - \bar x)(v - \bar v) / \sum (x - \bar x)^2$, end
# $= \bar v - \mathrm{slope} \cdot \bar x$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# x is one over the sizes; the slope is the sum of products of both deviations from their means, over the sum of
# squares of x's; from the mean of the values go back to 0 along the slope
# </details>


# %% name="my-end"
def my_fd_infinity(sizes, values):
    """The value at 1/n = 0 of the line through values against 1/n."""
    ### BEGIN SOLUTION
    x = 1 / sizes
    dx = x - x.mean()
    slope = (dx * values).sum() / (dx**2).sum()
    return values.mean() - slope * x.mean()
    ### END SOLUTION


# %% name="check-end"
check.fd_infinity(my_fd_infinity)

# %% [markdown] name="infinity-text"
# Does it work where the truth is known? Two normals in 32 dimensions whose means are $\sqrt{1.6}$
# apart: the true distance is 1.6. From 600 draws, in 20 repetitions:

# %% name="infinity" tags=["nbval-check-output"]
d, gen = 32, generator(5)
normal = Reference(torch.zeros(d).double(), torch.eye(d).double(), 1)
shift = torch.full((d,), math.sqrt(1.6 / d))
found = [torch.randn(600, d, generator=gen) + shift for _ in range(20)]
plain = [metrics.frechet(Reference.of(x), normal) for x in found]
ends = [extrapolate(x, normal, generator=gen) for x in found]
print(f"FD at N = 600   {sum(plain) / 20:.1f} on average")
print(f"FD_inf          {sum(e.value for e in ends) / 20:.1f} on average")
print(f"its own error   {sum(e.error for e in ends) / 20:.1f} on average")

# %% [markdown] name="infinity-seen"
# For draws made at random the bias is gone, and each value comes with a **standard error**, found by
# halving the pictures at random: the halves' difference shows how much a set of N pictures scatters. One rule from here on: no
# comparison without N and an error.

# %% name="infinity-real"
rows = []
for name in ("real", "noise 0.1", "2x blur"):
    end = metrics.fd_infinity(sets[name])
    rows.append(
        {"set": name, "FD": metrics.fd(sets[name]), "FD_inf": f"{end.value:.3f} ± {end.error:.3f}"}
    )
plots.show_table(rows, title=f"N = {N} pictures", digits={"FD": ".3f"})

# %% [markdown] name="anchor-seen"
# Real pictures come out at 0 within two errors (an estimate without bias of something near 0 must fall
# below 0 about half of the time). The distance has no natural unit, so the course quotes it in units
# of the **anchor A**: 0 A means that mean and covariance agree, 1 A is fine visible noise.
#
# A unit must not wobble. The FD of N noisy pictures would: it falls with N, and it scatters from draw to draw. So A is
# **one number for the whole course**: the FD_inf of all 10,000 training pictures with noise 0.1, rounded to two decimals. The
# table shows what "as many noisy pictures" would have been instead, in 20 draws at each N.

# %% name="anchor"
unit = metrics.anchor()
A = unit.value
some = fashion.x[: lessons.pick(smoke=1000, live=5000)]
noise = 0.1 * torch.randn(some.shape, generator=generator(11))
noisy_01, gen, rows = metrics.features(some + noise), generator(12), []
for n in (150, 300, 600):
    picks = [torch.randperm(len(some), generator=gen)[:n] for _ in range(20)]
    found = torch.tensor([metrics.frechet(Reference.of(noisy_01[i]), ref) for i in picks])
    rows.append({"n": n, "mean": found.mean().item(), "sd of a draw": found.std().item()})
plots.show_table(
    rows,
    title="FD of n real pictures with noise 0.1",
    digits={"mean": ".2f", "sd of a draw": ".2f"},
)
print(f"the unit: A = {A:.2f} ± {unit.error:.2f}, from {unit.n:,} pictures")

# %% [markdown] name="even-text"
# The error of A is common to all values in units of A, and decides nothing between two of them. The bias of N is still in every
# FD: a fixed unit does not make distances of different N comparable.
#
# One habit brings a bias back. Whoever draws with labels draws N/10 pictures of **each** class, not N at
# random. Twenty sets of real pictures of either kind:

# %% name="infinity-even"
each_class = [torch.nonzero(fashion.labels == k)[:, 0] for k in range(10)]
gen, ends = generator(10), {"at random": [], "N/10 of each class": []}
for _ in range(lessons.pick(smoke=6, live=20)):
    anyhow = torch.randperm(len(feats), generator=gen)[:N]
    even = [own[torch.randperm(len(own), generator=gen)[: N // 10]] for own in each_class]
    for kind, chosen in zip(ends, (anyhow, torch.cat(even)), strict=True):
        ends[kind].append(extrapolate(feats[chosen], ref, draws=20) / A)
rows = []
for kind, found in ends.items():
    values = torch.tensor([e.value for e in found])
    stated = sum(e.error for e in found) / len(found)
    row = {
        "mean": values.mean().item(),
        "scatter (sd)": values.std().item(),
        "stated error": stated,
    }
    rows.append({"sets": kind} | row)
plots.show_table(
    rows,
    title=f"FD_inf / A of {len(values)} sets of N = {N} real pictures",
    digits={"mean": "+.3f", "scatter (sd)": ".3f", "stated error": ".3f"},
)

# %% [markdown] name="infinity-even-seen"
# At random the values lie around 0, and scatter no more than their stated error says. The even sets lie **below** 0: a set of N has exact
# shares of the classes, its random pieces have not, so the line is too steep and ends too low. They also
# scatter less than their stated error, which is found from random halves. The offset is small beside 1 A,
# and the same for everything that is drawn like that: **compare even sets with even sets**.

# %% [markdown] name="kid-text"
# ## KID: no bias by construction
#
# Compare all pairs with a kernel, $k(a, b) = (a \cdot b/d + 1)^3$: within one set, within the other,
# across.
#
# $$ \mathrm{MMD}^2 = \underset{i \ne j}{\mathrm{mean}}\, k(x_i, x_j)
#    + \underset{i \ne j}{\mathrm{mean}}\, k(y_i, y_j) - 2\, \mathrm{mean}\, k(x_i, y_j) $$
#
# ### Exercise 3 (find the bug): two sets of the same law
#
# This version gives a clearly positive number even when both sets come from one law, and the more so
# the fewer pictures there are. Repair it.
#
# <details><summary>Hint 1: nudge</summary>
#
# Which pairs does the mean over the whole matrix hold that the formula leaves out?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $\frac{1}{n(n-1)} \left(\sum_{ij} k(x_i, x_j) - \sum_i k(x_i, x_i)\right)$ within each set
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# take the sum over the diagonal away from the sum over the matrix, and divide by the number of pairs that are left
# </details>


# %% name="my-kid"
def my_mmd2(x, y):
    """Squared maximum mean discrepancy of x (N, D) and y (M, D)."""
    kxx, kyy, kxy = (((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    ### BEGIN SOLUTION
    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (kxx, kyy)]
    return sum(within) - 2 * kxy.mean()
    ### END SOLUTION
    ### BEGIN STUB
    # return kxx.mean() + kyy.mean() - 2 * kxy.mean()  # too large: why?
    ### END STUB


# %% name="check-kid"
check.unbiased_mmd2(my_mmd2)

# %% [markdown] name="kid-exact-text"
# For two Gaussians the true value is a formula too (it is a mean of third powers). Two sets of N draws,
# 200 repetitions each, and the same with the pairs $i = j$ left in:

# %% name="kid-exact" tags=["nbval-check-output"]
d, gen = 16, generator(6)
eye, shift = torch.eye(d).double(), torch.full((d,), 0.5).double()
truth = gaussian_mmd2(Reference(shift * 0, eye, 1), Reference(shift, eye, 1))
kid_at = {}
rows = []
for n in (20, 50, 200):
    unbiased, biased = 0.0, 0.0
    for _ in range(200):
        x, y = torch.randn(2, n, d, generator=gen).double()
        y = y + shift
        unbiased += mmd2(x, y) / 200
        biased += (sum(((a @ a.T / d + 1) ** 3).mean() for a in (x, y))
                   - 2 * ((x @ y.T / d + 1) ** 3).mean()).item() / 200  # fmt: skip
    kid_at[n] = unbiased
    rows.append({"N": n, "unbiased": float(unbiased), "with i = j": biased})
plots.show_table(
    rows, title=f"The exact value is {truth:.2f}", digits={"unbiased": ".1f", "with i = j": ".1f"}
)

# %% [markdown] name="kid-error-text"
# Papers quote "KID ± std" over 50 to 100 random subsets. That std is the scatter of **one subset**,
# and says how large they were; it is no error of the mean, since subsets share pictures. The package's
# error is found by halving, as above.

# %% name="kid-error"
x, y = metrics.features(sets["noise 0.1"]), metrics.features(test.x)
mean, std = kid_subsets(x, y, generator(7), subsets=50, size=N // 4)
print(f"over 50 subsets of {N // 4}     {mean:.4f} ± {std:.4f}")
print(f"all pairs, standard error  {metrics.kid(sets['noise 0.1'])}")
print(f"real pictures               {metrics.kid(real)}")

# %% [markdown] name="is-text"
# ## Inception score: sure, and of all kinds
#
# A classifier looks at each picture. Good pictures make it sure; variety makes its average answer even:
#
# $$ \mathrm{IS} = \exp\left(E_x\, \mathrm{KL}(p(y|x)\, \|\, p(y))\right), \qquad 1 \le \mathrm{IS}
#    \le \text{number of classes}. $$

# %% name="is" tags=["nbval-check-output"]
eye = torch.eye(10).repeat(30, 1)  # 300 pictures, each certain, classes in turn
cases = {
    "certain, ten classes alike": eye,
    "certain, three classes alike": eye[eye[:, :3].sum(1) > 0],
    "half sure, ten classes alike": 0.5 * eye + 0.05,
    "has no idea": torch.full((300, 10), 0.1),
}
rows = [{"answers": k, "score": inception_score(p, splits=1).value} for k, p in cases.items()]
plots.show_table(rows, digits={"score": ".2f"})

# %% [markdown] name="is-seen"
# With certain answers the score counts kinds. It never looks at a real picture, and the ten classes
# are all the kinds it knows: one good picture of each is perfect. It has a bias of its own, downwards:
# an average over few answers looks less even than it is. So quote N, and into how many parts ("splits",
# ten as a rule) the pictures were cut.

# %% [markdown] name="pr-text"
# ## Precision and recall: two numbers for two questions
#
# FD mixes likeness and variety. Precision asks: what share of generated points lies where real ones
# lie? Recall: what share of real points lies where generated ones lie? "Where" is a union of balls
# around each point that reach to its third nearest neighbour. A toy with a known answer: the real law
# has eight modes; the model draws five of them, and puts a fifth of its points in the middle.

# %% name="pr" tags=["nbval-check-output"]
gen, ring = generator(8), toys.load_toy("ring")
real_points = ring.sample(1600, gen)
pool_points, of = ring.sample_labelled(4000, gen)
made = torch.cat([pool_points[of < 5][:1280], 0.15 * torch.randn(320, 2, generator=gen).double()])
counts, none = modes(made, ring.means, radius=0.6)
found = neighbours(real_points, made)
print(f"points of each mode: {(counts > 0).sum()} of 8 hit, {none} points in none")
print(f"precision {found.precision:.1f}   (0.80 drawn from the real law)")
print(f"recall    {found.recall:.1f}   (0.625 of the real law reached)")
shares = (found.precision, found.recall)

# %% [markdown] name="pr-figure-text"
# Where the measures look: the balls of the real points on the left, those of the generated on the right.


# %% name="pr-figure"
def inside_and_out(ax, centres, others, title: str) -> None:
    """The balls of ``centres`` to their third neighbour, and ``others`` on top."""
    radius = torch.cdist(centres, centres).kthvalue(4).values  # the nearest is the point itself
    inside = (torch.cdist(others, centres) <= radius).any(1)
    plots.balls(centres, radius, ax=ax, limits=3.0, title=f"{inside.double().mean():.0%} {title}")
    for keep, marker, colour in ((inside, "o", plots.COLOURS[2]), (~inside, "x", plots.COLOURS[1])):
        ax.plot(*others[keep].T.numpy(), marker, color=colour, markersize=4)


fig, ax = plots.axes(1, 2, size=(4.2, 4.2), share=True)
inside_and_out(ax[0], real_points, made[::8], "of generated in real balls")
inside_and_out(ax[1], made, real_points[::8], "of real in generated balls")
plots.show(
    fig,
    alt="Left: eight clouds of balls on a circle; generated points in five of them are marked as inside, "
    "those in the middle as outside. Right: balls around five modes and the middle; real points of "
    "three modes are outside.",
    caption="Shaded: the balls. Dots lie inside, crosses outside. Left: an eighth of the generated "
    "points (precision). Right: an eighth of the real ones (recall).",
)

# %% [markdown] name="pr-seen"
# Left, the crosses in the middle are inventions; right, the crosses are what the model forgot. Both
# numbers drift with N and with outliers (one far real point has a huge ball), so quote real against
# real beside them.

# %% [markdown] name="nll-text"
# ## Likelihood in bits per dimension
#
# A model with a likelihood can be asked how probable held-out pictures are, in bits per pixel. With
# densities of data in [-1, 1] an offset is owed: 256 grey values are $2/255$ apart, so a density
# counts $\log_2(255/2)$ bits too few. The anchor: bytes that are uniform noise must cost exactly 8.

# %% name="nll" tags=["nbval-check-output"]
print(f"offset of 256 levels       {likelihood.offset(256):.3f}")
print(f"offset of 17 levels        {likelihood.offset(17):.3f}")
nats = -784 * math.log(255 / 256 / 2)  # density of uniform bytes, one bin's noise added
print(f"uniform bytes              {likelihood.bits_per_dim(nats, 784, levels=256):.3f}")
print(f"the same without offset    {likelihood.bits_per_dim(nats, 784):.3f}")

# %% [markdown] name="nll-blind-text"
# What it cannot see: take a perfect model in 784 dimensions and let it draw garbage 99 times out of
# 100. A picture's probability falls by at most a factor 100, whatever the garbage is.

# %% name="nll-blind" tags=["nbval-check-output"]
x = 0.3 * torch.randn(1000, 784, generator=generator(9)).double()
good = torch.distributions.Normal(0.0, 0.3).log_prob(x).sum(1)
garbage = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
mixed = torch.logaddexp(math.log(0.01) + good, math.log(0.99) + garbage)
for name, log_prob in (("perfect model", good), ("99% garbage", mixed)):
    bits = likelihood.bits_per_dim(-log_prob.mean(), 784, levels=256)
    print(f"{name:15s} {bits:.3f} bits/dim")
print(f"difference at most {math.log2(100) / 784:.4f}")

# %% [markdown] name="nll-model-text"
# And a real model: the bound of the shipped 1000-step model on test pictures (lesson 02 takes its three
# parts apart), as it was recorded with the checkpoint. The EDM-style model gives no such number for
# free; lesson 06 shows how the ODE finds one.

# %% name="nll-model"
bound = checkpoints.info("fashion-vp1000")["metrics"]["bits_per_dim"]
print("fashion-vp1000: at most {total:.2f} bits/dim, of which".format_map(bound), end=" ")
print("prior {prior:.2g}, steps {steps:.2f}, decoder {decoder:.2f}".format_map(bound))

# %% [markdown] name="nll-seen"
# The price of 99% garbage is below a hundredth of a bit, the last decimal that most papers quote. The reverse holds as well:
# beautiful samples with a poor likelihood. Likelihood and looks are different questions (Theis et al.).
# A bound (sum of KLs), a likelihood by the ODE and an exact one are different numbers, too: say which.

# %% [markdown] name="all-text"
# ## All measures, all seven sets, and a model
#
# **Exercise 4 comes first**: predict before you look.
#
# ### Exercise 4 (predict): who notices ten repeated pictures?
#
# A model draws the same ten pictures of its training set, one of each class, over and over. Which of these come
# out clearly *worse* than for real pictures? Give a set such as `{"a", "b"}`.
# - `a` FD-small
# - `b` the classifier score
# - `c` precision
# - `d` recall
# - `e` the share of pictures that are nearer to a training picture than 95% of held-out ones are
#
# <details><summary>Hint 1: nudge</summary>
#
# For each: does it look at one picture at a time, or at what is missing?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# Score: sure, and classes even. Precision: generated points in real balls. Recall: real points in
# generated balls. FD: also the covariance.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Three of the five notice.
# </details>

# %% name="my-who"
### BEGIN SOLUTION
who = {"a", "d", "e"}
### END SOLUTION

# %% name="check-who"
check.who_notices(who)

# %% [markdown] name="all-table-text"
# Now measure. Each row is one of the seven sets, all at the same N, and as the eighth N pictures of the
# shipped class-conditional model of lesson 03, drawn as its own settings say.

# %% name="all-model"
model = checkpoints.load_denoiser("fashion")
best = model.about["recipe"]["sampler"]
sets["our model"] = generate(model, N, label=torch.arange(N) % 10, seed=0, **best).x

# %% [markdown] name="all-measure-text"
# *Copied* is the share of pictures that lie nearer to a training picture than 95% of held-out ones do: the seven sets are
# compared with `pool`, our model with all the 10,000 pictures that it was trained on.

# %% name="all"
rows, measured = [], {}
for name, x in sets.items():
    k, seen = metrics.kid(x), metrics.precision_recall(x)
    shown = fashion.x if name == "our model" else pool  # what it may have copied
    measured[name] = metrics.fd(x) / A
    rows.append({
        "set": name, "FD / A": measured[name], "KID x 1000": f"{1000 * k.value:.1f} ± {1000 * k.error:.1f}",
        "score": metrics.classifier_score(x).value, "precision": seen.precision,
        "recall": seen.recall, "copied": metrics.copied(x, shown, test.x[:1000]),
    })  # fmt: skip
digits = {"FD / A": ".2f", "score": ".1f", "precision": ".2f", "recall": ".2f", "copied": ".3f"}
plots.show_table(rows, title=f"N = {N} pictures a set", digits=digits)

# %% [markdown] name="all-floor-text"
# The floors: other real pictures, N/10 of each class for FD, blocks of N for recall.

# %% name="all-floor"
blocks = [block for block in feats[5000:].split(N) if len(block) == N]
held_out = metrics.features(test.x[:N])
others = [neighbours(held_out, block).recall for block in blocks]
floor, scatter = metrics.real_floor(N)
print(f"other real pictures, N = {N}: FD {floor / A:.2f} ± {scatter / A:.2f} A")
print(f"recall {min(others):.2f} to {max(others):.2f} in {len(others)} sets")

# %% [markdown] name="all-seen"
# First the seven sets, by columns.
# - **FD** sees noise, blur, missing classes, repetition. It takes copies for perfect.
# - **KID** mostly tells the same story, and does not need the same N. Ten typical pictures nearly pass:
#   their means are right. (Its error assumes independent pictures, which repeated ones are not.)
# - The **score** likes ten repeated pictures *better* than real ones.
# - **Precision** is fooled by the same; **recall** is not, and drops to nothing. (Points repeated more
#   than three times have balls of radius 0.) Blur leaves precision almost untouched.
# - **Copied** alone notices a model that gives its training pictures back: five classes, the ten and the
#   copied are taken from `pool`, the very pictures that it compares with, hence their 1.00. Yet it is no
#   judge of quality.
#
# And "mirrored": a change that is hardly a flaw to the eye costs more than visible noise. A distance
# measures what the *features* mind, not what you mind.
#
# Then **our model**. Read its row beside the floors and the real rows: FD and KID for likeness and variety together, *copied*
# beside 0.05 (the share of new real pictures, by its definition), and **recall** beside that of the real sets. Guidance
# draws typical pictures; a recall below every real set would say that some real kinds are hardly drawn, whatever FD and the
# score say. A model is described by the row, not by one of its numbers.
#
# ### Exercise 5 (write it): catch the cheat
#
# Here is a cheat that passes two of them. Half of the pictures of the set below are training pictures, each **moved by one
# pixel**; the other half are new. FD cannot tell it from a set of new pictures (the intervals overlap), and `copied`, which
# compares pixel by pixel, sees no more copies in it than among those.

# %% name="cheat"
gen, half = generator(13), N // 4
moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
chosen = torch.randint(len(moves), (half,), generator=gen).tolist()
moved = torch.stack([x.roll(moves[k], (1, 2)) for x, k in zip(pool[:half], chosen, strict=True)])
cheat = torch.cat([moved, test.x[1000 : 1000 + half]])
new = test.x[500 : 500 + len(cheat)]
for name, x in (("cheat", cheat), ("new pictures", new)):
    print(
        f"{name}: FD / A {metrics.fd_estimate(x) / A}, copied {metrics.copied(x, pool, test.x[:500]):.3f}"
    )

# %% [markdown] name="cheat-text"
# Write the measure that catches it. You get pictures `made`, the training pictures `train`, and `held_out`, real pictures that
# are certainly no copies; all are `(N, 1, 28, 28)`. Return a tensor of N booleans: which of `made` you take for copies. It
# must find plain copies, copies with a little noise and copies moved by one pixel in any direction, and must not
# accuse the honest: of new pictures it may take about as many for copies as *copied* does, one in twenty.
#
# `torch.cdist(a.flatten(1), b.flatten(1))` gives all distances; `x.roll((dy, dx), (2, 3))` moves pictures.
#
# <details><summary>Hint 1: nudge</summary>
#
# What would undo the disguise before you compare? And how small is a *small* distance? `held_out` knows.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $d(x) = \min_{u}\min_i |\mathrm{move}_u(x) - x_i|$ over the nine moves $u$ (none included) and all training pictures. A
# copy is what lies below the 5% quantile of the $d$ of `held_out`.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# A helper gives $d$ of a set: for each of the nine moves, move the set, take all distances to the training pictures and
# the least of each row; then the least over the moves. Apply it to `held_out`, take the quantile (`.quantile(0.05)`), apply
# it to `made`, compare.
# </details>


# %% name="my-alarm"
def my_alarm(made, train, held_out):
    """Which of the pictures are copies of training pictures: (N,) booleans."""

    ### BEGIN SOLUTION
    def least(x):
        found = [
            torch.cdist(x.roll((dy, dx), (2, 3)).flatten(1), train.flatten(1)).amin(1)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        return torch.stack(found).amin(0)

    return least(made) < least(held_out).quantile(0.05)
    ### END SOLUTION


# %% name="check-alarm" points=3
check.catches_copies(my_alarm)

# %% [markdown] name="alarm-text"
# Your alarm on the cheat: twelve of its pictures, those that you take for copies marked, and below each the training
# picture that is nearest to it after the best move. (Until the check says *right*, `copied` rings, pixel by pixel.)


# %% name="alarm-figure"
def by_pixels(made, train, held_out):
    """The alarm of ``metrics.copied``."""
    limit = metrics.nearest(held_out, train)[0].quantile(0.05)
    return metrics.nearest(made, train)[0] < limit


alarm = my_alarm if check.catches_copies.last == "right" else by_pixels
rings = alarm(cheat, pool[:1000], test.x[:300])
few = list(range(6)) + list(range(half, half + 6))
tried = [metrics.nearest(cheat[few].roll(u, (2, 3)), pool[:1000]) for u in [(0, 0), *moves]]
best_move = torch.stack([d for d, _ in tried]).argmin(0)
twins = pool[[int(tried[k][1][i]) for i, k in enumerate(best_move.tolist())]]
plots.show(
    plots.strip(
        [cheat[few], twins],
        titles=["copy" if rings[i] else "" for i in few],
        labels=["submitted", "nearest in\ntraining"],
    ),
    alt="Two rows of twelve garments. The first six submitted ones are those below them, moved by a "
    "pixel; the last six are only similar to those below.",
    caption="Submitted pictures, marked where the alarm rings, over the nearest training pictures.",
)
print(f"the alarm rings for {rings[:half].double().mean():.0%} of the moved copies, "
      f"{rings[half:].double().mean():.0%} of the new pictures")  # fmt: skip

# %% [markdown] name="alarm-seen"
# No measure is safe from a cheat that knows it: yours is fooled by a turn of five degrees, and misses many mirrored copies. What helps is to
# ask what a copier could do, and to look for just that.

# %% [markdown] name="cost-intro"
# ## What does a picture cost?
#
# Quality without cost is half a sentence. What the survey's Table III collects, from the most to the
# least reproducible:
#
# | measure | depends on | blind to |
# |---|---|---|
# | NFE, network evaluations a picture | the sampler | how large the network is |
# | parameters | the network | how often each is used |
# | FLOPs | both | memory traffic, how well the machine is filled |
# | seconds: latency (one picture), throughput (many) | all, and the machine | other machines |
# | device-seconds, energy, CO2 | all, the machine, the grid | who pays, and when |
#
# `Meter` watches the network itself, so it counts what is evaluated, not what a sampler's name
# promises. The same model with and without guidance:

# %% name="meter" tags=["nbval-check-output"]
label, rows = torch.arange(20) % 10, []
for scale in (1.0, best["scale"]):
    with Meter(model, pictures=20) as m:
        generate(model, 20, label=label, seed=0, **best | {"scale": scale})
    counts = {"steps": best["steps"], "NFE": m.cost.nfe, "parameters": m.cost.parameters}
    rows.append({"scale": scale} | counts | {"MFLOP a picture": m.cost.flops / 1e6})
plots.show_table(rows, digits={"NFE": "g", "parameters": ",", "MFLOP a picture": ".0f"})

# %% [markdown] name="meter-seen"
# The same number of steps and parameters, twice the work: guidance asks with and without the class. "Steps"
# is the number that hides this; NFE is the one to quote. (For cascades the meter also gives
# *pixel-NFE*: evaluations weighted by the pixels they see.)
#
# ### FLOPs by hand
#
# A convolution does $k^2 c_{\rm in}$ multiply-adds for each of $c_{\rm out} H W$ outputs; each counts as
# two. Papers that count multiply-adds ("MACs") as one print half of ours.

# %% name="flops" tags=["nbval-check-output"]
conv = nn.Conv2d(16, 32, 3, padding=1)
with Meter(conv, pictures=1) as m, torch.no_grad():
    conv(torch.zeros(1, 16, 14, 14))
print(f"meter    {m.cost.flops:,.0f}")
print(f"by hand  {2 * 3**2 * 16 * 32 * 14 * 14:,}")

# %% [markdown] name="attention-text"
# ### Exercise 6 (derive): attention
#
# Self-attention on a map of $n = H W$ pixels with $c$ channels: a 1 x 1 convolution from $c$ to $3c$
# channels (queries, keys, values), the products $Q K^\top$ and (weights) $\cdot V$, and a 1 x 1
# convolution from $c$ to $c$. How many FLOPs? (The number of heads does not matter; softmax, norms and
# additions are not counted.)
#
# <details><summary>Hint 1: nudge</summary>
#
# Four matrix products. A product of (a, b) with (b, c) takes a b c multiply-adds.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The first convolution: (n, c) with (c, 3c). The two products over pairs of pixels: (n, c) with (c, n), then (n, n) with
# (n, c). The last convolution: (n, c) with (c, c).
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Write a b c for each of the four, add them up, and count each multiply-add as two.
# </details>


# %% name="my-attention"
def my_attention_flops(n: int, c: int) -> int:
    """FLOPs of self-attention over n pixels with c channels."""
    ### BEGIN SOLUTION
    return 8 * n * c**2 + 4 * n**2 * c
    ### END SOLUTION


# %% name="check-attention"
check.attention_flops(my_attention_flops)

# %% [markdown] name="attention-seen"
# Counted by the meter, at three map sizes. The last column is the share of the two products that grow with
# the *square* of the pixels: why attention sits on the coarsest map.

# %% name="attention" tags=["nbval-check-output"]
layer, rows = Attention(64, heads=4), []
for size in (7, 14, 28):
    n = size * size
    with Meter(layer, pictures=1) as m, torch.no_grad():
        layer(torch.zeros(1, 64, size, size))
    share = {"MFLOP": m.cost.flops / 1e6, "share of the pairs": 4 * n**2 * 64 / m.cost.flops}
    rows.append({"map": f"{size} x {size}"} | share)
plots.show_table(rows, digits={"MFLOP": ".1f", "share of the pairs": ".0%"})

# %% [markdown] name="seconds-text"
# ### Seconds: latency and throughput
#
# `metrics.meter` wraps anything that draws n pictures: it warms up, repeats, takes medians, and
# measures one picture alone (latency) and a batch (throughput). Both are wall-clock times: what you wait,
# other programs on the machine included. Core-seconds count only the work done for us; where the two
# disagree on one thread, the cell says so.


# %% name="seconds"
def draw(n: int):
    return generate(model, n, label=torch.arange(n) % 10, seed=1, **best).x


full = metrics.meter(draw, model, pictures=64, repeats=lessons.pick(smoke=1, live=3))
rows = [{"measured": name, "value": str(value)} for name, value in full.full_row().items()]
plots.show_table(rows, title=f"{full.pictures} pictures; device-s are those of all of them")
alone = metrics.timing(draw, 1, repeats=lessons.pick(smoke=1, live=3)).cpu_median
batched = full.cpu_seconds / full.pictures
print(f"\nCPU time: {1 / batched:.0f} pictures a core-second in a batch; "
      f"a picture there takes {batched / alone:.2f} of a picture alone")  # fmt: skip
waited = full.seconds / full.cpu_seconds
if torch.get_num_threads() == 1 and waited > 1.3:
    print(
        f"this machine was busy: the wall-clock numbers are those of one {waited:.1f} times as slow"
    )

# %% [markdown] name="scaling-text"
# ### Do FLOPs tell the time?
#
# One call of the U-Net: larger pictures, larger batches, more channels. If FLOPs told all, every point
# would lie on one line of constant FLOP/s.

# %% name="scaling"
repeats = lessons.pick(smoke=1, live=5)
threads = torch.get_num_threads()
torch.set_num_threads(1)
cases = {
    "image size 28, 56, 84": [(28, 16, 48), (56, 16, 48), (84, 16, 48)],
    "batch 16, 64": [(28, 16, 48), (28, 64, 48)],
    "channels 48, 64, 96": [(28, 16, 48), (28, 16, 64), (28, 16, 96)],
    "too small to fill the machine": [(28, 1, 48), (28, 1, 16), (28, 16, 16)],
}
runs = {kind: [scaling.forward(*case, repeats) for case in own] for kind, own in cases.items()}
torch.set_num_threads(threads)

# %% [markdown] name="scaling-figure-text"
# The line is one rate for all: that of the first three kinds (their middle). The band is as wide as their
# points need.

# %% name="scaling-figure"
small = "too small to fill the machine"
filled = [one for kind, own in runs.items() if kind != small for one in own]
rates = sorted(one.flops / one.seconds for one in filled)
rate = math.sqrt(rates[0] * rates[-1])
worst = max(rates[-1] / rate, rate / rates[0])
work = max(one.flops for one in filled) / min(one.flops for one in filled)
fig, ax = plots.axes(size=(6.2, 4.0))
line = torch.logspace(6.8, 10.5, 50)
ax.plot(line / 1e9, line / rate, color="0.4", marker="", label=f"{rate / 1e9:.0f} GFLOP/s")
band = f"within a factor {worst:.2f}"
ax.fill_between(line / 1e9, line / rate / worst, line / rate * worst, color="0.85", label=band)
for (kind, own), marker, colour in zip(runs.items(), "os^x", plots.COLOURS, strict=False):
    points = [one.flops / 1e9 for one in own], [one.seconds for one in own]
    ax.plot(*points, marker, color=colour, label=kind)
ax.set(xscale="log", yscale="log", xlabel="GFLOP of a call", ylabel="CPU seconds")
ax.legend()
plots.show(
    fig,
    alt="CPU seconds over GFLOP, both logarithmic. Points of larger pictures, batches and channels lie "
    "in a band around one line; single pictures and a narrow network lie above it.",
    caption="Time against FLOPs of one call of the U-Net on one thread.",
)
print(f"machine filled: within a factor {worst:.2f} of the line, over a factor {work:.0f} in work")
print("too small: " + ", ".join(f"{one.seconds * rate / one.flops:.1f} x" for one in runs[small]))

# %% [markdown] name="scaling-seen"
# Once the machine is filled, FLOPs predict the time to within the factor printed above, over about a
# factor of ten in work. (Other programs widen the band: they take the caches.)
# Below that they do not: a single picture, or a narrow network, pays for moving numbers and for starting
# each operation. Halving the FLOPs of something that small saves less than half of the time.

# %% [markdown] name="energy-text"
# ### Energy and CO2
#
# $\mathrm{kWh} = \text{devices} \times \text{watts} \times \text{hours} \times \mathrm{PUE} / 1000$, and
# a grid's factor turns kWh into CO2. The survey's introduction gives examples; the cell computes
# them.

# %% name="energy" tags=["nbval-check-output"]
kwh = energy.kwh(watts=250, hours=216, devices=512, pue=1)
print(f"512 GPUs of 250 W for 9 days: {kwh:,.0f} kWh, {energy.homes(kwh):.1f} homes' year")
kwh = energy.kwh(watts=250, hours=150_000, pue=1)
print(f"Stable Diffusion, 150,000 GPU hours: {kwh:,.0f} kWh")
for factor in (0.37, 0.30):
    kg = energy.co2(kwh, factor)
    print(f"  at {factor:.2f} kg/kWh: {kg:,.0f} kg CO2, as {energy.coal(kg):,.0f} kg of coal")
ddpm, gan = Cost(50_000, 1000, 0, 0, 0, 20 * 3600, "cuda"), Cost(50_000, 1, 0, 0, 0, 60, "cuda")
print(f"DDPM, 50,000 pictures in 20 hours: {ddpm.seconds_per_picture:.2f} s a picture, "
      f"{ddpm.seconds / gan.seconds:,.0f} x a GAN's minute")  # fmt: skip

# %% [markdown] name="energy-seen"
# "Nearly three homes" is 2.6, and "7,000 kg of coal" needs a grid of 0.37 kg/kWh: an estimate is only
# as good as the assumptions printed beside it. Ours, with assumptions. Workload is measured here in
# core-seconds; papers quote V100-days, and turning one into the other needs an assumed utilisation, so
# the two never stand in one column.

# %% name="energy-ours"
print(
    full.energy
)  # the joules are the device's own; Wh and CO2 hold the building's share (PUE) too
trained = energy.kwh(energy.CORE_WATTS, model.about["cpu_seconds"] / 3600)
each = full.energy.kwh / full.pictures
as_many = float(f"{trained / each:.1g}")  # the watts cancel; the seconds are not known better
print(f"training (estimate): {1000 * trained:.0f} Wh, as much as about {as_many:,.0f} pictures")
recipe = model.about["recipe"]
flops = 3 * metrics.count_flops(model) * recipe["steps"] * recipe["batch"]  # backward: twice
days = energy.v100_days(flops, utilisation=0.3)
print(f"workload: {model.about['cpu_seconds']:,.0f} core-seconds measured; {flops:.1e} FLOP,")
print(f"which a V100 at 30% of its float32 peak does in {86_400 * days:.0f} s")

# %% [markdown] name="versus-text"
# ## Which is better, by how much, at what cost, how sure?
#
# All pieces together. Three ways to draw clothes at **12 evaluations a picture**: the EDM-style
# class-conditional model with its own guidance scale, the same with a little less guidance, and the
# unconditional 1000-step model through a fast solver. Each draws with three seeds of its own, so that
# the errors are independent, as `compare` takes them to be. (Settings that start from the *same* noise are compared as
# pairs, with `fd_paired`: lesson 05.)

# %% name="versus"
vp = checkpoints.load_denoiser("fashion-vp1000")
each = lessons.pick(smoke=130, live=200, full=1000)
label = torch.arange(each) % 10
ways = {
    "fashion, own scale": (model, best | {"label": label}),
    "fashion, scale 1.5": (model, best | {"label": label, "scale": 1.5}),
    "fashion-vp1000": (vp, {"sampler": "dpmpp", "steps": 12}),
}
drawn, paid = {}, {}
for k, (name, (net, settings)) in enumerate(ways.items()):
    with Meter(net, pictures=3 * each) as m:
        drawn[name] = [generate(net, each, seed=3 * k + i, **settings).x for i in range(3)]
    paid[name] = m.cost

# %% [markdown] name="versus-table-text"
# Two ways to know the error: over seeds (the FD of each seed, at the same N), and from the pictures
# themselves (FD_inf of all). Three seeds give an error that is itself known badly; an interval of +-2
# such errors then covers the truth less than 95% of the time, so `compare` uses Student's t.
#
# And a floor for each. Our labelled sets hold exactly N/10 of each class. That takes away part of the
# scatter, so their floor is lower than that of N random real pictures, which is the one for the
# unconditional model. Compare stratified with stratified; across the two, compare what lies above the
# floors.

# %% name="versus-table"
seeds = {n: Estimate.of([metrics.fd(x) / A for x in xs], n=each) for n, xs in drawn.items()}
infinity = {n: metrics.fd_infinity(torch.cat(xs)) / A for n, xs in drawn.items()}
above, rows = {}, []
for even, kind in ((True, "real, N/10 a class"), (False, "real, at random")):
    mean, std = (value / A for value in metrics.real_floor(each, balanced=even))
    rows.append(
        {
            "": kind,
            "NFE": None,
            "FD": f"{mean:.3f} ± {std:.3f}",
            "above its floor": "",
            "FD_inf": "",
        }
    )
    for name, (_, settings) in ways.items():
        if ("label" in settings) == even:
            floor_known = Estimate(mean, std / math.sqrt(8), each, freedom=7)  # from eight draws
            above[name] = seeds[name] - floor_known
            told = [
                f"{e.value:.3f} ± {e.error:.3f}" for e in (seeds[name], above[name], infinity[name])
            ]
            row = dict(zip(("FD", "above its floor", "FD_inf"), told, strict=True))
            rows.append({"": name, "NFE": paid[name].nfe} | row)
title = f"In units of A; FD at N = {each}, FD_inf at N = {3 * each}; ± of real: from draw to draw"
plots.show_table(rows, title=title, digits={"NFE": "g"})

# %% [markdown] name="versus-verdict-text"
# The verdicts: of the labelled and the unconditional model by what lies above their floors, of the two
# labelled ways directly. The percentage is the probability that the true difference has this sign, if nothing was known
# before and what was averaged is Gaussian. It is the probability of *one* comparison: who makes twenty will meet one that looks
# 95% sure by chance.

# %% name="versus-verdict"
first, second, other = ways
for pair, measured_by in (((first, other), above), ((first, second), seeds)):
    for name, values in (("FD", measured_by), ("FD_inf", infinity)):
        print(f"{name}: {compare(*(values[n] for n in pair), names=pair)}")

# %% [markdown] name="versus-seen"
# This is the form in which the course states every comparison: which, by how much, with what error, at
# equal N and stated cost. Compare the first difference with its error, and with the few hundredths by which even sets lower
# FD_inf, as measured above. Whether a tenth of guidance scale matters may well be beyond what so few
# pictures can say: then the honest answer is **"cannot be told apart"**. Errors fall as
# $1/\sqrt{N}$: half the error needs four times the pictures.
#
# Is it a fair comparison? The first is told the class, and the two were not trained equally long (see the next table); the verdict says what is
# better *to use*, not which idea is better. Lesson 03 separates such things one at a time.

# %% [markdown] name="cost-text"
# ## What did it cost
#
# The rows of this lesson: FD is the mean of three seeds, each at this N (FD_inf, which takes all the
# pictures of the three, stands in the table above). The last row is one seed of another data set, 8 x 8 digits, in
# features and a unit A of its own. After them the running table: what the lessons up to this one
# have measured. `diffusion-lab bench costs` collects it from the notebooks into
# `benchmarks/costs.json`.

# %% name="cost"
digits = checkpoints.load_denoiser("digits")
how = digits.about["recipe"]["sampler"] | {"scale": 1.0}
with Meter(digits, pictures=each) as m:
    x = generate(digits, each, label=label, seed=0, **how).x
of_digits = metrics.fd(x, "digits") / metrics.anchor("digits").value
rows = [
    {"system": name, **cost.row(), "training core-s": round(ways[name][0].about["cpu_seconds"]),
     "FD / A": round(seeds[name].value, 2), "N": each}
    for name, cost in paid.items()
]  # fmt: skip
rows.append(
    {"system": "digits, no guidance", **m.cost.row(),
     "training core-s": round(digits.about["cpu_seconds"]), "FD / A": round(of_digits, 2), "N": each}
)  # fmt: skip
lessons.cost_row(4, *rows)

# %% [markdown] name="running-text"
# The running table. It was collected earlier, from the notebooks as they are stored, so your run of the
# rows just shown differs from it: distances in their last digits, seconds more.
# Distances of different N and of different data sets stand in one column here, so compare only rows of
# one data set with the same N.

# %% name="running"
columns = ("lesson", "system", "NFE", "MFLOP / picture", "core-s / 1000", "FD / A", "N")
known = [row for row in lessons.cost_rows() if row["lesson"] <= "04"]
rows = [{name: row.get(name) for name in columns} for row in known]
plots.show_table(rows)

# %% [markdown] name="paper-text"
# ## Paper against here
#
# What was claimed, and what this lesson found.

# %% name="paper"
slope = [float(v) * n for v, n in zip(curves["real"], sizes, strict=True)]
spread_of = (max(slope[:4]) - min(slope[:4])) / min(slope[:4])
of_kid = ", ".join(f"{v:.2f} at N = {n}" for n, v in kid_at.items())
homes = energy.homes(energy.kwh(250, 216, 512, pue=1))
claims = {
    "Chong, Forsyth: FD is a line in 1/N": f"FD x N, N = 100 to 500: equal within {spread_of:.0%}",
    "Binkowski et al.: KID has no bias": f"exact {truth:.2f}: {of_kid}",
    "Kynkäänniemi et al.: likeness, variety apart": f"0.80 and 0.625: {shares[0]:.2f}, {shares[1]:.2f}",
    "Theis et al.: likelihood is not looks": f"99% garbage costs {(good - mixed).mean() / 784 / math.log(2):.4f} bits",
    "The survey: nearly three homes for a year": f"{homes:.2f}, without cooling",
}
plots.show_table([{"claim": claim, "here": here} for claim, here in claims.items()])

# %% [markdown] name="paper-seen"
# The first four hold here; "nearly three" homes is a generous word for the number beside it. Where our version is tiny: 64 features of a classifier that knows ten kinds of clothes,
# instead of Inception's 2,048; hundreds of pictures instead of 50,000; one machine. That is why our
# values have names of their own and a unit of their own, and why none of them compares with a FID in a
# paper. The survey's tables compare models by numbers from different papers, with different
# splits, resizers and machines; everyone who quotes them should say so.

# %% [markdown] name="not-text"
# ## When it does not help
#
# - **FD, FID** see two moments of features. They move with N, and for FID with the resizer and the split, by more than good
#   models differ by. Copies of the training set score perfectly.
# - **KID** needs no equal N, but it is a mean of third powers: few outliers move it, and without its
#   error it says little.
# - **The inception score** never sees real pictures, and no variety within a class.
# - **Precision and recall** depend on k, N and outliers.
# - **Likelihood** spends its attention on details that nobody sees, and does not ask for good samples.
# - **NFE** does not compare networks of different size; **FLOPs** do not tell the time of small work;
#   **seconds** belong to one machine, and a shared one at that; **energy** and **CO2** rest on assumed
#   watts and an assumed grid.
# - No number here replaces looking at the pictures.

# %% [markdown] name="recap"
# ## Recap
#
# - FD of N pictures is too high by about $c/N$: same N for both sides, or FD_inf with its error. Sets with
#   exact shares of the classes lie lower than random ones: compare like with like.
# - KID leaves out $i = j$ and is right on average at any N.
# - Score and precision praise ten good pictures; recall and FD do not; only a distance to the training
#   set tells copies, and only if it undoes what the copier did.
# - Bits/dim owe an offset; uniform bytes cost 8.
# - Count NFE and FLOPs (attention: $8nc^2 + 4n^2c$), then measure seconds; print the assumptions of any energy.
# - "Which is better" has four parts: which, by how much, at what cost, how sure.
#
# Next: lesson 05 makes the first cost smaller, by skipping steps.

# %% [markdown] name="reading"
# ## Further reading
#
# - Heusel et al. 2017, *GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
#   Equilibrium*, arXiv 1706.08500: FID.
# - Chong and Forsyth 2020, *Effectively Unbiased FID and Inception Score and Where to Find Them*, arXiv 1911.07023: FD_inf.
# - Bińkowski et al. 2018, *Demystifying MMD GANs*, arXiv 1801.01401: KID.
# - Salimans et al. 2016, *Improved Techniques for Training GANs*, arXiv 1606.03498: the inception score.
# - Barratt and Sharma 2018, *A Note on the Inception Score*, arXiv 1801.01973: its limits.
# - Kynkäänniemi et al. 2019, *Improved Precision and Recall Metric for Assessing Generative Models*,
#   arXiv 1904.06991; Naeem et al. 2020, arXiv 2002.09797: density and coverage.
# - Theis, van den Oord, Bethge 2016, *A Note on the Evaluation of Generative Models*, arXiv 1511.01844.
# - Parmar, Zhang, Zhu 2022, *On Aliased Resizing and Surprising Subtleties in GAN Evaluation*, arXiv 2104.11222.
# - Ulhaq, Akhtar, Pogrebna 2022, *Efficient Diffusion Models for Vision: A Survey*, arXiv 2210.09292,
#   sections I and IV.
