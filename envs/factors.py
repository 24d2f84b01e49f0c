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
from collections.abc import Callable, Sequence
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
        values = [rng.integers(len(f.choices)) if f.choices else rng.uniform(f.low, f.high) for f in self.factors]
        return np.array(values, np.float64)

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
    """All factors that change something in this model, seen by this camera, in the order of GROUPS."""
    roles, view = write.find_roles(model), model.camera(camera).id
    bodies = {role: np.unique(model.geom_bodyid[roles[role]]) for role in ("agent", "object") if len(roles[role])}
    factors = []

    def add(group: str, name: str, unit: str, values: tuple[float, float, float], writer: Any, **kwargs: Any) -> None:
        factors.append(Factor(name, group, unit, *values, partial(writer, **kwargs)))

    materials, colours = write.list_floor_materials(model, roles["floor"])
    if len(roles["floor"]) and len(materials) > 1:
        choices, numbers = tuple(materials), tuple(materials.values())
        change = partial(write.write_material, geoms=roles["floor"], materials=numbers, colours=colours)
        factors.append(Factor("floor texture", "texture", "choice", 0.0, 0.0, len(choices) - 1.0, change, choices))
    for role, geoms in roles.items():
        for channel, name in enumerate(("red", "green", "blue")) if len(geoms) else ():
            values = (0.0, -_SHIFT, _SHIFT)
            add("colour", f"{role} {name}", "of full, added", values, write.tint_geoms, geoms=geoms, channel=channel)
    add("light", "light strength", "times", (1.0, 0.6, 1.3), write.scale_light)
    for axis, name in enumerate(("x", "y")) if model.nlight else ():
        add("light", f"light {name}", "of its height, added", (0.0, -0.5, 0.5), write.shift_lamps, axis=axis)
    shift = partial(write.shift_camera, camera=view, unit_m=write.measure_view_height(model, view))
    for axis, name in enumerate(("right", "up")):
        add("camera", f"camera {name}", "of the view's height", (0.0, -0.05, 0.05), shift, axis=axis)
    add("camera", "camera roll", "rad", (0.0, -0.1, 0.1), write.roll_camera, camera=view)
    scale = write.scale_fields
    add("camera", "camera view", "times (field of view)", (1.0, 0.9, 1.1), scale, fields=("cam_fovy",), rows=view)
    for role, rows in bodies.items():
        add("size", f"{role} size", "times", (1.0, 0.8, 1.2), write.scale_bodies, bodies=rows)
    for role, rows in bodies.items():
        add("mass", f"{role} mass", "times", (1.0, 0.5, 2.0), scale, fields=("body_mass", "body_inertia"), rows=rows)
    if write.has_contact_friction(model):
        add("friction", "contact friction", "times", (1.0, 0.5, 2.0), scale, fields=("geom_friction",))
    if np.any(model.dof_damping) or np.any(model.dof_frictionloss):
        add("friction", "joint friction", "times", (1.0, 0.5, 2.0), scale, fields=("dof_damping", "dof_frictionloss"))
    return tuple(factors)
