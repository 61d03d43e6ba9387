# %% [markdown]
# # 00 Start here: can I have a picture in 30 seconds?
#
# A diffusion model learns to take noise away. Give it nothing but noise, and it draws.
# Run the first cells and look at clothes that nobody has worn, drawn on your own processor;
# then watch one appear, change what it costs, and see what the rest of the course is about.
#
# **Goals.** You will be able to
#
# - draw pictures with a trained model, and say what they cost in network calls and in seconds,
# - write a sampler of your own, five lines long, and draw with it,
# - say in one sentence why diffusion models are slow, and name the six places where that can change,
# - find any of the systems of the survey on a map, and the lesson that builds it.
#
# **Prerequisites.** A little Python: functions, loops, arrays. Nothing about diffusion models.
#
# **Time.** {{time}}.
#
# **Data.** Fashion-MNIST, grey pictures of clothes, 28 by 28 pixels; 12,000 of them come with the
# course, and so does the trained model. Nothing is downloaded.
#
# **On the map.** All of it. The course follows *Efficient Diffusion Models for Vision: A Survey*
# (Ulhaq, Akhtar and Pogrebna, 2022), which we call *the survey*.
#
# **How to work with a lesson**, in short:
#
# - *Run* a cell: click on it, press Shift and Enter. Start at the top. In a muddle: menu *Kernel*,
#   *Restart Kernel and Run All Cells*.
# - *Exercises* have a cell with `...  # your turn`. Put your answer in the place of `...`, run the
#   cell, then the check below it: it says `right`, `not yet` with a reason, or `not attempted yet`.
#   The lesson goes on either way.
# - *Hints* open with a click, one at a time; whole solutions lie in `notebooks/solutions`.
# - *Sliders and play buttons* work once you have run their cell. In a notebook that was closed and
#   opened again you find a still picture in their place: run the cell again.
#
# There is more about this towards the end.

# %% [markdown]
# ## A picture in seconds
#
# The next cell loads a small trained network and draws sixty pictures: six rows, and one kind of
# clothes in each column. `label` says which kind is wanted; `seed` fixes the random numbers, so that
# you get the same pictures again.

# %% name="first-pictures"
import math
import time

began = time.perf_counter()
import torch

from diffusion_lab import checkpoints, data
from diffusion_lab.course import plots
from diffusion_lab.generate import generate

model = checkpoints.load("fashion")
best = model.about["recipe"]["sampler"]  # the sampler settings of its recipe
kinds = data.CLASSES["fashion"]
label = torch.arange(10).repeat(6)
result = generate(model, 60, label=label, seed=0, **best)
plots.show(
    plots.grid(result.x, columns=10, heads=kinds),
    alt="Sixty small grey pictures of clothes in ten columns, from t-shirts to ankle boots.",
    caption=f"{result.nfe} network calls a picture; 60 pictures in {result.seconds:.1f} seconds.",
)
print(f"{time.perf_counter() - began:.1f} seconds since this cell began, with all that it loads.")

# %% [markdown]
# They were made from random numbers. Every column shows its own kind, and no two are the same. Are
# they copies of training pictures? Further down we look that up, for these sixty.
#
# Nobody chose among them: this is seed 0, the first. A few are odd, a t-shirt with stray dots or half a sandal: the model is small, so that it runs on any laptop.
#
# **Try it.** Change `seed=0` to another number and run the cell again.
#
# What did you just run? `model` is a *denoiser*: shown a noisy picture, it answers with its best
# guess of the clean one. `generate` starts from pure noise and asks again and again, with a little
# less noise each time. Each question runs the network once, and the number of questions is what a
# picture costs: *network function evaluations*, **NFE** for short. The settings come with the model.
# Every word in them has its place further on:

# %% name="settings" tags=["nbval-check-output"]
said = {
    "sampler": "how it moves to the next (lesson 07)",
    "steps": "how often it moves",
    "scale": "guidance: how strongly the label is followed",
    "spacing": "how the steps are spread (lesson 08)",
    "lam_range": "where they begin and end (lesson 01)",
}
rows = [{"setting": name, "value": str(best[name]), "what it says": said[name]} for name in said]
plots.show_table(rows, title=f"{sum(p.numel() for p in model.parameters()):,} trained numbers")

# %% [markdown]
# ## Watch a picture come out of noise
#
# A sampler here is a loop that you can watch. `walk` is a generator: it yields a state before the
# first step and one after each step. A state holds the picture so far (`x`), where it stands on the
# way from noise (time 1) to data (time 0), the network's last answer (`pred`) and the calls so far
# (`nfe`). We take 12 steps this time, so that there is more to see, and leave guidance out, so that
# one step is one call. At each step the standard deviation of the noise is known beforehand:

# %% name="walk" tags=["nbval-check-output"]
from diffusion_lab.course.checks import lesson00 as check
from diffusion_lab.device import device, generator
from diffusion_lab.grids import grid
from diffusion_lab.samplers import dpmpp_2m
from diffusion_lab.walk import walk

