"""LatentDynamics with a flow transformer: its cache, noise, costs and losses behind the protocol of any dynamics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from planners.noise import Draws
from planners.protocol import Dynamics
from planners.scoring import score
from tests.world_model.small import PREDICTOR, dynamics, frames
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.generative.latent_flow import FlowTransformerConfig
from world_model.nn.decoder import PixelHeadConfig
from world_model.training.loop import TrainerConfig, make_optimizer, train_step
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

TARGETS = ("features", "pixels")
FLOW = FlowTransformerConfig(steps=2)
CPU = torch.device("cpu")


def make_model(target: str = "features", **others) -> LatentDynamics:
    return dynamics("tokens", target, flow=FLOW, **others)


def observe(model: LatentDynamics, seen: torch.Tensor, past: torch.Tensor | None = None):
    past = torch.zeros(len(seen), 2, 2) if past is None else past
    return model.observe(seen, past, torch.ones(len(seen), 3, dtype=torch.bool))


def make_batch(model: LatentDynamics, size: int = 3) -> dict[str, torch.Tensor]:
    clip = frames(size, 6)
    actions = torch.rand(size, 5, 2, generator=torch.Generator().manual_seed(0))
    return {"pixels": clip, "action": actions, **model.read(clip)}


@pytest.mark.parametrize("target", TARGETS)
def test_it_is_dynamics_with_every_view_of_its_tokens(target):
    model = make_model(target)
    assert isinstance(model, Dynamics) and model.spec.step_bytes > 0
    shapes = {"pooled": (12,), "reach": (5,), "tokens": (16, 24), "pixels": (64, 64, 3)}
    imagined = model.imagine(observe(model, frames(2, 3)), torch.zeros(2, 3, 4, 2), Draws((1, 2), 0, CPU))
    assert set(model.spec.views) == {"pooled", "reach", "tokens"} | ({"pixels"} if target == "pixels" else set())
    for name in model.spec.views:
        assert imagined.view(name).shape == (2, 3, 4, *shapes[name])


def test_what_is_remembered_of_the_past_depends_on_its_frames_alone():
    model, seen = make_model(), frames(2, 3)
    one, other = observe(model, seen), observe(model, seen, torch.ones(2, 2, 2))
    assert len(one.past.keys) == 2 and one.past.keys[0].shape[2] == 3 * 16, "the last frame is there, too"
    for layer in range(2):
        assert torch.equal(one.past.keys[layer], other.past.keys[layer])
        assert torch.equal(one.past.values[layer], other.past.values[layer])
    kept = one.past.keys[0].clone()
    for iteration in range(2):
        model.imagine(one, torch.rand(2, 3, 4, 2), Draws((1, 2), 0, CPU, iteration=iteration))
    assert torch.equal(one.past.keys[0], kept)


@pytest.mark.parametrize("target", TARGETS)
def test_the_cached_path_is_that_of_recomputed_windows(target):
    """The plain loop: the whole window as teacher forcing takes it, its last sample appended."""
    model, draws = make_model(target), Draws((5,), 0, CPU)
    seen, plan = frames(1, 3), torch.rand(1, 1, 4, 2)
    imagined = model.imagine(observe(model, seen), plan, draws)
    window = model.features.normalise(model.read(seen)["features"])
    rows = model.normalise_actions(torch.cat((torch.zeros(1, 2, 2), plan[:, 0]), 1))
    for step in range(4):
        noise = draws.normal((16, model.flow.token_dim), stream=1 + step)
        sample = model.flow.sample(model.predictor(window, rows[:, : 3 + step]), window, noise[:, None])[:, -1]
        following = sample
        if target == "pixels":
            shown = model.output.head(sample) * model.encoder.pixel_std + model.encoder.pixel_mean
            shown = shown.clamp(0, 255)
            torch.testing.assert_close(imagined.view("pixels")[:, 0, step], shown, atol=1e-2, rtol=1e-4)
            following = model.features.normalise(model.read(shown[:, None])["features"][:, 0])
        else:
            torch.testing.assert_close(imagined.view("tokens")[:, 0, step], sample, atol=1e-4, rtol=1e-4)
        window = torch.cat((window, following[:, None]), 1)


def test_candidates_share_the_noise_which_differs_by_environment_iteration_and_step():
    model = make_model()
    context = observe(model, frames(1, 3).expand(2, -1, -1, -1, -1))
    same = torch.zeros(2, 3, 4, 2)

    def imagine(draws: Draws | None) -> torch.Tensor:
        return model.imagine(context, same, draws).view("tokens")

    path = imagine(Draws((1, 2), 0, CPU))
    torch.testing.assert_close(path, path[:, :1].expand_as(path))  # equal candidates have equal futures
    assert (path[0] - path[1]).abs().max() > 1e-3, "environments"
    assert torch.equal(path, imagine(Draws((1, 2), 0, CPU)))
    assert not torch.equal(path, imagine(Draws((1, 2), 0, CPU, iteration=1)))
    without = imagine(None)
    torch.testing.assert_close(without[0], without[1])
    assert torch.equal(without, imagine(None)), "no generator: one fixed noise"


def test_chunks_and_batches_change_no_cost_and_a_seed_gives_one_plan():
    model, cost = make_model(), GoalCost(view="tokens")
    context, goal = observe(model, frames(2, 3)), model.encode_goal(frames(2, seed=3))
    draws, plans = Draws((7, 8), 0, CPU), torch.rand(2, 5, 4, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = score(model, context, goal, cost, plans, draws)
        for chunk in (4, 20):
            part = score(model, context, goal, cost, plans, draws, chunk_elements=chunk)
            torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)
        row = slice(1, 2)
        alone = score(model, context.select(row), goal.select(row), cost, plans[row], draws.select(row))
        torch.testing.assert_close(alone, whole[row], atol=1e-5, rtol=1e-4)
    planner = CEM(CEMConfig(samples=6, iterations=2, horizon=2, elites=2))
    first, again = (planner.plan(model, context, goal, cost, seeds=(7, 8)) for _ in range(2))
    assert torch.equal(first.actions_BKA, again.actions_BKA)


@pytest.mark.parametrize("target", TARGETS)
def test_a_path_is_differentiable_in_its_actions(target):
    model, plans = make_model(target), torch.rand(1, 2, 3, 2, requires_grad=True)
    path = model.imagine(observe(model, frames(1, 3)), plans, Draws((1,), 0, CPU))
    path.view("pixels" if target == "pixels" else "tokens")[:, :, -1].square().sum().backward()
    assert (plans.grad.abs().amax((0, 1, 3)) > 0).all(), "also through samples that are fed back"


@pytest.mark.parametrize("target", TARGETS)
def test_both_losses_train_every_weight_and_depend_on_seed_and_step_alone(target):
    model = make_model(target)
    stage, batch = PosttrainModel(model, PosttrainConfig(rollout_steps=2)), make_batch(model)
    loss, terms = stage.loss(batch, 3)
    assert set(terms) == {"teacher_forcing", "rollout"} and loss == terms["teacher_forcing"] + terms["rollout"]
    loss.backward()
    trained = [*model.predictor.parameters(), *model.flow.parameters()]
    assert all(parameter.grad is not None for parameter in trained)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    torch.manual_seed(1)
    assert torch.equal(stage.loss(batch, 3)[0], loss) and not torch.equal(stage.loss(batch, 6)[0], loss)


def test_the_state_of_a_robot_is_part_of_the_condition():
    model = make_model(proprio="predicted", proprio_dim=4)
    past, valid = torch.zeros(1, 2, 2), torch.ones(1, 3, dtype=torch.bool)
    paths = [
        model.imagine(model.observe(frames(1, 3), past, valid, state), torch.zeros(1, 1, 2, 2)).view("tokens")
        for state in (torch.zeros(1, 3, 4), torch.ones(1, 3, 4))
    ]
    assert not torch.equal(*paths)


@pytest.mark.slow
def test_training_lowers_the_loss():
    model = make_model()
    stage, batch = PosttrainModel(model, PosttrainConfig(rollout_steps=2)), make_batch(model)
    config = TrainerConfig(steps=40, lr=3e-3, warmup=1, schedule="constant")
    optimizer = make_optimizer(stage, config)
    losses = [train_step(stage, batch, optimizer, config, step)[0].item() for step in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"space": "pooled"}, "dynamics.flow draws patch tokens, and dynamics.space=pooled has none: give tokens"),
        ({"outputs": "normed"}, "dynamics.flow has an output of its own: leave out dynamics.outputs=normed"),
        ({"pixels": PixelHeadConfig()}, "dynamics.pixels.channels=32 would stand between: give null"),
        ({"predictor": PREDICTOR}, "conditioning=tokens: .* give dynamics.predictor.conditioning=adaln"),
    ],
)
def test_a_transformer_is_refused_where_it_has_nothing_to_draw(keys, said):
    given = {"space": "tokens", "flow": FLOW, "predictor": replace(PREDICTOR, conditioning="adaln"), **keys}
    with pytest.raises(ValueError, match=said):
        DynamicsConfig(**given)
