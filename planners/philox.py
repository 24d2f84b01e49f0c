"""Philox 4x32 with ten rounds, a counter-based random generator, as tensor operations on any device.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 4.3 and table 2: a keyed bijection of a
counter, so that any draw is a function of its place alone. Words of 32 bits are held in int64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # added to the key between rounds
MASK = 0xFFFFFFFF


def encrypt_counters(counters_N4: Tensor, keys_B2: Tensor) -> Tensor:
    """Random words [B, N, 4] (int64, below 2^32) of the counters [N, 4] under each key [B, 2]."""
    even, left, odd, right = (word.expand(len(keys_B2), -1) for word in counters_N4.unbind(-1))
    key_even, key_odd = keys_B2[:, None].unbind(-1)
    for _ in range(ROUNDS):
        # The product's 64 bits wrap around in int64; its upper half is right after the mask.
        product_even, product_odd = even * MULTIPLIERS[0], odd * MULTIPLIERS[1]
        even, odd = (product_odd >> 32 & MASK) ^ left ^ key_even, (product_even >> 32 & MASK) ^ right ^ key_odd
        left, right = product_odd & MASK, product_even & MASK
        key_even, key_odd = key_even + KEY_STEPS[0] & MASK, key_odd + KEY_STEPS[1] & MASK
    return torch.stack((even, left, odd, right), -1)


def draw_normal(keys_B2: Tensor, count: int) -> Tensor:
    """Standard normal float32 [B, count] on the keys' device, by Box and Muller (1958) from uniform numbers of 24 bits.

    The first numbers do not depend on `count`. Devices agree up to the rounding of logarithm and cosine.
    """
    blocks = torch.arange(math.ceil(count / 4), device=keys_B2.device)
    counters = torch.stack((blocks, *[torch.zeros_like(blocks)] * 3), -1)
    uniform = ((encrypt_counters(counters, keys_B2) >> 8).float() + 0.5) / 2**24  # inside (0, 1)
    radius, angle = (-2 * uniform[..., :2].log()).sqrt(), 2 * math.pi * uniform[..., 2:]
    return torch.cat((radius * angle.cos(), radius * angle.sin()), -1).flatten(1)[:, :count]
