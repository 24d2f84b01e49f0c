"""Rotary positions in time, height and width (V-JEPA 2, arXiv 2506.09985): tables of tokens' angles, and rotation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ROPE_BASE = 10000.0
COMPLEX_DEVICES = ("cpu",)  # on which queries and keys are rotated as complex numbers: measured there alone

Rope = Literal["interleaved", "tiled"]


@dataclass(frozen=True)
class Rotary:
    """Cosines and signed sines [..., N, head_dim] of token positions; built once for all layers. same_angle: whether
    both channels of a pair turn by the same angle."""

    cos: Tensor
    sin: Tensor  # negative for the first channel of a pair
    same_angle: bool = False

    @cached_property
    def turns(self) -> Tensor:
        """The rotation of each pair as a complex number, [..., N, head_dim / 2]."""
        return torch.complex(self.cos[..., 1::2], self.sin[..., 1::2])

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate adjacent channel pairs of x [..., heads, N, head_dim] by the tokens' angles."""
        pairs = x.unflatten(-1, (-1, 2))
        if self.same_angle and x.device.type in COMPLEX_DEVICES and not torch.compiler.is_compiling():
            # One pass instead of three; compiled code cannot fuse complex numbers.
            numbers = torch.view_as_complex(pairs.to(torch.promote_types(x.dtype, self.cos.dtype)))
            return torch.view_as_real(numbers * self.turns).flatten(-2)
        return torch.addcmul(x * self.cos, pairs.flip(-1).flatten(-2), self.sin)

    def select(self, start: int, stop: int) -> Rotary:
        """Tokens start..stop-1."""
        return replace(self, cos=self.cos[..., start:stop, :], sin=self.sin[..., start:stop, :])

    def unflatten(self, sizes: tuple[int, ...]) -> Rotary:
        """The same tokens on several axes."""
        return replace(self, cos=self.cos.unflatten(-2, sizes), sin=self.sin.unflatten(-2, sizes))


def make_rotary(positions_N3: Tensor, head_dim: int, rope: Rope = "interleaved") -> Rotary:
    """3-D rotary table for integer or float positions [..., N, 3] in (time, height, width).

    The head's channels are split into time | height | width | idle with 2 * floor(floor(head_dim / 3) / 2) channels an
    axis; idle channels are not rotated. A leading batch axis of the positions is kept and a heads axis inserted after
    it.

    interleaved: both channels of an adjacent pair turn by the same angle, a true rotation, so that q.k depends on
    position differences alone (V-JEPA 2.1, and everything trained here). tiled: an axis's angles are repeated as a
    block, so that the two channels of a pair turn by different angles (all released V-JEPA 2 and 2-AC weights).
    """
    width = 2 * (head_dim // 3 // 2)
    pairs = width // 2
    frequency = ROPE_BASE ** (-torch.arange(pairs, dtype=torch.float32, device=positions_N3.device) / pairs)
    angle = positions_N3.float().unsqueeze(-1) * frequency  # [..., N, 3, pairs]
    angle = torch.cat((angle, angle), -1) if rope == "tiled" else angle.repeat_interleave(2, -1)
    angle = F.pad(angle.flatten(-2), (0, head_dim - 3 * width))
    if angle.dim() > 2:
        angle = angle.unsqueeze(-3)
    sign = torch.tensor((-1.0, 1.0), device=angle.device).repeat(head_dim // 2)
    return Rotary(angle.cos(), angle.sin() * sign, rope == "interleaved")


def make_grid_positions(
    steps: int,
    height: int,
    width: int,
    device: torch.device | None = None,
    trained_hw: tuple[int, int] | None = None,
) -> Tensor:
    """Positions [steps * height * width, 3] of a token grid in raster order (time slowest, width fastest).

    trained_hw: the grid to whose extent positions are scaled, corner on corner, so that other resolutions have familiar
    positions (V-JEPA 2.1's interpolation); None: plain integers.
    """
    axes = [torch.arange(n, device=device) for n in (steps, height, width)]
    if trained_hw is not None and trained_hw != (height, width):
        scales = (1.0, *((n - 1) / max(size - 1, 1) for n, size in zip(trained_hw, (height, width), strict=True)))
        axes = [axis * scale for axis, scale in zip(axes, scales, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
