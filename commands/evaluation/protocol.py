"""The evaluation protocol: held-out starts and goals, baselines, an oracle, success at any time and held.

Start and goal are two frames of one held-out episode, `goal_offset` environment steps apart and at least
`min_goal_distance` apart. Starts that already satisfy the goal are left out and counted. Every method gets the same
starts, goals and seeds. Success is judged on the true state by the task's distance; the methods see images alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Literal, get_args

from annotated_types import Ge, Gt, Interval

import envs
from commands.shared.errors import UsageError, describe_choices
from envs.distraction import Distraction, choose_setting
from envs.presets import Preset, require_strength
from envs.task_spec import TaskSpec

SCHEMA = 2  # of results.json
Judge = Literal["any", "held", "final", "replan"]
StartVelocity = Literal["recorded", "zero"]
GoalNuisance = Literal["same", "other", "clean"]


@dataclass(frozen=True)
class OracleCostConfig:
    """The true simulator planned with the model's cost. It renders and encodes the future of every candidate, which
    takes minutes per episode on a CPU, so it plays few episodes with a smaller search."""

    episodes: Annotated[int, Ge(0)] = 4
    """episodes played (0 disables this)"""
    samples: Annotated[int, Ge(2)] = 48
    """candidates per iteration"""
    elites: Annotated[int, Ge(2)] = 8
    """best candidates, which the next iteration is fitted to (>= 2, at most samples)"""
    iterations: Annotated[int, Ge(1)] = 3
    """iterations per plan"""
    receding_steps: Annotated[int, Ge(1)] = 2
    """model steps executed per plan"""

    def __post_init__(self) -> None:
        if self.elites > self.samples:
            raise ValueError(
                f"protocol.oracle_cost.elites={self.elites} is more than protocol.oracle_cost.samples={self.samples}: "
                "give fewer elites, or more candidates"
            )


@dataclass(frozen=True)
class ProtocolConfig:
    """Which starts and goals are evaluated, and what counts as success."""

    episodes: Annotated[int, Ge(1)] = 50
    """pairs of start and goal"""
    split: str = "eval"
    """episodes that starts and goals come from: val to choose settings, eval to report"""
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    """seed of the choice of starts and goals, and of the planner"""
    budget: Annotated[int, Ge(1)] | None = None
    """environment steps per episode; null: the task's own"""
    budget_ratio: Annotated[float, Gt(0)] | None = None
    """environment steps per episode as a multiple of goal_offset, in place of budget; null: budget"""
    goal_offset: Annotated[int, Ge(1)] | None = None
    """environment steps from start to goal; null: the task's own"""
    min_goal_distance: Annotated[float, Ge(0)] | None = None
    """least distance from start to goal, in the task's unit; null: the task's own"""
    judge: Judge = "any"
    """success in the headline: at any time, held, at the final step, or replan (where the planner plans again)"""
    measures: dict[str, str] = field(default_factory=dict)
    """quantity that is judged by task, as {push_t: block}; empty: the task's distance"""
    thresholds: dict[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    """threshold of the headline by task, as {reacher: 0.05}; empty: the task's own"""
    held_steps: dict[str, Annotated[int, Ge(1)]] = field(default_factory=dict)
    """consecutive environment steps of held success by task, as {reacher: 2}; empty: the task's own"""
    goal_kinds: dict[str, str] = field(default_factory=dict)
    """kind of goals that are drawn by task, as {two_rooms: other room}; empty: all"""
    keep_solved: bool = False
    """whether starts that already satisfy the goal count"""
    start_velocity: StartVelocity = "recorded"
    """velocities at the start: recorded, or zero (the recorded positions at rest)"""
    variation: Preset | None = None
    """preset that the appearance of scenes is drawn from (none, seen, unseen, moving), or whose distractors are shown
    (distracting, color_easy, color_hard, video_easy, video_hard); null: as in the data file"""
    distraction: Distraction = field(default_factory=Distraction)
    """distractors of protocol.variation=distracting; folder of videos of video_easy and video_hard"""
    strength: Annotated[float, Interval(ge=0, le=2)] = 1.0
    """distance of unseen values from the training ranges, and strength of motion, times the preset's"""
    goal_nuisance: GoalNuisance = "same"
    """appearance in the goal image: same as the start's, other (another draw) or clean (defaults)"""
    note: str = ""
    """remark on the protocol, shown in the report"""
    oracle: bool = True
    """whether the oracle is run: the true simulator planned with the true distance"""
    oracle_cost: OracleCostConfig = field(default_factory=OracleCostConfig)
    """the true simulator planned with the model's cost"""

    def __post_init__(self) -> None:
        if self.judge not in get_args(Judge):
            raise ValueError(f"protocol.judge={self.judge}: choose one of {', '.join(get_args(Judge))}")
        if self.budget is not None and self.budget_ratio is not None:
            raise ValueError(
                f"protocol.budget={self.budget} and protocol.budget_ratio={self.budget_ratio} both set the steps of an "
                "episode: set one of them to null"
            )
        require_strength(self.variation, self.strength, "protocol.")
        choose_setting(self.variation or "null", asdict(self.distraction), "protocol.")
        if self.variation == "none" and self.goal_nuisance == "other":
            raise ValueError(
                "protocol.goal_nuisance=other draws another appearance and protocol.variation=none shows none: "
                "choose goal_nuisance=same, or another variation"
            )


def resolve_protocol(protocol: ProtocolConfig, task: TaskSpec) -> ProtocolConfig:
    """The protocol with the task's own values in place of null, and its budget in environment steps."""
    offset = protocol.goal_offset or task.goal_offset
    ratio = protocol.budget_ratio
    budget = protocol.budget or (task.budget if ratio is None else max(1, round(ratio * offset)))
    nearest = task.min_goal_distance if protocol.min_goal_distance is None else protocol.min_goal_distance
    return replace(protocol, budget=budget, budget_ratio=None, goal_offset=offset, min_goal_distance=nearest)


def adapt_task(task: TaskSpec, protocol: ProtocolConfig) -> TaskSpec:
    """The task as the protocol judges it: its measure, its threshold first, its steps of held success, and bins of
    distances from the protocol's least one on.

    Raises UsageError for a measure, or a kind of goals, that the task lacks, and for a task that there is not.
    """
    for key in ("measures", "thresholds", "held_steps", "goal_kinds"):
        for name in getattr(protocol, key):
            if name != task.name and envs.find_task(name) is None:
                raise UsageError(f"protocol.{key}: there is no task {name}{describe_choices(name, envs.TASKS)}")
    if task.name in protocol.measures:
        try:
            task = task.select_measure(protocol.measures[task.name])
        except ValueError as error:
            raise UsageError(f"protocol.measures: {error}") from error
    if task.name in protocol.goal_kinds and task.goal_kind is None:
        raise UsageError(
            f"protocol.goal_kinds: {task.name} has no kinds of goals, so there is none "
            f"{protocol.goal_kinds[task.name]!r}"
        )
    if task.name in protocol.thresholds:
        first = float(protocol.thresholds[task.name])
        task = replace(task, thresholds=(first, *(t for t in task.thresholds if t != first)))
    nearest, bins = protocol.min_goal_distance, task.distance_bins
    if nearest is not None and bins is not None and nearest < bins[0]:
        task = replace(task, distance_bins=(nearest, *bins))
    return replace(task, held_steps=protocol.held_steps.get(task.name, task.held_steps))


def check_goals(protocol: ProtocolConfig, name: str, frames: int) -> None:
    """UsageError for a protocol whose measure, or kind of goals, a task lacks, or whose goals lie beyond episodes of so
    many frames, before they are collected."""
    task = envs.find_task(name)
    if task is None:
        return
    offset = resolve_protocol(protocol, adapt_task(task, protocol)).goal_offset
    assert offset is not None
    if offset >= frames:
        raise UsageError(
            f"data.frames={frames}: episodes of {frames - 1} environment steps have no goal {offset} steps ahead; give "
            f"more than {offset} frames, or a smaller protocol.goal_offset"
        )
