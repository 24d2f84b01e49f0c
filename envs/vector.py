"""Many environments as one: Gymnasium's vector interface over a few processes.

A worker owns one environment, hence one OpenGL context, and takes its share of the episodes in turn, putting
each aside as a `Session`. A batch therefore equals the same environments run one by one, to the bit, however
many workers there are. Nothing resets by itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

import envs
from envs.goal_env import Session

Batch = dict[str, NDArray[Any]]
Options = dict[str, Any] | Sequence[dict[str, Any] | None] | None

_CLOSE_PATIENCE_S = 5.0


class Multiplexer:
    """One environment that plays `count` episodes in turn."""

    def __init__(self, name: str, count: int, kwargs: dict[str, Any]) -> None:
        self.env = envs.make(name, **kwargs)
        fresh = self.env.save_session()
        self.sessions: list[Session] = [replace(fresh, rng=np.random.default_rng()) for _ in range(count)]

    def spaces(self) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
        """The observation and action space of one environment."""
        return self.env.observation_space, self.env.action_space

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]) -> tuple[Batch, Batch]:
        """Stacked observations and infos of new episodes."""
        results = []
        for index, (seed, option) in enumerate(zip(seeds, options, strict=True)):
            self.env.load_session(self.sessions[index])
            results.append(self.env.reset(seed=seed, options=option))
            self.sessions[index] = self.env.save_session()
        return _stack([obs for obs, _ in results]), _stack([info for _, info in results])

    def step(self, actions: NDArray[np.float32]) -> tuple[Batch, Batch]:
        """Stacked observations and infos after one environment step with actions `[n, A]`."""
        results = []
        for index, action in enumerate(actions):
            self.env.load_session(self.sessions[index])
            obs, _, _, _, info = self.env.step(action)
            results.append((obs, info))
            self.sessions[index] = self.env.save_session()
        return _stack([obs for obs, _ in results]), _stack([info for _, info in results])

    def render(self) -> NDArray[np.uint8]:
        """The current pictures, uint8 `[n, H, W, 3]`."""
        frames = []
        for index, session in enumerate(self.sessions):
            self.env.load_session(session)
            frames.append(self.env.render())
            self.sessions[index] = self.env.save_session()
        return np.stack(frames)

    def get_states(self) -> NDArray[np.float64]:
        """States `[n, S]`."""
        return np.stack([session.state for session in self.sessions])

    def close(self) -> None:
        """Free the OpenGL context."""
        self.env.close()


def _stack(rows: list[dict[str, Any]]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _run_worker(pipe: Connection, name: str, count: int, kwargs: dict[str, Any]) -> None:
    """A worker's life: make the environments, then answer (method, arguments) until told to close."""
    multiplexer: Multiplexer | None = None
    try:
        while True:
            method, arguments = pipe.recv()
            if method == "close":
                break
            try:
                if multiplexer is None:
                    multiplexer = Multiplexer(name, count, kwargs)
                pipe.send((getattr(multiplexer, method)(*arguments), None))
            except Exception as error:
                error.add_note(f"in a worker:\n{traceback.format_exc()}")
                pipe.send((None, error))
    except (EOFError, KeyboardInterrupt):  # the parent is gone, or the user has had enough
        pass
    finally:
        if multiplexer is not None:
            multiplexer.close()


