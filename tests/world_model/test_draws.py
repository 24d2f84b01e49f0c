"""Random numbers of training steps depend on seed and step."""

from __future__ import annotations

import pytest
import torch

from world_model.draws import make_generator
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.objectives.future import FutureConfig, FutureTerms


def test_numbers_depend_on_each_part_of_the_key_and_on_nothing_else():
    drawn = [torch.randn(4, generator=make_generator(*key)) for key in ((1, 2), (2, 1), (1, 3), (3, 2), (1, 2, 4))]
    assert torch.equal(drawn[0], torch.randn(4, generator=make_generator(1, 2)))
    assert all(not torch.equal(a, b) for n, a in enumerate(drawn) for b in drawn[:n])


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}])
def test_an_objective_s_draws_differ_from_seed_to_seed_and_from_step_to_step(other):
    """torch's generator reads 32 bits of a seed, so a seed in the upper half of 64 bits changed nothing."""
    config = FutureConfig(terms=FutureTerms(sigreg=1.0, sigreg_directions=4))
    pixels = {"pixels": torch.randint(0, 256, (4, 5, 32, 32, 3), dtype=torch.uint8)}
    trained = VideoEncoder(EncoderConfig(image_px=(32, 32), width=16, heads=2, depth=1))

    def measure(seed: int = 0, step: int = 0) -> torch.Tensor:
        return config.make(trained, 10, seed, None).loss(trained, pixels, step)[1]["sigreg"]

    assert measure() == measure() != measure(**other)
