# %% [markdown] name="title"
# # 01 Destroying data: how does noise erase a picture, and how fast?
#
# A diffusion model draws pictures by undoing damage. Before it can undo anything, somebody has to choose the damage: what kind of noise, how much of it, in how many steps. This lesson is about that choice. Nothing is trained here and nothing is generated; everything can be computed exactly, or measured in seconds.
#
# **Goals.** You will be able to
#
# - noise a picture step by step or in one jump, and say why the two give the same distribution;
# - explain every square root in $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$;
# - read any noise schedule as one falling number, $\lambda$, and translate between schedules;
# - measure how much is still known about a picture at a given noise level, exactly on a toy and on Fashion-MNIST;
# - say what "zero terminal SNR" repairs, and when a change of schedule changes nothing.
#
# **Prerequisites.** The variance of a sum of independent variables, logarithms, conditional means and Bayes' rule, a little PyTorch. Entropy and mutual information are said in short where they are used. No earlier lesson is needed.
#
# **Time.** {{time}}.
#
# **Data.** Two toys whose exact answers are known, and the 10,000 embedded training pictures of Fashion-MNIST (28 x 28, grey). No network is needed.
#
# **On the map.** Nearly every system in this course changes mainly one of six choices: data, *process*, denoiser, objective, sampler, steering. This lesson is about the process, the survey's section II-A and its equation 1. The code is in `schedules.py` and `forward.py`.

# %% [raw] name="slide-title"
# # Destroying data
#
# **Lesson 01.** How does noise erase a picture, and how fast?
#
# - one step of noise, and the jump that replaces a thousand of them
# - a noise level is one number
# - what a schedule leaves over at its end, and who notices
#
# <aside class="notes">Nothing is trained in this lesson. Open the notebook beside the slides: the figures are its stored ones.</aside>

# %% [markdown] name="pictures-text"
# ## A picture disappears
#
# Here is one picture of each class. The pixels are numbers from -1 (black) to 1 (white).

# %% name="pictures"
import torch

from diffusion_lab.course import plots
from diffusion_lab.data import load

train = load("fashion")
first = [int((train.labels == k).nonzero()[0]) for k in range(10)]
x0 = train.x[first]
plots.show(
    plots.grid(x0, columns=10, titles=train.classes),
    alt="Ten grey pictures of clothes, one of each class, from t-shirt to ankle boot.",
    caption="One picture of each class of Fashion-MNIST.",
)

# %% [markdown] name="first-strip-text"
# These ten pictures stay with us. Now we add noise to the ankle boot, a little at first and then more. A *schedule* says how much belongs to which time $t$; we take the best-known one, called linear, and look inside it later. What disappears first, and what last?

# %% name="first-strip"
from diffusion_lab.device import generator
from diffusion_lab.forward import noised
from diffusion_lab.schedules import linear

times = torch.linspace(0, 1, 11)
eps = torch.randn(1, 1, 28, 28, generator=generator(0)).expand(11, -1, -1, -1)
boot = x0[9:].expand(11, -1, -1, -1)
plots.show(
    plots.strip([noised(boot, eps, linear(), times)], titles=[f"t = {t:.1f}" for t in times]),
    alt="Eleven pictures of an ankle boot from clean on the left to pure noise on the right.",
    caption="One boot, one noise pattern, more and more of it.",
)

# %% [markdown] name="first-strip-seen"
# Texture goes first, then the edge; the rough shape lasts longest. From about $t = 0.5$ or $0.6$ on most people see noise only. (Values outside $[-1, 1]$ are cut off when a picture is drawn, nowhere else.) Two questions lead through the rest of the lesson. *How* is this noise added? And *how much* is really left, whatever the eye says?

# %% [raw] name="slide-boot" shows="first-strip"
# ## A picture disappears
#
# One boot, one pattern of noise, more and more of it. At which time do you stop seeing the boot?
#
# <aside class="notes">Let everybody name a time before you go on. What is still there after that is the question of the last third.</aside>

# %% [markdown] name="imports-text"
# ## What we need, and where we are
#
# Every lesson imports its algorithms from the package, so that what you read here and what the tests check is the same code.

# %% name="imports"
import math
from functools import partial

import numpy as np

from diffusion_lab.course import lessons, survey
from diffusion_lab.course.checks import lesson01 as check
from diffusion_lab.forward import chain, transition

# %% [markdown] name="map-text"
# The families of the survey that change the process. All of them start from what this lesson explains, and lessons 06 to 11 go through them.

# %% name="map"
plots.show_table(
    [
        {"family": one.title, "systems": ", ".join(r.name for r in survey.rows(family=one.key))}
        for one in survey.families()
        if one.choice == "process"
    ]
)

# %% [markdown] name="step-text"
# ## One step of noise
#
# The survey's equation 1 defines the forward process as a chain of $T$ small steps. Each step shrinks the picture a little and adds a little Gaussian noise:
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\big(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\big), \qquad t = 1, \dots, T. \tag{1}$$
#
# The numbers $\beta_1, \dots, \beta_T$ are the schedule. **Mind the letter alpha.** It means two things in what you will read:
#
# | | in this course (and in Variational Diffusion Models) | in DDPM, the survey, diffusers, most blogs |
# |---|---|---|
# | one step keeps the share (of the variance) | $1-\beta_t$ | $\alpha_t$, `alphas` |
# | all steps together | $\bar\alpha_t$ | $\bar\alpha_t$, `alphas_cumprod` |
# | the factor before $x_0$ in $x_t$ | $\alpha_t = \sqrt{\bar\alpha_t}$ | $\sqrt{\bar\alpha_t}$ |
#
# DDPM uses $T = 1000$ steps, with $\beta$ rising along a straight line:

# %% name="betas" tags=["nbval-check-output"]
ddpm = linear(T=1000)
beta = ddpm.betas()  # beta[0] is beta_1
plots.show_table(
    [{"step i": i, "beta_i": float(beta[i - 1])} for i in (1, 500, 1000)], digits={"beta_i": ".5f"}
)

# %% [markdown] name="transition-text"
# In the code, time is a number $t$ in $[0, 1]$, and step $i$ of $T$ sits at $t = i/T$. So `transition(ddpm, 499/1000, 500/1000)` is equation 1 at step 500. It returns what the picture is multiplied by, and the variance that is added.

# %% name="transition" tags=["nbval-check-output"]
kept, variance = transition(ddpm, 499 / 1000, 500 / 1000)
rows = [
    {"": "kept of the picture", "transition": kept, "from beta_500": math.sqrt(1 - beta[499])},
    {"": "variance added", "transition": variance, "from beta_500": float(beta[499])},
]
plots.show_table(rows, digits={"transition": ".6f", "from beta_500": ".6f"})

# %% [raw] name="slide-step"
# ## One step of noise
#
# $$q(x_t \mid x_{t-1}) = \mathcal{N}\left(x_t;\ \sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\right)$$
#
# A picture of variance $v$ becomes one of variance $(1-\beta_t)\,v + \beta_t$.
#
# - start at $v = 1$ and it stays 1
# - start anywhere else and it is pulled towards 1
#
# **Why the roots?** Variances add, standard deviations do not.

# %% [markdown] name="why-text"
# ### Why the square roots?
#
# Because variances add, and standard deviations do not. If $x$ has variance $v$ and the noise $\epsilon$ has variance 1, then $a x + b\,\epsilon$ has variance $a^2 v + b^2$. Equation 1 gives $b^2 = \beta$ as the variance of the noise, and its mean gives $a^2 = 1-\beta$:
#
# $$v \;\mapsto\; (1-\beta)\,v + \beta .$$
#
# Start with $v = 1$ and it stays 1. Start anywhere else and it is pulled towards 1. This is what **variance preserving** (VP) means: the numbers that a network sees keep a size of about 1 at every noise level. The next cell runs 1000 steps on the variance alone, with equation 1 and with the two most common mistakes.

# %% name="why" tags=["nbval-check-output"]
right = no_roots = no_shrink = 0.5  # the variance of the Fashion pixels is close to this
for b in beta.tolist():
    right = (1 - b) * right + b
    no_roots = (1 - b) ** 2 * no_roots + b**2
    no_shrink = no_shrink + b
