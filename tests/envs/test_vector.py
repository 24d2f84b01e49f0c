"""The vector environment: equal to single ones to the bit, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs
from envs.vector import VectorGoalEnv

COUNT = 5
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (6, COUNT, 2)).astype(np.float32)


@pytest.fixture(scope="module", params=[0, 2], ids=["in this process", "two workers"])
def batch(request: pytest.FixtureRequest) -> Iterator[VectorGoalEnv]:
    found = VectorGoalEnv("two_rooms", COUNT, num_workers=request.param)
    yield found
    found.close()


def _singles(seeds: list[int]) -> list[dict[str, np.ndarray]]:
    """What single environments show: one after the other, each alone from start to end."""
    env = envs.make("two_rooms")
    rows = []
    for index, seed in enumerate(seeds):
        obs, info = env.reset(seed=seed)
        steps = [(obs, info)]
        for action in ACTIONS[:, index]:
            obs, _, _, _, info = env.step(action)
            steps.append((obs, info))
        obs, info = env.reset()  # goes on with this episode's generator
        steps.append((obs, info))
        rows.append({key: np.stack([o[key] for o, _ in steps]) for key in ("pixels", "goal_pixels")})
        rows[-1] |= {key: np.stack([i[key] for _, i in steps]) for key in ("truth", "distance")}
    env.close()
    return rows


def test_a_batch_equals_its_environments_one_by_one(batch: VectorGoalEnv) -> None:
    steps = [batch.reset(seed=7)]
    for actions in ACTIONS:
        obs, rewards, terminations, truncations, info = batch.step(actions)
        assert not rewards.any() and not terminations.any() and not truncations.any()
        steps.append((obs, info))
    steps.append(batch.reset())
    assert batch.observation_space.contains(steps[-1][0])
    for index, row in enumerate(_singles([7 + i for i in range(COUNT)])):
        for key in ("pixels", "goal_pixels"):
            np.testing.assert_array_equal(np.stack([obs[key][index] for obs, _ in steps]), row[key])
        for key in ("truth", "distance"):
            np.testing.assert_array_equal(np.stack([info[key][index] for _, info in steps]), row[key])


def test_states_and_goals_can_be_set_for_each_environment(batch: VectorGoalEnv) -> None:
    batch.reset(seed=list(range(COUNT)))
    states = batch.get_states()
    frames = batch.render()
    batch.step(ACTIONS[0])
    after = batch.get_states()
    assert states.shape == after.shape and not np.array_equal(states, after)
    options = [{"state": states[i], "goal_state": after[i]} for i in range(COUNT)]
    _, info = batch.reset(options=options)
    np.testing.assert_array_equal(batch.get_states(), states)
    np.testing.assert_array_equal(batch.render(), frames)
    np.testing.assert_allclose(info["goal_truth"][:, :2], after[:, 1:3], rtol=1e-6)
    _, info = batch.reset(seed=3, options={"state": states[2]})
    np.testing.assert_array_equal(batch.get_states(), states[[2] * COUNT])
    assert len(np.unique(info["goal_truth"], axis=0)) == COUNT, "each draws its own goal"


def test_it_speaks_gymnasiums_vector_interface(batch: VectorGoalEnv) -> None:
    assert batch.num_envs == COUNT
    assert batch.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert batch.single_observation_space["pixels"].shape == (64, 64, 3)
    assert batch.action_space.shape == (COUNT, 2)
    assert len(batch.render()) == COUNT
    _, info = batch.reset(seed=0)
    assert info["distance"].shape == (COUNT,) and info["truth"].shape == (COUNT, 5)


def test_bad_input_is_named_and_the_batch_goes_on(batch: VectorGoalEnv) -> None:
    batch.reset(seed=1)
    with pytest.raises(ValueError, match=r"action of shape \(2, 2\)"):
        batch.step(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="seed has 2 entries for 5"):
        batch.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="no options"):  # raised by the environment, maybe in a worker
        batch.reset(options={"start": 1})
    before = batch.get_states()
    wrong = np.zeros((COUNT, 2))
    wrong[3, 1] = 1e300  # infinite as float32
    name = batch.task.action_names[1]
    with pytest.raises(ValueError, match=rf"action \[0.0, inf\] of environment 3: {name} is inf"):
        batch.step(wrong)
    np.testing.assert_array_equal(batch.get_states(), before)  # no environment has moved
    first, _ = batch.reset(seed=1)
    again, _ = batch.reset(seed=1)
    np.testing.assert_array_equal(first["pixels"], again["pixels"])


def test_wrong_arguments_are_named_before_a_worker_starts() -> None:
    with pytest.raises(ValueError, match="did you mean reacher"):
        VectorGoalEnv("reachr", 2, num_workers=2)
    with pytest.raises(ValueError, match="num_envs=0"):
        VectorGoalEnv("reacher", 0)
    with pytest.raises(ValueError, match="size=3"):
        VectorGoalEnv("reacher", 2, num_workers=1, size=3)


def test_a_worker_that_dies_is_named() -> None:
    batch = VectorGoalEnv("reacher", 2, num_workers=2)
    batch.reset(seed=0)
    batch._workers[1].kill()
    with pytest.raises(RuntimeError, match="worker 1 died with exit code -9"):
        for _ in range(3):
            batch.step(np.zeros((2, 2)))
    batch.close()
    assert not any(worker.is_alive() for worker in batch._workers)
