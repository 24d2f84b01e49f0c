"""Features of a frozen encoder, kept beside the data file: computed once, then read like any other column.

One .npy file an encoder, data state and layer, as bfloat16 bit patterns in uint16 (numpy has no bfloat16):
row f is frame f of the reader's files, so that `Windows(..., extra={"tokens": cache.read(...)})` reads the
features of the frames it would have read. The key holds a hash of the encoder's weights, the reader's
`file_checksum` (episodes added or left out change it) and the layer, so a stale cache is never found. Rows of
episodes that are not there stay zero.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.disk import check_free_space, reserve_blocks, temporary_beside
from data.store import Reader

Bits = NDArray[np.uint16]


class FeatureCache:
    """The cached features of a reader's frames, in `NAME.features/` beside the first file."""

    def __init__(self, reader: Reader) -> None:
        first = reader.paths[0]
        self.folder = first.with_name(first.name + ".features")
        self._checksum, self._rows = reader.file_checksum, reader.total_frames

    def path(self, encoder: str, layer: str) -> Path:
        """Where the features of an encoder (hex digest of its weights) and layer lie, or would."""
        for key, value in (("encoder", encoder), ("layer", layer)):
            if not re.fullmatch(r"[A-Za-z0-9_.]+", value):
                raise ValueError(f"{key}={value!r}: letters, digits, _ and . alone make a file name")
        return self.folder / f"{encoder}-{self._checksum}-{layer}.npy"

    def read(self, encoder: str, layer: str) -> Bits | None:
        """Features [F,...] as a read-only map, or None if they are not there or cannot be used: compute them
        again.
        """
        try:
            array = np.load(self.path(encoder, layer), mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, EOFError, ValueError):
            return None
        return array if array.dtype == np.uint16 and len(array) == self._rows else None

    @contextmanager
    def write(self, encoder: str, layer: str, shape: tuple[int, ...]) -> Iterator[Bits]:
        """Gives an array [F, *shape] to fill; it becomes the cache if the block ends without an error.

        StoreError if the disk cannot hold it; nothing is left behind then, nor when the block fails.
        """
        path = self.path(encoder, layer)
        shape = (self._rows, *shape)
        check_free_space(path, 2 * int(np.prod(shape, dtype=np.int64)))
        with temporary_beside(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", np.uint16, shape)
            reserve_blocks(temporary, os.path.getsize(temporary))
            yield array
            array.flush()
            del array
