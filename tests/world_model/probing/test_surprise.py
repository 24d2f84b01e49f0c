"""Energies of recorded transitions: their definition, and that a perfect model has low ones."""

from __future__ import annotations

import pytest
import torch

from tests.world_model.small import dynamics, frames
from world_model.probing.surprise import Transitions, discrimination_rate, measure_energies, measure_landscape


def make_transitions(model, count=20, steps=2):
    """Random transitions of a model with blocks of two numbers."""
    block, generator = model.spec.block_dim, torch.Generator().manual_seed(3)
    return Transitions(
        frames(count, 3),
        torch.rand(count, 2, block, generator=generator),
        torch.rand(count, steps, block, generator=generator),
        frames(count, seed=5),
    )


@pytest.mark.parametrize(("space", "target"), [("pooled", "features"), ("tokens", "features"), ("pooled", "pixels")])
def test_energy_is_the_squared_error_of_what_is_imagined(space, target):
    model = dynamics(space, target)
    known = make_transitions(model)
    found = measure_energies(model, known, known.taken_BKA[:, None], known.after_BHWC)
    context = model.observe(known.past_BTHWC, known.actions_BtA, torch.ones(20, 3, dtype=torch.bool))
    view = "pixels" if target == "pixels" else space
    made = model.imagine(context, known.taken_BKA[:, None]).view(view)[:, 0, -1]
    error = (made - model.encode_goal(known.after_BHWC).view(view)).square().flatten(1).mean(1)
    assert torch.allclose(found[:, 0], error, rtol=1e-4, atol=1e-6)


def test_the_middle_of_the_landscape_is_the_taken_action_and_axes_are_in_order():
    model = dynamics(frame_skip=2)
    known = make_transitions(model, count=3, steps=1)
    energy, offsets = measure_landscape(model, known, (0, 1), reach=0.5, cells=5)
    taken = measure_energies(model, known, known.taken_BKA[:, None], known.after_BHWC)
    assert torch.allclose(energy[:, 2, 2, None], taken, rtol=1e-4)
    # Half ranges of this action are 1 and 2; both actions of a block are shifted alike.
    moved = known.taken_BKA + torch.tensor([0.5, 0.0, 0.5, 0.0])
    assert torch.allclose(
        energy[:, 4, 2, None], measure_energies(model, known, moved[:, None], known.after_BHWC), rtol=1e-4
    )
    moved = known.taken_BKA + torch.tensor([0.0, -1.0, 0.0, -1.0])
    assert torch.allclose(
        energy[:, 2, 0, None], measure_energies(model, known, moved[:, None], known.after_BHWC), rtol=1e-4
    )
    assert offsets.tolist() == [-0.5, -0.25, 0.0, 0.25, 0.5]


def test_one_axis_twice_varies_that_one_alone():
    model = dynamics()
    energy, _ = measure_landscape(model, make_transitions(model, count=2, steps=1), (1, 1), reach=1.0, cells=3)
    assert torch.allclose(energy[:, :, 0], energy[:, :, 2])
    assert not torch.allclose(energy[:, 0], energy[:, 1])


def test_pairs_are_discriminated_by_energy_and_ties_are_chance():
    low, high = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 1.0, 3.0, 5.0])
    assert discrimination_rate(low, high) == pytest.approx((2 + 0.5) / 4)
