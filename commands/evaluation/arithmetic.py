"""Floating-point operations of planning: of one plan, and of a whole episode with its observed frames."""

from __future__ import annotations

import math

import torch

from commands.shared.flops import count_flops
from planners.mpc import MPC


def count_planning_flops(agent: MPC, budget: int) -> dict[str, float]:
    """Operations for one environment (matrix products, convolutions, attention): `flops` of the first plan, with the
    encoding of its frames and of the goal image, and `episode_flops` of an episode of `budget` environment steps.

    An episode encodes the goal once; every plan encodes the frames that it looks at. Plans after the first, which begin
    at a warm start, count as the second. A search that stops early does less.
    """
    spec = agent.spec
    frames = torch.zeros(1, *spec.frame_hw, 3, dtype=torch.uint8, device=spec.device)
    state = torch.zeros(1, spec.proprio_dim, device=spec.device)
    steps = agent.config.receding_steps * spec.frame_skip  # environment steps from one plan to the next
    plans = math.ceil(budget / steps)

    def play_one_plan() -> None:
        for _ in range(steps):
            agent.act(frames, state)

    goal = count_flops(lambda: agent.reset(frames, [0]))
    first = count_flops(play_one_plan)
    later = count_flops(play_one_plan) if plans > 1 else 0.0
    return {"flops": goal + first, "episode_flops": goal + first + (plans - 1) * later}


def format_flops(flops: float) -> str:
    """A number of operations with three digits and its unit."""
    exponent = min(max(int(math.log10(max(flops, 1)) // 3), 2), 5)
    return f"{flops / 10 ** (3 * exponent):.3g} {('MFLOP', 'GFLOP', 'TFLOP', 'PFLOP')[exponent - 2]}"
