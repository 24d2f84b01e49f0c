"""First candidates of a search that come from data instead of chance.

A `Proposer` gives action sequences for what is seen now and a goal. `Retrieval` gives those that were recorded in the
training segments which began and ended most alike (IMWM, arXiv 2606.01626, begins CEM so); a learned policy
(`world_model.policy`) gives one (GC-IDM, arXiv 2605.08732). They join the first iteration of every search:

    plan         mean of the search           further first candidates
    first        the first proposal           the other proposals
    later        the last plan, shifted       carried elites, all proposals

The standard deviation is `std_warm` in both cases. Without `mpc.warm_start` each plan begins as the first one does.
`Direct` searches nothing: it executes the first proposal.

The nearest segment to a frame x and a goal g minimises d(x, f_s) + d(f_(s + L), g) over starts s and lengths L, where f
are features of recorded frames and d is the distance of the cost, `feature_distance`. Neighbours are exact: every frame
is compared, in chunks.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from planners.costs import Metric, feature_distance
from planners.protocol import Dynamics, Plan, Planner

CHUNK_NUMBERS = 1 << 24  # features compared at once, over environments x frames
NONE, RETRIEVAL, OWN = "none", "retrieval", "own"  # sources of proposals; any other is a folder


@dataclass(frozen=True)
class ProposalConfig:
    """Where first candidates come from, beside random draws."""

    source: str = NONE
    """first candidates: none (random ones alone), retrieval (recorded segments of train), a run folder of jepa clone,
    or own (in jepa demo and jepa compare: the policy of clone)"""
    count: int = 8
    """retrieved segments per plan (>= 1)"""
    longest: int = 0
    """longest retrieved segment, in model steps (>= 0; 0: as long as an episode)"""
    data: str | list[str] | None = None
    """trajectory file whose split train is retrieved from; null: that of data"""
    steps: int | None = None
    """model steps to the goal when an episode begins, for policies that ask for it (>= 1; null:
    protocol.goal_offset)"""
    least_steps: int = 1
    """model steps to the goal at which such a policy stops counting down (>= 1)"""

    def __post_init__(self) -> None:
        for key, least in (("count", 1), ("longest", 0), ("least_steps", 1)):
            if getattr(self, key) < least:
                raise ValueError(f"planner proposal.{key} is {getattr(self, key)}; it must be at least {least}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"planner proposal.steps is {self.steps}; it must be at least 1")
        if not self.source:
            raise ValueError("planner proposal.source is empty; choose none, retrieval, or a run folder of jepa clone")

    @property
    def num_candidates(self) -> int:
        """Proposals per plan: 0 without a source, and one of a policy."""
        if self.source == NONE:
            return 0
        return self.count if self.source == RETRIEVAL else 1


class Proposer(Protocol):
    """Gives action sequences for what is seen and a goal, batched over environments."""

    @property
    def history(self) -> int:
        """T, the number of frames it looks at, one model step apart."""

    @property
    def horizon(self) -> int:
        """Longest K of a proposal, model steps."""

    @property
    def count(self) -> int:
        """S, the number of proposals."""

    def encode(self, frames_BHWC: Tensor) -> Tensor:
        """Features [B, ...] of observed or goal frames (uint8)."""

    def propose(self, seen_BT: Tensor, valid_BT: Tensor, goal_B: Tensor, steps_B: Tensor, horizon: int) -> Tensor:
        """actions_BSKA, environment units, the best guess first.

        seen_BT: features [B, T, ...] of the last frames, newest last. valid_BT: bool; False where an episode is younger
        than that, and the features are those of its first frame. goal_B: features [B, ...] of the goals. steps_B: model
        steps until they should be reached, int64.
        """


@dataclass(frozen=True)
class Segments:
    """Recorded frames of whole episodes, one after the other, and the actions that followed them.

    features: [F, ...]. after_F: model steps recorded after each frame in its episode, int64. starts_N: frames at which
    a segment may begin, those with at least K steps after them. actions_NKA: their action blocks, environment units.
    frame_skip: frames of a model step.
    """

    features: Tensor
    after_F: Tensor
    starts_N: Tensor
    actions_NKA: Tensor
    frame_skip: int

    def __post_init__(self) -> None:
        frames, starts = len(self.features), len(self.starts_N)
        assert len(self.after_F) == frames and len(self.actions_NKA) == starts > 0, (frames, starts)


class Retrieval:
    """Action blocks of the `count` starts whose best segment is nearest (`Proposer`).

    encode: features of frames are the cost's view of goal frames. longest: model steps of a segment at most, 0: no
    limit.
    """

    history = 1

    def __init__(
        self, dynamics: Dynamics, view: str, metric: Metric, segments: Segments, count: int, longest: int = 0
    ) -> None:
        if count > len(segments.starts_N):
            raise ValueError(
                f"planner proposal.count is {count}, and there are {len(segments.starts_N)} recorded segments; choose "
                "fewer"
            )
        self.dynamics, self.view, self.metric = dynamics, view, metric
        self.segments, self.count = segments, count
        most = int(segments.after_F[segments.starts_N].max())
        self.longest = min(longest or most, most)

    @property
    def horizon(self) -> int:
        """Action blocks of a segment."""
        return self.segments.actions_NKA.shape[1]

    def encode(self, frames_BHWC: Tensor) -> Tensor:
        """The view [B, ...] that the cost compares."""
        return self.dynamics.encode_goal(frames_BHWC).view(self.view)

    def propose(self, seen_BT: Tensor, valid_BT: Tensor, goal_B: Tensor, steps_B: Tensor, horizon: int) -> Tensor:
        """The nearest first; neither history nor the number of steps is used."""
        nearest_BS = self.measure(seen_BT[:, -1], goal_B).topk(self.count, dim=1, largest=False).indices
        return self.segments.actions_NKA[nearest_BS][:, :, :horizon]

    def measure(self, now_B: Tensor, goal_B: Tensor) -> Tensor:
        """Distances [B, N] of every start: to what is seen, plus the least of any of its ends to the goal."""
        segments = self.segments
        to_now_BN = self._compare(now_B)[:, segments.starts_N]
        to_goal_BF, after_N = self._compare(goal_B), segments.after_F[segments.starts_N]
        nearest_BN = torch.full_like(to_now_BN, math.inf)
        for steps in range(1, self.longest + 1):
            ends_N = (segments.starts_N + steps * segments.frame_skip).clamp_max(len(segments.features) - 1)
            there_BN = to_goal_BF[:, ends_N].masked_fill(after_N < steps, math.inf)
            nearest_BN = torch.minimum(nearest_BN, there_BN)
        return to_now_BN + nearest_BN

    def _compare(self, features_B: Tensor) -> Tensor:
        """Distances [B, F] of all recorded frames."""
        num_envs, axes, each = len(features_B), features_B.ndim - 1, features_B[0].numel()
        frames = self.segments.features.split(max(1, CHUNK_NUMBERS // (num_envs * each)))
        parts = [
            feature_distance(
                part[None, :, None].expand(num_envs, *[-1] * (part.ndim + 1)), features_B, self.metric, axes
            )
            for part in frames
        ]
        return torch.cat(parts, dim=1)[:, :, 0]


class Proposals:
    """A proposer through a batch of episodes: it remembers the last frames' features and counts steps down.

    steps: model steps to a goal from when it is set. least_steps: where the countdown stops.
    """

    def __init__(self, proposer: Proposer, steps: int, least_steps: int = 1) -> None:
        self.proposer, self.steps, self.least_steps = proposer, steps, least_steps

    def check_horizon(self, horizon: int) -> None:
        """Raise ValueError where proposals are shorter than plans."""
        if horizon > self.proposer.horizon:
            raise ValueError(
                f"planner horizon is {horizon}, and proposals have {self.proposer.horizon} action blocks; choose a "
                "shorter horizon, or proposals of that length"
            )

    @torch.no_grad()
    def reset(self, goal_frames_BHWC: Tensor) -> None:
        """Begin an episode in every environment, with these goals, or sub-goals [B x G, ...]."""
        self._goals = self.proposer.encode(goal_frames_BHWC)
        self._seen: deque[Tensor] = deque(maxlen=self.proposer.history)

    @torch.no_grad()
    def observe(self, frames_BHWC: Tensor) -> None:
        """Remember the frames of a model step."""
        self._seen.append(self.proposer.encode(frames_BHWC))

    @torch.no_grad()
    def propose(self, goal_B: Tensor, steps_done_B: Tensor, horizon: int) -> Tensor:
        """actions_BSKA. goal_B: which of the goals each environment has; steps_done_B: model steps it has had it."""
        missing = self.proposer.history - len(self._seen)
        seen_BT = torch.stack([self._seen[0]] * missing + list(self._seen), dim=1)
        valid_T = torch.arange(self.proposer.history, device=seen_BT.device) >= missing
        steps_B = (self.steps - steps_done_B).clamp_min(self.least_steps)
        return self.proposer.propose(seen_BT, valid_T.expand(len(seen_BT), -1), self._goals[goal_B], steps_B, horizon)


def check_candidates(planner: Planner, count: int) -> None:
    """Raise ValueError unless the planner's first iteration has room for so many candidates beside its own."""
    if not getattr(planner, "takes_candidates", False):
        raise ValueError(
            f"the planner {type(planner).__name__} takes no first candidates, which planner.proposal.source asks for; "
            "choose planner=icem or another that draws candidates, or planner.proposal.source=none"
        )
    config: Any = getattr(planner, "config", None)
    carried = config.keep_elites if getattr(planner, "carries_elites", False) else getattr(config, "prior_samples", 0)
    most = getattr(config, "samples", count + 1) - carried - 1
    if count > most:
        raise ValueError(
            f"planner proposal.count is {count}; with these samples it is at most {most}, so that a mean, carried "
            "elites and the model's policy have room"
        )


