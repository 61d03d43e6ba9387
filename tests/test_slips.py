"""The classic slips of diffusion code, each put into the package and killed by a test.

A slip is a change of the source: in a function's text, ``right`` becomes ``wrong``. The changed
text is compiled and its code put in place of the original's for the time of one test, wherever that
function was imported. The named test, which passes on the package as it is, must then fail.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any

import pytest
import test_bound
import test_denoisers
import test_exact
import test_guidance
import test_objectives
import test_samplers
import test_schedules
import torch

from diffusion_lab import schedules
from diffusion_lab.schedules import Linear


def find(code: CodeType, name: str) -> CodeType | None:
    """The code object of the function ``name`` (``Class.method``) inside a module's code."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found = inner if inner.co_qualname == name else find(inner, name)
            if found is not None:
                return found
    return None


def put_in(monkeypatch: pytest.MonkeyPatch, where: str, right: str, wrong: str) -> None:
    """Replace ``right`` by ``wrong`` in the function ``where`` = "module:function"."""
    module_name, name = where.split(":")
    module = importlib.import_module(f"diffusion_lab.{module_name}")
    target: Any = module
    for part in name.split("."):
        target = getattr(target, part)
    target = target.fget if isinstance(target, property) else target
    text, body = inspect.getsource(module), inspect.getsource(target)
    assert body.count(right) == 1, f"{where} holds {right!r} {body.count(right)} times: update it"
    changed = text.replace(body, body.replace(right, wrong))
    code = find(compile(changed, f"<slip in {where}>", "exec"), name)
    assert code is not None
    monkeypatch.setattr(target, "__code__", code)


