"""Wrong answers to lesson 02, and words that each refusal must hold."""

import math

import torch


def _with_beta(x0, x_t, abar_t, abar_s):
    a = abar_t / abar_s
    c_0 = math.sqrt(abar_s) * (1 - a) / (1 - abar_t)
    c_t = math.sqrt(a) * (1 - abar_s) / (1 - abar_t)
    return c_0 * x0 + c_t * x_t, 1 - a


def _rootless(x0, x_t, abar_t, abar_s):
    a = abar_t / abar_s
    c_0, c_t = abar_s * (1 - a) / (1 - abar_t), a * (1 - abar_s) / (1 - abar_t)
    return c_0 * x0 + c_t * x_t, (1 - a) * (1 - abar_s) / (1 - abar_t)


def _without_noise(x0, x_t, abar_t, abar_s):
    c_t = math.sqrt((1 - abar_s) / (1 - abar_t))
    return (math.sqrt(abar_s) - c_t * math.sqrt(abar_t)) * x0 + c_t * x_t, 0.0


def _half_noise(x0, x_t, abar_t, abar_s):  # passes the identities of mean and variance too
    var = 0.25 * (1 - abar_t / abar_s) * (1 - abar_s) / (1 - abar_t)
    c_t = math.sqrt((1 - abar_s - var) / (1 - abar_t))
    return (math.sqrt(abar_s) - c_t * math.sqrt(abar_t)) * x0 + c_t * x_t, var


def _since_data(x0, x_t, abar_t, abar_s):
    c_t = math.sqrt(abar_t) * (1 - abar_s) / (1 - abar_t)
    return math.sqrt(abar_s) * x0 + c_t * x_t, 1 - abar_s


def _first_weight(root, over):
    """The posterior with another weight of x0."""

    def answer(x0, x_t, abar_t, abar_s):
        named, beta = {"t": abar_t, "s": abar_s}, 1 - abar_t / abar_s
        c_t = math.sqrt(1 - beta) * (1 - abar_s) / (1 - abar_t)
        x_s = math.sqrt(named[root]) * beta / (1 - named[over]) * x0 + c_t * x_t
        return x_s, beta * (1 - abar_s) / (1 - abar_t)

    return answer


def _bare_weight(x0, x_t, abar_t, abar_s):
    beta = 1 - abar_t / abar_s
    x_s = math.sqrt(abar_s) * beta / (1 - abar_t) * x0 + (1 - abar_s) / (1 - abar_t) * x_t
    return x_s, beta * (1 - abar_s) / (1 - abar_t)


def since_data(guess, x, abar, noise):
    for i in range(len(abar) - 1, 0, -1):
        x = (x - (1 - abar[i]).sqrt() * guess(x, i)) / abar[i].sqrt()
        x = x + ((1 - abar[i]).sqrt() * noise(i) if i > 1 else 0)
    return x


def all_noise(guess, x, abar, noise):
    for i in range(len(abar) - 1, 0, -1):
        beta = 1 - abar[i] / abar[i - 1]
        x = (x - (1 - abar[i]).sqrt() * guess(x, i)) / (1 - beta).sqrt()
        x = x + (beta.sqrt() * noise(i) if i > 1 else 0)
    return x


def walked(guess, x, abar, noise, std=None, shrink=None, ask=0, order=None, last=False):
    """Algorithm 2 with a slip."""
    for i in (order or (lambda T: range(T, 0, -1)))(len(abar) - 1):
        beta = 1 - abar[i] / abar[i - 1]
        x = x - beta / (1 - abar[i]).sqrt() * guess(x, i + ask)
        x = x / ((1 - beta).sqrt() if shrink is None else shrink(beta, abar[i]))
        if i > 1 or last:
            x = x + (beta.sqrt() if std is None else std(beta)) * noise(i)
    return x


def at_rate(rate, optimiser=torch.optim.Adam):
    """Algorithm 1 as it should be, but for the optimiser."""

    def loop(net, x0s, abar, steps, gen):
        steps_of, losses = optimiser(net.parameters(), lr=rate), []
        for _ in range(steps):
            x0 = x0s[torch.randint(len(x0s), (64,), generator=gen)]
            i = torch.randint(1, len(abar), (64,), generator=gen)
            eps = torch.randn(x0.shape, generator=gen, dtype=x0.dtype)
            a = abar[i].view(-1, 1, 1, 1)
            loss = (net(a.sqrt() * x0 + (1 - a).sqrt() * eps, i) - eps).square().mean()
            steps_of.zero_grad()
            loss.backward()
            steps_of.step()
            losses.append(loss.item())
        return losses

    return loop


def trained(
    target=lambda x0, x_t, eps: eps,
    factors=lambda a: (a.sqrt(), (1 - a).sqrt()),
    draw=lambda T, n: torch.randint(1, T + 1, (n,)),
    noise=torch.randn,
    shift=0,
    zero=True,
    step=True,
    sign=1,
    power=2,
    first=False,
    keep=True,
    gen=False,
    batch=64,
    plain=True,
):
    """Algorithm 1 with a slip."""

    def loop(net, x0s, abar, steps, given):
        adam, losses = torch.optim.Adam(net.parameters(), lr=2e-3), []
        for _ in range(steps):
            x0 = x0s[
                torch.randint(3 if first else len(x0s), (batch,), generator=given if gen else None)
            ]
            i, eps = draw(len(abar) - 1, batch), noise(x0.shape)
            a, s = factors(abar[i - shift].view(-1, 1, 1, 1))
            x_t = a * x0 + s * eps
            away = (net(x_t, i) - target(x0, x_t, eps)).abs()
            loss = sign * (away**power).mean()
            if zero:
                adam.zero_grad()
            loss.backward()
            if step:
                adam.step()
            losses.append(loss.item() if plain else loss)
        return losses if keep else 0

    return loop


