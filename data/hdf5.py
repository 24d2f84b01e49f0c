"""HDF5 files for reading: regular files alone, whose data lies within them.

HDF5 lets a file point at others: by external links, by external storage of a dataset, by virtual datasets. A file of
others could read any file of this machine by them, so a file that has one is refused before anything is read.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py

from data.checks import FileError, check_memory, check_regular

DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)  # what h5py raises for a damaged file


def open_hdf5(path: Path) -> h5py.File:
    """The file, open for reading. FileError for one that points at other files; OSError for one that is damaged."""
    check_regular(path)
    status = path.stat()
    _check_reach(path, (status.st_ino, status.st_size, status.st_mtime_ns))
    return h5py.File(path, "r", locking=False)


@lru_cache(maxsize=256)
def _check_reach(path: Path, identity: tuple[int, ...]) -> None:
    """FileError if any link or dataset leads to another file. Remembered for a file that stays as it is.

    It uses h5py's low level, which is quick enough for the hundred thousand datasets of a large file.
    """
    names: list[bytes] = []

    def find_strange_link(name: bytes, link: Any) -> bytes | None:
        if link.type == h5py.h5l.TYPE_HARD:
            names.append(name)
        return None if link.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT) else name

    try:
        with h5py.File(path, "r", locking=False) as file:
            strange = file.id.links.visit(find_strange_link, info=True)
            what = "a link to another file"
            for name in names if strange is None else []:
                item = h5py.h5o.open(file.id, name)
                properties = item.get_create_plist() if isinstance(item, h5py.h5d.DatasetID) else None
                if properties is not None and properties.get_external_count():
                    strange, what = name, f"stored in another file ({_decode(properties.get_external(0)[0])})"
                if properties is not None and properties.get_layout() == h5py.h5d.VIRTUAL:
                    strange, what = name, "a virtual dataset, whose rows are those of other files"
    except DAMAGE as error:
        raise OSError(f"{path} is damaged ({error})") from error
    if strange is not None:
        raise FileError(
            f"{path}: {_decode(strange)} is {what}, which is never read: copy the data into the file itself"
        )


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def read_dataset(dataset: h5py.Dataset, where: str) -> Any:
    """All rows of a dataset. FileError if they would not fit into memory."""
    if dataset.shape is None:
        raise FileError(f"{where} is empty")
    check_memory(where, int(dataset.nbytes), "the file declares more rows than can be read")
    return dataset[()]


def read_attributes(item: Any) -> dict[str, Any]:
    """The attributes of a file or group as plain Python values."""
    values = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in item.attrs.items()}
    return {name: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for name, v in values.items()}
