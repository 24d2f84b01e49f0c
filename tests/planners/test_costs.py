"""Costs against the equations they are named after."""

import math
from dataclasses import fields, replace
from typing import get_args

import pytest
import torch

from planners.costs import RETURN, GoalCost, Metric, Reduce, feature_distance, power_mean
from planners.protocol import DynamicsSpec, Views
from planners.scoring import check_fit

B, S, K = 2, 3, 5
REDUCTIONS = [name for name in get_args(Reduce) if name != RETURN]  # of distances
SHAPES = {"pooled": (7,), "tokens": (4, 7), "pixels": (6, 5, 3)}


def draw(view="pooled", seed=0, draws=()):
    generator = torch.Generator().manual_seed(seed)
    shape = SHAPES[view]
    imagined = torch.randn(*draws, B, S, K, *shape, generator=generator)
    goal = torch.randn(B, *shape, generator=generator)
    actions = torch.randn(B, S, K, 2, generator=generator)
    return Views({view: imagined}), Views({view: goal}), actions


def brute_distance(x, g, metric, view):
    if metric == "cosine":
        pairs = [(x, g)] if view != "tokens" else list(zip(x, g, strict=True))
        cosines = [(a * b).sum() / a.norm() / b.norm() for a, b in pairs]
        return float(1 - sum(cosines) / len(cosines))
    difference = (x - g).flatten().double()
    mean_square = float((difference**2).mean())
    return {"l1": float(difference.abs().mean()), "l2": math.sqrt(mean_square), "sq_l2": mean_square}[metric]


def brute_reduce(d, cost):
    mean, last, m = sum(d) / len(d), d[-1], min(cost.steps, len(d))
    windows = [sum(d[k : k + m]) / m for k in range(len(d) - m + 1)]
    path, end = cost.path_weight * mean, cost.last_weight * last
    return {
        "last": last,
        "sum": sum(d) + end,
        "closest": min(d) + path + end,
        "smallest": sum(sorted(d)[:m]) / m + path + end,
        "window": min(windows) + path + end,
        "running_min": sum(min(d[: k + 1]) for k in range(len(d))) + end,
        "power": (sum(x**cost.power for x in d) / len(d)) ** (1 / cost.power) + end,
    }[cost.reduce]


@pytest.mark.parametrize("view", SHAPES)
@pytest.mark.parametrize("metric", get_args(Metric))
def test_every_metric_is_its_equation_on_every_view(view, metric):
    imagined, goal, _ = draw(view)
    distance = GoalCost(view=view, metric=metric).distances(imagined, goal)
    x, g = imagined.view(view), goal.view(view)
    for b in range(B):
        for s in range(S):
            for k in range(K):
                want = brute_distance(x[b, s, k], g[b], metric, view)
                assert distance[b, s, k] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 9])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_every_reduction_is_its_equation(reduce, steps):
    cost = GoalCost(reduce=reduce, steps=steps, power=-2.0, last_weight=0.7, path_weight=0.3)
    d = torch.rand(B, S, K, generator=torch.Generator().manual_seed(1)) + 0.1
    got = cost.reduce_path(d)
    for b in range(B):
        for s in range(S):
            assert got[b, s] == pytest.approx(brute_reduce(d[b, s].tolist(), cost), rel=1e-5)


CHANGES = {
    "view": (GoalCost(), "other"),
    "metric": (GoalCost(), "l1"),
    "reduce": (GoalCost(), "sum"),
    "steps": (GoalCost(reduce="window"), 2),
    "power": (GoalCost(reduce="power", power=0.5), -1.0),
    "last_weight": (GoalCost(), 1.0),
    "path_weight": (GoalCost(), 0.5),
    "action_penalty": (GoalCost(), 0.1),
    "change_penalty": (GoalCost(), 0.1),
    "token_keep": (GoalCost(view="tokens"), 0.5),
    "action_dim": (GoalCost(change_penalty=0.1), 1),
    "distance": (GoalCost(), lambda x, g: (x - g).abs().amax(-1)),
}


def both(tokens):
    """The tokens, and the first two of them as those to compare."""
    return {"tokens": tokens.view("tokens"), "focus": torch.tensor([[0, 1]] * B)}


@pytest.mark.parametrize("key", [field.name for field in fields(GoalCost)])
def test_every_parameter_changes_the_cost(key):
    base, value = CHANGES[key]
    imagined, goal, actions = draw()
    tokens, where, _ = draw("tokens")
    imagined = Views({"pooled": imagined.view("pooled"), "other": imagined.view("pooled") ** 3, **both(tokens)})
    goal = Views({"pooled": goal.view("pooled"), "other": goal.view("pooled"), **both(where)})
    changed = replace(base, **{key: value})
    assert not torch.allclose(base(imagined, goal, actions), changed(imagined, goal, actions))


def paths():
    """Distances of paths that differ in one respect each; K = 6."""
    return {
        "early": [0.8, 0.4, 0.0, 0.0, 0.0, 0.0],
        "late": [0.9, 0.8, 0.7, 0.4, 0.2, 0.0],
        "through": [0.8, 0.4, 0.0, 0.4, 0.8, 1.2],
    }


