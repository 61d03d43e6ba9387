"""Diffusion in a smaller space: autoencoders, and what is trained on their latents."""
