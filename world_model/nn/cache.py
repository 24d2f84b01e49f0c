"""Keys and values of a rollout: those of the past, which all candidates share, and each candidate's own.

A plan imagines hundreds of candidates from one past, so what depends on the past alone is computed once
(`ActionPredictor.prefill`) and never copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


class OwnCache:
    """Keys and values of the candidates' imagined frames in one layer, each [B, S, heads, tokens so far, d].

    Without gradients they are written into one buffer of full length; with gradients they are concatenated.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.stored: tuple[Tensor, ...] = ()

    def append(self, *new: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, S, heads, n, d], and return all so far."""
        if torch.is_grad_enabled():
            old = self.stored or tuple(x[:, :, :, :0] for x in new)
            self.stored = tuple(torch.cat(pair, 3) for pair in zip(old, new, strict=True))
            return self.stored[0], self.stored[1]
        if not self.stored:
            self.stored = tuple(x.new_empty(*x.shape[:3], self.capacity, x.shape[4]) for x in new)
        start, self.length = self.length, self.length + new[0].shape[3]
        for store, x in zip(self.stored, new, strict=True):
            store[:, :, :, start : self.length] = x
        return self.stored[0][:, :, :, : self.length], self.stored[1][:, :, :, : self.length]
