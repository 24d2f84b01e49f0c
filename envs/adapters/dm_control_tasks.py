"""The tasks `dmc/<domain>`: poses of dm_control suite models (arXiv 1801.00690) as goals; a table, pure numpy.

A pose is right when every joint that counts is: the distance is the largest joint error, angles of joints that
turn freely wrapped. Lengths are brought to the unit of the distance by a weight a joint, which the table gives.
How far a walker has walked counts for nothing, and its camera follows it: the same pose gives the same picture
everywhere, but for the floor. Velocities count for nothing either: one picture does not show them, and most of
these poses cannot be held. Goals are therefore moments of recorded episodes, and success is reaching one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.task_spec import TaskSpec, wrap_angle


@dataclass(frozen=True)
class Joint:
    """A joint in the model's order. Starts are drawn between `low` and `high`, in its unit.

    `turns`: it turns without end. `weight`: distance for one unit of error; 0 where it is no part of the pose.
    """

    name: str
    low: float
    high: float
    unit: str = "rad"
    turns: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Domain:
    """Facts of one domain that its model file does not say, and how it is used here."""

    name: str
    description: str
    camera: str
    joints: tuple[Joint, ...]
    actions: tuple[str, ...]
    control_step_s: float
    thresholds: tuple[float, ...]
    min_goal_distance: float
    distance_bins: tuple[float, ...]
    goal_offset: int = 20
    budget: int = 30
    distance_unit: str = "rad"
    view_deg: float | None = None  # field of view, where the suite's loses sight of something
    without: tuple[str, ...] = ()  # bodies that are taken out of the suite's model
    settle_s: float = 0.0  # time in which a drawn pose comes to rest before an episode starts
    # The scripted behaviour pulls this site to that geom and away again; without it, it is coloured noise alone.
    hand: str | None = None
    thing: str | None = None


@dataclass(frozen=True)
class PoseDistance:
    """The largest weighted joint error between two truths `[..., L]`, which begin with the joints' positions."""

    weights: tuple[float, ...]
    turns: tuple[bool, ...]

    def __call__(self, truth_a: ArrayLike, truth_b: ArrayLike) -> NDArray[np.float64]:
        """Distance `[...]`."""
        count = len(self.weights)
        error = np.asarray(truth_a, np.float64)[..., :count] - np.asarray(truth_b, np.float64)[..., :count]
        return np.max(np.abs(np.where(self.turns, wrap_angle(error), error)) * self.weights, axis=-1)


@dataclass(frozen=True)
class PoseTargets:
    """The pose as a linear map can read it: sines and cosines of joints that turn, the others as they are."""

    weights: tuple[float, ...]
    turns: tuple[bool, ...]

    def __call__(self, truth: ArrayLike) -> NDArray[np.float64]:
        """Targets `[..., P]`."""
        pose = np.asarray(truth, np.float64)[..., : len(self.weights)]
        counts, turns = np.array(self.weights) > 0, np.array(self.turns)
        angles = pose[..., counts & turns]
        return np.concatenate((np.sin(angles), np.cos(angles), pose[..., counts & ~turns]), -1)


def build_task_spec(domain: Domain) -> TaskSpec:
    """The specification of a domain's task."""
    positions, units = tuple(j.name for j in domain.joints), tuple(j.unit for j in domain.joints)
    facts = tuple(j.weight for j in domain.joints), tuple(j.turns for j in domain.joints)
    return TaskSpec(
        name=f"dmc/{domain.name}",
        description=domain.description,
        distance_unit=domain.distance_unit,
        thresholds=domain.thresholds,
        held_steps=3,
        budget=domain.budget,
        goal_offset=domain.goal_offset,
        min_goal_distance=domain.min_goal_distance,
        distance_bins=domain.distance_bins,
        control_step_s=domain.control_step_s,
        frame_skip=2,
        action_low=(-1.0,) * len(domain.actions),
        action_high=(1.0,) * len(domain.actions),
        action_names=domain.actions,
        truth_names=positions + tuple(f"{name} velocity" for name in positions),
        truth_units=units + tuple(f"{unit}/s" for unit in units),
        proprio_names=positions + tuple(f"{name} velocity" for name in positions),
        distance=PoseDistance(*facts),
        probe_targets=PoseTargets(*facts),
    )


_LEG = ("hip", "knee", "ankle")
_LEG_RANGES = ((-0.35, 1.75), (-2.62, 0.0), (-0.78, 0.78))

