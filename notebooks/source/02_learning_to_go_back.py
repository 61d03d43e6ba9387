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
# - say what one step back looks like when the clean datum is known (the posterior),
# - write down every term of the variational bound and compute it in bits per dimension,
# - say which steps matter, and which reverse variance is best for which data,
# - say what the simple loss changes, and what that costs and brings,
# - train a small DDPM by hand, with learned variances, and use it with fewer steps.
#
# **Prerequisites.** Lesson 01; the KL divergence of two Gaussians. From lesson 00 the Fréchet distance (FD)
# and its unit A, which come back where pictures are judged.
#
# **Time.** {{time}}; most of it is three live trainings.
#
# **Data.** One-dimensional data whose density is a formula; 8 x 8 digits (from scikit-learn,
# BSD licence); a few pictures of Fashion-MNIST at the end.
#
# **On the map.** DDPM (row 1 of the survey, its section II.A, equations 1 to 7), with its neighbour
# Improved DDPM (learned variances, importance-sampled $t$, strided sampling).

# %% [markdown] name="imports-text"
# Everything comes from the package. `bounds` is this lesson's instrument: it computes all terms.

# %% name="imports"
import math

import torch

from diffusion_lab import checkpoints, data, metrics, schedules
from diffusion_lab.bound import TimesByLoss, bounds, vlb_term
from diffusion_lab.course import lessons, plots
from diffusion_lab.course.checks import lesson02 as check
from diffusion_lab.course.widgets import choice, explore, slider
from diffusion_lab.data import toys
from diffusion_lab.device import device, generator
from diffusion_lab.exact import Gaussian, GaussianMixture
from diffusion_lab.forward import best_variance, noised, posterior, variance_weight
from diffusion_lab.generate import generate
from diffusion_lab.grids import grid
from diffusion_lab.metrics.likelihood import dequantise, exact_nll
from diffusion_lab.objectives import DiffusionLoss, Weighting, draw_times
from diffusion_lab.training import EMA, Recipe, build

linear = schedules.linear(1000)
LN2 = math.log(2)

# %% [markdown] name="small-text"
# ## One step back
#
# We stand at a noisy value $x_t$ and want a slightly less noisy $x_s$. What could it have been? For
# one-dimensional data, a mixture of two Gaussians, Bayes' rule answers by brute force:
# $q(x_s \mid x_t) \propto p_s(x_s)\, q(x_t \mid x_s)$. The next cell draws it for three step
# lengths, from the same $x_t$ at step 300, and beside it the Gaussian of the same mean and variance.

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
    caption="What x_s may have been, given x_t. Small steps back are Gaussian; large ones are not.",
)

# %% [markdown] name="small-seen"
# This is the whole reason for many small steps: **a small step back is very nearly a Gaussian, whatever
# the data** (small beside the noise that is already there), so a network need only supply its mean (and
# perhaps its variance). One giant step would have to describe the two humps.
#
# ## If the clean datum were known
#
# Given $x_0$ as well, a step back of *any* length is a Gaussian, and its coefficients are formulas
# (equations keep the survey's numbers). With $\bar\alpha_t = \alpha_t^2$ and, for the step from $s$ to $t$,
# $1 - \beta = \bar\alpha_t/\bar\alpha_s$:
#
# $$ q(x_s \mid x_t, x_0) = \mathcal N(c_0 x_0 + c_t x_t,\ \tilde\beta), \quad
#  c_0 = \frac{\sqrt{\bar\alpha_s}\,\beta}{1-\bar\alpha_t}, \quad
#  c_t = \frac{\sqrt{1-\beta}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}, \quad
#  \tilde\beta = \beta\,\frac{1-\bar\alpha_s}{1-\bar\alpha_t}. \tag{3} $$
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
def identities(i: int, deterministic: bool = False) -> str:
    """The weights at step i of 1000, and which of the three identities hold."""
    t, s = i / 1000, (i - 1) / 1000
    (alpha_t, sigma_t), (alpha_s, sigma_s) = linear.alpha_sigma(t), linear.alpha_sigma(s)
    c_t, c_0, var, _ = posterior(linear, t, s)
    if deterministic:
        c_t, c_0, var = sigma_s / sigma_t, alpha_s - sigma_s / sigma_t * alpha_t, 0.0
    mean = abs(c_0 + c_t * alpha_t - alpha_s) < 1e-12
    variance = abs(c_t**2 * sigma_t**2 + var - sigma_s**2) < 1e-12
    joint = abs(c_t * sigma_t**2 - alpha_t / alpha_s * sigma_s**2) < 1e-12
    return f"{i:4d}   {c_0:7.4f}  {c_t:7.4f}   {mean!s:9s}   {variance!s:13s}   {joint}"


