"""GoalEnv: a Gymnasium environment with a goal image, in which every state can be restored.

Observations are images, `pixels` and `goal_pixels`; the true state appears only in `info` and `get_truth`, for
evaluation. By default an environment gives no reward and never terminates: success and budget belong to the evaluator.
For reinforcement learning, `gymnasium.make` adds rewards (`envs.rewards`) and a time limit. Only an environment of
Gymnasium's may end an episode of its own (`envs.adapters.gymnasium_simulator`).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from envs.actions import read_actions
from envs.distraction import choose_setting
from envs.goals import sample_distant_goal
from envs.presets import APPEARANCE, choose_factors
from envs.rendering import Renderer, choose_backend
from envs.rewards import Rewards
from envs.session import Session
from envs.state_checks import read_state, require_same_factors, require_same_pose
from envs.task_spec import TaskSpec

if TYPE_CHECKING:
    import mujoco

    from envs.factors import Factor

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]
Pose = tuple[NDArray[np.float64], NDArray[np.float64]]

SPLITS = ("train", "val", "eval")  # of the episodes of a data file, see data.schema; a test compares them
_MODELS: dict[tuple[type[GoalEnv], str], mujoco.MjModel] = {}  # compiled models by class and task
RESET_OPTIONS = ("state", "goal_state", "goal_image_state", "split")


class GoalEnv(gymnasium.Env[Observation, NDArray[np.float32]], ABC):
    """A goal-image task on MuJoCo.

    A state is float64 `[S]`: the state of `physics` (see `envs.physics`), then the factors, which are what differs in
    the model between episodes: the task's own (`task_factors`), then those of `envs.factors` that are switched on.
    `qpos` and `qvel` are the slices of positions and velocities in a state. A subclass defines the model, samples its
    own factors and poses, computes the truth, and acts by a script.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}
    task: ClassVar[TaskSpec]
    camera: ClassVar[str]
    rewards = Rewards()
    task_factors: ClassVar[dict[str, tuple[str, float, float]]] = {}  # (unit, low, high) of the task's own factors

    def __init__(
        self,
        size: int | None = None,
        proprio: bool = False,
        render_mode: str | None = "rgb_array",
        factors: Sequence[str] = (),
        variation: str = "none",
        distraction: Mapping[str, Any] | None = None,
    ) -> None:
        """`size`: frames are `size` x `size` pixels (default: the task's). `proprio` adds proprioception to
        observations. `factors`: factors of variation that differ between episodes, as groups, names, or "all"
        (`envs.factors`). `variation`: preset that they are drawn from (`envs.presets`); without factors it varies the
        groups of APPEARANCE. Factors without a preset are drawn as in `seen`. `distraction`: keys of
        `envs.distraction.Distraction`, for the presets that distract.

        Raises `ValueError` for a bad argument and `RuntimeError` where OpenGL does not work.
        """
        size = self.task.frame_size if size is None else size
        if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024:
            raise ValueError(f"size={size!r}: a frame has from 8 to 1024 pixels a side, for example size=64")
        if render_mode not in (None, "rgb_array"):  # observations are drawn in both
            raise ValueError(f"render_mode={render_mode!r} is unknown; choices: 'rgb_array', None")
        self.render_mode, self.size, self.proprio, self.split = render_mode, size, proprio, SPLITS[0]
        self.variation = variation
        chosen = choose_factors(variation, factors)
        self._setting = choose_setting(variation, distraction)
        self._build_simulator(chosen)
        self.qpos, self.qvel = self.physics.qpos, self.physics.qvel
        self.state_size = self.physics.state_size + len(self._factors)
        self._low, self._high = np.array(self.task.action_low), np.array(self.task.action_high)
        self.action_space = spaces.Box(self._low.astype(np.float32), self._high.astype(np.float32))
        image: spaces.Space[Any] = spaces.Box(0, 255, (size, size, 3), np.uint8)
        quantities = spaces.Box(-np.inf, np.inf, (len(self.task.proprio_names),), np.float32)
        by_name = {"pixels": image, "goal_pixels": image} | ({"proprio": quantities} if proprio else {})
        self.observation_space: spaces.Space[Any] = spaces.Dict(by_name)
        self._frame: NDArray[np.uint8] | None = None
        self.set_goal(self.get_state())
        if self._setting and self._setting.is_sky_alone and self._goal_frame.any(axis=-1).all():
            raise ValueError(
                f"variation={variation} replaces the sky alone, and the camera of {self.task.name} sees none: choose "
                "variation=video_hard, which replaces the floor, too"
            )

    def _build_simulator(self, factors: tuple[str, ...]) -> None:
        """Set `physics`, `_renderer`, and the factors that are switched on."""
        choose_backend()
        from envs.distractors import Distractors  # these import MuJoCo, so only now
        from envs.factors import Variation
        from envs.physics import Physics

        model = self._copy_model()
        substeps = round(self.task.control_step_s / model.opt.timestep)
        assert np.isclose(substeps * model.opt.timestep, self.task.control_step_s), model.opt.timestep
        distractors = Distractors(self._setting, model, self.camera, self.size) if self._setting else None
        self._variation = Variation(model, self.camera, factors, self.variation == "moving", distractors)
        self.physics: Any = Physics(model, substeps)
        self._renderer: Any = Renderer(model, self.size, self.size, self.camera)
        self._factors = np.full(len(self.task_factors) + len(self._variation.names), np.nan)  # none written yet
        self._set_factors(np.concatenate([np.zeros(len(self.task_factors)), self._variation.defaults]))

    def _copy_model(self) -> mujoco.MjModel:
        """A model of this environment's own; to compile one takes up to a tenth of a second, to copy it far less."""
        key = type(self), self.task.name
        if key not in _MODELS:
            _MODELS[key] = self._build_model()
        return copy.copy(_MODELS[key])

    # What a task on MuJoCo defines. A task on another simulator overrides the methods that call the first three.

    def _build_model(self) -> mujoco.MjModel:
        """The compiled model; by default, of the file scene.xml beside the class's module."""
        from envs.physics import load_scene

        return load_scene(type(self).__module__.rpartition(".")[0]).compile()

    def _sample_pose(self, rng: np.random.Generator, factors: NDArray[np.float64]) -> Pose:
        """Positions `[nq]` and velocities `[nv]` of a random start, given the task's own factors."""
        raise NotImplementedError

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth `[..., L]` of positions `[..., nq]`, velocities `[..., nv]` and the task's own factors `[..., F]`; by
        default, all of them."""
        return np.concatenate([np.asarray(part) for part in (qpos, qvel, factors)], axis=-1).astype(np.float32)

    @abstractmethod
    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """An action `[A]` of the task's scripted behaviour; `memory` is empty when an episode starts."""

    def _sample_task_factors(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """The task's own factors `[F]` of a new episode of the split `self.split`."""
        return np.zeros(len(self.task_factors))

    def _write_task_factors(self, model: mujoco.MjModel, factors: NDArray[np.float64]) -> None:
        """Write the task's own factors `[F]` into a model."""

    _sample_goal = sample_distant_goal

    # Gymnasium's interface

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode from `options["state"]` to `options["goal_state"]`, both `[S]`, else random ones.

        A random start or goal shares the factors of the given one; a random goal lies at least the task's
        `min_goal_distance` from the start. `options["goal_image_state"]` is shown in the goal image, see `set_goal`.
        `options["split"]` (train, val or eval; default train) is the part of the data that the episode belongs to: a
        task and a preset may sample other factors in each. Raises `ValueError` for an unknown option, an invalid state,
        and a state and a goal of different factors.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - set(RESET_OPTIONS))
        if unknown:
            raise ValueError(f"reset has no options {unknown}; choices: {', '.join(map(repr, RESET_OPTIONS))}")
        self.split = options["split"] if "split" in options else SPLITS[0]
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is unknown; choices: {', '.join(SPLITS)}")
        given = {name: options[name] for name in ("state", "goal_state") if options.get(name) is not None}
        states = {name: self._validate_state(name, state) for name, state in given.items()}
        if states:
            given_factors = [state[self.physics.state_size :] for state in states.values()]
            require_same_factors(given_factors[0], given_factors[-1], list(self.get_factors()))
            factors = given_factors[0]
        else:
            own = self._sample_task_factors(self.np_random)
            held_out = self.split == "eval"
            drawn = self._variation.sample(self.np_random, self.variation == "unseen" and held_out, held_out)
            factors = np.concatenate([own, drawn])
        self._set_factors(factors)
        start = states["state"] if "state" in states else self.sample_state(factors)
        goal = states["goal_state"] if "goal_state" in states else self._sample_goal(start, factors)
        self.set_goal(goal, options.get("goal_image_state"))
        self.set_state(start)
        return self._observe(), self._get_info()

    def step(self, action: ArrayLike) -> tuple[Observation, float, bool, bool, Info]:
        """One environment step with the action `[A]` held, clipped to its bounds.

        `info` has `distance` (in the task's unit), `is_success` (within the first threshold), `truth`, `goal_truth`.
        Raises `ValueError` for an action of another shape, or with NaN or infinity in it.
        """
        terminated, truncated = self.advance(read_actions(action, self._low.shape, self.task, np.float64))
        observation, info = self._observe(), self._get_info()
        reward = self.rewards.compute_reward(info["distance"], info["is_success"])
        terminated = terminated or (self.rewards.terminate_on_success and info["is_success"])
        return observation, reward, terminated, truncated, info

    def advance(self, control: NDArray[np.float64]) -> tuple[bool, bool]:
        """One environment step with `control` `[A]`, clipped to its bounds, without an observation. Returns whether it
        terminated or truncated the simulator's own episode; then nothing has moved."""
        self._frame = None
        return self.physics.step(np.clip(control, self._low, self._high))

    def render(self) -> NDArray[np.uint8]:
        """The current image, uint8 `[H, W, 3]`."""
        return self._render_frame().copy()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    # State

    def get_state(self) -> NDArray[np.float64]:
        """The current state, float64 `[S]`: physics, then factors."""
        return np.concatenate([self.physics.get_state(), self._factors])

    def set_state(self, state: ArrayLike) -> None:
        """Continue from a state `[S]`: the same actions lead to the same states and frames, bit for bit."""
        values = self._validate_state("state", state)
        self.apply_factors(values)
        self.physics.set_state(values[: self.physics.state_size])

    def set_goal(self, goal_state: ArrayLike, image_state: ArrayLike | None = None) -> None:
        """Make a state `[S]` the goal, and render it, or `image_state` `[S]` in its place.

        Raises `ValueError` where the two differ in more than factors of appearance (`redraw_factors`).
        """
        values = self._validate_state("goal_state", goal_state)
        shown = values if image_state is None else self._validate_state("goal_image_state", image_state)
        own = self.physics.state_size + len(self.task_factors)
        require_same_pose(values, shown, own, [factor.group for factor in self._variation.factors])
        self._goal_state = values.copy()
        self._goal_frame = self.render_state(shown)

    def get_goal_state(self) -> NDArray[np.float64]:
        """The goal as a state `[S]`."""
        return self._goal_state.copy()

    def render_state(self, state: ArrayLike) -> NDArray[np.uint8]:
        """The image of a state `[S]`, uint8 `[H, W, 3]`; the current state stays."""
        current, frame = self.get_state(), self._frame
        self.set_state(state)
        image = self._render_frame()
        self.set_state(current)
        self._frame = frame
        return image

    def get_truth(self, state: ArrayLike | None = None) -> NDArray[np.float32]:
        """The quantities of `task.truth_names`, `[L]` now, or `[..., L]` of states `[..., S]`."""
        values = self.get_state() if state is None else np.asarray(state, np.float64)
        assert values.shape[-1] == self.state_size, (values.shape, self.state_size)
        factors = values[..., self.physics.state_size :][..., : len(self.task_factors)]
        return self.compute_truth(values[..., self.qpos], values[..., self.qvel], factors)

    def get_factors(self) -> dict[str, float]:
        """This episode's factors by name."""
        return dict(zip((*self.task_factors, *self._variation.names), self._factors.tolist(), strict=True))

    def list_factors(self) -> tuple[Factor, ...]:
        """The factors of variation that this task has, switched on or not."""
        return () if self.physics.model is None else self._variation.list_offered(self.camera)

    def apply_factors(self, state: ArrayLike) -> None:
        """Write the factors of a state `[S]` into the model."""
        self._frame = None
        self._set_factors(self._validate_state("state", state)[self.physics.state_size :])

    def redraw_factors(
        self,
        state: ArrayLike,
        rng: np.random.Generator,
        variation: str = "seen",
        groups: Sequence[str] = APPEARANCE,
        strength: float = 1.0,
        split: str = "eval",
    ) -> NDArray[np.float64]:
        """The state `[S]` with the factors of these groups that are switched on drawn anew.

        `variation` is a preset, whatever the split; `none` sets the defaults, which is a clean scene. Motion rests but
        for `moving`. A preset that distracts sets the defaults, too, and draws distractors, with the videos of `split`.
        `strength` (0 to 2) multiplies how far values of `unseen` lie outside the training ranges, and how strong the
        motion of `moving` is. Raises `ValueError` where no factor can be drawn.
        """
        values = self._validate_state("state", state).copy()
        own = self.physics.state_size + len(self.task_factors)
        values[own:] = self._variation.redraw(values[own:], rng, variation, groups, strength, split == "eval")
        return values

    def save_session(self) -> Session:
        """This episode with its goal and generator, to continue later."""
        return Session(self.get_state(), self._goal_state, self._goal_frame, self._frame, self.np_random)

    def load_session(self, session: Session) -> None:
        """Continue an episode that `save_session` returned."""
        self.set_state(session.state)
        self._goal_state, self._goal_frame = session.goal_state, session.goal_frame
        self._frame, self.np_random = session.frame, session.rng

    def get_render_settings(self) -> dict[str, Any]:
        """Camera, size and OpenGL renderer, for the header of a data file."""
        return {"camera": self.camera, "size": self.size, "renderer": self._renderer.get_gl_renderer()}

    def sample_state(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """A random state `[S]` with all factors `[F]` given."""
        state = np.concatenate([self.physics.get_default_state(), factors])
        state[self.qpos], state[self.qvel] = self._sample_pose(self.np_random, factors[: len(self.task_factors)])
        return state

    # Inside

    def _observe(self) -> Observation:
        observation: Observation = {"pixels": self.render(), "goal_pixels": self._goal_frame.copy()}
        if self.proprio:
            observation["proprio"] = self.get_truth()[list(self.task.proprio_index)]
        return observation

    def _get_info(self) -> Info:
        truth, goal_truth = self.get_truth(), self.get_truth(self._goal_state)
        distance = float(self.task.distance(truth, goal_truth))
        is_success = distance <= self.task.thresholds[0]
        return {"distance": distance, "is_success": is_success, "truth": truth, "goal_truth": goal_truth}

    def _render_frame(self) -> NDArray[np.uint8]:
        if self._frame is None:
            self.physics.update_kinematics()
            self._frame = self._renderer.render(self.physics.data)
        return self._frame

    def _validate_state(self, name: str, state: ArrayLike) -> NDArray[np.float64]:
        return read_state(name, state, self.state_size, self.task.name)

    def _set_factors(self, factors: NDArray[np.float64]) -> None:
        if not np.array_equal(factors, self._factors):
            self._factors, own = factors.copy(), len(self.task_factors)
            # A task's own factors come last: the others begin by undoing what was written before.
            self._variation.write(self.physics.model, factors[own:])
            self._write_task_factors(self.physics.model, factors[:own])
            motion = self._variation.build_motion(factors[own:])
            distractors = self._variation.build_distractors(factors[own:])
            self._renderer.animate = distractors.animate if distractors else motion.animate if motion else None
            self._renderer.finish = distractors.finish if distractors else None
