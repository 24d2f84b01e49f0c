"""Any environment of Gymnasium's with continuous actions, pictures and a state that can be set, as a GoalEnv.

What the adapter asks for: a Box of finite actions, `render_mode="rgb_array"`, and a state: MuJoCo's (whatever
has `model` and `data`), an attribute `state`, or the functions of a description
(`envs.adapters.gymnasium_tasks.describe`). Rewards, ends and observations of the environment are not used. What is
random within its steps is not part of a state.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from envs.adapters.gymnasium_state import MujocoState, get_attribute_state, set_attribute_state
from envs.adapters.gymnasium_tasks import GymTask, LargestError, build_spec, find_description
from envs.adapters.mujoco_enums import patch_package
from envs.adapters.reached import sample_reachable_goal
from envs.factors import Variation
from envs.goal_env import GoalEnv
from envs.rendering import choose_backend
from envs.task_spec import TaskSpec

GUIDE = "see docs/guides/own_task.md"
_SEEDS = 2**31


class Simulator:
    """An environment of Gymnasium's with the verbs of `envs.physics.Physics` and of the renderer."""

    def __init__(self, gym_id: str, size: int, render_mode: str | None, kwargs: dict[str, Any]) -> None:
        self.name, self.size = f"gym/{gym_id}", size
        try:
            patch_package(gym_id)
            self.env: Any = gymnasium.make(gym_id, render_mode=render_mode, **kwargs).unwrapped
        except Exception as error:  # whatever the environment's own code meets
            what = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ValueError(f"{self.name} cannot be made ({type(error).__name__}: {what}); {GUIDE}") from error
        self.about = find_description(gym_id)  # only now: making it imports the module that describes it
        self._check()
        self.env.reset(seed=0)
        self.has_mujoco = all(hasattr(self.env, part) for part in ("model", "data"))
        self._get, self._set = self._state_functions(self.about)
        self.state_size = len(self.get_state())
        self.qpos, self.qvel = self._places()

    def _places(self) -> tuple[slice, slice]:
        """Where a state holds positions and velocities; empty where that is not known."""
        if not self.has_mujoco or self.about.get_state is not None:
            return slice(0, 0), slice(0, 0)
        from envs.physics import locate_motion  # imports MuJoCo, which the environment has done by now

        return locate_motion(self.env.model)

    def _check(self) -> None:
        actions, modes = self.env.action_space, list(self.env.metadata["render_modes"])
        if not isinstance(actions, gymnasium.spaces.Box) or len(actions.shape) != 1:
            raise ValueError(f"{self.name} has actions {actions}: planning needs a Box of numbers; {GUIDE}")
        if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
            raise ValueError(f"{self.name} has actions without bounds ({actions}): wrap it with finite ones; {GUIDE}")
        # Some name no modes and draw all the same.
        if "rgb_array" not in modes and (modes or type(self.env).render is gymnasium.Env.render):
            raise ValueError(f"{self.name} draws no pictures (its render modes: {modes}, not rgb_array); {GUIDE}")

    def _state_functions(self, about: GymTask) -> tuple[Any, Any]:
        if about.get_state is not None and about.set_state is not None:
            return about.get_state, about.set_state
        if self.has_mujoco:
            state = MujocoState(self.env)
            return state.get, state.set
        if getattr(self.env, "state", None) is not None:
            return get_attribute_state, set_attribute_state
        raise ValueError(
            f"{self.name} has no state that can be set (no MuJoCo model and data, no attribute `state`): "
            f"describe it with get_state and set_state; {GUIDE}"
        )

    def default_state(self) -> NDArray[np.float64]:
        """The state `[S]` after a reset."""
        return self.random_state(0)

    def random_state(self, seed: int) -> NDArray[np.float64]:
        """A state `[S]` in which the environment starts an episode."""
        kept = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002  (OGBench's mazes draw from NumPy's global generator, not from their own)
        try:
            self.env.reset(seed=seed)
        finally:
            np.random.set_state(kept)  # noqa: NPY002
        return self.get_state()

    def get_state(self) -> NDArray[np.float64]:
        """A copy of the state `[S]`."""
        return np.array(self._get(self.env), np.float64).ravel()

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Continue from a state `[S]`."""
        self._set(self.env, np.array(state))

    def step(self, control: NDArray[np.float64]) -> None:
        """One step with the control `[A]`."""
        self.env.step(control.astype(self.env.action_space.dtype))

    def update_kinematics(self) -> None:
        """Nothing: `render` sets the state again."""

    @property
    def model(self) -> None:
        """No model that `mujoco.rollout` could step: what happens within a step is the environment's own."""
        return None

    data = model  # nor any data that a renderer of MuJoCo could draw

    def render(self, data: None) -> NDArray[np.uint8]:
        """A new picture `[H, W, 3]`, whatever size the environment draws."""
        self.set_state(self.get_state())  # a picture must not show how its state was reached
        viewer = getattr(getattr(self.env, "mujoco_renderer", None), "viewer", None)
        if viewer is not None:  # Gymnasium's takes its OpenGL context for the current one, whoever drew last
            viewer.make_context_current()
        frame = np.asarray(self.env.render(), np.uint8)
        if frame.shape[:2] == (self.size, self.size):
            return frame.copy()
        return np.asarray(Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BOX))

    def get_gl_renderer(self) -> str:
        """Who draws, for a data file to note."""
        return f"gymnasium {gymnasium.__version__}"

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_truth(self) -> NDArray[np.float32]:
        """True quantities `[L]` now."""
        if self.about.truth is not None:
            return np.asarray(self.about.truth(self.env), np.float32).ravel()
        if self.has_mujoco:
            return np.concatenate([self.env.data.qpos, self.env.data.qvel]).astype(np.float32)
        return self.get_state().astype(np.float32)

    def spec(self) -> TaskSpec:
        """The task, with what the environment says where its description does not."""
        actions, size = self.env.action_space, len(self.get_truth())
        names, units, distance = tuple(f"state {index}" for index in range(size)), ("",) * size, LargestError(size)
        if self.has_mujoco and self.about.truth is None:
            positions, turns = self._positions()
            rates = tuple(f"velocity {index}" for index in range(size - len(positions)))
            names, units, distance = positions + rates, ("",) * size, LargestError(len(positions), turns)
        fps = self.env.metadata.get("render_fps") or 20
        found = {
            "action_low": actions.low,
            "action_high": actions.high,
            "truth_size": size,
            "truth_names": names,
            "truth_units": units,
            "distance": distance,
            "control_step_s": float(getattr(self.env, "dt", 1 / fps)),
        }
        return build_spec(self.name, self.about, found)

    def _positions(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names of the positions of MuJoCo's joints, and which of them turn without end."""
        import mujoco

        names: list[str] = []
        turns: list[int] = []
        sizes = {mujoco.mjtJoint.mjJNT_FREE: 7, mujoco.mjtJoint.mjJNT_BALL: 4}
        model = self.env.model
        for joint, kind in enumerate(map(mujoco.mjtJoint, model.jnt_type)):
            name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, joint) or f"joint {joint}"
            if kind == mujoco.mjtJoint.mjJNT_HINGE and not model.jnt_limited[joint]:
                turns.append(len(names))
            parts = sizes[kind] if kind in sizes else 1
            names += [name] if parts == 1 else [f"{name} {part}" for part in range(parts)]
        return tuple(names), tuple(turns)


