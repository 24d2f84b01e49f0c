"""On a real GPU: features, a training step and a plan are those of the CPU."""

from __future__ import annotations

import pytest
import torch

from commands.benchmarks import fingerprint
from tests.world_model.small import FUTURE, encoder, frames
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.loop import TrainerConfig, make_optimizer, train_step

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("compute", [fingerprint._encode, fingerprint._train])
def test_features_and_losses_are_those_of_the_cpu(compute):
    torch.testing.assert_close(torch.tensor(compute(GPU)), torch.tensor(compute(CPU)), rtol=1e-3, atol=1e-3)


def test_a_plan_lies_within_bounds_and_is_the_same_twice():
    first, again = (torch.tensor(fingerprint._plan(GPU)) for _ in range(2))
    assert torch.equal(first, again) and first.abs().max() <= 1


def test_a_step_in_bf16_trains():
    trainer = TrainerConfig(steps=3, batch_size=4, warmup=1, precision="bf16")
    model = PretrainModel(encoder(), FUTURE, trainer.steps).to(GPU)
    optimizer, batch = make_optimizer(model, trainer), {"pixels": frames(4, 5).to(GPU)}
    losses = [train_step(model, batch, optimizer, trainer, step)[0].item() for step in range(trainer.steps)]
    assert all(map(torch.isfinite, map(torch.tensor, losses))) and losses[-1] != losses[0]
