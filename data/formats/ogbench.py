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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.formats.dataset import (
    EXPORT_KEY,
    Array,
    DataSetInfo,
    ExternalEpisode,
    ExternalError,
    check_actions,
    check_names,
    encode_factors,
    find_files,
    is_numbers,
    is_pictures,
    list_number_columns,
    pad_actions,
    parse_store_info,
    require_equal,
    resize_to_square,
)
from data.formats.npz import NpyStream, load_array, read_headers, write_npz
from data.schema import NO_SEED, SPLITS
from data.store import Reader
from data.video import Pictures, View

IMAGES = "observations"
VAL = "-val"  # ends the name of a file of validation episodes
STATE = ("qpos", "qvel")
NEEDED = (IMAGES, "actions", "terminals")
OWN_NUMBER, OWN_SPLIT, OWN_SEED, OWN_FACTORS = "episode_number", "episode_split", "episode_seed", "episode_factors"
_OWN_ROWS = (OWN_NUMBER, OWN_SPLIT, OWN_SEED, OWN_FACTORS)  # what we add, an entry an episode


class OGBench:
    """A file with the -val one beside it, or all of a folder that are of one data set (some come in parts)."""

    render_hint = (
        "choose the visual- set of the same task (visual-antmaze-medium-navigate-v0), or set qpos and qvel in "
        "OGBench's environment and render"
    )

    def __init__(self, path: Path) -> None:
        files = find_files(path, (".npz",), "OGBench file")
        beside = path.with_name(f"{path.stem}{VAL}.npz")
        if path.is_file() and not path.stem.endswith(VAL) and beside.is_file():
            files.append(beside)
        self._streams: dict[Path, NpyStream] = {}
        self._columns: dict[Path, dict[str, Array]] = {}
        found: list[ExternalEpisode] = []
        self._order: list[int] = []
        for file in files:
            found += self._episodes(file, len(files) > 1)
        self.episodes: Sequence[ExternalEpisode] = [found[k] for k in np.argsort(self._order, kind="stable")]
        shapes = {str(file): {name: a.shape[1:] for name, a in self._columns[file].items()} for file in files}
        require_equal(shapes, "columns")
        require_equal({str(file): _parse_name(file) for file in files}, "data set")
        self.info = self._contents(files[0])

    def _episodes(self, file: Path, with_val: bool) -> list[ExternalEpisode]:
        """Episodes of a file between the rows that `terminals` ends; its columns of numbers are kept."""
        heads = read_headers(file)
        check_names(str(file), NEEDED, list(heads))
        rows = heads["actions"][0][0]
        wrong = [name for name in NEEDED if heads[name][0][0] != rows]
        if wrong:
            raise ExternalError(f"{file} has {rows} actions and {heads[wrong[0]][0][0]} rows of {wrong[0]}")
        large = {"next_observations"} if is_numbers(*heads[IMAGES]) else {"next_observations", IMAGES}
        loaded = {name: load_array(file, name) for name in heads.keys() - large}
        ends = np.flatnonzero(loaded.pop("terminals")) + 1
        if not ends.size or ends[-1] != rows:
            ends = np.append(ends, rows)  # cut off where collecting was stopped
        given = {n: loaded.pop(n).tolist() for n in _OWN_ROWS if n in loaded}
        loaded.pop(EXPORT_KEY, None)
        self._columns[file] = {n: a for n, a in loaded.items() if a.ndim and len(a) == rows and a.dtype.kind in "fiub"}
        split = ("val" if file.stem.endswith(VAL) else "train") if with_val else None
        starts = np.concatenate([[0], ends[:-1]])
        first = len(self._order)
        self._order += given[OWN_NUMBER] if given else range(first, first + len(ends))
        return [
            ExternalEpisode(
                file / f"episode_{k}",
                (file, int(start), int(end)),
                SPLITS[given[OWN_SPLIT][k]] if given else split,
                given[OWN_SEED][k] if given else NO_SEED,
                json.loads(given[OWN_FACTORS][k]) if given else {},
            )
            for k, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]

    def _contents(self, file: Path) -> DataSetInfo:
        heads, columns = read_headers(file), self._columns[file]
        own = parse_store_info(load_array(file, EXPORT_KEY)) if EXPORT_KEY in heads else None
        shape, dtype = heads[IMAGES]
        images = {IMAGES: shape[1:]} if is_pictures(shape, dtype) else {}
        numbers = {n: a.shape[1:] for n, a in columns.items() if n != "actions" and is_numbers(a.shape, a.dtype)}
        state = tuple(name for name in STATE if name in numbers)
        rest = sorted(heads.keys() - numbers.keys() - images.keys() - {*NEEDED[1:], EXPORT_KEY, *_OWN_ROWS})
        return DataSetInfo(
            _parse_name(file), {}, None, numbers, images, (), state, unread=", ".join(rest), store_info=own
        )

    def external_name(self, column: str) -> str:
        return column

    def read_numbers(self, episode: ExternalEpisode, names: Sequence[str]) -> dict[str, Array]:
        file, start, end = episode.location
        columns = self._columns[file]
        check_names(str(file), names, list(columns))
        found = {name: columns[name][start:end] for name in names}
        actions = columns["actions"][start : end - 1]
        return found | {"action": check_actions(str(episode.name), actions, end - start)}

    def read_pictures(self, episode: ExternalEpisode, name: str, size_px: int, view: View) -> Pictures:
        file, start, end = episode.location
        stream = self._streams.setdefault(file, NpyStream(file, name))
        return resize_to_square(stream.rows(start, end), size_px, view)


