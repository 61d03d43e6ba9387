"""Steering: wrappers that bend a denoiser and are denoisers again."""

from diffusion_lab.guidance.classifier_free import Guided, guided

__all__ = ["Guided", "guided"]
