"""States of Gymnasium's environments as numbers: MuJoCo's whole state, or an attribute `state`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# What an environment may place in its model when it is reset: a goal's marker, an obstacle.
_PLACED = ("body_pos", "body_quat", "geom_pos", "geom_rgba", "site_pos")
_LOOKS = 4


class MujocoState:
    """mjSTATE_INTEGRATION, then those numbers of the model that a reset was seen to change."""

    def __init__(self, env: Any) -> None:
        seen: dict[str, list[NDArray[Any]]] = {name: [] for name in _PLACED}
        for seed in reversed(range(_LOOKS)):  # the last is the first seed
            env.reset(seed=seed)
            for name, values in seen.items():
                values.append(getattr(env.model, name).ravel().copy())
        self.placed = {name: np.flatnonzero(np.ptp(values, axis=0)) for name, values in seen.items()}

    def get(self, env: Any) -> NDArray[np.float64]:
        """The state `[S]`."""
        placed = [getattr(env.model, name).ravel()[where] for name, where in self.placed.items()]
        return np.concatenate([get_mujoco_state(env), *placed])

    def set(self, env: Any, state: NDArray[np.float64]) -> None:
        """Go there."""
        rest = state
        for name, where in reversed(self.placed.items()):
            rest, values = np.split(rest, [len(rest) - len(where)])
            getattr(env.model, name).flat[where] = values
        set_mujoco_state(env, rest)


def get_mujoco_state(env: Any) -> NDArray[np.float64]:
    """The state `[S]` of an environment with MuJoCo's `model` and `data`, as MuJoCo knows it."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, state, kind)
    return state


def set_mujoco_state(env: Any, state: NDArray[np.float64]) -> None:
    """Go there; what is drawn follows, and nothing that the next step reads is touched."""
    import mujoco

    mujoco.mj_setState(env.model, env.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    for update in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_tendon):
        update(env.model, env.data)


def get_attribute_state(env: Any) -> NDArray[np.float64]:
    """The attribute `state` as numbers `[S]`."""
    return np.asarray(env.state, np.float64).ravel()


def set_attribute_state(env: Any, state: NDArray[np.float64]) -> None:
    """Go there, in the shape and type that the attribute has."""
    env.state = state.astype(np.asarray(env.state).dtype).reshape(np.shape(env.state))
