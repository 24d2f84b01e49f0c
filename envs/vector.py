"""Many environments as one: Gymnasium's vector interface over a few processes.

A worker owns one environment, hence one OpenGL context, and takes its share of the episodes in turn, storing each as a
`Session`. A batch therefore equals the same environments run one by one, bit for bit, with any number of workers.
Nothing resets by itself. Gymnasium's own vector environments need one environment, so one OpenGL context, an episode.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

import envs
from envs.actions import read_actions
from envs.session import Session

Batch = dict[str, NDArray[Any]]
Options = dict[str, Any] | Sequence[dict[str, Any] | None] | None

_CLOSE_TIMEOUT_S = 5.0


class Multiplexer:
    """One environment that plays `count` episodes in turn."""

    def __init__(self, name: str, count: int, kwargs: dict[str, Any]) -> None:
        self.env = envs.make(name, **kwargs)
        fresh = self.env.save_session()
        self.sessions: list[Session] = [replace(fresh, rng=np.random.default_rng()) for _ in range(count)]

    def call(self, method: str, arguments: Sequence[dict[str, Any]]) -> list[Any]:
        """Results of a method of the environment, called in each episode with its keyword arguments."""
        results = []
        for index, kwargs in enumerate(arguments):
            self.env.load_session(self.sessions[index])
            results.append(getattr(self.env, method)(**kwargs))
            self.sessions[index] = self.env.save_session()
        return results

    def get_spaces(self) -> tuple[Any, Any]:
        """The observation and action space of one environment."""
        return self.env.observation_space, self.env.action_space

    def close(self) -> None:
        """Free the OpenGL context."""
        self.env.close()


def _run_worker(pipe: Connection, name: str, count: int, kwargs: dict[str, Any]) -> None:
    """Answer requests (method of Multiplexer, arguments) with (result, None) or (None, error) until "close"."""
    with contextlib.ExitStack() as stack, contextlib.suppress(EOFError, KeyboardInterrupt):  # the parent has ended
        multiplexer: Multiplexer | None = None
        while (request := pipe.recv()) != "close":
            try:
                if multiplexer is None:
                    multiplexer = stack.enter_context(contextlib.closing(Multiplexer(name, count, kwargs)))
                method, arguments = request
                pipe.send((getattr(multiplexer, method)(*arguments), None))
            except Exception as error:
                error.add_note(f"in a worker:\n{traceback.format_exc()}")
                pipe.send((None, error))


class VectorGoalEnv(VectorEnv[Batch, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` environments of one task.

    With `num_workers=0` they live in this process, else in that many (at most `num_envs`). Workers are spawned, so a
    script that makes them needs the usual `if __name__ == "__main__":`.
    """

    def __init__(self, name: str, num_envs: int, num_workers: int = 0, **kwargs: Any) -> None:
        """`kwargs` go to `envs.make`. Raises `ValueError` for invalid numbers, and for an unknown task."""
        if num_envs < 1 or num_workers < 0:
            raise ValueError(f"num_envs={num_envs}, num_workers={num_workers}: at least 1 environment and 0 workers")
        self.num_envs, self.closed = num_envs, False
        self.task = envs.get_task(name)  # raises, with the nearest names
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.DISABLED}
        self.render_mode = "rgb_array"
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
            spaces = self._request("get_spaces", [()] * len(self._shares))[0]
        except Exception:
            self.close()
            raise
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space, self.action_space = (batch_space(space, num_envs) for space in spaces)

    def _start_workers(self, name: str, kwargs: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")  # an OpenGL context does not survive a fork
        for share in self._shares:
            near, far = context.Pipe()
            arguments = (far, name, share.stop - share.start, kwargs)
            worker = context.Process(target=_run_worker, args=arguments, daemon=True)
            worker.start()
            far.close()
            self._workers.append(worker)
            self._pipes.append(near)

    def _call(self, method: str, arguments: Sequence[dict[str, Any]]) -> list[Any]:
        """Results of a method of GoalEnv, one an environment, each with its keyword arguments."""
        results = self._request("call", [(method, arguments[share]) for share in self._shares])
        return [result for share in results for result in share]

    def _request(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Results of a method of Multiplexer, one a share."""
        assert not self.closed, f"{method} after close"
        if self._local is not None:
            return [getattr(self._local, method)(*arguments[0])]
        for pipe, values in zip(self._pipes, arguments, strict=True):
            with contextlib.suppress(OSError):  # a dead worker is reported below, where its answer is missing
                pipe.send((method, values))
        answers = [self._receive(pipe, index) for index, pipe in enumerate(self._pipes)]
        for _, error in answers:  # only now, so that no answer is left in a pipe
            if error is not None:
                raise error
        return [result for result, _ in answers]

    def _receive(self, pipe: Connection, index: int) -> tuple[Any, Exception | None]:
        try:
            return pipe.recv()
        except (EOFError, ConnectionError):
            self._workers[index].join(_CLOSE_TIMEOUT_S)
            code = self._workers[index].exitcode
            return None, RuntimeError(f"environment worker {index} died with exit code {code}")

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: Options = None) -> tuple[Batch, Batch]:
        """New episodes: observations `[n, ...]`, and infos `distance`, `is_success` `[n]`, `truth`, `goal_truth`
        `[n, L]`.

        A single seed gives environment i `seed + i`. `options` is one dict for all or a list with one each.
        """
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + index for index in range(self.num_envs)]
        seeds: Sequence[Any] = [None] * self.num_envs if seed is None else seed
        dicts: Sequence[Any] = [options] * self.num_envs if options is None or isinstance(options, dict) else options
        for name, values in (("seed", seeds), ("options", dicts)):
            if len(values) != self.num_envs:
                raise ValueError(f"{name} has {len(values)} entries for {self.num_envs} environments")
        rows = [{"seed": one, "options": option} for one, option in zip(seeds, dicts, strict=True)]
        observations, infos = zip(*self._call("reset", rows), strict=True)
        return _stack(observations), _stack(infos)

    def step(
        self, actions: ArrayLike
    ) -> tuple[Batch, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Batch]:
        """One environment step with actions `[n, A]`; rewards are 0, and only a simulator's own episode may end.

        Raises `ValueError`, before any environment moves, for actions of another shape, or with NaN or infinity.
        """
        rows = read_actions(actions, (self.num_envs, len(self.task.action_low)), self.task, np.float32)
        results = self._call("step", [{"action": action} for action in rows])
        observations, rewards, terminations, truncations, infos = zip(*results, strict=True)
        return _stack(observations), np.array(rewards), np.array(terminations), np.array(truncations), _stack(infos)

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """The current images, one uint8 `[H, W, 3]` an environment."""
        return tuple(self._call("render", [{}] * self.num_envs))

    def get_states(self) -> NDArray[np.float64]:
        """Every environment's state, float64 `[n, S]`."""
        return np.stack(self._call("get_state", [{}] * self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers; called by `close`."""
        if self._local is not None:
            self._local.close()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):  # this worker has ended already
                pipe.send("close")
        for worker, pipe in zip(self._workers, self._pipes, strict=True):
            worker.join(_CLOSE_TIMEOUT_S)
            if worker.is_alive():
                worker.terminate()
            pipe.close()


def _stack(rows: Sequence[dict[str, Any]]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