class VectorGoalEnv(VectorEnv[Batch, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` environments of one task.

    With `num_workers=0` they live in this process, else in that many (never more than `num_envs`). Workers
    are spawned, so a script that makes them needs the usual `if __name__ == "__main__":`.
    """

    def __init__(self, name: str, num_envs: int, num_workers: int = 0, **kwargs: Any) -> None:
        """`kwargs` go to `envs.make`. Raises `ValueError` for a number below 1, or an unknown task."""
        if num_envs < 1 or num_workers < 0:
            raise ValueError(f"num_envs={num_envs}, num_workers={num_workers}: at least 1 environment and 0 workers")
        self.num_envs = num_envs
        self.task = envs.get_task(name)  # raises, with the nearest names
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.DISABLED}
        self.render_mode = "rgb_array"
        self.closed = False
        self._local: Multiplexer | None = None
        self._workers: list[Any] = []
        self._pipes: list[Connection] = []
        workers = min(num_workers, num_envs)
        cuts = np.linspace(0, num_envs, max(workers, 1) + 1).astype(int).tolist()
        self._shares = [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        if workers == 0:
            self._local = Multiplexer(name, num_envs, kwargs)
        else:
            self._start_workers(name, kwargs)
        try:
            self.single_observation_space, self.single_action_space = self._call("spaces")[0]
        except Exception:
            self.close()
            raise
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _start_workers(self, name: str, kwargs: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")  # an OpenGL context does not survive a fork
        for share in self._shares:
            ours, theirs = context.Pipe()
            arguments = (theirs, name, share.stop - share.start, kwargs)
            worker = context.Process(target=_run_worker, args=arguments, daemon=True)
            worker.start()
            theirs.close()
            self._workers.append(worker)
            self._pipes.append(ours)

    def _call(self, method: str, *arguments: Sequence[Any] | NDArray[Any]) -> list[Any]:
        """Results of a method, one a share; each argument has a row an environment and is split."""
        assert not self.closed, f"{method} after close"
        if self._local is not None:
            return [getattr(self._local, method)(*arguments)]
        for pipe, share in zip(self._pipes, self._shares, strict=True):
            with contextlib.suppress(OSError):  # a dead worker is named below, where its answer is missing
                pipe.send((method, tuple(argument[share] for argument in arguments)))
        answers = [self._receive(pipe, index) for index, pipe in enumerate(self._pipes)]
        for _, error in answers:  # only now, so that no answer is left in a pipe
            if error is not None:
                raise error
        return [result for result, _ in answers]

    def _receive(self, pipe: Connection, index: int) -> tuple[Any, Exception | None]:
        try:
            return pipe.recv()
        except (EOFError, ConnectionError):
            self._workers[index].join(_CLOSE_PATIENCE_S)
            code = self._workers[index].exitcode
            return None, RuntimeError(f"environment worker {index} died with exit code {code}")

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: Options = None) -> tuple[Batch, Batch]:
        """New episodes: observations `[n, ...]`, and infos `distance` `[n]`, `truth`, `goal_truth` `[n, L]`.

        A single seed gives environment i `seed + i`. `options` is one dict for all or a list with one each.
        """
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + index for index in range(self.num_envs)]
        seeds = self._spread("seed", seed)
        given = [options] * self.num_envs if isinstance(options, dict) else options
        return _join_results(self._call("reset", seeds, self._spread("options", given)))

    def step(
        self, actions: ArrayLike
    ) -> tuple[Batch, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Batch]:
        """One environment step with actions `[n, A]`; rewards are 0 and nothing ends."""
        rows = np.asarray(actions, np.float32)
        if rows.shape != self.action_space.shape:
            raise ValueError(f"actions of shape {rows.shape}, expected {self.action_space.shape}")
        observations, infos = _join_results(self._call("step", rows))
        never = np.zeros(self.num_envs, bool)
        return observations, np.zeros(self.num_envs), never, never.copy(), infos

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """The current pictures, one uint8 `[H, W, 3]` an environment."""
        return tuple(np.concatenate(self._call("render")))

    def get_states(self) -> NDArray[np.float64]:
        """Every environment's state, float64 `[n, S]`."""
        return np.concatenate(self._call("get_states"))

    def _spread(self, name: str, given: Any) -> list[Any]:
        rows = [None] * self.num_envs if given is None else list(given)
        if len(rows) != self.num_envs:
            raise ValueError(f"{name} has {len(rows)} entries for {self.num_envs} environments")
        return rows

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers; called by `close`."""
        if self._local is not None:
            self._local.close()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # this worker is gone already
                pipe.send(("close", ()))
        for worker, pipe in zip(self._workers, self._pipes, strict=True):
            worker.join(_CLOSE_PATIENCE_S)
            if worker.is_alive():
                worker.terminate()
            pipe.close()


def _join_results(parts: list[tuple[Batch, Batch]]) -> tuple[Batch, Batch]:
    observations, infos = zip(*parts, strict=True)
    return _concatenate(observations), _concatenate(infos)


def _concatenate(parts: Sequence[Batch]) -> Batch:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
