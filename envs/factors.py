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
from envs.presets import require_preset
from envs.task_spec import suggest_names

# The texture comes first: colours tint what is there.
GROUPS = ("texture", "colour", "light", "camera", "size", "mass", "friction")
ALL = "all"
_DERIVING = {"light", "camera", "size", "mass"}  # groups whose values MuJoCo derives constants from

_SHIFT, _UNSEEN_SHIFT = 0.3, 0.45  # of a colour's red, green and blue, where 1 is full: largest seen and unseen
_LEAST_UNSEEN = 0.05  # width of an unseen interval of colours below which a colour is as good as full or dark

Interval = tuple[float, float]


@dataclass(frozen=True)
class Factor:
    """One number an episode, uniform between `low` and `high`, or an index of `choices`.

    `unseen` holds intervals beside low to high that training never has. `write(model, value)` changes a model in which
    everything is as compiled or as other factors left it.
    """

    name: str
    group: str
    unit: str
    default: float
    low: float
    high: float
    write: Callable[[Any, float], None] = field(repr=False)
    choices: tuple[str, ...] = ()
    unseen: tuple[Interval, ...] = ()

    def draw_value(self, rng: np.random.Generator, unseen: bool = False) -> float:
        """A value from the training range, or from an unseen interval, each as likely, where there is one."""
        if self.choices:
            return float(rng.integers(len(self.choices)))
        intervals = self.unseen if unseen and self.unseen else ((self.low, self.high),)
        index = rng.integers(len(intervals)) if len(intervals) > 1 else 0
        return float(rng.uniform(*intervals[index]))

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

    def sample(self, rng: np.random.Generator, unseen: bool = False) -> NDArray[np.float64]:
        """Values `[F]` of one episode, of the training ranges or of the unseen ones."""
        return np.array([factor.draw_value(rng, unseen) for factor in self.factors], np.float64)

    def redraw(
        self, values: NDArray[np.float64], rng: np.random.Generator, variation: str, groups: Sequence[str]
    ) -> NDArray[np.float64]:
        """Values `[F]` in which the factors of `groups` are drawn anew as in a preset, or are at their defaults.

        Raises `ValueError` for an unknown preset or group, and where no factor of the groups is switched on.
        """
        require_preset(variation)
        _require_groups(groups)
        if variation == "none":
            return np.array([f.default if f.group in groups else v for f, v in self._pair(values)])
        if not {factor.group for factor in self.factors} & set(groups):
            raise ValueError(
                f"no factor of {', '.join(groups)} is switched on, so none can be drawn anew: "
                f"collect with env.variation=seen, or with env.factors=[{','.join(groups)}]"
            )
        unseen = variation == "unseen"
        return np.array([f.draw_value(rng, unseen) if f.group in groups else v for f, v in self._pair(values)])

    def _pair(self, values: NDArray[np.float64]) -> list[tuple[Factor, float]]:
        return list(zip(self.factors, values.tolist(), strict=True))

    def write(self, model: mujoco.MjModel, values: NDArray[np.float64]) -> None:
        """Write values `[F]` into a model, whatever was written into it before."""
        if not self.factors:
            return
        write.restore_model(model, self._compiled)
        changed = [pair for pair in self._pair(values) if pair[1] != pair[0].default]
        for factor, value in changed:
            factor.write(model, value)
        if _DERIVING & {factor.group for factor, _ in changed}:
            write.update_constants(model, self._compiled, self._scratch)


def _require_groups(groups: Sequence[str]) -> None:
    """ValueError for an unknown group."""
    for group in groups:
        if group not in GROUPS:
            hint = suggest_names(group, GROUPS)
            raise ValueError(f"groups: {group!r} is no group of factors; {hint}choices: {', '.join(GROUPS)}")


def list_factors(model: mujoco.MjModel, camera: str) -> tuple[Factor, ...]:
    """All factors that change something in this model, seen by this camera, in the order of GROUPS."""
    roles, view = write.find_roles(model), model.camera(camera).id
    looks = (_list_textures(model, roles), _list_colours(model, roles), _list_lights(model), _list_views(model, view))
    return tuple(factor for group in (*looks, _list_bodies(model, roles)) for factor in group)


