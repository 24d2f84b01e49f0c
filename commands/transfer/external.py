"""Data sets of other programs as `jepa import` takes them: which of their columns become ours, at which rate and size.

A data set that `jepa export` wrote says itself what it was made from, and comes back as that. Of any other, the
configuration's `columns` choose, and where it does not: the first camera becomes `pixels`, what sets the simulator up
`state`, all other numbers `truth`, the body's own `proprio`. With `environment`, states and truth are that
environment's, and so are the pictures where there are none. Whatever was chosen is summary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import envs
from commands.shared.errors import UsageError, describe_choices, join_names
from commands.shared.runs import to_json_value
from commands.transfer.keys import ColumnsConfig, ImportKeys
from commands.transfer.recordings import Array, Facts, Recording
from commands.transfer.simulator import SIZE_PX, Simulator
from data.formats.dataset import DataSetInfo, ExternalDataSet, ExternalEpisode, ExternalError, list_number_columns
from data.schema import Column, StoreInfo
from data.video import View

REWARD = Column("reward", (), "float32")
SAME_CAMERA_LEVELS = 12  # mean difference of two pictures, of 255 levels, below which they count as of one camera


class ExternalImport:
    """A data set that `open_set` opens."""

    def __init__(self, open_set: Callable[[Path], ExternalDataSet], keys: ImportKeys) -> None:
        self._open, self.keys = open_set, keys
        self.action_size = 0
        self.simulator: Simulator | None = None
        self.columns = keys.columns

    def find(self, path: Path) -> Sequence[ExternalEpisode]:
        self.set = self._open(path)
        self._select_columns(self.set.info)
        return self.set.episodes

    # -- what becomes what

    def _select_columns(self, contents: DataSetInfo) -> None:
        wanted = self.keys.environment
        if not contents.images and wanted is None:
            raise UsageError(
                f"{self.keys.path} holds no pictures (it has: {join_names(contents.numbers) or 'nothing'}): give "
                f"environment=, which draws them where positions and velocities are recorded; or {self.set.render_hint}"
            )
        self.pixels = ""
        if contents.images:
            self.pixels = self._find_column(
                "pixels", self.columns.pixels or next(iter(contents.images)), contents.images
            )
        sides = contents.images[self.pixels][:2] if self.pixels else (SIZE_PX,)
        self.size_px = int(self.keys.size or min(sides))
        if contents.store_info is not None:
            if self.columns != ColumnsConfig(self.columns.pixels) or wanted is not None:
                raise UsageError(
                    f"columns.* and environment: {self.keys.path} was made by jepa export and comes back as it was"
                )
            self.fps = self._find_rate(contents)
            return
        if wanted is not None:
            theirs = contents.env_kwargs if str(wanted) == f"{envs.GYM}{contents.env}" else {}
            self.simulator = Simulator(str(wanted), self.size_px, {**theirs, **self.keys.environment_kwargs})
        self.fps = self._find_rate(contents)
        seen = tuple(name for name in contents.numbers if name not in contents.state)
        self.truth = self._find_columns("truth", self.columns.truth, seen or contents.state)
        self.proprio = self._find_columns("proprio", self.columns.proprio, contents.proprio)
        self.state = self._find_columns("state", self.columns.state, contents.state) or self.truth
        if self.simulator is not None:
            self.simulator.check_state(len(self._name_numbers(self.state)))
            self.truth = ()  # the environment says what is true in a state

    def _find_column(self, key: str, name: str, there: Mapping[str, Any]) -> str:
        if name not in there:
            raise UsageError(f"columns.{key}={name} is not in {self.keys.path}{describe_choices(name, there)}")
        return name

    def _find_columns(self, key: str, wanted: tuple[str, ...] | None, usual: tuple[str, ...]) -> tuple[str, ...]:
        there = self.set.info.numbers
        return usual if wanted is None else tuple(self._find_column(key, name, there) for name in wanted)

    def _find_rate(self, contents: DataSetInfo) -> float:
        """Frames a second: the recorded ones, for actions over frames that are left out cannot be joined."""
        recorded = contents.rate if contents.store_info is None else 1 / contents.store_info.step_s
        if self.simulator is not None:
            theirs, recorded = recorded, 1 / self.simulator.task.control_step_s
            if theirs is not None and not math.isclose(theirs, recorded, rel_tol=1e-2):
                raise UsageError(
                    f"environment={self.simulator.name} makes {recorded:g} steps a second and {self.keys.path} has "
                    f"{theirs:g} frames"
                )
        asked = self.keys.fps
        if asked is not None and not asked > 0:
            raise UsageError(f"fps={asked}: give a rate above 0, in frames a second")
        if recorded is None and asked is None:
            raise UsageError(
                f"format={self.keys.format} records no rate: give fps=, the steps a second of {contents.env} "
                "(20 for robosuite and OGBench's manipulation, 10 for its point and ant mazes)"
            )
        if asked is not None and recorded is not None and not math.isclose(asked, recorded, rel_tol=1e-6):
            raise UsageError(
                f"fps={asked:g}: {self.keys.path} has {recorded:g} frames a second and is imported at that rate "
                "(leave fps out); training leaves frames out by objective.frame_gap"
            )
        rate = recorded if recorded is not None else asked
        assert rate is not None
        return float(rate)

    # -- reading

    def read(self, episode: ExternalEpisode) -> Recording:
        own = self.set.info.store_info
        columns = self._read_exported(episode, own) if own is not None else self._read_columns(episode)
        if not np.isfinite(columns["action"]).all():
            raise ExternalError(f"{episode.name} has actions that are not finite numbers")
        frames = len(columns["time_s"])
        if frames < self.keys.least_frames:
            raise ExternalError(f"{episode.name} has {frames} frames, fewer than {self.keys.least_frames}")
        sizes = columns["action"].shape[1]
        self.action_size = self.action_size or sizes
        if self.simulator is not None and sizes != len(self.simulator.task.action_low):
            ours = len(self.simulator.task.action_low)
            raise ExternalError(f"{episode.name} has actions of {sizes} numbers, {self.simulator.name} of {ours}")
        if sizes != self.action_size:
            raise ExternalError(f"{episode.name} has actions of {sizes} numbers, those before it {self.action_size}")
        pictures = partial(self.set.read_pictures, episode, self.pixels)
        if not self.pixels:
            pictures = partial(self._render_states, columns["state"])
        return Recording(episode.name, columns, pictures, (), episode.split, episode.seed, episode.factors)

    def _render_states(self, states_TS: Array, size_px: int, view: View) -> Array:
        """Pictures of states, which are square and of the right size as they come."""
        assert self.simulator is not None, size_px
        return self.simulator.render(states_TS)

    def _read_exported(self, episode: ExternalEpisode, own: StoreInfo) -> dict[str, Array]:
        """Every column as it was, of the same shape and type."""
        names = {column.name: self.set.external_name(column.name) for column in list_number_columns(own)}
        found = self.set.read_numbers(episode, list(names.values()))
        columns = {"action": found["action"]}
        for column in list_number_columns(own):
            rows = found[names[column.name]]
            columns[column.name] = np.asarray(rows, column.dtype).reshape(len(rows), *column.shape)
        return columns

    def _read_columns(self, episode: ExternalEpisode) -> dict[str, Array]:
        names = dict.fromkeys((*self.state, *self.truth, *self.proprio))
        found = self.set.read_numbers(episode, list(names))
        frames = len(found["action"]) + 1

        def concatenate(wanted: Sequence[str], dtype: str) -> Array:
            parts = [np.asarray(found[name], dtype).reshape(frames, -1) for name in wanted]
            return np.concatenate([np.zeros((frames, 0), dtype), *parts], axis=1)

        state, truth = concatenate(self.state, "float64"), concatenate(self.truth, "float32")
        if self.simulator is not None:
            state = self.simulator.build_states(state)
            truth = self.simulator.compute_truth(state)
        columns = {"action": found["action"], "time_s": np.arange(frames) / self.fps, "state": state, "truth": truth}
        if self.proprio:
            columns["proprio"] = concatenate(self.proprio, "float32")
        if "reward" in found:
            columns["reward"] = np.asarray(found["reward"], np.float32)
        return columns

    # -- facts

    def facts(self) -> Facts:
        contents = self.set.info
        settings = {
            key: to_json_value(getattr(self.keys, key)) for key in ("format", "view", "least_frames", "columns")
        }
        settings |= {"size": self.size_px, "fps": self.fps}
        if contents.store_info is not None:
            return self._exported_facts(contents.store_info, settings)
        if self.simulator is not None:
            return self._simulator_facts(self.simulator, settings)
        names = self._name_numbers(self.truth)
        return Facts(
            env_id=f"{self.keys.format}/{contents.env}",
            env_kwargs=contents.env_kwargs,
            action_names=self._name_actions(),
            truth_names=names,
            truth_units=("",) * len(names),
            state_size=len(self._name_numbers(self.state)),
            extra=self._list_extra(),
            step_s=1 / self.fps,
            size_px=self.size_px,
            settings=settings,
            bounds=contents.bounds,
            summary=self._summarise(),
        )

    def _list_extra(self) -> tuple[Column, ...]:
        size = len(self._name_numbers(self.proprio))
        return (*((Column("proprio", (size,), "float32"),) if self.proprio else ()), REWARD)

    def _simulator_facts(self, simulator: Simulator, settings: Mapping[str, Any]) -> Facts:
        """What the environment says of itself; the pictures may be the data set's."""
        task = simulator.task
        return Facts(
            env_id=simulator.name,
            env_kwargs=simulator.kwargs,
            action_names=task.action_names,
            truth_names=task.truth_names,
            truth_units=task.truth_units,
            state_size=simulator.env.state_size,
            extra=self._list_extra(),
            step_s=task.control_step_s,
            size_px=self.size_px,
            settings={**settings, "environment": simulator.name},
            bounds=(task.action_low, task.action_high),
            render=simulator.env.get_render_settings(),
            summary=(*self._summarise(), self._compare_pictures(simulator)),
        )

    def _compare_pictures(self, simulator: Simulator) -> str:
        """How near what the environment draws is to the first recorded picture: the same camera, or another."""
        if not self.pixels:
            return f"pictures are drawn by {simulator.name}; actions are within its bounds or are clipped to them there"
        episode = self.set.episodes[0]
        recorded = self.set.read_pictures(episode, self.pixels, self.size_px, self.keys.view)[0]
        drawn = simulator.render(self._read_columns(episode)["state"][:1])[0]
        levels = float(np.abs(recorded.astype(float) - drawn).mean())
        says = "the same camera" if levels < SAME_CAMERA_LEVELS else "another camera or look, which would mislead plans"
        return f"{simulator.name} draws the first picture {levels:.1f} levels (of 255) from the recorded one: {says}"

    def _exported_facts(self, own: StoreInfo, settings: Mapping[str, Any]) -> Facts:
        known = "jepa plan knows it" if own.env_id in envs.TASKS else "jepa plan does not know it"
        summary = (
            f"{self._count_episodes()}, written by jepa export: columns, names, bounds, rate, splits, seeds are kept",
            f"environment {' '.join([own.env_id, *(f'{k}={v}' for k, v in own.env_kwargs.items())])}: {known}",
        )
        return Facts(
            env_id=own.env_id,
            env_kwargs=own.env_kwargs,
            action_names=own.action_names,
            truth_names=own.truth_names,
            truth_units=own.truth_units,
            state_size=own.state_size,
            extra=own.extra,
            factors=own.factors,
            step_s=own.step_s,
            size_px=self.size_px,
            settings={**settings, "origin": dict(own.source)},
            bounds=(own.action_low, own.action_high),
            render=own.render,
            summary=summary,
        )

    def _name_numbers(self, columns: Sequence[str]) -> tuple[str, ...]:
        """A name for every number of these columns."""
        names: list[str] = []
        for column in columns:
            size = math.prod(self.set.info.numbers[column])
            given = self.set.info.names[column] if column in self.set.info.names else ()
            inner = given if len(given) == size else [str(k) for k in range(size)]
            names += [column] if self.set.info.numbers[column] == () else [f"{column}[{part}]" for part in inner]
        return tuple(names)

    def _name_actions(self) -> tuple[str, ...]:
        given = self.set.info.names["action"] if "action" in self.set.info.names else ()
        return given if len(given) == self.action_size else tuple(f"action[{k}]" for k in range(self.action_size))

    def _count_episodes(self) -> str:
        return f"{self.keys.format}: {len(self.set.episodes)} episodes of {self.set.info.env}"

    def _summarise(self) -> tuple[str, ...]:
        """What became what, and what was left."""
        contents, simulator = self.set.info, self.simulator
        more = [name for name in contents.images if name != self.pixels]
        used = {*self.state, *self.truth, *self.proprio}
        rest = [name for name in contents.numbers if name not in used] + list(contents.unread)
        made = "recorded" if contents.state or self.columns.state else "no simulator's state is recorded: as truth"
        if self.pixels:
            height, width = contents.images[self.pixels][:2]
            pixels = f"{self.pixels} {width}x{height}{f' (not: {join_names(more)})' if more else ''}"
        else:
            pixels = f"drawn from the states, {self.size_px}x{self.size_px}"
        truth = (
            join_names(self.truth) or "nothing" if simulator is None else f"what {simulator.name} says of these states"
        )
        rate = "recorded" if contents.rate else "as fps= says" if simulator is None else f"those of {simulator.name}"
        lines = [
            f"{self._count_episodes()}, {self.fps:g} frames a second ({rate})",
            f"pixels <- {pixels}; action <- {self.action_size} numbers",
            f"state <- {join_names(self.state) or 'nothing'} ({made}); truth <- {truth}; "
            f"proprio <- {join_names(self.proprio) or 'nothing'}",
            f"left out: {join_names(rest) or 'nothing'}",
        ]
        return tuple(lines)
