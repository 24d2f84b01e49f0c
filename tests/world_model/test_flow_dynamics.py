"""LatentDynamics that draw the next frame by a flow, a head or a transformer: samples of features (G-F) and of pixels
(G-P), their cache, noise, costs and losses."""

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
from world_model.generative.latent_flow import FlowTransformer, FlowTransformerConfig
from world_model.nn.decoder import PixelHeadConfig, join_patches, split_patches
from world_model.nn.flow import FlowConfig
from world_model.training.loop import TrainerConfig, make_optimizer, train_step
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

FLOWS = {"head": FlowConfig(steps=3, width=16), "transformer": FlowTransformerConfig(steps=2)}
EVERY_FLOW = pytest.mark.parametrize("kind", FLOWS)
EVERY_TARGET = pytest.mark.parametrize("target", ("features", "pixels"))
CPU = torch.device("cpu")


def make_model(target: str = "features", kind: str = "head", **others) -> LatentDynamics:
    return dynamics("tokens", target, flow=FLOWS[kind], **others)


def observe(model: LatentDynamics, seen: torch.Tensor, past: torch.Tensor | None = None):
    past = torch.zeros(len(seen), 2, 2) if past is None else past
    return model.observe(seen, past, torch.ones(len(seen), 3, dtype=torch.bool))


def make_batch(model: LatentDynamics, size: int = 3) -> dict[str, torch.Tensor]:
    clip = frames(size, 6)
    actions = torch.rand(size, 5, 2, generator=torch.Generator().manual_seed(0))
    return {"pixels": clip, "action": actions, **model.read(clip)}


def test_patches_are_those_of_the_tokens_and_join_to_the_same_pixels():
    sizes = make_model().encoder.config
    pixels = torch.randn(2, 64, 64, 3)
    patches = split_patches(pixels, sizes)
    assert patches.shape == (2, 16, 3 * 16 * 16)
    torch.testing.assert_close(patches[:, 6], pixels[:, 16:32, 32:48].flatten(1))  # second row, third column
    assert torch.equal(join_patches(patches, sizes), pixels)


@EVERY_FLOW
@EVERY_TARGET
def test_every_view_has_the_axes_of_the_protocol(target, kind):
    model = make_model(target, kind)
    shapes = {"pooled": (12,), "reach": (5,), "tokens": (16, 24), "pixels": (64, 64, 3)}
    context, goal = observe(model, frames(2, 3)), model.encode_goal(frames(2))
    imagined = model.imagine(context, torch.zeros(2, 3, 4, 2), Draws((1, 2), 0, CPU))
    assert isinstance(model, Dynamics) and model.spec.step_bytes > 0
    assert set(model.spec.views) == {"pooled", "reach", "tokens"} | ({"pixels"} if target == "pixels" else set())
    for name in model.spec.views:
        assert imagined.view(name).shape == (2, 3, 4, *shapes[name]) and goal.view(name).shape == (2, *shapes[name])
    last = model.imagine(context, torch.zeros(2, 3, 4, 2), Draws((1, 2), 0, CPU), keep="last")
    torch.testing.assert_close(last.view("tokens"), imagined.view("tokens")[:, :, -1:])


@EVERY_FLOW
@EVERY_TARGET
def test_candidates_share_the_noise_which_differs_by_environment_iteration_and_step(target, kind):
    model, view = make_model(target, kind), "pixels" if target == "pixels" else "tokens"
    context = observe(model, frames(1, 3).expand(2, -1, -1, -1, -1))
    same = torch.zeros(2, 3, 4, 2)

    def imagine(draws):
        return model.imagine(context, same, draws).view(view)

    path = imagine(Draws((1, 2), 0, CPU))
    torch.testing.assert_close(path, path[:, :1].expand_as(path))  # equal candidates have equal futures
    assert (path[0] - path[1]).abs().max() > 1e-3, "environments"
    assert torch.equal(path, imagine(Draws((1, 2), 0, CPU))) and not torch.equal(path, imagine(Draws((1, 2), 1, CPU)))
    assert not torch.equal(path, imagine(Draws((1, 2), 0, CPU, iteration=1)))
    drawn = [Draws((1,), 0, CPU).normal((16, 24), stream=1 + step) for step in range(2)]
    assert not torch.equal(*drawn)
    without = imagine(None)
    exact = {"atol": 0, "rtol": 0} if kind == "head" else {}  # a batched attention may differ in its last digits
    torch.testing.assert_close(without[0], without[1], **exact)
    assert torch.equal(without, imagine(None)), "no generator: one fixed noise"


