"""Features of a frozen encoder in files beside the data file: computed once, then read like another column.

There is one .npy file for each encoder, state of the data and layer. Row f belongs to frame f of the reader's files, so
`Windows(..., extra={"tokens": cache.read(...)})` reads the features of each window's frames. The file's name holds a
hash of the encoder's weights, the reader's `file_checksum` and the layer, so that a stale cache is never read. Rows of
missing episodes stay zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.disk import check_free_space, reserve_blocks, temporary_beside
from data.store import Reader

Array = NDArray[Any]


def find_dtype(layer: str) -> np.dtype[Any]:
    """Number format of cached features: float16 for layer-normed `tokens`, which are many and of unit size. All else is
    float32, since its mean may be far larger than its changes within an episode."""
    return np.dtype(np.float16 if layer == "tokens" else np.float32)


class FeatureCache:
    """The cached features of a reader's frames, in `NAME.features/` beside the first file."""

    def __init__(self, reader: Reader) -> None:
        first = reader.paths[0]
        self.folder = first.with_name(first.name + ".features")
        self._checksum, self._rows = reader.file_checksum, reader.total_frames

    def build_path(self, encoder: str, layer: str) -> Path:
        """The file for an encoder (hex digest of its weights) and a layer, whether it exists or not."""
        for key, value in (("encoder", encoder), ("layer", layer)):
            if not re.fullmatch(r"[A-Za-z0-9_.]+", value):
                raise ValueError(f"{key}={value!r}: letters, digits, _ and . alone make a file name")
        return self.folder / f"{encoder}-{self._checksum}-{layer}.npy"

    def read(self, encoder: str, layer: str) -> Array | None:
        """Features [F,...] as a read-only memory map; None if they are absent, damaged or of another dtype."""
        try:
            array = np.load(self.build_path(encoder, layer), mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, EOFError, ValueError):
            return None
        return array if array.dtype == find_dtype(layer) and len(array) == self._rows else None

    @contextmanager
    def write(self, encoder: str, layer: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """An array [F, *shape] to fill, which becomes the cache if the block succeeds.

        StoreError if the disk cannot hold it. A failed block leaves no file behind.
        """
        path = self.build_path(encoder, layer)
        shape, dtype = (self._rows, *shape), find_dtype(layer)
        check_free_space(path, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        with temporary_beside(path) as temporary:
            array = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
            reserve_blocks(temporary)
            yield array
            array.flush()
            del array
