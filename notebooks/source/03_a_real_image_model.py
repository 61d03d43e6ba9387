# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 03 A real image model: what does it take on a laptop?
#
# We train a model that draws clothes, while you watch. Four questions decide how good it becomes in a
# minute: what the network looks like, what it is asked to say, which noise levels it practises,
# and which of its weights you sample from.
#
# **Goals.** You will be able to
# - say what every part of a small U-Net is for and what it costs, and write its residual block,
# - choose what the network predicts ($x_0$, $\epsilon$, $v$ or EDM's $F$) and say why,
# - derive EDM's three scalings and check them,
# - read any weighting of the loss (simple, P2, min-SNR, EDM) in one unit,
# - write the ten lines that train a model, average its weights rightly, and say what it cost.
#
# **Prerequisites.** $x_t = \alpha_t x_0 + \sigma_t \epsilon$ and the SNR
# (lesson 01); that the best denoiser is $E[x_0 \mid x_t]$ (lesson 02). Some PyTorch.
#
# **Time.** {{time}}.
#
# **Data.** Fashion-MNIST, 10,000 training pictures of 28 x 28 (MIT licence), which travel with
# the course, and exact toys.
#
# **On the map.** DDPM's objective (row 1) and P2, perception-prioritised weights (row 29 of the
# survey, its Table II, *training*), with their neighbours min-SNR and EDM.
#
# The lesson has two halves, for two sittings; a line marks the middle.

# %% [markdown] name="imports-text"
# What the first picture needs; the rest comes after it.

# %% name="imports"
import torch

from diffusion_lab import data, schedules
from diffusion_lab.course import plots
from diffusion_lab.device import generator
from diffusion_lab.exact import FiniteData
from diffusion_lab.forward import noised

fashion, test = data.load("fashion"), data.load("fashion", "test")
print(f"{len(fashion):,} training pictures, standard deviation {fashion.std:.2f} in [-1, 1]")

# %% [markdown] name="job-text"
# ## The job, at every noise level
#
# In this lesson the noisy picture is mostly $x_0 + \sigma \epsilon$ (so $\alpha = 1$), as in EDM. We add more and more noise to
# one test picture, and ask the **ideal denoiser of 2,000 training pictures**, which averages them by how likely each is the
# origin. How does its answer change from left to right?

# %% name="job"
wide = schedules.make("edm", sigma_max=80.0)
ideal = FiniteData(fashion.x[:2000]).denoiser(wide)
sigmas = [0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 60.0]
times = wide.t_of_lam(-torch.tensor(sigmas).double().log())
x0 = test.x[2:3].expand(len(sigmas), -1, -1, -1)
eps = torch.randn(x0.shape, generator=generator(0))
x_t = noised(x0, eps, wide, times)
scaled = x_t / torch.tensor(sigmas).clamp(min=1)[:, None, None, None]
guess = ideal(x_t, times).x0
fig = plots.strip(
    [scaled, guess], titles=[f"{s:g}" for s in sigmas], labels=["noisy", "ideal of\n2,000"]
)
plots.show(
    fig,
    alt="Two rows of seven pictures of a pair of trousers. Top: more and more noise from left to "
    "right. Bottom: the ideal denoiser's answers, sharp clothes on the left, an average blur of "
    "all clothes on the right.",
    caption="Noise level sigma grows from left to right. Top: the noisy picture (dimmed to fit). "
    "Bottom: the best guess that 2,000 training pictures allow.",
)
missed = (guess[0] - x0[0]).square().mean().sqrt()
print(f"at sigma 0.05 the guess misses the hidden picture by {missed:.2f} (root mean square)")
to_mean = (guess[-1] - fashion.x[:2000].mean(0)).square().mean().sqrt()
print(f"at sigma 60 the guess is {to_mean:.2f} away from the mean of the 2,000 pictures")

# %% [markdown] name="job-seen"
# Three regimes, and they will return:
# - **much noise** (right): every picture is possible, the best answer is the average of all;
# - **middle**: the kind of garment and its outline are decided here;
# - **little noise** (left): only details are left to clean up.
#
# On the left the ideal denoiser returns *one of its 2,000 pictures*, close but not the hidden one: its guess is further off
# than the noise had moved the picture. It can only remember. A network of limited size has to find what pictures share.
#
# The course's package has networks, losses and training:

# %% name="more-imports"
import copy
import json
import math
from itertools import pairwise
from statistics import fmean

from diffusion_lab import checkpoints, metrics, nets
from diffusion_lab.course import lessons
from diffusion_lab.course.bench import quality
from diffusion_lab.course.checks import lesson03 as check
from diffusion_lab.course.widgets import choice, explore, slider
from diffusion_lab.data import store, toys
from diffusion_lab.denoisers import NetDenoiser, affine
from diffusion_lab.device import device
from diffusion_lab.generate import generate
from diffusion_lab.nets.unet import ResBlock
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.training import Recipe, build, load_or_train, recipes, train

edm = schedules.make("edm", sigma_max=20.0)

# %% [markdown] name="net-text"
# ## The network: a small U-Net
#
# A denoiser must look at the whole picture (what is it?) and at every pixel (where exactly?). In a U-Net the map becomes
# smaller and deeper, then large again, and bridges carry the fine details across.
#
# ```
# 28x28x1  fold 2x2 into channels  -> 14x14x4
# first          14x14, 32 channels
# down.0         14x14, 32   residual block -----------------------+  bridge
# down.1          7x7,  64   convolution with stride 2             |
# down.2          7x7,  64   residual block + attention --+ bridge |
# up.0            7x7,  64   residual block + attention --+        |
# up.1           14x14, 32   twice the size, convolution           |
# up.2           14x14, 32   residual block -----------------------+
# last           14x14x4 -> unfold -> 28x28x1
# ```
#
# `build` makes it from a recipe, a dictionary that fixes everything about a training.

# %% name="build" tags=["nbval-check-output"]
recipe = recipes.get("fashion-1min")  # a minute of training, for which it is made below
model = build(recipe, fashion)
print(f"parameters        {metrics.count_parameters(model.net):,}")
print(f"MFLOP a picture   {metrics.count_flops(model) / 1e6:.1f}   (a multiply-add counts as two)")

# %% [markdown] name="parts-text"
# Where do they go? `flops_by_part` runs the network once under a counter.

# %% name="parts" tags=["nbval-check-output"]
flops = metrics.flops_by_part(model)
total = sum(flops.values())
rows = []
for part, count in flops.items():
    held = metrics.count_parameters(model.net.get_submodule(part))
    share = {"MFLOP": count / 1e6, "share of FLOPs": count / total}
    rows.append({"part": part, "parameters": held} | share)
plots.show_table(rows, digits={"parameters": ",", "MFLOP": ".2f", "share of FLOPs": ".0%"})

# %% [markdown] name="parts-seen"
# The way up costs more than the way down: each block there also reads a bridge (twice the input channels), and its resizing convolution works on
# the large map. `level`, which tells noise level and class, runs once per picture, not once per pixel: almost no FLOPs.
#
# ### One residual block, in code
#
# All the *residual blocks* of the drawing are the same few lines. A block has six parts: two normalisations, two convolutions
# of 3 x 3, a linear layer `told` and a `skip`. It gets a map `x` of shape (B, C, H, W) and a vector `emb` for each picture that
# holds the noise level and the class, and does this:
# 1. normalise `x`, apply SiLU, convolve;
# 2. `told(emb)` gives two numbers for each channel, a scale and a shift (the first and the second half of its output);
# 3. normalise again, multiply by 1 + scale, add the shift, apply SiLU, convolve;
# 4. add `skip(x)`: the map itself, or a 1 x 1 convolution of it where the number of channels changes.
#
# ### Exercise 1 (write it): the residual block
#
# Write those lines. `block.norm1`, `block.conv1`, `block.told`, `block.norm2`, `block.conv2` and `block.skip` are the parts;
# `torch.nn.functional.silu` is SiLU. The next cell runs the shipped network with **your** block in all its places.
#
# <details><summary>Hint 1: nudge</summary>
#
# `emb` knows no pixels: which shape must scale and shift have to meet a map (B, C, H, W)?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The whole is $y = \mathrm{skip}(x) + \mathrm{branch}(x, \mathrm{emb})$. If the branch's map has $C$ channels, `told(emb)` has the
# shape $(B, 2C)$, and a scale or a shift that meets the map has $(B, C, 1, 1)$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Go through the list with one variable for the map, and keep the `x` that came in for the end. What `told` answers gets two axes
# of length 1 behind the others; then its channels are split in the middle.
# </details>


# %% name="my-block"
def my_block(block, x, emb):
    """What a residual block makes of a map x (B, C, H, W) and a vector emb (B, E)."""
    ### BEGIN SOLUTION
    silu = torch.nn.functional.silu
    h = block.conv1(silu(block.norm1(x)))
    scale, shift = block.told(emb)[:, :, None, None].chunk(2, dim=1)
    return block.skip(x) + block.conv2(silu(block.norm2(h) * (1 + scale) + shift))
    ### END SOLUTION


# %% name="check-block" points=2
check.residual_block(my_block)

# %% [markdown] name="block-drawn-text"
# The shipped network (this one with another last part, *The price of folding* says why, and trained for longer), with its blocks
# replaced by yours if the check says *right*:

# %% name="block-drawn"
right = check.residual_block.last == "right"
rebuilt = copy.deepcopy(checkpoints.load_denoiser("fashion"))
places = [part for part in rebuilt.net.modules() if isinstance(part, ResBlock)]
if right:
    for part in places:
        part.forward = lambda x, emb, part=part: my_block(part, x, emb)
