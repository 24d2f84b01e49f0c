"""Pose goals on suite models: the table against the compiled models, distances, goals that were reached."""

from __future__ import annotations

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

import envs
from envs.adapters.dm_control_env import load_model
from envs.adapters.dm_control_tasks import DMC_TASKS
from envs.goal_env import GoalEnv


@pytest.fixture(scope="module", params=sorted(DMC_TASKS))
def env(request: pytest.FixtureRequest) -> Iterator[GoalEnv]:
    env = envs.make(request.param, size=32)
    yield env
    env.close()


@pytest.mark.parametrize("name", sorted(DMC_TASKS))
def test_the_table_names_the_models_joints_and_actuators_in_order(name: str) -> None:
    model, task = load_model(DMC_TASKS[name]), DMC_TASKS[name]
    assert [joint.name for joint in task.joints] == [model.joint(index).name for index in range(model.njnt)]
    assert len(task.action_names) == model.nu and np.all(model.actuator_ctrlrange == (-1, 1))
    for index, joint in enumerate(task.joints):
        hinge = model.jnt_type[index] == int(mujoco.mjtJoint.mjJNT_HINGE)
        assert joint.unit == ("rad" if hinge else "m"), joint
        assert joint.turns == bool(hinge and not model.jnt_limited[index]), joint
        if model.jnt_limited[index]:
            low, high = model.jnt_range[index]
            assert low - 0.01 <= joint.low <= joint.high <= high + 0.01, joint


def test_angles_that_turn_are_wrapped_and_walking_counts_for_nothing() -> None:
    cheetah = envs.TASKS["dmc/cheetah"]
    one = np.zeros(18)
    other = one.copy()
    other[0], other[2] = 5.0, 2 * np.pi - 0.1
    assert cheetah.distance(one, other) == pytest.approx(0.1)
    other[3] = 0.4
    assert cheetah.distance(one, other) == pytest.approx(0.4), "the largest error counts"
    other[9:] = 7.0
    assert cheetah.distance(one, other) == pytest.approx(0.4), "velocities do not"
    ball = envs.TASKS["dmc/manipulator"]
    near, far = np.zeros((2, 22))
    far[8] = 0.2
    assert ball.distance(near, far) == pytest.approx(0.5), "2.5 rad for a metre of the ball"
    assert ball.distance(np.zeros((4, 1, 22)), np.zeros((3, 22))).shape == (4, 3)


def test_an_episode_comes_from_its_seed_and_its_goal_was_reached(env: GoalEnv) -> None:
    obs, info = env.reset(seed=2)
    state, goal = env.get_state(), env.get_goal_state()
    again, _ = env.reset(seed=2)
    np.testing.assert_array_equal(env.get_state(), state)
    np.testing.assert_array_equal(env.get_goal_state(), goal)
    np.testing.assert_array_equal(again["goal_pixels"], obs["goal_pixels"])
    assert info["distance"] > env.task.thresholds[0]
    assert goal[0] - state[0] == pytest.approx(env.task.goal_offset * env.task.control_step_s), "by its clock"


def test_a_state_goes_on_the_same_to_the_bit(env: GoalEnv) -> None:
    env.reset(seed=3)
    size, rng = env.action_space.shape[0], np.random.default_rng(0)
    env.step(rng.uniform(-1, 1, size))
    state, picture = env.get_state(), env.render()
    actions = rng.uniform(-1, 1, (4, size))
    wanted = [(env.step(action)[0]["pixels"], env.get_state()) for action in actions]
    env.step(-actions[0])
    env.set_state(state)
    np.testing.assert_array_equal(env.render(), picture)
    for action, (frame, after) in zip(actions, wanted, strict=True):
        np.testing.assert_array_equal(env.step(action)[0]["pixels"], frame)
        np.testing.assert_array_equal(env.get_state(), after)
    assert not np.array_equal(wanted[-1][0], picture)


def test_the_picture_follows_a_walker_and_shows_its_pose() -> None:
    env = envs.make("dmc/walker")
    env.reset(seed=0)
    state = env.get_state()
    pictures = []
    for x in (0.0, 0.4):  # two squares of the floor's pattern
        state[env.qpos.start + 1] = x
        pictures.append(env.render_state(state).astype(int))
    assert (np.abs(pictures[0] - pictures[1]).max(-1) > 30).mean() < 0.1
    state[env.qpos.start + 3] += 0.5
    body = (pictures[1][..., 0] > pictures[1][..., 2]).sum()
    moved = (np.abs(env.render_state(state).astype(int) - pictures[1]).max(-1) > 30).sum()
    assert body > 60 and moved > 20
    env.close()


@pytest.mark.parametrize("name", ["finger", "manipulator"])
def test_the_script_moves_the_thing_more_than_noise_does(name: str) -> None:
    env = envs.make(f"dmc/{name}", size=16)
    thing = {"finger": slice(2, 3), "manipulator": slice(8, 10)}[name]
    moved = {"scripted": 0.0, "noise": 0.0}
    for seed in range(4):
        for kind in moved:
            env.reset(seed=seed)
            rng, memory = np.random.default_rng(seed), {}
            before = env.get_truth()[thing]
            for _ in range(30):
                action = env.sample_scripted_action(rng, memory)
                env.advance(action if kind == "scripted" else rng.uniform(-1, 1, len(action)))
                now = env.get_truth()[thing]
                moved[kind] += float(np.abs(now - before).sum())
                before = now
    env.close()
    assert moved["scripted"] > 1.5 * moved["noise"], moved
