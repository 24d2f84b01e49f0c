"""Pose goals on dm_control suite models: one class, told by `envs.adapters.dm_control_tasks` what a domain is."""

from __future__ import annotations

import importlib.resources
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.adapters.dm_control_tasks import DMC_TASKS, DOMAINS, Domain
from envs.adapters.reached import sample_reachable_goal
from envs.factor_writes import add_pattern
from envs.goal_env import GoalEnv
from envs.task_spec import wrap_angle

if TYPE_CHECKING:
    import mujoco

_MAX_POSE_DRAWS = 200

# The scripted behaviour: how long it wants one place, how hard it pulls (action for a metre and a metre of lever,
# over the joint's gear), how near a thing counts as grasped, and its noise.
_PLACE_STEPS = (8, 20)
_PULL, _NEAR_M, _REACH_M = 400.0, 0.06, 0.12
_NOISE, _NOISE_KEPT = 0.5, 0.85


def load_model(domain: Domain) -> mujoco.MjModel:
    """The suite's model, without what a pose task has no use for."""
    import mujoco

    # The XML is read as data: importing dm_control.suite would load every domain and a second renderer.
    with importlib.resources.as_file(importlib.resources.files("dm_control") / "suite") as suite:
        spec = mujoco.MjSpec.from_file(str(suite / f"{domain.name}.xml"))
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    for body in domain.without:
        spec.delete(spec.body(body))
    for site in [site for site in spec.worldbody.sites if site.name == "target"]:
        spec.delete(site)
    if domain.view_deg is not None:
        spec.camera(domain.camera).fovy = domain.view_deg
    add_pattern(spec)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass")  # the cheetah's; the suite's own way
        return spec.compile()


class Dmc(GoalEnv):
    """Truth: the joints' positions, angles that turn freely wrapped, then their velocities."""

    def __init__(self, domain: str, **kwargs: Any) -> None:
        """`domain` is one of `envs.adapters.dm_control_tasks.DOMAINS`; `kwargs` as for every GoalEnv."""
        self.domain = DOMAINS[domain]
        # One class for all domains: what other tasks say by their class, an instance says here.
        self.task = DMC_TASKS[f"dmc/{domain}"]  # type: ignore[misc]
        self.camera = self.domain.camera  # type: ignore[misc]
        self._turns = np.array([joint.turns for joint in self.domain.joints])
        super().__init__(**kwargs)

    def _build_model(self) -> mujoco.MjModel:
        return load_model(self.domain)

    def _sample_pose(
        self, rng: np.random.Generator, factors: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A pose in which nothing overlaps, after it has come to rest."""
        import mujoco

        model, data = self.physics_model, mujoco.MjData(self.physics_model)
        low, high = np.array([(joint.low, joint.high) for joint in self.domain.joints]).T
        for _ in range(_MAX_POSE_DRAWS):
            data.qpos[:] = rng.uniform(low, high)
            mujoco.mj_forward(model, data)
            if self.domain.settle_s and not self._body_contacts(data) or not data.ncon:
                break
        mujoco.mj_step(model, data, nstep=round(self.domain.settle_s / model.opt.timestep))
        return data.qpos.copy(), data.qvel.copy()

    def _body_contacts(self, data: mujoco.MjData) -> int:
        """Contacts of moving things with one another."""
        moving = self.physics_model.body_weldid[self.physics_model.geom_bodyid[data.contact.geom]] != 0
        return int(moving.all(axis=1).sum())

    def _sample_goal(self, start: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
        return sample_reachable_goal(self, start, self.np_random)

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth float32 `[..., L]`; see the class."""
        pose = np.asarray(qpos, np.float64)
        pose = np.where(self._turns, wrap_angle(pose), pose)
        return np.concatenate((pose, np.asarray(qvel, np.float64)), axis=-1).astype(np.float32)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Coloured noise; where the domain has a hand, with a pull of it to the thing, and away with it."""
        size = self._low.size
        fresh = rng.standard_normal(size)
        kept = memory["noise"] if "noise" in memory else fresh
        memory["noise"] = _NOISE_KEPT * kept + np.sqrt(1 - _NOISE_KEPT**2) * fresh
        action = _NOISE * memory["noise"]
        if self.domain.hand is not None:
            action = action + self._pull(rng, memory)
        return np.clip(action, self._low, self._high).astype(np.float32)

    def _pull(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float64]:
        """Actions `[A]` that draw the hand to where it is wanted: by turns the thing, and a place around it."""
        import mujoco

        model, data = self.physics_model, self.physics_data
        self._physics.update_kinematics()
        hand, thing = model.site(self.domain.hand).id, data.geom(self.domain.thing).xpos.copy()
        if "steps_left" not in memory or memory["steps_left"] <= 0:
            away = rng.uniform(-1, 1, 3) * (1, 0, 1) * _REACH_M * rng.choice((0.2, 1.0, 2.0))
            memory.update(steps_left=int(rng.integers(*_PLACE_STEPS)), place=thing + away, at_thing=rng.random() < 0.5)
        memory["steps_left"] -= 1
        jacobian = np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, jacobian, None, hand)
        wanted = thing if memory["at_thing"] else memory["place"]
        torques = jacobian.T @ (wanted - data.site_xpos[hand])
        action = np.zeros(self._low.size)
        for index, (joint, _) in enumerate(model.actuator_trnid):
            if model.actuator_trntype[index] == int(mujoco.mjtTrn.mjTRN_JOINT):
                action[index] = _PULL * torques[model.jnt_dofadr[joint]] / model.actuator_gear[index, 0]
            else:  # the grasp: closed near the thing
                action[index] = 1.0 if np.linalg.norm(thing - data.site_xpos[hand]) < _NEAR_M else -1.0
        return action
