"""Rewards for reinforcement learning, computed from a task's distance to the goal.

`sparse` follows gymnasium-robotics (`compute_reward` in gymnasium_robotics/envs/fetch/fetch_env.py; Plappert et al.,
arXiv 1802.09464): -1 until the goal is reached, 0 where it is. `dense` is the negative distance, as there. The default
is `none`: 0.0 at every step, so that evaluation and collecting see no reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["none", "sparse", "dense"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Rewards:
    """Reward of a step, and whether the first success ends the episode; ValueError for an unknown kind."""

    kind: Kind = "none"
    terminate_on_success: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"reward={self.kind!r} is unknown; choices: {', '.join(KINDS)}")
        if not isinstance(self.terminate_on_success, bool):
            raise ValueError(f"terminate_on_success={self.terminate_on_success!r}: True or False")

    def compute_reward(self, distance: float, is_success: bool) -> float:
        """The reward of a step that ends at this distance from the goal, in the task's unit."""
        return {"none": 0.0, "sparse": float(is_success) - 1.0, "dense": -distance}[self.kind]
