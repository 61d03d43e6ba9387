"""Wrong answers to lesson 02, and words that each refusal must hold."""

import math


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


def _variance(error, abar_t, abar_s):
    beta = 1 - abar_t / abar_s
    bt = beta * (1 - abar_s) / (1 - abar_t)
    return bt + abar_s * (beta / (1 - abar_t)) ** 2 * error


def _logless(error, abar_t, abar_s):
    beta = 1 - abar_t / abar_s
    bt = beta * (1 - abar_s) / (1 - abar_t)
    return abar_s * (beta / (1 - abar_t)) ** 2 * error / (beta - bt)


WRONG = {
    "posterior": [
        (_with_beta, "forward step"),
        (_rootless, "both roots"),
        (_without_noise, "covariance"),
        (_half_noise, "largest error"),
        (lambda x0, x_t, abar_t, abar_s: (x_t, 0.0), "error"),
        (lambda x0, x_t, abar_t, abar_s: x0[:2], "2 values"),
    ],
    "eps_weight": [
        (lambda b, a, v: b**2 / (v * (1 - b) * (1 - a)), "1/2"),
        (lambda b, a, v: b**2 / (2 * v * a * (1 - a)), "one step"),
        (lambda b, a, v: b / ((1 - b) * (1 - a)) ** 0.5 / (2 * v), "not squared"),
        (lambda b, a, v: b**2 / (2 * v * (1 - a)), "1 - beta is missing"),
        (lambda b, a, v: 3 * b**2 / (2 * v * (1 - b) * (1 - a)), "3 times"),
    ],
    "which_variance": [("large", "N(0, 1)"), ("equal", "KL")],
    "best_weight": [
        (_logless, "logs"),
        (_variance, "S^2 itself"),
        (lambda e, a, b: b.sqrt() * 0 + e, "error"),
        (lambda e, a, b: a[:2], "shape"),
    ],
    "strided_betas": [
        (lambda abar, steps: 1 - abar[steps], "since t = 0"),
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
