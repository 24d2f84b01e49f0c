"""Recorded moments of held-out episodes, and what dynamics say of them: the second half of `jepa probe`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import envs
from commands.training.feature_cache import recorded_proprio
from envs.task_spec import TaskSpec
from world_model.dynamics import LatentDynamics
from world_model.probing import surprise as energy
from world_model.probing.surprise import Moments, energies, told_apart
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

STARTS_EVERY = 4  # frames between the moments taken from an episode
FAR_STEPS = 10  # frames between a moment and another one that it cannot have jumped to
ALIKE = 0.1  # how much the control of a blocked way may differ from it in length, as a share of that

Spot = tuple[np.ndarray, np.ndarray]  # episodes and frames


@dataclass(frozen=True)
class EnergyConfig:
    """The grid of actions around the taken ones: see configs/probe.yaml."""

    axes: tuple[int, int] = (0, 1)
    """two of the action's numbers; the same twice for an action of one"""
    reach: float = 1.0
    """how far from the taken action, half ranges of the action"""
    cells: int = 21
    """cells a side, odd: the taken action is the middle one"""
    steps: int = 1
    """model steps to the frame that energy is measured at"""

    def __post_init__(self) -> None:
        if self.cells < 3 or self.cells % 2 == 0:
            raise ValueError(f"landscape.cells={self.cells} must be odd and at least 3")
        if self.reach <= 0 or self.steps < 1:
            raise ValueError(
                f"landscape.reach={self.reach} must be above 0 and landscape.steps={self.steps} at least 1"
            )


@dataclass(frozen=True)
class Place:
    """Where moments [n] were recorded: episode, and frame of the last one seen and of the one after."""

    episode: np.ndarray
    last: np.ndarray
    after: np.ndarray

    def chosen(self, rows: np.ndarray) -> Place:
        """Those moments only."""
        return Place(self.episode[rows], self.last[rows], self.after[rows])


def places(dynamics: LatentDynamics, reader: Any, episodes: Sequence[int], steps: int) -> Place:
    """Moments with a full history before and `steps` model steps after them; ValueError where none is long enough."""
    skip, history = dynamics.actions.frame_skip, dynamics.config.history
    found = [
        (episode, last)
        for episode in episodes
        for last in range((history - 1) * skip, reader.num_frames(int(episode)) - steps * skip, STARTS_EVERY)
    ]
    if not found:
        raise ValueError(
            f"no eval episode is longer than {history - 1 + steps} model steps of {skip} frames: collect longer ones"
        )
    episode, last = np.array(found).T
    return Place(episode, last, last + steps * skip)