@pytest.mark.parametrize("reduce", [name for name in REDUCTIONS if name != "last"])
def test_arriving_early_and_staying_costs_least(reduce):
    cost = GoalCost(reduce=reduce, path_weight=0.1, power=0.5)
    costs = {name: float(cost.reduce_path(torch.tensor(d)[None, None])) for name, d in paths().items()}
    # Reaching once is all that a running minimum asks for, so passing through ties with staying.
    stays = {name: value for name, value in costs.items() if reduce != "running_min" or name != "through"}
    assert costs["early"] == min(costs.values())
    assert sorted(stays.values())[1] > costs["early"] + 1e-3


@pytest.mark.parametrize("reduce", ["closest", "window", "smallest"])
def test_without_the_path_term_the_closest_approach_alone_does_not_ask_to_stay(reduce):
    indifferent = reduce == "closest"
    cost = GoalCost(reduce=reduce, path_weight=0.0)
    early, _, through = (cost.reduce_path(torch.tensor(d)) for d in paths().values())
    assert (float(early) == pytest.approx(float(through))) == indifferent


def test_smallest_and_power_span_from_the_closest_approach_to_the_mean():
    d = torch.rand(B, S, K, generator=torch.Generator().manual_seed(2)) + 0.1
    plain = {"path_weight": 0.0}
    assert torch.allclose(GoalCost(reduce="smallest", steps=1, **plain).reduce_path(d), d.amin(-1))
    assert torch.allclose(GoalCost(reduce="smallest", steps=K, **plain).reduce_path(d), d.mean(-1))
    assert torch.allclose(power_mean(d, 1.0), d.mean(-1))
    assert torch.allclose(power_mean(d, 0.0), d.log().mean(-1).exp())
    assert torch.allclose(power_mean(d, -400.0), d.amin(-1), rtol=1e-2)


def test_the_last_step_cost_asks_for_the_last_step_only_and_takes_either():
    imagined, goal, actions = draw()
    only_last = Views({"pooled": imagined.view("pooled")[:, :, -1:]}, keep="last")
    cost = GoalCost(reduce="last")
    assert cost.keep == "last"
    assert torch.equal(cost(imagined, goal, actions), cost(only_last, goal, actions))
    assert GoalCost(reduce="sum").keep == "path"
    with pytest.raises(AssertionError):
        GoalCost(reduce="sum")(only_last, goal, actions)


def test_draws_of_the_model_are_averaged():
    imagined, goal, actions = draw(draws=(4,))
    cost = GoalCost()
    distance = cost.distances(imagined, goal)
    one_by_one = [cost.distances(Views({"pooled": x}), goal) for x in imagined.view("pooled")]
    assert distance.shape == (B, S, K)
    assert torch.allclose(distance, torch.stack(one_by_one).mean(0))


def test_a_distance_function_sees_a_goal_ready_to_broadcast():
    seen = []
    cost = GoalCost(view="truth", distance=lambda x, g: seen.append(g.shape) or (x - g).abs().amax(-1))
    x, g = torch.randn(B, S, K, 4), torch.randn(B, 4)
    distance = cost.distances(Views({"truth": x}), Views({"truth": g}))
    assert seen == [(B, 1, 1, 4)]
    assert torch.equal(distance, (x - g[:, None, None]).abs().amax(-1))


def test_frames_as_bytes_and_bf16_features_are_compared_in_float32():
    frames = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 1, 1, 1, 1, 2)
    goal = torch.tensor([255, 0], dtype=torch.uint8).expand(1, 1, 1, 2)
    assert feature_distance(frames, goal, "l1", 3).item() == 255
    features, target = torch.randn(1, 2, 3, 8).bfloat16(), torch.randn(1, 8).bfloat16()
    assert feature_distance(features, target, "l2", 1).dtype == torch.float32


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_the_gradient_is_finite_even_at_the_goal(metric, reduce):
    imagined, goal, actions = draw()
    x = imagined.view("pooled").clone()
    x[:, 0] = goal.view("pooled")[:, None]
    x.requires_grad_()
    GoalCost(metric=metric, reduce=reduce)(Views({"pooled": x}), goal, actions).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("metric", get_args(Metric))
