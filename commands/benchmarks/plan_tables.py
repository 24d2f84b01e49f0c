"""Tables of `jepa bench plan`: seconds of a plan at equal candidates and steps, a row a model, all measured in turns.

`models` compares models. `rendered` is the exercise of the world-model literature: a few long candidates, once in the
true simulator whose pictures are rendered, and once in each model. Every plan is for one environment, as an agent plans
that acts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

import envs
from commands.benchmarks.measurements import Row, Timing, make_row, measure_peak_flops, time_rounds
from commands.benchmarks.plan_cases import (
    PlanCase,
    allow_steps,
    choose_parts,
    count_parameters,
    estimate_plan_flops,
    make_case,
)
from commands.config.groups import ModelKeys, make_planner
from commands.evaluation.methods import make_oracle_planner, make_true_distance, plans_with_simulator
from commands.evaluation.oracle import OracleContext, OracleDynamics
from commands.shared.errors import UsageError, describe_choices
from data.pictures import Preprocessing
from planners.costs import RETURN, GoalCost
from planners.protocol import DynamicsSpec, Plan, Views
from world_model.dynamics import LatentDynamics
from world_model.generative.diamond import DiamondConfig
from world_model.generative.world_model import WorldModelConfig

STATE, RENDERED, ENCODED = "simulator, true state", "simulator, rendered", "simulator, rendered and encoded"
SIZES = {"models": (300, 5, 1), "rendered": (50, 20, 1)}  # candidates, steps and iterations, where they are not given
PIXELS = "pixels"


@dataclass(frozen=True, kw_only=True)
class PlanBenchKeys(ModelKeys):
    """Keys of `jepa bench plan`, beside the model and the search."""

    seconds: Annotated[float, Gt(0)] = 3.0
    """time for each measurement, seconds"""
    environments: Annotated[int, Ge(1)] = 50
    """environments that are planned for together (plan); a table and versus plan for one"""
    table: Literal["none", "models", "rendered"] = "none"
    """none (the configured model), models (a row a model), or rendered (the true simulator with pictures, then models)
    (plan)"""
    models: dict[str, list[Any]] = field(default_factory=dict)
    """models of a table, as overrides of the configured one, {NAME: [objective=NAME, key=value]}"""
    rows: list[str] | None = None
    """models that a table shows, by their names; null: all"""
    candidates: Annotated[int, Ge(2)] | None = None
    """candidates an iteration of a table or of versus; null: 300 (models), 50 (rendered), planner.samples (versus)"""
    steps: Annotated[int, Ge(1)] | None = None
    """model steps of a candidate; null: 5 (models), 20 (rendered), planner.horizon (versus)"""
    iterations: Annotated[int, Ge(1)] | None = None
    """iterations of a plan; null: 1 (models, rendered), planner.iterations (versus)"""
    longest: Annotated[float, Gt(0)] = 60.0
    """longest plan of a table that is timed, seconds at the speed of a large matrix product"""
    versus: Literal["stable_worldmodel", "torch_world"] | None = None
    """package whose search and LeWorldModel plan beside ours (plan); null: none"""


class Pictures:
    """What the simulator is planned with where rendered pictures themselves are compared with the goal image."""

    def __init__(self, spec: DynamicsSpec) -> None:
        self.spec = replace(spec, views=(PIXELS,))

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """The pictures as they are."""
        return Views({PIXELS: frames_BHWC})


def check_table(keys: PlanBenchKeys) -> None:
    """Raise UsageError for a row that has no model, a model whose overrides do not fit, and a search that cannot go
    through the simulator."""
    for name in keys.rows or ():
        if name not in keys.models:
            raise UsageError(f"rows: {name} is no model of this table{describe_choices(name, keys.models, 'models')}")
    if keys.rows == []:
        raise UsageError("rows=[] leaves no model: give names, or rows=null for all")
    list_models(keys)
    if keys.table == "rendered" and not plans_with_simulator(make_planner(keys.planner)):
        raise UsageError(
            f"planner={keys.planner.name} cannot search in the true simulator, which has no gradients: give "
            "planner=cem or another that draws candidates"
        )


def set_sizes(keys: PlanBenchKeys) -> PlanBenchKeys:
    """These keys with candidates, steps and iterations in the planner, and one that returns its best candidate, so that
    none is scored once more."""
    own = (keys.planner.samples, keys.planner.horizon, keys.planner.iterations)
    samples, steps, iterations = SIZES.get(keys.table, own)
    planner: Any = keys.planner
    planner = replace(
        planner,
        samples=keys.candidates or samples,
        horizon=keys.steps or steps,
        iterations=keys.iterations or iterations,
        return_best=True,
    )
    return replace(keys, planner=planner)


def list_models(keys: PlanBenchKeys) -> dict[str, ModelKeys]:
    """The keys of each row's model, which can be planned as far as the table asks. A key of the planner that a model
    cannot follow (compile, flow_steps) is left out for that model."""
    rows: dict[str, ModelKeys] = {}
    for name in keys.rows or keys.models:
        row = set_sizes(choose_parts(keys, keys.models[name], f"models.{name}"))
        row = allow_steps(row, row.planner.horizon)
        one_stage = isinstance(row.objective, WorldModelConfig)
        draws = isinstance(row.objective, DiamondConfig) or not one_stage and row.dynamics.flow is not None
        planner = replace(
            row.planner,
            compile=row.planner.compile and not one_stage,
            flow_steps=row.planner.flow_steps if draws else None,
        )
        rows[name] = replace(row, planner=planner)
    return rows


def measure_tables(keys: PlanBenchKeys, device: torch.device) -> list[Row]:
    """Rows of the table that is asked for: a plan of each model, and for `rendered` of the simulator before them."""
    sized, cases = set_sizes(keys), {}
    for name, row in list_models(keys).items():
        torch.manual_seed(keys.seed)
        cases[name] = make_case(row, 1, device, name)
    peak = measure_peak_flops(
        device, keys.seconds, torch.bfloat16 if sized.planner.precision == "bf16" else torch.float
    )
    flops = {name: estimate_plan_flops(case) for name, case in cases.items()}
    short = {name: case for name, case in cases.items() if flops[name] <= keys.longest * peak}
    calls: dict[str, Callable[[int], Any]] = {}
    if keys.table == "rendered":
        calls |= list_simulator_plans(sized, cases, device)
    calls |= {name: case.plan for name, case in short.items()}
    if not calls:
        raise UsageError(f"longest={keys.longest:g} leaves no plan to time: give more seconds, or fewer candidates")
    reference = RENDERED if RENDERED in calls else next(iter(calls))
    times = time_rounds(calls, keys.seconds * len(calls), reference)
    simulated = [
        make_row(name, times[name].seconds, "s a plan", _name_ratio(times[name], reference), ratio=times[name].ratio)
        for name in calls
        if name not in cases
    ]
    return simulated + [
        make_model_row(name, case, flops[name], peak, times.get(name), reference) for name, case in cases.items()
    ]


def make_model_row(name: str, case: PlanCase, flops: float, peak: float, timing: Timing | None, reference: str) -> Row:
    """The row of a model. peak: FLOP/s of a large matrix product. timing: None where a plan takes too long, whose row
    then states the seconds that its operations alone would take."""
    planned_by = RETURN if case.cost.reduce == RETURN else case.cost.view
    what, size = f"{name}, by {planned_by}", count_parameters(case.model)
    details = {"flops": flops, "parameters": size}
    if timing is None:
        limit = f"not timed: {flops / 1e12:.3g} TFLOP at {peak / 1e9:.0f} GFLOP/s; {size / 1e6:.2g} M parameters"
        return make_row(what, flops / peak, "s a plan, at least", limit, timed=False, **details)
    limit = (
        f"{_name_ratio(timing, reference)}; {flops / 1e9:.3g} GFLOP, {flops / timing.seconds / peak:.0%} of a matrix "
        f"product's speed; {size / 1e6:.2g} M parameters"
    )
    return make_row(what, timing.seconds, "s a plan", limit, timed=True, ratio=timing.ratio, **details)


def _name_ratio(timing: Timing, reference: str) -> str:
    return f"{timing.ratio:.3g} times {reference}"


def list_simulator_plans(
    keys: PlanBenchKeys, cases: Mapping[str, PlanCase], device: torch.device
) -> dict[str, Callable[[int], Plan]]:
    """Plans in the true simulator, by name: towards the true state, towards the goal image in rendered pictures, and in
    those that the first model with an encoder has encoded, if there is one."""
    task = envs.get_task(keys.env.name)
    env = envs.make(task.name, **keys.env.arguments)
    skip = keys.dynamics.frame_skip or task.frame_skip
    preprocessing = Preprocessing(keys.encoder.image_px)
    states = []
    for number in range(2):  # a start, and a goal from another episode
        env.reset(seed=keys.seed + number)
        states.append(env.get_state()[None])
    goal = torch.from_numpy(preprocessing.prepare(env.render_state(states[1][0])[None])).to(device)
    size = (task.action_low * skip, task.action_high * skip, keys.encoder.image_px, keys.planner.horizon)
    pictures = Pictures(DynamicsSpec(*size, (PIXELS,), skip, device=device))
    cost = replace(keys.planner.cost.keep_distances(), token_keep=1.0)
    true_cost = replace(cost, view="truth", distance=make_true_distance(task))
    sides: dict[str, tuple[Any, GoalCost]] = {
        STATE: (None, true_cost),
        RENDERED: (pictures, replace(cost, view=PIXELS)),
    }
    encoders = [case for case in cases.values() if isinstance(case.model, LatentDynamics)]
    if encoders:
        sides[ENCODED] = (encoders[0].model, replace(encoders[0].cost, token_keep=1.0))
    planner, threads = make_oracle_planner(make_planner(keys.planner), {}), os.cpu_count() or 1

    def plan(dynamics: OracleDynamics, cost: GoalCost, number: int) -> Plan:
        dynamics.set_states(*states)
        context, wanted = OracleContext(states[0]), dynamics.encode_goal(goal)
        return planner.plan(dynamics, context, wanted, cost, seeds=[keys.seed], replan=number)

    return {
        name: partial(plan, OracleDynamics(env, model, keys.planner.horizon, threads, skip, preprocessing), cost)
        for name, (model, cost) in sides.items()
    }
