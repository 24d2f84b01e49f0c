"""Parquet tables: their columns as arrays, and rows of a table that lies in several files, read forward in pieces.

pyarrow is an optional extra and is imported only here. Tables of pictures are many gigabytes, so a column is streamed:
rows come in batches, and reading on is quick. Going back starts again at the row group that holds the row.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.checks import check_memory, check_regular, resolve_inside
from data.formats import dataset, files
from data.formats.dataset import Array, check_names
from data.formats.files import ExternalError
from data.schema import NUMBER_KINDS

DAMAGE = (OSError, ValueError, NotImplementedError, TypeError)  # what pyarrow raises for a damaged file
NUMBER_ROWS, LARGE_ROWS = 16384, 64  # rows of a batch: of numbers or vectors, and of pictures
PICTURE_LEVELS = 3  # lists in lists of a picture: rows, columns, channels


def import_pyarrow() -> Any:
    """pyarrow with its modules for parquet and compute."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ExternalError("parquet tables need pyarrow: pip install 'jepa-lab[lerobot]'") from error
    return pyarrow


def read_table(file: Path, needed: Sequence[str], columns: list[str] | None = None) -> Any:
    """A parquet file's table; ExternalError if it is missing or damaged, or lacks a needed column."""
    if not file.is_file():
        raise ExternalError(f"{file} is not there: copy the data set again")
    parquet = import_pyarrow().parquet
    with files.explain_damage(file, "parquet", OSError, ValueError):
        names = parquet.read_schema(file).names
        check_names(str(file), needed, [name for name in names if not name.startswith("stats/")])
        groups = parquet.ParquetFile(file).metadata
        size = sum(groups.row_group(number).total_byte_size for number in range(groups.num_row_groups))
        check_memory(str(file), size, "its tables are too large to be read")
        return parquet.read_table(file, columns=columns)


def to_array(column: Any, where: str, name: str) -> Array:
    """A column of numbers, or of lists of one length at every level, as an array. ExternalError for any other."""
    arrow = import_pyarrow()
    cells, kind, shape = column.combine_chunks(), column.type, [len(column)]
    if isinstance(cells, arrow.ChunkedArray):  # older versions return one, of one chunk or none
        cells = cells.chunk(0) if cells.num_chunks else arrow.array([], kind)
    while True:
        if cells.null_count:
            raise ExternalError(f"{where} has {cells.null_count} rows of {name} without a value")
        if isinstance(cells, arrow.ExtensionArray):
            cells = cells.storage
        elif not is_list(cells.type):
            break
        else:
            widths = np.unique(arrow.compute.list_value_length(cells).to_numpy(zero_copy_only=False))
            if len(widths) > 1:
                raise ExternalError(f"{where} has {name} of {widths[0]} to {widths[-1]} numbers: one width is needed")
            shape.append(int(widths[0]) if len(widths) else 0)
            cells = cells.flatten()
    rows = np.asarray(cells.to_numpy(zero_copy_only=False))
    if rows.dtype.kind not in NUMBER_KINDS:
        raise ExternalError(f"{where} has {name} of type {kind}: real numbers are needed")
    return rows.reshape(shape)


def is_list(kind: Any) -> bool:
    """Whether cells of a type of pyarrow are lists."""
    types = import_pyarrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def read_image(cell: Any, root: Path, where: str, name: str) -> bytes:
    """The bytes of a picture in a cell, as they are or as {bytes, path}, or of the file in `root` that it names."""
    if isinstance(cell, bytes) and cell:
        return cell
    if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
        raise ExternalError(f"{where} has no picture in a row of {name}: copy the data set again")
    if cell.get("bytes"):
        return bytes(cell["bytes"])
    file = resolve_inside(root, str(cell["path"]), f"{where} {name}")
    if not file.is_file():
        raise ExternalError(f"{file} is not there, though {where} names it: copy the data set again")
    check_memory(str(file), file.stat().st_size, "it is no picture")
    return file.read_bytes()


# --- a table in several files


class ColumnFacts(NamedTuple):
    """Shape and type of an array of all rows of a column."""

    shape: tuple[int, ...]
    dtype: np.dtype


class RowGroup(NamedTuple):
    """A part of a file. first, stop: its rows, counted over all files."""

    first: int
    stop: int
    file: Path
    number: int


