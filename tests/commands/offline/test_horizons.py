"""Open-loop error by horizon, on recorded scenes and on redrawn ones."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import envs
from commands import probe
from commands.config.compose import load_config
from commands.config.keys import CollectKeys, DataKeys, EnvKeys
from commands.evaluation.scenes import SCENE_STREAM, check_episode_scenes, redraw_episodes
from commands.offline.horizons import format_open_loop, measure_open_loop, summarise_errors
from commands.offline.transitions import LandscapeConfig
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.training.model_folders import MODEL, save_encoder
from commands.transfer.collection import collect_into
from data.pictures import Preprocessing
from data.policies import PolicyConfig
from data.store import Reader, Writer
from envs.distraction import Distraction
from envs.presets import DISTRACTING, PRESETS, choose_env_kwargs
from tests.world_model.small import dynamics, encoder

EPISODES = [0, 1]


def choose(variation, strength=1.0, seed=0):
    return SimpleNamespace(variation=variation, strength=strength, seed=seed, distraction=Distraction(dynamic=True))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Two episodes of varied scenes."""
    keys = CollectKeys(
        env=EnvKeys(name="reacher", policy="uniform", variation="seen"),
        data=DataKeys(episodes=len(EPISODES), frames=11, policy=PolicyConfig(name="uniform")),
        workers=1,
    )
    path = tmp_path_factory.mktemp("varied") / "trajectories.h5"
    collect_into(path, keys, Console())
    return Reader(path)


@pytest.fixture(scope="module")
def plain(reader, tmp_path_factory):
    """The same motion in the plain scene: all factors at their defaults."""
    path = shutil.copy(reader.paths[0], tmp_path_factory.mktemp("plain") / "trajectories.h5")
    writer = Writer(path)
    with_factors = envs.make("reacher", variation="seen")
    without = envs.make("reacher")
    for episode in EPISODES:
        columns = {column.name: reader.column(column.name, episode).copy() for column in reader.info.columns}
        states = [with_factors.redraw_factors(s, np.random.default_rng(0), "none") for s in columns["state"]]
        columns["pixels"] = np.stack([without.render_state(s[: without.state_size]) for s in states])
        writer.write(episode, columns | {"state": np.stack(states)}, reader.factors(episode))
    with_factors.close()
    without.close()
    return Reader(path)


def list_rows(reader):
    return np.concatenate([reader.first_row(e) + np.arange(reader.num_frames(e)) for e in EPISODES])


@pytest.mark.parametrize("variation", sorted({*PRESETS} - {*DISTRACTING}))
def test_redrawn_frames_show_the_recorded_motion_in_one_other_scene_an_episode(reader, variation):
    frames = redraw_episodes(reader, EPISODES, choose(variation))
    env = envs.make("reacher", **choose_env_kwargs(variation, reader.info.env_kwargs))
    recorded = envs.make("reacher", **reader.info.env_kwargs)
    size = recorded.physics.state_size
    for number, episode in enumerate(EPISODES):
        states = reader.column("state", episode)
        shown = frames.gather(reader.first_row(episode) + np.arange(len(states)))
        assert (shown != reader.column("pixels", episode)).any(axis=(1, 2, 3)).all()
        env.reset(seed=0)
        start = np.concatenate([states[0, :size], env.get_state()[size:]])
        drawn = env.redraw_factors(start, np.random.default_rng([0, SCENE_STREAM, number]), variation)
        for state, frame in zip(states, shown, strict=True):
            state = np.concatenate([state[:size], drawn[size:]])
            np.testing.assert_array_equal(
                env.get_truth(state), recorded.get_truth(np.r_[state[:size], states[0, size:]])
            )
            np.testing.assert_array_equal(frame, env.render_state(state))
    env.close()
    recorded.close()


def test_redrawn_frames_show_distractors_that_change_within_an_episode(reader):
    frames = redraw_episodes(reader, EPISODES, choose("distracting"))
    for episode in EPISODES:
        states = reader.column("state", episode)
        shown = frames.gather(reader.first_row(episode) + np.arange(len(states)))
        assert (shown != reader.column("pixels", episode)).any(axis=(1, 2, 3)).all()
        assert (np.diff(shown.astype(int), axis=0) != 0).mean() > 0.5


def test_scenes_depend_on_seed_and_number_alone(reader):
    rows = list_rows(reader)[:11]
    first, again, few, other = (
        redraw_episodes(reader, episodes, choose("unseen", seed=seed)).gather(rows)
        for episodes, seed in ((EPISODES, 0), (EPISODES, 0), (EPISODES[:1], 0), (EPISODES, 1))
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, few)
    assert (first != other).any()


def test_the_preset_none_changes_nothing_where_nothing_varies(plain, reader):
    model, keys = dynamics(), choose("none")
    for file in (plain, reader):
        frames = redraw_episodes(file, EPISODES, keys)
        same = np.array_equal(frames.gather(list_rows(file)), plain.gather("pixels", list_rows(file)))
        assert same
    recorded = measure_open_loop(model, plain, EPISODES, 0)
    assert measure_open_loop(model, plain, EPISODES, 0, frames.gather) == recorded
    assert measure_open_loop(model, reader, EPISODES, 0) != recorded


