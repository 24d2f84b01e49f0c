"""A trajectory file of noise, whose actions name their episode."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.mapped import create_file
from data.schema import StoreInfo, plan_episodes
from data.store import Writer

EPISODES, FRAMES = 10, 9
INFO = StoreInfo("none", (-1.0, 0.0), (1.0, 4.0), ("x", "y"), 0.1, (64, 64, 3), ("x",), ("m",), 1)


def write_noise(path: Path, info: StoreInfo = INFO, changed: tuple[str, ...] = ()) -> Path:
    """Noise as frames, and actions that name their episode; the splits in `changed` hold other numbers."""
    create_file(path, info, plan_episodes(EPISODES, FRAMES, seed=0))
    writer = Writer(path)
    for episode in range(EPISODES):
        other = writer.split(episode) in changed
        rng = np.random.default_rng([episode, other])
        columns = {column.name: np.zeros((FRAMES, *column.shape), column.dtype) for column in info.columns}
        columns["pixels"] = rng.integers(0, 256, columns["pixels"].shape, dtype=np.uint8)
        columns["action"] = np.full((FRAMES - 1, info.action_size), episode / 10 + 0.05 * other, np.float32)
        writer.write(episode, columns)
    return path