times = grid(model.schedule, 12, "karras", lam_range=tuple(best["lam_range"]))
x = model.schedule.sigma(times[0]) * torch.randn(10, *model.shape, generator=generator(0))
wanted = torch.arange(10).to(device())
states = list(walk(dpmpp_2m(), model, x.to(device()), times, label=wanted))
noises = [model.schedule.sigma(time) for time in times]
rows = [
    {"after step": state.i, "noise": noises[state.i], "calls": state.nfe,
     "share of the noise 3 steps before": noises[state.i] / noises[state.i - 3] if state.i else None}
    for state in states[::3]
]  # fmt: skip
plots.show_table(rows, digits={"noise": ".3f", "share of the noise 3 steps before": ".2f"})

# %% [markdown]
# Twelve steps, twelve calls. In its own size the noise falls fast at first. As a share of what is
# there, the last column, it falls faster and faster: and it is the share that matters, as lesson 01
# shows.
#
# Now the pictures. The upper row is what the sampler holds, the lower row is what the network
# believes it will become. At noise 20 there is nothing to see above, so the guess below can be
# little more than an average of everything of that kind: blurred. The answer about `states[0]` is
# kept in `states[1]`, and so on.


# %% name="frames"
def visible(state):
    """The noisy picture, scaled back to the range of the greys."""
    # this model adds noise and leaves the picture as it is: "variance exploding" in lesson 01
    return state.x.cpu() / (1 + model.schedule.sigma(state.s) ** 2) ** 0.5


held = [visible(state) for state in states]
expected = [state.pred.x0.cpu() for state in states[1:]] + [states[-1].x.cpu()]
column = 9  # which of the ten kinds: 9 is the ankle boot
shown = range(0, 13, 2)
rows = [torch.stack([frames[i][column] for i in shown]) for frames in (held, expected)]
titles = [f"noise {model.schedule.sigma(states[i].s):.2g}" for i in shown]
plots.show(
    plots.strip(rows, titles=titles, labels=["held", "guess"], size=1.1),
    alt=f"Seven stages of one {kinds[column]}: above, it comes out of noise; below, out of a blur.",
    caption="Above: what the sampler holds. Below: the clean picture that the network expects.",
)

# %% [markdown]
# The guess starts as a blur and sharpens as the noise falls. That is the whole principle: guess,
# move a little towards the guess, guess again.
#
# Watch all ten kinds: press play, or click the slider and use the arrow keys. The
# upper row of the moving picture is what is held, the lower row is the guess.

# %% name="scrub"
from diffusion_lab.course.widgets import player

player(
    [torch.cat(pair) for pair in zip(held, expected, strict=True)],
    columns=10,
    label="step",
    alt=lambda step: (
        f"Step {step} of 12, from noise to clothes: {', '.join(kinds)}; below, guesses."
    ),
    still=f"Eight stages: a {kinds[wanted[0]]} comes out of noise; below it, the guesses.",
    rows={"held": 0, "guess": 10},
    caption="One of the ten, from noise to picture; in a live notebook all ten move.",
)

# %% [markdown]
# Without a running kernel you see a strip of still pictures; with one, a play button and a slider.
# Look at the first steps: in the guess the outline is settled early, while the picture above it
# still looks like noise. The fine texture comes last.

# %% [markdown]
# ### Exercise 1 (build): a sampler of your own
#
# You have seen what a sampler does: guess, move a little towards the guess, guess again. Write one.
# `guess(x, noise)` is the network's guess of the clean picture, when `x` carries noise of standard
# deviation `noise`. `noises` is a list of such numbers, falling to 0; `x` starts with the first of
# them. Go from each to the next, and return the picture at the end.
#
# How far is "a little"? If the guess were right, `x` would be the guess plus noise of size `now`. After
# the step it should be the same guess plus the same noise, of size `then`.
#
# <details><summary>Hint 1: nudge</summary>Which part of x is noise, if the guess is right? It is the only part that must change its size.</details>
# <details><summary>Hint 2: formula</summary>The noise is x minus the guess. It must shrink in the ratio of the two noise levels.</details>
# <details><summary>Hint 3: pseudo-code</summary>For every pair of neighbours (now, then) in the list: ask for the guess at the noise of now; the new x is the guess plus that share of what x is beyond the guess. After the loop, return x. The function itertools.pairwise gives the pairs.</details>


# %% name="my-sampler"
def my_sampler(guess, x, noises):
    """From pure noise of size noises[0] to a picture."""
    ### BEGIN SOLUTION
    for i in range(len(noises) - 1):
        now, then = noises[i], noises[i + 1]
        clean = guess(x, now)
        x = clean + then / now * (x - clean)
    return x
    ### END SOLUTION


# %% name="check-sampler"
check.sampler(my_sampler)

# %% [markdown]
# And this is what it draws, with the network, from noise that nobody chose: your sampler if the
# check says `right`, else ours.


# %% name="draw-mine"
@torch.no_grad()
def guess(x, noise):
    """The network's guess of ten kinds, two of each."""
    return model(x, model.schedule.t_of_lam(-math.log(noise)), label=wanted.repeat(2)).x0


mine = check.sampler.result(my_sampler).ok
start = noises[0] * torch.randn(20, *model.shape, generator=generator(0))
drawn = (my_sampler if mine else check.our_sampler)(guess, start.to(device()), noises)
plots.show(
    plots.grid(drawn, columns=10, heads=kinds),
    alt="Twenty small grey pictures of clothes in ten columns, two of each kind.",
    caption=f"Drawn by {'your' if mine else 'our'} sampler in {len(noises) - 1} steps.",
)

