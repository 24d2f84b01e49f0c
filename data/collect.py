"""Collecting: an environment and a behaviour policy fill a trajectory file, one process a core.

Episode i is a function of (seed, i) alone, so neither the number of processes nor interruptions change the
file: whoever is free takes the next episode that is missing, and the same command later goes on where the
file ends. The environment is anything with the GoalEnv contract (reset, step, get_state, factors,
action_space, task); this module imports none.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.disk import PathLike
from data.mapped import create_file
from data.policies import Policy, PolicyConfig, make_policy
from data.schema import Column, StoreError, StoreInfo, plan_episodes
from data.store import Reader, Writer, pack_file

Progress = Callable[[int, int], None]
MakeEnv = Callable[[], Any]
_GOAL_KEYS = ("pixels", "goal_pixels")


@dataclass(frozen=True)
class CollectConfig:
    """What to collect: `episodes` of `frames` frames each (`frames` - 1 environment steps), and how.

    `workers` processes share the work (0: one a core; 1: in this process). `compression` of the pictures (none or gzip)
    is done once all episodes are there, and changes nothing that is read. `env_id` and `env_kwargs` are
    written into the file and compared with it; `env_id` defaults to the name of the environment's task.
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
        """ValueError names the key that is out of range."""
        for key, least in (("episodes", 1), ("frames", 2), ("seed", 0), ("workers", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key}={getattr(self, key)}: give at least {key}={least}")
        if self.compression not in ("none", "gzip"):
            raise ValueError(f"compression={self.compression}: choose none or gzip")

    @property
    def source(self) -> dict[str, Any]:
        """What decides the file's content beside the environment, as it is kept in the file."""
        return {
            "episodes": self.episodes,
            "frames": self.frames,
            "seed": self.seed,
            "policy": asdict(self.policy),
        }


@dataclass(frozen=True)
class CollectResult:
    """What a call did: episodes in the file, those added now, the damaged ones among these, seconds."""

    episodes: int
    added: int
    repaired: tuple[int, ...]
    seconds: float


def collect(
    path: PathLike, make_env: MakeEnv, config: CollectConfig, progress: Progress | None = None
) -> CollectResult:
    """Brings the file at `path` to `config.episodes` complete episodes; `progress(done, total)` after each.

    A file that is there is gone on with, if it was begun with the same configuration (workers aside), else
    left as it is with a StoreError. Episodes whose checksum fails are collected again. `make_env` must be
    picklable where several processes work.
    """
    path, begun = Path(path), time.monotonic()
    missing = np.arange(config.episodes)
    damaged: tuple[int, ...] = ()
    if path.exists():
        reader = Reader(path, on_damaged="skip")
        _check_same(path, reader.info, config)
        missing, damaged = np.setdiff1d(missing, reader.episodes()), reader.damaged
    if missing.size:
        workers = min(config.workers or count_cores(), missing.size)
        fill = _fill_here if workers == 1 else _fill_in_processes
        with closing(fill(path, make_env, config, missing.tolist(), workers)) as written:
            for done, _ in enumerate(written, config.episodes - missing.size + 1):
                if progress is not None:
                    progress(done, config.episodes)
    if config.compression == "gzip":
        pack_file(path)
    return CollectResult(config.episodes, missing.size, damaged, time.monotonic() - begun)


# --- one episode


def record_episode(
    env: Any, policy: Policy, seed: int, split: str, frames: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Plays an episode of a split: columns [frames,...] (`action` [frames-1,A]) and the factors of its model.

    The environment is told the split, so that it can keep what it evaluates on (a maze's layouts) out of training.
    """
    observation, info = env.reset(seed=seed, options={"split": split})
    policy.reset(np.random.default_rng(np.random.SeedSequence([seed, 1])))
    keys = [key for key in observation if key not in _GOAL_KEYS]
    rows: dict[str, list[Any]] = {name: [] for name in ("pixels", "action", "state", "truth", *keys)}
    for step in range(frames):
        for name in ("pixels", *keys):
            rows[name].append(np.array(observation[name]))
        rows["state"].append(env.get_state())
        rows["truth"].append(np.array(info["truth"]))
        if step < frames - 1:
            action = policy.act(env)
            rows["action"].append(action)
            observation, _, _, _, info = env.step(action)
    columns = {name: np.stack(values) for name, values in rows.items()}
    columns["time_s"] = np.arange(frames) * env.task.control_step_s
    return columns, dict(env.get_factors())


def describe_env(env: Any, config: CollectConfig) -> StoreInfo:
    """The facts of a file that this environment fills."""
    task = env.task
    observation, _ = env.reset(seed=0)
    extra = [Column(k, np.shape(v), str(v.dtype)) for k, v in observation.items() if k not in _GOAL_KEYS]
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
        extra=tuple(extra),
        render=dict(env.get_render_settings()) if hasattr(env, "get_render_settings") else {},
        source=config.source,
    )


def _prepare_file(path: Path, info: StoreInfo, config: CollectConfig) -> None:
    """Creates the file, or compares the one there with what the environment says now."""
    if not path.exists():
        create_file(path, info, plan_episodes(config.episodes, config.frames, config.seed))
        return
    _require_same(path, StoreInfo.find_differences(Reader(path, verify=False).info, info), "the environment's")


def _check_same(path: Path, found: StoreInfo, config: CollectConfig) -> None:
    """StoreError if the file was begun by another command."""
    keys = [key for key, value in config.source.items() if found.source.get(key) != value]
    keys += ["env_id"] if config.env_id and config.env_id != found.env_id else []
    keys += ["env_kwargs"] if dict(config.env_kwargs) != dict(found.env_kwargs) else []
    _require_same(path, keys, "this command's")


def _require_same(path: Path, differing: list[str], whose: str) -> None:
    if differing:
        raise StoreError(
            f"{path} was begun with another configuration ({whose} {', '.join(differing)} differ): "
            f"go on with the same one, or collect into another file (a Reader takes several)"
        )


# --- who does it


def _fill_here(
    path: Path, make_env: MakeEnv, config: CollectConfig, missing: list[int], _: int
) -> Generator[int, None, None]:
    """Fills the missing episodes in this process, giving out each index when it is written."""
    env = make_env()
    try:
        _prepare_file(path, describe_env(env, config), config)
        writer, policy = Writer(path), make_policy(config.policy, env.task.control_step_s)
        for index in missing:
            writer.write(index, *record_episode(env, policy, writer.seed(index), writer.split(index), config.frames))
            yield index
    finally:
        env.close()


def _fill_in_processes(
    path: Path, make_env: MakeEnv, config: CollectConfig, missing: list[int], workers: int
) -> Generator[int, None, None]:
    """The same with `workers` processes, each given its next episode when it has written the last."""
    todo = iter(missing)
    ready = False
    with _start_workers(path, make_env, config, workers) as crew:
        while crew:
            for connection in wait(list(crew)):
                assert isinstance(connection, Connection)
                kind, value = _receive_message(connection, crew[connection])
                if kind == "info" and not ready:
                    _prepare_file(path, value, config)
                    ready = True
                if kind == "wrote":
                    yield value
                index = next(todo, None)
                connection.send(index)
                if index is None:
                    crew.pop(connection).join()


@contextmanager
def _start_workers(
    path: Path, make_env: MakeEnv, config: CollectConfig, workers: int
) -> Iterator[dict[Connection, BaseProcess]]:
    """Processes by the connection to each; whoever still works at the end is stopped, which harms no file."""
    context = get_context("spawn")  # a forked process would share this one's OpenGL and threads
    crew: dict[Connection, BaseProcess] = {}
    everyone: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(workers):
            mine, its = context.Pipe()
            args = (its, path, make_env, config)
            process: BaseProcess = context.Process(target=_run_worker, args=args, daemon=True)
            process.start()
            its.close()
            crew[mine] = everyone[mine] = process
        yield crew
    finally:
        for connection, process in everyone.items():
            process.terminate()
            connection.close()
        for process in everyone.values():
            process.join()


def _receive_message(connection: Connection, process: BaseProcess) -> tuple[str, Any]:
    """A worker's next word; its failure, or its death, as an exception."""
    try:
        kind, value = connection.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"a collecting process ended with exit code {process.exitcode} (out of memory, or stopped from "
            f"outside); complete episodes are kept: the same command goes on"
        ) from None
    if kind == "failed":
        error, text = value
        error.add_note(text)
        raise error
    return kind, value


def _run_worker(connection: Connection, path: Path, make_env: MakeEnv, config: CollectConfig) -> None:
    """A worker's life: describe the environment, then write episodes as told until told to stop or left
    alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    try:
        env = make_env()
        policy = make_policy(config.policy, env.task.control_step_s)
        connection.send(("info", describe_env(env, config)))
        writer: Writer | None = None
        while (index := connection.recv()) is not None:
            writer = writer or Writer(path)
            writer.write(index, *record_episode(env, policy, writer.seed(index), writer.split(index), config.frames))
            connection.send(("wrote", index))
        env.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone; what is complete stays
    except Exception as error:
        connection.send(("failed", (_make_picklable(error), "in a collecting process:\n" + traceback.format_exc())))


def _make_picklable(error: Exception) -> Exception:
    """The error, or its text if the other side could not unpickle it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def count_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
