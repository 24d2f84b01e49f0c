"""Efforts of planning that a table may hold equal: candidates, operations of a plan, or its wall time.

With equal candidates a model with larger steps computes more in a plan. With equal operations, or equal time, it gets
fewer candidates: `planner.samples` is scaled until a plan costs what one of the first trained row does. The share of
elites stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from commands.comparison.one_stage import BEST_VIEW
from commands.comparison.table_keys import drop_oracle_cost
from commands.config.groups import DirectKeys, DynamicsKeys, PlannerKeys
from commands.evaluation.arithmetic import count_planning_flops
from commands.evaluation.methods import make_agent
from commands.evaluation.models import set_flow_steps
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError
from commands.tables.rows import ALL, CANDIDATES, FLOPS, TIME
from commands.training.posttraining import make_random_stage2
from commands.training.pretraining import make_random_stage1
from planners.proposals import ProposalConfig
from world_model.encoder import EncoderConfig
from world_model.generative.world_model import WorldModelConfig
from world_model.objectives.families import Stage1Config
from world_model.training.loop import TrainerConfig

LEAST = 4  # candidates
SHARES = {"elites": 2, "keep_elites": 1, "refined": 1, "prior_samples": 1}  # keys in proportion to samples: the least
TOLERANCE = 0.01  # share by which two plans of equal operations may differ


def list_efforts(efforts: Sequence[str], keys: PipelineKeys, reference: PipelineKeys | None) -> dict[str, PipelineKeys]:
    """The pipeline of a row under each effort. reference: that of the first trained row; None for a row that is the
    same under all, as that one itself, and a policy that acts without search is, too. Of equal time the candidates are
    known once both rows have planned."""
    if list(efforts) == [CANDIDATES]:
        return {CANDIDATES: keys}
    if reference is None or isinstance(keys.planner, DirectKeys):
        return {ALL: keys}
    further = replace(keys, protocol=drop_oracle_cost(keys.protocol))  # measured with equal candidates
    made = {CANDIDATES: keys, TIME: further}
    if FLOPS in efforts:
        made[FLOPS] = equalise_flops(further, count_plan(reference))
    return {effort: made[effort] for effort in efforts}


def check_efforts(efforts: Sequence[str], keys: PipelineKeys, is_first: bool) -> None:
    """Raise UsageError for efforts that cannot be made equal. keys: of a trained row; is_first: whether it is the one
    that others are scaled to, which no policy without search can be."""
    if CANDIDATES not in efforts:
        raise UsageError(
            f"efforts=[{','.join(efforts)}] lacks candidates, from which the others are scaled: give "
            f"efforts=[candidates,{','.join(efforts)}]"
        )
    if isinstance(keys.planner, DirectKeys) and not is_first:
        return
    for effort in efforts:
        if effort == CANDIDATES:
            continue
        read_samples(keys, effort)
        if keys.planner.cost.view == BEST_VIEW:
            raise UsageError(
                f"efforts=[{','.join(efforts)}]: what a plan costs depends on its view, and a world model of one stage "
                "chooses its own on val: name one, as small.OBJECTIVE=['planner.cost.view=pixels']"
            )


def count_plan(keys: PipelineKeys) -> float:
    """Operations of the first plan of an episode, with the encoding of its frames and of the goal, before training."""
    # Proposed candidates cost no more than others, and a value about as much as a distance.
    planner = replace(keys.planner, proposal=ProposalConfig(), value=None)
    return _count_plan(keys.stage1.adapted_encoder, keys.objective, keys.dynamics, planner, keys.env.name)


def equalise_flops(keys: PipelineKeys, limit: float) -> PipelineKeys:
    """The pipeline with so many candidates that a plan has this number of operations, or LEAST."""
    samples, flops = read_samples(keys, FLOPS), count_plan(keys)
    if abs(flops - limit) <= TOLERANCE * limit:
        return keys
    per_sample = (count_plan(set_samples(keys, 2 * samples)) - flops) / samples
    return set_samples(keys, round(samples + (limit - flops) / per_sample))


def equalise_time(keys: PipelineKeys, own_ms: float, limit_ms: float) -> PipelineKeys:
    """The pipeline with candidates in proportion to the measured times of a plan."""
    return set_samples(keys, round(read_samples(keys, TIME) * limit_ms / own_ms))


def set_samples(keys: PipelineKeys, samples: int) -> PipelineKeys:
    """The pipeline with so many candidates, at least LEAST, and elites and the like in proportion."""
    planner: Any = keys.planner
    samples = max(samples, min(LEAST, planner.samples))
    scaled = {"samples": samples}
    for key, least in SHARES.items():
        if number := getattr(planner, key, 0):
            scaled[key] = max(min(least, number), round(number * samples / planner.samples))
    if "prior_samples" in scaled:  # a planner draws at least two candidates by itself
        scaled["prior_samples"] = min(scaled["prior_samples"], samples - 2)
    return replace(keys, planner=replace(planner, **scaled))


def read_samples(keys: PipelineKeys, effort: str) -> int:
    """Candidates of an iteration. UsageError for a planner that has no such number."""
    samples = getattr(keys.planner, "samples", None)
    if samples is None:
        raise UsageError(
            f"efforts=[{effort}] scales planner.samples, which planner={keys.planner.name} does not have: give "
            "efforts=[candidates], or another planner"
        )
    return int(samples)


@cache
def _count_plan(
    sizes: EncoderConfig, objective: Stage1Config, keys: DynamicsKeys, planner: PlannerKeys, task: str
) -> float:
    cpu, dynamics = torch.device("cpu"), None
    if isinstance(objective, WorldModelConfig):
        dynamics = make_random_stage1(sizes, objective, TrainerConfig(batch_size=1), task, 0, cpu)[0].eval()
    else:
        dynamics = make_random_stage2(sizes, keys, 1, task, cpu)[0].dynamics
    set_flow_steps(planner, dynamics)
    one_plan = planner.mpc.receding_steps * dynamics.spec.frame_skip
    return count_planning_flops(make_agent(dynamics, planner), one_plan)["flops"]
