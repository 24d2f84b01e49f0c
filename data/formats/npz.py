"""npz files, which are zips of npy files, read and written in pieces: arrays in them are larger than memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from data.formats.dataset import ExternalError

Array = NDArray[Any]
BROKEN = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
Header = tuple[tuple[int, ...], np.dtype[Any]]


@contextmanager
def explain_damage(file: Path) -> Iterator[None]:
    """What a damaged file raises becomes a ExternalError that names it."""
    try:
        yield
    except BROKEN as error:
        raise ExternalError(f"{file} cannot be read as npz, or is cut short: copy it again") from error


def read_headers(file: Path) -> dict[str, Header]:
    """Shape and dtype of each array, without reading one."""
    with explain_damage(file), zipfile.ZipFile(file) as archive:
        heads = {}
        for name in archive.namelist():
            with archive.open(name) as opened:
                heads[name.removesuffix(".npy")] = _read_header(opened, file)
    return heads


def load_array(file: Path, name: str) -> Array:
    """One array, whole."""
    with explain_damage(file), zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as opened:
        return np.asarray(npy.read_array(opened, allow_pickle=False))


class NpyStream:
    """Rows of an array, an episode's at a time. Forward is quick; going back decompresses from the start."""

    def __init__(self, file: Path, name: str) -> None:
        self.file = file
        with explain_damage(file):
            self._opened = zipfile.ZipFile(file).open(f"{name}.npy")
            (_, *self._row), self._dtype = _read_header(self._opened, file)
        self._first = self._opened.tell()
        self._row_bytes = int(np.prod(self._row)) * self._dtype.itemsize

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop)."""
        with explain_damage(self.file):
            self._opened.seek(self._first + start * self._row_bytes)
            raw = self._opened.read((stop - start) * self._row_bytes)
        return np.frombuffer(raw, self._dtype).reshape(stop - start, *self._row)


def _read_header(opened: IO[bytes], file: Path) -> Header:
    try:
        version = npy.read_magic(opened)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(opened)
    except ValueError as error:
        raise ExternalError(f"{file} holds something that is no npy array ({error})") from error
    if by_columns and len(shape) > 1 or dtype.hasobject:
        raise ExternalError(f"{file} holds Python objects, or an array stored by columns: save it again with np.savez")
    return shape, dtype


def write_npz(
    file: Path, arrays: Mapping[str, Array], large: str, shape: tuple[int, ...], pieces: Iterable[Array]
) -> None:
    """An npz of small arrays and of one large uint8 array of that shape, which comes in pieces; compressed."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
        with archive.open(f"{large}.npy", "w", force_zip64=True) as member:
            head = {"descr": "|u1", "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(member, head)
            for piece in pieces:
                member.write(np.ascontiguousarray(piece, np.uint8).tobytes())
