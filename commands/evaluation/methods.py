"""The methods of an evaluation: the model, the baselines of the protocol, and the true simulator as dynamics."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch

import envs
from commands.config.groups import CEMKeys, PlannerKeys, make_planner
from commands.evaluation.cases import Cases
from commands.evaluation.episodes import RandomPolicy, Rollouts, ZeroPolicy, run_episodes
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.oracle import OracleDynamics, OraclePolicy
from commands.evaluation.setup import EvaluationSetup
from commands.shared.console import Console
from envs.task_spec import TaskSpec
from envs.vector import VectorGoalEnv
from planners.cem import CEM
from planners.costs import RETURN, GoalCost
from planners.mpc import MPC
from planners.proposals import Proposals
from planners.protocol import Dynamics
from planners.sampling import BasePlanner

MODEL_METHOD, RANDOM_METHOD, ZERO_METHOD, ORACLE_METHOD, ORACLE_COST_METHOD = (
    "model",
    "random",
    "zero action",
    "oracle",
    "oracle, model's cost",
)


def play_policy(
    policy: Any,
    name: str,
    setup: EvaluationSetup,
    console: Console,
    videos: int = 0,
    cases: Cases | None = None,
    workers: int = 0,
) -> Rollouts:
    """Play the setup's cases, or the given ones, in environments of this process or of so many workers."""
    budget = setup.protocol.budget
    assert budget is not None
    make_vector = partial(VectorGoalEnv, setup.task.name, num_workers=workers, **setup.env_kwargs)
    with console.progress(name, budget, "environment steps") as progress:
        run = run_episodes(
            policy,
            make_vector,
            cases or setup.cases,
            budget,
            videos,
            progress.update,
            setup.preprocessing,
            setup.task.distance,
        )
    if run.played is not None:
        ended = run.played[run.played < budget]
        console.warn(
            f"jepa plan: {name}: {setup.task.name} ended {len(ended)} of {len(run.played)} episodes itself, after "
            f"{ended.min()} to {ended.max()} of {budget} steps; they are counted up to there"
        )
    return run


def make_agent(model: Dynamics, keys: PlannerKeys, proposals: Proposals | None = None) -> MPC:
    """The method under test: a model planned in. proposals: first candidates of its searches."""
    return MPC(model, make_planner(keys), keys.cost, keys.mpc, proposals)


def make_policies(keys: EvaluationKeys, setup: EvaluationSetup, proposals: Proposals | None = None) -> dict[str, Any]:
    """The policy of every method of the protocol, by its name; those with a model only where the setup has one.

    proposals: first candidates of the method under test; the oracles search without them.
    """
    planner, cost, mpc = make_planner(keys.planner), keys.planner.cost, keys.planner.mpc
    model, task, protocol = setup.model, setup.task, setup.protocol
    policies: dict[str, Any] = {} if model is None else {MODEL_METHOD: make_agent(model, keys.planner, proposals)}
    policies |= {RANDOM_METHOD: RandomPolicy(task), ZERO_METHOD: ZeroPolicy(task)}

    def make_oracle(cost_model: Any, less: dict[str, int], oracle_cost: GoalCost, receding_steps: int) -> OraclePolicy:
        env, workers = envs.make(task.name, **setup.env_kwargs), keys.workers or os.cpu_count() or 1
        dynamics = OracleDynamics(env, cost_model, planner.horizon, workers, setup.frame_skip, setup.preprocessing)
        search = replace(mpc, receding_steps=receding_steps)
        return OraclePolicy(dynamics, make_oracle_planner(planner, less), oracle_cost, search)

    if protocol.oracle:
        true_cost = replace(cost.keep_distances(), view="truth", token_keep=1.0, distance=make_true_distance(task))
        policies[ORACLE_METHOD] = make_oracle(None, {}, true_cost, mpc.receding_steps)
    # The simulator learns no rewards or values, so it cannot be planned with a return.
    if (small := protocol.oracle_cost).episodes and model is not None and cost.reduce != RETURN:
        less = {"samples": small.samples, "elites": small.elites, "iterations": small.iterations}
        policies[ORACLE_COST_METHOD] = make_oracle(model, less, cost, small.receding_steps)
    return policies


def make_oracle_planner(planner: Any, less: dict[str, int]) -> Any:
    """The planner with smaller settings `less`, as far as it has them. CEM of the same horizon replaces a planner that
    cannot search in the simulator (`oracle_planner` in results.json)."""
    if not plans_with_simulator(planner):
        planner = CEM(CEMKeys(horizon=planner.horizon))
    own = {item.name for item in fields(planner.config)}
    settings = {key: value for key, value in less.items() if key in own and getattr(planner.config, key)}
    if "prior_samples" in own:  # the simulator has no policy
        settings["prior_samples"] = 0
    if less and "keep_elites" in own:
        settings["keep_elites"] = min(planner.config.keep_elites, less["elites"])
    return type(planner)(replace(planner.config, **settings))


def plans_with_simulator(planner: Any) -> bool:
    """Whether this planner can search in the true simulator, whose settings are known and which needs no gradients."""
    return isinstance(planner, BasePlanner) and not planner.needs_gradient


def make_true_distance(task: TaskSpec) -> Any:
    """The distance of a cost: the task's own, on the view `truth`."""

    def distance(imagined: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        distances = task.distance(imagined.cpu().numpy(), goal.cpu().numpy())
        return torch.from_numpy(np.asarray(distances)).to(imagined.device)

    return distance
