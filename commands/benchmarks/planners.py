"""`jepa bench planners`: how near to the optimum each planner comes for how much imagining, where nothing is learned.

Four problems of a point with inertia (`planners.point_mass`): a quadratic cost, the same where action bounds bind
(optima known: least squares, with bounds), soft discs in the way with many ways between them, and discs whose cost has
no gradient (optima: the best that any planner of the table, or a far longer search, ever found). Regret is cost above
the optimum, over that of doing nothing. Settings are those of `commands.benchmarks.planner_settings`
(docs/concepts/planning.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commands.benchmarks.planner_settings import SPACE, TUNED, PlannerSettings
from commands.report.figure import new_figure, pick_colour, save_png
from planners.cem import CEM, CEMConfig
from planners.cem_gradient import CEMGradient, CEMGradientConfig
from planners.gradient import Gradient, GradientConfig
from planners.point_mass import DoubleIntegrator, PointCost, State
from planners.protocol import Plan, Views

HORIZON = 12
BUDGETS = (64, 256, 1024, 4096)  # imagined candidates per plan; a differentiated one counts twice
TUNING_BUDGETS = (256,)
INSTANCES = 16  # pairs of start and goal per problem
SEEDS = 2  # plans per pair, with different draws
TRIES = 40  # settings that a sweep tries per planner
LONG = 40_000  # candidates of the searches that stand for an unknown optimum
TUNING, TESTING = 1, 2  # seeds of the instances
FLOOR = 1e-4  # regret below which two planners count as equally good when settings are chosen


@dataclass(frozen=True)
class PointProblem:
    """A problem: its cost, the bound of its actions, and whether its optimum can be computed."""

    cost: PointCost
    bound: float
    exact: bool


# Between starts and goals. Every gap is a route, with a worse route nearby.
DISCS = ((-0.45, 0.1, 0.4), (0.1, -0.45, 0.4), (0.15, 0.55, 0.4), (-0.35, -0.85, 0.4), (0.65, 0.05, 0.35))
PROBLEMS = {
    "quadratic": PointProblem(PointCost(), 6.0, True),
    "bounds": PointProblem(PointCost(effort=0.01), 0.7, True),
    "many ways": PointProblem(PointCost(discs=DISCS), 2.0, False),
    "walls": PointProblem(PointCost(discs=DISCS, height=3.0, wall=True), 2.0, False),
}


def sample_cases(seed: int) -> tuple[State, Views]:
    """Starts left of the discs and goals right of them, at rest, SEEDS times each."""
    rng = np.random.default_rng(seed)
    heights = rng.uniform(-0.5, 0.5, (INSTANCES, 2))
    start, goal = np.zeros((INSTANCES, 4)), np.zeros((INSTANCES, 4))
    start[:, 0], goal[:, 0] = rng.uniform(-1.4, -1.0, INSTANCES), rng.uniform(1.0, 1.4, INSTANCES)
    start[:, 1], goal[:, 1] = heights.T
    start_B4, goal_B4 = (torch.from_numpy(rows).float().repeat(SEEDS, 1) for rows in (start, goal))
    return State(start_B4), Views({"pooled": goal_B4})


def plan_cases(settings: PlannerSettings, budget: int, problem: PointProblem, seed: int) -> tuple[Plan, float]:
    """Plans of all cases, and the candidates imagined per plan."""
    start, goal = sample_cases(seed)
    dynamics = DoubleIntegrator(problem.bound)
    count = len(start.state_B4)
    planner = settings.make_planner(budget, HORIZON)
    plan = planner.plan(dynamics, start, goal, problem.cost, seeds=range(1000 * seed, 1000 * seed + count))
    return plan, dynamics.work / count / HORIZON


def compute_cost(problem: PointProblem, seed: int, actions_BKA: Tensor) -> Tensor:
    """cost_B of given actions."""
    start, goal = sample_cases(seed)
    actions = actions_BKA[:, None]
    return problem.cost(DoubleIntegrator(problem.bound).imagine(start, actions), goal, actions)[:, 0]


def cost_zero_actions(problem: PointProblem, seed: int) -> Tensor:
    """cost_B of doing nothing."""
    return compute_cost(problem, seed, torch.zeros(INSTANCES * SEEDS, HORIZON, 2))


def solve_exactly(problem: PointProblem, seed: int) -> Tensor:
    """cost_B of the best actions within bounds under a quadratic cost: on each axis a bounded least squares problem in
    K accelerations, whose rows are the cost's terms."""
    from scipy.optimize import lsq_linear

    start, goal = sample_cases(seed)
    dt, cost = DoubleIntegrator().dt, problem.cost
    fall = np.tril(np.ones((HORIZON, HORIZON)))
    reach = dt * dt * fall @ fall  # accelerations -> positions
    rows = [reach / math.sqrt(HORIZON), math.sqrt(cost.stop) * dt * np.ones((1, HORIZON))]
    rows.append(math.sqrt(cost.effort / HORIZON) * np.eye(HORIZON))
    matrix = np.concatenate(rows)
    best = torch.zeros(len(start.state_B4), HORIZON, 2)
    for case in range(len(best)):
        for axis in range(2):
            away = float(goal.view("pooled")[case, axis] - start.state_B4[case, axis])
            wanted = np.concatenate((np.full(HORIZON, away / math.sqrt(HORIZON)), np.zeros(1 + HORIZON)))
            solution = lsq_linear(matrix, wanted, bounds=(-problem.bound, problem.bound), tol=1e-12)
            best[case, :, axis] = torch.from_numpy(solution.x)
    return compute_cost(problem, seed, best)


