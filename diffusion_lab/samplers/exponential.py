"""What exact integration of the linear part leaves over: the phi functions and their quadrature.

In lambda the probability-flow ODE is a linear part, solved exactly, and an integral over x0_hat:

    x_s = (sigma_s/sigma_t) x_t + alpha_s h int_0^1 e^{-h(1-tau)} x0_hat(lambda_t + tau h) dtau.

Its moments are int_0^1 e^{z(1-tau)} tau^k dtau = k! phi_{k+1}(z) with

    phi_0(z) = e^z,    phi_{k+1}(z) = (phi_k(z) - 1/k!) / z = sum_j z^j / (j + k + 1)!,

so a solver that knows x0_hat at nodes tau_j (0 now, negative in the past, 1 at the end) is a rule
sum_j w_j x0_hat(tau_j) that is exact for polynomials in tau (Hochbruck & Ostermann 2010). All
multistep solvers of lesson 07 are such rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from diffusion_lab.denoisers import Prediction

__all__ = ["lam_step", "line", "phi", "rule", "weights"]


def phi(k: int, z: float) -> float:
    """phi_k(z), accurate also where z is near 0 (a series there, the recursion elsewhere)."""
    if k < 0:
        raise ValueError(f"phi_k needs k >= 0; got {k}")
    if k == 0:
        return math.exp(z)
    if abs(z) < 1.0:
        term = total = 1 / math.factorial(k)
        j = 0
        while abs(term) > 1e-18:
            j += 1
            term *= z / (j + k)
            total += term
        return total
    value = math.expm1(z) / z
    for i in range(1, k):
        value = (value - 1 / math.factorial(i)) / z
    return value


def weights(nodes: tuple[float, ...], h: float) -> tuple[float, ...]:
    """w_j with sum_j w_j p(tau_j) = int_0^1 e^{-h(1-tau)} p(tau) dtau for all p of degree < n.

    Args:
        nodes: n different tau_j.
        h: the step in lambda.
    """
    n = len(nodes)
    # the moments int e^{-h(1-tau)} tau^k = k! phi_{k+1}(-h): the highest by its series, the others
    # down from it, phi_k = z phi_{k+1} + 1/k!, which loses nothing
    w = [phi(n, -h)]
    for k in range(n - 1, 0, -1):
        w.append(-h * w[-1] + 1 / math.factorial(k))
    w = [math.factorial(k) * value for k, value in enumerate(reversed(w))]
    # sum_j w_j tau_j^k = moment k, solved in place (Bjoerck & Pereyra 1970): first the moments of
    # Newton's polynomials, then from these to the nodes
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            w[i] -= w[i + 1]
    return tuple(w)


def rule(
    x: Tensor, of_x: float, scale: float, w: Sequence[float], nodes: Sequence[Prediction]
) -> Tensor:
    """of_x x + scale sum_j w_j x0_hat_j."""
    y = of_x * x
    for weight, p in zip(w, nodes, strict=True):
        y.add_(p.x0, alpha=scale * weight)
    return y


def line(p: Prediction, before: Prediction, h: float) -> tuple[float, float]:
    """Weights of x0_hat now and before: the line through both at the middle of the step (2M)."""
    share = h / (2 * (p.lam - before.lam))  # 1 / (2r)
    return 1 + share, -share


def lam_step(p: Prediction, alpha_s: float, sigma_s: float) -> float:
    """h = lambda_s - lambda_t, infinite onto clean data and away from pure noise."""
    return (math.log(alpha_s / sigma_s) if sigma_s else math.inf) - p.lam