# %% [markdown]
# Nothing is missing from this sampler. It has a name, DDIM, and a lesson, 05; the sampler
# of the first figure moves along a curve where this one moves straight.

# %% [markdown]
# ## Change one number
#
# A good experiment changes one thing and keeps the rest, the starting noise included. First the
# number of steps. Fewer steps are fewer calls; from which number on are the pictures good enough?
# We draw the same pictures with 2, 4, 8 and 16 steps, and let a number judge as well: the **Fréchet
# distance** (FD), which compares the drawn pictures with the real ones of the test set, in the
# features of a small classifier. Smaller is better. To give it a scale we divide by **A**, the
# distance of real pictures to which a little noise was added (standard deviation 0.1). Time is
# counted in *core-seconds*, the work of one processor core, which other programs disturb least.
#
# How small can the distance get? Not zero: even as many *real* pictures, of the same kinds, are some
# way from the test set. That is the floor.

# %% name="steps"
from functools import partial

from diffusion_lab import metrics
from diffusion_lab.course import lessons

n = lessons.pick(smoke=20, live=200, full=2000)
many = torch.arange(n) % 10
anchor = metrics.noise_anchor(n)
runs, raced = {}, []
for steps in (2, 4, 8, 16):
    for seed in (0, 1):
        settings = best | {"steps": steps, "seed": seed, "label": many}
        run, cost = metrics.measure(model, partial(generate, model, n, **settings), pictures=n)
        runs[steps, seed] = run, metrics.fd(run.x.cpu()) / anchor, cost
    first, second = runs[steps, 0], runs[steps, 1]
    row = {"pictures": f"{steps} steps", "calls": first[0].nfe}
    row["core-s for 1000"] = first[2].cpu_seconds_per_1000
    raced.append(row | {"FD / A, seed 0": first[1], "FD / A, seed 1": second[1]})
floor, spread = (value / anchor for value in metrics.real_floor(n, balanced=True))

# %% [markdown]
# The last row of the table is the floor: real pictures, with the spread of such a draw.

# %% name="steps-table"
real = {"pictures": "real ones", "calls": None, "core-s for 1000": None}
rows = [*raced, real | {"FD / A, seed 0": floor, "FD / A, seed 1": None}]
names = {"core-s for 1000": ".1f", "FD / A, seed 0": ".2f", "FD / A, seed 1": ".2f"}
plots.show_table(rows, title=f"N = {n}; floor {floor:.2f} A, spread {spread:.2f} A", digits=names)

# %% [markdown]
# Each row gives the cost and, for two seeds, the distance. The title says how to read the others: a
# distance that is within two or three spreads of the floor is at the floor, where it can no longer
# see differences. Which numbers of steps is that true of?
#
# Your eye can still see something. Here are the first ten pictures of seed 0 at each number of steps.
# Where one of them is poor, more steps do not always mend it.

# %% name="steps-pictures"
sheets = [runs[steps, 0][0].x[:10] for steps in (2, 4, 8, 16)]
plots.show(
    plots.strip(sheets, titles=kinds, labels=["2 steps", "4 steps", "8 steps", "16 steps"]),
    alt="Four rows of the same ten clothes: blurred at 2 steps, sharper at 4, and much alike at 8 and "
    "16, where some are clear and some are odd.",
    caption="The same noise, more steps: the blur gives way to detail, then little changes.",
)

# %% [markdown]
# Two steps give a blur, four give clothes, a little smooth. From eight steps on the distance, with 200 pictures, is near its floor and hardly sees a difference. Your eye can: the last two rows are
# not the same everywhere. As a curve, with the floor as a grey line:

# %% name="steps-curve"
counts = [runs[steps, 0][0].nfe for steps in (2, 4, 8, 16)]
curves = {f"seed {s}": [runs[steps, s][1] for steps in (2, 4, 8, 16)] for s in (0, 1)}
fig = plots.lines(
    counts, curves, xlabel="network calls for one picture (NFE)",
    ylabel="Fréchet distance / A", log="xy",
)  # fmt: skip
fig.axes[0].axhline(floor, color="0.5", lw=1, marker="")
plots.show(
    fig,
    alt="The distance falls steeply from 4 to 8 network calls and little after that, to just "
    "above a grey line.",
    caption="Cost to the right, distance upwards: best is the lower left corner. Grey: real pictures.",
)

# %% [markdown]
# This picture is the subject of the course. Every system in it tries to move such a curve towards
# the lower left: the same quality for fewer calls, or for cheaper ones.
#
# The second number is the **guidance scale**. The network was trained with labels, and now and then
# without. So it can answer twice: what do you see, given that this is a boot? And what do you see,
# if nobody tells you? Guidance asks both and goes from the second answer through the first and
# beyond: `scale` 0 is the answer without the label, 1 the answer with it, 2 goes twice as far.
# That is why a guided step costs two calls. (The paper of classifier-free guidance, listed at the
# end, counts from the other end: its w is our scale minus 1.) Turn both numbers here; the figure is drawn again when
# you let go.

# %% name="touch"
from diffusion_lab.course.widgets import choice, explore, slider


