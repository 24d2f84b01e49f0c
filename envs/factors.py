"""Factors of variation: what may differ between two episodes of one task beside start and goal.

Colours, the floor's texture, light, camera, size, mass and friction, and how nuisance moves. A factor is one number an
episode, written into MuJoCo's model relative to the model as compiled. Those of the groups `motion` and `distraction`
are written into what is drawn instead (`envs.motion`, `envs.distractors`). At its default a factor writes nothing, so a
task with all factors at their defaults equals the task without factors, bit for bit. The model decides which factors a
task has: without a moving object there are no `object` factors, without a lamp no `light x`.

Geoms have one of four roles: `agent` (a body that actuators move, with all that is attached), `object` (another
moving body), `floor` (fixed planes that face upwards) and `walls` (all other fixed geoms).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs import factor_writes as write
from envs.distractors import Distractors, EpisodeDistractors
from envs.motion import FLOOR_MOTION, LAMP_MOTION, SHADOW_MOTION, STRENGTHS, Motion
from envs.physics import HELD_OUT_PATTERNS
from envs.presets import DISTRACTING, DISTRACTION, MOTION, require_preset, require_strength
from envs.task_spec import suggest_names

# The texture comes first: colours tint what is there.
GROUPS = ("texture", "colour", "light", "camera", "size", "mass", "friction", MOTION, DISTRACTION)
ALL = "all"  # but MOTION and DISTRACTION
_DERIVING = {"light", "camera", "size", "mass"}  # groups whose values MuJoCo derives constants from

_SHIFT, _UNSEEN_SHIFT = 0.3, 0.45  # of a colour's red, green and blue, where 1 is full: largest seen and unseen
# Unseen colours are drawn until agent, object and walls differ so much from the floor, or so many times.
_LEAST_CONTRAST, _MOST_DRAWS = 0.4, 100

Interval = tuple[float, float]


@dataclass(frozen=True)
class Factor:
    """One number an episode, uniform between `low` and `high`, or an index of `choices`.

    `unseen` holds intervals beside low to high, and `held_out` further choices, that training never has.
    `write(model, value)` changes a model in which everything is as compiled or as other factors left it; None where
    the factor is not in the model.
    """

    name: str
    group: str
    unit: str
    default: float
    low: float
    high: float
    write: Callable[[Any, float], None] | None = field(default=None, repr=False)
    choices: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    unseen: tuple[Interval, ...] = ()

    def draw_value(self, rng: np.random.Generator, unseen: bool = False, strength: float = 1.0) -> float:
        """A value from the training range, or from an unseen interval, each as likely, where there is one.

        `strength` multiplies how far an unseen value lies outside the training range, and how strong motion is.
        """
        if self.choices:
            first = len(self.choices)
            held_out = unseen and self.held_out
            return float(first + rng.integers(len(self.held_out)) if held_out else rng.integers(first))
        intervals = self.unseen if unseen and self.unseen else ((self.low, self.high),)
        index = rng.integers(len(intervals)) if len(intervals) > 1 else 0
        value = float(rng.uniform(*intervals[index]))
        if unseen and self.unseen:
            edge = min(max(value, self.low), self.high)
            return (1.0 - strength) * edge + strength * value  # exact at 0 and 1
        return strength * value if self.name in STRENGTHS else value

    @property
    def range_text(self) -> str:
        """Range or choices of training, for a list of factors."""
        return _number_choices(self.choices) or f"{self.low:g} to {self.high:g}"

    @property
    def unseen_text(self) -> str:
        """What training never has, for a list of factors."""
        intervals = ", ".join(f"{low:g} to {high:g}" for low, high in self.unseen)
        return _number_choices(self.held_out, len(self.choices)) or intervals


def _number_choices(choices: tuple[str, ...], first: int = 0) -> str:
    return ", ".join(f"{number} {choice}" for number, choice in enumerate(choices, first))


class Variation:
    """The factors of a model that are switched on, in a fixed order."""

    def __init__(
        self,
        model: mujoco.MjModel,
        camera: str,
        wanted: Sequence[str],
        moving: bool = False,
        distractors: Distractors | None = None,
    ) -> None:
        """`wanted` lists groups, single factors, or "all"; `moving` switches on the group `motion`, and `distractors`
        the group `distraction`.

        Raises `ValueError` for a name that the model does not have, and for motion where nothing moves.
        """
        self._compiled = copy.copy(model) if wanted else model
        offered = list_factors(model, camera) if wanted else ()
        _require_names(wanted, offered, moving)
        named = {factor.name for factor in offered if factor.group == MOTION} & set(wanted)
        chosen = {*wanted, MOTION} if moving and not named else set(wanted)
        self._distractors = distractors
        own = tuple(f for f in offered if chosen & {f.name, f.group} or (ALL in chosen and f.group != MOTION))
        self.factors = own + _list_distraction(distractors)
        self.names = tuple(factor.name for factor in self.factors)
        self.defaults = np.array([factor.default for factor in self.factors], np.float64)  # those of the compiled model
        if own:
            self._scratch, self._trial = mujoco.MjData(model), copy.copy(model)
            self._roles = write.find_roles(model)
            self._view_height_m = write.measure_view_height(model, model.camera(camera).id)

    def sample(self, rng: np.random.Generator, unseen: bool = False, held_out: bool = False) -> NDArray[np.float64]:
        """Values `[F]` of one episode, of the training ranges or of the unseen ones; `held_out`: and of videos that
        training never has."""
        return self._draw_distraction(self._draw(self.defaults, rng, GROUPS, unseen), rng, held_out)

    def _draw(
        self,
        values: NDArray[np.float64],
        rng: np.random.Generator,
        groups: Collection[str],
        unseen: bool,
        strength: float = 1.0,
    ) -> NDArray[np.float64]:
        """Values `[F]` in which the factors of `groups` are drawn."""
        # From a generator of its own, so that all other draws are the same at every strength.
        is_held_out = unseen and (strength >= 1.0 or rng.spawn(1)[0].random() < strength)
        for _ in range(_MOST_DRAWS if unseen else 1):
            drawn = values.copy()
            for index, factor in enumerate(self.factors):
                if factor.group in groups and factor.group != DISTRACTION:
                    drawn[index] = factor.draw_value(rng, is_held_out if factor.choices else unseen, strength)
            if not unseen or self._measure_contrast(drawn) >= _LEAST_CONTRAST:
                break
        return drawn

    def _draw_distraction(
        self, values: NDArray[np.float64], rng: np.random.Generator, held_out: bool
    ) -> NDArray[np.float64]:
        """Values `[F]` in which distractors are drawn."""
        pairs = self._pair(values)
        return np.array([f.draw_value(rng, held_out) if f.group == DISTRACTION else v for f, v in pairs], np.float64)

    def _measure_contrast(self, values: NDArray[np.float64]) -> float:
        """How far agent, object and walls differ from the floor, see `factor_writes.measure_contrast`."""
        write.restore_model(self._trial, self._compiled)
        for factor, value in self._pair(values):
            if factor.group in ("texture", "colour") and value != factor.default and factor.write is not None:
                factor.write(self._trial, value)
        return write.measure_contrast(self._trial, self._roles)

    def redraw(
        self,
        values: NDArray[np.float64],
        rng: np.random.Generator,
        variation: str,
        groups: Sequence[str],
        strength: float = 1.0,
        held_out: bool = True,
    ) -> NDArray[np.float64]:
        """Values `[F]` in which the factors of `groups` are drawn anew as in a preset, or are at their defaults.

        Motion is drawn for `moving`, and rests otherwise. Distractors are drawn for the preset that they were made for,
        from videos that training never has (`held_out`) or from its own, and are off otherwise. `strength` (0 to 2)
        scales `unseen` and `moving`. Raises `ValueError` for an unknown preset or group, a strength of another preset,
        and where no factor of the groups, no motion, or no distractor is switched on.
        """
        require_preset(variation)
        require_strength(variation, strength)
        _require_groups(groups)
        groups_on = {factor.group for factor in self.factors}
        if variation == "moving" and MOTION not in groups_on:
            raise ValueError("variation=moving: this environment has no moving nuisance; make it with variation=moving")
        distracting = variation in DISTRACTING
        if distracting and self._distractors is None:
            raise ValueError(f"variation={variation}: this environment has no distractors; make it with that variation")
        if variation in ("seen", "unseen") and not groups_on & set(groups):
            raise ValueError(
                f"no factor of {', '.join(groups)} is switched on, so none can be drawn anew: "
                f"collect with env.variation=seen, or with env.factors=[{','.join(groups)}]"
            )
        reset = {MOTION, DISTRACTION, *(groups if variation == "none" or distracting else ())}
        values = np.array([f.default if f.group in reset else v for f, v in self._pair(values)], np.float64)
        if variation == "none":
            return values
        if distracting:
            return self._draw_distraction(values, rng, held_out)
        drawn = {*groups, MOTION} if variation == "moving" else set(groups) - {MOTION}
        return self._draw(values, rng, drawn, variation == "unseen", strength)

    def build_motion(self, values: NDArray[np.float64]) -> Motion | None:
        """The moving nuisance of an episode with values `[F]`, or None where nothing moves."""
        moving = {factor.name: value for factor, value in self._pair(values) if factor.group == MOTION}
        return Motion(moving, self._roles["floor"], self._view_height_m) if moving else None

    def build_distractors(self, values: NDArray[np.float64]) -> EpisodeDistractors | None:
        """The distractors of an episode with values `[F]`, or None for a scene without any."""
        own = {factor.name: value for factor, value in self._pair(values) if factor.group == DISTRACTION}
        return self._distractors.build_episode(own) if self._distractors else None

    def list_offered(self, camera: str) -> tuple[Factor, ...]:
        """All factors of the model as compiled, switched on or not, and those of distractors."""
        return list_factors(self._compiled, camera) + _list_distraction(self._distractors)

    def _pair(self, values: NDArray[np.float64]) -> list[tuple[Factor, float]]:
        return list(zip(self.factors, values.tolist(), strict=True))

    def write(self, model: mujoco.MjModel, values: NDArray[np.float64]) -> None:
        """Write values `[F]` into a model, whatever was written into it before."""
        if not any(factor.write for factor in self.factors):
            return
        write.restore_model(model, self._compiled)
        changed = [pair for pair in self._pair(values) if pair[1] != pair[0].default]
        for factor, value in changed:
            if factor.write is not None:
                factor.write(model, value)
        if _DERIVING & {factor.group for factor, _ in changed}:
            write.update_constants(model, self._compiled, self._scratch)


def _require_names(wanted: Sequence[str], offered: Sequence[Factor], moving: bool) -> None:
    """ValueError for a name that is no factor or group of the model, and for motion where nothing moves."""
    names, groups = {factor.name: factor.group for factor in offered}, {factor.group for factor in offered}
    for name in wanted:
        if name not in {ALL, *names, *groups}:
            choices = ", ".join([ALL, *sorted(groups, key=GROUPS.index)])
            hint = suggest_names(name, [*groups, *names])
            raise ValueError(
                f"factors: {name!r} is no factor of this task; {hint}choices: {choices}, or single factors"
            )
        if not moving and MOTION in (name, names.get(name)):
            raise ValueError(f"factors: {name!r} moves within an episode; it needs variation=moving (env.variation)")


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
    groups = (*looks, _list_bodies(model, roles), _list_motion(roles))
    return tuple(factor for group in groups for factor in group)


def _list_textures(model: mujoco.MjModel, roles: write.Roles) -> list[Factor]:
    materials, colours = write.list_floor_materials(model, roles["floor"])
    if not len(roles["floor"]) or len(materials) < 2:
        return []
    change = partial(write.write_material, geoms=roles["floor"], materials=tuple(materials.values()), colours=colours)
    seen = tuple(name for name in materials if name not in HELD_OUT_PATTERNS)
    held_out = tuple(name for name in materials if name in HELD_OUT_PATTERNS)
    return [Factor("floor texture", "texture", "choice", 0.0, 0.0, len(seen) - 1.0, change, seen, held_out)]


def _list_colours(model: mujoco.MjModel, roles: write.Roles) -> list[Factor]:
    factors = []
    for role, geoms in roles.items():
        for channel, name in enumerate(("red", "green", "blue")) if len(geoms) else ():
            change = partial(write.tint_geoms, geoms=geoms, channel=channel)
            unseen = _get_sides(_SHIFT, _UNSEEN_SHIFT)
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
    views = ((1.1, 1.25),)  # from nearer, shifted as far, the image would lose what lies at the border
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


def _list_motion(roles: write.Roles) -> list[Factor]:
    rows = (*(FLOOR_MOTION if len(roles["floor"]) else ()), *LAMP_MOTION, *SHADOW_MOTION)
    return [Factor(name, MOTION, unit, *values) for name, unit, *values in rows]


def _list_distraction(distractors: Distractors | None) -> tuple[Factor, ...]:
    rows = distractors.list_rows() if distractors else ()
    return tuple(Factor(group=DISTRACTION, default=0.0, **row) for row in rows)


def _get_sides(inner: float, outer: float) -> tuple[Interval, Interval]:
    """The intervals from `inner` to `outer` on both sides of zero."""
    return (-outer, -inner), (inner, outer)
