"""Random resized crops of clips, on the clips' device: one box and one flip for all frames of a clip (V-JEPA 2).

The box is a pure function of the run's seed and the draw's number (0 for the first clip of the first step), computed by
integer arithmetic on the device. So a run is reproduced on any device and any number of processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt, Interval
from torch import Tensor

ATTEMPTS = 10  # boxes drawn until one lies within the picture
MASK32 = 0xFFFFFFFF


@dataclass(frozen=True)
class CropConfig:
    """Random crops of clips; aspects are uniform in the logarithm."""

    area: tuple[Annotated[float, Interval(gt=0, le=1)], Annotated[float, Interval(gt=0, le=1)]] = (0.3, 1.0)
    """share of the picture that a random crop covers, least and most; [1,1] and flip 0: no crops"""
    aspect: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.75, 1.35)
    """width over height of a crop, least and most"""
    flip: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """probability of mirroring a clip left to right"""

    def __post_init__(self) -> None:
        for key, (low, high) in (("area", self.area), ("aspect", self.aspect)):
            if low > high:
                raise ValueError(f"{key}=[{low},{high}]: give least and most in this order, as [{high},{low}]")


def crop_randomly(
    frames_BTHWC: Tensor,
    aspect_B: Tensor,
    draw_B: Tensor,
    seed: int,
    config: CropConfig,
    size_hw: tuple[int, int],
) -> Tensor:
    """Clips [B, T, h, w, C] in 0..255, float, cut out of frames of pictures with aspect_B (width over height).

    draw_B: number of every clip among all of the run (`data.loader`).
    """
    draws = draw_uniform(draw_B, seed, 2 * ATTEMPTS + 3)
    boxes = draw_boxes(draws[:, :-1], aspect_B.to(draws.dtype), config)
    return cut_boxes(frames_BTHWC, boxes, draws[:, -1] < config.flip, size_hw)


def draw_boxes(draws_BU: Tensor, aspect_B: Tensor, config: CropConfig) -> Tensor:
    """Boxes [B, 4]: left, top, width, height as shares of the picture, from uniform draws [B, 2 * ATTEMPTS + 2].

    The first of ATTEMPTS boxes that fits; else the largest in the middle whose aspect is allowed.
    """
    tries = draws_BU[:, : 2 * ATTEMPTS].unflatten(1, (2, ATTEMPTS))
    area = config.area[0] + (config.area[1] - config.area[0]) * tries[:, 0]
    low, high = (math.log(bound) for bound in config.aspect)
    ratio = (low + (high - low) * tries[:, 1]).exp()
    shape = aspect_B[:, None]
    width, height = (area * ratio / shape).sqrt(), (area * shape / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(1, keepdim=True)
    width, height = width.gather(1, first).squeeze(1), height.gather(1, first).squeeze(1)
    left, top = draws_BU[:, -2] * (1 - width), draws_BU[:, -1] * (1 - height)
    allowed = aspect_B.clamp(*config.aspect)
    most_w, most_h = (allowed / aspect_B).clamp(max=1), (aspect_B / allowed).clamp(max=1)
    middle = torch.stack(((1 - most_w) / 2, (1 - most_h) / 2, most_w, most_h), 1)
    return torch.where(fits.any(1, keepdim=True), torch.stack((left, top, width, height), 1), middle)


def cut_boxes(frames_BTHWC: Tensor, boxes_B4: Tensor, flip_B: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Contents of the boxes [B, T, h, w, C], float, bilinear, mirrored where flip_B is True."""
    left, top, width, height = boxes_B4.float().unbind(1)
    sign, zero = 1 - 2 * flip_B.float(), torch.zeros_like(left)
    # Affine map from positions in the result to positions in the frame, both -1 to 1.
    across = torch.stack((sign * width, zero, 2 * left + width - 1), 1)
    down = torch.stack((zero, height, 2 * top + height - 1), 1)
    return sample_affine(frames_BTHWC, torch.stack((across, down), 1), size_hw)


def sample_affine(frames_BTHWC: Tensor, map_B23: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Clips [B, T, h, w, C], float, bilinear, under an affine map from positions in the result to positions in the
    frame, both -1 to 1; beyond the frame its border goes on."""
    batch, steps, _, _, channels = frames_BTHWC.shape
    grid = F.affine_grid(map_B23, [batch, 1, *size_hw], align_corners=False)
    flat = frames_BTHWC.permute(0, 1, 4, 2, 3).flatten(1, 2).float()
    sampled = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.unflatten(1, (steps, channels)).permute(0, 1, 3, 4, 2)


def draw_uniform(keys_B: Tensor, seed: int, count: int) -> Tensor:
    """Numbers [B, count] in [0, 1), a function of (seed, key, index) alone."""
    state = torch.zeros_like(keys_B, dtype=torch.int64)
    for word in (seed & MASK32, seed >> 32 & MASK32, keys_B & MASK32, keys_B >> 32 & MASK32):
        state = _scramble(state ^ word)
    indices = torch.arange(1, count + 1, device=keys_B.device)
    bits = _scramble(_scramble(state[:, None] ^ indices) ^ (indices << 16))
    return (bits >> 8).float() / 2**24


def _scramble(word: Tensor) -> Tensor:
    """Bijective hash of 32-bit words held in int64 (finaliser of MurmurHash3, after a counter's step)."""
    word = (word + 0x9E3779B9) & MASK32
    word = _multiply(word ^ (word >> 16), 0x85EBCA6B)
    word = _multiply(word ^ (word >> 13), 0xC2B2AE35)
    return word ^ (word >> 16)


def _multiply(word: Tensor, factor: int) -> Tensor:
    """Low 32 bits of a product, by halves, without overflow of int64."""
    low, high = word & 0xFFFF, word >> 16
    return (low * factor + (((high * factor) & 0xFFFF) << 16)) & MASK32
