"""Packing changes where the bytes lie, and nothing that is read."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from data.packing import pack_file
from data.schema import StoreError
from data.store import Reader, Writer
from data.windows import Windows


@pytest.fixture
def path(make_file):
    return make_file(episodes=5)


def test_a_packed_file_reads_as_before(path):
    before = Reader(path)
    wanted = {
        (name, episode): before.column(name, episode).copy()
        for name in ("pixels", "action", "state", "truth")
        for episode in range(5)
    }
    windows = Windows(before, None, frames=3, frame_skip=2)
    batch = windows.gather(np.array([4, 0, 4, 7]))
    pack_file(path)
    after = Reader(path)
    assert after.packed and not before.packed
    assert after.file_checksum == before.file_checksum
    assert [after.split(e) for e in range(5)] == [before.split(e) for e in range(5)]
    for (name, episode), rows in wanted.items():
        np.testing.assert_array_equal(after.column(name, episode), rows)
    again = Windows(after, None, frames=3, frame_skip=2).gather(np.array([4, 0, 4, 7]))
    for name, array in batch.items():
        np.testing.assert_array_equal(again[name], array)
    assert after.factors(2) == before.factors(2)


def test_a_simple_picture_takes_a_fraction_of_the_disk(path):
    before = Reader(path).total_frames
    pack_file(path)
    with h5py.File(path) as file:
        pixels = file["pixels"]
        assert pixels.id.get_storage_size() < 0.5 * pixels.size, "the fake environment draws flat shades"
        assert len(pixels) == before


def test_packing_twice_is_packing_once(path):
    pack_file(path)
    bytes_once = path.read_bytes()
    pack_file(path)
    assert path.read_bytes() == bytes_once


def test_a_packed_file_is_not_written_to(path):
    pack_file(path)
    with pytest.raises(StoreError, match="is packed and no longer written to"):
        Writer(path)


def test_damage_in_a_chunk_is_named(path):
    pack_file(path)
    with h5py.File(path) as file:
        offset = file["pixels"].id.get_chunk_info_by_coord((int(file["episode/start"][3]), 0, 0, 0)).byte_offset
    with path.open("r+b") as raw:
        raw.seek(offset + 4)
        raw.write(b"\xff\xff\xff\xff")
    with pytest.raises(StoreError, match="checksum fails for episode 3 of"):
        Reader(path)
    assert Reader(path, on_damaged="skip").episodes().tolist() == [0, 1, 2, 4]


def test_a_damaged_file_is_not_packed(path):
    with h5py.File(path, "r+") as file:
        file["truth"][0] += 1
    before = path.read_bytes()
    with pytest.raises(StoreError, match="checksum fails"):
        pack_file(path)
    assert path.read_bytes() == before


def test_a_file_of_the_first_checksum_keeps_it_when_it_is_packed(path):
    with h5py.File(path, "r+") as file:
        file.attrs["checksum"] = 1
    file = Writer(path)._file
    for index in range(5):
        file.episode["crc32"][index] = file.compute_checksum(index, int(file.episode["length"][index]))
    before = Reader(path).file_checksum
    pack_file(path)
    assert Reader(path).file_checksum == before
