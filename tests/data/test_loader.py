"""Batches: functions of (seed, step), whatever reads them, and every window once an epoch."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch

from data.loader import Loader
from data.store import Reader
from data.windows import Windows


@pytest.fixture
def windows(make_file):
    """8 episodes x 7 windows."""
    return Windows(Reader(make_file()), "train", 3)


def test_an_epoch_holds_every_window_once_and_the_next_in_another_order(windows):
    loader = Loader(windows, 10, seed=3)
    drawn = np.concatenate([loader.draw_indices(step) for step in range(28)])
    epochs = drawn.reshape(5, len(windows))
    for epoch in epochs:
        assert sorted(epoch) == list(range(len(windows)))
    assert all((a != b).any() for a, b in itertools.combinations(epochs, 2))


def test_a_batch_larger_than_the_data_is_filled_from_several_epochs(windows):
    counts = np.bincount(Loader(windows, 3 * len(windows), seed=0).draw_indices(2))
    assert (counts == 3).all()


def test_a_batch_depends_on_seed_and_step_alone(windows):
    loader, again = Loader(windows, 8, seed=1), Loader(windows, 8, seed=1)
    late = again.draw_indices(40)
    for step in range(41):
        loader.draw_indices(step)
    assert (loader.draw_indices(40) == late).all()
    assert (loader.draw_indices(40) != loader.draw_indices(41)).any()
    assert (loader.draw_indices(40) != Loader(windows, 8, seed=2).draw_indices(40)).any()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_reading_ahead_and_resuming_give_the_same_batches(windows, workers):
    loader = Loader(windows, 8, seed=1, workers=workers)
    got = list(loader.iterate(4, 11))
    assert len(got) == 7
    for step, batch in enumerate(got, 4):
        want = loader.read_batch(step)
        assert batch.keys() == want.keys()
        assert all(torch.equal(batch[name], want[name]) for name in want)


def test_iterate_goes_on_until_it_is_left(windows):
    batches = Loader(windows, 8, seed=1, workers=2).iterate()
    assert len(list(itertools.islice(batches, 30))) == 30
    batches.close()


def test_batches_are_tensors_of_the_documented_kinds(windows):
    windows.extra["tokens"] = np.zeros((windows.reader.total_frames, 4), np.float16)
    batch = Loader(windows, 6, seed=0).read_batch(0)
    assert {name: (tuple(t.shape), t.dtype) for name, t in batch.items()} == {
        "pixels": ((6, 3, 16, 16, 3), torch.uint8),
        "action": ((6, 2, 2), torch.float32),
        "tokens": ((6, 3, 4), torch.float16),
        "episode": ((6,), torch.int64),
        "start": ((6,), torch.int64),
        "draw": ((6,), torch.int64),
    }


def test_a_failure_while_reading_ahead_reaches_the_caller(windows, monkeypatch):
    def fail(_):
        raise OSError("the disk went away")

    monkeypatch.setattr(windows, "gather", fail)
    with pytest.raises(OSError, match="went away"):
        next(Loader(windows, 4, seed=0).iterate())


def test_processes_share_a_batch_row_by_row(windows):
    whole = Loader(windows, 6, seed=0).read_batch(3)
    parts = [Loader(windows, 6, seed=0, shard=(rank, 3)).read_batch(3) for rank in range(3)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)


def test_senseless_numbers_are_refused(windows):
    with pytest.raises(ValueError, match="batch_size=4 does not part evenly for process 0 of 3"):
        Loader(windows, 4, seed=0, shard=(0, 3))
    for settings in (
        {"batch_size": 0, "seed": 0},
        {"batch_size": 1, "seed": -1},
        {"batch_size": 1, "seed": 0, "workers": -1},
    ):
        with pytest.raises(ValueError, match="give at least"):
            Loader(windows, **settings)
    with pytest.raises(ValueError, match="step=-1"):
        Loader(windows, 2, 0).draw_indices(-1)


def test_batches_are_prepared_by_the_threads_that_read_ahead(windows):
    """Whatever the number of threads, the batch of a step is prepared with that step."""

    def prepare(batch, step):
        return batch | {"step": torch.tensor(step), "thread": torch.tensor(threading.get_ident())}

    for workers in (0, 3):
        batches = list(Loader(windows, 2, seed=0, workers=workers, prepare=prepare).iterate(4, 9))
        assert [int(batch["step"]) for batch in batches] == [4, 5, 6, 7, 8]
        on_main = {int(batch["thread"]) == threading.get_ident() for batch in batches}
        assert on_main == {workers == 0}
