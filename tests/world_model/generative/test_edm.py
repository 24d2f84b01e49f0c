"""Preconditioning, target, noise levels and Euler step of EDM against the paper's equations, by hand."""

from __future__ import annotations

import pytest
import torch

from world_model.generative.edm import make_sigmas, precondition, step_euler


@pytest.mark.parametrize(
    ("sigma", "offset", "skip", "out", "factor", "noise"),
    [
        (0.5, 0.0, 0.5, 0.353553, 1.414214, -0.173287),  # 1/2, sqrt(1/8), sqrt(2), ln(0.5) / 4
        (0.4, 0.3, 0.5, 0.353553, 1.414214, -0.173287),  # 0.4^2 + 0.3^2 = 0.5^2: the same
        (1.2, 0.5, 0.128866, 0.466673, 0.717958, 0.065591),  # s = 1.3, s^2 + 0.25 = 1.94
    ],
)
def test_the_factors_are_those_of_the_paper(sigma, offset, skip, out, factor, noise):
    found = torch.cat(precondition(torch.tensor([sigma]), 0.5, offset))
    assert torch.allclose(found, torch.tensor([skip, out, factor, noise]), atol=2e-6)


def test_input_and_target_have_unit_variance_for_data_of_the_assumed_deviation():
    """What the factors were made for (EDM, appendix B.6)."""
    generator = torch.Generator().manual_seed(0)
    for sigma in (0.05, 0.4, 3.0):
        clean, noise = torch.randn(2, 1, 1, 200, 200, generator=generator)
        factors = precondition(torch.tensor([sigma]), 0.5, 0.0)
        noisy = 0.5 * clean[None] + sigma * noise[None]
        assert (factors.input * noisy).std().item() == pytest.approx(1, abs=0.02)
        assert factors.make_target(0.5 * clean[None], noisy).std().item() == pytest.approx(1, abs=0.02)


def test_the_target_is_the_output_that_denoises_exactly():
    clean, noisy = torch.full((1, 1, 1, 1), 0.2), torch.full((1, 1, 1, 1), -0.4)
    factors = precondition(torch.tensor([0.4]), 0.5, 0.3)
    target = factors.make_target(clean, noisy)
    assert target.item() == pytest.approx((0.2 + 0.5 * 0.4) / 0.353553, abs=1e-5)
    assert factors.combine(noisy, target).item() == pytest.approx(0.2, abs=1e-6)


def test_noise_levels_are_equal_steps_of_a_root():
    assert make_sigmas(3, 1.0, 4.0, 2.0) == [4.0, 2.25, 1.0, 0.0]  # roots 2, 1.5, 1
    assert make_sigmas(3, 2e-3, 5.0, 7.0) == pytest.approx([5.0, 0.28308, 0.002, 0.0], abs=1e-4)
    assert make_sigmas(1, 2e-3, 5.0, 7.0) == pytest.approx([5.0, 0.0])
    assert len(make_sigmas(10, 2e-3, 5.0, 7.0)) == 11


def test_a_sample_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1 Euler step, and 0 are asked for"):
        make_sigmas(0, 2e-3, 5.0, 7.0)


def test_an_euler_step_by_hand():
    """From 4 to 1: 2 + (1 - 4) (2 - 1) / 4. To 0: the denoised value to the bit."""
    x, denoised = torch.tensor(2.0), torch.tensor(1.0)
    assert step_euler(x, denoised, torch.tensor(4.0), torch.tensor(1.0)) == 1.25
    x, denoised = torch.tensor(0.1), torch.tensor(0.3)
    assert torch.equal(step_euler(x, denoised, torch.tensor(0.7), torch.tensor(0.0)), denoised)
