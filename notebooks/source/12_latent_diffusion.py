# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 12 Latent diffusion: what if we compress first?
#
# A denoiser of pixels spends most of its multiplications on detail that nobody looks for: the exact
# grey of a smooth wall, at full resolution, at every one of its calls. **Latent diffusion** splits
# the work. An autoencoder, trained once, takes care of the detail; the diffusion works on a small
# map of numbers that says what the picture shows. This idea made text-to-image models affordable.
#
# **Goals.** You will be able to
# - compute what an autoencoder costs in quality before any diffusion is trained, and keep the two apart,
# - find the best compression for a given amount of work, exactly, and see why it moves,
# - write the training step of latent diffusion, and train one in half a minute,
# - write cross-attention, the door through which words enter,
# - draw pictures of your own words, and measure whether they show what was asked,
# - count in calls, multiplications and seconds what compression saves, and what it does not.
#
# **Prerequisites.** $x_t = \alpha_t x_0 + \sigma_t\epsilon$ and v (lessons 01 to 03), the Fréchet
# distance (lesson 04), DDIM (lesson 05).
#
# **Time.** {{time}}.
#
# **Data.** Emoji of 32 x 32 pixels with their names (Noto Emoji, Apache-2.0), phantoms drawn by a
# formula, the 8 x 8 digits (CC BY 4.0); autoencoders and denoisers that travel with the course.
#
# **On the map.** LDM and LDM + DDIM, the survey's section II.B and its equations 8 to 11.

# %% [markdown] name="imports-text"
# What the first sections need; the rest is imported where it is used.

# %% name="imports"
import math

import torch

from diffusion_lab import checkpoints, data, metrics, nets, schedules
from diffusion_lab.course import lessons, plots
from diffusion_lab.course.checks import lesson12 as check
from diffusion_lab.course.showing import show_table
from diffusion_lab.denoisers import NetDenoiser
from diffusion_lab.device import generator, randn

emoji = data.load("emoji", "test")
print(
    f"{len(emoji)} emoji that no model of this lesson was trained on, {emoji.x[0].numel()} numbers each"
)

# %% [markdown] name="money-text"
# ## Where the money goes
#
# A convolution does the same work at every place of a map, so its cost grows with the number of
# places. An autoencoder that turns $32 \times 32$ pixels into a map of $8 \times 8$ (a factor $f = 4$ in
# each direction) leaves $f^2 = 16$ times fewer places. The cell counts the multiplications and additions of one
# call of one and the same U-Net on three maps: what changes is the map alone.

# %% name="money" tags=["nbval-check-output"]
sizes = {"pixels, 32 x 32 x 3": (3, 32), "f = 2, 16 x 16 x 4": (4, 16), "f = 4, 8 x 8 x 4": (4, 8)}
rows = []
for name, (channels, size) in sizes.items():
    net = nets.make("unet", channels=channels, patch=1, widths=(32, 64))
    one = NetDenoiser(net, schedules.EDM(), shape=(channels, size, size))
    rows.append({"map": name, "MFLOP a call": metrics.count_flops(one) / 1e6})
show_table(rows, digits={"MFLOP a call": ".1f"})
print(f"f = 4: {rows[0]['MFLOP a call'] / rows[2]['MFLOP a call']:.1f} times less than pixels")

# %% [markdown] name="money-seen"
# Sixteen times fewer places, and a little more than sixteen times less work (the attention on the coarsest map falls faster), at every call of training and of sampling. The
# encoder and the decoder are paid once a picture. So compress as much as possible? Then the decoder
# has nothing left to decode from. To see the whole trade we first take a case in which every number
# is a formula.

# %% [markdown] name="exact-text"
# ## The smallest exact case: Gaussian data and the best linear autoencoder
#
# Let the data be Gaussian, $x \sim N(0, C)$ with eigenvalues $\lambda_1 \ge \lambda_2 \ge \dots$ of $C$
# (here that of the 8 x 8 digits, $d = 64$). The best linear autoencoder with $k$ numbers keeps the
# first $k$ eigenvectors, $z = U_k^\top x$ and $\tilde x = U_k z$: principal components. What is thrown
# away is gone: whatever the diffusion of $z$ does, the pictures have no variance in the other
# directions, and their Fréchet distance to the data is at least
#
# $$ \mathrm{FD}_\text{reconstruction} = \sum_{j > k} \lambda_j. $$
#
# That is the **floor** of every latent model with this autoencoder.
#
# <details><summary>Derivation: why the distance is that sum</summary>
#
# The Fréchet distance of two Gaussians with the same mean and covariances $A$ and $C$ that have the same eigenvectors is
# $\sum_j(\sqrt{a_j} - \sqrt{\lambda_j})^2$ (lesson 04). Reconstructions have the covariance
# $U_kU_k^\top C\,U_kU_k^\top$: the first $k$ eigenvalues are those of $C$, the others 0, and
# $(0 - \sqrt{\lambda_j})^2 = \lambda_j$.
# </details>

# %% name="exact" tags=["nbval-check-output"]
digits = data.load("digits").x.flatten(1).double()
covariance = torch.cov(digits.T)
lam = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
kept = {k: lam[:k].sum().item() / lam.sum().item() for k in (8, 16, 32)}
for k, share in kept.items():
    print(
        f"{k:2d} of 64 numbers keep {100 * share:.1f}% of the variance; floor {lam[k:].sum():.3f}"
    )

# %% [markdown] name="floor-text"
# ### Exercise 1 (fill in): the floor
#
# Write the floor for any covariance and any $k$. `torch.linalg.eigvalsh(C)` has the eigenvalues of a
# symmetric matrix in *rising* order.
#
# <details><summary>Hint 1: nudge</summary>
#
# Which directions does the best autoencoder throw away, those of large or of small variance?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# All eigenvalues but the $k$ largest, summed.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Get the eigenvalues. In rising order the ones to lose stand first: how many are there, if the matrix
# has $d$ rows and $k$ are kept? Add them.
# </details>


# %% name="my-floor"
def my_floor(C, k):
    """The Fréchet distance that a linear autoencoder with k numbers leaves, of N(0, C)."""
    ### BEGIN SOLUTION
    values = torch.linalg.eigvalsh(C)
    return values[: len(C) - k].sum()
    ### END SOLUTION


# %% name="check-floor"
check.floor(my_floor)

# %% [markdown] name="curve-text"
# ### The other side: steps
#
# Now sample. Per direction the data are a Gaussian of variance $v$, whose exact denoiser is linear,
# so DDIM from $t$ to $s$ multiplies the state by a number:
#
# $$ y_s = \Big(\alpha_s\,\frac{\alpha_t v}{\alpha_t^2 v + \sigma_t^2} + \sigma_s\,\frac{\sigma_t}{\alpha_t^2 v + \sigma_t^2}\Big)\, y_t . $$
#
# Few steps end at a standard deviation $g_j$ other than $\sqrt{v_j}$: the sampler's own error, which
# has a Fréchet distance too. Both together, with $S$ steps on $k$ numbers:
#
# $$ \mathrm{FD} = \underbrace{\sum_{j \le k} \big(g_j(S) - \sqrt{\lambda_j}\big)^2}_{\text{too few steps}} \; + \; \underbrace{\sum_{j > k} \lambda_j}_{\text{too much compression}} . $$
#
# A call on $k$ numbers costs $k$ units, so a budget $B$ buys $S = B/k$ steps. `ends` is the first
# formula, over a uniform grid; the latents are scaled to unit variance first (why, comes below).

# %% name="curve"
from diffusion_lab.grids import grid

vp = schedules.Linear()


def ends(v, steps):
    """Standard deviations (k,) after DDIM on Gaussians of variances v (k,), from N(0, 1)."""
    s = 1 / v.mean().sqrt()  # the scale of the latents
    v, y = s**2 * v, torch.ones_like(v)
    times = grid(vp, steps, "uniform")
    for t, to in zip(times, times[1:]):
        (a, b), (c, d) = vp.alpha_sigma(t), vp.alpha_sigma(to)
        y = y * (c * a * v + d * b) / (a * a * v + b * b)
    return y / s


# %% [markdown] name="distance-text"
# And the second formula:


