"""`jepa posttrain`: stage 2, a frozen encoder and recorded trajectories -> latent dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commands.config import build
from commands.console import Console
from commands.models import MODEL, frame_skip, frozen_encoder, open_reader, save_dynamics
from commands.monitors import whole_episodes
from commands.pretrain import fit
from commands.registry import device as torch_device
from commands.report import horizon_curves
from commands.runs import RunFolder, write_json
from data.features import FeatureCache
from data.loader import Loader
from data.windows import Windows
from world_model.checkpoint import config_dict, tensors_hash
from world_model.dynamics import ActionSpec, DynamicsConfig, LatentDynamics
from world_model.posttrain import PosttrainConfig, PosttrainModel
from world_model.training import TrainerConfig, keep_freed_memory

ENCODE_CHUNK = 128  # frames encoded at once while the cache is filled
ERROR_WINDOWS = 512  # windows of val that errors by horizon are measured on


def configs(config: dict[str, Any]) -> tuple[DynamicsConfig, PosttrainConfig, TrainerConfig]:
    """The typed parts of the configuration."""
    dynamics = dict(config["dynamics"])
    losses = build(PosttrainConfig, dynamics.pop("losses"), "dynamics.losses")
    dynamics.pop("frame_skip")
    shape = build(DynamicsConfig, dynamics, "dynamics")
    if losses.rollout_steps > shape.horizon:
        raise ValueError(
            f"dynamics.losses.rollout_steps={losses.rollout_steps} is more than dynamics.horizon={shape.horizon}"
        )
    return shape, losses, build(TrainerConfig, {**config["trainer"], "seed": config["seed"]}, "trainer")


def check(config: dict[str, Any]) -> None:
    """What can be known before a folder is made."""
    configs(config)


def run(config: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """Train, and keep the last dynamics with its encoder in one model folder."""
    folder.finish(posttrain(config, config["data"], config["encoder"], folder.path, console))


def posttrain(config: dict[str, Any], data: Any, encoder_folder: Any, folder: Path, console: Console) -> str:
    """Stage 2 into `folder`; returns one line of what came out."""
    shape, losses, trainer = configs(config)
    device = torch.device(torch_device(config["device"]))
    keep_freed_memory()
    reader = open_reader(data, config["on_damaged"])
    height, width = reader.info.frame_hwc[:2]
    encoder, about = frozen_encoder(config, encoder_folder, (height, width), console)
    torch.manual_seed(config["seed"])
    actions = ActionSpec(
        tuple(reader.info.action_low),
        tuple(reader.info.action_high),
        config["dynamics"]["frame_skip"] or frame_skip(reader.info),
    )
    dynamics = LatentDynamics(shape, encoder, actions).to(device)
    features = cached_features(dynamics, reader, console)
    dynamics.set_feature_statistics(train_features(features, reader, device))
    model = PosttrainModel(dynamics, losses)
    columns = ("pixels", "action") if shape.target == "pixels" else ("action",)
    windows = {
        split: Windows(reader, split, model.window, actions.frame_skip, columns, {"features": features})
        for split in ("train", "val")
    }
    monitor = OpenLoopMonitor(model, windows["val"], device)
    last = fit(
        model,
        Loader(windows["train"], trainer.batch_size, config["seed"]),
        trainer,
        folder,
        monitor,
        console,
        device,
        "posttrain",
    )
    errors = monitor.errors()
    write_json(folder / "open_loop.json", errors)
    horizon_curves(errors, folder / "open_loop.png")
    save_dynamics(
        folder / MODEL,
        dynamics,
        {
            **about,
            "env": reader.info.env_id,
            "env_kwargs": reader.info.env_kwargs,
            "losses": config_dict(losses),
            "data": reader.file_checksum,
        },
    )
    return (
        f"open-loop error over copying the last frame: {last['over_copy_1']:.3f} one step, "
        f"{last['over_copy_last']:.3f} {losses.rollout_steps} steps ahead"
    )


class OpenLoopMonitor:
    """Errors of imagined paths on `val`, beside those of copying the last frame."""

    def __init__(self, model: PosttrainModel, windows: Windows, device: torch.device) -> None:
        self.model, self.device = model, device
        loader = Loader(windows, min(ERROR_WINDOWS, len(windows)), seed=0)
        self.batch = {name: value.to(device) for name, value in loader.batch(0).items()}

    def errors(self) -> dict[str, list[float]]:
        """`predicted` and `copy`, squared error at steps 1..K."""
        return self.model.error_by_horizon(self.batch)

    def __call__(self, step: int) -> dict[str, float]:
        """Error over copying, at the first and at the last step; and both errors there."""
        errors = self.errors()
        ratios = [made / max(copy, 1e-12) for made, copy in zip(errors["predicted"], errors["copy"], strict=True)]
        return {
            "over_copy_1": ratios[0],
            "over_copy_last": ratios[-1],
            "error_1": errors["predicted"][0],
            "error_last": errors["predicted"][-1],
        }

    def warning(self, evaluations: list[dict[str, float]]) -> None:
        """Frozen features cannot collapse."""


@torch.no_grad()
def cached_features(dynamics: LatentDynamics, reader: Any, console: Console) -> np.ndarray:
    """Raw features of every frame of the file, bfloat16 bits [F, N, D]; computed once for an encoder and a
    file."""
    cache, key = FeatureCache(reader), tensors_hash(dynamics.encoder.state_dict())
    found = cache.read(key, dynamics.config.space)
    if found is not None:
        return found
    device = dynamics.action_mid.device
    example = dynamics.encode(torch.from_numpy(reader.gather("pixels", np.array([[0]]))).to(device))
    episodes = reader.episodes()
    with (
        console.progress("encode", len(episodes), "episodes") as progress,
        cache.write(key, dynamics.config.space, tuple(example.shape[2:])) as rows,
    ):
        for episode, frames in zip(episodes, whole_episodes(reader, episodes), strict=True):
            row = int(reader.first_row(episode))
            for chunk in frames.split(ENCODE_CHUNK):
                rows[row : row + len(chunk)] = bits(dynamics.encode(chunk[None].to(device))[0])
                row += len(chunk)
            progress.advance()
    stored = cache.read(key, dynamics.config.space)
    assert stored is not None, cache.path(key, dynamics.config.space)
    return stored


def bits(values: Tensor) -> np.ndarray:
    """bfloat16 bit patterns as uint16."""
    return values.bfloat16().cpu().contiguous().view(torch.int16).numpy().view(np.uint16)


def train_features(features: np.ndarray, reader: Any, device: torch.device, most: int = 4096) -> Tensor:
    """A spread of raw features [n, N, D] of the train split, for their statistics."""
    rows = np.concatenate(
        [
            np.arange(reader.first_row(e), reader.first_row(e) + reader.num_frames(int(e)))
            for e in reader.episodes("train")
        ]
    )
    chosen = np.ascontiguousarray(features[rows[:: max(1, len(rows) // most)]])
    return torch.from_numpy(chosen.view(np.int16)).view(torch.bfloat16).float().to(device)
