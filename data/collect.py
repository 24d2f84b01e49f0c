"""Collecting: an environment and a behaviour policy fill a trajectory file, with one process a core.

Episode i is a function of (seed, i) alone, so neither the number of processes nor interruptions change the file: a free
process takes the next missing episode, and the same command resumes where the file ends. The environment is anything
with the GoalEnv contract (reset, step, get_state, get_factors, action_space, task); this module imports none.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.checks import check_memory
from data.disk import PathLike, check_free_space
from data.mapped import create_file
from data.packing import pack_file
from data.policies import PolicyConfig, sample_actions
from data.schema import Column, StoreError, StoreInfo, plan_episodes
from data.store import Reader, Writer

Progress = Callable[[int, int], None]
MakeEnv = Callable[[], Any]
LEAST_FRAME_BYTES = 3 * 8 * 8 + 64  # of a frame in the file: a picture of 8 x 8 pixels, action, state and truth
EPISODE_BYTES = 256  # of memory that an episode's number, seed, split and length take
WORKER_FRAMES = 2000  # that take as long as the start of a process
_GOAL_KEYS = ("pixels", "goal_pixels")


@dataclass(frozen=True)
class CollectConfig:
    """`episodes` of `frames` frames each (`frames` - 1 environment steps), and how they are collected.

    workers: processes (0: one a core, as far as each has WORKER_FRAMES to collect; 1: this one). compression: of the
    pixels (none or gzip), once all episodes are complete; it changes nothing that is read. env_id, env_kwargs: written
    into the file and compared with it; env_id defaults to the name of the environment's task.
    """

    episodes: int = 500
    frames: int = 41
    seed: int = 0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    workers: int = 0
    compression: Literal["none", "gzip"] = "none"
    env_id: str = ""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, least in (("episodes", 1), ("frames", 2), ("seed", 0), ("workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key}={getattr(self, key)}: give at least {key}={least}")
        if self.compression not in ("none", "gzip"):
            raise ValueError(f"compression={self.compression}: choose none or gzip")

    @property
    def source(self) -> dict[str, Any]:
        """The keys that determine the file's content beside the environment, as the file stores them."""
        return {key: asdict(self)[key] for key in ("episodes", "frames", "seed", "policy")}


@dataclass(frozen=True)
class CollectResult:
    """Number of episodes added, which of them replaced damaged ones, and wall time."""

    added: int
    repaired: tuple[int, ...]
    seconds: float


