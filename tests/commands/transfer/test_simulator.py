"""`jepa import environment=...`: recorded positions and velocities become states of an environment here."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torchvision  # noqa: F401  (it loads Triton's LLVM, which crashes when Mesa's was loaded before it)

import envs
from commands.cli import main as cli
from data.store import Reader

EPISODES, FRAMES, SIZE = 4, 5, 32


@pytest.fixture
def played(tmp_path, monkeypatch):
    """States [E, T, S] and pictures of reacher, of which ogbench's npz holds positions and velocities alone."""
    monkeypatch.chdir(tmp_path)
    env, rng = envs.make("reacher", size=SIZE), np.random.default_rng(0)
    states, actions = [], rng.uniform(-1, 1, (EPISODES, FRAMES, 2))
    for number in range(EPISODES):
        env.reset(seed=number)
        states.append([env.get_state()])
        for action in actions[number, :-1]:
            env.advance(action)
            states[-1].append(env.get_state())
    all_states = np.array(states)
    frames = np.array([[env.render_state(state) for state in episode] for episode in all_states])
    columns = {"qpos": all_states[..., env.qpos], "qvel": all_states[..., env.qvel], "actions": actions}
    return env, all_states, frames, {name: rows.reshape(-1, rows.shape[-1]) for name, rows in columns.items()}


def saved(observations, columns, path="set-v0.npz"):
    terminals = np.tile(np.arange(FRAMES) == FRAMES - 1, EPISODES)
    np.savez(path, observations=observations.reshape(-1, *observations.shape[2:]), terminals=terminals, **columns)


def take(*words: str) -> int:
    return cli.main(["import", "format=ogbench", "path=set-v0.npz", "name=x", *words])


def test_states_truth_and_pictures_are_those_of_the_environment(played, capsys):
    env, states, frames, columns = played
    saved(np.zeros((EPISODES, FRAMES, 3), np.float32), columns)
    assert take("environment=reacher", f"size={SIZE}") == 0, capsys.readouterr().err
    assert "pixels <- drawn from the states, 32x32" in capsys.readouterr().out
    reader = Reader("runs/import/x/trajectories.h5")
    info = reader.info
    assert (info.env_id, info.env_kwargs, info.step_s) == ("reacher", {"size": SIZE}, 0.1)
    assert info.truth_names == env.task.truth_names and info.action_high == env.task.action_high
    for number in range(EPISODES):
        state = reader.column("state", number)
        assert state.shape == states[number].shape
        np.testing.assert_array_equal(state[:, env.qpos], states[number][:, env.qpos])
        np.testing.assert_array_equal(state[:, env.qvel], states[number][:, env.qvel])
        np.testing.assert_array_equal(reader.column("truth", number), env.get_truth(states[number]))
        np.testing.assert_array_equal(reader.column("pixels", number), frames[number])


@pytest.mark.parametrize(("dimmed", "says"), [(1.0, r" 0\.0 levels .* the same camera"), (0.3, "another camera")])
def test_recorded_pictures_are_kept_and_compared_with_what_is_drawn(played, dimmed, says, capsys):
    _, _, frames, columns = played
    saved((frames * dimmed).astype(np.uint8), columns)
    assert take("environment=reacher") == 0, capsys.readouterr().err
    assert re.search(says, capsys.readouterr().out)
    kept = Reader("runs/import/x/trajectories.h5").column("pixels", 1)
    np.testing.assert_array_equal(kept, (frames[1] * dimmed).astype(np.uint8))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["environment=reachr"], "unknown environment 'reachr'; did you mean reacher"),
        (["environment=gym/NoSuch-v0"], "gym/NoSuch-v0 cannot be made"),
        (
            ["environment=point_maze", "environment_kwargs={layout: q}"],
            "layout='q' is unknown; choices: u, medium, random",
        ),
        (["environment=reacher", "environment_kwargs={wide: 1}"], "environment_kwargs=.*'wide'"),
        (["environment=dmc/ball_in_cup"], "state <- 4 numbers, and a state of dmc/ball_in_cup has .* velocities 8"),
        (["environment=reacher", "columns.state=[qpos]"], "state <- 2 numbers"),
        (["environment=reacher", "fps=20"], "fps=20: set-v0.npz has 10 frames a second"),
        (["environment=reacher", "format=droid"], "there is no simulator of format=droid"),
        ([], "holds no pictures .* give environment=, which draws them"),
    ],
)
def test_what_does_not_match_is_one_sentence(played, words, says, capsys):
    *_, columns = played
    saved(np.zeros((EPISODES, FRAMES, 3), np.float32), columns)
    assert take(*words) in (1, 2)
    err = capsys.readouterr().err
    assert re.search(says, err) and "Traceback" not in err, err


def test_actions_beyond_the_bounds_are_clipped_as_the_environment_executes_them_and_that_is_said(played, capsys):
    *_, columns = played
    actions = columns["actions"].astype(np.float32)
    actions[0, 0], actions[1, 1] = 5.0, -1.5
    saved(np.zeros((EPISODES, FRAMES, 3), np.float32), {**columns, "actions": actions})
    assert take("environment=reacher", f"size={SIZE}") == 0, capsys.readouterr().err
    assert "6.25% of the numbers in actions are beyond the bounds of reacher and are clipped" in capsys.readouterr().out
    reader = Reader("runs/import/x/trajectories.h5")
    wanted = np.clip(actions, -1, 1).reshape(EPISODES, FRAMES, 2)[:, :-1]
    for number in range(EPISODES):
        np.testing.assert_array_equal(reader.column("action", number), wanted[number])
