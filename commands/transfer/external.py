"""Data sets of other programs as `jepa import` takes them: which of their columns become ours, at which rate and size.

A data set written by `jepa export` is restored as it was. For any other, `columns` choose; by default the first camera
becomes `pixels`, what sets the simulator up `state`, all other numbers `truth`, and the robot's own `proprio`. With
`environment`, state and truth are that environment's, and so are the pictures where none were recorded. The choices are
printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import envs
from commands.shared.errors import UsageError, describe_choices, join_names
from commands.shared.runs import to_json_value
from commands.transfer.keys import ColumnsConfig, ImportKeys, list_cameras
from commands.transfer.recordings import Array, Facts, Recording
from commands.transfer.simulator import SIZE_PX, Simulator
from data.formats.dataset import (
    DataSetInfo,
    ExternalDataSet,
    ExternalEpisode,
    ExternalError,
    check_fps,
    check_rows,
    list_number_columns,
)
from data.pictures import View, join_cameras
from data.schema import Column, StoreInfo

REWARD = Column("reward", (), "float32")
ROUNDING = 1e-6  # beyond the bounds of an action that does not count
SAME_CAMERA_LEVELS = 12  # mean difference of two pictures, of 255 levels, below which they count as of one camera


class ExternalImport:
    """A data set that `open_set` opens."""

    def __init__(self, open_set: Callable[[Path], ExternalDataSet], keys: ImportKeys) -> None:
        self._open, self.keys = open_set, keys
        self.action_size = 0
        self.left_out: list[str] = []
        self.clipped, self.counted = 0, 0  # numbers of actions: beyond the simulator's bounds, and all
        self.simulator: Simulator | None = None
        self.columns = keys.columns

    def find(self, path: Path) -> Sequence[ExternalEpisode]:
        self.set = self._open(path)
        self.left_out = self.set.left_out
        self._select_columns(self.set.info)
        return self.set.episodes

    def _select_columns(self, contents: DataSetInfo) -> None:
        """Choose the columns, the picture size and the rate. UsageError for a choice that the data set cannot serve."""
        asked, wanted = list_cameras("columns.pixels", self.columns.pixels), self.keys.environment
        refused = [name for name in asked or contents.refused if name in contents.refused]
        if refused and (asked or not contents.images and wanted is None):
            raise UsageError(f"{self.keys.path}: {refused[0]} {contents.refused[refused[0]]}")
        if not contents.images and wanted is None:
            raise UsageError(
                f"{self.keys.path} holds no pictures (it has: {join_names(contents.numbers) or 'nothing'}): give "
                f"environment=, which draws them where positions and velocities are recorded; or {self.set.render_hint}"
            )
        self.cameras: tuple[str, ...] = ()
        if contents.images:
            cameras = asked or tuple(contents.images)[:1]
            self.cameras = tuple(self._find_column("pixels", name, contents.images) for name in cameras)
        if len(self.cameras) > 1 and wanted is not None:
            raise UsageError(f"environment={wanted} draws one camera: choose one by columns.pixels={self.cameras[0]}")
        self.pictures_hw = [self.set.measure_pictures(name) for name in self.cameras] or [(SIZE_PX, SIZE_PX)]
        self.size_px = int(self.keys.size or min(map(min, self.pictures_hw)))
        self.frame_hw = (self.size_px, self.size_px * max(1, len(self.cameras)))
        if contents.store_info is not None:
            if self.columns != ColumnsConfig(self.columns.pixels) or wanted is not None:
                raise UsageError(
                    f"columns.* and environment: {self.keys.path} was made by jepa export and comes back as it was"
                )
            scale = self.size_px / min(self.pictures_hw[0])
            self.frame_hw = (round(scale * self.pictures_hw[0][0]), round(scale * self.pictures_hw[0][1]))
            self.fps = self._find_rate(contents)
            return
        if wanted is not None:
            theirs = contents.env_kwargs if str(wanted) == f"{envs.GYM}{contents.env}" else {}
            self.simulator = Simulator(str(wanted), self.size_px, {**theirs, **self.keys.environment_kwargs})
        self.fps = self._find_rate(contents)
        others = tuple(name for name in contents.numbers if name not in contents.state)
        self.truth = self._find_columns("truth", self.columns.truth, contents.truth or others or contents.state)
        self.proprio = self._find_columns("proprio", self.columns.proprio, contents.proprio)
        self.state = self._find_columns("state", self.columns.state, contents.state) or self.truth
        if self.simulator is not None:
            self.simulator.check_state(len(self._name_numbers(self.state)))
            self.truth = ()  # the environment computes the truth from the state

    def _find_column(self, key: str, name: str, there: Mapping[str, Any]) -> str:
        if name not in there:
            raise UsageError(f"columns.{key}={name} is not in {self.keys.path}{describe_choices(name, there)}")
        return name

    def _find_columns(self, key: str, wanted: tuple[str, ...] | None, usual: tuple[str, ...]) -> tuple[str, ...]:
        there = self.set.info.numbers
        return usual if wanted is None else tuple(self._find_column(key, name, there) for name in wanted)

    def _find_rate(self, contents: DataSetInfo) -> float:
        """Frames a second: the recorded rate, since actions across skipped frames cannot be combined."""
        recorded = contents.rate if contents.store_info is None else 1 / contents.store_info.step_s
        path, asked = self.keys.path, self.keys.fps
        if self.simulator is not None:
            simulated = 1 / self.simulator.task.control_step_s
            if recorded is not None and not math.isclose(recorded, simulated, rel_tol=1e-2):
                raise UsageError(
                    f"environment={self.simulator.name} makes {simulated:g} steps a second and {path} has {recorded:g} "
                    "frames"
                )
            recorded = simulated
        if asked is not None:
            check_fps(asked)
        if asked is not None and recorded is not None and not math.isclose(asked, recorded, rel_tol=1e-6):
            raise UsageError(
                f"fps={asked:g}: {path} has {recorded:g} frames a second and is imported at that rate (leave fps out); "
                "training leaves frames out by objective.frame_gap"
            )
        rate = asked if recorded is None else recorded
        if rate is None:
            raise UsageError(
                f"format={self.keys.format} records no rate: give fps=, the steps a second of {contents.env} "
                "(20 for robosuite and OGBench's manipulation, 10 for its point and ant mazes, 10 for Push-T)"
            )
        return float(rate)

    def read(self, episode: ExternalEpisode) -> Recording:
        own = self.set.info.store_info
        columns = self._read_exported(episode, own) if own is not None else self._read_columns(episode)
        frames = len(columns["time_s"])
        if frames < self.keys.least_frames:
            raise ExternalError(f"{episode.name} has {frames} frames, fewer than {self.keys.least_frames}")
        size, simulator = columns["action"].shape[1], self.simulator
        self.action_size = self.action_size or size
        if simulator is not None and size != len(simulator.task.action_low):
            ours = len(simulator.task.action_low)
            raise ExternalError(f"{episode.name} has actions of {size} numbers, {simulator.name} of {ours}")
        if size != self.action_size:
            raise ExternalError(f"{episode.name} has actions of {size} numbers, those before it {self.action_size}")
        if simulator is not None:
            columns["action"] = self._clip_actions(columns["action"], simulator)
        pictures = join_cameras([partial(self.set.read_pictures, episode, name) for name in self.cameras])
        if not self.cameras:
            assert simulator is not None
            rendered, states = simulator, columns["state"]

            def pictures(size_hw: tuple[int, int], view: View) -> Array:  # states are drawn in the right size
                return rendered.render(states)

        return Recording(episode.name, columns, pictures, (), episode.split, episode.seed, episode.factors)

    def _clip_actions(self, actions_TA: Array, simulator: Simulator) -> Array:
        """The actions that the environment executes, which clips to its bounds; counts the numbers beyond them."""
        executed = np.clip(actions_TA, simulator.task.action_low, simulator.task.action_high).astype(np.float32)
        self.counted += actions_TA.size
        self.clipped += int((np.abs(executed - actions_TA) > ROUNDING).sum())
        return executed

    def _read_exported(self, episode: ExternalEpisode, own: StoreInfo) -> dict[str, Array]:
        """Every column as it was, of the same shape and type."""
        names = {column.name: self.set.external_name(column.name) for column in list_number_columns(own)}
        numbers = self.set.read_numbers(episode, list(names.values()))
        columns = {"action": numbers["action"]}
        for column in list_number_columns(own):
            rows = numbers[names[column.name]]
            check_rows(str(episode.name), column.name, rows, len(columns["action"]) + 1, column.shape)
            columns[column.name] = np.asarray(rows, column.dtype).reshape(len(rows), *column.shape)
        return columns

    def _read_columns(self, episode: ExternalEpisode) -> dict[str, Array]:
        names = dict.fromkeys((*self.state, *self.truth, *self.proprio))
        numbers = self.set.read_numbers(episode, list(names))
        frames = len(numbers["action"]) + 1

        for name in names:
            check_rows(str(episode.name), name, numbers[name], frames, self.set.info.numbers[name])
        if "reward" in numbers:
            check_rows(str(episode.name), "reward", numbers["reward"], frames, ())

        def concatenate(wanted: Sequence[str], dtype: str) -> Array:
            with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
                parts = [np.asarray(numbers[name], dtype).reshape(frames, -1) for name in wanted]
            return np.concatenate([np.zeros((frames, 0), dtype), *parts], axis=1)

        state, truth = concatenate(self.state, "float64"), concatenate(self.truth, "float32")
        if self.simulator is not None:
            state = self.simulator.build_states(state)
            truth = self.simulator.compute_truth(state)
        columns = {"action": numbers["action"], "time_s": np.arange(frames) / self.fps, "state": state, "truth": truth}
        if self.proprio:
            columns["proprio"] = concatenate(self.proprio, "float32")
        if "reward" in numbers:
            columns["reward"] = np.asarray(numbers["reward"], np.float32).reshape(frames)
        return columns

    def list_picture_notes(self) -> Sequence[str]:
        return self.set.notes

    def collect_facts(self) -> Facts:
        """Facts of the data set, of the environment that `environment` names, or of the file that was exported."""
        info, simulator = self.set.info, self.simulator
        names = ("format", "view", "least_frames", "columns")
        settings = {key: to_json_value(getattr(self.keys, key)) for key in names}
        settings |= {"size": self.size_px, "fps": self.fps}
        if len(self.cameras) > 1:
            settings["cameras"] = len(self.cameras)
        if info.store_info is not None:
            return self._restore_facts(info.store_info, settings)
        proprio = Column("proprio", (len(self._name_numbers(self.proprio)),), "float32")
        truth_names = self._name_numbers(self.truth)
        facts = Facts(
            env_id=f"{self.keys.format}/{info.env}",
            env_kwargs=info.env_kwargs,
            action_names=self._name_actions(),
            truth_names=truth_names,
            truth_units=("",) * len(truth_names),
            state_size=len(self._name_numbers(self.state)),
            extra=(proprio, REWARD) if self.proprio else (REWARD,),
            step_s=1 / self.fps,
            frame_hw=self.frame_hw,
            settings=settings,
            bounds=info.bounds,
            summary=self._summarise(),
        )
        if simulator is None:
            return facts
        task = simulator.task
        return replace(
            facts,
            env_id=simulator.name,
            env_kwargs=simulator.kwargs,
            action_names=task.action_names,
            truth_names=task.truth_names,
            truth_units=task.truth_units,
            state_size=simulator.env.state_size,
            step_s=task.control_step_s,
            settings={**settings, "environment": simulator.name},
            bounds=(task.action_low, task.action_high),
            render=simulator.env.get_render_settings(),
            summary=(*facts.summary, self._compare_pictures(simulator), self._describe_clipping(simulator)),
        )

    def _compare_pictures(self, simulator: Simulator) -> str:
        """How far the environment's picture of the first state is from the recorded one."""
        if not self.cameras:
            return f"pictures are drawn by {simulator.name}"
        episode = self.set.episodes[0]
        recorded = self.set.read_pictures(episode, self.cameras[0], self.frame_hw, self.keys.view)[0]
        rendered = simulator.render(self._read_columns(episode)["state"][:1])[0]
        levels = float(np.abs(recorded.astype(float) - rendered).mean())
        camera = (
            "the same camera" if levels < SAME_CAMERA_LEVELS else "another camera or look, which would mislead plans"
        )
        return f"{simulator.name} draws the first picture {levels:.1f} levels (of 255) from the recorded one: {camera}"

    def _describe_clipping(self, simulator: Simulator) -> str:
        """How many numbers of the actions lay beyond the environment's bounds."""
        if not self.clipped:
            return f"all actions are within the bounds of {simulator.name}"
        return (
            f"{self.clipped / self.counted:.2%} of the numbers in actions are beyond the bounds of {simulator.name} "
            "and are clipped to them, as that executes them"
        )

    def _restore_facts(self, own: StoreInfo, settings: Mapping[str, Any]) -> Facts:
        """Facts of a file that was exported."""
        known = "jepa plan knows it" if own.env_id in envs.TASKS else "jepa plan does not know it"
        shared = {item.name for item in fields(Facts)} & {item.name for item in fields(StoreInfo)}
        return Facts(
            **{name: getattr(own, name) for name in shared},
            frame_hw=self.frame_hw,
            settings={**settings, "origin": dict(own.source)},
            origin=own.source,
            bounds=(own.action_low, own.action_high),
            summary=(
                f"{self._count_episodes()}, written by jepa export: columns, names, bounds, rate, splits and seeds "
                "are kept",
                f"environment {' '.join([own.env_id, *(f'{k}={v}' for k, v in own.env_kwargs.items())])}: {known}",
            ),
        )

    def _name_numbers(self, columns: Sequence[str]) -> tuple[str, ...]:
        """A name for every number of these columns."""
        names: list[str] = []
        for column in columns:
            size = math.prod(self.set.info.numbers[column])
            given = self.set.info.names.get(column, ())
            inner = given if len(given) == size else [str(k) for k in range(size)]
            names += [column] if self.set.info.numbers[column] == () else [f"{column}[{part}]" for part in inner]
        return tuple(names)

    def _name_actions(self) -> tuple[str, ...]:
        given = self.set.info.names.get("action", ())
        return given if len(given) == self.action_size else tuple(f"action[{k}]" for k in range(self.action_size))

    def _count_episodes(self) -> str:
        return f"{self.keys.format}: {len(self.set.episodes)} episodes of {self.set.info.env}"

    def _summarise(self) -> tuple[str, ...]:
        """Lines on the source of each of our columns, and on what is left out."""
        info, simulator = self.set.info, self.simulator
        unused = [name for name in info.images if name not in self.cameras]
        used = {*self.state, *self.truth, *self.proprio}
        rest = [name for name in info.numbers if name not in used] + list(info.unread)
        origin = "recorded" if info.state or self.columns.state else "no simulator's state is recorded: as truth"
        pixels = f"drawn from the states, {self.size_px}x{self.size_px}"
        if self.cameras:
            sizes = zip(self.cameras, self.pictures_hw, strict=True)
            shown = " beside ".join(f"{name} {width}x{height}" for name, (height, width) in sizes)
            pixels = f"{shown}{f' (not: {join_names(unused)})' if unused else ''}"
        state, proprio, left_out = (join_names(names) or "nothing" for names in (self.state, self.proprio, rest))
        truth, given = join_names(self.truth) or "nothing", "as fps= sets"
        if simulator is not None:
            truth, given = f"what {simulator.name} computes from these states", f"those of {simulator.name}"
        return (
            f"{self._count_episodes()}, {self.fps:g} frames a second ({'recorded' if info.rate else given})",
            f"pixels <- {pixels}; action <- {self.action_size} numbers",
            f"state <- {state} ({origin}); truth <- {truth}; proprio <- {proprio}",
            f"left out: {left_out}",
        )
