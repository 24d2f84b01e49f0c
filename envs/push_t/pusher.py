"""A scripted pusher of the T: takes it from pose to pose, so that data shows what demonstrations would.

Without friction a push acts along the normal of the edge it meets, through a film that drags: the block then moves
by the push's wrench over its drag (quasi-static pushing, Lynch and Mason 1996). So, of many places along the T's
outline, the pusher chooses the one whose motion points most nearly to where the block should go, in position and
angle weighed by the radius of gyration; walks around the block to stand before it; pushes until no more is
gained; and chooses again. All in the block's frame, with its centre of mass as origin. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.behaviour import advance_noise
from envs.point_maze.routes import build_routes
from envs.push_t.spec import UNIT_M
from envs.task_spec import wrap_angle

Vector = NDArray[np.float64]

AGENT_RADIUS_M = 15 * UNIT_M
GYRATION_M = 43.95 * UNIT_M  # radius of gyration of the T; a test compares it with the compiled model
REACH_M = 0.14  # what the disc travels in a step at full action
# The T's two boxes [2, 4] around its centre of mass: middle, half size.
BOXES = np.array([[0, 25.714, 60, 15], [0, -34.286, 15, 45]]) * UNIT_M
_CORNERS = np.array([[-60, 40.714], [60, 40.714], [-60, 10.714], [60, 10.714], [-15, -79.286], [15, -79.286]]) * UNIT_M
_OUTWARDS = np.array([[-1, 1], [1, 1], [-1, -1], [1, -1], [-1, -1], [1, -1]], float)
ROUTES = build_routes(BOXES, _CORNERS, _OUTWARDS, AGENT_RADIUS_M + 0.015)

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
_SPACING = 6.0  # units between the places on an edge
_STAND_OFF_M, _ARRIVED_M = 0.05, 0.035
_PUSH_M = 0.08  # how deep into the block a push aims at most: what it travels in a step is a little less

# Steps until a pose and a push are given up; how near a pose counts as reached; how often a push is any push.
_POSE_STEPS, _PUSH_STEPS, _WALK_STEPS = 80, 10, 16
_NEAR_M, _NEAR_RAD = 0.05, 0.2
_ANY_PUSH = 0.15
_WALK_COST = 0.15  # metres of the block's error that a metre of walking is worth
_NOISE, _NOISE_KEPT = 0.2, 0.7
# Astray: for how many steps, how far, and how much of a step's noise is the last one's.
_STRAY_STEPS, _STRAY_NOISE, _STRAY_KEPT = (5, 15), 0.8, 0.9


def _contacts() -> tuple[Vector, Vector]:
    """Places on the outline `[P, 2]` and their outward normals `[P, 2]`."""
    places, normals = [], []
    for start, end, normal in _EDGES:
        length = np.hypot(end[0] - start[0], end[1] - start[1])
        share = np.linspace(0, 1, round(length / _SPACING) + 1)[:, None]
        places.append((np.array(start) * (1 - share) + np.array(end) * share) * UNIT_M)
        normals.append(np.tile(np.array(normal, float), (len(share), 1)))
    return np.concatenate(places), np.concatenate(normals)


CONTACTS, NORMALS = _contacts()
# What a push does to the block [P, 3]: metres along both axes, and the angle times the radius of gyration.
_LEVERS = -(CONTACTS[:, 0] * NORMALS[:, 1] - CONTACTS[:, 1] * NORMALS[:, 0]) / GYRATION_M
TWISTS = np.concatenate([-NORMALS, _LEVERS[:, None]], -1)
_SIZES = np.linalg.norm(TWISTS, axis=-1)


def rotate(vector: Vector, angle_rad: float) -> Vector:
    """Vectors `[..., 2]` turned by an angle."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return vector @ np.array([[cos, sin], [-sin, cos]])


