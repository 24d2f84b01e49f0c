"""OGBench's npz data sets (arXiv 2410.20092).

The layout, as ogbench/utils.py (load_dataset, make_env_and_datasets) and data_gen_scripts/generate_locomaze.py of
seohongpark/ogbench have it; F rows over all episodes of a file:

    NAME.npz, NAME-val.npz   training and validation episodes
    observations             [F,H,W,3] uint8 (visual sets) or [F,D] float32
    actions                  [F,A]; an episode's last leads nowhere
    terminals                [F], 1 at the last row of each episode; timeouts or truncations likewise, where a set
                             has them (D4RL's do: terminals are then failures alone)
    qpos, qvel               [F,...]: the simulator's state, in most sets; button_states likewise
    next_observations        only in sets that were saved without an episode's last row; not read

An npz is a zip of npy files. Sets are many gigabytes, so pictures are streamed: read forward, an episode's at a time.
Of the other members those are loaded that are asked for, once their declared size is known to fit.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Annotated, NamedTuple

import numpy as np
from numpy.lib import format as npy
from pydantic import Field

from data.checks import check_memory, check_regular, parse_fields, parse_json
from data.formats import dataset, files
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, check_names
from data.formats.files import ExternalError
from data.pictures import Pictures, View
from data.schema import NO_SEED, NUMBER_KINDS, SPLITS
from data.store import Reader

IMAGES = "observations"
VAL_SUFFIX = "-val"  # ends the name of a file of validation episodes
STATE = ("qpos", "qvel")
REQUIRED = (IMAGES, "actions", "terminals")
ENDS = ("terminals", "timeouts", "truncations", "truncated")  # members whose rows end an episode
# Errors of a damaged zip, of one with a password, and of one that is compressed otherwise.
ZIP_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)
# Arrays of our exports, with an entry an episode.
NUMBER, SPLIT, SEED, FACTORS = EXPORT_ARRAYS = ("episode_number", "episode_split", "episode_seed", "episode_factors")


class Header(NamedTuple):
    """Of an npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def _open_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    check_regular(file)
    with files.explain_damage(file, "npz", *ZIP_ERRORS), zipfile.ZipFile(file) as archive:
        yield archive


def read_headers(file: Path) -> dict[str, Header]:
    """Shape and dtype of each array, without reading one. ExternalError if one holds less or more than it says."""
    headers = {}
    with _open_zip(file) as archive:
        for member in archive.infolist():
            name = member.filename
            if not name.endswith(".npy"):
                continue
            with archive.open(member) as opened:
                header = _read_header(opened, file)
                there = member.file_size - opened.tell()
            if there != header.num_bytes:
                raise ExternalError(
                    f"{file}: {name} declares {header.dtype} {list(header.shape)}, {header.num_bytes} bytes, and holds "
                    f"{there}: copy it again"
                )
            headers[name.removesuffix(".npy")] = header
    return headers


def load_array(file: Path, name: str, header: Header) -> Array:
    """A whole array; FileError if it would not fit into memory."""
    check_memory(f"{file}: {name}", header.num_bytes, "import a part of the data set, or choose fewer columns")
    with _open_zip(file) as archive, archive.open(f"{name}.npy") as member:
        return np.asarray(npy.read_array(member, allow_pickle=False))


