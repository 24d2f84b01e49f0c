"""LatentDynamics: frozen encoder, normalisation, views, losses of stage 2."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from planners.costs import GoalCost
from tests.world_model.small import dynamics, frames, moving_squares, shake
from world_model.actions import ActionSpec
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.nn.decoder import DecoderConfig, PixelHead, PixelHeadConfig, fit_decoder, measure_decoder
from world_model.nn.pools import normalise_tokens
from world_model.objectives.future import FutureConfig
from world_model.objectives.losses import FutureTerms
from world_model.training.loop import TrainerConfig, make_optimizer, train_step
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

ALL = [("pooled", "features"), ("tokens", "features"), ("pooled", "pixels"), ("tokens", "pixels")]


def batch_for(model: LatentDynamics, size: int = 4) -> dict[str, torch.Tensor]:
    clip = frames(size, 7)
    actions = torch.rand(size, 6, len(model.spec.action_low), generator=torch.Generator().manual_seed(0))
    return {"pixels": clip, "action": actions, **model.read(clip)}


def observed(model: LatentDynamics, size: int = 2):
    valid = torch.ones(size, 3, dtype=torch.bool)
    return model.observe(frames(size, 3), torch.zeros(size, 2, len(model.spec.action_low)), valid)


@pytest.mark.slow
@pytest.mark.parametrize(("space", "target"), ALL)
def test_training_moves_the_predictor_and_leaves_the_encoder_frozen(space, target):
    model = dynamics(space, target)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    stage = PosttrainModel(model, PosttrainConfig(rollout_steps=4))
    config, batch = TrainerConfig(steps=20, lr=3e-3, warmup=1, schedule="constant"), batch_for(model)
    optimizer = make_optimizer(stage, config)
    losses = [train_step(stage, batch, optimizer, config, step)[0].item() for step in range(12)]
    assert losses[-1] < losses[0]
    assert not model.encoder.training and not any(p.requires_grad for p in model.encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.encoder.state_dict().items())


@pytest.mark.parametrize(("pool", "tokens"), [("learned", 16), ("keypoints", 1)])
def test_a_scene_trains_along_and_is_that_of_the_last_seen_frame(pool, tokens):
    model = dynamics(scene=True, pool=pool)
    stage, batch = PosttrainModel(model, PosttrainConfig(rollout_steps=4)), batch_for(model)
    assert batch["scene"].shape[2] == model.predictor.scene_tokens == tokens
    if pool == "keypoints":  # numbers between -1 and 1 that hardly differ: each is brought to a scale of its own
        model.features.set_statistics(lambda name: batch[name])
        scene = torch.stack([model.features.select_scene(batch, frame) for frame in range(7)], 1)
        assert batch["scene"].std((0, 1, 2)).max() < 0.5
        torch.testing.assert_close(scene.std((0, 1, 2)), torch.ones(scene.shape[-1]))
    loss, _ = stage.loss(batch, 1)
    loss.backward()
    assert model.predictor.scene_encoder.weight.grad.abs().max() > 0
    features, states = model.features.normalise(batch["features"]), torch.zeros(4, 7, 0)
    for history in (1, 3):
        path = stage.imagine(batch, features, states, history)
        past = batch["pixels"][:, :history]
        valid = torch.ones(4, history, dtype=torch.bool)
        context = model.observe(past, batch["action"][:, : history - 1], valid)
        plans = batch["action"][:, None, history - 1 : history + 3]
        planned = model.imagine(context, plans).view("pooled")[:, 0]
        torch.testing.assert_close(path.squeeze(2), planned, atol=1e-4, rtol=1e-4)
        elsewhere = {**batch, "scene": batch["scene"].clone()}
        elsewhere["scene"][:, history - 1] = batch["scene"][:, history - 1].flip(-1)
        assert not torch.allclose(stage.imagine(elsewhere, features, states, history), path)
    with pytest.raises(ValueError, match=r"dynamics.scene=true .* dynamics.space=pooled"):
        dynamics("tokens", scene=True)


@pytest.mark.parametrize(("space", "target"), ALL)
def test_every_view_on_offer_has_the_axes_of_the_protocol(space, target):
    model = dynamics(space, target)
    shapes = {"pooled": (12,), "reach": (5,), "tokens": (16, 24), "pixels": (64, 64, 3)}
    imagined = model.imagine(observed(model), torch.zeros(2, 5, 4, 2))
    goal = model.encode_goal(frames(2))
    for name in model.spec.views:
        assert imagined.view(name).shape == (2, 5, 4, *shapes[name]), name
        assert goal.view(name).shape == (2, *shapes[name]), name
        assert goal.select(slice(1, 2)).view(name).shape == (1, *shapes[name])
    assert model.imagine(observed(model), torch.zeros(2, 5, 4, 2), keep="last").view("pooled").shape == (
        2,
        5,
        1,
        12,
    )
    with pytest.raises(ValueError, match="not offered"):
        goal.view("sound")


def test_a_goal_seen_and_a_frame_observed_lie_in_one_space():
    model = dynamics()
    context = model.observe(frames(2, 3), torch.zeros(2, 2, 2), torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(
        model.encode_goal(frames(2, 3)[:, -1]).view("pooled"), context.last_BNF[:, 0], atol=1e-5, rtol=1e-4
    )


def test_actions_are_normalised_by_their_bounds():
    model = dynamics()
    torch.testing.assert_close(
        model.normalise_actions(torch.tensor([[1.0, 4.0], [-1.0, 0.0], [0.0, 2.0]])),
        torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]]),
    )
    assert dynamics(frame_skip=3).spec.action_low == (-1.0, 0.0) * 3


def test_one_common_scale_keeps_the_order_of_distances():
    model = dynamics()
    features = torch.randn(100, 1, 12) * torch.linspace(0.1, 3, 12) + 5
    model.features.set_statistics(lambda name: features[None])
    normalised = model.features.normalise(features)[:, 0]
    torch.testing.assert_close(normalised.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    ratio = torch.pdist(normalised) / torch.pdist(features[:, 0])
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=1e-4, rtol=1e-3)


def test_predicted_pixels_reach_the_encoder_for_a_feature_cost():
    model = dynamics(target="pixels")
    imagined = model.imagine(observed(model), torch.zeros(2, 1, 4, 2))
    pixels = imagined.view("pixels")
    assert pixels.min() >= 0 and pixels.max() <= 255
    goal, ours = model.encode_goal(pixels[1, 0, 3][None]), pixels[1, 0, 3][None, None]
    for view in ("pooled", "tokens"):
        torch.testing.assert_close(imagined.view(view)[1, 0, 3], goal.view(view)[0], atol=1e-4, rtol=1e-4)
    tokens = normalise_tokens(model.encoder.encode_frames(ours))[0, 0]
    torch.testing.assert_close(imagined.view("tokens")[1, 0, 3], tokens, atol=1e-4, rtol=1e-4)


def test_pixels_by_one_linear_map_of_each_token_have_no_bottleneck():
    """Blocks of pixels of a patch depend on its token alone, and on all of its channels."""
    model = dynamics("tokens")
    head = PixelHead(24, model.encoder.config, False, PixelHeadConfig(None))
    assert [tuple(p.shape) for p in head.parameters()] == [(3 * 16 * 16, 24), (3 * 16 * 16,)]
    tokens = torch.randn(16, 24)
    painted = head(tokens)
    tokens[6] += 1  # second row, third column of patches
    changed = (head(tokens) != painted).any(-1)
    assert changed[16:32, 32:48].all() and changed.sum() == 16 * 16
    with pytest.raises(ValueError, match="channels=null paints each token by itself: it needs space=tokens"):
        DynamicsConfig(pixels=PixelHeadConfig(None))
    with pytest.raises(ValueError, match="channels=null paints tokens, and this objective predicts one embedding"):
        FutureConfig(pixels=PixelHeadConfig(None), terms=FutureTerms())


@pytest.mark.parametrize("space", ["pooled", "tokens"])
def test_a_decoder_shows_what_is_imagined_and_changes_nothing_else(space):
    plain = dynamics(space)
    model = LatentDynamics(
        replace(plain.config, decoder=DecoderConfig(8, 32, steps=200, lr=0.01)), plain.encoder, plain.actions
    )
    model.load_state_dict(plain.state_dict(), strict=False)
    model.eval()
    head, clip = model.output.decoder, moving_squares(4, 6)
    assert not any(parameter.requires_grad for parameter in head.parameters())
    features = model.features.normalise(model.read(clip)["features"]).flatten(0, 1)
    pixels = model.encoder.normalise(clip).movedim(1, -1).flatten(0, 1)
    before = measure_decoder(head, features, pixels)
    head.requires_grad_(True)
    fit_decoder(head, lambda generator, count: (features, pixels), model.config.decoder, 0)
    assert measure_decoder(head, features, pixels) > max(0.2, before + 0.5)
    actions = torch.rand(2, 3, 4, 2)
    imagined, without = (some.imagine(observed(some), actions) for some in (model, plain))
    assert torch.equal(imagined.view("pooled"), without.view("pooled"))
    shown = imagined.view("pixels")
    assert shown.shape == (2, 3, 4, 64, 64, 3) and shown.min() >= 0 and shown.max() <= 255
    goal = model.encode_goal(clip[:2, 0])
    assert torch.equal(goal.view("pixels"), clip[:2, 0].float())
    assert GoalCost(view="pixels")(imagined, goal, actions).shape == (2, 3)
    assert set(model.spec.views) - set(plain.spec.views) == {"pixels"}


def test_a_model_of_pixels_needs_no_decoder():
    with pytest.raises(ValueError, match="dynamics.decoder is for models without pixels"):
        DynamicsConfig(pixels=PixelHeadConfig(), decoder=DecoderConfig())


def test_the_rollout_loss_trains_every_length_of_history():
    model = dynamics()
    stage, batch = (
        PosttrainModel(model, PosttrainConfig(teacher_forcing=0, rollout_steps=2)),
        batch_for(model),
    )
    losses = [stage.loss(batch, step)[0].item() for step in range(4)]
    assert len({round(value, 6) for value in losses[:3]}) == 3 and losses[3] == losses[0]


def test_the_layout_of_vjepa2_ac_feeds_back_layer_normed_tokens_and_raw_inputs():
    """arXiv 2506.09985, section 3: outputs are the next tokens, layer-normed; both losses are of these."""
    made = dynamics("tokens")
    config = replace(made.config, outputs="normed", inputs="raw", reach=None)
    model = LatentDynamics(config, made.encoder, ActionSpec((-2.0, 0.0), (2.0, 4.0))).eval()
    shake(model.predictor)
    stage, batch = PosttrainModel(model, PosttrainConfig("l1", rollout_steps=2, rollout_history=1)), batch_for(model)
    model.features.set_statistics(lambda name: batch[name])
    features, actions = batch["features"], batch["action"]
    torch.testing.assert_close(features.mean(-1), torch.zeros(features.shape[:-1]), atol=1e-5, rtol=0)
    plain = copy.deepcopy(model.predictor)
    plain.outputs = "features"
    forced = normalise_tokens(plain(features[:, :-1], actions))
    second = normalise_tokens(plain(torch.stack((features[:, 0], forced[:, 0]), 1), actions[:, :2])[:, 1])
    path = torch.stack((forced[:, 0], second), 1)
    _, terms = stage.loss(batch, 0)
    torch.testing.assert_close(terms["teacher_forcing"], (forced - features[:, 1:]).abs().mean())
    torch.testing.assert_close(terms["rollout"], (path - features[:, 1:3]).abs().mean())
    context = model.observe(batch["pixels"][:, :1], actions[:, :0], torch.ones(4, 1, dtype=torch.bool))
    imagined = model.imagine(context, actions[:, None, :2]).view("tokens")[:, 0]
    torch.testing.assert_close(imagined, path, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("other", [{"space": "pooled"}, {"pixels": PixelHeadConfig(16, 128)}])
def test_normed_outputs_are_of_tokens(other):
    with pytest.raises(ValueError, match="dynamics.outputs=normed is for patch tokens"):
        DynamicsConfig(**{"space": "tokens", "outputs": "normed", **other})


def test_errors_by_horizon_stand_beside_copying_the_last_frame():
    model = dynamics()
    stage, batch = PosttrainModel(model, PosttrainConfig(rollout_steps=4)), batch_for(model)
    errors = stage.measure_error_by_horizon(batch)
    features = model.features.normalise(batch["features"])
    expected = [(features[:, 2] - features[:, 3 + k]).square().mean().item() for k in range(4)]
    assert errors["copy"] == pytest.approx(expected, rel=1e-5)
    assert len(errors["predicted"]) == 4