ends_at = {"equation 1": right, "roots forgotten": no_roots, "shrinking forgotten": no_shrink}
plots.show_table(
    [{"rule": rule, "variance after 1000 steps": v} for rule, v in ends_at.items()],
    digits={"variance after 1000 steps": ".3f"},
)

# %% [markdown] name="why-seen"
# Without the roots hardly any noise arrives, and the end is an almost empty grey picture. Without the shrinking the variance grows without a bound. (That second one is not always a mistake. Done on purpose it is the *variance exploding* process, which comes below.)

# %% [raw] name="slide-why" shows="why"
# ## The two most common mistakes
#
# The variance after 1000 steps, begun at 0.5:
#
# <aside class="notes">Ask what the picture looks like in the second line (an almost empty grey) and in the third (values without a bound). Then exercise 1.</aside>

# %% [markdown] name="ex1-text"
# ### Exercise 1 (fill in): one step
#
# Write one step of equation 1. `x` and `noise` are tensors of one shape, `beta` is a float.
#
# <details><summary>Hint 1: nudge</summary>A draw from a normal distribution is its mean plus its standard deviation times noise. Equation 1 gives the variance.</details>
# <details><summary>Hint 2: formula</summary>
#
# $x_t = \sqrt{1-\beta_t}\,x_{t-1} + \sqrt{\beta_t}\,\epsilon$
#
# </details>
# <details><summary>Hint 3: pseudo-code</summary>Shrink x by the root of what is kept of its variance; multiply the noise by the root of what is added; return the sum. Floats take math.sqrt.</details>


# %% name="ex1"
def one_step(x, beta, noise):
    """A draw from q(x_t | x_{t-1})."""
    ### BEGIN SOLUTION
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * noise
    ### END SOLUTION


# %% name="check1"
check.one_step(one_step)

# %% [markdown] name="jump-text"
# ## The jump
#
# A thousand steps to noise one picture would be slow, and nobody does it. Put two steps together:
#
# $$x_2 = \sqrt{1-\beta_2}\,\big(\sqrt{1-\beta_1}\,x_0 + \sqrt{\beta_1}\,\epsilon_1\big) + \sqrt{\beta_2}\,\epsilon_2 .$$
#
# The picture has been multiplied by $\sqrt{(1-\beta_1)(1-\beta_2)}$. The two noises are independent, so their variances add: $(1-\beta_2)\beta_1 + \beta_2 = 1 - (1-\beta_1)(1-\beta_2)$. A sum of Gaussians is again Gaussian, so this is one Gaussian with that variance. (That is what makes Gaussian noise so convenient. Lesson 09, which is planned, tries others.) The same happens at every further step:
#
# $$q(x_t \mid x_0) = \mathcal N\!\big(x_t;\ \sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\big), \qquad \bar\alpha_t = \prod_{i=1}^{t} (1-\beta_i).$$
#
# We write $\alpha_t = \sqrt{\bar\alpha_t}$ for what is left of the picture and $\sigma_t = \sqrt{1-\bar\alpha_t}$ for the standard deviation of the noise:
#
# $$x_t = \alpha_t\,x_0 + \sigma_t\,\epsilon, \qquad \epsilon \sim \mathcal N(0, I).$$
#
# The product $\bar\alpha$, once by hand and once as the schedule knows it:

# %% name="product" tags=["nbval-check-output"]
abar = torch.cumprod(1 - beta, dim=0)
rows = []
for i in (1, 250, 500, 750, 1000):
    alpha, sigma = ddpm.alpha_sigma(i / 1000)
    rows.append({"i": i, "product": float(abar[i - 1]), "α²": alpha**2, "α": alpha, "σ": sigma})
form = {"product": ".6f", "α²": ".6f", "α": ".4f", "σ": ".4f"}
plots.show_table(rows, digits=form)

# %% [raw] name="slide-jump" shows="product"
# ## The jump
#
# Noises are independent, so their variances add, and a sum of Gaussians is Gaussian:
#
# $$x_t = \alpha_t\,x_0 + \sigma_t\,\epsilon, \qquad \alpha_t^2 = \bar\alpha_t = \prod_{i=1}^{t} (1-\beta_i), \qquad \sigma_t^2 = 1 - \bar\alpha_t$$

# %% [markdown] name="product-seen"
# After 250 of 1000 steps about half of $\bar\alpha$ is gone, after 500 more than nine tenths. And the last line is not zero; "The last step" below shows what that small number does.
#
# ### The smallest exact case
#
# Is the jump really the same as the walk? On data whose noised density is a formula we can check. Our toy has one dimension and two classes: with probability 0.3 a draw from $\mathcal N(-2, 0.3)$, with probability 0.7 one from $\mathcal N(1, 0.5)$. Noise turns each bump $\mathcal N(m, v)$ into $\mathcal N(\alpha_t m,\ \alpha_t^2 v + \sigma_t^2)$ and leaves the weights alone, so the exact density of $x_t$ is known at every $t$.
#
# First the walk: 20,000 points through all 1000 steps, with fresh noise at every step.

# %% name="walk"
from diffusion_lab.data.toys import load_toy

toy = load_toy("two_class")
grid = [i / 1000 for i in range(1001)]
g = generator(1)
walk = chain(toy.sample(20_000, g), ddpm, grid, g)
states = {t: x for t, x in zip(grid, walk, strict=True) if t in (0, 0.1, 0.3, 1)}

# %% [markdown] name="densities-text"
# Now the formula, drawn as a line over the histogram of the walked points. Look for a difference.

# %% name="densities"
fig, panels = plots.axes(1, 4, size=(2.7, 2.5), share=True)
line = torch.linspace(-5, 5, 201, dtype=torch.float64)
for ax, (t, x) in zip(panels, states.items(), strict=True):
    ax.hist(x[:, 0].numpy(), bins=80, range=(-5, 5), density=True, color="0.75")
    density = toy.log_prob(line[:, None], *ddpm.alpha_sigma(t)).exp()
    ax.plot(line, density, marker="", color=plots.COLOURS[0])
    ax.set(xlabel="x", title=f"t = {t:g}", xticks=[-4, -2, 0, 2, 4])
panels[0].set_ylabel("density")
plots.show(
    fig,
    alt="Four panels: two separate bumps at t = 0 move together, merge, and end as one bell curve.",
    caption="Grey: 20,000 points after 0, 100, 300 and 1000 steps. Line: the exact density of the jump.",
)

# %% [markdown] name="densities-seen"
# The line runs through the histogram in every panel. At $t = 1$ both classes have become the same bell curve. The next cell makes it a number: mean and variance of the walked points, compared with the formula in units of their standard error. Values around 1 are what chance gives, one between 2 and 3 among eight is no surprise yet, and 4 or more would be alarming.

# %% [raw] name="slide-densities" shows="densities"
# ## Is the jump the same as the walk?
#
# Grey: 20,000 points after a walk of so many steps. Line: the exact density of the jump.
#
# <aside class="notes">Exercise 2, find the bug, fits here: a jump that is one factor short. Five minutes.</aside>

# %% name="moments" tags=["nbval-check-output"]
rows, mean0, var0, n = [], 0.1, 2.33, 20_000  # mean and variance of the toy: 0.3*(-2) + 0.7*1, ...
for t, x in states.items():
    alpha, sigma = ddpm.alpha_sigma(t)
    mean, var = alpha * mean0, alpha**2 * var0 + sigma**2
    x = x.double()
    off_mean = abs(float(x.mean()) - mean) / math.sqrt(var / n)
    off_var = abs(float(x.var()) - var) / float((x - mean).square().std() / math.sqrt(n))
    rows.append(
        {"t": t, "exact variance": var, "mean off by": off_mean, "variance off by": off_var}
    )
form = {"exact variance": ".4f", "mean off by": ".1f", "variance off by": ".1f"}
plots.show_table(rows, title="In standard errors", digits=form)

# %% [markdown] name="variances-text"
# The exact variance in that table is $\alpha_t^2 v + \sigma_t^2$, for data of variance $v$. So "the variance stays 1" is true for data of variance 1, and only for those. All others move towards 1:

# %% name="variances"
t = torch.linspace(0, 1, 101)
alpha, sigma = linear().alpha_sigma(t)
curves = {f"data of variance {v:g}": alpha**2 * v + sigma**2 for v in (0.5, 1, 2.33)}
plots.show(
    plots.lines(t, curves, xlabel="time t", ylabel="variance of $x_t$"),
    alt="Three curves over time: from 0.5, 1 and 2.33 they run together to 1.",
    caption="The variance of xₜ for the pixels of Fashion (0.5), unit data, and the toy (2.33).",
)