def moments(dynamics: LatentDynamics, reader: Any, where: Place) -> Moments:
    """What was recorded there."""
    skip, history, device = dynamics.actions.frame_skip, dynamics.config.history, dynamics.action_mid.device
    row = reader.first_row(where.episode) + where.last
    past = row[:, None] + np.arange(1 - history, 1) * skip
    steps = int(where.after[0] - where.last[0])

    def blocks(begin: np.ndarray, count: int) -> Tensor:
        if count == 0:
            return torch.zeros(len(begin), 0, dynamics.spec.block_dim, device=device)
        actions = reader.gather("action", begin[:, None] + np.arange(count * skip))
        return torch.from_numpy(actions.reshape(len(begin), count, -1)).to(device)

    return Moments(
        torch.from_numpy(reader.gather("pixels", past)).to(device),
        blocks(past[:, 0], history - 1),
        blocks(row, steps // skip),
        frames(reader, where.episode, where.after).to(device),
        None if not dynamics.config.proprio_dim else torch.from_numpy(recorded_proprio(reader)[past]).to(device),
    )


def frames(reader: Any, episode: np.ndarray, frame: np.ndarray) -> Tensor:
    """Frames [n, H, W, C] of those episodes."""
    return torch.from_numpy(reader.gather("pixels", (reader.first_row(episode) + frame)[:, None])[:, 0])


def open_loop(dynamics: LatentDynamics, reader: Any, episodes: Sequence[int]) -> dict[str, list[float]]:
    """Squared error of imagined paths at steps 1..horizon, beside that of copying the last frame, mean over moments."""
    model = PosttrainModel(dynamics, PosttrainConfig(rollout_steps=dynamics.config.horizon))
    skip, history = dynamics.actions.frame_skip, dynamics.config.history
    where = places(dynamics, reader, episodes, dynamics.config.horizon)
    ahead = np.arange(1 - history, 1 + model.config.rollout_steps) * skip
    rows = (reader.first_row(where.episode) + where.last)[:, None] + ahead
    felt = None if not dynamics.config.proprio_dim else recorded_proprio(reader)
    sums: dict[str, np.ndarray] = {}
    for chunk in np.array_split(rows, -(-len(rows) // energy.MOMENTS_PER_CHUNK)):
        pixels = torch.from_numpy(reader.gather("pixels", chunk)).to(dynamics.action_mid.device)
        actions = reader.gather("action", chunk[:, :1] + np.arange((model.window - 1) * skip))
        batch = {
            "pixels": pixels,
            **dynamics.read(pixels),
            "action": torch.from_numpy(actions.reshape(len(chunk), model.window - 1, -1)).to(pixels.device),
        }
        if felt is not None:
            batch["proprio"] = torch.from_numpy(felt[chunk]).to(pixels.device)
        for name, values in model.error_by_horizon(batch).items():
            sums[name] = sums.get(name, np.zeros(len(values))) + len(chunk) * np.array(values)
    return {name: (total / len(rows)).tolist() for name, total in sums.items()}


def landscape(
    dynamics: LatentDynamics, reader: Any, episodes: Sequence[int], options: EnergyConfig
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Where energy is least around the taken actions, in half ranges of the action; the mean landscape [cells, cells],
    each moment's own scaled to 0..1; and the offsets [cells]."""
    size = reader.info.action_size
    if not all(0 <= axis < size for axis in options.axes):
        raise ValueError(f"landscape.axes={list(options.axes)}: the action has {size} numbers, counted from 0")
    known = moments(dynamics, reader, places(dynamics, reader, episodes, options.steps))
    energy_BXY, offsets = energy.landscape(dynamics, known, options.axes, options.reach, options.cells)
    least = energy_BXY.flatten(1).argmin(1)
    x, y = offsets[least // options.cells], offsets[least % options.cells]
    one_axis = options.axes[0] == options.axes[1]
    away = x.abs() if one_axis else torch.hypot(x, y)
    every = offsets.abs() if one_axis else torch.hypot(offsets[:, None], offsets[None]).flatten()
    low, high = energy_BXY.flatten(1).amin(1), energy_BXY.flatten(1).amax(1)
    scaled = (energy_BXY - low[:, None, None]) / (high - low).clamp_min(1e-12)[:, None, None]
    found = {
        "argmin_error": away.mean().item(),
        "argmin_error_median": away.median().item(),
        "chance": every.mean().item(),
        "moments": len(least),
        "axes": list(options.axes),
        "steps": options.steps,
    }
    return found, scaled.mean(0).numpy(), offsets.numpy()


def surprise(dynamics: LatentDynamics, reader: Any, episodes: Sequence[int], seed: int) -> dict[str, Any]:
    """Energies of what happened against those of what did not, one model step ahead.

    told: {what: {share of pairs told apart, pairs}}. shuffled_over_true: mean energy under other moments' actions, over
    that under the taken ones.
    """
    where = places(dynamics, reader, episodes, 1)
    rng = np.random.default_rng(seed)
    known = moments(dynamics, reader, where)
    true = energies(dynamics, known, known.taken_BKA[:, None], known.after_BHWC)[:, 0]
    shuffled = known.taken_BKA[torch.from_numpy(rng.permutation(len(true)))]
    other_actions = energies(dynamics, known, shuffled[:, None], known.after_BHWC)[:, 0]
    told = {}
    for name, pairs in continuations(reader, where, rng).items():
        part = moments(dynamics, reader, where.chosen(pairs.rows))
        possible, impossible = (
            energies(dynamics, part, part.taken_BKA[:, None], frames(reader, *spot).to(true.device))[:, 0]
            for spot in (pairs.possible, pairs.impossible)
        )
        told[name] = {"share": told_apart(possible, impossible), "pairs": len(pairs.rows)}
    return {
        "told": told,
        "shuffled_over_true": (other_actions.mean() / true.mean().clamp_min(1e-12)).item(),
        "shuffled_told": told_apart(true, other_actions),
    }


@dataclass(frozen=True)
class Continuations:
    """Pairs of frames for some of the moments (`rows`): one that could have come next, and one that could not."""

    rows: np.ndarray
    possible: Spot
    impossible: Spot


def continuations(reader: Any, where: Place, rng: np.random.Generator) -> dict[str, Continuations]:
    """Pairs by name; a kind without any pair is left out.

    another episode: what happened, and a moment of another recording. jump: what happened, and a moment of the same
    recording long before or after. wall: neither happened; a place in the open, and one as far away behind something
    solid, so that the wall alone tells them apart.
    """
    every, other = np.arange(len(where.last)), rng.permutation(len(where.last))
    apart = every[where.episode[other] != where.episode]
    found = {
        "another episode": Continuations(
            apart,
            (where.episode[apart], where.after[apart]),
            (where.episode[other][apart], where.after[other][apart]),
        ),
        "jump": _jumps(reader, where, rng),
    }
    task = envs.find_task(reader.info.env_id)
    if task is not None and task.blocked is not None:
        found["wall"] = _walls(reader, where, task)
    return {name: pairs for name, pairs in found.items() if len(pairs.rows)}


def _jumps(reader: Any, where: Place, rng: np.random.Generator) -> Continuations:
    rows, to = [], []
    for row, (episode, last) in enumerate(zip(where.episode, where.last, strict=True)):
        far = np.flatnonzero(np.abs(np.arange(reader.num_frames(int(episode))) - last) >= FAR_STEPS)
        if far.size:
            rows.append(row)
            to.append(rng.choice(far))
    chosen = np.array(rows, np.int64)
    episode = where.episode[chosen]
    return Continuations(chosen, (episode, where.after[chosen]), (episode, np.array(to, np.int64)))


def _walls(reader: Any, where: Place, task: TaskSpec) -> Continuations:
    """The nearest place behind something solid, and the one in the open whose distance is most like it."""
    assert task.blocked is not None
    rows, opens, shut = [], [], []
    for row, (episode, last) in enumerate(zip(where.episode, where.last, strict=True)):
        truth = reader.column("truth", int(episode))
        places = task.probe_targets(truth)
        length = np.linalg.norm(places - places[last], axis=-1)
        blocked = task.blocked(truth[last], truth)
        behind = np.where(blocked, length, np.inf).argmin()
        if not blocked[behind] or length[behind] > task.min_goal_distance / 2:
            continue
        unlike = np.where(blocked, np.inf, np.abs(length - length[behind]))
        like = unlike.argmin()
        if unlike[like] <= ALIKE * length[behind]:
            rows.append(row)
            opens.append(like)
            shut.append(behind)
    chosen = np.array(rows, np.int64)
    episode = where.episode[chosen]
    return Continuations(chosen, (episode, np.array(opens, np.int64)), (episode, np.array(shut, np.int64)))