# %% name="distance"
def distance(k, budget):
    """FD of a latent model with k numbers, the exact denoiser and budget / k steps of DDIM."""
    sampler = (ends(lam[:k], budget // k) - lam[:k].sqrt()).square().sum()
    return (sampler + lam[k:].sum()).item()


# %% [markdown] name="curve-figure-text"
# The whole trade, for three budgets. (64 units are one call on all 64 numbers.)

# %% name="curve-figure"
choices = (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)
budgets = {"2 full calls": 128, "5": 320, "20": 1280}
curves = {name: [distance(k, budget) for k in choices] for name, budget in budgets.items()}
best = {name: choices[min(range(len(choices)), key=ys.__getitem__)] for name, ys in curves.items()}
fig = plots.lines(
    choices,
    curves | {"floor": [lam[k:].sum().item() if k < 64 else math.nan for k in choices]},
    xlabel="numbers kept of 64 (k)",
    ylabel="Fréchet distance",
    log="y",
)
plots.show(
    fig,
    alt="Fréchet distance against the numbers kept, three curves for three budgets, and the floor. "
    "Each curve falls along the floor and then rises again; with a larger budget it turns later.",
    caption="Left of its lowest point a curve is ruled by what the autoencoder lost, right of it by "
    "the few steps that the budget leaves.",
)
for name, k in best.items():
    print(f"budget of {name}: best k = {k}, S = {budgets[name] // k} steps")

# %% [markdown] name="curve-seen"
# A curve in the form of a U. On the left, all budgets share the floor: no number of steps brings back
# what the autoencoder lost. On the right, calls on many numbers are dear, and few of them are left.
# The best compression lies between, and it is no property of the data alone.
#
# ### Exercise 2 (predict): a larger budget
#
# From the figure: when the budget grows, does the best number $k$ fall, stay, or grow? And what
# happens to the case for compression? Answer with one of `"falls"`, `"stays"`, `"grows"`.

# %% name="my-prediction"
### BEGIN SOLUTION
my_prediction = "grows"
### END SOLUTION

# %% name="check-prediction"
check.budget(my_prediction)

# %% [markdown] name="real-text"
# ## A real autoencoder: KL
#
# Pictures are no Gaussians, and a network does better than principal components. The KL autoencoder
# of LDM says a mean and a variance for each number of the latent map and draws from them,
# $z = \mu(x) + \varsigma(x)\,\xi$ with $\xi \sim N(0, I)$; the decoder gives $\tilde x = D(z)$. The loss of a picture is
#
# $$ L = \sum |x - \tilde x| + \tfrac12 \sum |\nabla x - \nabla\tilde x| + w\,\mathrm{KL},
# \qquad \mathrm{KL} = \tfrac12 \sum (\mu^2 + \varsigma^2 - 1 - \log\varsigma^2). $$
#
# The weight $w = 10^{-6}$ is tiny, as in the paper: the KL keeps the latents from running away and no
# more. (In place of the paper's perceptual and adversarial terms ours has the differences of
# neighbouring pixels, $\nabla$: fine lines come back softer than theirs.) The formula of the KL first,
# against a library:

# %% name="kl" tags=["nbval-check-output"]
from torch.distributions import Normal, kl_divergence

from diffusion_lab.latent.autoencoder import kl

auto = checkpoints.load("emoji-kl", device="cpu")
mean, logvar = auto.moments(emoji.x[:20])
theirs = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0, 1)).flatten(1).sum(1)
print("equal to torch.distributions:", bool(torch.allclose(kl(mean, logvar), theirs, rtol=1e-5)))
print(f"mean spread {(logvar / 2).exp().mean():.4f}, size of the means {mean.std():.2f}")

# %% [markdown] name="back-text"
# The spread is ten thousand times smaller than the means: with so small a weight this is nearly an ordinary autoencoder.
# What comes back, from emoji that it was not trained on:

# %% name="back"
few = emoji.x[5:195:19]
plots.show(
    plots.strip([few, auto(few).clamp(-1, 1)], labels=["emoji", "back"]),
    alt="Ten emoji and below each the same after encoding and decoding. Shapes and colours come "
    "back; thin lines are softer.",
    caption="Twelve times fewer numbers: what the eye looks for is there, hairlines are softened.",
)

# %% [markdown] name="ceiling-text"
# ### The ceiling, measured apart
#
# Before anything is generated we know the best that can be expected. The file of a shipped
# autoencoder says how near pictures come back (PSNR, in decibels) and the Fréchet distance of what
# comes back, in the course's unit A (lesson 04). Beside it stands the autoencoder with *codes* that
# a later section uses.

# %% name="ceiling"
rows = []
for name in ("emoji-kl", "emoji-vq"):
    found = checkpoints.info(name)["metrics"]
    test = found["reconstruction"]["test"]
    rows.append({"autoencoder": name, "PSNR, test (dB)": test["psnr"], "FD / A": found["rfd_in_A"]})
show_table(rows, digits={"PSNR, test (dB)": ".1f", "FD / A": ".2f"})

# %% [markdown] name="ceiling-seen"
# Keep these two numbers beside every later one: a model of latents is judged by the distance of its
# *pictures*, and part of that distance was there before the diffusion began. A report that names only
# the sum cannot say which half to improve.

# %% [markdown] name="scale-text"
# ## The scale of the latents
#
# A schedule is made for data of about unit variance: it ends where the signal is drowned. An
# autoencoder is free to choose its units. If all latents were $c$ times larger, the signal-to-noise
# ratio $\alpha_t^2\,\mathrm{Var}(z)/\sigma_t^2$ would be $c^2$ times larger at every $t$: the last
# step would still hold a trace of the picture, and sampling would begin at a place that training never saw. So
#
# $$ z_0 = s\,E(x), \qquad s = 1/\mathrm{std}(\text{all numbers of the first batch}), \qquad x = D(z_0/s), $$
#
# and $s$ is kept with the model. Multiply the encoder by seven, and nothing changes:

# %% name="scale"
from diffusion_lab.latent.ldm import scale_of

a_end, b_end = vp.alpha_sigma(1.0)
for c in (1.0, 7.0):
    s_c = scale_of(c * mean)
    final = (c * a_end * mean.std() / b_end) ** 2
    print(
        f"latents times {c:g}: s = {s_c:.4f}, std of s z = {(s_c * c * mean).std():.3f}, final SNR without s: {final:.1e}"
    )

# %% [markdown] name="step-text"
# ## The training step
#
# All is in place for the loss of latent diffusion, the survey's equation 8:
#
# $$ L_\mathrm{LDM} = E_{x,\,\xi,\,\epsilon,\,t}\;\big|\epsilon - \epsilon_\theta(z_t, t)\big|^2,
# \qquad z_t = \alpha_t z_0 + \sigma_t\epsilon . $$
#
# It is the loss of lesson 02 with $z_0$ in the place of $x_0$, and nothing else: the autoencoder
# stays as it is, and gets no gradient. Its answers $(\mu, \varsigma)$ are computed once for all
# pictures and kept; only $\xi$ is drawn anew. We train on the target $v = \alpha_t\epsilon - \sigma_t z_0$
# of lesson 03 instead of $\epsilon$: the best answer is the same one, read in another way. Lesson 03 showed that $\epsilon$ is the
# worse target at the noisy end, and a training of half a minute has no time to make up for that.
#
# ### Exercise 3 (write it): the latent training step
#
# Given the cached $\mu$ and $\varsigma$ of a batch (each (B, 4, 8, 8)), the scale $s$, two draws of noise of the same
# shape, $\xi$ for the autoencoder and $\epsilon$ for the diffusion, and $\alpha$, $\sigma$ of each picture
# ((B, 1, 1, 1)): return the squared error of `denoise(z_t)`, which answers with $\hat v$, meaned over the numbers
# of each picture: (B,).
#
# <details><summary>Hint 1: nudge</summary>
#
# Four lines: draw z, scale it, noise it, compare.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $z_0 = s(\mu + \varsigma\xi)$: the scale multiplies the *draw*. The target is made of the same $z_0$ and the same $\epsilon$
# that made $z_t$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# z0 from mean, spread and xi, times s. Then the noisy state from z0 and eps. Then v from the same two, with the roles of
# alpha and sigma exchanged and a minus. Square of the difference, mean over the last three dimensions.
# </details>


