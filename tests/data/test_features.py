"""The feature cache: found under its key alone, whole or not at all, and read as it was written."""

from __future__ import annotations

import os
from collections import namedtuple

import numpy as np
import pytest

from data import disk
from data.features import FeatureCache
from data.schema import StoreError
from data.store import Reader, Writer


@pytest.fixture
def reader(make_file):
    return Reader(make_file())


def fill(cache, shape=(2, 3), encoder="abc", layer="last"):
    want = np.random.default_rng(0).standard_normal((cache._rows, *shape), np.float32)
    with cache.write(encoder, layer, shape) as array:
        array[:] = want
    return want


def test_what_is_written_is_read_back_from_beside_the_file(reader):
    cache = FeatureCache(reader)
    assert cache.read("abc", "last") is None
    want = fill(cache)
    got = FeatureCache(Reader(reader.paths[0])).read("abc", "last")
    np.testing.assert_array_equal(got, want)
    assert isinstance(got, np.memmap)
    assert not got.flags.writeable
    assert [p.parent.name for p in cache.folder.iterdir()] == ["small.h5.features"]


def test_another_encoder_layer_or_data_state_finds_nothing(reader):
    cache = FeatureCache(reader)
    fill(cache)
    assert cache.read("abd", "last") is None
    assert cache.read("abc", "layer_3") is None
    path = reader.paths[0]
    columns = {c.name: np.array(reader.column(c.name, 0)) for c in reader.info.columns}
    columns["pixels"] += 1
    Writer(path).write(0, columns, reader.factors(0))
    assert FeatureCache(Reader(path)).read("abc", "last") is None


def test_a_failed_computation_leaves_nothing_and_spares_what_was_there(reader):
    cache = FeatureCache(reader)
    with pytest.raises(KeyboardInterrupt), cache.write("abc", "last", (2,)) as array:
        array[0] = 1
        raise KeyboardInterrupt
    assert list(cache.folder.iterdir()) == []
    want = fill(cache)
    with pytest.raises(KeyboardInterrupt), cache.write("abc", "last", (2, 3)) as array:
        array[0] = 1
        raise KeyboardInterrupt
    np.testing.assert_array_equal(cache.read("abc", "last"), want)


def test_what_a_killed_process_left_is_removed_and_a_living_one_is_spared(reader):
    cache = FeatureCache(reader)
    cache.folder.mkdir()
    name = f".{cache.build_path('abc', 'last').name}.{disk.platform.node()}-{{}}.partial"
    dead, living = cache.folder / name.format(2**22 + 12345), cache.folder / name.format(os.getppid())
    dead.write_bytes(b"x")
    living.write_bytes(b"x")
    fill(cache)
    assert not dead.exists()
    assert living.exists()


def test_a_damaged_cache_counts_as_missing(reader):
    cache = FeatureCache(reader)
    fill(cache)
    path = cache.build_path("abc", "last")
    for share in (0.5, 0.0):
        os.truncate(path, int(path.stat().st_size * share))
        assert cache.read("abc", "last") is None
    np.save(path, np.zeros((3, 2), np.float32))
    assert cache.read("abc", "last") is None


@pytest.mark.parametrize("layer", ["pooled", "tokens"])
def test_a_cache_of_another_dtype_counts_as_missing_and_is_replaced(reader, layer):
    cache = FeatureCache(reader)
    fill(cache, layer=layer)
    np.save(cache.build_path("abc", layer), np.zeros((cache._rows, 2, 3), np.uint16))  # as bfloat16 was once kept
    assert cache.read("abc", layer) is None
    want = fill(cache, layer=layer)
    np.testing.assert_allclose(cache.read("abc", layer), want, rtol=1e-3, atol=1e-6)
    assert len(list(cache.folder.iterdir())) == 1


def test_a_full_disk_is_noticed_first(reader, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 2**20))
    with pytest.raises(StoreError, match="has 1 MiB free"):
        fill(FeatureCache(reader))


def test_a_name_that_would_leave_the_folder_is_refused(reader):
    with pytest.raises(ValueError, match="layer='../x'"):
        FeatureCache(reader).build_path("abc", "../x")
