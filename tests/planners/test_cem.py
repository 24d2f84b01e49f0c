"""CEM on a point mass whose optimal plan is known."""

import math
from dataclasses import fields, replace

import pytest
import torch

from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from planners.protocol import Planner
from planners.sampling import Proposal
from planners.scoring import score

from .point_mass import PointContext, PointMass, views
from .watch import Watch

LAST = GoalCost(reduce="last", metric="l2")
SUM = GoalCost(reduce="sum", metric="l2")
PLAIN = {"std_warm": 0.0, "noise_beta": 0.0, "return_best": True, "momentum_mean": 0.1, "momentum_std": 0.1}
GOOD = CEMConfig(samples=200, iterations=12, horizon=4, elites=20, std_min=0.0, std_init=1.0, **PLAIN)
QUICK = CEMConfig(samples=32, iterations=3, horizon=3, elites=6, std_init=0.5, **PLAIN)


def plan(config=QUICK, cost=SUM, num_envs=3, dynamics=None, only=None, **kwargs):
    """A plan for some of `num_envs` random environments, each with its own start, goal and seed."""
    dynamics = dynamics or PointMass()
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(num_envs, 2, generator=generator)
    goal = start + 1.5 * torch.randn(num_envs, 2, generator=generator)
    envs = [only] if only is not None else list(range(num_envs))
    seeds = kwargs.pop("seeds", [100 + env for env in envs])
    context = PointContext(start[envs])
    return CEM(config).plan(dynamics, context, views(goal[envs]), cost, seeds=seeds, **kwargs)


def straight(goal, config=GOOD, cost=LAST, **kwargs):
    """A plan from the origin to one goal."""
    context, where = PointContext(torch.zeros(1, 2)), views(torch.tensor([goal]))
    return CEM(config).plan(PointMass(**kwargs), context, where, cost, seeds=[0])


def test_a_goal_within_reach_is_reached():
    for return_best in (True, False):
        found = straight((2.0, -1.0), replace(GOOD, return_best=return_best))
        assert found.actions_BKA.sum(1)[0].tolist() == pytest.approx([2.0, -1.0], abs=0.02)
        assert found.cost_B.item() < 0.02


def test_a_goal_out_of_reach_is_approached_at_the_bounds():
    found = straight((6.0, -7.0))
    want = torch.tensor([1.0, -1.0]).expand(1, 4, 2)
    assert torch.allclose(found.actions_BKA, want, atol=0.02)
    assert found.cost_B.item() == pytest.approx(math.sqrt((2**2 + 3**2) / 2), abs=0.02)


