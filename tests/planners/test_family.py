"""What every planner must hold, on a point mass: contracts, every parameter, what each rule is for."""

import math
import sys
from dataclasses import fields, replace

import pytest
import torch
from scipy.optimize import LinearConstraint, NonlinearConstraint, minimize

from planners.cem import CEM, CEMConfig
from planners.cem_gradient import CEMGradient, CEMGradientConfig
from planners.costs import GoalCost
from planners.gradient import Gradient, GradientConfig, anneal
from planners.icem import ICEM, ICEMConfig
from planners.mppi import MPPI, MPPIConfig, weigh_paths
from planners.nevergrad_search import Nevergrad, NevergradConfig
from planners.noise import Draws
from planners.point_mass import DoubleIntegrator, PointCost, State
from planners.predictive_sampling import PredictiveSampling, PredictiveSamplingConfig
from planners.projected_gradient import ProjectedGradient, ProjectedGradientConfig, project_actions
from planners.protocol import Planner, Views
from planners.sampling import Proposal
from planners.scoring import Problem, score

from .point_mass import PointContext, PointMass, views
from .watch import Watch

COST = GoalCost(reduce="sum", metric="l2")
SMOOTH = GoalCost(reduce="sum", metric="sq_l2")
PLAIN = {"std_init": 0.5, "std_warm": 0.0, "return_best": True}
WHITE = {**PLAIN, "noise_beta": 0.0}
SMOOTHED = {**WHITE, "momentum_mean": 0.1, "momentum_std": 0.1}
SMALL = {"samples": 24, "iterations": 4, "horizon": 3}
FEW = {"samples": 4, "iterations": 8, "horizon": 3, "learning_rate": 0.2, "lr_end": 0.1, **WHITE}

FAMILY = {
    "cem": (CEM, CEMConfig(**SMALL, **SMOOTHED, elites=6)),
    "icem": (ICEM, ICEMConfig(**{**SMALL, **SMOOTHED, "noise_beta": 2.0}, elites=6, keep_elites=3, shrink=1.25)),
    "mppi": (MPPI, MPPIConfig(**SMALL, **WHITE | {"return_best": False}, temperature=0.3, momentum=0.1)),
    "predictive_sampling": (PredictiveSampling, PredictiveSamplingConfig(**SMALL, **WHITE, std_decay=0.7)),
    "gradient": (Gradient, GradientConfig(**FEW, momentum=0.9)),
    "projected_gradient": (ProjectedGradient, ProjectedGradientConfig(**FEW, momentum=0.5)),
    "cem_gradient": (
        CEMGradient,
        CEMGradientConfig(**SMALL, **SMOOTHED, elites=6, refined=3, steps=3, learning_rate=0.1),
    ),
}
try:
    import nevergrad  # noqa: F401

    FAMILY["nevergrad"] = (Nevergrad, NevergradConfig(**SMALL, **PLAIN))
except ImportError:
    pass

FINE = {  # settings with which each must come near the optimum
    "cem": {"samples": 200, "iterations": 12, "elites": 20, "std_min": 0.0, "std_init": 1.0},
    "icem": {"samples": 200, "iterations": 12, "elites": 20, "std_min": 0.0, "std_init": 1.0, "noise_beta": 0.5},
    "mppi": {"samples": 200, "iterations": 20, "std_min": 0.0, "std_init": 1.0, "temperature": 0.1},
    "predictive_sampling": {"samples": 200, "iterations": 25},
    "gradient": {"iterations": 60},
    "projected_gradient": {"iterations": 60, "lr_end": 0.01},
    "cem_gradient": {"samples": 64, "iterations": 8, "std_min": 0.0},
    "nevergrad": {"samples": 60, "iterations": 40},
}


