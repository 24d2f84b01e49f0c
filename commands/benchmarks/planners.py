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

from commands.benchmarks.planner_settings import SPACE, TUNED
from commands.config.groups import PlannerKeys, make_planner
from commands.config.schema import build
from planners.point_mass import DoubleIntegrator, PointCost, State
from planners.protocol import Plan, Views

HORIZON = 12
BUDGETS = (64, 256, 1024, 4096)  # whole imagined candidates a plan; a differentiated one counts twice
TUNING_BUDGETS = (256,)
LEAST_SAMPLES = 16  # an iteration; where the budget is too small for that, there are fewer iterations
INSTANCES = 16  # starts and goals of a problem
SEEDS = 2  # draws a planner makes for each
TRIES = 40  # settings a planner is swept over
LONG = 40_000  # candidates of a search that stands for the optimum
TUNING, TESTING = 1, 2  # seeds of the instances
FLOOR = 1e-4  # regret below which two planners count as equally good when settings are chosen


@dataclass(frozen=True)
class PointProblem:
    """A problem: its cost and the bound of its actions."""

    cost: PointCost
    bound: float
    exact: bool


# Between starts and goals; every gap is a way, and near every way there is a worse one.
DISCS = ((-0.45, 0.1, 0.4), (0.1, -0.45, 0.4), (0.15, 0.55, 0.4), (-0.35, -0.85, 0.4), (0.65, 0.05, 0.35))
PROBLEMS = {
    "quadratic": PointProblem(PointCost(), 6.0, True),
    "bounds": PointProblem(PointCost(effort=0.01), 0.7, True),
    "many ways": PointProblem(PointCost(discs=DISCS), 2.0, False),
    "walls": PointProblem(PointCost(discs=DISCS, height=3.0, wall=True), 2.0, False),
}


def sample_cases(seed: int) -> tuple[State, Views]:
    """Starts left of the discs, goals right of them, with some height, SEEDS times each; at rest."""
    rng = np.random.default_rng(seed)
    heights = rng.uniform(-0.5, 0.5, (INSTANCES, 2))
    start, goal = np.zeros((INSTANCES, 4)), np.zeros((INSTANCES, 4))
    start[:, 0], goal[:, 0] = rng.uniform(-1.4, -1.0, INSTANCES), rng.uniform(1.0, 1.4, INSTANCES)
    start[:, 1], goal[:, 1] = heights.T
    both = [torch.from_numpy(rows).float().repeat(SEEDS, 1) for rows in (start, goal)]
    return State(both[0]), Views({"pooled": both[1]})


