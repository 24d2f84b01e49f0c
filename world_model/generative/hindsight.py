"""Goals in hindsight: frames of recorded clips as goals of the transitions that were recorded before them.

Reward and goals follow HIQL (arXiv 2307.11949) and the goal-conditioned agents of OGBench (arXiv 2410.20092): -1 a step
until the goal frame is reached, where the episode ends, so that a value counts steps to the goal. A share of the goals
is the present frame, a share is drawn from other clips, the rest are later frames of the same clip.
"""

from __future__ import annotations

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


def draw_goals(clips: int, frames: int, first: int, present: float, random: float, generator: torch.Generator) -> Goals:
    """Goals for transitions that begin at frame `first` of clips of `frames` frames.

    present, random: shares of goals that are frame `first` itself, and any frame of another clip (none of a single
    clip). The rest are uniform over the clip's later frames, of which there is at least one.
    """
    assert first < frames - 1, (first, frames)
    kind = torch.rand(clips, generator=generator)
    later = torch.randint(first + 1, frames, (clips,), generator=generator)
    anywhere = torch.randint(0, frames, (clips,), generator=generator)
    others = torch.randint(1, max(2, clips), (clips,), generator=generator)
    numbers = torch.arange(clips)
    is_random = (kind >= 1 - random) & torch.tensor(clips > 1)
    frame = torch.where(is_random, anywhere, later).masked_fill(kind < present, first)
    return Goals(torch.where(is_random, (numbers + others) % clips, numbers), frame)
