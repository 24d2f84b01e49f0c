"""Masks over a token grid: which tokens an encoder sees and which a predictor must fill in. Pure functions.

Multi-block masks as V-JEPA 2 (arXiv 2506.09985; block sizes as in its released configurations): a few spatial blocks,
extended over time; the context is what they leave, the target their union. Draws come from a generator keyed by step,
so a run does not depend on workers. To make a batch rectangular, tokens are dropped at random, not from the end, which
would starve the late frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskConfig:
    """One mask generator: `blocks` blocks, each of `area` (share of the frame) and `time` (share of the steps)."""

    blocks: int = 8
    area: float = 0.15
    time: float = 1.0
    aspect: tuple[float, float] = (0.75, 1.5)


def block_size(config: MaskConfig, grid: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    """Steps, height and width of the blocks of one batch, for a token grid (steps, height, width)."""
    steps, height, width = grid
    area = int(height * width * config.area)
    ratio = rng.uniform(*config.aspect)
    return (
        max(1, int(steps * config.time)),
        min(height, max(1, round(math.sqrt(area * ratio)))),
        min(width, max(1, round(math.sqrt(area / ratio)))),
    )


def hidden_tokens(
    config: MaskConfig, grid: tuple[int, int, int], size: tuple[int, int, int], rng: np.random.Generator
) -> np.ndarray:
    """Boolean [steps, height, width], True where hidden: the union of the blocks. At least one token stays visible."""
    while True:
        hidden = np.zeros(grid, bool)
        for _ in range(config.blocks):
            t, h, w = (rng.integers(0, n - s + 1) for n, s in zip(grid, size, strict=True))
            hidden[t : t + size[0], h : h + size[1], w : w + size[2]] = True
        if not hidden.all():
            return hidden


def multi_block(
    config: MaskConfig, batch: int, grid: tuple[int, int, int], seed: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Context and target indices [batch, M] and [batch, P] into the raster of the grid; ascending, int64."""
    rng = np.random.default_rng(seed)
    size = block_size(config, grid, rng)
    hidden = np.stack([hidden_tokens(config, grid, size, rng).ravel() for _ in range(batch)])
    return _rectangular(~hidden, rng), _rectangular(hidden, rng)


def future(batch: int, grid: tuple[int, int, int], context_steps: int) -> tuple[Tensor, Tensor]:
    """Indices of the first `context_steps` steps, and of all later ones."""
    tokens = torch.arange(math.prod(grid)).expand(batch, -1)
    split = context_steps * grid[1] * grid[2]
    return tokens[:, :split], tokens[:, split:]


def _rectangular(chosen_BN: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Indices of the True places of every row, cut to the shortest row by dropping random ones."""
    keep = int(chosen_BN.sum(1).min())
    rank = np.where(chosen_BN, rng.random(chosen_BN.shape), 2.0).argsort(1)[:, :keep]
    return torch.from_numpy(np.sort(rank, 1))
