"""Packing: a complete trajectory file with its pictures compressed, for large frames and small disks.

Pictures become gzip-compressed chunks of one frame, so that a window reads its own frames and no other; every other
column stays a map. What is in the file, its checksums and its episode numbers stay the same.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from data.disk import PathLike, temporary_beside
from data.mapped import PACKED, lay_out
from data.schema import EpisodePlan
from data.store import Reader

GZIP_LEVEL = 4


def pack_file(path: PathLike) -> None:
    """Replaces a complete, unpacked file by its packed form; whole or not at all. Needs the disk for both at once.

    StoreError if a checksum fails or the disk is full: the file is then as it was. A packed file is left alone.
    """
    path = Path(path)
    reader = Reader(path)
    if reader.packed:
        return
    with h5py.File(path, "r", locking=False) as old, temporary_beside(path) as temporary:
        starts, splits = old["episode/start"][()], old["episode/split"][()]
        lengths = np.diff(np.append(starts, len(old[PACKED])))
        lay_out(temporary, reader.info, EpisodePlan(lengths, old["episode/seed"][()], splits), GZIP_LEVEL)
        with h5py.File(temporary, "r+") as new:
            for name in ("length", "crc32", *(f"factors/{column.name}" for column in reader.info.factors)):
                new[f"episode/{name}"][...] = old[f"episode/{name}"][()]
            for start, length in zip(starts, lengths, strict=True):
                for column in reader.info.columns:
                    rows = slice(start, start + length)
                    new[column.name][rows] = old[column.name][rows]