def draw_next(model: LatentDynamics, window: torch.Tensor, rows: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """A sample of the frame after a window, which the predictor reads whole, as in teacher forcing."""
    output = model.predictor(window, rows)
    if isinstance(model.flow, FlowTransformer):
        return model.flow.sample(output, window, noise[:, None])[:, -1]
    return model.flow.sample(output[:, -1], window[:, -1], noise)


@EVERY_FLOW
@EVERY_TARGET
def test_the_cached_path_is_that_of_recomputed_windows(target, kind):
    """The plain loop: the whole window through the predictor, one sample a step, appended."""
    model, draws = make_model(target, kind), Draws((5,), 0, CPU)
    seen, plan = frames(1, 3), torch.rand(1, 1, 4, 2)
    imagined = model.imagine(observe(model, seen), plan, draws)
    window = model.features.normalise(model.read(seen)["features"])
    rows = model.normalise_actions(torch.cat((torch.zeros(1, 2, 2), plan[:, 0]), 1))
    for step in range(4):
        noise = draws.normal((16, model.flow.token_dim), stream=1 + step)
        sample = draw_next(model, window, rows[:, : 3 + step], noise)
        following = sample
        if target == "pixels":
            shown = model.output.head(sample) * model.encoder.pixel_std + model.encoder.pixel_mean
            shown = shown.clamp(0, 255)
            torch.testing.assert_close(imagined.view("pixels")[:, 0, step], shown, atol=1e-2, rtol=1e-4)
            following = model.features.normalise(model.read(shown[:, None])["features"][:, 0])
        else:
            torch.testing.assert_close(imagined.view("tokens")[:, 0, step], sample, atol=1e-4, rtol=1e-4)
        window = torch.cat((window, following[:, None]), 1)


@EVERY_FLOW
@EVERY_TARGET
def test_chunks_and_batches_change_no_cost_and_a_seed_gives_one_plan(target, kind):
    model, cost = make_model(target, kind), GoalCost(view="pixels" if target == "pixels" else "tokens")
    seen, goals = frames(2, 3), frames(2, seed=3)
    context, goal, draws = observe(model, seen), model.encode_goal(goals), Draws((7, 8), 0, CPU)
    plans = torch.rand(2, 5, 4, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = score(model, context, goal, cost, plans, draws)
        for chunk in (4, 8, 20):
            part = score(model, context, goal, cost, plans, draws, chunk_elements=chunk)
            torch.testing.assert_close(part, whole, atol=1e-5, rtol=1e-4)
        for row in (slice(0, 1), slice(1, 2)):
            alone = score(model, context.select(row), goal.select(row), cost, plans[row], draws.select(row))
            torch.testing.assert_close(alone, whole[row], atol=1e-5, rtol=1e-4)
    planner = CEM(CEMConfig(samples=6, iterations=2, horizon=2, elites=2))
    first, again = (planner.plan(model, context, goal, cost, seeds=(7, 8)) for _ in range(2))
    assert torch.equal(first.actions_BKA, again.actions_BKA)
    alone = planner.plan(model, context.select(slice(1, 2)), goal.select(slice(1, 2)), cost, seeds=(8,))
    torch.testing.assert_close(alone.actions_BKA, first.actions_BKA[1:], atol=1e-4, rtol=1e-4)


@EVERY_FLOW
@EVERY_TARGET
def test_a_path_is_differentiable_in_its_actions(target, kind):
    model, plans = make_model(target, kind), torch.rand(1, 2, 3, 2, requires_grad=True)
    path = model.imagine(observe(model, frames(1, 3)), plans, Draws((1,), 0, CPU))
    path.view("pixels" if target == "pixels" else "tokens")[:, :, -1].square().sum().backward()
    assert (plans.grad.abs().amax((0, 1, 3)) > 0).all(), "also through samples that are fed back"


@EVERY_FLOW
@EVERY_TARGET
def test_both_losses_train_predictor_and_head_and_depend_on_seed_and_step_alone(target, kind, monkeypatch):
    model = make_model(target, kind)
    stage, batch = PosttrainModel(model, PosttrainConfig(rollout_steps=2)), make_batch(model)
    fed_back = []
    draw = model.draw
    monkeypatch.setattr(model, "draw", lambda *args: fed_back.append(draw(*args)) or fed_back[-1])
    loss, terms = stage.loss(batch, 3)
    assert set(terms) == {"teacher_forcing", "rollout"} and loss == terms["teacher_forcing"] + terms["rollout"]
    assert len(fed_back) == 1 and not fed_back[0][1].requires_grad, "one sample is fed back, without a gradient"
    loss.backward()
    trained = {**dict(model.predictor.named_parameters()), **dict(model.flow.named_parameters())}
    assert all(parameter.grad is not None for parameter in trained.values())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    torch.manual_seed(1)
    assert torch.equal(stage.loss(batch, 3)[0], loss) and not torch.equal(stage.loss(batch, 6)[0], loss)
    other = PosttrainModel(model, PosttrainConfig(rollout_steps=2), seed=1)
    assert not torch.equal(other.loss(batch, 3)[0], loss)


@EVERY_FLOW
@EVERY_TARGET
def test_the_open_loop_error_is_that_of_one_sample_and_the_same_at_every_call(target, kind):
    model = make_model(target, kind)
    stage, batch = PosttrainModel(model, PosttrainConfig(rollout_steps=3)), make_batch(model)
    errors = stage.measure_squared_errors(batch)
    shape = (3, 3, 64, 64, 3) if target == "pixels" else (3, 3, 16, 24)
    assert errors["predicted"].shape == errors["copy"].shape == shape
    assert torch.equal(errors["predicted"], stage.measure_squared_errors(batch)["predicted"])
    model.flow.steps = 1
    assert not torch.equal(errors["predicted"], stage.measure_squared_errors(batch)["predicted"])


@pytest.mark.slow
@EVERY_FLOW
@EVERY_TARGET
def test_training_lowers_the_loss(target, kind):
    model = make_model(target, kind)
    stage, batch = PosttrainModel(model, PosttrainConfig(rollout_steps=2)), make_batch(model)
    config = TrainerConfig(steps=40, lr=3e-3, warmup=1, schedule="constant")
    optimizer = make_optimizer(stage, config)
    losses = [train_step(stage, batch, optimizer, config, step)[0].item() for step in range(40)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@EVERY_FLOW
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"space": "pooled"}, "dynamics.flow draws patch tokens, and dynamics.space=pooled has none: give tokens"),
        ({"outputs": "normed"}, "dynamics.flow has an output of its own: leave out dynamics.outputs=normed"),
        ({"pixels": PixelHeadConfig()}, "dynamics.pixels.channels=32 would stand between: give null"),
    ],
)
def test_a_flow_is_refused_where_it_has_nothing_to_draw(keys, said, kind):
    given = {"space": "tokens", "flow": FLOWS[kind], "predictor": replace(PREDICTOR, conditioning="adaln"), **keys}
    with pytest.raises(ValueError, match=said):
        DynamicsConfig(**given)


