"""Collecting: a behaviour policy acts in an environment and fills a trajectory file."""

from __future__ import annotations

import functools
from pathlib import Path

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
    frames = config.episodes * config.frames
    repaired = f", {len(done.repaired)} damaged ones collected again" if done.repaired else ""
    return f"{frames} frames in {config.episodes} episodes{repaired}, {done.seconds:.1f} s, {path}"


def write_preview(reader: Reader, path: Path) -> None:
    """An animation of the first few episodes side by side."""
    import imageio.v3 as iio
    import numpy as np

    episodes = reader.episodes()[:PREVIEW_EPISODES]
    frames = [reader.column("pixels", int(episode)) for episode in episodes]
    length = min(map(len, frames))
    strip = np.concatenate([clip[:length] for clip in frames], axis=2)
    iio.imwrite(path, strip.repeat(2, 1).repeat(2, 2), duration=100, loop=0)
