"""Goals in hindsight: recorded frames as goals of the transitions that were recorded before them.

Reward and goals follow HIQL (arXiv 2307.11949) and the goal-conditioned agents of OGBench (arXiv 2410.20092): -1 a step
until the goal frame is reached, where the episode ends, so that a value counts steps to the goal. A share of the goals
is the present frame, a share is drawn at random, the rest are later frames of the same episode or clip.

`draw_goals` draws among the frames of a batch of clips, `draw_distant_goals` among all frames of a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Goals:
    """A goal frame for each of B clips: frame `frame_B` of clip `clip_B` of the batch, both int64."""

    clip_B: Tensor
    frame_B: Tensor

    def read(self, frames_BTHWC: Tensor) -> Tensor:
        """The goal frames [B, H, W, C]."""
        device = frames_BTHWC.device
        return frames_BTHWC[self.clip_B.to(device), self.frame_B.to(device)]

    def find_reached(self, first: int, steps: int) -> Tensor:
        """Whether frame `first` + t of a clip is its goal, bool [B, steps]."""
        own = self.clip_B == torch.arange(len(self.clip_B))
        return own[:, None] & (self.frame_B[:, None] == torch.arange(first, first + steps))


@dataclass(frozen=True)
class DistantGoals:
    """A goal frame for each of B transitions: `steps_B` model steps after the first frame of transition
    `transition_B`, both int64."""

    transition_B: Tensor
    steps_B: Tensor

    def find_reached(self, transition_B: Tensor) -> Tensor:
        """Whether the first frame of a transition is its goal, bool [B]."""
        return (self.transition_B == transition_B) & (self.steps_B == 0)


def draw_goals(clips: int, frames: int, first: int, present: float, random: float, generator: torch.Generator) -> Goals:
    """Goals for transitions that begin at frame `first` of clips of `frames` frames.

    present, random: shares of goals that are frame `first` itself, and any frame of another clip (none of a single
    clip). The rest are uniform over the clip's later frames, of which there is at least one.
    """
    assert first < frames - 1, (first, frames)
    is_present, is_random = draw_kinds(clips, present, random, generator)
    later = torch.randint(first + 1, frames, (clips,), generator=generator)
    anywhere = torch.randint(0, frames, (clips,), generator=generator)
    others = torch.randint(1, max(2, clips), (clips,), generator=generator)
    numbers = torch.arange(clips)
    is_random = is_random & torch.tensor(clips > 1)
    frame = torch.where(is_random, anywhere, later).masked_fill(is_present, first)
    return Goals(torch.where(is_random, (numbers + others) % clips, numbers), frame)


def draw_distant_goals(
    transition_B: Tensor,
    after_B: Tensor,
    count: int,
    present: float,
    random: float,
    discount: float | None,
    generator: torch.Generator,
) -> DistantGoals:
    """Goals for transitions of a file, by their numbers below `count`.

    after_B: model steps that a later goal may be away, at least 1. present, random: shares of goals that are the
    transition's first frame, and the first frame of any transition. The rest are later frames: see `draw_later`.
    """
    is_present, is_random = draw_kinds(len(transition_B), present, random, generator)
    anywhere_B = torch.randint(0, count, (len(transition_B),), generator=generator)
    later_B = draw_later(after_B, discount, generator)
    return DistantGoals(
        torch.where(is_random, anywhere_B, transition_B), later_B.masked_fill(is_present | is_random, 0)
    )


def draw_kinds(count: int, present: float, random: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of `count` goals are the present frame, and which are drawn at random; bool, never both."""
    kind = torch.rand(count, generator=generator)
    return kind < present, (kind >= 1 - random) & (kind >= present)


def draw_later(after_B: Tensor, discount: float | None, generator: torch.Generator) -> Tensor:
    """Model steps to later goals, int64 [B], from 1 to `after_B`: with the probability (1 - discount) discount^(L - 1)
    of L steps and those beyond at the last; uniform without a discount."""
    uniform = torch.rand(len(after_B), generator=generator, dtype=torch.float64)
    if discount is None:
        return 1 + torch.minimum((uniform * after_B).long(), after_B - 1)
    steps = 1 + (uniform.log() / math.log(discount)).floor()
    return torch.minimum(steps, after_B.to(steps.dtype)).long()
