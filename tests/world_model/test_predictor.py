"""Action-conditioned predictors: causality, caches, padding."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from tests.world_model.small import PREDICTOR, shake
from world_model.predictor import ActionPredictor, PredictorConfig

CONDITIONINGS = ["tokens", "adaln", "adaln_lewm"]
SCENE = (5, (2, 3))  # numbers of a patch, and the grid


def predictor(
    grid: tuple[int, int], action_dim: int = 2, conditioning: str = "tokens", scene: bool = False
) -> ActionPredictor:
    torch.manual_seed(0)
    config = replace(PREDICTOR, conditioning=conditioning, head_dim=20 if conditioning == "adaln_lewm" else None)
    model = ActionPredictor(12, grid, action_dim, config, scene=SCENE if scene else None)
    shake(model)
    return model.eval()


@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
def test_later_frames_do_not_change_earlier_predictions(grid):
    model, tokens = predictor(grid), grid[0] * grid[1]
    features, actions = torch.randn(2, 5, tokens, 12), torch.randn(2, 5, 2)
    torch.testing.assert_close(
        model(features, actions)[:, :3], model(features[:, :3], actions[:, :3]), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_cached_rollout_equals_recomputing_everything(grid, history, conditioning):
    model, tokens = predictor(grid, conditioning=conditioning), grid[0] * grid[1]
    features, past_actions = torch.randn(2, history, tokens, 12), torch.randn(2, history - 1, 2)
    plans = torch.randn(2, 3, 4, 2)
    with torch.no_grad():
        past = model.prefill(features[:, :-1], past_actions, torch.ones(2, history - 1, dtype=torch.bool))
        cached = model.rollout(past, features[:, -1], plans)
        for candidate in range(3):
            seen = features
            for step in range(4):
                actions = torch.cat((past_actions, plans[:, candidate, : step + 1]), 1)
                seen = torch.cat((seen, model(seen, actions)[:, -1:]), 1)
            torch.testing.assert_close(cached[:, candidate], seen[:, history:], atol=1e-4, rtol=1e-4)


def test_a_rollout_with_gradients_equals_one_without():
    model = predictor((2, 2))
    features, plans = torch.randn(1, 2, 4, 12), torch.randn(1, 2, 3, 2, requires_grad=True)
    valid = torch.ones(1, 1, dtype=torch.bool)
    past = model.prefill(features[:, :1], torch.zeros(1, 1, 2), valid)
    found = model.rollout(past, features[:, 1], plans)
    found.square().sum().backward()
    assert plans.grad is not None and plans.grad.abs().amin() > 0
    with torch.no_grad():
        torch.testing.assert_close(found, model.rollout(past, features[:, 1], plans))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_rollout_gives_the_same_path_and_gradients():
    model = predictor((1, 1), conditioning="adaln")
    features, plans = torch.randn(2, 2, 1, 12), torch.randn(2, 3, 2, 2, requires_grad=True)
    past = model.prefill(features[:, :1], torch.zeros(2, 1, 2), torch.ones(2, 1, dtype=torch.bool))
    found = []
    for compiled in (False, True):
        model.predictor_blocks.compiled = compiled
        path = model.rollout(past, features[:, 1], plans)
        found.append((path, torch.autograd.grad(path.square().sum(), plans)))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_padding_before_a_short_history_changes_nothing():
    model = predictor((1, 1))
    features, actions, plans = torch.randn(1, 2, 1, 12), torch.randn(1, 1, 2), torch.randn(1, 2, 3, 2)
    short = model.rollout(
        model.prefill(features[:, :1], actions, torch.ones(1, 1, dtype=torch.bool)), features[:, 1], plans
    )
    padded = torch.cat((torch.full((1, 2, 1, 12), 9.0), features), 1)
    padded_actions = torch.cat((torch.full((1, 2, 2), 9.0), actions), 1)
    valid = torch.tensor([[False, False, True]])
    long = model.rollout(model.prefill(padded[:, :3], padded_actions, valid), padded[:, 3], plans)
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_actions_matter_and_are_needed(conditioning):
    model = predictor((1, 1), conditioning=conditioning)
    features = torch.randn(1, 2, 1, 12)
    assert not torch.allclose(model(features, torch.zeros(1, 2, 2)), model(features, torch.ones(1, 2, 2)))
    with pytest.raises(AssertionError):
        model(features, None)


def test_without_actions_it_predicts_the_future_alone():
    model = predictor((1, 1), action_dim=0)
    assert model(torch.randn(3, 2, 1, 12)).shape == (3, 2, 1, 12)
    assert not any("action" in name for name in model.state_dict())


def test_states_and_extrinsics_are_further_tokens_of_their_frame():
    torch.manual_seed(0)
    model = ActionPredictor(12, (2, 2), 2, PREDICTOR, "features", state_dim=3, extrinsics_dim=6)
    shake(model)
    assert model.block_tokens == 7 and model.num_conditions == 3
    features, rows = torch.randn(1, 3, 4, 12), torch.randn(1, 3, 11)
    found = model(features, rows)
    for part in (slice(0, 2), slice(2, 5), slice(5, 11)):
        changed = rows.clone()
        changed[:, 1, part] += 1
        other = model(features, changed)
        torch.testing.assert_close(found[:, 0], other[:, 0])
        assert not torch.allclose(found[:, 1], other[:, 1])


def test_dropout_acts_while_training_alone():
    torch.manual_seed(0)
    model = ActionPredictor(12, (1, 1), 2, replace(PREDICTOR, dropout=0.5))
    shake(model)
    features, rows = torch.randn(1, 3, 1, 12), torch.randn(1, 3, 2)
    assert not torch.allclose(model(features, rows), model(features, rows))
    model.eval()
    torch.testing.assert_close(model(features, rows), model(features, rows))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_cached_rollout_with_a_scene_equals_recomputing_everything(conditioning):
    model = predictor((1, 1), conditioning=conditioning, scene=True)
    start, plans, scene = torch.randn(2, 1, 1, 12), torch.randn(2, 3, 4, 2), torch.randn(2, 6, 5)
    with torch.no_grad():
        cached = model.rollout(model.prefill(start[:, :0], plans[:, 0, :0], scene_BMD=scene), start[:, 0], plans)
        for candidate in range(3):
            seen = start
            for step in range(4):
                seen = torch.cat((seen, model(seen, plans[:, candidate, : step + 1], scene_BMD=scene)[:, -1:]), 1)
            torch.testing.assert_close(cached[:, candidate], seen[:, 1:], atol=1e-4, rtol=1e-4)


def test_padding_changes_nothing_beside_a_scene():
    model = predictor((1, 1), scene=True)
    features, actions, plans = torch.randn(1, 2, 1, 12), torch.randn(1, 1, 2), torch.randn(1, 2, 3, 2)
    scene = torch.randn(1, 6, 5)
    short = model.rollout(model.prefill(features[:, :1], actions, scene_BMD=scene), features[:, 1], plans)
    padded = torch.cat((torch.full((1, 1, 1, 12), 9.0), features[:, :1]), 1)
    padded_actions = torch.cat((torch.full((1, 1, 2), 9.0), actions), 1)
    past = model.prefill(padded, padded_actions, torch.tensor([[False, True]]), scene)
    torch.testing.assert_close(short, model.rollout(past, features[:, 1], plans), atol=1e-5, rtol=1e-5)


def test_every_patch_of_a_scene_and_its_place_matter():
    model, features, actions = predictor((1, 1), scene=True), torch.randn(1, 2, 1, 12), torch.randn(1, 2, 2)
    scene = torch.randn(1, 6, 5)
    as_it_is = model(features, actions, scene_BMD=scene)
    for patch in range(6):
        other = scene.clone()
        other[:, patch] += 1
        assert (model(features, actions, scene_BMD=other) - as_it_is).abs().amin((0, 2, 3)).min() > 1e-6
    assert not torch.allclose(model(features, actions, scene_BMD=scene.flip(1)), as_it_is)
    with pytest.raises(AssertionError, match="scene"):
        model(features, actions)


def test_attention_may_be_wider_than_the_model():
    config = PredictorConfig(width=10, depth=1, heads=4, head_dim=6, conditioning="adaln_lewm")
    model = ActionPredictor(12, (1, 1), 2, config)
    block = model.predictor_blocks[0]
    assert block.attn.qkv.weight.shape == (72, 10) and block.attn.proj.weight.shape == (10, 24)
    assert model(torch.randn(2, 3, 1, 12), torch.randn(2, 3, 2)).shape == (2, 3, 1, 12)
    with pytest.raises(ValueError, match="head_dim=5 is odd: give an even number"):
        PredictorConfig(head_dim=5)


@pytest.mark.parametrize(("width", "heads"), [(10, 4), (12, 4), (96, 5)])
def test_heads_that_do_not_divide_the_width_are_refused(width, heads):
    with pytest.raises(ValueError, match=f"predictor: heads={heads} does not divide width={width}"):
        PredictorConfig(width=width, heads=heads)
