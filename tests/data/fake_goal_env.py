"""A GoalEnv-like environment of pure numpy: a point pushed around a square, with a factor; picklable."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Box:
    """Bounds of an action [A] as in Gymnasium's Box, whose import would cost each process a second."""

    low: np.ndarray
    high: np.ndarray


@dataclass
class FakeTask:
    """What collecting reads of a task."""

    name: str = "fake"
    control_step_s: float = 0.1
    action_names: tuple[str, ...] = ("push x", "push y")
    truth_names: tuple[str, ...] = ("x", "y")
    truth_units: tuple[str, ...] = ("m", "m")


class FakeEnv:
    """Frames are functions of the state: a bright square at the point, on a background set by the factor."""

    def __init__(self, size: int = 16, step_s: float = 0.0, reach: float = 2.0) -> None:
        self.task = FakeTask()
        self.size, self._sleep_s = size, step_s
        self.action_space = Box(np.array([-1, -reach], np.float32), np.array([1, reach], np.float32))
        self.closed = False

    def reset(self, seed: int, options: dict[str, str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        rng = np.random.default_rng(seed)
        self._place, self._shade = rng.uniform(0, 1, 2), float(rng.uniform(0, 100))
        return self._observe()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self._sleep_s:
            time.sleep(self._sleep_s)
        self._place = np.clip(self._place + 0.1 * action, 0, 1)
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    def _observe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        frame = np.full((self.size, self.size, 3), int(self._shade), np.uint8)
        row, column = (self._place * (self.size - 2)).astype(int)
        frame[row : row + 2, column : column + 2] = 255
        truth = self._place.astype(np.float32)
        return {"pixels": frame, "goal_pixels": frame}, {"truth": truth, "distance": 0.0}

    def get_state(self) -> np.ndarray:
        return np.append(self._place, self._shade)

    def get_render_settings(self) -> dict[str, Any]:
        return {"camera": "none", "renderer": "numpy"}

    def get_factors(self) -> dict[str, Any]:
        return {"shade": self._shade}

    def sample_scripted_action(self, rng: np.random.Generator, memory: dict[str, Any]) -> np.ndarray:
        memory["steps"] = memory.get("steps", 0) + 1
        return np.array([1.0, memory["steps"] / 100], np.float32)

    def close(self) -> None:
        self.closed = True


class BrokenEnv(FakeEnv):
    """Fails in the third step of an episode."""

    def get_state(self) -> np.ndarray:
        raise ValueError("fake trouble in the environment")


def slow_env() -> FakeEnv:
    """5 ms a step: slow enough to be killed in the middle."""
    return FakeEnv(step_s=0.005)
