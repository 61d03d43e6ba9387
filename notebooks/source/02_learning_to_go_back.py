# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown] name="title"
# # 02 Learning to go back: why does predicting noise work?
#
# Lesson 01 destroyed pictures. This one learns to undo it, one small step at a time, and asks the
# question that every newcomer has: we want a *distribution* over pictures, so why is it enough to train
# a network to guess *noise*? The answer is one inequality, taken apart term by term, in bits.
#
# **Goals.** You will be able to
#
# - say what one step back looks like when the clean datum is known (the posterior),
# - write DDPM's two algorithms, training and sampling, and draw digits with them,
# - write down every term of the variational bound and compute it in bits per dimension,
# - say which steps matter, and which reverse variance is best for which data,
# - use a trained network with fewer steps.
#
# **Prerequisites.** Lesson 01; conditional means, Bayes' rule, the KL divergence of two Gaussians; a
# training loop in PyTorch. From lesson 00 the Fréchet distance (FD) and its unit A, which come back where
# pictures are judged.
#
# **Time.** {{time}}.
#
# **Data.** One-dimensional data whose density is a formula; 8 x 8 digits (UCI, by Alpaydin and Kaynak, CC BY
# 4.0, as scikit-learn ships them); a few pictures of Fashion-MNIST at the end.
#
# **On the map.** DDPM (row 1 of the survey, its section II.A, equations 1 to 7), with its neighbour
# Improved DDPM (learned variances, importance-sampled $t$, strided sampling).

# %% [markdown] name="small-text"
# ## One step back
#
# We stand at a noisy value $x_t$ and want a slightly less noisy $x_s$. What could it have been? For
# one-dimensional data, a mixture of two Gaussians, Bayes' rule answers by brute force:
# $q(x_s \mid x_t) \propto p_s(x_s)\, q(x_t \mid x_s)$. The next cell draws it for three step
# lengths, from the same $x_t$ at step 300, and beside it the Gaussian of the same mean and variance.

# %% name="imports"
import math

import torch

from diffusion_lab import schedules
from diffusion_lab.course import lessons, plots
from diffusion_lab.course.checks import lesson02 as check
from diffusion_lab.data import toys
from diffusion_lab.device import device, generator
from diffusion_lab.forward import posterior

linear = schedules.linear(1000)
LN2 = math.log(2)
torch.set_num_threads(1)  # with networks as small as these, more threads wait for each other

# %% [markdown] name="back-text"
# The density on a line of points, by Bayes' rule:

# %% name="back"
toy = toys.two_class()
x = torch.linspace(-4, 4, 2001, dtype=torch.float64)


def step_back(x_t: float, t: float, s: float):
    """q(x_s | x_t) on the points x, and the Gaussian of its mean and variance."""
    alpha_t, (alpha_s, sigma_s) = linear.alpha(t), linear.alpha_sigma(s)
    v_ts = posterior(linear, t, s).added
    log_q = toy.log_prob(x[:, None], alpha_s, sigma_s)
    log_q = log_q - 0.5 * (x_t - alpha_t / alpha_s * x) ** 2 / v_ts
    q = log_q.exp() / torch.trapezoid(log_q.exp(), x)
    mean = torch.trapezoid(q * x, x)
    std = torch.trapezoid(q * (x - mean) ** 2, x).sqrt()
    bell = torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    near = (x - mean).abs() < 4 * std
    return x[near], {"exact": q[near], "Gaussian": bell[near]}


# %% [markdown] name="small-figure-text"
# Compare the two curves as the step grows.

# %% name="small"
fig, ax = plots.axes(1, 3, size=(3.4, 2.8))
for panel, s in zip(ax, (0.299, 0.2, 0.0), strict=True):
    where, curves = step_back(-0.5, 0.3, s)
    plots.lines(where, curves, ax=panel, xlabel="$x_s$", ylabel="density")
    panel.set_title(f"from step 300 to {round(1000 * s)}")
    panel.get_legend().remove()
handles = ax[0].get_legend_handles_labels()
fig.legend(*handles, loc="outside lower center", ncols=2)
plots.show(
    fig,
    alt="Three panels of densities of x_s. From step 300 to 299 the exact density and a Gaussian "
    "lie on each other. To step 200 they differ. To step 0 the exact density has two clear humps "
    "and the Gaussian one broad hump between them.",
    caption="What xₛ may have been, given xₜ. Small steps back are Gaussian; large ones are not.",
)

# %% [markdown] name="small-seen"
# This is the whole reason for many small steps: **a small step back is very nearly a Gaussian, whatever
# the data** (small beside the noise that is already there), so a network need only supply its mean (and
# perhaps its variance). One giant step would have to describe the two humps.
#
# ## If the clean datum were known
#
# Given $x_0$ as well, a step back of *any* length is a Gaussian, and its coefficients are formulas
# ("survey 3" is the survey's number; its equation 1 is lesson 01). With $\bar\alpha_t = \alpha_t^2$ and, for the step from $s$ to $t$,
# $1 - \beta = \bar\alpha_t/\bar\alpha_s$:
#
# $$ q(x_s \mid x_t, x_0) = \mathcal N(c_0 x_0 + c_t x_t,\ \tilde\beta), \quad
#  c_0 = \frac{\sqrt{\bar\alpha_s}\,\beta}{1-\bar\alpha_t}, \quad
#  c_t = \frac{\sqrt{1-\beta}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}, \quad
#  \tilde\beta = \beta\,\frac{1-\bar\alpha_s}{1-\bar\alpha_t}. \tag{survey 3} $$
#
# <details><summary>Where this comes from: Bayes' rule in three lines</summary>
#
# The step from $x_s$ to $x_t$ does not look at $x_0$, so $q(x_s \mid x_t, x_0) \propto q(x_t \mid x_s)\, q(x_s \mid x_0)$. Both are
# Gaussians; up to what does not contain $x_s$,
#
# $$ \log q(x_s \mid x_t, x_0) = -\frac{(x_t - \sqrt{1-\beta}\,x_s)^2}{2\beta}
#  - \frac{(x_s - \sqrt{\bar\alpha_s}\,x_0)^2}{2(1-\bar\alpha_s)} + \dots $$
#
# This is quadratic in $x_s$, hence a Gaussian. The factor of $-x_s^2/2$ is one over its variance (use
# $(1-\beta)\,\bar\alpha_s = \bar\alpha_t$), and the factor of $x_s$ is its mean over its variance:
#
# $$ \frac{1}{\tilde\beta} = \frac{1-\beta}{\beta} + \frac{1}{1-\bar\alpha_s}
#  = \frac{1-\bar\alpha_t}{\beta\,(1-\bar\alpha_s)}, \qquad
#  \text{mean} = \tilde\beta\Big(\frac{\sqrt{1-\beta}}{\beta}\,x_t
#  + \frac{\sqrt{\bar\alpha_s}}{1-\bar\alpha_s}\,x_0\Big) = c_t x_t + c_0 x_0. $$
# </details>
#
# Three unknown numbers can be checked by three identities. Two are necessary: if $x_t$ has the mean and
# variance of $q(x_t \mid x_0)$, then $x_s$ must come out with those of $q(x_s \mid x_0)$. They leave one number
# free (lesson 05 makes a sampler of that freedom). The third fixes it: the covariance of $x_s$ and $x_t$ must be that
# of the forward step, $c_t \sigma_t^2 = \frac{\alpha_t}{\alpha_s} \sigma_s^2$. For comparison, `deterministic` takes
# variance 0 and chooses the two weights so that the first two identities hold.


# %% name="identities-of"
def identities(i: int, deterministic: bool = False) -> dict:
    """The weights at step i of 1000, and which of the three identities hold."""
    t, s = i / 1000, (i - 1) / 1000
    (alpha_t, sigma_t), (alpha_s, sigma_s) = linear.alpha_sigma(t), linear.alpha_sigma(s)
    c_t, c_0, var, _ = posterior(linear, t, s)
    if deterministic:
        c_t, c_0, var = sigma_s / sigma_t, alpha_s - sigma_s / sigma_t * alpha_t, 0.0
    fits = {
        "mean": c_0 + c_t * alpha_t - alpha_s,
        "variance": c_t**2 * sigma_t**2 + var - sigma_s**2,
        "covariance": c_t * sigma_t**2 - alpha_t / alpha_s * sigma_s**2,
    }
    row = {"step": f"{i}, variance 0" if deterministic else str(i), "c_0": c_0, "c_t": c_t}
    return row | {name: "fits" if abs(gap) < 1e-12 else "no" for name, gap in fits.items()}


# %% [markdown] name="identities-text"
# The posterior at four steps; the last row is the comparison:

# %% name="identities" tags=["nbval-check-output"]
rows = [*map(identities, (2, 10, 100, 1000)), identities(100, deterministic=True)]
plots.show_table(rows, digits={"c_0": ".4f", "c_t": ".4f"})

