"""MuJoCo behind four verbs: step, get and set the full state, bring kinematics up to date.

Import this module only after `envs.rendering.choose_backend()`: it imports MuJoCo.

Everything MuJoCo's next step depends on is in the mjSTATE_INTEGRATION vector (time, positions, velocities,
controls, applied forces, and the solver's warm start), so a state set here continues to the bit as it did
where it was taken.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

_SIGNATURE = mujoco.mjtState.mjSTATE_INTEGRATION


def locate_motion(model: mujoco.MjModel) -> tuple[slice, slice]:
    """Where positions and velocities are in a state: after the time, here and in mjSTATE_FULLPHYSICS
    (mujoco.rollout)."""
    return slice(1, 1 + model.nq), slice(1 + model.nq, 1 + model.nq + model.nv)


class Physics:
    """A compiled model, its data, and `substeps` physics steps for each control step."""

    def __init__(self, model: mujoco.MjModel, substeps: int) -> None:
        self.model = model
        self.data = mujoco.MjData(model)
        self.substeps = substeps
        self.state_size = mujoco.mj_stateSize(model, _SIGNATURE)
        self.qpos, self.qvel = locate_motion(model)

    def default_state(self) -> NDArray[np.float64]:
        """The model's reference state `[S]`: what a reset leaves, with nothing of the past in it."""
        data = mujoco.MjData(self.model)
        state = np.empty(self.state_size)
        mujoco.mj_getState(self.model, data, state, _SIGNATURE)
        return state

    def get_state(self) -> NDArray[np.float64]:
        """A copy of the state `[S]`."""
        state = np.empty(self.state_size)
        mujoco.mj_getState(self.model, self.data, state, _SIGNATURE)
        return state

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Continue from a state `[S]`."""
        assert state.shape == (self.state_size,), (state.shape, self.state_size)
        mujoco.mj_setState(self.model, self.data, state, _SIGNATURE)

    def step(self, control: NDArray[np.float64]) -> None:
        """One control step with the control `[A]` held."""
        self.data.ctrl[:] = control
        mujoco.mj_step(self.model, self.data, nstep=self.substeps)

    def update_kinematics(self) -> None:
        """Positions of everything drawn, from the state.

        After a step MuJoCo's positions lag by one physics step; without this, a picture would depend on how a
        state was reached. Unlike mj_forward it touches nothing the next step reads.
        """
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)  # what a camera that tracks a body follows
        mujoco.mj_camlight(self.model, self.data)
        mujoco.mj_tendon(self.model, self.data)  # strings are drawn, too