def test_only_the_tokens_that_the_goal_changes_most_are_compared(metric):
    imagined, goal, actions = draw("tokens")
    seen = goal.view("tokens").clone()
    seen[0, [1, 3]] += 2.0
    seen[1, [0, 3]] += torch.tensor([[1.0], [3.0]])
    cost = GoalCost(view="tokens", metric=metric, token_keep=0.5, reduce="sum")
    aim = cost.focus(goal, Views({"tokens": seen}))
    assert [sorted(row) for row in aim.view("focus").tolist()] == [[1, 3], [0, 3]]
    for b, kept in enumerate([[1, 3], [0, 3]]):
        x, g = imagined.view("tokens")[b : b + 1, :, :, kept], goal.view("tokens")[b : b + 1, kept]
        want = GoalCost(view="tokens", metric=metric, reduce="sum")(Views({"tokens": x}), Views({"tokens": g}), actions)
        assert torch.allclose(cost(imagined, aim, actions)[b], want[0])
        assert torch.allclose(
            cost(Views({"tokens": imagined.view("tokens")[b : b + 1]}), aim.select(torch.tensor([b])), actions[b:])[0],
            want[0],
        )
    twice = Views({"tokens": torch.stack([imagined.view("tokens")] * 2)})
    assert torch.allclose(cost(twice, aim, actions), cost(imagined, aim, actions)), "draws share the choice"
    assert GoalCost(view="tokens").focus(goal, Views({"tokens": seen})) is goal


@pytest.mark.parametrize("metric", get_args(Metric))
def test_only_the_pixels_that_the_goal_changes_most_are_compared(metric):
    generator = torch.Generator().manual_seed(0)
    imagined = 255 * torch.rand(1, S, K, 3, 4, 3, generator=generator)
    goal = torch.randint(0, 256, (1, 3, 4, 3), generator=generator, dtype=torch.uint8)
    seen = goal.clone()
    seen[0, 1, 2] = 255 - seen[0, 1, 2]
    cost = GoalCost(view="pixels", metric=metric, token_keep=1 / 12, reduce="sum")
    aim = cost.focus(Views({"pixels": goal}), Views({"pixels": seen}))
    assert aim.view("focus").tolist() == [[4 * 1 + 2]]
    one, whole = Views({"pixels": imagined[:, :, :, 1:2, 2:3]}), GoalCost(view="pixels", metric=metric, reduce="sum")
    want = whole(one, Views({"pixels": goal[:, 1:2, 2:3]}), torch.zeros(1, S, K, 2))
    assert torch.allclose(cost(Views({"pixels": imagined}), aim, torch.zeros(1, S, K, 2)), want)


def test_the_penalty_of_change_runs_over_environment_actions_within_and_across_blocks():
    imagined, goal, _ = draw()
    one_action = torch.randn(B, S, K, 4)
    blocks = GoalCost(change_penalty=2.0, action_dim=2)
    steps = one_action.reshape(B, S, 2 * K, 2)
    want = GoalCost()(imagined, goal, one_action) + 2.0 * (steps[:, :, 1:] - steps[:, :, :-1]).square().mean((2, 3))
    assert torch.allclose(blocks(imagined, goal, one_action), want)
    single = draw()[0].view("pooled")[:, :, :1]
    alone = blocks(Views({"pooled": single}), goal, one_action[:, :, :1, :2])
    assert alone.isfinite().all(), "a plan of one action has no change"


@pytest.mark.parametrize("view", SHAPES)
def test_an_observed_frame_is_compared_as_an_imagined_one(view):
    imagined, goal, _ = draw(view)
    cost = GoalCost(view=view, metric="l1")
    seen = Views({view: imagined.view(view)[:, 1, 2]})
    assert torch.equal(cost.compare_frames(seen, goal), cost.distances(imagined, goal)[:, 1, 2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_keep": 0.0},
        {"token_keep": 0.5},
        {"change_penalty": -1.0},
        {"metric": "l3"},
        {"reduce": "first"},
        {"steps": 0},
        {"last_weight": -1.0},
        {"path_weight": -0.1},
    ],
)
def test_a_cost_that_cannot_be_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GoalCost(**wrong)


class Valued(Views):
    """Imagined paths whose model says what they return."""

    def estimate_return(self, goal):
        return self.view("pooled")[..., 0].sum(-1) + goal.view("pooled")[:, :1]


def test_a_return_costs_its_negative_and_actions_cost_as_ever():
    imagined, goal, actions = draw()
    valued = Valued({"pooled": imagined.view("pooled")})
    cost = GoalCost(reduce="return", action_penalty=0.5)
    want = 0.5 * actions.square().mean((-1, -2)) - imagined.view("pooled")[..., 0].sum(-1) - goal.view("pooled")[:, :1]
    assert cost.keep == "path" and torch.allclose(cost(valued, goal, actions), want)
    assert torch.allclose(cost.compare_frames(goal, goal), torch.zeros(B)), "frames are compared by distance"
    assert cost.keep_distances() == GoalCost(reduce="closest", action_penalty=0.5)
    assert GoalCost(reduce="sum").keep_distances() == GoalCost(reduce="sum")


def test_a_model_that_estimates_no_return_is_refused_by_name():
    facts = {"frame_hw": (4, 4), "max_horizon": 3, "views": ("pooled",)}
    check_fit(DynamicsSpec((0.0,), (1.0,), **facts, estimates_return=True), GoalCost(reduce="return"), 3)
    with pytest.raises(ValueError, match="cost reduce is return, and this model estimates no return.*reduce=closest"):
        check_fit(DynamicsSpec((0.0,), (1.0,), **facts), GoalCost(reduce="return"), 3)