# %% name="my-step"
def my_step(mean, spread, s, xi, eps, alpha, sigma, denoise):
    """The loss (B,) of a batch of latents: mean, spread, xi, eps (B, 4, 8, 8)."""
    ### BEGIN SOLUTION
    z0 = s * (mean + spread * xi)
    v_hat = denoise(alpha * z0 + sigma * eps)
    return (v_hat - (alpha * eps - sigma * z0)).square().mean((1, 2, 3))
    ### END SOLUTION


# %% name="check-step"
check.latent_step(my_step)

# %% [markdown] name="train-text"
# ### Your step at work: a latent model in half a minute
#
# Phantoms are slices of a head made of ellipses, drawn by a formula from four numbers: the size of the
# head, the area of its two dark ventricles, its rotation, and the contrast. That makes them good data
# to learn on: what a model drew can be *measured* and compared with what it was asked for. The
# autoencoder `phantoms-kl` is shipped; the denoiser below is new, and trained by your step (or, until
# it is right, by the course's). It is told the four numbers in two ways at once, as further
# channels and through the embedding of the noise level: **hybrid conditioning**.

# %% name="train-data"
from diffusion_lab.data import phantoms

heads = data.load("phantoms")
numbers = heads.condition["covariates"]  # (2048, 4), each from 0 to 1
decoder = checkpoints.load("phantoms-kl", device="cpu")

# %% [markdown] name="encoded-text"
# Encoded once, and the scale of the latents from the first batch:

# %% name="encoded"
moments = [decoder.moments(part) for part in heads.x.split(256)]
means, spreads = (torch.cat(part) for part in zip(*moments))
spreads = (spreads / 2).exp()
s = scale_of(means[:32])
print(f"{len(heads)} phantoms encoded once: {tuple(means.shape)}, s = {s:.3f}")

# %% [markdown] name="train-loop-text"
# The loop is that of lesson 02: a batch, a time for each picture, the step, the optimiser.

# %% name="train-loop"
import time

own_step = my_step if check.latent_step.last == "right" else check.reference_step
torch.manual_seed(0)
net = nets.make("diffusion_lab.latent.covariates:CovariateUNet", channels=4, patch=1, emb=64)
schedule = schedules.linear(1000)
live = NetDenoiser(net, schedule, kind="v", shape=(4, 8, 8))
steps, gen = lessons.pick(smoke=20, live=600, full=3000), generator(0)
optimiser = torch.optim.AdamW(net.parameters(), 2e-3, betas=(0.9, 0.99))
warm = torch.optim.lr_scheduler.LambdaLR(
    optimiser, lambda i: min(1, (i + 1) / 50, 2 * (steps - i) / steps)
)
began = time.process_time()
for _ in range(steps):
    pick = torch.randint(len(means), (32,), generator=gen)
    t = torch.randint(1, 1001, (32,), generator=gen).double() / 1000
    alpha, sigma = (level.float().reshape(-1, 1, 1, 1) for level in schedule.alpha_sigma(t))
    xi, eps = (randn(means[pick].shape, gen) for _ in range(2))
    loss = own_step(
        means[pick], spreads[pick], s, xi, eps, alpha, sigma,
        lambda z, t=t, pick=pick: live(z, t, covariates=numbers[pick]).v,
    ).mean()  # fmt: skip
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    warm.step()
live_seconds = time.process_time() - began
print(
    "trained with",
    "your step" if own_step is my_step else "the course's step",
    f"for {steps} steps",
)

# %% [markdown] name="train-drawn-text"
# Ask for ventricles that grow from left to right, all else equal: 20 steps of DDIM in the latent space, then the decoder.
# Above stands what the formula draws for the same four numbers.

# %% name="train-drawn"
from diffusion_lab.generate import generate
from diffusion_lab.latent.covariates import agreement

wanted = torch.full((8, 4), 0.5)
wanted[:, 1] = torch.linspace(0, 1, 8)
low, high = (
    torch.tensor(ends_, dtype=torch.float64) for ends_ in zip(*phantoms.PARAMETERS.values())
)
true = phantoms.render(low + wanted.double() * (high - low))


@torch.no_grad()
def head(model, wanted, s, **how):
    """Phantoms (n, 1, 32, 32) of wanted numbers (n, 4): latents drawn, scaled back, decoded."""
    z = generate(model, len(wanted), condition={"covariates": wanted}, **how).x
    return decoder.decode(z / s).clamp(-1, 1)


drawn = head(live, wanted, s, sampler="ddim", steps=20)
plots.show(
    plots.strip([true, drawn], labels=["formula", "drawn"]),
    alt="Two rows of eight heads whose dark ventricles grow from left to right; the drawn ones below "
    "look like those of the formula above.",
    caption="A latent diffusion trained in this notebook, asked for eight areas of the ventricles.",
)

# %% [markdown] name="train-measured-text"
# And measured, on requests of the test part: the correlation r of each number as asked for and as found in the picture.
# The last column gives every picture another one's request: what r is when nobody obeys.

# %% name="train-measured"
test_heads = data.load("phantoms", "test")
asked = test_heads.condition["covariates"][:128]
found = head(live, asked, s, sampler="ddim", steps=20)
obeys, mixed = agreement(asked, found), agreement(asked.roll(1, 0), found)
rows = [{"number": name, "r": r, "r, another's request": mixed[name]} for name, r in obeys.items()]
show_table(rows, digits={"r": ".2f", "r, another's request": ".2f"})

# %% [markdown] name="ddim-text"
# ## LDM + DDIM: the sampler changes, the training does not
#
# A medical latent model of the survey ("LDM + DDIM", Pinaya et al. 2022) makes brain scans from age, sex and two
# volumes, conditioned in these two ways. Its point for us: the latent denoiser was trained for 1,000 ancestral
# steps, and DDIM draws from the same network in 50. Any sampler of lessons 05 to 08 runs on latents as it
# is, since a latent denoiser *is* a denoiser. The table was measured with a longer training (`phantoms-ldm`, shipped), 256 phantoms
# from each of two seeds (`python benchmarks/latent.py phantoms`). *Error* is the mean squared one to the phantom
# that the formula draws for the same request, decoder included.

# %% name="ddim"
import json

from diffusion_lab.data import store

measured = json.loads((store.folder() / "measured/latent.json").read_text())["parts"]
of_heads = measured["phantoms"]


def average(rows, key):
    """Mean of one number over seeds."""
    return sum(row[key] for row in rows) / len(rows)


slowest = average(of_heads["samplers"]["DDPM, 1000"], "core_seconds_per_1000")
sampler_rows = []
for name, runs in of_heads["samplers"].items():
    spent = average(runs, "core_seconds_per_1000")
    row = {"sampler, steps": name, "error": average(runs, "mse")}
    row["r, ventricles"] = sum(one["r"]["ventricle"] for one in runs) / len(runs)
    row |= {"MS-SSIM of pairs": average(runs, "ms_ssim"), "core-s / 1000": spent}
    sampler_rows.append(row | {"times faster": slowest / spent})

# %% [markdown] name="ddim-shown-text"
# MS-SSIM of pairs is 1 where all pictures are alike: the paper's measure of how much they differ, here on two scales, as
# $32 \times 32$ has no room for more. The floor stands in the first two rows: real phantoms, and what the autoencoder makes of them.

# %% name="ddim-shown"
floors = {"real phantoms": of_heads["real"], "decoded, nothing drawn": of_heads["autoencoder"]}
first = [
    {
        "sampler, steps": name,
        "error": one.get("mse", 0.0),
        "r, ventricles": one["r"]["ventricle"],
        "MS-SSIM of pairs": one["ms_ssim"],
        "core-s / 1000": None,
        "times faster": None,
    }
    for name, one in floors.items()
]
show_table(
    first + sampler_rows,
    digits={"error": ".5f", "r, ventricles": ".3f", "MS-SSIM of pairs": ".4f", "core-s / 1000": ".0f",
            "times faster": ".1f"},
)  # fmt: skip

