"""Windows: every valid stretch once, frames and stacked actions as written, nothing past an episode's end."""

from __future__ import annotations

import numpy as np
import pytest

from data.store import Reader, Writer
from data.windows import Windows


def by_hand(reader, split, frames, skip):
    """All windows by the plainest loops: (episode, start, pixels, stacked actions)."""
    found = []
    for episode in map(int, reader.episodes(split)):
        pixels, actions = reader.column("pixels", episode), reader.column("action", episode)
        for start in range(len(pixels) - (frames - 1) * skip):
            times = [start + step * skip for step in range(frames)]
            blocks = [np.concatenate(list(actions[t : t + skip])) for t in times[:-1]]
            found.append((episode, start, pixels[times], blocks))
    return found


@pytest.mark.parametrize(("frames", "skip"), [(1, 1), (2, 1), (5, 1), (3, 2), (3, 4), (9, 1)])
@pytest.mark.parametrize("split", ["train", None])
def test_windows_are_those_of_the_plainest_loops(make_file, frames, skip, split):
    reader = Reader(make_file())
    windows = Windows(reader, split, frames, skip)
    want = by_hand(reader, split, frames, skip)
    assert len(windows) == len(want)
    batch = windows.gather(np.arange(len(windows)))
    assert batch["pixels"].shape == (len(want), frames, 16, 16, 3)
    assert batch["action"].shape == (len(want), frames - 1, 2 * skip)
    assert (batch["pixels"].dtype, batch["action"].dtype) == (np.uint8, np.float32)
    assert np.isfinite(batch["action"]).all()
    for row, (episode, start, pixels, blocks) in enumerate(want):
        assert (batch["episode"][row], batch["start"][row]) == (episode, start)
        np.testing.assert_array_equal(batch["pixels"][row], pixels)
        if blocks:
            np.testing.assert_array_equal(batch["action"][row], np.stack(blocks))


def test_windows_over_several_files_are_those_of_each(make_file):
    paths = [make_file("a.h5"), make_file("b.h5", seed=1, frames=12)]
    both = Windows(Reader(paths), "train", 4, columns=("pixels", "state"))
    alone = [Windows(Reader(path), "train", 4, columns=("pixels", "state")) for path in paths]
    assert len(both) == sum(map(len, alone))
    indices = np.random.default_rng(0).permutation(len(both))
    batch = both.gather(indices)
    for row, index in enumerate(indices):
        of, local = (0, index) if index < len(alone[0]) else (1, index - len(alone[0]))
        want = alone[of].gather(np.array([local]))
        np.testing.assert_array_equal(batch["pixels"][row], want["pixels"][0])
        np.testing.assert_array_equal(batch["state"][row], want["state"][0])


def test_no_split_shares_a_window_with_another(make_file):
    reader = Reader(make_file())
    rows = [
        set(Windows(reader, split, 1).find_rows(np.arange(5)).ravel().tolist()) for split in ("train", "val", "eval")
    ]
    assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])


def test_extra_arrays_are_read_like_columns(make_file):
    reader = Reader(make_file())
    features = np.arange(reader.total_frames * 2, dtype=np.float32).reshape(-1, 2)
    windows = Windows(reader, "val", 3, 2, columns=("action", "time_s"), extra={"tokens": features})
    batch = windows.gather(np.array([1, 0]))
    np.testing.assert_array_equal(batch["tokens"], features[windows.find_rows(np.array([1, 0]))])
    np.testing.assert_allclose(batch["time_s"], (batch["start"][:, None] + [0, 2, 4]) * 0.1)
    for name, wrong in (("tokens", features[1:]), ("action", features)):
        with pytest.raises(ValueError, match=f"extra '{name}' has"):
            Windows(reader, "val", 3, extra={name: wrong})


def test_extra_arrays_may_be_read_for_a_window_s_first_frames_alone(make_file):
    reader = Reader(make_file())
    rows = np.arange(reader.total_frames)[:, None]
    windows = Windows(reader, "train", 4, 2, extra={"whole": rows, "early": rows}, first_frames={"early": 2})
    batch = windows.gather(np.array([0, 3]))
    assert batch["whole"].shape == (2, 4, 1)
    np.testing.assert_array_equal(batch["early"], batch["whole"][:, :2])


def test_few_windows_an_episode_are_said(make_file):
    reader = Reader(make_file())
    longest = int(reader.lengths(reader.episodes("train")).max())
    assert ": 1 an episode; longer episodes, or a shorter horizon" in Windows(reader, "train", longest).describe()
    many = Windows(reader, "train", 2)
    assert many.describe() == f"{len(many)} windows of 2 frames, 1 apart: {longest - 1} an episode"


def test_unfinished_and_short_episodes_give_no_windows(make_file):
    path = make_file(episodes=10, frames=9)
    train = Reader(path).episodes("train")
    writer = Writer(path)
    reader = Reader(path)
    columns = {column.name: reader.column(column.name, int(train[0]))[:4] for column in reader.info.columns}
    columns["action"] = columns["action"][:3]
    writer.write(int(train[0]), columns, reader.factors(int(train[0])))
    windows = Windows(Reader(path), "train", 5)
    assert train[0] not in windows.gather(np.arange(len(windows)))["episode"]
    assert len(windows) == (len(train) - 1) * 5


def test_what_cannot_be_is_said_with_the_numbers(make_file):
    reader = Reader(make_file(episodes=2))
    with pytest.raises(ValueError, match=r"frames=6 with frame_skip=2 needs episodes of 11 frames.*have 9 to 9"):
        Windows(reader, "train", 6, 2)
    with pytest.raises(ValueError, match="split eval has no complete episode"):
        Windows(reader, "eval", 2)
    with pytest.raises(ValueError, match="'pixel' is not in the data file: choose from pixels"):
        Windows(reader, "train", 2, columns=("pixel",))
    with pytest.raises(ValueError, match="frames=0"):
        Windows(reader, "train", 0)
    windows = Windows(reader, "train", 2)
    with pytest.raises(IndexError, match=f"there are {len(windows)}"):
        windows.gather(np.array([len(windows)]))
