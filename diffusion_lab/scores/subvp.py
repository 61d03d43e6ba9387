"""The sub-VP process of the score SDE paper (Song et al. 2020, 2011.13456, appendix B).

The drift of ``Linear``, but sigma_t = 1 - alpha_t^2 = 1 - e^{-B}: the standard deviation and not
the variance, so there is less noise than with VP at every t < 1; g^2 = beta (1 - e^{-2B}).
"""

from __future__ import annotations

from diffusion_lab.schedules import Linear, Schedule, Time, lib_of, log_sigma_vp

__all__ = ["SubVP"]


class SubVP(Schedule):
    """alpha as in ``Linear(b0, b1)``, sigma = 1 - alpha^2.

    Since alpha/sigma = 1/(2 sinh(B/2)), lambda has the inverse B/2 = asinh(e^{-lambda}/2).
    """

    vp = False

    def __init__(self, b0: float = 0.1, b1: float = 20.0) -> None:
        self._linear = Linear(b0, b1)
        self.b0, self.b1 = self._linear.b0, self._linear.b1

    def _logs(self, t: Time) -> tuple[Time, Time]:
        log_alpha = self._linear._log_alpha(t)
        return log_alpha, 2 * log_sigma_vp(log_alpha)

    def _rates(self, t: Time) -> tuple[Time, Time]:
        lost = self._linear._lost(t)
        return -lost, 2 * lost * lib_of(t).exp(self._logs(t)[1])

    def _t_of_lam(self, lam: Time) -> Time:
        lib = lib_of(lam)
        return self._linear._t_of_log_alpha(-lib.asinh(0.5 * lib.exp(-lam)))

    def prior_std(self, t: float = 1.0) -> float:
        """1 as in the paper: at t = 1 data of variance 1 are noised to variance 1 - 4e-5."""
        return 1.0
