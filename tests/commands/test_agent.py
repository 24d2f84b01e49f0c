"""The agent in Python: pictures of any size in, the same as training saw; a refused call changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from commands.agent import Agent
from commands.training.model_folders import load_dynamics, save_dynamics
from data.pictures import Preprocessing
from tests.world_model.small import dynamics

SEARCH = ("planner.samples=8", "planner.elites=2", "planner.iterations=1", "planner.horizon=3")
CAMERA = {"size_hw": [64, 64], "crop": "centre", "filter": "bilinear", "stored_hw": None}
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
LARGE = RNG.integers(0, 256, (5, 480, 640, 3), dtype=np.uint8)


def make_agent(folder, about=None, **parts) -> Agent:
    save_dynamics(folder / "model", dynamics(frame_skip=2, **parts), {"env": None, **(about or {})})
    return Agent(folder, device="cpu", overrides=SEARCH)


def test_a_camera_s_frames_give_the_actions_of_the_frames_that_training_saw(tmp_path):
    agent = make_agent(tmp_path, {"preprocessing": CAMERA})
    first = [agent.act(frame, LARGE[0]) for frame in LARGE]
    small = [agent.preprocess(frame) for frame in LARGE]
    np.testing.assert_array_equal(small[1], Preprocessing((64, 64)).prepare(LARGE[1]))
    agent.reset()
    np.testing.assert_array_equal(first, [agent.act(frame, small[0]) for frame in small])
    assert first[0].shape == (2,) and agent.preprocess(small[0]) is small[0]


def test_the_model_folder_says_how_pictures_are_cropped_and_one_from_before_squeezes_them(tmp_path):
    squeezed = make_agent(tmp_path / "a", {"preprocessing": {**CAMERA, "crop": "whole", "stored_hw": [96, 96]}})
    assert squeezed.preprocessing == Preprocessing((64, 64), "whole", stored_hw=(96, 96))
    assert make_agent(tmp_path / "b").preprocessing == Preprocessing((64, 64))
    path = tmp_path / "b/model/model.json"
    described = json.loads(path.read_text())
    described["config"]["frame_px"] = [96, 96]
    path.write_text(json.dumps(described))
    assert load_dynamics(tmp_path / "b")[1]["preprocessing"] == {"size_hw": [64, 64], "crop": "whole"}
    assert Agent(tmp_path / "b", device="cpu", overrides=SEARCH).preprocessing == Preprocessing((64, 64), "whole")


@pytest.mark.parametrize(
    ("frame", "goal", "says"),
    [
        (
            FRAMES[0].astype(np.float32),
            FRAMES[1],
            r"the frame is float32 \[64, 64, 3\]: give uint8 \[height, width, 3\]",
        ),
        (FRAMES[:1], FRAMES[1], r"the frame is uint8 \[1, 64, 64, 3\]"),
        (FRAMES[0].transpose(2, 0, 1), FRAMES[1], r"the frame is uint8 \[3, 64, 64\]"),
        (FRAMES[0], FRAMES[1, ..., 0], r"the goal image is uint8 \[64, 64\]"),
        (np.zeros((0, 4, 3), np.uint8), FRAMES[1], r"the frame is uint8 \[0, 4, 3\]"),
    ],
)
def test_a_refused_call_names_the_picture_and_changes_nothing(tmp_path, frame, goal, says):
    agent = make_agent(tmp_path)
    undisturbed = [agent.act(each, FRAMES[4]) for each in FRAMES]
    agent.reset()
    for expected, each in zip(undisturbed, FRAMES, strict=True):
        with pytest.raises(ValueError, match=says):
            agent.act(frame, goal)
        np.testing.assert_array_equal(agent.act(each, FRAMES[4]), expected)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (None, "the robot's state is missing; this model was trained with it and takes 3 finite numbers"),
        (np.zeros(2), r"the robot's state is float64 \[2\]"),
        (np.zeros((1, 3)), r"the robot's state is float64 \[1, 3\]"),
        (np.array([0, np.nan, 0]), r"the robot's state is float64 \[3\]"),
        (np.array(["a", "b", "c"]), r"the robot's state is <U1 \[3\]"),
    ],
)
def test_a_robot_s_state_is_checked_before_anything_is_remembered(tmp_path, state, says):
    agent = make_agent(tmp_path, proprio="predicted", proprio_dim=3)
    expected = agent.act(FRAMES[0], FRAMES[1], np.zeros(3, np.float32))
    agent.reset()
    with pytest.raises(ValueError, match=says):
        agent.act(FRAMES[0], FRAMES[1], state)
    np.testing.assert_array_equal(agent.act(FRAMES[0], FRAMES[1], np.zeros(3, np.float32)), expected)
