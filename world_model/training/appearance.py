"""Random appearances of clips: colours, a still picture blended in, another camera; one draw for all frames of a clip.

A prediction whose context and target are seen in two such draws can only rest on what both share: how things lie to one
another and how they move (overlays: SODA, Hansen & Wang, arXiv 2011.13389).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.training.augment import draw_uniform, sample_affine

DRAWS = 17  # numbers of a draw: 9 of the colour map, 3 of its shift, 1 of the overlay, 4 of the camera
MIDDLE = 127.5


@dataclass(frozen=True)
class AppearanceConfig:
    """How much the appearance of a clip is changed."""

    mix: float = 0.4
    """deviation of each entry of the 3 x 3 colour map from the identity's (>= 0)"""
    shift: float = 60.0
    """largest shift of each channel, of 255 (>= 0)"""
    overlay: float = 0.6
    """largest share of a still frame of another clip that is blended in (0 to 1)"""
    move: float = 0.0
    """largest shift of the picture to each side, as a share of it (0 to 1)"""
    turn: float = 0.0
    """largest rotation of the picture, rad (>= 0)"""
    zoom: float = 0.0
    """largest change of the picture's scale, as a share (0 to 1)"""

    def __post_init__(self) -> None:
        if min(self.mix, self.shift, self.turn) < 0:
            raise ValueError(
                f"objective.views: mix={self.mix}, shift={self.shift} and turn={self.turn} must be 0 or more"
            )
        if not all(0 <= share <= 1 for share in (self.overlay, self.move, self.zoom)):
            raise ValueError(
                f"objective.views: overlay={self.overlay}, move={self.move} and zoom={self.zoom} are shares, 0 to 1"
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
    changed = changed.clamp(0, 255)
    return move_camera(changed, centred[:, 13:], config) if config.move or config.turn or config.zoom else changed


def move_camera(frames_BTHWC: Tensor, draws_B4: Tensor, config: AppearanceConfig) -> Tensor:
    """Clips [B, T, H, W, C] shifted, turned and scaled, bilinear; draws in [-1, 1]: right, down, turn and zoom."""
    right, down, turn, zoom = draws_B4.unbind(1)
    angle, scale = config.turn * turn, 1 + config.zoom * zoom
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    across = torch.stack((cosine, -sine, 2 * config.move * right), 1)
    along = torch.stack((sine, cosine, 2 * config.move * down), 1)
    _, _, height, width, _ = frames_BTHWC.shape
    return sample_affine(frames_BTHWC, torch.stack((across, along), 1), (height, width))
