"""One training run of either stage: the loop with metrics.jsonl, progress, checkpoints and warnings."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from commands.report.plots import draw_horizon_curves
from commands.shared.console import METRICS, Console, Metrics, read_evaluations
from commands.shared.devices import warn_of_emulated_bf16
from commands.shared.runs import write_json
from commands.training.trackers import Logger, Tracker, open_tracker
from data.loader import Batch, BatchSource, Loader
from world_model.distributed import copy_full_weights, distribute_model, is_main_process, world_info
from world_model.training.compilation import compile_blocks
from world_model.training.loop import (
    Checkpoints,
    Hooks,
    TrainerConfig,
    make_optimizer,
    resolve_precision,
    train,
)

GPU_WORKERS = 4  # threads that read ahead of a GPU, at least
CHECKPOINTS = "checkpoints"  # folder of them in a run's folder
OPEN_LOOP, OPEN_LOOP_FIGURE = "open_loop.json", "open_loop.png"  # errors by model step, in a run's folder


@dataclass(frozen=True)
class StageOutput:
    """Where a training writes. name: of the stage, for messages. logger: tracker beside metrics.jsonl. draws: whether
    it leaves figures."""

    name: str
    folder: Path
    console: Console
    logger: Logger = "none"
    draws: bool = True

    def write_open_loop(self, errors: dict[str, list[float]]) -> None:
        """Write errors of imagined paths by model step (`predicted`; `copy`: of the last frame), and their figure."""
        write_json(self.folder / OPEN_LOOP, errors)
        if self.draws:
            draw_horizon_curves(errors, self.folder / OPEN_LOOP_FIGURE)

    def open_tracker(self) -> AbstractContextManager[Tracker]:
        """The tracker beside metrics.jsonl; none in every process but the first."""
        start = Checkpoints(self.folder / CHECKPOINTS).find_newest_step()
        return open_tracker(self.logger if is_main_process() else "none", self.folder, start, self.console)


def make_train_loader(
    windows: BatchSource,
    trainer: TrainerConfig,
    device: torch.device,
    workers: int = 1,
    prepare: Callable[[Batch, int], Batch] = lambda batch, step: batch,
) -> Loader:
    """Batches of a training: this process's share, read ahead and prepared by threads; for a GPU by GPU_WORKERS or
    more, into pinned memory. Neither changes a batch."""
    on_gpu = device.type == "cuda"
    workers = max(workers, GPU_WORKERS) if on_gpu else workers
    return Loader(windows, trainer.batch_size, trainer.seed, workers, world_info(), prepare, on_gpu)


def train_stage(
    model: Any,
    loader: Loader,
    trainer: TrainerConfig,
    output: StageOutput,
    tracker: Tracker,
    monitor: Any,
    begin: Path | None = None,
) -> dict[str, float]:
    """Run the one loop with metrics.jsonl, progress and checkpoints; returns the last evaluation.

    tracker: gets every line of metrics.jsonl, too. monitor: called with a step, returns the evaluation; None in every
    process but the first, which alone writes and prints. begin: checkpoints of another run, whose newest gives weights
    and optimiser state at step 0.
    """
    folder, console = output.folder, output.console
    device = next(model.parameters()).device
    precision = resolve_precision(device, trainer.precision, [p for p in model.parameters() if p.requires_grad])
    warn_of_emulated_bf16(output.name, trainer.precision, device.type, console)
    trained = distribute_model(model, trainer.parallel, device, precision == "bf16")
    if trainer.compile:
        compile_blocks(trained)
    optimizer = make_optimizer(trained, trainer)
    checkpoints = Checkpoints(folder / CHECKPOINTS, begin)
    start = checkpoints.find_newest_step()
    warned: set[str] = set()

    def evaluate(step: int) -> dict[str, float]:
        copy_full_weights(trained, model)
        if monitor is None:
            return {}
        evaluations.append(monitor(step))
        warning = monitor.find_warning(evaluations)
        if warning is not None and warning.partition(":")[0] not in warned:
            warned.add(warning.partition(":")[0])  # one warning of each kind
            console.warn(f"jepa {output.name}: step {step}: {warning}")
        return evaluations[-1]

    metrics_path = folder / METRICS if monitor is not None else os.devnull
    with (
        closing(loader.iterate(start, trainer.steps)) as batches,
        Metrics(metrics_path, keep_to=start) as metrics,
        console.progress(output.name, trainer.steps, "steps", start=start) as progress,
    ):

        def log(values: dict[str, Any]) -> None:
            metrics.write(values)
            tracker.log(values)

        evaluations = read_evaluations(metrics_path)  # of a resumed run: warnings compare with its first
        hooks = Hooks(
            log=log,
            evaluate=evaluate,
            progress=lambda step, values: progress.update(step, loss=values["loss"]),
        )
        train(trained, lambda step: next(batches), optimizer, trainer, checkpoints, hooks, device)
    return evaluations[-1] if evaluations else {}
