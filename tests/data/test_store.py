"""The trajectory file: what is written is read, and what is wrong with a file is said in one sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections import namedtuple

import h5py
import numpy as np
import pytest

from data import disk
from data.mapped import create_file
from data.schema import (
    NO_SEED,
    SPLITS,
    Column,
    EpisodePlan,
    StoreError,
    StoreInfo,
    draw_seeds,
    draw_splits,
    plan_episodes,
)
from data.store import Reader, Writer

INFO = StoreInfo(
    env_id="toy",
    env_kwargs={"size": 4},
    action_low=(-1.0, -2.0),
    action_high=(1.0, 2.0),
    action_names=("a", "b"),
    step_s=0.1,
    frame_hwc=(4, 5, 3),
    truth_names=("x",),
    truth_units=("m",),
    state_size=3,
    factors=(Column("door", (), "float64"), Column("colour", (3,), "float64")),
    extra=(Column("reward", (), "float32"), Column("extrinsics", (2, 2), "float64")),
)


def episode(length, seed=0, info=INFO):
    rng = np.random.default_rng(seed)
    columns = {c.name: rng.uniform(0, 255, (length, *c.shape)).astype(c.dtype) for c in info.columns}
    columns["action"] = columns["action"][:-1]
    return columns, {c.name: rng.uniform(size=c.shape) for c in info.factors}


def plan_of(lengths, seeds=None):
    seeds = np.arange(len(lengths)) if seeds is None else np.array(seeds)
    splits = np.arange(len(lengths), dtype=np.uint8) % 3
    return EpisodePlan(np.array(lengths, np.int64), seeds.astype(np.int64), splits)


@pytest.fixture
def path(tmp_path):
    """Three episodes of 3, 5 and 4 frames; the middle one is not written."""
    path = tmp_path / "toy.h5"
    create_file(path, INFO, plan_of([3, 5, 4]))
    writer = Writer(path)
    writer.write(2, *episode(4, seed=2))
    writer.write(0, *episode(3, seed=0))
    return path


def flip_a_byte(path, dataset, index):
    with h5py.File(path) as file:
        offset = file[dataset].id.get_offset() + index
    with open(path, "r+b") as raw:
        raw.seek(offset)
        value = raw.read(1)[0]
        raw.seek(offset)
        raw.write(bytes([value ^ 1]))


def test_what_is_written_is_read_to_the_bit(path):
    reader = Reader(path)
    assert reader.episodes().tolist() == [0, 2]
    for index, length in ((0, 3), (2, 4)):
        columns, factors = episode(length, seed=index)
        assert reader.num_frames(index) == length
        for name, array in columns.items():
            got = reader.column(name, index)
            assert got.dtype == array.dtype
            np.testing.assert_array_equal(got, array)
        for name, value in factors.items():
            np.testing.assert_array_equal(reader.factors(index)[name], value)
        assert (reader.seed(index), reader.split(index)) == (index, SPLITS[index % 3])


def test_the_file_is_plain_hdf5_with_the_documented_names(path):
    with h5py.File(path) as file:
        assert file.attrs["schema"] == 1
        assert list(file.attrs["splits"]) == ["train", "val", "eval"]
        assert file["pixels"].shape == (12, 4, 5, 3)
        assert file["episode/start"][:].tolist() == [0, 3, 8]
        assert file["episode/length"][:].tolist() == [3, 0, 4]
        np.testing.assert_array_equal(file["pixels"][8:12], episode(4, seed=2)[0]["pixels"])
        np.testing.assert_array_equal(file["episode/factors/colour"][2], episode(4, seed=2)[1]["colour"])


def test_the_info_survives_json():
    assert StoreInfo.from_json(INFO.to_json()) == INFO


def test_reading_is_a_map_and_cannot_write(path):
    rows = Reader(path).column("pixels", 0)
    assert not rows.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_the_last_action_row_never_leaves_and_is_nan_in_the_file(path):
    reader = Reader(path)
    assert reader.column("action", 2).shape == (3, 2)
    with h5py.File(path) as file:
        assert np.isnan(file["action"][11]).all()


def test_an_episode_may_be_shorter_than_its_room(path):
    Writer(path).write(1, *episode(2, seed=1))
    reader = Reader(path)
    assert reader.num_frames(1) == 2
    np.testing.assert_array_equal(reader.column("truth", 1), episode(2, seed=1)[0]["truth"])


def test_a_writer_refuses_columns_that_do_not_fit(path):
    columns, factors = episode(5)
    for wrong in ("missing", "shape", "factor"):
        bad, bad_factors = dict(columns), dict(factors)
        if wrong == "missing":
            del bad["reward"]
        elif wrong == "shape":
            bad["truth"] = bad["truth"][:, :0]
        else:
            bad_factors["door"] = np.zeros(2)
        with pytest.raises(ValueError, match="declares"):
            Writer(path).write(1, bad, bad_factors)
    assert Reader(path).num_frames(1) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_writer_refuses_an_action_that_is_not_finite_by_its_name(path, value):
    columns, factors = episode(5)
    columns["action"][2, 1] = value
    with pytest.raises(ValueError, match=f"an episode's action 2 has {INFO.action_names[1]}={value}"):
        Writer(path).write(1, columns, factors)
    assert Reader(path).num_frames(1) == 0


def test_a_half_written_episode_is_not_there(path):
    columns, factors = episode(5)

    class Dies(dict):
        def __getitem__(self, name):
            if name == "truth":
                raise KeyboardInterrupt
            return dict.__getitem__(self, name)

    with pytest.raises(KeyboardInterrupt):
        Writer(path).write(1, Dies(columns), factors)
    assert Reader(path).episodes().tolist() == [0, 2]


@pytest.mark.parametrize(
    "dataset",
    [
        "pixels",
        "action",
        "state",
        "extrinsics",
        "episode/factors/door",
        "episode/seed",
        "episode/split",
        "episode/crc32",
    ],
)
def test_a_flipped_bit_anywhere_in_an_episode_is_found_and_named(path, dataset):
    with h5py.File(path) as file:
        data = file[dataset]
        row = 2 if dataset.startswith("episode/") else 9
        index = row * data.dtype.itemsize * int(np.prod(data.shape[1:]))
    flip_a_byte(path, dataset, index)
    with pytest.raises(StoreError, match=r"checksum fails for episode 2 of .*toy\.h5"):
        Reader(path)
    reader = Reader(path, on_damaged="skip")
    assert reader.damaged == (2,)
    assert reader.episodes().tolist() == [0]
    assert Reader(path, verify=False).episodes().tolist() == [0, 2]


def test_a_pickled_reader_maps_the_file_again_and_leaves_out_the_same(path):
    flip_a_byte(path, "pixels", 0)
    reader = Reader(path, on_damaged="skip")
    size = len(pickle.dumps(reader))
    again = pickle.loads(pickle.dumps(reader))
    assert size < 1000
    assert again.episodes().tolist() == [2]
    assert again.file_checksum == reader.file_checksum
    np.testing.assert_array_equal(again.column("pixels", 2), reader.column("pixels", 2))


def test_the_file_checksum_changes_with_the_episodes_and_not_with_the_path(path, tmp_path):
    first = Reader(path).file_checksum
    shutil.copy(path, tmp_path / "copy.h5")
    assert Reader(tmp_path / "copy.h5").file_checksum == first
    Writer(path).write(1, *episode(5))
    second = Reader(path).file_checksum
    Writer(path).write(1, *episode(5, seed=9))
    assert len({first, second, Reader(path).file_checksum}) == 3


def test_several_files_are_one_index_space(path, tmp_path):
    create_file(tmp_path / "toz.h5", INFO, plan_of([2, 6], seeds=[10, 11]))
    Writer(tmp_path / "toz.h5").write(1, *episode(6, seed=7))
    for paths in ([path, tmp_path / "toz.h5"], str(tmp_path / "to?.h5")):
        reader = Reader(paths)
        assert reader.episodes().tolist() == [0, 2, 4]
        assert (reader.num_planned, reader.total_frames) == (5, 20)
        np.testing.assert_array_equal(reader.column("pixels", 4), episode(6, seed=7)[0]["pixels"])
        assert reader.describe(4) == f"episode 1 of {tmp_path / 'toz.h5'}"
        rows = np.array([[0, 14], [19, 11]])
        want = np.stack([np.stack([row_of(reader, name_row) for name_row in pair]) for pair in rows])
        np.testing.assert_array_equal(reader.gather("state", rows), want)


def row_of(reader, row):
    """A row by its place in all files together, found by walking the episodes."""
    for number in reader.episodes():
        first = reader.first_row(number)
        if first <= row < first + reader.num_frames(number):
            return reader.column("state", int(number))[row - first]
    raise AssertionError(row)


def test_files_that_do_not_belong_together_are_refused(path, tmp_path):
    other = StoreInfo(**{**{f: getattr(INFO, f) for f in INFO.__dataclass_fields__}, "step_s": 0.2})
    create_file(tmp_path / "slow.h5", other, plan_of([3], seeds=[10]))
    with pytest.raises(StoreError, match=r"slow\.h5 differ in step_s \(0\.1 against 0\.2\)"):
        Reader([path, tmp_path / "slow.h5"])
    create_file(tmp_path / "twin.h5", INFO, plan_of([3], seeds=[2]))
    with pytest.raises(StoreError, match="have one seed"):
        Reader([path, tmp_path / "twin.h5"])
    with pytest.raises(StoreError, match="named twice"):
        Reader([path, str(path)])
    create_file(tmp_path / "none1.h5", INFO, plan_of([3], seeds=[NO_SEED]))
    create_file(tmp_path / "none2.h5", INFO, plan_of([3], seeds=[NO_SEED]))
    assert Reader([tmp_path / "none1.h5", tmp_path / "none2.h5"]).num_planned == 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(StoreError, match="cut short|not an HDF5 file"):
        Reader(path)


def test_what_is_no_trajectory_file_is_refused_in_one_sentence(path, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Reader(tmp_path / "missing.h5")
    with pytest.raises(StoreError, match=r"no file matches .*\*\.h6"):
        Reader(str(tmp_path / "*.h6"))
    with pytest.raises(StoreError, match="no data file"):
        Reader([])
    with pytest.raises(StoreError, match="is a folder"):
        Reader(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreError, match="not an HDF5 file"):
        Reader(tmp_path / "text.h5")
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="no trajectory file"):
        Reader(tmp_path / "plain.h5")


def test_another_schema_version_is_refused_with_both_numbers(path):
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 7
    with pytest.raises(StoreError, match="schema 7, this version reads schema 1"):
        Reader(path)


def test_a_missing_a_chunked_and_a_senseless_column_are_refused(path):
    with h5py.File(path, "r+") as file:
        file["episode/length"][0] = 100
    with pytest.raises(StoreError, match=r"contradicts itself .*: \[0\]"):
        Reader(path)
    with h5py.File(path, "r+") as file:
        file["episode/length"][0] = 3
        del file["truth"]
    with pytest.raises(StoreError, match="has no truth"):
        Reader(path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("truth", (12, 1), "f4", chunks=(4, 1))
    with pytest.raises(StoreError, match="stores truth in chunks"):
        Reader(path)


def test_unknown_names_are_answered_with_the_choices(path):
    reader = Reader(path)
    for call in (lambda: reader.column("pixel", 0), lambda: reader.gather("pixel", np.array([0]))):
        with pytest.raises(ValueError, match="'pixel' is not in .*pixels, action, time_s"):
            call()
    with pytest.raises(ValueError, match="choose one of train, val, eval"):
        reader.episodes("test")
    with pytest.raises(ValueError, match="choose error or skip"):
        Reader(path, on_damaged="ignore")
    with pytest.raises(ValueError, match="episode 3 is not among the 3"):
        reader.column("pixels", 3)


def test_an_existing_file_is_never_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(StoreError, match="never overwritten"):
        create_file(path, INFO, plan_of([3]))
    assert path.read_bytes() == before


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 5 * 2**20))
    with pytest.raises(StoreError, match="has 5 MiB free"):
        create_file(tmp_path / "new" / "big.h5", INFO, plan_of([3]))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk.os, "posix_fallocate", full, raising=False)
    with pytest.raises(StoreError, match="No space left on device"):
        create_file(tmp_path / "big.h5", INFO, plan_of([3]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="blocks are reserved where the system can")
def test_the_blocks_of_a_new_file_are_reserved(tmp_path):
    create_file(tmp_path / "big.h5", INFO, plan_of([20_000]))
    stat = (tmp_path / "big.h5").stat()
    assert stat.st_blocks * 512 >= stat.st_size > 20_000 * INFO.frame_bytes


def test_splits_are_by_episode_near_their_shares_and_never_empty():
    for episodes in (3, 10, 37, 500):
        counts = np.bincount(draw_splits(4, episodes), minlength=3)
        few = max(1, round(episodes / 10))
        assert counts.tolist() == [episodes - 2 * few, few, few]
    assert (draw_splits(4, 500) == draw_splits(4, 500)).all()
    assert (draw_splits(4, 500) != draw_splits(5, 500)).any()
    assert set(draw_splits(0, 2)) == {0}


def test_episode_seeds_depend_on_the_seed_and_the_index_alone():
    assert (draw_seeds(3, 50)[:20] == draw_seeds(3, 20)).all()
    assert len(np.unique(np.concatenate([draw_seeds(s, 100) for s in range(3)]))) == 300
    assert (plan_episodes(4, 9, seed=3).seeds == draw_seeds(3, 4)).all()


def test_a_plan_without_room_is_refused():
    for episodes, frames in ((0, 9), (4, 1)):
        with pytest.raises(ValueError, match=f"episodes={episodes} and frames={frames}"):
            plan_episodes(episodes, frames, seed=0)


def test_a_file_from_before_the_split_entered_the_checksum_is_read_as_it_was(path):
    """Its crc32 leaves the split out, and it has no checksum of its info."""
    with h5py.File(path, "r+") as file:
        del file.attrs["checksum"], file.attrs["info_crc32"]
    reader = Reader(path, on_damaged="skip")
    assert reader.damaged == (0, 2), "a checksum of version 2 is none of version 1"
    writer = Writer(path)
    for index, length in ((0, 3), (2, 4)):
        writer.write(index, *episode(length, seed=index))
    assert Reader(path).episodes().tolist() == [0, 2]
    flip_a_byte(path, "episode/split", 0)
    assert Reader(path).split(0) == "val", "nothing can be known of it there"


def test_a_changed_info_and_a_newer_checksum_are_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["info"] = file.attrs["info"].replace("0.1", "0.3")
    with pytest.raises(StoreError, match="damaged `info` attribute \\(its checksum fails\\)"):
        Reader(path)
    with h5py.File(path, "r+") as file:
        file.attrs["checksum"] = 3
    with pytest.raises(StoreError, match="checksums of version 3, this version reads 1 to 2"):
        Reader(path)


def rewrite(path, name, data):
    """Puts another dataset in place of one of the file's."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = data


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("pixels", np.zeros((12, 4, 5, 3), np.int8), "pixels of type int8 .* rows of type uint8"),
        ("pixels", np.zeros((12, 3, 4, 5), np.uint8), "pixels .* shape \\(12, 3, 4, 5\\)"),
        ("pixels", np.zeros((12, 60), np.uint8), "pixels .* shape \\(12, 60\\)"),
        ("truth", np.zeros((12, 2), np.float32), "truth .* shape \\(12, 2\\), where .* shape \\(1,\\)"),
        ("truth", np.zeros((12, 1), np.complex64), "truth of type complex64"),
        ("episode/length", np.array([3.0, 0, 4]), "episode/length of type float64"),
        ("episode/split", np.array([0, 1, 7], np.uint8), "checksum fails for episode 2"),
        ("episode/start", np.array([0, 3, 2**62]), "contradicts itself"),
        ("episode/length", np.array([4, 0, 4]), "contradicts itself .*: \\[0\\]"),
        ("episode/seed", np.array([1, 2]), "contradicts itself"),
        ("episode/factors/door", np.zeros(2), "contradicts itself"),
    ],
)
def test_columns_of_another_type_or_shape_than_declared_are_refused_by_name(path, name, data, says):
    rewrite(path, name, data)
    with pytest.raises(StoreError, match=says):
        Reader(path)