# %% [markdown] name="variances-seen"
# By $t = 0.6$ the three can hardly be told apart. This is the point of VP: whatever the data, the end is (all but exactly) the same $\mathcal N(0, I)$, from which a sampler can start.
#
# ### The same in two dimensions
#
# Eight small Gaussians on a ring, coloured by the one each point came from. What happens to the gaps between neighbours, and to the hole in the middle?

# %% name="ring"
points, labels = load_toy("ring").sample_labelled(1500, generator(2))
noise = torch.randn(1500, 2, generator=generator(3))
fig, panels = plots.axes(1, 4, size=(2.7, 2.7), share=True)
for ax, t in zip(panels, (0.0, 0.15, 0.3, 0.6), strict=True):
    x = noised(points, noise, linear(), torch.full((1500,), t))
    ax.scatter(*x.T, s=5, c=[plots.COLOURS[k] for k in labels], marker="o", linewidths=0)
    ax.set(title=f"t = {t:g}", xlim=(-3.7, 3.7), ylim=(-3.7, 3.7), aspect="equal")
    ax.set(xlabel="first coordinate")
panels[0].set_ylabel("second coordinate")
plots.show(
    fig,
    alt="Eight coloured clusters on a ring blur, mix with their neighbours and fill the middle.",
    caption="Neighbours mix first; the ring as a whole is the last to go.",
)

# %% [markdown] name="ring-seen"
# First it is no longer clear which of two neighbours a point came from; then which side of the ring. Fine differences are forgotten before coarse ones, as in the picture of the boot.

# %% [markdown] name="ex2-text"
# ### Exercise 2 (find the bug): a jump that starts late
#
# A colleague reports: "after step 1 my picture is still perfectly clean". Their function jumps to step `i` (from 1 to T), where `betas[0]` is $\beta_1$. Repair it.
#
# <details><summary>Hint 1: nudge</summary>Work out by hand which factors are in the product for i = 1. Which ones should be?</details>
# <details><summary>Hint 2: formula</summary>
#
# $\bar\alpha_i = (1-\beta_1)(1-\beta_2)\cdots(1-\beta_i)$: i factors, the first of which is 1 - betas[0].
#
# </details>
# <details><summary>Hint 3: pseudo-code</summary>Which slice of the list holds the first i numbers, from beta_1 to beta_i? A slice stops before its end.</details>


# %% name="ex2"
def repaired_jump(x0, betas, i, eps):
    """x_i from x_0, for i = 1..T."""
    ### BEGIN SOLUTION
    abar = (1 - betas[:i]).prod()
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    ### END SOLUTION
    ### BEGIN STUB
    # abar = (1 - betas[: i - 1]).prod()
    # return abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    ### END STUB


# %% name="check2"
check.repaired_jump(repaired_jump)

# %% [markdown] name="schedules-text"
# ## Three schedules
#
# Once there is a jump, the chain has done its work: all that matters is the pair $(\alpha_t, \sigma_t)$ at the times we ask for. Three popular choices:
#
# | schedule | definition | paper |
# |---|---|---|
# | linear | $\beta$ rises linearly, in 1000 steps from 0.0001 to 0.02; without steps $\log\alpha_t = -\tfrac14 t^2 (b_1 - b_0) - \tfrac12 t\,b_0$ with $b_0 = 0.1$, $b_1 = 20$ | [2006.11239](https://arxiv.org/abs/2006.11239), [2011.13456](https://arxiv.org/abs/2011.13456) |
# | cosine | $\bar\alpha_t \propto \cos^2\!\big(\tfrac{\pi}{2}\,\tfrac{t+s}{1+s}\big)$ with $s = 0.008$; cut into steps, $\beta$ is clipped at 0.999 | [2102.09672](https://arxiv.org/abs/2102.09672) |
# | sigmoid | $\bar\alpha_t = \dfrac{S(3) - S(6t-3)}{S(3) - S(-3)}$ with the logistic function $S(z) = 1/(1+e^{-z})$ | [2301.10972](https://arxiv.org/abs/2301.10972) |
#
# The left panel shows $\bar\alpha_t$, the right one shows $\lambda_t = \log(\alpha_t/\sigma_t)$, whose meaning comes in the next section. Which schedule is the gentlest in the middle, and which drops most at the end?

# %% name="schedules"
from diffusion_lab.schedules import Table, cosine, make, zero_terminal_snr

three = {"linear": linear(), "cosine": cosine(), "sigmoid": make("sigmoid")}
t = torch.linspace(0.001, 0.999, 400)
fig, (left, right) = plots.axes(1, 2)
kept = {name: s.alpha(t) ** 2 for name, s in three.items()}
plots.lines(t, kept, xlabel="time t", ylabel=r"$\bar\alpha_t$", ax=left)
lams = {name: s.lam(t) for name, s in three.items()}
plots.lines(t, lams, xlabel="time t", ylabel=r"$\lambda_t = \log(\alpha_t/\sigma_t)$", ax=right)
plots.show(
    fig,
    alt="Left: the share of the picture left over time; linear falls early, cosine and sigmoid fall symmetrically. "
    "Right: lambda; cosine and sigmoid plunge at the end.",
    caption="The same three schedules, as ᾱ and as half the log signal-to-noise ratio.",
)

# %% [markdown] name="schedules-seen"
# Linear is down to a tenth before the middle and spends its second half on values near zero. Cosine and sigmoid pass $\bar\alpha = 1/2$ at about $t = 0.5$, and catch up in a plunge at the end. On the right these two are about equally gentle in the middle. Cosine drops most at the end, without a bound (cut into steps, its last $\beta$ is clipped); sigmoid is cut where $\bar\alpha$ reaches $10^{-9}$.
#
# ### Why is t in [0, 1], and where did the 1000 steps go?
#
# $T$ only says into how many pieces the curve is cut. With the betas scaled by $1000/T$, any $T$ follows nearly the same curve, so the lab labels time by the fraction $t = i/T$, with $t = 0$ for the data and $t = 1$ for the noise. Half-way, on grids of different $T$ and without a grid:

# %% [raw] name="slide-schedules" shows="schedules"
# ## Three schedules
#
# Which is the gentlest in the middle, and which drops most at the end?

# %% name="grids" tags=["nbval-check-output"]
rows = [
    {"T": str(T), "λ(0.5)": linear(T).lam(0.5), "largest β": 20 / T} for T in (1000, 100, 50)
] + [{"T": "no grid", "λ(0.5)": linear().lam(0.5), "largest β": None}]
plots.show_table(rows, digits={"λ(0.5)": ".3f", "largest β": "g"})

# %% [markdown] name="grids-seen"
# With 1000 steps the difference is small; with 50 it starts to show, since a product of $1-\beta$ equals an exponential only while every $\beta$ is small. Below 20 steps the scaled betas would exceed 1 and the recipe breaks down: `linear(T)` then cuts them at 0.999, which is no longer the same curve. A sampler with few steps therefore does not scale the betas. It picks times on the fine curve, and takes $\alpha$ and $\sigma$ there.

# %% [markdown] name="lambda-text"
# ## One number per noise level
#
# Divide $x_t = \alpha x_0 + \sigma\epsilon$ by $\alpha$:
#
# $$\frac{x_t}{\alpha} = x_0 + \frac{\sigma}{\alpha}\,\epsilon .$$
#
# Multiplying by a known number neither adds nor removes information, so everything that $x_t$ says about $x_0$ depends on the ratio $\alpha/\sigma$ alone. Its square is the **signal-to-noise ratio**, $\mathrm{SNR} = \alpha^2/\sigma^2$, and the course uses
#
# $$\lambda = \log\frac{\alpha}{\sigma} = \tfrac12 \log \mathrm{SNR}.$$
#
# $\lambda = 0$ means as much noise as signal (for data of variance 1). Raising $\lambda$ by $\log 2$ halves the noise beside the signal. A schedule falls from large positive to large negative $\lambda$, and **two schedules differ only in when they reach each $\lambda$**.
#
# The pair $\alpha = 1$, $\sigma$ growing is the **variance exploding** (VE) process. It looks different from VP, yet at equal $\lambda$ it is VP divided by $\alpha$:

