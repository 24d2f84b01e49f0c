"""Batches of windows as torch tensors: which windows are in batch k is a function of (seed, k) and of nothing
else.

So a run resumes by asking for the next step, and neither threads nor restarts change what is trained on.
Windows are drawn without replacement, epoch after epoch, by a counter-based generator keyed by (seed, epoch)
(Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011); a batch may span two epochs,
so none is ever short.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Batch = dict[str, torch.Tensor]


class BatchSource(Protocol):
    """What batches are drawn from: `data.windows.Windows`, `data.clips.VideoClips`."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def gather(self, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Those of these numbers [B], as arrays [B,...]: a function of the numbers alone."""
        ...


class Loader:
    """Batches of `batch_size` windows.

    `workers` is the number of threads that read ahead in `iterate` (0 reads in the caller's): threads, not
    processes, since the work is copying out of a memory map, or decoding video, which leaves Python's lock free. Of a
    batch that `world` processes share, number `rank` reads its own rows alone; which windows are in the batch does not
    depend on either.
    """

    def __init__(
        self, windows: BatchSource, batch_size: int, seed: int, workers: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size < 1 or seed < 0 or workers < 0:
            raise ValueError(f"batch_size={batch_size} seed={seed} workers={workers}: give at least 1, 0 and 0")
        if batch_size % world or not 0 <= rank < world:
            raise ValueError(f"batch_size={batch_size} does not part evenly for process {rank} of {world}")
        share = batch_size // world
        self._rows = slice(rank * share, (rank + 1) * share)
        self.windows, self.batch_size, self.seed, self.workers = windows, batch_size, seed, workers
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Windows [B] of batch `step`, of all processes."""
        if step < 0:
            raise ValueError(f"step={step}: batches count from 0")
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = np.divmod(places, len(self.windows))
        chosen = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            chosen[mine] = self._order(int(epoch))[within[mine]]
        return chosen

    def batch(self, step: int) -> Batch:
        """Batch `step`, this process's rows of it: what `Windows.gather` returns, as tensors; uint16 columns are
        bfloat16 (cached features). And `draw` [B], the number of each among all that are drawn.
        """
        found = self.windows.gather(self.indices(step)[self._rows])
        drawn = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)[self._rows]
        return {name: _to_tensor(array) for name, array in found.items()} | {"draw": drawn}

    def iterate(self, start_step: int = 0, stop_step: int | None = None) -> Generator[Batch, None, None]:
        """Batches from `start_step` on, up to `stop_step` if given, read ahead by threads."""
        step = start_step
        if self.workers == 0:
            while stop_step is None or step < stop_step:
                yield self.batch(step)
                step += 1
            return
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        try:
            while True:
                while len(ahead) <= self.workers and (stop_step is None or step < stop_step):
                    ahead.append(pool.submit(self.batch, step))
                    step += 1
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(len(self.windows))


def _to_tensor(array: NDArray[Any]) -> torch.Tensor:
    """A tensor over the array's memory; uint16 columns are cached features."""
    return from_bits(array) if array.dtype == np.uint16 else torch.from_numpy(array)


# numpy has no bfloat16: the feature cache keeps its bit patterns in uint16.
def to_bits(values: torch.Tensor) -> NDArray[np.uint16]:
    """Numbers as bfloat16 bit patterns."""
    return values.bfloat16().cpu().contiguous().view(torch.int16).numpy().view(np.uint16)


def from_bits(bits: NDArray[np.uint16]) -> torch.Tensor:
    """bfloat16 numbers of bit patterns, over the same memory where that is contiguous."""
    return torch.from_numpy(np.ascontiguousarray(bits).view(np.int16)).view(torch.bfloat16)
