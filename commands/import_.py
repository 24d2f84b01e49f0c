"""`jepa import`: trajectories of another format -> our HDF5 file, at one rate and one picture size.

Two passes: the first reads everything but pictures, so that the file can be laid out and its actions' bounds are known;
the second decodes, an episode after the other, and goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from commands.shared.runs import RunFolder, write_atomic
from commands.transfer.collection import FILE, write_preview
from commands.transfer.formats import make_format
from commands.transfer.keys import ImportKeys
from commands.transfer.recordings import Facts, Recording, RecordingFormat, check_recording
from data.mapped import create_file
from data.packing import pack_file
from data.pictures import View
from data.schema import SPLITS, EpisodePlan, StoreError, StoreInfo, draw_splits
from data.store import Reader, Writer

BOUND_QUANTILE = 0.999  # share of the train actions that lie within the bounds, number by number
LEAST_BOUND = 1e-3  # of an action that hardly ever changes
MOST_NOTES = 10  # lines about odd trajectories that are shown
NAMED = 3  # trajectories left out that are named; the rest are counted
LEAST_TRAJECTORIES = 3  # one each for train, val and eval


@dataclass(frozen=True, kw_only=True)
class Config(ImportKeys):
    """Keys of `jepa import`."""

    compression: Literal["none", "gzip"] = "none"
    """compression of pictures once all episodes are written: none, or gzip (a fraction of the disk, slower reads)"""


def check(config: Config) -> None:
    """What can be known before a folder is made."""
    if config.environment is not None and config.format == "droid":
        raise UsageError(f"environment={config.environment}: there is no simulator of format=droid")
    make_format(config).find(Path(config.path))


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Import into the run folder, going on where an interrupted run stopped."""
    summary = import_into(folder.path, config, console)
    write_preview(Reader(folder.path / FILE, verify=False), folder.path / "preview.gif")
    console.say(f"import: {summary}")
    folder.finish(summary)


def import_into(folder: Path, config: Config, console: Console) -> str:
    """Fill the file in `folder`; returns what was done in one line."""
    form, path = make_format(config), folder / FILE
    recordings, left_out = read_all(form, Path(config.path), console)
    if not recordings:
        raise RunError(f"none of the {len(left_out)} trajectories in {config.path} can be used: {left_out[0]}")
    facts = form.collect_facts()
    for line in facts.summary:
        console.say(line)
    exported = facts.origin is not None
    if not exported:
        check_number(recordings, left_out, config)
    splits = assign_splits(recordings, exported, config, console)
    info = make_store_info(facts, recordings, splits, config, console)
    if not path.exists():
        seeds = np.array([recording.seed for recording in recordings], np.int64)
        create_file(path, info, EpisodePlan(count_frames(recordings), seeds, splits))
    elif info.find_differences(Reader(path, verify=False).info, but=("render",)):
        raise StoreError(f"{path} was begun from other trajectories: remove it, or give another name=")
    if not Reader(path, verify=False).packed:
        left_out += write_all(path, recordings, facts.frame_hw, config.view, console)
        for note in form.list_picture_notes():
            console.warn(f"jepa import: {note}")
    reader = Reader(path, verify=False)
    check_splits(reader, splits, config, left_out)
    if config.compression == "gzip":
        pack_file(path)
    write_atomic(folder / "episodes.jsonl", format_episode_lines(recordings, reader))
    if left_out:
        console.warn(format_left_out(left_out, "jepa import: left out "))
    lengths = reader.lengths(reader.episodes())
    without = f", {len(left_out)} left out" if left_out else ""
    return f"{lengths.sum()} frames in {len(lengths)} episodes at {1 / facts.step_s:g} a second{without}, {path}"


def format_left_out(left_out: Sequence[str], begin: str) -> str:
    """The number of trajectories and files that are left out, and why, of the first few; "" for none."""
    more = "; ..." if len(left_out) > NAMED else ""
    return f"{begin}{len(left_out)}: {'; '.join(left_out[:NAMED])}{more}" if left_out else ""


def read_all(form: RecordingFormat, folder: Path, console: Console) -> tuple[list[Recording], list[str]]:
    """Read all trajectories: those that can be used, and for each other one the reason. Notes are printed."""
    trajectories = form.find(folder)
    recordings: list[Recording] = []
    left_out = list(form.left_out)
    notes: list[str] = []
    with console.progress("read", len(trajectories), "trajectories") as progress:
        for trajectory in trajectories:
            try:
                recordings.append(check_recording(form.read(trajectory)))
                notes += recordings[-1].notes
            except ValueError as error:
                left_out.append(str(error))
            progress.advance()
    for note in notes[:MOST_NOTES]:
        console.warn(f"jepa import: {note}")
    if len(notes) > MOST_NOTES:
        console.warn(f"jepa import: {len(notes) - MOST_NOTES} more such lines are not shown")
    return recordings, left_out


def check_number(recordings: Sequence[Recording], left_out: Sequence[str], config: Config) -> None:
    """RunError for too few trajectories to train on, choose by and report."""
    if len(recordings) < LEAST_TRAJECTORIES:
        raise RunError(
            f"{config.path} has {len(recordings)} trajectories that can be used, and {LEAST_TRAJECTORIES} are the "
            f"least, one each for train, val and eval{format_left_out(left_out, '; left out ')}"
        )


