"""`jepa plan goal=photo.png`: plan to an image file from held-out starts, where no true distance is known.

Several pictures (`goal=[first.png,then.png]`) are sub-goals, taken one after the other. The result is measured in the
model's features (RMS over the cost's view, as the planner's `metric=l2`) and shown on videos. A success rate needs a
goal whose state is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from commands.evaluation.episodes import RandomPolicy
from commands.evaluation.methods import MODEL_METHOD, RANDOM_METHOD, play_policy
from commands.evaluation.setup import EvaluationSetup
from commands.report import page
from commands.report.videos import write_videos
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from commands.shared.runs import write_atomic, write_json
from commands.training.feature_cache import list_split_rows
from data.pictures import PictureError, Preprocessing, read_picture
from planners.costs import feature_distance
from planners.mpc import MPCConfig
from world_model.dynamics import LatentDynamics
from world_model.nn.pools import normalise_tokens

SCHEMA = 1
UNIT = "apart in features"
TRAIN_FRAMES, VAL_FRAMES = 512, 128  # frames that a picture is compared with
NOVEL = 1.5  # novelty from which a picture gets a warning


class PhotoGoalPolicy:
    """A policy that gets the same goal pictures, uint8 [G, H, W, 3], in every episode."""

    def __init__(self, policy: Any, photos: NDArray[np.uint8]) -> None:
        self.policy, self.photos = policy, photos[0] if len(photos) == 1 else photos
        self.act = policy.act

    def reset(self, goal_frames: NDArray[np.uint8], seeds: Sequence[int]) -> None:
        self.policy.reset(np.repeat(self.photos[None], len(seeds), 0), seeds)


def list_goal_files(goal: str | list[str], switching: MPCConfig) -> list[str]:
    """The picture files of `goal`. UsageError for several where nothing switches from one to the next."""
    goals = [goal] if isinstance(goal, str) else list(goal)
    if not goals or len(goals) > 1 and not (switching.reached_cost or switching.subgoal_steps):
        raise UsageError(
            f"goal holds {len(goals)} pictures; several are switched by planner.mpc.reached_cost or "
            "planner.mpc.subgoal_steps, one of which must be above 0"
        )
    return goals


def read_photos(goals: Sequence[str], preprocessing: Preprocessing, console: Console) -> NDArray[np.uint8]:
    """Image files of any size as frames of the model [G, H, W, 3]. RunError if one cannot be read; what changes its
    values is printed."""
    photos = []
    for goal in goals:
        try:
            picture = read_picture(Path(goal), lambda note: console.warn(f"jepa plan: goal={note}"))
        except PictureError as error:
            raise RunError(f"goal={error}") from error
        photos.append(preprocessing.prepare(picture))
        if picture.shape[:2] != preprocessing.size_hw:
            console.say(f"goal={goal}: {preprocessing.describe(picture.shape[:2])}")
    return np.stack(photos)


def plan_to_photos(
    goals: Sequence[str],
    policy: Any,
    view: str,
    num_videos: int,
    setup: EvaluationSetup,
    folder: Path,
    console: Console,
) -> str:
    """Plan from the setup's starts to picture files, one after the other; returns the headline, on the last one.

    view: view of the model that distances are measured in. Writes results.json, videos and report.html.
    """
    model, task, num_starts = setup.model, setup.task, len(setup.cases.seeds)
    assert setup.preprocessing is not None
    photos = read_photos(goals, setup.preprocessing, console)
    warn_of_novelty(goals, photos, setup, console)
    runs = {
        name: play_policy(PhotoGoalPolicy(method, photos), name, setup, console, num_starts)
        for name, method in ((MODEL_METHOD, policy), (RANDOM_METHOD, RandomPolicy(task)))
    }
    frames = {name: run.frames for name, run in runs.items() if run.frames is not None}
    distances = {name: measure_distances(model, view, seen, photos[-1]) for name, seen in frames.items()}
    methods = {name: _summarise_distances(distances_nT) for name, distances_nT in distances.items()}
    for goal, photo in zip(goals[:-1], photos[:-1], strict=True):
        sub_goal = measure_distances(model, view, frames[MODEL_METHOD], photo)
        methods[f"model, from {goal} on the way"] = _summarise_distances(sub_goal)
    row = methods[MODEL_METHOD]
    headline = (
        f"{task.name}: towards {goals[-1]} from {num_starts} starts, feature distance {row['start']:.2f} at the start, "
        f"{row['least']:.2f} at the nearest, {row['final']:.2f} at the end; random actions "
        f"{methods[RANDOM_METHOD]['least']:.2f} at the nearest"
    )
    results = {
        "schema": SCHEMA,
        "task": task.name,
        "goal": goals[-1],
        "sub_goals": goals[:-1],
        "unit": f"{UNIT} ({view})",
        "episodes": num_starts,
        "methods": methods,
    }
    write_json(folder / "results.json", results)
    film = replace(
        runs[MODEL_METHOD],
        distances=distances[MODEL_METHOD][:num_videos],
        frames=frames[MODEL_METHOD][:num_videos],
        goal_frames=photos[-1:].repeat(min(num_videos, num_starts), 0),
    )
    no_threshold = replace(task, thresholds=(-1.0,), distance_unit=UNIT)
    videos = write_videos(film, setup.cases, no_threshold, folder / "videos") if num_videos else []
    write_photo_report(headline, methods, videos, folder / "report.html")
    return headline


def warn_of_novelty(goals: Sequence[str], photos: NDArray[np.uint8], setup: EvaluationSetup, console: Console) -> None:
    """Print which pictures look unlike the data of the setup."""
    for goal, photo in zip(goals, photos, strict=True):
        novelty = measure_novelty(setup.model, setup.reader, photo)
        if novelty > NOVEL:
            console.warn(
                f"jepa plan: goal={goal} looks unlike the data: its features are {novelty:.1f} times as far from the "
                "nearest training frame as those of any held-out frame; is it of another environment, camera or light?"
            )


def write_photo_report(
    headline: str, methods: Mapping[str, Mapping[str, float]], videos: Sequence[Path], path: Path
) -> None:
    """Write the page: the headline, distances of every method, and videos."""
    rows = [[escape(name), *(f"{value:.3g}" for value in row.values())] for name, row in methods.items()]
    html = {
        "table": page.render_table(["method", "start", "nearest", "end"], rows),
        "videos": page.render_videos(videos, [f"start {number}" for number in range(len(videos))]),
    }
    body = page.fill_template("photo_goals.html", {"headline": headline}, html)
    write_atomic(path, page.render_page("Towards a picture", body))


@torch.no_grad()
def measure_distances(
    model: LatentDynamics, view: str, frames: NDArray[np.uint8], photo: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """RMS distance [n, T] of frames [n, T, H, W, 3] from the picture, in a view of the model."""
    device = model.spec.device
    goal = model.encode_goal(torch.from_numpy(photo[None].copy()).to(device)).view(view)
    rows = []
    for episode in frames:
        features = model.encode_goal(torch.from_numpy(episode).to(device)).view(view)
        rows.append(feature_distance(features[None, None], goal, "l2", goal.ndim - 1)[0, 0].double().cpu().numpy())
    return np.stack(rows)


@torch.no_grad()
def measure_novelty(model: LatentDynamics, reader: Any, photo: NDArray[np.uint8]) -> float:
    """Distance of a picture's tokens from those of the nearest `train` frame, divided by the largest such distance of a
    `val` frame."""

    def encode_tokens(frames: NDArray[np.uint8]) -> torch.Tensor:
        tokens = model.encoder.encode_frames(torch.from_numpy(frames[None]).to(model.spec.device))[0]
        return normalise_tokens(tokens).flatten(1).float()

    train = encode_tokens(_sample_frames(reader, "train", TRAIN_FRAMES))
    largest = torch.cdist(encode_tokens(_sample_frames(reader, "val", VAL_FRAMES)), train).amin(1).max()
    return float(torch.cdist(encode_tokens(photo[None].copy()), train).min() / largest.clamp_min(1e-6))


def _sample_frames(reader: Any, split: str, count: int) -> NDArray[np.uint8]:
    """Frames [n, H, W, 3] from all over a split."""
    rows = list_split_rows(reader, split)
    return reader.gather("pixels", rows[:: max(1, len(rows) // count), None])[:, 0]


def _summarise_distances(distances_nT: NDArray[np.float64]) -> dict[str, float]:
    """Medians over episodes of the distance at the start, of the least one after it, and of the last one."""
    return {
        "start": float(np.median(distances_nT[:, 0])),
        "least": float(np.median(distances_nT[:, 1:].min(1))),
        "final": float(np.median(distances_nT[:, -1])),
    }
