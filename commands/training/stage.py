"""One training run of either stage: the loop with metrics.jsonl, progress, checkpoints and warnings."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from commands.shared.console import Console, Metrics
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

    begin: checkpoints of another run, whose newest gives weights and optimiser state at step 0. Of several processes
    the first one alone has a monitor, writes and speaks; the others wait in the next step.
    """
    device = next(model.parameters()).device
    precision = resolve_precision(device, trainer.precision, [p for p in model.parameters() if p.requires_grad])
    trained = distribute_model(model, trainer.parallel, device, precision == "bf16")
    if trainer.compile:
        compile_blocks(trained)
    optimizer = make_optimizer(trained, trainer)
    checkpoints = Checkpoints(folder / CHECKPOINTS, begin)
    start = checkpoints.find_newest_step()
    evaluations: list[dict[str, float]] = []
    told: set[str] = set()

    def evaluate(step: int) -> dict[str, float]:
        copy_full_weights(trained, model)
        if monitor is None:
            return {}
        evaluations.append(monitor(step))
        warning = monitor.find_warning(evaluations)
        if warning is not None and warning.partition(":")[0] not in told:
            told.add(warning.partition(":")[0])  # once a kind: it would be said again at every evaluation
            console.warn(f"jepa {what}: step {step}: {warning}")
        return evaluations[-1]

    written = folder / "metrics.jsonl" if monitor is not None else os.devnull
    with (
        closing(loader.iterate(start, trainer.steps)) as batches,
        Metrics(written, keep_to=start) as metrics,
        console.progress(what, trainer.steps, "steps", start=start) as progress,
    ):
        train(
            trained,
            lambda step: next(batches),
            optimizer,
            trainer,
            checkpoints,
            Hooks(
                log=metrics.write,
                evaluate=evaluate,
                progress=lambda step, values: progress.update(step, loss=values["loss"]),
            ),
            device,
        )
    return evaluations[-1] if evaluations else {}
