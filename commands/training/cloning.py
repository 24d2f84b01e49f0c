"""Training of a goal-conditioned policy: recorded trajectories -> a policy folder (`jepa clone`).

method=cloning learns the recorded actions (`world_model.training.cloning`), method=gcivl also values of goals, and
prefers actions that led nearer to them (`world_model.training.gcivl`).
"""

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
from commands.training.model_folders import MODEL, load_dynamics, read_preprocessing
from commands.training.policy_folders import hash_features, save_policy
from commands.training.stage import StageOutput, make_train_loader, train_stage
from commands.training.trajectory_files import check_actions, open_reader
from data.goal_pairs import GoalPairs, GoalTransitions
from data.loader import Batch, Loader
from data.prepared import prepare_reader
from world_model.dynamics import LatentDynamics
from world_model.encoder import VideoEncoder
from world_model.goal_value import GoalValue, ValueConfig
from world_model.interop.timm_encoder import TimmSizes
from world_model.policy import GoalPolicy, PolicyConfig
from world_model.probing.probes import rank_correlation
from world_model.training.cloning import CloningModel, measure_error, read_frames
from world_model.training.gcivl import CloningConfig, GcivlConfig, GcivlModel, draw_goal_frames
from world_model.training.loop import TrainerConfig, keep_freed_memory

ERROR_PAIRS = 1024  # pairs of val that errors are measured on
SPLITS_READ = ("train", "val")  # trained on, and watched; no other frame is read


