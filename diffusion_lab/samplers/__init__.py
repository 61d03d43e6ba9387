"""Samplers: each the step of a paper, for ``walk`` to run down a time grid."""

from diffusion_lab.samplers.ddim import ddim
from diffusion_lab.samplers.ddpm import ddpm
from diffusion_lab.samplers.dpm_solver import (
    dpm_solver,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
    split_calls,
)
from diffusion_lab.samplers.emsde import emsde
from diffusion_lab.samplers.heun import euler, heun
from diffusion_lab.samplers.sde import (
    annealed_langevin,
    euler_maruyama,
    predictor_corrector,
    reverse_diffusion,
)
from diffusion_lab.samplers.unipc import unipc

__all__ = [
    "annealed_langevin",
    "ddim",
    "ddpm",
    "dpm_solver",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "dpmpp_sde",
    "emsde",
    "euler",
    "euler_maruyama",
    "heun",
    "predictor_corrector",
    "reverse_diffusion",
    "split_calls",
    "unipc",
]
