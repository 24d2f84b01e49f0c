"""Frozen features of a trajectory file, computed once for an encoder and kept beside the file."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import envs
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError, join_names
from commands.training.monitors import read_episodes
from data.features import FeatureCache
from data.prepared import PreparedReader
from planners.protocol import Dynamics
from world_model.dynamics import LatentDynamics
from world_model.encoder import VideoEncoder
from world_model.training.checkpoint import hash_tensors

MOST_BEHIND = 4  # chunks of features that wait to be written while the next is encoded
ENCODE_CHUNK = 128  # frames encoded at once while the cache is filled
STATISTICS_EPISODES, STATISTICS_FRAMES = 256, 16  # most episodes, and frames of each, that statistics are taken of


def make_cache_key(encoder: VideoEncoder, reader: Any) -> str:
    """What features of a file's frames depend on: the weights, and the preprocessing where there is any."""
    key = hash_tensors(encoder.state_dict())
    if not isinstance(reader, PreparedReader):
        return key
    return f"{key}.{hashlib.sha256(repr(reader.preprocessing).encode()).hexdigest()[:8]}"


@torch.no_grad()
def cache_features(dynamics: LatentDynamics, reader: Any, console: Console) -> dict[str, np.ndarray]:
    """Features that the predictor reads, of every frame of the file: {name: array [F, N, D]}.

    They are computed once for an encoder and a file, then kept beside the file.
    """
    cache, key = FeatureCache(reader), make_cache_key(dynamics.encoder, reader)
    device = dynamics.action_mid.device
    spaces = dynamics.features.spaces
    missing = [name for name, space in spaces.items() if cache.read(key, space) is None]
    if missing:
        example = dynamics.read(torch.from_numpy(reader.gather("pixels", np.array([[0]]))).to(device))
        episodes = reader.episodes()
        with console.progress("encode", len(episodes), "episodes") as progress, ExitStack() as files:
            rows = {
                name: files.enter_context(cache.write(key, spaces[name], tuple(example[name].shape[2:])))
                for name in missing
            }
            store = files.enter_context(run_behind())
            for episode, frames in zip(episodes, read_episodes(reader, episodes), strict=True):
                row = int(reader.first_row(episode))
                for chunk in frames.split(ENCODE_CHUNK):
                    features = dynamics.read(chunk[None].to(device))
                    store(partial(_write_rows, rows, row, {name: features[name][0] for name in missing}))
                    row += len(chunk)
                progress.advance()
    stored: dict[str, np.ndarray] = {}
    for name, space in spaces.items():
        array = cache.read(key, space)
        assert array is not None, (name, key)
        stored[name] = array
    return stored


def _write_rows(rows: dict[str, np.ndarray], row: int, features: dict[str, Tensor]) -> None:
    """Copy features [n, N, D] of consecutive frames to the host, and into the arrays of all frames."""
    for name, values in features.items():
        rows[name][row : row + len(values)] = values.cpu().numpy()


@contextmanager
def run_behind() -> Iterator[Callable[[Callable[[], None]], None]]:
    """A function that runs others in their order in a thread, so that the caller computes on; at most MOST_BEHIND wait.
    Their errors are raised at a later call, or at the end."""
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="features") as pool:

        def run(work: Callable[[], None]) -> None:
            waiting.append(pool.submit(work))
            if len(waiting) > MOST_BEHIND:
                waiting.popleft().result()

        yield run
        for future in waiting:
            future.result()


def sample_train_features(features: np.ndarray, reader: Any, device: torch.device) -> Tensor:
    """Raw features [E, T, N, D] of evenly spaced frames of episodes of the train split, for their statistics."""
    episodes = reader.episodes("train")
    episodes = episodes[:: max(1, len(episodes) // STATISTICS_EPISODES)]
    spaced = [np.linspace(0, reader.num_frames(int(e)) - 1, STATISTICS_FRAMES).round() for e in episodes]
    rows = reader.first_row(episodes)[:, None] + np.stack(spaced).astype(np.int64)
    return torch.from_numpy(features[rows.ravel()]).float().unflatten(0, rows.shape).to(device)


def list_split_rows(reader: Any, split: str) -> np.ndarray:
    """Rows of all frames of a split. RunError where it has no complete episode."""
    firsts = [(reader.first_row(episode), reader.num_frames(int(episode))) for episode in reader.episodes(split)]
    if not firsts:
        raise RunError(f"split {split} has no complete episode in {join_names([str(path) for path in reader.paths])}")
    return np.concatenate([np.arange(first, first + count) for first, count in firsts])


def read_proprio(reader: Any) -> np.ndarray:
    """Proprioception [F, Q] at every frame of the file: its column `proprio`, or else those true quantities that the
    file's task counts as proprioception. Raises UsageError where it has neither."""
    task = envs.find_task(reader.info.env_id)
    name, columns = "proprio", slice(None)
    if all(column.name != name for column in reader.info.columns):
        if task is None:
            raise UsageError("dynamics.proprio_model: this file has no column proprio, and its environment is unknown")
        name, columns = "truth", list(task.proprio_index)  # type: ignore[assignment]
    episodes = reader.episodes()
    example = reader.column(name, int(episodes[0]))[:, columns]
    proprio = np.zeros((reader.total_frames, example.shape[1]), np.float32)
    for episode in episodes:
        first = int(reader.first_row(episode))
        proprio[first : first + reader.num_frames(int(episode))] = reader.column(name, int(episode))[:, columns]
    return proprio


@torch.no_grad()
def view_frames(dynamics: Dynamics, view: str, reader: Any, rows_F: np.ndarray, console: Console) -> Tensor:
    """A view [F, ...] of recorded frames, as of goals: from the cached features of a model of `jepa posttrain`, else
    by encoding them."""
    device, chunks = dynamics.spec.device, np.array_split(rows_F, math.ceil(len(rows_F) / ENCODE_CHUNK))
    if isinstance(dynamics, LatentDynamics):
        if view == "pixels":
            raise UsageError(
                "planner.proposal.source=retrieval compares cached features, and planner.cost.view is pixels: choose "
                "planner.cost.view=pooled"
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
