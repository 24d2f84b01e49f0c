"""An environment of Gymnasium's that ends its own episode: the step is taken back, and nothing after it counts."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

import envs
from commands.config.keys import CollectKeys, DataKeys, EnvKeys
from commands.evaluation.cases import Cases
from commands.evaluation.episodes import run_episodes
from commands.evaluation.judging import detect_success, summarise
from commands.evaluation.methods import play_policy
from commands.evaluation.oracle import OracleDynamics
from commands.evaluation.protocol import ProtocolConfig
from commands.shared.console import Console
from commands.transfer.collection import collect_into
from data.policies import PolicyConfig
from data.store import Reader
from envs.adapters.gymnasium_tasks import GymTask, describe_task
from envs.vector import VectorGoalEnv

ENDS = [f"Restless-{how}-{key}-v0" for how in ("flag", "reset", "jump") for key in ("terminated", "truncated")]
RIGHT = np.ones(1, np.float32)


@pytest.fixture(autouse=True)
def restless():
    if "restless" not in sys.modules:
        spec = importlib.util.spec_from_file_location("restless", Path(__file__).parent / "restless.py")
        sys.modules["restless"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["restless"])


class Right:
    """A policy that always walks to the right."""

    def reset(self, goal_frames, seeds):
        self.count = len(seeds)

    def act(self, frames, proprio=None):
        return np.ones((self.count, 1), np.float32)


def make_cases(starts, goals) -> Cases:
    starts, goals = (np.array(values, float)[:, None] for values in (starts, goals))
    zeros = np.zeros(len(starts), np.int64)
    return Cases(starts, goals, zeros, zeros, abs(goals - starts)[:, 0], None, tuple(range(len(starts))), 0, 0)


@pytest.mark.parametrize("gym_id", [*ENDS, "Restless-hidden-terminated-v0"])
def test_a_step_that_ends_the_simulator_s_episode_is_taken_back_and_said(gym_id):
    env = envs.make(f"gym/{gym_id}", size=16)
    env.reset(seed=0, options={"state": [0.35], "goal_state": [0.0]})
    frame, _, *ends, _ = env.step(RIGHT)
    assert ends == [False, False] and env.get_state() == pytest.approx(0.45)
    after, _, terminated, truncated, info = env.step(RIGHT)
    assert (terminated, truncated) == (True, False) if "terminated" in gym_id else (False, True)
    assert env.get_state() == pytest.approx(0.45) and info["truth"] == pytest.approx(0.45)
    np.testing.assert_array_equal(after["pixels"], frame["pixels"])
    *_, terminated, truncated, _ = env.step(-RIGHT)
    assert not terminated and not truncated and env.get_state() == pytest.approx(0.35)
    env.close()


def test_an_environment_that_is_described_or_known_to_go_on_is_played_on():
    describe_task("Restless-flag-terminated-v0", GymTask(stops_at_end=False))
    try:
        env = envs.make("gym/Restless-flag-terminated-v0", size=16)
    finally:
        describe_task("Restless-flag-terminated-v0", GymTask())
    env.reset(seed=0, options={"state": [0.45], "goal_state": [0.0]})
    assert env.step(RIGHT)[2:4] == (False, False) and env.get_state() == pytest.approx(0.55)
    env.close()
    pendulum = envs.make("gym/InvertedPendulum-v5", size=16)
    pendulum.reset(seed=0)
    assert not any(any(pendulum.step(3 * RIGHT)[2:4]) for _ in range(20))
    assert abs(pendulum.get_truth()[1]) > 0.2  # where Gymnasium says terminated
    pendulum.close()


@pytest.mark.parametrize("gym_id", [*ENDS, "Restless-hidden-terminated-v0"])
def test_no_jump_is_recorded_and_ended_episodes_are_counted(tmp_path, capsys, gym_id):
    keys = CollectKeys(
        env=EnvKeys(name=f"gym/{gym_id}", policy="smooth", kwargs={"size": 16}),
        data=DataKeys(episodes=6, frames=60, policy=PolicyConfig("smooth", time_constant_s=5.0)),
        workers=1,
    )
    line = collect_into(tmp_path / "trajectories.h5", keys, Console())
    reader = Reader(tmp_path / "trajectories.h5")
    lengths = reader.lengths(reader.episodes())
    short = lengths[lengths < 60]
    assert len(short) >= 3 and line.startswith(f"{lengths.sum()} frames in 6 episodes")
    for episode in reader.episodes().tolist():
        state, action = reader.column("state", episode)[:, 0], reader.column("action", episode)[:, 0]
        np.testing.assert_allclose(np.diff(state), 0.1 * action, atol=1e-6)
        assert abs(state).max() <= 0.5
    said = capsys.readouterr().err
    assert f"gym/{gym_id} ended {len(short)} of 6 episodes itself" in said
    assert f"they have {short.min()} to {short.max()} of 60 frames" in said
    assert "ends its own episodes after 10 steps (max_episode_steps), 59 are played here: data.frames=11" in said


@pytest.mark.parametrize("gym_id", [*ENDS, "Restless-hidden-terminated-v0"])
def test_nothing_after_an_end_is_counted_as_reached_or_held(gym_id):
    # The first walks over its goal and ends, the second ends near its goal, the third would jump onto it.
    cases = make_cases([0.02, 0.12, 0.32], [0.2, 0.45, 0.0])
    run = run_episodes(Right(), partial(VectorGoalEnv, f"gym/{gym_id}", size=16), cases, 9, num_videos=3)
    assert run.played.tolist() == [4, 3, 1]
    np.testing.assert_allclose(run.distances[:, -1], abs(0.42 - cases.goal_states[:, 0]), atol=1e-6)
    np.testing.assert_array_equal(run.frames[2, -1], run.frames[2, 1])
    assert detect_success(run.played_distances, 0.06).tolist() == [True, True, False]
    task = envs.get_task(f"gym/{gym_id}")
    assert not detect_success(run.played_distances, 0.06, task.held_steps).any()
    row = summarise(run.played_distances, cases, task)
    assert row["final_distance"] == pytest.approx(run.distances[:, -1].mean())
    assert row["least_distance"] == pytest.approx(run.distances[:, 1:].min(1).mean())


def test_the_oracle_stays_where_an_episode_ends_and_an_evaluation_says_how_many_ended(capsys):
    name = "gym/Restless-jump-terminated-v0"
    oracle = OracleDynamics(envs.make(name, size=16), None, horizon=4, threads=1)
    path = oracle._simulate(np.array([0.35]), np.array([[[1.0], [1.0], [-1.0], [-1.0]]]))
    assert path[0, :, 0] == pytest.approx([0.45, 0.45, 0.45, 0.45])
    task = envs.get_task(name)
    setup = SimpleNamespace(
        task=task, protocol=ProtocolConfig(budget=9), env_kwargs={"size": 16}, preprocessing=None, cases=None
    )
    play_policy(Right(), "right", setup, Console(), cases=make_cases([0.02, -0.48], [0.2, 0.0]))
    said = capsys.readouterr().err
    assert f"right: {name} ended 1 of 2 episodes itself, after 4 to 4 of 9 steps" in said
    assert task.describe_time_limit(10) is None
    assert "10 steps (max_episode_steps), 11 are played" in task.describe_time_limit(11)


def make_rescaled(**kwargs):
    return gymnasium.wrappers.RescaleAction(sys.modules["restless"].Restless(**kwargs), *FIVE)


FIVE = np.float32(-5), np.float32(5)
WRAPPED = {
    "made with it": {"entry_point": make_rescaled},
    "registered with it": {
        "entry_point": lambda **kwargs: sys.modules["restless"].Restless(**kwargs),
        "additional_wrappers": (gymnasium.wrappers.RescaleAction.wrapper_spec(min_action=FIVE[0], max_action=FIVE[1]),),
    },
}


@pytest.mark.parametrize("how", WRAPPED)
def test_an_author_s_wrapper_changes_actions_and_gymnasium_s_time_limit_ends_nothing(how):
    gymnasium.register(id="Rescaled-v0", max_episode_steps=3, **WRAPPED[how])
    try:
        env = envs.make("gym/Rescaled-v0", size=16)
    finally:
        del gymnasium.registry["Rescaled-v0"]
    assert env.task.action_high == (5.0,) and env.task.time_limit == 3
    env.reset(seed=0, options={"state": [-0.35], "goal_state": [0.0]})
    assert [env.step(5 * RIGHT)[2:4] for _ in range(8)] == [(False, False)] * 8
    assert env.get_state() == pytest.approx(0.45)
    assert any(env.step(5 * RIGHT)[2:4]) and env.get_state() == pytest.approx(0.45)
    env.close()


def test_a_goal_is_a_state_before_an_end():
    env = envs.make("gym/Restless-reset-terminated-v0", size=16)
    for seed in range(20):
        env.reset(seed=seed)
        assert abs(env.get_goal_state()[0]) <= 0.5
    env.close()
    assert "Restless-reset-terminated-v0" in gymnasium.registry