drawn = generate(
    rebuilt, 10, label=torch.arange(10), seed=0, **rebuilt.about["recipe"]["sampler"]
).x
plots.show(
    plots.strip([drawn], titles=fashion.classes),
    alt="A row of ten generated garments, one of each class.",
    caption=f"Drawn by the shipped network; {'your' if right else 'the package’s'} block in "
    f"{len(places)} places.",
)

# %% [markdown] name="fold-text"
# ### Why fold the pixels first
#
# A convolution costs 2 x 9 x height x width x channels in x channels out FLOPs: at 28 x 28 four times what it costs at 14 x 14.
# Folding each 2 x 2 block of pixels into 4 channels loses nothing (it is undone at the end) and moves all layers to the smaller
# map. The same network with and without it:

# %% name="fold" tags=["nbval-check-output"]
rows = []
for patch in (1, 2):
    net = nets.make("unet", patch=patch, num_classes=10)
    one = NetDenoiser(net, edm, shape=(1, 28, 28), num_classes=10)
    mflop, parameters = metrics.count_flops(one) / 1e6, metrics.count_parameters(net)
    rows.append({"patch": patch, "MFLOP a picture": mflop, "parameters": parameters})
plots.show_table(rows, digits={"MFLOP a picture": ".1f", "parameters": ","})

# %% [markdown] name="fold-seen"
# About four times fewer FLOPs for nearly the same number of parameters: on a CPU, more optimiser steps a second. The price:
# details smaller than two pixels must be described by channels, and nothing ties the four pixels of a block to each
# other. Whether that shows is measured below (*The price of folding*).
#
# ### How the network is told the noise level
#
# The noise level is an input too: $\lambda = \log(\alpha/\sigma)$, which, unlike a step number, means the same on every
# schedule. One number is a poor input for a network (it can only be scaled), so it becomes a vector,
# $\sin(\omega_k \lambda)$ and $\cos(\omega_k \lambda)$ with fixed frequencies $\omega_k$ from slow to fast: a **time embedding**.
# (Kingma and Gao write $\lambda$ for twice this number, the logarithm of the SNR.)

# %% name="embedding"
lams = torch.linspace(-3.0, 4.6, 200)
angle = lams[:, None] * model.net.level.omega
waves = torch.cat([angle.sin(), angle.cos()], dim=1)
fig, ax = plots.axes(size=(6.5, 3.2))
image = ax.imshow(waves.T, aspect="auto", extent=(-3.0, 4.6, 32, 0), vmin=-1, vmax=1)
ax.set(xlabel="lambda     noise ... data", ylabel="16 sines, 16 cosines")
ax.grid(False)
fig.colorbar(image, label="value")
plots.show(
    fig,
    alt="A heat map: 32 rows over lambda from -3 to 4.6. Rows change slowly at the top of each "
    "half and oscillate fast at its bottom.",
    caption="What the network sees of the noise level: slow waves tell far levels apart, fast ones "
    "neighbouring levels.",
)

# %% [markdown] name="embedding-seen"
# Each noise level is one column. A small MLP turns it (plus a learned vector for the class) into a **scale and a
# shift for every channel of every block**. One row of the class table means *no class*; in training a label is replaced by it
# with probability 0.1, so one network learns the conditional and the unconditional answer. Guidance needs both.
#
# ### Why some layers start at zero
#
# The last convolution, and the last one in every residual block and attention, start with all weights zero: a block returns its
# skip, and the untrained network's output is exactly zero. The loss of the very first batch, with this start and with
# PyTorch's own random one:

# %% name="zero-start" tags=["nbval-check-output"]
gen = generator(0)
first = fashion.x[:256]
t = draw_times(edm, 256, gen, lam_range=model.lam_range, **recipe.times)
eps = torch.randn(first.shape, generator=gen)
zeroed, other = build(recipe, fashion), build(recipe, fashion)
torch.manual_seed(0)
other.net.last.reset_parameters()
loss, loss_other = (DiffusionLoss(m, Weighting("edm", {"sd": m.sd})) for m in (zeroed, other))
with torch.no_grad():
    print("largest output, at any t:    ", zeroed(first, t).out.abs().max().item())
    print(f"loss, zero start             {loss(first, t, eps).mean():.1f}")
    print(f"the same, pictures centred   {loss(first - fashion.x.mean(), t, eps).mean():.1f}")
    print(f"loss, PyTorch's own start    {loss_other(first, t, eps).mean():.1f}")

# %% [markdown] name="zero-seen"
# Before any training the zero start is as good as the best *single factor* on the noisy picture (of
# centred pictures: ours are mostly dark, which costs a little); random numbers in the last layer only add error.
# (Branches that start at zero let very deep networks train at all; De and Smith 2020.) Why one factor, and why 1? Read on.

# %% [markdown] name="say-text"
# ## What should the network say?
#
# The clean picture $x_0$? The noise $\epsilon$? Something between? A common choice between is
#
# $$ v = \alpha\, \epsilon - \sigma\, x_0 $$
#
# (Salimans and Ho): nearly the noise where there is little of it, nearly the (negative) picture where there is much. With
# $\alpha^2 + \sigma^2 = 1$ it is turned back by $x_0 = \alpha x_t - \sigma v$. All common choices are one straight line,
#
# $$ \hat x_0 = a\, x_t + b \cdot \mathrm{out}, $$
#
# and a choice is the pair $(a, b)$: $(0, 1)$ for $x_0$, $(1/\alpha, -\sigma/\alpha)$ for $\epsilon$,
# $(\alpha, -\sigma)$ for $v$. EDM's $F$ has a pair too, which depends on the data's standard deviation; you will derive it
# below. The pairs at three noise levels of a variance-preserving schedule, for data of standard deviation 0.7:

# %% name="line" tags=["nbval-check-output"]
vp, rows = schedules.Linear(), []
named = {"noisy, λ = -3": -3.0, "half way, λ = 0": 0.0, "nearly clean, λ = 3": 3.0}
for kind in ("x0", "eps", "v", "edm"):
    pairs = {n: affine(kind, *vp.alpha_sigma(vp.t_of_lam(lam)), 0.7) for n, lam in named.items()}
    rows.append({"out": kind} | {name: f"{a:.2f}, {b:.2f}" for name, (a, b) in pairs.items()})
plots.show_table(rows, title="a, b of x₀ = a xₜ + b out")

# %% [markdown] name="line-seen"
# Read the second number of each pair, $b$: an error of the output reaches $\hat x_0$ multiplied by
# $|b|$. For $\epsilon$ it is $\sigma/\alpha$: harmless on the right, ruinous on the left.
#
# ### The smallest exact case
#
# For a mixture of two Gaussians on a line, what would each kind of network have to learn? Two numbers matter at each noise level:
# - **copying**: the share of the target's variance that is just a multiple of the input $x_t$ (a
#   squared correlation). A network is bad at copying exactly, and a formula does it for free;
# - **price**: how far $\hat x_0$ moves when the output is wrong by its target's own standard
#   deviation: $|b|$ times that, which is simply the standard deviation of $x_0 - a x_t$.

# %% name="copying"
toy = toys.two_class()
mean = toy.weights @ toy.means[:, 0]
sd = (toy.weights @ (toy.covs[:, 0, 0] + toy.means[:, 0] ** 2) - mean**2).sqrt().item()
print(f"standard deviation of the toy {sd:.2f}")

# %% [markdown] name="copying-text"
# The two numbers, from variances alone:


# %% name="copying-and-price"
def copying_and_price(kind: str, alpha, sigma):
    """Squared correlation of x0 - a x_t with the input x_t, and its standard deviation."""
    a, _ = affine(kind, alpha, sigma, sd)
    size = alpha**2 * sd**2 + sigma**2  # variance of x_t
    left = (1 - a * alpha) ** 2 * sd**2 + a**2 * sigma**2  # variance of x0 - a x_t
    return (alpha * sd**2 - a * size) ** 2 / (size * left), left.sqrt()


# %% [markdown] name="copying-figure-text"
# Both numbers for four kinds of output, over all noise levels.

# %% name="copying-figure"
lams = torch.linspace(-4, 4, 81, dtype=torch.float64)
alpha, sigma = vp.alpha_sigma(vp.t_of_lam(lams))
kinds = ("x0", "eps", "v", "edm")
found = {kind: copying_and_price(kind, alpha, sigma) for kind in kinds}
scale = "lambda     noise ... data"
fig, ax = plots.axes(1, 2, size=(4.4, 3.2))
share, price_of = ({k: pair[i] for k, pair in found.items()} for i in (0, 1))
plots.lines(lams, share, ax=ax[0], xlabel=scale, ylabel="share that is copying")
relative = {k: value / price_of["edm"] for k, value in price_of.items()}
plots.lines(lams, relative, ax=ax[1], xlabel=scale, ylabel="price of an error / edm's", log="y")
plots.show(
    fig,
    alt="Two panels over lambda. Left: the share of copying is near 1 for eps at the noisy end and "
    "for x0 at the clean end, small for v, and 0 everywhere for edm. Right: relative to edm "
    "the price of eps grows without bound at the noisy end, that of x0 at the clean end; v stays a little "
    "above 1.",
    caption="Left: how much of the target is a mere multiple of the input. Right: how far x0 moves "
    "when the output is wrong by one standard deviation of its target, beside edm's.",
)