# %% [markdown] name="posterior-text"
# Variance 0 passes two of the three: it is a possible way back to the right $q(x_s \mid x_0)$, but not the posterior.
# Now the weights. Early in the way back (step 1000) $x_0$ hardly counts; at step 2 it makes up more than half of the mean,
# and at step 1, where $\bar\alpha_s = 1$, all of it.
#
# ### Exercise 1 (fill in): the posterior
#
# Return mean and variance of $q(x_s \mid x_t, x_0)$. `abar_t` < `abar_s` are floats.
#
# <details><summary>Hint 1: nudge</summary>
#
# First beta of this step, from the two abars.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# The three formulas above; roots in both weights, none in the variance.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Form the ratio of the two abars, and from it beta. Then the two weights, each a root times a difference,
# divided by what is noise at t. The mean is their sum with x0 and x_t; the variance has no root.
# </details>


# %% name="my-posterior"
def my_posterior(x0, x_t, abar_t: float, abar_s: float):
    """(mean, variance) of q(x_s | x_t, x_0)."""
    ### BEGIN SOLUTION
    a = abar_t / abar_s
    c_0 = math.sqrt(abar_s) * (1 - a) / (1 - abar_t)
    c_t = math.sqrt(a) * (1 - abar_s) / (1 - abar_t)
    return c_0 * x0 + c_t * x_t, (1 - a) * (1 - abar_s) / (1 - abar_t)
    ### END SOLUTION


# %% name="check-posterior"
check.posterior(my_posterior)

# %% [markdown] name="noise-text"
# ## Why guess the noise?
#
# The reverse model takes that posterior and puts a guess in place of $x_0$:
#
# $$ p(x_s \mid x_t) = \mathcal N(c_0\, \hat x_0(x_t) + c_t\, x_t,\ S^2). \tag{survey 2} $$
#
# Two Gaussians then differ only by their means and variances. Their KL divergence holds the means as
# $c_0^2\, |x_0 - \hat x_0|^2 / 2S^2$: **a squared error of $x_0$**. And as $x_0 = (x_t - \sigma
# \epsilon)/\alpha$, a squared error of $x_0$ is one of $\epsilon$. Nothing else is hidden in "predicting
# noise": the best guess under a squared error is the conditional mean $E[x_0 \mid x_t]$, and that is
# all a small Gaussian step needs.
#
# But the posterior knows $x_0$, and the model must go back without it. Why may it be trained on KLs *given* $x_0$? Averaged
# over the $x_0$ that may hide behind $x_t$, they differ from the KL that we want by a constant:
#
# $$ E_{q(x_0|x_t)}\, KL\big(q(x_s|x_t,x_0)\,\|\,p(x_s|x_t)\big) = KL\big(q(x_s|x_t)\,\|\,p(x_s|x_t)\big) + \text{const}. $$
#
# <details><summary>Where this comes from</summary>
#
# ($p$ enters both sides as $-E_q \log p(x_s|x_t)$ only. The constant is what $x_0$ still tells about $x_s$.)
# </details>
#
# So the $p$ that is best for the left side is best for the right one too.
#
# Then why $\epsilon$ and not $x_0$? In the algebra it makes no difference. In training it does: equal weight on the error of $\epsilon$ is
# weight $\mathrm{SNR} = \alpha^2/\sigma^2$ on that of $x_0$ (lesson 03).
#
# Both forms of the mean, with exact guesses. Written with $\epsilon$ it is
#
# $$ c_0\, \hat x_0 + c_t\, x_t = \frac{1}{\sqrt{1-\beta_t}} \Big(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\, \hat\epsilon\Big). \tag{survey 6} $$

# %% name="two-means" tags=["nbval-check-output"]
x0 = toy.sample(1000, generator(0))
eps = torch.randn(1000, 1, generator=generator(1), dtype=torch.float64)
gaps = []
for i in (2, 100, 1000):
    t, beta = i / 1000, linear.betas()[i - 1].item()
    p = toy.denoiser(linear)(linear.alpha(t) * x0 + linear.sigma(t) * eps, t)
    q = posterior(linear, t, t - 0.001)
    by_eps = (p.x_t - beta / p.sigma * p.eps) / (1 - beta) ** 0.5
    gap = (q.c_0 * p.x0 + q.c_t * p.x_t - by_eps).abs().max()
    gaps.append({"step": i, "the two means agree": bool(gap < 1e-9)})
plots.show_table(gaps)

# %% [markdown] name="walk-text"
# ## The way back as a loop: DDPM's Algorithm 2
#
# Start from pure noise, $x_T \sim \mathcal N(0, I)$. At each step from $T$ down to 1 ask for the noise, form the mean
# (survey 6), and add fresh noise of variance $S^2$; DDPM takes $S^2 = \beta_t$. In the last step the mean itself is the answer.
#
# We want to see it draw before anything is trained. So here is data whose best guess is a formula: 8 x 8 digits,
# each class replaced by the Gaussian of its mean and covariance. The small network of this lesson stands
# beside it, as a recipe; we come to it next.

# %% name="recipe"
from diffusion_lab import data
from diffusion_lab.training import Recipe, build

digits, test = data.load("digits"), data.load("digits", "test")
small_unet = {"name": "unet", "patch": 1, "widths": (16, 32), "out_channels": 2}
T = 200
recipe = Recipe(
    "digits-vlb", "lesson 02", data="digits", net=small_unet, schedule={"name": "linear", "T": T},
    kind="eps", sd=1.0, lam_range=None, weighting={"name": "simple"}, times={"law": "grid"},
    hybrid=True, conditional=False,
)  # fmt: skip

# %% [markdown] name="mixture-text"
# The ten Gaussians:

# %% name="exact-imports"
from diffusion_lab.exact import Gaussian, GaussianMixture
from diffusion_lab.metrics.likelihood import dequantise, exact_nll

# %% [markdown] name="mixture-def-text"
# One Gaussian a class:


# %% name="mixture"


def ten_gaussians(x, labels, ridge: float) -> GaussianMixture:
    """``ridge`` is added to the variance of every pixel."""
    classes = [x[labels == k].flatten(1).double() for k in range(10)]
    return GaussianMixture(
        [len(c) / len(x) for c in classes],
        torch.stack([c.mean(0) for c in classes]),
        torch.stack([torch.cov(c.T) for c in classes]) + ridge * torch.eye(64, dtype=torch.float64),
    )


# %% [markdown] name="ridge-text"
# The covariances are not quite what 1500 digits say: many pixels at the rim are always empty, and a variance
# of 0 has no density. A small number, the *ridge*, is added to each variance. Which? The one that gives the
# fewest bits on 300 training digits that were kept out:

# %% name="ridge"
tried, kept_out = {}, slice(1200, None)
smooth = dequantise(digits.x[kept_out].flatten(1).double(), digits.levels, generator(11))
for ridge in (0.05, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005):
    fitted = ten_gaussians(digits.x[:1200], digits.labels[:1200], ridge)
    tried[ridge] = exact_nll(fitted, smooth, digits.levels).value
ridge = min(tried, key=tried.get)
fitted = ten_gaussians(digits.x, digits.labels, ridge)
print(f"ridge {ridge}: {tried[ridge]:.3f} bits a pixel; with 0.02 they are {tried[0.02]:.3f}")

# %% [markdown] name="walk-back-text"
# ### Exercise 2 (build): the sampling loop
#
# `guess(x, i)` is the guess of the noise in `x` at step `i`. `abar` holds $\bar\alpha_0 = 1, \bar\alpha_1, \dots, \bar\alpha_T$, so
# that `abar[i]` belongs to step `i`. `noise(i)` gives the fresh noise of step `i`, of the shape of `x`. ($T$ is `len(abar) - 1`, here and below.) Start at `x`
# $= x_T$ and return $x_0$, with $S^2 = \beta_i$.
#
# <details><summary>Hint 1: nudge</summary>
#
# What does the schedule say about step i alone? And in which step is nothing added?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $\beta_i = 1 - \bar\alpha_i/\bar\alpha_{i-1}$, and the mean is the survey's equation 6.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# For i from T down to 1, both ends included: beta of this step; subtract from x the guess of the noise, with the factor
# of equation 6; divide by the root; unless i is 1, add the noise of this step times the root of beta. Return x.
# </details>


# %% name="my-walk-back"
def my_walk_back(guess, x, abar, noise):
    """Algorithm 2: from x_T to x_0."""
    ### BEGIN SOLUTION
    for i in range(len(abar) - 1, 0, -1):
        beta = 1 - abar[i] / abar[i - 1]
        x = (x - beta / (1 - abar[i]).sqrt() * guess(x, i)) / (1 - beta).sqrt()
        if i > 1:
            x = x + beta.sqrt() * noise(i)
    return x
    ### END SOLUTION


