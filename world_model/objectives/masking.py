"""Masks over a token grid: which tokens an encoder sees and which a predictor must fill in. Pure functions.

One sampler for the family: blocks extended over time (V-JEPA, V-JEPA 2: arXiv 2404.08471, 2506.09985; block sizes as in
the released configurations), separate target blocks inside a context block (I-JEPA, arXiv 2301.08243), random tokens
(MAE, data2vec) and random tubes (VideoMAE). Draws are keyed by seed, step and sample, so that a run depends neither on
workers nor on how a batch is parted among processes.

A batch must be rectangular, but samples hide different numbers of tokens. The reference cuts every row to the shortest,
which leaves a quarter of all tokens unused. Here every sample draws many candidates and keeps the one whose number of
visible tokens is nearest to the batch's median; surplus tokens are dropped at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

CANDIDATES = 48  # masks drawn per sample

Grid = tuple[int, int, int]  # of tokens: steps, height, width
Share = Annotated[float, Interval(ge=0, le=1)]


@dataclass(frozen=True)
class Masks:
    """Raster indices, ascending, int64: of the visible tokens [B, M], and of each group of hidden ones [B, P].

    unused: share of visible and predicted tokens that were dropped to make the batch rectangular.
    """

    context_BM: Tensor
    targets_BP: tuple[Tensor, ...]
    unused: float | Tensor

    def select(self, rows: slice) -> Masks:
        """The masks of some samples."""
        return Masks(self.context_BM[rows], tuple(part[rows] for part in self.targets_BP), self.unused)

    def to_batch(self, number: int) -> dict[str, Tensor]:
        """These masks as entries of a batch, those of generator `number`."""
        hidden = {f"mask{number}.hidden{k}": part for k, part in enumerate(self.targets_BP)}
        return {f"mask{number}.visible": self.context_BM, **hidden, f"mask{number}.unused": torch.tensor(self.unused)}

    @classmethod
    def from_batch(cls, batch: Mapping[str, Tensor], number: int) -> Masks:
        """The masks of generator `number` that `to_batch` put into a batch."""
        hidden = [value for name, value in batch.items() if name.startswith(f"mask{number}.hidden")]
        return cls(batch[f"mask{number}.visible"], tuple(hidden), batch[f"mask{number}.unused"])


@dataclass(frozen=True)
class BlockMask:
    """Hidden blocks of the picture, over some or all steps."""

    blocks: Annotated[int, Ge(1)] = 8
    """hidden blocks"""
    area: tuple[Share, Share] = (0.15, 0.15)
    """share of the picture that a block covers, least and most"""
    time: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """share of the clip's steps that a block lasts"""
    aspect: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (0.75, 1.5)
    """height of a block over its width, least and most"""
    separate: bool = False
    """separate prediction of every block (I-JEPA); false: of their union"""
    context: tuple[Share, Share] = (0.0, 0.0)
    """share of the picture of the visible block, less hidden ones, least and most; [0, 0]: all the rest"""

    hides_patches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, (low, high) in (("area", self.area), ("context", self.context), ("aspect", self.aspect)):
            if low > high:
                raise ValueError(f"masks: {name}=[{low}, {high}] must be least and most")

    def sample(self, batch: int, grid: Grid, seed: tuple[int, ...]) -> Masks:
        """Masks of one batch: block sizes drawn per batch, positions per sample. Raises ValueError for a sample without
        visible tokens."""
        rng = np.random.default_rng(seed)
        sizes = [_draw_block_size(self.area, self.aspect, self.time, grid, rng)] * self.blocks
        if self.context[1]:
            sizes.append(_draw_block_size(self.context, (1.0, 1.0), 1.0, grid, rng))
        rows = [np.random.default_rng((*seed, row)).random((CANDIDATES, len(sizes), 3)) for row in range(batch)]
        draws = np.stack(rows)
        visible = _find_visible(self, draws, sizes, grid).reshape(batch, CANDIDATES, -1).sum(2)
        median = int(np.median(visible[visible > 0])) if visible.any() else 0
        nearest = np.where(visible > 0, np.abs(visible - median), math.prod(grid)).argmin(1)
        draws = draws[np.arange(batch), nearest]
        context = _find_visible(self, draws[:, None], sizes, grid)[:, 0]
        context = np.broadcast_to(context, (batch, *grid)).reshape(batch, -1)
        blocks = [_fill_block(draws[:, k], sizes[k], grid) for k in range(self.blocks)]
        groups = blocks if self.separate else [np.logical_or.reduce(blocks)]
        what = f"blocks={self.blocks} of area={list(self.area)}"
        return _make_rectangular(context, [group.reshape(batch, -1) for group in groups], rng, what)


