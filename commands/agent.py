"""A trained model as an agent in Python: `act(frame, goal_image) -> action`, no simulator needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from commands.shared.errors import find_shadow

if sentence := find_shadow():  # a script beside an envs/ of its own
    raise ImportError(sentence)

from commands.config.compose import load_config
from commands.config.groups import make_planner
from commands.shared.devices import resolve_device
from commands.training.model_folders import load_dynamics
from planners.mpc import MPC


class Agent:
    """Plans towards a goal image from camera frames, one action a call.

    folder: a run folder of `jepa posttrain` (or the `model` folder in it). overrides: planner settings as on the
    command line, for example ("planner.samples=400",). device: auto, cpu, cuda or mps. Same seed, same actions.
    """

    def __init__(
        self, folder: str | Path, device: str = "auto", overrides: tuple[str, ...] = (), seed: int = 0
    ) -> None:
        self.dynamics, self.about = load_dynamics(folder, resolve_device(device))
        planner = load_config("plan", ["model=-", "data=-", *overrides]).planner
        self.mpc = MPC(self.dynamics, make_planner(planner), planner.cost, planner.mpc)
        self.seed = seed
        self._goal: NDArray[np.uint8] | None = None

    def reset(self) -> None:
        """Forget past frames and the plan: call it when the robot was moved by hand or an episode ends."""
        self._goal = None

    def act(
        self, frame: NDArray[np.uint8], goal_image: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The next action [A] in environment units, for the camera's frame and the goal, both uint8 [H, W, 3], and the
        robot's state [Q] where the model was trained with it.

        Past frames and actions since the last reset are remembered; another goal image starts afresh. ValueError for an
        image of another size or type than the model was trained on.
        """
        goal = np.asarray(goal_image)
        if self._goal is None or not np.array_equal(self._goal, goal):
            self.mpc.reset(goal[None], [self.seed])
            self._goal = goal.copy()
        proprio_BQ = None if proprio is None else np.asarray(proprio)[None]
        return np.asarray(self.mpc.act(np.asarray(frame)[None], proprio_BQ)[0])
