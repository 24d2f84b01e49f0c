"""OGBench's npz data sets (arXiv 2410.20092).

The layout, as ogbench/utils.py (load_dataset, make_env_and_datasets) and data_gen_scripts/generate_locomaze.py of
seohongpark/ogbench have it; F rows over all episodes of a file:

    NAME.npz, NAME-val.npz   training and validation episodes
    observations             [F,H,W,3] uint8 (visual sets) or [F,D] float32
    actions                  [F,A]; an episode's last leads nowhere
    terminals                [F], 1 at the last row of each episode
    qpos, qvel               [F,...]: the simulator's state, in most sets; button_states likewise
    next_observations        only in sets that were saved without an episode's last row; not read

An npz is a zip of npy files. Sets are many gigabytes, so pictures are streamed: read forward, an episode's at a time.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from data.formats import dataset
from data.formats.dataset import EXPORT_KEY, Array, DataSetInfo, ExternalEpisode, ExternalError, check_names
from data.pictures import Pictures, View
from data.schema import NO_SEED, SPLITS
from data.store import Reader

IMAGES = "observations"
VAL_SUFFIX = "-val"  # ends the name of a file of validation episodes
STATE = ("qpos", "qvel")
REQUIRED = (IMAGES, "actions", "terminals")
ZIP_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error)  # errors of a damaged zip
# Arrays of our exports, with an entry an episode.
NUMBER, SPLIT, SEED, FACTORS = EXPORT_ARRAYS = ("episode_number", "episode_split", "episode_seed", "episode_factors")


class Header(NamedTuple):
    """Of an npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype


@contextmanager
def _open_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    with dataset.explain_damage(file, "npz", *ZIP_ERRORS), zipfile.ZipFile(file) as archive:
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
        with dataset.explain_damage(self.file, "npz", *ZIP_ERRORS):
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


class OGBench(dataset.ExternalDataSet):
    """A file with the -val file beside it, or all files of a folder that are of one data set (some come in parts)."""

    render_hint = (
        "choose the visual- set of the same task (visual-antmaze-medium-navigate-v0), or set qpos and qvel in "
        "OGBench's environment and render"
    )

    def __init__(self, path: Path) -> None:
        files = dataset.find_files(path, (".npz",), "OGBench file")
        beside = path.with_name(f"{path.stem}{VAL_SUFFIX}.npz")
        if path.is_file() and not path.stem.endswith(VAL_SUFFIX) and beside.is_file():
            files.append(beside)
        self._streams: dict[Path, NpyStream] = {}
        self._columns: dict[Path, dict[str, Array]] = {}
        numbered: list[tuple[int, ExternalEpisode]] = []
        for file in files:
            numbered += self._read_episodes(file, len(numbered), len(files) > 1)
        self.episodes = [episode for _, episode in sorted(numbered, key=lambda pair: pair[0])]
        shapes = {str(file): {name: a.shape[1:] for name, a in self._columns[file].items()} for file in files}
        dataset.require_equal(shapes, "columns")
        dataset.require_equal({str(file): _parse_name(file) for file in files}, "data set")
        self.info = self._describe(files[0])

    def _read_episodes(self, file: Path, first: int, with_val: bool) -> Iterator[tuple[int, ExternalEpisode]]:
        """Numbers and episodes of a file, which `terminals` separates; its columns of numbers are kept in memory."""
        headers = read_headers(file)
        check_names(str(file), REQUIRED, headers)
        rows = headers["actions"].shape[0]
        for name in REQUIRED:
            if headers[name].shape[0] != rows:
                raise ExternalError(f"{file} has {rows} actions and {headers[name].shape[0]} rows of {name}")
        unread = {"next_observations", IMAGES} - dataset.select_numbers({IMAGES: headers[IMAGES]}).keys()
        arrays = {name: load_array(file, name) for name in headers.keys() - unread}
        ends = np.flatnonzero(arrays.pop("terminals")) + 1
        if not len(ends) or ends[-1] != rows:
            ends = np.append(ends, rows)  # cut off where recording was interrupted
        exported = {name: arrays.pop(name).tolist() for name in EXPORT_ARRAYS if name in arrays}
        self._columns[file] = {
            name: a for name, a in arrays.items() if a.ndim and len(a) == rows and a.dtype.kind in "fiub"
        }
        split, seed, factors = "val" if file.stem.endswith(VAL_SUFFIX) else "train", NO_SEED, {}
        for index, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
            number = first + index
            if exported:
                number, split = exported[NUMBER][index], SPLITS[exported[SPLIT][index]]
                seed, factors = exported[SEED][index], json.loads(exported[FACTORS][index])
            known = split if exported or with_val else None
            yield number, ExternalEpisode(file / f"episode_{index}", (file, start, end), known, seed, factors)

    def _describe(self, file: Path) -> DataSetInfo:
        headers = read_headers(file)
        images = dataset.select_pictures({IMAGES: headers[IMAGES]})
        numbers = dataset.select_numbers(self._columns[file])
        del numbers["actions"]
        return DataSetInfo(
            env=_parse_name(file),
            env_kwargs={},
            rate=None,
            numbers=numbers,
            images=images,
            state=tuple(name for name in STATE if name in numbers),
            unread=sorted(
                headers.keys() - numbers.keys() - images.keys() - {"actions", "terminals", EXPORT_KEY, *EXPORT_ARRAYS}
            ),
            store_info=dataset.parse_store_info(load_array(file, EXPORT_KEY) if EXPORT_KEY in headers else None),
            refused=dataset.refuse_pictures({IMAGES: headers[IMAGES]}),
        )

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        file, start, end = episode.location
        check_names(str(file), names, self._columns[file])
        columns = {name: self._columns[file][name][start:end] for name in names}
        actions = self._columns[file]["actions"][start : end - 1]
        return columns | {"action": dataset.check_actions(str(episode.name), actions, end - start)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        file, start, end = episode.location
        if file not in self._streams:
            self._streams[file] = NpyStream(file, name)
        return self.convert_to_squares(episode, name, self._streams[file].read_rows(start, end), size_px, view)


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
