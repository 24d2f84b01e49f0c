"""Packed trajectory files: their pixels compressed, for large frames and small disks (`data.store`)."""

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
    """Replaces a complete file by one with compressed pixels, whole or not at all; needs the disk for both at once.

    A chunk holds one frame, so that a window reads its own frames alone. All else stays as it was: other columns,
    checksums, episode numbers. StoreError if a checksum fails or the disk is full. A packed file is left alone.
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
            new.attrs["checksum"] = old.attrs.get("checksum", 1)
            for name in ("length", "crc32", *(f"factors/{column.name}" for column in reader.info.factors)):
                new[f"episode/{name}"][...] = old[f"episode/{name}"][()]
            for start, length in zip(starts, lengths, strict=True):
                for column in reader.info.columns:
                    rows = slice(start, start + length)
                    new[column.name][rows] = old[column.name][rows]