# %% name="ve" tags=["nbval-check-output"]
from diffusion_lab.metrics.information import vp

ve, levels = make("ve"), [2.0, 1.0, 0.0, -1.0, -2.0, -3.0]
views = {"VP": [], "VE": [], "VE scaled": []}
for lam in levels:
    (alpha, sigma), (_, sigma_ve) = vp(lam), ve.alpha_sigma(ve.t_of_lam(lam))
    x_vp, x_ve = float(alpha) * x0[9:] + float(sigma) * eps[:1], x0[9:] + sigma_ve * eps[:1]
    for view, x in zip(views.values(), (x_vp, x_ve, float(alpha) * x_ve), strict=True):
        view.append(x)
worst = max(
    float((a - b).abs().max()) for a, b in zip(views["VP"], views["VE scaled"], strict=True)
)
print(f"VP and rescaled VE differ by less than 0.0001: {worst < 1e-4}")

# %% [markdown] name="ve-strip-text"
# The three rows as pictures:

# %% name="ve-strip"
plots.show(
    plots.strip(
        [torch.cat(view) for view in views.values()],
        titles=[rf"$\lambda$ = {lam:g}" for lam in levels],
        labels=list(views),
    ),
    alt="Three rows of a boot under growing noise. The first and third rows are identical; the "
    "second has harder contrast because its values leave the range.",
    caption="VP, VE, and VE multiplied by the α of VP, at equal λ and with equal noise.",
)

# %% [markdown] name="ve-strip-seen"
# Rows one and three are equal. VE (row two) only looks harsher, because values far outside $[-1, 1]$ are cut off in the drawing. So VP against VE is a question of units. It matters to a network, which likes inputs of size 1, and not to the mathematics. (The model of lesson 00 is VE: its noise goes up to 20, and its pictures were scaled back for the eye.)

# %% [raw] name="slide-lambda" shows="ve-strip"
# ## A noise level is one number
#
# $$\lambda = \log\frac{\alpha}{\sigma} = \frac{1}{2} \log \mathrm{SNR}$$
#
# Two schedules differ only in **when** they reach each $\lambda$. VP and VE differ by a factor:

# %% [markdown] name="ex3-text"
# ### Exercise 3 (derive): back from $\lambda$
#
# Given $\lambda$, and $\alpha^2 + \sigma^2 = 1$, what are $\alpha$ and $\sigma$? Return both, for a tensor `lam`.
#
# <details><summary>Hint 1: nudge</summary>Two equations, two unknowns: the ratio of alpha and sigma is known, and so is the sum of their squares.</details>
# <details><summary>Hint 2: formula</summary>
#
# $e^{2\lambda} = \alpha^2/(1-\alpha^2)$. Solve for $\alpha^2$: you get the logistic function, torch.sigmoid, of something.
#
# </details>
# <details><summary>Hint 3: pseudo-code</summary>Take the logistic function of the number that hint 2 gives: that is alpha squared. What is left to 1 is sigma squared. Two roots, with torch, since lam is a tensor.</details>


# %% name="ex3"
def from_lambda(lam):
    """(alpha, sigma) with log(alpha / sigma) = lam and alpha^2 + sigma^2 = 1."""
    ### BEGIN SOLUTION
    return torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt()
    ### END SOLUTION


# %% name="check3"
check.from_lambda(from_lambda)

# %% [markdown] name="ex4-text"
# ### Exercise 4 (predict): half the contrast
#
# Somebody divides all pixel values by 2 and keeps the schedule. Compared with before, at the same $t$:
#
# - **a** nothing changes, since $\alpha_t$ and $\sigma_t$ are the same;
# - **b** it is as if $\lambda_t$ were lower by $\log 2$;
# - **c** it is as if $\lambda_t$ were lower by $\log 4$;
# - **d** it is as if $\lambda_t$ were higher by $\log 2$.
#
# Answer with a letter in quotes.
#
# <details><summary>Hint 1: nudge</summary>Write down x_t for the weaker picture. Where else could the factor 1/2 stand?</details>
# <details><summary>Hint 2: formula</summary>
#
# $\alpha\,(x_0/2) + \sigma\epsilon = (\alpha/2)\,x_0 + \sigma\epsilon$
#
# </details>
# <details><summary>Hint 3: pseudo-code</summary>Write the new lambda as the logarithm of a ratio, and take the 1/2 out of the logarithm.</details>

# %% name="ex4"
### BEGIN SOLUTION
halved = "b"
### END SOLUTION

# %% name="check4"
check.halved(halved)

# %% [markdown] name="terminal-text"
# ## The last step, and what leaks through it
#
# A sampler starts from pure noise, $\mathcal N(0, I)$. Training, however, ends at $x_T = \alpha_T x_0 + \sigma_T\epsilon$. If $\alpha_T$ is not zero, the two do not match. How large is it? Here is the DDPM schedule, the one Stable Diffusion was trained with (also 1000 betas, linear in $\sqrt\beta$), cosine, and a repaired DDPM.

# %% name="terminal" tags=["nbval-check-output"]
sd_betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ends = {
    "linear": ddpm,
    "Stable Diffusion": Table(sd_betas),
    "cosine": cosine(T=1000),
    "linear, zero SNR": zero_terminal_snr(ddpm),
}
rows = [
    {"schedule": name, "ᾱ₁": s.abar[1], "ᾱ_T": f"{s.abar[-1]:.3e}", "α_T": s.alpha(1.0)}
    for name, s in ends.items()
]
plots.show_table(rows, digits={"ᾱ₁": ".4f", "α_T": ".4f"})

# %% [markdown] name="leak-text"
# DDPM keeps $\bar\alpha_T = 4.036 \cdot 10^{-5}$, that is $\alpha_T = 0.0064$ of the picture. Surely that is nothing? For one pixel, yes. But think of the **mean brightness** of a picture of $d$ pixels. Averaging leaves the brightness as it is and divides the noise's standard deviation by $\sqrt d$. So the signal-to-noise ratio of the brightness is
#
# $$\frac{\bar\alpha_T}{1-\bar\alpha_T}\; d\;\mathrm{Var}(\text{brightness}),$$
#
# and it grows with the number of pixels. The correlation between the brightness of $x_0$ and that of "pure noise" $x_T$ follows, with the spread of brightness measured on our clothes:

# %% name="leak" tags=["nbval-check-output"]
spread = float(train.x.double().mean((1, 2, 3)).var())
rows = []
for name, s in ends.items():
    row = {"schedule": name}
    for side in (28, 64, 256, 512):
        ratio = s.snr(1.0) * spread * side**2
        row[f"side {side}"] = math.sqrt(ratio / (1 + ratio))
    rows.append(row)
title = f"Correlation of brightness; its standard deviation is {spread**0.5:.2f}"
plots.show_table(rows, title=title, digits=dict.fromkeys(list(rows[0])[1:], ".2f"))

# %% [markdown] name="leak-seen"
# At 28 x 28 pixels the leak of the linear schedule is harmless. At 512 x 512 its "noise" tells part of the brightness (the square of the correlation is the share of its variance that is explained), and with the schedule of Stable Diffusion the brightness has survived almost intact. (Stable Diffusion works on latents of side 64. With the spread of our clothes its number there is above 0.7: lower, and still far from noise.) A network trained that way learns to read the brightness off $x_T$. At sampling time $x_T$ is real noise of brightness close to zero, so the pictures come out medium bright ([arXiv 2305.08891](https://arxiv.org/abs/2305.08891)).
#
# Let us see it. We enlarge 200 pictures 16 times, to side 448, by repeating pixels, noise them to $t = 1$ and compare brightness before and after. (Brightness is a mean, so of the noise only the mean over 448 x 448 pixels is needed.)

# %% name="see-leak"
fig, panels = plots.axes(1, 2, size=(3.6, 3.0), share=True)
for ax, name in zip(panels, ("linear", "linear, zero SNR"), strict=True):
    alpha, sigma = ends[name].alpha_sigma(1.0)
    bright, g = train.x[:200].mean((1, 2, 3)), generator(4)
    noise = torch.stack([torch.randn(448 * 448, generator=g).mean() for _ in bright])
    after, ratio = alpha * bright + sigma * noise, ends[name].snr(1.0) * spread * 448**2
    found = float(torch.corrcoef(torch.stack([bright, after]))[0, 1])
    words = f"{name}\ncorrelation {found:.2f}, formula {math.sqrt(ratio / (1 + ratio)):.2f}"
    ax.plot(bright, after, "o", markersize=3)
    ax.set(xlabel="brightness of $x_0$", ylabel="brightness of $x_1$", title=words)
