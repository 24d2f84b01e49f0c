"""Pose goals on dm_control suite models: one class for all domains of `envs.adapters.dm_control_tasks`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from envs.adapters.dm_control_tasks import DMC_TASKS, SuiteTask
from envs.goal_env import GoalEnv, Pose
from envs.goals import sample_reachable_goal
from envs.task_spec import wrap_angle

if TYPE_CHECKING:
    import mujoco

_MAX_POSES = 200

# The script: range of the number of steps for a target, gain (action for a metre and a metre of lever, over the
# joint's gear), distance at which a thing counts as grasped, distance of targets around it, and its noise.
_TARGET_STEPS = (8, 20)
_PULL, _GRASP_M, _REACH_M = 400.0, 0.06, 0.12
_NOISE, _NOISE_RETAINED = 0.5, 0.85


def load_model(task: SuiteTask) -> mujoco.MjModel:
    """The suite's model, without what a pose task does not need."""
    from envs.physics import load_suite_scene

    spec = load_suite_scene(task.domain)
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    for body in task.without:
        spec.delete(spec.body(body))
    for site in [site for site in spec.worldbody.sites if site.name == "target"]:
        spec.delete(site)
    if task.view_deg is not None:
        spec.camera(task.camera).fovy = task.view_deg
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*settotalmass")  # of the cheetah's file, as in the suite
        return spec.compile()


class Dmc(GoalEnv):
    """Truth: the joints' positions, angles that turn freely wrapped, then their velocities."""

    task: SuiteTask  # type: ignore[misc]  # one class for all domains, so an instance has its own
    _sample_goal = sample_reachable_goal  # most poses cannot be held

    def __init__(self, domain: str, **kwargs: Any) -> None:
        """`domain` of a task in `envs.adapters.dm_control_tasks.DMC_TASKS`; `kwargs` as for every GoalEnv."""
        self.task = DMC_TASKS[f"dmc/{domain}"]
        self.camera = self.task.camera  # type: ignore[misc]
        self._turns = np.array([joint.turns for joint in self.task.joints])
        super().__init__(**kwargs)

    def _build_model(self) -> mujoco.MjModel:
        return load_model(self.task)

    def _sample_pose(self, rng: np.random.Generator, factors: NDArray[np.float64]) -> Pose:
        """A pose without overlaps, after it has come to rest."""
        import mujoco

        model, data = self.physics.model, mujoco.MjData(self.physics.model)
        low, high = np.array([(joint.low, joint.high) for joint in self.task.joints]).T
        for _ in range(_MAX_POSES):
            data.qpos[:] = rng.uniform(low, high)
            mujoco.mj_forward(model, data)
            if self.task.settle_s and not self._count_body_contacts(data) or not data.ncon:
                break
        mujoco.mj_step(model, data, nstep=round(self.task.settle_s / model.opt.timestep))
        return data.qpos.copy(), data.qvel.copy()

    def _count_body_contacts(self, data: mujoco.MjData) -> int:
        """Number of contacts between two moving geoms."""
        model = self.physics.model
        moving = model.body_weldid[model.geom_bodyid[data.contact.geom]] != 0
        return int(moving.all(axis=1).sum())

    def compute_truth(self, qpos: ArrayLike, qvel: ArrayLike, factors: ArrayLike) -> NDArray[np.float32]:
        """Truth float32 `[..., L]`; see the class."""
        pose = np.asarray(qpos, np.float64)
        return super().compute_truth(np.where(self._turns, wrap_angle(pose), pose), qvel, factors)

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float32]:
        """Noise that is correlated in time; where the domain has a hand, with a pull of it to the thing and away."""
        fresh = rng.standard_normal(self._low.size)
        noise = memory["noise"] if "noise" in memory else fresh
        memory["noise"] = _NOISE_RETAINED * noise + np.sqrt(1 - _NOISE_RETAINED**2) * fresh
        action = _NOISE * memory["noise"]
        if self.task.hand is not None:
            action = action + self._compute_pull(rng, memory)
        return np.clip(action, self._low, self._high).astype(np.float32)

    def _compute_pull(self, rng: np.random.Generator, memory: dict[str, Any]) -> NDArray[np.float64]:
        """Actions `[A]` that pull the hand to its target: either the thing or a point around it."""
        import mujoco

        model, data = self.physics.model, self.physics.data
        self.physics.update_kinematics()
        hand, thing = model.site(self.task.hand).id, data.geom(self.task.thing).xpos.copy()
        if memory.get("steps_left", 0) <= 0:
            away = rng.uniform(-1, 1, 3) * (1, 0, 1) * _REACH_M * rng.choice((0.2, 1.0, 2.0))
            steps_left = int(rng.integers(*_TARGET_STEPS))
            memory.update(steps_left=steps_left, point=thing + away, at_thing=rng.random() < 0.5)
        memory["steps_left"] -= 1
        jacobian = np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, jacobian, None, hand)
        target = thing if memory["at_thing"] else memory["point"]
        torques = jacobian.T @ (target - data.site_xpos[hand])
        action = np.zeros(self._low.size)
        for index, (joint, _) in enumerate(model.actuator_trnid):
            if model.actuator_trntype[index] == int(mujoco.mjtTrn.mjTRN_JOINT):
                action[index] = _PULL * torques[model.jnt_dofadr[joint]] / model.actuator_gear[index, 0]
            else:  # the grasp: closed near the thing
                action[index] = 1.0 if np.linalg.norm(thing - data.site_xpos[hand]) < _GRASP_M else -1.0
        return action
