"""A scripted pusher of the T: takes it from pose to pose, so that data resembles demonstrations.

Without friction a push acts along the normal of the edge it meets, and a film under the block drags: the block then
moves by the push's wrench over its drag (quasi-static pushing, Lynch and Mason 1996). Of many contacts along the T's
outline, the pusher chooses the one whose motion points most nearly to the wanted pose, with the angle weighted by the
radius of gyration. It walks around the block to stand before the contact, pushes until it gains nothing more, and
chooses again. All in the block's frame, with its centre of mass as origin. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.ball import advance_noise
from envs.point_maze.routes import build_routes
from envs.push_t.spec import UNIT_M
from envs.task_spec import wrap_angle

Vector = NDArray[np.float64]

AGENT_RADIUS_M = 15 * UNIT_M
GYRATION_M = 43.95 * UNIT_M  # radius of gyration of the T; a test compares it with the compiled model
REACH_M = 0.14  # distance that the disc travels in a step at full action
# The T's two boxes [2, 4] around its centre of mass: middle, half size.
BOXES = np.array([[0, 25.714, 60, 15], [0, -34.286, 15, 45]]) * UNIT_M
_CORNERS = np.array([[-60, 40.714], [60, 40.714], [-60, 10.714], [60, 10.714], [-15, -79.286], [15, -79.286]]) * UNIT_M
_OUTWARDS = np.array([[-1, 1], [1, 1], [-1, -1], [1, -1], [-1, -1], [1, -1]], float)
_ROUTES = build_routes(BOXES, _CORNERS, _OUTWARDS, AGENT_RADIUS_M + 0.015)

# Edges in units: from, to, outward normal; inner edges end where the disc meets the other box.
_EDGES = (
    ((-55, 40.714), (55, 40.714), (0, 1)),
    ((-60, 15), (-60, 36), (-1, 0)),
    ((60, 15), (60, 36), (1, 0)),
    ((-55, 10.714), (-31, 10.714), (0, -1)),
    ((31, 10.714), (55, 10.714), (0, -1)),
    ((-15, -74), (-15, -6), (-1, 0)),
    ((15, -74), (15, -6), (1, 0)),
    ((-11, -79.286), (11, -79.286), (0, -1)),
)
_SPACING = 6.0  # units between the contacts on an edge
_STAND_OFF_M, _ARRIVED_M = 0.05, 0.035
_PUSH_M = 0.08  # largest depth into the block that a push aims at; it travels a little less in a step

# Steps after which a pose, a push and a walk are given up; distances at which a pose counts as reached.
_POSE_STEPS, _PUSH_STEPS, _WALK_STEPS = 80, 10, 16
_NEAR_M, _NEAR_RAD = 0.05, 0.2
_RANDOM_PUSH = 0.15  # probability of a random contact
_WALK_COST = 0.15  # metres of the block's error that a metre of walking is worth
_NOISE, _NOISE_RETAINED = 0.2, 0.7
# Astray: range of the number of steps, size of the noise, and its coefficient from step to step.
_STRAY_STEPS, _STRAY_NOISE, _STRAY_RETAINED = (5, 15), 0.8, 0.9


def _list_contacts() -> tuple[Vector, Vector]:
    """Contacts on the outline `[P, 2]` and their outward normals `[P, 2]`."""
    contacts, normals = [], []
    for start, end, normal in _EDGES:
        length = np.hypot(end[0] - start[0], end[1] - start[1])
        share = np.linspace(0, 1, round(length / _SPACING) + 1)[:, None]
        contacts.append((np.array(start) * (1 - share) + np.array(end) * share) * UNIT_M)
        normals.append(np.tile(np.array(normal, float), (len(share), 1)))
    return np.concatenate(contacts), np.concatenate(normals)


CONTACTS, NORMALS = _list_contacts()
_STANDS = CONTACTS + NORMALS * (AGENT_RADIUS_M + _STAND_OFF_M)  # positions of the disc before a push
# The block's motion under a push [P, 3]: metres along both axes, and the angle times the radius of gyration.
_LEVERS = -(CONTACTS[:, 0] * NORMALS[:, 1] - CONTACTS[:, 1] * NORMALS[:, 0]) / GYRATION_M
TWISTS = np.concatenate([-NORMALS, _LEVERS[:, None]], -1)
_SIZES = np.linalg.norm(TWISTS, axis=-1)


def rotate(vector: Vector, angle_rad: float) -> Vector:
    """Vectors `[..., 2]` rotated by an angle."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return vector @ np.array([[cos, sin], [-sin, cos]])


def is_clear(agent: Vector) -> bool:
    """Whether a disc at `agent` `[2]`, in the block's frame, keeps its distance from the block."""
    return bool(_ROUTES.is_visible(agent, agent))