# %% [markdown] name="request-text"
# ### Something to touch: ask for a head
#
# The code is folded. Move the four numbers; the left head is the formula's, the right one is drawn. 0 and 1 are the ends of what
# training showed: outside of them you see what the model makes of a request that it has never met.

# %% name="request" tags=["hide-input"]
from diffusion_lab.course.widgets import explore, slider

shipped = checkpoints.load("phantoms-ldm", device="cpu")
own_s = shipped.about["stands_on"]["scale"]


def request(size: float, ventricles: float, rotation: float, contrast: float):
    """The phantom of four numbers, and what the latent model draws for them."""
    wish = torch.tensor([[size, ventricles, rotation, contrast]])
    real = (low + wish.double() * (high - low)).clamp(
        *(torch.tensor(e, dtype=torch.float64) for e in zip(*phantoms.POSSIBLE.values()))
    )
    pair = torch.cat([phantoms.render(real), head(shipped, wish, own_s, sampler="ddim", steps=20)])
    return plots.grid(pair, columns=2, size=2.0, heads=["formula", "drawn"])


explore(
    request,
    size=slider("size of the head", 0.5, -0.2, 1.2, 0.1),
    ventricles=slider("ventricles", 0.8, -0.5, 1.5, 0.1),
    rotation=slider("rotation", 0.2, -0.5, 1.5, 0.1),
    contrast=slider("contrast", 0.5, -0.2, 1.2, 0.1),
    alt=lambda size, ventricles, rotation, contrast: (
        f"Two heads for size {size:g}, ventricles {ventricles:g}, rotation {rotation:g} and contrast {contrast:g}: "
        "left that of the formula, right the one that was drawn."
    ),
    caption="Asked for by four numbers, each from 0 to 1 in training.",
)

# %% [markdown] name="attention-text"
# ## Words: cross-attention
#
# Four numbers are easily told. A text is a list of words, of any length, and *where* in the picture a word
# matters differs from word to word. LDM's answer is **cross-attention**, the survey's equations 9 to 11. With $\varphi$ the features of the
# $N$ places of a map (N, d) and $\tau$ the vectors of the $M$ words (M, e),
#
# $$ Q = \varphi W_Q, \qquad K = \tau W_K, \qquad V = \tau W_V, \qquad
# \mathrm{Attention} = \mathrm{softmax}\Big(\frac{QK^\top}{\sqrt d}\Big)\, V . $$
#
# Each place asks a question $Q$; each word has a key $K$, by which it is found, and a value $V$, which
# it says. The softmax runs over the words: a place hears the words in shares that sum to 1. The result is added
# to the features, so a network whose output weights are 0 at first begins as one without words. (The
# survey writes $\varphi(z_i)$ where $\varphi(z_t)$ is meant, the features of the *noisy* latent.)
#
# Three things follow at once, and make good tests: with one word the question does not matter; the order
# of words changes nothing (so the order is put into $\tau$, as a vector for each place of the text); and
# what is hidden must weigh exactly 0, since texts of different lengths are filled up to share a batch.
#
# ### Exercise 4 (write it): cross-attention
#
# In several **heads** at once, each with its own share of the channels: q is (B, heads, N, d), k and v (B, heads, M, d), and
# `there` (B, M) is True where a word stands. Return (B, heads, N, d). A text without any word cannot
# occur.
#
# <details><summary>Hint 1: nudge</summary>
#
# Scores of every place with every word; hide; softmax; mix the values. Over which dimension do the shares sum to 1?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# `k.mT` exchanges the last two dimensions. d is the width of one head, not of all. A score of $-\infty$ becomes a share of 0.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# scores = q times k transposed, over the root of the last size of q: (B, heads, N, M). Fill the scores of absent
# words with minus infinity (`masked_fill`, and the mask needs two new dimensions in the middle). Softmax over the last
# dimension. Times v.
# </details>


# %% name="my-attention"
def my_attention(q, k, v, there):
    """What each place hears, (B, heads, N, d)."""
    ### BEGIN SOLUTION
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~there[:, None, None, :], -math.inf)
    return scores.softmax(-1) @ v
    ### END SOLUTION


# %% name="check-attention"
check.attention(my_attention)

# %% [markdown] name="own-attention-text"
# ### Your attention at work
#
# `emoji-ldm` draws emoji from words in the latents of `emoji-kl`. The cell puts your function in the place of every
# cross-attention in it (or the course's, until yours is right).

# %% name="own-attention"
from diffusion_lab.course import told
from diffusion_lab.nets.attention import CrossAttention

own_attention = my_attention if check.attention.last == "right" else check.reference_attention
ldm_model = checkpoints.load("emoji-ldm", device="cpu")


def with_own(layer):
    """The forward of a layer, by the own function."""

    def forward(h, context, mask=None):
        q = layer._apart(layer.query(layer.norm(h)))
        k, v = layer._apart(layer.key(context)), layer._apart(layer.value(context))
        there = torch.ones(context.shape[:2], dtype=torch.bool) if mask is None else mask
        heard = own_attention(q, k, v, there)
        return h + layer.out(heard.transpose(1, 2).flatten(2))

    return forward


layers = [one for one in ldm_model.modules() if isinstance(one, CrossAttention)]
for layer in layers:
    layer.forward = with_own(layer)
whose = "your attention" if own_attention is my_attention else "the course's attention"
print(f"{whose} in {len(layers)} layers")

# %% [markdown] name="words-text"
# ### Pictures of words
#
# Twenty steps of ++(2M) with classifier-free guidance (lesson 07): each step asks twice, with the
# text and without. Below stand captions of emoji that the model never saw, with the emoji they belong to.

# %% name="words"
from diffusion_lab.data import emoji as emoji_words
from diffusion_lab.data.captions import full_caption

held = emoji_words.records("test")
shown = lessons.pick(smoke=range(0, 200, 100), live=range(3, 211, 26))
captions = [full_caption(held[i]) for i in shown]
by_words = [told.draw(ldm_model, captions, seed=seed).x for seed in (0, 1)]
plots.show(
    plots.strip(
        [emoji.x[list(shown)], *by_words],
        labels=["the emoji", "drawn", "again"],
        titles=[held[i].short_name.replace("_", " ")[:9] for i in shown],
    ),
    alt="Three rows: emoji that were held out, and below each two pictures that the model drew from its words.",
    caption="From words alone, for emoji that the model has never seen.",
)

# %% [markdown] name="type-text"
# ### Something to touch: your own words
#
# The code is folded. Type a few words (colour, thing, mood) and press Enter; four pictures from four seeds.
# The model knows 1,200 emoji and no more: what it has no word for it reads by parts of words or ignores.

# %% name="type" tags=["hide-input"]
from diffusion_lab.course.widgets import text


def say(words: str, scale: float):
    """Four pictures of the words."""
    given = dict(ldm_model.about["recipe"]["sampler"]) | {"scale": scale}
    x = told.draw(ldm_model, [words or "?"] * 4, seed=3, **given).x
    return plots.grid(x, columns=4, size=1.3, title=words or "no words")


explore(
    say,
    words=text("words", "red heart"),
    scale=slider("scale of guidance", 2.0, 1.0, 5.0, 0.5),
    alt=lambda words, scale: (
        f"Four pictures that the model drew for the words {words!r} at scale {scale:g}."
    ),
    caption="Four draws of noise, one text.",
)

# %% [markdown] name="obeys-text"
# ### Does it obey?
#
# Looking is not measuring. Two networks that had no part in the drawing judge it. `emoji-judge` names the category (of
# eight) that it sees in a picture: the share in which that is the category of the caption. And a joint
# embedding of pictures and words is shown each picture with 20 captions: how often is the picture's own the
# nearest? (By chance in one of 20.) Both are shares of N pictures, so their errors are those of a coin; neither is perfect on the
# emoji themselves, whose shares stand beside.

# %% name="obeys"
quality = checkpoints.info("emoji-ldm")["metrics"]


def interval(share, n):
    """A share of n with its 95% interval."""
    return f"{share:.3f} ± {1.96 * math.sqrt(share * (1 - share) / n):.3f}"