plots.show(
    fig,
    alt="Two scatter plots: on the left the brightness of noise rises with that of the picture, "
    "on the right there is no trend.",
    caption="Brightness before and after the whole forward process, side 448.",
)

# %% [markdown] name="see-leak-seen"
# Left, the end of the process knows about the beginning; right, it does not. Above each panel stand the correlation of these 200 pictures and the one that the formula predicts; chance moves the first by about 0.05 on the left and 0.07 on the right, $(1-\rho^2)/\sqrt{200}$ for a correlation $\rho$. These 200 pictures also differ a little less in brightness than all do, which lowers it on the left. The repair, `zero_terminal_snr`, shifts and stretches $\sqrt{\bar\alpha}$ so that its last value is 0 and its first stays: $r \mapsto (r - r_T)\, r_1/(r_1 - r_T)$ with $r = \sqrt{\bar\alpha}$.
#
# It has a price. At $\alpha = 0$ the picture cannot be read off the noise, because $x_0 = (x_t - \sigma\epsilon)/\alpha$ divides by zero. A network for such a schedule has to predict something other than $\epsilon$; lesson 03 says what.

# %% [raw] name="slide-leak" shows="see-leak"
# ## What leaks through the last step
#
# A sampler starts from pure noise. Does training end there?
#
# <aside class="notes">For one pixel the rest is nothing. The mean brightness averages the noise away, so that in large pictures it survives. The price of the repair: at the end the noise cannot be turned into a picture by a division, so the network must predict something else (lesson 03).</aside>

# %% [markdown] name="information-text"
# ## How much is left? The exact answer on a toy
#
# "Looks like noise" is a statement about eyes. Information is a statement about the best possible observer. Three words first. The **entropy** of a class $k$, $H = -\sum_k p_k \log_2 p_k$, is how many bits it takes to say it. The **mutual information** $I(k; x_t) = H(k) - H(k \mid x_t)$ is by how many bits $x_t$ shortens that. The **mmse**, minimum mean squared error, is what the conditional mean still gets wrong; for a Gaussian of variance $v$ it is $v/(1 + v\,\mathrm{SNR})$.
#
# <details><summary>Where the last formula comes from</summary>
#
# Given $y = x_0 + \epsilon/\sqrt{\mathrm{SNR}}$, precisions add: $1/v$ from the data and $\mathrm{SNR}$ from the observation. The variance that is left is one over their sum.
# </details>
#
# For the toy with two classes we ask three things at each noise level:
#
# - **class bits** $I(k; x_t)$: how much $x_t$ tells about the class. One bit is the answer to one fair yes-or-no question.
# - **accuracy**: how often the best guess of the class is right.
# - **mmse** $\mathbb E\,|x_0 - \mathbb E[x_0 \mid x_t]|^2$: the error that even a perfect denoiser makes.
#
# All three are integrals over a line, which the package computes to many digits. They take $\lambda$ and nothing else: one number per noise level is enough.

# %% name="toy-numbers" tags=["nbval-check-output"]
from diffusion_lab.exact import FiniteData, Gaussian
from diffusion_lab.metrics import Cost, information

few = torch.tensor([4.0, 1.0, 0.0, -1.0, -2.0, -4.0], dtype=torch.float64)
asked = {"λ": few, "class bits": information.class_bits(toy, few),
         "accuracy": information.bayes_accuracy(toy, few), "mmse": information.mmse(toy, few)}  # fmt: skip
rows = [dict(zip(asked, map(float, row), strict=True)) for row in zip(*asked.values(), strict=True)]
plots.show_table(rows, digits={"class bits": ".3f", "accuracy": ".3f", "mmse": ".3f"})

# %% [markdown] name="toy-numbers-seen"
# With little noise the accuracy does not reach 1, because the two bumps overlap a little even without noise. With much noise it falls to 0.7 and no further: always guessing the more frequent class is right that often. The mmse ends at 2.33, the variance of the data, since a denoiser that sees nothing can only answer with the mean.
#
# Exercise 4 can be checked exactly now. Halving Gaussian data is the same as lowering $\lambda$ by $\log 2$:

# %% name="halved-exact" tags=["nbval-check-output"]
whole, half = Gaussian([0.0], [[1.0]]), Gaussian([0.0], [[0.25]])
rows = []
for level in (1.0, 0.0, -1.0):
    a = float(information.data_bits(half, level))
    b = float(information.data_bits(whole, level - math.log(2)))
    rows.append({"λ": level, "bits, half the contrast": a, "bits, λ lowered": b})
plots.show_table(rows, digits={"bits, half the contrast": ".4f", "bits, λ lowered": ".4f"})

# %% [markdown] name="immse-text"
# ### How fast is it lost?
#
# There is a remarkable link between information and denoising (Guo, Shamai and Verdú, 2005). The information about $x_0$ itself, $I(x_0; x_t)$ in nats, changes with $\lambda$ as
#
# $$\frac{d}{d\lambda}\, I(x_0; x_t) \;=\; \mathrm{SNR}\cdot\mathrm{mmse} \;=\; \mathbb E\,|\epsilon - \hat\epsilon(x_t)|^2 ,$$
#
# where $\hat\epsilon$ is the best possible guess of the noise.
#
# <details><summary>Why, for a Gaussian</summary>
#
# For data of variance $v$, $I = \tfrac12 \log(1 + v\,\mathrm{SNR})$ nats, and $\mathrm{SNR} = e^{2\lambda}$. Differentiate: $\frac{dI}{d\lambda} = \frac{v\,\mathrm{SNR}}{1 + v\,\mathrm{SNR}}$, which is $\mathrm{SNR}$ times the mmse above. That the same law holds for all data is the theorem; the next cell tests it on the toy. The second equality is the change of units $x_0 - \hat x_0 = -(\epsilon - \hat\epsilon)\,\sigma/\alpha$.
# </details>
#
# Keep the right-hand side in mind: it is the loss that a diffusion model is trained with, at its optimum. **The best possible training loss at a noise level is the speed at which information is destroyed there.** We compare a numerical derivative of the left side with the right side.

# %% name="immse" tags=["nbval-check-output"]
lam, h = torch.linspace(-5, 4, 91, dtype=torch.float64), 1e-4
rise = information.data_bits(toy, lam + h) - information.data_bits(toy, lam - h)
slope = rise / (2 * h) * math.log(2)  # bits to nats
loss = torch.exp(2 * lam) * information.mmse(toy, lam)
print(f"largest difference below 0.000001: {float((slope - loss).abs().max()) < 1e-6}")

# %% [markdown] name="known-text"
# The same law splits the loss in two. For somebody who is told the class, each bump is a Gaussian of variance $v_k$, whose loss is $v_k\,\mathrm{SNR}/(1 + v_k\,\mathrm{SNR})$. What the others lose on top of that is the speed at which the *class* is forgotten, so the area between the two curves must be the class bits:

# %% name="known" tags=["nbval-check-output"]
snr = torch.exp(2 * lam)
known = 0.3 * 0.3 * snr / (1 + 0.3 * snr) + 0.7 * 0.5 * snr / (1 + 0.5 * snr)
area = float(torch.trapezoid(loss - known, lam)) / math.log(2)
bits = information.class_bits(toy, lam)
print(
    f"area between the curves {area:.3f} bits, class bits lost {float(bits[-1] - bits[0]):.3f} bits"
)

# %% [markdown] name="immse-plot-text"
# As curves. Where on the $\lambda$ axis does the class go?

# %% name="immse-plot"
fig, (left, right) = plots.axes(1, 2)
axis = r"$\lambda$ (noise grows to the left)"
plots.lines(lam, {"class": bits}, xlabel=axis, ylabel="class bits left", ax=left)
curves = {"class unknown": loss, "class known": known}
plots.lines(lam, curves, xlabel=axis, ylabel=r"loss of the best $\hat\epsilon$", ax=right)
right.fill_between(lam, loss, known, color="0.85")
plots.show(
    fig,
    alt="Left: class bits rise from 0 to 0.85 between lambda -3 and 2. Right: two losses rising "
    "from 0 to 1; between lambda -2 and 2 the one without the class is higher.",
    caption="Left: what is left of the class. Right: the shaded area is the class, being forgotten.",
)

