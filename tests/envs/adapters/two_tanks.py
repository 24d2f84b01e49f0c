"""The example of docs/guides/own_task.md: two tanks of water with a pump each, and a pipe between them."""

import gymnasium
import numpy as np

from envs.adapters.gymnasium_tasks import GymTask, describe_task
from envs.task_spec import LargestError


class TwoTanks(gymnasium.Env):
    """Levels of two tanks in metres; actions are flows in and out."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode, self.levels_m = render_mode, np.full(2, 0.5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.levels_m = self.np_random.uniform(0.2, 0.8, 2)
        return self.levels_m.astype(np.float32), {}

    def step(self, action):
        through = 0.05 * (self.levels_m[0] - self.levels_m[1])
        self.levels_m = np.clip(self.levels_m + 0.04 * action + (-through, through), 0.0, 1.0)
        return self.levels_m.astype(np.float32), 0.0, False, False, {}

    def render(self):
        height = np.arange(64)[::-1, None] / 64
        water = height < np.repeat(self.levels_m, 32)[None]
        return np.where(water[..., None], (40, 90, 200), (235, 235, 225)).astype(np.uint8)


def go_to(env, state):
    env.levels_m = state.copy()


gymnasium.register(id="TwoTanks-v0", entry_point=TwoTanks)
levels = GymTask(
    get_state=lambda env: env.levels_m,  # all that the next step and the picture depend on
    set_state=go_to,
    truth_names=("left level", "right level"),
    truth_units=("m", "m"),
    distance=LargestError(2),  # the larger error of the first two numbers of the truth
    distance_unit="m",
    thresholds=(0.05, 0.03, 0.01),
    min_goal_distance=0.15,
)
describe_task("TwoTanks-v0", levels)
