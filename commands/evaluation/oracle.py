"""The oracle: the true simulator behind the Dynamics protocol, for any planner and cost.

It steps MuJoCo for all candidates (`mujoco.rollout`, in threads; an environment of Gymnasium is stepped itself, one
candidate after another) and offers the view `truth`. With a model it also renders and encodes the futures of the
candidates, so that the model's cost can be planned with perfect dynamics. The true distance as cost shows what the
planner can reach at all. The model's cost shows whether the cost or the dynamics cause a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from data.pictures import Preprocessing
from envs.goal_env import GoalEnv
from planners.mpc import MPC, MPCConfig
from planners.protocol import Cost, Dynamics, DynamicsSpec, Goal, Keep, Planner, Views


@dataclass
class OracleContext:
    """A context: true states [B, S]."""

    states: NDArray[np.float64]

    def select(self, rows: slice | Tensor) -> OracleContext:
        """Some of the environments."""
        return OracleContext(self.states[rows if isinstance(rows, slice) else rows.cpu().numpy()])


class OracleDynamics:
    """The simulator as a world model. `set_states` must be called before every plan."""

    def __init__(
        self,
        env: GoalEnv,
        model: Dynamics | None,
        horizon: int,
        threads: int,
        frame_skip: int = 1,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        """preprocessing: of the environment's pictures for the model; None: they are taken as they are."""
        self.env, self.model = env, model
        self.preprocessing = preprocessing or Preprocessing((env.size, env.size))
        self.rollout: Any = None
        if env.physics.model is not None:
            import mujoco
            from mujoco.rollout import Rollout

            self.rollout = Rollout(nthread=threads if threads > 1 else 0)
            self.data = [mujoco.MjData(env.physics.model) for _ in range(threads)]
            self.physics_size = mujoco.mj_stateSize(env.physics.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        task = env.task
        views = ("truth",) + (model.spec.views if model is not None else ())
        low, high = task.action_low * frame_skip, task.action_high * frame_skip
        device = torch.device("cpu") if model is None else model.spec.device
        self.spec = DynamicsSpec(low, high, self.preprocessing.size_hw, horizon, views, frame_skip, device=device)

    def close(self) -> None:
        """Close the environment, and end the threads that simulate."""
        self.env.close()
        if self.rollout is not None:
            self.rollout.close()

    def set_states(self, states: NDArray[np.float64], goal_states: NDArray[np.float64]) -> None:
        """Set the present true states and goals [B, S]."""
        self.states, self.goal_states = np.array(states), np.array(goal_states)

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> OracleContext:
        """The true states; the frames are not used."""
        return OracleContext(self.states)

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """The true state of the goals, and the model's views of the goal images."""
        views: dict[str, Any] = {"truth": lambda: self._compute_truth(self.goal_states)}
        if self.model is not None:
            goal = self.model.encode_goal(frames_BHWC)
            views |= {name: goal.view(name) for name in self.model.spec.views}
        return Views(views)

    def imagine(
        self, context: OracleContext, actions_BSKA: Tensor, generator: Any = None, keep: Keep = "path"
    ) -> Views:
        """Simulate all candidates; frames are rendered only if a view of the model is asked for."""
        actions = actions_BSKA.cpu().numpy().astype(np.float64)
        states = np.stack([self._simulate(state, plan) for state, plan in zip(context.states, actions, strict=True)])
        if keep == "last":
            states = states[:, :, -1:]
        views: dict[str, Any] = {"truth": lambda: self._compute_truth(states)}
        if self.model is not None:
            encode = cache(lambda: self._encode_rendered(states))  # once for all views

            @torch.no_grad()
            def read(name: str) -> Tensor:
                return torch.cat([part.view(name) for part in encode()]).unflatten(0, states.shape[:3])

            views |= {name: partial(read, name) for name in self.model.spec.views}
        return Views(views, keep)

    def _simulate(self, state: NDArray[np.float64], plans_SKA: NDArray[np.float64]) -> NDArray[np.float64]:
        """Full states [S, K, state] after every model step of every plan from one state."""
        if self.rollout is None:
            return self._step_through(state, plans_SKA)
        substeps, size = self.env.physics.substeps, self.physics_size
        steps = rearrange(plans_SKA, "s k (f a) -> s (k f) a", f=self.spec.frame_skip).repeat(substeps, 1)
        stride = substeps * self.spec.frame_skip
        self.env.apply_factors(state)
        start = np.repeat(state[None, :size], len(plans_SKA), 0)
        path, _ = self.rollout.rollout(self.env.physics.model, self.data, start, steps)
        full = np.broadcast_to(state, (*plans_SKA.shape[:2], len(state))).copy()
        full[..., :size] = path[:, stride - 1 :: stride]
        return full

    def _step_through(self, state: NDArray[np.float64], plans_SKA: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same one step after another, for an environment that is not ours: it knows no rollouts."""
        plans = rearrange(plans_SKA, "s k (f a) -> s k f a", f=self.spec.frame_skip)
        states = np.empty((*plans.shape[:2], len(state)))
        for s, plan in enumerate(plans):
            self.env.set_state(state)
            ended = False  # the simulator's own episode; its state then stays
            for k, block in enumerate(plan):
                for action in block:
                    ended = ended or any(self.env.advance(action))
                states[s, k] = self.env.get_state()
        return states

    def _compute_truth(self, states: NDArray[np.float64]) -> Tensor:
        """Truth [..., L] of full states [..., S]."""
        return torch.from_numpy(self.env.get_truth(states)).to(self.spec.device)

    @torch.no_grad()
    def _encode_rendered(self, states: NDArray[np.float64]) -> list[Goal]:
        """The rendered states [B, S, K, state] as the model sees goals, in parts of their flat order."""
        assert self.model is not None
        flat = states.reshape(-1, states.shape[-1])
        rendered = np.stack([self.env.render_state(state) for state in flat])
        frames = torch.from_numpy(self.preprocessing.prepare(rendered))
        return [self.model.encode_goal(chunk) for chunk in frames.to(self.spec.device).split(256)]


class OraclePolicy:
    """An MPC over the oracle, fed with the true states by the evaluator."""

    def __init__(self, dynamics: OracleDynamics, planner: Planner, cost: Cost, config: MPCConfig) -> None:
        self.dynamics, self.mpc = dynamics, MPC(dynamics, planner, cost, config)

    def close(self) -> None:
        """See `OracleDynamics.close`."""
        self.dynamics.close()

    def set_states(self, states: NDArray[np.float64], goal_states: NDArray[np.float64]) -> None:
        """Called by the evaluator before every act."""
        self.dynamics.set_states(states, goal_states)

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        self.pending = (goal_frames, seeds)
        self.started = False

    def act(self, frames: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        if not self.started:
            self.mpc.reset(*self.pending)  # the goal's truth is known only once the states have been handed in
            self.started = True
        return np.asarray(self.mpc.act(frames))

    @property
    def plan_ms(self) -> list[float]:
        """Milliseconds of every plan."""
        return self.mpc.plan_ms