def assign_splits(
    recordings: Sequence[Recording], exported: bool, config: Config, console: Console
) -> NDArray[np.uint8]:
    """The split of each, as an index into SPLITS: the format's own, else drawn. The choice is printed.

    exported: whether all have the splits of a file of ours, which stay. Otherwise half of the validation episodes of a
    format without `eval` become `eval`, and splits without train or val are of no use and are drawn anew.
    """
    given = [recording.split for recording in recordings]
    how = "drawn"
    if exported or None not in given and {"train", "val"} <= set(given):
        splits = np.array([SPLITS.index(str(name)) for name in given], np.uint8)
        how = "as in the data set"
        held_out = np.flatnonzero(splits == SPLITS.index("val"))
        if not exported and "eval" not in given and len(held_out) > 1:
            chosen = np.random.default_rng([config.seed, 73]).permutation(held_out)[: len(held_out) // 2]
            splits[chosen] = SPLITS.index("eval")
            how = "as in the data set, half of the validation episodes for eval"
    else:
        if None not in given:
            how = f"drawn, since the data set has {' and '.join(sorted(set(map(str, given))))} alone"
        splits = draw_splits(config.seed, len(recordings))
    counts = ", ".join(f"{name} {(splits == k).sum()}" for k, name in enumerate(SPLITS))
    console.say(f"splits, {how}: {counts}")
    return splits


def check_splits(reader: Reader, splits: NDArray[np.uint8], config: Config, left_out: Sequence[str]) -> None:
    """RunError if no episode of train or val is left once all pictures are written."""
    for index, split in enumerate(SPLITS):
        if index in splits and split != "eval" and not reader.episodes(split).size or not reader.episodes().size:
            reason = f": {left_out[-1]}" if left_out else ""
            raise RunError(f"no trajectory of {config.path} is left for the split {split}{reason}")


def make_store_info(
    facts: Facts, recordings: Sequence[Recording], splits: NDArray[np.uint8], config: Config, console: Console
) -> StoreInfo:
    """The facts of the file. Bounds of actions that come from the data are printed."""
    low, high = facts.bounds or measure_bounds(facts, recordings, splits, console)
    extra = tuple(column for column in facts.extra if all(column.name in r.columns for r in recordings))
    for column in facts.extra:
        having = sum(column.name in r.columns for r in recordings)
        if 0 < having < len(recordings):
            console.warn(f"jepa import: {having} of {len(recordings)} trajectories have {column.name}: it is left out")
    sources = [(os.path.relpath(r.source, config.path), len(r.columns["time_s"])) for r in recordings]
    return StoreInfo(
        env_id=facts.env_id,
        env_kwargs=facts.env_kwargs,
        action_low=low,
        action_high=high,
        action_names=facts.action_names,
        step_s=facts.step_s,
        frame_hwc=(*facts.frame_hw, 3),
        truth_names=facts.truth_names,
        truth_units=facts.truth_units,
        state_size=facts.state_size,
        factors=facts.factors,
        extra=extra,
        render=facts.render,
        source={
            "import": facts.settings,
            "trajectories": hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16],
        },
    )


def measure_bounds(
    facts: Facts, recordings: Sequence[Recording], splits: NDArray[np.uint8], console: Console
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Low and high of the actions of train."""
    train = [r.columns["action"] for r, split in zip(recordings, splits, strict=True) if SPLITS[split] == "train"]
    bounds = compute_bounds(np.concatenate(train))
    shown = ", ".join(f"{name} {bound:.3g}" for name, bound in zip(facts.action_names, bounds, strict=True))
    console.say(f"action bounds, +- the {BOUND_QUANTILE:.1%} quantile of train: {shown}")
    return tuple(-bounds), tuple(bounds)


def compute_bounds(actions_NA: NDArray[np.float32]) -> NDArray[np.float64]:
    """Half range [A] of each number of an action, symmetric around 0; outliers lie outside."""
    return np.quantile(np.abs(actions_NA).astype(np.float64), BOUND_QUANTILE, axis=0).clip(LEAST_BOUND)


def write_all(
    path: Path, recordings: Sequence[Recording], frame_hw: tuple[int, int], view: View, console: Console
) -> list[str]:
    """Decode and write the episodes that are missing; returns why some cannot be."""
    writer, left_out = Writer(path), []
    names = {column.name for column in writer.info.columns}
    missing = np.flatnonzero(~writer.find_complete()).tolist()
    start = len(recordings) - len(missing)
    with console.progress("import", len(recordings), "trajectories", start=start) as progress:
        for index in missing:
            recording = recordings[index]
            columns = {name: column for name, column in recording.columns.items() if name in names}
            try:
                columns["pixels"] = recording.read_pictures(frame_hw, view)
                writer.write(index, columns, recording.factors)
            except ValueError as error:
                left_out.append(str(error) if str(recording.source) in str(error) else f"{recording.source}: {error}")
            progress.advance()
    return left_out


def count_frames(recordings: Sequence[Recording]) -> NDArray[np.int64]:
    """Frames of each."""
    return np.array([len(recording.columns["time_s"]) for recording in recordings], np.int64)


def format_episode_lines(recordings: Sequence[Recording], reader: Reader) -> str:
    """One JSON object an episode of the file: where it came from, its frames and its split."""
    lines = [
        {
            "episode": int(e),
            "source": str(recordings[e].source),
            "frames": reader.num_frames(e),
            "split": reader.split(e),
        }
        for e in reader.episodes()
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)
