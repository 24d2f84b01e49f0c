"""Energies of recorded transitions: does a model discriminate real from impossible continuations?

Energy is the squared error of the predicted next frame, in the features (or pixels) that a model predicts. A good model
gives the true continuation less energy than an impossible one (violation of expectation, as in IntPhys, arXiv
1803.07616, and arXiv 2502.11831), and the recorded action less energy than other actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.dynamics import LatentDynamics

TRANSITIONS_PER_CHUNK = 16  # bounds the memory


@dataclass(frozen=True)
class Transitions:
    """Recorded transitions: T past frames uint8 [B, T, H, W, C], the action blocks [B, T-1, A] between them, the K
    blocks [B, K, A] taken next, and the frame [B, H, W, C] after those. proprio_BTQ: proprioception at past frames."""

    past_BTHWC: Tensor
    actions_BtA: Tensor
    taken_BKA: Tensor
    after_BHWC: Tensor
    proprio_BTQ: Tensor | None = None

    def select(self, rows: slice) -> Transitions:
        """A subset of the transitions."""
        proprio = None if self.proprio_BTQ is None else self.proprio_BTQ[rows]
        past, actions, taken, after = self.past_BTHWC, self.actions_BtA, self.taken_BKA, self.after_BHWC
        return Transitions(past[rows], actions[rows], taken[rows], after[rows], proprio)


@torch.no_grad()
def measure_energies(
    dynamics: LatentDynamics, transitions: Transitions, actions_BSKA: Tensor, after_BHWC: Tensor
) -> Tensor:
    """Energy [B, S] of the frame that came after each of S sequences of action blocks."""
    energies = []
    for begin in range(0, len(after_BHWC), TRANSITIONS_PER_CHUNK):
        rows = slice(begin, begin + TRANSITIONS_PER_CHUNK)
        part = transitions.select(rows)
        valid = torch.ones(part.past_BTHWC.shape[:2], dtype=torch.bool, device=part.past_BTHWC.device)
        context = dynamics.observe(part.past_BTHWC, part.actions_BtA, valid, part.proprio_BTQ)
        view = dynamics.spec.views[0]
        imagined = dynamics.imagine(context, actions_BSKA[rows], keep="last").view(view)[:, :, 0]
        observed = dynamics.encode_goal(after_BHWC[rows]).view(view)[:, None]
        energies.append((imagined.float() - observed.float()).square().flatten(2).mean(-1))
    return torch.cat(energies)


def measure_landscape(
    dynamics: LatentDynamics, transitions: Transitions, axes: tuple[int, int], reach: float, cells: int
) -> tuple[Tensor, Tensor]:
    """Energies [B, cells, cells] of the recorded next frame for actions around the recorded one, and the offsets
    [cells] in half ranges of the action.

    The same offset is added to every action of the path, in two dimensions of the action (V-JEPA 2-AC's energy
    landscape, arXiv 2506.09985, figure 9). Offsets may exceed the action's bounds: the recorded one is in the middle.
    """
    offsets, size = torch.linspace(-reach, reach, cells), len(dynamics.actions.low)
    shift = torch.zeros(cells, cells, size)
    shift[..., axes[0]] += offsets[:, None]
    if axes[1] != axes[0]:
        shift[..., axes[1]] += offsets[None]
    blocks = shift.flatten(0, 1).repeat(1, dynamics.actions.frame_skip).to(dynamics.action_half) * dynamics.action_half
    actions_BSKA = transitions.taken_BKA[:, None] + blocks[None, :, None]
    energy = measure_energies(dynamics, transitions, actions_BSKA, transitions.after_BHWC)
    return energy.unflatten(1, (cells, cells)).cpu(), offsets


def discrimination_rate(possible_B: Tensor, impossible_B: Tensor) -> float:
    """Share of pairs in which the impossible one has more energy; 0.5 is chance."""
    more, same = impossible_B > possible_B, impossible_B == possible_B
    return (more.double() + 0.5 * same.double()).mean().item()