SLIPS: dict[str, tuple[str, str, str, Callable[[], None]]] = {
    # ---- the process
    "abar where its root belongs": (
        "schedules:Table._logs", "return 0.5 * _log(abar), 0.5 * _log(1 - abar)",
        "return _log(abar), 0.5 * _log(1 - abar)",
        test_schedules.test_linear_1000_keeps_a_little_of_the_data_at_the_end,
    ),
    "the variance of the noise where its root belongs": (
        "objectives:noised", "expand(sigma, x0) * eps", "expand(sigma, x0) ** 2 * eps",
        test_objectives.test_noised_is_the_jump,
    ),
    "beta and sqrt(beta) swapped": (
        "schedules:linear", "torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64)",
        "torch.linspace(1e-4 * scale, 0.02 * scale, T, dtype=torch.float64).sqrt()",
        test_schedules.test_linear_1000_keeps_a_little_of_the_data_at_the_end,
    ),
    "the product of betas ends one early": (
        "schedules:Table.__init__", "torch.cumprod(1 - beta, 0)",
        "torch.cumprod(torch.cat([1 - 1e-9 * beta[:1], 1 - beta[:-1]]), 0)",
        test_schedules.test_linear_1000_keeps_a_little_of_the_data_at_the_end,
    ),
    "abar_0 is not 1": (
        "schedules:Table.__init__", "[1.0, *table.tolist()]", "[table[0].item(), *table.tolist()]",
        test_schedules.test_linear_1000_keeps_a_little_of_the_data_at_the_end,
    ),
    "indexed 0..T-1 against 1..T": (
        "schedules:Table._logs", "place = t * self.T\n        near = round(place)",
        "place = max(t * self.T - 1, 0)\n        near = round(place)",
        test_schedules.test_linear_1000_keeps_a_little_of_the_data_at_the_end,
    ),
    "trained on t = 0..T-1": (
        "objectives:draw_times", "torch.randint(1, schedule.T + 1,", "torch.randint(0, schedule.T,",
        test_objectives.test_grid_times_are_grid_times,
    ),
    "betas sliced instead of abar respaced": (
        "schedules:zero_terminal_snr", "Table(abar=root**2)", "Table(abar=root)",
        test_schedules.test_zero_terminal_snr,
    ),
    "lambda without its factor 1/2": (
        "schedules:_log_alpha_vp", "return -0.5 * (max(y, 0.0)", "return -1.0 * (max(y, 0.0)",
        test_schedules.test_the_linear_inverse_is_the_formula_of_the_specification,
    ),
    "VE and VP swapped": (
        "schedules:VE._logs", "return 0.0 * t, math", "return -0.5 * t, math",
        test_schedules.test_ve_and_edm,
    ),
    "sampling VE from N(0, 1)": (
        "schedules:Schedule.prior_std", "return 1.0 if self.vp else self.sigma(t)", "return 1.0",
        test_samplers.test_where_sampling_starts,
    ),
    "the factor 1/2 of the drift missing": (
        "schedules:Schedule.drift_diffusion", "return f, -2 * f", "return f, -f",
        test_schedules.test_linear_drift_is_beta_of_t,
    ),
    "the sign of the diffusion": (
        "schedules:Schedule.drift_diffusion", "(-2 * dlam *", "(2 * dlam *",
        test_schedules.test_ve_and_edm_diffusion,
    ),
    # ---- the posterior
    "beta where the posterior variance belongs": (
        "schedules:posterior", "v_ts * (sigma_s * sigma_s) / var_t", "v_ts",
        test_schedules.test_posterior_on_neighbours_is_that_of_ddpm,
    ),
    "abar where a_t belongs in the mean": (
        "schedules:posterior", "ratio * sigma_s * sigma_s / var_t",
        "alpha_t * sigma_s * sigma_s / var_t",
        test_schedules.test_posterior_on_neighbours_is_that_of_ddpm,
    ),
    "alpha_t and alpha_s swapped": (
        "schedules:posterior", "alpha_s * v_ts / var_t", "alpha_t * v_ts / var_t",
        test_schedules.test_posterior_on_neighbours_is_that_of_ddpm,
    ),
    # ---- what is predicted
    "x0 from eps with alpha and sigma swapped": (
        "denoisers:affine", "(-sigma if kind ==", "(-alpha if kind ==",
        lambda: test_denoisers.test_every_kind_reads_as_every_other("eps", 0.8, 0.6, False),
    ),
    "v with its sign flipped": (
        "denoisers:affine", "return alpha / size, -sigma / size",
        "return alpha / size, sigma / size",
        lambda: test_denoisers.test_every_kind_reads_as_every_other("v", 0.8, 0.6, False),
    ),
    "score without its minus": (
        "denoisers:affine", "else sigma * sigma) / alpha", "else -sigma * sigma) / alpha",
        lambda: test_denoisers.test_every_kind_reads_as_every_other("score", 0.8, 0.6, False),
    ),
    "sigma where sigma^2 belongs in the score": (
        "denoisers:Prediction.score", "self._noise() * self._noise()", "self._noise()",
        lambda: test_denoisers.test_every_kind_reads_as_every_other("x0", 0.8, 0.6, False),
    ),
    "the VP inverse of v on VE": (
        "denoisers:affine", "size = alpha * alpha + sigma * sigma", "size = 1.0",
        lambda: test_denoisers.test_the_inverse_of_v_is_the_general_one("v"),
    ),
    "c_out and c_skip swapped": (
        "denoisers:affine", "return alpha * sd * sd / size, sigma * sd / size**0.5",
        "return sigma * sd / size**0.5, alpha * sd * sd / size",
        lambda: test_denoisers.test_edm_coefficients_are_those_of_the_paper(0.5),
    ),
    "c_out without its root": (
        "denoisers:affine", "sigma * sd / size**0.5", "sigma * sd / size",
        lambda: test_denoisers.test_edm_input_and_target_have_unit_variance(2.0, 0.5, 1.0),
    ),
    "eps not recomputed after x0 is clipped": (
        "denoisers:Prediction.with_x0",
        'Prediction(self.x_t, self.alpha, self.sigma, x0, "x0", var=self.var)',
        '(q := Prediction(self.x_t, self.alpha, self.sigma, self.out, self.kind), '
        'setattr(q, "_x0", x0), setattr(q, "var", self.var), q)[-1]',
        lambda: test_denoisers.test_clipping_moves_eps_too("eps"),
    ),
    "t not broadcast as (B, 1, 1, 1)": (
        "denoisers:expand", "value.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))",
        "value.to(like.dtype)",
        test_objectives.test_noised_is_the_jump,
    ),
    "another schedule by equal time instead of equal lambda": (
        "denoisers:OnSchedule.forward", "self.inner.schedule.t_of_lam(lam)", "t",
        lambda: test_denoisers.test_on_schedule_equals_the_formula_there(
            Linear(), schedules.Cosine()
        ),
    ),
    "the point not rescaled on another schedule": (
        "denoisers:OnSchedule.forward", "self.inner(x_t * r,", "self.inner(x_t,",
        lambda: test_denoisers.test_on_schedule_equals_the_formula_there(
            Linear(), schedules.EDM()
        ),
    ),
    "variance weight (u + 1)/2 left out": (
        "denoisers:NetDenoiser.forward", "var = (u + 1) / 2", "var = u",
        test_denoisers.test_learned_variance_is_the_second_half,
    ),
    # ---- exact answers
    "the data's variance forgotten in the score": (
        "exact:GaussianMixture._parts", "alpha**2 * self.eigenvalues + sigma**2",
        "self.eigenvalues + sigma**2",
        lambda: test_exact.test_densities_integrate_to_one(0.2, 0.96**0.5),
    ),
    "means not scaled by alpha": (
        "exact:GaussianMixture._parts", "x[:, None] - alpha * self.means",
        "x[:, None] - self.means",
        lambda: test_exact.test_denoiser_is_the_posterior_mean_by_quadrature(0.8, 0.6),
    ),
    "the spread between components forgotten": (
        "exact:GaussianMixture.posterior_cov", "within) + between", "within)",
        lambda: test_exact.test_posterior_covariance_is_the_slope_of_the_denoiser(0.8, 0.6),
    ),
    "the softmax of a data set without its factor 1/2": (
        "exact:FiniteData.log_weights", "0.5 * alpha**2 * self.norms", "alpha**2 * self.norms",
        test_exact.test_finite_data_is_a_mixture_without_width,
    ),
    # ---- the bound
    "KL with its variances swapped": (
        "bound:kl", "(var_q / var_p).log()", "(var_p / var_q).log()",
        test_bound.test_kl_against_torch,
    ),
    "KL of q from p instead of p from q": (
        "bound:kl", "(var_p + (mean_p - mean_q) ** 2) / var_q",
        "(var_q + (mean_p - mean_q) ** 2) / var_p",
        test_bound.test_kl_against_torch,
    ),
    "nats called bits": (
        "bound:vlb_term", "return BITS * nats", "return nats",
        lambda: test_bound.test_bound_of_a_gaussian("large", 0.72688),
    ),
    "outer bins that end": (
        "bound:decoder_nll", "torch.where(x0 > 1 - half, torch.inf,",
        "torch.where(x0 > 9, torch.inf,",
        lambda: test_bound.test_decoder_bins_sum_to_one(17, 0.0, 0.5),
    ),
    "bins of width 2/levels": (
        "bound:decoder_nll", "half = 1 / (levels - 1)", "half = 1 / levels",
        lambda: test_bound.test_decoder_bins_sum_to_one(17, 0.0, 0.5),
    ),
    "bits/dim without the data's scaling": (
        "bound:decoder_nll", "half = 1 / (levels - 1)", "half = 0.5",
        test_bound.test_bits_of_narrow_bins_are_the_density_with_its_offset,
    ),
    "variances averaged, not their logs": (
        "bound:reverse_variance", "(log_b + pred.var * (log_v - log_b)).exp()",
        "log_b.exp() + pred.var * (log_v.exp() - log_b.exp())",
        test_bound.test_reverse_variances,
    ),
    "beta where the small variance was asked for": (
        "bound:reverse_variance", "        return bt", "        return v_ts",
        test_bound.test_reverse_variances,
    ),
    # ---- objectives
    "SNR where lambda belongs": (
        "objectives:Weighting._x0", "return snr.clamp(max=p[\"g\"])",
        "return (0.5 * snr.log()).clamp(max=p[\"g\"])",
        test_objectives.test_min_snr_in_its_three_units,
    ),
    "the weight of x0 used on eps": (
        "objectives:Weighting.on", "* b**2", "* 1.0",
        test_objectives.test_values_on_the_linear_schedule,
    ),
    "the target eps for a network that predicts v": (
        "objectives:DiffusionLoss.forward",
        'eps if pred.kind == "eps" else (x0 - pred.a * x_t) / pred.b', "eps",
        lambda: test_objectives.test_loss_is_the_weighted_error_of_x0("v", "simple"),
    ),
    "the bound moves the mean": (
        "objectives:DiffusionLoss.forward", "pred.out.detach()", "pred.out",
        test_objectives.test_the_bound_in_the_hybrid_loss_does_not_move_the_mean,
    ),
    # ---- samplers
    "noise added at the last step": (
        "samplers.ddpm:ddpm", "if bt == 0:", "if bt < 0:",
        test_samplers.test_every_sampler_returns_the_prediction_at_the_last_step,
    ),
    "abar of the previous step off by one": (
        "samplers.ddpm:ddpm", "*ask.schedule.alpha_sigma(s))",
        "*ask.schedule.alpha_sigma(max(s - 0.001, 0.0)))",
        test_samplers.test_a_ddpm_step_is_the_posterior,
    ),
    "the posterior mean of x0 alone": (
        "samplers.ddpm:ddpm", "mean = p.mix(c_t, c_0)", "mean = p.mix(0.0, c_0)",
        test_samplers.test_a_ddpm_step_is_the_posterior,
    ),
    "the variance where the standard deviation belongs": (
        "samplers.ddpm:ddpm", "alpha=var**0.5", "alpha=var",
        test_samplers.test_a_ddpm_step_is_the_posterior,
    ),
    "DDIM's direction scaled by sigma_s alone": (
        "samplers.ddim:ddim", "max(sigma_s**2 - std**2, 0.0) ** 0.5", "sigma_s",
        test_samplers.test_ddim_is_equation_12,
    ),
    "DDIM's direction scaled by the variance": (
        "samplers.ddim:ddim", "max(sigma_s**2 - std**2, 0.0) ** 0.5",
        "max(sigma_s**2 - std**2, 0.0)",
        test_samplers.test_ddim_is_equation_12,
    ),
    "eta's sigma with swapped abar": (
        "samplers.ddim:ddim", "posterior(p.alpha, p.sigma, alpha_s, sigma_s)[2]",
        "abs(posterior(alpha_s, max(sigma_s, 1e-9), p.alpha, p.sigma)[2])",
        test_samplers.test_ddim_is_equation_12,
    ),
    "eta squared": (
        "samplers.ddim:ddim", "std = eta * ", "std = eta**2 * ",
        test_samplers.test_ddim_is_equation_12,
    ),
    "clipping that forgets eps in DDIM": (
        "samplers.ddim:ddim", "p = p.clip(*clip)", "p = p",
        lambda: test_samplers.test_clipping_is_a_clipped_denoiser(
            test_samplers.ddim(clip=(-0.5, 0.5)), test_samplers.ddim()
        ),
    ),
    "2M with r for 1/r": (
        "samplers.dpm_solver:dpmpp_2m", "share = h / (2 * (lam_t - before.lam))",
        "share = (lam_t - before.lam) / (2 * h)",
        test_samplers.test_second_step_of_dpmpp_is_the_papers,
    ),
    "2M that forgets to look back": (
        "samplers.dpm_solver:dpmpp_2m", "share = h / (2 * (lam_t - before.lam))", "share = 0.0",
        lambda: test_samplers.test_order_of_convergence_on_a_gaussian(Linear(), "dpmpp", 2),
    ),
    "the loop's index used as the time": (
        "samplers.walk:_walk", "nothing to switch\n            x = step(ask, x, t, s)",
        "nothing to switch\n            x = step(ask, x, 1 - i / n if n else t, s)",
        test_samplers.test_ddim_is_equation_12,
    ),
    "a gradient mode that leaks into the caller": (
        "samplers.walk:_walk", "with torch.set_grad_enabled(grad):",
        "if torch.set_grad_enabled(grad) or True:",
        test_samplers.test_the_walk_leaves_the_callers_gradient_mode_alone,
    ),
    # ---- guidance
    "guidance w against 1 + w": (
        "guidance.classifier_free:Guided.forward", "torch.lerp(no, yes, self.scale)",
        "torch.lerp(no, yes, 1 + self.scale)",
        lambda: test_guidance.test_scale_one_is_conditional_and_zero_unconditional(Linear(), 0.3),
    ),
    "conditional and unconditional swapped": (
        "guidance.classifier_free:Guided.forward", "yes, no = both", "no, yes = both",
        lambda: test_guidance.test_scale_one_is_conditional_and_zero_unconditional(Linear(), 0.3),
    ),
    "guidance counted as one call": (
        "guidance.classifier_free:Guided.__init__", "2 * inner.nfe", "inner.nfe",
        lambda: test_guidance.test_a_guided_walk_counts_two(test_samplers.ddim()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SLIPS)
def test_the_slip_is_killed(name, monkeypatch):
    where, right, wrong, check = SLIPS[name]
    check()  # passes on the package as it is
    put_in(monkeypatch, where, right, wrong)
    # some slips leave the gradient mode switched: enable_grad puts it back
    with torch.enable_grad(), pytest.raises((AssertionError, pytest.fail.Exception)):
        check()
    monkeypatch.undo()
    check()


def test_a_slip_that_no_longer_fits_is_noticed(monkeypatch):
    with pytest.raises(AssertionError, match="update it"):
        put_in(monkeypatch, "bound:kl", "no such text", "")