# %% [markdown] name="immse-seen"
# Read the axis from right to left, as time runs. On the far right the loss is 1 and both curves agree: noise erases fine detail, fine detail has no end in continuous data, and the class is in no danger. Between $\lambda = 2$ and $\lambda = -2$ the curves part: here it is decided which bump a point came from. On the left nothing is left to lose. Pictures behave the same way, and several later lessons (weights on $t$ in 03, guidance in 14) make use of it.

# %% [markdown] name="ex5-text"
# ### Exercise 5 (measure): half-lives
#
# At which time is half of the class bits of the toy gone, under each of the schedules in `three`? "Half" is half of what is known without noise, `class_bits(toy, 15.0)`. Give a dictionary from name to time: fill in the three `...`, or build the dictionary in your own way.
#
# `information.level(f, wanted)` finds the $\lambda$ at which a rising function `f` of $\lambda$ takes the value `wanted`.
#
# <details><summary>Hint 1: nudge</summary>The half-life is one value of lambda. Only the time at which a schedule reaches it differs.</details>
# <details><summary>Hint 2: formula</summary>Find lam with class_bits(toy, lam) = class_bits(toy, 15.0) / 2; then schedule.t_of_lam(lam).</details>
# <details><summary>Hint 3: pseudo-code</summary>Make a function of lambda alone out of class_bits (functools.partial does it). Take its value at 15, halve it, and let information.level find where the function takes that value. Ask every schedule in three for its time.</details>

# %% name="ex5"
### BEGIN SOLUTION
bits_at = partial(information.class_bits, toy)
my_lam = information.level(bits_at, 0.5 * float(bits_at(15.0)))
half_times = {name: s.t_of_lam(my_lam) for name, s in three.items()}
### END SOLUTION
### BEGIN STUB
# half_times = {"linear": ..., "cosine": ..., "sigmoid": ...}  # your turn
### END STUB

# %% name="check5"
check.half_times(half_times)

# %% [markdown] name="toy-time-text"
# With the package's own tools, the class bits of the toy over *time*:

# %% name="toy-time"
t = torch.linspace(0.001, 0.999, 200)
left_over = {name: information.class_bits(toy, s.lam(t)) for name, s in three.items()}
fig = plots.lines(t, left_over, xlabel="time t", ylabel="class bits left")
fig.axes[0].axhline(0.5 * float(information.class_bits(toy, 15.0)), color="0.5", lw=1, marker="")
plots.show(
    fig,
    alt="Three falling curves: linear crosses half before t = 0.4, cosine and sigmoid after 0.5.",
    caption="Class bits of the toy over time. The grey line marks one half.",
)

# %% [markdown] name="toy-time-seen"
# Linear loses half of the class before $t = 0.35$; the other two keep it beyond $t = 0.55$, and stay close together. Same noise, same data: only the clock differs.

# %% [markdown] name="fashion-strip-text"
# ## The same on clothes
#
# Three schedules, one boot, one noise pattern. Compare the columns.

# %% name="fashion-strip"
times = torch.linspace(0, 1, 11)
plots.show(
    plots.strip(
        [noised(boot, eps, s, times) for s in three.values()],
        titles=[f"t = {t:.1f}" for t in times],
        labels=list(three),
    ),
    alt="Three rows of a boot vanishing in noise: linear is noise from t = 0.6 on, cosine and "
    "sigmoid show the boot until about t = 0.7.",
    caption="The last third of the linear row shows hardly anything but noise.",
)

# %% [markdown] name="ideal-text"
# To the eye, linear wastes its last third. What would the best possible observer say? For a finite set of pictures the best observer is a formula. Somebody who knows all 10,000 training pictures by heart sees $x_t$ and asks of each one: how well would it explain this? By Bayes' rule, for noise of standard deviation $\sigma$,
#
# $$p(x_0 = x^{(i)} \mid x_t) \;\propto\; \exp\!\Big(-\frac{|x_t - \alpha x^{(i)}|^2}{2\sigma^2}\Big).$$
#
# That is a soft search for nearest neighbours. Summed over the pictures of a class it gives the chance of each class; averaged over the pictures it gives the ideal denoiser $\mathbb E[x_0 \mid x_t]$. `FiniteData` computes both. Here is what it makes of ten clothes at $\lambda = -1.5$, where $\sigma$ is more than four times $\alpha$. Cover the lower two rows and try to guess first.

# %% name="ideal"
data = FiniteData(train.x, train.labels)
alpha, sigma = (float(c) for c in vp(-1.5))
x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=generator(5))
bets = information.class_posterior(data, x_t, alpha, sigma).max(1)
words = [f"{train.classes[k]}\n{p:.0%}" for p, k in zip(bets.values, bets.indices, strict=True)]
answers = data.x0(x_t, alpha, sigma)
plots.show(
    plots.strip([x_t, answers, x0], titles=words, labels=["seen", "answer", "truth"]),
    alt="Top: noise in which hardly anything can be seen, with a guessed class and its probability "
    "above. Middle: blurred reconstructions. Bottom: the ten clothes.",
    caption="Above each column: the class that the ideal observer would bet on, and how sure it is.",
)

# %% [markdown] name="ideal-seen"
# The top row is noise to us, yet more than half of the bets are right, and some of the wrong ones are reasonable: a dress taken for a t-shirt, a shirt for a coat. Others are not: the bag is taken for an ankle boot. Each bet comes with how sure the observer is. Where it is unsure, it answers with a blend of candidates. That is why denoised pictures are blurred at high noise: the blur is honest.

# %% [markdown] name="measure-text"
# ### Bits over the noise levels
#
# `information.finite` noises randomly chosen pictures and averages what the ideal observer still knows: **picture bits** (which of the 10,000 it is, at most $\log_2 10000$), **class bits** (at most about $\log_2 10$), and the accuracy. Given $x_t$ its posterior is exact; only the average over pictures and noise is sampled, so we repeat it with three seeds.

# %% name="measure"
n = lessons.pick(smoke=12, live=128)
where = torch.cat([torch.tensor([-5.0, -4.5]), torch.linspace(-4, 0, 41), torch.tensor([0.5, 1.0])])
found = [
    [information.finite(data, float(level), n, generator(seed)) for level in where]
    for seed in range(3)
]
class_bits = torch.tensor([[one.class_bits for one in seed] for seed in found])  # (3, 45)
picture_bits = torch.tensor([[one.picture_bits for one in seed] for seed in found])
accuracy = torch.tensor([[one.accuracy for one in seed] for seed in found])

# %% [markdown] name="measure-plot-text"
# All three over $\lambda$, as a share of what there is without noise. In which order do they go?

# %% name="measure-plot"
shares = {
    "picture bits": picture_bits.mean(0) / picture_bits.mean(0)[-1],
    "class bits": class_bits.mean(0) / class_bits.mean(0)[-1],
    "accuracy": accuracy.mean(0),
}
plots.show(
    plots.lines(where, shares, xlabel=r"$\lambda$ (noise grows to the left)", ylabel="share left"),
    alt="Three rising curves over lambda from -5 to 1: picture bits rise last, class bits just "
    "before; the accuracy starts at a tenth and stays above both; all reach 1 at about 0.",
    caption="What the ideal observer of 10,000 clothes still knows, mean of three seeds.",
)

# %% [markdown] name="measure-plot-seen"
# Above $\lambda = 0$ the ideal observer is all but certain which picture it was: 784 pixels are a lot of evidence. With more noise the picture is forgotten first (which shirt?), and its class a little later (a shirt at all?). Everything interesting happens between about $\lambda = -4$ and $\lambda = 0$.
#
# One caution. This observer knows *these* pictures by heart. A network is asked about pictures that it has never seen; what it can still tell of them is not measured here. Read the curves as what is there to be found.

# %% [raw] name="slide-left" shows="measure-plot"
# ## How much is left?
#
# What an ideal observer of 10,000 clothes still knows. Which goes first: which picture it was, or which class?

# %% [markdown] name="clock-text"
# ### Who has the better clock?
#
# The same class bits over time, one curve for each schedule. Under an even clock the curve would fall along a straight line.

