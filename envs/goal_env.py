"""The GoalEnv contract: a Gymnasium environment with a goal image, whose every moment can be restored.

Observations are pictures, `pixels` and `goal_pixels`; the true state is given out only for judging (`info`,
`truth`). An environment never ends by itself and gives no reward: success and budget belong to the evaluator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from envs.factors import Factor, Variation, list_factors
from envs.rendering import Renderer, choose_backend
from envs.task_spec import TaskSpec

if TYPE_CHECKING:
    import mujoco

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]
Pose = tuple[NDArray[np.float64], NDArray[np.float64]]

SPLITS = ("train", "val", "eval")  # of the episodes of a data file, see data.schema; a test compares them
_MAX_GOAL_DRAWS = 1000


@dataclass(frozen=True)
class Session:
    """All that an episode in progress needs, so that many can share one environment and OpenGL context."""

    state: NDArray[np.float64]
    goal_state: NDArray[np.float64]
    goal_frame: NDArray[np.uint8]
    frame: NDArray[np.uint8] | None  # of `state`, where it has been drawn
    rng: np.random.Generator


class GoalEnv(gymnasium.Env[Observation, NDArray[np.float32]], ABC):
    """A goal-image task on MuJoCo.

    A state is float64 `[S]`: MuJoCo's mjSTATE_INTEGRATION vector, then the factors, which are what differs in
    the model between episodes: the task's own (`factor_names`), then those of `envs.factors` that are switched
    on. A subclass gives the model, how its own factors and poses are drawn, the truth, and a scripted behaviour.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}
    task: ClassVar[TaskSpec]
    camera: ClassVar[str]
    factor_names: ClassVar[tuple[str, ...]] = ()
    factor_ranges: ClassVar[tuple[tuple[str, float, float], ...]] = ()  # (unit, low, high) of each of these

    def __init__(
        self,
        size: int | None = None,
        proprio: bool = False,
        render_mode: str = "rgb_array",
        factors: Sequence[str] = (),
    ) -> None:
        """Frames are `size` x `size` pixels (default: the task's); `proprio` adds what the body feels; `factors`
        are the factors of variation that differ between episodes: groups, names, or "all" (`envs.factors`).

        Raises `ValueError` for a bad argument and `RuntimeError` where OpenGL does not work.
        """
        size = self.task.frame_size if size is None else size
        if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024:
            raise ValueError(f"size={size!r}: a frame has from 8 to 1024 pixels a side, for example size=64")
        if render_mode != "rgb_array":
            raise ValueError(f"render_mode={render_mode!r} is unknown; choices: 'rgb_array'")
        self.render_mode = render_mode
        self.size = size
        self.proprio = proprio
        self.split = SPLITS[0]
        self._build_simulator(tuple(factors))
        self._low = np.array(self.task.action_low)
        self._high = np.array(self.task.action_high)
        self.action_space = spaces.Box(self._low.astype(np.float32), self._high.astype(np.float32))
        self.observation_space: spaces.Space[Any] = spaces.Dict(self._observation_spaces())
        self._frame: NDArray[np.uint8] | None = None
        self.set_goal(self.get_state())

    def _build_simulator(self, factors: tuple[str, ...]) -> None:
        """Make the simulator (`_physics`), its `_renderer`, and the factors that are switched on."""
        choose_backend()
        from envs.physics import Physics  # imports MuJoCo, so only now

        model = self._build_model()
        substeps = round(self.task.control_step_s / model.opt.timestep)
        assert np.isclose(substeps * model.opt.timestep, self.task.control_step_s), model.opt.timestep
        self._variation = Variation(model, self.camera, factors)
        self._physics: Any = Physics(model, substeps)
        self._renderer: Any = Renderer(model, self.size, self.size, self.camera)
        self._factors = np.concatenate([np.zeros(len(self.factor_names)), self._variation.defaults])
        self._write_factors(model, self._factors)

    # What a task on MuJoCo defines; one on another simulator overrides what calls the first three

    def _build_model(self) -> mujoco.MjModel:
        """The compiled model."""
        raise NotImplementedError

    def _sample_pose(self, rng: np.random.Generator, factors: NDArray[np.float64]) -> Pose:
        """Positions `[nq]` and velocities `[nv]` of a random start, given the task's own factors."""
        raise NotImplementedError

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth `[..., L]` of positions `[..., nq]`, velocities `[..., nv]` and factors `[..., F]`."""
        raise NotImplementedError

    @abstractmethod
    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """An action `[A]` of the task's scripted behaviour; `memory` is empty when an episode starts."""

    def _sample_task_factors(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """The task's own factors `[F]` of a new episode of the split `self.split`."""
        return np.zeros(len(self.factor_names))

    def _write_task_factors(self, model: mujoco.MjModel, factors: NDArray[np.float64]) -> None:
        """Write the task's own factors `[F]` into a model."""

    # Gymnasium's interface

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """A start and a goal: `options["state"]` and `options["goal_state"]`, both `[S]`, else drawn.

        What is drawn shares the factors of what is given, and a drawn goal lies at least the task's
        `min_goal_distance` from the start. `options["split"]` (train, val or eval; train where it is not given)
        says which part of the data the episode is for: a task may draw other factors in each. Raises
        `ValueError` for an unknown option, for what is not a state, and for a state and a goal of different
        factors.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"state", "goal_state", "split"})
        if unknown:
            raise ValueError(f"reset has no options {unknown}; choices: 'state', 'goal_state', 'split'")
        self.split = options["split"] if "split" in options else SPLITS[0]
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is unknown; choices: {', '.join(SPLITS)}")
        start, goal = options.get("state"), options.get("goal_state")
        start = None if start is None else self._validate_state("state", start)
        goal = None if goal is None else self._validate_state("goal_state", goal)
        if start is not None and goal is not None:
            self._check_same_factors(start, goal)
        known = start if start is not None else goal
        factors = self._sample_all_factors() if known is None else self._factors_of(known)
        self._set_factors(factors)
        start = self._sample_state(factors) if start is None else start
        self.set_goal(self._sample_goal(start, factors) if goal is None else goal)
        self.set_state(start)
        return self._observe(), self._info()

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, Info]:
        """One environment step with the action `[A]` held, clipped to its bounds.

        Raises `ValueError` for an action of another shape, or with NaN or infinity in it.
        """
        control = np.asarray(action, np.float64)
        if control.shape != self._low.shape or not np.isfinite(control).all():
            raise ValueError(f"action {action!r} is not {self._low.size} finite numbers")
        self.advance(control)
        return self._observe(), 0.0, False, False, self._info()

    def advance(self, control: NDArray[np.float64]) -> None:
        """One environment step with `control` `[A]`, clipped to its bounds, without looking."""
        self._physics.step(np.clip(control, self._low, self._high))
        self._frame = None

    def render(self) -> NDArray[np.uint8]:
        """The current picture, uint8 `[H, W, 3]`."""
        return self._current_frame().copy()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    # State

    @property
    def state_size(self) -> int:
        """S, the length of a state."""
        return self._physics.state_size + len(self._factors)

    def get_state(self) -> NDArray[np.float64]:
        """This moment, float64 `[S]`: physics, then factors."""
        return np.concatenate([self._physics.get_state(), self._factors])

    def set_state(self, state: ArrayLike) -> None:
        """Go to a moment `[S]`, to the bit: the same actions lead to the same states and frames."""
        values = self._validate_state("state", state)
        self.apply_factors(values)
        self._physics.set_state(values[: self._physics.state_size])

    def set_goal(self, goal_state: ArrayLike) -> None:
        """Make a state `[S]` the goal; its picture is drawn as every other."""
        values = self._validate_state("goal_state", goal_state)
        self._goal_state = values.copy()
        self._goal_frame = self.render_state(values)

    def get_goal_state(self) -> NDArray[np.float64]:
        """The goal as a state `[S]`."""
        return self._goal_state.copy()

    def render_state(self, state: ArrayLike) -> NDArray[np.uint8]:
        """The picture of a state `[S]`, uint8 `[H, W, 3]`; the current moment stays."""
        now, frame = self.get_state(), self._frame
        self.set_state(state)
        picture = self._current_frame()
        self.set_state(now)
        self._frame = frame
        return picture

    def get_truth(self, state: ArrayLike | None = None) -> NDArray[np.float32]:
        """The quantities of `task.truth_names`, `[L]` now, or `[..., L]` of states `[..., S]`."""
        values = self.get_state() if state is None else np.asarray(state, np.float64)
        assert values.shape[-1] == self.state_size, (values.shape, self.state_size)
        return self.compute_truth(
            values[..., self.qpos], values[..., self.qvel], self._factors_of(values)[..., : len(self.factor_names)]
        )

    def get_factors(self) -> dict[str, float]:
        """What differs in the model in this episode, by name."""
        return dict(zip(self.factor_names + self._variation.names, self._factors.tolist(), strict=True))

    def list_factors(self) -> tuple[Factor, ...]:
        """The factors of variation that this task has, switched on or not."""
        return () if self.physics_model is None else list_factors(self.physics_model, self.camera)

    def save_session(self) -> Session:
        """This episode with its goal and generator, to go on with later."""
        return Session(self.get_state(), self._goal_state, self._goal_frame, self._frame, self.np_random)

    def load_session(self, session: Session) -> None:
        """Go on with an episode that `save_session` put aside."""
        self.set_state(session.state)
        self._goal_state, self._goal_frame = session.goal_state, session.goal_frame
        self._frame = session.frame
        self.np_random = session.rng

    # For an oracle that steps the simulator itself, and for a data file's header

    @property
    def physics_model(self) -> mujoco.MjModel:
        """MuJoCo's model, with the current factors in it; None where another simulator steps."""
        return self._physics.model

    @property
    def physics_data(self) -> mujoco.MjData:
        """MuJoCo's data of the current moment."""
        return self._physics.data

    @property
    def substeps(self) -> int:
        """Physics steps in an environment step."""
        return self._physics.substeps

    @property
    def qpos(self) -> slice:
        """Where positions are in a state, and in a mjSTATE_FULLPHYSICS vector of `mujoco.rollout`."""
        return self._physics.qpos

    @property
    def qvel(self) -> slice:
        """Where velocities are in a state, and in a mjSTATE_FULLPHYSICS vector of `mujoco.rollout`."""
        return self._physics.qvel

    def apply_factors(self, state: ArrayLike) -> None:
        """Write a state's factors into this environment."""
        factors = self._factors_of(self._validate_state("state", state))
        self._frame = None
        self._set_factors(factors)

    def get_render_settings(self) -> dict[str, Any]:
        """How frames are drawn, for a data file to note."""
        return {"camera": self.camera, "size": self.size, "renderer": self._renderer.get_gl_renderer()}

    # Inside

    def _observation_spaces(self) -> dict[str, spaces.Space[Any]]:
        shape = (self.size, self.size, 3)
        found: dict[str, spaces.Space[Any]] = {
            name: spaces.Box(0, 255, shape, np.uint8) for name in ("pixels", "goal_pixels")
        }
        if self.proprio:
            found["proprio"] = spaces.Box(-np.inf, np.inf, (len(self.task.proprio_names),), np.float32)
        return found

    def _observe(self) -> Observation:
        found: Observation = {"pixels": self.render(), "goal_pixels": self._goal_frame.copy()}
        if self.proprio:
            found["proprio"] = self.get_truth()[list(self.task.proprio_index)]
        return found

    def _info(self) -> Info:
        truth, goal_truth = self.get_truth(), self.get_truth(self._goal_state)
        distance = float(self.task.distance(truth, goal_truth))
        return {"distance": distance, "truth": truth, "goal_truth": goal_truth}

    def _current_frame(self) -> NDArray[np.uint8]:
        if self._frame is None:
            self._physics.update_kinematics()
            self._frame = self._renderer.render(self._physics.data)
        return self._frame

    def _validate_state(self, name: str, state: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(state, np.float64)
        if values.shape != (self.state_size,) or not np.isfinite(values).all():
            raise ValueError(
                f"{name} of shape {values.shape} is no state of {self.task.name}: "
                f"that is {self.state_size} finite numbers, as get_state() gives"
            )
        return values

    def _check_same_factors(self, start: NDArray[np.float64], goal: NDArray[np.float64]) -> None:
        one, other = self._factors_of(start), self._factors_of(goal)
        if not np.array_equal(one, other):
            names = ", ".join(self.factor_names + self._variation.names)
            raise ValueError(
                f"state and goal_state come from different episodes: "
                f"{names} is {one.tolist()} in one and {other.tolist()} in the other"
            )

    def _factors_of(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        return state[..., self._physics.state_size :]

    def _sample_all_factors(self) -> NDArray[np.float64]:
        return np.concatenate([self._sample_task_factors(self.np_random), self._variation.sample(self.np_random)])

    def _set_factors(self, factors: NDArray[np.float64]) -> None:
        if not np.array_equal(factors, self._factors):
            self._factors = factors.copy()
            self._write_factors(self._physics.model, factors)

    def _write_factors(self, model: mujoco.MjModel, factors: NDArray[np.float64]) -> None:
        # A task's own factors come last: the others begin by undoing what was written before.
        self._variation.write(model, factors[len(self.factor_names) :])
        self._write_task_factors(model, factors[: len(self.factor_names)])

    def _sample_state(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        state = np.concatenate([self._physics.default_state(), factors])
        state[self.qpos], state[self.qvel] = self._sample_pose(self.np_random, factors[: len(self.factor_names)])
        return state

    def _sample_goal(self, start: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
        for _ in range(_MAX_GOAL_DRAWS):
            goal = self._sample_state(factors)
            if self.task.distance(self.get_truth(start), self.get_truth(goal)) >= self.task.min_goal_distance:
                return goal
        raise AssertionError(f"no goal {self.task.min_goal_distance} {self.task.distance_unit} away was drawn")
