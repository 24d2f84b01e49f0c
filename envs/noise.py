"""Noise of scripted behaviours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def correlated(noise: NDArray[np.float64], kept: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The next of standard normal numbers `[n]` of which each keeps a share of the last."""
    return kept * noise + np.sqrt(1 - kept**2) * rng.standard_normal(len(noise))