@pytest.mark.parametrize("name", ["truth", "state", "action", "time_s", "extrinsics"])
def test_numbers_that_are_not_finite_are_named_with_their_episode_and_can_be_left_out(path, name):
    file = Writer(path)._file
    file.columns[name][1] = np.nan
    file.episode["crc32"][0] = file.compute_checksum(0, 3)
    with pytest.raises(StoreError, match=f"{name} holds numbers that are not finite in episode 0 of .*toy.h5"):
        Reader(path)
    assert Reader(path, on_damaged="skip").episodes().tolist() == [2]


def test_a_writer_refuses_numbers_that_are_not_finite_but_for_the_last_reward(path):
    columns, factors = episode(5)
    columns["reward"][-1] = np.nan
    Writer(path).write(1, columns, factors)
    assert Reader(path).num_frames(1) == 5
    columns["reward"][0] = np.inf
    with pytest.raises(ValueError, match="an episode's reward holds numbers that are not finite"):
        Writer(path).write(1, columns, factors)
    with pytest.raises(ValueError, match="an episode's action 0 has .*=nan: it must be finite"):
        Writer(path).write(1, columns | {"action": np.full((4, 2), np.nan)}, factors)


def change(**fields):
    return StoreInfo(**{**{f: getattr(INFO, f) for f in INFO.__dataclass_fields__}, **fields})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"action_low": (np.nan, 0.0)}, "a has the bounds nan to 1.0"),
        ({"action_low": (2.0, -2.0)}, "a has the bounds 2.0 to 1.0: finite numbers are needed, the lower first"),
        ({"action_low": (1.0, -2.0)}, "a has the bounds 1.0 to 1.0"),
        ({"action_high": (1.0, np.inf)}, "b has the bounds -2.0 to inf"),
        ({"action_low": (), "action_high": (), "action_names": ()}, "at least one"),
        ({"action_names": ("a",)}, "one number or name each"),
        ({"truth_units": ()}, "differ in length"),
        ({"step_s": 0.0}, "step_s=0.0"),
        ({"step_s": np.nan}, "step_s=nan"),
        ({"frame_hwc": (4, 0, 3)}, "frame_hwc=\\(4, 0, 3\\)"),
        ({"extra": (Column("truth", (), "float32"),)}, "a column is declared twice"),
    ],
)
def test_facts_that_cannot_be_are_refused_by_name(fields, says):
    with pytest.raises(ValueError, match=says):
        change(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"step_s": "fast"}, "it has step_s=fast"),
        ({"frame_hwc": [4, 5]}, "it has no frame_hwc.2|frame_hwc"),
        ({"action_low": None}, "action_low=None"),
        ({"extra": [{"name": "x", "shape": [2], "dtype": "complex64"}]}, "column x of type complex64"),
        ({"extra": [{"name": "x", "shape": [2], "dtype": "words"}]}, "column x of type words"),
        ({"extra": 3}, "it has extra=3"),
        ({"colour": "red"}, "fields that are unknown here: colour"),
    ],
)
def test_an_info_of_another_type_is_refused_by_field_and_value(path, fields, says):
    with h5py.File(path, "r+") as file:
        file.attrs["info"] = json.dumps(json.loads(file.attrs["info"]) | fields)
        del file.attrs["info_crc32"]
    with pytest.raises(StoreError, match=f"toy.h5 has a damaged `info` attribute: .*{says}"):
        Reader(path)


@pytest.mark.parametrize(("name", "value"), [("splits", 3), ("info", 4), ("schema", "one"), ("checksum", [1, 2])])
def test_attributes_of_another_type_are_refused(path, name, value):
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
    with pytest.raises(StoreError, match=f"toy.h5 has {name}"):
        Reader(path)


def test_a_pipe_and_a_file_that_points_at_another_are_refused(path, tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(StoreError, match="is a pipe"):
        Reader(tmp_path / "pipe.h5")
    shutil.copy(path, tmp_path / "copy.h5")
    with h5py.File(path, "r+") as file:
        del file["pixels"]
        file["pixels"] = h5py.ExternalLink(str(tmp_path / "copy.h5"), "/pixels")
    with pytest.raises(StoreError, match="pixels is a link to another file"):
        Reader(path)