# %% [markdown] name="identities-text"
# The posterior at four steps; the last row is the comparison:

# %% name="identities" tags=["nbval-check-output"]
print("step   c_0      c_t       mean fits   variance fits   covariance fits")
for i in (2, 10, 100, 1000):
    print(identities(i))
print(identities(100, deterministic=True) + "   <- variance 0")

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
# `a = abar_t / abar_s; beta = 1 - a; c_0 = sqrt(abar_s) * beta / (1 - abar_t)`, and so on
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
# $$ p(x_s \mid x_t) = \mathcal N(c_0\, \hat x_0(x_t) + c_t\, x_t,\ S^2). \tag{2} $$
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
# ($p$ enters both sides as $-E_q \log p(x_s|x_t)$ only. The constant is what $x_0$ still tells about $x_s$.) So the $p$
# that is best for the left side is best for the right one too.
#
# Then why $\epsilon$ and not $x_0$? In the algebra it makes no difference. In training it does: equal weight on the error of $\epsilon$ is
# weight $\mathrm{SNR} = \alpha^2/\sigma^2$ on that of $x_0$ (lesson 03), and the target has variance 1 at every $t$.
#
# Both forms of the mean, with exact guesses. Written with $\epsilon$ it is
#
# $$ c_0\, \hat x_0 + c_t\, x_t = \frac{1}{\sqrt{1-\beta_t}} \Big(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\, \hat\epsilon\Big). \tag{6} $$

# %% name="two-means" tags=["nbval-check-output"]
x0 = toy.sample(1000, generator(0))
eps = torch.randn(1000, 1, generator=generator(1), dtype=torch.float64)
for i in (2, 100, 1000):
    t, beta = i / 1000, linear.betas()[i - 1].item()
    p = toy.denoiser(linear)(linear.alpha(t) * x0 + linear.sigma(t) * eps, t)
    q = posterior(linear, t, t - 0.001)
    by_eps = (p.x_t - beta / p.sigma * p.eps) / (1 - beta) ** 0.5
    gap = (q.c_0 * p.x0 + q.c_t * p.x_t - by_eps).abs().max()
    print(f"step {i:4d}: the mean by x0 and by eps agree: {bool(gap < 1e-9)}")

# %% [markdown] name="derive-text"
# ### Exercise 2 (derive): the weight that the bound puts on the noise
#
# With the mean by $\epsilon$ (eq. 6) the KL's mean part is $w_t\, |\epsilon - \hat\epsilon|^2$. Return
# $w_t$ from $\beta_t$, $\bar\alpha_t$ and `var` $= S_t^2$ (tensors).
#
# <details><summary>Hint 1: nudge</summary>
#
# By how much do the two means differ when the noise is off by 1?
# </details>
# <details><summary>Hint 2: formula</summary>
#
# KL of two Gaussians of variance $S^2$ whose means are $d$ apart: $d^2/2S^2$.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `d = beta / sqrt(1 - abar) / sqrt(1 - beta); return d**2 / (2 * var)`
# </details>


# %% name="my-weight"
def my_eps_weight(beta, abar, var):
    """The factor of |eps - eps_hat|^2 in L_{t-1}."""
    ### BEGIN SOLUTION
    return beta**2 / (2 * var * (1 - beta) * (1 - abar))
    ### END SOLUTION


# %% name="check-weight"
check.eps_weight(my_eps_weight)

# %% [markdown] name="weight-figure-text"
# DDPM's **simple loss** drops this weight and draws $t$ uniformly:
#
# $$ L_{\rm simple} = E_{t, x_0, \epsilon}\, |\epsilon - \hat\epsilon(x_t, t)|^2. \tag{7} $$
#
# The figure shows what is dropped, for $S^2 = \beta_t$.

