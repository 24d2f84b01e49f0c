"""Measures of an evaluation without a simulator: plans at recorded moments beside what the robot did, and baselines.

- the error of actions, as mean absolute difference in standard deviations of the training actions. V-JEPA 2-AC (arXiv
  2506.09985) states mean absolute errors of actions, too, in centimetres; jepa-wms (arXiv 2512.24497) scores plans on
  recorded DROID episodes by the error of the position at their end, which here is that of the average action;
- the rank of the recorded actions among candidates by the cost that the planner imagines.

Many plans reach one goal, so the error of a perfect model is above 0 wherever actions can be exchanged; the error of
the average action depends on this least. The rank does not: a perfect model ranks the recorded actions near the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.methods import MODEL_METHOD, RANDOM_METHOD, ZERO_METHOD
from commands.evaluation.protocol import ProtocolConfig
from commands.offline.moments import (
    MOMENTS_AT_ONCE,
    Actions,
    Moments,
    PlannedMoments,
    draw_moments,
    find_nearest,
    plan_at_moments,
)
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from commands.statistics.intervals import summarise_mean, summarise_share
from data.store import compute_statistics
from planners.protocol import Cost, Dynamics, Planner
from planners.scoring import check_fit

SCHEMA, KIND = 1, "offline"  # of results.json
NEAREST_METHOD, MEAN_METHOD, OTHERS_METHOD = "nearest neighbour", "mean action", "other recorded"
RECORDED_SOURCE, UNIFORM_SOURCE = "recorded", "uniform"  # of candidates
CANDIDATES = 99  # of each source, so that by chance exactly a tenth of the ranks is in the best tenth
BEST_SHARE = 0.1
TRAIN_MOMENTS = 1000  # moments of train at most that the nearest neighbour and candidates come from
LEAST_STD = 1e-6  # of a training action, below which it counts as constant and is not compared
ERRORS = {"first_step": "first step", "all_steps": "all steps", "average_action": "average action"}


def choose_goal_offset(protocol: ProtocolConfig, horizon: int, frame_skip: int) -> int:
    """Environment steps from a moment to its goal image: the protocol's, or the whole horizon of the planner."""
    offset = protocol.goal_offset or horizon * frame_skip
    if offset % frame_skip or offset > horizon * frame_skip:
        raise UsageError(
            f"protocol.goal_offset={offset}: offline, it is a multiple of the model's frame skip ({frame_skip}) and at "
            f"most planner.horizon model steps ({horizon * frame_skip} environment steps); null is all of them"
        )
    return offset


@dataclass(frozen=True)
class OfflineSetup:
    """A model and the data it is evaluated on. std: standard deviation [A] and mean [A] of the actions of train."""

    dynamics: Dynamics
    reader: Any
    moments: Moments
    train_moments: Moments
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @property
    def compared(self) -> NDArray[np.bool_]:
        """Which numbers of an action vary in train [A]; the others are not compared."""
        return self.std > LEAST_STD


def make_offline_setup(
    dynamics: Dynamics, reader: Any, planner: Planner, cost: Cost, protocol: ProtocolConfig
) -> OfflineSetup:
    """Draw moments, and those of train; UsageError or RunError where the data serve none."""
    check_fit(dynamics.spec, cost, planner.horizon)
    spec, steps = dynamics.spec, planner.horizon
    offset = choose_goal_offset(protocol, steps, spec.frame_skip)
    moments, train = (
        draw_moments(reader, split, count, protocol.seed, spec, steps, offset)
        for split, count in ((protocol.split, protocol.episodes), ("train", TRAIN_MOMENTS))
    )
    mean, std = compute_statistics(reader, "action")
    if not (std > LEAST_STD).any():
        raise RunError("no number of the actions of split train varies: there is nothing to compare plans with")
    return OfflineSetup(dynamics, reader, moments, train, mean, std)


@dataclass(frozen=True)
class Methods:
    """Actions [n, S, steps, A] of every method up to the goal, S of them a moment; the recorded ones [n, steps, A]; and
    the train moment [n] that is nearest to each."""

    actions: dict[str, Actions]
    recorded: Actions
    nearest: NDArray[np.int64]


def measure_plans(
    setup: OfflineSetup, planner: Planner, cost: Cost, seed: int, console: Console
) -> tuple[dict[str, Any], PlannedMoments, Methods]:
    """Plans at all moments, and `results.json` as far as it follows from them."""
    moments, reader, spec = setup.moments, setup.reader, setup.dynamics.spec
    train_actions = setup.train_moments.read_actions(reader)
    candidates = draw_candidates(train_actions, len(moments), spec.action_low, spec.action_high, seed)
    with console.progress("plan", len(moments), "moments") as progress:
        planned = plan_at_moments(setup.dynamics, planner, cost, reader, moments, candidates, seed, progress.update)
    view = "pooled" if "pooled" in spec.views else cost.view
    nearest = find_nearest(setup.dynamics, view, reader, moments, setup.train_moments)
    steps, dims = moments.goal_offset, spec.action_dim
    low, high = np.array(spec.action_low[:dims]), np.array(spec.action_high[:dims])
    constants = {MEAN_METHOD: setup.mean, ZERO_METHOD: np.clip(np.zeros(dims), low, high)}
    actions: dict[str, Actions] = {
        MODEL_METHOD: planned.actions[:, None, :steps],
        NEAREST_METHOD: train_actions[nearest][:, None, :steps],
        OTHERS_METHOD: candidates[RECORDED_SOURCE][:, :, :steps],
        **{
            name: np.broadcast_to(value.astype(np.float32), (len(moments), 1, steps, dims))
            for name, value in constants.items()
        },
        RANDOM_METHOD: candidates[UNIFORM_SOURCE][:, :, :steps],
    }
    methods = Methods(actions, moments.read_actions(reader)[:, :steps], nearest)
    return summarise_plans(setup, planned, methods, seed), planned, methods