def sample_push(
    agent: Vector,
    block: Vector,
    rng: np.random.Generator,
    memory: dict[str, Any],
    sample_pose: Callable[[np.random.Generator], Vector],
    stray: float = 0.0,
) -> Vector:
    """The pusher's next action `[2]`, for the disc's position `[2]` and the block's pose `[3]`.

    stray: the probability per step that the disc goes astray for some steps, by slow noise. It then meets the block in
    ways that a planner tries and a pusher never does.
    """
    error = _compute_error(block, memory["pose"]) if memory else np.zeros(3)
    reached = np.hypot(error[0], error[1]) < _NEAR_M and abs(error[2]) < _NEAR_RAD * GYRATION_M
    if not memory or reached or memory["pose_steps"] <= 0:
        memory.update(pose=sample_pose(rng), pose_steps=_POSE_STEPS, steps=0)
        memory.setdefault("noise", np.zeros(2))
        memory.setdefault("astray", 0)
        memory["reached"] = memory.get("reached", 0) + int(reached)
        error = _compute_error(block, memory["pose"])
    position = rotate(agent - block[:2], -block[2])
    if memory["steps"] <= 0 or (memory["pushing"] and _compute_gain(memory["contact"], error) < 0.01):
        contact = _choose_contact(position, block, error, rng)
        memory.update(contact=contact, pushing=False, steps=_WALK_STEPS)
    memory["steps"] -= 1
    memory["pose_steps"] -= 1
    if stray and memory["astray"] <= 0 and rng.random() < stray:
        memory.update(astray=int(rng.integers(*_STRAY_STEPS, endpoint=True)), drift=rng.standard_normal(2))
    if memory["astray"] > 0:
        memory["astray"] -= 1
        memory["drift"] = advance_noise(memory["drift"], _STRAY_RETAINED, rng)
        return _STRAY_NOISE * np.asarray(memory["drift"])
    memory["noise"] = advance_noise(memory["noise"], _NOISE_RETAINED, rng)
    return rotate(_plan_move(position, error, memory), block[2]) / REACH_M + _NOISE * memory["noise"]


def _compute_error(block: Vector, wanted: Vector) -> Vector:
    """The remaining motion `[3]` in the block's frame, the angle times the radius of gyration."""
    shift = rotate(wanted[:2] - block[:2], -block[2])
    return np.append(shift, wrap_angle(wanted[2] - block[2]) * GYRATION_M)


def _compute_gain(contact: int, error: Vector) -> float:
    """Metres by which a push at a contact can reduce the error."""
    return float(TWISTS[contact] @ error / _SIZES[contact])


def _choose_contact(position: Vector, block: Vector, error: Vector, rng: np.random.Generator) -> int:
    """The contact with the largest gain less the cost of the walk, or at times a random one."""
    inside = (np.abs(block[:2] + rotate(_STANDS, block[2])) < 1.0 - AGENT_RADIUS_M).all(-1)
    if rng.random() < _RANDOM_PUSH:
        return int(rng.choice(np.flatnonzero(inside)))
    gains = TWISTS @ error / _SIZES - _WALK_COST * np.linalg.norm(_STANDS - position, axis=-1)
    return int(np.where(inside, gains, -np.inf).argmax())


def _plan_move(position: Vector, error: Vector, memory: dict[str, Any]) -> Vector:
    """The disc's move `[2]` in this step, in the block's frame: to the stand, then a push."""
    contact = memory["contact"]
    normal = NORMALS[contact]
    if not memory["pushing"]:
        if np.linalg.norm(_STANDS[contact] - position) > _ARRIVED_M:
            move = _plan_walk(position, _STANDS[contact])
            return move * min(1.0, REACH_M / max(float(np.linalg.norm(move)), 1e-9))
        memory.update(pushing=True, steps=_PUSH_STEPS)
    along = np.array([-normal[1], normal[0]])
    sideways = along * ((CONTACTS[contact] - position) @ along)
    depth = np.clip(_compute_gain(contact, error) / _SIZES[contact] * 1.2, 0.04, _PUSH_M)
    return sideways - normal * depth


def _plan_walk(position: Vector, stand: Vector) -> Vector:
    """A move `[2]` towards a stand without touching the block; away from the block where it is touched."""
    if not is_clear(position):
        gaps = position - np.clip(position, BOXES[:, :2] - BOXES[:, 2:], BOXES[:, :2] + BOXES[:, 2:])
        gap = gaps[np.linalg.norm(gaps, axis=-1).argmin()]
        return gap / max(float(np.linalg.norm(gap)), 1e-6) * 0.06
    return _ROUTES.find_waypoint(position, stand, 0.02) - position
