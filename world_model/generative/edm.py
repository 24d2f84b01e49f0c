"""Diffusion as in EDM (Karras et al., arXiv 2206.00364): preconditioning, target, noise levels and Euler steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Preconditioning(NamedTuple):
    """Factors of the denoiser D(x) = skip x + out F(input x, noise), each [N] (EDM, equation 7)."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor

    def combine(self, noisy_NCHW: Tensor, output_NCHW: Tensor) -> Tensor:
        """D, from a network's output F."""
        return spread(self.skip) * noisy_NCHW + spread(self.out) * output_NCHW

    def make_target(self, clean_NCHW: Tensor, noisy_NCHW: Tensor) -> Tensor:
        """The output F with which D is the clean frame (EDM, equation 8)."""
        return (clean_NCHW - spread(self.skip) * noisy_NCHW) / spread(self.out)


def spread(factor_N: Tensor) -> Tensor:
    """A factor [N] of each frame, to multiply frames [N, C, H, W] by."""
    return factor_N[:, None, None, None]


def precondition(sigma_N: Tensor, sigma_data: float, offset_std: float) -> Preconditioning:
    """The factors (EDM, table 1) at noise levels [N] of independent noise, to which offset noise adds (DIAMOND's code):

    s^2 = sigma^2 + offset_std^2, skip = sigma_data^2 / (s^2 + sigma_data^2), out = s sqrt(skip),
    input = 1 / sqrt(s^2 + sigma_data^2), noise = ln(s) / 4.
    """
    variance = sigma_N.square() + offset_std**2
    total = variance + sigma_data**2
    skip = sigma_data**2 / total
    return Preconditioning(skip, (variance * skip).sqrt(), total.rsqrt(), variance.log() / 8)


def make_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """The noise levels of so many Euler steps, and the 0 in which they end: equal steps of sigma^(1 / rho) from
    sigma_max to sigma_min (EDM, equation 5). A single step begins at sigma_max. ValueError without a step."""
    if steps < 1:
        raise ValueError(f"a sample takes at least 1 Euler step, and {steps} are asked for: DIAMOND takes 3")
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(first + index / max(1, steps - 1) * (last - first)) ** rho for index in range(steps)] + [0.0]


def step_euler(x: Tensor, denoised: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """x + (next_sigma - sigma) (x - denoised) / sigma, the Euler step of EDM's algorithm 1, which at next_sigma = 0 is
    `denoised` to the bit."""
    return denoised + next_sigma / sigma * (x - denoised)
