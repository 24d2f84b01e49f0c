"""First candidates from data: nearest segments by brute force, and what a search makes of them."""

from types import SimpleNamespace

import pytest
import torch

from planners import mpc, proposals
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost, feature_distance
from planners.gradient import Gradient, GradientConfig
from planners.icem import ICEM, ICEMConfig
from planners.mpc import MPC, MPCConfig
from planners.mppi import MPPI, MPPIConfig
from planners.nevergrad_search import Nevergrad
from planners.point_mass import DoubleIntegrator, PointCost, State
from planners.predictive_sampling import PredictiveSampling, PredictiveSamplingConfig
from planners.proposals import (
    Direct,
    DirectConfig,
    ProposalConfig,
    Proposals,
    Retrieval,
    Segments,
    check_candidates,
    join_candidates,
)
from planners.protocol import Views

from .point_mass import PointMass, draw, read

LENGTHS, SKIP, HORIZON = (9, 14, 7, 5), 2, 2  # frames of the episodes; the last one has a single start
ICEM_SMALL = ICEMConfig(samples=24, iterations=3, horizon=4, elites=6, keep_elites=3)
BEST = {"return_best": True, "horizon": 4}
SEARCHES = {
    "cem": CEM(CEMConfig(samples=24, iterations=3, elites=6, **BEST)),
    "icem": ICEM(ICEM_SMALL),
    "mppi": MPPI(MPPIConfig(samples=24, iterations=3, **BEST)),
    "predictive_sampling": PredictiveSampling(PredictiveSamplingConfig(samples=12, iterations=3, **BEST)),
    "gradient": Gradient(GradientConfig(samples=8, iterations=3, **BEST)),
}


