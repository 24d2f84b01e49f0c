"""Open-loop error by horizon, beside that of copying the last frame, on recorded transitions of held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from commands.offline.transitions import find_transitions
from commands.shared.console import format_table
from commands.statistics.intervals import LEVELS, resample_means
from commands.training.feature_cache import read_proprio
from world_model.dynamics import LatentDynamics
from world_model.probing.surprise import TRANSITIONS_PER_CHUNK
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

GatherFrames = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # rows of a file [...] -> frames [..., H, W, C]

LEAST_COPY = 1e-12  # error of copying that a ratio divides by at least


def measure_open_loop(
    dynamics: LatentDynamics,
    reader: Any,
    episodes: Sequence[int],
    seed: int,
    gather_frames: GatherFrames | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Squared error of imagined paths at steps 1..horizon, as `summarise_errors` gives it.

    gather_frames: frames in place of those of the file. steps: a horizon below the model's.
    """
    model = PosttrainModel(dynamics, PosttrainConfig(rollout_steps=steps or dynamics.config.horizon))
    skip, history, device = dynamics.actions.frame_skip, dynamics.config.history, dynamics.action_mid.device
    index = find_transitions(dynamics, reader, episodes, model.config.rollout_steps)
    ahead = np.arange(1 - history, 1 + model.config.rollout_steps) * skip
    rows = (reader.first_row(index.episode) + index.last)[:, None] + ahead
    proprio = None if not dynamics.config.proprio_dim else read_proprio(reader)
    gather_frames = gather_frames or partial(reader.gather, "pixels")
    chunks: dict[str, list[NDArray[np.float32]]] = {}
    for chunk in np.array_split(rows, -(-len(rows) // TRANSITIONS_PER_CHUNK)):
        pixels = torch.from_numpy(gather_frames(chunk)).to(device)
        actions = reader.gather("action", chunk[:, :1] + np.arange((model.window - 1) * skip))
        batch = {
            "pixels": pixels,
            **dynamics.read(pixels),
            "action": torch.from_numpy(actions.reshape(len(chunk), model.window - 1, -1)).to(device),
        }
        if proprio is not None:
            batch["proprio"] = torch.from_numpy(proprio[chunk]).to(device)
        for name, values in model.measure_squared_errors(batch).items():
            chunks.setdefault(name, []).append(values.flatten(2).mean(2).cpu().numpy())
    errors = {name: np.concatenate(parts) for name, parts in chunks.items()}
    return summarise_errors(errors["predicted"], errors["copy"], index.episode, seed)


def summarise_errors(
    predicted_NK: NDArray[np.float32], copy_NK: NDArray[np.float32], episode_N: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    """Means over transitions at steps 1..K: `predicted`, `copy`, and their ratio `over_copy`, each with an interval
    `_ci95` [K, 2] (percentile bootstrap over episodes; null where there is one episode)."""
    means, resampled = resample_means(np.concatenate([predicted_NK, copy_NK], 1), episode_N, seed)

    def compare(means_2K: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        predicted, copy = np.split(means_2K, 2, -1)
        return {"predicted": predicted, "copy": copy, "over_copy": predicted / np.maximum(copy, LEAST_COPY)}

    results: dict[str, Any] = {name: values.tolist() for name, values in compare(means).items()}
    spread = {} if resampled is None else compare(resampled)
    for name in list(results):
        results[f"{name}_ci95"] = np.quantile(spread[name], LEVELS, axis=0).T.tolist() if spread else None
    return {**results, "episodes": len(np.unique(episode_N)), "transitions": len(episode_N)}


def format_open_loop(errors_by_scene: Mapping[str, Mapping[str, Any]]) -> str:
    """A table with one row a horizon and, for each kind of scene: error, error of copying, their ratio."""
    rows = []
    for step in range(len(next(iter(errors_by_scene.values()))["predicted"])):
        rows.append([str(step + 1)])
        for errors in errors_by_scene.values():
            rows[-1] += [f"{errors[name][step]:.3f}" for name in ("predicted", "copy", "over_copy")]
            if (intervals := errors["over_copy_ci95"]) is not None:
                rows[-1].append("{:.3f} to {:.3f}".format(*intervals[step]))
    head = ["model steps"]
    for name, errors in errors_by_scene.items():
        head += [f"{name}: error", "copying", "ratio"] + ["95 % interval"] * (errors["over_copy_ci95"] is not None)
    return format_table(rows, head)