rows = []
for part, said in (("train", "training"), ("held_out", "held out")):
    one = quality[part]
    rows.append(
        {
            "captions": said,
            "N": int(one["n"]),
            "category right": interval(one["judged"], one["n"]),
            "of the emoji": interval(one["real_judged"], one["n"]),
            "own caption of 20": interval(one["chosen"], one["n"]),
            "of the emoji ": interval(one["real_chosen"], one["n"]),
        }
    )
show_table(rows)

# %% [markdown] name="codes-text"
# ## Codes instead of numbers
#
# The second kind of autoencoder writes a *word* at each place: the encoder's vector $z$ is replaced by the nearest of $K$
# code vectors, $e = \arg\min_k |z - c_k|$. What is kept is an index, $\log_2 K$ bits. `emoji-vq` has 128 codes on two
# levels, $8 \times 8$ and $4 \times 4$: how many bits is that for an emoji, and how many had the pixels?

# %% name="codes" tags=["nbval-check-output"]
vq = checkpoints.load("emoji-vq", device="cpu")
fine, coarse = vq.encode(few)
K, count = len(vq.quantisers[0].codes), fine[0].numel() + coarse[0].numel()
bits, pixel_bits = count * math.log2(K), 32 * 32 * 3 * 8
print(f"{count} codes of {K}: {bits:.0f} bits; pixels: {pixel_bits:,}")
print(f"{pixel_bits / bits:.0f} times fewer")

# %% [markdown] name="straight-text"
# "Nearest" has no slope: move $z$ a little and the code stays what it is. How is an encoder trained through it? By
# the **straight-through** trick: forward, the answer is the code; backward, the gradient passes as if the
# answer were $z$ itself. (The codes learn by a term of their own, which pulls each towards the vectors that chose it.)
#
# ### Exercise 5 (write it): a quantiser with a straight-through gradient
#
# z is (N, d) and codes (K, d). Return (N, d): in value the nearest codes, in gradient z, and no gradient for the
# codes.
#
# <details><summary>Hint 1: nudge</summary>
#
# `torch.cdist(z, codes)` has all distances. What can you add to z whose value is e - z and whose gradient is 0?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $z + \mathrm{stop}(e - z)$, where stop is the identity in value and has gradient 0.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Index of the least distance for each row; the rows of codes at these indices; z plus the detached difference.
# </details>


# %% name="my-quantise"
def my_quantise(z, codes):
    """The nearest codes (N, d), with the gradient of z."""
    ### BEGIN SOLUTION
    e = codes[torch.cdist(z, codes).argmin(1)]
    return z + (e - z).detach()
    ### END SOLUTION


# %% name="check-quantise"
check.straight_through(my_quantise)

# %% [markdown] name="levels-text"
# What do the two levels say? Below each emoji: both levels, then the coarse one alone (16 codes). In training the fine level was
# left out for a quarter of the pictures; without that, the coarse one says nothing, since the fine one can say nearly
# everything by itself. Lesson 13 builds on this.

# %% name="levels"
both = vq.decode([fine, coarse])
e_fine, e_coarse = (q.lookup(c) for q, c in zip(vq.quantisers, (fine, coarse)))
alone = vq.picture([torch.zeros_like(e_fine), e_coarse])

# %% [markdown] name="levels-figure-text"
# The three rows:

# %% name="levels-figure"
plots.show(
    plots.strip(
        [few, both.clamp(-1, 1), alone.clamp(-1, 1)], labels=["emoji", "80 codes", "16 codes"]
    ),
    alt="Three rows of ten: emoji, the same from both levels of codes, and from the coarse level alone, "
    "which keeps outline and colour and little else.",
    caption="What 560 bits keep, and what 112 of them do.",
)

# %% [markdown] name="decoder-text"
# ## A decoder that draws: DiVAE
#
# Codes lose detail, and a decoder that is trained on a distance answers with the *mean* of all pictures that share the
# codes. A mean of pictures is blurred. DiVAE (Shi, Wu et al. 2022) puts a diffusion model in its place: a denoiser told
# the codes *draws* one of these pictures. Which is better? Both are, in different coins, and with Gaussian data and linear codes $e = Ax$
# this is exact. With $K e$ the mean of $x$ given $e$ and $R$ the covariance that is left,
#
# $$ E|x - Ke|^2 = \mathrm{tr}\,R, \qquad E|x - x_\text{drawn}|^2 = 2\,\mathrm{tr}\,R, $$
#
# since truth and draw are two independent draws around one mean. But the drawn pictures have the covariance of the data, and
# the means have too little of it.

# %% name="decoder"
from diffusion_lab.latent.divae import linear_gaussian
from diffusion_lab.metrics.frechet import Reference, frechet
from diffusion_lab.samplers import ddim
from diffusion_lab.walk import sample, walk

cov = covariance + 1e-4 * torch.eye(64, dtype=torch.float64)
codes_of = torch.linalg.eigh(cov).eigenvectors[:, -8:].T  # eight numbers: the code
draws, decode_mean = linear_gaussian(cov, codes_of, vp)
n, gen = lessons.pick(smoke=200, live=2000), generator(0)
x_true = torch.randn(n, 64, generator=gen, dtype=torch.float64) @ torch.linalg.cholesky(cov).T
code = x_true @ codes_of.T
mean_answer = code @ decode_mean.T
noise = torch.randn(n, 64, generator=gen, dtype=torch.float64)
drawn_answer = sample(walk(ddim(), draws, noise, grid(vp, 100, "uniform"), codes=code)).x

# %% [markdown] name="decoder-table-text"
# Both answers beside the formulas:

# %% name="decoder-table"
left = cov - decode_mean @ codes_of @ cov
zero = torch.zeros(64, dtype=torch.float64)


def law(matrix):
    """A Gaussian of this covariance, as the Fréchet distance takes it."""
    return Reference(zero, matrix, 2)


rows = [
    {
        "decoder": name,
        "E|x - x~|²": (x_true - answer).square().sum(1).mean().item(),
        "by the formula": times * left.trace().item(),
        "FD, by the formula": frechet(law(cov), law(cov - left if times == 1 else cov)),
    }
    for name, answer, times in (("the mean", mean_answer, 1), ("a draw", drawn_answer, 2))
]
show_table(rows, digits=dict.fromkeys(list(rows[0])[1:], ".2f"))

# %% [markdown] name="decoder-seen"
# Twice the squared error, and no distance in law: exactly. So a diffusion decoder must not be judged by PSNR, and a mean
# decoder not by its likeness to data. And it is paid in calls: one for the mean, a whole walk for a draw.

# %% [markdown] name="draws-text"
# ### The same with networks
#
# `fashion-vq` has a codebook of 64 vectors and turns a garment into $7 \times 7$ of them, 294 bits. Its own decoder was trained on a distance and answers with
# a mean. `fashion-divae` is a denoiser that is told the same code vectors, as further channels beside $x_t$. Both get the
# codes of test pictures.

# %% name="draws"
from diffusion_lab.latent import divae

fashion = data.load("fashion", "test")
shown_clothes = fashion.x[:10]
clothes_vq, drawer = (checkpoints.load(f"fashion-{one}", device="cpu") for one in ("vq", "divae"))
with torch.no_grad():
    meant = clothes_vq(shown_clothes)
few_steps = drawer.about["recipe"]["sampler"]
drawn_clothes = [
    divae.redrawn(drawer, clothes_vq, shown_clothes, seed=seed, **few_steps).x for seed in (0, 1)
]
plots.show(
    plots.strip(
        [shown_clothes, meant, *drawn_clothes],
        labels=["test picture", "mean", "drawn", "drawn again"],
    ),
    alt="Four rows of ten garments: test pictures; what the mean decoder makes of their codes, smooth; and two "
    "draws of the diffusion decoder from the same codes, which have grain and texture and differ in detail.",
    caption="From the same 49 codes: one mean, and two draws.",
)

# %% [markdown] name="draws-table-text"
# In numbers, from the file of the shipped model. *Codes kept*: the share of codes that come out the same when the answer is encoded
# again.

