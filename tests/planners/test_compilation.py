"""Iterations compiled as a whole: the same plans, in one graph, from results that no replay writes over."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch

from planners.cem import CEM, CEMConfig
from planners.cem_gradient import CEMGradientConfig
from planners.compilation import compile_step, copy_tensors
from planners.costs import GoalCost
from planners.icem import ICEM, ICEMConfig
from planners.mppi import MPPI, MPPIConfig
from planners.predictive_sampling import PredictiveSampling, PredictiveSamplingConfig
from planners.sampling import Progress, Proposal
from world_model.actions import ActionSpec
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.pools import LearnedPoolConfig
from world_model.predictor import PredictorConfig

SIZES = {"samples": 12, "iterations": 3, "horizon": 2}
PLANNERS = [
    (CEM, CEMConfig(**SIZES, elites=4)),
    (CEM, CEMConfig(**SIZES, elites=4, precision="bf16")),
    (CEM, CEMConfig(**SIZES, elites=4, precision="tf32", early_stop_std=0.9)),
    pytest.param(ICEM, ICEMConfig(**SIZES, elites=4, keep_elites=2), marks=pytest.mark.slow),
    pytest.param(MPPI, MPPIConfig(**SIZES), marks=pytest.mark.slow),
    pytest.param(PredictiveSampling, PredictiveSamplingConfig(**SIZES), marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def forget_compiled():
    compile_step.cache_clear()
    yield
    compile_step.cache_clear()
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    encoder = VideoEncoder(EncoderConfig((16, 16), 8, width=16, depth=1, heads=2, pool=LearnedPoolConfig(8, 4, 16)))
    config = DynamicsConfig("pooled", 2, 2, PredictorConfig(16, 2, 2, 2.0, conditioning="adaln"))
    model = LatentDynamics(config, encoder, ActionSpec((-1.0,) * 2, (1.0,) * 2)).eval()
    for block in model.predictor.predictor_blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.2)
    frames = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        context = model.observe(frames[:, :2], torch.zeros(2, 1, 2), torch.ones(2, 2, dtype=torch.bool))
        return model, context, model.encode_goal(frames[:, 2])


def plan(problem, kind, config, **options):
    return kind(config).plan(*problem, GoalCost(view="pooled"), seeds=[0, 1], **options)


@pytest.mark.parametrize(("kind", "config"), PLANNERS)
def test_an_iteration_is_one_graph_and_plans_the_same(problem, kind, config, monkeypatch):
    compile_fully = torch.compile  # fullgraph refuses what cannot be traced; the backend needs no compiler
    monkeypatch.setattr(torch, "compile", lambda step: compile_fully(step, fullgraph=True, backend="eager"))
    expected, found = (plan(problem, kind, replace(config, compile_iteration=compiled)) for compiled in (False, True))
    torch.testing.assert_close(found.actions_BKA, expected.actions_BKA)
    torch.testing.assert_close(found.history, expected.history)
    start = expected.actions_BKA
    again = [plan(problem, kind, replace(config, compile_iteration=c), warm_start=start, replan=1) for c in (0, 1)]
    torch.testing.assert_close(again[1].actions_BKA, again[0].actions_BKA)
    assert not torch.equal(again[0].actions_BKA, start)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_really_compiled_iteration_plans_the_same(problem):
    config = CEMConfig(**SIZES, elites=4)
    expected, found = (plan(problem, CEM, replace(config, compile_iteration=compiled)) for compiled in (False, True))
    torch.testing.assert_close(found.actions_BKA, expected.actions_BKA, atol=1e-4, rtol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_iteration_in_a_cuda_graph_plans_as_the_same_steps_do(problem):
    model, context, goal = problem
    model = copy.deepcopy(model).cuda()
    frames = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        valid = torch.ones(2, 2, dtype=torch.bool, device="cuda")
        context = model.observe(frames[:, :2], torch.zeros(2, 1, 2, device="cuda"), valid)
        goal = model.encode_goal(frames[:, 2])
    config = CEMConfig(**SIZES, elites=4, draws="device")
    for replan in range(2):
        expected, found = (
            CEM(replace(config, compile_iteration=compiled)).plan(
                model, context, goal, GoalCost(view="pooled"), seeds=[0, 1], replan=replan
            )
            for compiled in (False, True)
        )
        torch.testing.assert_close(found.actions_BKA, expected.actions_BKA, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.history, expected.history, atol=1e-3, rtol=1e-3)


def test_results_outlive_the_memory_that_cuda_graphs_write_over(monkeypatch):
    memory = torch.zeros(3)

    def replay(number):
        proposal = Proposal(memory.add_(number), memory, None)
        return Progress(proposal, memory, memory, memory > 1), {"best": memory}

    monkeypatch.setattr(torch, "compile", lambda step, mode: step)
    step = compile_step(replay, "cuda")
    first, record = step(1)
    step(1)
    for tensor in (first.proposal.mean_BKA, first.proposal.std_BKA, first.best_BKA, first.best_cost_B, record["best"]):
        assert torch.equal(tensor, torch.ones(3))
    assert not first.frozen_B.any() and first.proposal.retained_BEKA is None


def test_other_values_are_copied_as_they_are():
    assert copy_tensors((1, None, {"a": "b"})) == (1, None, {"a": "b"})


def test_gradient_steps_are_not_compiled():
    with pytest.raises(ValueError, match="compile_iteration is true, and gradient steps are not compiled"):
        CEMGradientConfig(compile_iteration=True)
