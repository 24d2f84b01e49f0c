"""Training of a goal-conditioned policy: recorded trajectories -> a policy folder (`jepa clone`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge

from commands.config.keys import LoggerKeys, OnDamaged
from commands.shared.console import Console
from commands.shared.devices import resolve_device
from commands.shared.errors import UsageError
from commands.training.feature_cache import list_split_rows, view_frames
from commands.training.model_folders import MODEL, check_actions, load_dynamics, open_reader, read_preprocessing
from commands.training.policy_folders import hash_features, save_policy
from commands.training.stage import StageOutput, make_train_loader, train_stage
from data.goal_pairs import GoalPairs
from data.loader import Loader
from data.prepared import prepare_reader
from world_model.dynamics import LatentDynamics
from world_model.encoder import VideoEncoder
from world_model.interop.timm_encoder import TimmSizes
from world_model.policy import GoalPolicy, PolicyConfig
from world_model.training.cloning import CloningModel
from world_model.training.loop import TrainerConfig, keep_freed_memory

ERROR_PAIRS = 1024  # pairs of val that errors are measured on
SPLITS_READ = ("train", "val")  # trained on, and watched; no other frame is read


@dataclass(frozen=True, kw_only=True)
class CloneKeys(LoggerKeys):
    """What a goal-conditioned policy sees, and how it is trained."""

    source: Literal["features", "pixels"] = "features"
    """what it sees: features (the model's, frozen) or pixels (an encoder of its own, as large, trained with it)"""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """sizes and inputs"""
    longest: Annotated[int, Ge(0)] = 0
    """longest way to a goal, in model steps (0: up to the end of the episode)"""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""


def train_policy(keys: CloneKeys, data: Any, model: str, folder: Path, console: Console) -> str:
    """Train a policy into `folder`; returns its result in one line. It reads train, and val for the errors shown."""
    device, trainer = torch.device(resolve_device(keys.device)), replace(keys.trainer, seed=keys.seed)
    keep_freed_memory()
    dynamics, about = load_dynamics(model, device)
    reader = open_reader(data, keys.on_damaged)
    check_actions(dynamics.actions, reader.info, "data")
    if reader.info.env_id != about["env"]:
        raise UsageError(f"the data holds {reader.info.env_id} and the model was trained on {about['env']}")
    reader = prepare_reader(reader, read_preprocessing(about, dynamics.encoder.config.image_px))
    torch.manual_seed(keys.seed)
    policy, extra, columns = make_policy(keys, dynamics, reader, console)
    cloning = CloningModel(policy).to(device)
    sizes = keys.policy
    train, val = (
        GoalPairs(reader, split, dynamics.actions.frame_skip, sizes.blocks, sizes.history, keys.longest, columns, extra)
        for split in SPLITS_READ
    )
    console.say(f"training on {train.describe()}")
    monitor = CloningMonitor(cloning, val, device)
    output = StageOutput("clone", folder, console, keys.logger)
    with output.open_tracker() as tracker:
        loader = make_train_loader(train, trainer, device)
        last = train_stage(cloning, loader, trainer, output, tracker, monitor)
    feature_dim = dynamics.encoder.pooled_dim
    kept = ("env", "env_kwargs", "preprocessing")
    record = {key: about[key] for key in kept if key in about} | {"model": model, "data": reader.file_checksum}
    features = hash_features(dynamics) if keys.source == "features" else None
    save_policy(folder / MODEL, policy, feature_dim, features, record)
    return f"error of the recorded actions over that of their mean: {last['over_mean']:.3f} on val"


def make_policy(
    keys: CloneKeys, dynamics: LatentDynamics, reader: Any, console: Console
) -> tuple[GoalPolicy, dict[str, np.ndarray], tuple[str, ...]]:
    """A new policy; the arrays over all frames, and the columns of the file, that it is trained on."""
    actions, size = dynamics.actions, dynamics.encoder.pooled_dim
    if keys.source == "features":
        rows = np.concatenate([list_split_rows(reader, split) for split in SPLITS_READ])
        features = np.zeros((reader.total_frames, size), np.float32)
        features[rows] = view_frames(dynamics, "pooled", reader, rows, console).cpu().numpy()
        return GoalPolicy(keys.policy, size, actions), {"features": features}, ()
    if isinstance(dynamics.encoder.config, TimmSizes):
        raise UsageError(
            "source=pixels trains an encoder of the model's sizes, and this one is timm's: source=features"
        )
    encoder = VideoEncoder(dynamics.encoder.config)
    encoder.set_pixel_statistics(dynamics.encoder.pixel_mean, dynamics.encoder.pixel_std)
    return GoalPolicy(keys.policy, size, actions, encoder), {}, ("pixels",)


class CloningMonitor:
    """Error of a policy on pairs of `val`, beside that of the mean action."""

    def __init__(self, model: CloningModel, pairs: GoalPairs, device: torch.device) -> None:
        self.model = model
        loader = Loader(pairs, min(ERROR_PAIRS if not pairs.columns else ERROR_PAIRS // 8, len(pairs)), seed=0)
        self.batch = {name: value.to(device) for name, value in loader.read_batch(0).items()}
        actions_NA = model.policy.normalise_actions(self.batch["action"])[self.batch["recorded"]]
        self.spread = float(actions_NA.var(0, correction=0).mean().clamp_min(1e-12))

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """The squared error with a whole history, and its ratio to that of the mean action."""
        self.model.eval()
        error = float(self.model.measure_error(self.batch, self.model.policy.config.history))
        return {"error": error, "over_mean": error / self.spread}

    def find_warning(self, evaluations: list[dict[str, float]]) -> None:
        """Recorded actions are fixed targets: nothing can collapse."""
