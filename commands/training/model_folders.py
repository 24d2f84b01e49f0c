"""Model folders: written by stages 1 and 2, read by the later commands.

A folder holds model.json and model.safetensors (world_model.training.checkpoint): an encoder, or latent dynamics with
their encoder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import torch
from torch import Tensor

from commands.config.schema import build
from commands.shared.errors import UsageError
from commands.shared.hub import resolve_model
from data.checks import FileError, parse_fields
from data.checks import read_json as read_object
from data.pictures import Preprocessing
from world_model.actions import ActionSpec
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.generative.latent_flow import FlowTransformerConfig
from world_model.generative.world_model import WorldModel, WorldModelConfig
from world_model.interop.huggingface import holds_weights
from world_model.interop.lewm_weights import holds_lewm
from world_model.interop.pretrained import load_pretrained
from world_model.interop.timm_encoder import TimmSizes, make_encoder
from world_model.masked_predictor import MaskedPredictor
from world_model.objectives.families import ObjectiveConfig, Stage1Config
from world_model.objectives.masked import Masked, PixelTargets
from world_model.objectives.pretrain_model import PretrainModel
from world_model.predictor import ActionPredictor
from world_model.training.checkpoint import (
    CheckpointError,
    check_weights,
    load_model_folder,
    load_tensors,
    load_weights,
    make_config_dict,
    read_model_kind,
    save_model,
)
from world_model.training.loop import Checkpoints

Network = TypeVar("Network", bound=torch.nn.Module)
MODEL = "model"
WORLD_MODEL = "world_model"  # kind of a model folder


def save_encoder(folder: Path, encoder: VideoEncoder, about: dict[str, Any]) -> None:
    """Write an encoder folder. about: its training (objective, environment, data, preprocessing), for model.json."""
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
    """The networks of a run folder, or of weights made elsewhere (a `.pt` file, a Hugging Face directory), here or on
    the Hugging Face hub."""
    path = resolve_model(model)
    if path.is_file() or holds_weights(path):
        pretrained = load_pretrained(path)
        return ModelParts(pretrained.encoder, pretrained.predictor, None, pretrained.summary)
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
    online = trained.encoder if objective.teacher is not None else None
    if encoder.config.levels:
        return ModelParts(encoder, None, online, "the encoder; its predictor, of several levels, is left out")
    return ModelParts(encoder, objective.predictor, online, "the encoder with its masked predictor")


class EncoderDescription(pydantic.BaseModel):
    """`config` in the model.json of an encoder."""

    encoder: dict[str, Any]
    about: dict[str, Any]


class DynamicsDescription(EncoderDescription):
    """`config` in the model.json of latent dynamics."""

    frame_px: tuple[pydantic.PositiveInt, pydantic.PositiveInt] | None = None
    dynamics: dict[str, Any]
    actions: dict[str, Any]


class WorldModelDescription(pydantic.BaseModel):
    """`config` in the model.json of a world model that is trained in one stage."""

    objective: dict[str, Any]
    image_px: tuple[pydantic.PositiveInt, pydantic.PositiveInt]
    actions: dict[str, Any]
    about: dict[str, Any]


class ModelDescription(pydantic.BaseModel):
    """model.json."""

    config: EncoderDescription | WorldModelDescription


def build_described(hint: Any, mapping: dict[str, Any], source: Path, where: str) -> Any:
    """The dataclass of a part of model.json; CheckpointError names file, key and value."""
    try:
        return build(hint, mapping, f"{source} {where}")
    except UsageError as error:
        raise CheckpointError(f"{error}; train the model again, or restore the file") from error


def build_encoder_config(mapping: dict[str, Any], tensors: dict[str, Tensor], source: Path, stem: str) -> EncoderConfig:
    """The sizes of an encoder in model.json, of ours or of a timm model, compared with the weights."""
    if "timm" in mapping:
        return build_described(TimmSizes, mapping, source, "encoder")
    config: EncoderConfig = build_described(EncoderConfig, mapping, source, "encoder")
    check_blocks(config.depth, config.width, tensors, f"{stem}blocks.", f"{source} encoder")
    return config


def check_blocks(depth: int, width: int, tensors: dict[str, Tensor], stem: str, where: str) -> None:
    """Raise CheckpointError unless the weights have so many blocks, so wide: before a model of that size is built."""
    blocks = len({name.removeprefix(stem).partition(".")[0] for name in tensors if name.startswith(stem)})
    norm = tensors.get(f"{stem}0.norm1.bias")
    if depth != blocks or norm is not None and norm.numel() != width:
        wide = f" of width {norm.numel()}" if norm is not None else ""
        raise CheckpointError(
            f"{where} has depth={depth} width={width} and does not fit its weights: {blocks} blocks{wide}"
        )


def build_loaded(make: Callable[[], Network], tensors: dict[str, Tensor], source: str) -> Network:
    """A network with these weights. They are compared with one that takes no memory first: sizes may be absurd."""
    with torch.device("meta"):
        check_weights(make(), tensors, source)
    network = make()
    load_weights(network, tensors, source)
    return network


def load_encoder(folder: str | Path) -> tuple[VideoEncoder, dict[str, Any]]:
    """The frozen encoder of a run folder, its model folder, or a model of the Hugging Face hub (`owner/name`), and the
    record of its training. Latent dynamics give theirs."""
    path = find_model_folder(folder)
    if read_model_kind(path) == "dynamics":
        dynamics, about = load_dynamics(folder)
        return dynamics.encoder, about
    check_has_encoder(path, folder)
    config, tensors = load_model_folder(path, "encoder")
    source = path / "model.json"
    described = parse_fields(EncoderDescription, config, f"{source} config")
    sizes = build_encoder_config(described.encoder, tensors, source, "")
    encoder = build_loaded(lambda: make_encoder(sizes), tensors, str(folder))
    return encoder.eval(), described.about


def save_dynamics(folder: Path, dynamics: LatentDynamics, about: dict[str, Any]) -> None:
    """Write a dynamics folder, encoder included; about: as for `save_encoder`."""
    config = {
        "encoder": make_config_dict(dynamics.encoder.config),
        "dynamics": make_config_dict(dynamics.config),
        "actions": make_config_dict(dynamics.actions),
        "about": about,
    }
    save_model(folder, dynamics, "dynamics", config)


def load_dynamics(folder: str | Path, device: str | torch.device = "cpu") -> tuple[LatentDynamics, dict[str, Any]]:
    """The latent dynamics of a run folder of `jepa posttrain`, its model folder, or a model of the Hugging Face hub
    (`owner/name`), and the record of their training."""
    path = find_model_folder(folder)
    if read_model_kind(path) == "encoder":
        raise CheckpointError(
            f"{folder} holds an encoder, a 'dynamics' model is needed here: jepa posttrain encoder={folder} makes one"
        )
    check_has_encoder(path, folder)
    config, tensors = load_model_folder(path, "dynamics")
    source = path / "model.json"
    described = parse_fields(DynamicsDescription, config, f"{source} config")
    about = described.about
    if described.frame_px:  # a folder from before preprocessing was stated: frames of another size were squeezed
        about = {**about, "preprocessing": {"size_hw": described.encoder["image_px"], "crop": "whole"}}
    sizes = build_described(DynamicsConfig, described.dynamics, source, "dynamics")
    predictor = sizes.predictor
    stem = "flow.blocks." if isinstance(sizes.flow, FlowTransformerConfig) else "predictor.predictor_blocks."
    check_blocks(predictor.depth, predictor.width, tensors, stem, f"{source} dynamics.predictor")
    actions = build_described(ActionSpec, described.actions, source, "actions")
    block, middle = actions.block_dim, tensors.get("action_mid")
    if middle is not None and middle.numel() != block:  # before a block of that size is built
        raise CheckpointError(
            f"{source} actions has {len(actions.low)} numbers and frame_skip={actions.frame_skip}, and does not fit "
            f"its weights: {middle.numel()} numbers an action block"
        )
    encoder_sizes = build_encoder_config(described.encoder, tensors, source, "encoder.")
    dynamics = build_loaded(lambda: LatentDynamics(sizes, make_encoder(encoder_sizes), actions), tensors, str(folder))
    return dynamics.to(device).eval(), about


def check_has_encoder(path: Path, folder: str | Path) -> None:
    """Raise CheckpointError for a world model of one stage, whose encoder no other model can use."""
    if read_model_kind(path) == WORLD_MODEL:
        raise CheckpointError(f"{folder} holds a world model of one stage, which jepa plan model= alone reads")


def save_world_model(folder: Path, model: WorldModel, about: dict[str, Any]) -> None:
    """Write the folder of a world model that is trained in one stage; about: as for `save_encoder`."""
    config = {
        "objective": make_config_dict(model.config),
        "image_px": list(model.image_px),
        "actions": make_config_dict(model.actions),
        "about": about,
    }
    save_model(folder, model, WORLD_MODEL, config)


def load_world_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[WorldModel, dict[str, Any]]:
    """The world model of a run folder of `jepa pretrain objective=dreamerv3`, and the record of its training."""
    path = find_model_folder(folder)
    config, tensors = load_model_folder(path, WORLD_MODEL)
    source = path / "model.json"
    described = parse_fields(WorldModelDescription, config, f"{source} config")
    sizes: WorldModelConfig = build_described(Stage1Config, described.objective, source, "objective")
    actions = build_described(ActionSpec, described.actions, source, "actions")
    model = build_loaded(lambda: sizes.make_world_model(described.image_px, actions), tensors, str(folder))
    return model.to(device).eval(), described.about


def load_planned(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[LatentDynamics | WorldModel, dict[str, Any]]:
    """What a planner plans with, of either kind: latent dynamics, or a world model of one stage."""
    load = load_world_model if read_model_kind(find_model_folder(folder)) == WORLD_MODEL else load_dynamics
    return load(folder, device)


def find_model_folder(folder: str | Path) -> Path:
    """The folder with model.json: the one given, its subfolder `model`, or that of a model of the Hugging Face hub
    (`owner/name`), which is downloaded where needed."""
    path = resolve_model(folder)
    described = (path / "model.json").exists()
    if not described and holds_lewm(path):
        raise CheckpointError(f"{folder} holds LeWorldModel's released weights, which jepa plan model= alone reads")
    if path.is_file() or holds_weights(path) and not described:
        what = "is a file" if path.is_file() else "holds no model.json"
        raise CheckpointError(f"{folder} {what}; weights made elsewhere are read with encoder=pretrained path={folder}")
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give a run folder of jepa pretrain or jepa posttrain")
    inside = path / MODEL
    if not described and not inside.exists() and (path / "config.json").exists():
        raise CheckpointError(f"{path} is not finished: run its command again to complete it")
    return inside if inside.exists() else path


def read_environment(folder: str | Path) -> str | None:
    """The environment that a model was trained in, from its model.json alone; None where that has none or cannot be
    read, which loading the model explains."""
    source = find_model_folder(folder) / "model.json"
    try:
        described = parse_fields(ModelDescription, read_object(source), source)
    except (OSError, FileError):
        return None
    env = described.config.about.get("env")
    return env if isinstance(env, str) else None


def read_preprocessing(about: dict[str, Any], image_px: tuple[int, int]) -> Preprocessing:
    """The preprocessing that a model folder states; that of an unknown camera where it states none."""
    if "preprocessing" not in about:
        return Preprocessing(image_px)
    stated = build(Preprocessing, about["preprocessing"], "about.preprocessing")
    if stated.size_hw != image_px or stated.stored_hw is not None and min(stated.stored_hw) < 1:
        raise CheckpointError(
            f"model.json states about.preprocessing={about['preprocessing']} and its encoder takes frames of "
            f"{image_px[0]}x{image_px[1]} pixels: train it again"
        )
    return stated