def draw(steps, scale):
    run = generate(model, 20, label=many[:20], seed=4, **best | {"steps": steps, "scale": scale})
    words = f"{steps} steps, scale {scale:g}: {run.nfe} calls a picture, {run.seconds:.2f} s for 20"
    return plots.grid(run.x, columns=10, title=words)


explore(
    draw,
    steps=choice("steps", [1, 2, 4, 8, 16, 32], 8),
    scale=slider("guidance scale", 2.0, 0.0, 8.0, 0.5),
    alt=lambda steps, scale: f"Twenty clothes drawn in {steps} steps at guidance {scale:g}.",
    caption="Few steps blur; scale 0 ignores the label and mixes the kinds; a large scale hardens "
    "the contrast.",
)

# %% [markdown]
# For those who only read: five scales, the same noise in each column, two pictures of each of five
# kinds. What changes from row to row?

# %% name="scales"
pairs = torch.tensor([0, 3, 5, 8, 9]).repeat_interleave(2)
scales = (0.0, 1.0, 2.0, 4.0, 8.0)
settings = best | {"steps": 8, "label": pairs, "seed": 4}
sheets = [generate(model, 10, **settings | {"scale": scale}).x for scale in scales]
plots.show(
    plots.strip(
        sheets, titles=[kinds[k] for k in pairs], labels=[f"scale {scale:g}" for scale in scales]
    ),
    alt="Five rows of ten clothes: of mixed kinds at scale 0, of the wanted kinds from 1 on, clean at "
    "2 and 4, harsh at 8.",
    caption="The same noise, more guidance.",
)

# %% [markdown]
# At scale 0 the columns are mixed up: nobody told the network what to draw. At 1 the kinds are
# right, but some pictures are poor. At 2 and 4 they are cleaner. At 8 the contrast is harsh. What
# guidance costs in variety cannot be seen on two pictures of a kind; lesson 14 measures it.
#
# Calls are exact. They depend on the settings and on nothing else:


# %% name="count-calls" tags=["nbval-check-output"]
def calls(steps, scale):
    """Network calls for one picture."""
    return generate(model, 1, label=many[:1], **best | {"steps": steps, "scale": scale}).nfe


scales = (0.0, 1.0, 2.0, 4.0)
plots.show_table(
    [{"steps": n} | {f"scale {s:g}": calls(n, s) for s in scales} for n in (2, 4, 8, 16)],
    title="Network calls for one picture",
)

# %% [markdown]
# Only scale 1 is cheap. At scale 0 one of the two answers is thrown away, but it was asked for.

# %% [markdown]
# ### Exercise 2 (predict): what will it cost?
#
# You draw a batch of 60 pictures with 12 steps and `scale=3.0`. How many network calls does *one
# picture* cost? Decide before you run anything.
#
# <details><summary>Hint 1: nudge</summary>Does the strength of the guidance change how often the network is asked?</details>
# <details><summary>Hint 2: formula</summary>calls = steps times answers for each step.</details>
# <details><summary>Hint 3: pseudo-code</summary>12 steps; for each of them one answer with the label and one without.</details>

# %% name="my-calls"
### BEGIN SOLUTION
my_calls = 12 * 2
### END SOLUTION

# %% name="check-calls"
check.calls(my_calls)

# %% [markdown]
# ### Exercise 3 (extend): your own list of wishes
#
# Make `my_labels`, the labels of 20 pictures: the first ten of one kind of your choice, the other
# ten with *no* kind, so that the network may draw what it likes. A label is the position of a kind
# in `kinds`; *no kind* is the number one past the last, `model.num_classes`. Labels are whole
# numbers (`torch.int64`).
#
# <details><summary>Hint 1: nudge</summary>kinds.index("sneaker") gives a position, and lists of numbers can be added.</details>
# <details><summary>Hint 2: formula</summary>Ten equal numbers are [k] * 10; lists are joined by +; torch.tensor(...) takes the whole.</details>
# <details><summary>Hint 3: pseudo-code</summary>A list of ten times the position of your kind, joined to a list of ten times the number of kinds, made into a tensor.</details>

# %% name="my-labels"
### BEGIN SOLUTION
my_labels = torch.tensor([kinds.index("sneaker")] * 10 + [model.num_classes] * 10)
### END SOLUTION

# %% name="check-labels"
check.labels(my_labels)

# %% [markdown]
# Draw them: yours if the check says `right`, else sneakers.

# %% name="draw-labels"
asked = my_labels if check.labels.result(my_labels).ok else torch.tensor([7] * 10 + [10] * 10)
run = generate(model, 20, label=asked, seed=1, **best)
plots.show(
    plots.grid(run.x, columns=10),
    alt=f"Two rows of ten: {kinds[asked[0]]} after {kinds[asked[0]]}, then clothes of any kind.",
    caption=f"Above: ten times {kinds[asked[0]]}. Below: whatever the network likes.",
)

# %% [markdown]
# The second row is a mixture, and some of its pictures are poor: without a label there is nothing
# to guide.

# %% [markdown]
# ### Exercise 4 (find the bug): the same start
#
# To compare settings, every run must start from the same noise. `starts` should return that noise
# once for each run; but the pictures of its runs have nothing in common. One line stands in the
# wrong place. Which?
#
# <details><summary>Hint 1: nudge</summary>A generator is a stream: what does it give when it is asked a second time?</details>
# <details><summary>Hint 2: formula</summary>Equal seed and an untouched generator give equal numbers; a generator that was used goes on from where it was.</details>
# <details><summary>Hint 3: pseudo-code</summary>for each run: make the generator anew from the seed, then draw.</details>