# %% name="draws-table"
of_drawer = checkpoints.info("fashion-divae")["metrics"]
show_table(
    [
        {
            "decoder": said,
            "mean squared error": of_drawer[way]["mse"],
            "FD / A": of_drawer[way]["fd_in_A"],
            "codes kept": of_drawer[way]["consistency"],
            "NFE": nfe,
        }
        for way, said, nfe in (("mean", "the mean", 0), ("drawn", "a draw", int(of_drawer["nfe"])))
    ],
    title=f"N = {int(of_drawer['pictures']):,} test pictures",
    digits={"mean squared error": ".4f", "FD / A": ".2f", "codes kept": ".2f"},
)

# %% [markdown] name="places-text"
# The paper chose by trial where the codes enter its U-Net, and says no more of it. Two of the possible places,
# with the same short training from two seeds each (`python benchmarks/latent.py decoders`): as channels beside $x_t$ (*input*, as
# above), or added to the features where the U-Net has the codes' own resolution (*features*). The error is that of
# $\hat x_0$ at three noise levels, on the same noises, so the difference of the squared errors is taken picture by picture.

# %% name="places"
of_places = measured["decoders"]
rows = []
for row in of_places["levels"]:
    for seed in range(of_places["seeds"]):
        apart, error = row["apart"][seed], 1.96 * row["apart_error"][seed]
        lower = (
            "input"
            if apart + error < 0
            else "features"
            if apart - error > 0
            else "cannot be told apart"
        )
        rows.append(
            {
                "λ": row["lam"],
                "seed": seed,
                "input": row["input"][seed],
                "features": row["features"][seed],
                "difference of squares": f"{apart:+.5f} ± {error:.5f}",
                "lower": lower,
            }
        )
show_table(
    rows,
    title=f"Root mean square error of x0, N = {of_places['pictures']}, {of_places['steps']:,} steps",
    digits={"λ": "+g", "input": ".4f", "features": ".4f"},
)

# %% [markdown] name="places-seen"
# No place wins everywhere: read the last column from the noisy end (negative $\lambda$) to the clean one. After so short a training this
# says which place learns faster, not which is better in the end.

# %% [markdown] name="two-text"
# ## Two codes for one picture: diffusion autoencoders
#
# An autoencoder of another kind (Preechakul et al. 2021; the survey's *latent DDIM*) makes the diffusion model itself the decoder. A
# picture becomes *two* codes: $z$, a handful of numbers from a learned encoder, which say what it is of, and $x_T$,
# as large as the picture, the noise from which DDIM draws it (lesson 05's walk upward). The decoder is told $z$ in every
# residual block,
#
# $$ h = \big((1 + t_s)\,\mathrm{GN}(h) + t_b\big)\,(1 + z_s), $$
#
# with $t_s, t_b$ read from the noise level and $z_s$ from $z$, and both are trained by the decoder's loss alone,
# $|\epsilon - \epsilon_\theta(x_t, t, z)|^2$. `fashion-diffae` has a $z$ of 16 numbers. What is in which code? Keep $z$, and
# draw $x_T$ anew:

# %% name="two"
from diffusion_lab.latent import diffae

pair = checkpoints.load("fashion-diffae", device="cpu")
few_calls, lam_range = lessons.pick(smoke=4, live=20), pair["model"].lam_range
steps_of = grid(pair["model"].schedule, few_calls, "uniform", lam_range=lam_range)

# %% [markdown] name="both-codes-text"
# Both codes of ten garments, and what comes of them:

# %% name="both-codes"
z, x_T = diffae.codes(pair, shown_clothes, steps_of)
own_noise = diffae.decode(pair["model"], z, x_T, steps_of)
others = [
    diffae.decode(pair["model"], z, randn(x_T.shape, generator(seed)), steps_of) for seed in (0, 1)
]

# %% [markdown] name="two-figure-text"
# Each column is one garment:

# %% name="two-figure"
plots.show(
    plots.strip(
        [shown_clothes, own_noise, *others],
        labels=["test picture", "z and x_T", "z, other noise", "z, other noise"],
    ),
    alt="Four rows of ten garments: test pictures; the same from both codes; and two rows from z with "
    "other noise, in which kind and outline stay and details change.",
    caption="Twenty steps of DDIM up and down: the second code holds what z leaves open.",
)
for name, x in (("z and its own x_T", own_noise), ("z and other noise", others[0])):
    print(f"{name}: root mean square error {(x - shown_clothes).square().mean().sqrt():.3f}")

# %% [markdown] name="between-text"
# Between two pictures: $z$ along a straight line, $x_T$ along a great circle (lesson 05), against the same walk through $x_T$
# alone, with a plain DDIM model, and against mixing the pixels.

# %% name="between"
plain = checkpoints.load_denoiser("fashion-vp1000", device="cpu")
a, b, shares = shown_clothes[1:2], shown_clothes[2:3], [i / 7 for i in range(8)]
by_z = diffae.interpolate(
    pair["model"], *(diffae.codes(pair, one, steps_of) for one in (a, b)), shares, steps_of
)[:, 0]
from diffusion_lab.samplers.inversion import encode, slerp

plain_steps = grid(
    plain.schedule, lessons.pick(smoke=4, live=20), "uniform", lam_range=plain.lam_range
)
noises = [sample(encode(plain, one, plain_steps)).x for one in (a, b)]
mixed_noise = torch.cat([slerp(*noises, share) for share in shares])
by_noise = sample(walk(ddim(), plain, mixed_noise, plain_steps)).x
by_pixels = torch.cat([torch.lerp(a, b, share) for share in shares])
plots.show(
    plots.strip([by_z, by_noise, by_pixels], labels=["z and x_T", "x_T alone", "pixels"]),
    alt="Three rows of eight pictures between two garments: through both codes, through the noise of a plain "
    "model, and by mixing pixels, which lays two garments over each other.",
    caption="Three ways from one garment to another.",
)

# %% [markdown] name="sliders-text"
# ### Something to touch: two codes, two sliders
#
# The code is folded. One slider walks $z$ from the left garment to the right one, the other walks $x_T$. Which of them changes what the
# picture is of, and what does the other one change?

# %% name="sliders" tags=["hide-input"]
both_codes = [diffae.codes(pair, one, steps_of) for one in (a, b)]


def two_sliders(z_share: float, noise_share: float):
    """The picture whose z and x_T lie at two different shares of the way."""
    z_now = torch.lerp(both_codes[0][0], both_codes[1][0], z_share)
    noise_now = slerp(both_codes[0][1], both_codes[1][1], noise_share)
    now = diffae.decode(pair["model"], z_now, noise_now, steps_of)
    return plots.grid(torch.cat([a, now, b]), columns=3, size=1.8, heads=["0", "now", "1"])


explore(
    two_sliders,
    z_share=slider("share of z", 0.0, 0.0, 1.0, 0.1),
    noise_share=slider("share of x_T", 1.0, 0.0, 1.0, 0.1),
    alt=lambda z_share, noise_share: (
        f"A garment at share {z_share:g} of z and {noise_share:g} of x_T, between the two that the codes are of."
    ),
    caption="The middle picture has z of one share of the way, and x_T of another.",
)

# %% [markdown] name="prior-text"
# ### New pictures, and a direction with a name
#
# A third network draws new $z$: a small MLP, trained by the same loss on the 10,000 $z$ of the training pictures. And since
# $z$ is a handful of numbers, a straight line can separate what it says: along the normal of a linear classifier, a picture
# changes by what it tells apart. Here: long sleeves (pullovers, coats, shirts) or not (t-shirts).

# %% name="prior"
from diffusion_lab.latent import prior

z_prior = checkpoints.load("fashion-diffae-z", device="cpu")
train_clothes = data.load("fashion")
tops = [
    i
    for i, name in enumerate(train_clothes.classes)
    if name in ("t-shirt", "pullover", "coat", "shirt")
]
some = torch.isin(train_clothes.labels, torch.tensor(tops)).nonzero()[:, 0][
    : lessons.pick(smoke=200, live=2000)
]
z_tops = prior.encoded(pair["encoder"], train_clothes.x[some])
long_sleeves = train_clothes.labels[some] != tops[0]
towards = prior.direction(z_prior["standardiser"](z_tops), long_sleeves)

# %% [markdown] name="edit-text"
# Eight t-shirts of the test part, moved along it; below them, garments of new $z$:

