"""A Reader in another picture size: its frames are preprocessed, all else is as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.pictures import Preprocessing
from data.prepared import prepare_reader
from data.store import Reader, compute_statistics
from data.windows import Windows
from tests.data.made_sets import ours


def test_frames_are_preprocessed_wherever_they_are_read_and_nothing_else_changes(tmp_path):
    reader = Reader(ours(Path(tmp_path / "trajectories.h5")))
    half = Preprocessing((16, 16))
    prepared = prepare_reader(reader, half)
    assert prepared.info.frame_hwc == (16, 16, 3) and prepared.file_checksum == reader.file_checksum
    np.testing.assert_array_equal(prepared.column("pixels", 1), half.prepare(reader.column("pixels", 1)))
    np.testing.assert_array_equal(prepared.column("state", 1), reader.column("state", 1))
    windows, plain = Windows(prepared, "train", 3), Windows(reader, "train", 3)
    found, expected = (each.gather(np.array([0])) for each in (windows, plain))
    np.testing.assert_array_equal(found["pixels"], half.prepare(expected["pixels"]))
    np.testing.assert_array_equal(found["action"], expected["action"])
    mean, _ = compute_statistics(prepared, "pixels")
    np.testing.assert_allclose(mean, compute_statistics(reader, "pixels")[0], atol=0.5)


def test_a_reader_of_the_right_size_is_used_itself(tmp_path):
    reader = Reader(ours(Path(tmp_path / "trajectories.h5")))
    assert prepare_reader(reader, Preprocessing((32, 32))) is reader
