"""The tasks `dmc/<domain>`: poses of dm_control suite models (arXiv 1801.00690) as goals; pure numpy.

The distance is the largest joint error; angles of joints that turn freely are wrapped, and a weight per joint brings
lengths to the unit of the distance. The position of a walker along its track has weight 0, and its camera follows it:
the same pose gives the same image everywhere, but for the floor. Velocities do not count either: one image does not
show them, and most of these poses cannot be held. Goals are therefore states that actions have reached, and success is
reaching one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Any

from envs.task_spec import LargestError, PoseTargets, TaskSpec


@dataclass(frozen=True)
class Joint:
    """A joint, in the model's order. Starts are uniform between `low` and `high`, in its unit.

    `turns`: it turns without limits. `weight`: distance per unit of error; 0 where it is no part of the pose.
    """

    name: str
    low: float
    high: float
    unit: str = "rad"
    turns: bool = False
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SuiteTask(TaskSpec):
    """A pose task, with the facts of its domain that the model file does not contain."""

    distance_unit: str = "rad"
    budget: int = 30
    goal_offset: int = 20
    control_step_s: float = 0.05
    frame_skip: int = 2
    domain: str
    camera: str
    joints: tuple[Joint, ...]
    view_deg: float | None = None  # field of view, where the suite's hides something
    without: tuple[str, ...] = ()  # bodies that are deleted from the suite's model
    settle_s: float = 0.0  # time in which a random pose comes to rest before an episode starts
    # The script pulls the site `hand` to the geom `thing` and away again; without a hand, it is correlated noise.
    hand: str | None = None
    thing: str | None = None


def build_suite_task(domain: str, joints: tuple[Joint, ...], actions: tuple[str, ...], **fields: Any) -> SuiteTask:
    """The task of a domain: truth, distance and probe targets from its joints, and the other `fields`."""
    truth_names = (*(joint.name for joint in joints), *(f"{joint.name} velocity" for joint in joints))
    posed = [index for index, joint in enumerate(joints) if joint.weight > 0]
    turning = tuple(index for index, joint in enumerate(joints) if joint.turns)
    angles = tuple(index for index in posed if index in turning)
    return SuiteTask(
        domain=domain,
        name=f"dmc/{domain}",
        joints=joints,
        action_low=(-1.0,) * len(actions),
        action_high=(1.0,) * len(actions),
        action_names=actions,
        truth_names=truth_names,
        truth_units=(*(joint.unit for joint in joints), *(f"{joint.unit}/s" for joint in joints)),
        proprio_names=truth_names,
        distance=LargestError(len(joints), turning, tuple(joint.weight for joint in joints)),
        probe_targets=PoseTargets(angles, tuple(index for index in posed if index not in turning)),
        **fields,
    )


_LEG = {"hip": (-0.35, 1.75), "knee": (-2.62, 0.0), "ankle": (-0.78, 0.78)}  # ranges

CARTPOLE = build_suite_task(
    domain="cartpole",
    description="A cart on a rail with a pole that turns freely; the goal is a pose of both.",
    camera="fixed",
    joints=(Joint("slider", -1.0, 1.0, "m"), Joint("hinge_1", -pi, pi, turns=True)),
    actions=("cart force",),
    thresholds=(0.1, 0.05, 0.03),
    min_goal_distance=1.0,
    distance_bins=(1.0, 1.5, 2.0, 2.5, 3.5),
    view_deg=55.0,
)
FINGER = build_suite_task(
    domain="finger",
    description="A two-joint finger that turns a spinner; the goal is a pose of both.",
    camera="cam0",
    joints=(Joint("proximal", -1.9, 1.9), Joint("distal", -1.9, 1.9), Joint("hinge", -pi, pi, turns=True)),
    actions=("proximal torque", "distal torque"),
    thresholds=(0.3, 0.2, 0.1),
    min_goal_distance=0.6,
    distance_bins=(0.6, 1.0, 1.5, 2.0, 4.0),
    hand="touchtop",
    thing="cap1",
)
BALL_IN_CUP = build_suite_task(
    domain="ball_in_cup",
    description="A cup and a ball on a string; the goal is the place of both.",
    camera="cam0",
    joints=(
        *(Joint("cup_x", -0.1, 0.1, "m"), Joint("cup_z", -0.1, 0.1, "m")),
        *(Joint("ball_x", -0.2, 0.2, "m"), Joint("ball_z", 0.2, 0.5, "m")),
    ),
    actions=("cup force x", "cup force z"),
    thresholds=(0.04, 0.03, 0.02),
    min_goal_distance=0.15,
    distance_bins=(0.15, 0.25, 0.35, 0.5, 1.0),
    distance_unit="m",
    settle_s=0.3,
)
CHEETAH = build_suite_task(
    domain="cheetah",
    description="A planar runner with two legs; the goal is a pose, wherever it stands.",
    camera="side",
    joints=(
        *(Joint("rootx", 0.0, 0.0, "m", weight=0.0), Joint("rootz", 0.0, 0.0, "m")),
        Joint("rooty", 0.0, 0.0, turns=True),
        *(Joint("bthigh", -0.52, 1.04), Joint("bshin", -0.87, 0.87), Joint("bfoot", -4.0, 0.87)),
        *(Joint("fthigh", -0.99, 0.0), Joint("fshin", -1.22, 0.87), Joint("ffoot", -0.48, 0.48)),
    ),
    actions=tuple(f"{name} torque" for name in ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot")),
    thresholds=(0.2, 0.1, 0.05),
    min_goal_distance=0.7,
    distance_bins=(0.7, 0.85, 1.0, 1.5, 4.0),
    settle_s=2.0,
)
WALKER = build_suite_task(
    domain="walker",
    description="A planar walker that has fallen; the goal is a pose, wherever it lies.",
    camera="side",
    joints=(
        *(Joint("rootz", 0.0, 0.0, "m"), Joint("rootx", 0.0, 0.0, "m", weight=0.0)),
        Joint("rooty", -pi, pi, turns=True),
        *(Joint(f"{side}_{name}", *_LEG[name]) for side in ("right", "left") for name in _LEG),
    ),
    actions=tuple(f"{side} {name} torque" for side in ("right", "left") for name in _LEG),
    thresholds=(0.5, 0.4, 0.3),
    min_goal_distance=0.8,
    distance_bins=(0.8, 1.0, 1.5, 2.0, 4.0),
    settle_s=2.0,
)
MANIPULATOR = build_suite_task(
    domain="manipulator",
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
    thresholds=(0.4, 0.3, 0.2),
    min_goal_distance=0.6,
    distance_bins=(0.6, 1.0, 1.5, 2.0, 4.0),
    without=("peg", "target_ball", "target_peg", "slot", "cup"),
    settle_s=0.5,
    hand="grasp",
    thing="ball",
)

DMC_TASKS = {task.name: task for task in (CARTPOLE, FINGER, BALL_IN_CUP, CHEETAH, WALKER, MANIPULATOR)}
