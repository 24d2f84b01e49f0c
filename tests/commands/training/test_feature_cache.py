"""Cached features of stage 2: batches hold what the encoder computed, to the digits that training needs."""

from __future__ import annotations

import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from commands.shared.console import Console
from commands.training.feature_cache import cache_features, run_behind
from data.loader import Loader
from data.mapped import create_file
from data.schema import StoreInfo, plan_episodes
from data.store import Reader, Writer
from data.windows import Windows

EPISODES, FRAMES = 10, 8
INFO = StoreInfo("none", (-1.0,), (1.0,), ("push",), 0.1, (1, 1, 3), ("x",), ("m",), 1)


@pytest.fixture
def reader(tmp_path):
    """Frames that hold nothing but their number."""
    path = tmp_path / "numbered.h5"
    create_file(path, INFO, plan_episodes(EPISODES, FRAMES, seed=0))
    for episode in range(EPISODES):
        columns = {column.name: np.zeros((FRAMES, *column.shape), column.dtype) for column in INFO.columns}
        columns["pixels"] += np.arange(episode * FRAMES, (episode + 1) * FRAMES, dtype=np.uint8)[:, None, None, None]
        Writer(path).write(episode, columns | {"action": columns["action"][1:]})
    return Reader(path)


def look_up(features: dict[str, torch.Tensor], spaces: dict[str, str]) -> SimpleNamespace:
    """Dynamics whose encoder finds the features of a frame under its number."""

    def read(frames):
        return {name: values[frames[..., 0, 0, 0].long()] for name, values in features.items()}

    return SimpleNamespace(
        encoder=torch.nn.Linear(1, 1),
        action_mid=torch.zeros(1),
        features=SimpleNamespace(spaces=spaces),
        read=read,
    )


def cache_and_read(features, spaces, reader) -> dict[str, torch.Tensor]:
    """The same features as a batch of all frames holds them, sorted by frame."""
    cached = cache_features(look_up(features, spaces), reader, Console(io.StringIO()))
    windows = Windows(reader, None, 1, columns=("pixels",), extra=cached)
    batch = Loader(windows, EPISODES * FRAMES, seed=0).read_batch(0)
    order = batch["pixels"].flatten(1)[:, 0].argsort()
    return {name: batch[name][order, 0] for name in features}


@pytest.mark.parametrize(("name", "space"), [("features", "pooled"), ("scene", "points")])
def test_what_moves_within_an_episode_is_kept_where_episodes_lie_far_apart(reader, name, space):
    random = torch.Generator().manual_seed(0)
    moves = torch.randn(EPISODES, FRAMES, 1, 12, generator=random, dtype=torch.float64)
    sides = 36.0 * (-1) ** torch.arange(EPISODES)
    want = (sides[:, None, None, None] + moves).flatten(0, 1)
    got = cache_and_read({name: want.float()}, {name: space}, reader)[name]
    assert (got - want).abs().max() < 1e-5
    assert (want.bfloat16() - want).abs().max() > 0.1  # what 16 bits would lose


def test_tokens_take_half_the_space_and_keep_three_digits(reader):
    tokens = torch.randn(EPISODES * FRAMES, 16, 24, generator=torch.Generator().manual_seed(0))
    want = {"features": torch.nn.functional.layer_norm(tokens, (24,)), "scene": tokens[:, :1] + 36}
    got = cache_and_read(want, {"features": "tokens", "scene": "points"}, reader)
    assert (got["features"].dtype, got["scene"].dtype) == (torch.float16, torch.float32)
    assert (got["features"].float() - want["features"]).abs().max() < 1e-3
    assert torch.equal(got["scene"], want["scene"])


def test_features_are_computed_once(reader):
    dynamics = look_up({"features": torch.zeros(EPISODES * FRAMES, 1, 2)}, {"features": "pooled"})
    first = cache_features(dynamics, reader, Console(io.StringIO()))["features"]
    dynamics.read = None
    np.testing.assert_array_equal(cache_features(dynamics, reader, Console(io.StringIO()))["features"], first)


def test_what_runs_behind_keeps_its_order_and_its_errors_are_raised():
    done = []
    with run_behind() as run:
        for number in range(20):
            run(partial(done.append, number))
    assert done == list(range(20))
    with pytest.raises(OSError, match="disk full"), run_behind() as run:
        run(partial(fail, "disk full"))


def fail(why: str) -> None:
    raise OSError(why)