def make_segments(shape=(3,), seed=0):
    """Random features of frames, and action blocks that name their first frame."""
    generator = torch.Generator().manual_seed(seed)
    after = torch.cat([(count - 1 - torch.arange(count)) // SKIP for count in LENGTHS])
    starts = (after >= HORIZON).nonzero()[:, 0]
    actions = starts[:, None, None] + torch.tensor([0.0, 0.25])[:, None].expand(HORIZON, 4)
    return Segments(torch.randn(len(after), *shape, generator=generator), after, starts, actions, SKIP)


def search_all(segments, now, goal, metric, longest):
    """(distance, first frame) of every start, over every length, one pair after the other."""
    axes, found = now.ndim, []
    episode = [number for number, count in enumerate(LENGTHS) for _ in range(count)]

    def distance(one, other):
        return float(feature_distance(one[None, None, None], other[None], metric, axes))

    for start in segments.starts_N.tolist():
        ends = [start + steps * SKIP for steps in range(1, longest + 1)]
        ends = [end for end in ends if end < len(episode) and episode[end] == episode[start]]
        to_goal = min(distance(segments.features[end], goal) for end in ends)
        found.append((distance(segments.features[start], now) + to_goal, start))
    return sorted(found)


@pytest.mark.parametrize(
    ("metric", "shape", "longest"),
    [("l2", (3,), 0), ("l1", (3,), 2), ("sq_l2", (4, 3), 0), ("cosine", (4, 3), 3)],
)
def test_the_nearest_segments_are_those_of_a_search_through_all_pairs(metric, shape, longest, monkeypatch):
    monkeypatch.setattr(proposals, "CHUNK_NUMBERS", 40)  # several chunks
    segments = make_segments(shape)
    retrieval = Retrieval(None, "pooled", metric, segments, count=5, longest=longest)
    generator = torch.Generator().manual_seed(1)
    now, goal = (torch.randn(3, *shape, generator=generator) for _ in range(2))
    got = retrieval.propose(now[:, None], None, goal, None, HORIZON)
    assert got.shape == (3, 5, HORIZON, 4)
    for env in range(3):
        want = search_all(segments, now[env], goal[env], metric, longest or 99)
        assert got[env, :, 0, 0].tolist() == [start for _, start in want[:5]]
        nearest = retrieval.measure(now, goal)[env].sort().values
        assert torch.allclose(nearest, torch.tensor([d for d, _ in want]), atol=1e-5)


def test_a_training_pair_finds_its_own_segment():
    segments = make_segments()
    retrieval = Retrieval(None, "pooled", "l2", segments, count=1)
    for start in segments.starts_N.tolist():
        for steps in range(1, int(segments.after_F[start]) + 1):
            now, goal = (segments.features[row][None] for row in (start, start + steps * SKIP))
            assert retrieval.measure(now, goal).min() < 1e-6
            assert retrieval.propose(now[:, None], None, goal, None, HORIZON)[0, 0, 0, 0] == start


def problem(num_envs=3):
    """Points at rest, goals a way off, and proposals of which one is good."""
    generator = torch.Generator().manual_seed(3)
    state = torch.zeros(num_envs, 4)
    state[:, :2] = torch.randn(num_envs, 2, generator=generator)
    goal = torch.zeros(num_envs, 4)
    goal[:, :2] = torch.randn(num_envs, 2, generator=generator)
    away = goal[:, :2] - state[:, :2]
    good = torch.stack((away, away / 2, -away / 2, -away), 1)
    poor = torch.rand(num_envs, 3, 4, 2, generator=generator) * 2 - 1
    return State(state), Views({"pooled": goal}), torch.cat((poor, good[:, None]), 1).clamp(-1, 1)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_costs_no_more_than_its_best_proposal(name, later):
    context, goal, proposed = problem()
    last = torch.zeros(3, 1 + 3, 4, 2) if later else None
    dynamics, cost = DoubleIntegrator(), PointCost()
    plan = SEARCHES[name].plan(
        dynamics, context, goal, cost, seeds=[1, 2, 3], warm_start=join_candidates(last, proposed), replan=int(later)
    )
    given = cost(dynamics.imagine(context, proposed), goal, proposed)
    assert (plan.history[0]["best"] <= given.min(1).values + 1e-6).all()
    assert (plan.cost_B <= given.min(1).values + 1e-6).all()
    alone = SEARCHES[name].plan(dynamics, context, goal, cost, seeds=[1, 2, 3], warm_start=last)
    assert (plan.history[0]["best"] <= alone.history[0]["best"] + 1e-6).any()


class Recorded:
    """A proposer that answers with counted actions, and remembers what it was asked."""

    def __init__(self, history=2, count=3, horizon=4):
        self.history, self.count, self.horizon = history, count, horizon
        self.asked = []

    def encode(self, frames):
        return read(frames)

    def propose(self, seen, valid, goal, steps, horizon):
        self.asked.append((seen, valid, goal, steps))
        number = torch.arange(self.count)[None, :, None, None] + 10 * len(self.asked)
        return (number / 100).expand(len(seen), -1, horizon, 2)


def play(agent, goal, steps, start=None):
    """Positions [steps + 1, B, 2] of an episode."""
    position = torch.zeros(len(goal), 2) if start is None else start
    agent.reset(draw(goal.reshape(-1, 2)).reshape(*goal.shape[:-1], 4, 4, 3), seeds=range(len(goal)))
    path = [position]
    for _ in range(steps):
        position = agent.dynamics.move(position, agent.act(draw(position)))
        path.append(position)
    return torch.stack(path)


def test_every_search_gets_proposals_for_what_is_seen_its_goal_and_the_steps_left():
    proposer, goal = Recorded(), torch.tensor([[2.0, 1.0], [-1.0, 0.5]])
    agent = MPC(PointMass(), ICEM(ICEM_SMALL), GoalCost(), proposals=Proposals(proposer, steps=3, least_steps=2))
    path = play(agent, goal, 4)
    assert [steps.tolist() for *_, steps in proposer.asked] == [[3, 3], [2, 2], [2, 2], [2, 2]]
    for number, (seen, valid, wanted, _) in enumerate(proposer.asked):
        assert torch.allclose(seen[:, 1], path[number], atol=1e-3) and torch.allclose(wanted, goal, atol=1e-3)
        assert torch.allclose(seen[:, 0], path[max(0, number - 1)], atol=1e-3)
        assert valid.tolist() == [[number > 0, True]] * 2
    firsts = [asked for asked in agent.dynamics.asked if asked.shape[1] == 24]  # of every search
    assert len(firsts) == 4
    for number, candidates in enumerate(firsts):
        # Values of the proposals, of which the first search has one as its mean.
        want = {round(0.01 * i + 0.1 * (number + 1), 4) for i in range(3)}
        constant = candidates[0].flatten(1).std(1, correction=0) < 1e-6
        assert {round(float(row[0, 0]), 4) for row in candidates[0][constant]} >= want


def test_without_search_the_first_proposal_is_executed_and_nothing_is_imagined():
    proposer, dynamics = Recorded(history=1), PointMass()
    agent = MPC(dynamics, Direct(DirectConfig(4)), GoalCost(), proposals=Proposals(proposer, steps=3))
    path = play(agent, torch.ones(2, 2), 3)
    assert torch.allclose(path.diff(dim=0)[:, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert not dynamics.asked and not dynamics.observed and agent.last_plan.cost_B.isnan().all()
    with pytest.raises(ValueError, match="planner.proposal.source=retrieval, or a run folder of jepa clone"):
        Direct().plan(dynamics, None, None, None, seeds=[0])


def test_the_time_of_a_plan_holds_that_of_encoding_frames_for_proposals(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(mpc, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(Recorded):
        def encode(self, frames):
            clock[0] += 0.5
            return super().encode(frames)

    agent = MPC(PointMass(), Direct(DirectConfig(4)), GoalCost(), proposals=Proposals(Slow(), steps=3))
    agent.reset(draw(torch.zeros(1, 2)), [0])  # encodes the goal, once an episode
    for _ in range(2):
        agent.act(draw(torch.zeros(1, 2)))
    assert agent.plan_ms == [500.0, 500.0]


def test_a_sub_goal_has_proposals_of_its_own_and_counts_anew():
    proposer = Recorded(history=1)
    goals = torch.tensor([[[2.0, 1.0], [-1.0, 0.5]]])
    config = MPCConfig(subgoal_steps=2)
    agent = MPC(PointMass(), Direct(DirectConfig(4)), GoalCost(), config, Proposals(proposer, steps=5))
    play(agent, goals, 4)
    assert [steps.item() for *_, steps in proposer.asked] == [5, 4, 5, 4]
    assert torch.allclose(torch.cat([goal for _, _, goal, _ in proposer.asked]), goals[0, [0, 0, 1, 1]], atol=1e-3)


def test_plans_from_retrieval_do_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(0)
    count = 20
    starts = torch.arange(count - 4)
    positions = torch.rand(count, 2, generator=generator) * 4 - 2
    actions = torch.rand(len(starts), 4, 2, generator=generator) * 2 - 1
    segments = Segments(positions, count - 1 - torch.arange(count), starts, actions, 1)
    goal, start = (torch.rand(3, 2, generator=generator) * 4 - 2 for _ in range(2))

    def run(rows):
        dynamics = PointMass()
        proposals = Proposals(Retrieval(dynamics, "pooled", "l2", segments, 5), steps=4)
        agent = MPC(dynamics, ICEM(ICEM_SMALL), GoalCost(), proposals=proposals)
        agent.reset(draw(goal[rows]), seeds=[7 + row for row in rows])
        position = start[rows]
        for _ in range(3):
            position = dynamics.move(position, agent.act(draw(position)))
        return position

    batch = run([0, 1, 2])
    assert all(torch.allclose(batch[row], run([row])[0], atol=1e-5) for row in range(3))


def test_candidates_join_behind_the_warm_start():
    proposed = torch.full((2, 3, 4, 2), 5.0)
    assert join_candidates(None, None) is None and join_candidates(None, proposed) is proposed
    plan = torch.zeros(2, 4, 2)
    assert join_candidates(plan, None) is plan
    assert join_candidates(plan, proposed)[0, :, 0, 0].tolist() == [0, 5, 5, 5]
    assert join_candidates(plan[:, None].expand(-1, 2, -1, -1), proposed)[0, :, 0, 0].tolist() == [0, 0, 5, 5, 5]


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match="the planner Nevergrad takes no first candidates"):
        check_candidates(Nevergrad(), 1)
    with pytest.raises(ValueError, match=r"proposal.count is 21; with these samples it is at most 20"):
        check_candidates(ICEM(ICEM_SMALL), 21)
    check_candidates(ICEM(ICEM_SMALL), 20)
    with pytest.raises(ValueError, match="horizon is 4, and proposals have 2 action blocks"):
        MPC(PointMass(), ICEM(ICEM_SMALL), GoalCost(), proposals=Proposals(Recorded(horizon=2), steps=3))
    segments = make_segments()
    with pytest.raises(ValueError, match=f"count is 99, and there are {len(segments.starts_N)} recorded segments"):
        Retrieval(None, "pooled", "l2", segments, 99)
    for wrong in ({"count": 0}, {"longest": -1}, {"least_steps": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=f"planner proposal.{next(iter(wrong))} is"):
            ProposalConfig("retrieval", **wrong)
    assert [ProposalConfig(name).num_candidates for name in ("none", "retrieval", "runs/clone/x")] == [0, 8, 1]
