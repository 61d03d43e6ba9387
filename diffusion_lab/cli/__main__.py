"""``python -m diffusion_lab.cli``, as ``torchrun -m`` wants it."""

import sys

from diffusion_lab.cli import main

sys.exit(main())
