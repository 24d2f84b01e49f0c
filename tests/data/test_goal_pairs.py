"""Pairs of a frame and a later one of its episode: each once, with what was seen before and done after."""

from __future__ import annotations

import numpy as np
import pytest

from data.goal_pairs import GoalPairs, GoalTransitions
from data.store import Reader

BLOCKS, HISTORY = 3, 2


def by_hand(reader, split, skip, longest):
    """All pairs by the plainest loops."""
    found = []
    for episode in map(int, reader.episodes(split)):
        pixels, actions = reader.column("pixels", episode), reader.column("action", episode)
        for start in range(len(pixels)):
            for steps in range(1, (longest or 99) + 1):
                if start + steps * skip >= len(pixels):
                    break
                before = start - skip
                frames = [max(before, start % skip), start, start + steps * skip]
                blocks, recorded = [], []
                for block in range(BLOCKS):
                    first = start + block * skip
                    recorded.append(first + skip < len(pixels))
                    blocks.append(actions[first : first + skip].ravel() if recorded[-1] else np.zeros(2 * skip))
                found.append((episode, start, steps, pixels[frames], before >= 0, blocks, recorded))
    return found


@pytest.mark.parametrize(("skip", "longest"), [(1, 0), (1, 2), (2, 0), (3, 1)])
@pytest.mark.parametrize("split", ["train", "val"])
def test_pairs_are_those_of_the_plainest_loops(make_file, skip, longest, split):
    reader = Reader(make_file(frames=8))
    numbers = np.arange(reader.total_frames, dtype=np.float32)
    settings = {"columns": ("pixels",), "extra": {"number": numbers}}
    pairs = GoalPairs(reader, split, skip, BLOCKS, HISTORY, longest, **settings)
    want = by_hand(reader, split, skip, longest)
    assert len(pairs) == len(want) and f"{len(want)} pairs" in pairs.describe()
    batch = pairs.gather(np.arange(len(pairs)))
    episodes, starts, steps = pairs.locate(np.arange(len(pairs)))
    for row, (episode, start, length, pixels, known, blocks, recorded) in enumerate(want):
        assert (episodes[row], starts[row], steps[row], batch["steps"][row]) == (episode, start, length, length)
        np.testing.assert_array_equal(batch["pixels"][row], pixels)
        assert batch["valid"][row].tolist() == [known, True] and batch["recorded"][row].tolist() == recorded
        np.testing.assert_array_equal(batch["action"][row], np.stack(blocks).astype(np.float32))
        assert batch["number"][row, 1] == reader.first_row(episode) + start


@pytest.mark.parametrize(("skip", "longest"), [(1, 0), (2, 2)])
def test_transitions_are_those_of_the_plainest_loops(make_file, skip, longest):
    reader = Reader(make_file(frames=8))
    numbers = np.arange(reader.total_frames, dtype=np.float32)
    settings = {"columns": ("pixels",), "extra": {"number": numbers}}
    transitions = GoalTransitions(reader, "train", skip, BLOCKS, HISTORY, longest, **settings)
    pairs = GoalPairs(reader, "train", skip, BLOCKS, HISTORY, longest=1, **settings)  # each with the frame after it
    assert len(transitions) == len(pairs) and f"{len(pairs)} transitions" in transitions.describe()
    every = np.arange(len(pairs))
    batch, want = transitions.gather(every), pairs.gather(every)
    for name in ("pixels", "number", "action", "recorded"):
        np.testing.assert_array_equal(batch[name], want[name])
    np.testing.assert_array_equal(batch["valid"][:, :-1], want["valid"])
    assert batch["valid"][:, -1].all() and (batch["transition"] == every).all()
    _, starts, _ = pairs.locate(every)
    left = (7 - starts) // skip
    np.testing.assert_array_equal(batch["after"], np.minimum(left, longest) if longest else left)
    ends = transitions.read_frames(every[:, None], np.stack((0 * left, left), 1))
    np.testing.assert_array_equal(ends["number"], batch["number"][:, [1, 1]] + skip * np.stack((0 * left, left), 1))
    np.testing.assert_array_equal(ends["pixels"][:, 0], batch["pixels"][:, 1])
    with pytest.raises(AssertionError, match="beyond the episode"):
        transitions.read_frames(every, left + 1)
    with pytest.raises(IndexError, match=f"there are {len(transitions)}"):
        transitions.gather(np.array([-1]))


def test_an_episode_without_a_model_step_and_numbers_beyond_the_last_are_refused(make_file):
    reader = Reader(make_file(frames=4))
    with pytest.raises(ValueError, match="split train has no episode of 5 frames, which one model step of 4 takes"):
        GoalPairs(reader, "train", 4, BLOCKS)
    pairs = GoalPairs(reader, "train", 1, BLOCKS)
    with pytest.raises(IndexError, match=f"there are {len(pairs)}"):
        pairs.gather(np.array([len(pairs)]))
    with pytest.raises(ValueError, match="give at least 1, 1, 1, 0"):
        GoalPairs(reader, "train", 1, 0)
