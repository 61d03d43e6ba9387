"""Diffusion of codes: every token one of K values, noised by transition matrices."""