# %% name="check-walk-back"
check.walk_back(my_walk_back)

# %% [markdown] name="draw-exact-text"
# It draws, with 200 steps and the exact guess of the ten Gaussians: your loop if the check says `right`, else ours.

# %% name="draw-exact"
short = schedules.linear(T)
abar = torch.tensor(short.abar)
denoiser = fitted.denoiser(short)
mine = check.walk_back.result(my_walk_back).ok
walk_back = my_walk_back if mine else check.our_walk_back


def drawn_by(guess, n: int = 12, seed: int = 0):
    """n digits from the sampling loop; the same start and the same fresh noise for every guess."""
    fresh = torch.randn(T + 1, n, 1, 8, 8, generator=generator(seed))
    with torch.no_grad():
        return walk_back(guess, fresh[0], abar, lambda i: fresh[i])


def exact_guess(x, i):
    """The noise that the ten Gaussians expect in x at step i."""
    return denoiser(x.flatten(1), i / T).eps.reshape(x.shape)


by_formula = drawn_by(exact_guess)
plots.show(
    plots.strip([digits.x[:12], by_formula], labels=["real", "ten Gaussians"]),
    alt="Two rows of twelve 8 by 8 digits: real ones, and softer ones of which some can be read.",
    caption=f"Below: drawn by {'your' if mine else 'our'} loop from noise, with a formula as guess.",
)

# %% [markdown] name="draw-exact-seen"
# No network was trained for this row. Where a digit looks like two at once, that is the model's fault, not
# the loop's: a Gaussian also holds what lies between two ways to write a digit.
#
# ## Training: DDPM's Algorithm 1
#
# Now learn the guess. DDPM's **simple loss** draws a step uniformly, makes $x_t$ in one jump, and asks for the noise:
#
# $$ L_{\rm simple} = E_{t, x_0, \epsilon}\, |\epsilon - \hat\epsilon(x_t, t)|^2. \tag{survey 7} $$
#
# The network is a small U-Net: it sees $x_t$, a picture, and returns a picture of the same size; the step enters as a
# number, turned into waves of many lengths, and shifts and scales its layers (lesson 03 opens it up). Here it
# is wrapped, so that it takes the whole numbers of the algorithm:


# %% name="net"
class Net(torch.nn.Module):
    """net(x_t, i): the guess of the noise in x_t (B, 1, 8, 8) at the steps i, (B,) or one for all."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.model = build(recipe.but(seed=seed), digits)

    def forward(self, x_t, i):
        return self.model(x_t, torch.as_tensor(i).double().expand(len(x_t)) / T).eps


# %% [markdown] name="training-text"
# ### Exercise 3 (build): the training loop
#
# Train `net` in place, for `steps` steps, and return the list of the losses. In every step draw 64 pictures of `x0s`
# (N, 1, 8, 8), and *for each of them* a step number from 1 to $T$ (`len(abar) - 1`) and noise; all random numbers come from the generator
# `gen`. `net(x_t, i)` takes the step numbers as a tensor (64,). The optimiser is Adam, with learning rate 0.002.
#
# <details><summary>Hint 1: nudge</summary>
#
# Five things happen in a step: draw, jump, ask, compare, learn. Which of them needs abar?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$, with one $\bar\alpha_t$ for each picture: give it the shape (64, 1, 1, 1).
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Before the loop: Adam over net.parameters(). In the loop: random indices into x0s; random whole numbers from 1 up to and
# including T (the upper end of torch.randint is excluded); normal noise of the pictures' shape; the jump; the mean of the squared
# difference between the network's answer and the noise; clear the gradients, go backward, step; keep the loss as a
# number.
# </details>


# %% name="my-training"
def my_training(net, x0s, abar, steps, gen):
    """Algorithm 1: trains net, returns the losses."""
    ### BEGIN SOLUTION
    adam, losses = torch.optim.Adam(net.parameters(), lr=2e-3), []
    for _ in range(steps):
        x0 = x0s[torch.randint(len(x0s), (64,), generator=gen)]
        i = torch.randint(1, len(abar), (64,), generator=gen)
        eps = torch.randn(x0.shape, generator=gen)
        a = abar[i].view(-1, 1, 1, 1)
        loss = (net(a.sqrt() * x0 + (1 - a).sqrt() * eps, i) - eps).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses
    ### END SOLUTION


# %% name="check-training"
check.training(my_training)

# %% [markdown] name="train-mine-text"
# Your loop (or ours), in seconds; the digits are drawn twice on the way, from the noise of the row above.

# %% name="train-mine"
rounds = lessons.pick(smoke=(2, 2), live=(100, 300), full=(300, 2700))
training = my_training if check.training.result(my_training).ok else check.our_training
my_net, losses, stages = Net(), [], []
for seed, count in enumerate(rounds):
    losses += training(my_net, digits.x, abar, count, generator(seed, 13))
    stages.append(drawn_by(my_net))

# %% [markdown] name="losses-text"
# Did it learn? The mean loss at the beginning and at the end (an answer of 0 would have loss 1):

# %% name="losses"
early = max(1, len(losses) // 10)
print(f"loss over the first {early} steps: {sum(losses[:early]) / early:.3f}, ", end="")
print(f"over the last {early}: {sum(losses[-early:]) / early:.3f}")

# %% [markdown] name="mine-text"
# What it learned:

# %% name="mine"
plots.show(
    plots.strip(
        [by_formula, *stages], labels=["formula", f"{rounds[0]} steps", f"{sum(rounds)} steps"]
    ),
    alt="Three rows of twelve 8 by 8 digits from the same noise: by the formula, and by the network "
    "after a short and a longer training.",
    caption="The same noise and the same loop; the guess is a formula, then a network in training.",
)

# %% [markdown] name="mine-seen"
# That is a whole diffusion model: two loops, and everything else in this lesson is about what they leave open. What
# do the two choices mean that DDPM made in passing, the equal weight of all steps and $S^2 = \beta_t$?
#
# ## What the simple loss leaves out

# %% [markdown] name="weight-figure-text"
# With the mean by $\epsilon$ (survey 6), the mean part of a step's KL is $w_t\,|\epsilon-\hat\epsilon|^2$ with
#
# $$ w_t = \frac{\beta_t^2}{2 S_t^2\,(1-\beta_t)\,(1-\bar\alpha_t)}. $$
#
# <details><summary>Where this comes from</summary>
#
# When the noise is off by 1, the mean (survey 6) is off by $d = \beta_t / \sqrt{(1-\beta_t)(1-\bar\alpha_t)}$. Two Gaussians of variance
# $S^2$ whose means are $d$ apart have the KL divergence $d^2/2S^2$.
# </details>
#
# The simple loss drops this weight. The figure shows what is dropped, for $S^2 = \beta_t$.

# %% name="weight-figure"
at = torch.arange(1, 1001)
beta, level = linear.betas(), linear.alpha(at / 1000) ** 2
dropped = beta / (2 * (1 - beta) * (1 - level))
simple = torch.full_like(dropped, dropped.mean().item())
fig, ax = plots.axes(size=(6.0, 3.2))
curves = {"bound": dropped, "simple (same mean)": simple}
weight = r"weight on $|\epsilon - \hat\epsilon|^2$"
plots.lines(at, curves, ax=ax, log="xy", xlabel="step t", ylabel=weight)
plots.show(
    fig,
    alt="On log-log axes the bound's weight falls from 0.5 at step 1 to about 0.005 near step 350 "
    "and rises to 0.01 at step 1000; the simple loss is a horizontal line.",
    caption="The weight of the noise's squared error: in the bound, and in the simple loss.",
)
print(f"step 1 weighs {dropped[0] / dropped.min():.0f} times as much as the lightest step")

# %% [markdown] name="weight-seen"
# The bound cares most about the first steps, where the noise is too small to see. The simple loss gives
# all steps the same weight. What comes of it, in bits and in pictures, is measured further
# down. First the bound itself.
#
# ## The bound, term by term
#
# No formula gives $p(x_0)$ of the whole chain, but an upper bound of $-\log p(x_0)$ follows from Jensen's
# inequality (survey 4), and it falls apart into one term a step:
#
# $$ -\log p(x_0) \le E\Big[\underbrace{KL(q(x_T|x_0)\,\|\,p(x_T))}_{L_T} + \sum_{t=2}^{T}
#  \underbrace{KL(q(x_{t-1}|x_t,x_0)\,\|\,p(x_{t-1}|x_t))}_{L_{t-1}}
#  \underbrace{-\log p(x_0|x_1)}_{L_0}\Big]. \tag{survey 5} $$
#
# <details><summary>Where this comes from: Jensen, Bayes, and a telescope</summary>
#
# Write $p(x_0)$ as a mean over forward chains, and take the logarithm inside the mean ($-\log$ is convex, Jensen):
#
# $$ -\log p(x_0) = -\log E_q\, \frac{p(x_{0:T})}{q(x_{1:T}|x_0)}
#  \le E_q\Big[-\log p(x_T) - \sum_{t=1}^{T} \log \frac{p(x_{t-1}|x_t)}{q(x_t|x_{t-1})}\Big]. $$
#
# For $t \ge 2$ turn each forward step round by Bayes' rule, given $x_0$:
#
# $$ q(x_t|x_{t-1}) = q(x_{t-1}|x_t,x_0)\, \frac{q(x_t|x_0)}{q(x_{t-1}|x_0)}. $$
#
# The fractions telescope: their product over $t = 2, \dots, T$ is $q(x_T|x_0)/q(x_1|x_0)$, and its denominator cancels the
# forward step that is left, $q(x_1|x_0)$ at $t = 1$. What remains is
#
# $$ E_q\Big[\log \frac{q(x_T|x_0)}{p(x_T)} + \sum_{t=2}^{T} \log \frac{q(x_{t-1}|x_t,x_0)}{p(x_{t-1}|x_t)} - \log p(x_0|x_1)\Big], $$
#
# and the mean of a logarithm of $q/p$ under $q$ is a KL.
# </details>
#
# (Survey 5 names the same terms by the step they lead *to*: its $L_t$, for $1 \le t \le T-1$, is
# $KL(q(x_t|x_{t+1},x_0)\,\|\,p(x_t|x_{t+1}))$, the term that our sum holds at $t+1$.)
#
# How much is lost by the inequality? Take data $\mathcal N(0, \tfrac14)$ with its exact denoiser. Then everything
# is known: the least possible is the entropy. (All numbers are in bits from here on: nats divided by $\log 2$.) For quadratics four points
# $(\pm\tfrac12, \pm 1)$ of $(x_0, \epsilon)$ give exact expectations, so there is no sampling error.

# %% name="four-points"
from diffusion_lab.bound import bounds

signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def gaussian_bounds(s2: float, times=None, variances=("small", "large", "best")):
    """The bound of N(0, s2) with its exact denoiser, for several reverse variances."""
    exact = Gaussian([0.0], [[s2]]).denoiser(linear)
    x0, eps = signs[:, :1] * s2**0.5, signs[:, 1:]
    return bounds(exact, x0, times, noise=eps, variances=variances, levels=None, batch=4000)


# %% [markdown] name="tight-print-text"
# The entropy, and the three parts of the bound with three reverse variances $S^2$:
# - `large`: $S^2 = \beta_t$, the variance of the forward step;
# - `small`: $S^2 = \tilde\beta_t$, that of the posterior, as if $x_0$ were known exactly;
# - `best`: $\tilde\beta_t + c_0^2\, E|x_0 - \hat x_0|^2$, the posterior's variance plus what the error of
#   the guess adds to it. Among fixed numbers no other gives a smaller term.
#
# <details><summary>Why the last one is best</summary>
#
# The KL of a step is, for a reverse variance $S^2$ and averaged over what may hide behind $x_t$,
# $\tfrac12\big(\log S^2 + (\tilde\beta + c_0^2\, E|x_0 - \hat x_0|^2)/S^2\big)$ per dimension, up to what does not contain $S^2$. Its derivative is zero
# where $S^2$ equals the bracket.
# </details>
#
# At $t = 1$ the posterior's variance is 0; as in the papers' code, `small` takes that of step 2 there (from 2 to 1).

# %% name="tight" tags=["nbval-check-output"]
entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25)
rows = [
    {"S²": name, "L_T (prior)": found.parts["prior"], "steps": found.parts["steps"],
     "L_0 (decoder)": found.parts["decoder"], "sum": found.total}
    for name, found in gaussian_bounds(0.25).items()
]  # fmt: skip
names = dict.fromkeys(list(rows[0])[1:], ".4f")
plots.show_table(rows, title=f"Bits; the entropy is {entropy:.4f}", digits=names)

# %% [markdown] name="tight-seen"
# **Nothing is lost** if the reverse variance is right. `large` is nearly perfect here and `small` loses most of a
# bit. The prior costs next to nothing: after 1000 steps hardly anything of $x_0$ is left. The decoder's part is
# negative, as it is minus the logarithm of a *density*, a high one: $x_1$ tells nearly all of $x_0$. But these are the
# bits of *this* data.
#
# ### Exercise 4 (predict): data of five values
#
# Now $x_0$ takes only the values -1, -0.5, 0, 0.5 and 1, with unequal shares. $T = 1000$, exact denoiser.
# Which fixed variance needs fewer bits: `"small"`, `"large"`, or are they `"equal"` (to 0.01 bits)?
#
# <details><summary>Hint 1: nudge</summary>
#
# At step 2 the noise has standard deviation 0.015. How sure is the denoiser of $x_0$?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $S^2_{\rm best} = \tilde\beta + c_0^2\, E|x_0 - \hat x_0|^2$. Which end does it approach?
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# Put the error of the guess at little noise into the formula of hint 2, and see which of the other two it equals.
# </details>

# %% name="my-variance"
### BEGIN SOLUTION
which = "small"
### END SOLUTION

# %% name="check-variance"
check.which_variance(which)

# %% [markdown] name="five-text"
# Measured. The data are discrete, so $L_0$ is a real probability: the last Gaussian integrated over the
# **bin** around each value, the outer bins reaching to infinity. The least possible is now the entropy
# of the five shares, in bits.

# %% name="five-data"
values = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
share = torch.tensor([0.1, 0.3, 0.05, 0.35, 0.2], dtype=torch.float64)
five = GaussianMixture(share, values, torch.zeros(5, 1, 1))
of_five = values.repeat_interleave((2000 * share).round().long(), 0)

# %% [markdown] name="five-print-text"
# Three lengths of the chain, three variances:

# %% name="five"
of_lengths = []
for steps_of_five in (20, 200, 1000):
    found = bounds(
        five.denoiser(schedules.linear(steps_of_five)), of_five, noise=generator(0), levels=5,
        batch=40_000, variances=("small", "large", "best"),
    )  # fmt: skip
    of_lengths.append({"T": steps_of_five} | {name: b.total for name, b in found.items()})

# %% [markdown] name="five-table-text"
# Bits, beside the entropy:

# %% name="five-table" tags=["nbval-check-output"]
title = f"Bits; the entropy is {-(share * share.log2()).sum():.2f}"
numbers = dict.fromkeys(("small", "large", "best"), ".2f")
plots.show_table(of_lengths, title=title, digits=numbers)

# %% [markdown] name="five-seen"
# The other way round: at $T = 1000$ small is close to the entropy, and large wastes almost half a bit. Real pictures lie
# between (pixels are discrete, and neighbours nearly tell each other), so a network that may *choose* has
# an advantage. And the bound needs small steps for such data: with `linear(20)` no fixed variance comes near the
# entropy. (Its scaled betas would end at 1, and the last is clipped at 0.999: another curve than that of 1000 steps.
# Exercise 6 picks few steps *on* that curve, and there it matters which.)
#
# ### Which steps matter?
#
# Move the data's variance and the choice of $S^2$. Left: the terms, step by step. Right: the bits above the
# entropy, summed up from the clean side.


# %% name="look" tags=["hide-input"]
from diffusion_lab.course.widgets import choice, explore, slider


def look(s2: float, kind: str):
    found = gaussian_bounds(s2)
    fig, ax = plots.axes(1, 2, size=(4.4, 3.2))
    order = torch.arange(1, 1000) + 1  # steps 2..1000; terms are stored from step 1000 down
    curves = {name: found[name].terms.flip(0)[1:] for name in dict.fromkeys((kind, "best"))}
    plots.lines(order, curves, ax=ax[0], log="xy", xlabel="step t", ylabel="$L_{t-1}$ (bits)")
    waste = (found[kind].terms - found["best"].terms).flip(0).cumsum(0)
    plots.lines(
        order - 1, {kind: waste[:-1]}, ax=ax[1], log="x", xlabel="up to step t",
        ylabel="bits above the entropy",
    )  # fmt: skip
    return fig


# %% [markdown] name="touch-text"
# Move it:

# %% name="touch"
explore(
    look,
    s2=slider("data variance", 1.0, 0.05, 2.0, 0.05),
    kind=choice("S²", ["small", "large", "best"], "small"),
    alt=lambda s2, kind: (
        f"Left: terms of the bound over t on log axes for data variance {s2:g}, S^2 {kind} against "
        "best. Right: bits above the entropy summed over steps, rising at the first steps."
    ),
    caption="Terms of the bound for Gaussian data with exact means, and where a wrong variance costs.",
)

# %% [markdown] name="touch-seen"
# `small` wastes nearly all of its bits in the first twenty of the thousand steps. `large` does the opposite: for data
# of variance 0.25 its waste, much less in all, comes later, and for variance 1 there is none. The terms themselves
# fall from step 2 on: bits are spent on fine detail, at noise levels that no eye would notice. The right panel begins
# with the decoder ($t = 1$), whose variance `small` borrows. In numbers, bits above `best` for both variances of the
# data:

# %% name="which-numbers" tags=["nbval-check-output"]
spans = {"decoder (t = 1)": (0, 1), "t = 2": (1, 2), "t = 3 to 20": (2, 20),
         "t = 21 to 500": (20, 500), "t = 501 to 1000": (500, 1000), "together": (0, 1000)}  # fmt: skip
rows = [{"steps": words} for words in spans]
for s2, kind in ((1.0, "small"), (0.25, "small"), (0.25, "large")):
    found = gaussian_bounds(s2)
    waste = (found[kind].terms - found["best"].terms).flip(0)  # t = 1 (the decoder), 2, ..., 1000
    for row, (first, last) in zip(rows, spans.values(), strict=True):
        row[f"{kind}, variance {s2:g}"] = waste[first:last].sum().item()
plots.show_table(rows, digits=dict.fromkeys(list(rows[0])[1:], ".5f"))

# %% [markdown] name="learned-text"
# ## Let the network choose the variance
#
# Improved DDPM adds a second output $v$ for every pixel and sets
#
# $$ S^2 = \exp\big(v \log\beta + (1 - v) \log\tilde\beta\big). $$
#
# What should it say? Solve for the $v$ of the best variance (the list of three choices above the first table of the
# bound): $v^* = \log(S^2_{\rm best}/\tilde\beta) / \log(\beta/\tilde\beta)$. The table that a network would have to learn for $\mathcal N(0, s^2)$:

# %% name="v-table" tags=["nbval-check-output"]
from diffusion_lab.forward import best_variance, variance_weight

rows = []
for s2 in (0.0, 0.25, 1.0, 4.0):
    row = {"variance": s2}
    for i in (2, 10, 100, 500, 1000):
        t, s = i / 1000, (i - 1) / 1000
        alpha, sigma = linear.alpha_sigma(t)
        left = s2 * sigma**2 / (alpha**2 * s2 + sigma**2)  # Var(x_0 | x_t)
        q = posterior(linear, t, s)
        row[f"step {i}"] = variance_weight(best_variance(linear, t, s, left), q.added, q.var)
    rows.append(row)
plots.show_table(rows, digits=dict.fromkeys(list(rows[0])[1:], ".3f"))

# %% [markdown] name="v-table-seen"
# $v = 0$ for certain data, $v = 1$ for variance 1, between for most, and **above 1** for data wider than the
# noise: $v$ is not a probability, so the network's output is not squashed, and clamping it to [0, 1] would be a
# mistake.
#
# ### The hybrid loss, and what it must not do
#
# $L_{\rm simple}$ says nothing about $S^2$. So the hybrid loss adds 0.001 times the whole bound (in the code $T/1000$ times
# the one term that was drawn), and **stops its gradient at the mean**: the bound trains $v$, the simple loss trains the mean. The next
# cell takes a network of two outputs and looks at the gradient of the bound on the weights of each.

# %% name="more-imports"
from diffusion_lab.bound import TimesByLoss, vlb_term
from diffusion_lab.forward import noised
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.training import EMA

# %% [markdown] name="stop-text"
# The gradient:

# %% name="stop" tags=["nbval-check-output"]
model = build(recipe, digits)
x0, t = digits.x[:32], draw_times(model.schedule, 32, generator(2), law="grid")
x_t = noised(x0, torch.randn(x0.shape, generator=generator(3)), model.schedule, t)
p = model(x_t, t)
vlb_term(p.with_x0(p.x0.detach()), x0, model.schedule, t, levels=digits.levels).mean().backward()
last = model.net.last.weight.grad
mean_part, variance_part = last.chunk(2)
print("gradient on the mean's weights is zero:    ", bool((mean_part == 0).all()))
print("gradient on the variance's weights is zero:", bool((variance_part == 0).all()))

# %% [markdown] name="known-text"
# ## Digits: what is a good number?
#
# "2.5 bits per dimension" means nothing by itself. A yardstick: the ten Gaussians of Algorithm 2. Their
# density is a formula, so its bits on test digits are **exact**; and its denoiser is a formula too, so
# the same model can also be run as a diffusion with 1000 steps and judged by the bound. (Pixels take 17 values; noise of one bin's width makes them continuous, and the scaling adds
# $\log_2 \frac{17-1}{2} = 3$ bits.)
#
# Exact bits against the bound of the same model, on the test digits that the networks will be judged on too:

# %% name="known"
from diffusion_lab import metrics

held_out = test.x[: lessons.pick(smoke=4, live=120, full=297)]
some = dequantise(held_out.flatten(1).double(), test.levels, generator(4))
exact = exact_nll(fitted, some, test.levels)
exact_each = 3 - fitted.log_prob(some) / (64 * LN2)
found = bounds(
    fitted.denoiser(linear), some, noise=generator(5), levels=None,
    variances=("small", "large", "best"),
)  # fmt: skip
rows = [{"bits/dim": "exact", "value": exact.value, "above exact": 0.0, "±": 0.0}]
for name, b in found.items():
    gap = metrics.Estimate.of(b.each + 3 - exact_each)
    rows.append({"bits/dim": f"bound, S² {name}", "value": b.total + 3, "above exact": gap.value,
                 "±": gap.error})  # fmt: skip
title = f"{len(some)} test digits; the exact value has a standard error of {exact.error:.3f}"
plots.show_table(rows, title=title, digits={"value": ".3f", "above exact": ".3f", "±": ".3f"})

# %% [markdown] name="known-seen"
# Compare the gap of `best` with its standard error. (On digits that the mixture did not draw, even the exact gap may be below zero.) On digits, too, the bound is no crude estimate. The yardstick for what follows: ten Gaussians with
# covariances, with the ridge that suits them best.
#
# ## Training: the simple loss against the bound
#
# The cell below trains the same small U-Net (learned variance, $T = 200$) with one of three objectives. Beside your loop it
# has a learning rate that rises and falls, and an average of the weights (lesson 03):
#
# - **hybrid**: $L_{\rm simple}$, plus the bound for the variance only;
# - **bound, uniform t**: $T\, L_{t-1}$ with $t$ uniform, an unbiased estimate of the whole bound;
# - **bound, t by loss**: the same, with $t$ drawn in proportion to $\sqrt{E[L_t^2]}$ over the last ten values
#   seen at each $t$ (uniform until all have ten, 0.1% uniform always) and weighted by $1/(T p_t)$,
#   so that the mean stays the same.


# %% [markdown] name="fit-text"
# The training:


# %% name="fit"
def fit(objective: str, steps: int, seed: int, batch: int = 64, lr: float = 6e-3):
    """The averaged model after ``steps`` steps."""
    model, average = (build(recipe.but(seed=seed), digits).to(device()) for _ in range(2))
    schedule, T = model.schedule, model.schedule.T
    hybrid = DiffusionLoss(model, Weighting("simple"), hybrid=True, levels=digits.levels)
    adam, ema, gen = torch.optim.Adam(model.parameters()), EMA(0.99), generator(seed, 5)
    by_loss = TimesByLoss(T)
    for step in range(steps):
        adam.param_groups[0]["lr"] = lr * min(1, (step + 1) / 50, 2 * (1 - step / steps))
        x0 = digits.x[torch.randint(len(digits), (batch,), generator=gen)]
        eps = torch.randn(x0.shape, generator=gen)
        t, weight = draw_times(schedule, batch, gen, law="grid"), torch.ones(batch)
        if objective == "bound, t by loss":
            t, weight = by_loss.draw(batch, gen)
        x0, eps, t, weight = (c.to(device()) for c in (x0, eps, t, weight))
        if objective == "hybrid":
            loss = hybrid(x0, t, eps)
        else:
            pred = model(noised(x0, eps, schedule, t), t)
            loss = T * vlb_term(pred, x0, schedule, t, levels=digits.levels)
            by_loss.update(t, loss)
        (weight * loss).mean().backward()
        adam.step()
        adam.zero_grad()
        ema.update(average, model, step)
    return average.eval().requires_grad_(False)


# %% [markdown] name="train-text"
# Each gets the same first weights, number of steps, batch size and learning rate. **Predict before you run:** which has the
# better bits, which the better pictures?

# %% name="train"
steps = lessons.pick(smoke=3, live=700, full=3000)
seeds = range(lessons.pick(smoke=1, live=1, full=3))
objectives = ("hybrid", "bound, uniform t", "bound, t by loss")
trained, seconds = {}, {}
for name in objectives:
    for seed in seeds:
        trained[name, seed], spent = metrics.measure(
            build(recipe, digits), lambda n=name, s=seed: fit(n, steps, s), pictures=1
        )
        seconds[name, seed] = spent.device_seconds
    print(f"{name:18s} {steps} steps, {seconds[name, seed]:.0f} s")

# %% [markdown] name="judge-text"
# Judged twice: bits/dim on the test digits of the yardstick, all 200 terms, for each choice of $S^2$; and the Fréchet
# distance (FD) of drawn digits to real ones, in units of A, both of lesson 00: how far apart are mean and
# covariance of a small classifier's features, and A is that distance for real digits with noise of 0.1
# added. Drawn with 50 of the 200 steps.
#
# Two marks help to read the distances. The *floor* is what as many real digits score: a finite set is never at
# distance 0. And a *reference*: the package's own digits model, drawn with random labels. It is no rival in this
# comparison, as it is larger, was trained much longer with other weights (lesson 03), and is told which digit to draw.

# %% name="judge"
from diffusion_lab.generate import generate

held_out = held_out.to(device())
N = lessons.pick(smoke=32, live=400, full=1000)
A, kinds = metrics.noise_anchor(N, "digits"), ("small", "large", "learned", "best")
walk = {"sampler": "ddpm", "variance": "learned", "steps": 50, "spacing": "linspace"}
bits, quality, cost, pictures = {}, {}, {}, {}
for key, net in trained.items():
    bits[key] = bounds(
        net, held_out, noise=generator(6), variances=kinds, levels=test.levels, batch=600
    )
    run, cost[key] = metrics.measure(
        net, lambda net=net: generate(net, N, seed=1, **walk), pictures=N
    )
    pictures[key], quality[key] = run.x.cpu(), metrics.fd(run.x, "digits") / A

# %% [markdown] name="reference-text"
# The reference:

# %% name="reference"
from diffusion_lab import checkpoints

reference = checkpoints.load("digits").to(device())
longer = reference.about["recipe"]
some_labels = torch.randint(10, (N,), generator=generator(9)).to(device())
drawn = generate(reference, N, label=some_labels, seed=1, **longer["sampler"]).x.cpu()
pictures["reference"] = drawn

# %% [markdown] name="marks-text"
# And the two marks:

# %% name="marks"
floor, spread = metrics.real_floor(N, "digits", balanced=False)
sizes = [sum(c.numel() for c in net.parameters()) for net in (trained["hybrid", 0], reference)]
rows = [
    {"model": "ours", "weights": sizes[0], "training steps": steps, "FD / A": None},
    {"model": "reference", "weights": sizes[1], "training steps": longer["steps"],
     "FD / A": metrics.fd(pictures["reference"], "digits") / A},
    {"model": "real digits", "weights": None, "training steps": None, "FD / A": floor / A},
]  # fmt: skip
title = f"N = {N}; a draw of real digits scatters by {spread / A:.2f} A"
plots.show_table(rows, title=title, digits={"FD / A": ".2f"})

# %% [markdown] name="judge-print-text"
# The table, with standard errors over the test digits:

# %% name="verdict"
rows = []
for (name, seed), found in bits.items():
    error = metrics.Estimate.of(found["learned"].each).error
    row = {"objective": name, "seed": seed} | {f"bits, {kind}": found[kind].total for kind in kinds}
    rows.append(row | {"± (learned)": error, "FD / A": quality[name, seed]})
form = {name: ".3f" for name in rows[0] if "bits" in name} | {"± (learned)": ".3f", "FD / A": ".2f"}
title = (
    f"{len(held_out)} test digits, {N} drawn; ten Gaussians {exact.value:.3f} ± {exact.error:.3f}"
)
plots.show_table(rows, title=title, digits=form)

# %% [markdown] name="apart-text"
# All rows see the same digits and the networks the same noise, so differences of two rows are known better than each row (seed 0):

# %% name="apart"
each = {name: bits[name, 0]["learned"].each.cpu() for name in objectives}
each["ten Gaussians"] = exact_each
rows = []
for more, less in (
    ("hybrid", "bound, t by loss"), ("bound, uniform t", "bound, t by loss"),
    ("ten Gaussians", "hybrid"), ("ten Gaussians", "bound, uniform t"),
):  # fmt: skip
    gap = metrics.Estimate.of(each[more] - each[less])
    rows.append({"more bits": more, "fewer bits": less, "difference": gap.value, "±": gap.error})
plots.show_table(rows, title="Bits/dim, pairs of digits", digits={"difference": ".3f", "±": ".3f"})

# %% [markdown] name="seeds-text"
# Standard errors over digits say nothing about other *trainings*. So the same cells were run with more seeds, more drawn
# digits and all test digits, beforehand (`benchmarks/objectives.py`). A cell holds one number
# for each seed. In the second table a row is a pair of objectives, and a difference counts as shown where its sign is
# the same for all seeds:

# %% name="seeds"
import json

from diffusion_lab.data import store

bench = json.loads(store.path("measured/objectives.json").read_text())
each_seed = range(bench["seeds"])
rows = []
for name in objectives:
    runs = [bench["runs"][f"{name}, seed {seed}"] for seed in each_seed]
    row = {"objective": name, "bits": " ".join(f"{run['bits']['learned']:.3f}" for run in runs)}
    row["below ten Gaussians"] = " ".join(f"{run['below_gaussians'][0]:.2f}" for run in runs)
    rows.append(row | {"FD / A": " ".join(f"{run['fd']:.2f}" for run in runs)})
title = f"N = {bench['pictures']}, {bench['digits']} digits, a number a seed; "
plots.show_table(rows, title=title + f"floor {bench['floor']} ± {bench['spread']} A")

# %% [markdown] name="pairs-text"
# And the pairs:

# %% name="pairs"
rows = []
for pair, found in bench["pairs"].items():
    left, right = pair.split(" - ")
    runs = [[bench["runs"][f"{name}, seed {s}"] for s in each_seed] for name in (left, right)]
    gaps = {"bits": [gap for gap, _ in found]}
    gaps["FD / A"] = [a["fd"] - b["fd"] for a, b in zip(*runs, strict=True)]
    row = {"": left.removeprefix("bound, "), "minus": right.removeprefix("bound, ")}
    for name, gap in gaps.items():
        row[name] = " ".join(f"{one:+.2f}" for one in gap)
        row[f"{name}: one sign"] = len({one > 0 for one in gap}) == 1
    rows.append(row | {"±, bits": max(error for _, error in found)})
plots.show_table(rows, title="Differences, a number a seed", digits={"±, bits": ".3f"})

# %% [markdown] name="pictures-text"
# And the pictures, twelve each. The three rows in the middle start from the same noise. Above them stand twelve real digits,
# since at 8 x 8 even those are coarse; below them, the reference: what a longer training of a larger network brings.

# %% name="pictures"
sheets = [test.x[:12], *(pictures[name, 0][:12] for name in objectives), pictures["reference"][:12]]
labels = ["real", *(name.replace(", ", ",\n") for name in objectives), "reference\n(longer)"]
plots.show(
    plots.strip(sheets, labels=labels),
    alt="Five rows of twelve 8 by 8 digits: real ones, generated ones for each of three "
    "objectives, alike from row to row and many of them no digits, and those of a longer training.",
    caption="Real digits, three short trainings (50 ancestral steps), and another, longer one.",
)

# %% [markdown] name="pictures-seen"
# Compare within a row of the table: which variance needs the fewest bits? `learned` chooses pixel by pixel (corners of
# a digit are always empty, its strokes are not), which no single number per step can. Compare down its column, and
# with the ten Gaussians, which pay for the noise that makes pixels continuous (how much is not measured): bits of dequantised data are
# an upper bound. With $t$ by loss the bound gives the fewest bits; trained with uniform $t$ it is, in this budget and
# with this learning rate, behind both others, even at its own game. The table of pairs says whether that holds for every seed.
#
# The distances rank them differently. The bound with uniform $t$ is far behind for every seed. Between the hybrid loss
# and the bound with $t$ by loss look at the signs: where they differ from seed to seed, nothing is shown. All three
# are several A above the floor, and the reference is much closer to it: that is what a longer training of a larger network, which is told the
# digit, brings. At 8 x 8 the eye sees less of it. In each of the three middle rows several pictures are strokes that
# belong to no digit.
#
# ### Why uniform t hurts the bound: noise of the gradient
#
# The same trained network, many batches of 64, and the gradient of the bound's estimate for each. Its mean
# is the same however $t$ is drawn. How far does it scatter around that mean?

# %% name="by-loss"
import copy

watched = copy.deepcopy(trained["hybrid", 0]).requires_grad_(True)
schedule = watched.schedule
by_loss, table = TimesByLoss(T), bits["hybrid", 0]["learned"].table
for column in range(10):  # the ten last losses at every step, from the table of terms
    times = torch.tensor(bits["hybrid", 0]["learned"].times)
    by_loss.update(times, T * table[:, column % table.shape[1]])

# %% [markdown] name="gradient-def-text"
# One batch's gradient, all weights in one vector:


# %% name="gradient"
def gradient(law: str, k: int):
    """The gradient of one batch's estimate of the bound, all weights in one vector."""
    gen = generator(7, k)
    x0 = digits.x[torch.randint(len(digits), (64,), generator=gen)]
    eps = torch.randn(x0.shape, generator=gen)
    t, weight = draw_times(schedule, 64, gen, law="grid"), torch.ones(64)
    if law == "t by loss":
        t, weight = by_loss.draw(64, gen)
    x0, eps, t, weight = (c.to(device()) for c in (x0, eps, t, weight))
    pred = watched(noised(x0, eps, schedule, t), t)
    loss = (weight * T * vlb_term(pred, x0, schedule, t, levels=digits.levels)).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(watched.parameters()))])