# %% [markdown] name="copying-seen"
# - **eps** has to copy its input at the noisy end, exactly where an error is most expensive.
# - **x0** has to copy at the clean end, and its price stays the same where others pay almost nothing.
# - **v** copies little, and its price stays bounded.
# - **edm** never copies: the network supplies only what no multiple of the input can say. Its price is the lowest at every
#   noise level.

# %% [markdown] name="edm-text"
# ### EDM: three scalings from three wishes
#
# Here $\alpha = 1$. Write the denoiser as $D(x) = c_{\rm skip}\, x + c_{\rm out}\, F(c_{\rm in}\, x)$, with
# $x = x_0 + \sigma \epsilon$ and data of standard deviation $s$ (`sd`) and mean 0. Karras et al. ask:
# 1. **The input has variance 1**: that of $F$, which is $c_{\rm in}\, x$.
# 2. **The target has variance 1**: what $F$ should say, $(x_0 - c_{\rm skip}\, x)/c_{\rm out}$.
# 3. **Errors cost as little as possible**: of all $c_{\rm skip}$ take the one that makes the $c_{\rm out}$ of wish 2 smallest.
#
# ### Exercise 2 (derive): the three scalings
#
# Derive $c_{\rm skip}, c_{\rm out}, c_{\rm in}$ from the wishes, and return them for one noise level.
#
# <details><summary>Hint 1: nudge</summary>
#
# $x_0$ and $\epsilon$ are independent: how do their variances add up in $x$, and how in $x_0 - c_{\rm skip}\, x$?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# Wish 2 says $c_{\rm out}^2 = (1 - c_{\rm skip})^2 s^2 + c_{\rm skip}^2 \sigma^2$. Where does its derivative with respect to
# $c_{\rm skip}$ vanish?
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Solve the vanishing derivative for c_skip: a share of one variance in the sum of both. Put it into hint 2, simplify, and take
# the root. c_in undoes the standard deviation of x.
# </details>


# %% name="my-scalings"
def my_scalings(sigma: float, sd: float):
    """(c_skip, c_out, c_in) of EDM."""
    ### BEGIN SOLUTION
    var = sigma**2 + sd**2
    return sd**2 / var, sigma * sd / var**0.5, 1 / var**0.5
    ### END SOLUTION


# %% name="check-scalings"
check.edm_scalings(my_scalings)

# %% [markdown] name="scan-text"
# Wish 3 by brute force, beside the package's pair:

# %% name="scan" tags=["nbval-check-output"]
s, sigma = 0.7, 0.5
c_skip = torch.linspace(0, 1, 100_001, dtype=torch.float64)
c_out_squared = (1 - c_skip) ** 2 * s**2 + c_skip**2 * sigma**2
best = c_out_squared.argmin()
print(f"smallest c_out {c_out_squared[best] ** 0.5:.4f} at c_skip {c_skip[best]:.4f}")
a, b = affine("edm", 1.0, sigma, s)
print(f"the package's  {b:.4f}           {a:.4f}")

# %% [markdown] name="pair-text"
# A schedule with another $\alpha$ is this one after dividing $x_t$ by $\alpha$. So in general EDM's pair is
#
# $$ a = \frac{\alpha s^2}{\alpha^2 s^2 + \sigma^2}, \qquad
#    b = \frac{\sigma s}{\sqrt{\alpha^2 s^2 + \sigma^2}} . $$
#
# For $s = 1$ and $\alpha^2 + \sigma^2 = 1$ this is $(\alpha, \sigma)$, the pair of $v$ but for a sign: for data of unit size
# **EDM's $F$ is $-v$**.
#
# Do input and target have variance 1? And the loss: EDM weighs the error of $x_0$ by
# $1/c_{\rm out}^2$, which is weight 1 on the network's own output. On 400,000 numbers of standard deviation 0.7:

# %% name="unit" tags=["nbval-check-output"]
gen = generator(3)
y, noise = 0.7 * torch.randn(400_000, generator=gen), torch.randn(400_000, generator=gen)
rows = []
for sigma in (0.01, 0.5, 2.0, 80.0):
    c_skip, c_out = affine("edm", 1.0, sigma, 0.7)
    x = y + sigma * noise
    weight = (sigma**2 + 0.7**2) / (sigma * 0.7) ** 2
    target = (y - c_skip * x) / c_out
    values = x.var() / (0.7**2 + sigma**2), target.var(), weight * c_out**2
    names = ("input", "target", "weight x c_out²")
    rows.append({"σ": sigma} | {n: float(v) for n, v in zip(names, values, strict=True)})
plots.show_table(rows, title="Variances", digits=dict.fromkeys(names, ".1f"))

# %% [markdown] name="unit-seen"
# This is why a zero start costs exactly 1: the target has variance 1. For centred Gaussian data with
# independent pixels of that standard deviation, $c_{\rm skip}\, x$ is already the best answer there is. The `sd` must be that of
# *your* data; with the 0.5 of the EDM paper on our pictures (about 0.7):

# %% name="wrong-sd"
x0, noise = fashion.x[:2000], torch.randn(2000, 1, 28, 28, generator=generator(4))
rows = []
for sigma in (0.05, 0.5, 2.0, 20.0):
    pairs = [affine("edm", 1.0, sigma, sd) for sd in (0.5, fashion.std)]
    sizes = [((x0 - a * (x0 + sigma * noise)) / b).var().item() for a, b in pairs]
    rows.append({"σ": sigma, "with sd = 0.5": sizes[0], "with the data's own": sizes[1]})
digits = {"with sd = 0.5": ".2f", "with the data's own": ".2f"}
plots.show_table(rows, title="The target's variance", digits=digits)

# %% [markdown] name="four-text"
# ### Does it matter? Four networks on a toy
#
# Eight Gaussians on a circle, the same small MLP, the same steps and seeds; what differs is
# the meaning of the output (and, for EDM, that the input is scaled to unit size) and, with it, the weight of each level: each
# is trained with the plain squared error of its own output. The exact denoiser is the judge.

# %% name="four"
ring, exact = toys.dataset("ring"), toys.load_toy("ring").denoiser(vp)
own = {"x0": "x0", "eps": "simple", "v": "edm", "edm": "edm"}  # weight 1 on the own output
seeds, taught = lessons.pick(smoke=1, live=2, full=3), {}
for kind, name in own.items():
    toy_recipe = Recipe(
        "toy", "four meanings of the output", net={"name": "mlp"}, schedule={"name": "linear"},
        kind=kind, sd=None if kind == "edm" else 1.0, lam_range=(-4.0, 4.0),
        weighting={"name": name}, times={"law": "uniform"}, conditional=False, batch=256,
        lr=3e-3, ema=0.99, steps=lessons.pick(smoke=10, live=400, full=4000),
    )  # fmt: skip
    for seed in range(seeds):
        for progress in train(toy_recipe.but(seed=seed), data=ring):
            taught[kind, seed] = progress.model

# %% [markdown] name="four-error-text"
# The error of each, with 2,000 points at each of nine levels:

# %% name="four-error"
levels = [float(lam) for lam in range(-4, 5)]
error = {key: [] for key in taught}
for i, lam in enumerate(levels):
    t = torch.full((2000,), vp.t_of_lam(lam), dtype=torch.float64)
    noise = torch.randn(2000, 2, generator=generator(6, i))
    x_t = noised(ring.x[:2000], noise, vp, t)
    for key, net in taught.items():
        with torch.no_grad():
            gap = net(x_t.to(device()), t.to(device())).x0.cpu() - exact(x_t, t).x0
        error[key].append(gap.square().mean().sqrt().item())
ends = {f"λ = {levels[i]:+.0f}": i for i in (0, 1, 7, 8)}
rows = [
    {"out": kind, "seed": seed} | {name: values[i] for name, i in ends.items()}
    for (kind, seed), values in error.items()
]
plots.show_table(rows, title="Error of x₀ (root mean square)", digits=dict.fromkeys(ends, ".3f"))

# %% [markdown] name="four-figure-text"
# The mean over the seeds, at all nine levels:

# %% name="four-figure"
means = {k: torch.tensor([error[k, seed] for seed in range(seeds)]).mean(0) for k in own}
fig, ax = plots.axes(size=(6.0, 3.4))
plots.lines(levels, means, ax=ax, log="y", xlabel=scale, ylabel="error of x0 (rms)")
plots.show(
    fig,
    alt="Error of x0 over lambda for four networks, on a log scale. eps is far above the others at "
    "the noisy end, x0 far above the others at the clean end, v and edm are low at both ends.",
    caption="Distance from the exact denoiser after the same short training, the output read as x0, "
    "eps, v or EDM's F (mean over seeds).",
)

# %% [markdown] name="four-seen"
# As the two panels above predicted, $\epsilon$ fails at the noisy end and $x_0$ at
# the clean end, each by a wide margin and in every seed (mind the log scale). Between $v$ and EDM the table decides
# nothing: where the two differ, so do the two seeds of one of them. (In the figure EDM lies a little lower between its ends; the seeds
# are not shown there, and its input is scaled as well, so no cause can be named.)

# %% [markdown] name="ddpm-text"
# ## DDPM's objective, and all others as one table
#
# The survey's eq. 7 is DDPM's *simple* loss, $E\,|\epsilon - \hat\epsilon(x_t, t)|^2$ with $t$
# uniform on the 1000 steps. Whatever the network's output means, it can be read as
# $\hat\epsilon$. The cell does one step's loss by hand and compares it with the package's, for four networks with random weights.