@functools.cache
def build_gym_spec(gym_id: str) -> TaskSpec:
    """The specification of "gym/<gym_id>", from an environment made for the purpose; ValueError where it is none."""
    with contextlib.suppress(RuntimeError):  # nothing is drawn here, but making it may import MuJoCo
        choose_backend()
    simulator = Simulator(gym_id, 64, None, {})
    try:
        return simulator.spec()
    finally:
        simulator.close()


class GymGoalEnv(GoalEnv):
    """An environment of Gymnasium's: same verbs, same states and sessions, no factors and no script."""

    camera = ""

    def __init__(
        self,
        gym_id: str,
        size: int = 64,
        proprio: bool = False,
        render_mode: str = "rgb_array",
        factors: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        """`gym_id` as for `gymnasium.make`, which gets `kwargs`, too; ValueError says what it lacks."""
        if factors:
            raise ValueError(f"factors={list(factors)}: an environment of Gymnasium's has none; set env.factors=[]")
        self._gym_id, self._kwargs = gym_id, kwargs
        choose_backend()
        self._physics = Simulator(gym_id, size, render_mode, kwargs)
        self.task = self._physics.spec()  # type: ignore[misc]
        super().__init__(size, proprio, render_mode)

    def _build_simulator(self, factors: tuple[str, ...]) -> None:
        self._renderer = self._physics
        self._variation = Variation(None, self.camera, factors)
        self._factors = np.zeros(0)

    def _sample_state(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._physics.random_state(int(self.np_random.integers(_SEEDS)))

    def _sample_goal(self, start: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
        return sample_reachable_goal(self, start, self.np_random)

    def get_truth(self, state: ArrayLike | None = None) -> NDArray[np.float32]:
        """The quantities of `task.truth_names`, `[L]` now, or `[..., L]` of states `[..., S]`."""
        if state is None:
            return self._physics.get_truth()
        values, now = np.asarray(state, np.float64), self.get_state()
        rows = []
        for row in values.reshape(-1, values.shape[-1]):
            self._physics.set_state(row)
            rows.append(self._physics.get_truth())
        self._physics.set_state(now)
        return np.stack(rows).reshape(*values.shape[:-1], -1)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """No environment of Gymnasium's brings a script; ValueError says what to choose."""
        raise ValueError(f"{self.task.name} has no script: choose data.policy.name=smooth or uniform")