# %% name="my-starts"
def starts(runs, n, seed):
    """The noise (n, 1, 28, 28) that each run starts from: the same for all of them."""
    ### BEGIN SOLUTION
    return [torch.randn(n, 1, 28, 28, generator=generator(seed)) for _ in range(runs)]
    ### END SOLUTION
    ### BEGIN STUB
    # gen = generator(seed)
    # return [torch.randn(n, 1, 28, 28, generator=gen) for _ in range(runs)]
    ### END STUB


# %% name="check-starts"
check.starts(starts)

# %% [markdown]
# ## Why diffusion is slow
#
# The first model of this kind to draw good pictures, DDPM (2020), takes 1000 steps: 1000 network
# calls for a picture, one after the other. The paper that introduced the best-known early fast
# sampler, DDIM (Song, Meng and Ermon 2020), puts it so, and the survey repeats it: about 20 hours for 50,000
# pictures of 32 by 32 pixels with a DDPM, less than a minute with a GAN, both on one Nvidia
# 2080 Ti. In plain numbers:

# %% name="quoted" tags=["nbval-check-output"]
ddpm, gan = 20 * 3600 / 50_000, 60 / 50_000
tpu = 17 / 256  # the DDPM paper's own time: a batch of 256 in 17 s on a TPU v3-8
rows = [
    {"model": name, "machine": where, "s for a picture": one, "h for 50,000": one * 50_000 / 3600}
    for name, where, one in (
        ("DDPM", "2080 Ti", ddpm), ("GAN, at most", "2080 Ti", gan), ("DDPM", "TPU v3-8", tpu)
    )
]  # fmt: skip
plots.show_table(rows, digits={"s for a picture": ".4f", "h for 50,000": ".2f"})
print(f"2080 Ti: DDPM takes at least {ddpm / gan:.0f} times as long as the GAN.")

# %% [markdown]
# Seconds belong to a machine: a stronger one (the last row, from the DDPM paper's own appendix)
# needs less than an hour. **The number of calls belongs to the method**, which is why this course
# counts calls first and seconds second.
#
# And here? Measure one call of our network, and extrapolate to 1000: calls times seconds for a call.
# An extrapolation is a claim, so it is tested on three times as many steps, predicted and then
# measured: it passes if it is off by less than a quarter, which is good enough for hours.


# %% name="extrapolate"
def work(steps):
    """Core-seconds for one picture of a batch without guidance, the least disturbed of three."""
    count = lessons.pick(smoke=10, live=50)
    settings = best | {"scale": None, "steps": steps, "label": many[:1].repeat(count)}
    draws = [partial(generate, model, count, seed=seed, **settings) for seed in range(3)]
    costs = [metrics.measure(model, draw, pictures=count)[1] for draw in draws]
    return min(cost.cpu_seconds for cost in costs) / count


per_call = work(8) / 8
rows = [
    {"calls": calls, "core-s for a picture": calls * per_call,
     "core-h for 50,000": calls * per_call * 50_000 / 3600}
    for calls in (1000, 16, 8)
]  # fmt: skip
plots.show_table(rows, digits={"core-s for a picture": ".4f", "core-h for 50,000": ".2f"})
predicted, found = 24 * per_call, work(24)
print(f"test, 24 calls: {predicted:.4f} core-s predicted, {found:.4f} measured, off by "
      f"{abs(predicted / found - 1):.0%}: passed is {abs(predicted / found - 1) < 0.25}")  # fmt: skip

# %% [markdown]
# Our network has about a hundredth of the size of DDPM's (0.4 against 36 million numbers), and one
# processor core would still need hours for 50,000 pictures of 1000 calls. With 8 or 16 calls it needs
# minutes. Size and processor change the seconds; the *ratio* of the calls carries over.
#
# What does that say about the survey's claim? Here eight steps came near the floor of our distance at
# the N of the table above. That is a statement about this network and these small pictures: it was
# trained with another loss than DDPM, it is guided, and a thousand steps were not run here. Lesson 05
# compares few steps with many on one network. Where a call is dear (large pictures, video, text) many
# smaller factors count as well.

# %% [markdown]
# ### Exercise 5 (measure): seconds for one call
#
# Write `seconds_per_call(run)`: from the result of `generate`, the seconds that one network call
# takes for one picture. `run.seconds` is the time of the whole batch, `run.nfe` the calls for each
# picture, and `run.x` holds the pictures.
#
# <details><summary>Hint 1: nudge</summary>How many picture-calls did the whole batch take?</details>
# <details><summary>Hint 2: formula</summary>seconds of the batch / (calls for each picture times pictures).</details>
# <details><summary>Hint 3: pseudo-code</summary>Take the seconds of the batch; divide them by the number of calls for a picture, and by the number of pictures in run.x.</details>


# %% name="my-seconds"
def seconds_per_call(run):
    """Seconds of one network call for one picture."""
    ### BEGIN SOLUTION
    return run.seconds / (run.nfe * len(run.x))
    ### END SOLUTION


# %% name="check-seconds"
check.seconds_per_call(seconds_per_call)

