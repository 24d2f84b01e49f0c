"""Scenes: the appearance that starts and goal images have (`protocol.variation`, `protocol.goal_nuisance`), and that
recorded episodes are rendered in again (`variation` of `jepa probe`).

Poses and dynamics stay those of the held-out episodes; only textures, colours, light and camera are drawn anew, from
the seed and the number of the case or episode, so every method sees the same images. Success is judged on the true
state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import envs
from commands.shared.errors import UsageError
from envs.distraction import Distraction, list_changes
from envs.presets import APPEARANCE, DISTRACTING, Preset, choose_env_kwargs

if TYPE_CHECKING:
    from commands.evaluation.cases import Cases
    from commands.evaluation.protocol import ProtocolConfig
    from envs.goal_env import GoalEnv

SCENE_STREAM, GOAL_STREAM = 73, 74  # of random numbers, beside those of `cases.draw_cases`

SCENE_TEXTS = {
    None: "as in the data file",
    "none": "drawn again without variation, all factors of appearance at their defaults",
    "seen": "appearance drawn again from the training ranges",
    "unseen": "appearance drawn again from values outside the training ranges",
    "moving": "appearance drawn again from the training ranges, with nuisance that moves within an episode",
    "distracting": "the plain scene with distractors of the Distracting Control Suite",
    "color_easy": "the plain scene in other colours (DMC-GB color_easy)",
    "color_hard": "the plain scene in other colours (DMC-GB color_hard)",
    "video_easy": "the plain scene with a video in place of the sky (DMC-GB video_easy)",
    "video_hard": "the plain scene with a video in place of sky and floor (DMC-GB video_hard)",
}
GOAL_TEXTS = {
    "same": "the same appearance as the start",
    "other": "another draw of the appearance than the start",
    "clean": "all factors of appearance at their defaults",
}


class SceneKeys(Protocol):
    """Keys that choose scenes: those of a protocol, or of `jepa probe`."""

    @property
    def variation(self) -> Preset | None: ...

    @property
    def strength(self) -> float: ...

    @property
    def distraction(self) -> Distraction: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class RedrawnFrames:
    """Frames [N, H, W, C] of some episodes in other scenes, and their rows [N] in the file, ascending."""

    rows: NDArray[np.int64]
    frames: NDArray[np.uint8]

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Frames [..., H, W, C] of rows [...] of these episodes."""
        places = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[places], rows), "a row of another episode"
        return self.frames[places]


def changes_scenes(protocol: ProtocolConfig) -> bool:
    """Whether starts or goal images look different from the data file's."""
    return protocol.variation is not None or protocol.goal_nuisance != "same"


def check_scenes(protocol: ProtocolConfig, env_id: str, recorded: Mapping[str, Any]) -> None:
    """UsageError for a change of appearance that the environment of a file cannot draw. recorded: its arguments."""
    if changes_scenes(protocol):
        with _open_env(_name_keys(protocol), protocol, env_id, recorded):
            pass


def check_episode_scenes(keys: SceneKeys, env_id: str, recorded: Mapping[str, Any]) -> None:
    """UsageError for episodes that cannot be rendered in other scenes. recorded: arguments of their environment."""
    with _open_env(f"variation={keys.variation}", keys, env_id, recorded):
        pass


