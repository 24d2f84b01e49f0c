"""World models on another device: what they observe, imagine and compare stays there, with the CPU's values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.world_model.small import dynamics, frames
from world_model.generative.latent_flow import FlowTransformerConfig
from world_model.nn import rotary
from world_model.nn.flow import FlowConfig
from world_model.probing.surprise import Transitions, measure_energies, measure_landscape

MODELS = {
    "pooled": {},
    "tokens": {"space": "tokens"},
    "pixel baseline": {"target": "pixels"},
    "pixel baseline of tokens": {"space": "tokens", "target": "pixels"},
    "scene of tokens": {"scene": True},
    "scene of keypoints": {"scene": True, "pool": "keypoints"},
    "state predicted": {"proprio": "predicted", "proprio_dim": 4},
    "state integrated": {"proprio": "integrate", "proprio_dim": 7},
    "two actions a step": {"frame_skip": 2},
    "flow of features": {"space": "tokens", "flow": FlowConfig(2, 16)},
    "flow of pixels": {"space": "tokens", "target": "pixels", "flow": FlowConfig(2, 16)},
    "flow transformer of features": {"space": "tokens", "flow": FlowTransformerConfig(2)},
}


@pytest.fixture(autouse=True)
def rotate_alike(monkeypatch):
    """Rotations by the same arithmetic on both devices."""
    monkeypatch.setattr(rotary, "COMPLEX_DEVICES", ())


def assert_same(there: Tensor, here: Tensor, device: torch.device) -> None:
    """The tensor is on the device and holds the CPU's values."""
    assert there.device == device and here.device.type == "cpu"
    torch.testing.assert_close(there.cpu(), here)


@pytest.fixture(params=MODELS)
def case(request):
    """A model on the CPU and what it observes: frames, past action blocks, valid frames, the robot's state."""
    made = dynamics(**MODELS[request.param])
    state = torch.rand(2, 3, made.config.proprio_dim) if made.config.proprio_dim else None
    return made, (frames(2, 3), torch.rand(2, 2, made.spec.block_dim), torch.tensor([[False] + [True] * 2] * 2), state)


def moved(given, device):
    """The tensors among these, on the device."""
    return [None if one is None else one.to(device) for one in given]


def imagined(model, given):
    """All views of goals, of imagined paths and of their ends."""
    plans = torch.rand(2, 5, 4, model.spec.block_dim, generator=torch.Generator().manual_seed(1)).to(model.spec.device)
    context = model.observe(*given)
    path, last = model.imagine(context, plans), model.imagine(context.select(slice(0, 1)), plans[:1], keep="last")
    chosen = context.select(torch.tensor([1], device=model.spec.device))
    found = {}
    with torch.no_grad():
        for name in model.spec.views:
            found["goal", name] = model.encode_goal(given[0][:, 0]).view(name)
            found["path", name], found["last", name] = path.view(name), last.view(name)
            found["chosen", name] = model.imagine(chosen, plans[1:]).view(name)
    return found


def test_all_views_are_on_the_device_with_the_values_of_the_cpu(case, cuda):
    model, given = case
    here = imagined(model, given)
    there = imagined(model.to(cuda), moved(given, cuda))
    for key, value in here.items():
        assert_same(there[key], value, cuda)


def test_frames_of_another_device_are_refused(case, cuda):
    model, given = case
    model.to(cuda)
    with pytest.raises(RuntimeError, match="same device"):
        model.observe(given[0], *moved(given[1:], cuda))
    with pytest.raises(RuntimeError, match="same device"):
        model.encode_goal(given[0][:, 0]).view("pooled")


def test_energies_of_recorded_cases_are_those_of_the_cpu(case, cuda):
    model, (past, actions, _, state) = case
    parts = (past, actions, torch.rand(2, 1, model.spec.block_dim), frames(2, seed=5))
    found = []
    for device in ("cpu", cuda):
        known = Transitions(*moved((*parts, state), device))
        model.to(device)
        energy, offsets = measure_landscape(model, known, (0, 1), 1.0, cells=3)
        assert energy.device.type == offsets.device.type == "cpu"  # they are drawn
        found += [measure_energies(model, known, known.taken_BKA[:, None], known.after_BHWC).cpu(), energy]
    torch.testing.assert_close(found[2:], found[:2])