# %% [markdown]
# ## The map of the survey
#
# The survey names dozens of systems that make diffusion models cheaper, or better for the same cost,
# and sorts them into classes: Table I by *design* (is it guided? discrete or continuous? pixels or a
# latent space?), Table II by *process* (training, noise, mixing, scheduling, retrieval). Table III
# compares models by quality and cost. The last part of this lesson has those lists; what you need is
# the map. It holds every system, with its paper, in families of our own. Choose a family from the list: it stays
# bright, and below the map you get its systems, their papers, the lesson that builds each, and what
# each costs or saves. An empty circle stands for a system that is planned: it has its place and its
# paper, but its lesson is not written yet. (VDM on the map is *Video* Diffusion Models; lessons 01
# and 02 also quote *Variational* Diffusion Models, which are no system of the survey.)

# %% name="map"
from diffusion_lab.course import survey, survey_plots

survey_plots.explore_map()

# %% [markdown]
# The number beside a system is its lesson. The mark says how far it is: an empty circle is planned
# (no lesson yet), a half-filled one is partly there, a blue square is working. *Working* is earned
# here: a test looks up the code, the lesson's section and the tests that the map names. Names in
# italics are no systems of their own. One system in full; its note shows that the map also says where
# the survey slips:

# %% name="one-system"
from textwrap import fill

for line in survey.describe(survey.find("ADM")).splitlines():
    print(fill(line, 92, subsequent_indent=" " * 8, break_on_hyphens=False))

# %% [markdown]
# ## Six choices, one idea
#
# So many systems are too many to remember. Look at the columns of the map: nearly every system
# changes *mainly* one of six choices. Others may follow from it: a student of fewer steps needs a new
# training target first. The denoiser's column is empty: every system needs one, and none of them has
# it as its main change.
#
# | choice | what it answers | in what you ran above |
# |---|---|---|
# | data | what is drawn? | 28 by 28 pixels |
# | process | how is it destroyed? | Gaussian noise is added, up to a standard deviation of 20 |
# | denoiser | what predicts the clean picture? | a small U-Net |
# | objective | what was minimised in training? | the squared error of that prediction |
# | sampler | how do we walk back, and through which times? | DPM-Solver++, a few steps |
# | steering | what bends the walk? | the label, and guidance |
#
# The package has one room for each, and their parts fit together. Here are three samplers, with
# everything else kept; then we keep the sampler and change the denoiser: for the fourth
# row we throw the network away and use a formula, the *exact* best answer for the 10,000 training
# pictures. Guidance is off, for the sake of a plain comparison.

# %% name="swap"
from diffusion_lab.exact import FiniteData

train = data.load("fashion", "train")
exact = FiniteData(train.x, train.labels).denoiser(model.schedule)
common = {"label": torch.arange(10), "steps": 16, "spacing": "karras", "seed": 6,
          "lam_range": best["lam_range"]}  # fmt: skip
sheets = [generate(model, 10, sampler=s, **common).x.cpu() for s in ("dpmpp", "ddim", "ddpm")]
sheets.append(generate(exact, 10, sampler="dpmpp", **common).x)
plots.show(
    plots.strip(sheets, titles=kinds, labels=["DPM-Solver++", "DDIM", "DDPM", "exact, no net"]),
    alt="Four rows of ten clothes, from three samplers, and the last from an exact formula.",
    caption="Rows 1-3 change the sampler alone; row 4 changes the denoiser alone.",
)

# %% [markdown]
# All four rows start from the same noise. The first two are close relatives (both follow the same
# path, with steps of different accuracy); DDPM adds fresh noise on the way and ends elsewhere. The fourth
# row is the sharpest of all. Too good? Measure how far each picture is from the nearest training
# picture (as points in a space of 784 dimensions), and do the same for the sixty pictures at the top
# of this lesson. How far *should* a new picture be? As far as real ones that nobody trained on: those
# of the test set. The last line counts the pictures that lie nearer to a training picture than 95% of
# the test pictures do. Of truly new pictures expect 5%.


# %% name="copies" tags=["nbval-check-output"]
def away(pictures):
    """The distance of each picture from the nearest training picture, its median."""
    return float(metrics.nearest(pictures, train.x)[0].median() * 28)


unseen = data.load("fashion", "test").x
drawn = result.x.cpu()  # the sixty of the first figure
named = {"exact formula": sheets[3], "network": drawn, "test pictures": unseen}
found = [{"pictures": name, "median distance": away(x)} for name, x in named.items()]
plots.show_table(found, title="To the nearest training picture", digits={"median distance": ".1f"})
print(f"network no nearer than the test pictures: {away(drawn) >= away(unseen)}")
share = metrics.copied(drawn, train.x, unseen)
print(f"share of them nearer than 95% of the test pictures: {share:.0%}")

# %% [markdown]
# The fourth row is at distance zero: the formula recites its training pictures. The network's
# pictures are no nearer to the training set than real pictures that it never saw. The perfect answer
# to the training question is a copying machine, and a network draws *new* clothes because it cannot
# be perfect.
# Exact denoisers are still the best friends of this course: where the right answer is known, every
# sampler, every guidance rule and every measure is first proved on it.