# %% name="clock"
share = class_bits.mean(0) / class_bits.mean(0)[-1]
t = torch.linspace(0.001, 0.999, 400)
curves = {name: np.interp(s.lam(t), where, share) for name, s in three.items()}
fig = plots.lines(t, curves, xlabel="time t", ylabel="share of the class bits left")
fig.axes[0].axhline(0.05, color="0.5", lw=1, marker="")
plots.show(
    fig,
    alt="Linear falls between t = 0.3 and 0.8 and then lies on the floor; cosine and sigmoid fall "
    "only in the last third.",
    caption="Class bits of the clothes over time. The grey line marks 5 per cent.",
)

# %% [markdown] name="clock-seen"
# Linear is through at about $t = 0.8$; after that fewer than 5 per cent of the class bits are left, and a fifth of all steps is spent on almost nothing. Cosine and sigmoid hold the class much longer, and then lose it in a hurry: more than half of the class bits go in the last sixth of the time. Neither clock is even. Which one is better depends on what a network finds hard, and no measurement of information alone can settle that.

# %% [raw] name="slide-clock" shows="clock"
# ## Who has the better clock?
#
# The same information over time. Under an even clock the curve would fall along a straight line.

# %% [markdown] name="explore-text"
# ### Something to touch
#
# Move the time, change the schedule, choose a picture. Left: what the network sees. Middle: the best possible answer. Right: what the ideal observer thinks of the class. Find the time at which it starts to doubt, for linear and for cosine; then compare the two values of $\lambda$ in the title.


# %% name="explore" tags=["hide-input"]
from diffusion_lab.course.widgets import choice, explore, slider


def look(t, schedule, picture):
    alpha, sigma = three[schedule].alpha_sigma(t)
    k = train.classes.index(picture)
    x_t = alpha * x0[k : k + 1] + sigma * eps[:1]
    fig, (seen, answer, bars) = plots.axes(1, 3, size=(2.6, 2.6))
    ideal = data.x0(x_t, alpha, sigma)
    for ax, x, title in ((seen, x_t, "$x_t$"), (answer, ideal, "ideal answer")):
        ax.imshow(plots.picture(x))
        ax.set(title=title)
        ax.set_axis_off()
    chances = information.class_posterior(data, x_t, alpha, sigma)[0]
    bars.barh(train.classes, chances, color=plots.COLOURS[0])
    title = rf"$\lambda$ = {math.log(alpha / sigma):.2f}"
    bars.set(xlim=(0, 1), xlabel="probability", title=title)
    bars.invert_yaxis()
    return fig


explore(
    look,
    t=slider("time t", 0.65, 0.02, 0.99, 0.01),
    schedule=choice("schedule", list(three)),
    picture=choice("picture", list(train.classes), "coat"),
    alt=lambda t, schedule, picture: (
        f"The picture of class {picture} at time {t:.2f} under the {schedule} schedule, the ideal denoised picture, "
        "and bars with the probability of each class."
    ),
    caption="What is seen, the best answer to it, and the class as the ideal observer judges it.",
)

# %% [markdown] name="explore-seen"
# You will find the doubt at nearly the same $\lambda$ under every schedule, and at very different times.

# %% [markdown] name="ex6-text"
# ### Exercise 6 (build): a schedule of your own
#
# None of the three clocks is even. Make one that is: the toy's class bits should fall along a straight line. Write a function that returns a tensor of `T` betas, for any `T`, such that
#
# - 75, 50 and 25 per cent of the class bits are left at $t = 0.25$, $0.5$ and $0.75$ (each time within 0.03);
# - every beta lies in $(0, 1]$, the first step is gentle ($\bar\alpha_1 \ge 0.95$), and next to nothing is left at the end ($\bar\alpha_T \le 10^{-4}$).
#
# Many answers are right. The three values of $\lambda$ at which these shares are left are given as `marks` (exercise 5 found the one in the middle); `check.marks([0.9, 0.8])` gives those of other shares. The next figure draws your schedule beside the others.
#
# <details><summary>Hint 1: nudge</summary>Do not start from beta. Decide where lambda should be at each time, and work backwards.</details>
# <details><summary>Hint 2: formula</summary>
#
# $\bar\alpha_i = \mathrm{sigmoid}(2\lambda_i)$ and $\beta_i = 1 - \bar\alpha_i/\bar\alpha_{i-1}$ with $\bar\alpha_0 = 1$.
#
# </details>
# <details><summary>Hint 3: pseudo-code</summary>Five points fix lambda over time: one well above the marks at t = 0, the three marks at their times, one well below at t = 1. Join them by straight lines (np.interp) and read off lambda at i/T, for i = 1 to T, in float64. Then abar at each step; then beta from neighbours, with 1 before the first.</details>

# %% name="ex6"
marks = check.marks()  # the lambdas at which 75, 50 and 25 per cent are left


def my_betas(T):
    """T betas of a schedule of my own."""
    ### BEGIN SOLUTION
    left = np.linspace(0.98, 0.02, 25)  # more marks than three: a straighter line
    levels = check.marks(left)
    points = [levels[0] + 5, *levels, levels[-1] - 5]
    times = np.arange(1, T + 1) / T
    lam = torch.from_numpy(np.interp(times, [0, *(1 - left), 1], points))
    abar = torch.sigmoid(2 * lam)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    return 1 - abar / before
    ### END SOLUTION


# %% name="check6"
check.my_betas(my_betas)

# %% [markdown] name="own-clock-text"
# Your schedule (ours until the check says `right`) beside the three, judged by the toy it was made for and by the clothes it was not made for:

# %% name="own-clock"
mine = check.my_betas.result(my_betas).ok
own = Table((my_betas if mine else check.our_betas)(1000))
fig, (left, right) = plots.axes(1, 2)
t = torch.linspace(0.001, 0.999, 300)
clocks = three | {"yours" if mine else "ours": own}
of_toy = {name: information.class_bits(toy, s.lam(t)) for name, s in clocks.items()}
of_clothes = {name: np.interp(s.lam(t), where, share) for name, s in clocks.items()}
plots.lines(t, of_toy, xlabel="time t", ylabel="class bits left", title="toy", ax=left)
plots.lines(t, of_clothes, xlabel="time t", ylabel="share left", title="clothes", ax=right)
plots.show(
    fig,
    alt="Class bits over time under four schedules. Left, on the toy, the schedule of the exercise "
    "falls along a straight line. Right, on the clothes, it is no straighter than the others.",
    caption="A clock that is even for one set of data is not for another.",
)

# %% [markdown] name="own-strip-text"
# And the boot under it, in the same noise as before:

# %% name="own-strip"
times = torch.linspace(0, 1, 11)
plots.show(
    plots.strip([noised(boot, eps, own, times)], titles=[f"t = {t:.1f}" for t in times]),
    alt="Eleven pictures of a boot from clean to noise under the schedule of the exercise.",
    caption="The boot, destroyed by the schedule of exercise 6.",
)

# %% [markdown] name="own-strip-seen"
# An even clock for the class would need another line of $\lambda$ for every data set. Later lessons choose times by what a network finds hard (03) or by what a sampler loses (08), with the same tool: decide where $\lambda$ should be, and work backwards.

# %% [markdown] name="cost-text"
# ## What did it cost
#
# No network was called, so this row of the course's running table has zeros where later lessons have their largest numbers. What is worth measuring is the jump against the walk. Both shrink, scale and add, three operations for each pixel, once or 1000 times; most of the time goes into drawing the noise, which is timed alone as well. The walk is timed on 50 steps.

# %% name="cost"
import time
from collections import deque


def cpu_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def fifty_jumps():
    for _ in range(50):
        noised(batch, torch.randn(batch.shape, generator=g), ddpm, half_way)


batch, half_way, g = train.x[:500], torch.full((500,), 0.5), generator(6)
jump = cpu_seconds(fifty_jumps) / 50
walked = cpu_seconds(lambda: deque(chain(batch, ddpm, grid[:51], g), maxlen=0)) * 1000 / 50
alone = cpu_seconds(lambda: [torch.randn(batch.shape, generator=g) for _ in range(50)]) / 50
rows = [
    {"system": name, **Cost(500, 0, 0, 3 * 784 * times, seconds, seconds).row()}
    for name, times, seconds in (("one jump", 1, jump), ("1000 steps of noise", 1000, walked))
]
lessons.cost_row(1, *rows)
print(f"the 1000 steps cost {walked / jump:.0f} times the jump; "
      f"drawing its noise alone is {alone / jump:.0%} of a jump")  # fmt: skip