# %% name="simple" tags=["nbval-check-output"]
linear = schedules.linear(1000)
gen = generator(1)
x0, t = fashion.x[:16], draw_times(linear, 16, gen, law="grid")
eps = torch.randn(x0.shape, generator=gen)
x_t = noised(x0, eps, linear, t)
for kind in kinds:
    net = build(recipe.but(kind=kind, schedule=linear.spec(), lam_range=None), fashion).eval()
    net.net.last.reset_parameters()
    with torch.no_grad():
        by_hand = (eps - net(x_t, t).eps).square().mean()
        ours = DiffusionLoss(net, Weighting("simple"))(x0, t, eps).mean()
    print(kind, "agrees:", bool((by_hand / ours - 1).abs() < 1e-3))

# %% [markdown] name="simple-seen"
# So every loss of this family is **one** loss,
#
# $$ L = E_{t,\epsilon}\; w_{x_0}(t)\, |x_0 - \hat x_0|^2, $$
#
# and only the weight differs. Since $x_0 = a x_t + b\,\mathrm{out}$, the same error measured on the
# output is $|b|$ times smaller, so a weight in one unit becomes a weight in another:
#
# $$ w_{\rm out} = b^2\, w_{x_0}: \qquad w_\epsilon = w_{x_0}/\mathrm{SNR}, \qquad
#    w_v = \sigma^2\, w_{x_0} \ \text{(for } \alpha^2 + \sigma^2 = 1). $$
#
# | weighting | weight on $x_0$ | weight on $\epsilon$ | who |
# |---|---|---|---|
# | simple | SNR | 1 | Ho et al. 2020 |
# | P2 | SNR $/(k + \mathrm{SNR})^\gamma$ | $1/(k + \mathrm{SNR})^\gamma$ | Choi et al. 2022 |
# | min-SNR | min(SNR, 5) | min(1, 5/SNR) | Hang et al. 2023 |
# | EDM | $1/s^2 + \mathrm{SNR}$ | $1 + 1/(s^2\,\mathrm{SNR})$ | Karras et al. 2022 |
#
# In numbers, at five of DDPM's thousand steps:

# %% name="weights-table" tags=["nbval-check-output"]
weightings = {
    "simple": Weighting("simple"), "P2 (1, 1)": Weighting("p2", {"k": 1, "gamma": 1}),
    "min-SNR 5": Weighting("min-snr"), "EDM": Weighting("edm", {"sd": 0.7}),
}  # fmt: skip
steps = torch.tensor([1, 100, 250, 500, 1000])
heads = [f"step {i}" for i in steps.tolist()]


def numbers(values: torch.Tensor) -> dict:
    return dict(zip(heads, (f"{v:.2g}" for v in values.tolist()), strict=True))


rows = [{"weight on": "", "of": "SNR"} | numbers(linear.snr(steps / 1000))]
for unit in ("eps", "x0", "v"):
    for name, weighting in weightings.items():
        values = weighting.on(unit, linear, steps / 1000)
        rows.append({"weight on": unit, "of": name} | numbers(values))
plots.show_table(rows)

# %% [markdown] name="weights-seen"
# Follow one column. At step 1 the SNR is near 10,000: in units of $x_0$ the simple loss cares
# enormously, yet in units of $\epsilon$ its weight is 1 like anywhere else. "The weight" without its unit says nothing.
#
# ## P2 and its neighbours: which noise levels matter
#
# P2 (*perception-prioritised*, row 29 of the survey) starts from our three regimes: at little noise a network only cleans up
# what nobody would see, and effort spent there is
# missing where the content is decided. So it divides the weight on $\epsilon$ by $(k + \mathrm{SNR})^\gamma$.
# For $k = \gamma = 1$ this is an old friend:

# %% name="p2-identity" tags=["nbval-check-output"]
t = torch.arange(1, 1001) / 1000
p2 = Weighting("p2", {"k": 1.0, "gamma": 1.0})
difference = p2.on("eps", linear, t) - (1 - linear.alpha(t) ** 2)
print("weight on eps equals 1 - abar at all 1000 steps:", bool(difference.abs().max() < 1e-12))

# %% [markdown] name="derive-text"
# ### Exercise 3 (derive): P2 for a network that predicts v
#
# P2's weight on the squared error of $\epsilon$ is $1/(k + \mathrm{SNR})^\gamma$. Derive the weight
# on the squared error of $v$ that gives the same loss, for a variance-preserving schedule. `alpha`
# and `sigma` are tensors.
#
# <details><summary>Hint 1: nudge</summary>
#
# By how much is $\epsilon$ wrong if $v$ is wrong by 1? At fixed $x_t$ both are linear in $x_0$.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $|d\epsilon|^2 = \mathrm{SNR}\,|dx_0|^2$ and $|dx_0|^2 = \sigma^2 |dv|^2$, with
# $\mathrm{SNR} = \alpha^2/\sigma^2$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# take P2's own weight at the SNR of alpha and sigma, and multiply it by the two factors that turn an error of v into one
# of eps
# </details>


# %% name="my-p2"
def my_p2_on_v(alpha, sigma, k: float, gamma: float):
    """P2's weight on |v - v_hat|^2."""
    ### BEGIN SOLUTION
    snr = (alpha / sigma) ** 2
    return alpha**2 / (k + snr) ** gamma
    ### END SOLUTION


# %% name="check-p2" points=2
check.p2_on_v(my_p2_on_v)

# %% [markdown] name="effort-text"
# How often a level is practised counts as much as its weight: the effort at $\lambda$ is the weight
# times the density with which training draws that $\lambda$. Here it is in units of $\epsilon$, each curve with area 1 (compare
# shapes, not heights). The first three draw $t$ uniformly; EDM draws $\ln\sigma$ from a normal law.

# %% name="effort"
lams = torch.linspace(-5, 6, 221, dtype=torch.float64)
t = vp.t_of_lam(lams)
drawn = -torch.gradient(t, spacing=(lams,))[0]  # density of lambda for uniform t
normal = torch.exp(-0.5 * ((lams - 0.6) / 1.2) ** 2)  # EDM's, as in the recipe
curves = {}
for name, weighting in weightings.items():
    effort = weighting.on("eps", vp, t) * (normal if name == "EDM" else drawn)
    curves[name] = effort / torch.trapezoid(effort, lams)
fig, ax = plots.axes(size=(6.4, 3.4))
plots.lines(lams, curves, ax=ax, xlabel=scale, ylabel="effort (area 1)")
plots.show(
    fig,
    alt="Four curves of effort over lambda. Simple reaches furthest to the clean side; P2 and "
    "min-SNR drop earlier there; EDM's peak lies nearest to the noisy end.",
    caption="Weight times density of each noise level, in units of eps: what a training works on.",
)

# %% [markdown] name="effort-seen"
# The simple loss keeps working far on the clean side; P2 and min-SNR leave that side: both
# fall as 1/SNR far out, P2 from about an SNR of 1 on, min-SNR from 5. EDM's curve leans to the noisy end, because an error of $\epsilon$ is an expensive
# error of $x_0$ there. In units of its own output its effort is the normal law itself, centred on
# $\sigma = e^{-0.6}$, our choice (Karras et al. take $e^{-1.2}$).
#
# ### A weight matters only when something is scarce
#
# If the network could give each noise level its own best answer, no weight would matter. It matters when levels
# **share** parameters or training time. The smallest case: Gaussian data, and a single number, $\hat\epsilon = k x_t$, for two
# levels. The best own $k$ of a level is $\sigma$; the weight decides on the compromise.

# %% name="scarce"
t = vp.t_of_lam(torch.tensor([-2.0, 2.0], dtype=torch.float64))
sigma = vp.sigma(t)
shared = []
for name, weighting in weightings.items():
    w = weighting.on("eps", vp, t)
    k = (w * sigma).sum() / w.sum()  # least squares: E[x eps] = sigma, E[x^2] = 1
    excess = {"excess, noisy": (k - sigma[0]) ** 2, "excess, clean": (k - sigma[1]) ** 2}
    shared.append({"weight": name, "shared k": k.item()} | {n: v.item() for n, v in excess.items()})

# %% [markdown] name="scarce-table-text"
# For each weight the shared number, and what it costs at either level beyond the best own $k$:

# %% name="scarce-table" tags=["nbval-check-output"]
digits = {"shared k": ".3f", "excess, noisy": ".4f", "excess, clean": ".4f"}
plots.show_table(shared, digits=digits)
print("with one k for each level: k = sigma whatever the weight, excess error 0")

# %% [markdown] name="scarce-seen"
# P2 and min-SNR give the shared number to the noisy level and let the clean one suffer; the simple
# loss splits the difference. So the claim to test is about *small* networks and *short* trainings.
#
# ### Measured: four weights, one small network
#
# `benchmarks/weighting.py` trains a U-Net of under 100,000 parameters on Fashion-MNIST without
# classes, with each of the four weights and two seeds; all else is equal. We read its result.

# %% name="measured"
bench = json.loads(store.path("measured/weighting.json").read_text())
print("measured by", bench["command"])

# %% [markdown] name="measured-table-text"
# The distance of its pictures, seed by seed:

# %% name="measured-table"
rows = [
    {"weight": name, "mean": fmean(run["fd"])} | {f"seed {i}": fd for i, fd in enumerate(run["fd"])}
    for name, run in bench["runs"].items()
]
title = (
    "FD / A, N = {pictures}; real pictures {floor:.2f}; {steps} steps, {parameters:,} parameters"
)
digits = {name: ".2f" for name in rows[0] if name != "weight"}
plots.show_table(rows, title=title.format_map(bench), digits=digits)

