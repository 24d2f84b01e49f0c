"""What a world model should know, asked without rendering and without training anything.

Energy is the squared error of the predicted next frame against a given one, in the features (or pixels) that a model
predicts. A model that knows its world gives the true continuation less energy than an impossible one (violation of
expectation, as in IntPhys, arXiv 1803.07616, and arXiv 2502.11831), less than that of another moment, and less than
under other actions; and of all actions around the one that was taken, that one least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.dynamics import LatentDynamics

MOMENTS_PER_CHUNK = 16  # moments asked about at once


@dataclass(frozen=True)
class Moments:
    """Recorded stretches: T past frames uint8 [B, T, H, W, C], the action blocks [B, T-1, A] between them, the K blocks
    [B, K, A] that were taken next, and the frame [B, H, W, C] after those; for a model that knows it, the robot's state
    [B, T, Q] at the past frames."""

    past_BTHWC: Tensor
    actions_BtA: Tensor
    taken_BKA: Tensor
    after_BHWC: Tensor
    proprio_BTQ: Tensor | None = None

    def rows(self, rows: slice) -> Moments:
        """Those moments only."""
        proprio = None if self.proprio_BTQ is None else self.proprio_BTQ[rows]
        past, actions, taken, after = self.past_BTHWC, self.actions_BtA, self.taken_BKA, self.after_BHWC
        return Moments(past[rows], actions[rows], taken[rows], after[rows], proprio)


@torch.no_grad()
def energies(dynamics: LatentDynamics, moments: Moments, actions_BSKA: Tensor, after_BHWC: Tensor) -> Tensor:
    """Energy [B, S] of the frame that came after each of S sequences of action blocks."""
    found = []
    for begin in range(0, len(after_BHWC), MOMENTS_PER_CHUNK):
        rows = slice(begin, begin + MOMENTS_PER_CHUNK)
        part = moments.rows(rows)
        valid = torch.ones(part.past_BTHWC.shape[:2], dtype=torch.bool, device=part.past_BTHWC.device)
        context = dynamics.observe(part.past_BTHWC, part.actions_BtA, valid, part.proprio_BTQ)
        view = dynamics.spec.views[0]
        made = dynamics.imagine(context, actions_BSKA[rows], keep="last").view(view)[:, :, 0]
        given = dynamics.encode_goal(after_BHWC[rows]).view(view)[:, None]
        found.append((made.float() - given.float()).square().flatten(2).mean(-1))
    return torch.cat(found)


def landscape(
    dynamics: LatentDynamics, moments: Moments, axes: tuple[int, int], reach: float, cells: int
) -> tuple[Tensor, Tensor]:
    """Energies [B, cells, cells] of what came after, for actions around the taken ones, and the offsets [cells] in half
    ranges of the action.

    The same offset is added to every action along the way, on two of the action's numbers (V-JEPA 2-AC's energy
    landscape, arXiv 2506.09985, figure 9). Offsets may leave the action's bounds: the taken action would else not be in
    the middle.
    """
    offsets, size = torch.linspace(-reach, reach, cells), len(dynamics.actions.low)
    shift = torch.zeros(cells, cells, size)
    shift[..., axes[0]] += offsets[:, None]
    if axes[1] != axes[0]:
        shift[..., axes[1]] += offsets[None]
    blocks = shift.flatten(0, 1).repeat(1, dynamics.actions.frame_skip).to(dynamics.action_half) * dynamics.action_half
    energy = energies(dynamics, moments, moments.taken_BKA[:, None] + blocks[None, :, None], moments.after_BHWC)
    return energy.unflatten(1, (cells, cells)).cpu(), offsets


def told_apart(possible_B: Tensor, impossible_B: Tensor) -> float:
    """Share of pairs in which the impossible one has more energy; 0.5 is chance."""
    more, same = impossible_B > possible_B, impossible_B == possible_B
    return (more.double() + 0.5 * same.double()).mean().item()
