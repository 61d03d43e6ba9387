"""Wrong answers to lesson 08, and words that each refusal must hold."""

import math
from itertools import pairwise

import torch


def programme(free=False, forward=False):
    """A learner's dynamic programme with one of the slips, by loops."""

    def run(table, moves):
        table, size = table.tolist(), len(table)
        cost = [0.0] + [0.0 if free else math.inf] * (size - 1)
        before = []
        for _ in range(moves):
            ways = [[c + road for c, road in zip(cost, row)] for row in table]
            cost, where = [min(way) for way in ways], [way.index(min(way)) for way in ways]
            before.append(where)
        path = [size - 1]
        for where in before if forward else before[::-1]:
            path.append(where[path[-1]])
        return path

    return run


def cheapest_road(table, moves):
    """From each place the cheapest road, leaving enough places for the moves that are left."""
    path = [len(table) - 1]
    for left in range(moves - 1, 0, -1):
        row = table[path[-1]].tolist()
        path.append(min(range(left, path[-1]), key=lambda place: row[place]))
    return [*path, 0]


def at_most(table, moves):
    """The cheapest path of that many moves or fewer."""
    paths = [programme()(table, k) for k in range(1, moves + 1)]
    return min(paths, key=lambda p: sum(float(table[t, s]) for t, s in pairwise(p)))


def without_diagonal(k):
    return (k.sum() - k.diagonal().sum()) / (k.numel() - len(k.diagonal()))


WRONG = {
    "shortest_path": [
        (programme(free=True), "infinite"),
        (programme(forward=True), "wrong order"),
        (lambda table, moves: programme()(table, moves)[::-1], "upside down"),
        (lambda table, moves: programme()(table, moves)[1:], "start"),
        (lambda table, moves: programme()(table, moves - 1), "too few"),
        (cheapest_road, "whole path"),
        (at_most, "exactly so many"),
    ],
    "sweep": [
        (lambda best, table: (best[None, :] + table).min(dim=0).values, "over t"),
        (lambda best, table: best + table.min(dim=1).values, "column s"),
        (lambda best, table: (best[None, :] + table).min(dim=1), ".values"),
        (lambda best, table: torch.zeros(2), "shape"),
    ],
    "inner_times": [
        ([0.75, 0.5, 0.25], "nats"),
        ([0.5, 0.1], "three times"),
        ([0.1, 0.2, 0.3], "large to small"),
        ([0.25, 0.1, 0.02345], "thousandths"),
        ([250, 100, 20], "units of t"),
    ],
    "best_variance": [
        (
            lambda at, st, a, s, l2, size: (
                (a - (s**2 - l2) ** 0.5 * at / st) ** 2 * (st / at) ** 2 * (1 - size)
            ),
            "missing",
        ),
        (
            lambda at, st, a, s, l2, size: (
                l2 + (a - (s**2 - l2) ** 0.5 * at / st) ** 2 * (st / at) ** 2 * size
            ),
            "1 - size",
        ),
    ],
    "mmd2": [
        (lambda kxx, kyy, kxy: kxx.mean() + kyy.mean() - 2 * kxy.mean(), "biased"),
        (lambda kxx, kyy, kxy: kxx.mean() + kyy.mean(), "error"),
        (
            lambda kxx, kyy, kxy: (
                without_diagonal(kxx) + without_diagonal(kyy) - 2 * without_diagonal(kxy)
            ),
            "two different points",
        ),
    ],
    "share": [(0.9, "r itself"), (0.99, "too large"), (0.2, "too small")],
}