# %% [markdown] name="gradient-noise-text"
# And its variance over batches:

# %% name="gradient-noise"
noise = {}
for law in ("uniform t", "t by loss"):
    grads = torch.stack([gradient(law, k) for k in range(lessons.pick(smoke=2, live=40))])
    noise[law] = grads.var(0).sum().item()
plots.show_table([{"t drawn": law, "variance of the gradient": v} for law, v in noise.items()],
                 digits={"variance of the gradient": ".3g"})  # fmt: skip
print(f"uniform t is {noise['uniform t'] / noise['t by loss']:.1f} times as noisy")

# %% [markdown] name="gradient-figure-text"
# The reason is in the terms. Left: the network's terms over $t$. Right: how often each step is drawn.

# %% name="gradient-figure"
b = bits["hybrid", 0]["learned"]
fig, ax = plots.axes(1, 2, size=(4.4, 3.2))
order = torch.arange(1, T + 1)
term, p = b.terms.flip(0), by_loss.probabilities()
plots.lines(
    order, {"bits/dim": term}, ax=ax[0], log="xy", xlabel="step t", ylabel="term (bits/dim)"
)
plots.lines(
    order, {"t by loss": p, "uniform": torch.full((T,), 1 / T)}, ax=ax[1], log="xy",
    xlabel="step t", ylabel="probability",
)  # fmt: skip
plots.show(
    fig,
    alt="Left: terms of a trained network over t on log axes, largest at step "
    f"{order[term.argmax()]} and falling by orders of magnitude after it. Right: the probability of drawing each step follows it.",
    caption="Terms of the bound on test digits, and the law of t that follows them.",
)
first = term[: T // 10].sum() / term.sum()
print(f"the first tenth of the steps holds {first:.0%} of the bits")
snr = torch.tensor([schedule.snr(float(t)) for t in order / T], dtype=torch.float64)
for words, terms in {"bound": term, "squared error of the noise": b.error.flip(0) * snr}.items():
    print(f"{words}: T ΣL² / (ΣL)² = {T * (terms**2).sum() / terms.sum() ** 2:.1f}, "
          f"largest over smallest term {terms.max() / terms.min():.0f}")  # fmt: skip

# %% [markdown] name="gradient-seen"
# A few steps hold most of the bits, so uniform draws mostly fall on steps with tiny terms, and now and then one huge
# term dominates the batch. Drawing by loss evens that out at no cost in bias. The last two lines say how uneven the terms are
# (1 is even): those of the simple loss differ widely too, so drawing by loss could gain something there as well, but
# several times less than for the bound.
#
# ## Fewer steps from the same network
#
# Nothing ties sampling to all $T$ steps. Keep steps $\tau_1 < \dots < \tau_K$; the levels
# $\bar\alpha_{\tau_i}$ stay, but **a longer step has its own beta**, and $S^2$ (learned ones too) lies between the
# *new* $\beta$ and $\tilde\beta$.
#
# ### Exercise 5 (find the bug): betas of a shorter chain
#
# `abar[i]` is $\bar\alpha$ after step $i+1$, and `steps` holds the kept indices, rising. The function should return the $K$
# betas of the shorter chain. It runs, and the chain it describes destroys almost nothing. Repair it.
#
# <details><summary>Hint 1: nudge</summary>
#
# Multiply all $1 - \beta$ of the short chain. What should come out?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $\beta_{\tau_i} = 1 - \bar\alpha_{\tau_i}/\bar\alpha_{\tau_{i-1}}$, with $\bar\alpha_{\tau_0} = 1$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# First pick the kept levels; then shift *these* by one, with a 1 in front; then the ratio of the two.
# </details>


# %% name="my-betas"
def my_strided_betas(abar, steps):
    """beta of each kept step."""
    ### BEGIN SOLUTION
    kept = abar[steps]
    before = torch.cat([torch.ones_like(kept[:1]), kept[:-1]])
    return 1 - kept / before
    ### END SOLUTION
    ### BEGIN STUB
    # before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    # betas = 1 - abar / before
    # return betas[steps]
    ### END STUB


# %% name="check-betas"
check.strided_betas(my_strided_betas)

# %% [markdown] name="gauss-stride-text"
# What does striding cost where everything is known? For $\mathcal N(0, \tfrac14)$, steps evenly spread from 1 to 1000,
# both ends kept; bits above the entropy:

# %% name="gauss-stride" tags=["nbval-check-output"]
from diffusion_lab.grids import grid

rows = []
for K in (10, 25, 50, 100, 1000):
    found = gaussian_bounds(0.25, grid(linear, K, "linspace"))
    kept = ("small", "large", "best")
    rows.append({"K": K} | {name: abs(found[name].total - entropy) for name in kept})
plots.show_table(rows, title="Bits above the entropy", digits=dict.fromkeys(kept, ".3f"))

# %% [markdown] name="gauss-stride-seen"
# With the best variance even ten steps are exact: for Gaussian data *every* step back is Gaussian. `small`
# costs hundreds of bits: it claims a certainty it does not have, and a KL punishes that without limit.
# With few steps the variance matters most. Now networks: the hybrid model
# on digits, and the shipped 1000-step model of Fashion-MNIST. That one was trained by another recipe, which the next
# cell prints. Its *chain* is the one of this lesson (1000 steps, linear $\beta$), and its variance was learned as here, by the bound with
# the mean held fixed. But the mean was not trained by $L_{\rm simple}$. The network predicts a mixture of $x_0$ and $\epsilon$ (EDM's
# preconditioning, lesson 03), its squared error carries EDM's weight, and $t$ is drawn so that $\sigma/\alpha$ follows a lognormal law,
# rounded to the nearest of the 1000 steps.
#
# Is the bound still a bound? Yes. Jensen's inequality asks nothing of $p$: *any* mean and *any* variance in its Gaussian steps
# make a chain with some density $p(x_0)$, and the bound is one for that. The training decides how tight it is, not whether it holds.

# %% name="stride"
shipped = checkpoints.load("fashion-vp1000").to(device())
about = shipped.about["recipe"]
rows = [{"training": "predicts", "as": about["kind"]}]
for words, key in {"weight on t": "weighting", "law of t": "times"}.items():
    rows.append({"training": words, "as": ", ".join(str(value) for value in about[key].values())})
rows.append({"training": "variance learned", "as": str(about["hybrid"])})
plots.show_table([*rows, {"training": "steps", "as": str(about["steps"])}])
clothes = data.load("fashion", "test").x[: lessons.pick(smoke=2, live=8, full=200)].to(device())
Ks = lessons.pick(smoke=(10, 25), live=(10, 25, 50, 100, 200), full=(10, 25, 50, 100, 200))
strided = {"digits": {}, "fashion": {}}
for K in Ks:
    for name, net, x0 in (
        ("digits", trained["hybrid", 0], held_out),
        ("fashion", shipped, clothes),
    ):
        times = grid(net.schedule, K, "linspace")
        levels = 17 if name == "digits" else 256
        strided[name][K] = bounds(
            net, x0, times, noise=generator(8), variances=kinds, levels=levels, batch=600
        )

# %% [markdown] name="stride-print-text"
# How far is `learned` from the better of the two fixed variances? Again by differences, on the same pictures:


# %% name="ahead"
def ahead(b) -> metrics.Estimate:
    """Bits of the learned variance above those of the better fixed one, on the same pictures."""
    fixed = min((b["small"], b["large"]), key=lambda one: one.total)
    return metrics.Estimate.of((b["learned"].each - fixed.each).cpu())


# %% [markdown] name="stride-table-text"
# The table. Its last columns name the one of `small`, `large` and `learned` that needs the fewest bits, and that difference
# (below 0: `learned` needs fewer). Then, for comparison, the recorded bits of the whole chain:

# %% name="stride-table"
for name, found in strided.items():
    rows = []
    for K, b in found.items():
        first, gap = min(kinds[:3], key=lambda kind: b[kind].total), ahead(b)
        row = {"K": K} | {kind: b[kind].total for kind in kinds}
        rows.append(row | {"fewest": first, "learned - fixed": gap.value, "±": gap.error})
    form = dict.fromkeys((*kinds, "learned - fixed", "±"), ".2f")
    plots.show_table(rows, title=f"{name}, bits/dim, {len(found[Ks[0]]['learned'].each)} pictures",
                     digits=form)  # fmt: skip
whole = shipped.about["metrics"]["bits_per_dim"]
print(f"fashion with all 1000 steps, learned, other test pictures: {whole['total']:.2f}")

# %% [markdown] name="stride-figure-text"
# The same as curves.

# %% name="stride-figure"
fig, ax = plots.axes(1, 2, size=(4.4, 3.2))
for panel, (name, found) in zip(ax, strided.items(), strict=True):
    curves = {kind: [b[kind].total for b in found.values()] for kind in kinds}
    plots.lines(list(found), curves, ax=panel, log="xy", xlabel="steps K", ylabel="bits/dim")
    panel.set_title(name)
plots.show(
    fig,
    alt="Two panels of bits per dimension over the number of steps on log axes, a curve for each "
    "variance, all falling. The small variance starts far above the others at 10 steps. The "
    "learned one starts above large and ends below it.",
    caption="Bits/dim with fewer steps, by the choice of the reverse variance.",
)

# %% [markdown] name="stride-seen"
# With many steps the learned variance beats both fixed ones, clearly. With few it does **not**: at 10 steps `large`
# needs fewer bits on both data (the table says up to which $K$). The network learned its $v$ for short steps, where $\beta$ and
# $\tilde\beta$ lie close together; in a step 20 or 100 times as long the same $v$ stands between ends that are far apart. The column `best` shows
# what one number a step can do, if it is computed from the error at that very step; lesson 08 makes a
# sampler of it. Mind that these are *bits*: how the choices look in pictures is lesson 05's question.
#
# ### Exercise 6 (measure): ten good steps
#
# For the two-humped toy of the first figure, ten evenly spread steps (`[1, 112, ..., 1000]`; try them) cost
# far more bits above the entropy than they must, even with the best variances. Find **ten steps** of 1..1000 (1000 among them, where sampling starts)
# that cost at most **0.09**. `check.excess([...])` tells you the cost of a list.
#
# <details><summary>Hint 1: nudge</summary>
#
# Where are the steps back least Gaussian? Not near 1000, where all is noise, and not near 1.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# Look at the first figure: from step 300 to 200 the step back has ceased to be a Gaussian. Above 500 little of the two humps is left.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# One long jump from 1000 to somewhere in the middle, and the other nine spread below it. Then move one number at a time
# and keep what lowers the cost.
# </details>

# %% name="my-steps"
### BEGIN SOLUTION
ten = [1000, 520, 400, 320, 250, 190, 140, 95, 55, 15]
### END SOLUTION

# %% name="check-steps" points=2
check.ten_steps(ten)

# %% [markdown] name="cost-text"
# ## What did it cost
#
# Rows for the running table: the three digits models, 50 network evaluations (NFE) a picture.

# %% name="cost"
rows = [
    {"system": f"DDPM digits, {name}", **cost[name, 0].row(),
     "training core-s": round(seconds[name, 0]),
     "bits/dim": round(bits[name, 0]["learned"].total, 2),
     "FD / A": round(quality[name, 0], 2), "N": N}
    for name in objectives
]  # fmt: skip
lessons.cost_row(2, *rows)

# %% [markdown] name="paper-text"
# ## Paper against here
#
# Direction only: the papers trained far larger networks, for longer, on colour pictures.


# %% name="sides"
def side(key, left: str, right: str) -> tuple[str, str]:
    """Means of both sides over the recorded seeds, and what they say about left < right."""
    a, b = ([key(bench["runs"][f"{name}, seed {s}"]) for s in each_seed] for name in (left, right))
    signs = {x < y for x, y in zip(a, b, strict=True)}
    verdict = {(True,): "agrees", (False,): "does not"}.get(tuple(signs), "differs with the seed")
    return f"{sum(a) / len(a):.2f} against {sum(b) / len(b):.2f}", f"{verdict}, {len(a)} seeds"


# %% [markdown] name="paper-print-text"
# DDPM trained with fixed variances, and we with a learned one; the sides of its row differ from ours in that too. The last
# rows are our own question: learned against the better fixed variance, at $K$ steps, on pictures of Fashion.

# %% name="paper"
rows = []
for claim, key, left, right in (
    ("DDPM: FID, simple < bound", lambda run: run["fd"], "hybrid", "bound, uniform t"),
    ("IDDPM: bits, t by loss < hybrid", lambda run: run["bits"]["learned"], "bound, t by loss",
     "hybrid"),
    ("IDDPM: bits, t by loss < uniform t", lambda run: run["bits"]["learned"], "bound, t by loss",
     "bound, uniform t"),
):  # fmt: skip
    here, holds = side(key, left, right)
    rows.append({"claim": claim, "here": here, "holds": holds})
for K, b in strided["fashion"].items():
    learned, fixed, gap = b["learned"].total, min(b["small"].total, b["large"].total), ahead(b)
    holds = "yes" if gap.value < 0 else "no"
    holds = holds if abs(gap.value) > 2 * gap.error else "within the error of so few pictures"
    here = f"{learned:.2f} against {fixed:.2f}"
    rows.append({"claim": f"learned < fixed, K = {K}", "here": here, "holds": holds})
plots.show_table(rows)

# %% [markdown] name="paper-seen"
# The papers' figures (Ho et al. 2020; Nichol and Dhariwal 2021): DDPM reports FID 3.17 with the simple loss and
# 13.5 with the bound, and at most 3.75 bits/dim; Improved DDPM takes bits/dim on CIFAR-10 from 3.73 to 2.94.
# None of these compares with ours in size: other data, levels, and features. A few seeds that agree are a direction,
# not a proof.

# %% [markdown] name="not-text"
# ## When it does not help
#
# - **The bound with uniform t as a training loss**: here it was behind in bits and in pictures, and its
#   gradient was the noisier one.
# - **A learned variance**, at very few steps: it was learned for short ones, and the first rows of our tables of strided
#   chains show `large` ahead of it. Samplers without noise (lesson 05) do not use it at all.
# - **Importance-drawn t**, for the simple loss: there is less to even out than for the bound (the figure's last lines).
# - **More steps**, where the data are nearly Gaussian: there a step of any length is exact, with the best variance (one for each direction).
# - **Bits/dim**, as a judge of pictures: the last imperceptible details hold most of the bits.

# %% [markdown] name="recap"
# ## Recap
#
# - A small step back is Gaussian; its mean needs $E[x_0 \mid x_t]$, hence a squared error, hence noise prediction.
# - The bound has three kinds of terms, $L_T$, $L_{t-1}$ and $L_0$. With exact means and the best variance it is exact for
#   Gaussian data (a variance for each direction), and approaches the entropy for other data as the steps get small. It is a bound for any mean and variance.
# - The best variance is $\tilde\beta$ plus $c_0^2$ times the error of the guess: `small` for data that are certain,
#   `large` for data $\mathcal N(0, 1)$, larger still for wider ones.
# - Training is one loop (jump, ask, compare) and sampling another (mean, noise); both fit on ten lines.
# - Most bits lie at the first few steps, and so does the waste of `small`. The simple loss gives these steps less weight.
# - With fewer steps, compute beta anew; the variance then matters most.
#
# Next: lesson 03 trains a real image model, and asks which other weights on $t$ pay.

# %% [markdown] name="reading"
# ## Further reading
#
# - Sohl-Dickstein et al. 2015, *Deep Unsupervised Learning using Nonequilibrium Thermodynamics*, [arXiv 1503.03585](https://arxiv.org/abs/1503.03585).
# - Ho, Jain, Abbeel 2020, *Denoising Diffusion Probabilistic Models*, [arXiv 2006.11239](https://arxiv.org/abs/2006.11239).
# - Nichol, Dhariwal 2021, *Improved Denoising Diffusion Probabilistic Models*, [arXiv 2102.09672](https://arxiv.org/abs/2102.09672).
# - Kingma et al. 2021, *Variational Diffusion Models*, [arXiv 2107.00630](https://arxiv.org/abs/2107.00630): the bound in continuous time.
# - Bao et al. 2022, *Analytic-DPM*, [arXiv 2201.06503](https://arxiv.org/abs/2201.06503): the best variance without training.
# - Luo 2022, *Understanding Diffusion Models: A Unified Perspective*, [arXiv 2208.11970](https://arxiv.org/abs/2208.11970).