def search_long(problem: PointProblem, seed: int) -> Tensor:
    """cost_B of the best of three long searches: many descents, a large CEM, and one refined by gradients."""
    descent = GradientConfig(iterations=200, learning_rate=0.2, lr_end=0.01, std_init=1.0, noise_beta=2.0)
    refined = CEMGradientConfig(iterations=20, steps=8, noise_beta=2.0, std_min=0.0)
    searches = (
        PlannerSettings(Gradient, descent),
        PlannerSettings(CEMGradient, refined, elites=0.05, refined=0.05),
        PlannerSettings(CEM, CEMConfig(iterations=40, noise_beta=2.0, std_min=0.0), elites=0.05),
    )
    costs = [plan_cases(settings, LONG, problem, seed)[0].cost_B for settings in searches]
    return best_over_seeds(torch.stack(costs).amin(0))


def best_over_seeds(cost_B: Tensor) -> Tensor:
    """The best of all draws of a case, for each draw."""
    return cost_B.unflatten(0, (SEEDS, INSTANCES)).amin(0).repeat(SEEDS)


def compute_regret(plan: Plan, best_B: Tensor, zero_B: Tensor) -> Tensor:
    """regret_B: cost above the optimum, as a share of what doing nothing costs above it."""
    return ((plan.cost_B - best_B) / (zero_B - best_B)).clamp_min(0)


def list_installed() -> list[str]:
    """The planners that can be run here: an extra only if it is installed."""
    return [name for name in SPACE if name != "nevergrad" or find_spec("nevergrad") is not None]


def sample_settings(name: str, tries: int) -> list[PlannerSettings]:
    """Random settings of a planner out of SPACE."""
    rng = np.random.default_rng(0)
    return [
        TUNED[name].replace({key: values[int(rng.integers(len(values)))] for key, values in SPACE[name].items()})
        for _ in range(tries)
    ]


def tune_settings(name: str) -> PlannerSettings:
    """The settings of a planner with the least mean logarithm of regret over problems and budgets."""
    cases = []
    for problem in PROBLEMS.values():
        best = solve_exactly(problem, TUNING) if problem.exact else search_long(problem, TUNING)
        cases += [(problem, budget, best, cost_zero_actions(problem, TUNING)) for budget in TUNING_BUDGETS]

    def score(settings: PlannerSettings) -> float:
        plans = [plan_cases(settings, budget, problem, TUNING)[0] for problem, budget, _, _ in cases]
        means = [float(compute_regret(plan, *case[2:]).mean()) for plan, case in zip(plans, cases, strict=True)]
        return sum(math.log10(mean + FLOOR) for mean in means) / len(means)

    return min(sample_settings(name, TRIES), key=score)


def compare_planners(sweep: bool) -> list[dict[str, Any]]:
    """The rows of `jepa bench planners`: the regret of every planner at every budget on every problem.

    sweep: search the settings anew first.
    """
    settings = {name: tune_settings(name) if sweep else TUNED[name] for name in list_installed()}
    rows = []
    for title, problem in PROBLEMS.items():
        plans = {
            (name, budget): plan_cases(settings[name], budget, problem, TESTING)
            for name in settings
            for budget in BUDGETS
        }
        best = solve_exactly(problem, TESTING) if problem.exact else search_long(problem, TESTING)
        if not problem.exact:
            best = torch.stack([best, *(best_over_seeds(plan.cost_B) for plan, _ in plans.values())]).amin(0)
        for (name, budget), (plan, work) in plans.items():
            regret = compute_regret(plan, best, cost_zero_actions(problem, TESTING))
            rows.append(
                {
                    "what": f"{title}, {name}, {work:.0f} candidates",
                    "value": float(regret.mean()),
                    "unit": "mean regret",
                    "task": title,
                    "planner": name,
                    "budget": budget,
                    "candidates": work,
                    "regret_mean": float(regret.mean()),
                    "regret_median": float(regret.median()),
                    "regret_worst": float(regret.max()),
                    "settings": {key: settings[name].get(key) for key in SPACE[name]},
                }
            )
    return rows


def write_report(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write planners.md, mean regret in percent by problem, planner and budget, and planners.png, regret against
    imagined candidates."""
    budgets = sorted({row["budget"] for row in rows})
    lines = ["| problem | planner | " + " | ".join(f"{budget} candidates" for budget in budgets) + " |"]
    lines.append("|" + "---|" * (2 + len(budgets)))
    problems = list(dict.fromkeys(row["task"] for row in rows))
    with new_figure(len(problems), 1, (4, 3.8), sharey=True) as (figure, axes):
        for axis, title in zip(axes, problems, strict=True):
            for number, name in enumerate(dict.fromkeys(row["planner"] for row in rows)):
                curve = [row for row in rows if row["task"] == title and row["planner"] == name]
                value = {row["budget"]: f"{100 * row['regret_mean']:.2f} %" for row in curve}
                lines.append(f"| {title} | {name} | " + " | ".join(value[budget] for budget in budgets) + " |")
                regret = [max(row["regret_mean"], FLOOR / 10) for row in curve]
                axis.plot([row["candidates"] for row in curve], regret, "o-", label=name, color=pick_colour(number))
            axis.set(title=title, xscale="log", yscale="log", xlabel="imagined candidates per plan")
        axes[0].set_ylabel("mean regret (no action: 1)")
        axes[-1].legend(fontsize=8)
        save_png(figure, folder / "planners.png")
    (folder / "planners.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
