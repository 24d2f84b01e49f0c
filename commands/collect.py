"""`jepa collect`: let a behaviour policy act in an environment and write an HDF5 trajectory file."""

from __future__ import annotations

import functools
from typing import Any

import envs
from commands.config.compose import build
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.shared.runs import RunFolder
from data.collect import CollectConfig
from data.collect import collect as collect_file
from data.policies import PolicyConfig
from data.store import Reader

FILE = "trajectories.h5"
PREVIEW_EPISODES = 4


def collect_config(config: dict[str, Any]) -> CollectConfig:
    """What to collect, from the configuration of a command with the groups env and data."""
    data, env = config["data"], config["env"]
    # Without factors the file says what it said before there were any.
    kwargs = env["kwargs"] | ({"factors": env["factors"]} if env["factors"] else {})
    return CollectConfig(
        episodes=data["episodes"],
        frames=data["frames"],
        seed=config["seed"],
        workers=config["workers"],
        compression=data["compression"],
        policy=build(PolicyConfig, data["policy"], "data.policy"),
        env_id=env["name"],
        env_kwargs=kwargs,
    )


def check(config: dict[str, Any]) -> None:
    """Unknown environments and values out of range, before anything is written: where there are arguments by making
    one."""
    wanted = collect_config(config)
    if not wanted.env_kwargs:
        envs.task(wanted.env_id)
        return
    try:
        envs.make(wanted.env_id, **wanted.env_kwargs).close()
    except TypeError as error:
        raise UsageError(f"env.kwargs={wanted.env_kwargs}: {error}") from error


def run(config: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """Collect into the run folder, going on where an interrupted run stopped."""
    summary = collect_into(folder.path / FILE, config, console)
    write_preview(Reader(folder.path / FILE, verify=False), folder.path / "preview.gif")
    folder.finish(summary)


def collect_into(path: Any, config: dict[str, Any], console: Console) -> str:
    """Fill the file at `path`; returns what was done in one line."""
    wanted = collect_config(config)
    make_env = functools.partial(envs.make, wanted.env_id, **wanted.env_kwargs)
    with console.progress("collect", wanted.episodes, "episodes") as progress:
        done = collect_file(path, make_env, wanted, lambda count, total: progress.update(count))
    frames = wanted.episodes * wanted.frames
    mended = f", {len(done.mended)} damaged ones collected again" if done.mended else ""
    return f"{frames} frames in {wanted.episodes} episodes{mended}, {done.seconds:.1f} s, {path}"


def write_preview(reader: Reader, path: Any) -> None:
    """An animation of the first few episodes side by side."""
    import imageio.v3 as iio
    import numpy as np

    episodes = reader.episodes()[:PREVIEW_EPISODES]
    frames = [reader.column("pixels", int(episode)) for episode in episodes]
    length = min(map(len, frames))
    strip = np.concatenate([clip[:length] for clip in frames], axis=2)
    iio.imwrite(path, strip.repeat(2, 1).repeat(2, 2), duration=100, loop=0)
