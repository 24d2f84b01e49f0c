"""Receding horizon: frames and a goal image in, actions out, for a batch of environments in step.

`MPC` keeps what the dynamics may look at (the last T frames, one model step apart, and the action blocks
between them), plans when its queue of actions is empty, executes `receding_steps` model steps of the plan
one environment action at a time, and starts the next search from what is left of the plan.

With frame_skip = 2 and receding_steps = 1:

    act                 0             1             2             3             4
    frame remembered    o_0                         o_1                         o_2
    plans               *                           *                           *
    action              block 0, 1st  block 0, 2nd  block 1, 1st  block 1, 2nd  ...

Goals may be sequences of sub-goals: at every model step, an environment whose frame is near its sub-goal, or which
has had it long enough, goes on to the next one; the next plan is for that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from planners.costs import GoalCost, focus_goal
from planners.proposals import Proposals, check_candidates, join_candidates
from planners.protocol import Context, Cost, Dynamics, FrameCost, Goal, Plan, Planner, Views
from planners.sampling import Tail, shift_plan
from planners.scoring import check_fit

Frames = Tensor | np.ndarray
ENERGIES = ("best", "elite_mean", "mean")  # of Plan.history, whose means `MPC.energies` holds


@dataclass(frozen=True)
class MPCConfig:
    """How much of a plan is executed, where the next search begins, and when the next sub-goal is taken.

    A frame's cost is the distance between that frame and the sub-goal. The two sub-goal keys need a sequence of them.
    """

    receding_steps: int = 1
    """model steps executed per plan (1 to horizon)"""
    warm_start: bool = True
    """whether a search begins at the shifted last plan"""
    tail: Tail = "repeat"
    """end of a shifted plan: repeat (its last action) or zero"""
    reached_cost: float = 0.0
    """cost of a frame below which the next sub-goal is taken (>= 0; 0 disables this)"""
    subgoal_steps: int = 0
    """model steps after which the next sub-goal is taken (>= 0; 0 disables this)"""

    def __post_init__(self) -> None:
        if self.receding_steps < 1:
            raise ValueError(f"planner receding_steps is {self.receding_steps}; it must be at least 1")
        if self.tail not in get_args(Tail):
            raise ValueError(f"planner tail is {self.tail!r}; choose one of {', '.join(get_args(Tail))}")
        for key in ("reached_cost", "subgoal_steps"):
            if getattr(self, key) < 0:
                raise ValueError(f"planner {key} is {getattr(self, key)}; it must not be negative")


def stack_warm_start(plan: Plan) -> Tensor:
    """What the next search may begin at: the plan [B,K,A], or with its elites behind it [B,1+E,K,A]."""
    if plan.elites_BEKA is None:
        return plan.actions_BKA
    return torch.cat((plan.actions_BKA[:, None], plan.elites_BEKA), dim=1)


def observe_first_frames(dynamics: Dynamics, frames_BHWC: Tensor, proprio_BQ: Tensor | None = None) -> Context:
    """The context at the start of episodes, as an `MPC` gives it: copies of the first frame, none of them valid but the
    last, and no action before."""
    spec, count = dynamics.spec, len(frames_BHWC)
    valid_T = torch.arange(spec.history, device=spec.device) == spec.history - 1
    past = torch.zeros(count, spec.history - 1, spec.block_dim, device=spec.device)
    history = frames_BHWC[:, None].expand(-1, spec.history, -1, -1, -1)
    proprio = None if proprio_BQ is None else proprio_BQ[:, None].expand(-1, spec.history, -1)
    return dynamics.observe(history, past, valid_T.expand(count, -1), proprio)


class MPC:
    """The agent: `reset` with goal images, then `act` once an environment step.

    `last_plan` is the newest Plan, `plan_ms` the wall time of every plan since `reset` (encoding, planning
    and the copy to the host that ends it), `energies` how its imagined cost fell: [iterations, 3] a plan, means over
    environments of the best candidate so far, of the elites and of all (on the device), `subgoal_B` which sub-goal each
    environment is at (on the device). proposals: first candidates of every search, beside the warm start.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        planner: Planner,
        cost: Cost,
        config: MPCConfig | None = None,
        proposals: Proposals | None = None,
    ) -> None:
        self.dynamics, self.planner, self.proposals = dynamics, planner, proposals
        self.config = config or MPCConfig()
        self.spec = dynamics.spec
        self.cost: Cost = cost.bind_spec(self.spec) if isinstance(cost, GoalCost) else cost
        if self.config.receding_steps > planner.horizon:
            raise ValueError(
                f"planner receding_steps is {self.config.receding_steps}; choose 1 to horizon = {planner.horizon}"
            )
        check_fit(self.spec, cost, planner.horizon)
        if proposals is not None:
            check_candidates(planner, proposals.proposer.count)
            proposals.check_horizon(planner.horizon)
        self._searches: bool = getattr(planner, "searches", True)
        self.last_plan: Plan | None = None
        self.plan_ms: list[float] = []
        self.energies: list[Tensor] = []
        self._goal: Goal | None = None

    @property
    def _needs_goal(self) -> bool:
        """Whether anything compares with the goal's views."""
        return self._searches or self.config.reached_cost > 0

    def reset(self, goal_frames: Frames, seeds: Sequence[int]) -> None:
        """Begin an episode in every environment. goal_frames: uint8 [B,H,W,C], or [B,G,H,W,C] for G sub-goals one
        after the other; seeds: one per environment.

        Raises ValueError for several sub-goals where nothing would ever switch them, and for pictures of another size
        or type; the episode before then goes on.
        """
        count = goal_frames.shape[1] if goal_frames.ndim == 5 else 1
        if count > 1:
            self._check_switching(count)
        flat = goal_frames.reshape(-1, *goal_frames.shape[2:]) if goal_frames.ndim == 5 else goal_frames
        self._check_frames(flat, "goal image")
        assert len(flat) == len(seeds) * count, (goal_frames.shape, len(seeds))
        goal_frames = self._to_frames(flat)
        with torch.no_grad():
            self._goal = self.dynamics.encode_goal(goal_frames) if self._needs_goal else Views({})
        if self.proposals is not None:
            self.proposals.reset(goal_frames)
        self._count = count
        self.subgoal_B = torch.zeros(len(seeds), dtype=torch.long, device=self.spec.device)
        self._subgoal_steps_B = torch.zeros_like(self.subgoal_B)
        self._seeds = tuple(int(seed) for seed in seeds)
        self._frames_seen: deque[Tensor] = deque(maxlen=self.spec.history)
        self._proprio: deque[Tensor] = deque(maxlen=self.spec.history)
        self._blocks_done: deque[Tensor] = deque(maxlen=self.spec.history - 1)
        self._queue: deque[Tensor] = deque()  # environment actions [B, a] on the host
        self._blocks_to_do: deque[Tensor] = deque()  # the same as action blocks [B, A] on the device
        self.last_plan = None
        self.plan_ms, self.energies = [], []
        self._observing_s = 0.0  # that proposals took to encode frames since the last plan
        self._step = 0

    def act(self, frames_BHWC: Frames, proprio_BQ: Frames | None = None) -> Frames:
        """actions_BA for one environment step (environment units, float32), given the current frames (uint8), and the
        robot's state where the model knows it (`spec.proprio`); else that is not looked at.

        Returns numpy for numpy frames, else a tensor on the frames' device. Plans when the last plan is
        used up. Raises ValueError for frames or a state of another size or type, before anything is remembered.
        """
        assert self._goal is not None, "call reset(goal_frames, seeds) before act"
        self._check_frames(frames_BHWC, "frame")
        assert len(frames_BHWC) == len(self._seeds), (frames_BHWC.shape, len(self._seeds))
        if self.spec.proprio != "none":
            self._check_proprio(proprio_BQ)
        if self._step % self.spec.frame_skip == 0:
            frames = self._to_frames(frames_BHWC)
            self._frames_seen.append(frames)
            if proprio_BQ is not None and self.spec.proprio != "none":
                self._proprio.append(_copy(proprio_BQ).to(self.spec.device, torch.float32))
            if self.proposals is not None:
                began = time.perf_counter()
                self.proposals.observe(frames)
                self._observing_s += time.perf_counter() - began
            if self._step:
                self._subgoal_steps_B = self._subgoal_steps_B + 1
            if self._count > 1 and self._step:
                self._switch_subgoals(self._goal, frames)
            if not self._queue:
                self._plan(self._select_subgoal(self._goal))
            self._blocks_done.append(self._blocks_to_do.popleft())
        self._step += 1
        actions = self._queue.popleft()
        return actions.numpy() if isinstance(frames_BHWC, np.ndarray) else actions.to(frames_BHWC.device)

    def _plan(self, goal: Goal) -> None:
        """Plan anew and fill the queue."""
        began = time.perf_counter()
        steps = self.config.receding_steps
        context: Any = None  # a planner that does not search needs none
        if self._searches:
            with torch.no_grad():
                context = self._observe()
                goal = focus_goal(self.dynamics, self.cost, goal, self._frames_seen[-1])
        warm_start = None
        if self._searches and self.config.warm_start and self.last_plan is not None:
            warm_start = shift_plan(stack_warm_start(self.last_plan), steps, self.config.tail)
        if self.proposals is not None:
            goal_B = self._find_subgoals()
            proposed = self.proposals.propose(goal_B, self._subgoal_steps_B, self.planner.horizon)
            warm_start = join_candidates(warm_start, proposed)
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
        if plan.history:
            means = [torch.stack([past[key].mean() for key in ENERGIES]) for past in plan.history]
            self.energies.append(torch.stack(means))
        self.plan_ms.append(1e3 * (time.perf_counter() - began + self._observing_s))
        self._observing_s = 0.0

    def _select_subgoal(self, goals: Goal) -> Goal:
        """The sub-goal of every environment, out of all B x G."""
        return goals if self._count == 1 else goals.select(self._find_subgoals())

    def _find_subgoals(self) -> Tensor:
        """Which of all B x G goals each environment has."""
        return self._count * torch.arange(len(self._seeds), device=self.spec.device) + self.subgoal_B

    @torch.no_grad()
    def _switch_subgoals(self, goals: Goal, frames_BHWC: Tensor) -> None:
        """Go on to the next sub-goal where this one is reached or its time is up; a model step has passed."""
        done = torch.zeros_like(self.subgoal_B, dtype=torch.bool)
        if self.config.subgoal_steps:
            done = self._subgoal_steps_B >= self.config.subgoal_steps
        if self.config.reached_cost:
            assert isinstance(self.cost, FrameCost)
            seen = self.dynamics.encode_goal(frames_BHWC)
            done = done | (self.cost.compare_frames(seen, self._select_subgoal(goals)) < self.config.reached_cost)
        self._subgoal_steps_B = self._subgoal_steps_B.masked_fill(done, 0)
        self.subgoal_B = (self.subgoal_B + done).clamp(max=self._count - 1)

    def _check_switching(self, count: int) -> None:
        config = self.config
        if not config.reached_cost and not config.subgoal_steps:
            raise ValueError(
                f"{count} sub-goals and nothing to switch them by; set planner.mpc.reached_cost or "
                "planner.mpc.subgoal_steps above 0"
            )
        if config.reached_cost and not isinstance(self.cost, FrameCost):
            raise ValueError(
                f"planner reached_cost is {config.reached_cost}, but this cost cannot compare a frame with a goal; set "
                "planner.mpc.subgoal_steps instead"
            )

    def _observe(self) -> Context:
        """The context of the frames and blocks so far, padded at the old end while the episode is young."""
        missing = self.spec.history - len(self._frames_seen)
        first = self._frames_seen[0]
        frames = torch.stack([first] * missing + list(self._frames_seen), dim=1)
        zero = torch.zeros(len(first), self.spec.block_dim, device=self.spec.device)
        blocks = [zero] * missing + list(self._blocks_done)
        actions = torch.stack(blocks, dim=1) if blocks else zero[:, None][:, :0]
        valid = torch.arange(self.spec.history, device=self.spec.device) >= missing
        proprio = torch.stack([self._proprio[0]] * missing + list(self._proprio), dim=1) if self._proprio else None
        return self.dynamics.observe(frames, actions, valid.expand(len(first), -1), proprio)

    def _check_frames(self, frames: Frames, what: str) -> None:
        """Raise ValueError for frames of another size or type than the model's."""
        height, width = self.spec.frame_hw
        is_uint8 = str(frames.dtype).removeprefix("torch.") == "uint8"
        if not is_uint8 or frames.ndim != 4 or tuple(frames.shape[1:3]) != (height, width):
            raise ValueError(
                f"the {what} is {frames.dtype} {tuple(frames.shape)}; this model takes uint8 "
                f"[batch, {height}, {width}, channels]"
            )

    def _check_proprio(self, proprio_BQ: Frames | None) -> None:
        """Raise ValueError unless there is a finite state for every environment, of the model's size."""
        if proprio_BQ is None:
            raise ValueError(f"this model knows the robot's state (proprio={self.spec.proprio}): give it beside frames")
        size = self.spec.proprio_dim
        if tuple(proprio_BQ.shape) != (len(self._seeds), size) or not torch.isfinite(_copy(proprio_BQ)).all():
            raise ValueError(
                f"the robot's state is {proprio_BQ.dtype} {tuple(proprio_BQ.shape)}; this model takes "
                f"[{len(self._seeds)}, {size}] finite numbers"
            )

    def _to_frames(self, frames: Frames) -> Tensor:
        """Frames as a tensor on the dynamics' device."""
        return _copy(frames).to(self.spec.device)


def _copy(values: Frames) -> Tensor:
    """A tensor with memory of its own: an environment may draw its next frame into the same memory."""
    return torch.from_numpy(np.array(values)) if isinstance(values, np.ndarray) else values.clone()