def join_candidates(warm_start: Tensor | None, proposed_BSKA: Tensor | None) -> Tensor | None:
    """What a search begins at (`protocol.Planner`): a warm start [B,K,A] or [B,1+E,K,A] with the proposals behind it,
    or the proposals, whose first is the mean."""
    if warm_start is None or proposed_BSKA is None:
        return proposed_BSKA if warm_start is None else warm_start
    rows = warm_start[:, None] if warm_start.ndim == 3 else warm_start
    return torch.cat((rows, proposed_BSKA), dim=1)


@dataclass(frozen=True)
class DirectConfig:
    """Keys of planner=direct, which searches nothing."""

    precision: ClassVar[str] = "fp32"

    horizon: int = 6
    """model steps of a proposal, and of the oracle's plans (>= 1)"""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ValueError(f"planner horizon is {self.horizon}; it must be at least 1")


class Direct:
    """The first proposal as the plan, without search: `Planner` whose `searches` is false, so that nothing is observed
    or imagined for it."""

    searches = False
    takes_candidates = True

    def __init__(self, config: DirectConfig | None = None) -> None:
        self.config: DirectConfig = config or DirectConfig()

    @property
    def horizon(self) -> int:
        """K, model steps."""
        return self.config.horizon

    def plan(self, *_: object, warm_start: Tensor | None = None, **__: object) -> Plan:
        """The first of the candidates given; its cost is not known. Raises ValueError without one."""
        if warm_start is None:
            raise ValueError(
                "planner=direct executes proposals: give planner.proposal.source=retrieval, or a run folder of jepa "
                "clone"
            )
        actions = warm_start[:, 0]
        return Plan(actions, torch.full(actions.shape[:1], math.nan, device=actions.device))
