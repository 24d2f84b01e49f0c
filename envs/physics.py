"""MuJoCo: compiled models, steps, and states that continue bit for bit.

Import this module only after `envs.rendering.choose_backend()`: it imports MuJoCo.

A state is MuJoCo's mjSTATE_INTEGRATION vector: time, positions, velocities, controls, applied forces and the
solver's warm start. The next step depends on nothing else.
"""

from __future__ import annotations

import importlib.resources

import mujoco
import numpy as np
from numpy.typing import NDArray

# Materials that the factor `floor texture` may put on a floor; training never has the held-out ones.
PATTERN = "pattern"
HELD_OUT_PATTERNS = ("stripes", "leaves")
_TEXTURE_PX, _DARK = 64, 0.55  # side of a texture, and its darkest value
_SIGNATURE = mujoco.mjtState.mjSTATE_INTEGRATION


def load_scene(package: str) -> mujoco.MjSpec:
    """The file scene.xml of a task's package, with the materials of floors."""
    scene = importlib.resources.files(package).joinpath("scene.xml").read_text(encoding="utf-8")
    return _add_patterns(mujoco.MjSpec.from_string(scene))


def load_suite_scene(domain: str) -> mujoco.MjSpec:
    """A model file of the dm_control suite, with the materials of floors."""
    # The XML is read as data: importing dm_control.suite would load every domain and a second renderer.
    with importlib.resources.as_file(importlib.resources.files("dm_control") / "suite") as suite:
        return _add_patterns(mujoco.MjSpec.from_file(str(suite / f"{domain}.xml")))


def _add_patterns(spec: mujoco.MjSpec) -> mujoco.MjSpec:
    texture = _add_material(spec, PATTERN)
    texture.builtin = mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    texture.rgb1, texture.rgb2 = (1.0, 1.0, 1.0), (_DARK, _DARK, _DARK)
    for name, shade in zip(HELD_OUT_PATTERNS, (_shade_stripes(), _shade_leaves()), strict=True):
        texture, texture_pixels = _add_material(spec, name), np.repeat(shade[..., None], 3, axis=-1)
        texture.nchannel, texture.data = 3, np.rint(255 * texture_pixels).astype(np.uint8).tobytes()
    return spec


def _add_material(spec: mujoco.MjSpec, name: str) -> mujoco.MjsTexture:
    """The texture of a new material that repeats three times a metre."""
    kind = mujoco.mjtTexture.mjTEXTURE_2D
    material = spec.add_material(name=name, texrepeat=(3.0, 3.0), texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return spec.add_texture(name=name, type=kind, width=_TEXTURE_PX, height=_TEXTURE_PX)


def _shade_stripes() -> NDArray[np.float64]:
    """Values `[H, W]` of slanted stripes; the pattern continues over its edges."""
    row, column = np.indices((_TEXTURE_PX, _TEXTURE_PX))
    return np.where((row + 2 * column) // (_TEXTURE_PX // 4) % 2 == 0, 1.0, _DARK)


def _shade_leaves() -> NDArray[np.float64]:
    """Values `[H, W]` of blots of several sizes; the pattern continues over its edges."""
    # Waves of whole periods and random phases, weaker the finer they are, then cut at their mean.
    rng, axis = np.random.default_rng(0), np.arange(_TEXTURE_PX) / _TEXTURE_PX
    height = np.zeros((_TEXTURE_PX, _TEXTURE_PX))
    for periods_y, periods_x in np.ndindex(6, 11):
        periods_x -= 5
        if (periods_y, periods_x) != (0, 0):
            wave = np.cos(2 * np.pi * (periods_y * axis[:, None] + periods_x * axis + rng.random()))
            height += rng.standard_normal() * wave / np.hypot(periods_y, periods_x)
    return np.where(height > 0, 1.0, _DARK)


class Physics:
    """A compiled model, its data, and `substeps` physics steps for each control step.

    `qpos` and `qvel` are the slices of positions and velocities in a state, and in an mjSTATE_FULLPHYSICS vector of
    `mujoco.rollout`.
    """

    def __init__(self, model: mujoco.MjModel, substeps: int = 1, data: mujoco.MjData | None = None) -> None:
        self.model, self.substeps = model, substeps
        self.data = mujoco.MjData(model) if data is None else data
        self.state_size = mujoco.mj_stateSize(model, _SIGNATURE)
        self.qpos, self.qvel = slice(1, 1 + model.nq), slice(1 + model.nq, 1 + model.nq + model.nv)

    def get_default_state(self) -> NDArray[np.float64]:
        """The model's reference state `[S]`, as after a reset."""
        return Physics(self.model).get_state()

    def get_state(self) -> NDArray[np.float64]:
        """A copy of the state `[S]`."""
        state = np.empty(self.state_size)
        mujoco.mj_getState(self.model, self.data, state, _SIGNATURE)
        return state

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Continue from a state `[S]`."""
        assert state.shape == (self.state_size,), (state.shape, self.state_size)
        mujoco.mj_setState(self.model, self.data, state, _SIGNATURE)

    def step(self, control: NDArray[np.float64]) -> tuple[bool, bool]:
        """One control step with the control `[A]` held; it never ends an episode (terminated, truncated)."""
        self.data.ctrl[:] = control
        mujoco.mj_step(self.model, self.data, nstep=self.substeps)
        return False, False

    def update_kinematics(self) -> None:
        """Compute the positions of everything drawn from the state.

        After a step MuJoCo's positions lag by one physics step, so without this an image would depend on how the
        state was reached. Unlike mj_forward, this changes nothing that the next step reads.
        """
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)  # for cameras that track a body
        mujoco.mj_camlight(self.model, self.data)
        mujoco.mj_tendon(self.model, self.data)  # strings are drawn