# %% name="weight-figure"
steps = torch.arange(1, 1001)
beta, abar = linear.betas(), linear.alpha(steps / 1000) ** 2
dropped = beta / (2 * (1 - beta) * (1 - abar))
simple = torch.full_like(dropped, dropped.mean().item())
fig, ax = plots.axes(size=(6.0, 3.2))
curves = {"bound": dropped, "simple (same mean)": simple}
weight = r"weight on $|\epsilon - \hat\epsilon|^2$"
plots.lines(steps, curves, ax=ax, log="xy", xlabel="step t", ylabel=weight)
plots.show(
    fig,
    alt="On log-log axes the bound's weight falls from 0.5 at step 1 to about 0.005 near step 350 "
    "and rises to 0.01 at step 1000; the simple loss is a horizontal line.",
    caption="The weight of the noise's squared error: in the bound, and in the simple loss.",
)
print(f"step 1 weighs {dropped[0] / dropped.min():.0f} times as much as the lightest step")

# %% [markdown] name="weight-seen"
# The bound cares most about the first steps, where the noise is too small to see. The simple loss takes
# that effort away and spends it where the content of a picture is decided. Keep this figure in mind: it
# predicts the outcome of our trainings.
#
# ## The bound, term by term
#
# No formula gives $p(x_0)$ of the whole chain, but an upper bound of $-\log p(x_0)$ follows from Jensen's
# inequality (the survey's eq. 4), and it falls apart into one term a step:
#
# $$ -\log p(x_0) \le E\Big[\underbrace{KL(q(x_T|x_0)\,\|\,p(x_T))}_{L_T} + \sum_{t=2}^{T}
#  \underbrace{KL(q(x_{t-1}|x_t,x_0)\,\|\,p(x_{t-1}|x_t))}_{L_{t-1}}
#  \underbrace{-\log p(x_0|x_1)}_{L_0}\Big]. \tag{5} $$
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
# (The survey's eq. 5 names the same terms by the step they lead *to*: its $L_t$, for $1 \le t \le T-1$, is
# $KL(q(x_t|x_{t+1},x_0)\,\|\,p(x_t|x_{t+1}))$, the term that our sum holds at $t+1$.)
#
# How much is lost by the inequality? Take data $\mathcal N(0, \tfrac14)$ with its exact denoiser. Then everything
# is known: the least possible is the entropy. (All numbers are in bits from here on: nats divided by $\log 2$.) For quadratics four points
# $(\pm\tfrac12, \pm 1)$ of $(x_0, \epsilon)$ give exact expectations, so there is no sampling error.

# %% name="four-points"
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
# At $t = 1$ the posterior's variance is 0; as in the papers' code, `small` takes that of the step before it there (the
# step from 2 to 1).

# %% name="tight" tags=["nbval-check-output"]
entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25)
print(f"entropy {entropy:.4f} bits\n{'S^2':7s}  L_T (prior)   steps   L_0 (decoder)    sum")
for name, found in gaussian_bounds(0.25).items():
    part = found.parts
    row = f"{part['prior']:11.4f} {part['steps']:7.4f} {part['decoder']:15.4f}"
    print(f"{name:7s}  {row} {found.total:6.4f}")

# %% [markdown] name="tight-seen"
# **Nothing is lost** if the reverse variance is right. `large` is nearly perfect here and `small` loses most of a
# bit. The prior costs next to nothing: after 1000 steps hardly anything of $x_0$ is left. The decoder's part is
# negative, as it is minus the logarithm of a *density*, a high one: $x_1$ tells nearly all of $x_0$. But these are the
# bits of *this* data.
#
# ### Exercise 3 (predict): data of five values
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
# If the error is 0, `best == small`.
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
drawn = values.repeat_interleave((2000 * share).round().long(), 0)

# %% [markdown] name="five-print-text"
# Three lengths of the chain, three variances:

# %% name="five" tags=["nbval-check-output"]
print(f"entropy {-(share * share.log2()).sum():.2f} bits\n   T   small   large    best")
for T in (20, 200, 1000):
    found = bounds(
        five.denoiser(schedules.linear(T)), drawn, noise=generator(0), levels=5, batch=40_000,
        variances=("small", "large", "best"),
    )  # fmt: skip
    print(f"{T:4d}" + "".join(f"{b.total:8.2f}" for b in found.values()))

# %% [markdown] name="five-seen"
# The other way round: at $T = 1000$ small is close to the entropy, and large wastes almost half a bit. Real pictures lie
# between (pixels are discrete, and neighbours nearly tell each other), so a network that may *choose* has
# an advantage. And the bound needs small steps for such data: at $T = 20$ no fixed variance helps,
# since the true steps are not Gaussian.
#
# ### Which steps matter?
#
# Move the data's variance and the choice of $S^2$. Left: the terms, step by step. Right: the bits above the
# entropy, summed up from the clean side.


# %% name="look"
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
    kind=choice("S^2", ["small", "large", "best"], "small"),
    alt=lambda s2, kind: (
        f"Left: terms of the bound over t on log axes for data variance {s2:g}, S^2 {kind} against "
        "best. Right: bits above the entropy summed over steps, rising at the first steps."
    ),
    caption="Terms of the bound of Gaussian data of variance s2 with exact means. What a wrong variance costs is paid "
    "in the first few steps.",
)

# %% [markdown] name="touch-seen"
# With `small`, nearly all of the waste lies in the first twenty of the thousand steps. With `large` and variance 1 there
# is none. The terms themselves fall from step 2 on: bits are spent on fine detail, at noise levels that no
# eye would notice. The right panel begins with the decoder ($t = 1$), whose variance `small` borrows. In numbers, for
# $\mathcal N(0, 1)$ with `small`, in bits above `best`:

# %% name="which-numbers" tags=["nbval-check-output"]
found = gaussian_bounds(1.0)
waste = (found["small"].terms - found["best"].terms).flip(0)  # t = 1 (the decoder), 2, ..., 1000
for words, part in {
    "decoder (t = 1)": waste[0], "t = 2": waste[1], "t = 3 to 20": waste[2:20],
    "t = 21 to 1000": waste[20:], "together": waste,
}.items():  # fmt: skip
    print(f"{words:17s}{part.sum():.3f} bits")

# %% [markdown] name="learned-text"
# ## Let the network choose the variance
#
# Improved DDPM adds a second output $v$ for every pixel and sets
#
# $$ S^2 = \exp\big(v \log\beta + (1 - v) \log\tilde\beta\big). $$
#
# ### Exercise 4 (extend): what should v be?
#
# At a step from $s$ to $t$ the guess of $x_0$ has mean squared error `error`. Return the $v$ of the
# best variance. `abar_t` and `abar_s` are tensors.
#
# <details><summary>Hint 1: nudge</summary>
#
# Write down the best $S^2$ (the list of three choices above the first table of the bound), then solve for $v$.
# </details>
# <details><summary>Hint 2: formula</summary>
#
# $v^* = \log(S^2/\tilde\beta) / \log(\beta/\tilde\beta)$
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `best = bt + c_0**2 * error; return log(best / bt) / log(beta / bt)`
# </details>


# %% name="my-v"
def my_best_weight(error: float, abar_t, abar_s):
    """v of the best reverse variance."""
    ### BEGIN SOLUTION
    beta = 1 - abar_t / abar_s
    bt = beta * (1 - abar_s) / (1 - abar_t)
    c_0 = abar_s.sqrt() * beta / (1 - abar_t)
    return ((bt + c_0**2 * error) / bt).log() / (beta / bt).log()
    ### END SOLUTION


# %% name="check-v"
check.best_weight(my_best_weight)

# %% [markdown] name="v-table-text"
# The table that a network would have to learn for $\mathcal N(0, s^2)$:

# %% name="v-table" tags=["nbval-check-output"]
print("step         " + "".join(f"{i:9d}" for i in (2, 10, 100, 500, 1000)))
for s2 in (0.0, 0.25, 1.0, 4.0):
    row = []
    for i in (2, 10, 100, 500, 1000):
        t, s = i / 1000, (i - 1) / 1000
        alpha, sigma = linear.alpha_sigma(t)
        left = s2 * sigma**2 / (alpha**2 * s2 + sigma**2)  # Var(x_0 | x_t)
        q = posterior(linear, t, s)
        row.append(variance_weight(best_variance(linear, t, s, left), q.added, q.var))
    print(f"variance {s2:4g}" + "".join(f"{v:9.3f}" for v in row))

