"""`jepa collect` on tasks by a name with a slash, and with factors of variation: as a user types it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torchvision  # noqa: F401  (it loads Triton's LLVM, which crashes when Mesa's was loaded before it)

import envs
from commands.cli import main as cli
from data.store import Reader

TINY = ["data.episodes=2", "data.frames=4", "env.kwargs.size=32", "workers=1", "name=it"]
GYM = pytest.param(
    ["env=gym"], marks=pytest.mark.skipif(importlib.util.find_spec("pygame") is None, reason="no pygame")
)


@pytest.mark.parametrize(
    "words",
    [
        ["env=dmc/cartpole"],
        ["env=gym", "env.id=InvertedPendulum-v5"],
        GYM,
        ["env=two_rooms", "env.factors=[all]"],
        ["env=point_maze", "env.variation=moving"],
        ["env=dmc/finger", "env.variation=unseen", "env.factors=[colour,mass]"],
    ],
)
def test_a_file_is_collected_and_its_states_can_be_set(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["collect", *words, *TINY]) == 0, capsys.readouterr().err
    reader = Reader(tmp_path / "runs/collect/it/trajectories.h5")
    info = reader.info
    task = envs.get_task(info.env_id)
    assert info.truth_names == task.truth_names and info.action_names == task.action_names
    env = envs.make(info.env_id, **info.env_kwargs)
    for episode in (0, 1):
        state = reader.column("state", episode)[2]
        np.testing.assert_array_equal(env.render_state(state), reader.column("pixels", episode)[2])
        env.set_state(state)
        for name, value in env.get_factors().items():
            assert reader.factors(episode)[name] == value
    env.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env=gym", "env.id=CartPole-v1"], "gym/CartPole-v1 has actions Discrete(2)"),
        (["env=gym", "env.id=NoSuch-v0"], "gym/NoSuch-v0 cannot be made"),
        (["env=point_maze", "env.kwargs.layout=round"], "layout='round' is unknown; choices: u, medium, random"),
        (["env=reacher", "env.kwargs={side: 32}"], "unexpected keyword argument 'side'"),
        (["env=reacher", "env.factors=[colours]"], "'colours' is no factor of this task"),
        (["env=reacher", "env.factors=[object]", "env.variation=unseen"], "'object' is no factor of this task"),
        (["env=reacher", "env.variation=Seen"], "env.variation=Seen is no choice; did you mean seen"),
        (["env=reacher", "env.factors=[motion]"], "it needs variation=moving (env.variation)"),
        (["env=gym", "env.id=InvertedPendulum-v5", "env.variation=moving"], "has no factors of variation"),
    ],
)
def test_what_is_no_task_is_refused_before_anything_is_written(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["collect", *words]) == 2
    message = capsys.readouterr().err
    assert said in message and message.strip().count("\n") == 0 and not list(tmp_path.iterdir())
