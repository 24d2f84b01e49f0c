"""Environments of Gymnasium's as goal-image tasks: exact restore, goals, what is refused, the guide's example."""

from __future__ import annotations

import gc
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

import envs
from commands.evaluation.oracle import OracleDynamics
from envs.adapters.gymnasium_tasks import find_description
from envs.adapters.mujoco_enums import patch_enums
from envs.goal_env import GoalEnv
from envs.task_spec import LargestError
from envs.vector import VectorGoalEnv

HERE = Path(__file__).parent
NEEDS = {"Pendulum-v1": "pygame", "MountainCarContinuous-v0": "pygame"}
MAKERS = ["TwoTanks-v0", "InvertedPendulum-v5", "Pendulum-v1", "MountainCarContinuous-v0"]
EXTRAS = ["gymnasium_robotics:FetchReach-v4", "ogbench:pointmaze-medium-v0"]


def _load_example() -> None:
    if "two_tanks" not in sys.modules:
        spec = importlib.util.spec_from_file_location("two_tanks", HERE / "two_tanks.py")
        sys.modules["two_tanks"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["two_tanks"])


def _made(gym_id: str) -> GoalEnv:
    module = NEEDS[gym_id] if gym_id in NEEDS else gym_id.partition(":")[0] if ":" in gym_id else "gymnasium"
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{gym_id} needs {module}, which is not installed")
    _load_example()
    return envs.make(f"gym/{gym_id}", size=32)


@pytest.mark.parametrize("gym_id", MAKERS + EXTRAS)
def test_a_state_goes_on_the_same_to_the_bit_and_a_goal_was_reached(gym_id: str) -> None:
    env = _made(gym_id)
    obs, info = env.reset(seed=4)
    assert obs["pixels"].shape == (32, 32, 3) and obs["pixels"].std() > 0 and info["distance"] > 0
    np.testing.assert_array_equal(obs["goal_pixels"], env.render_state(env.get_goal_state()))
    low, high, rng = env.action_space.low, env.action_space.high, np.random.default_rng(0)
    env.step(rng.uniform(low, high))
    state, picture = env.get_state(), env.render()
    actions = rng.uniform(low, high, (3, len(low)))
    wanted = [(env.step(action)[0]["pixels"], env.get_state()) for action in actions]
    truths = np.stack([env.get_truth(after) for _, after in wanted])
    env.reset(seed=5)
    env.set_state(state)
    np.testing.assert_array_equal(env.render(), picture)
    for action, (frame, after) in zip(actions, wanted, strict=True):
        np.testing.assert_array_equal(env.step(action)[0]["pixels"], frame)
        np.testing.assert_array_equal(env.get_state(), after)
    np.testing.assert_array_equal(env.get_truth(np.stack([after for _, after in wanted])), truths)
    env.reset(seed=4)
    np.testing.assert_array_equal(env.render_state(env.get_goal_state()), obs["goal_pixels"])
    env.close()


def test_collecting_a_closed_environment_leaves_the_pictures_of_others_alone() -> None:
    other, ours = envs.make("gym/InvertedPendulum-v5", size=32), envs.make("reacher", size=16)
    other.reset(seed=0)
    observation, _ = ours.reset(seed=0)
    other.close()
    start = ours.render_state(ours.get_state())  # makes its OpenGL context the current one
    del other
    gc.collect()
    goal = ours.render_state(ours.get_goal_state())
    np.testing.assert_array_equal(goal, observation["goal_pixels"])
    assert not np.array_equal(goal, start)
    ours.close()