def _parse_name(file: Path) -> str:
    """The data set's name: NAME of NAME-val.npz, NAME-003.npz and NAME-003-val.npz."""
    stem = file.stem.removesuffix(VAL)
    head, _, part = stem.rpartition("-")
    return head if head and part.isdigit() else stem


# --- writing


def derive_val_path(path: Path) -> Path:
    """Where the held-out episodes of NAME.npz are."""
    if path.suffix != ".npz" or path.stem.endswith(VAL):
        raise ExternalError(f"to={path}: OGBench's files are called NAME.npz, and NAME{VAL}.npz is written beside it")
    return path.with_name(f"{path.stem}{VAL}.npz")


def write_ogbench(reader: Reader, path: Path, progress: Callable[[], None]) -> str:
    """Our episodes as NAME.npz, those of val and eval as NAME-val.npz; returns what that loses, in words."""
    held_out = [int(e) for e in reader.episodes() if reader.split(int(e)) != "train"]
    for file, episodes in (
        (path, reader.episodes("train").tolist()),
        (derive_val_path(path), held_out),
    ):
        if episodes:
            _write_file(reader, file, episodes, progress)
    return ""


def _write_file(reader: Reader, file: Path, episodes: list[int], progress: Callable[[], None]) -> None:
    lengths = [reader.num_frames(episode) for episode in episodes]
    rows = sum(lengths)

    def frames() -> Iterator[Array]:
        for episode in episodes:
            yield reader.column("pixels", episode)
            progress()

    def joined(name: str) -> Array:
        return np.concatenate([reader.column(name, episode) for episode in episodes])

    terminals = np.zeros(rows, bool)
    terminals[np.cumsum(lengths) - 1] = True
    write_npz(
        file,
        {
            "actions": np.concatenate([pad_actions(reader, episode) for episode in episodes]),
            "terminals": terminals,
            **{column.name: joined(column.name) for column in list_number_columns(reader.info)},
            EXPORT_KEY: np.array(reader.info.to_json()),
            OWN_NUMBER: np.searchsorted(reader.episodes(), episodes),
            OWN_SPLIT: np.array([SPLITS.index(reader.split(episode)) for episode in episodes], np.uint8),
            OWN_SEED: np.array([reader.seed(episode) for episode in episodes], np.int64),
            OWN_FACTORS: np.array([encode_factors(reader, episode) for episode in episodes]),
        },
        IMAGES,
        (rows, *reader.info.frame_hwc),
        frames(),
    )
