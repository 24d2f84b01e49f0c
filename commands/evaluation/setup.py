"""What an evaluation begins with: a model, held-out data, and the starts and goals drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

import envs
from commands.evaluation.cases import RESTING, Cases, draw_cases
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.models import fit_actions, load_model, prepare_model
from commands.evaluation.protocol import ProtocolConfig, adapt_task, resolve_protocol
from commands.evaluation.scenes import adapt_env_kwargs, redraw_scenes
from commands.shared.errors import UsageError
from commands.training.trajectory_files import find_frame_skip, open_reader
from data.pictures import Preprocessing
from data.prepared import prepare_reader
from envs.task_spec import TaskSpec
from planners.protocol import Dynamics
from world_model.interop.lewm import LeWorldModel
from world_model.training.loop import keep_freed_memory

DrawCases = Callable[[Any, TaskSpec, ProtocolConfig], Cases]  # from a reader; draw_cases, or draw_starts


@dataclass(frozen=True)
class EvaluationSetup:
    """A model, the held-out data, and the starts and goals drawn from that."""

    model: Any  # planners.protocol.Dynamics, or None: without a world model
    source: dict[str, Any]  # from the model folder or the data: env, env_kwargs, objective, ...
    reader: Any  # data.store.Reader
    task: TaskSpec
    protocol: ProtocolConfig  # resolved: no null is left
    cases: Cases
    frame_skip: int  # environment steps in a model step
    preprocessing: Preprocessing | None = None  # of the environment's pictures for the method under test; None: none
    proprio: str = "none"  # what the method under test does with proprioception; none: it gets none

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment: the data's, the protocol's variation, proprioception where it is read."""
        kwargs = adapt_env_kwargs(self.protocol, self.reader.info.env_kwargs)
        return {**kwargs, **({"proprio": True} if self.proprio != "none" else {})}


def load_setup(
    keys: EvaluationKeys,
    data: Any,
    model: str,
    draw: DrawCases = draw_cases,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> EvaluationSetup:
    """Load model and data, check that they fit, and draw starts and goals. options: of model=MODULE:CLASS."""
    keep_freed_memory()
    reader = open_reader(data, keys.on_damaged)
    dynamics, source, preprocessing = load_model(model, options, reader.info, keys.device)
    if isinstance(dynamics, LeWorldModel):
        fit_actions(dynamics, reader)
    prepare_model(keys.planner, dynamics, model)
    reader = prepare_reader(reader, preprocessing)
    setup = make_setup(keys, reader, source, dynamics.spec.frame_skip, dynamics, draw)
    return replace(setup, preprocessing=preprocessing)


def make_setup(
    keys: EvaluationKeys,
    reader: Any,
    source: dict[str, Any],
    skip: int,
    model: Dynamics | None = None,
    draw: DrawCases = draw_cases,
) -> EvaluationSetup:
    """Task, protocol, starts and goals for the environment of a file. skip: environment steps per model step."""
    task = envs.find_task(source["env"])
    if task is None:
        raise UsageError(
            f"{source['env']} was recorded elsewhere and there is no environment of it to plan in "
            f"(environments: {', '.join(envs.TASKS)}); jepa plan offline=true compares plans with recorded actions"
        )
    task = adapt_task(task, keys.protocol)
    protocol = resolve_protocol(keys.protocol, task)
    cases = draw(reader, task, protocol)
    if protocol.start_velocity == "zero":
        cases = stop_starts(cases, task.name, reader.info.env_kwargs)
    cases = redraw_scenes(cases, protocol, task.name, reader.info.env_kwargs)
    proprio = "none" if model is None else model.spec.proprio
    return EvaluationSetup(model, source, reader, task, protocol, cases, skip, proprio=proprio)


def stop_starts(cases: Cases, env_id: str, env_kwargs: Mapping[str, Any]) -> Cases:
    """The cases with the same positions at the start and no velocity; UsageError for a simulator that does not tell
    which numbers of its state are velocities."""
    with closing(envs.make(env_id, **env_kwargs)) as env:
        states = cases.start_states.copy()
        if states[:, env.qvel].shape[1] == 0:
            raise UsageError(
                f"protocol.start_velocity=zero: the velocities in a state of {env_id} are not known: leave it out"
            )
        states[:, env.qvel] = 0
    motions = None if cases.motions is None else np.full_like(cases.motions, RESTING)
    return replace(cases, start_states=states, motions=motions)


def load_baseline_setup(keys: EvaluationKeys, skip: int | None, data: Any) -> EvaluationSetup:
    """Data, starts and goals without a model. skip: environment steps per model step of the oracle's plans; None: the
    task's own."""
    reader = open_reader(data, keys.on_damaged)
    source = {"env": reader.info.env_id, "env_kwargs": reader.info.env_kwargs}
    return make_setup(keys, reader, source, skip or find_frame_skip(reader.info))
