"""Nuisance that moves within an episode: a floor that drifts, lamps that wander and pulse, a shadow that passes.

All of it is a function of physics time and of an episode's factors of the group `motion`. It is written into MuJoCo's
scene, the list of what is drawn, just before an image is drawn: model and data stay as they are, so no physics reads
it, and the image of a restored state is the same. Imports MuJoCo, as `envs.physics` does.
"""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_TURN = 2 * np.pi
# Name, unit, default, low, high; lengths are shares of the image's height.
FLOOR_MOTION = (
    ("floor speed", "view heights/s", 0.0, -0.15, 0.15),
    ("floor heading", "rad", 0.0, 0.0, _TURN),
)
LAMP_MOTION = (
    ("lamp tilt", "of its direction, added", 0.0, 0.2, 0.8),
    ("lamp pulse", "times, added", 0.0, 0.1, 0.3),
    ("lamp rate", "rad/s", 0.0, 0.5, 2.0),
    ("lamp phase", "rad", 0.0, 0.0, _TURN),
)
SHADOW_MOTION = (
    ("shadow depth", "of full", 0.0, 0.2, 0.4),
    ("shadow radius", "view heights", 0.2, 0.12, 0.3),
    ("shadow right", "view heights", 0.0, -0.5, 0.5),
    ("shadow up", "view heights", 0.0, -0.5, 0.5),
    ("shadow speed", "view heights/s", 0.0, 0.05, 0.25),
    ("shadow heading", "rad", 0.0, 0.0, _TURN),
)

# Those that say how strong motion is; at zero nothing moves.
STRENGTHS = ("floor speed", "lamp tilt", "lamp pulse", "shadow depth")

_DRIFT_RADIUS = 0.1  # of the circle on which the floor drifts, in view heights
_EDGES = 4  # discs of a shadow, of falling size, that make its edge soft
_SMALLEST = 0.7  # size of the smallest disc over that of the largest
_DARKEST_LAMP = 0.05


class Motion:
    """The moving nuisance of one episode."""

    def __init__(self, values: Mapping[str, float], floor: NDArray[np.int64], view_height_m: float) -> None:
        """`values` by the names above, defaults for those that are not there; `floor`: geoms that drift;
        `view_height_m`: height of what the camera sees in the plane through the scene's centre.
        """
        rows = (*FLOOR_MOTION, *LAMP_MOTION, *SHADOW_MOTION)
        self._values = {name: default for name, _, default, _, _ in rows} | dict(values)
        self._floor, self._drift_radius_m = frozenset(floor.tolist()), _DRIFT_RADIUS * view_height_m

    def animate(self, scene: mujoco.MjvScene, time_s: float) -> None:
        """Change what a scene draws to how it looks at a time."""
        view = View(scene)
        if self._values["floor speed"]:
            self._drift_floor(scene, time_s)
        if self._values["lamp tilt"] or self._values["lamp pulse"]:
            self._swing_lamps(scene, view, time_s)
        if self._values["shadow depth"]:
            self._add_shadow(scene, view, time_s)

    def _drift_floor(self, scene: mujoco.MjvScene, time_s: float) -> None:
        """Shift the floor along a circle that starts where it lies, and widen it so that no edge comes into view."""
        # A texture's offset would have to be sent to OpenGL again; a geom's place is read for every image.
        start = self._values["floor heading"]
        angle = start + self._values["floor speed"] / _DRIFT_RADIUS * time_s
        shift = self._drift_radius_m * (_point(angle) - _point(start))
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objtype == int(mujoco.mjtObj.mjOBJ_GEOM) and geom.objid in self._floor:
                geom.dataid = -1  # drawn as large as said here, not as compiled
                geom.pos[:2] += shift
                geom.size[:2] += 2 * self._drift_radius_m

    def _swing_lamps(self, scene: mujoco.MjvScene, view: View, time_s: float) -> None:
        """Tilt all lamps in a circle, and change their strength with it."""
        angle = self._values["lamp phase"] + self._values["lamp rate"] * time_s
        strength = max(1.0 + self._values["lamp pulse"] * np.sin(angle), _DARKEST_LAMP)
        across, along = self._values["lamp tilt"] * _point(angle)
        for light in scene.lights[: scene.nlight]:
            direction = light.dir + across * view.right + along * view.up
            light.dir[:] = direction / np.linalg.norm(direction)
            light.diffuse[:] *= strength

    def _add_shadow(self, scene: mujoco.MjvScene, view: View, time_s: float) -> None:
        """Hold a dark disc with a soft edge before the camera, which leaves the image and returns on the other side."""
        values = self._values
        radius = values["shadow radius"]
        half = 0.5 + radius  # of the square in which the disc's centre moves
        place = np.array([values["shadow right"], values["shadow up"]])
        place += values["shadow speed"] * time_s * _point(values["shadow heading"])
        across, along = (place + half) % (2 * half) - half
        opacity = 1.0 - (1.0 - values["shadow depth"]) ** (0.5 / _EDGES)  # both faces of a disc are drawn
        rotation = np.stack([view.right, view.up, -view.forward], axis=1).ravel()
        for number, share in enumerate(np.linspace(1.0, _SMALLEST, _EDGES)):
            distance_m = view.near_m * (2.0 - 0.1 * number)
            height_m = view.measure_height(distance_m)
            center = view.position + distance_m * view.forward
            center = center + height_m * (across * view.right + along * view.up)
            size = np.array([share * radius * height_m, 1e-3 * view.near_m, 0.0])
            geom = scene.geoms[scene.ngeom]
            black = np.array([0.0, 0.0, 0.0, opacity], np.float32)
            mujoco.mjv_initGeom(geom, int(mujoco.mjtGeom.mjGEOM_CYLINDER), size, center, rotation, black)
            geom.transparent, geom.specular, geom.shininess = 1, 0.0, 0.0
            geom.category = int(mujoco.mjtCatBit.mjCAT_DECOR)
            scene.ngeom += 1


class View:
    """Place and axes of a scene's camera."""

    def __init__(self, scene: mujoco.MjvScene) -> None:
        left, right = scene.camera  # of a pair of eyes
        self.position: Vector = (left.pos + right.pos).astype(np.float64) / 2
        self.forward: Vector = left.forward.astype(np.float64)
        self.up: Vector = left.up.astype(np.float64)
        self.right: Vector = np.cross(self.forward, self.up)
        self.near_m = float(left.frustum_near)
        self._top_m, self.orthographic = float(left.frustum_top - left.frustum_bottom), bool(left.orthographic)

    def measure_height(self, distance_m: float) -> float:
        """Height in metres of what is seen at a distance."""
        return self._top_m if self.orthographic else self._top_m * distance_m / self.near_m


def _point(angle_rad: float) -> Vector:
    """The point `[2]` of the unit circle at an angle."""
    return np.array([np.cos(angle_rad), np.sin(angle_rad)])
