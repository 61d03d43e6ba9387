"""Scores and stochastic differential equations: how a score is learned, and what it gives.

``score_matching`` the losses, ``likelihood`` exact log-densities by the probability-flow ODE,
``score_flow`` likelihood training and its bound, ``divergence`` traces by random directions. The
samplers of the SDE are in ``diffusion_lab.samplers.sde``.
"""
