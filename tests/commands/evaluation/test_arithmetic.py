"""Operations of an episode: what its plans and encodings add up to."""

from __future__ import annotations

import pytest

from commands.evaluation.arithmetic import count_planning_flops, format_flops
from commands.shared.flops import count_flops
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from planners.icem import ICEM, ICEMConfig
from planners.mpc import MPC, MPCConfig
from tests.world_model.small import dynamics, frames

CONFIG = {"samples": 6, "elites": 3, "iterations": 2, "horizon": 3}


@pytest.mark.parametrize(
    ("planner", "frame_skip", "receding_steps", "budget"),
    [
        (CEM(CEMConfig(**CONFIG)), 1, 1, 7),
        (ICEM(ICEMConfig(**CONFIG, keep_elites=2)), 2, 2, 11),
        (CEM(CEMConfig(**CONFIG)), 1, 3, 2),
    ],
)
def test_an_episode_has_as_many_operations_as_one_that_is_played(planner, frame_skip, receding_steps, budget):
    model = dynamics(frame_skip=frame_skip)
    agent = MPC(model, planner, GoalCost(), MPCConfig(receding_steps=receding_steps))
    counted = count_planning_flops(agent, budget)
    seen = frames(budget)

    def play() -> None:
        agent.reset(seen[:1], [3])
        for step in range(budget):
            agent.act(seen[step : step + 1])

    assert counted["episode_flops"] == count_flops(play) >= counted["flops"] > 0
    plans = len(agent.plan_ms)
    assert (counted["episode_flops"] > counted["flops"]) == (plans > 1)


def test_counts_have_three_digits_and_a_unit():
    numbers = (0.0, 5.67e10, 1.234e12, 999e15, 2.5e6)
    assert [format_flops(flops) for flops in numbers] == [
        "0 MFLOP",
        "56.7 GFLOP",
        "1.23 TFLOP",
        "999 PFLOP",
        "2.5 MFLOP",
    ]
