"""The world model under test: a run folder of `jepa posttrain`, or a class of other people (`model=MODULE:CLASS`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands.config.modules import is_target, load_class, require_members
from commands.shared.devices import resolve_device
from commands.shared.errors import UsageError
from commands.training.model_folders import check_actions, find_model_folder, load_dynamics, read_preprocessing
from data.pictures import Preprocessing
from data.schema import StoreInfo
from planners.protocol import Dynamics, DynamicsSpec
from world_model.dynamics import LatentDynamics
from world_model.training.loop import compile_blocks

MEMBERS = ("spec", "observe", "encode_goal", "imagine")  # of `planners.protocol.Dynamics`


def is_module_model(model: str) -> bool:
    """Whether this is MODULE:CLASS; a folder of that name wins."""
    return is_target(model) and not Path(model).exists()


def check_model(model: str, options: Mapping[str, Any]) -> None:
    """Refuse a model that is not there, before a run folder is made."""
    if is_module_model(model):
        load_class(f"model={model}", model)
        return
    if options:
        raise UsageError(f"model_options={dict(options)} are of model=MODULE:CLASS, and model={model} is a folder")
    find_model_folder(model)


def load_model(
    model: str, options: Mapping[str, Any], info: StoreInfo, device: str
) -> tuple[Dynamics, dict[str, Any], Preprocessing]:
    """The world model, the record of its training (`env`, `env_kwargs`, ...), and the preprocessing of its pictures.

    info: of the data file whose starts and goals are planned. Raises UsageError where model and data do not fit.
    """
    if is_module_model(model):
        return _make_module_model(model, options, info)
    dynamics, source = load_dynamics(model, resolve_device(device))
    check_actions(dynamics.actions, info, "data")
    if info.env_id != source["env"]:
        raise UsageError(f"the data holds {info.env_id} and the model was trained on {source['env']}")
    return dynamics, source, read_preprocessing(source, dynamics.encoder.config.image_px)


def compile_model(model: str, dynamics: Dynamics) -> None:
    """Compile the transformer of a model of `jepa posttrain` (planner.compile=true)."""
    if not isinstance(dynamics, LatentDynamics):
        raise UsageError(f"planner.compile=true is for models of jepa posttrain: model={model} compiles itself")
    compile_blocks(dynamics)


def _make_module_model(
    model: str, options: Mapping[str, Any], info: StoreInfo
) -> tuple[Dynamics, dict[str, Any], Preprocessing]:
    """The same of a class. It is called with `options`; pictures are brought to its size."""
    where = f"model={model}"
    cls = load_class(where, model)
    try:
        dynamics = cls(**options)
    except TypeError as error:
        raise UsageError(f"{where} model_options={dict(options)}: {error}") from error
    require_members(where, dynamics, MEMBERS, "world model")
    spec = dynamics.spec
    if not isinstance(spec, DynamicsSpec):
        raise UsageError(f"{where}: its spec is {type(spec).__name__}; make it a planners.DynamicsSpec")
    if spec.action_dim != info.action_size:
        raise UsageError(
            f"{where}: its spec bounds {len(spec.action_low)} numbers with frame_skip={spec.frame_skip}, which is "
            f"{spec.action_dim} an environment step, and the data has actions of size {info.action_size}"
        )
    source = {"env": info.env_id, "env_kwargs": info.env_kwargs, "options": dict(options)}
    return dynamics, source, Preprocessing(spec.frame_hw)
