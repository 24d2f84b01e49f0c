"""Goals that can be reached because they were: where random actions have led from the start.

For tasks in which most poses cannot be held, or the poses that exist are not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from envs.goal_env import GoalEnv

_TRIES, _HOLD_STEPS = 20, 5


def sample_reachable_goal(env: GoalEnv, start: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A state `[S]` `goal_offset` steps of held random actions after `start` `[S]`.

    The first that lies the task's least distance away, else the farthest of a few tries. The environment is
    left somewhere else.
    """
    low, high = np.array(env.task.action_low), np.array(env.task.action_high)
    truth, found = env.get_truth(start), [(-1.0, start)]
    for _ in range(_TRIES):
        env.set_state(start)
        for step in range(env.task.goal_offset):
            if step % _HOLD_STEPS == 0:
                action = rng.uniform(low, high)
            env.advance(action)
        distance = float(env.task.distance(truth, env.get_truth()))
        found.append((distance, env.get_state()))
        if distance >= env.task.min_goal_distance:
            break
    return max(found, key=lambda pair: pair[0])[1]
