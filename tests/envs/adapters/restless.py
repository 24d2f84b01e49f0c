"""Environments that end or reset their own episodes, for the tests."""

from __future__ import annotations

import gymnasium
import numpy as np


class Restless(gymnasium.Env):
    """A walker on a line, 0.1 a step, that ends an episode beyond 0.5 in one of several ways.

    how: `flag` says terminated or truncated and walks on; `reset` calls its own reset and says so; `hidden` calls it
    and says nothing; `jump` goes back to a random start by itself and says terminated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-9.0, 9.0, (1,), np.float32)

    def __init__(self, render_mode=None, how="flag", key="terminated"):
        self.render_mode, self.how, self.key = render_mode, how, key
        self.state = np.zeros(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-0.1, 0.1, 1)
        return self.state.astype(np.float32), {}

    def step(self, action):
        self.state = self.state + 0.1 * action
        ends = bool(abs(self.state[0]) > 0.5)
        if ends and self.how in ("reset", "hidden"):
            self.reset()
        if ends and self.how == "jump":
            self.state = self.np_random.uniform(-0.1, 0.1, 1)
        said = ends and self.how != "hidden"
        return (
            self.state.astype(np.float32),
            0.0,
            said and self.key == "terminated",
            said and self.key != "terminated",
            {},
        )

    def render(self):
        frame = np.zeros((16, 16, 3), np.uint8)
        frame[:, int(np.clip(8 + 8 * self.state[0], 0, 15))] = 255
        return frame


for _how in ("flag", "reset", "hidden", "jump"):
    for _key in ("terminated", "truncated"):
        gymnasium.register(
            id=f"Restless-{_how}-{_key}-v0",
            entry_point=Restless,
            kwargs={"how": _how, "key": _key},
            max_episode_steps=10,
        )
