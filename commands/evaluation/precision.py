"""Planning in bf16 or TF32 beside fp32: do the same candidates win?"""

from __future__ import annotations

import numpy as np
import torch

from commands.config.groups import PlannerKeys
from commands.evaluation.setup import EvaluationSetup
from planners.costs import focus_goal
from planners.mpc import observe_first_frames
from planners.noise import Draws
from planners.scoring import Problem, make_bounds, measure_elite_overlap

CASES = 16  # starts and goals that are compared, at most


@torch.no_grad()
def measure_precision(setup: EvaluationSetup, planner: PlannerKeys) -> float:
    """Share of the best tenth of candidates that fp32 chooses, too (`measure_elite_overlap`): uniform candidates from
    recorded starts to their goals, CASES of them."""
    model, cases, spec = setup.model, setup.cases, setup.model.spec
    assert setup.protocol.goal_offset is not None
    count = min(CASES, len(cases.seeds))
    rows = setup.reader.first_row(cases.episodes[:count]) + cases.starts[:count]
    gathered = setup.reader.gather("pixels", rows[:, None] + np.array([0, setup.protocol.goal_offset]))
    frames, goals = torch.from_numpy(gathered).to(spec.device).unbind(1)
    state = torch.zeros(count, spec.proprio_dim, device=spec.device)
    context = observe_first_frames(model, frames, state)
    goal = focus_goal(model, planner.cost, model.encode_goal(goals), frames)
    low, high = make_bounds(spec)
    draws = Draws(cases.seeds[:count], 0, spec.device)
    uniform = torch.special.ndtr(draws.normal((max(planner.samples, 2), planner.horizon, spec.block_dim)))
    costs = [
        Problem(model, context, goal, planner.cost, planner.chunk_elements, precision).score(
            low + (high - low) * uniform, draws
        )
        for precision in ("fp32", planner.precision)
    ]
    return measure_elite_overlap(*costs)