def test_many_run_as_one_and_the_oracle_steps_the_environment_itself() -> None:
    _load_example()
    batch = VectorGoalEnv("gym/TwoTanks-v0", 3, size=16)
    batch.reset(seed=0)
    starts = batch.get_states()
    oracle = OracleDynamics(envs.make("gym/TwoTanks-v0", size=16), None, horizon=3, threads=1, frame_skip=2)
    oracle.set_states(starts, starts)
    import torch

    actions = torch.rand(3, 4, 3, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames = torch.zeros(3, 1, 16, 16, 3, dtype=torch.uint8)
    context = oracle.observe(frames, torch.zeros(3, 0, 4), torch.ones(3, 1, dtype=torch.bool))
    imagined = oracle.imagine(context, actions).view("truth")
    for k in range(3):
        for half in actions[:, 1, k].unflatten(1, (2, 2)).unbind(1):
            _, _, _, _, info = batch.step(half.numpy())
        np.testing.assert_allclose(imagined[:, 1, k], info["truth"], atol=1e-6)
    batch.close()


def test_the_guide_shows_the_example_that_is_tested_and_it_is_short() -> None:
    code = (HERE / "two_tanks.py").read_text(encoding="utf-8")
    guide = (HERE.parents[2] / "docs" / "guides" / "own_task.md").read_text(encoding="utf-8")
    shown = code[code.index("import gymnasium") :].strip()
    assert shown in guide
    assert len(shown.splitlines()) < 50


def test_the_pendulums_angle_is_wrapped_and_its_arrow_is_not_drawn() -> None:
    about = find_description("Pendulum-v1")
    assert about.distance([0.1 - np.pi, 3.0], [np.pi, 9.0]) == pytest.approx(0.1)
    assert LargestError(2)(np.zeros((4, 3)), np.ones(3) * (1, 2, 9)).tolist() == [2.0] * 4


class _Bare(gymnasium.Env):
    """Everything an environment may lack, one at a time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(0.0, 1.0, (1,))

    def __init__(self, render_mode=None, actions=None, modes=("rgb_array",)) -> None:
        self.action_space = spaces.Box(-1.0, 1.0, (1,)) if actions is None else actions
        self.metadata = {"render_modes": list(modes), "render_fps": 10}
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"actions": spaces.Discrete(2)}, r"has actions Discrete\(2\): planning needs a Box"),
        ({"actions": spaces.Box(-np.inf, np.inf, (1,))}, "has actions without bounds"),
        ({"modes": ("human",)}, r"draws no pictures \(its render modes: \['human'\]"),
        ({}, "has no state that can be set .* describe it with get_state and set_state"),
    ],
)
def test_what_an_environment_lacks_is_said_in_one_sentence(kwargs: dict, said: str) -> None:
    gymnasium.register(id="Bare-v0", entry_point=_Bare, kwargs=kwargs)
    try:
        with pytest.raises(ValueError, match=said) as caught:
            envs.make("gym/Bare-v0")
        assert "\n" not in str(caught.value) and "docs/guides/own_task.md" in str(caught.value)
    finally:
        del gymnasium.registry["Bare-v0"]


def test_cartpole_an_unknown_id_and_factors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gym/CartPole-v1 has actions Discrete\(2\)"):
        envs.get_task("gym/CartPole-v1")
    with pytest.raises(ValueError, match="gym/NoSuch-v0 cannot be made"):
        envs.get_task("gym/NoSuch-v0")
    with pytest.raises(ValueError, match="an environment of Gymnasium's has none"):
        envs.make("gym/TwoTanks-v0", factors=["colour"])
    assert envs.find_task("droid") is None


def test_a_package_that_compares_kinds_with_mujocos_enumerations_finds_them() -> None:
    package = ModuleType("compares_kinds")
    package.mujoco = mujoco  # type: ignore[attr-defined]
    patch_enums(package)
    kinds = package.mujoco.mjtJoint
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body><joint type="slide"/><geom size="0.1"/></body></worldbody></mujoco>'
    )
    assert model.jnt_type[0] in (kinds.mjJNT_HINGE, kinds.mjJNT_SLIDE)
    assert model.jnt_type[0] not in (kinds.mjJNT_FREE, kinds.mjJNT_BALL)
    assert package.mujoco.MjModel is mujoco.MjModel and package.mujoco.mjtEq.mjEQ_WELD == int(mujoco.mjtEq.mjEQ_WELD)
