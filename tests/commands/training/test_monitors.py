"""Which frames of val stage 1 is judged on."""

from __future__ import annotations

import numpy as np
import pytest

from commands.training.monitors import LEAST_FRAMES, NUM_FRAMES, select_frames


class Reader:
    """Episodes of 41 frames, all of them val."""

    def __init__(self, count: int) -> None:
        self.count = count

    def episodes(self, split: str) -> np.ndarray:
        assert split == "val"
        return np.arange(self.count)

    def num_frames(self, episode: int) -> int:
        return 41


@pytest.mark.parametrize("count", [1, 100, 192, 193, 5000])
def test_frames_are_spread_over_episodes_with_several_of_each(count):
    rows = select_frames(Reader(count))
    assert 0.5 * NUM_FRAMES <= sum(len(chosen) for _, chosen in rows) <= NUM_FRAMES or count == 1
    episodes = [episode for episode, _ in rows]
    assert len(set(episodes)) == len(episodes) and episodes[0] == 0 and episodes[-1] == count - 1
    for _, chosen in rows:
        assert len(chosen) >= LEAST_FRAMES and chosen[0] == 0 and chosen[-1] == 40 and (np.diff(chosen) > 0).all()
