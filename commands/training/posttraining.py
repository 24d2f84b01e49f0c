"""Stage 2 of a run: a frozen encoder and recorded trajectories -> latent dynamics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from commands.config.groups import DynamicsKeys
from commands.config.keys import LoggerKeys, OnDamaged
from commands.shared.console import Console
from commands.shared.devices import resolve_device
from commands.training.encoder_sources import EncoderSourceKeys, check_autoencoder, copy_predictor, load_frozen_encoder
from commands.training.feature_cache import cache_features, list_split_rows, read_proprio, sample_train_features
from commands.training.model_folders import MODEL, save_dynamics
from commands.training.stage import OPEN_LOOP_FIGURE, StageOutput, make_train_loader, train_stage
from commands.training.trajectory_files import derive_preprocessing, find_frame_skip, open_reader
from data.loader import Loader
from data.prepared import prepare_reader
from data.windows import Windows
from world_model.actions import ActionSpec
from world_model.distributed import is_main_process, main_process_first, world_info
from world_model.dynamics import LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.decoder import fit_decoder, measure_decoder
from world_model.nn.reachability import fit_reach, make_pair_source
from world_model.training.checkpoint import make_config_dict
from world_model.training.loop import TrainerConfig, keep_freed_memory
from world_model.training.posttrain import PosttrainModel

REACH_CHUNK = 4096  # frames whose embeddings are computed at once for the reachability head
DECODER_FRAMES = 256  # of val that the decoder is measured on
ERROR_WINDOWS = 512  # windows of val that errors by horizon are measured on


@dataclass(frozen=True, kw_only=True)
class PosttrainKeys(EncoderSourceKeys, LoggerKeys):
    """What stage 2 trains, and how."""

    dynamics: DynamicsKeys = field(default_factory=DynamicsKeys)
    """shape and losses of the latent dynamics"""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""

    def check(self) -> None:
        """Raise ValueError for parts that do not fit together, before anything is read or written."""
        world_info().split_rows(self.trainer.batch_size)


def posttrain(
    keys: PosttrainKeys, data: Any, encoder_folder: Any, folder: Path, console: Console, draws: bool = True
) -> str:
    """Run stage 2 into `folder`; the first process returns its result in one line. draws: whether it leaves figures."""
    device = torch.device(resolve_device(keys.device))
    keep_freed_memory()
    reader = open_reader(data, keys.on_damaged)
    proprio = {} if keys.dynamics.proprio_model == "none" else {"proprio": read_proprio(reader)}
    shape = keys.dynamics.shape(sum(column.shape[1] for column in proprio.values()))
    losses, trainer = keys.dynamics.losses, replace(keys.trainer, seed=keys.seed)
    frozen = load_frozen_encoder(keys, encoder_folder, console)
    encoder, about = frozen.encoder, frozen.about
    preprocessing = derive_preprocessing(reader.info, encoder.config.image_px)
    check_autoencoder(frozen, reader.info, preprocessing, str(encoder_folder))
    if preprocessing.stored_hw is not None:
        console.say(preprocessing.describe(preprocessing.stored_hw))
    reader = prepare_reader(reader, preprocessing)
    torch.manual_seed(keys.seed)
    actions = ActionSpec(
        tuple(reader.info.action_low),
        tuple(reader.info.action_high),
        keys.dynamics.frame_skip or find_frame_skip(reader.info),
    )
    dynamics = LatentDynamics(shape, encoder, actions).to(device)
    if frozen.predictor is not None:
        copy_predictor(frozen.predictor, dynamics, str(keys.path))
    with main_process_first():
        cached = cache_features(dynamics, reader, console)
    dynamics.features.set_statistics(lambda name: sample_train_features(cached[name], reader, device))
    if proprio and shape.inputs == "scaled":
        dynamics.states.set_statistics(torch.from_numpy(proprio["proprio"][list_split_rows(reader, "train")]))
    model = PosttrainModel(dynamics, losses, keys.seed)
    columns = ("pixels", "action") if dynamics.output.reads_pixels else ("action",)
    extra, scene = {**cached, **proprio}, {"scene": shape.history}  # no path starts at a later frame
    train, val = (
        Windows(reader, split, model.window, actions.frame_skip, columns, extra, scene) for split in ("train", "val")
    )
    if is_main_process():
        console.say(f"training on {train.describe()}")
    monitor = OpenLoopMonitor(model, val, device) if is_main_process() else None
    loader = make_train_loader(train, trainer, device)
    output = StageOutput("posttrain", folder, console, keys.logger, draws)
    with output.open_tracker() as tracker:
        last = train_stage(model, loader, trainer, output, tracker, monitor)
        if monitor is not None:
            output.write_open_loop(monitor.compute_errors())
        if monitor is not None and draws:
            tracker.add_picture("open_loop", folder / OPEN_LOOP_FIGURE, trainer.steps)
    if monitor is None:
        return ""
    fit_reach_head(dynamics, cached["features"], reader, keys.seed, console)
    fit_pixel_decoder(dynamics, cached["features"], reader, keys.seed, console)
    info = reader.info
    about |= {"env": info.env_id, "env_kwargs": info.env_kwargs, "losses": make_config_dict(losses)}
    about |= {"preprocessing": make_config_dict(preprocessing)}
    save_dynamics(folder / MODEL, dynamics, {**about, "data": reader.file_checksum})
    return (
        f"open-loop error over copying the last frame: {last['over_copy_1']:.3f} one step, "
        f"{last['over_copy_last']:.3f} {losses.rollout_steps} steps ahead"
    )


def make_dynamics(sizes: EncoderConfig, keys: DynamicsKeys, task_name: str) -> LatentDynamics:
    """Untrained dynamics of these keys for a task, around an untrained encoder of these sizes."""
    task = envs.get_task(task_name)
    actions = ActionSpec(task.action_low, task.action_high, keys.frame_skip or task.frame_skip)
    return LatentDynamics(keys.shape(len(task.proprio_names)), VideoEncoder(sizes), actions)


def make_random_stage2(
    sizes: EncoderConfig, keys: DynamicsKeys, batch_size: int, task_name: str, device: torch.device
) -> tuple[PosttrainModel, dict[str, torch.Tensor]]:
    """Model of stage 2 around an untrained encoder of these sizes and a batch of random features for it, to measure
    speed and count operations."""
    dynamics = make_dynamics(sizes, keys, task_name).to(device)
    model, features = PosttrainModel(dynamics, keys.losses), dynamics.features
    rows = (batch_size, model.window)
    batch = {
        "features": torch.randn(*rows, features.num_tokens, features.dim, device=device),
        "action": torch.zeros(batch_size, model.window - 1, dynamics.spec.block_dim, device=device),
        "proprio": torch.zeros(*rows, dynamics.config.proprio_dim, device=device),
    }
    if features.scene_shape is not None:
        size, grid = features.scene_shape
        batch["scene"] = torch.randn(batch_size, dynamics.config.history, math.prod(grid), size, device=device)
    if dynamics.output.reads_pixels:
        batch["pixels"] = torch.zeros(*rows, *sizes.image_px, 3, dtype=torch.uint8, device=device)
    return model, batch


class OpenLoopMonitor:
    """Errors of imagined paths on `val`, beside those of copying the last frame."""

    def __init__(self, model: PosttrainModel, windows: Windows, device: torch.device) -> None:
        self.model, self.device = model, device
        loader = Loader(windows, min(ERROR_WINDOWS, len(windows)), seed=0)
        self.batch = {name: value.to(device) for name, value in loader.read_batch(0).items()}

    def compute_errors(self) -> dict[str, list[float]]:
        """`predicted` and `copy`, squared error at steps 1..K."""
        return self.model.measure_error_by_horizon(self.batch)

    def __call__(self, step: int) -> dict[str, float]:
        """The error and its ratio to that of copying, at the first and the last imagined step."""
        errors = self.compute_errors()
        ratios = [
            imagined / max(copy, 1e-12) for imagined, copy in zip(errors["predicted"], errors["copy"], strict=True)
        ]
        return {
            "over_copy_1": ratios[0],
            "over_copy_last": ratios[-1],
            "error_1": errors["predicted"][0],
            "error_last": errors["predicted"][-1],
        }

    def find_warning(self, evaluations: list[dict[str, float]]) -> None:
        """Frozen features cannot collapse."""


def fit_reach_head(dynamics: LatentDynamics, features: np.ndarray, reader: Any, seed: int, console: Console) -> None:
    """Fit the reachability head, if the dynamics have one, to the cached features of the train split."""
    device, config = dynamics.action_mid.device, dynamics.config.reach
    if dynamics.reach is None or config is None:
        return
    train = list_split_rows(reader, "train")
    with torch.no_grad():
        chunks = [
            dynamics.pool_features(dynamics.features.normalise(torch.from_numpy(features[rows]).float().to(device)))
            for rows in np.array_split(train, max(1, len(train) // REACH_CHUNK))
        ]
    pooled = torch.cat(chunks)
    lengths = [reader.num_frames(int(episode)) for episode in reader.episodes("train")]
    spans = list(zip(np.cumsum([0, *lengths[:-1]]).tolist(), lengths, strict=True))
    pairs = make_pair_source(pooled, spans, dynamics.actions.frame_skip, config)
    dynamics.reach.set_statistics(pooled)
    dynamics.reach.requires_grad_(True)
    result = fit_reach(dynamics.reach, pairs, config, seed)
    dynamics.reach.requires_grad_(False)
    console.say(f"reachability from {len(pooled)} frames: expectile loss {result['reach_loss']:.3f}")


def fit_pixel_decoder(dynamics: LatentDynamics, features: np.ndarray, reader: Any, seed: int, console: Console) -> None:
    """Fit the decoder, if the dynamics have one, to frames of the train split and their cached features."""
    head, config, device = dynamics.output.decoder, dynamics.config.decoder, dynamics.action_mid.device
    if head is None or config is None:
        return

    def read(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.from_numpy(reader.gather("pixels", rows[:, None])).to(device)
        raw = torch.from_numpy(features[rows]).float().to(device)
        return dynamics.features.normalise(raw), dynamics.encoder.normalise(frames).movedim(1, -1)[:, 0]

    train, val = list_split_rows(reader, "train"), list_split_rows(reader, "val")
    head.requires_grad_(True)
    with console.progress("decoder", config.steps, "steps") as progress:

        def sample(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            progress.advance()
            return read(np.sort(train[torch.randint(len(train), (count,), generator=generator).numpy()]))

        fit_decoder(head, sample, config, seed)
    head.requires_grad_(False)
    spaced = val[np.linspace(0, len(val) - 1, min(DECODER_FRAMES, len(val))).astype(int)]
    console.say(f"decoder: explains {measure_decoder(head, *read(spaced)):.0%} of the variance of val's pixels")
