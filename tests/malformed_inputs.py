"""Examines malformed data sets and weights: `python -m tests.malformed_inputs [seed=0] [each=30] [kinds=[lerobot,pt]]`.

An input is a whole one with one file changed (tests/data/mutations.py), by the seed, its kind and its number. Reading
it must end as accepted, with numbers that can be used, or refused with one sentence of the project's own; within 30
seconds; and no file outside its folder may be opened. Each input is read in another process, which a hang or a crash
cannot take along.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commands.shared.errors import HOME, PACKAGES, explain, is_memory_short
from commands.training.model_folders import load_dynamics, load_encoder, save_dynamics, save_encoder
from commands.training.trajectory_files import open_reader
from data.formats.droid_example import write_example
from data.mapped import UNKNOWN_AT_LAST
from data.schema import SPLITS
from tests.commands.training.test_bad_models import made as make_networks
from tests.commands.transfer.test_external import fps_of, give, made, take
from tests.data import made_sets
from tests.data.mutations import Mutator, restore_checksums
from tests.world_model.small import dynamics
from world_model.encoder import VideoEncoder
from world_model.interop.export import export_huggingface, export_official
from world_model.interop.pretrained import load_pretrained

LIMIT_S = 30.0
MOST_PX = 256  # side of the frames that accepted encoders are tried on
ENDINGS = ("refused", "accepted", "internal", "unusable", "hang", "read outside")
FAULTS = ENDINGS[2:]
MARKER = "content of a file outside"
IN_OPEN = 0x20  # of Linux' inotify


class UnusableError(Exception):
    """An accepted input whose content cannot be used."""


@dataclass(frozen=True)
class Kind:
    """A kind of input. path: what the reader is given; make: writes a whole one into the current folder."""

    path: str
    make: Callable[[], Any]
    read: Callable[[], Any]


@dataclass(frozen=True)
class Ending:
    """How an input ended, with what was said."""

    kind: str
    number: int
    how: str
    sentence: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.how}: {self.sentence}"


# --- what is accepted must be usable


def check_episodes(reader: Any) -> None:
    """UnusableError unless all episodes have columns of the declared shapes and types, of finite numbers."""
    for episode in map(int, reader.episodes()):
        if reader.split(episode) not in SPLITS or reader.num_frames(episode) < 2:
            raise UnusableError(f"episode {episode} has {reader.num_frames(episode)} frames")
        for column in reader.info.columns:
            rows = reader.column(column.name, episode)
            wanted = (reader.num_frames(episode) - (column.name == "action"), *column.shape)
            known = rows[: reader.num_frames(episode) - (column.name in UNKNOWN_AT_LAST)]
            if rows.shape != wanted or rows.dtype != column.dtype or not np.isfinite(known).all():
                raise UnusableError(f"episode {episode}, {column.name}: {rows.dtype} {rows.shape}, or not finite")
        for name, value in reader.factors(episode).items():
            if not np.isfinite(value).all():
                raise UnusableError(f"episode {episode}, factor {name} is {value}")


def make_frames(encoder: VideoEncoder, count: int) -> torch.Tensor:
    """Black frames uint8 [1, count, H, W, 3]. An encoder for large pictures takes smaller ones, too."""
    height, width = (min(side, MOST_PX) for side in encoder.config.image_px)
    return torch.zeros((1, count, height, width, 3), dtype=torch.uint8)


def check_encoder(encoder: VideoEncoder) -> None:
    """UnusableError unless an encoder gives finite tokens."""
    frames = make_frames(encoder, 1)
    with torch.no_grad():
        if not encoder.eval().encode_frames(frames).isfinite().all():
            raise UnusableError("the encoder's tokens are not finite numbers")


def read_data(format: str, path: str) -> None:
    check_episodes(take(format, path, fps=fps_of(format)))


def read_ours() -> None:
    check_episodes(open_reader("set/trajectories.h5"))


def read_weights(path: str) -> None:
    check_encoder(load_pretrained(Path(path)).encoder)


def read_encoder() -> None:
    check_encoder(load_encoder("set")[0])


def read_dynamics() -> None:
    """UnusableError unless imagined paths are finite."""
    model = load_dynamics("set")[0]
    frames = make_frames(model.encoder, 2)
    size, proprio = model.actions.frame_skip * len(model.actions.low), model.config.proprio_dim
    with torch.no_grad():
        state = torch.zeros((1, 2, proprio)) if proprio else None
        context = model.observe(frames, torch.zeros((1, 1, size)), torch.ones((1, 2), dtype=torch.bool), state)
        views = model.imagine(context, torch.zeros((1, 1, 1, size)))
        if not views.view("pooled").isfinite().all():
            raise UnusableError("imagined paths are not finite numbers")


# --- the kinds


def make_exported(format: str, path: str) -> None:
    made_sets.ours(Path("ours/trajectories.h5"))
    give(format, path)
    shutil.rmtree("ours")


def make_kinds() -> dict[str, Kind]:
    """Ten kinds of data and four of weights."""
    paths = {"robomimic": "set.hdf5", "ogbench": "visual-maze-v0.npz", "minari": "set", "lerobot": "set"}
    exported = {"robomimic": "set.hdf5", "ogbench": "set.npz", "minari": "set-v0", "lerobot": "set"}
    kinds = {name: Kind(path, partial(made, name), partial(read_data, name, path)) for name, path in paths.items()}
    kinds["droid"] = Kind(
        "set", lambda: write_example(Path("set"), 3, 20, (32, 48)), partial(read_data, "droid", "set")
    )
    kinds["ours"] = Kind("set/trajectories.h5", partial(made_sets.ours, Path("set/trajectories.h5")), read_ours)
    for name, path in exported.items():
        kinds[f"exported {name}"] = Kind(path, partial(make_exported, name, path), partial(read_data, name, path))
    return kinds | {
        "official": Kind(
            "set.pt", lambda: export_official(Path("set.pt"), *make_networks()), partial(read_weights, "set.pt")
        ),
        "huggingface": Kind(
            "set", lambda: export_huggingface(Path("set"), *make_networks()), partial(read_weights, "set")
        ),
        "encoder": Kind("set", lambda: save_encoder(Path("set/model"), make_networks()[0], {}), read_encoder),
        "dynamics": Kind("set", lambda: save_dynamics(Path("set/model"), dynamics("tokens"), {}), read_dynamics),
    }


KINDS = make_kinds()


# --- reading one input


@contextlib.contextmanager
def watch_opened(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """Yields a function that lists the files of a tree that were opened since the start; [] where Linux' inotify is
    missing."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "inotify_init1"):
        yield list
        return
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    for path in (folder, *folder.rglob("*")):
        if libc.inotify_add_watch(watcher, os.fsencode(path), IN_OPEN) < 0:
            raise OSError(f"{path} cannot be watched")

    def list_opened() -> list[str]:
        try:
            return [str(os.read(watcher, 1 << 16))]
        except BlockingIOError:
            return []

    try:
        yield list_opened
    finally:
        os.close(watcher)


