"""Policies of implicit V-learning from a file: the goals of a batch, resuming, what is saved, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from commands.agent import Agent
from commands.config.compose import load_config
from commands.shared.errors import UsageError
from commands.training.cloning import GoalDraws
from commands.training.policy_folders import load_policy
from data.goal_pairs import GoalTransitions
from data.loader import Loader
from data.store import Reader
from tests.commands.noise_file import FRAMES
from tests.commands.small_policies import DATA, GCIVL, MODEL, POLICY, train_small, write_model_and_data
from tests.world_model.small import dynamics
from world_model.training.checkpoint import load_tensors
from world_model.training.gcivl import GcivlConfig


@pytest.fixture
def model(tmp_path):
    return write_model_and_data(tmp_path)


def train(tmp_path, name: str, *words: str) -> tuple[str, dict[str, torch.Tensor]]:
    """The result of a training in a folder of that name, and the policy's weights."""
    line = train_small(tmp_path / name, tmp_path / MODEL, tmp_path / DATA, *GCIVL, *words)
    return line, load_tensors(tmp_path / name / "model/model.safetensors")[0]


def test_goals_of_a_batch_are_frames_of_the_file_and_reached_where_they_are_the_present_one(model, tmp_path):
    reader = Reader(tmp_path / "a.h5")
    numbers = {"number": np.arange(reader.total_frames, dtype=np.float32)[:, None]}
    transitions = GoalTransitions(reader, "train", 2, 1, 2, extra=numbers)
    draws = GoalDraws(transitions, GcivlConfig(present_goals=0.3), 0)
    batch = Loader(transitions, 64, 0, prepare=draws).read_batch(3)
    assert "transition" not in batch and "after" not in batch
    before, now, following, value_goal, policy_goal = batch["number"][..., 0].unbind(1)
    assert torch.equal(following, now + 2) and (before <= now).all()
    assert torch.equal(batch["reached"], value_goal == now) and 8 < batch["reached"].sum() < 32
    same_episode = (policy_goal // FRAMES).long() == (now // FRAMES).long()
    assert same_episode.all() and (policy_goal > now).all() and ((policy_goal - now) % 2 == 0).all()
    assert not ((value_goal // FRAMES).long() == (now // FRAMES).long()).all()
    train_rows = np.concatenate([reader.first_row(e) + np.arange(FRAMES) for e in reader.episodes("train")])
    assert set(value_goal.long().tolist()) <= set(train_rows.tolist())


@pytest.mark.parametrize("source", ["features", "pixels"])
def test_a_resumed_training_is_the_uninterrupted_one(model, tmp_path, source):
    words = (f"source={source}", "trainer.batch_size=2", "policy.history=2")
    line, whole = train(tmp_path, "whole", *words, "trainer.steps=4")
    train(tmp_path, "parts", *words, "trainer.steps=2")
    _, parts = train(tmp_path, "parts", *words, "trainer.steps=4")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert ("value.encoder.norm.weight" in whole) == (source == "pixels")
    assert not any(name.startswith("target") for name in whole) and "rank correlation of values" in line
    terms = [json.loads(row) for row in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert {"value", "policy", "mean_value", "weight"} <= terms[1].keys() and "value_rank" in terms[0]


@pytest.mark.parametrize("source", ["features", "pixels"])
def test_a_policy_acts_and_its_value_estimates_steps(model, tmp_path, source):
    _, weights = train(tmp_path, "policy", f"source={source}", "trainer.batch_size=2")
    folder = str(tmp_path / "policy")
    words = ("planner=direct", "planner.horizon=4", f"planner.proposal.source={folder}")
    agent = Agent(tmp_path / "model", device="cpu", overrides=words)  # is told no steps left
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    action = agent.act(frames[0], frames[2])
    assert action.shape == (2,) and -1 <= action[0] <= 1 and 0 <= action[1] <= 4
    value = load_policy(folder, model).value
    assert value is not None and torch.equal(value.members[1][0].weight, weights["value.members.1.0.weight"])
    pixels = torch.from_numpy(frames)
    seen = pixels if source == "pixels" else model.encode_goal(pixels).view("pooled")
    features = value.embed(seen[None])
    valid = torch.ones(1, 2, dtype=torch.bool)
    padded = torch.cat((features[:, :1], features[:, :2]), 1)
    steps = value.estimate_steps(padded, torch.cat((~valid[:, :1], valid), 1), features[:, 2])
    assert steps.shape == (1,) and steps.isfinite().all() and not value.training


def test_a_policy_without_a_value_still_loads(model, tmp_path):
    """As folders of earlier versions are, whose description has no value."""
    train_small(tmp_path / "old", tmp_path / MODEL, tmp_path / DATA, *POLICY)
    path = tmp_path / "old/model/model.json"
    described = json.loads(path.read_text())
    assert described["config"].pop("value") is None
    path.write_text(json.dumps(described))
    assert load_policy(str(tmp_path / "old"), model).value is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=gcivl", "policy.steps_left=true"), "method=gcivl learns a policy that is told no steps left"),
        (("method=gcivl", "method.expectile=0.5"), "method.expectile=0.5 is out of range: it must be above 0.5"),
        (("method=gcivl", "method.expectile=1"), "method.expectile=1 is out of range: it must be below 1"),
        (("method=gcivl", "method.discount=1"), "method.discount=1 is out of range: it must be below 1"),
        (("method=gcivl", "method.discount=0"), "method.discount=0 is out of range: it must be above 0"),
        (("method=gcivl", "method.alpha=-1"), "method.alpha=-1 is out of range: it must be at least 0"),
        (("method=gcivl", "method.random_goals=0.9"), "are shares of all goals: they must sum to 1 at most"),
        (("method=iql",), "there is no such method"),
        (("method.discount=0.9",), "'method.discount' is no group or key of jepa clone"),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(words, said):
    with pytest.raises((UsageError, ValueError), match=said):
        load_config("clone", ["model=m", "data=d", *words])


def test_a_policy_for_other_actions_is_refused(model, tmp_path):
    train(tmp_path, "policy")
    other = dynamics(frame_skip=1)
    with pytest.raises(UsageError, match="has the frame skip 2, and the model has 1: jepa clone with this model"):
        load_policy(str(tmp_path / "policy"), other)
