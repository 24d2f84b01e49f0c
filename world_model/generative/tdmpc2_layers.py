"""Layers of TD-MPC2 (arXiv 2310.16828); sizes and initial weights of github.com/nicklashansen/tdmpc2 (MIT licence)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

KERNELS, STRIDES = (7, 5, 3, 3), (2, 2, 2, 1)  # of the image encoder
INIT_STD = 0.02


class SimNorm(nn.Module):
    """Simplicial normalisation: a softmax over each group of `group` numbers of the last axis."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return x.float().unflatten(-1, (-1, self.group)).softmax(-1).flatten(-2)


class NormedLinear(nn.Linear):
    """A linear map, a layer norm and an activation (None: Mish). keep: factors of the map's outputs, for dropout."""

    def __init__(self, inputs: int, outputs: int, activation: nn.Module | None = None) -> None:
        super().__init__(inputs, outputs)
        self.norm = nn.LayerNorm(outputs)
        self.activation = activation or nn.Mish()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        return self.activation(self.norm(x if keep is None else x * keep))


class Mlp(nn.Module):
    """Two hidden layers [..., inputs] -> [..., outputs]. group: of a SimNorm of the outputs, behind a layer
    norm; 0: a linear output. keep: as of `NormedLinear`, of the first layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int, group: int = 0) -> None:
        super().__init__()
        self.first = NormedLinear(inputs, hidden)
        self.second = NormedLinear(hidden, hidden)
        self.last = NormedLinear(hidden, outputs, SimNorm(group)) if group else nn.Linear(hidden, outputs)
        for layer in (self.first, self.second, self.last):
            nn.init.trunc_normal_(layer.weight, std=INIT_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.last(self.second(self.first(x, keep)))


class Ensemble(nn.Module):
    """Several MLPs of the same inputs [..., inputs] -> [E, ..., outputs], whose last weights begin at zero. keep:
    [E, ..., hidden]."""

    def __init__(self, count: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        members = [Mlp(inputs, hidden, outputs) for _ in range(count)]
        for member in members:
            nn.init.zeros_(member.last.weight)
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        masks = [None] * len(self.members) if keep is None else keep
        return torch.stack([member(x, mask) for member, mask in zip(self.members, masks, strict=True)])


def measure_maps(image_px: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the encoder's last maps for frames of this size; 0 or less where they are too small."""
    height, width = image_px
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return height, width


class ImageEncoder(nn.Module):
    """Stacked frames [N, H, W, C] in 0..255 -> latents [N, channels * last map]: four convolutions and a SimNorm.

    normed: numbers of a layer norm before the SimNorm; 0: none.
    """

    def __init__(self, inputs: int, channels: int, group: int, normed: int = 0) -> None:
        super().__init__()
        sizes = zip((inputs, *[channels] * 3), KERNELS, STRIDES, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(size, channels, kernel, stride) for size, kernel, stride in sizes)
        self.norm = nn.Sequential(nn.LayerNorm(normed), SimNorm(group)) if normed else SimNorm(group)

    def forward(self, frames_NHWC: Tensor) -> Tensor:
        x = rearrange(frames_NHWC.float() / 255 - 0.5, "n h w c -> n c h w")
        for convolution in self.convolutions[:-1]:
            x = F.relu(convolution(x))
        return self.norm(self.convolutions[-1](x).flatten(1))


def shift_frames(frames_NHWC: Tensor, shifts_N2: Tensor) -> Tensor:
    """Frames moved down and right by whole pixels [N, 2]; the border is repeated (DrQ-v2, arXiv 2107.09645)."""
    height, width = frames_NHWC.shape[1:3]
    down, right = shifts_N2.to(frames_NHWC.device).unbind(-1)
    rows = (torch.arange(height, device=down.device) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width, device=down.device) - right[:, None]).clamp(0, width - 1)
    numbers = torch.arange(len(frames_NHWC), device=down.device)[:, None, None]
    return frames_NHWC[numbers, rows[:, :, None], columns[:, None, :]]


class GaussianPolicy(nn.Module):
    """Policy prior: latents and a goal [..., inputs] -> a normal distribution that tanh brings into (-1, 1).

    log_std: bounds of the logarithm of the standard deviation, before tanh.
    """

    def __init__(self, inputs: int, hidden: int, action_dim: int, log_std: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.log_std = Mlp(inputs, hidden, 2 * action_dim), log_std

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation [..., A], before tanh."""
        mean, raw = self.network(x).float().chunk(2, -1)
        low, high = self.log_std
        return mean, low + 0.5 * (high - low) * (raw.tanh() + 1)

    def act(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions [..., A] in -1 to 1. noise: standard normal; None: the mean."""
        mean, log_std = self(x)
        return (mean if noise is None else mean + noise * log_std.exp()).tanh()
