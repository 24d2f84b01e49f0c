"""Random appearances of clips: colours, a still picture blended in, another camera; one draw for all frames of a clip.
The still picture is a frame of another clip, or a random pattern.

A prediction whose context and target are seen in two such draws can only rest on what both share: how things lie to one
another and how they move (overlays: SODA, Hansen & Wang, arXiv 2011.13389).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from world_model.training.augment import draw_uniform, sample_affine

WAVES = 4  # plane waves of a random pattern
CYCLES = (0.5, 8.0)  # of a wave across the picture, log-uniform
CONTRAST = (1.0, 8.0)  # of a pattern, log-uniform: from soft shades to two flat colours
# Numbers of a draw: 9 of the colour map, 3 of its shift, 1 of the overlay, 4 of the camera, 1 of the overlay's kind,
# and of a pattern 3 per wave, 2 colours and 1 of its contrast.
DRAWS = 18 + 3 * WAVES + 6 + 1
MIDDLE = 127.5


@dataclass(frozen=True)
class AppearanceConfig:
    """How much the appearance of a clip is changed. Defaults: chosen on `val` of varied scenes (experiment 23)."""

    mix: Annotated[float, Ge(0)] = 0.4
    """deviation of each entry of the 3 x 3 colour map from the identity's"""
    shift: Annotated[float, Ge(0)] = 60.0
    """largest shift of each channel, of 255"""
    overlay: Annotated[float, Interval(ge=0, le=1)] = 0.6
    """largest share of a still picture that is blended in"""
    patterns: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """share of still pictures that are random patterns; the others are frames of other clips"""
    move: Annotated[float, Interval(ge=0, le=1)] = 0.06
    """largest shift of the picture to each side, as a share of it"""
    turn: Annotated[float, Ge(0)] = 0.12
    """largest rotation of the picture, rad"""
    zoom: Annotated[float, Interval(ge=0, lt=1)] = 0.12
    """largest change of the picture's scale, as a share"""


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
    pictures = frames[partner, :1]
    if config.patterns:
        is_pattern = (draws[:, 17] < config.patterns)[:, None, None, None, None]
        pictures = torch.where(is_pattern, draw_patterns(draws[:, 18:], frames.shape[2:4])[:, None], pictures)
    frames = frames.lerp(pictures, share)
    mix = torch.eye(3, device=frames.device) + 3**0.5 * config.mix * centred[:, :9].unflatten(1, (3, 3))
    offset = config.shift * centred[:, 9:12] + MIDDLE
    changed = torch.einsum("bthwc,bdc->bthwd", frames - MIDDLE, mix) + offset[:, None, None, None, :]
    changed = changed.clamp(0, 255)
    return move_camera(changed, centred[:, 13:17], config) if config.move or config.turn or config.zoom else changed


def draw_patterns(draws_BU: Tensor, size_hw: tuple[int, ...]) -> Tensor:
    """Pictures [B, h, w, 3] in 0..255: a sum of plane waves of random length and direction, shaded in two colours."""
    waves_BK3, colours, contrast = draws_BU.split((3 * WAVES, 6, 1), 1)
    cycles, angle, phase = waves_BK3.unflatten(1, (WAVES, 3)).unbind(2)
    frequency = 2 * math.pi * _scale_log(cycles, CYCLES)
    down, right = (torch.linspace(0, 1, side, device=draws_BU.device) for side in size_hw)
    angle = 2 * math.pi * angle
    towards_right, downwards = ((frequency * part)[..., None, None] for part in (angle.cos(), angle.sin()))
    waves_BKhw = (towards_right * right + downwards * down[:, None] + 2 * math.pi * phase[..., None, None]).cos()
    share_Bhw1 = (_scale_log(contrast, CONTRAST)[:, :, None] * waves_BKhw.sum(1)).sigmoid()[..., None]
    first, second = (255 * colours[:, None, None]).chunk(2, -1)
    return first.lerp(second, share_Bhw1)


def _scale_log(draws: Tensor, limits: tuple[float, float]) -> Tensor:
    """Numbers whose logarithm is uniform between those of the limits, from uniform draws."""
    low, high = limits
    return low * (high / low) ** draws


def move_camera(frames_BTHWC: Tensor, draws_B4: Tensor, config: AppearanceConfig) -> Tensor:
    """Clips [B, T, H, W, C] shifted, turned and scaled, bilinear; draws in [-1, 1]: right, down, turn and zoom."""
    right, down, turn, zoom = draws_B4.unbind(1)
    angle, scale = config.turn * turn, 1 + config.zoom * zoom
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    across = torch.stack((cosine, -sine, 2 * config.move * right), 1)
    along = torch.stack((sine, cosine, 2 * config.move * down), 1)
    _, _, height, width, _ = frames_BTHWC.shape
    return sample_affine(frames_BTHWC, torch.stack((across, along), 1), (height, width))