def test_samples_take_memory_that_chunks_are_sized_by():
    plain, drawn = dynamics("tokens"), make_model()
    assert drawn.spec.step_bytes > plain.spec.step_bytes
    wide = replace(drawn.config, flow=replace(FLOWS["head"], width=512))
    assert LatentDynamics(wide, drawn.encoder, drawn.actions).spec.step_bytes > drawn.spec.step_bytes


def test_what_a_transformer_remembers_of_the_past_depends_on_its_frames_alone():
    model, seen = make_model(kind="transformer"), frames(2, 3)
    one, other = observe(model, seen), observe(model, seen, torch.ones(2, 2, 2))
    assert len(one.past.keys) == 2 and one.past.keys[0].shape[2] == 3 * 16, "the last frame is there, too"
    for layer in range(2):
        assert torch.equal(one.past.keys[layer], other.past.keys[layer])
        assert torch.equal(one.past.values[layer], other.past.values[layer])
    kept = one.past.keys[0].clone()
    for iteration in range(2):
        model.imagine(one, torch.rand(2, 3, 4, 2), Draws((1, 2), 0, CPU, iteration=iteration))
    assert torch.equal(one.past.keys[0], kept)


def test_the_state_of_a_robot_is_part_of_a_transformers_condition():
    model = make_model(kind="transformer", proprio="predicted", proprio_dim=4)
    past, valid = torch.zeros(1, 2, 2), torch.ones(1, 3, dtype=torch.bool)
    paths = [
        model.imagine(model.observe(frames(1, 3), past, valid, state), torch.zeros(1, 1, 2, 2)).view("tokens")
        for state in (torch.zeros(1, 3, 4), torch.ones(1, 3, 4))
    ]
    assert not torch.equal(*paths)


def test_a_transformer_is_refused_without_the_conditioning_that_modulates_it():
    with pytest.raises(ValueError, match="conditioning=tokens: .* give dynamics.predictor.conditioning=adaln"):
        DynamicsConfig(space="tokens", flow=FLOWS["transformer"], predictor=PREDICTOR)
