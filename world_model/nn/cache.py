"""Keys and values of the past. A plan imagines hundreds of candidates from one past, so what depends on the past alone
is computed once (`ActionPredictor.prefill`) and shared by all candidates."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class PastCache:
    """Keys and values of the scene and of past frames in every layer, each [B, heads, L, d]. valid_BL: False for
    padding; None: none is padding."""

    keys: list[Tensor]
    values: list[Tensor]
    valid_BL: Tensor | None
    frames: int

    def select(self, rows: slice | Tensor) -> PastCache:
        """The caches of some environments."""
        valid = None if self.valid_BL is None else self.valid_BL[rows]
        return PastCache([k[rows] for k in self.keys], [v[rows] for v in self.values], valid, self.frames)
