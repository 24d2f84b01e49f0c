"""Factors of variation: what may differ between two episodes of one task beside start and goal.

Colours, the floor's texture, light, camera, size, mass and friction. A factor is one number an episode, written
into MuJoCo's model relative to the model as compiled. At its default a factor writes nothing, so a task with all
factors at their defaults equals the task without factors, bit for bit. The model decides which factors a task has:
without a moving object there are no `object` factors, without a lamp no `light x`.

Geoms have one of four roles: `agent` (a body that actuators move, with all that is attached), `object` (another
moving body), `floor` (fixed planes that face upwards) and `walls` (all other fixed geoms).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs import factor_writes as write
from envs.task_spec import suggest_names

# The texture comes first: colours tint what is there.
GROUPS = ("texture", "colour", "light", "camera", "size", "mass", "friction")
ALL = "all"
_DERIVING = {"light", "camera", "size", "mass"}  # groups whose values MuJoCo derives constants from

_SHIFT = 0.3  # of a colour's red, green and blue, where 1 is full


@dataclass(frozen=True)
class Factor:
    """One number an episode, uniform between `low` and `high`, or an index of `choices`.

    `write(model, value)` changes a model in which everything is as compiled or as other factors left it.
    """

    name: str
    group: str
    unit: str
    default: float
    low: float
    high: float
    write: Callable[[Any, float], None] = field(repr=False)
    choices: tuple[str, ...] = ()

    def sample(self, rng: np.random.Generator) -> float:
        """A value for one episode."""
        return float(rng.integers(len(self.choices))) if self.choices else float(rng.uniform(self.low, self.high))

    @property
    def range_text(self) -> str:
        """Range or choices, for a list of factors."""
        numbered = ", ".join(f"{number} {choice}" for number, choice in enumerate(self.choices))
        return numbered or f"{self.low:g} to {self.high:g}"


class Variation:
    """The factors of a model that are switched on, in a fixed order."""

    def __init__(self, model: mujoco.MjModel, camera: str, wanted: Sequence[str]) -> None:
        """`wanted` lists groups, single factors, or "all"; ValueError for a name that the model does not have."""
        factors = list_factors(model, camera) if wanted else ()
        names, groups = {factor.name for factor in factors}, {factor.group for factor in factors}
        for name in wanted:
            if name not in names | groups | {ALL}:
                choices = ", ".join([ALL, *sorted(groups, key=GROUPS.index)])
                hint = suggest_names(name, [*groups, *names])
                raise ValueError(
                    f"factors: {name!r} is no factor of this task; {hint}choices: {choices}, or single factors"
                )
        self.factors = tuple(f for f in factors if {ALL, f.name, f.group} & set(wanted))
        self.names = tuple(factor.name for factor in self.factors)
        self.defaults = np.array([factor.default for factor in self.factors], np.float64)  # those of the compiled model
        if self.factors:
            self._compiled, self._scratch = copy.copy(model), mujoco.MjData(model)

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Values `[F]` of one episode."""
        return np.array([factor.sample(rng) for factor in self.factors], np.float64)

    def write(self, model: mujoco.MjModel, values: NDArray[np.float64]) -> None:
        """Write values `[F]` into a model, whatever was written into it before."""
        if not self.factors:
            return
        write.restore_model(model, self._compiled)
        changed = [pair for pair in zip(self.factors, values.tolist(), strict=True) if pair[1] != pair[0].default]
        for factor, value in changed:
            factor.write(model, value)
        if _DERIVING & {factor.group for factor, _ in changed}:
            write.update_constants(model, self._compiled, self._scratch)


def list_factors(model: mujoco.MjModel, camera: str) -> tuple[Factor, ...]:
    """All factors that change something in this model, seen by this camera."""
    roles, index = write.find_roles(model), model.camera(camera).id
    looks = [*_list_textures(model, roles["floor"]), *_list_colours(roles), *_list_lights(model)]
    factors = [*looks, *_list_views(model, index), *_list_bodies(model, roles)]
    return tuple(sorted(factors, key=lambda factor: GROUPS.index(factor.group)))


def _list_textures(model: mujoco.MjModel, geoms: write.Indices) -> Iterator[Factor]:
    materials, colours = write.list_floor_materials(model, geoms)
    if len(geoms) and len(materials) > 1:
        change = partial(write.write_material, geoms=geoms, materials=tuple(materials.values()), colours=colours)
        yield Factor("floor texture", "texture", "choice", 0.0, 0.0, len(materials) - 1.0, change, tuple(materials))


def _list_colours(roles: write.Roles) -> Iterator[Factor]:
    for role, geoms in roles.items():
        for channel, colour in enumerate(("red", "green", "blue")) if len(geoms) else ():
            change = partial(write.tint_geoms, geoms=geoms, channel=channel)
            yield Factor(f"{role} {colour}", "colour", "of full, added", 0.0, -_SHIFT, _SHIFT, change)


def _list_lights(model: mujoco.MjModel) -> Iterator[Factor]:
    yield Factor("light strength", "light", "times", 1.0, 0.6, 1.3, write.scale_light)
    for axis, name in enumerate(("x", "y")) if model.nlight else ():
        change = partial(write.shift_lamps, axis=axis)
        yield Factor(f"light {name}", "light", "of its height, added", 0.0, -0.5, 0.5, change)


def _list_views(model: mujoco.MjModel, camera: int) -> Iterator[Factor]:
    height_m = write.measure_view_height(model, camera)
    for axis, name in enumerate(("right", "up")):
        change = partial(write.shift_camera, camera=camera, axis=axis, unit_m=height_m)
        yield Factor(f"camera {name}", "camera", "of the view's height", 0.0, -0.05, 0.05, change)
    yield Factor("camera roll", "camera", "rad", 0.0, -0.1, 0.1, partial(write.roll_camera, camera=camera))
    zoom = partial(write.scale_fields, fields=("cam_fovy",), rows=camera)
    yield Factor("camera view", "camera", "times (field of view)", 1.0, 0.9, 1.1, zoom)


def _list_bodies(model: mujoco.MjModel, roles: write.Roles) -> Iterator[Factor]:
    for role in ("agent", "object"):
        if len(roles[role]):
            bodies = np.unique(model.geom_bodyid[roles[role]])
            grow = partial(write.scale_bodies, bodies=bodies)
            weigh = partial(write.scale_fields, fields=("body_mass", "body_inertia"), rows=bodies)
            yield Factor(f"{role} size", "size", "times", 1.0, 0.8, 1.2, grow)
            yield Factor(f"{role} mass", "mass", "times", 1.0, 0.5, 2.0, weigh)
    joints = ("dof_damping", "dof_frictionloss")
    if write.has_contact_friction(model):
        rub = partial(write.scale_fields, fields=("geom_friction",))
        yield Factor("contact friction", "friction", "times", 1.0, 0.5, 2.0, rub)
    if any(np.any(getattr(model, name)) for name in joints):
        brake = partial(write.scale_fields, fields=joints)
        yield Factor("joint friction", "friction", "times", 1.0, 0.5, 2.0, brake)
