"""Feature pyramid: fine maps that know what surrounds each position.

Maps are halved several times, and each coarse map is added to the next finer one (feature pyramid network, Lin et al.,
arXiv 1612.03144). A position of the finest map then depends on most of the picture: whether an edge belongs to the arm
or to the pattern of the floor is not visible in the few pixels around it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Maps [B, C, h, w] -> maps of the same size. Level k has C (k + 2) / 2 channels, `levels` coarser maps in all."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        widths = [channels * (number + 2) // 2 for number in range(levels + 1)]
        steps = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(_make_layer(fine, coarse, 2) for fine, coarse in steps)
        self.top = _make_layer(widths[-1], widths[-1], 1)
        self.lateral = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in steps)
        self.smooth = nn.ModuleList(_make_layer(fine, fine, 1) for fine, _ in steps)

    def init_weights(self) -> None:
        """torch's default, by fan in, as Halvings."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        fine = [maps_BCHW]
        for layer in self.down:
            fine.append(layer(fine[-1]))
        maps = self.top(fine.pop())
        for lateral, smooth in zip(reversed(self.lateral), reversed(self.smooth), strict=True):
            finer = fine.pop()
            maps = smooth(finer + F.interpolate(lateral(maps), size=finer.shape[2:]))
        return maps


def _make_layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3 x 3 convolution, GroupNorm and GELU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(1, outputs), nn.GELU())