class NpyStream:
    """Rows of an array, an episode's at a time. Forward is quick; going back decompresses from the start."""

    def __init__(self, file: Path, name: str) -> None:
        self.file = file
        with _open_zip(file) as archive:
            self._member = archive.open(f"{name}.npy")
            header = _read_header(self._member, file)
        (_, *self._row), self._dtype = header.shape, header.dtype
        self._first = self._member.tell()
        self._row_bytes = math.prod(self._row) * self._dtype.itemsize

    def read_rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop)."""
        wanted = (stop - start) * self._row_bytes
        check_memory(f"{self.file}: rows {start} to {stop}", wanted, "its episodes are too long to be read")
        with files.explain_damage(self.file, "npz", *ZIP_ERRORS):
            self._member.seek(self._first + start * self._row_bytes)
            raw = self._member.read(wanted)
        if len(raw) != wanted:
            raise ExternalError(f"{self.file} ends before row {stop}: copy it again")
        return np.frombuffer(raw, self._dtype).reshape(stop - start, *self._row)


def _read_header(member: IO[bytes], file: Path) -> Header:
    try:
        version = npy.read_magic(member)
        if version != (1, 0):  # later ones are for names of fields, and may be of any length
            raise ValueError(f"version {version[0]}.{version[1]} of npy")
        shape, by_columns, dtype = npy.read_array_header_1_0(member)
    except (ValueError, SyntaxError, TokenError, RecursionError, MemoryError) as error:  # of numpy's parser
        raise ExternalError(f"{file} holds something that is no npy array ({error})") from error
    if by_columns and len(shape) > 1 or dtype.hasobject:
        raise ExternalError(f"{file} holds Python objects, or an array stored by columns: save it again with np.savez")
    return Header(shape, dtype)


class ExportArrays(NamedTuple):
    """The arrays of our exports with an entry an episode."""

    numbers: list[int]
    splits: list[Annotated[int, Field(ge=0, lt=len(SPLITS))]]
    seeds: list[int]
    factors: list[str]


class OGBench(dataset.ExternalDataSet):
    """A file with the -val file beside it, or all files of a folder that are of one data set (some come in parts)."""

    render_hint = (
        "choose the visual- set of the same task (visual-antmaze-medium-navigate-v0), or set qpos and qvel in "
        "OGBench's environment and render"
    )

    def __init__(self, path: Path) -> None:
        paths, self.left_out = files.find_files(path, (".npz",), "OGBench file")
        beside = path.with_name(f"{path.stem}{VAL_SUFFIX}.npz")
        if path.is_file() and not path.stem.endswith(VAL_SUFFIX) and beside.is_file():
            paths.append(beside)
        self._streams: dict[Path, NpyStream] = {}
        self._headers: dict[Path, dict[str, Header]] = {}
        self._columns: dict[Path, dict[str, Header]] = {}  # of numbers, with a row for every frame
        self._arrays: dict[tuple[Path, str], Array] = {}
        numbered: list[tuple[int, ExternalEpisode]] = []
        for file in paths:
            numbered += self._read_episodes(file, len(numbered), len(paths) > 1)
        self.episodes = [episode for _, episode in sorted(numbered, key=lambda pair: pair[0])]
        shapes = {str(file): {name: h.shape[1:] for name, h in self._columns[file].items()} for file in paths}
        dataset.require_equal(shapes, "columns")
        dataset.require_equal({str(file): _parse_name(file) for file in paths}, "data set")
        self.info = self._describe(paths[0])

    def _load(self, file: Path, name: str) -> Array:
        """An array of a file, loaded once."""
        if (file, name) not in self._arrays:
            self._arrays[file, name] = load_array(file, name, self._headers[file][name])
        return self._arrays[file, name]

    def _read_episodes(self, file: Path, first: int, with_val: bool) -> Iterator[tuple[int, ExternalEpisode]]:
        """Numbers and episodes of a file, which `terminals` and its like separate."""
        self._headers[file] = headers = read_headers(file)
        check_names(str(file), REQUIRED, headers)
        rows = headers["actions"].shape[0] if headers["actions"].shape else 0
        for name in REQUIRED:
            if not rows or headers[name].shape[:1] != (rows,):
                there = headers[name].shape[0] if headers[name].shape else "no"
                raise ExternalError(f"{file} has {rows} actions and {there} rows of {name}")
        per_frame = {name: header for name, header in headers.items() if header.shape[:1] == (rows,)}
        self._columns[file] = {name: per_frame[name] for name in dataset.select_numbers(per_frame)}
        self._columns[file].pop("next_observations", None)
        ends = self._find_ends(file, [name for name in ENDS if name in per_frame])
        exported = None
        if all(name in headers for name in EXPORT_ARRAYS):
            arrays = [load_array(file, name, headers[name]).tolist() for name in EXPORT_ARRAYS]
            exported = parse_fields(ExportArrays, tuple(arrays), file)
            if {len(array) for array in exported} != {len(ends)}:
                raise ExternalError(f"{file} has {len(ends)} episodes and other numbers of {', '.join(EXPORT_ARRAYS)}")
        split, seed, factors = "val" if file.stem.endswith(VAL_SUFFIX) else "train", NO_SEED, {}
        for index, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            number = first + index
            if exported:
                number, split = exported.numbers[index], SPLITS[exported.splits[index]]
                seed = exported.seeds[index]
                factors = parse_json(exported.factors[index], f"{file} {FACTORS}")
            known = split if exported or with_val else None
            yield number, ExternalEpisode(file / f"episode_{index}", (file, start, end), known, seed, factors)

    def _find_ends(self, file: Path, names: Sequence[str]) -> list[int]:
        """The row after each episode; the last may be cut off, where recording was interrupted."""
        ended = np.zeros(self._headers[file]["actions"].shape[0], bool)
        for name in names:
            flags = load_array(file, name, self._headers[file][name])
            if flags.size != len(ended) or flags.dtype.kind not in NUMBER_KINDS:
                raise ExternalError(f"{file} has {name} of {flags.dtype} {list(flags.shape)}: a flag a row is needed")
            ended |= flags.reshape(-1) != 0
        ended[-1] = True
        return (np.flatnonzero(ended) + 1).tolist()

    def _describe(self, file: Path) -> DataSetInfo:
        headers = self._headers[file]
        images = dataset.select_pictures({IMAGES: headers[IMAGES]})
        numbers = {name: header.shape[1:] for name, header in self._columns[file].items() if name != "actions"}
        used = {"actions", *ENDS, EXPORT_KEY, *EXPORT_ARRAYS}
        return DataSetInfo(
            env=_parse_name(file),
            env_kwargs={},
            rate=None,
            numbers=numbers,
            images=images,
            state=tuple(name for name in STATE if name in numbers),
            unread=sorted(headers.keys() - numbers.keys() - images.keys() - used),
            store_info=dataset.parse_store_info(
                load_array(file, EXPORT_KEY, headers[EXPORT_KEY]) if EXPORT_KEY in headers else None
            ),
            refused=dataset.refuse_pictures({IMAGES: headers[IMAGES]}),
        )

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        file, start, end = episode.location
        check_names(str(file), names, self._columns[file])
        columns = {name: self._load(file, name)[start:end] for name in names}
        actions = self._load(file, "actions")[start : end - 1]
        return columns | {"action": dataset.check_actions(str(episode.name), actions, end - start)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_hw: tuple[int, int], view: View) -> Pictures:
        file, start, end = episode.location
        if file not in self._streams:
            self._streams[file] = NpyStream(file, name)
        return self.convert_to_size(episode, name, self._streams[file].read_rows(start, end), size_hw, view)


def _parse_name(file: Path) -> str:
    """The data set's name: NAME of NAME-val.npz, NAME-003.npz and NAME-003-val.npz."""
    stem = file.stem.removesuffix(VAL_SUFFIX)
    head, _, part = stem.rpartition("-")
    return head if head and part.isdigit() else stem


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


