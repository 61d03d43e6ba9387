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

__all__ = ["phi", "weights"]


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
    moments = [math.factorial(k) * phi(k + 1, -h) for k in range(len(nodes))]
    answer = []
    for j, node in enumerate(nodes):
        basis = [1.0]  # coefficients of the Lagrange polynomial of this node, lowest power first
        for i, other in enumerate(nodes):
            if i != j:
                scale = 1 / (node - other)
                times_tau = [0.0, *(c * scale for c in basis)]
                basis = [a - other * scale * b for a, b in zip(times_tau, [*basis, 0.0])]
        answer.append(sum(c * m for c, m in zip(basis, moments)))
    return tuple(answer)
