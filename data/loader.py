"""Batches as torch tensors: which windows or clips are in batch k is a function of (seed, k) alone.

So a run resumes by asking for the next step, and neither threads nor restarts change what is trained on. Windows are
drawn without replacement, epoch after epoch, by a counter-based generator keyed by (seed, epoch) (Philox: Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A batch may span two epochs, so that none is short.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import count, islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Batch = dict[str, torch.Tensor]


class BatchSource(Protocol):
    """Samples that batches are drawn from: `data.windows.Windows` or `data.clips.VideoClips`."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def gather(self, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The samples of these numbers [B], as arrays [B,...]: a function of the numbers alone."""
        ...


def pin_batch(batch: Batch) -> Batch:
    """The batch in pinned memory, from which a GPU copies while it computes."""
    return {name: tensor.pin_memory() for name, tensor in batch.items()}


class Loader:
    """Batches of `batch_size` windows.

    workers: threads that read ahead in `iterate` (0 reads in the caller's). They are threads, not processes, because
    copying out of a memory map and decoding video both release Python's lock. shard: rank and number of the processes
    that share a batch, each of which reads its own rows alone; the windows in a batch do not depend on it.
    prepare(batch, step): called by the threads on every batch. pin: whether batches lie in pinned memory.
    """

    def __init__(
        self,
        windows: BatchSource,
        batch_size: int,
        seed: int,
        workers: int = 1,
        shard: tuple[int, int] = (0, 1),
        prepare: Callable[[Batch, int], Batch] = lambda batch, step: batch,
        pin: bool = False,
    ) -> None:
        if batch_size < 1 or seed < 0 or workers < 0:
            raise ValueError(f"batch_size={batch_size} seed={seed} workers={workers}: give at least 1, 0 and 0")
        rank, world = shard
        if batch_size % world or not 0 <= rank < world:
            raise ValueError(f"batch_size={batch_size} does not part evenly for process {rank} of {world}")
        share = batch_size // world
        self._rows = slice(rank * share, (rank + 1) * share)
        self.windows, self.batch_size, self.seed, self.workers = windows, batch_size, seed, workers
        self._prepare, self._pin = prepare, pin
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def draw_indices(self, step: int) -> NDArray[np.int64]:
        """Windows [B] of batch `step`, of all processes."""
        if step < 0:
            raise ValueError(f"step={step}: batches count from 0")
        epochs, positions = np.divmod(self._draw_numbers(step), len(self.windows))
        windows = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            windows[epochs == epoch] = self._order(int(epoch))[positions[epochs == epoch]]
        return windows

    def read_batch(self, step: int) -> Batch:
        """This process's rows of batch `step`: the source's arrays as tensors, and `draw` [B], the number of each
        sample among all that are drawn; prepared."""
        arrays = self.windows.gather(self.draw_indices(step)[self._rows])
        draw = torch.from_numpy(self._draw_numbers(step)[self._rows])
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()} | {"draw": draw}
        batch = self._prepare(batch, step)
        return pin_batch(batch) if self._pin else batch

    def iterate(self, start_step: int = 0, stop_step: int | None = None) -> Generator[Batch, None, None]:
        """Batches from `start_step` on, up to `stop_step` if given, read ahead by threads."""
        steps: Iterator[int] = count(start_step) if stop_step is None else iter(range(start_step, stop_step))
        if self.workers == 0:
            yield from map(self.read_batch, steps)
            return
        ahead: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        try:
            while True:
                ahead.extend(
                    pool.submit(self.read_batch, step) for step in islice(steps, self.workers + 1 - len(ahead))
                )
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _draw_numbers(self, step: int) -> NDArray[np.int64]:
        return np.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(len(self.windows))
