"""Floating-point operations of a call: matrix products, convolutions and attention.

torch counts with one formula per operation. Its formulas for attention depend on the version and the backend: before
2.15 the CPU's fused attention has none, and a fused backward pass counts the scores a second time. This module
replaces them, so that a count depends on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

# Fused attention of every backend; torch's math backend computes it by matrix products, which are counted as such.
FUSED_ATTENTION = (
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)


def count_flops(call: Callable[[], Any]) -> float:
    """Count the floating-point operations of a call: the same for every torch version, device and attention backend.

    A product [m, k] x [k, n] has 2 m k n operations. Masked attention counts in full. A backward pass of attention
    has twice the operations of its forward pass. Where a kernel pads the head width, the padding counts.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, slowly

    with FlopCounterMode(display=False, custom_mapping=list_attention_formulas()) as counter:
        call()
    return float(counter.get_total_flops())


def list_attention_formulas() -> dict[Any, Callable[..., int]]:
    """The formulas of all fused attention operations that this torch has, forward and backward."""
    forward = dict.fromkeys(FUSED_ATTENTION, _forward_flops)
    backward = {f"{name}_backward": _backward_flops for name in FUSED_ATTENTION}
    aten = torch.ops.aten
    return {getattr(aten, name): count for name, count in (forward | backward).items() if hasattr(aten, name)}


def _forward_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Two products, of shapes [B, heads, n, d], [B, heads, N, d], [B, heads, N, v]: scores and weighted values."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _backward_flops(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Four products: the gradients of values, weights, queries and keys. Recomputed scores do not count."""
    return 2 * _forward_flops(query, key, value)