CARTPOLE = Domain(
    name="cartpole",
    description="A cart on a rail with a pole that turns freely; the goal is a pose of both.",
    camera="fixed",
    joints=(Joint("slider", -1.0, 1.0, "m"), Joint("hinge_1", -pi, pi, turns=True)),
    actions=("cart force",),
    control_step_s=0.05,
    thresholds=(0.1, 0.05, 0.03),
    min_goal_distance=1.0,
    distance_bins=(1.0, 1.5, 2.0, 2.5, 3.5),
    view_deg=55.0,
)
FINGER = Domain(
    name="finger",
    description="A two-joint finger that turns a spinner; the goal is a pose of both.",
    camera="cam0",
    joints=(Joint("proximal", -1.9, 1.9), Joint("distal", -1.9, 1.9), Joint("hinge", -pi, pi, turns=True)),
    actions=("proximal torque", "distal torque"),
    control_step_s=0.05,
    thresholds=(0.3, 0.2, 0.1),
    min_goal_distance=0.6,
    distance_bins=(0.6, 1.0, 1.5, 2.0, 4.0),
    hand="touchtop",
    thing="cap1",
)
BALL_IN_CUP = Domain(
    name="ball_in_cup",
    description="A cup and a ball on a string; the goal is the place of both.",
    camera="cam0",
    joints=(
        *(Joint("cup_x", -0.1, 0.1, "m"), Joint("cup_z", -0.1, 0.1, "m")),
        *(Joint("ball_x", -0.2, 0.2, "m"), Joint("ball_z", 0.2, 0.5, "m")),
    ),
    actions=("cup force x", "cup force z"),
    control_step_s=0.05,
    thresholds=(0.04, 0.03, 0.02),
    min_goal_distance=0.15,
    distance_bins=(0.15, 0.25, 0.35, 0.5, 1.0),
    distance_unit="m",
    settle_s=0.3,
)
CHEETAH = Domain(
    name="cheetah",
    description="A planar runner with two legs; the goal is a pose, wherever it stands.",
    camera="side",
    joints=(
        *(
            Joint("rootx", 0.0, 0.0, "m", weight=0.0),
            Joint("rootz", 0.0, 0.0, "m"),
            Joint("rooty", 0.0, 0.0, turns=True),
        ),
        *(Joint("bthigh", -0.52, 1.04), Joint("bshin", -0.87, 0.87), Joint("bfoot", -4.0, 0.87)),
        *(Joint("fthigh", -0.99, 0.0), Joint("fshin", -1.22, 0.87), Joint("ffoot", -0.48, 0.48)),
    ),
    actions=tuple(f"{name} torque" for name in ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")),
    control_step_s=0.05,
    thresholds=(0.2, 0.1, 0.05),
    min_goal_distance=0.7,
    distance_bins=(0.7, 0.85, 1.0, 1.5, 4.0),
    settle_s=2.0,
)
WALKER = Domain(
    name="walker",
    description="A planar walker that has fallen; the goal is a pose, wherever it lies.",
    camera="side",
    joints=(
        *(
            Joint("rootz", 0.0, 0.0, "m"),
            Joint("rootx", 0.0, 0.0, "m", weight=0.0),
            Joint("rooty", -pi, pi, turns=True),
        ),
        *(Joint(f"right_{name}", *ends) for name, ends in zip(_LEG, _LEG_RANGES, strict=True)),
        *(Joint(f"left_{name}", *ends) for name, ends in zip(_LEG, _LEG_RANGES, strict=True)),
    ),
    actions=tuple(f"{side} {name} torque" for side in ("right", "left") for name in _LEG),
    control_step_s=0.05,
    thresholds=(0.5, 0.4, 0.3),
    min_goal_distance=0.8,
    distance_bins=(0.8, 1.0, 1.5, 2.0, 4.0),
    settle_s=2.0,
)
MANIPULATOR = Domain(
    name="manipulator",
    description="A planar arm with a hand, and a ball; the goal is a pose of both.",
    camera="fixed",
    joints=(
        *(Joint("arm_root", -pi, pi, turns=True), Joint("arm_shoulder", -2.7, 2.7), Joint("arm_elbow", -2.7, 2.7)),
        *(Joint("arm_wrist", -2.4, 2.4), Joint("thumb", 0.0, 1.0), Joint("thumbtip", 0.0, 0.0, weight=0.0)),
        *(Joint("finger", 0.0, 1.0), Joint("fingertip", 0.0, 0.0, weight=0.0)),
        # The arm is 0.45 m long: 0.1 m at its end is about 0.25 rad.
        *(Joint("ball_x", -0.4, 0.4, "m", weight=2.5), Joint("ball_z", 0.05, 0.6, "m", weight=2.5)),
        Joint("ball_y", 0.0, 0.0, turns=True, weight=0.0),
    ),
    actions=("root torque", "shoulder torque", "elbow torque", "wrist torque", "grasp"),
    control_step_s=0.05,
    thresholds=(0.4, 0.3, 0.2),
    min_goal_distance=0.6,
    distance_bins=(0.6, 1.0, 1.5, 2.0, 4.0),
    without=("peg", "target_ball", "target_peg", "slot", "cup"),
    settle_s=0.5,
    hand="grasp",
    thing="ball",
)

DOMAINS = {domain.name: domain for domain in (CARTPOLE, FINGER, BALL_IN_CUP, CHEETAH, WALKER, MANIPULATOR)}
DMC_TASKS: dict[str, TaskSpec] = {f"dmc/{name}": build_task_spec(domain) for name, domain in DOMAINS.items()}
