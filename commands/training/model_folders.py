"""Model folders: what stages 1 and 2 leave behind and what the later commands load.

An encoder folder and a dynamics folder hold model.json and model.safetensors (world_model.training.checkpoint). The
dynamics folder contains its encoder, so that a model is one folder.
"""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

import envs
from commands.config.schema import build
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from data.schema import StoreInfo
from world_model.dynamics import ActionSpec, DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.interop.pretrained import load_pretrained
from world_model.interop.timm_encoder import TimmSizes, make_encoder, make_timm_encoder
from world_model.objectives.families import ObjectiveConfig
from world_model.objectives.masked import Masked, PixelTargets
from world_model.objectives.objective import PretrainModel
from world_model.predictor import ActionPredictor, MaskedPredictor
from world_model.training.checkpoint import (
    CheckpointError,
    load_model_folder,
    load_tensors,
    load_weights,
    make_config_dict,
    read_model_kind,
    save_model,
)
from world_model.training.loop import Checkpoints

MODEL = "model"
MODULES_VARIABLE = "JEPA_MODULES"  # modules with commas that a data file's environment may import
TRUSTED_MODULES = ("gymnasium_robotics", "ogbench")


def save_encoder(folder: Path, encoder: VideoEncoder, about: dict[str, Any]) -> None:
    """Write an encoder folder; `about` is kept beside the sizes (objective, environment)."""
    save_model(folder, encoder, "encoder", {"encoder": make_config_dict(encoder.config), "about": about})


@dataclass(frozen=True)
class ModelParts:
    """The networks of a model that other programs can read. online_encoder: the one that the saved EMA teacher follows,
    None where there is no teacher or only the teacher was saved. summary: what was found, as one line."""

    encoder: VideoEncoder
    predictor: MaskedPredictor | ActionPredictor | None
    online_encoder: VideoEncoder | None
    summary: str


def load_parts(model: str | Path) -> ModelParts:
    """Encoder, and where there are any its student and predictor, of a run folder or of weights made elsewhere (a `.pt`
    file, a Hugging Face directory)."""
    path = Path(model)
    if path.is_file() or (path / "config.json").exists() and (path / "model.safetensors").exists():
        found = load_pretrained(path)
        return ModelParts(found.encoder, found.predictor, None, found.summary)
    encoder, about = load_encoder(path)
    checkpoints = Checkpoints(path / "checkpoints").list_paths()
    alone = ModelParts(encoder, None, None, "the encoder alone")
    if read_model_kind(find_model_folder(path)) != "encoder" or not checkpoints:
        return alone
    trained = PretrainModel(copy.deepcopy(encoder), build(ObjectiveConfig, about["objective"]), 1)
    objective = trained.objective
    if not isinstance(objective, Masked) or isinstance(objective.config.targets, PixelTargets):
        return alone
    tensors, _ = load_tensors(checkpoints[-1], "model/")
    load_weights(trained, tensors, str(checkpoints[-1]))
    student = trained.encoder if objective.teacher is not None else None
    if encoder.config.levels:
        return ModelParts(encoder, None, student, "the encoder; its predictor, of several levels, is left out")
    return ModelParts(encoder, objective.predictor, student, "the encoder with its masked predictor")


def build_encoder_config(mapping: dict[str, Any]) -> EncoderConfig:
    """Sizes of an encoder as a model folder holds them: of ours, or of a timm model."""
    return build(TimmSizes if "timm" in mapping else EncoderConfig, mapping)


def load_encoder(folder: str | Path) -> tuple[VideoEncoder, dict[str, Any]]:
    """The frozen encoder of a run folder of `jepa pretrain` (or of its model folder), and what is known about
    it. That of latent dynamics, where the folder holds those (an objective with actions)."""
    if read_model_kind(find_model_folder(folder)) == "dynamics":
        dynamics, about = load_dynamics(folder)
        return dynamics.encoder, about
    config, tensors = load_model_folder(find_model_folder(folder), "encoder")
    encoder = make_encoder(build_encoder_config(config["encoder"]))
    load_weights(encoder, tensors, str(folder))
    return encoder.eval(), config["about"]


@dataclass(frozen=True)
class PretrainedConfig:
    """What a file of official weights may not say."""

    key: str | None = None
    """encoder in the file: target_encoder, ema_encoder or encoder; null: the first of these it has"""
    image_px: int | None = None
    """side of the pictures it was trained on, pixels; null: 256"""
    heads: int | None = None
    """attention heads; null: those published for its width"""


@dataclass(frozen=True)
class TimmConfig:
    """A vision transformer of timm."""

    model: str = "vit_small_patch14_dinov2.lvd142m"
    """name of the model"""
    weights: str = "hub"
    """hub, random, or a local file"""
    image_px: int = 224
    """side of the pictures it sees, pixels; frames of another size are resized"""


class EncoderSource(Protocol):
    """The keys that say where a frozen encoder comes from."""

    @property
    def path(self) -> str | None: ...
    @property
    def pretrained(self) -> PretrainedConfig: ...
    @property
    def timm(self) -> TimmConfig: ...


