"""One training run of either stage: the loop with metrics.jsonl, progress, checkpoints and warnings."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from commands.shared.console import METRICS, Console, Metrics, read_evaluations
from data.loader import Loader
from world_model.distributed import copy_full_weights, distribute_model
from world_model.training.loop import (
    Checkpoints,
    Hooks,
    TrainerConfig,
    compile_blocks,
    make_optimizer,
    resolve_precision,
    train,
)

CHECKPOINTS = "checkpoints"  # folder of them in a run's folder


def train_stage(
    model: Any,
    loader: Loader,
    trainer: TrainerConfig,
    folder: Any,
    monitor: Any,
    console: Console,
    what: str,
    begin: Path | None = None,
) -> dict[str, float]:
    """Run the one loop with metrics.jsonl, progress and checkpoints; returns the last evaluation.

    monitor: called with a step, returns the evaluation; None in every process but the first, which alone writes and
    prints. what: the stage, for messages. begin: checkpoints of another run, whose newest gives weights and optimiser
    state at step 0.
    """
    device = next(model.parameters()).device
    precision = resolve_precision(device, trainer.precision, [p for p in model.parameters() if p.requires_grad])
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
            console.warn(f"jepa {what}: step {step}: {warning}")
        return evaluations[-1]

    metrics_path = folder / METRICS if monitor is not None else os.devnull
    with (
        closing(loader.iterate(start, trainer.steps)) as batches,
        Metrics(metrics_path, keep_to=start) as metrics,
        console.progress(what, trainer.steps, "steps", start=start) as progress,
    ):
        evaluations = read_evaluations(metrics_path)  # of a resumed run: warnings compare with its first
        hooks = Hooks(
            log=metrics.write,
            evaluate=evaluate,
            progress=lambda step, values: progress.update(step, loss=values["loss"]),
        )
        train(trained, lambda step: next(batches), optimizer, trainer, checkpoints, hooks, device)
    return evaluations[-1] if evaluations else {}