# %% [markdown] name="cost-seen"
# A step and a jump draw the same noise, so the 1000 steps cost about 1000 times the jump (times of milliseconds scatter). Training draws one random $t$ for each picture and needs only $x_t$ there, so it always jumps. Going *back* there is no jump that is as good: that is where the cost of diffusion models lies, and what most of this course tries to reduce.

# %% [markdown] name="paper-text"
# ## Paper against here
#
# Three claims from the papers behind this lesson. Nichol and Dhariwal ([2102.09672](https://arxiv.org/abs/2102.09672), side 64): the end of the linear schedule is too noisy, skipping up to 20% of its steps hardly hurts FID, and cosine spends its steps better. They measure image quality of trained networks; we measure information at side 28, so our number supports their explanation and does not repeat their experiment. Lin et al. ([2305.08891](https://arxiv.org/abs/2305.08891), table 1): the SNR left at the end, which is exact. Chen ([2301.10972](https://arxiv.org/abs/2301.10972)): larger pictures want a noisier schedule, since their pixels are redundant; that follows from the argument of the next section for copies of pixels, and nothing is tested here.


# %% name="paper"
def idle(schedule, bits):
    """The share of the time in which less than 5% of the class bits is left."""
    return 1 - schedule.t_of_lam(float(np.interp(0.05 * bits[-1], bits, where)))


idles = {name: torch.tensor([idle(s, b) for b in class_bits]) for name, s in three.items()}
rows = [
    {"claim": f"{name}: time at the end with < 5% of class bits",
     "paper": {"linear": "up to 20% skipped"}.get(name, "no number"),
     "here": f"{v.mean():.3f} ± {v.std():.3f} (3 seeds)"}
    for name, v in idles.items()
]  # fmt: skip
for name, wanted in (("linear", "4.036e-05"), ("Stable Diffusion", "4.682e-03")):
    rows.append({"claim": f"SNR(T), {name}", "paper": wanted, "here": f"{ends[name].snr(1.0):.3e}"})
plots.show_table(rows)
print("linear idles over 3 times as long as cosine, for every seed:",
      bool((idles["linear"] > 3 * idles["cosine"]).all()))  # fmt: skip

# %% [markdown] name="paper-seen"
# The agreement of our idle share of the linear schedule with the paper's 20 per cent is closer than it has a right to be: other data, another size, another measure. What was tested is the order of linear and cosine on these clothes (the last line), and no network was trained. The ± is the scatter of averages over pictures and noise.

# %% [markdown] name="nohelp-text"
# ## When it does not help
#
# **A schedule cannot change the total.** Information destroyed between two noise levels is the area under the curve of the best loss. Integrated over time under different schedules, between the same two values of $\lambda$, it must come out the same, and does:

# %% name="total" tags=["nbval-check-output"]
ends_lam = torch.tensor([3.0, -3.0], dtype=torch.float64)
exact = information.data_bits(toy, ends_lam)
rows = [{"schedule": "exact", "bits": float(exact[0] - exact[1])}]
for name, s in three.items():
    level = s.lam(torch.linspace(s.t_of_lam(3.0), s.t_of_lam(-3.0), 801, dtype=torch.float64))
    rate = torch.exp(2 * level) * information.mmse(toy, level)  # nats for one unit of lambda
    rows.append({"schedule": name, "bits": float(-torch.trapezoid(rate, level)) / math.log(2)})
plots.show_table(rows, digits={"bits": ".3f"})

# %% [markdown] name="total-seen"
# So with a perfect denoiser, as many steps as one likes and the same end points, the schedule is a matter of taste (Kingma et al. 2021, [arXiv 2107.00630](https://arxiv.org/abs/2107.00630), show this for the likelihood). It matters because networks are imperfect, because training spends its effort evenly over $t$, and because samplers take few steps. A sampler that chooses its own times, as in lessons 07 and 08, cares little about the clock the network was trained with.
#
# **A schedule that suits small pictures does not suit large ones.** Repeat every pixel of a picture $k \times k$ times. The observer can average the copies, and the noise shrinks by the factor $k$: everything that was known at $\lambda$ is now known at $\lambda - \log k$. The time at which half of the class bits of our clothes are gone, for larger and larger copies:

# %% name="larger"
half_level, rows = float(np.interp(0.5, share, where)), []
for side in (28, 112, 448):
    moved = half_level - math.log(side / 28)
    rows.append({"side": side} | {name: s.t_of_lam(moved) for name, s in three.items()})
plots.show_table(rows, digits=dict.fromkeys(three, ".3f"))
survives = float(np.interp(ends["linear"].lam(1.0) + math.log(448 / 28), where, share))
print(f"side 448, linear, at its end: {survives:.0%} of the class bits are left")

# %% [markdown] name="larger-seen"
# At side 448 cosine and sigmoid have destroyed half of the class only in the last hundredth of their time. Linear passes the half earlier, but never finishes: the last line says how much of the class survives its end. A side of 448 wants a schedule that goes further down. Real large pictures are less redundant than copies of pixels, so this is the extreme case, but the direction is that of Chen's claim, and the reason why later work shifts $\lambda$ with the resolution.

# %% [markdown] name="recap"
# ## Recap
#
# - One step: $x_t = \sqrt{1-\beta_t}\,x_{t-1} + \sqrt{\beta_t}\,\epsilon$. Roots, because variances add.
# - All steps at once: $x_t = \alpha_t x_0 + \sigma_t\epsilon$ with $\alpha_t^2 = \bar\alpha_t = \prod(1-\beta_i)$ and $\sigma_t^2 = 1 - \bar\alpha_t$. Exact, and about as many times cheaper as there are steps.
# - Time is a label. A noise level is one number, $\lambda = \log(\alpha/\sigma)$; a schedule says when it is reached; VP and VE differ by a factor.
# - Fine detail goes first, then the identity of the picture, then its class. What a schedule leaves over at its end is little for one pixel and may be much for the whole picture: in large pictures the linear schedules never quite destroy the mean brightness.
# - The speed of destruction is the loss of the best denoiser, $\mathrm{SNR}\cdot\mathrm{mmse}$. Schedules spread the same total differently over time.
#
# Next: lesson 02 turns around and asks how to go back, and why predicting the noise is enough.

# %% [raw] name="slide-recap"
# ## What to take home
#
# - roots, because variances add
# - all steps at once: exact, and about as many times cheaper as there are steps
# - time is a label; a noise level is $\lambda$
# - first the detail goes, then which picture it was, then its class
# - with a perfect denoiser, many steps and the same ends the schedule is a matter of taste
#
# **Before next week:** exercises 3 to 6.

# %% [markdown] name="reading"
# ## Further reading
#
# - Ulhaq, Akhtar, Pogrebna, *Efficient Diffusion Models for Vision: A Survey*, [arXiv 2210.09292](https://arxiv.org/abs/2210.09292): section II-A, equation 1.
# - Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, [arXiv 2006.11239](https://arxiv.org/abs/2006.11239): the linear schedule and the jump.
# - Nichol, Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, [arXiv 2102.09672](https://arxiv.org/abs/2102.09672): the cosine schedule, section 3.2.
# - Chen, *On the Importance of Noise Scheduling for Diffusion Models*, [arXiv 2301.10972](https://arxiv.org/abs/2301.10972): sigmoid, and scaling the input as in exercise 4.
# - Lin, Liu, Li, Yang, *Common Diffusion Noise Schedules and Sample Steps are Flawed*, [arXiv 2305.08891](https://arxiv.org/abs/2305.08891): zero terminal SNR.
# - Kingma, Salimans, Poole, Ho, *Variational Diffusion Models*, [arXiv 2107.00630](https://arxiv.org/abs/2107.00630): only the end points of $\lambda$ matter to the likelihood.
# - Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, [arXiv 2011.13456](https://arxiv.org/abs/2011.13456): VP, VE, and time without steps.
# - Guo, Shamai, Verdú, *Mutual Information and Minimum Mean-Square Error in Gaussian Channels*, IEEE Transactions on Information Theory, 2005.
