"""Stage 1 of a run: video -> encoder. Actions are read by end-to-end objectives alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import envs
from commands.config.keys import LoggerKeys, OnDamaged
from commands.report.plots import draw_training_curves
from commands.shared.console import METRICS, Console
from commands.shared.devices import resolve_device
from commands.training.model_folders import MODEL, save_dynamics, save_encoder, save_world_model
from commands.training.monitors import Monitor
from commands.training.sources import VIDEO_FOLDER, Source, VideoConfig, check_video_folder, open_source
from commands.training.stage import StageOutput, make_train_loader, train_stage
from commands.training.world_models import WorldModelMonitor
from data.checks import check_memory
from data.loader import Loader
from world_model.actions import ActionSpec
from world_model.distributed import is_main_process, world_info
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.generative.world_model import WorldModel, WorldModelConfig
from world_model.objectives.end_to_end import EndToEnd
from world_model.objectives.families import Stage1Config
from world_model.objectives.future import FutureConfig
from world_model.objectives.metric import fit_metric, fit_principal_pool
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.checkpoint import make_config_dict
from world_model.training.loop import TrainerConfig, keep_freed_memory

MASK_TRIALS = 8  # samples that masks are tried on


@dataclass(frozen=True, kw_only=True)
class PretrainKeys(LoggerKeys):
    """What stage 1 trains, and how."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """sizes of the encoder"""
    objective: Stage1Config = field(default_factory=FutureConfig)
    """what is predicted from what"""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation"""
    path: str | None = None
    """data=video_folder: folder of mp4, webm, gif, mkv, mov or avi files, with those below it"""
    video: VideoConfig = field(default_factory=VideoConfig)
    """how clips are cut from plain video"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""

    @property
    def adapted_encoder(self) -> EncoderConfig:
        """Sizes of the encoder that the objective trains."""
        return self.objective.adapt_encoder(self.encoder)

    def check(self, data: Any = None) -> None:
        """Raise ValueError for parts that do not fit together, before anything is read or written."""
        sizes, objective = self.adapted_encoder, self.objective
        what = f"an encoder of encoder.depth={sizes.depth} encoder.width={sizes.width}"
        check_memory(what, 4 * sizes.num_block_weights, "choose a smaller one")
        if self.trainer.steps:  # what is never trained sees no hidden patches
            objective.check_encoder(sizes)
            objective.check_batch(self.trainer.batch_size)
        world_info().split_rows(self.trainer.batch_size)
        if data == VIDEO_FOLDER:
            check_video_folder(self.path, objective)
        grid = (max(1, objective.frames // sizes.tubelet), *sizes.grid)
        for mask in objective.masks:
            mask.sample(min(MASK_TRIALS, self.trainer.batch_size), grid, (self.seed,))


def pretrain(
    keys: PretrainKeys, data: Any, folder: Path, console: Console, begin: Path | None = None, draws: bool = True
) -> str:
    """Run stage 1 into `folder`; the first process returns its result in one line.

    begin: checkpoints of another run, from whose newest the training begins. draws: whether it leaves figures.
    """
    objective, device = keys.objective, torch.device(resolve_device(keys.device))
    keep_freed_memory()
    source = open_source(data, keys.path, keys.video, keys.on_damaged, keys.adapted_encoder, objective, console)
    torch.manual_seed(keys.seed)
    val = Loader(source.clips["val"], keys.trainer.batch_size, keys.seed)
    output = StageOutput("pretrain", folder, console, keys.logger, draws)
    about = {"objective": make_config_dict(objective), **source.describe()}
    if isinstance(objective, WorldModelConfig):
        assert source.actions is not None, "world models read actions"
        world = objective.make_world_model(keys.encoder.image_px, source.actions, keys.seed).to(device)
        watcher = WorldModelMonitor(world, val, device) if is_main_process() else None
        last = _train(world, keys, source, output, watcher, begin)
        if watcher is None:
            return ""
        output.write_open_loop(watcher.compute_errors())
        save_world_model(folder / MODEL, world, about)
        return watcher.summarise(last)
    encoder = VideoEncoder(keys.adapted_encoder)
    encoder.set_pixel_statistics(*source.compute_pixel_statistics())
    model = PretrainModel(encoder, objective, keys.trainer.steps, keys.seed, source.actions, source.crop).to(device)
    monitor = source.make_monitor(model, val, device) if is_main_process() else None
    last = _train(model, keys, source, output, monitor, begin)
    if monitor is None:
        return ""
    trained = model.trained_encoder.eval()
    fit_principal_pool(trained, monitor.clips)
    if objective.metric is not None and trained.pool is not None:
        episodes = (clip.to(device) for clip in source.read_segments(objective.metric.episodes))
        fit_metric(trained, objective.metric, episodes).fold_into(trained.pool)
    if isinstance(model.objective, EndToEnd) and objective.metric is None:  # a metric changes what they predict
        save_dynamics(folder / MODEL, model.objective.make_dynamics(trained), about)
    else:
        save_encoder(folder / MODEL, trained, about)
    return monitor.summarise(last)


def _train(
    model: PretrainModel | WorldModel,
    keys: PretrainKeys,
    source: Source,
    output: StageOutput,
    monitor: Monitor | WorldModelMonitor | None,
    begin: Path | None,
) -> dict[str, float]:
    """Train on the clips of train, and draw the curves if the output has figures; the last evaluation."""
    trainer, device = replace(keys.trainer, seed=keys.seed), next(model.parameters()).device
    loader = make_train_loader(source.clips["train"], trainer, device, source.workers, model.prepare)
    with output.open_tracker() as tracker:
        last = train_stage(model, loader, trainer, output, tracker, monitor, begin)
        if monitor is not None and output.draws:
            draw_training_curves(output.folder / METRICS, output.folder / "curves.png", monitor.curves)
            tracker.add_picture("curves", output.folder / "curves.png", trainer.steps)
    return last


def make_random_stage1(
    encoder: EncoderConfig,
    objective: Stage1Config,
    trainer: TrainerConfig,
    task_name: str,
    seed: int,
    device: torch.device,
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Model of stage 1 and a batch of random pictures for it, to measure speed and count operations."""
    sizes, task = objective.adapt_encoder(encoder), envs.get_task(task_name)
    frames = (trainer.batch_size, objective.frames, *sizes.image_px, 3)
    batch = {"pixels": torch.randint(0, 256, frames, dtype=torch.uint8, device=device)}
    actions = None
    if objective.reads_actions:
        actions = ActionSpec(task.action_low, task.action_high, objective.frame_gap or task.frame_skip)
        rows = (trainer.batch_size, objective.frames - 1, actions.block_dim)
        batch["action"] = torch.zeros(rows, device=device)
    if isinstance(objective, WorldModelConfig):
        assert actions is not None, "world models read actions"
        return objective.make_world_model(sizes.image_px, actions, seed).to(device), batch
    return PretrainModel(VideoEncoder(sizes), objective, trainer.steps, seed, actions).to(device), batch