@dataclass(frozen=True, kw_only=True)
class PolicyTraining:
    """What a goal-conditioned policy sees, and how it is trained."""

    source: Literal["features", "pixels"] = "features"
    """what it sees: features (the model's, frozen) or pixels (an encoder of its own, as large, trained with it)"""
    method: CloningConfig | GcivlConfig = field(default_factory=CloningConfig)
    """what it learns from recorded actions"""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """sizes and inputs"""
    longest: Annotated[int, Ge(0)] = 0
    """longest way to a goal, in model steps (0: up to the end of the episode)"""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation"""

    def __post_init__(self) -> None:
        if isinstance(self.method, GcivlConfig) and self.policy.steps_left:
            raise ValueError(
                "policy.steps_left=true: method=gcivl learns a policy that is told no steps left, since its values "
                "estimate them: give policy.steps_left=false, or method=cloning"
            )


@dataclass(frozen=True, kw_only=True)
class CloneKeys(PolicyTraining, LoggerKeys):
    """The training of a policy, and its run."""

    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""


def train_policy(keys: CloneKeys, data: Any, model_folder: str, folder: Path, console: Console) -> str:
    """Train a policy into `folder`; returns its result in one line. It reads train, and val for the errors shown."""
    device, trainer = torch.device(resolve_device(keys.device)), replace(keys.trainer, seed=keys.seed)
    keep_freed_memory()
    dynamics, about = load_dynamics(model_folder, device)
    reader = open_reader(data, keys.on_damaged)
    check_actions(dynamics.actions, reader.info, "data")
    if reader.info.env_id != about["env"]:
        raise UsageError(f"the data holds {reader.info.env_id} and the model was trained on {about['env']}")
    reader = prepare_reader(reader, read_preprocessing(about, dynamics.encoder.config.image_px))
    torch.manual_seed(keys.seed)
    policy, extra, columns = make_policy(keys, dynamics, reader, console)
    sizes = keys.policy

    def read(source: Any, split: str) -> Any:
        shape = (dynamics.actions.frame_skip, sizes.blocks, sizes.history, keys.longest)
        return source(reader, split, *shape, columns, extra)

    model: GcivlModel | CloningModel
    if isinstance(keys.method, GcivlConfig):
        model = GcivlModel(keys.method, policy).to(device)
        train = read(GoalTransitions, "train")
        loader = make_train_loader(train, trainer, device, prepare=GoalDraws(train, keys.method, keys.seed))
    else:
        model = CloningModel(policy).to(device)
        train = read(GoalPairs, "train")
        loader = make_train_loader(train, trainer, device)
    console.say(f"training on {train.describe()}")
    monitor = CloningMonitor(policy, read(GoalPairs, "val"), device)
    output = StageOutput("clone", folder, console, keys.logger)
    with output.open_tracker() as tracker:
        last = train_stage(model, loader, trainer, output, tracker, monitor)
    feature_dim = dynamics.encoder.pooled_dim
    kept = ("env", "env_kwargs", "preprocessing")
    record = {key: about[key] for key in kept if key in about} | {"model": model_folder, "data": reader.file_checksum}
    features = hash_features(dynamics) if keys.source == "features" else None
    save_policy(folder / MODEL, policy, feature_dim, features, record | {"method": keys.method.name})
    error = f"error of the recorded actions over that of their mean: {last['over_mean']:.3f} on val"
    if "value_rank" not in last:
        return error
    return f"{error}, rank correlation of values {last['value_rank']:.3f}"


def make_policy(
    keys: PolicyTraining, dynamics: LatentDynamics, reader: Any, console: Console
) -> tuple[GoalPolicy, dict[str, np.ndarray], tuple[str, ...]]:
    """A new policy, with a value where its method has one; the arrays over all frames, and the columns of the file,
    that it is trained on."""
    if keys.source == "features":
        rows = np.concatenate([list_split_rows(reader, split) for split in SPLITS_READ])
        features = np.zeros((reader.total_frames, dynamics.encoder.pooled_dim), np.float32)
        features[rows] = view_frames(dynamics, "pooled", reader, rows, console).cpu().numpy()
        return _make_networks(keys, dynamics), {"features": features}, ()
    if isinstance(dynamics.encoder.config, TimmSizes):
        raise UsageError(
            "source=pixels trains an encoder of the model's sizes, and this one is timm's: source=features"
        )
    return _make_networks(keys, dynamics), {}, ("pixels",)


def make_random_policy(keys: PolicyTraining, dynamics: LatentDynamics) -> tuple[GcivlModel | CloningModel, Batch]:
    """A new policy in its training model, and a batch of empty data for it, to count operations."""
    policy, size, seen = _make_networks(keys, dynamics), keys.trainer.batch_size, keys.policy.history
    frames = seen + (3 if isinstance(keys.method, GcivlConfig) else 1)  # behind what is seen: of transitions, or a goal
    batch: Batch = {
        "valid": torch.ones(size, frames - (2 if isinstance(keys.method, GcivlConfig) else 1), dtype=torch.bool),
        "action": torch.zeros(size, keys.policy.blocks, dynamics.spec.block_dim),
        "recorded": torch.ones(size, keys.policy.blocks, dtype=torch.bool),
    }
    if keys.source == "features":
        batch["features"] = torch.zeros(size, frames, dynamics.encoder.pooled_dim)
    else:
        batch["pixels"] = torch.zeros(size, frames, *dynamics.encoder.config.image_px, 3, dtype=torch.uint8)
    if isinstance(keys.method, GcivlConfig):
        return GcivlModel(keys.method, policy), batch | {"reached": torch.zeros(size, dtype=torch.bool)}
    return CloningModel(policy), batch | {"steps": torch.ones(size, dtype=torch.long)}


def _make_networks(keys: PolicyTraining, dynamics: LatentDynamics) -> GoalPolicy:
    """A policy, and its value where its method has one; from pixels with an encoder for each."""

    def make_encoder() -> VideoEncoder | None:
        if keys.source == "features":
            return None
        encoder = VideoEncoder(dynamics.encoder.config)
        encoder.set_pixel_statistics(dynamics.encoder.pixel_mean, dynamics.encoder.pixel_std)
        return encoder

    encoder, size, value = make_encoder(), dynamics.encoder.pooled_dim, None
    if isinstance(keys.method, GcivlConfig):
        sizes = ValueConfig(keys.method.width, keys.method.depth, keys.method.discount)
        value = GoalValue(sizes, keys.policy.history, size, make_encoder())
    return GoalPolicy(keys.policy, size, dynamics.actions, encoder, value)


class GoalDraws:
    """Draws the goals of batches of transitions, and reads them: `prepare` of the loader."""

    def __init__(self, transitions: GoalTransitions, config: GcivlConfig, seed: int) -> None:
        self.transitions, self.config, self.seed = transitions, config, seed

    def __call__(self, batch: Batch, step: int) -> Batch:
        """The batch with goal frames behind its frames, and `reached`, as of `world_model.training.gcivl`."""
        transition_B, after_B = batch.pop("transition"), batch.pop("after")
        goals = draw_goal_frames(self.config, transition_B, after_B, len(self.transitions), self.seed, step)
        numbers = torch.stack([goal.transition_B for goal in goals], 1).numpy()
        steps = torch.stack([goal.steps_B for goal in goals], 1).numpy()
        for name, frames in self.transitions.read_frames(numbers, steps).items():
            batch[name] = torch.cat((batch[name], torch.from_numpy(frames)), 1)
        return batch | {"reached": goals[0].find_reached(transition_B)}


class CloningMonitor:
    """Error of a policy on pairs of `val`, beside that of the mean action; and how well its value, if it has one, ranks
    the model steps left."""

    def __init__(self, policy: GoalPolicy, pairs: GoalPairs, device: torch.device) -> None:
        self.policy = policy
        loader = Loader(pairs, min(ERROR_PAIRS if not pairs.columns else ERROR_PAIRS // 8, len(pairs)), seed=0)
        self.batch = {name: value.to(device) for name, value in loader.read_batch(0).items()}
        actions_NA = policy.normalise_actions(self.batch["action"])[self.batch["recorded"]]
        self.spread = float(actions_NA.var(0, correction=0).mean().clamp_min(1e-12))

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """The squared error with a whole history, its ratio to that of the mean action, and Spearman's rank correlation
        of minus the value and the steps left."""
        self.policy.eval()
        error = float(measure_error(self.policy, self.batch, self.policy.config.history))
        measures = {"error": error, "over_mean": error / self.spread}
        if (value := self.policy.value) is None:
            return measures
        features = value.embed(read_frames(self.batch))
        estimate_B = value(features[:, :-1], self.batch["valid"], features[:, -1]).mean(0)
        return measures | {"value_rank": rank_correlation(-estimate_B, self.batch["steps"].float())}

    def find_warning(self, evaluations: list[dict[str, float]]) -> None:
        """Recorded actions are fixed targets: nothing can collapse."""
