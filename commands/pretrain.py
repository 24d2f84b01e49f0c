"""`jepa pretrain`: stage 1, video -> encoder. Actions are read by end-to-end objectives alone (objective.actions)."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import torch

from commands.config import build
from commands.console import Console, Metrics
from commands.models import MODEL, save_dynamics, save_encoder
from commands.registry import device as torch_device
from commands.report import training_curves
from commands.runs import RunFolder
from commands.sources import VIDEO_FOLDER, open_source, video_config
from data.loader import Loader
from world_model.checkpoint import config_dict
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.objectives import ObjectiveConfig
from world_model.pretrain import PretrainModel, fit_summary, fitted
from world_model.training import Checkpoints, Hooks, TrainerConfig, keep_freed_memory, make_optimizer, train


def configs(config: dict[str, Any]) -> tuple[EncoderConfig, ObjectiveConfig, TrainerConfig]:
    """The typed parts of the configuration."""
    trainer = build(TrainerConfig, {**config["trainer"], "seed": config["seed"]}, "trainer")
    objective = build(ObjectiveConfig, config["objective"], "objective")
    return fitted(build(EncoderConfig, config["encoder"], "encoder"), objective), objective, trainer


def check(config: dict[str, Any]) -> None:
    """What can be known before a folder is made."""
    objective = configs(config)[1]
    if config["data"] == VIDEO_FOLDER:
        video_config(config, objective)


def run(config: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """Train, and keep the last encoder."""
    folder.finish(pretrain(config, config["data"], folder.path, console))


def pretrain(config: dict[str, Any], data: Any, folder: Any, console: Console) -> str:
    """Stage 1 into `folder`; returns one line of what came out."""
    encoder_config, objective, trainer = configs(config)
    device = torch.device(torch_device(config["device"]))
    keep_freed_memory()
    source = open_source(config, data, encoder_config, objective, console)
    torch.manual_seed(config["seed"])
    encoder = VideoEncoder(encoder_config)
    encoder.set_pixel_statistics(*source.pixel_statistics())
    model = PretrainModel(encoder, objective, trainer.steps, config["seed"], source.actions, source.crop).to(device)
    loader = Loader(source.clips["train"], trainer.batch_size, config["seed"], source.workers)
    val = Loader(source.clips["val"], trainer.batch_size, config["seed"])
    monitor = source.monitor(model, val, device)
    last = fit(model, loader, trainer, folder, monitor, console, device, "pretrain")
    kept = model.trained_encoder.eval()
    fit_summary(kept, monitor.clips)
    metric = model.metric(clip.to(device) for clip in source.stretches(objective.metric.episodes))
    if metric is not None and kept.pool is not None:
        kept.pool.fold(*metric)
    training_curves(folder / "metrics.jsonl", folder / "curves.png", monitor.curves)
    about = {"objective": config_dict(objective), **source.about()}
    if objective.actions:
        save_dynamics(folder / MODEL, model.dynamics(), about)
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
    device: torch.device,
    what: str,
) -> dict[str, float]:
    """Run the one loop with metrics.jsonl, progress and checkpoints; returns the last evaluation."""
    optimizer = make_optimizer(model, trainer)
    checkpoints = Checkpoints(folder / "checkpoints")
    start = checkpoints.newest_step()
    evaluations: list[dict[str, float]] = []

    def evaluate(step: int) -> dict[str, float]:
        evaluations.append(monitor(step))
        warning = monitor.warning(evaluations)
        if warning is not None:
            console.warn(f"jepa {what}: step {step}: {warning}")
        return evaluations[-1]

    with (
        closing(loader.iterate(start, trainer.steps)) as batches,
        Metrics(folder / "metrics.jsonl", keep_to=start) as metrics,
        console.progress(what, trainer.steps, "steps", start=start) as progress,
    ):
        train(
            model,
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
    return evaluations[-1]
