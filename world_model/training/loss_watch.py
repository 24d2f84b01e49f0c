"""Ends a training whose loss or gradient is not finite, without making every step wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from world_model.distributed import gather_rows

SOURCES = ("episode", "start")  # of a batch: where its rows come from


class TrainingError(RuntimeError):
    """Training cannot continue; the message has the step, the data and the last checkpoint."""


class LossWatch:
    """Remembers losses and norms of gradients and looks at them when asked to (`check`), since reading a number makes
    the host wait for the device. checkpoints: `Checkpoints`, whose newest the message names. at_once: whether every
    step is looked at as it comes, which costs nothing on a CPU."""

    def __init__(self, checkpoints: Any = None, at_once: bool = True) -> None:
        self._checkpoints, self._at_once = checkpoints, at_once
        self._steps: list[tuple[int, Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]] = []

    def add(self, step: int, loss: Tensor, norm: Tensor, terms: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Remember the loss of a step and the norm of its gradient, with the loss's terms and the batch it is of."""
        sources = {name: batch[name] for name in SOURCES if name in batch}
        self._steps.append((step, loss, norm, terms, sources))
        if self._at_once:
            self.check()

    def check(self) -> None:
        """Raise TrainingError for the first step since the last call whose loss or gradient is not finite."""
        if not self._steps:
            return
        numbers = [torch.stack((loss, norm.to(loss))) for _, loss, norm, _, _ in self._steps]
        finite = torch.stack(numbers).isfinite().all(1).tolist()
        if not all(finite):
            raise TrainingError(self._describe(*self._steps[finite.index(False)]))
        self._steps.clear()

    def _describe(
        self, step: int, loss: Tensor, _: Tensor, terms: dict[str, Tensor], sources: dict[str, Tensor]
    ) -> str:
        what = "gradient" if loss.isfinite() else "loss"
        values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
        strange = [name for name, value in terms.items() if not value.isfinite()]
        named = f": {', '.join(strange)} {'is' if len(strange) == 1 else 'are'} not" if strange else ""
        source = ", ".join(f"{name} {gather_rows(rows).tolist()[:8]}" for name, rows in sources.items())
        paths = self._checkpoints.list_paths() if self._checkpoints else []
        last = f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"
        return (
            f"the {what} is not finite at step {step}{named} ({values}); batch from {source or 'an unnamed source'}; "
            f"{last}. Try a lower trainer.lr or trainer.precision=fp32"
        )
