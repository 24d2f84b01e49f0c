"""HDF5 files that point at other files, or declare more than they hold, are refused before anything is read."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from data.checks import FileError
from data.hdf5 import open_hdf5, read_attributes, read_dataset


@pytest.fixture
def other(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.arange(3)
    return tmp_path / "other.h5"


def store_outside(file, other):
    file.create_group("data").create_dataset("action", (3,), "u1", external=[("/etc/passwd", 0, 3)])


def link_outside(file, other):
    file["data/action"] = h5py.ExternalLink(str(other), "/secret")


def link_to_a_link(file, other):
    file["data/way"] = h5py.ExternalLink(str(other), "/")
    file["data/action"] = h5py.SoftLink("/data/way/secret")


def map_outside(file, other):
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource(str(other), "secret", shape=(3,))
    file.create_virtual_dataset("action", layout)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (store_outside, "data/action is stored in another file \\(/etc/passwd\\)"),
        (link_outside, "data/action is a link to another file"),
        (link_to_a_link, "data/way is a link to another file"),
        (map_outside, "action is a virtual dataset"),
    ],
)
def test_a_file_that_points_at_another_is_refused_by_name(tmp_path, other, write, says):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        write(file, other)
    with pytest.raises(FileError, match=f"set.h5: {says}.*, which is never read"):
        open_hdf5(tmp_path / "set.h5")


def test_links_within_a_file_are_followed_and_circles_harm_nothing(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["data/rows"], file["rows"] = np.arange(3), h5py.SoftLink("/data/rows")
        file["data/again"], file["data/up"] = file["data"], h5py.SoftLink("/data")
    with open_hdf5(tmp_path / "set.h5") as file:
        assert file["rows"][()].tolist() == [0, 1, 2]


def test_a_file_that_changed_is_checked_again(tmp_path, other):
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file["rows"] = np.arange(3)
    open_hdf5(path).close()
    with h5py.File(path, "r+") as file:
        link_outside(file, other)
    with pytest.raises(FileError, match="another file"):
        open_hdf5(path)


def test_a_dataset_that_declares_more_than_memory_holds_is_not_loaded(tmp_path):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file.create_dataset("action", (10**12, 7), "f8", chunks=(1, 7))
        file["none"] = h5py.Empty("f8")
    with open_hdf5(tmp_path / "set.h5") as file:
        with pytest.raises(FileError, match="demo_0 actions needs 52154.1 GiB of memory"):
            read_dataset(file["action"], "demo_0 actions")
        with pytest.raises(FileError, match="demo_0 none is empty"):
            read_dataset(file["none"], "demo_0 none")


def test_a_pipe_is_no_file_and_attributes_are_plain_values(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(FileError, match="is a pipe"):
        open_hdf5(tmp_path / "pipe.h5")
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file.attrs.update({"seed": np.int64(3), "name": np.bytes_("arm"), "list": np.array([1.5, 2])})
    with open_hdf5(tmp_path / "set.h5") as file:
        assert read_attributes(file) == {"seed": 3, "name": "arm", "list": [1.5, 2.0]}