def draw_candidates(
    train_actions: Actions, moments: int, block_low: tuple[float, ...], block_high: tuple[float, ...], seed: int
) -> dict[str, Actions]:
    """CANDIDATES sequences [n, CANDIDATES, steps, A] for every moment: recorded in train, and uniform in the bounds."""
    rng, (count, steps, dims) = np.random.default_rng([seed, 74]), train_actions.shape
    chosen = rng.integers(count, size=(moments, CANDIDATES))
    uniform = rng.uniform(block_low[:dims], block_high[:dims], (moments, CANDIDATES, steps, dims))
    return {RECORDED_SOURCE: train_actions[chosen], UNIFORM_SOURCE: uniform.astype(np.float32)}


def compare_actions(
    actions_nSLA: Actions, recorded_nLA: Actions, std_A: NDArray[np.float64], frame_skip: int
) -> dict[str, NDArray[np.float64]]:
    """Errors [n] by the names of ERRORS, mean absolute differences over std: of the first model step, of all, and of
    the action averaged over time. Each is a mean over S sequences and A numbers; `by_dimension` [n, A]: of all steps.
    """
    difference = (actions_nSLA - recorded_nLA[:, None]) / std_A
    return {
        "first_step": np.abs(difference[:, :, :frame_skip]).mean((1, 2, 3)),
        "all_steps": np.abs(difference).mean((1, 2, 3)),
        "average_action": np.abs(difference.mean(2)).mean((1, 2)),
        "by_dimension": np.abs(difference).mean((1, 2)),
    }


def rank_recorded(
    cost_n: NDArray[np.floating[Any]], candidate_cost_nN: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Share of candidates [n] with a lower cost than the recorded actions; those of the same cost count half. 0: the
    recorded actions are best, 0.5: chance."""
    lower, same = candidate_cost_nN < cost_n[:, None], candidate_cost_nN == cost_n[:, None]
    return np.asarray((lower + 0.5 * same).mean(1))


def measure_errors(setup: OfflineSetup, methods: Methods) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Errors of every method at every moment, of the numbers of an action that vary."""
    varies, skip = setup.compared, setup.dynamics.spec.frame_skip
    recorded, std = methods.recorded[..., varies], setup.std[varies]
    return {name: compare_actions(rows[..., varies], recorded, std, skip) for name, rows in methods.actions.items()}


def measure_ranks(planned: PlannedMoments) -> dict[str, NDArray[np.float64]]:
    """`rank_recorded` by the source of the candidates."""
    return {name: rank_recorded(planned.recorded_cost, costs) for name, costs in planned.candidate_costs.items()}


def summarise_plans(setup: OfflineSetup, planned: PlannedMoments, methods: Methods, seed: int) -> dict[str, Any]:
    """The content of results.json that follows from plans."""
    episode, info, spec = setup.moments.index.episode, setup.reader.info, setup.dynamics.spec
    rows_by_method = measure_errors(setup, methods)
    errors = {
        name: {key: summarise_mean(rows[key], episode, seed) for key in ERRORS}
        | {
            "by_dimension": rows["by_dimension"].mean(0).tolist(),
            "first_step_minus_model": summarise_mean(
                rows["first_step"] - rows_by_method[MODEL_METHOD]["first_step"], episode, seed
            ),
        }
        for name, rows in rows_by_method.items()
    }
    ranks = {
        name: {
            "rank": summarise_mean(rank, episode, seed),
            "best_tenth": summarise_share(rank <= BEST_SHARE, episode, seed),
        }
        for name, rank in measure_ranks(planned).items()
    }
    names = np.array(info.action_names)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "task": info.env_id,
        "moments": len(setup.moments),
        "episodes": len(np.unique(episode)),
        "train_moments": len(setup.train_moments),
        "unit": "standard deviations of the actions of train",
        "actions": {
            "names": names[setup.compared].tolist(),
            "std": setup.std[setup.compared].tolist(),
            "constant": names[~setup.compared].tolist(),
        },
        "steps": {
            "model_steps": setup.moments.goal_offset // spec.frame_skip,
            "frame_skip": spec.frame_skip,
            "goal_offset": setup.moments.goal_offset,
            "goal_offset_s": setup.moments.goal_offset * info.step_s,
        },
        "action_error": errors,
        "rank": ranks,
        "candidates": CANDIDATES,
        "imagined_cost": {
            "planned": float(planned.cost.mean()),
            "recorded": float(planned.recorded_cost.mean()),
            "others": float(planned.candidate_costs[RECORDED_SOURCE].mean()),
        },
        "plan": {
            "ms_p50": float(np.median(planned.plan_ms)),
            "moments_at_once": min(len(setup.moments), MOMENTS_AT_ONCE),
            "device": str(spec.device),
        },
    }