def is_ours(error: BaseException) -> bool:
    """Whether a line of the project raised an exception on purpose: a library's own words name no file."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(frame.filename)
    return path.is_relative_to(HOME) and path.relative_to(HOME).parts[0] in PACKAGES


def read_input(kind: str, number: int) -> Ending:
    """Read the input in the current folder."""
    said = io.StringIO()
    with (
        watch_opened(Path("outside").resolve()) as list_opened,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", RuntimeWarning)
        try:
            KINDS[kind].read()
            how, sentence = "accepted", ""
        except UnusableError as error:
            how, sentence = "unusable", str(error)
        except Exception as error:
            sentence = explain(error)[1]
            how = "internal" if "--traceback" in sentence or is_memory_short(error) or not is_ours(error) else "refused"
            if how == "internal":
                sentence = "".join([sentence, "\n", *traceback.format_exception(error)[-12:]])
        opened = list_opened()
    if opened or MARKER in said.getvalue() + sentence:
        how, sentence = "read outside", f"{opened} {said.getvalue()} {sentence}"
    return Ending(kind, number, how, sentence)


def prepare_input(kind: str, number: int, seed: int, whole: Path, folder: Path) -> None:
    """Copy a whole input into `folder`, change one file, and put copies beside it that nothing may open."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    outside = folder / "outside"
    shutil.copytree(whole, outside)
    (outside / "marker.txt").write_text(MARKER * 5000)
    if (whole / "set").is_dir():  # paths that climb out of the set's folder find their copies, too
        shutil.copytree(whole / "set", outside, dirs_exist_ok=True)
    links = (folder / KINDS[kind].path).is_dir()
    rng = random.Random(f"{seed} {kind} {number}")
    Mutator(rng, folder, outside, links).change_file(rng.choice(files))
    if kind == "ours" and rng.random() < 0.6:
        restore_checksums(folder / KINDS[kind].path)