def _list_textures(model: mujoco.MjModel, roles: write.Roles) -> list[Factor]:
    materials, colours = write.list_floor_materials(model, roles["floor"])
    if not len(roles["floor"]) or len(materials) < 2:
        return []
    choices, numbers = tuple(materials), tuple(materials.values())
    change = partial(write.write_material, geoms=roles["floor"], materials=numbers, colours=colours)
    return [Factor("floor texture", "texture", "choice", 0.0, 0.0, len(choices) - 1.0, change, choices)]


def _list_colours(model: mujoco.MjModel, roles: write.Roles) -> list[Factor]:
    factors = []
    for role, geoms in roles.items():
        for channel, name in enumerate(("red", "green", "blue")) if len(geoms) else ():
            change = partial(write.tint_geoms, geoms=geoms, channel=channel)
            values = write.get_colours(model, geoms)[:, channel]
            ends = max(float(values.max()) - write.DARKEST, 0.0), max(1.0 - float(values.min()), 0.0)
            low, high = (min(_UNSEEN_SHIFT, end) for end in ends)  # beyond, nothing gets darker or brighter
            sides = ((-low, -_SHIFT), (_SHIFT, high))
            unseen = tuple(side for side in sides if side[1] - side[0] >= _LEAST_UNSEEN)
            unit = "of full, added"
            factors.append(Factor(f"{role} {name}", "colour", unit, 0.0, -_SHIFT, _SHIFT, change, unseen=unseen))
    return factors


def _list_lights(model: mujoco.MjModel) -> list[Factor]:
    strength = ((0.4, 0.6), (1.3, 1.6))
    factors = [Factor("light strength", "light", "times", 1.0, 0.6, 1.3, write.scale_light, unseen=strength)]
    for axis, name in enumerate(("x", "y")) if model.nlight else ():
        change, unit = partial(write.shift_lamps, axis=axis), "of its height, added"
        factors.append(Factor(f"light {name}", "light", unit, 0.0, -0.5, 0.5, change, unseen=_get_sides(0.5, 0.8)))
    return factors


def _list_views(model: mujoco.MjModel, view: int) -> list[Factor]:
    factors = []
    for axis, name in enumerate(("right", "up")):
        unit_m, unit = write.measure_view_height(model, view), "of the view's height"
        change = partial(write.shift_camera, camera=view, unit_m=unit_m, axis=axis)
        sides = _get_sides(0.05, 0.08)
        factors.append(Factor(f"camera {name}", "camera", unit, 0.0, -0.05, 0.05, change, unseen=sides))
    roll, zoom = partial(write.roll_camera, camera=view), partial(write.scale_fields, fields=("cam_fovy",), rows=view)
    views = ((0.82, 0.9), (1.1, 1.2))
    factors.append(Factor("camera roll", "camera", "rad", 0.0, -0.1, 0.1, roll, unseen=_get_sides(0.1, 0.17)))
    factors.append(Factor("camera view", "camera", "times (field of view)", 1.0, 0.9, 1.1, zoom, unseen=views))
    return factors


def _list_bodies(model: mujoco.MjModel, roles: write.Roles) -> list[Factor]:
    bodies = {role: np.unique(model.geom_bodyid[roles[role]]) for role in ("agent", "object") if len(roles[role])}
    sizes, scales = ((0.7, 0.8), (1.2, 1.3)), ((0.35, 0.5), (2.0, 3.0))
    factors = []

    def add_scale(group: str, name: str, fields: tuple[str, ...], **rows: Any) -> None:
        change = partial(write.scale_fields, fields=fields, **rows)
        factors.append(Factor(name, group, "times", 1.0, 0.5, 2.0, change, unseen=scales))

    for role, rows in bodies.items():
        change = partial(write.scale_bodies, bodies=rows)
        factors.append(Factor(f"{role} size", "size", "times", 1.0, 0.8, 1.2, change, unseen=sizes))
    for role, rows in bodies.items():
        add_scale("mass", f"{role} mass", ("body_mass", "body_inertia"), rows=rows)
    if write.has_contact_friction(model):
        add_scale("friction", "contact friction", ("geom_friction",))
    if np.any(model.dof_damping) or np.any(model.dof_frictionloss):
        add_scale("friction", "joint friction", ("dof_damping", "dof_frictionloss"))
    return factors


def _get_sides(inner: float, outer: float) -> tuple[Interval, Interval]:
    """The intervals from `inner` to `outer` on both sides of zero."""
    return (-outer, -inner), (inner, outer)