# %% [markdown] name="measured-figure-text"
# The distances seed by seed, and what each weight did to the error at each noise level, relative to
# the simple loss.

# %% name="measured-figure"
fig, ax = plots.axes(1, 2, size=(4.6, 3.3))
names = list(bench["runs"])
for i, name in enumerate(names):
    found = bench["runs"][name]["fd"]
    ax[0].plot([i] * len(found), found, linestyle="", marker="o", color=plots.COLOURS[i])
ax[0].axhline(bench["floor"], color="black", linestyle=":", marker="")
ax[0].set(ylabel="Fréchet distance (A)", xticks=range(len(names)), ylim=(0, None))
ax[0].set_xticklabels([n.replace(" ", "\n", 1) for n in names])
base = torch.tensor(bench["runs"]["simple"]["error"])
relative = {n: torch.tensor(bench["runs"][n]["error"]) / base for n in names}
plots.lines(bench["lambda"], relative, ax=ax[1], xlabel=scale, ylabel="error of x0 / simple's")
plots.show(
    fig,
    alt="Left: a column of dots for each of four weightings. Right: four curves of the error "
    "of x0 relative to the simple loss over lambda.",
    caption=f"Four weights, a dot for each seed, all else equal. Left: FD of {bench['pictures']:,} "
    "samples, lower is better; dotted: real pictures. Right: error of x0 by noise level.",
)

# %% [markdown] name="measured-seen"
# Both seeds of P2 and both of min-SNR lie below both of the simple loss. Their $x_0$ is better where the
# content is decided ($\lambda \le 0$) and clearly worse on the clean side. EDM's weight with
# $t$ drawn uniformly is the worst of the four; it was made for another law of noise
# levels, and whether that law would repair it was not run here.
#
# Two against two would fall into this order by chance once in six times: it
# "agrees with the claim" for one small network, data set and budget, and is no proof.

# %% [markdown] name="half-way"
# ---
#
# **Half-way.** You know what the network is, what it may be asked, and how its errors are weighed. A good place for a break.
#
# ---

# %% [markdown] name="ema-text"
# ## The average that you sample from: EMA
#
# Each batch pulls the weights its own way. Sampling from an exponential moving average of the weights,
#
# $$ \bar w \leftarrow d\, \bar w + (1 - d)\, w, $$
#
# removes that jitter almost for free. A weight that is $m$ updates old has the share
# $(1 - d)\, d^m$: half of it is forgotten after $\ln 2 / (-\ln d)$ updates. And the **start**, untrained
# noise, still has the share $d^n$. For a training of 600 steps:

# %% name="half-life" tags=["nbval-check-output"]
rows = []
for d in (0.9, 0.99, 0.999, 0.9999):
    life = torch.tensor(0.5).log() / torch.tensor(d, dtype=torch.float64).log()
    rows.append(
        {"d": d, "half-life (updates)": life.item(), "share of the start after 600": d**600}
    )
plots.show_table(rows, digits={"half-life (updates)": ".1f", "share of the start after 600": ".3f"})

# %% [markdown] name="half-life-seen"
# DDPM's 0.9999 is right for hundreds of thousands of steps. In a training of 600 it returns a network that
# is more than nine tenths random. The usual repair is a warm-up,
# $d_n = \min(d, \frac{1+n}{10+n})$: short memory at first, long memory later ($d = 0.999$ is reached after about 9,000 steps). Of
# the start the share $\prod_n d_n$ is left, which is nothing after a few updates: the first factor is 1/10. On a weight that jitters:

# %% name="jitter"
n = torch.arange(600)
w = 1 - torch.exp(-n / 120) + 0.25 * torch.randn(600, generator=generator(5))
curves = {"weight": w}
for d in (0.9, 0.99, 0.9999, "warm-up"):
    mean, path = -1.0, []
    for k, value in enumerate(w.tolist()):
        now = (1 + k) / (10 + k) if d == "warm-up" else d
        mean = now * mean + (1 - now) * value
        path.append(mean)
    curves[str(d)] = path
fig, ax = plots.axes(size=(6.4, 3.4))
ax.plot(n, curves.pop("weight"), color="0.8", marker="", label="weight")
plots.lines(n, curves, ax=ax, xlabel="update", ylabel="value")
ax.set_ylim(-1.2, 2.6)
ax.legend(ncols=3, loc="upper left")
plots.show(
    fig,
    alt="A noisy grey curve rises from 0 to 1. The average with d = 0.9 follows closely and still "
    "jitters, 0.99 is smooth and late, 0.9999 stays near the start at -1, the warm-up follows soon "
    "and becomes smooth.",
    caption="A jittering weight that should go to 1, and four averages of it that all start at -1.",
)

# %% [markdown] name="jitter-seen"
# 0.9999 never leaves its start; 0.9 leaves at once and keeps the jitter; the warm-up leaves at once and is smooth at the end.

# %% [markdown] name="train-text"
# ## Ten lines of training
#
# One step of training is: take pictures, draw a noise level for each, add the
# noise, ask the network, take the weighted squared error, step, average.
#
# ### Exercise 4 (write it): the training loop
#
# You get
# - `model` and `average`, two copies of one network; `model(x_t, t).x0` is its guess of the clean pictures,
# - `optimiser`, which holds the weights of `model`, and `pictures` of shape (N, 1, H, W),
# - `draw(n)`, which draws noise levels for n pictures: `t, alpha, sigma, weight`, each of shape (n,).
#
# Make `steps` steps, each with 32 random pictures out of all. The loss is the mean over pictures and pixels of the weight times
# the squared error of $x_0$. After step number $n = 0, 1, 2, \dots$ move every weight of `average` towards that of `model`, with
# $d = \min(0.99, \frac{1+n}{10+n})$. Return the list of losses, as floats.
#
# <details><summary>Hint 1: nudge</summary>
#
# Broadcasting lines shapes up from the right: what must `alpha` of shape (32,) become to meet (32, 1, H, W)? And what
# does PyTorch do with the gradients of the step before if nobody takes them away?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $x_t = \alpha x_0 + \sigma \epsilon$ with fresh $\epsilon$; $L = \mathrm{mean}\; w\, (\hat x_0 - x_0)^2$;
# $\bar w \leftarrow d\, \bar w + (1 - d)\, w$ for each pair of parameters.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# For each step: 32 random places of pictures; draw the levels and give each three axes of length 1; make noise like the pictures
# and add it; the loss; zero the gradients, backward, step. Then, without gradients, go through the parameters of average and
# model together and move each (`lerp_`). Keep the loss as a number (`.item()`).
# </details>


