"""The environment that imported trajectories come from (`jepa import environment=gym/ID`). It builds states of recorded
positions and velocities, computes their truth, and renders them where no pictures were recorded. A model trained on the
file then plans in that environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import envs
from commands.shared.errors import UsageError
from envs.goal_env import GoalEnv

SIZE_PX = 64  # of pictures that are drawn here, where nothing else is asked for


class Simulator:
    """An environment beside a data set. UsageError where there is none of that name, or its arguments are wrong."""

    def __init__(self, name: str, size_px: int, kwargs: Mapping[str, Any]) -> None:
        self.name, self.kwargs = name, {**kwargs, "size": size_px}
        try:
            self.env: GoalEnv = envs.make(name, **self.kwargs)
        except (ValueError, TypeError) as error:
            raise UsageError(f"environment={name} environment_kwargs={dict(kwargs)}: {error}") from error
        self.task = self.env.task
        self.env.reset(seed=0)
        self._first = self.env.get_state()

    def check_state(self, width: int) -> None:
        """UsageError if `build_states` could not make anything of rows of `width` numbers."""
        moving = self.env.qvel.stop - self.env.qpos.start
        if width != self.env.state_size and not (moving and width in (moving, moving + 1)):
            positions = f", positions and velocities {moving}" if moving else ""
            raise UsageError(
                f"state <- {width} numbers, and a state of {self.name} has {self.env.state_size}{positions}: choose "
                "the columns that hold them by columns.state=[...]"
            )

    def build_states(self, recorded_TN: NDArray[Any]) -> NDArray[np.float64]:
        """States [T, S] of rows that are such, or positions and velocities, or time and both. What a state holds
        beyond them is as after a reset."""
        width, end = recorded_TN.shape[1], self.env.qvel.stop
        if width == self.env.state_size:
            return recorded_TN.astype(np.float64)
        states = np.tile(self._first, (len(recorded_TN), 1))
        states[:, 0] += np.arange(len(states)) * self.task.control_step_s
        states[:, end - width : end] = recorded_TN
        return states

    def compute_truth(self, states_TS: NDArray[np.float64]) -> NDArray[np.float32]:
        """The quantities of `task.truth_names` [T, L]."""
        return self.env.get_truth(states_TS)

    def render(self, states_TS: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Their pictures [T, size, size, 3]."""
        return np.stack([self.env.render_state(state) for state in states_TS])
