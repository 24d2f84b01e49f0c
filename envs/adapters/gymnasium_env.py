"""Any environment of Gymnasium with continuous actions, images and a state that can be set, as a GoalEnv.

`envs.adapters.gymnasium_simulator` lists what the environment needs.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.adapters.gymnasium_simulator import GymnasiumSimulator
from envs.goal_env import GoalEnv
from envs.goals import sample_reachable_goal
from envs.presets import require_preset
from envs.rendering import choose_backend
from envs.task_spec import TaskSpec

_SEEDS = 2**31


@functools.cache
def build_gym_spec(gym_id: str) -> TaskSpec:
    """The specification of "gym/<gym_id>", from an environment made for the purpose; ValueError if unsuitable."""
    with contextlib.suppress(RuntimeError):  # nothing is drawn here, but making it may import MuJoCo
        choose_backend()
    simulator = GymnasiumSimulator(gym_id, 64, None, {})
    try:
        return simulator.build_spec()
    finally:
        simulator.close()


class GymGoalEnv(GoalEnv):
    """An environment of Gymnasium with the same methods, states and sessions; without factors and script."""

    camera = ""
    _sample_goal = sample_reachable_goal  # the possible states are not known

    def __init__(
        self,
        gym_id: str,
        size: int = 64,
        proprio: bool = False,
        render_mode: str | None = "rgb_array",
        factors: tuple[str, ...] = (),
        variation: str = "none",
        **kwargs: Any,
    ) -> None:
        """`gym_id` and `kwargs` are for `gymnasium.make`; ValueError for an unsuitable environment, and for factors."""
        if factors:
            raise ValueError(f"factors={list(factors)}: an environment of Gymnasium's has none; set env.factors=[]")
        require_preset(variation)
        if variation != "none":
            raise ValueError(
                f"variation={variation}: an environment of Gymnasium's has no factors of variation; "
                f"choose another task, as env=reacher or env=dmc/cheetah, or leave the variation out"
            )
        choose_backend()
        self.physics = self._renderer = GymnasiumSimulator(gym_id, size, "rgb_array", kwargs)
        self.task = self.physics.build_spec()  # type: ignore[misc]
        super().__init__(size, proprio, render_mode)

    def _build_simulator(self, factors: tuple[str, ...]) -> None:
        from envs.factors import Variation  # imports MuJoCo, so only now

        self._variation, self._factors = Variation(None, self.camera, factors), np.zeros(0)

    def sample_state(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """A random state `[S]` in which the environment starts an episode."""
        return self.physics.sample_state(int(self.np_random.integers(_SEEDS)))

    def get_truth(self, state: ArrayLike | None = None) -> NDArray[np.float32]:
        """The quantities of `task.truth_names`, `[L]` now, or `[..., L]` of states `[..., S]`."""
        if state is None:
            return self.physics.get_truth()
        values, current = np.asarray(state, np.float64), self.get_state()
        truths = []
        for row in values.reshape(-1, values.shape[-1]):
            self.physics.set_state(row)
            truths.append(self.physics.get_truth())
        self.physics.set_state(current)
        return np.stack(truths).reshape(*values.shape[:-1], -1)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """No environment of Gymnasium brings a script; the ValueError names what to choose."""
        raise ValueError(f"{self.task.name} has no script: choose data.policy.name=smooth or uniform")