# %% name="my-training"
def my_training(model, average, optimiser, pictures, draw, steps: int) -> list:
    """The losses of so many steps of training; model and average are changed in place."""
    ### BEGIN SOLUTION
    losses = []
    for n in range(steps):
        x0 = pictures[torch.randint(len(pictures), (32,))]
        t, alpha, sigma, weight = draw(32)
        alpha, sigma, weight = (c[:, None, None, None] for c in (alpha, sigma, weight))
        x_t = alpha * x0 + sigma * torch.randn_like(x0)
        loss = (weight * (model(x_t, t).x0 - x0).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        d = min(0.99, (1 + n) / (10 + n))
        with torch.no_grad():
            for a, w in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(w, 1 - d)
        losses.append(loss.item())
    return losses
    ### END SOLUTION


# %% name="check-training" points=3
check.training_loop(my_training)

# %% [markdown] name="first-text"
# Now with a real network: a narrow one, without classes, so that it is quick. (Until the check says *right*, the package trains it.)

# %% name="first-training"
narrow = recipes.get("fashion-1min").but(
    net={"name": "unet", "widths": (16, 32), "emb": 64}, conditional=False,
    steps=lessons.pick(smoke=4, live=150),
)  # fmt: skip
pupil = build(narrow, fashion)
average = copy.deepcopy(pupil)
gen = generator(12)


def draw(n: int):
    """Times of n pictures, with alpha, sigma and EDM's weight on x0 there: each (n,)."""
    t = draw_times(pupil.schedule, n, gen, lam_range=pupil.lam_range, **narrow.times)
    weight = Weighting("edm", {"sd": pupil.sd}).on("x0", pupil.schedule, t)
    return t, *(c.float() for c in (*pupil.schedule.alpha_sigma(t), weight))


own_loop = check.training_loop.last == "right"
if own_loop:
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(pupil.parameters(), lr=narrow.lr)
    losses = my_training(pupil, average, optimiser, fashion.x, draw, narrow.steps)
    first_losses = dict(enumerate(losses, 1))
else:
    progress = list(train(narrow, data=fashion, report_every=10))
    average, first_losses = progress[-1].model, {p.step: p.loss for p in progress}

# %% [markdown] name="first-figure-text"
# The losses, and what the average draws after so short a time:

# %% name="first-figure"
made = generate(average, 10, seed=3, **{k: v for k, v in narrow.sampler.items() if k != "scale"}).x
whose = "your loop" if own_loop else "the package's loop"
plots.show(
    plots.training(list(first_losses), list(first_losses.values()), made, title=whose),
    alt="Left: the loss along the way, noisy and falling. Right: ten generated pictures, grainy "
    "blobs, some in the outline of a garment.",
    caption=f"{narrow.steps} steps of {whose}: the loss, and ten pictures drawn by the average.",
)

# %% [markdown] name="first-seen"
# ## Training, live
#
# A few seconds give grainy blobs in the right places. Four times the steps, and twice the width, give clothes.
# The package's `train` is your loop with labels, a falling learning rate, and states from which a killed training goes on.

# %% [markdown] name="recipe-text"
# The recipe for a minute; network, kind, weighting, times and average were sections of this lesson.

# %% name="recipe"
minute = recipes.get("fashion-1min").but(steps=lessons.pick(smoke=12, live=600, full=1000))
notes = {
    "net": "the U-Net above", "kind": "what its output means", "weighting": "of the loss",
    "times": "the law of noise levels", "null": "share of labels that are dropped",
    "batch": "pictures a step", "steps": "of the optimiser", "lr": "learning rate",
    "decay": "share of the steps before the learning rate begins to fall",
    "ema": "d of the average of the weights, after its warm-up",
}  # fmt: skip
rows = []
for entry, note in notes.items():
    value = getattr(minute, entry)
    words = " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
    rows.append({"entry": entry, "value": words, "what it is": note})
plots.show_table(rows)

# %% [markdown] name="live-text"
# `train` is a generator: now and then it hands us the averaged model. We look at the loss, and at twenty pictures
# drawn with 8 steps of a fast sampler (lesson 07) and guidance 2, two of each class.

# %% name="live"
twenty = torch.arange(20) % 10
view = plots.Live(
    alt="Left: the training loss, falling fast at first and slowly later. Right: twenty generated "
    "pictures, two of each of the ten classes of clothes.",
    caption="The training as it stood at its end: loss (left), and pictures drawn by the averaged "
    "weights (right), the ten classes in columns.",
)
steps, losses, seen_at = [], [], {}
for p in train(minute, data=fashion, report_every=lessons.pick(smoke=6, live=50)):
    steps.append(p.step)
    losses.append(p.loss)
    pictures = generate(p.model, 20, label=twenty, seed=1, **minute.sampler).x
    seen_at[p.step] = pictures[:10]
    title = f"step {p.step} of {p.steps}, {p.cpu_seconds:.0f} core-seconds"
    view.draw(plots.training(steps, losses, pictures, title=title, heads=fashion.classes))
view.close()
live, live_seconds = p.model, p.cpu_seconds

# %% [markdown] name="live-seen"
# The loss falls fast (from about 1.1, as computed above, before the first point that is drawn), then slowly: the learning rate goes
# down over the second half, and a part of what is left no network can predict. The same ten noises, four moments:

# %% name="moments"
keys = list(seen_at)
shown = sorted({keys[round(q * (len(keys) - 1))] for q in (0.0, 0.18, 0.45, 1.0)})
plots.show(
    plots.strip(
        [seen_at[k] for k in shown],
        titles=fashion.classes,
        labels=[f"step {k}" for k in shown],
    ),
    alt="Rows of ten generated garments, one row for each of some moments of the training, from "
    "noise and blurred shapes at the top to clearer garments at the bottom.",
    caption="From top to bottom: the averaged weights at some steps of the training, the same noise "
    "in each row.",
)

# %% [markdown] name="moments-seen"
# The outline is there early; edges and surfaces come later, and are not finished after a minute. What the training consumed:

# %% name="consumed"
seen = minute.steps * minute.batch
print(f"pictures seen     {seen:,} ({seen / len(fashion):.1f} times the data)")
print(f"core-seconds      {live_seconds:.0f}")
print(f"TFLOP, about      {3 * total * seen / 1e12:.1f}   (backward counted as twice forward)")

# %% [markdown] name="longer-text"
# ## The same, for longer
#
# The course ships this network, with another last part (*The price of folding*, below) and trained for longer. `load_or_train` says which branch it took,
# which weights these are and what they cost.

# %% name="longer"
shipped = load_or_train("fashion", fresh=lessons.level() == "full")

# %% [markdown] name="side-text"
# One picture of each class from the same noise: our minute and the long training, without guidance (scale 1) and with
# scale 2. Guidance moves the answer away from what the network says without the class (lesson 14).

# %% name="side"
ten = torch.arange(10)
rows, labels = [], []
for name, net in (("ours", live), ("shipped", shipped)):
    for guidance in (1.0, 2.0):
        settings = minute.sampler | {"scale": guidance}
        rows.append(generate(net, 10, label=ten, seed=4, **settings).x)
        labels.append(f"{name}, {guidance:g}")
plots.show(
    plots.strip(rows, titles=fashion.classes, labels=labels),
    alt="Four rows of ten generated garments, one column for each class: our short training and the "
    "shipped long one, each without and with guidance.",
    caption="Rows: the live network and the shipped one, guidance scale 1 and 2. Columns: classes. "
    "The noise is the same in a column.",
)

# %% [markdown] name="side-seen"
# A minute is enough for shapes. The long training adds clean edges, straps and soles, and breaks fewer
# pictures; guidance helps both.
#
# ### The price of folding
#
# Does the fold show? Take pictures apart into waves: the mean power of each frequency. Three waves have period two and
# are made of differences *inside* a folded block: (14, 14), a checkerboard, (14, 0) and (0, 14), stripes. The others are for
# comparison.


# %% name="price-of-folding"
def power(x: torch.Tensor) -> torch.Tensor:
    """Mean power of each frequency, (28, 28)."""
    return torch.fft.fft2(x.clamp(-1, 1).double()).abs().square().mean((0, 1))


asked = torch.arange(lessons.pick(smoke=20, live=200)) % 10
drawn = generate(live, len(asked), label=asked, seed=6, **minute.sampler).x
of_model, of_real, rows = power(drawn), power(fashion.x), []
for wave in ((14, 14), (14, 0), (0, 14), (13, 13), (7, 7)):
    both = {"ours": of_model[wave].item(), "real": of_real[wave].item()}
    rows.append({"wave": str(wave)} | both | {"ratio": both["ours"] / both["real"]})
plots.show_table(
    rows,
    title=f"Power of {len(asked)} pictures of our network, and of real ones",
    digits={"ours": ".1f", "real": ".1f", "ratio": ".1f"},
)

# %% [markdown] name="check-figure-text"
# To see it, take away from each pixel the mean of its 3 x 3 neighbours, and raise the contrast of the rest, in the middle of
# eight even dark garments, drawn and real.


# %% name="check-figure"
def darkest(x: torch.Tensor) -> list[torch.Tensor]:
    """The eight dark garments with the most even middle, and their fine structure."""
    x = x.clamp(-1, 1)
    middle = x[:, :, 9:19, 9:19]
    dark = (middle.mean((1, 2, 3)) + 0.55).abs() < 0.35
    x = x[(middle.std((1, 2, 3)) + 10 * ~dark).argsort()[:8]]
    fine = 4 * (x - torch.nn.functional.avg_pool2d(x, 3, 1, 1))
    return [x[:, :, 8:20, 8:20], fine[:, :, 8:20, 8:20]]


rows = darkest(drawn) + darkest(test.x[: len(asked)])
words = ["ours", "fine structure", "real", "fine structure"]
plots.show(
    plots.strip(rows, labels=words, size=1.0),
    alt="Four rows of eight enlarged middles of dark garments. The fine structure of the drawn ones "
    "changes from pixel to pixel in their plain parts; that of the real ones is mostly smooth there.",
    caption="The middle of dark garments, and what is left without the mean of each pixel's 3 x 3 "
    "neighbours, contrast raised: drawn by our network, and real.",
)

# %% [markdown] name="check-seen"
# Look at the plain parts: the drawn garments are restless from pixel to pixel where the real ones are more even. Part of that is
# the short training; which part is the fold's, the table below says. A likely reason, not tested apart: each of the four
# pixels of a block is a channel of its own, with an error of its own, and a wrong *mean* of a channel, which on a plain map would be
# a slight change of brightness, becomes a check over the whole picture; nothing after the unfolding smooths over it.
#
# That suggests a cure (`nets.unet.Fine`): unfold nothing. Repeat the coarse features to full size, put the noisy picture beside
# them, and let narrow convolutions at full size make the answer. The same recipe and number of steps for three networks
# (`benchmarks/folding.py`): folded, folded with this *fine* answer, and not folded at all.

# %% name="fold-control"
control = json.loads(store.path("measured/folding.json").read_text())
rows = []
for one in sorted(control["rows"], key=lambda row: -row["mflop"]):
    waves = {
        f"({i}, {j})": f"{r:.2f} ± {e:.2f}"
        for (i, j), r, e in zip(control["waves"][:3], one["ratio"], one["error"], strict=False)
    }
    rows.append({"network": one["net"], "seed": one["seed"]} | waves | {
        "loss": one["loss"], "FD / A": f"{one['fd']:.2f} ± {one['fd_error']:.2f}",
        "MFLOP": one["mflop"], "core-s": round(one["core_seconds"]),
    })  # fmt: skip
title = (
    "Power / power of real pictures; N = {pictures}, {steps} steps; real pictures FD {floor:.2f}"
)
told = {"loss": ".3f", "MFLOP": ".0f"}
plots.show_table(rows, title=title.format_map(control), digits=told)

# %% [markdown] name="fold-control-seen"
# (14, 14) is the fold's own: far above 1 in the plainly folded network and near 1 in the one that is not folded, for both seeds.
# (A wave that stands out with and without the fold is not its fault.) After these few steps the fine answer has a part of it
# left, a lower loss than the plain fold and a *larger* FD: a loss does not tell which pictures are nearer. The ± is of
# pictures, not of trainings, and two seeds say little of small differences. What counts is the end of a long training: the shipped
# network has the fine answer.

# %% name="shipped-waves"
long = generate(shipped, len(asked), label=asked, seed=6, **minute.sampler).x
of_shipped = power(long)
ratios = {
    str(wave): (of_shipped[wave] / of_real[wave]).item() for wave in ((14, 14), (14, 0), (0, 14))
}
row = {"network": "shipped"} | ratios
plots.show_table(
    [row],
    title=f"Power / power of real pictures, N = {len(asked)}",
    digits=dict.fromkeys(ratios, ".2f"),
)

# %% [markdown] name="loss-again-text"
# Compare (14, 14) with our own network's above; the two differ in the answer *and* in the length of training.
#
# ### The loss, once more
#
# Can the loss tell the two networks apart? The same 500 test pictures, noise and levels for both:

# %% name="same-loss"
gen = generator(8)
held_out, of = test.x[:500].to(device()), test.labels[:500].to(device())
t = draw_times(edm, 500, gen, lam_range=live.lam_range, **recipe.times).to(device())
eps = torch.randn(held_out.shape, generator=gen).to(device())
for name, net in (("ours", live), ("shipped", shipped)):
    with torch.no_grad():
        loss = DiffusionLoss(net, Weighting("edm", {"sd": net.sd}))
        print(f"{name}: loss on test pictures {loss(held_out, t, eps, label=of).mean():.3f}")

# %% [markdown] name="same-loss-seen"
# Yes: the long training is clearly lower. But the loss is an average over all noise levels, with a part
# that no network can remove, and it does not say which pictures are broken.
#
# ### How good, in a number
#
# The Fréchet distance compares means and covariances of features between drawn and real pictures (lesson 04). We print it
# in units of **A: the distance of real pictures with noise of standard deviation 0.1 added**, one number for the whole
# course, and next to its floor: real pictures, as many of each class as we draw. Small N makes
# all values too high, the floor too.

# %% name="how-good"
N = lessons.pick(smoke=40, live=400, full=5000)
A = metrics.anchor().value
many = torch.arange(N) % 10


def score(net, guidance: float):
    """Fréchet distance in units of A, and the cost of drawing N pictures."""
    settings = minute.sampler | {"scale": guidance, "label": many, "seed": 2}
    result, cost = metrics.measure(net, lambda: generate(net, N, **settings), pictures=N)
    return metrics.fd(result.x) / A, cost


floor, scatter = metrics.real_floor(N)
scores = {}
for name, net in (("ours", live), ("shipped", shipped)):
    for guidance in (1.0, 2.0):
        scores[name, guidance] = score(net, guidance)
rows = [{"network": n, "scale": g, "FD / A": value} for (n, g), (value, _) in scores.items()]
real = f"real pictures {floor / A:.2f} ± {scatter / A:.2f} from draw to draw"
plots.show_table(rows, title=f"N = {N}, A = {A:.2f}; {real}", digits={"FD / A": ".2f"})

# %% [markdown] name="time-text"
# ### Seconds to a given distance
#
# How long must one core train until the pictures are so good? `diffusion-lab bench quality` trains this recipe for budgets of
# core-seconds, measures 5,000 pictures of each, and holds them against goals set beforehand. The shortest budget has three
# seeds, the longer ones one run each.

# %% name="time"
groups = {}
for row in quality.stored():
    budget, way = row.case.split(", ")[:2]
    groups.setdefault(way, {}).setdefault(budget, []).append(row)


def mean_of(rows: list) -> tuple[float, float]:
    """Core-seconds and FD in units of A, each the mean over the seeds."""
    return fmean(row.details["core-s"] for row in rows), fmean(row.value for row in rows)


paths = {way: sorted(map(mean_of, groups[way].values())) for way in ("guided", "conditional")}
rows = [
    {"way": way, "runs": len(own)} | dict(zip(("core-s", "FD / A"), mean_of(own), strict=True))
    for way in paths
    for own in groups[way].values()
]
plots.show_table(rows, title="FD of 5,000 pictures", digits={"core-s": ".0f", "FD / A": ".2f"})
for way, path in paths.items():
    for (s1, fd1), (s2, fd2) in pairwise(path):
        if fd1 > 1 >= fd2:  # straight between two points, both scales logarithmic
            at = math.exp(math.log(s1) + math.log(s2 / s1) * math.log(fd1) / math.log(fd1 / fd2))
            print(f"{way}: 1 A after about {at:.0f} core-seconds")

# %% [markdown] name="time-figure-text"
# The same with the goals, every seed, your training, and the values that were recorded with the shipped
# model.

# %% name="time-figure"
fig, ax = plots.axes(size=(6.6, 4.0))
recorded = checkpoints.info("fashion")
for colour, (way, metric, guidance) in zip(
    plots.COLOURS, (("guided", "guided", 2.0), ("conditional", "unguided", 1.0)), strict=False
):
    rows = [row for group in groups[way].values() for row in group]
    goals = sorted({(float(row.case.split()[0]), row.goal) for row in rows})
    ax.plot(*zip(*paths[way]), color=colour, marker="", label=way)
    ax.plot([r.details["core-s"] for r in rows], [r.value for r in rows], "o", color=colour)
    ax.plot(*zip(*goals), "_", color=colour, markersize=18, label=f"goals, {way}")
    ax.plot(live_seconds, scores["ours", guidance][0], "*", color=colour, markersize=13)
    of_shipped = recorded["metrics"][metric]["fd"] / A
    ax.plot(recorded["cpu_seconds"], of_shipped, "D", color=colour)
real_5000 = metrics.real_floor(5000, draws=2)[0] / A
ax.axhline(real_5000, color="black", linestyle=":", marker="", label="real pictures")
ax.set(xscale="log", yscale="log", xlabel="core-seconds of training", ylabel="FD in units of A")
ax.set_yticks([0.01, 0.1, 0.3, 1, 3], ["0.01", "0.1", "0.3", "1", "3"])
ax.legend()
plots.show(
    fig,
    alt="Fréchet distance over core-seconds of training, both logarithmic. Two falling lines, with "
    "guidance below without; both stay below the dashes of their goals.",
    caption=f"Dots: runs at 5,000 pictures (three, then one a budget); dashes: goals; stars: your "
    f"training, at {N} pictures; diamonds: the shipped model as recorded; dotted: real pictures.",
)

# %% [markdown] name="time-seen"
# Both lines flatten: a doubling of the time divides the distance by less in the second stretch than in the first.
# With guidance the distance is lower everywhere. The longer
# budgets are one run each: read only the direction. The stars, from fewer pictures, are a little too high.

# %% [markdown] name="peers-text"
# ### The network or the recipe?
#
# What earns more here: the network, or everything around it? `diffusion-lab bench peers` trains other libraries as their own
# published examples do, without classes, for the same CPU seconds on one thread, and crosses the two: our recipe with the
# U-Net of diffusers, the recipe of diffusers with our U-Net. Which of the two crossed rows will be better?

# %% name="peers"
peers = json.loads(store.path("measured/peers.json").read_text())
contestants = [
    {"contestant": name, "FD / A": ", ".join(f"{fd:.1f}" for fd in run["fd"]),
     "M parameters": run["parameters"] / 1e6, "steps": run["steps"], "batch": run["batch"],
     "calls": run["nfe"], "core-s / 1000": run["seconds"]}
    for name, run in peers["runs"].items()
]  # fmt: skip

# %% [markdown] name="peers-table-text"
# Two numbers are two seeds; *calls* are the network's for one picture.

# %% name="peers-table"
title = "N = {pictures}, after {budget} core-seconds of training; real pictures {floor:.2f}"
digits = {"M parameters": ".2f", "core-s / 1000": ".0f"}
plots.show_table(contestants, title=title.format_map(peers), digits=digits)

# %% [markdown] name="peers-seen"
# The recipe earns more, and the network its share. (*Recipe* is everything but the network, its sampler, batch and number of calls
# too; where one number stands, one seed was run.) With our recipe the other network does better than with its own; our network
# with the other recipe is still far off: that recipe is meant for hours on GPUs.
#
# This is what a small budget buys, not which library is better: ours was tuned for exactly this measure (all rows:
# `benchmarks/report.md`).

# %% [markdown] name="touch-text"
# ## Something to touch
#
# **Guidance.** Move the scale from 0 (class ignored) to 6. What happens to variety, to contrast?

# %% name="touch-guidance"
grids = []
for guidance in range(7):
    settings = minute.sampler | {"scale": float(guidance)}
    grids.append(generate(shipped, 20, label=twenty, seed=7, **settings).x)

# %% [markdown] name="guidance-strip-text"
# Two pictures of each of five classes, at five of the scales:

# %% name="guidance-strip"
some = [k + 10 * j for k in (0, 1, 5, 7, 8) for j in (0, 1)]  # two of each of five classes
plots.show(
    plots.strip(
        [grids[guidance][some] for guidance in (0, 1, 2, 4, 6)],
        titles=[fashion.classes[i % 10] for i in some],
        labels=[f"scale {guidance}" for guidance in (0, 1, 2, 4, 6)],
    ),
    alt="Five rows of ten generated garments, two of each of five classes, at guidance scales 0, 1, 2, "
    "4 and 6: from garments of any class to typical ones of hard contrast.",
    caption="The same noise in a column, the guidance scale growing from top to bottom.",
)

# %% [markdown] name="touch-guidance-more"
# All ten classes, at any whole scale:

# %% name="touch-guidance-all"
explore(
    lambda guidance: plots.grid(grids[guidance], columns=10, title=f"scale {guidance}"),
    guidance=slider("guidance scale", 2, 0, 6, 1),
    alt=lambda guidance: f"Twenty generated garments, two of each class, at scale {guidance}.",
    caption="Scale 0 ignores the class, 1 is the plain conditional model, more exaggerates it.",
)

# %% [markdown] name="touch-guidance-seen"
# At 0 the columns no longer hold one class each. From 1 to 3 the garments become more typical;
# beyond, contrast keeps growing and pictures of a class become alike.
#
# **The noise level.** What the network gets, what it should say, what it says, what that means for $x_0$, and the weight each
# weighting has there. Move the level, and change what "saying" means.

# %% name="touch-level" tags=["hide-input"]
cosine = schedules.make("cosine")
on_vp = shipped.on(cosine)  # the same network, read on a variance-preserving schedule
x0, label = test.x[2:3], test.labels[2:3]
eps = torch.randn(x0.shape, generator=generator(9))


def look(lam: float, kind: str):
    t = cosine.t_of_lam(lam)
    alpha, sigma = cosine.alpha_sigma(t)
    x_t = alpha * x0 + sigma * eps
    with torch.no_grad():
        answer = on_vp(x_t.to(device()), t, label=label.to(device())).x0.cpu()
    a, b = affine(kind, alpha, sigma, shipped.sd)
    pair = [(x0 - a * x_t) / b, (answer - a * x_t) / b]  # the target, and what the network says
    now = {n: w.on("eps", cosine, torch.tensor([t])).item() for n, w in weightings.items()}
    words = ["x_t", f"target ({kind})", f"answer ({kind})", "x0 from it", "hidden x0"]
    weights = "weight on eps:   " + "   ".join(f"{name} {value:.2g}" for name, value in now.items())
    pictures = torch.cat([x_t, *pair, answer, x0])
    return plots.grid(pictures, columns=5, titles=words, title=weights, size=1.3)


explore(
    look,
    lam=slider("lambda: noise ... data", 0.0, -2.9, 4.0, 0.1),
    kind=choice("the network says", ["x0", "eps", "v", "edm"], "edm"),
    alt=lambda lam, kind: (
        f"Five pictures at lambda {lam:.1f}: the noisy picture, target and answer "
        f"as {kind}, the answer read as x0, and the hidden picture."
    ),
    caption="What goes in, what should come out, what comes out, and what it means for x0.",
)

# %% [markdown] name="touch-level-seen"
# Try `eps` at $\lambda = -2.9$: target and answer are almost the input itself, while
# the $x_0$ read from it is a blur (as it is for every kind: there is one network, read in different ways). Try `edm` at
# $\lambda = 4$: the target is fine noise. On the black background the network reads it off; in the garment it can say less,
# and need not, since $c_{\rm out}$ is tiny there.

# %% [markdown] name="measure-text"
# ### Exercise 5 (measure): half the FLOPs
#
# Find arguments for the U-Net that cost **at most 26.2 MFLOP** a picture (about half of ours) and
# still hold **at least 200,000 parameters**. Give them as a dictionary, such as
# `{"widths": (32, 64)}`; `nets.make("unet", **arguments)` and the counters above are your tools. Leave the embedding as it is
# (`emb` at 128): more of it would only be idle parameters.
#
# <details><summary>Hint 1: nudge</summary>
#
# On which of the two levels does a parameter cost fewer FLOPs?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# A convolution has $9\, c_{\rm in} c_{\rm out}$ parameters and costs $2\, H W$ times as many FLOPs:
# a parameter at 14 x 14 costs four times one at 7 x 7.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Make the fine level narrower, about half, and the coarse one narrower by a smaller part. Take multiples of 8: a width must be
# divided by its groups and heads. Count; where it costs too much, go down one multiple.
# </details>

# %% name="my-net"
### BEGIN SOLUTION
arguments = {"widths": (16, 48)}
### END SOLUTION

# %% name="check-net" points=2
check.small_net(arguments)

# %% [markdown] name="cost-text"
# ## What did it cost
#
# Rows of the course's running table. NFE counts network evaluations for
# one picture (guidance doubles them); core-seconds are for 1,000 pictures; then the
# training's core-seconds and the quality in units of A.

# %% name="cost"
trained = {"ours": round(live_seconds), "shipped": round(shipped.about["cpu_seconds"])}
rows = [
    {"system": f"U-Net, {name}, scale {guidance:g}", **cost.row(),
     "training core-s": trained[name], "FD / A": round(found, 2), "N": N}
    for (name, guidance), (found, cost) in scores.items()
]  # fmt: skip
lessons.cost_row(3, *rows)

# %% [markdown] name="paper-text"
# ## Paper against here
#
# The papers' claims, and what this lesson measured. "Within the spread": the seeds of the two
# sides overlap, and we cannot tell.

# %% name="paper"
runs = {name: run["fd"] for name, run in bench["runs"].items()}


def verdict(ours: list, theirs: list) -> str:
    """Whether all seeds of one side beat all of the other (lower is better)."""
    if max(ours) < min(theirs):
        return "agrees here"
    return "the other way round" if min(ours) > max(theirs) else "within the spread"


def against(name: str) -> str:
    """Mean and spread of a weighting and of the simple loss."""
    one, simple = (metrics.Estimate.of(runs[k]) for k in (name, "simple"))
    return (
        f"FD / A {one.value:.2f} ± {one.error:.2f} against {simple.value:.2f} ± {simple.error:.2f}"
    )


ratios = [error["eps", seed][0] / error["edm", seed][0] for seed in range(seeds)]
claims = {
    "P2: better samples": "P2 (1, 1)",
    "min-SNR: trains faster": "min-SNR 5",
    "(EDM's weight, t uniform)": "EDM",
}
rows = [
    {"claim": claim, "here": against(k), "verdict": verdict(runs[k], runs["simple"])}
    for claim, k in claims.items()
]
smaller = " and ".join(f"{r:.0f}" for r in ratios)
held = "agrees here" if min(ratios) > 1 else "not in every seed"
rows.append(
    {
        "claim": "EDM's scalings and weight: better than eps with its own",
        "here": f"toy's noisy end: {smaller} times",
        "verdict": held,
    }
)
plots.show_table(rows)

# %% [markdown] name="paper-seen"
# P2's and min-SNR's direction shows at our scale (two seeds, one budget). In the toy EDM's scaling and weight changed together,
# so how much each earns is not measured.
#
# The papers train far larger networks for days on GPUs, on colour pictures, and report FID in Inception features at 50,000
# samples. EDM reports 1.97 on unconditional CIFAR-10 with 35 evaluations, DDPM 3.17 (unconditional) with 1000, min-SNR 3.4 times
# faster convergence on ImageNet-256, P2 better FID whatever data set, architecture and sampler. Only the *direction* of a
# claim can be tested here.

# %% [markdown] name="not-text"
# ## When it does not help
#
# - **Weights** do nothing for a network with capacity and time to spare. For likelihood, weights that drop the clean levels hurt.
# - **EMA** with a long memory hurts short trainings.
# - **Preconditioning** helps at the two ends of the noise scale. If your sampler never goes there, or
#   your data are not of standard deviation `sd`, you gain little.
# - **Folding** saves nothing in the embedding and in the first and last layer,
#   leaves a check where the answer is unfolded, and at large patches detail suffers.
# - **Guidance** cannot add what the network has not learned; it trades variety for typicality.

# %% [markdown] name="recap"
# ## Recap
#
# - A parameter costs most FLOPs on the fine maps; folding pixels divides the FLOPs by about four; unfolding the answer leaves a check.
# - The noise level enters as waves of $\lambda$, and scales and shifts every block.
# - Every prediction is a line $x_0 = a x_t + b\,\mathrm{out}$; in EDM's, input and
#   target have variance 1 and $|b|$ is smallest.
# - All losses are one loss with a weight; give its unit. P2 with $k = \gamma = 1$ is $1 - \bar\alpha$ on $\epsilon$.
# - Half-life, warm-up: know what your average still remembers.
#
# Next: lesson 04 asks whether these numbers mean anything.

# %% [markdown] name="reading"
# ## Further reading
#
# - Ho, Jain, Abbeel 2020, *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239: the simple
#   loss (their eq. 14, the survey's eq. 7).
# - Choi et al. 2022, *Perception Prioritized Training of Diffusion Models*, arXiv 2204.00227: P2.
# - Hang et al. 2023, *Efficient Diffusion Training via Min-SNR Weighting Strategy*, arXiv 2303.09556.
# - Karras et al. 2022, *Elucidating the Design Space of Diffusion-Based Generative Models*, arXiv
#   2206.00364: preconditioning, weights, the law of noise levels.
# - Salimans and Ho 2022, *Progressive Distillation for Fast Sampling*, arXiv 2202.00512: $v$.
# - Kingma and Gao 2023, *Understanding Diffusion Objectives as the ELBO with Simple Data
#   Augmentation*, arXiv 2303.00848: all weights in one frame.
# - Karras et al. 2023, *Analyzing and Improving the Training Dynamics of Diffusion Models*, arXiv
#   2312.02696: how long the average should be.
# - De and Smith 2020, *Batch Normalization Biases Residual Blocks Towards the Identity Function in Deep
#   Networks*, arXiv 2002.10444: why blocks should start as the identity.
# - Ronneberger et al. 2015, *U-Net*, arXiv 1505.04597.
