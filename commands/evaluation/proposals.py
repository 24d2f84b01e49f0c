"""First candidates of a search, for a model and its data: segments retrieved from `train`, or a learned policy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from commands.config.groups import PlannerKeys
from commands.evaluation.setup import EvaluationSetup
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from commands.training.feature_cache import list_split_rows, view_frames
from commands.training.policy_folders import check_policy, load_policy
from commands.training.trajectory_files import open_reader
from data.pictures import Preprocessing
from data.prepared import prepare_reader
from planners.proposals import NONE, RETRIEVAL, Proposals, Proposer, Retrieval, Segments
from planners.protocol import Dynamics
from planners.scoring import make_bounds
from world_model.policy import PolicyProposer

TRAIN = "train"  # the split that proposals come from


def check_proposals(keys: PlannerKeys) -> None:
    """Raise UsageError for a policy's folder that is not there, or holds another kind of model."""
    if keys.proposal.source not in (NONE, RETRIEVAL):
        check_policy(keys.proposal.source)


def make_proposals(keys: PlannerKeys, setup: EvaluationSetup, console: Console) -> Proposals | None:
    """The proposals of `planner.proposal` in an evaluation; None without a source. UsageError where they do not fit
    model and data."""
    assert setup.protocol.goal_offset is not None
    steps = math.ceil(setup.protocol.goal_offset / setup.frame_skip)
    return build_proposals(keys, setup.model, setup.preprocessing, console, setup.reader, steps)


def build_proposals(
    keys: PlannerKeys,
    dynamics: Dynamics,
    preprocessing: Preprocessing | None,
    console: Console,
    reader: Any = None,
    steps: int | None = None,
) -> Proposals | None:
    """The proposals of `planner.proposal` for a model; None without a source.

    preprocessing: of pictures for the model. reader: the data of an evaluation, and steps: model steps from its starts
    to its goals; None: both must be given by keys where they are needed. UsageError where they are not, or do not fit.
    """
    config = keys.proposal
    if config.source == NONE:
        return None
    proposer: Proposer
    steps = config.steps or steps
    if config.source == RETRIEVAL:
        recorded = open_segments(config.data, dynamics, preprocessing, reader)
        segments = load_segments(dynamics, keys.cost.view, recorded, keys.horizon, console)
        console.say(
            f"first candidates: {config.count} of {len(segments.starts_N)} recorded segments of train, nearest to now "
            "and goal"
        )
        proposer = Retrieval(dynamics, keys.cost.view, keys.cost.metric, segments, config.count, config.longest)
    else:
        policy = load_policy(config.source, dynamics)
        proposer = PolicyProposer(policy, dynamics)
        if policy.config.steps_left and steps is None:
            raise UsageError(
                f"planner.proposal.source={config.source} is told the model steps left to the goal: give "
                "planner.proposal.steps=..."
            )
    return Proposals(proposer, steps or 1, config.least_steps)


def open_segments(data: Any, dynamics: Dynamics, preprocessing: Preprocessing | None, reader: Any) -> Any:
    """The file to retrieve from: `planner.proposal.data`, or that of the evaluation. UsageError for other actions than
    the model's, or another environment or time between frames than the evaluation's."""
    if data is None:
        if reader is None:
            raise UsageError("planner.proposal.source=retrieval needs planner.proposal.data: trajectories to retrieve")
        return reader
    own, spec = open_reader(data), dynamics.spec
    bounds_of_data = (own.info.action_low * spec.frame_skip, own.info.action_high * spec.frame_skip)
    facts: list[tuple[str, Any, Any]] = [
        ("action size", own.info.action_size, spec.action_dim),
        ("bounds of an action block", bounds_of_data, (spec.action_low, spec.action_high)),
    ]
    if reader is not None:
        facts += [("environment", own.info.env_id, reader.info.env_id)]
        facts += [("seconds between frames", own.info.step_s, reader.info.step_s)]
    for what, there, here in facts:
        if there != here:
            raise UsageError(
                f"planner.proposal.data={data} has the {what} {there}, and {here} is needed: give a file of the task "
                "that the model was trained in"
            )
    return own if preprocessing is None else prepare_reader(own, preprocessing)


@torch.no_grad()
def load_segments(dynamics: Dynamics, view: str, reader: Any, horizon: int, console: Console) -> Segments:
    """Segments of `horizon` model steps of the train split, and a view of their frames. RunError where no episode is
    long enough."""
    spec, rows = dynamics.spec, list_split_rows(reader, TRAIN)
    skip, lengths = spec.frame_skip, reader.lengths(reader.episodes(TRAIN))
    after_F = np.concatenate([(count - 1 - np.arange(count)) // skip for count in lengths])
    starts_N = np.flatnonzero(after_F >= horizon)
    if not len(starts_N):
        raise RunError(
            f"planner.proposal.source={RETRIEVAL} needs episodes of train with {horizon * skip + 1} frames, and the "
            f"longest has {lengths.max()}: choose a smaller planner.horizon, or longer episodes"
        )
    actions = reader.gather("action", rows[starts_N][:, None] + np.arange(horizon * skip)).astype(np.float32)
    low_A, high_A = make_bounds(spec)
    blocks = torch.from_numpy(actions).reshape(len(starts_N), horizon, spec.block_dim).to(spec.device)
    return Segments(
        view_frames(dynamics, view, reader, rows, console),
        torch.from_numpy(after_F).to(spec.device),
        torch.from_numpy(starts_N).to(spec.device),
        blocks.clamp(low_A, high_A),
        skip,
    )
