"""Random draws of planners: keyed, so that a plan depends on nothing but its inputs, and coloured over time.

Draws are keyed by (episode seed, replan, iteration, stream): a plan depends neither on the batch it was made in nor on
the chunks it was scored in. They are made on the host, by one generator an environment and the same for every device,
or on the device, by a counter-based generator (`planners.philox`), so that a GPU waits for no copy.

Coloured noise follows iCEM (Pinneri et al. 2020, arXiv 2008.06389): power spectrum 1/f^beta over time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import Literal

import torch
from torch import Tensor

from planners.philox import MASK, draw_normal
from planners.protocol import Rows

Source = Literal["host", "device"]

CANDIDATES = 0  # the planner's own stream of draws; a stochastic model's are 1, 2, ...
NUDGES = -1  # the stream of noise that a gradient planner adds between its steps


def derive_seed(seed: int, replan: int, iteration: int, stream: int) -> int:
    """64 bits that stand for these four numbers and no others."""
    packed = struct.pack("<4q", seed, replan, iteration, stream)
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little")


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device, without making the host wait (which takes pinned memory)."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Draws:
    """Standard normal draws per environment (the `Noise` that dynamics may take).

    Pure: the same key (seed, replan, iteration, stream) gives the same numbers whenever and wherever it is
    asked.
    """

    seeds: tuple[int, ...]
    replan: int
    device: torch.device
    iteration: int = 0
    source: Source = "host"

    def at(self, iteration: int) -> Draws:
        """The draws of another iteration."""
        return replace(self, iteration=iteration)

    def select(self, rows: Rows) -> Draws:
        """The draws of some environments."""
        chosen = self.seeds[rows] if isinstance(rows, slice) else tuple(self.seeds[i] for i in rows.tolist())
        return replace(self, seeds=chosen)

    def normal(self, shape: Sequence[int], stream: int = 1) -> Tensor:
        """Float32 [B, *shape]."""
        keys = [derive_seed(seed, self.replan, self.iteration, stream) for seed in self.seeds]
        if self.source == "device":
            words = torch.tensor([[key & MASK, key >> 32] for key in keys])
            return draw_normal(upload(words, self.device), prod(shape)).view(len(keys), *shape)
        draws = torch.empty((len(self.seeds), *shape), pin_memory=self.device.type == "cuda")
        generator = torch.Generator()
        for row, key in zip(draws, keys, strict=True):
            generator.manual_seed(key)
            row.normal_(generator=generator)
        return upload(draws, self.device)


@lru_cache(maxsize=16)
def make_colour_matrix(steps: int, beta: float) -> Tensor:
    """[steps, steps] float32 that turns white noise over time into noise of spectrum 1/f^beta, variance 1.

    The covariance is that of a circle twice as long, so that a plan's first and last step are not neighbours.
    beta 0 gives the identity; 1 to 3 ever smoother plans.
    """
    frequency = torch.fft.rfftfreq(2 * steps, dtype=torch.float64).clamp_min(1 / (2 * steps))
    covariance = torch.fft.irfft(frequency**-beta, n=2 * steps)[:steps]
    lag = (torch.arange(steps)[:, None] - torch.arange(steps)[None]).abs()
    correlation = (covariance / covariance[0])[lag] + 1e-9 * torch.eye(steps, dtype=torch.float64)
    return torch.linalg.cholesky(correlation).float()


def sample_noise(draws: Draws, shape_SKA: tuple[int, int, int], colour: Tensor | None = None) -> Tensor:
    """noise_BSKA, standard normal. colour: `make_colour_matrix` over the K x frame_skip *environment* steps."""
    white = draws.normal(shape_SKA, stream=CANDIDATES)
    if colour is None:
        return white
    steps_first = white.view(*white.shape[:2], len(colour), -1)  # [B, S, environment steps, one action]
    return (colour @ steps_first).view_as(white)
