"""Random numbers of a training step: a function of the seed and the step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from world_model.distributed import WorldInfo


def make_generator(*key: int) -> torch.Generator:
    """A generator on the CPU whose numbers depend on every number of the key, each 0 or more.

    torch's takes 32 bits of a seed alone, so numbers side by side in 64 bits would not do.
    """
    (bits,) = np.random.SeedSequence(key).generate_state(1)
    return torch.Generator().manual_seed(int(bits))


def draw_rows(shape: tuple[int, ...], shard: WorldInfo, generator: torch.Generator, uniform: bool = False) -> Tensor:
    """Standard normal numbers, or uniform ones in 0..1, of this process's rows of a batch, drawn on the CPU for the
    batch of all processes."""
    draw = torch.rand if uniform else torch.randn
    total = shape[0] * shard.world
    return draw(total, *shape[1:], generator=generator)[shard.split_rows(total)]
