"""Proposals of a model from a trajectory file: train alone is read, and what does not fit is refused by name."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from commands.agent import Agent
from commands.config.compose import load_config
from commands.evaluation.arithmetic import count_planning_flops
from commands.evaluation.methods import make_agent
from commands.evaluation.proposals import build_proposals, check_proposals, load_segments
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from commands.shared.flops import count_flops
from commands.training.feature_cache import view_frames
from commands.training.model_folders import save_dynamics
from commands.training.policy_folders import load_policy
from data.store import Reader
from tests.commands.noise_file import EPISODES, FRAMES, INFO, write_noise
from tests.commands.small_policies import POLICY, train_small
from tests.world_model.small import dynamics, shake
from world_model.training.checkpoint import load_tensors

SKIP = 2
SILENT = Console(io.StringIO())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return dynamics(frame_skip=SKIP)


def plan_keys(*words):
    planner = [] if "planner=direct" in words else ["planner=icem"]
    return load_config("plan", ["model=m", "data=d", *planner, "planner.horizon=3", *words]).planner


RETRIEVED = ("planner.proposal.source=retrieval", "planner.proposal.count=2")


def test_segments_are_of_train_alone(model, tmp_path):
    reader = Reader(write_noise(tmp_path / "a.h5"))
    segments = load_segments(model, "pooled", reader, 3, SILENT)
    train = reader.episodes("train")
    assert len(segments.features) == len(train) * FRAMES and len(segments.starts_N) == len(train) * (FRAMES - 3 * SKIP)
    named = {round(float(value) * 10) for value in segments.actions_NKA[..., 0].unique()}
    assert named == set(train.tolist()) and len(train) < EPISODES
    for episode in reader.episodes("eval").tolist():
        frames = torch.from_numpy(np.array(reader.column("pixels", episode)))
        features = model.encode_goal(frames).view("pooled")
        assert torch.cdist(features, segments.features).min() > 1e-3
    frames = torch.from_numpy(np.array(reader.column("pixels", int(train[1]))))
    assert torch.allclose(segments.features[FRAMES : 2 * FRAMES], model.encode_goal(frames).view("pooled"), atol=1e-5)


@pytest.mark.parametrize("view", ["pooled", "tokens", "reach"])
def test_views_from_cached_features_are_those_of_frames(view, tmp_path):
    torch.manual_seed(0)
    model, reader = dynamics("tokens"), Reader(write_noise(tmp_path / "a.h5"))
    rows = np.arange(3, 9)
    got = view_frames(model, view, reader, rows, SILENT)
    want = model.encode_goal(torch.from_numpy(reader.gather("pixels", rows))).view(view)
    assert got.shape == want.shape and torch.allclose(got.float(), want, atol=5e-3)
    assert view_frames(dynamics(target="pixels"), "pooled", reader, rows, SILENT).shape == (6, 12)
    other = SimpleNamespace(spec=model.spec, encode_goal=model.encode_goal)  # a world model of other people
    assert torch.allclose(view_frames(other, view, reader, rows, SILENT).float(), want, atol=5e-3)


def test_retrieval_proposes_what_was_recorded_between_two_frames(model, tmp_path):
    reader = Reader(write_noise(tmp_path / "a.h5"))
    proposals = build_proposals(plan_keys(*RETRIEVED), model, None, SILENT, reader, 4)
    episode = int(reader.episodes("train")[2])
    frames = torch.from_numpy(np.array(reader.column("pixels", episode)))
    proposals.reset(frames[None, 7])
    proposals.observe(frames[None, 1])
    got = proposals.propose(torch.tensor([0]), torch.tensor([0]), 3)
    assert got.shape == (1, 2, 3, 4) and torch.allclose(got[0, 0], torch.full((3, 4), episode / 10))


def train(folder, model_folder, data, *words):
    train_small(folder, model_folder, data, *POLICY, *words)
    return folder


@pytest.mark.parametrize("source", ["features", "pixels"])
def test_a_policy_learns_from_train_alone(model, tmp_path, source):
    save_dynamics(tmp_path / "model", model, {"env": "none", "env_kwargs": {}})
    weights = []
    for name, changed in (("a", ()), ("b", ("val", "eval")), ("c", ("train",))):
        data = write_noise(tmp_path / f"{name}.h5", changed=changed)
        folder = train(tmp_path / name, tmp_path / "model", data, f"source={source}")
        weights.append(load_tensors(folder / "model/model.safetensors")[0]["layers.0.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_policy_proposes_to_the_model_that_it_was_trained_on_alone(model, tmp_path):
    save_dynamics(tmp_path / "model", model, {"env": "none", "env_kwargs": {}})
    data = write_noise(tmp_path / "a.h5")
    source = str(train(tmp_path / "policy", tmp_path / "model", data))
    keys = plan_keys(f"planner.proposal.source={source}")
    check_proposals(keys)
    torch.manual_seed(1)
    assert build_proposals(keys, dynamics(frame_skip=SKIP), None, SILENT, Reader(data), 4)  # the predictor may differ
    proposals = build_proposals(keys, model, None, SILENT, Reader(data), 4)
    proposals.reset(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    proposals.observe(torch.full((2, 64, 64, 3), 9, dtype=torch.uint8))
    assert proposals.propose(torch.arange(2), torch.zeros(2, dtype=torch.long), 3).shape == (2, 1, 3, 4)
    changed = dynamics(frame_skip=SKIP)
    shake(changed.encoder)
    for other, said in (
        (changed, "was trained on features of another encoder"),
        (dynamics(frame_skip=1), "has the frame skip 2, and the model has 1"),
    ):
        with pytest.raises(UsageError, match=said):
            build_proposals(keys, other, None, SILENT, Reader(data), 4)
    with pytest.raises(UsageError, match=r"told the model steps left to the goal: give planner.proposal.steps=\.\.\."):
        build_proposals(keys, model, None, SILENT)


def test_data_and_folders_that_do_not_fit_are_refused(model, tmp_path):
    reader = Reader(write_noise(tmp_path / "a.h5"))
    for name, info, said in (
        (
            "flat",
            replace(INFO, action_low=(0.0,), action_high=(1.0,), action_names=("x",)),
            "has the action size 1, and 2",
        ),
        ("wide", replace(INFO, action_high=(2.0, 4.0)), "has the bounds of an action block"),
        ("slow", replace(INFO, step_s=0.2), "has the seconds between frames 0.2, and 0.1 is needed"),
        ("else", replace(INFO, env_id="other"), "has the environment other, and none is needed"),
    ):
        words = (*RETRIEVED, f"planner.proposal.data={write_noise(tmp_path / f'{name}.h5', info)}")
        with pytest.raises(UsageError, match=said):
            build_proposals(plan_keys(*words), model, None, SILENT, reader, 4)
    with pytest.raises(UsageError, match="retrieval needs planner.proposal.data"):
        build_proposals(plan_keys(*RETRIEVED), model, None, SILENT)
    with pytest.raises(RunError, match="needs episodes of train with 11 frames, and the longest has 9"):
        load_segments(model, "pooled", reader, 5, SILENT)
    with pytest.raises(UsageError, match="compares cached features, and planner.cost.view is pixels"):
        view_frames(dynamics(target="pixels"), "pixels", reader, np.arange(2), SILENT)
    save_dynamics(tmp_path / "model", model, {"env": "none", "env_kwargs": {}})
    for source, said in (
        (tmp_path / "model", "holds a 'dynamics' model, and a policy is needed here"),
        (tmp_path / "nothing", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=said):
            check_proposals(plan_keys(f"planner.proposal.source={source}"))


def test_operations_of_a_plan_are_those_of_its_parts(model, tmp_path):
    save_dynamics(tmp_path / "model", model, {"env": "none", "env_kwargs": {}})
    data = write_noise(tmp_path / "a.h5")
    source = f"planner.proposal.source={train(tmp_path / 'policy', tmp_path / 'model', data)}"
    frames = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    with torch.no_grad():
        encoding = count_flops(lambda: model.encode_goal(frames).view("pooled"))

    def count(*words):
        keys = plan_keys(*words)
        proposals = build_proposals(keys, model, None, SILENT, Reader(data), 4)
        return count_planning_flops(make_agent(model, keys, proposals), budget=1)["flops"], proposals

    search, _ = count()
    from_segments, _ = count(*RETRIEVED)
    from_policy, proposals = count(source)
    direct, _ = count("planner=direct", source)
    network = 2 * sum(p.numel() for p in proposals.proposer.policy.parameters() if p.ndim == 2)
    assert from_segments == search + 2 * encoding  # of the frame and the goal; distances are no products
    assert from_policy == search + 2 * encoding + network
    assert direct == 2 * encoding + network < search / 20


def test_an_agent_acts_by_a_policy_without_search(model, tmp_path):
    save_dynamics(tmp_path / "model", model, {"env": "none", "env_kwargs": {}})
    source = train(tmp_path / "policy", tmp_path / "model", write_noise(tmp_path / "a.h5"))
    words = ("planner=direct", "planner.horizon=4", f"planner.proposal.source={source}", "planner.proposal.steps=3")
    agent = Agent(tmp_path / "model", device="cpu", overrides=words)
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    actions = [agent.act(frame, frames[2]) for frame in frames[:2]]  # of one model step
    policy = load_policy(str(source), model)
    features = model.encode_goal(torch.from_numpy(frames)).view("pooled")
    valid = torch.tensor([[False, False, True]])
    block = policy(features[:1, None].expand(-1, 3, -1), valid, features[2:], torch.tensor([3]))[0, 0].clamp(-1, 1)
    want = block * policy.action_half + policy.action_mid
    np.testing.assert_allclose(np.concatenate(actions), want.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("command", ["demo", "compare"])
def test_models_that_are_trained_on_the_way_take_segments_and_no_policy(command):
    load_config(command, ["planner=icem", *RETRIEVED]).check_planner()
    keys = load_config(command, ["planner=icem", "planner.proposal.source=runs/clone/x"])
    with pytest.raises(UsageError, match="planner.proposal.source=runs/clone/x holds a policy for another model"):
        keys.check_planner()
    with pytest.raises(ValueError, match="takes no first candidates"):
        load_config(command, ["planner=nevergrad", *RETRIEVED]).check_planner()