# %% name="edit"
t_shirts = fashion.x[fashion.labels == tops[0]][:8]
z, x_T = diffae.codes(pair, t_shirts, steps_of)
edits = [prior.edit(z_prior["standardiser"], z, towards, strength) for strength in (0.0, 1.5, 3.0)]
edited = [diffae.decode(pair["model"], one, x_T, steps_of) for one in edits]
fresh = diffae.decode(
    pair["model"],
    prior.draw(z_prior, 8, seed=0, sampler="ddim", steps=50),
    randn(x_T.shape, generator(5)),
    steps_of,
)
plots.show(
    plots.strip(
        [t_shirts, *edited[1:], fresh], labels=["t-shirts", "1.5 towards", "3 towards", "new z"]
    ),
    alt="Four rows of eight: t-shirts of the test part; the same moved towards long sleeves by 1.5 and by 3 "
    "standard deviations; and garments drawn from new z.",
    caption="One direction of z, and z that nobody encoded.",
)

# %% [markdown] name="discrete-text"
# ## Diffusion of the codes themselves: VQ-Diffusion
#
# An emoji is 80 codes now, and codes can be noised as they are. **Mask and replace** (Gu et al. 2021):
# in each step a code stays with probability $\alpha_t + \beta_t$, becomes each of the others with $\beta_t$, and is
# masked with $\gamma_t$; what is masked stays so, and $\alpha_t + K\beta_t + \gamma_t = 1$. After $t$ steps this has
# the same form with $\bar\alpha_t = \prod\alpha$, $\bar\gamma_t = 1 - \prod(1 - \gamma)$ and $\bar\beta_t = (1 - \bar\alpha_t -
# \bar\gamma_t)/K$, so no matrix needs to be multiplied, ever. Four codes, the paper's schedule, half way:

# %% name="discrete"
from diffusion_lab.discrete import categorical

kernel = categorical.make("mask_and_replace", K=4, T=100)
product = torch.eye(5, dtype=torch.float64)
for i in range(50):
    product = product @ kernel.matrix((i + 1) / 100, i / 100)
half_way = kernel.matrix(0.5)
print("closed form is 50 matrix products:", bool((product - half_way).abs().max() < 1e-12))

# %% [markdown] name="half-way-text"
# Half way, a row for what the code was and a column for what it is:

# %% name="half-way"
show_table(
    [{"from": f"code {i}" if i < 4 else "mask"} | {(f"to {j}" if j < 4 else "to mask"): p for j, p in enumerate(row)}
     for i, row in enumerate(half_way.tolist())],
    digits=dict.fromkeys(("to 0", "to 1", "to 2", "to 3", "to mask"), ".3f"),
)  # fmt: skip

# %% [markdown] name="reverse-text"
# The network says $\tilde p(x_0 \mid x_t, y)$, for every place a law over the $K$ codes (never the mask). A step back from $t$
# to any $s < t$ is Bayes' rule with that law, so steps can be skipped, as in DDIM; with one token this is
# exact, with many it is not, because all places are drawn at once, each as if the others were not.
#
# ### Guidance on logarithms
#
# Classifier-free guidance (lesson 07) mixed two predictions of a picture. Here (Tang et al. 2022) it mixes logarithms of
# two laws, with and without the text, and *then* makes a law of the result:
#
# $$ \log p_s(x_0) = \log p(x_0) + s\,\big(\log p(x_0 \mid y) - \log p(x_0)\big) - \log Z . $$
#
# With $s = 1$ that is the law given $y$, with $s = 0$ the one without; with more, codes that $y$ makes more likely are
# preferred more than they deserve.
#
# ### Exercise 6 (fill in): discrete guidance
#
# `logp_y` and `logp` are *log-probabilities* (B, D, K). Return those of $p_s$, (B, D, K), normalised over the codes.
#
# <details><summary>Hint 1: nudge</summary>
#
# Two lines: mix, normalise. What do the exponentials of your result sum to?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $-\log Z$ is minus the `logsumexp` over the last dimension: `log_softmax` does both at once.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Start from the law without text, add scale times the difference (with minus without), log_softmax over the codes.
# </details>


# %% name="my-guidance"
def my_guidance(logp_y, logp, scale):
    """Log-probabilities (B, D, K) of the guided law."""
    ### BEGIN SOLUTION
    return (logp + scale * (logp_y - logp)).log_softmax(-1)
    ### END SOLUTION


# %% name="check-guidance"
check.guidance(my_guidance)

# %% [markdown] name="guidance-text"
# ### Your guidance at work, beside one code after another
#
# `emoji-vqdiffusion` draws the 80 codes in 25 steps, each of which looks at all places at once and asks twice (with the
# text and without). `emoji-ar` is a transformer of the same size that says one code after another, 80 calls, as image
# transformers do; it keeps what it has computed for the codes before, so a call of it is short. Both know
# the same captions. The guidance below is yours (or, until it is right, the course's). The four columns on the left are captions of the training,
# the others are held out.

# %% name="guidance"
from diffusion_lab.data.captions import tokeniser
from diffusion_lab.denoisers import Wrapped
from diffusion_lab.discrete.categorical import Categorical
from diffusion_lab.latent.ldm import no_text

own_guidance = my_guidance if check.guidance.last == "right" else check.reference_guidance


class Guided(Wrapped):
    """A denoiser of codes whose log-probabilities are guided by the own function."""

    def __init__(self, inner, scale):
        super().__init__(inner)
        self.scale = scale

    def forward(self, x_t, t, tokens):
        without = no_text(tokens.shape[1]).expand_as(tokens)
        with_text, none = (self.inner(x_t, t, tokens=y).out for y in (tokens, without))
        return Categorical(x_t, own_guidance(with_text, none, self.scale))


code_model, ordered = (
    checkpoints.load(f"emoji-{one}", device="cpu") for one in ("vqdiffusion", "ar")
)
known, of_training = emoji_words.records("train"), lessons.pick(smoke=(0,), live=(0, 100, 300, 400))
some_texts = [full_caption(known[i]) for i in of_training] + captions[: len(of_training)]
reals = torch.cat(
    [data.load("emoji").x[list(of_training)], emoji.x[list(shown)][: len(of_training)]]
)
said, _ = tokeniser().encode_all(some_texts)
by_codes = {}
for scale in (1.0, 2.0):
    made = categorical.generate(Guided(code_model, scale), len(said), steps=25, tokens=said)
    by_codes[f"25 steps, scale {scale:g}"] = told.codes.decode(code_model, made.x, vq)
by_codes["one by one, 80 calls"] = told.draw(ordered, some_texts, scale=1.0).x
plots.show(
    plots.strip([reals, *by_codes.values()], labels=["the emoji", *by_codes]),
    alt="Four rows of eight: emoji, four of the training and four held out; pictures of their words by VQ-Diffusion "
    "without and with guidance; and by the autoregressive model. On the left what is asked for can often be "
    "recognised, on the right less; the last row is the roughest.",
    caption="From the same words: all codes at once in 25 steps, and one code after another.",
)

# %% [markdown] name="race-text"
# ## Side by side
#
# Four ways from a caption to a picture, each measured in the same way: one picture for each of 1,596 captions, at several scales of
# guidance, of which the table shows the one with the least distance (`python benchmarks/latent.py words`; the model of one code after
# another was asked at scale 1 alone). *Latents, equal work* is the latent model trained so briefly that it and its autoencoder together cost what the
# pixels cost (asked at scales 2 and 3). *Trained* are the core-seconds of the training, the autoencoder's counted in. *Floor* is the FD
# of what the autoencoder gives back.
#
# Of the captions 1,207 are those of training emoji, and a model that recites these has a small FD. So the last columns look at the
# 389 captions held out: the share of pictures in which the judge sees the right category. *Copied* is the share of pictures nearer to
# a training emoji than all but 5% of the emoji held out (which have 0.05, by its definition), of captions of the training and of those held out.

