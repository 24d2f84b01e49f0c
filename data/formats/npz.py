"""npz files, which are zips of npy files, read and written in pieces: their arrays are larger than memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from data.formats.dataset import Array, ExternalError, explain_damage

BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error)


class Header(NamedTuple):
    """Of an npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype


@contextmanager
def _open_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    with explain_damage(file, "npz", *BROKEN), zipfile.ZipFile(file) as archive:
        yield archive


def read_headers(file: Path) -> dict[str, Header]:
    """Shape and dtype of each array, without reading one."""
    headers = {}
    with _open_zip(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                headers[name.removesuffix(".npy")] = _read_header(member, file)
    return headers


def load_array(file: Path, name: str) -> Array:
    with _open_zip(file) as archive, archive.open(f"{name}.npy") as member:
        return np.asarray(npy.read_array(member, allow_pickle=False))


class NpyStream:
    """Rows of an array, an episode's at a time. Forward is quick; going back decompresses from the start."""

    def __init__(self, file: Path, name: str) -> None:
        self.file = file
        with _open_zip(file) as archive:
            self._member = archive.open(f"{name}.npy")
            (_, *self._row), self._dtype = _read_header(self._member, file)
        self._first = self._member.tell()
        self._row_bytes = int(np.prod(self._row)) * self._dtype.itemsize

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop)."""
        with explain_damage(self.file, "npz", *BROKEN):
            self._member.seek(self._first + start * self._row_bytes)
            raw = self._member.read((stop - start) * self._row_bytes)
        return np.frombuffer(raw, self._dtype).reshape(stop - start, *self._row)


def _read_header(member: IO[bytes], file: Path) -> Header:
    try:
        version = npy.read_magic(member)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(member)
    except ValueError as error:
        raise ExternalError(f"{file} holds something that is no npy array ({error})") from error
    if by_columns and len(shape) > 1 or dtype.hasobject:
        raise ExternalError(f"{file} holds Python objects, or an array stored by columns: save it again with np.savez")
    return Header(shape, dtype)


def write_npz(
    file: Path, arrays: Mapping[str, Array], large: str, shape: tuple[int, ...], pieces: Iterable[Array]
) -> None:
    """A compressed npz of small arrays and of one large uint8 array of that shape, which comes in pieces."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
        with archive.open(f"{large}.npy", "w", force_zip64=True) as member:
            npy.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for piece in pieces:
                member.write(np.ascontiguousarray(piece, np.uint8).tobytes())
