"""Random appearances: what they change, what they keep, and that they depend on the draw alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.world_model.small import FUTURE, encoder, frames
from world_model.distributed import WorldInfo
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.appearance import AppearanceConfig, change_appearance, draw_patterns, move_camera

NONE = AppearanceConfig(mix=0.0, shift=0.0, overlay=0.0, patterns=0.0, move=0.0, turn=0.0, zoom=0.0)
DRAWS = torch.arange(4)


def test_without_strength_frames_stay_as_they_are():
    clips = frames(4, 3)
    torch.testing.assert_close(change_appearance(clips, DRAWS, 0, NONE), clips.float(), atol=1e-3, rtol=0)


def test_a_shift_is_the_same_for_all_pixels_and_frames_of_a_clip():
    clips = torch.full((4, 3, 8, 8, 3), 128)
    shift = change_appearance(clips, DRAWS, 0, replace(NONE, shift=40.0)) - 128
    assert shift.std((1, 2, 3)).max() < 1e-3
    assert shift.abs().max() <= 40 and shift[:, 0, 0, 0].std(0).min() > 1  # clips and channels differ


def test_an_overlay_adds_the_same_still_picture_to_every_frame():
    clips = frames(4, 3).float()
    changed = change_appearance(clips, DRAWS, 0, replace(NONE, overlay=0.5))
    for clip, other in ((0, 1), (1, 0), (2, 3), (3, 2)):
        added = (changed[clip] - clips[clip]) / (clips[other, 0] - clips[clip])
        share = added.nanmedian()
        assert 0 < share < 0.5
        torch.testing.assert_close(changed[clip], clips[clip].lerp(clips[other, 0], share), atol=0.1, rtol=0)


def test_an_overlaid_pattern_is_still_and_comes_from_no_other_clip():
    clips = frames(4, 3).float()
    config = replace(NONE, overlay=0.5, patterns=1.0)
    changed = change_appearance(clips, DRAWS, 0, config)
    assert (changed - clips).abs().amax((1, 2, 3, 4)).min() > 1
    alone = torch.cat([change_appearance(clips[i : i + 1], DRAWS[i : i + 1], 0, config) for i in range(4)])
    torch.testing.assert_close(changed, alone)
    share = 1 - (changed[:, 1] - changed[:, 0]).abs().sum((1, 2, 3)) / (clips[:, 1] - clips[:, 0]).abs().sum((1, 2, 3))
    pictures = clips + (changed - clips) / share[:, None, None, None, None]
    torch.testing.assert_close(pictures[:, 0], pictures[:, 2], atol=0.5, rtol=0)  # the same in every frame
    assert pictures.min() > -1 and pictures.max() < 256


def test_some_overlays_are_patterns_and_the_others_frames():
    clips = frames(64, 2).float()
    draws, overlay = torch.arange(64), replace(NONE, overlay=0.5)
    of_frames = change_appearance(clips, draws, 0, overlay)
    mixed = change_appearance(clips, draws, 0, replace(overlay, patterns=0.5))
    of_patterns = change_appearance(clips, draws, 0, replace(overlay, patterns=1.0))
    is_frame = (mixed == of_frames).flatten(1).all(1)
    is_pattern = (mixed == of_patterns).flatten(1).all(1)
    assert (is_frame ^ is_pattern).all() and 16 < is_frame.sum() < 48


def test_a_pattern_is_shaded_between_two_colours():
    patterns = draw_patterns(torch.rand(8, 19, generator=torch.Generator().manual_seed(0)), (32, 32))
    assert patterns.shape == (8, 32, 32, 3) and 0 <= patterns.min() and patterns.max() <= 255
    spread = torch.linalg.svdvals((patterns - patterns.mean((1, 2), keepdim=True)).flatten(1, 2))
    assert (spread[:, 0] > 1).all() and (spread[:, 1] < 1e-3 * spread[:, 0]).all()  # one line in colour space


def test_a_camera_moves_by_the_drawn_shift_and_turns_about_the_middle():
    clips = torch.zeros(2, 2, 64, 64, 3)
    clips[:, :, 30:34, 44:48] = 255.0  # right of the middle

    def find_spot(moved):
        weights = moved[0, 1, ..., 0] / moved[0, 1, ..., 0].sum()
        side = torch.arange(64.0)
        return (weights.sum(1) @ side).item(), (weights.sum(0) @ side).item()

    shifted = move_camera(clips, torch.tensor([[0.5, -1.0, 0.0, 0.0]] * 2), replace(NONE, move=0.125))
    assert find_spot(shifted) == pytest.approx((31.5 + 8, 45.5 - 4), abs=0.1)
    turned = move_camera(clips, torch.tensor([[0.0, 0.0, 1.0, 0.0]] * 2), replace(NONE, turn=torch.pi / 2))
    assert find_spot(turned) == pytest.approx((31.5 - 14, 31.5), abs=0.1)
    zoomed = move_camera(clips, torch.tensor([[0.0, 0.0, 0.0, 1.0]] * 2), replace(NONE, zoom=0.4))
    assert find_spot(zoomed) == pytest.approx((31.5, 31.5 + 10), abs=0.1)
    torch.testing.assert_close(move_camera(clips, torch.zeros(2, 4), replace(NONE, move=0.5)), clips, atol=0.1, rtol=0)


def test_appearances_are_functions_of_seed_and_draw_and_processes_share_them():
    clips, strong = frames(4, 3), AppearanceConfig()
    full = change_appearance(clips, DRAWS, 0, strong)
    halves = [change_appearance(clips[half], DRAWS[half], 0, strong) for half in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(torch.cat(halves), full)
    assert not torch.allclose(change_appearance(clips, DRAWS, 1, strong), full, atol=5)
    assert not torch.allclose(change_appearance(clips, DRAWS + 4, 0, strong), full, atol=5)


def test_context_and_target_are_seen_in_two_appearances_anew_at_every_step():
    objective = PretrainModel(encoder(), replace(FUTURE, views=AppearanceConfig()), 1).objective
    clips, alone = frames(4, 5), WorldInfo(0, 1)
    first, second = objective.draw_views(clips, 0, alone)
    assert (first - second).abs().mean() > 10
    later = objective.draw_views(clips, 1, alone)[0]
    assert (first - later).abs().mean() > 10 and (second - later).abs().mean() > 10
    shared = [objective.draw_views(clips[2 * rank :][:2], 0, WorldInfo(rank, 2)) for rank in range(2)]
    torch.testing.assert_close(torch.cat([views[1] for views in shared]), second)


def test_a_prediction_is_compared_with_the_other_appearance():
    batch = {"pixels": frames(4, 5)}
    model = PretrainModel(encoder(), replace(FUTURE, views=AppearanceConfig()), 1)
    plain = PretrainModel(encoder(), FUTURE, 1)
    plain.objective.load_state_dict(model.objective.state_dict())
    target = model.objective.draw_views(batch["pixels"], 0, WorldInfo(0, 1))[1]
    expected = plain.objective.predict(plain.encoder, {"pixels": target}, 0).targets[0]
    torch.testing.assert_close(model.objective.predict(model.encoder, batch, 0).targets[0], expected)
    model.loss(batch, 0)[0].backward()
    assert model.encoder.pool.out.weight.grad.abs().max() > 0


@pytest.mark.parametrize("rollout", [1, 2])
def test_a_constant_between_two_appearances_counts_as_much_as_the_shared_error_says(rollout, monkeypatch):
    def lose(config, shift_B1D):
        objective = PretrainModel(encoder(), config, 1).objective
        with monkeypatch.context() as patch:
            plain = objective.embed_targets
            patch.setattr(objective, "embed_targets", lambda *given: plain(*given) + shift_B1D)
            return objective.predict(encoder(), {"pixels": frames(4, 6)}, 0).terms

    terms = replace(FUTURE.terms, contrast=1.0)
    plain = replace(FUTURE, frames=6, rollout=rollout, views=AppearanceConfig(), terms=terms)
    centred = replace(plain, shared_error=0.0)
    torch.manual_seed(0)
    still = torch.zeros(4, 1, 12)
    constant = torch.randn(4, 1, 12)
    moving = torch.randn(4, 6, 12)
    expected = lose(centred, still)["prediction"]
    torch.testing.assert_close(lose(centred, constant)["prediction"], expected)
    assert not torch.isclose(lose(centred, moving)["prediction"], expected, rtol=0.05)
    assert not torch.isclose(lose(plain, constant)["prediction"], lose(plain, still)["prediction"], rtol=0.05)
    if rollout == 1:  # otherwise clips of two lengths share one mean
        half = replace(plain, shared_error=0.5)
        means = [lose(config, constant)["prediction"] for config in (centred, half, plain)]
        torch.testing.assert_close(means[1], (means[0] + means[2]) / 2)
    for shift in (still, constant):
        torch.testing.assert_close(lose(centred, shift)["contrast"], lose(plain, shift)["contrast"])