def collect(
    path: PathLike, make_env: MakeEnv, config: CollectConfig, progress: Progress = lambda done, total: None
) -> CollectResult:
    """Completes the file at `path` to `config.episodes` episodes; `progress(done, total)` after each.

    An existing file is resumed if it was begun with the same configuration (workers aside); otherwise it is left as it
    is, with a StoreError. Episodes whose checksum fails are collected again. With several processes `make_env` must be
    picklable.
    """
    path, begin = Path(path), time.monotonic()
    check_room(path, config)
    missing = np.arange(config.episodes)
    damaged: tuple[int, ...] = ()
    if path.exists():
        reader = Reader(path, on_damaged="skip")
        keys = [key for key, value in config.source.items() if reader.info.source.get(key) != value]
        keys += ["env_id"] if config.env_id not in ("", reader.info.env_id) else []
        keys += ["env_kwargs"] if dict(config.env_kwargs) != dict(reader.info.env_kwargs) else []
        _require_same(path, keys, "this command's")
        missing, damaged = np.setdiff1d(missing, reader.episodes()), reader.damaged
    if missing.size:
        worth = max(1, missing.size * config.frames // WORKER_FRAMES)
        workers = min(config.workers or min(count_cores(), worth), missing.size)
        fill = _fill_here if workers == 1 else _fill_in_processes
        with closing(fill(path, make_env, config, missing.tolist(), workers)) as written:
            for done, _ in enumerate(written, config.episodes - missing.size + 1):
                progress(done, config.episodes)
    if config.compression == "gzip":
        pack_file(path)
    return CollectResult(missing.size, damaged, time.monotonic() - begin)


def check_room(path: Path, config: CollectConfig) -> None:
    """StoreError or FileError if the file could not hold so many frames, or memory so many episodes, however small."""
    if not path.exists():
        check_free_space(path, config.episodes * config.frames * LEAST_FRAME_BYTES)
    what, mend = f"collecting episodes={config.episodes} frames={config.frames}", "ask for fewer, or shorter ones"
    check_memory(what, config.episodes * EPISODE_BYTES + config.frames * LEAST_FRAME_BYTES, mend)


# --- one episode


def record_episode(
    env: Any, policy: PolicyConfig, seed: int, split: str, frames: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Plays an episode: columns [frames,...] (`action` [frames-1,A]) and the factors of its model.

    It has fewer frames where the simulator ends it: a step that is terminated or truncated is not recorded, since what
    follows may be the start of another episode. The environment gets the split, so that it can keep its evaluation
    cases (a maze's layouts) out of training.
    """
    observation, info = env.reset(seed=seed, options={"split": split})
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    actions = sample_actions(policy, env, rng, env.task.control_step_s)
    keys = [key for key in observation if key not in _GOAL_KEYS]
    rows: dict[str, list[Any]] = {name: [] for name in ("pixels", "action", "state", "truth", *keys)}
    for step in range(frames):
        for name in ("pixels", *keys):
            rows[name].append(np.array(observation[name]))
        rows["state"].append(env.get_state())
        rows["truth"].append(np.array(info["truth"]))
        if step == frames - 1:
            break
        action = next(actions)
        observation, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
        rows["action"].append(action)
    taken = np.array(rows.pop("action"), np.float32).reshape(len(rows["pixels"]) - 1, len(env.action_space.low))
    columns = {"action": taken, **{name: np.stack(values) for name, values in rows.items()}}
    columns["time_s"] = np.arange(len(taken) + 1) * env.task.control_step_s
    return columns, dict(env.get_factors())


def describe_env(env: Any, config: CollectConfig) -> StoreInfo:
    """The facts of a file that this environment fills."""
    task = env.task
    observation, _ = env.reset(seed=0)
    return StoreInfo(
        env_id=config.env_id or task.name,
        env_kwargs=dict(config.env_kwargs),
        action_low=tuple(env.action_space.low.tolist()),
        action_high=tuple(env.action_space.high.tolist()),
        action_names=tuple(task.action_names),
        step_s=float(task.control_step_s),
        frame_hwc=observation["pixels"].shape,
        truth_names=tuple(task.truth_names),
        truth_units=tuple(task.truth_units),
        state_size=len(env.get_state()),
        factors=tuple(Column(name, np.shape(value), "float64") for name, value in env.get_factors().items()),
        extra=tuple(Column(k, np.shape(v), str(v.dtype)) for k, v in observation.items() if k not in _GOAL_KEYS),
        render=dict(env.get_render_settings()) if hasattr(env, "get_render_settings") else {},
        source=config.source,
    )


def _prepare_file(path: Path, info: StoreInfo, config: CollectConfig) -> None:
    """Creates the file, or compares an existing one with the environment."""
    if path.exists():
        _require_same(path, Reader(path, verify=False).info.find_differences(info), "the environment's")
    else:
        create_file(path, info, plan_episodes(config.episodes, config.frames, config.seed))


def _require_same(path: Path, differing: list[str], whose: str) -> None:
    if differing:
        raise StoreError(
            f"{path} was begun with another configuration ({whose} {', '.join(differing)} differ): "
            f"go on with the same one, or collect into another file (a Reader takes several)"
        )


# --- processes


def _fill_here(
    path: Path, make_env: MakeEnv, config: CollectConfig, missing: list[int], workers: int
) -> Generator[int, None, None]:
    """Fills the missing episodes in this process; yields each index when it is written."""
    env = make_env()
    try:
        _prepare_file(path, describe_env(env, config), config)
        writer = Writer(path)
        for index in missing:
            _write_episode(writer, env, config, index)
            yield index
    finally:
        env.close()


def _write_episode(writer: Writer, env: Any, config: CollectConfig, index: int) -> None:
    seed, split = writer.seed(index), writer.split(index)
    writer.write(index, *record_episode(env, config.policy, seed, split, config.frames))


def _fill_in_processes(
    path: Path, make_env: MakeEnv, config: CollectConfig, missing: list[int], workers: int
) -> Generator[int, None, None]:
    """The same by `workers` processes, each of which gets its next episode when it has written the last.

    A process that still works at the end is stopped, which harms no file.
    """
    context = get_context("spawn")  # a forked process would share this one's OpenGL and threads
    processes: dict[Connection, BaseProcess] = {}
    todo = iter(missing)
    try:
        for _ in range(workers):
            connection, remote = context.Pipe()
            process: BaseProcess = context.Process(
                target=_run_worker, args=(remote, path, make_env, config), daemon=True
            )
            process.start()
            remote.close()
            processes[connection] = process
        active = dict(processes)
        while active:
            for ready in wait(list(active)):
                assert isinstance(ready, Connection)
                message = _receive_message(ready, active[ready])
                if isinstance(message, StoreInfo):
                    _prepare_file(path, message, config)
                else:
                    yield message
                index = next(todo, None)
                _send_index(ready, active[ready], index)
                if index is None:
                    active.pop(ready).join()
    finally:
        for connection, process in processes.items():
            process.terminate()
            connection.close()
            process.join()


def _receive_message(connection: Connection, process: BaseProcess) -> StoreInfo | int:
    """A worker's StoreInfo, or the index that it wrote; its failure or its death is raised."""
    try:
        message, note = connection.recv()
    except (EOFError, ConnectionResetError):
        raise _describe_death(process) from None
    if isinstance(message, Exception):
        message.add_note(note)
        raise message
    return message


def _send_index(connection: Connection, process: BaseProcess, index: int | None) -> None:
    """Give a worker its next episode, or None: no more. Its death is raised."""
    try:
        connection.send(index)
    except (BrokenPipeError, ConnectionResetError):
        raise _describe_death(process) from None


def _describe_death(process: BaseProcess) -> RuntimeError:
    process.join()
    return RuntimeError(
        f"a collecting process ended with exit code {process.exitcode} (out of memory, or stopped from "
        f"outside); complete episodes are kept: the same command goes on"
    )


def _run_worker(connection: Connection, path: Path, make_env: MakeEnv, config: CollectConfig) -> None:
    """A worker: sends its environment's facts, then writes the episodes that it receives, until it receives None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    try:
        env = make_env()
        connection.send((describe_env(env, config), ""))
        writer: Writer | None = None  # opened once the parent has created the file
        while (index := connection.recv()) is not None:
            writer = writer or Writer(path)
            _write_episode(writer, env, config, index)
            connection.send((index, ""))
        env.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent died; complete episodes stay
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        connection.send((error, "in a collecting process:\n" + traceback.format_exc()))


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
