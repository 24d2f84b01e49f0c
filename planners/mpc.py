"""Receding horizon: frames and a goal image in, actions out, for a batch of environments in step.

`MPC` keeps what the dynamics may look at (the last T frames, one model step apart, and the action blocks
between them), plans when its queue of actions is empty, executes `receding_steps` model steps of the plan
one environment action at a time, and starts the next search from what is left of the plan.

With frame_skip = 2 and receding_steps = 1:

    act                 0             1             2             3             4
    frame remembered    o_0                         o_1                         o_2
    plans               *                           *                           *
    action              block 0, 1st  block 0, 2nd  block 1, 1st  block 1, 2nd  ...
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from planners.protocol import Context, Cost, Dynamics, Goal, Plan, Planner
from planners.sampling import Tail, check_fit, shift_plan

Frames = Tensor | np.ndarray


@dataclass(frozen=True)
class MPCConfig:
    """receding_steps: model steps executed a plan. warm_start: begin a search at the shifted last plan, whose
    freed `tail` repeats the last action or is zero."""

    receding_steps: int = 1
    warm_start: bool = True
    tail: Tail = "repeat"

    def __post_init__(self) -> None:
        if self.receding_steps < 1:
            raise ValueError(f"planner receding_steps is {self.receding_steps}; it must be at least 1")
        if self.tail not in get_args(Tail):
            raise ValueError(f"planner tail is {self.tail!r}; choose one of {', '.join(get_args(Tail))}")


class MPC:
    """The agent: `reset` with goal images, then `act` once an environment step.

    `last_plan` is the newest Plan, `plan_ms` the wall time of every plan since `reset` (encoding, planning
    and the copy to the host that ends it).
    """

    def __init__(self, dynamics: Dynamics, planner: Planner, cost: Cost, config: MPCConfig | None = None) -> None:
        self.dynamics, self.planner, self.cost = dynamics, planner, cost
        self.config = config or MPCConfig()
        self.spec = dynamics.spec
        if self.config.receding_steps > planner.horizon:
            raise ValueError(
                f"planner receding_steps is {self.config.receding_steps}; choose 1 to horizon = {planner.horizon}"
            )
        check_fit(self.spec, cost, planner.horizon)
        self.last_plan: Plan | None = None
        self.plan_ms: list[float] = []
        self._goal: Goal | None = None

    def reset(self, goal_frames_BHWC: Frames, seeds: Sequence[int]) -> None:
        """Begin an episode in every environment. goal_frames_BHWC: uint8; seeds: one per environment."""
        goal_frames = self._frames(goal_frames_BHWC, "goal image")
        assert len(goal_frames) == len(seeds), (goal_frames.shape, len(seeds))
        with torch.no_grad():
            self._goal = self.dynamics.encode_goal(goal_frames)
        self._seeds = tuple(int(seed) for seed in seeds)
        self._frames_seen: deque[Tensor] = deque(maxlen=self.spec.history)
        self._felt: deque[Tensor] = deque(maxlen=self.spec.history)
        self._blocks_done: deque[Tensor] = deque(maxlen=self.spec.history - 1)
        self._queue: deque[Tensor] = deque()  # environment actions [B, a] on the host
        self._blocks_to_do: deque[Tensor] = deque()  # the same as action blocks [B, A] on the device
        self.last_plan = None
        self.plan_ms = []
        self._step = 0

    def act(self, frames_BHWC: Frames, proprio_BQ: Frames | None = None) -> Frames:
        """actions_BA for one environment step (environment units, float32), given the current frames (uint8), and the
        robot's state where the model knows it (`spec.proprio`); else that is not looked at.

        Returns numpy for numpy frames, else a tensor on the frames' device. Plans when the last plan is
        used up.
        """
        assert self._goal is not None, "call reset(goal_frames, seeds) before act"
        if self._step % self.spec.frame_skip == 0:
            frames = self._frames(frames_BHWC, "frame")
            assert len(frames) == len(self._seeds), (frames.shape, len(self._seeds))
            self._frames_seen.append(frames)
            if self.spec.proprio != "none":
                self._felt.append(self._state(proprio_BQ))
            if not self._queue:
                self._plan(self._goal)
            self._blocks_done.append(self._blocks_to_do.popleft())
        self._step += 1
        actions = self._queue.popleft()
        return actions.numpy() if isinstance(frames_BHWC, np.ndarray) else actions.to(frames_BHWC.device)

    def _plan(self, goal: Goal) -> None:
        """Plan anew and fill the queue."""
        began = time.perf_counter()
        steps = self.config.receding_steps
        with torch.no_grad():
            context = self._observe()
        warm_start = None
        if self.config.warm_start and self.last_plan is not None:
            warm_start = shift_plan(self.last_plan.actions_BKA, steps, self.config.tail)
        plan = self.planner.plan(
            self.dynamics,
            context,
            goal,
            self.cost,
            seeds=self._seeds,
            warm_start=warm_start,
            replan=len(self.plan_ms),
        )
        blocks = plan.actions_BKA[:, :steps]
        self._blocks_to_do.extend(blocks.unbind(1))
        # One copy to the host a plan; it waits for the device, so the time below is the plan's.
        actions = blocks.cpu().reshape(len(blocks), -1, self.spec.action_dim)
        self._queue.extend(actions.transpose(0, 1).contiguous())
        self.last_plan = plan
        self.plan_ms.append(1e3 * (time.perf_counter() - began))

    def _observe(self) -> Context:
        """The context of the frames and blocks so far, padded at the old end while the episode is young."""
        missing = self.spec.history - len(self._frames_seen)
        first = self._frames_seen[0]
        frames = torch.stack([first] * missing + list(self._frames_seen), dim=1)
        zero = torch.zeros(len(first), self.spec.block_dim, device=self.spec.device)
        blocks = [zero] * missing + list(self._blocks_done)
        actions = torch.stack(blocks, dim=1) if blocks else zero[:, None][:, :0]
        valid = torch.arange(self.spec.history, device=self.spec.device) >= missing
        felt = torch.stack([self._felt[0]] * missing + list(self._felt), dim=1) if self._felt else None
        return self.dynamics.observe(frames, actions, valid.expand(len(first), -1), felt)

    def _state(self, proprio_BQ: Frames | None) -> Tensor:
        if proprio_BQ is None:
            raise ValueError(f"this model knows the robot's state (proprio={self.spec.proprio}): give it beside frames")
        return torch.as_tensor(np.array(proprio_BQ) if isinstance(proprio_BQ, np.ndarray) else proprio_BQ).to(
            self.spec.device, torch.float32
        )

    def _frames(self, frames: Frames, what: str) -> Tensor:
        """Frames as a uint8 tensor on the dynamics' device. Raises ValueError for another size or type."""
        # Always a copy: an environment may draw its next frame into the same memory.
        tensor = torch.from_numpy(np.array(frames)) if isinstance(frames, np.ndarray) else frames.clone()
        height, width = self.spec.frame_hw
        if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tuple(tensor.shape[1:3]) != (height, width):
            raise ValueError(
                f"the {what} is {tensor.dtype} {tuple(tensor.shape)}; this model takes torch.uint8 "
                f"[batch, {height}, {width}, channels]"
            )
        return tensor.to(self.spec.device)
