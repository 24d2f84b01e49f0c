"""Exact mean and standard deviation of a column over a split, in one pass.

Models keep them as buffers and normalise frames and actions inside; they come from `train` alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.store import Reader

Vector = NDArray[np.float64]


def compute_statistics(reader: Reader, name: str, split: str = "train") -> tuple[Vector, Vector]:
    """Mean and std of a column's last axis over a split's complete episodes: pixels -> [C], action -> [A].

    Pixels are in 0..255; an episode's last action row, which is nan, is left out. ValueError if the split has no row.
    """
    count, total, squares, origin = 0, 0.0, 0.0, None
    for episode in reader.episodes(split):
        rows = reader.column(name, int(episode))
        values = rows.reshape(-1, rows.shape[-1]) if rows.ndim > 1 else rows[:, None]
        if origin is None and len(values):
            origin = values[0].astype(np.float64)  # near the mean, so that the squares lose no digits
        if len(values):
            count += len(values)
            added, added_squares = _sum_differences(values, origin)
            total, squares = total + added, squares + added_squares
    if origin is None:
        raise ValueError(f"split {split} has no row of {name}: collect more episodes")
    mean = total / count
    return origin + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _sum_differences(values: NDArray[Any], origin: Any) -> tuple[Any, Any]:
    """Sums of differences from `origin` and of their squares, over rows: [N,D] -> [D], [D]."""
    if values.dtype == np.uint8:
        counts = [np.bincount(channel, minlength=256) for channel in values.T]
        levels = np.arange(256) - np.asarray(origin)[:, None]
        return np.sum(counts * levels, 1), np.sum(counts * levels**2, 1)
    differences = values.astype(np.float64) - origin
    return differences.sum(0), np.square(differences).sum(0)