def sample_push(
    agent: Vector,
    block: Vector,
    rng: np.random.Generator,
    memory: dict[str, Any],
    random_pose: Callable[[np.random.Generator], Vector],
    stray: float = 0.0,
) -> Vector:
    """The pusher's next action `[2]`, for the disc's place `[2]` and the block's pose `[3]`.

    stray: the chance, a step, that the disc goes astray for some steps, by slow noise: it then meets the block in ways
    that serve nothing, as a planner tries them and a pusher never does.
    """
    error = _compute_error(block, memory["pose"]) if memory else np.zeros(3)
    reached = np.hypot(error[0], error[1]) < _NEAR_M and abs(error[2]) < _NEAR_RAD * GYRATION_M
    if not memory or reached or memory["pose_steps"] <= 0:
        memory.update(pose=random_pose(rng), pose_steps=_POSE_STEPS, steps=0)
        memory.setdefault("noise", np.zeros(2))
        memory.setdefault("astray", 0)
        memory["reached"] = memory.get("reached", 0) + int(reached)
        error = _compute_error(block, memory["pose"])
    place = rotate(agent - block[:2], -block[2])
    if memory["steps"] <= 0 or (memory["pushing"] and _compute_gain(memory["contact"], error) < 0.01):
        contact = _choose_contact(place, block, error, rng)
        memory.update(contact=contact, pushing=False, steps=_WALK_STEPS)
    memory["steps"] -= 1
    memory["pose_steps"] -= 1
    if stray and memory["astray"] <= 0 and rng.random() < stray:
        memory.update(astray=int(rng.integers(*_STRAY_STEPS, endpoint=True)), drift=rng.standard_normal(2))
    if memory["astray"] > 0:
        memory["astray"] -= 1
        memory["drift"] = advance_noise(memory["drift"], _STRAY_KEPT, rng)
        return _STRAY_NOISE * np.asarray(memory["drift"])
    memory["noise"] = advance_noise(memory["noise"], _NOISE_KEPT, rng)
    return rotate(_plan_move(place, error, memory), block[2]) / REACH_M + _NOISE * memory["noise"]


def _compute_error(block: Vector, wanted: Vector) -> Vector:
    """What is left to go `[3]` in the block's frame, the angle times the radius of gyration."""
    left = rotate(wanted[:2] - block[:2], -block[2])
    return np.append(left, wrap_angle(wanted[2] - block[2]) * GYRATION_M)


def _compute_gain(contact: int, error: Vector) -> float:
    """By how much a push at a contact can bring the block nearer, metres."""
    return float(TWISTS[contact] @ error / _SIZES[contact])


def _choose_contact(place: Vector, block: Vector, error: Vector, rng: np.random.Generator) -> int:
    """The contact that brings the block nearest for the way there, or now and then any."""
    stands = CONTACTS + NORMALS * (AGENT_RADIUS_M + _STAND_OFF_M)
    inside = (np.abs(block[:2] + rotate(stands, block[2])) < 1.0 - AGENT_RADIUS_M).all(-1)
    if rng.random() < _ANY_PUSH:
        return int(rng.choice(np.flatnonzero(inside)))
    gains = TWISTS @ error / _SIZES - _WALK_COST * np.linalg.norm(stands - place, axis=-1)
    return int(np.where(inside, gains, -np.inf).argmax())


def _plan_move(place: Vector, error: Vector, memory: dict[str, Any]) -> Vector:
    """Where the disc goes in this step, relative to where it is, in the block's frame `[2]`."""
    contact = memory["contact"]
    normal = NORMALS[contact]
    stand = CONTACTS[contact] + normal * (AGENT_RADIUS_M + _STAND_OFF_M)
    if not memory["pushing"]:
        away = stand - place
        if np.linalg.norm(away) > _ARRIVED_M:
            return _limit_move(_plan_walk(place, stand))
        memory.update(pushing=True, steps=_PUSH_STEPS)
    along = np.array([-normal[1], normal[0]])
    sideways = along * ((CONTACTS[contact] - place) @ along)
    depth = np.clip(_compute_gain(contact, error) / _SIZES[contact] * 1.2, 0.04, _PUSH_M)
    return sideways - normal * depth


def _plan_walk(place: Vector, stand: Vector) -> Vector:
    """Towards a place before the block without touching it; first of all away from it, where it is touched."""
    if not ROUTES.is_visible(place, place):
        gaps = place - np.clip(place, BOXES[:, :2] - BOXES[:, 2:], BOXES[:, :2] + BOXES[:, 2:])
        gap = gaps[np.linalg.norm(gaps, axis=-1).argmin()]
        return gap / max(float(np.linalg.norm(gap)), 1e-6) * 0.06
    return ROUTES.find_heading(place, stand, 0.02) - place


def _limit_move(move: Vector) -> Vector:
    """A move no longer than the disc can go in a step."""
    return move * min(1.0, REACH_M / max(float(np.linalg.norm(move)), 1e-9))