# %% [markdown] name="v-table-seen"
# $v = 0$ for certain data, $v = 1$ for variance 1, between for most, and **above 1** for data wider than the
# noise: $v$ is not a probability, so the network's output is not squashed.
#
# ### The hybrid loss, and what it must not do
#
# $L_{\rm simple}$ says nothing about $S^2$. So the hybrid loss adds the bound with a small factor, and
# **stops its gradient at the mean**: the bound trains $v$, the simple loss trains the mean. The next
# cell takes a network of two outputs and looks at the gradient of the bound on the weights of each.

# %% name="recipe"
digits, test = data.load("digits"), data.load("digits", "test")
small_unet = {"name": "unet", "patch": 1, "widths": (16, 32), "out_channels": 2}
recipe = Recipe(
    "digits-vlb", "lesson 02", data="digits", net=small_unet, schedule={"name": "linear", "T": 200},
    kind="eps", sd=1.0, lam_range=None, weighting={"name": "simple"}, times={"law": "grid"},
    hybrid=True, conditional=False,
)  # fmt: skip
# %% [markdown] name="stop-text"
# STOP

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
# "2.5 bits per dimension" means nothing by itself. A yardstick: fit one Gaussian to each class of the
# training digits. Its density is a formula, so its bits on test digits are **exact**; and its denoiser
# is a formula too, so the same model can also be run as a diffusion with 1000 steps and judged by
# the bound. (Pixels take 17 values; noise of one bin's width makes them continuous, and the scaling adds
# $\log_2 \frac{17-1}{2} = 3$ bits.)

# %% name="mixture"
def ten_gaussians(x, labels, ridge: float) -> GaussianMixture:
    """One Gaussian a class; ``ridge`` is added to the variance of every pixel."""
    flat = x.flatten(1).double()
    classes = [flat[labels == k] for k in range(10)]
    return GaussianMixture(
        [len(c) / len(flat) for c in classes],
        torch.stack([c.mean(0) for c in classes]),
        torch.stack([torch.cov(c.T) for c in classes]) + ridge * torch.eye(64, dtype=torch.float64),
    )


# %% [markdown] name="ridge-text"
# RIDGE

# %% name="ridge"
tried, kept_out = {}, slice(1200, None)
smooth = dequantise(digits.x[kept_out].flatten(1).double(), digits.levels, generator(11))
for ridge in (0.05, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.0005):
    fitted = ten_gaussians(digits.x[:1200], digits.labels[:1200], ridge)
    tried[ridge] = exact_nll(fitted, smooth, digits.levels).value
ridge = min(tried, key=tried.get)
fitted = ten_gaussians(digits.x, digits.labels, ridge)

# %% [markdown] name="known-print-text"
# Exact bits against the bound of the same model, on the test digits that the networks will be judged on too:

# %% name="known"
held_out = test.x[: lessons.pick(smoke=4, live=120, full=297)]
some = dequantise(held_out.flatten(1).double(), test.levels, generator(4))
exact = exact_nll(fitted, some, test.levels)
exact_each = 3 - fitted.log_prob(some) / (64 * LN2)
found = bounds(
    fitted.denoiser(linear), some, noise=generator(5), levels=None,
    variances=("small", "large", "best"),
)  # fmt: skip
print(f"exact, {len(some)} test digits   {exact.value:.3f} +- {exact.error:.3f} bits/dim")
for name, b in found.items():
    gap = metrics.Estimate.of(b.each + 3 - exact_each)
    print(f"bound, {name:5s} S^2        {b.total + 3:.3f}   gap {gap.value:.2f} +- {gap.error:.2f}")

