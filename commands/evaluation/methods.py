"""What an evaluation plays: the model, the floors of the protocol, and the true simulator in the model's place."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch

import envs
from commands.config.groups import CEMKeys, PlannerKeys, make_planner
from commands.config.keys import OnDamaged, RunKeys
from commands.evaluation.oracle import OracleDynamics, OraclePolicy
from commands.evaluation.protocol import (
    Cases,
    EvaluationSetup,
    ProtocolConfig,
    RandomPolicy,
    Rollouts,
    ZeroPolicy,
    run_episodes,
)
from commands.shared.console import Console
from envs.task_spec import TaskSpec
from envs.vector import VectorGoalEnv
from planners.cem import CEM
from planners.mpc import MPC

MODEL_METHOD, RANDOM_METHOD, ZERO_METHOD, ORACLE_METHOD, ORACLE_COST_METHOD = (
    "model",
    "random",
    "zero action",
    "oracle",
    "oracle, model's cost",
)


@dataclass(frozen=True, kw_only=True)
class EvaluationKeys(RunKeys):
    """How a model is evaluated."""

    planner: PlannerKeys = field(default_factory=CEMKeys)
    """search, cost and receding horizon"""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    """starts, goals, and what counts as success"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""
    workers: int = 0
    """threads that simulate for the oracle; 0: one per core; changes no result"""
    videos: int = 6
    """rollout videos to write"""


def make_methods(keys: EvaluationKeys, setup: EvaluationSetup, console: Console) -> dict[str, Callable[[], Rollouts]]:
    """Functions that play each method of the protocol, by its name; those with a model only where the setup has
    one."""
    planner, cost, mpc = make_planner(keys.planner), keys.planner.cost, keys.planner.mpc
    model, task, protocol, cases = setup.model, setup.task, setup.protocol, setup.cases
    sensors = {} if model is None or model.spec.proprio == "none" else {"proprio": True}
    kwargs = {**setup.source["env_kwargs"], **sensors}
    workers = keys.workers or os.cpu_count() or 1
    in_process = partial(VectorGoalEnv, task.name, num_workers=0, **kwargs)
    budget = protocol.budget
    assert budget is not None

    def play(policy: Any, what: str, some: Cases = cases, videos: int = 0) -> Rollouts:
        with console.progress(what, budget, "environment steps") as progress:
            return run_episodes(policy, in_process, some, budget, videos, lambda done: progress.update(done))

    def simulator(with_model: Any) -> OracleDynamics:
        return OracleDynamics(envs.make(task.name, **kwargs), with_model, planner.horizon, workers, setup.frame_skip)

    def oracle() -> Rollouts:
        true_cost = replace(cost, view="truth", token_keep=1.0, distance=make_true_distance(task))
        return play(OraclePolicy(simulator(None), make_oracle_planner(planner, {}), true_cost, mpc), ORACLE_METHOD)

    def oracle_cost() -> Rollouts:
        small = protocol.oracle_cost
        less = {"samples": small.samples, "elites": small.elites, "iterations": small.iterations}
        brief = replace(mpc, receding_steps=small.receding_steps)
        policy = OraclePolicy(simulator(model), make_oracle_planner(planner, less), cost, brief)
        return play(policy, ORACLE_COST_METHOD, cases.take(small.episodes))

    rows: dict[str, Callable[[], Rollouts]] = {
        RANDOM_METHOD: lambda: play(RandomPolicy(task), RANDOM_METHOD),
        ZERO_METHOD: lambda: play(ZeroPolicy(task), ZERO_METHOD),
    }
    if model is not None:
        played = {MODEL_METHOD: lambda: play(MPC(model, planner, cost, mpc), MODEL_METHOD, videos=keys.videos)}
        rows = played | rows
    if protocol.oracle:
        rows[ORACLE_METHOD] = oracle
    if protocol.oracle_cost.episodes and model is not None:
        rows[ORACLE_COST_METHOD] = oracle_cost
    return rows


def make_oracle_planner(planner: Any, less: dict[str, int]) -> Any:
    """The planner with smaller settings `less`, as far as it has them. The simulator gives no gradients: CEM of the
    same horizon replaces a planner that needs them (`oracle_planner` in results.json)."""
    if planner.needs_gradient:
        planner = CEM(CEMKeys(horizon=planner.horizon))
    own = {item.name for item in fields(planner.config)}
    settings = {key: value for key, value in less.items() if key in own and getattr(planner.config, key)}
    if less and "keep_elites" in own:
        settings["keep_elites"] = min(planner.config.keep_elites, less["elites"])
    return type(planner)(replace(planner.config, **settings))


def make_true_distance(task: TaskSpec) -> Any:
    """A cost: the task's true distance, on the view `truth`."""

    def distance(imagined: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        apart = task.distance(imagined.cpu().numpy(), goal.cpu().numpy())
        return torch.from_numpy(np.asarray(apart)).to(imagined.device)

    return distance