@dataclass(frozen=True)
class RandomMask:
    """Tokens hidden at random (MAE, data2vec), or the same at every step (VideoMAE's tubes)."""

    random: Annotated[float, Interval(gt=0, lt=1)] = 0.6
    """share of hidden tokens"""
    tube: bool = False
    """the same hidden positions at every step"""

    hides_patches: ClassVar[bool] = True

    def sample(self, batch: int, grid: Grid, seed: tuple[int, ...]) -> Masks:
        """Masks of one batch."""
        shape = (1, *grid[1:]) if self.tube else grid
        draws = np.stack([np.random.default_rng((*seed, row)).random(math.prod(shape)) for row in range(batch)])
        hidden = draws.argsort(1).argsort(1) < round(self.random * math.prod(shape))
        hidden = np.broadcast_to(hidden.reshape(batch, *shape), (batch, *grid)).reshape(batch, -1)
        return _make_rectangular(~hidden, [hidden], np.random.default_rng(seed), f"random={self.random}")


@dataclass(frozen=True)
class FutureMask:
    """The first steps of a clip are visible, all later ones hidden."""

    visible_steps: Annotated[int, Ge(1)]
    """visible steps of tokens (a step is encoder.tubelet frames)"""

    hides_patches: ClassVar[bool] = False

    def sample(self, batch: int, grid: Grid, seed: tuple[int, ...]) -> Masks:
        """Masks of one batch; nothing is drawn."""
        if grid[0] <= self.visible_steps:
            raise ValueError(f"masks: visible_steps={self.visible_steps} hide nothing of a clip of {grid[0]} steps")
        tokens = torch.arange(math.prod(grid)).expand(batch, -1)
        split = self.visible_steps * grid[1] * grid[2]
        return Masks(tokens[:, :split], (tokens[:, split:],), 0.0)


Mask = BlockMask | RandomMask | FutureMask


def _draw_block_size(
    area: tuple[float, float],
    aspect: tuple[float, float],
    time: float,
    grid: Grid,
    rng: np.random.Generator,
) -> tuple[int, int, int]:
    """Steps, height and width of a batch's blocks."""
    steps, height, width = grid
    area_tokens, ratio = int(height * width * rng.uniform(*area)), rng.uniform(*aspect)
    return (
        max(1, int(steps * time)),
        min(height, max(1, round(math.sqrt(area_tokens * ratio)))),
        min(width, max(1, round(math.sqrt(area_tokens / ratio)))),
    )


def _fill_block(draws_3: np.ndarray, size: tuple[int, int, int], grid: Grid) -> np.ndarray:
    """Boolean [..., steps, height, width], True in a block at the position of uniform draws [..., 3]."""
    inside = []
    for axis, (extent, length) in enumerate(zip(grid, size, strict=True)):
        first = (draws_3[..., axis, None] * (extent - length + 1)).astype(int)
        index = np.arange(extent)
        inside.append((index >= first) & (index < first + length))
    t, h, w = inside
    return t[..., :, None, None] & h[..., None, :, None] & w[..., None, None, :]


def _find_visible(config: BlockMask, draws: np.ndarray, sizes: list[tuple[int, int, int]], grid: Grid) -> np.ndarray:
    """Visible tokens, boolean [B, C, steps, height, width], for draws [B, C, blocks, 3]; of blocks over all steps, one
    step alone."""
    all_time = config.time == 1.0
    shape = (1, *grid[1:]) if all_time else grid
    sizes = [(1, *size[1:]) for size in sizes] if all_time else sizes
    out = np.ones((*draws.shape[:2], *shape), bool)
    for k in range(config.blocks):
        out &= ~_fill_block(draws[..., k, :], sizes[k], shape)
    if config.context[1]:
        out &= _fill_block(draws[..., -1, :], sizes[-1], shape)
    return out


def _make_rectangular(
    visible_BN: np.ndarray, groups_BN: list[np.ndarray], rng: np.random.Generator, what: str
) -> Masks:
    """Indices of the True positions, cut to the shortest row of their kind by dropping random ones."""
    if not visible_BN.any(1).all():
        raise ValueError(f"masks: {what} leave a sample without a visible token (no context): hide less")
    wanted = sum(int(part.sum()) for part in (visible_BN, *groups_BN))
    parts = []
    for part in (visible_BN, *groups_BN):
        rank = np.where(part, rng.random(part.shape), 2.0).argsort(1)[:, : int(part.sum(1).min())]
        parts.append(torch.from_numpy(np.sort(rank, 1)))
    return Masks(parts[0], tuple(parts[1:]), 1.0 - sum(part.numel() for part in parts) / wanted)