def test_a_path_cost_goes_at_full_speed_and_then_stays():
    found = straight((2.0, -2.0), replace(GOOD, samples=500, elites=25, iterations=30), SUM)
    want = torch.tensor([[1.0, -1.0], [1.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(found.actions_BKA[0], want, atol=0.1)
    assert found.cost_B.item() == pytest.approx(1.0, abs=0.1)  # one step at distance 1, then none


def test_bounds_hold_for_every_candidate_ever_imagined():
    dynamics = PointMass(low=(-0.3, 0.1), high=(0.2, 0.6))
    config = replace(QUICK, std_init=5.0, return_best=False, keep_elites=3)
    found = plan(config, dynamics=dynamics, warm_start=torch.full((3, 3, 2), 9.0))
    for actions in [*dynamics.asked, found.actions_BKA]:
        assert (actions >= torch.tensor([-0.3, 0.1])).all()
        assert (actions <= torch.tensor([0.2, 0.6])).all()


@pytest.mark.parametrize("wind", [0.0, 0.3])
@pytest.mark.parametrize("changes", [{}, {"keep_elites": 4, "noise_beta": 2.0}, {"early_stop_std": 0.3}])
def test_a_batch_of_environments_is_planned_as_each_alone(changes, wind):
    config = replace(QUICK, iterations=8, **changes)
    batch = plan(config, num_envs=5, dynamics=PointMass(wind=wind))
    for env in range(5):
        alone = plan(config, num_envs=5, dynamics=PointMass(wind=wind), only=env)
        assert torch.equal(batch.actions_BKA[env], alone.actions_BKA[0])
        assert torch.equal(batch.cost_B[env], alone.cost_B[0])


@pytest.mark.parametrize("chunk_elements", [5, 96, 200])
def test_a_plan_scored_in_chunks_is_the_same_plan(chunk_elements):
    for wind in (0.0, 0.3):
        whole = plan(dynamics=PointMass(wind=wind))
        chunked = plan(replace(QUICK, chunk_elements=chunk_elements), dynamics=PointMass(wind=wind))
        assert torch.equal(whole.actions_BKA, chunked.actions_BKA)


def test_the_same_seed_gives_the_same_plan_and_another_seed_or_replan_another():
    first = plan().actions_BKA
    assert torch.equal(plan().actions_BKA, first)
    assert not torch.allclose(plan(seeds=[1, 2, 3]).actions_BKA, first)
    assert not torch.allclose(plan(replan=1).actions_BKA, first)


CHANGES = {
    "samples": 48,
    "iterations": 4,
    "horizon": 4,
    "std_init": 0.8,
    "std_warm": 0.1,
    "noise_beta": 2.0,
    "include_mean": False,
    "return_best": False,
    "early_stop_std": 0.4,
    "elites": 8,
    "std_min": 0.4,
    "momentum_mean": 0.5,
    "momentum_std": 0.5,
    "keep_elites": 4,
    "draws": "device",
}


SAME_PLAN = ("chunk_elements", "precision", "compile_iteration")


@pytest.mark.parametrize("key", [f.name for f in fields(CEMConfig) if f.name not in SAME_PLAN])
def test_every_parameter_changes_the_plan(key):
    base = replace(QUICK, iterations=8) if key == "early_stop_std" else QUICK
    # A mean that is a candidate shows where it is the best one: at the optimum.
    warm_start = {
        "include_mean": plan(replace(GOOD, horizon=3)).actions_BKA,
        "std_warm": torch.zeros(3, 3, 2),
    }.get(key)
    first = plan(base, warm_start=warm_start).actions_BKA
    second = plan(replace(base, **{key: CHANGES[key]}), warm_start=warm_start).actions_BKA
    assert first.shape != second.shape or not torch.allclose(first, second)


def test_an_update_is_the_statistic_of_the_elites_smoothed_and_floored():
    planner = CEM(CEMConfig(samples=5, elites=3, momentum_mean=0.25, momentum_std=0.5, std_min=0.2))
    actions = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [9.0, 5.0], [-9.0, 5.0]])[None, :, None]
    before = Proposal(torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
    cost = torch.tensor([[1.0, 2.0, 3.0, 4.0, math.inf]])
    after = planner.update(before, actions, cost, half_A=torch.tensor([2.0, 4.0]))
    assert after.mean_BKA.flatten().tolist() == pytest.approx([0.75 * 1.0, 0.75 * 5.0])
    assert after.std_BKA.flatten().tolist() == pytest.approx([0.5 * 1.0 + 0.5 * 1.0, 0.2 * 4.0])
    assert after.elite_cost_B.tolist() == [2.0]


def test_elites_of_infinite_cost_do_not_count_and_without_any_the_proposal_stays():
    planner = CEM(CEMConfig(samples=4, elites=3, momentum_mean=0.0, momentum_std=0.0, std_min=0.0))
    actions = torch.tensor([1.0, 3.0, 50.0, 70.0])[None, :, None, None]
    before = Proposal(torch.full((1, 1, 1), 7.0), torch.full((1, 1, 1), 0.5))
    inf, half = math.inf, torch.ones(1)
    two = planner.update(before, actions, torch.tensor([[1.0, 2.0, inf, inf]]), half)
    assert (two.mean_BKA.item(), two.std_BKA.item()) == pytest.approx((2.0, math.sqrt(2)))
    one = planner.update(before, actions, torch.tensor([[inf, 2.0, inf, inf]]), half)
    assert (one.mean_BKA.item(), one.std_BKA.item()) == (3.0, 0.5)
    none = planner.update(before, actions, torch.full((1, 4), inf), half)
    assert (none.mean_BKA.item(), none.std_BKA.item(), none.elite_cost_B.item()) == (7.0, 0.5, inf)


@pytest.mark.parametrize("return_best", [True, False])
def test_regions_of_nan_are_avoided_and_survived(return_best):
    config = replace(GOOD, return_best=return_best)
    context, goal = PointContext(torch.zeros(2, 2)), views(torch.tensor([[3.0, 1.0], [-1.0, -1.0]]))
    found = CEM(config).plan(PointMass(hole=0.5), context, goal, SUM, seeds=[0, 1])
    assert found.actions_BKA.isfinite().all()
    assert found.actions_BKA[0].cumsum(0)[:, 0].max() <= 0.5 + 1e-5
    assert found.cost_B.isfinite().all()
    nowhere = CEM(config).plan(PointMass(hole=-99.0), context, goal, SUM, seeds=[0, 1])
    assert torch.equal(nowhere.actions_BKA, torch.zeros(2, 4, 2))  # nothing known: the first mean
    assert (nowhere.cost_B == math.inf).all()
    for entry in nowhere.history:
        assert all((entry[key] == math.inf).all() for key in ("best", "mean", "elite_mean"))


def test_the_best_candidate_ever_seen_is_kept():
    dynamics = PointMass()
    found = plan(replace(QUICK, iterations=6, std_min=0.8), dynamics=dynamics)
    best = torch.stack([entry["best"] for entry in found.history])
    assert (best.diff(dim=0) <= 0).all()
    assert torch.equal(found.cost_B, best[-1])
    seen = torch.cat(dynamics.asked, dim=1)
    for env in range(3):
        assert (seen[env] == found.actions_BKA[env]).all((1, 2)).any()


@pytest.mark.parametrize("return_best", [True, False])
def test_the_cost_of_a_plan_is_the_cost_of_its_actions(return_best):
    found = straight((2.0, -1.0), replace(QUICK, return_best=return_best), SUM)
    context, goal = PointContext(torch.zeros(1, 2)), views(torch.tensor([[2.0, -1.0]]))
    assert torch.equal(found.cost_B, score(PointMass(), context, goal, SUM, found.actions_BKA[:, None])[:, 0])


def test_a_search_begins_at_its_warm_start():
    optimum = plan(replace(GOOD, horizon=3)).actions_BKA
    near = replace(QUICK, std_init=0.01, std_min=0.0, iterations=1)
    assert torch.allclose(plan(near, warm_start=optimum).actions_BKA, optimum, atol=0.05)
    assert (plan(near, warm_start=optimum).cost_B < plan(near).cost_B).all()


def test_an_environment_that_has_converged_is_frozen_and_all_of_them_end_the_search():
    config = replace(QUICK, samples=200, elites=10, iterations=50, std_min=0.0, early_stop_std=0.1)
    found = plan(config)
    assert len(found.history) < 50
    still = plan(replace(config, early_stop_std=0.0))
    assert len(still.history) == 50


def test_the_history_has_an_entry_an_iteration_with_a_number_an_environment():
    found = plan()
    assert len(found.history) == QUICK.iterations
    for entry in found.history:
        assert set(entry) == {"best", "mean", "elite_mean", "std"}
        assert all(value.shape == (3,) for value in entry.values())
        assert (entry["best"] <= entry["elite_mean"]).all()
        assert (entry["elite_mean"] <= entry["mean"]).all()
    assert (found.history[-1]["std"] < QUICK.std_init).all()


def test_an_iteration_never_waits_for_the_device():
    with Watch() as watch:
        plan(replace(QUICK, noise_beta=1.0, keep_elites=2, chunk_elements=50, return_best=False))
    assert watch.count == 0
    with Watch() as watch:
        plan(replace(QUICK, early_stop_std=0.1))  # on a CPU it looks once an iteration: the watch works
    assert watch.count > 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_plan_equals_the_cpu_plan_without_synchronising():
    wanted = plan()
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(3, 2, generator=generator)
    goal = start + 1.5 * torch.randn(3, 2, generator=generator)
    dynamics = PointMass()
    dynamics.spec = replace(dynamics.spec, device=torch.device("cuda"))
    context, where = PointContext(start.cuda()), views(goal.cuda())
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = CEM(QUICK).plan(dynamics, context, where, SUM, seeds=[100, 101, 102])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(found.actions_BKA.cpu(), wanted.actions_BKA, atol=1e-5)


def test_a_model_that_cannot_serve_the_cost_or_the_horizon_is_named():
    with pytest.raises(ValueError, match=r"'flow'.*pooled"):
        plan(cost=GoalCost(view="flow"))
    with pytest.raises(ValueError, match=r"horizon is 17.*16"):
        plan(replace(QUICK, horizon=17))


@pytest.mark.parametrize(
    "wrong",
    [
        {"elites": 1},
        {"elites": 300},
        {"keep_elites": 21},
        {"momentum_mean": 1.0},
        {"momentum_std": -0.1},
        {"std_min": -1.0},
        {"early_stop_std": 0.05},
        {"early_stop_std": -1.0},
    ],
)
def test_a_cem_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CEMConfig(**wrong)


_: type[Planner] = CEM  # the type checker's proof that it speaks the protocol