class ParquetTable:
    """A table in one or several files. columns: of numbers. encoded: those of image files. unread: the other ones."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.root, self.num_rows = root, 0
        self.groups: list[RowGroup] = []
        schemas = {}
        for file in paths:
            check_regular(file)
            with files.explain_damage(file, "parquet", *DAMAGE), import_pyarrow().parquet.ParquetFile(file) as opened:
                schemas[str(file)] = {field.name: str(field.type) for field in opened.schema_arrow}
                if len(schemas[str(file)]) < len(opened.schema_arrow):
                    raise ExternalError(f"{file} has two columns of one name")
                kinds = {field.name: describe_type(field.type) for field in opened.schema_arrow}
                for number in range(opened.metadata.num_row_groups):
                    first, self.num_rows = self.num_rows, self.num_rows + opened.metadata.row_group(number).num_rows
                    if self.num_rows > first:
                        self.groups.append(RowGroup(first, self.num_rows, file, number))
        dataset.require_equal(schemas, "columns")
        if not self.num_rows:
            raise ExternalError(f"{paths[0]} holds no rows")
        self.names = tuple(kinds)
        self.encoded = tuple(name for name, (leaf, levels) in kinds.items() if leaf == "image" and not levels)
        numbers = [name for name, (leaf, levels) in kinds.items() if leaf == "number" and levels <= PICTURE_LEVELS]
        self.unread = sorted({*kinds} - {*numbers, *self.encoded})
        self._streams = {
            name: ColumnStream(self, name, NUMBER_ROWS if levels < 2 and leaf == "number" else LARGE_ROWS)
            for name, (leaf, levels) in kinds.items()
        }
        self.columns: dict[str, ColumnFacts] = {}
        for name in numbers:
            first_row = to_array(self._streams[name].read(0, 1), f"{paths[0]} row 0", name)
            self.columns[name] = ColumnFacts((self.num_rows, *first_row.shape[1:]), first_row.dtype)

    def locate(self, row: int) -> RowGroup:
        """The row group that holds a row."""
        return self.groups[bisect.bisect_right(self.groups, row, key=lambda group: group.first) - 1]

    def read(self, name: str, start: int, stop: int, where: str) -> Array:
        """Rows [start, stop) of a column of numbers. ExternalError if they are of another shape than the first row."""
        shape = self.columns[name].shape[1:]
        size = (stop - start) * int(np.prod(shape, dtype=np.int64)) * self.columns[name].dtype.itemsize
        check_memory(f"{where} {name}", size, "its episodes are too long to be read")
        rows = to_array(self._streams[name].read(start, stop), where, name)
        if rows.shape[1:] != shape:
            raise ExternalError(
                f"{where} has {name} of shape {list(rows.shape[1:])}, and the first row has {list(shape)}"
            )
        return rows

    def read_images(self, name: str, start: int, stop: int, where: str) -> Iterator[bytes]:
        """The image files in rows [start, stop) of a column."""
        for row in range(start, stop, LARGE_ROWS):
            for cell in self._streams[name].read(row, min(row + LARGE_ROWS, stop)).to_pylist():
                yield read_image(cell, self.root, where, name)


class ColumnStream:
    """Rows of one column, read forward. rows: in a batch."""

    def __init__(self, table: ParquetTable, name: str, rows: int) -> None:
        self.table, self.name, self.rows = table, name, rows
        self._begin = 0  # row with which `_held`, the batch read last, begins
        self._held: Any = None
        self._batches: Iterator[Any] = iter(())

    def read(self, start: int, stop: int) -> Any:
        """Rows [start, stop) as an array of pyarrow."""
        pieces = []
        end = self._begin + len(self._held or ())
        if self._held is None or start < self._begin or start >= self.table.locate(end).stop:
            self._begin = end = self.table.locate(start).first
            self._held, self._batches = None, self._iterate(self._begin)
        while start < stop:
            while start >= end:
                self._begin, self._held = end, None  # a damaged batch is read anew
                self._held = next(self._batches, ())
                if not len(self._held):
                    raise ExternalError(f"{self.table.locate(end).file} ends before row {stop}: copy it again")
                end = self._begin + len(self._held)
            pieces.append(self._held.slice(start - self._begin, stop - start))
            start += len(pieces[-1])
        return import_pyarrow().chunked_array(pieces)

    def _iterate(self, first: int) -> Iterator[Any]:
        """Batches from the row group that begins with this row."""
        for group in self.table.groups[self.table.groups.index(self.table.locate(first)) :]:
            file = group.file
            with files.explain_damage(file, "parquet", *DAMAGE), import_pyarrow().parquet.ParquetFile(file) as opened:
                facts = opened.metadata.row_group(group.number)
                sizes = [facts.column(k) for k in range(facts.num_columns)]
                size = sum(
                    s.total_uncompressed_size for s in sizes if f"{s.path_in_schema}.".startswith(f"{self.name}.")
                )
                share = min(1, self.rows / (group.stop - group.first))
                check_memory(f"{file}: {self.name}", int(size * share), "its rows are too large to be read")
                rows = 0
                for batch in opened.iter_batches(self.rows, row_groups=[group.number], columns=[self.name]):
                    rows += len(batch)
                    yield batch.column(self.name)
            if rows != group.stop - group.first:
                raise ExternalError(f"{file} holds {rows} of {group.stop - group.first} rows: copy it again")


def describe_type(kind: Any) -> tuple[str, int]:
    """What a column holds, `number`, `image` (the bytes of a file) or `other`, and in how many lists within lists."""
    types, levels = import_pyarrow().types, 0
    while True:
        if hasattr(kind, "storage_type"):
            kind = kind.storage_type
        elif is_list(kind):
            kind, levels = kind.value_type, levels + 1
        else:
            break
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number", levels
    has_bytes = types.is_struct(kind) and any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
    is_image = has_bytes or types.is_binary(kind) or types.is_large_binary(kind)
    return "image" if is_image else "other", levels
