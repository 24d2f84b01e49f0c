"""Tasks for reinforcement learning: rewards, success, time limits, and a loop over vectorised environments."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs
from envs.goal_env import GoalEnv
from envs.rewards import Rewards


@pytest.fixture
def env_with_rewards(reacher: GoalEnv) -> Iterator[GoalEnv]:
    """The shared environment, whose rewards a test may set."""
    yield reacher
    reacher.rewards = Rewards()


def _start_at_goal(env: GoalEnv) -> None:
    env.reset(seed=0)
    state = env.get_state()
    env.reset(options={"state": state, "goal_state": state})


def test_rewards_of_two_distances_are_those_computed_by_hand() -> None:
    wanted = {"none": (0.0, 0.0), "sparse": (-1.0, 0.0), "dense": (-0.7, -0.1)}
    for kind, (far, near) in wanted.items():
        rewards = Rewards(kind)
        assert (rewards.compute_reward(0.7, False), rewards.compute_reward(0.1, True)) == (far, near)


@pytest.mark.parametrize("kind", ["none", "sparse", "dense"])
def test_a_step_gives_the_reward_of_the_distance_that_it_reports(env_with_rewards: GoalEnv, kind: str) -> None:
    env_with_rewards.rewards = Rewards(kind)
    _start_at_goal(env_with_rewards)
    seen = set()
    for _ in range(12):
        _, reward, terminated, truncated, info = env_with_rewards.step(np.full(2, 0.1))
        success = info["distance"] <= 0.2
        assert info["is_success"] is success and not (terminated or truncated)
        assert reward == {"none": 0.0, "sparse": 0.0 if success else -1.0, "dense": -info["distance"]}[kind]
        seen.add(success)
    assert seen == {True, False}, "the arm must leave the goal within the test"


def test_success_is_reported_after_a_reset(env_with_rewards: GoalEnv) -> None:
    _, info = env_with_rewards.reset(seed=0)
    assert info["is_success"] is False and info["distance"] > 0.2
    state = env_with_rewards.get_state()
    assert env_with_rewards.reset(options={"state": state, "goal_state": state})[1]["is_success"] is True


def test_an_episode_ends_at_success_only_where_that_is_asked_for(env_with_rewards: GoalEnv) -> None:
    for terminates in (False, True):
        env_with_rewards.rewards = Rewards("sparse", terminate_on_success=terminates)
        _start_at_goal(env_with_rewards)
        _, reward, terminated, truncated, info = env_with_rewards.step(np.zeros(2))
        assert (reward, terminated, truncated, info["is_success"]) == (0.0, terminates, False, True)
        env_with_rewards.reset(seed=0)
        assert env_with_rewards.step(np.zeros(2))[1:4] == (-1.0, False, False)


def test_rewards_change_neither_frames_nor_states(env_with_rewards: GoalEnv) -> None:
    runs = []
    for rewards in (Rewards(), Rewards("dense")):
        env_with_rewards.rewards = rewards
        frames = [env_with_rewards.reset(seed=3)[0]["pixels"]]
        frames += [env_with_rewards.step(np.array([0.5, -0.5]))[0]["pixels"] for _ in range(5)]
        runs.append((np.stack(frames), env_with_rewards.get_state()))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="reward='shaped' is unknown; choices: none, sparse, dense"):
        gymnasium.make("jepa/reacher-v0", reward="shaped")
    with pytest.raises(ValueError, match="terminate_on_success='yes': True or False"):
        gymnasium.make("jepa/reacher-v0", terminate_on_success="yes")
    with pytest.raises(TypeError, match="reward"):  # environments of evaluation and collecting take none
        envs.make("reacher", reward="sparse")


@pytest.mark.parametrize("name", sorted(envs.TASKS))
def test_every_id_is_truncated_at_its_tasks_budget(name: str) -> None:
    task = envs.TASKS[name]
    assert gymnasium.spec(envs.get_gym_id(name)).max_episode_steps == task.budget
    env = gymnasium.make(envs.get_gym_id(name), reward="sparse", size=16)
    env.action_space.seed(0)
    env.reset(seed=0)
    ends = []
    for _ in range(task.budget):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert info["is_success"] == (info["distance"] <= task.thresholds[0]) and reward == info["is_success"] - 1.0
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * (task.budget - 1) + [(False, True)]
    env.close()


def test_an_environment_of_evaluation_and_collecting_plays_on_beyond_the_budget(reacher: GoalEnv) -> None:
    assert reacher.spec is None or reacher.spec.max_episode_steps is None
    reacher.reset(seed=0)
    ends = {reacher.step(np.ones(2))[1:4] for _ in range(reacher.task.budget + 5)}
    assert ends == {(0.0, False, False)}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_loop_over_vectorised_environments_resets_them_and_reports_success(mode: AutoresetMode) -> None:
    batch = gymnasium.make_vec(
        "jepa/reacher-v0", num_envs=2, reward="dense", size=16, vector_kwargs={"autoreset_mode": mode}
    )
    batch.action_space.seed(0)
    _, info = batch.reset(seed=[0, 1])
    assert info["is_success"].dtype == bool and info["is_success"].tolist() == [False, False]
    starts, budget = info["distance"], envs.TASKS["reacher"].budget
    for step in range(1, budget + 2):
        observation, rewards, terminations, truncations, info = batch.step(batch.action_space.sample())
        assert observation["pixels"].shape == (2, 16, 16, 3) and not terminations.any()
        assert truncations.tolist() == [step == budget] * 2
        if step == budget and mode == AutoresetMode.SAME_STEP:  # where LeRobot reads the success of an episode
            final = info["final_info"]
            assert final["is_success"].tolist() == (final["distance"] <= 0.2).tolist()
            np.testing.assert_array_equal(rewards, -final["distance"])
        elif step <= budget:
            np.testing.assert_array_equal(rewards, -info["distance"])
    assert not np.array_equal(info["distance"], starts), "another episode has begun"
    batch.close()


def test_an_environment_of_gymnasiums_reports_success_and_takes_rewards() -> None:
    env = envs.make_with_rewards("gym/InvertedPendulum-v5", reward="dense", terminate_on_success=True, size=16)
    _start_at_goal(env)
    _, reward, terminated, _, info = env.step(np.zeros(1))
    assert info["is_success"] is True and terminated and reward == -info["distance"]
    env.close()