# %% [markdown]
# ### Exercise 6 (choose): which of the six?
#
# Five ideas, each from a paper on the map. Which choice does each mainly change, the one that has to
# be made anew before anything else can follow? Write a list of five words
# out of `"data"`, `"process"`, `"denoiser"`, `"objective"`, `"sampler"`, `"steering"`, in this
# order:
#
# 1. Compress each picture with an autoencoder, and let the noise and the network work on the code.
# 2. Do not add noise: blur the picture more and more, and learn to undo that.
# 3. Keep the trained network; visit 10 well-chosen times in place of 1000.
# 4. Train a student that does in one step what its teacher does in two.
# 5. Part of the picture is missing: bend each step so that what is known comes out right.
#
# <details><summary>Hint 1: nudge</summary>For each idea, ask what you would have to replace in the table above, and what could stay.</details>
# <details><summary>Hint 2: where to look</summary>The papers are LDM, Cold Diffusion, DDIM, ProgressiveDistillation and DDRM: find their columns on the map.</details>
# <details><summary>Hint 3: pseudo-code</summary>For each: take its part out of the program you ran above. Which row of the table can no longer stay as it is? That row's first word is the answer.</details>

# %% name="my-choices"
### BEGIN SOLUTION
my_choices = ["data", "process", "sampler", "objective", "steering"]
### END SOLUTION

# %% name="check-choices"
check.choices(my_choices)

# %% [markdown]
# ## How the course is organised
#
# The lessons that you can open now:
#
# {{contents}}
#
# Lessons 01 to 04 are the ground: noise, denoising, a real model, measuring. After them you can go
# where you like; each lesson says what it needs and how long it takes a person. To see speed first,
# go to lesson 05. Lesson 23 will set all systems side by side. The whole plan, in the order of the
# map's ideas:

# %% name="course"
there = {name[:2] for name in lessons.ready()}
plots.show_table(
    [
        {"lesson": one.number, "state": "ready" if one.number in there else "planned",
         "title": one.title}
        for one in survey.lessons()
    ]
)  # fmt: skip

# %% [markdown]
# ## More about working with a lesson
#
# - A lesson takes at most three minutes to **run**, and longer to read: its first lines give both.
# - You can **skip an exercise** and come back: the lesson goes on with the package's own functions.
# - **Hints** come in three sizes: a nudge, a formula, pseudo-code.
# - **Levels.** The variable `DIFFUSION_LAB_LEVEL`, set before Jupyter starts, chooses how much is
#   computed: `smoke` (seconds, for tests), `live` (the default) or `full` (trains everything again).
# - **A GPU** is used where there is one, with no change in a notebook.
# - **Break things.** You cannot harm the course: what the lessons use lies in the package.
#
# **What "measured" means.** A number in the text is either exact, or quoted with its source, or
# *measured*: printed by the code above it, on the machine that ran the notebook. The stored pages
# were made on the machine below, or rather on yours, if you have run this cell. Seconds vary from
# machine to machine and from run to run, often by a tenth and more; calls do not.

# %% name="machine"
import os
import platform

print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
      f"{platform.python_version()}, torch {torch.__version__}")  # fmt: skip
threads = torch.get_num_threads()
print(f"device {device()}, {threads} thread{'s' * (threads > 1)}, level {lessons.level()}")

# %% [markdown]
# **How to cite.** Cite the paper of the method you use (the map has it, with its arXiv number), the
# survey for the overview, and this course with the entry in the file `CITATION.cff`. The code is
# under the MIT licence, text and figures under CC BY 4.0, the data under their own licences
# (`data/licenses`).

# %% [markdown]
# ## What did it cost
#
# Every lesson ends its measurements with rows of one running table, which lesson 23 collects. The
# columns: calls for one picture (NFE), the network's size, the multiplications and additions for
# one picture (in millions of FLOP), processor time for 1000 pictures, and the distance with its
# floor, for `N` pictures.

# %% name="cost"
settings = best | {"steps": 16, "scale": None, "label": many}
run, cost = metrics.measure(model, partial(generate, model, n, **settings), pictures=n)
distance = metrics.fd(run.x.cpu()) / anchor
measured = {"8 steps, guided": runs[8, 0], "16 steps, no guidance": (run, distance, cost)}
lines = []
for name, (_, distance, cost) in measured.items():
    quality = {"FD / A": round(distance, 2), "floor": round(floor, 2), "N": n}
    lines.append({"system": f"DPM-Solver++, {name}"} | cost.row() | quality)
lessons.cost_row(0, *lines)

# %% [markdown]
# Two ways to spend 16 calls on a picture: eight guided steps, or sixteen without guidance. Compare
# the two distances: the cost is the same. (The row of eight steps is the one of the table further up.)

# %% [markdown]
# ## Paper against here
#
# What the DDIM paper claims (its introduction and abstract), what was measured above, and whether it
# holds here.

# %% name="claims"
few = sum(runs[8, s][1] for s in (0, 1)) / 2
gain = [runs[2, s][1] / runs[8, s][1] for s in (0, 1)]
long, short = (calls * per_call * 50_000 / 3600 for calls in (1000, 8))
claims = [
    ("50,000 pictures of 1000 calls: 20 h (2080 Ti)",
     f"{long:.1f} core-h; 8 calls: {60 * short:.1f} core-min",
     "extrapolated, not run" if long > 1 else "no (extrapolated)"),
    ("high quality 10 to 50 times faster than DDPM",
     f"8 steps, 2 seeds: {few:.2f} A; floor {floor:.2f}", "not tested (lesson 05)"),
    ("calls can be traded for quality",
     f"FD of 2 / of 8 steps: {gain[0]:.1f}, {gain[1]:.1f}", "yes" if min(gain) > 2 else "no"),
]  # fmt: skip
rows = [dict(zip(("DDIM paper", "here", "holds"), claim, strict=True)) for claim in claims]
plots.show_table(rows)