# %% name="race"
ways = {
    "emoji-text": ("pixels", None),
    "short": ("latents, equal work", "emoji-kl"),
    "emoji-ldm": ("latents", "emoji-kl"),
    "emoji-vqdiffusion": ("codes, all at once", "emoji-vq"),
    "emoji-ar": ("codes, one by one", "emoji-vq"),
}
told_captions = measured["words"] | {"short": measured["equal"]}
race_rows = []
for name, (way, stage) in ways.items():
    one = told_captions[name]
    scale, best = min(one["scales"].items(), key=lambda pair: pair[1]["fd"])
    first = checkpoints.info(stage)["cpu_seconds"] if stage else 0
    race_rows.append(
        {
            "model of": way,
            "trained (core-s)": round(one["trained_core_seconds"] + first),
            "scale": float(scale),
            "NFE": best["nfe"],
            "core-s / 1000": best["core_seconds_per_1000"],
            "FD / A": best["fd_in_A"],
            "floor": checkpoints.info(stage)["metrics"]["rfd_in_A"] if stage else 0.0,
            "category": best["held_out"]["judged"],
            "±": 1.96 * best["held_out"]["judged_error"],
            "copied, train": best["train"]["copied"],
            "held out": best["held_out"]["copied"],
        }
    )

# %% [markdown] name="race-table-text"
# The five rows:

# %% name="race-table"
show_table(
    race_rows,
    title="FD: N = 1,596; category: 389 captions held out",
    digits={
        "copied, train": ".2f",
        "held out": ".2f",
        "core-s / 1000": ".0f",
        "FD / A": ".2f",
        "floor": ".2f",
        "category": ".2f",
        "±": ".2f",
        "scale": "g",
    },
)

# %% [markdown] name="recite-text"
# Compare the first two rows, the question of this lesson: as much work in training, the autoencoder's counted in. Then the third, which
# has the same autoencoder and a longer training: an autoencoder is paid once for all the models that use it. But read its distance beside
# *copied, train*: of the captions it was trained on, it gives back a training emoji more than one time in three. The intervals of the
# category say what is decided of captions held out. One training of each; no seeds.
#
# ### Who recites?
#
# 1,207 emoji are few. Models of codes can say how probable they find an emoji, given its caption: one code after another exactly, all
# at once by the bound of lesson 02. In bits for all 80 codes, on emoji of the training and on others; who knows nothing
# needs the last column.

# %% name="recite"
of_bits = measured["bits"]
show_table(
    [
        {
            "codes": said,
            "training emoji": f"{of_bits[name]['train']['bits']:.0f} ± {1.96 * of_bits[name]['train']['error']:.0f}",
            "held out": f"{of_bits[name]['test']['bits']:.0f} ± {1.96 * of_bits[name]['test']['error']:.0f}",
            "all codes alike": f"{of_bits['uniform']:.0f}",
        }
        for name, said in (("emoji-vqdiffusion", "all at once (bound)"), ("emoji-ar", "one by one"))
    ],
    title=f"bits, N = {of_bits['pictures']} of each",
)

# %% [markdown] name="recite-seen"
# The one that goes code by code knows its training emoji by heart. (Yet only half of its pictures of training captions are copies: where one
# code is drawn otherwise, it goes on from a beginning that it has never met.) The other needs a fifth of the bits for them, and for new
# ones neither does better than who knows nothing. Neither was stopped in time: the race compares what these trainings made, not what the two methods could do
# with more data. And it shows why a distance over training captions must not stand alone: by FD the two are alike, and what they
# show of captions held out is not.

# %% [markdown] name="cost-text"
# ## What did it cost
#
# The rows that this lesson adds to the course's running table.

# %% name="cost"
few_words = captions * (64 // len(captions))
with metrics.Meter(*told.stages(ldm_model), pictures=len(few_words)) as spent:
    told.draw(ldm_model, few_words)
with metrics.Meter(shipped, decoder, pictures=64) as phantoms_spent:
    head(shipped, asked[:64], own_s, sampler="ddim", steps=50)

# %% [markdown] name="cost-rows-text"
# FD is that of the measurement above.

# %% name="cost-rows"
lessons.cost_row(
    12,
    {"system": "LDM, emoji from words", **spent.cost.row(), "FD / A": round(quality["fd_in_A"], 2), "N": int(quality["pictures"])},
    {"system": "LDM + DDIM, phantoms", **phantoms_spent.cost.row(), "FD / A": None, "N": None},
)  # fmt: skip

# %% [markdown] name="paper-text"
# ## Paper against here
#
# Papers work at 256 x 256 with networks a thousand times larger. What can be compared is which way a number goes.

# %% name="paper"
samplers = of_heads["samplers"]
slow, fast = samplers["DDPM, 1000"], samplers["DDIM, 50"]
times_faster = average(slow, "core_seconds_per_1000") / average(fast, "core_seconds_per_1000")
error_grows = average(fast, "mse") / average(slow, "mse") - 1
pair_found = checkpoints.info("fashion-diffae")["metrics"]
z_found = checkpoints.info("fashion-diffae-z")["metrics"]
held_out = quality["held_out"]
lines = [
    ("LDM + DDIM: 50 steps for 1,000, 19 times faster", f"{times_faster:.0f} times faster, error {100 * error_grows:+.1f}%"),
    ("    what was asked is there: r = 0.97 (ventricles)", f"r = {sum(row['r']['ventricle'] for row in fast) / len(fast):.2f}"),
    ("diffusion autoencoder: z and x_T give the picture back", f"error {pair_found['rmse_own']} against {pair_found['rmse_other']} with other noise"),
    ("latent DDIM: new z, few steps", f"FD {z_found['fd_in_A']} A with {z_found['steps']} steps, N = {z_found['pictures']:,}"),
    ("LDM: words steer the picture", f"category right {held_out['judged']:.2f}, of the emoji themselves {held_out['real_judged']:.2f}"),
]  # fmt: skip
show_table([{"claim": claim, "here": here} for claim, here in lines])

# %% [markdown] name="paper-seen"
# The first two claims are those of Pinaya et al. (142.3 s a scan with 1,000 steps, 7.6 s with 50). Our phantoms are easier than
# brains: four numbers fix every pixel, so a sampler cannot lose variety, and the whole error of all rows is nearly that
# of the autoencoder.
#
# ## When it does not help
#
# - **With a large budget on small data** the floor is what counts, and pixels have none: the first figure.
# - **Where detail is the content** (text in a picture, a texture to be measured): what the autoencoder softened no
#   diffusion brings back.
# - **A score of obedience is no eye.** On captions never seen, the embedding picks the right caption for our pictures as
#   often as for the emoji themselves (the last two columns of the table of obedience), and nobody would take the one for
#   the other.
# - **One autoencoder, one model.** A denoiser of latents is worth nothing with another decoder, even of the same
#   recipe: the package refuses it.
#
# ## Recap
#
# - Compression and generation are two errors; measure the first before you train the second.
# - The best compression depends on the budget: the U moves to the right as work gets cheap.
# - Latents are scaled to unit variance, and the scale is part of the model.
# - The training step is that of lesson 02, on cached latents; words enter by cross-attention.
# - Any sampler of the course walks in the latent space.
# - A decoder may be a mean, a draw, or told a semantic code; each pays in another coin.
# - Codes can be diffused as they are, and guidance mixes logarithms.
#
# Next, in lesson 13, which is planned: not one small space, but a pyramid of them.

# %% [markdown] name="reading"
# ## Further reading
#
# - Rombach et al. 2021, *High-Resolution Image Synthesis with Latent Diffusion Models*, arXiv 2112.10752.
# - Pinaya et al. 2022, *Brain Imaging Generation with Latent Diffusion Models*, arXiv 2209.07162.
# - Preechakul et al. 2021, *Diffusion Autoencoders: Toward a Meaningful and Decodable Representation*, arXiv 2111.15640.
# - Shi, Wu et al. 2022, *DiVAE: Photorealistic Images Synthesis with Denoising Diffusion Decoder*, arXiv 2206.00386.
# - Gu et al. 2021, *Vector Quantized Diffusion Model for Text-to-Image Synthesis*, arXiv 2111.14822; Tang et al. 2022, *Improved
#   Vector Quantized Diffusion Models*, arXiv 2205.16007.
# - van den Oord et al. 2017, *Neural Discrete Representation Learning*, arXiv 1711.00937.
