"""Minari sets that we export: their environments, made again, repeat the recorded episodes; and the package itself."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import envs
from commands.export import describe_environments, open_trajectories, write_minari_episodes
from data.collect import CollectConfig, collect
from data.store import Reader
from tests.data import made_sets

FRAMES = 6
TASKS = [("reacher", {"size": 16}), ("dmc/finger", {"size": 16, "variation": "seen"})]


def export_set(folder: Path, name: str, kwargs: dict[str, Any]) -> tuple[Reader, Path]:
    """Two collected episodes, and the Minari set that holds them."""
    file, to = folder / "trajectories.h5", folder / "sets" / "arm-v0"
    config = CollectConfig(episodes=2, frames=FRAMES, seed=3, workers=1, env_id=name, env_kwargs=kwargs)
    collect(file, partial(envs.make, name, **kwargs), config)
    to.parent.mkdir()
    write_minari_episodes(open_trajectories(str(file)), to, None, lambda: None)  # type: ignore[arg-type]
    return Reader(file), to


def assert_repeats(env: gymnasium.Env, reader: Reader, episode: int) -> None:
    """The recorded actions, from the recorded start, give the recorded pictures and end where the recording does."""
    pixels, ends = reader.column("pixels", episode), []
    observation, _ = env.reset(options={"state": reader.column("state", episode)[0]})
    np.testing.assert_array_equal(observation["pixels"], pixels[0])
    for action, wanted in zip(reader.column("action", episode), pixels[1:], strict=True):
        observation, _, terminated, truncated, _ = env.step(action)
        np.testing.assert_array_equal(observation["pixels"], wanted)
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * (FRAMES - 2) + [(False, True)]


@pytest.mark.parametrize(("name", "kwargs"), TASKS)
def test_the_written_specification_makes_the_environment_that_repeats_an_episode(tmp_path, name, kwargs):
    registered = gymnasium.spec(envs.get_gym_id(name)).to_json()
    reader, folder = export_set(tmp_path, name, kwargs)
    meta = json.loads((folder / "data/metadata.json").read_text(encoding="utf-8"))
    env = gymnasium.make(EnvSpec.from_json(meta["env_spec"]))
    assert_repeats(env, reader, 1)
    env.close()
    evaluated = EnvSpec.from_json(meta["eval_env_spec"])
    assert evaluated.max_episode_steps == envs.TASKS[name].budget and evaluated.kwargs == {"name": name, **kwargs}
    assert gymnasium.spec(envs.get_gym_id(name)).to_json() == registered, "an export changed Gymnasium's registry"


def test_a_set_of_an_environment_that_is_not_ours_has_no_specification(tmp_path):
    for env_id, has_one in (("droid", False), ("reacher", True)):
        source = open_trajectories(str(made_sets.ours(tmp_path / env_id / "t.h5", env_id=env_id)))
        assert ("env_spec" in describe_environments(source)) is has_one


def test_the_minari_package_loads_a_set_and_recovers_its_environments(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="minari is an optional extra")
    reader, folder = export_set(tmp_path, *TASKS[0])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder.parent))
    found = minari.load_dataset("arm-v0")
    assert (found.total_episodes, found.total_steps) == (2, 2 * (FRAMES - 1))
    for number, episode in enumerate(found.iterate_episodes()):
        np.testing.assert_array_equal(episode.observations["pixels"], reader.column("pixels", number))
        np.testing.assert_array_equal(episode.actions, reader.column("action", number))
        assert found.observation_space.contains({name: rows[0] for name, rows in episode.observations.items()})
    env = found.recover_environment()
    assert_repeats(env, reader, 0)
    env.close()
    judged = found.recover_environment(eval_env=True, reward="sparse")
    assert judged.spec.max_episode_steps == envs.TASKS["reacher"].budget
    judged.reset(seed=0)
    assert judged.step(np.zeros(2, np.float32))[1] == -1.0
    judged.close()
