"""An environment of Gymnasium with the methods of `envs.physics.Physics` and of the renderer.

It needs a Box of finite actions, `render_mode="rgb_array"`, and a state: MuJoCo's (with `model` and `data`), an
attribute `state`, or the functions of a description (`envs.adapters.gymnasium_tasks.describe_task`). Its rewards and
observations are not used. What is random within its steps is not part of a state.

A step that ends the environment's episode (`terminated`, `truncated`, or a reset within the step) is taken back, since
what follows may be the start of another episode: the state stays as it was before, and the caller is told. Environments
that are known to go on after an end only report it, and are played on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.adapters.gymnasium_tasks import find_description
from envs.adapters.mujoco_enums import patch_package
from envs.task_spec import LargestError, TaskSpec

GUIDE = "see docs/guides/own_task.md"
# What a reset may place in a MuJoCo model: a goal's marker, an obstacle; and the number of resets that show it.
_PLACED = ("body_pos", "body_quat", "geom_pos", "geom_rgba", "site_pos")
_NUM_RESETS = 4

# Packages whose environments go on after an end: in their steps it is a flag, without a reset.
_GOING_ON = ("gymnasium", "gymnasium_robotics", "ogbench")
_NO_LIMIT = -1  # of gymnasium.make: a limit would go on counting where a state is set
_STANDARD = (gymnasium.wrappers.TimeLimit, gymnasium.wrappers.OrderEnforcing, gymnasium.wrappers.PassiveEnvChecker)

GetState = Callable[[Any], Any]
SetState = Callable[[Any, NDArray[np.float64]], None]


class GymnasiumSimulator:
    """An environment of Gymnasium: steps, states, images, true quantities, and the specification of its task.

    `model` and `data` are None: what happens within a step is the environment's own, so neither `mujoco.rollout` nor
    our renderer can be used.
    """

    model = data = None
    env: Any  # without wrappers, for its state and its pictures
    played: Any  # with wrappers of its own, which change actions, for its steps

    def __init__(self, gym_id: str, size: int, render_mode: str | None, kwargs: dict[str, Any]) -> None:
        self.name, self.size = f"gym/{gym_id}", size
        try:
            patch_package(gym_id)
            made = gymnasium.make(gym_id, **{"render_mode": render_mode, "max_episode_steps": _NO_LIMIT, **kwargs})
            spec = gymnasium.spec(gym_id.rpartition(":")[2])  # of MODULE:ID, which `make` has imported
            limit = {"max_episode_steps": spec.max_episode_steps, **kwargs}["max_episode_steps"]
        except Exception as error:  # of any type: the environment's own code runs
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise ValueError(f"{self.name} cannot be made ({type(error).__name__}: {reason}); {GUIDE}") from error
        self.played, self.env = _unwrap_standard(made), made.unwrapped
        self.time_limit: int | None = limit
        self.description = find_description(gym_id)  # only now: making it imports the module that describes it
        package = type(self.env).__module__.partition(".")[0]
        stops = self.description.stops_at_end
        self.stops = package not in _GOING_ON if stops is None else stops
        self._check()
        self.played.reset(seed=0)
        self.has_mujoco = hasattr(self.env, "model") and hasattr(self.env, "data")
        self.qpos = self.qvel = slice(0, 0)  # of unknown position in the state
        self._get, self._set = self._find_state_functions()
        self.state_size = len(self.get_state())
        self._was_reset = False
        self._watch_resets()

    def _watch_resets(self) -> None:
        """Notice where the environment calls its own `reset`."""
        reset = self.env.reset

        def reset_watched(**kwargs: Any) -> Any:
            self._was_reset = True
            return reset(**kwargs)

        self.env.reset = reset_watched

    def _check(self) -> None:
        actions, modes = self.played.action_space, list(self.env.metadata["render_modes"])
        if not isinstance(actions, gymnasium.spaces.Box) or len(actions.shape) != 1:
            raise ValueError(f"{self.name} has actions {actions}: planning needs a Box of numbers; {GUIDE}")
        if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
            raise ValueError(f"{self.name} has actions without bounds ({actions}): wrap it with finite ones; {GUIDE}")
        # Some list no modes and draw all the same.
        if "rgb_array" not in modes and (modes or type(self.env).render is gymnasium.Env.render):
            raise ValueError(f"{self.name} draws no pictures (its render modes: {modes}, not rgb_array); {GUIDE}")

    def _find_state_functions(self) -> tuple[GetState, SetState]:
        if self.description.get_state is not None and self.description.set_state is not None:
            return self.description.get_state, self.description.set_state
        if self.has_mujoco:
            return self._build_mujoco_functions()
        if getattr(self.env, "state", None) is not None:
            return lambda env: env.state, _set_attribute
        raise ValueError(
            f"{self.name} has no state that can be set (no MuJoCo model and data, no attribute `state`): "
            f"describe it with get_state and set_state; {GUIDE}"
        )

    def _build_mujoco_functions(self) -> tuple[GetState, SetState]:
        """Functions for MuJoCo's state, followed by those numbers of the model that differ between resets."""
        from envs.physics import Physics  # imports MuJoCo, which the environment has done by now

        values: dict[str, list[NDArray[Any]]] = {name: [] for name in _PLACED}
        for seed in reversed(range(_NUM_RESETS)):  # ends with seed 0
            self.env.reset(seed=seed)
            for name in _PLACED:
                values[name].append(getattr(self.env.model, name).ravel().copy())
        placed = {name: np.flatnonzero(np.ptp(values[name], axis=0)) for name in _PLACED}
        physics = Physics(self.env.model, data=self.env.data)
        ends = physics.state_size + np.cumsum([0, *(len(index) for index in placed.values())])
        self.qpos, self.qvel = physics.qpos, physics.qvel

        def get_state(env: Any) -> NDArray[np.float64]:
            markers = [getattr(env.model, name).ravel()[index] for name, index in placed.items()]
            return np.concatenate([Physics(env.model, data=env.data).get_state(), *markers])

        def set_state(env: Any, state: NDArray[np.float64]) -> None:
            for (name, index), marker in zip(placed.items(), np.split(state, ends)[1:-1], strict=True):
                getattr(env.model, name).flat[index] = marker
            physics = Physics(env.model, data=env.data)
            physics.set_state(state[: physics.state_size])
            physics.update_kinematics()

        return get_state, set_state

    def sample_state(self, seed: int) -> NDArray[np.float64]:
        """A state `[S]` in which the environment starts an episode."""
        generator = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002  (OGBench's mazes draw from NumPy's global generator, not from their own)
        try:
            self.played.reset(seed=seed)
        finally:
            np.random.set_state(generator)  # noqa: NPY002
        return self.get_state()

    def get_state(self) -> NDArray[np.float64]:
        """A copy of the state `[S]`."""
        return np.array(self._get(self.env), np.float64).ravel()

    def set_state(self, state: NDArray[np.float64]) -> None:
        """Continue from a state `[S]`."""
        self._set(self.env, np.array(state))

    def step(self, control: NDArray[np.float64]) -> tuple[bool, bool]:
        """One step with the control `[A]`. Returns whether it ended the environment's episode (terminated, truncated);
        such a step is taken back."""
        before, self._was_reset = self.get_state(), False
        _, _, terminated, truncated, _ = self.played.step(control.astype(self.played.action_space.dtype))
        if not (self._was_reset or self.stops and (terminated or truncated)):
            return False, False
        self.set_state(before)
        return bool(terminated or not truncated), bool(truncated)

    def update_kinematics(self) -> None:
        """Nothing: `render` sets the state again."""

    def render(self, data: None) -> NDArray[np.uint8]:
        """A new image `[H, W, 3]`, whatever size the environment draws."""
        self.set_state(self.get_state())  # an image must not show how its state was reached
        viewer = self._find_viewer()
        if viewer is not None:  # Gymnasium's assumes that its OpenGL context is the current one
            viewer.make_context_current()
        frame = np.asarray(self.env.render(), np.uint8)
        if frame.shape[:2] == (self.size, self.size):
            return frame.copy()
        return np.asarray(Image.fromarray(frame).resize((self.size, self.size), Image.Resampling.BOX))

    def get_gl_renderer(self) -> str:
        """The software that draws, for the header of a data file."""
        return f"gymnasium {gymnasium.__version__}"

    def _find_viewer(self) -> Any:
        """Gymnasium's viewer of a MuJoCo environment; None before it has drawn, and for others."""
        return getattr(getattr(self.env, "mujoco_renderer", None), "viewer", None)

    def close(self) -> None:
        """Close the environment."""
        viewer = self._find_viewer()
        if hasattr(viewer, "con"):
            # Gymnasium leaves its textures and buffers to garbage collection, which deletes those of the same numbers
            # in whatever OpenGL context is the current one then.
            viewer.make_context_current()
            viewer.con.free()
        self.played.close()

    def get_truth(self) -> NDArray[np.float32]:
        """True quantities `[L]` of the current state."""
        if self.description.truth is not None:
            return np.asarray(self.description.truth(self.env), np.float32).ravel()
        if self.has_mujoco:
            return np.concatenate([self.env.data.qpos, self.env.data.qvel]).astype(np.float32)
        return self.get_state().astype(np.float32)

    def build_spec(self) -> TaskSpec:
        """The task's specification; where the description has None, the environment's own facts."""
        actions, size = self.played.action_space, len(self.get_truth())
        names, distance = tuple(f"state {index}" for index in range(size)), LargestError(size)
        if self.has_mujoco and self.description.truth is None:
            positions, periodic = self._list_positions()
            names = (*positions, *(f"velocity {index}" for index in range(size - len(positions))))
            distance = LargestError(len(positions), periodic)
        fields: dict[str, Any] = {
            "truth_names": names,
            "truth_units": ("",) * size,
            "distance": distance,
            "control_step_s": float(getattr(self.env, "dt", 1 / (self.env.metadata.get("render_fps") or 20))),
            "action_names": tuple(f"action {number}" for number in range(len(actions.low))),
            "time_limit": self.time_limit,
        }
        described = {name: value for name, value in vars(self.description).items() if value is not None}
        fields |= {name: value for name, value in described.items() if name in TaskSpec.__dataclass_fields__}
        num_names, num_units = len(fields["truth_names"]), len(fields["truth_units"])
        if not num_names == num_units == size:
            raise ValueError(
                f"{self.name}: {size} true quantities, {num_names} truth_names and {num_units} truth_units: "
                f"describe it with as many of each"
            )
        return TaskSpec(
            name=self.name,
            description=f"Gymnasium's {self.name.partition('/')[2]}; the goal is a state that random actions reached.",
            action_low=tuple(actions.low.tolist()),
            action_high=tuple(actions.high.tolist()),
            proprio_names=fields["truth_names"],
            probe_targets=np.asarray,
            **fields,
        )

    def _list_positions(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Names of the positions of MuJoCo's joints, and indices of those that turn without limits."""
        import mujoco

        names: list[str] = []
        periodic: list[int] = []
        sizes = {mujoco.mjtJoint.mjJNT_FREE: 7, mujoco.mjtJoint.mjJNT_BALL: 4}
        model = self.env.model
        for joint, kind in enumerate(map(mujoco.mjtJoint, model.jnt_type)):
            name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, joint) or f"joint {joint}"
            if kind == mujoco.mjtJoint.mjJNT_HINGE and not model.jnt_limited[joint]:
                periodic.append(len(names))
            parts = sizes[kind] if kind in sizes else 1
            names += [name] if parts == 1 else [f"{name} {part}" for part in range(parts)]
        return tuple(names), tuple(periodic)


def _unwrap_standard(env: Any) -> Any:
    """The environment without the wrappers that Gymnasium puts around every one; those of its author stay."""
    while isinstance(env, _STANDARD):
        env = env.env
    return env


def _set_attribute(env: Any, state: NDArray[np.float64]) -> None:
    """Set the attribute `state`, in its shape and type."""
    env.state = state.astype(np.asarray(env.state).dtype).reshape(np.shape(env.state))
