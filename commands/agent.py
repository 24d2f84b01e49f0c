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
from commands.evaluation.models import prepare_model
from commands.evaluation.proposals import build_proposals
from commands.evaluation.values import bind_value
from commands.shared.console import make_silent_console
from commands.shared.devices import resolve_device
from commands.training.model_folders import load_planned, read_preprocessing
from data.pictures import Preprocessing
from planners.mpc import MPC


class Agent:
    """Plans towards a goal image from camera frames, one action a call.

    folder: a run folder of `jepa posttrain` (or the `model` folder in it), or a model of the Hugging Face hub
    (`owner/name`). overrides: planner settings as on the command line, for example ("planner.samples=400",). device:
    auto, cpu, cuda or mps. Same seed, same actions.
    """

    def __init__(
        self, folder: str | Path, device: str = "auto", overrides: tuple[str, ...] = (), seed: int = 0
    ) -> None:
        self.dynamics, self.about = load_planned(folder, resolve_device(device))
        self.preprocessing: Preprocessing = read_preprocessing(self.about, self.dynamics.spec.frame_hw)
        planner = load_config("plan", ["model=-", "data=-", *overrides]).planner
        prepare_model(planner, self.dynamics, str(folder))
        planner = bind_value(planner, self.dynamics)
        proposals = build_proposals(planner, self.dynamics, self.preprocessing, make_silent_console())
        self.mpc = MPC(self.dynamics, make_planner(planner), planner.cost, planner.mpc, proposals)
        self.seed = seed
        self._goal: NDArray[np.uint8] | None = None

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str = "auto", overrides: tuple[str, ...] = (), seed: int = 0
    ) -> Agent:
        """The agent of a folder, or of a model of the Hugging Face hub, `owner/name` or `owner/name@revision`, which is
        downloaded where needed. The name that libraries of the hub have for it: the same as `Agent(name, ...)`."""
        return cls(name, device, overrides, seed)

    def reset(self) -> None:
        """Forget past frames and the plan: call it when the robot was moved by hand or an episode ends."""
        self._goal = None

    def preprocess(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture of any size, uint8 [H, W, 3], as the model sees it: cropped and resized as its training data were.
        A frame of the model's size is returned as it is. ValueError for another type or shape."""
        return self.preprocessing.prepare(_check_picture("frame", frame))

    def act(
        self, frame: NDArray[np.uint8], goal_image: NDArray[np.uint8], proprio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The next action [A] in environment units, for what the camera gives and the goal, both uint8 [H, W, 3] of any
        size, and the robot's state [Q] where the model was trained with it.

        Both pictures are preprocessed here. Past frames and actions since the last reset are remembered; another goal
        image starts afresh. ValueError for a picture or a state of another shape or type; such a call changes nothing.
        """
        frame = self.preprocessing.prepare(_check_picture("frame", frame))
        goal = _check_picture("goal image", goal_image)
        state = self._check_state(proprio)
        if self._goal is None or not np.array_equal(self._goal, goal):
            self.mpc.reset(self.preprocessing.prepare(goal)[None], [self.seed])
            self._goal = goal.copy()
        return np.asarray(self.mpc.act(frame[None], state if state is None else state[None])[0])

    def _check_state(self, proprio: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """The robot's state [Q]; None for a model of images alone."""
        size = self.dynamics.spec.proprio_dim
        if size == 0:
            return None
        state = None if proprio is None else np.asarray(proprio)
        if state is None or state.shape != (size,) or state.dtype.kind not in "fiu" or not np.isfinite(state).all():
            given = "missing" if state is None else f"{state.dtype} {list(state.shape)}"
            raise ValueError(
                f"the robot's state is {given}; this model was trained with it and takes {size} finite numbers [{size}]"
            )
        return state


def _check_picture(what: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture as an array; ValueError unless it is uint8 [H, W, 3]."""
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(
            f"the {what} is {array.dtype} {list(array.shape)}: give uint8 [height, width, 3], in the order red, green, "
            "blue"
        )
    return array