# %% [markdown]
# Two numbers are two seeds. Our network, data and sampler are not those of the paper:
# the directions can be compared, the digits cannot. The hours grow with the network; ours has about
# a hundredth of the size of DDPM's, and runs on a laptop's processor.

# %% [markdown]
# ## When it does not help
#
# - **Fewer steps are no help where a call is not the cost.** Compare the two times under the first
#   figure: most of the waiting was for torch and the model to load.
# - **With four steps or fewer the pictures pay for it**, and this is an easy data set: small, grey,
#   one object in the middle. Large colour pictures need more.
# - **Guidance costs variety** (lesson 14 measures it) and a second call. Where all kinds of pictures are wanted, as in
#   estimating a density, it is the wrong tool.
# - **None of this makes training cheaper.** The sampler is the easiest choice to change because the
#   network stays as it is.
# - **The distance is biased** when few pictures are compared: it comes out too large, for every setting.
#   Compare only values with the same `N` (lesson 04).

# %% [markdown]
# ## Recap
#
# - A denoiser guesses the clean picture; a sampler moves towards the guess, and asks again.
# - Cost is calls times the cost of a call. DDPM takes 1000 calls; here 8 guided steps are 16 calls.
# - A sampler is a loop of five lines: keep the guess, shrink the rest, ask again.
# - Nearly every system of the survey changes mainly one of six choices: data, process, denoiser,
#   objective, sampler, steering.
# - The exact denoiser of a finite data set copies it; a network does not, and that is its use.
# - Numbers are exact, quoted, or measured, and you can tell which.
#
# Next: lesson 01 asks how noise erases a picture, and how fast.

# %% [markdown]
# ## Further reading
#
# - The survey: Ulhaq, Akhtar, Pogrebna, *Efficient Diffusion Models for Vision: A Survey*, 2022,
#   [arXiv 2210.09292](https://arxiv.org/abs/2210.09292)
# - DDPM: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020,
#   [arXiv 2006.11239](https://arxiv.org/abs/2006.11239)
# - DDIM: Song, Meng, Ermon, *Denoising Diffusion Implicit Models*, 2020,
#   [arXiv 2010.02502](https://arxiv.org/abs/2010.02502)
# - The sampler used here: Lu et al., *DPM-Solver++*, 2022,
#   [arXiv 2211.01095](https://arxiv.org/abs/2211.01095)
# - Guidance: Ho, Salimans, *Classifier-Free Diffusion Guidance*, 2022,
#   [arXiv 2207.12598](https://arxiv.org/abs/2207.12598)
# - The data: Xiao, Rasul, Vollgraf, *Fashion-MNIST*, 2017,
#   [arXiv 1708.07747](https://arxiv.org/abs/1708.07747)

# %% [markdown]
# ## Appendix: the survey's own lists
#
# For those who come from the survey. Its classes, table by table; some systems stand in several
# classes, some in both tables, and the last part holds what Table III compares (some of it from Table I)
# and what only the text names.
# The map has a few rows more, which are no systems: the measures, the figures of the survey itself, a
# comparison of costs, and a system that is named twice; two of its boxes, *Measuring* and *The map*, hold
# only such rows.

# %% name="tables" tags=["nbval-check-output"]
systems = survey.rows(kind="system")
print(f"{len(systems)} systems in {len({row.family for row in systems})} families")
print(survey.classes_table())

# %% [markdown]
# In what order did they appear? The survey's Fig. 1 is a timeline; ours is drawn from the papers'
# first public versions.

# %% name="timeline"
plots.show(
    survey_plots.timeline_figure(),
    alt="Names of systems below the half-year of their paper: "
    + ", ".join(f"{len(rows)} in {period}" for period, rows in survey.timeline()),
    caption="Each system in the half-year of its paper; the colour says what it mainly changes.",
)

# %% [markdown]
# One paper in 2015, three in 2020, then everything at once. (The one of 2017, PGGAN, is a GAN that the
# survey compares with.) The survey stops in autumn 2022.
#
# The survey groups differently from the map. (Its own taxonomy is its Fig. 6; we go by the classes of
# its Tables I and II, which say of each system where it belongs.) Here are both groupings at once, the
# survey's classes as rows and our columns as columns. If the two agreed, each row would fill one cell.

# %% name="classes"
plots.show(
    survey_plots.classes_figure(),
    alt=survey_plots.classes_text(),
    caption="The survey's classes against the choice that each system mainly changes.",
)

# %% [markdown]
# Two rows do, the pyramidal and the retrieval one. Where a row fills several cells, the survey's word
# says what a system *is* or *uses*, and our column says what it *changes*: scheduling alone, in the
# survey's sense, holds bits, hitting times and a student. Neither is wrong. The course goes by what is
# changed, since that is what one replaces in the code.