def scaled(abar, steps):
    before = torch.cat([torch.ones(1), abar[:-1]])
    return (1 - abar / before)[steps] * len(abar) / len(steps)


def ratio(kept):
    return kept / torch.cat([torch.ones_like(kept[:1]), kept[:-1]])


def from_first(abar, steps):
    return 1 - abar[steps] / torch.cat([abar[:1], abar[steps][:-1]])


WRONG = {
    "posterior": [
        (_with_beta, "forward step"),
        (_rootless, "both roots"),
        (_since_data, "since t = 0"),
        (_without_noise, "covariance"),
        (_half_noise, "largest error"),
        (_first_weight("t", "t"), "abar_s belongs"),
        (_first_weight("s", "s"), "both are by"),
        (_bare_weight, "lacks root"),
        (lambda x0, x_t, abar_t, abar_s: (x_t, 0.0), "error"),
        (lambda x0, x_t, abar_t, abar_s: x0[:2], "2 values"),
    ],
    "walk_back": [
        (lambda *a: walked(*a, std=lambda beta: 0 * beta), "no fresh noise"),
        (lambda *a: walked(*a, last=True), "last step too"),
        (lambda *a: walked(*a, std=lambda beta: beta), "not by its root"),
        (lambda *a: walked(*a, shrink=lambda beta, abar: abar.sqrt()), "this step alone"),
        (lambda *a: walked(*a, shrink=lambda beta, abar: 1), "missing"),
        (lambda *a: walked(*a, shrink=lambda beta, abar: 1 - beta), "its root belongs"),
        (since_data, "since t = 0"),
        (all_noise, "at once"),
        (lambda *a: walked(*a, ask=-1), "still at step i"),
        (lambda *a: walked(*a, order=lambda T: range(1, T + 1)), "upwards"),
        (lambda *a: walked(*a, order=lambda T: range(T, 1, -1)), "i = 1, is missing"),
        (lambda *a: walked(*a, order=lambda T: range(T - 1, 0, -1)), "i = T, is missing"),
        (lambda guess, x, abar, noise: x, "as it was given"),
        (lambda guess, x, abar, noise: guess(x, 5), "error"),
    ],
    "training": [
        (trained(target=lambda x0, x_t, eps: x0), "clean picture"),
        (trained(target=lambda x0, x_t, eps: x_t), "what it was shown"),
        (trained(target=lambda x0, x_t, eps: -eps), "the same noise"),
        (trained(target=lambda x0, x_t, eps: torch.randn(eps.shape)), "the same noise in both"),
        (trained(factors=lambda a: (a, 1 - a)), "both roots"),
        (trained(factors=lambda a: (a.sqrt(), 1 - a)), "by 1 - abar"),
        (trained(factors=lambda a: ((1 - a).sqrt(), a.sqrt())), "swapped"),
        (trained(shift=1), "abar[0] is 1"),
        (trained(draw=lambda T, n: torch.randint(1, T, (n,))), "never drawn"),
        (trained(draw=lambda T, n: torch.randint(0, T + 1, (n,))), "step 0"),
        (trained(draw=lambda T, n: torch.randint(1, T + 1, (1,)).expand(n)), "the same step"),
        (trained(draw=lambda T, n: torch.randint(1, T + 1, (1,))), "for each picture"),
        (trained(draw=lambda T, n: torch.rand(n)), "raised"),
        (trained(noise=torch.rand), "standard normal"),
        (trained(noise=lambda shape: torch.randn(shape[1:]).expand(shape)), "fresh noise"),
        (trained(zero=False), "zero_grad"),
        (trained(step=False), "never change"),
        (trained(sign=-1), "climbed"),
        (trained(power=1), "absolute"),
        (trained(first=True), "only some"),
        (trained(keep=False), "return the list"),
        (trained(plain=False), "loss.item()"),
        (trained(gen=True, batch=32), "64 pictures"),
        (trained(), "generator=gen"),
        (trained(gen=True), "some random numbers"),
        (at_rate(1e-3), "learning rate 0.002"),
        (at_rate(2e-9, torch.optim.SGD), "learning rate 0.002"),
        (lambda net, x0s, abar, steps, gen: [0.0] * steps, "never asked"),
        (3, "a function"),
    ],
    "which_variance": [("large", "N(0, 1)"), ("equal", "KL")],
    "strided_betas": [
        (lambda abar, steps: 1 - abar[steps], "since t = 0"),
        (scaled, "small ones only"),
        (from_first, "after step 1"),
        (lambda abar, steps: ratio(abar[steps]), "the ratios"),
        (lambda abar, steps: 1 - abar[steps][1:] / abar[steps][:-1], "missing"),
    ],
    "ten_steps": [
        ([1000, 889, 778, 667, 556, 445, 334, 223, 112, 1], "allowed"),
        ([1000, 500], "ten different"),
        ([900, 800, 700, 600, 500, 400, 300, 200, 100, 1], "1000"),
        (1000, "a list"),
        ("abc", "a list"),
        ([1000, 500.5], "whole numbers"),
        ([1000, 1000], "twice"),
        ([1001, 500], "1..1000"),
    ],
}
