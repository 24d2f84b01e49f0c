"""Two-hot regression in symlog space, for rewards and values (DreamerV3, arXiv 2301.04104; TD-MPC2, arXiv 2310.16828).

A number x is written as weights of evenly spaced bins b_1 < ... < b_n: the two bins around symlog(x) share a weight of
1 by how near they are. A network learns the weights by cross-entropy, and its number is symexp of their mean bin:

    symlog(x) = sign(x) ln(1 + |x|)        symexp(y) = sign(y) (exp |y| - 1)        x^ = symexp(sum_i p_i b_i)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp |x| - 1), the inverse of symlog."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Numbers as weights of bins. count: bins (>= 2). low, high: the outermost, in symlog space."""

    bins: Tensor

    def __init__(self, count: int, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.register_buffer("bins", torch.linspace(low, high, count), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """Weights [..., count] of numbers [...], which are clamped to the outermost bins."""
        last = len(self.bins) - 1
        place = (symlog(x.float()).clamp(self.low, self.high) - self.low) * last / (self.high - self.low)
        lower = place.floor().clamp(0, last - 1)
        share = (place - lower).unsqueeze(-1)
        index = lower.long().unsqueeze(-1)
        weights = torch.zeros(*x.shape, last + 1, device=x.device)
        return weights.scatter(-1, index, 1 - share).scatter(-1, index + 1, share)

    def decode(self, logits: Tensor) -> Tensor:
        """Numbers [...] of logits [..., count]."""
        return symexp(logits.float().softmax(-1) @ self.bins)

    def cross_entropy(self, logits: Tensor, x: Tensor) -> Tensor:
        """Cross-entropy [...] of logits [..., count] for numbers [...], nats."""
        return -(self.encode(x) * logits.float().log_softmax(-1)).sum(-1)
