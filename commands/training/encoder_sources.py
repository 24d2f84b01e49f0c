"""Where the frozen encoder of stage 2 comes from: a run of this program, official weights, or timm."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from commands.config.keys import RunKeys
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.shared.hub import resolve_model
from commands.training.model_folders import load_encoder, read_preprocessing
from data.pictures import Preprocessing
from data.schema import StoreInfo
from world_model.dynamics import LatentDynamics
from world_model.encoder import VideoEncoder
from world_model.interop.pretrained import load_pretrained
from world_model.interop.timm_encoder import make_timm_encoder
from world_model.objectives.autoencoder import AutoencoderConfig
from world_model.predictor import ActionPredictor
from world_model.training.checkpoint import load_weights

SIZE_KEYS = ("width", "depth", "heads", "mlp_ratio", "rope")  # of a released predictor, under dynamics.predictor


@dataclass(frozen=True)
class PretrainedConfig:
    """Facts that a file of official weights may lack."""

    key: str | None = None
    """encoder in the file: target_encoder, ema_encoder or encoder; null: the first of these it has"""
    image_px: Annotated[int, Ge(1)] | None = None
    """side of the pictures it was trained on, pixels; null: 256"""
    heads: Annotated[int, Ge(1)] | None = None
    """attention heads; null: those published for its width"""
    predictor: bool = False
    """whether the dynamics begin with the file's action-conditioned predictor (V-JEPA 2-AC)"""


@dataclass(frozen=True)
class TimmConfig:
    """A vision transformer of timm."""

    model: str = "vit_small_patch14_dinov2.lvd142m"
    """name of the model"""
    weights: str = "hub"
    """hub, random, or a local file"""
    image_px: Annotated[int, Ge(1)] = 224
    """side of the pictures it sees, pixels; frames of another size are resized"""


@dataclass(frozen=True, kw_only=True)
class EncoderSourceKeys(RunKeys):
    """Where a frozen encoder comes from that was trained elsewhere."""

    path: str | None = None
    """encoder=pretrained: .pt file of V-JEPA 2, 2-AC or 2.1, Hugging Face VJEPA2 directory, or owner/name on the hub"""
    pretrained: PretrainedConfig = field(default_factory=PretrainedConfig)
    """facts that such a file may lack"""
    timm: TimmConfig = field(default_factory=TimmConfig)
    """encoder=timm: a vision transformer of timm"""


def check_encoder(keys: EncoderSourceKeys, encoder: str) -> None:
    """Raise UsageError for a model of the Hugging Face hub that is not there, or weights of another kind; download a
    model that is there."""
    if encoder == "pretrained":
        find_weights(keys)
    elif encoder != "timm":
        resolve_model(encoder)


def find_weights(keys: EncoderSourceKeys) -> Path:
    """The file or directory of `path=`; UsageError where it is not given or holds a model of this project."""
    if keys.path is None:
        raise UsageError(
            "encoder=pretrained needs path=: a .pt file, a Hugging Face VJEPA2 directory, or owner/name on the hub"
        )
    path = resolve_model(keys.path)
    if (path / "model.json").exists():
        raise UsageError(f"path={keys.path} is a model of this program: give encoder={keys.path}")
    return path


@dataclass(frozen=True)
class FrozenEncoder:
    """The encoder of stage 2, the record of its training, and the action-conditioned predictor to begin with, where one
    was asked for."""

    encoder: VideoEncoder
    about: dict[str, Any]
    predictor: ActionPredictor | None = None


def load_frozen_encoder(keys: EncoderSourceKeys, encoder: str | Path, console: Console) -> FrozenEncoder:
    """The encoder of stage 2. encoder: a run folder, a model of the hub, `pretrained` or `timm`."""
    options, predictor = keys.pretrained, None
    if options.predictor and encoder != "pretrained":
        raise UsageError(f"pretrained.predictor=true is of encoder=pretrained, and encoder={encoder}")
    if encoder == "pretrained":
        pretrained = load_pretrained(find_weights(keys), options.key, options.image_px, options.heads)
        console.say(pretrained.summary)
        model, about = pretrained.encoder, {"pretrained": keys.path}
        if options.predictor:
            if not isinstance(pretrained.predictor, ActionPredictor):
                raise UsageError(f"pretrained.predictor=true: {keys.path} has no action-conditioned predictor")
            predictor, about = pretrained.predictor, {**about, "predictor": keys.path}
    elif encoder == "timm":
        timm = keys.timm
        model = make_timm_encoder(timm.model, timm.weights, (timm.image_px, timm.image_px))
        about = {"timm": timm.model, "weights": timm.weights}
    else:
        model, about = load_encoder(encoder)
    return FrozenEncoder(model.eval(), about, predictor)


def check_autoencoder(frozen: FrozenEncoder, info: StoreInfo, preprocessing: Preprocessing, where: str) -> None:
    """Raise UsageError for an autoencoder of other frames than the data's: of another environment, size or crop. Its
    latents hold what it has learned to draw, which other encoders' features need not. One of plain video may have any.
    """
    about = frozen.about
    family, env = about.get("objective", {}).get("family"), about.get("env")
    if family != AutoencoderConfig.family or env is None:
        return
    hint = f"{where} is an autoencoder: train one on this data (jepa pretrain objective=vae)"
    if env != info.env_id:
        raise UsageError(f"encoder={where} was trained on frames of {env}, and the data holds {info.env_id}; {hint}")
    if "preprocessing" not in about:
        return
    stated = read_preprocessing(about, frozen.encoder.config.image_px)
    trained, given = _describe_frames(stated), _describe_frames(preprocessing)
    if trained != given:
        raise UsageError(f"encoder={where} was trained on frames of {trained}, and the data holds {given}; {hint}")


def _describe_frames(preprocessing: Preprocessing) -> str:
    """Size and crop of stored frames."""
    height, width = preprocessing.stored_hw or preprocessing.size_hw
    return f"{height}x{width} pixels (crop={preprocessing.crop})"


def copy_predictor(source: ActionPredictor, dynamics: LatentDynamics, where: str) -> None:
    """Give dynamics the weights of a released predictor, which takes layer-normed tokens and raw inputs. UsageError
    names the keys that differ."""
    sizes = source.config
    wanted: dict[str, object] = {"dynamics.space": "tokens", "dynamics.outputs": "normed", "dynamics.inputs": "raw"}
    wanted["dynamics.proprio_model"] = "integrate" if "state" in source.input_sizes else "none"
    wanted |= {f"dynamics.predictor.{key}": getattr(sizes, key) for key in SIZE_KEYS}
    given = {key: reduce(getattr, key.split(".")[1:], dynamics.config) for key in wanted}
    if wrong := [f"{key}={value}" for key, value in wanted.items() if value != given[key]]:
        raise UsageError(f"pretrained.predictor=true: the predictor of {where} needs {' '.join(wrong)}")
    load_weights(dynamics.predictor, source.state_dict(), f"{where} (predictor)")
