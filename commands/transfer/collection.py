"""Collecting: a behaviour policy acts in an environment and fills a trajectory file."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import envs
from commands.config.keys import CollectKeys
from commands.shared.console import Console
from commands.shared.errors import UsageError
from data.collect import CollectConfig, check_room
from data.collect import collect as collect_file
from data.store import Reader

FILE = "trajectories.h5"
PREVIEW_EPISODES = 4


def make_collect_config(keys: CollectKeys) -> CollectConfig:
    """The configuration of `data.collect`."""
    return CollectConfig(
        episodes=keys.data.episodes,
        frames=keys.data.frames,
        seed=keys.seed,
        workers=keys.workers,
        compression=keys.data.compression,
        policy=keys.data.policy,
        env_id=keys.env.name,
        env_kwargs=keys.env.arguments,
    )


def check_collection(keys: CollectKeys) -> None:
    """Raise UsageError for an unknown environment and for arguments that it refuses, before anything is written."""
    config = make_collect_config(keys)
    check_room(Path(keys.runs).expanduser() / FILE, config)
    if not config.env_kwargs:
        envs.get_task(config.env_id)
        return
    try:
        envs.make(config.env_id, **config.env_kwargs).close()
    except TypeError as error:
        raise UsageError(f"env.kwargs={dict(config.env_kwargs)}: {error}") from error


def collect_into(path: Path, keys: CollectKeys, console: Console) -> str:
    """Fill the file at `path`, resuming an interrupted one; returns the result in one line."""
    config = make_collect_config(keys)
    make_env = functools.partial(envs.make, config.env_id, **config.env_kwargs)
    with console.progress("collect", config.episodes, "episodes") as progress:
        done = collect_file(path, make_env, config, lambda count, total: progress.update(count))
    lengths = (reader := Reader(path, verify=False)).lengths(reader.episodes())
    warn_of_ends(config, lengths, console)
    repaired = f", {len(done.repaired)} damaged ones collected again" if done.repaired else ""
    return f"{lengths.sum()} frames in {config.episodes} episodes{repaired}, {done.seconds:.1f} s, {path}"


def warn_of_ends(config: CollectConfig, lengths: NDArray[np.int64], console: Console) -> None:
    """Print where the simulator ended episodes, and where they go beyond its own. lengths: frames of each."""
    task, short = envs.get_task(config.env_id), lengths[lengths < config.frames]
    if sentence := task.describe_time_limit(config.frames - 1):
        console.warn(f"jepa collect: {sentence} here: data.frames={(task.time_limit or 0) + 1} stops there")
    if short.size:
        console.warn(
            f"jepa collect: {task.name} ended {short.size} of {len(lengths)} episodes itself (terminated, truncated or "
            f"reset in a step); they have {short.min()} to {short.max()} of {config.frames} frames"
        )


def write_preview(reader: Reader, path: Path) -> None:
    """An animation of the first few episodes side by side."""
    import imageio.v3 as iio

    episodes = reader.episodes()[:PREVIEW_EPISODES]
    frames = [reader.column("pixels", int(episode)) for episode in episodes]
    length = min(map(len, frames))
    strip = np.concatenate([clip[:length] for clip in frames], axis=2)
    iio.imwrite(path, strip.repeat(2, 1).repeat(2, 2), duration=100, loop=0)
