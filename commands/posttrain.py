"""`jepa posttrain`: stage 2, a frozen encoder and recorded trajectories -> latent dynamics."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import envs
from commands.config.compose import build
from commands.config.registry import device as torch_device
from commands.pretrain import fit
from commands.report.planning import horizon_curves
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.shared.runs import RunFolder, write_json
from commands.training.model_folders import MODEL, frame_skip, frozen_encoder, open_reader, save_dynamics
from commands.training.monitors import whole_episodes
from data.features import FeatureCache
from data.loader import Loader
from data.windows import Windows
from world_model.distributed import first_alone, is_first, place
from world_model.dynamics import ActionSpec, DynamicsConfig, LatentDynamics
from world_model.nn.reachability import episode_pairs, fit_reach
from world_model.training.checkpoint import config_dict, tensors_hash
from world_model.training.loop import TrainerConfig, keep_freed_memory
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

ENCODE_CHUNK = 128  # frames encoded at once while the cache is filled
REACH_CHUNK = 4096  # frames whose embeddings are computed at once for the reachability head
ERROR_WINDOWS = 512  # windows of val that errors by horizon are measured on


def configs(config: dict[str, Any], proprio_dim: int = 1) -> tuple[DynamicsConfig, PosttrainConfig, TrainerConfig]:
    """The typed parts of the configuration; proprio_dim: numbers of the robot's state, if dynamics.proprio_model asks
    for it."""
    dynamics = dict(config["dynamics"])
    losses = build(PosttrainConfig, dynamics.pop("losses"), "dynamics.losses")
    dynamics.pop("frame_skip")
    size = {"proprio_dim": 0 if dynamics["proprio_model"] == "none" else proprio_dim}
    shape = build(DynamicsConfig, {**dynamics, **size}, "dynamics")
    if losses.rollout_steps > shape.horizon:
        raise ValueError(
            f"dynamics.losses.rollout_steps={losses.rollout_steps} is more than dynamics.horizon={shape.horizon}"
        )
    if losses.rollout_history > shape.history:
        raise ValueError(
            f"dynamics.losses.rollout_history={losses.rollout_history} is more than dynamics.history={shape.history}"
        )
    return shape, losses, build(TrainerConfig, {**config["trainer"], "seed": config["seed"]}, "trainer")


def check(config: dict[str, Any]) -> None:
    """What can be known before a folder is made."""
    place().rows(configs(config)[-1].batch_size)


def run(config: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """Train, and keep the last dynamics with its encoder in one model folder."""
    folder.finish(posttrain(config, config["data"], config["encoder"], folder.path, console))


def posttrain(config: dict[str, Any], data: Any, encoder_folder: Any, folder: Path, console: Console) -> str:
    """Stage 2 into `folder`; returns one line of what came out, in the first process."""
    device = torch.device(torch_device(config["device"]))
    keep_freed_memory()
    reader = open_reader(data, config["on_damaged"])
    proprio = {} if config["dynamics"]["proprio_model"] == "none" else {"proprio": recorded_proprio(reader)}
    shape, losses, trainer = configs(config, *(column.shape[1] for column in proprio.values()))
    height, width = reader.info.frame_hwc[:2]
    encoder, about = frozen_encoder(config, encoder_folder, (height, width), console)
    torch.manual_seed(config["seed"])
    actions = ActionSpec(
        tuple(reader.info.action_low),
        tuple(reader.info.action_high),
        config["dynamics"]["frame_skip"] or frame_skip(reader.info),
    )
    dynamics = LatentDynamics(shape, encoder, actions).to(device)
    with first_alone():
        cached = cached_features(dynamics, reader, console)
    features = cached["features"]
    dynamics.set_feature_statistics(train_features(features, reader, device))
    if shape.scene and encoder.scene_space == "points":
        dynamics.set_scene_statistics(train_features(cached["scene"], reader, device))
    if dynamics.states is not None:
        dynamics.states.set_statistics(torch.from_numpy(proprio["proprio"][split_rows(reader, "train")]))
    model = PosttrainModel(dynamics, losses)
    columns = ("pixels", "action") if shape.target == "pixels" else ("action",)
    extra, seen = {**cached, **proprio}, {"scene": shape.history}  # no path starts at a later frame
    windows = {
        split: Windows(reader, split, model.window, actions.frame_skip, columns, extra, seen)
        for split in ("train", "val")
    }
    if is_first():
        console.say(f"training on {windows['train'].counted()}")
    monitor = OpenLoopMonitor(model, windows["val"], device) if is_first() else None
    last = fit(
        model,
        Loader(windows["train"], trainer.batch_size, config["seed"], **place()._asdict()),
        trainer,
        folder,
        monitor,
        console,
        "posttrain",
    )
    if monitor is None:
        return ""
    learn_reach(dynamics, features, reader, config["seed"], console)
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
def cached_features(dynamics: LatentDynamics, reader: Any, console: Console) -> dict[str, np.ndarray]:
    """What the predictor takes of every frame of the file (`LatentDynamics.inputs`), each as bfloat16 bits [F, N, D];
    computed once for an encoder and a file."""
    cache, key = FeatureCache(reader), tensors_hash(dynamics.encoder.state_dict())
    device = dynamics.action_mid.device
    spaces: dict[str, str] = {"features": dynamics.config.space}
    if dynamics.config.scene:
        spaces["scene"] = dynamics.encoder.scene_space
    missing = [name for name, space in spaces.items() if cache.read(key, space) is None]
    if missing:
        example = dynamics.inputs(torch.from_numpy(reader.gather("pixels", np.array([[0]]))).to(device))
        episodes = reader.episodes()
        with console.progress("encode", len(episodes), "episodes") as progress, ExitStack() as files:
            rows = {
                name: files.enter_context(cache.write(key, spaces[name], tuple(example[name].shape[2:])))
                for name in missing
            }
            for episode, frames in zip(episodes, whole_episodes(reader, episodes), strict=True):
                row = int(reader.first_row(episode))
                for chunk in frames.split(ENCODE_CHUNK):
                    made = dynamics.inputs(chunk[None].to(device))
                    for name in missing:
                        rows[name][row : row + len(chunk)] = bits(made[name][0])
                    row += len(chunk)
                progress.advance()
    stored: dict[str, np.ndarray] = {}
    for name, space in spaces.items():
        found = cache.read(key, space)
        assert found is not None, cache.path(key, space)
        stored[name] = found
    return stored


def bits(values: Tensor) -> np.ndarray:
    """bfloat16 bit patterns as uint16."""
    return values.bfloat16().cpu().contiguous().view(torch.int16).numpy().view(np.uint16)


def train_features(features: np.ndarray, reader: Any, device: torch.device, most: int = 4096) -> Tensor:
    """A spread of raw features [n, N, D] of the train split, for their statistics."""
    rows = split_rows(reader, "train")
    return numbers(features[rows[:: max(1, len(rows) // most)]]).to(device)


def learn_reach(dynamics: LatentDynamics, features: np.ndarray, reader: Any, seed: int, console: Console) -> None:
    """Train the reachability head, where the dynamics has one, on the cached features of the train split."""
    if dynamics.reach is None:
        return
    device, config = dynamics.action_mid.device, dynamics.config.reach
    train = split_rows(reader, "train")
    with torch.no_grad():
        parts = [
            dynamics.pooled_view(dynamics.normalise_features(numbers(features[rows]).to(device)))
            for rows in np.array_split(train, max(1, len(train) // REACH_CHUNK))
        ]
    pooled = torch.cat(parts)
    lengths = [reader.num_frames(int(episode)) for episode in reader.episodes("train")]
    places = list(zip(np.cumsum([0, *lengths[:-1]]).tolist(), lengths, strict=True))
    dynamics.reach.set_statistics(pooled)
    dynamics.reach.requires_grad_(True)
    found = fit_reach(dynamics.reach, episode_pairs(pooled, places, dynamics.actions.frame_skip, config), config, seed)
    dynamics.reach.requires_grad_(False)
    console.say(f"reachability from {len(pooled)} frames: expectile loss {found['reach_loss']:.3f}")


def numbers(values: np.ndarray) -> Tensor:
    """The float32 numbers that bfloat16 bit patterns (uint16) stand for."""
    return torch.from_numpy(np.ascontiguousarray(values).view(np.int16)).view(torch.bfloat16).float()


def split_rows(reader: Any, split: str) -> np.ndarray:
    """Rows of all frames of a split."""
    firsts = [(reader.first_row(episode), reader.num_frames(int(episode))) for episode in reader.episodes(split)]
    return np.concatenate([np.arange(first, first + count) for first, count in firsts])


def recorded_proprio(reader: Any) -> np.ndarray:
    """The robot's state [F, Q] at every frame of the file: its column `proprio`, or those true quantities that the
    file's task counts as felt. UsageError where it has neither."""
    task = envs.find_task(reader.info.env_id)
    if any(column.name == "proprio" for column in reader.info.columns):
        name, chosen = "proprio", slice(None)
    elif task is not None:
        name, chosen = "truth", list(task.proprio_index)  # type: ignore[assignment]
    else:
        raise UsageError("dynamics.proprio_model: this file has no column proprio, and its environment is unknown")
    episodes = reader.episodes()
    example = reader.column(name, int(episodes[0]))[:, chosen]
    found = np.zeros((reader.total_frames, example.shape[1]), np.float32)
    for episode in episodes:
        first = int(reader.first_row(episode))
        found[first : first + reader.num_frames(int(episode))] = reader.column(name, int(episode))[:, chosen]
    return found
