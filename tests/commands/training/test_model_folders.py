"""Model folders: what they state of pictures, and weights that draw the same samples."""

from __future__ import annotations

import pytest
import torch

from commands.shared.errors import UsageError
from commands.training.model_folders import load_dynamics, read_preprocessing, save_dynamics
from planners.noise import Draws
from tests.world_model.small import dynamics, frames
from world_model.nn.flow import FlowConfig
from world_model.training.checkpoint import CheckpointError


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"size_hw": [32, 32]}, "its encoder takes frames of 64x64 pixels"),
        ({"size_hw": [64, 64], "stored_hw": [0, 64]}, "its encoder takes frames of 64x64 pixels"),
        ({"size_hw": [64, 64], "crop": "corner"}, "about.preprocessing.crop=corner is no choice"),
        ({"size_hw": [64, 64], "zoom": 2}, "'about.preprocessing.zoom' is no key"),
    ],
)
def test_a_preprocessing_that_does_not_fit_the_model_is_refused(stated, says):
    with pytest.raises((UsageError, CheckpointError), match=says):
        read_preprocessing({"preprocessing": stated}, (64, 64))


@pytest.mark.parametrize("target", ["features", "pixels"])
def test_a_saved_flow_draws_the_same_samples(target, tmp_path):
    model = dynamics("tokens", target, flow=FlowConfig(steps=3, width=16))
    save_dynamics(tmp_path / "model", model, {"env": "reacher"})
    loaded, _ = load_dynamics(tmp_path)
    assert loaded.config == model.config and loaded.flow.steps == 3
    seen, past, valid = frames(1, 3), torch.zeros(1, 2, 2), torch.ones(1, 3, dtype=torch.bool)
    plans, draws = torch.rand(1, 2, 4, 2), Draws((4,), 0, torch.device("cpu"))
    here, there = (m.imagine(m.observe(seen, past, valid), plans, draws).view("tokens") for m in (model, loaded))
    assert torch.equal(here, there)