def make_planner_for_budget(name: str, settings: Mapping[str, Any], budget: int) -> Any:
    """The planner with as many samples as the budget allows; shares become numbers."""
    config = dict(settings)
    descent = name in ("gradient", "projected_gradient")
    least = 2 if descent else LEAST_SAMPLES + (2 * config["steps"] + 1 if name == "cem_gradient" else 0)
    config["iterations"] = max(1, min(config["iterations"], budget // least - descent))
    per_iteration = budget / config["iterations"]
    samples = per_iteration
    if descent:
        samples = budget / (2 * config["iterations"] + 1)
    elif name == "cem_gradient":
        samples = per_iteration / (1 + config["refined"] * (2 * config["steps"] + 1))
    elif name == "icem":
        sizes = [config["shrink"] ** -number for number in range(config["iterations"])]
        samples = budget / sum(sizes)
    config["samples"] = max(1 if descent else 4, int(samples))
    for key, least in (("elites", 2), ("keep_elites", 0), ("refined", 1)):
        if isinstance(config.get(key), float) and config[key]:
            config[key] = max(least, round(config[key] * config["samples"]))
        elif key in config:
            config[key] = int(config[key])
    if "keep_elites" in config:
        config["keep_elites"] = min(config["keep_elites"], config["elites"], config["samples"] - 2)
    if name == "icem":
        config |= {"keep_elites": max(1, config["keep_elites"]), "carry_elites": False}
    return make_planner(build(PlannerKeys, {"name": name, "horizon": HORIZON, **config}))


def plan_cases(
    name: str, settings: Mapping[str, Any], budget: int, task: PointProblem, seed: int
) -> tuple[Plan, float]:
    """Plans of all cases, and the candidates imagined for each."""
    start, goal = sample_cases(seed)
    dynamics = DoubleIntegrator(task.bound)
    count = len(start.state_B4)
    seeds = range(1000 * seed, 1000 * seed + count)
    plan = make_planner_for_budget(name, settings, budget).plan(dynamics, start, goal, task.cost, seeds=seeds)
    return plan, dynamics.work / count / HORIZON


def cost_zero_actions(task: PointProblem, seed: int) -> Tensor:
    """cost_B of doing nothing."""
    return compute_cost(task, seed, torch.zeros(INSTANCES * SEEDS, HORIZON, 2))


def compute_cost(task: PointProblem, seed: int, actions_BKA: Tensor) -> Tensor:
    """cost_B of given actions."""
    start, goal = sample_cases(seed)
    actions = actions_BKA[:, None]
    return task.cost(DoubleIntegrator(task.bound).imagine(start, actions), goal, actions)[:, 0]


def solve_exactly(task: PointProblem, seed: int) -> Tensor:
    """cost_B of the best actions within bounds, where the cost is quadratic: each axis a bounded least squares
    problem in K accelerations, whose rows are the cost's terms."""
    from scipy.optimize import lsq_linear

    start, goal = sample_cases(seed)
    dt, cost = DoubleIntegrator().dt, task.cost
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
            found = lsq_linear(matrix, wanted, bounds=(-task.bound, task.bound), tol=1e-12)
            best[case, :, axis] = torch.from_numpy(found.x)
    return compute_cost(task, seed, best)


def search_long(task: PointProblem, seed: int) -> Tensor:
    """cost_B of the best of long searches: many descents, and a large CEM polished by gradients."""
    descents = {"iterations": 200, "learning_rate": 0.2, "lr_end": 0.01, "std_init": 1.0, "noise_beta": 2.0}
    refined = {"iterations": 20, "elites": 0.05, "refined": 0.05, "steps": 8, "noise_beta": 2.0, "std_min": 0.0}
    found = [
        plan_cases("gradient", descents, LONG, task, seed)[0].cost_B,
        plan_cases("cem_gradient", refined, LONG, task, seed)[0].cost_B,
        plan_cases("cem", {"iterations": 40, "elites": 0.05, "noise_beta": 2.0, "std_min": 0.0}, LONG, task, seed)[
            0
        ].cost_B,
    ]
    return best_over_seeds(torch.stack(found).amin(0))


def best_over_seeds(cost_B: Tensor) -> Tensor:
    """The best of all draws of a case, for each draw."""
    return cost_B.unflatten(0, (SEEDS, INSTANCES)).amin(0).repeat(SEEDS)


def list_installed() -> list[str]:
    """The planners that can be run here, those that are extras if installed."""
    return [name for name in SPACE if name != "nevergrad" or find_spec("nevergrad") is not None]


def measure_regret(
    settings: Mapping[str, Mapping[str, Any]], budgets: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """Regret of every planner at every budget on every problem."""
    rows = []
    for what, task in PROBLEMS.items():
        runs = {
            (name, budget): plan_cases(name, settings[name], budget, task, seed)
            for name in settings
            for budget in budgets
        }
        best = solve_exactly(task, seed) if task.exact else search_long(task, seed)
        if not task.exact:
            best = torch.stack([best, *(best_over_seeds(plan.cost_B) for plan, _ in runs.values())]).amin(0)
        nothing = cost_zero_actions(task, seed)
        for (name, budget), (plan, work) in runs.items():
            regret = ((plan.cost_B - best) / (nothing - best)).clamp_min(0)
            rows.append(
                {
                    "task": what,
                    "planner": name,
                    "budget": budget,
                    "candidates": work,
                    "regret_mean": float(regret.mean()),
                    "regret_median": float(regret.median()),
                    "regret_worst": float(regret.max()),
                }
            )
    return rows


def sample_settings(name: str, tries: int) -> list[dict[str, Any]]:
    """Random settings of a planner out of SPACE."""
    rng = np.random.default_rng(0)
    space = SPACE[name]
    return [{key: values[int(rng.integers(len(values)))] for key, values in space.items()} for _ in range(tries)]


def tune_settings(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings of least regret of each planner: mean over problems and budgets of its logarithm."""
    best: dict[str, dict[str, Any]] = {}
    known = {what: _reference(task) for what, task in PROBLEMS.items()}
    for name in names:
        scores = []
        for settings in sample_settings(name, TRIES):
            values = []
            for what, task in PROBLEMS.items():
                optimum, nothing = known[what]
                for budget in TUNING_BUDGETS:
                    plan, _ = plan_cases(name, settings, budget, task, TUNING)
                    regret = ((plan.cost_B - optimum) / (nothing - optimum)).clamp_min(0).mean()
                    values.append(math.log10(float(regret) + FLOOR))
            scores.append(sum(values) / len(values))
        best[name] = sample_settings(name, TRIES)[int(np.argmin(scores))]
    return best


def _reference(task: PointProblem) -> tuple[Tensor, Tensor]:
    optimum = solve_exactly(task, TUNING) if task.exact else search_long(task, TUNING)
    return optimum, cost_zero_actions(task, TUNING)


def compare_planners(sweep: bool) -> list[dict[str, Any]]:
    """The rows of `jepa bench planners`; sweep: search the settings anew first."""
    settings = tune_settings(list_installed()) if sweep else {name: TUNED[name] for name in list_installed()}
    rows = []
    for row in measure_regret(settings, BUDGETS, TESTING):
        what = f"{row['task']}, {row['planner']}, {row['candidates']:.0f} candidates"
        settings_of = settings[row["planner"]]
        rows.append({"what": what, "value": row["regret_mean"], "unit": "mean regret", **row, "settings": settings_of})
    return rows


def write_report(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """planners.png and planners.md of the rows."""
    (folder / "planners.md").write_text(format_table(rows), encoding="utf-8")
    plot_regret(rows, folder / "planners.png")


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean regret in percent, a line a planner and problem, a column a budget."""
    budgets = sorted({row["budget"] for row in rows})
    lines = ["| problem | planner | " + " | ".join(f"{budget} candidates" for budget in budgets) + " |"]
    lines.append("|" + "---|" * (2 + len(budgets)))
    for what in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == what]
        for name in dict.fromkeys(row["planner"] for row in here):
            value = {row["budget"]: f"{100 * row['regret_mean']:.2f} %" for row in here if row["planner"] == name}
            lines.append(f"| {what} | {name} | " + " | ".join(value[budget] for budget in budgets) + " |")
    return "\n".join(lines) + "\n"


def plot_regret(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Regret against candidates, a panel a problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.8), sharey=True)
    for axis, what in zip(np.atleast_1d(axes), tasks, strict=True):
        for number, name in enumerate(dict.fromkeys(row["planner"] for row in rows)):
            here = [row for row in rows if row["task"] == what and row["planner"] == name]
            regret = [max(row["regret_mean"], FLOOR / 10) for row in here]
            axis.plot([row["candidates"] for row in here], regret, marker="o", label=name, color=f"C{number}")
        axis.set(title=what, xscale="log", yscale="log", xlabel="imagined candidates a plan")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel("mean regret (doing nothing: 1)")
    np.atleast_1d(axes)[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
