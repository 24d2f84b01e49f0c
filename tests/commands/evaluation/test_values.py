"""A learned value as the distance of a cost: what it sees of an imagined path, and which folders are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from commands.agent import Agent
from commands.config.compose import load_config
from commands.evaluation.values import ValueDistance, bind_value, check_value
from commands.shared.errors import UsageError
from planners.costs import GoalCost
from planners.protocol import Views
from tests.commands.small_policies import DATA, GCIVL, MODEL, POLICY, train_small, write_model_and_data
from tests.world_model.small import dynamics, shake
from world_model.goal_value import GoalValue, ValueConfig


def train(tmp_path, name, *words):
    train_small(tmp_path / name, tmp_path / MODEL, tmp_path / DATA, *words, "trainer.batch_size=2")
    return str(tmp_path / name)


@pytest.fixture
def model(tmp_path):
    return write_model_and_data(tmp_path)


def plan_keys(*words):
    return load_config("plan", ["model=m", "data=d", "planner=icem", "planner.horizon=3", *words]).planner


@torch.no_grad()
def test_the_distance_of_a_step_is_that_of_the_last_imagined_frames():
    torch.manual_seed(0)
    value = GoalValue(ValueConfig(16, 1), 3, 4)
    imagined, goal = torch.randn(2, 5, 4, 4), torch.randn(2, 4)
    got = ValueDistance(value)(imagined, goal[:, None, None])
    for environment, candidate, step in ((0, 0, 0), (1, 4, 1), (0, 2, 2), (1, 3, 3)):
        path = imagined[environment, candidate]
        seen = torch.stack([path[max(0, step - back)] for back in (2, 1, 0)])
        valid = torch.tensor([step - back >= 0 for back in (2, 1, 0)])
        want = value.estimate_steps(seen[None], valid[None], goal[environment][None])
        torch.testing.assert_close(got[environment, candidate, step], want[0])
    for cost in (GoalCost(distance=ValueDistance(value)), GoalCost(reduce="last", distance=ValueDistance(value))):
        assert cost(Views({"pooled": imagined}), Views({"pooled": goal}), torch.zeros(2, 5, 4, 2)).shape == (2, 5)
    drawn = ValueDistance(value)(imagined.expand(3, -1, -1, -1, -1), goal.expand(3, -1, -1)[:, :, None, None])
    torch.testing.assert_close(drawn, got.expand(3, -1, -1, -1))


def test_an_agent_plans_by_a_value(model, tmp_path):
    folder = train(tmp_path, "gcivl", *GCIVL)
    search = ("planner=icem", "planner.horizon=3", "planner.samples=12", "planner.elites=4", "planner.iterations=2")
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)

    def act(*words):
        return Agent(tmp_path / "model", device="cpu", overrides=(*search, *words)).act(frames[0], frames[1])

    by_value = act(f"planner.value={folder}")
    assert by_value.shape == (2,) and not np.array_equal(by_value, act())
    keys = plan_keys()
    assert bind_value(keys, model) is keys


def test_folders_and_costs_that_do_not_fit_are_refused(model, tmp_path):
    cloned, pixels = train(tmp_path, "cloned", *POLICY), train(tmp_path, "pixels", *GCIVL, "source=pixels")
    folder = train(tmp_path, "gcivl", *GCIVL)
    changed = dynamics(frame_skip=2)
    shake(changed.encoder)
    for source, words, other, said in (
        (cloned, (), model, "holds a policy without a value: jepa clone method=gcivl trains one"),
        (pixels, (), model, "has a value of pixels, and plans imagine features: train one with source=features"),
        (folder, ("planner.cost.view=tokens",), model, "planner.cost.view=tokens: planner.value is a value of"),
        (folder, (), changed, f"planner.value={folder} was trained on features of another encoder"),
    ):
        with pytest.raises(UsageError, match=said):
            bind_value(plan_keys(f"planner.value={source}", *words), other)
    with pytest.raises(UsageError, match="planner.value=.*holds a 'dynamics' model, and a policy is needed here"):
        check_value(plan_keys(f"planner.value={tmp_path / 'model'}"))
    with pytest.raises(UsageError, match=r"there is no folder.*or choose null"):
        check_value(plan_keys(f"planner.value={tmp_path / 'nothing'}"))


@pytest.mark.parametrize("command", ["demo", "compare"])
def test_models_that_are_trained_on_the_way_take_no_value_of_another(command):
    keys = load_config(command, ["planner.value=runs/clone/x"])
    with pytest.raises(UsageError, match="planner.value=runs/clone/x holds a policy for another model than those"):
        keys.check_planner()
