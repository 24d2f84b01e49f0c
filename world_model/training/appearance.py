"""Random appearances of clips: colours, light, and a still picture blended in; one draw for all frames of a clip.

A prediction whose context and target are seen in two such draws can only rest on what both share: where things are and
how they move (random convolutions of colour and overlays as in SODA, Hansen & Wang, arXiv 2011.13389).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.training.augment import draw_uniform

DRAWS = 13  # numbers of a draw: 9 of the colour map, 3 of its shift, 1 of the overlay
MIDDLE = 127.5


@dataclass(frozen=True)
class AppearanceConfig:
    """How much the appearance of a clip is changed."""

    mix: float = 0.3
    """deviation of each entry of the 3 x 3 colour map from the identity's (>= 0)"""
    shift: float = 40.0
    """largest shift of each channel, of 255 (>= 0)"""
    overlay: float = 0.4
    """largest share of a still frame of another clip that is blended in (0 to 1)"""

    def __post_init__(self) -> None:
        if self.mix < 0 or self.shift < 0 or not 0 <= self.overlay <= 1:
            raise ValueError(
                f"objective.views: mix={self.mix} and shift={self.shift} must be 0 or more, overlay={self.overlay} "
                "a share from 0 to 1"
            )


def change_appearance(frames_BTHWC: Tensor, draw_B: Tensor, seed: int, config: AppearanceConfig) -> Tensor:
    """Clips [B, T, H, W, C] in 0..255, float, in another appearance; draw_B: number of every draw among all of the run.

    Clips overlay one another in pairs, with their first frames, so that processes with an even share compute what one
    would; an odd last clip has no overlay.
    """
    partner = torch.arange(len(frames_BTHWC), device=frames_BTHWC.device).bitwise_xor(1)
    partner = partner.where(partner < len(partner), partner - 1)  # itself
    draws = draw_uniform(draw_B, seed, DRAWS)
    centred = 2 * draws - 1
    frames = frames_BTHWC.float()
    share = (config.overlay * draws[:, 12])[:, None, None, None, None]
    frames = frames.lerp(frames[partner, :1], share)
    mix = torch.eye(3, device=frames.device) + 3**0.5 * config.mix * centred[:, :9].unflatten(1, (3, 3))
    offset = config.shift * centred[:, 9:12] + MIDDLE
    changed = torch.einsum("bthwc,bdc->bthwd", frames - MIDDLE, mix) + offset[:, None, None, None, :]
    return changed.clamp(0, 255)