def load_frozen_encoder(
    keys: EncoderSource, encoder: str | Path, frame_hw: tuple[int, int], console: Console
) -> tuple[VideoEncoder, dict[str, Any]]:
    """The encoder of stage 2: of a run folder, or made elsewhere (`encoder=pretrained`, `encoder=timm`), where frames
    of `frame_hw` are resized to what it was trained on."""
    if encoder == "pretrained":
        if keys.path is None:
            raise UsageError("encoder=pretrained needs path=: a .pt file, or a Hugging Face VJEPA2 directory")
        options = keys.pretrained
        found = load_pretrained(Path(keys.path), options.key, options.image_px, options.heads)
        console.say(found.summary)
        return set_frame_size(found.encoder, frame_hw), {"pretrained": keys.path}
    if encoder == "timm":
        timm = keys.timm
        made = make_timm_encoder(timm.model, timm.weights, (timm.image_px, timm.image_px))
        return set_frame_size(made, frame_hw), {"timm": timm.model, "weights": timm.weights}
    trained, about = load_encoder(encoder)
    if trained.frame_hw != frame_hw:
        console.say(
            f"frames of {format_size(frame_hw)} are resized to the encoder's {format_size(trained.config.image_px)}"
        )
    return set_frame_size(trained, frame_hw), about


def format_size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]} pixels"


def set_frame_size(encoder: VideoEncoder, frame_hw: tuple[int, int]) -> VideoEncoder:
    """The encoder, made to take frames of this size, which need not be the one it was trained on."""
    encoder.frame_px = None if frame_hw == encoder.config.image_px else frame_hw
    return encoder.eval()


def save_dynamics(folder: Path, dynamics: LatentDynamics, about: dict[str, Any]) -> None:
    """Write a dynamics folder, encoder included."""
    save_model(
        folder,
        dynamics,
        "dynamics",
        {
            "encoder": make_config_dict(dynamics.encoder.config),
            "frame_px": dynamics.encoder.frame_px,
            "dynamics": make_config_dict(dynamics.config),
            "actions": make_config_dict(dynamics.actions),
            "about": about,
        },
    )


def load_dynamics(folder: str | Path, device: str | torch.device = "cpu") -> tuple[LatentDynamics, dict[str, Any]]:
    """The latent dynamics of a run folder of `jepa posttrain` (or of its model folder), ready to plan
    with."""
    if read_model_kind(find_model_folder(folder)) == "encoder":
        raise CheckpointError(
            f"{folder} holds an encoder, a 'dynamics' model is needed here: jepa posttrain encoder={folder} makes one"
        )
    config, tensors = load_model_folder(find_model_folder(folder), "dynamics")
    dynamics = LatentDynamics(
        build(DynamicsConfig, config["dynamics"]),
        make_encoder(
            build_encoder_config(config["encoder"]), tuple(config["frame_px"]) if config["frame_px"] else None
        ),
        build(ActionSpec, config["actions"]),
    )
    load_weights(dynamics, tensors, str(folder))
    return dynamics.to(device).eval(), config["about"]


def find_model_folder(folder: str | Path) -> Path:
    """The folder with model.json: the one given, or its subfolder `model`."""
    path = Path(folder)
    if path.is_file():
        raise CheckpointError(f"{path} is a file; weights made elsewhere are read with encoder=pretrained path={path}")
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give a run folder of jepa pretrain or jepa posttrain")
    inside = path / MODEL
    if not (path / "model.json").exists() and not inside.exists() and (path / "config.json").exists():
        raise CheckpointError(f"{path} is not finished: run its command again to complete it")
    return inside if inside.exists() else path


def find_frame_skip(info: StoreInfo) -> int:
    """Environment steps in a model step: the task's own; where no task of that name is known here, one row of the
    file (recorded elsewhere, it has the rate it was imported at)."""
    task = envs.find_task(info.env_id)
    return 1 if task is None else task.frame_skip


def check_frames(wanted: tuple[int, int], info: StoreInfo, source: str) -> None:
    """The data's frames must have the height and width that the encoder takes."""
    found = tuple(info.frame_hwc[:2])
    if wanted != found:
        raise UsageError(
            f"{source} has frames of {found[0]}x{found[1]} pixels and the model needs "
            f"{wanted[0]}x{wanted[1]}: collect with env.kwargs.size={wanted[0]}, or train on this file"
        )


def check_actions(actions: ActionSpec, info: StoreInfo, source: str) -> None:
    """The data's actions must be those the model was trained on."""
    if len(actions.low) != info.action_size:
        raise UsageError(
            f"{source} has actions of size {info.action_size} and the model was trained with "
            f"{len(actions.low)}: give data of the environment the model knows"
        )


def open_reader(data: Any, on_damaged: str = "error") -> Any:
    """Open trajectory files given as a path, a list of paths, a glob, or a run folder of `jepa collect`.

    UsageError where one names an environment of a module that would be imported (gym/MODULE:ID) and is not trusted.
    """
    from commands.transfer.collection import FILE
    from data.schema import StoreError
    from data.store import Reader

    paths = [data] if isinstance(data, str) else list(data)
    full = [str(Path(path) / FILE) if Path(path).is_dir() else str(path) for path in paths]
    try:
        reader = Reader(full if len(full) > 1 else full[0], on_damaged=on_damaged)
    except StoreError as error:
        raise RunError(str(error)) from error
    check_trusted_module(reader.info.env_id)
    return reader


def check_trusted_module(env_id: str) -> None:
    """UsageError if a file's environment lies in a module that nobody has named but the file."""
    module = env_id.removeprefix(envs.GYM).rpartition(":")[0]
    trusted = (*TRUSTED_MODULES, *os.environ.get(MODULES_VARIABLE, "").split(","))
    if env_id.startswith(envs.GYM) and module and module not in trusted and module not in sys.modules:
        raise UsageError(
            f"the data's environment {env_id} is in the module {module}, which would be imported and run: if you trust "
            f"it, set {MODULES_VARIABLE}={module}"
        )
