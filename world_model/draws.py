"""Random numbers of a training step: a function of the seed and the step."""

from __future__ import annotations

import numpy as np
import torch


def make_generator(*key: int) -> torch.Generator:
    """A generator on the CPU whose numbers depend on every number of the key, each 0 or more.

    torch's takes 32 bits of a seed alone, so numbers side by side in 64 bits would not do.
    """
    (bits,) = np.random.SeedSequence(key).generate_state(1)
    return torch.Generator().manual_seed(int(bits))