# %% [markdown] name="known-seen"
# With the best variance the gap is lost in its standard error (an exact gap is never negative; an
# estimate from random noise may come out so): on digits, too, the bound is no crude estimate, and what
# separates a trained network from the truth is the network. The yardstick for
# what follows: ten Gaussians with covariances.
#
# ## Training: the simple loss against the bound
#
# A DDPM training fits on one page. The cell below trains the same small U-Net (learned variance, $T = 200$)
# with one of three objectives:
# - **hybrid**: $L_{\rm simple}$, plus the bound for the variance only;
# - **bound, uniform t**: $T\, L_{t-1}$ with $t$ uniform, an unbiased estimate of the whole bound;
# - **bound, t by loss**: the same, with $t$ drawn in proportion to $\sqrt{E[L_t^2]}$ over the last ten values
#   seen at each $t$ (uniform until all have ten, 0.1% uniform always) and weighted by $1/(T p_t)$,
#   so that the mean stays the same.


# %% name="more-imports"
pass

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
# Each gets the same number of steps, batches and first weights. **Predict before you run:** which has the
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
held_out = held_out.to(device())
N = lessons.pick(smoke=32, live=400, full=1000)
A, kinds = metrics.noise_anchor(N, "digits"), ("small", "large", "learned", "best")
walk = {"sampler": "ddpm", "variance": "learned", "steps": 50, "spacing": "linspace"}
bits, quality, cost, pictures = {}, {}, {}, {}
for key, net in trained.items():
    bits[key] = bounds(
        net, held_out, noise=generator(6), variances=kinds, levels=test.levels, batch=600
    )
    drawn, cost[key] = metrics.measure(
        net, lambda net=net: generate(net, N, seed=1, **walk), pictures=N
    )
    pictures[key], quality[key] = drawn.x.cpu(), metrics.fd(drawn.x, "digits") / A

# %% [markdown] name="reference-text"
# The reference:

# %% name="reference"
reference = checkpoints.load("digits").to(device())
longer = reference.about["recipe"]
some_labels = torch.randint(10, (N,), generator=generator(9)).to(device())
drawn = generate(reference, N, label=some_labels, seed=1, **longer["sampler"])
pictures["reference"] = drawn.x.cpu()

# %% [markdown] name="marks-text"
# And the two marks:

# %% name="marks"
floor, spread = metrics.real_floor(N, "digits", balanced=False)
sizes = [sum(c.numel() for c in net.parameters()) for net in (trained["hybrid", 0], reference)]
print(f"weights: ours {sizes[0]:,}, reference {sizes[1]:,}")
print(f"training steps: ours {steps}, reference {longer['steps']}")
print(f"FD / A of {N} digits: real {floor / A:.2f} (scatter of a draw {spread / A:.2f}), ", end="")
print(f"reference {metrics.fd(drawn.x, 'digits') / A:.2f}")

# %% [markdown] name="judge-print-text"
# The table, with standard errors over the test digits:

# %% name="verdict"
print(f"{'':18s} seed" + "".join(f"{k:>9s}" for k in kinds) + "   +- (learned)   FD / A")
for (name, seed), found in bits.items():
    row = "".join(f"{found[k].total:9.3f}" for k in kinds)
    error = metrics.Estimate.of(found["learned"].each).error
    print(f"{name:18s} {seed:4d}{row} {error:10.3f} {quality[name, seed]:12.2f}")
print(f"ten Gaussians, exact   {exact.value:27.3f} {'':8s} {exact.error:10.3f}")

# %% [markdown] name="apart-text"
# All rows see the same digits and the networks the same noise, so differences of two rows are known better than each row (seed 0):

# %% name="apart"
each = {name: bits[name, 0]["learned"].each.cpu() for name in objectives}
each["ten Gaussians"] = exact_each
for more, less in (
    ("hybrid", "bound, t by loss"), ("bound, uniform t", "bound, t by loss"),
    ("ten Gaussians", "hybrid"), ("ten Gaussians", "bound, uniform t"),
):  # fmt: skip
    gap = metrics.Estimate.of(each[more] - each[less])
    print(f"{more:16s} above {less:16s}  {gap.value:6.3f} +- {gap.error:.3f} bits/dim")

# %% [markdown] name="pictures-text"
# And the pictures, twelve each. The three rows in the middle start from the same noise. Above them stand twelve real digits,
# since at 8 x 8 even those are coarse; below them, the reference: what a longer training of a larger network brings.

