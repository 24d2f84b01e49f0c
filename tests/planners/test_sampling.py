"""Draws, colour, warm starts, and scoring in chunks."""

import math
from typing import get_args

import pytest
import torch
from scipy.stats import kstest

from planners import scoring
from planners.costs import GoalCost
from planners.noise import Draws, Source, make_colour_matrix, sample_noise
from planners.philox import encrypt_counters
from planners.protocol import Views
from planners.sampling import shift_plan
from planners.scoring import Problem, measure_elite_overlap, score, score_each
from planners.settings import SearchConfig

from .point_mass import PointContext, PointMass, views

CPU = torch.device("cpu")
COST = GoalCost(metric="l2", reduce="sum")


def problem(num_envs=5, samples=7, horizon=3, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    dynamics = PointMass(**kwargs)
    context = PointContext(torch.randn(num_envs, 2, generator=generator))
    goal = views(torch.randn(num_envs, 2, generator=generator))
    shape = (num_envs, samples, horizon, dynamics.spec.block_dim)
    return dynamics, context, goal, torch.rand(shape, generator=generator) * 2 - 1


SOURCES = pytest.mark.parametrize("source", get_args(Source))


@SOURCES
def test_draws_depend_on_the_key_alone_and_not_on_the_place_in_the_batch(source):
    draws = Draws((3, 1, 4), replan=2, device=CPU, source=source)
    batch = draws.normal((6, 2))
    assert batch.shape == (3, 6, 2)
    for row, seed in enumerate((3, 1, 4)):
        assert torch.equal(batch[row], Draws((seed,), replan=2, device=CPU, source=source).normal((6, 2))[0])
    assert torch.equal(draws.select(slice(1, 3)).normal((6, 2)), batch[1:])
    assert torch.equal(draws.select(torch.tensor([2, 0])).normal((6, 2)), batch[[2, 0]])


@SOURCES
def test_every_part_of_the_key_changes_the_draws(source):
    draws = Draws((3,), replan=2, device=CPU, source=source)
    others = [
        draws.normal((8,)),
        draws.normal((8,), stream=2),
        draws.at(1).normal((8,)),
        Draws((3,), replan=3, device=CPU, source=source).normal((8,)),
        Draws((4,), replan=2, device=CPU, source=source).normal((8,)),
        Draws((-3,), replan=2, device=CPU, source=source).normal((8,)),
    ]
    for i, first in enumerate(others):
        for second in others[i + 1 :]:
            assert not torch.allclose(first, second)


@SOURCES
def test_draws_are_standard_normal_and_leave_the_global_generator_alone(source):
    before = torch.get_rng_state()
    draws = Draws(tuple(range(50)), replan=0, device=CPU, source=source).normal((1000,))
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1) < 0.02
    assert abs(torch.corrcoef(draws[:2])[0, 1]) < 0.15
    assert kstest(draws.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(torch.corrcoef(draws[:, :4].T) - torch.eye(4)).max() < 0.6  # numbers of one counter


# Known answers of Random123 (kat_vectors, philox4x32 10): counter, key, words.
PHILOX = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def test_philox_gives_the_known_answers_of_its_authors():
    counters, keys, words = (torch.tensor(column) for column in zip(*PHILOX, strict=True))
    assert torch.equal(encrypt_counters(counters, keys).diagonal().T, words)


def test_more_draws_begin_with_the_same_numbers():
    draws = Draws((3,), replan=2, device=CPU, source="device")
    assert torch.equal(draws.normal((9,))[:, :7], draws.normal((7,)))


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 4.0])
def test_coloured_noise_has_the_covariance_of_its_spectrum(beta):
    steps = 6
    matrix = make_colour_matrix(steps, beta).double()
    lag = torch.arange(steps, dtype=torch.float64)
    power = [max(k, 1) ** -beta for k in range(steps + 1)]  # of frequencies k / (2 steps)
    weight = [1, *[2] * (steps - 1), 1]  # the outer two have no mirror image
    terms = zip(weight, power, range(steps + 1), strict=True)
    covariance = sum(w * p * torch.cos(2 * math.pi * k * lag / (2 * steps)) for w, p, k in terms)
    want = covariance / covariance[0]
    got = matrix @ matrix.T
    assert torch.allclose(got[0], want, atol=1e-5)
    assert torch.allclose(got.diagonal(), torch.ones(steps, dtype=torch.float64), atol=1e-5)
    assert beta == 0 or (want[1] > 0.4 and want[-1] < want[1])
    assert beta != 0 or torch.allclose(got, torch.eye(steps, dtype=torch.float64), atol=1e-6)


def test_colour_runs_over_environment_steps_within_and_across_blocks():
    draws, frame_skip, horizon = Draws(tuple(range(8)), 0, CPU), 3, 2
    colour = make_colour_matrix(horizon * frame_skip, 2.0)
    noise = sample_noise(draws, (500, horizon, 2 * frame_skip), colour)
    per_step = noise.reshape(8 * 500, horizon * frame_skip, 2)
    correlation = torch.corrcoef(per_step[..., 0].T)
    want = make_colour_matrix(6, 2.0) @ make_colour_matrix(6, 2.0).T
    assert torch.allclose(correlation, want, atol=0.06)
    assert abs(torch.corrcoef(per_step[:, 0].T)[0, 1]) < 0.05  # the two actions of one step stay independent


