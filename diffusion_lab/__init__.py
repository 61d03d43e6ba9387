"""A small tested package of efficient diffusion models for vision, and the lessons' only import."""

from __future__ import annotations

import os

from diffusion_lab.about import VERSION as __version__

__all__ = ["__version__"]

# Prove that nothing needs the network: kernels and ranks inherit the variable.
if os.environ.get("DIFFUSION_LAB_OFFLINE", "0") not in ("", "0"):
    from diffusion_lab import _offline

    _offline.install()
