"""Who we are and where we live: the one place that holds the repository's address.

The README and the first cell of every lesson take the address from here, and a test compares them.
"""

from __future__ import annotations

__all__ = ["REPOSITORY", "REQUIREMENT", "VERSION"]

VERSION = "0.1.0"

# A placeholder until the course is published: replace OWNER here, in README.md and CITATION.cff,
# then run `make lessons`.
REPOSITORY = "https://github.com/OWNER/efficient-diffusion-lab"

# What pip installs when the package comes straight from the repository, data and lessons included.
REQUIREMENT = f"diffusion-lab @ git+{REPOSITORY}"