# %% name="pictures"
rows = [test.x[:12], *(pictures[name, 0][:12] for name in objectives), pictures["reference"][:12]]
labels = ["real", *(name.replace(", ", ",\n") for name in objectives), "reference\n(longer)"]
plots.show(
    plots.strip(rows, labels=labels),
    alt="Five rows of twelve 8 by 8 digits: real ones, generated ones for each of three "
    "objectives, and those of a model trained longer. The same noise gives similar digits in the "
    "three rows of the short trainings, and many of those are no digits; the reference's are.",
    caption="Digits drawn after the three short trainings, 50 ancestral steps, between real ones "
    "and those of another, longer training.",
)

# %% [markdown] name="pictures-seen"
# Compare within a row of the table: `learned` needs the fewest bits, for every objective. It chooses
# pixel by pixel (corners of a digit are always empty, its strokes are not), which no single number
# per step can. Compare down its column: all three need fewer bits than the ten Gaussians
# (which pay a little for the noise that makes pixels continuous: bits of dequantised data are an upper bound).
# With $t$ by loss the bound gives the fewest; trained with uniform $t$ it is, in this budget, the worst even at its own game.
# The differences are many times their standard errors over digits. Those say nothing about other *trainings*, though: this is one seed.
#
# The distances rank them differently. The bound with uniform $t$ is far behind. The hybrid loss comes out
# a little ahead of the bound with $t$ by loss, although it needs more bits; with one seed that lead is no proof.
# All three are several A above the floor, and the reference lies at it: that distance is what a short training lacks. At 8 x 8 the eye
# sees less of it. In each of the three middle rows several pictures are strokes that belong to no digit; the reference's can nearly
# all be read, though not more easily than the real ones. The level `full` trains more than four times as long, with three seeds.
#
# ### Why uniform t hurts the bound: noise of the gradient
#
# The same trained network, many batches of 64, and the gradient of the bound's estimate for each. Its mean
# is the same however $t$ is drawn. How far does it scatter around that mean?

# %% name="by-loss"
net = trained["hybrid", 0].requires_grad_(True)
schedule, T = net.schedule, net.schedule.T
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
    pred = net(noised(x0, eps, schedule, t), t)
    loss = (weight * T * vlb_term(pred, x0, schedule, t, levels=digits.levels)).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


# %% [markdown] name="gradient-noise-text"
# And its variance over batches:

# %% name="gradient-noise"
noise = {}
for law in ("uniform t", "t by loss"):
    grads = torch.stack([gradient(law, k) for k in range(lessons.pick(smoke=2, live=40))])
    noise[law] = grads.var(0).sum().item()
    print(f"{law}: variance of the gradient {noise[law]:.3g}")
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
net = net.requires_grad_(False)

# %% [markdown] name="gradient-seen"
# A few steps hold most of the bits, so uniform draws mostly fall on steps with tiny terms, and now and then one huge
# term dominates the batch. Drawing by loss evens that out at no cost in bias. The simple loss hardly needs it: without the bound's
# weight its terms differ far less.
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
# `kept = abar[steps]; before = concatenate(1, kept[:-1]); return 1 - kept / before`
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
print("   K     small    large     best")
for K in (10, 25, 50, 100, 1000):
    found = gaussian_bounds(0.25, grid(linear, K, "linspace"))
    row = [abs(found[name].total - entropy) for name in ("small", "large", "best")]
    print(f"{K:4d}  {row[0]:8.2f} {row[1]:8.3f} {row[2]:8.3f}")

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
for key in ("kind", "weighting", "times", "hybrid", "steps"):
    print(f"{key:10s}{shipped.about['recipe'][key]}")
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
    print(f"{name}, bits/dim\n   K" + "".join(f"{kind:>10s}" for kind in kinds) + "   fewest   by")
    for K, b in found.items():
        first, gap = min(kinds[:3], key=lambda kind: b[kind].total), ahead(b)
        row = "".join(f"{b[kind].total:10.2f}" for kind in kinds)
        print(f"{K:4d}{row}   {first:8s} {gap.value:6.2f} +- {gap.error:.2f}")
