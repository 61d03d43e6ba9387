"""Who we are and where we live: the one place that holds the repository's address.

The README and the first cell of every lesson take the address from here, and a test compares them.
"""

from __future__ import annotations

__all__ = ["COLAB_CELL", "REPOSITORY", "REQUIREMENT", "VERSION"]

VERSION = "0.1.0"

# A placeholder until the course is published: replace OWNER, then run `make lessons`.
REPOSITORY = "https://github.com/OWNER/efficient-diffusion-lab"

# What pip installs when the package comes straight from the repository, data and lessons included.
REQUIREMENT = f"diffusion_lab @ git+{REPOSITORY}"

# The first cell for Colab and other hosted notebooks; it does nothing where the package is there.
COLAB_CELL = f"""\
import importlib.util, subprocess, sys

if importlib.util.find_spec("diffusion_lab") is None:  # in Colab: install the course and its data
    requirement = "{REQUIREMENT}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", requirement], check=True)
    importlib.invalidate_caches()
"""