def serve_inputs(connection: Connection, seed: int, folder: Path) -> None:
    """Read the inputs whose kind and number come over the connection, and send their endings back."""
    while True:
        kind, number = connection.recv()
        whole = folder / kind
        if not whole.exists():
            whole.mkdir()
            with contextlib.chdir(whole), contextlib.redirect_stdout(io.StringIO()):
                KINDS[kind].make()
        with tempfile.TemporaryDirectory(dir=folder) as place:
            prepare_input(kind, number, seed, whole, Path(place))
            with contextlib.chdir(place):
                ending = read_input(kind, number)
        connection.send(ending)


# --- all inputs


class Examiner:
    """Another process that reads inputs, with its files in `folder`; one that dies or hangs is replaced."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed, self._folder = seed, folder
        self._process: Any = None
        self._pipe: Any = None

    def examine(self, kind: str, numbers: Sequence[int]) -> list[Ending]:
        """How the inputs of a kind end."""
        return [self._examine_one(kind, number, more_s=0 if at else 30) for at, number in enumerate(numbers)]

    def _examine_one(self, kind: str, number: int, more_s: float) -> Ending:
        """more_s: for making the whole input, and for the imports of a new process."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, there = context.Pipe()
            arguments = (there, self._seed, self._folder)
            self._process = context.Process(target=serve_inputs, args=arguments, daemon=True)
            self._process.start()
            there.close()
        self._pipe.send((kind, number))
        try:
            ending = self._pipe.recv() if self._pipe.poll(LIMIT_S + more_s) else Ending(kind, number, "hang")
        except EOFError:
            self._process.join()
            ending = Ending(kind, number, "internal", f"the process died: {self._process.exitcode}")
        if ending.how == "hang" or not self._process.is_alive():
            self.close()
        return ending

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def format_counts(endings: Sequence[Ending]) -> str:
    """A line for each kind, and a sum."""
    counts = Counter((ending.kind, ending.how) for ending in endings)
    kinds = list(dict.fromkeys(ending.kind for ending in endings))
    rows = [(kind, *(str(counts[kind, how]) for how in ENDINGS)) for kind in kinds]
    sums = [str(sum(ending.how == how for ending in endings)) for how in ENDINGS]
    lines = [("kind", *ENDINGS), ("---",) * (1 + len(ENDINGS)), *rows, ("all", *sums)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of the command."""

    seed: int = 0
    """seed of the changes"""
    each: int = 30
    """inputs of each kind"""
    kinds: tuple[str, ...] = tuple(KINDS)
    """kinds of input"""


def main(argv: Sequence[str]) -> int:
    """Examine the inputs, print the faults and the counts; 1 if there is a fault."""
    from commands.config.compose import nest_overrides
    from commands.config.schema import build

    config = build(Config, nest_overrides(argv))
    endings: list[Ending] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Examiner(config.seed, Path(folder))) as examiner:
        for kind in config.kinds:
            endings += examiner.examine(kind, range(config.each))
    faults = [ending for ending in endings if ending.how in FAULTS]
    print(*faults, format_counts(endings), sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