def test_dynamics_that_copy_have_the_error_of_copying(reader, monkeypatch):
    model = dynamics()

    def copy(past, last_BNF, state_BQ, actions_BSKA, noise, emit):
        return last_BNF[:, None, None].expand(-1, *actions_BSKA.shape[1:3], -1, -1)

    trained = measure_open_loop(model, reader, EPISODES, 0)
    assert all(abs(ratio - 1) > 0.01 for ratio in trained["over_copy"])
    monkeypatch.setattr(model, "rollout", copy)
    errors = measure_open_loop(model, reader, EPISODES, 0)
    assert errors["over_copy"] == [1.0] * model.config.horizon and errors["copy"] == trained["copy"]
    assert errors["over_copy_ci95"] == [[1.0, 1.0]] * model.config.horizon
    assert errors["episodes"] == len(EPISODES) and min(errors["copy"]) > 0


def test_errors_are_means_over_transitions_and_intervals_come_from_episodes():
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(40), 5)
    level = np.exp(rng.normal(size=40))[episode, None]  # shared by the transitions of an episode
    predicted, copy = level * np.array([[0.5, 2.0]]), np.ones((200, 2))
    errors = summarise_errors(predicted, copy, episode, 0)
    np.testing.assert_allclose(errors["over_copy"], predicted.mean(0))
    np.testing.assert_allclose(errors["predicted"], errors["over_copy"])
    alone = summarise_errors(predicted, copy, np.arange(200), 0)
    for (low, high), (inner_low, inner_high), ratio in zip(
        errors["over_copy_ci95"], alone["over_copy_ci95"], errors["over_copy"], strict=True
    ):
        assert low < inner_low < ratio < inner_high < high
        assert (high - low) / (inner_high - inner_low) == pytest.approx(np.sqrt(5), rel=0.15)
    deviation = level[::5].std() / np.sqrt(40)
    low, high = errors["predicted_ci95"][1]
    assert (high - low) == pytest.approx(2 * 1.96 * 2 * deviation, rel=0.15)


def test_one_episode_gives_no_interval():
    errors = summarise_errors(np.ones((3, 2)), np.full((3, 2), 2.0), np.zeros(3, int), 0)
    assert errors["over_copy"] == [0.5, 0.5] and errors["over_copy_ci95"] is None
    assert format_open_loop({"recorded": errors}).splitlines()[-1].split() == ["2", "1.000", "2.000", "0.500"]


def test_probe_reports_recorded_and_redrawn_scenes(reader, tmp_path):
    config = probe.Config(
        model="m", data="d", variation="moving", strength=0.5, landscape=LandscapeConfig(cells=3), seed=4
    )
    only_eval = SimpleNamespace(episodes=lambda split: EPISODES)
    for name in ("info", "gather", "first_row", "num_frames", "column"):
        setattr(only_eval, name, getattr(reader, name))
    model = dynamics()
    results = probe.probe_dynamics(config, model, only_eval, Preprocessing((64, 64)), tmp_path)
    redrawn, frames = results["open_loop_redrawn"], redraw_episodes(reader, EPISODES, choose("moving", 0.5, 4))
    expected = measure_open_loop(model, reader, EPISODES, 4, frames.gather)
    assert redrawn == {"variation": "moving", "strength": 0.5, **expected}
    assert redrawn["copy"] != results["open_loop"]["copy"]
    assert (tmp_path / "open_loop.png").exists()


@pytest.mark.parametrize(
    ("env_id", "kwargs", "said"),
    [
        ("reacher", {}, "variation=unseen: the data of reacher were collected without factors of appearance"),
        ("reacher", {"factors": ["mass"]}, "collect with env.variation=seen"),
        ("gym/Pendulum-v1", {}, "variation=unseen: no factors of variation are known for gym/Pendulum-v1"),
        ("droid", {}, "no factors of variation are known for droid"),
    ],
)
def test_a_file_whose_scenes_cannot_be_drawn_is_refused(env_id, kwargs, said):
    with pytest.raises(UsageError, match=said) as caught:
        check_episode_scenes(choose("unseen"), env_id, kwargs)
    assert "protocol" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["variation=unsen"], "variation=unsen is no choice; did you mean unseen"),
        (["strength=0.5"], "strength=0.5 scales nothing in variation=null"),
        (["variation=unseen", "strength=3"], "strength=3 is out of range"),
    ],
)
def test_mistyped_settings_are_refused(words, said):
    with pytest.raises(UsageError, match=said):
        load_config("probe", ["model=m", "data=d", *words])


def test_an_encoder_alone_has_no_errors_to_redraw(tmp_path):
    save_encoder(tmp_path / MODEL, encoder(), {})
    with pytest.raises(UsageError, match=r"variation=seen .* is an encoder alone: give a run folder of jepa posttrain"):
        probe.check(probe.Config(model=str(tmp_path), data="d", variation="seen"))
