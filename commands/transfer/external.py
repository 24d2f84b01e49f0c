"""Data sets of other programs as `jepa import` takes them: which of their columns become ours, at which rate and size.

A data set that `jepa export` wrote says itself what it was made from, and comes back as that. Of any other, the
configuration's `columns` choose, and where it does not: the first camera becomes `pixels`, what sets the simulator up
`state`, all other numbers `truth`, the body's own `proprio`. With `environment`, states and truth are that
environment's, and so are the pictures where there are none. Whatever was chosen is said.
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
from commands.transfer.matching import SIZE_PX, Match
from commands.transfer.recordings import Array, Facts, Recording
from data.formats.dataset import DataSetInfo, ExternalDataSet, ExternalEpisode, ExternalError, list_number_columns
from data.schema import Column, StoreInfo
from data.video import View

REWARD = Column("reward", (), "float32")
LIKE_LEVELS = 12  # mean difference of two pictures, of 255 levels, below which they count as of one camera


class ExternalImport:
    """A data set that `open_set` opens."""

    def __init__(self, open_set: Callable[[Path], ExternalDataSet], keys: ImportKeys) -> None:
        self._open, self.keys = open_set, keys
        self.action_size = 0
        self.match: Match | None = None
        self.chosen = keys.columns

    def find(self, path: Path) -> Sequence[ExternalEpisode]:
        self.set = self._open(path)
        self._choose(self.set.info)
        return self.set.episodes

    # -- what becomes what

    def _choose(self, contents: DataSetInfo) -> None:
        wanted = self.keys.environment
        if not contents.images and wanted is None:
            raise UsageError(
                f"{self.keys.path} holds no pictures (it has: {join_names(contents.numbers) or 'nothing'}): give "
                f"environment=, which draws them where positions and velocities are recorded; or {self.set.render_hint}"
            )
        self.pixels = ""
        if contents.images:
            self.pixels = self._named("pixels", self.chosen.pixels or next(iter(contents.images)), contents.images)
        sides = contents.images[self.pixels][:2] if self.pixels else (SIZE_PX,)
        self.size_px = int(self.keys.size or min(sides))
        if contents.store_info is not None:
            if self.chosen != ColumnsConfig(self.chosen.pixels) or wanted is not None:
                raise UsageError(
                    f"columns.* and environment: {self.keys.path} was made by jepa export and comes back as it was"
                )
            self.fps = self._rate(contents)
            return
        if wanted is not None:
            theirs = contents.env_kwargs if str(wanted) == f"{envs.GYM}{contents.env}" else {}
            self.match = Match(str(wanted), self.size_px, {**theirs, **self.keys.environment_kwargs})
        self.fps = self._rate(contents)
        seen = tuple(name for name in contents.numbers if name not in contents.state)
        self.truth = self._listed("truth", self.chosen.truth, seen or contents.state)
        self.proprio = self._listed("proprio", self.chosen.proprio, contents.proprio)
        self.state = self._listed("state", self.chosen.state, contents.state) or self.truth
        if self.match is not None:
            self.match.check_state(len(self._names(self.state)))
            self.truth = ()  # the environment says what is true in a state

    def _named(self, key: str, name: str, there: Mapping[str, Any]) -> str:
        if name not in there:
            raise UsageError(f"columns.{key}={name} is not in {self.keys.path}{describe_choices(name, there)}")
        return name

    def _listed(self, key: str, wanted: tuple[str, ...] | None, usual: tuple[str, ...]) -> tuple[str, ...]:
        there = self.set.info.numbers
        return usual if wanted is None else tuple(self._named(key, name, there) for name in wanted)

    def _rate(self, contents: DataSetInfo) -> float:
        """Frames a second: the recorded ones, for actions over frames that are left out cannot be joined."""
        recorded = contents.rate if contents.store_info is None else 1 / contents.store_info.step_s
        if self.match is not None:
            theirs, recorded = recorded, 1 / self.match.task.control_step_s
            if theirs is not None and not math.isclose(theirs, recorded, rel_tol=1e-2):
                raise UsageError(
                    f"environment={self.match.name} makes {recorded:g} steps a second and {self.keys.path} has "
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

    def read(self, place: ExternalEpisode) -> Recording:
        own = self.set.info.store_info
        columns = self._own_columns(place, own) if own is not None else self._columns(place)
        if not np.isfinite(columns["action"]).all():
            raise ExternalError(f"{place.name} has actions that are not finite numbers")
        frames = len(columns["time_s"])
        if frames < self.keys.least_frames:
            raise ExternalError(f"{place.name} has {frames} frames, fewer than {self.keys.least_frames}")
        sizes = columns["action"].shape[1]
        self.action_size = self.action_size or sizes
        if self.match is not None and sizes != len(self.match.task.action_low):
            ours = len(self.match.task.action_low)
            raise ExternalError(f"{place.name} has actions of {sizes} numbers, {self.match.name} of {ours}")
        if sizes != self.action_size:
            raise ExternalError(f"{place.name} has actions of {sizes} numbers, those before it {self.action_size}")
        pictures = partial(self.set.read_pictures, place, self.pixels)
        if not self.pixels:
            pictures = partial(self._drawn, columns["state"])
        return Recording(place.name, columns, pictures, (), place.split, place.seed, place.factors)

    def _drawn(self, states_TS: Array, size_px: int, view: View) -> Array:
        """Pictures of states, which are square and of the right size as they come."""
        assert self.match is not None, size_px
        return self.match.draw(states_TS)

    def _own_columns(self, place: ExternalEpisode, own: StoreInfo) -> dict[str, Array]:
        """Every column as it was, of the same shape and type."""
        names = {column.name: self.set.external_name(column.name) for column in list_number_columns(own)}
        found = self.set.read_numbers(place, list(names.values()))
        columns = {"action": found["action"]}
        for column in list_number_columns(own):
            rows = found[names[column.name]]
            columns[column.name] = np.asarray(rows, column.dtype).reshape(len(rows), *column.shape)
        return columns

    def _columns(self, place: ExternalEpisode) -> dict[str, Array]:
        names = dict.fromkeys((*self.state, *self.truth, *self.proprio))
        found = self.set.read_numbers(place, list(names))
        frames = len(found["action"]) + 1

        def joined(wanted: Sequence[str], dtype: str) -> Array:
            parts = [np.asarray(found[name], dtype).reshape(frames, -1) for name in wanted]
            return np.concatenate([np.zeros((frames, 0), dtype), *parts], axis=1)

        state, truth = joined(self.state, "float64"), joined(self.truth, "float32")
        if self.match is not None:
            state = self.match.states(state)
            truth = self.match.get_truth(state)
        columns = {"action": found["action"], "time_s": np.arange(frames) / self.fps, "state": state, "truth": truth}
        if self.proprio:
            columns["proprio"] = joined(self.proprio, "float32")
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
            return self._own_facts(contents.store_info, settings)
        if self.match is not None:
            return self._matched_facts(self.match, settings)
        names = self._names(self.truth)
        return Facts(
            env_id=f"{self.keys.format}/{contents.env}",
            env_kwargs=contents.env_kwargs,
            action_names=self._action_names(),
            truth_names=names,
            truth_units=("",) * len(names),
            state_size=len(self._names(self.state)),
            extra=self._extra(),
            step_s=1 / self.fps,
            size_px=self.size_px,
            settings=settings,
            bounds=contents.bounds,
            said=self._said(),
        )

    def _extra(self) -> tuple[Column, ...]:
        size = len(self._names(self.proprio))
        return (*((Column("proprio", (size,), "float32"),) if self.proprio else ()), REWARD)

    def _matched_facts(self, match: Match, settings: Mapping[str, Any]) -> Facts:
        """What the environment says of itself; the pictures may be the data set's."""
        task = match.task
        return Facts(
            env_id=match.name,
            env_kwargs=match.kwargs,
            action_names=task.action_names,
            truth_names=task.truth_names,
            truth_units=task.truth_units,
            state_size=match.env.state_size,
            extra=self._extra(),
            step_s=task.control_step_s,
            size_px=self.size_px,
            settings={**settings, "environment": match.name},
            bounds=(task.action_low, task.action_high),
            render=match.env.get_render_settings(),
            said=(*self._said(), self._likeness(match)),
        )

    def _likeness(self, match: Match) -> str:
        """How near what the environment draws is to the first recorded picture: the same camera, or another."""
        if not self.pixels:
            return f"pictures are drawn by {match.name}; actions are within its bounds or are clipped to them there"
        episode = self.set.episodes[0]
        recorded = self.set.read_pictures(episode, self.pixels, self.size_px, self.keys.view)[0]
        drawn = match.draw(self._columns(episode)["state"][:1])[0]
        levels = float(np.abs(recorded.astype(float) - drawn).mean())
        says = "the same camera" if levels < LIKE_LEVELS else "another camera or look, which would mislead plans"
        return f"{match.name} draws the first picture {levels:.1f} levels (of 255) from the recorded one: {says}"

    def _own_facts(self, own: StoreInfo, settings: Mapping[str, Any]) -> Facts:
        known = "jepa plan knows it" if own.env_id in envs.TASKS else "jepa plan does not know it"
        said = (
            f"{self._counted()}, written by jepa export: columns, names, bounds, rate, splits and seeds come back",
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
            said=said,
        )

    def _names(self, columns: Sequence[str]) -> tuple[str, ...]:
        """A name for every number of these columns."""
        names: list[str] = []
        for column in columns:
            size = math.prod(self.set.info.numbers[column])
            given = self.set.info.names[column] if column in self.set.info.names else ()
            inner = given if len(given) == size else [str(k) for k in range(size)]
            names += [column] if self.set.info.numbers[column] == () else [f"{column}[{part}]" for part in inner]
        return tuple(names)

    def _action_names(self) -> tuple[str, ...]:
        given = self.set.info.names["action"] if "action" in self.set.info.names else ()
        return given if len(given) == self.action_size else tuple(f"action[{k}]" for k in range(self.action_size))

    def _counted(self) -> str:
        return f"{self.keys.format}: {len(self.set.episodes)} episodes of {self.set.info.env}"

    def _said(self) -> tuple[str, ...]:
        """What became what, and what was left."""
        contents, match = self.set.info, self.match
        more = [name for name in contents.images if name != self.pixels]
        used = {*self.state, *self.truth, *self.proprio}
        rest = [name for name in contents.numbers if name not in used] + ([contents.unread] if contents.unread else [])
        made = "recorded" if contents.state or self.chosen.state else "no simulator's state is recorded: as truth"
        if self.pixels:
            height, width = contents.images[self.pixels][:2]
            pixels = f"{self.pixels} {width}x{height}{f' (not: {join_names(more)})' if more else ''}"
        else:
            pixels = f"drawn from the states, {self.size_px}x{self.size_px}"
        truth = join_names(self.truth) or "nothing" if match is None else f"what {match.name} says of these states"
        rate = "recorded" if contents.rate else "as fps= says" if match is None else f"those of {match.name}"
        lines = [
            f"{self._counted()}, {self.fps:g} frames a second ({rate})",
            f"pixels <- {pixels}; action <- {self.action_size} numbers",
            f"state <- {join_names(self.state) or 'nothing'} ({made}); truth <- {truth}; "
            f"proprio <- {join_names(self.proprio) or 'nothing'}",
            f"left out: {join_names(rest) or 'nothing'}",
        ]
        return tuple(lines)
