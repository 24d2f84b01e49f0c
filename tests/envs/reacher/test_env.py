"""The reacher: the suite's physics, its truth, its picture."""

from __future__ import annotations

import mujoco
import numpy as np

from envs.goal_env import GoalEnv


def _state(env: GoalEnv, shoulder: float, wrist: float) -> np.ndarray:
    state = env.sample_state(np.zeros(0))
    state[env.qpos], state[env.qvel] = (shoulder, wrist), 0.0
    return state


def test_the_arm_moves_as_in_the_suite(reacher: GoalEnv) -> None:
    from dm_control import suite

    theirs = suite.load("reacher", "hard", task_kwargs={"random": 0})
    theirs.reset()
    reacher.reset(seed=0)
    state = reacher.get_state()
    state[reacher.qpos] = theirs.physics.data.qpos
    reacher.set_state(state)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 2)):
        reacher.step(action)
        for _ in range(reacher.physics.substeps):
            theirs.step(action)
        np.testing.assert_allclose(reacher.physics.data.qpos, theirs.physics.data.qpos, atol=1e-9)
    assert reacher.physics.substeps == 5


def test_the_fingertip_of_the_truth_is_where_mujoco_puts_it(reacher: GoalEnv) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        reacher.set_state(_state(reacher, *rng.uniform(-2.7, 2.7, 2)))
        mujoco.mj_forward(reacher.physics.model, reacher.physics.data)
        tip = reacher.physics.data.geom("finger").xpos[:2]
        np.testing.assert_allclose(reacher.get_truth()[4:], tip, atol=1e-6)


def test_a_whole_turn_of_the_shoulder_changes_neither_truth_nor_picture(reacher: GoalEnv) -> None:
    one, other = _state(reacher, 0.4, 1.0), _state(reacher, 0.4 + 2 * np.pi, 1.0)
    np.testing.assert_allclose(reacher.get_truth(one), reacher.get_truth(other), atol=1e-5)
    differing = reacher.render_state(one) != reacher.render_state(other)
    assert differing.mean() < 1e-3


def test_the_target_is_gone_and_the_arm_is_seen(reacher: GoalEnv) -> None:
    model = reacher.physics.model
    assert mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, "target") == -1
    frame = reacher.render_state(_state(reacher, 0.7, 1.2)).astype(int)
    arm = (frame[..., 0] > 150) & (frame[..., 2] < frame[..., 0] - 40)
    assert 25 <= arm.sum() <= 150, arm.sum()
    background = np.median(frame.reshape(-1, 3), axis=0)
    assert background[2] > background[0], "the floor is blue"
    folded = reacher.render_state(_state(reacher, 0.7, 1.25)).astype(int)
    assert (folded != frame).any(axis=-1).sum() >= 3, "0.05 rad of the wrist must be seen"


def test_the_scripted_arm_takes_the_pose_it_wants_within_two_thirds_of_the_budget(reacher: GoalEnv) -> None:
    rng, task = np.random.default_rng(0), reacher.task
    for seed in range(20):
        reacher.reset(seed=seed)
        goal = reacher.get_truth(reacher.get_goal_state())
        memory = {"pose": goal[:2], "steps_left": task.budget}
        nearest = np.inf
        for _ in range(2 * task.budget // 3):
            reacher.physics.step(reacher.sample_scripted_action(rng, memory))
            nearest = min(nearest, float(task.distance(reacher.get_truth(), goal)))
        assert nearest < task.thresholds[0], (seed, nearest)


def test_starts_cover_the_joints_ranges(reacher: GoalEnv) -> None:
    reacher.reset(seed=0)
    truths = [reacher.get_truth(reacher.sample_state(np.zeros(0))) for _ in range(200)]
    spread = np.std(truths, axis=0)
    assert spread[0] > 1.5 and spread[1] > 1.3
    assert np.abs(np.array(truths)[:, 1]).max() <= np.deg2rad(160)
