"""Push-T: the field's measure of success, a block that moves as the pusher believes, a script that moves it."""

from __future__ import annotations

from contextlib import closing

import mujoco
import numpy as np
import pytest

import envs
from envs.goal_env import GoalEnv
from envs.push_t.env import EDGE_M
from envs.push_t.pusher import AGENT_RADIUS_M, BOXES, CONTACTS, GYRATION_M, NORMALS, TWISTS, rotate
from envs.push_t.spec import PUSH_T, UNIT_M, push_t_distance, push_t_goal_kind, push_t_probe_targets
from envs.task_spec import wrap_angle


def _state(env: GoalEnv, agent: tuple[float, float], block: tuple[float, float, float]) -> np.ndarray:
    state = np.zeros(env.state_size)
    state[env.qpos] = (*agent, *block)
    return state


def _reached_in_the_field(a: np.ndarray, b: np.ndarray) -> bool:
    """Units of 1/512 of the width; agent x, y, block x, y together, and the block's angle."""
    pixels = (np.delete(a, (2, 3))[:4] - np.delete(b, (2, 3))[:4]) / UNIT_M
    angle = abs(a[6] - b[6]) % (2 * np.pi)
    return bool(np.linalg.norm(pixels) < 20 and min(angle, 2 * np.pi - angle) < np.pi / 9)


def test_a_distance_below_one_is_the_fields_success() -> None:
    rng, agreed = np.random.default_rng(0), []
    for _ in range(2000):
        a = rng.uniform(-0.8, 0.8, 10)
        a[6] = rng.uniform(-np.pi, np.pi)
        b = a + rng.normal(0, 0.04, 10)
        b[6] = a[6] + rng.normal(0, 0.3) + rng.integers(-1, 2) * 2 * np.pi
        agreed.append(_reached_in_the_field(a, b))
        assert (push_t_distance(a, b) < 1) == agreed[-1]
    assert 0.1 < np.mean(agreed) < 0.9


def test_a_goal_is_named_by_whether_the_block_moves() -> None:
    a = np.zeros((3, 10))
    b = a.copy()
    b[:, 0] = 0.5
    b[1, 4], b[2, 6] = 0.1, 0.5
    np.testing.assert_array_equal(push_t_goal_kind(a, b), ["block stays", "block moves", "block moves"])
    np.testing.assert_allclose(push_t_probe_targets(b)[2], [0.5, 0, 0, 0, np.sin(0.5), np.cos(0.5)])


def test_the_script_knows_the_compiled_block(push_t: GoalEnv) -> None:
    model = push_t.physics.model
    block = model.body("block")
    np.testing.assert_allclose(block.ipos[:2], 0, atol=1e-5, err_msg="its origin is its centre of mass")
    np.testing.assert_allclose(np.sqrt(block.inertia.max() / block.mass), GYRATION_M, rtol=1e-3)
    boxes = [(*model.geom(name).pos[:2], *model.geom(name).size[:2]) for name in ("bar", "stem")]
    np.testing.assert_allclose(BOXES, boxes, atol=1e-5)
    np.testing.assert_allclose(EDGE_M, BOXES[0, 1] + BOXES[0, 3], atol=1e-5)
    assert model.geom("agent").size[0] == AGENT_RADIUS_M
    rates = [model.joint("block x").damping / block.mass, model.joint("block angle").damping / block.inertia.max()]
    np.testing.assert_allclose(rates, 40, rtol=1e-3, err_msg="one rate, as a film below it would drag")


def test_truth_tells_the_upper_edges_place_and_its_velocities_are_its_derivatives(push_t: GoalEnv) -> None:
    push_t.set_state(_state(push_t, (0.8, 0.8), (0.1, -0.2, np.pi / 2 + 2 * np.pi)))
    np.testing.assert_allclose(push_t.get_truth()[4:7], [0.1 - EDGE_M, -0.2, np.pi / 2], atol=1e-6)
    rng, step = np.random.default_rng(1), 1e-3
    qpos, qvel = rng.uniform(-1, 1, (2, 5))
    before, after = (push_t.compute_truth(qpos + sign * step * qvel, qvel, np.zeros(0)) for sign in (-0.5, 0.5))
    rates = (after.astype(float) - before)[[0, 1, 4, 5, 6]] / step
    np.testing.assert_allclose(push_t.compute_truth(qpos, qvel, np.zeros(0))[[2, 3, 7, 8, 9]], rates, atol=2e-3)


@pytest.mark.parametrize("angle", [0.0, 1.0, np.pi / 2, np.pi, -2.0])
def test_the_picture_shows_where_the_block_points_and_the_agent(push_t: GoalEnv, angle: float) -> None:
    frame = push_t.render_state(_state(push_t, (-0.7, 0.6), (0.2, -0.1, angle))).astype(int)
    pixel = 2.06 / 64

    def at(place: np.ndarray) -> np.ndarray:
        return frame[int((1.03 - place[1]) / pixel), int((place[0] + 1.03) / pixel)]

    for part in np.array([[-50, 26], [50, 26], [0, 26], [0, -70]]) * UNIT_M:
        colour = at(np.array([0.2, -0.1]) + rotate(part, angle))
        assert colour[2] > colour[0] + 30, (part, colour)
    for beside in np.array([[-45, -30], [45, -30]]) * UNIT_M:
        assert at(np.array([0.2, -0.1]) + rotate(beside, angle)).min() > 150, "the floor beside the stem"
    red = at(np.array([-0.7, 0.6]))
    assert red[0] > red[2] + 80


