"""Keys that several commands share, without torch: where a run is kept, the environment, the data to collect."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from data.policies import PolicyConfig
from envs.distraction import Distraction, choose_setting, list_changes
from envs.presets import Preset

OnDamaged = Literal["error", "skip"]
Files = str | list[str]  # a trajectory file, a list of them, a glob, or a run folder of jepa collect


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """Keys of every command that keeps a run folder."""

    name: str | None = None
    """name of the run folder; null: made from the choices and a hash of the configuration"""
    runs: str = "runs"
    """folder that holds all run folders"""
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    """seed of everything random in this run"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""


@dataclass(frozen=True, kw_only=True)
class LoggerKeys(RunKeys):
    """Keys of every command that trains."""

    logger: Literal["none", "tensorboard", "wandb"] = "none"
    """tracker that gets the numbers of metrics.jsonl, too: none, tensorboard or wandb (extras of these names)"""


@dataclass(frozen=True, kw_only=True)
class EnvKeys:
    """A task and the behaviour that covers it (group env)."""

    name: str
    """task"""
    policy: str
    """behaviour that covers this task, see data.policy.name"""
    hold: Annotated[int, Ge(1)] = 1
    """environment steps an action is held"""
    factors: str | list[str] = field(default_factory=list)
    """further differences between episodes: all, groups as [colour,light], or names (jepa doctor env=TASK)"""
    variation: Preset = "none"
    """preset that factors are drawn from, or whose distractors are shown; without env.factors, seen, unseen and moving
    vary texture, colour, light and camera"""
    distraction: Distraction = field(default_factory=Distraction)
    """distractors of variation=distracting; folder of videos of video_easy and video_hard"""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """further arguments of the environment, as {size: 96}"""

    def __post_init__(self) -> None:
        choose_setting(self.variation, asdict(self.distraction), "env.")

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments of the environment; a file without factors or preset records none."""
        factors = self.factors if isinstance(self.factors, str) else list(self.factors)
        preset: dict[str, Any] = {} if self.variation == "none" else {"variation": self.variation}
        if changes := list_changes(self.distraction):
            preset["distraction"] = changes
        return self.kwargs | ({"factors": factors} if factors else {}) | preset


@dataclass(frozen=True, kw_only=True)
class GymKeys(EnvKeys):
    """An environment of Gymnasium (env=gym)."""

    id: str
    """id as for gymnasium.make; MODULE:ID imports the module that registers it first"""


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """How many episodes are collected, and by which behaviour (group data)."""

    episodes: Annotated[int, Ge(1)] = 1000
    """episodes in the file"""
    frames: Annotated[int, Ge(2)] = 41
    """frames per episode, one more than environment steps"""
    compression: Literal["none", "gzip"] = "none"
    """compression of pictures once all episodes are written: none, or gzip (a fraction of the disk, slower reads)"""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """behaviour policy"""


@dataclass(frozen=True, kw_only=True)
class CollectKeys(RunKeys):
    """Keys of `jepa collect`."""

    env: EnvKeys | GymKeys
    """task"""
    data: DataKeys = field(default_factory=DataKeys)
    """size of the file and behaviour"""
    workers: Annotated[int, Ge(0)] = 0
    """processes; 0: one per core, fewer where little is collected; changes no data"""
