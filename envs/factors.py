"""Factors of variation: what may differ between two episodes of one task beside start and goal.

Colours, the floor's texture, light, camera, size, mass and friction. A factor is one number a episode, written
into MuJoCo's model relative to the model as it was compiled; at its default it writes nothing, so a task whose
factors all lie at their defaults is the task without factors, to the bit. Which factors a task has follows from
its model alone: one without a moving object has no `object` factors, one without a lamp no place of it.

Geoms have one of four roles: `agent` (a body that actuators move, with all that hangs on it), `object` (another
body that moves), `floor` (fixed planes that face upwards) and `walls` (all else that is fixed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs import factor_writes as write
from envs.names import suggest_names

if TYPE_CHECKING:
    import mujoco

# The texture comes first: colours tint what is there.
GROUPS = ("texture", "colour", "light", "camera", "size", "mass", "friction")
ALL = "all"

_SHIFT = 0.3  # of a colour's red, green and blue, where 1 is full


@dataclass(frozen=True)
class Factor:
    """One number an episode, drawn evenly from `low` to `high`, or from `choices` by their place in the list.

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
        """Range or choices, as a list of factors shows them."""
        numbered = ", ".join(f"{number} {choice}" for number, choice in enumerate(self.choices))
        return numbered or f"{self.low:g} to {self.high:g}"


class Variation:
    """The factors of a model that are switched on, in a fixed order."""

    def __init__(self, model: mujoco.MjModel, camera: str, wanted: Sequence[str]) -> None:
        """`wanted` names groups, single factors, or "all"; ValueError for a name that the model has not."""
        offered = list_factors(model, camera) if wanted else ()
        names = {factor.name for factor in offered}
        groups = {factor.group for factor in offered}
        for name in wanted:
            if name not in names | groups | {ALL}:
                raise ValueError(_describe_unknown(name, groups, names))
        chosen = set(wanted)
        self.factors = tuple(f for f in offered if ALL in chosen or {f.name, f.group} & chosen)
        self._untouched: Any = None
        if self.factors:
            self._untouched, self._scratch = write.copy_model(model)

    @property
    def names(self) -> tuple[str, ...]:
        """Names `[F]`."""
        return tuple(factor.name for factor in self.factors)

    @property
    def defaults(self) -> NDArray[np.float64]:
        """Values `[F]` at which everything is as without factors."""
        return np.array([factor.default for factor in self.factors], np.float64)

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Values `[F]` of one episode."""
        return np.array([factor.sample(rng) for factor in self.factors], np.float64)

    def write(self, model: mujoco.MjModel, values: NDArray[np.float64]) -> None:
        """Write values `[F]` into a model, whatever was written into it before."""
        if self._untouched is None:
            return
        write.restore_model(model, self._untouched)
        groups = set()
        for factor, value in zip(self.factors, values, strict=True):
            if value != factor.default:
                factor.write(model, float(value))
                groups.add(factor.group)
        if groups & {"light", "camera", "size", "mass"}:
            write.update_constants(model, self._untouched, self._scratch)


def list_factors(model: mujoco.MjModel, camera: str) -> tuple[Factor, ...]:
    """All factors that mean something in this model, seen by this camera."""
    roles = write.find_roles(model)
    makers = (
        _list_textures(model, roles),
        _list_colours(roles),
        _list_lights(model),
        _list_camera(model, camera),
        _list_bodies(model, roles),
    )
    found = [factor for maker in makers for factor in maker]
    return tuple(sorted(found, key=lambda factor: GROUPS.index(factor.group)))


def _describe_unknown(name: str, groups: set[str], names: set[str]) -> str:
    hint = suggest_names(name, [*groups, *names])
    kept = [group for group in GROUPS if group in groups]
    return f"factors: {name!r} is no factor of this task; {hint}choices: {ALL}, {', '.join(kept)}, or single factors"


def _list_textures(model: mujoco.MjModel, roles: write.Roles) -> Iterator[Factor]:
    looks = write.list_floor_looks(model, roles["floor"])
    if len(looks.geoms) and len(looks.names) > 1:
        change = partial(write.write_floor_look, looks=looks)
        yield Factor("floor texture", "texture", "choice", 0.0, 0.0, len(looks.names) - 1.0, change, looks.names)


def _list_colours(roles: write.Roles) -> Iterator[Factor]:
    for role, geoms in roles.items():
        for channel, colour in enumerate(("red", "green", "blue")):
            if len(geoms):
                change = partial(write.tint_geoms, geoms=geoms, channel=channel)
                yield Factor(f"{role} {colour}", "colour", "of full, added", 0.0, -_SHIFT, _SHIFT, change)


def _list_lights(model: mujoco.MjModel) -> Iterator[Factor]:
    yield Factor("light strength", "light", "times", 1.0, 0.6, 1.3, write.scale_light)
    for axis, name in enumerate(("x", "y")) if model.nlight else ():
        yield Factor(
            f"light {name}", "light", "of its height, added", 0.0, -0.5, 0.5, partial(write.shift_lamps, axis=axis)
        )


def _list_camera(model: mujoco.MjModel, camera: str) -> Iterator[Factor]:
    index = model.camera(camera).id
    height_m = write.measure_view_height(model, index)
    for axis, name in enumerate(("right", "up")):
        change = partial(write.move_camera, camera=index, axis=axis, unit_m=height_m)
        yield Factor(f"camera {name}", "camera", "of the view's height", 0.0, -0.05, 0.05, change)
    yield Factor("camera roll", "camera", "rad", 0.0, -0.1, 0.1, partial(write.roll_camera, camera=index))
    yield Factor(
        "camera view", "camera", "times (field of view)", 1.0, 0.9, 1.1, partial(write.zoom_camera, camera=index)
    )


def _list_bodies(model: mujoco.MjModel, roles: write.Roles) -> Iterator[Factor]:
    for role in ("agent", "object"):
        geoms = roles[role]
        if len(geoms):
            bodies = np.unique(model.geom_bodyid[geoms])
            yield Factor(f"{role} size", "size", "times", 1.0, 0.8, 1.2, partial(write.scale_geoms, geoms=geoms))
            yield Factor(f"{role} mass", "mass", "times", 1.0, 0.5, 2.0, partial(write.scale_mass, bodies=bodies))
    if write.has_contact_friction(model):
        yield Factor("contact friction", "friction", "times", 1.0, 0.5, 2.0, write.scale_contact_friction)
    if np.any(model.dof_damping) or np.any(model.dof_frictionloss):
        yield Factor("joint friction", "friction", "times", 1.0, 0.5, 2.0, write.scale_joint_friction)