@pytest.mark.parametrize("contact", range(0, len(CONTACTS), 4))
def test_the_block_moves_as_the_pusher_expects_of_a_push(push_t: GoalEnv, contact: int) -> None:
    angle = 0.7
    agent = 0.1 + rotate(CONTACTS[contact] + NORMALS[contact] * (AGENT_RADIUS_M + 0.002), angle)
    push_t.set_state(_state(push_t, tuple(agent), (0.1, 0.1, angle)))
    for _ in range(3):  # physics steps of a hundredth of a second: the contact has hardly moved
        push_t.physics.data.ctrl[:] = -0.8 * rotate(NORMALS[contact], angle)
        mujoco.mj_step(push_t.physics.model, push_t.physics.data, nstep=1)
    moved = push_t.get_state()[push_t.qpos][2:] - (0.1, 0.1, angle)
    twist = np.append(rotate(moved[:2], -angle), moved[2] * GYRATION_M)
    assert np.linalg.norm(twist) > 1e-3
    alike = twist @ TWISTS[contact] / np.linalg.norm(twist) / np.linalg.norm(TWISTS[contact])
    assert alike > 0.99, (twist, TWISTS[contact])


def test_the_block_stays_where_it_is_left(push_t: GoalEnv) -> None:
    push_t.set_state(_state(push_t, (0.0, -0.6), (0.0, 0.0, 0.0)))
    for _ in range(6):
        push_t.physics.step(np.array([0.0, 1.0]))
    pushed = push_t.get_truth()
    assert pushed[5] - EDGE_M > 0.1 and pushed[8] > 0.5
    push_t.physics.step(np.array([0.0, -1.0]))
    left = push_t.get_truth()
    for _ in range(5):
        push_t.physics.step(np.array([0.0, -1.0]))
    np.testing.assert_allclose(push_t.get_truth()[4:7], left[4:7], atol=0.005)
    np.testing.assert_allclose(push_t.get_truth()[7:], 0, atol=1e-3)


def test_nothing_leaves_the_table_or_enters_the_block_under_the_wildest_pushes(push_t: GoalEnv) -> None:
    rng = np.random.default_rng(3)
    for seed in range(4):
        push_t.reset(seed=seed)
        for action in rng.choice((-1.0, 1.0), (15, 2)).repeat(8, axis=0):
            push_t.physics.step(action)
            qpos = push_t.get_state()[push_t.qpos]
            assert np.abs(qpos[:4]).max() < 1.0 - AGENT_RADIUS_M + 0.02
            gap = np.abs(rotate(qpos[:2] - qpos[2:4], -qpos[4]) - BOXES[:, :2]) - BOXES[:, 2:]
            assert np.linalg.norm(np.maximum(gap, 0), axis=-1).min() > AGENT_RADIUS_M - 0.03


def test_the_script_takes_the_block_to_random_poses(push_t: GoalEnv) -> None:
    reached, moved, rotated, near = [], [], [], []
    for seed in range(8):
        push_t.reset(seed=seed)
        rng, memory, poses = np.random.default_rng(seed), {}, []
        for _ in range(80):
            push_t.physics.step(push_t.sample_scripted_action(rng, memory))
            poses.append(push_t.get_state()[push_t.qpos])
        path = np.array(poses)
        reached.append(memory["reached"])
        moved.append(np.linalg.norm(path[25:, 2:4] - path[:-25, 2:4], axis=-1))
        rotated.append(np.abs(wrap_angle(path[25:, 4] - path[:-25, 4])))
        near.append(np.abs(path[:, 2:4]).max())
    assert np.mean(np.array(reached) > 0) >= 0.85 and np.mean(reached) > 1.2
    assert np.median(np.concatenate(moved)) > 2 * PUSH_T.distance_bins[0] * 20 * UNIT_M
    assert np.median(np.concatenate(rotated)) > np.pi / 9
    assert np.median(near) < 0.8, "the block is driven into the walls"


def test_the_disc_goes_astray_in_training_episodes_alone() -> None:
    def actions(stray: float, split: str) -> np.ndarray:
        with closing(envs.make("push_t", stray=stray)) as env:
            env.reset(seed=5, options={"split": split})
            rng, memory, taken = np.random.default_rng(5), {}, []
            for _ in range(60):
                taken.append(env.sample_scripted_action(rng, memory))
                env.physics.step(taken[-1])
        return np.stack(taken)

    pushed = actions(0.0, "train")
    for split in ("val", "eval"):
        np.testing.assert_array_equal(actions(0.5, split), pushed)
    strayed = actions(0.9, "train")
    slow = np.corrcoef(strayed[:-1].ravel(), strayed[1:].ravel())[0, 1]
    assert not np.array_equal(strayed, pushed) and slow > 0.6, "noise that lasts"
    with pytest.raises(ValueError, match="stray=1.5: give a probability per step"):
        envs.make("push_t", stray=1.5)


def test_a_disc_that_went_astray_pushes_again() -> None:
    with closing(envs.make("push_t", stray=0.5)) as env:
        for seed in range(20):  # in half of these it goes astray at the first step
            env.reset(seed=seed)
            rng, memory, astray = np.random.default_rng(seed), {}, []
            for _ in range(60):
                env.physics.step(env.sample_scripted_action(rng, memory))
                astray.append(memory["astray"] > 0)
            assert 0.5 < np.mean(astray) < 1
