"""`jepa pretrain`: stage 1, video -> encoder. Actions are read by end-to-end objectives alone."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from commands.config.compose import build
from commands.config.registry import build_objective
from commands.config.registry import device as torch_device
from commands.report.planning import training_curves
from commands.shared.console import Console, Metrics
from commands.shared.errors import UsageError
from commands.shared.runs import RunFolder
from commands.training.model_folders import MODEL, save_dynamics, save_encoder
from commands.training.sources import VIDEO_FOLDER, open_source, video_config
from data.loader import Loader
from world_model.distributed import copy_whole, is_first, place, spread
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.objectives.embedding import fit_metric, fit_principal_pool
from world_model.objectives.end_to_end import EndToEnd
from world_model.objectives.families import ObjectiveConfig
from world_model.training.checkpoint import config_dict
from world_model.training.loop import (
    Checkpoints,
    Hooks,
    TrainerConfig,
    compile_blocks,
    keep_freed_memory,
    make_optimizer,
    resolved_precision,
    train,
)
from world_model.training.pretrain import PretrainModel

TRIED = 8  # samples that masks are tried on
REQUIRED = "required"  # start= of a recipe that needs one
CHECKPOINTS = "checkpoints"  # folder of them in a run's folder


def configs(config: dict[str, Any]) -> tuple[EncoderConfig, ObjectiveConfig, TrainerConfig]:
    """The typed parts of the configuration."""
    trainer = build(TrainerConfig, {**config["trainer"], "seed": config["seed"]}, "trainer")
    objective = build_objective(config["objective"])
    sizes = objective.adapt_encoder(build(EncoderConfig, config["encoder"], "encoder"))
    if trainer.steps:  # what is never trained sees no hidden patches
        objective.check_encoder(sizes)
    return sizes, objective, trainer


def check(config: dict[str, Any]) -> None:
    """What can be known before a folder is made."""
    sizes, objective, trainer = configs(config)
    place().rows(trainer.batch_size)
    begin(config)
    if config["data"] == VIDEO_FOLDER:
        video_config(config, objective)
    grid = (max(1, objective.frames // sizes.tubelet), *sizes.grid)
    for mask in objective.masks:
        mask.sample(min(TRIED, trainer.batch_size), grid, (trainer.seed,))


def begin(config: dict[str, Any]) -> Path | None:
    """The checkpoints of the run that this one begins with, `start=`; UsageError where that folder holds none."""
    if config["start"] is None:
        return None
    if config["start"] == REQUIRED:
        raise UsageError("this recipe goes on from another run: give start=runs/pretrain/NAME")
    folder = Path(str(config["start"])) / CHECKPOINTS
    if not Checkpoints(folder).paths():
        raise UsageError(
            f"start={config['start']} holds no {CHECKPOINTS}/step-*.safetensors: give a run folder of jepa pretrain"
        )
    return folder


def run(config: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """Train, and keep the last encoder."""
    folder.finish(pretrain(config, config["data"], folder.path, console, begin(config)))


def pretrain(config: dict[str, Any], data: Any, folder: Any, console: Console, begin: Path | None = None) -> str:
    """Stage 1 into `folder`, from the checkpoints `begin` if any; returns one line of what came out, in the first
    process."""
    encoder_config, objective, trainer = configs(config)
    device = torch.device(torch_device(config["device"]))
    keep_freed_memory()
    source = open_source(config, data, encoder_config, objective, console)
    torch.manual_seed(config["seed"])
    encoder = VideoEncoder(encoder_config)
    encoder.set_pixel_statistics(*source.pixel_statistics())
    model = PretrainModel(encoder, objective, trainer.steps, config["seed"], source.actions, source.crop).to(device)
    here = place()._asdict()
    loader = Loader(source.clips["train"], trainer.batch_size, config["seed"], source.workers, **here)
    val = Loader(source.clips["val"], trainer.batch_size, config["seed"])
    monitor = source.monitor(model, val, device) if is_first() else None
    last = fit(model, loader, trainer, folder, monitor, console, "pretrain", begin)
    if monitor is None:
        return ""
    kept = model.trained_encoder.eval()
    fit_principal_pool(kept, monitor.clips)
    if objective.metric is not None and kept.pool is not None:
        episodes = (clip.to(device) for clip in source.stretches(objective.metric.episodes))
        fit_metric(kept, objective.metric, episodes).fold_into(kept.pool)
    training_curves(folder / "metrics.jsonl", folder / "curves.png", monitor.curves)
    about = {"objective": config_dict(objective), **source.about()}
    if isinstance(model.objective, EndToEnd):
        save_dynamics(folder / MODEL, model.objective.dynamics(kept), about)
    else:
        save_encoder(folder / MODEL, kept, about)
    return monitor.summary(last)


def fit(
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
    precision = resolved_precision(device, trainer.precision, [p for p in model.parameters() if p.requires_grad])
    trained = spread(model, trainer.parallel, device, precision == "bf16")
    if trainer.compile:
        compile_blocks(trained)
    optimizer = make_optimizer(trained, trainer)
    checkpoints = Checkpoints(folder / CHECKPOINTS, begin)
    start = checkpoints.newest_step()
    evaluations: list[dict[str, float]] = []
    told: set[str] = set()

    def evaluate(step: int) -> dict[str, float]:
        copy_whole(trained, model)
        if monitor is None:
            return {}
        evaluations.append(monitor(step))
        warning = monitor.warning(evaluations)
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
