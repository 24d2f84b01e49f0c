"""The world model under test: a run folder of `jepa posttrain`, LeWorldModel's released weights, or a class of other
people (`model=MODULE:CLASS`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commands.config.groups import PlannerKeys
from commands.config.modules import is_target, load_class, require_members
from commands.shared.devices import resolve_device
from commands.shared.errors import UsageError, join_names
from commands.shared.hub import resolve_model
from commands.training.model_folders import find_model_folder, load_planned, read_preprocessing
from commands.training.trajectory_files import check_actions, derive_preprocessing
from data.pictures import Preprocessing
from data.schema import StoreInfo
from planners.protocol import Dynamics, DynamicsSpec
from world_model.dynamics import LatentDynamics
from world_model.generative.diamond import Diamond
from world_model.generative.world_model import WorldModel
from world_model.interop.lewm import LeWorldModel
from world_model.interop.lewm_weights import holds_lewm, holds_pickles, load_lewm, read_released
from world_model.training.compilation import check_compiler, compile_blocks

MEMBERS = ("spec", "observe", "encode_goal", "imagine")  # of `planners.protocol.Dynamics`


def is_module_model(model: str) -> bool:
    """Whether this is MODULE:CLASS; a folder of that name wins."""
    return is_target(model) and not Path(model).exists()


def is_lewm_model(model: str) -> bool:
    """Whether this is a folder of LeWorldModel's released weights, or of pickles alone, which reading tells apart."""
    return not is_module_model(model) and (holds_lewm(path := resolve_model(model)) or holds_pickles(path))


def check_model(model: str, options: Mapping[str, Any]) -> None:
    """Refuse a model that is not there, before a run folder is made."""
    if is_module_model(model):
        load_class(f"model={model}", model)
        return
    if options:
        raise UsageError(f"model_options={dict(options)} are of model=MODULE:CLASS, and model={model} is a folder")
    if is_lewm_model(model):
        read_released(resolve_model(model))
    else:
        find_model_folder(model)


def load_model(
    model: str, options: Mapping[str, Any], info: StoreInfo, device: str
) -> tuple[Dynamics, dict[str, Any], Preprocessing]:
    """The world model, the record of its training (`env`, `env_kwargs`, ...), and the preprocessing of its pictures.

    info: of the data file whose starts and goals are planned. Raises UsageError where model and data do not fit.
    """
    if is_module_model(model):
        return _make_module_model(model, options, info)
    if is_lewm_model(model):
        return _load_released_lewm(model, info, device)
    dynamics, source = load_planned(model, resolve_device(device))
    check_actions(dynamics.actions, info, "data")
    if info.env_id != source["env"]:
        raise UsageError(f"the data holds {info.env_id} and the model was trained on {source['env']}")
    return dynamics, source, read_preprocessing(source, dynamics.spec.frame_hw)


def prepare_model(planner: PlannerKeys, dynamics: Dynamics, model: str = "") -> None:
    """Give a model what the planner's keys say of it: Euler steps per sample, compiled blocks. ValueError for a view
    that it does not offer."""
    check_view(planner.cost.view, dynamics, model)
    set_flow_steps(planner, dynamics, model)
    _prepare_compiling(planner, dynamics, model)


def check_view(view: str, dynamics: Dynamics, model: str = "") -> None:
    """Raise ValueError for a view that a model does not offer, with those that it does."""
    views = dynamics.spec.views
    if view in views:
        return
    reason = ""
    if view == "pixels" and isinstance(dynamics, LatentDynamics):
        reason = ", and has no decoder (jepa posttrain dynamics.decoder={} fits one)"
    if view == "state" and isinstance(dynamics, WorldModel):
        reason = ", and has no goal head (objective.goal_hidden=0)"
    raise ValueError(
        f"planner.cost.view={view}: {model or 'this model'} offers {join_names(views, len(views))}{reason}: give "
        f"planner.cost.view={views[0]}"
    )


def describe_view(view: str, dynamics: Dynamics) -> str | None:
    """What to know of a view that a model does not predict itself; None of any other."""
    if isinstance(dynamics, LatentDynamics) and dynamics.config.space == "tokens" and view == "pooled":
        return (
            "the model predicts patch tokens, and plans compare one embedding pooled from them; "
            "planner.cost.view=tokens compares the tokens"
        )
    return None


def set_flow_steps(planner: PlannerKeys, dynamics: Dynamics, model: str = "") -> None:
    """Give a model that draws its samples in Euler steps those of planner.flow_steps. UsageError for another model."""
    if planner.flow_steps is None:
        return
    if isinstance(dynamics, Diamond):
        dynamics.sampling_steps = planner.flow_steps
        return
    flow = dynamics.flow if isinstance(dynamics, LatentDynamics) else None
    if flow is None:
        raise UsageError(
            f"planner.flow_steps={planner.flow_steps} is for a model with dynamics.flow or of objective=diamond, and "
            f"{model or 'this one'} draws no samples: leave it out"
        )
    flow.steps = planner.flow_steps


def _prepare_compiling(planner: PlannerKeys, dynamics: Dynamics, model: str) -> None:
    """Compile the transformer of a model of `jepa posttrain`, or LeWorldModel's (planner.compile=true), and check what
    planner.compile_iteration=true needs. UsageError for models that cannot be compiled, ValueError where what compiling
    needs is missing."""
    if getattr(planner, "compile_iteration", False):
        if isinstance(dynamics, WorldModel) or isinstance(dynamics, LatentDynamics) and dynamics.flow is not None:
            raise UsageError(
                "planner.compile_iteration=true cannot compile the drawing of a model's noise: leave it out for a "
                "model with dynamics.flow and for a world model of one stage"
            )
        check_compiler(dynamics.spec.device)
    if not planner.compile:
        return
    if not isinstance(dynamics, (LatentDynamics, LeWorldModel)):
        raise UsageError(
            "planner.compile=true compiles the transformer of a model of jepa posttrain, or LeWorldModel's, and "
            f"{f'model={model}' if model else 'this model'} is neither: leave it out"
        )
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


def _load_released_lewm(model: str, info: StoreInfo, device: str) -> tuple[LeWorldModel, dict[str, Any], Preprocessing]:
    """The same of LeWorldModel's weights, which do not say what they were trained in: any data with actions of a
    fitting size. Its actions still need the data's statistics (`fit_actions`)."""
    dynamics = load_lewm(resolve_model(model), info.action_low, info.action_high).to(resolve_device(device))
    source = {"env": info.env_id, "env_kwargs": info.env_kwargs, "released": "LeWorldModel"}
    return dynamics, source, derive_preprocessing(info, dynamics.spec.frame_hw)


def fit_actions(dynamics: LeWorldModel, reader: Any) -> None:
    """Give LeWorldModel mean and deviation of the actions of the train split (of all where it is empty), as its
    training and evaluation take them from the whole data."""
    episodes = reader.episodes("train") if reader.episodes("train").size else reader.episodes()
    if not episodes.size:
        return
    actions = torch.from_numpy(np.concatenate([reader.column("action", int(number)) for number in episodes])).double()
    dynamics.set_action_statistics(actions.mean(0), actions.std(0))