def problem(num_envs=4, only=None, seed=7):
    """Context and goals of some of `num_envs` random environments, and their seeds."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(num_envs, 2, generator=generator)
    goal = start + 1.5 * torch.randn(num_envs, 2, generator=generator)
    envs = [only] if only is not None else list(range(num_envs))
    return PointContext(start[envs]), views(goal[envs]), [100 + env for env in envs]


def plan(name, config=None, cost=COST, dynamics=None, only=None, **kwargs):
    kind, usual = FAMILY[name]
    context, goal, seeds = problem(only=only)
    seeds = kwargs.pop("seeds", seeds)
    return kind(config or usual).plan(dynamics or PointMass(), context, goal, cost, seeds=seeds, **kwargs)


@pytest.mark.parametrize("wind", [0.0, 0.3])
@pytest.mark.parametrize("name", FAMILY)
def test_a_batch_of_environments_is_planned_as_each_alone(name, wind):
    batch = plan(name, dynamics=PointMass(wind=wind))
    for env in range(4):
        alone = plan(name, dynamics=PointMass(wind=wind), only=env)
        assert torch.allclose(batch.actions_BKA[env], alone.actions_BKA[0], atol=1e-5)
        assert torch.allclose(batch.cost_B[env], alone.cost_B[0], atol=1e-5)


@pytest.mark.parametrize("chunk_elements", [5, 40, 100])
@pytest.mark.parametrize("name", FAMILY)
def test_a_plan_made_in_chunks_is_the_same_plan(name, chunk_elements):
    dynamics = PointMass(wind=0.3)
    whole = plan(name, dynamics=PointMass(wind=0.3))
    chunked = plan(name, replace(FAMILY[name][1], chunk_elements=chunk_elements), dynamics=dynamics)
    assert torch.allclose(whole.actions_BKA, chunked.actions_BKA, atol=1e-5)
    largest = max(asked.shape[0] * asked.shape[1] * asked.shape[2] for asked in dynamics.asked)
    assert largest <= max(chunk_elements, 3), "a chunk holds at least one candidate of three steps"


@pytest.mark.parametrize("name", FAMILY)
def test_draws_are_keyed_by_seed_and_replan(name):
    first = plan(name)
    assert torch.equal(plan(name).actions_BKA, first.actions_BKA)
    # What the first candidates cost: descents end in one optimum, wherever they began.
    others = [plan(name, seeds=[1, 2, 3, 4]), plan(name, replan=1)]
    assert all((other.history[0]["mean"] != first.history[0]["mean"]).all() for other in others)


@pytest.mark.parametrize("name", FAMILY)
def test_the_global_generator_and_gradients_are_left_alone(name):
    state = torch.get_rng_state()
    found = plan(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.actions_BKA.requires_grad and not found.cost_B.requires_grad


@pytest.mark.parametrize("name", FAMILY)
def test_bounds_hold_for_every_candidate_ever_imagined(name):
    dynamics = PointMass(low=(-0.3, 0.1), high=(0.2, 0.6))
    config = replace(FAMILY[name][1], std_init=5.0)
    found = plan(name, config, dynamics=dynamics, warm_start=torch.full((4, 3, 2), 9.0))
    for actions in [*dynamics.asked, found.actions_BKA]:
        assert (actions >= torch.tensor([-0.3, 0.1])).all() and (actions <= torch.tensor([0.2, 0.6])).all()


@pytest.mark.parametrize("name", FAMILY)
def test_the_optimum_of_a_convex_cost_is_found(name):
    kind, usual = FAMILY[name]
    config = replace(usual, horizon=4, **FINE[name])
    context, goal = PointContext(torch.zeros(1, 2)), views(torch.tensor([[2.0, -1.0]]))
    found = kind(config).plan(PointMass(), context, goal, SMOOTH, seeds=[0])
    # Full speed, then stay: the first axis needs two steps, the second one.
    assert found.cost_B.item() == pytest.approx(0.5, abs=0.03)
    best = torch.tensor([[1.0, -1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(found.actions_BKA[0], best, atol=0.25)


@pytest.mark.parametrize("name", FAMILY)
def test_regions_of_nan_are_survived(name):
    found = plan(name, dynamics=PointMass(hole=0.5))
    assert found.actions_BKA.isfinite().all() and not found.cost_B.isnan().any()
    nowhere = plan(name, dynamics=PointMass(hole=-99.0))
    assert nowhere.actions_BKA.isfinite().all() and (nowhere.cost_B == math.inf).all()
    assert all((entry["best"] == math.inf).all() for entry in nowhere.history)


@pytest.mark.parametrize("name", FAMILY)
def test_the_cost_of_a_plan_is_that_of_its_actions_and_the_history_has_an_entry_an_iteration(name):
    found = plan(name)
    context, goal, _ = problem()
    again = score(PointMass(), context, goal, COST, found.actions_BKA[:, None])[:, 0]
    assert torch.allclose(found.cost_B, again, atol=1e-6)
    assert len(found.history) == FAMILY[name][1].iterations
    for entry in found.history:
        assert set(entry) == {"best", "mean", "elite_mean", "std"}
        assert all(value.shape == (4,) for value in entry.values())
    best = torch.stack([entry["best"] for entry in found.history])
    assert (best.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "nevergrad"])
def test_an_iteration_never_waits_for_the_device(name):
    with Watch() as watch:
        plan(name, replace(FAMILY[name][1], chunk_elements=50, noise_beta=1.0), dynamics=PointMass(wind=0.1))
    assert watch.count == 0


CHANGES = {
    "samples": 30,
    "iterations": 5,
    "horizon": 4,
    "std_init": 0.9,
    "std_warm": 0.1,
    "noise_beta": 1.0,
    "include_mean": False,
    "return_best": False,
    "early_stop_std": 0.4,
    "elites": 8,
    "std_min": 0.4,
    "momentum_mean": 0.5,
    "momentum_std": 0.5,
    "keep_elites": 2,
    "shrink": 1.6,
    "carry_elites": False,
    "temperature": 1.0,
    "relative": False,
    "update_std": False,
    "momentum": 0.3,
    "std_decay": 0.5,
    "learning_rate": 0.1,
    "lr_end": 0.5,
    "square_momentum": 0.5,
    "noise": 0.1,
    "bounds": "tanh",
    "max_change": 0.2,
    "max_norm": 0.3,
    "refined": 5,
    "steps": 2,
    "optimizer": "DE",
    "draws": "device",
    "prior_samples": 4,
}
# How many candidates at once and compiling, which must not change a plan; and a number format of products, which these
# models lack.
SPEED_ONLY = {"chunk_elements": 7, "precision": "bf16", "compile_iteration": True}
# Where a parameter acts only beside another one.
BESIDE = {
    ("mppi", "return_best"): {"return_best": True},
    ("cem", "early_stop_std"): {"iterations": 8},
    ("icem", "early_stop_std"): {"iterations": 8},
    ("cem_gradient", "early_stop_std"): {"iterations": 8},
    ("predictive_sampling", "return_best"): {"include_mean": False, "std_decay": 1.0, "std_init": 1.0},
    ("cem_gradient", "learning_rate"): {"learning_rate": 0.3},
    ("gradient", "return_best"): {"learning_rate": 1.0},
    ("projected_gradient", "return_best"): {"learning_rate": 1.0},
}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (name, field.name)
        for name, (_, usual) in FAMILY.items()
        for field in fields(usual)
        if (name, field.name) not in (("nevergrad", "draws"), ("cem_gradient", "compile_iteration"))  # refused
    ],
)
def test_every_parameter_of_every_planner_changes_the_plan(name, key, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step: step)  # compiling has tests of its own
    base = replace(FAMILY[name][1], **BESIDE.get((name, key), {}))
    # A spread after a warm start, and a mean among the candidates, act at a warm start.
    warm_start = torch.full((4, 3, 2), 0.4) if key in ("std_warm", "include_mean") else None
    first = plan(name, base, warm_start=warm_start)
    if key in SPEED_ONLY:
        other = plan(name, replace(base, **{key: SPEED_ONLY[key]}))
        assert torch.allclose(other.actions_BKA, first.actions_BKA, atol=1e-5)
        return
    second = plan(name, replace(base, **{key: CHANGES[key]}), warm_start=warm_start)
    if key == "carry_elites":
        assert first.elites_BEKA is not None and second.elites_BEKA is None
        return
    same = torch.equal(first.actions_BKA, second.actions_BKA)
    told = [[entry["mean"].tolist() for entry in found.history] for found in (first, second)]
    assert not same or told[0] != told[1]


# -- iCEM -------------------------------------------------------------------------------------------------------------


def test_the_population_of_icem_shrinks_to_twice_its_elites():
    dynamics, config = PointMass(), ICEMConfig(samples=60, iterations=6, horizon=3, elites=10, shrink=1.5)
    plan("icem", config, dynamics=dynamics)
    assert [asked.shape[1] for asked in dynamics.asked] == [60, 40, 27, 20, 20, 20]


def test_carried_elites_take_part_in_the_first_iteration_of_the_next_plan():
    first = plan("icem")
    assert first.elites_BEKA.shape == (4, 3, 3, 2)
    dynamics = PointMass()
    rows = torch.cat((first.actions_BKA[:, None], first.elites_BEKA), 1)
    second = plan("icem", dynamics=dynamics, warm_start=rows, replan=1)
    asked = dynamics.asked[0]
    assert torch.equal(asked[:, 0], first.actions_BKA) and torch.equal(asked[:, -3:], first.elites_BEKA)
    assert (second.cost_B <= first.cost_B).all()


# -- MPPI -------------------------------------------------------------------------------------------------------------


def test_path_weights_are_their_equation_and_infinite_costs_have_none():
    cost = torch.tensor([[1.0, 2.0, 4.0, math.inf], [math.inf] * 4])
    weight = weigh_paths(cost, 0.5, relative=False)
    want = torch.exp(-torch.tensor([0.0, 1.0, 3.0]) / 0.5)
    assert torch.allclose(weight[0, :3], want / want.sum()) and weight[0, 3] == 0
    assert (weight[1] == 0).all()
    shifted = weigh_paths(10 + 7 * cost, 0.5, relative=True)
    assert torch.allclose(shifted[0], weigh_paths(cost, 0.5, relative=True)[0], atol=1e-6)


def test_the_update_of_mppi_is_the_weighted_statistic():
    planner = MPPI(MPPIConfig(samples=3, temperature=1.0, relative=False, momentum=0.0, std_min=0.0))
    actions = torch.tensor([0.0, 1.0, 3.0])[None, :, None, None]
    after = planner.update(
        Proposal(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        actions,
        torch.tensor([[0.0, math.log(2), math.inf]]),
        torch.ones(1),
    )
    assert after.mean_BKA.item() == pytest.approx(1 / 3)  # weights 2/3, 1/3, 0
    assert after.std_BKA.item() == pytest.approx(math.sqrt(2) / 3)
    assert after.elite_cost_B.item() == pytest.approx(math.log(2) / 3)


def test_candidates_of_a_policy_take_part_in_every_iteration_as_they_are():
    dynamics, config = PointMass(low=(-9.0, -9.0), high=(9.0, 9.0)), FAMILY["mppi"][1]
    plan("mppi", replace(config, prior_samples=5), dynamics=dynamics)
    context, goal, seeds = problem()
    drawn = dynamics.propose(context, goal, 5, 3, Draws(tuple(seeds), 0, torch.device("cpu")))
    searched = [asked for asked in dynamics.asked if asked.shape[1] == config.samples]
    assert len(searched) == config.iterations and all(torch.equal(asked[:, -5:], drawn) for asked in searched)


def test_a_good_policy_makes_a_small_search_good():
    few = {"samples": 8, "iterations": 1, "temperature": 0.01, "return_best": True}
    alone, guided = (plan("mppi", replace(FAMILY["mppi"][1], **few, prior_samples=count)) for count in (0, 4))
    assert (guided.cost_B < alone.cost_B).all()


def test_a_model_without_a_policy_and_a_policy_for_other_actions_are_refused_by_name():
    class Other(PointMass):
        def propose(self, context, goal, count, steps, generator):
            return super().propose(context, goal, count, steps, generator).repeat(1, 1, 1, 2)

    config = replace(FAMILY["mppi"][1], prior_samples=4)
    context, goal = State(torch.zeros(1, 4)), Views({"pooled": torch.ones(1, 4)})
    with pytest.raises(ValueError, match="prior_samples is 4, and this model has no policy.*prior_samples=0"):
        MPPI(config).plan(DoubleIntegrator(), context, goal, PointCost(), seeds=[0])
    with pytest.raises(ValueError, match=r"\(4, 4, 3, 4\).*\(4, 4, 3, 2\).*a policy for other actions"):
        plan("mppi", config, dynamics=Other())
    with pytest.raises(ValueError, match="planner prior_samples is 23; choose 0 to samples - 2 = 22"):
        replace(config, prior_samples=23)


# -- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_are_finite_differences_of_scores():
    context, goal, seeds = problem()
    dynamics, noise = PointMass(wind=0.3), Draws(tuple(seeds), 0, torch.device("cpu"))
    asked = Problem(dynamics, context, goal, SMOOTH)
    actions = torch.rand(4, 3, 3, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        cost, gradient = asked.differentiate(actions, noise)
    assert torch.allclose(cost, asked.score(actions, noise))
    step = torch.zeros_like(actions)
    step[:, :, 1, 0] = 1e-2
    difference = (asked.score(actions + step, noise) - asked.score(actions - step, noise)) / 2e-2
    assert torch.allclose(gradient[:, :, 1, 0], difference, atol=1e-3)


def test_dynamics_without_gradients_are_refused_in_a_sentence():
    class Stiff(PointMass):
        def imagine(self, context, actions, generator=None, keep="path"):
            return super().imagine(context, actions.detach(), generator, keep)

    for name in ("gradient", "projected_gradient", "cem_gradient"):
        with pytest.raises(ValueError, match="gradients.*planner=cem"):
            plan(name, dynamics=Stiff())


def test_a_rate_falls_in_a_straight_line():
    assert [anneal(2.0, 0.5, number, 3) for number in range(3)] == [2.0, 1.5, 1.0]
    assert anneal(2.0, 0.5, 0, 1) == 2.0


def test_more_starts_escape_a_bad_basin():
    """A cost with a dent near the middle and a deep one at the bounds."""

    class Dents:
        view, keep = "pooled", "path"

        def __call__(self, imagined, goal, actions):
            x = actions[..., 0].mean(-1)
            return -0.3 * torch.exp(-(x.square()) / 0.02) - torch.exp(-((x - 0.8).square()) / 0.05)

    one = plan("gradient", GradientConfig(**FEW | {"samples": 1, "iterations": 30}, momentum=0.9), cost=Dents())
    many = plan(
        "gradient",
        GradientConfig(**FEW | {"samples": 32, "iterations": 30, "std_init": 1.5}, momentum=0.9),
        cost=Dents(),
    )
    assert (one.cost_B > -0.35).all() and (many.cost_B < -0.9).all()


def test_a_projection_is_the_nearest_allowed_point():
    generator = torch.Generator().manual_seed(3)
    for max_change, max_norm in ((0.4, 0.0), (0.0, 0.7), (0.4, 0.8)):
        x = 1.5 * torch.randn(4, 2, generator=generator)
        got = project_actions(x[None], 2, max_change, max_norm)[0]
        assert allowed(got, max_change, max_norm)
        want = nearest(x.double().numpy(), max_change, max_norm)
        assert (got - x).norm() <= (want - x).norm() * 1.02 + 1e-3
    inside = torch.full((4, 2), 0.1)
    assert torch.allclose(project_actions(inside, 2, 0.4, 0.8), inside)


def nearest(x, max_change, max_norm):
    """The same by a general solver."""
    rules = []
    if max_change:
        difference = torch.zeros(6, 8, dtype=torch.float64)
        for row in range(6):
            difference[row, row], difference[row, row + 2] = -1, 1
        rules.append(LinearConstraint(difference.numpy(), -max_change, max_change))
    if max_norm:
        rules.append(NonlinearConstraint(lambda y: (y.reshape(4, 2) ** 2).sum(1), 0, max_norm**2))
    found = minimize(lambda y: ((y - x.ravel()) ** 2).sum(), 0 * x.ravel(), bounds=[(-1, 1)] * 8, constraints=rules)
    return torch.tensor(found.x).reshape(4, 2)


def allowed(steps, max_change, max_norm, slack=1e-5):
    change, norm = steps.diff(dim=-2).abs().max(), steps.norm(dim=-1).max()
    return (
        steps.abs().max() <= 1 + slack
        and (not max_change or change <= max_change + slack)
        and (not max_norm or norm <= max_norm + slack)
    )


def test_every_imagined_plan_of_projected_gradient_is_allowed_over_environment_steps():
    dynamics = PointMass(frame_skip=2)
    config = replace(FAMILY["projected_gradient"][1], max_change=0.3, max_norm=0.9)
    plan("projected_gradient", config, dynamics=dynamics)
    for asked in dynamics.asked:
        assert allowed(asked.reshape(*asked.shape[:2], 6, 2), 0.3, 0.9)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    context, goal, seeds = problem()
    with pytest.raises(ValueError, match=r"pip install 'jepa-lab\[nevergrad\]'"):
        Nevergrad().plan(PointMass(), context, goal, COST, seeds=seeds)


def test_nevergrad_draws_on_the_host_alone():
    with pytest.raises(ValueError, match="nevergrad draws on the host"):
        NevergradConfig(draws="device")


@pytest.mark.skipif("nevergrad" not in FAMILY, reason="nevergrad is not installed")
def test_an_optimiser_that_nevergrad_does_not_have_is_named():
    with pytest.raises(ValueError, match="'GreatNew'.*CMA"):
        plan("nevergrad", NevergradConfig(optimizer="GreatNew"))


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (ICEMConfig, {"shrink": 0.5}),
        (ICEMConfig, {"carry_elites": True, "keep_elites": 0}),
        (MPPIConfig, {"temperature": 0.0}),
        (MPPIConfig, {"elites": 1}),
        (MPPIConfig, {"momentum": 1.0}),
        (MPPIConfig, {"std_min": -1.0}),
        (PredictiveSamplingConfig, {"std_decay": 0.0}),
        (GradientConfig, {"samples": 0}),
        (GradientConfig, {"learning_rate": 0.0}),
        (GradientConfig, {"lr_end": 2.0}),
        (GradientConfig, {"square_momentum": 1.0}),
        (GradientConfig, {"noise": -0.1}),
        (GradientConfig, {"bounds": "wrap"}),
        (ProjectedGradientConfig, {"max_change": -0.1}),
        (ProjectedGradientConfig, {"max_norm": -0.1}),
        (ProjectedGradientConfig, {"momentum": 1.0}),
        (ProjectedGradientConfig, {"lr_end": -1.0}),
        (CEMGradientConfig, {"refined": 0}),
        (CEMGradientConfig, {"steps": 0}),
        (CEMGradientConfig, {"learning_rate": 0.0}),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(config, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)


_: list[type[Planner]] = [ICEM, MPPI, PredictiveSampling, Gradient, ProjectedGradient, CEMGradient, Nevergrad]
