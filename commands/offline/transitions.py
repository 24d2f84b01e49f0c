"""Dynamics measured on recorded transitions of held-out episodes: the second half of `jepa probe`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt
from torch import Tensor

import envs
from commands.training.feature_cache import read_proprio
from envs.task_spec import TaskSpec
from planners.protocol import Dynamics
from world_model.dynamics import LatentDynamics
from world_model.probing import surprise as energy
from world_model.probing.surprise import Transitions, discrimination_rate, measure_energies

STARTS_EVERY = 4  # frames between the transitions taken from an episode
FAR_STEPS = 10  # least frames of an impossible jump
LENGTH_TOLERANCE = 0.1  # of an open path beside the blocked one it is compared with, as a share

FrameIndex = tuple[np.ndarray, np.ndarray]  # episodes and frames


@dataclass(frozen=True)
class LandscapeConfig:
    """A grid of actions around the recorded one."""

    axes: tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]] = (0, 1)
    """two dimensions of the action (from 0); the same twice for an action of one dimension"""
    reach: Annotated[float, Gt(0)] = 1.0
    """largest offset from the recorded action, in half ranges of the action"""
    cells: Annotated[int, Ge(3)] = 21
    """cells per side (odd); the middle one is the recorded action"""
    steps: Annotated[int, Ge(1)] = 1
    """model steps to the frame whose energy is measured"""

    def __post_init__(self) -> None:
        if self.cells % 2 == 0:
            raise ValueError(f"landscape.cells={self.cells} must be odd")


@dataclass(frozen=True)
class TransitionIndex:
    """Where transitions [n] were recorded: the episode, its last observed frame, and the frame after the actions."""

    episode: np.ndarray
    last: np.ndarray
    after: np.ndarray

    def select(self, rows: np.ndarray) -> TransitionIndex:
        """Some of the transitions."""
        return TransitionIndex(self.episode[rows], self.last[rows], self.after[rows])


def find_transitions(dynamics: Dynamics, reader: Any, episodes: Sequence[int], steps: int) -> TransitionIndex:
    """Transitions with a full history before and `steps` model steps after; ValueError where no episode is long
    enough."""
    skip, history = dynamics.spec.frame_skip, dynamics.spec.history
    candidates = [
        (episode, last)
        for episode in episodes
        for last in range((history - 1) * skip, reader.num_frames(int(episode)) - steps * skip, STARTS_EVERY)
    ]
    if not candidates:
        raise ValueError(
            f"no eval episode is longer than {history - 1 + steps} model steps of {skip} frames: collect longer ones"
        )
    episode, last = np.array(candidates).T
    return TransitionIndex(episode, last, last + steps * skip)


def load_transitions(dynamics: Dynamics, reader: Any, index: TransitionIndex) -> Transitions:
    """The frames, actions and robot states of these transitions."""
    spec = dynamics.spec
    skip, history, device = spec.frame_skip, spec.history, spec.device
    row = reader.first_row(index.episode) + index.last
    past = row[:, None] + np.arange(1 - history, 1) * skip
    steps = int(index.after[0] - index.last[0])

    def blocks(begin: np.ndarray, count: int) -> Tensor:
        if count == 0:
            return torch.zeros(len(begin), 0, spec.block_dim, device=device)
        actions = reader.gather("action", begin[:, None] + np.arange(count * skip))
        return torch.from_numpy(actions.reshape(len(begin), count, -1)).to(device)

    return Transitions(
        torch.from_numpy(reader.gather("pixels", past)).to(device),
        blocks(past[:, 0], history - 1),
        blocks(row, steps // skip),
        load_frames(reader, index.episode, index.after).to(device),
        None if not spec.proprio_dim else torch.from_numpy(read_proprio(reader)[past]).to(device),
    )


def load_frames(reader: Any, episode: np.ndarray, frame: np.ndarray) -> Tensor:
    """Frames [n, H, W, C] of those episodes."""
    return torch.from_numpy(reader.gather("pixels", (reader.first_row(episode) + frame)[:, None])[:, 0])


def measure_landscape(
    dynamics: LatentDynamics, reader: Any, episodes: Sequence[int], options: LandscapeConfig
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Distance of the least energy from the recorded action, in half ranges of the action; the mean landscape
    [cells, cells], each transition's scaled to 0..1 first; and the offsets [cells]."""
    size = reader.info.action_size
    if not all(0 <= axis < size for axis in options.axes):
        raise ValueError(f"landscape.axes={list(options.axes)}: the action has {size} dimensions, counted from 0")
    transitions = load_transitions(dynamics, reader, find_transitions(dynamics, reader, episodes, options.steps))
    energy_BXY, offsets = energy.measure_landscape(dynamics, transitions, options.axes, options.reach, options.cells)
    least = energy_BXY.flatten(1).argmin(1)
    x, y = offsets[least // options.cells], offsets[least % options.cells]
    one_axis = options.axes[0] == options.axes[1]
    away = x.abs() if one_axis else torch.hypot(x, y)
    every = offsets.abs() if one_axis else torch.hypot(offsets[:, None], offsets[None]).flatten()
    low, high = energy_BXY.flatten(1).amin(1), energy_BXY.flatten(1).amax(1)
    scaled = (energy_BXY - low[:, None, None]) / (high - low).clamp_min(1e-12)[:, None, None]
    summary = {
        "argmin_error": away.mean().item(),
        "argmin_error_median": away.median().item(),
        "chance": every.mean().item(),
        "transitions": len(least),
        "axes": list(options.axes),
        "steps": options.steps,
    }
    return summary, scaled.mean(0).numpy(), offsets.numpy()


def measure_surprise(dynamics: LatentDynamics, reader: Any, episodes: Sequence[int], seed: int) -> dict[str, Any]:
    """Energies of what happened and of what did not, one model step ahead.

    discrimination: {kind of pair: {share of pairs in which the impossible frame has more energy, pairs}}.
    shuffled_over_true: mean energy under the actions of other transitions, over that under the recorded ones.
    shuffled_share: share of transitions whose energy is larger under those.
    """
    index = find_transitions(dynamics, reader, episodes, 1)
    rng = np.random.default_rng(seed)
    transitions = load_transitions(dynamics, reader, index)
    true = measure_energies(dynamics, transitions, transitions.taken_BKA[:, None], transitions.after_BHWC)[:, 0]
    shuffled = transitions.taken_BKA[torch.from_numpy(rng.permutation(len(true)))]
    other_actions = measure_energies(dynamics, transitions, shuffled[:, None], transitions.after_BHWC)[:, 0]
    discrimination = {}
    for name, pairs in find_continuations(reader, index, rng).items():
        part = load_transitions(dynamics, reader, index.select(pairs.rows))
        possible, impossible = (
            measure_energies(dynamics, part, part.taken_BKA[:, None], load_frames(reader, *spot).to(true.device))[:, 0]
            for spot in (pairs.possible, pairs.impossible)
        )
        discrimination[name] = {"share": discrimination_rate(possible, impossible), "pairs": len(pairs.rows)}
    return {
        "discrimination": discrimination,
        "shuffled_over_true": (other_actions.mean() / true.mean().clamp_min(1e-12)).item(),
        "shuffled_share": discrimination_rate(true, other_actions),
    }


@dataclass(frozen=True)
class Continuations:
    """Pairs of frames for some of the transitions (`rows`): one that could have come next, and one that could not."""

    rows: np.ndarray
    possible: FrameIndex
    impossible: FrameIndex


def find_continuations(reader: Any, index: TransitionIndex, rng: np.random.Generator) -> dict[str, Continuations]:
    """Pairs by name; a kind without any pair is left out.

    another episode: what happened, and a frame of another episode. jump: what happened, and a frame of the same episode
    long before or after. wall: neither happened; a position in the open, and one at the same distance behind something
    solid, so that the two differ in the wall alone.
    """
    every, other = np.arange(len(index.last)), rng.permutation(len(index.last))
    differing = every[index.episode[other] != index.episode]
    pairs_by_kind = {
        "another episode": Continuations(
            differing,
            (index.episode[differing], index.after[differing]),
            (index.episode[other][differing], index.after[other][differing]),
        ),
        "jump": _find_jumps(reader, index, rng),
    }
    task = envs.find_task(reader.info.env_id)
    if task is not None and task.blocked is not None:
        pairs_by_kind["wall"] = _find_blocked(reader, index, task)
    return {name: pairs for name, pairs in pairs_by_kind.items() if len(pairs.rows)}


def _find_jumps(reader: Any, index: TransitionIndex, rng: np.random.Generator) -> Continuations:
    rows, to = [], []
    for row, (episode, last) in enumerate(zip(index.episode, index.last, strict=True)):
        far = np.flatnonzero(np.abs(np.arange(reader.num_frames(int(episode))) - last) >= FAR_STEPS)
        if far.size:
            rows.append(row)
            to.append(rng.choice(far))
    chosen = np.array(rows, np.int64)
    episode = index.episode[chosen]
    return Continuations(chosen, (episode, index.after[chosen]), (episode, np.array(to, np.int64)))


def _find_blocked(reader: Any, index: TransitionIndex, task: TaskSpec) -> Continuations:
    """The nearest position behind something solid, and the one in the open whose distance is most like it."""
    assert task.blocked is not None
    rows, opens, shut = [], [], []
    for row, (episode, last) in enumerate(zip(index.episode, index.last, strict=True)):
        truth = reader.column("truth", int(episode))
        positions = task.probe_targets(truth)
        length = np.linalg.norm(positions - positions[last], axis=-1)
        blocked = task.blocked(truth[last], truth)
        behind = np.where(blocked, length, np.inf).argmin()
        if not blocked[behind] or length[behind] > task.min_goal_distance / 2:
            continue
        unlike = np.where(blocked, np.inf, np.abs(length - length[behind]))
        like = unlike.argmin()
        if unlike[like] <= LENGTH_TOLERANCE * length[behind]:
            rows.append(row)
            opens.append(like)
            shut.append(behind)
    chosen = np.array(rows, np.int64)
    episode = index.episode[chosen]
    return Continuations(chosen, (episode, np.array(opens, np.int64)), (episode, np.array(shut, np.int64)))
