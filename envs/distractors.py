"""Distractors of a scene: a camera, colours and lamps that differ or wander, and a background.

All of it is a function of physics time and of an episode's factors of the group `distraction`, so the image of a
restored state is the same. Camera, colours and lamps are written into MuJoCo's scene just before an image is drawn; the
background is put into the image afterwards, where the floor, drawn black, or nothing at all is seen. Model and data
stay as they are, so no physics reads it. `envs.distraction` has the limits. Imports MuJoCo, as `envs.physics` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.backgrounds import PROCEDURAL, Background, Picture, Video, VideoFolder, count_steps
from envs.distraction import STEP_S, Setting
from envs.factor_writes import DARKEST, find_roles, get_colours, measure_view
from envs.motion import View

Vector = NDArray[np.float64]

INTENSITY, SEED, VIDEO, START = "distraction intensity", "distraction seed", "video", "video start"
_SEEDS = 2**53  # that a factor between 0 and 1 tells apart
_CAMERA, _COLOUR, _LIGHT, _BACKGROUND = range(4)  # streams of random numbers
_GEOM = int(mujoco.mjtObj.mjOBJ_GEOM)
_STEP_STD = 0.03  # of colours and lamps, times the intensity
_MOST_EPISODES = 512  # whose walks are kept


class Walk:
    """Values `[n]` by step, each made from the one before, and kept."""

    def __init__(self, first: Vector, advance: Callable[[Vector], Vector]) -> None:
        self._path, self._advance = [first], advance

    def get(self, step: int) -> Vector:
        """The values at a step, drawn in order up to there."""
        while len(self._path) <= step:
            self._path.append(self._advance(self._path[-1]))
        return self._path[step]


def walk_within(low: Vector, high: Vector, std: float, rng: np.random.Generator) -> Walk:
    """A walk that begins anywhere between its limits, and whose steps are normal numbers."""
    first = rng.uniform(low, high)
    return Walk(first, lambda values: np.clip(values + std * rng.standard_normal(values.shape), low, high))


def walk_camera(size: float, lowest: float, rng: np.random.Generator) -> Walk:
    """Yaw, pitch, distance (1: the task's own) and roll of a camera, then the velocity of each.

    Its velocity is a walk of its own, in the directions right, up and away, in units of the task's own distance.
    `lowest`: the least pitch. See `envs.distraction` for the limits at an intensity `size`.
    """
    half_turn = np.pi / 2 * size
    low = np.array([-half_turn, max(-half_turn, lowest), 1 - 0.5 * size, -half_turn])
    high = np.array([half_turn, half_turn, 1 + 1.5 * size, half_turn])
    # The suite's velocities hold for a camera 4 m away, so they are a quarter of that in its distances.
    std, most, roll_std, most_roll = 0.1 * size / 4, 0.4 * size / 4, np.pi / 300 * size, np.pi / 50 * size
    heading = rng.standard_normal(3)
    velocity = heading / np.linalg.norm(heading) * rng.uniform(0, most)
    first = np.concatenate([rng.uniform(low, high), velocity, rng.uniform(-most_roll, most_roll, 1)])

    def advance(values: Vector) -> Vector:
        place, noise = values[:4], rng.standard_normal(4)
        velocity = values[4:7] + std * noise[:3]
        velocity *= min(1.0, most / max(float(np.sqrt(velocity @ velocity)), 1e-12))
        roll = min(max(values[7] + roll_std * noise[3], -most_roll), most_roll)
        distance = place[2]
        step = np.array([velocity[0] / distance, velocity[1] / distance, velocity[2], roll])
        moved = np.minimum(np.maximum(place + step, low), high)
        made = (moved - place) * np.array([distance, distance, 1.0, 1.0])  # a limit stops the walk there
        return np.concatenate([moved, made])

    return Walk(first, advance)


@dataclass(frozen=True)
class SceneFacts:
    """What distractors need to know of a model.

    floor: geoms in whose place the background is seen; colours: [n, 3] of the paints, which are materials, or colours
    of geoms; paints: row there by geom; distance_m: from the camera to the point it looks at; lowest: least pitch of
    the camera in radians, so that it stays above the ground.
    """

    floor: frozenset[int]
    colours: Vector
    paints: Mapping[int, int]
    distance_m: float
    lowest: float


def read_facts(model: mujoco.MjModel, camera: str, setting: Setting) -> SceneFacts:
    """The facts of a model as compiled."""
    distance_m, towards = measure_view(model, model.camera(camera).id)
    looks_down = bool(towards[2] < -0.9)
    roles = find_roles(model)
    replaces_floor = looks_down if setting.replaces_floor is None else setting.replaces_floor
    floor = roles["floor"].tolist() if replaces_floor and setting.hides_floor else []
    geoms = np.concatenate([roles[role] for role in sorted(roles)])
    looks = np.concatenate([model.geom_matid[geoms][:, None], get_colours(model, geoms)[:, :3]], axis=1)
    paints, rows = np.unique(looks.astype(np.float64), axis=0, return_inverse=True)
    by_geom = dict(zip(geoms.tolist(), rows.ravel().tolist(), strict=True))
    lowest = -np.inf if looks_down else -float(np.arcsin(np.clip(-towards[2], 0, 1)))
    return SceneFacts(frozenset(floor), paints[:, 1:], by_geom, distance_m, lowest)


class EpisodeDistractors:
    """The distractors of one episode, at its intensity."""

    def __init__(
        self, setting: Setting, facts: SceneFacts, values: Mapping[str, float], background: Background | None
    ) -> None:
        """`values`: the episode's factors by name."""
        self._setting, self._facts, self._background = setting, facts, background
        self._drawn: tuple[float, Picture] | None = None
        size = values[INTENSITY]

        def walk(kind: str, stream: int, make: Callable[[np.random.Generator], Walk]) -> Walk | None:
            return make(make_rng(values, stream)) if kind in setting.kinds else None

        self._camera = walk("camera", _CAMERA, lambda rng: walk_camera(size, facts.lowest, rng))
        self._colours = walk("colour", _COLOUR, lambda rng: self._draw_colours(size, rng))
        limits = np.full(3, size)  # brightness, and a lamp's tilt to two sides
        self._lamps = walk("light", _LIGHT, lambda rng: walk_within(-limits, limits, _STEP_STD * size, rng))

    def animate(self, scene: mujoco.MjvScene, time_s: float) -> None:
        """Change what a scene draws to how it looks at a time."""
        step = count_steps(time_s, STEP_S) if self._setting.dynamic else 0
        colours = self._colours.get(step).reshape(-1, 3) if self._colours else None
        if colours is not None or self._facts.floor:
            self._paint_geoms(scene, colours)
        if self._lamps:
            _change_lamps(scene, self._lamps.get(step))
        if self._camera:
            _move_camera(scene, self._camera.get(step)[:4], self._facts.distance_m)

    def finish(self, frame: Picture, time_s: float) -> None:
        """Put the background into an image `[H, W, 3]`."""
        if self._background is None:
            return
        picture = self._draw_background(time_s if self._setting.dynamic else 0.0)
        if self._background.lies_on_scene:
            frame[:] = (frame.astype(np.uint16) * picture + 127) // 255
        else:
            np.copyto(frame, picture, where=~frame.any(axis=-1, keepdims=True))

    def _draw_background(self, time_s: float) -> Picture:
        if self._drawn is None or self._drawn[0] != time_s:  # one that stands still is drawn once
            assert self._background is not None
            self._drawn = time_s, self._background.draw(time_s)
        return self._drawn[1]

    def _draw_colours(self, size: float, rng: np.random.Generator) -> Walk:
        """Numbers that are added to the paints' channels."""
        own = self._facts.colours.ravel()
        low, high = np.minimum(DARKEST, own) - own, 1 - own
        if self._setting.is_normal:
            return Walk(np.clip(size * rng.standard_normal(own.shape), low, high), np.copy)
        return walk_within(np.maximum(low, -size), np.minimum(high, size), _STEP_STD * size, rng)

    def _paint_geoms(self, scene: mujoco.MjvScene, added: Vector | None) -> None:
        """Add to the colours of all geoms `[paint, 3]`, and draw the floor that is replaced black."""
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objtype != _GEOM:
                continue
            if geom.objid in self._facts.floor:
                geom.matid, geom.rgba[:3], geom.emission, geom.specular = -1, 0.0, 0.0, 0.0
            elif added is not None and geom.objid in self._facts.paints:
                geom.rgba[:3] = np.clip(geom.rgba[:3] + added[self._facts.paints[geom.objid]], DARKEST, 1.0)


def make_rng(values: Mapping[str, float], stream: int) -> np.random.Generator:
    """The generator of one kind of distractor in an episode with these factors."""
    return np.random.default_rng([int(values[SEED] * _SEEDS), stream])


def _change_lamps(scene: mujoco.MjvScene, change: Vector) -> None:
    """Make all lamps brighter or darker, and tilt them."""
    view = View(scene)
    for light in scene.lights[: scene.nlight]:
        direction = light.dir + change[1] * view.right + change[2] * view.up
        light.dir[:] = direction / np.linalg.norm(direction)
        light.diffuse[:] *= 1 + change[0]


def _move_camera(scene: mujoco.MjvScene, place: Vector, distance_m: float) -> None:
    """Carry the camera around the point that it looks at by yaw, pitch, distance and roll."""
    view = View(scene)
    (cos_yaw, cos_pitch, _, cos_roll), (sin_yaw, sin_pitch, _, sin_roll) = np.cos(place), np.sin(place)
    target, zoom = view.position + distance_m * view.forward, place[2]
    across = sin_yaw * view.right - cos_yaw * view.forward
    away, up = cos_pitch * across + sin_pitch * view.up, cos_pitch * view.up - sin_pitch * across
    right = cos_yaw * view.right + sin_yaw * view.forward
    up = cos_roll * up + sin_roll * right
    # A camera without perspective sees more from afar, not from nearer: its frame grows in place of its distance.
    position = target + distance_m * (1.0 if view.orthographic else zoom) * away
    for camera in scene.camera:
        camera.pos[:], camera.forward[:], camera.up[:] = position, -away, up
        if view.orthographic:
            for name in ("frustum_bottom", "frustum_top", "frustum_width", "frustum_center"):
                setattr(camera, name, getattr(camera, name) * zoom)
    for light in scene.lights[: scene.nlight]:
        if light.headlight:
            light.pos[:], light.dir[:] = position, -away


class Distractors:
    """The distractors of an environment: what its preset asks for, and what its model shows."""

    def __init__(self, setting: Setting, model: mujoco.MjModel, camera: str, size_px: int) -> None:
        """Raises `ValueError` for a folder without videos."""
        self.setting, self._size_px = setting, size_px
        self._facts = read_facts(model, camera, setting)
        self._kept: dict[bytes, EpisodeDistractors] = {}
        self._videos = VideoFolder(setting.video_folder, size_px) if setting.video_folder else None
        self._played: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        if self._videos:
            training, held_out = self._videos.training, self._videos.held_out
            self._played = (
                training[: setting.count_videos(len(training))],
                held_out[: setting.count_videos(len(held_out))],
            )

    def list_rows(self) -> list[dict[str, Any]]:
        """Arguments of the factors of the group, see `envs.factors.Factor`."""
        size, (training, held_out) = self.setting.intensity, self._played
        rows: list[dict[str, Any]] = [
            {"name": INTENSITY, "unit": "of full", "low": size, "high": size},
            {"name": SEED, "unit": "of all seeds", "low": 0.0, "high": 1.0},
        ]
        if self._videos:
            chosen = {"choices": training, "held_out": held_out}
            rows.append({"name": VIDEO, "unit": "choice", "low": 0.0, "high": len(training) - 1.0, **chosen})
            rows.append({"name": START, "unit": "of its length", "low": 0.0, "high": 1.0})
        return rows

    def build_episode(self, values: Mapping[str, float]) -> EpisodeDistractors | None:
        """The distractors of an episode with these factors, or None for a plain scene."""
        if not values[INTENSITY]:
            return None
        key = np.array(list(values.values())).tobytes()
        if key not in self._kept:  # an environment that plays many episodes in turn comes back to each
            if len(self._kept) >= _MOST_EPISODES:
                self._kept.clear()
            self._kept[key] = EpisodeDistractors(self.setting, self._facts, values, self._build_background(values))
        return self._kept[key]

    def _build_background(self, values: Mapping[str, float]) -> Background | None:
        """The background of an episode, or None."""
        rng, names = make_rng(values, _BACKGROUND), [name for part in self._played for name in part]
        if not self.setting.shows_background:
            return None
        if not self._videos:
            return PROCEDURAL[self.setting.background](rng, self._size_px)
        load = partial(self._videos.load, names[int(values[VIDEO])])
        return Video(load, values[START], bool(rng.integers(2)), self.setting.frame_s)