def test_a_shifted_plan_begins_where_the_last_one_was_left():
    plan = torch.arange(8.0).reshape(1, 4, 2) + 1
    assert shift_plan(plan, 1).tolist() == [[[3, 4], [5, 6], [7, 8], [7, 8]]]
    assert shift_plan(plan, 3, "zero").tolist() == [[[7, 8], [0, 0], [0, 0], [0, 0]]]
    assert torch.equal(shift_plan(plan, 0), plan)
    assert shift_plan(plan, 4).tolist() == [[[7, 8]] * 4]


@pytest.mark.parametrize("wind", [0.0, 0.5])
@pytest.mark.parametrize("chunk_elements", [1, 3, 9, 21, 40, 63, 104, 105, 1000])
def test_scores_in_chunks_equal_scores_at_once(chunk_elements, wind):
    dynamics, context, goal, actions = problem(wind=wind)
    noise = Draws(tuple(range(5)), 0, CPU)
    whole = score(dynamics, context, goal, COST, actions, noise, chunk_elements=10**9)
    assert len(dynamics.asked) == 1
    dynamics.asked.clear()
    assert torch.equal(score(dynamics, context, goal, COST, actions, noise, chunk_elements), whole)
    largest = max(asked.shape[0] * asked.shape[1] * asked.shape[2] for asked in dynamics.asked)
    assert largest <= max(chunk_elements, 3), "a chunk holds at least one candidate of three steps"
    assert len(dynamics.asked) == 1 or chunk_elements < 105


def test_a_score_is_the_cost_of_what_is_imagined():
    dynamics, context, goal, actions = problem()
    path = context.position_B2[:, None, None] + actions.cumsum(2)
    distance = (path - goal.view("pooled")[:, None, None]).square().mean(-1).sqrt()
    assert torch.allclose(score(dynamics, context, goal, COST, actions), distance.sum(-1))


def test_several_costs_score_what_is_imagined_once():
    dynamics, context, goal, actions = problem()
    costs = [COST, GoalCost(metric="l1", reduce="last"), GoalCost(reduce="closest")]
    found = score_each(dynamics, context, goal, costs, actions, chunk_elements=9)
    assert (
        max(asked.shape[1] for asked in dynamics.asked) <= 3 and sum(a[..., 0, 0].numel() for a in dynamics.asked) == 35
    )
    for cost, scores in zip(costs, found, strict=True):
        assert torch.equal(scores, score(dynamics, context, goal, cost, actions))


def test_chunks_are_sized_by_the_memory_a_step_takes():
    assert scoring.compute_chunk_size(PointMass().spec) == 0
    two_environments = 2 * 7 * 3
    dynamics, context, goal, actions = problem(step_bytes=(1 << 30) // two_environments)
    score(dynamics, context, goal, COST, actions)
    assert [asked.shape[0] for asked in dynamics.asked] == [2, 2, 1]
    assert scoring.compute_chunk_size(PointMass(step_bytes=1 << 40).spec) == 1


def test_nan_and_infinite_costs_become_the_worst():
    dynamics, context, goal, actions = problem(hole=0.0)
    costs = score(dynamics, context, goal, COST, actions)
    seen = context.position_B2[:, None, None] + actions.cumsum(2)
    hidden = (seen[..., 0] > 0).any(-1)
    assert hidden.any() and not hidden.all()
    assert torch.equal(costs == math.inf, hidden)
    assert costs[~hidden].isfinite().all()


class Mixing(PointMass):
    """A point mass that adds its actions up by a matrix product, which number formats change."""

    def imagine(self, context, actions_BSKA, generator=None, keep="path"):
        sums = torch.ones(actions_BSKA.shape[2], actions_BSKA.shape[2]).tril()
        path = context.position_B2[:, None, None] + (sums @ actions_BSKA).float()
        return Views({"pooled": path if keep == "path" else path[:, :, -1:]}, keep)


def test_bf16_reaches_the_products_alone_and_most_of_the_best_candidates_stay():
    _, context, goal, _ = problem()
    actions = torch.rand(5, 200, 3, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    problems = {p: Problem(Mixing(), context, goal, COST, 0, p) for p in ("fp32", "tf32", "bf16")}
    costs = {p: each.score(actions, None) for p, each in problems.items()}
    torch.testing.assert_close(costs["tf32"], costs["fp32"], atol=1e-2, rtol=1e-2)  # equal where there is no TF32
    assert costs["bf16"].dtype == torch.float32
    assert 0 < (costs["bf16"] - costs["fp32"]).abs().max() < 0.05
    assert 0.8 < measure_elite_overlap(costs["fp32"], costs["bf16"]) <= 1
    gradients = [problems[p].differentiate(actions, None)[1] for p in ("fp32", "bf16")]
    assert 0 < (gradients[0] - gradients[1]).abs().max() < 0.05
    assert not torch.is_autocast_enabled("cpu") and torch.get_float32_matmul_precision() == "highest"


def test_the_overlap_of_elites_is_the_share_of_the_best_tenth_that_both_choose():
    cost = torch.arange(20.0).repeat(2, 1)
    other = cost.clone()
    other[1, 0] = 100.0  # of the two best in the second environment one is no longer
    assert measure_elite_overlap(cost, cost) == 1 and measure_elite_overlap(cost, other) == 0.75


def test_a_score_is_differentiable_where_the_caller_wants_it():
    dynamics, context, goal, actions = problem()
    actions.requires_grad_()
    score(dynamics, context, goal, COST, actions, chunk_elements=9).sum().backward()
    assert (actions.grad.abs().sum((2, 3)) > 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 1},
        {"iterations": 0},
        {"horizon": 0},
        {"chunk_elements": -1},
        {"std_init": 0.0},
        {"std_warm": -0.1},
        {"noise_beta": -1.0},
    ],
)
def test_a_search_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SearchConfig(**wrong)