def derive_val_path(path: Path) -> Path:
    """The file of the held-out episodes that belongs to NAME.npz; ExternalError for another name."""
    if path.suffix != ".npz" or path.stem.endswith(VAL_SUFFIX):
        raise ExternalError(
            f"to={path}: OGBench's files are called NAME.npz, and NAME{VAL_SUFFIX}.npz is written beside it"
        )
    return path.with_name(f"{path.stem}{VAL_SUFFIX}.npz")


def write_ogbench(reader: Reader, path: Path, progress: Callable[[], None]) -> str:
    """Our episodes as NAME.npz, those of val and eval as NAME-val.npz; returns what the format loses, for the user."""
    held_out = [episode for episode in reader.episodes().tolist() if reader.split(episode) != "train"]
    for file, episodes in ((path, reader.episodes("train").tolist()), (derive_val_path(path), held_out)):
        if episodes:
            _write_file(reader, file, episodes, progress)
    return ""


def _write_file(reader: Reader, file: Path, episodes: list[int], progress: Callable[[], None]) -> None:
    lengths = [reader.num_frames(episode) for episode in episodes]

    def frames() -> Iterator[Array]:
        for episode in episodes:
            yield reader.column("pixels", episode)
            progress()

    terminals = np.zeros(sum(lengths), bool)
    terminals[np.cumsum(lengths) - 1] = True
    arrays = {
        column.name: np.concatenate([reader.column(column.name, episode) for episode in episodes])
        for column in dataset.list_number_columns(reader.info)
    } | {
        "actions": np.concatenate([dataset.pad_actions(reader, episode) for episode in episodes]),
        "terminals": terminals,
        EXPORT_KEY: np.array(reader.info.to_json()),
        NUMBER: np.searchsorted(reader.episodes(), episodes),
        SPLIT: np.array([SPLITS.index(reader.split(episode)) for episode in episodes], np.uint8),
        SEED: np.array([reader.seed(episode) for episode in episodes], np.int64),
        FACTORS: np.array([dataset.encode_factors(reader, episode) for episode in episodes]),
    }
    write_npz(file, arrays, IMAGES, (sum(lengths), *reader.info.frame_hwc), frames())
