"""What follows from a data file: no import of a module that only the file names, and how pictures become frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from commands.shared.errors import UsageError
from commands.training.model_folders import (
    MODULES_VARIABLE,
    check_trusted_module,
    derive_preprocessing,
    load_dynamics,
    read_preprocessing,
    save_dynamics,
)
from data.pictures import Preprocessing
from data.store import Reader
from planners.noise import Draws
from tests.data.made_sets import ours
from tests.world_model.small import dynamics, frames
from world_model.nn.flow import FlowConfig
from world_model.training.checkpoint import CheckpointError


def test_a_module_that_only_a_file_names_is_not_imported(monkeypatch):
    monkeypatch.delenv(MODULES_VARIABLE, raising=False)
    with pytest.raises(
        UsageError, match="is in the module evil.code, which would be imported and run.*JEPA_MODULES=evil"
    ):
        check_trusted_module("gym/evil.code:Thing-v0")
    for known in ("gym/Pendulum-v1", "reacher", "robomimic/evil:Lift", "gym/ogbench:cube-single-v0", "gym/json:Any-v0"):
        check_trusted_module(known)
    monkeypatch.setenv(MODULES_VARIABLE, "other,evil.code")
    check_trusted_module("gym/evil.code:Thing-v0")


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


@pytest.mark.parametrize(
    ("source", "crop"),
    [
        ({}, "centre"),
        ({"import": {"view": "whole"}}, "whole"),
        ({"import": {"view": "centre", "origin": {"import": {"view": "whole"}}}}, "whole"),  # exported in between
    ],
)
def test_pictures_are_cropped_as_at_the_file_s_import_and_pass_through_its_size(tmp_path, source, crop):
    info = replace(Reader(ours(Path(tmp_path / "trajectories.h5"))).info, source=source)
    assert derive_preprocessing(info, (64, 64)) == Preprocessing((64, 64), crop, stored_hw=(32, 32))
    assert derive_preprocessing(info, (32, 32)) == Preprocessing((32, 32), crop)


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
