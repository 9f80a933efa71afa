"""Sampling in pure numpy: noise schedules, solvers, guidance, noise and the denoising loop.

The sampling of Kandinsky Video 1.0 (arXiv 2311.13073) and 1.1, and two solvers for few steps.
"""

from ffrt.sampling.guidance import dynamic_threshold, guidance_weights, guide, guide_rows, plain_weights
from ffrt.sampling.loop import Denoised, advance, denoise, drain
from ffrt.sampling.noise import Array, group_noise, normal_noise, take, uniform_noise
from ffrt.sampling.schedule import MAX_STEPS, NoiseLevels, add_noise, noise_levels, time_of, zero_snr_alpha_bars
from ffrt.sampling.settings import Sampling
from ffrt.sampling.solvers import SOLVERS, Coefficients, Parametrisation, Solver, Update, updates

__all__ = [
    "MAX_STEPS",
    "SOLVERS",
    "Array",
    "Coefficients",
    "Denoised",
    "NoiseLevels",
    "Parametrisation",
    "Sampling",
    "Solver",
    "Update",
    "add_noise",
    "advance",
    "denoise",
    "drain",
    "dynamic_threshold",
    "group_noise",
    "guidance_weights",
    "guide",
    "guide_rows",
    "noise_levels",
    "normal_noise",
    "plain_weights",
    "take",
    "time_of",
    "uniform_noise",
    "updates",
    "zero_snr_alpha_bars",
]
