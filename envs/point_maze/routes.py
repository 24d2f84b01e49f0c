"""Shortest routes around boxes: straight segments between corners of a visibility graph
(Lozano-Perez and Wesley 1979)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]

_EPSILON_M = 1e-9
_CHUNK = 4096  # segments compared with all boxes at once, so that they fit a core's cache


@dataclass(frozen=True)
class Routes:
    """Boxes grown by a margin, and the lengths of the routes between their corners."""

    boxes: NDArray[np.float64]  # [W, 4]: middles and half sizes, grown
    corners: Positions  # [V, 2]: where routes may turn
    outwards: Positions  # [V, 2]: directions away from each corner's box, to keep more distance in a turn
    lengths: NDArray[np.float64]  # [V, V]

    def is_visible(self, start: Positions, end: Positions) -> NDArray[np.bool_]:
        """Whether no box lies between positions `[..., 2]` that broadcast."""
        start, end = np.broadcast_arrays(start, end)
        middle, run = ((start + end) / 2).reshape(-1, 1, 2), ((end - start) / 2).reshape(-1, 1, 2)
        chunks = [slice(first, first + _CHUNK) for first in range(0, len(run), _CHUNK)]
        clear = [self._is_clear(middle[chunk], run[chunk]) for chunk in chunks]
        return np.concatenate([np.zeros(0, bool), *clear]).reshape(start.shape[:-1])

    def _is_clear(self, middle: Positions, run: Positions) -> NDArray[np.bool_]:
        """Whether an axis separates segments of middles and half runs `[n, 1, 2]` from each box."""
        off, half = middle - self.boxes[:, :2], self.boxes[:, 2:]
        reach = np.abs(run)
        separate = (np.abs(off) >= half + reach).any(-1)
        across = np.abs(run[..., 0] * off[..., 1] - run[..., 1] * off[..., 0])
        separate |= across > half[:, 0] * reach[..., 1] + half[:, 1] * reach[..., 0]
        return np.asarray(separate.all(-1))

    def measure_to_corners(self, positions: Positions) -> NDArray[np.float64]:
        """Straight lengths `[n, V]` from positions `[n, 2]` to the corners they see, else infinity."""
        lengths = np.linalg.norm(positions[:, None] - self.corners, axis=-1)
        return np.where(self.is_visible(positions[:, None], self.corners), lengths, np.inf)

    def measure_from_corners(self, positions: Positions) -> NDArray[np.float64]:
        """Lengths `[n, V]` of the shortest routes from every corner to positions `[n, 2]`."""
        return (self.measure_to_corners(positions)[:, None] + self.lengths).min(-1)

    def find_waypoint(self, position: Positions, target: Positions, clearance_m: float) -> Positions:
        """Next waypoint `[2]` of the shortest route from a position `[2]`: the target `[2]`, or beside a corner.

        `clearance_m` is added to the distance from corners. From a position within a box, which sees nothing, it is
        the target.
        """
        if self.is_visible(position, target):
            return target
        lengths = self.measure_to_corners(position[None])[0] + self.measure_from_corners(target[None])[0]
        turn = int(lengths.argmin())
        return self.corners[turn] + clearance_m * self.outwards[turn] if np.isfinite(lengths[turn]) else target


def build_routes(boxes: NDArray[np.float64], corners: Positions, outwards: Positions, margin_m: float) -> Routes:
    """Routes that keep `margin_m` from boxes `[W, 4]` (middle, half size), turning at corners `[V, 2]` of them.

    `outwards` `[V, 2]` has the signs of both axes that lead away from each corner's box.
    """
    from scipy.sparse.csgraph import floyd_warshall  # slow to import

    grown = boxes + np.array([0, 0, 1, 1]) * (margin_m - _EPSILON_M)
    corners = corners + margin_m * outwards
    blank = Routes(grown, corners, outwards, np.zeros((len(corners),) * 2))
    return Routes(grown, corners, outwards, floyd_warshall(blank.measure_to_corners(corners)))