about = shipped.about["metrics"]["bits_per_dim"]
print(f"fashion with all 1000 steps, learned, other test pictures: {about['total']:.2f}")

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
# $\tilde\beta$ lie close together; in a
# step a hundred times as long the same $v$ stands between ends that are far apart. The column `best` shows
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
# Try a first large jump, then steps whose lengths shrink towards 0.
# </details>
# <details><summary>Hint 3: pseudo-code</summary>
#
# `[1000, about 500, about 400, ...]`, ending near 15, not at 1
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
# Direction only: the papers trained tens of millions of parameters on CIFAR-10.


# %% name="sides"
def side(measure, left: str, right: str) -> str:
    """Mean of both sides, and whether all seeds of one lie below all of the other."""
    a, b = ([measure(name, seed) for seed in seeds] for name in (left, right))
    verdict = (
        "agrees" if max(a) < min(b) else "does not show" if min(a) > max(b) else "within seeds"
    )
    return f"{sum(a) / len(a):.2f} against {sum(b) / len(b):.2f}: {verdict} ({len(a)} seed(s))"


def in_bits(name, seed):
    return bits[name, seed]["learned"].total


def in_fd(name, seed):
    return quality[name, seed]


# %% [markdown] name="paper-print-text"
# Each claim, and what this run says of it:

# %% name="paper"
print("DDPM: FID 3.17 with L_simple, 13.5 with the true bound (t uniform)")
print("   here FD / A, hybrid against bound:", side(in_fd, "hybrid", "bound, uniform t"))
print("Improved DDPM: the bound with t by loss gives fewer bits than the hybrid loss (2.94, 3.17)")
print("   here bits/dim:", side(in_bits, "bound, t by loss", "hybrid"))
print("Improved DDPM: drawing t by loss makes the bound trainable")
print("   here bits/dim:", side(in_bits, "bound, t by loss", "bound, uniform t"))
print("Improved DDPM: learned variance needs fewer bits than a fixed one also at few steps")
for K, b in strided["fashion"].items():
    learned, fixed = b["learned"].total, min(b["small"].total, b["large"].total)
    gap = ahead(b)
    verdict = "agrees" if gap.value < 0 else "does not show"
    if abs(gap.value) < 2 * gap.error:
        verdict = "within the error of so few pictures"
    print(f"   here fashion, K = {K:3d}: {learned:.2f} against {fixed:.2f}: {verdict}")

# %% [markdown] name="paper-seen"
# The papers' figures (Ho et al. 2020; Nichol and Dhariwal 2021): DDPM reports FID 3.17 with the simple loss and
# 13.5 with the bound, and at most 3.75 bits/dim; Improved DDPM takes bits/dim on CIFAR-10 from 3.73 to 2.94.
# None of these compares with ours in size: other data, levels, and features. With one seed "agrees" is a direction,
# not a proof.

# %% [markdown] name="not-text"
# ## When it does not help
#
# - **The bound as a training loss**, if pictures are what you want: it spends the network on detail that no one sees.
# - **A learned variance**, at very few steps: it was learned for short ones, and the first rows of our tables of strided
#   chains show `large` ahead of it. Samplers without noise (lesson 05) do not use it at all.
# - **Importance-drawn t**, for the simple loss: its terms differ far less, there is little to even out.
# - **More steps**, where the data are nearly Gaussian: there a step of any length is exact, with the best variance.
# - **Bits/dim**, as a judge of pictures: the last imperceptible details hold most of the bits.

# %% [markdown] name="recap"
# ## Recap
#
# - A small step back is Gaussian; its mean needs $E[x_0 \mid x_t]$, hence a squared error, hence noise prediction.
# - The bound has three kinds of terms, $L_T$, $L_{t-1}$ and $L_0$. With exact means and the best variance it is exact for
#   Gaussian data, and approaches the entropy for other data as the steps get small. It is a bound for any mean and variance.
# - The best variance is $\tilde\beta$ plus $c_0^2$ times the error of the guess: `small` for data that are certain,
#   `large` for data $\mathcal N(0, 1)$, larger still for wider ones.
# - Most bits, and most of the waste, lie at the first few steps. The simple loss gives them up for better pictures.
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
