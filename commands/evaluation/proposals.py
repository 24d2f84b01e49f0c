"""First candidates of a search, for a model and its data: segments retrieved from `train`, or a learned policy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commands.config.groups import PlannerKeys
from commands.evaluation.setup import EvaluationSetup
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from commands.training.feature_cache import ENCODE_CHUNK, cache_features, list_split_rows
from commands.training.model_folders import open_reader
from data.prepared import prepare_reader
from planners.proposals import NONE, RETRIEVAL, Proposals, Proposer, Retrieval, Segments
from planners.protocol import Dynamics
from planners.scoring import bounds
from world_model.dynamics import LatentDynamics

TRAIN = "train"  # the split that proposals come from


def make_proposals(keys: PlannerKeys, setup: EvaluationSetup, console: Console) -> Proposals | None:
    """The proposals of `planner.proposal`; None without a source. UsageError where they do not fit model and data."""
    config = keys.proposal
    if config.source == NONE:
        return None
    assert setup.protocol.goal_offset is not None
    steps = config.steps or math.ceil(setup.protocol.goal_offset / setup.frame_skip)
    proposer: Proposer
    if config.source == RETRIEVAL:
        reader = open_segments(keys, setup)
        segments = load_segments(setup.model, keys.cost.view, reader, keys.horizon, console)
        proposer = Retrieval(setup.model, keys.cost.view, keys.cost.metric, segments, config.count, config.longest)
    return Proposals(proposer, steps, config.least_steps)


def open_segments(keys: PlannerKeys, setup: EvaluationSetup) -> Any:
    """The file to retrieve from: that of the evaluation, or `planner.proposal.data`. UsageError for another task,
    other actions or another time between frames."""
    given, info = keys.proposal.data, setup.reader.info
    if given is None:
        return setup.reader
    reader = open_reader(given)
    for what, here, there in (
        ("environment", info.env_id, reader.info.env_id),
        ("size of actions", info.action_size, reader.info.action_size),
        ("bounds of actions", (info.action_low, info.action_high), (reader.info.action_low, reader.info.action_high)),
        ("seconds between frames", info.step_s, reader.info.step_s),
    ):
        if here != there:
            raise UsageError(
                f"planner.proposal.data={given} has another {what} than the data of the evaluation, {there} and not "
                f"{here}: give a file of the same task"
            )
    return reader if setup.preprocessing is None else prepare_reader(reader, setup.preprocessing)


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
    low_A, high_A = bounds(spec)
    blocks = torch.from_numpy(actions).reshape(len(starts_N), horizon, spec.block_dim).to(spec.device)
    return Segments(
        view_frames(dynamics, view, reader, rows, console),
        torch.from_numpy(after_F).to(spec.device),
        torch.from_numpy(starts_N).to(spec.device),
        blocks.clamp(low_A, high_A),
        skip,
    )


def view_frames(dynamics: Dynamics, view: str, reader: Any, rows_F: np.ndarray, console: Console) -> Tensor:
    """A view [F, ...] of recorded frames, as of goals: from the cached features of a model of `jepa posttrain`, else
    by encoding them."""
    device, chunks = dynamics.spec.device, np.array_split(rows_F, math.ceil(len(rows_F) / ENCODE_CHUNK))
    if isinstance(dynamics, LatentDynamics):
        if view == "pixels":
            raise UsageError(
                f"planner.proposal.source={RETRIEVAL} compares cached features, and planner.cost.view is pixels: "
                "choose planner.cost.view=pooled"
            )
        features = cache_features(dynamics, reader, console)["features"]
        raw = (torch.from_numpy(features[chunk]).float().to(device) for chunk in chunks)
        parts = [dynamics.view_features(values).view(view) for values in raw]
    else:
        parts = []
        with console.progress("encode", len(chunks), "chunks") as progress:
            for chunk in chunks:
                frames = torch.from_numpy(reader.gather("pixels", chunk)).to(device)
                parts.append(dynamics.encode_goal(frames).view(view))
                progress.advance()
    # Tokens are many: kept as in the cache of features, to three digits.
    return torch.cat([part.half() if view == "tokens" else part.float() for part in parts])