def adapt_env_kwargs(keys: SceneKeys, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the environment that shows the scenes asked for. recorded: those of the data file."""
    return choose_env_kwargs(keys.variation, recorded, list_changes(keys.distraction))


def redraw_scenes(cases: Cases, protocol: ProtocolConfig, env_id: str, recorded: Mapping[str, Any]) -> Cases:
    """The cases with states of the scenes that the protocol asks for, and the states that goal images show."""
    if not changes_scenes(protocol):
        return cases
    with _open_env(_name_keys(protocol), protocol, env_id, recorded) as env:
        starts, goals = cases.start_states, cases.goal_states
        if protocol.variation is not None:
            numbers = np.arange(len(starts))
            starts, goals = (
                _redraw_states(states, numbers, protocol, env, env_id, recorded, protocol.split)
                for states in (starts, goals)
            )
        images = _draw_goal_images(dict(enumerate(goals)), protocol, env, recorded)
    return replace(cases, start_states=starts, goal_states=goals, goal_image_states=images)


def redraw_case(
    states: Mapping[str, Any], number: int, protocol: ProtocolConfig, env: GoalEnv, recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """Start and goal of a case (options of the environment's reset) in the scene of the case of that number."""
    preset = choose_preset(protocol, recorded)
    drawn = {
        key: env.redraw_factors(
            states[key],
            _make_rng(protocol, SCENE_STREAM, number),
            preset,
            strength=protocol.strength,
            split=protocol.split,
        )
        for key in ("state", "goal_state")
    }
    images = _draw_goal_images({number: drawn["goal_state"]}, protocol, env, recorded)
    return {**drawn, "goal_image_state": None if images is None else images[0]}


def choose_preset(protocol: ProtocolConfig, recorded: Mapping[str, Any]) -> Preset:
    """The preset whose ranges appearance is drawn from: the protocol's, or that of a file. recorded: its arguments.

    Of a file, `unseen` concerns the split eval alone, and factors without a preset mean `seen`.
    """
    if protocol.variation is not None:
        return protocol.variation
    preset = recorded.get("variation", "none")
    return "seen" if preset == "none" or preset == "unseen" and protocol.split != "eval" else preset


def redraw_episodes(reader: Any, episodes: Sequence[int], keys: SceneKeys) -> RedrawnFrames:
    """The frames of these episodes, ascending, in scenes drawn from `keys.variation`; motion stays as recorded."""
    info = reader.info
    states = [reader.column("state", int(episode)) for episode in episodes]
    numbers = np.repeat(np.arange(len(states)), [len(part) for part in states])
    rows = [
        reader.first_row(int(episode)) + np.arange(len(part)) for episode, part in zip(episodes, states, strict=True)
    ]
    with _open_env(f"variation={keys.variation}", keys, info.env_id, info.env_kwargs) as env:
        frames, about = [], (info.env_id, info.env_kwargs)
        for state in _redraw_states(np.concatenate(states), numbers, keys, env, *about, split="eval"):
            env.set_state(state)
            frames.append(env.render())
    return RedrawnFrames(np.concatenate(rows), np.stack(frames))


def describe_scenes(protocol: Mapping[str, Any]) -> str:
    """One sentence of a report on the protocol's scenes and goal images; protocol: as in results.json."""
    strength = protocol.get("strength", 1.0)
    scaled = "" if strength == 1.0 else f", nuisance {strength:g} times as strong"
    if protocol["variation"] == "distracting":
        keys = protocol["distraction"]
        shown = [f"background {keys['background']}" if kind == "background" else kind for kind in keys["kinds"]]
        motion = "changing within an episode" if keys["dynamic"] else "constant within an episode"
        scaled = f", intensity {keys['intensity']:g}, {motion}: {', '.join(shown)}"
    return f"{SCENE_TEXTS[protocol['variation']]}{scaled}; goal images show {GOAL_TEXTS[protocol['goal_nuisance']]}"


def name_scenes(protocol: Mapping[str, Any]) -> str:
    """The protocol's scenes and goal images in a headline, in brackets; empty where they are the data file's, as in a
    record from before these keys."""
    variation, nuisance = protocol.get("variation"), protocol.get("goal_nuisance", "same")
    strength = protocol.get("strength", 1.0)
    parts = [] if variation is None else [f"scenes {variation}"]
    parts += [] if strength == 1.0 else [f"strength {strength:g}"]
    if variation == "distracting":
        keys = protocol["distraction"]
        parts += [f"intensity {keys['intensity']:g}", *(["dynamic"] if keys["dynamic"] else [])]
    parts += [] if nuisance == "same" else [f"goal images {nuisance}"]
    return f" ({', '.join(parts)})" if parts else ""


def _name_keys(protocol: ProtocolConfig) -> str:
    """The keys of a protocol that ask for another appearance, for messages."""
    return ", ".join(
        f"protocol.{key}={getattr(protocol, key)}"
        for key, usual in (("variation", None), ("goal_nuisance", "same"))
        if getattr(protocol, key) != usual
    )


@contextmanager
def _open_env(wanted: str, keys: SceneKeys, env_id: str, recorded: Mapping[str, Any]) -> Iterator[GoalEnv]:
    """The environment in which appearance is drawn; UsageError, naming the keys `wanted`, where it has none to draw."""
    if env_id not in envs.TASKS:
        raise UsageError(f"{wanted}: no factors of variation are known for {env_id} (tasks: {', '.join(envs.TASKS)})")
    if not {keys.variation, recorded.get("variation")} & set(DISTRACTING):  # these need no factors of appearance
        with closing(envs.make(env_id, **recorded)) as env:
            names = env.get_factors()
            if not any(factor.group in APPEARANCE and factor.name in names for factor in env.list_factors()):
                raise UsageError(
                    f"{wanted}: the data of {env_id} were collected without factors of appearance, so none can be "
                    f"drawn anew: collect with env.variation=seen, or with env.factors=[{','.join(APPEARANCE)}]"
                )
    with closing(envs.make(env_id, **adapt_env_kwargs(keys, recorded))) as env:
        yield env


def _redraw_states(
    states: NDArray[np.float64],
    numbers: NDArray[np.int64],
    keys: SceneKeys,
    env: GoalEnv,
    env_id: str,
    recorded: Mapping[str, Any],
    split: str,
) -> NDArray[np.float64]:
    """Recorded states [n, S] as states of `env`; the appearance is drawn from a preset, by the numbers [n] of their
    cases or episodes, and videos are those of `split`."""
    assert keys.variation is not None
    with closing(envs.make(env_id, **recorded)) as source:
        physics = source.physics.state_size
        assert physics == env.physics.state_size, (physics, env.physics.state_size)
        known = dict(zip(source.get_factors(), states[:, physics:].T, strict=True))
    columns = [known.get(name, np.full(len(states), value)) for name, value in env.get_factors().items()]
    converted = np.concatenate([states[:, :physics], np.stack(columns, 1)], 1)
    redrawn = converted.copy()
    for number, first in zip(*np.unique(numbers, return_index=True), strict=True):
        rng = _make_rng(keys, SCENE_STREAM, int(number))
        scene = env.redraw_factors(converted[first], rng, keys.variation, strength=keys.strength, split=split)
        redrawn[numbers == number, physics:] = scene[physics:]
    return redrawn


def _draw_goal_images(
    goals: Mapping[int, NDArray[np.float64]], protocol: ProtocolConfig, env: GoalEnv, recorded: Mapping[str, Any]
) -> NDArray[np.float64] | None:
    """States [n, S] that goal images show, of n goals [S] by the number of their case; None for the goals
    themselves."""
    if protocol.goal_nuisance == "same":
        return None
    clean = protocol.goal_nuisance == "clean"
    ranges, strength = ("none", 1.0) if clean else (choose_preset(protocol, recorded), protocol.strength)
    images = [
        env.redraw_factors(
            goal, _make_rng(protocol, GOAL_STREAM, number), ranges, strength=strength, split=protocol.split
        )
        for number, goal in goals.items()
    ]
    return np.stack(images)


def _make_rng(keys: SceneKeys, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng([keys.seed, stream, number])
